//! The coordinator under a name of its own, for tests.

fn main() -> std::process::ExitCode {
    orch_coordinator::main_with_args(std::env::args_os())
}
