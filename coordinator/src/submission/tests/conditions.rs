//! Conditions: which of them could be evaluated.

use super::*;
use v1::ConditionTest::{Absent, AtLeast, Contains, Equals, Exists, NotEquals};

fn condition(task: &str, pointer: &str, test: v1::ConditionTest, value: &str) -> v1::Condition {
    v1::Condition { task_id: task.into(), pointer: pointer.into(), test: test.into(), value: value.into() }
}

fn with(conditions: Vec<v1::Condition>) -> Vec<v1::TaskSpec> {
    vec![noop("first"), v1::TaskSpec { conditions, ..worker_task("second", "x", &["first"]) }]
}

fn refused_part(condition: v1::Condition, part: &str) -> String {
    refused(with(vec![condition]), ErrorCode::InvalidCondition, &format!("tasks[1].conditions[0].{part}"))
}

#[test]
fn conditions_that_can_be_evaluated_are_kept() {
    let conditions = vec![
        condition("first", "", Exists, ""),
        condition("first", "/scores/overall", AtLeast, "7.5"),
        condition("first", "/a~1b/~0", Contains, "\"x\""),
        condition("first", "/missing", Absent, ""),
        condition("first", "state", Equals, "\"failed\""),
        condition("first", "outcome", NotEquals, "\"gate_failed\""),
    ];
    assert_eq!(check(with(conditions.clone())).unwrap().tasks[1].conditions, conditions);
}

#[test]
fn a_condition_is_about_a_dependency() {
    let message = refused(
        with(vec![condition("frist", "/x", Exists, "")]),
        ErrorCode::UnknownDependency,
        "tasks[1].conditions[0].task_id",
    );
    assert!(message.contains("did you mean `first`?"), "{message}");
    let elsewhere = vec![
        noop("first"),
        noop("other"),
        v1::TaskSpec {
            conditions: vec![condition("other", "/x", Exists, "")],
            ..worker_task("second", "x", &["first"])
        },
    ];
    refused(elsewhere, ErrorCode::UnknownDependency, "tasks[2].conditions[0].task_id");
}

#[test]
fn pointers_tests_and_values_have_a_form() {
    for pointer in ["x", "a/b", "/a~", "/a~2", "State", &format!("/{}", "x".repeat(1_024))] {
        refused_part(condition("first", pointer, Exists, ""), "pointer");
    }
    for test in [0, 99, -1] {
        refused_part(v1::Condition { test, ..condition("first", "/x", Exists, "") }, "test");
    }
    for value in ["", "nope", "{", "'x'", "1 2"] {
        refused_part(condition("first", "/x", Equals, value), "value");
    }
    refused_part(condition("first", "/x", Equals, &"[".repeat(4_000)), "value");
    refused_part(condition("first", "/x", AtLeast, "\"7\""), "value");
    refused_part(condition("first", "/x", Exists, "1"), "value");
    let many = vec![condition("first", "/x", Exists, ""); 17];
    refused(with(many), ErrorCode::TooLarge, "tasks[1].conditions");
    let long = vec![condition("first", "/x", Equals, &format!("\"{}\"", "x".repeat(16_384)))];
    refused(with(long), ErrorCode::TooLarge, "tasks[1].conditions");
}

#[test]
fn state_and_outcome_are_compared_with_words_that_exist() {
    for (pointer, test, value, part) in [
        ("state", Equals, "\"done\"", "value"),
        ("state", Equals, "\"running\"", "value"),
        ("outcome", Equals, "\"succeeded\"", "value"),
        ("outcome", Equals, "1", "value"),
        ("state", AtLeast, "1", "test"),
        ("state", Exists, "", "test"),
    ] {
        refused_part(condition("first", pointer, test, value), part);
    }
}
