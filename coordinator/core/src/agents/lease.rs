//! Who may run an attempt until when.
//! Knows one lease; who holds it and what follows from its end are elsewhere.

use crate::config::Config;
use crate::event::OnLoss;
use crate::ids::AttemptNo;
use crate::time::{Span, Tick};

/// The current grant of a task.
#[derive(Debug, Clone, Hash)]
pub(crate) struct Lease {
    pub(crate) attempt: AttemptNo,
    pub(crate) granted: Tick,
    /// When the agent took it over; unknown after a restart, then the grant counts.
    pub(crate) accepted: bool,
    /// From where the attempt's own time limit is counted.
    pub(crate) begun: Tick,
    /// When its agent listed it last.
    pub(crate) heard: Tick,
    /// Nothing is overdue before this: the grace after a start or a stall of the coordinator.
    pub(crate) floor: Tick,
    /// When it must be accepted by, while the agent is connected.
    pub(crate) accept_by: Tick,
    pub(crate) on_loss: OnLoss,
    pub(crate) timeout: Span,
    /// What the agent said it spent so far.
    pub(crate) cost_micro_usd: u64,
    /// It was asked back: the agent may say that it did not begin, although it had accepted.
    pub(crate) revoked: bool,
}

/// Why a lease is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Overdue {
    /// The agent is there and did not take it over.
    NotAccepted,
    /// The agent did not list it for too long.
    NotHeard,
    /// It ran far past its own limit, so whoever should have ended it does not work.
    PastLimit,
}

impl Lease {
    /// A lease granted now.
    pub(crate) fn granted(
        attempt: AttemptNo,
        now: Tick,
        on_loss: OnLoss,
        timeout: Span,
        config: &Config,
    ) -> Self {
        Self {
            attempt,
            granted: now,
            accepted: false,
            begun: now,
            heard: now,
            floor: Tick(0),
            accept_by: now + config.accept_within,
            on_loss,
            timeout,
            cost_micro_usd: 0,
            revoked: false,
        }
    }

    /// The agent listed it, or said otherwise that it holds it.
    pub(crate) fn renew(&mut self, now: Tick) {
        self.heard = now;
        self.floor = Tick(0);
    }

    /// Nobody could be heard for `away` before now: whatever is due comes that much later, and a grace after that.
    pub(crate) fn outlast(
        &mut self,
        away: Span,
        now: Tick,
        connected: bool,
        agent_heard: Tick,
        config: &Config,
    ) {
        self.heard = now.min(self.heard + away);
        self.accept_by = self.accept_by + away;
        let (due, _) = self.deadline(connected, agent_heard, config);
        self.floor = now.max(due) + config.stall_grace;
    }

