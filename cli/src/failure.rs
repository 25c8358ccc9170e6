//! Why a command ends without having done what it was asked: one type, its exit code, its text for people and for
//! scripts. Knows the shape of an error; what a status from the coordinator means is read in [`status`].

use std::fmt::Write as _;
use std::io;

use orch_proto::codes::ErrorCode;
use schemars::JsonSchema;
use serde::Serialize;

use crate::exit;
use crate::output::safe::{self, safe};

pub(crate) mod status;

/// A failure. Boxed, because it travels through every `Result` of this crate.
#[derive(Debug, Clone)]
pub(crate) struct Failure(Box<Parts>);

/// What a failure consists of.
#[derive(Debug, Clone, Default)]
struct Parts {
    exit: u8,
    code: Option<String>,
    reason: Option<String>,
    message: String,
    causes: Vec<String>,
    further: Vec<String>,
    help: Vec<String>,
    retryable: bool,
    request_id: Option<String>,
    /// Already told, or nothing to tell.
    silent: bool,
    /// Text to print as it stands instead of the usual form, for people only.
    report: Option<String>,
}

/// An error as scripts read it.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ErrorView<'a> {
    error: ErrorBody<'a>,
}

/// What an error says.
#[derive(Debug, Serialize, JsonSchema)]
struct ErrorBody<'a> {
    /// Code of the table, such as `E0301`; none for errors that are not in it, such as wrong flags.
    code: Option<&'a str>,
    /// The same in upper snake case.
    reason: Option<&'a str>,
    message: &'a str,
    causes: &'a [String],
    /// Other errors of the same kind.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    further: &'a [String],
    /// What to do next.
    hint: Option<&'a str>,
    /// Whether the same may succeed a little later.
    retryable: bool,
    exit_code: u8,
    /// To be found in the coordinator's log.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

/// Result of everything that a command does.
pub(crate) type Outcome<T = u8> = Result<T, Failure>;

impl Failure {
    /// A failure with an exit code and without a code of the table.
    pub(crate) fn new(exit: u8, message: impl Into<String>) -> Self {
        Self(Box::new(Parts { exit, message: message.into(), ..Parts::default() }))
    }

    /// A row of the table, with its exit code and its help; the message says the particulars.
    pub(crate) fn coded(code: ErrorCode, message: impl Into<String>) -> Self {
        Self(Box::new(Parts {
            exit: code.exit_code(),
            code: Some(code.code().to_owned()),
            reason: Some(code.reason().to_owned()),
            message: message.into(),
            help: vec![code.help().to_owned()],
            ..Parts::default()
        }))
    }

