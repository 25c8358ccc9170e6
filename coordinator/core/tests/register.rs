//! Submits, request ids, limits, and what is forgotten when.
#![expect(
    clippy::expect_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test stops at what it did not expect"
)]

mod support;

use orch_core::Config;
use orch_core::effect::Write;
use orch_core::event::{Event, Submit};
use orch_core::ids::{RunId, TenantId};
use orch_core::outcome::Outcome;
use orch_core::query::{Answer, Query, Refusal, RunView};
use orch_core::state::{RestoredRun, RestoredTask};
use orch_core::time::Span;
use std::collections::BTreeMap;
use support::*;

fn submitted(answer: Answer) -> (Option<RunView>, bool) {
    match answer {
        Answer::Submitted { run, existing, .. } => (run, existing),
        other => panic!("not submitted: {other:?}"),
    }
}

fn keyed(submit: &mut Submit) {
    submit.request_id = "key".into();
}

/// Submits one task and ends it well.
fn finished(env: &mut Env) -> u64 {
    let run = env.submit("a");
    env.report("box-1", &format!("{run}/a#1"), Outcome::OK);
    run
}

#[test]
fn runs_of_a_name_are_numbered_and_ids_rise() {
    let mut env = Env::new();
    let named = |env: &mut Env, name: &str, tenant: u32| {
        let change = |submit: &mut Submit| {
            submit.name = name.into();
            submit.tenant = TenantId(tenant);
        };
        let (run, _) = submitted(env.submit_as(change, "a"));
        let run = run.expect("a run");
        format!("{} {}", run.id, run.run_ref)
    };
    let refs = [("x", 1), ("x", 1), ("y", 1), ("x", 2)].map(|(name, tenant)| named(&mut env, name, tenant));
    assert_eq!(refs, ["1 x/1", "2 x/2", "3 y/1", "4 x/1"]);
}

#[test]
fn a_repeated_request_finds_its_run_and_another_content_is_refused() {
    let mut env = Env::new();
    let (first, existing) = submitted(env.submit_as(keyed, "a"));
    assert!(!existing);
    let (again, existing) = submitted(env.submit_as(keyed, "a"));
    assert!(existing);
    assert_eq!(first.expect("a run").id, again.expect("a run").id);
    let other = |submit: &mut Submit| {
        keyed(submit);
        submit.spec_digest = [8; 32];
    };
    let Answer::Refused(refusal) = env.submit_as(other, "b") else { panic!("not refused") };
    assert_eq!(refusal.to_string(), "request id `key` was used for run adhoc/1 with another content");
    let elsewhere = |submit: &mut Submit| {
        other(submit);
        submit.tenant = TenantId(2);
    };
    assert!(!submitted(env.submit_as(elsewhere, "b")).1, "request ids of tenants are apart");
}

#[test]
fn a_request_is_known_while_draining_after_a_restart_and_after_its_run_left() {
    let mut env = Env::new();
    env.join("box-1", 1, "");
    submitted(env.submit_as(keyed, "a"));
    env.report("box-1", "1/a#1", Outcome::OK);
    let specs = BTreeMap::from([(RunId(1), tasks("a"))]);
    let mut again = Env::unstarted(reload(&env.state, &specs));
    again.now = env.now;
    again.apply(Event::Started { epoch: orch_core::ids::Epoch(2) });
    again.pass(Span::minutes(11));
    assert!(again.state.run_record(RunId(1)).is_none(), "it left the state");
    again.apply(Event::DrainStarted);
    let (run, existing) = submitted(again.submit_as(keyed, "a"));
    let run = run.expect("what is known of it");
    assert!(existing);
    assert_eq!((&*run.run_ref, run.state.word(), run.task_count), ("adhoc/1", "succeeded", 1));
}

#[test]
fn a_request_id_is_forgotten_after_7_days() {
    let mut env = Env::new();
    submitted(env.submit_as(keyed, "a"));
    env.pass(Span::days(7));
    assert!(!submitted(env.submit_as(keyed, "a")).1);
}

#[test]
fn a_check_makes_nothing() {
    let mut env = Env::new();
    env.join("box-1", 1, "");
    env.sent();
    let dry = |submit: &mut Submit| submit.validate_only = true;
    let Answer::Submitted { run, impossible, .. } = env.submit_as(dry, "a needs gpu=yes") else { panic!() };
    assert!(run.is_none());
    assert_eq!(impossible[0].reason, "needs gpu=yes, which no known agent offers");
    assert_eq!((env.sent(), env.written().len()), (String::new(), 1), "only the agent was written");
    assert_eq!(env.status().queued, 0);
    env.submit_as(keyed, "a");
    let keyed_dry = |submit: &mut Submit| {
        keyed(submit);
        dry(submit);
    };
    assert!(!submitted(env.submit_as(keyed_dry, "a")).1, "a check is no repetition");
    let Answer::Refused(refusal) = env.submit_as(dry, "a after b\nb after a") else { panic!() };
    assert_eq!(refusal.to_string(), "tasks wait for each other: a -> b -> a");
}

