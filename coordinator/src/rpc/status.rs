//! From a domain refusal to a `tonic::Status` with typed details, in one place and for all of them.
//! Knows the code table; refuses to know requests. Internal causes are logged here and not sent.

use crate::submission::SpecError;
use orch_core::query::Refusal;
use orch_proto::codec::TOO_MANY;
use orch_proto::codes::{CODE_KEY, ERROR_DOMAIN, ErrorCode};
use std::collections::HashMap;
use std::time::Duration;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// Delay that overloaded answers ask for.
const RETRY_DELAY: Duration = Duration::from_millis(500);

/// A status with the details of `code`.
#[must_use]
pub fn refuse(code: ErrorCode, message: impl Into<String>) -> Status {
    with_details(code, message.into(), details(code))
}

/// A status for a field of a request.
#[must_use]
pub fn refuse_field(code: ErrorCode, field: &str, message: impl Into<String>) -> Status {
    let message = message.into();
    let mut details = details(code);
    details.add_bad_request_violation(field, &message);
    with_details(code, format!("{field}: {message}"), details)
}

/// A status for what may be asked again after `delay`.
#[must_use]
pub fn refuse_until(code: ErrorCode, message: impl Into<String>, delay: Duration) -> Status {
    let mut details = details(code);
    details.set_retry_info(Some(delay));
    with_details(code, message.into(), details)
}

/// A status with another way out than the one of its code.
#[must_use]
pub fn refuse_helped(code: ErrorCode, message: impl Into<String>, help: &str) -> Status {
    with_details(code, message.into(), details_helped(code, help))
}

/// A status for something that should not happen. The cause goes to the log, not to the caller.
#[must_use]
pub fn internal(what: &'static str, cause: &dyn std::error::Error) -> Status {
    tracing::error!(error = %Chain(cause), "{what}");
    refuse(ErrorCode::Internal, what)
}

/// What gRPC's decoder said of a message, with its row of the code table; any other status as it is.
#[must_use]
pub fn from_decoder(status: Status) -> Status {
    let too_long = status.message().contains("message length too large");
    let too_many = status.message().contains(TOO_MANY);
    let undecoded = status.code() == Code::Internal;
    // What went wrong in here has details. The decoder has none, and names fields but no contents.
    match status.details().is_empty() {
        true if too_long => refuse(ErrorCode::TooLarge, "the message is longer than 1 MiB"),
        true if too_many => refuse(ErrorCode::TooLarge, status.message()),
        true if undecoded => refuse(ErrorCode::InvalidField, status.message()),
        true | false => status,
    }
}

/// A status for a spec that was refused.
#[must_use]
pub fn from_spec_error(error: &SpecError) -> Status {
    refuse_field(error.code, &error.field, &error.message)
}

/// A status for what the core refused.
#[must_use]
pub fn from_refusal(refusal: &Refusal) -> Status {
    let message = refusal.to_string();
    match refusal {
        Refusal::RunNotLive | Refusal::NoSuchTask { .. } => {
            refuse(ErrorCode::NotFound, with_nearest(refusal, message))
        }
        Refusal::NoSuchAgent { .. } => {
            let help = "orchctl agents list";
            refuse_helped(ErrorCode::NotFound, with_nearest(refusal, message), help)
        }
        Refusal::TooManyLabels { .. } => refuse_field(ErrorCode::TooLarge, "set", message),
        Refusal::TaskNeeded { .. } => refuse(ErrorCode::InvalidRef, message),
        Refusal::RequestIdConflict { .. } => refuse(ErrorCode::RequestIdConflict, message),
        Refusal::Cycle { .. } => refuse_field(ErrorCode::DependencyCycle, "tasks", message),
        Refusal::TooManyClasses { .. } => refuse(ErrorCode::TooManyClasses, message),
        Refusal::QueueFull { retry_in, .. } | Refusal::TenantFull { retry_in, .. } => {
            refuse_until(ErrorCode::QueueFull, message, Duration::from_millis(retry_in.0))
        }
        Refusal::NoSuchBudget { .. } => refuse_helped(ErrorCode::NotFound, message, "orchctl budgets list"),
        Refusal::OverBudget { retry_in: Some(retry_in), .. } => {
            refuse_until(ErrorCode::OverBudget, message, Duration::from_millis(retry_in.0))
        }
        Refusal::OverBudget { retry_in: None, .. } => refuse(ErrorCode::OverBudget, message),
        Refusal::TooManyBudgets { .. } => refuse(ErrorCode::TooLarge, message),
        Refusal::Draining => refuse(ErrorCode::Draining, message),
        Refusal::NotWaiting { .. } | Refusal::BadPlan { .. } | Refusal::WrongState { .. } => {
            refuse(ErrorCode::WrongState, message)
        }
    }
}

