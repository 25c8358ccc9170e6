//! Tasks as lines of text, inventories, and a state read back from its records.

use super::ONE;
use orch_core::event::{After, HeldState, InventoryItem, NewTask, OnLoss, Role};
use orch_core::ids::{AttemptKey, RunId, TaskIndex, TaskKey};
use orch_core::state::State;
use orch_core::time::Span;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A task a line: `id [after a,b] [needs k=v,k=v] [prio n] [retries n] [pin agent] [prefetch n] [wait] [timeout s]
/// [plan|synthesis] [reviews a] [publishes a] [end] [conditional] [reviewed] [repairs n]`.
pub fn tasks(lines: &str) -> Vec<NewTask> {
    let lines: Vec<Vec<&str>> = lines
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|words| !words.is_empty())
        .collect();
    let ids: Vec<&str> = lines.iter().map(|words| words[0]).collect();
    lines.iter().map(|words| task(words, &ids)).collect()
}

fn task(words: &[&str], ids: &[&str]) -> NewTask {
    let mut task = NewTask {
        id: words[0].into(),
        worker: "noop".into(),
        dependencies: Vec::new(),
        priority: 50,
        timeout: Span::hours(1),
        retries: 2,
        requires: Vec::new(),
        pinned: None,
        on_loss: OnLoss::Fast,
        prefetch: 0,
        flow: orch_core::event::Flow::default(),
        meter: None,
        expected_micro_usd: None,
    };
    let index = |id: &str| TaskIndex(ids.iter().position(|other| *other == id).expect("a dependency") as u32);
    let mut rest = words[1..].iter();
    while let Some(word) = rest.next() {
        match *word {
            "wait" => task.on_loss = OnLoss::Wait,
            "plan" => task.flow.role = Role::Plan,
            "synthesis" => task.flow.role = Role::Synthesis,
            "end" => task.flow.after = After::End,
            "conditional" => task.flow.conditional = true,
            "reviewed" => task.flow.reviewed = true,
            _ => {}
        }
        if ["wait", "plan", "synthesis", "end", "conditional", "reviewed"].contains(word) {
            continue;
        }
        let value = rest.next().expect("a value");
        match *word {
            "after" => {
                task.dependencies = value.split(',').map(index).collect();
                task.dependencies.sort_unstable();
            }
            "reviews" | "publishes" => {
                task.flow.role = if *word == "reviews" { Role::Review } else { Role::Publish };
                task.flow.of = Some(index(value));
                task.dependencies = vec![index(value)];
            }
            "repairs" => task.flow.repairs = value.parse().expect("a number"),
            "needs" => {
                task.requires = value.split(',').map(Arc::from).collect();
                task.requires.sort_unstable();
            }
            "prio" => task.priority = value.parse().expect("a number"),
            "retries" => task.retries = value.parse().expect("a number"),
            "pin" => task.pinned = Some((*value).into()),
            "prefetch" => task.prefetch = value.parse().expect("a number"),
            "timeout" => task.timeout = Span::seconds(value.parse().expect("a number")),
            other => panic!("what is `{other}`?"),
        }
    }
    task
}

/// Items of an inventory.
pub fn inventory(items: &[(AttemptKey, HeldState)]) -> Vec<InventoryItem> {
    items.iter().map(|(attempt, state)| InventoryItem { attempt: *attempt, state: *state }).collect()
}

/// What a crash and a restart leave of a state: its records, read back.
pub fn reload(old: &State, specs: &BTreeMap<RunId, Vec<NewTask>>) -> State {
    use orch_core::state::{RestoredAgent, RestoredRun, RestoredTask};
    let mut new = State::new(old.config().clone());
    for key in (0..64).map(orch_core::ids::AgentKey) {
        let Some(agent) = old.agent_record(key) else { continue };
        new.restore_agent(RestoredAgent {
            tenant: agent.tenant,
            name: agent.name.clone(),
            slots: agent.slots,
            capabilities: agent.capabilities.to_vec(),
            last_seen: agent.last_seen,
            labels: agent.labels.to_vec(),
            hidden: agent.hidden.to_vec(),
            drain: agent.drain.cloned(),
            quarantine: agent.quarantine.cloned(),
        });
    }
    for (id, specs) in specs {
        let Some(run) = old.run_record(*id) else { continue };
        let tasks = specs
            .iter()
            .zip(0u32..)
            .map(|(spec, index)| {
                let record =
                    old.task_record(TaskKey { run: *id, index: TaskIndex(index) }).expect("a record");
                RestoredTask { spec: spec.clone(), progress: Some(record.to_progress()) }
            })
            .collect();
        new.restore_run(RestoredRun {
            id: *id,
            tenant: run.tenant,
            name: run.name.clone(),
            number: run.number,
            submitted_by: run.submitted_by.clone(),
            created: run.created,
            state: run.state,
            finished: run.finished,
            labels: run.labels.to_vec(),
            request_id: run.request_id.clone(),
            spec_digest: *run.spec_digest,
            outcome: run.outcome,
            shape: run.shape.clone(),
            detail: run.detail.clone(),
            task_count: run.task_count,
            dead: run.dead,
            tasks,
        });
    }
    for budget in old.budgets(ONE) {
        new.restore_budget(budget);
    }
    new.restore_seq(old.event_seq());
    new.restore_last_run(old.last_run());
    new.finish_restore().expect("records fit together");
    new
}
