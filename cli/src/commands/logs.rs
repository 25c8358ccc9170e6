//! `logs`: the transcript of a task, rendered or byte for byte; of a run, one task after the other.

use std::collections::VecDeque;

use anstyle::{AnsiColor, Style};
use orch_proto::codes::ErrorCode;
use orch_proto::v1::{Task, TaskRole};
use schemars::JsonSchema;
use serde::Serialize;

use crate::args::Format;
use crate::args::work::LogsArgs;
use crate::client::{Client, TaskQuery};
use crate::exit;
use crate::failure::{Failure, Outcome};
use crate::output::Out;
use crate::output::safe::{one_line, safe};
use crate::output::words::{BUSY, DIM, GOOD};
use crate::refs::Reference;
use crate::session::Session;
use crate::transcript::{Kind, LogLine, Renderer};

mod joint;

/// Longest name in front of a line.
const NAME: usize = 40;

/// The task in front of a line.
struct Prefix {
    name: String,
    style: Style,
}

impl Prefix {
    /// Of the only task.
    fn plain(task: &str) -> Self {
        Self { name: one_line(task, NAME), style: DIM }
    }

    /// Of one among many: its colour is always the same, and helps the eye where the name does.
    fn coloured(task: &str) -> Self {
        const COLOURS: [AnsiColor; 5] =
            [AnsiColor::Cyan, AnsiColor::Magenta, AnsiColor::Yellow, AnsiColor::Blue, AnsiColor::Green];
        let sum: usize = task.bytes().map(usize::from).sum();
        Self { name: one_line(task, NAME), style: COLOURS[sum % COLOURS.len()].on_default() }
    }
}

/// `orchctl logs`.
pub(crate) async fn run(session: &Session, args: LogsArgs) -> Outcome {
    let client = session.client()?;
    let reference = client.resolve(&args.reference).await?;
    session.follows(&reference.run, false);
    let whole = !args.follow && !args.raw;
    let out = if whole { session.out.listing() } else { session.out.clone() };
    let told = tell_all(session, &out, &client, &reference, &args).await;
    out.end_list(told.is_ok())?;
    told
}

async fn tell_all(
    session: &Session,
    out: &Out,
    client: &Client,
    reference: &Reference,
    args: &LogsArgs,
) -> Outcome {
    if let Some(task) = &reference.task {
        show(out, client, &reference.to_string(), &Prefix::plain(task), args).await?;
        return Ok(exit::DONE);
    }
    let tasks = client.tasks(&TaskQuery::all(&reference.run)).await?;
    if let [only] = tasks.as_slice() {
        show(out, client, &only.r#ref, &Prefix::plain(&only.task_id), args).await?;
        return Ok(exit::DONE);
    }
    if args.attempt.is_some() {
        let names: Vec<_> = tasks.iter().take(20).map(|task| task.r#ref.clone()).collect();
        return Err(Failure::usage(format!("{reference} has several tasks; --attempt is about one"))
            .help(names.join("\n       ")));
    }
    if args.follow {
        return joint::run(session, client, &reference.run, args).await;
    }
    // Publications happen in the agent.
    let writes = |task: &&Task| task.attempt > 0 && task.role() != TaskRole::Publish;
    for task in tasks.iter().filter(writes) {
        match show(out, client, &task.r#ref, &Prefix::coloured(&task.task_id), args).await {
            // One that expired, or has not begun to write, does not keep the others.
            Err(failure) if failure.code() == Some(ErrorCode::TranscriptNotFound.code()) => {
                out.note(&format!("{}: {}", task.r#ref, failure.message()));
            }
            other => other?,
        }
    }
    Ok(exit::DONE)
}

async fn show(out: &Out, client: &Client, task: &str, prefix: &Prefix, args: &LogsArgs) -> Outcome<()> {
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
            tell(out, prefix, &line)?;
        }
    }
    let last: Vec<_> = renderer.finish().into_iter().filter_map(|line| kept.push(line)).collect();
    last.iter().chain(&kept.lines).try_for_each(|line| tell(out, prefix, line))
}

/// The bytes as they are; a terminal gets its control characters shown, for they are not ours.
fn raw(out: &Out, bytes: &[u8]) -> Outcome<()> {
    if out.stdout().is_terminal() {
        return out.data(&safe(&String::from_utf8_lossy(bytes)));
    }
    out.bytes(bytes)
}

fn tell(out: &Out, prefix: &Prefix, line: &LogLine) -> Outcome<()> {
    if out.format != Format::Table {
        return tell_script(out, &prefix.name, line);
    }
    let style = match line.kind {
        Kind::Session | Kind::Heading | Kind::Other => DIM,
        Kind::Tool => BUSY,
        Kind::Result => GOOD,
        Kind::Assistant => Style::new(),
    };
    let prefix = out.paint(prefix.style, &format!("{}▸", prefix.name));
    let indent = "  ".repeat(line.depth);
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
        // For eyes only: the parent of each line says it.
        Format::Json | Format::Jsonl if line.kind == Kind::Heading => Ok(()),
        Format::Json | Format::Jsonl => {
            let label = if line.label.is_empty() { "output" } else { line.label };
            out.event(&LogLineView {
                task_id: name,
                r#type: label,
                text: &line.text,
                nested: line.depth > 0,
                parent: line.parent.as_deref(),
                call: line.call.as_deref(),
            })
        }
        Format::Table | Format::Name | Format::None => Ok(()),
    }
}

/// A line of a transcript.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct LogLineView<'a> {
    task_id: &'a str,
    /// `assistant`, `tool`, `result` and so on; `output` for what is no event of the CLI.
    r#type: &'a str,
    text: &'a str,
    /// Whether a sub-agent said it.
    nested: bool,
    /// The `call` that started the sub-agent which said it.
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<&'a str>,
    /// Of a tool call: its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    call: Option<&'a str>,
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
