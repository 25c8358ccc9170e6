//! `dev`: a coordinator and agents on this machine, each a process of its own, started from this very program and kept
//! running until Ctrl-C. Knows the terminal's side of it; the processes are [`fleet`]'s.
//!
//! | Module | Holds |
//! |---|---|
//! | [`layout`] | which file lies where, and the arguments of each daemon; pure |
//! | [`setup`] | directories, lock, certificates, ports, credential |
//! | [`credential`] | whose credential the agents use |
//! | [`daemon`] | one process: start, readiness, stop |
//! | [`fleet`] | all of them: order, restarts, end |
//! | [`restart`] | whether and when a daemon that died is started again; pure |
//! | [`notice`] | the files that tell others where everything is |
//! | [`orphans`] | processes that daemons left behind |

use std::io::IsTerminal as _;
use std::time::Duration;

use crate::args::Format;
use crate::args::setup::DevArgs;
use crate::ask::agreed;
use crate::exit;
use crate::failure::Outcome;
use crate::output::Out;
use crate::output::figures::plural;
use crate::output::words::{BAD, GOOD, WARN};
use crate::session::interrupt;
use crate::settings::Asking;

pub(crate) mod credential;
pub(crate) mod daemon;
pub(crate) mod fleet;
pub(crate) mod layout;
pub(crate) mod notice;
mod orphans;
mod restart;
pub(crate) mod setup;

use credential::Consent;
use fleet::{Fleet, News};
use layout::Given;
use setup::Setup;

/// `orchctl dev`.
pub(crate) async fn run(out: &Out, args: DevArgs, timeout: Option<Duration>) -> Outcome {
    let voice = Voice(out);
    let ask = |question: &str| agreed(out, question, "using your own login needs your consent");
    let consent = match args.use_my_login {
        true => Consent::Given,
        // Consent to something of this weight is given by its name, not by a yes to everything.
        false if out.asking == Asking::Ask && std::io::stdin().is_terminal() => Consent::Ask(&ask),
        false => Consent::None,
    };
    let (setup, told) = Setup::for_dev(&args, &|name| std::env::var(name).ok(), &consent)?;
    voice.say(&format!(
        "orch {} dev: everything on this machine, kept in {}",
        env!("CARGO_PKG_VERSION"),
        setup.layout.data_dir.display()
    ));
    voice.item(true, "certificates", &told.certificates);
    let started = tokio::select! {
        started = Fleet::start(setup) => started,
        code = stopped(timeout) => return Ok(code),
    };
    let mut fleet = started?;
    greet(&voice, &fleet, &told)?;
    let code = loop {
        tokio::select! {
            news = fleet.tend() => match news {
                Ok(news) => voice.news(&news),
                Err(failure) => {
                    out.failure(&failure);
                    break exit::FAILED;
                }
            },
            // Being asked to end is how it ends well.
            code = stopped(timeout) => break if code == exit::TIMED_OUT { code } else { exit::DONE },
        }
    };
    voice.say("stopping: agents first, then the coordinator");
    tokio::select! {
        left = fleet.stop() => left.iter().for_each(|text| voice.item(false, "left", text)),
        _ = interrupt() => fleet.kill().await,
    }
    voice.say("stopped");
    Ok(code)
}

/// The signal, or the time limit, that ends `dev`.
async fn stopped(timeout: Option<Duration>) -> u8 {
    let late = async {
        match timeout {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        code = interrupt() => code,
        () = late => exit::TIMED_OUT,
    }
}

fn greet(voice: &Voice<'_>, fleet: &Fleet, told: &setup::Told) -> Outcome<()> {
    let (endpoints, pids) = fleet.running();
    voice.item(true, "coordinator", &format!("https://{}  (pid {})", endpoints.grpc, pids.coordinator));
    voice.item(true, "probes", &format!("http://{}/readyz  /metrics", endpoints.probe));
    for (name, pid) in &pids.agents {
        voice.item(true, "agent", &format!("{name}  (pid {pid})"));
    }
    match &told.claude {
        Some(path) => voice.item(true, "claude", &path.display().to_string()),
        None => voice.item(
            false,
            "claude",
            "there is no `claude` on the PATH: workers cannot run until there is, or --claude-bin names it",
        ),
    }
    let given = told.credential.given;
    voice.item(given != Given::Nothing, "credential", credential::told(given));
    if let Some(url) = &told.credential.base_url {
        voice.item(true, "api", &format!("ANTHROPIC_BASE_URL of this terminal, {url}"));
    }
    for (name, dir) in &told.workspaces {
        voice.item(true, "workspace", &format!("{name}  {}", dir.display()));
    }
    voice.item(true, "logs", &fleet.layout().logs_dir().display().to_string());
    let context = fleet.layout().context_file();
    voice.say("In another terminal, in this directory or below:");
    voice.say("  orchctl run --worker anga \"Say hello in five languages\"");
    if let Some((name, _)) = told.workspaces.first() {
        voice.say(&format!(
            "  orchctl run --workspace {name} \"Say what is in this directory, and what is missing\""
        ));
    }
    voice.say("Elsewhere:");
    voice.say(&format!("  export {}={}", crate::context::CONTEXT_FILE_VAR, context.display()));
    voice.say("Ctrl-C stops everything; what was submitted is kept.");
    if voice.0.is_json() {
        voice.0.json(&fleet.notice())?;
    }
    Ok(())
}

/// How `dev` talks. It must go on when nobody can hear it: a terminal that died is a reason to clean up, not to fail.
struct Voice<'a>(&'a Out);

impl Voice<'_> {
    fn say(&self, text: &str) {
        if self.0.format == Format::Table {
            let _ = self.0.line(text);
        } else {
            self.0.hint(text);
        }
    }

    fn item(&self, good: bool, what: &str, text: &str) {
        let (glyph, style) = if good { ("✔", GOOD) } else { ("!", WARN) };
        self.say(&format!("  {} {what:<12} {text}", self.0.paint(style, glyph)));
    }

    fn news(&self, news: &News) {
        match news {
            News::Died { name, how, wait } => {
                let after = if wait.is_zero() { "now".to_owned() } else { format!("in {wait:?}") };
                let text = format!("{name} ended ({how}); starting it again {after}, same ports, same data");
                self.say(&format!("  {} {text}", self.0.paint(BAD, "✗")));
            }
            News::Back { name, pid, restarts } => {
                self.item(
                    true,
                    name,
                    &format!("is back (pid {pid}, {})", plural(u64::from(*restarts), "restart")),
                );
            }
        }
    }
}
