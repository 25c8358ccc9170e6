//! The one table of error codes: what a person reads, what a script tests, what the status code is.
//! Knows no request; whoever refuses something picks a row and adds the particulars.

use tonic::Code;

/// Domain of every `google.rpc.ErrorInfo` that orch sends.
pub const ERROR_DOMAIN: &str = "orch.dev";

/// Metadata key of an `ErrorInfo` that carries the code, for example `E0104`.
pub const CODE_KEY: &str = "code";

macro_rules! error_codes {
    ($($name:ident = $code:literal, $reason:literal, $status:ident, $exit:literal, $title:literal, $help:literal;)+) => {
        /// Why a request was refused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $(#[doc = $title] $name,)+
        }

        impl ErrorCode {
            /// Every code, in ascending order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The code, for example `E0104`.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)+ }
            }

            /// The reason of `ErrorInfo`, stable, in upper snake case.
            #[must_use]
            pub const fn reason(self) -> &'static str {
                match self { $(Self::$name => $reason,)+ }
            }

            /// The gRPC status code.
            #[must_use]
            pub const fn status(self) -> Code {
                match self { $(Self::$name => Code::$status,)+ }
            }

            /// The exit code of `orchctl`.
            #[must_use]
            pub const fn exit_code(self) -> u8 {
                match self { $(Self::$name => $exit,)+ }
            }

            /// What is wrong, in general.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)+ }
            }

            /// What to do next.
            #[must_use]
            pub const fn help(self) -> &'static str {
                match self { $(Self::$name => $help,)+ }
            }

            /// The row with this code, for example `E0104`.
            #[must_use]
            pub fn from_code(code: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|row| row.code() == code)
            }
        }
    };
}

