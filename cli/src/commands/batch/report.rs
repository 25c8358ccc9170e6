//! What came of a batch: the tasks of a run, gathered by the row of the roster they belong to. Knows how names of tasks are
//! made of rows; refuses to fetch anything.

use std::collections::BTreeMap;

use orch_proto::v1::{Run, Task, TaskArtifact, TaskRole, TaskState};

use super::roster::Roster;
use crate::args::parse::task_state_word;
use crate::output::figures::{dollars, plural, usd};
use crate::output::table::{Cell, Column, Table};
use crate::output::view::result::ArtifactView;
use crate::output::view::workflow::{BatchView, ItemView};
use crate::output::view::{RunView, outcome_word};
use crate::output::words::{run_ended, task_look};

/// How far a row has come, from its tasks.
#[derive(Debug, Default)]
struct Sum {
    item: ItemView,
    micro_usd: u64,
    /// State that stands for all of its tasks, and its rank.
    state: Option<(u8, TaskState)>,
}

/// A report of a run.
pub(super) struct Report {
    items: Vec<Sum>,
    shared: Sum,
}

impl Report {
    /// Gathers the tasks by row.
    pub(super) fn of(roster: &Roster, run: &str, tasks: &[Task], files: &[TaskArtifact]) -> Self {
        let rows: BTreeMap<&str, usize> =
            roster.rows.iter().enumerate().map(|(index, row)| (row.slug.as_str(), index)).collect();
        let named = |row: &super::roster::Row| Sum {
            item: ItemView { name: row.name.clone(), slug: row.slug.clone(), ..ItemView::default() },
            ..Sum::default()
        };
        let mut report = Self { items: roster.rows.iter().map(named).collect(), shared: Sum::default() };
        let mut by_task: BTreeMap<&str, Vec<&TaskArtifact>> = BTreeMap::new();
        for file in files {
            by_task.entry(&file.task_id).or_default().push(file);
        }
        for task in tasks {
            let sum = match row_of(&task.task_id, &rows).and_then(|index| report.items.get_mut(index)) {
                Some(sum) => sum,
                None => &mut report.shared,
            };
            let files = by_task.get(task.task_id.as_str()).map(Vec::as_slice).unwrap_or_default();
            sum.add(run, task, files);
        }
        for sum in report.items.iter_mut().chain([&mut report.shared]) {
            sum.finish();
        }
        report
    }

    /// Items that did not succeed.
    pub(super) fn failed(&self) -> usize {
        self.items.iter().filter(|sum| !sum.is_well()).count()
    }

    /// Whether everything is as it should be, what belongs to no row included.
    pub(super) fn is_well(&self) -> bool {
        self.failed() == 0 && self.shared.is_well()
    }

    /// For people.
    pub(super) fn table(&self) -> Table {
        let mut table = Table::new([
            Column::Whole("NAME"),
            Column::Whole("STATE"),
            Column::Figures("TASKS"),
            Column::Figures("TRIES"),
            Column::Figures("COST"),
            Column::Figures("FILES"),
            Column::Words("WHY"),
        ]);
        for sum in &self.items {
            table.row(sum.cells(&sum.item.name));
        }
        if self.shared.item.tasks > 0 {
            table.row(self.shared.cells("(all)"));
        }
        table
    }

