//! What becomes of a definition and its parameters, and every way in which they can be wrong.

use super::*;
use crate::prompts::WorkflowFile;
use orch_proto::v1::task_spec::Runner;
use serde_json::json;

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
        r#"{"$schema": "x", "name": "all", "description": "d", "on_failure": "best_effort", "max_parallel": 3,
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

#[test]
fn everything_wrong_is_told_at_once_with_its_place() {
    let problems = told(
        r#"{
  "name": "w",
  "onfailure": "continue",
  "budget_usd": 5,
  "parameters": {"n": {"type": "intger"}, "date": {}, "m": {"default": 1, "type": "boolean"}},
  "tasks": [
    {"id": "ui-notes", "worker": "marie", "descripton": "x"},
    {"id": "merge", "run": ["true"], "dependencies": ["ui-note"]},
    {"id": "merge", "run": ["true"]},
    {"id": "a.b", "run": ["true"]}
  ]
}"#,
        json!({}),
    );
    assert_eq!(
        problems,
        [
            "E0111 w.json:3:3: a workflow has no field `onfailure` (did you mean `on_failure`?)",
            "E0113 w.json:4:17: a budget over a whole run cannot be enforced until run budgets exist (give `budget_usd` to each task, or under `defaults`)",
            "E0101 w.json:5:32: the type of `n` must be one of string, integer, number, boolean, list, roster (did you mean `integer`?)",
            "E0102 w.json:5:43: `date` cannot be the name of a parameter (`date` is the day of the submit in every workflow; take another name, such as `day`)",
            "E0101 w.json:5:72: the default of `m` must be true or false, not the number 1",
            "E0111 w.json:7:43: a task has no field `descripton` (did you mean `description`?)",
            "E0104 w.json:8:55: task `merge` depends on `ui-note`, which does not exist (did you mean `ui-notes`?)",
            "E0105 w.json:9:12: the task id `merge` is there twice (rename one)",
            "E0102 w.json:10:12: this cannot be the id of a task (letters, digits, `-` and `_`, a letter or digit first, at most 63; a dot stands between a `use` and what it brings)",
        ]
    );
}

