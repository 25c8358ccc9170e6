//! What an operator does with what the coordinator keeps, with `orchctl` and real work under way: copied, given back, made
//! smaller. What becomes of running work is what `docs/operations.md` says.

use orch_certs::Role;
use orch_proto::v1::{self, RunState, TaskState};
use orch_tests::client::{Client, command, noop, run};
use orch_tests::fleet::Fleet;
use orch_tests::process::at_home_in;
use orch_tests::wait::until;
use serde_json::Value;
use std::path::Path;

/// What a command said, and how it ended.
#[derive(Debug)]
struct Said {
    code: i32,
    out: String,
    err: String,
}

/// `orchctl admin …` with a certificate of role admin.
async fn admin(fleet: &Fleet, args: &[&str]) -> Said {
    let tls = fleet.certificate(Role::Admin, "admin");
    let mut command = fleet.orchctl(&[&["admin"], args].concat());
    command.env("ORCHCTL_TLS_CERT", tls.cert).env("ORCHCTL_TLS_KEY", tls.key);
    let output =
        tokio::task::spawn_blocking(move || command.output()).await.expect("joined").expect("it ran");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Said {
        code: output.status.code().expect("an exit code"),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

#[track_caller]
fn ended(said: Said, code: i32) -> Said {
    assert_eq!(said.code, code, "{}\n{}", said.out, said.err);
    said
}

async fn storage(fleet: &Fleet) -> Value {
    let said = ended(admin(fleet, &["status", "-o", "json"]).await, 0);
    serde_json::from_str(&said.out).expect("one value")
}

fn held(id: &str) -> v1::TaskSpec {
    command(id, "/bin/sh", &["-c", "until [ -e go ]; do sleep 0.05; done; echo released"])
}

fn release(fleet: &Fleet, run: &v1::Run) {
    let go = fleet.agent_dir("box-1").join(format!("tasks/{}-0/work/go", run.run_id));
    std::fs::write(go, "").expect("the task's working directory");
}

async fn running(client: &mut Client, id: &str) -> v1::Run {
    let run = client.submit(run(vec![held(id)])).await;
    client.task_in(&format!("{}/{id}", run.r#ref), TaskState::Running).await;
    run
}

fn path(path: &Path) -> &str {
    path.to_str().expect("text")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_given_back_under_running_work() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &["--slots", "4", "--allow-command", "/bin/sh"]);
    let mut client = fleet.client().await;
    let done = client.submit(run(vec![noop("done")])).await;
    client.finished(&done.r#ref).await;
    let known = running(&mut client, "known").await;

    let copy = fleet.dir().join("monday.orch");
    let said = ended(admin(&fleet, &["backup", path(&copy)]).await, 0);
    assert_eq!(said.out.trim(), path(&copy));
    assert!(said.err.contains("sha256"), "{}", said.err);
    ended(admin(&fleet, &["backup", path(&copy)]).await, 6);
    let checked = ended(admin(&fleet, &["restore", path(&copy), "--check"]).await, 0);
    assert!(checked.out.contains("a whole backup"), "{}", checked.out);

    let later = running(&mut client, "later").await;
    let ended_later = client.submit(run(vec![noop("late")])).await;
    client.finished(&ended_later.r#ref).await;
    let before = storage(&fleet).await;
    let pid = fleet.coordinator().id();

    // Nobody is asked without a terminal.
    let refused = ended(admin(&fleet, &["restore", path(&copy)]).await, 2);
    assert!(refused.err.contains("--yes") && refused.err.contains("at work"), "{}", refused.err);
    let restored = ended(admin(&fleet, &["restore", path(&copy), "--yes"]).await, 0);
    assert!(restored.out.contains("restored") && restored.err.contains("aside/restore-"), "{restored:?}");
    let after = storage(&fleet).await;
    assert!(after["epoch"].as_u64() > before["epoch"].as_u64(), "{before} {after}");
    assert_eq!(after["cluster_id"], before["cluster_id"]);
    assert!(fleet.coordinator().is_running(), "{}", fleet.coordinator_log());
    assert_eq!(fleet.coordinator().id(), pid, "the same process");

    fleet.wait_connected("box-1");
    let mut client = fleet.client().await;
    assert_eq!(client.run(&done.r#ref).await.state(), RunState::Succeeded);
    for gone in [&later, &ended_later] {
        let request = v1::GetRunRequest { r#ref: gone.r#ref.clone() };
        let status = client.runs.get_run(request).await.expect_err("the copy does not know it");
        assert_eq!(status.code(), tonic::Code::NotFound, "{}: {status}", gone.r#ref);
    }
    let later_home = fleet.agent_dir("box-1").join(format!("tasks/{}-0", later.run_id));
    until("work that the copy does not know to be stopped", || {
        at_home_in(&later_home).is_empty().then_some(())
    });
    release(&fleet, &known);
    assert_eq!(client.finished(&known.r#ref).await.state(), RunState::Succeeded);
    assert_eq!(client.tasks(&known.r#ref).await[0].attempt, 1, "what the copy knows as running went on");

    let next = client.submit(run(vec![noop("next")])).await;
    client.finished(&next.r#ref).await;
    let old = [&done, &known, &later, &ended_later].map(|run| (run.run_id, run.r#ref.clone()));
    assert!(!old.iter().any(|(id, name)| *id == next.run_id || *name == next.r#ref), "{} again", next.r#ref);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compaction_and_an_import_go_by_under_running_work() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &["--slots", "2", "--allow-command", "/bin/sh"]);
    let mut client = fleet.client().await;
    let busy = running(&mut client, "busy").await;
    let compacted = ended(admin(&fleet, &["compact"]).await, 0);
    assert!(compacted.out.contains("compacted: "), "{compacted:?}");
    fleet.wait_connected("box-1");

    let export = fleet.dir().join("records.jsonl");
    let said = ended(admin(&fleet, &["export", path(&export)]).await, 0);
    assert!(said.err.contains("records"), "{}", said.err);
    let wrong = ended(admin(&fleet, &["restore", path(&export), "--yes"]).await, 2);
    assert!(wrong.err.contains("orchctl admin import"), "{}", wrong.err);
    let imported = ended(admin(&fleet, &["import", path(&export), "--yes"]).await, 0);
    assert!(imported.out.contains("restored"), "{imported:?}");
    fleet.wait_connected("box-1");

    release(&fleet, &busy);
    let mut client = fleet.client().await;
    assert_eq!(client.finished(&busy.r#ref).await.state(), RunState::Succeeded);
    assert_eq!(client.tasks(&busy.r#ref).await[0].attempt, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_whole_copy_is_refused_and_changes_nothing() {
    let fleet = Fleet::start(orch_tests::binaries!());
    let mut client = fleet.client().await;
    for _ in 0..20 {
        client.submit(run(vec![noop("a")])).await;
    }
    let copy = fleet.dir().join("whole.orch");
    ended(admin(&fleet, &["backup", path(&copy)]).await, 0);
    let bytes = std::fs::read(&copy).expect("the copy");
    let before = storage(&fleet).await;
    let damaged = |name: &str, bytes: &[u8]| {
        let file = fleet.dir().join(name);
        std::fs::write(&file, bytes).expect("written");
        file
    };
    let mut flipped = bytes.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 4;
    for (file, code) in [
        (damaged("cut.orch", &bytes[..bytes.len() - 1]), 6),
        (damaged("half.orch", &bytes[..bytes.len() / 2]), 6),
        (damaged("flipped.orch", &flipped), 6),
        (damaged("longer.orch", &[&bytes[..], b"more"].concat()), 6),
        (damaged("other.orch", b"\x1f\x8b no copy at all"), 2),
        (damaged("empty.orch", b""), 2),
    ] {
        for how in ["--check", "--yes"] {
            let said = ended(admin(&fleet, &["restore", path(&file), how]).await, code);
            assert!(said.err.starts_with("error"), "{}", said.err);
        }
    }
    // Without the certificate for it nobody replaces anything.
    let client_said = fleet.orchctl(&["admin", "restore", path(&copy), "--yes"]).output().expect("it ran");
    assert_eq!(client_said.status.code(), Some(4), "{client_said:?}");
    assert_eq!(storage(&fleet).await["epoch"], before["epoch"], "it never started anew");
}
