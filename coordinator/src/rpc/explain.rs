//! Why a task is where it is, told of live tasks by the engine and of ended ones by their records.
//! Knows both tellers and which help fits which reason; decides nothing.

use crate::engine::Handle;
use crate::rpc::lookup::Lookup;
use crate::rpc::{ask_live, convert, unexpected};
use orch_core::event::Target;
use orch_core::query::{Answer, Query, Reason};
use orch_proto::v1::ExplainTaskResponse;
use tonic::Status;

/// Explains a task.
///
/// # Errors
/// As [`Lookup::task`].
pub async fn explain(
    engine: &Handle,
    lookup: &Lookup,
    target: &Target,
) -> Result<ExplainTaskResponse, Status> {
    match ask_live(engine, target.tenant, Query::Explain(target.clone())).await? {
        Some(Answer::Explained { run, task, summary, reasons, impossible }) => Ok(ExplainTaskResponse {
            since: Some(convert::duration(task.since)),
            task: Some(lookup.shown(&run, &task)),
            summary,
            help: help(&reasons).unwrap_or_default(),
            reasons: reasons.into_iter().map(convert::reason).collect(),
            impossible,
        }),
        Some(_) => Err(unexpected()),
        // A run that has left the state: its task is terminal, and its record says why.
        None => {
            let task = lookup.task(target).await?;
            let summary =
                format!("it is {}: nothing follows unless it is retried", convert::state_word(&task));
            Ok(ExplainTaskResponse { task: Some(task), summary, ..Default::default() })
        }
    }
}

/// A command line for the first reason that holds the task back and that somebody can do something about.
fn help(reasons: &[Reason]) -> Option<String> {
    reasons.iter().find_map(|reason| match (reason.kind, reason.satisfied) {
        _ if reason.help.is_some() => reason.help.clone(),
        ("terminal", _) => Some("orchctl result REF".to_owned()),
        ("capability", false) if reason.text.contains("workspace=") => {
            Some("start an agent where the directory is with --workspace NAME=DIR".to_owned())
        }
        ("capability", false) => Some("start an agent with --capability KEY=VALUE".to_owned()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_is_for_what_holds_a_task_back() {
        let reason =
            |kind, satisfied| Reason { kind, satisfied, text: String::new(), help: None, left: None };
        assert_eq!(help(&[reason("capability", true), reason("slot", false)]), None);
        let missing = [reason("dependencies", true), reason("capability", false)];
        let said = |reasons: &[Reason]| help(reasons).unwrap_or_default();
        assert_eq!(said(&missing), "start an agent with --capability KEY=VALUE");
        let workspace = Reason { text: "needs workspace=dance".to_owned(), ..reason("capability", false) };
        assert!(said(&[workspace]).ends_with("--workspace NAME=DIR"));
        assert_eq!(said(&[reason("terminal", true)]), "orchctl result REF");
        let resume = Some("orchctl agents resume box-1".to_owned());
        let drained = Reason { help: resume.clone(), ..reason("drain", false) };
        assert_eq!(help(&[reason("capability", true), drained, reason("slot", false)]), resume);
    }
}
