//! What has to be there before a fleet starts: its directory, held by one `dev` at a time, throw-away certificates,
//! ports, the CLI and a credential. Knows files; starts nothing.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use orch_certs::{Ca, Role};
use rustix::fs::{FlockOperation, flock};

use super::credential::{self, Consent, Credential};
use super::daemon::Program;
use super::fleet::Programs;
use super::layout::{self, AgentPlan, CoordinatorPlan, Layout};
use super::notice::{self, Endpoints};
use crate::args::setup::{DEFAULT_TENANT, DevArgs};
use crate::authority::{ca_failure, ensure_leaf};
use crate::embedded;
use crate::exit;
use crate::failure::{Failure, Outcome};
use crate::private_file::write_private;

/// Trust domain of throw-away certificates: never that of an installation.
const DOMAIN: &str = "dev.orch.local";

/// Everything a fleet starts from.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) layout: Layout,
    pub(crate) programs: Programs,
    pub(crate) coordinator: CoordinatorPlan,
    pub(crate) agents: Vec<AgentPlan>,
    pub(crate) ready_file: Option<PathBuf>,
    /// Whether every orphaned descendant of this process is the fleet's to end.
    pub(crate) owns_orphans: bool,
    pub(crate) lock: File,
}

/// What people should hear about the preparations.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) certificates: String,
    pub(crate) claude: Option<PathBuf>,
    pub(crate) credential: Credential,
    /// Names and directories that the agents offer.
    pub(crate) workspaces: Vec<(String, PathBuf)>,
}

impl Setup {
    /// Prepares the fleet that flags and environment describe.
    pub(crate) fn for_dev(
        args: &DevArgs,
        var: &dyn Fn(&str) -> Option<String>,
        consent: &Consent<'_>,
    ) -> Outcome<(Self, Told)> {
        for address in [args.listen, args.probe] {
            if !address.ip().is_loopback() {
                return Err(Failure::usage(format!("dev listens on this machine only, not on {address}"))
                    .help("for other hosts: orchctl init, then orchd"));
            }
        }
        let claude_bin = match &args.claude_bin {
            Some(path) => Some(existing(path)?),
            None => var("PATH").and_then(|path| layout::on_path("claude", &path, is_executable)),
        };
        let (layout, lock) = open(&args.data_dir)?;
        let credential = credential::take(&layout, var, consent)?;
        let workspaces = workspaces(&args.workspaces)?;
        let agents: Vec<_> = (1..=args.agents)
            .map(|number| AgentPlan {
                name: format!("local-{number}"),
                slots: args.slots,
                capabilities: args.capabilities.clone(),
                allow_commands: args.allow_commands.clone(),
                workspaces: workspaces.clone(),
                claude_bin: claude_bin.clone(),
                credential: credential.given,
                api_base_url: credential.base_url.clone(),
            })
            .collect();
        let certificates = certificates(&layout, &agents, &[args.listen.ip()], SystemTime::now())?;
        let last: Option<Endpoints> = notice::read(&layout.ports_file());
        let coordinator = CoordinatorPlan {
            listen: layout::choose(args.listen, last.map(|last| last.grpc), is_free),
            probe: layout::choose(args.probe, last.map(|last| last.probe), is_free),
            prompts: args.prompts.as_deref().map(existing).transpose()?,
            heartbeat_interval: args.heartbeat_interval,
        };
        let ready_file = args.ready_file.as_deref().map(absolute).transpose()?;
        let setup = Self {
            layout,
            programs: own_programs()?,
            coordinator,
            agents,
            ready_file,
            owns_orphans: true,
            lock,
        };
        Ok((setup, Told { certificates, claude: claude_bin, credential, workspaces }))
    }
}

/// Workspaces of the flags, each with its directory as an absolute path.
fn workspaces(given: &[(String, PathBuf)]) -> Outcome<Vec<(String, PathBuf)>> {
    given.iter().map(|(name, dir)| Ok((name.clone(), existing(dir)?))).collect()
}

/// This very program in its other roles.
pub(crate) fn own_programs() -> Outcome<Programs> {
    Ok(Programs { coordinator: Program::own(embedded::COORDINATOR)?, agent: Program::own(embedded::AGENT)? })
}

