//! Capabilities that operators add to agents and take away from them.

use super::{admin, ana, requiring, shown};
use orch_tests::client::{noop, run};
use orch_tests::fleet::Fleet;
use serde_json::{Value, json};

async fn dry_run(fleet: &Fleet, requirement: &str) -> i32 {
    ana(fleet, &["run", "--dry-run", "--runner", "noop", "--require", requirement]).await.code
}

/// What it offers beside its runners.
fn offers(agent: &Value) -> Vec<&str> {
    let all = agent["capabilities"].as_array().expect("a list").iter().filter_map(Value::as_str);
    all.filter(|offer| !offer.starts_with("runner=")).collect()
}

fn orders(agent: &Value) -> (&Value, &Value) {
    (&agent["labels"], &agent["hidden"])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_label_makes_the_impossible_start_at_once_and_holds_until_it_is_taken_back() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &["--capability", "studio=dance"]);
    let mut client = fleet.client().await;
    assert_eq!(dry_run(&fleet, "gpu=yes").await, 10);
    let waiting = client.submit(run(vec![requiring(noop("t"), "gpu", "yes")])).await;
    let why = ana(&fleet, &["explain", &waiting.r#ref]).await.ended(10);
    assert!(why.out.contains("gpu=yes"), "{}", why.out);
    let refused = ana(&fleet, &["agents", "label", "box-1", "gpu=yes"]).await.ended(4);
    assert!(refused.err.contains("role admin"), "{}", refused.err);
    for own in [
        "runner=gpu",
        "pool=studio",
        "program=/bin/sh",
        "runner-",
        "pool-",
        "program-",
        "workspace=x",
        "workspace-",
    ] {
        let refused = admin(&fleet, &["agents", "label", "box-1", "gpu=yes", own]).await.ended(2);
        assert!(refused.err.contains("the agent's own"), "{own}: {}", refused.err);
    }
    let untouched = shown(&fleet, "box-1").await;
    assert_eq!(orders(&untouched), (&json!([]), &json!([])), "a refusal changes nothing");

    let labelled = admin(&fleet, &["agents", "label", "box-1", "gpu=yes"]).await.ended(0);
    assert!(labelled.out.contains("gpu=yes"), "{}", labelled.out);
    client.finished(&waiting.r#ref).await;
    assert_eq!(dry_run(&fleet, "gpu=yes").await, 0);
    let changed = admin(&fleet, &["agents", "label", "box-1", "gpu-", "studio-", "team=a"]).await.ended(0);
    assert!(changed.out.contains("hidden: studio"), "{}", changed.out);
    assert_eq!((dry_run(&fleet, "gpu=yes").await, dry_run(&fleet, "studio=dance").await), (10, 10));

    fleet.kill_coordinator();
    fleet.agent_process("box-1").kill();
    fleet.start_coordinator();
    assert_eq!(dry_run(&fleet, "team=a").await, 0, "an agent that is away is known with its labels");
    fleet.agent("box-1", &["--capability", "studio=dance"]);
    let after = shown(&fleet, "box-1").await;
    assert_eq!(orders(&after), (&json!(["team=a"]), &json!(["studio"])));
    assert_eq!(offers(&after), ["team=a"]);
    assert_eq!((dry_run(&fleet, "studio=dance").await, dry_run(&fleet, "team=a").await), (10, 0));

    admin(&fleet, &["agents", "label", "box-1", "--restore"]).await.ended(0);
    let restored = shown(&fleet, "box-1").await;
    assert_eq!(orders(&restored), (&json!([]), &json!([])));
    assert_eq!(offers(&restored), ["studio=dance"]);
    assert_eq!((dry_run(&fleet, "studio=dance").await, dry_run(&fleet, "team=a").await), (0, 10));
}
