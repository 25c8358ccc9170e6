//! The coordinator daemon.

#[global_allocator]
static ALLOCATOR: orch_coordinator::Allocator = orch_coordinator::Allocator;

fn main() -> std::process::ExitCode {
    orch_coordinator::main_with_args(std::env::args_os())
}
