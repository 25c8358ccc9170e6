//! The book of budgets: standing ones with what was recorded of them, live sums of every budget, and every reservation.
//! Knows how sums follow from reservations; decides nothing. What was recorded of a run's budget is in the run.

use crate::budgets::{Amount, Budget, BudgetMode, Hold, Spent, period};
use crate::ids::{AttemptKey, RunId, TenantId};
use crate::time::{Tick, Wall};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A budget of either kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum AccountKey {
    /// That of a run.
    Run(RunId),
    /// A standing one.
    Standing(TenantId, Arc<str>),
}

/// Sums over the reservations that count against a budget.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Account {
    pub(crate) holds: BTreeSet<AttemptKey>,
    pub(crate) reserved: Amount,
    /// Of that: spent by now, of attempts whose bill is yet to come.
    pub(crate) spent: Amount,
    /// Those that were told more than their requests in flight need.
    pub(crate) unused: BTreeSet<AttemptKey>,
}

/// A standing budget.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Standing {
    pub(crate) budget: Budget,
    /// When the period began that the figures are of.
    pub(crate) period: Wall,
    pub(crate) recorded: Spent,
    pub(crate) estimated_micro_usd: u64,
    /// Percent of it that people were warned of.
    pub(crate) warned: u8,
    /// It is used up, and nothing under it starts.
    pub(crate) closed: bool,
}

/// What a run keeps of its budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Purse {
    /// Attempts granted. Beyond what a restore of the data skipped.
    pub(crate) granted: u64,
    /// It is used up: nothing of the run starts that costs.
    pub(crate) over: bool,
    /// Percent of it that people were warned of.
    pub(crate) warned: u8,
}

/// All of it.
#[derive(Debug, Default, Hash)]
pub(crate) struct Budgets {
    pub(crate) standing: BTreeMap<(TenantId, Arc<str>), Standing>,
    /// Of budgets that have reservations.
    pub(crate) accounts: BTreeMap<AccountKey, Account>,
    pub(crate) holds: BTreeMap<AttemptKey, Hold>,
    /// Who waits for room, in order.
    pub(crate) waiting: BTreeSet<(u64, AttemptKey)>,
    /// Attempts that ended without a bill, by when that is given up.
    pub(crate) ends: BTreeSet<(Tick, AttemptKey)>,
    /// The place that the next one gets.
    next_place: u64,
    /// Budgets that are to be looked at.
    pub(crate) touched: BTreeSet<AccountKey>,
    /// The latest moment seen on the wall: periods never go back.
    pub(crate) wall: Wall,
    /// When the first standing budget begins anew.
    pub(crate) next_roll: Option<Wall>,
    /// When its timer goes off.
    pub(crate) armed: Option<Tick>,
    /// Standing budgets that are closed.
    pub(crate) closed: usize,
    /// Something is held because no agent that fits keeps budgets.
    pub(crate) unkept: bool,
}

impl Budgets {
    /// Changes a reservation, or makes one, and brings the sums of its budgets up to date.
    pub(crate) fn change(&mut self, key: AttemptKey, change: impl FnOnce(&mut Hold)) {
        let mut hold = self.take(key).unwrap_or_default();
        change(&mut hold);
        self.put(key, hold);
    }

    fn put(&mut self, key: AttemptKey, hold: Hold) {
        for account in &hold.accounts {
            let sums = self.accounts.entry(account.clone()).or_default();
            sums.holds.insert(key);
            sums.reserved = sums.reserved.plus(hold.reserved());
            sums.spent = sums.spent.plus(hold.spent);
            if hold.has_unused() {
                sums.unused.insert(key);
            }
            self.touched.insert(account.clone());
        }
        if let Some(place) = hold.waits {
            self.waiting.insert((place, key));
        }
        if let Some(at) = hold.ended {
            self.ends.insert((at, key));
        }
        self.holds.insert(key, hold);
    }

