//! What becomes of a definition and its parameters; every way in which they can be wrong is [`refused`].

use super::*;
use crate::prompts::WorkflowFile;
use orch_proto::v1::task_spec::Runner;
use serde_json::json;

mod refused;

const DAY: &str = "2026-11-21";

fn file(path: &str, text: &str) -> WorkflowFile {
    let stem = path.trim_end_matches(".json").to_owned();
    WorkflowFile { path: path.to_owned(), stem, text: Ok(text.to_owned()) }
}

fn with(files: &[(&str, &str)]) -> Workflows {
    let files: Vec<_> = files.iter().map(|(path, text)| file(path, text)).collect();
    Workflows::load([files.as_slice()], ["marie", "anga", "fabien", "orchestrator"]).on(DAY)
}

fn call(definition: &str, parameters: &serde_json::Value) -> v1::WorkflowCall {
    v1::WorkflowCall {
        definition: definition.to_owned(),
        source: "w.json".to_owned(),
        parameters: parameters.to_string(),
        ..v1::WorkflowCall::default()
    }
}

fn run(definition: &str, parameters: serde_json::Value) -> v1::RunSpec {
    compile(&call(definition, &parameters), &with(&[])).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

fn told_in(in_force: &Workflows, definition: &str, parameters: serde_json::Value) -> Vec<String> {
    let problems = compile(&call(definition, &parameters), in_force).expect_err("this must be refused");
    let tell = |p: v1::PromptProblem| {
        let help = if p.help.is_empty() { String::new() } else { format!(" ({})", p.help) };
        format!("{} {}:{}:{}: {}{help}", p.code, p.path, p.line, p.column, p.message)
    };
    problems.into_iter().map(tell).collect()
}

fn told(definition: &str, parameters: serde_json::Value) -> Vec<String> {
    told_in(&with(&[]), definition, parameters)
}

/// A workflow of these tasks.
fn of(tasks: &str) -> String {
    format!("{{\"name\": \"w\", \"tasks\": [{tasks}]}}")
}

fn worker(spec: &v1::TaskSpec) -> &v1::WorkerTask {
    let Some(Runner::Worker(worker)) = &spec.runner else { panic!("{} has no worker", spec.task_id) };
    worker
}

fn graph(spec: &v1::RunSpec) -> Vec<String> {
    let task = |task: &v1::TaskSpec| format!("{} <- {}", task.task_id, task.dependencies.join(" "));
    spec.tasks.iter().map(|spec| task(spec).trim_end().to_owned()).collect()
}

#[test]
fn every_field_reaches_the_run() {
    let spec = run(
        r#"{"$schema": "x", "name": "all", "description": "d", "on_failure": "best_effort", "max_parallel": 3, "budget_usd": 2.5,
        "workspace": "dance", "labels": {"team": "{{team}}", "n": 3},
        "parameters": {"team": {"default": "red"}, "tries": {"type": "integer", "default": 4}},
        "tasks": [
          {"id": "first", "worker": "marie", "description": "Do {{team}}", "context": {"a": "{{team}}", "n": "{{tries}}"},
           "model": "opus", "max_turns": 9, "budget_usd": 0.5, "contract": false, "retries": "{{tries}}",
           "timeout": "10m", "priority": "high", "requires": {"gpu": "yes"}, "agent": "box-1", "on_loss": "wait",
           "workspace": "other", "cache": true, "expected_cost_usd": 0.25,
           "gates": {"min_tool_calls": 2, "required_artifacts": ["a*.md"], "repairs": 0,
             "commands": [{"run": ["cargo", "test"], "timeout": "1m", "dir": "sub"}],
             "review": {"worker": "anga", "instructions": "look", "model": "haiku"}},
           "publish": [{"artifact": "a.md", "to": "x/{{team}}_{date}.md", "replace": true}]},
          {"id": "last", "run": ["make", "{{team}}"], "dependencies": ["first"], "after": "end",
           "when": [{"task": "first", "pointer": "/scores/total", "test": "at_least", "value": 5}]}
        ]}"#,
        json!({}),
    );
    assert_eq!((spec.name.as_str(), spec.workspace.as_str(), spec.max_parallel), ("all", "dance", 3));
    assert_eq!(spec.on_failure(), v1::FailurePolicy::BestEffort);
    let budget = spec.budget.unwrap();
    assert_eq!((budget.micro_usd, budget.mode()), (Some(2_500_000), v1::BudgetMode::Hard));
    assert_eq!((spec.labels["team"].as_str(), spec.labels["n"].as_str()), ("red", "3"));
    assert!(spec.workflow.is_none() && spec.request.is_none());
    let [first, last] = spec.tasks.as_slice() else { panic!("{:?}", graph(&spec)) };
    let work = worker(first);
    assert_eq!((work.description.as_str(), work.context.as_str()), ("Do red", r#"{"a":"red","n":4}"#));
    assert_eq!((work.budget_micro_usd, work.max_turns, work.contract), (Some(500_000), Some(9), false));
    assert_eq!((first.retries, first.priority, first.on_loss()), (Some(4), Some(100), v1::OnLoss::Wait));
    assert_eq!((first.timeout.unwrap().seconds, first.agent.as_str()), (600, "box-1"));
    assert_eq!((first.workspace.as_str(), first.cache), ("other", true));
    assert_eq!((first.requires["gpu"].as_str(), first.expected_cost_micro_usd), ("yes", Some(250_000)));
    let gates = first.gates.as_ref().unwrap();
    assert_eq!(
        (gates.min_tool_calls, gates.repairs, gates.required_artifacts.as_slice()),
        (2, Some(0), &["a*.md".to_owned()][..])
    );
    assert_eq!((gates.commands[0].program.as_str(), gates.commands[0].dir.as_str()), ("cargo", "sub"));
    assert_eq!(gates.review.as_ref().unwrap().worker, "anga");
    assert_eq!((first.publish[0].to.as_str(), first.publish[0].replace), ("x/red_{date}.md", true));
    assert_eq!((last.dependencies.as_slice(), last.after()), (&["first".to_owned()][..], v1::After::End));
    let condition = &last.conditions[0];
    assert_eq!((condition.task_id.as_str(), condition.value.as_str()), ("first", "5"));
    assert_eq!(condition.test(), v1::ConditionTest::AtLeast);
    let Some(Runner::Command(command)) = &last.runner else { panic!("no command") };
    assert_eq!((command.program.as_str(), command.args.as_slice()), ("make", &["red".to_owned()][..]));
}

#[test]
fn workers_keep_to_the_result_contract_unless_they_say_otherwise() {
    let spec = run(
        &of(r#"{"id": "a", "worker": "marie", "description": "d"},
            {"id": "b", "worker": "marie", "description": "d", "output_schema": {"type": "object", "title": "{{x}}"}}"#),
        json!({}),
    );
    assert!(worker(&spec.tasks[0]).contract && worker(&spec.tasks[0]).output_schema.is_empty());
    assert!(!worker(&spec.tasks[1]).contract);
    assert!(worker(&spec.tasks[1]).output_schema.contains("{{x}}"), "a schema is no template");
}

#[test]
fn defaults_stand_behind_every_task_that_can_have_them() {
    let spec = run(
        r#"{"name": "w", "defaults": {"worker": "marie", "retries": 1, "budget_usd": 2, "gates": {"min_tool_calls": 1},
            "requires": {"a": "b"}},
        "tasks": [{"id": "a", "description": "d"}, {"id": "b", "worker": "anga", "description": "d", "retries": 3},
            {"id": "c", "run": ["x"]}]}"#,
        json!({}),
    );
    let [a, b, c] = spec.tasks.as_slice() else { panic!("{:?}", graph(&spec)) };
    assert_eq!((worker(a).worker.as_str(), worker(b).worker.as_str()), ("marie", "anga"));
    assert_eq!((a.retries, b.retries, c.retries), (Some(1), Some(3), Some(1)));
    assert_eq!((worker(a).budget_micro_usd, c.requires["a"].as_str()), (Some(2_000_000), "b"));
    assert!(a.gates.is_some() && c.gates.is_none(), "a program makes no tool calls");
}

const BATCH: &str = r#"{"name": "batch", "parameters": {"students": {"type": "roster"}}, "tasks": [
    {"id": "evaluate", "worker": "marie", "description": "{{student.name}} {{student.level}}",
     "for_each": "{{students}}", "as": "student"},
    {"id": "note", "worker": "marie", "description": "{{student}}", "for_each": "{{students}}", "as": "student",
     "dependencies": ["evaluate"], "matching": true,
     "when": [{"task": "evaluate", "pointer": "state", "test": "equals", "value": "succeeded"}]},
    {"id": "report", "worker": "marie", "description": "{{students}}", "dependencies": ["note"], "after": "end"}]}"#;

