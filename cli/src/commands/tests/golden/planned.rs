//! Planned runs: one that has ended, with everything that can be said of it, and one whose plan waits; and what the
//! commands about plans and files do with them.

use prost_types::{Duration, Timestamp};

use super::*;
use crate::commands::tests::fake::planned::{SYNTHESIS, task};

/// Seconds of 2026-11-20T21:26:53Z.
const START: i64 = 1_795_210_013;
const FILE: &[u8] = b"# Emma\nready \x1b[31mfor more\n";

fn at(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds: START + seconds, nanos: 0 })
}

fn usage(cents: u64) -> Option<Usage> {
    let model = ModelUsage {
        model: "claude-sonnet".into(),
        input_tokens: 1_200,
        output_tokens: 340,
        cache_read_tokens: 56_000,
        cache_write_tokens: 900,
        ..ModelUsage::default()
    };
    Some(Usage { models: vec![model], cost_micro_usd: cents * 10_000, estimated: false })
}

fn ended(task: Task, state: TaskState, outcome: Outcome) -> Task {
    let ran = state != TaskState::Skipped;
    Task {
        state: state.into(),
        outcome: outcome.into(),
        attempt: u32::from(ran),
        agent: if ran { "box-1".into() } else { String::new() },
        finished_at: at(90),
        execution_time: ran.then_some(Duration { seconds: 21, nanos: 0 }),
        usage: if ran { usage(8) } else { None },
        ..task
    }
}

/// A class evaluated as far as it went: a result that was sent back once, one that was used again, a gate that stayed
/// red, and what could not follow it.
fn dance() -> (Run, Vec<Task>) {
    let run = "dance/3";
    let done = |task| ended(task, TaskState::Succeeded, Outcome::Ok);
    let red = GateResult {
        kind: "command".into(),
        name: "wc -w lucas.md".into(),
        passed: false,
        log: "12 lucas.md\ntoo short".into(),
        duration: None,
    };
    let contract = serde_json::json!({
        "status": "partial", "summary": "Emma is ready.", "findings": ["steady rhythm"], "artifacts": ["e.md"],
        "recommendations": ["the next level"], "scores": {"rhythm": 8},
    });
    let tasks = vec![
        done(task(run, 0, "plan", TaskRole::Plan, &[])),
        Task {
            structured: SYNTHESIS.into(),
            ..done(task(
                run,
                1,
                "synthesis",
                TaskRole::Synthesis,
                &["plan", "emma", "lucas", "note", "emma.publish"],
            ))
        },
        Task {
            repairs: 1,
            result_status: "partial".into(),
            summary: "Emma is ready.".into(),
            structured: contract.to_string(),
            workspace: "dance".into(),
            ..done(task(run, 2, "emma", TaskRole::Work, &["plan"]))
        },
        Task {
            repairs: 1,
            detail: "wc -w lucas.md ended with 1".into(),
            gates: vec![red],
            ..ended(task(run, 3, "lucas", TaskRole::Work, &["plan"]), TaskState::Failed, Outcome::GateFailed)
        },
        Task {
            detail: "lucas did not succeed".into(),
            ..ended(
                task(run, 4, "note", TaskRole::Work, &["plan", "lucas"]),
                TaskState::Skipped,
                Outcome::Skipped,
            )
        },
        done(task(run, 5, "emma.publish", TaskRole::Publish, &["emma"])),
        Task {
            reused_from: "dance/2/sophia".into(),
            usage: None,
            ..done(task(run, 6, "sophia", TaskRole::Work, &["plan"]))
        },
    ];
    let run = Run {
        r#ref: run.into(),
        state: RunState::Succeeded.into(),
        created_at: at(0),
        finished_at: at(95),
        task_count: 7,
        usage: usage(40),
        on_failure: FailurePolicy::BestEffort.into(),
        planned: true,
        detail: "1 of 4 tasks failed, 1 was skipped".into(),
        submitted_by: "client/default/ana".into(),
        outcome: Outcome::Ok.into(),
        ..Run::default()
    };
    (run, tasks)
}

