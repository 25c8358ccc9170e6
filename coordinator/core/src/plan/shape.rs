//! The graph of a plan: what waits for what, in which order, how deep and how wide.
//! Knows ids only; refuses to know what a task does.

use super::problem::{PlanProblem, shown};
use super::{Draft, Limits, MAX_GUESSES};
use crate::graph::{Graph, GraphError};
use crate::ids::TaskIndex;
use crate::machine::nearest::nearest;
use std::collections::{BTreeMap, BTreeSet};

/// A plan without circles.
pub(super) struct Shape {
    /// Positions of the drafts, every task after its dependencies, otherwise as they came.
    pub(super) order: Vec<usize>,
    /// Tasks in the longest row.
    pub(super) depth: usize,
}

/// Tasks by id, whatever order they came in, so that what is said of them does not depend on it.
struct Rows<'a> {
    ids: Vec<&'a str>,
    /// Positions of the drafts of each id: several only in a plan that is refused for it.
    drafts: Vec<Vec<usize>>,
    /// Sorted, without repetition.
    dependencies: Vec<Vec<TaskIndex>>,
}

/// Checks the graph; `None` when it has a circle.
pub(super) fn check(drafts: &[Draft], limits: &Limits, problems: &mut Vec<PlanProblem>) -> Option<Shape> {
    let rows = Rows::of(drafts, problems);
    let graph = match Graph::build(rows.dependencies.iter().map(Vec::as_slice)) {
        Ok(graph) => graph,
        Err(GraphError::Circle(path)) => {
            problems.push(PlanProblem::Cycle { path: rows.named(&path) });
            return None;
        }
        // Rows name only ids that there are.
        Err(GraphError::Dangling) => return None,
    };
    for (at, id) in (0u32..).zip(&rows.ids) {
        let count = graph.dependents(TaskIndex(at)).len();
        if count > limits.max_fan_out {
            let task = shown(id);
            problems.push(PlanProblem::FanOut { task, count, limit: limits.max_fan_out });
        }
    }
    let longest = rows.longest_row(&graph);
    if longest.len() > limits.max_depth {
        let (depth, limit) = (longest.len(), limits.max_depth);
        problems.push(PlanProblem::TooDeep { depth, limit, path: rows.named(&longest) });
    }
    Some(Shape { order: rows.order(&graph, drafts.len()), depth: longest.len() })
}

impl<'a> Rows<'a> {
    fn of(drafts: &'a [Draft], problems: &mut Vec<PlanProblem>) -> Self {
        let mut by_id: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (at, draft) in drafts.iter().enumerate() {
            by_id.entry(&draft.id).or_default().push(at);
        }
        let ids: Vec<&str> = by_id.keys().copied().collect();
        let mut unknown: BTreeSet<(&str, &str)> = BTreeSet::new();
        let mut dependencies = Vec::with_capacity(ids.len());
        for (id, at) in &by_id {
            let mut row = BTreeSet::new();
            for name in at.iter().flat_map(|at| &drafts[*at].dependencies) {
                match ids.binary_search(&name.as_str()).map(u32::try_from) {
                    Ok(Ok(index)) => drop(row.insert(TaskIndex(index))),
                    Ok(Err(_)) | Err(_) => drop(unknown.insert((name, id))),
                }
            }
            dependencies.push(row.into_iter().collect());
        }
        for (at, (name, task)) in unknown.into_iter().enumerate() {
            let others = ids.iter().copied().filter(|id| *id != task);
            let near = if at < MAX_GUESSES { nearest(name, others, 1).pop() } else { None };
            problems.push(PlanProblem::UnknownDependency {
                task: shown(task),
                dependency: shown(name),
                nearest: near.as_deref().map(shown),
            });
        }
        Self { ids, drafts: by_id.into_values().collect(), dependencies }
    }

    fn named(&self, path: &[TaskIndex]) -> Vec<String> {
        path.iter().map(|index| shown(self.ids[index.0 as usize])).collect()
    }

    /// The longest row, first task first; of several the one whose last task comes first by id.
    fn longest_row(&self, graph: &Graph) -> Vec<TaskIndex> {
        let mut length = vec![0usize; self.ids.len()];
        let mut before: Vec<Option<TaskIndex>> = vec![None; self.ids.len()];
        for task in self.sorted(graph, |index| index) {
            let above = graph.dependencies(task).iter().copied();
            let longest = above.max_by_key(|index| (length[index.0 as usize], std::cmp::Reverse(*index)));
            length[task.0 as usize] = 1 + longest.map_or(0, |index| length[index.0 as usize]);
            before[task.0 as usize] = longest;
        }
        let last = (0..self.ids.len()).max_by_key(|at| (length[*at], std::cmp::Reverse(*at)));
        let last = last.and_then(|at| u32::try_from(at).ok()).map(TaskIndex);
        let mut row: Vec<TaskIndex> = std::iter::successors(last, |task| before[task.0 as usize]).collect();
        row.reverse();
        row
    }

    /// Positions of the drafts, dependencies first, otherwise as they came.
    fn order(&self, graph: &Graph, drafts: usize) -> Vec<usize> {
        let place = |index: TaskIndex| self.drafts[index.0 as usize].first().copied().unwrap_or(drafts);
        self.sorted(graph, place).iter().flat_map(|index| self.drafts[index.0 as usize].clone()).collect()
    }

    /// All tasks, each after its dependencies; of those that could be next the one that is least by `rank`.
    fn sorted<R: Ord>(&self, graph: &Graph, rank: impl Fn(TaskIndex) -> R) -> Vec<TaskIndex> {
        let all = || (0u32..).map(TaskIndex).take(self.ids.len());
        let mut unmet: Vec<usize> = all().map(|task| graph.dependencies(task).len()).collect();
        let mut free: BTreeSet<(R, TaskIndex)> =
            all().filter(|task| unmet[task.0 as usize] == 0).map(|task| (rank(task), task)).collect();
        let mut order = Vec::with_capacity(self.ids.len());
        while let Some((_, task)) = free.pop_first() {
            order.push(task);
            for dependent in graph.dependents(task) {
                let left = &mut unmet[dependent.0 as usize];
                *left -= 1;
                if *left == 0 {
                    free.insert((rank(*dependent), *dependent));
                }
            }
        }
        order
    }
}
