//! What operators say of agents: requests checked and turned into events.
//! Knows what may be said; what follows is the core's.

use crate::presence::harmless;
use crate::rpc::auth::Caller;
use crate::rpc::status::{from_spec_error, refuse_field};
use crate::submission::check_capability;
use orch_core::event::{Event, Labelling};
use orch_core::ids::Token;
use orch_core::machine::AGENTS_OWN;
use orch_proto::codes::ErrorCode;
use orch_proto::v1;
use std::sync::Arc;
use tonic::Status;

/// Longest reason of a drain, in bytes.
const MAX_REASON: usize = 1_024;
/// Longest name asked for: longer than any certificate's.
const MAX_NAME: usize = 253;
/// Most labels and keys of one request.
const MAX_WORDS: usize = 64;
/// Longest key that may be hidden: what agents may offer.
const MAX_KEY: usize = 320;

/// Something an operator wants, checked.
pub struct Order {
    /// For the engine.
    pub event: Box<dyn FnOnce(Token) -> Event + Send>,
    /// What the audit says of it once it is carried out, such as `drain box-1`.
    pub audit: String,
}

impl std::fmt::Debug for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Order").field("audit", &self.audit).finish_non_exhaustive()
    }
}

/// The name of an agent as it may be looked up and shown.
///
/// # Errors
/// `INVALID_FIELD` when it is empty, `INVALID_NAME` when no agent can have it.
pub fn agent_name(name: &str) -> Result<Arc<str>, Status> {
    if name.is_empty() {
        return Err(refuse_field(ErrorCode::InvalidField, "name", "is missing: name an agent"));
    }
    if name.len() > MAX_NAME || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        let shown: String = name.chars().take(80).flat_map(char::escape_debug).collect();
        return Err(refuse_field(
            ErrorCode::InvalidName,
            "name",
            format!("`{shown}` is no name of an agent"),
        ));
    }
    Ok(Arc::from(name))
}

/// A drain. Its reason names who asked.
///
/// # Errors
/// The field at fault.
pub fn drain(caller: &Caller, request: &v1::DrainAgentRequest) -> Result<Order, Status> {
    let (agent, tenant) = (agent_name(&request.name)?, caller.tenant);
    if request.reason.len() > MAX_REASON {
        return Err(refuse_field(ErrorCode::TooLarge, "reason", format!("at most {MAX_REASON} bytes")));
    }
    let said = harmless(request.reason.trim(), MAX_REASON);
    let because = if said.is_empty() { String::new() } else { format!(": {said}") };
    let reason: Arc<str> = format!("drained by {}{because}", caller.label()).into();
    let audit = format!("drain {agent}{because}");
    let event = Box::new(move |token| Event::DrainRequested { token, tenant, agent, reason });
    Ok(Order { event, audit })
}

/// The end of a drain.
///
/// # Errors
/// The field at fault.
pub fn resume(caller: &Caller, request: &v1::ResumeAgentRequest) -> Result<Order, Status> {
    let (agent, tenant) = (agent_name(&request.name)?, caller.tenant);
    let audit = format!("resume {agent}");
    let event = Box::new(move |token| Event::ResumeRequested { token, tenant, agent });
    Ok(Order { event, audit })
}

/// An agent to be known no more.
///
/// # Errors
/// The field at fault.
pub fn forget(caller: &Caller, request: &v1::ForgetAgentRequest) -> Result<Order, Status> {
    let (agent, tenant) = (agent_name(&request.name)?, caller.tenant);
    let audit = format!("forget {agent}");
    let event = Box::new(move |token| Event::ForgetRequested { token, tenant, agent });
    Ok(Order { event, audit })
}

/// A change of labels.
///
/// # Errors
/// The field at fault.
pub fn label(caller: &Caller, request: v1::LabelAgentRequest) -> Result<Order, Status> {
    let (agent, tenant) = (agent_name(&request.name)?, caller.tenant);
    let v1::LabelAgentRequest { set, remove, restore, .. } = request;
    if set.is_empty() && remove.is_empty() && !restore {
        let message = "nothing to change: give key=value to add, or a key to take away";
        return Err(refuse_field(ErrorCode::InvalidField, "set", message));
    }
    if set.len() + remove.len() > MAX_WORDS {
        return Err(refuse_field(ErrorCode::TooLarge, "set", format!("at most {MAX_WORDS} at a time")));
    }
    for (at, word) in set.iter().enumerate() {
        let field = format!("set[{at}]");
        if let Some((key, _)) = word.split_once('=') {
            check_key(&field, key)?;
        }
        check_capability(&field, word).map_err(|error| from_spec_error(&error))?;
    }
    for (at, key) in remove.iter().enumerate() {
        let field = format!("remove[{at}]");
        check_key(&field, key)?;
        if set.iter().any(|word| word.split_once('=').is_some_and(|(other, _)| other == key)) {
            return Err(refuse_field(ErrorCode::InvalidField, &field, format!("`{key}` is also set")));
        }
    }
    let restored = if restore { " restore" } else { "" };
    let removed = remove.iter().map(|key| format!(" {key}-")).collect::<String>();
    let audit = format!("label {agent}{restored}{removed} {}", set.join(" ")).trim_end().to_owned();
    let words = |words: Vec<String>| words.into_iter().map(Arc::from).collect();
    let change = Labelling { set: words(set), remove: words(remove), restore };
    let event = Box::new(move |token| Event::LabelRequested { token, tenant, agent, change });
    Ok(Order { event, audit })
}

