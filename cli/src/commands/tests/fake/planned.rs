//! Planned runs of the fake: a request becomes three tasks, waits for an answer if it was asked to, and ends well. A
//! request that says `bad plan` comes to nothing.

use super::*;
use crate::plan::samples;

/// What the last task of every planned run says.
pub(in super::super) const SYNTHESIS: &str = r##"{
  "summary": "Two students evaluated.",
  "tasks": [{"id": "emma", "line": "ready for the next level"}, {"id": "lucas", "line": "needs a slower count"}],
  "conflicts": ["emma and lucas name different songs"],
  "gaps": ["Sophia Chen was not there"],
  "next_steps": [{"step": "talk to Lucas", "impact": "high"}, {"step": "order shoes", "impact": "low"}],
  "answer": "# The class\n\nEmma is **ready**; Lucas needs time.\n\n- [Emma](students/emma/e.md)\n\n```\n# no heading\n```"
}"##;

/// A task of a planned run.
pub(in super::super) fn task(run: &str, index: u32, id: &str, role: TaskRole, needs: &[&str]) -> Task {
    let worker = match (role, id) {
        (TaskRole::Plan | TaskRole::Synthesis, _) => "orchestrator",
        (TaskRole::Publish, _) => "",
        (TaskRole::Review, _) => "anga",
        (_, "note") => "fabien",
        (_, _) => "marie",
    };
    let of = match role {
        TaskRole::Review | TaskRole::Publish => id.split('.').next().unwrap_or_default(),
        TaskRole::Unspecified | TaskRole::Work | TaskRole::Plan | TaskRole::Synthesis => "",
    };
    Task {
        r#ref: format!("{run}/{id}"),
        index,
        task_id: id.into(),
        state: TaskState::Blocked.into(),
        worker: worker.into(),
        runner: if role == TaskRole::Publish { "publish" } else { "claude" }.into(),
        dependencies: needs.iter().map(|need| (*need).to_owned()).collect(),
        role: role.into(),
        of: of.into(),
        ..Task::default()
    }
}

/// The tasks that a plan adds.
fn planned(run: &str) -> Vec<Task> {
    vec![
        task(run, 2, "emma", TaskRole::Work, &["plan"]),
        task(run, 3, "lucas", TaskRole::Work, &["plan"]),
        task(run, 4, "note", TaskRole::Work, &["plan", "emma", "lucas"]),
        task(run, 5, "emma.publish", TaskRole::Publish, &["emma"]),
        task(run, 6, "lucas.review", TaskRole::Review, &["lucas"]),
    ]
}

impl Held {
    /// The two tasks with which every request begins.
    pub(super) fn request(&self, reference: &str) -> Vec<Task> {
        let plan = task(reference, 0, "plan", TaskRole::Plan, &[]);
        let queued = Task { state: TaskState::Queued.into(), ..plan };
        vec![queued, task(reference, 1, "synthesis", TaskRole::Synthesis, &["plan"])]
    }

    /// Goes on with a planned run as far as it goes.
    pub(super) fn advance(&mut self, at: usize) -> Vec<WatchEvent> {
        let request = self.specs[at].request.clone().unwrap_or_default();
        let mut changes = Vec::new();
        if self.runs[at].0.state() == RunState::Planning {
            let bad = request.text.contains("bad plan");
            let (state, outcome) = if bad {
                (TaskState::Failed, Outcome::GateFailed)
            } else {
                (TaskState::Succeeded, Outcome::Ok)
            };
            changes.push(self.end(at, 0, state, outcome));
            if bad || request.plan_only {
                changes.push(self.end(at, 1, TaskState::Skipped, Outcome::Skipped));
                let run = &mut self.runs[at].0;
                run.outcome = outcome.into();
                changes.push(self.come_to(at, if bad { RunState::Failed } else { RunState::Succeeded }));
            } else if request.approve {
                changes.push(self.come_to(at, RunState::WaitingApproval));
            } else {
                changes.extend(self.expand(at));
            }
        }
        if self.runs[at].0.state() == RunState::Running {
            for index in 2..7 {
                changes.push(self.end(at, index, TaskState::Succeeded, Outcome::Ok));
            }
            changes.push(self.come_to(at, RunState::Synthesizing));
            self.runs[at].1[1].structured = SYNTHESIS.into();
            changes.push(self.end(at, 1, TaskState::Succeeded, Outcome::Ok));
            self.runs[at].0.outcome = Outcome::Ok.into();
            changes.push(self.come_to(at, RunState::Succeeded));
        }
        let run = self.runs[at].0.r#ref.clone();
        wrap(&run, changes)
    }

    /// The tasks of the plan join the run.
    fn expand(&mut self, at: usize) -> Vec<Change> {
        let (run, tasks) = &mut self.runs[at];
        let joined = planned(&run.r#ref);
        tasks[1].dependencies.extend(joined.iter().map(|task| task.task_id.clone()));
        let mut changes: Vec<_> = joined.iter().map(change).collect();
        tasks.extend(joined);
        run.task_count = u32::try_from(tasks.len()).unwrap();
        changes.push(self.come_to(at, RunState::Running));
        changes
    }

    fn end(&mut self, at: usize, index: usize, state: TaskState, outcome: Outcome) -> Change {
        let task = &mut self.runs[at].1[index];
        task.state = state.into();
        task.outcome = outcome.into();
        if state != TaskState::Skipped {
            task.attempt = 1;
            task.agent = "box-1".into();
        }
        change(task)
    }

    fn come_to(&mut self, at: usize, state: RunState) -> Change {
        let run = &mut self.runs[at].0;
        run.state = state.into();
        Change::Run(RunChanged { state: state.into(), task_count: run.task_count, usage: None })
    }

    pub(super) fn plan_of(&self, at: usize) -> GetPlanResponse {
        let run = &self.runs[at].0;
        let mut answer = samples::answer(&run.r#ref, run.state());
        answer.run = Some(run.clone());
        if self.specs[at].request.as_ref().is_some_and(|request| request.text.contains("bad plan")) {
            answer.tasks.clear();
            answer.problems = vec!["task `note` depends on `lukas`, which is not in the plan".into()];
        }
        if let Some((plan, problems)) = &self.plan {
            answer.plan.clone_from(plan);
            answer.problems.clone_from(problems);
        }
        answer
    }

    pub(super) fn decide(
        &mut self,
        request: &DecidePlanRequest,
        at: usize,
    ) -> Result<DecidePlanResponse, Status> {
        if self.runs[at].0.state() != RunState::WaitingApproval {
            let state = self.runs[at].0.state().as_str_name();
            return Err(Status::failed_precondition(format!("{} does not wait: {state}", request.r#ref)));
        }
        if request.plan.contains("lukas") {
            let problems = vec!["task `note` depends on `lukas`, which is not in the plan".to_owned()];
            return Ok(DecidePlanResponse { run: Some(self.runs[at].0.clone()), problems });
        }
        if request.decision() == PlanDecision::Approve {
            self.expand(at);
        } else {
            self.come_to(at, RunState::Cancelled);
        }
        Ok(DecidePlanResponse { run: Some(self.runs[at].0.clone()), problems: Vec::new() })
    }
}

fn change(task: &Task) -> Change {
    Change::Task(TaskChanged {
        task_id: task.task_id.clone(),
        index: task.index,
        state: task.state,
        outcome: task.outcome,
        attempt: task.attempt,
        agent: task.agent.clone(),
        ..TaskChanged::default()
    })
}
