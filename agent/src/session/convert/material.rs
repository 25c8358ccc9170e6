//! The part of the wire that speaks of what an attempt is given besides its work and hands back besides its answer.
//! Nothing is fetched and nothing decided here.

use super::duration;
use crate::runner::{Collected, GateCommand, GateResult, Gates, Input, LONGEST_GATE_LOG, Reuse, shorten};
use orch_proto::v1;
use sha2::{Digest as _, Sha256};

/// Gates that the agent checks.
#[must_use]
pub fn gates(wire: Option<v1::Gates>) -> Gates {
    let Some(wire) = wire else { return Gates::default() };
    let command = |command: v1::GateCommand| GateCommand {
        program: command.program,
        args: command.args,
        timeout: command.timeout.as_ref().and_then(duration),
        dir: command.dir,
    };
    Gates {
        min_tool_calls: wire.min_tool_calls,
        required_artifacts: wire.required_artifacts,
        commands: wire.commands.into_iter().map(command).collect(),
    }
}

/// Earlier results of the same work. One whose state is neither empty nor a digest fits nothing and is left out.
#[must_use]
pub fn reuse(wire: Vec<v1::Reuse>) -> Vec<Reuse> {
    let one = |wire: v1::Reuse| {
        let tree = match wire.tree.as_slice() {
            [] => None,
            tree => Some(<[u8; 32]>::try_from(tree).ok()?),
        };
        Some(Reuse { reference: wire.r#ref, tree })
    };
    wire.into_iter().filter_map(one).collect()
}

/// An input without what is to be fetched: its answers and its files.
#[must_use]
pub fn input(wire: &v1::Input) -> Input {
    Input {
        id: wire.task_id.clone(),
        reference: wire.r#ref.clone(),
        state: word(wire.state().as_str_name(), "TASK_STATE_"),
        outcome: Some(wire.outcome())
            .filter(|outcome| *outcome != v1::Outcome::Unspecified)
            .map_or_else(String::new, |outcome| outcome.word().to_owned()),
        detail: wire.detail.clone(),
        worker: wire.worker.clone(),
        summary: wire.summary.clone(),
        answer: None,
        structured: None,
        artifacts: Vec::new(),
        published: wire.published.clone(),
    }
}

fn word(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_ascii_lowercase()
}

/// What gates found.
#[must_use]
pub fn gate_results(found: Vec<GateResult>) -> Vec<v1::GateResult> {
    let one = |found: GateResult| v1::GateResult {
        kind: found.kind.word().to_owned(),
        name: found.name,
        passed: found.passed,
        log: shorten(found.log, LONGEST_GATE_LOG),
        duration: prost_types::Duration::try_from(found.duration).ok(),
    };
    found.into_iter().map(one).collect()
}

/// Files that are kept and not stored yet: the manifest is known by its bytes, not by where it is.
#[must_use]
pub fn artifacts(files: &Collected) -> v1::Artifacts {
    let manifest = v1::BlobRef {
        digest: Sha256::digest(&files.manifest).to_vec(),
        size: files.manifest.len() as u64,
        location: String::new(),
    };
    v1::Artifacts { manifest: Some(manifest), count: files.count, bytes: files.bytes }
}

/// Whether files were stored: their manifest has a place.
#[must_use]
pub fn are_stored(artifacts: &v1::Artifacts) -> bool {
    artifacts.manifest.as_ref().is_some_and(|manifest| !manifest.location.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_state_that_is_no_digest_fits_nothing() {
        let wire = |tree: &[u8]| v1::Reuse { r#ref: "r/1/a".into(), tree: tree.to_vec() };
        let read = reuse(vec![wire(&[]), wire(&[7; 32]), wire(&[7; 31])]);
        assert_eq!(read.iter().map(|one| one.tree).collect::<Vec<_>>(), [None, Some([7; 32])]);
    }

    #[test]
    fn words_of_an_input_are_those_people_know() {
        let mut wire = v1::Input { task_id: "emma".into(), ..v1::Input::default() };
        wire.set_state(v1::TaskState::Succeeded);
        wire.set_outcome(v1::Outcome::GateFailed);
        let read = input(&wire);
        assert_eq!((read.state.as_str(), read.outcome.as_str()), ("succeeded", "gate_failed"));
        assert_eq!(input(&v1::Input::default()).outcome, "");
    }

    #[test]
    fn gates_without_any_are_empty() {
        assert!(gates(None).is_empty() && gates(Some(v1::Gates::default())).is_empty());
        let wire = v1::Gates {
            commands: vec![v1::GateCommand {
                program: "make".into(),
                timeout: Some(prost_types::Duration { seconds: 9, nanos: 0 }),
                ..Default::default()
            }],
            ..Default::default()
        };
        let read = gates(Some(wire));
        assert_eq!(read.commands[0].timeout, Some(Duration::from_secs(9)));
    }
}
