//! What happens to the rest when a task does not succeed, how many run at once, and hosts that are lost meanwhile.

use super::{by_name, ended};
use orch_proto::v1::{self, After, FailurePolicy, RunState, TaskState};
use orch_tests::client::{after, command, noop, run, worker};
use orch_tests::fleet::Fleet;
use orch_tests::wait::until_async;
use serde_json::json;
use std::collections::BTreeMap;

fn at_the_end(mut task: v1::TaskSpec, dependencies: &[&str]) -> v1::TaskSpec {
    task.after = After::End.into();
    after(task, dependencies)
}

fn failing(policy: FailurePolicy) -> v1::RunSpec {
    let mut bad = command("bad", "false", &[]);
    bad.retries = Some(0);
    v1::RunSpec {
        on_failure: policy.into(),
        ..run(vec![
            noop("good"),
            bad,
            after(noop("below-bad"), &["bad"]),
            after(noop("below-good"), &["good"]),
            at_the_end(worker("report", "orchestrator", "Combine it"), &["below-bad", "below-good", "bad"]),
        ])
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_stops_what_depends_on_it_and_the_policy_says_what_else() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &["--slots", "1", "--allow-command", "false"]);
    let mut client = fleet.client().await;
    for (policy, state) in [
        (FailurePolicy::Continue, RunState::Failed),
        (FailurePolicy::BestEffort, RunState::Succeeded),
        (FailurePolicy::FailFast, RunState::Failed),
    ] {
        let submitted = client.submit(failing(policy)).await;
        let (run, tasks) = ended(&mut client, &submitted.r#ref, state).await;
        assert_eq!(tasks["bad"].state(), TaskState::Failed);
        assert_ne!(tasks["below-bad"].state(), TaskState::Succeeded);
        if policy == FailurePolicy::FailFast {
            assert_ne!(tasks["report"].state(), TaskState::Succeeded);
            continue;
        }
        assert_eq!(tasks["below-bad"].state(), TaskState::Skipped);
        assert_eq!(tasks["below-good"].state(), TaskState::Succeeded);
        assert_eq!(tasks["report"].state(), TaskState::Succeeded, "it combines what there is");
        if policy == FailurePolicy::BestEffort {
            assert!(run.detail.contains("bad"), "the gap is named: {}", run.detail);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_on_a_result_decide_which_branch_runs() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &["--slots", "2"]);
    let mut client = fleet.client().await;
    let mut mark = worker("mark", "anga", &format!("[[structured {}]]", json!({"scores": {"total": 62}})));
    if let Some(v1::task_spec::Runner::Worker(work)) = &mut mark.runner {
        work.output_schema = json!({"type": "object"}).to_string();
    }
    let branch = |id: &str, test: v1::ConditionTest| v1::TaskSpec {
        conditions: vec![v1::Condition {
            task_id: "mark".into(),
            pointer: "/scores/total".into(),
            test: test.into(),
            value: "70".into(),
        }],
        ..after(noop(id), &["mark"])
    };
    let submitted = client
        .submit(run(vec![
            mark,
            branch("help", v1::ConditionTest::Below),
            branch("praise", v1::ConditionTest::AtLeast),
            after(noop("after-praise"), &["praise"]),
            at_the_end(noop("either"), &["help", "praise"]),
        ]))
        .await;
    let (_, tasks) = ended(&mut client, &submitted.r#ref, RunState::Succeeded).await;
    let states: Vec<TaskState> =
        ["help", "praise", "after-praise", "either"].iter().map(|id| tasks[*id].state()).collect();
    assert_eq!(states, [TaskState::Succeeded, TaskState::Skipped, TaskState::Skipped, TaskState::Succeeded]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_diamond_joins_once_and_no_more_run_at_once_than_were_allowed() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &["--slots", "8", "--allow-command", "sleep"]);
    let mut client = fleet.client().await;
    let mut tasks = vec![noop("root")];
    let middle: Vec<String> = (0..6).map(|at| format!("m{at}")).collect();
    for id in &middle {
        tasks.push(after(command(id, "sleep", &["0.2"]), &["root"]));
    }
    let names: Vec<&str> = middle.iter().map(String::as_str).collect();
    tasks.push(after(noop("join"), &names));
    let submitted = client.submit(v1::RunSpec { max_parallel: 2, ..run(tasks) }).await;
    let (_, tasks) = ended(&mut client, &submitted.r#ref, RunState::Succeeded).await;
    assert_eq!(tasks["join"].attempt, 1);
    let nanos =
        |time: Option<prost_types::Timestamp>| time.map(|time| (time.seconds, time.nanos)).expect("a time");
    let spans: Vec<_> =
        names.iter().map(|id| (nanos(tasks[*id].started_at), nanos(tasks[*id].finished_at))).collect();
    for (start, _) in &spans {
        let running = spans.iter().filter(|(from, to)| from <= start && start < to).count();
        assert!(running <= 2, "{running} ran at once: {spans:?}");
    }
    assert!(spans.iter().all(|(_, end)| *end <= nanos(tasks["join"].started_at)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_killed_in_the_middle_of_a_batch_changes_nothing_but_attempt_counts() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &["--slots", "4"]);
    fleet.agent("box-2", &["--slots", "4"]);
    let mut client = fleet.client().await;
    let batch = || {
        let item = |at: usize| {
            worker(
                &format!("item-{at:02}"),
                "anga",
                &format!("[[sleep {{\"ms\":150}}]][[text {{\"text\":\"answer {at}\"}}]]"),
            )
        };
        let mut tasks: Vec<v1::TaskSpec> = (0..50).map(item).collect();
        let names: Vec<String> = tasks.iter().map(|task| task.task_id.clone()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        tasks.push(at_the_end(worker("report", "orchestrator", "[[echo]]"), &names));
        run(tasks)
    };
    let calm = client.submit(batch()).await.r#ref;
    let calm = report(&ended(&mut client, &calm, RunState::Succeeded).await.1);

    let stormy = client.submit(batch()).await.r#ref;
    let watch = client.clone();
    until_async("some of the batch to be done", || {
        let (mut client, run) = (watch.clone(), stormy.clone());
        async move {
            let tasks = by_name(&mut client, &run).await;
            let done = tasks.values().filter(|task| task.state() == TaskState::Succeeded).count();
            let here = tasks.values().any(|task| task.state() == TaskState::Running && task.agent == "box-2");
            (done >= 10 && here).then_some(())
        }
    })
    .await;
    fleet.agent_process("box-2").kill();
    let (_, tasks) = ended(&mut client, &stormy, RunState::Succeeded).await;
    assert_eq!(report(&tasks), calm);
    assert!(tasks.values().any(|task| task.attempt > 1), "somebody's work was lost and done again");
}

/// What a batch came to, without what may differ: every answer, and what the report was given of them.
fn report(tasks: &BTreeMap<String, v1::Task>) -> Vec<(String, String)> {
    let text = |task: &v1::Task| {
        let whole = orch_tests::client::answer(task);
        let lines = whole.lines().filter(|line| !line.contains("irectory")).collect::<Vec<_>>();
        lines.join("\n")
    };
    tasks.values().map(|task| (task.task_id.clone(), text(task))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reviews_conditions_and_publications_outlive_a_coordinator_that_dies_after_every_step() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let studio = super::studio(fleet.dir());
    super::agents(&mut fleet, 2, &studio);
    let run_ref = {
        let mut client = fleet.client().await;
        client.submit(everything()).await.r#ref
    };
    let mut ended_before = 0;
    loop {
        let client = fleet.client().await;
        let (ended, over) = until_async("one more task to have ended", || {
            let (mut client, run_ref) = (client.clone(), run_ref.clone());
            async move {
                let request = v1::GetRunRequest { r#ref: run_ref.clone() };
                let run = client.runs.get_run(request).await.ok()?.into_inner().run?;
                let over = run.finished_at.is_some();
                let tasks = by_name(&mut client, &run_ref).await;
                let ended = tasks.values().filter(|task| task.finished_at.is_some()).count();
                (over || ended > ended_before).then_some((ended, over))
            }
        })
        .await;
        if over {
            break;
        }
        ended_before = ended;
        fleet.kill_coordinator();
        fleet.start_coordinator();
    }
    let mut client = fleet.client().await;
    let (_, tasks) = ended(&mut client, &run_ref, RunState::Succeeded).await;
    let states: BTreeMap<&str, TaskState> =
        tasks.iter().map(|(id, task)| (id.as_str(), task.state())).collect();
    for id in ["mark", "help", "write", "write.review", "write.publish", "report"] {
        assert_eq!(states[id], TaskState::Succeeded, "{states:?}");
    }
    assert_eq!(states["praise"], TaskState::Skipped);
    assert_eq!(tasks["write"].repairs, 0);
    let note = std::fs::read_to_string(studio.join("notes/write.md")).expect("a published note");
    assert_eq!(note, "noted");
}

/// A run with a bit of everything that waits for somebody.
fn everything() -> v1::RunSpec {
    let mut mark = worker("mark", "anga", &format!("[[structured {}]]", json!({"scores": {"total": 62}})));
    if let Some(v1::task_spec::Runner::Worker(work)) = &mut mark.runner {
        work.output_schema = json!({"type": "object"}).to_string();
    }
    let branch = |id: &str, test: v1::ConditionTest| v1::TaskSpec {
        conditions: vec![v1::Condition {
            task_id: "mark".into(),
            pointer: "/scores/total".into(),
            test: test.into(),
            value: "70".into(),
        }],
        ..after(noop(id), &["mark"])
    };
    let call = json!({"name": "Bash", "input": {"command": "printf noted > ../out/note.md"}});
    let mut write = after(worker("write", "anga", &format!("[[tool {call}]]")), &["help"]);
    super::DANCE.clone_into(&mut write.workspace);
    write.publish =
        vec![v1::Publication { artifact: "note.md".into(), to: "notes/{task}.md".into(), replace: false }];
    write.gates = Some(v1::Gates {
        review: Some(v1::Review { worker: "fabien".into(), ..Default::default() }),
        ..Default::default()
    });
    run(vec![
        mark,
        branch("help", v1::ConditionTest::Below),
        branch("praise", v1::ConditionTest::AtLeast),
        write,
        at_the_end(worker("report", "orchestrator", "Combine it"), &["write", "praise"]),
    ])
}
