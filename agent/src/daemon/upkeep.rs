//! Forgetting conversations that need not be kept, at the start and every hour, beside the loop. What is slow runs
//! elsewhere; the step that takes a conversation away happens in the loop, which also starts attempts, so that none
//! is taken from under one. Knows directories; refuses to know attempts.

use crate::homes::sweep::Keep;
use crate::homes::{ConversationKey, Homes};
use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Interval, MissedTickBehavior};

/// How often is looked.
const EVERY: Duration = Duration::from_secs(3_600);

/// The look or removal under way, if any.
#[derive(Debug)]
pub(super) struct Upkeep {
    homes: Arc<Homes>,
    due: Interval,
    work: JoinSet<Done>,
}

/// What ended.
#[derive(Debug)]
enum Done {
    /// These could go.
    Looked(io::Result<Vec<ConversationKey>>),
    /// These could not be removed.
    Emptied(Vec<String>),
}

/// The next thing to do.
#[derive(Debug)]
pub(super) struct Step(Kind);

#[derive(Debug)]
enum Kind {
    Due,
    Done(Result<Done, JoinError>),
}

impl Upkeep {
    /// Upkeep of `homes`; first due at once.
    pub(super) fn new(homes: Arc<Homes>) -> Self {
        let mut due = tokio::time::interval(EVERY);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { homes, due, work: JoinSet::new() }
    }

    /// Waits until something is to be done. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Step {
        tokio::select! {
            Some(done) = self.work.join_next(), if !self.work.is_empty() => Step(Kind::Done(done)),
            _ = self.due.tick(), if self.work.is_empty() => Step(Kind::Due),
        }
    }

    /// Does it. Conversations in use stay.
    pub(super) fn take(&mut self, Step(step): Step, in_use: BTreeSet<ConversationKey>) {
        match step {
            Kind::Due => {
                let sweeper = self.homes.sweeper();
                crate::blocking::start(&mut self.work, move || {
                    Done::Looked(sweeper.outdated(SystemTime::now(), Keep::default(), &in_use))
                });
            }
            Kind::Done(Ok(Done::Looked(Ok(outdated)))) => self.forget(outdated, &in_use),
            Kind::Done(Ok(Done::Looked(Err(error)))) => {
                tracing::warn!(%error, "cannot look for old conversations");
            }
            Kind::Done(Ok(Done::Emptied(trouble))) => {
                for what in trouble {
                    tracing::warn!(what, "an old conversation could not be removed");
                }
            }
            Kind::Done(Err(error)) => tracing::error!(%error, "upkeep broke off"),
        }
    }

    /// Forgets everything that is not in use: it belongs to nobody this agent still works for.
    pub(super) fn forget_all(&mut self, in_use: &BTreeSet<ConversationKey>) {
        match self.homes.kept() {
            Ok(kept) => self.forget(kept, in_use),
            Err(error) => tracing::warn!(%error, "cannot list the conversations to be dropped"),
        }
    }

    /// Removes these directories, however long that takes. Nobody else uses them.
    pub(super) fn remove(&mut self, dirs: Vec<PathBuf>) {
        if dirs.is_empty() {
            return;
        }
        crate::blocking::start(&mut self.work, move || {
            let failed = |dir: PathBuf| {
                std::fs::remove_dir_all(&dir).err().map(|error| format!("{}: {error}", dir.display()))
            };
            Done::Emptied(dirs.into_iter().filter_map(failed).collect())
        });
    }

    fn forget(&mut self, outdated: Vec<ConversationKey>, in_use: &BTreeSet<ConversationKey>) {
        let mut gone = 0_u32;
        for key in outdated.into_iter().filter(|key| !in_use.contains(key)) {
            match self.homes.forget(key) {
                Ok(()) => gone += 1,
                Err(error) => {
                    tracing::warn!(run = key.run, task = key.task, %error, "cannot forget a conversation")
                }
            }
        }
        if gone > 0 {
            tracing::info!(conversations = gone, "old conversations are removed");
        }
        let sweeper = self.homes.sweeper();
        crate::blocking::start(&mut self.work, move || Done::Emptied(sweeper.empty_bin()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    /// Seen as an agent that could not start: what its killed predecessor did beside its loop held their directory.
    #[test]
    fn what_is_slow_does_not_keep_the_next_agent_from_the_data() {
        let dir = tempfile::tempdir().unwrap();
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().max_blocking_threads(1).build().unwrap();
        let (go_on, wait) = std::sync::mpsc::channel::<()>();
        runtime.block_on(async {
            // Upkeep has to wait for this one.
            let mut slow = JoinSet::new();
            slow.spawn_blocking(move || wait.recv().is_ok());
            let homes = Arc::new(Homes::open(dir.path()).unwrap());
            let mut upkeep = Upkeep::new(Arc::clone(&homes));
            let due = upkeep.next().await;
            upkeep.take(due, BTreeSet::new());
            drop((upkeep, homes));
            drop(Homes::open(dir.path()).unwrap());
            drop(go_on);
            slow.join_all().await;
        });
    }

    #[tokio::test]
    async fn what_is_old_goes_unless_it_came_into_use_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let homes = Arc::new(Homes::open(dir.path()).unwrap());
        let key = |task| ConversationKey { run: 1, task };
        for task in [1, 2, 3] {
            homes.conversation(key(task)).unwrap();
            homes.note_end(key(task)).unwrap();
        }
        let long_ago = SystemTime::now() - Duration::from_secs(25 * 3_600);
        for task in [1, 2] {
            let ended = File::open(dir.path().join(format!("tasks/1-{task}"))).unwrap();
            ended.set_modified(long_ago).unwrap();
        }
        let mut upkeep = Upkeep::new(Arc::clone(&homes));
        let due = upkeep.next().await;
        upkeep.take(due, BTreeSet::new());
        let looked = upkeep.next().await;
        upkeep.take(looked, BTreeSet::from([key(2)]));
        assert_eq!(homes.kept().unwrap(), [key(2), key(3)]);
        let emptied = upkeep.next().await;
        assert!(matches!(&emptied, Step(Kind::Done(Ok(Done::Emptied(trouble)))) if trouble.is_empty()));
        assert_eq!(std::fs::read_dir(dir.path().join("gone")).unwrap().count(), 0);
    }
}
