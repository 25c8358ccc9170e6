//! What happened, as one plain line or as one JSON object. Pure: clock and widths are arguments.

use orch_proto::v1::{BudgetMode, BudgetWarning, GetPlanResponse, Outcome, Run, Task, TaskState};
use schemars::JsonSchema;
use serde::Serialize;

use super::model::{Told, What, was_sent_back};
use crate::args::amounts::mode_word;
use crate::args::parse::{role_word, run_state_word, task_state_word};
use crate::output::figures::{between, moment, plural, rfc3339, seconds, short, span, spent, usd};
use crate::output::safe::one_line;
use crate::output::table::width_of;
use crate::output::times::Times;
use crate::output::view::{outcome_word, reason};
use crate::output::words::run_ended;
use crate::plan::PlanView;

/// Least width that names are padded to.
const NARROWEST: usize = 12;
/// Greatest such width; longer names stand out.
const WIDEST: usize = 28;
/// Longest detail on a line.
const DETAIL: usize = 300;

/// How names stand on lines.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Names {
    /// Tasks are named by their whole reference, for lines of many runs.
    full: bool,
    width: usize,
}

impl Names {
    /// Of one run: the names of its tasks.
    pub(crate) fn of_run<'a>(tasks: impl IntoIterator<Item = &'a Task>) -> Self {
        let widest = tasks.into_iter().map(|task| width_of(&task.task_id)).max().unwrap_or(0);
        Self { full: false, width: widest.clamp(NARROWEST, WIDEST) }
    }

    /// Of many runs: whole references.
    pub(crate) fn of_many() -> Self {
        Self { full: true, width: WIDEST }
    }
}

/// The line of something that happened; `None` for what is not worth a line, repetitions among it.
pub(crate) fn line(told: &Told, times: &Times, names: Names) -> Option<String> {
    if told.repeated {
        return None;
    }
    let (name, rest) = match &told.what {
        What::Task(task) => {
            let name =
                if names.full { format!("{}/{}", told.run, task.task_id) } else { task.task_id.clone() };
            (name, task_line(task, told)?)
        }
        What::Run { run, succeeded } => (told.run.clone(), run_line(run, *succeeded)),
        What::Agent { agent, state } => (format!("agent {agent}"), state.clone()),
        What::Budget(warning) => {
            (whose(told, warning), columns("warning", &[&one_line(&warning.text, DETAIL)]))
        }
    };
    let time = told.time.map(|time| times.stamp(time)).unwrap_or_else(|| "--:--:--".to_owned());
    let width = names.width;
    Some(format!("{time} {:<width$}  {rest}", one_line(&name, DETAIL)).trim_end().to_owned())
}

fn task_line(task: &Task, told: &Told) -> Option<String> {
    let agent = one_line(&task.agent, DETAIL);
    let agent = agent.as_str();
    let detail = one_line(&task.detail, DETAIL);
    let reason = reason(task.outcome(), &detail);
    let spent = || spent(task.usage.as_ref());
    let took = || span(task.execution_time).map(short).unwrap_or_default();
    let again = if task.attempt > 1 { format!("attempt {}", task.attempt) } else { String::new() };
    let text = match task.state() {
        TaskState::Unspecified | TaskState::Blocked | TaskState::Leased => return None,
        // Becoming ready is no news; going back to the queue is.
        TaskState::Queued if task.attempt == 0 => return None,
        TaskState::Queued if was_sent_back(task.outcome()) => {
            // A plan or a review that is sent back is no outcome: the next attempt mends it.
            columns("sent back", &[reason.strip_prefix("gate_failed: ").unwrap_or(&reason)])
        }
        TaskState::Queued => columns("queued", &["again", &reason]),
        TaskState::Running => columns("running", &[agent, &again]),
        TaskState::Verifying => columns("verifying", &[agent]),
        TaskState::WaitingRetry => {
            let wait = moment(task.retry_at).zip(told.time).map(|(at, now)| short(between(now, at)));
            let wait = wait.map(|wait| format!(" in {wait}")).unwrap_or_default();
            columns("retrying", &[&format!("attempt {}{wait}: {reason}", task.attempt + 1)])
        }
        TaskState::Parked => {
            let wait = moment(task.retry_at).zip(told.time).map(|(at, now)| short(between(now, at)));
            columns("parked", &[&wait.map(|wait| format!("for {wait}")).unwrap_or_default(), &detail])
        }
        TaskState::Succeeded => columns("succeeded", &[&took(), &spent(), agent, &again]),
        TaskState::Failed => columns("failed", &[&took(), &spent(), agent, &reason]),
        TaskState::Cancelled => columns("cancelled", &[&spent(), agent, detail.as_str()]),
        TaskState::Skipped => columns("skipped", &[&detail]),
    };
    Some(text)
}

/// Whose budget it is: that of a run, or a standing one.
fn whose(told: &Told, warning: &BudgetWarning) -> String {
    match (told.run.as_str(), warning.budget.as_str()) {
        ("", "") => "budget".to_owned(),
        ("", name) => format!("budget {name}"),
        (run, _) => run.to_owned(),
    }
}

