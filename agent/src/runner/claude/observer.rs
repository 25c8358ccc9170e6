//! Follows one CLI process through its events: collects the facts that the judge needs and says what is to
//! be said or done next. Pure; knows no process and no clock.

use std::collections::BTreeSet;

use crate::supervisor::stop::StopCause;

use super::super::Live;
use super::super::supervised::Action;
use super::event::{Assistant, Event, Init, RateLimit, ResultLine, Retry, User};
use super::lines;
use super::money::Ledger;
use super::stream::{Located, StreamParser};

/// The CLI's tool for structured answers. Its call ends the turn, so it never counts as going on.
const STRUCTURED_OUTPUT: &str = "StructuredOutput";

/// Longest description of what an attempt is doing, in characters.
const LONGEST_NOW: usize = 120;

/// What is asked of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Demands {
    /// Whether the answer must be structured.
    pub structured: bool,
    /// Most turns of the main thread, over all lines.
    pub max_turns: Option<u32>,
}

/// Everything observed so far.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The first `init`.
    pub init: Option<Init>,
    /// The last result, and where its line ended.
    pub result: Option<(ResultLine, u64)>,
    /// Whether a line was said that no result has answered yet.
    pub awaiting_result: bool,
    /// The error of the last synthetic message of the main thread since the last line was said.
    pub api_error: Option<String>,
    /// The last wait for the API since the last line was said.
    pub retry: Option<Retry>,
    /// The last word on a subscription window.
    pub rate_limit: Option<RateLimit>,
    /// Turns of the main thread, over all lines.
    pub turns: u32,
    /// Lines that could not be understood.
    pub malformed: u64,
    /// Money.
    pub ledger: Ledger,
}

impl Facts {
    /// Whether a call of the API may have been cut off, whose cost no figure includes: a turn that began has
    /// no result, or its result tells of an aborted stream (seen to count nothing for it).
    #[must_use]
    pub fn is_cut_off(&self) -> bool {
        let aborted = |result: &ResultLine| result.terminal_reason.as_deref() == Some("aborted_streaming");
        let open = self.awaiting_result && self.init.is_some();
        open || self.result.as_ref().is_some_and(|(result, _)| aborted(result))
    }
}

/// Follows one process.
#[derive(Debug)]
pub struct Observer {
    demands: Demands,
    parser: StreamParser,
    facts: Facts,
    seen_messages: BTreeSet<String>,
    open_tasks: BTreeSet<String>,
    last_was_structured: bool,
    repaired: bool,
    stopping: bool,
    now: String,
}

impl Observer {
    /// A process to which the prompt was said.
    #[must_use]
    pub fn new(demands: Demands) -> Self {
        Self {
            demands,
            parser: StreamParser::default(),
            facts: Facts { awaiting_result: true, ..Facts::default() },
            seen_messages: BTreeSet::new(),
            open_tasks: BTreeSet::new(),
            last_was_structured: false,
            repaired: false,
            stopping: false,
            now: "starting".to_owned(),
        }
    }

