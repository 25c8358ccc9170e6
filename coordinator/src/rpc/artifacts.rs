//! `ListArtifacts`: the files that the tasks of a run handed over. An adapter: parse, ask, convert.
//! Their bytes come from the blob service.

use crate::payloads::ResultReader;
use crate::payloads::inputs::{DispatchError, Place};
use crate::rpc::auth::Caller;
use crate::rpc::lookup::Lookup;
use crate::rpc::paging::{NumberPage, page_size};
use crate::rpc::refs::parse_ref;
use crate::rpc::status::{internal, refuse};
use orch_proto::codes::ErrorCode;
use orch_proto::v1;
use tonic::Status;

/// Name of the list in its tokens.
const LIST: &str = "artifacts";
/// Bits of a token that number a file: a task has at most 10,000.
const FILE_BITS: u32 = 20;

/// A page of files of a run or of one of its tasks.
///
/// # Errors
/// `NOT_FOUND`, `INVALID_REF`, `INVALID_PAGE_TOKEN`.
pub async fn list(
    lookup: &Lookup,
    results: &ResultReader,
    caller: &Caller,
    request: v1::ListArtifactsRequest,
) -> Result<v1::ListArtifactsResponse, Status> {
    let target = parse_ref(&request.r#ref, caller)?;
    let from = NumberPage::parse(LIST, &request.page_token)?.map_or_else(Place::default, place);
    let limit = page_size(request.page_size)?;
    let (run, _) = lookup.resolve(&target).await?;
    let task_id = target.task.as_deref().map(str::to_owned);
    let page = results.artifacts(target.tenant, run, task_id, from, limit).await;
    let page = page.map_err(|error: DispatchError| internal("the stored results cannot be read", &error))?;
    let page =
        page.ok_or_else(|| refuse(ErrorCode::NotFound, format!("there is no task {}", request.r#ref)))?;
    Ok(v1::ListArtifactsResponse {
        artifacts: page.artifacts,
        next_page_token: NumberPage::token(LIST, page.next.map(number)),
    })
}

fn number(place: Place) -> u64 {
    u64::from(place.task) << FILE_BITS | u64::from(place.file)
}

fn place(number: u64) -> Place {
    let file = number & ((1 << FILE_BITS) - 1);
    Place {
        task: u32::try_from(number >> FILE_BITS).unwrap_or(u32::MAX),
        file: u32::try_from(file).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_a_task_and_a_file_of_it() {
        for at in [Place::default(), Place { task: 99_999, file: 9_999 }, Place { task: 1, file: 0 }] {
            assert_eq!(place(number(at)), at);
        }
        assert_eq!(place(u64::MAX).task, u32::MAX, "and none is beyond all runs");
    }
}
