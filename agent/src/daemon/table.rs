//! The attempts an agent holds, from acceptance until the coordinator has answered their report.
//! Knows their order and their spool; refuses to know streams and processes.

use crate::boottime::BootMillis;
use crate::daemon::left::Left;
use crate::daemon::meter::Meter;
use crate::daemon::start::{self, Attempt};
use crate::homes::ConversationKey;
use crate::runner::{AttemptHandle, AttemptKey, AttemptReport, Live, Outcome, Renewal};
use crate::session::convert::{self, Assigned, AssignedWork};
use crate::spool::{Entry, Held as Kept, Spool, SpoolError, SyncJob};
use crate::supervisor::stop::StopCause;
use orch_proto::v1;
use prost::Message as _;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;
use tokio::sync::watch;

/// Attempts and their spool.
#[derive(Debug)]
pub(super) struct Table {
    spool: Box<dyn Spool>,
    slots: u32,
    held: BTreeMap<AttemptKey, Held>,
    waiting: VecDeque<Assigned>,
    /// How many of `held` were dropped: asked for with every assignment.
    dropped: usize,
    /// Conversations of other tasks that attempts which have not ended continue.
    followed: BTreeMap<AttemptKey, ConversationKey>,
}

/// How far an attempt is.
#[derive(Debug)]
enum Held {
    /// Accepted; waits for a slot.
    Waiting,
    /// A runner has it.
    Running(AttemptHandle),
    /// Ended; the report waits to be answered.
    Finished(Box<v1::Report>),
    /// It was another cluster's: it is being ended, and nobody is owed a report.
    Dropped(AttemptHandle),
}

/// What became of an assignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is new, or was taken before and has not ended.
    Accepted,
    /// It has ended already: only its report is to be sent.
    Ended,
    /// It was new and has ended at once.
    AcceptedAndEnded,
}

/// What the end of a runner meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finish {
    /// Its report is owed.
    Owed,
    /// It had been given up meanwhile: nothing is owed, and nothing of it is to be kept.
    GivenUp,
}

impl Table {
    /// A table that holds what the spool kept: reports that were not answered, and what becomes of attempts that a
    /// process that is gone had taken over, as `judge` says. Also gives those that are gone on with; they have their slots.
    pub(super) fn new(
        mut spool: Box<dyn Spool>,
        slots: u32,
        mut judge: impl FnMut(AttemptKey, &Kept) -> Left,
    ) -> (Self, Vec<Attempt>) {
        let (mut held, mut waiting, mut followed) = (BTreeMap::new(), VecDeque::new(), BTreeMap::new());
        let (mut entries, mut running) = (Vec::new(), Vec::new());
        for (&key, kept) in spool.inventory().held() {
            let report = kept.report.as_deref().and_then(|bytes| v1::Report::decode(bytes).ok());
            let state =
                match report.map_or_else(|| judge(key, kept), |report| Left::Reported(Box::new(report))) {
                    Left::Reported(report) => Held::Finished(report),
                    Left::Ended(report) => {
                        let report = convert::report(key, *report);
                        entries.push(Entry::Finished { key, report: report.encode_to_vec() });
                        Held::Finished(Box::new(report))
                    }
                    Left::GoesOn(on) => {
                        let (handle, attempt) = *on;
                        entries.push(Entry::Started { key });
                        running.push(attempt);
                        Held::Running(handle)
                    }
                    Left::Waits(assigned) => {
                        followed.extend(assigned.follows().map(|conversation| (key, conversation)));
                        waiting.push_back(*assigned);
                        Held::Waiting
                    }
                };
            held.insert(key, state);
        }
        for entry in entries {
            spool.append(entry);
        }
        (Self { spool, slots, held, waiting, dropped: 0, followed }, running)
    }

    /// Hands to the kernel what happened since the last call. Nothing may be said of it before.
    pub(super) fn flush(&mut self) -> Result<(), SpoolError> {
        self.spool.flush()
    }

    /// The sync that is due, if any.
    pub(super) fn begin_sync(&mut self) -> Result<Option<SyncJob>, SpoolError> {
        self.spool.begin_sync()
    }

    /// A sync ended.
    pub(super) fn end_sync(&mut self) {
        self.spool.end_sync();
    }

    /// The coordinator that was spoken to last: highest epoch and cluster.
    pub(super) fn coordinator(&self) -> (u64, Vec<u8>) {
        let inventory = self.spool.inventory();
        (inventory.epoch(), inventory.cluster().to_vec())
    }

