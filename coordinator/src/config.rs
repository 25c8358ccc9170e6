//! Settings of the coordinator: flag, then `ORCH_*` environment, then TOML file, then default.
//! Knows where a setting came from and what it may be; refuses to know what it is used for.

mod size;

pub use self::size::{Size, SizeError};
use crate::limits::{self, Limits, LimitsError, PoolTables};
use clap::{Args, Parser, Subcommand};
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The coordinator of orch: keeps the queue, decides, and serves gRPC over mTLS.
#[derive(Debug, Parser)]
#[command(name = "orchd", version, about, max_term_width = 100)]
pub struct Cli {
    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Settings.
    #[command(flatten)]
    pub flags: Flags,
}

/// What orchd can do besides serving.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Look at the settings without serving.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Look after a data directory (--data-dir) that no coordinator uses.
    #[command(subcommand)]
    Storage(StorageCommand),
    /// Ask the probe port of a running coordinator whether it is ready; for container health checks.
    Healthcheck,
}

/// Looks after a data directory.
#[derive(Debug, Subcommand)]
pub enum StorageCommand {
    /// Check every record, every blob and all that records name; nothing is changed.
    Check,
    /// Write the records as lines of JSON, to be read by people and programs.
    Export(Copied),
    /// Fill an empty data directory with exported records; cluster, epoch and ids stay what they were.
    Import(Copied),
    /// Write a backup: records, blobs and transcripts in one file.
    Backup(Copied),
    /// Put a backup or exported records in the place of what is there, which is moved to aside/.
    Restore {
        /// The copy.
        #[command(flatten)]
        copy: Copied,
        /// Take a copy of this cluster, whatever cluster the data directory was of.
        #[arg(long, value_name = "HEX")]
        cluster: Option<String>,
    },
    /// Make the store anew, as small as what is in it.
    Compact,
}

/// Names a copy.
#[derive(Debug, Args)]
pub struct Copied {
    /// The file; `-` for standard input or output.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// Looks at the settings.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check every setting, and print what is in force.
    Check,
}

