//! Run files that cannot be used, and what is said of them.

use super::*;

#[test]
fn unknown_fields_get_a_suggestion() {
    insta::assert_snapshot!(errors(
        "[\n  {\"task_id\": \"a\", \"worker\": \"anga\", \"descripton\": \"x\", \"colour\": \"red\"}\n]"
    ), @r#"
    error[E0103]: the task for anga has no "description"
      --> run.json:2:3
      |
    2 |   {"task_id": "a", "worker": "anga", "descripton": "x", "colour": "red"}
      |   ^
    error[E0111]: a task has no field "descripton"
      --> run.json:2:38
      |
    2 |   {"task_id": "a", "worker": "anga", "descripton": "x", "colour": "red"}
      |                                      ^^^^^^^^^^^^ did you mean "description"?
    error[E0111]: a task has no field "colour"
      --> run.json:2:57
      |
    2 |   {"task_id": "a", "worker": "anga", "descripton": "x", "colour": "red"}
      |                                                         ^^^^^^^^
    3 errors; nothing was submitted
    "#);
}

#[test]
fn dangling_dependencies_get_a_suggestion() {
    insta::assert_snapshot!(errors(
        r#"{"tasks": [
    {"task_id": "ui-notes", "runner": "noop"},
    {"task_id": "db-notes", "runner": "noop"},
    {"task_id": "merge", "runner": "noop", "dependencies": ["ui-note", "db-notes", "elsewhere"]}
]}"#
    ), @r#"
    error[E0104]: task "merge" depends on "ui-note", which is not in the run
      --> run.json:4:61
      |
    4 |     {"task_id": "merge", "runner": "noop", "dependencies": ["ui-note", "db-notes", "elsewhere"]}
      |                                                             ^^^^^^^^^ did you mean "ui-notes"?
    error[E0104]: task "merge" depends on "elsewhere", which is not in the run
      --> run.json:4:84
      |
    4 |     {"task_id": "merge", "runner": "noop", "dependencies": ["ui-note", "db-notes", "elsewhere"]}
      |                                                                                    ^^^^^^^^^^^
    2 errors; nothing was submitted
    "#);
}

#[test]
fn circles_are_named() {
    insta::assert_snapshot!(errors(
        r#"[
  {"task_id": "merge", "runner": "noop", "dependencies": ["proofread"]},
  {"task_id": "proofread", "runner": "noop", "dependencies": ["merge"]},
  {"task_id": "self", "runner": "noop", "dependencies": ["self"]}
]"#
    ), @r#"
    error[E0107]: tasks wait for each other: merge → proofread → merge
      --> run.json:3:63
      |
    3 |   {"task_id": "proofread", "runner": "noop", "dependencies": ["merge"]},
      |                                                               ^^^^^^^
    error[E0107]: tasks wait for each other: self → self
      --> run.json:4:58
      |
    4 |   {"task_id": "self", "runner": "noop", "dependencies": ["self"]}
      |                                                          ^^^^^^
    2 errors; nothing was submitted
    "#);
}

