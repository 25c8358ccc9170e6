//! What the coordinator says, carried out. Refuses what a lower epoch says and what another cluster wants.

use super::{Daemon, FIRST_STOP_AFTER, heartbeat_every};
use crate::daemon::left::accept_record;
use crate::daemon::phase::{Leave, Ways};
use crate::daemon::status::Connection;
use crate::daemon::table::Taken;
use crate::runner::AttemptKey;
use crate::session::convert::{self, Assigned, AssignedWork, attempt_key};
use crate::supervisor::stop::StopCause;
use orch_proto::v1::{self, agent_item::Item as Say, coordinator_item::Item};
use std::time::Duration;

/// Assignments beyond the slots that may wait here: far more than any prefetch.
const MAX_HELD: usize = 16_384;
/// Agents come back within this when they are sent away without being told how to spread.
const DEFAULT_SPREAD: Duration = Duration::from_secs(1);

impl Daemon {
    /// Carries out what a frame says, in order, up to whatever ends the session. `ways` are those of the session, to
    /// be used from Welcome on.
    pub(super) fn take_frame(
        &mut self,
        ways: Option<Ways>,
        frame: v1::CoordinatorMessage,
    ) -> Result<(), Leave> {
        let mut ways = ways;
        for item in frame.items {
            // An item this version does not know is a newer coordinator's; it is passed over.
            let Some(item) = item.item else { continue };
            self.take(&mut ways, item)?;
        }
        Ok(())
    }

    fn take(&mut self, ways: &mut Option<Ways>, item: Item) -> Result<(), Leave> {
        let greeted = self.outbound.is_some();
        match item {
            Item::GoAway(bye) => {
                let spread = bye.spread.as_ref().and_then(convert::duration).unwrap_or(DEFAULT_SPREAD);
                return Err(Leave::SentAway { why: bye.reason, spread });
            }
            Item::Welcome(welcome) if !greeted => self.welcome(ways.take(), welcome)?,
            Item::HeartbeatAck(ack) if greeted => self.heartbeat_ack(&ack),
            Item::Assign(assignment) if greeted => self.assign(assignment),
            Item::Stop(stop) if greeted => self.stop_asked(&stop),
            Item::ReportVerdict(verdict) if greeted => self.report_verdict(&verdict),
            Item::LimitGrant(grant) if greeted => self.limits.grant(&grant),
            Item::PoolNotice(notice) if greeted => self.limits.notice(&notice),
            Item::Allowance(allowance) if greeted => {
                if let Some(key) = attempt_key(allowance.attempt.as_ref()) {
                    self.limits.allow(key, convert::allowance(allowance));
                }
            }
            Item::Welcome(_) => return Err(Leave::Lost("the coordinator said Welcome twice".to_owned())),
            Item::HeartbeatAck(_)
            | Item::Assign(_)
            | Item::Stop(_)
            | Item::ReportVerdict(_)
            | Item::LimitGrant(_)
            | Item::PoolNotice(_)
            | Item::Allowance(_) => {
                return Err(Leave::Lost("the coordinator did not begin with Welcome".to_owned()));
            }
        }
        Ok(())
    }

    fn welcome(&mut self, ways: Option<Ways>, welcome: v1::Welcome) -> Result<(), Leave> {
        let terms = &self.terms;
        let same_cluster = welcome.cluster_id == terms.cluster;
        if same_cluster && welcome.epoch < terms.epoch {
            tracing::error!(
                epoch = welcome.epoch,
                seen = terms.epoch,
                "a coordinator of the past is not obeyed"
            );
            return Err(Leave::Lost("a coordinator of the past answered".to_owned()));
        }
        if !same_cluster && !terms.cluster.is_empty() {
            self.leave_cluster();
        }
        self.sent_away = false;
        self.table.note_coordinator(welcome.epoch, welcome.cluster_id.clone());
        self.terms.epoch = welcome.epoch;
        self.terms.protocol = welcome.protocol;
        self.terms.cluster = welcome.cluster_id;
        self.terms.stop_after =
            welcome.stop_after.as_ref().and_then(convert::duration).unwrap_or(FIRST_STOP_AFTER);
        if let Some(period) = welcome.heartbeat_interval.as_ref().and_then(convert::duration) {
            self.heartbeat = heartbeat_every(period);
        }
        self.limits.session_up(welcome.protocol, welcome.prices, &welcome.pools);
        if let Some(Ways { outbound, bulk }) = ways {
            self.outbound = Some(outbound);
            self.outbox.session_up(bulk);
        }
        for verdict in &welcome.verdicts {
            self.verdict(verdict);
        }
        // Before any report: what an agent that leaves reports as lost counts as no crash.
        if self.stopping.is_some() {
            self.outbox.push(Say::Draining(v1::Draining {}));
        }
        // All of them, also those that are no longer this agent's: each is answered, and only then forgotten.
        for key in self.table.finished_keys() {
            self.outbox.report(key, &self.table);
        }
        tracing::info!(epoch = welcome.epoch, protocol = welcome.protocol, "connected");
        self.announce(Connection::Connected);
        Ok(())
    }

    /// What was held is another cluster's. Its attempts have the same numbers as those of this one.
    fn leave_cluster(&mut self) {
        tracing::warn!("another cluster answers: what was held for the former one is dropped");
        self.table.drop_all();
        self.outbox.drop_transcripts();
        self.forget_former_cluster();
    }

