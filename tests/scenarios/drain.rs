//! Draining agents whose work outlives their leases: nothing is given away, nothing new comes, and the agents are heard
//! of until the end.

use orch_certs::Role;
use orch_proto::v1::admin_service_client::AdminServiceClient;
use orch_proto::v1::{self, AgentState, RunState, TaskState};
use orch_tests::budget::figures;
use orch_tests::client::{Client, channel, command, noop, run};
use orch_tests::fleet::Fleet;
use orch_tests::wait::until_async;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Attempts are requeued when nothing was heard of them for this long: 5 heartbeats of 200 ms.
const LEASE: Duration = Duration::from_secs(1);
/// How long the work goes on after the drain: three leases.
const WORK: Duration = Duration::from_secs(3);
const AGENTS: [&str; 4] = ["box-1", "box-2", "box-3", "box-4"];

fn held(id: &str, agent: &str) -> v1::TaskSpec {
    let script = "until [ -e go ]; do sleep 0.05; done; echo released";
    v1::TaskSpec { agent: agent.into(), ..command(id, "/bin/sh", &["-c", script]) }
}

fn release(fleet: &Fleet, agent: &str, run: &v1::Run, index: u32) {
    let go = fleet.agent_dir(agent).join(format!("tasks/{}-{index}/work/go", run.run_id));
    std::fs::write(go, "").expect("the task's working directory");
}

async fn agents(client: &Client) -> Vec<v1::Agent> {
    let request = v1::ListAgentsRequest::default();
    let mut admin = client.admin.clone();
    admin.list_agents(request).await.expect("the agents").into_inner().agents
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_drained_agents_finish_what_outlives_their_leases_and_get_nothing_new() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    for agent in AGENTS {
        fleet.agent(agent, &["--slots", "2", "--allow-command", "/bin/sh"]);
    }
    let mut client = fleet.client().await;
    let tasks = AGENTS.iter().map(|agent| held(agent, agent)).collect();
    let busy = client.submit(run(tasks)).await;
    for agent in AGENTS {
        client.task_in(&format!("{}/{agent}", busy.r#ref), TaskState::Running).await;
    }

    let files = fleet.certificate(Role::Admin, "admin");
    let mut admin = AdminServiceClient::new(channel(&fleet.ports().grpc, &files));
    for name in AGENTS {
        let request = v1::DrainAgentRequest { name: name.into(), reason: "new kernel".into() };
        let agent = admin.drain_agent(request).await.expect("drained").into_inner().agent.expect("the agent");
        assert_eq!(agent.state(), AgentState::Draining);
    }
    // `--wait` waits for the end of it all.
    let mut waiting = fleet.orchctl(&["agents", "drain", "box-1", "box-2", "box-3", "box-4", "--wait"]);
    waiting.env("ORCHCTL_TLS_CERT", &files.cert).env("ORCHCTL_TLS_KEY", &files.key);
    let mut waiting = waiting.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("orchctl");

    // Free slots everywhere, and nobody may have one.
    let mut queued = Vec::new();
    for _ in 0..8 {
        queued.push(client.submit(run(vec![noop("next")])).await);
    }
    let began = Instant::now();
    let (mut looks, mut never_silent) = (0, true);
    while began.elapsed() < WORK {
        for agent in agents(&client).await {
            never_silent &= agent.state() == AgentState::Draining;
            assert_eq!(agent.running.len(), 1, "{agent:?}");
        }
        for run in &queued {
            let task = &client.tasks(&run.r#ref).await[0];
            assert_eq!((task.state(), task.attempt), (TaskState::Queued, 0), "given out after the drain");
        }
        looks += 1;
        tokio::time::sleep(LEASE / 10).await;
    }
    assert!(never_silent, "an agent fell silent while it drained");
    assert!(waiting.try_wait().expect("orchctl").is_none(), "--wait waits");

    for (index, agent) in (0..).zip(AGENTS) {
        release(&fleet, agent, &busy, index);
    }
    assert_eq!(client.finished(&busy.r#ref).await.state(), RunState::Succeeded);
    for task in client.tasks(&busy.r#ref).await {
        assert_eq!((task.attempt, &task.agent), (1, &task.task_id), "where it was, the first time");
    }
    let waited = tokio::task::block_in_place(|| waiting.wait_with_output()).expect("orchctl");
    assert!(waited.status.success(), "{waited:?}");

    let request = v1::ResumeAgentRequest { name: "box-1".into() };
    admin.resume_agent(request).await.expect("resumed");
    for run in &queued {
        client.finished(&run.r#ref).await;
        assert_eq!(client.tasks(&run.r#ref).await[0].agent, "box-1");
    }
    figures(
        "drain",
        &format!(
            "4 agents, 4 tasks of {} leases after the drain, 8 queued: 0 requeues, 0 assignments, {looks} looks, all draining",
            WORK.as_millis() / LEASE.as_millis()
        ),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_the_coordinator_in_the_middle_of_a_drain_changes_nothing() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    for agent in &AGENTS[..2] {
        fleet.agent(agent, &["--slots", "2", "--allow-command", "/bin/sh"]);
    }
    let mut client = fleet.client().await;
    let busy = client.submit(run(vec![held("box-1", "box-1"), held("box-2", "box-2")])).await;
    for agent in &AGENTS[..2] {
        client.task_in(&format!("{}/{agent}", busy.r#ref), TaskState::Running).await;
    }
    let files = fleet.certificate(Role::Admin, "admin");
    let mut admin = AdminServiceClient::new(channel(&fleet.ports().grpc, &files));
    for name in &AGENTS[..2] {
        let request = v1::DrainAgentRequest { name: (*name).into(), reason: String::new() };
        admin.drain_agent(request).await.expect("drained");
    }
    let next = client.submit(run(vec![noop("next")])).await;
    fleet.kill_coordinator();
    fleet.start_coordinator();
    for agent in &AGENTS[..2] {
        fleet.wait_connected(agent);
    }
    let client = fleet.client().await;
    until_async("both to be back and draining", || {
        let client = client.clone();
        async move {
            let agents = agents(&client).await;
            agents
                .iter()
                .all(|agent| agent.state() == AgentState::Draining && agent.running.len() == 1)
                .then_some(())
        }
    })
    .await;
    let mut client = client;
    assert_eq!(client.tasks(&next.r#ref).await[0].attempt, 0);
    for (index, agent) in (0..).zip(&AGENTS[..2]) {
        release(&fleet, agent, &busy, index);
    }
    assert_eq!(client.finished(&busy.r#ref).await.state(), RunState::Succeeded);
    assert!(client.tasks(&busy.r#ref).await.iter().all(|task| task.attempt == 1));
    assert_eq!(client.tasks(&next.r#ref).await[0].attempt, 0, "still nobody may have it");
}
