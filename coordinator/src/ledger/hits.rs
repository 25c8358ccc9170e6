//! How much of each worker's input came from the prompt cache, and whether a change of its definition broke that.
//! Knows the newest attempts of each worker, bounded; refuses to know prompts.
//!
//! # When a definition is said to have broken a cache
//!
//! A run uses the definitions of the moment of its submit, and runs are numbered in order. So attempts of runs behind the
//! newest one at the time of a change are attempts of the new definition, and only those count as such. The change is
//! said to have broken the cache while all of these hold: before it at least [`LEAST`] attempts were known and at least
//! [`WORTH_PERMILLE`] of their input came from the cache; since it at least [`LEAST`] attempts came; and of the input of
//! the newest of these (at most [`NEWEST`]) less than half of that share comes from the cache.

use std::collections::{BTreeMap, VecDeque};

use orch_core::ids::TenantId;
use orch_proto::store::v1::LedgerEntry;

/// Newest attempts that are looked at.
const NEWEST: usize = 32;
/// Fewer attempts say nothing.
const LEAST: usize = 5;
/// A share below it, in thousandths, is not worth a warning when it falls.
const WORTH_PERMILLE: u64 = 200;
/// Workers that are kept; further ones are not looked at.
const MAX_WORKERS: usize = 500;

/// Input tokens of some attempts.
#[derive(Debug, Default)]
struct Window {
    /// From the cache, and all.
    attempts: VecDeque<(u64, u64)>,
}

#[derive(Debug)]
struct Change {
    at_ms: i64,
    /// Runs behind this one have the new definition.
    last_run: u64,
    before_permille: u64,
    since: Window,
}

#[derive(Debug, Default)]
struct OfWorker {
    newest: Window,
    change: Option<Change>,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Hits {
    workers: BTreeMap<(TenantId, String), OfWorker>,
}

/// A cache that a change of a definition broke.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Broken {
    pub(super) worker: String,
    /// When the definition changed.
    pub(super) at_ms: i64,
    /// Share of the input from the cache before and since, in thousandths.
    pub(super) before_permille: u64,
    pub(super) since_permille: u64,
}

impl Window {
    fn add(&mut self, cached: u64, all: u64) {
        if self.attempts.len() == NEWEST {
            self.attempts.pop_front();
        }
        self.attempts.push_back((cached, all));
    }

    /// The share from the cache in thousandths, if enough attempts are known.
    fn permille(&self) -> Option<u64> {
        if self.attempts.len() < LEAST { None } else { Some(self.any_permille()) }
    }

    fn any_permille(&self) -> u64 {
        let sum = |part: fn(&(u64, u64)) -> u64| {
            self.attempts.iter().map(|attempt| u128::from(part(attempt))).sum::<u128>()
        };
        let (cached, all) = (sum(|attempt| attempt.0), sum(|attempt| attempt.1));
        u64::try_from(cached * 1_000 / all.max(1)).unwrap_or(1_000)
    }
}

impl Hits {
    /// Takes an attempt in. The worker's share in thousandths, if it changed.
    pub(super) fn record(&mut self, entry: &LedgerEntry) -> Option<u64> {
        let usage = entry.usage.as_ref()?;
        let sum = |part: fn(&orch_proto::v1::ModelUsage) -> u64| {
            usage.models.iter().map(part).fold(0_u64, u64::saturating_add)
        };
        let cached = sum(|row| row.cache_read_tokens);
        let all = sum(|row| {
            row.input_tokens.saturating_add(row.cache_read_tokens).saturating_add(row.cache_write_tokens)
        });
        let key = (TenantId(entry.tenant), entry.worker.clone());
        let known = self.workers.contains_key(&key);
        if all == 0 || entry.worker.is_empty() || (!known && self.workers.len() == MAX_WORKERS) {
            return None;
        }
        let worker = self.workers.entry(key).or_default();
        worker.newest.add(cached, all);
        if let Some(change) = worker.change.as_mut().filter(|change| entry.run_id > change.last_run) {
            change.since.add(cached, all);
        }
        Some(worker.newest.any_permille())
    }

