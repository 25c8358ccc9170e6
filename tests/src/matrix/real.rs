//! What the real CLI, 2.1.197, does with a Messages API that answers, fails and falls silent. Knows prompts and promises.
//!
//! Tokens and money are the CLI's own figures at its own prices: the worker's model is `sonnet`, 3 and 15 US dollars a
//! million, its sub-agent's `haiku`, 1 and 5; an answer of the stand-in has 100 tokens in and 20 out unless its prompt says
//! otherwise, so 600 and 200 micro-dollars. Where the CLI is stopped by orch in the middle of an answer the figures are an
//! estimate, and the row names none.

use super::{Ask, Row};
use orch_proto::v1::Outcome;

/// Name of the agent that has no credential.
pub const WITHOUT_LOGIN: &str = "box-2";

/// Name of the agent that looks for the API where nobody listens.
pub const WITHOUT_API: &str = "box-3";

const GROUPS: [&[Row]; 12] = [
    ANSWERS,
    WORKERS,
    STRUCTURED,
    LIMITS,
    FAILURES,
    SILENCES,
    SUBSCRIPTION,
    PROMPTS,
    LARGE,
    RESUMED,
    STOPS,
    ENDLESS,
];

const fn count() -> usize {
    let (mut count, mut group) = (0, 0);
    while group < GROUPS.len() {
        count += GROUPS[group].len();
        group += 1;
    }
    count
}

const fn all() -> [Row; count()] {
    let mut rows = [ANSWERS[0]; count()];
    let (mut at, mut group) = (0, 0);
    while group < GROUPS.len() {
        let mut row = 0;
        while row < GROUPS[group].len() {
            rows[at] = GROUPS[group][row];
            at += 1;
            row += 1;
        }
        group += 1;
    }
    rows
}

/// Every row of the real CLI, group after group.
pub const ROWS: &[Row] = &all();

/// A schema that `{"n":3}` fits.
const SCHEMA: &str = r#"{"type":"object","properties":{"n":{"type":"integer"}},"required":["n"]}"#;