fn check_key(field: &str, key: &str) -> Result<(), Status> {
    if AGENTS_OWN.contains(&key) {
        let message = format!("`{key}` is the agent's own: it can be neither set nor taken away here");
        return Err(refuse_field(ErrorCode::InvalidField, field, message));
    }
    let shaped =
        (1..=MAX_KEY).contains(&key.len()) && !key.contains('=') && !key.chars().any(char::is_control);
    if shaped {
        return Ok(());
    }
    let shown: String = key.chars().take(80).flat_map(char::escape_debug).collect();
    Err(refuse_field(ErrorCode::InvalidField, field, format!("`{shown}` is no key of a capability")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::auth::DEFAULT_TENANT;
    use orch_certs::{Identity, Role};

    fn caller() -> Caller {
        let identity = Identity::new("orch.local", Role::Admin, "default", "ana").unwrap();
        Caller { identity, tenant: DEFAULT_TENANT }
    }

    fn label_as(set: &[&str], remove: &[&str]) -> Result<Labelling, Status> {
        let words = |words: &[&str]| words.iter().map(ToString::to_string).collect();
        let request = v1::LabelAgentRequest {
            name: "box-1".into(),
            set: words(set),
            remove: words(remove),
            restore: false,
        };
        let event = (label(&caller(), request)?.event)(Token(1));
        let Event::LabelRequested { change, .. } = event else { panic!("another event") };
        Ok(change)
    }

    #[test]
    fn a_drain_says_who_and_why_and_nothing_that_could_reach_a_terminal() {
        let reason = |reason: &str| {
            let request = v1::DrainAgentRequest { name: "box-1".into(), reason: reason.into() };
            let event = (drain(&caller(), &request).unwrap().event)(Token(1));
            let Event::DrainRequested { reason, .. } = event else { panic!("another event") };
            reason.to_string()
        };
        assert_eq!(reason(""), "drained by admin/default/ana");
        assert_eq!(reason(" new kernel\n"), "drained by admin/default/ana: new kernel");
        assert_eq!(reason("a\u{1b}[31mb"), "drained by admin/default/ana: a [31mb");
        let long = v1::DrainAgentRequest { name: "box-1".into(), reason: "x".repeat(MAX_REASON + 1) };
        assert!(drain(&caller(), &long).is_err());
    }

    #[test]
    fn labels_are_capabilities_that_a_task_may_require_and_not_the_agents_own() {
        let good = label_as(&["gpu=a100", "gpu=h100", "team/x.y=z"], &["disk"]);
        assert!(good.is_err(), "a key of a requirement has no slash");
        let good = label_as(&["gpu=a100", "gpu=h100"], &["disk"]).unwrap();
        assert_eq!((good.set.len(), good.remove.len()), (2, 1));
        for (set, remove) in [
            (&["gpu"][..], &[][..]),
            (&["=yes"], &[]),
            (&["gpu="], &[]),
            (&["gpu=a b"], &[]),
            (&["runner=noop"], &[]),
            (&["pool=studio"], &[]),
            (&["program=/bin/sh"], &[]),
            (&["agent=box-2"], &[]),
            (&[], &["runner"]),
            (&[], &["pool"]),
            (&[], &["program"]),
            (&[], &[""]),
            (&[], &["a=b"]),
            (&[], &["a\u{1b}"]),
            (&["gpu=yes"], &["gpu"]),
            (&[], &[]),
        ] {
            let status = label_as(set, remove).unwrap_err();
            assert_eq!(status.code(), tonic::Code::InvalidArgument, "{set:?} {remove:?}");
        }
    }

    #[test]
    fn names_that_no_agent_has_are_refused_before_they_are_looked_up() {
        assert!(agent_name("box-1").is_ok());
        for bad in ["", "a b", "\u{1b}", &"x".repeat(300)] {
            assert!(agent_name(bad).is_err(), "{bad:?}");
        }
    }
}
