//! Which credential pools an operator wants: names, kinds, places, workers. Pure but for making paths absolute.
//! Knows flags and tables; refuses to read a credential.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use thiserror::Error;

use super::login::LOGIN_FILE;

/// The pool of `--api-key-file`, and of every worker that no pool names.
pub const DEFAULT_POOL: &str = "default";

/// How long what a helper printed is used when nothing else is said.
pub const DEFAULT_TTL: Duration = Duration::from_secs(300);

/// Longest name of a pool or worker, in bytes.
const LONGEST_NAME: usize = 63;

/// A pool as the operator describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolSettings {
    /// Its name: `[a-z0-9][a-z0-9-]{0,62}`.
    pub name: String,
    /// Where its credential comes from.
    pub source: Source,
    /// Workers it serves; empty: every worker that no other pool names.
    pub workers: BTreeSet<String>,
    /// Where the API of this credential is, when not where the agent's others are.
    pub base_url: Option<String>,
    /// Whether its requests pass the agent's gateway, where its kind lets them; absent: as for all pools.
    pub gateway: Option<Gateway>,
}

/// Whether requests pass the agent's gateway: it counts them, waits for credit and keeps the credential from the child.
/// Only API keys can: of a subscription the CLI itself must hold the login.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Gateway {
    /// They do.
    #[default]
    On,
    /// The CLI asks the API itself, with the credential in its environment.
    Off,
}

impl PoolSettings {
    /// A pool of this credential for every worker, with everything else as usual.
    #[must_use]
    pub fn new(name: impl Into<String>, source: Source) -> Self {
        Self { name: name.into(), source, workers: BTreeSet::new(), base_url: None, gateway: None }
    }
}

/// Where a credential comes from. Paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file with an API key.
    ApiKey(PathBuf),
    /// A file with a long-lived token of a subscription.
    Token(PathBuf),
    /// A directory with the CLI's own login.
    Login(PathBuf),
    /// A command that prints a key.
    Helper {
        /// Program and arguments; no shell.
        command: Vec<String>,
        /// How long what it printed is used.
        ttl: Duration,
    },
}

impl Source {
    /// Every place of it that nobody but the agent is to read.
    #[must_use]
    pub fn places(&self) -> Vec<PathBuf> {
        match self {
            Self::ApiKey(file) | Self::Token(file) => vec![file.clone()],
            // The login itself as well: it may be a link to another place.
            Self::Login(dir) => vec![dir.clone(), dir.join(LOGIN_FILE)],
            Self::Helper { .. } => Vec::new(),
        }
    }

    /// The word of settings and tables: `api-key`, `token`, `login`, `helper`.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::ApiKey(_) => "api-key",
            Self::Token(_) => "token",
            Self::Login(_) => "login",
            Self::Helper { .. } => "helper",
        }
    }
}

/// A table `[pools.NAME]` of the settings file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolTable {
    kind: String,
    file: Option<PathBuf>,
    dir: Option<PathBuf>,
    #[serde(default)]
    command: Vec<String>,
    ttl: Option<String>,
    #[serde(default)]
    workers: Vec<String>,
    base_url: Option<String>,
    gateway: Option<Gateway>,
}

/// Why pools were refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("pool {pool:?}: {reason}")]
pub struct PoolRefused {
    /// Which pool, or the text that should have named one.
    pub pool: String,
    /// What it must be.
    pub reason: String,
}

/// Everything that describes pools.
#[derive(Debug, Default)]
pub struct Described {
    /// `NAME=KIND:VALUE`.
    pub flags: Vec<String>,
    /// `NAME=WORKER,WORKER`.
    pub workers: Vec<String>,
    /// Tables of the settings file, by name.
    pub tables: BTreeMap<String, PoolTable>,
    /// File of the pool `default`.
    pub api_key_file: Option<PathBuf>,
}

