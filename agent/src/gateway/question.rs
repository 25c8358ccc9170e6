//! What a request for a message says of itself: the model, how much it may put out, whether it streams, how much there is
//! to read, and what of it was likely read before. Its texts are weighed and hashed as they go by; none is kept.
//! Knows the fields of the API's requests; refuses to know what the texts say.

use std::fmt;
use std::hash::{DefaultHasher, Hasher};

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Most messages of a conversation that are told apart. The CLI compacts long before.
const MOST_MESSAGES: usize = 10_000;

/// A picture or a document is sent as base64, of which tokens hold far more than of text: a megabyte of picture has about
/// 1,600, a page of a document of a hundred kilobytes about 3,000.
const BYTES_OF_MEDIA: u64 = 8;

/// `ttl` of a mark of the cache that is for an hour. Others are for five minutes.
const AN_HOUR: &str = "1h";

/// A request, read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Question {
    /// `model`, empty where there is none.
    pub model: String,
    /// `max_tokens`.
    pub max_tokens: u64,
    /// `stream`.
    pub stream: bool,
    /// Length of everything a model would read, in bytes.
    pub weight: u64,
    /// The beginnings of what a model would read: its tools and system prompt, then one message more each time.
    pub beginnings: Vec<Beginning>,
    /// Whether any part of it is to be kept in the cache.
    pub caches: bool,
    /// Whether any part of it is to be kept there for an hour.
    pub for_an_hour: bool,
}

/// The beginning of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beginning {
    /// Tells it from others, within one process.
    pub hash: u64,
    /// Its length in bytes.
    pub weight: u64,
}

/// Reads the body of a request.
///
/// # Errors
/// When it is no JSON object, or a field has another type than the API's.
pub fn read(body: &[u8]) -> Result<Question, serde_json::Error> {
    let mut source = serde_json::Deserializer::from_slice(body);
    let parts = source.deserialize_map(Top)?;
    source.end()?;
    Ok(parts.into_question())
}

#[derive(Debug, Clone, Copy, Default)]
struct Part {
    hash: u64,
    weight: u64,
    caches: bool,
    for_an_hour: bool,
}

#[derive(Default)]
struct Parts {
    model: String,
    max_tokens: u64,
    stream: bool,
    tools: Part,
    system: Part,
    messages: Vec<Part>,
    other: Part,
}

impl Parts {
    fn into_question(self) -> Question {
        let mut beginnings = Vec::with_capacity(self.messages.len() + 1);
        let mut weight = 0;
        let (mut caches, mut for_an_hour) = (false, self.other.for_an_hour);
        let mut hasher = DefaultHasher::new();
        hasher.write(self.model.as_bytes());
        // The order in which the API reads.
        for (at, part) in [self.tools, self.system].iter().chain(&self.messages).enumerate() {
            hasher.write_u64(part.hash);
            weight += part.weight;
            caches |= part.caches;
            for_an_hour |= part.for_an_hour;
            if at > 0 {
                beginnings.push(Beginning { hash: hasher.finish(), weight });
            }
        }
        let (model, max_tokens, stream) = (self.model, self.max_tokens, self.stream);
        let weight = weight + self.other.weight;
        Question { model, max_tokens, stream, weight, beginnings, caches, for_an_hour }
    }
}

struct Top;

impl<'de> Visitor<'de> for Top {
    type Value = Parts;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a request for a message")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Parts, A::Error> {
        let mut parts = Parts::default();
        // Of a field that is given twice the API takes the last.
        while let Some(key) = map.next_key::<Name>()? {
            match key.0.as_str() {
                "model" => parts.model = map.next_value()?,
                "max_tokens" => parts.max_tokens = map.next_value()?,
                "stream" => parts.stream = map.next_value::<Option<bool>>()?.unwrap_or_default(),
                "tools" => parts.tools = map.next_value_seed(Whole)?,
                "system" => parts.system = map.next_value_seed(Whole)?,
                "messages" => parts.messages = map.next_value_seed(Each)?,
                "metadata" => drop(map.next_value::<IgnoredAny>()?),
                "cache_control" => parts.other.for_an_hour |= map.next_value_seed(Mark)?,
                _ => {
                    let part = map.next_value_seed(Whole)?;
                    parts.other.weight += part.weight;
                    parts.other.for_an_hour |= part.for_an_hour;
                }
            }
        }
        Ok(parts)
    }
}

