//! Runs with parts: reviews, conditions, a synthesis, a plan. From small random values to what a client submits and what
//! a director says.

use crate::ops::Task;
use orch_core::event::{After, Consultation, Expansion, FailurePolicy, Flow, NewTask, Planning, Role, Shape};
use orch_core::ids::TaskIndex;
use orch_core::outcome::Outcome;
use orch_core::query::{Question, QuestionKind};
use proptest::prelude::*;
use std::sync::Arc;

/// How the tasks of a submit go together.
#[derive(Debug, Clone, Copy, Default)]
pub struct Parts {
    pub policy: u8,
    pub max_parallel: u8,
    pub synthesis: bool,
    /// 1 plans, 2 waits for a person, 3 only plans; everything else has no planner.
    pub planning: u8,
}

pub fn any_parts() -> impl Strategy<Value = Parts> {
    (0..6u8, prop::sample::select(vec![0, 0, 0, 1, 2]), any::<bool>(), 0..8u8).prop_map(
        |(policy, max_parallel, synthesis, planning)| Parts { policy, max_parallel, synthesis, planning },
    )
}

impl Parts {
    pub fn is_planned(self) -> bool {
        (1..4).contains(&self.planning)
    }

    pub fn shape(self) -> Shape {
        Shape {
            policy: match self.policy {
                0 => FailurePolicy::FailFast,
                1 | 2 => FailurePolicy::BestEffort,
                _ => FailurePolicy::Continue,
            },
            max_parallel: u32::from(self.max_parallel),
            planning: self.is_planned().then_some(Planning {
                approve: self.planning == 2,
                plan_only: self.planning == 3,
                expanded: false,
            }),
            workflow: None,
            budget: None,
            first_budget_micro_usd: None,
            settings: if self.is_planned() { Arc::from([7u8].as_slice()) } else { Arc::default() },
        }
    }

    /// The tasks of a submit.
    pub fn tasks(self, tasks: &[Task]) -> Vec<NewTask> {
        if self.is_planned() {
            let plan = NewTask {
                flow: Flow { role: Role::Plan, repairs: 1, ..Flow::default() },
                ..tasks[0].task(0)
            };
            return vec![NewTask { dependencies: Vec::new(), ..plan }, synthesis(1, vec![TaskIndex(0)])];
        }
        let mut made = grow(tasks, 0);
        if self.synthesis {
            let index = made.len() as u32;
            made.push(synthesis(index, (0..index).map(TaskIndex).collect()));
        }
        made
    }
}

fn synthesis(index: u32, dependencies: Vec<TaskIndex>) -> NewTask {
    let flow = Flow { role: Role::Synthesis, after: After::End, ..Flow::default() };
    NewTask { dependencies, flow, ..crate::ops::plain(0).task(index as usize) }
}

/// Tasks whose indexes start at `first`, each followed by its review where it has one.
fn grow(tasks: &[Task], first: u32) -> Vec<NewTask> {
    let mut made: Vec<NewTask> = Vec::new();
    let mut places: Vec<TaskIndex> = Vec::new();
    for (at, task) in tasks.iter().enumerate() {
        let index = first + made.len() as u32;
        let mut new = task.task(index as usize);
        let waits_for = |other: &usize| task.after >> other & 1 == 1;
        new.dependencies = (0..at.min(8)).filter(waits_for).map(|other| places[other]).collect();
        places.push(TaskIndex(index));
        new.flow = Flow {
            after: if task.end { After::End } else { After::Success },
            conditional: task.conditional,
            reviewed: task.reviewed,
            repairs: u32::from(task.repairs),
            ..Flow::default()
        };
        made.push(new);
        if task.reviewed {
            let flow = Flow { role: Role::Review, of: Some(TaskIndex(index)), ..Flow::default() };
            let review = crate::ops::plain(0).task(index as usize + 1);
            made.push(NewTask { dependencies: vec![TaskIndex(index)], flow, ..review });
        }
    }
    made
}

/// The tasks of a plan. `flaw` makes some of them useless.
pub fn expansion(tasks: &[Task], flaw: u8) -> Expansion {
    let mut made = grow(tasks, 2);
    match flaw {
        0 => made[0].id = "t0".into(),
        1 => made[0].dependencies = vec![TaskIndex(2)],
        2 => made[0].dependencies = vec![TaskIndex(77)],
        _ => {}
    }
    let all = (0..made.len() as u32 + 2).filter(|index| *index != 1).map(TaskIndex).collect();
    Expansion { tasks: made, rewired: vec![(TaskIndex(1), all)] }
}

/// What a director says to a question, sometimes nonsense.
pub fn answer(question: &Question, word: u8, tasks: &[Task], flaw: u8) -> Consultation {
    let detail: Arc<str> = "as it were".into();
    let send_back =
        || Consultation::SendBack { payload: Arc::from([2u8].as_slice()), detail: detail.clone() };
    let refuse = || Consultation::Refuse { outcome: Outcome(word), detail: detail.clone(), payload: None };
    match (question.kind, word % 8) {
        (_, 0) => Consultation::Run,
        (QuestionKind::Conditions, 1 | 2) => Consultation::Skip { detail },
        (QuestionKind::Conditions, _) => Consultation::Run,
        (_, 1 | 2) => send_back(),
        (_, 3) => refuse(),
        (QuestionKind::Plan, 4) => Consultation::Hold,
        (QuestionKind::Plan, 5..) => Consultation::Expand(Box::new(expansion(tasks, flaw))),
        (QuestionKind::Review { .. }, _) => Consultation::Accept { payload: None },
    }
}

/// What lets everything go on.
pub fn good_answer(question: &Question, planning: Option<Planning>) -> Consultation {
    match (question.kind, planning) {
        (QuestionKind::Conditions, _) => Consultation::Run,
        (QuestionKind::Plan, Some(Planning { plan_only: true, .. })) | (QuestionKind::Review { .. }, _) => {
            Consultation::Accept { payload: None }
        }
        (QuestionKind::Plan, Some(Planning { approve: true, .. })) => Consultation::Hold,
        (QuestionKind::Plan, _) => Consultation::Expand(Box::new(expansion(&[crate::ops::plain(0)], 9))),
    }
}