/// The pools that flags and tables describe, by name; a flag replaces a table of the same name. `logins` is the
/// directory with a directory for each pool of kind login.
///
/// # Errors
/// When one cannot be used, or two cannot be used together.
pub fn pools(described: Described, logins: &Path) -> Result<Vec<PoolSettings>, PoolRefused> {
    let Described { flags, workers, tables, api_key_file } = described;
    let mut pools = BTreeMap::new();
    for (name, table) in tables {
        let pool = of_table(name, table, logins)?;
        pools.insert(pool.name.clone(), pool);
    }
    let mut flagged = BTreeSet::new();
    for flag in flags {
        let pool = of_flag(&flag, logins)?;
        if !flagged.insert(pool.name.clone()) {
            return Err(refused(&pool.name, "is given twice"));
        }
        pools.insert(pool.name.clone(), pool);
    }
    if let Some(file) = api_key_file {
        if pools.contains_key(DEFAULT_POOL) {
            return Err(refused(DEFAULT_POOL, "is the pool of the API key file too; give it once"));
        }
        let source = Source::ApiKey(file);
        let pool = PoolSettings::new(DEFAULT_POOL, source);
        pools.insert(pool.name.clone(), pool);
    }
    for flag in workers {
        let (name, list) = flag.split_once('=').unwrap_or((&flag, ""));
        let pool = pools.get_mut(name).ok_or_else(|| refused(name, "is not a pool of this agent"))?;
        pool.workers = worker_names(name, list.split(',').map(str::to_owned))?;
        if pool.workers.is_empty() {
            return Err(refused(name, "must serve at least one worker, as NAME=marie,anga"));
        }
    }
    no_worker_twice(pools.values())?;
    Ok(pools.into_values().collect())
}

fn no_worker_twice<'a>(pools: impl Iterator<Item = &'a PoolSettings>) -> Result<(), PoolRefused> {
    let mut served: BTreeMap<&str, &str> = BTreeMap::new();
    for pool in pools {
        for worker in &pool.workers {
            if let Some(other) = served.insert(worker, &pool.name) {
                return Err(refused(
                    &pool.name,
                    format!("serves worker {worker}, and so does pool {other}; choose one"),
                ));
            }
        }
    }
    Ok(())
}

fn of_table(name: String, table: PoolTable, logins: &Path) -> Result<PoolSettings, PoolRefused> {
    let name = pool_name(name)?;
    let PoolTable { kind, file, dir, command, ttl, workers, base_url, gateway } = table;
    let misplaced = |what: &str| refused(&name, format!("is of kind {kind}, which takes no {what}"));
    let is = |wanted: &[&str]| wanted.contains(&kind.as_str());
    for (given, what, kinds) in [
        (file.is_some(), "file", &["api-key", "token"][..]),
        (dir.is_some(), "dir", &["login"]),
        (!command.is_empty(), "command", &["helper"]),
        (ttl.is_some(), "ttl", &["helper"]),
    ] {
        if given && !is(&["api-key", "token", "login", "helper"]) {
            break;
        }
        if given && !is(kinds) {
            return Err(misplaced(what));
        }
    }
    let file =
        || file.clone().ok_or_else(|| refused(&name, format!("is of kind {kind}, which needs a file")));
    let source = match kind.as_str() {
        "api-key" => Source::ApiKey(absolute(&name, file()?)?),
        "token" => Source::Token(absolute(&name, file()?)?),
        "login" => Source::Login(absolute(&name, dir.unwrap_or_else(|| logins.join(&name)))?),
        "helper" => helper(&name, command, ttl.as_deref())?,
        other => return Err(unknown_kind(&name, other)),
    };
    let workers = worker_names(&name, workers.into_iter())?;
    if gateway == Some(Gateway::On) && !is(&["api-key", "helper"]) {
        return Err(refused(
            &name,
            format!("is of kind {kind}: the CLI itself holds that login, so its requests pass no gateway"),
        ));
    }
    let base_url = base_url.map(|url| web(&name, url)).transpose()?;
    Ok(PoolSettings { source, workers, base_url, gateway, name })
}

fn of_flag(flag: &str, logins: &Path) -> Result<PoolSettings, PoolRefused> {
    let form = "must be NAME=api-key:FILE, NAME=token:FILE, NAME=login or NAME=helper:PROGRAM";
    let (name, rest) = flag.split_once('=').ok_or_else(|| refused(flag, form))?;
    let name = pool_name(name.to_owned())?;
    let (kind, value) = rest.split_once(':').unwrap_or((rest, ""));
    let value = Some(value).filter(|value| !value.is_empty());
    let needed = || value.ok_or_else(|| refused(&name, form));
    let source = match kind {
        "api-key" => Source::ApiKey(absolute(&name, needed()?.into())?),
        "token" => Source::Token(absolute(&name, needed()?.into())?),
        "login" => Source::Login(absolute(&name, value.map_or_else(|| logins.join(&name), PathBuf::from))?),
        "helper" => helper(&name, vec![needed()?.to_owned()], None)?,
        other => return Err(unknown_kind(&name, other)),
    };
    Ok(PoolSettings::new(name, source))
}

