//! Limits of an agent as settings: flags, file and defaults put together. Knows their names and units; enforces nothing.

use clap::Args;

use super::{ConfigError, refused};
use crate::runner::limits::{AgentLimits, parse_duration, parse_size};

const NO_DURATION: &str = "must be a length of time such as 90s, 2m or 500ms";
const NO_SIZE: &str = "must be a size such as 512MiB, 4GiB or a number of bytes";

/// Limits as flags and environment, or a file, give them.
#[derive(Debug, Args, Default)]
pub struct LimitFlags {
    /// Longest wait for the first event of the CLI, for example 90s; then the attempt hangs [default: 60s].
    #[arg(long, env = "ORCH_AGENT_START_LIMIT", value_name = "TIME")]
    pub start_limit: Option<String>,
    /// How long a child may take to exit after its result, or after it closed its output [default: 10s].
    #[arg(long, env = "ORCH_AGENT_LINGER_LIMIT", value_name = "TIME")]
    pub linger_limit: Option<String>,
    /// How long an attempt goes on asking an API that fails, through its gateway, before it ends as `api_error` [default: 150s].
    #[arg(long, env = "ORCH_AGENT_API_PATIENCE", value_name = "TIME")]
    pub api_patience: Option<String>,
    /// Most memory of an attempt's processes together, for example 4GiB; shared pages count for each [default: none].
    #[arg(long, env = "ORCH_AGENT_ATTEMPT_MEMORY", value_name = "SIZE")]
    pub attempt_memory: Option<String>,
    /// Most output of an attempt [default: 1GiB].
    #[arg(long, env = "ORCH_AGENT_ATTEMPT_OUTPUT", value_name = "SIZE")]
    pub attempt_output: Option<String>,
    /// Most output of all running attempts; the one with the most is stopped [default: 10GiB].
    #[arg(long, env = "ORCH_AGENT_OUTPUT", value_name = "SIZE")]
    pub agent_output: Option<String>,
}

impl LimitFlags {
    /// These limits, else those of `file`, else the defaults.
    ///
    /// # Errors
    /// When a value makes no sense.
    pub fn resolve(self, file: Self) -> Result<AgentLimits, ConfigError> {
        let defaults = AgentLimits::default();
        let read = |value: Option<String>, file: Option<String>| value.or(file);
        let start = read(self.start_limit, file.start_limit);
        let linger = read(self.linger_limit, file.linger_limit);
        let patience = read(self.api_patience, file.api_patience);
        let memory = read(self.attempt_memory, file.attempt_memory);
        let output = read(self.attempt_output, file.attempt_output);
        let agent_output = read(self.agent_output, file.agent_output);
        Ok(AgentLimits {
            start: parsed("start_limit", start, parse_duration, NO_DURATION)?.unwrap_or(defaults.start),
            linger: parsed("linger_limit", linger, parse_duration, NO_DURATION)?.unwrap_or(defaults.linger),
            api_patience: parsed("api_patience", patience, parse_duration, NO_DURATION)?
                .unwrap_or(defaults.api_patience),
            memory_bytes: parsed("attempt_memory", memory, parse_size, NO_SIZE)?.or(defaults.memory_bytes),
            output_bytes: parsed("attempt_output", output, parse_size, NO_SIZE)?
                .unwrap_or(defaults.output_bytes),
            agent_output_bytes: parsed("agent_output", agent_output, parse_size, NO_SIZE)?
                .unwrap_or(defaults.agent_output_bytes),
        })
    }
}

fn parsed<T>(
    name: &'static str,
    value: Option<String>,
    parse: fn(&str) -> Option<T>,
    reason: &'static str,
) -> Result<Option<T>, ConfigError> {
    value.map(|text| parse(&text).ok_or_else(|| refused(name, text, reason))).transpose()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn flags_beat_the_file_and_the_file_beats_defaults() {
        let text = |text: &str| Some(text.to_owned());
        let flags =
            LimitFlags { attempt_memory: text("4GiB"), start_limit: text("5s"), ..LimitFlags::default() };
        let file = LimitFlags {
            start_limit: text("9s"),
            linger_limit: text("3s"),
            api_patience: text("2m"),
            ..LimitFlags::default()
        };
        let limits = flags.resolve(file).unwrap();
        assert_eq!((limits.start, limits.linger), (Duration::from_secs(5), Duration::from_secs(3)));
        assert_eq!(limits.api_patience, Duration::from_secs(120));
        assert_eq!((limits.memory_bytes, limits.output_bytes), (Some(4 << 30), 1 << 30));
        let none = LimitFlags::default().resolve(LimitFlags::default()).unwrap();
        assert_eq!(none, AgentLimits::default());
    }

    #[test]
    fn values_that_make_no_sense_are_refused_with_an_example() {
        let flags = LimitFlags { attempt_memory: Some("lots".to_owned()), ..LimitFlags::default() };
        let error = flags.resolve(LimitFlags::default()).unwrap_err().to_string();
        assert_eq!(error, format!("attempt_memory is \"lots\": {NO_SIZE}"));
        let flags = LimitFlags { start_limit: Some("60".to_owned()), ..LimitFlags::default() };
        assert!(flags.resolve(LimitFlags::default()).unwrap_err().to_string().contains("such as 90s"));
    }
}
