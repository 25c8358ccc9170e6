//! From everything observed to one typed ending. The last `result` decides: never the exit code, which can
//! be 0 without a result, and never `subtype`, which is `success` for every failure of the API.
//!
//! | The end | Outcome |
//! |---|---|
//! | the program could not be executed, or refused its arguments | `spawn_failed` |
//! | result, `is_error` false, turns > 0, structured if demanded | `ok` |
//! | … structured answer missing | `schema_invalid` |
//! | … no turn was made | `crash` |
//! | stopped by us, no good result | the outcome of the cause |
//! | limits of the CLI: turns, budget, schema retries | `max_turns`, `budget`, `schema_invalid` |
//! | stop reason refusal | `refused` |
//! | status 401, 403, or the CLI is not logged in | `auth` |
//! | status 429 | `rate_limited` |
//! | status 404 | `model_unavailable` |
//! | output limit of the model | `limit_output` |
//! | any other failure of the API, network and overload included | `api_error` |
//! | no result | `crash` |
//!
//! Pure; wall time is an argument.

use std::time::Duration;

use crate::supervisor::exit::ExitRecord;
use crate::supervisor::stop::StopFact;

use super::super::{LONGEST_STRUCTURED, Outcome, outcome_of_stop, shorten};
use super::event::ResultLine;
use super::observer::Facts;

/// What was asked for, as far as a verdict depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Terms {
    /// Whether the answer must be structured.
    pub structured: bool,
    /// Whether a denied tool fails the attempt.
    pub denial_fails: bool,
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
const LONGEST_QUOTE: usize = 1_500;

/// Judges a process that ended as `exit` says. `stderr` is the end of its standard error, `unix_now` the
/// wall time in seconds.
#[must_use]
pub fn judge(facts: &Facts, terms: Terms, exit: &ExitRecord, stderr: &str, unix_now: u64) -> Verdict {
    let (outcome, detail) = decide(facts, terms, exit, stderr);
    let retry_after = if outcome == Outcome::RateLimited { reset(facts, unix_now) } else { None };
    Verdict { outcome, detail: shorten(detail, super::super::LONGEST_DETAIL), retry_after }
}

fn decide(facts: &Facts, terms: Terms, exit: &ExitRecord, stderr: &str) -> (Outcome, String) {
    if let Some(error) = &exit.spawn_error {
        return (Outcome::SpawnFailed, error.clone());
    }
    let stop = exit.stop.and_then(|fact| Some((fact, outcome_of_stop(fact.cause)?)));
    let answered = facts.result.as_ref().filter(|_| !facts.awaiting_result);
    match (answered, stop) {
        (Some((result, _)), _) if result.is_error == Some(false) => accepted(result, terms),
        (Some((result, end)), stop) => match stop.filter(|(fact, _)| came_first(*fact, *end)) {
            Some((_, (outcome, why))) => (outcome, why.to_owned()),
            None => failed(facts, result),
        },
        (None, Some((_, (outcome, why)))) => (outcome, stopped_detail(why, exit)),
        (None, None) => match &facts.result {
            // It left in peace and never answered the repair line: what it said before stands, incomplete.
            Some((result, _)) if exit.code == Some(0) => accepted(result, terms),
            Some(_) | None => without_result(facts, exit, stderr),
        },
    }
}

/// Whether the stop came before the result, which then only says that the CLI was interrupted.
fn came_first(stop: StopFact, result_end: u64) -> bool {
    result_end > stop.stdout_len
}

fn stopped_detail(why: &str, exit: &ExitRecord) -> String {
    exit.trouble.as_ref().map_or_else(|| why.to_owned(), |trouble| format!("{why}: {trouble}"))
}

fn accepted(result: &ResultLine, terms: Terms) -> (Outcome, String) {
    if result.num_turns == 0 {
        let said = quote(result.text.as_deref().unwrap_or_default());
        return (Outcome::Crash, format!("the CLI ended without asking the model{said}"));
    }
    if terms.structured {
        match &result.structured {
            None => return (Outcome::SchemaInvalid, "the structured answer is missing".to_owned()),
            Some(json) if json.len() > LONGEST_STRUCTURED => {
                let detail = format!(
                    "the structured answer has {} bytes, {LONGEST_STRUCTURED} are allowed",
                    json.len()
                );
                return (Outcome::LimitOutput, detail);
            }
            Some(_) => {}
        }
    }
    if terms.denial_fails && !result.denied_tools.is_empty() {
        return (Outcome::PermissionDenied, format!("denied: {}", denied(result).join(", ")));
    }
    (Outcome::Ok, String::new())
}

/// The tools that were denied, each once.
#[must_use]
pub fn denied(result: &ResultLine) -> Vec<String> {
    let names: std::collections::BTreeSet<&String> = result.denied_tools.iter().collect();
    names.into_iter().cloned().collect()
}

