//! Writes samples for the targets whose input is no text into `$ORCH_SEEDS/<target>/`: short ones, of every kind.
//! Is a fuzz target only by its form: what is built with the fuzzer's instrumentation must be linked with the fuzzer.
#![no_main]

#![allow(unreachable_code, reason = "the macro goes on behind the exit")]

use orch_proto::store::v1 as record;
use orch_proto::v1::{self, agent_item, coordinator_item};
use prost::Message;
use std::path::PathBuf;

libfuzzer_sys::fuzz_target!(
    init: {
        write_all();
        std::process::exit(0);
    },
    |_bytes: &[u8]| {}
);

fn put(target: &str, name: &str, first: Option<u8>, bytes: &[u8]) {
    let dir =
        PathBuf::from(std::env::var_os("ORCH_SEEDS").expect("ORCH_SEEDS names a directory")).join(target);
    std::fs::create_dir_all(&dir).expect("a directory");
    let all: Vec<u8> = first.into_iter().chain(bytes.iter().copied()).collect();
    std::fs::write(dir.join(name), all).expect("written");
}

fn attempt() -> Option<v1::AttemptId> {
    Some(v1::AttemptId { run_id: 3, task_index: 1, attempt: 2 })
}

fn hello() -> v1::Hello {
    v1::Hello {
        protocol_min: 1,
        protocol_max: 2,
        agent: "box-1".into(),
        incarnation: vec![9; 16],
        epoch_seen: 7,
        slots: 4,
        capabilities: vec!["gpu=yes".into(), "workspace=dance".into()],
        runners: vec!["claude".into(), "noop".into()],
        inventory: vec![v1::InventoryItem { attempt: attempt(), state: 2 }],
        conversations: vec![v1::KeptConversation { run_id: 3, task_index: 1 }],
        pools: vec![v1::Pool { name: "team".into(), kind: 1, health: 1, ..Default::default() }],
        ..Default::default()
    }
}

fn report() -> v1::Report {
    v1::Report {
        attempt: attempt(),
        outcome: 1,
        detail: "done".into(),
        answer: Some(v1::Text { body: Some(v1::text::Body::Inline("yes".into())) }),
        usage: Some(v1::Usage {
            models: vec![v1::ModelUsage { model: "haiku".into(), input_tokens: 10, ..Default::default() }],
            cost_micro_usd: 1_000,
            estimated: true,
        }),
        digest: vec![7; 32],
        ..Default::default()
    }
}

fn spec() -> v1::RunSpec {
    let task =
        |id: &str, runner| v1::TaskSpec { task_id: id.into(), runner: Some(runner), ..Default::default() };
    let worker =
        v1::WorkerTask { worker: "anga".into(), description: "Say yes.".into(), ..Default::default() };
    let command = v1::CommandTask { program: "ls".into(), args: vec!["-l".into()] };
    let mut last = task("c", v1::task_spec::Runner::Noop(v1::NoopTask {}));
    last.dependencies = vec!["a".into(), "b".into()];
    v1::RunSpec {
        name: "sample".into(),
        labels: [("who".to_owned(), "ana".to_owned())].into(),
        tasks: vec![
            task("a", v1::task_spec::Runner::Worker(worker)),
            task("b", v1::task_spec::Runner::Command(command)),
            last,
        ],
        ..Default::default()
    }
}

fn write_all() {
    put("hello", "whole", None, &hello().encode_to_vec());
    put("submission", "three-tasks", None, &spec().encode_to_vec());
    let said = [
        agent_item::Item::Hello(hello()),
        agent_item::Item::Heartbeat(v1::Heartbeat {
            seq: 4,
            held: vec![v1::HeldAttempt { attempt: attempt(), now: "reading".into(), ..Default::default() }],
            ..Default::default()
        }),
        agent_item::Item::Report(report()),
    ];
    let items = said.map(|item| v1::AgentItem { item: Some(item) }).to_vec();
    put("session", "agent", Some(0), &v1::AgentMessage { items }.encode_to_vec());
    let claude = v1::ClaudeAssignment {
        session_id: "4c7cbb6e-0d3d-5f2c-9df0-6f4a0c3c8f11".into(),
        model: "haiku".into(),
        ..Default::default()
    };
    let assignment = v1::Assignment {
        attempt: attempt(),
        r#ref: "adhoc/1/a".into(),
        runner: Some(v1::assignment::Runner::Claude(claude)),
        epoch: 7,
        inputs: vec![v1::Input { task_id: "b".into(), state: 8, outcome: 1, ..Default::default() }],
        ..Default::default()
    };
    let items = vec![v1::CoordinatorItem { item: Some(coordinator_item::Item::Assign(assignment)) }];
    put("session", "coordinator", Some(1), &v1::CoordinatorMessage { items }.encode_to_vec());
    let request = v1::SubmitRunRequest { spec: Some(spec()), ..Default::default() }.encode_to_vec();
    for number in (0..150).step_by(10) {
        put("wire", &format!("message-{number}"), Some(number), &request);
    }
    put(
        "spool",
        "entries",
        None,
        b"\x00\x01\x01payload..\x01\x01\x01.........\x02\x01\x01report...\x03\x01\x01.........",
    );
    put("store_record", "payload", None, b"\x40\x00a payload");
    put("transfer", "records", None, b"record number onerecord number two");
    kept();
}

fn kept() {
    let run = record::RunRecord {
        name: "sample".into(),
        number: 4,
        state: 2,
        task_count: 3,
        spec_digest: vec![7; 32],
        created_ms: 1_795_000_000_000,
        ..Default::default()
    };
    put("persist", "run", Some(0), &run.encode_to_vec());
    let task = record::TaskRecord {
        state: 3,
        attempt: 2,
        agent: "box-1".into(),
        granted_ms: 1_795_000_000_000,
        attempts: vec![record::AttemptRecord { number: 1, agent: "box-2".into(), ..Default::default() }],
        ..Default::default()
    };
    put("persist", "task", Some(1), &task.encode_to_vec());
    let spec = record::StoredSpec {
        task_id: "a".into(),
        runner: Some(record::stored_spec::Runner::Noop(v1::NoopTask {})),
        dependencies: vec![1, 2],
        requires: vec!["runner=noop".into()],
        ..Default::default()
    };
    put("persist", "spec", Some(2), &spec.encode_to_vec());
    let page = record::SpecPage { specs: vec![spec.clone(), spec], ..Default::default() };
    put("persist", "page", Some(3), &page.encode_to_vec());
    let agent = record::AgentRecord { slots: 4, capabilities: vec!["gpu=yes".into()], ..Default::default() };
    put("persist", "agent", Some(4), &agent.encode_to_vec());
    let request = record::RequestRecord { request_id: "k".into(), digest: vec![7; 32], ..Default::default() };
    put("persist", "request", Some(5), &request.encode_to_vec());
}
