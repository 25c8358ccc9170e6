//! What is known of a run: a snapshot brought up to date by events. Applying a frame says what changed, so that a
//! snapshot after a cut connection tells only what was missed. Knows the wire's messages; refuses to show anything.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use orch_proto::v1::watch_event::Change;
use orch_proto::v1::{self, TaskState, WatchEvent, WatchRunsResponse};

use crate::output::figures::moment;
use crate::output::words::{run_ended, task_ended, task_moves};

/// A run and its tasks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Model {
    /// The run; its state follows the events.
    pub(crate) run: v1::Run,
    rows: BTreeMap<u32, Row>,
    by_id: HashMap<String, u32>,
    /// The tasks are all here.
    complete: bool,
    /// The newest warning about money, in plain English; empty while there is none.
    pub(crate) warning: String,
}

/// A task and what it is doing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Row {
    /// The task; its state follows the events.
    pub(crate) task: v1::Task,
    /// What it is doing now, while it runs.
    pub(crate) now: String,
    /// Spent by the attempt that runs, beyond what is recorded.
    pub(crate) running_cost: u64,
}

impl Row {
    /// Recorded and running cost in millionths of a dollar.
    pub(crate) fn cost(&self) -> u64 {
        self.task.usage.as_ref().map_or(0, |usage| usage.cost_micro_usd) + self.running_cost
    }

