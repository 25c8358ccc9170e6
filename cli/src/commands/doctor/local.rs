//! What can be looked at on this machine: the context, the certificate, its key, and the way to the coordinator.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::Uri;
use orch_certs::ClientTls;
use orch_certs::dial::Connector;

use super::{days, failed, ok, skip, wrong};
use crate::client::{Client, tls};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output::figures::short;
use crate::output::view::operate::{CheckState, CheckView};
use crate::session::Session;

/// Below so many days, a certificate wants attention.
const SOON: u64 = 14;

/// What this machine has.
pub(super) struct Local {
    context: Outcome<Context>,
    tls: Option<Outcome<Arc<ClientTls>>>,
    now: SystemTime,
}

/// Looks; nothing is dialled.
pub(super) fn look(session: &Session) -> Local {
    let (context, now) = (session.context(), SystemTime::now());
    let tls = context.as_ref().ok().map(|context| tls(context, now));
    Local { context, tls, now }
}

impl Local {
    /// The checks of what is here.
    pub(super) fn checks(&self) -> Vec<CheckView> {
        let context = match &self.context {
            Ok(context) => context,
            Err(failure) => {
                let none = "there is no context to take it from";
                return vec![failed("config", failure), skip("certificate", none), skip("key file", none)];
            }
        };
        let found = format!("{}, from {}", context.endpoint, context.origin);
        let config = if context.notes.is_empty() {
            ok("config", found)
        } else {
            let fixes = context.notes.iter().cloned();
            wrong("config", CheckState::Warning, found, fixes)
        };
        vec![config, self.certificate(), key(&context.tls.key)]
    }

    fn certificate(&self) -> CheckView {
        const NAME: &str = "certificate";
        let tls = match &self.tls {
            Some(Ok(tls)) => tls,
            Some(Err(failure)) => return failed(NAME, failure),
            None => return skip(NAME, "there is no context to take it from"),
        };
        let who = tls.identity();
        let who = format!("role {}, name {}, of {};", who.role(), who.name(), who.domain());
        expiry(
            NAME,
            &who,
            tls.expires(),
            self.now,
            "orchctl certs issue makes a new one, where the authority is",
        )
    }

    /// Dials the coordinator, and makes the client that asks it.
    pub(super) async fn reach(&self, session: &Session) -> Result<(CheckView, Client), CheckView> {
        const NAME: &str = "network";
        let client = session.client();
        let (Ok(context), Some(Ok(tls))) = (&self.context, &self.tls) else {
            // A client may come from elsewhere; without one there is nobody to dial.
            return match client {
                Ok(client) => Ok((skip(NAME, "nothing says where to dial"), client)),
                Err(_) => Err(skip(NAME, "there is no usable certificate to dial with")),
            };
        };
        let began = Instant::now();
        let uri: Uri = context.endpoint.parse().map_err(|_| skip(NAME, "the endpoint is not a URL"))?;
        let stream = match Connector::new(Arc::clone(tls)).dial(&uri).await {
            Ok(stream) => stream,
            Err(error) => return Err(failed(NAME, &Failure::from_dial(&error))),
        };
        let version = stream.protocol_version().unwrap_or_else(|| "TLS".to_owned());
        let version = version.replace("TLSv", "TLS ").replace('_', ".");
        let target = uri.authority().map_or_else(|| context.endpoint.clone(), ToString::to_string);
        let found = format!("{target}, {version}, connected in {}", short(began.elapsed()));
        match client {
            Ok(client) => Ok((ok(NAME, found), client)),
            Err(failure) => Err(failed(NAME, &failure)),
        }
    }
}

/// The mode of the key. One that others can read is refused by every command.
fn key(path: &Path) -> CheckView {
    const NAME: &str = "key file";
    match fs::metadata(path).map(|metadata| metadata.permissions().mode() & 0o777) {
        Ok(mode) if mode & 0o077 == 0 => ok(NAME, format!("{}, mode {mode:04o}", path.display())),
        Ok(mode) => wrong(
            NAME,
            CheckState::Failed,
            format!("{} has mode {mode:04o}: others can read it", path.display()),
            [format!("chmod 600 {}", path.display())],
        ),
        Err(error) => wrong(NAME, CheckState::Failed, format!("{}: {error}", path.display()), []),
    }
}

/// A certificate by the time it has left; `what` is the beginning of a sentence about it.
pub(super) fn expiry(
    name: &'static str,
    what: &str,
    expires: Option<SystemTime>,
    now: SystemTime,
    fix: &str,
) -> CheckView {
    let Some(expires) = expires else { return ok(name, format!("{what} does not say when it expires")) };
    match expires.duration_since(now).map(days) {
        Ok(left) if left >= SOON => ok(name, format!("{what} expires in {left} days")),
        Ok(left) => {
            wrong(name, CheckState::Warning, format!("{what} expires in {left} days"), [fix.to_owned()])
        }
        Err(_) => wrong(name, CheckState::Failed, format!("{what} has expired"), [fix.to_owned()]),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_certificate_wants_attention_in_its_last_two_weeks() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let in_days = |days: u64| {
            expiry("certificate", "ana", Some(now + Duration::from_secs(days * 86_400)), now, "renew")
        };
        assert_eq!(
            (in_days(14).state, in_days(14).found.as_str()),
            (CheckState::Ok, "ana expires in 14 days")
        );
        assert_eq!((in_days(13).state, in_days(13).fixes), (CheckState::Warning, vec!["renew".to_owned()]));
        let gone = expiry("certificate", "ana", Some(now - Duration::from_secs(1)), now, "renew");
        assert_eq!(gone.state, CheckState::Failed);
    }

    #[test]
    fn a_key_that_others_can_read_fails_with_the_line_that_mends_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("me.key");
        fs::write(&path, "").unwrap();
        let context = |mode| {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            key(&path)
        };
        assert_eq!(context(0o600).state, CheckState::Ok);
        let open = context(0o640);
        assert_eq!(open.state, CheckState::Failed);
        assert_eq!(open.fixes, [format!("chmod 600 {}", path.display())]);
    }
}