#[test]
fn circles_are_refused_by_name() {
    let mut env = Env::new();
    let Refusal::Cycle { path } = env.refused("x\na after b\nb after c,x\nc after a") else { panic!() };
    assert_eq!(path, ["a", "b", "c", "a"]);
    let ring: Vec<String> = (0..1_000).map(|task| format!("t{task} after t{}", (task + 1) % 1_000)).collect();
    let Refusal::Cycle { path } = env.refused(&ring.join("\n")) else { panic!() };
    assert_eq!((path.len(), &*path[10]), (21, "(981 more)"));
    assert_eq!(env.state.last_run(), RunId(0));
}

#[test]
fn a_full_queue_refuses_and_takes_again_when_something_ended() {
    let mut config = Config::new(rules());
    config.max_tasks = 3;
    let mut env = Env::with(config);
    env.join("box-1", 1, "");
    env.submit("a\nb after a");
    assert_eq!(env.refused("c\nd").to_string(), "3 tasks are queued already");
    env.report("box-1", "1/a#1", Outcome::OK);
    env.submit("c\nd");
}

#[test]
fn too_many_different_requirements_are_refused_until_their_runs_left() {
    let mut config = Config::new(rules());
    config.max_classes = 2;
    let mut env = Env::with(config);
    env.join("box-1", 4, "a=1 b=1 c=1");
    env.submit("x needs a=1\ny needs b=1");
    assert_eq!(env.refused("z needs c=1").to_string(), "2 different sets of requirements are queued already");
    env.submit("again needs a=1");
    env.report("box-1", "1/x#1", Outcome::OK);
    env.report("box-1", "1/y#1", Outcome::OK);
    env.pass_with_heartbeats(600, &["box-1"]);
    env.submit("z needs c=1");
}

#[test]
fn finished_runs_leave_after_ten_minutes_and_are_still_found() {
    let mut env = Env::new();
    env.join("box-1", 1, "");
    finished(&mut env);
    env.pass_with_heartbeats(595, &["box-1"]);
    assert_eq!(env.run(1).state.word(), "succeeded");
    env.pass_with_heartbeats(5, &["box-1"]);
    assert!(matches!(env.ask(Query::Run(run_target(1))), Answer::Refused(Refusal::RunNotLive)));
    assert_eq!(env.state.resolve(&run_target(1)), Some((RunId(1), false)));
    assert_eq!(env.state.resolve(&run_target(2)), None);
}

#[test]
fn above_the_limit_the_oldest_finished_runs_leave_early_but_not_at_once() {
    let mut config = Config::new(rules());
    config.max_finished = 2;
    let mut env = Env::with(config);
    env.join("box-1", 1, "");
    for _ in 0..4 {
        finished(&mut env);
    }
    let live = |env: &Env| (1..=4).filter(|run| env.state.run_record(RunId(*run)).is_some()).count();
    env.pass_seconds(9);
    assert_eq!(live(&env), 4);
    env.pass_seconds(1);
    assert_eq!(live(&env), 2);
}

#[test]
fn finished_runs_are_deleted_after_30_days_a_little_at_a_time() {
    let mut config = Config::new(rules());
    config.forget_keys = 4;
    let mut env = Env::with(config);
    env.join("box-1", 1, "");
    for _ in 0..4 {
        finished(&mut env);
    }
    env.written();
    env.pass(Span(Span::days(30).0 - 1_000));
    assert!(env.written().iter().all(|write| !matches!(write, Write::ForgetRun { .. })));
    let before = env.log.len();
    env.pass_seconds(2);
    let forgotten: Vec<(u64, Option<u64>)> = env
        .written()
        .into_iter()
        .filter_map(|write| match write {
            Write::ForgetRun { run, newest_of, .. } => Some((run.0, newest_of.map(|(_, number)| number))),
            Write::NewRun(_)
            | Write::Run(_)
            | Write::Expanded(_)
            | Write::Task { .. }
            | Write::Agent(_)
            | Write::ForgetAgent { .. }
            | Write::Request { .. }
            | Write::ForgetRequest { .. }
            | Write::Budget { .. }
            | Write::ForgetBudget { .. } => None,
        })
        .collect();
    assert_eq!(forgotten, [(1, None), (2, None), (3, None), (4, Some(4))]);
    let wakes = env.log[before..].iter().filter(|(_, event)| matches!(event, Event::TimePassed)).count();
    assert!((2..6).contains(&wakes), "two runs of two keys an event: {wakes}");
    assert_eq!(env.state.resolve(&run_target(4)), None);
    assert_eq!(env.submit("a"), 5, "numbers are not used again");
}