fn with_nearest(refusal: &Refusal, message: String) -> String {
    let (Refusal::NoSuchTask { nearest, .. } | Refusal::NoSuchAgent { nearest, .. }) = refusal else {
        return message;
    };
    match nearest.first() {
        Some(near) => format!("{message}; did you mean `{near}`?"),
        None => message,
    }
}

fn details(code: ErrorCode) -> ErrorDetails {
    details_helped(code, code.help())
}

fn details_helped(code: ErrorCode, help: &str) -> ErrorDetails {
    let metadata = HashMap::from([(CODE_KEY.to_owned(), code.code().to_owned())]);
    let mut details = ErrorDetails::with_error_info(code.reason(), ERROR_DOMAIN, metadata);
    details.add_help_link(help, format!("orchctl help {}", code.code()));
    let worth_repeating = matches!(
        code,
        ErrorCode::QueueFull | ErrorCode::Overloaded | ErrorCode::Draining | ErrorCode::DiskLow
    );
    if worth_repeating {
        details.set_retry_info(Some(RETRY_DELAY));
    }
    details
}

fn with_details(code: ErrorCode, message: String, details: ErrorDetails) -> Status {
    Status::with_error_details(code.status(), message, details)
}

/// An error and its causes on one line.
pub(crate) struct Chain<'a>(pub(crate) &'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut next = self.0.source();
        while let Some(cause) = next {
            write!(f, ": {cause}")?;
            next = cause.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orch_core::time::Span;

    #[test]
    fn a_status_carries_code_reason_and_help() {
        for code in ErrorCode::ALL {
            let status = refuse(*code, "particulars");
            let details = status.get_error_details();
            let info = details.error_info().expect("error info");
            assert_eq!(status.code(), code.status());
            assert_eq!((info.reason.as_str(), info.domain.as_str()), (code.reason(), ERROR_DOMAIN));
            assert_eq!(info.metadata[CODE_KEY], code.code());
        }
    }

    #[test]
    fn refusals_of_the_decoder_get_a_row_and_all_others_keep_theirs() {
        let row = |status: Status| {
            let status = from_decoder(status);
            let code = status.get_error_details().error_info().map(|info| info.metadata[CODE_KEY].clone());
            (status.code(), code)
        };
        let long =
            Status::out_of_range("Error, decoded message length too large: found 9 bytes, the limit is: 1");
        assert_eq!(row(long), (Code::InvalidArgument, Some("E0109".to_owned())));
        let broken = Status::internal("failed to decode Protobuf message: invalid wire type");
        assert_eq!(row(broken), (Code::InvalidArgument, Some("E0101".to_owned())));
        assert_eq!(row(refuse(ErrorCode::Internal, "x")), (Code::Internal, Some("E0702".to_owned())));
        assert_eq!(row(Status::cancelled("gone")), (Code::Cancelled, None));
    }

    #[test]
    fn what_may_be_repeated_says_when() {
        assert!(refuse(ErrorCode::QueueFull, "x").get_error_details().retry_info().is_some());
        assert!(refuse(ErrorCode::NotFound, "x").get_error_details().retry_info().is_none());
    }

    #[test]
    fn every_refusal_of_the_core_has_its_row() {
        let cases = [
            (Refusal::RunNotLive, ErrorCode::NotFound),
            (Refusal::TaskNeeded { run_ref: "a/1".into(), tasks: 2 }, ErrorCode::InvalidRef),
            (Refusal::Cycle { path: vec!["a".into(), "a".into()] }, ErrorCode::DependencyCycle),
            (Refusal::TooManyClasses { limit: 4_096 }, ErrorCode::TooManyClasses),
            (Refusal::QueueFull { limit: 1_000_000, retry_in: Span(1) }, ErrorCode::QueueFull),
            (Refusal::TenantFull { limit: 800_000, retry_in: Span(1) }, ErrorCode::QueueFull),
            (Refusal::Draining, ErrorCode::Draining),
        ];
        for (refusal, code) in cases {
            let status = from_refusal(&refusal);
            let details = status.get_error_details();
            assert_eq!(details.error_info().unwrap().reason, code.reason(), "{status:?}");
        }
    }

    #[test]
    fn a_missing_task_comes_with_the_nearest_name() {
        let refusal =
            Refusal::NoSuchTask { run_ref: "a/1".into(), task: "merg".into(), nearest: vec!["merge".into()] };
        let status = from_refusal(&refusal);
        assert!(status.message().ends_with("did you mean `merge`?"), "{}", status.message());
    }
}
