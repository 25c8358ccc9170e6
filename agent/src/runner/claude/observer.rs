//! Follows one CLI process through its events: collects the facts that the judge needs and says what is to
//! be said or done next. Pure; knows no process and no clock.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use crate::supervisor::stop::StopCause;

use super::super::supervised::Action;
use super::super::{Live, shorten};
use super::branches::Branches;
use super::event::{Assistant, Event, Init, RateLimit, ResultLine, Retry, User};
use super::lines;
use super::money::Ledger;
use super::stream::{Located, StreamParser};
use super::takeover::{self, Given};

/// The CLI's tool for structured answers. Its call ends the turn, so it never counts as going on.
const STRUCTURED_OUTPUT: &str = "StructuredOutput";

/// Longest description of what an attempt is doing, in characters.
const LONGEST_NOW: usize = 120;

/// Messages of sub-agents for each turn of the main thread that are no excess. Their own turns are bounded by
/// `maxTurns` in their definition, and by nothing where that is missing: one was seen to make a thousand.
const SUBAGENT_MESSAGES_PER_TURN: u32 = 20;

/// Changes of what it waits for that are remembered: an interrupted CLI brings two or three more.
const MOST_WAITS: usize = 16;

/// Most notes that are kept, and the longest, in bytes: a CLI with very many unknown tools has one cause.
const MOST_NOTES: usize = 8;
const LONGEST_NOTE: usize = 200;

/// What is asked of the process.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Demands {
    /// Whether the answer must be structured.
    pub structured: bool,
    /// Most turns of the main thread, over all lines.
    pub max_turns: Option<u32>,
    /// Ceiling in millionths of a US dollar. The CLI keeps it; this is for one that does not.
    pub budget_micro_usd: Option<u64>,
    /// What the CLI was given; absent: its first event is believed.
    pub given: Option<Given>,
}

/// What the process waits for while it is silent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Waiting {
    /// Nothing was heard yet.
    #[default]
    Start,
    /// The model.
    Model,
    /// The model, to which a tool's result was sent.
    ModelAfterTool,
    /// A tool.
    Tool(String),
    /// The end of a pause before the API is asked again.
    Api,
    /// Nothing: a result is there.
    End,
}

impl Waiting {
    /// In plain English, to follow what happened.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::Start => "before its first event".to_owned(),
            Self::Model => "while it asked the model".to_owned(),
            Self::ModelAfterTool => "while it asked the model after the result of a tool".to_owned(),
            Self::Tool(name) => format!("while the tool {name} ran"),
            Self::Api => "while it waited to ask the API again".to_owned(),
            Self::End => "after its result".to_owned(),
        }
    }
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
    /// Messages of sub-agents.
    pub subagent_messages: u32,
    /// Tool calls, sub-agents' included. A structured answer is an answer, though the CLI takes it as a tool call.
    pub tool_calls: u32,
    /// What it waited for lately, each with the offset of the line that told it, in order.
    pub waits: VecDeque<(u64, Waiting)>,
    /// Why this observer asked for a stop, with its figures.
    pub asked_stop: Option<(StopCause, String)>,
    /// What else is worth telling: what the CLI did not take over.
    pub notes: Vec<String>,
    /// Lines that could not be understood.
    pub malformed: u64,
    /// Money.
    pub ledger: Ledger,
}

impl Facts {
    /// What it waited for when its output was `offset` bytes long.
    #[must_use]
    pub fn waiting_at(&self, offset: u64) -> Waiting {
        let told = self.waits.iter().rev().find(|(end, _)| *end <= offset);
        told.map(|(_, waiting)| waiting.clone()).unwrap_or_default()
    }

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
    /// The call that started each.
    open_tasks: BTreeMap<String, String>,
    branches: Branches,
    /// Where the line ends that is being looked at.
    at: u64,
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
            open_tasks: BTreeMap::new(),
            branches: Branches::default(),
            at: 0,
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

    /// What was observed so far.
    #[must_use]
    pub const fn facts(&self) -> &Facts {
        &self.facts
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
        live.cost_micro_usd = self.facts.ledger.spent_micro_usd();
        live.transcript_bytes = self.parser.offset();
    }

