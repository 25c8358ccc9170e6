//! `agents scale-hint`: how many more slots would start something now. What waits for limits, budgets, one agent,
//! dependencies or a reset is no reason for more, and is told apart.

use orch_proto::v1::{AgentState, ClusterStatus};
use schemars::JsonSchema;
use serde::Serialize;

use crate::commands::shown;
use crate::exit;
use crate::failure::{Failure, Outcome};
use crate::output::figures::plural;
use crate::session::Session;

/// What an autoscaler wants to know.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ScaleHintView {
    /// Ready tasks that another slot that fits would start: `orch_pending_slots`.
    pending_slots: u64,
    /// Free slots of agents that take work.
    free_slots: u32,
    /// Slots of agents that take work.
    slots: u32,
    /// Agents that take work.
    agents: u32,
    /// Slots to add now.
    suggested_slots: u64,
    /// The same in agents like those that take work; of one slot where there is none.
    suggested_agents: u64,
    /// Tasks that more slots would not start, by what they wait for.
    excluded: ExcludedView,
}

/// What waits for something else.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ExcludedView {
    limits: u64,
    budgets: u64,
    /// One agent, by name or because it keeps the conversation.
    agent: u64,
    /// What no known agent offers.
    capability: u64,
    dependencies: u64,
    retry: u64,
    parked: u64,
}

impl ScaleHintView {
    fn of(status: &ClusterStatus) -> Outcome<Self> {
        let Some(demand) = &status.demand else {
            return Err(Failure::new(exit::FAILED, "this coordinator does not tell what its tasks wait for")
                .help("it is older than this orchctl: upgrade it"));
        };
        let ready = status.agents.iter().find(|count| count.state() == AgentState::Ready);
        let agents = ready.map_or(0, |count| count.count);
        let each = u64::from(demand.slots).checked_div(u64::from(agents)).unwrap_or(0).max(1);
        Ok(Self {
            pending_slots: demand.pending_slots,
            free_slots: demand.free_slots,
            slots: demand.slots,
            agents,
            suggested_slots: demand.pending_slots,
            suggested_agents: demand.pending_slots.div_ceil(each),
            excluded: ExcludedView {
                limits: demand.limits,
                budgets: demand.budgets,
                agent: demand.pinned,
                capability: demand.impossible,
                dependencies: status.blocked,
                retry: status.waiting_retry,
                parked: demand.parked,
            },
        })
    }

    fn line(&self) -> String {
        let mut line = if self.suggested_slots == 0 {
            format!("no more slots: {} of {} are free", self.free_slots, self.slots)
        } else {
            format!(
                "{} more ({}): so many tasks wait for a slot, {} of {} are free",
                plural(self.suggested_slots, "slot"),
                plural(self.suggested_agents, "agent"),
                self.free_slots,
                self.slots
            )
        };
        let excluded = [
            (self.excluded.limits, "limits"),
            (self.excluded.budgets, "budgets"),
            (self.excluded.agent, "one agent"),
            (self.excluded.capability, "what no agent offers"),
            (self.excluded.dependencies, "dependencies"),
            (self.excluded.retry, "their next try"),
            (self.excluded.parked, "a reset, parked"),
        ];
        let excluded: Vec<_> = excluded
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} for {what}"))
            .collect();
        if !excluded.is_empty() {
            line.push_str("; not counted, waiting: ");
            line.push_str(&excluded.join(", "));
        }
        line
    }
}

/// `orchctl agents scale-hint`.
pub(super) async fn run(session: &Session) -> Outcome {
    let out = &session.out;
    let hint = ScaleHintView::of(&session.client()?.status().await?)?;
    shown::one(out, &hint, &hint.suggested_agents.to_string(), || out.line(&hint.line()))?;
    Ok(exit::DONE)
}
