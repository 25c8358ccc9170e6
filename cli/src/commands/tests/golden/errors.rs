//! One error of each class, for people and for scripts.

use std::collections::HashMap;

use orch_proto::codes::{CODE_KEY, ERROR_DOMAIN, ErrorCode};
use tonic_types::{ErrorDetails, StatusExt};

use super::*;

/// What a coordinator answers when it refuses.
pub(super) fn refusal(code: ErrorCode, message: &str) -> Status {
    let metadata = HashMap::from([(CODE_KEY.to_owned(), code.code().to_owned())]);
    let mut details = ErrorDetails::with_error_info(code.reason(), ERROR_DOMAIN, metadata);
    details.set_request_info("req-7", "");
    Status::with_error_details(code.status(), message, details)
}

/// A command line and what the coordinator answers to its first call.
const REFUSED: &[(&str, ErrorCode, &str)] = &[
    ("status adhoc/9", ErrorCode::NotFound, "there is no run adhoc/9"),
    ("agents drain box-1", ErrorCode::RoleNotAllowed, "role client may not call DrainAgent; it needs admin"),
    ("agents", ErrorCode::InvalidIdentity, "the certificate holds no identity of orch.local"),
    ("submit --runner noop --key k", ErrorCode::RequestIdConflict, "the key \"k\" was used for adhoc/4"),
    ("retry adhoc/2", ErrorCode::WrongState, "adhoc/2 is succeeded; nothing can be tried again"),
    ("submit --runner noop", ErrorCode::QueueFull, "100000 tasks are queued, the limit"),
    ("submit --worker nobody x", ErrorCode::UnknownWorker, "there is no worker nobody"),
    ("ls", ErrorCode::Internal, "something that should not happen did"),
];

#[tokio::test]
async fn every_class_of_failure_is_told_to_people_and_to_scripts() {
    let mut text = String::new();
    for (line, code, message) in REFUSED {
        for format in ["", " -o json"] {
            let stage = scene::stage();
            stage.fake.held().failures.push_back(refusal(*code, message));
            let ran = stage.run(&format!("{line}{format}")).await;
            assert_eq!(ran.code, code.exit_code(), "{line}");
            let _ = write!(text, "──── {line}{format}\n{}", told(&ran));
        }
    }
    for line in [
        "ls --state blocked",
        "status nonsense",
        "result release-notes/1/ui-notes",
        "explain adhoc/9/task",
        "agents show box-11",
        "workers show ang",
        "wait adhoc/2 adhoc/9",
        "submit --runner noop --require gpu=yes --dry-run",
        "help E9999",
        "help statsu",
        "schema output tsk",
    ] {
        for format in ["", " -o yaml"] {
            let ran = scene::stage().run(&format!("{line}{format}")).await;
            let _ = write!(text, "──── {line}{format}\n{}", told(&ran));
        }
    }
    insta::with_settings!({ omit_expression => true }, { insta::assert_snapshot!("errors", text) });
}

#[tokio::test]
async fn every_error_object_fits_its_schema() {
    let schema = (KINDS.iter().find(|kind| kind.name == "error").unwrap().schema)();
    for (line, code, message) in REFUSED {
        let stage = scene::stage();
        stage.fake.held().failures.push_back(refusal(*code, message));
        let ran = stage.run(&format!("{line} -o json")).await;
        let value: Value = serde_json::from_str(&ran.stderr).unwrap();
        fits::check(&schema, &value).unwrap_or_else(|problem| panic!("{line}: {problem}"));
        assert_eq!(value["error"]["code"], code.code());
    }
}

#[tokio::test]
async fn errors_of_a_run_file_are_told_with_their_places() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("run.json");
    std::fs::write(&path, "[\n  {\"task_id\": \"a\", \"worker\": \"anga\", \"descripton\": \"x\"},\n  {\"task_id\": \"b\", \"runner\": \"noop\", \"dependencies\": [\"c\"]}\n]\n").unwrap();
    let mut text = String::new();
    for format in ["", " -o json"] {
        let ran = scene::stage().run(&format!("submit -f {}{format}", path.display())).await;
        assert_eq!(ran.code, exit::USAGE);
        let _ = write!(text, "──── submit -f run.json{format}\n{}", told(&ran));
    }
    let text = text.replace(&home.path().display().to_string(), "DIR");
    insta::with_settings!({ omit_expression => true }, { insta::assert_snapshot!("errors_of_a_file", text) });
}
