//! The matrix of endings: what is done to the CLI, and what orch must make of it. Rows are data, so that the tests that
//! play them and the table in `docs/outcomes.md` cannot differ. Knows what a row promises; plays none.

use orch_proto::outcome::OUTCOMES;
use orch_proto::v1::{self, Outcome};

/// Which CLI a row is played with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cli {
    /// The real one, against the Messages API stand-in.
    Real,
    /// The scripted one, for what the real one cannot be made to do.
    Scripted,
}

/// One row.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// What happens, in words of a person: `the key is refused (401)`. Unique per CLI.
    pub scenario: &'static str,
    /// Prompt, with directives of the stand-ins.
    pub prompt: &'static str,
    /// How it must end.
    pub outcome: Outcome,
    /// What the task's detail must contain; empty for endings that need no word.
    pub detail: &'static str,
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
        Self { scenario, prompt, outcome, detail, attempts: 1, tokens: None, cost_micro_usd: None }
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

    /// Compares a task that ended with the row; says every difference at once.
    ///
    /// # Errors
    /// The differences.
    pub fn check(&self, task: &v1::Task) -> Result<(), String> {
        let mut wrong = Vec::new();
        if task.outcome() != self.outcome {
            wrong.push(format!(
                "outcome {} instead of {}",
                task.outcome().as_str_name(),
                self.outcome.as_str_name()
            ));
        }
        if !task.detail.contains(self.detail) {
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
            wrong.push(format!("{} micro-dollars instead of {:?}", usage.cost_micro_usd, self.cost_micro_usd));
        }
        if wrong.is_empty() {
            return Ok(());
        }
        Err(format!("{}: {}; detail: {:?}", self.scenario, wrong.join("; "), task.detail))
    }
}

/// The table of `docs/outcomes.md` for `rows`: scenario, outcome, exit code, sentence, remedy.
#[must_use]
pub fn table(rows: &[Row]) -> String {
    let mut text = "| Scenario | Outcome | Exit | Detail says | Remedy |\n|---|---|---|---|---|\n".to_owned();
    for row in rows {
        let Some(known) = OUTCOMES.iter().find(|known| known.outcome == row.outcome) else { continue };
        let detail = if row.detail.is_empty() { known.sentence } else { row.detail };
        let cells = [row.scenario, known.word, &known.exit_code.to_string(), detail, known.remedy]
            .map(|cell| cell.replace('|', "\\|"));
        text.push_str(&format!("| {} |\n", cells.join(" | ")));
    }
    text
}
