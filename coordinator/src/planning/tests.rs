//! From a plan as text to tasks, problems and judgements; and that schemas and types say the same.
//! Knows the shipped workers and one agent; refuses to know queue and store.

use super::*;
use crate::prompts;
use crate::submission::{CheckedPlanning, CheckedTask, Given, MAX_SCHEMA_BYTES};
use crate::workers::WorkersInForce;
use orch_core::time::Wall;
use orch_proto::v1;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const AGENT: &[&str] = &["runner=claude", "runner=publish", "workspace=dance"];

fn planning() -> CheckedPlanning {
    CheckedPlanning {
        approve: false,
        plan_only: false,
        max_tasks: 50,
        workers: Vec::new(),
        workspace: "dance".to_owned(),
    }
}

fn with_given<T>(offers: &[&[&str]], look: impl FnOnce(&Given<'_>) -> T) -> T {
    let workers = WorkersInForce::new(prompts::Catalogue::load(&[]).unwrap());
    let known =
        |worker: v1::Worker| (worker.name, Known { description: worker.description, ..Known::default() });
    let offer = |words: &&[&str]| words.iter().map(|word| (*word).to_owned()).collect::<BTreeSet<_>>();
    let catalogue = Catalogue::new(
        workers.list("", usize::MAX).into_iter().map(known).collect(),
        offers.iter().map(offer).collect(),
    );
    let conversations = BTreeMap::new();
    look(&Given {
        workers: &workers,
        catalogue: &catalogue,
        submitted: Wall(0),
        conversations: &conversations,
    })
}

fn evaluation(who: &str) -> Value {
    json!({
        "id": format!("evaluate-{who}"),
        "worker": "marie",
        "description": format!("Evaluate {who}."),
        "dependencies": [],
        "artifacts": ["evaluation.md"],
        "min_tool_calls": 1,
        "expected_cost_usd": 0.25,
        "publish": [{"artifact": "evaluation.md", "to": format!("students/{who}/evaluation_{{date}}.md")}],
    })
}

fn plan(tasks: Vec<Value>) -> Value {
    json!({"summary": "One task for each student.", "tasks": tasks})
}

fn problems(plan: &Value) -> Vec<String> {
    problems_of(&plan.to_string(), &planning())
}

fn problems_of(text: &str, planning: &CheckedPlanning) -> Vec<String> {
    match with_given(&[AGENT], |given| examine(text, planning, given)) {
        Err(Objection::Problems(problems)) => problems,
        other => panic!("expected problems, got {other:?}"),
    }
}

fn judged(text: &str, planning: &CheckedPlanning, repairs_left: u32) -> Judgement {
    with_given(&[AGENT], |given| judge(text, planning, repairs_left, given))
}

fn ids(tasks: &[CheckedTask]) -> Vec<&str> {
    tasks.iter().map(|task| task.id.as_str()).collect()
}

#[test]
fn a_good_plan_becomes_tasks_by_contract_in_the_runs_workspace_with_their_publications() {
    let mut both = plan(vec![
        json!({
            "id": "compare", "worker": "anga", "description": "Compare them.", "priority": "high", "timeout": "20m",
            "context": "Only dance.", "dependencies": ["evaluate-emma", "evaluate-lucas"],
            "review": {"worker": "marie", "instructions": "Is it fair?"},
        }),
        evaluation("emma"),
        evaluation("lucas"),
    ]);
    both["missing"] = json!([""]);
    let examined = with_given(&[AGENT], |given| examine(&both.to_string(), &planning(), given)).unwrap();
    let names: Vec<&str> = examined.specs.iter().map(|spec| spec.task_id.as_str()).collect();
    assert_eq!(names, ["evaluate-emma", "evaluate-lucas", "compare"], "dependencies first");
    let emma = &examined.specs[0];
    let gates = emma.gates.as_ref().unwrap();
    assert_eq!((gates.min_tool_calls, &*gates.required_artifacts), (1, &["evaluation.md".to_owned()][..]));
    assert_eq!(emma.expected_cost_micro_usd, Some(250_000));
    let compare = &examined.specs[2];
    assert_eq!((compare.priority, compare.timeout.map(|time| time.seconds)), (Some(100), Some(1_200)));
    let made = ids(&examined.tasks);
    assert_eq!(made[..3], ["evaluate-emma", "evaluate-lucas", "compare"]);
    let followers: BTreeSet<&str> = made[3..].iter().copied().collect();
    assert_eq!(followers, ["compare.review", "evaluate-emma.publish", "evaluate-lucas.publish"].into());
    assert_eq!(examined.tasks[2].dependencies, [2, 3], "indexes go on after plan and synthesis");
    for task in &examined.tasks[..3] {
        assert_eq!(task.workspace, "dance");
        let crate::submission::CheckedRunner::Worker(worker) = &task.runner else { panic!("{task:?}") };
        assert!(worker.contract && worker.output_schema == schemas::RESULT);
    }
}

#[test]
fn everything_wrong_is_said_at_once() {
    let mut odd = evaluation("emma");
    odd["timeout"] = json!("soon");
    odd["expected_cost_usd"] = json!(-1);
    odd["worker"] = json!("maria");
    let mut other = evaluation("emma");
    other["dependencies"] = json!(["evaluate-lucas"]);
    other["description"] = json!("  ");
    let mut bad = plan(vec![odd, other]);
    bad["missing"] = json!(["the date"]);
    let wanted = [
        "the plan has tasks and says in `missing` that there can be none: leave one of the two out",
        "task `evaluate-emma`: timeout `soon` is no length of time: write 90s, 20m or 1h 30m",
        "task `evaluate-emma`: expected_cost_usd -1 is no amount: 0 or more US dollars",
        "2 tasks have the id `evaluate-emma`: give each its own",
        "task `evaluate-emma` has no description: say what is to be done",
        "task evaluate-emma names worker `maria`, which is none of the workers of this request; did you mean `marie`?; \
         they are: anga, fabien, marie",
        "task `evaluate-emma` depends on `evaluate-lucas`, which is not in the plan",
        "`students/emma/evaluation_{date}.md` would be published 2 times, by evaluate-emma: one path, one file",
    ];
    assert_eq!(problems(&bad), wanted);
}

#[test]
fn two_hundred_tasks_against_fifty_and_a_cycle_are_refused_exactly() {
    let many = (0..200).map(|at| evaluation(&format!("s{at}"))).collect();
    let wanted =
        "the plan has 200 tasks, at most 50 are allowed: merge tasks, or plan only what matters most";
    assert_eq!(problems(&plan(many)), [wanted]);
    let (mut one, mut two) = (evaluation("emma"), evaluation("lucas"));
    one["dependencies"] = json!(["evaluate-lucas"]);
    two["dependencies"] = json!(["evaluate-emma"]);
    let wanted = "tasks wait for each other: evaluate-emma -> evaluate-lucas -> evaluate-emma; take one of these \
                  dependencies away";
    assert_eq!(problems(&plan(vec![one, two])), [wanted]);
}

#[test]
fn text_that_is_no_plan_is_refused_with_its_place() {
    let wanted = ["line 1, column 1: not JSON: expected value"];
    assert_eq!(problems_of("I would ask marie.", &planning()), wanted);
    let mut odd = evaluation("emma");
    odd["model"] = json!("opus");
    let said = problems(&plan(vec![odd]));
    assert!(said[0].contains("unknown field `model`, expected one of `id`, `worker`"), "{said:?}");
}

#[test]
fn an_empty_plan_without_a_reason_is_a_mistake() {
    let wanted =
        "the plan has no task: give at least one, or say in `missing` what only the requester can give";
    assert_eq!(problems(&plan(Vec::new())), [wanted]);
}

#[test]
fn workers_that_the_request_does_not_allow_and_needs_that_nobody_meets_are_refused() {
    let only = CheckedPlanning { workers: vec!["anga".to_owned()], ..planning() };
    let said = problems_of(&plan(vec![evaluation("emma")]).to_string(), &only);
    assert!(said[0].ends_with("none of the workers of this request; they are: anga"), "{said:?}");
    let text = plan(vec![evaluation("emma")]).to_string();
    let nobody = with_given(&[&["runner=claude"]], |given| examine(&text, &planning(), given));
    let Err(Objection::Problems(said)) = nobody else { panic!("{nobody:?}") };
    assert_eq!(
        said,
        [
            "task evaluate-emma cannot be run: publishing needs runner=publish and workspace=dance together, which no \
             known agent offers",
            "task evaluate-emma cannot be run: worker `marie` needs runner=claude and workspace=dance together, which no \
             known agent offers",
        ]
    );
}

#[test]
fn problems_without_end_are_counted() {
    let tasks = (0..3_000).map(|at| json!({"id": format!("t{at}"), "worker": "marie", "description": ""}));
    let said = problems(&plan(tasks.collect()));
    assert!(said.len() <= 101 && said.iter().map(String::len).sum::<usize>() < 40_000);
    assert!(said.last().unwrap().ends_with("more of that kind: mend these first"), "{:?}", said.last());
}

#[test]
fn a_plan_that_holds_is_expanded_held_or_accepted_as_was_asked() {
    let text = plan(vec![evaluation("emma")]).to_string();
    let Judgement::Expand(tasks) = judged(&text, &planning(), 1) else { panic!() };
    assert_eq!(ids(&tasks), ["evaluate-emma", "evaluate-emma.publish"]);
    let approve = CheckedPlanning { approve: true, ..planning() };
    assert!(matches!(judged(&text, &approve, 1), Judgement::Hold));
    let only = CheckedPlanning { plan_only: true, ..planning() };
    assert!(matches!(judged(&text, &only, 1), Judgement::Accept));
}

#[test]
fn a_bad_plan_is_sent_back_once_with_the_exact_errors_and_then_refused() {
    let mut bad = evaluation("emma");
    bad["worker"] = json!("maria");
    let text = plan(vec![bad, evaluation("emma")]).to_string();
    let exact = problems_of(&text, &planning());
    assert!(exact.len() > 1);
    let Judgement::SendBack { feedback, detail } = judged(&text, &planning(), 1) else { panic!() };
    assert!(exact.iter().all(|problem| feedback.contains(&format!("- {problem}\n"))), "{feedback}");
    assert!(detail.starts_with("the plan cannot be run: ") && detail.len() <= 400, "{detail}");
    let Judgement::Refuse { outcome, detail } = judged(&text, &planning(), 0) else { panic!() };
    assert_eq!(outcome, v1::Outcome::SchemaInvalid);
    assert!(detail.contains(&exact[0]) && detail.len() <= 400, "{detail}");
    assert!(
        detail.contains(&format!("({} more)", exact.len() - 1)) && detail.contains("orchctl"),
        "{detail}"
    );
}

#[test]
fn details_are_never_too_long_and_never_cut_a_letter() {
    for length in [380, 399, 400, 401, 5_000] {
        let text =
            plan(vec![json!({"id": "é".repeat(length), "worker": "marie", "description": "x"})]).to_string();
        for repairs in [0, 1] {
            let (Judgement::Refuse { detail, .. } | Judgement::SendBack { detail, .. }) =
                judged(&text, &planning(), repairs)
            else {
                panic!()
            };
            assert!(detail.len() <= 400, "{}", detail.len());
        }
    }
}

#[test]
fn what_is_missing_ends_the_run_in_the_planners_own_words() {
    let text =
        json!({"summary": "", "tasks": [], "missing": ["Which class?\u{1b}[2J", " ", "é".repeat(600)]});
    for repairs in [0, 1] {
        let Judgement::Refuse { outcome, detail } = judged(&text.to_string(), &planning(), repairs) else {
            panic!()
        };
        assert_eq!(outcome, v1::Outcome::Refused);
        assert!(detail.starts_with("No plan: Which class? [2J; é") && detail.len() <= 400, "{detail}");
        assert!(detail.ends_with('…'), "{detail}");
    }
}

/// One of each answer, with every field.
fn whole() -> [(&'static str, Value); 4] {
    let mut task = evaluation("emma");
    task["publish"][0]["replace"] = json!(true);
    task["dependencies"] = json!(["first"]);
    task["priority"] = json!("low");
    task["timeout"] = json!("20m");
    task["context"] = json!("text");
    task["review"] = json!({"worker": "anga", "instructions": "Is it fair?"});
    let mut plan = plan(vec![task]);
    plan["missing"] = json!(["nothing"]);
    [
        (schemas::PLAN, plan),
        (
            schemas::SYNTHESIS,
            json!({
                "summary": "s", "tasks": [{"id": "a", "line": "l"}], "conflicts": ["c"], "gaps": ["g"],
                "next_steps": [{"step": "s", "impact": "high"}], "answer": "# A",
            }),
        ),
        (
            schemas::RESULT,
            json!({
                "status": "partial", "summary": "s", "findings": ["f"], "artifacts": ["a.md"], "recommendations": ["r"],
                "scores": {"total": 7.5},
            }),
        ),
        (schemas::REVIEW, json!({"verdict": "fail", "reasons": ["r"]})),
    ]
}

/// Reads an answer by the type of its schema and writes it again.
fn through_the_type(schema: &str, value: &Value) -> Result<Value, serde_json::Error> {
    let value = value.clone();
    match schema {
        schemas::PLAN => serde_json::to_value(serde_json::from_value::<schemas::Plan>(value)?),
        schemas::SYNTHESIS => serde_json::to_value(serde_json::from_value::<schemas::Synthesis>(value)?),
        schemas::RESULT => serde_json::to_value(serde_json::from_value::<schemas::TaskResult>(value)?),
        schemas::REVIEW => serde_json::to_value(serde_json::from_value::<schemas::Verdict>(value)?),
        _ => unreachable!("a fifth schema"),
    }
}

/// `schema` uses only what the CLI's tool takes, says what each field is, and describes exactly `value`.
fn agrees(schema: &Value, value: &Value, at: &str) {
    const WORDS: [&str; 7] =
        ["type", "description", "properties", "required", "additionalProperties", "items", "enum"];
    for word in schema.as_object().unwrap().keys() {
        assert!(WORDS.contains(&word.as_str()), "{at}: {word}");
    }
    match schema["type"].as_str().unwrap() {
        "object" if schema.get("properties").is_none() => {
            assert!(schema["additionalProperties"].is_object() && value.is_object(), "{at}");
        }
        "object" => {
            assert_eq!(schema["additionalProperties"], json!(false), "{at} is not strict");
            let properties = schema["properties"].as_object().unwrap();
            assert!(properties.keys().eq(value.as_object().unwrap().keys()), "{at}: {value}");
            for required in schema["required"].as_array().unwrap() {
                assert!(properties.contains_key(required.as_str().unwrap()), "{at}: {required}");
            }
            for (name, property) in properties {
                let said =
                    property["description"].as_str().unwrap_or_else(|| panic!("{at}.{name} says nothing"));
                assert!(!said.contains('\n') && said.ends_with('.'), "{at}.{name}: one sentence or line");
                agrees(property, &value[name], &format!("{at}.{name}"));
            }
        }
        "array" => agrees(&schema["items"], &value[0], at),
        "string" => assert!(value.is_string(), "{at}"),
        "integer" => assert!(value.is_u64(), "{at}"),
        "number" => assert!(value.is_number(), "{at}"),
        "boolean" => assert!(value.is_boolean(), "{at}"),
        other => panic!("{at}: {other}"),
    }
    if let Some(choices) = schema.get("enum") {
        assert!(choices.as_array().unwrap().contains(value), "{at}");
    }
}

#[test]
fn schemas_are_strict_described_and_say_the_same_as_the_types() {
    for (schema, value) in whole() {
        assert!(schema.len() <= MAX_SCHEMA_BYTES);
        agrees(&serde_json::from_str(schema).unwrap(), &value, "root");
        assert_eq!(through_the_type(schema, &value).unwrap(), value);
        let mut odd = value.clone();
        odd["surplus"] = json!(1);
        assert!(through_the_type(schema, &odd).is_err(), "an unknown field is a mistake");
        let parsed: Value = serde_json::from_str(schema).unwrap();
        for required in parsed["required"].as_array().unwrap() {
            let mut less = value.clone();
            less.as_object_mut().unwrap().remove(required.as_str().unwrap());
            assert!(through_the_type(schema, &less).is_err(), "{required} is required");
        }
    }
}

#[test]
fn every_choice_of_a_schema_is_one_of_the_type() {
    let plan: Value = serde_json::from_str(schemas::PLAN).unwrap();
    for choice in plan["properties"]["tasks"]["items"]["properties"]["priority"]["enum"].as_array().unwrap() {
        assert!(serde_json::from_value::<schemas::Priority>(choice.clone()).is_ok());
    }
    let result: Value = serde_json::from_str(schemas::RESULT).unwrap();
    for choice in result["properties"]["status"]["enum"].as_array().unwrap() {
        assert!(serde_json::from_value::<schemas::ResultStatus>(choice.clone()).is_ok());
    }
    let review: Value = serde_json::from_str(schemas::REVIEW).unwrap();
    for choice in review["properties"]["verdict"]["enum"].as_array().unwrap() {
        assert!(serde_json::from_value::<schemas::PassFail>(choice.clone()).is_ok());
    }
}
