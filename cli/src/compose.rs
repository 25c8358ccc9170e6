//! How flags become a run: one task for a worker, a command or nothing, or a request that is planned. Pure; the texts
//! that flags point to are read by whoever calls, and so is the task whose conversation goes on.

use std::collections::BTreeMap;
use std::ffi::OsString;

use orch_proto::codes::ErrorCode;
use orch_proto::v1::task_spec::Runner as Work;
use orch_proto::v1::{
    BudgetLimit, BudgetMode, CommandTask, Gates, NoopTask, OnLoss, Publication, Review, RunSpec, TaskSpec,
    WorkerTask,
};

use crate::args::submit::{Checks, Runner, Terms, What};
use crate::failure::Failure;

mod request;

/// Longest description, from the wire's documentation.
pub(crate) const MAX_DESCRIPTION: usize = 8 << 20;

/// The texts that flags point to.
#[derive(Debug, Default)]
pub(crate) struct Material {
    /// The text argument, or stdin in its place.
    pub(crate) text: Option<String>,
    /// The content that `--context` names.
    pub(crate) context: String,
    /// The content of `--output-schema`.
    pub(crate) output_schema: String,
    /// The task that `--after` names.
    pub(crate) after: Option<Conversation>,
}

/// A conversation that goes on.
#[derive(Debug, Clone)]
pub(crate) struct Conversation {
    /// Ref of the task.
    pub(crate) reference: String,
    /// Its worker, who does what follows too.
    pub(crate) worker: String,
}

/// The run that flags describe.
///
/// # Errors
/// Wrong usage: exit code 2.
pub(crate) fn described(what: &What, material: Material) -> Result<RunSpec, Failure> {
    let continued = material.after.as_ref().map(|after| after.worker.clone());
    let work = match (what.worker.clone().or(continued), what.runner) {
        (Some(worker), _) => Work::Worker(worker_task(&worker, what, material)?),
        (None, Some(runner)) => {
            refuse_worker_terms(runner, what)?;
            match runner {
                Runner::Noop => noop(what)?,
                Runner::Command => command(what)?,
            }
        }
        (None, None) => return request::planned(what, material),
    };
    request::refuse_planning(&what.planning)?;
    let (terms, checks) = (&what.terms, &what.checks);
    let task = TaskSpec {
        task_id: String::new(),
        runner: Some(work),
        dependencies: Vec::new(),
        priority: terms.priority,
        timeout: terms.task_timeout.and_then(|timeout| timeout.try_into().ok()),
        retries: terms.retries,
        requires: terms.requires.iter().cloned().collect(),
        on_loss: terms.on_loss.unwrap_or(OnLoss::Unspecified).into(),
        agent: terms.agent.clone().unwrap_or_default(),
        gates: gates(checks),
        publish: publications(checks),
        cache: checks.cache,
        ..TaskSpec::default()
    };
    Ok(whole(RunSpec { tasks: vec![task], ..RunSpec::default() }, what))
}

/// The gates of flags, if there are any.
fn gates(checks: &Checks) -> Option<Gates> {
    let review = checks.review.clone().map(|worker| Review { worker, ..Review::default() });
    let gates = Gates {
        min_tool_calls: checks.min_tool_calls.unwrap_or(0),
        required_artifacts: checks.required_artifacts.clone(),
        commands: checks.gates.clone(),
        review,
        repairs: checks.repairs,
    };
    (gates != Gates::default()).then_some(gates)
}

fn publications(checks: &Checks) -> Vec<Publication> {
    let one = |(artifact, to): &(String, String)| Publication {
        artifact: artifact.clone(),
        to: to.clone(),
        replace: false,
    };
    checks.publish.iter().map(one).collect()
}

/// A run with what flags say of it as a whole: they win over a file.
pub(crate) fn whole(mut spec: RunSpec, what: &What) -> RunSpec {
    let flags = &what.whole;
    if let Some(workspace) = &flags.workspace {
        spec.workspace.clone_from(workspace);
    }
    if let Some(policy) = flags.on_failure {
        spec.set_on_failure(policy);
    }
    if let Some(limit) = flags.max_parallel {
        spec.max_parallel = limit;
    }
    spec.no_cache |= flags.no_cache;
    if let Some(limit) = flags.budget_limit() {
        spec.budget = Some(limit);
    }
    named(spec, what)
}

