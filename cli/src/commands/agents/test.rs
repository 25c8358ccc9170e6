//! `agents test`: every worker introduces itself on every connected agent. One run of pinned tasks, so that what is
//! tried is the whole way of a real task: placement, isolation, credential, CLI, model and back.

use std::time::Duration;

use orch_proto::v1::task_spec::Runner;
use orch_proto::v1::{Agent, AgentState, RunSpec, TaskSpec, Worker, WorkerTask};

use super::names;
use crate::args::fleet::TestArgs;
use crate::ask::agreed_meanwhile;
use crate::client::submission::Submission;
use crate::client::{Client, incomplete, new_request_id};
use crate::commands::{bulk, shown};
use crate::exit;
use crate::failure::{Failure, Outcome};
use crate::follow::{Display, ShowPlan, Until, follow};
use crate::live::model::Model;
use crate::output::figures::{dollars, plural, short, span, spent};
use crate::output::safe::one_line;
use crate::output::table::{Cell, Column, Table};
use crate::output::view::operate::IntroductionView;
use crate::output::view::outcome_word;
use crate::output::words::{BAD, GOOD};
use crate::refs::Reference;
use crate::results::{self, TaskResult};
use crate::session::Session;

/// What every worker is asked.
const QUESTION: &str = "Introduce yourself in two sentences: who you are and what you do. Use no tools.";
/// Name of the run.
const RUN: &str = "agents-test";
/// Ceiling of one introduction, in millionths of a US dollar. Two sentences cost a small part of it.
const CEILING: u64 = 500_000;
/// Limit of one attempt.
const ATTEMPT: Duration = Duration::from_secs(180);
/// Limit of it all: an agent that leaves in the middle must not make somebody wait for ever.
const WHOLE: Duration = Duration::from_secs(600);
/// Longest first line shown.
const LINE: usize = 200;
/// Longest task name, from the wire's documentation.
const LONGEST_NAME: usize = 63;

/// One agent and one worker that may introduce itself there.
struct Pair {
    agent: String,
    worker: String,
    task: String,
}

