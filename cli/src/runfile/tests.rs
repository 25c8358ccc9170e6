//! What people see of a run file: what it becomes, and every way in which it can be wrong.

use std::time::Duration;

use orch_proto::v1::task_spec::Runner;
use orch_proto::v1::{OnLoss, TaskSpec};

use super::*;

mod refused;

fn good(text: &str) -> RunSpec {
    read("run.json", text.as_bytes()).unwrap_or_else(|failure| panic!("{}", failure.text(false)))
}

fn errors(text: &str) -> String {
    let failure = read("run.json", text.as_bytes()).expect_err("this must be refused");
    assert_eq!(failure.exit_code(), crate::exit::USAGE);
    failure.text(false)
}

fn only(spec: RunSpec) -> TaskSpec {
    assert_eq!(spec.tasks.len(), 1);
    spec.tasks.into_iter().next().unwrap()
}

#[test]
fn the_earlier_system_s_list_of_tasks_is_read_whole() {
    let spec = good(
        r#"[
        {"task_id": "draft", "worker": "fabien", "description": "Write", "dependencies": [], "priority": "high",
         "timeout": 600, "context": {"class": "hip-hop", "seats": 20}},
        {"task_id": "check", "worker": "anga", "description": "Check", "dependencies": ["draft"], "priority": 7,
         "timeout": "10m", "context": "be kind"}
    ]"#,
    );
    let [draft, check] = spec.tasks.try_into().unwrap();
    assert_eq!((draft.priority, check.priority), (Some(100), Some(7)));
    for task in [&draft, &check] {
        assert_eq!(Duration::try_from(task.timeout.unwrap()).unwrap(), Duration::from_secs(600));
    }
    assert_eq!(check.dependencies, ["draft"]);
    let Some(Runner::Worker(work)) = draft.runner else { panic!("no worker") };
    assert_eq!((work.worker.as_str(), work.description.as_str()), ("fabien", "Write"));
    assert_eq!(work.context, r#"{"class": "hip-hop", "seats": 20}"#);
}

#[test]
fn every_field_reaches_the_specification() {
    let spec = good(
        r#"{"name": "nightly", "labels": {"team": "dance"}, "tasks": [
        {"task_id": "t", "worker": "marie", "description": "d", "model": "opus", "retries": 0,
         "requires": {"gpu": "yes"}, "budget_usd": 0.5, "max_turns": 9, "output_schema": {"type": "object"},
         "on_loss": "wait", "agent": "box-1", "context": null}]}"#,
    );
    assert_eq!((spec.name.as_str(), spec.labels["team"].as_str()), ("nightly", "dance"));
    let task = only(spec);
    assert_eq!((task.retries, task.on_loss(), task.agent.as_str()), (Some(0), OnLoss::Wait, "box-1"));
    assert_eq!(task.requires["gpu"], "yes");
    let Some(Runner::Worker(work)) = task.runner else { panic!("no worker") };
    assert_eq!(
        (work.budget_micro_usd, work.max_turns, work.model.as_str()),
        (Some(500_000), Some(9), "opus")
    );
    assert_eq!((work.output_schema.as_str(), work.context.as_str()), (r#"{"type": "object"}"#, ""));
}

#[test]
fn a_lone_task_needs_no_id_and_commands_take_arguments() {
    let task = only(good(
        r#"[{"runner": "command", "program": "make", "args": ["test", "-k"], "description": "tests"}]"#,
    ));
    assert_eq!(task.task_id, "");
    let Some(Runner::Command(command)) = task.runner else { panic!("no command") };
    assert_eq!(
        (command.program.as_str(), command.args.as_slice()),
        ("make", &["test".to_owned(), "-k".to_owned()][..])
    );
}

#[test]
fn what_a_task_waits_for_and_what_must_hold_reach_the_specification() {
    use orch_proto::v1::{After, ConditionTest, FailurePolicy};
    let spec = good(
        r#"{"on_failure": "best_effort", "max_parallel": 2, "workspace": "dance", "no_cache": true, "tasks": [
        {"task_id": "a", "worker": "marie", "description": "d", "contract": true, "cache": true,
         "expected_cost_usd": 0.25, "after_ref": "adhoc/7/task",
         "gates": {"min_tool_calls": 3, "required_artifacts": ["*.md"], "repairs": 2,
                   "commands": [{"run": ["cargo", "test"], "timeout": "2m", "dir": "src"}],
                   "review": {"worker": "anga", "instructions": "is it kind"}},
         "publish": [{"artifact": "e.md", "to": "students/{date}.md", "replace": true}]},
        {"task_id": "b", "runner": "noop", "dependencies": ["a"], "after": "end", "workspace": "other",
         "when": [{"task": "a", "pointer": "/status", "test": "equals", "value": "complete"},
                  {"task": "a", "test": "exists"}]}]}"#,
    );
    assert_eq!(spec.on_failure(), FailurePolicy::BestEffort);
    assert_eq!((spec.max_parallel, spec.workspace.as_str(), spec.no_cache), (2, "dance", true));
    let [a, b] = spec.tasks.try_into().unwrap();
    let gates = a.gates.clone().unwrap();
    assert_eq!(
        (gates.min_tool_calls, gates.repairs, gates.review.unwrap().worker.as_str()),
        (3, Some(2), "anga")
    );
    let command = &gates.commands[0];
    assert_eq!((command.program.as_str(), command.args.as_slice()), ("cargo", &["test".to_owned()][..]));
    assert_eq!((command.timeout.unwrap().seconds, command.dir.as_str()), (120, "src"));
    assert_eq!((a.publish[0].to.as_str(), a.publish[0].replace), ("students/{date}.md", true));
    assert_eq!((a.cache, a.expected_cost_micro_usd), (true, Some(250_000)));
    let Some(Runner::Worker(work)) = a.runner else { panic!("no worker") };
    assert_eq!((work.contract, work.after_ref.as_str()), (true, "adhoc/7/task"));
    assert_eq!((b.after(), b.workspace.as_str()), (After::End, "other"));
    assert_eq!(
        (b.conditions[0].test(), b.conditions[0].value.as_str()),
        (ConditionTest::Equals, "\"complete\"")
    );
    assert_eq!((b.conditions[1].test(), b.conditions[1].value.as_str()), (ConditionTest::Exists, ""));
}

#[test]
fn a_file_may_hold_a_request_that_is_planned() {
    let spec = good(
        r#"{"request": {"text": "evaluate", "approve": true, "max_tasks": 7, "workers": ["anga"],
        "context": {"class": 3}}, "workspace": "dance"}"#,
    );
    let request = spec.request.unwrap();
    assert_eq!((request.text.as_str(), request.approve, request.max_tasks), ("evaluate", true, 7));
    assert_eq!((request.context.as_str(), spec.tasks.len()), (r#"{"class": 3}"#, 0));
}
