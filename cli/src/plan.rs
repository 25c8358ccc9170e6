//! A plan as people and scripts read it: its tasks in a table, what they come to together, what speaks against it. Pure:
//! the coordinator's answer in, text or a view out. Knows the fields of a plan; refuses to judge one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use orch_proto::v1::task_spec::Runner;
use orch_proto::v1::{CostEstimate, GetPlanResponse, TaskSpec};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::args::parse::run_state_word;
use crate::output::Stream;
use crate::output::figures::{dollars, plural, usd};
use crate::output::safe::one_line;
use crate::output::table::{Cell, Column, Table, cut};
use crate::output::view::money::EstimateView;
use crate::output::view::raw_json;
use crate::output::words::{BAD, DIM};

pub(crate) mod place;

/// Longest sentence told.
const TOLD: usize = 1000;
/// Problems told; the rest are counted.
const PROBLEMS: usize = 20;
/// Columns of a task's description in the table, where nothing wider is asked for: it goes on for pages.
const WHAT: usize = 100;

/// A plan for scripts.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct PlanView {
    #[serde(rename = "ref")]
    reference: String,
    /// State of the run.
    state: String,
    /// The plan as the planner, or whoever edited it, wrote it.
    plan: Option<Box<RawValue>>,
    /// What speaks against it.
    problems: Vec<String>,
    /// The tasks it stands for; none when something speaks against it.
    tasks: Vec<PlannedTaskView>,
    /// What earlier work says that they will cost; none once they run.
    estimate: Option<EstimateView>,
}

/// A task of a plan.
#[derive(Debug, Serialize, JsonSchema)]
struct PlannedTaskView {
    task_id: String,
    worker: String,
    dependencies: Vec<String>,
    description: String,
    reviewed_by: Option<String>,
    /// Paths beneath the workspace.
    publishes: Vec<String>,
    expected_cost_usd: Option<f64>,
}

impl From<&GetPlanResponse> for PlanView {
    fn from(answer: &GetPlanResponse) -> Self {
        let run = answer.run.clone().unwrap_or_default();
        let task = |row: Row| PlannedTaskView {
            task_id: row.id,
            worker: row.worker,
            dependencies: row.needs,
            description: row.description,
            reviewed_by: row.reviewer,
            publishes: row.publishes,
            expected_cost_usd: row.expected.map(usd),
        };
        Self {
            state: run_state_word(run.state()),
            reference: run.r#ref,
            plan: raw_json(&answer.plan),
            problems: answer.problems.clone(),
            tasks: answer.tasks.iter().map(Row::of_spec).map(task).collect(),
            estimate: answer.estimate.as_ref().map(EstimateView::from),
        }
    }
}

/// A plan for people: what it is about, its tasks, the totals, and what speaks against it. Every line is ended.
pub(crate) fn text(answer: &GetPlanResponse, stream: &Stream) -> String {
    let draft = Draft::read(&answer.plan);
    let mut text = String::new();
    // Writing to a String cannot fail, here and below.
    if !draft.summary.trim().is_empty() {
        let _ = writeln!(text, "{}", one_line(&draft.summary, TOLD));
    }
    let rows: Vec<Row> = if answer.tasks.is_empty() {
        draft.tasks.into_iter().map(Row::of_draft).collect()
    } else {
        answer.tasks.iter().map(Row::of_spec).collect()
    };
    if !rows.is_empty() {
        text.push_str(&table(&rows, stream.is_wide()).render(stream));
        let _ = writeln!(text, "{}", stream.paint(DIM, &totals(&rows)));
        if let Some(estimate) = &answer.estimate {
            let _ = writeln!(text, "{}", stream.paint(DIM, &estimated(estimate)));
        }
    } else if !answer.plan.trim().is_empty() && answer.problems.is_empty() {
        let _ = writeln!(text, "the plan has no task");
    }
    for missing in &draft.missing {
        let _ = writeln!(text, "missing: {}", one_line(&value_text(missing), TOLD));
    }
    for problem in answer.problems.iter().take(PROBLEMS) {
        let _ = writeln!(text, "{} {}", stream.paint(BAD, "✗"), one_line(problem, TOLD));
    }
    if answer.problems.len() > PROBLEMS {
        let _ = writeln!(text, "and {} more", answer.problems.len() - PROBLEMS);
    }
    text
}

