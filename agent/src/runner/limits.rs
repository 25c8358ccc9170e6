//! Limits that an agent sets for every attempt it runs, beside those an assignment brings. Knows their defaults;
//! enforces nothing.

use crate::gateway::spec::LONGEST_FAILURE;
use std::time::Duration;

const GIB: u64 = 1024 * 1024 * 1024;

/// Limits of an agent. The dead-man switch of each attempt holds all of them but `agent_output_bytes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgentLimits {
    /// Longest wait for the CLI's first event. It comes after a second on an idle host and after 20 on one that starts
    /// 50 at once on two cores.
    pub start: Duration,
    /// How long a child may take to exit once there is nothing more to come: after its result, or after it closed its
    /// output.
    pub linger: Duration,
    /// How long an attempt goes on asking an API that fails, through its gateway.
    pub api_patience: Duration,
    /// Most resident memory of an attempt's process tree in bytes, pages that its processes share counted once for
    /// each. Absent: none; the peak is reported all the same.
    pub memory_bytes: Option<u64>,
    /// Most bytes of output of one attempt.
    pub output_bytes: u64,
    /// Most bytes of output of all attempts that run; the one with the most is stopped.
    pub agent_output_bytes: u64,
}

impl Default for AgentLimits {
    fn default() -> Self {
        Self {
            start: Duration::from_secs(60),
            linger: Duration::from_secs(10),
            api_patience: LONGEST_FAILURE,
            memory_bytes: None,
            output_bytes: GIB,
            agent_output_bytes: 10 * GIB,
        }
    }
}

/// A size such as `512MiB`, `4GiB` or `1048576`, in bytes; `None` when it is none or is 0.
#[must_use]
pub fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let factor = match unit {
        "" | "B" => 1,
        "KiB" | "K" => 1024,
        "MiB" | "M" => 1024 * 1024,
        "GiB" | "G" => GIB,
        "TiB" | "T" => 1024 * GIB,
        _ => return None,
    };
    number.checked_mul(factor).filter(|bytes| *bytes > 0)
}

/// A length of time such as `90s`, `500ms` or `2m`; `None` when it is none or is 0.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.checked_mul(millis).filter(|millis| *millis > 0).map(Duration::from_millis)
}

/// Bytes as people write them, to one decimal: `1.5 GiB`.
#[must_use]
pub fn show_size(bytes: u64) -> String {
    let units = [("GiB", GIB), ("MiB", 1024 * 1024), ("KiB", 1024)];
    match units.into_iter().find(|(_, unit)| bytes >= *unit) {
        // Rounded up: a limit that was passed must not look as if it had just been met.
        Some((name, unit)) => {
            let tenths =
                (bytes / unit).saturating_mul(10).saturating_add(((bytes % unit) * 10).div_ceil(unit));
            format!("{}.{} {name}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} bytes"),
    }
}

fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text.find(|char: char| !char.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_are_read_with_their_unit() {
        for (text, bytes) in
            [("512MiB", 512 << 20), ("4 GiB", 4 << 30), ("1048576", 1 << 20), ("2T", 2 << 40), ("1K", 1024)]
        {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in ["", "0", "GiB", "-1", "1.5GiB", "4 gigs", "99999999999T", "0x10"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
        assert_eq!(parse_duration("90s"), Some(Duration::from_secs(90)));
        assert_eq!(parse_duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(parse_duration("2m"), Some(Duration::from_secs(120)));
        for text in ["", "60", "0s", "s", "1d", "1.5s"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_are_shown_rounded_up() {
        assert_eq!(show_size(GIB), "1.0 GiB");
        assert_eq!(show_size(GIB + 1), "1.1 GiB");
        assert_eq!(show_size(1_610_612_736), "1.5 GiB");
        assert_eq!((show_size(2_048).as_str(), show_size(7).as_str()), ("2.0 KiB", "7 bytes"));
        assert_eq!(show_size(2 * GIB - 1), "2.0 GiB");
    }
}
