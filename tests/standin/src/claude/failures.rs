//! Knows how the observed CLI behaves when the API fails: what it retries, which events say so, and the words and
//! fields of the result in the end. Delays are named as they would be and not waited for. Refuses to talk
//! to any API.

use serde_json::json;

use super::events;
use super::session::{During, Session, Stop};
use super::thread::Thread;
use crate::models::{self, SCRIPTED_USAGE};
use crate::script::steps::{Failure, Gate};

/// Longest `retry-after` the CLI waits for; above it gives up at once.
const MAX_RETRY_AFTER_S: u64 = 60;

/// An API failure as the result reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ApiFailure {
    /// `api_error_status`.
    pub(super) status: Option<u16>,
    /// The word in the synthetic assistant event.
    pub(super) error: &'static str,
    /// The result's text.
    pub(super) text: String,
    /// The result's stop reason.
    pub(super) stop_reason: &'static str,
}

impl ApiFailure {
    pub(super) fn new(status: Option<u16>, error: &'static str, text: String) -> Self {
        Self { status, error, text, stop_reason: "stop_sequence" }
    }

    /// No login.
    pub(super) fn not_logged_in() -> Self {
        Self::new(None, "authentication_failed", "Not logged in · Please run /login".to_owned())
    }

    /// Every answer reached the output limit.
    pub(super) fn max_tokens(model: &str) -> Self {
        let most = models::max_output(model);
        let text = format!("API Error: Claude's response exceeded the {most} output token maximum.");
        Self::new(None, "max_output_tokens", text)
    }

    /// The account's limit is used up.
    pub(super) fn limit_reached(resets: &str) -> Self {
        Self::new(Some(429), "rate_limit", format!("You've hit your limit · resets {resets}"))
    }

    /// What a request of `model` that failed so is reported as, once the CLI has given up.
    pub(super) fn of(failure: &Failure, model: &str) -> Self {
        match failure {
            Failure::Status { status, message, .. } => Self::status(*status, model, message),
            Failure::Cut | Failure::Reset | Failure::Hang | Failure::HangMid => {
                Self::new(None, "server_error", "API Error: Unable to connect to API (ECONNRESET)".to_owned())
            }
        }
    }

    fn status(status: u16, model: &str, message: &str) -> Self {
        let (error, text) = match status {
            401 | 403 => ("authentication_failed", format!("Failed to authenticate. API Error: {status} {message}")),
            404 => {
                let model = models::wire_name(model);
                let text = format!("There's an issue with the selected model ({model}). It may not exist or you may not have access to it.");
                ("model_not_found", text)
            }
            429 => ("rate_limit", format!("API Error: Request rejected (429) · {message}")),
            529 => ("server_error", "API Error: Repeated 529 Overloaded errors. The API is at capacity — this is usually temporary.".to_owned()),
            500.. => ("server_error", format!("API Error: {status} {message}. This is a server-side issue, usually temporary.")),
            _ => ("unknown", format!("API Error: {status} {message}")),
        };
        // As observed, 529 is reported without its status.
        Self::new((status != 529).then_some(status), error, text)
    }
}

/// What the CLI does about a failing request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// api_retry events: status and word.
    pub(super) retries: u64,
    pub(super) status: Option<u16>,
    pub(super) word: &'static str,
    /// Given up after the retries, or the next request passes.
    gives_up: bool,
}

pub(super) fn plan(gate: &Gate, max_retries: u64) -> Plan {
    let (most, status, word) = match &gate.failure {
        Failure::Status { status, headers, .. } => {
            let header = |name: &str| {
                headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
            };
            let patient = header("retry-after")
                .and_then(|s| s.parse::<u64>().ok())
                .is_none_or(|s| s <= MAX_RETRY_AFTER_S);
            let retried = header("x-should-retry") != Some("false") && patient;
            let (most, word) = match status {
                429 => (max_retries, "rate_limit"),
                401 => (max_retries, "authentication_failed"),
                529 => (max_retries.min(2), "overloaded"),
                500.. => (max_retries, "server_error"),
                _ => (0, "unknown"),
            };
            (if retried { most } else { 0 }, Some(*status), word)
        }
        Failure::Cut | Failure::Reset | Failure::Hang | Failure::HangMid => (max_retries, None, "unknown"),
    };
    let gives_up = gate.times.is_none_or(|times| times > most);
    Plan { retries: gate.times.unwrap_or(most).min(most), status, word, gives_up }
}

