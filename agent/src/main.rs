//! The binary `orch-agent`; everything is in the library, so that other programs can be it too.

use std::process::ExitCode;

fn main() -> ExitCode {
    orch_agent::main_with_args(std::env::args_os())
}
