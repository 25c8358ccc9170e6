//! `cancel` and `retry`: the two verbs that change a run.

use orch_proto::v1::Run;

use crate::args::Format;
use crate::args::parse::run_state_word;
use crate::args::work::{CancelArgs, RetryArgs};
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

/// `orchctl retry`.
pub(crate) async fn retry(session: &Session, args: RetryArgs) -> Outcome {
    let client = session.client()?;
    let reference = client.resolve(&args.reference).await?;
    if let (Some(task), Some(from)) = (&reference.task, &args.from) {
        return Err(Failure::usage(format!("{reference} names the task {task}, and --from the task {from}"))
            .help(format!("orchctl retry {} --from {from}", reference.run)));
    }
    let reference = reference.to_string();
    let from = args.from.as_deref().unwrap_or_default();
    let answer = match client.retry(&reference, from, args.force).await {
        Ok(answer) => answer,
        Err(failure) if failure.exit_code() == exit::NOT_FOUND && args.from.is_some() => {
            return Err(failure.help(format!("orchctl ls {reference} shows its tasks")));
        }
        Err(failure) => return Err(failure.about(&reference)),
    };
    let said = match answer.retried {
        0 => "nothing had to be tried again".to_owned(),
        tasks => format!("{} queued again", plural(tasks.into(), "task")),
    };
    tell(&session.out, &reference, answer.run.as_ref(), &said)?;
    Ok(exit::DONE)
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
