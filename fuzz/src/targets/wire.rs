//! What comes over the network.

use crate::given::with_given;
use crate::messages;
use orch_agent::session::convert::{self, AssignedWork};
use orch_certs::{Identity, Role};
use orch_coordinator::rpc::convert as coordinators;
use orch_coordinator::rpc::hello::{check_hello, first_hello, negotiate};
use orch_coordinator::submission::CheckedRun;
use orch_core::ids::TenantId;
use orch_core::time::Span;
use orch_proto::v1::{self, agent_item, coordinator_item};
use prost::Message as _;
use std::sync::LazyLock;

static AGENT: LazyLock<Identity> =
    LazyLock::new(|| Identity::new("orch.test", Role::Agent, "default", "box-1").expect("an identity"));

/// Any message of `orch.v1`: the first byte says which. What it says is said the same way again.
pub fn wire(bytes: &[u8]) {
    if let Some((&number, rest)) = bytes.split_first() {
        messages::read(number, rest);
    }
}

/// The first words of an agent with the right name and as it came.
pub fn hello(bytes: &[u8]) {
    let Ok(hello) = v1::Hello::decode(bytes) else { return };
    greeted(&hello);
    greeted(&v1::Hello { agent: "box-1".into(), incarnation: vec![9; 16], slots: 4, ..hello });
}

fn greeted(hello: &v1::Hello) {
    let negotiated = negotiate(hello);
    if let Ok(protocol) = &negotiated {
        assert!((hello.protocol_min..=hello.protocol_max).contains(protocol));
    }
    let protocol = negotiated.unwrap_or(orch_proto::PROTOCOL_MAX);
    if let Ok(joined) = check_hello(hello, &AGENT, TenantId(1), protocol) {
        assert_eq!(&*joined.name, "box-1");
        assert!(joined.slots > 0);
        assert!(joined.capabilities.iter().all(|one| one.contains('=')), "{:?}", joined.capabilities);
    }
}

/// A session from both ends: the first byte says whether an agent or a coordinator talks.
pub fn session(bytes: &[u8]) {
    let Some((side, rest)) = bytes.split_first() else { return };
    if side % 2 == 0 {
        if let Ok(frame) = v1::AgentMessage::decode(rest) {
            agent_says(frame);
        }
    } else if let Ok(frame) = v1::CoordinatorMessage::decode(rest) {
        for item in frame.items {
            coordinator_says(item);
        }
    }
}

fn agent_says(frame: v1::AgentMessage) {
    let items = frame.items.clone();
    if let Ok((hello, rest)) = first_hello(frame) {
        assert_eq!(rest.len() + 1, items.len());
        greeted(&hello);
    }
    for item in items.into_iter().filter_map(|item| item.item) {
        match item {
            agent_item::Item::Report(report) => reported(&report),
            agent_item::Item::Heartbeat(heartbeat) => {
                for held in &heartbeat.held {
                    let _ = coordinators::attempt_key(held.attempt.as_ref());
                    let _ = orch_coordinator::presence::printable(&held.now);
                }
            }
            agent_item::Item::Hello(_)
            | agent_item::Item::Accepted(_)
            | agent_item::Item::Rejected(_)
            | agent_item::Item::Draining(_)
            | agent_item::Item::Facts(_)
            | agent_item::Item::Limits(_)
            | agent_item::Item::LimitSignal(_)
            | agent_item::Item::Spending(_)
            | agent_item::Item::Warmed(_) => {}
        }
    }
}

fn reported(report: &v1::Report) {
    let key = coordinators::attempt_key(report.attempt.as_ref());
    assert!(key.is_none_or(|key| key.attempt.0 > 0));
    let _ = coordinators::outcome_from_wire(report.outcome);
    for length in report.duration.iter().chain(&report.retry_after) {
        let span = coordinators::span(length);
        assert_eq!(coordinators::span(&coordinators::duration(span)), span.min(Span(u64::MAX)), "{length:?}");
    }
    if let Some(usage) = &report.usage {
        let told = coordinators::usage_from_wire(usage);
        let again = coordinators::usage_from_wire(&coordinators::usage(&told));
        assert_eq!(format!("{told:?}"), format!("{again:?}"));
    }
}

fn coordinator_says(item: v1::CoordinatorItem) {
    let Some(coordinator_item::Item::Assign(assignment)) = item.item else { return };
    let Ok(assigned) = convert::assigned(assignment) else { return };
    assert!(assigned.key.attempt > 0);
    let _ = assigned.follows();
    if let convert::AssignedInputs::Here(inputs) = &assigned.inputs {
        inputs.iter().for_each(|input| drop(convert::material::input(input)));
    }
    if let AssignedWork::Claude(claude) = &assigned.work {
        // Some bytes as the definition of a worker: those of the assignment itself.
        let definition = claude.encode_to_vec();
        let prompt = orch_agent::runner::Prompt::Text("x".into());
        let _ = convert::claude_work(claude, &definition, prompt, String::new(), String::new(), None);
    }
}

/// A run as a client submits it.
pub fn submission(bytes: &[u8]) {
    let Ok(spec) = v1::RunSpec::decode(bytes) else { return };
    with_given(|given| {
        let first = CheckedRun::check(spec.clone(), given).map_err(|error| error.to_string());
        if let Err(message) = &first {
            assert!(!message.chars().any(|c| c == '\u{1b}' || c == '\0'), "{message:?}");
        }
        let again = CheckedRun::check(spec, given).map_err(|error| error.to_string());
        assert_eq!(first.err(), again.err());
    });
}
