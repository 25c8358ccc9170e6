//! The scripted CLI as a child process: what the runner relies on, path by path.

#![expect(clippy::expect_used, clippy::unwrap_used, reason = "helpers of a test panic like the test itself")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(30);
const ID: &str = "11111111-2222-4333-8444-555555555555";

/// A running CLI in a directory of its own.
struct Cli {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<Vec<u8>>,
    dir: tempfile::TempDir,
}

fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_standin-claude"));
    command.args(args).current_dir(dir).env_clear();
    command.env("PATH", "/usr/local/bin:/usr/bin:/bin").env("ORCH_STANDIN_DELAY_MS", "0");
    command.env("CLAUDE_CONFIG_DIR", dir.join("config"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

impl Cli {
    /// Starts it as the runner does.
    fn start(more: &[&str]) -> Self {
        let mut args =
            vec!["-p", "--output-format", "stream-json", "--input-format", "stream-json", "--verbose"];
        args.extend(["--model", "sonnet", "--setting-sources", "", "--strict-mcp-config"]);
        args.extend(["--permission-mode", "dontAsk", "--allowedTools", "Bash,Write,Read,Agent"]);
        args.extend(more);
        let dir = tempfile::tempdir().unwrap();
        let mut child = command(dir.path(), &args).stderr(Stdio::null()).spawn().unwrap();
        let (sender, lines) = sync_channel(1024);
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in stdout.split(b'\n') {
                let Ok(line) = line else { return };
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let stdin = child.stdin.take();
        Self { child, stdin, lines, dir }
    }

    fn send(&mut self, line: &Value) {
        writeln!(self.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    fn user(&mut self, text: &str) {
        self.send(&json!({"type": "user", "message": {"role": "user", "content": [{"type": "text", "text": text}]}}));
    }

    fn control(&mut self, id: &str, request: Value) {
        self.send(&json!({"type": "control_request", "request_id": id, "request": request}));
    }

    fn raw_line(&self) -> Vec<u8> {
        self.lines.recv_timeout(DEADLINE).expect("a line in time")
    }

    fn event(&self) -> Value {
        let line = self.raw_line();
        serde_json::from_slice(&line)
            .unwrap_or_else(|_| panic!("not JSON: {}", String::from_utf8_lossy(&line)))
    }

    /// Events up to and including the first that fits.
    fn until(&self, fits: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut seen = Vec::new();
        loop {
            seen.push(self.event());
            if fits(seen.last().unwrap()) {
                return seen;
            }
        }
    }

    fn turn(&self) -> Vec<Value> {
        self.until(|event| event["type"] == "result")
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Closes stdin, and gives what else is printed and the exit code.
    fn end(mut self) -> (Vec<Value>, Option<i32>) {
        self.stdin = None;
        self.exit()
    }

    fn exit(&mut self) -> (Vec<Value>, Option<i32>) {
        let mut rest = Vec::new();
        let deadline = Instant::now() + DEADLINE;
        loop {
            match self.lines.recv_timeout(Duration::from_millis(20)) {
                Ok(line) if line.is_empty() => {}
                Ok(line) => rest.push(serde_json::from_slice(&line).unwrap_or(Value::Null)),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => assert!(Instant::now() < deadline, "stdout stays open"),
            }
        }
        (rest, self.wait())
    }

    fn wait(&mut self) -> Option<i32> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "the process does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Cli {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The exit code and the output of a run with the prompt on stdin.
fn text_run(args: &[&str], stdin: &str) -> (Option<i32>, String, String) {
    let dir = tempfile::tempdir().unwrap();
    let mut child = command(dir.path(), args).spawn().unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Waits for a pid written to `path`.
fn pid_in(path: &Path) -> Pid {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let read = std::fs::read_to_string(path).ok().filter(|text| text.ends_with('\n'));
        if let Some(pid) = read.and_then(|text| Pid::from_raw(text.trim().parse().ok()?)) {
            return pid;
        }
        assert!(Instant::now() < deadline, "no pid in {}", path.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether the process runs: a zombie nobody has reaped does not.
fn runs(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    test_kill_process(pid).is_ok() && !stat.contains(") Z ")
}

fn wait_until_gone(pid: Pid) {
    let deadline = Instant::now() + DEADLINE;
    while runs(pid) {
        assert!(Instant::now() < deadline, "process {pid:?} lives on");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn types(events: &[Value]) -> Vec<String> {
    let name = |event: &Value| match event["subtype"].as_str() {
        Some(subtype) if event["type"] != "result" => subtype.to_owned(),
        _ => event["type"].as_str().unwrap_or("?").to_owned(),
    };
    events.iter().map(name).collect()
}

#[test]
fn a_turn_is_labelled_counted_and_followed_by_the_next_until_stdin_ends() {
    let mut cli = Cli::start(&["--session-id", ID]);
    cli.user(r#"one [[text {"text":"r1"}]]"#);
    let first = cli.turn();
    assert_eq!(types(&first), ["init", "assistant", "result"]);
    assert_eq!((&first[0]["orch_standin"], &first[0]["session_id"]), (&json!(true), &json!(ID)));
    assert!(first[0]["claude_code_version"].as_str().unwrap().ends_with(" (stand-in)"));
    assert_eq!((&first[2]["result"], &first[2]["num_turns"]), (&json!("r1"), &json!(1)));
    cli.user(r#"two [[text {"text":"r2","usage":{"input":1000,"output":0}}]]"#);
    let second = cli.turn().pop().unwrap();
    assert_eq!(second["usage"]["input_tokens"], 1000, "usage is the turn's own");
    assert_eq!(second["modelUsage"]["claude-sonnet-5"]["inputTokens"], 1100, "modelUsage is the process's");
    assert!((second["total_cost_usd"].as_f64().unwrap() - 0.0036).abs() < 1e-9);
    assert_eq!(cli.end(), (vec![], Some(0)));
}

#[test]
fn the_same_session_and_script_give_the_same_ids() {
    let ids = || {
        let mut cli = Cli::start(&["--session-id", ID]);
        cli.user(r#"[[tool {"name":"Bash","input":{"command":"true"}}]]"#);
        let turn = cli.turn();
        (
            turn[1]["message"]["id"].clone(),
            turn[1]["message"]["content"][0]["id"].clone(),
            turn[3]["uuid"].clone(),
        )
    };
    assert_eq!(ids(), ids());
}

#[test]
fn tools_act_in_the_working_directory_and_refusals_are_counted() {
    let mut cli = Cli::start(&[]);
    cli.user(
        r#"[[text {"text":"Writing."}]][[tool {"name":"Write","input":{"file_path":"a.txt","content":"hello\n"}}]]
           [[tool {"name":"Bash","input":{"command":"cat a.txt; echo err >&2; exit 3"}}]]
           [[tool {"name":"Edit","input":{"file_path":"a.txt","old_string":"h","new_string":"H"}}]]"#,
    );
    let turn = cli.turn();
    assert_eq!(
        types(&turn)[1..],
        ["assistant", "assistant", "user", "assistant", "user", "assistant", "user", "assistant", "result"]
    );
    assert_eq!(turn[1]["message"]["id"], turn[2]["message"]["id"], "a preamble is of the same message");
    assert_eq!(turn[5]["message"]["content"][0]["content"], "Exit code 3\nhello\nerr");
    assert_eq!(
        std::fs::read_to_string(cli.dir.path().join("a.txt")).unwrap(),
        "hello\n",
        "Edit was not allowed"
    );
    let result = turn.last().unwrap();
    assert_eq!(result["permission_denials"][0]["tool_name"], "Edit");
    assert_eq!((&result["is_error"], &result["num_turns"]), (&json!(false), &json!(4)));
}

#[test]
fn bash_runs_in_a_session_of_its_own() {
    let mut cli = Cli::start(&[]);
    cli.user(r#"[[tool {"name":"Bash","input":{"command":"cut -d' ' -f1,6 /proc/self/stat; echo $$"}}]]"#);
    let turn = cli.turn();
    let printed = turn[2]["message"]["content"][0]["content"].as_str().unwrap().to_owned();
    let (stat, shell) = printed.split_once('\n').unwrap();
    assert_eq!(stat.split(' ').nth(1).unwrap(), shell, "the shell leads the session: {printed}");
}

#[test]
fn a_sub_agent_has_its_own_events_and_counts_in_model_usage_only() {
    let agents = r#"{"worker":{"description":"works","prompt":"You work.","model":"haiku"}}"#;
    let mut cli = Cli::start(&["--agents", agents]);
    let inner = r#"w [[tool {"name":"Write","input":{"file_path":"o.txt","content":"made"}}]][[text {"text":"worker done"}]]"#;
    cli.user(&format!(
        "go [[agent {}]][[text {{\"text\":\"final\"}}]]",
        json!({"type": "worker", "prompt": inner})
    ));
    let turn = cli.turn();
    let expected = [
        "init",
        "assistant",
        "task_started",
        "user",
        "task_progress",
        "assistant",
        "user",
        "task_updated",
        "task_notification",
        "user",
        "assistant",
        "result",
    ];
    assert_eq!(types(&turn), expected);
    let call = &turn[1]["message"]["content"][0]["id"];
    assert_eq!((&turn[5]["parent_tool_use_id"], &turn[5]["subagent_type"]), (call, &json!("worker")));
    assert_eq!(turn[9]["message"]["content"][0]["content"][0]["text"], "worker done");
    let result = &turn[11];
    assert_eq!(result["usage"]["input_tokens"], 200);
    assert_eq!(result["modelUsage"]["claude-haiku-4-5-20251001"]["inputTokens"], 200);
    assert_eq!(std::fs::read_to_string(cli.dir.path().join("o.txt")).unwrap(), "made");
}

#[test]
fn structured_answers_are_checked_and_given_up_on_after_five_attempts() {
    let schema = r#"{"type":"object","properties":{"n":{"type":"integer","minimum":2}},"required":["n"]}"#;
    let mut cli = Cli::start(&["--json-schema", schema]);
    cli.user(r#"[[structured {"n":"x"}]][[structured {"n":3}]]"#);
    let good = cli.turn().pop().unwrap();
    assert_eq!((&good["structured_output"], &good["result"]), (&json!({"n": 3}), &json!("{\"n\":3}")));
    cli.user("please");
    assert_eq!(
        cli.turn().pop().unwrap()["structured_output"],
        json!({"n": 2}),
        "rehearsed: the minimal instance"
    );
    cli.user(r#"[[text {"text":"prose"}]]"#);
    let prose = cli.turn();
    assert!(prose.iter().any(|event| event["isSynthetic"] == true));
    assert!(prose.last().unwrap().get("structured_output").is_none());
    assert_eq!(prose.last().unwrap()["is_error"], false);
    cli.user(r#"[[loop {"name":"StructuredOutput","input":{}}]]"#);
    assert_eq!(cli.turn().pop().unwrap()["subtype"], "error_max_structured_output_retries");
}

#[test]
fn an_interrupt_request_kills_the_tool_and_the_process_takes_the_next_turn() {
    let mut cli = Cli::start(&[]);
    cli.user(r#"[[tool {"name":"Bash","input":{"command":"echo $$ > pid; sleep 600; true"}}]]"#);
    let tool = pid_in(&cli.dir.path().join("pid"));
    cli.control("i1", json!({"subtype": "interrupt"}));
    let turn = cli.turn();
    assert!(turn.contains(
        &json!({"type": "control_response", "response": {"subtype": "success", "request_id": "i1"}})
    ));
    let result = turn.last().unwrap();
    assert_eq!(
        (&result["subtype"], &result["terminal_reason"]),
        (&json!("error_during_execution"), &json!("aborted_tools"))
    );
    assert_eq!(result["num_turns"], 3);
    wait_until_gone(tool);
    cli.user("[[hang]]");
    cli.until(|event| event["subtype"] == "init");
    cli.control("i2", json!({"subtype": "interrupt"}));
    assert_eq!(cli.turn().pop().unwrap()["terminal_reason"], "aborted_streaming");
    cli.control("m", json!({"subtype": "set_model", "model": "haiku"}));
    cli.user("[[text]]");
    let last = cli.turn();
    assert!(last.iter().any(|event| event["model"] == "claude-haiku-4-5-20251001"));
    assert_eq!(cli.end().1, Some(0));
}

#[test]
fn sigint_ends_the_process_sigterm_leaves_the_tool_behind() {
    let mut cli = Cli::start(&[]);
    cli.user(r#"[[tool {"name":"Bash","input":{"command":"echo $$ > pid; sleep 600; true"}}]]"#);
    let tool = pid_in(&cli.dir.path().join("pid"));
    cli.signal(Signal::INT);
    assert_eq!(cli.turn().pop().unwrap()["subtype"], "error_during_execution");
    assert_eq!(cli.exit().1, Some(0));
    wait_until_gone(tool);

    let mut cli = Cli::start(&[]);
    cli.user(r#"[[tool {"name":"Bash","input":{"command":"echo $$ > pid; sleep 600; true"}}]]"#);
    let tool = pid_in(&cli.dir.path().join("pid"));
    cli.signal(Signal::TERM);
    let (rest, code) = cli.exit();
    assert_eq!((types(&rest).contains(&"result".to_owned()), code), (false, Some(143)));
    assert!(runs(tool), "the tool outlives TERM, as with the real one");
    let _ = rustix::process::kill_process_group(tool, Signal::KILL);

    let mut cli = Cli::start(&[]);
    cli.user("[[hang]]");
    cli.until(|event| event["subtype"] == "init");
    cli.signal(Signal::INT);
    assert_eq!(cli.exit(), (vec![], Some(0)), "no result while waiting for an answer");
}

#[test]
fn stdin_may_end_while_a_tool_runs_and_a_line_sent_meanwhile_joins_the_turn() {
    let mut cli = Cli::start(&[]);
    cli.user(r#"[[tool {"name":"Bash","input":{"command":"while [ ! -e go ]; do sleep 0.01; done"}}]][[text {"text":"one"}]]"#);
    cli.until(|event| event["type"] == "assistant");
    cli.user(r#"[[text {"text":"two"}]]"#);
    // Answered only after the line before it was read.
    cli.control("x", json!({"subtype": "nosuch"}));
    assert_eq!(cli.event()["response"]["subtype"], "error");
    std::fs::write(cli.dir.path().join("go"), "").unwrap();
    let (rest, code) = cli.end();
    let results: Vec<_> =
        rest.iter().filter(|event| event["type"] == "result").map(|event| event["result"].clone()).collect();
    assert_eq!((results, code), (vec![json!("one")], Some(0)));
}

#[test]
fn limits_end_a_turn_as_observed() {
    let mut cli = Cli::start(&["--max-turns", "2", "--max-budget-usd", "0.05"]);
    let tool = r#"[[loop {"name":"Bash","input":{"command":"echo hi"}}]]"#;
    cli.user(tool);
    let turns = cli.turn().pop().unwrap();
    assert_eq!((&turns["subtype"], &turns["num_turns"]), (&json!("error_max_turns"), &json!(3)));
    assert!(turns.get("result").is_none());
    cli.user(&format!("[[usage {{\"output\":4000}}]]{tool}"));
    assert_eq!(cli.turn().pop().unwrap()["subtype"], "error_max_budget_usd");
    cli.user("[[text]]");
    let refused = cli.turn().pop().unwrap();
    assert_eq!((&refused["subtype"], &refused["num_turns"]), (&json!("error_max_budget_usd"), &json!(1)));
    assert_eq!(cli.end().1, Some(1), "the last result decides the exit code");
}

#[test]
fn api_failures_are_successes_that_are_errors() {
    let mut cli = Cli::start(&[]);
    let mut result = |prompt: &str| {
        cli.user(prompt);
        let mut turn = cli.turn();
        (turn.pop().unwrap(), types(&turn).iter().filter(|name| *name == "api_retry").count())
    };
    let (limited, retries) = result(r#"[[error {"status":429}]]"#);
    assert_eq!(
        (&limited["subtype"], &limited["is_error"], &limited["api_error_status"]),
        (&json!("success"), &json!(true), &json!(429))
    );
    assert_eq!(retries, 10);
    assert_eq!(result(r#"[[error {"status":529}]]"#).0["api_error_status"], Value::Null);
    assert_eq!(
        result(r#"[[error {"status":429,"times":2}]][[text {"text":"at last"}]]"#).0["result"],
        "at last"
    );
    assert_eq!(result("[[refusal]]").0["stop_reason"], "refusal");
    assert_eq!(
        result("[[rate_limit {\"resets_at\":1795300000}]]").0["result"],
        "You've hit your limit · resets Nov 21, 10:26pm (UTC)"
    );
    assert_eq!(result("[[text]][[result {\"is_error\":true}]]").0["is_error"], true);
    assert_eq!(result("/nosuch x").0["num_turns"], 0);
}

#[test]
fn a_permission_question_is_asked_and_its_answer_obeyed() {
    let mut cli = Cli::start(&[
        "--permission-prompt-tool",
        "stdio",
        "--permission-mode",
        "default",
        "--disallowedTools",
        "Read",
    ]);
    for (answer, expected) in [
        (
            json!({"behavior": "allow", "updatedInput": {"file_path": "b.txt", "old_string": "x", "new_string": "y"}}),
            "<tool_use_error>File does not exist.</tool_use_error>",
        ),
        (json!({"behavior": "deny", "message": "policy says no"}), "policy says no"),
    ] {
        cli.user(r#"[[tool {"name":"Edit","input":{"file_path":"a.txt"}}]]"#);
        let asked = cli.until(|event| event["type"] == "control_request").pop().unwrap();
        assert_eq!(
            (&asked["request"]["subtype"], &asked["request"]["tool_name"]),
            (&json!("can_use_tool"), &json!("Edit"))
        );
        let response = json!({"subtype": "success", "request_id": asked["request_id"], "response": answer});
        cli.send(&json!({"type": "control_response", "response": response}));
        let turn = cli.turn();
        assert_eq!(turn[0]["message"]["content"][0]["content"], expected);
    }
    assert_eq!(cli.end().1, Some(0));
}

#[test]
fn partial_messages_come_in_the_order_of_the_api() {
    let mut cli = Cli::start(&["--include-partial-messages", "--replay-user-messages"]);
    cli.user(r#"[[text {"text":"some words to split"}]]"#);
    let turn = cli.turn();
    let names: Vec<_> = turn.iter().filter_map(|event| event["event"]["type"].as_str()).collect();
    assert_eq!(names.first(), Some(&"message_start"));
    assert_eq!(names.last(), Some(&"message_stop"));
    let text: String = turn.iter().filter_map(|event| event["event"]["delta"]["text"].as_str()).collect();
    assert_eq!(text, "some words to split");
    assert_eq!(turn[1]["isReplay"], true);
    let at = |wanted: &dyn Fn(&Value) -> bool| turn.iter().position(wanted).unwrap();
    assert!(at(&|e| e["type"] == "assistant") < at(&|e| e["event"]["type"] == "content_block_stop"));
}

#[test]
fn a_rehearsal_speaks_in_the_workers_voice_and_says_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let prompt_file = dir.path().join("system.txt");
    std::fs::write(&prompt_file, "You are Marie, a dance teacher. Ask Anga about code.").unwrap();
    let agents = r#"{"notes":{"description":"takes notes","prompt":"Take notes.","model":"haiku"}}"#;
    let mut cli = Cli::start(&["--system-prompt-file", prompt_file.to_str().unwrap(), "--agents", agents]);
    cli.user("\nEvaluate Léa's solo");
    let turn = cli.turn();
    let answer = turn.last().unwrap()["result"].as_str().unwrap().to_owned();
    assert!(
        answer.contains("rehearsal") && answer.contains("Léa's solo") && answer.contains("/100"),
        "{answer}"
    );
    assert!(types(&turn).contains(&"task_notification".to_owned()), "the sub-agent is rehearsed too");
}

#[test]
fn misbehaviour_happens_as_told() {
    let ended = |prompt: &str| {
        let mut cli = Cli::start(&[]);
        cli.user(prompt);
        let (events, code) = cli.exit();
        (types(&events), code)
    };
    let strings = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(ended("[[silent]]"), (vec![], Some(0)));
    assert_eq!(ended("[[text]][[no_result]]"), (strings(&["init", "assistant"]), Some(0)));
    assert_eq!(ended("[[exit {\"code\":7}]]"), (strings(&["init"]), Some(7)));
    assert_eq!(ended("[[signal {\"name\":\"SEGV\"}]]"), (strings(&["init"]), None));
    assert_eq!(ended("[[half_line {\"code\":2}]]"), (strings(&["init", "?"]), Some(2)));
    assert_eq!(ended("[[nosuch {}]]"), (vec![], Some(1)));
}

#[test]
fn a_stubborn_process_ignores_signals_requests_and_the_end_of_stdin() {
    let mut cli = Cli::start(&[]);
    cli.user(r#"[[ignore {"interrupt":true,"eof":true}]][[text]][[hang_after_result]]"#);
    cli.turn();
    cli.control("i", json!({"subtype": "interrupt"}));
    cli.signal(Signal::INT);
    cli.signal(Signal::TERM);
    cli.user("[[text {\"text\":\"still here\"}]]");
    assert_eq!(cli.turn().pop().unwrap()["result"], "still here");
    cli.stdin = None;
    assert_eq!(cli.lines.recv_timeout(Duration::from_millis(300)), Err(RecvTimeoutError::Timeout));
    cli.signal(Signal::KILL);
    assert_eq!(cli.wait(), None);
}

#[test]
fn a_process_may_close_stdout_and_live_or_hang_after_its_result() {
    let mut cli = Cli::start(&[]);
    cli.user("[[text]][[close_stdout]][[hang]]");
    cli.until(|event| event["type"] == "assistant");
    assert_eq!(cli.lines.recv_timeout(DEADLINE), Err(RecvTimeoutError::Disconnected));
    assert_eq!(cli.child.try_wait().unwrap(), None, "the reader is gone, the process is not");

    let mut cli = Cli::start(&[]);
    cli.user("[[hang_after_result]]");
    cli.turn();
    cli.stdin = None;
    assert_eq!(cli.lines.recv_timeout(Duration::from_millis(300)), Err(RecvTimeoutError::Timeout));
    cli.signal(Signal::TERM);
    assert_eq!(cli.wait(), Some(143));
}

#[test]
fn a_daemon_outlives_the_run_deaf_to_term() {
    let mut cli = Cli::start(&[]);
    let file = cli.dir.path().join("daemon.pid");
    cli.user(&format!("[[daemon {}]]", json!({"seconds": 600, "pid_file": file})));
    cli.turn();
    let daemon = pid_in(&file);
    let (dir, code) = (cli.dir.path().to_owned(), cli.end().1);
    assert_eq!(code, Some(0));
    kill_process(daemon, Signal::TERM).unwrap();
    kill_process(daemon, Signal::INT).unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", daemon.as_raw_nonzero())).unwrap();
    assert!(runs(daemon), "{stat} {}", dir.display());
    kill_process(daemon, Signal::KILL).unwrap();
    wait_until_gone(daemon);
}

#[test]
fn floods_huge_lines_and_bad_bytes_arrive_whole() {
    let mut cli = Cli::start(&[]);
    cli.user(r#"[[flood {"events":300,"bytes":2000}]][[big_line {"bytes":20971520}]][[bad_utf8]]"#);
    let init = cli.raw_line();
    assert!(init.len() < 4000);
    for _ in 0..300 {
        assert!(cli.raw_line().len() > 2000);
    }
    assert!(cli.raw_line().len() > 20 << 20);
    assert!(std::str::from_utf8(&cli.raw_line()).is_err());
    cli.turn();
}

#[test]
fn recorded_streams_are_replayed_with_this_session_and_their_exit_code() {
    let mut cli = Cli::start(&["--session-id", ID]);
    cli.user(r#"[[replay {"stream":"err_429_maxretries0"}]]"#);
    let turn = cli.turn();
    assert!(turn.iter().all(|event| event["session_id"] == ID));
    assert!(turn[0].get("orch_standin").is_none(), "the recording stands as it is");
    assert_eq!(cli.end().1, Some(1));
    let mut cli = Cli::start(&[]);
    cli.user(r#"[[replay {"stream":"sig_term_pid_tool"}]]"#);
    assert_eq!(cli.exit().1, Some(143));
}

#[test]
fn growth_counts_turns_over_resumed_processes() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config");
    let input = |flag: &str| {
        let args = ["-p", "--output-format", "json", flag, ID, "[[grow {\"factor\":3}]][[text]]"];
        let output = command(dir.path(), &args)
            .env("CLAUDE_CONFIG_DIR", &config)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let result: Value = serde_json::from_slice(&output.stdout).unwrap();
        result["usage"]["input_tokens"].clone()
    };
    assert_eq!(
        (input("--session-id"), input("--resume"), input("--resume")),
        (json!(100), json!(300), json!(900))
    );
}

#[test]
fn text_mode_takes_the_prompt_from_argument_and_stdin() {
    let (code, out, err) = text_run(&["-p", "ARG [[echo]]"], "STDIN");
    assert_eq!((code, out.as_str()), (Some(0), "ARG [[echo]]\nSTDIN\n"));
    assert_eq!(err.matches("not Claude").count(), 1, "{err}");
    let (code, out, _) = text_run(&["-p", "--output-format", "json"], "[[error {\"status\":400}]]");
    assert_eq!(
        (code, serde_json::from_str::<Value>(&out).unwrap()["api_error_status"].clone()),
        (Some(1), json!(400))
    );
    assert_eq!(text_run(&["-p"], "").0, Some(1));
}

#[test]
fn bad_command_lines_are_refused_as_the_cli_refuses_them() {
    let (code, out, err) = text_run(&["-p", "x", "--no-such-flag"], "");
    assert_eq!((code, out.as_str(), err.as_str()), (Some(1), "", "error: unknown option '--no-such-flag'\n"));
    let (code, out, err) =
        text_run(&["-p", "--output-format", "stream-json", "--verbose", "--resume", ID], "x");
    assert!(err.contains("No conversation found with session ID"), "{err}");
    let result: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (code, &result["subtype"], &result["num_turns"]),
        (Some(1), &json!("error_during_execution"), &json!(0))
    );
    assert!(text_run(&["--version"], "").1.contains("orch stand-in, not Claude"));
    let (code, out, _) = text_run(&["auth", "status"], "");
    assert_eq!(
        (code, serde_json::from_str::<Value>(&out).unwrap()["loggedIn"].clone()),
        (Some(0), json!(true))
    );
}

#[test]
fn a_login_is_demanded_when_told_so_and_its_file_can_be_rewritten() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("config")).unwrap();
    let run = |prompt: &str| {
        let mut command = command(dir.path(), &["-p", "--output-format", "json", prompt]);
        let output = command.env("ORCH_STANDIN_REQUIRE_AUTH", "1").stdin(Stdio::null()).output().unwrap();
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["result"].clone()
    };
    assert_eq!(run("[[text]]"), "Not logged in · Please run /login");
    std::fs::write(dir.path().join("config/.credentials.json"), "{}").unwrap();
    assert_eq!(run("[[text]]"), "Not logged in · Please run /login", "a file without a token is no login");
    let login = r#"{"claudeAiOauth":{"accessToken":"standin-first"}}"#;
    std::fs::write(dir.path().join("config/.credentials.json"), login).unwrap();
    assert_eq!(run("[[login]][[text]]"), "ok");
    let login = std::fs::read_to_string(dir.path().join("config/.credentials.json")).unwrap();
    assert!(login.contains("standin-refreshed"), "{login}");
}

#[test]
fn a_report_shows_what_the_process_was_given_without_values() {
    let mut child = command(tempfile::tempdir().unwrap().path(), &["-p", "[[report]]"]);
    let mut child =
        child.current_dir("/").env("ANTHROPIC_API_KEY", "canary").stdin(Stdio::null()).spawn().unwrap();
    let mut out = String::new();
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    child.wait().unwrap();
    let report: Value = serde_json::from_str(&out).unwrap();
    assert!(report["env"].as_array().unwrap().contains(&json!("ANTHROPIC_API_KEY")));
    assert_eq!(report["argv"], json!(["-p", "[[report]]"]));
    assert!(!out.contains("canary"));
}
