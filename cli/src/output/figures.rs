//! Times, durations, money and counts as people and scripts read them.
//! Knows figures; refuses to know what they measure.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// A moment of the wire; `None` if it is unset or out of range.
pub(crate) fn moment(at: Option<prost_types::Timestamp>) -> Option<Timestamp> {
    let at = at?;
    Timestamp::new(at.seconds, at.nanos).ok()
}

/// A duration of the wire; `None` if it is unset or negative.
pub(crate) fn span(duration: Option<prost_types::Duration>) -> Option<Duration> {
    Duration::try_from(duration?).ok()
}

/// A moment in JSON: RFC 3339, UTC, milliseconds.
pub(crate) fn rfc3339(at: Option<prost_types::Timestamp>) -> Option<String> {
    moment(at).map(|at| format!("{:.3}", at))
}

/// A duration in JSON: seconds, to the millisecond.
pub(crate) fn seconds(duration: Option<prost_types::Duration>) -> Option<f64> {
    span(duration).map(|duration| (duration.as_secs_f64() * 1e3).round() / 1e3)
}

/// The time of day, for lines that are read as they appear.
pub(crate) fn clock(at: Timestamp, zone: &TimeZone) -> String {
    at.to_zoned(zone.clone()).strftime("%H:%M:%S").to_string()
}

/// A duration in two figures: `8ms`, `0.4s`, `21s`, `1m12s`, `2h04m`, `3d04h`.
pub(crate) fn short(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 if (1..100).contains(&duration.as_millis()) => format!("{}ms", duration.as_millis()),
        0..10 => {
            let tenths = duration.as_millis() / 100;
            if tenths.is_multiple_of(10) {
                format!("{seconds}s")
            } else {
                format!("{}.{}s", tenths / 10, tenths % 10)
            }
        }
        10..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// From `then` to `now`; zero if the clocks disagree.
pub(crate) fn between(then: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(then)).unwrap_or_default()
}

/// Millionths of a dollar in JSON.
pub(crate) fn usd(micro: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "exact below nine billion dollars")]
    let micro = micro as f64;
    micro / 1e6
}

/// The same for a usage; nothing where nothing was spent.
pub(crate) fn spent(usage: Option<&orch_proto::v1::Usage>) -> String {
    match usage {
        Some(usage) if usage.cost_micro_usd > 0 => dollars(usage.cost_micro_usd, usage.estimated),
        Some(_) | None => String::new(),
    }
}

/// Millionths of a dollar for people: cents, or four places below a cent; what is even less is said to be. `~` marks an estimate.
pub(crate) fn dollars(micro: u64, estimated: bool) -> String {
    let mark = if estimated { "~" } else { "" };
    if (1..50).contains(&micro) {
        format!("{mark}<$0.0001")
    } else if micro == 0 || micro >= 10_000 {
        format!("{mark}${:.2}", usd(micro))
    } else {
        format!("{mark}${:.4}", usd(micro))
    }
}

/// A count in three figures: `950`, `1.2k`, `312k`, `4.5M`.
pub(crate) fn count(number: u64) -> String {
    let tenths = |unit: u64, letter: char| {
        let tenths = number / (unit / 10);
        if tenths < 100 {
            format!("{}.{}{letter}", tenths / 10, tenths % 10)
        } else {
            format!("{}{letter}", tenths / 10)
        }
    };
    match number {
        0..1_000 => number.to_string(),
        1_000..1_000_000 => tenths(1_000, 'k'),
        1_000_000..1_000_000_000 => tenths(1_000_000, 'M'),
        _ => tenths(1_000_000_000, 'G'),
    }
}

/// Bytes in binary units: `512 B`, `1.5 MiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "two figures are shown")]
    let mut amount = bytes as f64 / 1024.0;
    let mut unit = 0;
    while amount >= 1024.0 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    if amount < 10.0 {
        format!("{amount:.1} {}", UNITS[unit])
    } else {
        format!("{amount:.0} {}", UNITS[unit])
    }
}

/// `1 task`, `3 tasks`.
pub(crate) fn plural(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_figures() {
        let shown = [0, 8, 400, 1000, 9900, 21_400, 72_000, 7_440_000, 273_600_000]
            .map(|ms| short(Duration::from_millis(ms)));
        assert_eq!(shown, ["0s", "8ms", "0.4s", "1s", "9.9s", "21s", "1m12s", "2h04m", "3d04h"]);
    }

    #[test]
    fn money_shows_cents_or_less_and_marks_estimates() {
        let shown = [(0, false), (7, true), (1_600, false), (80_000, false), (2_140_000, true)]
            .map(|(m, e)| dollars(m, e));
        assert_eq!(shown, ["$0.00", "~<$0.0001", "$0.0016", "$0.08", "~$2.14"]);
    }

    #[test]
    fn counts_have_three_figures() {
        assert_eq!(
            [999, 1_200, 99_999, 312_000, 4_500_000].map(count),
            ["999", "1.2k", "99k", "312k", "4.5M"]
        );
    }

    #[test]
    fn bytes_have_binary_units() {
        assert_eq!([12, 1_536, 52_428_800].map(bytes), ["12 B", "1.5 KiB", "50 MiB"]);
    }

    #[test]
    fn moments_are_rfc_3339_in_utc() {
        let at = prost_types::Timestamp { seconds: 1_795_210_013, nanos: 248_000_000 };
        assert_eq!(rfc3339(Some(at)).as_deref(), Some("2026-11-20T21:26:53.248Z"));
        assert_eq!(rfc3339(None), None);
        assert_eq!(seconds(Some(prost_types::Duration { seconds: 21, nanos: 345_600_000 })), Some(21.346));
        assert_eq!(clock(moment(Some(at)).unwrap(), &TimeZone::UTC), "21:26:53");
    }
}
