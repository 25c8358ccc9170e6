//! A request in plain language: no worker is named, so the worker `orchestrator` plans it. Knows which flags hold for a
//! whole run; those of a single task are refused, never ignored.

use orch_proto::v1::{PlannedRequest, RunSpec};

use super::{Material, checked, utf8, whole};
use crate::args::submit::{Planning, What};
use crate::failure::Failure;

/// The run of a request.
///
/// # Errors
/// Wrong usage: exit code 2.
pub(super) fn planned(what: &What, material: Material) -> Result<RunSpec, Failure> {
    let text = match (material.text, what.program.as_slice()) {
        (Some(text), []) => text,
        (None, [text]) => utf8(text)?,
        (None, []) => return Err(nothing_said()),
        (_, [..]) => {
            return Err(Failure::usage("a request is one text")
                .help("put it in quotes; a program needs --runner command"));
        }
    };
    refuse_terms_of_a_task(what)?;
    let planning = &what.planning;
    let request = PlannedRequest {
        text: checked("the orchestrator", text)?,
        context: material.context,
        max_tasks: planning.max_tasks.unwrap_or(0),
        approve: planning.approve,
        plan_only: planning.plan_only,
        workers: planning.workers.clone(),
    };
    Ok(whole(RunSpec { request: Some(request), ..RunSpec::default() }, what))
}

/// Refuses flags of planning where nothing is planned.
pub(super) fn refuse_planning(planning: &Planning) -> Result<(), Failure> {
    let given = [
        ("--plan-only", planning.plan_only),
        ("--approve", planning.approve),
        ("--max-tasks", planning.max_tasks.is_some()),
        ("--workers", !planning.workers.is_empty()),
    ];
    match given.iter().find(|(_, given)| *given) {
        Some((flag, _)) => Err(Failure::usage(format!("{flag} is about a plan, and a single task has none"))
            .help("leave --worker and --runner out to have the text planned")),
        None => Ok(()),
    }
}

fn refuse_terms_of_a_task(what: &What) -> Result<(), Failure> {
    let (terms, checks) = (&what.terms, &what.checks);
    let given = [
        ("--model", terms.model.is_some()),
        ("--priority", terms.priority.is_some()),
        ("--task-timeout", terms.task_timeout.is_some()),
        ("--retries", terms.retries.is_some()),
        ("--require", !terms.requires.is_empty()),
        ("--agent", terms.agent.is_some()),
        ("--max-turns", terms.max_turns.is_some()),
        ("--output-schema", terms.output_schema.is_some()),
        ("--on-loss", terms.on_loss.is_some()),
        ("--gate", !checks.gates.is_empty()),
        ("--require-artifact", !checks.required_artifacts.is_empty()),
        ("--min-tool-calls", checks.min_tool_calls.is_some()),
        ("--review", checks.review.is_some()),
        ("--repairs", checks.repairs.is_some()),
        ("--publish", !checks.publish.is_empty()),
        ("--cache", checks.cache),
        ("--contract", checks.contract),
    ];
    match given.iter().find(|(_, given)| *given) {
        Some((flag, _)) => Err(Failure::usage(format!(
            "{flag} is about a single task, and the text would be planned into several"
        ))
        .help("name who does it with --worker NAME, or say it in the text")),
        None => Ok(()),
    }
}

fn nothing_said() -> Failure {
    Failure::usage("nothing is said to be done")
        .help("a request is planned:  orchctl run \"what is to be done\"")
        .and_help("a worker does a task:  orchctl run --worker NAME \"…\"   (orchctl workers lists them)")
        .and_help("a program runs:        orchctl run --runner command -- PROGRAM ARGS")
        .and_help("a file has tasks:      orchctl run -f FILE")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn spec(line: &str) -> Result<RunSpec, Failure> {
        let cli = Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{error}"));
        let Command::Run(run) = cli.command else { panic!("{line}") };
        let text = run.what.text.clone();
        super::super::described(&run.what, Material { text, ..Material::default() })
    }

    #[test]
    fn a_text_without_a_worker_is_planned() {
        let spec = spec(
            "orchctl run evaluate --workspace dance --approve --max-tasks 7 --workers anga,marie --max-parallel 3",
        )
        .unwrap();
        let request = spec.request.unwrap();
        assert_eq!((request.text.as_str(), request.approve, request.max_tasks), ("evaluate", true, 7));
        assert_eq!(
            (request.workers, request.plan_only),
            (vec!["anga".to_owned(), "marie".to_owned()], false)
        );
        assert_eq!((spec.workspace.as_str(), spec.max_parallel, spec.tasks.len()), ("dance", 3, 0));
    }

    #[test]
    fn a_budget_holds_over_the_whole_planned_run() {
        use orch_proto::v1::{BudgetLimit, BudgetMode};
        let limit = spec("orchctl run evaluate --budget 5usd,1Mtok --budget-mode drain").unwrap().budget;
        let mode = BudgetMode::Drain.into();
        let wanted = BudgetLimit { micro_usd: Some(5_000_000), tokens: Some(1_000_000), runs: None, mode };
        assert_eq!(limit, Some(wanted));
        assert_eq!(spec("orchctl run evaluate --budget 5").unwrap().budget.unwrap().mode(), BudgetMode::Hard);
        assert_eq!(spec("orchctl run evaluate").unwrap().budget, None);
        assert!(Cli::try_parse_from("orchctl run evaluate --budget-mode soft".split(' ')).is_err());
    }

    #[test]
    fn terms_of_a_single_task_are_refused_not_ignored() {
        for flags in [
            "--model opus",
            "--priority high",
            "--retries 1",
            "--gate make",
            "--publish a=b",
            "--review anga",
            "--cache",
            "--contract",
            "--repairs 2",
        ] {
            let failure = spec(&format!("orchctl run evaluate {flags}")).unwrap_err();
            assert!(failure.message().contains("is about a single task"), "{flags}");
            assert_eq!(failure.exit_code(), 2);
        }
    }

    #[test]
    fn an_empty_request_says_what_there_is() {
        insta::assert_snapshot!(spec("orchctl run").unwrap_err().text(false), @r#"
        error: nothing is said to be done
        help:  a request is planned:  orchctl run "what is to be done"
               a worker does a task:  orchctl run --worker NAME "…"   (orchctl workers lists them)
               a program runs:        orchctl run --runner command -- PROGRAM ARGS
               a file has tasks:      orchctl run -f FILE
        "#);
    }
}
