//! Why the coordinator stops, and what its process then says.
//! Knows how long an end may take; refuses to know how each part ends.

use crate::engine::EngineError;
use anyhow::Context as _;
use std::fmt;
use std::time::Duration;
use tokio::task::{JoinError, JoinSet};

/// Streams and requests may take this long to end once the coordinator drains. With the engine's own end the process
/// is gone within 10 seconds whatever its peers do.
pub(super) const DRAIN_LIMIT: Duration = Duration::from_secs(6);
/// The engine makes durable what it has, which takes one commit.
const ENGINE_LIMIT: Duration = Duration::from_secs(3);

/// Why the coordinator stops.
#[derive(Debug)]
pub(super) enum Cause {
    /// By TERM or INT.
    Asked,
    /// By an operator, to start anew on what lies ready.
    Again,
    /// The engine ended before it was told to.
    Engine(Result<Result<(), EngineError>, JoinError>),
    /// Another part ended, by name.
    Part { name: &'static str, why: String },
}

impl Cause {
    /// The gRPC server ended.
    pub(super) fn of_server(ended: Result<anyhow::Result<()>, JoinError>) -> Self {
        let why = match ended {
            Ok(Ok(())) => "without a reason".to_owned(),
            Ok(Err(error)) => format!("{error:#}"),
            Err(error) => error.to_string(),
        };
        Self::Part { name: "the gRPC server", why }
    }

    /// Another part ended. One that ended in order had nothing more to do, because the engine ends too.
    pub(super) fn of_part(ended: Result<(&'static str, anyhow::Result<()>), JoinError>) -> Option<Self> {
        match ended {
            Ok((_, Ok(()))) => None,
            Ok((name, Err(error))) => Some(Self::Part { name, why: format!("{error:#}") }),
            Err(error) => Some(Self::Part { name: "a part", why: error.to_string() }),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked => f.write_str("asked to"),
            Self::Again => f.write_str("to start anew"),
            Self::Engine(_) => f.write_str("the engine ended"),
            Self::Part { name, why } => write!(f, "{name} ended: {why}"),
        }
    }
}

/// Waits for the engine's end, and says how the process ends.
pub(super) async fn finish(cause: Cause, mut engine: JoinSet<Result<(), EngineError>>) -> anyhow::Result<()> {
    let part = match cause {
        Cause::Engine(ended) => return of_engine(ended),
        Cause::Part { .. } => Some(cause.to_string()),
        Cause::Asked | Cause::Again => None,
    };
    match tokio::time::timeout(ENGINE_LIMIT, engine.join_next()).await {
        Ok(Some(ended)) => of_engine(ended)?,
        Ok(None) => {}
        Err(_) => anyhow::bail!("the engine did not stop in time; a restart recovers what is durable"),
    }
    part.map_or(Ok(()), |why| Err(anyhow::Error::msg(why)))
}

fn of_engine(ended: Result<Result<(), EngineError>, JoinError>) -> anyhow::Result<()> {
    ended.context("the engine broke off")?.context("the store failed; nothing acknowledged is lost")
}
