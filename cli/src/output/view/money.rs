//! Costs, budgets and limits as `-o json` prints them.
//! Knows the wire's messages; refuses to reckon what anything costs.

use orch_proto::v1;
use schemars::JsonSchema;
use serde::Serialize;

use super::{Tokens, some};
use crate::args::amounts::{mode_word, period_word, scope_words};
use crate::args::money::Dimension;
use crate::args::parse::word;
use crate::output::figures::{rfc3339, seconds, usd};

/// What was spent.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct CostsView {
    /// Dearest first; by day, in order of days.
    rows: Vec<CostRowView>,
    /// Of everything that was asked for, rows that are left out included.
    total: CostRowView,
    /// Rows left out.
    more: u64,
    /// What attempts that still run have spent beyond that, estimated.
    running_usd: f64,
    forecast: Option<ForecastView>,
    /// Date of the list prices.
    prices_as_of: Option<String>,
    warnings: Vec<String>,
    /// The beginning of what is kept, where that is later than what was asked for.
    kept_since: Option<String>,
}

impl CostsView {
    /// The answer to a query that was split by `by`.
    pub(crate) fn new(answer: &v1::QueryCostsResponse, by: &[Dimension]) -> Self {
        let total = answer.total.clone().unwrap_or_default();
        Self {
            rows: CostRowView::all(answer, by),
            total: CostRowView::new(&total, &[]),
            more: answer.more,
            running_usd: usd(answer.running_micro_usd),
            forecast: answer.forecast.as_ref().map(ForecastView::from),
            prices_as_of: some(&answer.prices_as_of),
            warnings: answer.warnings.clone(),
            kept_since: rfc3339(answer.kept_since),
        }
    }
}

/// What was spent on one thing. Of the names, those are there by which costs were split.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub(crate) struct CostRowView {
    /// Workflow, or `adhoc`.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    run: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    task: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    /// Credential pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pool: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    /// `2026-11-21`, UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    day: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<String>,
    runs: u64,
    attempts: u64,
    /// Attempts that ended `ok`.
    attempts_ok: u64,
    /// List price in US dollars.
    cost_usd: f64,
    /// Of it: estimated.
    estimated_usd: f64,
    tokens: Tokens,
    /// Part of the input tokens that was read from the prompt cache, 0 to 1; none where there was no input.
    cache_hit: Option<f64>,
}

impl CostRowView {
    /// The columns of a spreadsheet, behind the names.
    pub(crate) const COLUMNS: [&'static str; 10] = [
        "runs",
        "attempts",
        "attempts_ok",
        "cost_usd",
        "estimated_usd",
        "tokens.input",
        "tokens.output",
        "tokens.cache_read",
        "tokens.cache_write",
        "cache_hit",
    ];

    /// The rows of an answer.
    pub(crate) fn all(answer: &v1::QueryCostsResponse, by: &[Dimension]) -> Vec<Self> {
        answer.rows.iter().map(|row| Self::new(row, by)).collect()
    }

    fn new(row: &v1::CostRow, by: &[Dimension]) -> Self {
        let usage = row.usage.clone().unwrap_or_default();
        let mut view = Self {
            runs: row.runs,
            attempts: row.attempts,
            attempts_ok: row.attempts_ok,
            cost_usd: usd(usage.cost_micro_usd),
            estimated_usd: usd(row.estimated_micro_usd),
            tokens: tokens(&usage),
            cache_hit: cache_hit(&usage).map(|part| f64::from(part) / 1e3),
            ..Self::default()
        };
        for (dimension, key) in by.iter().zip(&row.keys) {
            let place = match dimension {
                Dimension::Name => &mut view.name,
                Dimension::Run => &mut view.run,
                Dimension::Task => &mut view.task,
                Dimension::Worker => &mut view.worker,
                Dimension::Agent => &mut view.agent,
                Dimension::Model => &mut view.model,
                Dimension::Pool => &mut view.pool,
                Dimension::Tenant => &mut view.tenant,
                Dimension::Day => &mut view.day,
                Dimension::Outcome => &mut view.outcome,
            };
            *place = Some(key.clone());
        }
        view
    }
}

/// The tokens of a sum over models.
pub(crate) fn tokens(usage: &v1::ModelUsage) -> Tokens {
    Tokens::of(&v1::Usage { models: vec![usage.clone()], ..v1::Usage::default() })
}

