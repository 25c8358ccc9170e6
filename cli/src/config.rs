//! The user's file, `~/.config/orchctl/config.toml`: contexts, the one in force, and defaults of flags. What it does not
//! know is an error, with the line and what may have been meant; edits keep every comment.
//! Knows this file; which context a command gets is [`crate::context`]'s.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use toml_edit::{Document, Item, TableLike};

use crate::args::{OutputFormat, Progress, TimeStyle, When};
use crate::context::{ContextFile, read_bounded};
use crate::failure::{Failure, Outcome};
use crate::suggest::did_you_mean;

pub(crate) mod edit;
pub(crate) mod project;

/// What stands at the top.
const TOP: [&str; 3] = ["current", "contexts", "defaults"];
/// What a context has. The second three are other names of the first.
const CONTEXT: [&str; 8] = ["endpoint", "ca", "cert", "key", "tls_ca", "tls_cert", "tls_key", "confirm"];
/// What has a default.
pub(crate) const DEFAULTS: [&str; 4] = ["output", "time", "color", "progress"];
/// The one thing that can be confirmed.
const WRITE: &str = "write";

/// The file, read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Config {
    /// Context in force when none is named.
    pub(crate) current: Option<String>,
    /// The contexts.
    pub(crate) contexts: BTreeMap<String, NamedContext>,
    /// Defaults of flags.
    pub(crate) defaults: Defaults,
}

/// A context of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NamedContext {
    /// Where to dial, and with which certificates; paths as they were written.
    pub(crate) file: ContextFile,
    /// Whether every command that changes something asks first.
    pub(crate) confirm: bool,
}

/// Defaults of flags.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Defaults {
    /// Of `--output`.
    pub(crate) output: Option<OutputFormat>,
    /// Of `--time`.
    pub(crate) time: Option<TimeStyle>,
    /// Of `--color`.
    pub(crate) color: Option<When>,
    /// Of `--progress`.
    pub(crate) progress: Option<Progress>,
}

/// Where the file lies, if there is a home.
pub(crate) fn path(var: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    Some(home(var)?.join("orchctl/config.toml"))
}

/// `$XDG_CONFIG_HOME` or `~/.config`.
pub(crate) fn home(var: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let set = |name: &str| var(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("XDG_CONFIG_HOME").or_else(|| Some(set("HOME")?.join(".config")))
}

/// Reads the file; `None` if there is none.
///
/// # Errors
/// A file that cannot be read, or that holds something unknown.
pub(crate) fn load(path: &Path) -> Outcome<Option<Config>> {
    match text(path)? {
        Some(text) => parse(path, &text).map(Some),
        None => Ok(None),
    }
}

/// The text of a file that need not be there.
fn text(path: &Path) -> Outcome<Option<String>> {
    match read_bounded(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::usage(format!("cannot read {}", path.display())).cause(error)),
    }
}

/// Reads the text of the file.
fn parse(path: &Path, text: &str) -> Outcome<Config> {
    let reader = Reader { path, text };
    let document = reader.document()?;
    let mut config = Config::default();
    for (name, item) in reader.entries(document.as_table(), "", &TOP)? {
        match name {
            "current" => config.current = Some(reader.text("current", item)?.to_owned()),
            "contexts" => {
                for (name, item) in reader.table("contexts", item)?.iter() {
                    config.contexts.insert(name.to_owned(), reader.context(name, item)?);
                }
            }
            _ => config.defaults = reader.defaults(reader.table("defaults", item)?)?,
        }
    }
    Ok(config)
}

/// A text on its way to meaning, with what messages need.
struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
}

