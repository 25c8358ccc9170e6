//! What the fuzz targets do with their bytes. Each takes bytes that a stranger, a disk or an older version may have
//! written through the code that reads them, and checks what must hold of whatever comes out: no panic, no reading twice
//! with two meanings. Knows the doors of the other crates; a target in `fuzz_targets/` is one line.

pub mod targets;

mod given;
mod messages;