/// Why tasks of a run wait, in the coordinator's words.
const WAITING: [(&str, &str, &str); 4] = [
    ("emma", "review", "waits for the verdict of emma.review (running)"),
    ("lucas", "parallel", "waits for a place: 2 of 2 tasks of its run are under way"),
    ("sophia", "condition", "its conditions are being looked at"),
    ("emma.review", "running", "runs on box-1"),
];

fn explained(kind: &str, text: &str) -> ExplainTaskResponse {
    let open =
        Reason { kind: "dependencies".into(), satisfied: true, text: "none is open".into(), left: None };
    let reason = Reason { kind: kind.into(), satisfied: kind == "running", text: text.into(), left: None };
    ExplainTaskResponse {
        summary: text.into(),
        reasons: vec![open, reason],
        since: Some(Duration { seconds: 90, nanos: 0 }),
        ..ExplainTaskResponse::default()
    }
}

/// A class on its way: one evaluation is judged, one waits for a place, one for its conditions, and a note for all three.
fn under_way() -> (Run, Vec<Task>) {
    let run = "dance/4";
    let state = |task, state: TaskState| Task { state: state.into(), ..task };
    let work = |index, id| task(run, index, id, TaskRole::Work, &["plan"]);
    let tasks = vec![
        ended(task(run, 0, "plan", TaskRole::Plan, &[]), TaskState::Succeeded, Outcome::Ok),
        task(run, 1, "synthesis", TaskRole::Synthesis, &["plan", "emma", "lucas", "sophia", "note"]),
        state(work(2, "emma"), TaskState::Verifying),
        work(3, "lucas"),
        work(4, "sophia"),
        task(run, 5, "note", TaskRole::Work, &["emma", "lucas", "sophia"]),
        state(
            Task { of: "emma".into(), ..task(run, 6, "emma.review", TaskRole::Review, &[]) },
            TaskState::Running,
        ),
    ];
    let run = Run {
        r#ref: run.into(),
        state: RunState::Running.into(),
        task_count: 7,
        planned: true,
        max_parallel: 2,
        ..Run::default()
    };
    (run, tasks)
}

/// The scene with the three.
pub(super) fn stage() -> Stage {
    let stage = scene::stage();
    {
        let mut held = stage.fake.held();
        held.runs.push(dance());
        let run = "adhoc/4";
        let plan = ended(task(run, 0, "plan", TaskRole::Plan, &[]), TaskState::Succeeded, Outcome::Ok);
        let waiting = Run {
            r#ref: run.into(),
            state: RunState::WaitingApproval.into(),
            created_at: at(100),
            task_count: 2,
            planned: true,
            usage: usage(8),
            submitted_by: "client/default/ana".into(),
            ..Run::default()
        };
        held.runs.push((waiting, vec![plan, task(run, 1, "synthesis", TaskRole::Synthesis, &["plan"])]));
        let request = PlannedRequest { text: "Evaluate".into(), approve: true, ..PlannedRequest::default() };
        let asked = RunSpec { request: Some(request), ..RunSpec::default() };
        held.specs.extend([RunSpec::default(), asked, RunSpec::default()]);
        held.request_ids.extend(["c", "d", "e"].map(str::to_owned));
        held.runs.push(under_way());
        held.explained
            .extend(WAITING.map(|(task, kind, text)| (format!("dance/4/{task}"), explained(kind, text))));
        let approval = explained("approval", "the plan waits for a person: orchctl approve adhoc/4");
        held.explained.insert("adhoc/4/synthesis".into(), approval);
        held.hand_over("dance/3", "emma", "e.md", FILE, "students/emma/e.md");
        held.hand_over("dance/3", "emma", "notes/raw.txt", b"raw", "");
        held.hand_over("dance/3", "sophia", "e.md", b"# Sophia\n", "");
    }
    stage
}