/// Of the input tokens, those that were read from the prompt cache, in thousandths; `None` without input.
pub(crate) fn cache_hit(usage: &v1::ModelUsage) -> Option<u16> {
    let tokens = tokens(usage);
    let input = u128::from(tokens.input) + u128::from(tokens.cache_read) + u128::from(tokens.cache_write);
    (u128::from(tokens.cache_read) * 1000).checked_div(input).and_then(|part| u16::try_from(part).ok())
}

/// What will be spent if things go on as they do.
#[derive(Debug, Serialize, JsonSchema)]
struct ForecastView {
    /// Today, UTC, so far.
    today_usd: f64,
    /// By its end.
    day_usd: f64,
    /// This month so far.
    month_so_far_usd: f64,
    /// By its end.
    month_usd: f64,
    /// How it was reckoned.
    basis: String,
}

impl From<&v1::CostForecast> for ForecastView {
    fn from(forecast: &v1::CostForecast) -> Self {
        Self {
            today_usd: usd(forecast.today_micro_usd),
            day_usd: usd(forecast.day_micro_usd),
            month_so_far_usd: usd(forecast.month_so_far_micro_usd),
            month_usd: usd(forecast.month_micro_usd),
            basis: forecast.basis.clone(),
        }
    }
}

/// A budget and how far it is used.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct BudgetView {
    /// Of a standing budget.
    name: Option<String>,
    /// Of the budget of a run: the run.
    run: Option<String>,
    /// `tenant`, `worker=NAME`, `name=NAME`, `pool=NAME` or `run`.
    over: String,
    /// `day`, `month` or `total`.
    per: &'static str,
    /// `hard`, `soft` or `drain`.
    mode: &'static str,
    limit: AmountsView,
    spent: AmountsView,
    /// Held for what runs, beyond what is recorded.
    reserved: AmountsView,
    /// Of the money that was spent: estimated.
    estimated_usd: f64,
    resets_at: Option<String>,
    /// What waits or ended because of it; none while there is room.
    state: Option<String>,
}

/// Money, tokens and counts; of a ceiling, those that are limited.
#[derive(Debug, Serialize, JsonSchema)]
struct AmountsView {
    usd: Option<f64>,
    tokens: Option<u64>,
    /// Runs; over a worker, a pool or a run: attempts.
    runs: Option<u64>,
}

impl AmountsView {
    fn spent(spent: Option<&v1::Spent>) -> Self {
        let spent = spent.copied().unwrap_or_default();
        Self { usd: Some(usd(spent.micro_usd)), tokens: Some(spent.tokens), runs: Some(spent.runs) }
    }
}

impl From<&v1::BudgetUse> for BudgetView {
    fn from(budget: &v1::BudgetUse) -> Self {
        let limit = limit_of(budget);
        let standing = budget.budget.as_ref();
        Self {
            name: standing.map(|standing| standing.name.clone()),
            run: some(&budget.run_ref),
            over: standing.map_or_else(|| "run".to_owned(), |standing| scope_words(standing.scope.as_ref())),
            per: standing.map_or("total", |standing| period_word(standing.period())),
            mode: mode_word(limit.mode()),
            limit: AmountsView { usd: limit.micro_usd.map(usd), tokens: limit.tokens, runs: limit.runs },
            spent: AmountsView::spent(budget.spent.as_ref()),
            reserved: AmountsView::spent(budget.reserved.as_ref()),
            estimated_usd: usd(budget.estimated_micro_usd),
            resets_at: rfc3339(budget.resets_at),
            state: some(&budget.state),
        }
    }
}

/// The ceiling of a budget; of one that does not say, no limit at all.
pub(crate) fn limit_of(budget: &v1::BudgetUse) -> v1::BudgetLimit {
    let own = || budget.budget.as_ref().and_then(|standing| standing.limit);
    budget.limit.or_else(own).unwrap_or_default()
}

/// A budget that was ended.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct RemovedBudgetView {
    pub(crate) name: String,
    pub(crate) removed: bool,
}

/// What earlier work says that a run will cost.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct EstimateView {
    /// The middle of what earlier ones cost.
    p50_usd: f64,
    /// Nine of ten cost no more.
    p90_usd: f64,
    /// Earlier attempts it rests on; 0: nothing is known.
    samples: u32,
    /// Tasks of which nothing is known.
    unknown_tasks: u32,
}

