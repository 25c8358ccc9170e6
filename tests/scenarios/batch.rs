//! Batches: found again whatever ended them, with only what is unfinished done again; hostile rosters; too large ones.

use crate::workflows::{orchctl, said};
use orch_proto::v1;
use orch_tests::client::Client;
use orch_tests::fleet::Fleet;
use orch_tests::process::Process;
use orch_tests::wait::until_async;
use serde_json::{Value, json};
use std::process::Output;

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", said(output)))
}

fn write(fleet: &Fleet, name: &str, bytes: impl AsRef<[u8]>) {
    std::fs::write(fleet.dir().join(name), bytes).expect("a file");
}

async fn runs(client: &mut Client) -> Vec<v1::Run> {
    client.runs.list_runs(v1::ListRunsRequest::default()).await.expect("a list").into_inner().runs
}

/// A workflow of two steps for whoever is called `name`.
fn greeting(fleet: &Fleet) {
    let workflow = json!({
        "name": "greeting",
        "parameters": {"name": {}, "mood": {"default": "kindly"}},
        "defaults": {"worker": "anga", "contract": false},
        "tasks": [
            {"id": "think", "description": "[[sleep {\"ms\":150}]][[text {\"text\":\"{{name}}, {{mood}}\"}]]"},
            {"id": "greet", "dependencies": ["think"], "description": "[[text {\"text\":\"hello {{name.slug}}\"}]]"}
        ]
    });
    write(fleet, "greeting.json", workflow.to_string());
}

