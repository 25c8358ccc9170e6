//! `config`: what is set, where it comes from, and how to set it.

use schemars::JsonSchema;
use serde::Serialize;

use super::{context, shown};
use crate::args::local::{ConfigArgs, ConfigCommand, SetArgs, ViewArgs};
use crate::args::{OutputFormat, Progress, TimeStyle, When};
use crate::config::edit::{Edit, key};
use crate::config::{Config, DEFAULTS};
use crate::exit;
use crate::failure::{Failure, Outcome};
use crate::output::Out;
use crate::output::table::{Cell, Column, Table};
use crate::session::Session;
use clap::ValueEnum;

/// A setting in force, flags aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct SettingView {
    key: String,
    value: String,
    /// `default`, the name of a variable, or the path of the configuration file.
    origin: String,
}

/// `orchctl config`.
pub(crate) fn run(session: &Session, args: ConfigArgs) -> Outcome {
    let out = &session.out;
    match args.command.unwrap_or_else(|| ConfigCommand::View(ViewArgs::default())) {
        ConfigCommand::View(args) => view(out, &args),
        ConfigCommand::Get(args) => get(out, &args.key),
        ConfigCommand::Set(args) => set(out, &args),
        ConfigCommand::Path => path(out),
    }
}

fn view(out: &Out, args: &ViewArgs) -> Outcome {
    let settings = settings()?;
    let names = settings.iter().map(|setting| setting.key.as_str());
    shown::list(out, &settings, names, || {
        let origin: fn(&'static str) -> Column = if args.show_origin { Column::Words } else { Column::Wide };
        let mut table = Table::new([Column::Whole("KEY"), Column::Words("VALUE"), origin("ORIGIN")]);
        for setting in &settings {
            table.row([Cell::from(&setting.key), Cell::from(&setting.value), Cell::dim(&setting.origin)]);
        }
        out.data(&table.render(out.stdout()))
    })?;
    Ok(exit::DONE)
}

fn get(out: &Out, wanted: &str) -> Outcome {
    let name = canonical(&key(wanted)?);
    let found = settings()?.into_iter().find(|setting| setting.key == name);
    let setting = found.ok_or_else(|| {
        Failure::new(exit::NOT_FOUND, format!("{wanted} is not set"))
            .help(format!("orchctl config set {wanted} VALUE"))
    })?;
    shown::one(out, &setting, &setting.value, || out.line(&crate::output::safe::safe(&setting.value)))?;
    Ok(exit::DONE)
}

fn set(out: &Out, args: &SetArgs) -> Outcome {
    let keys = key(&args.key)?;
    let (path, config) = context::loaded()?;
    match keys.as_slice() {
        ["current"] if !config.contexts.contains_key(&args.value) => {
            let known = config.contexts.keys().map(String::as_str);
            return Err(crate::context::no_context(&path, &args.value, known));
        }
        ["contexts", _, "endpoint"] => {
            crate::context::normal_endpoint(&args.value)?;
        }
        [..] => {}
    }
    let mut edit = Edit::open(&path)?;
    let name = canonical(&keys);
    if let ["contexts", context, field] = keys.as_slice() {
        let field = field.trim_start_matches("tls_");
        // The other name of the same setting would be there twice.
        edit.remove(&["contexts", context, &format!("tls_{field}")]);
        edit.set(&["contexts", context, field], &args.value)?;
    } else {
        edit.set(&keys, &args.value)?;
    }
    edit.save()?;
    out.hint(&format!("{name} is set in {}", path.display()));
    Ok(exit::DONE)
}

fn path(out: &Out) -> Outcome {
    let (path, value) = match context::loaded() {
        Ok((path, _)) => (path, None),
        // A broken file is looked for to mend it.
        Err(failure) => (
            crate::config::path(&|name| std::env::var(name).ok()).ok_or_else(|| failure.clone())?,
            Some(failure),
        ),
    };
    let text = path.display().to_string();
    let setting = SettingView { key: "path".to_owned(), value: text.clone(), origin: "default".to_owned() };
    shown::one(out, &setting, &text, || out.line(&text))?;
    if let Some(failure) = value {
        out.failure(&failure);
    }
    Ok(exit::DONE)
}

/// Every setting in force: variables over the file over what is built in.
fn settings() -> Outcome<Vec<SettingView>> {
    let (path, config) = context::loaded()?;
    Ok(in_force(&config, &path.display().to_string(), &|name| std::env::var(name).ok()))
}

fn in_force(config: &Config, file: &str, var: &dyn Fn(&str) -> Option<String>) -> Vec<SettingView> {
    let setting =
        |key: String, value: String, origin: &str| SettingView { key, value, origin: origin.to_owned() };
    let mut settings = Vec::new();
    let chosen = var("ORCHCTL_CONTEXT").filter(|name| !name.is_empty());
    if let Some(name) = &chosen {
        settings.push(setting("current".to_owned(), name.clone(), "ORCHCTL_CONTEXT"));
    } else if let Some(name) = &config.current {
        settings.push(setting("current".to_owned(), name.clone(), file));
    }
    let defaults = config.defaults;
    for name in DEFAULTS {
        let (variable, from_file, builtin) = match name {
            "output" => (Some("ORCHCTL_OUTPUT"), defaults.output.and_then(word::<OutputFormat>), "table"),
            "time" => (Some("ORCHCTL_TIME"), defaults.time.and_then(word::<TimeStyle>), "relative"),
            "progress" => (Some("ORCHCTL_PROGRESS"), defaults.progress.and_then(word::<Progress>), "auto"),
            _ => (None, defaults.color.and_then(word::<When>), "auto"),
        };
        let from_variable = variable.and_then(|name| Some((name, var(name)?)));
        let (value, origin) = match (from_variable, from_file) {
            (Some((name, value)), _) => (value, name),
            (None, Some(value)) => (value, file),
            (None, None) => (builtin.to_owned(), "default"),
        };
        settings.push(setting(format!("defaults.{name}"), value, origin));
    }
    for (name, context) in &config.contexts {
        let path = |path: &Option<std::path::PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let fields = [
            ("endpoint", context.file.endpoint.clone()),
            ("ca", path(&context.file.tls_ca)),
            ("cert", path(&context.file.tls_cert)),
            ("key", path(&context.file.tls_key)),
            ("confirm", context.confirm.then(|| "write".to_owned())),
        ];
        for (field, value) in fields {
            if let Some(value) = value {
                settings.push(setting(format!("contexts.{name}.{field}"), value, file));
            }
        }
    }
    settings
}

/// The word of a value of the command line.
fn word<T: ValueEnum>(value: T) -> Option<String> {
    value.to_possible_value().map(|value| value.get_name().to_owned())
}

/// The name that a setting is listed under.
fn canonical(keys: &[&str]) -> String {
    match keys {
        ["contexts", name, field] => format!("contexts.{name}.{}", field.trim_start_matches("tls_")),
        other => other.join("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::words;

    #[test]
    fn a_variable_wins_over_the_file_and_the_file_over_what_is_built_in() {
        let mut config = Config { current: Some("prod".into()), ..Config::default() };
        config.defaults.output = Some(OutputFormat::Wide);
        config.defaults.time = Some(TimeStyle::Iso);
        let var = |name: &str| (name == "ORCHCTL_OUTPUT").then(|| "json".to_owned());
        let shown: Vec<_> = in_force(&config, "FILE", &var)
            .iter()
            .map(|setting| format!("{} {} {}", setting.key, setting.value, setting.origin))
            .collect();
        assert_eq!(
            shown,
            [
                "current prod FILE",
                "defaults.output json ORCHCTL_OUTPUT",
                "defaults.time iso FILE",
                "defaults.color auto default",
                "defaults.progress auto default",
            ]
        );
    }

    #[test]
    fn the_defaults_that_are_listed_are_words_of_their_flags() {
        assert!(words::<OutputFormat>().contains(&"table".to_owned()));
        assert!(words::<TimeStyle>().contains(&"relative".to_owned()));
        assert!(
            words::<Progress>().contains(&"auto".to_owned()) && words::<When>().contains(&"auto".to_owned())
        );
    }
}
