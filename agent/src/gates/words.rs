//! What gates say: to people, and to the worker that is sent back. Pure.

use std::time::Duration;

use crate::runner::{
    GateCommand, GateKind, GateResult, LONGEST_DETAIL, LONGEST_FEEDBACK, LONGEST_GATE_LOG, shorten,
};

/// Longest name of a gate, in bytes.
const LONGEST_NAME: usize = 200;

/// Longest log of a gate that passed, in bytes.
const LONGEST_PASSED_LOG: usize = 512;

/// Longest quotation of a red gate in the detail, in bytes.
const LONGEST_QUOTE: usize = 300;

/// A command as people write it, in one line.
pub(super) fn command_name(command: &GateCommand) -> String {
    let words: Vec<&str> =
        std::iter::once(command.program.as_str()).chain(command.args.iter().map(String::as_str)).collect();
    let line: String =
        words.join(" ").chars().map(|char| if char.is_control() { ' ' } else { char }).collect();
    shorten(line, LONGEST_NAME)
}

/// A time as people say it.
pub(super) fn time(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..60 => format!("{seconds}.{} s", time.subsec_millis() / 100),
        seconds if seconds.is_multiple_of(60) => format!("{} min", seconds / 60),
        seconds => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

/// The log of a command: how it ended, then the ends of what it wrote, as much as fits.
pub(super) fn log(how: &str, stdout: &[u8], stderr: &[u8], passed: bool) -> String {
    let longest = if passed { LONGEST_PASSED_LOG } else { LONGEST_GATE_LOG };
    let (out, err) = (readable(stdout), readable(stderr));
    let (out, err) = (out.trim(), err.trim());
    // Two line breaks, and the line that separates the two.
    const BETWEEN: &str = "standard error:";
    let room = longest.saturating_sub(how.len() + BETWEEN.len() + 4);
    let for_err = err.len().min(room.saturating_sub(out.len()).max(room / 2));
    let mut text = how.to_owned();
    for part in [end_of(out, room - for_err), if err.is_empty() { "" } else { BETWEEN }, end_of(err, for_err)]
    {
        if !part.is_empty() {
            text.push('\n');
            text.push_str(part);
        }
    }
    shorten(text, longest)
}

/// The last bytes of a text, from a character on, and from a line on where that leaves something.
fn end_of(text: &str, most: usize) -> &str {
    if text.len() <= most {
        return text;
    }
    let mut from = text.len() - most;
    while !text.is_char_boundary(from) {
        from += 1;
    }
    let cut = &text[from..];
    match cut.split_once('\n') {
        Some((_, rest)) if !rest.is_empty() => rest,
        Some(_) | None => cut,
    }
}

/// What a program wrote, without what moves a cursor or sets a colour.
fn readable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut chars = text.trim_start_matches('\u{fffd}').chars();
    let mut clean = String::with_capacity(text.len());
    while let Some(char) = chars.next() {
        match char {
            '\n' | '\t' => clean.push(char),
            '\u{1b}' if chars.clone().next() == Some('[') => {
                chars.next();
                // Parameters, up to the letter that ends the sequence.
                chars.by_ref().find(|char| matches!(char, '\u{40}'..='\u{7e}'));
            }
            char if char.is_control() => {}
            char => clean.push(char),
        }
    }
    clean
}

/// The detail of a report: the first red gate, and how many more there are.
pub(super) fn detail(gates: &[GateResult]) -> String {
    let mut red = gates.iter().filter(|gate| !gate.passed);
    let Some(first) = red.next() else { return String::new() };
    let how = first.log.lines().next().unwrap_or_default();
    let how = shorten(how.to_owned(), LONGEST_QUOTE);
    let more = match red.count() {
        0 => String::new(),
        1 => "; and 1 more gate failed".to_owned(),
        more => format!("; and {more} more gates failed"),
    };
    shorten(format!("gate failed: {}: {how}{more}", first.name), LONGEST_DETAIL)
}

