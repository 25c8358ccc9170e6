//! The help of every command: it fits, and it shows how.

use clap::CommandFactory;

use super::*;

/// Columns that every help fits.
const COLUMNS: usize = 100;
/// Lines that the overview fits.
const LINES: usize = 72;

/// Calls back with every command below one, and its path from the top.
pub(super) fn each_command(command: &clap::Command, path: &str, call: &mut dyn FnMut(&str, &clap::Command)) {
    for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help" || !path.is_empty()) {
        let path = format!("{path} {}", inner.get_name()).trim_start().to_owned();
        call(&path, inner);
        each_command(inner, &path, call);
    }
}

fn helps() -> Vec<(String, String)> {
    let mut command = Cli::command().term_width(COLUMNS);
    command.build();
    let mut helps = vec![("orchctl".to_owned(), command.clone().render_help().to_string())];
    each_command(&command, "", &mut |path, command| {
        helps.push((path.to_owned(), command.clone().term_width(COLUMNS).render_help().to_string()));
    });
    helps
}

#[test]
fn every_help_fits_the_screen() {
    for (path, help) in helps() {
        for line in help.lines() {
            assert!(line.chars().count() <= COLUMNS, "{path} --help: {line:?}");
        }
    }
    let (_, overview) = helps().swap_remove(0);
    assert!(overview.lines().count() <= LINES, "orchctl --help has {} lines", overview.lines().count());
}

#[test]
fn every_help_has_an_example() {
    let without: Vec<_> =
        helps().into_iter().filter(|(_, help)| !help.contains("Example")).map(|(path, _)| path).collect();
    // The overview is a list of commands, and each of them has one.
    assert_eq!(without, ["orchctl"]);
}

#[test]
fn every_example_can_be_typed() {
    for (path, help) in helps() {
        for example in help.lines().flat_map(|line| line.split("orchctl ").skip(1)) {
            let word = example
                .split_whitespace()
                .next()
                .unwrap_or_default()
                .trim_matches(|char: char| !char.is_alphanumeric());
            let known = Cli::command().get_subcommands().any(|command| {
                command.get_name() == word || command.get_all_aliases().any(|alias| alias == word)
            });
            let prose = ["command", "asks", "itself", "config", "COMMAND"].contains(&word) || word.is_empty();
            assert!(
                known || prose || help.contains("Usage:") && example.starts_with('['),
                "{path} --help: orchctl {example}"
            );
        }
    }
}

#[test]
fn the_bridge_says_first_that_it_removes_files() {
    let (_, help) = helps().into_iter().find(|(path, _)| path == "bridge").unwrap();
    let first = help.lines().next().unwrap_or_default();
    assert!(first.contains("each is removed once its result is written"), "{first}");
    insta::with_settings!({ omit_expression => true }, { insta::assert_snapshot!("bridge", help) });
}

#[test]
fn the_overview_is_as_it_was() {
    let (_, overview) = helps().swap_remove(0);
    if cfg!(feature = "dev") {
        insta::with_settings!({ omit_expression => true }, { insta::assert_snapshot!("overview", overview) });
    }
}
