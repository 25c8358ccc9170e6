//! What earlier attempts cost, for estimates.
//! Knows the newest costs of each kind of work, bounded; refuses to know the future.
//!
//! A kind is a worker with a model, and inside it a task of a workflow, where one has been run before. Only attempts that
//! came to an end of their own count, with the CLI's own figure: one that was cut short says nothing of what the work
//! costs.

use std::collections::{BTreeMap, VecDeque};

use orch_core::ids::TenantId;
use orch_proto::prices::Prices;
use orch_proto::store::v1::LedgerEntry;
use orch_proto::v1::{CostEstimate, Outcome};

/// Newest costs kept of a kind.
const SAMPLES: usize = 64;
/// Kinds kept; the one that was not added to for the longest goes.
const MAX_KINDS: usize = 4_096;
/// A task of a workflow speaks for itself from so many on; below, its worker does.
const LEAST_OF_TASK: usize = 3;
/// Tasks of a run that are looked up by themselves; the rest by their worker.
const MAX_TASKS: usize = 1_000;
/// Name of runs that are of no workflow: their tasks are not the same ones again.
const ADHOC: &str = "adhoc";

/// A task whose cost is to be estimated.
#[derive(Debug, Clone, Copy)]
pub struct EstimateTask<'a> {
    /// Worker.
    pub worker: &'a str,
    /// Model in force, or an alias of it.
    pub model: &'a str,
    /// Name within the run.
    pub task_id: &'a str,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    tenant: TenantId,
    worker: String,
    /// `name/task`, or empty for the worker as a whole.
    task: String,
    model: String,
}

#[derive(Debug, Default)]
struct Costs {
    newest: VecDeque<u64>,
    /// When it was last added to, by the count of all.
    touched: u64,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct History {
    kinds: BTreeMap<Kind, Costs>,
    count: u64,
}

/// Half and nine tenths of what earlier ones cost, and how many they were.
type Spread = (u64, u64, u32);

impl History {
    pub(super) fn record(&mut self, entry: &LedgerEntry) {
        let Some(usage) = entry.usage.as_ref().filter(|usage| !usage.estimated) else { return };
        let ended = !matches!(
            entry.outcome(),
            Outcome::Cancelled | Outcome::LostAgent | Outcome::RateLimited | Outcome::Budget
        );
        let Some(dearest) = usage.models.iter().max_by_key(|row| row.cost_micro_usd) else { return };
        if entry.attempt == 0 || !ended {
            return;
        }
        let name = entry.run_ref.split_once('/').map_or("", |(name, _)| name);
        let kind = |task: String| Kind {
            tenant: TenantId(entry.tenant),
            worker: entry.worker.clone(),
            task,
            model: dearest.model.clone(),
        };
        self.add(kind(String::new()), usage.cost_micro_usd);
        if name != ADHOC {
            self.add(kind(format!("{name}/{}", entry.task_id)), usage.cost_micro_usd);
        }
    }

    fn add(&mut self, kind: Kind, micro_usd: u64) {
        self.count += 1;
        if self.kinds.len() >= MAX_KINDS && !self.kinds.contains_key(&kind) {
            let oldest = self.kinds.iter().min_by_key(|(_, costs)| costs.touched);
            if let Some(oldest) = oldest.map(|(kind, _)| kind.clone()) {
                self.kinds.remove(&oldest);
            }
        }
        let costs = self.kinds.entry(kind).or_default();
        costs.touched = self.count;
        if costs.newest.len() == SAMPLES {
            costs.newest.pop_front();
        }
        costs.newest.push_back(micro_usd);
    }

    /// What `tasks` of a run named `name` will cost together; nothing where no task is a worker's.
    pub(super) fn estimate<'a>(
        &self,
        tenant: TenantId,
        name: &str,
        tasks: impl IntoIterator<Item = EstimateTask<'a>>,
        prices: &Prices,
    ) -> Option<CostEstimate> {
        let mut sum = None;
        let mut known: BTreeMap<(&str, String, &str), Option<Spread>> = BTreeMap::new();
        let mut counted = 0_u64;
        for (at, task) in tasks.into_iter().enumerate() {
            let sum = sum.get_or_insert_with(CostEstimate::default);
            let class = prices.class_of(task.model);
            let own = if name == ADHOC || at >= MAX_TASKS {
                String::new()
            } else {
                format!("{name}/{}", task.task_id)
            };
            let of_task = match own.is_empty() {
                true => None,
                false => self.spread(tenant, task.worker, &own, class, prices),
            };
            let of_task = of_task.filter(|(_, _, samples)| *samples as usize >= LEAST_OF_TASK);
            let (key, spread) = match of_task {
                Some(spread) => ((task.worker, own, class), Some(spread)),
                None => {
                    let key = (task.worker, String::new(), class);
                    let of_worker = match known.get(&key) {
                        Some(found) => *found,
                        None => self.spread(tenant, task.worker, "", class, prices),
                    };
                    (key, of_worker)
                }
            };
            match spread {
                Some((half, most, _)) => {
                    sum.p50_micro_usd = sum.p50_micro_usd.saturating_add(half);
                    sum.p90_micro_usd = sum.p90_micro_usd.saturating_add(most);
                }
                None => sum.unknown_tasks = sum.unknown_tasks.saturating_add(1),
            }
            if known.insert(key, spread).is_none() {
                counted += u64::from(spread.map_or(0, |(_, _, samples)| samples));
            }
        }
        let mut sum = sum?;
        sum.samples = u32::try_from(counted).unwrap_or(u32::MAX);
        Some(sum)
    }

