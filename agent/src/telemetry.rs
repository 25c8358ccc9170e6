//! Logs to stderr: text on a terminal, JSON lines otherwise, with the fields of the event and of the spans around
//! it. Never a prompt, never an answer, never a key: none is ever handed to it.

use std::io::IsTerminal as _;

use thiserror::Error;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};
use tracing_subscriber::{EnvFilter, fmt};

/// Why logging could not begin.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// The filter makes no sense.
    #[error("the log filter `{filter}` cannot be parsed")]
    Filter {
        /// The filter.
        filter: String,
        /// Why.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// Logging began before.
    #[error("logging has already begun")]
    Twice(#[from] TryInitError),
}

/// Starts logging what `filter` lets through.
///
/// # Errors
/// See [`TelemetryError`].
pub fn start(filter: &str) -> Result<(), TelemetryError> {
    let parsed = EnvFilter::try_new(filter)
        .map_err(|source| TelemetryError::Filter { filter: filter.to_owned(), source })?;
    let registry = tracing_subscriber::registry().with(parsed);
    if std::io::stderr().is_terminal() {
        registry.with(fmt::layer().with_writer(std::io::stderr)).try_init()?;
    } else {
        registry.with(fmt::layer().json().flatten_event(true).with_writer(std::io::stderr)).try_init()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_without_sense_is_refused() {
        let error = start("orch_agent=loudly").unwrap_err();
        assert_eq!(error.to_string(), "the log filter `orch_agent=loudly` cannot be parsed");
    }
}
