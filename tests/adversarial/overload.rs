//! A long queue over a restart, and people who ask for everything all the time. Rows 63 and 67 of the list; floods and storms
//! are told elsewhere.

use crate::siege::Siege;
use orch_proto::v1;
use orch_tests::budget::{budget, figures};
use orch_tests::client::{noop, run};
use orch_tests::fleet::Fleet;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Tasks of a run: it fits one message.
const TASKS: u64 = 10_000;
/// Those who ask for everything.
const ASKING: usize = 4;
/// How often, each of them.
const EVERY: Duration = Duration::from_millis(100);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_queue_is_back_after_a_restart_and_may_be_listed_again_and_again() {
    let runs = budget("ORCH_TORTURE_QUEUED", 20_000).div_ceil(TASKS);
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let mut client = fleet.client().await;
    let mut last = String::new();
    for _ in 0..runs {
        let tasks = (0..TASKS).map(|at| noop(&format!("t{at}"))).collect();
        last = client.submit(run(tasks)).await.r#ref;
    }
    fleet.kill_coordinator();
    let began = Instant::now();
    fleet.start_coordinator();
    let ready = began.elapsed();
    figures(
        "adversarial: a restart with a long queue",
        &format!("{} tasks: ready in {ready:.1?}", runs * TASKS),
    );
    assert!(ready < Duration::from_secs(30), "{ready:?}");
    let mut client = fleet.client().await;
    assert_eq!(client.run(&last).await.task_count, u32::try_from(TASKS).expect("a number"));
    let siege = Siege::lay(&mut fleet).await;
    let attack = async {
        let mut asking = JoinSet::new();
        for _ in 0..ASKING {
            let (mut client, last) = (fleet.client().await, last.clone());
            asking.spawn(async move {
                for _ in 0..20 {
                    let all = v1::ListRunsRequest { page_size: 1_000, ..Default::default() };
                    client.runs.list_runs(all).await.expect("a list of runs");
                    let page =
                        v1::ListTasksRequest { r#ref: last.clone(), page_size: 1_000, ..Default::default() };
                    client.runs.list_tasks(page).await.expect("a list of tasks");
                    let watch =
                        client.runs.watch_runs(v1::WatchRunsRequest::default()).await.expect("a watch");
                    drop(watch);
                    tokio::time::sleep(EVERY).await;
                }
            });
        }
        asking.join_all().await;
    };
    siege.borne("lists and watches of everything", attack).await;
}
