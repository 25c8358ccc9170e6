//! A run is decomposed over agents, and everything it says comes back.

use orch_proto::v1::{self, Outcome, RunState, TaskState};
use orch_tests::client::{after, answer, command, noop, run, worker};
use orch_tests::fleet::Fleet;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_graph_runs_in_order_over_two_agents_and_every_answer_comes_back() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &["--slots", "1"]);
    fleet.agent("box-2", &["--slots", "1"]);
    let mut client = fleet.client().await;
    let submitted = client
        .submit(run(vec![
            worker("brief", "fabien", "[[text {\"text\":\"the brief\"}]]"),
            worker("left", "anga", "[[text {\"text\":\"left done\"}]]"),
            after(worker("right", "marie", "[[text {\"text\":\"à droite\"}]]"), &["brief"]),
            after(noop("join"), &["left", "right"]),
        ]))
        .await;
    assert_eq!(submitted.r#ref, "adhoc/1");
    let finished = client.finished(&submitted.r#ref).await;
    assert_eq!(finished.state(), RunState::Succeeded);
    let tasks = client.tasks(&submitted.r#ref).await;
    let said: Vec<_> = tasks.iter().map(|task| (task.task_id.as_str(), answer(task))).collect();
    assert_eq!(said[..3], [("brief", "the brief"), ("left", "left done"), ("right", "à droite")]);
    for task in &tasks {
        assert_eq!((task.state(), task.outcome(), task.attempt), (TaskState::Succeeded, Outcome::Ok, 1));
    }
    let usage = tasks[0].usage.clone().expect("usage");
    assert!(usage.models[0].output_tokens > 0 && usage.cost_micro_usd > 0, "{usage:?}");
    let started = |index: usize| tasks[index].started_at.expect("started");
    let finished_at = |index: usize| tasks[index].finished_at.expect("finished");
    let as_nanos = |time: prost_types::Timestamp| (time.seconds, time.nanos);
    assert!(as_nanos(started(2)) >= as_nanos(finished_at(0)), "right started before brief had ended");
    let total: u64 =
        tasks.iter().filter_map(|task| task.usage.as_ref()).map(|usage| usage.cost_micro_usd).sum();
    assert_eq!(finished.usage.expect("usage").cost_micro_usd, total);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_runs_without_a_shell_and_only_where_it_is_allowed() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &["--allow-command", "printf", "--allow-command", "false"]);
    let mut client = fleet.client().await;
    let submitted = client
        .submit(run(vec![command("ok", "printf", &["%s", "$HOME; ls"]), command("no", "false", &[])]))
        .await;
    let finished = client.finished(&submitted.r#ref).await;
    assert_eq!(finished.state(), RunState::Failed);
    let tasks = client.tasks(&submitted.r#ref).await;
    assert_eq!((tasks[0].outcome(), answer(&tasks[0])), (Outcome::Ok, "$HOME; ls"));
    assert_eq!(tasks[1].outcome(), Outcome::GateFailed);
    assert!(tasks[1].detail.contains("exit code 1"), "{}", tasks[1].detail);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prompt_and_an_answer_of_megabytes_arrive_whole() {
    use sha2_of::{digest, text};
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &["--allow-command", "cat"]);
    let mut client = fleet.client().await;
    let filler = text(120_000);
    let description = format!("[[text {{\"text\":\"{filler}\"}}]]");
    let submitted = client.submit(run(vec![worker("big", "anga", &description)])).await;
    client.finished(&submitted.r#ref).await;
    let request = v1::GetTaskRequest { r#ref: submitted.r#ref.clone() };
    let task = client.runs.get_task(request).await.expect("task").into_inner().task.expect("task");
    let Some(v1::text::Body::Blob(blob)) = task.answer.and_then(|text| text.body) else {
        panic!("not a blob")
    };
    assert_eq!(blob.size, filler.len() as u64);
    let mut blobs = v1::blob_service_client::BlobServiceClient::new(client.channel.clone());
    let request = v1::GetBlobRequest { blob: Some(blob), offset: 0 };
    let mut stream = blobs.get_blob(request).await.expect("blob").into_inner();
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.message().await.expect("chunk") {
        assert_eq!(chunk.offset, bytes.len() as u64);
        bytes.extend_from_slice(&chunk.data);
    }
    assert_eq!(digest(&bytes), digest(filler.as_bytes()));
}

/// Text that does not repeat, and a way to compare it without printing it.
mod sha2_of {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};

    pub(super) fn text(words: usize) -> String {
        (0..words).map(|at| format!("{at} ")).collect::<String>().trim_end().to_owned()
    }

    pub(super) fn digest(bytes: &[u8]) -> u64 {
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        hasher.finish()
    }
}
