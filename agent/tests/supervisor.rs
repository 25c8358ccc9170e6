//! The supervisor with real processes: output, ends, limits, and that nothing is left behind.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use orch_agent::procfs;
use orch_agent::supervisor::client::{End, StartError, leftovers};
use orch_agent::supervisor::segments::Channel;
use orch_agent::supervisor::spec::{Limits, Secrets};
use orch_agent::supervisor::stop::{Rung, StopCause};
use orch_agent::supervisor::tree::signal_exactly;
use orch_agent::supervisor::wire::Event;
use rustix::process::Signal;
use support::{INTERRUPT, Place, see_through, until};

#[tokio::test]
async fn output_is_kept_in_numbered_segments_and_the_exit_is_recorded() {
    let place =
        Place::new("printf 0123456789; printf problem >&2; exit 3").limits(|limits| limits.segment_bytes = 4);
    let (events, record) = see_through(place.start().await).await;
    assert_eq!((record.code, record.signal, record.spawn_error.as_deref()), (Some(3), None, None));
    assert_eq!((record.stdout_len, record.stderr_len, record.drained), (10, 7, true));
    assert_eq!((place.stdout().as_str(), place.stderr().as_str()), ("0123456789", "problem"));
    for name in ["stdout.000002", "stderr.000001", "exit.json"] {
        assert!(place.spec.attempt_dir.join(name).exists(), "{name}");
    }
    assert!(matches!(events.first(), Some(Event::Hello { version: 1, .. })));
    assert!(matches!(events.last(), Some(Event::Ended(told)) if **told == record));
    assert_eq!(fs::read_dir(&place.spec.runtime_dir).unwrap().count(), 0, "socket and note are gone");
}

#[tokio::test]
async fn acknowledged_segments_are_deleted_and_the_one_being_written_stays() {
    let place = Place::new("printf 0123456789; while [ ! -e go ]; do sleep 0.05; done")
        .limits(|limits| limits.segment_bytes = 4);
    let mut supervised = place.start().await;
    place.until_stdout_has("9").await;
    for segment in [2, 0] {
        supervised.acknowledge(Channel::Stdout, segment).await;
    }
    let file = |number| Channel::Stdout.segment(&place.spec.attempt_dir, number);
    until("the first segment is gone", || !file(0).exists()).await;
    assert!(file(1).exists() && file(2).exists());
    fs::write(place.dir.path().join("go"), "").unwrap();
    assert_eq!(see_through(supervised).await.1.stdout_len, 10);
}

#[tokio::test]
async fn a_daemonised_grandchild_does_not_survive_the_end_of_the_child() {
    let place = Place::new(
        "(setsid sh -c 'sleep 601 & touch up; sleep 602' >/dev/null 2>&1 &)
         while [ ! -e up ]; do sleep 0.01; done; echo done",
    );
    let (_, record) = see_through(place.start().await).await;
    assert_eq!(record.code, Some(0));
    assert!(record.left_behind >= 2, "{record:?}");
    assert_eq!(record.survivors, 0);
    assert_eq!(place.processes(), []);
}

#[tokio::test]
async fn a_child_that_ignores_every_request_is_killed_with_its_tree() {
    let place =
        Place::new("trap '' TERM INT HUP; setsid sleep 603 & echo ready; while :; do sleep 604; done");
    let mut supervised = place.start().await;
    place.until_stdout_has("ready").await;
    supervised.stop(StopCause::Cancelled, Rung::Interrupt).await;
    let (_, record) = see_through(supervised).await;
    let stop = record.stop.unwrap();
    assert_eq!((stop.cause, stop.rung), (StopCause::Cancelled, Rung::TreeKill));
    assert_eq!(record.signal, Some(9));
    assert_eq!(place.processes(), []);
}

#[tokio::test]
async fn processes_that_keep_forking_are_hunted_down() {
    let place =
        Place::new("spawn() { while :; do (setsid sleep 605 &); done; }; spawn & spawn & echo ready; wait");
    let mut supervised = place.start().await;
    place.until_stdout_has("ready").await;
    until("the tree has grown", || place.processes().len() > 20).await;
    supervised.stop(StopCause::Cancelled, Rung::TreeKill).await;
    let (_, record) = see_through(supervised).await;
    assert_eq!(record.survivors, 0);
    assert_eq!(place.processes(), []);
}

