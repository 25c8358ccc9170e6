//! F15: many attempts at a time, each of which rewrites its login and its configuration and leaves a mark wherever it may
//! write. Afterwards each looks for marks wherever it may read.

use super::nothing_left;
use orch_proto::v1::{self, Outcome};
use orch_tests::client::{answer, run, worker};
use orch_tests::fleet::Fleet;
use orch_tests::gate::{self, Gate};
use std::path::Path;

/// Tasks at a time.
const TASKS: usize = 50;

/// A mark that no other task has.
fn mark(at: usize) -> String {
    format!("canary-{at:03}-of-one-task")
}

/// What the task says and does: it rewrites login and configuration, leaves its mark in every place of its own and as the name of a process, waits
/// until all are that far, and then says which marks it finds.
fn prompt(at: usize, gate: &Gate, everywhere: &Path) -> String {
    let mark = mark(at);
    let own = "$HOME $HOME/.claude $PWD $PWD/../out $TMPDIR";
    // The pattern is not a mark itself, so that no command line is found for it. The last digit of the mark of this
    // command is split off for the same reason: what is found are the marks of files and of other processes.
    let (head, tail) = mark.split_at(mark.len() - 1);
    let command = format!(
        "for dir in {own}; do echo {head}''{tail} > $dir/mark; done; (exec -a {head}''{tail} sleep 600 >/dev/null 2>&1) & {}; \
         {{ cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | grep -aoE 'canary-[0-9]+-of-one-task'; \
         grep -rasohE 'canary-[0-9]+-of-one-task' {own} {}; }} | sort -u | tr '\\n' ' '",
        gate.wait(),
        everywhere.display()
    );
    let login = |file: &str| {
        let content = serde_json::json!({"file": file, "content": format!("{{\"token\":\"{mark}\"}}")});
        format!("[[login {content}]]")
    };
    let tool = serde_json::json!({"name": "Bash", "input": {"command": command, "timeout": 120_000}});
    format!(
        "{}{}[[tool {tool}]]{}",
        login(".credentials.json"),
        login(".claude.json"),
        login(".credentials.json")
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_attempts_that_rewrite_login_and_configuration_share_no_file() {
    let test = "fifty_attempts_that_rewrite_login_and_configuration_share_no_file";
    let mut fleet = Fleet::start_with(orch_tests::binaries!(), "2s");
    fleet.agent("box-1", &["--slots", "50"]);
    let mut client = fleet.client().await;
    let gate = Gate::closed();
    let dir = fleet.agent_dir("box-1");
    let tasks = (0..TASKS).map(|at| worker(&format!("t{at}"), "anga", &prompt(at, &gate, &dir)));
    let submitted = client.submit(run(tasks.collect())).await;
    gate::open(gate.gather(TASKS).await);
    client.finished(&submitted.r#ref).await;
    let isolated = super::isolated(&mut client, "box-1").await;
    let run_id = client.run(&submitted.r#ref).await.run_id;
    for (at, task) in client.tasks(&submitted.r#ref).await.into_iter().enumerate() {
        assert_eq!((task.outcome(), task.attempt), (Outcome::Ok, 1), "{task:?}");
        if isolated {
            assert_eq!(answer(&task).trim(), format!("done: {}", mark(at)), "{}", task.r#ref);
        }
        own_marks_only(&dir.join("tasks").join(format!("{run_id}-{at}")), at, &task);
    }
    if !isolated {
        orch_tests::skipped(
            test,
            "no sandbox here: only that no file is shared is shown, not that none is seen",
        );
    }
    nothing_left(&fleet, "box-1");
}

/// Looks from outside: in everything the conversation keeps stands the mark of this task, and no other.
fn own_marks_only(conversation: &Path, at: usize, task: &v1::Task) {
    for file in ["home/mark", "home/.claude/mark", "work/mark", "out/mark"] {
        let text = std::fs::read_to_string(conversation.join(file)).expect("a mark");
        assert_eq!(text.trim(), mark(at), "{file} of {}", task.r#ref);
    }
    for file in [".credentials.json", ".claude.json"] {
        let text = std::fs::read_to_string(conversation.join("home/.claude").join(file)).expect("a login");
        assert_eq!(text, format!("{{\"token\":\"{}\"}}", mark(at)), "{file} of {}", task.r#ref);
    }
}
