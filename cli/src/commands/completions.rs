//! `completions`: scripts that ask this program for every word, so that they fit it whatever its version; and the
//! answers. Names of runs, agents and workers come from the coordinator if it is quick; if it is not there, nothing is
//! said: somebody is in the middle of a line.

use std::ffi::OsString;
use std::time::Duration;

use clap::{Arg, CommandFactory, Parser};
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use clap_complete::env::{CompleteEnv, Shells};

use crate::args::Cli;
use crate::args::local::{CompletionsArgs, Shell};
use crate::client::Client;
use crate::config;
use crate::exit;
use crate::failure::{Failure, Outcome};
use crate::output::safe::safe;
use crate::session::Session;
use crate::settings::Settings;

/// Variable by which a script asks for words.
const ASKS: &str = "ORCHCTL_COMPLETE";
/// Longest wait for names: more would be felt between two key strokes.
const LIMIT: Duration = Duration::from_millis(150);
/// Verbosity that leaves nothing but errors.
const SILENT: i8 = -2;
/// Most runs offered, the newest ones.
const RUNS: usize = 50;

/// `orchctl completions`.
pub(crate) fn run(session: &Session, args: &CompletionsArgs) -> Outcome {
    let name = match args.shell {
        Shell::Bash => "bash",
        Shell::Zsh => "zsh",
        Shell::Fish => "fish",
        Shell::Elvish => "elvish",
        Shell::Powershell => "powershell",
    };
    let bug = |error: &dyn std::fmt::Display| Failure::new(exit::BUG, "cannot write the script").cause(error);
    let shells = Shells::builtins();
    let shell = shells.completer(name).ok_or_else(|| bug(&"the shell is not known"))?;
    let mut script = Vec::new();
    shell
        .write_registration(ASKS, "orchctl", "orchctl", &program(), &mut script)
        .map_err(|error| bug(&error))?;
    session.out.bytes(&script)?;
    Ok(exit::DONE)
}

/// How the script calls this program: as it was called, but so that it is found from everywhere.
fn program() -> String {
    let called = std::env::args_os().next().unwrap_or_else(|| "orchctl".into());
    let path = std::path::Path::new(&called);
    let path = if path.components().count() > 1 { std::path::absolute(path).ok() } else { None };
    path.map_or_else(|| called.to_string_lossy().into_owned(), |path| path.display().to_string())
}

/// Answers a script, if one asks: the exit code of the process then.
pub(crate) fn answer(args: &[OsString]) -> Option<u8> {
    std::env::var_os(ASKS).filter(|shell| !shell.is_empty())?;
    let cwd = std::env::current_dir().ok();
    let answered = CompleteEnv::with_factory(command).var(ASKS).try_complete(args, cwd.as_deref());
    match answered {
        Ok(false) => None,
        // An unknown shell or a closed pipe: whoever types cannot do anything about it.
        Ok(true) | Err(_) => Some(exit::DONE),
    }
}

/// The command line with what is known about values.
fn command() -> clap::Command {
    with_names(Cli::command(), "")
}

fn with_names(command: clap::Command, group: &str) -> clap::Command {
    let group = group.to_owned();
    command
        .mut_args(|arg| match names_of(&arg, &group) {
            Some(names) => arg.add(ArgValueCandidates::new(move || candidates(names))),
            None => arg,
        })
        .mut_subcommands(|inner| {
            let name = if group.is_empty() { inner.get_name().to_owned() } else { group.clone() };
            with_names(inner, &name)
        })
}

/// What a value can be that only files or the coordinator know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    Runs,
    Agents,
    Workers,
    Contexts,
    Settings,
    Topics,
}

/// Told from what the value is called and where it stands.
fn names_of(arg: &Arg, group: &str) -> Option<Names> {
    let value = arg.get_value_names().and_then(|names| names.first()).map(|name| name.as_str());
    match (arg.get_id().as_str(), value, group) {
        ("context_name", _, _) | (_, Some("NAME"), "context") => Some(Names::Contexts),
        (_, Some("REF"), _) => Some(Names::Runs),
        ("agent", _, _) | (_, Some("NAME"), "agents") => Some(Names::Agents),
        ("worker", _, _) | (_, Some("NAME"), "workers") => Some(Names::Workers),
        (_, Some("KEY"), "config") => Some(Names::Settings),
        (_, Some("TOPIC"), "help") => Some(Names::Topics),
        _ => None,
    }
}

