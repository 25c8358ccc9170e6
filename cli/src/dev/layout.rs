//! Which file of a development fleet lies where, and what each daemon is told. Pure: paths and words, no file is
//! touched.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use orch_certs::{Role, TlsFiles};

use crate::context::CONTEXT_FILE;

/// The directory of a fleet.
///
/// ```text
/// DATA/lock              held by the one `dev` that uses it
///     /certs             throw-away authority, coordinator, admin, client; agents/NAME for each agent
///     /coordinator       the queue
///     /agents/NAME       conversations and spool of an agent
///     /state             what daemons announce, and the ports last used
///     /logs              stderr of each daemon
///     /api-key           the caller's key, or
///     /token             the caller's token, or
///     /login             a link to the caller's own login, and who uses it
///     /context.json      how orchctl finds all this
/// ```
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    /// The directory, absolute.
    pub(crate) data_dir: PathBuf,
}

impl Layout {
    pub(crate) fn certs_dir(&self) -> PathBuf {
        self.data_dir.join("certs")
    }

    pub(crate) fn agent_certs_dir(&self, name: &str) -> PathBuf {
        self.certs_dir().join("agents").join(name)
    }

    pub(crate) fn logs_dir(&self) -> PathBuf {
        self.data_dir.join("logs")
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.data_dir.join("state")
    }

    pub(crate) fn log_file(&self, name: &str) -> PathBuf {
        self.logs_dir().join(format!("{name}.log"))
    }

    pub(crate) fn state_file(&self, name: &str) -> PathBuf {
        self.state_dir().join(format!("{name}.json"))
    }

    pub(crate) fn ports_file(&self) -> PathBuf {
        self.state_dir().join("ports.json")
    }

    pub(crate) fn lock_file(&self) -> PathBuf {
        self.data_dir.join("lock")
    }

    pub(crate) fn api_key_file(&self) -> PathBuf {
        self.data_dir.join("api-key")
    }

    pub(crate) fn token_file(&self) -> PathBuf {
        self.data_dir.join("token")
    }

    pub(crate) fn login_dir(&self) -> PathBuf {
        self.data_dir.join("login")
    }

    pub(crate) fn context_file(&self) -> PathBuf {
        self.data_dir.join(CONTEXT_FILE)
    }

    /// Files of whoever operates the fleet.
    pub(crate) fn admin_tls(&self) -> TlsFiles {
        TlsFiles::in_dir(&self.certs_dir(), Role::Admin)
    }

    fn coordinator_dir(&self) -> PathBuf {
        self.data_dir.join("coordinator")
    }

    fn agent_dir(&self, name: &str) -> PathBuf {
        self.data_dir.join("agents").join(name)
    }
}

/// Name of the coordinator among the daemons.
pub(crate) const COORDINATOR: &str = "coordinator";

/// What the coordinator is told.
#[derive(Debug, Clone)]
pub(crate) struct CoordinatorPlan {
    pub(crate) listen: SocketAddr,
    pub(crate) probe: SocketAddr,
    pub(crate) prompts: Option<PathBuf>,
    pub(crate) heartbeat_interval: Option<Duration>,
}

/// Whose credential the agents use; it lies in the directory of the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Given {
    /// None.
    #[default]
    Nothing,
    /// A file with an API key.
    ApiKey,
    /// A file with a token of the caller's subscription.
    Token,
    /// The caller's own login.
    Login,
}

/// What an agent is told.
#[derive(Debug, Clone)]
pub(crate) struct AgentPlan {
    pub(crate) name: String,
    pub(crate) slots: Option<u32>,
    pub(crate) capabilities: Vec<String>,
    pub(crate) allow_commands: Vec<String>,
    /// Workspaces, each with its directory.
    pub(crate) workspaces: Vec<(String, PathBuf)>,
    pub(crate) claude_bin: Option<PathBuf>,
    pub(crate) credential: Given,
    pub(crate) api_base_url: Option<String>,
}

