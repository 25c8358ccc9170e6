//! How tasks depend on each other: ids that are there twice, dependencies that are not there, circles.
//! Knows ids and places; refuses to know what a task does.

use std::collections::HashMap;

use orch_proto::codes::ErrorCode;

use super::diagnostic::Diagnostic;
use super::fields::DraftTask;
use crate::suggest::did_you_mean;

/// Names shown of a circle; a long one is cut in the middle.
const SHOWN_OF_CIRCLE: usize = 12;

/// Checks ids and dependencies of a whole run.
pub(super) fn check(tasks: &[DraftTask], problems: &mut Vec<Diagnostic>) {
    let mut by_id: HashMap<&str, usize> = HashMap::new();
    for (index, task) in tasks.iter().enumerate() {
        let id = task.spec.task_id.as_str();
        if id.is_empty() {
            continue;
        }
        if by_id.contains_key(id) {
            let message = format!("the task id {id:?} is there twice");
            problems.push(
                Diagnostic::new(ErrorCode::DuplicateTaskId, task.id_span.clone(), message).note("rename one"),
            );
        } else {
            by_id.insert(id, index);
        }
    }
    let edges: Vec<Vec<Edge>> = tasks.iter().map(|task| edges_of(task, &by_id, problems)).collect();
    circles(tasks, &edges, problems);
}

/// A dependency that is there.
struct Edge {
    /// Index of the task depended on.
    to: usize,
    /// Which of the dependencies it is.
    nth: usize,
}

fn edges_of(task: &DraftTask, by_id: &HashMap<&str, usize>, problems: &mut Vec<Diagnostic>) -> Vec<Edge> {
    let mut edges = Vec::new();
    for (nth, (wanted, span)) in task.spec.dependencies.iter().zip(&task.dependency_spans).enumerate() {
        match by_id.get(wanted.as_str()) {
            Some(&to) => edges.push(Edge { to, nth }),
            None => {
                let message =
                    format!("task {:?} depends on {wanted:?}, which is not in the run", task.spec.task_id);
                let mut known: Vec<_> = by_id.keys().copied().filter(|id| *id != task.spec.task_id).collect();
                known.sort_unstable();
                let note = did_you_mean(wanted, known);
                problems
                    .push(Diagnostic::new(ErrorCode::UnknownDependency, span.clone(), message).note(note));
            }
        }
    }
    edges
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    New,
    OnPath,
    Done,
}

/// Depth-first with a path of its own: a chain of 100,000 tasks must not exhaust the stack. Every edge that leads back
/// into the path closes a circle.
fn circles(tasks: &[DraftTask], edges: &[Vec<Edge>], problems: &mut Vec<Diagnostic>) {
    let mut marks = vec![Mark::New; tasks.len()];
    for root in 0..tasks.len() {
        let mut path: Vec<(usize, usize)> = Vec::new();
        if marks[root] == Mark::New {
            marks[root] = Mark::OnPath;
            path.push((root, 0));
        }
        while let Some((at, next)) = path.last_mut() {
            let Some(edge) = edges[*at].get(*next) else {
                marks[*at] = Mark::Done;
                path.pop();
                continue;
            };
            *next += 1;
            let (from, to) = (*at, edge.to);
            match marks[to] {
                Mark::New => {
                    marks[to] = Mark::OnPath;
                    path.push((to, 0));
                }
                Mark::OnPath => {
                    let start = path.iter().position(|(task, _)| *task == to).unwrap_or(0);
                    let circle: Vec<_> =
                        path[start..].iter().map(|(task, _)| tasks[*task].spec.task_id.as_str()).collect();
                    let span = tasks[from].dependency_spans[edge.nth].clone();
                    problems.push(Diagnostic::new(ErrorCode::DependencyCycle, span, told(&circle)));
                }
                Mark::Done => {}
            }
        }
    }
}

fn told(circle: &[&str]) -> String {
    let first = circle.first().copied().unwrap_or_default();
    let mut names = circle.to_vec();
    if names.len() > SHOWN_OF_CIRCLE {
        names.splice(SHOWN_OF_CIRCLE / 2..names.len() - SHOWN_OF_CIRCLE / 2, ["…"]);
    }
    format!("tasks wait for each other: {} → {first}", names.join(" → "))
}
