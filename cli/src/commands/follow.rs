//! `watch`, `wait` and `result`: looking at runs until they are where somebody wants them.

use futures_util::future::join_all;
use orch_proto::codes::ErrorCode;
use orch_proto::v1::{Task, TaskState};

use crate::args::fleet::Watching;
use crate::args::parse::{run_state_word, task_state_word};
use crate::args::work::{Goal, ResultArgs, StatusArgs, WaitArgs, WatchArgs};
use crate::args::{Format, Progress};
use crate::client::Client;
use crate::exit;
use crate::failure::{Failure, Outcome};
use crate::follow::{Display, Ending, Everything, LEAVES, ShowPlan, Until, follow, follow_all};
use crate::live::model::Model;
use crate::output::Out;
use crate::output::view::{RunView, TaskView};
use crate::output::words::{run_ended, task_ended};
use crate::refs::Reference;
use crate::results;
use crate::session::Session;

/// `orchctl watch`. Here the display is the data, so it goes to stdout.
pub(crate) async fn watch(session: &Session, args: WatchArgs) -> Outcome {
    let out = &session.out;
    let client = session.client()?;
    let Some(reference) = args.reference else {
        if out.format == Format::Table && Display::is_drawn(out, out.stdout()) {
            // Everything at once is the fleet and the runs that are active.
            let watching = Watching { watch: true };
            return super::status::run(session, StatusArgs { reference: None, watching }).await;
        }
        let display = match (out.format, out.progress) {
            (Format::Json | Format::Jsonl, _) | (_, Progress::Jsonl) => Display::values(out),
            (Format::Table | Format::Name | Format::None, _) => Display::plain(out, out.stdout()),
        };
        let now = client.status().await?.event_seq;
        let waits = || out.waits("nothing has happened yet; waiting, Ctrl-C leaves");
        follow_all(&client, &display, Everything { from: now + 1, last: None }, waits).await?;
        return Ok(exit::DONE);
    };
    let reference = client.resolve(&reference).await?;
    session.follows(&reference.run, false);
    let display = match out.format {
        Format::Json | Format::Jsonl => Display::values(out),
        Format::None => Display::Hidden,
        Format::Table | Format::Name => Display::choose(out, out.stdout())?,
    };
    let goal = Target { reference: reference.clone(), goal: Goal::Succeeded };
    let until = Until {
        reached: &|model| goal.reached(model),
        stuck: false,
        plan: ShowPlan::WhenMade,
        ctrl_c: LEAVES,
    };
    let (Ending::Reached(model) | Ending::Stuck(model, _)) =
        follow(&client, &reference.run, display, until).await?;
    match &reference.task {
        Some(name) if model.task(name).is_none() => Err(no_task(&reference)),
        Some(_) | None => Ok(goal.exit_code(&model)),
    }
}

/// `orchctl wait`.
pub(crate) async fn wait(session: &Session, args: WaitArgs) -> Outcome {
    let client = session.client()?;
    if let [only] = args.references.as_slice() {
        session.follows(&client.resolve(only).await?.run, false);
    }
    // Of one reference one value, of several a list.
    let out = if args.references.len() > 1 { session.out.listing() } else { session.out.clone() };
    let waits = args.references.iter().map(|reference| wait_for(&out, &client, reference, args.goal));
    let outcomes = join_all(waits).await;
    out.end_list(outcomes.iter().any(Result::is_ok))?;
    let mut codes = Vec::new();
    for outcome in outcomes {
        codes.push(match outcome {
            Ok(code) => code,
            // A single reference's failure is the command's own; of several each is told and counted.
            Err(failure) if args.references.len() == 1 => return Err(failure),
            Err(failure) => {
                session.out.failure(&failure);
                failure.exit_code()
            }
        });
    }
    Ok(joint_code(&codes))
}

async fn wait_for(out: &Out, client: &Client, reference: &str, goal: Goal) -> Outcome {
    let reference = client.resolve(reference).await?;
    let target = Target { reference: reference.clone(), goal };
    let until =
        Until { reached: &|model| target.reached(model), stuck: true, plan: ShowPlan::Never, ctrl_c: LEAVES };
    match follow(client, &reference.run, Display::Hidden, until).await? {
        Ending::Reached(model) => {
            target.tell(out, &model)?;
            Ok(target.exit_code(&model))
        }
        Ending::Stuck(_, reasons) => Err(impossible(&reference.run, &reasons)),
    }
}

