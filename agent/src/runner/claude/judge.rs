//! From everything observed to one typed ending. The last `result` decides: never the exit code, which can
//! be 0 without a result, and never `subtype`, which is `success` for every failure of the API.
//!
//! | The end | Outcome |
//! |---|---|
//! | the program could not be executed, or refused its arguments | `spawn_failed` |
//! | result, `is_error` false, turns > 0, structured if demanded | `ok` |
//! | … structured answer missing | `schema_invalid` |
//! | … no turn was made | `crash` |
//! | … the answer is empty and no structured one was asked for | `api_error` |
//! | stopped by us, no good result | the outcome of the cause |
//! | limits of the CLI: turns, budget, schema retries | `max_turns`, `budget`, `schema_invalid` |
//! | a failure of the API | see [`failure`] |
//! | no result | `crash` |
//!
//! An empty answer is a failure: somebody waits for it. It is `api_error` because the model gave nothing and another
//! attempt may give something; `schema_invalid` would blame a schema nobody wrote, `crash` would count against the agent.
//!
//! Pure; wall time is an argument.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::supervisor::exit::ExitRecord;
use crate::supervisor::stop::{StopCause, StopFact};

use super::super::command::with_memory;
use super::super::{LONGEST_DETAIL, LONGEST_STRUCTURED, Outcome, outcome_of_stop, shorten};
use super::event::ResultLine;
use super::failure;
use super::observer::Facts;

/// What was asked for, as far as a verdict depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Terms {
    /// Whether the answer must be structured.
    pub structured: bool,
    /// Whether a denied tool fails the attempt.
    pub denial_fails: bool,
    /// Whether it went on in an interrupted conversation, which is told whatever the ending.
    #[serde(default)]
    pub goes_on: bool,
}

/// The verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Typed ending.
    pub outcome: Outcome,
    /// What happened, in plain English.
    pub detail: String,
    /// Earliest time another attempt makes sense.
    pub retry_after: Option<Duration>,
}

/// Longest quotation in a detail, in bytes.
const LONGEST_QUOTE: usize = 1_000;

/// Judges a process that ended as `exit` says. `stderr` is the end of its standard error, `unix_now` the
/// wall time in seconds.
#[must_use]
pub fn judge(facts: &Facts, terms: Terms, exit: &ExitRecord, stderr: &str, unix_now: u64) -> Verdict {
    let mut verdict = decide(facts, terms, exit, stderr, unix_now);
    for note in notes(facts, terms, exit) {
        let gap = if verdict.detail.is_empty() { "" } else { "; " };
        verdict.detail.push_str(gap);
        verdict.detail.push_str(&note);
    }
    verdict.detail = shorten(verdict.detail, LONGEST_DETAIL);
    verdict
}

/// What is told whatever the ending.
fn notes(facts: &Facts, terms: Terms, exit: &ExitRecord) -> Vec<String> {
    let mut notes = facts.notes.clone();
    if terms.goes_on && facts.init.is_some() {
        notes.push("it went on in the conversation of the attempt before".to_owned());
    }
    if exit.stop.is_some_and(|stop| stop.cause == StopCause::Lingering) {
        notes.push("it did not exit after its result and was ended".to_owned());
    }
    notes
}

fn decide(facts: &Facts, terms: Terms, exit: &ExitRecord, stderr: &str, unix_now: u64) -> Verdict {
    if let Some(error) = &exit.spawn_error {
        return verdict(Outcome::SpawnFailed, error);
    }
    // What a CLI says that works under other terms is no answer, even where it was quicker than the stop.
    if let Some((StopCause::Misread, why)) = &facts.asked_stop {
        let what = outcome_of_stop(StopCause::Misread).map_or("", |(_, what)| what);
        return verdict(Outcome::SpawnFailed, format!("{what}{why}"));
    }
    let stop = exit.stop.and_then(|fact| Some((fact, outcome_of_stop(fact.cause)?)));
    let answered = facts.result.as_ref().filter(|_| !facts.awaiting_result);
    match (answered, stop) {
        (Some((result, _)), _) if result.is_error == Some(false) => accepted(result, terms),
        (Some((result, end)), stop) => match stop.filter(|(fact, _)| came_first(*fact, *end)) {
            Some((fact, (outcome, why))) => stopped(outcome, why, fact, facts, exit),
            None => failed(facts, result, stderr, unix_now),
        },
        (None, Some((fact, (outcome, why)))) => stopped(outcome, why, fact, facts, exit),
        (None, None) => match &facts.result {
            // It left in peace and never answered the repair line: what it said before stands, incomplete.
            Some((result, _)) if exit.code == Some(0) => accepted(result, terms),
            Some(_) | None => without_result(facts, exit, stderr),
        },
    }
}

