//! The command line under a name of its own, for tests.

fn main() -> std::process::ExitCode {
    orchctl::main_with_args(std::env::args_os())
}
