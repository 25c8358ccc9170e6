//! What the order of one queue promises.

use super::*;
use crate::outcome::OutcomeRules;
use crate::time::Span;

const ONE: TenantId = TenantId(1);

struct Env {
    queue: Queue,
    passes: Passes,
    config: Config,
    now: Tick,
}

impl Env {
    fn new() -> Self {
        Self {
            queue: Queue::default(),
            passes: Passes::default(),
            config: Config::new(OutcomeRules::default()),
            now: Tick(0),
        }
    }

    fn entry(&self, run: u64, index: u32, priority: i32) -> Entry {
        let task = TaskKey { run: RunId(run), index: TaskIndex(index) };
        Entry { task, priority, level: 0, since: self.now }
    }

    fn push(&mut self, run: u64, index: u32, priority: i32) {
        self.passes.enter(ONE, RunId(run));
        let entry = self.entry(run, index, priority);
        self.queue.push(entry, &self.passes, &self.config);
    }

    /// Takes everything in order, as `run/index`.
    fn drain(&mut self, mut entries: Vec<Entry>) -> Vec<String> {
        let mut taken = Vec::new();
        loop {
            for (task, level) in self.queue.due_to_rise(self.now, &self.config) {
                let entry = entries.iter_mut().find(|entry| entry.task == task).expect("known");
                assert!(self.queue.remove(*entry, &self.config));
                entry.level = level;
                self.queue.push(*entry, &self.passes, &self.config);
            }
            assert_eq!(self.queue.inconsistency(&self.passes), None);
            let Some((_, _, _, task)) = self.queue.first(&self.passes) else { return taken };
            let entry = entries.iter().find(|entry| entry.task == task).expect("known");
            assert!(self.queue.remove(*entry, &self.config));
            self.passes.charge(ONE, task.run);
            taken.push(task.to_string());
        }
    }
}

/// Pushes `(seconds, run, index, priority)` and drains at `seconds`.
fn order(pushes: &[(u64, u64, u32, i32)], at: u64) -> String {
    let mut env = Env::new();
    let mut entries = Vec::new();
    for (seconds, run, index, priority) in pushes {
        env.now = Tick(0) + Span::seconds(*seconds);
        entries.push(env.entry(*run, *index, *priority));
        env.push(*run, *index, *priority);
    }
    env.now = Tick(0) + Span::seconds(at);
    env.drain(entries).join(" ")
}

#[test]
fn larger_priorities_go_first_and_every_number_counts() {
    let pushes = [(0, 1, 0, 10), (0, 1, 1, 50), (0, 1, 2, 51), (0, 1, 3, 100), (0, 1, 4, 500), (0, 1, 5, -5)];
    assert_eq!(order(&pushes, 1), "1/4 1/3 1/2 1/1 1/0 1/5");
}

#[test]
fn runs_of_equal_priority_take_turns_and_each_is_served_in_order() {
    let pushes = [(0, 1, 0, 50), (0, 1, 1, 50), (0, 1, 2, 50), (1, 2, 0, 50), (2, 2, 1, 50)];
    assert_eq!(order(&pushes, 3), "1/0 2/0 1/1 2/1 1/2");
}

#[test]
fn a_run_that_comes_later_takes_turns_at_once_and_is_not_owed_the_past() {
    let mut env = Env::new();
    let mut entries: Vec<Entry> = (0..4).map(|index| env.entry(1, index, 50)).collect();
    (0..4).for_each(|index| env.push(1, index, 50));
    for index in 0..2 {
        let first = env.queue.first(&env.passes).expect("a task").3;
        assert_eq!(first.index, TaskIndex(index));
        assert!(env.queue.remove(entries[index as usize], &env.config));
        env.passes.charge(ONE, RunId(1));
    }
    entries.drain(..2);
    entries.extend((0..2).map(|index| env.entry(2, index, 50)));
    (0..2).for_each(|index| env.push(2, index, 50));
    assert_eq!(env.drain(entries).join(" "), "2/0 1/2 2/1 1/3");
}

#[test]
fn ten_minutes_raise_medium_to_high_and_no_further() {
    let pushes = [(0, 1, 0, 50), (599, 2, 0, 100)];
    assert_eq!(order(&pushes, 599), "2/0 1/0");
    // Equal now, and run 1 and 2 have the same pass: the smaller run id decides.
    assert_eq!(order(&pushes, 600), "1/0 2/0");
    let above = [(0, 1, 0, 50), (6_000, 2, 0, 101)];
    assert_eq!(order(&above, 6_000), "2/0 1/0");
}

#[test]
fn low_passes_medium_after_ten_minutes_and_meets_high_after_twenty() {
    let pushes = [(0, 3, 0, 10), (600, 2, 0, 50), (600, 1, 0, 100)];
    assert_eq!(order(&pushes, 600), "1/0 3/0 2/0");
    let later = [(0, 3, 0, 10), (1_200, 4, 0, 100)];
    assert_eq!(order(&later, 1_200), "3/0 4/0");
}

#[test]
fn a_backlog_that_has_risen_shares_with_a_fresh_high_one() {
    let mut pushes: Vec<(u64, u64, u32, i32)> = (0..3).map(|index| (0, 1, index, 50)).collect();
    pushes.extend((0..3).map(|index| (900, 2, index, 100)));
    assert_eq!(order(&pushes, 900), "1/0 2/0 1/1 2/1 1/2 2/2");
}

#[test]
fn removing_from_the_middle_leaves_no_trace() {
    let mut env = Env::new();
    let entries: Vec<Entry> = (0..3).map(|index| env.entry(1, index, 50)).collect();
    (0..3).for_each(|index| env.push(1, index, 50));
    assert!(env.queue.remove(entries[1], &env.config));
    assert!(!env.queue.remove(entries[1], &env.config));
    assert_eq!(env.queue.oldest(), Some(Tick(0)));
    assert_eq!(env.drain(vec![entries[0], entries[2]]).join(" "), "1/0 1/2");
    assert_eq!(env.queue.oldest(), None);
}
