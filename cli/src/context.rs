//! Which coordinator a command talks to, and as whom: flags and variables over one context file.
//!
//! | Order | Source |
//! |---|---|
//! | 1 | `--endpoint --tls-ca --tls-cert --tls-key`, or their `ORCHCTL_*` variables, each for itself |
//! | 2 | the context of `~/.config/orchctl/config.toml` that `-c` names |
//! | 3 | the file that `ORCHCTL_CONTEXT_FILE` names |
//! | 4 | the context of `~/.config/orchctl/config.toml` that `ORCHCTL_CONTEXT` names |
//! | 5 | `.orch-dev/context.json`, here or in a directory above, only with a loopback endpoint and only our own file |
//! | 6 | the `current` context of `~/.config/orchctl/config.toml` |
//!
//! Only the first that is there counts. Rule 5 keeps a cloned repository, or a neighbour's `/tmp`, from
//! redirecting submissions. Nothing is dialled here.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use orch_certs::TlsFiles;
use orch_proto::codes::ErrorCode;
use serde::{Deserialize, Serialize};

use crate::args::Connection;
use crate::config;
use crate::failure::Failure;
use crate::suggest::did_you_mean;

/// Directory that `orchctl dev` keeps its state in.
pub(crate) const DEV_DIR: &str = ".orch-dev";
/// Context file within a directory that `dev` or `init` made.
pub(crate) const CONTEXT_FILE: &str = "context.json";
/// Variable that names a context file.
pub(crate) const CONTEXT_FILE_VAR: &str = "ORCHCTL_CONTEXT_FILE";
/// Variable that chooses a context of the configuration file.
pub(crate) const CONTEXT_NAME_VAR: &str = "ORCHCTL_CONTEXT";
/// Largest context or configuration file: a wrong path, such as a device, is refused instead of read.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What resolution looks at, so that tests need no process-wide state.
pub(crate) struct Surroundings<'a> {
    /// Reads an environment variable.
    pub(crate) var: &'a dyn Fn(&str) -> Option<String>,
    /// Working directory.
    pub(crate) cwd: &'a Path,
    /// Who runs the command.
    pub(crate) uid: u32,
}

/// Where to dial, and with which certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Context {
    /// `https://host:port`.
    pub(crate) endpoint: String,
    /// Certificates and key; not yet read.
    pub(crate) tls: TlsFiles,
    /// Name in the configuration file, if it comes from there.
    pub(crate) name: Option<String>,
    /// Where this came from, for people.
    pub(crate) origin: String,
    /// What was passed over and why, for people.
    pub(crate) notes: Vec<String>,
    /// Whether every command that changes something asks first.
    pub(crate) confirm: bool,
}

/// A context as files hold it. Relative paths count from the file's directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ContextFile {
    /// `https://host:port`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) endpoint: Option<String>,
    /// Certificates of the trusted authorities.
    #[serde(alias = "ca", skip_serializing_if = "Option::is_none")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// Own certificate.
    #[serde(alias = "cert", skip_serializing_if = "Option::is_none")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Own private key.
    #[serde(alias = "key", skip_serializing_if = "Option::is_none")]
    pub(crate) tls_key: Option<PathBuf>,
}

/// A context file that was found.
struct Found {
    file: ContextFile,
    origin: String,
    name: Option<String>,
    confirm: bool,
}