fn helper(pool: &str, command: Vec<String>, ttl: Option<&str>) -> Result<Source, PoolRefused> {
    if command.first().is_none_or(String::is_empty) {
        return Err(refused(pool, "is of kind helper, which needs a command: [\"PROGRAM\", \"ARGUMENT\"]"));
    }
    let ttl = match ttl {
        None => DEFAULT_TTL,
        Some(text) => humantime::parse_duration(text)
            .map_err(|error| refused(pool, format!("has a ttl of {text:?}: {error}")))?,
    };
    Ok(Source::Helper { command, ttl })
}

fn unknown_kind(pool: &str, kind: &str) -> PoolRefused {
    refused(pool, format!("has the kind {kind:?}; the kinds are api-key, token, login and helper"))
}

fn pool_name(name: String) -> Result<String, PoolRefused> {
    if is_name(&name) {
        return Ok(name);
    }
    Err(refused(
        &name,
        "a name is 1 to 63 lower-case letters, digits and dashes, beginning with a letter or digit",
    ))
}

fn worker_names(pool: &str, names: impl Iterator<Item = String>) -> Result<BTreeSet<String>, PoolRefused> {
    let names: BTreeSet<String> =
        names.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect();
    match names.iter().find(|name| !is_name(name)) {
        Some(bad) => Err(refused(pool, format!("serves {bad:?}, which is not the name of a worker"))),
        None => Ok(names),
    }
}

/// Whether a text can name a pool or a worker.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.len() <= LONGEST_NAME
        && text.bytes().next().is_some_and(plain)
        && text.bytes().all(|byte| plain(byte) || byte == b'-')
}

fn web(pool: &str, url: String) -> Result<String, PoolRefused> {
    let uri: Option<http::Uri> = url.parse().ok();
    if uri.is_some_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some()) {
        return Ok(url);
    }
    Err(refused(pool, format!("has the base_url {url:?}, which must be a URL such as https://api.example")))
}

fn absolute(pool: &str, path: PathBuf) -> Result<PathBuf, PoolRefused> {
    std::path::absolute(&path).map_err(|_| refused(pool, format!("{} is not a path", path.display())))
}

