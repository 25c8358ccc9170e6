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
use crate::client::{Client, TaskQuery};
use crate::config;
use crate::exit;
use crate::failure::{Failure, Outcome};
use crate::output::safe::safe;
use crate::refs::Reference;
use crate::session::Session;
use crate::settings::Settings;

/// Variable by which a script asks for words.
const ASKS: &str = "ORCHCTL_COMPLETE";
/// Longest wait for names: more would be felt between two key strokes.
const LIMIT: Duration = Duration::from_millis(150);
/// Verbosity that leaves nothing but errors.
const SILENT: i8 = -2;
/// Short names of commands.
const SHORT: [&str; 2] = ["st", "ps"];
/// States that somebody looks for; every other one can be typed.
const STATES: [&str; 9] = [
    "running",
    "succeeded",
    "failed",
    "cancelled",
    "queued",
    "blocked",
    "waiting_retry",
    "parked",
    "skipped",
];
/// Most runs offered, the newest ones, and most tasks.
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
    let index = std::env::var("_CLAP_COMPLETE_INDEX").ok();
    let fresh = is_fresh(args, index.as_deref());
    let answered = CompleteEnv::with_factory(|| command(fresh)).var(ASKS).try_complete(args, cwd.as_deref());
    match answered {
        Ok(false) => None,
        // An unknown shell or a closed pipe: whoever types cannot do anything about it.
        Ok(true) | Err(_) => Some(exit::DONE),
    }
}

/// Whether the word to complete has no letter yet. The words stand behind `--`; some shells say which one is meant, in
/// others it is the last.
fn is_fresh(args: &[OsString], index: Option<&str>) -> bool {
    let Some(start) = args.iter().position(|arg| arg == "--") else { return false };
    let words = &args[start + 1..];
    match index.and_then(|index| index.parse::<usize>().ok()) {
        Some(index) => words.get(index).is_none_or(|word| word.is_empty()),
        None => words.last().is_some_and(|word| word.is_empty()),
    }
}

/// The command line with what is known about values. `fresh`: before the first letter of a word its flags are offered
/// only where there is nothing else, or they would bury the names.
fn command(fresh: bool) -> clap::Command {
    let command = with_names(Cli::command(), "");
    if fresh { without_flags(command) } else { command }
}

fn without_flags(command: clap::Command) -> clap::Command {
    command
        .mut_args(|arg| if arg.is_positional() { arg } else { arg.hide(true) })
        .mut_subcommands(without_flags)
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
            with_names(quiet_aliases(inner), &name)
        })
}

/// Short names of a command are understood and not offered: one of them would stand in for the name itself.
fn quiet_aliases(command: clap::Command) -> clap::Command {
    let known = SHORT.into_iter().filter(|short| command.get_visible_aliases().any(|alias| alias == *short));
    let known: Vec<_> = known.collect();
    command.visible_alias(None).aliases(known)
}

/// What a value can be that only files or the coordinator know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    Runs,
    Agents,
    Workers,
    Workflows,
    Contexts,
    Settings,
    Topics,
    Kinds,
    States,
    Tasks,
}

/// Told from what the value is called and where it stands.
fn names_of(arg: &Arg, group: &str) -> Option<Names> {
    let value = arg.get_value_names().and_then(|names| names.first()).map(|name| name.as_str());
    match (arg.get_id().as_str(), value, group) {
        ("context_name", _, _) | (_, Some("NAME"), "context") => Some(Names::Contexts),
        ("workspace", _, _) => None,
        (_, Some("REF" | "REF[:PATH]"), _) => Some(Names::Runs),
        ("agent", _, _) | (_, Some("NAME"), "agents") => Some(Names::Agents),
        ("worker" | "workers" | "review", _, "submit" | "run")
        | ("worker", _, _)
        | (_, Some("NAME"), "workers") => Some(Names::Workers),
        (_, Some("NAME" | "FILE|NAME"), "workflows") | ("name", _, "batch") => Some(Names::Workflows),
        (_, Some("KEY"), "config") => Some(Names::Settings),
        (_, Some("TOPIC"), "help") => Some(Names::Topics),
        (_, Some("KIND"), "schema") => Some(Names::Kinds),
        ("state", _, "ls") => Some(Names::States),
        ("from", _, "retry") => Some(Names::Tasks),
        _ => None,
    }
}

