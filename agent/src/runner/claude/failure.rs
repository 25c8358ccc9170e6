//! What a failed result means and what a person can do about it. The status of the API decides, then the CLI's own word
//! for the error; its text is quoted and never searched. Pure.
//!
//! | Seen on the CLI | Outcome |
//! |---|---|
//! | 401, 403, not signed in, nothing to pay with | `auth` |
//! | 429: a rate, or a window of a subscription | `rate_limited`, with the earliest time that makes sense |
//! | 404 | `model_unavailable` |
//! | stop reason refusal | `refused` |
//! | the model's output limit, three continuations included | `limit_output` |
//! | 400, 413, 500, 529 (status absent), lost connection, no answer in time | `api_error` |

use std::time::Duration;

use super::super::Outcome;
use super::event::{RateLimit, ResultLine};
use super::observer::Facts;

/// What a 429 without any retry means at least: the CLI waits for up to a minute itself and gives up at once when it is
/// asked to wait longer. How much longer it does not tell.
const GAVE_UP_AT_ONCE: Duration = Duration::from_secs(61);

/// A failed result, explained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Typed ending.
    pub outcome: Outcome,
    /// What happened.
    pub what: String,
    /// What to do; empty where the outcome's own remedy says it all.
    pub remedy: &'static str,
    /// Earliest time another attempt makes sense.
    pub retry_after: Option<Duration>,
}

/// Explains a result of the API's failure. `unix_now` is the wall time in seconds.
#[must_use]
pub fn explain(facts: &Facts, result: &ResultLine, unix_now: u64) -> Failure {
    if result.stop_reason.as_deref() == Some("refusal") {
        return failure(Outcome::Refused, "the model refused", "rephrase the request");
    }
    match (result.api_error_status, facts.api_error.as_deref()) {
        (Some(429), _) | (None, Some("rate_limit")) => rate_limited(facts, unix_now),
        (Some(401), _) => failure(
            Outcome::Auth,
            "the API did not accept the credential (status 401)",
            "renew the credential on the agent's host: replace the key, or sign in again",
        ),
        (Some(403), _) => failure(
            Outcome::Auth,
            "the API does not allow this credential to do it (status 403)",
            "check what the account may use, or give the agent another credential",
        ),
        (None, Some("authentication_failed" | "oauth_org_not_allowed")) => failure(
            Outcome::Auth,
            "the CLI is not signed in",
            "give the agent a key, or sign in on its host with `orch-agent login`",
        ),
        (_, Some("billing_error")) => failure(
            Outcome::Auth,
            "the account cannot pay for the request",
            "check its balance, or give the agent another credential",
        ),
        (Some(404), _) | (None, Some("model_not_found")) => model_unavailable(facts),
        // The CLI counts before it asks; no request was made.
        (None, Some("invalid_request")) => failure(
            Outcome::ApiError,
            "the CLI did not send the request, because it is longer than the model reads",
            "shorten the prompt or its context files, or name a model that reads more",
        ),
        (_, Some("max_output_tokens")) => failure(
            Outcome::LimitOutput,
            "the answer reached the model's output limit, also after three continuations",
            "ask for less at once, or for a file",
        ),
        (status, _) => api_failed(facts, status),
    }
}

fn failure(outcome: Outcome, what: impl Into<String>, remedy: &'static str) -> Failure {
    Failure { outcome, what: what.into(), remedy, retry_after: None }
}

fn model_unavailable(facts: &Facts) -> Failure {
    let model = facts.init.as_ref().and_then(|init| init.model.as_deref()).unwrap_or("asked for");
    let what = format!("the model {model} does not exist or is not offered to this credential (status 404)");
    failure(Outcome::ModelUnavailable, what, "name another model in the worker's file or the task")
}

fn api_failed(facts: &Facts, status: Option<u16>) -> Failure {
    let last_retry = facts.retry.as_ref();
    let overloaded = "try again later; a run that cannot wait can name another model";
    match (status, last_retry.and_then(|retry| retry.status)) {
        (Some(400), _) => failure(
            Outcome::ApiError,
            "the API refused the request (status 400)",
            "the same request will fail again: check the model, the tools and the length of the prompt",
        ),
        (Some(413), _) => failure(
            Outcome::ApiError,
            "the request was too large for the API (status 413)",
            "shorten the prompt, or let the task read files instead",
        ),
        // After its own retries the CLI names no status for an overloaded API.
        (Some(529), _) | (None, Some(529)) => {
            failure(Outcome::ApiError, "the API is overloaded (status 529)", overloaded)
        }
        (Some(status), _) => failure(
            Outcome::ApiError,
            format!("the API failed (status {status})"),
            "nothing is wrong with the task; try again later",
        ),
        (None, _) => failure(
            Outcome::ApiError,
            "the API was not reached, or did not answer in time",
            "check the network of the agent's host and the base URL of the API",
        ),
    }
}

fn rate_limited(facts: &Facts, unix_now: u64) -> Failure {
    if let Some(limit) = facts.rate_limit.as_ref().filter(|limit| limit.status == "rejected") {
        return window_exhausted(limit, unix_now);
    }
    let asked = facts.retry.as_ref().filter(|retry| retry.status == Some(429));
    let retry_after = asked.map(|retry| Duration::from_millis(retry.delay_ms));
    let what = match retry_after {
        Some(_) => {
            "the API limits the rate of this credential (status 429), also after the CLI's own retries"
        }
        None => {
            "the API limits the rate of this credential (status 429), for longer than the CLI waits by itself"
        }
    };
    Failure {
        retry_after: Some(retry_after.unwrap_or(GAVE_UP_AT_ONCE)),
        ..failure(Outcome::RateLimited, what, "run less at a time with this credential, or use another")
    }
}

