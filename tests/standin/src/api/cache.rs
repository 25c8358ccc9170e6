//! Knows the prompt cache: which prefixes a key has, until when, and how a request's input splits into read, written and
//! fresh. What a request writes can be read once its answer has begun. Pure: the time is an argument.
//! Refuses to know how tokens are counted.

use std::collections::HashMap;
use std::time::Duration;

use super::setup::CacheRules;
use super::tokens::Prefix;

/// How many blocks before a mark the cache is searched, as documented of the API.
const LOOK_BACK: usize = 20;
/// Prefixes kept before old ones are looked for. A test makes a few hundred.
const MANY: usize = 20_000;

/// Whose prefix it is: the credential and the model.
pub(super) type Owner = (u64, String);

/// The prefixes that are kept, and until when.
#[derive(Debug, Default)]
pub(super) struct Cache {
    kept: HashMap<(Owner, u64), Duration>,
}

/// How the input of a request splits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Split {
    /// Read from the cache.
    pub(super) read: u64,
    /// Written to it.
    pub(super) written: u64,
    /// Neither.
    pub(super) fresh: u64,
    /// What can be read when the answer has begun.
    pub(super) writes: Vec<u64>,
}

impl Cache {
    /// Splits the input with these prefixes; what is found lives on.
    pub(super) fn split(
        &mut self,
        owner: &Owner,
        prefixes: &[Prefix],
        rules: CacheRules,
        now: Duration,
    ) -> Split {
        let all = prefixes.last().map_or(0, |whole| whole.tokens);
        let marks: Vec<usize> = (0..prefixes.len()).filter(|at| prefixes[*at].marked).collect();
        let Some(&last) = marks.last() else { return Split { fresh: all, ..Split::default() } };
        let hit = marks.iter().rev().find_map(|mark| {
            (mark.saturating_sub(LOOK_BACK)..=*mark)
                .rev()
                .find(|at| self.lives(owner, prefixes[*at].hash, now))
        });
        if let Some(at) = hit {
            for prefix in &prefixes[..=at] {
                if let Some(until) = self.kept.get_mut(&(owner.clone(), prefix.hash)) {
                    *until = now + rules.life;
                }
            }
        }
        let read = hit.map_or(0, |at| prefixes[at].tokens);
        let writes: Vec<u64> = marks
            .iter()
            .map(|mark| prefixes[*mark])
            .filter(|prefix| prefix.tokens > read && prefix.tokens >= rules.minimum)
            .map(|prefix| prefix.hash)
            .collect();
        let written = if writes.is_empty() { 0 } else { prefixes[last].tokens - read };
        Split { read, written, fresh: all - read - written, writes }
    }

    fn lives(&self, owner: &Owner, hash: u64, now: Duration) -> bool {
        self.kept.get(&(owner.clone(), hash)).is_some_and(|until| *until > now)
    }

    /// The answer has begun: from now on others read what the request wrote.
    pub(super) fn begun(&mut self, owner: &Owner, split: &Split, rules: CacheRules, now: Duration) {
        if self.kept.len() > MANY {
            self.kept.retain(|_, until| *until > now);
        }
        for hash in &split.writes {
            self.kept.insert((owner.clone(), *hash), now + rules.life);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Cache, Owner, Split};
    use crate::api::setup::CacheRules;
    use crate::api::tokens::Prefix;

    const RULES: CacheRules = CacheRules { minimum: 100, life: Duration::from_secs(300) };

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn owner(key: u64) -> Owner {
        (key, "m".to_owned())
    }

    fn prefix(hash: u64, tokens: u64, marked: bool) -> Prefix {
        Prefix { hash, tokens, marked }
    }

    fn figures(split: &Split) -> (u64, u64, u64) {
        (split.read, split.written, split.fresh)
    }

    #[test]
    fn what_was_written_is_read_once_its_answer_has_begun_and_by_the_same_key_alone() {
        let mut cache = Cache::default();
        let system = [prefix(1, 1_000, true), prefix(2, 1_010, false)];
        let first = cache.split(&owner(1), &system, RULES, at(0));
        assert_eq!(figures(&first), (0, 1_000, 10));
        assert_eq!(figures(&cache.split(&owner(1), &system, RULES, at(1))), (0, 1_000, 10), "not begun");
        cache.begun(&owner(1), &first, RULES, at(2));
        assert_eq!(figures(&cache.split(&owner(1), &system, RULES, at(3))), (1_000, 0, 10));
        assert_eq!(figures(&cache.split(&owner(2), &system, RULES, at(3))), (0, 1_000, 10));
    }

    #[test]
    fn a_prefix_lives_for_five_minutes_after_its_last_use() {
        let mut cache = Cache::default();
        let system = [prefix(1, 1_000, true)];
        let first = cache.split(&owner(1), &system, RULES, at(0));
        cache.begun(&owner(1), &first, RULES, at(0));
        for seconds in [299, 598, 897] {
            assert_eq!(figures(&cache.split(&owner(1), &system, RULES, at(seconds))), (1_000, 0, 0));
        }
        assert_eq!(figures(&cache.split(&owner(1), &system, RULES, at(897 + 300))), (0, 1_000, 0));
    }

    #[test]
    fn a_conversation_that_grows_reads_what_the_request_before_wrote_although_its_mark_has_moved() {
        let mut cache = Cache::default();
        let first = [prefix(1, 1_000, true), prefix(2, 1_200, true)];
        let split = cache.split(&owner(1), &first, RULES, at(0));
        cache.begun(&owner(1), &split, RULES, at(0));
        let grown = [
            prefix(1, 1_000, true),
            prefix(2, 1_200, false),
            prefix(3, 1_300, false),
            prefix(4, 1_500, true),
        ];
        assert_eq!(figures(&cache.split(&owner(1), &grown, RULES, at(1))), (1_200, 300, 0));
        let another = [prefix(1, 1_000, true), prefix(9, 1_250, true)];
        assert_eq!(figures(&cache.split(&owner(1), &another, RULES, at(1))), (1_000, 250, 0));
    }

    #[test]
    fn what_is_too_short_and_what_carries_no_mark_is_not_kept() {
        let mut cache = Cache::default();
        let short = [prefix(1, 99, true)];
        assert_eq!(figures(&cache.split(&owner(1), &short, RULES, at(0))), (0, 0, 99));
        let plain = [prefix(1, 5_000, false)];
        assert_eq!(figures(&cache.split(&owner(1), &plain, RULES, at(0))), (0, 0, 5_000));
    }
}
