//! The first words of an agent, checked before anything else runs.
//! Knows the rules of a Hello; refuses to know the engine.

use crate::rpc::convert::{attempt_key, held_state};
use crate::rpc::session::{LIMITS, agent_pools};
use crate::rpc::status::{refuse, refuse_field};
use orch_certs::Identity;
use orch_core::event::{AgentHello, InventoryItem};
use orch_core::ids::{RunId, SessionId, TaskIndex, TaskKey, TenantId};
use orch_proto::codes::ErrorCode;
use orch_proto::{protocol_max, protocol_min, v1};
use std::sync::Arc;
use tonic::Status;

/// Most slots an agent may offer.
const MAX_SLOTS: u32 = 10_000;
/// Most capabilities an agent may offer.
const MAX_CAPABILITIES: usize = 256;
/// Longest capability in bytes.
const MAX_CAPABILITY_BYTES: usize = 320;
/// All capabilities of an agent together: they rest in its record, which has at most 4 KiB.
const MAX_CAPABILITIES_BYTES: usize = 3_000;
/// Most attempts an agent may hold: far more than slots and prefetch allow.
const MAX_INVENTORY: usize = 20_000;
/// Most kept conversations of an agent that are taken into account.
const MAX_CONVERSATIONS: usize = 10_000;

/// The Hello of the first frame.
///
/// # Errors
/// `PROTOCOL_VIOLATION` when the first item is something else, or there is none.
pub fn first_hello(frame: v1::AgentMessage) -> Result<(v1::Hello, Vec<v1::AgentItem>), Status> {
    let mut items = frame.items.into_iter();
    match items.next().and_then(|item| item.item) {
        Some(v1::agent_item::Item::Hello(hello)) => Ok((hello, items.collect())),
        Some(_) | None => {
            Err(refuse(ErrorCode::ProtocolViolation, "the first item of a session must be Hello"))
        }
    }
}

/// The protocol that both sides speak.
///
/// # Errors
/// `PROTOCOL_MISMATCH` when there is none.
pub fn negotiate(hello: &v1::Hello) -> Result<u32, Status> {
    let (lowest, most) = (protocol_min(), protocol_max());
    let highest = hello.protocol_max.min(most);
    if highest >= hello.protocol_min.max(lowest) && hello.protocol_min <= hello.protocol_max {
        return Ok(highest);
    }
    let message = format!(
        "the agent speaks protocol {} to {}, this coordinator {lowest} to {most}",
        hello.protocol_min, hello.protocol_max
    );
    Err(refuse(ErrorCode::ProtocolMismatch, message))
}

/// Refuses to speak for a cluster whose agents have obeyed a later coordinator: this one runs on a copy of its data, or
/// on an old one that was put in place by hand.
///
/// # Errors
/// `COORDINATOR_OUTDATED`.
pub fn check_epoch(hello: &v1::Hello, cluster: &[u8; 16], epoch: u64) -> Result<(), Status> {
    if hello.cluster_seen != cluster || hello.epoch_seen <= epoch {
        return Ok(());
    }
    let seen = hello.epoch_seen;
    let message =
        format!("the agent has obeyed epoch {seen} of this cluster, this coordinator is at epoch {epoch}");
    Err(refuse(ErrorCode::CoordinatorOutdated, message))
}

