//! Why a task is where it is, and what would move it: looked up when asked, never stored.
//! Knows the same state the scheduler decides by, so it cannot say another thing.

mod holds;

use crate::agents::{Link, serves};
use crate::ids::{AgentKey, TaskKey};
use crate::machine::fitting::{impossible_reason, label_that_helps};
use crate::machine::leases::{requeue_at, seconds};
use crate::machine::view::{run_view, task_ref, task_view};
use crate::query::{AgentStateView, Answer, Reason, Refusal};
use crate::run::Run;
use crate::schedule::Class;
use crate::state::{EndedAttempt, Phase, RunState, State, TaskState};
use crate::task::{Place, Task, is_met};

/// Names listed in a sentence before it says "and n more".
const NAMED: usize = 5;
const DRAINING: &str = "the coordinator is shutting down and grants nothing";

pub(super) fn explain(state: &State, key: TaskKey) -> Result<Answer, Refusal> {
    let run = state.run(key.run).ok_or(Refusal::RunNotLive)?;
    let task = state.task(key).ok_or(Refusal::RunNotLive)?;
    let class = state.schedule.classes.get(task.class).ok_or(Refusal::RunNotLive)?;
    let hopeless = impossible_reason(state, &class.key);
    let mut reasons = Vec::new();
    let summary = match task.state {
        TaskState::Blocked => blocked(state, run, key, task, &mut reasons),
        TaskState::Queued => queued(state, key, task, class, hopeless.as_deref(), &mut reasons),
        TaskState::Leased | TaskState::Running => held(state, key, task, &mut reasons),
        TaskState::WaitingRetry => waiting(state, key, task, &mut reasons),
        TaskState::Verifying => judged(run, key, &mut reasons),
        TaskState::Parked => holds::parked(state, key, task, &mut reasons),
        TaskState::Succeeded | TaskState::Failed | TaskState::Cancelled | TaskState::Skipped => {
            ended(state, key, task, &mut reasons)
        }
    };
    if !task.state.is_terminal() && state.phase == Phase::Draining {
        reasons.push(no("drain", DRAINING));
    }
    Ok(Answer::Explained {
        run: run_view(state, key.run).ok_or(Refusal::RunNotLive)?,
        task: task_view(state, key).ok_or(Refusal::RunNotLive)?,
        summary,
        reasons,
        impossible: hopeless.is_some() && !task.state.is_terminal(),
    })
}

fn yes(kind: &'static str, text: impl Into<String>) -> Reason {
    Reason { kind, satisfied: true, text: text.into(), help: None, left: None }
}

fn no(kind: &'static str, text: impl Into<String>) -> Reason {
    Reason { kind, satisfied: false, text: text.into(), help: None, left: None }
}

/// With the command line that would remove it.
fn mendable(kind: &'static str, text: impl Into<String>, help: Option<String>) -> Reason {
    Reason { help, ..no(kind, text) }
}

fn blocked(state: &State, run: &Run, key: TaskKey, task: &Task, reasons: &mut Vec<Reason>) -> String {
    if task.unmet > 0 {
        return dependent(run, key, task, reasons);
    }
    reasons.push(yes("dependencies", "none is open"));
    if run.state == RunState::WaitingApproval {
        let text = "the plan waits for a person";
        let help = format!("orchctl approve {}", run.run_ref);
        let said = format!("{text}: {help}");
        reasons.push(mendable("approval", text, Some(help)));
        return said;
    }
    let (kind, text) = if run.waiting.contains(&key.index) {
        let limit = run.shape.max_parallel;
        ("parallel", format!("waits for a place: {} of {limit} tasks of its run are under way", run.places))
    } else if state.questions.contains_key(&key) {
        ("condition", "its conditions are being looked at".to_owned())
    } else {
        ("dependencies", "waits for the tasks of the plan".to_owned())
    };
    reasons.push(no(kind, text.clone()));
    text
}

/// A task whose work is done and not yet accepted.
fn judged(run: &Run, key: TaskKey, reasons: &mut Vec<Reason>) -> String {
    let text = match run.review_of(key.index).map(|by| run.task(by)) {
        None => "its plan is being checked".to_owned(),
        Some(review) if review.state == TaskState::Succeeded => {
            format!("the verdict of {} is being read", review.id)
        }
        Some(review) => format!("waits for the verdict of {} ({})", review.id, review.state),
    };
    reasons.push(no("review", text.clone()));
    text
}

