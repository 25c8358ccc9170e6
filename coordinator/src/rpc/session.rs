//! One agent's stream: what it says becomes events, what the engine wants of it becomes frames.
//! Knows the wire and the engine's handle; decides nothing. Reading never waits for writing, and the other way
//! round: an agent that stops reading is closed by the engine when its queue is full.

mod beats;
mod inbound;
mod intake;
mod outbound;
mod report;

use crate::engine::{Handle, Outbound};
use crate::presence::{Registry, printable};
use crate::prices::PricesInForce;
use crate::rpc::assign::Cluster;
use crate::rpc::auth::Caller;
use crate::rpc::gone;
use crate::rpc::hello::{check_epoch, check_hello, first_hello, negotiate};
use crate::rpc::session::beats::{Beats, Standing};
use crate::rpc::session::inbound::SessionReader;
use crate::rpc::session::intake::LimitIntake;
pub(crate) use crate::rpc::session::intake::{LIMITS, agent_pools};
use crate::rpc::session::outbound::{SessionWriter, WriterParts};
pub use crate::rpc::session::report::ReportIntake;
use crate::rpc::status::{from_decoder, refuse};
use orch_core::event::{AgentHello, Event};
use orch_proto::codes::ErrorCode;
use orch_proto::v1;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Status, Streaming};
use tracing::Instrument as _;

/// A stream that has not said Hello by then is ended.
const HELLO_LIMIT: Duration = Duration::from_secs(10);
/// What the engine may have queued for one agent. One batch may grant every slot (10,000) and its prefetch, or stop all of the
/// 20,000 attempts that an agent may hold, and must fit: a session that is ended for it would find the same waiting when it
/// comes back. A longer queue means that the agent stopped reading; the engine then ends the session, which is an ordinary
/// reconnect.
const OUTBOUND_ITEMS: usize = 32_768;
/// Frames between writer and HTTP/2; small, so that items wait where they can still be gathered into one frame.
const FRAMES: usize = 4;

/// What every session needs.
#[derive(Debug, Clone)]
pub struct SessionParts {
    /// The engine.
    pub engine: Handle,
    /// What is the same for every assignment.
    pub cluster: Cluster,
    /// Interval and limits that Welcome announces.
    pub timing: Timing,
    /// What agents say about themselves.
    pub registry: Arc<Registry>,
    /// Bulk bytes of reports.
    pub reports: ReportIntake,
    /// List prices, as Welcome says them.
    pub prices: Arc<PricesInForce>,
    /// Every task of every session, so that a shutdown can wait for them.
    pub tasks: TaskTracker,
    /// Set when the coordinator drains: sessions say GoAway and end.
    pub draining: CancellationToken,
}

/// What Welcome says about time.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// How often agents send heartbeats.
    pub heartbeat: Duration,
    /// Silence after which agents stop their children.
    pub stop_after: Duration,
    /// Agents come back within a random part of this after a GoAway.
    pub spread: Duration,
}

/// The frames of a session, as tonic sends them.
pub type FrameStream = tokio_stream::wrappers::ReceiverStream<Result<v1::CoordinatorMessage, Status>>;

/// Opens a session: waits for Hello, checks it, and starts reader and writer.
///
/// # Errors
/// What is wrong with the first frame, or `DRAINING`.
pub async fn open(
    parts: &SessionParts,
    request: Request<Streaming<v1::AgentMessage>>,
) -> Result<FrameStream, Status> {
    let caller = Caller::of(&request)?;
    if parts.draining.is_cancelled() {
        return Err(refuse(ErrorCode::Draining, "the coordinator is shutting down"));
    }
    let mut inbound = request.into_inner();
    let (hello, rest) = first_hello(first_frame(&mut inbound).await?)?;
    let protocol = negotiate(&hello).inspect_err(|refused| {
        let agent = caller.identity.name();
        tracing::warn!(agent, version = printable(&hello.version), why = refused.message(), "agent refused");
    })?;
    let joined = check_hello(&hello, &caller.identity, caller.tenant, protocol)?;
    check_epoch(&hello, &parts.cluster.id, parts.cluster.epoch).inspect_err(|refused| {
        let agent = caller.identity.name();
        tracing::error!(
            agent,
            why = refused.message(),
            "agent refused: is there another coordinator on a copy of the data?"
        );
        parts.registry.ahead(agent, hello.epoch_seen);
    })?;
    let (outbound, from_engine) = mpsc::channel::<Outbound>(OUTBOUND_ITEMS);
    let session = parts.engine.open_session(outbound).await.map_err(|_| gone())?;
    let seat = parts.registry.joined(&hello);
    let joined = AgentHello { session, ..joined };
    let intake = LimitIntake::new(session, protocol, joined.pools.clone());
    parts.engine.apply(Event::AgentJoined(Box::new(joined))).await.map_err(|_| gone())?;
    let agent = caller.identity.name().to_owned();
    tracing::info!(agent, session = session.0, version = printable(&hello.version), "agent joined");

    let (frames, stream) = mpsc::channel(FRAMES);
    let (ending, standing) = (Arc::new(Ending::default()), Arc::new(Standing::default()));
    let engine = parts.engine.clone();
    let beats =
        Beats::new(engine, session, Arc::clone(&standing), frames.downgrade(), parts.timing.heartbeat);
    let writer = SessionWriter::new(WriterParts {
        session,
        tenant: caller.tenant,
        protocol,
        cluster: parts.cluster,
        timing: parts.timing,
        results: parts.engine.results(),
        prices: Arc::clone(&parts.prices),
        draining: parts.draining.clone(),
        ending: Arc::clone(&ending),
        standing,
    });
    parts.tasks.spawn(writer.run(from_engine, frames).in_current_span());
    let mut reader = SessionReader {
        engine: parts.engine.clone(),
        session,
        agent,
        seat,
        reports: parts.reports.clone(),
        intake,
        tenant: caller.tenant,
        beats,
    };
    parts.tasks.spawn(async move { reader.run(rest, &mut inbound, &ending).await }.in_current_span());
    Ok(tokio_stream::wrappers::ReceiverStream::new(stream))
}

async fn first_frame(inbound: &mut Streaming<v1::AgentMessage>) -> Result<v1::AgentMessage, Status> {
    let violation = |what: String| refuse(ErrorCode::ProtocolViolation, what);
    let first = tokio::time::timeout(HELLO_LIMIT, inbound.message()).await;
    let first = first.map_err(|_| violation(format!("no Hello within {} s", HELLO_LIMIT.as_secs())))?;
    first.map_err(from_decoder)?.ok_or_else(|| violation("the stream ended without a Hello".to_owned()))
}

/// The end of a session, for its two halves: whoever ends it first says why.
#[derive(Debug, Default)]
struct Ending {
    over: CancellationToken,
    why: OnceLock<Status>,
}

impl Ending {
    /// Ends the session; the agent is told why, if it is to be told anything.
    fn end(&self, why: Option<Status>) {
        if let Some(why) = why {
            // Too late: somebody ended it for another reason.
            let _ = self.why.set(why);
        }
        self.over.cancel();
    }

    fn is_over(&self) -> bool {
        self.over.is_cancelled()
    }

    /// Waits for the end, and says what the agent is to be told.
    async fn wait(&self) -> Option<Status> {
        self.over.cancelled().await;
        self.why.get().cloned()
    }
}
