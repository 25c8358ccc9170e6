//! How many elements lie within a message, counted in its bytes before anything is made of them.
//!
//! An element of a repeated field costs two bytes on the wire and as much memory as its type has fields: some 500 bytes for
//! a task. Without a bound a message of one mebibyte would become 300 times that, and an upload a hundred gigabytes.
//! Knows which fields hold messages, from the descriptors; refuses to know what they mean.

use std::collections::HashMap;
use std::sync::LazyLock;

use prost::bytes::Buf as _;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use prost::{DecodeError, Message as _};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FileDescriptorSet};

/// Most elements within one message of a call: a run of 100,000 tasks fits, and takes some 60 MiB at the worst.
pub const MAX_PARTS: usize = 110_000;

/// Most elements within the specification of a large run, which may name dependencies, gates and publications of each of
/// its 100,000 tasks.
pub const MAX_SPEC_PARTS: usize = 600_000;

/// Most of them that are no parts of others: tasks, labels and files of context. Tasks are by far the largest.
pub const MAX_SPEC_TASKS: usize = 101_000;

/// Most repeated texts in it, above all dependencies and arguments: each takes 24 bytes of memory, however short.
pub const MAX_SPEC_TEXTS: usize = 4_000_000;

/// Levels that are looked into; the decoder itself stops at 100.
const MAX_DEPTH: usize = 32;

/// A field that holds a message, or texts.
#[derive(Debug)]
struct Field {
    /// `None` for a text, which is looked for only where it may be repeated.
    message: Option<String>,
    /// One that is not repeated is merged when it comes again, and takes its place once.
    repeated: bool,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Messages,
    Texts,
}

/// For each message its fields that hold messages or repeated texts.
type Table = HashMap<String, HashMap<u32, Field>>;

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    // Our own descriptors, which a test decodes; without them nothing is counted.
    let set = FileDescriptorSet::decode(crate::FILE_DESCRIPTOR_SET).unwrap_or_default();
    let mut table = Table::new();
    for file in &set.file {
        let prefix = format!(".{}", file.package());
        file.message_type.iter().for_each(|message| enter(&mut table, &prefix, message));
    }
    table
});

fn enter(table: &mut Table, prefix: &str, message: &DescriptorProto) {
    let name = format!("{prefix}.{}", message.name());
    let fields = message.field.iter().filter_map(|field| {
        let repeated = field.label() == Label::Repeated;
        let message = (field.r#type() == Type::Message).then(|| field.type_name().to_owned());
        let text = repeated && matches!(field.r#type(), Type::String | Type::Bytes);
        let number = u32::try_from(field.number()).ok()?;
        (message.is_some() || text).then_some((number, Field { message, repeated }))
    });
    table.insert(name.clone(), fields.collect());
    message.nested_type.iter().for_each(|nested| enter(table, &name, nested));
}

/// How many messages are elements of repeated fields within the message `name` (`orch.v1.RunSpec`) of these bytes, at any
/// depth; hardly further than one past `most`. What is no message counts as far as it can be read: the decoder will refuse it.
#[must_use]
pub fn count(name: &str, bytes: &[u8], most: usize) -> usize {
    found(name, bytes, (What::Messages, most), MAX_DEPTH)
}

/// As [`count`], without what lies within those elements.
#[must_use]
pub fn count_own(name: &str, bytes: &[u8], most: usize) -> usize {
    found(name, bytes, (What::Messages, most), 0)
}

/// As [`count`], of the texts that are elements of repeated fields.
#[must_use]
pub fn count_texts(name: &str, bytes: &[u8], most: usize) -> usize {
    found(name, bytes, (What::Texts, most), MAX_DEPTH)
}

fn found(name: &str, bytes: &[u8], counted: (What, usize), depth: usize) -> usize {
    let mut found = 0;
    let fields = TABLE.get(&format!(".{name}"));
    // Where it breaks off, so will the decoder.
    let _ = fields.map_or(Ok(()), |fields| look(fields, bytes, counted, depth, &mut found));
    found
}

fn look(
    fields: &HashMap<u32, Field>,
    mut bytes: &[u8],
    (what, most): (What, usize),
    depth: usize,
    found: &mut usize,
) -> Result<(), DecodeError> {
    while bytes.has_remaining() && *found <= most {
        let (field, wire) = decode_key(&mut bytes)?;
        let Some(inner) = fields.get(&field).filter(|_| wire == WireType::LengthDelimited) else {
            skip_field(wire, field, &mut bytes, DecodeContext::default())?;
            continue;
        };
        let counted = inner.message.is_some() == (what == What::Messages);
        *found += usize::from(inner.repeated && counted);
        let length = usize::try_from(decode_varint(&mut bytes)?).unwrap_or(usize::MAX);
        let Some((part, rest)) = bytes.split_at_checked(length) else { return Ok(()) };
        bytes = rest;
        let within = inner.message.as_ref().and_then(|message| TABLE.get(message));
        if let Some(fields) = within.filter(|_| depth > 0) {
            look(fields, part, (what, most), depth - 1, found)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1;

    #[test]
    fn messages_are_counted_at_every_depth_and_texts_are_not() {
        let task = |id: &str| v1::TaskSpec {
            task_id: id.into(),
            runner: Some(v1::task_spec::Runner::Noop(v1::NoopTask {})),
            ..Default::default()
        };
        let spec =
            v1::RunSpec { name: "x".repeat(500), tasks: vec![task("a"), task("b")], ..Default::default() };
        assert_eq!(count("orch.v1.RunSpec", &spec.encode_to_vec(), 99), 2, "what runs a task is no element");
        let request = v1::SubmitRunRequest { spec: Some(spec), ..Default::default() };
        assert_eq!(count("orch.v1.SubmitRunRequest", &request.encode_to_vec(), 99), 2);
        assert_eq!(
            count("orch.v1.SubmitRunRequest", &request.encode_to_vec(), 0),
            1,
            "no further than needed"
        );
        let labels = v1::RunSpec { labels: [("a".into(), "b".into())].into(), ..Default::default() };
        assert_eq!(count("orch.v1.RunSpec", &labels.encode_to_vec(), 99), 1, "an entry of a map is one too");
    }

    #[test]
    fn what_a_message_holds_itself_and_the_texts_in_it_are_counted_apart() {
        let task = v1::TaskSpec {
            dependencies: vec![String::new(); 3],
            publish: vec![v1::Publication::default(); 2],
            ..Default::default()
        };
        let spec = v1::RunSpec { tasks: vec![task.clone(), task], ..Default::default() }.encode_to_vec();
        assert_eq!(count("orch.v1.RunSpec", &spec, 99), 6);
        assert_eq!(count_own("orch.v1.RunSpec", &spec, 99), 2);
        assert_eq!(count_texts("orch.v1.RunSpec", &spec, 99), 6);
        assert_eq!(count_texts("orch.v1.RunSpec", &spec, 1), 2, "no further than needed");
    }

    #[test]
    fn bytes_that_are_no_message_are_counted_as_far_as_they_go() {
        for bytes in [&[0x12, 0][..], &[0x12, 0, 0xff], &[0x12, 0, 0x12, 0x7f, 1], &[0x12]] {
            assert!(count("orch.v1.RunSpec", bytes, 99) <= 2, "{bytes:?}");
        }
        assert_eq!(count("orch.v1.RunSpec", &[0x12, 0].repeat(1_000), 99), 100);
        assert_eq!(count("orch.v1.NoSuchThing", &[0x12, 0], 99), 0);
    }
}