fn verdict(outcome: Outcome, detail: impl Into<String>) -> Verdict {
    Verdict { outcome, detail: detail.into(), retry_after: None }
}

/// Whether the stop came before the result, which then only says that the CLI was interrupted.
fn came_first(stop: StopFact, result_end: u64) -> bool {
    result_end > stop.stdout_len
}

/// The words of a stop, with what is known beside its cause.
fn stopped(outcome: Outcome, why: &str, fact: StopFact, facts: &Facts, exit: &ExitRecord) -> Verdict {
    let mut detail = with_memory(why, exit);
    if let Some((_, figures)) = facts.asked_stop.as_ref().filter(|(cause, _)| *cause == fact.cause) {
        detail.push_str(figures);
    }
    if fact.cause == StopCause::Hang {
        detail.push_str(", ");
        detail.push_str(&facts.waiting_at(fact.stdout_len).words());
    }
    if let Some(trouble) = &exit.trouble {
        detail.push_str(": ");
        detail.push_str(trouble);
    }
    verdict(outcome, detail)
}

fn accepted(result: &ResultLine, terms: Terms) -> Verdict {
    let text = result.text.as_deref().unwrap_or_default();
    if result.num_turns == 0 {
        return verdict(Outcome::Crash, format!("the CLI ended without asking the model{}", quote(text)));
    }
    match &result.structured {
        None if terms.structured => {
            return verdict(Outcome::SchemaInvalid, "the structured answer is missing");
        }
        Some(json) if terms.structured && json.len() > LONGEST_STRUCTURED => {
            let bytes = json.len();
            let detail = format!("the structured answer has {bytes} bytes, {LONGEST_STRUCTURED} are allowed");
            return verdict(Outcome::LimitOutput, detail);
        }
        None if text.trim().is_empty() => {
            return verdict(Outcome::ApiError, "the model ended its turn without a word of an answer");
        }
        Some(_) | None => {}
    }
    if terms.denial_fails && !result.denied_tools.is_empty() {
        return verdict(Outcome::PermissionDenied, format!("denied: {}", denied(result).join(", ")));
    }
    verdict(Outcome::Ok, "")
}

/// The tools that were denied, each once.
#[must_use]
pub fn denied(result: &ResultLine) -> Vec<String> {
    let names: std::collections::BTreeSet<&String> = result.denied_tools.iter().collect();
    names.into_iter().cloned().collect()
}

fn failed(facts: &Facts, result: &ResultLine, stderr: &str, unix_now: u64) -> Verdict {
    let text =
        result.text.as_deref().or_else(|| result.errors.first().map(String::as_str)).unwrap_or_default();
    let (outcome, what) = match result.subtype.as_str() {
        "error_max_turns" => (Outcome::MaxTurns, "it reached its turn limit"),
        "error_max_budget_usd" => (Outcome::Budget, "it reached its budget"),
        "error_max_structured_output_retries" => {
            (Outcome::SchemaInvalid, "no attempt at a structured answer was valid")
        }
        // An unknown session or the like: no model was asked.
        "error_during_execution" if facts.init.is_none() => {
            let said = if text.is_empty() { stderr.trim() } else { text };
            return verdict(Outcome::SpawnFailed, format!("the CLI did not start its work{}", quote(said)));
        }
        "error_during_execution" => (Outcome::Crash, "the CLI broke its work off"),
        _ => return api_failure(facts, result, text, unix_now),
    };
    verdict(outcome, format!("{what}{}", quote(text)))
}