/// Settings as flags and environment give them.
#[derive(Debug, Clone, Args, Default, PartialEq, Eq)]
pub struct Flags {
    /// TOML file with any of the settings below, names with underscores.
    #[arg(long, env = "ORCH_CONFIG", value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Address for gRPC over mTLS [default: 0.0.0.0:7443].
    #[arg(long, env = "ORCH_LISTEN", value_name = "ADDR", global = true)]
    pub listen: Option<SocketAddr>,
    /// Address for probes, metrics and plain gRPC health; no secrets there, keep it inside [default: 127.0.0.1:7481].
    #[arg(long, env = "ORCH_PROBE", value_name = "ADDR", global = true)]
    pub probe: Option<SocketAddr>,
    /// Directory of the queue, blobs and transcripts [default: /var/lib/orch].
    #[arg(long, env = "ORCH_DATA_DIR", value_name = "DIR", global = true)]
    pub data_dir: Option<PathBuf>,
    /// Certificate authority that signs everybody [default: /etc/orch/ca.pem].
    #[arg(long, env = "ORCH_TLS_CA", value_name = "FILE", global = true)]
    pub tls_ca: Option<PathBuf>,
    /// The coordinator's certificate [default: /etc/orch/coordinator.pem].
    #[arg(long, env = "ORCH_TLS_CERT", value_name = "FILE", global = true)]
    pub tls_cert: Option<PathBuf>,
    /// Its private key, mode 0600 [default: /etc/orch/coordinator.key].
    #[arg(long, env = "ORCH_TLS_KEY", value_name = "FILE", global = true)]
    pub tls_key: Option<PathBuf>,
    /// Directory of workers that override the built-in ones; after /etc/orch/prompts.
    #[arg(long, env = "ORCH_PROMPTS", value_name = "DIR", global = true)]
    pub prompts: Option<PathBuf>,
    /// File of limits of credential pools, before those of the settings file; see docs/limits.md.
    #[arg(long, env = "ORCH_LIMITS", value_name = "FILE", global = true)]
    pub limits: Option<PathBuf>,
    /// File of list prices, before the built-in ones; see docs/costs.md.
    #[arg(long, env = "ORCH_PRICES", value_name = "FILE", global = true)]
    pub prices: Option<PathBuf>,
    /// How often agents send heartbeats; every deadline scales with it [default: 5s].
    #[arg(long, env = "ORCH_HEARTBEAT_INTERVAL", value_name = "DUR", value_parser = humantime::parse_duration, global = true)]
    pub heartbeat_interval: Option<Duration>,
    /// Longest time a child may show no sign of work: no line, no growing session file, no busy tool [default: 30min].
    #[arg(long, env = "ORCH_SILENCE_LIMIT", value_name = "DUR", value_parser = humantime::parse_duration, global = true)]
    pub silence_limit: Option<Duration>,
    /// How long finished runs are kept [default: 30days].
    #[arg(long, env = "ORCH_KEEP_RUNS", value_name = "DUR", value_parser = humantime::parse_duration, global = true)]
    pub keep_runs: Option<Duration>,
    /// How long transcripts are kept [default: 14days].
    #[arg(long, env = "ORCH_KEEP_TRANSCRIPTS", value_name = "DUR", value_parser = humantime::parse_duration, global = true)]
    pub keep_transcripts: Option<Duration>,
    /// What all transcripts may take up; the oldest go first [default: 20GiB].
    #[arg(long, env = "ORCH_MAX_TRANSCRIPTS", value_name = "SIZE", global = true)]
    pub max_transcripts: Option<Size>,
    /// How long events are kept for watchers [default: 7days].
    #[arg(long, env = "ORCH_KEEP_EVENTS", value_name = "DUR", value_parser = humantime::parse_duration, global = true)]
    pub keep_events: Option<Duration>,
    /// What all events may take up; the oldest go first [default: 1GiB].
    #[arg(long, env = "ORCH_MAX_EVENTS", value_name = "SIZE", global = true)]
    pub max_events: Option<Size>,
    /// How long costs are kept [default: 400days].
    #[arg(long, env = "ORCH_KEEP_COSTS", value_name = "DUR", value_parser = humantime::parse_duration, global = true)]
    pub keep_costs: Option<Duration>,
    /// How long idempotency keys are remembered [default: 7days].
    #[arg(long, env = "ORCH_KEEP_REQUEST_IDS", value_name = "DUR", value_parser = humantime::parse_duration, global = true)]
    pub keep_request_ids: Option<Duration>,
    /// Most tasks that may wait and run, of everybody [default: 1000000].
    #[arg(long, env = "ORCH_MAX_TASKS", value_name = "N", global = true)]
    pub max_tasks: Option<usize>,
    /// Most tasks that may wait and run, of one tenant [default: 4/5 of --max-tasks].
    #[arg(long, env = "ORCH_MAX_TENANT_TASKS", value_name = "N", global = true)]
    pub max_tenant_tasks: Option<usize>,
    /// File that gets addresses and pid, as JSON, once the coordinator is ready.
    #[arg(long, env = "ORCH_READY_FILE", value_name = "FILE", global = true)]
    pub ready_file: Option<PathBuf>,
    /// Log filter, for example `info,orch_coordinator=debug` [default: info].
    #[arg(long, env = "ORCH_LOG", value_name = "FILTER", global = true)]
    pub log: Option<String>,
}

/// Settings as a file gives them: the same names, all optional, unknown ones refused.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileSettings {
    listen: Option<SocketAddr>,
    probe: Option<SocketAddr>,
    data_dir: Option<PathBuf>,
    tls_ca: Option<PathBuf>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    prompts: Option<PathBuf>,
    limits: Option<PathBuf>,
    #[serde(default)]
    pools: PoolTables,
    prices: Option<PathBuf>,
    heartbeat_interval: Option<String>,
    silence_limit: Option<String>,
    keep_runs: Option<String>,
    keep_transcripts: Option<String>,
    max_transcripts: Option<Size>,
    keep_events: Option<String>,
    max_events: Option<Size>,
    keep_costs: Option<String>,
    keep_request_ids: Option<String>,
    max_tasks: Option<usize>,
    max_tenant_tasks: Option<usize>,
    ready_file: Option<PathBuf>,
    log: Option<String>,
}