/// Arguments of the coordinator, without the program.
pub(crate) fn coordinator_args(layout: &Layout, plan: &CoordinatorPlan) -> Vec<OsString> {
    let tls = TlsFiles::in_dir(&layout.certs_dir(), Role::Coordinator);
    let mut args = Args::default();
    args.pair("--listen", plan.listen.to_string());
    args.pair("--probe", plan.probe.to_string());
    args.pair("--data-dir", layout.coordinator_dir());
    args.tls(&tls);
    args.pair("--ready-file", layout.state_file(COORDINATOR));
    if let Some(prompts) = &plan.prompts {
        args.pair("--prompts", prompts);
    }
    if let Some(interval) = plan.heartbeat_interval {
        args.pair("--heartbeat-interval", humantime::format_duration(interval).to_string());
    }
    args.0
}

/// Arguments of an agent, without the program.
pub(crate) fn agent_args(layout: &Layout, plan: &AgentPlan, coordinator: SocketAddr) -> Vec<OsString> {
    let tls = TlsFiles::in_dir(&layout.agent_certs_dir(&plan.name), Role::Agent);
    let dir = layout.agent_dir(&plan.name);
    let mut args = Args::default();
    args.pair("--coordinator", format!("https://{coordinator}"));
    args.tls(&tls);
    args.pair("--runtime-dir", dir.join("run"));
    args.pair("--data-dir", dir);
    // The keys of the other daemons and of the caller lie beside this agent's.
    args.pair("--sandbox-hide", &layout.data_dir);
    args.pair("--status-file", layout.state_file(&plan.name));
    // Whoever ends a rehearsal wants nothing to go on behind his back.
    args.pair("--on-stop", "end");
    if let Some(slots) = plan.slots {
        args.pair("--slots", slots.to_string());
    }
    for capability in &plan.capabilities {
        args.pair("--capability", capability);
    }
    for program in &plan.allow_commands {
        args.pair("--allow-command", program);
    }
    for (name, dir) in &plan.workspaces {
        let mut word = OsString::from(format!("{name}="));
        word.push(dir);
        args.pair("--workspace", word);
    }
    if let Some(path) = &plan.claude_bin {
        args.pair("--claude-bin", path);
    }
    let pool = |kind: &str, path: PathBuf| {
        let mut text = OsString::from(format!("default={kind}:"));
        text.push(path);
        text
    };
    match plan.credential {
        Given::Nothing => {}
        Given::ApiKey => args.pair("--api-key-file", layout.api_key_file()),
        Given::Token => args.pair("--pool", pool("token", layout.token_file())),
        Given::Login => args.pair("--pool", pool("login", layout.login_dir())),
    }
    if let Some(url) = &plan.api_base_url {
        args.pair("--api-base-url", url);
    }
    args.0
}

#[derive(Default)]
struct Args(Vec<OsString>);

impl Args {
    /// One word, `--flag=value`, so that a value may start with a dash.
    fn pair(&mut self, flag: &str, value: impl AsRef<std::ffi::OsStr>) {
        let mut word = OsString::from(format!("{flag}="));
        word.push(value);
        self.0.push(word);
    }

    fn tls(&mut self, files: &TlsFiles) {
        self.pair("--tls-ca", &files.ca);
        self.pair("--tls-cert", &files.cert);
        self.pair("--tls-key", &files.key);
    }
}

/// Where a port 0 leads: the port used last time if it is still free, so that whoever noted it down finds the fleet
/// again after a restart.
pub(crate) fn choose(
    asked: SocketAddr,
    last: Option<SocketAddr>,
    is_free: impl Fn(SocketAddr) -> bool,
) -> SocketAddr {
    match last {
        Some(last) if asked.port() == 0 && last.ip() == asked.ip() && is_free(last) => last,
        Some(_) | None => asked,
    }
}

