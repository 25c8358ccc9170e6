//! `submit` and `run`: queue a run, and for `run` follow it and print what came of it.

use std::fs;
use std::io::{IsTerminal, Read};
use std::path::Path;

use orch_proto::codes::ErrorCode;
use orch_proto::v1::task_spec::Runner;
use orch_proto::v1::{RunSpec, RunState, SubmitRunResponse, TaskSpec};

use super::approval::{self, Asked};
use super::tables;
use super::workflows::call;
use super::workflows::source::Source;
use crate::args::Format;
use crate::args::parse::{run_state_word, task_state_word};
use crate::args::submit::{RunArgs, SubmitArgs, What};
use crate::client::submission::Submission;
use crate::client::{TaskQuery, incomplete, new_request_id};
use crate::compose::{self, Conversation, MAX_DESCRIPTION, Material};
use crate::config::project;
use crate::context_files;
use crate::exit;
use crate::failure::{Failure, Outcome};
use crate::follow::{Display, Ending, LEAVES, ShowPlan, Until, follow};
use crate::live::model::Model;
use crate::output::Out;
use crate::output::figures::plural;
use crate::output::safe::one_line;
use crate::output::view::money::EstimateView;
use crate::output::view::{ImpossibleView, SubmittedView, raw_json};
use crate::output::words::task_ended;
use crate::plan::{PlanView, estimated};
use crate::results;
use crate::runfile;
use crate::runfile::workflow::is_workflow;
use crate::session::Session;
use crate::suggest::did_you_mean;

/// Largest run file, from the wire's limit on an upload.
const MAX_FILE: u64 = 256 << 20;
/// Largest file taken as context or schema: more does not fit a prompt.
const MAX_MATERIAL: u64 = 8 << 20;
/// Longest name or reason told.
const TOLD: usize = 300;

