//! A sound history has no violation; each promise broken once is found, and nothing else is.

use super::*;

fn granted(attempt: u32, agent: &str) -> Event {
    Event::Granted { task: "r/1/t".into(), attempt, agent: agent.into() }
}

fn accepted(attempt: u32) -> Event {
    Event::Accepted { task: "r/1/t".into(), attempt }
}

fn recorded(attempt: u32, outcome: &str) -> Event {
    Event::Recorded { task: "r/1/t".into(), attempt, outcome: outcome.into() }
}

fn crashed(attempt: u32) -> Event {
    Event::Ended { task: "r/1/t".into(), attempt, crash: true }
}

fn fenced(attempt: u32) -> Event {
    Event::Fenced { task: "r/1/t".into(), attempt }
}

fn acknowledged(request: &str, run: &str) -> Event {
    Event::Acknowledged { request: request.into(), run: run.into() }
}

fn stored(request: &str, run: &str) -> Event {
    Event::Stored { run: run.into(), request: request.into(), ended: true }
}

fn chunk(reader: &str, offset: u64, bytes: u64) -> Event {
    Event::Chunk { reader: reader.into(), task: "r/1/t".into(), attempt: 1, offset, bytes }
}

/// A task that is lost once, decided by its second attempt, and read by two; the first attempt's report comes late.
fn sound() -> Vec<Event> {
    vec![
        Event::Submitted { request: "q1".into() },
        acknowledged("q1", "r/1"),
        granted(1, "a"),
        accepted(1),
        crashed(1),
        granted(2, "b"),
        accepted(2),
        fenced(1),
        Event::Reported { task: "r/1/t".into(), attempt: 2 },
        recorded(2, "ok"),
        fenced(1),
        chunk("x", 0, 10),
        chunk("y", 0, 5),
        chunk("x", 10, 3),
        stored("q1", "r/1"),
    ]
}

fn rules(events: &[Event]) -> Vec<&'static str> {
    check(events).into_iter().map(|violation| violation.rule).collect()
}

/// The sound history with one more event at the end.
fn then(event: Event) -> Vec<Event> {
    let mut events = sound();
    events.push(event);
    events
}

#[test]
fn a_sound_history_breaks_nothing() {
    assert_eq!(check(&sound()), []);
}

#[test]
fn an_acknowledged_run_that_is_not_stored_is_lost() {
    let events = then(acknowledged("q2", "r/2"));
    assert_eq!(rules(&events), [LOST]);
    let unfinished = Checker { complete: false, ..Checker::default() };
    assert_eq!(unfinished.check(&events), [], "a store that nobody looked at proves no loss");
}

#[test]
fn a_request_with_two_runs_is_found_whoever_tells_of_them() {
    assert_eq!(rules(&then(stored("q1", "r/2"))), [DOUBLE]);
    let mut events = then(acknowledged("q1", "r/2"));
    events.push(stored("", "r/2"));
    assert_eq!(rules(&events), [DOUBLE]);
    assert_eq!(rules(&then(stored("q1", "r/1"))), [DOUBLE], "one run listed twice");
}

#[test]
fn an_acknowledged_run_that_never_ends_is_stuck() {
    let mut events = then(acknowledged("q2", "r/2"));
    events.push(Event::Stored { run: "r/2".into(), request: "q2".into(), ended: false });
    assert_eq!(rules(&events), [STUCK]);
}

#[test]
fn a_second_result_is_found_unless_somebody_asked_for_it() {
    assert_eq!(rules(&then(recorded(2, "ok"))), [RECORDED_TWICE]);
    let mut events = then(Event::Retried { task: "r/1/t".into() });
    events.extend([granted(3, "a"), accepted(3), recorded(3, "ok")]);
    assert_eq!(check(&events), []);
}

#[test]
fn a_result_of_a_former_attempt_is_found() {
    let events = [granted(1, "a"), accepted(1), crashed(1), granted(2, "b"), accepted(2), recorded(1, "ok")];
    assert_eq!(rules(&events), [STALE]);
}

#[test]
fn an_attempt_that_is_granted_again_or_below_is_found() {
    assert_eq!(rules(&[granted(2, "a"), granted(2, "b")]), [FALLING]);
    assert_eq!(rules(&[granted(2, "a"), granted(1, "b")]), [FALLING]);
}

#[test]
fn a_result_or_report_before_acceptance_is_found() {
    assert_eq!(rules(&[granted(1, "a"), recorded(1, "ok")]), [UNACCEPTED]);
    let reported = Event::Reported { task: "r/1/t".into(), attempt: 1 };
    assert_eq!(rules(&[granted(1, "a"), reported]), [UNACCEPTED]);
    assert_eq!(
        rules(&[granted(1, "a"), recorded(1, "cancelled")]),
        [] as [&str; 0],
        "nobody's word is needed"
    );
}

#[test]
fn a_current_report_that_is_fenced_is_found() {
    assert_eq!(rules(&[granted(1, "a"), accepted(1), fenced(1)]), [FENCED_CURRENT]);
}

#[test]
fn poison_before_its_limit_is_found_and_at_it_is_not() {
    let life = |agents: &[&str]| {
        let mut events = Vec::new();
        for (attempt, agent) in (1..).zip(agents) {
            events.extend([granted(attempt, agent), accepted(attempt), crashed(attempt)]);
        }
        let last = u32::try_from(agents.len()).expect("few");
        events.push(recorded(last, "poison"));
        rules(&events)
    };
    assert_eq!(life(&["a", "b"]), [POISON_EARLY]);
    assert_eq!(life(&["a", "a", "a", "a"]), [POISON_EARLY], "one agent alone may be the culprit");
    assert_eq!(life(&["a", "b", "a"]), [] as [&str; 0]);
    assert_eq!(life(&["a", "a", "a", "a", "a"]), [] as [&str; 0]);
}

#[test]
fn a_gap_and_a_repetition_in_a_transcript_are_found() {
    assert_eq!(rules(&then(chunk("x", 14, 1))), [GAP]);
    assert_eq!(rules(&then(chunk("x", 12, 1))), [GAP]);
    assert_eq!(rules(&then(chunk("y", 5, 1))), [] as [&str; 0]);
}
