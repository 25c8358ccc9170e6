//! `demo`: a rehearsal of the whole thing on this machine. A coordinator and three agents as processes of their own and a
//! sample studio as workspace; a request in plain language is planned, done, checked, published and combined, shown live,
//! every result printed, nothing left behind. Unless `--real` is given, a stand-in plays the Claude CLI, and it is said so
//! wherever somebody could take it for the real one.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use orch_proto::codes::ErrorCode;
use orch_proto::v1::task_spec::Runner;
use orch_proto::v1::{BudgetLimit, BudgetMode, PlannedRequest, Run, RunSpec};

use crate::args::Format;
use crate::args::setup::DemoArgs;
use crate::ask::agreed;
use crate::client::submission::Submission;
use crate::client::{Client, incomplete, new_request_id};
use crate::dev::credential::{self, Consent, Credential};
use crate::dev::fleet::{Fleet, News};
use crate::dev::layout::{self, AgentPlan, CoordinatorPlan, Given, Layout};
use crate::dev::setup::{self, Setup};
use crate::embedded;
use crate::exit;
use crate::failure::{Failure, Outcome};
use crate::follow::{Display, Ending, ShowPlan, Until, follow};
use crate::live::model::Model;
use crate::output::Out;
use crate::output::figures::{dollars, plural};
use crate::output::words::{BOLD, WARN};
use crate::refs::Reference;
use crate::results;
use crate::runfile;
use crate::session::interrupt;

mod studio;

/// What is asked in a rehearsal.
const REQUEST: &str = "Evaluate all students in my hip-hop class. Also have the script tools/free-places.sh reviewed, and \
                       write the announcement of the class for the newsletter.";
/// The same as fixed tasks, in the format of `orchctl run -f`: for the real CLI, so that whoever is asked whether to spend
/// knows what on. The cap is a budget over the run, retries and repairs included.
const STORY: &str = include_str!("demo/story.json");
/// Name of the workspace.
const WORKSPACE: &str = "dance";
/// Agents of a rehearsal.
const AGENTS: [&str; 3] = ["studio-1", "studio-2", "studio-3"];
/// Slots of each: two tasks at a time show that they share the work.
const SLOTS: u32 = 2;
/// Longest demo; a rehearsal takes seconds, the real CLI minutes.
const LIMIT: Duration = Duration::from_secs(30 * 60);

/// `orchctl demo`.
pub(crate) async fn run(out: &Out, args: DemoArgs, timeout: Option<Duration>) -> Outcome {
    let spec = if args.real {
        capped(runfile::read("story.json", STORY.as_bytes())?, args.max_cost)
    } else {
        planned()
    };
    introduce(out, &args, &spec);
    if args.real && !agreed(out, "Go on?", "demo --real asks before it spends money")? {
        return Ok(exit::CANCELLED);
    }
    let stage = Stage::new(&args)?;
    let outcome = play(out, &args, &stage, spec, timeout.unwrap_or(LIMIT)).await;
    stage.leave(out);
    outcome
}

/// Says what is about to happen, before it does.
fn introduce(out: &Out, args: &DemoArgs, spec: &RunSpec) {
    if args.real {
        let tasks = plural(spec.tasks.len() as u64, "task");
        out.note(&format!(
            "This runs {tasks} with the Claude CLI. It costs real money: at most {}, by a budget over the run.",
            dollars(args.max_cost, false)
        ));
        return;
    }
    let text = "REHEARSAL: a stand-in plays the Claude CLI. No model is asked, nothing leaves this machine, nothing is spent.";
    out.note(&out.stderr().paint(WARN, text));
    out.note(&format!(
        "A coordinator and {} agents start as processes of their own, with a sample dance studio as workspace. Asked is:",
        AGENTS.len()
    ));
    out.note(&format!("  {REQUEST}"));
}

/// The request, to be planned.
fn planned() -> RunSpec {
    RunSpec {
        name: "demo".to_owned(),
        labels: [("purpose".to_owned(), "rehearsal".to_owned())].into(),
        workspace: WORKSPACE.to_owned(),
        request: Some(PlannedRequest { text: REQUEST.to_owned(), ..PlannedRequest::default() }),
        ..RunSpec::default()
    }
}

/// The cap over the run, and in equal parts for the attempts: the CLI itself stops there, wherever no gateway is between
/// it and the API.
fn capped(mut spec: RunSpec, cap: u64) -> RunSpec {
    spec.budget =
        Some(BudgetLimit { micro_usd: Some(cap), mode: BudgetMode::Hard.into(), ..BudgetLimit::default() });
    let share = cap / spec.tasks.len().max(1) as u64;
    for task in &mut spec.tasks {
        if let Some(Runner::Worker(work)) = &mut task.runner {
            work.budget_micro_usd = Some(share.max(1));
        }
    }
    spec
}

/// Where it takes place.
struct Stage {
    dir: PathBuf,
    temporary: Option<tempfile::TempDir>,
}