    /// Notes the coordinator that is spoken to now.
    pub(super) fn note_coordinator(&mut self, epoch: u64, cluster: Vec<u8>) {
        self.spool.append(Entry::Coordinator { epoch, cluster });
    }

    /// Whether the attempt is held, however far it is.
    pub(super) fn holds(&self, key: AttemptKey) -> bool {
        self.held.contains_key(&key)
    }

    /// Whether something another cluster gave is still being ended. Its attempts have the same numbers as others, and
    /// the same directories.
    pub(super) fn is_clearing(&self) -> bool {
        self.dropped > 0
    }

    /// Takes an assignment over, with what is to be remembered of it. A repeated one is answered from what is held.
    pub(super) fn accept(&mut self, assigned: Assigned, record: Vec<u8>) -> Taken {
        let key = assigned.key;
        match self.held.get(&key) {
            Some(Held::Waiting | Held::Running(_)) => return Taken::Accepted,
            Some(Held::Finished(_) | Held::Dropped(_)) => return Taken::Ended,
            None => {}
        }
        self.spool.append(Entry::Accepted { key, payload: record });
        self.followed.extend(assigned.follows().map(|conversation| (key, conversation)));
        self.held.insert(key, Held::Waiting);
        if matches!(assigned.work, AssignedWork::Noop) {
            self.finished(key, convert::report(key, start::noop_report(&assigned)));
            return Taken::AcceptedAndEnded;
        }
        self.waiting.push_back(assigned);
        Taken::Accepted
    }

    /// The next attempt that has a slot.
    pub(super) fn next_to_start(&mut self) -> Option<Assigned> {
        // The cheap question first: this is asked in every turn of the loop.
        if self.waiting.is_empty() || self.free_slots() == 0 {
            return None;
        }
        self.waiting.pop_front()
    }

    /// A runner has it.
    pub(super) fn started(&mut self, key: AttemptKey, handle: AttemptHandle) {
        self.spool.append(Entry::Started { key });
        self.held.insert(key, Held::Running(handle));
    }

    /// It ended.
    pub(super) fn finished(&mut self, key: AttemptKey, report: v1::Report) -> Finish {
        self.followed.remove(&key);
        match self.held.get_mut(&key) {
            Some(held @ (Held::Waiting | Held::Running(_))) => {
                self.spool.append(Entry::Finished { key, report: report.encode_to_vec() });
                *held = Held::Finished(Box::new(report));
                Finish::Owed
            }
            Some(Held::Finished(_)) => Finish::Owed,
            Some(Held::Dropped(_)) => {
                self.held.remove(&key);
                self.dropped -= 1;
                Finish::GivenUp
            }
            None => Finish::GivenUp,
        }
    }

    /// The report of an attempt that ended.
    pub(super) fn report(&self, key: AttemptKey) -> Option<&v1::Report> {
        match self.held.get(&key)? {
            Held::Finished(report) => Some(report),
            Held::Waiting | Held::Running(_) | Held::Dropped(_) => None,
        }
    }

    /// What an attempt handed over is gone, so its report cannot be sent: it is lost, and made again.
    pub(super) fn lose(&mut self, key: AttemptKey) {
        let Some(Held::Finished(report)) = self.held.get_mut(&key) else { return };
        let lost =
            AttemptReport::of(Outcome::LostAgent, "the files it handed over were lost on the agent's disk");
        let mut lost = convert::report(key, lost);
        // What it cost stays true.
        lost.usage = report.usage.take();
        lost.transcript_bytes = report.transcript_bytes;
        self.spool.append(Entry::Finished { key, report: lost.encode_to_vec() });
        **report = lost;
    }

    /// All that ended and was not answered.
    pub(super) fn finished_keys(&self) -> Vec<AttemptKey> {
        let finished = self.held.iter().filter(|(_, held)| matches!(held, Held::Finished(_)));
        finished.map(|(key, _)| *key).collect()
    }

    /// The coordinator answered: nothing of it is needed any more.
    pub(super) fn answered(&mut self, key: AttemptKey) {
        if matches!(self.held.get(&key), Some(Held::Finished(_))) {
            self.held.remove(&key);
            self.spool.append(Entry::Settled { key });
        }
    }

