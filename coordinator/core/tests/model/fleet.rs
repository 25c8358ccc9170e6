//! Agents as the coordinator meets them: they take what they are given, keep what they have to report, and obey.

use orch_core::effect::{Action, ReportResult, StopReason, Verdict};
use orch_core::event::{HeldState, InventoryItem};
use orch_core::ids::{AttemptKey, SessionId};
use orch_core::outcome::Outcome;
use std::collections::{BTreeMap, BTreeSet};

/// How far an agent is with an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Offered,
    Running,
    /// Ended with this outcome; its report was not answered.
    Finished(Outcome),
}

/// An agent process.
#[derive(Debug, Clone)]
pub struct Agent {
    pub name: String,
    pub incarnation: u8,
    pub slots: u32,
    pub capabilities: String,
    pub session: Option<SessionId>,
    pub held: BTreeMap<AttemptKey, Stage>,
    /// Accepted, not begun, and asked back.
    pub revoked: BTreeSet<AttemptKey>,
}

impl Agent {
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            incarnation: 1,
            slots: 1,
            capabilities: String::new(),
            session: None,
            held: BTreeMap::new(),
            revoked: BTreeSet::new(),
        }
    }

    /// Attempts in a stage, in order.
    pub fn in_stage(&self, wanted: impl Fn(Stage) -> bool) -> Vec<AttemptKey> {
        self.held.iter().filter(|(_, stage)| wanted(**stage)).map(|(key, _)| *key).collect()
    }

    pub fn inventory(&self) -> Vec<InventoryItem> {
        let state = |stage: Stage| match stage {
            Stage::Offered => None,
            Stage::Running => Some(HeldState::Running),
            Stage::Finished(_) => Some(HeldState::Finished),
        };
        self.held
            .iter()
            .filter_map(|(attempt, stage)| Some(InventoryItem { attempt: *attempt, state: state(*stage)? }))
            .collect()
    }

    /// A process that starts again has lost what was only offered, and what ran.
    pub fn restart(&mut self) {
        self.incarnation = self.incarnation.wrapping_add(1);
        self.held.retain(|_, stage| matches!(stage, Stage::Finished(_)));
    }

    /// Obeys.
    pub fn receive(&mut self, action: &Action) {
        match action {
            Action::Grant { attempt, .. } => {
                self.held.entry(*attempt).or_insert(Stage::Offered);
            }
            Action::Stop { attempt, reason: StopReason::Revoked, .. } => {
                if matches!(self.held.get(attempt), Some(Stage::Offered | Stage::Running)) {
                    self.revoked.insert(*attempt);
                }
            }
            Action::Stop { attempt, .. } => {
                self.held.remove(attempt);
            }
            Action::Welcome { verdicts, .. } => {
                for (attempt, verdict) in verdicts {
                    if *verdict == Verdict::Cancel {
                        self.held.remove(attempt);
                    }
                }
            }
            Action::HeartbeatAck { unknown, .. } => {
                for attempt in unknown {
                    self.held.remove(attempt);
                }
            }
            Action::ReportVerdict { attempt, result, .. } => match result {
                ReportResult::Recorded | ReportResult::Fenced | ReportResult::Conflict => {
                    self.held.remove(attempt);
                }
            },
            Action::Close { .. } => self.session = None,
            Action::LimitGrant { .. }
            | Action::PoolNotice { .. }
            | Action::Allowance { .. }
            | Action::Reply { .. }
            | Action::Consult => {}
        }
    }
}

/// The stream an action goes out on.
pub fn stream(action: &Action) -> Option<SessionId> {
    match action {
        Action::Reply { .. } | Action::Consult => None,
        Action::Welcome { session, .. }
        | Action::Grant { session, .. }
        | Action::Stop { session, .. }
        | Action::HeartbeatAck { session, .. }
        | Action::ReportVerdict { session, .. }
        | Action::LimitGrant { session, .. }
        | Action::PoolNotice { session, .. }
        | Action::Allowance { session, .. }
        | Action::Close { session, .. } => Some(*session),
    }
}
