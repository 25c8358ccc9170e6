//! What people and models write.

use crate::given::{IN_FORCE, SHIPPED, planning, with_given};
use orch_coordinator::planning::{Judgement, judge, read_plan};
use orch_coordinator::prompts::{parse_subagent, parse_worker};
use orch_coordinator::workflows::{compile, examine};
use orch_proto::v1;

/// A workflow, sent with a call: examined, compiled, and looked at by the command line.
pub fn workflow(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (definition, parameters) = text.split_once('\0').unwrap_or((text, ""));
    let call = v1::WorkflowCall {
        definition: definition.to_owned(),
        parameters: parameters.to_owned(),
        ..Default::default()
    };
    let found = examine(&call, &IN_FORCE, true);
    for problem in &found.problems {
        assert!(!problem.message.contains('\u{1b}'), "{problem:?}");
    }
    match compile(&call, &IN_FORCE) {
        Ok(spec) => assert!(!spec.tasks.is_empty()),
        Err(problems) => assert!(!problems.is_empty()),
    }
    let _ = orchctl::fuzzing::workflow_file(definition);
}

/// A planner's answer.
pub fn plan(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = read_plan(text);
    with_given(|given| match judge(text, &planning(), 1, given) {
        Judgement::Expand(tasks) => assert!(!tasks.is_empty()),
        Judgement::SendBack { feedback, detail } => {
            assert!(!feedback.is_empty() && detail.len() <= 400, "{detail}");
        }
        Judgement::Refuse { detail, .. } => assert!(!detail.is_empty() && detail.len() <= 400, "{detail}"),
        Judgement::Hold | Judgement::Accept => {}
    });
}

/// The file of a worker or of a sub-agent, alone and as a layer that somebody sent.
pub fn front_matter(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let worker = parse_worker("workers/fuzzed.md", text);
    if let Err(error) = &worker {
        assert!(!error.to_string().contains('\u{1b}'), "{error}");
    }
    let parsed = [
        ("workers/fuzzed.md", worker.is_ok()),
        ("subagents/fuzzed.md", parse_subagent("subagents/fuzzed.md", text).is_ok()),
    ];
    // Putting a catalogue together takes long: only for what could be part of it.
    for (path, _) in parsed.iter().filter(|(_, good)| *good) {
        if let Ok(catalogue) = SHIPPED.with_layer([(*path, bytes)]) {
            for worker in catalogue.workers() {
                let stored = worker.to_definition_bytes();
                assert!(orch_coordinator::prompts::Worker::from_definition_bytes(&stored).is_ok());
            }
        }
    }
}

/// A run as people write it for the command line.
pub fn run_file(bytes: &[u8]) {
    match orchctl::fuzzing::run_file(bytes) {
        Ok(spec) => assert!(!spec.tasks.is_empty() || spec.request.is_some() || spec.workflow.is_some()),
        Err(problems) => assert!(!problems.is_empty()),
    }
}
