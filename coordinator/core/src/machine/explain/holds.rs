//! What limits of a credential hold a task back, until when, and what would help.
//! Knows the holds that the scheduler decides by.

use super::{list, no, yes};
use crate::ids::{AgentKey, TaskKey};
use crate::limits::{ClassMeter, Hold, pool_of};
use crate::machine::budgets;
use crate::machine::view::task_ref;
use crate::query::Reason;
use crate::schedule::Class;
use crate::state::State;
use crate::task::{Place, Task};
use crate::time::Span;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A task that waits until a window is reset.
pub(super) fn parked(state: &State, key: TaskKey, task: &Task, reasons: &mut Vec<Reason>) -> String {
    let left = lasting(task.retry - state.now.tick);
    let (pool, window) = task.parked().map_or(("", ""), |hit| (&*hit.pool, &*hit.window));
    let window = if window.is_empty() { "a window".to_owned() } else { format!("window {window}") };
    let pool = if pool.is_empty() { String::new() } else { format!(" of pool {pool}") };
    let place = task.agent.map_or_else(String::new, |agent| format!(" on {}", state.agents.get(agent).name));
    let reference = task_ref(state, key).unwrap_or_default();
    let text = format!("{window}{pool} is used up for another {left}");
    let help = Some(format!("orchctl retry {reference}"));
    let left_at = Some(task.retry - state.now.tick);
    reasons.push(Reason { help, left: left_at, ..no("limit", text) });
    if let Some(ended) = task.attempts().last() {
        let kept = format!("attempt {} was interrupted; its conversation is kept{place}", ended.number);
        reasons.push(yes("conversation", kept));
    }
    format!("parked: {window}{pool} is used up; goes on in {left}{place}")
}

/// Names the pools that hold a queued task back. The answer when that is all of the agents it could go to.
pub(super) fn held(
    state: &State,
    task: &Task,
    class: &Class,
    there: &[AgentKey],
    reasons: &mut Vec<Reason>,
) -> Option<String> {
    let meter = class.key.meter.as_ref()?;
    let old = matches!(task.place, Place::Warm(_));
    let mut found: BTreeMap<(Arc<str>, &'static str), Reason> = BTreeMap::new();
    let mut free = false;
    for key in there {
        let agent = state.agents.get(*key);
        let Some(hold) = state.limits.hold(&agent.routes, Some(meter), old) else {
            free = true;
            continue;
        };
        let Some((pool, text)) = said(state, *key, meter, hold) else { continue };
        let kind = match hold {
            Hold::Warming => "warming",
            Hold::Unpaid => "budget",
            Hold::Exhausted | Hold::Resuming | Hold::Failing | Hold::Starts | Hold::Congested => "limit",
        };
        let left = closed_for(state, *key, meter, hold);
        found.entry((pool, kind)).or_insert_with(|| Reason { left, ..no(kind, text) });
    }
    let texts: Vec<String> = found.values().map(|reason| reason.text.clone()).collect();
    reasons.extend(found.into_values());
    (!free && !texts.is_empty()).then(|| list(&texts))
}

/// For how long a used-up window holds.
fn closed_for(state: &State, agent: AgentKey, meter: &ClassMeter, hold: Hold) -> Option<Span> {
    let pool = state.limits.get(pool_of(&state.agents.get(agent).routes, meter)?)?;
    let until = pool.gate(&meter.meter.model_class).filter(|_| hold == Hold::Exhausted)?.until?;
    Some(until - state.now.tick)
}

/// A hold in plain English: who, why, until when, and what would end it.
fn said(state: &State, agent: AgentKey, meter: &ClassMeter, hold: Hold) -> Option<(Arc<str>, String)> {
    let now = state.now.tick;
    let pool = state.limits.get(pool_of(&state.agents.get(agent).routes, meter)?)?;
    let class = &*meter.meter.model_class;
    let gate = pool.gate(class);
    let until = gate.and_then(|gate| gate.until).map(|until| lasting(until - now));
    let name = &pool.name;
    let text = match hold {
        Hold::Exhausted => {
            let window = gate.map_or("", |gate| &*gate.window);
            let window = if window.is_empty() { "a window".to_owned() } else { format!("window {window}") };
            let until = until.unwrap_or_default();
            format!(
                "{window} of pool {name} is used up for another {until}; an agent with another pool would help"
            )
        }
        Hold::Resuming => {
            let left = pool.resuming.map_or_else(String::new, |until| lasting(until - now));
            format!("pool {name} is open again; what was interrupted goes on first, the rest in {left}")
        }
        Hold::Failing => {
            let until = until.map_or_else(String::new, |until| format!(", the next try in {until}"));
            format!("the API fails for pool {name}: one at a time tries whether it is back{until}")
        }
        Hold::Starts => {
            let left = pool
                .next_start(now)
                .map_or_else(String::new, |at| format!(", the next in {}", lasting(at - now)));
            let limit = pool.settings.starts_per_minute.unwrap_or(0);
            format!(
                "pool {name} starts {limit} attempts a minute{left}; the operator's starts_per_minute says so"
            )
        }
        Hold::Congested => {
            format!(
                "requests that wait for pool {name} ({class}) are worth more than 30 s of its limits; nothing more is \
                 started before that is less"
            )
        }
        Hold::Unpaid => {
            let (text, help) = budgets::why_closed(state, pool.tenant, pool.unpaid.as_ref()?)?;
            format!("{text}; now: {help}")
        }
        Hold::Warming => {
            let attempt = pool.prefixes.warming(meter.meter.prefix)?;
            let task = task_ref(state, attempt.task).unwrap_or_default();
            format!(
                "waits for the first answer of {task}, which brings their common beginning into the prompt cache"
            )
        }
    };
    Some((Arc::clone(name), text))
}

/// A length of time, exact enough to wait for it.
fn lasting(span: Span) -> String {
    let seconds = span.0.div_ceil(1_000);
    let (hours, minutes, rest) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes, rest) {
        (0, 0, rest) => format!("{rest} s"),
        (0, minutes, 0) => format!("{minutes} min"),
        (0, minutes, rest) => format!("{minutes} min {rest} s"),
        (hours, 0, _) => format!("{hours} h"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_to_wait_are_exact_to_the_second_or_the_minute() {
        let said = [0, 999, 59_000, 60_000, 250_000, 7_200_000, 7_261_000].map(|ms| lasting(Span(ms)));
        assert_eq!(said, ["0 s", "1 s", "59 s", "1 min", "4 min 10 s", "2 h", "2 h 1 min"]);
    }
}