#[test]
fn a_long_chain_is_checked_without_recursion() {
    let task = |i: usize| format!(r#"{{"task_id":"t{i}","runner":"noop","dependencies":["t{}"]}}"#, i + 1);
    let mut tasks: Vec<_> = (0..50_000).map(task).collect();
    tasks.push(r#"{"task_id":"t50000","runner":"noop","dependencies":["t0"]}"#.to_owned());
    let told = errors(&format!("[{}]", tasks.join(",")));
    assert!(
        told.contains("error[E0107]: tasks wait for each other: t0 → t1 → t2 → t3 → t4 → t5 → … → t49995"),
        "{told}"
    );
    assert!(told.len() < 2000, "one line of a megabyte must be cut: {}", told.len());
}

#[test]
fn duplicates_are_shown_where_they_repeat() {
    insta::assert_snapshot!(errors("[{\"task_id\":\"a\",\"runner\":\"noop\"},\n{\"task_id\":\"a\",\"runner\":\"noop\"}]"), @r#"
    error[E0105]: the task id "a" is there twice
      --> run.json:2:12
      |
    2 | {"task_id":"a","runner":"noop"}]
      |            ^^^ rename one
    1 error; nothing was submitted
    "#);
}

#[test]
fn wrong_types_and_values_are_all_told_at_once() {
    insta::assert_snapshot!(errors(
        r#"[{
  "task_id": "a",
  "worker": ["anga"],
  "priority": "urgent",
  "timeout": "soon",
  "retries": -1,
  "requires": {"gpu": true},
  "dependencies": "b",
  "on_loss": "maybe"
}]"#
    ), @r#"
    error[E0101]: "worker" must be text, not a list
      --> run.json:3:13
      |
    3 |   "worker": ["anga"],
      |             ^^^^^^^^
    error[E0101]: "priority" must be high, medium, low or a whole number
      --> run.json:4:15
      |
    4 |   "priority": "urgent",
      |               ^^^^^^^^ "urgent" is not high, medium, low or a whole number
    error[E0101]: "timeout" must be seconds, or a duration such as "10m"
      --> run.json:5:14
      |
    5 |   "timeout": "soon",
      |              ^^^^^^ "soon" is not a duration such as 90, 90s or 10m
    error[E0101]: "retries" must be a whole number from 0 on
      --> run.json:6:14
      |
    6 |   "retries": -1,
      |              ^^
    error[E0101]: "requires" must be an object of texts, not true or false
      --> run.json:7:23
      |
    7 |   "requires": {"gpu": true},
      |                       ^^^^
    error[E0101]: "dependencies" must be a list, not text
      --> run.json:8:19
      |
    8 |   "dependencies": "b",
      |                   ^^^
    error[E0101]: "on_loss" must be "fast" or "wait"
      --> run.json:9:14
      |
    9 |   "on_loss": "maybe"
      |              ^^^^^^^ "maybe" is neither fast nor wait
    7 errors; nothing was submitted
    "#);
}

#[test]
fn fields_that_a_runner_cannot_honour_are_refused() {
    insta::assert_snapshot!(errors(
        r#"[{"task_id": "a", "runner": "noop", "budget_usd": 1, "model": "opus", "program": "ls"}]"#
    ), @r#"
    error[E0113]: the runner noop cannot enforce a budget
      --> run.json:1:51
      |
    1 | [{"task_id": "a", "runner": "noop", "budget_usd": 1, "model": "opus", "program": "ls"}]
      |                                                   ^ take it away, or name a worker
    error[E0101]: "model" means nothing to the runner noop
      --> run.json:1:63
      |
    1 | [{"task_id": "a", "runner": "noop", "budget_usd": 1, "model": "opus", "program": "ls"}]
      |                                                               ^^^^^^ take it away
    error[E0101]: "program" means nothing to the runner noop
      --> run.json:1:82
      |
    1 | [{"task_id": "a", "runner": "noop", "budget_usd": 1, "model": "opus", "program": "ls"}]
      |                                                                                  ^^^^ take it away
    3 errors; nothing was submitted
    "#);
}

#[test]
fn malformed_json_is_shown_at_its_place() {
    insta::assert_snapshot!(errors("[\n  {\"task_id\": \"a\",}\n]"), @r#"
    error[E0112]: a comma with nothing after it
      --> run.json:2:18
      |
    2 |   {"task_id": "a",}
      |                  ^
    1 error; nothing was submitted
    "#);
    insta::assert_snapshot!(errors("[\n  {\"task_id\": 'a'}\n]"), @r#"
    error[E0112]: '\'' where a value should be; JSON has double quotes only
      --> run.json:2:15
      |
    2 |   {"task_id": 'a'}
      |               ^
    1 error; nothing was submitted
    "#);
    insta::assert_snapshot!(errors("[\n  {\"task_id\": \"a\""), @r#"
    error[E0112]: the file ends where a comma or } should be
      --> run.json:2:18
      |
    2 |   {"task_id": "a"
      |                  ^
    1 error; nothing was submitted
    "#);
    insta::assert_snapshot!(errors(""), @r"
    error[E0112]: the file ends where a value should be
      --> run.json:1:1
      |
    1 | 
      | ^
    1 error; nothing was submitted
    ");
}

#[test]
fn names_that_could_be_paths_or_escape_sequences_are_refused_and_shown_safely() {
    for id in ["../etc", "-x", "a b", "", "\\u0000", "\\u001b[31m", "é", &"x".repeat(64)] {
        let text = format!(r#"[{{"task_id":"{id}","runner":"noop"}},{{"task_id":"ok","runner":"noop"}}]"#);
        let told = errors(&text);
        assert!(told.contains("E0102"), "{id:?}: {told}");
        assert!(!told.contains('\u{1b}'));
    }
}

#[test]
fn empty_and_missing_parts_are_refused_by_their_own_codes() {
    for (text, code) in [
        ("[]", "E0115"),
        ("{}", "E0115"),
        (r#"{"tasks": []}"#, "E0115"),
        ("3", "E0101"),
        ("[3]", "E0101"),
        (r#"[{"task_id": "a"}]"#, "E0106"),
        (r#"[{"worker": "anga"}]"#, "E0103"),
        (r#"[{"worker": "anga", "description": "  "}]"#, "E0103"),
        (r#"[{"runner": "command"}]"#, "E0106"),
        (r#"[{"runner": "shell"}]"#, "E0101"),
        (r#"[{"runner": "noop", "worker": "anga"}]"#, "E0101"),
        (r#"[{"runner": "noop", "budget_usd": 1}]"#, "E0113"),
        (r#"{"name": "Nightly", "tasks": [{"runner": "noop"}]}"#, "E0102"),
        (r#"[{"runner": "noop", "runner": "noop"}]"#, "E0101"),
    ] {
        let told = errors(text);
        assert!(told.contains(code), "{text}: {told}");
    }
}

#[test]
fn prompts_over_the_limit_are_refused() {
    let text = format!(r#"[{{"worker":"anga","description":"{}"}}]"#, "x".repeat(9 << 20));
    let told = errors(&text);
    assert!(told.contains("E0109") && told.contains("at most 8 MiB"), "{}", &told[..200]);
}

#[test]
fn a_file_that_is_not_utf_8_is_refused_at_its_place() {
    let failure = read("run.json", b"[\n\xff]").unwrap_err();
    assert!(failure.text(false).contains("run.json:2:1"), "{}", failure.text(false));
}

#[test]
fn many_errors_are_counted_and_few_shown() {
    let tasks: Vec<_> = (0..50).map(|i| format!(r#"{{"task_id":"t{i}"}}"#)).collect();
    let told = errors(&format!("[{}]", tasks.join(",\n")));
    assert!(told.ends_with("and 30 more\n50 errors; nothing was submitted\n"), "{told}");
}

#[test]
fn scripts_get_every_error_in_one_object() {
    let failure = read("run.json", br#"[{"task_id":"a"},{"task_id":"b"}]"#).unwrap_err();
    let json: serde_json::Value = serde_json::from_str(&failure.json()).unwrap();
    assert_eq!(json["error"]["code"], "E0106");
    assert_eq!(json["error"]["further"].as_array().unwrap().len(), 1);
}

#[test]
fn errors_within_gates_conditions_and_publications_have_their_places() {
    insta::assert_snapshot!(errors(
        r#"{"on_failure": "fail-fast", "workspace": "Dance", "tasks": [
  {"task_id": "a", "worker": "marie", "description": "d", "contract": true, "output_schema": {},
   "gates": {"min_tool_cals": 3, "repairs": 11, "commands": [{"timeout": 3}, {"run": []}], "review": {"worker": ""}},
   "publish": [{"artifact": "e.md"}, 7], "cache": "yes"},
  {"task_id": "b", "runner": "noop", "dependencies": ["a"], "after": "ends", "contract": true,
   "when": [{"task": "c", "test": "exists", "value": 1}, {"task": "a", "test": "equals"}, {"task": "a", "test": "is"}]}
]}"#
    ), @r#"
    error[E0101]: "on_failure" is "fail-fast"; there are fail_fast, continue, best_effort
      --> run.json:1:16
      |
    1 | {"on_failure": "fail-fast", "workspace": "Dance", "tasks": [
      |                ^^^^^^^^^^^ did you mean "fail_fast"?
    error[E0102]: the workspace "Dance" is not allowed
      --> run.json:1:42
      |
    1 | {"on_failure": "fail-fast", "workspace": "Dance", "tasks": [
      |                                          ^^^^^^^ lower-case letters, digits, dash; a letter or digit first; at most 63
    error[E0101]: an answer keeps either to the "contract" or to its "output_schema"
      --> run.json:2:71
      |
    2 |   {"task_id": "a", "worker": "marie", "description": "d", "contract": true, "output_schema": {},
      |                                                                       ^^^^ take one of them away
    error[E0111]: gates has no field "min_tool_cals"
      --> run.json:3:14
      |
    3 |    "gates": {"min_tool_cals": 3, "repairs": 11, "commands": [{"timeout": 3}, {"run": []}], "review":…
      |              ^^^^^^^^^^^^^^^ did you mean "min_tool_calls"?
    error[E0101]: "repairs" must be a whole number from 0 to 10
      --> run.json:3:45
      |
    3 | …gates": {"min_tool_cals": 3, "repairs": 11, "commands": [{"timeout": 3}, {"run": []}], "review": {"w…
      |                                          ^^
    error[E0118]: the gate has no "run"
      --> run.json:3:62
      |
    3 | …l_cals": 3, "repairs": 11, "commands": [{"timeout": 3}, {"run": []}], "review": {"worker": ""}},
      |                                          ^
    error[E0118]: "run" names no program
      --> run.json:3:86
      |
    3 | …1, "commands": [{"timeout": 3}, {"run": []}], "review": {"worker": ""}},
      |                                          ^^ such as ["cargo", "test"]
    error[E0118]: "worker" is empty
      --> run.json:3:113
      |
    3 | … 3}, {"run": []}], "review": {"worker": ""}},
      |                                          ^^
    error[E0119]: the publication has no "to"
      --> run.json:4:16
      |
    4 |    "publish": [{"artifact": "e.md"}, 7], "cache": "yes"},
      |                ^
    error[E0101]: "publish" must be a list of objects, not a number
      --> run.json:4:38
      |
    4 |    "publish": [{"artifact": "e.md"}, 7], "cache": "yes"},
      |                                      ^
    error[E0101]: "cache" must be true or false, not text
      --> run.json:4:51
      |
    4 |    "publish": [{"artifact": "e.md"}, 7], "cache": "yes"},
      |                                                   ^^^^^
    error[E0101]: "after" is "ends"; there are success, end
      --> run.json:5:70
      |
    5 |   {"task_id": "b", "runner": "noop", "dependencies": ["a"], "after": "ends", "contract": true,
      |                                                                      ^^^^^^ did you mean "end"?
    error[E0101]: "contract" means nothing to the runner noop
      --> run.json:5:90
      |
    5 |   {"task_id": "b", "runner": "noop", "dependencies": ["a"], "after": "ends", "contract": true,
      |                                                                                          ^^^^ take it away
    error[E0120]: the condition asks for "c", which is none of the task's dependencies
      --> run.json:6:22
      |
    6 |    "when": [{"task": "c", "test": "exists", "value": 1}, {"task": "a", "test": "equals"}, {"task": "…
      |                      ^^^ name it under "dependencies" too
    error[E0120]: there is nothing to compare with
      --> run.json:6:54
      |
    6 | …"task": "c", "test": "exists", "value": 1}, {"task": "a", "test": "equals"}, {"task": "a", "test": "…
      |                                          ^ take it away
    error[E0120]: the condition has no "value" to compare with
      --> run.json:6:58
      |
    6 | …k": "c", "test": "exists", "value": 1}, {"task": "a", "test": "equals"}, {"task": "a", "test": "is"}…
      |                                          ^
    error[E0101]: "test" is "is"; there are exists, absent, equals, not_equals, below, at_least, contains
      --> run.json:6:113
      |
    6 | …test": "equals"}, {"task": "a", "test": "is"}]}
      |                                          ^^^^
    17 errors; nothing was submitted
    "#);
    insta::assert_snapshot!(errors(
        r#"{"request": {"text": " ", "plan_only": 1}, "tasks": [{"runner": "noop"}]}"#
    ), @r#"
    error[E0101]: a run has either "tasks" or a "request" that is planned
      --> run.json:1:13
      |
    1 | {"request": {"text": " ", "plan_only": 1}, "tasks": [{"runner": "noop"}]}
      |             ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ take one of them away
    error[E0103]: "text" is empty
      --> run.json:1:22
      |
    1 | {"request": {"text": " ", "plan_only": 1}, "tasks": [{"runner": "noop"}]}
      |                      ^^^
    2 errors; nothing was submitted
    "#);
}
