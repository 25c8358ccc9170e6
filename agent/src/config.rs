//! Settings of the agent: flag, then `ORCH_AGENT_*` environment, then TOML file, then default.
//! Knows where a setting came from and what it may be; refuses to know what it is used for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};
use serde::Deserialize;

use crate::credentials::pools_dir;
use crate::credentials::settings::{Described, Gateway, PoolRefused, PoolSettings, PoolTable, pools};
use crate::credentials::tool::{LoginArgs, PoolsArgs};
use crate::runner::Workspace;
use crate::runner::limits::AgentLimits;
use crate::sandbox::SandboxMode;

use self::limits::LimitFlags;
use self::sandbox::{SandboxFlags, SandboxSettings};
use self::stop::{OnStop, StopFlags, StopSettings};
use self::workspaces::WorkspaceFlags;

pub mod limits;
pub mod sandbox;
pub mod stop;
pub mod workspaces;

/// The agent of orch: dials the coordinator, runs attempts on this host and streams them back.
#[derive(Debug, Parser)]
#[command(name = "orch-agent", version, about, max_term_width = 100)]
pub struct Cli {
    /// Settings.
    #[command(flatten)]
    pub flags: Flags,
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do. Settings stand before the word.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent; so does the absence of a word.
    Run,
    /// Sign in to a credential pool with the CLI's own means.
    Login(LoginArgs),
    /// Show the credential pools and whether each can be used.
    Pools(PoolsArgs),
}

/// Settings as flags and environment give them.
#[derive(Debug, Args, Default)]
pub struct Flags {
    /// TOML file with any of the settings below, names with underscores.
    #[arg(long, global = true, env = "ORCH_AGENT_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Coordinator to dial, for example `https://orch.example:7443`; repeat for several [default:
    /// https://127.0.0.1:7443].
    #[arg(long, env = "ORCH_AGENT_COORDINATOR", value_name = "URL", value_delimiter = ',')]
    pub coordinator: Vec<String>,
    /// Certificate authority that signs everybody [default: /etc/orch/ca.pem].
    #[arg(long, env = "ORCH_AGENT_TLS_CA", value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// The agent's certificate; it names the agent [default: /etc/orch/agent.pem].
    #[arg(long, env = "ORCH_AGENT_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Its private key, mode 0600 [default: /etc/orch/agent.key].
    #[arg(long, env = "ORCH_AGENT_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Directory of conversations, transcripts and the spool; one agent each [default: /var/lib/orch-agent].
    #[arg(long, global = true, env = "ORCH_AGENT_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Directory for the sockets of running attempts [default: `run` in the data directory].
    #[arg(long, env = "ORCH_AGENT_RUNTIME_DIR", value_name = "DIR")]
    pub runtime_dir: Option<PathBuf>,
    /// Capability that tasks may require, for example worker=marie; repeat for several.
    #[arg(long, env = "ORCH_AGENT_CAPABILITY", value_name = "KEY=VALUE", value_delimiter = ',')]
    pub capability: Vec<String>,
    /// Attempts at a time [default: the smaller of cores and GiB of memory].
    #[arg(long, env = "ORCH_AGENT_SLOTS", value_name = "N")]
    pub slots: Option<u32>,
    /// The Claude Code CLI, a path or a name to be found in PATH [default: claude].
    #[arg(long, global = true, env = "ORCH_AGENT_CLAUDE_BIN", value_name = "PATH")]
    pub claude_bin: Option<String>,
    /// File with the API key, not readable by others; read for each attempt. The credential pool `default`.
    #[arg(long, env = "ORCH_AGENT_API_KEY_FILE", value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
    /// Credential pool: NAME=api-key:FILE, NAME=token:FILE, NAME=login or NAME=helper:PROGRAM; repeat for several, in
    /// the environment with `;` between them.
    #[arg(long, env = "ORCH_AGENT_POOL", value_name = "NAME=KIND:VALUE", value_delimiter = ';')]
    pub pool: Vec<String>,
    /// Workers that a pool serves; repeat for several pools, in the environment with `;` between them.
    #[arg(long, env = "ORCH_AGENT_POOL_WORKERS", value_name = "NAME=WORKER,WORKER", value_delimiter = ';')]
    pub pool_workers: Vec<String>,
    /// Base URL of the API, when it is not at its usual place.
    #[arg(long, env = "ORCH_AGENT_API_BASE_URL", value_name = "URL")]
    pub api_base_url: Option<String>,
    /// Whether requests of API keys pass the agent's gateway, which counts them, waits for the rate limits of their pool and
    /// keeps the key from the task [default: on].
    #[arg(long, env = "ORCH_AGENT_GATEWAY", value_name = "WHEN")]
    pub gateway: Option<Gateway>,
    /// The same as --gateway off: the CLI asks the API itself, and what is spent is known a few calls late.
    #[arg(long, conflicts_with = "gateway")]
    pub no_gateway: bool,
    /// Keep what passes the gateway, prompts and answers without keys, in `exchanges` below the directory of each attempt, for
    /// tests and bug reports; at most 256 MiB of each.
    #[arg(long, env = "ORCH_AGENT_RECORD_EXCHANGES")]
    pub record_exchanges: bool,
    /// Program that tasks of the command runner may start; repeat for several. Without one that runner is off.
    #[arg(long, env = "ORCH_AGENT_ALLOW_COMMAND", value_name = "PROGRAM", value_delimiter = ',')]
    pub allow_command: Vec<String>,
    /// Directories that tasks may name.
    #[command(flatten)]
    pub workspaces: WorkspaceFlags,
    /// Limits of every attempt.
    #[command(flatten)]
    pub limits: LimitFlags,
    /// What stands between attempts and the host.
    #[command(flatten)]
    pub sandbox: SandboxFlags,
    /// What becomes of running attempts when the agent stops.
    #[command(flatten)]
    pub stop: StopFlags,
    /// File that gets the agent's state as JSON whenever it changes.
    #[arg(long, env = "ORCH_AGENT_STATUS_FILE", value_name = "FILE")]
    pub status_file: Option<PathBuf>,
    /// Log filter, for example `info,orch_agent=debug` [default: info].
    #[arg(long, env = "ORCH_AGENT_LOG", value_name = "FILTER")]
    pub log: Option<String>,
}

