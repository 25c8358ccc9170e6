//! Spending by the hour, for the forecast of the day and the month.
//! Knows hours of UTC and sums; refuses to know what was bought.
//!
//! # The rule, as `basis` says it in short
//!
//! With `f` the part of the day that has passed, the rest of the day is expected to bring
//! `f` × (today's pace, kept up) + (1 − `f`) × (mean of what the same rest of the day brought on the days before, at
//! most 7). A further day of the month is expected to bring the mean of those days and of today, forecast.

use std::collections::BTreeMap;

use jiff::civil::Date;
use orch_core::ids::TenantId;
use orch_proto::v1::CostForecast;

use super::page::MILLIS_A_DAY;

const MILLIS_AN_HOUR: i64 = MILLIS_A_DAY / 24;
/// Hours kept: more than the longest month and the week before it.
const KEEP_HOURS: i64 = 40 * 24;
/// Days before today that are looked at.
const DAYS: i64 = 7;

/// Days before today of which a start must read the ledger.
pub const SEED_DAYS: u32 = 40;

/// What was spent in each hour, by tenant, in millionths of a US dollar. At most 40 days of each.
#[derive(Debug, Default)]
pub struct Pace {
    hours: BTreeMap<(TenantId, i64), i128>,
}

impl Pace {
    /// Adds what was recorded at `millis`.
    pub fn add(&mut self, tenant: TenantId, millis: i64, micro_usd: i128) {
        let hour = millis.div_euclid(MILLIS_AN_HOUR);
        *self.hours.entry((tenant, hour)).or_default() += micro_usd;
        let least = hour - KEEP_HOURS;
        // Old ones go one at a time, as new ones come.
        if let Some((&(_, first), _)) = self.hours.range((tenant, i64::MIN)..).next()
            && first < least
        {
            self.hours.remove(&(tenant, first));
        }
    }

    /// What all tenants spent on the day of `millis`.
    #[must_use]
    pub fn on_day_of(&self, millis: i64) -> u64 {
        let day = millis.div_euclid(MILLIS_A_DAY);
        let of_day = self.hours.iter().filter(|((_, hour), _)| hour.div_euclid(24) == day);
        positive(of_day.map(|(_, micro)| micro).sum())
    }

    /// What will be spent, at `now`; nothing where nothing was yet.
    #[must_use]
    pub fn forecast(&self, tenant: TenantId, now: i64) -> Option<CostForecast> {
        let (first, _) = self.hours.range((tenant, i64::MIN)..=(tenant, i64::MAX)).next()?;
        let today = now.div_euclid(MILLIS_A_DAY);
        let passed = now.rem_euclid(MILLIS_A_DAY);
        let spent = self.hours_of(tenant, today * 24, (today + 1) * 24);
        // Days before the first entry are not days on which nothing was spent.
        let days = (today - first.1.div_euclid(24)).clamp(0, DAYS);
        let rests = (1..=days).map(|back| self.rest_of_day(tenant, now - back * MILLIS_A_DAY));
        let usual_rest = mean(rests.sum(), days);
        let left = MILLIS_A_DAY - passed;
        let rest = if days == 0 {
            // Without any history the pace is all there is; that of a young day is worth little.
            spent * i128::from(left) / i128::from(passed.max(MILLIS_AN_HOUR))
        } else {
            // f × spent × left / passed = spent × left / day.
            (spent * i128::from(left) + usual_rest * i128::from(left)) / i128::from(MILLIS_A_DAY)
        };
        let day = spent + rest.max(0);
        let whole =
            (1..=days).map(|back| self.hours_of(tenant, (today - back) * 24, (today - back + 1) * 24));
        let a_day = (whole.sum::<i128>() + day) / i128::from(days + 1);
        let (month_start, days_left) = month_of(now)?;
        let before = self.hours_of(tenant, month_start.div_euclid(MILLIS_AN_HOUR), today * 24);
        Some(CostForecast {
            today_micro_usd: positive(spent),
            day_micro_usd: positive(day),
            month_so_far_micro_usd: positive(before + spent),
            month_micro_usd: positive(before + day + a_day.max(0) * i128::from(days_left)),
            basis: basis(days),
        })
    }

    /// What was spent in the hours from `from` up to `to`, without that one.
    fn hours_of(&self, tenant: TenantId, from: i64, to: i64) -> i128 {
        self.hours.range((tenant, from)..(tenant, to)).map(|(_, micro)| micro).sum()
    }

