//! Who gets what: scenarios as lines of text, answers as the lines that were sent to agents.
#![expect(
    clippy::expect_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test stops at what it did not expect"
)]

mod support;

use orch_core::effect::Write;
use orch_core::event::{Event, RunTarget, Target};
use orch_core::ids::{Epoch, RunId, TenantId};
use orch_core::outcome::Outcome;
use orch_core::query::{Answer, Query};
use std::collections::BTreeMap;
use support::*;

/// Plays a scenario and returns what was granted and by which line.
///
/// `agent NAME SLOTS [CAPABILITY…]` joins, `leave NAME`, `submit TASK; TASK…`, `accept`, `ok`, `fail` `RUN/TASK#N`,
/// `load NAME MILLIS`, `pass SECONDS` with heartbeats of everybody who is there.
fn play(script: &str) -> String {
    let mut env = Env::new();
    let mut present: Vec<String> = Vec::new();
    let mut shown: Vec<String> = Vec::new();
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        match verb {
            "agent" => {
                let words: Vec<&str> = rest.splitn(3, ' ').collect();
                present.push(words[0].to_owned());
                env.join(words[0], words[1].parse().expect("slots"), words.get(2).unwrap_or(&""));
            }
            "leave" => {
                present.retain(|name| name != rest);
                env.leave(rest);
            }
            "submit" => {
                env.submit(&rest.replace(';', "\n"));
            }
            "accept" => {
                let agent = env.task(rest.split_once('#').expect("run/task#n").0).agent;
                env.accept(&agent, rest);
            }
            "ok" => end(&mut env, rest, Outcome::OK),
            "fail" => end(&mut env, rest, API_ERROR),
            "load" => {
                let (name, load) = rest.split_once(' ').expect("name and load");
                env.load.insert(name.to_owned(), load.parse().expect("a number"));
                env.heartbeat_all(name);
            }
            "pass" => {
                let names: Vec<&str> = present.iter().map(String::as_str).collect();
                env.pass_with_heartbeats(rest.parse().expect("seconds"), &names);
            }
            other => panic!("what is `{other}`?"),
        }
        let sent = env.sent();
        let grants: Vec<&str> = sent.lines().filter_map(|line| line.strip_prefix("grant ")).collect();
        if !grants.is_empty() {
            shown.push(format!("{verb}: {}", grants.join(", ")));
        }
    }
    shown.join("\n")
}

/// Ends an attempt on whatever agent it is.
fn end(env: &mut Env, attempt: &str, outcome: Outcome) {
    let task = attempt.split_once('#').expect("run/task#n").0;
    let agent = env.task(task).agent;
    env.report(&agent, attempt, outcome);
}

fn check(script: &str, expected: &str) {
    let expected: Vec<&str> = expected.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    assert_eq!(play(script), expected.join("\n"));
}

#[test]
fn work_is_spread_by_share_of_used_slots_then_load_then_name() {
    check(
        "agent small 2
         agent large 4
         submit a; b; c; d",
        "submit: large 1/a, small 1/b, large 1/c, large 1/d"
            .replace("1/a", "1/a#1")
            .replace("1/b", "1/b#1")
            .replace("1/c", "1/c#1")
            .replace("1/d", "1/d#1")
            .as_str(),
    );
    check(
        "agent a 1
         agent b 1
         load a 900
         load b 800
         submit x",
        "submit: b 1/x#1",
    );
    check(
        "agent b 1
         agent a 1
         submit x",
        "submit: a 1/x#1",
    );
}

#[test]
fn a_task_lands_only_where_everything_it_needs_is_offered() {
    check(
        "agent plain 4 runner=noop
         agent gpu 1 runner=noop gpu=yes
         submit a needs gpu=yes,runner=noop; b needs gpu=yes; c needs tpu=yes
         ok 1/a#1",
        "submit: gpu 1/a#1
         ok: gpu 1/b#1",
    );
}

#[test]
fn a_pinned_task_waits_for_its_agent_although_others_are_idle() {
    check(
        "agent box-1 1
         agent box-2 1
         submit a pin box-2; b pin box-2; c
         ok 1/a#1",
        "submit: box-2 1/a#1, box-1 1/c#1
         ok: box-2 1/b#1",
    );
    check(
        "agent box-1 1
         submit a pin box-2
         agent box-2 1",
        "agent: box-2 1/a#1",
    );
}

#[test]
fn a_free_slot_takes_the_best_of_all_classes_it_fits() {
    check(
        "agent box-1 1 gpu=yes disk=big
         submit now
         submit low needs gpu=yes prio 10
         submit high needs disk=big prio 100
         submit medium prio 50
         ok 1/now#1
         ok 3/high#1
         ok 4/medium#1",
        "submit: box-1 1/now#1
         ok: box-1 3/high#1
         ok: box-1 4/medium#1
         ok: box-1 2/low#1",
    );
}

