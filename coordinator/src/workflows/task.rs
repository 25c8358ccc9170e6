//! One task of a workflow: its fields, what goes with which kind, and the task of a run that it becomes.
//! Knows one task at a time; loops, ids and dependencies are [`super::expand`]'s, gates and publications [`super::checks`]'.

use super::Workflows;
use super::checks;
use super::json::Node;
use super::problem::shown;
use super::reader::Reader;
use orch_proto::codes::ErrorCode;
use orch_proto::v1;
use orch_proto::v1::task_spec::Runner;
use std::collections::BTreeMap;

/// Every field of a task.
pub(super) const FIELDS: &[&str] = &[
    "id",
    "description",
    "worker",
    "run",
    "use",
    "with",
    "dependencies",
    "matching",
    "after",
    "for_each",
    "as",
    "when",
    "context",
    "model",
    "max_turns",
    "budget_usd",
    "output_schema",
    "contract",
    "retries",
    "timeout",
    "priority",
    "requires",
    "agent",
    "on_loss",
    "workspace",
    "gates",
    "publish",
    "cache",
    "expected_cost_usd",
];
/// Fields that `defaults` may have.
pub(super) const DEFAULT_FIELDS: &[&str] = &[
    "worker",
    "context",
    "model",
    "max_turns",
    "budget_usd",
    "contract",
    "retries",
    "timeout",
    "priority",
    "requires",
    "agent",
    "on_loss",
    "workspace",
    "gates",
    "cache",
    "expected_cost_usd",
];
/// Every field of a condition.
pub(super) const CONDITION_FIELDS: &[&str] = &["task", "pointer", "test", "value"];
/// Every test of a condition.
pub(super) const TESTS: &[(&str, v1::ConditionTest)] = &[
    ("exists", v1::ConditionTest::Exists),
    ("absent", v1::ConditionTest::Absent),
    ("equals", v1::ConditionTest::Equals),
    ("not_equals", v1::ConditionTest::NotEquals),
    ("below", v1::ConditionTest::Below),
    ("at_least", v1::ConditionTest::AtLeast),
    ("contains", v1::ConditionTest::Contains),
];
/// Fields that only a worker can honour.
const OF_WORKERS: &[&str] = &["context", "model", "max_turns", "budget_usd", "output_schema", "contract"];
/// Fields of a `use`: everything else is said by the tasks that it brings in.
const OF_USES: &[&str] =
    &["id", "description", "use", "with", "dependencies", "matching", "after", "for_each", "as", "when"];
/// Longest prompt, context included, in bytes.
const MAX_PROMPT: usize = 8 << 20;
/// Longest output schema, in bytes.
const MAX_SCHEMA: usize = 96 << 10;
/// Most conditions of a task.
const MAX_CONDITIONS: usize = 16;

/// What a task does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Worker,
    Run,
    Use,
}

/// What a task says that it does; `None` when it says nothing.
pub(super) fn kind(node: &Node) -> Option<Kind> {
    let fields = [("use", Kind::Use), ("run", Kind::Run), ("worker", Kind::Worker)];
    fields.into_iter().find(|(field, _)| node.get(field).is_some()).map(|(_, kind)| kind)
}

/// Refuses fields that mean nothing to this kind of task.
pub(super) fn refuse_fields(reader: &mut Reader<'_, '_>, node: &Node, kind: Kind) {
    for field in FIELDS {
        let (refused, with) = match kind {
            Kind::Use => (!OF_USES.contains(field), "`use`: the workflow it names says it"),
            Kind::Run => (OF_WORKERS.contains(field) || matches!(*field, "worker" | "use" | "with"), "`run`"),
            Kind::Worker => (matches!(*field, "run" | "use" | "with"), "`worker`"),
        };
        let Some(value) = node.get(field).filter(|_| refused) else { continue };
        let code = match *field {
            "budget_usd" => ErrorCode::BudgetNotEnforceable,
            _ => ErrorCode::InvalidField,
        };
        reader.wrong(code, &value.at, format!("`{field}` does not go with {with}"), "take one of them away");
    }
}

/// What the dependencies must have done.
pub(super) fn after(reader: &mut Reader<'_, '_>, node: &Node) -> Option<v1::After> {
    reader.choice(node, "after", &[("success", v1::After::Success), ("end", v1::After::End)])
}

/// Conditions on results; `dependencies` has the tasks that each id of the file became.
pub(super) fn conditions(
    reader: &mut Reader<'_, '_>,
    node: &Node,
    dependencies: &BTreeMap<String, Vec<String>>,
) -> Vec<v1::Condition> {
    let Some(when) = node.get("when") else { return Vec::new() };
    let Some(items) = when.items().filter(|items| items.len() <= MAX_CONDITIONS) else {
        let message = format!("`when` must be a list of at most {MAX_CONDITIONS} conditions");
        reader.wrong(ErrorCode::InvalidCondition, &when.at, message, "");
        return Vec::new();
    };
    items.iter().filter_map(|item| condition(reader, item, dependencies)).collect()
}