/// A name of a field, which may be spelt with escapes.
#[derive(Deserialize)]
struct Name(String);

/// One value as a whole.
struct Whole;

impl<'de> DeserializeSeed<'de> for Whole {
    type Value = Part;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<Part, D::Error> {
        let mut scale = Scale::default();
        source.deserialize_any(Weigh { scale: &mut scale, as_a: Kind::Text })?;
        Ok(scale.into_part())
    }
}

/// A mark of the cache by itself: whether it is for an hour.
struct Mark;

impl<'de> DeserializeSeed<'de> for Mark {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<bool, D::Error> {
        let mut scale = Scale::default();
        source.deserialize_any(Weigh { scale: &mut scale, as_a: Kind::Mark })?;
        Ok(scale.for_an_hour)
    }
}

/// A list, each value of it by itself.
struct Each;

impl<'de> DeserializeSeed<'de> for Each {
    type Value = Vec<Part>;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<Vec<Part>, D::Error> {
        source.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Each {
    type Value = Vec<Part>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of messages")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<Part>, A::Error> {
        let mut parts: Vec<Part> = Vec::new();
        while let Some(part) = list.next_element_seed(Whole)? {
            let is_full = parts.len() >= MOST_MESSAGES;
            match parts.last_mut().filter(|_| is_full) {
                // Together with the last: weighed all the same, and no beginning that was seen before.
                Some(last) => {
                    last.hash = last.hash.rotate_left(1) ^ part.hash;
                    last.weight += part.weight;
                    last.caches |= part.caches;
                    last.for_an_hour |= part.for_an_hour;
                }
                None => parts.push(part),
            }
        }
        Ok(parts)
    }
}

/// What goes by.
#[derive(Default)]
struct Scale {
    hasher: DefaultHasher,
    weight: u64,
    caches: bool,
    for_an_hour: bool,
}

impl Scale {
    fn into_part(self) -> Part {
        let Self { hasher, weight, caches, for_an_hour } = self;
        Part { hash: hasher.finish(), weight, caches, for_an_hour }
    }
}

/// Weighs and hashes a value of any kind. Marks of the cache are left out: they move from message to message.
struct Weigh<'a> {
    scale: &'a mut Scale,
    as_a: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    /// Base64 of something that is no text.
    Media,
    /// A mark of the cache: only how long it is meant for counts.
    Mark,
}

impl Weigh<'_> {
    /// The same for a part of it.
    const fn part(&mut self, as_a: Kind) -> Weigh<'_> {
        let as_a = if matches!(self.as_a, Kind::Mark) { Kind::Mark } else { as_a };
        Weigh { scale: &mut *self.scale, as_a }
    }

    fn sign(&mut self, byte: u8) {
        if self.as_a != Kind::Mark {
            self.scale.hasher.write_u8(byte);
        }
    }

    fn text(self, text: &str) {
        if self.as_a == Kind::Mark {
            self.scale.for_an_hour |= text == AN_HOUR;
            return;
        }
        let len = text.len() as u64;
        self.scale.hasher.write(text.as_bytes());
        self.scale.hasher.write_u8(0xff);
        self.scale.weight += if self.as_a == Kind::Media { len.div_ceil(BYTES_OF_MEDIA) } else { len };
    }

    fn number(self, bits: u64) {
        if self.as_a == Kind::Mark {
            return;
        }
        self.scale.hasher.write_u64(bits);
        self.scale.weight += 4;
    }
}