impl<'a> Reader<'a> {
    fn document(&self) -> Outcome<Document<&'a str>> {
        Document::parse(self.text).map_err(|error| {
            Failure::usage(format!("{} is not valid TOML", self.path.display()))
                .cause(error.to_string().trim())
                .help("mend that line; orchctl schema config says what the file may hold")
        })
    }

    /// The entries of a table, all of them known.
    fn entries<'t>(
        &self,
        table: &'t dyn TableLike,
        prefix: &str,
        known: &[&str],
    ) -> Outcome<Vec<(&'t str, &'t Item)>> {
        let entries: Vec<_> = table.iter().collect();
        let Some((unknown, _)) = entries.iter().find(|(name, _)| !known.contains(name)) else {
            return Ok(entries);
        };
        let span = table.get_key_value(unknown).and_then(|(key, _)| key.span());
        let failure = self.wrong(span, &format!("there is no setting {:?}", format!("{prefix}{unknown}")));
        let near = did_you_mean(unknown, known.iter().copied());
        let failure = if near.is_empty() { failure } else { failure.help(near) };
        Err(failure.and_help(format!("there are {}", known.join(", "))))
    }

    fn context(&self, name: &str, item: &Item) -> Outcome<NamedContext> {
        let prefix = format!("contexts.{name}.");
        let table = self.table(&prefix, item)?;
        let mut context = NamedContext::default();
        for (key, item) in self.entries(table, &prefix, &CONTEXT)? {
            let text = self.text(&format!("{prefix}{key}"), item)?;
            let file = &mut context.file;
            match key {
                "endpoint" => file.endpoint = Some(text.to_owned()),
                "ca" | "tls_ca" => file.tls_ca = Some(text.into()),
                "cert" | "tls_cert" => file.tls_cert = Some(text.into()),
                "key" | "tls_key" => file.tls_key = Some(text.into()),
                _ if text == WRITE => context.confirm = true,
                _ => {
                    let message = format!("{prefix}confirm can only be {WRITE:?}, not {text:?}");
                    return Err(self.wrong(item.span(), &message));
                }
            }
        }
        Ok(context)
    }

    fn defaults(&self, table: &dyn TableLike) -> Outcome<Defaults> {
        let mut defaults = Defaults::default();
        for (key, item) in self.entries(table, "defaults.", &DEFAULTS)? {
            match key {
                "output" => defaults.output = Some(self.choice(key, item)?),
                "time" => defaults.time = Some(self.choice(key, item)?),
                "color" => defaults.color = Some(self.choice(key, item)?),
                _ => defaults.progress = Some(self.choice(key, item)?),
            }
        }
        Ok(defaults)
    }

    /// One of the words that the flag takes.
    fn choice<T: ValueEnum>(&self, key: &str, item: &Item) -> Outcome<T> {
        let text = self.text(&format!("defaults.{key}"), item)?;
        T::from_str(text, false).map_err(|_| {
            let words = words::<T>();
            let message = format!("defaults.{key} cannot be {text:?}");
            let near = did_you_mean(text, words.iter().map(String::as_str));
            let failure = self.wrong(item.span(), &message);
            let failure = if near.is_empty() { failure } else { failure.help(near) };
            failure.and_help(format!("it is one of {}", words.join(", ")))
        })
    }

    fn table<'t>(&self, name: &str, item: &'t Item) -> Outcome<&'t dyn TableLike> {
        let message = || format!("{} is a table", name.trim_end_matches('.'));
        item.as_table_like().ok_or_else(|| self.wrong(item.span(), &message()))
    }

    fn text<'t>(&self, name: &str, item: &'t Item) -> Outcome<&'t str> {
        item.as_str().ok_or_else(|| self.wrong(item.span(), &format!("{name} is a text in quotes")))
    }

    /// An error of the file, with its line.
    fn wrong(&self, span: Option<std::ops::Range<usize>>, message: &str) -> Failure {
        let line =
            span.and_then(|span| self.text.get(..span.start)).map(|before| before.matches('\n').count() + 1);
        let place = line.map_or_else(String::new, |line| format!(":{line}"));
        Failure::usage(format!("{}{place}: {message}", self.path.display()))
    }
}

/// The words of an enumeration of the command line.
pub(crate) fn words<T: ValueEnum>() -> Vec<String> {
    let values = T::value_variants().iter().filter_map(ValueEnum::to_possible_value);
    values.map(|value| value.get_name().to_owned()).collect()
}

/// Whether a context may be called so: it is typed, and is a key of the file.
pub(crate) fn is_context_name(name: &str) -> bool {
    let tail = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    name.len() <= 63
        && name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
        && name.bytes().all(tail)
}

/// The directory that a file is in, made if need be; nobody else may look into it.
fn make_parent(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) else { return Ok(()) };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Outcome<Config> {
        parse(Path::new("config.toml"), text)
    }

    fn refused(text: &str) -> String {
        read(text).unwrap_err().text(false)
    }

    #[test]
    fn contexts_and_defaults_are_read() {
        let config = read(
            "current = \"prod\"\n[contexts.prod]\nendpoint = \"box:1\"\nca = \"~/ca.pem\"\nconfirm = \"write\"\n\
             [contexts.lab]\ntls_key = \"k\"\n[defaults]\noutput = \"wide\"\ntime = \"iso\"\n",
        )
        .unwrap();
        assert_eq!(config.current.as_deref(), Some("prod"));
        assert_eq!(config.contexts["prod"].file.tls_ca.as_deref(), Some(Path::new("~/ca.pem")));
        assert!(config.contexts["prod"].confirm && !config.contexts["lab"].confirm);
        assert_eq!(config.contexts["lab"].file.tls_key.as_deref(), Some(Path::new("k")));
        assert_eq!(
            (config.defaults.output, config.defaults.time),
            (Some(OutputFormat::Wide), Some(TimeStyle::Iso))
        );
        assert_eq!(read("").unwrap(), Config::default());
    }

    #[test]
    fn what_is_not_known_is_named_with_its_line_and_what_may_have_been_meant() {
        insta::assert_snapshot!(refused("# mine\n[defaults]\ncolour = \"always\"\n"), @r#"
        error: config.toml:3: there is no setting "defaults.colour"
        help:  did you mean "color"?
               there are output, time, color, progress
        "#);
        insta::assert_snapshot!(refused("[contexts.prod]\nendpont = \"box:1\"\n"), @r#"
        error: config.toml:2: there is no setting "contexts.prod.endpont"
        help:  did you mean "endpoint"?
               there are endpoint, ca, cert, key, tls_ca, tls_cert, tls_key, confirm
        "#);
        insta::assert_snapshot!(refused("[defaults]\noutput = \"jsn\"\n"), @r#"
        error: config.toml:2: defaults.output cannot be "jsn"
        help:  did you mean "json"?
               it is one of table, wide, json, jsonl, yaml, csv, name, none
        "#);
        assert!(refused("current = 3").contains("config.toml:1: current is a text in quotes"));
        assert!(refused("contexts = 3").contains("contexts is a table"));
        assert!(refused("[contexts.a]\nconfirm = \"read\"").contains("can only be \"write\""));
        assert!(refused("current = ").contains("is not valid TOML"));
    }

    #[test]
    fn names_of_contexts_can_be_typed() {
        for (name, good) in [("prod", true), ("a.b-1_c", true), ("", false), ("-a", false), ("a b", false)] {
            assert_eq!(is_context_name(name), good, "{name:?}");
        }
    }
}