fn api_failure(facts: &Facts, result: &ResultLine, text: &str, unix_now: u64) -> Verdict {
    let failure = failure::explain(facts, result, unix_now);
    let remedy = if failure.remedy.is_empty() { String::new() } else { format!("; {}", failure.remedy) };
    Verdict {
        outcome: failure.outcome,
        detail: format!("{}{}{remedy}", failure.what, quote(text)),
        retry_after: failure.retry_after,
    }
}

fn without_result(facts: &Facts, exit: &ExitRecord, stderr: &str) -> Verdict {
    let how = match (exit.code, exit.signal) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown end".to_owned(),
    };
    let said = quote(stderr.trim());
    // Codes from 128 on are the shell's and the CLI's way to tell of a signal.
    let silent = facts.init.is_none() && facts.malformed == 0;
    let refused_arguments = silent && exit.code.is_some_and(|code| (1..128).contains(&code));
    if refused_arguments {
        return verdict(Outcome::SpawnFailed, format!("the CLI did not start its work: {how}{said}"));
    }
    verdict(Outcome::Crash, format!("the CLI ended without a result: {how}{said}"))
}

/// A text of somebody else, in one line.
fn quote(text: &str) -> String {
    let words: Vec<&str> = text.split(|char: char| char.is_whitespace() || char.is_control()).collect();
    let line = words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    let line = line.strip_suffix('.').unwrap_or(&line);
    if line.is_empty() { String::new() } else { format!(": {}", shorten(line.to_owned(), LONGEST_QUOTE)) }
}

#[cfg(test)]
mod tests {
    use crate::supervisor::stop::{Rung, StopCause};

    use super::super::observer::{Demands, Observer};
    use super::*;

    struct Case {
        stream: String,
        exit: ExitRecord,
        terms: Terms,
        stderr: &'static str,
    }

    fn case(stream: &str) -> Case {
        let exit = ExitRecord { code: Some(0), ..ExitRecord::default() };
        Case { stream: stream.to_owned(), exit, terms: Terms::default(), stderr: "" }
    }

    impl Case {
        fn stop(mut self, cause: StopCause, stdout_len: usize) -> Self {
            self.exit.stop = Some(StopFact { cause, stdout_len: stdout_len as u64, rung: Rung::Interrupt });
            self
        }

        fn verdict(&self) -> Verdict {
            let mut observer =
                Observer::new(Demands { structured: self.terms.structured, ..Demands::default() });
            observer.push(self.stream.as_bytes());
            judge(&observer.finish(), self.terms, &self.exit, self.stderr, 1_000)
        }

        fn check(&self, outcome: Outcome, detail: &str) {
            let verdict = self.verdict();
            assert_eq!((verdict.outcome, verdict.detail.as_str()), (outcome, detail), "{}", self.stream);
        }
    }

    const INIT: &str = "{\"type\":\"system\",\"subtype\":\"init\"}\n";
    const OK: &str = "{\"type\":\"result\",\"subtype\":\"success\",\"is_error\":false,\"num_turns\":1,\"result\":\"done\"}\n";
    const INTERRUPTED: &str = "{\"type\":\"result\",\"subtype\":\"error_during_execution\",\"is_error\":true,\"num_turns\":2,\"errors\":[\"aborted\"]}\n";

    fn failure(status: &str, error: &str, stop_reason: &str) -> String {
        format!(
            "{INIT}{{\"type\":\"assistant\",\"error\":{error},\"message\":{{\"id\":\"x\",\"model\":\"<synthetic>\"}}}}\n\
             {{\"type\":\"result\",\"subtype\":\"success\",\"is_error\":true,\"num_turns\":1,\
             \"api_error_status\":{status},\"stop_reason\":\"{stop_reason}\",\"result\":\"sorry\"}}\n"
        )
    }

    #[test]
    fn a_good_result_is_ok_whatever_the_exit_code_says() {
        let mut good = case(&format!("{INIT}{OK}"));
        good.check(Outcome::Ok, "");
        good.exit.code = Some(1);
        good.check(Outcome::Ok, "");
    }

