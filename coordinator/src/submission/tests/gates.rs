//! Gates, and the reviews that follow from them.

use super::*;

fn gated(gates: v1::Gates) -> v1::TaskSpec {
    v1::TaskSpec { gates: Some(gates), ..worker_task("a", "write it", &[]) }
}

fn artifacts(globs: &[&str]) -> v1::Gates {
    v1::Gates { required_artifacts: globs.iter().map(|&glob| glob.into()).collect(), ..Default::default() }
}

fn program(program: &str) -> v1::GateCommand {
    v1::GateCommand { program: program.into(), ..Default::default() }
}

fn commands(commands: Vec<v1::GateCommand>) -> v1::Gates {
    v1::Gates { commands, ..Default::default() }
}

fn reviewed(review: v1::Review) -> v1::Gates {
    v1::Gates { review: Some(review), ..Default::default() }
}

fn by(worker: &str) -> v1::Review {
    v1::Review { worker: worker.into(), ..Default::default() }
}

#[test]
fn a_gated_worker_is_sent_back_once_by_default_and_a_program_never() {
    let run = check(vec![gated(artifacts(&["*.md"]))]).unwrap();
    assert_eq!((run.tasks[0].repairs, run.tasks[0].reviewed), (1, false));
    assert_eq!(run.tasks[0].gates.as_ref().unwrap().required_artifacts, ["*.md"]);
    let often = v1::Gates { repairs: Some(10), ..artifacts(&["a"]) };
    assert_eq!(check(vec![gated(often.clone())]).unwrap().tasks[0].repairs, 10);
    let never = v1::Gates { repairs: Some(0), ..artifacts(&["a"]) };
    assert_eq!(check(vec![gated(never)]).unwrap().tasks[0].repairs, 0);
    let script = v1::TaskSpec { gates: Some(often), ..command("a", "make", &[]) };
    let script = check(vec![script]).unwrap();
    assert_eq!((script.tasks[0].repairs, script.tasks[0].gates.is_some()), (0, true));
    let empty = check(vec![gated(v1::Gates { repairs: Some(3), ..Default::default() })]).unwrap();
    assert_eq!((empty.tasks[0].repairs, &empty.tasks[0].gates), (0, &None), "no gate sends anybody back");
}

#[test]
fn a_gate_that_can_never_be_checked_is_refused() {
    let nothing = v1::TaskSpec { gates: Some(artifacts(&["a"])), ..noop("a") };
    refused(vec![nothing], ErrorCode::InvalidGate, "tasks[0].gates");
    let calls = v1::Gates { min_tool_calls: 1, ..Default::default() };
    let script = v1::TaskSpec { gates: Some(calls.clone()), ..command("a", "make", &[]) };
    refused(vec![script], ErrorCode::InvalidGate, "tasks[0].gates.min_tool_calls");
    assert_eq!(check(vec![gated(calls)]).unwrap().tasks[0].gates.as_ref().unwrap().min_tool_calls, 1);
    let many = v1::Gates { min_tool_calls: u32::MAX, ..Default::default() };
    refused(vec![gated(many)], ErrorCode::InvalidGate, "tasks[0].gates.min_tool_calls");
}

#[test]
fn required_artifacts_stay_beneath_out() {
    for glob in ["../x", "/etc/passwd", "a/../b", "", "a//b", "a\0b", "a**", "\u{1b}[2J"] {
        let message = refused(
            vec![gated(artifacts(&["ok.md", glob]))],
            ErrorCode::InvalidGate,
            "tasks[0].gates.required_artifacts[1]",
        );
        assert!(!message.contains('\u{1b}'), "{message:?}");
    }
    let many = vec!["a"; 65];
    refused(vec![gated(artifacts(&many))], ErrorCode::TooLarge, "tasks[0].gates.required_artifacts");
}