#[tokio::test]
async fn the_ladder_is_climbed_in_order() {
    let script = "exec 3<&0; log() { echo \"$1\" >> order; }
        trap 'log INT' INT; trap 'log TERM' TERM
        (while read -r line <&3; do log \"line $line\"; done) &
        echo ready; while :; do sleep 606 & wait; done";
    let place = Place::new(script).conversation("hello\n");
    let mut supervised = place.start().await;
    place.until_stdout_has("ready").await;
    supervised.stop(StopCause::Timeout, Rung::Interrupt).await;
    let (_, record) = see_through(supervised).await;
    let order = fs::read_to_string(place.dir.path().join("order")).unwrap();
    assert_eq!(order, format!("line hello\nline {INTERRUPT}\nINT\nTERM\n"));
    assert_eq!(record.stop.unwrap().rung, Rung::TreeKill);
    assert_eq!(place.processes(), []);
}

#[tokio::test]
async fn an_interrupted_conversation_ends_after_its_result_without_a_signal() {
    let script = "read -r first; echo begun; read -r interrupt; \
                  echo '{\"type\":\"result\",\"is_error\":true}'; cat >/dev/null; exit 0";
    let place = Place::new(script).conversation("hello\n");
    let mut supervised = place.start().await;
    place.until_stdout_has("begun").await;
    supervised.stop(StopCause::Cancelled, Rung::Interrupt).await;
    let (events, record) = see_through(supervised).await;
    let stop = record.stop.unwrap();
    assert_eq!((stop.cause, stop.rung, stop.stdout_len), (StopCause::Cancelled, Rung::Interrupt, 6));
    assert_eq!((record.code, record.results), (Some(0), 1));
    assert!(events.contains(&Event::StdinClosed));
}

#[tokio::test]
async fn a_conversation_that_has_not_said_a_word_is_not_asked_but_told_to_end() {
    let place =
        Place::new("read -r first; touch ready; while :; do sleep 606 & wait; done").conversation("hello\n");
    let mut supervised = place.start().await;
    until("the child is there", || place.dir.path().join("ready").exists()).await;
    supervised.stop(StopCause::Cancelled, Rung::Interrupt).await;
    let (_, record) = see_through(supervised).await;
    assert_eq!((record.stop.unwrap().rung, record.results), (Rung::Term, 0));
    assert_eq!(place.processes(), []);
}

#[tokio::test]
async fn without_an_agent_the_dead_man_switch_ends_the_attempt() {
    let place = Place::new("setsid sleep 607 & echo ready; sleep 608")
        .limits(|limits| limits.stop_after_ms = Some(400));
    drop(place.start().await);
    until("the attempt is stopped", || place.spec.attempt_dir.join("exit.json").exists()).await;
    let record = orch_agent::supervisor::exit::ExitRecord::read(&place.spec.attempt_dir).unwrap().unwrap();
    assert_eq!(record.stop.unwrap().cause, StopCause::LostAgent);
    assert_eq!(place.processes(), []);
}

#[tokio::test]
async fn renewals_keep_an_attempt_alive() {
    let place = Place::new("sleep 3.2; echo done").limits(|limits| limits.stop_after_ms = Some(1_500));
    let mut supervised = place.start().await;
    let mut beat = tokio::time::interval(Duration::from_millis(100));
    loop {
        tokio::select! {
            _ = beat.tick() => supervised.renew(Duration::from_millis(1_500)).await,
            event = supervised.next_event() => if event.is_none() { break },
        }
    }
    let End::Recorded(record) = supervised.finish().await else { panic!("lost") };
    assert_eq!((record.stop, record.code), (None, Some(0)));
}

#[tokio::test]
async fn deadline_and_silence_have_their_own_causes() {
    let late = Place::new("while :; do echo x; sleep 0.05; done").limits(|limits| {
        limits.attempt_ms = Some(400);
        limits.silence_ms = Some(10_000);
    });
    let silent = Place::new("echo x; sleep 609").limits(|limits| {
        limits.attempt_ms = Some(10_000);
        limits.silence_ms = Some(400);
    });
    let ((_, late), (_, silent)) = tokio::join!(async { see_through(late.start().await).await }, async {
        see_through(silent.start().await).await
    });
    assert_eq!(late.stop.unwrap().cause, StopCause::Timeout);
    assert_eq!(silent.stop.unwrap().cause, StopCause::Hang);
}

#[tokio::test]
async fn a_child_that_never_begins_to_speak_has_its_own_cause() {
    let mute = Place::new("trap '' INT; echo noise >&2; sleep 625").conversation("hello");
    let mute = mute.limits(|limits| {
        limits.start_ms = Some(300);
        limits.silence_ms = Some(10_000);
    });
    let begun = Place::new("echo x; sleep 2; echo y").limits(|limits| limits.start_ms = Some(1_500));
    let ((_, mute), (_, begun)) = tokio::join!(async { see_through(mute.start().await).await }, async {
        see_through(begun.start().await).await
    });
    assert_eq!(mute.stop.unwrap().cause, StopCause::NoFirstEvent);
    assert_eq!((begun.stop, begun.code), (None, Some(0)));
}

#[tokio::test]
async fn a_conversation_that_closes_its_output_without_a_result_is_ended_and_a_program_is_not() {
    let script = "exec >&-; echo closed > closed; sleep 0.7; exit 7";
    let linger = |place: Place| place.limits(|limits| limits.linger_ms = 300);
    let silent = linger(Place::new(script).conversation("hello"));
    let program = linger(Place::new(script));
    let ((_, silent), (_, program)) =
        tokio::join!(async { see_through(silent.start().await).await }, async {
            see_through(program.start().await).await
        });
    assert_eq!(silent.stop.unwrap().cause, StopCause::ClosedOutput);
    assert_eq!((program.stop, program.code), (None, Some(7)));
}

/// Silent for longer than its limit, and ended by itself.
async fn outlives_its_silence_limit(script: &str, change: impl FnOnce(&mut Limits)) {
    let place = Place::new(script).conversation("hello").limits(|limits| {
        limits.silence_ms = Some(1_000);
        change(limits);
    });
    let (_, record) = see_through(place.start().await).await;
    assert_eq!((record.stop, record.code), (None, Some(5)), "{record:?}");
    assert!(record.duration_ms > 2_000, "{record:?}");
}

#[tokio::test]
async fn a_growing_session_file_is_life() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("p/s/subagents/agent-1.jsonl");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    let script = format!(
        "i=0; while [ $i -lt 30 ]; do i=$((i+1)); echo x >> {}; sleep 0.1; done; exit 5",
        file.display()
    );
    outlives_its_silence_limit(&script, |limits| limits.life_dir = Some(dir.path().to_owned())).await;
}

