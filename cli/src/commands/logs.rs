//! `logs`: the transcript of a task, rendered or byte for byte; of a run, one task after the other.

use std::collections::VecDeque;

use anstyle::Style;
use orch_proto::codes::ErrorCode;

use crate::args::Format;
use crate::args::work::LogsArgs;
use crate::client::{Client, TaskQuery};
use crate::exit;
use crate::failure::{Failure, Outcome};
use crate::output::Out;
use crate::output::safe::{one_line, safe};
use crate::output::words::{BUSY, DIM, GOOD};
use crate::session::Session;
use crate::transcript::{Kind, LogLine, Renderer};

/// Longest name in front of a line.
const NAME: usize = 40;

/// `orchctl logs`.
pub(crate) async fn run(session: &Session, args: LogsArgs) -> Outcome {
    let client = session.client()?;
    let reference = client.resolve(&args.reference).await?;
    session.follows(&reference.run, false);
    if let Some(task) = &reference.task {
        show(session, &client, &reference.to_string(), &one_line(task, NAME), &args).await?;
        return Ok(exit::DONE);
    }
    let tasks = client.tasks(&TaskQuery::all(&reference.run)).await?;
    if let [only] = tasks.as_slice() {
        show(session, &client, &only.r#ref, &one_line(&only.task_id, NAME), &args).await?;
        return Ok(exit::DONE);
    }
    if args.follow || args.attempt.is_some() {
        let names: Vec<_> = tasks.iter().take(20).map(|task| task.r#ref.clone()).collect();
        return Err(Failure::usage(format!("{reference} has several tasks; name one to follow it"))
            .help(names.join("\n       ")));
    }
    for task in tasks.iter().filter(|task| task.attempt > 0) {
        match show(session, &client, &task.r#ref, &one_line(&task.task_id, NAME), &args).await {
            // One that expired, or has not begun to write, does not keep the others.
            Err(failure) if failure.code() == Some(ErrorCode::TranscriptNotFound.code()) => {
                session.out.note(&format!("{}: {}", task.r#ref, failure.message()));
            }
            other => other?,
        }
    }
    Ok(exit::DONE)
}

async fn show(session: &Session, client: &Client, task: &str, name: &str, args: &LogsArgs) -> Outcome<()> {
    let out = &session.out;
    let mut transcript = client.transcript(task, args.attempt.unwrap_or(0), args.follow);
    if args.raw {
        while let Some(bytes) = transcript.next().await? {
            raw(out, &bytes)?;
        }
        return Ok(());
    }
    let mut renderer = Renderer::new(args.full);
    let mut kept = Tail::new(args.tail);
    while let Some(bytes) = transcript.next().await? {
        for line in renderer.push(&bytes).into_iter().filter_map(|line| kept.push(line)) {
            tell(out, name, &line)?;
        }
    }
    let last: Vec<_> = renderer.finish().into_iter().filter_map(|line| kept.push(line)).collect();
    last.iter().chain(&kept.lines).try_for_each(|line| tell(out, name, line))
}

/// The bytes as they are; a terminal gets its control characters shown, for they are not ours.
fn raw(out: &Out, bytes: &[u8]) -> Outcome<()> {
    if out.stdout().is_terminal() {
        return out.data(&safe(&String::from_utf8_lossy(bytes)));
    }
    out.bytes(bytes)
}

fn tell(out: &Out, name: &str, line: &LogLine) -> Outcome<()> {
    if out.format != Format::Table {
        return tell_script(out, name, line);
    }
    let style = match line.kind {
        Kind::Session | Kind::Other => DIM,
        Kind::Tool => BUSY,
        Kind::Result => GOOD,
        Kind::Assistant => Style::new(),
    };
    let prefix = out.paint(DIM, &format!("{name}▸"));
    let indent = if line.nested { "  " } else { "" };
    let label = out.paint(style, &format!("{:<9}", line.label));
    let continued = format!("\n{} {indent}{:<9} ", prefix, "");
    let text = if line.label.is_empty() {
        format!("{prefix} {indent}{}", line.text)
    } else {
        format!("{prefix} {indent}{label} {}", line.text.trim_end().replace('\n', &continued))
    };
    out.line(text.trim_end())
}

fn tell_script(out: &Out, name: &str, line: &LogLine) -> Outcome<()> {
    match out.format {
        Format::Json | Format::Jsonl => {
            let label = if line.label.is_empty() { "output" } else { line.label };
            let value =
                serde_json::json!({"task_id": name, "type": label, "text": line.text, "nested": line.nested});
            out.line(&value.to_string())
        }
        Format::Table | Format::Name | Format::None => Ok(()),
    }
}

/// Lets lines through, or keeps the last ones for the end.
struct Tail {
    limit: Option<usize>,
    lines: VecDeque<LogLine>,
}

impl Tail {
    fn new(limit: Option<usize>) -> Self {
        Self { limit, lines: VecDeque::new() }
    }

    fn push(&mut self, line: LogLine) -> Option<LogLine> {
        let Some(limit) = self.limit else { return Some(line) };
        self.lines.push_back(line);
        if self.lines.len() > limit {
            self.lines.pop_front();
        }
        None
    }
}
