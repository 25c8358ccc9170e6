//! The commands: one arm, one call. Each file holds one command or a few that belong together.

use std::time::Duration;

use crate::args::Command;
use crate::failure::Outcome;
use crate::session::Session;

mod admin;
mod agents;
mod approval;
mod artifacts;
mod batch;
mod bench;
mod bridge;
mod budgets;
mod bulk;
mod certs;
pub(crate) mod completions;
mod config;
pub(crate) mod consent;
mod context;
mod costs;
pub(crate) mod dead;
mod doctor;
mod events;
mod explain;
mod follow;
mod help;
mod init;
mod limits;
mod list;
mod logs;
mod schema;
mod shown;
mod status;
mod steer;
mod submit;
mod tables;
mod watching;
mod workers;
mod workflows;

/// Runs a command to its exit code. `timeout` is for commands that have to clean up before they end.
pub(crate) async fn run(session: &Session, command: Command, timeout: Option<Duration>) -> Outcome {
    #[cfg(not(feature = "dev"))]
    let _ = timeout;

    match command {
        #[cfg(feature = "dev")]
        Command::Dev(args) => crate::dev::run(&session.out, args, timeout).await,
        #[cfg(feature = "dev")]
        Command::Demo(args) => crate::demo::run(&session.out, args, timeout).await,
        Command::Init(args) => init::run(&session.out, &args),
        Command::Certs(command) => certs::run(&session.out, command),
        Command::Submit(args) => submit::submit(session, *args).await,
        Command::Run(args) => submit::run(session, *args).await,
        Command::Watch(args) => follow::watch(session, args).await,
        Command::Status(args) => status::run(session, args).await,
        Command::Ls(args) => list::run(session, args).await,
        Command::Logs(args) => logs::run(session, args).await,
        Command::Result(args) => follow::result(session, args).await,
        Command::Artifacts(args) => artifacts::run(session, args).await,
        Command::Approve(args) => approval::approve(session, args).await,
        Command::Reject(args) => approval::reject(session, args).await,
        Command::Edit(args) => approval::edit(session, args).await,
        Command::Wait(args) => follow::wait(session, args).await,
        Command::Workflows(args) => workflows::run(session, args).await,
        Command::Batch(args) => batch::run(session, *args).await,
        Command::Bridge(args) => bridge::run(session, args).await,
        Command::Cancel(args) => steer::cancel(session, args).await,
        Command::Retry(args) => steer::retry(session, args).await,
        Command::Explain(args) => explain::run(session, args).await,
        Command::Costs(args) => costs::run(session, args).await,
        Command::Budgets(args) => budgets::run(session, args).await,
        Command::Limits(args) => limits::run(session, args).await,
        Command::Agents(args) => agents::run(session, args).await,
        Command::Workers(args) => workers::run(session, args).await,
        Command::Events(args) => events::run(session, args).await,
        Command::Doctor(_) => doctor::run(session).await,
        Command::Bench(args) => bench::run(session, args).await,
        Command::Admin(args) => admin::run(session, args).await,
        Command::Context(args) => context::run(session, args),
        Command::Config(args) => config::run(session, args),
        Command::Schema(args) => schema::run(session, args),
        Command::Completions(args) => completions::run(session, &args),
        Command::Help(args) => help::run(session, &args),
    }
}

#[cfg(test)]
mod tests;