    /// Takes a reservation out of every sum.
    pub(crate) fn take(&mut self, key: AttemptKey) -> Option<Hold> {
        let hold = self.holds.remove(&key)?;
        for account in &hold.accounts {
            self.touched.insert(account.clone());
            let Some(sums) = self.accounts.get_mut(account) else { continue };
            sums.holds.remove(&key);
            sums.unused.remove(&key);
            sums.reserved = sums.reserved.minus(hold.reserved());
            sums.spent = sums.spent.minus(hold.spent);
            if sums.holds.is_empty() {
                self.accounts.remove(account);
            }
        }
        if let Some(place) = hold.waits {
            self.waiting.remove(&(place, key));
        }
        if let Some(at) = hold.ended {
            self.ends.remove(&(at, key));
        }
        Some(hold)
    }

    /// A place behind everybody who waits.
    pub(crate) fn place(&mut self) -> u64 {
        self.next_place += 1;
        self.next_place
    }

    /// Sums of live reservations.
    pub(crate) fn sums(&self, key: &AccountKey) -> (Amount, Amount) {
        self.accounts.get(key).map_or((Amount::ZERO, Amount::ZERO), |sums| (sums.reserved, sums.spent))
    }

    /// Standing budgets of a tenant.
    pub(crate) fn of_tenant(&self, tenant: TenantId) -> impl Iterator<Item = (&Arc<str>, &Standing)> {
        let from = (tenant, Arc::from(""));
        let range = self.standing.range(from..).take_while(move |((owner, _), _)| *owner == tenant);
        range.map(|((_, name), standing)| (name, standing))
    }

    /// Whether a tenant has any. Nearly nobody has, so this comes first.
    pub(crate) fn has_any(&self, tenant: TenantId) -> bool {
        !self.standing.is_empty() && self.of_tenant(tenant).next().is_some()
    }

    /// Begins new periods. Returns the budgets that did.
    pub(crate) fn roll(&mut self, now: Wall) -> Vec<(TenantId, Arc<str>)> {
        self.wall = self.wall.max(now);
        if self.next_roll.is_none_or(|at| self.wall < at) {
            return Vec::new();
        }
        let mut begun = Vec::new();
        for (key, standing) in &mut self.standing {
            let over =
                period::next(standing.budget.period, standing.period).is_some_and(|at| at <= self.wall);
            if over {
                standing.period = period::beginning(standing.budget.period, self.wall);
                standing.recorded = Spent::default();
                standing.estimated_micro_usd = 0;
                standing.warned = 0;
                begun.push(key.clone());
                self.touched.insert(AccountKey::Standing(key.0, Arc::clone(&key.1)));
            }
        }
        self.note_roll();
        begun
    }

    /// Finds out when the first budget begins anew.
    pub(crate) fn note_roll(&mut self) {
        let ends = self.standing.values().map(|held| period::next(held.budget.period, held.period));
        self.next_roll = ends.flatten().min();
    }

    /// What is wrong with the sums, if anything.
    pub(crate) fn inconsistency(&self) -> Option<String> {
        let mut accounts: BTreeMap<AccountKey, Account> = BTreeMap::new();
        let (mut waiting, mut ends) = (BTreeSet::new(), BTreeSet::new());
        for (key, hold) in &self.holds {
            for account in &hold.accounts {
                let sums = accounts.entry(account.clone()).or_default();
                sums.holds.insert(*key);
                sums.reserved = sums.reserved.plus(hold.reserved());
                sums.spent = sums.spent.plus(hold.spent);
                if hold.has_unused() {
                    sums.unused.insert(*key);
                }
            }
            waiting.extend(hold.waits.map(|place| (place, *key)));
            ends.extend(hold.ended.map(|at| (at, *key)));
        }
        if accounts != self.accounts {
            return Some(format!("reservations come to {accounts:?}, kept {:?}", self.accounts));
        }
        if waiting != self.waiting || ends != self.ends {
            return Some("who waits for room and who is listed differ".to_owned());
        }
        let closed = self.standing.values().filter(|held| held.closed).count();
        (closed != self.closed).then(|| format!("{closed} budgets are closed, {} counted", self.closed))
    }
}

impl Standing {
    /// Whether nothing under it starts once it is used up.
    pub(crate) fn stops(&self) -> bool {
        self.budget.limit.mode != BudgetMode::Soft
    }
}