#[test]
fn wrong_types_names_and_templates_of_tasks_are_all_told() {
    let problems = told(
        r#"{"name": "w", "parameters": {"who": {}}, "on_failure": "ignore", "max_parallel": -1, "defaults": {"id": "x"}, "tasks": [
{"id": "a", "worker": "mari", "description": "{{wo}} {{", "retries": 101, "timeout": "soon", "priority": "urgent"},
{"id": "b", "worker": "marie", "description": " ", "budget_usd": 0, "contract": 1, "on_loss": "x", "requires": ["gpu"]},
{"id": "c", "run": ["x"], "budget_usd": 1, "model": "opus", "worker": "marie"},
{"id": "d", "run": "make"},
{"id": "e"},
{"id": "f", "worker": "marie", "description": "d", "contract": true, "output_schema": {}, "gates": {"repair": 1, "review": {}}},
{"id": "g", "worker": "marie", "description": "d", "publish": [{"artifact": "../x", "to": "/y"}, {"to": "z"}]},
{"id": "h", "use": "nothing", "retries": 1, "with": {"x": 1}},
{"id": "i", "worker": "marie", "description": "{{who.name}}", "for_each": "who"},
{"id": "j", "worker": "marie", "description": "d", "as": "who", "for_each": ["x"]},
{"id": "k", "run": ["x"], "for_each": ["same", "Same"], "as": "x"},
{"id": "l", "run": ["x"], "for_each": [], "as": "x"},
{"id": "m", "run": ["x"], "when": [{"task": "c", "test": "equal"}], "matching": true}
]}"#,
        json!({"who": "x", "wo": 1}),
    );
    let all = problems.join("\n");
    for expected in [
        "E0101 w.json:1:56: `on_failure` must be one of",
        "E0101 w.json:1:82: `max_parallel` must be a whole number from 0",
        "E0111 w.json:1:99: `defaults` has no field `id`",
        "E0108 w.json:2:23: there is no worker `mari` (did you mean `marie`?)",
        "E0121 w.json:2:54: a `{{` without its `}}`",
        "`retries` must be a whole number from 0 to 100, not `101`",
        "`timeout` must be seconds",
        "`priority` must be high, medium",
        "E0103 w.json:3:47: the description is empty",
        "`budget_usd` must be a sum in dollars",
        "`contract` must be true or false, not a number",
        "`on_loss` must be one of fast, wait",
        "`requires` must be an object of texts, not a list",
        "E0113 w.json:4:41: `budget_usd` does not go with `run`",
        "`model` does not go with `run`",
        "`worker` does not go with `run`",
        "`run` must be a list of texts, not text",
        "E0106 w.json:6:1: the task names neither",
        "E0114 w.json:7:87: `contract` has a schema of its own",
        "`gates` has no field `repair` (did you mean `repairs`?)",
        "E0118 w.json:7:124: a review names the `worker` that judges",
        "E0119 w.json:8:77: `../x` is no path beneath a directory",
        "`/y` is no path",
        "a publication has the text `artifact`",
        "E0301 w.json:9:20: there is no workflow `nothing`",
        "`retries` does not go with `use`",
        "E0101 w.json:10:75: `for_each` must be a list, or name a parameter",
        "E0102 w.json:11:58: `as` must be a name",
        "E0105 w.json:12:39: rows 1 (same) and 2 (Same) would both be `k-same`",
        "E0115 w.json:13:39: `for_each` of task `l` has no rows",
        "`test` must be one of",
        "`matching` pairs the rows of two loops",
        "E0111 parameters:1:12: the workflow has no parameter `wo` (did you mean `who`?)",
    ] {
        assert!(all.contains(expected), "{expected}\nnot in\n{all}");
    }
}

#[test]
fn unknown_names_in_templates_are_told_with_their_column_and_the_nearest() {
    let definition = r#"{"name": "w", "parameters": {"r": {"type": "roster"}}, "tasks": [
  {"id": "a", "worker": "marie", "description": "é {{p.levle}} {{dtae}}", "for_each": "{{r}}", "as": "p"}]}"#;
    assert_eq!(
        told(definition, json!({"r": [{"name": "Emma", "level": "x"}]})),
        ["E0121 w.json:2:52: row 1 (Emma) has no field `levle` (did you mean `{{p.level}}`?)"]
    );
    let found = examine(&call(&definition.replace("{{p.levle}} ", ""), &json!({})), &with(&[]), true);
    assert_eq!(found.problems[0].message, "there is no parameter `dtae`");
    assert!(found.spec.is_none());
}

