//! Limits of credential pools as an operator configures them: `[pools.NAME]` in the settings of the coordinator, or in a
//! file of their own (`--limits`). `docs/limits.md` is the reference.
//! Knows the words of the file and the presets; what becomes of limits is the core's.
//!
//! ```toml
//! [pools.main]
//! preset = "tier-4"
//! max_concurrent = 40
//!
//! [pools.main.models.haiku]
//! requests_per_minute = 8_000
//!
//! [pools."*"]                # every pool without a table of its own
//! requests_per_minute = 50
//! ```

mod presets;
mod table;

pub use self::table::{PoolTable, PoolTables};

use self::presets::{PRESETS, Preset, preset};
use self::table::{BucketTable, ModelTable, Place, found_at};
use crate::prompts::nearest;
use orch_core::limits::{BucketSettings, PoolSettings};
use orch_proto::prices::Prices;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Most pools that a file names; agents have far fewer.
const MAX_POOLS: usize = 256;
/// Most classes of models of one pool.
const MAX_CLASSES: usize = 32;
/// Longest name of a pool, by the rule of agents' settings.
const MAX_NAME: usize = 63;
/// Longest class of models, by the rule of price files.
const MAX_CLASS: usize = 64;
/// Most of anything a minute: a larger number is a slip of the keyboard.
const MAX_A_MINUTE: u64 = 1_000_000_000_000;
/// The name that stands for every pool without a table.
pub const EVERY_OTHER: &str = "*";

/// Limits by the name of the pool, in order, as the core takes them.
pub type Limits = Vec<(Arc<str>, PoolSettings)>;

/// Why limits were refused; what was in force stays so.
#[derive(Debug, thiserror::Error)]
pub enum LimitsError {
    /// The file cannot be read.
    #[error("cannot read limits from {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is not what it should be.
    #[error("{path}: {message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, column and reason.
        message: String,
    },
    /// A limit cannot be what it says.
    #[error("{path}:{line}: pool `{pool}`: {reason}")]
    Pool {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// Name of the pool.
        pool: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
}

/// A file of limits alone.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    pools: PoolTables,
}

/// Reads a file of limits.
///
/// # Errors
/// [`LimitsError`].
pub fn read(path: &Path) -> Result<Limits, LimitsError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| LimitsError::Read { path: path.to_owned(), source })?;
    let file: File = toml::from_str(&text)
        .map_err(|error| LimitsError::Parse { path: path.to_owned(), message: explained(&error) })?;
    checked(&file.pools, path, &text)
}

/// The limits of tables that stand in `text`, which is the content of `path`.
///
/// # Errors
/// [`LimitsError::Pool`], the first.
pub fn checked(tables: &PoolTables, path: &Path, text: &str) -> Result<Limits, LimitsError> {
    let mut limits = Limits::new();
    for (name, table) in &tables.0 {
        let pool = name.get_ref().as_str();
        let refused = |(at, reason): Refused| LimitsError::Pool {
            path: path.to_owned(),
            line: found_at(text, at),
            pool: pool.to_owned(),
            reason,
        };
        let at = name.span().start;
        if limits.len() == MAX_POOLS {
            return Err(refused((at, format!("there are {MAX_POOLS} pools already"))));
        }
        if pool != EVERY_OTHER && !is_name(pool) {
            let rule = "a name is 1 to 63 lower-case letters, digits and dashes, or `*` for every other pool";
            return Err(refused((at, rule.to_owned())));
        }
        limits.push((Arc::from(pool), settings(table, at).map_err(refused)?));
    }
    Ok(limits)
}

/// `first`, and of `second` what `first` says nothing of.
#[must_use]
pub fn before(first: Limits, second: Limits) -> Limits {
    let mut joined: BTreeMap<Arc<str>, PoolSettings> = second.into_iter().collect();
    joined.extend(first);
    joined.into_iter().collect()
}

/// The limits in plain words, a line for each bucket, for `orchd config check`.
#[must_use]
pub fn describe(limits: &Limits) -> String {
    let mut lines = String::new();
    for (pool, settings) in limits {
        let mut told = Vec::new();
        for (class, bucket) in &settings.buckets {
            told.push(format!("{}{}", of_class(class), in_words(bucket)));
        }
        for (class, bucket) in &settings.per_worker {
            told.push(format!("{}each worker {}", of_class(class), in_words(bucket)));
        }
        told.extend(settings.max_concurrent.map(|most| format!("{most} requests at a time")));
        told.extend(
            settings.share_permille.map(|part| format!("{} % of every limit", f64::from(part) / 10.0)),
        );
        told.extend(settings.starts_per_minute.map(|most| format!("{most} starts a minute")));
        let name = format!("pools.{pool}");
        if told.is_empty() {
            told.push("no limits".to_owned());
        }
        for line in told {
            lines.push_str(&format!("{name:<20}{line}\n"));
        }
    }
    lines
}

fn of_class(class: &str) -> String {
    if class.is_empty() { String::new() } else { format!("{class}: ") }
}

fn in_words(bucket: &BucketSettings) -> String {
    let parts =
        [(bucket.requests, "requests"), (bucket.input, "input tokens"), (bucket.output, "output tokens")];
    let told: Vec<String> =
        parts.into_iter().filter_map(|(limit, unit)| Some(format!("{} {unit}", limit?))).collect();
    format!("{} a minute", told.join(", "))
}

