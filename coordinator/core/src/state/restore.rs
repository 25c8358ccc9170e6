//! From records back to the state: what a start hands in, in any order, and the check that it fits together.
//! Agents come back as not connected, leases as unheard; [`crate::event::Event::Started`] gives them their grace.

use crate::agents::{Agent, Lease, Orders};
use crate::budgets::{Amount, BudgetRecordView, Purse, Spent, Standing};
use crate::event::{NewTask, Role};
use crate::graph::Graph;
use crate::ids::{AgentKey, AttemptKey, AttemptNo, EventSeq, RunId, TaskIndex, TaskKey, TenantId};
use crate::invariants::check_invariants;
use crate::machine::{budgets, consult, flow};
use crate::outcome::Outcome;
use crate::register::{FinishedRun, Request};
use crate::run::{Run, run_ref};
use crate::schedule::{self, ClassKey};
use crate::state::record::{
    RestoreError, RestoredAgent, RestoredRequest, RestoredRun, RestoredTask, TaskProgress,
};
use crate::state::{State, TaskCounts, TaskState};
use crate::task::{History, Place, Task};
use crate::time::{Now, Tick, Wall};
use crate::timers::Timer;
use crate::usage::Usage;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Percent of a budget that people were told of at least, where its record says that they were.
const WARNED: u8 = 80;

impl State {
    /// Restores the newest number of a run name whose runs are gone.
    pub fn restore_name(&mut self, tenant: TenantId, name: &Arc<str>, last_number: u64) {
        let name = self.names.intern(name);
        self.register.note_number(tenant, name, last_number);
    }

    /// Restores an agent, as not connected.
    pub fn restore_agent(&mut self, restored: RestoredAgent) {
        let known = self.agents.find(restored.tenant, &restored.name);
        let key = known.unwrap_or_else(|| self.agents.add(Agent::new(restored.tenant, restored.name)));
        let agent = self.agents.get_mut(key);
        agent.slots = restored.slots;
        agent.own = restored.capabilities;
        agent.own.sort_unstable();
        agent.own.dedup();
        agent.orders = Orders::restored(restored.labels, restored.hidden, restored.drain);
        agent.capabilities = agent.orders.effective(&agent.own);
        agent.quarantine = restored.quarantine;
        agent.last_seen = restored.last_seen;
        self.schedule.place(key, &mut self.agents);
    }

    /// Restores a request that is not remembered with a run.
    pub fn restore_request(&mut self, restored: &RestoredRequest) {
        let RestoredRequest { run, digest, at, retried, .. } = *restored;
        let request = Request { run, digest, at, retried: Some(retried) };
        self.register.requests.note(restored.tenant, &restored.id, request);
    }

    /// Restores a run. A terminal run without tasks becomes known for retention, request ids and
    /// [`State::resolve`] only.
    pub fn restore_run(&mut self, restored: RestoredRun) {
        if let Err(error) = self.restore(restored) {
            self.restoring.push(error);
        }
    }

    /// Restores the sequence number of the newest notice ever made.
    pub fn restore_seq(&mut self, seq: EventSeq) {
        self.seq = self.seq.max(seq);
    }

    /// No run made from now on has an id up to this one. Needed where the newest runs are already deleted.
    pub fn restore_last_run(&mut self, last: RunId) {
        self.register.last_run = self.register.last_run.max(last);
    }

    /// No id up to these is given out again: runs, numbers of every name, events, and attempts of tasks of runs up to
    /// `run`. A coordinator whose records are gone may have given them out, and agents may still hold them.
    pub fn restore_floors(&mut self, run: RunId, number: u64, seq: EventSeq, attempt: AttemptNo) {
        self.restore_last_run(run);
        self.restore_seq(seq);
        self.register.number_floor = self.register.number_floor.max(number);
        self.attempt_floor = (run, attempt);
    }

    /// Checks what was restored and builds every index.
    ///
    /// # Errors
    /// When the records contradict each other.
    pub fn finish_restore(&mut self) -> Result<(), RestoreError> {
        if let Some(error) = self.restoring.drain(..).next() {
            return Err(error);
        }
        self.register.finished.sort();
        self.register.requests.sort();
        schedule::relist(self);
        self.budgets.note_roll();
        budgets::restored(self);
        check_invariants(self).map_err(|violation| RestoreError::Invariant(violation.to_string()))
    }

    /// The agent of that name, made when it is not known: a task may name an agent whose record is lost.
    /// One that holds nothing of it was forgotten and stays so.
    fn agent_named(&mut self, tenant: TenantId, name: &Arc<str>, held: bool) -> AgentKey {
        if let Some(key) = self.agents.find_for(tenant, name) {
            return key;
        }
        if !held {
            return self.agents.trace(tenant, name);
        }
        let key = self.agents.add(Agent::new(tenant, Arc::clone(name)));
        self.schedule.place(key, &mut self.agents);
        key
    }

