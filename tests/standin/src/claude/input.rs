//! Knows how stdin is read: all of it as one prompt, or line by line as messages of the control
//! protocol. Refuses to act on them.

use std::io;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::sync::mpsc;

/// Largest prompt on stdin in text mode, as observed.
const MAX_TEXT: u64 = 10 << 20;

/// One thing stdin says.
#[derive(Debug, PartialEq)]
pub(super) enum Input {
    /// A user message.
    User(UserLine),
    /// A control request.
    Control {
        /// Its id, repeated in the response.
        id: String,
        /// Its body.
        request: Value,
    },
    /// The answer to a question of ours.
    Answer {
        /// The question's id.
        id: String,
        /// The answer; null when the other side reports an error.
        response: Value,
    },
    /// A line that is no message: the text of the complaint.
    Bad(String),
}

/// A prompt.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct UserLine {
    /// Its text blocks joined.
    pub(super) text: String,
    /// The message as it came, for `--replay-user-messages`.
    pub(super) message: Value,
}

/// Reads one line.
pub(super) fn parse(line: &str) -> Option<Input> {
    let line = line.trim();
    if line.is_empty() {
        return None;
    }
    let value: Value = match serde_json::from_str(line) {
        Ok(value) => value,
        Err(error) => {
            return Some(Input::Bad(format!("Error parsing streaming input line: {line}: {error}")));
        }
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    match value["type"].as_str() {
        Some("user") => {
            let message = value["message"].clone();
            let text = message_text(&message["content"]);
            Some(Input::User(UserLine { text, message }))
        }
        Some("control_request") => {
            Some(Input::Control { id: text(&value["request_id"]), request: value["request"].clone() })
        }
        Some("control_response") => {
            let response = &value["response"];
            Some(Input::Answer { id: text(&response["request_id"]), response: response["response"].clone() })
        }
        // Other types (keep_alive, …) are not answered.
        Some(_) => None,
        None => Some(Input::Bad(format!("Error parsing streaming input line: {line}: no type"))),
    }
}

fn message_text(content: &Value) -> String {
    if let Some(text) = content.as_str() {
        return text.to_owned();
    }
    let blocks = content.as_array().into_iter().flatten();
    blocks.filter_map(|block| block["text"].as_str()).collect::<Vec<_>>().join("\n")
}

/// Reads lines until the end of stdin; the channel's closing is the end.
pub(super) async fn read_lines(queue: mpsc::Sender<Input>) {
    let mut stdin = BufReader::new(tokio::io::stdin());
    let mut line = Vec::new();
    loop {
        line.clear();
        match stdin.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let Some(input) = parse(&String::from_utf8_lossy(&line)) else { continue };
        if queue.send(input).await.is_err() {
            return;
        }
    }
}

/// Reads the prompt from stdin in text mode.
///
/// # Errors
/// It is unreadable, or larger than the CLI takes.
pub(super) async fn read_text() -> io::Result<String> {
    let mut bytes = Vec::new();
    tokio::io::stdin().take(MAX_TEXT + 1).read_to_end(&mut bytes).await?;
    if bytes.len() as u64 > MAX_TEXT {
        let what = "Error: piped stdin input exceeds 10MB. Pass large content as a file path in your prompt instead.";
        return Err(io::Error::other(what));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Input, parse};

    #[test]
    fn the_lines_of_the_control_protocol_are_told_apart() {
        let user =
            parse(r#"{"type":"user","message":{"role":"user","content":[{"type":"text","text":"hi"}]}}"#);
        assert!(matches!(user, Some(Input::User(line)) if line.text == "hi"));
        let control =
            parse(r#"{"type":"control_request","request_id":"c","request":{"subtype":"interrupt"}}"#);
        assert_eq!(
            control,
            Some(Input::Control { id: "c".to_owned(), request: json!({"subtype": "interrupt"}) })
        );
        let answer = parse(
            r#"{"type":"control_response","response":{"subtype":"success","request_id":"q","response":{"behavior":"deny"}}}"#,
        );
        assert_eq!(answer, Some(Input::Answer { id: "q".to_owned(), response: json!({"behavior": "deny"}) }));
        assert!(
            matches!(parse("garbage"), Some(Input::Bad(text)) if text.starts_with("Error parsing streaming"))
        );
        assert_eq!(parse(" \n"), None);
        assert_eq!(parse(r#"{"type":"keep_alive"}"#), None);
    }
}