    #[test]
    fn success_with_is_error_is_no_success() {
        for (status, error, outcome) in [
            ("429", "\"rate_limit\"", Outcome::RateLimited),
            ("401", "\"authentication_failed\"", Outcome::Auth),
            ("403", "null", Outcome::Auth),
            ("404", "\"model_not_found\"", Outcome::ModelUnavailable),
            ("500", "\"server_error\"", Outcome::ApiError),
            ("400", "\"unknown\"", Outcome::ApiError),
            ("null", "\"server_error\"", Outcome::ApiError),
            ("null", "\"authentication_failed\"", Outcome::Auth),
            ("null", "\"rate_limit\"", Outcome::RateLimited),
            ("null", "\"max_output_tokens\"", Outcome::LimitOutput),
            ("null", "null", Outcome::ApiError),
        ] {
            let verdict = case(&failure(status, error, "stop_sequence")).verdict();
            assert_eq!(verdict.outcome, outcome, "{status} {error}");
            assert!(verdict.detail.contains(": sorry; "), "{}", verdict.detail);
        }
        case(&failure("null", "\"invalid_request\"", "refusal"))
            .check(Outcome::Refused, "the model refused: sorry; rephrase the request");
    }

    #[test]
    fn a_result_without_is_error_is_not_trusted() {
        let verdict = case("{\"type\":\"result\",\"num_turns\":1}\n").verdict();
        assert_eq!(verdict.outcome, Outcome::ApiError);
    }

    #[test]
    fn no_turn_means_that_the_model_was_not_asked() {
        let line =
            "{\"type\":\"result\",\"is_error\":false,\"num_turns\":0,\"result\":\"Unknown command: /x\"}\n";
        case(line).check(Outcome::Crash, "the CLI ended without asking the model: Unknown command: /x");
    }

    #[test]
    fn limits_of_the_cli_are_named_by_their_subtype() {
        for (subtype, outcome, detail) in [
            ("error_max_turns", Outcome::MaxTurns, "it reached its turn limit: why"),
            ("error_max_budget_usd", Outcome::Budget, "it reached its budget: why"),
            (
                "error_max_structured_output_retries",
                Outcome::SchemaInvalid,
                "no attempt at a structured answer was valid: why",
            ),
        ] {
            let line = format!(
                "{{\"type\":\"result\",\"subtype\":\"{subtype}\",\"is_error\":true,\"num_turns\":3,\"errors\":[\"why\"]}}\n"
            );
            case(&line).check(outcome, detail);
        }
    }

    #[test]
    fn the_last_result_decides() {
        case(&format!("{INIT}{}{OK}", failure("500", "null", "x"))).check(Outcome::Ok, "");
        let failed_last = case(&format!("{INIT}{OK}{}", failure("500", "null", "x"))).verdict();
        assert_eq!(failed_last.outcome, Outcome::ApiError);
    }

    #[test]
    fn a_demanded_structure_must_be_there() {
        let mut structured = case(&format!("{OK}{OK}"));
        structured.terms.structured = true;
        structured.check(Outcome::SchemaInvalid, "the structured answer is missing");
        structured.stream = OK.replace("\"num_turns\"", "\"structured_output\":{\"a\":1},\"num_turns\"");
        structured.check(Outcome::Ok, "");
        let huge = format!("\"structured_output\":\"{}\",\"num_turns\"", "x".repeat(LONGEST_STRUCTURED));
        structured.stream = OK.replace("\"num_turns\"", &huge);
        assert_eq!(structured.verdict().outcome, Outcome::LimitOutput);
    }

    #[test]
    fn a_repair_that_was_never_answered_leaves_no_result() {
        let mut cut = case(OK);
        cut.terms.structured = true;
        cut.exit = ExitRecord { signal: Some(9), ..ExitRecord::default() };
        cut.check(Outcome::Crash, "the CLI ended without a result: signal 9");
        cut.exit = ExitRecord { code: Some(0), ..ExitRecord::default() };
        cut.check(Outcome::SchemaInvalid, "the structured answer is missing");
    }