#[test]
fn parameters_are_checked_by_type_and_all_told() {
    let definition = r#"{"name": "w", "parameters": {
  "s": {"values": ["red", "blue"]}, "i": {"type": "integer", "description": "How many."}, "n": {"type": "number"},
  "b": {"type": "boolean"}, "l": {"type": "list"}, "r": {"type": "roster"}},
  "tasks": [{"id": "a", "run": ["x", "{{s}}{{i}}{{n}}{{b}}{{l}}{{r}}"]}]}"#;
    let args = |parameters| {
        let spec = run(definition, parameters);
        let Some(Runner::Command(command)) = &spec.tasks[0].runner else { panic!("no command") };
        command.args[0].clone()
    };
    let good = json!({"s": "red", "i": "7", "n": "0.5", "b": "true", "l": ["a", 2], "r": [{"name": "E"}, {"name": "", "x": ""}]});
    assert_eq!(args(good.clone()), "red70.5truea, 2E");
    for (name, value, expected) in [
        ("s", json!("rde"), "must be one of red, blue, not `rde`; did you mean `red`?"),
        ("s", json!(["red"]), "must be a text, not a list"),
        ("i", json!(1.5), "must be a whole number, not the number 1.5"),
        ("i", json!("many"), "must be a whole number, not the text"),
        ("n", json!("NaN"), "must be a number"),
        ("b", json!("yes"), "must be true or false"),
        ("l", json!("a,b"), "must be a list such as"),
        ("l", json!([{"name": "x"}]), "item 1 is an object"),
        ("r", json!([{"name": "x"}, {"age": 3}]), "row 2 has no `name`"),
        ("r", json!({"name": "x"}), "must be a list of names"),
        ("r", json!(null), "not null"),
    ] {
        let mut parameters = good.clone();
        parameters[name] = value;
        let problems = told(definition, parameters);
        assert!(problems.len() == 1 && problems[0].contains(expected), "{expected}: {problems:?}");
        assert!(problems[0].starts_with("E0101 parameters:1:"), "{problems:?}");
    }
    let missing = told(definition, json!({"s": "red"}));
    assert_eq!(missing.len(), 5, "{missing:?}");
    assert_eq!(
        missing[0],
        "E0121 w.json:2:37: the parameter `i` must be given (i (a whole number): How many.)"
    );
    for bad in ["[]", "3", "{", "{\"s\": 1, \"s\": 2}"] {
        let call = v1::WorkflowCall { parameters: bad.to_owned(), ..call(definition, &json!({})) };
        assert!(compile(&call, &with(&[])).unwrap_err().iter().any(|p| p.path == "parameters"), "{bad}");
    }
}

