//! The results of a run: fetched whole, and printed for people and for scripts.
//! Knows answers, tokens and money; how a run was followed is not its business.

use std::fmt::Write as _;

use futures_util::{StreamExt, TryStreamExt};
use orch_proto::v1::{Outcome as Ending, Run, Task, TaskState};

use crate::args::Format;
use crate::args::parse::{run_state_word, task_state_word};
use crate::client::{Client, TaskQuery};
use crate::failure::Outcome;
use crate::output::Out;
use crate::output::figures::{count, dollars, short, span};
use crate::output::safe::{one_line, safe};
use crate::output::view::{ResultView, RunResultView, RunView, Tokens};
use crate::output::words::{BOLD, DIM, run_look, task_look};

/// Up to so many tasks are fetched one by one, with answers of any length; of more, the list brings what it can.
const ONE_BY_ONE: usize = 500;
/// Fetched at a time.
const AT_ONCE: usize = 8;
/// Longest detail told.
const DETAIL: usize = 4096;

/// A task and its answer.
#[derive(Debug, Clone)]
pub(crate) struct TaskResult {
    /// The task.
    pub(crate) task: Task,
    /// Its answer, fetched.
    pub(crate) answer: String,
}

/// A run and the results of its tasks.
#[derive(Debug, Clone)]
pub(crate) struct RunResult {
    /// The run.
    pub(crate) run: Run,
    /// Its tasks in order.
    pub(crate) tasks: Vec<TaskResult>,
    /// Nothing that is left of it can ever be placed as things stand.
    pub(crate) impossible: bool,
}

