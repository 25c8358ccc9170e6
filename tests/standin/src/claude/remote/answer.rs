//! Knows how an answer of the Messages API is read: from server-sent events as they come, or whole. Refuses to know where it
//! came from.

use std::time::Duration;

use serde_json::Value;

use crate::models::Usage;
use crate::script::steps::{Answer, Call, Repeat, Stop};

/// Reads a stream.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// What came of a line that has no end yet.
    rest: Vec<u8>,
    usage: Usage,
    blocks: Vec<Value>,
    /// Pieces of the input of the tool call that is coming.
    input: String,
    stop_reason: Option<String>,
    ended: bool,
}

impl Reader {
    /// Takes what has come.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else { return };
        let rest = self.rest.split_off(end + 1);
        let lines = std::mem::replace(&mut self.rest, rest);
        for line in String::from_utf8_lossy(&lines).lines() {
            if let Some(data) = line.strip_prefix("data:")
                && let Ok(event) = serde_json::from_str::<Value>(data.trim())
            {
                self.event(&event);
            }
        }
    }

    fn event(&mut self, event: &Value) {
        match event["type"].as_str().unwrap_or_default() {
            "message_start" => self.usage = Usage::scripted(Usage::default(), &event["message"]["usage"]),
            "content_block_start" => {
                self.blocks.push(event["content_block"].clone());
                self.input.clear();
            }
            "content_block_delta" => self.delta(&event["delta"]),
            "content_block_stop" => {
                if let Some(block) = self.blocks.last_mut().filter(|block| block["type"] == "tool_use") {
                    block["input"] = serde_json::from_str(&self.input).unwrap_or_default();
                }
            }
            "message_delta" => {
                self.usage = Usage::scripted(self.usage, &event["usage"]);
                self.stop_reason = event["delta"]["stop_reason"].as_str().map(ToOwned::to_owned);
            }
            "message_stop" => self.ended = true,
            _ => {}
        }
    }

    fn delta(&mut self, delta: &Value) {
        let text = |name: &str| delta[name].as_str().unwrap_or_default();
        self.input.push_str(text("partial_json"));
        for field in ["text", "thinking"] {
            if let Some(Value::String(so_far)) = self.blocks.last_mut().and_then(|block| block.get_mut(field))
            {
                so_far.push_str(text(field));
            }
        }
    }

    /// The answer, if it came to its end.
    pub(super) fn finish(self) -> Option<Answer> {
        self.ended.then(|| answer(&self.blocks, self.usage, self.stop_reason.as_deref()))
    }
}

/// An answer that came whole, if it is one.
pub(super) fn whole(message: &Value) -> Option<Answer> {
    let blocks = message["content"].as_array()?;
    let usage = Usage::scripted(Usage::default(), &message["usage"]);
    Some(answer(blocks, usage, message["stop_reason"].as_str()))
}

fn answer(blocks: &[Value], usage: Usage, stop_reason: Option<&str>) -> Answer {
    let mut answer = Answer { delay: Duration::ZERO, repeat: Repeat::Once, ..Answer::empty(usage) };
    answer.stop = match stop_reason {
        Some("refusal") => Stop::Refusal,
        Some("max_tokens") => Stop::MaxTokens,
        Some(_) | None => Stop::Natural,
    };
    for block in blocks {
        let text = |name: &str| block[name].as_str().unwrap_or_default().to_owned();
        match block["type"].as_str() {
            Some("text") => answer.texts.push(text("text")),
            Some("thinking") => answer.thinking = Some(text("thinking")),
            Some("tool_use") => answer.calls.push(Call { name: text("name"), input: block["input"].clone() }),
            Some(_) | None => {}
        }
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::Reader;

    const STREAM: &str = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":7,\"cache_read_input_tokens\":3,\"output_tokens\":1}}}\n\n\
        data: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\
        data: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"été\"}}\n\
        data: {\"type\":\"content_block_stop\",\"index\":0}\n\
        data: {\"type\":\"content_block_start\",\"index\":1,\"content_block\":{\"type\":\"tool_use\",\"id\":\"t\",\"name\":\"Bash\",\"input\":{}}}\n\
        data: {\"type\":\"content_block_delta\",\"index\":1,\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"{\\\"a\\\":\"}}\n\
        data: {\"type\":\"content_block_delta\",\"index\":1,\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"1}\"}}\n\
        data: {\"type\":\"content_block_stop\",\"index\":1}\n\
        data: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"tool_use\"},\"usage\":{\"output_tokens\":9}}\n\
        data: {\"type\":\"message_stop\"}\n";

    #[test]
    fn a_stream_cut_anywhere_into_pieces_is_the_same_answer_and_without_its_end_none() {
        for size in [1, 7, STREAM.len()] {
            let mut reader = Reader::default();
            STREAM.as_bytes().chunks(size).for_each(|piece| reader.take(piece));
            let answer = reader.finish().unwrap();
            assert_eq!(answer.texts, ["été"]);
            assert_eq!(answer.calls[0].input, serde_json::json!({"a": 1}));
            assert_eq!((answer.usage.input, answer.usage.cache_read, answer.usage.output), (7, 3, 9));
        }
        let mut cut = Reader::default();
        cut.take(&STREAM.as_bytes()[..STREAM.len() - 5]);
        assert!(cut.finish().is_none());
    }
}
