//! Requests whose content is meant to be taken for something else: names, keys, variables. Rows 53 to 56 of the list.

use crate::siege::Siege;
use orch_certs::{Ca, Identity, LeafRequest, Role};
use orch_proto::codes::ErrorCode;
use orch_proto::v1;
use orch_tests::client::{Client, answer, command, noop, run};
use orch_tests::fleet::{DOMAIN, Fleet};
use orch_tests::wire::code;
use std::time::SystemTime;
use tonic::Status;

async fn submit(client: &mut Client, spec: v1::RunSpec, request_id: &str) -> Result<v1::Run, Status> {
    let request =
        v1::SubmitRunRequest { spec: Some(spec), request_id: request_id.into(), validate_only: false };
    let answer = client.runs.submit_run(request).await?.into_inner();
    Ok(answer.run.expect("a run"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_id_names_one_request_of_one_tenant_and_is_short() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let siege = Siege::lay(&mut fleet).await;
    let mut client = fleet.client().await;
    let files = stranger(&fleet);
    let attack = async {
        // None at all: nobody asked for anything twice.
        let first = submit(&mut client, run(vec![noop("a")]), "").await.expect("a run");
        let second = submit(&mut client, run(vec![noop("a")]), "").await.expect("another");
        assert_ne!(first.run_id, second.run_id);
        let long = [257, 4_096, 900 << 10].map(|length| "k".repeat(length));
        for id in &long {
            let status = submit(&mut client, run(vec![noop("a")]), id).await.expect_err("too long");
            assert_eq!(code(&status), Some(ErrorCode::InvalidRequestId), "{status:?}");
            assert!(status.message().len() < 1_000, "the id is not sent back");
        }
        let status =
            submit(&mut client, run(vec![noop("a")]), &"k".repeat(1 << 20)).await.expect_err("no message");
        assert_eq!(code(&status), Some(ErrorCode::TooLarge), "{status:?}");
        let kept = submit(&mut client, run(vec![noop("a")]), "once").await.expect("a run");
        let again = submit(&mut client, run(vec![noop("a")]), "once").await.expect("the same");
        assert_eq!(kept.run_id, again.run_id);
        let status = submit(&mut client, run(vec![noop("b")]), "once").await.expect_err("another request");
        assert_eq!(code(&status), Some(ErrorCode::RequestIdConflict), "{status:?}");
        // Another tenant gets neither this run nor any answer that tells of it.
        let mut other = Client::connect(&fleet.ports().grpc, &files).await;
        let status = submit(&mut other, run(vec![noop("b")]), "once").await.expect_err("no such tenant");
        assert_eq!(code(&status), Some(ErrorCode::InvalidIdentity), "{status:?}");
    };
    siege.borne("request ids", attack).await;
}

/// A certificate of the same authority, of another tenant.
fn stranger(fleet: &Fleet) -> orch_certs::TlsFiles {
    let ca = Ca::open(&fleet.dir().join("ca")).expect("the authority");
    let identity = Identity::new(DOMAIN, Role::Client, "other", "mallory").expect("an identity");
    let issued = ca.issue(&LeafRequest::new(identity), SystemTime::now()).expect("issued");
    issued.write(&fleet.dir().join("stranger")).expect("written")
}

/// Names that mean something elsewhere.
fn names() -> Vec<String> {
    let mut names: Vec<String> = [
        "../up",
        "a/../../b",
        "..",
        ".",
        "/etc/passwd",
        "a%00b",
        "%2e%2e%2f",
        "a\0b",
        "a\u{202e}b",
        "\u{2066}a",
        "a\u{200b}b",
        "<script>alert(1)</script>",
        "a\"b",
        "a'b",
        "\u{1b}[31mred",
        "\u{1b}]0;title\u{7}",
        "a\rb",
        "a\nb",
        "$(reboot)",
        "`reboot`",
        "a;b",
        "a|b",
        "a&b",
        "-rf",
        "--version",
        "-",
        "~root",
        "a b",
        "C:\\x",
        "\u{feff}a",
        "名",
        "e\u{301}",
    ]
    .map(str::to_owned)
    .into();
    names.push("x".repeat(10_000));
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_mean_something_elsewhere_are_refused_wherever_a_name_is_asked_for() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let siege = Siege::lay(&mut fleet).await;
    let mut client = fleet.client().await;
    let attack = async {
        for name in names() {
            let bare = || run(vec![noop("a")]);
            let mut pinned = noop("a");
            pinned.agent = name.clone();
            let mut needs = noop("a");
            needs.requires = [("k".to_owned(), name.clone())].into();
            let mut key = noop("a");
            key.requires = [(name.clone(), "v".to_owned())].into();
            for (what, spec) in [
                ("a run", v1::RunSpec { name: name.clone(), ..bare() }),
                ("a task", run(vec![noop(&name), noop("other")])),
                ("a dependency", run(vec![orch_tests::client::after(noop("a"), &[name.as_str()])])),
                ("a worker", run(vec![orch_tests::client::worker("a", &name, "x")])),
                ("a label", v1::RunSpec { labels: [(name.clone(), "x".to_owned())].into(), ..bare() }),
                ("a workspace", v1::RunSpec { workspace: name.clone(), ..bare() }),
                ("a program", run(vec![command("a", &name, &[])])),
                ("a requirement's key", run(vec![key])),
                ("an agent", run(vec![pinned])),
                ("a requirement's value", run(vec![needs])),
            ] {
                // What only has to fit, and fits nothing, may be taken: it then waits and is shown as impossible.
                let may_wait = matches!(what, "a program" | "an agent" | "a requirement's value");
                match submit(&mut client, spec, "").await {
                    Ok(_) => assert!(may_wait, "{what} named {name:?} is taken"),
                    Err(status) => is_harmless(what, &name, &status),
                }
            }
            for reference in
                [name.clone(), format!("{name}/1"), format!("adhoc/1/{name}"), format!("adhoc/{name}")]
            {
                let request = v1::GetTaskRequest { r#ref: reference.clone() };
                let status = client.runs.get_task(request).await.expect_err("nothing has that name");
                is_harmless("a reference", &reference, &status);
            }
        }
    };
    Box::pin(siege.borne("names that mean something elsewhere", attack)).await;
}

/// A refusal with its row of the table, that a terminal may show.
fn is_harmless(what: &str, name: &str, status: &Status) {
    let message = status.message();
    assert!(code(status).is_some(), "{what} named {name:?}: {status:?}");
    assert!(message.len() < 2_000, "{what} named {name:.40?}: {} bytes", message.len());
    let harm = |c: char| {
        c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200b}')
    };
    assert!(!message.chars().any(harm), "{what} named {name:?}: {message:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn variables_that_change_programs_reach_no_task_neither_by_request_nor_from_the_agent() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let siege = Siege::lay(&mut fleet).await;
    let mut client = fleet.client().await;
    let hostile = [
        ("LD_LIBRARY_PATH", "/planted"),
        ("NODE_OPTIONS", "--require=/planted"),
        ("GIT_SSH_COMMAND", "planted"),
        ("ANTHROPIC_BASE_URL", "http://planted.test"),
        ("BASH_ENV", "/planted"),
        ("CLAUDE_CODE_USE_BEDROCK", "planted"),
    ];
    let attack = async {
        fleet.spawn_agent_in("box-1", &["--allow-command", "env"], &hostile);
        fleet.wait_connected("box-1");
        // A request has no field for variables; what looks like one is a word like any other.
        let mut spec = run(vec![command("a", "env", &[])]);
        spec.labels =
            hostile.iter().map(|(name, value)| (name.to_lowercase(), (*value).to_owned())).collect();
        let submitted = submit(&mut client, spec, "").await.expect("a run");
        client.finished(&submitted.r#ref).await;
        let task = client.tasks(&submitted.r#ref).await.remove(0);
        assert_eq!(task.outcome(), v1::Outcome::Ok, "{task:?}");
        let environment = answer(&task);
        assert!(environment.contains("HOME="), "{environment}");
        assert!(!environment.contains("planted"), "{environment}");
        for program in ["LD_PRELOAD=/planted env", "env LD_PRELOAD=/planted", "NODE_OPTIONS=x"] {
            let odd = submit(&mut client, run(vec![command("a", program, &[])]), "").await;
            if let Ok(odd) = odd {
                client
                    .runs
                    .cancel_run(v1::CancelRunRequest { r#ref: odd.r#ref, ..Default::default() })
                    .await
                    .expect("cancelled");
            }
        }
    };
    siege.borne("variables that change programs", attack).await;
}