    /// Wrong usage.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(exit::USAGE, message)
    }

    /// An exit code with nothing more to say.
    pub(crate) fn silent(exit: u8) -> Self {
        Self(Box::new(Parts { exit, silent: true, ..Parts::default() }))
    }

    /// A prepared report for people, with the same in one sentence for scripts.
    pub(crate) fn report(code: ErrorCode, message: impl Into<String>, report: String) -> Self {
        let mut failure = Self::coded(code, message);
        failure.0.report = Some(report);
        failure
    }

    /// Adds what lies behind it.
    pub(crate) fn cause(mut self, cause: impl ToString) -> Self {
        self.0.causes.push(cause.to_string());
        self
    }

    /// Adds another error of the same kind: people read it in the prepared report.
    pub(crate) fn further(mut self, error: impl Into<String>) -> Self {
        self.0.further.push(error.into());
        self
    }

    /// Adds the whole chain behind an error, the error itself included.
    pub(crate) fn chain(mut self, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut next = Some(error);
        while let Some(error) = next {
            let text = error.to_string();
            // A transparent wrapper repeats what it wraps.
            if self.0.causes.last() != Some(&text) {
                self.0.causes.push(text);
            }
            next = error.source();
        }
        self
    }

    /// Replaces the help of the table by more exact advice.
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.0.help = vec![help.into()];
        self
    }

    /// Adds a line of help.
    pub(crate) fn and_help(mut self, help: impl Into<String>) -> Self {
        self.0.help.push(help.into());
        self
    }

    /// Names a reference in help that speaks of `REF`, so that its commands can be pasted.
    pub(crate) fn about(mut self, reference: &str) -> Self {
        for help in &mut self.0.help {
            *help = help.replace(" REF", &format!(" {reference}"));
        }
        self
    }

    /// Leaves out the place in a message of the wire in front of what is said, for somebody who typed no message:
    /// `tasks[0].worker: …`.
    pub(crate) fn without_place(mut self) -> Self {
        let place = |text: &str| {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_.[]".contains(c);
            text.contains(['[', '.']) && text.chars().all(plain)
        };
        if let Some((_, rest)) = self.0.message.split_once(": ").filter(|(head, _)| place(head)) {
            self.0.message = rest.to_owned();
        }
        self
    }

    /// The exit code.
    pub(crate) fn exit_code(&self) -> u8 {
        self.0.exit
    }

    /// The code of the table, for example `E0301`.
    pub(crate) fn code(&self) -> Option<&str> {
        self.0.code.as_deref()
    }

    /// The one-line message.
    pub(crate) fn message(&self) -> &str {
        &self.0.message
    }

    /// What lies behind it, a line each.
    pub(crate) fn causes(&self) -> &[String] {
        &self.0.causes
    }

    /// What to do, a line each.
    pub(crate) fn helps(&self) -> &[String] {
        &self.0.help
    }

    /// Whether there is something to print.
    pub(crate) fn is_silent(&self) -> bool {
        self.0.silent
    }

    /// The text for people, ending in a newline.
    pub(crate) fn text(&self, verbose: bool) -> String {
        let parts = &*self.0;
        let mut text = match (&parts.report, &parts.code) {
            // A report says everything, help included.
            (Some(report), _) => return report.clone(),
            (None, Some(code)) => format!("error[{code}]: {}\n", safe(&parts.message)),
            (None, None) => format!("error: {}\n", safe(&parts.message)),
        };
        for cause in &parts.causes {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "cause: {}", safe(cause));
        }
        for (index, help) in parts.help.iter().enumerate() {
            let label = if index == 0 { "help: " } else { "      " };
            let _ = writeln!(text, "{label} {}", safe(help));
        }
        if let (true, Some(id)) = (verbose, &parts.request_id) {
            let _ = writeln!(text, "request id: {}", safe(id));
        }
        text
    }

    /// The same for scripts: one JSON object, without the newline.
    pub(crate) fn json(&self) -> String {
        let parts = &*self.0;
        let error = ErrorBody {
            code: parts.code.as_deref(),
            reason: parts.reason.as_deref(),
            message: &parts.message,
            causes: &parts.causes,
            further: &parts.further,
            hint: parts.help.first().map(String::as_str),
            retryable: parts.retryable,
            exit_code: parts.exit,
            request_id: parts.request_id.as_deref(),
        };
        safe::json(&serde_json::to_string(&ErrorView { error }).unwrap_or_default()).into_owned()
    }
}

/// Only writing the output yields bare I/O errors here. A reader that has seen enough is no failure.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::silent(exit::DONE);
        }
        Self::new(exit::FAILED, "cannot write the output").cause(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_error_cause_and_help() {
        let failure =
            Failure::coded(ErrorCode::Unreachable, "cannot reach the coordinator at https://box-0:7443")
                .cause("connection refused (5 tries in 3.1s)")
                .help("is orchd running there?")
                .and_help("another coordinator: --endpoint URL");
        insta::assert_snapshot!(failure.text(false), @r"
        error[E0501]: cannot reach the coordinator at https://box-0:7443
        cause: connection refused (5 tries in 3.1s)
        help:  is orchd running there?
               another coordinator: --endpoint URL
        ");
        assert_eq!(failure.exit_code(), exit::UNREACHABLE);
    }

    #[test]
    fn scripts_read_one_object() {
        let failure = Failure::coded(ErrorCode::NotFound, "there is no run adhoc/9");
        insta::assert_snapshot!(failure.json(), @r#"{"error":{"code":"E0301","reason":"NOT_FOUND","message":"there is no run adhoc/9","causes":[],"hint":"orchctl ls, orchctl agents and orchctl workers show what there is","retryable":false,"exit_code":3}}"#);
    }

    #[test]
    fn references_can_be_pasted_and_places_of_the_wire_are_left_out() {
        let failure = Failure::coded(ErrorCode::WrongState, "adhoc/9 is done").about("adhoc/9");
        assert!(failure.text(false).contains("orchctl status adhoc/9 shows"), "{}", failure.text(false));
        for (message, told) in [
            ("tasks[0].worker.worker: no worker is named `nga`", "no worker is named `nga`"),
            ("remove[0]: `gpu` is also set", "`gpu` is also set"),
            ("adhoc/9: it is done", "adhoc/9: it is done"),
            ("note: it is done", "note: it is done"),
        ] {
            assert_eq!(Failure::usage(message).without_place().message(), told);
        }
    }

    #[test]
    fn a_closed_pipe_is_a_quiet_success() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(failure.is_silent());
        assert_eq!(failure.exit_code(), exit::DONE);
    }

    #[test]
    fn escape_sequences_in_messages_are_shown_not_passed_on() {
        let failure = Failure::usage("no worker \u{1b}[31mred");
        assert_eq!(failure.text(false), "error: no worker ␛[31mred\n");
    }
}
