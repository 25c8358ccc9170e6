//! `context`: the coordinators of the configuration file, and which one is in force. Nothing is dialled.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Serialize;

use super::shown;
use crate::args::Format;
use crate::args::local::{AddContextArgs, ContextArgs, ContextCommand};
use crate::config::edit::Edit;
use crate::config::{self, Config, NamedContext, is_context_name};
use crate::context::{CONTEXT_NAME_VAR, no_context};
use crate::exit;
use crate::failure::{Failure, Outcome};
use crate::output::Out;
use crate::output::safe::one_line;
use crate::output::table::{Cell, Column, Table};
use crate::output::words::GOOD;
use crate::session::Session;

/// Longest path or address told.
const TOLD: usize = 300;

/// A context of the configuration file.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ContextView {
    name: String,
    /// Whether it is in force where nothing else is named.
    current: bool,
    endpoint: Option<String>,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    /// Whether every command that changes something asks first.
    confirm: bool,
}

/// Which coordinator commands ask, and why.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct CurrentContextView {
    /// Name in the configuration file, if it comes from there.
    name: Option<String>,
    /// What decided it: a context, a file, or flags.
    origin: String,
    endpoint: String,
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
    confirm: bool,
    /// What was passed over, and why.
    notes: Vec<String>,
}

/// `orchctl context`.
pub(crate) fn run(session: &Session, args: ContextArgs) -> Outcome {
    match args.command.unwrap_or(ContextCommand::List) {
        ContextCommand::List => list(&session.out),
        ContextCommand::Use(args) => make_current(&session.out, &args.name),
        ContextCommand::Add(args) => add(session, &args),
        ContextCommand::Remove(args) => remove(&session.out, &args.name),
        ContextCommand::Current => current(session),
    }
}

/// The configuration file and what is in it.
pub(super) fn loaded() -> Outcome<(PathBuf, Config)> {
    let path = config::path(&|name| std::env::var(name).ok())
        .ok_or_else(|| Failure::usage("there is no home directory; export XDG_CONFIG_HOME or HOME"))?;
    let config = config::load(&path)?.unwrap_or_default();
    Ok((path, config))
}

fn list(out: &Out) -> Outcome {
    let (path, config) = loaded()?;
    let views: Vec<_> = config.contexts.iter().map(|(name, context)| view(name, context, &config)).collect();
    let names = views.iter().map(|view| view.name.as_str());
    shown::list(out, &views, names, || {
        if views.is_empty() {
            out.note(&format!("no contexts in {}: orchctl context add NAME", path.display()));
            return Ok(());
        }
        let mut table = Table::new([
            Column::Whole("NAME"),
            Column::Whole("CURRENT"),
            Column::Words("ENDPOINT"),
            Column::Words("CERTIFICATE"),
            Column::Extra("ASKS"),
            Column::Wide("CA"),
            Column::Wide("KEY"),
        ]);
        let path =
            |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        for view in &views {
            table.row([
                Cell::from(&view.name),
                if view.current { Cell::styled("yes", GOOD) } else { Cell::from("") },
                Cell::from(view.endpoint.as_deref().unwrap_or_default()),
                Cell::dim(path(&view.cert)),
                Cell::dim(if view.confirm { "write" } else { "" }),
                Cell::dim(path(&view.ca)),
                Cell::dim(path(&view.key)),
            ]);
        }
        out.data(&table.render(out.stdout()))
    })?;
    Ok(exit::DONE)
}

fn view(name: &str, context: &NamedContext, config: &Config) -> ContextView {
    let file = context.file.clone();
    ContextView {
        name: name.to_owned(),
        current: config.current.as_deref() == Some(name),
        endpoint: file.endpoint,
        ca: file.tls_ca,
        cert: file.tls_cert,
        key: file.tls_key,
        confirm: context.confirm,
    }
}

fn make_current(out: &Out, name: &str) -> Outcome {
    let (path, config) = loaded()?;
    known(&path, &config, name)?;
    let mut edit = Edit::open(&path)?;
    edit.set(&["current"], name)?;
    edit.save()?;
    out.hint(&format!("{name} is in force now, where nothing else is named"));
    if let Some(other) =
        std::env::var(CONTEXT_NAME_VAR).ok().filter(|other| !other.is_empty() && other != name)
    {
        out.note(&format!("note: {CONTEXT_NAME_VAR} names {}, which wins", one_line(&other, TOLD)));
    }
    tell_name(out, name)
}