    /// One line for people.
    pub(super) fn summary(&self, run: &Run) -> String {
        let failed = self.failed();
        let money: u64 = self.items.iter().chain([&self.shared]).map(|sum| sum.micro_usd).sum();
        let all = plural(self.items.len() as u64, "item");
        let done = self.items.len() - failed;
        let rest = if failed == 0 { String::new() } else { format!(", {failed} not") };
        let going = if run_ended(run.state()) { "" } else { "; it goes on" };
        format!("{}: {all}, {done} succeeded{rest}, {}{going}", run.r#ref, dollars(money, false))
    }

    /// For scripts.
    pub(super) fn view(self, run: &Run, rows_skipped: usize) -> BatchView {
        let failed = self.failed();
        BatchView {
            run: RunView::from(run),
            succeeded: self.items.len() - failed,
            failed,
            rows_skipped,
            items: self.items.into_iter().map(|sum| sum.item).collect(),
            shared: self.shared.item,
        }
    }
}

/// The row a task belongs to: `evaluate-emma`, `evaluate-emma.publish` and `class.evaluate-emma` are all of `emma`. The
/// longest that fits, for Mary-Ann is not Ann.
fn row_of(task: &str, rows: &BTreeMap<&str, usize>) -> Option<usize> {
    task.split('.').find_map(|part| {
        let cuts = part.match_indices('-').map(|(at, _)| &part[at + 1..]);
        cuts.filter_map(|tail| rows.get(tail).copied()).next()
    })
}

/// What speaks for the whole of several tasks: a failure first, then what goes on, and success only if there is nothing else.
fn rank(state: TaskState) -> u8 {
    match state {
        TaskState::Failed => 5,
        TaskState::Cancelled => 4,
        TaskState::Running
        | TaskState::Verifying
        | TaskState::WaitingRetry
        | TaskState::Parked
        | TaskState::Leased => 3,
        TaskState::Queued | TaskState::Blocked | TaskState::Unspecified => 2,
        TaskState::Succeeded => 1,
        TaskState::Skipped => 0,
    }
}

impl Sum {
    fn add(&mut self, run: &str, task: &Task, files: &[&TaskArtifact]) {
        let state = task.state();
        self.item.tasks += 1;
        self.item.tasks_succeeded += usize::from(state == TaskState::Succeeded);
        self.item.attempts += u64::from(task.attempt);
        self.micro_usd += task.usage.as_ref().map_or(0, |usage| usage.cost_micro_usd);
        // What a publication copies, its task has handed over already.
        if task.role() != TaskRole::Publish {
            self.item.files.extend(files.iter().map(|file| ArtifactView::new(run, file)));
        }
        if self.state.is_none_or(|(before, _)| rank(state) > before) {
            self.state = Some((rank(state), state));
            if !matches!(state, TaskState::Succeeded | TaskState::Skipped) {
                self.item.outcome = outcome_word(task.outcome());
                self.item.detail = (!task.detail.is_empty()).then(|| task.detail.clone());
            }
        }
    }

    fn finish(&mut self) {
        self.item.cost_usd = usd(self.micro_usd);
        self.item.state = self.state.map(|(_, state)| task_state_word(state)).unwrap_or_default();
    }

    /// Succeeded, or nothing there that could fail. A row whose every task was skipped is not done.
    fn is_well(&self) -> bool {
        self.state.is_none_or(|(_, state)| state == TaskState::Succeeded)
    }

    fn cells(&self, name: &str) -> Vec<Cell> {
        let (glyph, style) = task_look(self.state.map(|(_, state)| state).unwrap_or_default());
        let item = &self.item;
        let why = [item.outcome, item.detail.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(": ");
        vec![
            Cell::from(name),
            Cell::styled(format!("{glyph} {}", item.state), style),
            Cell::from(format!("{}/{}", item.tasks_succeeded, item.tasks)),
            Cell::from(item.attempts.to_string()),
            Cell::from(if self.micro_usd == 0 { String::new() } else { dollars(self.micro_usd, false) }),
            Cell::from(if item.files.is_empty() { String::new() } else { item.files.len().to_string() }),
            Cell::dim(why),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_found_by_the_longest_row_that_fits() {
        let rows = BTreeMap::from([("ann", 0), ("mary-ann", 1)]);
        for (task, row) in [
            ("evaluate-ann", Some(0)),
            ("evaluate-mary-ann", Some(1)),
            ("evaluate-mary-ann.publish", Some(1)),
            ("class.evaluate-ann.review", Some(0)),
            ("overview", None),
            ("ann", None),
        ] {
            assert_eq!(row_of(task, &rows), row, "{task}");
        }
    }
}
