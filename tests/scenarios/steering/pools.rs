//! Credential pools and layers of isolation as the fleet tells of them.

use super::{ana, shown};
use orch_proto::v1::{self, Outcome, PoolHealth, PoolKind, RunState, TaskState};
use orch_tests::client::{Client, run, worker};
use orch_tests::fleet::Fleet;
use orch_tests::wait::until_async;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

const KEY: &str = "sk-ant-canary-4f1d77c0";

fn key_file(fleet: &Fleet, name: &str) -> PathBuf {
    let file = fleet.dir().join(name);
    std::fs::write(&file, format!("{KEY}-{name}\n")).expect("key file");
    mode(&file, 0o600);
    file
}

fn mode(file: &Path, mode: u32) {
    std::fs::set_permissions(file, Permissions::from_mode(mode)).expect("mode");
}

async fn agent_with(client: &Client, pool: &str, health: PoolHealth) -> v1::Agent {
    until_async("the health of a pool", || {
        let mut client = client.clone();
        async move {
            let request = v1::GetAgentRequest { name: "box-1".into() };
            let agent = client.admin.get_agent(request).await.ok()?.into_inner().agent?;
            let seen = agent.pools.iter().any(|held| held.name == pool && held.health() == health);
            seen.then_some(agent)
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_others_can_read_is_named_with_the_chmod_and_used_again_once_it_is_closed() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let (studio, spare) = (key_file(&fleet, "studio.key"), key_file(&fleet, "spare.key"));
    let pool = |name: &str, file: &Path| format!("{name}=api-key:{}", file.display());
    let pools = [pool("studio", &studio), pool("spare", &spare)];
    fleet.agent("box-1", &["--pool", &pools[0], "--pool", &pools[1], "--pool-workers", "spare=fabien"]);
    let mut client = fleet.client().await;
    let agent = agent_with(&client, "studio", PoolHealth::Ready).await;
    let told: Vec<_> = agent.pools.iter().map(|pool| (pool.name.as_str(), pool.kind())).collect();
    assert_eq!(told, [("spare", PoolKind::ApiKey), ("studio", PoolKind::ApiKey)]);
    assert_eq!(agent.pools[0].workers, ["fabien"]);
    assert!(agent.capabilities.iter().any(|offer| offer == "pool=studio"), "{:?}", agent.capabilities);
    // Which layers there are is the host's affair; that none is missing in silence is ours.
    assert!(!agent.isolation.is_empty() || !agent.warnings.is_empty(), "{agent:?}");
    let show = ana(&fleet, &["agents", "show", "box-1"]).await.ended(0).out;
    for word in agent.isolation.iter().map(String::as_str).chain(["studio", "spare", "api key", "ready"]) {
        assert!(show.contains(word), "{word} is missing from\n{show}");
    }

    mode(&studio, 0o644);
    let both = || vec![worker("closed", "fabien", "[[text]]"), worker("open", "anga", "[[text]]")];
    let submitted = client.submit(run(both())).await;
    assert_eq!(client.finished(&submitted.r#ref).await.state(), RunState::Failed);
    let tasks = client.tasks(&submitted.r#ref).await;
    assert_eq!(tasks[0].state(), TaskState::Succeeded, "the other pool is not concerned: {:?}", tasks[0]);
    let chmod = format!("chmod 600 {}", studio.display());
    assert_eq!((tasks[1].outcome(), tasks[1].attempt), (Outcome::Auth, 1), "{:?}", tasks[1]);
    assert!(tasks[1].detail.contains(&chmod), "{}", tasks[1].detail);
    let agent = agent_with(&client, "studio", PoolHealth::Unusable).await;
    assert_eq!(agent.pools[0].health(), PoolHealth::Ready);
    assert!(agent.pools[1].detail.ends_with(&chmod), "{:?}", agent.pools[1]);
    let warned = agent.warnings.iter().any(|warning| warning.contains("studio") && warning.contains(&chmod));
    assert!(warned, "{:?}", agent.warnings);

    mode(&studio, 0o600);
    let submitted = client.submit(run(both())).await;
    assert_eq!(client.finished(&submitted.r#ref).await.state(), RunState::Succeeded);
    agent_with(&client, "studio", PoolHealth::Ready).await;
    for text in [fleet.coordinator().log(), fleet.agent_process("box-1").log()] {
        assert!(!text.contains(KEY), "a log holds a key");
    }
    assert!(!shown(&fleet, "box-1").await.to_string().contains(KEY));
}