/// Answers, tools and sub-agents.
pub const ANSWERS: &[Row] = &[
    Row::new("an answer", r#"[[text {"text":"a plain answer"}]]"#, Outcome::Ok, "").costs(100, 20, 600),
    Row::new(
        "an answer that reads from and writes to the prompt cache",
        r#"[[text {"usage":{"input":10,"output":50,"cache_read":30000,"cache_write":2000}}]]"#,
        Outcome::Ok,
        "",
    )
    .costs(10, 50, 17_280),
    Row::new(
        "a tool is used",
        r#"[[tool {"name":"Bash","input":{"command":"echo made by a tool","description":"x"}}]][[text {"text":"used a tool"}]]"#,
        Outcome::Ok,
        "",
    )
    .costs(200, 40, 1_200),
    Row::new(
        "a tool fails, and the work goes on",
        r#"[[tool {"name":"Bash","input":{"command":"exit 3","description":"x"}}]][[text {"text":"saw it fail"}]]"#,
        Outcome::Ok,
        "",
    )
    .costs(200, 40, 1_200),
    Row::new(
        "a tool is denied, and the work goes on",
        r#"[[tool {"name":"Bash","input":{"command":"git push origin main","description":"x"}}]][[text {"text":"did without"}]]"#,
        Outcome::Ok,
        "",
    )
    .costs(200, 40, 1_200),
    Row::new(
        "a command in the background is refused",
        r#"[[tool {"name":"Bash","input":{"command":"sleep 600","description":"x","run_in_background":true}}]][[text {"text":"stayed in front"}]]"#,
        Outcome::Ok,
        "",
    )
    .costs(200, 40, 1_200),
    Row::new(
        "a tool leaves a process behind, which is ended",
        r#"[[tool {"name":"Bash","input":{"command":"setsid nohup sleep 600 >/dev/null 2>&1 & echo left","description":"x"}}]][[text {"text":"left one"}]]"#,
        Outcome::Ok,
        "",
    )
    .costs(200, 40, 1_200),
    Row::new(
        "a sub-agent does a part",
        r#"[[subagent {"type":"test-runner","prompt":"[[text {\"text\":\"inner\"}]]"}]][[text {"text":"outer"}]]"#,
        Outcome::Ok,
        "",
    )
    .costs(300, 60, 1_400),
    Row::new(
        "a sub-agent's calls of the API fail, and the work goes on",
        r#"[[subagent {"type":"test-runner","prompt":"[[error {\"status\":400}]]"}]][[text {"text":"did without"}]]"#,
        Outcome::Ok,
        "",
    )
    .costs(200, 40, 1_200),
    Row::new(
        "a sub-agent is asked for that the worker does not have",
        r#"[[subagent {"type":"general-purpose","prompt":"[[text]]"}]][[text {"text":"did it alone"}]]"#,
        Outcome::Ok,
        "",
    )
    .costs(200, 40, 1_200),
    Row::new(
        "a sub-agent goes round in circles until its own turn limit, 30",
        r#"[[subagent {"type":"test-runner","prompt":"[[loop {\"name\":\"Bash\",\"input\":{\"command\":\"true\",\"description\":\"x\"}}]]"}]][[text {"text":"it came back"}]]"#,
        Outcome::Ok,
        "",
    )
    .costs(3_200, 640, 7_200),
];

/// Structured answers.
pub const STRUCTURED: &[Row] = &[
    Row::new("a structured answer", r#"[[structured {"n":3}]]"#, Outcome::Ok, "")
        .schema(SCHEMA)
        .costs(100, 20, 600),
    Row::new(
        "a structured answer that does not fit, then one that does",
        r#"[[structured {"n":"three"}]][[structured {"n":3}]]"#,
        Outcome::Ok,
        "",
    )
    .schema(SCHEMA)
    .costs(200, 40, 1_200),
    Row::new(
        "structured answers that never fit",
        r#"[[loop {"name":"StructuredOutput","input":{"n":"three"}}]]"#,
        Outcome::SchemaInvalid,
        "Failed to provide valid structured output",
    )
    .schema(SCHEMA)
    .costs(400, 80, 2_400),
    Row::new(
        "a text instead of a structured answer, put right when asked again",
        r#"[[then {"prompt":"[[structured {\"n\":3}]]"}]][[text {"text":"three"}]]"#,
        Outcome::Ok,
        "",
    )
    .schema(SCHEMA)
    .costs(300, 60, 1_800),
    Row::new(
        "a text instead of a structured answer, even when asked again",
        r#"[[then {"prompt":"[[text {\"text\":\"still three\"}]]"}]][[text {"text":"three"}]]"#,
        Outcome::SchemaInvalid,
        "the structured answer is missing",
    )
    .schema(SCHEMA)
    .costs(400, 80, 2_400),
];

/// Limits of turns, money, time and output.
pub const LIMITS: &[Row] = &[
    Row::new(
        "the turn limit is reached",
        r#"[[loop {"name":"Bash","input":{"command":"true","description":"x"}}]]"#,
        Outcome::MaxTurns,
        "it reached its turn limit",
    )
    .max_turns(3),
    Row::new("the answer comes in the last turn that is allowed", "[[text]]", Outcome::Ok, "")
        .max_turns(1)
        .costs(100, 20, 600),
    Row::new(
        "the budget is spent",
        r#"[[loop {"name":"Bash","input":{"command":"true","description":"x"}}]]"#,
        Outcome::Budget,
        "Reached maximum budget",
    )
    .budget(1_500)
    .costs(300, 60, 1_800),
    Row::new(
        "the budget is spent by a sub-agent",
        r#"[[subagent {"type":"test-runner","prompt":"[[loop {\"name\":\"Bash\",\"input\":{\"command\":\"true\",\"description\":\"x\"}}]]"}]][[text]]"#,
        Outcome::Budget,
        "Reached maximum budget",
    )
    // The CLI says the one, and orch the other where it sees it first.
    .or_says("the budget is spent: budget of the task")
    .budget(900)
    .costs(300, 60, 1_000),
    Row::new("the time limit passes while the API is silent", "[[hang]]", Outcome::Timeout, "its time limit")
        .timeout(3_000),
    Row::new(
        "the time limit passes in the middle of an answer",
        "[[hangmid]]",
        Outcome::Timeout,
        "its time limit",
    )
    .timeout(3_000),
    Row::new(
        "the time limit passes while a tool runs",
        r#"[[tool {"name":"Bash","input":{"command":"sleep 600","description":"x","timeout":600000}}]]"#,
        Outcome::Timeout,
        "its time limit",
    )
    .timeout(4_000),
    Row::new("the model refuses", "[[refusal]]", Outcome::Refused, "Usage Policy").costs(100, 20, 600),
    Row::new("an answer longer than the model may write", "[[maxtok]]", Outcome::LimitOutput, "output token maximum")
        .costs(400, 80, 2_400),
];

/// Failures of the API.
pub const FAILURES: &[Row] = &[
    Row::new("the request is malformed (400)", r#"[[error {"status":400}]]"#, Outcome::ApiError, "400")
        .costs(0, 0, 0),
    Row::new("the key is not accepted (401)", r#"[[error {"status":401}]]"#, Outcome::Auth, "401")
        .costs(0, 0, 0),
    Row::new("the key may not do that (403)", r#"[[error {"status":403}]]"#, Outcome::Auth, "403")
        .costs(0, 0, 0),
    Row::new(
        "there is no such model (404)",
        r#"[[error {"status":404}]]"#,
        Outcome::ModelUnavailable,
        "issue with the selected model",
    )
    .costs(0, 0, 0),
    Row::new(
        "too many requests, for a second (429)",
        r#"[[error {"status":429,"retry_after":1,"times":1}]][[text {"text":"late"}]]"#,
        Outcome::Ok,
        "",
    )
    .costs(100, 20, 600),
    Row::new(
        "too many requests, again and again (429)",
        r#"[[error {"status":429}]]"#,
        Outcome::RateLimited,
        "429",
    )
    .costs(0, 0, 0),
    Row::new(
        "too many requests, for an hour (429)",
        r#"[[error {"status":429,"retry_after":3600}]]"#,
        Outcome::RateLimited,
        "429",
    )
    .parked()
    .costs(0, 0, 0),
    Row::new(
        "too many requests, answered on the next attempt (429)",
        r#"[[error {"status":429,"times":3}]][[text {"text":"at last"}]]"#,
        Outcome::Ok,
        "",
    )
    .attempts(2)
    .costs(100, 20, 600),
    Row::new(
        "the API is overloaded for a moment (529)",
        r#"[[error {"status":529,"times":2}]][[text {"text":"late"}]]"#,
        Outcome::Ok,
        "",
    )
    .costs(100, 20, 600),
    Row::new("the API is overloaded (529)", r#"[[error {"status":529}]]"#, Outcome::ApiError, "529")
        .costs(0, 0, 0),
    Row::new(
        "the API is overloaded until the next attempt (529)",
        r#"[[error {"status":529,"times":3}]][[text {"text":"at last"}]]"#,
        Outcome::Ok,
        "",
    )
    .attempts(2)
    .costs(100, 20, 600),
    Row::new("the API breaks (500)", r#"[[error {"status":500}]]"#, Outcome::ApiError, "500").costs(0, 0, 0),
    Row::new(
        "an answer is cut off, and comes whole the second time",
        r#"[[cut {"times":1}]][[text {"text":"after the cut"}]]"#,
        Outcome::Ok,
        "",
    )
    .costs(100, 20, 600),
    Row::new("every answer is cut off", "[[cut]]", Outcome::ApiError, "Unable to connect to API")
        .costs(0, 0, 0),
    Row::new(
        "the connection is lost before an answer, once",
        r#"[[reset {"times":1}]][[text {"text":"after the reset"}]]"#,
        Outcome::Ok,
        "",
    )
    .costs(100, 20, 600),
    Row::new("the connection is always lost", "[[reset]]", Outcome::ApiError, "Unable to connect to API")
        .costs(0, 0, 0),
    Row::new("nobody listens where the API should be", "[[text]]", Outcome::ApiError, "ConnectionRefused")
        .on(WITHOUT_API)
        .costs(0, 0, 0),
    Row::new("nobody is logged in", "[[text]]", Outcome::Auth, "Not logged in")
        .on(WITHOUT_LOGIN)
        .costs(0, 0, 0),
];

/// The row with another worker.
const fn by(worker: &'static str, row: Row) -> Row {
    Row { ask: Ask { worker, ..row.ask }, ..row }
}

/// Workers whose files bring tool servers and settings.
pub const WORKERS: &[Row] = &[
    by(
        "served",
        Row::new(
            "a tool server of the worker's own is used",
            r#"[[tool {"name":"mcp__demo__add","input":{}}]][[text {"text":"added"}]]"#,
            Outcome::Ok,
            "",
        )
        .costs(200, 40, 1_200),
    ),
    by(
        "unserved",
        Row::new(
            "a tool server of the worker's own cannot be started, and the work goes on",
            "[[text]]",
            Outcome::Ok,
            "the tool server \"broken\" is not there",
        )
        .costs(100, 20, 600),
    ),
    by(
        "hooked",
        Row::new("a hook of the worker's own settings runs", "[[text]]", Outcome::Ok, "").costs(100, 20, 600),
    ),
];

/// Prompts that the CLI would take for something else.
pub const PROMPTS: &[Row] = &[
    Row::new(
        "a prompt that begins with a slash",
        r#"/compact [[text {"text":"no command"}]]"#,
        Outcome::Ok,
        "",
    )
    .costs(100, 20, 600),
    Row::new(
        "a prompt that names a file with an at sign",
        r#"Read @FILE and tell [[text {"text":"no file"}]]"#,
        Outcome::Ok,
        "",
    )
    .costs(100, 20, 600),
    Row::new(
        "a prompt that begins with a dash",
        r#"--version [[text {"text":"no option"}]]"#,
        Outcome::Ok,
        "",
    )
    .costs(100, 20, 600),
];

const SLEEP: &str =
    r#"[[tool {"name":"Bash","input":{"command":"sleep 600","description":"x","timeout":600000}}]]"#;
const NESTED_SLEEP: &str = r#"[[subagent {"type":"test-runner","prompt":"[[tool {\"name\":\"Bash\",\"input\":{\"command\":\"sleep 600\",\"description\":\"x\",\"timeout\":600000}}]]"}]]"#;

/// Stops in every phase.
pub const STOPS: &[Row] = &[
    Row::new("cancelled before it started", "[[text]]", Outcome::Cancelled, "").attempts(0).costs(0, 0, 0),
    Row::new("cancelled while the CLI starts", "[[hang]]", Outcome::Cancelled, ""),
    Row::new("cancelled before an answer has begun", "[[hang]]", Outcome::Cancelled, ""),
    Row::new("cancelled in the middle of an answer", "[[hangmid]]", Outcome::Cancelled, ""),
    Row::new("cancelled while a tool runs", SLEEP, Outcome::Cancelled, ""),
    Row::new(
        "cancelled while a sub-agent waits for an answer",
        r#"[[subagent {"type":"test-runner","prompt":"[[hang]]"}]]"#,
        Outcome::Cancelled,
        "",
    ),
    Row::new("cancelled while a sub-agent's tool runs", NESTED_SLEEP, Outcome::Cancelled, ""),
    Row::new(
        "cancelled after a result, when asked again for the structured answer",
        r#"[[then {"prompt":"[[hang]]"}]][[text]]"#,
        Outcome::Cancelled,
        "",
    )
    .schema(SCHEMA),
];

/// Work that never ends by itself, to be cancelled at random moments.
pub const ENDLESS: &[Row] = &[
    Row::new("cancelled at a random moment of a tool", SLEEP, Outcome::Cancelled, ""),
    Row::new("cancelled at a random moment of waiting", "[[hang]]", Outcome::Cancelled, ""),
    Row::new("cancelled at a random moment of a sub-agent", NESTED_SLEEP, Outcome::Cancelled, ""),
    Row::new(
        "cancelled at a random moment of a long answer",
        r#"[[slow {"chunks":600,"delay_ms":100}]]"#,
        Outcome::Cancelled,
        "",
    ),
    Row::new(
        "cancelled at a random moment of one tool after another",
        r#"[[loop {"name":"Bash","input":{"command":"sleep 0.2","description":"x"}}]]"#,
        Outcome::Cancelled,
        "",
    ),
    Row::new(
        "cancelled at a random moment of a command that left its session",
        r#"[[tool {"name":"Bash","input":{"command":"setsid nohup sleep 600 >/dev/null 2>&1 & sleep 600","description":"x","timeout":600000}}]]"#,
        Outcome::Cancelled,
        "",
    ),
];

/// Silence of the API, with a silence limit of seconds.
pub const SILENCES: &[Row] = &[
    Row::new("the API never begins to answer", "[[hang]]", Outcome::Hang, "while it asked the model"),
    Row::new(
        "an answer falls silent in its middle",
        "[[hangmid]]",
        Outcome::Hang,
        "while it asked the model",
    ),
    Row::new(
        "the API falls silent after the result of a tool",
        r#"[[tool {"name":"Bash","input":{"command":"true","description":"x"}}]][[hang]]"#,
        Outcome::Hang,
        "after the result of a tool",
    ),
    Row::new(
        "a sub-agent gets no answer",
        r#"[[subagent {"type":"test-runner","prompt":"[[hang]]"}]]"#,
        Outcome::Hang,
        "it said nothing for longer than the silence limit",
    ),
];

/// Attempts that go on where another process stopped.
pub const RESUMED: &[Row] = &[
    Row::new(
        "the API breaks after a tool was used; the next attempt goes on",
        r#"[[tool {"name":"Bash","input":{"command":"echo $((6*7))-from-the-tool","description":"x"}}]][[error {"status":500,"times":3}]][[text {"text":"went on"}]]"#,
        Outcome::Ok,
        "",
    )
    .attempts(2)
    .costs(200, 40, 1_200),
    Row::new(
        "the CLI is killed while a tool runs; the next attempt goes on",
        r#"[[tool {"name":"Bash","input":{"command":"echo $((6*7))-from-the-tool","description":"x"}}]][[tool {"name":"Bash","input":{"command":"test -e once || { touch once; sleep 600; }","description":"x","timeout":600000}}]][[text {"text":"went on"}]]"#,
        Outcome::Ok,
        "",
    )
    .attempts(2),
];

/// Prompts and events of megabytes; the prompts are made by the test. The CLI compares a prompt with the window of some
/// models before it sends it: of `sonnet` it does, of `haiku` it does not.
pub const LARGE: &[Row] = &[
    Row::new("a prompt of 8 MiB", "", Outcome::Ok, "").costs(100, 20, 200),
    Row::new("a prompt longer than the CLI sends to this model", "", Outcome::ApiError, "Prompt is too long")
        .costs(0, 0, 0),
    Row::new("events of 2 MB", "", Outcome::Ok, "").costs(200, 40, 400),
];

/// With the token of a subscription.
pub const SUBSCRIPTION: &[Row] = &[
    Row::new("an answer, by subscription", "[[text]]", Outcome::Ok, "").costs(100, 20, 600),
    Row::new(
        "a window of a subscription is nearly used up",
        r#"[[rate_limit {"status":"allowed_warning","utilization":0.91}]][[text]]"#,
        Outcome::Ok,
        "",
    )
    .costs(100, 20, 600),
    Row::new(
        "the window of a subscription is used up (429)",
        r#"[[rate_limit {"resets_in":3600}]][[text]]"#,
        Outcome::RateLimited,
        "You've hit your limit",
    )
    .parked()
    .costs(0, 0, 0),
];
