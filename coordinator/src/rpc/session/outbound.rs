//! The writing half of a session: gathers what the engine wants of an agent into frames, in order.
//! Reads specs and results for assignments here, in the order of the queue, so that a stop never overtakes its grant.

use crate::engine::Outbound;
use crate::payloads::ResultReader;
use crate::prices::PricesInForce;
use crate::rpc::assign::{Cluster, Granted, assignment};
use crate::rpc::convert;
use crate::rpc::session::beats::Standing;
use crate::rpc::session::intake::LIMITS;
use crate::rpc::session::{Ending, Timing};
use crate::rpc::status::refuse;
use orch_core::effect::{CloseReason, StopReason};
use orch_core::ids::{AttemptKey, SessionId, TenantId};
use orch_core::state::GrantView;
use orch_proto::codes::ErrorCode;
use orch_proto::v1;
use prost::Message as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// Session protocol from which on agents give back what they did not begin.
const REVOKES: u32 = 2;
/// Session protocol from which on agents go on in a conversation that was cut off.
const GOES_ON: u32 = 2;
/// Items taken from the queue at once.
const GATHER: usize = 256;
/// A frame is closed when it would pass this: half of the message limit.
const FRAME_BYTES: usize = 512 << 10;

/// A frame that an agent has not taken by then ends the session: the agent, not the network, stopped reading.
const READ_LIMIT: Duration = Duration::from_secs(30);
/// The last words of a session wait no longer than this.
const LAST_WORD: Duration = Duration::from_secs(2);

type Frames = mpsc::Sender<Result<v1::CoordinatorMessage, Status>>;

/// What the writer needs.
#[derive(Debug)]
pub(super) struct WriterParts {
    pub(super) session: SessionId,
    pub(super) tenant: TenantId,
    pub(super) protocol: u32,
    pub(super) cluster: Cluster,
    pub(super) timing: Timing,
    pub(super) results: ResultReader,
    pub(super) prices: Arc<PricesInForce>,
    pub(super) draining: CancellationToken,
    pub(super) ending: Arc<Ending>,
    pub(super) standing: Arc<Standing>,
}

/// The writing half.
#[derive(Debug)]
pub(super) struct SessionWriter {
    parts: WriterParts,
}

/// Why a session goes on or ends.
enum Next {
    /// There is no word for it in the protocol that the agent speaks.
    Skip,
    Send(Box<v1::CoordinatorItem>),
    End(Status),
}

impl SessionWriter {
    pub(super) const fn new(parts: WriterParts) -> Self {
        Self { parts }
    }

    /// Writes until the engine, the agent or a shutdown ends the session.
    pub(super) async fn run(self, mut from_engine: mpsc::Receiver<Outbound>, frames: Frames) {
        let last = self.pump(&mut from_engine, &frames).await;
        self.parts.ending.end(last.clone());
        if let Some(status) = last {
            // An agent that is gone, or does not read, reads nothing more.
            drop(frames.send_timeout(Err(status), LAST_WORD).await);
        }
    }

    async fn pump(&self, from_engine: &mut mpsc::Receiver<Outbound>, frames: &Frames) -> Option<Status> {
        // Grows with what there is: most agents are idle most of the time.
        let mut gathered = Vec::new();
        loop {
            let count = tokio::select! {
                biased;
                count = from_engine.recv_many(&mut gathered, GATHER) => count,
                why = self.parts.ending.wait() => return why,
                () = frames.closed() => return None,
                () = self.parts.draining.cancelled() => return Some(self.say_good_bye(frames).await),
            };
            if count == 0 {
                return self.dropped(frames).await;
            }
            let ended = self.send_all(&mut gathered, frames).await;
            if ended.is_some() {
                return ended;
            }
        }
    }

    /// The engine dropped its end: the session was ended here, or the queue was full, or the engine stopped.
    async fn dropped(&self, frames: &Frames) -> Option<Status> {
        if self.parts.ending.is_over() {
            return self.parts.ending.wait().await;
        }
        if self.parts.draining.is_cancelled() {
            return Some(self.say_good_bye(frames).await);
        }
        Some(refuse(ErrorCode::Overloaded, "the agent did not read fast enough"))
    }

