//! Which beginnings of prompts the cache of a pool knows: of those that it does not, one attempt begins, and the others
//! wait for its first answer instead of paying for the same again.
//! Knows digests and times; refuses to know prompts.

use crate::ids::AttemptKey;
use crate::time::{Span, Tick};
use std::collections::BTreeMap;

/// How long a beginning counts as known after it was used last: the cache keeps it for 5 minutes.
const LASTS: Span = Span::seconds(270);
/// Beginnings that are remembered for one pool; beyond it the oldest use is forgotten.
const MOST: usize = 1_024;

/// One beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Prefix {
    /// This attempt brings it there; nobody waits longer than that.
    Warming(AttemptKey, Tick),
    /// The cache knows it until then.
    Warm(Tick),
}

/// All of one pool.
#[derive(Debug, Default, Hash)]
pub(crate) struct Prefixes {
    all: BTreeMap<u64, Prefix>,
}

impl Prefixes {
    /// The attempt that others are to wait for.
    pub(crate) fn warming(&self, prefix: u64) -> Option<AttemptKey> {
        match self.all.get(&prefix)? {
            Prefix::Warming(attempt, _) => Some(*attempt),
            Prefix::Warm(_) => None,
        }
    }

    /// An attempt was granted. Says whether others wait for it now.
    pub(crate) fn begin(&mut self, prefix: u64, attempt: AttemptKey, now: Tick, patience: Span) -> bool {
        let known = match self.all.get(&prefix) {
            Some(Prefix::Warming(..)) => true,
            Some(Prefix::Warm(until)) => *until > now,
            None => false,
        };
        if prefix == 0 || known {
            return false;
        }
        if self.all.len() >= MOST {
            self.make_room(now);
        }
        self.all.insert(prefix, Prefix::Warming(attempt, now + patience));
        true
    }

    fn make_room(&mut self, now: Tick) {
        self.all.retain(|_, prefix| !matches!(prefix, Prefix::Warm(until) if *until <= now));
        let oldest = self.all.iter().filter_map(|(digest, prefix)| match prefix {
            Prefix::Warm(until) => Some((*until, *digest)),
            Prefix::Warming(..) => None,
        });
        if self.all.len() >= MOST
            && let Some((_, digest)) = oldest.min()
        {
            self.all.remove(&digest);
        }
    }

    /// The cache knows it. Says whether somebody may have waited for that.
    pub(crate) fn warmed(&mut self, prefix: u64, now: Tick) -> bool {
        if prefix == 0 {
            return false;
        }
        let before = self.all.insert(prefix, Prefix::Warm(now + LASTS));
        matches!(before, Some(Prefix::Warming(..)))
    }

    /// An attempt ended. Says whether others waited for it.
    pub(crate) fn ended(&mut self, prefix: u64, attempt: AttemptKey) -> bool {
        let waited = self.warming(prefix) == Some(attempt);
        if waited {
            self.all.remove(&prefix);
        }
        waited
    }

    /// Those that took too long are waited for no longer. Says whether there were any.
    pub(crate) fn expire(&mut self, now: Tick) -> bool {
        let mut any = false;
        for prefix in self.all.values_mut() {
            if matches!(prefix, Prefix::Warming(_, until) if *until <= now) {
                *prefix = Prefix::Warm(now + LASTS);
                any = true;
            }
        }
        any
    }

    /// When somebody has waited long enough.
    pub(crate) fn due(&self) -> Option<Tick> {
        let until = |prefix: &Prefix| match prefix {
            Prefix::Warming(_, until) => Some(*until),
            Prefix::Warm(_) => None,
        };
        self.all.values().filter_map(until).min()
    }

    /// Attempts that others wait for.
    pub(crate) fn attempts(&self) -> impl Iterator<Item = AttemptKey> + '_ {
        self.all.keys().filter_map(|prefix| self.warming(*prefix))
    }
}
