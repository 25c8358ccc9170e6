//! `certs`: what a second host needs, and what a directory holds.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use orch_certs::{Ca, ClientTls, Role, ServerTls, TlsFiles};
use orch_proto::codes::ErrorCode;
use schemars::JsonSchema;
use serde::Serialize;

use super::init;
use crate::args::Format;
use crate::args::setup::{CertsCommand, IssueArgs, ShowArgs};
use crate::authority::{Item, ca_failure, ensure_leaf};
use crate::context::{self, CONTEXT_FILE, ContextFile};
use crate::exit;
use crate::failure::{Failure, Outcome};
use crate::output::Out;
use crate::output::table::{Cell, Column, Table};
use crate::output::words::{BAD, GOOD};
use crate::private_file::{to_json, write_private};

/// Configuration file of an agent within its directory.
const AGENT_CONFIG: &str = "agent.toml";

/// `orchctl certs`.
pub(crate) fn run(out: &Out, command: CertsCommand) -> Outcome {
    match command {
        CertsCommand::Issue(args) => issue(out, &args),
        CertsCommand::Show(args) => show(out, &args),
    }
}

fn issue(out: &Out, args: &IssueArgs) -> Outcome {
    let dir = init::directory(args.dir.as_deref())?;
    let role = Role::from(args.role);
    let made = make(args, &dir, role, SystemTime::now())?;
    match out.format {
        Format::Json => out.json(&made)?,
        Format::Jsonl => made.iter().try_for_each(|item| out.json(item))?,
        Format::Name => made.iter().try_for_each(|item| out.name(&item.path.display().to_string()))?,
        Format::None => {}
        Format::Table => made.iter().try_for_each(|item| out.line(&item.line()))?,
    }
    out.hint(&format!("copy {} to the host, keys readable by their owner alone", args.out.display()));
    Ok(exit::DONE)
}

fn make(args: &IssueArgs, dir: &Path, role: Role, now: SystemTime) -> Outcome<Vec<Item>> {
    let ca = Ca::open(dir).map_err(|error| {
        ca_failure(&error).help(format!(
            "orchctl init makes an authority; --dir names its directory, here {}",
            dir.display()
        ))
    })?;
    if same_directory(dir, &args.out) {
        return Err(Failure::usage("--out is the authority's own directory; a host must not get its key")
            .help("name another directory with --out"));
    }
    let (item, files) = ensure_leaf(&ca, &args.out, role, &args.tenant, &args.name, &args.hosts, now)?;
    let mut items = vec![item];
    let endpoint = context::read_context(&dir.join(CONTEXT_FILE)).ok().and_then(|context| context.endpoint);
    if let Some(endpoint) = endpoint {
        items.extend(companion(&args.out, role, &endpoint, &files)?);
    }
    Ok(items)
}

/// The file that lets a host use its certificate: where the coordinator is, and which files to show it. Paths are
/// relative, for the directory is meant to be copied.
fn companion(dir: &Path, role: Role, endpoint: &str, files: &TlsFiles) -> Outcome<Option<Item>> {
    let name = |path: &Path| path.file_name().map(PathBuf::from);
    let context = ContextFile {
        endpoint: Some(endpoint.to_owned()),
        tls_ca: name(&files.ca),
        tls_cert: name(&files.cert),
        tls_key: name(&files.key),
    };
    let (file, text) = match role {
        Role::Coordinator => return Ok(None),
        Role::Agent => (AGENT_CONFIG, agent_config(endpoint)?),
        Role::Client | Role::Admin => (CONTEXT_FILE, to_json(&context)?),
    };
    let path = dir.join(file);
    let made = std::fs::read_to_string(&path).ok().as_deref() != Some(&text);
    if made {
        write_private(&path, &text)?;
    }
    Ok(Some(Item { what: file.to_owned(), path, made, because: None }))
}

/// The agent looks for its certificates in `/etc/orch` unless told otherwise, which is where the directory goes.
fn agent_config(endpoint: &str) -> Outcome<String> {
    #[derive(Serialize, JsonSchema)]
    struct AgentConfig<'a> {
        coordinator: [&'a str; 1],
    }
    let config = toml::to_string(&AgentConfig { coordinator: [endpoint] })
        .map_err(|error| Failure::new(exit::BUG, "cannot write TOML").cause(error))?;
    Ok(format!(
        "# orch-agent --config agent.toml; ca.pem, agent.pem and agent.key belong into /etc/orch,\n\
         # elsewhere name them by tls_ca, tls_cert and tls_key.\n{config}"
    ))
}

fn same_directory(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        // One that is not there yet is not the other.
        (Ok(_) | Err(_), _) => false,
    }
}

/// A certificate of a directory.
#[derive(Debug, Serialize, JsonSchema)]
struct CertView {
    role: String,
    path: PathBuf,
    identity: Option<String>,
    usable: bool,
    problem: Option<String>,
}