    pub(crate) fn restore(&mut self, restored: RestoredRun) -> Result<(), RestoreError> {
        let id = restored.id;
        if self.runs.contains_key(&id) || self.register.finished.get(id).is_some() {
            return Err(RestoreError::RunTwice(id));
        }
        let gone = restored.state.is_terminal() && restored.tasks.is_empty();
        if !gone && restored.tasks.len() != restored.task_count as usize {
            let (found, expected) = (restored.tasks.len(), restored.task_count);
            return Err(RestoreError::TaskCount { run: id, found, expected });
        }
        let name = self.names.intern(&restored.name);
        let submitted_by = self.names.intern(&restored.submitted_by);
        let number = (restored.tenant, name, restored.number);
        if let Some(first) = self.register.enter(number, submitted_by, id) {
            return Err(RestoreError::NumberTwice { first, second: id });
        }
        let request =
            Request { run: id, digest: restored.spec_digest, at: restored.created.tick, retried: None };
        self.register.requests.note(restored.tenant, &restored.request_id, request);
        if restored.state.is_terminal() {
            let at = restored.finished.unwrap_or(restored.created).tick;
            let finished = FinishedRun {
                tenant: restored.tenant,
                name,
                number: restored.number,
                submitted_by,
                state: restored.state,
                tasks: restored.task_count,
                at,
                stays_since: (!gone).then_some(at),
            };
            self.register.finished.add(id, finished);
        }
        if !gone {
            return self.revive(restored);
        }
        self.count_dead(restored.tenant, id, restored.dead);
        Ok(())
    }

    fn count_dead(&mut self, tenant: TenantId, id: RunId, dead: u32) {
        if dead > 0 {
            self.register.dead.insert((tenant, id), dead);
        } else {
            self.register.dead.remove(&(tenant, id));
        }
    }

    /// Makes a run live again. Its name, number and end are registered already. Changes nothing when it fails.
    pub(crate) fn revive(&mut self, mut restored: RestoredRun) -> Result<(), RestoreError> {
        let id = restored.id;
        let rows = restored.tasks.iter().map(|task| task.spec.dependencies.as_slice());
        let graph = Graph::build(rows).map_err(|_| RestoreError::Graph(id))?;
        for (index, task) in (0u32..).map(TaskIndex).zip(&restored.tasks) {
            if let Some(progress) = &task.progress {
                check_progress(TaskKey { run: id, index }, progress)?;
            }
        }
        if restored.state.is_terminal() {
            budgets::count_ended(&mut restored.tasks);
        } else {
            self.revive_holds(id, &restored);
        }
        let (tenant, created) = (restored.tenant, restored.created.tick);
        let mut tasks: Vec<Task> =
            restored.tasks.into_iter().map(|task| self.revive_task(tenant, created, task)).collect();
        Task::count_unmet(&graph, &mut tasks);
        let mut usage = Usage::default();
        let mut counts = TaskCounts::default();
        for task in &tasks {
            usage.add(task.usage());
            counts.enter(task.state);
            self.totals.enter(tenant, task.state);
        }
        if !restored.state.is_terminal() {
            self.totals.active_runs += 1;
        }
        let dead = tasks.iter().filter(|task| task.outcome == Some(Outcome::POISON)).count();
        self.count_dead(tenant, id, u32::try_from(dead).unwrap_or(u32::MAX));
        let run = Run {
            tenant,
            name: self.names.intern(&restored.name),
            number: restored.number,
            run_ref: run_ref(&restored.name, restored.number),
            submitted_by: self.names.intern(&restored.submitted_by),
            created: restored.created,
            finished: restored.finished,
            state: restored.state,
            outcome: restored.outcome,
            labels: restored.labels.into(),
            request_id: restored.request_id,
            spec_digest: restored.spec_digest,
            counts,
            usage,
            by_name: Run::index_names(&tasks),
            shape: restored.shape,
            detail: restored.detail,
            places: Run::count_places(&tasks),
            waiting: BTreeSet::new(),
            purse: self.revive_purse(id, &tasks),
            synthesis: Run::find_synthesis(&tasks),
            tasks: tasks.into(),
            graph,
        };
        let goes_on = !run.state.is_terminal();
        self.runs.insert(id, Box::new(run));
        if goes_on {
            self.revive_readiness(id);
            self.revive_queues(id);
        }
        Ok(())
    }

