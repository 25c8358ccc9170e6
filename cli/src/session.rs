//! One run of the program: output and connection, the limit on its time, and what Ctrl-C does. Interrupting a command
//! never touches the work it looks at, unless that was asked for.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use orch_proto::codes::ErrorCode;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::artifacts::ArtifactsCommand;
use crate::args::workflows::WorkflowsCommand;
use crate::args::{Cli, Command, Connection, OutputFormat};
use crate::client::Client;
use crate::commands;
use crate::config::{self, Defaults};
use crate::context::{self, Context, Surroundings};
use crate::exit;
use crate::failure::{Failure, Outcome};
use crate::output::Out;
use crate::output::figures::short;
use crate::output::safe::one_line;
use crate::settings::Settings;

/// Limit on commands that ask something and print the answer.
const QUICK: Duration = Duration::from_secs(30);
/// Longest note told.
const TOLD: usize = 300;
/// Longest wait for a cancellation on the way out.
const CANCEL_LIMIT: Duration = Duration::from_secs(10);

/// What every command gets.
pub(crate) struct Session {
    /// Where to print.
    pub(crate) out: Out,
    connection: Connection,
    client: Mutex<Option<Client>>,
    following: Arc<Mutex<Option<Following>>>,
    /// What to say to somebody who leaves a command that follows no run; empty: nothing in particular.
    left: Mutex<&'static str>,
}

/// The run that a command follows.
#[derive(Debug, Clone)]
struct Following {
    reference: String,
    cancel_on_interrupt: bool,
}

impl Session {
    /// A session that has not looked for a coordinator yet.
    pub(crate) fn new(out: Out, connection: Connection) -> Self {
        Self { out, connection, client: Mutex::default(), following: Arc::default(), left: Mutex::default() }
    }

    /// The client of the coordinator that flags, variables and files name.
    pub(crate) fn client(&self) -> Outcome<Client> {
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = &*client {
            return Ok(client.clone());
        }
        let context = self.context()?;
        for note in &context.notes {
            self.out.note(&format!("note: {note}"));
        }
        tracing::debug!(endpoint = context.endpoint, origin = context.origin, "context");
        Ok(client.insert(Client::new(&context)?).clone())
    }

    /// The context that flags, variables and files name. Nothing is dialled.
    pub(crate) fn context(&self) -> Outcome<Context> {
        let cwd = std::env::current_dir()
            .map_err(|error| Failure::usage("there is no working directory").cause(error))?;
        let var = |name: &str| std::env::var(name).ok();
        let uid = rustix::process::geteuid().as_raw();
        context::resolve(&self.connection, &Surroundings { var: &var, cwd: &cwd, uid })
    }

    /// The flags of the connection as they were given.
    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Says that a broken configuration file is not used. It is not in the way of commands that do not need it; the
    /// others meet it again as an error, and once is enough.
    fn without_defaults(&self, broken: &Failure) {
        let met_again = self.context().is_err_and(|error| error.message() == broken.message());
        if !met_again {
            self.out.note(&format!("note: no defaults are read: {}", one_line(broken.message(), TOLD)));
        }
    }

    /// Uses a client made elsewhere.
    #[cfg(test)]
    pub(crate) fn with_client(self, client: Client) -> Self {
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = Some(client);
        self
    }

    /// From now on an interrupt leaves, or cancels, this run.
    pub(crate) fn follows(&self, reference: &str, cancel_on_interrupt: bool) {
        let following = Following { reference: reference.to_owned(), cancel_on_interrupt };
        *self.following.lock().unwrap_or_else(PoisonError::into_inner) = Some(following);
    }

    /// What leaving the command from now on means; empty: nothing in particular.
    pub(crate) fn when_left(&self, says: &'static str) {
        *self.left.lock().unwrap_or_else(PoisonError::into_inner) = says;
    }

