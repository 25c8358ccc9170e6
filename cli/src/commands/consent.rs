//! Contexts with `confirm = "write"`: whoever set that wants to be asked before anything changes there.
//! Knows which commands change something; what they change is theirs to know.

use crate::args::Command;
use crate::args::fleet::{AgentsCommand, WorkersCommand};
use crate::args::money::BudgetsCommand;
use crate::args::workflows::WorkflowsCommand;
use crate::ask::agreed;
use crate::failure::Outcome;
use crate::output::safe::one_line;
use crate::session::Session;

/// Longest name or address told.
const TOLD: usize = 200;

/// Asks if the context wants it; true if the command may go on.
///
/// # Errors
/// Nobody can be asked.
pub(crate) fn given(session: &Session, command: &Command) -> Outcome<bool> {
    if !writes(command) {
        return Ok(true);
    }
    // Where no context can be found, the command will say why.
    let Some(context) = session.context().ok().filter(|context| context.confirm) else { return Ok(true) };
    let name = one_line(context.name.as_deref().unwrap_or(&context.endpoint), TOLD);
    let question = format!("This changes {name} ({}). Go on?", one_line(&context.endpoint, TOLD));
    agreed(&session.out, &question, &format!("the context {name} asks before every change"))
}

/// Whether a command changes something at the coordinator.
fn writes(command: &Command) -> bool {
    match command {
        Command::Submit(args) => !args.what.dry_run,
        Command::Run(args) => !args.what.dry_run,
        Command::Cancel(_) | Command::Retry(_) | Command::Bench(_) => true,
        Command::Approve(_) | Command::Reject(_) | Command::Edit(_) | Command::Bridge(_) => true,
        Command::Agents(args) => match &args.command {
            Some(
                AgentsCommand::Drain(_)
                | AgentsCommand::Resume(_)
                | AgentsCommand::Label(_)
                | AgentsCommand::Remove(_)
                | AgentsCommand::Test(_),
            ) => true,
            Some(AgentsCommand::List(_) | AgentsCommand::Show(_) | AgentsCommand::ScaleHint) | None => false,
        },
        Command::Admin(args) => args.writes(),
        Command::Budgets(args) => {
            matches!(&args.command, Some(BudgetsCommand::Set(_) | BudgetsCommand::Remove(_)))
        }
        Command::Workflows(args) => {
            matches!(&args.command, Some(WorkflowsCommand::Run(args)) if !args.how.dry_run)
        }
        Command::Batch(args) => !args.how.dry_run,
        Command::Workers(args) => match &args.command {
            Some(WorkersCommand::Reload) => true,
            Some(WorkersCommand::List | WorkersCommand::Show(_) | WorkersCommand::Validate(_)) | None => {
                false
            }
        },
        #[cfg(feature = "dev")]
        Command::Dev(_) | Command::Demo(_) => false,
        Command::Init(_)
        | Command::Certs(_)
        | Command::Watch(_)
        | Command::Status(_)
        | Command::Ls(_)
        | Command::Logs(_)
        | Command::Result(_)
        | Command::Artifacts(_)
        | Command::Wait(_)
        | Command::Explain(_)
        | Command::Costs(_)
        | Command::Limits(_)
        | Command::Events(_)
        | Command::Doctor(_)
        | Command::Context(_)
        | Command::Config(_)
        | Command::Schema(_)
        | Command::Completions(_)
        | Command::Help(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::args::Cli;

    #[test]
    fn what_changes_something_is_known() {
        let writes = |line: &str| {
            let words = ["orchctl"].into_iter().chain(line.split_whitespace());
            super::writes(&Cli::try_parse_from(words).unwrap().command)
        };
        for line in [
            "submit --runner noop",
            "run --runner noop",
            "cancel a/1",
            "retry a/1",
            "approve a/1",
            "reject a/1",
            "edit a/1",
            "agents drain a",
            "agents remove a",
            "retry --dead --all",
            "admin restore f",
            "admin import f",
            "admin compact",
            "workers reload",
            "budgets set team --usd 5",
            "budgets remove team",
        ] {
            assert!(writes(line), "{line}");
        }
        for line in [
            "submit --runner noop --dry-run",
            "ls",
            "agents",
            "agents show a",
            "admin",
            "admin backup",
            "admin export -",
            "admin restore f --check",
            "workers",
            "watch a/1",
            "logs a/1",
            "costs",
            "budgets --runs",
            "limits",
        ] {
            assert!(!writes(line), "{line}");
        }
    }
}
