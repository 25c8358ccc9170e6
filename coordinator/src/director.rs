//! The director: answers what the core cannot know, because only payloads tell it.
//!
//! ```text
//! engine ──wake──▶ director: ask which questions are open
//!                    │ read results and specs from the store
//!                    │ conditions hold?  a plan that can be run?  what does the review say?
//!                    ▼
//!                  answer each; the core does what follows, or nothing when it no longer asks
//! ```
//!
//! Questions are asked again until they are answered, and again after a restart, so nothing is kept here that could be
//! lost: an answer that does not arrive is worked out once more. What cannot be read now is tried again later, ever more
//! seldom, while everything else goes on.
//!
//! Knows who reads what for which question; decides nothing about runs, which is the core's, and nothing about plans,
//! which is [`crate::planning`]'s.

mod answers;
mod conditions;

use std::collections::BTreeSet;
use std::sync::Arc;

use orch_core::ids::{AttemptNo, TaskKey};
use orch_core::query::Question;
use orch_core::time::Span;
use tokio_util::sync::CancellationToken;

use self::answers::{Answered, Answers, Trouble};
use crate::blobs::Blobs;
use crate::clock::Clock;
use crate::engine::{EngineGone, Handle};
use crate::rpc::status::Chain;
use crate::workers::WorkersInForce;

/// Questions of one round: some 100 bytes each, so that a run of 100,000 conditional tasks is not listed at once.
const ROUND: usize = 512;

/// How long to wait when something could not be answered: the first time, and at most.
const FIRST_WAIT: Span = Span(200);
const LONGEST_WAIT: Span = Span::seconds(30);

/// Answers questions until it is told to stop.
#[derive(Debug)]
pub struct Director {
    engine: Handle,
    answers: Answers,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
    /// How long to wait after the next round that has trouble.
    wait: Span,
    /// What could not be answered, or was answered without effect. Others go first.
    troubled: BTreeSet<Asked>,
    /// When that is tried again.
    retry_at: Option<Span>,
}

/// What a director leans on.
#[derive(Debug, Clone)]
pub struct DirectorParts {
    /// Asks and is answered.
    pub engine: Handle,
    /// The workers that plans may name.
    pub workers: Arc<WorkersInForce>,
    /// Where long feedback goes.
    pub blobs: Arc<dyn Blobs>,
    /// Tells how long to wait.
    pub clock: Arc<dyn Clock>,
    /// Ends it.
    pub stop: CancellationToken,
}

/// A question, as far as it tells an answer that had an effect from one that had none.
type Asked = (TaskKey, AttemptNo);

impl Director {
    /// A director for the engine of `parts`.
    #[must_use]
    pub fn new(parts: DirectorParts) -> Self {
        let answers = Answers::new(&parts);
        let DirectorParts { engine, clock, stop, .. } = parts;
        Self { engine, answers, clock, stop, wait: FIRST_WAIT, troubled: BTreeSet::new(), retry_at: None }
    }

    /// Answers questions until it is told to stop. When the engine has stopped nobody wakes it, and there is nothing to be
    /// answered.
    pub async fn run(mut self) {
        let stop = self.stop.clone();
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            gone = self.direct() => tracing::debug!(%gone, "the director ends"),
        }
    }

    async fn direct(&mut self) -> EngineGone {
        loop {
            match self.round().await {
                Err(gone) => return gone,
                Ok(true) => {}
                Ok(false) => self.rest().await,
            }
        }
    }

    /// Waits until something else is asked, or until trouble may have passed.
    async fn rest(&self) {
        let Some(at) = self.retry_at else { return self.engine.consulted().await };
        let left = Span(at.0.saturating_sub(self.clock.elapsed().0));
        tokio::select! {
            () = self.clock.sleep(left) => {}
            () = self.engine.consulted() => {}
        }
    }

    /// Asks what is open and answers it. Whether there was anything to be answered now.
    async fn round(&mut self) -> Result<bool, EngineGone> {
        let limit = ROUND + self.troubled.len();
        let open = self.engine.questions(limit).await?;
        self.look_at_trouble(&open);
        let troubled = &self.troubled;
        let fresh: Vec<Question> =
            open.into_iter().filter(|question| !troubled.contains(&key(question))).collect();
        let any = !fresh.is_empty();
        for question in fresh {
            self.settle(question).await?;
        }
        Ok(any)
    }

    /// Forgets trouble with what is no longer asked, and all of it when its time has come.
    fn look_at_trouble(&mut self, open: &[Question]) {
        let open: BTreeSet<Asked> = open.iter().map(key).collect();
        self.troubled.retain(|known| open.contains(known));
        if self.troubled.is_empty() {
            (self.wait, self.retry_at) = (FIRST_WAIT, None);
            return;
        }
        let now = self.clock.elapsed();
        match self.retry_at {
            None => self.retry_at = Some(Span(now.0.saturating_add(self.wait.0))),
            Some(at) if at <= now => {
                self.troubled.clear();
                self.wait = Span((self.wait.0 * 2).min(LONGEST_WAIT.0));
                self.retry_at = None;
            }
            Some(_) => {}
        }
    }

    /// Answers one question, if that is possible now.
    async fn settle(&mut self, question: Question) -> Result<(), EngineGone> {
        let asked = key(&question);
        // Answered or not: it counts as answered only when it is no longer asked.
        self.troubled.insert(asked);
        let trouble = match self.answers.to(&question).await {
            Ok(Answered { answer, payload }) => {
                let told = self.engine.answer(question.task, question.attempt, answer, payload).await;
                match told {
                    Ok(()) => return Ok(()),
                    Err(refused) => Trouble::from(refused),
                }
            }
            Err(trouble) => trouble,
        };
        if let Trouble::Gone(gone) = trouble {
            return Err(gone);
        }
        let (task, wait_ms) = (question.task, self.wait.0);
        tracing::error!(%task, kind = ?question.kind, error = %Chain(&trouble), wait_ms, "a question cannot be answered now");
        Ok(())
    }
}

fn key(question: &Question) -> Asked {
    (question.task, question.attempt)
}

#[cfg(test)]
mod tests;