/// Fetches the results of a run.
pub(crate) async fn fetch(client: &Client, run: Run) -> Outcome<RunResult> {
    let query =
        TaskQuery { with_answers: run.task_count as usize > ONE_BY_ONE, ..TaskQuery::all(&run.r#ref) };
    let listed = client.tasks(&query).await?;
    let tasks = futures_util::stream::iter(listed)
        .map(|task| fetch_task(client, task, query.with_answers))
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    Ok(RunResult { run, tasks, impossible: false })
}

async fn fetch_task(client: &Client, task: Task, whole: bool) -> Outcome<TaskResult> {
    // A task that does nothing, or never ran, has no answer.
    let nothing = task.runner == "noop" || task.attempt == 0;
    let task = if whole || nothing { task } else { client.task(&task.r#ref).await? };
    let answer = client.text(task.answer.as_ref()).await?;
    Ok(TaskResult { task, answer })
}

/// Fetches the result of one task.
pub(crate) async fn fetch_one(client: &Client, reference: &str) -> Outcome<TaskResult> {
    let task = client.task(reference).await?;
    let answer = client.text(task.answer.as_ref()).await?;
    Ok(TaskResult { task, answer })
}

/// Prints the results of a run in the format asked for.
pub(crate) fn print_run(out: &Out, result: RunResult) -> Outcome<()> {
    match out.format {
        Format::Json => out.json(&run_view(result)),
        Format::Jsonl => result.tasks.into_iter().try_for_each(|task| out.json(&task_view(task))),
        Format::Name => out.name(&result.run.r#ref),
        Format::None => Ok(()),
        Format::Table => print_for_people(out, &result),
    }
}

/// Prints the result of a task in the format asked for.
pub(crate) fn print_task(out: &Out, result: TaskResult) -> Outcome<()> {
    match out.format {
        Format::Json | Format::Jsonl => out.json(&task_view(result)),
        Format::Name => out.name(&result.task.r#ref),
        Format::None => Ok(()),
        Format::Table => print_alone(out, &result),
    }
}

fn run_view(result: RunResult) -> RunResultView {
    RunResultView {
        run: RunView::from(&result.run),
        impossible: result.impossible,
        results: result.tasks.into_iter().map(task_view).collect(),
    }
}

fn task_view(result: TaskResult) -> ResultView {
    ResultView::new(&result.task, result.answer)
}

/// One task: its answer alone on stdout, so that it can be redirected; the figures on stderr.
fn print_alone(out: &Out, result: &TaskResult) -> Outcome<()> {
    let body = body(result);
    if !body.is_empty() {
        out.data(&body)?;
    }
    out.note(&headline(out, result, true));
    for line in trouble(&result.task) {
        out.note(&line);
    }
    Ok(())
}

fn print_for_people(out: &Out, result: &RunResult) -> Outcome<()> {
    if let [only] = result.tasks.as_slice() {
        return print_alone(out, only);
    }
    for task in &result.tasks {
        let mut text = format!("{}\n", headline(out, task, false));
        for line in trouble(&task.task) {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "  {line}");
        }
        for line in body(task).lines() {
            let _ = writeln!(text, "{}", format!("  {line}").trim_end());
        }
        out.data(&format!("{text}\n"))?;
    }
    out.line(&total(out, result))
}

/// Who did it, how it ended, what it cost.
fn headline(out: &Out, result: &TaskResult, on_stderr: bool) -> String {
    let task = &result.task;
    let stream = if on_stderr { out.stderr() } else { out.stdout() };
    let (glyph, style) = task_look(task.state());
    let name = if on_stderr { &task.r#ref } else { &task.task_id };
    let by = if task.worker.is_empty() { &task.runner } else { &task.worker };
    let mut parts = vec![
        format!("{} {}", stream.paint(style, glyph), stream.paint(BOLD, &one_line(name, DETAIL))),
        one_line(by, DETAIL),
        stream.paint(style, &task_state_word(task.state())),
    ];
    parts.extend(span(task.execution_time).map(short));
    // Only a model costs money and tokens.
    if let Some(usage) =
        task.usage.as_ref().filter(|usage| !usage.models.is_empty() || usage.cost_micro_usd > 0)
    {
        parts.push(dollars(usage.cost_micro_usd, usage.estimated));
        parts.push(format!("{} tokens", count(Tokens::of(usage).total)));
    }
    if !task.agent.is_empty() {
        parts.push(stream.paint(DIM, &one_line(&task.agent, DETAIL)));
    }
    parts.join("  ")
}

/// The answer, and the structured one where there is one, ending in a newline unless empty.
fn body(result: &TaskResult) -> String {
    let mut text = safe(&result.answer).into_owned();
    if !result.task.structured.is_empty() {
        let pretty = serde_json::from_str::<serde_json::Value>(&result.task.structured)
            .and_then(|value| serde_json::to_string_pretty(&value))
            .unwrap_or_else(|_| result.task.structured.clone());
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(&safe(&pretty));
    }
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

/// What a task was denied, why it did not succeed, and what to do.
fn trouble(task: &Task) -> Vec<String> {
    let mut lines: Vec<String> = denied(task).into_iter().collect();
    if task.state() == TaskState::Succeeded || task.outcome() == Ending::Unspecified {
        return lines;
    }
    let Some(row) = task.outcome().row() else { return lines };
    lines.push(format!("{}: {}", row.word, row.sentence));
    if !task.detail.is_empty() && task.detail != row.sentence {
        lines.push(format!("cause: {}", one_line(&task.detail, DETAIL)));
    }
    lines.push(format!("help:  {}", row.remedy.replace("REF", &one_line(&task.r#ref, DETAIL))));
    lines
}

/// What the CLI denied a task, unless that is what it failed of: then its cause says it.
pub(crate) fn denied(task: &Task) -> Option<String> {
    let told = !task.denied_tools.is_empty() && task.outcome() != Ending::PermissionDenied;
    told.then(|| format!("! denied: {}", one_line(&task.denied_tools.join(", "), DETAIL)))
}

/// The last line of a run of several tasks.
fn total(out: &Out, result: &RunResult) -> String {
    let run = &result.run;
    let (glyph, style) = run_look(run.state());
    let done = result.tasks.iter().filter(|result| result.task.state() == TaskState::Succeeded).count();
    let usages = || result.tasks.iter().filter_map(|result| result.task.usage.as_ref());
    let sum: u64 = usages().map(|usage| usage.cost_micro_usd).sum();
    let (cost, estimated) = match &run.usage {
        Some(usage) => (usage.cost_micro_usd.max(sum), usage.estimated),
        None => (sum, usages().any(|usage| usage.estimated)),
    };
    let tokens: u64 = usages().map(|usage| Tokens::of(usage).total).sum();
    let mut parts = vec![
        format!("{} {}", out.paint(style, glyph), out.paint(BOLD, &one_line(&run.r#ref, DETAIL))),
        out.paint(style, &run_state_word(run.state())),
        format!("{done}/{}", result.tasks.len()),
    ];
    // Only a model costs money and tokens.
    if cost > 0 || tokens > 0 {
        parts.push(dollars(cost, estimated));
        parts.push(format!("{} tokens", count(tokens)));
    }
    parts.join("  ")
}

#[cfg(test)]
mod tests {
    use orch_proto::v1::{RunState, Usage};

    use super::*;
    use crate::live::model::samples;
    use crate::output::testing;

    fn result(id: &str, state: TaskState, ending: Ending, answer: &str) -> TaskResult {
        let task = Task {
            state: state.into(),
            outcome: ending.into(),
            agent: "box-1".into(),
            attempt: 1,
            execution_time: Some(prost_types::Duration { seconds: 21, nanos: 0 }),
            usage: Some(samples::usage(8)),
            detail: if ending == Ending::Ok { String::new() } else { "no answer after 600 s".into() },
            ..samples::task(0, id, &[])
        };
        TaskResult { task, answer: answer.into() }
    }

    fn run(tasks: Vec<TaskResult>) -> RunResult {
        let usage = Some(Usage { cost_micro_usd: 160_000, ..Usage::default() });
        let run = Run {
            r#ref: "release-notes/128".into(),
            state: RunState::Failed.into(),
            usage,
            ..Run::default()
        };
        RunResult { run, tasks, impossible: false }
    }

    #[test]
    fn a_single_answer_stands_alone_on_stdout() {
        let (out, stdout, stderr) = testing::out(Format::Table, None);
        print_run(&out, run(vec![result("plan", TaskState::Succeeded, Ending::Ok, "Salut\u{1b}[31m")]))
            .unwrap();
        assert_eq!(stdout.text(), "Salut␛[31m\n");
        insta::assert_snapshot!(stderr.text(), @"✔ release-notes/128/plan  anga  succeeded  21s  $0.08  8.0k tokens  box-1");
    }

    #[test]
    fn several_results_are_told_one_after_the_other_with_a_total() {
        let (out, stdout, _) = testing::out(Format::Table, None);
        let tasks = vec![
            result("plan", TaskState::Succeeded, Ending::Ok, "one\ntwo"),
            result("merge", TaskState::Failed, Ending::Hang, ""),
        ];
        print_run(&out, run(tasks)).unwrap();
        insta::assert_snapshot!(stdout.text(), @r"
        ✔ plan  anga  succeeded  21s  $0.08  8.0k tokens  box-1
          one
          two

        ✗ merge  anga  failed  21s  $0.08  8.0k tokens  box-1
          hang: the child lived on without a sign of work
          cause: no answer after 600 s
          help:  read the end of the transcript with `orchctl logs release-notes/128/merge`

        ✗ release-notes/128  failed  1/2  $0.16  16k tokens
        ");
    }

    #[test]
    fn a_structured_answer_is_printed_readably() {
        let (out, stdout, _) = testing::out(Format::Table, None);
        let mut structured = result("plan", TaskState::Succeeded, Ending::Ok, "");
        structured.task.structured = r#"{"score":9}"#.into();
        print_task(&out, structured).unwrap();
        assert_eq!(stdout.text(), "{\n  \"score\": 9\n}\n");
    }

    #[test]
    fn scripts_get_one_object_with_every_result() {
        let (out, stdout, _) = testing::out(Format::Json, None);
        print_run(&out, run(vec![result("plan", TaskState::Succeeded, Ending::Ok, "hello")])).unwrap();
        let json: serde_json::Value = serde_json::from_str(&stdout.text()).unwrap();
        assert_eq!(json["ref"], "release-notes/128");
        let first = &json["results"][0];
        for (field, value) in
            [("task_id", "plan"), ("status", "succeeded"), ("summary", "hello"), ("outcome", "ok")]
        {
            assert_eq!(first[field], value, "{field}");
        }
        assert_eq!(first["execution_time"], 21.0);
        assert_eq!((first["cost_usd"].as_f64(), first["tokens"]["total"].as_u64()), (Some(0.08), Some(8080)));
        assert_eq!(
            (first["findings"].as_array().map(Vec::len), first["artifacts"].as_array().map(Vec::len)),
            (Some(0), Some(0))
        );
    }
}
