//! `explain`: why a task is where it is, and what would move it.

use orch_proto::codes::ErrorCode;
use orch_proto::outcome::OUTCOMES;

use crate::args::Format;
use crate::args::work::ExplainArgs;
use crate::client::Client;
use crate::exit;
use crate::failure::{Failure, Outcome};
use crate::output::figures::{short, span};
use crate::output::safe::one_line;
use crate::output::view::fleet::ExplainView;
use crate::output::words::{BAD, GOOD};
use crate::session::Session;

/// Longest sentence told.
const TOLD: usize = 500;

/// Says where to look if it is the name of something else that somebody wants explained.
async fn no_reference(client: &Client, name: &str, failure: Failure) -> Failure {
    if failure.code() != Some(ErrorCode::InvalidRef.code()) {
        return failure;
    }
    let named = |known: &str| known == name;
    if client.agents().await.is_ok_and(|agents| agents.iter().any(|agent| named(&agent.name))) {
        return failure.help(format!("it is an agent: orchctl agents show {name}"));
    }
    if client.workers().await.is_ok_and(|workers| workers.iter().any(|worker| named(&worker.name))) {
        return failure.help(format!("it is a worker: orchctl workers show {name}"));
    }
    let code = name.len() == 5 && name.starts_with('E');
    if code || OUTCOMES.iter().any(|outcome| named(outcome.word)) {
        return failure.help(format!("orchctl help {name}"));
    }
    failure
}

/// `orchctl explain`.
pub(crate) async fn run(session: &Session, args: ExplainArgs) -> Outcome {
    let out = &session.out;
    let client = session.client()?;
    let reference = match client.resolve(&args.reference).await {
        Ok(reference) => reference.to_string(),
        Err(failure) => return Err(no_reference(&client, &args.reference, failure).await),
    };
    let explained = client.explain(&reference).await?;
    match out.format {
        Format::Json | Format::Jsonl => out.json(&ExplainView::from(&explained))?,
        Format::Name => out.name(&reference)?,
        Format::None => {}
        Format::Table => {
            let since =
                span(explained.since).map(|since| format!(", for {}", short(since))).unwrap_or_default();
            out.line(&format!("{reference}: {}{since}", one_line(&explained.summary, TOLD)))?;
            for reason in &explained.reasons {
                let (glyph, style) = if reason.satisfied { ("✔", GOOD) } else { ("✗", BAD) };
                let text = one_line(&reason.text, TOLD);
                out.line(&format!(
                    "  {} {:<14} {text}",
                    out.paint(style, glyph),
                    one_line(&reason.kind, 40)
                ))?;
            }
            if !explained.help.is_empty() {
                out.hint(&format!("help: {}", one_line(&explained.help.replace("REF", &reference), TOLD)));
            }
        }
    }
    Ok(if explained.impossible { exit::IMPOSSIBLE } else { exit::DONE })
}