/// Makes the directories of a fleet and locks them against another `dev`.
pub(crate) fn open(data_dir: &Path) -> Outcome<(Layout, File)> {
    let layout = Layout { data_dir: absolute(data_dir)? };
    for dir in [&layout.data_dir, &layout.logs_dir(), &layout.state_dir()] {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| {
            Failure::new(exit::FAILED, format!("cannot make {}", dir.display())).cause(error)
        })?;
    }
    // Keys and conversations never belong into a repository that happens to be around.
    write_private(&layout.data_dir.join(".gitignore"), "*\n")?;
    let path = layout.lock_file();
    let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let lock = lock.map_err(|error| {
        Failure::new(exit::FAILED, format!("cannot open {}", path.display())).cause(error)
    })?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok((layout, lock)),
        Err(_) => Err(Failure::new(
            exit::CONFLICT,
            format!("another orchctl dev uses {}", layout.data_dir.display()),
        )
        .help("stop it, or name another --data-dir")),
    }
}

/// Ensures an authority for this directory and a certificate for everybody.
pub(crate) fn certificates(
    layout: &Layout,
    agents: &[AgentPlan],
    listen: &[IpAddr],
    now: SystemTime,
) -> Outcome<String> {
    let dir = layout.certs_dir();
    let (ca, mut made) = Ca::ensure(&dir, DOMAIN, now).map_err(|error| ca_failure(&error))?;
    let mut hosts = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    hosts.extend(listen.iter().map(ToString::to_string).filter(|host| host != "127.0.0.1"));
    let mut leaf = |dir: &Path, role: Role, name: &str, hosts: &[String]| -> Outcome<()> {
        let (item, _) = ensure_leaf(&ca, dir, role, DEFAULT_TENANT, name, hosts, now)?;
        made |= item.made;
        Ok(())
    };
    leaf(&dir, Role::Coordinator, "dev", &hosts)?;
    leaf(&dir, Role::Admin, "dev", &[])?;
    leaf(&dir, Role::Client, "dev", &[])?;
    for agent in agents {
        leaf(&layout.agent_certs_dir(&agent.name), Role::Agent, &agent.name, &[])?;
    }
    let verb = if made { "made" } else { "kept" };
    Ok(format!("throw-away authority {}, {verb} in {}", ca.fingerprint().short(), dir.display()))
}

fn absolute(path: &Path) -> Outcome<PathBuf> {
    std::path::absolute(path)
        .map_err(|error| Failure::usage(format!("{} is not a path", path.display())).cause(error))
}

fn existing(path: &Path) -> Outcome<PathBuf> {
    let path = absolute(path)?;
    if path.exists() { Ok(path) } else { Err(Failure::usage(format!("there is no {}", path.display()))) }
}

pub(crate) fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

fn is_free(address: SocketAddr) -> bool {
    TcpListener::bind(address).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> (tempfile::TempDir, Layout, File) {
        let dir = tempfile::tempdir().unwrap();
        let (layout, lock) = open(&dir.path().join("data")).unwrap();
        (dir, layout, lock)
    }

    #[test]
    fn one_dev_holds_a_directory() {
        let (_dir, layout, lock) = layout();
        let failure = open(&layout.data_dir).unwrap_err();
        assert_eq!(failure.exit_code(), exit::CONFLICT);
        drop(lock);
        open(&layout.data_dir).unwrap();
    }

    #[test]
    fn certificates_are_kept_until_something_changes() {
        let (_dir, layout, _lock) = layout();
        let agent = AgentPlan {
            name: "local-1".into(),
            slots: None,
            capabilities: Vec::new(),
            allow_commands: Vec::new(),
            workspaces: Vec::new(),
            claude_bin: None,
            credential: layout::Given::Nothing,
            api_base_url: None,
        };
        let ensure = |agents: &[AgentPlan]| certificates(&layout, agents, &[], SystemTime::now()).unwrap();
        assert!(ensure(std::slice::from_ref(&agent)).contains("made"));
        assert!(ensure(std::slice::from_ref(&agent)).contains("kept"));
        let second = AgentPlan { name: "local-2".into(), ..agent.clone() };
        assert!(ensure(&[agent, second]).contains("made"));
    }

    #[test]
    fn the_directory_ignores_itself_in_a_repository() {
        let (_dir, layout, _lock) = layout();
        assert_eq!(fs::read_to_string(layout.data_dir.join(".gitignore")).unwrap(), "*\n");
    }
}
