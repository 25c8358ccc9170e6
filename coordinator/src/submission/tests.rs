//! What a spec may say and what it may not.

mod cache;
mod conditions;
mod follow_up;
mod gates;
mod planned;
mod publish;
mod runs;

use super::*;
use v1::task_spec::Runner;

struct Fixed;

impl Workers for Fixed {
    fn worker(&self, name: &str) -> Option<Arc<PinnedWorker>> {
        ["anga", "critic", ORCHESTRATOR].contains(&name).then(|| {
            Arc::new(PinnedWorker {
                name: name.into(),
                definition: Arc::from(&b"x"[..]),
                digest: [1; 32],
                model: "opus".into(),
                max_turns: 40,
                budget_micro_usd: None,
                timeout_ms: Some(60_000),
                requires: BTreeSet::from(["os=linux".to_owned()]),
                on_loss: v1::OnLoss::Unspecified,
            })
        })
    }

    fn nearest(&self, _: &str) -> Option<String> {
        Some("anga".into())
    }
}

/// Noon of 9 March 2026, UTC.
const SUBMITTED: Wall = Wall(1_773_057_600_000);

fn check_run(spec: v1::RunSpec) -> Result<CheckedRun, SpecError> {
    check_with(spec, &BTreeMap::new())
}

fn check_with(
    spec: v1::RunSpec,
    conversations: &BTreeMap<String, Conversation>,
) -> Result<CheckedRun, SpecError> {
    let catalogue = Catalogue::default();
    let given = Given { workers: &Fixed, catalogue: &catalogue, submitted: SUBMITTED, conversations };
    CheckedRun::check(spec, &given)
}

#[track_caller]
fn run_refused(spec: v1::RunSpec, code: ErrorCode, field: &str) -> String {
    let error = check_run(spec).expect_err("the spec must be refused");
    assert_eq!((error.code, error.field.as_str()), (code, field), "{error}");
    error.message
}

fn worker_of(task: &CheckedTask) -> &CheckedWorkerTask {
    let CheckedRunner::Worker(worker) = &task.runner else { panic!("not a worker: {task:?}") };
    worker
}

fn change_worker(mut task: v1::TaskSpec, change: impl FnOnce(&mut v1::WorkerTask)) -> v1::TaskSpec {
    let Some(Runner::Worker(worker)) = &mut task.runner else { panic!("not a worker") };
    change(worker);
    task
}

fn command(id: &str, program: &str, args: &[&str]) -> v1::TaskSpec {
    let args = args.iter().map(|&arg| arg.into()).collect();
    v1::TaskSpec {
        task_id: id.into(),
        runner: Some(Runner::Command(v1::CommandTask { program: program.into(), args })),
        ..Default::default()
    }
}

fn duration(millis: i64) -> prost_types::Duration {
    prost_types::Duration {
        seconds: millis / 1_000,
        nanos: i32::try_from(millis % 1_000).unwrap() * 1_000_000,
    }
}

fn worker_task(id: &str, description: &str, dependencies: &[&str]) -> v1::TaskSpec {
    v1::TaskSpec {
        task_id: id.into(),
        dependencies: dependencies.iter().map(|&name| name.into()).collect(),
        runner: Some(Runner::Worker(v1::WorkerTask {
            worker: "anga".into(),
            description: description.into(),
            ..Default::default()
        })),
        ..Default::default()
    }
}

fn noop(id: &str) -> v1::TaskSpec {
    v1::TaskSpec { task_id: id.into(), runner: Some(Runner::Noop(v1::NoopTask {})), ..Default::default() }
}

fn check(tasks: Vec<v1::TaskSpec>) -> Result<CheckedRun, SpecError> {
    check_run(v1::RunSpec { tasks, ..Default::default() })
}

#[track_caller]
fn refused(tasks: Vec<v1::TaskSpec>, code: ErrorCode, field: &str) -> String {
    let error = check(tasks).expect_err("the spec must be refused");
    assert_eq!((error.code, error.field.as_str()), (code, field), "{error}");
    error.message
}

#[test]
fn a_plain_task_gets_every_default() {
    let run = check(vec![worker_task("", "review this", &[])]).unwrap();
    assert_eq!(run.name, "adhoc");
    let task = &run.tasks[0];
    assert_eq!((task.id.as_str(), task.priority, task.retries), ("task", DEFAULT_PRIORITY, DEFAULT_RETRIES));
    assert_eq!((task.timeout_ms, task.on_loss), (60_000, v1::OnLoss::Fast));
    assert_eq!(task.requires.iter().map(String::as_str).collect::<Vec<_>>(), ["os=linux", "runner=claude"]);
}

#[test]
fn context_comes_before_the_description() {
    let mut task = worker_task("a", "review this", &[]);
    if let Some(Runner::Worker(worker)) = &mut task.runner {
        worker.context = "{\"repo\": 1}".into();
    }
    let run = check(vec![task]).unwrap();
    let CheckedRunner::Worker(worker) = &run.tasks[0].runner else { panic!("not a worker") };
    assert_eq!(worker.prompt, "<context>\n{\"repo\": 1}\n</context>\n\nreview this");
}

#[test]
fn prompts_are_bounded_and_not_empty() {
    refused(vec![worker_task("a", " \n", &[])], ErrorCode::EmptyPrompt, "tasks[0].worker.description");
    refused(
        vec![worker_task("a", &"x".repeat(9 << 20), &[])],
        ErrorCode::TooLarge,
        "tasks[0].worker.description",
    );
    refused(vec![worker_task("a", "a\0b", &[])], ErrorCode::InvalidField, "tasks[0].worker.description");
    check(vec![worker_task("a", "/etc @/etc/passwd", &[])]).unwrap();
}