    fn left(&self) -> &'static str {
        *self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn following(&self) -> Option<Following> {
        self.following.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What to say, and do, when the command is interrupted.
    async fn interrupted(&self, code: u8) -> u8 {
        let Some(Following { reference, cancel_on_interrupt }) = self.following() else {
            self.out.note(
                match self.left() {
                    "" => "interrupted".to_owned(),
                    says => format!("interrupted; {says}"),
                }
                .as_str(),
            );
            return code;
        };
        if !cancel_on_interrupt {
            self.out.note(&format!("left; {reference} goes on: orchctl watch {reference}"));
            return code;
        }
        let cancelled = async { self.client()?.cancel(&reference, "interrupted").await };
        match tokio::time::timeout(CANCEL_LIMIT, cancelled).await {
            Ok(Ok(_)) => self.out.note(&format!("cancelled {reference}")),
            Ok(Err(failure)) => self.out.failure(&failure),
            Err(_) => self.out.note(&format!("{reference} could not be cancelled in time and goes on")),
        }
        code
    }

    fn too_late(&self, limit: Duration) -> Failure {
        let message = format!("the command took longer than {}", short(limit));
        let failure = Failure::coded(ErrorCode::DeadlinePassed, message);
        match self.following() {
            Some(following) => {
                failure.help(format!("the run goes on: orchctl watch {}", following.reference))
            }
            None if self.left().is_empty() => failure.help("--timeout 5m allows more"),
            None => failure.help(self.left()).and_help("a longer --timeout allows more"),
        }
    }
}

/// Runs a parsed command line to its exit code.
pub(crate) fn run(cli: Cli) -> u8 {
    let Cli { global, command } = cli;
    let var = |name: &str| std::env::var(name).ok();
    let file = if is_offline(&command) { None } else { config::path(&var) };
    let (defaults, broken) = match file.map(|path| config::load(&path)) {
        Some(Ok(Some(config))) => (config.defaults, None),
        Some(Ok(None)) | None => (Defaults::default(), None),
        Some(Err(failure)) => (Defaults::default(), Some(failure)),
    };
    let out = match Settings::of(&global, command.goes_on(), &defaults, &var) {
        Ok(settings) => Out::new(&settings),
        Err(failure) => {
            let output = global.output.unwrap_or(OutputFormat::Table);
            Out::new(&Settings { output, ..Settings::default() }).failure(&failure);
            return failure.exit_code();
        }
    };
    start_logs(out.verbosity);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            out.failure(&Failure::new(exit::BUG, "cannot start the runtime").cause(error));
            return exit::BUG;
        }
    };
    let session = Session::new(out, global.connection);
    if let Some(failure) = broken.filter(|_| !reads_configuration(&command)) {
        session.without_defaults(&failure);
    }
    // Asked outside the runtime: an interrupt at the question ends the program as it always does.
    let code = match commands::consent::given(&session, &command) {
        Ok(true) => runtime.block_on(drive(&session, command, global.timeout)),
        Ok(false) => exit::CANCELLED,
        Err(failure) => {
            session.out.failure(&failure);
            failure.exit_code()
        }
    };
    // A read of stdin that nobody waits for any more would hold the process otherwise.
    runtime.shutdown_background();
    code
}

async fn drive(session: &Session, command: Command, timeout: Option<Duration>) -> u8 {
    let limit = timeout.or_else(|| is_quick(&command).then_some(QUICK));
    let outcome = if cleans_up(&command) {
        Box::pin(commands::run(session, command, timeout)).await
    } else {
        tokio::select! {
            outcome = Box::pin(commands::run(session, command, timeout)) => outcome,
            () = after(limit) => Err(session.too_late(limit.unwrap_or_default())),
            code = interrupt() => Ok(session.interrupted(code).await),
        }
    };
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            session.out.failure(&failure);
            failure.exit_code()
        }
    }
}

/// Commands that own processes see signals and the limit themselves.
fn cleans_up(command: &Command) -> bool {
    #[cfg(feature = "dev")]
    if matches!(command, Command::Dev(_) | Command::Demo(_)) {
        return true;
    }
    let _ = command;
    false
}

/// Commands that ask something and print the answer.
fn is_quick(command: &Command) -> bool {
    match command {
        #[cfg(feature = "dev")]
        Command::Dev(_) | Command::Demo(_) => false,
        Command::Status(args) => !args.watching.watch,
        Command::Ls(args) => !args.watching.watch,
        Command::Agents(args) => args.is_quick(),
        Command::Events(args) => !args.follow,
        Command::Admin(args) => args.is_quick(),
        Command::Limits(args) => !args.watching.watch,
        Command::Workers(_)
        | Command::Doctor(_)
        | Command::Result(_)
        | Command::Cancel(_)
        | Command::Retry(_)
        | Command::Approve(_)
        | Command::Reject(_)
        | Command::Explain(_)
        | Command::Costs(_)
        | Command::Budgets(_) => true,
        Command::Artifacts(args) => matches!(args.command, ArtifactsCommand::List(_)),
        Command::Workflows(args) => !matches!(args.command, Some(WorkflowsCommand::Run(_))),
        Command::Init(_)
        | Command::Certs(_)
        | Command::Submit(_)
        | Command::Run(_)
        | Command::Watch(_)
        | Command::Logs(_)
        | Command::Wait(_)
        | Command::Batch(_)
        | Command::Bridge(_)
        // Somebody may be editing.
        | Command::Edit(_)
        | Command::Bench(_)
        | Command::Context(_)
        | Command::Config(_)
        | Command::Schema(_)
        | Command::Completions(_)
        | Command::Help(_) => false,
    }
}

/// Commands that look at nothing but themselves: they work whatever a file holds, and are fast.
fn is_offline(command: &Command) -> bool {
    matches!(command, Command::Help(_) | Command::Completions(_) | Command::Schema(_))
}

/// Commands that read the configuration file themselves, and say what is wrong with it.
fn reads_configuration(command: &Command) -> bool {
    matches!(command, Command::Context(_) | Command::Config(_))
}

async fn after(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

/// Waits for a signal that asks the program to end, and returns its exit code.
pub(crate) async fn interrupt() -> u8 {
    let streams =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()), signal(SignalKind::hangup()));
    let (Ok(mut int), Ok(mut term), Ok(mut hup)) = streams else {
        // Without handlers the signals have their usual, final effect.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = int.recv() => exit::INTERRUPTED,
        _ = term.recv() => 128 + 15,
        _ = hup.recv() => 128 + 1,
    }
}

/// Log lines for whoever asks: `-v`, or `ORCHCTL_LOG` with a filter.
fn start_logs(verbosity: i8) {
    use tracing_subscriber::EnvFilter;
    let level = match verbosity {
        ..=0 => "off",
        1 => "orchctl=debug",
        _ => "debug",
    };
    let filter = std::env::var("ORCHCTL_LOG").unwrap_or_else(|_| level.to_owned());
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new(level));
    // In tests of the library a subscriber may be there already.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
}