    /// Whether part of the cost is an estimate.
    pub(crate) fn estimated(&self) -> bool {
        self.running_cost > 0 || self.task.usage.as_ref().is_some_and(|usage| usage.estimated)
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Told {
    /// Its sequence number; `None` for what a snapshot showed.
    pub(crate) seq: Option<u64>,
    /// When.
    pub(crate) time: Option<Timestamp>,
    /// The run concerned; empty for agents.
    pub(crate) run: String,
    /// It was so already: an event that only confirms.
    pub(crate) repeated: bool,
    /// What.
    pub(crate) what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum What {
    /// The run came into a state.
    Run {
        /// The run now.
        run: Box<v1::Run>,
        /// Tasks that succeeded.
        succeeded: u32,
    },
    /// A task came into a state.
    Task(Box<v1::Task>),
    /// An agent came into a state.
    Agent {
        /// Its name.
        agent: String,
        /// The state's word.
        state: String,
    },
    /// A budget was passed, or a task cost more than expected.
    Budget(v1::BudgetWarning),
}

impl Model {
    /// Takes a frame over and says what it changed, in order.
    pub(crate) fn apply(&mut self, frame: &WatchRunsResponse) -> Vec<Told> {
        let mut told = Vec::new();
        let ended_before = run_ended(self.run.state());
        if let Some(run) = &frame.run {
            self.run = run.clone();
        }
        for task in &frame.tasks {
            told.extend(self.show(task));
        }
        self.complete |= frame.snapshot_complete;
        if frame.snapshot_complete && run_ended(self.run.state()) && !ended_before {
            told.push(self.tell_run(None, moment(self.run.finished_at)));
        }
        told.extend(frame.events.iter().filter_map(|event| self.happen(event)));
        told
    }

    /// Whether the snapshot has arrived whole.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Whether the run has ended.
    pub(crate) fn has_ended(&self) -> bool {
        run_ended(self.run.state())
    }

    /// The tasks in order.
    pub(crate) fn rows(&self) -> impl ExactSizeIterator<Item = &Row> {
        self.rows.values()
    }

    /// The tasks in order, without what they are doing.
    pub(crate) fn tasks(&self) -> impl Iterator<Item = &v1::Task> {
        self.rows.values().map(|row| &row.task)
    }

    /// The task of an id.
    pub(crate) fn task(&self, id: &str) -> Option<&v1::Task> {
        self.by_id.get(id).and_then(|index| self.rows.get(index)).map(|row| &row.task)
    }

    /// What is missing of the tasks, as a mark that changes with it: tasks that joined the run since the snapshot are
    /// known by their events only. `None` when all is known.
    pub(crate) fn lacking(&self) -> Option<(u32, usize)> {
        let bare = self.rows.values().filter(|row| row.task.runner.is_empty()).count();
        let known = u32::try_from(self.rows.len()).unwrap_or(u32::MAX);
        (self.complete && (bare > 0 || known < self.run.task_count)).then_some((self.run.task_count, bare))
    }

    /// Takes over from a list what events do not say: who does a task, what it needs, what it is for. What they do say
    /// stays: the list may be older, or newer, than the last of them.
    pub(crate) fn fill(&mut self, tasks: Vec<v1::Task>) {
        for task in tasks {
            self.by_id.insert(task.task_id.clone(), task.index);
            let Some(row) = self.rows.get_mut(&task.index) else {
                self.rows.insert(task.index, Row { task, ..Row::default() });
                continue;
            };
            let known = &mut row.task;
            known.runner = task.runner;
            known.worker = task.worker;
            known.dependencies = task.dependencies;
            known.priority = task.priority;
            known.created_at = task.created_at;
            known.role = task.role;
            known.of = task.of;
            known.workspace = task.workspace;
            known.repairs = known.repairs.max(task.repairs);
        }
    }

    /// How many tasks are in states of a kind.
    pub(crate) fn count(&self, kind: fn(TaskState) -> bool) -> u32 {
        u32::try_from(self.tasks().filter(|task| kind(task.state())).count()).unwrap_or(u32::MAX)
    }

    /// Queued tasks, if nothing else of the run is going on: those that would have to be placed for it to go on.
    pub(crate) fn waiting_alone(&self) -> Vec<&v1::Task> {
        if !self.complete || self.has_ended() || self.tasks().any(|task| task_moves(task.state())) {
            return Vec::new();
        }
        self.tasks().filter(|task| task.state() == TaskState::Queued).collect()
    }

    /// Spent so far in millionths of a dollar, and whether part of it is an estimate.
    pub(crate) fn cost(&self) -> (u64, bool) {
        let rows = self
            .rows
            .values()
            .fold((0, false), |(sum, estimated), row| (sum + row.cost(), estimated || row.estimated()));
        let run = self.run.usage.as_ref().map_or(0, |usage| usage.cost_micro_usd);
        (rows.0.max(run), rows.1)
    }

    /// A task of a snapshot. It is worth telling if it got somewhere since it was last seen.
    fn show(&mut self, task: &v1::Task) -> Option<Told> {
        let known = self.rows.get(&task.index).map(|row| (row.task.state(), row.task.attempt));
        self.by_id.insert(task.task_id.clone(), task.index);
        let row = self.rows.entry(task.index).or_default();
        row.task = task.clone();
        let waits = matches!(task.state(), TaskState::Blocked | TaskState::Queued | TaskState::Unspecified);
        if known == Some((task.state(), task.attempt)) || (known.is_none() && waits) {
            return None;
        }
        let time = moment(task.finished_at).or_else(|| moment(task.started_at));
        Some(Told {
            seq: None,
            time,
            repeated: false,
            run: self.run.r#ref.clone(),
            what: What::Task(Box::new(task.clone())),
        })
    }

    fn happen(&mut self, event: &WatchEvent) -> Option<Told> {
        let (seq, time) = (Some(event.seq), moment(event.time));
        match event.change.as_ref()? {
            Change::Run(changed) => {
                self.run.r#ref.clone_from(&event.run_ref);
                self.run.state = changed.state;
                self.run.task_count = changed.task_count.max(self.run.task_count);
                if changed.usage.is_some() {
                    self.run.usage.clone_from(&changed.usage);
                }
                if run_ended(changed.state()) {
                    self.run.finished_at = event.time;
                }
                Some(self.tell_run(seq, time))
            }
            Change::Task(changed) => {
                let before = self.rows.get(&changed.index).map(|row| (row.task.state, row.task.attempt));
                let repeated = before == Some((changed.state, changed.attempt));
                let task = self.change_task(changed, event);
                Some(Told {
                    seq,
                    time,
                    repeated,
                    run: event.run_ref.clone(),
                    what: What::Task(Box::new(task)),
                })
            }
            Change::Agent(changed) => {
                let what = What::Agent { agent: changed.agent.clone(), state: changed.state.clone() };
                Some(Told { seq, time, repeated: false, run: event.run_ref.clone(), what })
            }
            Change::Activity(activity) => {
                self.note_activity(activity);
                None
            }
            Change::Budget(warning) => {
                self.warning.clone_from(&warning.text);
                let what = What::Budget(warning.clone());
                Some(Told { seq, time, repeated: false, run: event.run_ref.clone(), what })
            }
        }
    }

    fn tell_run(&self, seq: Option<u64>, time: Option<Timestamp>) -> Told {
        let succeeded = self.count(|state| state == TaskState::Succeeded);
        let what = What::Run { run: Box::new(self.run.clone()), succeeded };
        Told { seq, time, repeated: false, run: self.run.r#ref.clone(), what }
    }

    fn change_task(&mut self, changed: &v1::TaskChanged, event: &WatchEvent) -> v1::Task {
        self.by_id.insert(changed.task_id.clone(), changed.index);
        let row = self.rows.entry(changed.index).or_default();
        let task = &mut row.task;
        if task.task_id.is_empty() {
            task.task_id.clone_from(&changed.task_id);
            task.index = changed.index;
            task.r#ref = format!("{}/{}", event.run_ref, changed.task_id);
        }
        let state = changed.state();
        let moved = (task.state, task.attempt) != (changed.state, changed.attempt);
        if moved && state == TaskState::Queued && was_sent_back(changed.outcome()) {
            task.repairs += 1;
        }
        if state == TaskState::Leased || (state == TaskState::Running && task.state() != TaskState::Leased) {
            task.started_at = event.time;
        }
        if !matches!(state, TaskState::Running | TaskState::Verifying) {
            row.now.clear();
            row.running_cost = 0;
        }
        task.finished_at = if task_ended(state) { event.time } else { None };
        task.state = changed.state;
        task.attempt = changed.attempt;
        task.agent.clone_from(&changed.agent);
        task.outcome = changed.outcome;
        task.detail.clone_from(&changed.detail);
        task.retry_at = changed.retry_at;
        if changed.usage.is_some() {
            task.usage.clone_from(&changed.usage);
        }
        if changed.execution_time.is_some() {
            task.execution_time = changed.execution_time;
        }
        task.clone()
    }

    fn note_activity(&mut self, activity: &v1::Activity) {
        let Some(row) = self.by_id.get(&activity.task_id).and_then(|index| self.rows.get_mut(index)) else {
            return;
        };
        row.now.clone_from(&activity.now);
        row.task.num_turns = activity.num_turns;
        row.running_cost = activity.cost_micro_usd;
    }
}

/// Whether a task that is queued again after this outcome goes back to its conversation with what was wrong.
pub(crate) fn was_sent_back(outcome: v1::Outcome) -> bool {
    matches!(outcome, v1::Outcome::GateFailed | v1::Outcome::SchemaInvalid)
}

#[cfg(test)]
pub(crate) mod samples {
    //! Frames of a run that tests and views share.

    use orch_proto::v1::{Activity, Outcome, Run, RunChanged, RunState, Task, TaskChanged, Usage};

    use super::*;

    /// The moment at which the sample run started: 2026-11-20 21:04:00 UTC.
    pub(crate) const START: i64 = 1_795_208_640;

    pub(crate) fn at(seconds: i64) -> prost_types::Timestamp {
        prost_types::Timestamp { seconds: START + seconds, nanos: 0 }
    }

    pub(crate) fn usage(cents: u64) -> Usage {
        let model = v1::ModelUsage {
            input_tokens: cents * 1000,
            output_tokens: cents * 10,
            ..v1::ModelUsage::default()
        };
        Usage { cost_micro_usd: cents * 10_000, models: vec![model], estimated: false }
    }

    pub(crate) fn task(index: u32, id: &str, needs: &[&str]) -> Task {
        Task {
            r#ref: format!("release-notes/128/{id}"),
            index,
            task_id: id.into(),
            state: if needs.is_empty() { TaskState::Queued } else { TaskState::Blocked }.into(),
            dependencies: needs.iter().map(|need| (*need).to_owned()).collect(),
            worker: "anga".into(),
            runner: "claude".into(),
            ..Task::default()
        }
    }

    /// plan; then api, ui, db; then merge.
    pub(crate) fn snapshot() -> WatchRunsResponse {
        let tasks = vec![
            task(0, "plan", &[]),
            task(1, "api-notes", &["plan"]),
            task(2, "ui-notes", &["plan"]),
            task(3, "db-notes", &["plan"]),
            task(4, "merge", &["api-notes", "ui-notes", "db-notes"]),
        ];
        WatchRunsResponse {
            run: Some(Run {
                r#ref: "release-notes/128".into(),
                state: RunState::Running.into(),
                created_at: Some(at(0)),
                task_count: 5,
                ..Run::default()
            }),
            tasks,
            next_seq: 10,
            snapshot_complete: true,
            ..WatchRunsResponse::default()
        }
    }

    pub(crate) fn event(seq: u64, seconds: i64, change: Change) -> WatchRunsResponse {
        let event = WatchEvent {
            seq,
            time: Some(at(seconds)),
            run_ref: "release-notes/128".into(),
            change: Some(change),
        };
        WatchRunsResponse { events: vec![event], next_seq: seq + 1, ..WatchRunsResponse::default() }
    }

    pub(crate) fn changed(index: u32, id: &str, state: TaskState) -> TaskChanged {
        TaskChanged {
            index,
            task_id: id.into(),
            state: state.into(),
            attempt: 1,
            agent: "box-1".into(),
            ..TaskChanged::default()
        }
    }

    /// The story of the sample run up to its middle.
    pub(crate) fn story() -> Vec<WatchRunsResponse> {
        let done = |index, id: &str, seconds: i64, cents| TaskChanged {
            outcome: Outcome::Ok.into(),
            usage: Some(usage(cents)),
            execution_time: Some(prost_types::Duration { seconds, nanos: 0 }),
            ..changed(index, id, TaskState::Succeeded)
        };
        let retrying = TaskChanged {
            outcome: Outcome::ApiError.into(),
            detail: "overloaded (529)".into(),
            retry_at: Some(at(88)),
            usage: Some(usage(20)),
            ..changed(3, "db-notes", TaskState::WaitingRetry)
        };
        let activity = Activity {
            task_id: "ui-notes".into(),
            now: "Edit docs/ui.md".into(),
            num_turns: 14,
            cost_micro_usd: 440_000,
            agent: "box-3".into(),
        };
        let on_box_3 = TaskChanged { agent: "box-3".into(), ..changed(2, "ui-notes", TaskState::Running) };
        vec![
            snapshot(),
            event(10, 1, Change::Task(changed(0, "plan", TaskState::Leased))),
            event(11, 1, Change::Task(changed(0, "plan", TaskState::Running))),
            event(12, 22, Change::Task(done(0, "plan", 21, 8))),
            event(13, 22, Change::Task(changed(1, "api-notes", TaskState::Running))),
            event(14, 23, Change::Task(on_box_3)),
            event(15, 23, Change::Task(changed(3, "db-notes", TaskState::Running))),
            event(16, 70, Change::Task(done(1, "api-notes", 48, 31))),
            event(17, 80, Change::Task(retrying)),
            event(0, 81, Change::Activity(activity)),
        ]
    }

    /// The end of the sample run.
    pub(crate) fn ending(state: RunState) -> WatchRunsResponse {
        let run = RunChanged { state: state.into(), task_count: 5, usage: Some(usage(214)) };
        event(30, 302, Change::Run(run))
    }

    /// The model after the story.
    pub(crate) fn model() -> Model {
        let mut model = Model::default();
        for frame in story() {
            model.apply(&frame);
        }
        model
    }
}

#[cfg(test)]
mod tests {
    use orch_proto::v1::{RunChanged, RunState, TaskChanged};

    use super::samples::*;
    use super::*;

    #[test]
    fn tasks_that_join_a_run_are_filled_in_from_a_list() {
        let mut model = model();
        assert_eq!(model.lacking(), None);
        let joined =
            TaskChanged { attempt: 0, agent: String::new(), ..changed(5, "proof", TaskState::Blocked) };
        model.apply(&event(20, 90, Change::Task(joined)));
        let grown = RunChanged { state: RunState::Running.into(), task_count: 7, usage: None };
        model.apply(&event(21, 90, Change::Run(grown)));
        assert_eq!(model.lacking(), Some((7, 1)));
        let listed = vec![
            v1::Task { state: TaskState::Queued.into(), ..task(0, "plan", &[]) },
            task(5, "proof", &["merge"]),
            task(6, "proof.review", &["proof"]),
        ];
        model.fill(listed);
        assert_eq!(model.task("plan").unwrap().state(), TaskState::Succeeded, "an event outranks a list");
        let proof = model.task("proof").unwrap();
        assert_eq!(
            (proof.worker.as_str(), proof.dependencies.as_slice()),
            ("anga", &["merge".to_owned()][..])
        );
        assert_eq!(model.task("proof.review").unwrap().state(), TaskState::Blocked);
        assert_eq!(model.lacking(), None);
    }

    #[test]
    fn a_task_that_is_sent_back_is_counted_once() {
        let mut model = model();
        let back = TaskChanged {
            outcome: v1::Outcome::GateFailed.into(),
            ..changed(2, "ui-notes", TaskState::Queued)
        };
        model.apply(&event(20, 90, Change::Task(back.clone())));
        model.apply(&event(21, 90, Change::Task(back)));
        assert_eq!(model.task("ui-notes").unwrap().repairs, 1);
    }

    #[test]
    fn events_bring_the_snapshot_up_to_date() {
        let model = model();
        assert_eq!(model.task("plan").unwrap().state(), TaskState::Succeeded);
        assert_eq!(model.task("db-notes").unwrap().retry_at, Some(at(88)));
        let ui = model.rows().nth(2).unwrap();
        assert_eq!((ui.now.as_str(), ui.task.num_turns, ui.cost()), ("Edit docs/ui.md", 14, 440_000));
        assert_eq!(model.cost(), (80_000 + 310_000 + 200_000 + 440_000, true));
    }

    #[test]
    fn a_second_snapshot_tells_only_what_was_missed() {
        let mut model = model();
        let mut again = snapshot();
        for (task, state) in again.tasks.iter_mut().zip([
            TaskState::Succeeded,
            TaskState::Succeeded,
            TaskState::Succeeded,
            TaskState::WaitingRetry,
            TaskState::Blocked,
        ]) {
            task.state = state.into();
            task.attempt = if state == TaskState::Blocked { 0 } else { 1 };
        }
        let told = model.apply(&again);
        let names: Vec<_> = told
            .iter()
            .map(|told| match &told.what {
                What::Task(task) => task.task_id.clone(),
                What::Run { .. } | What::Agent { .. } | What::Budget(_) => "other".to_owned(),
            })
            .collect();
        assert_eq!(names, ["ui-notes"]);
    }

    #[test]
    fn a_snapshot_of_a_finished_run_tells_its_end() {
        let mut frame = snapshot();
        frame.run.as_mut().unwrap().state = RunState::Succeeded.into();
        let told = Model::default().apply(&frame);
        assert!(matches!(&told[..], [Told { what: What::Run { .. }, .. }]));
    }

    #[test]
    fn only_a_run_in_which_nothing_moves_waits_alone() {
        let mut model = Model::default();
        model.apply(&snapshot());
        assert_eq!(
            model.waiting_alone().iter().map(|task| task.task_id.as_str()).collect::<Vec<_>>(),
            ["plan"]
        );
        model.apply(&event(10, 1, Change::Task(changed(0, "plan", TaskState::Running))));
        assert!(model.waiting_alone().is_empty());
    }

    #[test]
    fn an_activity_ends_with_its_attempt() {
        let mut model = model();
        model.apply(&event(20, 90, Change::Task(changed(2, "ui-notes", TaskState::WaitingRetry))));
        let ui = model.rows().nth(2).unwrap();
        assert_eq!((ui.now.as_str(), ui.running_cost), ("", 0));
    }
}
