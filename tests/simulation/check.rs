//! What must hold whatever happens, checked over a whole trace in the order in which things happened.

use crate::agent::answer;
use crate::disk::Disk;
use crate::faults::{Faults, Fired};
use crate::trace::{Event, Past, Seen, TaskKey};
use orch_agent::runner::AttemptKey;
use orch_coordinator::store::{Entity, Store as _};
use orch_proto::store::v1 as record;
use orch_proto::v1::{Outcome, RunState, TaskState};
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Everything that the trace breaks, in the order in which it was found. Counts what the trace shows.
pub(crate) fn check(events: &[(Duration, Event)], disk: &Disk, fired: &mut Fired) -> Vec<String> {
    let mut checker = Checker::default();
    for (at, event) in events {
        let before = checker.broken.len();
        checker.step(event);
        for broken in &mut checker.broken[before..] {
            *broken = format!("{:.3} s: {broken}", at.as_secs_f64());
        }
    }
    if Faults::is_surprise(events) {
        checker.broken.push("the coordinator failed, and its disk had not".to_owned());
    }
    checker.stored(disk);
    checker.count(fired);
    checker.broken
}

#[derive(Debug, Default)]
struct Checker {
    broken: Vec<String>,
    /// Numbers of runs by name.
    runs: BTreeMap<String, u64>,
    /// What clients were told, by request id.
    acknowledged: BTreeMap<String, String>,
    /// Runs that somebody asked to retry, and those that somebody steered at all.
    retried: BTreeSet<String>,
    steered: BTreeSet<String>,
    tasks: BTreeMap<TaskKey, Task>,
    /// Agents whose identity somebody else took.
    doubled: BTreeSet<String>,
    accepted: BTreeSet<(AttemptKey, String)>,
    finished: BTreeSet<(AttemptKey, String)>,
    settled: BTreeSet<AttemptKey>,
    recorded: BTreeSet<AttemptKey>,
    /// Children that run, with their agents.
    running: BTreeMap<AttemptKey, String>,
    /// The only agent of an attempt.
    executed: BTreeMap<AttemptKey, String>,
    watchers: BTreeMap<String, u64>,
    log: BTreeMap<u64, u64>,
    dead_men: u32,
    bulk: u32,
    lost: u32,
}

#[derive(Debug, Default)]
struct Task {
    last: Option<Seen>,
    past: BTreeMap<u32, Past>,
    /// Attempts that were durably granted.
    granted: BTreeSet<u32>,
}

const fn is_over(state: TaskState) -> bool {
    matches!(state, TaskState::Succeeded | TaskState::Failed | TaskState::Cancelled | TaskState::Skipped)
}

impl Checker {
    fn step(&mut self, event: &Event) {
        match event {
            Event::Submitting { .. } | Event::Refused { .. } | Event::Watching { .. } => {}
            Event::Process { .. } | Event::Steered { .. } => {}
            Event::Acknowledged { request, run } => {
                let known = self.acknowledged.entry(request.clone()).or_insert_with(|| run.clone());
                if known != run {
                    let broken = format!("{request} was acknowledged as {known} and as {run}");
                    self.broken.push(broken);
                }
            }
            Event::Steering { what, run } => {
                if *what == "retry" {
                    self.retried.insert(run.clone());
                }
                self.steered.insert(run.clone());
            }
            Event::Run { number, named, .. } => {
                let known = *self.runs.entry(named.clone()).or_insert(*number);
                if known != *number {
                    self.broken.push(format!("{named} is run {known} and run {number}"));
                }
            }
            Event::Task { task, seen } => self.task(*task, seen),
            Event::Accepted { agent, key } => {
                self.granted(*key, agent);
                self.accepted.insert((*key, agent.clone()));
            }
            Event::Started { agent, key, waits } => self.started(agent, *key, *waits),
            Event::Ended { agent, key, how } => {
                if self.running.remove(key).as_ref() != Some(agent) {
                    self.broken.push(format!("{key} ended on {agent}, where it did not run"));
                }
                self.dead_men += u32::from(how.contains("dead-man") || how.contains("orphan"));
            }
            Event::Finished { agent, key, .. } => drop(self.finished.insert((*key, agent.clone()))),
            Event::Settled { key, .. } => drop(self.settled.insert(*key)),
            Event::Watched { watcher, seq, what } => self.watched(watcher, *seq, *what),
            Event::Fault { what } => {
                self.doubled.extend(what.strip_prefix("twin of ").map(str::to_owned));
            }
        }
    }

    /// Nothing leaves before it is durable: an agent has what was granted to it, and nobody else.
    fn granted(&mut self, key: AttemptKey, agent: &str) {
        let task = self.tasks.get(&(key.run, key.task));
        if !task.is_some_and(|task| task.granted.contains(&key.attempt)) {
            self.broken.push(format!("{agent} was given {key}, which is not durably granted"));
        }
    }

    fn started(&mut self, agent: &str, key: AttemptKey, waits: bool) {
        let executed = self.executed.entry(key).or_insert_with(|| agent.to_owned());
        if executed != agent {
            self.broken.push(format!("{key} runs on {agent} and ran on {executed}"));
        }
        if !self.accepted.contains(&(key, agent.to_owned())) {
            self.broken.push(format!("{agent} starts {key} before it accepted it"));
        }
        let steered = self.name_of(key.run).is_some_and(|run| self.steered.contains(run));
        for (other, holder) in &self.running {
            if (other.run, other.task) != (key.run, key.task) || self.doubled.contains(holder) {
                continue;
            }
            if other.attempt == key.attempt || (waits && !steered) {
                self.broken.push(format!("{key} starts on {agent} while {other} runs on {holder}"));
            }
        }
        self.running.insert(key, agent.to_owned());
    }