/// A report without what a killed agent may change: attempts, and what they cost.
fn bare(mut report: Value) -> Value {
    for item in report["items"].as_array_mut().expect("items") {
        for field in ["attempts", "cost_usd"] {
            item.as_object_mut().expect("an item").remove(field);
        }
    }
    report["items"].take()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_of_fifty_goes_on_after_kills_of_orchctl_the_coordinator_and_an_agent() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    for name in ["box-1", "box-2"] {
        fleet.agent(name, &["--slots", "4"]);
    }
    greeting(&fleet);
    let roster: String = std::iter::once("name,mood\n".to_owned())
        .chain(
            (1..=50)
                .map(|number| format!("Student {number},{}\n", if number % 2 == 0 { "gladly" } else { "" })),
        )
        .collect();
    write(&fleet, "fifty.csv", roster);
    let line = ["batch", "-f", "greeting.json", "--roster", "fifty.csv", "-o", "json"];
    let mut client = fleet.client().await;
    let log = fleet.dir().join("first.log");
    for kills in 0..3 {
        let mut first = Process::start(fleet.orchctl(&line).args(["--progress", "none"]), &log);
        let asked = client.clone();
        until_async("some tasks to succeed", || {
            let mut client = asked.clone();
            async move {
                let run = client
                    .runs
                    .list_runs(v1::ListRunsRequest::default())
                    .await
                    .ok()?
                    .into_inner()
                    .runs
                    .pop()?;
                let done: u32 = run
                    .counts
                    .iter()
                    .filter(|c| c.state() == v1::TaskState::Succeeded)
                    .map(|c| c.count)
                    .sum();
                (done >= 10 * (kills + 1)).then_some(())
            }
        })
        .await;
        first.kill();
        match kills {
            1 => {
                fleet.kill_coordinator();
                fleet.start_coordinator();
                client = fleet.client().await;
            }
            2 => {
                fleet.agent_process("box-2").kill();
                fleet.agent("box-2", &["--slots", "4"]);
            }
            _ => {}
        }
    }
    let last = orchctl(&fleet, &line);
    assert_eq!(last.status.code(), Some(0), "{}", said(&last));
    let found = report(&last);
    assert_eq!(runs(&mut client).await.len(), 1, "one batch is one run");
    assert_eq!((&found["succeeded"], &found["failed"]), (&json!(50), &json!(0)));
    let items = found["items"].as_array().expect("items");
    for (index, item) in items.iter().enumerate() {
        assert_eq!(item["name"], format!("Student {}", index + 1), "in the order of the roster");
        assert_eq!((&item["tasks"], &item["tasks_succeeded"]), (&json!(2), &json!(2)));
        assert!(item["attempts"].as_u64().is_some_and(|attempts| (2..=4).contains(&attempts)), "{item}");
    }
    let again = orchctl(&fleet, &line);
    assert!(said(&again).contains("is finished; --again runs it anew"), "{}", said(&again));
    assert_eq!(report(&again)["items"], found["items"], "nothing was done again");
    // The same, undisturbed: the reports differ in attempts and what they cost.
    let calm = orchctl(&fleet, &[&line[..], &["--again"]].concat());
    assert_eq!(calm.status.code(), Some(0), "{}", said(&calm));
    assert_eq!(bare(report(&calm)), bare(found));
    assert_eq!(runs(&mut client).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_is_unfinished_is_done_again_and_the_exit_code_says_so() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let ready = fleet.dir().join("ready");
    std::fs::create_dir_all(&ready).expect("a folder");
    let workspace = format!("ready={}", ready.display());
    fleet.agent("box-1", &["--slots", "2", "--allow-command", "test", "--workspace", &workspace]);
    let workflow = json!({
        "name": "doors",
        "parameters": {"name": {}},
        "workspace": "ready",
        "tasks": [{"id": "open", "run": ["test", "-e", "workspace/{{name}}"], "retries": 0}]
    });
    write(&fleet, "doors.json", workflow.to_string());
    write(&fleet, "names.txt", "east\nwest\n\nsouth\n");
    std::fs::write(ready.join("east"), "").expect("a file");
    std::fs::write(ready.join("south"), "").expect("a file");
    let line = ["batch", "-f", "doors.json", "--roster", "names.txt", "-o", "json"];
    let first = orchctl(&fleet, &line);
    assert_eq!(first.status.code(), Some(8), "{}", said(&first));
    let states = |report: &Value| {
        let items = report["items"].as_array().expect("items").iter();
        items
            .map(|item| (item["name"].clone(), item["state"].clone(), item["attempts"].clone()))
            .collect::<Vec<_>>()
    };
    let row = |name: &str, state: &str, attempts: u64| (json!(name), json!(state), json!(attempts));
    let found = report(&first);
    assert_eq!(
        states(&found),
        [row("east", "succeeded", 1), row("west", "failed", 1), row("south", "succeeded", 1)]
    );
    assert_eq!(found["rows_skipped"], 1);
    std::fs::write(ready.join("west"), "").expect("a file");
    let second = orchctl(&fleet, &line);
    assert_eq!(second.status.code(), Some(0), "{}", said(&second));
    assert_eq!(
        states(&report(&second)),
        [row("east", "succeeded", 1), row("west", "succeeded", 2), row("south", "succeeded", 1)]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_and_too_large_rosters_leave_nothing_behind() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &[]);
    greeting(&fleet);
    let mut many = String::from("name\n");
    for number in 0..50_001 {
        many.push_str(&format!("s{number}\n"));
    }
    let cases: &[(&str, Vec<u8>, &str)] = &[
        ("ragged.csv", b"name,mood\nEmma\n".to_vec(), "ragged.csv:2:1: the row has 1 field"),
        (
            "twice.csv",
            b"\xef\xbb\xbfname\r\nEmma\r\n\r\nemma\r\n".to_vec(),
            "twice.csv:4:1: emma and Emma in line 2",
        ),
        ("bytes.csv", b"name\nEm\xffma\n".to_vec(), "bytes.csv:2:3: this is not UTF-8"),
        (
            "quote.csv",
            b"name,mood\n\"Emma,x\nSophia,y\n".to_vec(),
            "quote.csv:2:1: a quote that is never closed",
        ),
        ("head.csv", b"Emma,x\nSophia,y\n".to_vec(), "head.csv:1:1: the first row has no column `name`"),
        ("list.json", b"[\"a\",\n {\"nom\": \"b\"}]".to_vec(), "list.json:2:2: a row without a `name`"),
        ("deep.json", [b"[".repeat(5000), b"]".repeat(5000)].concat(), "deep.json:1:"),
        ("empty.txt", b"\n\n".to_vec(), "no rows"),
        ("escape.txt", b"\x1b[2JEmma\n".to_vec(), "control characters"),
        ("many.csv", many.into_bytes(), "100000"),
    ];
    for (name, bytes, wanted) in cases {
        write(&fleet, name, bytes);
        let refused = orchctl(&fleet, &["batch", "-f", "greeting.json", "--roster", name]);
        let text = said(&refused);
        assert_eq!(refused.status.code(), Some(2), "{name}: {text}");
        assert!(text.replace([',', '_'], "").contains(&wanted.replace([',', '_'], "")), "{name}: {text}");
        assert!(!text.contains('\u{1b}'), "{name}: {text:?}");
    }
    let mut client = fleet.client().await;
    assert_eq!(runs(&mut client).await, [], "nothing half-submitted remains");
    // Half as many rows pass, and are taken back.
    let half: String =
        std::iter::once("name\n".to_owned()).chain((0..500).map(|n| format!("s{n}\n"))).collect();
    write(&fleet, "half.csv", half);
    let taken = orchctl(&fleet, &["batch", "-f", "greeting.json", "--roster", "half.csv", "--detach"]);
    assert!(taken.status.success(), "{}", said(&taken));
    let run = runs(&mut client).await.pop().expect("a run");
    assert_eq!(run.task_count, 1_000);
    let cancelled = orchctl(&fleet, &["cancel", &run.r#ref]);
    assert!(cancelled.status.success(), "{}", said(&cancelled));
}
