//! The matrix of endings: what is done to the CLI, and what orch must make of it. Rows are data, so that the tests that
//! play them and the table in `docs/outcomes.md` cannot differ. Knows what a row promises; plays none.

pub mod page;
pub mod real;
pub mod scripted;

use orch_proto::v1::{self, Outcome, task_spec::Runner};

/// Which CLI a row is played with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cli {
    /// The real one, against the Messages API stand-in.
    Real,
    /// The scripted one, for what the real one cannot be made to do.
    Scripted,
}

/// What a task asks for beyond its prompt.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    /// Name of the worker.
    pub worker: &'static str,
    /// Name of the only agent that may run it; empty: any.
    pub agent: &'static str,
    /// JSON Schema of the answer; empty: free text.
    pub schema: &'static str,
    /// Ceiling in millionths of a US dollar.
    pub budget_micro_usd: Option<u64>,
    /// Turn limit.
    pub max_turns: Option<u32>,
    /// Time limit of an attempt, in milliseconds; never absent, so that no row can hold up the others.
    pub timeout_ms: u32,
}

/// What every row asks for unless it says otherwise.
const PLAIN: Ask = Ask {
    worker: "anga",
    agent: "",
    schema: "",
    budget_micro_usd: None,
    max_turns: None,
    timeout_ms: 60_000,
};

/// Rows that belong together.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    /// Which CLI they are played with.
    pub cli: Cli,
    /// What they have in common.
    pub title: &'static str,
    /// The rows.
    pub rows: &'static [Row],
}

const fn group(cli: Cli, title: &'static str, rows: &'static [Row]) -> Group {
    Group { cli, title, rows }
}

/// Every row there is, in the order of `docs/outcomes.md`.
pub const GROUPS: &[Group] = &[
    group(Cli::Real, "Answers, tools and sub-agents", real::ANSWERS),
    group(Cli::Real, "Tool servers and settings of a worker", real::WORKERS),
    group(Cli::Real, "Structured answers", real::STRUCTURED),
    group(Cli::Real, "Limits of turns, money, time and output", real::LIMITS),
    group(Cli::Real, "The API fails", real::FAILURES),
    group(Cli::Real, "Prompts that could be misread", real::PROMPTS),
    group(Cli::Real, "Stops, in every phase", real::STOPS),
    group(Cli::Real, "Stops, at random moments", real::ENDLESS),
    group(Cli::Real, "Further attempts of a conversation", real::RESUMED),
    group(Cli::Real, "Large prompts and outputs", real::LARGE),
    group(Cli::Real, "The API falls silent", real::SILENCES),
    group(Cli::Real, "Subscriptions", real::SUBSCRIPTION),
    group(Cli::Scripted, "What the real CLI cannot be made to do, or not quickly", scripted::ROWS),
    group(Cli::Scripted, "Limits of an agent", scripted::BOUNDED),
];

/// One row.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// What happens, in words of a person: `the key is refused (401)`. Unique per CLI.
    pub scenario: &'static str,
    /// Prompt, with directives of the stand-ins.
    pub prompt: &'static str,
    /// What is asked for beyond the prompt.
    pub ask: Ask,
    /// How it must end; of a row that parks: how its last attempt ended.
    pub outcome: Outcome,
    /// The task does not end: it is parked until a limit is reset, and goes on by itself.
    pub parked: bool,
    /// What the task's detail must contain; empty for endings that need no word.
    pub detail: &'static str,
    /// What it may contain in place of that, where two see the same and either may be first.
    pub or_detail: Option<&'static str>,
    /// Attempts it may take.
    pub attempts: u32,
    /// Tokens of all models, input and output without cache; `None` where the ending leaves them to an estimate.
    pub tokens: Option<(u64, u64)>,
    /// Money in millionths of a US dollar; `None` as above.
    pub cost_micro_usd: Option<u64>,
}

impl Row {
    /// A row of one attempt without expectations of tokens and money.
    #[must_use]
    pub const fn new(
        scenario: &'static str,
        prompt: &'static str,
        outcome: Outcome,
        detail: &'static str,
    ) -> Self {
        Self {
            scenario,
            prompt,
            ask: PLAIN,
            outcome,
            parked: false,
            detail,
            or_detail: None,
            attempts: 1,
            tokens: None,
            cost_micro_usd: None,
        }
    }

    /// The same, but the task is parked in place of ending.
    #[must_use]
    pub const fn parked(self) -> Self {
        Self { parked: true, ..self }
    }

    /// The same, but the detail may contain this in place of the other.
    #[must_use]
    pub const fn or_says(self, detail: &'static str) -> Self {
        Self { or_detail: Some(detail), ..self }
    }