    /// What is kept of a run's budget beside its sums.
    fn revive_purse(&self, id: RunId, tasks: &[Task]) -> Purse {
        let (restored, floor) = self.attempt_floor;
        let floor = if id <= restored { floor.0 } else { 0 };
        // What a restore of the data skipped was never granted.
        let granted = |task: &Task| u64::from(task.attempt.0.checked_sub(floor).unwrap_or(task.attempt.0));
        Purse { granted: tasks.iter().map(granted).sum(), ..Purse::default() }
    }

    /// What attempts that are held were promised, and what those may have spent whose bill is open.
    /// [`crate::machine::budgets::restored`] fits them to the budgets.
    fn revive_holds(&mut self, id: RunId, restored: &RestoredRun) {
        for (index, task) in (0u32..).map(TaskIndex).zip(&restored.tasks) {
            let Some(progress) = &task.progress else { continue };
            let key = TaskKey { run: id, index };
            let allowed = Amount::from(progress.allowed);
            if progress.state.is_held() && (!allowed.is_zero() || progress.pool.is_some()) {
                let attempt = AttemptKey { task: key, attempt: progress.attempt };
                let pool = progress.pool.clone().unwrap_or_else(|| Arc::clone(&self.empty));
                self.budgets.change(attempt, |hold| {
                    hold.promised = allowed;
                    hold.pool = pool;
                });
            }
            for open in &progress.open {
                let attempt = AttemptKey { task: key, attempt: open.attempt };
                self.budgets.change(attempt, |hold| {
                    hold.promised = open.most.into();
                    hold.pool = Arc::clone(&open.pool);
                    hold.ended = Some(Tick(u64::MAX));
                });
            }
        }
    }

    /// Restores a standing budget.
    pub fn restore_budget(&mut self, restored: BudgetRecordView) {
        let key = (restored.tenant, Arc::clone(&restored.budget.name));
        let standing = Standing {
            period: restored.period,
            recorded: restored.spent,
            estimated_micro_usd: restored.estimated_micro_usd,
            warned: if restored.warned { WARNED } else { 0 },
            closed: false,
            budget: restored.budget,
        };
        self.budgets.standing.insert(key, standing);
    }

    fn revive_task(&mut self, tenant: TenantId, created: Tick, restored: RestoredTask) -> Task {
        let progress = restored.progress.unwrap_or_else(|| TaskProgress::unstarted(created));
        let held = progress.state.is_held();
        let eventful =
            !progress.attempts.is_empty() || !progress.crashed_on.is_empty() || !progress.usage.is_zero();
        let eventful = eventful || progress.parked.is_some();
        let eventful = eventful || progress.note.is_some() || progress.afresh > AttemptNo(0);
        let history = eventful.then(|| {
            Box::new(History {
                attempts: progress.attempts,
                usage: progress.usage,
                crashed_on: progress.crashed_on,
                afresh: progress.afresh,
                parked: progress.parked,
                note: progress.note,
            })
        });
        Task {
            history,
            since: progress.since,
            granted: progress.granted.unwrap_or_default(),
            retry: progress.retry.unwrap_or_default(),
            finished: progress.finished,
            attempt: progress.attempt,
            agent: progress.agent.as_ref().map(|name| self.agent_named(tenant, name, held)),
            crashes: progress.crashes,
            failures: progress.failures,
            repairs: progress.repairs,
            state: progress.state,
            outcome: progress.outcome,
            ..self.new_task(tenant, restored.spec, progress.state)
        }
    }

    /// The skeleton of a task in its first state, counted in its class.
    pub(crate) fn new_task(&mut self, tenant: TenantId, spec: NewTask, state: TaskState) -> Task {
        let key = ClassKey::of(tenant, &spec);
        let class = self.schedule.intern(key, self.config.max_classes, &mut self.agents);
        if let Some(class) = self.schedule.classes.get_mut(class) {
            class.tasks += 1;
        }
        Task {
            id: spec.id,
            history: None,
            timeout: spec.timeout,
            since: self.now.tick,
            granted: Now::default(),
            retry: Tick(0),
            finished: None,
            worker: self.names.intern(&spec.worker),
            class,
            priority: spec.priority,
            retries: spec.retries,
            unmet: u32::try_from(spec.dependencies.len()).unwrap_or(u32::MAX),
            attempt: AttemptNo(0),
            agent: None,
            crashes: 0,
            failures: 0,
            repairs: 0,
            level: 0,
            expected: Task::keep_expected(spec.expected_micro_usd),
            place: Place::Nowhere,
            state,
            on_loss: spec.on_loss,
            outcome: None,
            flow: spec.flow,
        }
    }

