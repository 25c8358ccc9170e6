//! What attempts may spend: told at the grant, asked for, given in fair order, taken back where others need it.
//!
//! Whatever is told is durable first: the promise is in the task's record of the same batch. A promise falls only once the
//! agent says that it acts by the lower word, so that nothing is given to two.

use super::rules::{Terms, holder_of, terms};
use crate::budgets::admit::{Side, Verdict, judge};
use crate::budgets::{AccountKey, Allowance, Amount, Hold, Spending};
use crate::effect::{Action, Effects, Write};
use crate::ids::{AgentKey, AttemptKey, SessionId};
use crate::machine::attempts::holder;
use crate::state::State;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The most that is given beyond what is asked for: some requests of a large model, so that an attempt need not ask
/// before each.
const AHEAD: Amount = Amount::new(2_000_000, 1_000_000);
/// The part of what is left that one of so many attempts is given ahead at most: 1 in 8.
const SHARE: u64 = 8;
/// No figure of an agent is believed above this: a billion dollars.
const MOST: u64 = 1_000_000_000_000_000;

/// A word to an agent.
struct Word {
    amount: Amount,
    /// What the one request may come to that is let go beyond that; zero for none.
    last: Amount,
    spent: bool,
    detail: Arc<str>,
}

/// An agent says what an attempt spends.
pub(in crate::machine) fn reported(
    state: &mut State,
    effects: &mut Effects,
    session: SessionId,
    spending: Spending,
) {
    let Some(agent) = state.agents.on_session(session) else { return };
    crate::machine::leases::heard(state, effects, agent);
    let key = spending.attempt;
    if holder(state, session, key).is_none() {
        return;
    }
    let amount = |spent: crate::budgets::Spent| Amount::from(spent).min(Amount::new(MOST, MOST));
    let (spent, bound, wanted) = (amount(spending.spent), amount(spending.bound), amount(spending.wanted));
    note_cost(state, effects, agent, key, spent.micro_usd);
    let Some(promised) = state.budgets.holds.get(&key).map(|hold| hold.promised) else {
        if !wanted.is_zero() {
            // Nothing limits it any more.
            let seq = first_seq(state).max(spending.seen.saturating_add(1));
            let allowance = Box::new(Allowance { seq, ..Allowance::default() });
            effects.actions.push(Action::Allowance { session, attempt: key, allowance });
        }
        return;
    };
    let place = state.budgets.place();
    let mut again = None;
    state.budgets.change(key, |hold| {
        hold.spent = hold.spent.max(spent);
        hold.bound = bound.max(hold.spent);
        hold.in_flight = spending.in_flight;
        hold.seen = spending.seen;
        let unseen = hold.seen < hold.told.seq;
        if !unseen {
            hold.settle_promise();
        }
        // Whatever is in flight is found again after a restart.
        hold.promised = hold.promised.max(hold.limited(hold.bound));
        let over = hold.limited(wanted).minus(hold.bound);
        let told = hold.limited(wanted).minus(hold.told_amount()).is_zero();
        // One that was let go beyond what there is was let go for so much.
        let let_go = hold.told.one_more && hold.limited(wanted).minus(hold.last).is_zero();
        let answered = unseen && (told || let_go || hold.told.spent);
        let asks = !over.is_zero() && !answered;
        hold.wanted = if asks { wanted } else { Amount::ZERO };
        hold.waits = asks.then(|| hold.waits.unwrap_or(place));
        if unseen {
            again = Some(hold.told.clone());
        }
    });
    // The word may be on its way; or it was lost with another stream, or came before the attempt had begun and there was
    // nobody to hear it. One that comes twice does no harm.
    if let Some(told) = again {
        effects.actions.push(Action::Allowance { session, attempt: key, allowance: Box::new(told) });
    }
    note_promise(state, effects, key, promised);
}

/// What an agent says that an attempt has spent, in whatever words.
pub(in crate::machine) fn note_cost(
    state: &mut State,
    effects: &mut Effects,
    agent: AgentKey,
    key: AttemptKey,
    micro_usd: u64,
) {
    if let Some(lease) = state.agents.get_mut(agent).leases.get_mut(&key.task) {
        lease.cost_micro_usd = lease.cost_micro_usd.max(micro_usd);
    }
    let known = state.budgets.holds.get(&key);
    let known = known.filter(|hold| hold.spent.micro_usd < micro_usd.min(MOST));
    if let Some(promised) = known.map(|hold| hold.promised) {
        state.budgets.change(key, |hold| {
            hold.spent.micro_usd = micro_usd.min(MOST);
            hold.bound = hold.bound.max(hold.spent);
            hold.promised = hold.promised.max(hold.limited(hold.spent));
        });
        note_promise(state, effects, key, promised);
    }
}

