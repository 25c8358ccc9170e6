//! Budgets: ceilings over runs, workers, names, pools and tenants, what was spent of them, and what attempts may spend.
//! Knows money, tokens and counts; refuses to know a price or a model.
//!
//! The words only; sums and decisions are in the modules below.

pub(crate) mod admit;
mod amount;
mod book;
mod hold;
pub(crate) mod period;

pub(crate) use amount::Amount;
pub(crate) use book::{AccountKey, Budgets, Purse, Standing};
pub(crate) use hold::Hold;

use crate::ids::{AttemptKey, AttemptNo, RunId, TenantId};
use crate::outcome::Outcome;
use crate::time::{Span, Wall};
use crate::usage::Usage;
use std::sync::Arc;

/// Money, tokens, runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Spent {
    /// Millionths of a US dollar.
    pub micro_usd: u64,
    /// Tokens of every kind.
    pub tokens: u64,
    /// Runs, or attempts.
    pub runs: u64,
}

impl Spent {
    pub(crate) const fn plus(self, other: Self) -> Self {
        Self {
            micro_usd: self.micro_usd.saturating_add(other.micro_usd),
            tokens: self.tokens.saturating_add(other.tokens),
            runs: self.runs.saturating_add(other.runs),
        }
    }
}

/// A ceiling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct BudgetLimit {
    /// Millionths of a US dollar.
    pub micro_usd: Option<u64>,
    /// Tokens of every kind.
    pub tokens: Option<u64>,
    /// Runs over a tenant or a name; attempts over a worker, a pool or a run.
    pub runs: Option<u64>,
    /// What happens then.
    pub mode: BudgetMode,
}

/// Another ceiling for a run. What is absent stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct BudgetChange {
    /// Millionths of a US dollar.
    pub micro_usd: Option<u64>,
    /// Tokens of every kind.
    pub tokens: Option<u64>,
    /// Attempts.
    pub runs: Option<u64>,
    /// What happens when it is used up; of a run that had no budget: it stops.
    pub mode: Option<BudgetMode>,
}

/// What becomes of an own budget of an attempt that is as much as the run was submitted with: that of a run's only task,
/// which then is there for a CLI that nothing else stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OwnBudget {
    /// What the run was submitted with, in millionths of a US dollar.
    pub submitted: u64,
    /// What goes in its place. Nothing where a gateway holds the attempt to what it may spend: that follows a change of the
    /// run's budget at once.
    pub becomes: Option<u64>,
}

/// What happens when a budget is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum BudgetMode {
    /// A warning.
    Soft,
    /// Running attempts end before their next request, and nothing starts.
    #[default]
    Hard,
    /// What runs is finished, and nothing starts.
    Drain,
}

/// What a standing budget is over.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BudgetScope {
    /// The whole tenant.
    Tenant,
    /// A worker.
    Worker(Arc<str>),
    /// Runs of a name.
    Name(Arc<str>),
    /// A credential pool.
    Pool(Arc<str>),
}

/// When a budget begins anew. Days and months are those of UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BudgetPeriod {
    /// Never.
    Total,
    /// At midnight.
    Day,
    /// On the first of the month.
    Month,
}

/// A standing budget.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Its name.
    pub name: Arc<str>,
    /// What it is over.
    pub scope: BudgetScope,
    /// When it begins anew.
    pub period: BudgetPeriod,
    /// The ceiling.
    pub limit: BudgetLimit,
}

/// A standing budget as its record says, for the store and for a restore.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BudgetRecordView {
    /// Whose.
    pub tenant: TenantId,
    /// The budget.
    pub budget: Budget,
    /// Beginning of the period that the figures are of.
    pub period: Wall,
    /// Recorded in it.
    pub spent: Spent,
    /// Of the money: estimated.
    pub estimated_micro_usd: u64,
    /// A warning was given in it.
    pub warned: bool,
}

/// An attempt that ended without a bill.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OpenBill {
    /// Its number within its task.
    pub attempt: AttemptNo,
    /// The most that it may have spent beyond what was counted.
    pub most: Spent,
    /// The pool whose budgets that counts against, or empty.
    pub pool: Arc<str>,
}

/// What an attempt has spent and wants to spend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spending {
    /// Which.
    pub attempt: AttemptKey,
    /// Spent by requests that ended, since it began.
    pub spent: Spent,
    /// The most that can become by the requests in flight.
    pub bound: Spent,
    /// What the next waiting request would raise the bound to; zero when none waits.
    pub wanted: Spent,
    /// Requests in flight.
    pub in_flight: u32,
    /// Part of it was estimated.
    pub estimated: bool,
    /// [`Allowance::seq`] of the newest allowance it acts by; 0 without one.
    pub seen: u64,
}

/// What an attempt may spend. The default is: whatever it likes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Allowance {
    /// Requests may start as long as their bound stays within this.
    pub micro_usd: Option<u64>,
    /// The same in tokens.
    pub tokens: Option<u64>,
    /// One request may start whatever it costs, if no other is in flight.
    pub one_more: bool,
    /// Nothing more will be given.
    pub spent: bool,
    /// Which budget that is, for people.
    pub detail: Arc<str>,
    /// Rises with everything that is said of one attempt, over restarts too.
    pub seq: u64,
}

/// What an ended attempt has cost, for the ledger; or a correction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bill {
    /// Whose.
    pub tenant: TenantId,
    /// Its run.
    pub run: RunId,
    /// Name and number of it.
    pub run_ref: Arc<str>,
    /// Name of the task.
    pub task_id: Arc<str>,
    /// The attempt.
    pub attempt: u32,
    /// Worker, `command` or `noop`.
    pub worker: Arc<str>,
    /// Agent.
    pub agent: Arc<str>,
    /// Credential pool, or empty.
    pub pool: Arc<str>,
    /// How it ended.
    pub outcome: Outcome,
    /// What it cost.
    pub usage: Usage,
    /// A correction: what was counted before and is taken back.
    pub taken_back_micro_usd: Option<u64>,
    /// How long it took.
    pub duration: Option<Span>,
}

/// A budget and how far it is used, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetView {
    /// The standing budget; `None` for that of a run.
    pub budget: Option<Budget>,
    /// The run, for that of a run.
    pub run_ref: Option<Arc<str>>,
    /// The ceiling.
    pub limit: BudgetLimit,
    /// Recorded in the current period.
    pub spent: Spent,
    /// Held for what runs, beyond that.
    pub reserved: Spent,
    /// Of the money: estimated.
    pub estimated_micro_usd: u64,
    /// When it begins anew.
    pub resets_at: Option<Wall>,
    /// What waits or ended because of it; empty while there is room.
    pub state: String,
}
