//! What must hold before a task counts as done, and where its files go: gates and publications of a workflow.
//! Knows their fields and paths; refuses to know who checks and who copies.

use super::Workflows;
use super::json::Node;
use super::problem::shown;
use super::reader::Reader;
use super::task::{known_worker, program};
use orch_proto::codes::ErrorCode;
use orch_proto::v1;

/// Every field of `gates`.
pub(super) const GATE_FIELDS: &[&str] =
    &["min_tool_calls", "required_artifacts", "commands", "review", "repairs"];
/// Every field of a command of gates.
pub(super) const COMMAND_FIELDS: &[&str] = &["run", "timeout", "dir"];
/// Every field of a review.
pub(super) const REVIEW_FIELDS: &[&str] = &["worker", "instructions", "model"];
/// Every field of a publication.
pub(super) const PUBLISH_FIELDS: &[&str] = &["artifact", "to", "replace"];
/// Most publications of a task.
const MAX_PUBLICATIONS: usize = 32;
/// Most commands of gates.
const MAX_COMMANDS: usize = 16;
/// Most required artifacts.
const MAX_ARTIFACTS: usize = 64;
/// Most repairs.
const MAX_REPAIRS: u32 = 10;

/// Reads `gates` of `object`.
pub(super) fn gates(reader: &mut Reader<'_, '_>, object: &Node, in_force: &Workflows) -> Option<v1::Gates> {
    let node = object.get("gates")?;
    reader.known(node, "`gates`", GATE_FIELDS);
    let required_artifacts = paths(reader, node, "required_artifacts");
    let commands = node.get("commands").map_or_else(Vec::new, |list| commands(reader, list));
    Some(v1::Gates {
        min_tool_calls: reader.whole(node, "min_tool_calls", 0..=u32::MAX).unwrap_or(0),
        required_artifacts,
        commands,
        review: node.get("review").and_then(|review_node| review(reader, review_node, in_force)),
        repairs: reader.whole(node, "repairs", 0..=MAX_REPAIRS),
    })
}

fn paths(reader: &mut Reader<'_, '_>, node: &Node, field: &str) -> Vec<String> {
    let Some(list) = node.get(field) else { return Vec::new() };
    let Some(items) = list.items().filter(|items| items.len() <= MAX_ARTIFACTS) else {
        let message = format!("`{field}` must be a list of at most {MAX_ARTIFACTS} paths beneath `out/`");
        reader.wrong(ErrorCode::InvalidGate, &list.at, message, "");
        return Vec::new();
    };
    let mut paths = Vec::new();
    for item in items {
        match item.as_text() {
            Some(text) => paths.extend(path(reader, item, text, ErrorCode::InvalidGate)),
            None => {
                let message = format!("a path of `{field}` must be text, not {}", item.kind());
                reader.wrong(ErrorCode::InvalidGate, &item.at, message, "");
            }
        }
    }
    paths
}

fn commands(reader: &mut Reader<'_, '_>, list: &Node) -> Vec<v1::GateCommand> {
    let Some(items) = list.items().filter(|items| items.len() <= MAX_COMMANDS) else {
        let message = format!("`commands` must be a list of at most {MAX_COMMANDS}");
        reader.wrong(ErrorCode::InvalidGate, &list.at, message, "");
        return Vec::new();
    };
    let mut commands = Vec::new();
    for item in items {
        reader.known(item, "a command of `gates`", COMMAND_FIELDS);
        if item.get("run").is_none() {
            let message = "a command of `gates` has a `run`: a list of a program and its arguments";
            reader.wrong(ErrorCode::InvalidGate, &item.at, message, "");
        }
        let timeout = reader.duration(item, "timeout");
        let dir = reader.text(item, "dir").unwrap_or_default();
        if let Some((program, args)) = program(reader, item, "run", &item.at) {
            commands.push(v1::GateCommand { program, args, timeout, dir });
        }
    }
    commands
}

fn review(reader: &mut Reader<'_, '_>, node: &Node, in_force: &Workflows) -> Option<v1::Review> {
    reader.known(node, "`review`", REVIEW_FIELDS);
    let Some(at) = node.get("worker") else {
        reader.wrong(ErrorCode::InvalidGate, &node.at, "a review names the `worker` that judges", "");
        return None;
    };
    let worker = reader.text(node, "worker")?;
    known_worker(reader, at, &worker, in_force);
    Some(v1::Review {
        worker,
        instructions: reader.text(node, "instructions").unwrap_or_default(),
        model: reader.text(node, "model").unwrap_or_default(),
    })
}

/// Reads `publish` of a task.
pub(super) fn publications(reader: &mut Reader<'_, '_>, task: &Node) -> Vec<v1::Publication> {
    let Some(list) = task.get("publish") else { return Vec::new() };
    let Some(items) = list.items().filter(|items| items.len() <= MAX_PUBLICATIONS) else {
        let message = format!("`publish` must be a list of at most {MAX_PUBLICATIONS}");
        reader.wrong(ErrorCode::InvalidPublication, &list.at, message, "");
        return Vec::new();
    };
    items.iter().filter_map(|item| publication(reader, item)).collect()
}

fn publication(reader: &mut Reader<'_, '_>, item: &Node) -> Option<v1::Publication> {
    reader.known(item, "a publication", PUBLISH_FIELDS);
    let mut paths = ["artifact", "to"].into_iter().map(|field| {
        let node = item.get(field);
        match node.and_then(|node| node.as_text().map(|text| (node, text))) {
            Some((node, text)) => path(reader, node, text, ErrorCode::InvalidPublication),
            None => {
                let message = format!("a publication has the text `{field}`");
                reader.wrong(ErrorCode::InvalidPublication, &item.at, message, "");
                None
            }
        }
    });
    let (artifact, to) = (paths.next().flatten(), paths.next().flatten());
    let replace = reader.boolean(item, "replace").unwrap_or_default();
    Some(v1::Publication { artifact: artifact?, to: to?, replace })
}

/// A path beneath a directory, whatever is inserted into it.
fn path(reader: &mut Reader<'_, '_>, node: &Node, text: &str, code: ErrorCode) -> Option<String> {
    let path = reader.fill_path(node, text)?;
    let sound = !path.is_empty()
        && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
        && !path.chars().any(|c| c.is_control() || c == '\\');
    if !sound {
        let message = format!("`{}` is no path beneath a directory", shown(&path));
        reader.wrong(
            code,
            &node.at,
            message,
            "write parts joined by `/`, without `.`, `..` and a leading `/`",
        );
        return None;
    }
    Some(path)
}