error_codes! {
    InvalidField = "E0101", "INVALID_FIELD", InvalidArgument, 2,
        "a field has a value that is not allowed", "mend the field that the message names";
    InvalidName = "E0102", "INVALID_NAME", InvalidArgument, 2,
        "a name has characters or a length that are not allowed",
        "use letters, digits, dot, dash and underscore; start with a letter or digit; at most 63";
    EmptyPrompt = "E0103", "EMPTY_PROMPT", InvalidArgument, 2,
        "a prompt is empty", "say what is to be done";
    UnknownDependency = "E0104", "UNKNOWN_DEPENDENCY", InvalidArgument, 2,
        "a task depends on one that is not in the run", "check the spelling of the task id";
    DuplicateTaskId = "E0105", "DUPLICATE_TASK_ID", InvalidArgument, 2,
        "two tasks of a run have the same id", "rename one of them";
    RunnerMissing = "E0106", "RUNNER_MISSING", InvalidArgument, 2,
        "a task names neither worker, command nor noop", "add --worker NAME, --runner noop, or --runner command -- PROGRAM";
    DependencyCycle = "E0107", "DEPENDENCY_CYCLE", InvalidArgument, 2,
        "tasks wait for each other in a circle", "take one of the named dependencies away";
    UnknownWorker = "E0108", "UNKNOWN_WORKER", InvalidArgument, 2,
        "no worker has this name", "orchctl workers lists them; docs/workers.md says how to add one";
    TooLarge = "E0109", "TOO_LARGE", InvalidArgument, 2,
        "something is larger than its limit", "send less, or split the task";
    InvalidPageToken = "E0110", "INVALID_PAGE_TOKEN", InvalidArgument, 2,
        "a page token is not one that was handed out for this list", "start again from the first page";
    UnknownField = "E0111", "UNKNOWN_FIELD", InvalidArgument, 2,
        "a file has a field that is not known", "check the spelling; orchctl submit --help shows the format";
    MalformedJson = "E0112", "MALFORMED_JSON", InvalidArgument, 2,
        "a file is not valid JSON", "mend it at the line and column shown";
    BudgetNotEnforceable = "E0113", "BUDGET_NOT_ENFORCEABLE", InvalidArgument, 2,
        "a budget was asked for that this runner cannot enforce", "leave the budget out, or use a worker";
    InvalidSchema = "E0114", "INVALID_SCHEMA", InvalidArgument, 2,
        "an output schema is not a JSON object or is too long", "send a JSON Schema object of at most 96 KiB";
    TooManyTasks = "E0115", "TOO_MANY_TASKS", InvalidArgument, 2,
        "a run has no task, or more than 100,000", "split the run";
    InvalidRequestId = "E0116", "INVALID_REQUEST_ID", InvalidArgument, 2,
        "an idempotency key has characters or a length that are not allowed", "use 1 to 128 printable ASCII characters";
    InvalidRef = "E0117", "INVALID_REF", InvalidArgument, 2,
        "a reference is not of the form name/number or name/number/task", "orchctl ls shows references; @last is the newest run";
    InvalidGate = "E0118", "INVALID_GATE", InvalidArgument, 2,
        "a task has a gate that could never be checked", "mend the gate that the message names, or leave it out";
    InvalidPublication = "E0119", "INVALID_PUBLICATION", InvalidArgument, 2,
        "a file cannot be published as asked", "give a relative path without `..`, once in a run; {date}, {run} and {task} are replaced";
    InvalidCondition = "E0120", "INVALID_CONDITION", InvalidArgument, 2,
        "a condition of a task cannot be evaluated", "name a dependency, a JSON pointer such as /status, a test and a JSON value";
    InvalidWorkflow = "E0121", "INVALID_WORKFLOW", InvalidArgument, 2,
        "a workflow, or what it was called with, is not usable", "orchctl workflows validate shows every mistake with its place";
    WorkspaceMissing = "E0122", "WORKSPACE_MISSING", InvalidArgument, 2,
        "something needs a workspace and none is named", "name one for the task or the run, with --workspace NAME";
    NoCertificate = "E0201", "NO_CERTIFICATE", Unauthenticated, 4,
        "the connection has no client certificate", "name --tls-ca, --tls-cert and --tls-key, or a context";
    InvalidIdentity = "E0202", "INVALID_IDENTITY", Unauthenticated, 4,
        "the certificate does not hold exactly one identity of this cluster", "issue one with `orchctl certs issue`";
    RoleNotAllowed = "E0203", "ROLE_NOT_ALLOWED", PermissionDenied, 4,
        "the certificate's role may not do this", "use a certificate of the role that the message names";
    AgentNameMismatch = "E0204", "AGENT_NAME_MISMATCH", PermissionDenied, 4,
        "an agent gave a name that is not its certificate's", "start the agent with its own certificate";
    UntrustedCertificate = "E0205", "UNTRUSTED_CERTIFICATE", Unauthenticated, 4,
        "a certificate was not signed by the expected authority, or is not valid now",
        "check that both sides use the same ca.pem, and the clock";
    KeyPermissions = "E0206", "KEY_PERMISSIONS", PermissionDenied, 4,
        "a private key can be read by others", "chmod 600 the file that the message names";
    NotFound = "E0301", "NOT_FOUND", NotFound, 3,
        "nothing has this name", "orchctl ls, orchctl agents and orchctl workers show what there is";
    RequestIdConflict = "E0302", "REQUEST_ID_CONFLICT", AlreadyExists, 6,
        "the idempotency key was used for something else", "use another --key";
    WrongState = "E0303", "WRONG_STATE", FailedPrecondition, 6,
        "the state does not allow this", "orchctl status REF shows the state";
    UploadNotFound = "E0304", "UPLOAD_NOT_FOUND", NotFound, 3,
        "there is no such upload; uploads end with a restart of the coordinator", "start the upload again with the same request id";
    UploadGap = "E0305", "UPLOAD_GAP", FailedPrecondition, 6,
        "bytes arrived out of order", "go on from the offset that the message names";
    EventsExpired = "E0306", "EVENTS_EXPIRED", OutOfRange, 6,
        "events this old are no longer kept", "watch from now; the first frames show the state";
    BlobNotFound = "E0307", "BLOB_NOT_FOUND", NotFound, 3,
        "there are no such bytes", "they may have expired";
    TranscriptNotFound = "E0308", "TRANSCRIPT_NOT_FOUND", NotFound, 3,
        "there is no transcript of this attempt", "it may not have started yet, or it has expired";
    Superseded = "E0309", "SUPERSEDED", Aborted, 6,
        "a newer session of the same agent took over", "make sure that only one agent uses this certificate";
    ProtocolMismatch = "E0310", "PROTOCOL_MISMATCH", FailedPrecondition, 6,
        "agent and coordinator have no protocol version in common", "upgrade the older of the two";
    ProtocolViolation = "E0311", "PROTOCOL_VIOLATION", InvalidArgument, 6,
        "a message came that the protocol does not allow here", "upgrade the sender";
    DigestMismatch = "E0312", "DIGEST_MISMATCH", InvalidArgument, 6,
        "the bytes do not have the digest that was announced", "send them again";
    NotContinuable = "E0313", "NOT_CONTINUABLE", FailedPrecondition, 6,
        "a conversation cannot be continued", "submit the work as a new task, with what it needs in its description";
    CoordinatorOutdated = "E0314", "COORDINATOR_OUTDATED", FailedPrecondition, 6,
        "an agent has obeyed a later coordinator of this cluster",
        "if another coordinator runs on a copy of this data, stop one; an old copy is put in place with orchctl admin restore";
    QueueFull = "E0401", "QUEUE_FULL", ResourceExhausted, 7,
        "the queue is full", "wait, or raise the coordinator's limits";
    TooManyClasses = "E0402", "TOO_MANY_CLASSES", ResourceExhausted, 7,
        "too many different sets of requirements are queued", "use fewer distinct requirements";
    DiskLow = "E0403", "DISK_LOW", ResourceExhausted, 7,
        "the coordinator's disk is nearly full", "free space, or shorten the retention";
    Overloaded = "E0404", "OVERLOADED", ResourceExhausted, 7,
        "the coordinator has too many requests in hand", "try again in a moment";
    Impossible = "E0405", "IMPOSSIBLE", FailedPrecondition, 10,
        "no known agent can ever run this", "start an agent with the capability that the message names";
    OverBudget = "E0406", "OVER_BUDGET", ResourceExhausted, 7,
        "a budget has no room for this", "raise the budget with orchctl budgets set, or wait until it begins anew";
    Unreachable = "E0501", "COORDINATOR_UNREACHABLE", Unavailable, 5,
        "the coordinator cannot be reached", "is orchd running there? for a try on this machine: orchctl dev";
    Draining = "E0502", "DRAINING", Unavailable, 5,
        "the coordinator is shutting down", "try again in a moment";
    DeadlinePassed = "E0503", "DEADLINE_PASSED", DeadlineExceeded, 124,
        "the command took longer than --timeout", "the task goes on; orchctl watch @last";
    ProgramNotAllowed = "E0601", "PROGRAM_NOT_ALLOWED", FailedPrecondition, 6,
        "no known agent allows this program", "start an agent with --allow-command PROGRAM";
    StoreFailed = "E0701", "STORE_FAILED", Internal, 70,
        "the store failed; the coordinator stops rather than guess", "read orchd's log";
    Internal = "E0702", "INTERNAL", Internal, 70,
        "something that should not happen did", "report it with the request id and orchd's log";
    StoreNewer = "E0703", "STORE_NEWER", FailedPrecondition, 6,
        "the data was written by a newer version", "run that version of orchd, or a later one";
    StoreDamaged = "E0704", "STORE_DAMAGED", DataLoss, 70,
        "the data is damaged beyond what a start can mend", "restore the last backup: orchd storage restore";
    DataInUse = "E0705", "DATA_IN_USE", FailedPrecondition, 6,
        "another process uses the data directory", "stop the process that the message names, or name another --data-dir";
    DataUnusable = "E0706", "DATA_UNUSABLE", FailedPrecondition, 6,
        "the data directory cannot be used",
        "make it writable for the user of orchd, with free space and inodes, on a file system that is not read-only";
    OtherCluster = "E0707", "OTHER_CLUSTER", FailedPrecondition, 6,
        "a copy is of another cluster", "name the cluster id that the copy is of, if that is what you want";
    CopyDamaged = "E0708", "COPY_DAMAGED", DataLoss, 6,
        "a copy is damaged, cut short or of another form", "use another copy; nothing was changed";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_ascend_and_reasons_are_unique() {
        assert!(ErrorCode::ALL.windows(2).all(|pair| pair[0].code() < pair[1].code()));
        let mut reasons: Vec<_> = ErrorCode::ALL.iter().map(|code| code.reason()).collect();
        reasons.sort_unstable();
        reasons.dedup();
        assert_eq!(reasons.len(), ErrorCode::ALL.len());
    }

    #[test]
    fn a_code_is_found_by_its_text() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_code(code.code()), Some(*code));
        }
        assert_eq!(ErrorCode::from_code("E9999"), None);
    }
}
