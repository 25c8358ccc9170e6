//! `agents show`: one host in one screen.

use orch_proto::v1::{Agent, Pool, PoolHealth};

use super::fetch;
use crate::args::fleet::ShowAgentArgs;
use crate::args::parse::word;
use crate::commands::shown;
use crate::exit;
use crate::failure::Outcome;
use crate::output::Out;
use crate::output::figures::{bytes, moment};
use crate::output::rows::Rows;
use crate::output::safe::one_line;
use crate::output::table::{Cell, Column, Table};
use crate::output::view::fleet::AgentView;
use crate::output::words::{BAD, BOLD, DIM, GOOD, WARN, agent_look};
use crate::session::Session;

/// Longest text told.
const TOLD: usize = 500;
/// Tasks named one by one.
const TASKS: usize = 20;

/// `orchctl agents show`.
pub(super) async fn run(session: &Session, args: &ShowAgentArgs) -> Outcome {
    let out = &session.out;
    let agent = fetch(&session.client()?, &args.name).await?;
    shown::one(out, &AgentView::from(&agent), &agent.name, || {
        out.data(&text(out, &agent))?;
        if let Some(help) = help(&agent) {
            out.hint(&format!("help: {help}"));
        }
        Ok(())
    })?;
    Ok(exit::DONE)
}

/// The screen.
fn text(out: &Out, agent: &Agent) -> String {
    let (state, style) = agent_look(agent.state());
    let seen = match moment(agent.last_seen) {
        Some(at) => format!("{}{}", out.times.cell(Some(at)), out.times.title(" ago", "")),
        None => "never".to_owned(),
    };
    let mut rows = Rows::new(out.stdout(), 10);
    rows.line(&format!(
        "{}  {}  {}/{} slots  seen {}",
        out.paint(BOLD, &one_line(&agent.name, TOLD)),
        out.paint(style, &state),
        agent.slots_used,
        agent.slots,
        seen,
    ));
    let state_says = agent.detail != state;
    let told = agent.drain_reason.is_empty() || (state_says && agent.detail.contains(&agent.drain_reason));
    if !told {
        rows.row("drained", &out.paint(WARN, &one_line(&agent.drain_reason, TOLD)));
    }
    if !agent.detail.is_empty() && state_says {
        rows.row("state", &one_line(&agent.detail, TOLD));
    }
    if !agent.quarantine_reason.is_empty() && !agent.detail.contains(&agent.quarantine_reason) {
        rows.row("quarantine", &out.paint(WARN, &one_line(&agent.quarantine_reason, TOLD)));
    }
    rows.row("host", &host(agent));
    let versions = [("orch-agent", &agent.version), ("CLI", &agent.cli_version)];
    let versions: Vec<_> = versions
        .iter()
        .map(|(what, version)| match version.as_str() {
            "" => format!("{what} none"),
            version => format!("{what} {}", one_line(version, 80)),
        })
        .collect();
    rows.row("versions", &versions.join(", "));
    match running(agent).as_slice() {
        [] => rows.row("runs", "nothing"),
        [first, rest @ ..] => {
            rows.row("runs", first);
            rest.iter().for_each(|value| rows.row("", value));
        }
    }
    rows.row("offers", &or_none(offers(out, agent)));
    if !agent.hidden.is_empty() {
        rows.row("hidden", &one_line(&agent.hidden.join(" "), TOLD));
    }
    rows.row("runners", &or_none(one_line(&agent.runners.join(" "), TOLD)));
    let isolation = match agent.isolation.as_slice() {
        [] => out.paint(WARN, "none"),
        layers => one_line(&layers.join(" "), TOLD),
    };
    rows.row("isolation", &isolation);
    if agent.pools.is_empty() {
        rows.row("pools", "none: no credential is known to the agent");
    } else {
        rows.row("pools", "");
        rows.block("    ", &pools(&agent.pools).render(out.stdout()));
    }
    for warning in &agent.warnings {
        rows.line(&out.paint(WARN, &format!("! {}", one_line(warning, TOLD))));
    }
    rows.finish()
}

fn or_none(value: String) -> String {
    if value.is_empty() { "-".to_owned() } else { value }
}

fn host(agent: &Agent) -> String {
    let name = one_line(&agent.host_name, 80);
    let Some(host) = &agent.host else { return name };
    let figures = format!(
        "{} cores, load {:.2}, {} of {} memory free, {} disk free",
        host.cores,
        f64::from(host.load_millis) / 1e3,
        bytes(host.memory_available_bytes),
        bytes(host.memory_bytes),
        bytes(host.disk_free_bytes),
    );
    if name.is_empty() { figures } else { format!("{name}: {figures}") }
}

fn running(agent: &Agent) -> Vec<String> {
    let mut tasks: Vec<_> = agent.running.iter().take(TASKS).map(|task| one_line(task, TOLD)).collect();
    if agent.running.len() > TASKS {
        tasks.push(format!("and {} more", agent.running.len() - TASKS));
    }
    tasks
}

/// What it offers; a star marks what an operator added.
fn offers(out: &Out, agent: &Agent) -> String {
    let offers: Vec<_> = agent
        .capabilities
        .iter()
        .map(|capability| {
            let shown = one_line(capability, TOLD);
            if agent.labels.contains(capability) { out.paint(BOLD, &format!("{shown}*")) } else { shown }
        })
        .collect();
    let legend = if agent.labels.is_empty() { "" } else { "   (* added by an operator)" };
    format!("{}{legend}", offers.join("  "))
}

fn pools(pools: &[Pool]) -> Table {
    let mut table = Table::new([
        Column::Whole("POOL"),
        Column::Whole("KIND"),
        Column::Whole("STATE"),
        Column::Figures("IN USE"),
        Column::Words("API"),
        Column::Words("WORKERS"),
        Column::Words("DETAIL"),
    ]);
    for pool in pools {
        let (state, style) = match pool.health() {
            PoolHealth::Ready => ("ready", GOOD),
            PoolHealth::SignedOut => ("signed out", BAD),
            PoolHealth::Unusable => ("unusable", BAD),
            PoolHealth::Unspecified => ("not checked", DIM),
        };
        let workers = if pool.workers.is_empty() { "all others".to_owned() } else { pool.workers.join(",") };
        let most = if pool.exclusive { "/1" } else { "" };
        table.row([
            Cell::from(&pool.name),
            Cell::from(word(pool.kind().as_str_name(), "POOL_KIND_").replace('_', " ")),
            Cell::styled(state, style),
            Cell::from(format!("{}{most}", pool.in_use)),
            Cell::from(if pool.gateway { "gateway" } else { "direct" }),
            Cell::from(workers),
            Cell::dim(&pool.detail),
        ]);
    }
    table
}

/// What would mend the first thing that is wrong.
fn help(agent: &Agent) -> Option<String> {
    if !agent.quarantine_reason.is_empty() {
        return Some(format!("once it is well again: orchctl agents resume {}", one_line(&agent.name, TOLD)));
    }
    if let Some(pool) = agent.pools.iter().find(|pool| pool.health() == PoolHealth::SignedOut) {
        return Some(login(&pool.name));
    }
    (!agent.drain_reason.is_empty()).then(|| format!("orchctl agents resume {}", one_line(&agent.name, TOLD)))
}

/// The line that signs a pool in; it is run on the agent's host.
pub(in crate::commands) fn login(pool: &str) -> String {
    format!("on the agent's host: orch-agent login --pool {}", one_line(pool, 80))
}
