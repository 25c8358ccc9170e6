//! What a task of a run file waits for, what must hold of it, and where its files go: `after`, `when`, `gates`, `publish`.
//! The names are those of workflows.

use std::ops::Range;

use orch_proto::codes::ErrorCode;
use orch_proto::v1::{After, Condition, ConditionTest, GateCommand, Gates, Publication, Review};

use super::object::Object;
use crate::args::parse;

/// Most entries of each list, from the wire's documentation.
const MAX_CONDITIONS: usize = 16;
const MAX_COMMANDS: usize = 16;
const MAX_ARTIFACTS: usize = 64;
const MAX_PUBLICATIONS: usize = 32;
/// Most times a task is sent back.
const MAX_REPAIRS: u32 = 10;

const GATES: &[&str] = &["min_tool_calls", "required_artifacts", "commands", "review", "repairs"];
const COMMAND: &[&str] = &["run", "timeout", "dir"];
const REVIEW: &[&str] = &["worker", "instructions", "model"];
const PUBLICATION: &[&str] = &["artifact", "to", "replace"];
const CONDITION: &[&str] = &["task", "pointer", "test", "value"];
const TESTS: &[(&str, ConditionTest)] = &[
    ("exists", ConditionTest::Exists),
    ("absent", ConditionTest::Absent),
    ("equals", ConditionTest::Equals),
    ("not_equals", ConditionTest::NotEquals),
    ("below", ConditionTest::Below),
    ("at_least", ConditionTest::AtLeast),
    ("contains", ConditionTest::Contains),
];

/// What its dependencies must have done.
pub(super) fn after(object: &mut Object<'_, '_>) -> After {
    object.one_of("after", &[("success", After::Success), ("end", After::End)]).unwrap_or(After::Unspecified)
}

/// What must hold before it counts as done.
pub(super) fn gates(object: &mut Object<'_, '_>) -> Option<Gates> {
    let mut gates = object.within("gates", "gates", GATES)?;
    let required: Vec<_> =
        gates.text_list("required_artifacts").into_iter().map(|(glob, _)| glob.to_owned()).collect();
    if required.len() > MAX_ARTIFACTS {
        let message = format!("at most {MAX_ARTIFACTS} files can be required, these are {}", required.len());
        gates.wrong(ErrorCode::InvalidGate, "required_artifacts", &message, "");
    }
    Some(Gates {
        min_tool_calls: gates.whole("min_tool_calls", 0).unwrap_or(0),
        required_artifacts: required,
        commands: gates.each("commands", MAX_COMMANDS, ("a gate", COMMAND), command),
        review: review(&mut gates),
        repairs: gates.whole_up_to("repairs", 0, MAX_REPAIRS),
    })
}

fn command(object: &mut Object<'_, '_>) -> Option<GateCommand> {
    let words = object.text_list("run");
    let timeout = object
        .number_or_text("timeout", "seconds, or a duration such as \"10m\"", parse::duration)
        .and_then(|timeout| timeout.try_into().ok());
    let dir = object.text("dir").map(|(dir, _)| dir.to_owned()).unwrap_or_default();
    let Some(((program, _), args)) = words.split_first().filter(|((program, _), _)| !program.is_empty())
    else {
        if object.has("run") {
            let note = "such as [\"cargo\", \"test\"]";
            object.wrong(ErrorCode::InvalidGate, "run", "\"run\" names no program", note);
        } else {
            object.missing(ErrorCode::InvalidGate, "the gate has no \"run\"");
        }
        return None;
    };
    let args = args.iter().map(|(arg, _)| (*arg).to_owned()).collect();
    Some(GateCommand { program: (*program).to_owned(), args, timeout, dir })
}

fn review(gates: &mut Object<'_, '_>) -> Option<Review> {
    let mut review = gates.within("review", "a review", REVIEW)?;
    let worker = review.needed(ErrorCode::InvalidGate, "worker", "the review")?.to_owned();
    let mut text = |name| review.text(name).map(|(text, _)| text.to_owned()).unwrap_or_default();
    Some(Review { worker, instructions: text("instructions"), model: text("model") })
}

/// Where its files go.
pub(super) fn publications(object: &mut Object<'_, '_>) -> Vec<Publication> {
    object.each("publish", MAX_PUBLICATIONS, ("a publication", PUBLICATION), |one| {
        let artifact = one.needed(ErrorCode::InvalidPublication, "artifact", "the publication");
        let to = one.needed(ErrorCode::InvalidPublication, "to", "the publication");
        let replace = one.flag("replace");
        Some(Publication { artifact: artifact?.to_owned(), to: to?.to_owned(), replace })
    })
}

/// What must hold of the results of its dependencies.
pub(super) fn conditions(
    object: &mut Object<'_, '_>,
    dependencies: &[(&str, Range<usize>)],
) -> Vec<Condition> {
    object.each("when", MAX_CONDITIONS, ("a condition", CONDITION), |one| {
        let task = one.needed(ErrorCode::InvalidCondition, "task", "the condition");
        if let Some(task) = task.filter(|task| !dependencies.iter().any(|(id, _)| id == task)) {
            let message =
                format!("the condition asks for {task:?}, which is none of the task's dependencies");
            one.wrong(ErrorCode::InvalidCondition, "task", &message, "name it under \"dependencies\" too");
        }
        let pointer = one.text("pointer").map(|(pointer, _)| pointer.to_owned()).unwrap_or_default();
        let test = one.one_of("test", TESTS);
        if test.is_none() && !one.has("test") {
            one.missing(ErrorCode::InvalidCondition, "the condition has no \"test\"");
        }
        let value = one.json("value");
        let alone = matches!(test, Some(ConditionTest::Exists | ConditionTest::Absent));
        match (&value, test) {
            (Some(_), Some(_)) if alone => {
                let message = "there is nothing to compare with";
                one.wrong(ErrorCode::InvalidCondition, "value", message, "take it away");
            }
            (None, Some(_)) if !alone => {
                one.missing(ErrorCode::InvalidCondition, "the condition has no \"value\" to compare with");
            }
            (Some(_) | None, Some(_) | None) => {}
        }
        Some(Condition {
            task_id: task?.to_owned(),
            pointer,
            test: test?.into(),
            value: value.unwrap_or_default(),
        })
    })
}
