//! Every way in which a definition and its parameters can be wrong.

use super::*;

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
