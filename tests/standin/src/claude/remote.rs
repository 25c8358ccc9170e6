//! Knows how the scripted CLI asks a real endpoint (directive `api`): one request after the other as a thread goes on, what
//! it does about failures (waits, retries, falls back, gives up, as observed), and how the conversation is kept for the next
//! process. Refuses to leave the machine: endpoints are on loopback.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::failures::{ApiFailure, plan};
use super::session::{During, Session, Stop};
use super::thread::Thread;
use crate::script::steps::{Answer, Call, Failure, Gate, filler};
use crate::script::{self, Directive};

mod answer;
mod request;
mod wire;

use wire::{Target, Trouble};

/// Longest pause between two tries, as observed.
const MOST_BACKOFF: Duration = Duration::from_secs(32);
/// The pause before the first retry; it doubles.
const FIRST_BACKOFF: Duration = Duration::from_millis(500);

/// The endpoint, and the conversation as it is sent there.
#[derive(Debug)]
pub(super) struct Remote {
    target: Target,
    /// Where the messages of the main thread are kept.
    kept: Option<PathBuf>,
    /// Those of earlier turns and processes.
    messages: Vec<Value>,
    greeted: bool,
}

impl Session {
    /// Whether the main thread asks the endpoint: the prompt wants it, or an earlier one of the conversation did.
    ///
    /// # Errors
    /// The text for stderr: there is no endpoint, or none to be used.
    pub(super) fn goes_remote(&mut self, prompt: &str) -> Result<bool, String> {
        let kept = self.history.messages_file();
        let asked = script::parse(prompt).unwrap_or_default().iter().any(|found| found.name == "api");
        let Some(base) = self.settings.env.base_url.clone() else { return Ok(false) };
        if self.remote.is_none() && (asked || kept.as_ref().is_some_and(|file| file.is_file())) {
            let messages = kept.as_ref().map(|file| request::read(file)).unwrap_or_default();
            let target = Target::parse(&base).map_err(|why| format!("orch stand-in: {base}: {why}"))?;
            self.remote = Some(Remote { target, kept, messages, greeted: false });
        }
        Ok(self.remote.is_some())
    }

    /// The conversation with a new prompt. The first is preceded by what the CLI adds, and by the filler asked for.
    pub(super) fn say(&mut self, prompt: &str) -> Vec<Value> {
        let session = self.settings.session_id();
        let Some(remote) = self.remote.as_mut() else { return Vec::new() };
        let mut content = request::unanswered(&remote.messages);
        if remote.messages.is_empty() {
            let input = script::parse(prompt).unwrap_or_default();
            let input = input.iter().find_map(|found: &Directive| found.number("input")).unwrap_or(0);
            let today = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
            let own = filler(&format!("of {session}"), input);
            content.push(json!({"type": "text",
                "text": format!("<system-reminder>\nToday is {today}.\n{own}\n</system-reminder>")}));
        }
        content.push(json!({"type": "text", "text": prompt}));
        remote.keep(json!({"role": "user", "content": content}));
        remote.messages.clone()
    }

    /// Notes a message of a thread; that of the main thread is kept for the next process.
    pub(super) fn heard(&mut self, thread: &mut Thread, message: Value) {
        if thread.parent.is_none()
            && let Some(remote) = self.remote.as_mut()
        {
            remote.keep(message.clone());
        }
        thread.messages.push(message);
    }

    /// Asks for the next answer of a thread, again and again as the CLI does.
    pub(super) async fn ask_api(&mut self, thread: &mut Thread) -> Result<Result<Answer, ApiFailure>, Stop> {
        self.greet().await?;
        let mut streaming = true;
        let mut tries = 0;
        loop {
            self.during = During::Waiting;
            let gate = match self.try_api(thread, streaming).await? {
                Ok(answer) => return Ok(Ok(answer)),
                Err(Trouble::Lost) if streaming && self.settings.env.no_fallback => {
                    let text = "API Error: Connection to the API was lost (ECONNRESET)".to_owned();
                    return Ok(Err(ApiFailure::new(None, "server_error", text)));
                }
                // As observed: at once, without streaming, and no event says so.
                Err(Trouble::Lost) if streaming => {
                    streaming = false;
                    continue;
                }
                Err(Trouble::Lost | Trouble::Unreachable) => {
                    Gate { failure: Failure::Reset, times: None, only_model: None }
                }
                Err(Trouble::Status(failure)) => Gate { failure, times: None, only_model: None },
            };
            if let Some(failure) = self.window_used_up(&gate).await? {
                return Ok(Err(failure));
            }
            let plan = plan(&gate, self.settings.env.max_retries);
            if tries >= plan.retries {
                if self.fall_back(thread, plan.status).await? {
                    tries = 0;
                    continue;
                }
                return Ok(Err(ApiFailure::of(&gate.failure, &thread.model)));
            }
            let pause = backoff(tries).max(retry_after(&gate.failure));
            tries += 1;
            self.emit(json!({
                "type": "system", "subtype": "api_retry", "attempt": tries,
                "max_retries": self.settings.env.max_retries, "retry_delay_ms": pause.as_secs_f64() * 1000.0,
                "error_status": plan.status, "error": plan.word,
            }))
            .await?;
            self.wait(tokio::time::sleep(pause)).await?;
        }
    }

