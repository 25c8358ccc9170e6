//! The scripted CLI under a name of its own, for tests.

fn main() -> std::process::ExitCode {
    orch_standin::claude::main_with_args(std::env::args_os())
}
