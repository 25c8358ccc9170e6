//! What operators say of agents: no new work, other capabilities; at once, and until they say otherwise.

mod support;

use orch_core::event::Event;
use orch_core::outcome::Outcome;
use orch_core::query::{AgentStateView, Answer, Refusal};
use support::*;

const DRAINED: &str = "drained by admin/default/ana: new kernel";

fn help(env: &mut Env, task: &str, kind: &str) -> Option<String> {
    let (_, reasons, _) = env.explain(task);
    reasons.into_iter().find(|reason| reason.kind == kind && !reason.satisfied)?.help
}

#[test]
fn a_drained_agent_gets_nothing_new_and_what_it_runs_goes_on() {
    let mut env = Env::new();
    env.join("box-1", 2, "runner=noop");
    env.submit("a needs runner=noop");
    env.told();
    let Answer::Agent(agent) = env.drain("box-1", DRAINED) else { panic!("not drained") };
    assert_eq!((agent.state, agent.drain.as_deref()), (AgentStateView::Draining, Some(DRAINED)));
    assert_eq!(env.told(), "box-1 draining");
    env.sent();
    env.submit("b needs runner=noop");
    env.accept("box-1", "1/a#1");
    env.report("box-1", "1/a#1", Outcome::OK);
    assert_eq!(env.sent(), "verdict box-1 1/a#1 recorded");
    let (summary, _, impossible) = env.explain("2/b");
    assert_eq!(summary, format!("no agent that fits takes work: box-1 is {DRAINED}"));
    assert!(!impossible);
    assert_eq!(help(&mut env, "2/b", "drain").as_deref(), Some("orchctl agents resume box-1"));
    assert!(matches!(env.resume("box-1"), Answer::Agent(agent) if agent.drain.is_none()));
    assert_eq!(env.sent(), "grant box-1 2/b#1");
    assert_eq!(env.agent("box-1").state, AgentStateView::Ready);
}

#[test]
fn a_drain_holds_over_reconnects_restarts_of_the_agent_and_of_the_coordinator() {
    let mut env = Env::new();
    env.join("box-1", 1, "gpu=yes runner=noop");
    env.drain("box-1", DRAINED);
    env.label("box-1", "gpu rack=7");
    env.submit("a needs runner=noop");
    env.leave("box-1");
    env.join_as("box-1", 1, "gpu=yes runner=noop", |hello| hello.incarnation = [9; 16]);
    assert_eq!(env.state_of("1/a"), "queued");
    let state = reload(&env.state, &std::collections::BTreeMap::new());
    let mut env = Env::unstarted(state);
    env.apply(Event::Started { epoch: orch_core::ids::Epoch(2) });
    env.join("box-1", 1, "gpu=yes runner=noop");
    let agent = env.agent("box-1");
    assert_eq!((agent.state, agent.drain.as_deref()), (AgentStateView::Draining, Some(DRAINED)));
    let words: Vec<&str> = agent.capabilities.iter().map(|word| &**word).collect();
    assert_eq!(words, ["rack=7", "runner=noop"]);
}

#[test]
fn orders_about_an_agent_that_is_away_are_kept_for_it() {
    let mut env = Env::new();
    env.join("box-1", 1, "runner=noop");
    env.leave("box-1");
    env.drain("box-1", DRAINED);
    env.label("box-1", "gpu=yes");
    env.submit("a needs gpu=yes");
    env.join("box-1", 1, "runner=noop");
    assert_eq!(env.state_of("1/a"), "queued");
    env.resume("box-1");
    assert_eq!(env.state_of("1/a"), "leased");
}

#[test]
fn a_label_makes_waiting_tasks_possible_at_once() {
    let mut env = Env::new();
    env.join("box-1", 1, "runner=noop");
    env.submit("a needs gpu=yes,runner=noop");
    assert_eq!(env.status().impossible, 1);
    env.sent();
    let Answer::Agent(agent) = env.label("box-1", "gpu=yes") else { panic!("not labelled") };
    assert_eq!(agent.labels, ["gpu=yes".into()]);
    assert_eq!(env.sent(), "grant box-1 1/a#1");
    assert_eq!(env.written().iter().filter(|write| format!("{write:?}").starts_with("Agent")).count(), 2);
}