fn condition(
    reader: &mut Reader<'_, '_>,
    item: &Node,
    dependencies: &BTreeMap<String, Vec<String>>,
) -> Option<v1::Condition> {
    reader.known(item, "a condition", CONDITION_FIELDS);
    let task = reader.text(item, "task");
    let test = reader.choice(item, "test", TESTS);
    if item.get("task").is_none() || item.get("test").is_none() {
        reader.wrong(ErrorCode::InvalidCondition, &item.at, "a condition has a `task` and a `test`", "");
    }
    let (task, test) = (task?, test?);
    let task_at = item.get("task").map_or_else(|| item.at.clone(), |node| node.at.clone());
    let task_id = match dependencies.get(&task).map(Vec::as_slice) {
        Some([one]) => one.clone(),
        Some(several) => {
            if !several.is_empty() {
                let message = format!("`{}` is {} tasks; a condition asks one", shown(&task), several.len());
                let help = "with a `for_each` over the same rows, say `\"matching\": true`";
                reader.wrong(ErrorCode::InvalidCondition, &task_at, message, help);
            }
            return None;
        }
        None => {
            let message = format!("`{}` is not among the `dependencies` of this task", shown(&task));
            let known = dependencies.keys().map(String::as_str);
            let noted = reader.problems.add(reader.source, ErrorCode::InvalidCondition, task_at, message);
            noted.nearest(&task, known);
            return None;
        }
    };
    let pointer = reader.text(item, "pointer").unwrap_or_default();
    if !(pointer.is_empty() || pointer.starts_with('/') || matches!(pointer.as_str(), "state" | "outcome")) {
        let at = item.get("pointer").map_or_else(|| item.at.clone(), |node| node.at.clone());
        let message = format!("`{}` is no JSON pointer such as /scores/total", shown(&pointer));
        reader.wrong(
            ErrorCode::InvalidCondition,
            &at,
            message,
            "`state` and `outcome` are the words of its ending",
        );
    }
    let bare = matches!(test, v1::ConditionTest::Exists | v1::ConditionTest::Absent);
    let value = match item.get("value") {
        Some(value) if bare => {
            let message = "this test compares with nothing: take `value` away";
            reader.wrong(ErrorCode::InvalidCondition, &value.at, message, "");
            String::new()
        }
        Some(value) => reader.value(value)?.to_string(),
        None if bare => String::new(),
        None => {
            reader.wrong(
                ErrorCode::InvalidCondition,
                &item.at,
                "this test needs a `value` to compare with",
                "",
            );
            String::new()
        }
    };
    Some(v1::Condition { task_id, pointer, test: test.into(), value })
}

/// Reads a task that is no `use`. Its id, dependencies and conditions are for whoever knows the graph.
pub(super) fn read(
    reader: &mut Reader<'_, '_>,
    node: &Node,
    defaults: Option<&Node>,
    in_force: &Workflows,
) -> Option<v1::TaskSpec> {
    let said = Said { node, defaults };
    let kind = kind(node).or_else(|| said.of("worker").get("worker").map(|_| Kind::Worker));
    let Some(kind) = kind else {
        let message = "the task names neither a `worker`, a program to `run`, nor a workflow to `use`";
        reader.wrong(ErrorCode::RunnerMissing, &(node.at.start..node.at.start + 1), message, "");
        return None;
    };
    refuse_fields(reader, node, kind);
    let runner = match kind {
        Kind::Run => command(reader, node).map(Runner::Command),
        Kind::Worker | Kind::Use => worker(reader, &said, in_force).map(Runner::Worker),
    };
    let on_loss = [("fast", v1::OnLoss::Fast), ("wait", v1::OnLoss::Wait)];
    let expected = said.of("expected_cost_usd");
    Some(v1::TaskSpec {
        runner,
        priority: reader.priority(said.of("priority"), "priority"),
        timeout: reader.duration(said.of("timeout"), "timeout"),
        retries: reader.whole(said.of("retries"), "retries", 0..=100),
        requires: reader.text_map(said.of("requires"), "requires"),
        on_loss: reader.choice(said.of("on_loss"), "on_loss", &on_loss).unwrap_or_default().into(),
        agent: reader.text(said.of("agent"), "agent").unwrap_or_default(),
        // What is asked of workers by default, such as tool calls, no program could do.
        gates: checks::gates(reader, if kind == Kind::Run { node } else { said.of("gates") }, in_force),
        publish: checks::publications(reader, node),
        workspace: reader.text(said.of("workspace"), "workspace").unwrap_or_default(),
        cache: reader.boolean(said.of("cache"), "cache").unwrap_or_default(),
        expected_cost_micro_usd: reader.micro_usd(expected, "expected_cost_usd"),
        ..v1::TaskSpec::default()
    })
}

