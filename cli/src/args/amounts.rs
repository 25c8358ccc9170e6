//! Ceilings and moments as people write them: `5`, `0.50usd`, `200ktok`, `7d`, `2026-11-01`, `worker=marie`.
//! Knows text; refuses to know which flag it came from.

use std::time::Duration;

use clap::ValueEnum;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use orch_proto::v1::budget_scope::Scope;
use orch_proto::v1::{BudgetLimit, BudgetMode, BudgetPeriod, BudgetScope, TenantBudget};

use super::parse;

/// Most tokens taken as a ceiling: far above anything that could be paid for.
const MAX_TOKENS: u64 = 1_000_000_000_000_000;
/// What a ceiling looks like, for whoever wrote another.
const FORMS: &str = "such as 5, 0.50usd, 200ktok, or both: 5usd,200ktok";

/// A ceiling: dollars, tokens, or both.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Ceiling {
    /// In millionths of a US dollar.
    pub(crate) micro_usd: Option<u64>,
    /// Tokens of every kind.
    pub(crate) tokens: Option<u64>,
}

impl Ceiling {
    /// The same as the wire has it.
    pub(crate) fn limit(self, mode: BudgetMode) -> BudgetLimit {
        BudgetLimit { micro_usd: self.micro_usd, tokens: self.tokens, runs: None, mode: mode.into() }
    }
}

/// `5`, `$5`, `5usd`, `200ktok`, `1.5Mtok`, or two of them with a comma between. A number alone is dollars.
pub(crate) fn ceiling(text: &str) -> Result<Ceiling, String> {
    let mut ceiling = Ceiling::default();
    for part in text.split(',').map(str::trim) {
        let lower = part.to_ascii_lowercase();
        let of_tokens = ["tokens", "token", "tok"].iter().find_map(|unit| lower.strip_suffix(unit));
        let twice = match of_tokens {
            Some(number) => ceiling.tokens.replace(tokens(number)?).is_some(),
            None => {
                let number = lower.strip_suffix("usd").unwrap_or(&lower).trim();
                let dollars = parse::budget(number);
                let sum = match number.trim_start_matches('$').parse::<f64>() {
                    Ok(_) => dollars?,
                    Err(_) => return Err(format!("{part:?} is no ceiling {FORMS}")),
                };
                ceiling.micro_usd.replace(sum).is_some()
            }
        };
        if twice {
            return Err(format!("{text:?} says the same twice; a ceiling is {FORMS}"));
        }
    }
    Ok(ceiling)
}

/// `2000`, `200k`, `1.5M`, `1G`: tokens.
pub(crate) fn tokens(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let wrong = || format!("{text:?} is not a number of tokens such as 2000, 200k or 1.5M");
    let (number, unit) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 1e3),
        Some((at, 'm' | 'M')) => (&text[..at], 1e6),
        Some((at, 'g' | 'G')) => (&text[..at], 1e9),
        Some(_) => (text, 1.0),
        None => return Err(wrong()),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let tokens = (number * unit).round();
    #[expect(clippy::cast_precision_loss, reason = "exact: below 2^53")]
    let most = MAX_TOKENS as f64;
    if !(tokens.is_finite() && tokens >= 1.0 && tokens <= most) {
        return Err("must be at least one token, and fewer than could ever be paid for".to_owned());
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to lie in 1..=10^15"
    )]
    Ok(tokens as u64)
}

/// What happens when a budget is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ModeWord {
    /// Running attempts end before their next request, and nothing starts
    Hard,
    /// A warning
    Soft,
    /// What runs is finished, and nothing starts
    Drain,
}

impl From<ModeWord> for BudgetMode {
    fn from(mode: ModeWord) -> Self {
        match mode {
            ModeWord::Hard => Self::Hard,
            ModeWord::Soft => Self::Soft,
            ModeWord::Drain => Self::Drain,
        }
    }
}

/// The word of a mode.
pub(crate) fn mode_word(mode: BudgetMode) -> &'static str {
    match mode {
        BudgetMode::Soft => "soft",
        BudgetMode::Drain => "drain",
        BudgetMode::Hard | BudgetMode::Unspecified => "hard",
    }
}

/// When a budget begins anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PeriodWord {
    /// At midnight, UTC
    Day,
    /// On the first of the month, UTC
    Month,
    /// Never
    Total,
}

impl From<PeriodWord> for BudgetPeriod {
    fn from(period: PeriodWord) -> Self {
        match period {
            PeriodWord::Day => Self::Day,
            PeriodWord::Month => Self::Month,
            PeriodWord::Total => Self::Total,
        }
    }
}

/// The word of a period.
pub(crate) fn period_word(period: BudgetPeriod) -> &'static str {
    match period {
        BudgetPeriod::Day => "day",
        BudgetPeriod::Month => "month",
        BudgetPeriod::Total | BudgetPeriod::Unspecified => "total",
    }
}