impl Session {
    /// Plays a failing request. `None`: a later attempt passes.
    pub(super) async fn fail(
        &mut self,
        thread: &mut Thread,
        gate: &Gate,
    ) -> Result<Option<ApiFailure>, Stop> {
        self.during = During::Waiting;
        self.pause(std::time::Duration::ZERO).await?;
        match &gate.failure {
            Failure::Hang => {
                self.wait(std::future::pending::<()>()).await?;
                return Ok(None);
            }
            Failure::HangMid => {
                let block = json!({"type": "text", "text": "a start without an "});
                let (id, request_id) = (self.ids.tagged("msg_", 24), self.ids.tagged("req_", 20));
                let begun = events::assistant(&id, &thread.model, &block, SCRIPTED_USAGE, &request_id);
                self.during = During::Streaming(Some(events::of_thread(begun, thread.parent.as_ref())));
                self.wait(std::future::pending::<()>()).await?;
                return Ok(None);
            }
            // The first lost stream is repeated at once without streaming, and no event says so.
            Failure::Cut if gate.times == Some(1) => return Ok(None),
            Failure::Status { .. } | Failure::Cut | Failure::Reset => {}
        }
        let plan = plan(gate, self.settings.env.max_retries);
        for attempt in 1..=plan.retries {
            let delay = 500.0 * f64::from(1_u32 << attempt.min(6)) / 2.0;
            self.emit(json!({
                "type": "system", "subtype": "api_retry", "attempt": attempt,
                "max_retries": self.settings.env.max_retries, "retry_delay_ms": delay.min(38_000.0),
                "error_status": plan.status, "error": plan.word,
            }))
            .await?;
            self.pause(std::time::Duration::ZERO).await?;
        }
        if !plan.gives_up || self.fall_back(thread, plan.status).await? {
            return Ok(None);
        }
        Ok(Some(ApiFailure::of(&gate.failure, &thread.model)))
    }

    /// Takes the fallback model where the CLI does: for 529 and 404, never for 429.
    pub(super) async fn fall_back(&mut self, thread: &mut Thread, status: Option<u16>) -> Result<bool, Stop> {
        let trigger = match status {
            Some(529) => "overloaded",
            Some(404) => "model_not_found",
            _ => return Ok(false),
        };
        let Some(fallback) =
            self.settings.fallback_models.iter().find(|model| **model != thread.model).cloned()
        else {
            return Ok(false);
        };
        let original = models::wire_name(&thread.model).to_owned();
        self.emit(json!({
            "type": "system", "subtype": "model_fallback", "trigger": trigger, "original_model": original,
            "fallback_model": fallback, "content": format!("Switched to {fallback} ({trigger}: {original})"),
        }))
        .await?;
        thread.model = fallback;
        Ok(true)
    }

    /// The events of a refusal.
    pub(super) async fn refused(&mut self, thread: &Thread) -> Result<ApiFailure, Stop> {
        let (request_id, refused) = (self.ids.tagged("req_", 20), self.ids.uuid());
        self.emit(json!({
            "type": "system", "subtype": "model_refusal_no_fallback", "original_model": thread.model,
            "request_id": request_id, "api_refusal_category": null, "api_refusal_explanation": null,
            "refused_user_message_uuid": refused, "content": "",
        }))
        .await?;
        let text = format!(
            "API Error: Claude Code is unable to respond to this request, which appears to violate our Usage Policy.\n\nRequest ID: {request_id}"
        );
        Ok(ApiFailure { status: None, error: "invalid_request", text, stop_reason: "refusal" })
    }
}

#[cfg(test)]
mod tests {
    use super::{ApiFailure, plan};
    use crate::script::parse;
    use crate::script::steps::{Gate, Step, compile};

    fn gate(prompt: &str) -> Gate {
        match compile(parse(prompt).unwrap()).remove(0) {
            Step::Gate(gate) => gate,
            other @ (Step::Answer(_) | Step::Local(_)) => panic!("{other:?}"),
        }
    }

    #[test]
    fn retries_follow_the_observed_table() {
        let retries = |prompt: &str| {
            let plan = plan(&gate(prompt), 10);
            (plan.retries, plan.gives_up)
        };
        assert_eq!(retries("[[error {\"status\":400}]]"), (0, true));
        assert_eq!(retries("[[error {\"status\":401}]]"), (10, true));
        assert_eq!(retries("[[error {\"status\":529}]]"), (2, true));
        assert_eq!(retries("[[error {\"status\":429,\"times\":2}]]"), (2, false));
        assert_eq!(retries("[[error {\"status\":429,\"retry_after\":3600}]]"), (0, true));
        assert_eq!(
            retries("[[error {\"status\":429,\"headers\":{\"x-should-retry\":\"false\"}}]]"),
            (0, true)
        );
        assert_eq!(retries("[[reset {\"times\":1}]]"), (1, false));
    }

    #[test]
    fn words_and_statuses_are_those_of_the_cli() {
        assert_eq!(ApiFailure::status(529, "m", "x").status, None);
        assert_eq!(ApiFailure::status(403, "m", "no").text, "Failed to authenticate. API Error: 403 no");
        assert_eq!(ApiFailure::status(429, "m", "x").error, "rate_limit");
        assert!(ApiFailure::status(404, "opus[1m]", "x").text.contains("(opus)"));
    }
}