/// `orchctl result`.
pub(crate) async fn result(session: &Session, args: ResultArgs) -> Outcome {
    let client = session.client()?;
    let reference = client.resolve(&args.reference).await?;
    if reference.task.is_some() {
        let result = results::fetch_one(&client, &reference.to_string()).await?;
        if !task_ended(result.task.state()) {
            return Err(unfinished(&reference, &task_state_word(result.task.state())));
        }
        let code = exit::of_task(&result.task);
        results::print_task(&session.out, result)?;
        return Ok(code);
    }
    let run = client.run(&reference).await?;
    if !run_ended(run.state()) {
        session.out.note(&format!(
            "{} is {}; these are the results so far",
            run.r#ref,
            run_state_word(run.state())
        ));
    }
    let result = results::fetch(&client, run).await?;
    let code = if run_ended(result.run.state()) {
        exit::of_run(&result.run, result.tasks.iter().map(|result| &result.task))
    } else {
        exit::DONE
    };
    results::print_run(&session.out, result)?;
    Ok(code)
}

/// A run that can never go on as things stand.
pub(super) fn impossible(run: &str, reasons: &[String]) -> Failure {
    let failure =
        Failure::coded(ErrorCode::Impossible, format!("no known agent can run what is left of {run}"));
    let failure = reasons.iter().take(3).fold(failure, |failure, reason| failure.cause(reason));
    failure.and_help(format!("it stays queued: orchctl watch {run}, or orchctl cancel {run}"))
}

fn unfinished(reference: &Reference, state: &str) -> Failure {
    Failure::coded(ErrorCode::WrongState, format!("{reference} has no result yet: it is {state}"))
        .help(format!("orchctl wait {reference}"))
}

fn no_task(reference: &Reference) -> Failure {
    Failure::coded(ErrorCode::NotFound, format!("there is no task {reference}"))
        .help(format!("orchctl ls {} shows those there are", reference.run))
}

/// One exit code for several: all well, all alike, or some failed.
fn joint_code(codes: &[u8]) -> u8 {
    match codes {
        [] => exit::DONE,
        [first, rest @ ..] if rest.iter().all(|code| code == first) => *first,
        [..] => exit::SOME_FAILED,
    }
}

/// A run or task, and the state it should come to.
struct Target {
    reference: Reference,
    goal: Goal,
}

impl Target {
    fn task<'a>(&self, model: &'a Model) -> Option<&'a Task> {
        model.task(self.reference.task.as_deref()?)
    }

    /// Asked once the snapshot is whole: a task that is not there then will never be.
    fn reached(&self, model: &Model) -> bool {
        match (&self.reference.task, self.goal) {
            (Some(_), Goal::Succeeded | Goal::Terminal) => {
                model.has_ended() || self.task(model).is_none_or(|task| task_ended(task.state()))
            }
            (Some(_), Goal::Running) => model.has_ended() || self.task(model).is_none_or(has_started),
            (None, Goal::Succeeded | Goal::Terminal) => model.has_ended(),
            (None, Goal::Running) => model.has_ended() || model.tasks().any(has_started),
        }
    }

    fn exit_code(&self, model: &Model) -> u8 {
        let ended = match &self.reference.task {
            Some(_) => match self.task(model) {
                Some(task) => task_ended(task.state()).then(|| exit::of_task(task)),
                // The snapshot is whole and does not hold it.
                None => Some(exit::NOT_FOUND),
            },
            None => model.has_ended().then(|| exit::of_run(&model.run, model.tasks())),
        };
        match (self.goal, ended) {
            (Goal::Succeeded | Goal::Running, Some(code)) => code,
            (Goal::Terminal, Some(exit::NOT_FOUND)) => exit::NOT_FOUND,
            (Goal::Terminal, Some(_)) | (_, None) => exit::DONE,
        }
    }

    /// Says where it has come to.
    fn tell(&self, out: &Out, model: &Model) -> Outcome<()> {
        let Some(name) = self.reference.task.as_deref() else {
            let run = &model.run;
            return match out.format {
                Format::Table => out.line(&format!("{} {}", run.r#ref, run_state_word(run.state()))),
                Format::Name => out.name(&run.r#ref),
                Format::Json | Format::Jsonl => out.json(&RunView::from(run)),
                Format::None => Ok(()),
            };
        };
        let Some(task) = model.task(name) else {
            return Err(no_task(&self.reference));
        };
        match out.format {
            Format::Table => out.line(&format!("{} {}", task.r#ref, task_state_word(task.state()))),
            Format::Name => out.name(&task.r#ref),
            Format::Json | Format::Jsonl => out.json(&TaskView::from(task)),
            Format::None => Ok(()),
        }
    }
}

fn has_started(task: &Task) -> bool {
    match task.state() {
        TaskState::Running
        | TaskState::Verifying
        | TaskState::WaitingRetry
        | TaskState::Parked
        | TaskState::Succeeded
        | TaskState::Failed => true,
        TaskState::Unspecified
        | TaskState::Blocked
        | TaskState::Queued
        | TaskState::Leased
        | TaskState::Cancelled
        | TaskState::Skipped => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_exit_codes_become_one() {
        assert_eq!(joint_code(&[0, 0]), 0);
        assert_eq!(joint_code(&[9, 9]), 9);
        assert_eq!(joint_code(&[0, 1]), 8);
        assert_eq!(joint_code(&[3]), 3);
    }
}