fn refused(pool: &str, reason: impl Into<String>) -> PoolRefused {
    PoolRefused { pool: pool.to_owned(), reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(toml: &str, flags: &[&str], workers: &[&str]) -> Result<Vec<PoolSettings>, String> {
        let described = Described {
            flags: flags.iter().map(ToString::to_string).collect(),
            workers: workers.iter().map(ToString::to_string).collect(),
            tables: toml::from_str(toml).map_err(|error| error.to_string())?,
            api_key_file: None,
        };
        pools(described, Path::new("/data/pools")).map_err(|error| error.to_string())
    }

    #[test]
    fn tables_and_flags_describe_the_same_pools() {
        let toml = r#"
            [a]
            kind = "api-key"
            file = "/k"
            workers = ["marie"]
            base_url = "http://127.0.0.1:9"
            [h]
            kind = "helper"
            command = ["pass", "show", "claude"]
            ttl = "1h"
            [l]
            kind = "login"
        "#;
        let pools =
            resolve(toml, &["t=token:/t", "x=helper:/bin/x", "m=login:/m"], &["t=anga,fabien"]).unwrap();
        let by_name: BTreeMap<_, _> = pools.iter().map(|pool| (pool.name.as_str(), pool)).collect();
        assert_eq!(by_name["a"].source, Source::ApiKey("/k".into()));
        assert_eq!(by_name["a"].base_url.as_deref(), Some("http://127.0.0.1:9"));
        assert_eq!(by_name["a"].workers, ["marie".to_owned()].into());
        let command = ["pass", "show", "claude"].map(str::to_owned).into();
        assert_eq!(by_name["h"].source, Source::Helper { command, ttl: Duration::from_secs(3600) });
        assert_eq!(by_name["l"].source, Source::Login("/data/pools/l".into()));
        assert_eq!(by_name["m"].source, Source::Login("/m".into()));
        assert_eq!(by_name["t"].source, Source::Token("/t".into()));
        assert_eq!(by_name["t"].workers.len(), 2);
        assert_eq!(by_name["x"].source, Source::Helper { command: vec!["/bin/x".into()], ttl: DEFAULT_TTL });
        let words: Vec<_> = pools.iter().map(|pool| pool.source.word()).collect();
        assert_eq!(words, ["api-key", "helper", "login", "login", "token", "helper"]);
    }

    #[test]
    fn a_key_file_is_the_default_pool_and_paths_become_absolute() {
        let described = Described { api_key_file: Some("/k".into()), ..Described::default() };
        let pools = pools(described, Path::new("/p")).unwrap();
        assert_eq!((pools[0].name.as_str(), &pools[0].source), ("default", &Source::ApiKey("/k".into())));
        let Source::ApiKey(path) = resolve("", &["a=api-key:k"], &[]).unwrap().remove(0).source else {
            panic!()
        };
        assert!(path.is_absolute());
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_what_it_must_be() {
        let error = |toml: &str, flags: &[&str], workers: &[&str]| resolve(toml, flags, workers).unwrap_err();
        assert_eq!(
            error("", &["a=key:/k"], &[]),
            r#"pool "a": has the kind "key"; the kinds are api-key, token, login and helper"#
        );
        assert!(error("", &["a=api-key"], &[]).contains("must be NAME=api-key:FILE"));
        assert!(error("", &["a"], &[]).contains("must be NAME=api-key:FILE"));
        for bad in ["", "A", "-a", "a/b", "../x", "a_b", &"a".repeat(64)] {
            assert!(error("", &[&format!("{bad}=login")], &[]).contains("lower-case letters"), "{bad}");
        }
        assert_eq!(error("", &["a=login", "a=login"], &[]), r#"pool "a": is given twice"#);
        assert_eq!(error("", &["a=login"], &["b=marie"]), r#"pool "b": is not a pool of this agent"#);
        assert!(error("", &["a=login"], &["a"]).contains("at least one worker"));
        assert!(error("", &["a=login"], &["a=Marie"]).contains("not the name of a worker"));
        assert_eq!(
            error("", &["a=login", "b=login"], &["a=marie", "b=marie"]),
            r#"pool "b": serves worker marie, and so does pool a; choose one"#
        );
        assert!(error("[a]\nkind = \"api-key\"\n", &[], &[]).contains("needs a file"));
        assert!(error("[a]\nkind = \"login\"\nfile = \"/x\"\n", &[], &[]).contains("takes no file"));
        assert!(
            error("[a]\nkind = \"token\"\nfile = \"/x\"\nttl = \"1s\"\n", &[], &[]).contains("takes no ttl")
        );
        assert!(error("[a]\nkind = \"helper\"\n", &[], &[]).contains("needs a command"));
        assert!(
            error("[a]\nkind = \"helper\"\ncommand = [\"x\"]\nttl = \"soon\"\n", &[], &[]).contains("ttl")
        );
        assert!(error("[a]\nkind = \"login\"\nbase_url = \"ftp://x\"\n", &[], &[]).contains("base_url"));
        assert!(error("[a]\nkind = \"login\"\ngateway = \"on\"\n", &[], &[]).contains("pass no gateway"));
        assert!(error("[a]\nkind = \"login\"\nsecret = \"x\"\n", &[], &[]).contains("unknown field"));
    }

    #[test]
    fn a_flag_replaces_a_table_and_a_key_file_beside_a_default_pool_is_refused() {
        let toml = "[default]\nkind = \"login\"\n";
        let pools_of = resolve(toml, &["default=token:/t"], &[]).unwrap();
        assert_eq!(pools_of[0].source, Source::Token("/t".into()));
        let described = Described {
            tables: toml::from_str(toml).unwrap(),
            api_key_file: Some("/k".into()),
            ..Described::default()
        };
        assert!(pools(described, Path::new("/p")).unwrap_err().to_string().contains("give it once"));
    }
}
