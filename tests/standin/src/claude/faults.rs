//! Knows the directives that only the scripted CLI carries out: every way in which a CLI process was seen, or must be
//! feared, to misbehave. Refuses to do any of it unasked.

use std::process::Stdio;
use std::sync::atomic::Ordering;

use rustix::process::{Signal, getpid, kill_process};
use serde_json::{Value, json};
use tokio::process::Command;

use super::events;
use super::failures::ApiFailure;
use super::session::{Session, Stop};
use super::thread::{Finish, Thread};
use super::turn::{Turn, exit_code};
use crate::models::{SCRIPTED_USAGE, Usage};
use crate::script::Directive;
use crate::script::steps::{Answer, Call};

/// Size of the pieces a huge line is written in.
const PIECE: usize = 1 << 20;
/// A huge line unless told otherwise.
const BIG_LINE: u64 = 100 << 20;

impl Session {
    /// Carries out one directive; `Some` ends the thread.
    pub(super) async fn act(
        &mut self,
        turn: &mut Turn,
        thread: &mut Thread,
        directive: &Directive,
    ) -> Result<Option<Finish>, Stop> {
        match directive.name {
            "then" => {}
            "result" => turn.overrides.push(directive.arg.clone()),
            "event" => self.emit(Value::Object(directive.arg.clone())).await?,
            "report" => {
                let texts = vec![self.report(directive.flag("values")).to_string()];
                return self.answer(turn, thread, &Answer { texts, ..Answer::empty(SCRIPTED_USAGE) }).await;
            }
            "deny" => self.deny(turn, thread, directive).await?,
            "rate_limit" => return self.rate_limit(directive).await,
            "grow" => self.grow(turn, directive),
            "no_result" => return Err(Stop::Exit(exit_code(directive.number("code"), 0))),
            "hang_after_result" => self.lingers = true,
            "exit" => {
                if let Some(text) = directive.text("stderr") {
                    super::complain(text);
                }
                return Err(Stop::Exit(exit_code(directive.number("code"), 1)));
            }
            "signal" => self.signal_self(directive).await?,
            "ignore" => self.ignore(directive),
            "daemon" => daemon(directive).await,
            "close_stdout" => self.out.close().await,
            "flood" => self.flood(directive).await?,
            "big_line" => self.big_line(directive.number("bytes").unwrap_or(BIG_LINE)).await?,
            "bad_utf8" => {
                let bytes =
                    b"{\"type\":\"system\",\"subtype\":\"standin_filler\",\"filler\":\"\xff\xfe\xc3\"}\n";
                self.raw(bytes.to_vec()).await?;
            }
            "half_line" => {
                self.raw(b"{\"type\":\"assistant\",\"message\":{\"id\":\"msg_half\",\"con".to_vec()).await?;
                return Err(Stop::Exit(exit_code(directive.number("code"), 0)));
            }
            "login" => self.rewrite_login(directive),
            "alloc" => {
                let mib = usize::try_from(directive.number("mib").unwrap_or(64)).unwrap_or(64);
                // Ones, not zeros: untouched zero pages would cost nothing.
                self.held.push(vec![1; mib << 20]);
            }
            "stderr" => {
                let text = directive.text("text").unwrap_or("noise from the stand-in");
                (0..directive.number("lines").unwrap_or(1)).for_each(|_| super::complain(text));
            }
            // Carried out before the first event; in the middle of a script there is nothing left to do.
            _ => {}
        }
        Ok(None)
    }

    async fn raw(&mut self, bytes: Vec<u8>) -> Result<(), Stop> {
        let out = self.out.clone();
        self.wait(async move { out.bytes(bytes).await }).await
    }

    /// What the process was given, for tests of the runner.
    fn report(&self, values: bool) -> Value {
        let env = &self.settings.env;
        let mut report = json!({
            "argv": self.settings.argv, "cwd": env.cwd, "env": env.names, "config_dir": env.config_dir,
            "system_prompt": self.settings.system_prompt, "agents": self.settings.agents.keys().collect::<Vec<_>>(),
            "permission_mode": self.mode, "model": self.model, "turn": self.history.turns,
        });
        if values {
            let all = std::env::vars_os();
            let text = |s: std::ffi::OsString| s.to_string_lossy().into_owned();
            report["env"] =
                Value::Object(all.map(|(name, value)| (text(name), json!(text(value)))).collect());
        }
        report
    }

    async fn deny(
        &mut self,
        turn: &mut Turn,
        thread: &mut Thread,
        directive: &Directive,
    ) -> Result<(), Stop> {
        let call = Call {
            name: directive.text("tool").unwrap_or("Bash").to_owned(),
            input: directive
                .arg
                .get("input")
                .cloned()
                .unwrap_or_else(|| json!({"command": "make", "description": "d"})),
        };
        let answer = Answer { calls: vec![call.clone()], ..Answer::empty(SCRIPTED_USAGE) };
        let calls = self.print_answer(turn, thread, &answer).await?;
        let text = directive.text("message").unwrap_or("This command requires approval");
        for (id, call) in calls {
            let outcome = turn.denied(&id, &call, text);
            thread.mind.saw(outcome.text());
            turn.user_events += u64::from(thread.parent.is_none());
            self.emit(events::of_thread(events::tool_result(&id, &outcome), thread.parent.as_ref())).await?;
        }
        Ok(())
    }

