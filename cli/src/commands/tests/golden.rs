//! Every output of every command, as it is: tables at three widths, wide, and each encoding. What differs from these
//! files is a change that somebody meets, and JSON is a contract. Every value is held against the schema that
//! `orchctl schema output` prints, and nothing that a task, an agent or a person wrote may steer a terminal.

use std::fmt::Write as _;

use futures_util::StreamExt;
use futures_util::stream::iter;
use orch_proto::v1::*;
use serde_json::Value;

use super::*;
use crate::commands::schema::KINDS;

mod errors;
mod fits;
mod help;
mod hostile;
mod money;
mod planned;
mod scene;
mod trouble;
mod workflows;

/// Widths of terminals.
const WIDTHS: [usize; 3] = [60, 80, 120];

/// Samples looked at together.
const AT_ONCE: usize = 8;

/// A command line, the kind of value that it prints, and whether people see a table.
struct Sample {
    /// Name of the snapshot.
    name: &'static str,
    line: &'static str,
    /// Kind of `orchctl schema output`; empty: it prints no value.
    kind: &'static str,
    /// Which scene is asked.
    scene: Scene,
}

/// What a coordinator knows.
#[derive(Clone, Copy)]
enum Scene {
    Fleet,
    Planned,
    Workflows,
    Trouble,
    Money,
}

impl Sample {
    fn stage(&self) -> Stage {
        match self.scene {
            Scene::Fleet => scene::stage(),
            Scene::Planned => planned::stage(),
            Scene::Workflows => workflows::stage(),
            Scene::Trouble => trouble::stage(),
            Scene::Money => money::stage(),
        }
    }
}

const fn sample(name: &'static str, line: &'static str, kind: &'static str) -> Sample {
    Sample { name, line, kind, scene: Scene::Fleet }
}

const fn of_a_plan(name: &'static str, line: &'static str, kind: &'static str) -> Sample {
    Sample { name, line, kind, scene: Scene::Planned }
}

const fn of_a_workflow(name: &'static str, line: &'static str, kind: &'static str) -> Sample {
    Sample { name, line, kind, scene: Scene::Workflows }
}

const fn of_trouble(name: &'static str, line: &'static str, kind: &'static str) -> Sample {
    Sample { name, line, kind, scene: Scene::Trouble }
}

const fn of_money(name: &'static str, line: &'static str, kind: &'static str) -> Sample {
    Sample { name, line, kind, scene: Scene::Money }
}

