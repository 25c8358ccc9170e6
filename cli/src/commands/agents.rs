//! `agents`: who is there, what they offer and what they do; and the verbs that steer them.

use orch_proto::v1::{Agent, AgentState};

use super::{bulk, shown, tables, watching};
use crate::args::Format;
use crate::args::fleet::{AgentsArgs, AgentsCommand, Watching};
use crate::client::Client;
use crate::exit;
use crate::failure::Outcome;
use crate::output::Out;
use crate::output::rows::Rows;
use crate::output::safe::one_line;
use crate::output::view::fleet::AgentView;
use crate::output::words::WARN;
use crate::session::Session;

mod scale;
mod show;
mod steer;
mod test;

pub(super) use scale::ScaleHintView;
pub(super) use show::login;
pub(super) use test::missing;

/// Longest warning told.
const TOLD: usize = 300;

/// `orchctl agents`.
pub(crate) async fn run(session: &Session, args: AgentsArgs) -> Outcome {
    match args.command.unwrap_or(AgentsCommand::List(args.list)) {
        AgentsCommand::List(watching) => list(session, watching).await,
        AgentsCommand::Show(args) => show::run(session, &args).await,
        AgentsCommand::Drain(args) => steer::drain(session, &args).await,
        AgentsCommand::Resume(args) => steer::resume(session, &args).await,
        AgentsCommand::Label(args) => steer::label(session, &args).await,
        AgentsCommand::Remove(args) => steer::remove(session, &args).await,
        AgentsCommand::Test(args) => Box::pin(test::run(session, &args)).await,
        AgentsCommand::ScaleHint => scale::run(session).await,
    }
}

async fn list(session: &Session, watching: Watching) -> Outcome {
    let client = session.client()?;
    watching::show(session, watching, async |out| print(out, &client.agents().await?)).await
}

fn print(out: &Out, agents: &[Agent]) -> Outcome {
    let views: Vec<_> = agents.iter().map(AgentView::from).collect();
    shown::list(out, &views, agents.iter().map(|agent| agent.name.as_str()), || {
        if agents.is_empty() {
            out.note("no agent has ever connected");
            return Ok(());
        }
        out.data(&tables::agents(agents, &out.times).render(out.stdout()))?;
        let mut notes = Rows::new(out.stdout(), 0);
        for (text, names) in warnings(agents) {
            let line = format!("! {}: {}", one_line(&bulk::listed(&names), TOLD), one_line(text, TOLD));
            notes.line(&out.paint(WARN, &line));
        }
        out.data(&notes.finish())?;
        if let Some(agent) = agents.iter().find(|agent| !agent.quarantine_reason.is_empty()) {
            let name = one_line(&agent.name, TOLD);
            out.hint(&format!("help: once {name} is well again: orchctl agents resume {name}"));
        }
        Ok(())
    })?;
    Ok(exit::DONE)
}

/// What wants attention, each with the agents that say it: of a fleet set up in one way they all say the same.
fn warnings(agents: &[Agent]) -> Vec<(&str, Vec<String>)> {
    let mut found: Vec<(&str, Vec<String>)> = Vec::new();
    for agent in agents {
        // Of an agent that is well, the table has said it all.
        let details = Some(&agent.detail).filter(|_| agent.state() != AgentState::Ready);
        // An agent that is away or drained as well says that first.
        let kept = Some(&agent.quarantine_reason).filter(|reason| !agent.detail.contains(reason.as_str()));
        for text in details.into_iter().chain(kept).chain(&agent.warnings).filter(|text| !text.is_empty()) {
            match found.iter_mut().find(|(known, _)| known == text) {
                Some((_, names)) => names.push(agent.name.clone()),
                None => found.push((text, vec![agent.name.clone()])),
            }
        }
    }
    found
}

/// One agent; a misspelt name gets a suggestion.
async fn fetch(client: &Client, name: &str) -> Outcome<Agent> {
    match client.agent(name).await {
        Ok(agent) => Ok(agent),
        Err(failure) => Err(bulk::explained(failure, name, async || names(client).await).await),
    }
}

/// Names of all agents.
async fn names(client: &Client) -> Outcome<Vec<String>> {
    Ok(client.agents().await?.into_iter().map(|agent| agent.name).collect())
}

/// The line of an agent that was steered.
fn tell(out: &Out, agents: &[Agent], said: impl Fn(&Agent) -> String) -> Outcome<()> {
    match (out.format, agents) {
        // Of one agent that was named, one value.
        (Format::Json | Format::Jsonl, [only]) => out.json(&AgentView::from(only)),
        _ => {
            let views: Vec<_> = agents.iter().map(AgentView::from).collect();
            shown::list(out, &views, agents.iter().map(|agent| agent.name.as_str()), || {
                agents.iter().try_for_each(|agent| out.line(&said(agent)))
            })
        }
    }
}
