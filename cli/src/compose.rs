//! How flags become a run: one task for a worker, a command or nothing. Pure; the texts that flags point to are read
//! by whoever calls.

use std::collections::BTreeMap;
use std::ffi::OsString;

use orch_proto::codes::ErrorCode;
use orch_proto::v1::task_spec::Runner as Work;
use orch_proto::v1::{CommandTask, NoopTask, OnLoss, RunSpec, TaskSpec, WorkerTask};

use crate::args::submit::{Runner, Terms, What};
use crate::failure::Failure;

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
}

/// The run that flags describe.
///
/// # Errors
/// Wrong usage: exit code 2.
pub(crate) fn single(what: &What, material: Material) -> Result<RunSpec, Failure> {
    let work = match (&what.worker, what.runner) {
        (Some(worker), _) => Work::Worker(worker_task(worker, what, material)?),
        (None, Some(runner)) => {
            refuse_worker_terms(runner, &what.terms)?;
            match runner {
                Runner::Noop => noop(what)?,
                Runner::Command => command(what)?,
            }
        }
        (None, None) => return Err(no_worker()),
    };
    let terms = &what.terms;
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
        ..TaskSpec::default()
    };
    Ok(named(RunSpec { tasks: vec![task], ..RunSpec::default() }, what))
}

/// A run with the name and labels of the flags, which win over those of a file.
pub(crate) fn named(mut spec: RunSpec, what: &What) -> RunSpec {
    if let Some(name) = &what.name {
        spec.name.clone_from(name);
    }
    spec.labels.extend(what.labels.iter().cloned().collect::<BTreeMap<_, _>>());
    spec
}

fn worker_task(worker: &str, what: &What, material: Material) -> Result<WorkerTask, Failure> {
    let text = match (material.text, what.program.as_slice()) {
        (Some(text), []) => text,
        // After `--` a text may start with a dash.
        (None, [text]) => utf8(text)?,
        (None, []) => {
            return Err(Failure::usage(format!("nothing is said for {worker} to do")).help(format!(
                "orchctl run --worker {worker} \"what is to be done\", or - to read it from stdin"
            )));
        }
        (_, [..]) => {
            return Err(Failure::usage("a worker takes one text")
                .help("put it in quotes; a program needs --runner command"));
        }
    };
    if text.trim().is_empty() {
        return Err(Failure::coded(ErrorCode::EmptyPrompt, format!("the text for {worker} is empty")));
    }
    if text.len() > MAX_DESCRIPTION {
        let message = format!("the text has {} bytes; at most 8 MiB are allowed", text.len());
        return Err(Failure::coded(ErrorCode::TooLarge, message));
    }
    Ok(WorkerTask {
        worker: worker.to_owned(),
        description: text,
        context: material.context,
        model: what.terms.model.clone().unwrap_or_default(),
        output_schema: material.output_schema,
        budget_micro_usd: what.terms.budget,
        max_turns: what.terms.max_turns,
        ..WorkerTask::default()
    })
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
fn refuse_worker_terms(runner: Runner, terms: &Terms) -> Result<(), Failure> {
    let word = match runner {
        Runner::Noop => "noop",
        Runner::Command => "command",
    };
    if terms.budget.is_some() {
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
    ];
    match given.iter().find(|(_, given)| *given) {
        Some((flag, _)) => Err(Failure::usage(format!("{flag} means nothing to the runner {word}"))),
        None => Ok(()),
    }
}

fn utf8(text: &OsString) -> Result<String, Failure> {
    text.to_str().map(str::to_owned).ok_or_else(|| Failure::usage(format!("{} is not UTF-8", text.display())))
}

/// A plain request would have to be planned, which this release does not do.
fn no_worker() -> Failure {
    Failure::coded(
        ErrorCode::RunnerMissing,
        "nobody is named to do it: planning a plain request comes in a later release",
    )
    .help("name a worker:      orchctl run --worker anga \"…\"   (orchctl workers lists them)")
    .and_help("or a program:       orchctl run --runner command -- PROGRAM ARGS")
    .and_help("or a file of tasks: orchctl run -f FILE")
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
        single(&what, Material { text, ..Material::default() }).map(|mut spec| spec.tasks.remove(0))
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
            "orchctl run hello",
            "orchctl run --worker anga",
            "orchctl run --worker anga hello -- more",
            "orchctl run --runner noop hello",
            "orchctl run --runner command",
            "orchctl run --runner command hello",
            "orchctl run --runner noop --budget 1",
            "orchctl run --runner noop --model opus",
        ] {
            assert_eq!(spec(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn a_plain_request_says_that_planning_comes_later() {
        insta::assert_snapshot!(spec("orchctl run hello").unwrap_err().text(false), @r#"
        error[E0106]: nobody is named to do it: planning a plain request comes in a later release
        help:  name a worker:      orchctl run --worker anga "…"   (orchctl workers lists them)
               or a program:       orchctl run --runner command -- PROGRAM ARGS
               or a file of tasks: orchctl run -f FILE
        "#);
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