/// Settings in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What these were put together from, besides the file that they may name.
    flags: Flags,
    /// Address for gRPC over mTLS.
    pub listen: SocketAddr,
    /// Address for probes.
    pub probe: SocketAddr,
    /// Directory of all data.
    pub data_dir: PathBuf,
    /// Certificate authority.
    pub tls_ca: PathBuf,
    /// Certificate.
    pub tls_cert: PathBuf,
    /// Private key.
    pub tls_key: PathBuf,
    /// Workers that override the built-in ones.
    pub prompts: Option<PathBuf>,
    /// File of limits.
    pub limits: Option<PathBuf>,
    /// Limits of credential pools, of that file and of the settings file.
    pub pools: Limits,
    /// File of list prices.
    pub prices: Option<PathBuf>,
    /// How often agents send heartbeats.
    pub heartbeat_interval: Duration,
    /// Longest time without a sign of work.
    pub silence_limit: Duration,
    /// What is kept how long.
    pub keep: Keep,
    /// Most tasks that may wait and run, of everybody.
    pub max_tasks: usize,
    /// Those of one tenant.
    pub max_tenant_tasks: usize,
    /// File to announce readiness in.
    pub ready_file: Option<PathBuf>,
    /// Log filter.
    pub log: String,
}

/// What is kept how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Finished runs, with their answers and artifacts.
    pub runs: Duration,
    /// Transcripts.
    pub transcripts: Duration,
    /// All transcripts together.
    pub max_transcripts: Size,
    /// Events.
    pub events: Duration,
    /// All events together.
    pub max_events: Size,
    /// Costs: entries of the ledger.
    pub costs: Duration,
    /// Idempotency keys.
    pub request_ids: Duration,
}

const DAY: Duration = Duration::from_secs(86_400);
/// Anything shorter would take away what somebody still looks at.
const KEEP_LEAST: Duration = Duration::from_secs(60);
/// Longer is a mistake: 100 years.
const KEEP_MOST: Duration = Duration::from_secs(36_525 * 86_400);
/// Tasks that may wait and run; more have not been measured.
const MAX_TASKS: usize = 1_000_000;
/// Settings that a reload puts in force.
const RELOADABLE: [&str; 4] = ["prompts", "log", "limits", "prices"];

/// Why settings were refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read settings from {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{path}: {message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, column and reason.
        message: String,
    },
    /// Limits of pools cannot be what they say.
    #[error(transparent)]
    Limits(#[from] LimitsError),
    /// A value is out of range.
    #[error("{name} is {value}: {reason}")]
    Range {
        /// The setting.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it must be.
        reason: &'static str,
    },
}