#[test]
fn runs_take_turns_across_classes_too() {
    check(
        "agent box-1 1 gpu=yes
         submit a; b; c
         submit x needs gpu=yes; y
         ok 1/a#1
         ok 2/x#1
         ok 1/b#1
         ok 2/y#1",
        "submit: box-1 1/a#1
         ok: box-1 2/x#1
         ok: box-1 1/b#1
         ok: box-1 2/y#1
         ok: box-1 1/c#1",
    );
}

#[test]
fn a_run_that_comes_late_takes_turns_and_is_not_owed_the_past() {
    check(
        "agent box-1 1
         submit a; b; c; d; e
         ok 1/a#1
         ok 1/b#1
         submit x; y; z
         ok 1/c#1
         ok 2/x#1
         ok 1/d#1
         ok 2/y#1",
        "submit: box-1 1/a#1
         ok: box-1 1/b#1
         ok: box-1 1/c#1
         ok: box-1 2/x#1
         ok: box-1 1/d#1
         ok: box-1 2/y#1
         ok: box-1 1/e#1",
    );
}

#[test]
fn old_low_work_meets_fresh_high_work_after_twenty_minutes() {
    check(
        "agent box-1 1
         submit first
         accept 1/first#1
         submit low prio 10
         pass 1150
         ok 1/first#1
         submit x",
        "submit: box-1 1/first#1
         ok: box-1 2/low#1",
    );
    let mut env = Env::new();
    env.join("box-1", 1, "");
    env.submit("first");
    env.accept("box-1", "1/first#1");
    env.submit("low prio 10");
    env.pass_with_heartbeats(1_195, &["box-1"]);
    env.submit("a prio 100");
    env.submit("b prio 100");
    env.report("box-1", "1/first#1", Outcome::OK);
    assert_eq!(env.state_of("3/a"), "leased", "still above after 19 min 55 s");
    env.pass_with_heartbeats(5, &[]);
    env.report("box-1", "3/a#1", Outcome::OK);
    assert_eq!(env.state_of("2/low"), "leased", "level after 20 min, and its run had less");
}

#[test]
fn only_tasks_that_may_be_held_ahead_go_beyond_the_slots_and_spread_evenly() {
    check(
        "agent a 1
         agent b 2
         submit s prefetch 2; t prefetch 2; u prefetch 2; v prefetch 2; w prefetch 2; x prefetch 2; y prefetch 2; z prefetch 2
         submit plain
         ok 1/s#1",
        "submit: a 1/s#1, b 1/t#1, b 1/u#1, a 1/v#1, b 1/w#1, b 1/x#1, a 1/y#1
         ok: a 1/z#1",
    );
}

#[test]
fn a_retry_goes_back_to_the_agent_that_keeps_its_conversation() {
    check(
        "agent a 1 runner=claude
         agent b 1 runner=claude
         submit x needs runner=claude
         fail 1/x#1
         load a 5000
         pass 10",
        "submit: a 1/x#1
         pass: a 1/x#2",
    );
    check(
        "agent a 1 runner=noop
         agent b 1 runner=noop
         submit x needs runner=noop
         fail 1/x#1
         load a 5000
         pass 10",
        "submit: a 1/x#1
         pass: b 1/x#2",
    );
}

#[test]
fn a_retry_waits_30_seconds_for_that_agent_and_then_takes_any() {
    let script = |after: &str| {
        format!(
            "agent a 1 runner=claude
             submit x needs runner=claude
             fail 1/x#1
             submit y needs runner=claude
             accept 2/y#1
             agent b 1 runner=claude
             pass 30
             {after}"
        )
    };
    check(&script(""), "submit: a 1/x#1\nsubmit: a 2/y#1");
    check(&script("pass 10"), "submit: a 1/x#1\nsubmit: a 2/y#1\npass: b 1/x#2");
    check(&script("ok 2/y#1"), "submit: a 1/x#1\nsubmit: a 2/y#1\nok: a 1/x#2");
    check(&script("leave a"), "submit: a 1/x#1\nsubmit: a 2/y#1\nleave: b 1/x#2");
}

