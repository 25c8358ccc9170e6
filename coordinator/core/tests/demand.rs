//! What ready tasks wait for: only what another slot would start is a wish for more.

mod support;

use orch_core::query::DemandView;
use support::*;

#[test]
fn only_tasks_that_another_slot_would_start_are_demand_and_each_counts_once() {
    let mut env = Env::new();
    env.join("box-1", 2, "");
    env.join("box-2", 1, "zone=b");
    env.submit("a\nb\nc\nd\ne\nlater after a\nnobody needs gpu=yes\nthere pin box-1\nzone needs zone=b");
    let status = env.status();
    assert_eq!((status.running, status.blocked, status.queued), (3, 1, 5));
    let expected = DemandView {
        pending_slots: 3,
        pinned: 1,
        impossible: 1,
        slots: 3,
        free_slots: 0,
        ..DemandView::default()
    };
    assert_eq!(status.demand, expected, "two of any agent, one of zone b");
}

#[test]
fn slots_of_an_agent_that_takes_no_work_are_not_counted() {
    let mut env = Env::new();
    env.join("box-1", 2, "");
    env.join("box-2", 3, "");
    assert_eq!((env.status().demand.slots, env.status().demand.free_slots), (5, 5));
    env.drain("box-2", "new kernel");
    env.submit("a\nb\nc");
    let demand = env.status().demand;
    assert_eq!((demand.slots, demand.free_slots, demand.pending_slots), (2, 0, 1));
}