/// What a person asks, each of a fresh scene.
const SAMPLES: &[Sample] = &[
    sample("ls", "ls", "run"),
    sample("ls_tasks", "ls release-notes/1", "task"),
    sample("status", "status", "status"),
    sample("status_run", "status release-notes/1", "run"),
    sample("status_task", "status release-notes/1/db-notes", "task"),
    sample("result_run", "result release-notes/1", "run-result"),
    sample("result_task", "result release-notes/1/plan", "result"),
    sample("logs", "logs release-notes/1/plan", "log-line"),
    sample("explain", "explain release-notes/1/merge", "explanation"),
    sample("wait", "wait adhoc/2", "run"),
    sample("wait_task", "wait adhoc/2/task", "task"),
    sample("cancel", "cancel release-notes/1", "run"),
    sample("retry", "retry release-notes/1 --failed", "run"),
    sample("submit", "submit --worker anga hello", "submission"),
    sample("submit_dry_run", "submit --runner noop --dry-run", "submission"),
    sample("run", "run --worker anga hello --progress none", "run-result"),
    sample("watch", "watch adhoc/2 --progress plain", "event"),
    sample("agents", "agents", "agent"),
    sample("agents_show", "agents show box-1", "agent"),
    sample("agents_scale_hint", "agents scale-hint", "scale-hint"),
    sample("agents_drain", "agents drain box-1 --reason kernel", "agent"),
    sample("agents_resume", "agents resume box-1", "agent"),
    sample("agents_label", "agents label box-1 gpu- team=dance", "agent"),
    sample("agents_test", "agents test box-1 --worker anga --yes --progress none", "introduction"),
    sample("workers", "workers", "worker"),
    sample("workers_show", "workers show anga", "worker-definition"),
    sample("workers_validate", "workers validate src/commands/tests/prompts", "validation"),
    sample("events", "events", "event"),
    sample("workers_reload", "workers reload", "reload"),
    sample("help_error", "help E0405", "error-code"),
    sample("help_outcome", "help rate_limited", "outcome"),
    sample("help_outcomes", "help outcomes", "outcome"),
    sample("schema_kinds", "schema output", ""),
    of_a_plan("result_planned", "result dance/3", "run-result"),
    of_a_plan("result_contract", "result dance/3/emma", "result"),
    of_a_plan("status_planned", "status dance/3", "run"),
    of_a_plan("status_waiting", "status adhoc/4", "run"),
    of_a_plan("status_gate", "status dance/3/lucas", "task"),
    // What it prints is held against the schema of plans, below.
    of_a_plan("run_plan_only", "run Evaluate --plan-only --progress none", ""),
    of_a_plan("explain_run", "explain dance/4", "explanation"),
    of_a_plan("explain_waiting", "explain adhoc/4", ""),
    of_a_plan("approve", "approve adhoc/4", "run"),
    of_a_plan("reject", "reject adhoc/4 --reason no", "run"),
    of_a_plan("edit", "edit adhoc/4 -f src/commands/tests/plan.json", "run"),
    of_a_plan("artifacts_list", "artifacts list dance/3", "artifact"),
    of_a_plan("watch_planned", "watch dance/3 --progress plain", "event"),
    of_a_workflow("workflows_list", "workflows", "workflow"),
    of_a_workflow("workflows_show", "workflows show complex-choreography", ""),
    of_a_workflow("workflows_validate", "workflows validate complex-choreography", "workflow-validation"),
    of_a_workflow(
        "workflows_validate_bad",
        "workflows validate src/commands/tests/bad-workflow.json",
        "workflow-validation",
    ),
    of_a_workflow("workflows_graph", "workflows graph complex-choreography", "workflow-graph"),
    of_a_workflow(
        "workflows_run",
        "workflows run complex-choreography --set title=Dawn --progress none",
        "run-result",
    ),
    of_a_workflow(
        "workflows_dry_run",
        "workflows run complex-choreography --set title=Dawn --dry-run",
        "submission",
    ),
    of_a_workflow("workflows_history", "workflows history batch-evaluation", "workflow-run"),
    of_a_workflow(
        "batch",
        "batch batch-evaluation --roster src/commands/tests/students.csv --progress none",
        "batch",
    ),
    of_a_workflow(
        "batch_dry_run",
        "batch marie-evaluate-student --roster src/commands/tests/students.csv --dry-run",
        "",
    ),
    of_a_plan("retry_planned", "retry dance/3", "run"),
    of_trouble("ls_dead", "ls --dead", "dead-letter"),
    of_trouble("retry_dead", "retry --dead --all --yes", "run"),
    of_trouble("retry_dead_one", "retry --dead nightly/7/audit", "run"),
    of_trouble("agents_trouble", "agents", "agent"),
    of_trouble("agents_show_quarantined", "agents show box-3", "agent"),
    of_trouble("agents_resume_quarantined", "agents resume box-3", "agent"),
    of_trouble("agents_remove", "agents remove box-7", "agent-removed"),
    of_trouble("admin_trouble", "admin", "storage"),
    of_money("costs", "costs --since 7d", "costs"),
    of_money("costs_by", "costs --by name,worker,model", "costs"),
    of_money("costs_runs", "costs --by run", "costs"),
    sample("costs_nothing", "costs", "costs"),
    of_money("budgets", "budgets", "budget"),
    of_money("budgets_list", "budgets list --runs", "budget"),
    of_money(
        "budgets_set",
        "budgets set team --usd 50 --tokens 40M --per day --on worker=marie --mode drain",
        "budget",
    ),
    of_money("budgets_change", "budgets set marie --usd 100 --on worker=marie", "budget"),
    of_money("budgets_remove", "budgets remove old", "budget-removed"),
    of_money("limits", "limits", "pool-limits"),
    of_money("limits_one", "limits solo", "pool-limits"),
    of_money("status_budget", "status nightly/9", "run"),
    of_money("status_parked", "status nightly/9/audit", "task"),
    of_money("explain_parked", "explain nightly/9/audit", "explanation"),
    of_money("ls_parked", "ls nightly/9", "task"),
    of_money("events_budget", "events", "event"),
    of_money("submit_estimate", "submit --worker anga hello --budget 5 --dry-run", "submission"),
    of_money("agents_show_pools", "agents show box-1", "agent"),
    sample("admin_status", "admin status", "storage"),
    sample("admin_compact", "admin compact", "compaction"),
    sample("admin_export", "admin export -", ""),
    sample("admin_restore", "admin restore src/commands/tests/copy.orch --yes", "restore"),
    sample("admin_restore_check", "admin restore src/commands/tests/copy.orch --check", "restore"),
    sample("admin_import", "admin import src/commands/tests/copy.jsonl --yes", "restore"),
];

