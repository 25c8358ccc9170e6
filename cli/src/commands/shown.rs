//! One value or a list in the shape that was asked for. Knows shapes; what people read is written by whoever calls.

use schemars::JsonSchema;
use serde::Serialize;

use crate::args::Format;
use crate::failure::Outcome;
use crate::output::Out;

/// One value: `name` for the format of names, `people` for a terminal.
pub(super) fn one<T: Serialize + JsonSchema>(
    out: &Out,
    value: &T,
    name: &str,
    people: impl FnOnce() -> Outcome<()>,
) -> Outcome<()> {
    match out.format {
        Format::Table => people(),
        Format::Json | Format::Jsonl => out.json(value),
        Format::Name => out.name(name),
        Format::None => Ok(()),
    }
}

/// A list of values, with a name for each.
pub(super) fn list<'a, T: Serialize + JsonSchema>(
    out: &Out,
    values: &[T],
    names: impl IntoIterator<Item = &'a str>,
    people: impl FnOnce() -> Outcome<()>,
) -> Outcome<()> {
    match out.format {
        Format::Table => people(),
        Format::Json | Format::Jsonl => out.json_list(values),
        Format::Name => names.into_iter().try_for_each(|name| out.name(name)),
        Format::None => Ok(()),
    }
}
