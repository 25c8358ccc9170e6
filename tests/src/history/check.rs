//! The invariants, each a small fold over the events. A violation says which rule and what broke it.

use super::Event;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A promise that was not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The promise.
    pub rule: &'static str,
    /// What broke it.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.rule, self.what)
    }
}

/// Acknowledged runs are stored.
pub const LOST: &str = "what was acknowledged is stored";
/// A request id has one run.
pub const DOUBLE: &str = "a request has one run";
/// Once faults have stopped, everything ends.
pub const STUCK: &str = "everything acknowledged ends";
/// A task has one deciding result, unless a person asked for more.
pub const RECORDED_TWICE: &str = "a task has one recorded result";
/// The recorded result is that of the attempt that was current.
pub const STALE: &str = "the recorded attempt is the current one";
/// Grants of a task have rising attempts.
pub const FALLING: &str = "attempts of a task rise";
/// An attempt ends after it was accepted.
pub const UNACCEPTED: &str = "no result before acceptance";
/// The current attempt's report is not refused while it is undecided.
pub const FENCED_CURRENT: &str = "only stale reports are fenced";
/// A task is poison after so many crashes, not before.
pub const POISON_EARLY: &str = "poison only after the limit";
/// A transcript is read without gap and without repetition.
pub const GAP: &str = "offsets of a transcript are contiguous";

/// What a history is checked against.
#[derive(Debug, Clone, Copy)]
pub struct Checker {
    /// Crashes on at least [`Checker::poison_agents`] agents that make a task poison.
    pub poison_crashes: usize,
    /// See [`Checker::poison_crashes`].
    pub poison_agents: usize,
    /// Crashes that make it poison wherever they were.
    pub poison_crashes_anywhere: usize,
    /// The store was looked at in the end: what is not among [`Event::Stored`] is not there.
    pub complete: bool,
}

impl Default for Checker {
    fn default() -> Self {
        Self { poison_crashes: 3, poison_agents: 2, poison_crashes_anywhere: 5, complete: true }
    }
}

/// Checks a complete history with the product's limits.
#[must_use]
pub fn check(events: &[Event]) -> Vec<Violation> {
    Checker::default().check(events)
}

/// What is known of a task so far.
#[derive(Debug, Default)]
struct Task {
    granted: u32,
    agent: String,
    accepted: BTreeSet<u32>,
    decided: Option<u32>,
    /// Agents of attempts that crashed, since a person last asked for another attempt.
    crashes: Vec<String>,
}

impl Checker {
    /// Everything that the history breaks, in the order in which it was found.
    #[must_use]
    pub fn check(&self, events: &[Event]) -> Vec<Violation> {
        let mut found = self.tasks(events);
        found.extend(transcripts(events));
        found.extend(self.runs(events));
        found
    }

    fn tasks(&self, events: &[Event]) -> Vec<Violation> {
        let mut tasks: BTreeMap<&str, Task> = BTreeMap::new();
        let mut found = Vec::new();
        for event in events {
            let Some(name) = task_of(event) else { continue };
            let task = tasks.entry(name).or_default();
            if let Err((rule, what)) = self.step(task, event) {
                found.push(Violation { rule, what: format!("{name}: {what}") });
            }
        }
        found
    }

    fn step(&self, task: &mut Task, event: &Event) -> Result<(), (&'static str, String)> {
        match event {
            Event::Granted { attempt, agent, .. } => {
                let before = std::mem::replace(&mut task.granted, *attempt);
                agent.clone_into(&mut task.agent);
                rising(before, *attempt)
            }
            Event::Accepted { attempt, .. } => {
                task.accepted.insert(*attempt);
                Ok(())
            }
            Event::Reported { attempt, .. } => task.was_accepted(*attempt),
            Event::Ended { attempt, crash, .. } => {
                if *crash {
                    let agent = task.agent.clone();
                    task.crashes.push(agent);
                }
                task.is_current(*attempt)
            }
            Event::Recorded { attempt, outcome, .. } => self.recorded(task, *attempt, outcome),
            Event::Fenced { attempt, .. } if *attempt == task.granted && task.decided.is_none() => {
                Err((FENCED_CURRENT, format!("attempt {attempt} was current and undecided")))
            }
            Event::Retried { .. } => {
                task.decided = None;
                task.crashes.clear();
                Ok(())
            }
            Event::Fenced { .. }
            | Event::Submitted { .. }
            | Event::Acknowledged { .. }
            | Event::Chunk { .. }
            | Event::Stored { .. } => Ok(()),
        }
    }