#[tokio::test]
async fn cpu_of_a_tool_is_life_and_that_of_the_cli_itself_is_not() {
    outlives_its_silence_limit("timeout 3 sh -c 'while :; do :; done'; exit 5", |_| ()).await;
    let spinning = Place::new("while :; do :; done")
        .conversation("hello")
        .limits(|limits| limits.silence_ms = Some(600));
    let (_, record) = see_through(spinning.start().await).await;
    assert_eq!(record.stop.unwrap().cause, StopCause::Hang);
}

#[tokio::test]
async fn a_tool_that_waits_without_cpu_is_silent() {
    let place =
        Place::new("sleep 626; exit 5").conversation("hello").limits(|limits| limits.silence_ms = Some(500));
    let (_, record) = see_through(place.start().await).await;
    assert_eq!(record.stop.unwrap().cause, StopCause::Hang);
}

#[tokio::test]
async fn a_tree_that_takes_too_much_memory_is_killed_and_its_peak_told() {
    const MOST: u64 = 64 * 1024 * 1024;
    let script = "head -c 200000000 /dev/zero | tail -c 200000000 | sleep 627";
    let place = Place::new(script).limits(|limits| limits.memory_bytes = Some(MOST));
    let (_, record) = see_through(place.start().await).await;
    let stop = record.stop.unwrap();
    assert_eq!((stop.cause, stop.rung), (StopCause::Memory, Rung::TreeKill));
    assert!(record.peak_memory_bytes > MOST && record.memory_limit_bytes == Some(MOST), "{record:?}");
    assert_eq!(place.processes(), []);
}

#[tokio::test]
async fn a_flood_is_stopped_at_the_limit_and_nothing_is_cut_silently() {
    const LIMIT: u64 = 8 * 1024 * 1024;
    let place = Place::new("trap '' TERM; cat /dev/zero").limits(|limits| limits.output_bytes = LIMIT);
    let (_, record) = see_through(place.start().await).await;
    let stop = record.stop.unwrap();
    assert_eq!((stop.cause, stop.rung), (StopCause::LimitOutput, Rung::TreeKill));
    assert!(record.stdout_len > LIMIT && record.stdout_len < LIMIT + 4 * 1024 * 1024, "{record:?}");
    assert_eq!(place.stdout().len() as u64, record.stdout_len);
}