    #[test]
    fn denied_tools_fail_only_where_that_was_asked_for() {
        let line = OK.replace(
            "\"num_turns\"",
            "\"permission_denials\":[{\"tool_name\":\"Bash\"},{\"tool_name\":\"Bash\"}],\"num_turns\"",
        );
        let mut denied = case(&line);
        denied.check(Outcome::Ok, "");
        denied.terms.denial_fails = true;
        denied.check(Outcome::PermissionDenied, "denied: Bash");
    }

    #[test]
    fn a_stop_names_the_ending_unless_the_result_was_there_before_or_is_good() {
        let before = INIT.len();
        let stopped = format!("{INIT}{INTERRUPTED}");
        for (cause, outcome, why) in [
            (StopCause::Cancelled, Outcome::Cancelled, "it was cancelled"),
            (StopCause::Timeout, Outcome::Timeout, "it passed its time limit"),
            (
                StopCause::Hang,
                Outcome::Hang,
                "it said nothing for longer than the silence limit, while it asked the model",
            ),
            (
                StopCause::NoFirstEvent,
                Outcome::Hang,
                "it said nothing from its start to the end of the start limit",
            ),
            (
                StopCause::ClosedOutput,
                Outcome::Hang,
                "it closed its output without a result and did not exit",
            ),
            (StopCause::MaxTurns, Outcome::MaxTurns, "it reached its turn limit"),
            (StopCause::LostAgent, Outcome::LostAgent, "nobody renewed it in time"),
            (StopCause::LimitOutput, Outcome::LimitOutput, "it wrote more than an attempt may"),
        ] {
            case(&stopped).stop(cause, before).check(outcome, why);
            case(INIT).stop(cause, before).check(outcome, why);
        }
        case(&format!("{INIT}{OK}")).stop(StopCause::Cancelled, before).check(Outcome::Ok, "");
        let failed = failure("429", "null", "x");
        let before_stop = case(&failed).stop(StopCause::Timeout, failed.len()).verdict();
        assert_eq!(before_stop.outcome, Outcome::RateLimited);
        case(&failed)
            .stop(StopCause::Timeout, failed.len() - 1)
            .check(Outcome::Timeout, "it passed its time limit");
    }

    #[test]
    fn lingering_after_a_result_changes_nothing() {
        let stream = format!("{INIT}{OK}");
        case(&stream)
            .stop(StopCause::Lingering, stream.len())
            .check(Outcome::Ok, "it did not exit after its result and was ended");
    }

    #[test]
    fn an_empty_answer_is_a_failure_unless_a_structured_one_is_there() {
        let empty = OK.replace("\"done\"", "\" \\n\"");
        let what = "the model ended its turn without a word of an answer";
        case(&empty).check(Outcome::ApiError, what);
        case(&OK.replace(",\"result\":\"done\"", "")).check(Outcome::ApiError, what);
        let mut structured = case(&empty.replace("\"num_turns\"", "\"structured_output\":{},\"num_turns\""));
        structured.check(Outcome::Ok, "");
        structured.terms.structured = true;
        structured.check(Outcome::Ok, "");
    }

    #[test]
    fn a_hang_is_named_by_what_went_on_when_it_was_noticed() {
        let tool = "{\"type\":\"assistant\",\"message\":{\"id\":\"a\",\"content\":[{\"type\":\"tool_use\",\"name\":\"Bash\"}]}}\n";
        let answer = "{\"type\":\"user\",\"message\":{\"content\":[{\"type\":\"tool_result\"}]}}\n";
        let silent = "it said nothing for longer than the silence limit, ";
        let during = format!("{INIT}{tool}");
        let after = format!("{during}{answer}");
        // What the interrupted CLI says afterwards changes nothing.
        case(&format!("{after}{INTERRUPTED}"))
            .stop(StopCause::Hang, during.len())
            .check(Outcome::Hang, &format!("{silent}while the tool Bash ran"));
        case(&format!("{after}{INTERRUPTED}"))
            .stop(StopCause::Hang, after.len())
            .check(Outcome::Hang, &format!("{silent}while it asked the model after the result of a tool"));
        case("").stop(StopCause::Hang, 0).check(Outcome::Hang, &format!("{silent}before its first event"));
    }

