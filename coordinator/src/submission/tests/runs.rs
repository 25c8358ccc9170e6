//! A run as a whole: policy, parallelism, workspace.

use super::*;

fn spec(task: v1::TaskSpec) -> v1::RunSpec {
    v1::RunSpec { tasks: vec![task], ..Default::default() }
}

#[test]
fn policy_and_parallelism_are_kept_and_bad_words_refused() {
    for (asked, policy) in [
        (v1::FailurePolicy::Unspecified, FailurePolicy::Continue),
        (v1::FailurePolicy::Continue, FailurePolicy::Continue),
        (v1::FailurePolicy::FailFast, FailurePolicy::FailFast),
        (v1::FailurePolicy::BestEffort, FailurePolicy::BestEffort),
    ] {
        let spec = v1::RunSpec { on_failure: asked.into(), max_parallel: 3, ..spec(noop("a")) };
        let run = check_run(spec).unwrap();
        assert_eq!((run.policy, run.max_parallel), (policy, 3));
    }
    run_refused(v1::RunSpec { on_failure: 9, ..spec(noop("a")) }, ErrorCode::InvalidField, "on_failure");
    let late = v1::TaskSpec { after: v1::After::End.into(), ..noop("a") };
    assert_eq!(check(vec![late]).unwrap().tasks[0].after, v1::After::End);
    assert_eq!(check(vec![noop("a")]).unwrap().tasks[0].after, v1::After::Success);
    refused(vec![v1::TaskSpec { after: 7, ..noop("a") }], ErrorCode::InvalidField, "tasks[0].after");
}

#[test]
fn a_task_sees_its_own_workspace_or_else_that_of_the_run() {
    let own = v1::TaskSpec { workspace: "studio".into(), ..worker_task("own", "x", &[]) };
    let tasks = vec![own, worker_task("shared", "x", &[]), command("script", "make", &[]), noop("nothing")];
    let run = check_run(v1::RunSpec { tasks, workspace: "dance".into(), ..Default::default() }).unwrap();
    let seen: Vec<_> = run.tasks.iter().map(|task| task.workspace.as_str()).collect();
    assert_eq!(seen, ["studio", "dance", "dance", ""]);
    for task in &run.tasks {
        let needed: Vec<_> = task.requires.iter().filter(|word| word.starts_with("workspace=")).collect();
        let wanted = format!("workspace={}", task.workspace);
        assert_eq!(needed, if task.workspace.is_empty() { vec![] } else { vec![&wanted] }, "{}", task.id);
    }
    assert!(check(vec![worker_task("a", "x", &[])]).unwrap().tasks[0].workspace.is_empty());
}

#[test]
fn a_workspace_has_a_name_that_agents_can_offer() {
    for name in ["Dance", "../dance", "a/b", "a.b", "a_b", "-a", "a b", "é", "a\u{1b}", &"w".repeat(64)] {
        let task = v1::TaskSpec { workspace: name.into(), ..worker_task("a", "x", &[]) };
        let message = refused(vec![task], ErrorCode::InvalidName, "tasks[0].workspace");
        assert!(!message.contains('\u{1b}'), "{message:?}");
        let spec = v1::RunSpec { workspace: name.into(), ..spec(noop("a")) };
        run_refused(spec, ErrorCode::InvalidName, "workspace");
    }
    let task = v1::TaskSpec { workspace: "dance".into(), ..noop("a") };
    refused(vec![task], ErrorCode::InvalidField, "tasks[0].workspace");
}

#[test]
fn a_workflow_is_compiled_before_and_never_here() {
    let spec = v1::RunSpec { workflow: Some(v1::WorkflowCall::default()), ..spec(noop("a")) };
    run_refused(spec, ErrorCode::InvalidField, "workflow");
}

#[test]
fn an_expected_cost_is_an_amount_of_money() {
    let costing = |micro| v1::TaskSpec { expected_cost_micro_usd: Some(micro), ..noop("a") };
    assert_eq!(check(vec![costing(1_500_000)]).unwrap().tasks[0].expected_cost_micro_usd, Some(1_500_000));
    refused(vec![costing(u64::MAX)], ErrorCode::InvalidField, "tasks[0].expected_cost_micro_usd");
}

#[test]
fn tasks_that_join_a_run_go_on_after_those_it_has() {
    let taken = BTreeSet::from(["plan".to_owned(), "synthesis".to_owned()]);
    let catalogue = Catalogue::default();
    let conversations = BTreeMap::new();
    let given =
        Given { workers: &Fixed, catalogue: &catalogue, submitted: SUBMITTED, conversations: &conversations };
    let frame = Frame { first: 2, taken: &taken, workspace: "dance", no_cache: false };
    let mut first = worker_task("a", "x", &[]);
    first.publish.push(v1::Publication { artifact: "a.md".into(), to: "a.md".into(), replace: false });
    let tasks = check_tasks(vec![first, worker_task("b", "x", &["a"])], &frame, &given).unwrap();
    assert_eq!(tasks.iter().map(|task| task.id.as_str()).collect::<Vec<_>>(), ["a", "b", "a.publish"]);
    assert_eq!((&*tasks[1].dependencies, &*tasks[2].dependencies), (&[2][..], &[2][..]));
    assert_eq!((tasks[2].of, tasks[2].workspace.as_str()), (Some(2), "dance"));
    let error = check_tasks(vec![worker_task("plan", "x", &[])], &frame, &given).unwrap_err();
    assert_eq!(error.code, ErrorCode::DuplicateTaskId);
    let error = check_tasks(vec![worker_task("c", "x", &["plan"])], &frame, &given).unwrap_err();
    assert_eq!(error.code, ErrorCode::UnknownDependency);
}
