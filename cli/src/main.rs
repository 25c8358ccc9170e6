//! The binary `orchctl`: everything is in the library, so that tests and other binaries can run the same code.

use std::process::ExitCode;

fn main() -> ExitCode {
    orchctl::main_with_args(std::env::args_os())
}
