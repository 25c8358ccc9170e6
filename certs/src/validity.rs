//! From when until when a certificate holds.
//!
//! Knows dates inside certificates and their text form. Refuses to read a clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::UnixTime;
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};

/// The dates of a certificate in seconds since 1970, both inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
}

/// How a certificate stands at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Valid,
    NotYet,
    Expired,
}

impl Validity {
    /// Reads the dates of a certificate in DER; `None` if it does not parse.
    pub(crate) fn of(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let validity = certificate.validity();
        Some(Self { not_before: validity.not_before.timestamp(), not_after: validity.not_after.timestamp() })
    }

    pub(crate) fn at(self, now: SystemTime) -> Standing {
        let now = unix_seconds(now);
        if now < self.not_before {
            Standing::NotYet
        } else if now > self.not_after {
            Standing::Expired
        } else {
            Standing::Valid
        }
    }

    /// When it ends; `None` before 1970.
    pub(crate) fn ends(self) -> Option<SystemTime> {
        let seconds = u64::try_from(self.not_after).ok()?;
        UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
    }

    /// True once less than a third of the whole period is left: the usual moment to renew.
    pub(crate) fn due_for_renewal(self, now: SystemTime) -> bool {
        let left = self.not_after.saturating_sub(unix_seconds(now));
        left < self.not_after.saturating_sub(self.not_before) / 3
    }
}

/// `2026-11-20T23:17:00Z`.
pub(crate) fn utc(seconds: i64) -> String {
    let Ok(time) = ASN1Time::from_timestamp(seconds) else {
        return format!("{seconds} s after 1970");
    };
    let t = time.to_datetime();
    let (month, day) = (u8::from(t.month()), t.day());
    format!("{:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", t.year(), t.hour(), t.minute(), t.second())
}

/// Seconds since 1970, negative before.
pub(crate) fn unix_seconds(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_secs()).map_or(i64::MIN, |seconds| -seconds),
    }
}

/// The form the verifiers take; moments before 1970 become 1970.
pub(crate) fn unix_time(time: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn both_ends_of_the_period_belong_to_it() {
        let validity = Validity { not_before: 100, not_after: 400 };
        let standings = [99, 100, 400, 401].map(|s| validity.at(at(s)));
        assert_eq!(standings, [Standing::NotYet, Standing::Valid, Standing::Valid, Standing::Expired]);
    }

    #[test]
    fn renewal_is_due_in_the_last_third() {
        let validity = Validity { not_before: 0, not_after: 300 };
        assert_eq!([100, 200, 201, 900].map(|s| validity.due_for_renewal(at(s))), [false, false, true, true]);
    }

    #[test]
    fn moments_are_printed_in_utc() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_400), "2000-02-29T00:00:00Z");
    }
}