/// `orchctl submit`.
pub(crate) async fn submit(session: &Session, args: SubmitArgs) -> Outcome {
    let out = &session.out;
    let spec = specification(session, &args.what).await?;
    if args.what.dry_run {
        return dry_run(session, spec, &args.what).await;
    }
    let answer = send(session, spec, &args.what, false).await?;
    queued(session, &answer, !args.wait)?;
    if !args.wait {
        return Ok(exit::DONE);
    }
    let run = answer.run.as_ref().ok_or_else(|| incomplete("SubmitRun"))?;
    let (ending, code) = attend(session, &run.r#ref, false, ShowPlan::News).await?;
    if let Ending::Reached(model) = ending
        && model.run.state() == RunState::WaitingApproval
    {
        approval::how(out, &run.r#ref);
    }
    Ok(code)
}

/// Prints the reference of a run that was queued, and what is worth knowing besides.
pub(super) fn queued(session: &Session, answer: &SubmitRunResponse, left: bool) -> Outcome<()> {
    let out = &session.out;
    let run = answer.run.as_ref().ok_or_else(|| incomplete("SubmitRun"))?;
    match out.format {
        Format::Table | Format::Name => out.name(&run.r#ref)?,
        Format::Json | Format::Jsonl => out.json(&SubmittedView {
            reference: Some(run.r#ref.clone()),
            state: Some(run_state_word(run.state())),
            task_count: run.task_count,
            existing: answer.existing,
            dry_run: false,
            impossible: answer.impossible.iter().map(ImpossibleView::from).collect(),
            estimate: answer.estimate.as_ref().map(EstimateView::from),
        })?,
        Format::None => {}
    }
    advise(session, answer);
    if left && out.format == Format::Table {
        out.hint(&format!("  follow it: orchctl watch {}", run.r#ref));
    }
    Ok(())
}

/// `orchctl run`.
pub(crate) async fn run(session: &Session, args: RunArgs) -> Outcome {
    let spec = specification(session, &args.what).await?;
    if args.what.dry_run {
        return dry_run(session, spec, &args.what).await;
    }
    let plan_only = spec.request.as_ref().is_some_and(|request| request.plan_only);
    let answer = send(session, spec, &args.what, false).await?;
    see_through(session, &answer, args.cancel_on_interrupt, plan_only).await
}

/// Follows a run that was queued, answers its plan if somebody is asked, and prints what came of it.
pub(super) async fn see_through(
    session: &Session,
    answer: &SubmitRunResponse,
    cancel_on_interrupt: bool,
    plan_only: bool,
) -> Outcome {
    let run = answer.run.as_ref().ok_or_else(|| incomplete("SubmitRun"))?;
    if session.out.format == Format::Name {
        session.out.line(&run.r#ref)?;
    }
    session.out.hint(&format!("submitted {}", run.r#ref));
    advise(session, answer);
    let mut show = if plan_only { ShowPlan::Never } else { ShowPlan::News };
    let mut asked = false;
    loop {
        let (ending, code) = attend(session, &run.r#ref, cancel_on_interrupt, show).await?;
        let (Ending::Reached(model) | Ending::Stuck(model, _)) = &ending;
        if model.run.state() != RunState::WaitingApproval {
            // Whoever was asked has seen the plan.
            let plan = if plan_only {
                Plan::Alone
            } else if asked {
                Plan::Seen
            } else {
                Plan::Wanted
            };
            let impossible = matches!(ending, Ending::Stuck(..));
            return conclude(session, &run.r#ref, impossible, plan, code).await;
        }
        if !approval::can_ask(&session.out) || approval::ask(session, &run.r#ref).await? == Asked::Waits {
            return waits(session, &run.r#ref).await;
        }
        (asked, show) = (true, ShowPlan::Never);
    }
}

/// A plan waits for somebody who is not here: it is shown, and how to answer. That is what was asked for.
async fn waits(session: &Session, run: &str) -> Outcome {
    let out = &session.out;
    if out.is_json() {
        out.json(&PlanView::from(&session.client()?.plan(run).await?))?;
    }
    approval::how(out, run);
    Ok(exit::DONE)
}

/// What to do with the plan of a run of which nothing else is there to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plan {
    /// It is printed with what became of the run.
    Wanted,
    /// It was on the screen.
    Seen,
    /// Only the plan was asked for: for scripts it is the whole output.
    Alone,
}

/// Prints what came of a run.
async fn conclude(session: &Session, run: &str, impossible: bool, plan: Plan, code: u8) -> Outcome {
    if session.out.format == Format::Name {
        return Ok(code);
    }
    let client = session.client()?;
    let reference = crate::refs::Reference::parse(run)?;
    let mut result = results::fetch(&client, client.run(&reference).await?).await?;
    result.impossible = impossible;
    match plan {
        Plan::Alone if session.out.is_json() && result.run.state() == RunState::Succeeded => {
            let made = result.plan.as_ref().and_then(|answer| raw_json(&answer.plan));
            session.out.json(&made.ok_or_else(|| incomplete("GetPlan"))?)?;
            return Ok(code);
        }
        Plan::Seen => result.plan = None,
        Plan::Alone | Plan::Wanted => {}
    }
    results::print_run(&session.out, result)?;
    Ok(code)
}

/// Follows a run on stderr, for stdout has better to do, until it has ended or its plan waits for an answer, and says
/// how it exits.
pub(super) async fn attend(
    session: &Session,
    run: &str,
    cancel_on_interrupt: bool,
    plan: ShowPlan,
) -> Outcome<(Ending, u8)> {
    session.follows(run, cancel_on_interrupt);
    let display = Display::choose(&session.out, session.out.stderr())?;
    let ctrl_c = if cancel_on_interrupt { "Ctrl-C cancels the run" } else { LEAVES };
    let reached = |model: &Model| model.has_ended() || model.run.state() == RunState::WaitingApproval;
    let until = Until { reached: &reached, stuck: true, plan, ctrl_c };
    let ending = follow(&session.client()?, run, display, until).await?;
    let code = match &ending {
        Ending::Reached(model) if model.run.state() == RunState::WaitingApproval => exit::DONE,
        Ending::Reached(model) => exit::of_run(&model.run, model.tasks()),
        Ending::Stuck(_, reasons) => {
            session.out.failure(&super::follow::impossible(run, reasons));
            exit::IMPOSSIBLE
        }
    };
    Ok((ending, code))
}

async fn send(
    session: &Session,
    spec: RunSpec,
    what: &What,
    validate_only: bool,
) -> Outcome<SubmitRunResponse> {
    let request_id = what.key.clone().unwrap_or_else(new_request_id);
    let sent = session.client()?.submit(Submission { spec, request_id, validate_only }).await;
    // Flags make one task: where it stands in the message is nothing that was typed.
    sent.map_err(|failure| if what.file.is_none() { failure.without_place() } else { failure })
}

/// Says what a misspelt model may be. Others than these exist, so that none is refused.
fn doubt_model(out: &Out, model: &str) {
    const USUAL: [&str; 3] = ["haiku", "opus", "sonnet"];
    let near = did_you_mean(model, USUAL);
    if !near.is_empty() && !USUAL.contains(&model) {
        out.note(&format!("  ! the model {:?} is not a usual name; {near}", one_line(model, TOLD)));
    }
}

/// What is worth knowing besides the reference.
pub(super) fn advise(session: &Session, answer: &SubmitRunResponse) {
    let out = &session.out;
    if answer.existing {
        out.note("  already submitted with this key; nothing new was queued");
    }
    for impossible in &answer.impossible {
        let (task, reason) = (one_line(&impossible.task_id, TOLD), one_line(&impossible.reason, TOLD));
        out.note(&format!("  ! {task} cannot run anywhere yet: {reason}"));
    }
}

/// Validates on the server and says where everything would run.
async fn dry_run(session: &Session, spec: RunSpec, what: &What) -> Outcome {
    let out = &session.out;
    if spec.workflow.is_some() {
        return call::dry_run(session, spec).await;
    }
    let answer = send(session, spec.clone(), what, true).await?;
    match out.format {
        // What a request comes to, its planner will say.
        Format::Table if spec.request.is_some() => {}
        Format::Table => out.data(&tables::plan(&spec, &answer).render(out.stdout()))?,
        Format::Json | Format::Jsonl => out.json(&SubmittedView {
            reference: None,
            state: None,
            task_count: u32::try_from(spec.tasks.len()).unwrap_or(u32::MAX),
            existing: answer.existing,
            dry_run: true,
            impossible: answer.impossible.iter().map(ImpossibleView::from).collect(),
            estimate: answer.estimate.as_ref().map(EstimateView::from),
        })?,
        Format::Name => spec.tasks.iter().try_for_each(|task| out.name(tables::task_name(task)))?,
        Format::None => {}
    }
    if let Some(estimate) = &answer.estimate {
        out.hint(&estimated(estimate));
    }
    let Some(first) = answer.impossible.first() else {
        if spec.request.is_some() {
            out.hint(
                "the request can be planned; nothing was queued. --plan-only makes the plan and no more",
            );
            return Ok(exit::DONE);
        }
        out.hint(&format!("{}; nothing was queued", plural(spec.tasks.len() as u64, "task")));
        return Ok(exit::DONE);
    };
    // A request becomes at least what plans it and what sums it up.
    let tasks = if spec.request.is_some() { 2 } else { spec.tasks.len() as u64 };
    let message = format!("{} of {} can run nowhere", answer.impossible.len(), plural(tasks, "task"));
    Err(Failure::coded(ErrorCode::Impossible, message).cause(format!("{}: {}", first.task_id, first.reason)))
}

/// The run that flags or a file describe, with what the project leaves to say.
async fn specification(session: &Session, what: &What) -> Outcome<RunSpec> {
    let out = &session.out;
    let after = match &what.after {
        Some(reference) => Some(conversation(session, reference).await?),
        None => None,
    };
    let mut spec = described(what, after)?;
    if let Some(model) = &what.terms.model {
        doubt_model(out, model);
    }
    let beside = what.file.as_deref().and_then(Path::parent).unwrap_or_else(|| Path::new(""));
    context_files::fill(&mut spec, beside, &what.context_files)?;
    let cwd = std::env::current_dir()
        .map_err(|error| Failure::usage("there is no working directory").cause(error))?;
    if let Some(project) = project::find(&cwd, rustix::process::geteuid().as_raw())? {
        // Tasks of a file say themselves on what terms they run, and so does a conversation that goes on.
        let filled = project.apply(&mut spec, what.file.is_some() || what.after.is_some());
        if !filled.is_empty() {
            out.hint(&format!("  {} from {}", filled.join(", "), project.path.display()));
        }
    }
    if let Some(workflow) = &spec.workflow {
        call::checked(&session.client()?, workflow).await?;
    }
    Ok(spec)
}

/// The task that `--after` names: it has ended, and a worker did it.
async fn conversation(session: &Session, reference: &str) -> Outcome<Conversation> {
    let client = session.client()?;
    let reference = client.resolve(reference).await?;
    let task = match &reference.task {
        Some(_) => client.task(&reference.to_string()).await?,
        None => {
            let tasks = client.tasks(&TaskQuery { limit: 2, ..TaskQuery::all(&reference.run) }).await?;
            let [only] = tasks.as_slice() else {
                return Err(Failure::usage(format!("{reference} has several tasks; --after is about one"))
                    .help(format!("orchctl ls {reference} shows them: --after {reference}/TASK")));
            };
            only.clone()
        }
    };
    let name = one_line(&task.r#ref, TOLD);
    if task.worker.is_empty() {
        return Err(Failure::usage(format!("{name} is no conversation: no worker did it"))
            .help("--after goes on with what a worker did"));
    }
    if !task_ended(task.state()) {
        let state = task_state_word(task.state());
        return Err(Failure::coded(
            ErrorCode::WrongState,
            format!("{name} is {state}, so nothing can follow it yet"),
        )
        .help(format!("orchctl wait {name}, and then again")));
    }
    Ok(Conversation { reference: task.r#ref, worker: task.worker })
}

/// The run that flags or a file describe.
fn described(what: &What, after: Option<Conversation>) -> Outcome<RunSpec> {
    if let Some(key) = &what.key
        && (key.is_empty()
            || key.len() > 128
            || !key.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '))
    {
        return Err(Failure::coded(ErrorCode::InvalidRequestId, format!("the key {key:?} is not allowed")));
    }
    let Some(file) = &what.file else {
        return compose::described(what, Material { after, ..material(what)? });
    };
    if what.text.is_some() || !what.program.is_empty() {
        return Err(Failure::usage("a run from a file takes no text"));
    }
    let (name, bytes) = if file.as_os_str() == "-" {
        ("<stdin>".to_owned(), stdin("a run as JSON", MAX_FILE)?)
    } else {
        (file.display().to_string(), read_file(file, MAX_FILE)?)
    };
    let spec = match std::str::from_utf8(&bytes).ok().filter(|text| is_workflow(text)) {
        Some(text) => workflow(&name, text, what)?,
        None => runfile::read(&name, &bytes)?,
    };
    let spec = compose::whole(spec, what);
    compose::refuse_idle_budget(&spec)?;
    Ok(spec)
}

/// The run of a file that holds a workflow, called without parameters.
fn workflow(name: &str, text: &str, what: &What) -> Outcome<RunSpec> {
    if what.name.is_some() {
        return Err(Failure::usage(
            "--name means nothing here: the run of a workflow has the workflow's name",
        ));
    }
    let source = Source::made(name.to_owned(), text.to_owned()).with(&what.whole);
    Ok(RunSpec { workflow: Some(source.call(&serde_json::Map::new())), ..RunSpec::default() })
}

/// The texts that flags point to.
fn material(what: &What) -> Outcome<Material> {
    // Nobody should type a text only to hear afterwards that it is not taken.
    let text = match what.text.as_deref() {
        Some("-") if what.runner.is_none() => {
            Some(utf8("<stdin>", stdin("the text", MAX_DESCRIPTION as u64)?)?)
        }
        Some(text) => Some(text.to_owned()),
        None => None,
    };
    let context = match &what.terms.context {
        Some(value) if Path::new(value).is_file() => utf8(value, read_file(Path::new(value), MAX_MATERIAL)?)?,
        Some(value) => value.clone(),
        None => String::new(),
    };
    let output_schema = match &what.terms.output_schema {
        Some(path) => schema(path)?,
        None => String::new(),
    };
    Ok(Material { text, context, output_schema, after: None })
}

fn schema(path: &Path) -> Outcome<String> {
    let text = utf8(&path.display().to_string(), read_file(path, MAX_MATERIAL)?)?;
    let not_one = || {
        Failure::coded(ErrorCode::InvalidSchema, format!("{} is not a JSON Schema object", path.display()))
    };
    let value: serde_json::Value = serde_json::from_str(&text).map_err(|error| not_one().cause(error))?;
    if value.is_object() { Ok(value.to_string()) } else { Err(not_one()) }
}

pub(super) fn read_file(path: &Path, limit: u64) -> Outcome<Vec<u8>> {
    let failed = |error| Failure::usage(format!("cannot read {}", path.display())).cause(error);
    bounded(fs::File::open(path).map_err(failed)?, &path.display().to_string(), limit)
}

/// All of stdin. A terminal is a person who may not know that it is waiting.
pub(super) fn stdin(what: &str, limit: u64) -> Outcome<Vec<u8>> {
    let terminal = std::io::stdin().is_terminal();
    if terminal {
        eprint_waiting(what);
    }
    let bytes = bounded(std::io::stdin().lock(), "stdin", limit)?;
    if bytes.iter().all(u8::is_ascii_whitespace) {
        let failure = Failure::coded(
            ErrorCode::EmptyPrompt,
            format!("nothing came from stdin where {what} was expected"),
        );
        return Err(if terminal { failure.help("orchctl run --help shows how to give it") } else { failure });
    }
    Ok(bytes)
}

#[expect(
    clippy::print_stderr,
    reason = "a prompt for the person who types, before there is anything to output"
)]
fn eprint_waiting(what: &str) {
    eprintln!("reading {what} from the terminal; Ctrl-D ends it");
}

fn bounded(source: impl Read, name: &str, limit: u64) -> Outcome<Vec<u8>> {
    let mut bytes = Vec::new();
    let failed = |error| Failure::usage(format!("cannot read {name}")).cause(error);
    source.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > limit {
        return Err(Failure::coded(ErrorCode::TooLarge, format!("{name} is longer than {limit} bytes")));
    }
    Ok(bytes)
}

pub(super) fn utf8(name: &str, bytes: Vec<u8>) -> Outcome<String> {
    String::from_utf8(bytes)
        .map_err(|_| Failure::coded(ErrorCode::InvalidField, format!("{name} is not UTF-8 text")))
}

/// Who or what executes a task, in a word or two.
pub(super) fn executor(task: &TaskSpec) -> String {
    match &task.runner {
        Some(Runner::Worker(work)) => work.worker.clone(),
        Some(Runner::Command(command)) => format!("command {}", command.program),
        Some(Runner::Noop(_)) => "noop".to_owned(),
        None => "-".to_owned(),
    }
}
