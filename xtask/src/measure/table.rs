//! Tables of a document, between two comments that mark what is theirs: medians with their range, held against aims.
//! Refuses to know what the figures are.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;

use super::results::Results;

/// Puts tables into a document, between two marks.
pub(crate) fn rewrite(path: &Path, marks: [&str; 2], tables: &str) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let text =
        replaced(&text, marks, tables).with_context(|| format!("{}: no tables written", path.display()))?;
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn replaced(text: &str, [begin, end]: [&str; 2], tables: &str) -> anyhow::Result<String> {
    let (before, rest) = text.split_once(begin).with_context(|| format!("there is no line {begin}"))?;
    let (_, after) = rest.split_once(end).with_context(|| format!("there is no line {end}"))?;
    Ok(format!("{before}{begin}\n{tables}{end}{after}"))
}

/// The middle and the range of some values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let upper = *values.get(values.len() / 2)?;
        let lower = *values.get((values.len() - 1) / 2)?;
        Some(Self { median: f64::midpoint(lower, upper), least, most })
    }

    pub(crate) fn found(results: &Results, subject: &str, row: &str, names: &[&str]) -> Option<Self> {
        Self::of(results.values(subject, row, names))
    }

    /// `12,340 (11,200–13,100)`; a single value has no range.
    pub(crate) fn shown(&self) -> String {
        if self.least == self.most {
            return number(self.median);
        }
        format!("{} ({}–{})", number(self.median), number(self.least), number(self.most))
    }
}

/// Three digits that mean something, thousands apart.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        size if size < 10.0 => format!("{value:.2}"),
        size if size < 100.0 => format!("{value:.1}"),
        _ => thousands(&format!("{value:.0}")),
    }
}

fn thousands(digits: &str) -> String {
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) && !text.ends_with('-') {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A figure and what it is to reach.
pub(crate) struct Aim {
    pub(crate) what: &'static str,
    pub(crate) row: &'static str,
    /// The names that the figure may go by.
    pub(crate) figures: &'static [&'static str],
    pub(crate) unit: &'static str,
    /// More is better.
    pub(crate) rising: bool,
    pub(crate) reach: Option<(f64, &'static str)>,
}

impl Aim {
    /// A range and its unit stand apart.
    fn unit_of(&self, spread: &Spread) -> String {
        let apart = spread.least != spread.most && self.unit == "/s";
        if apart { format!(" {}", self.unit) } else { self.unit.to_owned() }
    }

    fn verdict(&self, median: f64) -> (String, &'static str) {
        let Some((bound, shown)) = self.reach else { return (String::new(), "") };
        let (sign, holds) = if self.rising { (">=", median >= bound) } else { ("<=", median <= bound) };
        (format!("{sign} {shown}"), if holds { "reached" } else { "missed" })
    }
}

/// What was measured of a subject, held against its aims, each with its command.
pub(crate) fn against(results: &Results, subject: &str, aims: &[Aim]) -> String {
    let mut text = String::from("\n| orch | Measured | Aim | | Command |\n|---|---|---|---|---|\n");
    for aim in aims {
        let Some(spread) = Spread::found(results, subject, aim.row, aim.figures) else { continue };
        let sample = results.samples.iter().find(|sample| sample.subject == subject && sample.row == aim.row);
        let command = sample.map_or("", |sample| sample.command.as_str());
        let (bound, verdict) = aim.verdict(spread.median);
        let measured = format!("{}{}", spread.shown(), aim.unit_of(&spread));
        let _ = writeln!(text, "| {} | {measured} | {bound} | {verdict} | `{command}` |", aim.what);
    }
    text
}

/// When and where it was measured, in a sentence or two.
pub(crate) fn place(results: &Results) -> String {
    let machine = &results.machine;
    format!(
        "{}: {} cores of {}, {} GiB, Linux {}. Load average {} at the start, {} at the end.\n",
        machine.date,
        machine.cores,
        machine.processor,
        machine.memory_gib,
        machine.kernel,
        results.load_at_start,
        results.load_at_end
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: &str = "<!-- from here -->";
    const END: &str = "<!-- to here -->";

    #[test]
    fn a_document_keeps_what_stands_around_the_tables() {
        let text = format!("# Title\n\n{BEGIN}\nold\n{END}\n\nrest\n");
        assert_eq!(
            replaced(&text, [BEGIN, END], "new\n").unwrap(),
            format!("# Title\n\n{BEGIN}\nnew\n{END}\n\nrest\n")
        );
        assert!(replaced("no marks", [BEGIN, END], "new").is_err());
    }

    #[test]
    fn numbers_have_three_digits_or_whole_thousands() {
        let shown = [0.123, 4.0, 41.26, 999.6, 12_345.6, 1_234_567.0, -1_500.0].map(number);
        assert_eq!(shown, ["0.12", "4.00", "41.3", "1,000", "12,346", "1,234,567", "-1,500"]);
        assert_eq!(Spread::of(vec![4.0, 1.0]), Some(Spread { median: 2.5, least: 1.0, most: 4.0 }));
        assert_eq!(Spread::of(Vec::new()), None);
    }
}