/// What earlier work says that a run will cost, in a sentence.
pub(crate) fn estimated(estimate: &CostEstimate) -> String {
    let unknown = u64::from(estimate.unknown_tasks);
    if estimate.samples == 0 {
        return "what it will cost is not known: nothing like it has run yet".to_owned();
    }
    let mut text = format!(
        "about {}, nine times of ten at most {}, from {}",
        dollars(estimate.p50_micro_usd, false),
        dollars(estimate.p90_micro_usd, false),
        plural(estimate.samples.into(), "earlier attempt"),
    );
    if unknown > 0 {
        text.push_str(&format!("; without {} of which nothing is known", plural(unknown, "task")));
    }
    text
}

fn table(rows: &[Row], wide: bool) -> Table {
    let columns =
        [Column::Whole("TASK"), Column::Words("WORKER"), Column::Words("NEEDS"), Column::Words("WHAT")];
    let goes_on = rows.iter().any(|row| row.reviewer.is_some() || !row.publishes.is_empty());
    let mut table = Table::new(columns.into_iter().chain(goes_on.then_some(Column::Extra("THEN"))));
    for row in rows {
        let first = row.description.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        let what = if wide { first.to_owned() } else { cut(first, WHAT) };
        let review = row.reviewer.iter().map(|worker| format!("review by {worker}"));
        let then: Vec<_> = review.chain(row.publishes.iter().map(|path| format!("to {path}"))).collect();
        let cells =
            [Cell::from(&row.id), Cell::from(&row.worker), Cell::dim(row.needs.join(",")), Cell::from(what)];
        table.row(cells.into_iter().chain(goes_on.then(|| Cell::dim(then.join(", ")))));
    }
    table
}

/// `4 tasks for 2 workers, up to 3 at once; 1 review, 3 files into the workspace; expected $0.90`.
fn totals(rows: &[Row]) -> String {
    let workers: BTreeSet<&str> = rows.iter().map(|row| row.worker.as_str()).collect();
    let mut text = format!(
        "{} for {}, up to {} at once",
        plural(rows.len() as u64, "task"),
        plural(workers.len() as u64, "worker"),
        widest(rows)
    );
    let reviews = rows.iter().filter(|row| row.reviewer.is_some()).count() as u64;
    let files: u64 = rows.iter().map(|row| row.publishes.len() as u64).sum();
    let further: Vec<_> = [(reviews, "review", ""), (files, "file", " into the workspace")]
        .into_iter()
        .filter(|(count, _, _)| *count > 0)
        .map(|(count, noun, rest)| format!("{}{rest}", plural(count, noun)))
        .collect();
    if !further.is_empty() {
        let _ = write!(text, "; {}", further.join(", "));
    }
    let expected: u64 = rows.iter().filter_map(|row| row.expected).fold(0, u64::saturating_add);
    if expected > 0 {
        let _ = write!(text, "; expected {}", dollars(expected, true));
    }
    text
}

/// Most tasks with equally long chains of dependencies above them: about as many as can run at once.
fn widest(rows: &[Row]) -> usize {
    let mut depths: BTreeMap<&str, usize> = rows.iter().map(|row| (row.id.as_str(), 0)).collect();
    // A circle, which is told among the problems, ends with the last pass.
    for _ in 0..rows.len() {
        let mut changed = false;
        for row in rows {
            let above = row.needs.iter().filter_map(|id| depths.get(id.as_str()));
            let depth = above.max().map_or(0, |depth| depth + 1);
            if depths.get(row.id.as_str()).is_some_and(|known| *known < depth) {
                depths.insert(&row.id, depth);
                changed = true;
            }
        }
        if !changed {
            break;
        }
    }
    let mut layers: BTreeMap<usize, usize> = BTreeMap::new();
    for row in rows {
        *layers.entry(depths.get(row.id.as_str()).copied().unwrap_or(0)).or_default() += 1;
    }
    layers.into_values().max().unwrap_or(0)
}

/// A task of a plan, wherever it was read.
struct Row {
    id: String,
    worker: String,
    needs: Vec<String>,
    description: String,
    reviewer: Option<String>,
    publishes: Vec<String>,
    /// Millionths of a dollar.
    expected: Option<u64>,
}