/// Settings as a file gives them: the same names, all optional, unknown ones refused.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileSettings {
    #[serde(default)]
    coordinator: Vec<String>,
    tls_ca: Option<PathBuf>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    data_dir: Option<PathBuf>,
    runtime_dir: Option<PathBuf>,
    #[serde(default)]
    capability: Vec<String>,
    slots: Option<u32>,
    claude_bin: Option<String>,
    api_key_file: Option<PathBuf>,
    #[serde(default)]
    pools: BTreeMap<String, PoolTable>,
    api_base_url: Option<String>,
    gateway: Option<Gateway>,
    #[serde(default)]
    record_exchanges: bool,
    #[serde(default)]
    allow_command: Vec<String>,
    #[serde(default)]
    workspaces: BTreeMap<String, PathBuf>,
    start_limit: Option<String>,
    linger_limit: Option<String>,
    api_patience: Option<String>,
    attempt_memory: Option<String>,
    attempt_output: Option<String>,
    agent_output: Option<String>,
    sandbox: Option<SandboxMode>,
    #[serde(default)]
    sandbox_read: Vec<PathBuf>,
    #[serde(default)]
    sandbox_hide: Vec<PathBuf>,
    on_stop: Option<OnStop>,
    drain_timeout: Option<String>,
    status_file: Option<PathBuf>,
    log: Option<String>,
}

