//! `agents`: who is there, what they offer and what they do.

use jiff::Timestamp;
use orch_proto::v1::AgentState;

use super::tables;
use crate::args::Format;
use crate::exit;
use crate::failure::Outcome;
use crate::output::safe::one_line;
use crate::output::view::fleet::AgentView;
use crate::output::words::WARN;
use crate::session::Session;

/// Longest warning told.
const TOLD: usize = 300;

/// `orchctl agents`.
pub(crate) async fn run(session: &Session) -> Outcome {
    let out = &session.out;
    let agents = session.client()?.agents().await?;
    match out.format {
        Format::Json | Format::Jsonl => {
            out.json_list(&agents.iter().map(AgentView::from).collect::<Vec<_>>())?
        }
        Format::Name => agents.iter().try_for_each(|agent| out.line(&agent.name))?,
        Format::None => {}
        Format::Table if agents.is_empty() => out.note("no agent has ever connected"),
        Format::Table => {
            out.data(&tables::agents(&agents, Timestamp::now()).render(out.stdout()))?;
            for agent in &agents {
                // Of an agent that is well, the table has said it all.
                let details = Some(&agent.detail).filter(|_| agent.state() != AgentState::Ready);
                for text in details.into_iter().chain(&agent.warnings).filter(|text| !text.is_empty()) {
                    let line = format!("! {}: {}", agent.name, one_line(text, TOLD));
                    out.line(&out.paint(WARN, &line))?;
                }
            }
        }
    }
    Ok(exit::DONE)
}