impl Row {
    fn of_spec(task: &TaskSpec) -> Self {
        let (worker, description) = match &task.runner {
            Some(Runner::Worker(work)) => (work.worker.clone(), work.description.clone()),
            Some(Runner::Command(command)) => {
                (format!("command {}", command.program), command.args.join(" "))
            }
            Some(Runner::Noop(_)) => ("noop".to_owned(), String::new()),
            None => (String::new(), String::new()),
        };
        let review = task.gates.as_ref().and_then(|gates| gates.review.as_ref());
        Self {
            id: task.task_id.clone(),
            worker,
            needs: task.dependencies.clone(),
            description,
            reviewer: review.map(|review| review.worker.clone()),
            publishes: task.publish.iter().map(|publication| publication.to.clone()).collect(),
            expected: task.expected_cost_micro_usd,
        }
    }

    fn of_draft(task: DraftTask) -> Self {
        Self {
            id: task.id,
            worker: task.worker,
            needs: task.dependencies,
            description: task.description,
            reviewer: None,
            publishes: Vec::new(),
            expected: None,
        }
    }
}

/// What is shown of a plan that could not be compiled. Whatever does not fit is left out: the problems say what is wrong.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Draft {
    summary: String,
    tasks: Vec<DraftTask>,
    missing: Vec<serde_json::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct DraftTask {
    id: String,
    worker: String,
    description: String,
    dependencies: Vec<String>,
}

impl Draft {
    fn read(plan: &str) -> Self {
        serde_json::from_str(plan).unwrap_or_default()
    }
}

