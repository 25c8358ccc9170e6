//! Days and months of UTC, from a wall clock in milliseconds.
//! Knows the Gregorian calendar; refuses to know a clock and a time zone.

use crate::budgets::BudgetPeriod;
use crate::time::Wall;

const DAY_MS: i64 = 86_400_000;

/// When the period began that `wall` is in. One that never begins anew began in 1970.
pub(crate) fn beginning(period: BudgetPeriod, wall: Wall) -> Wall {
    let day = wall.0.div_euclid(DAY_MS);
    match period {
        BudgetPeriod::Total => Wall(0),
        BudgetPeriod::Day => Wall(day * DAY_MS),
        BudgetPeriod::Month => {
            let (year, month) = month_of(day);
            Wall(first_day(year, month) * DAY_MS)
        }
    }
}

/// When the period after the one that began at `begun` begins.
pub(crate) fn next(period: BudgetPeriod, begun: Wall) -> Option<Wall> {
    let day = begun.0.div_euclid(DAY_MS);
    match period {
        BudgetPeriod::Total => None,
        BudgetPeriod::Day => Some(Wall((day + 1) * DAY_MS)),
        BudgetPeriod::Month => {
            let (year, month) = month_of(day);
            let (year, month) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
            Some(Wall(first_day(year, month) * DAY_MS))
        }
    }
}

/// Year and month of a day counted from 1970 (Howard Hinnant, `civil_from_days`, public domain).
fn month_of(day: i64) -> (i64, i64) {
    let shifted = day + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month)
}

/// Days from 1970 to the first of a month (`days_from_civil`).
fn first_day(year: i64, month: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let from_march = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * from_march + 2) / 5;
    let of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year;
    era * 146_097 + of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-21 13:30:00 UTC.
    const NOW: Wall = Wall(1_795_267_800_000);

    #[test]
    fn a_day_begins_at_midnight_and_the_next_a_day_later() {
        let begun = beginning(BudgetPeriod::Day, NOW);
        assert_eq!(begun, Wall(1_795_219_200_000));
        assert_eq!(next(BudgetPeriod::Day, begun), Some(Wall(begun.0 + DAY_MS)));
        assert_eq!(beginning(BudgetPeriod::Day, Wall(begun.0 - 1)), Wall(begun.0 - DAY_MS));
    }

    #[test]
    fn months_have_their_lengths_over_years_and_leap_days() {
        let november = beginning(BudgetPeriod::Month, NOW);
        assert_eq!(november, Wall(1_793_491_200_000), "2026-11-01");
        let mut begun = november;
        let mut days = Vec::new();
        for _ in 0..17 {
            let after = next(BudgetPeriod::Month, begun).expect("there is one");
            assert_eq!(beginning(BudgetPeriod::Month, after), after);
            assert_eq!(beginning(BudgetPeriod::Month, Wall(after.0 - 1)), begun);
            days.push((after.0 - begun.0) / DAY_MS);
            begun = after;
        }
        // From November 2026 to March 2028, which is after a leap day.
        assert_eq!(days, [30, 31, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31, 31, 29, 31]);
    }

    #[test]
    fn what_never_begins_anew_has_one_period() {
        assert_eq!(beginning(BudgetPeriod::Total, NOW), Wall(0));
        assert_eq!(next(BudgetPeriod::Total, Wall(0)), None);
    }
}
