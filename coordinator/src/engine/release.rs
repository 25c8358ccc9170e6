//! What leaves the coordinator, once it may.
//! Knows who waits for an answer and which sessions are open; refuses to know why anything is said.

use std::collections::BTreeMap;
use std::sync::Arc;

use orch_core::budgets::Allowance;
use orch_core::effect::{Action, CloseReason, ReportResult, StopReason, Verdict};
use orch_core::ids::{AttemptKey, Epoch, RunId, SessionId, Token};
use orch_core::limits::{Amounts, MeterId, PoolNotice};
use orch_core::query::Answer;
use orch_core::state::{GrantView, State};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::metrics::Metrics;

/// What the engine wants an agent to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outbound {
    /// The session is open.
    Welcome {
        /// Generation of the coordinator.
        epoch: Epoch,
        /// What to do with each attempt of the inventory.
        verdicts: Vec<(AttemptKey, Verdict)>,
    },
    /// Run this.
    Grant {
        /// Which.
        attempt: AttemptKey,
        /// What the assignment says beside the spec.
        view: Box<GrantView>,
    },
    /// Stop this. Never before its grant.
    Stop {
        /// Which.
        attempt: AttemptKey,
        /// Why.
        reason: StopReason,
    },
    /// Answers a heartbeat.
    HeartbeatAck {
        /// Its sequence.
        seq: u64,
        /// Attempts that are not the agent's.
        unknown: Vec<AttemptKey>,
        /// A next one that lists nothing changes nothing.
        idle: bool,
    },
    /// Answers a report.
    ReportVerdict {
        /// Which.
        attempt: AttemptKey,
        /// How.
        result: ReportResult,
    },
    /// More credit.
    LimitGrant {
        /// For which meter.
        meter: MeterId,
        /// Everything it was given in this session.
        granted: Amounts,
    },
    /// How a pool stands.
    PoolNotice(PoolNotice),
    /// What an attempt may spend.
    Allowance {
        /// Which.
        attempt: AttemptKey,
        /// What.
        allowance: Allowance,
    },
    /// The last thing said: the session is over.
    Close(CloseReason),
}

/// Something that leaves when the batches before it are durable.
#[derive(Debug)]
pub(super) enum Release {
    /// An answer to a client.
    Answer { token: Token, answer: Box<Answer> },
    /// A word to an agent.
    Say { session: SessionId, word: Box<Outbound> },
    /// Which run a name means.
    Resolved { reply: oneshot::Sender<Option<(RunId, bool)>>, found: Option<(RunId, bool)> },
    /// There are questions that only payloads answer.
    Wake,
    /// Everything before it is durable.
    Passed { reply: oneshot::Sender<()> },
}

impl Release {
    /// An action of the core, with what must be read from the state while it is of that moment. Nothing for a grant
    /// that the same event took back.
    pub(super) fn of(action: Action, state: &State, epoch: Epoch) -> Option<Self> {
        let (session, word) = match action {
            Action::Reply { token, answer } => return Some(Self::Answer { token, answer }),
            Action::Consult => return Some(Self::Wake),
            Action::Welcome { session, verdicts } => (session, Outbound::Welcome { epoch, verdicts }),
            Action::Grant { session, attempt } => {
                (session, Outbound::Grant { attempt, view: Box::new(state.grant_view(attempt)?) })
            }
            Action::Stop { session, attempt, reason } => (session, Outbound::Stop { attempt, reason }),
            Action::HeartbeatAck { session, seq, unknown, idle } => {
                (session, Outbound::HeartbeatAck { seq, unknown, idle })
            }
            Action::ReportVerdict { session, attempt, result } => {
                (session, Outbound::ReportVerdict { attempt, result })
            }
            Action::LimitGrant { session, meter, granted } => {
                (session, Outbound::LimitGrant { meter: *meter, granted })
            }
            Action::PoolNotice { session, notice } => (session, Outbound::PoolNotice(*notice)),
            Action::Allowance { session, attempt, allowance } => {
                (session, Outbound::Allowance { attempt, allowance: *allowance })
            }
            Action::Close { session, reason } => (session, Outbound::Close(reason)),
        };
        Some(Self::Say { session, word: Box::new(word) })
    }
}