    fn spread(
        &self,
        tenant: TenantId,
        worker: &str,
        task: &str,
        class: &str,
        prices: &Prices,
    ) -> Option<Spread> {
        let kind = |model: &str| Kind {
            tenant,
            worker: worker.to_owned(),
            task: task.to_owned(),
            model: model.to_owned(),
        };
        let of_task = self
            .kinds
            .range(kind("")..)
            .take_while(|(kind, _)| kind.tenant == tenant && kind.worker == worker && kind.task == task);
        let mut costs: Vec<u64> = of_task
            .filter(|(kind, _)| prices.class_of(&kind.model) == class)
            .flat_map(|(_, costs)| costs.newest.iter().copied())
            .collect();
        costs.sort_unstable();
        let count = u32::try_from(costs.len()).ok()?;
        Some((quantile(&costs, 50)?, quantile(&costs, 90)?, count))
    }
}

/// The least cost that so many of a hundred do not exceed.
fn quantile(sorted: &[u64], of_hundred: usize) -> Option<u64> {
    let at = (sorted.len() * of_hundred).div_ceil(100).saturating_sub(1);
    sorted.get(at).copied()
}

#[cfg(test)]
mod tests {
    use super::super::page::entry;
    use super::super::page::tests::{bill, usage};
    use super::*;
    use orch_core::budgets::Bill;
    use orch_core::time::Wall;
    use orch_core::usage::Usage;

    const T: TenantId = TenantId(1);

    fn attempt(run_ref: &str, task: &str, model: &str, micro_usd: u64) -> LedgerEntry {
        let bill =
            Bill { run_ref: run_ref.into(), task_id: task.into(), ..bill(1, 1, usage(model, 1, micro_usd)) };
        entry(&bill, Wall(1)).unwrap()
    }

    fn asked<'a>(worker: &'a str, model: &'a str, task_id: &'a str) -> EstimateTask<'a> {
        EstimateTask { worker, model, task_id }
    }

    fn estimate(history: &History, name: &str, tasks: &[EstimateTask<'_>]) -> Option<CostEstimate> {
        history.estimate(T, name, tasks.iter().copied(), &Prices::default())
    }

    #[test]
    fn a_run_costs_what_its_tasks_cost_and_what_is_unknown_is_said() {
        let mut history = History::default();
        for micro in 1..=10 {
            history.record(&attempt("adhoc/1", "t", "claude-opus-4-8[1m]", micro * 100));
        }
        let two = [asked("marie", "opus", "a"), asked("marie", "claude-opus-5", "b")];
        let sum = estimate(&history, "adhoc", &two).unwrap();
        assert_eq!((sum.p50_micro_usd, sum.p90_micro_usd), (1_000, 1_800));
        assert_eq!((sum.samples, sum.unknown_tasks), (10, 0), "the same ten attempts count once");
        let other = [asked("marie", "haiku", "a"), asked("anga", "opus", "b"), two[0]];
        let sum = estimate(&history, "adhoc", &other).unwrap();
        assert_eq!((sum.p50_micro_usd, sum.unknown_tasks), (500, 2));
        assert_eq!(estimate(&history, "adhoc", &[]), None, "nothing to be paid for");
        assert!(history.estimate(TenantId(2), "adhoc", two, &Prices::default()).unwrap().unknown_tasks == 2);
    }

    #[test]
    fn a_task_of_a_workflow_speaks_for_itself_from_three_attempts_on() {
        let mut history = History::default();
        history.record(&attempt("adhoc/1", "x", "claude-opus-4-8", 10));
        for run in 1..=3 {
            let before = estimate(&history, "daily", &[asked("marie", "opus", "digest")]).unwrap();
            assert_eq!(before.p50_micro_usd < 900, run < 3, "by the worker until then");
            history.record(&attempt(&format!("daily/{run}"), "digest", "claude-opus-4-8", 900));
        }
        let sum = estimate(&history, "daily", &[asked("marie", "opus", "digest")]).unwrap();
        assert_eq!((sum.p50_micro_usd, sum.samples), (900, 3));
        let other = estimate(&history, "weekly", &[asked("marie", "opus", "digest")]).unwrap();
        assert_eq!(other.samples, 4, "another workflow: by the worker");
    }

    #[test]
    fn what_was_cut_short_or_guessed_or_put_right_says_nothing() {
        let mut history = History::default();
        let mut cut = attempt("adhoc/1", "t", "claude-opus-4-8", 5);
        cut.set_outcome(Outcome::Cancelled);
        history.record(&cut);
        let late = Bill { taken_back_micro_usd: Some(1), ..bill(1, 1, usage("claude-opus-4-8", 1, 5)) };
        history.record(&entry(&late, Wall(1)).unwrap());
        let guess = Usage { estimated: true, ..usage("claude-opus-4-8", 1, 5) };
        history.record(&entry(&bill(1, 1, guess), Wall(1)).unwrap());
        assert_eq!(estimate(&history, "adhoc", &[asked("marie", "opus", "t")]).unwrap().unknown_tasks, 1);
    }

    #[test]
    fn memory_is_bounded_and_the_newest_are_kept() {
        let mut history = History::default();
        for index in 0..MAX_KINDS as u64 + 100 {
            history.record(&attempt(&format!("w{index}/1"), "t", "claude-opus-4-8", index));
        }
        assert_eq!(history.kinds.len(), MAX_KINDS);
        let sum = estimate(&history, "adhoc", &[asked("marie", "opus", "t")]).unwrap();
        assert_eq!(sum.samples as usize, SAMPLES);
        assert!(sum.p50_micro_usd > MAX_KINDS as u64);
    }
}
