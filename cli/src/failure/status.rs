//! What a gRPC status means to a person: the table row it names, the file or host to look at, what to do next.
//! Knows `google.rpc` details and dial errors; refuses to decide whether to try again (that is [`crate::retry`]).

use orch_certs::dial::{DialError, Rejection, find_dial_error};
use orch_proto::codes::{CODE_KEY, ERROR_DOMAIN, ErrorCode};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::Failure;
use crate::exit;

impl Failure {
    /// The failure behind a status.
    pub(crate) fn from_status(status: &Status) -> Self {
        if let Some(dial) = find_dial_error(status) {
            return Self::from_dial(dial);
        }
        let details = status.get_error_details();
        let info = details.error_info().filter(|info| info.domain == ERROR_DOMAIN);
        let row =
            info.and_then(|info| info.metadata.get(CODE_KEY)).and_then(|code| ErrorCode::from_code(code));
        let mut failure = match row {
            Some(row) => Self::coded(row, message_of(status, row.title())),
            None => Self::uncoded(status),
        };
        if let (None, Some(info)) = (&failure.0.reason, info) {
            failure.0.reason = Some(info.reason.clone());
            failure.0.code = info.metadata.get(CODE_KEY).cloned();
        }
        for violation in details.bad_request().map(|bad| bad.field_violations.as_slice()).unwrap_or_default()
        {
            let cause = format!("{}: {}", violation.field, violation.description);
            if cause != failure.0.message && !failure.0.causes.contains(&cause) {
                failure.0.causes.push(cause);
            }
        }
        let links = details.help().map(|help| help.links.as_slice()).unwrap_or_default();
        if !links.is_empty() && failure.code() == Some(ErrorCode::NotFound.code()) {
            // The table has to speak of everything that can be missing; the server knows what was.
            failure.0.help.clear();
        }
        for link in links {
            // The server may repeat what the table says.
            if !failure.0.help.contains(&link.description) {
                failure.0.help.push(link.description.clone());
            }
        }
        failure.0.retryable = is_temporary(status);
        failure.0.request_id = details.request_info().map(|info| info.request_id.clone());
        failure
    }

    /// A status without a code of ours: another server, an older one, or the transport.
    fn uncoded(status: &Status) -> Self {
        let code = status.code();
        if is_transport(status) || code == Code::Unavailable {
            return Self::coded(ErrorCode::Unreachable, "the connection to the coordinator failed")
                .chain(status);
        }
        let message = message_of(status, code.description());
        match code {
            Code::DeadlineExceeded => Self::coded(ErrorCode::DeadlinePassed, message),
            Code::Unimplemented => Self::new(exit::of_code(code), message)
                .help("this coordinator does not know the call; is it older than this orchctl?"),
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::OutOfRange
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
            | Code::Unauthenticated => Self::new(exit::of_code(code), message),
        }
    }

    /// The failure behind a connection that did not come about.
    pub(crate) fn from_dial(error: &DialError) -> Self {
        let code = match error {
            DialError::BadEndpoint { .. } => return Self::usage(error.to_string()),
            DialError::Rejected { reason: Rejection::Missing, .. } => ErrorCode::NoCertificate,
            DialError::UntrustedAuthority { .. }
            | DialError::ServerExpired { .. }
            | DialError::ServerNotYetValid { .. }
            | DialError::WrongName { .. }
            | DialError::Rejected { .. } => ErrorCode::UntrustedCertificate,
            DialError::Resolve { .. }
            | DialError::Refused { .. }
            | DialError::Timeout { .. }
            | DialError::Connect { .. }
            | DialError::Tls { .. } => ErrorCode::Unreachable,
        };
        let mut failure = Self::coded(code, code.title()).cause(error);
        if let Some(source) = std::error::Error::source(error) {
            failure = failure.chain(source);
        }
        failure.0.retryable = code == ErrorCode::Unreachable;
        failure
    }

    /// Adds which coordinator was meant and how long it was tried.
    pub(crate) fn toward(mut self, endpoint: &str, tries: u32, seconds: f64) -> Self {
        if self.0.exit != exit::UNREACHABLE {
            return self;
        }
        self.0.message = format!("cannot reach the coordinator at {endpoint}");
        if let (Some(last), true) = (self.0.causes.last_mut(), tries > 1) {
            last.push_str(&format!(" ({tries} tries in {seconds:.1}s)"));
        }
        self
    }
}

