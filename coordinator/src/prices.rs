//! The price list in force: the built-in one, or the operator's file before it.
//! Knows the file and when it is right; what a request costs is [`orch_proto::prices`]', and the CLI's own figures hold
//! wherever a result was seen.
//!
//! ```toml
//! as_of = "2026-11-20"
//!
//! [[model]]
//! prefix = "claude-opus-5"   # beginning of the model's name; the longest that fits counts
//! class = "opus"             # models that share a rate limit
//! input = 5.0                # US dollars for a million tokens
//! output = 25.0
//! cache_read = 0.5           # default: a tenth of input
//! cache_write = 6.25         # default: input and a quarter
//! ```

use orch_proto::prices::{PRICES_AS_OF, Prices};
use orch_proto::v1::ModelPrice;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

/// Dearest price that is believed, in US dollars for a million tokens: more is a slip of the decimal point.
const MAX_USD: f64 = 10_000.0;
/// Most rows of a file.
const MAX_ROWS: usize = 200;
/// Longest beginning of a name, and longest class.
const MAX_NAME_BYTES: usize = 64;

/// A price list and its day.
#[derive(Debug, Clone, PartialEq)]
pub struct PriceList {
    /// The prices.
    pub prices: Prices,
    /// The day of which they are, `2026-11-20`.
    pub as_of: String,
}

impl Default for PriceList {
    fn default() -> Self {
        Self { prices: Prices::default(), as_of: PRICES_AS_OF.to_owned() }
    }
}

/// Why a price file was refused; what was in force stays so.
#[derive(Debug, thiserror::Error)]
pub enum PriceFileError {
    /// It cannot be read.
    #[error("cannot read prices from {path}")]
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
    /// A row cannot be right.
    #[error("{path}: prices of `{prefix}`: {reason}")]
    Row {
        /// The file.
        path: PathBuf,
        /// Beginning of the model's name.
        prefix: String,
        /// What it must be.
        reason: String,
    },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    as_of: String,
    #[serde(default)]
    model: Vec<Row>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    prefix: String,
    class: String,
    input: f64,
    output: f64,
    cache_read: Option<f64>,
    cache_write: Option<f64>,
}