fn candidates(names: Names) -> Vec<CompletionCandidate> {
    let found = match names {
        Names::Contexts => contexts(),
        Names::Settings => settings(),
        Names::Topics => super::help::topics(),
        Names::Runs | Names::Agents | Names::Workers => live(names).unwrap_or_default(),
    };
    // A name that would steer the terminal is not offered.
    let harmless = found.into_iter().filter(|name| safe(name) == name.as_str());
    harmless.map(CompletionCandidate::new).collect()
}

fn settings() -> Vec<String> {
    let defaults = config::DEFAULTS.iter().map(|name| format!("defaults.{name}"));
    let fields = |name: String| {
        ["endpoint", "ca", "cert", "key", "confirm"].map(|field| format!("contexts.{name}.{field}"))
    };
    ["current".to_owned()]
        .into_iter()
        .chain(defaults)
        .chain(contexts().into_iter().flat_map(fields))
        .collect()
}

fn contexts() -> Vec<String> {
    let path = config::path(&|name| std::env::var(name).ok());
    let config = path.and_then(|path| config::load(&path).ok().flatten());
    config.map(|config| config.contexts.into_keys().collect()).unwrap_or_default()
}

/// Names that the coordinator knows; none if it is not there, or not quick.
fn live(names: Names) -> Option<Vec<String>> {
    orch_certs::install_ring();
    // Variables count as they do for a command.
    let flags = Cli::try_parse_from(["orchctl", "ls"]).ok()?.global;
    let settings = Settings { verbosity: SILENT, ..Settings::default() };
    let session = Session::new(crate::output::Out::new(&settings), flags.connection);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let found = runtime.block_on(async {
        let client = session.client().ok()?;
        tokio::time::timeout(LIMIT, ask(&client, names)).await.ok()?.ok()
    });
    // Resolving a name of a host may hang in a thread that nobody waits for.
    runtime.shutdown_background();
    found
}

async fn ask(client: &Client, names: Names) -> Outcome<Vec<String>> {
    Ok(match names {
        Names::Agents => client.agents().await?.into_iter().map(|agent| agent.name).collect(),
        Names::Workers => client.workers().await?.into_iter().map(|worker| worker.name).collect(),
        Names::Runs => {
            let (runs, _) = client.list_runs(&[], "", RUNS).await?;
            let last = (!runs.is_empty()).then(|| "@last".to_owned());
            last.into_iter().chain(runs.into_iter().map(|run| run.r#ref)).collect()
        }
        Names::Contexts | Names::Settings | Names::Topics => Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(path: &[&str], id: &str) -> Option<Names> {
        let mut command = Cli::command();
        for name in path {
            command = command.find_subcommand(name).unwrap().clone();
        }
        let arg = command.get_arguments().find(|arg| arg.get_id() == id).unwrap();
        names_of(arg, path.first().copied().unwrap_or_default())
    }

    #[test]
    fn values_that_the_coordinator_knows_are_offered() {
        assert_eq!(offered(&["watch"], "reference"), Some(Names::Runs));
        assert_eq!(offered(&["cancel"], "references"), Some(Names::Runs));
        assert_eq!(offered(&["agents", "show"], "name"), Some(Names::Agents));
        assert_eq!(offered(&["workers", "show"], "name"), Some(Names::Workers));
        assert_eq!(offered(&["run"], "worker"), Some(Names::Workers));
        assert_eq!(offered(&["run"], "agent"), Some(Names::Agents));
        assert_eq!(offered(&["run"], "name"), None);
        assert_eq!(offered(&["context", "use"], "name"), Some(Names::Contexts));
        assert_eq!(offered(&[], "context_name"), Some(Names::Contexts));
        assert_eq!(offered(&["config", "get"], "key"), Some(Names::Settings));
    }
}