    fn name_of(&self, run: u64) -> Option<&String> {
        self.runs.iter().find(|(_, number)| **number == run).map(|(name, _)| name)
    }

    fn task(&mut self, name: TaskKey, seen: &Seen) {
        let retried = self.name_of(name.0).is_some_and(|run| self.retried.contains(run));
        let task = self.tasks.entry(name).or_default();
        let mut broken = Vec::new();
        if let Some(last) = &task.last {
            if seen.attempt < last.attempt {
                broken.push(format!("attempts fall from {} to {}", last.attempt, seen.attempt));
            }
            if is_over(last.state) && seen.state != last.state && !retried {
                broken.push(format!("it was {:?} and becomes {:?}", last.state, seen.state));
            }
        }
        for past in &seen.attempts {
            // Granted and ended by word of the coordinator within one batch: the record has never been seen held.
            if past.digest.is_empty() {
                task.granted.insert(past.number);
            }
            let key = AttemptKey { run: name.0, task: name.1, attempt: past.number };
            let known = task.past.insert(past.number, past.clone());
            let digest = known.as_ref().map_or("", |known| known.digest.as_str());
            if known.as_ref().is_none() && past.outcome == Outcome::LostAgent && past.digest.is_empty() {
                self.lost += 1;
            }
            if digest == past.digest {
                continue;
            }
            if !digest.is_empty() {
                broken.push(format!("another report of attempt {} is recorded over the first", past.number));
            }
            if !task.granted.contains(&past.number) {
                broken.push(format!("attempt {} is recorded and was never granted", past.number));
            }
            let bill = known.as_ref().is_some_and(|known| known.awaits_bill);
            let current = task.last.as_ref().map_or(0, |last| last.attempt);
            if past.number != current && !bill {
                broken.push(format!("attempt {} is recorded when {current} is current", past.number));
            }
            if known.as_ref().is_some_and(|known| !known.awaits_bill && known.outcome != past.outcome) {
                broken.push(format!("attempt {} ended before it was recorded", past.number));
            }
            let by = (key, past.agent.clone());
            if !self.accepted.contains(&by) || !self.finished.contains(&by) {
                broken.push(format!(
                    "attempt {} is recorded and {} never reported it",
                    past.number, past.agent
                ));
            }
            self.recorded.insert(key);
            if past.outcome == Outcome::Ok && !seen.answer.is_empty() && past.number == seen.attempt {
                let right = answer(key, &past.agent, false);
                let bulk: String = Sha256::digest(answer(key, &past.agent, true))
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect();
                if seen.answer == bulk {
                    self.bulk += 1;
                } else if seen.answer != right {
                    broken.push(format!("attempt {} has the answer {:?}", past.number, seen.answer));
                }
            }
        }
        if matches!(seen.state, TaskState::Leased | TaskState::Running) {
            task.granted.insert(seen.attempt);
        }
        task.last = Some(seen.clone());
        self.broken.extend(broken.into_iter().map(|what| format!("task {}/{}: {what}", name.0, name.1)));
    }

    fn watched(&mut self, watcher: &str, seq: u64, what: u64) {
        let last = self.watchers.entry(watcher.to_owned()).or_insert(0);
        if seq != *last + 1 {
            self.broken.push(format!("{watcher} was told {seq} after {last}"));
        }
        *last = seq;
        if *self.log.entry(seq).or_insert(what) != what {
            self.broken.push(format!("two watchers were told different events {seq}"));
        }
    }

    /// What lies on the disk in the end.
    fn stored(&mut self, disk: &Disk) {
        let loaded = disk.reopen().load();
        let records = match loaded {
            Ok(snapshot) => snapshot.records,
            Err(error) => return self.broken.push(format!("the store cannot be read in the end: {error}")),
        };
        let mut requests: BTreeMap<String, String> = BTreeMap::new();
        for (key, value) in &records {
            if !matches!(key.entity(), Ok(Entity::Run { .. })) {
                continue;
            }
            let Ok(run) = record::RunRecord::decode(value.as_slice()) else {
                self.broken.push(format!("{key:?} cannot be read in the end"));
                continue;
            };
            let name = format!("{}/{}", run.name, run.number);
            if !matches!(run.state(), RunState::Succeeded | RunState::Failed | RunState::Cancelled) {
                self.broken.push(format!("{name} is {:?} in the end", run.state()));
            }
            if let Some(other) = requests.insert(run.request_id.clone(), name.clone()) {
                self.broken.push(format!("{} became {other} and {name}", run.request_id));
            }
        }
        for (request, run) in &self.acknowledged {
            if requests.get(request) != Some(run) {
                let broken =
                    format!("{request} was acknowledged as {run}, stored is {:?}", requests.get(request));
                self.broken.push(broken);
            }
        }
        for (key, agent) in &self.running {
            self.broken.push(format!("{key} still runs on {agent} in the end"));
        }
        for (name, task) in &self.tasks {
            if task.last.as_ref().is_some_and(|last| !is_over(last.state)) {
                self.broken.push(format!("task {}/{} has not ended: {:?}", name.0, name.1, task.last));
            }
        }
    }

    fn count(&self, fired: &mut Fired) {
        let poisoned = |task: &&Task| task.last.as_ref().is_some_and(|last| last.outcome == Outcome::Poison);
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        for (what, count) in [
            ("report recorded", count(self.recorded.len())),
            ("report not recorded", count(self.settled.difference(&self.recorded).count())),
            ("attempt after a lost one", self.lost),
            ("task poisoned", count(self.tasks.values().filter(poisoned).count())),
            ("child ended by its dead-man switch", self.dead_men),
            ("bulk answer recorded", self.bulk),
        ] {
            *fired.entry(what.to_owned()).or_default() += count;
        }
    }
}