#[test]
fn programs_of_gates_are_named_and_limited() {
    let field = |part: &str| format!("tasks[0].gates.commands[0].{part}");
    for name in ["", "-c", "a\0b", &"p".repeat(256)] {
        refused(vec![gated(commands(vec![program(name)]))], ErrorCode::InvalidField, &field("program"));
    }
    let timed = |timeout| v1::GateCommand { timeout: Some(timeout), ..program("cargo") };
    for timeout in
        [duration(0), duration(-5), duration(3_600_001), prost_types::Duration { seconds: 0, nanos: 999 }]
    {
        refused(vec![gated(commands(vec![timed(timeout)]))], ErrorCode::InvalidField, &field("timeout"));
    }
    for timeout in [duration(1), duration(3_600_000)] {
        check(vec![gated(commands(vec![timed(timeout)]))]).unwrap();
    }
    for dir in ["..", "/tmp", "a/../..", "a\nb"] {
        let command = v1::GateCommand { dir: dir.into(), ..program("cargo") };
        refused(vec![gated(commands(vec![command]))], ErrorCode::InvalidGate, &field("dir"));
    }
    let nul = v1::GateCommand { args: vec!["a\0".into()], ..program("cargo") };
    refused(vec![gated(commands(vec![nul]))], ErrorCode::InvalidField, &field("args"));
    refused(vec![gated(commands(vec![program("a"); 17]))], ErrorCode::TooLarge, "tasks[0].gates.commands");
    let long = v1::GateCommand { args: vec!["x".repeat(40_000)], ..program("cargo") };
    refused(vec![gated(commands(vec![long]))], ErrorCode::TooLarge, "tasks[0].gates");
    let often = v1::Gates { repairs: Some(11), ..artifacts(&["a"]) };
    refused(vec![gated(often)], ErrorCode::InvalidField, "tasks[0].gates.repairs");
}

#[test]
fn a_review_is_a_task_of_its_own_after_all_that_were_submitted() {
    let review =
        v1::Review { instructions: "Check the figures.".into(), model: "haiku".into(), ..by("critic") };
    let mut first = gated(reviewed(review));
    first.priority = Some(7);
    let run = check_run(v1::RunSpec {
        tasks: vec![first, worker_task("b", "go on", &["a"])],
        workspace: "dance".into(),
        ..Default::default()
    });
    let tasks = run.unwrap().tasks;
    assert_eq!(tasks.iter().map(|task| task.id.as_str()).collect::<Vec<_>>(), ["a", "b", "a.review"]);
    assert_eq!((tasks[0].reviewed, &tasks[0].gates, tasks[0].repairs), (true, &None, 1));
    assert_eq!(tasks[1].dependencies, [0], "what waited for the task still does");
    let review = &tasks[2];
    assert_eq!((review.role, review.of, &*review.dependencies), (v1::TaskRole::Review, Some(0), &[0][..]));
    assert_eq!((review.priority, review.repairs, review.workspace.as_str()), (7, 0, "dance"));
    let needs = review.requires.iter().map(String::as_str).collect::<Vec<_>>();
    assert_eq!(needs, ["os=linux", "runner=claude", "workspace=dance"]);
    let worker = worker_of(review);
    assert_eq!((worker.worker.name.as_str(), worker.model.as_str()), ("critic", "haiku"));
    assert_eq!(worker.output_schema, crate::planning::schemas::REVIEW);
    assert!(worker.prompt.contains("write it") && worker.prompt.contains("Check the figures."));
}

#[test]
fn a_review_needs_a_known_worker_and_an_id_that_is_free() {
    let message = refused(
        vec![gated(reviewed(by("critics")))],
        ErrorCode::UnknownWorker,
        "tasks[0].gates.review.worker",
    );
    assert!(message.contains("did you mean"), "{message}");
    let bad = v1::Review { model: "a b".into(), ..by("critic") };
    refused(vec![gated(reviewed(bad))], ErrorCode::InvalidName, "tasks[0].gates.review.model");
    let clash = vec![gated(reviewed(by("critic"))), noop("a.review")];
    refused(clash, ErrorCode::DuplicateTaskId, "tasks[0].task_id");
    let id = "i".repeat(57);
    let long = v1::TaskSpec { task_id: id, ..gated(reviewed(by("critic"))) };
    refused(vec![long], ErrorCode::InvalidName, "tasks[0].task_id");
    let wordy = v1::Review { instructions: "x".repeat(65_537), ..by("critic") };
    refused(vec![gated(reviewed(wordy))], ErrorCode::TooLarge, "tasks[0].gates.review.instructions");
    let nul = v1::Review { instructions: "a\0b".into(), ..by("critic") };
    refused(vec![gated(reviewed(nul))], ErrorCode::InvalidField, "tasks[0].gates.review.instructions");
}

#[test]
fn reviews_and_publications_count_against_the_limit_of_a_run() {
    let tasks = |count: usize| {
        let task = |at| v1::TaskSpec {
            task_id: format!("t{at}"),
            gates: Some(reviewed(by("critic"))),
            ..command("", "true", &[])
        };
        (0..count).map(task).collect::<Vec<_>>()
    };
    assert_eq!(check(tasks(MAX_TASKS / 2)).unwrap().tasks.len(), MAX_TASKS);
    refused(tasks(MAX_TASKS / 2 + 1), ErrorCode::TooManyTasks, "tasks");
}
