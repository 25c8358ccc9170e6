//! A task spec as it rests: made from a checked task, with its long texts taken out and put back.
//! Knows which fields may be long, in one order for all purposes; refuses to know where the texts go.

use std::borrow::Cow;

use orch_proto::prices::Prices;
use orch_proto::store::v1::{StoredSpec, StoredWorkerTask, stored_spec::Runner};
use orch_proto::v1;
use prost::Message as _;

use super::bulk::{self, BulkError};
use super::cache_key::cache_key;
use crate::blobs::Blobs;
use crate::persist::meter::stored_class;
use crate::store::Tenant;
use crate::submission::{CheckedRunner, CheckedTask};

/// Longest text that rests in a page; a longer one lies in a file and the page names it.
pub(super) const PAGE_TEXT_BYTES: usize = 4_096;

/// Longest command that is read back: that of [`crate::submission`] and its framing.
const MAX_COMMAND_BYTES: u64 = 1 << 20;

/// The spec of a task, every text inside. `definition` is where that of its worker lies, `context` where the context files
/// that it is given do; `prices` know the class of its model.
pub(super) fn stored_spec(
    task: CheckedTask,
    definition: Option<v1::BlobRef>,
    context: Option<v1::BlobRef>,
    prices: &Prices,
) -> StoredSpec {
    let cache_key = cache_key(&task, context.as_ref()).map(Vec::from).unwrap_or_default();
    let runner = match task.runner {
        CheckedRunner::Worker(task) => Runner::Worker(StoredWorkerTask {
            worker: task.worker.name.clone(),
            definition,
            prompt: bulk::text(task.prompt),
            model_class: stored_class(prices, &task.model),
            model: task.model,
            output_schema: bulk::text(task.output_schema),
            budget_micro_usd: task.budget_micro_usd,
            max_turns: task.max_turns,
            row: 0,
            context_files: context.and_then(bulk::by_reference),
            contract: task.contract,
            conversation: task.continues.as_ref().map(|continued| continued.task),
            session_id: task.continues.map(|continued| continued.session_id).unwrap_or_default(),
        }),
        CheckedRunner::Command(command) => Runner::Command(command),
        CheckedRunner::Noop => Runner::Noop(v1::NoopTask {}),
        CheckedRunner::Publish(publish) => Runner::Publish(publish),
    };
    StoredSpec {
        task_id: task.id,
        dependencies: task.dependencies,
        priority: task.priority,
        timeout_ms: task.timeout_ms,
        retries: task.retries,
        requires: task.requires.into_iter().collect(),
        on_loss: task.on_loss.into(),
        agent: task.agent.unwrap_or_default(),
        runner: Some(runner),
        after: task.after.into(),
        role: task.role.into(),
        of: task.of.unwrap_or_default(),
        gates: task.gates,
        repairs: task.repairs,
        reviewed: task.reviewed,
        workspace: task.workspace,
        conditions: task.conditions,
        cache_key,
        expected_cost_micro_usd: task.expected_cost_micro_usd,
    }
}

/// Bytes of texts that a task carries.
pub(super) fn text_bytes(task: &CheckedTask) -> usize {
    match &task.runner {
        CheckedRunner::Worker(task) => task.prompt.len() + task.output_schema.len(),
        CheckedRunner::Command(command) => command.encoded_len(),
        CheckedRunner::Noop => 0,
        CheckedRunner::Publish(publish) => publish.encoded_len(),
    }
}

/// The texts of a task that are too long for a page: prompt, schema, command.
pub(super) fn long_texts(task: &CheckedTask) -> impl Iterator<Item = Cow<'_, [u8]>> {
    let (texts, command) = match &task.runner {
        CheckedRunner::Worker(task) => ([task.prompt.as_str(), task.output_schema.as_str()], None),
        CheckedRunner::Command(command) => (["", ""], Some(command)),
        CheckedRunner::Noop | CheckedRunner::Publish(_) => (["", ""], None),
    };
    let texts = texts.into_iter().filter(|text| text.len() > PAGE_TEXT_BYTES);
    let command = command.filter(|command| command.encoded_len() > PAGE_TEXT_BYTES);
    let command = command.map(|command| Cow::Owned(command.encode_to_vec()));
    texts.map(|text| Cow::Borrowed(text.as_bytes())).chain(command)
}

