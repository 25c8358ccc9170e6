//! `logs -f` of a run: the transcripts of all its tasks as they are written, each line with its task in front. A task
//! joins when its attempt starts, and again with every further attempt.

use std::collections::{HashMap, HashSet, VecDeque};
use std::pin::Pin;
use std::time::Duration;

use futures_util::stream::{SelectAll, unfold};
use futures_util::{Stream, StreamExt};
use orch_proto::codes::ErrorCode;
use orch_proto::v1::watch_event::Change;
use orch_proto::v1::{TaskRole, TaskState, WatchRunsResponse};

use super::{NAME, Prefix, raw, tell};
use crate::args::work::LogsArgs;
use crate::client::Client;
use crate::client::events::Frame;
use crate::client::transcript::Transcript;
use crate::exit;
use crate::failure::Outcome;
use crate::output::safe::one_line;
use crate::output::words::{run_ended, task_ended};
use crate::session::Session;
use crate::transcript::{LogLine, Renderer};

/// Transcripts read at a time: each is a stream of its own. The others wait their turn and are then read from the
/// start.
const AT_ONCE: usize = 64;
/// An attempt is granted before its first line arrives. How often that line is looked for, and how far apart.
const TRIES: u32 = 10;
const APART: Duration = Duration::from_millis(300);

/// Longest warning told.
const TOLD: usize = 300;

type Pieces = Pin<Box<dyn Stream<Item = Outcome<Piece>> + Send>>;

/// What one transcript yields.
enum Piece {
    Lines(String, Vec<LogLine>),
    Raw(Vec<u8>),
    /// There is none.
    Missing(String),
}

/// An attempt whose transcript is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    task: String,
    attempt: u32,
    /// It has ended: what is not there will not come.
    ended: bool,
}

/// Follows a run to its end and the end of its transcripts.
pub(super) async fn run(session: &Session, client: &Client, run: &str, args: &LogsArgs) -> Outcome {
    let out = &session.out;
    let mut watch = client.watch(run, false);
    let mut attempts = Attempts::default();
    let mut waiting = VecDeque::new();
    let mut open: SelectAll<Pieces> = SelectAll::new();
    let mut over = false;
    loop {
        while open.len() < AT_ONCE
            && let Some(wanted) = waiting.pop_front()
        {
            open.push(pieces(client, run, &wanted, args));
        }
        if over && open.is_empty() {
            return Ok(exit::DONE);
        }
        tokio::select! {
            frame = watch.next(), if !over => match frame? {
                Some(Frame::Update(update)) => {
                    waiting.extend(attempts.of(&update));
                    for event in &update.events {
                        if let Some(Change::Budget(warning)) = &event.change {
                            out.note(&format!("! {}", one_line(&warning.text, TOLD)));
                        }
                    }
                    over = attempts.over;
                }
                Some(Frame::Lost(cause)) => out.note(&format!("lost the coordinator ({cause}); trying again")),
                Some(Frame::Expired(_)) => {}
                None => over = true,
            },
            piece = open.next(), if !open.is_empty() => match piece.transpose()? {
                Some(Piece::Lines(name, lines)) => {
                    let prefix = Prefix::coloured(&name);
                    lines.iter().try_for_each(|line| tell(out, &prefix, line))?;
                }
                Some(Piece::Raw(bytes)) => raw(out, &bytes)?,
                Some(Piece::Missing(sentence)) => out.note(&sentence),
                // The last one has ended.
                None => {}
            },
        }
    }
}

/// Which attempts have been seen to start.
#[derive(Debug, Default)]
struct Attempts {
    latest: HashMap<String, u32>,
    /// Tasks that do nothing write nothing, and publications happen in the agent.
    silent: HashSet<String>,
    /// The run has ended, and its tasks are all known.
    over: bool,
}

impl Attempts {
    /// The attempts that a frame shows for the first time.
    fn of(&mut self, frame: &WatchRunsResponse) -> Vec<Wanted> {
        let mut new = Vec::new();
        for task in &frame.tasks {
            if task.runner == "noop" || task.role() == TaskRole::Publish {
                self.silent.insert(task.task_id.clone());
            }
            new.extend(self.started(&task.task_id, task.attempt, task.state()));
        }
        let snapshot = frame.run.as_ref().map(|run| run_ended(run.state()));
        self.over = snapshot.unwrap_or(self.over);
        for event in &frame.events {
            match &event.change {
                Some(Change::Task(task)) => {
                    new.extend(self.started(&task.task_id, task.attempt, task.state()))
                }
                Some(Change::Run(run)) => self.over = run_ended(run.state()),
                Some(Change::Agent(_) | Change::Activity(_) | Change::Budget(_)) | None => {}
            }
        }
        new
    }