/// An executable file of this name in the directories of a search path.
pub(crate) fn on_path(name: &str, path: &str, is_executable: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    // An empty entry means the working directory, where nobody wants to find a program by accident.
    std::env::split_paths(path)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(name))
        .find(|candidate| is_executable(candidate))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(args: &[OsString]) -> String {
        args.iter().map(|arg| arg.to_string_lossy().into_owned()).collect::<Vec<_>>().join("\n")
    }

    fn layout() -> Layout {
        Layout { data_dir: "/d".into() }
    }

    #[test]
    fn the_coordinator_is_told_everything_it_needs() {
        let plan = CoordinatorPlan {
            listen: ([127, 0, 0, 1], 7443).into(),
            probe: ([127, 0, 0, 1], 0).into(),
            prompts: Some("/p".into()),
            heartbeat_interval: Some(Duration::from_millis(500)),
        };
        insta::assert_snapshot!(shown(&coordinator_args(&layout(), &plan)), @r"
        --listen=127.0.0.1:7443
        --probe=127.0.0.1:0
        --data-dir=/d/coordinator
        --tls-ca=/d/certs/ca.pem
        --tls-cert=/d/certs/coordinator.pem
        --tls-key=/d/certs/coordinator.key
        --ready-file=/d/state/coordinator.json
        --prompts=/p
        --heartbeat-interval=500ms
        ");
    }

    #[test]
    fn an_agent_is_told_everything_it_needs() {
        let plan = AgentPlan {
            name: "local-1".into(),
            slots: Some(2),
            capabilities: vec!["gpu=yes".into()],
            allow_commands: vec!["echo".into(), "make".into()],
            workspaces: vec![("dance".into(), "/srv/dance".into())],
            claude_bin: Some("/usr/bin/claude".into()),
            credential: Given::ApiKey,
            api_base_url: Some("http://127.0.0.1:9".into()),
        };
        insta::assert_snapshot!(shown(&agent_args(&layout(), &plan, ([127, 0, 0, 1], 7443).into())), @r"
        --coordinator=https://127.0.0.1:7443
        --tls-ca=/d/certs/agents/local-1/ca.pem
        --tls-cert=/d/certs/agents/local-1/agent.pem
        --tls-key=/d/certs/agents/local-1/agent.key
        --runtime-dir=/d/agents/local-1/run
        --data-dir=/d/agents/local-1
        --sandbox-hide=/d
        --status-file=/d/state/local-1.json
        --on-stop=end
        --slots=2
        --capability=gpu=yes
        --allow-command=echo
        --allow-command=make
        --workspace=dance=/srv/dance
        --claude-bin=/usr/bin/claude
        --api-key-file=/d/api-key
        --api-base-url=http://127.0.0.1:9
        ");
        let pool = |credential| {
            let args =
                agent_args(&layout(), &AgentPlan { credential, ..plan.clone() }, ([127, 0, 0, 1], 1).into());
            shown(&args).lines().find(|line| line.starts_with("--pool")).map(str::to_owned)
        };
        assert_eq!(pool(Given::Login).as_deref(), Some("--pool=default=login:/d/login"));
        assert_eq!(pool(Given::Token).as_deref(), Some("--pool=default=token:/d/token"));
        assert_eq!(pool(Given::Nothing), None);
    }

    #[test]
    fn port_0_takes_the_last_port_while_it_is_free() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let last = SocketAddr::from(([127, 0, 0, 1], 4711));
        assert_eq!(choose(any, Some(last), |_| true), last);
        assert_eq!(choose(any, Some(last), |_| false), any);
        assert_eq!(choose(any, None, |_| true), any);
        let fixed = SocketAddr::from(([127, 0, 0, 1], 7443));
        assert_eq!(choose(fixed, Some(last), |_| true), fixed);
        assert_eq!(choose(SocketAddr::from(([0, 0, 0, 0], 0)), Some(last), |_| true).port(), 0);
    }

    #[test]
    fn programs_are_found_on_the_path_but_not_in_the_working_directory() {
        let found = on_path("claude", "/a:.::/b", |path| path.starts_with("/b") || path.is_relative());
        assert_eq!(found.as_deref(), Some(Path::new("/b/claude")));
    }
}