impl Stage {
    /// Where the studio lies: beside the fleet, whose directory agents hide from their tasks.
    fn studio(&self) -> PathBuf {
        self.dir.join("studio")
    }

    fn fleet(&self) -> PathBuf {
        self.dir.join("fleet")
    }

    fn new(args: &DemoArgs) -> Outcome<Self> {
        if let Some(dir) = &args.dir {
            let dir = std::path::absolute(dir)
                .map_err(|error| Failure::usage(format!("{} is not a path", dir.display())).cause(error))?;
            return Ok(Self { dir, temporary: None });
        }
        let temporary = tempfile::Builder::new().prefix("orch-demo-").tempdir().map_err(|error| {
            Failure::new(exit::FAILED, "cannot make a temporary directory")
                .cause(error)
                .help("name one with --dir")
        })?;
        if args.keep {
            return Ok(Self { dir: temporary.keep(), temporary: None });
        }
        Ok(Self { dir: temporary.path().to_owned(), temporary: Some(temporary) })
    }

    fn leave(self, out: &Out) {
        match self.temporary {
            Some(temporary) => {
                if let Err(error) = temporary.close() {
                    out.note(&format!("{} could not be removed: {error}", self.dir.display()));
                }
            }
            None => out.note(&format!("everything is left in {} to look at", self.dir.display())),
        }
    }
}

/// Starts the fleet, performs, and stops the fleet however the performance ended.
async fn play(out: &Out, args: &DemoArgs, stage: &Stage, spec: RunSpec, limit: Duration) -> Outcome {
    let setup = prepare(args, stage)?;
    let started = tokio::select! {
        started = Fleet::start(setup) => started,
        code = interrupt() => return Ok(code),
    };
    let mut fleet = started?;
    let outcome = match open(out, &fleet) {
        Ok(client) => tokio::select! {
            outcome = perform(out, args, stage, &client, spec) => outcome,
            failure = tend(out, &mut fleet) => Err(failure),
            code = interrupt() => Ok(code),
            () = tokio::time::sleep(limit) => {
                Err(Failure::coded(ErrorCode::DeadlinePassed, format!("the demo took longer than {} s", limit.as_secs())))
            }
        },
        Err(failure) => Err(failure),
    };
    for left in fleet.stop().await {
        out.note(&left);
    }
    outcome
}

fn open(out: &Out, fleet: &Fleet) -> Outcome<Client> {
    let (endpoints, pids) = fleet.running();
    out.hint(&format!("coordinator https://{} (pid {})", endpoints.grpc, pids.coordinator));
    for (name, pid) in &pids.agents {
        out.hint(&format!("agent {name} (pid {pid})"));
    }
    Client::new(&fleet.context())
}

/// Keeps the fleet going; returns only when it cannot be.
async fn tend(out: &Out, fleet: &mut Fleet) -> Failure {
    loop {
        match fleet.tend().await {
            Ok(News::Died { name, how, .. }) => {
                out.note(&format!("{name} ended ({how}) and is started again"))
            }
            Ok(News::Back { name, .. }) => out.note(&format!("{name} is back")),
            Err(failure) => return failure,
        }
    }
}