fn window_exhausted(limit: &RateLimit, unix_now: u64) -> Failure {
    let window = match limit.window.as_str() {
        "five_hour" => "5-hour window",
        "seven_day" => "weekly window",
        "seven_day_opus" | "seven_day_sonnet" => "weekly window of this model",
        _ => "usage window",
    };
    let what = match limit.resets_at {
        Some(at) => format!("the {window} of this subscription is used up until {}", utc(at)),
        None => format!("the {window} of this subscription is used up"),
    };
    Failure {
        retry_after: limit.resets_at.map(|at| Duration::from_secs(at.saturating_sub(unix_now))),
        ..failure(Outcome::RateLimited, what, "wait for the reset, or use another credential")
    }
}

/// Seconds since 1970 as a date and time in UTC, for people: `2026-11-21 22:26:40 UTC`. By the civil calendar
/// (H. Hinnant, "chrono-compatible low-level date algorithms").
#[must_use]
pub fn utc(unix: u64) -> String {
    let (days, second) = (unix / 86_400, unix % 86_400);
    let shifted = days.saturating_add(719_468);
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era.saturating_mul(400) + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC",
        second / 3_600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::super::event::{Init, Retry};
    use super::*;

    fn explained(status: Option<u16>, error: &str, change: impl FnOnce(&mut Facts)) -> Failure {
        let mut facts = Facts { api_error: Some(error.to_owned()), ..Facts::default() };
        change(&mut facts);
        let result = ResultLine { api_error_status: status, ..ResultLine::default() };
        explain(&facts, &result, 1_000)
    }

    fn retried(status: u16, delay_ms: u64) -> impl FnOnce(&mut Facts) {
        move |facts| {
            facts.retry = Some(Retry { status: Some(status), delay_ms, ..Retry::default() });
        }
    }

    #[test]
    fn every_status_has_its_outcome_and_its_own_words() {
        let mut words = std::collections::BTreeSet::new();
        for (status, error, outcome) in [
            (Some(400), "unknown", Outcome::ApiError),
            (Some(401), "authentication_failed", Outcome::Auth),
            (Some(403), "authentication_failed", Outcome::Auth),
            (Some(404), "model_not_found", Outcome::ModelUnavailable),
            (Some(413), "invalid_request", Outcome::ApiError),
            (Some(429), "rate_limit", Outcome::RateLimited),
            (Some(500), "server_error", Outcome::ApiError),
            (Some(529), "server_error", Outcome::ApiError),
            (None, "authentication_failed", Outcome::Auth),
            (None, "billing_error", Outcome::Auth),
            (None, "max_output_tokens", Outcome::LimitOutput),
            (None, "unknown", Outcome::ApiError),
            (None, "invalid_request", Outcome::ApiError),
        ] {
            let failure = explained(status, error, |_| ());
            assert_eq!(failure.outcome, outcome, "{status:?} {error}");
            assert!(!failure.remedy.is_empty() && words.insert(failure.what), "{status:?} {error}");
        }
    }

    #[test]
    fn an_overloaded_api_has_no_status_and_is_known_by_the_last_retry() {
        let overloaded = explained(None, "server_error", retried(529, 1_245));
        assert_eq!(overloaded.what, "the API is overloaded (status 529)");
        assert!(explained(None, "server_error", |_| ()).what.contains("not reached"));
    }

    #[test]
    fn a_refusal_goes_before_every_status() {
        let result = ResultLine {
            stop_reason: Some("refusal".to_owned()),
            api_error_status: Some(400),
            ..ResultLine::default()
        };
        assert_eq!(explain(&Facts::default(), &result, 0).outcome, Outcome::Refused);
    }

    #[test]
    fn a_missing_model_is_named() {
        let missing = explained(Some(404), "model_not_found", |facts| {
            facts.init = Some(Init { model: Some("opus-99".to_owned()), ..Init::default() });
        });
        assert!(missing.what.contains("the model opus-99 does not exist"), "{}", missing.what);
    }

    #[test]
    fn a_rate_limit_says_when_to_come_back() {
        let wait = |failure: &Failure| failure.retry_after.map(|wait| wait.as_secs());
        assert_eq!(wait(&explained(Some(429), "rate_limit", retried(429, 5_000))), Some(5));
        assert_eq!(wait(&explained(Some(429), "rate_limit", |_| ())), Some(61), "the CLI gave up at once");
        assert_eq!(wait(&explained(Some(429), "rate_limit", retried(500, 5_000))), Some(61));
        let window = |resets_at, status: &str| {
            explained(Some(429), "rate_limit", |facts| {
                facts.rate_limit =
                    Some(RateLimit { status: status.to_owned(), resets_at, window: "five_hour".to_owned() });
            })
        };
        let exhausted = window(Some(4_600), "rejected");
        assert_eq!(wait(&exhausted), Some(3_600));
        assert_eq!(
            exhausted.what,
            "the 5-hour window of this subscription is used up until 1970-01-01 01:16:40 UTC"
        );
        assert_eq!(wait(&window(None, "rejected")), None);
        assert_eq!(wait(&window(Some(10), "rejected")), Some(0), "the reset is over");
        assert_eq!(
            wait(&window(Some(4_600), "allowed_warning")),
            Some(61),
            "a warning is no end of a window"
        );
    }

    #[test]
    fn moments_are_shown_by_the_calendar() {
        for (unix, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_795_300_000, "2026-11-21 22:26:40 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(utc(unix), text);
        }
        let _ = utc(u64::MAX);
    }
}