/// The Hello as the core takes it, but for its session. `protocol` is what was negotiated.
///
/// # Errors
/// The field at fault: a name that is not the certificate's, an attempt 0, an unknown state, too much of something.
pub fn check_hello(
    hello: &v1::Hello,
    identity: &Identity,
    tenant: TenantId,
    protocol: u32,
) -> Result<AgentHello, Status> {
    if hello.agent != identity.name() {
        let shown: String = hello.agent.chars().take(80).flat_map(char::escape_debug).collect();
        let message = format!("the agent calls itself `{shown}`, its certificate says `{}`", identity.name());
        return Err(refuse(ErrorCode::AgentNameMismatch, message));
    }
    let incarnation = <[u8; 16]>::try_from(hello.incarnation.as_slice())
        .map_err(|_| refuse_field(ErrorCode::ProtocolViolation, "incarnation", "must have 16 bytes"))?;
    if hello.slots == 0 || hello.slots > MAX_SLOTS {
        let message = format!("{}; between 1 and {MAX_SLOTS}", hello.slots);
        return Err(refuse_field(ErrorCode::ProtocolViolation, "slots", message));
    }
    Ok(AgentHello {
        session: SessionId(0),
        tenant,
        name: Arc::from(identity.name()),
        incarnation,
        slots: hello.slots,
        capabilities: capabilities(hello)?,
        inventory: inventory(&hello.inventory)?,
        conversations: conversations(&hello.conversations),
        pools: agent_pools(&hello.pools, protocol)?,
        keeps_allowances: protocol >= LIMITS,
    })
}

fn capabilities(hello: &v1::Hello) -> Result<Vec<Arc<str>>, Status> {
    let bad = |message: String| refuse_field(ErrorCode::ProtocolViolation, "capabilities", message);
    if hello.capabilities.len() + hello.runners.len() > MAX_CAPABILITIES {
        return Err(bad(format!("at most {MAX_CAPABILITIES}")));
    }
    let runners = hello.runners.iter().map(|runner| format!("runner={runner}"));
    let mut words: Vec<Arc<str>> = Vec::with_capacity(hello.capabilities.len() + hello.runners.len());
    for word in hello.capabilities.iter().cloned().chain(runners) {
        let shaped = word.split_once('=').is_some_and(|(key, value)| !key.is_empty() && !value.is_empty());
        if !shaped || word.len() > MAX_CAPABILITY_BYTES || word.chars().any(char::is_control) {
            let shown: String = word.chars().take(80).flat_map(char::escape_debug).collect();
            return Err(bad(format!("`{shown}` is not key=value")));
        }
        words.push(Arc::from(word));
    }
    words.sort_unstable();
    words.dedup();
    let bytes: usize = words.iter().map(|word| word.len() + 3).sum();
    if bytes > MAX_CAPABILITIES_BYTES {
        return Err(bad(format!("{bytes} bytes together; at most {MAX_CAPABILITIES_BYTES}")));
    }
    Ok(words)
}

fn inventory(items: &[v1::InventoryItem]) -> Result<Vec<InventoryItem>, Status> {
    if items.len() > MAX_INVENTORY {
        let message = format!("{} attempts; at most {MAX_INVENTORY}", items.len());
        return Err(refuse_field(ErrorCode::ProtocolViolation, "inventory", message));
    }
    items
        .iter()
        .enumerate()
        .map(|(at, item)| {
            let attempt = attempt_key(item.attempt.as_ref());
            let state = v1::HeldState::try_from(item.state).ok().and_then(held_state);
            attempt.zip(state).map(|(attempt, state)| InventoryItem { attempt, state }).ok_or_else(|| {
                refuse_field(
                    ErrorCode::ProtocolViolation,
                    &format!("inventory[{at}]"),
                    "no such attempt or state",
                )
            })
        })
        .collect()
}

