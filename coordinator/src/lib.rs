//! The coordinator of orch: keeps the queue, decides through [`orch_core`], and serves gRPC over mTLS.
//!
//! One rule above all: nothing leaves before it is durable. The [`engine`] keeps it; everything else hands events to the
//! engine and carries out what comes back.

pub mod blobs;
pub mod check;
pub mod clock;
pub mod config;
pub mod context;
pub mod director;
pub mod engine;
pub mod events;
mod failpoint;
pub mod http;
pub mod ledger;
pub mod limits;
pub mod material;
pub mod metrics;
pub mod payloads;
pub mod persist;
pub mod planning;
pub mod presence;
pub mod prices;
pub mod prompts;
pub mod retention;
pub mod rpc;
pub mod serve;
pub mod storage;
pub mod store;
pub mod submission;
pub mod telemetry;
pub mod transcripts;
pub mod workers;
pub mod workflows;

/// The allocator for programs that hold a coordinator. A big submit takes ten times its bytes for a second, and what lives on
/// is scattered among that: this one keeps sizes apart, so that whole pages are free afterwards, and with
/// `MIMALLOC_PURGE_DELAY=0` in its environment gives them back to the system at once.
pub use mimalloc::MiMalloc as Allocator;

use clap::Parser as _;
use config::{Cli, Command, Config, ConfigCommand};
use serve::again::{Ended, Program};
use std::ffi::OsString;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

/// What blocks a thread at the end is waited for this long.
const READERS_LIMIT: Duration = Duration::from_millis(500);

/// Arms the places that `FAILPOINTS` in the environment names, until what is returned is dropped: for tests that use parts
/// of this crate without its program, which does it by itself. Without debug assertions there are none.
#[cfg(feature = "failpoints")]
#[must_use]
pub fn arm_failpoints() -> impl Sized {
    #[cfg(debug_assertions)]
    failpoint::armed::arm()
}

/// The whole program `orchd`. `args` begins with the program's name.
pub fn main_with_args(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    #[cfg(all(feature = "failpoints", debug_assertions))]
    let _failpoints = failpoint::armed::arm();
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(refusal) => {
            // Where help cannot be written, nothing can.
            let _ = refusal.print();
            return ExitCode::from(u8::try_from(refusal.exit_code()).unwrap_or(2));
        }
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say_failure(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let config = Config::resolve(cli.flags)?;
    match cli.command {
        Some(Command::Config(ConfigCommand::Check)) => {
            say(&config.describe());
            // A price file that will not do is one of the problems below.
            let prices = prices::PriceList::load(config.prices.as_deref()).unwrap_or_default();
            for doubt in limits::doubts(&config.pools, &prices.prices) {
                say(&format!("warning: {doubt}\n"));
            }
            let problems = check::problems(&config, SystemTime::now());
            anyhow::ensure!(problems.is_empty(), "these settings will not do:\n  {}", problems.join("\n  "));
            return Ok(());
        }
        Some(Command::Storage(command)) => {
            let _filter = telemetry::start(&config.log)?;
            say(&storage::offline::run(&command, &config, SystemTime::now())?);
            return Ok(());
        }
        Some(Command::Healthcheck) => return http::check(config.probe),
        None => {}
    }
    orch_certs::install_ring();
    let filter = telemetry::start(&config.log)?;
    let program = Program::hold();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let served = runtime.block_on(serve::serve(config, filter));
    // Threads that read for somebody who is gone must not keep the process.
    runtime.shutdown_timeout(READERS_LIMIT);
    match served? {
        Ended::ForGood => Ok(()),
        Ended::Again(grpc, probe) => {
            let error = program.map_or_else(|error| error, |program| program.start_again((grpc, probe)));
            Err(anyhow::Error::new(error)
                .context("cannot start anew; start orchd again, everything is on disk"))
        }
    }
}

#[expect(clippy::print_stdout, reason = "what was asked for on the command line")]
fn say(text: &str) {
    print!("{text}");
}

#[expect(clippy::print_stderr, reason = "logging may not have begun when this is said")]
fn say_failure(error: &anyhow::Error) {
    eprintln!("orchd: {error:#}");
    if let Some(code) = storage::code_of(error) {
        eprintln!("orchd: {}: {}", code.code(), code.help());
    }
}