    /// Takes the next bytes of standard output and says what to do.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Action> {
        let located = self.parser.push(bytes);
        located.into_iter().flat_map(|located| self.observe(located)).collect()
    }

    /// The attempt is being stopped: nothing more is asked of it.
    pub fn stopping(&mut self) {
        self.stopping = true;
        "stopping".clone_into(&mut self.now);
    }

    /// The stream ended. Gives the facts.
    #[must_use]
    pub fn finish(mut self) -> Facts {
        if let Some(located) = self.parser.finish() {
            self.observe(located);
        }
        self.facts
    }

    /// Fills in what it is doing.
    pub fn describe(&self, live: &mut Live) {
        live.now.clone_from(&self.now);
        live.num_turns = self.facts.turns;
        live.cost_micro_usd = self.facts.ledger.total(false).cost_micro_usd;
        live.transcript_bytes = self.parser.offset();
    }

    fn observe(&mut self, Located { event, end }: Located) -> Vec<Action> {
        match event {
            Event::Init(init) => {
                self.doing("asking the model");
                self.facts.init.get_or_insert(init);
                Vec::new()
            }
            Event::Assistant(said) => self.said(&said),
            Event::User(user) => self.tools_answered(user),
            Event::Retry(retry) => {
                self.doing(&format!(
                    "waiting for the API ({}), retry {} of {}",
                    retry.error, retry.attempt, retry.max_retries
                ));
                self.facts.retry = Some(retry);
                Vec::new()
            }
            Event::RateLimit(limit) => {
                self.facts.rate_limit = Some(limit);
                Vec::new()
            }
            Event::TaskStarted { id, kind } => {
                self.doing(&format!("sub-agent {kind}"));
                self.open_tasks.insert(id);
                Vec::new()
            }
            Event::TaskEnded { id } => {
                self.open_tasks.remove(&id);
                Vec::new()
            }
            Event::ControlRequest { request_id, subtype } if subtype == "can_use_tool" => {
                vec![Action::Say(lines::deny(&request_id))]
            }
            Event::ControlRequest { request_id, .. } => vec![Action::Say(lines::refuse(&request_id))],
            Event::Result(result) => self.turn_over(*result, end),
            Event::Malformed | Event::Oversized => {
                self.facts.malformed += 1;
                Vec::new()
            }
            Event::Other { .. } => Vec::new(),
        }
    }

    fn said(&mut self, said: &Assistant) -> Vec<Action> {
        self.facts.ledger.message(said);
        match said.tools.first() {
            Some(tool) => self.doing(&format!("using {tool}")),
            None if said.written > 0 => self.doing("writing"),
            None => {}
        }
        if !said.main_thread {
            return Vec::new();
        }
        if said.synthetic {
            self.facts.api_error = said.error.clone().or_else(|| self.facts.api_error.take());
            return Vec::new();
        }
        self.last_was_structured = said.tools.iter().any(|tool| tool == STRUCTURED_OUTPUT);
        if self.seen_messages.insert(said.message_id.clone()) {
            self.facts.turns = self.facts.turns.saturating_add(1);
        }
        let over = self.demands.max_turns.is_some_and(|most| self.facts.turns > most);
        if over { self.stop_for_turns() } else { Vec::new() }
    }

    /// Tool results of the main thread lead to its next turn; a limit that is reached ends it here, before
    /// that turn is paid for.
    fn tools_answered(&mut self, user: User) -> Vec<Action> {
        let goes_on = user.main_thread && user.tool_results > 0 && !self.last_was_structured;
        let reached = self.demands.max_turns.is_some_and(|most| self.facts.turns >= most);
        if goes_on && reached { self.stop_for_turns() } else { Vec::new() }
    }

    fn stop_for_turns(&mut self) -> Vec<Action> {
        if std::mem::replace(&mut self.stopping, true) {
            return Vec::new();
        }
        vec![Action::Stop(StopCause::MaxTurns)]
    }

    fn turn_over(&mut self, result: ResultLine, end: u64) -> Vec<Action> {
        self.doing("finishing");
        self.facts.ledger.result(&result);
        self.facts.awaiting_result = false;
        let worked = result.is_error == Some(false) && result.num_turns > 0;
        let missing = self.demands.structured && result.structured.is_none();
        self.facts.result = Some((result, end));
        if self.stopping {
            // The supervisor closes the input of a process it is stopping.
            return Vec::new();
        }
        if worked && missing && !self.repaired {
            self.repaired = true;
            self.facts.awaiting_result = true;
            self.facts.api_error = None;
            self.facts.retry = None;
            return vec![Action::Say(lines::repair())];
        }
        // A sub-agent in the background brings another turn; the supervisor closes the input in the end.
        if self.open_tasks.is_empty() { vec![Action::CloseInput] } else { Vec::new() }
    }

    fn doing(&mut self, what: &str) {
        if !self.stopping {
            self.now = what.chars().filter(|char| !char.is_control()).take(LONGEST_NOW).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observer(demands: Demands) -> Observer {
        Observer::new(demands)
    }

    fn model(id: &str, tool: Option<&str>, parent: Option<&str>) -> String {
        let content = tool.map_or_else(
            || serde_json::json!([{"type": "text", "text": "x"}]),
            |tool| serde_json::json!([{"type": "tool_use", "name": tool, "input": {}}]),
        );
        let line = serde_json::json!({"type": "assistant", "parent_tool_use_id": parent,
            "message": {"id": id, "model": "claude-haiku-4-5", "content": content}});
        format!("{line}\n")
    }

    const TOOL_RESULT: &str = "{\"type\":\"user\",\"message\":{\"content\":[{\"type\":\"tool_result\"}]}}\n";

    fn result(more: &str) -> String {
        format!("{{\"type\":\"result\",\"is_error\":false,\"num_turns\":1{more}}}\n")
    }

    #[test]
    fn after_a_good_result_the_input_is_closed() {
        let mut observer = observer(Demands::default());
        assert_eq!(observer.push(model("a", None, None).as_bytes()), []);
        assert_eq!(observer.push(result("").as_bytes()), [Action::CloseInput]);
        let facts = observer.finish();
        assert!(!facts.awaiting_result);
        assert_eq!(facts.turns, 1);
    }

    #[test]
    fn a_missing_structured_answer_is_asked_for_once() {
        let mut observer = observer(Demands { structured: true, ..Demands::default() });
        assert_eq!(observer.push(result("").as_bytes()), [Action::Say(lines::repair())]);
        assert!(observer.facts.awaiting_result);
        assert_eq!(observer.push(result("").as_bytes()), [Action::CloseInput]);
        assert!(!observer.finish().awaiting_result);
    }

    #[test]
    fn a_structured_answer_needs_no_repair_and_a_failure_gets_none() {
        let mut good = observer(Demands { structured: true, ..Demands::default() });
        assert_eq!(good.push(result(",\"structured_output\":{}").as_bytes()), [Action::CloseInput]);
        let mut bad = observer(Demands { structured: true, ..Demands::default() });
        let failed = "{\"type\":\"result\",\"is_error\":true,\"num_turns\":1}\n";
        assert_eq!(bad.push(failed.as_bytes()), [Action::CloseInput]);
    }

    #[test]
    fn the_turn_limit_counts_messages_of_the_main_thread_over_all_lines() {
        let mut observer = observer(Demands { max_turns: Some(2), ..Demands::default() });
        for line in [model("a", Some("Bash"), None), model("a", Some("Read"), None), TOOL_RESULT.to_owned()] {
            assert_eq!(observer.push(line.as_bytes()), []);
        }
        assert_eq!(observer.push(model("s", Some("Bash"), Some("toolu_1")).as_bytes()), []);
        assert_eq!(observer.push(result("").as_bytes()), [Action::CloseInput]);
        assert_eq!(observer.push(model("b", Some("Bash"), None).as_bytes()), []);
        assert_eq!(observer.push(TOOL_RESULT.as_bytes()), [Action::Stop(StopCause::MaxTurns)]);
        assert_eq!(observer.push(model("c", None, None).as_bytes()), [], "it is asked for once");
    }

    #[test]
    fn an_answer_in_the_last_turn_is_no_excess() {
        let mut observer = observer(Demands { max_turns: Some(1), structured: true });
        assert_eq!(observer.push(model("a", Some("StructuredOutput"), None).as_bytes()), []);
        assert_eq!(observer.push(TOOL_RESULT.as_bytes()), []);
        assert_eq!(observer.push(result(",\"structured_output\":{}").as_bytes()), [Action::CloseInput]);
        assert_eq!(observer.push(model("b", None, None).as_bytes()), [Action::Stop(StopCause::MaxTurns)]);
    }

    #[test]
    fn questions_are_answered_so_that_nothing_waits_for_a_person() {
        let mut observer = observer(Demands::default());
        let ask = |subtype: &str| {
            format!(
                "{{\"type\":\"control_request\",\"request_id\":\"r\",\"request\":{{\"subtype\":\"{subtype}\"}}}}\n"
            )
        };
        assert_eq!(observer.push(ask("can_use_tool").as_bytes()), [Action::Say(lines::deny("r"))]);
        assert_eq!(observer.push(ask("hook").as_bytes()), [Action::Say(lines::refuse("r"))]);
    }

    #[test]
    fn the_input_stays_open_while_a_sub_agent_runs_in_the_background() {
        let mut observer = observer(Demands::default());
        let task = |subtype: &str| {
            format!(
                "{{\"type\":\"system\",\"subtype\":\"{subtype}\",\"task_id\":\"t\",\"status\":\"completed\"}}\n"
            )
        };
        observer.push(task("task_started").as_bytes());
        assert_eq!(observer.push(result("").as_bytes()), []);
        observer.push(task("task_notification").as_bytes());
        assert_eq!(observer.push(result("").as_bytes()), [Action::CloseInput]);
    }

    #[test]
    fn what_it_does_is_short_and_clean() {
        let mut observer = observer(Demands::default());
        let tool = format!("a\u{1b}[31m{}", "x".repeat(300));
        observer.push(model("a", Some(&tool), None).as_bytes());
        let mut live = Live::default();
        observer.describe(&mut live);
        assert_eq!(live.now.chars().count(), LONGEST_NOW);
        assert!(!live.now.contains('\u{1b}') && live.now.starts_with("using a[31m"));
        assert_eq!(live.num_turns, 1);
    }

    #[test]
    fn nothing_more_is_asked_of_a_process_that_is_being_stopped() {
        let mut observer = observer(Demands { structured: true, ..Demands::default() });
        observer.stopping();
        assert_eq!(observer.push(result("").as_bytes()), []);
    }
}
