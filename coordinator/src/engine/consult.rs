//! What only payloads tell, asked and answered beside the engine: which questions are open, and the way back.
//! Knows how an answer travels with the specs it brings; refuses to know what payloads say.

use std::sync::Arc;

use orch_core::event::{Consultation, Event, PlanDecision, Target};
use orch_core::ids::{AttemptNo, TaskKey, TenantId};
use orch_core::query::{Answer, Query, Question};

use super::handle::{ApplyError, Command, EngineGone, Handle, check_payload};
use crate::payloads::SubmitPayload;

/// What tells a repetition of a request.
#[derive(Debug, Clone, Default)]
pub struct Repeatable {
    /// Idempotency key; empty means none.
    pub request_id: Arc<str>,
    /// Digest of the request.
    pub digest: [u8; 32],
}

impl Handle {
    /// The answer to an earlier decision of a plan under the same request id; `None` when there was none.
    ///
    /// # Errors
    /// [`EngineGone`].
    pub async fn decided_before(
        &self,
        tenant: TenantId,
        request: &Repeatable,
    ) -> Result<Option<Answer>, EngineGone> {
        if request.request_id.is_empty() {
            return Ok(None);
        }
        let Repeatable { request_id, digest } = request.clone();
        let query = Query::Decision { request_id, digest };
        let answer = self.request(move |token| Event::Asked { token, tenant, query }).await?;
        Ok((!matches!(answer, Answer::Undecided)).then_some(answer))
    }

    /// Waits until there may be new questions; at once when that was so since the last call. For one caller only.
    ///
    /// It says nothing but "look": what is open is what [`Handle::questions`] says, so that whoever looks after a wake, and
    /// once at its own start, misses nothing. A start of the coordinator wakes when its records leave questions open.
    pub async fn consulted(&self) {
        self.shared().consult.notified().await;
    }

    /// Open questions, oldest run first, at most `limit`, as they are durable. One that was answered is not among them;
    /// one that is not answered is asked again with every call.
    ///
    /// # Errors
    /// [`EngineGone`].
    pub async fn questions(&self, limit: usize) -> Result<Vec<Question>, EngineGone> {
        // Questions are not of a tenant: whoever answers does so for everybody.
        let tenant = TenantId::default();
        let asked = move |token| Event::Asked { token, tenant, query: Query::Questions { limit } };
        let answer = self.request(asked).await?;
        let Answer::Questions(questions) = answer else { return Ok(Vec::new()) };
        Ok(questions)
    }

    /// Answers a question; returns when the engine will see it, before it is durable. Without effect when the question is
    /// no longer asked, or of another attempt. `Expand` needs `payload`: ALL spec pages of the run, those of the tasks it
    /// had included, because they take the place of what is stored.
    ///
    /// # Errors
    /// [`ApplyError`]; then nothing was answered.
    pub async fn answer(
        &self,
        task: TaskKey,
        attempt: AttemptNo,
        answer: Consultation,
        payload: Option<SubmitPayload>,
    ) -> Result<(), ApplyError> {
        let event = Event::Consulted { task, attempt, answer };
        check_payload(&event)?;
        let payload = Box::new(payload.unwrap_or_default());
        Ok(self.send(Command::Consulted { event: Box::new(event), payload }).await?)
    }

    /// Answers a plan for a person: [`Answer::Decided`], or [`Answer::Refused`] where no plan waits or its tasks cannot
    /// join the run. `Approve` needs `payload` as [`Handle::answer`] does for `Expand`.
    ///
    /// # Errors
    /// [`EngineGone`].
    pub async fn decide_plan(
        &self,
        target: Target,
        decision: PlanDecision,
        reason: Arc<str>,
        request: Repeatable,
        payload: Option<SubmitPayload>,
    ) -> Result<Answer, EngineGone> {
        let Repeatable { request_id, digest } = request;
        let event =
            Box::new(move |token| Event::PlanDecided { token, target, decision, reason, request_id, digest });
        let payload = Box::new(payload.unwrap_or_default());
        self.ask(|reply| Command::DecidePlan { event, payload, reply }).await
    }
}
