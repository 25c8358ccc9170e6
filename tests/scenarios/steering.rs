//! Steering a fleet as operators and users do: drains, labels, tries again, pools, workers of one's own. The words of
//! these stories are `orchctl`'s and the wire's; what they change must hold over kills and restarts.

mod events;
mod labels;
mod pools;
mod prompts;
mod retries;

use orch_certs::Role;
use orch_proto::v1::{self, TaskState};
use orch_tests::client::{Client, command, noop, run, worker};
use orch_tests::fleet::Fleet;
use serde_json::Value;
use std::process::Command;

/// What a command said, and how it ended.
#[derive(Debug)]
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Said {
    /// The JSON on stdout.
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// The command must have ended so.
    #[track_caller]
    fn ended(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}\n{}", self.out, self.err);
        self
    }
}

/// Runs a command beside the test's own tasks.
async fn said(mut command: Command) -> Said {
    let output =
        tokio::task::spawn_blocking(move || command.output()).await.expect("joined").expect("it ran");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    Said {
        code: output.status.code().expect("an exit code"),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

/// `orchctl` with the certificate of role client.
async fn ana(fleet: &Fleet, args: &[&str]) -> Said {
    said(fleet.orchctl(args)).await
}

/// `orchctl` with the certificate of role admin.
async fn admin(fleet: &Fleet, args: &[&str]) -> Said {
    let tls = fleet.certificate(Role::Admin, "admin");
    let mut command = fleet.orchctl(args);
    command.env("ORCHCTL_TLS_CERT", tls.cert).env("ORCHCTL_TLS_KEY", tls.key);
    said(command).await
}

/// `orchctl agents show NAME -o json`.
async fn shown(fleet: &Fleet, agent: &str) -> Value {
    ana(fleet, &["agents", "show", agent, "-o", "json"]).await.ended(0).json()
}

/// A shell script as a task, for an agent with `--allow-command /bin/sh`.
fn script(id: &str, script: &str) -> v1::TaskSpec {
    command(id, "/bin/sh", &["-c", script])
}

/// A task that runs until [`release`].
fn held(id: &str) -> v1::TaskSpec {
    script(id, "until [ -e go ]; do sleep 0.05; done; echo released")
}

/// Lets a task of [`held`] end.
fn release(fleet: &Fleet, agent: &str, run: &v1::Run, index: u32) {
    let conversation = format!("tasks/{}-{index}/work/go", run.run_id);
    std::fs::write(fleet.agent_dir(agent).join(conversation), "").expect("the task's working directory");
}

fn requiring(mut task: v1::TaskSpec, key: &str, value: &str) -> v1::TaskSpec {
    task.requires.insert(key.into(), value.into());
    task
}

fn pinned(mut task: v1::TaskSpec, agent: &str) -> v1::TaskSpec {
    task.agent = agent.into();
    task
}

async fn explained(client: &mut Client, task: &str) -> v1::ExplainTaskResponse {
    let request = v1::ExplainTaskRequest { r#ref: task.into() };
    client.runs.explain_task(request).await.expect("explained").into_inner()
}

const ONE_SLOT: [&str; 4] = ["--slots", "1", "--allow-command", "/bin/sh"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_agent_ends_what_it_runs_and_gets_nothing_until_it_is_resumed_whoever_restarts() {
    const WHY: &str = "drained by admin/default/admin: new kernel";
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &ONE_SLOT);
    let mut client = fleet.client().await;
    let busy = client.submit(run(vec![held("busy")])).await;
    client.task_in(&busy.r#ref, TaskState::Running).await;
    let waiting = client.submit(run(vec![worker("next", "anga", "[[text]]")])).await;

    let refused = ana(&fleet, &["agents", "drain", "box-1", "--reason", "mischief"]).await.ended(4);
    assert!(refused.err.contains("E0203") && refused.err.contains("role admin"), "{}", refused.err);
    let untouched = shown(&fleet, "box-1").await;
    assert_eq!((&untouched["state"], &untouched["drain_reason"]), (&"ready".into(), &Value::Null));
    let unknown = admin(&fleet, &["agents", "drain", "bpx-1"]).await.ended(3);
    assert!(unknown.err.contains("did you mean") && unknown.err.contains("box-1"), "{}", unknown.err);

    let drained = admin(&fleet, &["agents", "drain", "box-1", "--reason", "new kernel"]).await.ended(0);
    assert!(drained.out.contains("1 task") && drained.out.contains(WHY), "{}", drained.out);
    let show = ana(&fleet, &["agents", "show", "box-1"]).await.ended(0);
    assert!(show.out.contains("draining") && show.out.contains(WHY), "{}", show.out);

    fleet.agent("box-2", &ONE_SLOT);
    client.finished(&waiting.r#ref).await;
    assert_eq!(client.tasks(&waiting.r#ref).await[0].agent, "box-2");
    let still = client.tasks(&busy.r#ref).await;
    assert_eq!((still[0].state(), still[0].agent.as_str()), (TaskState::Running, "box-1"));

    let mine = client.submit(run(vec![pinned(noop("mine"), "box-1")])).await;
    fleet.kill_coordinator();
    fleet.start_coordinator();
    fleet.wait_connected("box-1");
    release(&fleet, "box-1", &busy, 0);
    let mut client = fleet.client().await;
    client.finished(&busy.r#ref).await;
    assert_eq!(client.tasks(&busy.r#ref).await[0].attempt, 1, "the running task went on");
    fleet.agent_process("box-1").kill();
    fleet.agent("box-1", &ONE_SLOT);
    let after = shown(&fleet, "box-1").await;
    assert_eq!((&after["state"], &after["drain_reason"]), (&"draining".into(), &WHY.into()));

    let why = explained(&mut client, &mine.r#ref).await;
    assert_eq!(why.help, "orchctl agents resume box-1");
    let reason = why.reasons.iter().find(|reason| reason.kind == "drain").expect("the drain is named");
    assert!(!reason.satisfied && reason.text.contains(WHY), "{reason:?}");
    let told = ana(&fleet, &["explain", &mine.r#ref]).await.ended(0);
    assert!(told.err.contains("help: orchctl agents resume box-1"), "{}", told.err);
    admin(&fleet, &["agents", "resume", "box-1"]).await.ended(0);
    client.finished(&mine.r#ref).await;
    assert_eq!(client.tasks(&mine.r#ref).await[0].agent, "box-1");
    assert_eq!(shown(&fleet, "box-1").await["drain_reason"], Value::Null);
}
