//! Logs to stderr: text on a terminal, JSON lines otherwise. Never a prompt, never an answer, never a key.
//! A line of JSON has the fields of its event beside time, level and target, and under `span` those of the request
//! that caused it, its `request_id` first among them.

use anyhow::Context as _;
use std::io::IsTerminal as _;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, fmt, reload};

/// Changes the log filter while running.
pub type FilterHandle = reload::Handle<EnvFilter, tracing_subscriber::Registry>;

/// Starts logging with `filter`.
///
/// # Errors
/// When the filter cannot be parsed, or logging was started before.
pub fn start(filter: &str) -> anyhow::Result<FilterHandle> {
    let (filter, handle) = reload::Layer::new(parse(filter)?);
    let registry = tracing_subscriber::registry().with(filter);
    if std::io::stderr().is_terminal() {
        registry.with(fmt::layer().with_writer(std::io::stderr)).try_init()?;
    } else {
        registry.with(json(std::io::stderr)).try_init()?;
    }
    Ok(handle)
}

/// A line of JSON for each event, with the request it belongs to.
fn json<S, W>(writer: W) -> impl Layer<S>
where
    S: tracing::Subscriber + for<'span> LookupSpan<'span>,
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let lines = fmt::layer().json().flatten_event(true);
    lines.with_current_span(true).with_span_list(false).with_writer(writer)
}

/// Puts another filter in force.
///
/// # Errors
/// When it cannot be parsed.
pub fn change(handle: &FilterHandle, filter: &str) -> anyhow::Result<()> {
    Ok(handle.reload(parse(filter)?)?)
}

/// Parses a log filter.
///
/// # Errors
/// When it is none.
pub fn parse(filter: &str) -> anyhow::Result<EnvFilter> {
    EnvFilter::try_new(filter).with_context(|| format!("the log filter `{filter}` cannot be parsed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_has_its_fields_beside_the_message_and_the_request_under_span() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::registry().with(json(move || writer.clone()));
        tracing::subscriber::with_default(subscriber, || {
            let _span = tracing::info_span!("rpc", method = "/a.B/C", request_id = "r-1").entered();
            tracing::info!(agent = "box-1", "agent joined");
        });
        let line: serde_json::Value = serde_json::from_slice(&lines.0.lock().unwrap()).unwrap();
        assert_eq!((&line["level"], &line["agent"]), (&"INFO".into(), &"box-1".into()));
        assert_eq!(line["message"], "agent joined");
        assert_eq!((&line["span"]["request_id"], &line["span"]["method"]), (&"r-1".into(), &"/a.B/C".into()));
        assert!(line["timestamp"].is_string() && line["target"].is_string(), "{line}");
    }
}
