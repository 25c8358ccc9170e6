//! `init`: an authority, certificates for a coordinator, its operator, a client and a first agent, and a context to
//! use them. Repeating it keeps what is there and fits.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use orch_certs::{Ca, Role, TlsFiles};

use crate::args::Format;
use crate::args::setup::{DEFAULT_TENANT, InitArgs};
use crate::authority::{Item, ca_failure, ensure_leaf};
use crate::context::{self, CONTEXT_FILE, CONTEXT_FILE_VAR, ContextFile};
use crate::exit;
use crate::failure::{Failure, Outcome};
use crate::output::Out;
use crate::private_file::{to_json, write_private};

/// Name of the coordinator, the admin and the client in their certificates.
const COORDINATOR: &str = "coordinator";
const ADMIN: &str = "admin";
const CLIENT: &str = "client";

/// `orchctl init`.
pub(crate) fn run(out: &Out, args: &InitArgs) -> Outcome {
    let dir = directory(args.dir.as_deref())?;
    let items = set_up(args, &dir, SystemTime::now())?;
    match out.format {
        Format::Json => out.json(&items)?,
        Format::Jsonl => items.iter().try_for_each(|item| out.json(item))?,
        Format::Name => out.name(&dir.display().to_string())?,
        Format::None => {}
        Format::Table => items.iter().try_for_each(|item| out.line(&item.line()))?,
    }
    out.hint(&next_steps(args, &dir));
    Ok(exit::DONE)
}

/// The directory of the authority: the one named, else `~/.config/orch`.
pub(super) fn directory(named: Option<&Path>) -> Outcome<PathBuf> {
    if let Some(dir) = named {
        return std::path::absolute(dir)
            .map_err(|error| Failure::usage(format!("{} is not a path", dir.display())).cause(error));
    }
    let home = crate::config::home(&|name| std::env::var(name).ok());
    home.map(|home| home.join("orch"))
        .ok_or_else(|| Failure::usage("there is no home directory; name one with --dir"))
}

fn set_up(args: &InitArgs, dir: &Path, now: SystemTime) -> Outcome<Vec<Item>> {
    let (ca, made) = Ca::ensure(dir, &args.domain, now).map_err(|error| ca_failure(&error))?;
    let mut items = vec![Item {
        what: format!("authority {}", ca.fingerprint().short()),
        path: dir.join("ca.pem"),
        made,
        because: None,
    }];
    let leaves = [
        (Role::Coordinator, COORDINATOR, args.hosts.as_slice()),
        (Role::Admin, ADMIN, &[]),
        (Role::Client, CLIENT, &[]),
        (Role::Agent, args.agent.as_str(), &[]),
    ];
    for (role, name, hosts) in leaves {
        let (item, _) = ensure_leaf(&ca, dir, role, DEFAULT_TENANT, name, hosts, now)?;
        items.push(item);
    }
    items.push(write_context(dir, &endpoint(args))?);
    Ok(items)
}

/// A context for the operator of this installation.
fn write_context(dir: &Path, endpoint: &str) -> Outcome<Item> {
    let path = dir.join(CONTEXT_FILE);
    let files = TlsFiles::in_dir(dir, Role::Admin);
    let context = ContextFile {
        endpoint: Some(endpoint.to_owned()),
        tls_ca: Some(files.ca),
        tls_cert: Some(files.cert),
        tls_key: Some(files.key),
    };
    let made = context::read_context(&path).ok().as_ref() != Some(&context);
    if made {
        write_private(&path, &to_json(&context)?)?;
    }
    Ok(Item { what: "context".to_owned(), path, made, because: None })
}

fn endpoint(args: &InitArgs) -> String {
    let host = args.hosts.first().map(String::as_str).unwrap_or_default();
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    format!("https://{host}:{}", args.port)
}

fn next_steps(args: &InitArgs, dir: &Path) -> String {
    let (d, endpoint) = (dir.display(), endpoint(args));
    format!(
        "next:\n  \
         orchd --listen 0.0.0.0:{port} --tls-ca {d}/ca.pem --tls-cert {d}/coordinator.pem --tls-key {d}/coordinator.key\n  \
         orch-agent --coordinator {endpoint} --tls-ca {d}/ca.pem --tls-cert {d}/agent.pem --tls-key {d}/agent.key\n  \
         export {CONTEXT_FILE_VAR}={d}/{CONTEXT_FILE}; orchctl status\n\
         another host: orchctl certs issue --role agent --name NAME --dir {d} --out DIR, then copy DIR there",
        port = args.port,
    )
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn args(hosts: &[&str]) -> InitArgs {
        InitArgs {
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            dir: None,
            domain: "orch.local".into(),
            agent: "agent-1".into(),
            port: 7443,
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn everything_is_made_once_and_then_kept() {
        let dir = tempfile::tempdir().unwrap();
        let first = set_up(&args(&["box-0", "192.0.2.7"]), dir.path(), SystemTime::now()).unwrap();
        assert_eq!(first.len(), 6);
        assert!(first.iter().all(|item| item.made), "{first:?}");
        let again = set_up(&args(&["box-0", "192.0.2.7"]), dir.path(), SystemTime::now()).unwrap();
        assert!(again.iter().all(|item| !item.made), "{again:?}");
        for key in ["ca.key", "coordinator.key", "admin.key", "client.key", "agent.key", "context.json"] {
            assert_eq!(mode(&dir.path().join(key)), 0o600, "{key}");
        }
        let context = context::read_context(&dir.path().join(CONTEXT_FILE)).unwrap();
        assert_eq!(context.endpoint.as_deref(), Some("https://box-0:7443"));
    }

    #[test]
    fn another_host_renews_the_coordinator_s_certificate_only() {
        let dir = tempfile::tempdir().unwrap();
        set_up(&args(&["box-0"]), dir.path(), SystemTime::now()).unwrap();
        let again = set_up(&args(&["box-0", "box-0.example.org"]), dir.path(), SystemTime::now()).unwrap();
        let made: Vec<_> = again.iter().filter(|item| item.made).map(|item| item.what.as_str()).collect();
        assert_eq!(made, ["coordinator certificate"]);
    }

    #[test]
    fn another_domain_is_a_conflict() {
        let dir = tempfile::tempdir().unwrap();
        set_up(&args(&["box-0"]), dir.path(), SystemTime::now()).unwrap();
        let other = InitArgs { domain: "other.example".into(), ..args(&["box-0"]) };
        assert_eq!(set_up(&other, dir.path(), SystemTime::now()).unwrap_err().exit_code(), exit::CONFLICT);
    }

    #[test]
    fn a_readable_key_is_refused_with_the_line_that_mends_it() {
        let dir = tempfile::tempdir().unwrap();
        set_up(&args(&["box-0"]), dir.path(), SystemTime::now()).unwrap();
        fs::set_permissions(dir.path().join("ca.key"), fs::Permissions::from_mode(0o644)).unwrap();
        let failure = set_up(&args(&["box-0"]), dir.path(), SystemTime::now()).unwrap_err();
        assert_eq!(failure.code(), Some("E0206"));
        assert!(failure.text(false).contains("chmod 600"), "{}", failure.text(false));
    }
}
