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
            help: help(&reasons).unwrap_or_default().to_owned(),
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
fn help(reasons: &[Reason]) -> Option<&'static str> {
    reasons.iter().find_map(|reason| match (reason.kind, reason.satisfied) {
        ("terminal", _) => Some("orchctl result REF"),
        ("capability", false) => Some("start an agent with --capability KEY=VALUE"),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_is_for_what_holds_a_task_back() {
        let reason = |kind, satisfied| Reason { kind, satisfied, text: String::new() };
        assert_eq!(help(&[reason("capability", true), reason("slot", false)]), None);
        let missing = [reason("dependencies", true), reason("capability", false)];
        assert_eq!(help(&missing), Some("start an agent with --capability KEY=VALUE"));
        assert_eq!(help(&[reason("terminal", true)]), Some("orchctl result REF"));
    }
}
