//! Costs, split as asked.
//! Knows the wire; what was spent is the ledger's.

use crate::ledger::question::{MAX_DIMENSIONS, MAX_FILTERS, filter};
use crate::ledger::{Dimension, MAX_ROWS, QueryError, Question, Row, Sums};
use crate::rpc::auth::{Caller, DEFAULT_TENANT_NAME};
use crate::rpc::convert::timestamp;
use crate::rpc::cost_service::CostParts;
use crate::rpc::status::{internal, refuse, refuse_field};
use crate::rpc::{ask, stopping, unexpected};
use orch_core::query::{Answer, Query};
use orch_core::time::Wall;
use orch_proto::codes::ErrorCode;
use orch_proto::v1::{self, CostRow, ModelUsage, QueryCostsResponse};
use prost::Message as _;
use tonic::Status;

/// Rows when nothing is said.
const DEFAULT_ROWS: usize = 1_000;
/// Rows together: an answer is one message, which must stay below 1 MiB.
const MAX_ROW_BYTES: usize = 900 << 10;
/// Longest value of a filter.
const MAX_FILTER_BYTES: usize = 512;

/// Costs of the caller's tenant.
pub(super) async fn costs(
    parts: &CostParts,
    caller: &Caller,
    request: v1::QueryCostsRequest,
) -> Result<QueryCostsResponse, Status> {
    let question = question(caller, &request)?;
    let now = parts.engine.wall();
    let ledger = parts.engine.ledger();
    let book = ledger.book();
    // What runs now belongs to everything until now, and nobody knows yet whose it will be.
    let whole = question.filters.is_empty() && question.until.is_none_or(|until| until > now.0);
    let since = question.since;
    let by_model = question.by == [Dimension::Model];
    let answer = ledger.split(question).await.map_err(|error| query_status(&error))?;
    let running = if whole { running(parts, caller).await? } else { 0 };
    let mut warnings = book.warnings(caller.tenant, now);
    if answer.runs_at_least {
        warnings.push("runs are too many to be told apart: there are at least as many as shown".to_owned());
    }
    let (rows, cut) = fitting(answer.rows.iter().map(|row| wire(row, by_model)));
    Ok(QueryCostsResponse {
        rows,
        total: Some(sum(&answer.total)),
        more: answer.more + cut,
        forecast: book.forecast(caller.tenant, now),
        prices_as_of: book.prices().current().as_of.clone(),
        running_micro_usd: running,
        warnings,
        kept_since: answer
            .kept_since
            .filter(|kept| since.is_none_or(|since| since < *kept))
            .map(|kept| timestamp(Wall(kept))),
    })
}

fn question(caller: &Caller, request: &v1::QueryCostsRequest) -> Result<Question, Status> {
    let invalid = |field: &str, text: String| refuse_field(ErrorCode::InvalidField, field, text);
    let mut by = Vec::with_capacity(request.by.len());
    for wire in request.by() {
        let dimension = Dimension::of(wire)
            .ok_or_else(|| invalid("by", format!("is not known; there are {}", Dimension::words())))?;
        if by.contains(&dimension) {
            return Err(invalid("by", "names a dimension twice".to_owned()));
        }
        by.push(dimension);
    }
    if by.len() > MAX_DIMENSIONS {
        return Err(invalid("by", format!("has {} dimensions; at most {MAX_DIMENSIONS}", by.len())));
    }
    let too_long = request.filters.iter().any(|text| text.len() > MAX_FILTER_BYTES);
    if request.filters.len() > MAX_FILTERS || too_long {
        let text = format!("at most {MAX_FILTERS}, of at most {MAX_FILTER_BYTES} bytes each");
        return Err(invalid("filters", text));
    }
    let filters = request.filters.iter().map(|text| filter(text)).collect::<Result<_, _>>();
    let since = millis("since", request.since.as_ref())?;
    let until = millis("until", request.until.as_ref())?;
    if let (Some(since), Some(until)) = (since, until)
        && since >= until
    {
        return Err(invalid("until", "is not after since".to_owned()));
    }
    let limit = usize::try_from(request.limit).unwrap_or(MAX_ROWS);
    Ok(Question {
        tenant: caller.tenant,
        tenant_name: DEFAULT_TENANT_NAME.to_owned(),
        by,
        since,
        until,
        filters: filters.map_err(|text| invalid("filters", text))?,
        limit: if limit == 0 { DEFAULT_ROWS } else { limit.min(MAX_ROWS) },
    })
}

fn millis(field: &str, at: Option<&prost_types::Timestamp>) -> Result<Option<i64>, Status> {
    let Some(at) = at else { return Ok(None) };
    let millis =
        at.seconds.checked_mul(1_000).and_then(|millis| millis.checked_add(i64::from(at.nanos) / 1_000_000));
    let known = millis.filter(|millis| jiff::Timestamp::from_millisecond(*millis).is_ok());
    known.map(Some).ok_or_else(|| refuse_field(ErrorCode::InvalidField, field, "is not a moment"))
}

/// What attempts that run now have spent, as far as their agents said.
async fn running(parts: &CostParts, caller: &Caller) -> Result<u64, Status> {
    let answer = ask(&parts.engine, caller.tenant, Query::Status).await?;
    let Answer::Status(status) = answer else { return Err(unexpected()) };
    Ok(status.running_micro_usd)
}

/// As many rows as fit a message, and how many do not.
fn fitting(rows: impl Iterator<Item = CostRow>) -> (Vec<CostRow>, u64) {
    let (mut bytes, mut cut) = (0, 0);
    let mut kept = Vec::new();
    for row in rows {
        bytes += row.encoded_len() + 4;
        if bytes > MAX_ROW_BYTES {
            cut += 1;
        } else {
            kept.push(row);
        }
    }
    (kept, cut)
}

fn wire(row: &Row, by_model: bool) -> CostRow {
    let mut wire = CostRow { keys: row.keys.clone(), ..sum(&row.sums) };
    if let (true, Some(usage), [model]) = (by_model, &mut wire.usage, row.keys.as_slice()) {
        usage.model.clone_from(model);
    }
    wire
}

fn sum(sums: &Sums) -> CostRow {
    let shown = |micro_usd: i128| u64::try_from(micro_usd.max(0)).unwrap_or(u64::MAX);
    CostRow {
        keys: Vec::new(),
        usage: Some(ModelUsage {
            model: String::new(),
            input_tokens: sums.input,
            output_tokens: sums.output,
            cache_read_tokens: sums.cache_read,
            cache_write_tokens: sums.cache_write,
            cost_micro_usd: shown(sums.micro_usd),
        }),
        estimated_micro_usd: shown(sums.estimated),
        attempts: sums.attempts,
        attempts_ok: sums.attempts_ok,
        runs: sums.runs,
    }
}

fn query_status(error: &QueryError) -> Status {
    match error {
        QueryError::TooManyRows => refuse(ErrorCode::TooLarge, error.to_string()),
        QueryError::BrokenOff => stopping(),
        QueryError::Read(_) | QueryError::Page(_) => internal("the ledger cannot be read", error),
    }
}

#[cfg(test)]
mod tests;
