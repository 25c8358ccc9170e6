//! The checked-in code is what the `.proto` files and the recipe give.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

#[path = "../codegen.rs"]
mod recipe;

#[test]
fn generated_code_matches_the_proto_files() {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR"));
    let generated = recipe::generate(proto).unwrap();
    let dir = proto.join("src/gen");
    for (name, bytes) in &generated {
        let checked_in = fs::read(dir.join(name)).unwrap_or_default();
        assert!(checked_in == *bytes, "src/gen/{name} is out of date; mend with: cargo xtask codegen");
    }
    let made: BTreeSet<_> = generated.keys().cloned().collect();
    let present: BTreeSet<_> =
        fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(present, made, "src/gen holds other files than are made");
    assert_eq!(orch_proto::FILE_DESCRIPTOR_SET, generated[recipe::DESCRIPTOR_FILE].as_slice());
}