fn students() -> serde_json::Value {
    json!({"students": [{"name": "Emma Rodriguez", "level": "beginner"}, {"name": "Lucas M.", "level": "x", "slug": "lu"}]})
}

#[test]
fn a_loop_makes_a_task_a_row_and_whoever_depends_on_it_waits_for_all_or_for_the_same_row() {
    let spec = run(BATCH, students());
    assert_eq!(
        graph(&spec),
        [
            "evaluate-emma-rodriguez <-",
            "evaluate-lu <-",
            "note-emma-rodriguez <- evaluate-emma-rodriguez",
            "note-lu <- evaluate-lu",
            "report <- note-emma-rodriguez note-lu",
        ]
    );
    assert_eq!(worker(&spec.tasks[0]).description, "Emma Rodriguez beginner");
    assert_eq!(worker(&spec.tasks[4]).description, "Emma Rodriguez, Lucas M.");
    assert_eq!(spec.tasks[3].conditions[0].task_id, "evaluate-lu");
    assert_eq!(run(BATCH, students()), spec, "the same call is the same run");
}

#[test]
fn loops_take_lists_of_texts_numbers_and_objects() {
    let spec = run(
        &of(
            r#"{"id": "a", "run": ["x", "{{dir}}", "{{dir.slug}}"], "for_each": ["src/b", 7, {"name": "n", "slug": "m"}], "as": "dir"}"#,
        ),
        json!({}),
    );
    assert_eq!(graph(&spec), ["a-src-b <-", "a-7 <-", "a-m <-"]);
    let Some(Runner::Command(command)) = &spec.tasks[0].runner else { panic!("no command") };
    assert_eq!(command.args, ["src/b", "src-b"]);
}

