//! The inputs of a task: one for each task that it depends on, in the order of their index.
//! Knows what becomes of publications; refuses to know how inputs travel.

use std::collections::BTreeMap;

use orch_core::ids::{RunId, TaskKey};
use orch_proto::store::v1::{StoredPublish, StoredSpec, TaskRecord, stored_spec};
use orch_proto::v1;

use super::records::{Records, Specs};
use super::{DispatchError, index, summary};
use crate::submission::publish::final_path;

/// Longest summary of one input.
const MAX_SUMMARY_BYTES: usize = 4 << 10;
/// Summaries of all inputs together: where there are many, each gets an equal share.
const ALL_SUMMARIES_BYTES: usize = 8 << 20;
/// Most dependencies of a task: what no share falls below follows from it.
const MIN_SUMMARY_BYTES: usize = 512;

/// Whether summaries are wanted. They may need files to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Summaries {
    Included,
    LeftOut,
}

/// What became of the publication of a task's files.
struct Published {
    index: u32,
    of: u32,
    paths: Vec<String>,
    /// Why there are none.
    failed: Option<String>,
    input: v1::Input,
}

/// The inputs of the task with `spec` in `run`. A review has one: the task that it judges, as it is recorded now. A
/// publication is told with the task whose files it published, where that is an input too. A synthesis is not shown the plan:
/// it has the results themselves.
pub(super) fn inputs(
    records: &Records<'_>,
    run: RunId,
    run_ref: &str,
    spec: &StoredSpec,
    summaries: Summaries,
) -> Result<Vec<v1::Input>, DispatchError> {
    let of = [spec.of];
    let on = if spec.role() == v1::TaskRole::Review { &of[..] } else { &spec.dependencies };
    let share = match summaries {
        Summaries::Included => {
            (ALL_SUMMARIES_BYTES / on.len().max(1)).clamp(MIN_SUMMARY_BYTES, MAX_SUMMARY_BYTES)
        }
        Summaries::LeftOut => 0,
    };
    let specs = Specs::new(records, run);
    let mut inputs = BTreeMap::new();
    let mut publications = Vec::new();
    let combines = spec.role() == v1::TaskRole::Synthesis;
    for at in on {
        let (task, spec) = (TaskKey { run, index: index(*at) }, specs.get(*at)?);
        if combines && spec.role() == v1::TaskRole::Plan {
            continue;
        }
        let stored = records.task(task)?.ok_or(DispatchError::NoRecord(task))?;
        let mut input = input(run_ref, &spec, &stored);
        if let (Some(stored_spec::Runner::Publish(publish)), true) =
            (&spec.runner, spec.role() == v1::TaskRole::Publish)
        {
            let done = input.state() == v1::TaskState::Succeeded;
            let paths = if done { final_paths(publish, run_ref) } else { Vec::new() };
            let failed = (!done).then(|| input.detail.clone());
            publications.push(Published { index: *at, of: spec.of, paths, failed, input });
            continue;
        }
        if let Some(result) = stored.result {
            if share > 0 {
                input.summary = summary::of(records, &result, share)?;
            }
            input.answer = result.answer;
            input.structured = result.structured;
            input.artifacts = result.artifacts;
        }
        inputs.insert(*at, input);
    }
    for Published { index, of, paths, failed, input: own } in publications {
        match inputs.get_mut(&of) {
            Some(input) => {
                input.published.extend(paths);
                if let (Some(why), true) = (failed, input.detail.is_empty()) {
                    input.detail = format!("its files were not published: {why}");
                }
            }
            None => drop(inputs.insert(index, v1::Input { published: paths, ..own })),
        }
    }
    Ok(inputs.into_values().collect())
}

fn final_paths(publish: &StoredPublish, run_ref: &str) -> Vec<String> {
    let number = super::number_of(run_ref);
    publish.files.iter().map(|file| final_path(&file.to, number)).collect()
}

/// How a task ended, without its result.
fn input(run_ref: &str, spec: &StoredSpec, stored: &TaskRecord) -> v1::Input {
    let last = stored.attempts.last();
    let outcome = match (stored.outcome, last) {
        // Not terminal yet: it is being judged.
        (0, Some(last)) => last.outcome,
        (outcome, _) => outcome,
    };
    let detail = match stored.state() {
        v1::TaskState::Succeeded | v1::TaskState::Verifying => String::new(),
        v1::TaskState::Unspecified
        | v1::TaskState::Blocked
        | v1::TaskState::Queued
        | v1::TaskState::Leased
        | v1::TaskState::Running
        | v1::TaskState::WaitingRetry
        | v1::TaskState::Parked
        | v1::TaskState::Failed
        | v1::TaskState::Cancelled
        | v1::TaskState::Skipped => {
            last.map(|last| last.detail.clone()).filter(|detail| !detail.is_empty()).unwrap_or_else(|| {
                let ended = v1::Outcome::try_from(outcome).unwrap_or_default();
                ended.row().map_or_else(String::new, |row| row.sentence.to_owned())
            })
        }
    };
    v1::Input {
        task_id: spec.task_id.clone(),
        r#ref: format!("{run_ref}/{}", spec.task_id),
        state: stored.state,
        outcome,
        detail,
        worker: match &spec.runner {
            Some(stored_spec::Runner::Worker(worker)) => worker.worker.clone(),
            Some(
                stored_spec::Runner::Command(_)
                | stored_spec::Runner::PackedCommand(_)
                | stored_spec::Runner::Noop(_)
                | stored_spec::Runner::Publish(_),
            )
            | None => String::new(),
        },
        role: spec.role,
        ..v1::Input::default()
    }
}