#[test]
fn circles_duplicates_and_long_names_are_refused() {
    let problems = told(
        &of(
            r#"{"id": "a", "run": ["x"], "dependencies": ["b"]}, {"id": "b", "run": ["x"], "dependencies": ["a"]}"#,
        ),
        json!({}),
    );
    assert!(problems[0].contains("E0107") && problems[0].contains("a → b → a"), "{problems:?}");
    let clash =
        told(&of(r#"{"id": "a-b", "run": ["x"]}, {"id": "a", "run": ["x"], "for_each": ["b"]}"#), json!({}));
    assert!(clash[0].contains("two tasks would be called `a-b`"), "{clash:?}");
    let long = format!(r#"{{"id": "{}", "run": ["x"], "for_each": ["{}"]}}"#, "i".repeat(40), "s".repeat(40));
    assert!(told(&of(&long), json!({}))[0].contains("longer than 63"));
    let chain: Vec<_> = (0..20_000)
        .map(|i| format!(r#"{{"id": "t{i}", "run": ["x"], "dependencies": ["t{}"]}}"#, (i + 1) % 20_000))
        .collect();
    assert!(told(&of(&chain.join(",")), json!({}))[0].contains("E0107"));
}

#[test]
fn pairs_must_loop_over_the_same_rows_and_conditions_ask_one_task() {
    let definition = |more: &str| {
        of(&format!(
            r#"{{"id": "a", "run": ["x"], "for_each": ["x", "y"]}}, {{"id": "b", "run": ["x"], "dependencies": ["a"], {more}}}"#
        ))
    };
    for (more, expected) in [
        (r#""for_each": ["x"], "matching": true"#, "must loop over the same rows"),
        (r#""for_each": ["y", "x"], "matching": true"#, "must loop over the same rows"),
        (r#""matching": true"#, "`matching` pairs"),
        (r#""when": [{"task": "a", "test": "exists"}]"#, "`a` is 2 tasks"),
        (r#""when": [{"task": "c", "test": "exists"}]"#, "not among the `dependencies`"),
        (
            r#""for_each": ["x", "y"], "matching": true, "when": [{"task": "a", "test": "below"}]"#,
            "needs a `value`",
        ),
        (
            r#""for_each": ["x", "y"], "matching": true, "when": [{"task": "a", "test": "exists", "value": 1}]"#,
            "compares with nothing",
        ),
        (
            r#""for_each": ["x", "y"], "matching": true, "when": [{"task": "a", "test": "exists", "pointer": "x"}]"#,
            "no JSON pointer",
        ),
    ] {
        let problems = told(&definition(more), json!({}));
        assert!(problems[0].contains(expected), "{expected}: {problems:?}");
    }
}

#[test]
fn a_run_beyond_its_limit_is_refused_before_it_is_made() {
    let rows = |count: usize| json!({"r": (0..count).map(|i| format!("n{i}")).collect::<Vec<_>>()});
    let loops = r#"{"name": "w", "parameters": {"r": {"type": "roster"}}, "tasks": [
        {"id": "a", "run": ["x"], "for_each": "{{r}}"}, {"id": "b", "run": ["x"], "for_each": "{{r}}"}]}"#;
    assert_eq!(run(loops, rows(5_000)).tasks.len(), 10_000);
    let problems = told(loops, rows(60_000));
    assert!(
        problems.len() == 1 && problems[0].starts_with("E0115 w.json:2:64: the run would have 120000 tasks"),
        "{problems:?}"
    );
    assert!(told(loops, rows(100_001))[0].contains("at most 100000"));
    // A thousand million tasks: three loops within each other.
    let in_force = with(&[
        (
            "c.json",
            r#"{"name": "c", "parameters": {"r": {"type": "roster"}}, "tasks": [{"id": "t", "run": ["x"], "for_each": "{{r}}"}]}"#,
        ),
        (
            "b.json",
            r#"{"name": "b", "parameters": {"r": {"type": "roster"}}, "tasks": [{"id": "u", "use": "c", "with": {"r": "{{r}}"}, "for_each": "{{r}}"}]}"#,
        ),
    ]);
    let nested = r#"{"name": "w", "parameters": {"r": {"type": "roster"}}, "tasks": [
        {"id": "a", "use": "b", "with": {"r": "{{r}}"}, "for_each": "{{r}}"}]}"#;
    let problems = told_in(&in_force, nested, rows(1_000));
    assert!(problems.len() == 1 && problems[0].starts_with("E0115"), "{problems:?}");
    // Publications and reviews count, a join has its own limit.
    let publishing = r#"{"name": "w", "parameters": {"r": {"type": "roster"}}, "tasks": [{"id": "a", "worker": "marie",
        "description": "d", "for_each": "{{r}}", "publish": [{"artifact": "x", "to": "{{item.slug}}"}], "gates": {"review": {"worker": "anga"}}}]}"#;
    assert!(told(publishing, rows(40_000))[0].starts_with("E0115"));
    let join = r#"{"name": "w", "parameters": {"r": {"type": "roster"}}, "tasks": [{"id": "a", "run": ["x"], "for_each": "{{r}}"},
        {"id": "b", "run": ["x"], "dependencies": ["a"]}]}"#;
    assert!(told(join, rows(10_001))[0].contains("10001 dependencies"));
    assert!(
        told(&join.replace("[\"a\"]}", "[\"a\"], \"for_each\": \"{{r}}\"}"), rows(5_000))[0]
            .starts_with("E0109")
    );
}

#[test]
fn workflows_do_not_bring_in_themselves_and_not_without_end() {
    let using = |name: &str, used: &str| {
        format!(r#"{{"name": "{name}", "tasks": [{{"id": "t", "use": "{used}"}}]}}"#)
    };
    let in_force =
        with(&[("a.json", &using("a", "b")), ("b.json", &using("b", "a")), ("c.json", &using("c", "a"))]);
    assert_eq!(in_force.names().count(), 0);
    let told: Vec<_> = in_force.problems().iter().map(|p| (p.path.as_str(), p.message.as_str())).collect();
    assert!(told.iter().any(|(_, message)| message.contains("would bring in itself")), "{told:?}");
    assert!(
        told.iter().any(|(path, message)| *path == "c.json" && message.contains("a → b → a")),
        "{told:?}"
    );
    let files: Vec<_> = (0..9)
        .map(|i| (format!("w{i}.json"), using(&format!("w{i}"), &format!("w{}", i + 1))))
        .chain([("w9.json".to_owned(), r#"{"name": "w9", "tasks": [{"id": "t", "run": ["x"]}]}"#.to_owned())])
        .collect();
    let files: Vec<_> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    let in_force = with(&files);
    assert_eq!(in_force.names().collect::<Vec<_>>(), ["w2", "w3", "w4", "w5", "w6", "w7", "w8", "w9"]);
    let itself =
        told_in(&with(&[("w.json", &of(r#"{"id": "t", "run": ["x"]}"#))]), &using("w", "w"), json!({}));
    assert!(itself[0].contains("would bring in itself"), "{itself:?}");
}

#[test]
fn what_a_used_workflow_is_given_is_checked_where_it_is_given() {
    let in_force = with(&[("inner.json", USED)]);
    let problems = told_in(
        &in_force,
        r#"{"name": "outer", "tasks": [
  {"id": "a", "use": "inner", "with": {"n": "many", "whoo": 1}},
  {"id": "b", "use": "inne"},
  {"id": "c", "use": "inner", "with": ["x"], "worker": "marie"}]}"#,
        json!({}),
    );
    let all = problems.join("\n");
    for expected in [
        "E0101 w.json:2:45: the parameter `n` of `inner` must be a whole number",
        "E0111 w.json:2:53: the workflow `inner` has no parameter `whoo` (did you mean `who`?)",
        "E0121 w.json:2:22: the workflow `inner` needs the parameter `who`",
        "E0301 w.json:3:22: there is no workflow `inne` (did you mean `inner`?)",
        "E0101 w.json:4:39: `with` must be an object, not a list",
        "`worker` does not go with `use`",
    ] {
        assert!(all.contains(expected), "{expected}\nnot in\n{all}");
    }
}

#[test]
fn files_that_are_no_json_are_told_where() {
    for (text, expected) in [
        ("{\n  \"name\": \"w\",\n}", "E0112 w.json:2:14"),
        ("\u{feff}{}", "byte order mark"),
        ("[]", "must be an object"),
        ("{}", "no `name`"),
        ("{\"name\": \"W x\", \"tasks\": []}", "cannot be the name"),
        ("{\"name\": \"w\", \"tasks\": {}}", "E0115"),
        ("{\"name\": \"w\", \"tasks\": [3]}", "a task must be an object"),
    ] {
        let all = told(text, json!({})).join("\n");
        assert!(all.contains(expected), "{text}: {all}");
    }
    let deep = format!("{{\"name\": \"w\", \"tasks\": {}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    assert!(told(&deep, json!({}))[0].starts_with("E0112"));
    let large = format!("{{\"name\": \"w\", \"description\": \"{}\"}}", "x".repeat(4 << 20));
    assert!(told(&large, json!({}))[0].starts_with("E0109"));
    let deep = v1::WorkflowCall {
        parameters: format!("{{\"a\": {}{}}}", "[".repeat(10_000), "]".repeat(10_000)),
        ..call(BATCH, &json!({}))
    };
    assert!(compile(&deep, &with(&[])).unwrap_err().iter().any(|p| p.code == "E0112"));
}

#[test]
fn later_layers_go_before_earlier_ones_and_a_broken_file_takes_only_its_own_workflow_away() {
    let layer = |files: &[(&str, &str)]| files.iter().map(|(p, t)| file(p, t)).collect::<Vec<_>>();
    let one = |name: &str, program: &str| {
        format!(r#"{{"name": "{name}", "tasks": [{{"id": "t", "run": ["{program}"]}}]}}"#)
    };
    let first =
        layer(&[("a.json", &one("a", "old")), ("b.json", &one("b", "old")), ("c.json", &one("c", "old"))]);
    let mut second = layer(&[
        ("x.json", &one("a", "new")),
        ("y.json", r#"{"name": "b", "tasks": [{"id": "t", "worker": "nobody", "description": "d"}]}"#),
        ("d.json", "{"),
        ("e.json", &one("e", "1")),
        ("f.json", &one("e", "2")),
    ]);
    second.push(WorkflowFile { path: "g.json".into(), stem: "g".into(), text: Err("is not UTF-8".into()) });
    let in_force = Workflows::load([first.as_slice(), second.as_slice()], ["marie"]).on(DAY);
    assert_eq!(in_force.names().collect::<Vec<_>>(), ["a", "c"]);
    assert!(in_force.show("a").unwrap().definition.contains("new"));
    let told: Vec<_> = in_force.problems().iter().map(|p| format!("{}: {}", p.path, p.message)).collect();
    for expected in [
        "y.json: there is no worker `nobody`",
        "d.json: ",
        "f.json: the workflow `e` is already defined by e.json",
        "g.json: is not UTF-8",
    ] {
        assert!(told.iter().any(|told| told.starts_with(expected)), "{expected}: {told:?}");
    }
    let call = v1::WorkflowCall { name: "b".to_owned(), ..v1::WorkflowCall::default() };
    assert!(compile(&call, &in_force).unwrap_err()[0].message.contains("not in force"));
    let call = v1::WorkflowCall { name: "aa".to_owned(), ..call };
    let problem = &compile(&call, &in_force).unwrap_err()[0];
    assert_eq!((problem.code.as_str(), problem.help.as_str()), ("E0301", "did you mean `a`?"));
}

#[test]
fn definitions_are_checked_without_parameters() {
    let in_force = with(&[("inner.json", USED)]);
    let found = examine(&call(BATCH, &json!({})), &in_force, true);
    assert!(found.problems.is_empty() && found.spec.is_none(), "{:?}", found.problems);
    let workflow = found.workflow.unwrap();
    assert_eq!(
        (workflow.parameters[0].r#type.as_str(), workflow.parameters[0].default.as_str()),
        ("roster", "")
    );
    assert!(examine(&call(BATCH, &students()), &in_force, true).spec.is_some());
    let bad = BATCH.replace("\"after\": \"end\"", "\"after\": \"ever\"");
    assert_eq!(examine(&call(&bad, &json!({})), &in_force, true).problems.len(), 1);
    let looped = r#"{"name": "w", "parameters": {"r": {"type": "roster"}}, "tasks": [
        {"id": "a", "use": "inner", "with": {"who": "{{p.name}}"}, "for_each": "{{r}}", "as": "p"},
        {"id": "b", "run": ["{{p.any}}"], "dependencies": ["a"], "for_each": "{{r}}", "as": "p", "matching": true}]}"#;
    assert!(examine(&call(looped, &json!({})), &in_force, true).problems.is_empty());
}

proptest::proptest! {
    #[test]
    fn no_definition_and_no_parameters_make_it_panic(
        cut in 0..BATCH.len(), length in 0..40_usize, put in "[\\]\\[{}\",:a-z0-9 \\\\]{0,12}", parameters in "[\\]\\[{}\",:a-z0-9 ]{0,30}",
    ) {
        let end = (cut + length).min(BATCH.len());
        let (start, rest) = (BATCH.get(..cut).unwrap_or_default(), BATCH.get(end..).unwrap_or_default());
        let definition = format!("{start}{put}{rest}");
        for parameters in [parameters, students().to_string()] {
            let call = v1::WorkflowCall { definition: definition.clone(), parameters, ..v1::WorkflowCall::default() };
            let compiled = examine(&call, &with(&[]), false);
            proptest::prop_assert_eq!(compiled.spec.is_some(), compiled.problems.is_empty());
        }
    }
}