#[tokio::test]
async fn secrets_reach_the_child_and_nothing_else() {
    let canary = "sk-canary-0123456789";
    let place = Place::new("echo \"$KEY\" | cut -c1-9; printf '%s' \"$KEY\"; echo \" $KEY\" >&2; sleep 0.3");
    let secrets = Secrets {
        env: BTreeMap::from([("KEY".to_owned(), canary.to_owned())]),
        redact: vec![canary.to_owned()],
        ..Secrets::default()
    };
    let supervised = place.start_with(&secrets).await;
    for file in ["cmdline", "environ"] {
        let bytes = match fs::read(format!("/proc/{}/{file}", supervised.supervisor_pid())) {
            // Better still: only root may look into a supervisor.
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => continue,
            read => read.unwrap(),
        };
        assert!(!String::from_utf8_lossy(&bytes).contains(canary), "{file} of the supervisor");
    }
    let (_, record) = see_through(supervised).await;
    assert_eq!(record.code, Some(0));
    assert_eq!(place.stdout(), format!("sk-canary\n{}", "*".repeat(canary.len())));
    assert_eq!(place.stderr(), format!(" {}\n", "*".repeat(canary.len())));
    for entry in fs::read_dir(&place.spec.attempt_dir).unwrap() {
        let path = entry.unwrap().path();
        assert!(!String::from_utf8_lossy(&fs::read(&path).unwrap()).contains(canary), "{}", path.display());
    }
}

#[tokio::test]
async fn a_finished_conversation_is_closed_by_the_supervisor_when_the_agent_is_away() {
    let place = Place::new("read -r x; echo '{\"type\":\"result\"}'; cat >/dev/null; echo closed")
        .conversation("hello");
    drop(place.start().await);
    until("the conversation ends", || place.spec.attempt_dir.join("exit.json").exists()).await;
    assert!(place.stdout().ends_with("closed\n"));
    let record = orch_agent::supervisor::exit::ExitRecord::read(&place.spec.attempt_dir).unwrap().unwrap();
    assert_eq!((record.stop, record.code, record.results), (None, Some(0), 1));
}

#[tokio::test]
async fn an_agent_may_say_more_after_a_result() {
    let script =
        "while read -r line; do echo \"{\\\"type\\\":\\\"result\\\",\\\"said\\\":\\\"$line\\\"}\"; done";
    let place = Place::new(script).conversation("one");
    let mut supervised = place.start().await;
    place.until_stdout_has("one").await;
    supervised.say("two".to_owned()).await;
    place.until_stdout_has("two").await;
    supervised.close_input().await;
    let (_, record) = see_through(supervised).await;
    assert_eq!((record.stop, record.code, record.results), (None, Some(0), 2));
}

#[tokio::test]
async fn a_child_that_does_not_leave_after_its_result_is_ended() {
    let place = Place::new("read -r x; echo '{\"type\":\"result\"}'; sleep 610")
        .conversation("hello")
        .limits(|limits| {
            limits.result_idle_ms = 100;
            limits.linger_ms = 200;
        });
    let (_, record) = see_through(place.start().await).await;
    let stop = record.stop.unwrap();
    assert_eq!(
        (stop.cause, stop.rung, stop.stdout_len),
        (StopCause::Lingering, Rung::Term, record.stdout_len)
    );
    assert_eq!(place.processes(), []);
}

#[tokio::test]
async fn a_program_that_is_not_there_is_named() {
    let mut place = Place::new("");
    place.spec.program = "/nonexistent/claude".into();
    let (_, record) = see_through(place.start().await).await;
    assert_eq!(record.code, Some(127));
    assert!(record.spawn_error.unwrap().starts_with("cannot execute /nonexistent/claude: "));
}

#[tokio::test]
async fn a_missing_directory_is_refused_before_anything_runs() {
    let mut place = Place::new("echo x");
    place.spec.cwd = "/nonexistent".into();
    let error = place.launcher.start(&place.spec, &Secrets::default()).await.unwrap_err();
    assert!(
        matches!(&error, StartError::Refused(why) if why.contains("cannot start the child")),
        "{error:?}"
    );
    assert_eq!(fs::read_dir(&place.spec.runtime_dir).unwrap().count(), 0);
}