fn add(session: &Session, args: &AddContextArgs) -> Outcome {
    let (out, name) = (&session.out, args.name.as_str());
    if !is_context_name(name) {
        return Err(Failure::usage(format!("a context cannot be called {name:?}"))
            .help("use letters, digits, dot, dash and underscore; a letter or digit first; at most 63"));
    }
    let (path, config) = loaded()?;
    let given = session.connection();
    let old = config.contexts.get(name);
    if given.endpoint.is_none() && old.is_none_or(|old| old.file.endpoint.is_none()) {
        return Err(Failure::usage("a context needs an address").help(format!(
            "orchctl context add {name} --endpoint https://HOST:7443 --tls-ca FILE --tls-cert FILE --tls-key FILE"
        )));
    }
    let mut edit = Edit::open(&path)?;
    if let Some(endpoint) = &given.endpoint {
        crate::context::normal_endpoint(endpoint)?;
        edit.set(&["contexts", name, "endpoint"], endpoint)?;
    }
    let files = [("ca", &given.tls_ca), ("cert", &given.tls_cert), ("key", &given.tls_key)];
    for (key, file) in files {
        let Some(file) = file else { continue };
        // An older name of the same setting would be there twice.
        edit.remove(&["contexts", name, &format!("tls_{key}")]);
        edit.set(&["contexts", name, key], &absolute(file)?)?;
    }
    if args.confirm {
        edit.set(&["contexts", name, "confirm"], "write")?;
    }
    // The first one is meant: there is no other.
    let in_force = args.in_force || (config.current.is_none() && config.contexts.is_empty());
    if in_force {
        edit.set(&["current"], name)?;
    }
    edit.save()?;
    let state = if in_force { "; it is in force now" } else { "" };
    let what = if old.is_some() { "changed" } else { "added" };
    out.hint(&format!("{what} {name} in {}{state}", path.display()));
    tell_missing(out, name)?;
    tell_name(out, name)
}

/// Says what a context still lacks.
fn tell_missing(out: &Out, name: &str) -> Outcome<()> {
    let (_, config) = loaded()?;
    let Some(context) = config.contexts.get(name) else { return Ok(()) };
    let file = &context.file;
    let missing: Vec<_> =
        [("--tls-ca", &file.tls_ca), ("--tls-cert", &file.tls_cert), ("--tls-key", &file.tls_key)]
            .into_iter()
            .filter_map(|(flag, path)| path.is_none().then_some(flag))
            .collect();
    if !missing.is_empty() {
        out.note(&format!("note: it has no {}; mTLS needs all three files", missing.join(", ")));
    }
    Ok(())
}

fn remove(out: &Out, name: &str) -> Outcome {
    let (path, config) = loaded()?;
    known(&path, &config, name)?;
    let mut edit = Edit::open(&path)?;
    edit.remove(&["contexts", name]);
    if config.current.as_deref() == Some(name) {
        edit.remove(&["current"]);
        out.note(&format!("note: {name} was in force; now none is: orchctl context use NAME"));
    }
    edit.save()?;
    out.hint(&format!("removed {name}; its certificates stay where they are"));
    tell_name(out, name)
}

fn current(session: &Session) -> Outcome {
    let out = &session.out;
    let context = session.context()?;
    let view = CurrentContextView {
        name: context.name,
        origin: context.origin,
        endpoint: context.endpoint,
        ca: context.tls.ca,
        cert: context.tls.cert,
        key: context.tls.key,
        confirm: context.confirm,
        notes: context.notes,
    };
    let name = view.name.clone().unwrap_or_else(|| view.endpoint.clone());
    shown::one(out, &view, &name, || {
        out.line(&one_line(&view.endpoint, TOLD))?;
        out.line(&format!("  from  {}", one_line(&view.origin, TOLD)))?;
        for (label, path) in [("ca  ", &view.ca), ("cert", &view.cert), ("key ", &view.key)] {
            out.line(&format!("  {label}  {}", one_line(&path.display().to_string(), TOLD)))?;
        }
        if view.confirm {
            out.line("  asks before every command that changes something")?;
        }
        view.notes.iter().for_each(|note| out.note(&format!("note: {}", one_line(note, TOLD))));
        Ok(())
    })?;
    Ok(exit::DONE)
}

fn known(path: &Path, config: &Config, name: &str) -> Outcome<()> {
    if config.contexts.contains_key(name) {
        return Ok(());
    }
    Err(no_context(path, name, config.contexts.keys().map(String::as_str)))
}

/// The name alone, for scripts.
fn tell_name(out: &Out, name: &str) -> Outcome {
    match out.format {
        Format::Name => out.name(name)?,
        Format::Json | Format::Jsonl => {
            let (_, config) = loaded()?;
            if let Some(context) = config.contexts.get(name) {
                out.json(&view(name, context, &config))?;
            }
        }
        Format::Table | Format::None => {}
    }
    Ok(exit::DONE)
}

/// A path that means the same from everywhere; `~` is kept, the file's reader knows it.
fn absolute(path: &Path) -> Outcome<String> {
    let path = if path.starts_with("~") {
        path.to_owned()
    } else {
        std::path::absolute(path)
            .map_err(|error| Failure::usage(format!("{} is not a path", path.display())).cause(error))?
    };
    path.into_os_string().into_string().map_err(|path| {
        Failure::usage(format!("{} is not UTF-8, and a configuration file is", path.display()))
    })
}
