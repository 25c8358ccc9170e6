//! `agents drain`, `resume` and `label`: what an operator decides about a host. It holds until it is taken back, over
//! restarts of the coordinator and of the agent.

use std::collections::BTreeSet;
use std::time::Duration;

use orch_proto::codes::ErrorCode;
use orch_proto::v1::{Agent, AgentState, LabelAgentRequest};

use super::{names, tell};
use crate::args::Format;
use crate::args::fleet::{DrainArgs, LabelArgs, RemoveArgs, ResumeArgs};
use crate::args::parse::LabelChange;
use crate::client::Client;
use crate::client::events::Frame;
use crate::commands::{bulk, shown};
use crate::exit;
use crate::failure::{Failure, Outcome};
use crate::output::figures::plural;
use crate::output::safe::one_line;
use crate::output::view::storage::RemovedAgentView;
use crate::session::Session;

/// How often an agent is asked about though no event came: what it runs may end in ways that tell only its run.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Longest text told.
const TOLD: usize = 300;

/// `orchctl agents drain`.
pub(super) async fn drain(session: &Session, args: &DrainArgs) -> Outcome {
    let client = session.client()?;
    let reason = args.reason.as_deref().unwrap_or_default();
    let (agents, code) = bulk::each(session, &args.names, async |name| {
        // Who waits for a drain that somebody else began does not take its reason away.
        if args.reason.is_none() {
            match drained(&client, name).await {
                Ok(Some(agent)) => return Ok(agent),
                Ok(None) => {}
                Err(failure) => return steered(&client, name, Err(failure)).await,
            }
        }
        steered(&client, name, client.drain(name, reason).await).await
    })
    .await?;
    for agent in agents.iter().filter(|agent| !args.wait && !agent.running.is_empty()) {
        let tasks = plural(agent.running.len() as u64, "task");
        session.out.hint(&format!(
            "  {tasks} on {} {}; --wait waits for the end, orchctl cancel REF stops one",
            one_line(&agent.name, TOLD),
            if agent.running.len() == 1 { "goes on" } else { "go on" },
        ));
    }
    let agents = if args.wait { idle(session, &client, agents).await? } else { agents };
    tell(&session.out, &agents, |agent| {
        let left = match agent.running.len() {
            0 => "runs nothing".to_owned(),
            1 => "still runs 1 task".to_owned(),
            tasks => format!("still runs {tasks} tasks"),
        };
        let name = one_line(&agent.name, TOLD);
        format!("{name} takes no new work and {left}: {}", one_line(&agent.drain_reason, TOLD))
    })?;
    Ok(code)
}

/// The agent, if an operator has drained it.
async fn drained(client: &Client, name: &str) -> Outcome<Option<Agent>> {
    let agents = client.agents().await?;
    Ok(agents.into_iter().find(|agent| agent.name == name && !agent.drain_reason.is_empty()))
}

/// Waits until agents run nothing. One that is gone runs nothing that anybody could wait for.
async fn idle(session: &Session, client: &Client, agents: Vec<Agent>) -> Outcome<Vec<Agent>> {
    let mut waiting: BTreeSet<String> =
        agents.iter().filter(|agent| !agent.running.is_empty()).map(|agent| agent.name.clone()).collect();
    if waiting.is_empty() {
        return Ok(agents);
    }
    let mut watch = client.watch_all(client.status().await?.event_seq + 1);
    loop {
        let mut now = Vec::new();
        for agent in &agents {
            let agent = client.agent(&agent.name).await?;
            if waiting.contains(&agent.name) && agent.running.is_empty() {
                waiting.remove(&agent.name);
                session.out.note(&format!("  {} runs nothing any more", one_line(&agent.name, TOLD)));
            }
            if agent.state() == AgentState::Ready {
                let message = format!("{} was resumed while this waited", agent.name);
                return Err(Failure::new(exit::CONFLICT, message).help("orchctl agents show says by whom"));
            }
            now.push(agent);
        }
        if waiting.is_empty() {
            return Ok(now);
        }
        // Whatever comes, or does not come, is looked into.
        match tokio::time::timeout(LOOK_AGAIN, watch.next()).await {
            Ok(Ok(Some(Frame::Update(_) | Frame::Expired(_)) | None)) | Err(_) => {}
            Ok(Ok(Some(Frame::Lost(cause)))) => session.out.note(&format!("lost the coordinator ({cause})")),
            Ok(Err(failure)) => return Err(failure),
        }
    }
}

