//! The graph of one run: what waits for what, both ways, in a few flat arrays.
//! Knows indexes only; states of tasks are not here.

use crate::ids::TaskIndex;

/// Dependencies and dependents of every task of a run. Empty arrays for a run without dependencies.
#[derive(Debug, Default, Hash)]
pub(crate) struct Graph {
    dependencies: Rows,
    dependents: Rows,
}

/// Why lists of dependencies are no graph.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum GraphError {
    /// A dependency that is not a task of the run.
    Dangling,
    /// Tasks that wait for each other: each waits for the next, the first is repeated at the end.
    Circle(Vec<TaskIndex>),
}

impl Graph {
    /// Builds both directions and proves that there is no circle.
    pub(crate) fn build<'a, I>(dependencies: I) -> Result<Self, GraphError>
    where
        I: ExactSizeIterator<Item = &'a [TaskIndex]> + Clone,
    {
        let count = dependencies.len();
        if dependencies.clone().all(<[_]>::is_empty) {
            return Ok(Self::default());
        }
        if dependencies.clone().flatten().any(|index| index.0 as usize >= count) {
            return Err(GraphError::Dangling);
        }
        let forward = Rows::build(dependencies.clone());
        let mut reverse: Vec<Vec<TaskIndex>> = vec![Vec::new(); count];
        for (index, row) in (0u32..).zip(dependencies) {
            for dependency in row {
                reverse[dependency.0 as usize].push(TaskIndex(index));
            }
        }
        let graph =
            Self { dependencies: forward, dependents: Rows::build(reverse.iter().map(Vec::as_slice)) };
        graph.refuse_circles(count)?;
        Ok(graph)
    }

    /// What `task` waits for.
    pub(crate) fn dependencies(&self, task: TaskIndex) -> &[TaskIndex] {
        self.dependencies.row(task)
    }

    /// What waits for `task`.
    pub(crate) fn dependents(&self, task: TaskIndex) -> &[TaskIndex] {
        self.dependents.row(task)
    }

    /// Takes away what waits for nothing, again and again; what remains waits for itself.
    fn refuse_circles(&self, count: usize) -> Result<(), GraphError> {
        let indexes = || (0u32..).map(TaskIndex).take(count);
        let mut unmet: Vec<usize> = indexes().map(|task| self.dependencies(task).len()).collect();
        let mut free: Vec<TaskIndex> = indexes().filter(|task| unmet[task.0 as usize] == 0).collect();
        let mut done = 0;
        while let Some(task) = free.pop() {
            done += 1;
            for dependent in self.dependents(task) {
                let left = &mut unmet[dependent.0 as usize];
                *left -= 1;
                if *left == 0 {
                    free.push(*dependent);
                }
            }
        }
        if done == count { Ok(()) } else { Err(GraphError::Circle(self.circle(&unmet))) }
    }

    /// Follows unmet dependencies until one comes again.
    fn circle(&self, unmet: &[usize]) -> Vec<TaskIndex> {
        let stuck = |task: &TaskIndex| unmet[task.0 as usize] > 0;
        let mut path: Vec<TaskIndex> = Vec::new();
        let mut at = (0u32..).map(TaskIndex).take(unmet.len()).find(stuck);
        while let Some(task) = at {
            if let Some(start) = path.iter().position(|seen| *seen == task) {
                path.drain(..start);
                path.push(task);
                break;
            }
            path.push(task);
            at = self.dependencies(task).iter().copied().find(stuck);
        }
        path
    }
}

/// Lists of indexes, end to end.
#[derive(Debug, Default, Hash)]
struct Rows {
    /// Where each row starts, and where the last ends.
    starts: Box<[u32]>,
    cells: Box<[TaskIndex]>,
}

impl Rows {
    fn build<'a>(rows: impl Iterator<Item = &'a [TaskIndex]>) -> Self {
        let mut starts = vec![0];
        let mut cells = Vec::new();
        for row in rows {
            cells.extend_from_slice(row);
            starts.push(u32::try_from(cells.len()).unwrap_or(u32::MAX));
        }
        Self { starts: starts.into(), cells: cells.into() }
    }

    fn row(&self, task: TaskIndex) -> &[TaskIndex] {
        let at = task.0 as usize;
        match (self.starts.get(at), self.starts.get(at + 1)) {
            (Some(from), Some(to)) => &self.cells[*from as usize..*to as usize],
            (None | Some(_), None) | (None, Some(_)) => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(rows: &[&[u32]]) -> Result<Graph, GraphError> {
        let rows: Vec<Vec<TaskIndex>> =
            rows.iter().map(|row| row.iter().map(|index| TaskIndex(*index)).collect()).collect();
        Graph::build(rows.iter().map(Vec::as_slice))
    }

    fn circle(rows: &[&[u32]]) -> Vec<u32> {
        match build(rows) {
            Err(GraphError::Circle(path)) => path.iter().map(|index| index.0).collect(),
            other => panic!("expected a circle, got {other:?}"),
        }
    }

    #[test]
    fn both_directions_are_kept() {
        let graph = build(&[&[], &[0], &[0, 1]]).expect("no circle");
        assert_eq!(graph.dependencies(TaskIndex(2)), &[TaskIndex(0), TaskIndex(1)]);
        assert_eq!(graph.dependents(TaskIndex(0)), &[TaskIndex(1), TaskIndex(2)]);
        assert_eq!(graph.dependents(TaskIndex(2)), &[]);
    }

    #[test]
    fn a_run_without_dependencies_keeps_nothing() {
        let graph = build(&[&[], &[]]).expect("no circle");
        assert!(graph.dependencies.starts.is_empty() && graph.dependents.cells.is_empty());
        assert_eq!(graph.dependents(TaskIndex(1)), &[]);
    }

    #[test]
    fn a_circle_is_named_in_the_order_of_waiting() {
        assert_eq!(circle(&[&[0]]), [0, 0]);
        assert_eq!(circle(&[&[1], &[2], &[0]]), [0, 1, 2, 0]);
    }

    #[test]
    fn what_only_leads_into_a_circle_is_not_named() {
        assert_eq!(circle(&[&[1], &[2], &[1], &[]]), [1, 2, 1]);
    }

    #[test]
    fn a_dangling_dependency_is_refused() {
        assert_eq!(build(&[&[7]]).err(), Some(GraphError::Dangling));
    }
}