impl From<&v1::CostEstimate> for EstimateView {
    fn from(estimate: &v1::CostEstimate) -> Self {
        Self {
            p50_usd: usd(estimate.p50_micro_usd),
            p90_usd: usd(estimate.p90_micro_usd),
            samples: estimate.samples,
            unknown_tasks: estimate.unknown_tasks,
        }
    }
}

/// A credential pool and its limits.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct PoolLimitsView {
    pool: String,
    /// `open`, `throttled`, `exhausted` or `failing`.
    state: String,
    until: Option<String>,
    /// Seconds until then.
    left: Option<f64>,
    detail: Option<String>,
    buckets: Vec<BucketView>,
    agents: Vec<String>,
    /// Requests that wait for credit.
    waiting: u32,
    in_flight: u32,
    /// Most requests at a time; 0: no limit.
    max_in_flight: u32,
    /// Conversations that wait until it is reset.
    parked: u32,
    /// The part of every limit of the account that is used, 0 to 1; limits are shown as that part.
    share: f64,
    /// Answers 429 seen in the last hour.
    throttled_last_hour: u64,
    warnings: Vec<String>,
}

impl From<&v1::PoolLimits> for PoolLimitsView {
    fn from(pool: &v1::PoolLimits) -> Self {
        Self {
            pool: pool.pool.clone(),
            state: state_word(pool.state()),
            until: rfc3339(pool.until),
            left: seconds(pool.left),
            detail: some(&pool.detail),
            buckets: pool.buckets.iter().map(BucketView::from).collect(),
            agents: pool.agents.clone(),
            waiting: pool.waiting,
            in_flight: pool.in_flight,
            max_in_flight: pool.max_in_flight,
            parked: pool.parked,
            share: if pool.share_permille == 0 { 1.0 } else { f64::from(pool.share_permille) / 1e3 },
            throttled_last_hour: pool.throttled,
            warnings: pool.warnings.clone(),
        }
    }
}

/// The word of a pool's state; one that is not said is open.
pub(crate) fn state_word(state: v1::PoolState) -> String {
    match state {
        v1::PoolState::Unspecified | v1::PoolState::Open => "open".to_owned(),
        v1::PoolState::Throttled | v1::PoolState::Exhausted | v1::PoolState::Failing => {
            word(state.as_str_name(), "POOL_STATE_")
        }
    }
}

/// A limit of a pool.
#[derive(Debug, Serialize, JsonSchema)]
struct BucketView {
    /// Class of models; none: all.
    model_class: Option<String>,
    /// Worker whose share it is; none: the whole pool.
    worker: Option<String>,
    /// `requests`, `input tokens` or `output tokens`.
    unit: String,
    /// A minute.
    limit: u64,
    free: u64,
    /// With agents, not yet used.
    leased: u64,
    /// In the last minute.
    used: u64,
    /// Where the limit is from: `configured`, `headers` or `learned`.
    source: Option<String>,
    /// Part of the limit that is used while the pool recovers from a throttle, 0 to 1.
    pace: f64,
}

impl From<&v1::BucketView> for BucketView {
    fn from(bucket: &v1::BucketView) -> Self {
        Self {
            model_class: some(&bucket.model_class),
            worker: some(&bucket.worker),
            unit: bucket.unit.clone(),
            limit: bucket.limit,
            free: bucket.free,
            leased: bucket.leased,
            used: bucket.used,
            source: some(&bucket.source),
            pace: f64::from(bucket.pace_permille) / 1e3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_judged_by_all_input_tokens() {
        let usage = |input, read, write| v1::ModelUsage {
            input_tokens: input,
            cache_read_tokens: read,
            cache_write_tokens: write,
            ..v1::ModelUsage::default()
        };
        assert_eq!(cache_hit(&usage(10, 80, 10)), Some(800));
        assert_eq!(cache_hit(&usage(0, 0, 0)), None);
        assert_eq!(cache_hit(&usage(0, u64::MAX / 2, 0)), Some(1000));
    }

    #[test]
    fn the_limit_of_a_standing_budget_is_its_own_where_none_stands_beside_it() {
        let limit = v1::BudgetLimit { micro_usd: Some(5), ..v1::BudgetLimit::default() };
        let own = v1::Budget { limit: Some(limit), ..v1::Budget::default() };
        let budget = v1::BudgetUse { budget: Some(own), ..v1::BudgetUse::default() };
        assert_eq!(limit_of(&budget).micro_usd, Some(5));
        assert_eq!(limit_of(&v1::BudgetUse { limit: Some(limit), ..v1::BudgetUse::default() }), limit);
    }
}
