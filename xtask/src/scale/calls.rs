//! Every harmless call on a fleet at work. Refuses to know which calls there are: `orchctl bench calls` does.

use super::stage::{Coordinator, Stage};
use crate::measure::results::Sample;

pub(super) fn measure(stage: &Stage<'_>) -> anyhow::Result<Sample> {
    let coordinator = Coordinator::start(stage)?;
    let (agents, times) = (stage.count(100, 10).to_string(), stage.count(100, 5).to_string());
    coordinator.bench(&["calls", "--agents", &agents, "--tasks", &times])
}
