//! A fleet in the middle of its work, the same at every look: a run with a task in each interesting state, a finished
//! one, agents that are well, draining and away.

use prost_types::{Duration, Timestamp};

use super::*;
use crate::commands::tests::fleet::story;

/// Seconds of 2026-11-20T21:26:53Z.
const START: i64 = 1_795_210_013;

fn at(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds: START + seconds, nanos: 0 })
}

fn seconds(seconds: i64) -> Option<Duration> {
    Some(Duration { seconds, nanos: 0 })
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

/// A stage on which the scene is set.
pub(super) fn stage() -> Stage {
    let stage = Stage::new();
    {
        let mut held = stage.fake.held();
        let tasks = release_notes();
        let count = |state| TaskStateCount {
            state: i32::from(state),
            count: u32::try_from(tasks.iter().filter(|task| task.state() == state).count()).unwrap(),
        };
        let run = Run {
            r#ref: "release-notes/1".into(),
            state: RunState::Running.into(),
            created_at: at(0),
            task_count: 5,
            counts: [
                TaskState::Succeeded,
                TaskState::Running,
                TaskState::WaitingRetry,
                TaskState::Blocked,
                TaskState::Failed,
            ]
            .map(count)
            .to_vec(),
            usage: usage(63),
            labels: [("team".to_owned(), "dance".to_owned())].into(),
            submitted_by: "client/default/ana".into(),
            ..Run::default()
        };
        let answer = Some(Text { body: Some(text::Body::Inline("Fünf Punkte.\n- eins\n".into())) });
        let done = Task {
            state: TaskState::Succeeded.into(),
            outcome: Outcome::Ok.into(),
            finished_at: at(31),
            answer,
            structured: "{\n  \"score\": 9\n}".into(),
            ..task("adhoc/2", 0, "task", "anga")
        };
        let finished = Run {
            r#ref: "adhoc/2".into(),
            state: RunState::Succeeded.into(),
            outcome: Outcome::Ok.into(),
            created_at: at(10),
            finished_at: at(31),
            task_count: 1,
            counts: vec![TaskStateCount { state: TaskState::Succeeded.into(), count: 1 }],
            usage: usage(8),
            submitted_by: "client/default/ana".into(),
            ..Run::default()
        };
        held.runs = vec![(run, tasks), (finished, vec![done])];
        held.specs = vec![RunSpec::default(), RunSpec::default()];
        held.request_ids = vec!["a".into(), "b".into()];
        held.transcript = TRANSCRIPT.as_bytes().to_vec();
        held.events = story();
        fleet(&mut held.agents.0);
        workers(&mut held.workers.0);
    }
    stage
}

const TRANSCRIPT: &str = concat!(
    r#"{"type":"system","subtype":"init","session_id":"6f2a","model":"claude-sonnet"}"#,
    "\n",
    r#"{"type":"assistant","message":{"content":[{"type":"text","text":"I read the notes first."}]}}"#,
    "\n",
    r#"{"type":"assistant","message":{"content":[{"type":"tool_use","name":"Bash","input":{"command":"git log -3"}}]}}"#,
    "\n",
    "not json\n",
);

fn task(run: &str, index: u32, id: &str, worker: &str) -> Task {
    Task {
        r#ref: format!("{run}/{id}"),
        index,
        task_id: id.into(),
        worker: worker.into(),
        runner: "claude".into(),
        attempt: 1,
        agent: "box-1".into(),
        created_at: at(0),
        started_at: at(1),
        execution_time: seconds(21),
        usage: usage(8),
        num_turns: 4,
        session_id: "6f2a7c1e-0000-4000-8000-000000000001".into(),
        ..Task::default()
    }
}

fn release_notes() -> Vec<Task> {
    let run = "release-notes/1";
    let attempt = |number, outcome: Outcome, detail: &str| Attempt {
        number,
        agent: "box-1".into(),
        started_at: at(22),
        finished_at: at(56),
        outcome: outcome.into(),
        detail: detail.into(),
        usage: usage(20),
    };
    vec![
        Task {
            state: TaskState::Succeeded.into(),
            outcome: Outcome::Ok.into(),
            finished_at: at(22),
            denied_tools: vec!["Bash(rm -rf build)".into()],
            answer: Some(Text { body: Some(text::Body::Inline("Drei Teile.".into())) }),
            structured: "{\n  \"parts\": 3\n}".into(),
            ..task(run, 0, "plan", "marie")
        },
        Task {
            state: TaskState::Running.into(),
            agent: "box-2".into(),
            started_at: at(23),
            execution_time: None,
            dependencies: vec!["plan".into()],
            ..task(run, 1, "ui-notes", "anga")
        },
        Task {
            state: TaskState::WaitingRetry.into(),
            attempt: 2,
            retry_at: at(200),
            detail: "overloaded (529)".into(),
            dependencies: vec!["plan".into()],
            attempts: vec![
                attempt(1, Outcome::ApiError, "overloaded (529)"),
                attempt(2, Outcome::ApiError, "overloaded (529)"),
            ],
            ..task(run, 2, "db-notes", "anga")
        },
        Task {
            state: TaskState::Failed.into(),
            outcome: Outcome::Timeout.into(),
            finished_at: at(90),
            detail: "no answer after 600 s".into(),
            dependencies: vec!["plan".into()],
            ..task(run, 3, "cli-notes", "fabien")
        },
        Task {
            state: TaskState::Blocked.into(),
            attempt: 0,
            agent: String::new(),
            started_at: None,
            execution_time: None,
            usage: None,
            num_turns: 0,
            session_id: String::new(),
            dependencies: vec!["ui-notes".into(), "db-notes".into()],
            ..task(run, 4, "merge", "marie")
        },
    ]
}

fn fleet(agents: &mut Vec<Agent>) {
    let one = agents.first_mut().unwrap();
    one.last_seen = at(186);
    one.running = vec!["release-notes/1/db-notes".into()];
    one.runners = vec!["claude".into(), "noop".into()];
    one.host_name = "box-1.example".into();
    one.host = Some(HostFigures {
        cores: 8,
        load_millis: 710,
        memory_bytes: 16 << 30,
        memory_available_bytes: 9 << 30,
        disk_free_bytes: 120 << 30,
    });
    let draining = Agent {
        name: "box-2".into(),
        state: AgentState::Draining.into(),
        drain_reason: "new kernel".into(),
        slots_used: 1,
        running: vec!["release-notes/1/ui-notes".into()],
        ..one.clone()
    };
    let away = Agent {
        name: "box-7".into(),
        state: AgentState::Unreachable.into(),
        detail: "no heartbeat for 2m14s".into(),
        slots_used: 0,
        running: Vec::new(),
        warnings: Vec::new(),
        last_seen: at(53),
        host: None,
        ..one.clone()
    };
    agents.extend([draining, away]);
}

fn workers(workers: &mut [(Worker, WorkerDefinition)]) {
    let (worker, definition) = workers.first_mut().unwrap();
    worker.description = "Reviews changes and says what is wrong with them".into();
    worker.model = "claude-sonnet".into();
    worker.requires = [("gpu".to_owned(), "yes".to_owned())].into();
    worker.subagents = vec!["syntax".into()];
    definition.tools = vec!["Read".into(), "Grep".into()];
    definition.system_prompt = "You are anga.\nYou review.\n".into();
}
