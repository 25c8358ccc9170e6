//! The gRPC server: services behind layers behind our own TLS acceptor.
//! Knows how the parts are put together; each service decides nothing and each layer knows no service.

pub mod accept;
pub mod admin_service;
pub mod artifacts;
pub mod assign;
pub mod auth;
pub mod blob_service;
mod connections;
pub mod convert;
pub mod cost_service;
pub mod dead;
pub mod explain;
pub mod hello;
pub mod layers;
pub mod limits;
pub mod lookup;
pub mod operators;
pub mod paging;
pub mod plan_service;
pub mod refs;
pub mod run_service;
pub mod server;
pub mod session;
pub mod status;
pub mod storage;
pub mod submit;
pub mod transcript_service;
pub mod uploads;
pub mod watch;
pub mod worker_admin;
pub mod workflow_service;

use crate::engine::{EngineGone, Handle};
use crate::rpc::status::{from_refusal, internal, refuse};
use orch_core::event::Event;
use orch_core::ids::TenantId;
use orch_core::query::{Answer, Query, Refusal};
use orch_proto::codes::ErrorCode;
use tonic::Status;

/// Asks the engine; a refusal becomes a status.
pub(crate) async fn ask(engine: &Handle, tenant: TenantId, query: Query) -> Result<Answer, Status> {
    answered(engine.request(move |token| Event::Asked { token, tenant, query }).await)
}

/// Asks the engine about a run that may have left the state a moment ago: nothing then, for the store has it.
pub(crate) async fn ask_live(
    engine: &Handle,
    tenant: TenantId,
    query: Query,
) -> Result<Option<Answer>, Status> {
    let answer = engine.request(move |token| Event::Asked { token, tenant, query }).await;
    match answer {
        Ok(Answer::Refused(Refusal::RunNotLive)) => Ok(None),
        answer => answered(answer).map(Some),
    }
}

/// An answer of the engine; a refusal becomes a status.
pub(crate) fn answered(answer: Result<Answer, EngineGone>) -> Result<Answer, Status> {
    let answer = answer.map_err(|EngineGone| gone())?;
    if let Answer::Refused(refusal) = &answer {
        return Err(from_refusal(refusal));
    }
    Ok(answer)
}

/// The engine has stopped: whoever asks again finds another coordinator, or this one restarted.
pub(crate) fn gone() -> Status {
    refuse(ErrorCode::Draining, "the coordinator is stopping")
}

/// What streams are told when the coordinator drains.
pub(crate) fn stopping() -> Status {
    refuse(ErrorCode::Draining, "the coordinator is shutting down")
}

/// An answer of another kind than was asked for: a mistake in this program.
pub(crate) fn unexpected() -> Status {
    refuse(ErrorCode::Internal, "the engine gave an answer of another kind")
}

/// Runs `work`, which may block, off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Status> {
    if crate::engine::pool::is_in_place() {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(|error| internal("work was broken off", &error))
}
