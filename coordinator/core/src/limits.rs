//! Rate limits of credential pools: what agents, the API and operators say of them, and how a pool stands.
//! Knows amounts and names; refuses to know a credential, a header or a model.
//!
//! The words only; buckets and decisions are in the modules below.

mod account;
mod book;
mod bucket;
mod class;
mod gate;
mod pool;
mod prefix;
mod starts;
mod views;

pub(crate) use book::{ClassMeter, Limits, PoolId, Route, pool_of};
pub(crate) use gate::Meaning;
pub(crate) use pool::Hold;

use crate::time::Span;
use std::sync::Arc;

/// What a request takes of a rate limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Amounts {
    /// Requests.
    pub requests: u64,
    /// Input tokens that count.
    pub input: u64,
    /// Output tokens.
    pub output: u64,
    /// Requests at a time; given back when a request ends.
    pub concurrent: u64,
}

/// Whose credit it is: a slice of the buckets of a pool.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MeterId {
    /// Pool name.
    pub pool: Arc<str>,
    /// Class of the model.
    pub model_class: Arc<str>,
    /// Worker name.
    pub worker: Arc<str>,
}

/// What an agent has done with the credit of one meter. Totals are cumulative over its session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitReport {
    /// Which.
    pub meter: MeterId,
    /// The highest total it was given that it has seen.
    pub granted: Amounts,
    /// What the API counted.
    pub used: Amounts,
    /// What it gives back.
    pub returned: Amounts,
    /// What its waiting requests need beyond what it has.
    pub wanted: Amounts,
    /// Requests that wait.
    pub waiting: u32,
    /// What the API said of the buckets.
    pub headers: Option<LimitHeaders>,
}

/// Rate limits as the API tells them, a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LimitHeaders {
    /// Requests: limit.
    pub requests_limit: Option<u64>,
    /// Requests: left.
    pub requests_remaining: Option<u64>,
    /// Input tokens: limit.
    pub input_limit: Option<u64>,
    /// Input tokens: left.
    pub input_remaining: Option<u64>,
    /// Output tokens: limit.
    pub output_limit: Option<u64>,
    /// Output tokens: left.
    pub output_remaining: Option<u64>,
}

/// What the API said that concerns everybody who uses a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitSignal {
    /// Pool name.
    pub pool: Arc<str>,
    /// Class of the model; empty means all.
    pub model_class: Arc<str>,
    /// What.
    pub kind: SignalKind,
    /// When it makes sense to ask again, from now.
    pub retry_after: Option<Span>,
    /// The window, or empty.
    pub window: Arc<str>,
    /// For people.
    pub detail: Arc<str>,
}

/// What the API said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SignalKind {
    /// Too fast.
    Throttled,
    /// A window is used up.
    Exhausted,
    /// It is overloaded or fails.
    Failing,
    /// It answered again.
    Recovered,
}

/// How a pool stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum PoolState {
    /// In use.
    #[default]
    Open,
    /// Paused for a moment.
    Throttled,
    /// A window is used up.
    Exhausted,
    /// The API fails.
    Failing,
}

/// What agents are told of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolNotice {
    /// Pool name.
    pub pool: Arc<str>,
    /// Class of models; empty means all.
    pub model_class: Arc<str>,
    /// How it stands.
    pub state: PoolState,
    /// For how long from now.
    pub left: Option<Span>,
    /// The window, or empty.
    pub window: Arc<str>,
    /// Whether requests need credit.
    pub metered: bool,
}

/// A pool as an agent's Hello tells of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AgentPool {
    /// Pool name.
    pub name: Arc<str>,
    /// Workers it serves, sorted; empty means every worker that no other pool of the agent names.
    pub workers: Vec<Arc<str>>,
    /// Requests pass the agent's gateway.
    pub gateway: bool,
    /// Tells two credentials apart; empty when it cannot.
    pub fingerprint: Vec<u8>,
}

/// Limits of a pool as an operator configured them. An absent one is not known.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct PoolSettings {
    /// Buckets of the whole pool, by class of models; an empty class means each class that has no row.
    pub buckets: Vec<(Arc<str>, BucketSettings)>,
    /// The share of each worker, by class of models; likewise.
    pub per_worker: Vec<(Arc<str>, BucketSettings)>,
    /// Most requests at a time.
    pub max_concurrent: Option<u32>,
    /// Most attempts started a minute.
    pub starts_per_minute: Option<u32>,
    /// The part of whatever limit of the whole pool is in force that is used, in thousandths; without it all.
    pub share_permille: Option<u32>,
}

impl PoolSettings {
    pub(crate) fn share(&self) -> u32 {
        self.share_permille.unwrap_or(bucket::WHOLE)
    }
}

/// Limits a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct BucketSettings {
    /// Requests.
    pub requests: Option<u64>,
    /// Input tokens.
    pub input: Option<u64>,
    /// Output tokens.
    pub output: Option<u64>,
}

/// What of a task decides whose limits it uses, and with which others it shares a cached prefix.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Meter {
    /// Class of its model.
    pub model_class: Arc<str>,
    /// The pool its worker insists on, if any; otherwise the agent's own mapping decides.
    pub pool: Option<Arc<str>>,
    /// Digest of everything that comes before the task's own words; equal ones share the prompt cache. 0 means none.
    pub prefix: u64,
}

/// The limit an attempt ran into.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LimitHit {
    /// Pool name.
    pub pool: Arc<str>,
    /// The window, or empty.
    pub window: Arc<str>,
    /// A window is used up: the conversation is parked.
    pub exhausted: bool,
}

/// A pool and its limits, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolView {
    /// Name.
    pub pool: Arc<str>,
    /// How it stands.
    pub state: PoolState,
    /// For how long from now, where that is known.
    pub left: Option<Span>,
    /// Why, in plain English.
    pub detail: String,
    /// Its buckets.
    pub buckets: Vec<BucketView>,
    /// Agents that use it.
    pub agents: Vec<Arc<str>>,
    /// Requests that wait for credit.
    pub waiting: u32,
    /// Requests in flight.
    pub in_flight: u32,
    /// Most of them; 0 means no limit.
    pub max_in_flight: u32,
    /// Conversations parked until it is reset.
    pub parked: u32,
    /// Things to be looked at.
    pub warnings: Vec<String>,
    /// Throttles seen in the last hour.
    pub throttled: u64,
    /// The part of every limit of the account that is used, in thousandths.
    pub share_permille: u32,
}

/// One bucket, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketView {
    /// Class of models; empty means all.
    pub model_class: Arc<str>,
    /// Worker whose share it is; empty means the whole pool.
    pub worker: Arc<str>,
    /// `requests`, `input tokens`, `output tokens`.
    pub unit: &'static str,
    /// A minute, as in force.
    pub limit: u64,
    /// Free now.
    pub free: u64,
    /// With agents, not yet used.
    pub leased: u64,
    /// Used in the last minute.
    pub used: u64,
    /// `configured`, `headers`, `learned`.
    pub source: &'static str,
    /// Part of the limit that is used while it recovers, in thousandths.
    pub pace_permille: u32,
}
