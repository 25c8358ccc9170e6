//! A task as a person reads it: its answer, who did it, what it cost, what went wrong and what to do. Knows text;
//! refuses to fetch anything.

use std::fmt::Write as _;

use orch_proto::v1::{Outcome as Ending, Task, TaskRole, TaskState};
use serde_json::Value;

use super::{RunResult, TaskResult};
use crate::args::parse::{run_state_word, task_state_word};
use crate::failure::Outcome;
use crate::output::Out;
use crate::output::figures::{count, dollars, plural, short, span};
use crate::output::safe::{one_line, safe};
use crate::output::view::Tokens;
use crate::output::view::result::Contract;
use crate::output::words::{BOLD, DIM, run_look, task_look};

/// Longest detail told.
const DETAIL: usize = 4096;

/// One task: its answer alone on stdout, so that it can be redirected; the figures on stderr.
pub(super) fn print_alone(out: &Out, result: &TaskResult) -> Outcome<()> {
    let body = body(result);
    if !body.is_empty() {
        out.data(&body)?;
    }
    out.note(&headline(out, result, true));
    if !result.artifacts.is_empty() {
        let reference = one_line(&result.task.r#ref, DETAIL);
        let files = plural(result.artifacts.len() as u64, "file");
        out.hint(&format!("  {files}: orchctl artifacts get {reference} --all"));
    }
    for line in trouble(&result.task) {
        out.note(&line);
    }
    Ok(())
}

pub(super) fn print(out: &Out, result: &RunResult) -> Outcome<()> {
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
    if let Some(contract) = Contract::of(&result.task) {
        return contract_text(&contract);
    }
    if let Some(verdict) = verdict(&result.task) {
        return verdict;
    }
    let same =
        |value: &Value| serde_json::from_str::<Value>(&result.answer).is_ok_and(|answer| answer == *value);
    let structured = serde_json::from_str::<Value>(&result.task.structured).ok();
    // An answer that is the structured one is not told twice.
    let answer = if structured.as_ref().is_some_and(same) { "" } else { result.answer.as_str() };
    let mut text = safe(answer).into_owned();
    if !result.task.structured.is_empty() {
        let pretty = structured.and_then(|value| serde_json::to_string_pretty(&value).ok());
        let pretty = pretty.unwrap_or_else(|| result.task.structured.clone());
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

/// What a reviewer said: pass or fail, and why.
fn verdict(task: &Task) -> Option<String> {
    if task.role() != TaskRole::Review {
        return None;
    }
    let value: Value = serde_json::from_str(&task.structured).ok()?;
    let word = value.get("verdict")?.as_str()?;
    let reasons = value.get("reasons").and_then(Value::as_array).into_iter().flatten().map(point);
    Some(format!("{}\n{}", one_line(word, DETAIL), points("reasons", reasons)))
}

/// An answer by the result contract. The worker's own word stands first: it never sets the task's state.
fn contract_text(contract: &Contract) -> String {
    let mut text = format!("{}: {}\n", one_line(&contract.status, DETAIL), safe(contract.summary.trim_end()));
    for (title, values) in [("findings", &contract.findings), ("recommendations", &contract.recommendations)]
    {
        text.push_str(&points(title, values.iter().map(point)));
    }
    let scores = contract.scores.iter().map(|(name, score)| format!("{name}  {}", point(score)));
    text.push_str(&points("scores", scores));
    text
}

/// A title and a line for each point; nothing where there is none.
pub(super) fn points(title: &str, points: impl Iterator<Item = String>) -> String {
    let lines: String = points.map(|point| format!("  - {}\n", one_line(&point, DETAIL))).collect();
    if lines.is_empty() { lines } else { format!("\n{title}\n{lines}") }
}

/// A point of a list as a person reads it: a text, or the members of an object.
pub(super) fn point(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(point).collect::<Vec<_>>().join("; "),
        Value::Object(members) => {
            let pairs = members.iter().filter(|(_, value)| !value.is_null());
            pairs.map(|(name, value)| format!("{name}: {}", point(value))).collect::<Vec<_>>().join("; ")
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

/// What a task was denied, why it did not succeed, and what to do.
pub(super) fn trouble(task: &Task) -> Vec<String> {
    let mut lines: Vec<String> = denied(task).into_iter().collect();
    if !task.reused_from.is_empty() {
        lines.push(format!("reused from {}: it cost nothing", one_line(&task.reused_from, DETAIL)));
    }
    if task.repairs > 0 {
        lines.push(format!("sent back {}x", task.repairs));
    }
    if task.state() == TaskState::Succeeded || task.outcome() == Ending::Unspecified {
        return lines;
    }
    let Some(row) = task.outcome().row() else { return lines };
    lines.push(format!("{}: {}", row.word, row.sentence));
    if !task.detail.is_empty() && task.detail != row.sentence {
        lines.push(format!("cause: {}", one_line(&task.detail, DETAIL)));
    }
    for gate in task.gates.iter().filter(|gate| !gate.passed) {
        lines.push(format!("✗ {} {}", one_line(&gate.kind, DETAIL), one_line(&gate.name, DETAIL)));
        lines.extend(safe(gate.log.trim_end()).lines().map(|line| format!("  {line}")));
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
    use super::super::samples::{result, run};
    use super::super::{print_run, print_task};
    use super::*;
    use crate::args::Format;
    use crate::output::testing;

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
    fn an_answer_by_the_contract_is_told_in_its_parts() {
        let (out, stdout, stderr) = testing::out(Format::Table, None);
        let mut kept = result("plan", TaskState::Succeeded, Ending::Ok, "");
        kept.task.result_status = "partial".into();
        kept.task.repairs = 1;
        kept.task.structured = r#"{"status":"partial","summary":"Two of \u001b[31mthree.","findings":["late",
            {"where":"a.rs","what":"unused"}],"recommendations":["come early"],"scores":{"rhythm":8}}"#
            .into();
        print_task(&out, kept).unwrap();
        insta::assert_snapshot!(stdout.text(), @r"
        partial: Two of ␛[31mthree.

        findings
          - late
          - what: unused; where: a.rs

        recommendations
          - come early

        scores
          - rhythm 8
        ");
        assert!(stderr.text().contains("sent back 1x"), "{}", stderr.text());
    }

    #[test]
    fn scripts_get_one_object_with_every_result() {
        let (out, stdout, _) = testing::out(Format::Json, None);
        print_run(&out, run(vec![result("plan", TaskState::Succeeded, Ending::Ok, "hello")])).unwrap();
        let json: Value = serde_json::from_str(&stdout.text()).unwrap();
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
