//! `orch-agent login` and `orch-agent pools`: an operator at a terminal of the host. Knows the CLI's own sign-in and the
//! pools of the settings; refuses to touch a login that an attempt uses.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use serde::Serialize;

use super::health::{Health, QUIET};
use super::login::{LOGIN_FILE, Lock, LoginPlace};
use super::pool::PoolState;
use super::settings::{PoolSettings, Source};
use super::{Pools, make_pools_dir, within};
use crate::assembly;
use crate::config::Config;

/// Beginnings of variables that would sign the CLI in as somebody else, or send it elsewhere.
const NOT_FOR_SIGN_IN: [&str; 3] = ["ANTHROPIC_", "CLAUDE_", "ORCH_"];

/// Longest token that is believed, in bytes.
const LONGEST_TOKEN: usize = 16 * 1024;

/// Flags of `login`.
#[derive(Debug, Args)]
pub struct LoginArgs {
    /// Pool to sign in to [default: the only one of kind login or token].
    #[arg(long, value_name = "NAME")]
    pub pool: Option<String>,
    /// Further arguments for the CLI's own sign-in, after `--`, for example `-- --sso`.
    #[arg(last = true, value_name = "ARGUMENT")]
    pub cli_args: Vec<String>,
}

/// Flags of `pools`.
#[derive(Debug, Args)]
pub struct PoolsArgs {
    /// One JSON array instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// Signs in to a pool with the CLI's own means, and says what came of it.
///
/// # Errors
/// When there is no such pool, it is in use, or the CLI cannot be run.
pub fn login(config: &Config, args: &LoginArgs) -> anyhow::Result<ExitCode> {
    let pool = chosen(&config.pools, args.pool.as_deref())?;
    let name = &pool.name;
    let program = assembly::find_cli(config).with_context(|| {
        format!("the CLI {:?} was not found: install it, or name it with --claude-bin", config.claude_bin)
    })?;
    let pools_dir = make_pools_dir(&config.data_dir)?;
    match &pool.source {
        Source::Login(dir) => {
            let place = LoginPlace::new(name, dir, &config.data_dir);
            // Held until all is done: no attempt may use what is being replaced.
            let _lock = locked(name, &place)?;
            sign_in(&program, &["auth", "login"], &args.cli_args, dir)?;
            make_private(&dir.join(LOGIN_FILE));
            Ok(told(config, name))
        }
        Source::Token(file) => {
            let scratch = tempfile::Builder::new().prefix("login-").tempdir_in(pools_dir)?;
            sign_in(&program, &["setup-token"], &args.cli_args, scratch.path())?;
            let token = ask_for_token()?;
            within::replace(file, token.as_bytes())
                .with_context(|| format!("cannot write {}", file.display()))?;
            Ok(told(config, name))
        }
        Source::ApiKey(file) => {
            bail!(
                "pool {name} has an API key: write it into {file}, then chmod 600 {file}",
                file = file.display()
            )
        }
        Source::Helper { .. } => bail!("pool {name} asks a helper for its key: nobody signs in to it"),
    }
}

/// Prints every pool and whether it can be used. Fails when one cannot.
///
/// # Errors
/// When the directory of the pools cannot be used or nobody reads what is printed.
pub fn pools(config: &Config, args: &PoolsArgs) -> anyhow::Result<ExitCode> {
    let rows = look(config)?;
    let text = if args.json { serde_json::to_string_pretty(&rows)? + "\n" } else { table(&rows) };
    io::stdout().lock().write_all(text.as_bytes())?;
    let usable = |row: &Row| matches!(row.health, "ready" | "unknown");
    Ok(ExitCode::from(u8::from(!rows.iter().all(usable))))
}

/// A pool as it is printed.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    kind: &'static str,
    health: &'static str,
    detail: String,
    workers: Vec<String>,
    exclusive: bool,
    /// The attempt that uses the login now.
    used_by: Option<String>,
}

fn look(config: &Config) -> anyhow::Result<Vec<Row>> {
    let pools = Pools::open(&config.pools, &config.data_dir, assembly::checker(config))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(pools.check());
    let row = |(state, settings): (PoolState, &PoolSettings)| Row {
        name: state.name,
        kind: state.kind,
        health: state.health.word(),
        detail: state.detail.chars().filter(|char| !char.is_control()).collect(),
        workers: state.workers.into_iter().collect(),
        exclusive: state.exclusive,
        used_by: used_by(settings, &config.data_dir),
    };
    Ok(pools.states().into_iter().zip(&config.pools).map(row).collect())
}

fn used_by(settings: &PoolSettings, data_dir: &Path) -> Option<String> {
    let Source::Login(dir) = &settings.source else { return None };
    let place = LoginPlace::new(&settings.name, dir, data_dir);
    match place.try_lock() {
        Ok(None) => Some(place.note().map_or_else(|| "somebody".to_owned(), |note| note.reference)),
        Ok(Some(_)) | Err(_) => None,
    }
}

fn table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "This agent has no credential pools: start it with --api-key-file or --pool.\n".to_owned();
    }
    let cells: Vec<[String; 5]> = rows
        .iter()
        .map(|row| {
            let workers =
                if row.workers.is_empty() { "all others".to_owned() } else { row.workers.join(",") };
            let used = row.used_by.as_ref().map(|by| format!("; used by {by}")).unwrap_or_default();
            [row.name.clone(), row.kind.into(), row.health.into(), workers, format!("{}{used}", row.detail)]
        })
        .collect();
    let head = ["POOL", "KIND", "HEALTH", "WORKERS", "DETAIL"].map(str::to_owned);
    let mut widths = [0; 5];
    for line in cells.iter().chain([&head]) {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &[String; 5]| {
        let padded: String =
            cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}  ")).collect();
        padded.trim_end().to_owned() + "\n"
    };
    std::iter::once(&head).chain(&cells).map(line).collect()
}