/// Finds the context of a command.
///
/// # Errors
/// A named file that cannot be used, or nothing that says which coordinator is meant.
pub(crate) fn resolve(flags: &Connection, around: &Surroundings<'_>) -> Result<Context, Failure> {
    let mut notes = Vec::new();
    // With all four flags no file is looked for: a broken one must not be in the way.
    let complete = flags.endpoint.is_some()
        && flags.tls_ca.is_some()
        && flags.tls_cert.is_some()
        && flags.tls_key.is_some();
    let found = if complete { None } else { find(flags, around, &mut notes)? };
    let Found { file, origin, name, confirm } = found.unwrap_or_else(|| Found {
        file: ContextFile::default(),
        origin: "flags".to_owned(),
        name: None,
        confirm: false,
    });
    let Some(endpoint) = flags.endpoint.clone().or(file.endpoint) else {
        return Err(nothing_named(&notes));
    };
    let tls = TlsFiles {
        ca: pick(flags.tls_ca.as_ref(), file.tls_ca, "--tls-ca", &origin)?,
        cert: pick(flags.tls_cert.as_ref(), file.tls_cert, "--tls-cert", &origin)?,
        key: pick(flags.tls_key.as_ref(), file.tls_key, "--tls-key", &origin)?,
    };
    Ok(Context { endpoint: normal_endpoint(&endpoint)?, tls, name, origin, notes, confirm })
}

fn find(
    flags: &Connection,
    around: &Surroundings<'_>,
    notes: &mut Vec<String>,
) -> Result<Option<Found>, Failure> {
    if let Some(name) = &flags.context_name {
        return from_config(around, Some(name.clone()));
    }
    if let Some(path) = (around.var)(CONTEXT_FILE_VAR).filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        let origin = path.display().to_string();
        return Ok(Some(Found { file: read_context(&path)?, origin, name: None, confirm: false }));
    }
    if let Some(name) = (around.var)(CONTEXT_NAME_VAR).filter(|name| !name.is_empty()) {
        return from_config(around, Some(name));
    }
    if let Some(found) = find_upwards(around, notes)? {
        return Ok(Some(found));
    }
    from_config(around, None)
}

/// The nearest `.orch-dev/context.json`. One that may not be used ends the search: one further up is not meant either.
fn find_upwards(around: &Surroundings<'_>, notes: &mut Vec<String>) -> Result<Option<Found>, Failure> {
    for dir in around.cwd.ancestors() {
        let path = dir.join(DEV_DIR).join(CONTEXT_FILE);
        let Ok(metadata) = fs::metadata(&path) else { continue };
        let shown = path.display();
        if metadata.uid() != around.uid {
            notes.push(format!("{shown} is not used: it belongs to somebody else"));
            return Ok(None);
        }
        let file = read_context(&path)?;
        let endpoint = file.endpoint.clone().unwrap_or_default();
        if !is_loopback(&endpoint) {
            notes.push(format!(
                "{shown} is not used: its endpoint {endpoint:?} is not on this machine; if it is meant: export {CONTEXT_FILE_VAR}={shown}"
            ));
            return Ok(None);
        }
        return Ok(Some(Found { file, origin: shown.to_string(), name: None, confirm: false }));
    }
    Ok(None)
}

/// The context of this name, or the one in force.
fn from_config(around: &Surroundings<'_>, name: Option<String>) -> Result<Option<Found>, Failure> {
    let path = config::path(around.var);
    let loaded = match &path {
        Some(path) => config::load(path)?,
        None => None,
    };
    let (Some(path), Some(config)) = (path, loaded) else {
        return match name {
            Some(name) => Err(Failure::usage(format!(
                "there is no context {name:?}: there is no configuration file"
            ))
            .help(format!(
                "orchctl context add {name} --endpoint URL --tls-ca FILE --tls-cert FILE --tls-key FILE"
            ))),
            None => Ok(None),
        };
    };
    let Some(name) = name.or(config.current) else { return Ok(None) };
    let Some(named) = config.contexts.get(&name) else {
        let known = config.contexts.keys().map(String::as_str);
        return Err(no_context(&path, &name, known));
    };
    let file = anchored(named.file.clone(), beside(&path), (around.var)("HOME").as_deref());
    let origin = format!("{} context {name}", path.display());
    Ok(Some(Found { file, origin, name: Some(name), confirm: named.confirm }))
}