    fn observe(&mut self, Located { event, end }: Located) -> Vec<Action> {
        self.at = end;
        match event {
            Event::Init(init) => self.began(init),
            Event::Assistant(said) => self.said(&said),
            Event::User(user) => self.tools_answered(user),
            Event::Retry(retry) => {
                self.doing(&format!(
                    "waiting for the API ({}), retry {} of {}",
                    retry.error, retry.attempt, retry.max_retries
                ));
                self.waits_for(Waiting::Api);
                self.facts.retry = Some(retry);
                Vec::new()
            }
            Event::RateLimit(limit) => {
                self.facts.rate_limit = Some(limit);
                Vec::new()
            }
            Event::TaskStarted { id, kind, call } => {
                self.doing(&self.branches.starting(&call, &kind));
                self.branches.started(&call, &kind);
                self.open_tasks.insert(id, call);
                Vec::new()
            }
            Event::TaskProgress { kind, call, tool, calls } => {
                // Of a sub-agent of the main thread the call itself comes too, and says more.
                if !tool.is_empty() && self.branches.is_inner(&call) {
                    let more = self.branches.counted(&call, calls);
                    self.facts.tool_calls = self.facts.tool_calls.saturating_add(more);
                    self.doing(&self.branches.within(&call, &kind, &tool));
                }
                Vec::new()
            }
            Event::TaskEnded { id } => {
                if let Some(call) = self.open_tasks.remove(&id) {
                    self.branches.ended(&call);
                }
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

    fn began(&mut self, init: Init) -> Vec<Action> {
        self.doing("asking the model");
        self.waits_for(Waiting::Model);
        if self.facts.init.is_some() {
            return Vec::new();
        }
        let differences = self.demands.given.as_ref().map(|given| takeover::compare(given, &init));
        self.facts.init = Some(init);
        let Some(differences) = differences else { return Vec::new() };
        let notes = differences.notes.into_iter().take(MOST_NOTES);
        self.facts.notes.extend(notes.map(|note| shorten(note, LONGEST_NOTE)));
        if differences.fatal.is_empty() {
            return Vec::new();
        }
        self.ask_stop(StopCause::Misread, format!(": {}", differences.fatal.join(", ")))
    }

    fn said(&mut self, said: &Assistant) -> Vec<Action> {
        self.facts.ledger.message(said);
        let calls = said.tools.iter().filter(|tool| tool.name != STRUCTURED_OUTPUT).count();
        self.facts.tool_calls =
            self.facts.tool_calls.saturating_add(u32::try_from(calls).unwrap_or(u32::MAX));
        self.branches.called(said);
        self.doing_of(said);
        let budget = self.demands.budget_micro_usd;
        if let Some(budget) = budget.filter(|budget| self.facts.ledger.is_far_beyond(*budget)) {
            let spent = self.facts.ledger.spent_micro_usd();
            let why = format!(": about {} of {} USD are spent and the CLI goes on", usd(spent), usd(budget));
            return self.ask_stop(StopCause::Budget, why);
        }
        if !said.synthetic {
            // The API answered: what was waited for before is over.
            self.facts.retry = None;
        }
        if !said.main_thread {
            return self.sub_agent_said(said);
        }
        if said.synthetic {
            self.facts.api_error = said.error.clone().or_else(|| self.facts.api_error.take());
            return Vec::new();
        }
        self.last_was_structured = said.tools.iter().any(|tool| tool.name == STRUCTURED_OUTPUT);
        if self.seen_messages.insert(said.message_id.clone()) {
            self.facts.turns = self.facts.turns.saturating_add(1);
        }
        let over = self.demands.max_turns.is_some_and(|most| self.facts.turns > most);
        if over { self.stop_for_turns() } else { Vec::new() }
    }

    /// What an answer of the model means for what it does and waits for.
    fn doing_of(&mut self, said: &Assistant) {
        match said.tools.first() {
            Some(call) => {
                if said.main_thread {
                    self.doing(&format!("using {}", call.name));
                } else {
                    let what = format!("{} {}", call.name, call.subject);
                    self.doing(&self.branches.within(&said.parent, &said.subagent, what.trim_end()));
                }
                self.waits_for(Waiting::Tool(clean(&call.name)));
            }
            None => {
                if said.written > 0 && said.main_thread {
                    self.doing("writing");
                } else if said.written > 0 {
                    self.doing(&self.branches.within(&said.parent, &said.subagent, "writing"));
                }
                self.waits_for(Waiting::Model);
            }
        }
    }

    fn sub_agent_said(&mut self, said: &Assistant) -> Vec<Action> {
        if !said.synthetic && self.seen_messages.insert(said.message_id.clone()) {
            self.facts.subagent_messages = self.facts.subagent_messages.saturating_add(1);
        }
        let Some(turns) = self.demands.max_turns else { return Vec::new() };
        let most = turns.saturating_mul(SUBAGENT_MESSAGES_PER_TURN);
        if self.facts.subagent_messages <= most {
            return Vec::new();
        }
        let why = format!(
            ": its sub-agents made more than {most} turns, {SUBAGENT_MESSAGES_PER_TURN} for each of the {turns} it \
             may make itself; set maxTurns for them"
        );
        self.ask_stop(StopCause::MaxTurns, why)
    }

    /// Tool results of the main thread lead to its next turn; a limit that is reached ends it here, before
    /// that turn is paid for.
    fn tools_answered(&mut self, user: User) -> Vec<Action> {
        if user.tool_results > 0 {
            self.waits_for(Waiting::ModelAfterTool);
        }
        let goes_on = user.main_thread && user.tool_results > 0 && !self.last_was_structured;
        let reached = self.demands.max_turns.is_some_and(|most| self.facts.turns >= most);
        if goes_on && reached { self.stop_for_turns() } else { Vec::new() }
    }

    fn stop_for_turns(&mut self) -> Vec<Action> {
        let most = self.demands.max_turns.unwrap_or_default();
        self.ask_stop(StopCause::MaxTurns, format!(" of {most}"))
    }

    /// Asks for a stop once. `why` follows the words of the cause.
    fn ask_stop(&mut self, cause: StopCause, why: String) -> Vec<Action> {
        if std::mem::replace(&mut self.stopping, true) {
            return Vec::new();
        }
        self.facts.asked_stop = Some((cause, why));
        vec![Action::Stop(cause)]
    }

    fn turn_over(&mut self, result: ResultLine, end: u64) -> Vec<Action> {
        self.doing("finishing");
        self.waits_for(Waiting::End);
        self.facts.ledger.result(&result);
        self.facts.awaiting_result = false;
        let worked = result.is_error == Some(false) && result.num_turns > 0;
        let missing = self.demands.structured && result.structured.is_none();
        let spent = result.subtype == "error_max_budget_usd";
        self.facts.result = Some((result, end));
        if self.stopping {
            // The supervisor closes the input of a process it is stopping.
            return Vec::new();
        }
        if spent && !self.open_tasks.is_empty() {
            // Its sub-agents go on after this result, and what they spend is in no bill (observed).
            return self.ask_stop(StopCause::Budget, String::new());
        }
        if worked && missing && !self.repaired {
            self.repaired = true;
            self.facts.awaiting_result = true;
            self.facts.api_error = None;
            self.facts.retry = None;
            self.waits_for(Waiting::Model);
            return vec![Action::Say(lines::repair())];
        }
        // A sub-agent in the background brings another turn; the supervisor closes the input in the end.
        if self.open_tasks.is_empty() { vec![Action::CloseInput] } else { Vec::new() }
    }

    fn waits_for(&mut self, waiting: Waiting) {
        if self.facts.waits.len() >= MOST_WAITS {
            self.facts.waits.pop_front();
        }
        self.facts.waits.push_back((self.at, waiting));
    }

    fn doing(&mut self, what: &str) {
        if !self.stopping {
            self.now = clean(what);
        }
    }
}

/// A text of the model's choice, short and without control characters.
fn clean(text: &str) -> String {
    text.chars().filter(|char| !char.is_control()).take(LONGEST_NOW).collect()
}

/// Millionths of a dollar as dollars, to four decimals.
fn usd(micro_usd: u64) -> String {
    format!("{}.{:04}", micro_usd / 1_000_000, micro_usd % 1_000_000 / 100)
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
        let mut observer = observer(Demands { max_turns: Some(1), structured: true, ..Demands::default() });
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
    fn tool_calls_are_counted_over_all_threads_and_an_answer_is_none() {
        let mut observer = observer(Demands::default());
        for (id, tool, parent) in [
            ("a", Some("Bash"), None),
            // Another block of the same message.
            ("a", Some("Write"), None),
            ("s", Some("Bash"), Some("t")),
            ("b", None, None),
            ("c", Some(STRUCTURED_OUTPUT), None),
        ] {
            observer.push(model(id, tool, parent).as_bytes());
        }
        observer.push(TOOL_RESULT.as_bytes());
        assert_eq!(observer.finish().tool_calls, 3);
    }

    #[test]
    fn endless_sub_agents_are_an_excess_of_turns() {
        let mut observer = observer(Demands { max_turns: Some(2), ..Demands::default() });
        for number in 0..40 {
            assert_eq!(observer.push(model(&format!("s{number}"), Some("Bash"), Some("t")).as_bytes()), []);
        }
        assert_eq!(observer.push(model("s39", Some("Bash"), Some("t")).as_bytes()), [], "seen before");
        let stop = observer.push(model("s40", Some("Bash"), Some("t")).as_bytes());
        assert_eq!(stop, [Action::Stop(StopCause::MaxTurns)]);
        assert!(observer.facts.asked_stop.unwrap().1.contains("more than 40 turns"));
    }

    #[test]
    fn a_cli_that_does_not_keep_its_budget_is_stopped() {
        let mut observer = observer(Demands { budget_micro_usd: Some(2_000), ..Demands::default() });
        // Each costs 1000 millionths: 1000 input tokens of haiku.
        let call = |id: &str| {
            format!(
                "{{\"type\":\"assistant\",\"message\":{{\"id\":\"{id}\",\"model\":\"claude-haiku-4-5\",\"usage\":{{\"input_tokens\":1000}}}}}}\n"
            )
        };
        for id in ["a", "b", "c"] {
            assert_eq!(observer.push(call(id).as_bytes()), [], "{id}");
        }
        assert_eq!(observer.push(call("d").as_bytes()), [Action::Stop(StopCause::Budget)]);
        let (_, why) = observer.facts.asked_stop.unwrap();
        assert_eq!(why, ": about 0.0040 of 0.0020 USD are spent and the CLI goes on");
    }

    #[test]
    fn what_it_waits_for_follows_from_the_last_event() {
        let mut observer = observer(Demands::default());
        assert_eq!(observer.facts.waiting_at(u64::MAX), Waiting::Start);
        let retry = "{\"type\":\"system\",\"subtype\":\"api_retry\"}\n".to_owned();
        for (line, waiting) in [
            ("{\"type\":\"system\",\"subtype\":\"init\"}\n".to_owned(), Waiting::Model),
            (model("a", Some("Ba\u{7}sh"), None), Waiting::Tool("Bash".to_owned())),
            (TOOL_RESULT.to_owned(), Waiting::ModelAfterTool),
            (retry, Waiting::Api),
            (model("b", None, None), Waiting::Model),
            (result(""), Waiting::End),
        ] {
            observer.push(line.as_bytes());
            assert_eq!(observer.facts.waiting_at(u64::MAX), waiting, "{line}");
        }
    }

    #[test]
    fn a_cli_that_did_not_take_over_what_it_was_given_is_stopped_at_its_first_event() {
        let given = Given {
            agents: vec!["helper".to_owned()],
            tools: vec!["Bash".to_owned()],
            permission_mode: "dontAsk".to_owned(),
            ..Given::default()
        };
        let init = |agents: &str| {
            format!(
                "{{\"type\":\"system\",\"subtype\":\"init\",\"agents\":[{agents}],\"tools\":[],\"permissionMode\":\"dontAsk\"}}\n"
            )
        };
        let mut good = observer(Demands { given: Some(given.clone()), ..Demands::default() });
        assert_eq!(good.push(init("\"helper\"").as_bytes()), []);
        assert_eq!(good.push(init("").as_bytes()), [], "only the first one counts");
        assert_eq!(good.facts.notes, ["the CLI has no tool \"Bash\""]);
        let mut bad = observer(Demands { given: Some(given), ..Demands::default() });
        assert_eq!(bad.push(init("").as_bytes()), [Action::Stop(StopCause::Misread)]);
    }

    #[test]
    fn nothing_more_is_asked_of_a_process_that_is_being_stopped() {
        let mut observer = observer(Demands { structured: true, ..Demands::default() });
        observer.stopping();
        assert_eq!(observer.push(result("").as_bytes()), []);
    }
}