/// Who waits for what.
#[derive(Debug)]
pub(super) struct Desk {
    answers: BTreeMap<Token, oneshot::Sender<Answer>>,
    sessions: BTreeMap<SessionId, mpsc::Sender<Outbound>>,
    next_token: u64,
    next_session: u64,
    /// Wakes whoever answers questions.
    consult: Arc<Notify>,
    metrics: Arc<Metrics>,
}

impl Desk {
    pub(super) fn new(metrics: Arc<Metrics>, consult: Arc<Notify>) -> Self {
        let (answers, sessions) = (BTreeMap::new(), BTreeMap::new());
        Self { answers, sessions, next_token: 1, next_session: 1, consult, metrics }
    }

    /// A token for somebody who waits.
    pub(super) fn expect_answer(&mut self, reply: oneshot::Sender<Answer>) -> Token {
        let token = Token(self.next_token);
        self.next_token += 1;
        self.answers.insert(token, reply);
        token
    }

    /// A number for a new session.
    pub(super) fn open_session(&mut self, outbound: mpsc::Sender<Outbound>) -> SessionId {
        let session = SessionId(self.next_session);
        self.next_session += 1;
        self.sessions.insert(session, outbound);
        self.metrics.set_sessions(self.sessions.len());
        session
    }

    /// A session is over.
    pub(super) fn close_session(&mut self, session: SessionId) {
        self.sessions.remove(&session);
        self.metrics.set_sessions(self.sessions.len());
    }

    /// Sessions whose reader is gone. They should have said so; one whose task was aborted could not.
    pub(super) fn deserted_sessions(&self) -> Vec<SessionId> {
        let deserted = self.sessions.iter().filter(|(_, outbound)| outbound.is_closed());
        deserted.map(|(session, _)| *session).collect()
    }

    /// Lets everything leave, in order. Returns the sessions that ended because nobody read them.
    pub(super) fn release(&mut self, releases: Vec<Release>) -> Vec<SessionId> {
        let mut dropped = Vec::new();
        for release in releases {
            match release {
                Release::Answer { token, answer } => {
                    crate::failpoint::failpoint!("release::before_reply");
                    if let Some(reply) = self.answers.remove(&token) {
                        // Whoever asked may have gone; what was asked for is done all the same.
                        drop(reply.send(*answer));
                    }
                }
                Release::Say { session, word } => {
                    if !self.say(session, *word) {
                        dropped.push(session);
                    }
                }
                Release::Resolved { reply, found } => drop(reply.send(found)),
                Release::Wake => self.consult.notify_one(),
                Release::Passed { reply } => drop(reply.send(())),
            }
        }
        dropped
    }

    /// Whether the session can go on. One that is no longer open can, in that there is nothing to end.
    fn say(&mut self, session: SessionId, word: Outbound) -> bool {
        let Some(outbound) = self.sessions.get(&session) else { return true };
        if matches!(word, Outbound::Grant { .. }) {
            crate::failpoint::failpoint!("release::before_grant");
            self.metrics.granted();
        }
        if matches!(word, Outbound::ReportVerdict { .. }) {
            crate::failpoint::failpoint!("release::before_verdict");
        }
        let last = matches!(word, Outbound::Close(_));
        let said = outbound.try_send(word);
        if last {
            self.close_session(session);
            return true;
        }
        if let Err(refused) = said {
            let full = matches!(refused, mpsc::error::TrySendError::Full(_));
            if full {
                self.metrics.session_dropped();
                tracing::warn!(session = session.0, "the agent does not read: its session is ended");
            }
            self.close_session(session);
            return false;
        }
        true
    }
}
