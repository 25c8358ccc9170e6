//! Pools and their limits as people see them. Changes nothing.

use crate::limits::bucket::{Bucket, FULL_PACE};
use crate::limits::class::{Buckets, ModelClass};
use crate::limits::pool::Pool;
use crate::limits::{BucketView, PoolState, PoolView};
use crate::time::Tick;
use std::collections::BTreeSet;
use std::sync::Arc;

const UNITS: [&str; 3] = ["requests", "input tokens", "output tokens"];

impl Pool {
    /// The pool as people see it. Names of agents and the number of parked conversations are the caller's to add.
    pub(crate) fn view(&self, now: Tick) -> PoolView {
        let worst = self.worst();
        let gate = worst.map(|(_, gate)| gate);
        let waiting = self.classes.values().flat_map(|class| class.accounts.values());
        let waiting = waiting.fold(0u32, |sum, held| sum.saturating_add(held.account.waiting));
        PoolView {
            pool: Arc::clone(&self.name),
            state: gate.map_or(PoolState::Open, |gate| gate.state),
            left: gate.and_then(|gate| gate.until).map(|until| until - now),
            detail: self.detail(),
            buckets: self.classes.iter().flat_map(|(name, class)| rows(name, class, now)).collect(),
            agents: Vec::new(),
            waiting,
            in_flight: u32::try_from(self.permits.held).unwrap_or(u32::MAX),
            max_in_flight: self.settings.max_concurrent.unwrap_or(0),
            parked: 0,
            warnings: self.warnings(),
            throttled: self.throttled(now),
            share_permille: self.settings.share(),
        }
    }

    fn detail(&self) -> String {
        let Some((class, gate)) = self.worst().filter(|(_, gate)| gate.state != PoolState::Open) else {
            return String::new();
        };
        let what = match gate.state {
            PoolState::Open => return String::new(),
            PoolState::Throttled => "paused for a moment: the API was asked too fast".to_owned(),
            PoolState::Exhausted if gate.window.is_empty() => "a window is used up".to_owned(),
            PoolState::Exhausted => format!("window {} is used up", gate.window),
            PoolState::Failing => "the API fails: one request at a time tries whether it is back".to_owned(),
        };
        let class = if class.is_empty() { String::new() } else { format!(" ({class})") };
        let said = if gate.detail.is_empty() { String::new() } else { format!(": {}", gate.detail) };
        format!("{what}{class}{said}")
    }

    fn warnings(&self) -> Vec<String> {
        let told = self.users.values().map(|user| &user.fingerprint).filter(|print| !print.is_empty());
        let different = told.collect::<BTreeSet<_>>().len();
        let mut warnings = Vec::new();
        if different > 1 {
            warnings.push(format!(
                "agents have {different} different credentials under this name, whose limits count as one: give each \
                 credential a pool name of its own"
            ));
        }
        let direct = self.users.values().filter(|user| !user.gateway).count();
        if self.is_metered() && direct > 0 {
            warnings.push(format!(
                "{direct} of {} agents use it without a gateway: what they take is not held back",
                self.users.len()
            ));
        }
        warnings
    }
}

fn rows(name: &Arc<str>, class: &ModelClass, now: Tick) -> Vec<BucketView> {
    let pace = class.pace.permille();
    let mut rows = buckets(name, &Arc::default(), &class.buckets, pace, now);
    for (worker, share) in &class.shares {
        rows.extend(buckets(name, worker, share, FULL_PACE, now));
    }
    rows
}

fn buckets(class: &Arc<str>, worker: &Arc<str>, held: &Buckets, pace: u32, now: Tick) -> Vec<BucketView> {
    let row = |(bucket, unit): (&Bucket, &'static str)| {
        let (limit, (_, source)) = bucket.in_force().zip(bucket.limit())?;
        Some(BucketView {
            model_class: Arc::clone(class),
            worker: Arc::clone(worker),
            unit,
            limit,
            free: {
                let mut filled = bucket.clone();
                filled.refill(now, pace);
                filled.free()
            },
            leased: bucket.outstanding(),
            used: bucket.used_since(59, now),
            source: source.word(),
            pace_permille: pace,
        })
    };
    held.iter().zip(UNITS).filter_map(row).collect()
}