impl<'de> DeserializeSeed<'de> for Weigh<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<(), D::Error> {
        source.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Weigh<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.text(text);
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.number(0);
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.number(u64::from(value));
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.number(value);
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.number(value.cast_unsigned());
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.number(value.to_bits());
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        self.sign(b'[');
        while list.next_element_seed(self.part(Kind::Text))?.is_some() {}
        self.sign(b']');
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        self.sign(b'{');
        while let Some(Name(key)) = map.next_key()? {
            let kind = match key.as_str() {
                "cache_control" => Kind::Mark,
                "data" => Kind::Media,
                _ => Kind::Text,
            };
            if kind == Kind::Mark {
                self.scale.caches = true;
            } else {
                self.part(Kind::Text).text(&key);
            }
            map.next_value_seed(self.part(kind))?;
        }
        self.sign(b'}');
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(messages: &str) -> String {
        format!(
            r#"{{"model":"claude-sonnet-5","messages":[{messages}],"system":[{{"type":"text","text":"be brief",
            "cache_control":{{"type":"ephemeral"}}}}],"tools":[{{"name":"Bash"}}],"max_tokens":64000,"stream":true}}"#
        )
    }

    fn question(messages: &str) -> Question {
        read(body(messages).as_bytes()).unwrap()
    }

    #[test]
    fn the_model_the_bound_and_the_way_of_the_answer_are_read() {
        let question = question(r#"{"role":"user","content":"hello"}"#);
        assert_eq!(
            (question.model.as_str(), question.max_tokens, question.stream),
            ("claude-sonnet-5", 64_000, true)
        );
        assert!(question.caches && question.weight > 30 && question.weight < 100, "{}", question.weight);
        assert_eq!(question.beginnings.len(), 2);
    }

    #[test]
    fn a_conversation_that_grew_begins_as_it_was_although_the_mark_of_the_cache_moved() {
        let marked =
            r#"{"role":"user","content":[{"type":"text","text":"a","cache_control":{"type":"ephemeral"}}]}"#;
        let plain = r#"{"role":"user","content":[{"type":"text","text":"a"}]}"#;
        let next = r#"{"role":"assistant","content":"b"},{"role":"user","content":"c"}"#;
        let (short, long) = (question(marked), question(&format!("{plain},{next}")));
        assert_eq!(short.beginnings[..], long.beginnings[..2]);
        assert_ne!(question(r#"{"role":"user","content":"other"}"#).beginnings[1], short.beginnings[1]);
    }

    #[test]
    fn a_mark_for_an_hour_is_seen_wherever_it_is_and_nothing_else_is_taken_for_one() {
        let marked = |mark: &str| {
            question(&format!(
                r#"{{"role":"user","content":[{{"type":"text","text":"1h","cache_control":{mark}}}]}}"#
            ))
        };
        let short = marked(r#"{"type":"ephemeral"}"#);
        let long = marked(r#"{"type":"ephemeral","ttl":"\u0031h"}"#);
        assert!(!short.for_an_hour && long.for_an_hour);
        assert_eq!((short.weight, &short.beginnings), (long.weight, &long.beginnings));
        assert!(!marked("null").for_an_hour && !marked("[1, {\"ttl\": 60}]").for_an_hour);
        let top = r#"{"model":"m","cache_control":{"ttl":"1h"},"messages":[]}"#;
        assert!(read(top.as_bytes()).unwrap().for_an_hour);
    }

    #[test]
    fn what_is_no_request_is_refused_and_deep_nesting_is_no_overflow() {
        for bad in ["", "[]", "{", r#"{"model":7}"#, r#"{"messages":{}}"#, "{} {}", &"[".repeat(1 << 20)] {
            assert!(read(bad.as_bytes()).is_err(), "{bad:.20}");
        }
        let deep = format!(r#"{{"system":{}}}"#, "[".repeat(1 << 20));
        assert!(read(deep.as_bytes()).is_err());
    }

    #[test]
    fn pictures_weigh_less_than_text_and_a_million_messages_take_little() {
        let picture = format!(
            r#"{{"role":"user","content":[{{"type":"image","source":{{"data":"{}"}}}}]}}"#,
            "A".repeat(80_000)
        );
        assert!(question(&picture).weight < 11_000);
        let many = vec!["0"; 1 << 20].join(",");
        let question = question(&many);
        assert!(question.beginnings.len() <= MOST_MESSAGES + 1 && question.weight > 4 << 20);
    }
}