fn chosen<'a>(pools: &'a [PoolSettings], name: Option<&str>) -> anyhow::Result<&'a PoolSettings> {
    let list = || pools.iter().map(|pool| pool.name.as_str()).collect::<Vec<_>>().join(", ");
    if let Some(name) = name {
        return pools.iter().find(|pool| pool.name == name).with_context(|| match pools {
            [] => format!(
                "this agent has no pools: describe one with --pool {name}=login or in its settings file"
            ),
            _ => format!("this agent has no pool {name:?}; it has {}", list()),
        });
    }
    let can = |pool: &&PoolSettings| matches!(pool.source, Source::Login(_) | Source::Token(_));
    let mut candidates = pools.iter().filter(can);
    match (candidates.next(), candidates.next()) {
        (Some(only), None) => Ok(only),
        (None, _) => {
            bail!("this agent has no pool of kind login or token: describe one with --pool NAME=login")
        }
        (Some(_), Some(_)) => bail!("name the pool to sign in to with --pool; there are {}", list()),
    }
}

fn locked(name: &str, place: &LoginPlace) -> anyhow::Result<Lock> {
    if let Some(lock) = place.try_lock()? {
        return Ok(lock);
    }
    match place.note() {
        Some(note) => {
            bail!("the login of pool {name} is used by {}: try again when that has ended", note.reference)
        }
        None => bail!("the login of pool {name} is in use: try again later"),
    }
}

/// Runs the CLI on this terminal.
fn sign_in(program: &Path, words: &[&str], more: &[String], config: &Path) -> anyhow::Result<()> {
    let mut command = Command::new(program);
    command.args(words).args(more);
    for (name, _) in std::env::vars_os() {
        if NOT_FOR_SIGN_IN.iter().any(|start| name.to_string_lossy().starts_with(start)) {
            command.env_remove(&name);
        }
    }
    command.envs(QUIET).env("CLAUDE_CONFIG_DIR", config);
    let status = command.status().with_context(|| format!("cannot run {}", program.display()))?;
    let what = words.join(" ");
    ensure!(status.success(), "`claude {what}` ended with {status}: nothing was changed by orch-agent");
    Ok(())
}

/// The login of the CLI is private already; one that is not is mended rather than refused later.
fn make_private(path: &PathBuf) {
    use std::os::unix::fs::PermissionsExt;
    // Without a login there is nothing to mend, and the look that follows says so.
    let _ = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600));
}

/// Takes the token that `claude setup-token` printed for its user, without showing it again.
#[expect(clippy::print_stderr, reason = "a question to the operator at the terminal")]
fn ask_for_token() -> anyhow::Result<String> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        eprint!("Paste the token that was printed above (it is not shown): ");
    }
    let before = tcgetattr(&stdin).ok();
    if let Some(mut silent) = before.clone() {
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&stdin, OptionalActions::Flush, &silent)?;
    }
    let mut line = String::new();
    let read = stdin.lock().read_line(&mut line);
    if let Some(before) = before {
        tcsetattr(&stdin, OptionalActions::Now, &before)?;
        eprintln!();
    }
    read?;
    let token = line.trim();
    let plain = !token.is_empty()
        && token.len() <= LONGEST_TOKEN
        && token.bytes().all(|byte| byte.is_ascii_graphic());
    ensure!(plain, "that is no token: nothing was written");
    Ok(token.to_owned())
}

/// Says what is there now; fails unless somebody is signed in.
#[expect(clippy::print_stdout, reason = "the answer to the operator's command")]
fn told(config: &Config, name: &str) -> ExitCode {
    let state = look(config).ok().and_then(|rows| rows.into_iter().find(|row| row.name == name));
    let Some(row) = state else { return ExitCode::FAILURE };
    println!("pool {name}: {}", row.detail);
    ExitCode::from(u8::from(row.health != Health::Ready.word()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, workers: &[&str]) -> Row {
        Row {
            name: name.into(),
            kind: "login",
            health: "ready",
            detail: "signed in, by subscription (max)".into(),
            workers: workers.iter().map(ToString::to_string).collect(),
            exclusive: true,
            used_by: (name == "max").then(|| "adhoc/1/a".into()),
        }
    }

    #[test]
    fn the_table_has_a_line_for_each_pool() {
        insta::assert_snapshot!(table(&[row("max", &["anga", "marie"]), row("default", &[])]), @r"
        POOL     KIND   HEALTH  WORKERS     DETAIL
        max      login  ready   anga,marie  signed in, by subscription (max); used by adhoc/1/a
        default  login  ready   all others  signed in, by subscription (max)
        ");
        assert!(table(&[]).contains("no credential pools"));
    }

    #[test]
    fn the_pool_to_sign_in_to_is_named_or_the_only_one() {
        let pool = PoolSettings::new;
        let key = pool("key", Source::ApiKey("/k".into()));
        let (a, b) = (pool("a", Source::Login("/a".into())), pool("b", Source::Token("/b".into())));
        let error = |pools: &[PoolSettings], name: Option<&str>| chosen(pools, name).unwrap_err().to_string();
        assert_eq!(chosen(&[key.clone(), a.clone()], None).unwrap().name, "a");
        assert_eq!(chosen(&[key.clone(), a.clone()], Some("key")).unwrap().name, "key");
        assert!(error(&[a.clone(), b], None).ends_with("there are a, b"));
        assert!(error(&[key], None).contains("--pool NAME=login"));
        assert!(error(&[a], Some("x")).ends_with("it has a"));
        assert!(error(&[], Some("x")).contains("--pool x=login"));
    }
}
