//! The credential stays with the agent: a child that searches everything it can read finds none, while its requests carry it.

use crate::stage::{Stage, credential, figures};
use orch_proto::v1::Outcome;
use orch_standin::api::{CacheRules, Setup};
use std::time::Duration;

const POOL: &str = "north";
const PATIENCE: Duration = Duration::from_secs(60);

/// Looks through environments, arguments, open files and memory maps of every process it sees, its own files, those of the
/// agent and of the operator, and says how much it has read and what it found. The pattern does not match itself.
fn search(stage: &Stage) -> String {
    let (agent, keys) = (stage.fleet.agent_dir("box-1"), stage.files().display().to_string());
    format!(
        "env > seen; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null >> seen; ls -lR /proc/[0-9]*/fd 2>/dev/null >> seen; \
         grep -rash 'sk-ant' $HOME $PWD {} {keys} /tmp /run /dev/shm 2>/dev/null >> seen; cat {keys}/* 2>/dev/null >> seen; \
         wc -c < seen; grep -c 'sk-ant-[c]anary' seen; grep -aoE 'sk-ant-[c]anary-[a-zA-Z0-9-]*' seen | sort -u | rev",
        agent.display()
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_finds_the_key_nowhere_and_its_requests_carry_it() {
    let setup = Setup { cache: Some(CacheRules::default()), ..Setup::default() };
    let mut stage = Stage::set("", setup, &[POOL]).await;
    stage.agent("box-1", POOL, &["--slots", "2"]);
    let key = credential(POOL);
    stage.api.look_for(&key);
    let backwards: String = key.chars().rev().collect();
    stage.api.look_for(&backwards);
    let tool = serde_json::json!({"name": "Bash", "input": {"command": search(&stage), "description": "d"}});
    let submitted = stage.submit(&[format!("[[tool {tool}]][[api {{\"output\":5}}]]")]).await;
    stage.ended(&submitted.r#ref, PATIENCE).await;
    let task = stage.client.tasks(&submitted.r#ref).await.remove(0);
    assert_eq!(task.outcome(), Outcome::Ok, "{task:?}");
    let requests = stage.api.requests();
    assert!(requests.len() >= 2, "{requests:?}");
    // What the search printed went to the API with the second request.
    for request in &requests {
        assert_eq!(request.key.as_deref(), Some(POOL), "{request:?}");
        assert!(request.found.is_empty(), "the child found the key: {:?}", request.found);
    }
    let mut files = Vec::new();
    walk(&stage.fleet.dir().join("agents"), &mut files);
    let told: Vec<_> = files
        .iter()
        .filter(|file| std::fs::read(file).is_ok_and(|bytes| contains(&bytes, key.as_bytes())))
        .collect();
    assert!(told.is_empty(), "files of the agent hold the key: {told:?}");
    let read =
        std::fs::read_to_string(work(&stage, submitted.run_id).join("seen")).map_or(0, |text| text.len());
    figures(
        "canary",
        &format!(
            "a child read {read} bytes of environments, arguments, files and /proc: 0 keys; {} requests carried it; 0 of {} files \
             of the agent hold it",
            requests.len(),
            files.len()
        ),
    );
    assert!(read > 200, "the search saw nothing at all");
}

fn work(stage: &Stage, run_id: u64) -> std::path::PathBuf {
    stage.fleet.agent_dir("box-1").join("tasks").join(format!("{run_id}-0")).join("work")
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// All files below `dir`. Links are not followed.
fn walk(dir: &std::path::Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => walk(&entry.path(), files),
            Ok(kind) if kind.is_file() => files.push(entry.path()),
            Ok(_) | Err(_) => {}
        }
    }
}