#[test]
fn names_that_could_do_harm_are_refused() {
    for name in ["../up", "a/b", "-rf", "a\0b", "\u{1b}[31mred", "a..b", "", "é", &"n".repeat(64)] {
        refused(vec![noop(name), noop("ok")], ErrorCode::InvalidName, "tasks[0].task_id");
    }
    let message =
        refused(vec![noop("\u{1b}[31mred"), noop("ok")], ErrorCode::InvalidName, "tasks[0].task_id");
    assert!(!message.contains('\u{1b}'), "{message:?}");
    let spec = v1::RunSpec { name: "Upper".into(), tasks: vec![noop("a")], ..Default::default() };
    assert_eq!(check_run(spec).unwrap_err().code, ErrorCode::InvalidName);
}

#[test]
fn labels_are_bounded_and_their_names_harmless_also_in_a_refusal() {
    let with = |labels: &[(&str, &str)]| {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        check_run(v1::RunSpec { labels, tasks: vec![noop("a")], ..Default::default() })
    };
    with(&[("team/x", "dance")]).unwrap();
    let error = with(&[("\u{1b}[31m", "x")]).unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidName);
    assert!(!error.to_string().contains('\u{1b}'), "{error:?}");
    assert_eq!(with(&[("a", "\u{7}")]).unwrap_err().code, ErrorCode::InvalidField);
    assert_eq!(with(&[("a", &"x".repeat(3_000))]).unwrap_err().code, ErrorCode::TooLarge);
}

#[test]
fn a_run_has_a_bounded_number_of_dependencies_in_all() {
    let names: Vec<String> = (0..10_000).map(|at| format!("t{at}")).collect();
    let mut tasks: Vec<_> = names.iter().map(|name| noop(name)).collect();
    for last in 0..101 {
        tasks.push(v1::TaskSpec { dependencies: names.clone(), ..noop(&format!("last{last}")) });
    }
    refused(tasks, ErrorCode::TooLarge, "tasks");
}

#[test]
fn ids_are_unique_and_dependencies_exist() {
    let message = refused(vec![noop("a"), noop("a")], ErrorCode::DuplicateTaskId, "tasks[1].task_id");
    assert!(message.contains("tasks[0]"), "{message}");
    let message = refused(
        vec![noop("merge"), worker_task("b", "x", &["merges"])],
        ErrorCode::UnknownDependency,
        "tasks[1].dependencies[0]",
    );
    assert!(message.contains("did you mean `merge`?"), "{message}");
}

#[test]
fn dependencies_become_sorted_indexes_without_repetition() {
    let run = check(vec![noop("a"), noop("b"), worker_task("c", "x", &["b", "a", "b"])]).unwrap();
    assert_eq!(run.tasks[2].dependencies, [0, 1]);
}

#[test]
fn an_unknown_worker_is_refused_with_a_suggestion() {
    let mut task = worker_task("a", "x", &[]);
    if let Some(Runner::Worker(worker)) = &mut task.runner {
        worker.worker = "anja".into();
    }
    let message = refused(vec![task], ErrorCode::UnknownWorker, "tasks[0].worker.worker");
    assert!(message.contains("did you mean `anga`?"), "{message}");
}

#[test]
fn a_task_needs_a_runner_and_a_run_needs_tasks() {
    let mut task = noop("a");
    task.runner = None;
    refused(vec![task], ErrorCode::RunnerMissing, "tasks[0]");
    refused(vec![], ErrorCode::TooManyTasks, "tasks");
}

#[test]
fn figures_out_of_range_are_refused() {
    let mut task = noop("a");
    task.timeout = Some(prost_types::Duration { seconds: -1, nanos: 0 });
    refused(vec![task], ErrorCode::InvalidField, "tasks[0].timeout");
    let mut task = noop("a");
    task.on_loss = 77;
    refused(vec![task], ErrorCode::InvalidField, "tasks[0].on_loss");
    let mut task = noop("a");
    task.priority = Some(i32::MIN + 1);
    refused(vec![task], ErrorCode::InvalidField, "tasks[0].priority");
    let mut task = noop("a");
    task.requires = BTreeMap::from([("runner".into(), "claude".into())]);
    refused(vec![task], ErrorCode::InvalidField, "tasks[0].requires.runner");
}

#[test]
fn programs_are_plain_names_or_paths() {
    let command = |program: &str, args: &[&str]| {
        let mut task = noop("a");
        let args = args.iter().map(|&arg| arg.into()).collect();
        task.runner = Some(Runner::Command(v1::CommandTask { program: program.into(), args }));
        task
    };
    for program in ["", "-c", "a\0b", "\u{1b}"] {
        refused(vec![command(program, &[])], ErrorCode::InvalidField, "tasks[0].command.program");
    }
    refused(vec![command("true", &["a\0"])], ErrorCode::InvalidField, "tasks[0].command.args");
    let run = check(vec![command("/bin/true", &["-x"])]).unwrap();
    assert!(run.tasks[0].requires.contains("program=/bin/true"));
}

#[test]
fn a_schema_is_a_json_object() {
    let with_schema = |schema: &str| {
        let mut task = worker_task("a", "x", &[]);
        if let Some(Runner::Worker(worker)) = &mut task.runner {
            worker.output_schema = schema.into();
        }
        task
    };
    for schema in ["[]", "{", &format!("\"{}\"", "x".repeat(MAX_SCHEMA_BYTES))] {
        refused(vec![with_schema(schema)], ErrorCode::InvalidSchema, "tasks[0].worker.output_schema");
    }
    check(vec![with_schema("{\"type\":\"object\"}")]).unwrap();
}