#[test]
fn values_are_data_wherever_they_are_inserted() {
    let hostile = "\"}, {\"id\": \"evil\"} {{students}} {{x}} \u{1b}[31m";
    let spec = run(
        r#"{"name": "w", "parameters": {"x": {}, "r": {"type": "roster"}}, "tasks": [
            {"id": "a", "worker": "marie", "description": "<{{x}}>", "context": {"k": ["{{x}}", "+{{x}}"]}},
            {"id": "b", "worker": "marie", "description": "{{p.note}}", "for_each": "{{r}}", "as": "p"}]}"#,
        json!({"x": hostile, "r": [{"name": "n", "note": hostile}]}),
    );
    assert_eq!(worker(&spec.tasks[0]).description, format!("<{hostile}>"));
    let context: serde_json::Value = serde_json::from_str(&worker(&spec.tasks[0]).context).unwrap();
    assert_eq!(context, json!({"k": [hostile, format!("+{hostile}")]}));
    assert_eq!(worker(&spec.tasks[1]).description, hostile);
}

#[test]
fn paths_take_no_value_that_would_leave_their_directory_or_be_filled_once_more() {
    let definition = r#"{"name": "w", "parameters": {"r": {"type": "roster"}, "dir": {"default": "a/b"}}, "tasks": [
        {"id": "a", "worker": "marie", "description": "d", "for_each": "{{r}}", "as": "p",
         "publish": [{"artifact": "x.md", "to": "{{dir}}/{{p.folder}}/x_{date}.md"}]}]}"#;
    let to = |folder: &str| json!({"r": [{"name": "n", "folder": folder}]});
    assert_eq!(run(definition, to("Emma R")).tasks[0].publish[0].to, "a/b/Emma R/x_{date}.md");
    for bad in ["..", "../x", "a/b", "{run}", "", "a\\b", "a\u{0}", "/etc", "."] {
        let problems = told(definition, to(bad));
        assert!(problems[0].contains("path"), "{bad:?}: {problems:?}");
    }
    let problems = told(definition, json!({"r": [{"name": "n", "folder": "ok"}], "dir": "../../etc"}));
    assert!(problems[0].starts_with("E0119 w.json:3:"), "{problems:?}");
}

const USED: &str = r#"{"name": "inner", "workspace": "dance", "parameters": {"who": {}, "n": {"type": "integer", "default": 1},
    "rest": {"type": "roster", "default": []}}, "tasks": [
    {"id": "read", "worker": "marie", "description": "{{who}} {{n}} {{rest}}"},
    {"id": "write", "worker": "marie", "description": "{{who}}", "dependencies": ["read"]},
    {"id": "draw", "worker": "marie", "description": "{{who.slug}}", "dependencies": ["read"], "workspace": "own"}]}"#;

#[test]
fn another_workflow_takes_the_place_of_a_task() {
    let in_force = with(&[("inner.json", USED)]);
    let definition = r#"{"name": "outer", "parameters": {"r": {"type": "roster"}, "n": {"type": "integer"}}, "tasks": [
        {"id": "before", "run": ["true"]},
        {"id": "each", "use": "inner", "with": {"who": "{{p}}", "n": "{{n}}", "rest": "{{r}}"}, "for_each": "{{r}}", "as": "p",
         "dependencies": ["before"], "after": "end", "when": [{"task": "before", "pointer": "state", "test": "exists"}]},
        {"id": "after", "run": ["true"], "dependencies": ["each"]}]}"#;
    let spec = compile(&call(definition, &json!({"r": ["Ann B", "Cy"], "n": 5})), &in_force).unwrap();
    assert_eq!(
        graph(&spec),
        [
            "before <-",
            "each-ann-b.read <- before",
            "each-ann-b.write <- each-ann-b.read",
            "each-ann-b.draw <- each-ann-b.read",
            "each-cy.read <- before",
            "each-cy.write <- each-cy.read",
            "each-cy.draw <- each-cy.read",
            "after <- each-ann-b.write each-ann-b.draw each-cy.write each-cy.draw",
        ]
    );
    let read = &spec.tasks[1];
    assert_eq!(worker(read).description, "Ann B 5 Ann B, Cy");
    assert_eq!((read.after(), read.conditions.len(), read.workspace.as_str()), (v1::After::End, 1, "dance"));
    assert_eq!((spec.tasks[2].conditions.len(), spec.tasks[3].workspace.as_str()), (0, "own"));
    assert_eq!(worker(&spec.tasks[3]).description, "ann-b");
    assert_eq!(spec.tasks[0].workspace, "", "a workspace of the inner one is not the outer's");
}
