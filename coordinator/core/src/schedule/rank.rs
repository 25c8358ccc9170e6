//! Which of several agents gets a task: a total order.
//!
//! 1. The agent that keeps the task's conversation, while it has room (decided in [`crate::schedule`]).
//! 2. An agent on which no attempt of the task crashed (likewise).
//! 3. An agent with a free slot before one that would only hold the task ahead (`prefetch`), and fewer ahead first.
//! 4. The lowest share of used slots.
//! 5. The lowest load.
//! 6. The name, then the key: so that nothing is left to chance.

use crate::agents::Agent;
use crate::ids::AgentKey;
use std::sync::Arc;

/// An agent's place among those it is interchangeable with. Smaller is better; the order of the fields is the rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Rank {
    /// 0 with a free slot; else how many one more task would be above the slots.
    pub(crate) excess: u32,
    /// Used slots in millionths.
    share: u64,
    load_millis: u32,
    name: Arc<str>,
    pub(crate) agent: AgentKey,
}

impl Rank {
    /// The rank of an agent that takes work; `None` when it does not.
    pub(crate) fn of(key: AgentKey, agent: &Agent) -> Option<Self> {
        if !agent.takes_work() {
            return None;
        }
        let used = agent.used();
        Some(Self {
            excess: used.saturating_add(1).saturating_sub(agent.slots),
            share: u64::from(used) * 1_000_000 / u64::from(agent.slots.max(1)),
            load_millis: agent.load_millis,
            name: Arc::clone(&agent.name),
            agent: key,
        })
    }

    /// Whether it has room for a task of which `prefetch` may be held ahead.
    pub(crate) fn has_room(&self, prefetch: u32) -> bool {
        self.excess <= prefetch
    }

    /// Whether it has more room than `before`, so that waiting tasks should be looked at.
    pub(crate) fn gained(&self, before: Option<&Self>) -> bool {
        before.is_none_or(|before| (self.excess, self.share) < (before.excess, before.share))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agents::{Lease, Link};
    use crate::config::Config;
    use crate::event::OnLoss;
    use crate::ids::{AttemptNo, RunId, SessionId, TaskIndex, TaskKey, TenantId};
    use crate::outcome::OutcomeRules;
    use crate::time::{Span, Tick};

    fn agent(name: &str, slots: u32, used: u32, load_millis: u32) -> Agent {
        let mut agent = Agent::new(TenantId(1), name.into());
        agent.link = Link::Heard(SessionId(1));
        agent.slots = slots;
        agent.load_millis = load_millis;
        let config = Config::new(OutcomeRules::default());
        for index in 0..used {
            let task = TaskKey { run: RunId(1), index: TaskIndex(index) };
            let lease = Lease::granted(AttemptNo(1), Tick(0), OnLoss::Fast, Span::hours(1), &config);
            agent.leases.insert(task, lease);
        }
        agent
    }

    /// Names in the order in which they would be chosen.
    fn order(agents: &[Agent]) -> String {
        let mut ranks: Vec<Rank> =
            (0u32..).zip(agents).filter_map(|(key, agent)| Rank::of(AgentKey(key), agent)).collect();
        ranks.sort();
        ranks.iter().map(|rank| &*rank.name).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_lowest_share_of_used_slots_wins_whatever_the_number_of_slots() {
        assert_eq!(order(&[agent("small", 2, 1, 0), agent("large", 10, 4, 9_000)]), "large small");
    }

    #[test]
    fn equal_shares_are_decided_by_load_and_equal_loads_by_name() {
        assert_eq!(order(&[agent("b", 2, 1, 7), agent("a", 4, 2, 8), agent("c", 2, 1, 7)]), "b c a");
    }

    #[test]
    fn a_free_slot_wins_over_holding_ahead_and_fewer_ahead_over_more() {
        let agents = [agent("two", 1, 2, 0), agent("one", 2, 2, 9), agent("free", 100, 99, 9_999)];
        assert_eq!(order(&agents), "free one two");
    }

    #[test]
    fn room_ends_at_the_slots_unless_tasks_may_be_held_ahead() {
        let full = Rank::of(AgentKey(0), &agent("a", 2, 2, 0)).expect("takes work");
        assert!(!full.has_room(0) && full.has_room(1));
        let ahead = Rank::of(AgentKey(0), &agent("a", 2, 4, 0)).expect("takes work");
        assert!(!ahead.has_room(2) && ahead.has_room(3));
    }

    #[test]
    fn who_is_away_silent_draining_or_without_slots_has_no_rank() {
        let mut away = agent("a", 2, 0, 0);
        away.link = Link::Away;
        let mut silent = agent("b", 2, 0, 0);
        silent.link = Link::Silent(SessionId(1));
        let mut draining = agent("c", 2, 0, 0);
        draining.draining = true;
        assert_eq!(order(&[away, silent, draining, agent("d", 0, 0, 0)]), "");
    }
}