impl Config {
    /// Puts flags, environment (both in `flags`), file and defaults together.
    ///
    /// # Errors
    /// When the file cannot be used or a value is out of range.
    pub fn resolve(flags: Flags) -> Result<Self, ConfigError> {
        let (file, pools) = match flags.config.as_deref() {
            Some(path) => read_file(path)?,
            None => (FileSettings::default(), Limits::new()),
        };
        let limits = or(&flags.limits, &file.limits);
        let etc = |name: &str| Path::new("/etc/orch").join(name);
        let heartbeat = duration(
            "heartbeat_interval",
            flags.heartbeat_interval,
            file.heartbeat_interval.as_deref(),
            Duration::from_secs(5),
        )?;
        if !(Duration::from_millis(20)..=Duration::from_secs(60)).contains(&heartbeat) {
            return Err(out_of_range("heartbeat_interval", heartbeat, "must be between 20ms and 1m"));
        }
        let silence = duration(
            "silence_limit",
            flags.silence_limit,
            file.silence_limit.as_deref(),
            Duration::from_secs(30 * 60),
        )?;
        if silence < Duration::from_secs(1) {
            return Err(out_of_range("silence_limit", silence, "must be at least 1s"));
        }
        let (max_tasks, max_tenant_tasks) = queue(&flags, &file)?;
        Ok(Self {
            listen: flags.listen.or(file.listen).unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 7443))),
            probe: flags.probe.or(file.probe).unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 7481))),
            data_dir: or(&flags.data_dir, &file.data_dir).unwrap_or_else(|| PathBuf::from("/var/lib/orch")),
            tls_ca: or(&flags.tls_ca, &file.tls_ca).unwrap_or_else(|| etc("ca.pem")),
            tls_cert: or(&flags.tls_cert, &file.tls_cert).unwrap_or_else(|| etc("coordinator.pem")),
            tls_key: or(&flags.tls_key, &file.tls_key).unwrap_or_else(|| etc("coordinator.key")),
            prompts: or(&flags.prompts, &file.prompts),
            pools: match &limits {
                Some(path) => limits::before(limits::read(path)?, pools),
                None => pools,
            },
            limits,
            prices: or(&flags.prices, &file.prices),
            heartbeat_interval: heartbeat,
            silence_limit: silence,
            keep: keep(&flags, &file)?,
            max_tasks,
            max_tenant_tasks,
            ready_file: or(&flags.ready_file, &file.ready_file),
            log: or(&flags.log, &file.log).unwrap_or_else(|| "info".to_owned()),
            flags,
        })
    }

    /// The same settings, with the file read again. Flags and environment are those of the start, and still win.
    ///
    /// # Errors
    /// As [`Config::resolve`].
    pub fn again(&self) -> Result<Self, ConfigError> {
        Self::resolve(self.flags.clone())
    }

    /// Names of settings that differ in `other` and that a reload cannot put in force.
    #[must_use]
    pub fn needing_a_restart(&self, other: &Self) -> Vec<&'static str> {
        let pairs = self.settings().into_iter().zip(other.settings());
        let changed = pairs.filter(|((_, mine), (_, theirs))| mine != theirs).map(|((name, _), _)| name);
        changed.filter(|name| !RELOADABLE.contains(name)).collect()
    }

    /// The settings in force, a line each, as `orchd config check` prints them.
    #[must_use]
    pub fn describe(&self) -> String {
        let settings = self.settings();
        let lines = settings.iter().map(|(name, value)| format!("{name:<20}{value}\n"));
        lines.chain([limits::describe(&self.pools)]).collect()
    }

    fn settings(&self) -> [(&'static str, String); 22] {
        let path = |path: &Path| path.display().to_string();
        let or_none = |value: &Option<PathBuf>| value.as_deref().map_or_else(|| "-".to_owned(), path);
        let time = |length: Duration| humantime::format_duration(length).to_string();
        [
            ("listen", self.listen.to_string()),
            ("probe", self.probe.to_string()),
            ("data_dir", path(&self.data_dir)),
            ("tls_ca", path(&self.tls_ca)),
            ("tls_cert", path(&self.tls_cert)),
            ("tls_key", path(&self.tls_key)),
            ("prompts", or_none(&self.prompts)),
            ("limits", or_none(&self.limits)),
            ("prices", or_none(&self.prices)),
            ("heartbeat_interval", time(self.heartbeat_interval)),
            ("silence_limit", time(self.silence_limit)),
            ("keep_runs", time(self.keep.runs)),
            ("keep_transcripts", time(self.keep.transcripts)),
            ("max_transcripts", self.keep.max_transcripts.to_string()),
            ("keep_events", time(self.keep.events)),
            ("max_events", self.keep.max_events.to_string()),
            ("keep_costs", time(self.keep.costs)),
            ("keep_request_ids", time(self.keep.request_ids)),
            ("max_tasks", self.max_tasks.to_string()),
            ("max_tenant_tasks", self.max_tenant_tasks.to_string()),
            ("ready_file", or_none(&self.ready_file)),
            ("log", self.log.clone()),
        ]
    }
}

/// The most tasks that may wait and run: of everybody, and of one tenant.
fn queue(flags: &Flags, file: &FileSettings) -> Result<(usize, usize), ConfigError> {
    let all = flags.max_tasks.or(file.max_tasks).unwrap_or(MAX_TASKS);
    let tenant = flags.max_tenant_tasks.or(file.max_tenant_tasks).unwrap_or(all - all / 5);
    let refused =
        |name, value: usize, reason| Err(ConfigError::Range { name, value: value.to_string(), reason });
    if all == 0 || all > MAX_TASKS {
        return refused("max_tasks", all, "must be between 1 and 1000000");
    }
    if tenant == 0 || tenant > all {
        return refused("max_tenant_tasks", tenant, "must be between 1 and max_tasks");
    }
    Ok((all, tenant))
}

fn keep(flags: &Flags, file: &FileSettings) -> Result<Keep, ConfigError> {
    let kept = |name, flag, text: &Option<String>, days: u32| {
        let length = duration(name, flag, text.as_deref(), DAY * days)?;
        if (KEEP_LEAST..=KEEP_MOST).contains(&length) {
            return Ok(length);
        }
        Err(out_of_range(name, length, "must be between 1m and 100years"))
    };
    Ok(Keep {
        runs: kept("keep_runs", flags.keep_runs, &file.keep_runs, 30)?,
        transcripts: kept("keep_transcripts", flags.keep_transcripts, &file.keep_transcripts, 14)?,
        max_transcripts: flags.max_transcripts.or(file.max_transcripts).unwrap_or(Size(20 << 30)),
        events: kept("keep_events", flags.keep_events, &file.keep_events, 7)?,
        max_events: flags.max_events.or(file.max_events).unwrap_or(Size(1 << 30)),
        costs: kept("keep_costs", flags.keep_costs, &file.keep_costs, 400)?,
        request_ids: kept("keep_request_ids", flags.keep_request_ids, &file.keep_request_ids, 7)?,
    })
}