    fn started(&mut self, task: &str, attempt: u32, state: TaskState) -> Option<Wanted> {
        let runs = match state {
            TaskState::Running
            | TaskState::Verifying
            | TaskState::WaitingRetry
            | TaskState::Parked
            | TaskState::Succeeded
            | TaskState::Failed
            | TaskState::Cancelled => true,
            TaskState::Unspecified
            | TaskState::Blocked
            | TaskState::Queued
            | TaskState::Leased
            | TaskState::Skipped => false,
        };
        let known = self.latest.get(task).copied().unwrap_or(0);
        if !runs || attempt <= known || self.silent.contains(task) {
            return None;
        }
        self.latest.insert(task.to_owned(), attempt);
        Some(Wanted { task: task.to_owned(), attempt, ended: task_ended(state) })
    }
}

/// One transcript being read.
struct Reader {
    transcript: Transcript,
    reference: String,
    name: String,
    renderer: Renderer,
    /// With `--raw`, the beginning of a line whose end has not come: lines of two tasks must not mix.
    part: Option<Vec<u8>>,
    tries: u32,
    done: bool,
}

fn pieces(client: &Client, run: &str, wanted: &Wanted, args: &LogsArgs) -> Pieces {
    let reference = format!("{run}/{}", wanted.task);
    let reader = Reader {
        transcript: client.transcript(&reference, wanted.attempt, true),
        reference,
        name: one_line(&wanted.task, NAME),
        renderer: Renderer::new(args.full),
        part: args.raw.then(Vec::new),
        tries: if wanted.ended { 1 } else { TRIES },
        done: false,
    };
    Box::pin(unfold(reader, |mut reader| async move {
        if reader.done {
            return None;
        }
        let piece = reader.next().await;
        Some((piece, reader))
    }))
}

impl Reader {
    async fn next(&mut self) -> Outcome<Piece> {
        loop {
            match self.transcript.next().await {
                Ok(Some(bytes)) => return Ok(self.push(&bytes)),
                Ok(None) => {
                    self.done = true;
                    return Ok(match self.part.take() {
                        Some(rest) => Piece::Raw(rest),
                        None => Piece::Lines(self.name.clone(), self.renderer.finish().into_iter().collect()),
                    });
                }
                Err(failure) if failure.code() == Some(ErrorCode::TranscriptNotFound.code()) => {
                    self.tries = self.tries.saturating_sub(1);
                    if self.tries == 0 {
                        self.done = true;
                        return Ok(Piece::Missing(format!("{}: {}", self.reference, failure.message())));
                    }
                    tokio::time::sleep(APART).await;
                }
                Err(failure) => {
                    self.done = true;
                    return Err(failure);
                }
            }
        }
    }

    fn push(&mut self, bytes: &[u8]) -> Piece {
        let Some(part) = &mut self.part else {
            return Piece::Lines(self.name.clone(), self.renderer.push(bytes));
        };
        part.extend_from_slice(bytes);
        let whole = part.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        Piece::Raw(part.drain(..whole).collect())
    }
}

#[cfg(test)]
mod tests {
    use orch_proto::v1::{Run, RunState, Task, TaskChanged, WatchEvent};

    use super::*;

    fn task(id: &str, state: TaskState, attempt: u32) -> Task {
        Task { task_id: id.into(), state: state.into(), attempt, runner: "claude".into(), ..Task::default() }
    }

    fn event(change: Change) -> WatchRunsResponse {
        let event = WatchEvent { change: Some(change), ..WatchEvent::default() };
        WatchRunsResponse { events: vec![event], ..WatchRunsResponse::default() }
    }

    #[test]
    fn an_attempt_is_followed_once_and_the_next_one_again() {
        let mut attempts = Attempts::default();
        let noop = Task { runner: "noop".into(), ..task("c", TaskState::Succeeded, 1) };
        let snapshot = WatchRunsResponse {
            run: Some(Run { state: RunState::Running.into(), ..Run::default() }),
            tasks: vec![task("a", TaskState::Succeeded, 1), task("b", TaskState::Queued, 0), noop],
            snapshot_complete: true,
            ..WatchRunsResponse::default()
        };
        let wanted = |task: &str, attempt, ended| Wanted { task: task.into(), attempt, ended };
        assert_eq!(attempts.of(&snapshot), [wanted("a", 1, true)]);
        assert_eq!(attempts.of(&snapshot), []);
        let changed = |state: TaskState, attempt| {
            event(Change::Task(TaskChanged {
                task_id: "b".into(),
                state: state.into(),
                attempt,
                ..TaskChanged::default()
            }))
        };
        assert_eq!(attempts.of(&changed(TaskState::Leased, 1)), []);
        assert_eq!(attempts.of(&changed(TaskState::Running, 1)), [wanted("b", 1, false)]);
        assert_eq!(attempts.of(&changed(TaskState::WaitingRetry, 1)), []);
        assert_eq!(attempts.of(&changed(TaskState::Running, 2)), [wanted("b", 2, false)]);
        assert!(!attempts.over);
    }
}