fn run_line(run: &Run, succeeded: u32) -> String {
    let state = run_state_word(run.state());
    if !run_ended(run.state()) {
        return columns(&state, &[&plural(run.task_count.into(), "task")]);
    }
    let took = moment(run.created_at).zip(moment(run.finished_at)).map(|(from, to)| short(between(from, to)));
    let done = format!("{succeeded}/{}", run.task_count);
    let why = if run.outcome() == Outcome::Unspecified { "" } else { run.outcome().word() };
    let why = if why == "ok" { "" } else { why };
    columns(&state, &[&took.unwrap_or_default(), &spent(run.usage.as_ref()), &done, why])
}

/// A state in its column, then what there is to say.
fn columns(state: &str, rest: &[&str]) -> String {
    let rest: Vec<_> = rest.iter().copied().filter(|text| !text.is_empty()).collect();
    format!("{state:<10} {}", rest.join("  ")).trim_end().to_owned()
}

/// Something that happened, for scripts.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub(crate) struct EventView {
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    time: Option<String>,
    /// `task.succeeded`, `run.failed`, `agent.ready`, `budget.warning` and so on.
    r#type: String,
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    reference: Option<String>,
    /// True for what was found so rather than seen to happen.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    snapshot: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    execution_time: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cost_usd: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    task_count: Option<u32>,
    /// Of a task: `plan`, `synthesis`, `review` or `publish`; none for ordinary work.
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<String>,
    /// Of a review or publication: the id of the task it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    of: Option<String>,
    /// Of `budget.warning`: the standing budget; none where it is that of the run, or of a task.
    #[serde(skip_serializing_if = "Option::is_none")]
    budget: Option<String>,
    /// Of `budget.warning`: what happens, `hard`, `soft` or `drain`; none of a warning alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    budget_mode: Option<&'static str>,
    /// Whether part of the cost is an estimate.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cost_estimated: bool,
    /// Of `run.planned`: the plan, with what speaks against it.
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<PlanView>,
}

impl EventView {
    /// A plan that has been made.
    pub(crate) fn planned(answer: &GetPlanResponse) -> Self {
        let run = answer.run.as_ref().map(|run| run.r#ref.clone());
        Self {
            r#type: "run.planned".to_owned(),
            reference: run,
            snapshot: true,
            plan: Some(PlanView::from(answer)),
            ..Self::default()
        }
    }
}

impl From<&Told> for EventView {
    fn from(told: &Told) -> Self {
        let mut view = Self {
            seq: told.seq,
            time: told.time.map(|time| format!("{time:.3}")),
            snapshot: told.seq.is_none(),
            ..Self::default()
        };
        let some = |text: &str| if text.is_empty() { None } else { Some(text.to_owned()) };
        match &told.what {
            What::Task(task) => {
                view.r#type = format!("task.{}", task_state_word(task.state()));
                view.reference = Some(format!("{}/{}", told.run, task.task_id));
                view.agent = some(&task.agent);
                view.attempt = (task.attempt > 0).then_some(task.attempt);
                view.outcome = outcome_word(task.outcome());
                view.detail = some(&task.detail);
                view.execution_time = seconds(task.execution_time);
                view.retry_at = rfc3339(task.retry_at);
                view.cost_usd = task.usage.as_ref().map(|usage| usd(usage.cost_micro_usd));
                view.cost_estimated = task.usage.as_ref().is_some_and(|usage| usage.estimated);
                view.role = role_word(task.role());
                view.of = some(&task.of);
            }
            What::Run { run, .. } => {
                view.r#type = format!("run.{}", run_state_word(run.state()));
                view.reference = Some(told.run.clone());
                view.outcome = outcome_word(run.outcome());
                view.cost_usd = run.usage.as_ref().map(|usage| usd(usage.cost_micro_usd));
                view.cost_estimated = run.usage.as_ref().is_some_and(|usage| usage.estimated);
                view.task_count = Some(run.task_count);
            }
            What::Agent { agent, state } => {
                view.r#type = format!("agent.{state}");
                view.agent = Some(agent.clone());
            }
            What::Budget(warning) => {
                view.r#type = "budget.warning".to_owned();
                view.reference = some(&told.run);
                view.budget = some(&warning.budget);
                view.detail = some(&warning.text);
                let mode = warning.mode();
                view.budget_mode = (mode != BudgetMode::Unspecified).then(|| mode_word(mode));
            }
        }
        view
    }
}

#[cfg(test)]
mod tests {
    use orch_proto::v1::RunState;

    use super::super::model::{Model, samples};
    use super::*;
    use crate::args::TimeStyle;

    fn utc() -> Times {
        Times::fixed(TimeStyle::Relative, jiff::Timestamp::UNIX_EPOCH)
    }

    fn told() -> Vec<Told> {
        let mut model = Model::default();
        let frames = samples::story().into_iter().chain([samples::ending(RunState::Succeeded)]);
        frames.flat_map(|frame| model.apply(&frame)).collect()
    }

