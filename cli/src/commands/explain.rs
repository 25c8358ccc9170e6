//! `explain`: why a task is where it is, and what would move it.

use crate::args::Format;
use crate::args::work::ExplainArgs;
use crate::exit;
use crate::failure::Outcome;
use crate::output::figures::{short, span};
use crate::output::safe::one_line;
use crate::output::view::fleet::ExplainView;
use crate::output::words::{BAD, GOOD};
use crate::session::Session;

/// Longest sentence told.
const TOLD: usize = 500;

/// `orchctl explain`.
pub(crate) async fn run(session: &Session, args: ExplainArgs) -> Outcome {
    let out = &session.out;
    let client = session.client()?;
    let reference = client.resolve(&args.reference).await?.to_string();
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