/// What the worker is told when it is sent back.
pub(super) fn feedback(gates: &[GateResult]) -> String {
    let red: Vec<&GateResult> = gates.iter().filter(|gate| !gate.passed).collect();
    let many = if gates.len() == 1 { "check" } else { "checks" };
    let mut text = format!(
        "Your work was checked and is not done yet: {} of {} {many} failed.\n",
        red.len(),
        gates.len()
    );
    for gate in &red {
        let what = match gate.kind {
            GateKind::Activity => "Activity",
            GateKind::Artifact => "File to hand over",
            GateKind::Command => "Command",
        };
        let fence = fence(&gate.log);
        text.push_str(&format!("\n{what}: {}\n{fence}\n{}\n{fence}\n", gate.name, gate.log));
    }
    let todo = "\nMend what is wrong, and leave the checks themselves as they are. Then give your whole answer again, in \
                the form that was asked for at first: the earlier one does not count.\n";
    // The logs may be cut, what to do may not.
    let mut text = shorten(text, LONGEST_FEEDBACK - todo.len());
    text.push_str(todo);
    text
}

/// More backquotes in a row than there are in the text, and three at least.
fn fence(text: &str) -> String {
    let longest = text.split(|char| char != '`').map(str::len).max().unwrap_or(0);
    "`".repeat((longest + 1).max(3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(kind: GateKind, name: &str, passed: bool, log: &str) -> GateResult {
        GateResult { kind, name: name.to_owned(), passed, log: log.to_owned(), duration: Duration::ZERO }
    }

    #[test]
    fn the_ends_of_both_outputs_fit_a_log() {
        let lines = |word: &str| (0..2_000).map(|number| format!("{word} {number}\n")).collect::<String>();
        let (out, err) = (lines("out"), lines("err"));
        let log = log("exit code 1", out.as_bytes(), err.as_bytes(), false);
        assert!(log.len() <= LONGEST_GATE_LOG && log.len() > LONGEST_GATE_LOG - 100, "{}", log.len());
        assert!(log.starts_with("exit code 1\nout ") && log.ends_with("err 1999"), "{log}");
        assert!(log.contains("\nout 1999\nstandard error:\nerr "), "{log}");
        let lopsided = super::log("exit code 1", b"short", err.as_bytes(), false);
        assert!(lopsided.starts_with("exit code 1\nshort\nstandard error:\n") && lopsided.len() > 4_000);
        assert!(super::log("exit code 0", out.as_bytes(), b"", true).len() <= LONGEST_PASSED_LOG);
        assert_eq!(super::log("exit code 0", b"", b"", true), "exit code 0");
    }

    #[test]
    fn colours_and_bytes_that_are_no_text_are_left_out() {
        let log = log("exit code 1", b"\xbc\x9f\x1b[1;31merror\x1b[0m:\tx\x07\x00\r\n\x1b[", b"", false);
        assert_eq!(log, "exit code 1\nerror:\tx");
    }

    #[test]
    fn the_detail_names_the_first_red_gate_and_counts_the_rest() {
        let gates = [
            gate(GateKind::Activity, "tool calls", true, "3"),
            gate(GateKind::Command, "cargo test", false, "exit code 101\nmuch more"),
            gate(GateKind::Artifact, "report.md", false, "there is none"),
        ];
        assert_eq!(detail(&gates), "gate failed: cargo test: exit code 101; and 1 more gate failed");
        assert_eq!(detail(&gates[..2]), "gate failed: cargo test: exit code 101");
    }

    #[test]
    fn the_worker_is_told_what_failed_with_its_log_and_what_to_do() {
        let told = feedback(&[
            gate(GateKind::Command, "cargo fmt --check", true, "fine"),
            gate(GateKind::Command, "cargo test", false, "exit code 101\n```\nassertion failed\n```"),
        ]);
        insta::assert_snapshot!(told, @r"
        Your work was checked and is not done yet: 1 of 2 checks failed.

        Command: cargo test
        ````
        exit code 101
        ```
        assertion failed
        ```
        ````

        Mend what is wrong, and leave the checks themselves as they are. Then give your whole answer again, in the form that was asked for at first: the earlier one does not count.
        ");
        let many: Vec<GateResult> =
            (0..80).map(|_| gate(GateKind::Command, "x", false, &"y".repeat(LONGEST_GATE_LOG))).collect();
        let told = feedback(&many);
        assert!(told.len() <= LONGEST_FEEDBACK && told.ends_with("does not count.\n"), "{}", told.len());
    }

    #[test]
    fn names_are_one_line_and_times_are_read_easily() {
        let command = GateCommand {
            program: "sh".into(),
            args: vec!["-c".into(), "a\nb".into()],
            ..Default::default()
        };
        assert_eq!(command_name(&command), "sh -c a b");
        for (millis, text) in [(0, "0.0 s"), (3_250, "3.2 s"), (300_000, "5 min"), (61_000, "1 min 1 s")] {
            assert_eq!(time(Duration::from_millis(millis)), text);
        }
    }
}