    /// Stops an attempt. One that has not started ends here: then its report is owed, and the answer is true.
    pub(super) fn stop(&mut self, key: AttemptKey, cause: StopCause) -> bool {
        match self.held.get(&key) {
            Some(Held::Running(handle)) => {
                // The first cause is kept by the supervisor; a runner that is gone has ended by itself.
                let _ = handle.stop.send(Some(cause));
                false
            }
            Some(Held::Waiting) => {
                self.waiting.retain(|assigned| assigned.key != key);
                self.finished(key, convert::report(key, AttemptReport::stopped(cause)));
                true
            }
            Some(Held::Finished(_) | Held::Dropped(_)) | None => false,
        }
    }

    /// Gives an attempt back that has not started: nothing is owed for it any more. Says whether it was one.
    pub(super) fn give_back(&mut self, key: AttemptKey) -> bool {
        if !matches!(self.held.get(&key), Some(Held::Waiting)) {
            return false;
        }
        self.waiting.retain(|assigned| assigned.key != key);
        self.followed.remove(&key);
        self.held.remove(&key);
        self.spool.append(Entry::Settled { key });
        true
    }

    /// Everything that waits for a slot.
    pub(super) fn waiting_keys(&self) -> Vec<AttemptKey> {
        self.waiting.iter().map(|assigned| assigned.key).collect()
    }

    /// What an attempt that runs is doing.
    pub(super) fn live(&self, key: AttemptKey) -> Option<watch::Receiver<Live>> {
        self.held.get(&key).and_then(Held::handle).map(|handle| handle.live.clone())
    }

    /// Whether an attempt has not ended.
    pub(super) fn is_under_way(&self, key: AttemptKey) -> bool {
        matches!(self.held.get(&key), Some(Held::Waiting | Held::Running(_) | Held::Dropped(_)))
    }

    /// Notes of everything that has a runner and no process that it never began: the agent is leaving, so it will not. A
    /// later process of the agent begins it, unless it finds more of it than was known here.
    pub(super) fn put_back(&mut self) {
        for (&key, held) in &self.held {
            if let Held::Running(handle) = held
                && handle.live.borrow().supervisor_pid.is_none()
            {
                self.spool.append(Entry::PutBack { key });
            }
        }
    }

    /// Stops everything. Gives what has ended by that.
    pub(super) fn stop_all(&mut self, cause: StopCause) -> Vec<AttemptKey> {
        let mut keys: Vec<_> = self.held.keys().copied().collect();
        keys.retain(|key| self.stop(*key, cause));
        keys
    }

    /// Drops everything: it was another cluster's, which nobody here can answer. What runs is ended.
    pub(super) fn drop_all(&mut self) {
        self.waiting.clear();
        for (key, held) in std::mem::take(&mut self.held) {
            self.spool.append(Entry::Settled { key });
            if let Held::Running(handle) | Held::Dropped(handle) = held {
                // A runner that is gone has ended by itself.
                let _ = handle.stop.send(Some(StopCause::Fenced));
                self.held.insert(key, Held::Dropped(handle));
            }
        }
        self.dropped = self.held.len();
        self.followed.retain(|key, _| self.held.contains_key(key));
    }

    /// The coordinator acknowledged a heartbeat sent at `sent`.
    pub(super) fn renew(&self, sent: BootMillis, stop_after: Duration) {
        for held in self.held.values() {
            held.renew(sent, stop_after);
        }
    }

    /// The coordinator confirmed an attempt that was named to it at `sent`.
    pub(super) fn renew_one(&self, key: AttemptKey, sent: BootMillis, stop_after: Duration) {
        if let Some(held) = self.held.get(&key) {
            held.renew(sent, stop_after);
        }
    }

    /// The last renewal of an attempt that runs.
    #[cfg(test)]
    pub(super) fn renewal(&self, key: AttemptKey) -> Option<Renewal> {
        self.held.get(&key).and_then(Held::handle).and_then(|handle| *handle.renewals.borrow())
    }