    /// The same with so many attempts.
    #[must_use]
    pub const fn attempts(self, attempts: u32) -> Self {
        Self { attempts, ..self }
    }

    /// The same with exact tokens (input, output) and money.
    #[must_use]
    pub const fn costs(self, input: u64, output: u64, micro_usd: u64) -> Self {
        Self { tokens: Some((input, output)), cost_micro_usd: Some(micro_usd), ..self }
    }

    /// The same on this agent only.
    #[must_use]
    pub const fn on(self, agent: &'static str) -> Self {
        Self { ask: Ask { agent, ..self.ask }, ..self }
    }

    /// The same by another worker.
    #[must_use]
    pub const fn by(self, worker: &'static str) -> Self {
        Self { ask: Ask { worker, ..self.ask }, ..self }
    }

    /// The same with this schema of the answer.
    #[must_use]
    pub const fn schema(self, schema: &'static str) -> Self {
        Self { ask: Ask { schema, ..self.ask }, ..self }
    }

    /// The same with a ceiling in millionths of a US dollar.
    #[must_use]
    pub const fn budget(self, micro_usd: u64) -> Self {
        Self { ask: Ask { budget_micro_usd: Some(micro_usd), ..self.ask }, ..self }
    }

    /// The same with a turn limit.
    #[must_use]
    pub const fn max_turns(self, turns: u32) -> Self {
        Self { ask: Ask { max_turns: Some(turns), ..self.ask }, ..self }
    }

    /// The same with a time limit in milliseconds.
    #[must_use]
    pub const fn timeout(self, timeout_ms: u32) -> Self {
        Self { ask: Ask { timeout_ms, ..self.ask }, ..self }
    }

    /// The task of this row. Of an ending that may be retried as many retries are asked for as the row expects
    /// attempts; of any other two more, which must not be used.
    #[must_use]
    pub fn task(&self, id: &str) -> v1::TaskSpec {
        let retryable = self.outcome.row().is_some_and(|row| row.retryable);
        let ask = self.ask;
        let worker = v1::WorkerTask {
            worker: ask.worker.into(),
            description: self.prompt.into(),
            output_schema: ask.schema.into(),
            budget_micro_usd: ask.budget_micro_usd,
            max_turns: ask.max_turns,
            ..Default::default()
        };
        let (seconds, millis) = (i64::from(ask.timeout_ms / 1_000), ask.timeout_ms % 1_000);
        v1::TaskSpec {
            task_id: id.into(),
            runner: Some(Runner::Worker(worker)),
            timeout: Some(prost_types::Duration {
                seconds,
                nanos: i32::try_from(millis * 1_000_000).unwrap_or(i32::MAX),
            }),
            retries: Some(if retryable { self.attempts - 1 } else { self.attempts + 1 }),
            agent: ask.agent.into(),
            ..Default::default()
        }
    }

    /// Compares a task that ended, or is parked, with the row; says every difference at once.
    ///
    /// # Errors
    /// The differences.
    pub fn check(&self, task: &v1::Task) -> Result<(), String> {
        let mut wrong = Vec::new();
        if self.parked {
            if task.state() != v1::TaskState::Parked || task.retry_at.is_none() {
                wrong.push(format!("{} in place of parked with its wake time", task.state().as_str_name()));
            }
        } else if task.outcome() != self.outcome {
            wrong.push(format!(
                "outcome {} instead of {}",
                task.outcome().as_str_name(),
                self.outcome.as_str_name()
            ));
        }
        let says = |detail: &str| task.detail.contains(detail);
        if !says(self.detail) && !self.or_detail.is_some_and(says) {
            wrong.push(format!("the detail lacks {:?}", self.detail));
        }
        if task.attempt != self.attempts {
            wrong.push(format!("{} attempts instead of {}", task.attempt, self.attempts));
        }
        let usage = task.usage.clone().unwrap_or_default();
        let tokens = usage
            .models
            .iter()
            .fold((0, 0), |sum, model| (sum.0 + model.input_tokens, sum.1 + model.output_tokens));
        if self.tokens.is_some_and(|expected| expected != tokens) {
            wrong.push(format!("tokens {tokens:?} instead of {:?}", self.tokens));
        }
        if self.cost_micro_usd.is_some_and(|expected| expected != usage.cost_micro_usd) {
            wrong
                .push(format!("{} micro-dollars instead of {:?}", usage.cost_micro_usd, self.cost_micro_usd));
        }
        if wrong.is_empty() {
            return Ok(());
        }
        Err(format!("{}: {}; detail: {:?}", self.scenario, wrong.join("; "), task.detail))
    }
}
