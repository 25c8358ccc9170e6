//! Knows how one answer looks on the wire: as server-sent events in the order the API sends them, or as
//! one JSON message. Pure: pauses, silence and cuts are pieces of the plan. Refuses to know HTTP.

use std::time::Duration;

use serde_json::{Value, json};

use crate::models::Usage;
use crate::script::steps::{Answer, split};

/// Time for what was sent to reach the client before the connection breaks; without it a cut in the
/// middle looks like a reset before the answer.
const FLUSH: Duration = Duration::from_millis(50);

/// One thing the connection does.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// Sends these bytes.
    Data(String),
    /// Waits.
    Wait(Duration),
    /// Says nothing more, but stays open.
    Silence,
    /// Breaks the connection.
    Cut,
}

/// The message's frame: ids, model and figures.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    /// `msg_…`.
    pub(super) id: String,
    /// The model as asked for.
    pub(super) model: String,
    /// Tokens.
    pub(super) usage: Usage,
}

/// The content blocks of an answer; `tool_id` makes the ids of tool calls.
pub(super) fn blocks(answer: &Answer, mut tool_id: impl FnMut() -> String) -> Vec<Value> {
    let thinking = answer
        .thinking
        .iter()
        .map(|text| json!({"type": "thinking", "thinking": text, "signature": "c3RhbmQtaW4="}));
    let texts = answer.texts.iter().map(|text| json!({"type": "text", "text": text}));
    let mut all: Vec<Value> = thinking.chain(texts).collect();
    for call in &answer.calls {
        all.push(json!({"type": "tool_use", "id": tool_id(), "name": call.name, "input": call.input}));
    }
    all
}

/// The JSON form.
pub(super) fn message(frame: &Frame, answer: &Answer, blocks: &[Value]) -> Value {
    json!({
        "id": frame.id,
        "type": "message",
        "role": "assistant",
        "model": frame.model,
        "content": blocks,
        "stop_reason": answer.stop_reason(),
        "stop_sequence": null,
        "usage": frame.usage.message_json(),
    })
}

/// The streaming form.
pub(super) fn stream(frame: &Frame, answer: &Answer, blocks: &[Value]) -> Vec<Piece> {
    let mut pieces = start(frame);
    for (index, block) in blocks.iter().enumerate() {
        let (opened, deltas) = open(block, answer.pace.map_or(2, |(chunks, _)| chunks));
        pieces.push(event("content_block_start", json!({"index": index, "content_block": opened})));
        for delta in deltas {
            pieces.extend(answer.pace.map(|(_, pause)| Piece::Wait(pause)));
            pieces.push(event("content_block_delta", json!({"index": index, "delta": delta})));
        }
        pieces.push(event("content_block_stop", json!({"index": index})));
    }
    let delta = json!({"stop_reason": answer.stop_reason(), "stop_sequence": null});
    pieces.push(event("message_delta", json!({"delta": delta, "usage": frame.usage.message_json()})));
    pieces.push(event("message_stop", json!({})));
    pieces
}

/// A stream that begins and then ends badly.
pub(super) fn broken(frame: &Frame, end: Piece) -> Vec<Piece> {
    let mut pieces = start(frame);
    pieces.push(event(
        "content_block_start",
        json!({"index": 0, "content_block": {"type": "text", "text": ""}}),
    ));
    let delta = json!({"type": "text_delta", "text": "a start without an "});
    pieces.push(event("content_block_delta", json!({"index": 0, "delta": delta})));
    pieces.push(Piece::Wait(FLUSH));
    pieces.push(end);
    pieces
}

fn start(frame: &Frame) -> Vec<Piece> {
    let first = Usage { output: 1, ..frame.usage };
    let message = json!({
        "id": frame.id, "type": "message", "role": "assistant", "model": frame.model, "content": [],
        "stop_reason": null, "stop_sequence": null, "usage": first.message_json(),
    });
    vec![event("message_start", json!({"message": message})), event("ping", json!({}))]
}

fn event(name: &str, mut data: Value) -> Piece {
    data["type"] = json!(name);
    Piece::Data(format!("event: {name}\ndata: {data}\n\n"))
}

/// A block as it is opened, and the deltas that fill it in `count` pieces.
fn open(block: &Value, count: usize) -> (Value, Vec<Value>) {
    let pieces = |text: &str| split(text, count);
    match block["type"].as_str() {
        Some("tool_use") => {
            let whole = block["input"].to_string();
            let parts = pieces(&whole)
                .into_iter()
                .map(|part| json!({"type": "input_json_delta", "partial_json": part}));
            let mut opened = block.clone();
            opened["input"] = json!({});
            (opened, parts.collect())
        }
        Some("thinking") => {
            let text = block["thinking"].as_str().unwrap_or_default();
            let mut parts: Vec<Value> = pieces(text)
                .into_iter()
                .map(|part| json!({"type": "thinking_delta", "thinking": part}))
                .collect();
            parts.push(json!({"type": "signature_delta", "signature": block["signature"]}));
            (json!({"type": "thinking", "thinking": "", "signature": ""}), parts)
        }
        _ => {
            let text = block["text"].as_str().unwrap_or_default();
            let parts = pieces(text).into_iter().map(|part| json!({"type": "text_delta", "text": part}));
            (json!({"type": "text", "text": ""}), parts.collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Frame, Piece, blocks, message, stream};
    use crate::models::{SCRIPTED_USAGE, Usage};
    use crate::script::steps::{Answer, Call};

    fn sample() -> (Frame, Answer) {
        let frame = Frame { id: "msg_1".to_owned(), model: "m".to_owned(), usage: SCRIPTED_USAGE };
        let mut answer = Answer::empty(Usage::default());
        answer.texts.push("été ☀".to_owned());
        answer.calls.push(Call { name: "Bash".to_owned(), input: json!({"command": "ls"}) });
        (frame, answer)
    }

    #[test]
    fn the_stream_and_the_json_form_hold_the_same_answer() {
        let (frame, answer) = sample();
        let content = blocks(&answer, || "toolu_1".to_owned());
        let whole: String = stream(&frame, &answer, &content)
            .into_iter()
            .map(|piece| match piece {
                Piece::Data(text) => text,
                other @ (Piece::Wait(_) | Piece::Silence | Piece::Cut) => panic!("{other:?}"),
            })
            .collect();
        let names: Vec<_> = whole.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
        assert_eq!(names.first(), Some(&"message_start"));
        assert_eq!(names.last(), Some(&"message_stop"));
        assert!(whole.contains(r#""stop_reason":"tool_use""#));
        let json = message(&frame, &answer, &content);
        assert_eq!(json["content"][1]["input"], json!({"command": "ls"}));
        assert_eq!(json["usage"]["output_tokens"], 20);
    }
}
