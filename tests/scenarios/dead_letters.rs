//! A task that takes its agents down: it is given up after 3 crashes on 2 agents, everybody else's work goes on, and an
//! operator finds it and tries it again.

use orch_proto::v1::{self, Outcome, RunState, TaskState};
use orch_tests::budget::figures;
use orch_tests::client::{command, is_terminal, noop, run};
use orch_tests::fleet::Fleet;
use orch_tests::process::{at_home_in, supervisors_in};
use orch_tests::wait::until_async;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::collections::BTreeSet;

const FLAGS: [&str; 4] = ["--slots", "4", "--allow-command", "/bin/sh"];

/// A host goes down: the agent, its supervisors and what they run, by process id.
fn take_down(fleet: &mut Fleet, agent: &str) {
    let dir = fleet.agent_dir(agent);
    fleet.agent_process(agent).kill();
    for pid in supervisors_in(&dir).into_iter().chain(at_home_in(&dir)) {
        if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
            // Its parent may have been quicker.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// The dead letters, as `orchctl ls --dead` tells them.
async fn dead(fleet: &Fleet) -> Vec<Value> {
    let mut command = fleet.orchctl(&["ls", "--dead", "-o", "json"]);
    let output =
        tokio::task::spawn_blocking(move || command.output()).await.expect("joined").expect("it ran");
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("a list")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_takes_its_agents_down_is_given_up_and_harms_nobody_else() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    for agent in ["box-1", "box-2"] {
        fleet.agent(agent, &FLAGS);
    }
    let mut client = fleet.client().await;
    let script = "until [ -e go ]; do sleep 0.05; done; echo tame";
    let mut task = command("wild", "/bin/sh", &["-c", script]);
    task.retries = Some(20);
    let wild = client.submit(run(vec![task])).await;
    let wild_ref = format!("{}/wild", wild.r#ref);

    let (mut crashes, mut agents, mut down) = (0, BTreeSet::new(), None::<String>);
    let given_up = loop {
        let attempt = crashes + 1;
        let task = until_async("the next attempt, or the end", || {
            let (mut client, wild_ref) = (client.clone(), wild_ref.clone());
            async move {
                let request = v1::GetTaskRequest { r#ref: wild_ref };
                let task = client.runs.get_task(request).await.ok()?.into_inner().task?;
                let next = task.state() == TaskState::Running && task.attempt == attempt;
                (next || task.state() == TaskState::Failed).then_some(task)
            }
        })
        .await;
        if let Some(back) = down.take() {
            fleet.agent(&back, &FLAGS);
        }
        if task.state() == TaskState::Failed {
            break task;
        }
        assert!(attempt <= 5, "it goes on for ever");
        take_down(&mut fleet, &task.agent);
        agents.insert(task.agent.clone());
        (crashes, down) = (attempt, Some(task.agent));
    };
    assert_eq!(given_up.outcome(), Outcome::Poison, "{}", given_up.detail);
    assert!(crashes == 3 && agents.len() == 2, "{crashes} crashes on {agents:?}");

    // Everybody else is served, on both.
    for agent in ["box-1", "box-2"] {
        fleet.wait_connected(agent);
        let other = client.submit(run(vec![v1::TaskSpec { agent: agent.into(), ..noop("other") }])).await;
        assert_eq!(client.finished(&other.r#ref).await.state(), RunState::Succeeded);
    }
    let letters = dead(&fleet).await;
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!(
        (letters[0]["ref"].as_str(), letters[0]["crashes"].as_u64()),
        (Some(wild_ref.as_str()), Some(3))
    );
    assert_eq!(letters[0]["agents"].as_array().map(Vec::len), Some(2));

    let mut again = fleet.orchctl(&["retry", "--dead", "--all"]);
    let said = tokio::task::spawn_blocking(move || again.output()).await.expect("joined").expect("it ran");
    assert!(said.status.success(), "{said:?}");
    let task = client.task_in(&wild_ref, TaskState::Running).await;
    assert_eq!(task.attempt, 4);
    let go = fleet.agent_dir(&task.agent).join(format!("tasks/{}-0/work/go", wild.run_id));
    std::fs::write(go, "").expect("the task's working directory");
    let ended = until_async("its end", || {
        let (mut client, name) = (client.clone(), wild.r#ref.clone());
        async move { Some(client.run(&name).await).filter(|run| is_terminal(run.state())) }
    })
    .await;
    assert_eq!(ended.state(), RunState::Succeeded);
    assert!(dead(&fleet).await.is_empty(), "it is no dead letter any more");
    figures(
        "dead letters",
        &format!(
            "given up after {crashes} crashes on {} agents, others served; tried again: succeeded",
            agents.len()
        ),
    );
}
