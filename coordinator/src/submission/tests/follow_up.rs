//! Conversations that go on.

use super::*;

fn conversation() -> (BTreeMap<String, Conversation>, Continued) {
    let worker = PinnedWorker {
        name: "marie".into(),
        definition: Arc::from(&b"as it was"[..]),
        digest: [9; 32],
        model: "opus-4".into(),
        max_turns: 7,
        budget_micro_usd: Some(500),
        timeout_ms: Some(90_000),
        requires: BTreeSet::from(["gpu=yes".to_owned(), "workspace=studio".to_owned()]),
        on_loss: v1::OnLoss::Wait,
    };
    let continued = Continued {
        task: v1::TaskId { run_id: 3, task_index: 1 },
        session_id: "0190-session".into(),
        context: None,
    };
    let conversation = Conversation {
        continued: continued.clone(),
        worker: Arc::new(worker),
        agent: "north".into(),
        workspace: "studio".into(),
    };
    (BTreeMap::from([("adhoc/3/b".to_owned(), conversation)]), continued)
}

fn follow_up(change: impl FnOnce(&mut v1::WorkerTask)) -> v1::TaskSpec {
    change_worker(worker_task("more", "now also the rest", &[]), |worker| {
        worker.worker.clear();
        worker.after_ref = "adhoc/3/b".into();
        change(worker);
    })
}

fn checked(task: v1::TaskSpec) -> Result<CheckedTask, SpecError> {
    let spec = v1::RunSpec { tasks: vec![task], workspace: "dance".into(), ..Default::default() };
    check_with(spec, &conversation().0).map(|mut run| run.tasks.remove(0))
}

#[track_caller]
fn refused_as(task: v1::TaskSpec, code: ErrorCode, field: &str) -> String {
    let error = checked(task).expect_err("the follow-up must be refused");
    assert_eq!((error.code, error.field.as_str()), (code, field), "{error}");
    error.message
}

#[test]
fn a_follow_up_is_the_same_worker_on_the_same_agent_with_the_new_words_only() {
    let task = checked(follow_up(|_| {})).unwrap();
    assert_eq!((task.agent.as_deref(), task.workspace.as_str()), (Some("north"), "studio"));
    assert_eq!((task.timeout_ms, task.on_loss), (90_000, v1::OnLoss::Wait));
    let needs = task.requires.iter().map(String::as_str).collect::<Vec<_>>();
    assert_eq!(needs, ["gpu=yes", "runner=claude", "workspace=studio"]);
    let worker = worker_of(&task);
    assert_eq!(worker.prompt, "now also the rest");
    assert_eq!((worker.worker.name.as_str(), worker.model.as_str()), ("marie", "opus-4"));
    assert_eq!(&*worker.worker.definition, b"as it was");
    assert_eq!(worker.continues, Some(conversation().1));
    let same = follow_up(|worker| {
        worker.worker = "marie".into();
        worker.model = "opus-4".into();
    });
    assert!(checked(same).is_ok());
}

#[test]
fn a_conversation_cannot_become_another_one() {
    let code = ErrorCode::NotContinuable;
    refused_as(follow_up(|worker| worker.worker = "anga".into()), code, "tasks[0].worker.worker");
    refused_as(follow_up(|worker| worker.model = "haiku".into()), code, "tasks[0].worker.model");
    refused_as(follow_up(|worker| worker.context = "more".into()), code, "tasks[0].worker.context");
    let elsewhere = v1::TaskSpec { agent: "south".into(), ..follow_up(|_| {}) };
    assert!(refused_as(elsewhere, code, "tasks[0].agent").contains("agent north keeps"));
    let cached = v1::TaskSpec { cache: true, ..follow_up(|_| {}) };
    refused_as(cached, ErrorCode::InvalidField, "tasks[0].cache");
    let unknown = follow_up(|worker| worker.after_ref = "adhoc/4/b".into());
    refused_as(unknown, code, "tasks[0].worker.after_ref");
}
