//! The scripted CLI as a program.
use std::process::ExitCode;

fn main() -> ExitCode {
    orch_standin::claude::main_with_args(std::env::args_os())
}