impl PriceList {
    /// The list of `file`, before the built-in one; without a file the built-in one alone. Blocks on the file system.
    ///
    /// # Errors
    /// [`PriceFileError`].
    pub fn load(file: Option<&Path>) -> Result<Self, PriceFileError> {
        let Some(path) = file else { return Ok(Self::default()) };
        let text = std::fs::read_to_string(path)
            .map_err(|source| PriceFileError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, PriceFileError> {
        let unusable = |message: String| PriceFileError::Parse { path: path.to_owned(), message };
        let File { as_of, model } = toml::from_str(text).map_err(|error| unusable(error.to_string()))?;
        if as_of.parse::<jiff::civil::Date>().is_err() {
            return Err(unusable(format!("as_of is `{as_of}`: must be a day such as 2026-11-20")));
        }
        if model.len() > MAX_ROWS {
            return Err(unusable(format!("{} rows: at most {MAX_ROWS}", model.len())));
        }
        let mut rows: Vec<ModelPrice> = Vec::with_capacity(model.len());
        for row in model {
            let refused = |reason: String| PriceFileError::Row {
                path: path.to_owned(),
                prefix: row.prefix.clone(),
                reason,
            };
            if rows.iter().any(|other| other.prefix == row.prefix) {
                return Err(refused("named twice".to_owned()));
            }
            rows.push(row.price().map_err(refused)?);
        }
        Ok(Self { prices: Prices::new(rows), as_of })
    }
}

impl Row {
    fn price(&self) -> Result<ModelPrice, String> {
        for (name, text) in [("prefix", &self.prefix), ("class", &self.class)] {
            let empty_class = name == "class" && text.is_empty();
            if empty_class || text.len() > MAX_NAME_BYTES || !text.bytes().all(|byte| byte.is_ascii_graphic())
            {
                return Err(format!("{name} must have at most {MAX_NAME_BYTES} printable characters"));
            }
        }
        Ok(ModelPrice {
            prefix: self.prefix.clone(),
            model_class: self.class.clone(),
            input: micro("input", self.input)?,
            output: micro("output", self.output)?,
            cache_read: micro("cache_read", self.cache_read.unwrap_or(self.input * 0.1))?,
            cache_write: micro("cache_write", self.cache_write.unwrap_or(self.input * 1.25))?,
        })
    }
}

/// US dollars as millionths of one.
fn micro(name: &str, usd: f64) -> Result<u64, String> {
    if !(0.0..=MAX_USD).contains(&usd) {
        return Err(format!(
            "{name} is {usd}: must be between 0 and {MAX_USD} US dollars for a million tokens"
        ));
    }
    // Within 10^10, which a double holds exactly.
    Ok((usd * 1e6).round() as u64)
}

/// The list in force; a reload replaces it whole.
#[derive(Debug, Default)]
pub struct PricesInForce {
    list: RwLock<Arc<PriceList>>,
}

impl PricesInForce {
    /// The list now.
    #[must_use]
    pub fn current(&self) -> Arc<PriceList> {
        Arc::clone(&self.list.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts another list in force. What is recorded already stays as it is; agents hear of it with their next session.
    pub fn replace(&self, list: PriceList) {
        *self.list.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(list);
    }
}

#[cfg(test)]
mod docs_tests;
#[cfg(test)]
mod tests {
    use super::*;
    use orch_proto::v1::ModelUsage;

    fn parse(text: &str) -> Result<PriceList, PriceFileError> {
        PriceList::parse(text, Path::new("prices.toml"))
    }

    #[test]
    fn a_file_comes_before_the_built_in_list_and_fills_in_the_cache_prices() {
        let row = "[[model]]\nprefix = \"claude-opus-5\"\nclass = \"opus\"\ninput = 6\noutput = 30.5\n";
        let list = parse(&format!("as_of = \"2027-01-02\"\n{row}")).unwrap();
        assert_eq!(list.as_of, "2027-01-02");
        let opus = list.prices.of("claude-opus-5-1");
        assert_eq!(
            (opus.input, opus.output, opus.cache_read, opus.cache_write),
            (6_000_000, 30_500_000, 600_000, 7_500_000)
        );
        let million =
            ModelUsage { model: "claude-haiku-4-5".into(), input_tokens: 1_000_000, ..Default::default() };
        assert_eq!(list.prices.cost(&million), 1_000_000, "other models keep their price");
        assert_eq!(parse("as_of = \"2027-01-02\"").unwrap().prices, Prices::default());
    }

    #[test]
    fn what_cannot_be_right_is_refused_with_its_row() {
        let row = |more: &str| {
            parse(&format!(
                "as_of = \"2027-01-02\"\n[[model]]\nprefix = \"x\"\nclass = \"opus\"\ninput = 5\n{more}\n"
            ))
            .unwrap_err()
            .to_string()
        };
        assert!(row("").contains("missing field `output`"), "{}", row(""));
        assert!(row("output = -1").contains("`x`: output is -1: must be between 0 and 10000"));
        assert!(row("output = nan").contains("output is NaN"));
        assert!(row("output = 1e7").contains("output is 10000000"));
        assert!(row("output = 5\nfree = true").contains("unknown field `free`"));
        let twice = "output = 5\n[[model]]\nprefix = \"x\"\nclass = \"opus\"\ninput = 5\noutput = 5";
        assert!(row(twice).contains("`x`: named twice"));
        assert!(parse("as_of = \"soon\"").unwrap_err().to_string().contains("as_of is `soon`"));
        assert!(parse("").unwrap_err().to_string().contains("as_of"));
        let missing = PriceList::load(Some(Path::new("/nonexistent/prices.toml"))).unwrap_err();
        assert!(matches!(missing, PriceFileError::Read { .. }), "{missing}");
    }
}