/// The budget of each attempt of a run's only task: that of the run, where it is one that stops. The run's own holds
/// over retries, repairs and everything below; this one has the CLI itself stop within a call too, wherever it asks the
/// API without a gateway in between.
pub(crate) fn of_an_attempt(limit: Option<&BudgetLimit>) -> Option<u64> {
    limit.filter(|limit| limit.mode() == BudgetMode::Hard).and_then(|limit| limit.micro_usd)
}

/// Refuses a budget over a run in which nothing can spend: it would limit nothing.
///
/// # Errors
/// E0113: exit code 2.
pub(crate) fn refuse_idle_budget(spec: &RunSpec) -> Result<(), Failure> {
    let spends = |task: &TaskSpec| matches!(task.runner, Some(Work::Worker(_)));
    let made_later = spec.request.is_some() || spec.workflow.is_some();
    if spec.budget.is_none() || made_later || spec.tasks.iter().any(spends) {
        return Ok(());
    }
    Err(Failure::coded(
        ErrorCode::BudgetNotEnforceable,
        "no task of the run is for a worker, so nothing in it spends and no budget can stop it",
    )
    .help("leave the budget out"))
}

/// A run with the name and labels of the flags, which win over those of a file.
fn named(mut spec: RunSpec, what: &What) -> RunSpec {
    if let Some(name) = &what.name {
        spec.name.clone_from(name);
    }
    spec.labels.extend(what.labels.iter().cloned().collect::<BTreeMap<_, _>>());
    spec
}

fn worker_task(worker: &str, what: &What, material: Material) -> Result<WorkerTask, Failure> {
    let continues = material.after.is_some();
    let text = text_for(worker, what, material.text, continues)?;
    if continues {
        refuse_with_after(what)?;
    }
    Ok(WorkerTask {
        worker: worker.to_owned(),
        description: text,
        context: material.context,
        model: what.terms.model.clone().unwrap_or_default(),
        output_schema: material.output_schema,
        budget_micro_usd: of_an_attempt(what.whole.budget_limit().as_ref()),
        max_turns: what.terms.max_turns,
        contract: what.checks.contract,
        after_ref: material.after.map(|after| after.reference).unwrap_or_default(),
    })
}

/// The one text that somebody gave.
fn text_for(who: &str, what: &What, text: Option<String>, continues: bool) -> Result<String, Failure> {
    let text = match (text, what.program.as_slice()) {
        (Some(text), []) => text,
        // After `--` a text may start with a dash.
        (None, [text]) => utf8(text)?,
        (None, []) => {
            let flag = if continues { "--after REF" } else { "--worker" };
            let flag = if continues { flag.to_owned() } else { format!("{flag} {who}") };
            return Err(Failure::usage(format!("nothing is said for {who} to do"))
                .help(format!("orchctl run {flag} \"what is to be done\", or - to read it from stdin")));
        }
        (_, [..]) => {
            return Err(Failure::usage("a worker takes one text")
                .help("put it in quotes; a program needs --runner command"));
        }
    };
    checked(who, text)
}

/// A text that may be sent.
fn checked(who: &str, text: String) -> Result<String, Failure> {
    if text.trim().is_empty() {
        return Err(Failure::coded(ErrorCode::EmptyPrompt, format!("the text for {who} is empty")));
    }
    if text.len() > MAX_DESCRIPTION {
        let message = format!("the text has {} bytes; at most 8 MiB are allowed", text.len());
        return Err(Failure::coded(ErrorCode::TooLarge, message));
    }
    Ok(text)
}

/// A conversation that goes on hears the text alone: what would change the rest of it is refused, never ignored.
fn refuse_with_after(what: &What) -> Result<(), Failure> {
    let given = [
        ("--model", what.terms.model.is_some()),
        ("--context", what.terms.context.is_some()),
        ("--context-file", !what.context_files.is_empty()),
        ("--agent", what.terms.agent.is_some()),
    ];
    match given.iter().find(|(_, given)| *given) {
        Some((flag, _)) => Err(Failure::usage(format!(
            "{flag} means nothing with --after: the conversation goes on where it is, as it is"
        ))
        .help("put what is new into the text")),
        None => Ok(()),
    }
}