#[test]
fn taking_a_capability_away_stops_new_work_that_needs_it_and_explain_says_who_did() {
    let mut env = Env::new();
    env.join("box-1", 2, "gpu=yes runner=noop");
    env.submit("a needs gpu=yes");
    env.label("box-1", "gpu");
    assert_eq!(env.state_of("1/a"), "leased", "what it holds goes on");
    env.submit("b needs gpu=yes");
    env.submit("c needs gpu=yes pin box-1");
    let (summary, _, impossible) = env.explain("2/b");
    assert!(impossible);
    assert!(
        summary.starts_with("needs gpu=yes, which no known agent offers: an operator took it from box-1:"),
        "{summary}"
    );
    let wanted = Some("orchctl agents label box-1 gpu=yes");
    assert_eq!(help(&mut env, "2/b", "capability").as_deref(), wanted);
    assert_eq!(help(&mut env, "3/c", "capability").as_deref(), wanted);
    env.label("box-1", "!");
    assert_eq!([env.state_of("2/b"), env.state_of("3/c")], ["leased", "queued"]);
}

#[test]
fn what_only_an_agent_can_offer_gets_no_such_help() {
    let mut env = Env::new();
    env.join("box-1", 1, "runner=noop");
    env.submit("a needs pool=studio pin box-1");
    assert_eq!(help(&mut env, "1/a", "capability"), None);
}

#[test]
fn a_task_does_not_wait_for_an_agent_that_may_no_longer_run_it() {
    let mut env = Env::new();
    env.join("box-1", 1, "gpu=yes runner=claude");
    env.submit("a needs gpu=yes,runner=claude");
    env.report("box-1", "1/a#1", API_ERROR);
    env.submit("b needs runner=claude");
    env.accept("box-1", "2/b#1");
    env.pass_with_heartbeats(10, &["box-1"]);
    env.join("box-2", 1, "gpu=no runner=claude");
    assert_eq!(env.state_of("1/a"), "queued", "it waits for its conversation");
    env.label("box-1", "gpu");
    env.label("box-2", "gpu=yes");
    assert_eq!((env.state_of("1/a"), &*env.task("1/a").agent), ("leased", "box-2"));
}

#[test]
fn repeating_an_order_changes_and_writes_nothing() {
    let mut env = Env::new();
    env.join("box-1", 1, "runner=noop");
    env.drain("box-1", DRAINED);
    env.label("box-1", "gpu=yes");
    let written = env.written().len();
    assert_eq!(written, 3, "the agent, its drain, its label");
    env.told();
    env.drain("box-1", DRAINED);
    env.label("box-1", "gpu=yes");
    assert_eq!((env.written().len(), env.told()), (0, String::new()));
}

#[test]
fn an_agent_that_is_not_known_is_refused_with_the_nearest_name() {
    let mut env = Env::new();
    env.join("box-1", 1, "runner=noop");
    for answer in [env.drain("box-2", DRAINED), env.resume("box-l"), env.label("box1", "gpu=yes")] {
        let Answer::Refused(Refusal::NoSuchAgent { nearest, .. }) = answer else { panic!("{answer:?}") };
        assert_eq!(nearest, ["box-1"]);
    }
}

#[test]
fn labels_that_would_not_fit_the_record_are_refused_and_what_is_there_stays() {
    let mut env = Env::new();
    env.join("box-1", 1, "runner=noop");
    let long: Vec<String> = (0..20).map(|at| format!("key-{at}={}", "x".repeat(60))).collect();
    let answer = env.label("box-1", &long.join(" "));
    assert!(matches!(answer, Answer::Refused(Refusal::TooManyLabels { limit: 1_024, .. })), "{answer:?}");
    assert!(env.agent("box-1").labels.is_empty());
}
