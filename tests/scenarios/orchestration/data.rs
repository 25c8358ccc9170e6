//! What travels between tasks on different hosts: summaries, whole results, files; and results that are used again.

use super::{agents, ended, files, studio};
use orch_proto::v1::{self, Outcome, RunState, TaskState};
use orch_tests::client::{Client, after, answer, command, run, worker};
use orch_tests::fleet::Fleet;
use serde_json::json;

/// A worker's task that runs `line` in a shell and then says `last`.
fn shell(id: &str, line: &str, last: &str) -> v1::TaskSpec {
    let call = json!({"name": "Bash", "input": {"command": line}});
    worker(id, "anga", &format!("[[tool {call}]]{last}"))
}

fn on(mut task: v1::TaskSpec, agent: &str) -> v1::TaskSpec {
    agent.clone_into(&mut task.agent);
    task
}

async fn artifacts(client: &mut Client, run_ref: &str) -> Vec<(String, String, u64)> {
    let request = v1::ListArtifactsRequest { r#ref: run_ref.to_owned(), ..Default::default() };
    let listed = client.runs.list_artifacts(request).await.expect("a list").into_inner().artifacts;
    let row = |found: v1::TaskArtifact| {
        let artifact = found.artifact.expect("an artifact");
        (found.task_id, artifact.path, artifact.blob.expect("bytes").size)
    };
    listed.into_iter().map(row).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_on_another_host_sees_answer_and_files_of_what_it_waited_for_and_a_client_gets_them_too() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &[]);
    fleet.agent("box-2", &["--allow-command", "cat"]);
    let mut client = fleet.client().await;
    let make = "mkdir -p ../out/deep && printf 'from the first host' > ../out/deep/a.txt && head -c 300000 /dev/zero > ../out/big.bin";
    let submitted = client
        .submit(run(vec![
            on(shell("first", make, "[[text {\"text\":\"the first is done\"}]]"), "box-1"),
            on(
                after(
                    shell(
                        "second",
                        "cat inputs/first/artifacts/deep/a.txt; echo; cat inputs/first/result.md",
                        "",
                    ),
                    &["first"],
                ),
                "box-2",
            ),
            on(after(command("third", "cat", &["inputs/first/artifacts/deep/a.txt"]), &["first"]), "box-2"),
        ]))
        .await;
    let (_, tasks) = ended(&mut client, &submitted.r#ref, RunState::Succeeded).await;
    let seen = answer(&tasks["second"]);
    assert!(seen.contains("from the first host") && seen.contains("the first is done"), "{seen}");
    assert_eq!(answer(&tasks["third"]), "from the first host");
    let listed = artifacts(&mut client, &submitted.r#ref).await;
    assert_eq!(
        listed,
        [
            ("first".to_owned(), "big.bin".to_owned(), 300_000),
            ("first".to_owned(), "deep/a.txt".to_owned(), 19)
        ]
    );
    let dir = fleet.dir().join("got");
    let reference = format!("{}/first", submitted.r#ref);
    let got =
        fleet.orchctl(&["artifacts", "get", &reference, "-d", &dir.display().to_string(), "--all"]).output();
    let got = got.expect("orchctl runs");
    assert!(got.status.success(), "{}", String::from_utf8_lossy(&got.stderr));
    assert_eq!(std::fs::read_to_string(dir.join("deep/a.txt")).expect("a file"), "from the first host");
    assert_eq!(std::fs::metadata(dir.join("big.bin")).expect("a file").len(), 300_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_task_leaves_in_out_cannot_reach_beyond_it() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &["--slots", "3"]);
    let mut client = fleet.client().await;
    let links = "ln -s /etc/passwd ../out/passwd; ln -s / ../out/root; mkfifo ../out/pipe; echo fine > ../out/fine.txt";
    let submitted = client
        .submit(run(vec![
            shell("links", links, "[[text]]"),
            shell("sparse", "truncate -s 1T ../out/huge || truncate -s 2G ../out/huge", "[[text]]"),
            shell("many", "cd ../out && seq -f f%.0f 12000 | xargs touch", "[[text]]"),
        ]))
        .await;
    let (_, tasks) = ended(&mut client, &submitted.r#ref, RunState::Failed).await;
    assert_eq!((tasks["links"].state(), tasks["links"].artifact_count), (TaskState::Succeeded, 1));
    for id in ["sparse", "many"] {
        assert_eq!(tasks[id].outcome(), Outcome::LimitOutput, "{}", tasks[id].detail);
    }
    assert_eq!(artifacts(&mut client, &submitted.r#ref).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_published_once_beneath_its_workspace_and_never_over_another() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let studio = studio(fleet.dir());
    agents(&mut fleet, 1, &studio);
    let mut client = fleet.client().await;
    let publish = |id: &str, text: &str, replace: bool| {
        let mut task = shell(id, &format!("printf '{text}' > ../out/note.md"), "[[text]]");
        "dance".clone_into(&mut task.workspace);
        task.publish =
            vec![v1::Publication { artifact: "note.md".into(), to: "notes/{task}.md".into(), replace }];
        task
    };
    let submitted = client.submit(run(vec![publish("note", "one", false)])).await;
    ended(&mut client, &submitted.r#ref, RunState::Succeeded).await;
    let note = studio.join("notes/note.md");
    assert_eq!(std::fs::read_to_string(&note).expect("a note"), "one");

    let submitted = client.submit(run(vec![publish("note", "two", false)])).await;
    let (_, tasks) = ended(&mut client, &submitted.r#ref, RunState::Failed).await;
    assert_eq!(tasks["note"].state(), TaskState::Succeeded);
    assert_eq!(tasks["note.publish"].outcome(), Outcome::GateFailed);
    assert!(tasks["note.publish"].detail.contains("notes/note.md"), "{}", tasks["note.publish"].detail);
    assert_eq!(std::fs::read_to_string(&note).expect("a note"), "one");

    let submitted = client.submit(run(vec![publish("note", "three", true)])).await;
    ended(&mut client, &submitted.r#ref, RunState::Succeeded).await;
    assert_eq!(std::fs::read_to_string(&note).expect("a note"), "three");
    let left: Vec<_> =
        files(&studio).into_keys().filter(|path| path.to_string_lossy().contains(".orch")).collect();
    assert!(left.is_empty(), "{left:?}");

    for to in ["../outside.md", "/etc/outside.md", "a/../../b", "a//b", ""] {
        let mut task = publish("note", "x", false);
        to.clone_into(&mut task.publish[0].to);
        let request = v1::SubmitRunRequest { spec: Some(run(vec![task])), ..Default::default() };
        let status = client.runs.submit_run(request).await.expect_err(to);
        assert_eq!(status.code(), tonic::Code::InvalidArgument, "{to}: {status}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_work_on_the_same_tree_costs_nothing_the_second_time() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let studio = studio(fleet.dir());
    agents(&mut fleet, 1, &studio);
    let mut client = fleet.client().await;
    let spec = || {
        let mut task = shell(
            "count",
            "ls workspace/students | wc -l; echo made > ../out/a.txt",
            "[[text {\"text\":\"three\"}]]",
        );
        "dance".clone_into(&mut task.workspace);
        task.cache = true;
        run(vec![task])
    };
    let first = client.submit(spec()).await;
    let (_, tasks) = ended(&mut client, &first.r#ref, RunState::Succeeded).await;
    assert!(tasks["count"].reused_from.is_empty());

    let second = client.submit(spec()).await;
    let (again, tasks) = ended(&mut client, &second.r#ref, RunState::Succeeded).await;
    assert_eq!(tasks["count"].reused_from, format!("{}/count", first.r#ref));
    assert_eq!((answer(&tasks["count"]), tasks["count"].artifact_count), ("three", 1));
    assert_eq!(again.usage.unwrap_or_default().cost_micro_usd, 0);

    let fresh = client.submit(v1::RunSpec { no_cache: true, ..spec() }).await;
    let (_, tasks) = ended(&mut client, &fresh.r#ref, RunState::Succeeded).await;
    assert!(tasks["count"].reused_from.is_empty());

    std::fs::write(studio.join("students/new.md"), "somebody new").expect("written");
    let changed = client.submit(spec()).await;
    let (_, tasks) = ended(&mut client, &changed.r#ref, RunState::Succeeded).await;
    assert!(tasks["count"].reused_from.is_empty(), "the tree is another");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follow_up_goes_on_in_the_conversation_where_it_lives_or_says_why_not() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &[]);
    fleet.agent("box-2", &[]);
    let mut client = fleet.client().await;
    let first = client.submit(run(vec![shell("talk", "echo remembered > kept.txt", "[[text]]")])).await;
    let (_, tasks) = ended(&mut client, &first.r#ref, RunState::Succeeded).await;
    let talk = tasks["talk"].clone();

    let follow = |reference: &str| {
        let call = json!({"name": "Bash", "input": {"command": "cat kept.txt"}});
        let mut task = worker("more", "anga", &format!("[[tool {call}]]"));
        if let Some(v1::task_spec::Runner::Worker(work)) = &mut task.runner {
            reference.clone_into(&mut work.after_ref);
        }
        run(vec![task])
    };
    let second = client.submit(follow(&talk.r#ref)).await;
    let (_, tasks) = ended(&mut client, &second.r#ref, RunState::Succeeded).await;
    assert!(answer(&tasks["more"]).contains("remembered"), "{}", answer(&tasks["more"]));
    assert_eq!((&tasks["more"].agent, &tasks["more"].session_id), (&talk.agent, &talk.session_id));

    let request = v1::SubmitRunRequest { spec: Some(follow("adhoc/99/none")), ..Default::default() };
    let status = client.runs.submit_run(request).await.expect_err("there is no such task");
    assert!(status.message().contains("adhoc/99"), "{status}");
}
