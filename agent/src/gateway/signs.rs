//! What the headers of an answer say about limits, and what an answer means for everybody who uses the credential.
//! Knows names of headers; refuses to know what is done about it.
//!
//! | Answer | Means |
//! |---|---|
//! | 429 with `anthropic-ratelimit-unified-status: rejected`, or `retry-after` above 60 s | exhausted: a window is used up |
//! | any other 429 | throttled: it passes soon |
//! | 401, 403 | refused: the credential is not taken |
//! | 500 and above, 529 among them; none at all | failing |

use std::time::Duration;

use http::{HeaderMap, StatusCode};

use super::wire::{Headers, SignalKind};

/// Longest `retry-after` of a throttle.
pub const LONGEST_THROTTLE: Duration = Duration::from_secs(60);

/// Longest name of a window that is passed on.
const LONGEST_WINDOW: usize = 64;

/// What concerns everybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sign {
    /// What.
    pub kind: SignalKind,
    /// When it makes sense to ask again.
    pub retry_after: Option<Duration>,
    /// The window, or empty.
    pub window: String,
}

/// What the headers say of limits.
#[must_use]
pub fn limits(headers: &HeaderMap) -> Headers {
    let number = |name: &str| text(headers, name)?.parse().ok();
    Headers {
        requests_limit: number("anthropic-ratelimit-requests-limit"),
        requests_remaining: number("anthropic-ratelimit-requests-remaining"),
        input_limit: number("anthropic-ratelimit-input-tokens-limit"),
        input_remaining: number("anthropic-ratelimit-input-tokens-remaining"),
        output_limit: number("anthropic-ratelimit-output-tokens-limit"),
        output_remaining: number("anthropic-ratelimit-output-tokens-remaining"),
    }
}

/// What an answer means for everybody; `None`: nothing. `now` is time since the Unix epoch.
#[must_use]
pub fn sign(status: StatusCode, headers: &HeaderMap, now: Duration) -> Option<Sign> {
    let after = retry_after(headers);
    let plain = |kind| Some(Sign { kind, retry_after: after, window: String::new() });
    match status.as_u16() {
        429 => Some(of_limit(headers, after, now)),
        401 | 403 => plain(SignalKind::Refused),
        500.. => plain(SignalKind::Failing),
        _ => None,
    }
}

fn of_limit(headers: &HeaderMap, after: Option<Duration>, now: Duration) -> Sign {
    let is_rejected = text(headers, "anthropic-ratelimit-unified-status") == Some("rejected");
    let window = text(headers, "anthropic-ratelimit-unified-representative-claim").unwrap_or_default();
    if !is_rejected && after.is_none_or(|after| after <= LONGEST_THROTTLE) {
        return Sign { kind: SignalKind::Throttled, retry_after: after, window: String::new() };
    }
    let reset = text(headers, "anthropic-ratelimit-unified-reset").and_then(|text| text.parse().ok());
    let until_reset = reset.map(|at| Duration::from_secs(at).saturating_sub(now));
    Sign {
        kind: SignalKind::Exhausted,
        retry_after: until_reset.filter(|_| is_rejected).or(after),
        window: window.chars().take(LONGEST_WINDOW).collect(),
    }
}

/// `retry-after` in seconds, or in milliseconds where the API says it so. Dates are not understood: it sends none.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let number = |name: &str| text(headers, name)?.trim().parse::<f64>().ok();
    let seconds = number("retry-after-ms").map(|ms| ms / 1_000.0).or_else(|| number("retry-after"))?;
    Duration::try_from_secs_f64(seconds).ok()
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let entry = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        list.iter().map(entry).collect()
    }

    fn of(status: u16, list: &[(&'static str, &'static str)]) -> Option<(SignalKind, Option<u64>)> {
        let sign = sign(StatusCode::from_u16(status).unwrap(), &headers(list), Duration::from_secs(1_000))?;
        Some((sign.kind, sign.retry_after.map(|after| after.as_secs())))
    }

    #[test]
    fn a_throttle_and_an_exhausted_window_are_told_apart() {
        assert_eq!(of(429, &[]), Some((SignalKind::Throttled, None)));
        assert_eq!(of(429, &[("retry-after", "60")]), Some((SignalKind::Throttled, Some(60))));
        assert_eq!(of(429, &[("retry-after", "61")]), Some((SignalKind::Exhausted, Some(61))));
        let rejected = [
            ("anthropic-ratelimit-unified-status", "rejected"),
            ("anthropic-ratelimit-unified-reset", "1500"),
            ("anthropic-ratelimit-unified-representative-claim", "five_hour"),
            ("retry-after", "3"),
        ];
        assert_eq!(of(429, &rejected), Some((SignalKind::Exhausted, Some(500))));
        let sign =
            sign(StatusCode::TOO_MANY_REQUESTS, &headers(&rejected), Duration::from_secs(2_000)).unwrap();
        assert_eq!((sign.window.as_str(), sign.retry_after), ("five_hour", Some(Duration::ZERO)));
        assert_eq!(
            of(429, &[("anthropic-ratelimit-unified-status", "allowed")]),
            Some((SignalKind::Throttled, None))
        );
    }

    #[test]
    fn failures_and_refusals_are_signs_and_mistakes_of_the_request_are_none() {
        assert_eq!(of(529, &[("retry-after", "2")]), Some((SignalKind::Failing, Some(2))));
        assert_eq!(of(503, &[("retry-after", "soon")]), Some((SignalKind::Failing, None)));
        assert_eq!(of(401, &[]), Some((SignalKind::Refused, None)));
        for status in [200, 400, 404, 413] {
            assert_eq!(of(status, &[]), None);
        }
    }

    #[test]
    fn what_headers_say_is_read_and_nonsense_is_not() {
        let said = limits(&headers(&[
            ("anthropic-ratelimit-requests-limit", "1000"),
            ("anthropic-ratelimit-requests-remaining", "-1"),
            ("anthropic-ratelimit-output-tokens-remaining", "20000"),
        ]));
        let expected =
            Headers { requests_limit: Some(1_000), output_remaining: Some(20_000), ..Headers::default() };
        assert_eq!(said, expected);
        assert_eq!(of(429, &[("retry-after", "-3")]), Some((SignalKind::Throttled, None)));
        assert_eq!(of(429, &[("retry-after", "1e30")]), Some((SignalKind::Throttled, None)));
    }
}