    /// The definitions of these workers changed when the newest run was `last_run`.
    pub(super) fn changed(&mut self, names: &[String], at_ms: i64, last_run: u64) {
        for ((_, name), worker) in &mut self.workers {
            if names.contains(name) {
                let before = worker.newest.permille().filter(|before| *before >= WORTH_PERMILLE);
                worker.change = before.map(|before_permille| Change {
                    at_ms,
                    last_run,
                    before_permille,
                    since: Window::default(),
                });
            }
        }
    }

    /// The caches that are broken now.
    pub(super) fn broken(&self, tenant: TenantId) -> Vec<Broken> {
        let of_tenant = self.workers.iter().filter(|((of, _), _)| *of == tenant);
        let broken = of_tenant.filter_map(|((_, name), worker)| {
            let change = worker.change.as_ref()?;
            let since_permille = change.since.permille()?;
            (since_permille * 2 < change.before_permille).then(|| Broken {
                worker: name.clone(),
                at_ms: change.at_ms,
                before_permille: change.before_permille,
                since_permille,
            })
        });
        broken.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::page::entry;
    use super::super::page::tests::{bill, usage};
    use super::*;
    use orch_core::time::Wall;

    const T: TenantId = TenantId(1);

    fn attempt(run: u64, cached: u64, fresh: u64) -> LedgerEntry {
        let mut spent = usage("claude-opus-4-8", fresh, 1);
        spent.models[0].cache_read = cached;
        entry(&bill(run, 1, spent), Wall(1)).unwrap()
    }

    fn known(cached: u64, fresh: u64) -> Hits {
        let mut hits = Hits::default();
        for run in 0..5 {
            assert_eq!(hits.record(&attempt(run, cached, fresh)), Some(cached * 1_000 / (cached + fresh)));
        }
        hits.changed(&["marie".to_owned()], 99, 10);
        hits
    }

    #[test]
    fn a_changed_definition_is_named_when_five_attempts_of_it_hit_less_than_half_as_often() {
        let mut hits = known(71, 29);
        // A straggler of the old definition is none of them.
        hits.record(&attempt(10, 0, 100));
        for run in 11..=15 {
            assert_eq!(hits.broken(T), []);
            hits.record(&attempt(run, 12, 88));
        }
        let broken =
            Broken { worker: "marie".to_owned(), at_ms: 99, before_permille: 710, since_permille: 120 };
        assert_eq!(hits.broken(T), [broken]);
        assert_eq!(hits.broken(TenantId(2)), []);
        for run in 16..100 {
            hits.record(&attempt(run, 80, 20));
        }
        assert_eq!(hits.broken(T), [], "it is warm again");
    }

    #[test]
    fn a_cache_that_was_never_hit_or_is_hit_as_before_is_not_broken() {
        for (before, after) in [((10, 90), (0, 100)), ((71, 29), (40, 60))] {
            let mut hits = known(before.0, before.1);
            for run in 11..=20 {
                hits.record(&attempt(run, after.0, after.1));
            }
            assert_eq!(hits.broken(T), [], "{before:?} {after:?}");
        }
        let mut hits = known(71, 29);
        hits.changed(&["anga".to_owned()], 1, 1);
        hits.changed(&["marie".to_owned()], 200, 30);
        for run in 11..=20 {
            hits.record(&attempt(run, 0, 100));
        }
        assert_eq!(hits.broken(T), [], "all of them are of before the second change");
    }

    #[test]
    fn memory_is_bounded_by_workers_and_attempts() {
        let mut hits = Hits::default();
        for index in 0..MAX_WORKERS + 10 {
            let mut one = attempt(1, 1, 1);
            one.worker = format!("w{index}");
            hits.record(&one);
        }
        for _ in 0..100 {
            let mut one = attempt(1, 1, 1);
            one.worker = "w0".to_owned();
            hits.record(&one);
        }
        assert_eq!(hits.workers.len(), MAX_WORKERS);
        assert_eq!(hits.workers[&(T, "w0".to_owned())].newest.attempts.len(), NEWEST);
    }
}
