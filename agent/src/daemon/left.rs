//! What a former process of the agent left behind: attempts whose end it did not see, and transcripts it had not sent.
//! Knows where they lie and who can judge them; refuses to know how.

use crate::daemon::start::Runners;
use crate::homes::{ConversationKey, Homes};
use crate::runner::{AttemptKey, AttemptReport, Live, Outcome};
use crate::session::convert::{Assigned, AssignedWork};
use crate::session::transcript::is_sent;
use crate::supervisor::segments::{self, Channel, SEGMENT_BYTES};
use orch_proto::v1;
use serde::{Deserialize, Serialize};
use std::path::Path;
use tokio::sync::watch;

/// What the spool remembers of an accepted attempt, so that it can be judged without its assignment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) struct Note {
    /// `name/number/task`, for people.
    reference: String,
    runner: RunnerKind,
    /// Whether a structured answer was demanded.
    structured: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RunnerKind {
    Claude,
    Command,
    Noop,
    Publish,
}

/// The note for an assignment, as bytes.
pub(super) fn note(assigned: &Assigned) -> Vec<u8> {
    let (runner, structured) = match &assigned.work {
        AssignedWork::Claude(work) => (RunnerKind::Claude, demands_structure(work)),
        AssignedWork::Command(_) => (RunnerKind::Command, false),
        AssignedWork::Noop => (RunnerKind::Noop, false),
        AssignedWork::Publish(_) => (RunnerKind::Publish, false),
    };
    let note = Note { reference: assigned.reference.clone(), runner, structured };
    // Such a note is always JSON; an empty one only means that the attempt counts as lost after a restart.
    serde_json::to_vec(&note).unwrap_or_default()
}

fn demands_structure(work: &v1::ClaudeAssignment) -> bool {
    match work.output_schema.as_ref().and_then(|schema| schema.body.as_ref()) {
        Some(v1::text::Body::Inline(schema)) => !schema.is_empty(),
        Some(v1::text::Body::Blob(_)) => true,
        None => false,
    }
}

/// The report of an attempt that a former process took over and whose end it did not see: judged by what lies in its
/// directory, else lost. Blocks as long as reading its transcript takes.
pub(super) fn report(key: AttemptKey, note: &[u8], runners: &Runners, homes: &Homes) -> AttemptReport {
    let conversation = ConversationKey { run: key.run, task: key.task };
    let dir = homes.attempt_dir(conversation, key.attempt);
    let note: Option<Note> = serde_json::from_slice(note).ok();
    let judged = note.as_ref().and_then(|note| {
        let runner = match note.runner {
            RunnerKind::Claude => runners.claude.as_ref(),
            RunnerKind::Command => runners.command.as_ref(),
            // Made again, a publication finds what was done.
            RunnerKind::Noop | RunnerKind::Publish => None,
        };
        runner?.judge_left(&dir, note.structured)
    });
    let report = judged.unwrap_or_else(|| AttemptReport {
        transcript_bytes: transcript_bytes(&dir),
        ..AttemptReport::of(Outcome::LostAgent, "the agent restarted while it ran")
    });
    let report = match runners.supplies() {
        Some(supplies) => supplies.collect_now(key, report),
        None => report,
    };
    // An attempt that never began has no directory.
    if dir.exists()
        && let Err(error) = homes.note_end(conversation)
    {
        tracing::warn!(%error, "the end of a conversation could not be noted");
    }
    let reference = note.map(|note| note.reference).unwrap_or_default();
    key.span().in_scope(|| {
        tracing::warn!(reference, outcome = report.outcome.word(), "a former agent did not see its end");
    });
    report
}

