//! `limits`: how the credential pools stand: until when something is closed, what is free of each limit, who waits.

use std::time::Duration;

use orch_proto::v1::{BucketView, PoolLimits, PoolState};

use super::{shown, watching};
use crate::args::money::LimitsArgs;
use crate::exit;
use crate::failure::Outcome;
use crate::output::Out;
use crate::output::figures::{count, moment, plural, short, span};
use crate::output::rows::Rows;
use crate::output::safe::one_line;
use crate::output::table::{Cell, Column, Table};
use crate::output::view::money::{PoolLimitsView, state_word};
use crate::output::words::{BAD, BOLD, GOOD, WARN};
use crate::session::Session;

/// Longest sentence told.
const TOLD: usize = 400;
/// Agents named one by one.
const AGENTS: usize = 8;
/// How often they are asked for: buckets fill without an event.
const EVERY: Duration = Duration::from_secs(1);
/// The whole limit, in thousandths.
const WHOLE: u32 = 1000;

/// `orchctl limits`.
pub(crate) async fn run(session: &Session, args: LimitsArgs) -> Outcome {
    let client = session.client()?;
    let pool = args.pool.unwrap_or_default();
    watching::every(session, args.watching, EVERY, async |out| print(out, &client.limits(&pool).await?)).await
}

fn print(out: &Out, pools: &[PoolLimits]) -> Outcome {
    let views: Vec<_> = pools.iter().map(PoolLimitsView::from).collect();
    shown::list(out, &views, pools.iter().map(|pool| pool.pool.as_str()), || {
        if pools.is_empty() {
            out.note("no agent has told of a credential pool");
            return Ok(());
        }
        let mut rows = Rows::new(out.stdout(), 8);
        for (index, pool) in pools.iter().enumerate() {
            if index > 0 {
                rows.block("", "\n");
            }
            tell(out, &mut rows, pool);
        }
        out.data(&rows.finish())
    })?;
    Ok(exit::DONE)
}

fn tell(out: &Out, rows: &mut Rows<'_>, pool: &PoolLimits) {
    let style = match pool.state() {
        PoolState::Open | PoolState::Unspecified => GOOD,
        PoolState::Throttled => WARN,
        PoolState::Exhausted | PoolState::Failing => BAD,
    };
    let name = out.paint(BOLD, &one_line(&pool.pool, TOLD));
    let state = out.paint(style, &state_word(pool.state()));
    rows.line(&format!("{name}  {state}{}", until(out, pool)));
    if !pool.detail.is_empty() {
        rows.row("why", &one_line(&pool.detail, TOLD));
    }
    rows.row("requests", &counts(pool));
    if (1..WHOLE).contains(&pool.share_permille) {
        let part = f64::from(pool.share_permille) / 10.0;
        rows.row("share", &format!("{part}% of every limit of the account"));
    }
    if pool.parked > 0 {
        rows.row("parked", &plural(pool.parked.into(), "conversation"));
    }
    if !pool.agents.is_empty() {
        let mut agents: Vec<_> = pool.agents.iter().collect();
        agents.sort();
        let named: Vec<_> = agents.into_iter().take(AGENTS).map(|name| one_line(name, 80)).collect();
        let more = pool.agents.len().saturating_sub(AGENTS);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        rows.row("agents", &format!("{}{more}", named.join(", ")));
    }
    if pool.buckets.is_empty() {
        rows.row("limits", "none known: requests pass until the API names one");
    } else {
        rows.row("limits", "");
        rows.block("    ", &table(&pool.buckets).render(out.stdout()));
    }
    for warning in &pool.warnings {
        rows.line(&out.paint(WARN, &format!("! {}", one_line(warning, TOLD))));
    }
}

/// Until when it stays as it is.
fn until(out: &Out, pool: &PoolLimits) -> String {
    // How long it lasts is the coordinator's to say: the clock here may be another.
    match (span(pool.left).filter(|left| !left.is_zero()), moment(pool.until)) {
        (Some(left), _) => format!("  for {} ({})", short(left), out.times.until(left)),
        (None, Some(at)) => format!("  until {}", out.times.stamp(at)),
        (None, None) => String::new(),
    }
}

/// Pools that are not as they should be, in a line for `status`: `main used up for 3m00s (until 17:05:00), 4 parked`.
pub(super) fn in_short(out: &Out, pools: &[PoolLimits]) -> Vec<String> {
    let wanted = |pool: &&PoolLimits| {
        pool.parked > 0 || !matches!(pool.state(), PoolState::Open | PoolState::Unspecified)
    };
    let told = pools.iter().filter(wanted).map(|pool| {
        let (word, style) = match pool.state() {
            PoolState::Open | PoolState::Unspecified => ("open", GOOD),
            PoolState::Throttled => ("throttled", WARN),
            PoolState::Exhausted => ("used up", BAD),
            PoolState::Failing => ("failing", BAD),
        };
        let parked = if pool.parked > 0 { format!(", {} parked", pool.parked) } else { String::new() };
        let until = until(out, pool).replacen("  ", " ", 1);
        out.paint(style, &format!("{} {word}{until}{parked}", one_line(&pool.pool, 80)))
    });
    told.collect()
}

fn counts(pool: &PoolLimits) -> String {
    let most = if pool.max_in_flight > 0 { format!(" of {}", pool.max_in_flight) } else { String::new() };
    let mut parts = vec![format!("{}{most} in flight", pool.in_flight), format!("{} waiting", pool.waiting)];
    if pool.throttled > 0 {
        parts.push(format!("{} answered 429 in the last hour", pool.throttled));
    }
    parts.join(", ")
}

fn table(buckets: &[BucketView]) -> Table {
    let mut columns = vec![
        Column::Words("OF"),
        Column::Figures("A MINUTE"),
        Column::Figures("USED"),
        Column::Figures("FREE"),
        Column::Spare("LEASED"),
        Column::Spare("PACE"),
        Column::Extra("FROM"),
    ];
    // Whose a limit is matters only where there are several.
    let (classes, workers) = (
        buckets.iter().any(|bucket| !bucket.model_class.is_empty()),
        buckets.iter().any(|bucket| !bucket.worker.is_empty()),
    );
    if workers {
        columns.insert(0, Column::Words("WORKER"));
    }
    if classes {
        columns.insert(0, Column::Words("MODELS"));
    }
    let mut table = Table::new(columns);
    let or_all = |text: &str| if text.is_empty() { Cell::dim("all") } else { Cell::from(text) };
    for bucket in buckets {
        let mut cells = Vec::new();
        if classes {
            cells.push(or_all(&bucket.model_class));
        }
        if workers {
            cells.push(or_all(&bucket.worker));
        }
        let pace = if bucket.pace_permille < WHOLE {
            Cell::styled(format!("{}%", bucket.pace_permille / 10), WARN)
        } else {
            Cell::dim("100%")
        };
        cells.extend([
            Cell::from(&bucket.unit),
            Cell::from(count(bucket.limit)),
            Cell::from(count(bucket.used)),
            Cell::from(count(bucket.free)),
            Cell::from(count(bucket.leased)),
            pace,
            Cell::dim(&bucket.source),
        ]);
        table.row(cells);
    }
    table
}