/// Settings in force. Paths are absolute: children run elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The file that was read.
    pub file: Option<PathBuf>,
    /// Coordinators to dial, at least one.
    pub coordinators: Vec<String>,
    /// Certificate authority.
    pub tls_ca: PathBuf,
    /// Certificate.
    pub tls_cert: PathBuf,
    /// Private key.
    pub tls_key: PathBuf,
    /// Directory of all data.
    pub data_dir: PathBuf,
    /// Directory of sockets.
    pub runtime_dir: PathBuf,
    /// What the agent offers, each `key=value`, sorted. A key may have several values: an agent may serve
    /// several workers.
    pub capabilities: BTreeSet<String>,
    /// Attempts at a time; absent: what the host allows.
    pub slots: Option<u32>,
    /// The CLI.
    pub claude_bin: String,
    /// File with the API key of the pool `default`; it must be usable at the start.
    pub api_key_file: Option<PathBuf>,
    /// Credential pools, that of the API key file among them, by name.
    pub pools: Vec<PoolSettings>,
    /// Base URL of the API.
    pub api_base_url: Option<String>,
    /// Whether what passes the gateway is recorded.
    pub record_exchanges: bool,
    /// Programs of the command runner.
    pub allow_command: Vec<String>,
    /// Directories that tasks may name, by name; whether they are there is not known yet.
    pub workspaces: Vec<Workspace>,
    /// Limits of every attempt.
    pub limits: AgentLimits,
    /// What stands between attempts and the host.
    pub sandbox: SandboxSettings,
    /// What becomes of running attempts when the agent stops.
    pub stop: StopSettings,
    /// File to announce the state in.
    pub status_file: Option<PathBuf>,
    /// Log filter.
    pub log: String,
}

/// Why settings were refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read settings from {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{}: {message}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, column and reason.
        message: String,
    },
    /// A credential pool cannot be used.
    #[error(transparent)]
    Pool(#[from] PoolRefused),
    /// A value cannot be used.
    #[error("{name} is {value:?}: {reason}")]
    Value {
        /// The setting.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it must be.
        reason: &'static str,
    },
}

/// More slots than any host was seen to use; a typing error rather than a wish.
const MOST_SLOTS: u32 = 10_000;

/// Longest key or value of a capability, in bytes.
const LONGEST_LABEL: usize = 63;