fn duration(
    name: &'static str,
    flag: Option<Duration>,
    file: Option<&str>,
    default: Duration,
) -> Result<Duration, ConfigError> {
    match (flag, file) {
        (Some(flag), _) => Ok(flag),
        (None, Some(text)) => humantime::parse_duration(text).map_err(|_| ConfigError::Range {
            name,
            value: text.to_owned(),
            reason: "must be a duration such as 5s or 30days",
        }),
        (None, None) => Ok(default),
    }
}

fn out_of_range(name: &'static str, value: Duration, reason: &'static str) -> ConfigError {
    ConfigError::Range { name, value: humantime::format_duration(value).to_string(), reason }
}

/// The first of two that says something.
fn or<T: Clone>(flag: &Option<T>, file: &Option<T>) -> Option<T> {
    flag.as_ref().or(file.as_ref()).cloned()
}

/// The settings of a file, and the limits that stand in it.
fn read_file(path: &Path) -> Result<(FileSettings, Limits), ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let file: FileSettings = toml::from_str(&text)
        .map_err(|error| ConfigError::Parse { path: path.to_owned(), message: limits::explained(&error) })?;
    let pools = limits::checked(&file.pools, path, &text)?;
    Ok((file, pools))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> (tempfile::NamedTempFile, Flags) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let flags = Flags { config: Some(file.path().to_owned()), ..Flags::default() };
        (file, flags)
    }

    #[test]
    fn flags_beat_the_file_and_the_file_beats_defaults() {
        let (_file, mut flags) =
            file("listen = \"127.0.0.1:1\"\nprobe = \"127.0.0.1:2\"\nheartbeat_interval = \"1s\"");
        flags.listen = Some(([127, 0, 0, 1], 9).into());
        let config = Config::resolve(flags).unwrap();
        assert_eq!(config.listen.port(), 9);
        assert_eq!(config.probe.port(), 2);
        assert_eq!(config.heartbeat_interval, Duration::from_secs(1));
        assert_eq!(config.data_dir, Path::new("/var/lib/orch"));
    }

    #[test]
    fn unknown_settings_and_bad_values_are_refused_with_their_place() {
        let (_file, flags) = file("\nlisten_on = 1\n");
        let text = Config::resolve(flags).unwrap_err().to_string();
        assert!(text.contains("listen_on") && text.contains("line 2"), "{text}");
        let (_file, flags) = file("heartbeat_interval = \"1h\"");
        assert!(Config::resolve(flags).unwrap_err().to_string().contains("between 20ms and 1m"));
        let (_file, flags) = file("keep_runs = \"soon\"");
        assert!(Config::resolve(flags).unwrap_err().to_string().contains("keep_runs is soon"));
        let (_file, flags) = file("keep_events = \"1s\"");
        assert!(Config::resolve(flags).unwrap_err().to_string().contains("between 1m and 100years"));
        let (_file, flags) = file("max_tasks = 10\nmax_tenant_tasks = 11");
        assert!(Config::resolve(flags).unwrap_err().to_string().contains("max_tenant_tasks is 11"));
        let (_file, flags) = file("max_tasks = 0");
        assert!(Config::resolve(flags).unwrap_err().to_string().contains("max_tasks is 0"));
        let (_file, flags) = file("max_tasks = 10");
        assert_eq!(Config::resolve(flags).unwrap().max_tenant_tasks, 8, "nobody can take everything");
        let (_file, flags) = file("max_events = \"lots\"");
        assert!(Config::resolve(flags).unwrap_err().to_string().contains("`lots` is not a number of bytes"));
    }

    #[test]
    fn a_reload_reads_the_file_again_keeps_the_flags_and_says_what_needs_a_restart() {
        let (file, mut flags) = file("log = \"info\"\nkeep_runs = \"10days\"");
        flags.probe = Some(([127, 0, 0, 1], 9).into());
        let before = Config::resolve(flags).unwrap();
        std::fs::write(file.path(), "log = \"debug\"\nprobe = \"127.0.0.1:1\"\nkeep_runs = \"9days\"")
            .unwrap();
        let after = before.again().unwrap();
        assert_eq!((after.log.as_str(), after.probe.port()), ("debug", 9), "a flag still wins");
        assert_eq!(before.needing_a_restart(&after), ["keep_runs"]);
    }

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }
}
