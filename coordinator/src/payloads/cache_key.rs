//! What stands for a task's work where recorded results are looked for: a digest of everything that decides a result,
//! its inputs and the state of its workspace excepted, which are known only when it is dispatched.
//!
//! Not in it: budget, turn limit and time limit. They say how far a worker may go, not where to: a result that was
//! recorded as `ok` stayed within those in force then, and to use it again costs nothing under any. Nor retries, priority
//! and place in the graph, which no worker sees.
//!
//! Knows the encoding; refuses to know where results are kept.

use crate::submission::{CheckedRunner, CheckedTask};
use orch_proto::v1;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

/// Another encoding gets another number, so that no key of the one means something else in the other.
const ENCODING: &[u8] = b"orch.cache.1";

/// The key of a task's work; `None` when no recorded result may be used. `context` is that of its run, if it has one.
pub(super) fn cache_key(task: &CheckedTask, context: Option<&v1::BlobRef>) -> Option<[u8; 32]> {
    if !task.cache {
        return None;
    }
    let mut key = Key(Sha256::new());
    key.part(ENCODING);
    match &task.runner {
        CheckedRunner::Worker(worker) => {
            key.part(b"worker");
            key.part(&worker.worker.digest);
            key.part(worker.model.as_bytes());
            key.part(worker.prompt.as_bytes());
            key.part(worker.output_schema.as_bytes());
            key.part(context.map_or(&[], |context| context.digest.as_slice()));
        }
        CheckedRunner::Command(command) => {
            key.part(b"command");
            key.part(command.program.as_bytes());
            key.count(command.args.len());
            for arg in &command.args {
                key.part(arg.as_bytes());
            }
        }
        CheckedRunner::Noop | CheckedRunner::Publish(_) => return None,
    }
    // No field of gates is a map, so that equal gates have equal bytes.
    key.part(&task.gates.as_ref().map(v1::Gates::encode_to_vec).unwrap_or_default());
    key.part(task.workspace.as_bytes());
    Some(key.0.finalize().into())
}

/// Parts with their lengths: no two lists of parts have the same bytes.
struct Key(Sha256);

impl Key {
    fn count(&mut self, count: usize) {
        self.0.update((count as u64).to_be_bytes());
    }

    fn part(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.0.update(bytes);
    }
}