    pub(super) async fn rate_limit(&mut self, directive: &Directive) -> Result<Option<Finish>, Stop> {
        let now = jiff::Timestamp::now().as_second();
        let after = directive.arg.get("resets_in").and_then(Value::as_i64).unwrap_or(3600);
        let at = directive.arg.get("resets_at").and_then(Value::as_i64).unwrap_or(now + after);
        let status = directive.text("status").unwrap_or("rejected");
        let mut info = json!({"status": status, "resetsAt": at, "isUsingOverage": false,
            "rateLimitType": directive.text("type").unwrap_or("five_hour")});
        if let Some(utilization) = directive.arg.get("utilization") {
            info["utilization"] = utilization.clone();
            info["surpassedThreshold"] = json!(0.9);
        }
        if status == "rejected" {
            info["overageStatus"] = json!("rejected");
        }
        self.emit(json!({"type": "rate_limit_event", "rate_limit_info": info})).await?;
        if status != "rejected" {
            return Ok(None);
        }
        let when = jiff::Timestamp::from_second(at)
            .unwrap_or_default()
            .strftime("%b %-d, %-I:%M%P (UTC)")
            .to_string();
        Ok(Some(Finish::Api(ApiFailure::limit_reached(&when))))
    }

    fn grow(&self, turn: &mut Turn, directive: &Directive) {
        let factor = directive.arg.get("factor").and_then(Value::as_f64).unwrap_or(2.0);
        let exponent = i32::try_from(self.history.turns.saturating_sub(1)).unwrap_or(i32::MAX);
        let base = Usage::scripted(SCRIPTED_USAGE, &Value::Object(directive.arg.clone()));
        // A base other than the usual one is expressed through the factor, so that one number suffices.
        turn.growth = factor.powi(exponent) * (base.total() as f64 / SCRIPTED_USAGE.total() as f64);
    }

    async fn signal_self(&mut self, directive: &Directive) -> Result<(), Stop> {
        let signal = match directive.text("name").unwrap_or("KILL").trim_start_matches("SIG") {
            "SEGV" => Signal::SEGV,
            "ABRT" => Signal::ABORT,
            "TERM" => Signal::TERM,
            "HUP" => Signal::HUP,
            "INT" => Signal::INT,
            "QUIT" => Signal::QUIT,
            "STOP" => Signal::STOP,
            _ => Signal::KILL,
        };
        self.out.drain().await;
        // Twice: the runtime's own handler of SEGV restores the default at the first and returns.
        for _ in 0..2 {
            let _ = kill_process(getpid(), signal);
        }
        self.wait(std::future::pending::<()>()).await
    }

    fn ignore(&mut self, directive: &Directive) {
        let named = directive.arg.get("signals").and_then(Value::as_array);
        let ignored = |name: &str| named.is_none_or(|names| names.iter().any(|listed| listed == name));
        self.deaf.int.store(ignored("INT"), Ordering::Relaxed);
        self.deaf.term.store(ignored("TERM"), Ordering::Relaxed);
        self.deaf.hup.store(ignored("HUP"), Ordering::Relaxed);
        self.ignores_requests = directive.flag("interrupt");
        self.ignores_eof = directive.flag("eof");
    }

    async fn flood(&mut self, directive: &Directive) -> Result<(), Stop> {
        let size = usize::try_from(directive.number("bytes").unwrap_or(1000)).unwrap_or(1000);
        let filler = "x".repeat(size);
        for n in 0..directive.number("events").unwrap_or(1000) {
            self.emit(json!({"type": "system", "subtype": "standin_filler", "n": n, "filler": filler}))
                .await?;
        }
        Ok(())
    }

    async fn big_line(&mut self, bytes: u64) -> Result<(), Stop> {
        self.raw(b"{\"type\":\"system\",\"subtype\":\"standin_filler\",\"filler\":\"".to_vec()).await?;
        let mut left = usize::try_from(bytes).unwrap_or(usize::MAX);
        while left > 0 {
            let piece = left.min(PIECE);
            self.raw(vec![b'x'; piece]).await?;
            left -= piece;
        }
        self.raw(b"\"}\n".to_vec()).await
    }

    /// Replaces the login file as a token refresh would: a new file under the old name.
    fn rewrite_login(&self, directive: &Directive) {
        let Some(dir) = &self.settings.env.config_dir else { return };
        let name = directive.text("file").unwrap_or(".credentials.json");
        let default = r#"{"claudeAiOauth":{"accessToken":"standin-refreshed","expiresAt":4102444800000}}"#;
        let (new, old) = (dir.join(format!("{name}.new")), dir.join(name));
        let written = std::fs::write(&new, directive.text("content").unwrap_or(default));
        if let Err(error) = written.and_then(|()| std::fs::rename(&new, &old)) {
            super::complain(&format!("orch stand-in: cannot rewrite {}: {error}", old.display()));
        }
    }
}

/// Leaves a process behind that nobody's child list shows: its parent, in a session of its own, exits at once.
async fn daemon(directive: &Directive) {
    let seconds = directive.number("seconds").unwrap_or(3600).to_string();
    let pid_file = directive.text("pid_file").unwrap_or("/dev/null");
    let script = r#"trap "" INT TERM HUP; sh -c 'echo $$ >"$1"; exec sleep "$2"' sh "$1" "$2" &"#;
    let mut start = Command::new("setsid");
    start.args(["sh", "-c", script, "sh", pid_file, &seconds]).stdin(Stdio::null()).stderr(Stdio::null());
    if !directive.flag("hold_stdout") {
        start.stdout(Stdio::null());
    }
    if let Err(error) = start.status().await {
        super::complain(&format!("orch stand-in: cannot start the daemon: {error}"));
    }
}