/// A task with the workflow's defaults behind it.
struct Said<'n> {
    node: &'n Node,
    defaults: Option<&'n Node>,
}

impl<'n> Said<'n> {
    /// Where a field is said: by the task, else by the defaults.
    fn of(&self, field: &str) -> &'n Node {
        match self.defaults {
            Some(defaults) if self.node.get(field).is_none() => defaults,
            Some(_) | None => self.node,
        }
    }
}

fn worker(reader: &mut Reader<'_, '_>, said: &Said<'_>, in_force: &Workflows) -> Option<v1::WorkerTask> {
    let at = said.of("worker");
    let worker = reader.text(at, "worker");
    if let (Some(name), Some(node)) = (&worker, at.get("worker")) {
        known_worker(reader, node, name, in_force);
    }
    let description = description(reader, said.node);
    let context = reader.text_or_json(said.of("context"), "context").unwrap_or_default();
    if description.as_ref().map_or(0, String::len) + context.len() > MAX_PROMPT {
        let message = "description and context together are longer than 8 MiB";
        reader.wrong(ErrorCode::TooLarge, &(said.node.at.start..said.node.at.start + 1), message, "");
    }
    let output_schema = output_schema(reader, said.node);
    let contract = reader.boolean(said.of("contract"), "contract");
    if let (Some(true), Some(schema)) = (contract, said.node.get("output_schema")) {
        let message = "`contract` has a schema of its own";
        reader.wrong(
            ErrorCode::InvalidSchema,
            &schema.at,
            message,
            "leave `output_schema` or `contract` out",
        );
    }
    let budget_micro_usd = reader.micro_usd(said.of("budget_usd"), "budget_usd");
    let max_turns = reader.whole(said.of("max_turns"), "max_turns", 1..=100_000);
    let model = reader.text(said.of("model"), "model").unwrap_or_default();
    Some(v1::WorkerTask {
        worker: worker?,
        description: description?,
        context,
        model,
        contract: contract.unwrap_or(output_schema.is_empty()),
        output_schema,
        budget_micro_usd,
        max_turns,
        ..v1::WorkerTask::default()
    })
}

fn description(reader: &mut Reader<'_, '_>, node: &Node) -> Option<String> {
    let start = node.at.start..node.at.start + 1;
    let Some(at) = node.get("description").map(|node| node.at.clone()) else {
        reader.wrong(ErrorCode::EmptyPrompt, &start, "a task for a worker has a `description`", "");
        return None;
    };
    let description = reader.text(node, "description")?;
    if description.trim().is_empty() {
        reader.wrong(ErrorCode::EmptyPrompt, &at, "the description is empty", "say what is to be done");
        return None;
    }
    Some(description)
}

fn output_schema(reader: &mut Reader<'_, '_>, node: &Node) -> String {
    let Some(schema) = node.get("output_schema") else { return String::new() };
    let plain = schema.value();
    let text = plain.to_string();
    if !plain.is_object() || text.len() > MAX_SCHEMA {
        let message = "`output_schema` must be a JSON Schema object of at most 96 KiB";
        reader.wrong(ErrorCode::InvalidSchema, &schema.at, message, "");
        return String::new();
    }
    text
}

/// Says when no worker has that name.
pub(super) fn known_worker(reader: &mut Reader<'_, '_>, node: &Node, name: &str, in_force: &Workflows) {
    if !in_force.has_worker(name) {
        let message = format!("there is no worker `{}`", shown(name));
        let noted = reader.problems.add(reader.source, ErrorCode::UnknownWorker, node.at.clone(), message);
        noted.nearest(name, in_force.workers());
    }
}

/// A program and its arguments.
fn command(reader: &mut Reader<'_, '_>, node: &Node) -> Option<v1::CommandTask> {
    let at = node.get("run").map_or_else(|| node.at.clone(), |run| run.at.clone());
    // A description tells people what the step is for; nobody else reads it.
    reader.text(node, "description");
    program(reader, node, "run", &at).map(|(program, args)| v1::CommandTask { program, args })
}

/// A list of a program and its arguments.
pub(super) fn program(
    reader: &mut Reader<'_, '_>,
    node: &Node,
    field: &str,
    at: &std::ops::Range<usize>,
) -> Option<(String, Vec<String>)> {
    let mut words = reader.texts(node, field)?;
    if words.first().is_none_or(|program| program.trim().is_empty()) {
        let message = format!("`{field}` must be a list of a program and its arguments");
        reader.wrong(ErrorCode::RunnerMissing, at, message, "for example [\"make\", \"test\"]");
        return None;
    }
    let program = words.remove(0);
    Some((program, words))
}