#[test]
fn a_run_read_back_from_the_store_can_be_tried_again() {
    let mut env = Env::new();
    env.join("box-1", 1, "");
    env.submit("a retries 0\nb after a");
    env.report("box-1", "1/a#1", TIMEOUT);
    let kept = recorded(&env, "a retries 0\nb after a");
    env.pass_with_heartbeats(600, &["box-1"]);
    assert!(matches!(env.retry("1", false), Answer::Refused(Refusal::RunNotLive)));
    env.apply(Event::RunRecalled(Box::new(RestoredRun { task_count: 1, ..kept.clone() })));
    assert!(matches!(env.retry("1", false), Answer::Refused(Refusal::RunNotLive)), "half a run is not taken");
    env.apply(Event::RunRecalled(Box::new(kept.clone())));
    env.apply(Event::RunRecalled(Box::new(kept)));
    let Answer::Retried { count, .. } = env.retry("1", false) else { panic!("not retried") };
    assert_eq!(count, 2);
    env.report("box-1", "1/a#2", Outcome::OK);
    env.report("box-1", "1/b#1", Outcome::OK);
    assert_eq!(env.run(1).state.word(), "succeeded");
}

/// Run 1 as its records say.
fn recorded(env: &Env, lines: &str) -> RestoredRun {
    let run = env.state.run_record(RunId(1)).expect("a live run");
    let tasks = tasks(lines).into_iter().map(|spec| {
        let key = env.key(&format!("1/{}", spec.id));
        let progress = env.state.task_record(key).expect("a task").to_progress();
        RestoredTask { spec, progress: Some(progress) }
    });
    RestoredRun {
        id: run.id,
        tenant: run.tenant,
        name: run.name.clone(),
        number: run.number,
        submitted_by: run.submitted_by.clone(),
        created: run.created,
        state: run.state,
        finished: run.finished,
        labels: Vec::new(),
        request_id: run.request_id.clone(),
        spec_digest: *run.spec_digest,
        outcome: run.outcome,
        shape: run.shape.clone(),
        detail: run.detail.clone(),
        task_count: run.task_count,
        dead: run.dead,
        tasks: tasks.collect(),
    }
}

#[test]
fn records_that_contradict_each_other_are_refused_by_name() {
    let mut env = Env::new();
    env.join("box-1", 1, "");
    env.submit("a retries 0\nb after a");
    env.report("box-1", "1/a#1", TIMEOUT);
    let good = recorded(&env, "a retries 0\nb after a");
    let load = |runs: &[RestoredRun]| {
        let mut state = orch_core::State::new(Config::new(rules()));
        runs.iter().for_each(|run| state.restore_run(run.clone()));
        state.finish_restore().map_err(|error| error.to_string())
    };
    assert_eq!(load(std::slice::from_ref(&good)), Ok(()));
    let error = |change: &dyn Fn(&mut RestoredRun)| {
        let mut bad = good.clone();
        change(&mut bad);
        load(&[bad]).expect_err("a contradiction")
    };
    assert_eq!(load(&[good.clone(), good.clone()]), Err("run 1 was restored twice".to_owned()));
    let twin = RestoredRun { id: RunId(2), ..good.clone() };
    assert_eq!(load(&[good.clone(), twin]), Err("runs 1 and 2 have the same name and number".to_owned()));
    assert_eq!(error(&|run| drop(run.tasks.pop())), "run 1 has 1 tasks, its record says 2");
    let endless = |run: &mut RestoredRun| run.tasks[0].spec.dependencies = vec![orch_core::ids::TaskIndex(1)];
    assert_eq!(error(&endless), "the graph of run 1 is damaged");
    let unended = |run: &mut RestoredRun| run.tasks[0].progress.as_mut().expect("progress").outcome = None;
    assert_eq!(error(&unended), "task 1/0 is failed without an outcome");
    let queued = |run: &mut RestoredRun| run.tasks[0].progress = None;
    assert!(error(&queued).starts_with("the restored state breaks a rule: "));
}