#[tokio::test]
async fn an_attempt_has_at_most_one_supervisor() {
    let place = Place::new("echo ready; sleep 611");
    let mut first = place.start().await;
    let error = place.launcher.start(&place.spec, &Secrets::default()).await.unwrap_err();
    assert!(matches!(error, StartError::AlreadyRunning { pid } if pid == first.supervisor_pid()));
    first.stop(StopCause::Cancelled, Rung::TreeKill).await;
    see_through(first).await;
}

#[tokio::test]
async fn when_the_supervisor_is_killed_its_child_and_its_tools_die_too() {
    let place = Place::new("setsid sleep 612 & echo ready; sleep 613");
    let mut supervised = place.start().await;
    place.until_stdout_has("ready").await;
    let pid = supervised.supervisor_pid();
    signal_exactly(pid, procfs::read_stat(pid).unwrap().start_ticks, Signal::KILL).unwrap();
    while supervised.next_event().await.is_some() {}
    let End::Lost { detail } = supervised.finish().await else { panic!("not lost") };
    assert_eq!(detail, "the supervisor was lost: it ended without leaving word");
    assert_eq!(place.processes(), []);
}

#[tokio::test]
async fn a_lost_fork_server_ends_nothing_and_is_started_again() {
    let place = Place::new("echo ready; cat \"$GO\"; exit 7");
    let fifo = place.spec.attempt_dir.join("go");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let mut first = place;
    first.spec.env.insert("GO".to_owned(), fifo.to_str().unwrap().to_owned());
    let running = first.start().await;
    first.until_stdout_has("ready").await;
    let server = procfs::read_stat(running.supervisor_pid()).unwrap().ppid;
    let server = procfs::read_stat(server).unwrap();
    assert_eq!(server.comm, "orch-forks");
    signal_exactly(server.pid, server.start_ticks, Signal::KILL).unwrap();
    until("the server is gone", || procfs::read_stat(server.pid).is_none_or(|stat| stat.is_zombie())).await;

    let mut second = Place::new("exit 3");
    second.launcher = first.launcher.clone();
    second.spec.runtime_dir.clone_from(&first.spec.runtime_dir);
    let (_, record) = see_through(second.start().await).await;
    assert_eq!(record.code, Some(3));
    fs::write(&fifo, "go").unwrap();
    let (_, record) = see_through(running).await;
    assert_eq!(record.code, Some(7), "what the first server made goes on");
}

#[tokio::test]
async fn a_restarted_agent_ends_the_supervisors_it_finds_and_no_others() {
    let place = Place::new("setsid sleep 614 & echo ready; sleep 615");
    let frozen = Place::new("setsid sleep 616 & echo ready; sleep 617");
    let foreign = Place::new("echo ready; sleep 618");
    let (one, two, three) = (place.start().await, frozen.start().await, foreign.start().await);
    for each in [&place, &frozen, &foreign] {
        each.until_stdout_has("ready").await;
    }
    let stopped = two.supervisor_pid();
    signal_exactly(stopped, procfs::read_stat(stopped).unwrap().start_ticks, Signal::STOP).unwrap();
    drop((one, two));
    for each in [&place, &frozen] {
        let notes = leftovers::find(&each.spec.runtime_dir, &each.spec.owner).unwrap();
        let runtime_dir = each.spec.runtime_dir.clone();
        let ended = tokio::task::spawn_blocking(move || {
            leftovers::end_all(&runtime_dir, notes, Duration::from_secs(2))
        });
        let ended = ended.await.unwrap();
        assert_eq!(ended.len(), 1);
        assert!(ended[0].was_running);
        assert_eq!(ended[0].attempt_dir, each.spec.attempt_dir);
        assert_eq!(each.processes(), []);
        assert_eq!(fs::read_dir(&each.spec.runtime_dir).unwrap().count(), 0);
    }
    assert_eq!(leftovers::find(&foreign.spec.runtime_dir, &place.spec.owner).unwrap(), []);
    assert!(!foreign.processes().is_empty());
    drop(three);
}

#[tokio::test]
async fn figures_of_the_tree_are_recorded() {
    let place = Place::new("i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; sleep 0.6");
    let (_, record) = see_through(place.start().await).await;
    assert!(record.cpu_ms >= 50, "{record:?}");
    assert!(record.duration_ms >= 600, "{record:?}");
    assert!(record.peak_memory_bytes > 100_000, "{record:?}");
}
