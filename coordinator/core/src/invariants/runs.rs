//! Rules about runs and their tasks.

use super::{Violation, rule};
use crate::event::{After, Role};
use crate::ids::{RunId, TaskKey, TenantId};
use crate::machine::consult;
use crate::outcome::Outcome;
use crate::run::Run;
use crate::state::{RunState, State, TaskCounts, TaskState};
use crate::task::{Task, is_met};
use crate::time::Span;
use std::collections::BTreeMap;

pub(super) fn counts(state: &State) -> Result<(), Violation> {
    let mut totals = [0u64; TaskState::ALL.len()];
    let mut active_runs = 0;
    for (id, run) in &state.runs {
        let mut counts = TaskCounts::default();
        for task in &run.tasks {
            counts.enter(task.state);
            totals[task.state as usize] += 1;
        }
        rule("counts", counts == run.counts, || format!("run {id}: {counts:?}, kept {:?}", run.counts))?;
        active_runs += u64::from(!run.state.is_terminal());
    }
    rule("counts", totals == state.totals.tasks, || format!("{totals:?}, kept {:?}", state.totals.tasks))?;
    rule("counts", active_runs == state.totals.active_runs, || format!("{active_runs} runs are active"))?;
    let mut tenants: BTreeMap<TenantId, u64> = BTreeMap::new();
    for run in state.runs.values() {
        let active = run.tasks.iter().filter(|task| !task.state.is_terminal()).count() as u64;
        if active > 0 {
            *tenants.entry(run.tenant).or_default() += active;
        }
    }
    rule("counts", &tenants == state.totals.tenants(), || format!("{tenants:?} by tenant"))
}

pub(super) fn dependencies(state: &State) -> Result<(), Violation> {
    for (key, task) in tasks(state) {
        let Some(run) = state.run(key.run) else { continue };
        let held = || run.graph.dependencies(key.index).iter().map(|index| run.tasks[index.0 as usize].state);
        let on = run.graph.dependencies(key.index).iter();
        let unmet = on.filter(|on| !is_met(task.flow, **on, run.task(**on).state)).count();
        rule("dependencies", unmet == task.unmet as usize, || {
            format!("{key}: {unmet} open, kept {}", task.unmet)
        })?;
        let fails = task.flow.after == After::Success;
        let dead = fails && held().any(|state| state.is_terminal() && state != TaskState::Succeeded);
        let verdict = task.flow.role == Role::Review && task.flow.of.is_some();
        let fits = match task.state {
            TaskState::Blocked => !dead && (unmet > 0 || waits(state, run, key)),
            TaskState::Skipped => dead || task.note().is_some(),
            TaskState::Cancelled => true,
            // What was judged may be under way again, or have ended, when the verdict is long said.
            TaskState::Succeeded | TaskState::Failed if verdict => true,
            TaskState::Queued
            | TaskState::Leased
            | TaskState::Running
            | TaskState::Verifying
            | TaskState::WaitingRetry
            | TaskState::Parked
            | TaskState::Succeeded
            | TaskState::Failed => unmet == 0,
        };
        rule("dependencies", fits, || format!("{key} is {} with {unmet} open, dead: {dead}", task.state))?;
    }
    Ok(())
}

/// Whether a blocked task whose dependencies did what they had to waits for something else.
fn waits(state: &State, run: &Run, key: TaskKey) -> bool {
    !run.is_ready(key.index) || state.questions.contains_key(&key) || run.waiting.contains(&key.index)
}

pub(super) fn places(state: &State) -> Result<(), Violation> {
    for (id, run) in &state.runs {
        let places = Run::count_places(&run.tasks);
        rule("places", places == run.places, || format!("run {id}: {places}, kept {}", run.places))?;
        let stray = run
            .waiting
            .iter()
            .find(|index| run.task(**index).state != TaskState::Blocked || !run.is_ready(**index));
        rule("places", stray.is_none(), || format!("run {id}: {stray:?} waits for a place"))?;
        rule("places", run.waiting.is_empty() || !run.has_place(), || {
            format!("run {id}: {:?} wait, {places} of {} taken", run.waiting, run.shape.max_parallel)
        })?;
        let limit = run.shape.max_parallel;
        rule("places", limit == 0 || places <= limit, || format!("run {id}: {places} of {limit} taken"))?;
    }
    Ok(())
}

