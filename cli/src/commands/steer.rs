//! `cancel` and `retry`: the two verbs that change a run.

use orch_proto::v1::{BudgetMode, RetryRunRequest, Run};

use super::dead;
use crate::args::Format;
use crate::args::parse::run_state_word;
use crate::args::work::{CancelArgs, RetryArgs};
use crate::client::Client;
use crate::exit;
use crate::failure::{Failure, Outcome};
use crate::output::Out;
use crate::output::figures::plural;
use crate::output::view::RunView;
use crate::session::Session;

/// `orchctl cancel`. Each reference stands for itself: one that is not there does not keep the others.
pub(crate) async fn cancel(session: &Session, args: CancelArgs) -> Outcome {
    let client = session.client()?;
    let reason = args.reason.unwrap_or_default();
    // Of one reference one value, of several a list.
    let out = if args.references.len() > 1 { session.out.listing() } else { session.out.clone() };
    let mut codes = Vec::new();
    for text in &args.references {
        let cancelled = async {
            let reference = client.resolve(text).await?.to_string();
            let answer = client.cancel(&reference, &reason).await?;
            let said = match answer.cancelled {
                0 => "nothing was left to cancel".to_owned(),
                tasks => format!("{} cancelled", plural(tasks.into(), "task")),
            };
            tell(&out, &reference, answer.run.as_ref(), &said)
        };
        match cancelled.await.map_err(|failure: Failure| failure.about(text)) {
            Ok(()) => codes.push(exit::DONE),
            Err(failure) if args.references.len() == 1 => return Err(failure),
            Err(failure) => {
                session.out.failure(&failure);
                codes.push(failure.exit_code());
            }
        }
    }
    out.end_list(codes.contains(&exit::DONE))?;
    Ok(if codes.iter().all(|code| *code == exit::DONE) { exit::DONE } else { exit::SOME_FAILED })
}

/// `orchctl retry`. As with `cancel`, each reference stands for itself.
pub(crate) async fn retry(session: &Session, args: RetryArgs) -> Outcome {
    let client = session.client()?;
    let references =
        if args.dead { dead::references(session, &client, &args).await? } else { args.references.clone() };
    if references.is_empty() {
        session.out.note("no dead letters: nothing had to be tried again");
        session.out.listing().end_list(true)?;
        return Ok(exit::DONE);
    }
    let out = if references.len() > 1 || args.all { session.out.listing() } else { session.out.clone() };
    let mut codes = Vec::new();
    for text in &references {
        match retry_one(&out, &client, text, &args).await {
            Ok(()) => codes.push(exit::DONE),
            Err(failure) if references.len() == 1 => return Err(failure),
            Err(failure) => {
                session.out.failure(&failure);
                codes.push(failure.exit_code());
            }
        }
    }
    out.end_list(codes.contains(&exit::DONE))?;
    Ok(if codes.iter().all(|code| *code == exit::DONE) { exit::DONE } else { exit::SOME_FAILED })
}

async fn retry_one(out: &Out, client: &Client, text: &str, args: &RetryArgs) -> Outcome<()> {
    let reference = client.resolve(text).await?;
    if let (Some(task), Some(from)) = (&reference.task, &args.from) {
        return Err(Failure::usage(format!("{reference} names the task {task}, and --from the task {from}"))
            .help(format!("orchctl retry {} --from {from}", reference.run)));
    }
    let reference = reference.to_string();
    let request = RetryRunRequest {
        r#ref: reference.clone(),
        from: args.from.clone().unwrap_or_default(),
        force: args.force,
        dead: args.dead,
        // What it leaves unsaid stays as it is, the mode too.
        budget: args.budget.map(|ceiling| ceiling.limit(BudgetMode::Unspecified)),
        ..RetryRunRequest::default()
    };
    let answer = match client.retry(request).await {
        Ok(answer) => answer,
        Err(failure) if failure.exit_code() == exit::NOT_FOUND && args.from.is_some() => {
            return Err(failure.help(format!("orchctl ls {reference} shows its tasks")));
        }
        Err(failure) => return Err(failure.about(&reference)),
    };
    let said = match (answer.retried, args.dead) {
        (0, true) => "no dead letter is left there".to_owned(),
        (0, false) => "nothing had to be tried again".to_owned(),
        (tasks, _) => format!("{} queued again", plural(tasks.into(), "task")),
    };
    tell(out, &reference, answer.run.as_ref(), &said)
}

fn tell(out: &Out, reference: &str, run: Option<&Run>, said: &str) -> Outcome<()> {
    match (out.format, run) {
        (Format::Table, Some(run)) => {
            out.line(&format!("{reference}: {said}; {} is {}", run.r#ref, run_state_word(run.state())))
        }
        (Format::Table, None) => out.line(&format!("{reference}: {said}")),
        (Format::Json | Format::Jsonl, Some(run)) => out.json(&RunView::from(run)),
        (Format::Name, _) => out.name(reference),
        (Format::None, _) | (Format::Json | Format::Jsonl, None) => Ok(()),
    }
}