/// Transcripts that lie on the disk and were not sent to their end, complete as they are.
pub(super) fn transcripts(homes: &Homes) -> Vec<(AttemptKey, watch::Receiver<Live>)> {
    let mut found = Vec::new();
    for (conversation, attempt) in homes.attempts() {
        let dir = homes.attempt_dir(conversation, attempt);
        let bytes = transcript_bytes(&dir);
        if bytes > 0 && !is_sent(&dir) {
            let live = Live { attempt_dir: Some(dir), transcript_bytes: bytes, ..Live::default() };
            // Nobody holds the other end: nothing will follow.
            let (_, live) = watch::channel(live);
            found.push((AttemptKey { run: conversation.run, task: conversation.task, attempt }, live));
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
    use crate::runner::{AttemptLink, AttemptSpec, RunFuture, Runner};
    use crate::session::convert;
    use crate::supervisor::exit::ExitRecord;
    use std::fs;
    use std::sync::Arc;

    const KEY: AttemptKey = AttemptKey { run: 7, task: 1, attempt: 2 };

    /// Finds the answer in the exit code.
    #[derive(Debug)]
    struct Judge;

    impl Runner for Judge {
        fn name(&self) -> &'static str {
            "command"
        }

        fn run(&self, _spec: AttemptSpec, _link: AttemptLink) -> RunFuture<'_> {
            Box::pin(std::future::pending())
        }

        fn judge_left(&self, attempt_dir: &Path, structured: bool) -> Option<AttemptReport> {
            let code = ExitRecord::read(attempt_dir).ok()??.code?;
            Some(AttemptReport::of(Outcome::Ok, format!("exit code {code}, structured {structured}")))
        }
    }

    fn note_of(runner: v1::assignment::Runner) -> Vec<u8> {
        let attempt = Some(convert::attempt_id(KEY));
        let wire =
            v1::Assignment { attempt, r#ref: "a/7/t".into(), runner: Some(runner), ..Default::default() };
        note(&convert::assigned(wire).unwrap())
    }

    fn command() -> Vec<u8> {
        note_of(v1::assignment::Runner::Command(v1::CommandTask::default()))
    }

    #[test]
    fn an_attempt_is_judged_by_its_own_runner_or_lost() {
        let dir = tempfile::tempdir().unwrap();
        let homes = Homes::open(dir.path()).unwrap();
        let conversation = homes.conversation(ConversationKey { run: 7, task: 1 }).unwrap();
        let attempt = conversation.fresh_attempt(2).unwrap();
        fs::write(attempt.join("stdout.000000"), b"half an ans").unwrap();
        let runners = Runners::new(None, Some(Arc::new(Judge)));
        let lost = report(KEY, &command(), &runners, &homes);
        assert_eq!(
            (lost.outcome, lost.detail.as_str()),
            (Outcome::LostAgent, "the agent restarted while it ran")
        );
        assert_eq!(lost.transcript_bytes, 11, "how much of its transcript there is");
        assert!(dir.path().join("tasks/7-1/ended").exists(), "its time runs from now on");

        ExitRecord { code: Some(3), ..ExitRecord::default() }.write(&attempt).unwrap();
        let judged = report(KEY, &command(), &runners, &homes);
        assert_eq!((judged.outcome, judged.detail.as_str()), (Outcome::Ok, "exit code 3, structured false"));
        let claude = note_of(v1::assignment::Runner::Claude(v1::ClaudeAssignment::default()));
        for note in [claude.as_slice(), b"", b"a/7/t"] {
            assert_eq!(report(KEY, note, &runners, &homes).outcome, Outcome::LostAgent);
        }
    }

    #[test]
    fn a_schema_is_remembered() {
        let claude = |schema: Option<v1::text::Body>| {
            let output_schema = Some(v1::Text { body: schema });
            let bytes = note_of(v1::assignment::Runner::Claude(v1::ClaudeAssignment {
                output_schema,
                ..Default::default()
            }));
            serde_json::from_slice::<Note>(&bytes).unwrap().structured
        };
        assert!(claude(Some(v1::text::Body::Inline("{}".into()))));
        assert!(claude(Some(v1::text::Body::Blob(v1::BlobRef::default()))));
        assert!(!claude(Some(v1::text::Body::Inline(String::new()))) && !claude(None));
    }

    #[test]
    fn transcripts_that_were_not_sent_are_found_complete_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let homes = Homes::open(dir.path()).unwrap();
        let conversation = homes.conversation(ConversationKey { run: 7, task: 1 }).unwrap();
        for attempt in [1, 2, 3] {
            conversation.fresh_attempt(attempt).unwrap();
        }
        fs::write(conversation.attempt(2).join("stdout.000000"), b"0123456789").unwrap();
        fs::write(conversation.attempt(3).join("stdout.000000"), b"sent already").unwrap();
        fs::write(conversation.attempt(3).join("transcript.sent"), b"").unwrap();
        let found = transcripts(&homes);
        assert_eq!(found.iter().map(|(key, _)| *key).collect::<Vec<_>>(), [KEY]);
        let live = &found[0].1;
        assert_eq!(live.borrow().transcript_bytes, 10);
        assert_eq!(live.borrow().attempt_dir, Some(conversation.attempt(2)));
        assert!(live.has_changed().is_err(), "nothing will follow");
    }
}
