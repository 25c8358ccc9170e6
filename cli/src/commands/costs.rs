//! `costs`: what was spent, split as asked. Estimates are marked, and so is what the figures are: list prices.

use orch_proto::v1::{CostForecast, CostRow, QueryCostsRequest, QueryCostsResponse};

use crate::args::Format;
use crate::args::money::{CostsArgs, Dimension};
use crate::exit;
use crate::failure::{Failure, Outcome};
use crate::output::Out;
use crate::output::figures::{count, dollars, moment, plural};
use crate::output::rows::Rows;
use crate::output::safe::one_line;
use crate::output::table::{Cell, Column, Table};
use crate::output::view::money::{CostRowView, CostsView, cache_hit, tokens};
use crate::output::words::{BOLD, WARN};
use crate::session::Session;

/// Longest sentence told.
const TOLD: usize = 400;
/// Most dimensions, from the wire's documentation.
const MOST: usize = 3;

/// `orchctl costs`.
pub(crate) async fn run(session: &Session, args: CostsArgs) -> Outcome {
    let out = &session.out;
    let query = query(out, &args)?;
    let answer = session.client()?.costs(&query).await?;
    let columns: Vec<_> =
        args.by.iter().map(|dimension| dimension.word()).chain(CostRowView::COLUMNS).collect();
    let out = &out.with_columns(&columns);
    match out.format {
        Format::Table => print(out, &args.by, &answer)?,
        // Sums do not belong among rows that are summed elsewhere.
        Format::Jsonl => out.json_list(&CostRowView::all(&answer, &args.by))?,
        Format::Json if out.encoder().is_rows() => out.json_list(&CostRowView::all(&answer, &args.by))?,
        Format::Json => out.json(&CostsView::new(&answer, &args.by))?,
        Format::Name => answer.rows.iter().try_for_each(|row| out.name(&row.keys.join(" ")))?,
        Format::None => {}
    }
    if answer.more > 0 {
        let more = plural(answer.more, "more row");
        out.hint(&format!("{more}, less dear; --limit 0 lists as many as the coordinator tells"));
    }
    Ok(exit::DONE)
}

fn query(out: &Out, args: &CostsArgs) -> Outcome<QueryCostsRequest> {
    if args.by.len() > MOST {
        return Err(Failure::usage(format!("costs are split by at most {MOST} things"))
            .help("orchctl costs --by worker,model"));
    }
    if let Some(twice) = args.by.iter().enumerate().find(|(at, by)| args.by[..*at].contains(by)) {
        return Err(Failure::usage(format!("--by names {} twice", twice.1.word())));
    }
    let now = out.times.now();
    let (since, until) = (args.since.map(|at| at.resolve(now)), args.until.map(|at| at.resolve(now)));
    if let (Some(since), Some(until)) = (since, until)
        && since >= until
    {
        return Err(Failure::usage(format!("nothing lies between {since:.0} and {until:.0}"))
            .help("--since comes before --until"));
    }
    let wire = |at: jiff::Timestamp| prost_types::Timestamp {
        seconds: at.as_second(),
        nanos: at.subsec_nanosecond(),
    };
    Ok(QueryCostsRequest {
        by: args
            .by
            .iter()
            .map(|dimension| i32::from(orch_proto::v1::CostDimension::from(*dimension)))
            .collect(),
        since: since.map(wire),
        until: until.map(wire),
        filters: args.filter.iter().map(|(what, value)| format!("{}={value}", what.word())).collect(),
        limit: args.limit,
    })
}

fn print(out: &Out, by: &[Dimension], answer: &QueryCostsResponse) -> Outcome<()> {
    if answer.rows.is_empty() {
        out.note("nothing was spent");
    } else {
        out.data(&table(by, answer).render(out.stdout()))?;
        let date = one_line(&answer.prices_as_of, 40);
        let date = if date.is_empty() { String::new() } else { format!(" of {date}") };
        out.hint(&format!("at list prices{date}; with a subscription for comparison only"));
    }
    let mut rows = Rows::new(out.stdout(), 0);
    if let Some(total) = answer.total.as_ref().filter(|total| total.estimated_micro_usd > 0) {
        let part = dollars(total.estimated_micro_usd, false);
        rows.line(&format!("~ marks estimates: {part} of the total, for attempts that ended without a bill"));
    }
    if answer.running_micro_usd > 0 {
        let running = dollars(answer.running_micro_usd, true);
        rows.line(&format!("{running} more by attempts that still run"));
    }
    if let Some(forecast) = &answer.forecast {
        rows.line(&foretold(out, forecast));
    }
    if let Some(kept) = moment(answer.kept_since) {
        rows.line(&format!("what was spent before {} is kept no longer", kept.strftime("%Y-%m-%d")));
    }
    for warning in &answer.warnings {
        rows.line(&out.paint(WARN, &format!("! {}", one_line(warning, TOLD))));
    }
    out.data(&rows.finish())
}