/// A value as a person reads it.
fn value_text(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
pub(crate) mod samples {
    //! A plan that tests share.

    use orch_proto::v1::{Gates, Publication, Review, Run, RunState, WorkerTask};

    use super::*;

    /// The plan as its planner wrote it.
    pub(crate) const PLAN: &str = r#"{
  "summary": "One evaluation a student, then a note to the class.",
  "tasks": [
    { "id": "emma", "worker": "marie", "description": "Evaluate Emma Rodriguez.\nRead her notes first.", "dependencies": [] },
    { "id": "lucas", "worker": "marie", "description": "Evaluate Lucas Martinez.", "dependencies": [] },
    { "id": "note", "worker": "fabien", "description": "Write a note to the class.", "dependencies": ["emma", "lucas"] }
  ]
}
"#;

    fn task(id: &str, worker: &str, what: &str, needs: &[&str]) -> TaskSpec {
        let work = WorkerTask { worker: worker.into(), description: what.into(), ..WorkerTask::default() };
        TaskSpec {
            task_id: id.into(),
            runner: Some(Runner::Worker(work)),
            dependencies: needs.iter().map(|need| (*need).to_owned()).collect(),
            expected_cost_micro_usd: Some(300_000),
            ..TaskSpec::default()
        }
    }

    /// The answer to somebody who asks for it.
    pub(crate) fn answer(run: &str, state: RunState) -> GetPlanResponse {
        let publication = |to: &str| Publication { artifact: "e.md".into(), to: to.into(), replace: false };
        let mut emma = task("emma", "marie", "Evaluate Emma Rodriguez.\nRead her notes first.", &[]);
        emma.publish = vec![publication("students/emma/e.md")];
        let mut lucas = task("lucas", "marie", "Evaluate Lucas Martinez.", &[]);
        lucas.publish = vec![publication("students/lucas/e.md")];
        let review = Some(Review { worker: "anga".into(), ..Review::default() });
        lucas.gates = Some(Gates { review, ..Gates::default() });
        let note = task("note", "fabien", "Write a note to the class.", &["emma", "lucas"]);
        GetPlanResponse {
            plan: PLAN.into(),
            problems: Vec::new(),
            tasks: vec![emma, lucas, note],
            estimate: None,
            run: Some(Run { r#ref: run.into(), state: state.into(), planned: true, ..Run::default() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use orch_proto::v1::RunState;

    use super::*;
    use crate::args::Format;
    use crate::output::testing;

    fn shown(answer: &GetPlanResponse, width: usize) -> String {
        let (out, _, _) = testing::out(Format::Table, Some(width));
        text(answer, out.stdout())
    }

    #[test]
    fn a_plan_is_a_table_with_totals() {
        let answer = samples::answer("adhoc/1", RunState::WaitingApproval);
        insta::assert_snapshot!(shown(&answer, 120), @r"
        One evaluation a student, then a note to the class.
        TASK   WORKER  NEEDS       WHAT                        THEN
        emma   marie   -           Evaluate Emma Rodriguez.    to students/emma/e.md
        lucas  marie   -           Evaluate Lucas Martinez.    review by anga, to students/lucas/e.md
        note   fabien  emma,lucas  Write a note to the class.  -
        3 tasks for 2 workers, up to 2 at once; 1 review, 2 files into the workspace; expected ~$0.90
        ");
        insta::assert_snapshot!(shown(&answer, 60), @r"
        One evaluation a student, then a note to the class.
        TASK   WORKER  NEEDS       WHAT
        emma   marie   -           Evaluate Emma Rodriguez.
        lucas  marie   -           Evaluate Lucas Martinez.
        note   fabien  emma,lucas  Write a note to the class.
        3 tasks for 2 workers, up to 2 at once; 1 review, 2 files into the workspace; expected ~$0.90
        ");
    }

    #[test]
    fn a_plan_says_what_it_will_cost_by_earlier_work() {
        let estimate =
            CostEstimate { p50_micro_usd: 400_000, p90_micro_usd: 900_000, samples: 12, unknown_tasks: 1 };
        let answer = GetPlanResponse {
            estimate: Some(estimate),
            ..samples::answer("adhoc/1", RunState::WaitingApproval)
        };
        let said = "about $0.40, nine times of ten at most $0.90, from 12 earlier attempts; without 1 task of which \
                    nothing is known\n";
        assert!(shown(&answer, 120).ends_with(said), "{}", shown(&answer, 120));
        assert_eq!(serde_json::to_value(PlanView::from(&answer)).unwrap()["estimate"]["p90_usd"], 0.9);
    }

    #[test]
    fn a_plan_that_failed_shows_what_was_proposed_and_what_is_wrong() {
        let answer = GetPlanResponse {
            tasks: Vec::new(),
            problems: vec!["task `note` depends on `lukas`, which is not in the plan".into()],
            plan: samples::PLAN.replace("\"emma\", \"lucas\"", "\"emma\", \"note\""),
            ..samples::answer("adhoc/1", RunState::Failed)
        };
        insta::assert_snapshot!(shown(&answer, 80), @r"
        One evaluation a student, then a note to the class.
        TASK   WORKER  NEEDS      WHAT
        emma   marie   -          Evaluate Emma Rodriguez.
        lucas  marie   -          Evaluate Lucas Martinez.
        note   fabien  emma,note  Write a note to the class.
        3 tasks for 2 workers, up to 2 at once
        ✗ task `note` depends on `lukas`, which is not in the plan
        ");
    }

    #[test]
    fn what_a_planner_writes_never_steers_a_terminal() {
        let mut answer = samples::answer("adhoc/1", RunState::WaitingApproval);
        answer.plan = answer.plan.replace("One evaluation", "\\u001b[2Jx\\u202e");
        answer.problems = vec!["\u{1b}]0;t\u{7}\nnext".into()];
        answer.tasks[0].task_id = "\u{1b}[31memma".into();
        if let Some(Runner::Worker(work)) = &mut answer.tasks[0].runner {
            work.description = "\u{1b}[31mred\r\nmore".into();
        }
        let text = shown(&answer, 100);
        assert!(text.chars().all(|char| char == '\n' || !char.is_control()), "{text:?}");
        assert!(text.contains("␛[2Jx<202e>") && text.contains("␛[31mred"), "{text}");
    }

    #[test]
    fn an_answer_that_is_no_plan_at_all_still_shows_what_is_wrong() {
        let answer = GetPlanResponse {
            plan: "not json".into(),
            problems: vec!["the plan is not JSON".into()],
            ..GetPlanResponse::default()
        };
        assert_eq!(shown(&answer, 80), "✗ the plan is not JSON\n");
        let json = serde_json::to_value(PlanView::from(&answer)).unwrap();
        assert_eq!(json["plan"], "not json");
    }
}
