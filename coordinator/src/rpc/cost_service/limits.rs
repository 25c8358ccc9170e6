//! Credential pools and their limits, live.
//! Knows the wire; how pools stand is the core's.

use crate::rpc::auth::Caller;
use crate::rpc::cost_service::CostParts;
use crate::rpc::status::refuse_helped;
use crate::rpc::{ask, convert, unexpected};
use orch_core::limits::PoolView;
use orch_core::query::{Answer, Query};
use orch_core::time::Wall;
use orch_proto::codes::ErrorCode;
use orch_proto::v1;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tonic::Status;

/// Longest name of a pool that is looked for.
const MAX_NAME: usize = 63;

/// Pools of the caller's tenant.
pub(super) async fn pools(
    parts: &CostParts,
    caller: &Caller,
    request: v1::GetLimitsRequest,
) -> Result<v1::GetLimitsResponse, Status> {
    let wanted = (!request.pool.is_empty()).then_some(request.pool);
    let known = wanted.as_ref().is_none_or(|pool| pool.len() <= MAX_NAME);
    let query = Query::Limits(wanted.as_deref().filter(|_| known).map(Arc::from));
    let Answer::Limits(views) = ask(&parts.engine, caller.tenant, query).await? else {
        return Err(unexpected());
    };
    if let Some(pool) = wanted
        && (!known || views.is_empty())
    {
        let shown: String = pool.chars().take(MAX_NAME).flat_map(char::escape_debug).collect();
        let message = format!("no agent offers a pool `{shown}`, and no limits of one are configured");
        return Err(refuse_helped(ErrorCode::NotFound, message, "orchctl limits"));
    }
    let now = wall(SystemTime::now());
    Ok(v1::GetLimitsResponse { pools: views.iter().map(|view| pool(view, now)).collect() })
}

fn pool(view: &PoolView, now: Wall) -> v1::PoolLimits {
    let until = view.left.map(|left| Wall(now.0.saturating_add_unsigned(left.0)));
    v1::PoolLimits {
        pool: view.pool.to_string(),
        state: convert::pool_state(view.state).into(),
        until: until.map(convert::timestamp),
        left: view.left.map(convert::duration),
        detail: view.detail.clone(),
        buckets: view.buckets.iter().map(convert::bucket).collect(),
        agents: view.agents.iter().map(ToString::to_string).collect(),
        waiting: view.waiting,
        in_flight: view.in_flight,
        max_in_flight: view.max_in_flight,
        parked: view.parked,
        warnings: view.warnings.clone(),
        throttled: view.throttled,
        share_permille: view.share_permille,
    }
}

fn wall(now: SystemTime) -> Wall {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    Wall(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use orch_core::limits::{BucketView, PoolState};
    use orch_core::time::Span;

    #[test]
    fn a_closed_pool_is_told_with_the_time_at_which_it_opens() {
        let bucket = BucketView {
            model_class: "opus".into(),
            worker: "".into(),
            unit: "input tokens",
            limit: 400_000,
            free: 1,
            leased: 2,
            used: 3,
            source: "configured",
            pace_permille: 500,
        };
        let view = PoolView {
            pool: "main".into(),
            state: PoolState::Exhausted,
            left: Some(Span::seconds(90)),
            detail: "five_hour is used up".into(),
            buckets: vec![bucket],
            agents: vec!["box-1".into()],
            waiting: 4,
            in_flight: 5,
            max_in_flight: 6,
            parked: 7,
            warnings: vec!["two credentials".into()],
            throttled: 8,
            share_permille: 500,
        };
        let told = pool(&view, Wall(1_000_000));
        assert_eq!(told.state(), v1::PoolState::Exhausted);
        assert_eq!(told.until.map(|until| until.seconds), Some(1_090));
        assert_eq!((told.left.map(|left| left.seconds), told.parked, told.throttled), (Some(90), 7, 8));
        assert_eq!(told.share_permille, 500);
        let bucket = &told.buckets[0];
        assert_eq!((bucket.unit.as_str(), bucket.limit, bucket.leased), ("input tokens", 400_000, 2));
        assert_eq!((bucket.source.as_str(), bucket.pace_permille), ("configured", 500));
        let open = pool(&PoolView { left: None, state: PoolState::Open, ..view }, Wall(0));
        assert_eq!((open.until, open.left), (None, None));
    }
}
