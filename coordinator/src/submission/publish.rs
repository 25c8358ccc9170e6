//! Publications: files of a task that are copied into its workspace once it succeeded.
//! Knows where they may go and that no two of a run go to one place; refuses to know any workspace.
//!
//! `{date}` and `{task}` are known when a run is checked and are replaced then; a repetition of the submit under its
//! request id gets the run that was made first, whatever day it is. `{run}` is known only once the run is queued: it stays
//! in what is stored, and [`final_path`] replaces it by the number in the run's record, which never changes.

use super::{CheckedRunner, CheckedTask, SpecError, paths, rules};
use orch_core::plan::is_off_limits;
use orch_core::time::Wall;
use orch_proto::codes::ErrorCode;
use orch_proto::v1;
use std::collections::BTreeMap;

const MAX_PUBLICATIONS: usize = 32;
const RUN: &str = "{run}";
/// The longest number of a run stands for it where lengths are checked.
const LONGEST_NUMBER: &str = "18446744073709551615";
/// Paths of a run that differ only in digits and have `{run}` in them: each is compared with all the others.
const MAX_ALIKE: usize = 16;

/// Whose files they are.
pub(super) struct Of<'a> {
    pub(super) task_id: &'a str,
    pub(super) workspace: &'a str,
    pub(super) runner: &'a CheckedRunner,
}

/// The path of a stored publication in run `number` of its name: `{run}` replaced, everything else as it is.
#[must_use]
pub fn final_path(stored: &str, number: u64) -> String {
    stored.replace(RUN, &number.to_string())
}

/// Checks the publications of the task at `field`; what comes back is as it is stored.
pub(super) fn check(
    field: &str,
    of: &Of<'_>,
    files: Vec<v1::Publication>,
    submitted: Wall,
) -> Result<Vec<v1::Publication>, SpecError> {
    let field = format!("{field}.publish");
    if files.is_empty() {
        return Ok(files);
    }
    if files.len() > MAX_PUBLICATIONS {
        let message = format!("{} files; at most {MAX_PUBLICATIONS}", files.len());
        return Err(SpecError::new(ErrorCode::TooLarge, field, message));
    }
    if matches!(of.runner, CheckedRunner::Noop | CheckedRunner::Publish(_)) {
        let message = "a task that does nothing hands no files over";
        return Err(SpecError::new(ErrorCode::InvalidPublication, field, message));
    }
    if of.workspace.is_empty() {
        let message = format!("task `{}` has no workspace to publish into", of.task_id);
        return Err(SpecError::new(ErrorCode::WorkspaceMissing, field, message));
    }
    let date = day(submitted);
    let checked = files.into_iter().enumerate().map(|(at, file)| {
        let refuse = |part: &str, path: &str, problem: String| {
            let message = format!("`{}` {problem}", rules::shown(path));
            SpecError::new(ErrorCode::InvalidPublication, format!("{field}[{at}].{part}"), message)
        };
        paths::check_path(&file.artifact).map_err(|problem| refuse("artifact", &file.artifact, problem))?;
        let to = fill(&file.to, &date, of.task_id).map_err(|problem| refuse("to", &file.to, problem))?;
        check_target(&to).map_err(|problem| refuse("to", &file.to, problem))?;
        Ok(v1::Publication { to, ..file })
    });
    checked.collect()
}

