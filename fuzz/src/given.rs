//! What plans, workflows and specifications are checked against: the prompts that ship, and one agent that offers
//! everything a sample asks for.

use orch_coordinator::planning::{Catalogue, Known};
use orch_coordinator::prompts;
use orch_coordinator::submission::{CheckedPlanning, Given};
use orch_coordinator::workers::WorkersInForce;
use orch_coordinator::workflows::Workflows;
use orch_core::time::Wall;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

/// The prompts that ship.
pub static SHIPPED: LazyLock<prompts::Catalogue> =
    LazyLock::new(|| prompts::Catalogue::load(&[]).expect("the prompts that ship"));

/// The workflows that ship, on a day.
pub static IN_FORCE: LazyLock<Workflows> =
    LazyLock::new(|| Workflows::load(SHIPPED.workflow_files(), SHIPPED.names()).on("2026-11-21"));

static WORKERS: LazyLock<WorkersInForce> = LazyLock::new(|| WorkersInForce::new(SHIPPED.clone()));

static CATALOGUE: LazyLock<Catalogue> = LazyLock::new(|| {
    let known = WORKERS.list("", usize::MAX).into_iter();
    let known =
        known.map(|worker| (worker.name, Known { description: worker.description, ..Known::default() }));
    let offer: BTreeSet<String> =
        ["runner=claude", "runner=publish", "workspace=dance"].map(str::to_owned).into();
    Catalogue::new(known.collect(), vec![offer])
});

/// Looks at something with all that it is checked against.
pub fn with_given<T>(look: impl FnOnce(&Given<'_>) -> T) -> T {
    let conversations = BTreeMap::new();
    look(&Given {
        workers: &*WORKERS,
        catalogue: &CATALOGUE,
        submitted: Wall(0),
        conversations: &conversations,
    })
}

/// How a run is planned that a sample plan belongs to.
pub fn planning() -> CheckedPlanning {
    CheckedPlanning {
        approve: false,
        plan_only: false,
        max_tasks: 50,
        workers: Vec::new(),
        workspace: "dance".to_owned(),
    }
}