pub(super) fn questions(state: &State) -> Result<(), Violation> {
    for (key, task) in tasks(state) {
        let Some(run) = state.run(key.run) else { continue };
        let asked = state.questions.get(&key).copied();
        let implied = consult::implied(state, key);
        // One that was answered may still wait for a place.
        let answered = task.state == TaskState::Blocked && run.waiting.contains(&key.index);
        rule("questions", asked == implied || (answered && asked.is_none()), || {
            format!("{key} is {}: {implied:?}, asked {asked:?}", task.state)
        })?;
        rule("questions", task.repairs <= task.flow.repairs, || {
            format!("{key} was sent back {} times of {}", task.repairs, task.flow.repairs)
        })?;
        if task.state == TaskState::Verifying && task.flow.role != Role::Plan {
            let review = run.review_of(key.index).map(|by| run.task(by).state);
            let judged = review == Some(TaskState::Succeeded)
                || review.is_some_and(|state| state == TaskState::Blocked || state.takes_place());
            rule("questions", judged, || format!("{key} waits for a review that is {review:?}"))?;
        }
    }
    let known = |key: &TaskKey| state.task(*key).is_some();
    rule("questions", state.questions.keys().all(known), || "a question about nothing")
}

pub(super) fn shapes(state: &State) -> Result<(), Violation> {
    for (id, run) in &state.runs {
        let plan = run.tasks.first().map(|task| task.state);
        let fits = match run.state {
            RunState::Planning => run.is_unplanned() && plan.is_some_and(|plan| !plan.is_terminal()),
            RunState::WaitingApproval => run.is_shelved(),
            RunState::Running => !run.is_unplanned() && !run.is_synthesizing(),
            RunState::Synthesizing => run.is_synthesizing(),
            RunState::Succeeded | RunState::Failed | RunState::Cancelled => true,
        };
        rule("shapes", fits, || format!("run {id} is {}, its first task {plan:?}", run.state))?;
    }
    Ok(())
}

pub(super) fn terminal(state: &State) -> Result<(), Violation> {
    for (key, task) in tasks(state) {
        let ended = task.state.is_terminal();
        let shown = task.outcome.is_some() && task.finished.is_some();
        let hidden = task.outcome.is_none() && task.finished.is_none();
        rule("terminal", if ended { shown } else { hidden }, || {
            format!("{key} is {} with {:?}, {:?}", task.state, task.outcome, task.finished)
        })?;
        let ok = task.outcome == Some(Outcome::OK);
        rule("terminal", ok == (task.state == TaskState::Succeeded), || {
            format!("{key} is {} with {:?}", task.state, task.outcome)
        })?;
    }
    for (id, run) in &state.runs {
        let done = run.tasks.iter().all(|task| task.state.is_terminal());
        rule("terminal", done == run.state.is_terminal(), || format!("run {id} is {}", run.state))?;
        rule("terminal", run.finished.is_some() == run.state.is_terminal(), || {
            format!("run {id} is {} and ended {:?}", run.state, run.finished)
        })?;
    }
    Ok(())
}

pub(super) fn recorded_once(state: &State) -> Result<(), Violation> {
    for (key, task) in tasks(state) {
        let attempts = task.attempts();
        let rising = attempts.iter().zip(attempts.iter().skip(1)).all(|(a, b)| a.number < b.number);
        rule("recorded_once", rising, || format!("{key}: attempts do not rise"))?;
        rule("recorded_once", attempts.last().is_none_or(|last| last.number <= task.attempt), || {
            format!("{key}: an ended attempt is newer than the latest")
        })?;
        let last = attempts.last().filter(|ended| ended.number == task.attempt);
        let ok = last.is_some_and(|ended| ended.outcome == Outcome::OK);
        let done = matches!(task.state, TaskState::Succeeded | TaskState::Verifying);
        rule("recorded_once", ok || !done, || {
            format!("{key} is {} and its latest attempt ended {last:?}", task.state)
        })?;
        // Whoever holds it or will hold it is not done with it already.
        rule("recorded_once", last.is_none() || !task.state.is_held(), || {
            format!("{key} is {} and its latest attempt ended {last:?}", task.state)
        })?;
    }
    Ok(())
}

