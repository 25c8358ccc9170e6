//! `workflows graph`: which task waits for which, in layers. Knows ids and dependencies, of a definition as it is written or
//! of the run that it becomes.

use std::collections::BTreeMap;

use orch_proto::v1::task_spec::Runner;
use orch_proto::v1::{After, RunSpec};
use serde_json::{Map, Value};

use super::mistakes;
use super::source::{Source, parameters};
use crate::args::Format;
use crate::args::workflows::GraphArgs;
use crate::exit;
use crate::failure::{Failure, Outcome};
use crate::output::figures::plural;
use crate::output::table::{Cell, Column, Table};
use crate::output::view::workflow::{GraphView, NodeView};
use crate::session::Session;

pub(super) async fn run(session: &Session, args: &GraphArgs) -> Outcome {
    let out = &session.out;
    let mut source = Source::guessed(&args.what)?;
    let given = parameters(&args.given)?;
    let client = session.client()?;
    let checked = client.compile(&source.call(&given), given.is_empty()).await?.ok_or_else(too_large)?;
    if !checked.problems.is_empty() {
        source.text(&client).await?;
        return Err(mistakes::failure(&source.call(&given), &checked.problems));
    }
    let nodes = match checked.spec.filter(|_| !given.is_empty()) {
        Some(spec) => of_run(&spec),
        None => of_definition(source.text(&client).await?),
    };
    let workflow = checked.workflow.map(|workflow| workflow.name).unwrap_or_default();
    match out.format {
        Format::Json | Format::Jsonl => out.json(&GraphView { workflow, tasks: nodes })?,
        Format::Name => nodes.iter().try_for_each(|node| out.name(&node.id))?,
        Format::None => {}
        Format::Table => {
            out.data(&table(&nodes).render(out.stdout()))?;
            let layers = nodes.iter().map(|node| node.layer).max().unwrap_or_default();
            let widest =
                (1..=layers).map(|layer| nodes.iter().filter(|node| node.layer == layer).count()).max();
            out.hint(&format!(
                "{}, {}, at most {} side by side",
                plural(nodes.len() as u64, "task"),
                plural(layers as u64, "layer"),
                widest.unwrap_or_default()
            ));
        }
    }
    Ok(exit::DONE)
}

fn too_large() -> Failure {
    Failure::usage("the run of the workflow is too large to be drawn")
        .help("draw the definition: leave --set out")
}

/// Layers one below the other; what stands in one layer runs side by side.
pub(super) fn table(nodes: &[NodeView]) -> Table {
    let loops = nodes.iter().any(|node| node.for_each.is_some());
    let each = loops.then_some(Column::Words("FOR EACH"));
    let before = [Column::Figures("LAYER"), Column::Whole("TASK"), Column::Words("BY")];
    let mut table = Table::new(before.into_iter().chain(each).chain([Column::Words("AFTER")]));
    let mut last = 0;
    for node in nodes {
        let first = node.layer != last;
        last = node.layer;
        let after = match (node.dependencies.as_slice(), node.after_end) {
            ([], _) => String::new(),
            (needs, false) => needs.join(", "),
            (needs, true) => format!("end of {}", needs.join(", ")),
        };
        let before = [
            Cell::from(if first { node.layer.to_string() } else { "│".to_owned() }),
            Cell::from(&node.id),
            Cell::from(&node.by),
        ];
        let each = loops.then(|| Cell::from(node.for_each.clone().unwrap_or_default()));
        table.row(before.into_iter().chain(each).chain([Cell::dim(after)]));
    }
    table
}

/// The tasks of a definition as they are written, in layers. What is not sound is left out: a check comes first.
pub(super) fn of_definition(text: &str) -> Vec<NodeView> {
    let definition: Value = serde_json::from_str(text).unwrap_or_default();
    let defaults = &definition["defaults"];
    let tasks = definition["tasks"].as_array().into_iter().flatten();
    in_layers(tasks.filter_map(|task| node(task.as_object()?, defaults)).collect())
}

fn node(task: &Map<String, Value>, defaults: &Value) -> Option<NodeView> {
    let text = |name: &str| task.get(name).and_then(Value::as_str).map(str::to_owned);
    let by = if let Some(other) = text("use") {
        format!("→ {other}")
    } else if let Some(program) = task.get("run").and_then(|run| run[0].as_str()) {
        program.to_owned()
    } else {
        text("worker").or_else(|| defaults["worker"].as_str().map(str::to_owned)).unwrap_or_default()
    };
    let for_each = task.get("for_each").map(|rows| match rows {
        Value::String(name) => name.trim_start_matches("{{").trim_end_matches("}}").trim().to_owned(),
        Value::Array(items) => plural(items.len() as u64, "row"),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => String::new(),
    });
    let needs = task.get("dependencies").and_then(Value::as_array).into_iter().flatten();
    Some(NodeView {
        id: text("id")?,
        layer: 0,
        by,
        dependencies: needs.filter_map(Value::as_str).map(str::to_owned).collect(),
        for_each,
        after_end: task.get("after").is_some_and(|after| after == "end"),
    })
}

/// The tasks of a run, in layers.
pub(super) fn of_run(spec: &RunSpec) -> Vec<NodeView> {
    let node = |task: &orch_proto::v1::TaskSpec| NodeView {
        id: task.task_id.clone(),
        layer: 0,
        by: match &task.runner {
            Some(Runner::Worker(work)) => work.worker.clone(),
            Some(Runner::Command(command)) => command.program.clone(),
            Some(Runner::Noop(_)) | None => "noop".to_owned(),
        },
        dependencies: task.dependencies.clone(),
        for_each: None,
        after_end: task.after() == After::End,
    };
    in_layers(spec.tasks.iter().map(node).collect())
}

/// Each task one layer below the last of those that it waits for; within a layer the order of the file. Rounds end when
/// nothing moves, or after as many as there are tasks: a circle is the coordinator's to tell.
fn in_layers(mut nodes: Vec<NodeView>) -> Vec<NodeView> {
    let mut layers: BTreeMap<String, usize> = nodes.iter().map(|node| (node.id.clone(), 1)).collect();
    for _ in 0..nodes.len() {
        let mut moved = false;
        for node in &nodes {
            let below =
                node.dependencies.iter().filter_map(|need| layers.get(need)).max().map_or(1, |max| max + 1);
            if layers.get(&node.id).is_some_and(|layer| *layer < below) {
                layers.insert(node.id.clone(), below);
                moved = true;
            }
        }
        if !moved {
            break;
        }
    }
    for node in &mut nodes {
        node.layer = layers.get(&node.id).copied().unwrap_or(1);
    }
    nodes.sort_by_key(|node| node.layer);
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diamond_is_joined_once_and_a_circle_ends() {
        let nodes = of_definition(
            r#"{"defaults":{"worker":"marie"},"tasks":[{"id":"join","dependencies":["left","right"]},
            {"id":"top"},{"id":"left","dependencies":["top"]},{"id":"right","dependencies":["top"],"run":["make"]}]}"#,
        );
        let told: Vec<_> =
            nodes.iter().map(|node| (node.layer, node.id.as_str(), node.by.as_str())).collect();
        assert_eq!(
            told,
            [(1, "top", "marie"), (2, "left", "marie"), (2, "right", "make"), (3, "join", "marie")]
        );
        let circle = r#"{"tasks":[{"id":"a","dependencies":["b"]},{"id":"b","dependencies":["a"]}]}"#;
        assert_eq!(of_definition(circle).len(), 2);
    }
}
