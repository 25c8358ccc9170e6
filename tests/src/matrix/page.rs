//! `docs/outcomes.md`, rendered from the outcome table and the rows of the matrix. Knows Markdown; plays nothing.

use super::{Cli, GROUPS, Row};
use orch_proto::outcome::{OUTCOMES, OutcomeRow};

const HEAD: &str = "\
# Outcomes

Rendered from `orch_proto::outcome` and the rows of `orch_tests::matrix`; a test compares them with this file, and
`ORCH_BLESS=1 cargo test -p orch-tests --lib matrix` rewrites it. Do not edit it by hand.

## How to read this page

* Every attempt ends with one **outcome**; that of the last attempt is the task's. `orchctl status REF` and
  `orchctl result REF` show it with a *detail*: what happened this time, in one sentence.
* **Again**: another attempt is made while retries are left. **Crash**: it counts towards `poison`. **Pool**: the credential
  pool is what failed, so its other tasks would fail too. **Exit**: exit code of `orchctl run` and of `--wait`.
* The tables below the first are scenarios that tests play through coordinator and agent, each with the ending it must have.
  *Detail says* is a part of the detail that must be there; without one the sentence of the outcome stands for it.
* *Tries* are the attempts it takes. *Tokens* are input and output without cache, of all attempts and sub-agents; *USD* is the
  list price as the CLI reports it. Both are empty where an attempt dies without a bill: its cost is an estimate then.
* ***parked*** is no ending: the limit of the credential is used up, the task waits for its reset and goes on in its
  conversation. No retry is used. `orchctl run` and `--wait` wait with it.
* `F…` names a failure mode seen in other systems, which the scenario reproduces.
";

/// Ending of a row whose task is parked.
const PARKED: &str = "*parked*";
const PARKED_REMEDY: &str = "nothing to do: it goes on after the reset; or use another credential";

/// The whole page.
#[must_use]
pub fn page() -> String {
    let mut text = HEAD.to_owned();
    text.push_str("\n## All outcomes\n\n| Outcome | Again | Crash | Pool | Exit | Meaning | Remedy |\n|---|---|---|---|---|---|---|\n");
    for outcome in &OUTCOMES {
        text.push_str(&line(&outcome_cells(outcome)));
    }
    for (cli, title, words) in [
        (
            Cli::Real,
            "The real CLI",
            "`claude` 2.1.197 against a stand-in of the Messages API (`tests/scenarios/real_cli.rs`). Skipped where the CLI is not installed.",
        ),
        (
            Cli::Scripted,
            "The scripted CLI",
            "A program with the CLI's command line that misbehaves as its prompt says (`tests/scenarios/scripted.rs`, `tests/standin`).",
        ),
    ] {
        text.push_str(&format!("\n## {title}\n\n{words}\n"));
        for group in GROUPS.iter().filter(|group| group.cli == cli) {
            text.push_str(&format!("\n### {}\n\n", group.title));
            text.push_str("| Scenario | Outcome | Exit | Detail says | Remedy | Tries | Tokens | USD |\n|---|---|---|---|---|---|---|---|\n");
            group.rows.iter().for_each(|row| text.push_str(&line(&row_cells(row))));
        }
    }
    text
}

fn line(cells: &[String]) -> String {
    let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|").replace('\n', " ")).collect();
    format!("| {} |\n", cells.join(" | "))
}

fn outcome_cells(row: &OutcomeRow) -> [String; 7] {
    let yes = |is: bool| if is { "yes" } else { "" }.to_owned();
    [
        format!("`{}`", row.word),
        yes(row.retryable),
        yes(row.counts_as_crash),
        yes(row.pauses_pool),
        row.exit_code.to_string(),
        row.sentence.to_owned(),
        row.remedy.to_owned(),
    ]
}

fn row_cells(row: &Row) -> [String; 8] {
    let known = row.outcome.row();
    let of = |part: fn(&OutcomeRow) -> String| known.map(part).unwrap_or_default();
    let detail = match (row.detail, row.or_detail) {
        ("", _) => of(|known| known.sentence.to_owned()),
        (detail, None) => detail.to_owned(),
        (detail, Some(other)) => format!("{detail}, or {other}"),
    };
    let (ending, exit, remedy) = if row.parked {
        (PARKED.to_owned(), String::new(), PARKED_REMEDY.to_owned())
    } else {
        let exit = of(|known| known.exit_code.to_string());
        (of(|known| format!("`{}`", known.word)), exit, of(|known| known.remedy.to_owned()))
    };
    [
        row.scenario.to_owned(),
        ending,
        exit,
        detail,
        remedy,
        row.attempts.to_string(),
        row.tokens.map(|(input, output)| format!("{input}/{output}")).unwrap_or_default(),
        row.cost_micro_usd.map(dollars).unwrap_or_default(),
    ]
}

/// Millionths of a dollar as dollars, without what is zero at the end.
fn dollars(micro_usd: u64) -> String {
    let text = format!("{}.{:06}", micro_usd / 1_000_000, micro_usd % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_page_in_docs_is_what_the_rows_say() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/outcomes.md");
        if std::env::var_os("ORCH_BLESS").is_some() {
            std::fs::write(file, page()).unwrap();
        }
        let there = std::fs::read_to_string(file).unwrap_or_default();
        let differs = there
            .lines()
            .zip(page().lines().map(str::to_owned).collect::<Vec<_>>())
            .find(|(is, should)| is != should);
        assert!(
            there == page(),
            "docs/outcomes.md is out of date; ORCH_BLESS=1 rewrites it. First difference: {differs:?}"
        );
    }

    #[test]
    fn scenarios_are_unique_for_each_cli() {
        for cli in [Cli::Real, Cli::Scripted] {
            let rows = || GROUPS.iter().filter(|group| group.cli == cli).flat_map(|group| group.rows);
            let names: BTreeSet<&str> = rows().map(|row| row.scenario).collect();
            assert_eq!(names.len(), rows().count(), "{cli:?}");
        }
    }

    #[test]
    fn every_row_of_either_cli_is_on_the_page() {
        for (cli, all) in
            [(Cli::Real, super::super::real::ROWS), (Cli::Scripted, super::super::scripted::ROWS)]
        {
            let shown = GROUPS.iter().filter(|group| group.cli == cli).flat_map(|group| group.rows);
            let shown: BTreeSet<&str> = shown.map(|row| row.scenario).collect();
            assert!(all.iter().all(|row| shown.contains(row.scenario)), "{cli:?}");
        }
    }

    #[test]
    fn amounts_are_exact_and_short() {
        assert_eq!([0, 600, 1_200, 1_000_000].map(dollars), ["0", "0.0006", "0.0012", "1"]);
    }
}