    fn recorded(&self, task: &mut Task, attempt: u32, outcome: &str) -> Result<(), (&'static str, String)> {
        if let Some(first) = task.decided.replace(attempt) {
            return Err((RECORDED_TWICE, format!("attempts {first} and {attempt}")));
        }
        task.is_current(attempt)?;
        match outcome {
            // Decided without any agent's word.
            "cancelled" | "skipped" => Ok(()),
            "poison" => self.poison(task),
            _ => task.was_accepted(attempt),
        }
    }

    fn poison(&self, task: &Task) -> Result<(), (&'static str, String)> {
        let agents: BTreeSet<_> = task.crashes.iter().collect();
        let (crashes, agents) = (task.crashes.len(), agents.len());
        if crashes >= self.poison_crashes_anywhere
            || (crashes >= self.poison_crashes && agents >= self.poison_agents)
        {
            return Ok(());
        }
        Err((POISON_EARLY, format!("after {crashes} crashes on {agents} agents")))
    }

    fn runs(&self, events: &[Event]) -> Vec<Violation> {
        let mut runs: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        let mut stored: BTreeMap<&str, bool> = BTreeMap::new();
        let mut found = Vec::new();
        for event in events {
            if let Event::Stored { run, request, ended } = event {
                runs.entry(request).or_default().insert(run);
                if stored.insert(run, *ended).is_some() {
                    found.push(Violation { rule: DOUBLE, what: format!("{run} is stored twice") });
                }
            }
        }
        for event in events {
            let Event::Acknowledged { request, run } = event else { continue };
            runs.entry(request).or_default().insert(run);
            match stored.get(run.as_str()) {
                None if self.complete => {
                    found.push(Violation { rule: LOST, what: format!("{run} of {request}") });
                }
                Some(false) => found.push(Violation { rule: STUCK, what: run.clone() }),
                Some(true) | None => {}
            }
        }
        let doubled = runs.iter().filter(|(request, runs)| !request.is_empty() && runs.len() > 1);
        found.extend(
            doubled.map(|(request, runs)| Violation { rule: DOUBLE, what: format!("{request}: {runs:?}") }),
        );
        found
    }
}

impl Task {
    fn is_current(&self, attempt: u32) -> Result<(), (&'static str, String)> {
        if attempt == self.granted {
            return Ok(());
        }
        Err((STALE, format!("attempt {attempt}, when {} was current", self.granted)))
    }

    fn was_accepted(&self, attempt: u32) -> Result<(), (&'static str, String)> {
        if self.accepted.contains(&attempt) {
            return Ok(());
        }
        Err((UNACCEPTED, format!("attempt {attempt}")))
    }
}

fn rising(before: u32, attempt: u32) -> Result<(), (&'static str, String)> {
    if attempt > before {
        return Ok(());
    }
    Err((FALLING, format!("attempt {attempt} after {before}")))
}

fn task_of(event: &Event) -> Option<&str> {
    match event {
        Event::Granted { task, .. }
        | Event::Accepted { task, .. }
        | Event::Reported { task, .. }
        | Event::Ended { task, .. }
        | Event::Recorded { task, .. }
        | Event::Fenced { task, .. }
        | Event::Retried { task } => Some(task),
        Event::Submitted { .. } | Event::Acknowledged { .. } | Event::Chunk { .. } | Event::Stored { .. } => {
            None
        }
    }
}

fn transcripts(events: &[Event]) -> Vec<Violation> {
    let mut read: BTreeMap<(&str, &str, u32), u64> = BTreeMap::new();
    let mut found = Vec::new();
    for event in events {
        let Event::Chunk { reader, task, attempt, offset, bytes } = event else { continue };
        let next = read.entry((reader, task, *attempt)).or_default();
        if offset != next {
            let what = format!("{reader} got {offset} of {task}, attempt {attempt}, in place of {next}");
            found.push(Violation { rule: GAP, what });
        }
        *next = offset + bytes;
    }
    found
}

#[cfg(test)]
mod tests;
