//! How this invocation talks to people and scripts: flags and variables over the user's file over what is built in.
//! Knows precedence; refuses to know what is printed.

use crate::args::{Global, OutputFormat, Progress, TimeStyle, When};
use crate::config::Defaults;
use crate::failure::{Failure, Outcome};

/// What was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// What stdout carries.
    pub(crate) output: OutputFormat,
    /// Names of fields; empty: all.
    pub(crate) fields: Vec<String>,
    /// How moments are shown.
    pub(crate) time: TimeStyle,
    /// How a followed run is shown.
    pub(crate) progress: Progress,
    /// When there is colour.
    pub(crate) color: When,
    /// 0 usual, below: less, above: more.
    pub(crate) verbosity: i8,
    /// What questions get.
    pub(crate) asking: Asking,
    /// Whether a pager may show what is longer than the screen.
    pub(crate) pager: bool,
}

/// What a question gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Asking {
    /// An answer from the terminal, if there is one.
    #[default]
    Ask,
    /// Yes.
    Yes,
    /// A refusal: nobody is there to answer.
    Never,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            output: OutputFormat::Table,
            fields: Vec::new(),
            time: TimeStyle::Relative,
            progress: Progress::Auto,
            color: When::Auto,
            verbosity: 0,
            asking: Asking::Ask,
            pager: true,
        }
    }
}

impl Settings {
    /// Flags and variables, which `clap` has read, over the user's file.
    ///
    /// `goes_on` is whether the command tells things as they happen. There is no one value of them: `json` is refused
    /// where it was asked for by a flag, and read as `jsonl` where it is only what is usual here.
    ///
    /// # Errors
    /// Fields asked of a format that has none; one value of what goes on.
    pub(crate) fn of(
        global: &Global,
        goes_on: bool,
        defaults: &Defaults,
        var: &dyn Fn(&str) -> Option<String>,
    ) -> Outcome<Self> {
        let builtin = Self::default();
        let output = global.output.or(defaults.output).unwrap_or(builtin.output);
        if !global.fields.is_empty() && matches!(output, OutputFormat::Name | OutputFormat::None) {
            return Err(Failure::usage("--fields needs an output that has fields")
                .help("add -o table, wide, json, jsonl or yaml"));
        }
        let set = |name: &str| var(name).is_some_and(|value| !value.is_empty());
        let one = output == OutputFormat::Json && goes_on;
        if one && global.output.is_some() && !set("ORCHCTL_OUTPUT") {
            return Err(Failure::usage("-o json is one value, and this tells things as they happen")
                .help("-o jsonl prints one value a line"));
        }
        let output = if one { OutputFormat::Jsonl } else { output };
        if output == OutputFormat::Csv && goes_on {
            return Err(Failure::usage("-o csv is one table, and this tells things as they happen")
                .help("-o jsonl prints one value a line"));
        }
        // The variables outrank the file, and `auto` is what listens to them.
        let told = set("NO_COLOR") || set("CLICOLOR_FORCE");
        let color = global.color.or_else(|| defaults.color.filter(|_| !told)).unwrap_or(builtin.color);
        let asking = match (global.yes, global.no_input || set("CI")) {
            (true, _) => Asking::Yes,
            (false, true) => Asking::Never,
            (false, false) => Asking::Ask,
        };
        Ok(Self {
            output,
            fields: global.fields.clone(),
            time: global.time.or(defaults.time).unwrap_or(builtin.time),
            progress: global.progress.or(defaults.progress).unwrap_or(builtin.progress),
            color,
            verbosity: i8::try_from(global.verbose).unwrap_or(i8::MAX)
                - i8::try_from(global.quiet).unwrap_or(i8::MAX),
            asking,
            pager: !global.no_pager,
        })
    }

    /// Whether scripts read the output, and so what goes wrong.
    pub(crate) fn json_errors(&self) -> bool {
        matches!(self.output, OutputFormat::Json | OutputFormat::Jsonl | OutputFormat::Yaml)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Cli;

    fn settings(line: &str, defaults: &Defaults, vars: &[(&str, &str)]) -> Outcome<Settings> {
        let words = ["orchctl"].into_iter().chain(line.split_whitespace());
        let cli = Cli::try_parse_from(words).unwrap();
        let var =
            |name: &str| vars.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Settings::of(&cli.global, cli.command.goes_on(), defaults, &var)
    }

    fn from_file() -> Defaults {
        Defaults {
            output: Some(OutputFormat::Wide),
            time: Some(TimeStyle::Iso),
            color: Some(When::Always),
            progress: Some(Progress::Plain),
        }
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_what_is_built_in() {
        let flags = settings("ls -o json --time unix", &from_file(), &[]).unwrap();
        assert_eq!((flags.output, flags.time), (OutputFormat::Json, TimeStyle::Unix));
        assert_eq!((flags.progress, flags.color), (Progress::Plain, When::Always));
        assert_eq!(settings("ls", &Defaults::default(), &[]).unwrap(), Settings::default());
    }

    #[test]
    fn colour_variables_outrank_the_file_but_not_the_flag() {
        let no_color = [("NO_COLOR", "1")];
        assert_eq!(settings("ls", &from_file(), &no_color).unwrap().color, When::Auto);
        assert_eq!(settings("ls --color always", &from_file(), &no_color).unwrap().color, When::Always);
        assert_eq!(settings("ls", &from_file(), &[("NO_COLOR", "")]).unwrap().color, When::Always);
    }

    #[test]
    fn continuous_integration_is_never_asked_unless_it_said_yes() {
        let ci = [("CI", "true")];
        let asking = |line| settings(line, &Defaults::default(), &ci).unwrap().asking;
        assert_eq!((asking("ls"), asking("ls -y")), (Asking::Never, Asking::Yes));
        assert_eq!(settings("ls --no-input", &Defaults::default(), &[]).unwrap().asking, Asking::Never);
        assert_eq!(settings("ls", &Defaults::default(), &[]).unwrap().asking, Asking::Ask);
    }

    #[test]
    fn one_value_of_what_goes_on_is_refused_or_read_as_lines() {
        for line in ["watch", "logs -f a/1", "events -f", "ls -w", "status -w", "agents -w", "agents list -w"]
        {
            let failure = settings(&format!("{line} -o json"), &Defaults::default(), &[]).unwrap_err();
            assert_eq!(failure.exit_code(), crate::exit::USAGE, "{line}");
            assert!(failure.text(false).contains("-o jsonl"), "{line}");
            let usual = Defaults { output: Some(OutputFormat::Json), ..Defaults::default() };
            assert_eq!(settings(line, &usual, &[]).unwrap().output, OutputFormat::Jsonl, "{line}");
            let variable = settings(&format!("{line} -o json"), &usual, &[("ORCHCTL_OUTPUT", "json")]);
            assert_eq!(variable.unwrap().output, OutputFormat::Jsonl, "{line}");
        }
        for line in ["logs a/1", "logs -f --raw a/1", "events", "ls", "status", "agents"] {
            let one = settings(&format!("{line} -o json"), &Defaults::default(), &[]).unwrap();
            assert_eq!(one.output, OutputFormat::Json, "{line}");
        }
    }

    #[test]
    fn names_alone_have_no_fields() {
        let failure = settings("ls -o name --fields ref", &Defaults::default(), &[]).unwrap_err();
        assert_eq!(failure.exit_code(), crate::exit::USAGE);
    }
}
