//! Rules that hold after every event, each with a name, checked over all indexes.
//! Too slow for production: tests call it after every event, and a start once after a restore.
//!
//! | Rule | |
//! |---|---|
//! | `counts` | sums by state are what the tasks say |
//! | `dependencies` | open dependencies are counted right, and nothing ran before they did what they had to |
//! | `places` | a run has no more tasks under way than it may, and none waits for a place that is free |
//! | `questions` | exactly what only payloads tell is asked, and what is judged has somebody who judges it |
//! | `shapes` | the state of a run is that of its plan and its synthesis |
//! | `terminal` | exactly ended tasks have an outcome, exactly runs of ended tasks are ended |
//! | `recorded_once` | a success is that of the latest attempt, and no ended attempt is held |
//! | `usage` | a run spent what its tasks spent, a task at least what its attempts did; no recorded attempt waits for its bill |
//! | `leases` | exactly held tasks have one lease, at their agent, at their attempt |
//! | `queues` | exactly queued tasks stand in one queue, once |
//! | `classes` | classes, groups and ranks are what the tasks and agents say |
//! | `work_conserving` | nothing waits that some agent has room for |
//! | `orders` | agents count as offering what they and operators say; drained ones, and those in quarantine, take no work |
//! | `sessions` | streams and agents name each other |
//! | `timers` | whatever waits for time has a timer that is not too late, and no timer is forgotten |
//! | `budgets` | sums of budgets are what the reservations say, and a reservation is that of a live attempt or of an open bill |
//! | `limits` | buckets hold and gave no more than they can, permits are with agents that exist, and what is parked wakes |
//! | `register` | names, request ids and finished runs are found and will be forgotten, dead letters are counted |

mod agents;
mod budgets;
mod limits;
mod queues;
mod runs;

use crate::state::State;
use std::fmt::Display;
use std::hash::{Hash, Hasher};

/// A rule that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{rule}: {detail}")]
pub struct Violation {
    /// Name of the rule.
    pub rule: &'static str,
    /// What broke it.
    pub detail: String,
}

/// Checks every rule.
///
/// # Errors
/// The first rule that does not hold.
pub fn check_invariants(state: &State) -> Result<(), Violation> {
    runs::counts(state)?;
    runs::dependencies(state)?;
    runs::places(state)?;
    runs::questions(state)?;
    runs::shapes(state)?;
    runs::terminal(state)?;
    runs::recorded_once(state)?;
    runs::usage(state)?;
    budgets::reservations(state)?;
    agents::leases(state)?;
    queues::queues(state)?;
    queues::classes(state)?;
    queues::work_conserving(state)?;
    agents::orders(state)?;
    agents::sessions(state)?;
    agents::timers(state)?;
    limits::limits(state)?;
    runs::register(state)
}

/// A digest of the whole state: equal histories give equal digests.
#[must_use]
pub fn state_hash(state: &State) -> u64 {
    let mut digest = Fnv(0xcbf2_9ce4_8422_2325);
    state.hash(&mut digest);
    digest.finish()
}

/// FNV-1a: the same on every machine and in every version, which the standard hasher does not promise.
struct Fnv(u64);

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// Fails under the name of a rule unless `holds`.
fn rule<D: Display>(name: &'static str, holds: bool, detail: impl FnOnce() -> D) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation { rule: name, detail: detail().to_string() }) }
}
