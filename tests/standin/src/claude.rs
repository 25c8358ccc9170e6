//! Knows how to be a program with the command line and the control protocol of `claude` 2.1.197, headless, whose
//! model is a script in the prompt or, without one, a labelled rehearsal. It says what it is: in `--version`, once
//! on stderr, and in every init event (`orch_standin`). Refuses to call any model or leave the machine: asked to (directive
//! `api`), it calls an endpoint on loopback as the real one would.

use std::ffi::OsString;
use std::process::ExitCode;

use serde_json::json;
use tokio_util::task::TaskTracker;

mod agent;
mod args;
mod bill;
mod calls;
mod control;
mod environment;
mod events;
mod failures;
mod faults;
mod history;
mod input;
mod mind;
mod output;
mod permissions;
mod remote;
mod replay;
mod session;
mod settings;
mod thread;
mod tools;
mod turn;

pub use replay::{Recorded, index, stream};

use args::Args;
use environment::{Credential, Environment};
use output::Out;
use session::Session;
use settings::{Output, Settings};

/// Runs the scripted CLI. The first of `args` is the program's name (or the hidden subcommand that stands in
/// its place); stdin, stdout and stderr are the process's own.
pub fn main_with_args(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let argv: Vec<String> = args.into_iter().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    let env = Environment::read();
    if argv.first().is_some_and(|word| word == "auth") {
        return auth(&argv, &env);
    }
    let parsed = match Args::parse(argv.iter().cloned()) {
        Ok(parsed) => parsed,
        Err(complaint) => return refuse(&complaint),
    };
    if parsed.has("--version") {
        say(&format!("{} (orch stand-in, not Claude)", events::VERSION));
        return ExitCode::SUCCESS;
    }
    if parsed.has("--help") || parsed.has("--standin-help") {
        say("The orch stand-in for `claude -p`: same flags, scripted by [[directives]] in the prompt.\n");
        say(&crate::script::catalogue::markdown());
        return ExitCode::SUCCESS;
    }
    let settings = match Settings::build(&parsed, argv, env) {
        Ok(settings) => settings,
        Err(complaint) => return refuse(&complaint),
    };
    complain("orch stand-in: this is a rehearsal, not Claude; no model is called");
    run(settings)
}

fn run(settings: Settings) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return refuse(&format!("Error: cannot start: {error}")),
    };
    let code = runtime.block_on(async {
        let tasks = TaskTracker::new();
        let out = Out::start(&tasks);
        conduct(settings, out, &tasks).await
    });
    // A thread may still be blocked in a read of stdin; it must not hold up the end.
    runtime.shutdown_background();
    ExitCode::from(code)
}

async fn conduct(settings: Settings, out: Out, tasks: &TaskTracker) -> u8 {
    let prompt = match prompt(&settings).await {
        Ok(prompt) => prompt,
        Err(complaint) => {
            complain(&complaint);
            return 1;
        }
    };
    let session_id = settings.session_id();
    let stream = settings.output == Output::StreamJson;
    match Session::start(settings, out.clone(), tasks) {
        Ok(session) => session.run(prompt).await,
        Err(complaint) => {
            complain(&complaint);
            if stream && complaint.starts_with("No conversation found") {
                let result = json!({
                    "type": "result", "subtype": "error_during_execution", "duration_ms": 0, "duration_api_ms": 0,
                    "is_error": true, "num_turns": 0, "stop_reason": null, "session_id": session_id, "total_cost_usd": 0,
                    "usage": crate::models::Usage::default().result_json(), "modelUsage": {}, "permission_denials": [],
                    "uuid": uuid::Uuid::new_v5(&session_id, b"no conversation"), "errors": [complaint],
                });
                out.line(result.to_string()).await;
                out.drain().await;
            }
            1
        }
    }
}

/// The prompt of text mode: the argument, stdin, or both; none in stream mode.
async fn prompt(settings: &Settings) -> Result<Option<String>, String> {
    if settings.stream_input {
        return Ok(None);
    }
    let piped = input::read_text().await.map_err(|error| error.to_string())?;
    let parts = [settings.prompt.clone().unwrap_or_default(), piped];
    let given: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    if given.is_empty() {
        let what =
            "Error: Input must be provided either through stdin or as a prompt argument when using --print";
        return Err(what.to_owned());
    }
    Ok(Some(given.join("\n")))
}

/// `auth status`, what a health check asks: exit 1 and JSON when nobody is signed in. `auth login` signs in to nothing
/// and writes a login file that says so; `auth logout` removes it.
fn auth(argv: &[String], env: &Environment) -> ExitCode {
    match argv.get(1).map(String::as_str) {
        Some("status") => auth_status(env),
        Some("login") => sign_in(env),
        Some("logout") => {
            // Nobody was signed in, or nobody is now.
            let _ = env.login_file().map(std::fs::remove_file);
            say("Successfully logged out from your Anthropic account.");
            ExitCode::SUCCESS
        }
        _ => refuse("error: the orch stand-in knows only `auth status`, `auth login` and `auth logout`"),
    }
}

fn sign_in(env: &Environment) -> ExitCode {
    let Some(file) = env.login_file() else {
        return refuse("Login failed: there is no configuration directory");
    };
    let login = json!({"claudeAiOauth": {
        "accessToken": "standin-access", "refreshToken": "standin-refresh", "expiresAt": 4_102_444_800_000_u64,
        "scopes": ["user:inference", "user:profile"], "subscriptionType": "max",
    }});
    let written = || -> std::io::Result<()> {
        use std::io::Write as _;
        use std::os::unix::fs::OpenOptionsExt as _;
        std::fs::create_dir_all(file.parent().unwrap_or(&file))?;
        let mut open = std::fs::OpenOptions::new();
        let mut open = open.write(true).create(true).truncate(true).mode(0o600).open(&file)?;
        open.write_all(login.to_string().as_bytes())
    };
    match written() {
        Ok(()) => {
            say("Login successful. (orch stand-in, not Claude: nobody was signed in anywhere)");
            ExitCode::SUCCESS
        }
        Err(error) => refuse(&format!("Login failed: {error}")),
    }
}

fn auth_status(env: &Environment) -> ExitCode {
    let mut status = json!({"loggedIn": env.logged_in(), "apiProvider": "firstParty", "orch_standin": true});
    status["authMethod"] = json!(match env.credential {
        Some(Credential::ApiKey) => "api_key",
        Some(Credential::Token) => "oauth_token",
        Some(Credential::LoginFile) => "claude.ai",
        None => "none",
    });
    if env.credential == Some(Credential::ApiKey) {
        status["apiKeySource"] = json!("ANTHROPIC_API_KEY");
    }
    if env.credential == Some(Credential::LoginFile) {
        status["subscriptionType"] = json!(env.subscription());
    }
    say(&format!("{status:#}"));
    ExitCode::from(u8::from(!env.logged_in()))
}

fn refuse(complaint: &str) -> ExitCode {
    complain(complaint);
    ExitCode::FAILURE
}

#[expect(clippy::print_stderr, reason = "a program's own messages")]
fn complain(text: &str) {
    eprintln!("{text}");
}

#[expect(clippy::print_stdout, reason = "the output of a program that only prints and exits")]
fn say(text: &str) {
    println!("{text}");
}