/// Where something is wrong, in bytes from the beginning, and what.
type Refused = (usize, String);

fn settings(table: &PoolTable, at: usize) -> Result<PoolSettings, Refused> {
    let base = match &table.preset {
        None => Preset::default(),
        Some(name) => {
            preset(name.get_ref()).ok_or_else(|| unknown_preset(name.get_ref(), name.span().start))?
        }
    };
    let whole = table.limits().over(base.whole)?;
    let shares =
        table.per_worker.as_ref().map_or(Ok(base.per_worker), |share| share.over(base.per_worker))?;
    let mut settings = PoolSettings {
        buckets: rows("", whole),
        per_worker: rows("", shares),
        max_concurrent: count(table.max_concurrent.as_ref(), "max_concurrent")?,
        starts_per_minute: count(table.starts_per_minute.as_ref(), "starts_per_minute")?,
        share_permille: table.share.as_ref().map(part).transpose()?,
    };
    if table.models.len() > MAX_CLASSES {
        return Err((at, format!("at most {MAX_CLASSES} classes of models")));
    }
    for (class, model) in &table.models {
        check_class(class)?;
        let ModelTable { requests_per_minute, input_tokens_per_minute, output_tokens_per_minute, per_worker } =
            model;
        let own = BucketTable {
            requests_per_minute: requests_per_minute.clone(),
            input_tokens_per_minute: input_tokens_per_minute.clone(),
            output_tokens_per_minute: output_tokens_per_minute.clone(),
        };
        // What the class says nothing of is as for the pool.
        let bucket = own.over(whole)?;
        let share = per_worker.as_ref().map_or(Ok(shares), |share| share.over(shares))?;
        settings.buckets.extend(rows(class.get_ref(), bucket));
        settings.per_worker.extend(rows(class.get_ref(), share));
    }
    if settings == PoolSettings::default() {
        return Err((at, "says nothing: give it a preset or a limit, or leave it out".to_owned()));
    }
    Ok(settings)
}

/// A bucket without a limit is none.
fn rows(class: &str, bucket: BucketSettings) -> Vec<(Arc<str>, BucketSettings)> {
    if bucket == BucketSettings::default() { Vec::new() } else { vec![(Arc::from(class), bucket)] }
}

fn check_class(class: &Place<String>) -> Result<(), Refused> {
    let word = class.get_ref();
    let odd = word.is_empty()
        || word.len() > MAX_CLASS
        || word.chars().any(|c| c.is_control() || c.is_whitespace());
    if odd {
        return Err((class.span().start, format!("`{}` is no class of models", word.escape_debug())));
    }
    Ok(())
}

fn count(said: Option<&Place<u32>>, name: &str) -> Result<Option<u32>, Refused> {
    match said {
        Some(zero) if *zero.get_ref() == 0 => Err((
            zero.span().start,
            format!("{name} is 0: nothing would ever start; leave it out for no limit"),
        )),
        said => Ok(said.map(|said| *said.get_ref())),
    }
}

/// A part of a limit, in thousandths.
fn part(said: &Place<f64>) -> Result<u32, Refused> {
    let share = *said.get_ref();
    if !(0.001..=1.0).contains(&share) {
        let text = format!("share is {share}: above 0, such as 0.5 for half of every limit, and at most 1");
        return Err((said.span().start, text));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to lie between 0.001 and 1"
    )]
    Ok((share * 1e3).round() as u32)
}

/// What is taken as it is and was probably not meant: limits of classes that no model in the price list has. A sentence
/// for each.
#[must_use]
pub fn doubts(limits: &Limits, prices: &Prices) -> Vec<String> {
    let known: BTreeSet<&str> = prices.rows().iter().map(|row| row.model_class.as_str()).collect();
    let mut doubts = BTreeSet::new();
    for (pool, settings) in limits {
        for (class, _) in settings.buckets.iter().chain(&settings.per_worker) {
            if class.is_empty() || known.contains(&**class) {
                continue;
            }
            let hint = match nearest(class, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`? "),
                None => String::new(),
            };
            let words = known.iter().copied().collect::<Vec<_>>().join("`, `");
            doubts.insert(format!(
                "pool `{pool}`: no model is of the class `{}`, so its limits hold for nothing: {hint}there are `{words}`; \
                 a price file can name others",
                class.escape_debug()
            ));
        }
    }
    doubts.into_iter().collect()
}

fn unknown_preset(name: &str, at: usize) -> Refused {
    let known = PRESETS.map(|(name, _)| name);
    let hint = match nearest(name, known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("there is `{}`", known.join("`, `")),
    };
    (at, format!("there is no preset `{}`: {hint}", name.escape_debug()))
}

/// Whether a text can name a pool, by the rule of agents' settings.
fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.len() <= MAX_NAME
        && text.bytes().next().is_some_and(plain)
        && text.bytes().all(|byte| plain(byte) || byte == b'-')
}

/// What the parser says, with the name that an unknown one resembles.
#[must_use]
pub fn explained(error: &toml::de::Error) -> String {
    let said = error.to_string();
    let said = said.trim_end();
    let mut quoted = error.message().split('`').skip(1).step_by(2);
    let unknown = error.message().starts_with("unknown field").then(|| quoted.next()).flatten();
    match unknown.and_then(|unknown| nearest(unknown, quoted)) {
        Some(near) => format!("{said}; did you mean `{near}`?"),
        None => said.to_owned(),
    }
}

#[cfg(test)]
mod tests;