/// `tenant`, `worker=NAME`, `name=NAME`, `pool=NAME`.
pub(crate) fn scope(text: &str) -> Result<BudgetScope, String> {
    let scope = match text.split_once('=') {
        None if text == "tenant" => Scope::Tenant(TenantBudget {}),
        Some(("worker", name)) if !name.is_empty() => Scope::Worker(name.to_owned()),
        Some(("name", name)) if !name.is_empty() => Scope::Name(name.to_owned()),
        Some(("pool", name)) if !name.is_empty() => Scope::Pool(name.to_owned()),
        Some(_) | None => {
            return Err(format!("{text:?} is none of tenant, worker=NAME, name=NAME and pool=NAME"));
        }
    };
    Ok(BudgetScope { scope: Some(scope) })
}

/// A scope as it is written.
pub(crate) fn scope_words(scope: Option<&BudgetScope>) -> String {
    match scope.and_then(|scope| scope.scope.as_ref()) {
        Some(Scope::Worker(name)) => format!("worker={name}"),
        Some(Scope::Name(name)) => format!("name={name}"),
        Some(Scope::Pool(name)) => format!("pool={name}"),
        Some(Scope::Tenant(TenantBudget {})) | None => "tenant".to_owned(),
    }
}

/// A moment that may be meant from now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// So long ago.
    Ago(Duration),
    /// That one.
    At(Timestamp),
    /// Midnight of today, UTC.
    Today,
    /// Midnight of the first of this month, UTC.
    Month,
}

impl Moment {
    /// The moment, as seen from `now`.
    pub(crate) fn resolve(self, now: Timestamp) -> Timestamp {
        let utc = now.to_zoned(TimeZone::UTC);
        let midnight = |date: Date| date.to_zoned(TimeZone::UTC).map_or(now, |day: Zoned| day.timestamp());
        match self {
            Self::At(at) => at,
            Self::Ago(span) => now.checked_sub(span).unwrap_or(Timestamp::UNIX_EPOCH),
            Self::Today => midnight(utc.date()),
            Self::Month => midnight(utc.date().first_of_month()),
        }
    }
}

/// `7d`, `24h`, `2026-11-01` (its midnight, UTC), `2026-11-01T12:00:00Z`, `today`, `month`.
pub(crate) fn when(text: &str) -> Result<Moment, String> {
    let text = text.trim();
    match text {
        "today" => return Ok(Moment::Today),
        "month" => return Ok(Moment::Month),
        _ => {}
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(Moment::At(at));
    }
    if let Some(day) = text.parse::<Date>().ok().filter(|_| !text.contains(':')) {
        let midnight = day.to_zoned(TimeZone::UTC).map_err(|_| format!("{text:?} is out of range"))?;
        return Ok(Moment::At(midnight.timestamp()));
    }
    // A number alone is a year to one person and seconds to another.
    match humantime::parse_duration(text) {
        Ok(span) if text.parse::<f64>().is_err() => Ok(Moment::Ago(span)),
        Ok(_) | Err(_) => Err(format!("{text:?} is no moment such as 7d, 24h, 2026-11-01, today or month")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ceiling_is_dollars_tokens_or_both() {
        let both = |micro_usd, tokens| Ok(Ceiling { micro_usd, tokens });
        for text in ["5", "$5", "5usd", "5 USD", "5.00"] {
            assert_eq!(ceiling(text), both(Some(5_000_000), None), "{text}");
        }
        for text in ["200ktok", "200k tokens", "200000tok", "0.2Mtok"] {
            assert_eq!(ceiling(text), both(None, Some(200_000)), "{text}");
        }
        assert_eq!(ceiling("0.5usd, 1Mtok"), both(Some(500_000), Some(1_000_000)));
        for bad in ["", "much", "0", "-1", "5,6", "1tok,2tok", "tok", "0tok", "1e30tok", "5eur", "5,", "NaN"]
        {
            assert!(ceiling(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn scopes_are_written_as_they_are_read() {
        for text in ["tenant", "worker=marie", "name=nightly", "pool=team"] {
            assert_eq!(scope_words(Some(&scope(text).unwrap())), text);
        }
        for bad in ["", "marie", "worker=", "run=a/1", "tenant=x"] {
            assert!(scope(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn moments_are_dates_or_ages() {
        let now: Timestamp = "2026-11-20T21:30:00Z".parse().unwrap();
        let at = |text: &str| when(text).unwrap().resolve(now).to_string();
        assert_eq!(at("7d"), "2026-11-13T21:30:00Z");
        assert_eq!(at("2026-11-01"), "2026-11-01T00:00:00Z");
        assert_eq!(at("2026-11-01T12:00:00+01:00"), "2026-11-01T11:00:00Z");
        assert_eq!(
            (at("today"), at("month")),
            ("2026-11-20T00:00:00Z".into(), "2026-11-01T00:00:00Z".into())
        );
        for bad in ["", "yesterday", "7", "2026", "2026-13-01", "-3d"] {
            assert!(when(bad).is_err(), "{bad:?}");
        }
    }
}