/// `orchctl agents resume`.
pub(super) async fn resume(session: &Session, args: &ResumeArgs) -> Outcome {
    let client = session.client()?;
    let (agents, code) = bulk::each(session, &args.names, async |name| {
        steered(&client, name, client.resume(name).await).await
    })
    .await?;
    tell(&session.out, &agents, |agent| {
        let name = one_line(&agent.name, TOLD);
        match agent.state() {
            AgentState::Draining => {
                format!("{name} still takes no new work: {}", one_line(&agent.detail, TOLD))
            }
            AgentState::Ready => format!("{name} takes work"),
            AgentState::Quarantined => {
                format!("{name} is in quarantine: {}", one_line(&agent.detail, TOLD))
            }
            AgentState::Unspecified | AgentState::Unreachable | AgentState::Offline => {
                format!("{name} will take work when it is back")
            }
        }
    })?;
    Ok(code)
}

/// `orchctl agents remove`.
pub(super) async fn remove(session: &Session, args: &RemoveArgs) -> Outcome {
    let client = session.client()?;
    let (removed, code) = bulk::each(session, &args.names, async |name| match client.forget(name).await {
        Ok(()) => Ok(RemovedAgentView { name: name.to_owned() }),
        Err(failure) => {
            let wrong = failure.code() == Some(ErrorCode::WrongState.code());
            let failure =
                bulk::explained(bulk::needs_admin(failure), name, async || names(&client).await).await;
            if wrong {
                let shown = one_line(name, TOLD);
                Err(failure.help(format!("orchctl agents drain {shown} --wait, then stop it on its host")))
            } else {
                Err(failure)
            }
        }
    })
    .await?;
    let out = &session.out;
    let said = |agent: &RemovedAgentView| format!("{} is forgotten", one_line(&agent.name, TOLD));
    match (out.format, removed.as_slice()) {
        (Format::Json | Format::Jsonl, [only]) => out.json(only)?,
        _ => shown::list(out, &removed, removed.iter().map(|agent| agent.name.as_str()), || {
            removed.iter().try_for_each(|agent| out.line(&said(agent)))
        })?,
    }
    Ok(code)
}

/// `orchctl agents label`.
pub(super) async fn label(session: &Session, args: &LabelArgs) -> Outcome {
    let client = session.client()?;
    let mut request =
        LabelAgentRequest { name: args.name.clone(), restore: args.restore, ..LabelAgentRequest::default() };
    for change in &args.changes {
        match change {
            LabelChange::Set(label) => request.set.push(label.clone()),
            LabelChange::Remove(key) => request.remove.push(key.clone()),
        }
    }
    if let Some(key) = request.set.iter().find_map(|label| {
        let key = label.split('=').next().unwrap_or_default();
        request.remove.iter().find(|removed| *removed == key)
    }) {
        return Err(Failure::usage(format!("{key} is both added and taken away"))
            .help("name each key once; what is taken away stays away until it is added again"));
    }
    let labelled = client.label(request).await.map_err(|failure| {
        let wrong = failure.code() == Some(ErrorCode::InvalidField.code());
        let name = one_line(&args.name, TOLD);
        if wrong {
            failure.without_place().help(format!("orchctl agents show {name} says what it offers"))
        } else {
            failure
        }
    });
    let agent = steered(&client, &args.name, labelled).await?;
    tell(&session.out, std::slice::from_ref(&agent), |agent| {
        let offers = one_line(&agent.capabilities.join(" "), TOLD);
        let hidden = match agent.hidden.as_slice() {
            [] => String::new(),
            hidden => format!("; hidden: {}", one_line(&hidden.join(" "), TOLD)),
        };
        let name = one_line(&agent.name, TOLD);
        format!("{name} offers {}{hidden}", if offers.is_empty() { "nothing" } else { &offers })
    })?;
    Ok(exit::DONE)
}

/// What an operator's call came to, with advice if it failed.
async fn steered(client: &Client, name: &str, called: Outcome<Agent>) -> Outcome<Agent> {
    match called {
        Ok(agent) => Ok(agent),
        Err(failure) => {
            let failure = bulk::needs_admin(failure);
            Err(bulk::explained(failure, name, async || names(client).await).await)
        }
    }
}