fn dependent(run: &Run, key: TaskKey, task: &Task, reasons: &mut Vec<Reason>) -> String {
    let dependencies = run.graph.dependencies(key.index);
    let waiting: Vec<String> = dependencies
        .iter()
        .filter(|on| !is_met(task.flow, **on, run.task(**on).state))
        .map(|on| format!("{} ({})", run.task(*on).id, run.task(*on).state))
        .collect();
    let total = dependencies.len();
    let text = format!("waits for {} of {total}: {}", task.unmet, list(&waiting));
    reasons.push(no("dependencies", text));
    match waiting.as_slice() {
        [only] => format!("waits for {only}"),
        _ => format!("waits for {} tasks: {}", waiting.len(), list(&waiting)),
    }
}

fn queued(
    state: &State,
    key: TaskKey,
    task: &Task,
    class: &Class,
    hopeless: Option<&str>,
    reasons: &mut Vec<Reason>,
) -> String {
    reasons.push(yes("dependencies", "none is open"));
    if let Some(reason) = hopeless {
        reasons.push(mendable("capability", reason, label_that_helps(state, &class.key)));
        return format!("{reason}: it stays queued until such an agent joins");
    }
    let fit: Vec<AgentKey> = state.agents.keys().filter(|agent| is_fit(state, *agent, class)).collect();
    if fit.is_empty() {
        reasons.push(no("agent", "no agent has joined yet"));
        return "no agent has joined yet".to_owned();
    }
    if let Some((text, help)) = crate::machine::budgets::why(state, key) {
        let said = if help.is_empty() { text.clone() } else { format!("{text}; now: {help}") };
        reasons.push(mendable("budget", text, (!help.is_empty()).then_some(help)));
        return said;
    }
    reasons.push(yes("capability", format!("{} fit: {}", agents(fit.len()), names(state, &fit))));
    reasons.extend(fit.iter().filter_map(|agent| drained(state, *agent)).take(NAMED));
    let there: Vec<AgentKey> =
        fit.iter().copied().filter(|agent| state.agents.get(*agent).takes_work()).collect();
    if there.is_empty() {
        let text = absent(state, &fit);
        reasons.push(no("agent", text.clone()));
        return text;
    }
    if let Some(text) = spared(state, task, &there, reasons) {
        return text;
    }
    if let Some(text) = holds::held(state, task, class, &there, reasons) {
        return text;
    }
    let text = match task.place {
        Place::Warm(agent) => kept_for(state, task, agent),
        Place::Class | Place::Nowhere => slots_in_use(state, &there),
    };
    reasons.push(no("slot", text.clone()));
    let ahead = class.queue.len().saturating_sub(1);
    if state.phase == Phase::Draining {
        DRAINING.to_owned()
    } else if ahead > 0 {
        format!("{text}; {ahead} more of its kind wait")
    } else {
        text
    }
}

/// That an agent is in quarantine or an operator drains it, and how that ends.
fn drained(state: &State, agent: AgentKey) -> Option<Reason> {
    let agent = state.agents.get(agent);
    let help = Some(format!("orchctl agents resume {}", agent.name));
    if let Some(reason) = &agent.quarantine {
        return Some(mendable("quarantine", format!("{} is in quarantine: {reason}", agent.name), help));
    }
    let reason = agent.orders.drain.as_ref()?;
    Some(mendable("drain", format!("{} is {reason}", agent.name), help))
}

/// Names agents that are not offered the task for a moment, because they did not take one like it. The answer when
/// there are no others.
fn spared(state: &State, task: &Task, there: &[AgentKey], reasons: &mut Vec<Reason>) -> Option<String> {
    let spared = |agent: &AgentKey| state.agents.get(*agent).avoid.contains_key(&task.class);
    let spared: Vec<AgentKey> = there.iter().copied().filter(spared).collect();
    if spared.is_empty() {
        return None;
    }
    let note = task.detail().map_or_else(String::new, |detail| format!(" ({detail})"));
    let text = format!("not offered for a moment to {}{note}", names(state, &spared));
    reasons.push(no("agent", text.clone()));
    (spared.len() == there.len()).then_some(text)
}

fn kept_for(state: &State, task: &Task, agent: AgentKey) -> String {
    let left = seconds((task.since + state.config.affinity_wait) - state.now.tick);
    let name = &state.agents.get(agent).name;
    format!("waits up to {left} for {name}, which keeps its conversation and has no free slot")
}

fn slots_in_use(state: &State, there: &[AgentKey]) -> String {
    let used: u32 = there.iter().map(|agent| state.agents.get(*agent).used()).sum();
    let slots: u32 = there.iter().map(|agent| state.agents.get(*agent).slots).sum();
    format!("waits for a slot: {used} of {slots} slots of {} are in use", agents(there.len()))
}

fn is_fit(state: &State, key: AgentKey, class: &Class) -> bool {
    let agent = state.agents.get(key);
    serves(agent.tenant, class.key.tenant)
        && agent.offers(&class.key.requires)
        && class.key.pinned.as_ref().is_none_or(|name| *name == agent.name)
}