    /// The warm-up that the CLI sends before anything else; any answer will do.
    async fn greet(&mut self) -> Result<(), Stop> {
        let Some(remote) = self.remote.as_mut().filter(|remote| !remote.greeted) else { return Ok(()) };
        remote.greeted = true;
        let head = wire::head(remote.target.clone());
        self.wait(head).await
    }

    async fn try_api(&mut self, thread: &Thread, streaming: bool) -> Result<Result<Answer, Trouble>, Stop> {
        let Some(remote) = self.remote.as_ref() else { return Ok(Err(Trouble::Unreachable)) };
        let body = request::body(&self.settings, thread, streaming).to_string();
        let headers = request::headers(&self.settings, thread, streaming);
        let asked = wire::post(remote.target.clone(), headers, body, self.settings.env.api_timeout);
        self.wait(asked).await
    }

    /// The end of a subscription's window: told as an event, and final. With an API key the CLI heeds none of that.
    async fn window_used_up(&mut self, gate: &Gate) -> Result<Option<ApiFailure>, Stop> {
        let Failure::Status { status: 429, headers, .. } = &gate.failure else { return Ok(None) };
        let header = |name: &str| {
            let name = format!("anthropic-ratelimit-unified-{name}");
            headers.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone())
        };
        if self.settings.env.uses_api_key() || header("status").as_deref() != Some("rejected") {
            return Ok(None);
        }
        let resets_at = header("reset").and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
        let kind = header("representative-claim").unwrap_or_else(|| "five_hour".to_owned());
        let arg = json!({"status": "rejected", "resets_at": resets_at, "type": kind});
        let Value::Object(arg) = arg else { return Ok(None) };
        Ok(self.rate_limit(&Directive { name: "rate_limit", arg }).await?.and_then(|finish| match finish {
            super::thread::Finish::Api(failure) => Some(failure),
            super::thread::Finish::Text(_)
            | super::thread::Finish::Structured(_)
            | super::thread::Finish::StructuredGaveUp
            | super::thread::Finish::MaxTurns(_)
            | super::thread::Finish::Budget => None,
        }))
    }
}

impl Remote {
    fn keep(&mut self, message: Value) {
        if let Some(file) = &self.kept {
            // An unusable configuration directory is no error, as observed.
            let _ = request::append(file, &message);
        }
        self.messages.push(message);
    }
}

/// An answer as the message that is sent back in the next request.
pub(super) fn said(answer: &Answer, calls: &[(String, Call)]) -> Value {
    let texts = answer.texts.iter().map(|text| json!({"type": "text", "text": text}));
    let uses = calls
        .iter()
        .map(|(id, call)| json!({"type": "tool_use", "id": id, "name": call.name, "input": call.input}));
    json!({"role": "assistant", "content": texts.chain(uses).collect::<Vec<_>>()})
}

/// The results of tools as a message.
pub(super) fn results(events: &[Value]) -> Value {
    let blocks: Vec<Value> = events.iter().map(|event| event["message"]["content"][0].clone()).collect();
    json!({"role": "user", "content": blocks})
}

fn backoff(tries: u64) -> Duration {
    let doubled = FIRST_BACKOFF.saturating_mul(1 << tries.min(10));
    doubled.min(MOST_BACKOFF)
}

fn retry_after(failure: &Failure) -> Duration {
    let Failure::Status { headers, .. } = failure else { return Duration::ZERO };
    let told = headers.iter().find(|(name, _)| name == "retry-after");
    told.and_then(|(_, value)| value.parse().ok()).map_or(Duration::ZERO, Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::backoff;
    use std::time::Duration;

    #[test]
    fn pauses_double_up_to_half_a_minute() {
        assert_eq!(backoff(0), Duration::from_millis(500));
        assert_eq!(backoff(2), Duration::from_secs(2));
        assert_eq!(backoff(40), Duration::from_secs(32));
    }
}