fn candidates(names: Names) -> Vec<CompletionCandidate> {
    let found = match names {
        Names::Contexts => contexts(),
        Names::Settings => settings(),
        Names::Topics => super::help::topics(),
        Names::Kinds => super::schema::KINDS.iter().map(|kind| kind.name.to_owned()).collect(),
        Names::States => STATES.map(str::to_owned).to_vec(),
        Names::Runs | Names::Agents | Names::Workers | Names::Workflows | Names::Tasks => {
            live(names).unwrap_or_default()
        }
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
        Names::Workflows => {
            client.workflows().await?.workflows.into_iter().map(|workflow| workflow.name).collect()
        }
        Names::Runs => {
            let (runs, _) = client.list_runs(&[], "", RUNS).await?;
            let last = (!runs.is_empty()).then(|| "@last".to_owned());
            last.into_iter().chain(runs.into_iter().map(|run| run.r#ref)).collect()
        }
        Names::Tasks => {
            // Those of the run that stands on the line already.
            let typed = std::env::args().skip(2).find(|word| Reference::parse(word).is_ok());
            let Some(typed) = typed else { return Ok(Vec::new()) };
            let reference = client.resolve(&typed).await?;
            let query = TaskQuery { limit: RUNS, ..TaskQuery::all(&reference.run) };
            client.tasks(&query).await?.into_iter().map(|task| task.task_id).collect()
        }
        Names::Contexts | Names::Settings | Names::Topics | Names::Kinds | Names::States => Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::parse;

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
        assert_eq!(offered(&["workflows", "run"], "name"), Some(Names::Workflows));
        assert_eq!(offered(&["workflows", "graph"], "what"), Some(Names::Workflows));
        assert_eq!(offered(&["workflows", "run"], "workspace"), None);
        assert_eq!(offered(&["batch"], "name"), Some(Names::Workflows));
        assert_eq!(offered(&["run"], "agent"), Some(Names::Agents));
        assert_eq!(offered(&["run"], "name"), None);
        assert_eq!(offered(&["context", "use"], "name"), Some(Names::Contexts));
        assert_eq!(offered(&[], "context_name"), Some(Names::Contexts));
        assert_eq!(offered(&["config", "get"], "key"), Some(Names::Settings));
        assert_eq!(offered(&["schema", "output"], "kind"), Some(Names::Kinds));
        assert_eq!(offered(&["ls"], "state"), Some(Names::States));
        assert_eq!(offered(&["retry"], "from"), Some(Names::Tasks));
    }

    #[test]
    fn commands_are_offered_by_their_names_and_understood_by_the_short_ones() {
        let command = command(true);
        let status = command.find_subcommand("status").unwrap();
        assert_eq!(status.get_visible_aliases().count(), 0);
        for inner in Cli::command().get_subcommands() {
            for short in inner.get_visible_aliases() {
                let found = command.find_subcommand(short).map(clap::Command::get_name);
                assert_eq!(found, Some(inner.get_name()));
            }
        }
    }

    #[test]
    fn states_that_are_offered_are_taken() {
        for state in STATES {
            assert!(parse::state(state).is_ok(), "{state}");
        }
    }

    #[test]
    fn flags_do_not_bury_names_before_the_first_letter() {
        let args = |words: &str| words.split(',').map(OsString::from).collect::<Vec<_>>();
        assert!(is_fresh(&args("orchctl,--,orchctl,agents,drain,"), Some("3")));
        assert!(is_fresh(&args("orchctl,--,orchctl,agents,drain"), Some("3")));
        assert!(is_fresh(&args("orchctl,--,orchctl,agents,"), None));
        assert!(!is_fresh(&args("orchctl,--,orchctl,agents,dr"), Some("2")));
        assert!(!is_fresh(&args("orchctl,--,orchctl,agents,dr"), None));
        let ls = command(true).find_subcommand("ls").unwrap().clone();
        assert!(ls.get_arguments().all(|arg| arg.is_positional() || arg.is_hide_set()));
        assert!(command(false).find_subcommand("ls").unwrap().get_arguments().any(|arg| !arg.is_hide_set()));
    }
}