#[tokio::test]
async fn a_request_is_planned_shown_run_and_answered() {
    let ran = Stage::new().run("run 'Evaluate the class' --workspace dance --progress plain").await;
    assert_eq!(ran.code, exit::DONE);
    insta::assert_snapshot!(ran.stdout, @r"
    The class

    Emma is **ready**; Lucas needs time.

    - [Emma](students/emma/e.md)

    ```
    # no heading
    ```

    TASK   WORKER  STATE        AGENT  TIME  COST  FILES  RESULT
    emma   marie   ✔ succeeded  box-1     -     -  -      ready for the next level
    lucas  marie   ✔ succeeded  box-1     -     -  -      needs a slower count
    note   fabien  ✔ succeeded  box-1     -     -  -      -

    conflicts
      - emma and lucas name different songs

    gaps
      - Sophia Chen was not there

    next steps
      - [high] talk to Lucas
      - [low] order shoes

    ✔ adhoc/1  succeeded  3 of 3 tasks done
    ");
    insta::assert_snapshot!(ran.stderr, @r"
    submitted adhoc/1
    --:--:-- plan          succeeded  box-1
    --:--:-- adhoc/1       running    7 tasks
    One evaluation a student, then a note to the class.
    TASK   WORKER  NEEDS       WHAT                        THEN
    emma   marie   -           Evaluate Emma Rodriguez.    to students/emma/e.md
    lucas  marie   -           Evaluate Lucas Martinez.    review by anga, to students/lucas/e.md
    note   fabien  emma,lucas  Write a note to the class.  -
    3 tasks for 2 workers, up to 2 at once; 1 review, 2 files into the workspace; expected ~$0.90
    --:--:-- emma          succeeded  box-1
    --:--:-- lucas         succeeded  box-1
    --:--:-- note          succeeded  box-1
    --:--:-- emma.publish  succeeded  box-1
    --:--:-- lucas.review  succeeded  box-1
    --:--:-- adhoc/1       synthesizing 7 tasks
    --:--:-- synthesis     succeeded  box-1
    --:--:-- adhoc/1       succeeded  7/7
    ");
}

#[tokio::test]
async fn scripts_are_told_the_plan_as_an_event() {
    let ran = Stage::new().run("run Evaluate --progress jsonl -o none").await;
    let events: Vec<Value> = ran
        .stderr
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let planned: Vec<_> = events.iter().filter(|event| event["type"] == "run.planned").collect();
    assert_eq!(planned.len(), 1);
    assert_eq!(planned[0]["plan"]["plan"]["tasks"][0]["id"], "emma");
    assert_eq!(planned[0]["plan"]["tasks"].as_array().unwrap().len(), 3);
    assert!(events.iter().any(|event| event["type"] == "run.synthesizing"));
    let schema = (KINDS.iter().find(|kind| kind.name == "event").unwrap().schema)();
    for event in &events {
        fits::check(&schema, event).unwrap();
    }
}

#[tokio::test]
async fn a_plan_that_failed_is_shown_with_what_is_wrong() {
    let ran = Stage::new().run("run 'a bad plan' --progress none").await;
    assert_eq!(ran.code, exit::FAILED);
    insta::assert_snapshot!(ran.stdout, @r"
    One evaluation a student, then a note to the class.
    TASK   WORKER  NEEDS       WHAT
    emma   marie   -           Evaluate Emma Rodriguez.
    lucas  marie   -           Evaluate Lucas Martinez.
    note   fabien  emma,lucas  Write a note to the class.
    3 tasks for 2 workers, up to 2 at once
    ✗ task `note` depends on `lukas`, which is not in the plan

    ✗ plan failed
      what is wrong with its plan stands above
      help:  ask in other words; orchctl schema plan shows what a plan may hold

    ✗ adhoc/1  failed  gate_failed
    ");
}

#[tokio::test]
async fn nobody_to_ask_means_that_the_plan_waits() {
    let stage = Stage::new();
    let ran = stage.run("run Evaluate --approve --no-input").await;
    assert_eq!((ran.code, ran.stdout.as_str()), (exit::DONE, ""));
    insta::assert_snapshot!(ran.stderr, @r"
    submitted adhoc/1
    --:--:-- plan          succeeded  box-1
    --:--:-- adhoc/1       waiting_approval 2 tasks
    One evaluation a student, then a note to the class.
    TASK   WORKER  NEEDS       WHAT                        THEN
    emma   marie   -           Evaluate Emma Rodriguez.    to students/emma/e.md
    lucas  marie   -           Evaluate Lucas Martinez.    review by anga, to students/lucas/e.md
    note   fabien  emma,lucas  Write a note to the class.  -
    3 tasks for 2 workers, up to 2 at once; 1 review, 2 files into the workspace; expected ~$0.90
    adhoc/1 waits for approval; nothing of it runs before:
      orchctl approve adhoc/1    orchctl edit adhoc/1    orchctl reject adhoc/1 --reason TEXT
    ");
    assert!(stage.fake.held().decided.is_empty());
    let json = stage.run("run Evaluate --approve --no-input -o json --progress none").await;
    let plan: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((plan["ref"].as_str(), plan["state"].as_str()), (Some("adhoc/2"), Some("waiting_approval")));
    let schema = (KINDS.iter().find(|kind| kind.name == "plan").unwrap().schema)();
    fits::check(&schema, &plan).unwrap();
}

#[tokio::test]
async fn a_plan_alone_is_the_whole_output_of_scripts_and_fits_its_schema() {
    let ran = stage().run("run Evaluate --plan-only --progress none -o json").await;
    let plan: Value = serde_json::from_str(&ran.stdout).unwrap();
    let schema: Value =
        serde_json::from_str(include_str!("../../../../../prompts/schemas/plan.json")).unwrap();
    fits::check(&schema, &plan).unwrap();
    assert_eq!(plan["tasks"][2]["id"], "note");
}

#[tokio::test]
async fn yes_approves_a_plan_and_the_run_goes_on() {
    let stage = Stage::new();
    let ran = stage.run("run Evaluate --approve --yes --progress none").await;
    assert_eq!(ran.code, exit::DONE, "{}", ran.stderr);
    assert!(ran.stdout.contains("The class"), "{}", ran.stdout);
    assert_eq!(stage.fake.held().decided[0].decision(), PlanDecision::Approve);
}

#[tokio::test]
async fn an_edited_plan_is_sent_and_one_that_is_wrong_is_shown_with_places() {
    let stage = stage();
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("plan.json");
    let shown = |ran: &Ran| told(ran).replace(&home.path().display().to_string(), "DIR");
    std::fs::write(&path, crate::plan::samples::PLAN.replace("\"lucas\"]", "\"lukas\"]")).unwrap();
    let wrong = stage.run(&format!("edit adhoc/4 -f {}", path.display())).await;
    insta::assert_snapshot!(shown(&wrong), @r#"
    [stderr]
    error: task `note` depends on `lukas`, which is not in the plan
      --> DIR/plan.json:6:111
      |
    6 | …o the class.", "dependencies": ["emma", "lukas"] }
      |                                          ^
    1 problem; adhoc/4 still waits
    the edited plan is in DIR/plan.json: mend it, then orchctl edit adhoc/4 -f DIR/plan.json
    [exit 2]
    "#);
    std::fs::write(&path, "{\n  \"tasks\": [,]\n}").unwrap();
    let malformed = stage.run(&format!("edit adhoc/4 -f {}", path.display())).await;
    insta::assert_snapshot!(shown(&malformed), @r#"
    [stderr]
    error[E0112]: the plan is not JSON: expected value
      --> DIR/plan.json:2:13
      |
    2 |   "tasks": [,]
      |             ^
    the edited plan is in DIR/plan.json: mend it, then orchctl edit adhoc/4 -f DIR/plan.json
    [exit 2]
    "#);
    assert_eq!(stage.fake.held().runs[3].0.state(), RunState::WaitingApproval);
    std::fs::write(&path, "{}").unwrap();
    assert_eq!(
        stage.run(&format!("edit adhoc/4 -f {} --reason shorter", path.display())).await.code,
        exit::DONE
    );
    let held = stage.fake.held();
    let last = held.decided.last().unwrap();
    assert_eq!((last.plan.as_str(), last.reason.as_str()), ("{}", "shorter"));
    assert!(path.exists(), "a file of somebody's own stays");
}

#[tokio::test]
async fn a_plan_can_be_answered_once() {
    let stage = stage();
    assert_eq!(stage.run("reject adhoc/4 --reason 'too much'").await.code, exit::DONE);
    assert_eq!(stage.run("approve adhoc/4").await.code, exit::CONFLICT);
    assert_eq!(stage.run("approve dance/3/emma").await.code, exit::USAGE);
    assert_eq!(stage.run("approve adhoc/9").await.code, exit::NOT_FOUND);
}

#[tokio::test]
async fn a_conversation_goes_on_once_it_has_ended() {
    let stage = stage();
    let ran = stage.run("submit --after dance/3/emma 'Now also Sophia'").await;
    assert_eq!(ran.code, exit::DONE, "{}", ran.stderr);
    {
        let held = stage.fake.held();
        let Some(task_spec::Runner::Worker(work)) = &held.specs.last().unwrap().tasks[0].runner else {
            panic!("a worker")
        };
        assert_eq!((work.worker.as_str(), work.after_ref.as_str()), ("marie", "dance/3/emma"));
    }
    let mut text = String::new();
    for line in [
        "submit --after release-notes/1/ui-notes more",
        "submit --after dance/3 more",
        "submit --after dance/3/emma.publish more",
        "submit --after dance/3/nobody more",
    ] {
        let _ = write!(text, "──── {line}\n{}", told(&stage.run(line).await));
    }
    insta::assert_snapshot!(text, @r"
    ──── submit --after release-notes/1/ui-notes more
    [stderr]
    error[E0303]: release-notes/1/ui-notes is running, so nothing can follow it yet
    help:  orchctl wait release-notes/1/ui-notes, and then again
    [exit 6]
    ──── submit --after dance/3 more
    [stderr]
    error: dance/3 has several tasks; --after is about one
    help:  orchctl ls dance/3 shows them: --after dance/3/TASK
    [exit 2]
    ──── submit --after dance/3/emma.publish more
    [stderr]
    error: dance/3/emma.publish is no conversation: no worker did it
    help:  --after goes on with what a worker did
    [exit 2]
    ──── submit --after dance/3/nobody more
    [stderr]
    error: there is no task dance/3/nobody
    [exit 3]
    ");
}

#[tokio::test]
async fn files_are_fetched_beneath_a_directory_and_nowhere_else() {
    let stage = stage();
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("files");
    let get = |what: &str| format!("artifacts get {what} -d {}", dir.display());
    assert_eq!(stage.run(&get("dance/3 --all")).await.code, exit::DONE);
    assert_eq!(std::fs::read(dir.join("emma/e.md")).unwrap(), FILE);
    assert_eq!(std::fs::read(dir.join("emma/notes/raw.txt")).unwrap(), b"raw");
    assert_eq!(std::fs::read(dir.join("sophia/e.md")).unwrap(), b"# Sophia\n");
    let again = stage.run(&get("dance/3 --all")).await;
    assert_eq!(again.code, exit::SOME_FAILED, "nothing is replaced unasked");
    assert_eq!(stage.run(&get("dance/3 --all --force")).await.code, exit::DONE);
    let one = stage.run(&format!("{} -o json", get("dance/3/emma:notes/raw.txt"))).await;
    let value: Value = serde_json::from_str(&one.stdout).unwrap();
    assert_eq!(value["file"], dir.join("notes/raw.txt").display().to_string());
    fits::check(&(KINDS.iter().find(|kind| kind.name == "artifact").unwrap().schema)(), &value).unwrap();
    stage.fake.held().hand_over("dance/3", "note", "../../escape.md", b"x", "");
    let hostile = stage.run(&get("dance/3/note")).await;
    assert_eq!(hostile.code, exit::USAGE, "{}", hostile.stderr);
    assert!(
        !home.path().join("escape.md").exists() && !home.path().parent().unwrap().join("escape.md").exists()
    );
}

#[tokio::test]
async fn a_cut_download_goes_on_where_it_was_and_is_checked() {
    let stage = stage();
    let home = tempfile::tempdir().unwrap();
    stage.fake.held().cuts = 2;
    let ran = stage.run(&format!("artifacts get dance/3/emma:e.md -d {}", home.path().display())).await;
    assert_eq!(ran.code, exit::DONE, "{}", ran.stderr);
    assert_eq!(stage.fake.held().read_from, [0, 4, 8]);
    assert_eq!(std::fs::read(home.path().join("e.md")).unwrap(), FILE);
    // Other bytes than were promised leave nothing behind.
    stage.fake.held().blobs.values_mut().for_each(|bytes| bytes[0] ^= 1);
    let other = home.path().join("other");
    let damaged = stage.run(&format!("artifacts get dance/3/emma:e.md -d {}", other.display())).await;
    assert_eq!(damaged.code, 6, "{}", damaged.stderr);
    assert_eq!(std::fs::read_dir(other).unwrap().count(), 0);
}

#[tokio::test]
async fn one_file_can_go_to_stdout_and_a_terminal_never_obeys_it() {
    let ran = stage().run("artifacts get dance/3/emma:e.md -d -").await;
    assert_eq!((ran.code, ran.stdout.as_bytes()), (exit::DONE, FILE));
    let terminal = Stage { look: testing::Look { terminal: true, ..testing::Look::default() }, ..stage() };
    let ran = terminal.run("artifacts get dance/3/emma:e.md -d -").await;
    assert_eq!(ran.stdout, "# Emma\nready ␛[31mfor more\n");
    let mut text = String::new();
    for line in [
        "artifacts get dance/3 -d -",
        "artifacts get dance/3:e.md -d -",
        "artifacts get dance/3:e.mf -d -",
        "artifacts get adhoc/2 -d -",
        "artifacts list adhoc/2",
    ] {
        let _ = write!(text, "──── {line}\n{}", told(&stage().run(line).await));
    }
    insta::assert_snapshot!(text, @r#"
    ──── artifacts get dance/3 -d -
    [stderr]
    error: dance/3 handed over 3 files
    help:  --all fetches all of them
           orchctl artifacts list dance/3 shows them; REF:PATH fetches one
    [exit 2]
    ──── artifacts get dance/3:e.md -d -
    [stderr]
    error: several tasks handed over "e.md"
    help:  dance/3/emma:e.md
           dance/3/sophia:e.md
    [exit 2]
    ──── artifacts get dance/3:e.mf -d -
    [stderr]
    error[E0301]: dance/3 handed over no "e.mf"
    help:  did you mean "e.md"?
           orchctl artifacts list dance/3 shows what there is
    [exit 3]
    ──── artifacts get adhoc/2 -d -
    [stderr]
    error[E0301]: adhoc/2 handed over no file
    help:  orchctl status adhoc/2 shows what became of it
    [exit 3]
    ──── artifacts list adhoc/2
    TASK  PATH  SIZE  PUBLISHED
    [stderr]
    adhoc/2 handed over no file
    "#);
}
