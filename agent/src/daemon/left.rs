//! What a former process of the agent left behind: attempts whose end it did not see, and transcripts it had not sent.
//! Knows who can go on with them; refuses to know how.
//!
//! | An attempt that was accepted and not reported | becomes |
//! |---|---|
//! | has something that lies or runs: see [`crate::adoption`] | gone on with |
//! | never began | waiting, as before |
//! | had begun to be prepared, and nothing of it ran yet | lost: it may be what ended the agent |

use crate::adoption::{self, Found};
use crate::daemon::start::{Attempt, Runners};
use crate::homes::{ConversationKey, Homes};
use crate::runner::{AttemptHandle, AttemptKey, AttemptReport, Live, Outcome};
use crate::session::convert::{self, Assigned};
use crate::session::transcript::is_sent;
use crate::spool::{Held, Phase};
use crate::supervisor::segments::{self, Channel, SEGMENT_BYTES};
use orch_proto::v1;
use prost::Message as _;
use std::path::Path;
use tokio::sync::watch;

/// What becomes of an attempt that a former process accepted.
pub(super) enum Left {
    /// It is gone on with.
    GoesOn(Box<(AttemptHandle, Attempt)>),
    /// It never began.
    Waits(Box<Assigned>),
    /// It has ended.
    Ended(Box<AttemptReport>),
    /// It was reported.
    Reported(Box<v1::Report>),
}

/// What the spool remembers of an accepted attempt: all of its assignment, so that it can still begin. One that ends at
/// once needs no memory.
pub(super) fn accept_record(assignment: &v1::Assignment) -> Vec<u8> {
    match &assignment.runner {
        Some(v1::assignment::Runner::Noop(_)) | None => Vec::new(),
        Some(_) => assignment.encode_to_vec(),
    }
}

/// What becomes of an attempt that a former process of the agent took over and did not report. Blocks for a moment.
pub(super) fn left(
    key: AttemptKey,
    held: &Held,
    found: &mut Found,
    runners: &Runners,
    homes: &Homes,
) -> Left {
    let conversation = ConversationKey { run: key.run, task: key.task };
    let _span = key.span().entered();
    let wire = v1::Assignment::decode(held.payload.as_slice()).ok();
    let assigned = wire.and_then(|wire| convert::assigned(wire).ok()).filter(|assigned| assigned.key == key);
    let reference = assigned.as_ref().map(|assigned| assigned.reference.clone()).unwrap_or_default();
    if let Some(survivor) = found.take(key) {
        let is_running = survivor.process.is_some();
        if let Some((handle, attempt)) = runners.adopt(key, assigned.as_ref(), survivor.clone()) {
            tracing::info!(reference, is_running, "an attempt of the former agent is gone on with");
            return Left::GoesOn(Box::new((handle, attempt)));
        }
        // It will be said to be lost, so nothing of it may go on.
        adoption::end(&survivor);
    }
    let why = match assigned {
        Some(assigned) if held.phase == Phase::Accepted => match runners.can_run(&assigned) {
            Ok(()) => {
                tracing::info!(reference, "an attempt had not begun and waits again");
                return Left::Waits(Box::new(assigned));
            }
            Err(why) => format!("the agent restarted before it began, and now {why}"),
        },
        Some(_) | None => "the agent restarted while it prepared the attempt".to_owned(),
    };
    let dir = homes.attempt_dir(conversation, key.attempt);
    let report = AttemptReport {
        transcript_bytes: transcript_bytes(&dir),
        ..AttemptReport::of(Outcome::LostAgent, why)
    };
    // An attempt that never began has no directory.
    if dir.exists()
        && let Err(error) = homes.note_end(conversation)
    {
        tracing::warn!(%error, "the end of a conversation could not be noted");
    }
    tracing::warn!(reference, outcome = report.outcome.word(), "a former agent did not see its end");
    Left::Ended(Box::new(report))
}