/// Commands whose output is golden elsewhere: `tests/golden.rs` runs the binary, for they read files or start a fleet;
/// what `doctor` and `bench` measure is made up beside them.
const ELSEWHERE: &[&str] = &[
    "dev",
    "demo",
    "init",
    "certs issue",
    "certs show",
    "bench",
    "doctor",
    "workers list",
    "workflows list",
    "agents list",
    // It writes files, beside the other commands about planned runs.
    "artifacts get",
    "context list",
    "context use",
    "context add",
    "context remove",
    "context current",
    "config view",
    "config get",
    "config set",
    "config path",
    "schema run",
    "schema config",
    "schema workflow",
    "schema plan",
    "schema result",
    "schema review",
    "schema synthesis",
    // They read folders, and are told of in whole-system tests.
    "bridge",
    "completions",
    // It writes a file, or bytes that are no text: beside the other commands about what is kept.
    "admin backup",
];

/// The scene of trouble, for tests beside these.
pub(super) fn trouble() -> Stage {
    trouble::stage()
}

/// Holds a value against a schema.
pub(super) fn fits(schema: Value, value: &Value) {
    fits::check(&schema, value).unwrap();
}

/// What a command wrote, with its exit code where it is not 0 and what went to stderr.
fn told(ran: &Ran) -> String {
    let mut text = ran.stdout.clone();
    if !ran.stderr.is_empty() {
        let _ = write!(text, "[stderr]\n{}", ran.stderr);
    }
    if ran.code != exit::DONE {
        let _ = writeln!(text, "[exit {}]", ran.code);
    }
    text
}

/// All looks of a command line in one text; a look that is the same as an earlier one says so.
async fn looks(sample: &Sample) -> String {
    let line = sample.line;
    let mut text = String::new();
    let mut seen: Vec<(String, String)> = Vec::new();
    let looks = WIDTHS.iter().map(|width| (format!("{width} columns"), String::new(), Some(*width)));
    // Whoever makes a list makes rows of it; a sample of them is enough.
    let csv: &[&str] = if matches!(sample.scene, Scene::Money) { &["csv"] } else { &[] };
    let formats = ["wide", "json", "jsonl", "yaml", "name", "none"].iter().chain(csv);
    let looks = looks.chain(formats.map(|format| (format!("-o {format}"), format!(" -o {format}"), None)));
    for (title, flags, width) in looks {
        let stage = Stage { width, ..sample.stage() };
        let told = told(&stage.run(&format!("{line}{flags}")).await);
        match seen.iter().find(|(_, earlier)| *earlier == told) {
            Some((earlier, _)) => {
                let _ = writeln!(text, "──── {title}: as {earlier}");
            }
            None => {
                let _ = write!(text, "──── {title}\n{told}");
            }
        }
        seen.push((title, told));
    }
    text
}

#[tokio::test]
async fn every_look_of_every_command_is_as_it_was() {
    // Each has its own coordinator, and most of the time goes by in waiting for one. All at once would be so slow each that
    // some take silence for an end.
    let texts: Vec<_> = iter(SAMPLES).map(looks).buffered(AT_ONCE).collect().await;
    for (sample, text) in SAMPLES.iter().zip(texts) {
        insta::with_settings!({ description => format!("orchctl {}", sample.line), omit_expression => true }, {
            insta::assert_snapshot!(sample.name, text);
        });
    }
}

#[tokio::test]
async fn every_value_fits_the_schema_that_is_printed_for_it() {
    for sample in SAMPLES.iter().filter(|sample| !sample.kind.is_empty()) {
        let kind = KINDS.iter().find(|kind| kind.name == sample.kind).unwrap();
        let schema = (kind.schema)();
        // What tells things as they happen has lines only.
        let cli = Cli::try_parse_from(words(sample.line)).unwrap();
        let format = if cli.command.goes_on() { "jsonl" } else { "json" };
        let ran = sample.stage().run(&format!("{} -o {format}", sample.line)).await;
        let values: Vec<Value> =
            if cli.command.goes_on() {
                ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
            } else {
                let one = serde_json::from_str(&ran.stdout);
                vec![one.unwrap_or_else(|error| {
                    panic!("orchctl {} -o json is not one value: {error}", sample.line)
                })]
            };
        // A list is held against its items.
        let items = values.into_iter().flat_map(|value| match value {
            Value::Array(items) => items,
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
                vec![value]
            }
        });
        let mut count = 0;
        for item in items {
            count += 1;
            if let Err(problem) = fits::check(&schema, &item) {
                panic!("orchctl {} does not fit schema {}: {problem}\n{item}", sample.line, sample.kind);
            }
        }
        assert!(count > 0, "orchctl {} -o json printed nothing", sample.line);
    }
}

