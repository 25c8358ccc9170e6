//! How the latest attempts of an agent ended: what tells a bad host from a bad task.
//! Knows tasks and ticks; what follows is [`crate::machine`]'s. In memory only: a start begins with a clean slate.

use crate::ids::TaskKey;
use crate::time::{Span, Tick};
use std::collections::VecDeque;

/// How an attempt ended, as far as its agent may be the cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum EndedHow {
    /// Not in a crash.
    Well,
    /// Its child ended without a result.
    Crashed,
    /// Its agent was lost.
    Lost,
}

#[derive(Debug, Clone, Copy, Hash)]
struct Ended {
    task: TaskKey,
    at: Tick,
    how: EndedHow,
}

/// The latest endings, oldest first.
#[derive(Debug, Default, Hash)]
pub(crate) struct Endings {
    recent: VecDeque<Ended>,
}

impl Endings {
    /// Notes an ending and keeps the latest `keep`. A host that is lost loses everything on it at once: losses no more
    /// than `together` apart are one.
    pub(crate) fn note(&mut self, task: TaskKey, how: EndedHow, at: Tick, keep: usize, together: Span) {
        let lost_just_now = |last: &&mut Ended| last.how == EndedHow::Lost && at - last.at <= together;
        if how == EndedHow::Lost
            && let Some(last) = self.recent.back_mut().filter(lost_just_now)
        {
            last.at = at;
            return;
        }
        self.recent.push_back(Ended { task, at, how });
        while self.recent.len() > keep {
            self.recent.pop_front();
        }
    }

    /// Tasks of those that ended in a crash, one for each.
    pub(crate) fn crashes(&self) -> impl Iterator<Item = TaskKey> + '_ {
        self.recent.iter().filter(|ended| ended.how != EndedHow::Well).map(|ended| ended.task)
    }

    pub(crate) fn len(&self) -> usize {
        self.recent.len()
    }

    /// Begins anew.
    pub(crate) fn clear(&mut self) {
        self.recent.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{RunId, TaskIndex};

    fn task(index: u32) -> TaskKey {
        TaskKey { run: RunId(1), index: TaskIndex(index) }
    }

    #[test]
    fn only_the_latest_endings_are_kept_and_what_is_lost_at_once_is_one_loss() {
        let mut endings = Endings::default();
        let mut note = |index, how, second| {
            endings.note(task(index), how, Tick(0) + Span::seconds(second), 3, Span::seconds(25));
        };
        note(1, EndedHow::Crashed, 1);
        note(2, EndedHow::Lost, 2);
        note(3, EndedHow::Lost, 20);
        note(4, EndedHow::Lost, 45);
        note(5, EndedHow::Well, 46);
        assert_eq!(endings.crashes().collect::<Vec<_>>(), [task(1), task(2)]);
        let mut note = |index, how, second| {
            endings.note(task(index), how, Tick(0) + Span::seconds(second), 3, Span::seconds(25));
        };
        note(6, EndedHow::Lost, 47);
        note(7, EndedHow::Lost, 73);
        assert_eq!(endings.crashes().collect::<Vec<_>>(), [task(6), task(7)]);
        endings.clear();
        assert_eq!((endings.crashes().count(), endings.len()), (0, 0));
    }
}