#[test]
fn a_task_costs_three_writes_beside_its_submit() {
    let mut env = Env::new();
    env.join("box-1", 1, "");
    env.submit("a\nb after a");
    for task in ["a", "b"] {
        env.accept("box-1", &format!("1/{task}#1"));
        env.report("box-1", &format!("1/{task}#1"), Outcome::OK);
    }
    let written = env.written();
    let of = |wanted: &str| {
        let key = env.key(wanted);
        written.iter().filter(|write| matches!(write, Write::Task { task, .. } if *task == key)).count()
    };
    assert_eq!(
        [of("1/a"), of("1/b")],
        [3, 3],
        "granted, accepted, recorded; that it became ready is not written"
    );
    assert_eq!(written.iter().filter(|write| matches!(write, Write::NewRun(_) | Write::Run(_))).count(), 2);
}

#[test]
fn pages_of_runs_go_down_from_an_id_and_may_be_of_one_name_or_state() {
    let mut env = Env::new();
    env.join("box-1", 1, "");
    finished(&mut env);
    env.submit("b");
    env.submit_as(|submit| submit.name = "other".into(), "c");
    env.submit_as(|submit| submit.tenant = TenantId(2), "d");
    let mut page = |below: Option<u64>, limit, states: &[orch_core::state::RunState], name: Option<&str>| {
        let query = Query::Runs {
            below: below.map(RunId),
            limit,
            states: states.to_vec(),
            name: name.map(Into::into),
        };
        match env.ask(query) {
            Answer::Runs(runs) => runs.iter().map(|run| run.id.0).collect::<Vec<_>>(),
            other => panic!("no page: {other:?}"),
        }
    };
    assert_eq!(page(None, 9, &[], None), [3, 2, 1]);
    assert_eq!(page(Some(3), 1, &[], None), [2]);
    assert_eq!(page(None, 9, &[orch_core::state::RunState::Succeeded], None), [1]);
    assert_eq!(page(None, 9, &[], Some("adhoc")), [2, 1]);
    assert!(page(None, 9, &[], Some("nobody")).is_empty());
}

#[test]
fn a_task_that_does_not_exist_is_answered_with_its_neighbours() {
    let mut env = Env::new();
    env.submit("evaluate-1\nevaluate-2");
    let Answer::Refused(refusal) = env.ask(Query::Task(target_of("1/evaluate1"))) else { panic!() };
    let Refusal::NoSuchTask { nearest, .. } = &refusal else { panic!("{refusal:?}") };
    assert_eq!(nearest, &["evaluate-1", "evaluate-2"]);
    let Answer::Refused(refusal) = env.ask(Query::Task(target_of("1"))) else { panic!() };
    assert_eq!(refusal.to_string(), "run adhoc/1 has 2 tasks: name one of them");
}

#[test]
fn figures_add_up() {
    let mut env = Env::new();
    env.submit("a\nb after a\nc");
    env.pass_seconds(3);
    let status = env.status();
    assert_eq!((status.queued, status.blocked, status.active_runs), (2, 1, 1));
    assert_eq!(status.oldest_wait, Some(Span::seconds(3)));
    env.join("box-1", 3, "");
    env.report("box-1", "1/a#1", API_ERROR);
    env.heartbeat("box-1", &["1/c#1"]);
    let status = env.status();
    assert_eq!((status.waiting_retry, status.running, status.slots, status.slots_used), (1, 1, 3, 1));
    assert_eq!(status.agents, [1, 0, 0, 0, 0]);
    assert_eq!(env.task("1/c").cost_micro_usd, 500, "what the agent said so far");
    env.cancel("1");
    assert_eq!(env.run(1).usage.cost_micro_usd, 1_500);
    assert!(env.run(1).usage.estimated);
}

#[test]
fn one_tenant_cannot_take_the_place_of_all_and_is_told_how_long_to_wait() {
    let mut config = Config::new(rules());
    (config.max_tasks, config.max_tenant_tasks) = (10, 4);
    let mut env = Env::with(config);
    env.submit("a\nb\nc");
    let refusal = env.refused("d\ne");
    let Refusal::TenantFull { limit: 4, retry_in } = refusal else { panic!("{refusal:?}") };
    assert_eq!(retry_in, Span::seconds(60), "nothing ends");
    let other = env.submit_as(|submit| submit.tenant = TenantId(2), "a\nb\nc\nd");
    assert!(matches!(other, Answer::Submitted { .. }), "{other:?}");
    // What ends makes room, and tells how fast there will be more.
    env.join("box", 3, "");
    for task in ["a", "b"] {
        env.report("box", &format!("1/{task}#1"), Outcome::OK);
    }
    env.submit("d\ne\nf");
    let refusal = env.refused("g");
    let Refusal::TenantFull { limit: 4, retry_in } = refusal else { panic!("{refusal:?}") };
    assert_eq!(retry_in, Span::seconds(30), "two a minute end");
}