fn noop(what: &What) -> Result<Work, Failure> {
    if what.text.is_some() || !what.program.is_empty() {
        return Err(Failure::usage("the runner noop does nothing and takes no text"));
    }
    Ok(Work::Noop(NoopTask {}))
}

fn command(what: &What) -> Result<Work, Failure> {
    let example = "orchctl run --runner command -- make test";
    if what.text.is_some() {
        return Err(Failure::usage("the runner command takes a program after --, not a text").help(example));
    }
    let Some((program, args)) = what.program.split_first() else {
        return Err(Failure::coded(ErrorCode::RunnerMissing, "the runner command needs a program after --")
            .help(example));
    };
    let args = args.iter().map(utf8).collect::<Result<_, _>>()?;
    Ok(Work::Command(CommandTask { program: utf8(program)?, args }))
}

/// Terms that only a worker can honour are refused elsewhere, never ignored.
fn refuse_worker_terms(runner: Runner, what: &What) -> Result<(), Failure> {
    let (terms, checks): (&Terms, &Checks) = (&what.terms, &what.checks);
    let word = match runner {
        Runner::Noop => "noop",
        Runner::Command => "command",
    };
    if what.whole.budget.is_some() {
        return Err(Failure::coded(
            ErrorCode::BudgetNotEnforceable,
            format!("the runner {word} cannot enforce a budget"),
        ));
    }
    let given = [
        ("--model", terms.model.is_some()),
        ("--max-turns", terms.max_turns.is_some()),
        ("--output-schema", terms.output_schema.is_some()),
        ("--context", terms.context.is_some()),
        ("--contract", checks.contract),
        ("--min-tool-calls", checks.min_tool_calls.is_some()),
    ];
    match given.iter().find(|(_, given)| *given) {
        Some((flag, _)) => Err(Failure::usage(format!("{flag} means nothing to the runner {word}"))),
        None => Ok(()),
    }
}