/// The first number of a word by this coordinator: above all of those before it, so that nobody who acts by one of theirs
/// is taken to act by one of ours. No attempt is told anything 2^40 times.
pub(super) const fn first_seq(state: &State) -> u64 {
    state.epoch.0 << 40
}

/// Makes a promise durable that is another than it was.
pub(super) fn note_promise(state: &State, effects: &mut Effects, key: AttemptKey, before: Amount) {
    if state.budgets.holds.get(&key).is_some_and(|hold| hold.promised != before) {
        effects.writes.push(Write::Task { task: key.task, payload: None });
    }
}

/// A budget that stops, without the reservation of one attempt.
fn side(state: &State, account: &AccountKey, own: &Hold, terms: &Terms) -> Side {
    let (reserved, spent) = state.budgets.sums(account);
    Side {
        limit: terms.limit,
        recorded: terms.recorded.into(),
        reserved: reserved.minus(own.reserved()),
        spent: spent.minus(own.spent),
    }
}

/// The budgets that stop an attempt, each without it.
fn sides(state: &State, hold: &Hold) -> Vec<(AccountKey, Side)> {
    let mut sides = Vec::with_capacity(hold.accounts.len());
    for account in &hold.accounts {
        if let Some(terms) = terms(state, account).filter(Terms::is_hard) {
            sides.push((account.clone(), side(state, account, hold, &terms)));
        }
    }
    sides
}

/// What may be given beyond `wanted`.
fn ahead(state: &State, sides: &[(AccountKey, Side)], wanted: Amount) -> Amount {
    sides.iter().fold(AHEAD, |least, (account, side)| {
        let live = state.budgets.accounts.get(account).map_or(1, |sums| sums.holds.len().max(1));
        let parts = SHARE.saturating_mul(live as u64);
        let room = side.room().minus(wanted);
        least.min(Amount::new(room.micro_usd / parts, room.tokens / parts))
    })
}

/// Reserves for an attempt that is being granted what it may spend from the start.
pub(super) fn begin(state: &mut State, attempt: AttemptKey, hold: Hold) {
    let seq = first_seq(state);
    let accounts = hold.accounts.clone();
    let (by_money, by_tokens) = (hold.by_money, hold.by_tokens);
    state.budgets.change(attempt, |fresh| *fresh = hold);
    let held = state.budgets.holds.get(&attempt).cloned().unwrap_or_default();
    let sides = sides(state, &held);
    let crowded = accounts.iter().any(|account| {
        let holds = state.budgets.accounts.get(account).map(|sums| &sums.holds);
        let waits = |key: &AttemptKey| state.budgets.holds.get(key).is_some_and(|hold| hold.waits.is_some());
        !state.budgets.waiting.is_empty() && holds.is_some_and(|holds| holds.iter().any(waits))
    });
    let first = if crowded { Amount::ZERO } else { ahead(state, &sides, Amount::ZERO) };
    state.budgets.change(attempt, |hold| {
        hold.told = Allowance {
            micro_usd: by_money.then_some(first.micro_usd),
            tokens: by_tokens.then_some(first.tokens),
            seq,
            ..Allowance::default()
        };
        hold.promised = hold.limited(first);
    });
}

/// Gives room to those who wait for it, first come first served; where it does not reach, takes back what others do not
/// use.
pub(super) fn serve(state: &mut State, effects: &mut Effects) {
    let order: Vec<AttemptKey> = state.budgets.waiting.iter().map(|(_, key)| *key).collect();
    let mut blocked: BTreeSet<AccountKey> = BTreeSet::new();
    for key in order {
        let Some(hold) = state.budgets.holds.get(&key).cloned() else { continue };
        // Whoever is away asks again when it is back, and holds up nobody until then.
        let session = holder_of(state, key).and_then(|agent| state.agents.get(agent).session());
        if session.is_none() || hold.accounts.iter().any(|account| blocked.contains(account)) {
            continue;
        }
        let sides = sides(state, &hold);
        let plain: Vec<Side> = sides.iter().map(|(_, side)| *side).collect();
        match judge(&plain, hold.limited(hold.bound), hold.limited(hold.wanted), hold.is_idle()) {
            Verdict::Fits => {
                let alone = state.budgets.waiting.len() == 1;
                let more = if alone { ahead(state, &sides, hold.wanted) } else { Amount::ZERO };
                let detail = Arc::clone(&state.empty);
                let amount = hold.wanted.plus(more);
                tell(state, effects, key, Word { amount, last: Amount::ZERO, spent: false, detail });
            }
            Verdict::Last(room) => {
                let detail = Arc::clone(&state.empty);
                let word = Word { amount: room, last: hold.limited(hold.wanted), spent: false, detail };
                tell(state, effects, key, word);
            }
            Verdict::Waits => {
                for (account, _) in sides {
                    take_back(state, effects, &account, key);
                    blocked.insert(account);
                }
            }
        }
    }
}