fn failed(facts: &Facts, result: &ResultLine) -> (Outcome, String) {
    let text =
        result.text.as_deref().or_else(|| result.errors.first().map(String::as_str)).unwrap_or_default();
    let outcome = match result.subtype.as_str() {
        "error_max_turns" => Outcome::MaxTurns,
        "error_max_budget_usd" => Outcome::Budget,
        "error_max_structured_output_retries" => Outcome::SchemaInvalid,
        // An unknown session or the like: no model was asked.
        "error_during_execution" if facts.init.is_none() => Outcome::SpawnFailed,
        "error_during_execution" => Outcome::Crash,
        _ => api_failure(facts, result),
    };
    (outcome, shorten(text.to_owned(), LONGEST_QUOTE))
}

fn api_failure(facts: &Facts, result: &ResultLine) -> Outcome {
    if result.stop_reason.as_deref() == Some("refusal") {
        return Outcome::Refused;
    }
    match result.api_error_status {
        Some(401 | 403) => return Outcome::Auth,
        Some(404) => return Outcome::ModelUnavailable,
        Some(429) => return Outcome::RateLimited,
        Some(_) | None => {}
    }
    match facts.api_error.as_deref() {
        Some("authentication_failed" | "oauth_org_not_allowed" | "billing_error") => Outcome::Auth,
        Some("rate_limit") => Outcome::RateLimited,
        Some("model_not_found") => Outcome::ModelUnavailable,
        Some("max_output_tokens") => Outcome::LimitOutput,
        Some(_) | None => Outcome::ApiError,
    }
}

fn without_result(facts: &Facts, exit: &ExitRecord, stderr: &str) -> (Outcome, String) {
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
        return (Outcome::SpawnFailed, format!("the CLI did not start its work: {how}{said}"));
    }
    (Outcome::Crash, format!("the CLI ended without a result: {how}{said}"))
}

fn quote(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {}", shorten(text.to_owned(), LONGEST_QUOTE)) }
}

/// Until the window resets that was said to be exhausted.
fn reset(facts: &Facts, unix_now: u64) -> Option<Duration> {
    let limit = facts.rate_limit.as_ref().filter(|limit| limit.status == "rejected")?;
    Some(Duration::from_secs(limit.resets_at?.saturating_sub(unix_now)))
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
            let mut observer = Observer::new(Demands { structured: self.terms.structured, max_turns: None });
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
            case(&failure(status, error, "stop_sequence")).check(outcome, "sorry");
        }
        case(&failure("null", "\"invalid_request\"", "refusal")).check(Outcome::Refused, "sorry");
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
        for (subtype, outcome) in [
            ("error_max_turns", Outcome::MaxTurns),
            ("error_max_budget_usd", Outcome::Budget),
            ("error_max_structured_output_retries", Outcome::SchemaInvalid),
        ] {
            let line = format!(
                "{{\"type\":\"result\",\"subtype\":\"{subtype}\",\"is_error\":true,\"num_turns\":3,\"errors\":[\"why\"]}}\n"
            );
            case(&line).check(outcome, "why");
        }
    }

    #[test]
    fn the_last_result_decides() {
        case(&format!("{INIT}{}{OK}", failure("500", "null", "x"))).check(Outcome::Ok, "");
        case(&format!("{INIT}{OK}{}", failure("500", "null", "x"))).check(Outcome::ApiError, "sorry");
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
            (StopCause::Hang, Outcome::Hang, "it said nothing for longer than the silence limit"),
            (StopCause::MaxTurns, Outcome::MaxTurns, "it reached its turn limit"),
            (StopCause::LostAgent, Outcome::LostAgent, "nobody renewed it in time"),
            (StopCause::LimitOutput, Outcome::LimitOutput, "it wrote more than an attempt may"),
        ] {
            case(&stopped).stop(cause, before).check(outcome, why);
            case(INIT).stop(cause, before).check(outcome, why);
        }
        case(&format!("{INIT}{OK}")).stop(StopCause::Cancelled, before).check(Outcome::Ok, "");
        let failed = failure("429", "null", "x");
        case(&failed).stop(StopCause::Timeout, failed.len()).check(Outcome::RateLimited, "sorry");
        case(&failed)
            .stop(StopCause::Timeout, failed.len() - 1)
            .check(Outcome::Timeout, "it passed its time limit");
    }

    #[test]
    fn lingering_after_a_result_changes_nothing() {
        let stream = format!("{INIT}{OK}");
        case(&stream).stop(StopCause::Lingering, stream.len()).check(Outcome::Ok, "");
    }

    #[test]
    fn an_interrupt_that_was_not_ours_is_a_crash() {
        case(&format!("{INIT}{INTERRUPTED}")).check(Outcome::Crash, "aborted");
        case(INTERRUPTED).check(Outcome::SpawnFailed, "aborted");
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
        assert_eq!(case(&failure("429", "null", "x")).verdict().retry_after, None);
    }
}
