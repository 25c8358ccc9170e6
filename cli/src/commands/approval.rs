//! `approve`, `reject` and `edit`: answers to a plan that waits, and the question that `run --approve` asks. What is
//! edited is never lost: a plan that is not taken stays in a file.

use std::io::{BufRead, IsTerminal, Write as _};
use std::path::{Path, PathBuf};

use orch_proto::codes::ErrorCode;
use orch_proto::v1::{PlanDecision, Run, RunState};
use tokio::task::JoinSet;

use crate::args::Format;
use crate::args::parse::run_state_word;
use crate::args::plan::{ApproveArgs, EditArgs, RejectArgs};
use crate::client::Client;
use crate::client::plan::Decision;
use crate::exit;
use crate::failure::{Failure, Outcome};
use crate::output::Out;
use crate::output::figures::plural;
use crate::output::safe::one_line;
use crate::output::view::RunView;
use crate::plan::place;
use crate::refs::Reference;
use crate::session::Session;
use crate::settings::Asking;

/// Longest name told.
const TOLD: usize = 300;
/// Largest plan taken.
const MAX_PLAN: u64 = 4 << 20;
/// Editor where none is named.
const USUAL_EDITOR: &str = "vi";

/// `orchctl approve`.
pub(crate) async fn approve(session: &Session, args: ApproveArgs) -> Outcome {
    let client = session.client()?;
    let run = run_of(&client, &args.reference).await?;
    let run = decide(&client, &run, PlanDecision::Approve, args.reason.unwrap_or_default()).await?;
    tell(&session.out, &run, "approved")?;
    session.out.hint(&format!("  follow it: orchctl watch {}", one_line(&run.r#ref, TOLD)));
    Ok(exit::DONE)
}

/// `orchctl reject`.
pub(crate) async fn reject(session: &Session, args: RejectArgs) -> Outcome {
    let client = session.client()?;
    let run = run_of(&client, &args.reference).await?;
    let run = decide(&client, &run, PlanDecision::Reject, args.reason.unwrap_or_default()).await?;
    tell(&session.out, &run, "rejected")?;
    Ok(exit::DONE)
}

/// `orchctl edit`.
pub(crate) async fn edit(session: &Session, args: EditArgs) -> Outcome {
    let client = session.client()?;
    let run = run_of(&client, &args.reference).await?;
    let reason = args.reason.unwrap_or_default();
    let edited = match args.file {
        Some(file) => Edited::of_file(file)?,
        None => match edited(&client, &run).await? {
            Some(edited) => edited,
            None => {
                session.out.note(&format!("the plan is as it was; {run} still waits: orchctl approve {run}"));
                return Ok(exit::DONE);
            }
        },
    };
    let run = send(&client, &run, &edited, reason).await?;
    tell(&session.out, &run, "edited and approved")?;
    session.out.hint(&format!("  follow it: orchctl watch {}", one_line(&run.r#ref, TOLD)));
    Ok(exit::DONE)
}

/// The run of a reference; plans belong to whole runs.
async fn run_of(client: &Client, reference: &str) -> Outcome<String> {
    let Reference { run, task } = client.resolve(reference).await?;
    match task {
        None => Ok(run),
        Some(task) => Err(Failure::usage(format!("{run}/{task} is a task, and a plan belongs to a run"))
            .help(format!("name the run: {run}"))),
    }
}

async fn decide(client: &Client, run: &str, decision: PlanDecision, reason: String) -> Outcome<Run> {
    let decision = Decision { run: run.to_owned(), decision, plan: String::new(), reason };
    let answer = client.decide(decision).await.map_err(|failure| failure.about(run))?;
    match answer.problems.as_slice() {
        [] => answer.run.ok_or_else(|| crate::client::incomplete("DecidePlan")),
        [first, rest @ ..] => {
            let failure = Failure::coded(ErrorCode::InvalidField, format!("the plan cannot be run: {first}"));
            let failure =
                rest.iter().fold(failure, |failure, problem| failure.further(problem).cause(problem));
            Err(failure.help(format!("orchctl edit {run} changes it, orchctl reject {run} ends it")))
        }
    }
}

fn tell(out: &Out, run: &Run, said: &str) -> Outcome<()> {
    match out.format {
        Format::Table => out.line(&format!(
            "{}: {said}; it is {}, with {}",
            one_line(&run.r#ref, TOLD),
            run_state_word(run.state()),
            plural(run.task_count.into(), "task")
        )),
        Format::Json | Format::Jsonl => out.json(&RunView::from(run)),
        Format::Name => out.name(&run.r#ref),
        Format::None => Ok(()),
    }
}

/// A plan that somebody edited, and the file that holds it.
struct Edited {
    text: String,
    file: PathBuf,
    /// The file is ours: it goes when the plan was taken.
    ours: bool,
}

impl Edited {
    fn of_file(file: PathBuf) -> Outcome<Self> {
        if file.as_os_str() == "-" {
            let text = read(std::io::stdin().lock(), "stdin")?;
            return Ok(Self { text, file: PathBuf::from("<stdin>"), ours: false });
        }
        let name = file.display().to_string();
        let source = std::fs::File::open(&file)
            .map_err(|error| Failure::usage(format!("cannot read {name}")).cause(error))?;
        Ok(Self { text: read(source, &name)?, file, ours: false })
    }
}

fn read(source: impl std::io::Read, name: &str) -> Outcome<String> {
    let failed = |error| Failure::usage(format!("cannot read {name}")).cause(error);
    let mut text = String::new();
    std::io::Read::read_to_string(&mut std::io::Read::take(source, MAX_PLAN + 1), &mut text)
        .map_err(failed)?;
    if text.len() as u64 > MAX_PLAN {
        return Err(Failure::coded(ErrorCode::TooLarge, format!("{name} is longer than {MAX_PLAN} bytes")));
    }
    Ok(text)
}

/// Opens an editor with the plan; none if it was saved as it was.
async fn edited(client: &Client, run: &str) -> Outcome<Option<Edited>> {
    let answer = client.plan(run).await?;
    if answer.plan.trim().is_empty() {
        return Err(Failure::coded(ErrorCode::WrongState, format!("{run} has no plan yet")).about(run));
    }
    let before = pretty(&answer.plan);
    let file = kept_file(run, &before)?;
    run_editor(&file).await?;
    let source = std::fs::File::open(&file).map_err(|error| {
        Failure::new(exit::FAILED, format!("cannot read {}", file.display())).cause(error)
    })?;
    let text = read(source, &file.display().to_string())?;
    if text.trim() == before.trim() {
        let _ = std::fs::remove_file(&file);
        return Ok(None);
    }
    Ok(Some(Edited { text, file, ours: true }))
}

/// Indented, or as it is where it is no JSON. What would steer the editor's terminal stays escaped.
fn pretty(plan: &str) -> String {
    let value = serde_json::from_str::<serde_json::Value>(plan);
    let text = value.and_then(|value| serde_json::to_string_pretty(&value));
    let text = text.unwrap_or_else(|_| plan.to_owned());
    format!("{}\n", crate::output::safe::json(text.trim_end()))
}

/// A file of its own that outlives this command, for its owner only.
fn kept_file(run: &str, text: &str) -> Outcome<PathBuf> {
    let failed =
        |error: std::io::Error| Failure::new(exit::FAILED, "cannot write the plan to a file").cause(error);
    let name = format!("orch-plan-{}-", run.replace('/', "-"));
    let mut file = tempfile::Builder::new().prefix(&name).suffix(".json").tempfile().map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    let (_, path) = file.keep().map_err(|error| failed(error.error))?;
    Ok(path)
}

/// Runs `$VISUAL`, `$EDITOR` or `vi` on this terminal until it ends.
async fn run_editor(file: &Path) -> Outcome<()> {
    let named = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    let editor = named("VISUAL").or_else(|| named("EDITOR")).unwrap_or_else(|| USUAL_EDITOR.to_owned());
    let words = crate::args::parse::words(&editor)
        .map_err(|why| Failure::usage(format!("the editor {editor:?} cannot be started")).cause(why))?;
    let Some((program, args)) = words.split_first() else {
        return Err(Failure::usage("no editor is named").help("set EDITOR, or use -f FILE"));
    };
    let kept = || format!("the plan is in {}: orchctl edit REF -f FILE", file.display());
    let mut command = tokio::process::Command::new(program);
    let ended = command.args(args).arg(file).status().await.map_err(|error| {
        Failure::new(exit::FAILED, format!("cannot start the editor {program}"))
            .cause(error)
            .help("set EDITOR, or use -f FILE")
            .and_help(kept())
    })?;
    if ended.success() {
        return Ok(());
    }
    Err(Failure::new(exit::FAILED, format!("the editor {program} ended with {ended}; nothing was changed"))
        .help(kept()))
}

/// Sends an edited plan. What speaks against it is shown with its place, and the edit stays where it is.
async fn send(client: &Client, run: &str, edited: &Edited, reason: String) -> Outcome<Run> {
    let name = edited.file.display().to_string();
    let keep = |failure: Failure| match kept(&name, run).as_str() {
        "" => failure,
        kept => failure.and_help(kept.trim_end()),
    };
    if let Err(error) = serde_json::from_str::<serde_json::Value>(&edited.text) {
        return Err(malformed(&name, &edited.text, &error, &kept(&name, run)));
    }
    let decision =
        Decision { run: run.to_owned(), decision: PlanDecision::Approve, plan: edited.text.clone(), reason };
    let answer = client.decide(decision).await.map_err(|failure| keep(failure.about(run)))?;
    let Some(first) = answer.problems.first() else {
        if edited.ours {
            let _ = std::fs::remove_file(&edited.file);
        }
        return answer.run.ok_or_else(|| crate::client::incomplete("DecidePlan"));
    };
    let count = plural(answer.problems.len() as u64, "problem");
    let mut report = place::report(&name, &edited.text, &answer.problems);
    report.push_str(&format!("{count}; {run} still waits\n"));
    report.push_str(&kept(&name, run));
    let message = format!("{name}: {first}");
    let failure = Failure::report(ErrorCode::InvalidField, message, report);
    Err(answer.problems.iter().skip(1).fold(failure, |failure, problem| failure.further(problem)))
}

/// Where an edit is that was not taken; nothing of what came from stdin, which is gone.
fn kept(file: &str, run: &str) -> String {
    if file == "<stdin>" {
        return String::new();
    }
    format!("the edited plan is in {file}: mend it, then orchctl edit {run} -f {file}\n")
}

fn malformed(file: &str, text: &str, error: &serde_json::Error, kept: &str) -> Failure {
    let message = error.to_string();
    let what = message.rsplit_once(" at line").map_or(message.as_str(), |(what, _)| what);
    let headline = format!("error[{}]: the plan is not JSON: {what}", ErrorCode::MalformedJson.code());
    let at = (error.line().max(1), error.column());
    let report = crate::runfile::diagnostic::pointed(&headline, file, text, at, "") + kept;
    let message = format!("{file}:{}:{}: the plan is not JSON: {what}", at.0, at.1);
    Failure::report(ErrorCode::MalformedJson, message, report)
}

/// What became of a plan that `run` was asked to show before it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// It was answered: the run goes on, or has ended.
    Answered,
    /// It waits: nobody is there to ask, or nobody wanted to say yet.
    Waits,
}

/// Whether a person can be asked.
pub(super) fn can_ask(out: &Out) -> bool {
    match out.asking {
        Asking::Yes => true,
        Asking::Never => false,
        Asking::Ask => std::io::stdin().is_terminal() && out.stderr().is_terminal(),
    }
}

/// Asks what to do with the plan of a run that waits, until there is an answer.
pub(super) async fn ask(session: &Session, run: &str) -> Outcome<Asked> {
    let out = &session.out;
    let client = session.client()?;
    if out.asking == Asking::Yes {
        decide(&client, run, PlanDecision::Approve, String::new()).await?;
        return Ok(Asked::Answered);
    }
    loop {
        // A question nobody can see gets no answer.
        let _ = out.stderr().write(b"run it? [a]pprove, [e]dit, [r]eject, [q]uit: it waits > ");
        let answered = match Answer::read(line().await.as_deref()) {
            None => {
                out.note("a runs it, e opens the plan in an editor, r cancels the run, q leaves it waiting");
                continue;
            }
            Some(Answer::Quit) => return Ok(Asked::Waits),
            Some(Answer::Approve) => {
                decide(&client, run, PlanDecision::Approve, String::new()).await.map(drop)
            }
            Some(Answer::Reject) => decide(&client, run, PlanDecision::Reject, String::new()).await.map(drop),
            Some(Answer::Edit) => match edited(&client, run).await {
                Ok(None) => {
                    out.note("the plan is as it was");
                    continue;
                }
                Ok(Some(edited)) => send(&client, run, &edited, String::new()).await.map(drop),
                Err(failure) => Err(failure),
            },
        };
        match answered {
            Ok(()) => return Ok(Asked::Answered),
            // Somebody else may have answered meanwhile.
            Err(failure) => {
                let now = client.run(&Reference::parse(run)?).await?;
                if now.state() != RunState::WaitingApproval {
                    out.note(&format!("{run} is {}", run_state_word(now.state())));
                    return Ok(Asked::Answered);
                }
                out.failure(&failure);
            }
        }
    }
}

/// How to answer later.
pub(super) fn how(out: &Out, run: &str) {
    out.note(&format!("{run} waits for approval; nothing of it runs before:"));
    out.note(&format!("  orchctl approve {run}    orchctl edit {run}    orchctl reject {run} --reason TEXT"));
}

/// An answer to the question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Approve,
    Edit,
    Reject,
    Quit,
}

impl Answer {
    /// Reads a line; the end of input is no answer, so that nothing is decided by it.
    fn read(line: Option<&str>) -> Option<Self> {
        let Some(line) = line else { return Some(Self::Quit) };
        match line.trim().to_lowercase().as_str() {
            "a" | "approve" | "y" | "yes" => Some(Self::Approve),
            "e" | "edit" => Some(Self::Edit),
            "r" | "reject" => Some(Self::Reject),
            "q" | "quit" => Some(Self::Quit),
            _ => None,
        }
    }
}

/// A line from stdin; none at its end. Read beside the runtime, so that an interrupt is noticed meanwhile.
async fn line() -> Option<String> {
    let mut reading = JoinSet::new();
    reading.spawn_blocking(|| {
        let mut line = String::new();
        let read = std::io::stdin().lock().read_line(&mut line);
        matches!(read, Ok(bytes) if bytes > 0).then_some(line)
    });
    reading.join_next().await?.ok()?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_answer_decides() {
        for (line, answer) in [
            ("a\n", Some(Answer::Approve)),
            ("Reject\n", Some(Answer::Reject)),
            ("e", Some(Answer::Edit)),
            ("q", Some(Answer::Quit)),
            ("\n", None),
            ("apply\n", None),
        ] {
            assert_eq!(Answer::read(Some(line)), answer, "{line:?}");
        }
        assert_eq!(Answer::read(None), Some(Answer::Quit), "the end of input decides nothing");
    }

    #[test]
    fn a_plan_is_indented_and_stays_harmless() {
        assert_eq!(
            pretty(r#"{"summary":"x\u001b[2J\u009b"}"#),
            "{\n  \"summary\": \"x\\u001b[2J\\u009b\"\n}\n"
        );
        assert_eq!(pretty("no json"), "no json\n");
    }

    #[test]
    fn what_is_edited_lies_in_a_file_of_its_own() {
        use std::os::unix::fs::PermissionsExt as _;
        let file = kept_file("adhoc/7", "{}").unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "{}");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o077, 0);
        std::fs::remove_file(file).unwrap();
    }
}
