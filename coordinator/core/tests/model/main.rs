//! Random events against named invariants: agents that come, go, lie and repeat themselves, clients that change their
//! minds, a coordinator that is killed between any two events and loads what it wrote.
//! After the faults stop, everything must end.
//!
//! 256 cases; `PROPTEST_CASES=20000` for a long look.
#![expect(unreachable_pub, reason = "a test binary has no outside")]
#![expect(clippy::expect_used, reason = "a test stops at what it did not expect")]

mod fleet;
mod history;
mod limits;
mod ops;
mod shapes;
mod store;
#[path = "../support/mod.rs"]
mod support;
mod world;

use ops::Op;
use proptest::collection::vec;
use proptest::prelude::*;
use shapes::Parts;
use world::World;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_every_rule_holds_and_in_the_end_everything_ends(ops in vec(ops::any_op(), 1..120)) {
        let mut world = World::new();
        for op in ops {
            world.play(op);
        }
        world.replay();
        world.heal();
        world.replay();
        world.desert();
    }
}

#[test]
fn a_quiet_world_plans_asks_and_carries_out() {
    for (planning, expected) in
        [(1, vec!["succeeded"; 3]), (2, vec!["succeeded"; 3]), (3, vec!["succeeded", "skipped"])]
    {
        let mut world = World::new();
        let parts = Parts { planning, ..Parts::default() };
        world.play(Op::Submit { tasks: vec![ops::plain(0)], parts, request: 0 });
        world.heal();
        assert_eq!(world.outcomes(), expected);
        world.replay();
    }
}

#[test]
fn a_quiet_world_heals_into_success() {
    let mut world = World::new();
    let tasks = vec![ops::plain(0), ops::plain(1), ops::plain(3)];
    world.play(Op::Submit { tasks, parts: Parts::default(), request: 0 });
    world.heal();
    assert_eq!(world.outcomes(), ["succeeded", "succeeded", "succeeded"]);
}