/// Why none of the agents that fit takes work.
fn absent(state: &State, fit: &[AgentKey]) -> String {
    let said: Vec<String> = fit
        .iter()
        .map(|key| {
            let agent = state.agents.get(*key);
            let why = match (agent.state(), &agent.orders.drain) {
                (AgentStateView::Ready, _) => "has no slots".to_owned(),
                (AgentStateView::Draining, Some(reason)) => format!("is {reason}"),
                (AgentStateView::Draining, None) => "takes no new work".to_owned(),
                (AgentStateView::Quarantined, _) => "is in quarantine".to_owned(),
                (AgentStateView::Unreachable, _) => "is unreachable".to_owned(),
                (AgentStateView::Offline, _) => "is offline".to_owned(),
            };
            format!("{} {why}", agent.name)
        })
        .collect();
    format!("no agent that fits takes work: {}", list(&said))
}

fn held(state: &State, key: TaskKey, task: &Task, reasons: &mut Vec<Reason>) -> String {
    let Some(agent) = task.agent else { return task.state.to_string() };
    let name = &state.agents.get(agent).name;
    let lasts = seconds(state.now.tick - task.granted.tick);
    reasons.push(yes("running", format!("attempt {} on {name} for {lasts}", task.attempt)));
    if matches!(state.agents.get(agent).link, Link::Heard(_)) {
        reasons.push(yes("agent", format!("{name} is connected")));
        if task.state == TaskState::Leased {
            return format!("was given to {name} {lasts} ago, which has not begun yet");
        }
        let Some(ended) = left_there(state, task, name) else {
            return format!("runs on {name} for {lasts} (attempt {})", task.attempt);
        };
        let why = if ended.detail.is_empty() { String::new() } else { format!(": {}", ended.detail) };
        reasons.push(yes("conversation", format!("attempt {} was cut off{why}", ended.number)));
        let (now, before) = (task.attempt, ended.number);
        return format!(
            "runs on {name} for {lasts} (attempt {now}, goes on in the conversation of attempt {before})"
        );
    }
    let requeue = requeue_at(state, agent)
        .map_or_else(String::new, |at| format!(", requeue in {}", seconds(at - state.now.tick)));
    let reference = task_ref(state, key).unwrap_or_default();
    reasons.push(no("agent", format!("{name} is unreachable{requeue}")));
    format!("{name} is unreachable{requeue}; now: orchctl retry --force {reference}")
}

/// The attempt that was cut off on this agent and in whose conversation the current one goes on.
fn left_there<'a>(state: &State, task: &'a Task, agent: &str) -> Option<&'a EndedAttempt> {
    let conversational = state.schedule.classes.get(task.class).is_some_and(|class| class.conversational);
    let ended = task.interrupted(&state.config).filter(|_| conversational && task.repairs == 0)?;
    (*ended.agent == *agent).then_some(ended)
}

fn waiting(state: &State, key: TaskKey, task: &Task, reasons: &mut Vec<Reason>) -> String {
    let left = seconds(task.retry - state.now.tick);
    let last = task.attempts().last().map_or_else(String::new, |ended| format!(": {}", ended.detail));
    let text =
        format!("attempt {} failed{last}; {} of {} retries used", task.attempt, task.failures, task.retries);
    reasons.push(no("retry", text));
    let reference = task_ref(state, key).unwrap_or_default();
    format!("will be tried again in {left}; now: orchctl retry {reference}")
}

fn ended(state: &State, key: TaskKey, task: &Task, reasons: &mut Vec<Reason>) -> String {
    let detail = task_view(state, key).map(|view| view.detail).unwrap_or_default();
    let why = if detail.is_empty() { String::new() } else { format!(": {detail}") };
    let text = format!("{}{why}", task.state);
    reasons.push(Reason {
        kind: "terminal",
        satisfied: task.state == TaskState::Succeeded,
        text: text.clone(),
        help: None,
        left: None,
    });
    if task.state == TaskState::Succeeded {
        return text;
    }
    let reference = task_ref(state, key).unwrap_or_default();
    format!("{text}; again: orchctl retry {reference}")
}

fn agents(count: usize) -> String {
    if count == 1 { "1 agent".to_owned() } else { format!("{count} agents") }
}

fn names(state: &State, keys: &[AgentKey]) -> String {
    let names: Vec<String> = keys.iter().map(|key| state.agents.get(*key).name.to_string()).collect();
    list(&names)
}

fn list(items: &[String]) -> String {
    if items.len() <= NAMED {
        return items.join(", ");
    }
    format!("{} and {} more", items[..NAMED].join(", "), items.len() - NAMED)
}