fn foretold(out: &Out, forecast: &CostForecast) -> String {
    let basis = one_line(&forecast.basis, TOLD);
    let basis = if basis.is_empty() { basis } else { format!(" ({basis})") };
    format!(
        "today {}, at this rate {} by midnight UTC; this month {}, at this rate {} by its end{basis}",
        out.paint(BOLD, &dollars(forecast.today_micro_usd, false)),
        dollars(forecast.day_micro_usd, true),
        out.paint(BOLD, &dollars(forecast.month_so_far_micro_usd, false)),
        dollars(forecast.month_micro_usd, true),
    )
}

fn table(by: &[Dimension], answer: &QueryCostsResponse) -> Table {
    // A run is one run, and so is a task.
    let runs = !by.iter().any(|dimension| matches!(dimension, Dimension::Run | Dimension::Task));
    let name = |dimension: &Dimension| match dimension {
        // They are typed again.
        Dimension::Run | Dimension::Task | Dimension::Day => Column::Whole(dimension.title()),
        Dimension::Name
        | Dimension::Worker
        | Dimension::Agent
        | Dimension::Model
        | Dimension::Pool
        | Dimension::Tenant
        | Dimension::Outcome => Column::Words(dimension.title()),
    };
    let mut columns: Vec<_> = by.iter().map(name).collect();
    if runs {
        columns.push(Column::Figures("RUNS"));
    }
    columns.extend([
        Column::Spare("ATTEMPTS"),
        Column::Figures("OK"),
        Column::Figures("COST"),
        Column::Spare("/OK"),
        Column::Spare("TOKENS IN/OUT"),
        Column::Figures("CACHE"),
    ]);
    let mut table = Table::new(columns);
    for row in &answer.rows {
        let names = row.keys.iter().map(Cell::from);
        let names = names.chain(std::iter::repeat_with(|| Cell::from(""))).take(by.len());
        table.row(names.chain(figures(row, runs)));
    }
    let total = answer.total.clone().unwrap_or_default();
    let names = std::iter::once(Cell::styled("total", BOLD))
        .chain(std::iter::repeat_with(Cell::blank))
        .take(by.len());
    table.row(names.chain(figures(&total, runs)));
    table
}

fn figures(row: &CostRow, runs: bool) -> Vec<Cell> {
    let usage = row.usage.clone().unwrap_or_default();
    let tokens = tokens(&usage);
    let input = tokens.input.saturating_add(tokens.cache_read).saturating_add(tokens.cache_write);
    let estimated = row.estimated_micro_usd > 0;
    let each = usage.cost_micro_usd.checked_div(row.attempts_ok).map(|each| dollars(each, estimated));
    let mut cells = Vec::new();
    if runs {
        cells.push(Cell::from(row.runs.to_string()));
    }
    cells.extend([
        Cell::from(row.attempts.to_string()),
        Cell::from(percent(row.attempts_ok, row.attempts)),
        Cell::from(dollars(usage.cost_micro_usd, estimated)),
        Cell::from(each.unwrap_or_default()),
        Cell::from(format!("{}/{}", count(input), count(tokens.output))),
        Cell::from(cache_hit(&usage).map(|part| format!("{}%", part / 10)).unwrap_or_default()),
    ]);
    cells
}

/// A part in percent, rounded down: what is not all is never 100%.
fn percent(part: u64, whole: u64) -> String {
    let percent = (u128::from(part) * 100).checked_div(u128::from(whole));
    percent.map(|percent| format!("{percent}%")).unwrap_or_default()
}