    #[test]
    fn a_run_is_told_in_plain_lines() {
        let lines: Vec<_> = told().iter().filter_map(|told| line(told, &utc(), Names::of_run([]))).collect();
        insta::assert_snapshot!(lines.join("\n"), @r"
        21:04:01 plan          running    box-1
        21:04:22 plan          succeeded  21s  $0.08  box-1
        21:04:22 api-notes     running    box-1
        21:04:23 ui-notes      running    box-3
        21:04:23 db-notes      running    box-1
        21:05:10 api-notes     succeeded  48s  $0.31  box-1
        21:05:20 db-notes      retrying   attempt 2 in 8s: api_error: overloaded (529)
        21:09:02 release-notes/128  succeeded  5m02s  $2.14  2/5
        ");
    }

    #[test]
    fn a_run_is_told_in_json_lines() {
        let lines: Vec<_> =
            told().iter().map(|told| serde_json::to_string(&EventView::from(told)).unwrap()).collect();
        insta::assert_snapshot!(lines[2..].join("\n"), @r#"
        {"seq":12,"time":"2026-11-20T21:04:22.000Z","type":"task.succeeded","ref":"release-notes/128/plan","agent":"box-1","attempt":1,"outcome":"ok","execution_time":21.0,"cost_usd":0.08}
        {"seq":13,"time":"2026-11-20T21:04:22.000Z","type":"task.running","ref":"release-notes/128/api-notes","agent":"box-1","attempt":1}
        {"seq":14,"time":"2026-11-20T21:04:23.000Z","type":"task.running","ref":"release-notes/128/ui-notes","agent":"box-3","attempt":1}
        {"seq":15,"time":"2026-11-20T21:04:23.000Z","type":"task.running","ref":"release-notes/128/db-notes","agent":"box-1","attempt":1}
        {"seq":16,"time":"2026-11-20T21:05:10.000Z","type":"task.succeeded","ref":"release-notes/128/api-notes","agent":"box-1","attempt":1,"outcome":"ok","execution_time":48.0,"cost_usd":0.31}
        {"seq":17,"time":"2026-11-20T21:05:20.000Z","type":"task.waiting_retry","ref":"release-notes/128/db-notes","agent":"box-1","attempt":1,"outcome":"api_error","detail":"overloaded (529)","retry_at":"2026-11-20T21:05:28.000Z","cost_usd":0.2}
        {"seq":30,"time":"2026-11-20T21:09:02.000Z","type":"run.succeeded","ref":"release-notes/128","cost_usd":2.14,"task_count":5}
        "#);
    }

    #[test]
    fn a_warning_about_money_is_told_with_whose_budget_it_is() {
        let warned = |run: &str, budget: &str| Told {
            seq: Some(9),
            time: None,
            repeated: false,
            run: run.into(),
            what: What::Budget(BudgetWarning {
                budget: budget.into(),
                text: "$4.00 of $5.00 are spent\u{1b}[2J".into(),
                mode: BudgetMode::Drain.into(),
            }),
        };
        let text = |told: &Told| line(told, &utc(), Names::of_run([])).unwrap();
        assert_eq!(
            text(&warned("adhoc/1", "")),
            "--:--:-- adhoc/1       warning    $4.00 of $5.00 are spent␛[2J"
        );
        assert!(text(&warned("", "team")).starts_with("--:--:-- budget team   warning "));
        let json = serde_json::to_string(&EventView::from(&warned("", "team"))).unwrap();
        let start = r#"{"seq":9,"time":null,"type":"budget.warning","detail":"$4.00 of $5.00 are spent"#;
        assert!(
            json.starts_with(start) && json.ends_with(r#""budget":"team","budget_mode":"drain"}"#),
            "{json}"
        );
    }

    #[test]
    fn a_parked_task_is_told_with_the_time_it_waits() {
        let task = Task {
            task_id: "a".into(),
            state: TaskState::Parked.into(),
            detail: "window five_hour of pool team is used up".into(),
            retry_at: Some(prost_types::Timestamp { seconds: 400, nanos: 0 }),
            ..Task::default()
        };
        let time = Some(jiff::Timestamp::from_second(100).unwrap());
        let told =
            Told { seq: None, time, repeated: false, run: "a/1".into(), what: What::Task(Box::new(task)) };
        let text = line(&told, &utc(), Names::of_run([])).unwrap();
        assert_eq!(
            text,
            "00:01:40 a             parked     for 5m00s  window five_hour of pool team is used up"
        );
    }

    #[test]
    fn escape_sequences_in_details_are_shown() {
        let task = Task {
            task_id: "a".into(),
            state: TaskState::Failed.into(),
            outcome: Outcome::Crash.into(),
            detail: "\u{1b}[2Jgone\nsecond line".into(),
            ..Task::default()
        };
        let told = Told {
            seq: Some(1),
            time: None,
            repeated: false,
            run: "adhoc/1".into(),
            what: What::Task(Box::new(task)),
        };
        let text = line(&told, &utc(), Names::of_run([])).unwrap();
        assert_eq!(text, "--:--:-- a             failed     crash: ␛[2Jgone second line");
    }
}
