//! A fleet after a bad night: dead letters, an agent in quarantine and one that is gone for good.

use prost_types::Timestamp;

use super::*;

/// Seconds of 2026-11-20T21:26:53Z.
const START: i64 = 1_795_210_013;

/// A stage on which the scene is set.
pub(super) fn stage() -> Stage {
    let stage = Stage::new();
    {
        let mut held = stage.fake.held();
        for (run, tasks) in [("nightly/7", vec!["audit", "pack"]), ("adhoc/8", vec!["task"])] {
            let tasks: Vec<_> = (0..).zip(tasks).map(|(index, id)| dead(run, index, id)).collect();
            let run = Run {
                r#ref: run.into(),
                state: RunState::Failed.into(),
                outcome: Outcome::Poison.into(),
                task_count: u32::try_from(tasks.len()).unwrap(),
                ..Run::default()
            };
            held.runs.push((run, tasks));
            held.specs.push(RunSpec::default());
            held.request_ids.push(String::new());
        }
        let reason = "4 attempts of 3 tasks crashed there within 10 min";
        let well = held.agents.0[0].clone();
        held.agents.0.push(Agent {
            name: "box-3".into(),
            state: AgentState::Quarantined.into(),
            detail: format!("in quarantine: {reason}"),
            quarantine_reason: reason.into(),
            running: Vec::new(),
            slots_used: 0,
            ..well.clone()
        });
        held.agents.0.push(Agent {
            name: "box-7".into(),
            state: AgentState::Offline.into(),
            detail: "away since yesterday".into(),
            running: Vec::new(),
            slots_used: 0,
            ..well
        });
        let aside = "aside/restore-20261119T080000Z".to_owned();
        held.storage.now.aside.push(aside);
        held.storage.now.mended.push("a snapshot that was not finished was moved aside".into());
    }
    stage
}

fn dead(run: &str, index: u32, id: &str) -> Task {
    let attempt = |number, agent: &str| Attempt {
        number,
        agent: agent.into(),
        outcome: Outcome::LostAgent.into(),
        detail: format!("{agent} stopped while it ran"),
        ..Attempt::default()
    };
    Task {
        r#ref: format!("{run}/{id}"),
        index,
        task_id: id.into(),
        state: TaskState::Failed.into(),
        outcome: Outcome::Poison.into(),
        worker: "anga".into(),
        runner: "claude".into(),
        attempt: 3,
        agent: "box-1".into(),
        detail: "3 attempts on 2 agents took their agents down".into(),
        finished_at: Some(Timestamp { seconds: START, nanos: 0 }),
        attempts: vec![attempt(1, "box-1"), attempt(2, "box-3"), attempt(3, "box-1")],
        ..Task::default()
    }
}
