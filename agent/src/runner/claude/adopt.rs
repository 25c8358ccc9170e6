//! Going on with an attempt of the CLI that a former process of the agent started: the seats it has are taken again at
//! once, its output is read from the beginning, and from there on everything is as ever. Knows the order of that.

use tokio::task::spawn_blocking;

use crate::gates::Tree;
use crate::homes::ConversationKey;
use crate::homes::claims::{Claim, Occupied};
use crate::runner::adopted::{claim, confirmed, given_up, reworded};
use crate::runner::note::{ClaudeNote, Note, WorkNote};
use crate::runner::share::Seat;
use crate::runner::supervised;
use crate::runner::{Adopted, AttemptKey, AttemptLink, AttemptReport, Outcome};
use crate::supervisor::client::Survivor;

use super::asking::{Asking, Told};
use super::observer::Observer;
use super::{ClaudeRunner, give_back, report};

/// What an attempt has already, taken again before anything new starts.
struct Seats {
    claim: Claim,
    seat: Seat,
}

impl ClaudeRunner {
    /// See [`crate::runner::Runner::adopt`]. A login was taken again by the pools, before they gave any away.
    pub(super) fn go_on(&self, key: AttemptKey, survivor: Survivor, link: AttemptLink) -> Option<Adopted> {
        let note = Note::read(&survivor.attempt_dir)?;
        let WorkNote::Claude(claude) = note.work.clone() else { return None };
        let seats = Seats { claim: claim(&self.homes, key, &note)?, seat: self.settings.share.take_seat() };
        let (this, shown) = (self.clone(), note.shown.clone());
        let run = async move { this.adopted(key, survivor, (note, *claude), seats, link).await };
        Some(Adopted { run: Box::pin(run), shown })
    }

    async fn adopted(
        &self,
        key: AttemptKey,
        survivor: Survivor,
        (note, claude): (Note, ClaudeNote),
        Seats { claim, seat }: Seats,
        mut link: AttemptLink,
    ) -> AttemptReport {
        let ClaudeNote { terms, config, .. } = claude.clone();
        let lease =
            self.settings.pools.lease_again(&config, &claude.pool, &claude.worker, &note.reference).await;
        let secrets = lease.secrets(&config);
        let place = (self.launcher.runtime_dir(), survivor.id.as_str());
        let asking =
            Asking::again(&self.settings.broker, (key, &claude), &lease, place, &survivor.attempt_dir);
        let mut watcher = asking.watcher(Observer::new(claude.demands));
        let live = link.live.clone();
        let run =
            supervised::adopt(&self.launcher, &survivor, note.segment_bytes, seat, &mut link, &mut watcher);
        let ended = asking.beside(run, &lease, live).await;
        let facts = watcher.finish();
        let told = Told::of(&facts, Some(&ended.end));
        let judged = report(facts, terms, &ended, &note.gates);
        let judged = reworded(judged, &ended, &note).handing_over(&note.tree.out);
        let judged = asking.settled(judged, told).await;
        let redact = give_back(lease, secrets, config, judged.outcome).await;
        let tree = Tree { redact, tool_calls: judged.tool_calls, ..note.tree.clone() };
        let mut report = self.checked(key, judged, &note, &tree, &mut link).await;
        let (this, own) = (self.clone(), ConversationKey { run: key.run, task: key.task });
        // Only an error of the runtime; the time of the last change then counts as the end.
        let _ = spawn_blocking(move || this.note_end([own, note.conversation])).await;
        report.occupied = Occupied::by(claim);
        report
    }

    async fn checked(
        &self,
        key: AttemptKey,
        judged: AttemptReport,
        note: &Note,
        tree: &Tree,
        link: &mut AttemptLink,
    ) -> AttemptReport {
        if judged.outcome != Outcome::Ok {
            return judged;
        }
        match confirmed(note, link).await {
            Ok(life) => self.gatekeeper().judge(judged, (key, &note.gates), tree, life, link).await,
            Err(cause) => given_up(judged, cause),
        }
    }
}
