//! Moments as people asked to see them: how long ago, as RFC 3339 in UTC, or as seconds since 1970. JSON does not pass
//! here: it always has RFC 3339. Knows the clock and the time zone; refuses to know what happened then.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::figures::{between, clock, short};
use crate::args::TimeStyle;

/// The clock, and how what it says is shown.
#[derive(Debug, Clone)]
pub(crate) struct Times {
    style: TimeStyle,
    /// Stands for the clock in tests.
    fixed: Option<Timestamp>,
    /// Stands for the zone of this machine in tests.
    zone: Option<TimeZone>,
}

impl Times {
    /// The clock and zone of this machine.
    pub(crate) fn new(style: TimeStyle) -> Self {
        Self { style, fixed: None, zone: None }
    }

    /// A clock that stands, in UTC.
    #[cfg(test)]
    pub(crate) fn fixed(style: TimeStyle, now: Timestamp) -> Self {
        Self { style, fixed: Some(now), zone: Some(TimeZone::UTC) }
    }

    /// Now.
    pub(crate) fn now(&self) -> Timestamp {
        self.fixed.unwrap_or_else(Timestamp::now)
    }

    /// A moment in a table: its age, or itself; empty if there is none.
    pub(crate) fn cell(&self, at: Option<Timestamp>) -> String {
        let Some(at) = at else { return String::new() };
        self.absolute(at).unwrap_or_else(|| short(between(at, self.now())))
    }

    /// The title of a column of [`Self::cell`]: one for ages, one for moments.
    pub(crate) fn title(&self, age: &'static str, moment: &'static str) -> &'static str {
        match self.style {
            TimeStyle::Relative => age,
            TimeStyle::Iso | TimeStyle::Unix => moment,
        }
    }

    /// A moment in front of a line that is read as it appears: the time of day, or the moment itself.
    pub(crate) fn stamp(&self, at: Timestamp) -> String {
        self.absolute(at).unwrap_or_else(|| clock(at, &self.zone.clone().unwrap_or_else(TimeZone::system)))
    }

    /// A moment that is `left` away by somebody else's reckoning, as one reads it here: `until 17:05:00`. The clocks of two
    /// machines need not agree for that.
    pub(crate) fn until(&self, left: Duration) -> String {
        let at = self.now().checked_add(left).unwrap_or(Timestamp::MAX);
        format!("until {}", self.stamp(at))
    }

    fn absolute(&self, at: Timestamp) -> Option<String> {
        match self.style {
            TimeStyle::Relative => None,
            TimeStyle::Iso => Some(format!("{at:.0}")),
            TimeStyle::Unix => Some(at.as_second().to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_an_age_a_date_or_a_number() {
        let at = Timestamp::from_second(1_795_210_013).unwrap();
        let now = Timestamp::from_second(1_795_210_013 + 75).unwrap();
        let shown = |style| {
            let times = Times::fixed(style, now);
            [times.cell(Some(at)), times.stamp(at), times.title("AGE", "CREATED").to_owned()]
        };
        assert_eq!(shown(TimeStyle::Relative), ["1m15s", "21:26:53", "AGE"]);
        assert_eq!(shown(TimeStyle::Iso), ["2026-11-20T21:26:53Z", "2026-11-20T21:26:53Z", "CREATED"]);
        assert_eq!(shown(TimeStyle::Unix), ["1795210013", "1795210013", "CREATED"]);
        assert_eq!(Times::fixed(TimeStyle::Iso, now).cell(None), "");
        let until = Times::fixed(TimeStyle::Relative, at).until(Duration::from_secs(150));
        assert_eq!(until, "until 21:29:23");
    }
}