pub(super) fn usage(state: &State) -> Result<(), Violation> {
    for (id, run) in &state.runs {
        let spent: u64 = run.tasks.iter().map(|task| task.usage().cost_micro_usd).sum();
        rule("usage", spent == run.usage.cost_micro_usd, || {
            format!("run {id}: tasks spent {spent}, kept {}", run.usage.cost_micro_usd)
        })?;
    }
    for (key, task) in tasks(state) {
        // The oldest attempts may be forgotten, what they cost is not.
        let known: u64 = task.attempts().iter().map(|ended| ended.cost_micro_usd).sum();
        let sum = task.usage().cost_micro_usd;
        rule("usage", known <= sum, || format!("{key}: its attempts spent {known}, kept {sum}"))?;
        let odd = task.attempts().iter().find(|ended| ended.awaits_bill && ended.digest.is_some());
        rule("usage", odd.is_none(), || format!("{key}: {odd:?} was recorded and waits for its bill"))?;
    }
    Ok(())
}

pub(super) fn register(state: &State) -> Result<(), Violation> {
    let register = &state.register;
    for (id, run) in &state.runs {
        let found = register.by_number(run.tenant, run.name, run.number);
        rule("register", found == Some(*id), || format!("run {id} is not found by its number"))?;
        let ended = register.finished.get(*id);
        let fits = match ended {
            Some(held) => held.state == run.state && held.stays_since.is_some(),
            None => !run.state.is_terminal(),
        };
        rule("register", fits, || format!("run {id} is {} and listed as {ended:?}", run.state))?;
        rule("register", *id <= register.last_run, || format!("run {id} is newer than the newest"))?;
    }
    for (id, held) in register.finished.iter() {
        let live = state.runs.contains_key(&id);
        rule("register", live == held.stays_since.is_some(), || format!("finished run {id}, live: {live}"))?;
    }
    dead(state)?;
    for run in state.schedule.passes.runs() {
        let active = state.run(run).is_some_and(|run| !run.state.is_terminal());
        rule("register", active, || format!("run {run} keeps a pass"))?;
    }
    rule("register", register.requests.is_consistent(), || "a request id is never forgotten")?;
    let wrong = register.finished.inconsistency();
    rule("register", wrong.is_none(), || wrong.clone().unwrap_or_default())?;
    rule("register", state.config.keep_runs > Span(0), || "runs are kept for no time")
}

/// What ended as poison is counted, of every run that is known.
fn dead(state: &State) -> Result<(), Violation> {
    let counted = &state.register.dead;
    for (id, run) in &state.runs {
        let dead = run.tasks.iter().filter(|task| task.outcome == Some(Outcome::POISON)).count();
        let kept = counted.get(&(run.tenant, *id)).copied().unwrap_or(0) as usize;
        rule("register", dead == kept, || format!("run {id} has {dead} dead letters, kept {kept}"))?;
    }
    let known = |id: &RunId| state.runs.contains_key(id) || state.register.finished.get(*id).is_some();
    let stray = counted.iter().find(|((_, id), count)| **count == 0 || !known(id));
    rule("register", stray.is_none(), || format!("dead letters of {stray:?}"))
}

pub(super) fn tasks(state: &State) -> impl Iterator<Item = (TaskKey, &Task)> {
    state.runs.iter().flat_map(|(id, run)| {
        run.indexes().zip(run.tasks.iter()).map(|(index, task)| (TaskKey { run: *id, index }, task))
    })
}