    async fn say_good_bye(&self, frames: &Frames) -> Status {
        let bye = v1::GoAway {
            spread: prost_types::Duration::try_from(self.parts.timing.spread).ok(),
            reason: "the coordinator is shutting down".to_owned(),
        };
        let item = v1::CoordinatorItem { item: Some(v1::coordinator_item::Item::GoAway(bye)) };
        drop(frames.send_timeout(Ok(v1::CoordinatorMessage { items: vec![item] }), LAST_WORD).await);
        refuse(ErrorCode::Draining, "the coordinator is shutting down")
    }

    /// Why the session ends, if it does.
    async fn send_all(&self, gathered: &mut Vec<Outbound>, frames: &Frames) -> Option<Status> {
        let mut items = Vec::with_capacity(gathered.len());
        let mut bytes = 0;
        for outbound in gathered.drain(..) {
            match self.item(outbound).await {
                Next::End(status) => {
                    return send(frames, items).await.or(Some(status));
                }
                Next::Skip => {}
                Next::Send(item) => {
                    let Some(item) = joined(&mut items, *item) else { continue };
                    let length = item.encoded_len();
                    if bytes + length > FRAME_BYTES {
                        let unread = send(frames, std::mem::take(&mut items)).await;
                        if unread.is_some() {
                            return unread;
                        }
                        bytes = 0;
                    }
                    bytes += length;
                    items.push(item);
                }
            }
        }
        send(frames, items).await
    }

    async fn item(&self, outbound: Outbound) -> Next {
        use v1::coordinator_item::Item;
        self.parts.standing.said(&outbound);
        let item = match outbound {
            Outbound::Welcome { epoch, verdicts } => Item::Welcome(self.welcome(epoch.0, &verdicts)),
            Outbound::Grant { attempt, view } => match self.assign(attempt, &view).await {
                Ok(assignment) => Item::Assign(assignment),
                Err(status) => return Next::End(status),
            },
            Outbound::Stop { reason: StopReason::Revoked, .. } if self.parts.protocol < REVOKES => {
                return Next::Skip;
            }
            Outbound::Stop { attempt, reason } => Item::Stop(v1::StopAttempt {
                attempt: Some(convert::attempt_id(attempt)),
                reason: convert::stop_reason(reason).into(),
            }),
            Outbound::HeartbeatAck { seq, unknown, .. } => Item::HeartbeatAck(v1::HeartbeatAck {
                seq,
                unknown: unknown.into_iter().map(convert::attempt_id).collect(),
            }),
            Outbound::ReportVerdict { attempt, result } => Item::ReportVerdict(v1::ReportVerdict {
                attempt: Some(convert::attempt_id(attempt)),
                result: convert::report_result(result).into(),
            }),
            Outbound::LimitGrant { .. } | Outbound::PoolNotice(_) | Outbound::Allowance { .. }
                if self.parts.protocol < LIMITS =>
            {
                return Next::Skip;
            }
            Outbound::LimitGrant { meter, granted } => {
                Item::LimitGrant(convert::limit_grant(&meter, granted))
            }
            Outbound::PoolNotice(notice) => Item::PoolNotice(convert::pool_notice(&notice)),
            Outbound::Allowance { attempt, allowance } => {
                Item::Allowance(convert::allowance(Some(attempt), &allowance))
            }
            Outbound::Close(reason) => return Next::End(close_status(reason)),
        };
        Next::Send(Box::new(v1::CoordinatorItem { item: Some(item) }))
    }

    fn welcome(&self, epoch: u64, verdicts: &[(AttemptKey, orch_core::effect::Verdict)]) -> v1::Welcome {
        v1::Welcome {
            epoch,
            protocol: self.parts.protocol,
            verdicts: verdicts
                .iter()
                .map(|(attempt, verdict)| v1::InventoryVerdict {
                    attempt: Some(convert::attempt_id(*attempt)),
                    verdict: convert::verdict(*verdict).into(),
                })
                .collect(),
            heartbeat_interval: prost_types::Duration::try_from(self.parts.timing.heartbeat).ok(),
            stop_after: prost_types::Duration::try_from(self.parts.timing.stop_after).ok(),
            cluster_id: self.parts.cluster.id.to_vec(),
            prices: self.prices(),
            // Notices that follow in the same batch join it.
            pools: Vec::new(),
        }
    }