fn utf8(text: &OsString) -> Result<String, Failure> {
    text.to_str().map(str::to_owned).ok_or_else(|| Failure::usage(format!("{} is not UTF-8", text.display())))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn what(line: &str) -> What {
        let command = Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{error}")).command;
        if let Command::Run(run) = command {
            return run.what;
        }
        let Command::Submit(submit) = command else { panic!("{command:?}") };
        submit.what
    }

    fn spec(line: &str) -> Result<TaskSpec, Failure> {
        let what = what(line);
        let text = what.text.clone();
        described(&what, Material { text, ..Material::default() }).map(|mut spec| spec.tasks.remove(0))
    }

    #[test]
    fn a_worker_takes_one_text_and_terms() {
        let line = "orchctl run --worker anga hello --model opus --priority high --task-timeout 10m --retries 0 \
                    --require gpu=yes --agent box-1 --budget 0.50 --max-turns 3 --on-loss wait";
        let task = spec(line).unwrap();
        assert_eq!((task.priority, task.retries, task.agent.as_str()), (Some(100), Some(0), "box-1"));
        assert_eq!((task.timeout.unwrap().seconds, task.on_loss()), (600, OnLoss::Wait));
        assert_eq!(task.requires["gpu"], "yes");
        let Some(Work::Worker(work)) = task.runner else { panic!("no worker") };
        assert_eq!((work.description.as_str(), work.model.as_str()), ("hello", "opus"));
        assert_eq!((work.budget_micro_usd, work.max_turns), (Some(500_000), Some(3)));
    }

    #[test]
    fn a_text_may_start_with_a_dash_after_two_dashes() {
        let Some(Work::Worker(work)) = spec("orchctl run --worker anga -- -x").unwrap().runner else {
            panic!()
        };
        assert_eq!(work.description, "-x");
    }

    #[test]
    fn a_command_is_a_program_and_its_arguments() {
        let Some(Work::Command(command)) =
            spec("orchctl submit --runner command -- make -k test").unwrap().runner
        else {
            panic!("no command")
        };
        assert_eq!(
            (command.program.as_str(), command.args),
            ("make", vec!["-k".to_owned(), "test".to_owned()])
        );
    }

    #[test]
    fn wrong_usage_is_refused_with_exit_code_2() {
        for line in [
            "orchctl run",
            "orchctl run --worker anga",
            "orchctl run --worker anga hello -- more",
            "orchctl run --runner noop hello",
            "orchctl run --runner command",
            "orchctl run --runner command hello",
            "orchctl run --runner noop --budget 1",
            "orchctl run --runner noop --model opus",
            "orchctl run --runner noop --contract",
            "orchctl run --runner noop --plan-only",
            "orchctl run --worker anga hello --approve",
        ] {
            assert_eq!(spec(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    fn followed(line: &str) -> Result<TaskSpec, Failure> {
        let what = what(line);
        let after = Conversation { reference: "adhoc/7/task".into(), worker: "marie".into() };
        let material = Material { text: what.text.clone(), after: Some(after), ..Material::default() };
        described(&what, material).map(|mut spec| spec.tasks.remove(0))
    }

    #[test]
    fn a_conversation_goes_on_with_its_worker_and_the_text_alone() {
        let task = followed("orchctl run --after adhoc/7 more").unwrap();
        let Some(Work::Worker(work)) = task.runner else { panic!("no worker") };
        assert_eq!((work.worker.as_str(), work.after_ref.as_str()), ("marie", "adhoc/7/task"));
        assert_eq!(work.description, "more");
        for flag in ["--model opus", "--context x", "--context-file x", "--agent box-1"] {
            let failure = followed(&format!("orchctl run --after adhoc/7 more {flag}")).unwrap_err();
            assert!(failure.message().contains("means nothing with --after"), "{flag}");
        }
        let nothing = followed("orchctl run --after adhoc/7").unwrap_err().text(false);
        assert!(nothing.contains("orchctl run --after REF"), "{nothing}");
        assert!(Cli::try_parse_from("orchctl run --after a/1 --worker anga x".split(' ')).is_err());
    }

    #[test]
    fn gates_publications_and_the_contract_reach_the_task() {
        let line = "orchctl run --worker anga hello --gate make --gate make --require-artifact *.md --min-tool-calls 3 \
                    --review fabien --repairs 0 --publish a.md=notes/a.md --cache --contract";
        let task = spec(line).unwrap();
        let gates = task.gates.unwrap();
        assert_eq!((gates.commands.len(), gates.min_tool_calls, gates.repairs), (2, 3, Some(0)));
        assert_eq!(gates.required_artifacts, ["*.md"]);
        assert_eq!(gates.review.unwrap().worker, "fabien");
        assert_eq!((task.publish[0].artifact.as_str(), task.publish[0].to.as_str()), ("a.md", "notes/a.md"));
        let Some(Work::Worker(work)) = task.runner else { panic!("no worker") };
        assert!(task.cache && work.contract);
        assert_eq!(spec("orchctl run --worker anga hello").unwrap().gates, None);
    }

    #[test]
    fn terms_of_a_run_reach_it_and_win_over_a_file() {
        use orch_proto::v1::FailurePolicy;
        let file = RunSpec { workspace: "old".into(), max_parallel: 9, ..RunSpec::default() };
        let line = "orchctl run -f x --workspace dance --on-failure best-effort --max-parallel 2 --no-cache";
        let spec = whole(file, &what(line));
        assert_eq!((spec.workspace.as_str(), spec.max_parallel, spec.no_cache), ("dance", 2, true));
        assert_eq!(spec.on_failure(), FailurePolicy::BestEffort);
        let kept = RunSpec { workspace: "old".into(), max_parallel: 9, ..RunSpec::default() };
        assert_eq!(whole(kept.clone(), &what("orchctl run -f x")), kept);
    }

    #[test]
    fn flags_win_over_the_name_and_labels_of_a_file() {
        let labels = BTreeMap::from([("a".to_owned(), "1".to_owned()), ("b".to_owned(), "1".to_owned())]);
        let file = RunSpec { name: "file".into(), labels, ..RunSpec::default() };
        let spec = named(file, &what("orchctl run -f x --name flag -l b=2"));
        assert_eq!(
            (spec.name.as_str(), spec.labels["a"].as_str(), spec.labels["b"].as_str()),
            ("flag", "1", "2")
        );
    }

    #[test]
    fn terms_of_a_single_task_do_not_go_with_a_file() {
        assert!(Cli::try_parse_from("orchctl run -f x --model opus".split(' ')).is_err());
    }
}