    /// What becomes of an attempt of the inventory. Its report is sent in any case.
    fn verdict(&mut self, verdict: &v1::InventoryVerdict) {
        let Some(key) = attempt_key(verdict.attempt.as_ref()) else { return };
        match verdict.verdict() {
            v1::Verdict::Cancel => {
                self.table.stop(key, StopCause::Fenced);
            }
            // The coordinator counts from this Hello as from any heartbeat, and another cut may follow before the first.
            v1::Verdict::Keep => self.table.renew_one(key, self.hello_at, self.terms.stop_after),
            v1::Verdict::SendReport | v1::Verdict::Unspecified => {}
        }
    }

    fn heartbeat_ack(&mut self, ack: &v1::HeartbeatAck) {
        // The one that is answered, or the last before it that is remembered.
        let sent = self.heartbeats.iter().rev().find(|(seq, _)| *seq <= ack.seq).map(|(_, sent)| *sent);
        if let Some(sent) = sent {
            self.heartbeats.retain(|(seq, _)| *seq > ack.seq);
            self.table.renew(sent, self.terms.stop_after);
        }
        for key in ack.unknown.iter().filter_map(|id| attempt_key(Some(id))) {
            self.stop_attempt(key, StopCause::Fenced);
        }
    }

    fn assign(&mut self, assignment: v1::Assignment) {
        let attempt = assignment.attempt;
        let record = accept_record(&assignment);
        let assigned = match convert::assigned(assignment) {
            Ok(assigned) => assigned,
            Err(error) => {
                tracing::error!(%error, "an assignment makes no sense");
                return self.reject(attempt, error.to_string());
            }
        };
        // Assignments come by the thousand; a span is made where something is said.
        let key = assigned.key;
        if assigned.epoch < self.terms.epoch {
            let epoch = assigned.epoch;
            key.span()
                .in_scope(|| tracing::warn!(epoch, "an assignment of a former coordinator is not taken"));
            return;
        }
        if let Err(why) = self.may_take(&assigned) {
            key.span().in_scope(|| tracing::warn!(why, "an assignment is not taken"));
            return self.reject(attempt, why);
        }
        if !matches!(assigned.work, AssignedWork::Noop) {
            key.span().in_scope(|| tracing::info!(reference = assigned.reference, "attempt assigned"));
        }
        match self.table.accept(assigned, record) {
            Taken::Accepted => self.accept(key),
            Taken::Ended => self.outbox.report(key, &self.table),
            Taken::AcceptedAndEnded => {
                self.accept(key);
                self.outbox.report(key, &self.table);
            }
        }
    }

    /// Whether an assignment can be taken now. One that is held already is answered, whatever has changed since.
    fn may_take(&self, assigned: &Assigned) -> Result<(), String> {
        if self.table.is_clearing() {
            return Err("the agent is still ending what another cluster gave it".to_owned());
        }
        if self.table.holds(assigned.key) {
            return Ok(());
        }
        if self.stopping.is_some() {
            return Err("the agent is stopping".to_owned());
        }
        if self.table.len() >= MAX_HELD {
            return Err("the agent holds too many attempts".to_owned());
        }
        self.runners.can_run(assigned)
    }

    fn accept(&mut self, key: AttemptKey) {
        self.outbox.push(Say::Accepted(v1::Accepted { attempt: Some(convert::attempt_id(key)) }));
    }

    pub(super) fn reject(&mut self, attempt: Option<v1::AttemptId>, reason: String) {
        self.outbox.push(Say::Rejected(v1::Rejected { attempt, reason }));
    }

    fn stop_asked(&mut self, stop: &v1::StopAttempt) {
        let Some(key) = attempt_key(stop.attempt.as_ref()) else { return };
        let cause = match stop.reason() {
            v1::StopReason::Fenced => StopCause::Fenced,
            v1::StopReason::Revoked => return self.revoke(key),
            v1::StopReason::Cancelled | v1::StopReason::Unspecified => StopCause::Cancelled,
        };
        let _span = key.span().entered();
        tracing::info!(?cause, "attempt stopped by the coordinator");
        self.stop_attempt(key, cause);
    }

    /// Gives an attempt back whose child was not started; any other goes on.
    fn revoke(&mut self, key: AttemptKey) {
        if self.table.give_back(key) {
            key.span().in_scope(|| tracing::info!("attempt revoked before it began"));
            self.reject(Some(convert::attempt_id(key)), "revoked".to_owned());
        }
    }

    /// Stops an attempt. One that had not started has ended by that; one that runs reports when it has ended.
    pub(super) fn stop_attempt(&mut self, key: AttemptKey, cause: StopCause) {
        if self.table.stop(key, cause) {
            self.outbox.report(key, &self.table);
        }
    }

    fn report_verdict(&mut self, verdict: &v1::ReportVerdict) {
        let Some(key) = attempt_key(verdict.attempt.as_ref()) else { return };
        match verdict.result() {
            v1::ReportResult::Recorded => {}
            v1::ReportResult::Fenced => key.span().in_scope(|| {
                tracing::info!("the report was fenced: the attempt was no longer this agent's");
            }),
            v1::ReportResult::Conflict => key.span().in_scope(|| {
                tracing::error!("the coordinator has another report of this attempt; it keeps that one");
            }),
            // Not an answer: the report stays.
            v1::ReportResult::Unspecified => return,
        }
        self.table.answered(key);
        self.outbox.answered(key, &self.table);
    }
}