    /// What was spent after `millis` on its day; of the hour that is cut, its share.
    fn rest_of_day(&self, tenant: TenantId, millis: i64) -> i128 {
        let hour = millis.div_euclid(MILLIS_AN_HOUR);
        let left = MILLIS_AN_HOUR - millis.rem_euclid(MILLIS_AN_HOUR);
        let cut = self.hours_of(tenant, hour, hour + 1) * i128::from(left) / i128::from(MILLIS_AN_HOUR);
        cut + self.hours_of(tenant, hour + 1, (hour.div_euclid(24) + 1) * 24)
    }
}

fn mean(sum: i128, count: i64) -> i128 {
    if count == 0 { 0 } else { sum / i128::from(count) }
}

fn positive(micro: i128) -> u64 {
    u64::try_from(micro.max(0)).unwrap_or(u64::MAX)
}

/// Start of the month of a moment, and the whole days that come after its day.
fn month_of(millis: i64) -> Option<(i64, i64)> {
    let date = jiff::Timestamp::from_millisecond(millis).ok()?.to_zoned(jiff::tz::TimeZone::UTC).date();
    let first: Date = date.first_of_month();
    let start = first.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_millisecond();
    Some((start, i64::from(date.days_in_month()) - i64::from(date.day())))
}

fn basis(days: i64) -> String {
    match days {
        0 => "the pace of today alone: there is no earlier day".to_owned(),
        1 => "the pace of today and the same hours of the day before".to_owned(),
        _ => format!("the pace of today and the same hours of the {days} days before"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: TenantId = TenantId(1);
    /// 2025-11-21, a Friday, 00:00 UTC.
    const MIDNIGHT: i64 = 1_763_683_200_000;
    const DAY: i64 = MILLIS_A_DAY;
    const HOUR: i64 = MILLIS_AN_HOUR;

    fn at(pace: &Pace, now: i64) -> CostForecast {
        pace.forecast(T, now).unwrap()
    }

    #[test]
    fn nothing_is_forecast_of_nothing() {
        assert_eq!(Pace::default().forecast(T, MIDNIGHT), None);
    }

    #[test]
    fn without_history_the_pace_is_kept_up() {
        let mut pace = Pace::default();
        pace.add(T, MIDNIGHT + HOUR, 6_000_000);
        let noon = at(&pace, MIDNIGHT + 12 * HOUR);
        assert_eq!((noon.today_micro_usd, noon.day_micro_usd), (6_000_000, 12_000_000));
        // 9 further days of November at today's figure.
        assert_eq!(noon.month_micro_usd, 12_000_000 * 10);
        assert!(noon.basis.contains("no earlier day"), "{}", noon.basis);
        let early = at(&pace, MIDNIGHT + 60_000);
        assert!(early.day_micro_usd < 6_000_000 * 25, "a young day is not blown up");
    }

    #[test]
    fn the_pace_of_today_counts_more_the_older_the_day_and_earlier_days_less() {
        let mut pace = Pace::default();
        // Two earlier days, 24 each, an hour of them 1.
        for back in 1..=2 {
            for hour in 0..24 {
                pace.add(T, MIDNIGHT - back * DAY + hour * HOUR, 1_000_000);
            }
        }
        let quiet = at(&pace, MIDNIGHT + 12 * HOUR);
        assert_eq!(quiet.day_micro_usd, 6_000_000, "half of the usual 12");
        pace.add(T, MIDNIGHT + 3 * HOUR, 36_000_000);
        let busy = at(&pace, MIDNIGHT + 12 * HOUR);
        // Half of (36 at this pace) and half of the usual 12.
        assert_eq!(busy.day_micro_usd, 36_000_000 + 18_000_000 + 6_000_000);
        let late = at(&pace, MIDNIGHT + 18 * HOUR);
        assert_eq!(late.day_micro_usd, 36_000_000 + 9_000_000 + 1_500_000);
        assert!(busy.basis.contains("2 days before"));
        // 48 before, today 60, and 9 days at the mean of 24, 24 and 60.
        assert_eq!(busy.month_so_far_micro_usd, 84_000_000);
        assert_eq!(busy.month_micro_usd, 48_000_000 + 60_000_000 + 9 * 36_000_000);
    }

    #[test]
    fn corrections_tenants_and_a_long_time_do_not_add_up() {
        let mut pace = Pace::default();
        pace.add(T, MIDNIGHT, 5);
        pace.add(T, MIDNIGHT, -9);
        pace.add(TenantId(2), MIDNIGHT, 3);
        assert_eq!(at(&pace, MIDNIGHT + 1).today_micro_usd, 0, "never below nothing");
        assert_eq!(pace.on_day_of(MIDNIGHT + HOUR), 0, "all tenants: 5 - 9 + 3");
        for hour in 0..3_000 {
            pace.add(T, MIDNIGHT + hour * HOUR, 1);
        }
        assert!(pace.hours.len() <= usize::try_from(KEEP_HOURS).unwrap() + 3, "{}", pace.hours.len());
    }
}
