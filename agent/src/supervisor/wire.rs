//! What an agent and a supervisor say to each other on the supervisor's socket: JSON, one object a line.
//! Both sides tolerate words and fields they do not know, so an agent of the next or the last version can
//! talk to a supervisor that outlived its own.

use serde::{Deserialize, Serialize};

use super::exit::ExitRecord;
use super::segments::Channel;
use super::stop::{Rung, StopCause, StopFact};

/// Version of this language. Raised when a word changes its meaning; new words need no new version.
pub const WIRE_VERSION: u32 = 1;

/// Whether the other side's version can be spoken with: one version older or newer is understood.
#[must_use]
pub const fn is_spoken(version: u32) -> bool {
    version.abs_diff(WIRE_VERSION) <= 1
}

/// Longest line either side accepts, in bytes. The largest is a line for the child's input.
pub const LONGEST_LINE: usize = 32 * 1024 * 1024;

/// What an agent says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "snake_case")]
pub enum Command {
    /// First line of an agent.
    Hello {
        /// The version the agent speaks.
        version: u32,
    },
    /// A renewal was acknowledged: the attempt may go on this long from now.
    Renew {
        /// Milliseconds.
        stop_after_ms: u64,
    },
    /// A line for the child's input, without the line break.
    Stdin {
        /// The line.
        line: String,
    },
    /// Nothing follows on the child's input.
    CloseStdin,
    /// End the attempt.
    Stop {
        /// Why.
        cause: StopCause,
        /// Where on the ladder to begin.
        from: Rung,
    },
    /// Asks for [`Event::Status`].
    Status,
    /// A segment is kept elsewhere and may be deleted.
    Ack {
        /// The stream.
        channel: Channel,
        /// The number of the segment.
        segment: u64,
    },
    /// A word of a newer agent; ignored.
    #[serde(other)]
    Unknown,
}

/// What a supervisor says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// First line of a supervisor to each agent that connects.
    Hello {
        /// The version the supervisor speaks.
        version: u32,
        /// Identity of the supervisor.
        id: String,
    },
    /// Where things stand; follows Hello, and every Status command.
    Status(Status),
    /// A stream grew. Several growths may be told as one.
    Progress {
        /// The stream.
        channel: Channel,
        /// Its length in bytes.
        len: u64,
    },
    /// The attempt is being stopped.
    Stopping(StopFact),
    /// The child's input was closed.
    StdinClosed,
    /// The child is reaped, its tree empty, its pipes drained. The last line.
    Ended(Box<ExitRecord>),
    /// A word of a newer supervisor; ignored.
    #[serde(other)]
    Unknown,
}

/// Where an attempt stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Pid of the child; absent once it was reaped.
    pub child: Option<i32>,
    /// Bytes of standard output.
    pub stdout_len: u64,
    /// Bytes of standard error.
    pub stderr_len: u64,
    /// Result lines seen.
    pub results: u64,
    /// Whether the child's input is closed.
    pub stdin_closed: bool,
    /// Set once the attempt is being stopped.
    pub stop: Option<StopFact>,
    /// Lines that agents had said to the child so far; absent from a supervisor that does not count them. An agent that
    /// takes over reads from it which of the lines that the output asks for are still to be said.
    #[serde(default)]
    pub said: Option<u64>,
}

/// Parses one line of the other side.
///
/// # Errors
/// When the line is not such a JSON object. A word that is merely unknown is no error.
pub fn parse<T: for<'a> Deserialize<'a>>(line: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(line)
}

/// Spells a line, with its line break.
#[must_use]
pub fn spell<T: Serialize>(message: &T) -> Vec<u8> {
    // Nothing here has a map with keys other than text, the one thing JSON could not spell.
    let mut line = serde_json::to_vec(message).unwrap_or_default();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_on_the_wire_are_these() {
        let lines = [
            (Command::Hello { version: 1 }, r#"{"cmd":"hello","version":1}"#),
            (Command::Renew { stop_after_ms: 5 }, r#"{"cmd":"renew","stop_after_ms":5}"#),
            (Command::Stdin { line: "{}".to_owned() }, r#"{"cmd":"stdin","line":"{}"}"#),
            (Command::CloseStdin, r#"{"cmd":"close_stdin"}"#),
            (
                Command::Stop { cause: StopCause::Cancelled, from: Rung::Interrupt },
                r#"{"cmd":"stop","cause":"cancelled","from":"interrupt"}"#,
            ),
            (Command::Status, r#"{"cmd":"status"}"#),
            (
                Command::Ack { channel: Channel::Stdout, segment: 3 },
                r#"{"cmd":"ack","channel":"stdout","segment":3}"#,
            ),
        ];
        for (command, text) in lines {
            assert_eq!(String::from_utf8(spell(&command)).unwrap(), format!("{text}\n"));
            assert_eq!(parse::<Command>(text.as_bytes()).unwrap(), command);
        }
    }

    #[test]
    fn words_and_fields_of_another_version_are_tolerated() {
        assert_eq!(parse::<Command>(br#"{"cmd":"dance","steps":3}"#).unwrap(), Command::Unknown);
        assert_eq!(parse::<Event>(br#"{"event":"sunset","at":[1]}"#).unwrap(), Event::Unknown);
        let renew = parse::<Command>(br#"{"cmd":"renew","stop_after_ms":7,"why":"new field"}"#).unwrap();
        assert_eq!(renew, Command::Renew { stop_after_ms: 7 });
    }

    #[test]
    fn one_version_older_or_newer_is_spoken_and_no_other() {
        let spoken: Vec<u32> = (0..WIRE_VERSION + 4).filter(|version| is_spoken(*version)).collect();
        assert_eq!(spoken, [WIRE_VERSION - 1, WIRE_VERSION, WIRE_VERSION + 1]);
        let older = br#"{"event":"status","child":1,"stdout_len":2,"stderr_len":3,"results":0,"stdin_closed":false,"stop":null}"#;
        assert!(matches!(parse::<Event>(older).unwrap(), Event::Status(Status { said: None, .. })));
    }

    #[test]
    fn nonsense_is_an_error_and_never_a_panic() {
        for line in [&b""[..], b"{}", b"[1]", b"{\"cmd\":3}", b"\xff\xfe", b"{\"cmd\":\"renew\"}"] {
            assert!(parse::<Command>(line).is_err());
        }
    }
}