#[tokio::test]
async fn json_and_yaml_and_lines_hold_the_same() {
    for line in ["ls", "ls release-notes/1", "agents", "workers", "help outcomes"] {
        let json = scene::stage().run(&format!("{line} -o json")).await.stdout;
        let lines = scene::stage().run(&format!("{line} -o jsonl")).await.stdout;
        let whole: Vec<Value> = serde_json::from_str(&json).unwrap();
        let each: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(whole, each, "{line}");
        let yaml = scene::stage().run(&format!("{line} -o yaml")).await.stdout;
        assert_eq!(yaml.lines().filter(|line| line.starts_with("- ")).count(), whole.len(), "{line}");
    }
}

#[tokio::test]
async fn fields_are_chosen_alike_in_every_format() {
    let mut text = String::new();
    for format in ["table", "wide", "json", "jsonl", "yaml"] {
        let line = format!("ls --fields ref,state,cost_usd -o {format}");
        let _ = write!(text, "──── {line}\n{}", told(&scene::stage().run(&line).await));
    }
    for line in ["ls --fields ref,stat", "agents --fields name,nonsense -o json", "ls --fields ref -o name"] {
        let _ = write!(text, "──── {line}\n{}", told(&scene::stage().run(line).await));
    }
    insta::with_settings!({ omit_expression => true }, { insta::assert_snapshot!("fields", text) });
}

#[tokio::test]
async fn moments_are_shown_as_asked_for_and_json_is_not_touched() {
    let mut text = String::new();
    for line in
        ["ls --time iso", "ls --time unix", "agents --time iso", "watch adhoc/2 --progress plain --time iso"]
    {
        let _ = write!(text, "──── {line}\n{}", told(&scene::stage().run(line).await));
    }
    insta::with_settings!({ omit_expression => true }, { insta::assert_snapshot!("times", text) });
    let plain = scene::stage().run("ls -o json").await.stdout;
    assert_eq!(scene::stage().run("ls -o json --time unix").await.stdout, plain);
}

#[tokio::test]
async fn colour_says_nothing_that_words_do_not() {
    let mut text = String::new();
    for line in ["ls", "status", "agents", "explain release-notes/1/merge", "result release-notes/1"] {
        let stage =
            Stage { look: testing::Look { color: true, ..testing::Look::default() }, ..scene::stage() };
        let colored = stage.run(line).await;
        let plain = scene::stage().run(line).await;
        assert_ne!(colored.stdout, plain.stdout, "{line} has colour");
        let stripped = |text: &str| anstream::adapter::strip_str(text).to_string();
        assert_eq!(stripped(&colored.stdout), plain.stdout, "{line}");
        assert_eq!(stripped(&colored.stderr), plain.stderr, "{line}");
        let first =
            colored.stdout.lines().take(3).map(|line| line.replace('\u{1b}', "␛") + "\n").collect::<String>();
        let _ = write!(text, "──── {line}\n{first}");
    }
    insta::with_settings!({ omit_expression => true }, { insta::assert_snapshot!("colour", text) });
}

#[test]
fn no_command_is_without_a_golden_output() {
    use clap::CommandFactory;
    let mut leaves = Vec::new();
    help::each_command(&Cli::command(), "", &mut |path, command| {
        if !command.has_subcommands() {
            leaves.push(path.to_owned());
        }
    });
    let covered = |leaf: &String| {
        let sampled =
            SAMPLES.iter().any(|sample| format!("{} ", sample.line).starts_with(&format!("{leaf} ")));
        sampled || ELSEWHERE.contains(&leaf.as_str())
    };
    let missing: Vec<_> = leaves.iter().filter(|leaf| !covered(leaf)).collect();
    assert!(missing.is_empty(), "no sample of {missing:?}");
    let gone: Vec<_> = ELSEWHERE.iter().filter(|path| !leaves.iter().any(|leaf| leaf == *path)).collect();
    assert!(gone.is_empty() || !cfg!(feature = "dev"), "no longer there: {gone:?}");
}
