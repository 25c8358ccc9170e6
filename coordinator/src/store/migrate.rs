//! From schema to schema: what a record of an older version becomes. Knows payloads where a step changes them; the copying
//! of a whole store is [`crate::storage`]'s, and the conversion of an export that of [`super::transfer`].
//!
//! | Schema | Since | What changed |
//! |---|---|---|
//! | 1 | the first | |
//! | 2 | restores | the record of ids that must not be given out again: a version that does not know it would |
//!
//! A step sees one record at a time, in key order, and may change its payload or drop it. Steps follow each other without
//! a gap, so that any older store becomes a current one.

use super::key::Key;
use super::record::SCHEMA;

/// What a record becomes; `None` when it is not kept. The text says what is wrong with one that cannot be converted.
pub type Convert = fn(&Key, Vec<u8>) -> Result<Option<Vec<u8>>, &'static str>;

/// From one schema to the next.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// The older schema.
    pub from: u16,
    /// What becomes of each record.
    pub convert: Convert,
}

/// Every step there is, oldest first.
pub const STEPS: &[Step] = &[Step { from: 1, convert: unchanged }];

fn unchanged(_: &Key, payload: Vec<u8>) -> Result<Option<Vec<u8>>, &'static str> {
    Ok(Some(payload))
}

/// The steps from one schema to this version's.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Conversion {
    steps: &'static [Step],
}

impl Conversion {
    /// None for a schema that no step leads from.
    pub(super) fn from_schema(schema: u32) -> Option<Self> {
        Self::among(STEPS, schema, SCHEMA)
    }

    fn among(steps: &'static [Step], schema: u32, current: u16) -> Option<Self> {
        if schema == u32::from(current) {
            return Some(Self::default());
        }
        let at = steps.iter().position(|step| u32::from(step.from) == schema)?;
        steps.get(at..).map(|steps| Self { steps })
    }

    pub(super) fn convert(&self, key: &Key, payload: Vec<u8>) -> Result<Option<Vec<u8>>, &'static str> {
        self.steps.iter().try_fold(Some(payload), |payload, step| match payload {
            Some(payload) => (step.convert)(key, payload),
            None => Ok(None),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Tenant;

    const MADE_UP: &[Step] = &[
        Step { from: 1, convert: |_, payload| Ok((payload != b"drop").then_some(payload)) },
        Step {
            from: 2,
            convert: |_, payload| if payload == b"bad" { Err("it is bad") } else { Ok(Some(payload)) },
        },
        Step { from: 3, convert: |_, payload| Ok(Some([payload.as_slice(), b"+"].concat())) },
    ];

    #[test]
    fn the_steps_lead_from_the_first_schema_to_the_current_one_without_a_gap() {
        let from: Vec<u16> = STEPS.iter().map(|step| step.from).collect();
        assert_eq!(from, (1..SCHEMA).collect::<Vec<_>>());
        for schema in 1..=SCHEMA {
            assert!(Conversion::from_schema(schema.into()).is_some(), "schema {schema}");
        }
        assert!(Conversion::from_schema(0).is_none());
        assert!(Conversion::from_schema(u32::from(SCHEMA) + 1).is_none());
    }

    #[test]
    fn a_record_goes_through_every_step_behind_its_schema() {
        let key = Key::run(Tenant::DEFAULT, 1);
        let convert = |schema, payload: &[u8]| {
            Conversion::among(MADE_UP, schema, 4).unwrap().convert(&key, payload.to_vec())
        };
        assert_eq!(convert(1, b"x"), Ok(Some(b"x+".to_vec())));
        assert_eq!(convert(1, b"drop"), Ok(None));
        assert_eq!(convert(2, b"drop"), Ok(Some(b"drop+".to_vec())));
        assert_eq!(convert(1, b"bad"), Err("it is bad"));
        assert_eq!(convert(4, b"bad"), Ok(Some(b"bad".to_vec())));
    }
}
