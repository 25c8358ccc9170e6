//! Where the session is: waiting to dial, dialling, or up. A value, so that the loop can poll it beside everything
//! else and lose nothing when something else comes first.

use crate::causes::one_line;
use crate::session::link::{Bulk, Coordinators, Link, OpenError};
use crate::session::reconnect::{FullJitter, HEALTHY};
use backoff::backoff::Backoff as _;
use orch_proto::v1;
use std::fmt;
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};

type Opening = Pin<Box<dyn Future<Output = Result<Link, OpenError>> + Send>>;

/// Where the session is.
pub(super) enum Phase {
    /// Nothing until the time has come.
    Waiting(Pin<Box<Sleep>>),
    /// Connecting and waiting for the answer to Hello.
    Opening(Opening),
    /// Open.
    Up(Box<Up>),
}

/// An open session.
pub(super) struct Up {
    outbound: mpsc::Sender<v1::AgentMessage>,
    inbound: tonic::Streaming<v1::CoordinatorMessage>,
    bulk: Bulk,
    since: Instant,
}

/// Ways up.
#[derive(Debug, Clone)]
pub(super) struct Ways {
    /// Where frames go.
    pub(super) outbound: mpsc::Sender<v1::AgentMessage>,
    /// The connection for bulk bytes.
    pub(super) bulk: Bulk,
}

/// What happened to the session.
pub(super) enum Happened {
    /// Dial.
    TimeToDial,
    /// It opened; its first frame is with it.
    Opened(Box<Link>),
    /// Something was said.
    Frame(v1::CoordinatorMessage),
    /// It ended, or could not be opened.
    Down(String),
}

/// Why a session is left.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Leave {
    /// The coordinator asked for it, and to come back after a random part of `spread`.
    SentAway { why: String, spread: Duration },
    /// Something went wrong.
    Lost(String),
}

impl fmt::Debug for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Waiting(_) => "Waiting",
            Self::Opening(_) => "Opening",
            Self::Up(_) => "Up",
        })
    }
}

impl Phase {
    /// Dials the next coordinator.
    pub(super) fn dial_now(coordinators: &mut Coordinators, hello: v1::AgentMessage) -> Self {
        Self::Opening(Box::pin(coordinators.open(hello)))
    }

    /// Waits before dialling again: a random part of the spread when sent away, which also begins the policy anew, else by
    /// the policy.
    pub(super) fn wait(policy: &mut FullJitter, lived: Duration, leave: &Leave) -> Self {
        if lived >= HEALTHY {
            policy.reset();
        }
        let wait = match leave {
            Leave::SentAway { spread, .. } => {
                // It was well when it said so: what failed before says nothing of its return.
                policy.reset();
                policy.part_of(*spread)
            }
            Leave::Lost(_) => policy.next_backoff().unwrap_or(HEALTHY),
        };
        Self::Waiting(Box::pin(tokio::time::sleep(wait)))
    }

    /// The session is open. Gives its first frame as well.
    pub(super) fn up(link: Link) -> (Self, v1::CoordinatorMessage) {
        let Link { outbound, first, inbound, bulk } = link;
        (Self::Up(Box::new(Up { outbound, inbound, bulk, since: Instant::now() })), first)
    }

    /// The next thing that happens. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Happened {
        match self {
            Self::Waiting(sleep) => {
                sleep.as_mut().await;
                Happened::TimeToDial
            }
            Self::Opening(opening) => match opening.as_mut().await {
                Ok(link) => Happened::Opened(Box::new(link)),
                Err(error) => Happened::Down(one_line(&error)),
            },
            Self::Up(up) => match up.inbound.message().await {
                Ok(Some(frame)) => Happened::Frame(frame),
                Ok(None) => Happened::Down("the coordinator ended the session".to_owned()),
                Err(status) => Happened::Down(status.message().to_owned()),
            },
        }
    }

    /// The ways up of an open session.
    pub(super) fn ways(&self) -> Option<Ways> {
        match self {
            Self::Up(up) => Some(Ways { outbound: up.outbound.clone(), bulk: up.bulk.clone() }),
            Self::Waiting(_) | Self::Opening(_) => None,
        }
    }

    /// Ends an open session in order: says that nothing follows, and waits until the coordinator has ended it as well,
    /// so that what was said last has arrived; not longer than `limit`. Every other sender must be gone.
    pub(super) async fn close(self, limit: Duration) {
        let Self::Up(up) = self else { return };
        let Up { outbound, mut inbound, .. } = *up;
        drop(outbound);
        let ended = async { while let Ok(Some(_)) = inbound.message().await {} };
        // A coordinator that does not end it learns by the end of the connection.
        let _ = tokio::time::timeout(limit, ended).await;
    }

    /// How long the session has been open.
    pub(super) fn lived(&self) -> Duration {
        match self {
            Self::Up(up) => up.since.elapsed(),
            Self::Waiting(_) | Self::Opening(_) => Duration::ZERO,
        }
    }
}