async fn perform(out: &Out, args: &DemoArgs, stage: &Stage, client: &Client, spec: RunSpec) -> Outcome {
    let submission = Submission { spec, request_id: new_request_id(), validate_only: false };
    let Run { r#ref: run, .. } =
        client.submit(submission).await?.run.ok_or_else(|| incomplete("SubmitRun"))?;
    out.hint(&format!("submitted {run}"));
    let display = Display::choose(out, out.stderr())?;
    let ending = follow(
        client,
        &run,
        display,
        Until {
            reached: &Model::has_ended,
            stuck: true,
            plan: ShowPlan::News,
            ctrl_c: "Ctrl-C stops the demo",
        },
    )
    .await?;
    let code = match &ending {
        Ending::Reached(model) => exit::of_run(&model.run, model.tasks()),
        Ending::Stuck(_, reasons) => {
            return Err(Failure::coded(
                ErrorCode::Impossible,
                format!("{run} cannot go on: {}", reasons.join("; ")),
            ));
        }
    };
    let result = results::fetch(client, client.run(&Reference::parse(&run)?).await?).await?;
    if out.format == Format::Table {
        out.line("")?;
    }
    results::print_run(out, result)?;
    if out.format == Format::Table {
        show_studio(out, &stage.studio())?;
    }
    if !args.real && out.format == Format::Table {
        out.line(&out.paint(
            BOLD,
            "This was a rehearsal: the answers, tokens and prices above are the stand-in's inventions.",
        ))?;
        out.hint("next: orchctl dev, then orchctl run \"…\" in another terminal");
    }
    Ok(code)
}

/// Names what was published.
fn show_studio(out: &Out, dir: &Path) -> Outcome<()> {
    out.line("")?;
    out.line("In the studio's folders now:")?;
    for path in studio::evaluations(dir) {
        out.line(&format!("  {}", path.display()))?;
    }
    Ok(())
}

fn prepare(args: &DemoArgs, stage: &Stage) -> Outcome<Setup> {
    let (layout, lock) = setup::open(&stage.fleet())?;
    let workspace = stage.studio();
    studio::write(&workspace)
        .map_err(|error| Failure::new(exit::FAILED, "cannot write the sample studio").cause(error))?;
    let (claude_bin, credential) =
        if args.real { real_cli(&layout)? } else { (stand_in(&stage.fleet())?, Credential::default()) };
    let agents: Vec<_> = AGENTS
        .iter()
        .map(|name| AgentPlan {
            name: (*name).to_owned(),
            slots: Some(SLOTS),
            capabilities: Vec::new(),
            allow_commands: Vec::new(),
            workspaces: vec![(WORKSPACE.to_owned(), workspace.clone())],
            claude_bin: Some(claude_bin.clone()),
            credential: credential.given,
            api_base_url: credential.base_url.clone(),
        })
        .collect();
    setup::certificates(&layout, &agents, &[], SystemTime::now())?;
    let any_port = ([127, 0, 0, 1], 0).into();
    let coordinator =
        CoordinatorPlan { listen: any_port, probe: any_port, prompts: None, heartbeat_interval: None };
    Ok(Setup {
        layout,
        programs: setup::own_programs()?,
        coordinator,
        agents,
        ready_file: None,
        owns_orphans: true,
        lock,
    })
}

/// The Claude CLI of this machine and the caller's key.
fn real_cli(layout: &Layout) -> Outcome<(PathBuf, Credential)> {
    let path = std::env::var("PATH").unwrap_or_default();
    let claude = layout::on_path("claude", &path, setup::is_executable).ok_or_else(|| {
        Failure::usage("there is no `claude` on the PATH").help("npm install -g @anthropic-ai/claude-code")
    })?;
    let credential = credential::take(layout, &|name| std::env::var(name).ok(), &Consent::None)?;
    if credential.given == Given::Nothing {
        return Err(Failure::usage("ANTHROPIC_API_KEY is not set, and demo --real uses nothing else"));
    }
    Ok((claude, credential))
}

/// An executable that agents take for the Claude CLI.
fn stand_in(dir: &Path) -> Outcome<PathBuf> {
    let failed = |error: std::io::Error| Failure::new(exit::FAILED, "cannot write the stand-in").cause(error);
    let program = std::env::current_exe().map_err(failed)?;
    let path = dir.join("standin-claude");
    let mut file = fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o700)
        .open(&path)
        .map_err(failed)?;
    file.write_all(embedded::standin_script(&program).as_bytes()).map_err(failed)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fixed_story_asks_three_workers_for_what_the_request_asks() {
        let spec = runfile::read("story.json", STORY.as_bytes())
            .unwrap_or_else(|failure| panic!("{}", failure.text(false)));
        assert_eq!(spec.workspace, WORKSPACE);
        assert_eq!(spec.tasks.iter().filter(|task| !task.publish.is_empty()).count(), 3);
        let workers: std::collections::BTreeSet<_> = spec
            .tasks
            .iter()
            .map(|task| match &task.runner {
                Some(Runner::Worker(work)) => work.worker.clone(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(workers.into_iter().collect::<Vec<_>>(), ["anga", "fabien", "marie", "orchestrator"]);
    }

    #[test]
    fn the_cap_holds_over_the_run_and_is_shared_by_all_tasks() {
        let spec = runfile::read("story.json", STORY.as_bytes()).unwrap();
        let spec = capped(spec, 1_000_000);
        let sum: u64 = spec
            .tasks
            .iter()
            .map(|task| match &task.runner {
                Some(Runner::Worker(work)) => work.budget_micro_usd.unwrap(),
                other => panic!("{other:?}"),
            })
            .sum();
        assert!(sum > 900_000 && sum <= 1_000_000, "{sum}");
        let limit = spec.budget.unwrap();
        assert_eq!((limit.micro_usd, limit.mode()), (Some(1_000_000), BudgetMode::Hard), "repairs count too");
    }

    #[test]
    fn a_temporary_stage_goes_and_a_named_one_stays() {
        let args = DemoArgs { dir: None, keep: false, real: false, max_cost: 1 };
        let (out, _, _) = crate::output::testing::out(Format::Table, None);
        let stage = Stage::new(&args).unwrap();
        let dir = stage.dir.clone();
        assert!(dir.exists());
        stage.leave(&out);
        assert!(!dir.exists());

        let named = tempfile::tempdir().unwrap();
        let stage = Stage::new(&DemoArgs { dir: Some(named.path().into()), ..args }).unwrap();
        stage.leave(&out);
        assert!(named.path().exists());
    }
}