#[test]
fn what_a_hello_says_of_conversations_counts_more_than_who_ran_it_last() {
    let mut env = Env::new();
    env.join("a", 1, "runner=claude");
    env.submit("x needs runner=claude\ny needs runner=claude");
    let y = env.key("1/y");
    env.join_as("b", 1, "runner=claude", |hello| hello.conversations = vec![y]);
    assert_eq!(&*env.task("1/y").agent, "b");
    env.report("b", "1/y#1", API_ERROR);
    env.leave("b");
    env.join("c", 1, "runner=claude");
    env.join_as("b", 1, "runner=claude", |hello| hello.conversations = vec![y]);
    env.pass_with_heartbeats(10, &["a", "b", "c"]);
    assert_eq!(&*env.task("1/y").agent, "b");
}

#[test]
fn who_keeps_the_conversation_is_chosen_before_who_is_idler_or_comes_first() {
    let mut env = Env::new();
    env.join("z", 1, "runner=claude");
    env.submit("x needs runner=claude");
    env.report("z", "1/x#1", API_ERROR);
    let specs = BTreeMap::from([(RunId(1), tasks("x needs runner=claude"))]);
    env.leave("z");
    env.pass_seconds(10);
    let mut again = Env::unstarted(reload(&env.state, &specs));
    again.now = env.now;
    again.join("a", 1, "runner=claude");
    again.join("z", 1, "runner=claude");
    again.apply(Event::Started { epoch: Epoch(2) });
    assert_eq!(again.sent(), "welcome a\nwelcome z\ngrant z 1/x#2");
}

#[test]
fn a_crash_is_not_repeated_where_it_happened_if_another_agent_is_idle() {
    let mut env = Env::new();
    env.join("a", 1, "runner=claude");
    env.join("b", 1, "runner=claude");
    env.submit("x needs runner=claude");
    env.report("a", "1/x#1", CRASH);
    env.load.insert("b".to_owned(), 4_000);
    let (agent, _) = env.pass_until_granted("1/x", &["a", "b"]);
    assert_eq!(agent, "b");
}

#[test]
fn an_agent_of_the_whole_cluster_serves_tenants_in_turns() {
    let mut env = Env::new();
    let submit = |env: &mut Env, tenant: u32, lines: &str| {
        env.submit_as(|submit| submit.tenant = TenantId(tenant), lines);
    };
    submit(&mut env, 1, "a\nb");
    submit(&mut env, 1, "c\nd");
    submit(&mut env, 2, "x\ny");
    env.join_as("shared", 1, "", |hello| hello.tenant = TenantId(0));
    let mut order = Vec::new();
    for _ in 0..6 {
        let sent = env.sent();
        let granted =
            sent.lines().find_map(|line| line.strip_prefix("grant shared ")).expect("a grant").to_owned();
        let rest = granted.split_once('/').expect("run/task").1;
        order.push(rest.split_once('#').expect("task#n").0.to_owned());
        let attempt = env
            .written()
            .iter()
            .rev()
            .find_map(|write| match write {
                Write::Task { task, .. } => Some(*task),
                Write::NewRun(_)
                | Write::Run(_)
                | Write::Expanded(_)
                | Write::ForgetRun { .. }
                | Write::ForgetAgent { .. }
                | Write::Agent(_)
                | Write::Request { .. }
                | Write::ForgetRequest { .. }
                | Write::Budget { .. }
                | Write::ForgetBudget { .. } => None,
            })
            .expect("a task was written");
        let session = env.session("shared");
        let report = report(orch_core::ids::AttemptKey::new(attempt, 1), Outcome::OK);
        env.apply(Event::AttemptReported { session, report: Box::new(report) });
    }
    assert_eq!(order, ["a", "x", "c", "y", "b", "d"]);
}

#[test]
fn what_no_known_agent_offers_is_reported_at_once_and_stays_queued() {
    let mut env = Env::new();
    let reasons = |env: &mut Env, lines: &str| match env.submit_as(|_| {}, lines) {
        Answer::Submitted { impossible, .. } => {
            impossible.iter().map(|task| format!("{} {}", task.task_id, task.reason)).collect::<Vec<_>>()
        }
        other => panic!("not submitted: {other:?}"),
    };
    assert!(reasons(&mut env, "a needs gpu=yes\nb pin box-7").is_empty(), "no agent has joined yet");
    env.join("box-1", 1, "gpu=yes");
    env.join("box-2", 1, "disk=big");
    env.leave("box-1");
    assert!(reasons(&mut env, "a needs gpu=yes").is_empty(), "an agent that is away offers it");
    assert_eq!(
        reasons(
            &mut env,
            "a needs tpu=yes,gpu=yes\nb needs gpu=yes,disk=big\nc pin box-7\nd pin box-2 needs gpu=yes\ne"
        ),
        [
            "a needs tpu=yes, which no known agent offers",
            "b needs disk=big and gpu=yes, which no known agent offers together",
            "c is pinned to agent box-7, which is not known",
            "d needs gpu=yes, which agent box-2 does not offer",
        ]
    );
    assert_eq!(env.run(3).impossible.len(), 4);
    assert_eq!(env.status().impossible, 5, "with the one pinned to box-7 before");
    let (summary, _, impossible) = env.explain("3/a");
    assert!(impossible);
    assert_eq!(
        summary,
        "needs tpu=yes, which no known agent offers: it stays queued until such an agent joins"
    );
    env.join("box-9", 4, "tpu=yes gpu=yes");
    assert_eq!(env.state_of("3/a"), "leased");
}

