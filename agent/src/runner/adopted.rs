//! What the runners of processes share when they go on with an attempt that a former process of the agent started.
//! Knows notes and ends; refuses to know what runs.

use std::fmt;

use tokio::sync::watch;

use crate::boottime::{BootMillis, boot_id};
use crate::gates::Life;
use crate::homes::claims::{Claim, Holder};
use crate::homes::{ConversationKey, Homes};
use crate::supervisor::client::End;
use crate::supervisor::stop::StopCause;

use super::note::Note;
use super::supervised::Ended;
use super::{AttemptKey, AttemptLink, AttemptReport, Outcome, Renewal, RunFuture, Shown};

/// An attempt that is gone on with.
pub struct Adopted {
    /// Ends with its report.
    pub run: RunFuture<'static>,
    /// The workspace it is shown.
    pub shown: Option<Shown>,
}

impl fmt::Debug for Adopted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Adopted").field("shown", &self.shown).finish_non_exhaustive()
    }
}

/// The right to work where the attempt works already; `None` where somebody else got it, which only a mistake can bring.
pub(super) fn claim(homes: &Homes, key: AttemptKey, note: &Note) -> Option<Claim> {
    let task = ConversationKey { run: key.run, task: key.task };
    let by = Holder { task, reference: note.reference.clone() };
    match homes.claim_again(note.conversation, &by) {
        Ok(claim) => Some(claim),
        Err(error) => {
            key.span().in_scope(|| tracing::error!(%error, "an attempt cannot be gone on with"));
            None
        }
    }
}

/// The end in the words of somebody who was away: a supervisor that is gone without a record went with its host, or was
/// killed.
pub(super) fn reworded(mut report: AttemptReport, ended: &Ended, note: &Note) -> AttemptReport {
    if matches!(ended.end, End::Lost { .. }) && note.boot_id != boot_id() {
        report.outcome = Outcome::LostAgent;
        "the host restarted while it ran".clone_into(&mut report.detail);
    }
    report
}

/// The report of an attempt that ended well and whose gates are not checked any more.
pub(super) fn given_up(mut report: AttemptReport, cause: StopCause) -> AttemptReport {
    let stopped = AttemptReport::stopped(cause);
    (report.outcome, report.detail) = (stopped.outcome, stopped.detail);
    (report.structured, report.artifacts_from) = (None, None);
    report
}

/// Gates run programs, so they wait until the coordinator has confirmed that the attempt is still this agent's: it may
/// have been given to somebody else while this one was away. Gives what they may take as the life of the attempt, or why
/// it is over.
pub(super) async fn confirmed(note: &Note, link: &mut AttemptLink) -> Result<Life, StopCause> {
    let life = Life { limits: note.limits, accepted: BootMillis::now() };
    if note.gates.is_empty() {
        return Ok(life);
    }
    link.live.send_modify(|live| "waiting for the coordinator".clone_into(&mut live.now));
    let asked = async |stop: &mut watch::Receiver<Option<StopCause>>| {
        stop.wait_for(Option::is_some).await.ok().and_then(|cause| *cause)
    };
    let AttemptLink { renewals, stop, .. } = link;
    tokio::select! {
        biased;
        Some(cause) = asked(stop) => Err(cause),
        Ok(_) = renewals.wait_for(Option::<Renewal>::is_some) => Ok(Life { accepted: BootMillis::now(), ..life }),
        // Nobody can say anything any more: the agent is going.
        else => Err(StopCause::AgentStopping),
    }
}
