//! The order and indentation in which tasks are shown: each below the dependency that is longest in coming, reviews and
//! publications below the task they belong to.
//! Knows ids and dependencies; a task with several parents stands under one of them. Pure. Meant for what fits on a
//! screen: the work grows with the square of the tasks.

use std::collections::HashMap;

use orch_proto::v1::{Task, TaskRole};

/// A place in the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// Position of the task in the order it was given.
    pub(crate) position: usize,
    /// The branches before its name, for example `│ ╰─`.
    pub(crate) branches: String,
}

/// Deepest indentation shown: a chain of a hundred tasks must not push its names off the screen.
const MAX_DEPTH: usize = 8;

/// Every task once, parents before children.
pub(crate) fn layout<'a>(tasks: impl IntoIterator<Item = &'a Task>) -> Vec<Place> {
    let tasks: Vec<_> = tasks.into_iter().collect();
    let positions: HashMap<&str, usize> =
        tasks.iter().enumerate().map(|(position, task)| (task.task_id.as_str(), position)).collect();
    let depths = depths(&tasks, &positions);
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); tasks.len()];
    let mut roots = Vec::new();
    for (position, task) in tasks.iter().enumerate() {
        // A review or a publication belongs to one task, whatever else it waits for.
        let only = Some(&task.of).filter(|of| positions.contains_key(of.as_str()));
        let parents = task.dependencies.iter().filter(|id| only.is_none_or(|of| of == *id));
        let parents = parents.filter_map(|id| positions.get(id.as_str()).copied());
        // What sums everything up stands for itself: it would hang below whichever task is longest in coming.
        let parents = parents.filter(|_| task.role() != TaskRole::Synthesis);
        match parents
            .filter(|parent| depths[*parent] < depths[position])
            .max_by_key(|parent| (depths[*parent], *parent))
        {
            Some(parent) => children[parent].push(position),
            None => roots.push(position),
        }
    }
    // It comes last wherever it stands in the run.
    roots.sort_by_key(|root| tasks[*root].role() == TaskRole::Synthesis);
    let mut places = Vec::with_capacity(tasks.len());
    let mut open: Vec<(usize, String, String)> =
        roots.into_iter().rev().map(|root| (root, String::new(), String::new())).collect();
    while let Some((position, branches, below)) = open.pop() {
        places.push(Place { position, branches });
        let last = children[position].len().saturating_sub(1);
        let shallow = below.chars().count() / 2 < MAX_DEPTH;
        for (nth, child) in children[position].iter().enumerate().rev() {
            let (branch, rest) = match (shallow, nth == last) {
                (true, true) => ("╰─", "  "),
                (true, false) => ("├─", "│ "),
                (false, _) => ("", ""),
            };
            open.push((*child, format!("{below}{branch}"), format!("{below}{rest}")));
        }
    }
    places
}

/// The longest chain of dependencies above each task. Found by repeated passes in the order given, which for the usual
/// file that names parents first is a single one; a circle, which the coordinator refuses, ends with the last pass.
fn depths(tasks: &[&Task], positions: &HashMap<&str, usize>) -> Vec<usize> {
    let mut depths = vec![0; tasks.len()];
    for _ in 0..tasks.len() {
        let mut changed = false;
        for (position, task) in tasks.iter().enumerate() {
            let above = task.dependencies.iter().filter_map(|id| positions.get(id.as_str()));
            let depth = above.map(|parent| depths[*parent] + 1).max().unwrap_or(0);
            if depth > depths[position] && depth < tasks.len() {
                depths[position] = depth;
                changed = true;
            }
        }
        if !changed {
            break;
        }
    }
    depths
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::model::samples::task;

    fn drawn(tasks: &[Task]) -> String {
        let lines: Vec<_> = layout(tasks)
            .into_iter()
            .map(|place| format!("{}{}", place.branches, tasks[place.position].task_id))
            .collect();
        lines.join("\n")
    }

    #[test]
    fn tasks_stand_below_their_last_dependency() {
        let tasks = [
            task(0, "plan", &[]),
            task(1, "api", &["plan"]),
            task(2, "ui", &["plan"]),
            task(3, "merge", &["api", "ui"]),
            task(4, "proof", &["merge"]),
            task(5, "alone", &[]),
        ];
        insta::assert_snapshot!(drawn(&tasks), @r"
        plan
        ├─api
        ╰─ui
          ╰─merge
            ╰─proof
        alone
        ");
    }

    #[test]
    fn reviews_and_publications_stand_below_their_task() {
        let of = |index, id: &str, needs: &[&str], of: &str| Task { of: of.into(), ..task(index, id, needs) };
        let tasks = [
            task(0, "plan", &[]),
            Task {
                role: TaskRole::Synthesis.into(),
                ..task(1, "synthesis", &["plan", "emma.publish", "note"])
            },
            task(2, "emma", &["plan"]),
            task(3, "note", &["plan", "emma"]),
            of(4, "emma.review", &["emma", "note"], "emma"),
            of(5, "emma.publish", &["emma"], "emma"),
        ];
        insta::assert_snapshot!(drawn(&tasks), @r"
        plan
        ╰─emma
          ├─note
          ├─emma.review
          ╰─emma.publish
        synthesis
        ");
    }

    #[test]
    fn children_named_before_their_parents_are_placed_too() {
        insta::assert_snapshot!(drawn(&[task(0, "b", &["a"]), task(1, "a", &[])]), @r"
        a
        ╰─b
        ");
    }

    #[test]
    fn circles_and_unknown_parents_still_show_every_task_once() {
        let tasks = [task(0, "a", &["b"]), task(1, "b", &["a"]), task(2, "c", &["nowhere"])];
        assert_eq!(layout(&tasks).len(), 3);
    }

    #[test]
    fn long_chains_stop_moving_to_the_right() {
        let tasks: Vec<_> = (0..30)
            .map(|i| {
                task(
                    i,
                    &format!("t{i}"),
                    &if i == 0 { vec![] } else { vec![format!("t{}", i - 1)] }
                        .iter()
                        .map(String::as_str)
                        .collect::<Vec<_>>(),
                )
            })
            .collect();
        let widest = layout(&tasks).iter().map(|place| place.branches.chars().count()).max().unwrap();
        assert_eq!(widest, 2 * MAX_DEPTH);
    }
}
