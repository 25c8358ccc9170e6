//! The real CLI through the agent's gateway: the bill is what the API counted, cache included, and a window that is used up
//! interrupts a conversation that goes on where it was.

use super::{AGENT, Real, private_file};
use orch_proto::v1::{self, Outcome, RunState, TaskState};
use orch_standin::api::{CacheRules, Ending, KeyRule, Setup};
use orch_tests::client::{run, worker};
use orch_tests::wait::until;
use std::time::Duration;

const POOL: &str = "studio";
const KEY: &str = "sk-stand-in-studio-not-a-key";

/// A fleet whose only agent has an API key in a pool, and an API that counts input and keeps a prompt cache.
async fn metered(test: &str) -> Option<Real> {
    let mut real = Real::without_agents(test).await?;
    let file = real.fleet.dir().join("studio.key");
    private_file(&file, KEY);
    real.api.set_key(POOL, KEY, KeyRule::Serve);
    real.api.set_up(Setup { cache: Some(CacheRules::default()), ..Setup::default() });
    let pool = format!("{POOL}=api-key:{}", file.display());
    real.agent_without_key(AGENT, &["--slots", "2", "--pool", &pool]);
    Some(real)
}

/// Input, output, read, written: of everything the API was asked.
fn counted(real: &Real) -> [u64; 4] {
    real.api.entries().iter().fold([0; 4], |[input, output, read, written], entry| {
        let usage = entry.usage;
        [input + usage.input, output + usage.output, read + usage.cache_read, written + usage.cache_write]
    })
}

/// The same as billed to a task.
fn billed(task: &v1::Task) -> [u64; 4] {
    let models = task.usage.iter().flat_map(|usage| &usage.models);
    models.fold([0; 4], |[input, output, read, written], one| {
        [
            input + one.input_tokens,
            output + one.output_tokens,
            read + one.cache_read_tokens,
            written + one.cache_write_tokens,
        ]
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_through_the_gateway_is_billed_what_the_api_counted() {
    let Some(real) = metered("a_task_through_the_gateway_is_billed_what_the_api_counted").await else {
        return;
    };
    let mut client = real.fleet.client().await;
    let text = r#"Go. [[tool {"name":"Bash","input":{"command":"echo one","description":"d"},"usage":{"output":70}}]][[subagent {"type":"test-runner","prompt":"[[text {\"text\":\"inner\"}]]"}]][[text {"text":"end"}]]"#;
    let submitted = client.submit(run(vec![worker("t", "anga", text)])).await;
    assert_eq!(client.finished(&submitted.r#ref).await.state(), RunState::Succeeded);
    let task = client.tasks(&submitted.r#ref).await.remove(0);
    let entries = real.api.entries();
    assert!(entries.len() >= 4 && entries.iter().any(|entry| !entry.agent_id.is_empty()), "{entries:?}");
    for entry in &entries {
        assert_eq!((entry.key.as_str(), entry.ending), (POOL, Ending::Completed), "{entry:?}");
        assert_eq!(entry.session_id, task.session_id);
    }
    assert!(
        entries.iter().any(|entry| entry.usage.cache_read > 0),
        "nothing was read from the cache: {entries:?}"
    );
    let (ours, theirs) = (billed(&task), counted(&real));
    assert_eq!(ours, theirs);
    assert!(!task.usage.expect("a bill").estimated);
    real.nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversation_is_parked_while_its_keys_window_is_used_up_and_goes_on_after_it() {
    let test = "a_conversation_is_parked_while_its_keys_window_is_used_up_and_goes_on_after_it";
    let Some(real) = metered(test).await else { return };
    let mut client = real.fleet.client().await;
    real.api.exhaust(POOL, "five_hour", 1, Duration::from_secs(6));
    let text = r#"Go on and on. [[tool {"name":"Bash","input":{"command":"echo one","description":"d"}}]][[text {"text":"end"}]]"#;
    let submitted = client.submit(run(vec![worker("t", "anga", text)])).await;
    let task_ref = format!("{}/t", submitted.r#ref);
    let parked = client.task_in(&task_ref, TaskState::Parked).await;
    assert!(parked.retry_at.is_some(), "{parked:?}");
    let reset =
        until("the first refusal", || real.api.entries().into_iter().find(|entry| entry.status == 429));
    client.finished(&submitted.r#ref).await;
    let task = client.tasks(&submitted.r#ref).await.remove(0);
    assert_eq!(task.outcome(), Outcome::Ok, "{task:?}");
    let entries = real.api.entries();
    assert!(entries.iter().all(|entry| entry.session_id == task.session_id), "one conversation: {entries:?}");
    let early = entries.iter().filter(|entry| {
        entry.status == 200 && entry.came > reset.came && entry.came < reset.came + Duration::from_secs(6)
    });
    assert_eq!(early.count(), 0, "{entries:?}");
    let answered = entries.iter().filter(|entry| entry.status == 200).count();
    assert_eq!(answered, 2, "what was answered before is not asked again: {entries:?}");
    assert_eq!(billed(&task), counted(&real));
    real.nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stands_before_a_tasks_own_words_is_the_same_for_all_tasks_of_a_worker() {
    let test = "what_stands_before_a_tasks_own_words_is_the_same_for_all_tasks_of_a_worker";
    let Some(real) = metered(test).await else { return };
    let mut client = real.fleet.client().await;
    for text in [
        r#"Judge Emma. [[text {"text":"a"}]]"#,
        r#"Now look at the feet of Lisa, please. [[text {"text":"b"}]]"#,
    ] {
        let submitted = client.submit(run(vec![worker("t", "anga", text)])).await;
        assert_eq!(client.finished(&submitted.r#ref).await.state(), RunState::Succeeded);
    }
    // Another directory, other words, another conversation: tools and system prompt are read, byte for byte as they were.
    let entries = real.api.entries();
    let [first, second] = entries.as_slice() else { panic!("{entries:?}") };
    assert_ne!(first.session_id, second.session_id);
    assert_eq!(first.usage.cache_read, 0, "{first:?}");
    assert!(first.usage.cache_write > 0 && second.usage.cache_read > 0, "{entries:?}");
    assert!(second.usage.cache_write < first.usage.cache_write, "{entries:?}");
    real.nothing_left();
}