/// The day in UTC, `2026-03-09`.
fn day(at: Wall) -> String {
    let moment = jiff::Timestamp::from_millisecond(at.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    moment.to_zoned(jiff::tz::TimeZone::UTC).date().to_string()
}

/// Replaces what is known now.
fn fill(template: &str, date: &str, task: &str) -> Result<String, String> {
    let mut filled = String::with_capacity(template.len() + date.len());
    let mut rest = template;
    while let Some(at) = rest.find(['{', '}']) {
        let (plain, sign) = rest.split_at(at);
        filled.push_str(plain);
        let name = sign.strip_prefix('{').and_then(|sign| sign.split_once('}'));
        let Some((name, after)) = name else {
            return Err("has a brace that is not part of {date}, {run} or {task}".to_owned());
        };
        match name {
            "date" => filled.push_str(date),
            "task" => filled.push_str(task),
            "run" => filled.push_str(RUN),
            other => {
                let other = rules::shown(other);
                return Err(format!("has `{{{other}}}`; only {{date}}, {{run}} and {{task}} are replaced"));
            }
        }
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

fn check_target(path: &str) -> Result<(), String> {
    let longest = path.replace(RUN, LONGEST_NUMBER);
    paths::check_path(&longest)?;
    if is_off_limits(&longest) {
        return Err(
            "has a part `.git` or `.claude`, or one that begins with `.orch`: nobody publishes there"
                .to_owned(),
        );
    }
    Ok(())
}

/// A place in a workspace, and which publication of the run goes there.
type Places<'a> = BTreeMap<(&'a str, &'a str), Place>;

/// A publication by the index of its task in the list, and its own.
#[derive(Debug, Clone, Copy)]
struct Place {
    task: usize,
    file: usize,
}

/// Refuses two publications to one place, and one to a place that another needs as a directory.
pub(super) fn check_collisions(tasks: &[CheckedTask], first: u32) -> Result<(), SpecError> {
    let mut places = Places::new();
    let mut shapes: BTreeMap<(&str, String), Vec<&str>> = BTreeMap::new();
    for (task, checked) in tasks.iter().enumerate() {
        let CheckedRunner::Publish(publish) = &checked.runner else { continue };
        // The author knows the task whose files they are.
        let task = checked.of.map_or(task, |of| of.saturating_sub(first) as usize);
        for (file, publication) in publish.files.iter().enumerate() {
            let (workspace, to) = (publish.workspace.as_str(), publication.to.as_str());
            let place = Place { task, file };
            if let Some(other) = places.insert((workspace, to), place) {
                return Err(collision(place, other, to));
            }
            if to.contains(RUN) {
                shapes.entry((workspace, shape(to))).or_default().push(to);
            }
        }
    }
    for ((workspace, path), place) in &places {
        let parents = path.match_indices('/').filter_map(|(at, _)| path.get(..at));
        for parent in parents {
            if let Some(other) = places.get(&(*workspace, parent)) {
                return Err(collision(*place, *other, parent));
            }
        }
        if shapes.is_empty() {
            continue;
        }
        let Some(alike) = shapes.get(&(*workspace, shape(path))) else { continue };
        if alike.len() > MAX_ALIKE {
            let message = format!(
                "more than {MAX_ALIKE} paths with {{run}} that differ only in digits, such as `{path}`"
            );
            return Err(SpecError::new(ErrorCode::InvalidPublication, field(*place), message));
        }
        if let Some(template) = alike.iter().find(|template| may_become(template, path)) {
            let other = places.get(&(*workspace, *template)).copied().unwrap_or(*place);
            return Err(collision(*place, other, path));
        }
    }
    Ok(())
}

fn field(place: Place) -> String {
    format!("tasks[{}].publish[{}].to", place.task, place.file)
}

fn collision(place: Place, other: Place, path: &str) -> SpecError {
    let message = format!("`{path}` is where {} goes", field(other).trim_end_matches(".to"));
    SpecError::new(ErrorCode::InvalidPublication, field(place), message)
}

/// The path with one sign for each stretch of digits and numbers of runs: paths that may become equal have one shape.
fn shape(path: &str) -> String {
    let mut shape = String::with_capacity(path.len());
    for char in path.replace(RUN, "0").chars() {
        match char.is_ascii_digit() {
            true if shape.ends_with('0') => {}
            true => shape.push('0'),
            false => shape.push(char),
        }
    }
    shape
}

/// Whether `template`, which has `{run}`, is `path` for some number of a run.
fn may_become(template: &str, path: &str) -> bool {
    let Some((before, _)) = template.split_once(RUN) else { return false };
    let Some(rest) = path.strip_prefix(before).filter(|_| template != path) else { return false };
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    (1..=digits.min(LONGEST_NUMBER.len())).any(|length| {
        let number = rest.get(..length).unwrap_or_default();
        !number.starts_with('0') && template.replace(RUN, number) == path
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_day_of_the_submit_and_the_task_are_filled_in_and_the_run_is_left() {
        let date = day(Wall(1_772_841_600_000 - 1));
        assert_eq!(date, "2026-03-06");
        let filled = fill("s/{task}/{date}-{run}.md", &date, "evaluate-emma").unwrap();
        assert_eq!(filled, "s/evaluate-emma/2026-03-06-{run}.md");
        assert_eq!(final_path(&filled, 12), "s/evaluate-emma/2026-03-06-12.md");
        for template in ["{", "}", "{}", "{Date}", "{date", "a{b}c", "{{date}}", "{student}"] {
            assert!(fill(template, &date, "t").is_err(), "{template}");
        }
    }

    #[test]
    fn a_number_of_the_run_can_make_paths_equal() {
        for (template, path, equal) in [
            ("a-{run}.md", "a-7.md", true),
            ("a-{run}.md", "a-12.md", true),
            ("a-{run}.md", "a-07.md", false),
            ("a-{run}.md", "a-{run}.md", false),
            ("{run}1", "71", true),
            ("{run}/{run}", "3/3", true),
            ("{run}/{run}", "3/4", false),
            ("a{run}", "b7", false),
        ] {
            assert_eq!(may_become(template, path), equal, "{template} {path}");
            if equal {
                assert_eq!(shape(template), shape(path));
            }
        }
    }
}