/// Asks back what the attempts of a budget were told and do not use, for one that waits.
fn take_back(state: &mut State, effects: &mut Effects, account: &AccountKey, waits: AttemptKey) {
    let unused = state.budgets.accounts.get(account).map(|sums| &sums.unused);
    let unused: Vec<AttemptKey> = unused.into_iter().flatten().copied().filter(|key| *key != waits).collect();
    for key in unused {
        // Who was just given all that is left is not asked for it before it can have used it.
        let may_give = |hold: &&Hold| !hold.told.one_more || hold.seen >= hold.told.seq;
        let Some(bound) = state.budgets.holds.get(&key).filter(may_give).map(|hold| hold.bound) else {
            continue;
        };
        let detail = Arc::clone(&state.empty);
        tell_only(state, effects, key, Word { amount: bound, last: Amount::ZERO, spent: false, detail });
    }
}

/// Tells every attempt under a budget that nothing more will be given.
pub(super) fn end_all(state: &mut State, effects: &mut Effects, account: &AccountKey, detail: &Arc<str>) {
    let holds = state.budgets.accounts.get(account).map(|sums| &sums.holds);
    let holds: Vec<AttemptKey> = holds.into_iter().flatten().copied().collect();
    for key in holds {
        let Some(hold) = state.budgets.holds.get(&key) else { continue };
        if hold.ended.is_some() || hold.told.spent {
            continue;
        }
        let amount = hold.bound;
        tell(
            state,
            effects,
            key,
            Word { amount, last: Amount::ZERO, spent: true, detail: Arc::clone(detail) },
        );
    }
}

/// Tells an attempt what answers its question.
fn tell(state: &mut State, effects: &mut Effects, key: AttemptKey, word: Word) {
    state.budgets.change(key, |hold| {
        hold.waits = None;
        hold.wanted = Amount::ZERO;
    });
    tell_only(state, effects, key, word);
}

/// Tells an attempt what it may spend from now on.
fn tell_only(state: &mut State, effects: &mut Effects, key: AttemptKey, word: Word) {
    let Some(before) = state.budgets.holds.get(&key).map(|hold| hold.promised) else { return };
    let session = holder_of(state, key).and_then(|agent| state.agents.get(agent).session());
    let first = first_seq(state);
    let Word { amount, last, spent, detail } = word;
    let mut told = Allowance::default();
    state.budgets.change(key, |hold| {
        told = Allowance {
            micro_usd: hold.by_money.then_some(amount.micro_usd),
            tokens: hold.by_tokens.then_some(amount.tokens),
            one_more: !last.is_zero(),
            spent,
            detail,
            seq: first.max(hold.told.seq.saturating_add(1)).max(hold.seen.saturating_add(1)),
        };
        hold.told = told.clone();
        hold.last = last;
        // What was promised before holds until the agent acts by this.
        hold.promised = hold.promised.max(hold.limited(amount.max(last)));
    });
    note_promise(state, effects, key, before);
    if let Some(session) = session {
        effects.actions.push(Action::Allowance { session, attempt: key, allowance: Box::new(told) });
    }
}

/// After budgets were set or removed: the attempts of a tenant count against those there are now, and are told so.
pub(super) fn refit(state: &mut State, effects: &mut Effects, key: AttemptKey, fresh: Option<Hold>) {
    let before = state.budgets.take(key);
    match (before, fresh) {
        (None, None) => {}
        (Some(before), None) => {
            let session = holder_of(state, key).and_then(|agent| state.agents.get(agent).session());
            if let Some(session) = session {
                let allowance = Box::new(Allowance {
                    seq: first_seq(state).max(before.told.seq.saturating_add(1)),
                    ..Allowance::default()
                });
                effects.actions.push(Action::Allowance { session, attempt: key, allowance });
            }
            effects.writes.push(Write::Task { task: key.task, payload: None });
        }
        (before, Some(fresh)) => {
            let limited = fresh.is_limited();
            let mut hold = before.unwrap_or_else(|| fresh.clone());
            let changed = (hold.by_money, hold.by_tokens) != (fresh.by_money, fresh.by_tokens);
            hold.accounts = fresh.accounts;
            hold.pool = fresh.pool;
            (hold.by_money, hold.by_tokens) = (fresh.by_money, fresh.by_tokens);
            let (bound, seq) = (hold.bound, hold.told.seq);
            state.budgets.change(key, |slot| *slot = hold);
            if limited && (changed || seq == 0) {
                let detail = Arc::clone(&state.empty);
                tell_only(
                    state,
                    effects,
                    key,
                    Word { amount: bound, last: Amount::ZERO, spent: false, detail },
                );
            }
        }
    }
}