    /// List prices, for agents that reckon.
    fn prices(&self) -> Vec<v1::ModelPrice> {
        let WriterParts { protocol, prices, .. } = &self.parts;
        if *protocol < LIMITS { Vec::new() } else { prices.current().prices.rows().to_vec() }
    }

    /// A spec or a result that cannot be read ends the session: the store is damaged or gone, and the engine will stop too.
    async fn assign(&self, attempt: AttemptKey, view: &GrantView) -> Result<v1::Assignment, Status> {
        let failed = |error: &dyn std::error::Error| {
            tracing::error!(%attempt, session = self.parts.session.0, %error, "cannot read what a granted task needs");
            refuse(ErrorCode::StoreFailed, "what a task needs cannot be read")
        };
        let WriterParts { results, tenant, cluster, protocol, .. } = &self.parts;
        let read = results.dispatch(*tenant, attempt, Arc::clone(&view.run_ref), view.sent_back).await;
        let read = read.map_err(|error| failed(&error))?;
        let task_ref = format!("{}/{}", view.run_ref, view.task_id);
        let granted = Granted {
            interrupted: view.interrupted.as_ref().filter(|_| *protocol >= GOES_ON),
            allowance: view.allowance.as_ref().filter(|_| *protocol >= LIMITS),
            own_budget: view.own_budget.filter(|_| *protocol >= LIMITS),
        };
        assignment(*cluster, attempt, task_ref, read, granted).map_err(|error| failed(&error))
    }
}

/// What is said of pools right after Welcome is part of it: the agent then knows before it lets anything go. Gives back
/// an item that is to be one of its own.
fn joined(items: &mut [v1::CoordinatorItem], item: v1::CoordinatorItem) -> Option<v1::CoordinatorItem> {
    use v1::coordinator_item::Item;
    match (items.last_mut().and_then(|last| last.item.as_mut()), item.item) {
        (Some(Item::Welcome(welcome)), Some(Item::PoolNotice(notice))) => {
            welcome.pools.push(notice);
            None
        }
        (_, item) => Some(v1::CoordinatorItem { item }),
    }
}

/// Sends what there is. A status when the agent does not take it: the session is to end.
async fn send(frames: &Frames, items: Vec<v1::CoordinatorItem>) -> Option<Status> {
    if items.is_empty() {
        return None;
    }
    let sent = frames.send_timeout(Ok(v1::CoordinatorMessage { items }), READ_LIMIT).await;
    sent.is_err().then(|| refuse(ErrorCode::Overloaded, "the agent does not read"))
}

fn close_status(reason: CloseReason) -> Status {
    match reason {
        CloseReason::Superseded => refuse(ErrorCode::Superseded, "a newer session of this agent took over"),
        CloseReason::ClonedIdentity => refuse(
            ErrorCode::Superseded,
            "two agents use this certificate and displace each other; both are refused for now",
        ),
        CloseReason::ProtocolViolation => refuse(
            ErrorCode::ProtocolViolation,
            "the session said something that the protocol does not allow",
        ),
        CloseReason::Capacity => refuse(ErrorCode::QueueFull, "too many agents are known already"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tests::support::{Bench, TENANT};
    use orch_core::ids::{RunId, TaskIndex, TaskKey};

    #[tokio::test]
    async fn only_an_agent_that_knows_the_word_is_asked_for_what_it_holds_ahead() {
        let bench = Bench::start().await;
        let attempt = AttemptKey::new(TaskKey { run: RunId(1), index: TaskIndex(0) }, 1);
        for (protocol, reason, said) in
            [(1, StopReason::Revoked, false), (2, StopReason::Revoked, true), (1, StopReason::Fenced, true)]
        {
            let writer = SessionWriter::new(WriterParts {
                session: SessionId(1),
                tenant: TENANT,
                protocol,
                cluster: Cluster { id: [1; 16], epoch: 1, silence_limit: READ_LIMIT },
                timing: Timing { heartbeat: READ_LIMIT, stop_after: READ_LIMIT, spread: READ_LIMIT },
                results: bench.handle.results(),
                prices: Arc::new(PricesInForce::default()),
                draining: CancellationToken::new(),
                ending: Arc::new(Ending::default()),
                standing: Arc::default(),
            });
            let next = writer.item(Outbound::Stop { attempt, reason }).await;
            assert_eq!(matches!(next, Next::Send(_)), said, "protocol {protocol}, {reason:?}");
        }
    }
}
