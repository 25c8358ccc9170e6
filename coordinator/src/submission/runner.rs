//! What executes a task: a worker with its prompt, or a program.
//! Knows what each of them may be told; refuses to know where the task stands in its run.

use super::rules::{self, check_name};
use super::{
    CheckedRunner, CheckedWorkerTask, Conversation, Given, MAX_COMMAND_BYTES, MAX_PROGRAM_BYTES,
    MAX_PROMPT_BYTES, MAX_TURNS, PinnedWorker, SpecError,
};
use crate::planning::schemas;
use orch_proto::codes::ErrorCode;
use orch_proto::v1;
use std::sync::Arc;

pub(super) fn check_runner(
    field: &str,
    runner: Option<v1::task_spec::Runner>,
    given: &Given<'_>,
    conversation: Option<&Conversation>,
) -> Result<CheckedRunner, SpecError> {
    use v1::task_spec::Runner;
    match runner {
        Some(Runner::Worker(task)) => {
            check_worker_task(&format!("{field}.worker"), task, given, conversation)
        }
        Some(Runner::Command(command)) => {
            check_command(&format!("{field}.command"), &command.program, &command.args)?;
            Ok(CheckedRunner::Command(command))
        }
        Some(Runner::Noop(v1::NoopTask {})) => Ok(CheckedRunner::Noop),
        None => {
            Err(SpecError::new(ErrorCode::RunnerMissing, field, "names neither worker, command nor noop"))
        }
    }
}

/// The worker of that name.
pub(super) fn known_worker(
    field: &str,
    name: &str,
    given: &Given<'_>,
) -> Result<Arc<PinnedWorker>, SpecError> {
    given.workers.worker(name).ok_or_else(|| {
        let hint =
            given.workers.nearest(name).map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
        let message = format!("no worker is named `{}`{hint}", rules::shown(name));
        SpecError::new(ErrorCode::UnknownWorker, format!("{field}.worker"), message)
    })
}

fn check_worker_task(
    field: &str,
    task: v1::WorkerTask,
    given: &Given<'_>,
    conversation: Option<&Conversation>,
) -> Result<CheckedRunner, SpecError> {
    let worker = match conversation {
        Some(conversation) => {
            check_follow_up(field, &task, conversation)?;
            Arc::clone(&conversation.worker)
        }
        None => known_worker(field, &task.worker, given)?,
    };
    let prompt = check_prompt(field, &task.context, task.description)?;
    if !task.model.is_empty() {
        check_name(&format!("{field}.model"), &task.model, rules::NameStyle::Model)?;
    }
    rules::check_schema(&format!("{field}.output_schema"), &task.output_schema)?;
    if task.contract && !task.output_schema.is_empty() {
        let message = "the result contract has a schema of its own: leave one of the two out";
        return Err(SpecError::new(ErrorCode::InvalidField, format!("{field}.contract"), message));
    }
    let max_turns = task.max_turns.unwrap_or(worker.max_turns);
    if max_turns > MAX_TURNS || task.max_turns == Some(0) {
        let message = format!("between 1 and {MAX_TURNS}");
        return Err(SpecError::new(ErrorCode::InvalidField, format!("{field}.max_turns"), message));
    }
    if task.budget_micro_usd == Some(0) {
        let message = "a budget of nothing would never start";
        return Err(SpecError::new(ErrorCode::InvalidField, format!("{field}.budget_micro_usd"), message));
    }
    Ok(CheckedRunner::Worker(Box::new(CheckedWorkerTask {
        model: if task.model.is_empty() { worker.model.clone() } else { task.model },
        budget_micro_usd: task.budget_micro_usd.or(worker.budget_micro_usd),
        worker,
        prompt,
        output_schema: if task.contract { schemas::RESULT.to_owned() } else { task.output_schema },
        max_turns,
        contract: task.contract,
        continues: conversation.map(|conversation| conversation.continued.clone()),
    })))
}

/// A conversation goes on as it was: same worker, same model, and only the new words.
fn check_follow_up(field: &str, task: &v1::WorkerTask, conversation: &Conversation) -> Result<(), SpecError> {
    let worker = &conversation.worker;
    let refuse = |part: &str, message: String| {
        Err(SpecError::new(ErrorCode::NotContinuable, format!("{field}.{part}"), message))
    };
    if !task.worker.is_empty() && task.worker != worker.name {
        let message = format!("the conversation is with `{}`: leave the worker out", worker.name);
        return refuse("worker", message);
    }
    if !task.model.is_empty() && task.model != worker.model {
        let message = format!("the conversation is with model `{}`: leave the model out", worker.model);
        return refuse("model", message);
    }
    if !task.context.trim().is_empty() {
        let message = "a conversation is continued by the description alone: say it there";
        return refuse("context", message.to_owned());
    }
    Ok(())
}

fn check_prompt(field: &str, context: &str, description: String) -> Result<String, SpecError> {
    if description.trim().is_empty() {
        let message = "the description is empty: say what is to be done";
        return Err(SpecError::new(ErrorCode::EmptyPrompt, format!("{field}.description"), message));
    }
    let prompt = join_prompt(context, description);
    if prompt.len() > MAX_PROMPT_BYTES {
        let message = format!("{} bytes with its context; at most {MAX_PROMPT_BYTES}", prompt.len());
        return Err(SpecError::new(ErrorCode::TooLarge, format!("{field}.description"), message));
    }
    if prompt.contains('\0') {
        let message = "holds a NUL byte";
        return Err(SpecError::new(ErrorCode::InvalidField, format!("{field}.description"), message));
    }
    Ok(prompt)
}

/// The stable part first: context is often shared between tasks, the description never.
fn join_prompt(context: &str, description: String) -> String {
    if context.trim().is_empty() {
        return description;
    }
    format!("<context>\n{}\n</context>\n\n{description}", context.trim_end())
}

/// Checks a program with its arguments, as tasks and gates name them.
pub(super) fn check_command(field: &str, program: &str, args: &[String]) -> Result<(), SpecError> {
    let length = (1..=MAX_PROGRAM_BYTES).contains(&program.len());
    if !length || program.starts_with('-') || program.chars().any(char::is_control) {
        let message = format!("`{}` is not the name of a program", rules::shown(program));
        return Err(SpecError::new(ErrorCode::InvalidField, format!("{field}.program"), message));
    }
    let bytes = program.len() + args.iter().map(|arg| arg.len() + 1).sum::<usize>();
    if bytes > MAX_COMMAND_BYTES {
        let message = format!("{bytes} bytes; at most {MAX_COMMAND_BYTES}");
        return Err(SpecError::new(ErrorCode::TooLarge, format!("{field}.args"), message));
    }
    if args.iter().any(|arg| arg.contains('\0')) {
        return Err(SpecError::new(ErrorCode::InvalidField, format!("{field}.args"), "holds a NUL byte"));
    }
    Ok(())
}
