//! References as people write them: `name/number[/task]` and `@last`.
//! Knows the form; refuses to know whether the thing exists.

use crate::rpc::auth::Caller;
use crate::rpc::status::refuse;
use orch_core::event::{RunTarget, Target};
use orch_core::ids::TenantId;
use orch_proto::codes::ErrorCode;
use std::sync::Arc;
use tonic::Status;

/// The caller's newest run.
const LAST: &str = "@last";
/// Longest reference: two names of 63 bytes, a number and two slashes.
const MAX_REF_BYTES: usize = 160;

/// Parses a reference on behalf of `caller`.
///
/// # Errors
/// `INVALID_REF` when it has another form.
pub fn parse_ref(text: &str, caller: &Caller) -> Result<Target, Status> {
    let bad = || {
        let shown: String = text.chars().take(80).flat_map(char::escape_debug).collect();
        refuse(ErrorCode::InvalidRef, format!("`{shown}` is not name/number, name/number/task or {LAST}"))
    };
    if text.len() > MAX_REF_BYTES {
        return Err(bad());
    }
    let mut parts = text.split('/');
    let run = match parts.next() {
        Some(LAST) => RunTarget::LastOf(Arc::from(caller.label())),
        Some(name) if is_word(name) => {
            let number = parts.next().and_then(number).ok_or_else(bad)?;
            RunTarget::Ref { name: Arc::from(name), number }
        }
        Some(_) | None => return Err(bad()),
    };
    let task = match parts.next() {
        None => None,
        Some(task) if is_word(task) => Some(Arc::from(task)),
        Some(_) => return Err(bad()),
    };
    if parts.next().is_some() {
        return Err(bad());
    }
    Ok(Target { tenant: caller.tenant, run, task })
}

/// The run that `name/number` names, as orch writes it.
///
/// # Errors
/// `INVALID_REF` when it has another form.
pub fn parse_run_ref(tenant: TenantId, text: &str) -> Result<Target, Status> {
    let parsed = text.rsplit_once('/').and_then(|(name, digits)| Some((name, number(digits)?)));
    let (name, number) =
        parsed.ok_or_else(|| refuse(ErrorCode::InvalidRef, format!("`{text}` is not name/number")))?;
    Ok(Target { tenant, run: RunTarget::Ref { name: Arc::from(name), number }, task: None })
}

/// Whether it could be a name: whatever is sent back in a refusal may end on a terminal.
fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// One spelling for each number: no sign, no leading zeros.
fn number(digits: &str) -> Option<u64> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
    digits.parse().ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::auth::DEFAULT_TENANT;
    use orch_certs::{Identity, Role};

    fn caller() -> Caller {
        let identity = Identity::new("orch.local", Role::Client, "default", "ana").unwrap();
        Caller { identity, tenant: DEFAULT_TENANT }
    }

    fn named(name: &str, number: u64, task: Option<&str>) -> Target {
        Target {
            tenant: DEFAULT_TENANT,
            run: RunTarget::Ref { name: Arc::from(name), number },
            task: task.map(Arc::from),
        }
    }

    #[test]
    fn references_are_read() {
        assert_eq!(parse_ref("adhoc/129", &caller()).unwrap(), named("adhoc", 129, None));
        assert_eq!(parse_ref("adhoc/1/plan", &caller()).unwrap(), named("adhoc", 1, Some("plan")));
        let last = parse_ref("@last/plan", &caller()).unwrap();
        assert_eq!(last.run, RunTarget::LastOf(Arc::from("client/default/ana")));
        assert_eq!(last.task.as_deref(), Some("plan"));
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "",
            "/",
            "adhoc",
            "adhoc/",
            "adhoc/0",
            "adhoc/x",
            "adhoc/1/",
            "adhoc/1/a/b",
            "/1",
            "adhoc/-1",
            "adhoc/+1",
            "adhoc/01",
            "ad\u{1b}hoc/1",
            "adhoc/1/\u{7f}",
            &"a".repeat(200),
        ] {
            let status = parse_ref(text, &caller()).expect_err(text);
            assert_eq!(status.code(), tonic::Code::InvalidArgument, "{text}");
        }
    }
}
