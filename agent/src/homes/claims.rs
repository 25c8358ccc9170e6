//! Who works in a conversation now. One attempt at a time: two would write into one session, one working directory and
//! one output. Knows keys and names; refuses to know processes and directories.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use super::{ConversationKey, HomeError, Homes};

/// Who works in a conversation: a task, which is that of the conversation or one that follows it up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The task.
    pub task: ConversationKey,
    /// `name/number/task`, for people.
    pub reference: String,
}

type Held = BTreeMap<ConversationKey, Holder>;

/// Everything that is claimed.
#[derive(Debug, Clone)]
pub(super) struct Claims(watch::Sender<Held>);

/// The right to work in a conversation; given back when it is dropped.
#[derive(Debug)]
#[must_use = "a claim that is dropped is given back"]
pub struct Claim {
    claims: Claims,
    key: ConversationKey,
}

/// Keeps others out of a conversation for as long as somebody needs what an attempt left in it. Copies share it. Equal to
/// every other: it is no part of what is reported.
#[derive(Debug, Clone, Default)]
pub struct Occupied {
    _claim: Option<Arc<Claim>>,
}

impl Occupied {
    /// By this claim.
    #[must_use]
    pub fn by(claim: Claim) -> Self {
        Self { _claim: Some(Arc::new(claim)) }
    }
}

impl PartialEq for Occupied {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

impl Claims {
    pub(super) fn new() -> Self {
        Self(watch::channel(Held::new()).0)
    }

    /// Takes the conversation, or says who has it.
    fn take(&self, key: ConversationKey, by: &Holder) -> Result<Claim, Holder> {
        let mut holder = None;
        self.0.send_if_modified(|held| match held.get(&key) {
            Some(other) => {
                holder = Some(other.clone());
                false
            }
            None => {
                held.insert(key, by.clone());
                true
            }
        });
        match holder {
            Some(other) => Err(other),
            None => Ok(Claim { claims: self.clone(), key }),
        }
    }

    pub(super) fn holds(&self, key: ConversationKey) -> bool {
        self.0.borrow().contains_key(&key)
    }

    /// Does something to a conversation that nobody works in; nobody can begin to meanwhile.
    pub(super) fn unless_held<T>(
        &self,
        key: ConversationKey,
        act: impl FnOnce() -> T,
    ) -> Result<T, HomeError> {
        let held = self.0.borrow();
        match held.get(&key) {
            Some(holder) => Err(HomeError::InUse { by: holder.reference.clone() }),
            None => Ok(act()),
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.0.send_modify(|held| {
            held.remove(&self.key);
        });
    }
}

impl Homes {
    /// The right to work in a conversation. Where an earlier attempt of the same task still works in it, this waits for
    /// its end: that one has been told to stop, or there would be no later one. Cancel safe.
    ///
    /// # Errors
    /// [`HomeError::InUse`] where another task works in it: that can take hours.
    pub async fn claim(&self, key: ConversationKey, by: Holder) -> Result<Claim, HomeError> {
        let mut changes = self.claims.0.subscribe();
        loop {
            changes.mark_unchanged();
            match self.claims.take(key, &by) {
                Ok(claim) => return Ok(claim),
                Err(holder) if holder.task == by.task => {}
                Err(holder) => return Err(HomeError::InUse { by: holder.reference }),
            }
            // The sender lives as long as these homes.
            let _ = changes.changed().await;
        }
    }
}

impl Homes {
    /// The right to work in a conversation, for an attempt that works there already: it began under a former process of
    /// the agent, and nothing else has begun yet.
    ///
    /// # Errors
    /// [`HomeError::InUse`] where another attempt was there first.
    pub fn claim_again(&self, key: ConversationKey, by: &Holder) -> Result<Claim, HomeError> {
        self.claims.take(key, by).map_err(|holder| HomeError::InUse { by: holder.reference })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::{Duration, SystemTime};

    use futures_util::FutureExt as _;

    use super::super::sweep::Keep;
    use super::*;

    const KEY: ConversationKey = ConversationKey { run: 7, task: 0 };

    fn task(run: u64) -> Holder {
        Holder { task: ConversationKey { run, task: 0 }, reference: format!("adhoc/{run}/main") }
    }

    fn homes() -> (tempfile::TempDir, Homes) {
        let dir = tempfile::tempdir().unwrap();
        let homes = Homes::open(dir.path()).unwrap();
        (dir, homes)
    }

    #[tokio::test]
    async fn a_second_task_is_refused_until_the_first_has_left() {
        let (_dir, homes) = homes();
        let first = homes.claim(KEY, task(7)).await.unwrap();
        let refused = homes.claim(KEY, task(9)).await.unwrap_err();
        assert_eq!(refused.to_string(), "the conversation is in use by adhoc/7/main");
        drop(homes.claim(ConversationKey { run: 8, task: 0 }, task(9)).await.unwrap());
        drop(first);
        drop(homes.claim(KEY, task(9)).await.unwrap());
    }

    #[tokio::test]
    async fn a_later_attempt_of_the_same_task_waits_for_the_earlier_one() {
        let (_dir, homes) = homes();
        let first = homes.claim(KEY, task(7)).await.unwrap();
        let mut second = Box::pin(homes.claim(KEY, task(7)));
        assert!(second.as_mut().now_or_never().is_none());
        drop(first);
        let second = tokio::time::timeout(Duration::from_secs(10), second).await.expect("it is told");
        assert_eq!(second.unwrap().key, KEY);
    }

    #[tokio::test]
    async fn a_conversation_in_use_is_neither_outdated_nor_forgotten() {
        let (_dir, homes) = homes();
        homes.conversation(KEY).unwrap();
        let follow_up = homes.claim(KEY, task(9)).await.unwrap();
        let none = Keep { age: Duration::ZERO, bytes: 0 };
        let later = SystemTime::now() + Duration::from_secs(60);
        assert_eq!(homes.outdated(later, none, &BTreeSet::new()).unwrap(), []);
        let error = homes.forget(KEY).unwrap_err();
        assert!(error.to_string().contains("in use by adhoc/9/main"), "{error}");
        assert_eq!(homes.kept().unwrap(), [KEY]);
        drop(follow_up);
        assert_eq!(homes.outdated(later, none, &BTreeSet::new()).unwrap(), [KEY]);
        homes.forget(KEY).unwrap();
    }
}