/// How many [`long_texts`] the task of this spec has, every text being inside.
pub(super) fn count_long_texts(spec: &StoredSpec) -> usize {
    let is_long = |text: &&Option<v1::Text>| match text {
        Some(v1::Text { body: Some(v1::text::Body::Inline(text)) }) => text.len() > PAGE_TEXT_BYTES,
        Some(v1::Text { body: Some(v1::text::Body::Blob(_)) | None }) | None => false,
    };
    match &spec.runner {
        Some(Runner::Worker(task)) => [&task.prompt, &task.output_schema].into_iter().filter(is_long).count(),
        Some(Runner::Command(command)) => usize::from(command.encoded_len() > PAGE_TEXT_BYTES),
        Some(Runner::PackedCommand(_) | Runner::Noop(_) | Runner::Publish(_)) | None => 0,
    }
}

/// Puts `references`, one for each of [`long_texts`], in the place of those that are longer than `above`.
pub(super) fn refer(spec: &mut StoredSpec, references: &[v1::BlobRef], above: u64) {
    let mut references = references.iter();
    match &mut spec.runner {
        Some(Runner::Worker(task)) => {
            for text in [&mut task.prompt, &mut task.output_schema] {
                let Some(v1::Text { body: Some(v1::text::Body::Inline(inline)) }) = text else { continue };
                if inline.len() > PAGE_TEXT_BYTES
                    && let Some(blob) = references.next()
                    && blob.size > above
                {
                    *text = bulk::by_reference(blob.clone());
                }
            }
        }
        Some(runner @ Runner::Command(_)) => {
            if let Some(blob) = references.next().filter(|blob| blob.size > above) {
                *runner = Runner::PackedCommand(blob.clone());
            }
        }
        Some(Runner::PackedCommand(_) | Runner::Noop(_) | Runner::Publish(_)) | None => {}
    }
}

/// Whether something must be read before the task can be dispatched.
pub(super) fn needs_reading(spec: &StoredSpec) -> bool {
    let small = |text: &Option<v1::Text>| match text {
        Some(v1::Text { body: Some(v1::text::Body::Blob(blob)) }) => blob.size <= bulk::INLINE_MESSAGE_BYTES,
        Some(v1::Text { body: Some(v1::text::Body::Inline(_)) | None }) | None => false,
    };
    match &spec.runner {
        Some(Runner::Worker(task)) => small(&task.prompt) || small(&task.output_schema),
        Some(Runner::PackedCommand(_)) => true,
        Some(Runner::Command(_) | Runner::Noop(_) | Runner::Publish(_)) | None => false,
    }
}

/// The spec as it is dispatched: texts that may travel inside a message are inside, and so is a command.
pub(super) fn for_dispatch(
    blobs: &dyn Blobs,
    tenant: Tenant,
    mut spec: StoredSpec,
) -> Result<StoredSpec, BulkError> {
    match &mut spec.runner {
        Some(Runner::Worker(task)) => {
            bulk::make_inline(blobs, tenant, &mut task.prompt)?;
            bulk::make_inline(blobs, tenant, &mut task.output_schema)?;
        }
        Some(runner @ Runner::PackedCommand(_)) => {
            if let Runner::PackedCommand(blob) = runner {
                let bytes = bulk::read(blobs, tenant, blob, MAX_COMMAND_BYTES)?;
                *runner = Runner::Command(v1::CommandTask::decode(bytes.as_slice())?);
            }
        }
        Some(Runner::Command(_) | Runner::Noop(_) | Runner::Publish(_)) | None => {}
    }
    Ok(spec)
}