/// Transcripts that lie on the disk and were not sent to their end, complete as they are: those of attempts that have
/// ended.
pub(super) fn transcripts(
    homes: &Homes,
    has_ended: impl Fn(AttemptKey) -> bool,
) -> Vec<(AttemptKey, watch::Receiver<Live>)> {
    let mut found = Vec::new();
    for (conversation, attempt) in homes.attempts() {
        let key = AttemptKey { run: conversation.run, task: conversation.task, attempt };
        let dir = homes.attempt_dir(conversation, attempt);
        let bytes = transcript_bytes(&dir);
        if bytes > 0 && !is_sent(&dir) && has_ended(key) {
            let live = Live { attempt_dir: Some(dir), transcript_bytes: bytes, ..Live::default() };
            // Nobody holds the other end: nothing will follow.
            let (_, live) = watch::channel(live);
            found.push((key, live));
        }
    }
    found
}

fn transcript_bytes(dir: &Path) -> u64 {
    segments::length(dir, Channel::Stdout, SEGMENT_BYTES).unwrap_or_else(|error| {
        tracing::warn!(dir = %dir.display(), %error, "a transcript cannot be measured");
        0
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gates::Tree;
    use crate::runner::note::{Note, WorkNote};
    use crate::runner::{Adopted, AttemptLimits, AttemptLink, AttemptSpec, Gates, RunFuture, Runner};
    use crate::supervisor::client::Survivor;
    use std::fs;
    use std::sync::Arc;

    const KEY: AttemptKey = AttemptKey { run: 7, task: 1, attempt: 2 };

    /// Goes on with everything.
    #[derive(Debug)]
    struct Follower;

    impl Runner for Follower {
        fn name(&self) -> &'static str {
            "command"
        }

        fn run(&self, _spec: AttemptSpec, _link: AttemptLink) -> RunFuture<'_> {
            Box::pin(std::future::pending())
        }

        fn adopt(&self, _key: AttemptKey, survivor: Survivor, _link: AttemptLink) -> Option<Adopted> {
            let report = AttemptReport::of(Outcome::Ok, survivor.id);
            Some(Adopted { run: Box::pin(async { report }), shown: None })
        }
    }

    fn held(phase: Phase, runner: v1::assignment::Runner) -> Held {
        let attempt = Some(convert::attempt_id(KEY));
        let wire =
            v1::Assignment { attempt, r#ref: "a/7/t".into(), runner: Some(runner), ..Default::default() };
        Held { phase, payload: accept_record(&wire), report: None }
    }

    fn command(phase: Phase) -> Held {
        held(phase, v1::assignment::Runner::Command(v1::CommandTask::default()))
    }

    fn told(left: Left) -> (Outcome, String) {
        let Left::Ended(report) = left else { panic!("it has not ended") };
        (report.outcome, report.detail)
    }

    #[tokio::test]
    async fn what_was_running_is_gone_on_with_and_what_never_began_waits_again() {
        let dir = tempfile::tempdir().unwrap();
        let homes = Homes::open(dir.path()).unwrap();
        let runners = Runners::new(None, Some(Arc::new(Follower)));
        let survivor = Survivor { id: "s1".to_owned(), attempt_dir: dir.path().to_owned(), process: None };
        let mut found = Found::from_iter([(KEY, survivor)]);
        let Left::GoesOn(on) = left(KEY, &command(Phase::Accepted), &mut found, &runners, &homes) else {
            panic!("it is not gone on with");
        };
        let (key, report) = on.1.run.await;
        assert_eq!((key, report.detail.as_str()), (KEY, "s1"));
        let again = left(KEY, &command(Phase::Accepted), &mut found, &runners, &homes);
        assert!(matches!(again, Left::Waits(assigned) if assigned.reference == "a/7/t"));
    }

    #[tokio::test]
    async fn what_nobody_goes_on_with_is_ended_before_it_is_called_lost() {
        let dir = tempfile::tempdir().unwrap();
        let homes = Homes::open(dir.path()).unwrap();
        let runners = Runners::new(None, Some(Arc::new(Follower)));
        let mut child = std::process::Command::new("sleep").arg("658").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let process = Some((pid, crate::procfs::read_stat(pid).unwrap().start_ticks));
        let survivor = Survivor { id: "none".to_owned(), attempt_dir: dir.path().to_owned(), process };
        let mut found = Found::from_iter([(KEY, survivor)]);
        let unknown = Held { payload: b"\xff".to_vec(), ..command(Phase::Running) };
        assert_eq!(told(left(KEY, &unknown, &mut found, &runners, &homes)).0, Outcome::LostAgent);
        // It has its signal; the kernel may take a moment to carry that out.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while child.try_wait().unwrap().is_none() {
            assert!(std::time::Instant::now() < deadline, "nobody ended it");
            std::thread::yield_now();
        }
    }

    #[tokio::test]
    async fn what_runs_is_known_by_its_note_where_its_assignment_is_not_understood() {
        let dir = tempfile::tempdir().unwrap();
        let homes = Homes::open(dir.path()).unwrap();
        let runners = Runners::new(None, Some(Arc::new(Follower)));
        let note = Note {
            boot_id: String::new(),
            reference: "a/7/t".to_owned(),
            conversation: ConversationKey { run: 7, task: 1 },
            limits: AttemptLimits::default(),
            gates: Gates::default(),
            tree: Tree::default(),
            shown: None,
            segment_bytes: 4,
            work: WorkNote::Command,
        };
        note.write(dir.path()).unwrap();
        let survivor = Survivor { id: "s1".to_owned(), attempt_dir: dir.path().to_owned(), process: None };
        let mut found = Found::from_iter([(KEY, survivor)]);
        let unknown = Held { payload: b"\xff".to_vec(), ..command(Phase::Running) };
        assert!(matches!(left(KEY, &unknown, &mut found, &runners, &homes), Left::GoesOn(_)));
    }

    #[test]
    fn what_is_not_known_or_was_just_being_prepared_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let homes = Homes::open(dir.path()).unwrap();
        let runners = Runners::new(None, Some(Arc::new(Follower)));
        let mut none = Found::default();
        let conversation = homes.conversation(ConversationKey { run: 7, task: 1 }).unwrap();
        let attempt = conversation.fresh_attempt(2).unwrap();
        fs::write(attempt.join("stdout.000000"), b"half an ans").unwrap();
        let home = fs::File::open(dir.path().join("tasks/7-1")).unwrap();
        home.set_modified(std::time::UNIX_EPOCH).unwrap();
        let Left::Ended(lost) = left(KEY, &command(Phase::Running), &mut none, &runners, &homes) else {
            panic!("it has not ended");
        };
        assert_eq!(
            (lost.outcome, lost.detail.as_str(), lost.transcript_bytes),
            (Outcome::LostAgent, "the agent restarted while it prepared the attempt", 11)
        );
        assert_ne!(
            home.metadata().unwrap().modified().unwrap(),
            std::time::UNIX_EPOCH,
            "its time runs from now on"
        );
        for payload in [&b""[..], b"a/7/t", b"\xff"] {
            let held = Held { payload: payload.to_owned(), ..command(Phase::Accepted) };
            assert_eq!(told(left(KEY, &held, &mut none, &runners, &homes)).0, Outcome::LostAgent);
        }
        let claude = held(Phase::Accepted, v1::assignment::Runner::Claude(v1::ClaudeAssignment::default()));
        let (outcome, why) = told(left(KEY, &claude, &mut none, &runners, &homes));
        assert_eq!(outcome, Outcome::LostAgent);
        assert_eq!(why, "the agent restarted before it began, and now this agent has no claude CLI");
    }

    #[test]
    fn transcripts_that_were_not_sent_are_found_complete_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let homes = Homes::open(dir.path()).unwrap();
        let conversation = homes.conversation(ConversationKey { run: 7, task: 1 }).unwrap();
        for attempt in [1, 2, 3, 4] {
            conversation.fresh_attempt(attempt).unwrap();
        }
        fs::write(conversation.attempt(2).join("stdout.000000"), b"0123456789").unwrap();
        fs::write(conversation.attempt(3).join("stdout.000000"), b"sent already").unwrap();
        fs::write(conversation.attempt(3).join("transcript.sent"), b"").unwrap();
        fs::write(conversation.attempt(4).join("stdout.000000"), b"still grows").unwrap();
        let found = transcripts(&homes, |key| key.attempt != 4);
        assert_eq!(found.iter().map(|(key, _)| *key).collect::<Vec<_>>(), [KEY]);
        let live = &found[0].1;
        assert_eq!(live.borrow().transcript_bytes, 10);
        assert_eq!(live.borrow().attempt_dir, Some(conversation.attempt(2)));
        assert!(live.has_changed().is_err(), "nothing will follow");
    }
}