    /// When it is over unless it is heard of, and why then.
    ///
    /// Before it is accepted nobody lists it, so anything its agent says keeps it alive while that is away. One that is
    /// connected must accept. What waits is given up for that only after as long as for silence: the assignment may be on
    /// its way, or its child may run already; but by then the agent, which hears us or would have come anew, has told many
    /// times what it holds.
    pub(crate) fn deadline(&self, connected: bool, agent_heard: Tick, config: &Config) -> (Tick, Overdue) {
        if !self.accepted && connected {
            let due = match self.on_loss {
                OnLoss::Fast => self.accept_by,
                OnLoss::Wait => self.accept_by.max(self.heard + config.lost_after),
            };
            return (due.max(self.floor), Overdue::NotAccepted);
        }
        let heard = if self.accepted { self.heard } else { self.heard.max(agent_heard) };
        let limit = match self.on_loss {
            OnLoss::Fast => config.requeue_fast,
            OnLoss::Wait => config.lost_after,
        };
        let unheard = ((heard + limit).max(self.floor), Overdue::NotHeard);
        let past = ((self.begun + self.timeout + config.timeout_margin).max(self.floor), Overdue::PastLimit);
        if past < unheard { past } else { unheard }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::OutcomeRules;

    const START: Tick = Tick(1_000_000);

    fn config() -> Config {
        Config::new(OutcomeRules::default())
    }

    fn accepted(on_loss: OnLoss) -> Lease {
        let mut lease = Lease::granted(AttemptNo(1), START, on_loss, Span::hours(1), &config());
        lease.accepted = true;
        lease
    }

    #[test]
    fn fast_is_requeued_25_seconds_after_it_was_listed_and_wait_after_10_minutes() {
        let due = |on_loss| accepted(on_loss).deadline(true, START + Span::seconds(20), &config());
        assert_eq!(due(OnLoss::Fast), (START + Span::seconds(25), Overdue::NotHeard));
        assert_eq!(due(OnLoss::Wait), (START + Span::minutes(10), Overdue::NotHeard));
    }

    #[test]
    fn a_connected_agent_must_accept_and_an_absent_one_gets_the_time_of_its_loss() {
        let lease = Lease::granted(AttemptNo(1), START, OnLoss::Fast, Span::hours(1), &config());
        let heard = START + Span::seconds(7);
        assert_eq!(lease.deadline(true, heard, &config()), (START + Span::seconds(30), Overdue::NotAccepted));
        assert_eq!(lease.deadline(false, heard, &config()), (START + Span::seconds(32), Overdue::NotHeard));
    }

    /// Found by simulation: the assignment of the first attempt was still on its way when the second one began.
    #[test]
    fn work_that_waits_is_not_given_up_for_a_slow_acceptance() {
        let lease = Lease::granted(AttemptNo(1), START, OnLoss::Wait, Span::hours(1), &config());
        let heard = START + Span::seconds(40);
        let never_accepted = (START + Span::minutes(10), Overdue::NotAccepted);
        assert_eq!(lease.deadline(true, heard, &config()), never_accepted, "whatever else its agent says");
        assert_eq!(lease.deadline(false, heard, &config()), (heard + Span::minutes(10), Overdue::NotHeard));
    }

    #[test]
    fn the_grace_after_a_start_holds_until_it_is_listed() {
        let mut lease = accepted(OnLoss::Fast);
        lease.floor = START + Span::seconds(120);
        assert_eq!(lease.deadline(false, START, &config()).0, START + Span::seconds(120));
        lease.renew(START + Span::seconds(10));
        assert_eq!(lease.deadline(true, START, &config()).0, START + Span::seconds(35));
    }

    #[test]
    fn a_stall_puts_every_deadline_off_by_its_length_and_a_grace_until_it_is_listed() {
        let (config, away) = (config(), Span::minutes(5));
        let now = START + Span::seconds(5) + away;
        let mut lease = accepted(OnLoss::Fast);
        lease.outlast(away, now, true, now, &config);
        let due = |lease: &Lease, connected| lease.deadline(connected, now, &config);
        assert_eq!(due(&lease, true), (START + away + Span::seconds(40), Overdue::NotHeard));
        lease.renew(now);
        assert_eq!(due(&lease, true).0, now + Span::seconds(25));

        let mut granted = Lease::granted(AttemptNo(1), START, OnLoss::Fast, Span::hours(1), &config);
        granted.outlast(away, now, true, now, &config);
        assert_eq!(due(&granted, true), (START + away + Span::seconds(45), Overdue::NotAccepted));

        let mut overdue = accepted(OnLoss::Fast);
        overdue.outlast(Span::minutes(2), now, false, START, &config);
        assert_eq!(due(&overdue, false).0, now + Span::seconds(15), "nothing is over at once");
    }

    #[test]
    fn an_attempt_far_past_its_limit_is_over_although_it_is_listed() {
        let mut lease = accepted(OnLoss::Fast);
        lease.renew(START + Span::minutes(69) + Span::seconds(50));
        assert_eq!(lease.deadline(true, START, &config()), (START + Span::minutes(70), Overdue::PastLimit));
    }
}
