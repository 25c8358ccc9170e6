//! `budgets`: ceilings and how far they are used; set and removed.

use orch_proto::v1::budget_scope::Scope;
use orch_proto::v1::{
    Budget, BudgetLimit, BudgetMode, BudgetPeriod, BudgetScope, BudgetUse, RunState, Spent, TenantBudget,
};

use super::shown;
use crate::args::amounts::{mode_word, period_word, scope_words};
use crate::args::money::{BudgetsArgs, BudgetsCommand, RemoveBudgetArgs, SetBudgetArgs};
use crate::exit;
use crate::failure::{Failure, Outcome};
use crate::output::Out;
use crate::output::figures::{between, count, dollars, moment, short};
use crate::output::rows::Rows;
use crate::output::safe::one_line;
use crate::output::table::{Cell, Column, Table};
use crate::output::times::Times;
use crate::output::view::money::{BudgetView, RemovedBudgetView, limit_of};
use crate::output::words::{BAD, GOOD, WARN};
use crate::refs::Reference;
use crate::session::Session;
use crate::suggest::did_you_mean;

/// Longest sentence told.
const TOLD: usize = 400;
/// Columns of the bar.
const BAR: u64 = 10;
/// From so many hundredths on, a budget wants attention.
const NEAR: u64 = 80;

/// `orchctl budgets`.
pub(crate) async fn run(session: &Session, args: BudgetsArgs) -> Outcome {
    match args.command.unwrap_or(BudgetsCommand::List(args.list)) {
        BudgetsCommand::List(list) => self::list(session, list.runs).await,
        BudgetsCommand::Set(args) => set(session, &args).await,
        BudgetsCommand::Remove(args) => remove(session, &args).await,
    }
}

async fn list(session: &Session, runs: bool) -> Outcome {
    let out = &session.out;
    let budgets = session.client()?.budgets(runs).await?;
    let views: Vec<_> = budgets.iter().map(BudgetView::from).collect();
    shown::list(out, &views, budgets.iter().map(name_of), || {
        if budgets.is_empty() {
            out.note("no budget is set");
            out.hint("help: orchctl budgets set team 50usd --per day; of a run: orchctl run --budget");
            return Ok(());
        }
        out.data(&table(&budgets, &out.times).render(out.stdout()))?;
        let mut notes = Rows::new(out.stdout(), 0);
        for budget in budgets.iter().filter(|budget| !budget.state.is_empty()) {
            let line = format!("! {}: {}", one_line(name_of(budget), TOLD), one_line(&budget.state, TOLD));
            notes.line(&out.paint(WARN, &line));
        }
        out.data(&notes.finish())
    })?;
    Ok(exit::DONE)
}

async fn set(session: &Session, args: &SetBudgetArgs) -> Outcome {
    let out = &session.out;
    if is_run(&args.name) {
        return set_run(session, args).await;
    }
    check_name(&args.name)?;
    let tenant = || BudgetScope { scope: Some(Scope::Tenant(TenantBudget {})) };
    let mut budget = Budget {
        name: args.name.clone(),
        scope: Some(args.on.clone().unwrap_or_else(tenant)),
        limit: Some(ceiling(args, args.mode.map_or(BudgetMode::Hard, BudgetMode::from))),
        ..Budget::default()
    };
    budget.set_period(args.per.map_or(BudgetPeriod::Month, BudgetPeriod::from));
    let answer = session.client()?.set_budget(budget.clone()).await?;
    // A coordinator that only says yes has said what was asked for.
    let told = answer.budget.unwrap_or_else(|| BudgetUse { budget: Some(budget), ..BudgetUse::default() });
    shown::one(out, &BudgetView::from(&told), &args.name, || {
        let verb = if answer.replaced { "changed" } else { "set" };
        out.line(&format!("{}: {verb}; {}", one_line(&args.name, TOLD), in_words(out, &told)))
    })?;
    Ok(exit::DONE)
}

/// Whether it is the name of a run: no budget has a slash in its own.
fn is_run(name: &str) -> bool {
    name.contains('/') || name.starts_with('@')
}

/// The ceiling that was said, in one word or by flags.
fn ceiling(args: &SetBudgetArgs, mode: BudgetMode) -> BudgetLimit {
    let said = args.amount.unwrap_or_default();
    BudgetLimit {
        micro_usd: args.usd.or(said.micro_usd),
        tokens: args.tokens.or(said.tokens),
        runs: args.runs,
        mode: mode.into(),
    }
}