    #[test]
    fn what_others_say_is_quoted_in_one_line() {
        assert_eq!(quote(" a\n\n b\u{1b}[31m\tc. "), ": a b [31m c");
        assert_eq!(quote(" \n"), "");
        assert!(quote(&"x".repeat(5_000)).len() < 1_100);
    }

    #[test]
    fn memory_is_told_with_its_figures() {
        let mut big = case(INIT).stop(StopCause::Memory, INIT.len());
        big.exit.peak_memory_bytes = 3 << 29;
        big.exit.memory_limit_bytes = Some(1 << 30);
        big.check(Outcome::Crash, "it used more memory than an attempt may (1.5 GiB of 1.0 GiB)");
    }

    #[test]
    fn an_answer_given_under_other_terms_is_none() {
        let given = super::super::takeover::Given {
            agents: vec!["helper".to_owned()],
            ..super::super::takeover::Given::default()
        };
        let mut observer = Observer::new(Demands { given: Some(given), ..Demands::default() });
        let init = "{\"type\":\"system\",\"subtype\":\"init\",\"agents\":[]}\n";
        observer.push(format!("{init}{OK}").as_bytes());
        let exit = ExitRecord { code: Some(0), ..ExitRecord::default() };
        let verdict = judge(&observer.finish(), Terms::default(), &exit, "", 0);
        assert_eq!(verdict.outcome, Outcome::SpawnFailed);
        assert_eq!(
            verdict.detail,
            "the CLI did not take over what it was given: the sub-agent \"helper\" is missing"
        );
    }

    #[test]
    fn notes_follow_every_ending() {
        let mut observer = Observer::new(Demands {
            given: Some(super::super::takeover::Given {
                tools: vec!["Bsah".to_owned()],
                ..super::super::takeover::Given::default()
            }),
            ..Demands::default()
        });
        let init = "{\"type\":\"system\",\"subtype\":\"init\",\"tools\":[]}\n";
        observer.push(format!("{init}{OK}").as_bytes());
        let verdict = judge(&observer.finish(), Terms::default(), &ExitRecord::default(), "", 0);
        assert_eq!((verdict.outcome, verdict.detail.as_str()), (Outcome::Ok, "the CLI has no tool \"Bsah\""));
    }

    #[test]
    fn an_interrupt_that_was_not_ours_is_a_crash() {
        case(&format!("{INIT}{INTERRUPTED}")).check(Outcome::Crash, "the CLI broke its work off: aborted");
        case(INTERRUPTED).check(Outcome::SpawnFailed, "the CLI did not start its work: aborted");
    }

    #[test]
    fn without_a_result_the_exit_tells_a_bad_start_from_a_crash() {
        let mut start = case("");
        start.exit.code = Some(1);
        start.stderr = "error: unknown option '--x'\n";
        start.check(
            Outcome::SpawnFailed,
            "the CLI did not start its work: exit code 1: error: unknown option '--x'",
        );
        start.stream = INIT.to_owned();
        start.check(
            Outcome::Crash,
            "the CLI ended without a result: exit code 1: error: unknown option '--x'",
        );
        let mut quiet = case(INIT);
        quiet.check(Outcome::Crash, "the CLI ended without a result: exit code 0");
        quiet.exit.code = Some(143);
        quiet.stream.clear();
        quiet.check(Outcome::Crash, "the CLI ended without a result: exit code 143");
    }

    #[test]
    fn a_program_that_was_not_executed_is_named() {
        let mut missing = case("");
        missing.exit.spawn_error = Some("cannot execute /x: No such file or directory".to_owned());
        missing.check(Outcome::SpawnFailed, "cannot execute /x: No such file or directory");
    }

    #[test]
    fn an_exhausted_window_says_when_to_come_back() {
        let window = "{\"type\":\"rate_limit_event\",\"rate_limit_info\":{\"status\":\"rejected\",\"resetsAt\":4600}}\n";
        let limited = case(&format!("{window}{}", failure("429", "\"rate_limit\"", "x"))).verdict();
        assert_eq!(
            (limited.outcome, limited.retry_after),
            (Outcome::RateLimited, Some(Duration::from_secs(3_600)))
        );
        assert_eq!(case(&failure("429", "null", "x")).verdict().retry_after, Some(Duration::from_secs(61)));
    }
}
