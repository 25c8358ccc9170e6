//! What the real CLI cannot be made to do, or not quickly, and the scripted one can. Knows prompts and promises.
//!
//! Prices: the worker's model is `sonnet`; an answer of the stand-in has 100 tokens in and 20 out, which is 600 micro-dollars.

use super::Row;
use orch_proto::v1::Outcome;

/// Name of the agent whose CLI demands a credential and finds none.
pub const WITHOUT_LOGIN: &str = "box-2";

/// A worker of which a denied tool fails the task.
pub const STRICT: &str = "strict";

/// The file of [`STRICT`].
pub const STRICT_FILE: &str = "---\nname: strict\ndescription: tests\nmodel: sonnet\npermission_mode: acceptEdits\n\
    tools: [Bash]\non_denial: fail\n---\n\nYou test.\n";

/// A schema that the answer `{"n":1}` fits.
const SCHEMA: &str = r#"{"type":"object","properties":{"n":{"type":"integer"}},"required":["n"]}"#;

/// Rows that a plain fleet plays. `F…` are the failure modes they stand for.
pub const ROWS: &[Row] = &[
    // What a result says, and what it does not.
    Row::new("an answer", r#"[[text {"text":"done"}]]"#, Outcome::Ok, "").costs(100, 20, 600),
    Row::new(
        "an answer without a word (F39)",
        r#"[[text {"text":""}]]"#,
        Outcome::ApiError,
        "the model ended its turn without a word of an answer",
    )
    .costs(100, 20, 600),
    Row::new(
        "a result that says success and is an error (F4)",
        r#"[[result {"is_error":true}]][[text {"text":"I could not"}]]"#,
        Outcome::ApiError,
        "I could not",
    )
    .costs(100, 20, 600),
    Row::new(
        "a result that does not say whether it is an error (F4)",
        r#"[[result {"is_error":null}]][[text {"text":"perhaps"}]]"#,
        Outcome::ApiError,
        "perhaps",
    )
    .costs(100, 20, 600),
    Row::new(
        "a result without a turn, as a slash command gives",
        r#"[[result {"num_turns":0}]][[text {"text":"Unknown command: /x"}]]"#,
        Outcome::Crash,
        "without asking the model: Unknown command: /x",
    )
    .costs(100, 20, 600),
    Row::new("a prompt that begins with a slash", r#"/nosuch [[text {"text":"no command"}]]"#, Outcome::Ok, "")
        .costs(100, 20, 600),
    Row::new(
        "the CLI refuses its arguments or its configuration",
        r#"[[silent {"code":1}]]"#,
        Outcome::SpawnFailed,
        "the CLI did not start its work: exit code 1",
    )
    .costs(0, 0, 0),
    // Ends without a result (F3).
    Row::new(
        "exit 0 in silence (F3)",
        "[[silent]]",
        Outcome::Crash,
        "the CLI ended without a result: exit code 0",
    )
    .costs(0, 0, 0),
    Row::new(
        "exit 0 after an answer, without a result (F3)",
        r#"[[text {"text":"partial"}]][[no_result]]"#,
        Outcome::Crash,
        "the CLI ended without a result: exit code 0",
    ),
    Row::new(
        "exit 3 after an answer (F3)",
        r#"[[text {"text":"partial"}]][[exit {"code":3,"stderr":"out of luck"}]]"#,
        Outcome::Crash,
        "out of luck",
    ),
    Row::new(
        "killed by KILL, as the kernel does when memory is short (F3)",
        r#"[[text {"text":"partial"}]][[signal {"name":"KILL"}]]"#,
        Outcome::Crash,
        "the CLI ended without a result: signal 9",
    ),
    Row::new(
        "a segmentation fault (F3)",
        r#"[[signal {"name":"SEGV"}]]"#,
        Outcome::Crash,
        "the CLI ended without a result: signal 11",
    ),
    Row::new(
        "an abort (F3)",
        r#"[[signal {"name":"ABRT"}]]"#,
        Outcome::Crash,
        "the CLI ended without a result: signal 6",
    ),
    Row::new(
        "half an event, then the end (F3)",
        "[[half_line]]",
        Outcome::Crash,
        "the CLI ended without a result: exit code 0",
    ),
    Row::new(
        "it takes down attempt after attempt",
        r#"[[text {"text":"partial"}]][[no_result]]"#,
        Outcome::Poison,
        "",
    )
    .attempts(5),
    // Output of every shape.
    Row::new("bytes that are no text", r#"[[bad_utf8]][[text {"text":"fine"}]]"#, Outcome::Ok, "").costs(100, 20, 600),
    Row::new(
        "events of shapes that nobody knows",
        r#"[[event {"type":7,"message":[]}]][[event {"subtype":"init"}]][[text {"text":"fine"}]]"#,
        Outcome::Ok,
        "",
    )
    .costs(100, 20, 600),
    Row::new(
        "a flood of 20 MB of events",
        r#"[[flood {"events":20000,"bytes":1000}]][[text {"text":"fine"}]]"#,
        Outcome::Ok,
        "",
    )
    .costs(100, 20, 600),
    Row::new(
        "a flood on stderr",
        r#"[[stderr {"lines":20000}]][[text {"text":"fine"}]]"#,
        Outcome::Ok,
        "",
    )
    .costs(100, 20, 600),
    Row::new("it holds 200 MiB", r#"[[alloc {"mib":200}]][[text {"text":"fine"}]]"#, Outcome::Ok, "").costs(100, 20, 600),
    // It will not go (F1, F2, F7).
    Row::new(
        "a result, then it never exits (F2)",
        r#"[[hang_after_result]][[text {"text":"done"}]]"#,
        Outcome::Ok,
        "",
    )
    .costs(100, 20, 600),
    Row::new(
        "a result, then it never exits and is deaf to INT and TERM (F2)",
        r#"[[ignore {"interrupt":true}]][[hang_after_result]][[text {"text":"done"}]]"#,
        Outcome::Ok,
        "",
    )
    .costs(100, 20, 600),
    Row::new(
        "it leaves a process behind that holds its stdout (F2, F7)",
        r#"[[daemon {"hold_stdout":true}]][[text {"text":"done"}]]"#,
        Outcome::Ok,
        "",
    )
    .costs(100, 20, 600),
    Row::new(
        "it crashes and leaves a process behind (F7)",
        r#"[[daemon]][[signal {"name":"KILL"}]]"#,
        Outcome::Crash,
        "signal 9",
    ),
    Row::new(
        "a tool leaves processes behind (F7)",
        r#"[[tool {"name":"Bash","input":{"command":"setsid sh -c 'trap \"\" TERM INT HUP; sleep 600' >/dev/null 2>&1 & nohup sleep 600 >/dev/null 2>&1 & echo left"}}]][[text {"text":"done"}]]"#,
        Outcome::Ok,
        "",
    )
    .costs(200, 40, 1_200),
    Row::new(
        "longer than its time limit",
        r#"[[text {"text":"so far"}]][[tool {"name":"Bash","input":{"command":"sleep 600"}}]]"#,
        Outcome::Timeout,
        "it passed its time limit",
    )
    .timeout(1_500),
    Row::new(
        "longer than its time limit, deaf to interrupts, INT and TERM (F7)",
        r#"[[daemon]][[ignore {"interrupt":true,"eof":true}]][[sleep {"ms":600000}]][[text]]"#,
        Outcome::Timeout,
        "it passed its time limit",
    )
    .timeout(1_500),
    Row::new(
        "longer than its time limit, stopped by a signal of its own",
        r#"[[signal {"name":"STOP"}]]"#,
        Outcome::Timeout,
        "it passed its time limit",
    )
    .timeout(1_500),
    // Tools, turns, money (F5, F12, F14, F39).
    Row::new("a tool is denied, the work is done without it (F5)", r#"[[deny]][[text {"text":"without it"}]]"#, Outcome::Ok, "")
        .costs(200, 40, 1_200),
    Row::new(
        "a tool is denied, and the worker's file says that this fails (F5)",
        r#"[[deny]][[text {"text":"without it"}]]"#,
        Outcome::PermissionDenied,
        "denied: Bash(make)",
    )
    .by(STRICT)
    .costs(200, 40, 1_200),
    Row::new(
        "the worker's file says that a denied tool fails, and none is denied",
        r#"[[text {"text":"done"}]]"#,
        Outcome::Ok,
        "",
    )
    .by(STRICT)
    .costs(100, 20, 600),
    Row::new(
        "a tool that nobody offered (F5)",
        r#"[[tool {"name":"Teleport","input":{}}]][[text {"text":"without it"}]]"#,
        Outcome::Ok,
        "",
    )
    .costs(200, 40, 1_200),
    Row::new(
        "a tool that fails",
        r#"[[tool {"name":"Bash","input":{"command":"exit 7"}}]][[text {"text":"without it"}]]"#,
        Outcome::Ok,
        "",
    )
    .costs(200, 40, 1_200),
    Row::new(
        "tool after tool, up to the turn limit (F39)",
        r#"[[loop {"name":"Bash","input":{"command":"true"}}]]"#,
        Outcome::MaxTurns,
        "it reached its turn limit",
    )
    .max_turns(3),
    Row::new(
        "tool after tool, up to the budget",
        r#"[[loop {"name":"Bash","input":{"command":"true"}}]]"#,
        Outcome::Budget,
        "it reached its budget: Reached maximum budget ($0.001",
    )
    .budget(1_000)
    .costs(200, 40, 1_200),
    Row::new(
        "a sub-agent works on and on, up to the budget (F14)",
        r#"[[agent {"type":"test-runner","prompt":"[[loop {\"name\":\"Bash\",\"input\":{\"command\":\"true\"}}]]"}]]"#,
        Outcome::Budget,
        "it reached its budget: Reached maximum budget ($0.003",
    )
    .budget(3_000),
    Row::new(
        "a sub-agent goes round in circles until its own turn limit, 30 (F39)",
        r#"[[agent {"type":"test-runner","prompt":"[[loop {\"name\":\"Bash\",\"input\":{\"command\":\"true\"}}]]"}]][[text {"text":"went on without it"}]]"#,
        Outcome::Ok,
        "",
    )
    .costs(3_200, 640, 7_200),
    Row::new(
        "a sub-agent's calls of the API fail, and the work goes on (F39)",
        r#"[[agent {"type":"test-runner","prompt":"[[error {\"status\":500}]]"}]][[text {"text":"went on without it"}]]"#,
        Outcome::Ok,
        "",
    )
    .costs(200, 40, 1_200),
    Row::new(
        "each resumed turn costs more than the last, up to the budget (F12)",
        r#"[[grow {"factor":3}]][[text {"text":"partial"}]][[no_result]]"#,
        Outcome::Budget,
        "it reached its budget: Reached maximum budget ($0.0015",
    )
    .budget(1_500)
    .attempts(2),
    Row::new("a structured answer", r#"[[structured {"n":1}]]"#, Outcome::Ok, "").schema(SCHEMA).costs(100, 20, 600),
    Row::new(
        "a structured answer at the second attempt",
        r#"[[structured {"n":"one"}]][[structured {"n":1}]]"#,
        Outcome::Ok,
        "",
    )
    .schema(SCHEMA)
    .costs(200, 40, 1_200),
    Row::new(
        "a structured answer that never fits",
        r#"[[structured {"n":"1"}]][[structured {"n":"2"}]][[structured {"n":"3"}]][[structured {"n":"4"}]][[structured {"n":"5"}]]"#,
        Outcome::SchemaInvalid,
        "no attempt at a structured answer was valid",
    )
    .schema(SCHEMA)
    .costs(500, 100, 3_000),
    Row::new(
        "a structured answer that comes when it is asked for again",
        r#"[[text {"text":"just words"}]]"#,
        Outcome::Ok,
        "",
    )
    .schema(SCHEMA),
    Row::new(
        "the CLI ends before it can be asked again for a structured answer",
        r#"[[result {"structured_output":null}]][[text {"text":"just words"}]][[exit {"code":0}]]"#,
        Outcome::Crash,
        "",
    )
    .schema(SCHEMA),
    // The API fails.
    Row::new("the request is refused (400)", r#"[[error {"status":400,"message":"bad thing"}]]"#, Outcome::ApiError, "the API refused the request (status 400): API Error: 400 bad thing").costs(0, 0, 0),
    Row::new("the credential is refused (401)", r#"[[error {"status":401,"message":"no"}]]"#, Outcome::Auth, "the API did not accept the credential (status 401)").costs(0, 0, 0),
    Row::new("the credential is not allowed to do it (403)", r#"[[error {"status":403,"message":"no"}]]"#, Outcome::Auth, "the API does not allow this credential to do it (status 403)").costs(0, 0, 0),
    Row::new(
        "there is no such model (404)",
        r#"[[error {"status":404}]]"#,
        Outcome::ModelUnavailable,
        "the model claude-sonnet-5 does not exist or is not offered to this credential (status 404)",
    )
    .costs(0, 0, 0),
    Row::new("the rate limit, again and again (429)", r#"[[error {"status":429,"message":"slow down"}]]"#, Outcome::RateLimited, "the API limits the rate of this credential (status 429), also after the CLI's own retries")
        .costs(0, 0, 0),
    Row::new("the rate limit, twice (429)", r#"[[error {"status":429,"times":2}]][[text]]"#, Outcome::Ok, "").costs(100, 20, 600),
    Row::new(
        "the rate limit, for an hour (429)",
        r#"[[error {"status":429,"retry_after":3600}]]"#,
        Outcome::RateLimited,
        "the API limits the rate of this credential (status 429), for longer than the CLI waits by itself",
    )
    .parked()
    .costs(0, 0, 0),
    Row::new("the usage window is used up", "[[rate_limit]]", Outcome::RateLimited, "the 5-hour window of this subscription is used up until").parked().costs(0, 0, 0),
    Row::new(
        "the usage window is nearly used up",
        r#"[[rate_limit {"status":"allowed_warning","utilization":0.95}]][[text]]"#,
        Outcome::Ok,
        "",
    )
    .costs(100, 20, 600),
    Row::new("the API fails (500)", r#"[[error {"status":500,"message":"oops"}]]"#, Outcome::ApiError, "the API failed (status 500)").costs(0, 0, 0),
    Row::new("the API is overloaded (529)", r#"[[error {"status":529}]]"#, Outcome::ApiError, "the API is overloaded (status 529)").costs(0, 0, 0),
    Row::new("the API is overloaded at each attempt (529)", r#"[[error {"status":529}]]"#, Outcome::ApiError, "the API is overloaded (status 529)")
        .attempts(2)
        .costs(0, 0, 0),
    Row::new("the API is overloaded once (529)", r#"[[error {"status":529,"times":1}]][[text]]"#, Outcome::Ok, "").costs(100, 20, 600),
    Row::new("the connection is lost for good", "[[reset]]", Outcome::ApiError, "the API was not reached, or did not answer in time").costs(0, 0, 0),
    Row::new("an answer is cut off, each time", "[[cut]]", Outcome::ApiError, "the API was not reached, or did not answer in time").costs(0, 0, 0),
    Row::new("an answer is cut off once", r#"[[cut {"times":1}]][[text]]"#, Outcome::Ok, "").costs(100, 20, 600),
    Row::new("the model refuses", "[[refusal]]", Outcome::Refused, "the model refused").costs(100, 20, 600),
    Row::new(
        "every answer stops at the output limit",
        "[[maxtok]]",
        Outcome::LimitOutput,
        "the answer reached the model's output limit, also after three continuations",
    )
    .costs(400, 80, 2_400),
    Row::new("not logged in", "[[text]]", Outcome::Auth, "the CLI is not signed in").on(WITHOUT_LOGIN).costs(0, 0, 0),
    Row::new(
        "it rewrites its login file (F15)",
        r#"[[login]][[login {"file":".claude.json","content":"{}"}]][[text]]"#,
        Outcome::Ok,
        "",
    )
    .costs(100, 20, 600),
];

/// Limits of the agent that plays [`BOUNDED`]: small, but no hindrance to a CLI that starts on a busy machine.
pub const BOUNDS: &[&str] = &[
    "--start-limit",
    "10s",
    "--linger-limit",
    "2s",
    "--attempt-output",
    "4MiB",
    "--attempt-memory",
    "200MiB",
];

/// Rows that an agent with [`BOUNDS`] plays.
pub const BOUNDED: &[Row] = &[
    Row::new(
        "it never says a word (F1)",
        "[[hang_start]]",
        Outcome::Hang,
        "it said nothing from its start to the end of the start limit",
    ),
    Row::new(
        "it never says a word, each time (F1)",
        "[[hang_start]]",
        Outcome::Hang,
        "it said nothing from its start to the end of the start limit",
    )
    .attempts(2),
    Row::new(
        "it closes its output and lives on (F3)",
        r#"[[text {"text":"partial"}]][[close_stdout]][[sleep {"ms":600000}]][[text]]"#,
        Outcome::Hang,
        "it closed its output without a result and did not exit",
    ),
    Row::new(
        "it closes its output and lives on, deaf to INT and TERM (F3, F7)",
        r#"[[ignore {"interrupt":true,"eof":true}]][[daemon]][[close_stdout]][[sleep {"ms":600000}]][[text]]"#,
        Outcome::Hang,
        "it closed its output without a result and did not exit",
    ),
    Row::new(
        "a result, then it lingers (F2)",
        r#"[[hang_after_result]][[text {"text":"done"}]]"#,
        Outcome::Ok,
        "",
    )
    .costs(100, 20, 600),
    Row::new(
        "more output than an attempt may write",
        r#"[[flood {"events":20000000,"bytes":1000}]][[text]]"#,
        Outcome::LimitOutput,
        "it wrote more than an attempt may",
    ),
    Row::new(
        "one line that is longer than an attempt may write",
        r#"[[big_line {"bytes":104857600}]][[text]]"#,
        Outcome::LimitOutput,
        "it wrote more than an attempt may",
    ),
    Row::new(
        "more on stderr than an attempt may write",
        r#"[[stderr {"lines":20000000}]][[text]]"#,
        Outcome::LimitOutput,
        "it wrote more than an attempt may",
    ),
    Row::new(
        "more memory than an attempt may have (F8)",
        r#"[[text {"text":"partial"}]][[alloc {"mib":400}]][[sleep {"ms":600000}]][[text]]"#,
        Outcome::Crash,
        "it used more memory than an attempt may",
    ),
];
