//! Where planned tasks leave and publish files: paths that are safe, and no two files for one place.
//! Knows words; refuses to know any file system. What an agent does with a path it checks itself.

use super::problem::{PathUse, PlanProblem, Reason, shown};
use super::{Draft, sorted};
use std::collections::BTreeMap;

/// Longest path, in bytes.
const MAX_PATH_BYTES: usize = 1_024;
/// Longest part of a path, in bytes.
const MAX_PART_BYTES: usize = 255;
/// Names, and a beginning of names, of what in a workspace programs execute or obey, and of what is orch's own.
const OFF_LIMITS: [&str; 2] = [".git", ".claude"];
const OWN_PREFIX: &str = ".orch";
/// What is replaced in a place of publication; `{task}` alone differs between tasks of a run.
const REPLACED: [&str; 3] = ["{date}", "{run}", "{task}"];

/// Whether nothing is published to this place: a part of it is `.git` or `.claude`, which programs execute or obey, or begins
/// with `.orch`, which is orch's own; small letters or large, because some file systems make no difference. Agents refuse
/// it as well.
#[must_use]
pub fn is_off_limits(path: &str) -> bool {
    path.split('/').any(|part| {
        OFF_LIMITS.iter().any(|name| part.eq_ignore_ascii_case(name))
            || part.get(..OWN_PREFIX.len()).is_some_and(|head| head.eq_ignore_ascii_case(OWN_PREFIX))
    })
}

pub(super) fn check(drafts: &[Draft], has_workspace: bool, problems: &mut Vec<PlanProblem>) {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for draft in drafts {
        let mut look = |part, path: &str| {
            let reason = wrong(part, path);
            problems.extend(reason.map(|reason| PlanProblem::BadPath {
                task: shown(&draft.id),
                part,
                path: shown(path),
                reason,
            }));
            reason.is_none()
        };
        for artifact in &draft.artifacts {
            look(PathUse::Artifact, artifact);
        }
        for publication in &draft.publications {
            look(PathUse::Source, &publication.artifact);
            if look(PathUse::Target, &publication.to) {
                let place = publication.to.replace("{task}", &draft.id);
                places.entry(place).or_default().push(shown(&draft.id));
            }
        }
    }
    let publishing: Vec<String> =
        drafts.iter().filter(|draft| !draft.publications.is_empty()).map(|draft| shown(&draft.id)).collect();
    if !has_workspace && !publishing.is_empty() {
        problems.push(PlanProblem::NoWorkspace { tasks: sorted(publishing) });
    }
    check_places(&places, problems);
}

fn check_places(places: &BTreeMap<String, Vec<String>>, problems: &mut Vec<PlanProblem>) {
    for (to, tasks) in places {
        if tasks.len() > 1 {
            let mut by = sorted(tasks.clone());
            by.dedup();
            problems.push(PlanProblem::SamePath { to: shown(to), count: tasks.len(), tasks: by });
        }
        let directories = to.match_indices('/').map(|(at, _)| &to[..at]);
        for (file, by) in directories.filter_map(|directory| places.get_key_value(directory)) {
            let task = by.iter().min().cloned().unwrap_or_default();
            problems.push(PlanProblem::FileInTheWay { file: shown(file), task, below: shown(to) });
        }
    }
}

fn wrong(part: PathUse, path: &str) -> Option<Reason> {
    let starts = |directory: &str| path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'));
    if path.is_empty() {
        return Some(Reason::Empty);
    }
    if path.starts_with('/') {
        return Some(Reason::Absolute);
    }
    if path.len() > MAX_PATH_BYTES || path.split('/').any(|part| part.len() > MAX_PART_BYTES) {
        return Some(Reason::TooLong);
    }
    if path.chars().any(|character| character.is_control() || character == '\\') {
        return Some(Reason::Characters);
    }
    if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Some(Reason::Climbs);
    }
    match part {
        PathUse::Artifact | PathUse::Source => starts("out").then_some(Reason::FromOut),
        PathUse::Target if starts("workspace") => Some(Reason::FromWorkspace),
        PathUse::Target if is_off_limits(path) => Some(Reason::OffLimits),
        PathUse::Target => {
            let rest = REPLACED.iter().fold(path.to_owned(), |rest, word| rest.replace(word, ""));
            rest.contains(['{', '}']).then_some(Reason::Placeholder)
        }
    }
}
