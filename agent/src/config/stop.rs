//! How an agent stops, as settings: flags, file and defaults put together. Knows names and units; stops nothing.

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Deserialize;

use super::{ConfigError, refused};
use crate::daemon::Order;
use crate::runner::limits::parse_duration;

/// How long a drain waits for what runs, unless it is told otherwise.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// What TERM asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnStop {
    /// Running attempts go on under their supervisors, and the next start goes on with them: for restarts and upgrades.
    Leave,
    /// Running attempts are ended and reported.
    #[default]
    End,
    /// Running attempts are finished first, within a time limit.
    Drain,
}

/// How to stop, as flags and environment, or a file, give it.
#[derive(Debug, Args, Default)]
pub struct StopFlags {
    /// What TERM does to running attempts: leave them to the next start of the agent (only where whoever stops the agent
    /// lets its children live: KillMode=process), end them, or finish them first. INT always ends them, and so does a
    /// second TERM [default: end].
    #[arg(long, env = "ORCH_AGENT_ON_STOP", value_name = "WHAT")]
    pub on_stop: Option<OnStop>,
    /// Longest wait of `--on-stop drain`, for example 30m; what runs then is ended [default: 10m].
    #[arg(long, env = "ORCH_AGENT_DRAIN_TIMEOUT", value_name = "TIME")]
    pub drain_timeout: Option<String>,
}

/// How to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopSettings {
    /// What TERM asks for.
    pub on_stop: OnStop,
    /// Longest drain.
    pub drain_timeout: Duration,
}

impl Default for StopSettings {
    fn default() -> Self {
        Self { on_stop: OnStop::default(), drain_timeout: DRAIN_TIMEOUT }
    }
}

impl StopFlags {
    /// These settings, else those of `file`, else the defaults.
    ///
    /// # Errors
    /// When a value makes no sense.
    pub fn resolve(self, file: Self) -> Result<StopSettings, ConfigError> {
        let given = self.drain_timeout.or(file.drain_timeout);
        let drain_timeout = given.map(|text| {
            parse_duration(&text).ok_or_else(|| {
                refused("drain_timeout", text, "must be a length of time such as 90s, 2m or 500ms")
            })
        });
        Ok(StopSettings {
            on_stop: self.on_stop.or(file.on_stop).unwrap_or_default(),
            drain_timeout: drain_timeout.transpose()?.unwrap_or(DRAIN_TIMEOUT),
        })
    }
}

impl StopSettings {
    /// What TERM orders. The first process of a container, `is_first`, takes all others along, so it can leave nothing
    /// behind: then running attempts are ended in order, and resumed elsewhere.
    #[must_use]
    pub const fn order(self, is_first: bool) -> Order {
        match self.on_stop {
            OnStop::Leave if is_first => Order::End,
            OnStop::Leave => Order::Leave,
            OnStop::End => Order::End,
            OnStop::Drain => Order::Drain { within: self.drain_timeout },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_beat_the_file_and_a_plain_start_ends_what_runs() {
        let file = || StopFlags { on_stop: Some(OnStop::Drain), drain_timeout: Some("90s".to_owned()) };
        let within = Duration::from_secs(90);
        let drain = StopFlags::default().resolve(file()).unwrap();
        assert_eq!(drain.order(false), Order::Drain { within });
        let flags = StopFlags { on_stop: Some(OnStop::Leave), drain_timeout: None };
        let leave = flags.resolve(file()).unwrap();
        assert_eq!((leave.order(false), leave.order(true)), (Order::Leave, Order::End));
        assert_eq!(StopFlags::default().resolve(StopFlags::default()).unwrap().order(false), Order::End);
        let bad = StopFlags { drain_timeout: Some("soon".to_owned()), ..StopFlags::default() };
        let error = bad.resolve(StopFlags::default()).unwrap_err().to_string();
        assert!(error.starts_with("drain_timeout is \"soon\": must be"), "{error}");
    }
}