fn show(out: &Out, args: &ShowArgs) -> Outcome {
    let dir = init::directory(args.dir.as_deref())?;
    let found = found(&dir, SystemTime::now());
    if found.is_empty() {
        return Err(Failure::coded(
            ErrorCode::NoCertificate,
            format!("{} holds no certificates", dir.display()),
        )
        .help("orchctl init makes them"));
    }
    match out.format {
        Format::Json | Format::Jsonl => out.json_list(&found)?,
        Format::Name => found.iter().try_for_each(|cert| out.name(&cert.path.display().to_string()))?,
        Format::None => {}
        Format::Table => {
            let columns = [
                Column::Whole("ROLE"),
                Column::Whole("STATE"),
                Column::Words("IDENTITY"),
                Column::Words("FILE"),
            ];
            let mut table = Table::new(columns);
            for cert in &found {
                let state =
                    if cert.usable { Cell::styled("usable", GOOD) } else { Cell::styled("unusable", BAD) };
                let identity = cert.identity.as_deref().or(cert.problem.as_deref()).unwrap_or_default();
                table.row([
                    Cell::from(&cert.role),
                    state,
                    Cell::from(identity),
                    Cell::dim(cert.path.display().to_string()),
                ]);
            }
            out.data(&table.render(out.stdout()))?;
        }
    }
    Ok(if found.iter().all(|cert| cert.usable) { exit::DONE } else { exit::FAILED })
}

fn found(dir: &Path, now: SystemTime) -> Vec<CertView> {
    let authority = dir.join("ca.key").exists().then(|| match Ca::open(dir) {
        Ok(ca) => view(
            "authority",
            dir.join("ca.pem"),
            Ok(format!("{} of {}", ca.fingerprint().short(), ca.domain())),
        ),
        Err(error) => view("authority", dir.join("ca.pem"), Err(error.to_string())),
    });
    let leaves = Role::ALL.into_iter().filter_map(|role| {
        let files = TlsFiles::in_dir(dir, role);
        if !files.cert.exists() {
            return None;
        }
        // Loading applies the very checks that a connection would.
        let identity = match role {
            Role::Coordinator => ServerTls::load(files.clone(), now).map(|tls| tls.identity()),
            Role::Client | Role::Agent | Role::Admin => {
                ClientTls::load(files.clone(), now).map(|tls| tls.identity())
            }
        };
        Some(view(
            role.as_str(),
            files.cert,
            identity.map(|identity| identity.uri()).map_err(|error| error.to_string()),
        ))
    });
    authority.into_iter().chain(leaves).collect()
}

fn view(role: &str, path: PathBuf, identity: Result<String, String>) -> CertView {
    let (identity, problem) = match identity {
        Ok(identity) => (Some(identity), None),
        Err(problem) => (None, Some(problem)),
    };
    CertView { role: role.to_owned(), path, usable: problem.is_none(), identity, problem }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::args::setup::RoleArg;
    use orch_certs::ca::LEAF_VALID;

    fn authority() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        Ca::create(dir.path(), "orch.local", SystemTime::now()).unwrap();
        let context = ContextFile { endpoint: Some("https://box-0:7443".into()), ..ContextFile::default() };
        write_private(&dir.path().join(CONTEXT_FILE), &to_json(&context).unwrap()).unwrap();
        dir
    }

    fn request(role: RoleArg, out: &Path) -> IssueArgs {
        IssueArgs {
            role,
            name: "box-1".into(),
            tenant: "default".into(),
            hosts: Vec::new(),
            out: out.into(),
            dir: None,
        }
    }

    #[test]
    fn a_second_host_gets_exactly_what_it_needs() {
        let (ca, out) = (authority(), tempfile::tempdir().unwrap());
        let args = request(RoleArg::Agent, out.path());
        make(&args, ca.path(), Role::Agent, SystemTime::now()).unwrap();
        let files: BTreeSet<_> = std::fs::read_dir(out.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(files, ["agent.key", "agent.pem", "agent.toml", "ca.pem"].map(str::to_owned).into());
        let config = std::fs::read_to_string(out.path().join("agent.toml")).unwrap();
        insta::assert_snapshot!(config, @r#"
        # orch-agent --config agent.toml; ca.pem, agent.pem and agent.key belong into /etc/orch,
        # elsewhere name them by tls_ca, tls_cert and tls_key.
        coordinator = ["https://box-0:7443"]
        "#);
        let again = make(&args, ca.path(), Role::Agent, SystemTime::now()).unwrap();
        assert!(again.iter().all(|item| !item.made), "{again:?}");
    }

    #[test]
    fn the_authority_s_own_directory_is_no_destination() {
        let ca = authority();
        let args = request(RoleArg::Client, ca.path());
        assert_eq!(
            make(&args, ca.path(), Role::Client, SystemTime::now()).unwrap_err().exit_code(),
            exit::USAGE
        );
    }

    #[test]
    fn bad_names_and_hosts_are_refused() {
        let (ca, out) = (authority(), tempfile::tempdir().unwrap());
        for name in ["../x", "-x", "Box", ""] {
            let args = IssueArgs { name: name.into(), ..request(RoleArg::Agent, out.path()) };
            let failure = make(&args, ca.path(), Role::Agent, SystemTime::now()).unwrap_err();
            assert_eq!(failure.code(), Some("E0102"), "{name:?}");
        }
        let args = request(RoleArg::Coordinator, out.path());
        assert_eq!(
            make(&args, ca.path(), Role::Coordinator, SystemTime::now()).unwrap_err().exit_code(),
            exit::USAGE
        );
    }

    #[test]
    fn show_says_which_certificates_would_be_refused() {
        let (ca, out) = (authority(), tempfile::tempdir().unwrap());
        make(&request(RoleArg::Agent, out.path()), ca.path(), Role::Agent, SystemTime::now()).unwrap();
        let now = found(out.path(), SystemTime::now());
        assert!(matches!(&now[..], [CertView { usable: true, .. }]), "{now:?}");
        let later = found(out.path(), SystemTime::now() + LEAF_VALID * 2);
        assert!(later[0].problem.as_deref().unwrap_or_default().contains("expired"), "{later:?}");
    }
}