impl Config {
    /// Puts flags, environment (both in `flags`), file and defaults together.
    ///
    /// # Errors
    /// When the file cannot be used or a value makes no sense.
    pub fn resolve(flags: Flags) -> Result<Self, ConfigError> {
        let file = flags.config.as_deref().map_or_else(|| Ok(FileSettings::default()), read_file)?;
        let etc = |name: &str| Path::new("/etc/orch").join(name);
        let list = |flag: Vec<String>, file: Vec<String>| if flag.is_empty() { file } else { flag };
        let mut coordinators = list(flags.coordinator, file.coordinator);
        if coordinators.is_empty() {
            coordinators.push("https://127.0.0.1:7443".to_owned());
        }
        let data_dir =
            flags.data_dir.or(file.data_dir).unwrap_or_else(|| PathBuf::from("/var/lib/orch-agent"));
        let data_dir = absolute("data_dir", data_dir)?;
        let runtime_dir = flags.runtime_dir.or(file.runtime_dir).unwrap_or_else(|| data_dir.join("run"));
        let api_key_file = flags.api_key_file.or(file.api_key_file);
        let api_key_file = api_key_file.map(|path| absolute("api_key_file", path)).transpose()?;
        let described = Described {
            flags: flags.pool,
            workers: flags.pool_workers,
            tables: file.pools,
            api_key_file: api_key_file.clone(),
        };
        let mut pools = pools(described, &pools_dir(&data_dir))?;
        let off = flags.no_gateway.then_some(Gateway::Off);
        let gateway = off.or(flags.gateway);
        for pool in &mut pools {
            // A flag is for all pools; the file says it for each, or for the others.
            pool.gateway = gateway.or(pool.gateway).or(file.gateway);
        }
        let limits = LimitFlags {
            start_limit: file.start_limit,
            linger_limit: file.linger_limit,
            api_patience: file.api_patience,
            attempt_memory: file.attempt_memory,
            attempt_output: file.attempt_output,
            agent_output: file.agent_output,
        };
        let confinement = SandboxFlags {
            sandbox: file.sandbox,
            sandbox_read: file.sandbox_read,
            sandbox_hide: file.sandbox_hide,
        };
        let stop = StopFlags { on_stop: file.on_stop, drain_timeout: file.drain_timeout };
        let path = flags.config.map(|path| absolute("config", path)).transpose()?;
        Ok(Self {
            file: path,
            coordinators: checked(
                "coordinator",
                coordinators,
                is_https,
                "must begin with https:// and name a host",
            )?,
            tls_ca: flags.tls_ca.or(file.tls_ca).unwrap_or_else(|| etc("ca.pem")),
            tls_cert: flags.tls_cert.or(file.tls_cert).unwrap_or_else(|| etc("agent.pem")),
            tls_key: flags.tls_key.or(file.tls_key).unwrap_or_else(|| etc("agent.key")),
            data_dir,
            runtime_dir: absolute("runtime_dir", runtime_dir)?,
            capabilities: capabilities(list(flags.capability, file.capability))?,
            slots: slots(flags.slots.or(file.slots))?,
            claude_bin: flags.claude_bin.or(file.claude_bin).unwrap_or_else(|| "claude".to_owned()),
            api_key_file,
            pools,
            api_base_url: flags.api_base_url.or(file.api_base_url).map(base_url).transpose()?,
            record_exchanges: flags.record_exchanges || file.record_exchanges,
            allow_command: list(flags.allow_command, file.allow_command),
            workspaces: flags.workspaces.resolve(file.workspaces)?,
            limits: flags.limits.resolve(limits)?,
            sandbox: flags.sandbox.resolve(confinement)?,
            stop: flags.stop.resolve(stop)?,
            status_file: flags.status_file.or(file.status_file),
            log: flags.log.or(file.log).unwrap_or_else(|| "info".to_owned()),
        })
    }

    /// Where the sockets of running attempts are.
    #[must_use]
    pub fn sockets_dir(&self) -> PathBuf {
        self.runtime_dir.join("orch")
    }
}

fn read_file(path: &Path) -> Result<FileSettings, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    toml::from_str(&text)
        .map_err(|error| ConfigError::Parse { path: path.to_owned(), message: error.to_string() })
}

fn refused(name: &'static str, value: impl Into<String>, reason: &'static str) -> ConfigError {
    ConfigError::Value { name, value: value.into(), reason }
}

fn absolute(name: &'static str, path: PathBuf) -> Result<PathBuf, ConfigError> {
    std::path::absolute(&path).map_err(|_| refused(name, path.to_string_lossy(), "must be a path"))
}

fn checked(
    name: &'static str,
    values: Vec<String>,
    is_good: fn(&str) -> bool,
    reason: &'static str,
) -> Result<Vec<String>, ConfigError> {
    match values.iter().find(|value| !is_good(value)) {
        Some(bad) => Err(refused(name, bad, reason)),
        None => Ok(values),
    }
}

fn is_https(url: &str) -> bool {
    let uri: Option<http::Uri> = url.parse().ok();
    uri.is_some_and(|uri| {
        uri.scheme_str() == Some("https") && uri.host().is_some_and(|host| !host.is_empty())
    })
}

fn base_url(url: String) -> Result<String, ConfigError> {
    let uri: Option<http::Uri> = url.parse().ok();
    let good =
        uri.is_some_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some());
    if good {
        Ok(url)
    } else {
        Err(refused("api_base_url", url, "must be a URL such as https://api.example"))
    }
}

fn slots(slots: Option<u32>) -> Result<Option<u32>, ConfigError> {
    match slots {
        Some(slots) if !(1..=MOST_SLOTS).contains(&slots) => {
            Err(refused("slots", slots.to_string(), "must be between 1 and 10000"))
        }
        slots => Ok(slots),
    }
}