fn conversations(kept: &[v1::KeptConversation]) -> Vec<TaskKey> {
    kept.iter()
        .take(MAX_CONVERSATIONS)
        .map(|kept| TaskKey { run: RunId(kept.run_id), index: TaskIndex(kept.task_index) })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::auth::DEFAULT_TENANT;
    use orch_certs::Role;
    use orch_proto::{PROTOCOL_MAX, PROTOCOL_MIN};

    fn identity() -> Identity {
        Identity::new("orch.local", Role::Agent, "default", "box-1").unwrap()
    }

    fn hello() -> v1::Hello {
        v1::Hello {
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            agent: "box-1".into(),
            incarnation: vec![1; 16],
            slots: 2,
            capabilities: vec!["gpu=yes".into(), "gpu=yes".into()],
            runners: vec!["claude".into()],
            ..Default::default()
        }
    }

    fn check(hello: &v1::Hello) -> Result<AgentHello, Status> {
        check_hello(hello, &identity(), DEFAULT_TENANT, PROTOCOL_MAX)
    }

    #[test]
    fn a_good_hello_becomes_an_event() {
        let event = check(&hello()).unwrap();
        let words: Vec<_> = event.capabilities.iter().map(|word| &**word).collect();
        assert_eq!(words, ["gpu=yes", "runner=claude"]);
    }

    #[test]
    fn the_first_item_must_be_hello() {
        let other = v1::AgentItem { item: Some(v1::agent_item::Item::Draining(v1::Draining {})) };
        for items in [vec![], vec![v1::AgentItem { item: None }], vec![other]] {
            let status = first_hello(v1::AgentMessage { items }).unwrap_err();
            assert_eq!(status.code(), tonic::Code::InvalidArgument);
        }
    }

    #[test]
    fn the_name_is_the_certificates() {
        let mut lie = hello();
        lie.agent = "box-2".into();
        assert_eq!(check(&lie).unwrap_err().code(), tonic::Code::PermissionDenied);
    }

    #[test]
    fn protocols_must_overlap() {
        let range =
            |protocol_min, protocol_max| negotiate(&v1::Hello { protocol_min, protocol_max, ..hello() });
        assert_eq!(range(PROTOCOL_MIN, PROTOCOL_MAX + 5).unwrap(), PROTOCOL_MAX);
        assert!(range(PROTOCOL_MAX + 1, PROTOCOL_MAX + 2).is_err());
        assert!(range(0, PROTOCOL_MIN - 1).is_err());
        assert!(range(PROTOCOL_MAX, PROTOCOL_MIN - 1).is_err());
    }

    #[test]
    fn a_later_epoch_of_the_same_cluster_is_not_spoken_over() {
        let seen = |epoch_seen, cluster: [u8; 16]| {
            let hello = v1::Hello { epoch_seen, cluster_seen: cluster.to_vec(), ..hello() };
            check_epoch(&hello, &[1; 16], 7).map_err(|status| status.code())
        };
        assert_eq!(seen(7, [1; 16]), Ok(()));
        assert_eq!(seen(9, [2; 16]), Ok(()), "another cluster counts for itself");
        assert_eq!(seen(9, [1; 16]), Err(tonic::Code::FailedPrecondition));
        assert_eq!(check_epoch(&v1::Hello { epoch_seen: 9, ..hello() }, &[1; 16], 7).map_err(drop), Ok(()));
    }

    #[test]
    fn damaged_fields_are_refused_by_name() {
        let item = |attempt, state| v1::InventoryItem {
            attempt: Some(v1::AttemptId { run_id: 1, task_index: 0, attempt }),
            state,
        };
        let cases = [
            v1::Hello { incarnation: vec![1; 3], ..hello() },
            v1::Hello { slots: 0, ..hello() },
            v1::Hello { slots: u32::MAX, ..hello() },
            v1::Hello { capabilities: vec!["gpu".into()], ..hello() },
            v1::Hello { capabilities: vec!["a=\u{1b}".into()], ..hello() },
            v1::Hello { runners: vec!["\u{1b}[31m".into()], ..hello() },
            v1::Hello {
                capabilities: (0..200).map(|at| format!("capability-{at}=yes")).collect(),
                ..hello()
            },
            v1::Hello { runners: vec![String::new()], ..hello() },
            v1::Hello { runners: vec!["r".repeat(MAX_CAPABILITY_BYTES)], ..hello() },
            v1::Hello { inventory: vec![item(0, 1)], ..hello() },
            v1::Hello { inventory: vec![item(1, 77)], ..hello() },
            v1::Hello { inventory: vec![v1::InventoryItem { attempt: None, state: 1 }], ..hello() },
            v1::Hello { inventory: vec![item(1, 1); MAX_INVENTORY + 1], ..hello() },
        ];
        for case in cases {
            assert_eq!(check(&case).unwrap_err().code(), tonic::Code::InvalidArgument);
        }
    }
}