    /// What a heartbeat lists: all that the coordinator believes to be here, so also what has ended and whose report
    /// it has not answered yet. With the texts of a long report that can take a while.
    pub(super) fn listed(&self, meter: &Meter) -> Vec<v1::HeldAttempt> {
        let mut listed = Vec::with_capacity(self.held.len());
        for (key, held) in &self.held {
            let attempt = Some(convert::attempt_id(*key));
            match held {
                Held::Waiting | Held::Finished(_) => {
                    listed.push(v1::HeldAttempt { attempt, ..v1::HeldAttempt::default() });
                }
                Held::Running(handle) => {
                    let live = handle.live.borrow();
                    let tree = live.supervisor_pid.map(|pid| meter.attempt(pid)).unwrap_or_default();
                    listed.push(v1::HeldAttempt {
                        attempt,
                        now: live.now.clone(),
                        num_turns: live.num_turns,
                        cost_micro_usd: live.cost_micro_usd,
                        cpu_millis: tree.cpu_millis,
                        memory_bytes: tree.memory_bytes,
                    });
                }
                Held::Dropped(_) => {}
            }
        }
        listed
    }

    /// What Hello lists.
    pub(super) fn inventory(&self) -> Vec<v1::InventoryItem> {
        let state = |held: &Held| match held {
            Held::Waiting => Some(v1::HeldState::Accepted),
            Held::Running(_) => Some(v1::HeldState::Running),
            Held::Finished(_) => Some(v1::HeldState::Finished),
            Held::Dropped(_) => None,
        };
        let items = self.held.iter().filter_map(|(key, held)| {
            let state = state(held)?.into();
            Some(v1::InventoryItem { attempt: Some(convert::attempt_id(*key)), state })
        });
        items.collect()
    }

    /// Pids of the supervisors of everything that runs.
    pub(super) fn supervisors(&self) -> Vec<i32> {
        let handles = self.held.values().filter_map(Held::handle);
        handles.filter_map(|handle| handle.live.borrow().supervisor_pid).collect()
    }

    /// Conversations of everything that is held, those it continues included: they must be there when it begins.
    pub(super) fn conversations(&self) -> BTreeSet<ConversationKey> {
        let own = self.held.keys().map(|key| ConversationKey { run: key.run, task: key.task });
        own.chain(self.followed.values().copied()).collect()
    }

    /// Slots that nothing runs in.
    pub(super) fn free_slots(&self) -> u32 {
        let running = self.held.values().filter_map(Held::handle).count();
        self.slots.saturating_sub(u32::try_from(running).unwrap_or(u32::MAX))
    }

    /// How much is held.
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether nothing is held.
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

impl Held {
    fn renew(&self, sent: BootMillis, stop_after: Duration) {
        if let Self::Running(handle) = self {
            // Nobody listens when the attempt has just ended.
            let _ = handle.renewals.send(Some(Renewal { sent, stop_after }));
        }
    }