/// `orchctl agents test`.
pub(super) async fn run(session: &Session, args: &TestArgs) -> Outcome {
    let out = &session.out;
    let client = session.client()?;
    let (agents, code) = chosen(session, &client, args).await?;
    let workers = workers(&client, args.worker.as_deref()).await?;
    let (pairs, without) = pair(&agents, &workers);
    for (agent, worker, missing) in &without {
        out.note(&format!("  {agent} is not asked for {worker}: it does not offer {missing}"));
    }
    if pairs.is_empty() {
        return Err(Failure::new(exit::CONFLICT, "no agent can run any of the workers")
            .help("orchctl agents show NAME says what one offers"));
    }
    let most = dollars(CEILING * pairs.len() as u64, false);
    let plan = format!(
        "{} with the Claude CLI on {}: real money, usually a few cents, {most} at most",
        plural(pairs.len() as u64, "introduction"),
        plural(agents.len() as u64, "agent"),
    );
    if !agreed_meanwhile(out, &format!("{plan}. Go on?"), &format!("agents test asks for {plan}")).await? {
        out.note("nothing was asked");
        return Ok(exit::DONE);
    }
    out.hint(&plan);
    let answers = ask(session, &client, &pairs).await?;
    let views: Vec<_> = answers
        .iter()
        .map(|(pair, result)| IntroductionView::new(&pair.agent, &result.task, &result.answer))
        .collect();
    let refs = answers.iter().map(|(_, result)| result.task.r#ref.as_str());
    shown::list(out, &views, refs, || out.data(&table(&answers).render(out.stdout())))?;
    let failed = answers.iter().filter(|(_, result)| exit::of_task(&result.task) != exit::DONE).count();
    if failed > 0 {
        out.note(&format!("{failed} of {} failed: orchctl status REF says why", answers.len()));
    }
    Ok(if failed > 0 { exit::SOME_FAILED } else { code })
}

/// The agents that are asked, and what the exit code is so far: one that cannot be asked is a failure.
async fn chosen(session: &Session, client: &Client, args: &TestArgs) -> Outcome<(Vec<Agent>, u8)> {
    if args.names.is_empty() {
        let mut agents = client.agents().await?;
        agents.retain(|agent| agent.state() == AgentState::Ready);
        if agents.is_empty() {
            return Err(Failure::new(exit::CONFLICT, "no agent is ready").help("orchctl agents"));
        }
        return Ok((agents, exit::DONE));
    }
    let (agents, code) = bulk::each(session, &args.names, async |name| {
        let agent = match client.agent(name).await {
            Ok(agent) => agent,
            Err(failure) => {
                return Err(bulk::explained(failure, name, async || names(client).await).await);
            }
        };
        if agent.state() == AgentState::Ready {
            return Ok(agent);
        }
        let message = format!("{name} takes no work: {}", one_line(&agent.detail, LINE));
        Err(Failure::new(exit::CONFLICT, message).help(format!("orchctl agents show {name}")))
    })
    .await?;
    if agents.is_empty() { Err(Failure::silent(exit::SOME_FAILED)) } else { Ok((agents, code)) }
}

async fn workers(client: &Client, only: Option<&str>) -> Outcome<Vec<Worker>> {
    let Some(name) = only else { return client.workers().await };
    match client.worker(name).await {
        Ok((worker, _)) => Ok(vec![worker]),
        Err(failure) => {
            let names = async || Ok(client.workers().await?.into_iter().map(|worker| worker.name).collect());
            Err(bulk::explained(failure, name, names).await)
        }
    }
}

type Without = Vec<(String, String, String)>;

/// Every worker on every agent that offers what it requires; and those that are left out.
fn pair(agents: &[Agent], workers: &[Worker]) -> (Vec<Pair>, Without) {
    let (mut pairs, mut without) = (Vec::new(), Vec::new());
    for agent in agents {
        for worker in workers {
            match missing(agent, worker) {
                Some(missing) => without.push((agent.name.clone(), worker.name.clone(), missing)),
                None => {
                    let task = task_name(&agent.name, &worker.name, pairs.len());
                    pairs.push(Pair { agent: agent.name.clone(), worker: worker.name.clone(), task });
                }
            }
        }
    }
    (pairs, without)
}

/// What a worker needs that an agent lacks.
pub(in crate::commands) fn missing(agent: &Agent, worker: &Worker) -> Option<String> {
    if !agent.runners.is_empty() && !agent.runners.iter().any(|runner| runner == "claude") {
        return Some("the runner claude".to_owned());
    }
    let wanted = worker.requires.iter().map(|(key, value)| format!("{key}={value}"));
    wanted.into_iter().find(|wanted| !agent.capabilities.contains(wanted))
}

fn task_name(agent: &str, worker: &str, number: usize) -> String {
    let name = format!("{agent}.{worker}");
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if name.len() <= LONGEST_NAME && name.bytes().all(plain) { name } else { format!("pair-{number}") }
}

fn specification(pairs: &[Pair]) -> RunSpec {
    let task = |pair: &Pair| TaskSpec {
        task_id: pair.task.clone(),
        runner: Some(Runner::Worker(WorkerTask {
            worker: pair.worker.clone(),
            description: QUESTION.to_owned(),
            budget_micro_usd: Some(CEILING),
            ..WorkerTask::default()
        })),
        agent: pair.agent.clone(),
        retries: Some(0),
        timeout: ATTEMPT.try_into().ok(),
        ..TaskSpec::default()
    };
    RunSpec { name: RUN.to_owned(), tasks: pairs.iter().map(task).collect(), ..RunSpec::default() }
}

/// Submits, follows on stderr, and fetches what came of it. What is not over in time is cancelled.
async fn ask<'a>(
    session: &Session,
    client: &Client,
    pairs: &'a [Pair],
) -> Outcome<Vec<(&'a Pair, TaskResult)>> {
    let submission =
        Submission { spec: specification(pairs), request_id: new_request_id(), validate_only: false };
    let run = client.submit(submission).await?.run.ok_or_else(|| incomplete("SubmitRun"))?;
    session.follows(&run.r#ref, true);
    let display = Display::choose(&session.out, session.out.stderr())?;
    let until = Until {
        reached: &Model::has_ended,
        stuck: true,
        plan: ShowPlan::Never,
        ctrl_c: "Ctrl-C cancels the test",
    };
    let followed = follow(client, &run.r#ref, display, until);
    match tokio::time::timeout(WHOLE, followed).await {
        Ok(ended) => drop(ended?),
        Err(_) => session.out.note(&format!("not over after {}; the rest is cancelled", short(WHOLE))),
    }
    let reference = Reference::parse(&run.r#ref)?;
    let now = client.run(&reference).await?;
    let now = if crate::output::words::run_ended(now.state()) {
        now
    } else {
        client.cancel(&run.r#ref, "the test is over").await?.run.unwrap_or(now)
    };
    let mut results = results::fetch(client, now).await?.tasks;
    let found = pairs.iter().filter_map(|pair| {
        let at = results.iter().position(|result| result.task.task_id == pair.task)?;
        Some((pair, results.swap_remove(at)))
    });
    Ok(found.collect())
}

fn table(answers: &[(&Pair, TaskResult)]) -> Table {
    let mut table = Table::new([
        Column::Whole("AGENT"),
        Column::Whole("WORKER"),
        Column::Whole("RESULT"),
        Column::Figures("TIME"),
        Column::Figures("COST"),
        Column::Words("SAYS"),
    ]);
    for (pair, TaskResult { task, answer, .. }) in answers {
        let ok = exit::of_task(task) == exit::DONE;
        let word = outcome_word(task.outcome()).unwrap_or("no answer");
        let first = answer.trim().lines().next().unwrap_or_default();
        table.row([
            Cell::from(&pair.agent),
            Cell::from(&pair.worker),
            if ok { Cell::styled("✔ ok", GOOD) } else { Cell::styled(format!("✗ {word}"), BAD) },
            Cell::from(span(task.execution_time).map(short).unwrap_or_default()),
            Cell::from(spent(task.usage.as_ref())),
            Cell::from(one_line(if ok { first } else { &task.detail }, LINE)),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(name: &str, capabilities: &[&str]) -> Agent {
        Agent {
            name: name.into(),
            capabilities: capabilities.iter().map(|text| (*text).to_owned()).collect(),
            runners: vec!["claude".into()],
            ..Agent::default()
        }
    }

    #[test]
    fn a_worker_is_tried_only_where_it_could_run() {
        let marie = Worker {
            name: "marie".into(),
            requires: [("workspace".to_owned(), "dance".to_owned())].into(),
            ..Worker::default()
        };
        let anga = Worker { name: "anga".into(), ..Worker::default() };
        let bare = Agent { runners: vec!["noop".into()], ..agent("box-3", &[]) };
        let agents = [agent("box-1", &["workspace=dance"]), agent("box-2", &["workspace=other"]), bare];
        let (pairs, without) = pair(&agents, &[anga, marie]);
        let tasks: Vec<_> = pairs.iter().map(|pair| pair.task.as_str()).collect();
        assert_eq!(tasks, ["box-1.anga", "box-1.marie", "box-2.anga"]);
        assert_eq!(without[0], ("box-2".into(), "marie".into(), "workspace=dance".into()));
        assert_eq!(without.len(), 3);
    }

    #[test]
    fn every_task_is_pinned_tried_once_and_bounded() {
        let pairs = [Pair { agent: "box-1".into(), worker: "anga".into(), task: "t".into() }];
        let spec = specification(&pairs);
        let task = &spec.tasks[0];
        assert_eq!((task.agent.as_str(), task.retries), ("box-1", Some(0)));
        let Some(Runner::Worker(work)) = &task.runner else { panic!("{task:?}") };
        assert_eq!(work.budget_micro_usd, Some(CEILING));
    }

    #[test]
    fn names_that_are_too_long_for_a_task_become_numbers() {
        assert_eq!(task_name("box-1", "anga", 0), "box-1.anga");
        assert_eq!(task_name(&"x".repeat(60), "anga", 7), "pair-7");
    }
}