fn capabilities(labels: Vec<String>) -> Result<BTreeSet<String>, ConfigError> {
    let name = "capability";
    for label in &labels {
        let Some((key, value)) = label.split_once('=') else {
            return Err(refused(name, label, "must be KEY=VALUE, for example gpu=yes"));
        };
        if key == "workspace" {
            return Err(refused(name, label, "a workspace is offered with --workspace NAME=DIR"));
        }
        if !is_label(key) || !is_label(value) {
            let reason = "key and value must be 1 to 63 letters, digits, dots, dashes, underscores or slashes, \
                          beginning with a letter or digit";
            return Err(refused(name, label, reason));
        }
    }
    Ok(labels.into_iter().collect())
}

fn is_label(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'/');
    text.len() <= LONGEST_LABEL
        && text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
        && text.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn file(text: &str) -> (tempfile::NamedTempFile, Flags) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let flags = Flags { config: Some(file.path().to_owned()), ..Flags::default() };
        (file, flags)
    }

    fn refusal(change: impl FnOnce(&mut Flags)) -> String {
        let mut flags = Flags::default();
        change(&mut flags);
        Config::resolve(flags).unwrap_err().to_string()
    }

    #[test]
    fn flags_beat_the_file_and_the_file_beats_defaults() {
        let text =
            "coordinator = [\"https://a:1\"]\nslots = 3\ndata_dir = \"/data\"\ncapability = [\"gpu=yes\"]\n";
        let (_file, mut flags) = file(text);
        flags.slots = Some(5);
        flags.capability = ["worker=marie", "worker=anga", "worker=anga"].map(str::to_owned).into();
        let config = Config::resolve(flags).unwrap();
        assert_eq!(config.coordinators, ["https://a:1"]);
        assert_eq!(config.slots, Some(5));
        assert_eq!(config.sockets_dir(), Path::new("/data/run/orch"));
        assert_eq!(config.capabilities.into_iter().collect::<Vec<_>>(), ["worker=anga", "worker=marie"]);
        assert_eq!((config.claude_bin.as_str(), config.log.as_str()), ("claude", "info"));
    }

    #[test]
    fn paths_become_absolute() {
        let flags = Flags { data_dir: Some("data".into()), ..Flags::default() };
        let config = Config::resolve(flags).unwrap();
        assert!(config.data_dir.is_absolute() && config.runtime_dir.is_absolute());
    }

    #[test]
    fn unknown_settings_are_refused_with_their_place() {
        let (_file, flags) = file("\nslotz = 1\n");
        let text = Config::resolve(flags).unwrap_err().to_string();
        assert!(text.contains("slotz") && text.contains("line 2"), "{text}");
        let flags = Flags { config: Some("/nonexistent.toml".into()), ..Flags::default() };
        assert_eq!(
            Config::resolve(flags).unwrap_err().to_string(),
            "cannot read settings from /nonexistent.toml"
        );
    }

    #[test]
    fn values_that_make_no_sense_are_refused_with_the_reason() {
        assert_eq!(refusal(|flags| flags.slots = Some(0)), "slots is \"0\": must be between 1 and 10000");
        assert_eq!(
            refusal(|flags| flags.coordinator = vec!["http://a:1".to_owned()]),
            "coordinator is \"http://a:1\": must begin with https:// and name a host"
        );
        assert_eq!(
            refusal(|flags| flags.capability = vec!["gpu".to_owned()]),
            "capability is \"gpu\": must be KEY=VALUE, for example gpu=yes"
        );
        for bad in ["=x", "a=", "a=b=c", "a b=c", "-a=b", "a=\u{1b}[31m", &format!("a={}", "x".repeat(64))] {
            assert!(refusal(|flags| flags.capability = vec![bad.to_owned()]).contains("1 to 63"), "{bad}");
        }
        let lie = refusal(|flags| flags.capability = vec!["workspace=dance".to_owned()]);
        assert!(lie.ends_with("a workspace is offered with --workspace NAME=DIR"), "{lie}");
        let url = refusal(|flags| flags.api_base_url = Some("ftp://x".to_owned()));
        assert!(url.starts_with("api_base_url is \"ftp://x\""), "{url}");
    }

    #[test]
    fn pools_come_from_flags_and_file_and_the_key_file_is_one() {
        let (_file, mut flags) = file(
            "data_dir = \"/data\"\napi_key_file = \"/k\"\n[pools.max]\nkind = \"login\"\nworkers = [\"marie\"]\n",
        );
        flags.pool = vec!["team=token:/t".to_owned()];
        flags.pool_workers = vec!["team=anga,fabien".to_owned()];
        let config = Config::resolve(flags).unwrap();
        let names: Vec<_> =
            config.pools.iter().map(|pool| (pool.name.as_str(), pool.source.word())).collect();
        assert_eq!(names, [("default", "api-key"), ("max", "login"), ("team", "token")]);
        let refused = refusal(|flags| flags.pool = vec!["Max=login".to_owned()]);
        assert!(refused.starts_with("pool \"Max\": a name is"), "{refused}");
    }

    #[test]
    fn a_flag_turns_the_gateway_off_for_all_pools_and_the_file_for_each() {
        let text = "gateway = \"off\"\n[pools.a]\nkind = \"api-key\"\nfile = \"/a\"\ngateway = \"on\"\n\
                    [pools.b]\nkind = \"api-key\"\nfile = \"/b\"\n";
        let gateways = |change: fn(&mut Flags)| {
            let (_file, mut flags) = file(text);
            change(&mut flags);
            let pools = Config::resolve(flags).unwrap().pools;
            pools.into_iter().map(|pool| pool.gateway.unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(gateways(|_| ()), [Gateway::On, Gateway::Off]);
        assert_eq!(gateways(|flags| flags.no_gateway = true), [Gateway::Off, Gateway::Off]);
        assert_eq!(gateways(|flags| flags.gateway = Some(Gateway::On)), [Gateway::On, Gateway::On]);
    }

    #[test]
    fn exchanges_are_recorded_where_a_flag_or_the_file_says_so_and_not_otherwise() {
        assert!(!Config::resolve(Flags::default()).unwrap().record_exchanges);
        let flags = Flags { record_exchanges: true, ..Flags::default() };
        assert!(Config::resolve(flags).unwrap().record_exchanges);
        let (_file, flags) = file("record_exchanges = true\n");
        assert!(Config::resolve(flags).unwrap().record_exchanges);
    }

    #[test]
    fn a_word_may_follow_the_settings() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' ')).unwrap();
        assert!(parse("orch-agent --slots 2").command.is_none());
        assert!(matches!(parse("orch-agent --slots 2 run").command, Some(Command::Run)));
        let cli = parse("orch-agent --pool max=login login --pool max --data-dir /d -- --sso");
        assert_eq!((cli.flags.pool.len(), cli.flags.data_dir), (1, Some("/d".into())));
        let Some(Command::Login(login)) = cli.command else { panic!("no login") };
        assert_eq!((login.pool.as_deref(), login.cli_args), (Some("max"), vec!["--sso".to_owned()]));
        let cli = parse("orch-agent run --workspace dance=/srv/dance --workspace music=/m");
        assert_eq!(cli.flags.workspaces.workspace.len(), 2);
        assert!(matches!(parse("orch-agent pools --json").command, Some(Command::Pools(args)) if args.json));
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
        let args = [
            "orch-agent",
            "--coordinator",
            "https://a:1",
            "--coordinator",
            "https://b:1",
            "--allow-command",
            "echo",
        ];
        let flags = Cli::try_parse_from(args).unwrap().flags;
        assert_eq!((flags.coordinator.len(), flags.allow_command.len()), (2, 1));
    }
}