    /// The link to the runner that has it, if one has.
    const fn handle(&self) -> Option<&AttemptHandle> {
        match self {
            Self::Running(handle) | Self::Dropped(handle) => Some(handle),
            Self::Waiting | Self::Finished(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::link;
    use crate::spool::Phase;
    use crate::spool::memory::MemorySpool;

    const fn key(task: u32) -> AttemptKey {
        AttemptKey { run: 7, task, attempt: 1 }
    }

    fn assigned(task: u32, runner: v1::assignment::Runner) -> Assigned {
        let attempt = Some(convert::attempt_id(key(task)));
        let wire =
            v1::Assignment { attempt, r#ref: "a/7/t".into(), runner: Some(runner), ..Default::default() };
        convert::assigned(wire).unwrap()
    }

    fn command(task: u32) -> Assigned {
        assigned(task, v1::assignment::Runner::Command(v1::CommandTask::default()))
    }

    fn noop(task: u32) -> Assigned {
        assigned(task, v1::assignment::Runner::Noop(v1::NoopTask {}))
    }

    fn lost(_: AttemptKey, _: &Kept) -> Left {
        Left::Ended(Box::new(AttemptReport::of(Outcome::LostAgent, "lost")))
    }

    impl Table {
        fn take(&mut self, assigned: Assigned) -> Taken {
            self.accept(assigned, b"record".to_vec())
        }
    }

    fn table(slots: u32) -> Table {
        Table::new(Box::<MemorySpool>::default(), slots, lost).0
    }

    /// Starts the next one; what would be its runner's end of the link is returned.
    fn start(table: &mut Table) -> Option<(AttemptKey, crate::runner::AttemptLink)> {
        let assigned = table.next_to_start()?;
        let (handle, link) = link();
        table.started(assigned.key, handle);
        Some((assigned.key, link))
    }

    fn done(task: u32) -> v1::Report {
        convert::report(key(task), AttemptReport::of(Outcome::Ok, "done"))
    }

    fn states(table: &Table) -> Vec<(u32, v1::HeldState)> {
        table.inventory().iter().map(|item| (item.attempt.unwrap().task_index, item.state())).collect()
    }

    #[test]
    fn a_conversation_that_is_to_be_continued_is_in_use_until_that_has_ended() {
        let mut table = table(1);
        let conversation = Some(v1::TaskId { run_id: 3, task_index: 9 });
        let claude = v1::ClaudeAssignment { conversation, ..Default::default() };
        table.take(assigned(1, v1::assignment::Runner::Claude(claude)));
        let (own, of_another) = (ConversationKey { run: 7, task: 1 }, ConversationKey { run: 3, task: 9 });
        assert_eq!(table.conversations(), BTreeSet::from([own, of_another]));
        let (started, _link) = start(&mut table).unwrap();
        assert!(table.conversations().contains(&of_another));
        table.finished(started, done(1));
        assert_eq!(table.conversations(), BTreeSet::from([own]));
    }

    #[test]
    fn a_repeated_assignment_is_answered_from_what_is_held() {
        let mut table = table(1);
        assert_eq!(table.take(command(1)), Taken::Accepted);
        assert_eq!(table.take(command(1)), Taken::Accepted);
        let (started, _link) = start(&mut table).unwrap();
        assert_eq!((started, table.take(command(1))), (key(1), Taken::Accepted));
        assert!(start(&mut table).is_none(), "it is started once");
        assert_eq!(table.finished(key(1), done(1)), Finish::Owed);
        assert_eq!(table.take(command(1)), Taken::Ended);
        assert_eq!(table.report(key(1)), Some(&done(1)));
    }

    #[test]
    fn attempts_start_in_order_and_never_more_than_there_are_slots() {
        let mut table = table(2);
        for task in [3, 1, 2] {
            table.take(command(task));
        }
        let first = start(&mut table).unwrap();
        let second = start(&mut table).unwrap();
        assert_eq!((first.0, second.0, table.free_slots()), (key(3), key(1), 0));
        assert!(start(&mut table).is_none());
        table.finished(key(1), done(1));
        assert_eq!(start(&mut table).unwrap().0, key(2));
    }

    #[test]
    fn a_noop_ends_at_once_and_takes_no_slot() {
        let mut table = table(1);
        assert_eq!(table.take(noop(1)), Taken::AcceptedAndEnded);
        assert_eq!((table.free_slots(), table.report(key(1)).unwrap().outcome()), (1, Outcome::Ok));
        assert_eq!(table.take(noop(1)), Taken::Ended);
    }

    #[test]
    fn one_that_waits_ends_by_being_stopped_and_one_that_runs_is_asked() {
        let mut table = table(1);
        table.take(command(1));
        table.take(command(2));
        let (_, link) = start(&mut table).unwrap();
        assert!(table.stop(key(2), StopCause::Cancelled));
        assert_eq!(table.report(key(2)).unwrap().outcome(), Outcome::Cancelled);
        assert!(!table.stop(key(2), StopCause::Cancelled), "it has ended already");
        assert!(!table.stop(key(1), StopCause::Cancelled));
        assert_eq!((*link.stop.borrow(), table.report(key(1))), (Some(StopCause::Cancelled), None));
        table.finished(key(1), done(1));
        assert!(start(&mut table).is_none(), "what was stopped does not start");
    }

    #[test]
    fn everything_is_listed_until_its_report_is_answered() {
        let mut table = table(1);
        for task in [1, 2] {
            table.take(command(task));
        }
        table.take(noop(3));
        let (_, link) = start(&mut table).unwrap();
        link.live.send_modify(|live| "at work".clone_into(&mut live.now));
        use v1::HeldState::{Accepted, Finished, Running};
        assert_eq!(states(&table), [(1, Running), (2, Accepted), (3, Finished)]);
        let meter = Meter::new(crate::host::HostProbe::new("/".into()));
        let listed = table.listed(&meter);
        assert_eq!(listed.iter().map(|held| held.now.as_str()).collect::<Vec<_>>(), ["at work", "", ""]);
        table.answered(key(1));
        table.answered(key(3));
        assert_eq!(states(&table), [(1, Running), (2, Accepted)], "only what has ended can be answered");
        assert!(
            table.spool.inventory().held().keys().eq([&key(1), &key(2)]),
            "an answered report leaves the spool"
        );
    }

    #[test]
    fn after_a_restart_reports_are_still_owed_and_what_had_not_ended_is_judged() {
        let mut former = table(1);
        for task in [1, 2] {
            former.take(command(task));
        }
        former.take(noop(3));
        start(&mut former).unwrap();
        let mut judged = Vec::new();
        let (mut table, going_on) = Table::new(former.spool, 1, |key, kept| {
            judged.push((key, kept.phase, kept.payload.clone()));
            if key.task == 1 { lost(key, kept) } else { Left::Waits(Box::new(command(key.task))) }
        });
        assert!(going_on.is_empty());
        let record = b"record".to_vec();
        assert_eq!(judged, [(key(1), Phase::Running, record.clone()), (key(2), Phase::Accepted, record)]);
        assert_eq!(
            states(&table),
            [(1, v1::HeldState::Finished), (2, v1::HeldState::Accepted), (3, v1::HeldState::Finished)]
        );
        assert_eq!(table.report(key(1)).unwrap().outcome(), Outcome::LostAgent);
        assert_eq!(start(&mut table).unwrap().0, key(2), "it begins as if nothing had happened");
        let (again, _) = Table::new(table.spool, 1, |key, kept| {
            assert_eq!((key.task, kept.phase), (2, Phase::Running), "the others were reported");
            lost(key, kept)
        });
        assert_eq!(again.finished_keys().len(), 3);
    }

    #[test]
    fn what_goes_on_has_its_slot_and_is_listed_as_running() {
        let mut former = table(2);
        former.take(command(1));
        let (handle, link) = link();
        let mut handle = Some(handle);
        let (table, going_on) = Table::new(former.spool, 2, |key, _| {
            let run = Box::pin(std::future::pending());
            Left::GoesOn(Box::new((handle.take().unwrap(), Attempt { key, run })))
        });
        assert_eq!(going_on.iter().map(|attempt| attempt.key).collect::<Vec<_>>(), [key(1)]);
        assert_eq!((states(&table), table.free_slots()), (vec![(1, v1::HeldState::Running)], 1));
        assert!(
            table.is_under_way(key(1)) && table.spool.inventory().held()[&key(1)].phase == Phase::Running
        );
        table.renew(BootMillis(5), Duration::from_secs(9));
        assert!(link.renewals.borrow().is_some(), "renewals count again");
    }

    #[test]
    fn what_has_not_begun_is_given_back_and_what_an_agent_leaves_unbegun_is_put_back() {
        let mut table = table(2);
        for task in [1, 2, 3] {
            table.take(command(task));
        }
        let begun = start(&mut table).unwrap();
        let _preparing = start(&mut table).unwrap();
        begun.1.live.send_modify(|live| live.supervisor_pid = Some(7));
        assert_eq!([1, 2, 3].map(|task| table.give_back(key(task))), [false, false, true]);
        assert!(!table.holds(key(3)) && table.waiting_keys().is_empty());
        table.put_back();
        let phases: Vec<_> = table.spool.inventory().held().values().map(|held| held.phase).collect();
        assert_eq!(phases, [Phase::Running, Phase::Accepted]);
    }

    #[test]
    fn what_another_cluster_gave_is_dropped_and_owes_nothing() {
        let mut table = table(2);
        for task in [1, 2] {
            table.take(command(task));
        }
        let (_, link) = start(&mut table).unwrap();
        table.take(noop(3));
        table.drop_all();
        assert_eq!(*link.stop.borrow(), Some(StopCause::Fenced));
        assert!(table.spool.inventory().held().is_empty(), "a restart would report it to the wrong cluster");
        assert!(states(&table).is_empty() && table.finished_keys().is_empty());
        assert!(table.is_clearing() && table.free_slots() == 1, "it still runs");
        assert!(start(&mut table).is_none());
        assert_eq!(table.finished(key(1), done(1)), Finish::GivenUp);
        assert!(table.is_empty() && !table.is_clearing() && table.spool.inventory().held().is_empty());
    }

    #[test]
    fn a_renewal_reaches_all_that_runs() {
        let mut table = table(2);
        for task in [1, 2] {
            table.take(command(task));
        }
        let links = [start(&mut table).unwrap().1, start(&mut table).unwrap().1];
        table.renew(BootMillis(5), Duration::from_secs(9));
        for link in &links {
            let renewal = Renewal { sent: BootMillis(5), stop_after: Duration::from_secs(9) };
            assert_eq!(*link.renewals.borrow(), Some(renewal));
        }
    }
}