/// Whether this side made the status up because the connection failed: the server's own have no source.
pub(crate) fn is_transport(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}

/// Whether the same call may succeed a little later.
pub(crate) fn is_temporary(status: &Status) -> bool {
    if let Some(dial) = find_dial_error(status) {
        return match dial {
            DialError::Resolve { .. }
            | DialError::Refused { .. }
            | DialError::Timeout { .. }
            | DialError::Connect { .. }
            | DialError::Tls { .. } => true,
            DialError::BadEndpoint { .. }
            | DialError::UntrustedAuthority { .. }
            | DialError::ServerExpired { .. }
            | DialError::ServerNotYetValid { .. }
            | DialError::WrongName { .. }
            | DialError::Rejected { .. } => false,
        };
    }
    let asked_to = status.get_error_details().retry_info().is_some();
    is_transport(status) || asked_to || status.code() == Code::Unavailable
}

fn message_of(status: &Status, otherwise: &str) -> String {
    if status.message().is_empty() { otherwise.to_owned() } else { status.message().to_owned() }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::io;
    use std::time::Duration;

    use tonic_types::ErrorDetails;

    use super::*;

    fn coded(code: ErrorCode, message: &str) -> Status {
        let metadata = HashMap::from([(CODE_KEY.to_owned(), code.code().to_owned())]);
        let mut details = ErrorDetails::with_error_info(code.reason(), ERROR_DOMAIN, metadata);
        details.add_bad_request_violation("tasks[1].dependencies[0]", "no task has this id");
        details.set_request_info("req-7", "");
        Status::with_error_details(code.status(), message, details)
    }

    #[test]
    fn a_coded_status_keeps_its_row_and_its_particulars() {
        let failure =
            Failure::from_status(&coded(ErrorCode::UnknownDependency, "task merge depends on ui-note"));
        insta::assert_snapshot!(failure.text(true), @r"
        error[E0104]: task merge depends on ui-note
        cause: tasks[1].dependencies[0]: no task has this id
        help:  check the spelling of the task id
        request id: req-7
        ");
        assert_eq!(failure.exit_code(), exit::USAGE);
    }

    #[test]
    fn a_row_decides_the_exit_code_before_the_status_does() {
        let failure = Failure::from_status(&coded(ErrorCode::Impossible, "needs gpu=yes"));
        assert_eq!(failure.exit_code(), exit::IMPOSSIBLE);
    }

    #[test]
    fn details_of_another_domain_do_not_count() {
        let details = ErrorDetails::with_error_info("NOT_FOUND", "example.org", HashMap::new());
        let failure = Failure::from_status(&Status::with_error_details(Code::NotFound, "nothing", details));
        assert_eq!((failure.exit_code(), failure.code()), (exit::NOT_FOUND, None));
    }

    #[test]
    fn dial_errors_say_which_side_to_mend() {
        let source = io::Error::other("connection refused");
        let refused = DialError::Refused { target: "box-0:7443".into(), source };
        let status = Status::from_error(Box::new(io::Error::other(refused)));
        assert!(is_temporary(&status));
        let failure = Failure::from_status(&status).toward("https://box-0:7443", 5, 3.06);
        insta::assert_snapshot!(failure.text(false), @r"
        error[E0501]: cannot reach the coordinator at https://box-0:7443
        cause: box-0:7443 refused the connection: nothing is listening there
        cause: connection refused (5 tries in 3.1s)
        help:  is orchd running there? for a try on this machine: orchctl dev
        ");

        let wrong = DialError::Rejected { target: "box-0:7443".into(), reason: Rejection::UnknownAuthority };
        let status = Status::from_error(Box::new(io::Error::other(wrong)));
        assert!(!is_temporary(&status));
        assert_eq!(Failure::from_status(&status).exit_code(), exit::NOT_ALLOWED);
    }

    #[test]
    fn a_server_may_ask_for_another_try() {
        let details = ErrorDetails::with_retry_info(Some(Duration::from_secs(1)));
        assert!(is_temporary(&Status::with_error_details(Code::ResourceExhausted, "busy", details)));
        assert!(!is_temporary(&Status::resource_exhausted("full")));
    }
}