    /// What follows from records without being one: that a blocked task became ready and since when, which questions are
    /// open, and who waits for a place.
    fn revive_readiness(&mut self, id: RunId) {
        let Some(run) = self.run(id) else { return };
        let blocked = |index: &TaskIndex| run.task(*index).state == TaskState::Blocked;
        let ready: Vec<TaskIndex> =
            run.indexes().filter(|index| blocked(index) && run.is_ready(*index)).collect();
        for index in ready {
            let Some(run) = self.runs.get_mut(&id) else { return };
            if flow::asks_first(run, index) {
                continue;
            }
            let review = run.task(index).flow.role == Role::Review;
            if !review && !run.has_place() {
                run.waiting.insert(index);
                continue;
            }
            let since = run.graph.dependencies(index).iter().map(|at| run.task(*at).since).max();
            run.counts.leave(TaskState::Blocked);
            run.counts.enter(TaskState::Queued);
            run.places += u32::from(!review);
            let task = &mut run.tasks[index.0 as usize];
            task.state = TaskState::Queued;
            task.since = since.unwrap_or(task.since).max(task.since);
            let (tenant, now) = (run.tenant, self.now.tick);
            self.totals.change(tenant, TaskState::Blocked, TaskState::Queued, now);
        }
        let Some(run) = self.run(id) else { return };
        let keys = run.indexes().map(|index| TaskKey { run: id, index });
        let open: Vec<_> = keys.filter_map(|key| Some((key, consult::implied(self, key)?))).collect();
        self.questions.extend(open);
    }

    /// Queues, leases and timers of a run that is not terminal.
    fn revive_queues(&mut self, id: RunId) {
        let Some(run) = self.run(id) else { return };
        for index in run.indexes() {
            let key = TaskKey { run: id, index };
            let Some(task) = self.task(key) else { continue };
            match task.state {
                TaskState::Queued => schedule::enqueue_cold(self, key),
                TaskState::WaitingRetry => {
                    let due = task.retry;
                    self.timers.set(due, Timer::Retry(key));
                }
                TaskState::Parked => {
                    let (due, pool) = (task.retry, task.parked().map(|hit| Arc::clone(&hit.pool)));
                    self.timers.set(due, Timer::Retry(key));
                    self.limits.park(key, pool.unwrap_or_default());
                }
                TaskState::Leased | TaskState::Running => self.revive_lease(key),
                TaskState::Blocked
                | TaskState::Verifying
                | TaskState::Succeeded
                | TaskState::Failed
                | TaskState::Cancelled
                | TaskState::Skipped => {}
            }
        }
    }

    fn revive_lease(&mut self, key: TaskKey) {
        let Some(task) = self.task(key) else { return };
        let Some(agent) = task.agent else { return };
        let mut lease =
            Lease::granted(task.attempt, task.granted.tick, task.on_loss, task.timeout, &self.config);
        lease.accepted = task.state == TaskState::Running;
        let due = lease.deadline(false, Tick(0), &self.config).0;
        let held = self.agents.get_mut(agent);
        held.leases.insert(key, lease);
        held.shown = held.state();
        let due = held.armed.leases.map_or(due, |armed| armed.min(due));
        self.timers.rearm(&mut held.armed.leases, Timer::Leases(agent), Some(due));
    }
}

impl TaskProgress {
    /// A task of which nothing is recorded yet.
    fn unstarted(since: Tick) -> Self {
        Self {
            state: TaskState::Blocked,
            attempt: AttemptNo(0),
            agent: None,
            granted: None,
            finished: None,
            outcome: None,
            crashes: 0,
            failures: 0,
            retry: None,
            attempts: Vec::new(),
            usage: Usage::default(),
            since,
            crashed_on: Vec::new(),
            repairs: 0,
            afresh: AttemptNo(0),
            parked: None,
            note: None,
            allowed: Spent::default(),
            pool: None,
            open: Vec::new(),
        }
    }
}

/// Refuses what no version of this core can have written.
fn check_progress(task: TaskKey, progress: &TaskProgress) -> Result<(), RestoreError> {
    let state = progress.state;
    let needs = |holds: bool, missing: &'static str| {
        if holds { Ok(()) } else { Err(RestoreError::Task { task, state, missing }) }
    };
    if state.is_held() {
        needs(progress.attempt.0 > 0, "an attempt")?;
        needs(progress.agent.is_some(), "an agent")?;
        needs(progress.granted.is_some(), "the moment of its grant")?;
    }
    if state.waits_for_time() {
        needs(progress.retry.is_some(), "the moment of its retry")?;
    }
    if state.is_terminal() {
        needs(progress.outcome.is_some(), "an outcome")?;
        needs(
            (progress.outcome == Some(Outcome::OK)) == (state == TaskState::Succeeded),
            "a fitting outcome",
        )?;
        needs(progress.finished.unwrap_or(Wall(0)) != Wall(0), "the moment of its end")?;
    }
    if state == TaskState::Verifying {
        needs(progress.attempt.0 > 0, "an attempt")?;
    }
    Ok(())
}
