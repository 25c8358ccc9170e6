//! The Messages API stand-in as a program.
use std::process::ExitCode;

fn main() -> ExitCode {
    orch_standin::api::main_with_args(std::env::args_os())
}