/// A name that no context has.
pub(crate) fn no_context<'a>(path: &Path, name: &str, known: impl Iterator<Item = &'a str>) -> Failure {
    let known: Vec<_> = known.collect();
    let failure = Failure::usage(format!("{} has no context {name:?}", path.display()));
    let near = did_you_mean(name, known.iter().copied());
    let failure = if near.is_empty() { failure } else { failure.help(near) };
    match known.as_slice() {
        [] => failure.and_help("it has none: orchctl context add NAME"),
        [..] => failure.and_help(format!("it has: {}", known.join(", "))),
    }
}

/// Reads a context file.
pub(crate) fn read_context(path: &Path) -> Result<ContextFile, Failure> {
    let text = read_bounded(path).map_err(|error| {
        Failure::usage(format!("cannot read the context file {}", path.display())).cause(error)
    })?;
    let file: ContextFile = serde_json::from_str(&text)
        .map_err(|error| Failure::usage(format!("{} is not a context file", path.display())).cause(error))?;
    Ok(anchored(file, beside(path), None))
}

/// The directory of a file.
fn beside(path: &Path) -> &Path {
    path.parent().unwrap_or_else(|| Path::new("."))
}

/// The text of a file of a sane size.
pub(crate) fn read_bounded(path: &Path) -> io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    fs::File::open(path)?.take(MAX_FILE_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

/// Paths made independent of the working directory.
fn anchored(mut file: ContextFile, dir: &Path, home: Option<&str>) -> ContextFile {
    for path in [&mut file.tls_ca, &mut file.tls_cert, &mut file.tls_key].into_iter().flatten() {
        *path = match (path.strip_prefix("~"), home) {
            (Ok(rest), Some(home)) => Path::new(home).join(rest),
            (Ok(_) | Err(_), _) => dir.join(&path),
        };
    }
    file
}

fn pick(flag: Option<&PathBuf>, file: Option<PathBuf>, name: &str, origin: &str) -> Result<PathBuf, Failure> {
    flag.cloned().or(file).ok_or_else(|| {
        Failure::coded(
            ErrorCode::NoCertificate,
            format!("{origin} names no file for {name}, and mTLS needs one"),
        )
    })
}

fn nothing_named(notes: &[String]) -> Failure {
    let failure = Failure::coded(ErrorCode::Unreachable, "no coordinator is named: no flag, no context file")
        .help("for a try on this machine: orchctl dev")
        .and_help(
            "else name --endpoint, --tls-ca, --tls-cert and --tls-key, or a context: orchctl context --help",
        );
    notes.iter().fold(failure, |failure, note| failure.cause(note))
}

/// `host:port` is taken as `https://host:port`; plain HTTP is not spoken.
pub(crate) fn normal_endpoint(text: &str) -> Result<String, Failure> {
    let endpoint = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let uri: http::Uri = endpoint.parse().map_err(|error: http::uri::InvalidUri| {
        Failure::usage(format!("the endpoint {text:?} is not a URL such as https://box-0:7443")).cause(error)
    })?;
    match uri.scheme_str() {
        Some("https") if uri.host().is_some_and(|host| !host.is_empty()) => Ok(endpoint),
        Some(_) | None => {
            Err(Failure::usage(format!("the endpoint {text:?} is not an https URL with a host"))
                .help("coordinators speak mTLS only: https://box-0:7443"))
        }
    }
}

/// Whether an endpoint can only be on this machine. `localhost` counts: RFC 6761 has it resolve to loopback.
pub(crate) fn is_loopback(endpoint: &str) -> bool {
    let Ok(endpoint) = normal_endpoint(endpoint) else { return false };
    let Ok(uri) = endpoint.parse::<http::Uri>() else { return false };
    // User information would be shown as part of the authority, and hides where a URL really leads.
    if uri.authority().is_none_or(|authority| authority.as_str().contains('@')) {
        return false;
    }
    let host = uri.host().unwrap_or_default();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests;