#[test]
fn an_agent_that_changes_what_it_offers_is_sorted_anew() {
    check(
        "agent box-1 2 disk=big
         submit a needs gpu=yes; b needs disk=big; c needs disk=big,gpu=yes
         agent box-1 3 disk=big gpu=yes",
        "submit: box-1 1/b#1
         agent: box-1 1/b#1, box-1 1/a#1, box-1 1/c#1",
    );
}

#[test]
fn explanations_name_what_holds_a_task_back() {
    let mut env = Env::new();
    env.submit("a needs runner=noop\nb after a");
    let summary = |env: &mut Env, task: &str| env.explain(task).0;
    assert_eq!(summary(&mut env, "1/a"), "no agent has joined yet");
    assert_eq!(summary(&mut env, "1/b"), "waits for a (queued)");
    env.join("box-1", 1, "runner=noop");
    assert_eq!(summary(&mut env, "1/a"), "was given to box-1 0 s ago, which has not begun yet");
    env.accept("box-1", "1/a#1");
    env.submit("c needs runner=noop\nd needs runner=noop");
    assert_eq!(
        summary(&mut env, "2/c"),
        "waits for a slot: 1 of 1 slots of 1 agent are in use; 1 more of its kind wait"
    );
    env.pass_with_heartbeats(5, &["box-1"]);
    assert_eq!(summary(&mut env, "1/a"), "runs on box-1 for 5 s (attempt 1)");
    env.leave("box-1");
    env.pass_seconds(3);
    assert_eq!(
        summary(&mut env, "1/a"),
        "box-1 is unreachable, requeue in 17 s; now: orchctl retry --force adhoc/1/a"
    );
    assert_eq!(summary(&mut env, "2/c"), "no agent that fits takes work: box-1 is unreachable");
    env.cancel("2");
    env.join("box-1", 1, "runner=noop");
    env.report("box-1", "1/a#2", API_ERROR);
    let retry = summary(&mut env, "1/a");
    assert!(
        retry.starts_with("will be tried again in ") && retry.ends_with("now: orchctl retry adhoc/1/a"),
        "{retry}"
    );
    env.cancel("1");
    assert_eq!(summary(&mut env, "1/a"), "cancelled: not needed; again: orchctl retry adhoc/1/a");
    env.submit("e needs runner=noop\nf needs runner=noop");
    env.apply(Event::DrainStarted);
    let (_, reasons, _) = env.explain("3/f");
    assert!(reasons.iter().any(|reason| reason.kind == "drain" && !reason.satisfied), "{reasons:?}");
}

#[test]
fn explanations_name_rejections_and_conversations() {
    let mut env = Env::new();
    env.join("box-1", 1, "runner=claude");
    env.submit("a needs runner=claude");
    env.reject("box-1", "1/a#1");
    let spared = "not offered for a moment to box-1 (box-1 did not take it: disk is full)";
    assert_eq!(env.explain("1/a").0, spared);
    env.pass_with_heartbeats(30, &["box-1"]);
    env.report("box-1", "1/a#2", API_ERROR);
    env.submit("b needs runner=claude");
    env.accept("box-1", "2/b#1");
    env.pass_with_heartbeats(10, &["box-1"]);
    let waits = env.explain("1/a").0;
    assert!(
        waits.starts_with("waits up to ")
            && waits.ends_with("for box-1, which keeps its conversation and has no free slot"),
        "{waits}"
    );
}

#[test]
fn the_last_run_of_somebody_is_theirs() {
    let mut env = Env::new();
    env.submit("a");
    env.submit_as(|submit| submit.submitted_by = "client/default/you".into(), "b");
    let last = |env: &mut Env, who: &str| {
        let target = Target { tenant: ONE, run: RunTarget::LastOf(who.into()), task: None };
        match env.ask(Query::Run(target)) {
            Answer::Run(run) => run.run_ref.to_string(),
            other => format!("{other:?}"),
        }
    };
    assert_eq!(last(&mut env, "client/default/me"), "adhoc/1");
    assert_eq!(last(&mut env, "client/default/you"), "adhoc/2");
    assert_eq!(last(&mut env, "client/default/nobody"), "Refused(RunNotLive)");
}