/// The budget of one run.
async fn set_run(session: &Session, args: &SetBudgetArgs) -> Outcome {
    let out = &session.out;
    if args.per.is_some() || args.on.is_some() {
        return Err(Failure::usage(format!("{} is a run: its budget is over all of it", args.name))
            .help(format!("orchctl budgets set {} without --per and --on", args.name)));
    }
    let client = session.client()?;
    let run = of_run_alone(client.resolve(&args.name).await?)?;
    // What is not said stays as it is, the mode too.
    let limit = ceiling(args, args.mode.map_or(BudgetMode::Unspecified, BudgetMode::from));
    let answer = client.set_run_budget(&run, limit).await?;
    let told = answer.budget.unwrap_or_else(|| BudgetUse {
        limit: Some(limit),
        run_ref: run.clone(),
        ..BudgetUse::default()
    });
    shown::one(out, &BudgetView::from(&told), &run, || {
        let verb = if answer.replaced { "changed" } else { "set" };
        out.line(&format!("budget of {run}: {verb}; {}", of_run(&told)))
    })?;
    // The budget is set; how the run stands only helps.
    let reference = Reference { run: run.clone(), task: None };
    if let Ok(run) = client.run(&reference).await
        && matches!(run.state(), RunState::Failed | RunState::Cancelled)
    {
        out.hint(&format!("it has ended: orchctl retry {}", one_line(&run.r#ref, TOLD)));
    }
    Ok(exit::DONE)
}

/// A budget is over a whole run.
fn of_run_alone(reference: Reference) -> Outcome<String> {
    match &reference.task {
        None => Ok(reference.run),
        Some(_) => Err(Failure::usage(format!("{reference} is a task: a budget is over its whole run"))
            .help(format!("name the run: {}", reference.run))),
    }
}

async fn remove(session: &Session, args: &RemoveBudgetArgs) -> Outcome {
    let out = &session.out;
    let client = session.client()?;
    if is_run(&args.name) {
        let run = of_run_alone(client.resolve(&args.name).await?)?;
        client.remove_run_budget(&run).await?;
        let view = RemovedBudgetView { name: run.clone(), removed: true };
        shown::one(out, &view, &run, || {
            out.line(&format!("budget of {run}: removed; it limits nothing any more"))
        })?;
        return Ok(exit::DONE);
    }
    if let Err(failure) = client.remove_budget(&args.name).await {
        if failure.exit_code() != exit::NOT_FOUND {
            return Err(failure);
        }
        let known = client.budgets(false).await.unwrap_or_default();
        let near = did_you_mean(&args.name, known.iter().map(name_of));
        let failure = failure.help("orchctl budgets lists them");
        return Err(if near.is_empty() { failure } else { failure.and_help(near) });
    }
    let view = RemovedBudgetView { name: args.name.clone(), removed: true };
    shown::one(out, &view, &args.name, || {
        out.line(&format!("{}: removed; it limits nothing any more", one_line(&args.name, TOLD)))
    })?;
    Ok(exit::DONE)
}

/// The rule of `Budget.name`, so that a slip is told before anything is asked.
fn check_name(name: &str) -> Outcome<()> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let good = name.len() <= 63
        && name.bytes().next().is_some_and(plain)
        && name.bytes().all(|byte| plain(byte) || byte == b'-');
    if good {
        return Ok(());
    }
    Err(Failure::usage(format!("the name {name:?} is not allowed"))
        .help("lower-case letters, digits and dashes; a letter or digit first; at most 63"))
}

/// The name of a standing budget, or the run.
fn name_of(budget: &BudgetUse) -> &str {
    match &budget.budget {
        Some(standing) if !standing.name.is_empty() => &standing.name,
        Some(_) | None => &budget.run_ref,
    }
}

/// One of the limits of a budget.
struct Line {
    used: String,
    of: String,
    held: String,
    /// In hundredths of the limit.
    percent: u64,
}

/// What is used of each limit, what was spent and what is held for what runs apart.
fn lines(budget: &BudgetUse) -> Vec<Line> {
    let limit = limit_of(budget);
    let spent = budget.spent.unwrap_or_default();
    let held = budget.reserved.unwrap_or_default();
    let money = |micro: u64| dollars(micro, false);
    let tokens = |number: u64| format!("{} tok", count(number));
    let counted = counted(budget);
    let number = |number: u64| format!("{number} {counted}");
    type Amount = (Option<u64>, fn(&Spent) -> u64);
    let amounts: [Amount; 3] = [
        (limit.micro_usd, |spent| spent.micro_usd),
        (limit.tokens, |spent| spent.tokens),
        (limit.runs, |spent| spent.runs),
    ];
    let show: [&dyn Fn(u64) -> String; 3] = [&money, &tokens, &number];
    let mut lines = Vec::new();
    for ((limit, of), show) in amounts.into_iter().zip(show) {
        let Some(limit) = limit else { continue };
        let (used, held) = (of(&spent), of(&held));
        lines.push(Line {
            used: show(used),
            of: show(limit),
            held: if held == 0 { String::new() } else { show(held) },
            percent: percent(used, limit),
        });
    }
    if let Some(first) = lines.first_mut().filter(|_| limit.micro_usd.is_some()) {
        first.used = dollars(spent.micro_usd, budget.estimated_micro_usd > 0);
    }
    lines
}

/// What a budget counts besides money and tokens.
fn counted(budget: &BudgetUse) -> &'static str {
    match budget.budget.as_ref().and_then(|budget| budget.scope.as_ref()?.scope.as_ref()) {
        Some(Scope::Tenant(_) | Scope::Name(_)) => "runs",
        Some(Scope::Worker(_) | Scope::Pool(_)) | None => "attempts",
    }
}

fn percent(used: u64, limit: u64) -> u64 {
    let percent = u128::from(used) * 100 / u128::from(limit.max(1));
    u64::try_from(percent).unwrap_or(u64::MAX)
}

fn bar(percent: u64) -> String {
    // What is used is seen, and what is left is seen.
    let filled = (percent * BAR / 100).clamp(u64::from(percent > 0), BAR);
    let filled = if percent < 100 { filled.min(BAR - 1) } else { filled };
    let part = |length: u64, glyph: &str| glyph.repeat(usize::try_from(length).unwrap_or(0));
    format!("{}{}", part(filled, "━"), part(BAR - filled, "─"))
}

fn table(budgets: &[BudgetUse], times: &Times) -> Table {
    let mut table = Table::new([
        Column::Whole("BUDGET"),
        Column::Words("OVER"),
        Column::Figures("USED"),
        Column::Figures("OF"),
        Column::Whole("PER"),
        Column::Figures("PART"),
        Column::Extra(""),
        Column::Spare("HELD"),
        Column::Spare(times.title("BEGINS ANEW IN", "BEGINS ANEW")),
        Column::Extra("MODE"),
    ]);
    for budget in budgets {
        let over = match &budget.budget {
            Some(standing) => scope_words(standing.scope.as_ref()),
            None => "run".to_owned(),
        };
        let per = budget.budget.as_ref().map_or("total", |standing| period_word(standing.period()));
        for (index, line) in lines(budget).into_iter().enumerate() {
            let style = match line.percent {
                0..NEAR => GOOD,
                NEAR..100 => WARN,
                _ => BAD,
            };
            let once = |text: &str| if index == 0 { Cell::from(text) } else { Cell::blank() };
            let resets = resets(budget, times);
            table.row([
                once(name_of(budget)),
                once(&over),
                Cell::from(line.used),
                Cell::from(line.of),
                once(per),
                Cell::styled(format!("{}%", line.percent), style),
                Cell::styled(bar(line.percent), style),
                Cell::from(line.held),
                once(&resets),
                once(mode_word(limit_of(budget).mode())),
            ]);
        }
    }
    table
}

/// When it begins anew: how far away that is, or the moment.
fn resets(budget: &BudgetUse, times: &Times) -> String {
    let Some(at) = moment(budget.resets_at) else { return String::new() };
    if times.title("relative", "moment") == "relative" {
        short(between(times.now(), at))
    } else {
        times.cell(Some(at))
    }
}

/// A budget in a sentence.
fn in_words(out: &Out, budget: &BudgetUse) -> String {
    let standing = budget.budget.clone().unwrap_or_default();
    let per = match standing.period() {
        BudgetPeriod::Day => " a day",
        BudgetPeriod::Month => " a month",
        BudgetPeriod::Total | BudgetPeriod::Unspecified => " in all",
    };
    let limits: Vec<_> = lines(budget);
    let of: Vec<_> = limits.iter().map(|line| line.of.as_str()).collect();
    let used: Vec<_> = limits.iter().map(|line| format!("{} ({}%)", line.used, line.percent)).collect();
    let over = one_line(&scope_words(standing.scope.as_ref()), TOLD);
    let mode = mode_word(limit_of(budget).mode());
    let resets = match resets(budget, &out.times) {
        resets if resets.is_empty() => String::new(),
        resets => format!("{}{resets}", out.times.title(", begins anew in ", ", begins anew at ")),
    };
    format!("{}{per} over {over}, {mode}; used {}{resets}", of.join(" and "), used.join(" and "))
}

/// The budget of a run in a few words: `$3.10 of $5.00, $0.40 held`.
pub(super) fn of_run(budget: &BudgetUse) -> String {
    let parts = lines(budget).into_iter().map(|line| {
        let held = if line.held.is_empty() { String::new() } else { format!(", {} held", line.held) };
        format!("{} of {}{held}", line.used, line.of)
    });
    let mut text = parts.collect::<Vec<_>>().join("; ");
    let mode = limit_of(budget).mode();
    if matches!(mode, BudgetMode::Soft | BudgetMode::Drain) {
        text.push_str(&format!(" ({})", mode_word(mode)));
    }
    if !budget.state.is_empty() {
        text.push_str(&format!(": {}", one_line(&budget.state, TOLD)));
    }
    text
}
