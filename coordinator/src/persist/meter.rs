//! Whose limits a task uses, and with which others it shares the beginning of its prompt: read from its spec as it rests,
//! so that a submit and a restart say the same.
//! Knows what of a spec comes before the task's own words; refuses to know pools, agents and what is warm.

use super::decode::Interner;
use orch_core::limits::Meter;
use orch_proto::prices::Prices;
use orch_proto::store::v1::{StoredSpec, StoredWorkerTask, stored_spec};
use orch_proto::v1;
use sha2::{Digest as _, Sha256};
use std::sync::LazyLock;

/// Another encoding gets another number: prefixes of the one are none of the other.
const ENCODING: &[u8] = b"orch.prefix.1";
/// The requirement by which a worker insists on a pool.
const POOL: &str = "pool=";

static BUILT_IN: LazyLock<Prices> = LazyLock::new(Prices::default);

/// The class to be stored with a task of `model`: empty where it is the one that every version knows, which all records
/// of before are of.
#[must_use]
pub fn stored_class(prices: &Prices, model: &str) -> String {
    let class = prices.class_of(model);
    if class == BUILT_IN.class_of(model) { String::new() } else { class.to_owned() }
}

/// The meter of a task; `None` for what asks no API.
pub(super) fn meter(spec: &StoredSpec, shared: &mut Interner) -> Option<Meter> {
    let Some(stored_spec::Runner::Worker(task)) = &spec.runner else { return None };
    let class = match task.model_class.as_str() {
        "" => BUILT_IN.class_of(&task.model),
        stored => stored,
    };
    let pool = spec.requires.iter().find_map(|word| word.strip_prefix(POOL));
    Some(Meter {
        model_class: shared.intern(class),
        pool: pool.map(|pool| shared.intern(pool)),
        prefix: prefix(task),
    })
}

/// Digest of what the API sees before the task's own words: system prompt and tools are in the definition, and a schema
/// is a tool of its own. A conversation that goes on begins with its own words: it shares with nobody.
fn prefix(task: &StoredWorkerTask) -> u64 {
    let Some(definition) = task.definition.as_ref().filter(|_| task.conversation.is_none()) else { return 0 };
    let parts: [&[u8]; 5] = [
        ENCODING,
        &definition.digest,
        task.model.as_bytes(),
        &digest(task.context_files.as_ref()),
        &digest(task.output_schema.as_ref()),
    ];
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let [a, b, c, d, e, f, g, h, ..] = <[u8; 32]>::from(hash.finalize());
    // 0 means none.
    u64::from_be_bytes([a, b, c, d, e, f, g, h]).max(1)
}

/// A text's digest, wherever the text lies; nothing for none.
fn digest(text: Option<&v1::Text>) -> Vec<u8> {
    match text.and_then(|text| text.body.as_ref()) {
        Some(v1::text::Body::Inline(text)) if text.is_empty() => Vec::new(),
        Some(v1::text::Body::Inline(text)) => Sha256::digest(text).to_vec(),
        Some(v1::text::Body::Blob(blob)) => blob.digest.clone(),
        None => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payloads::bulk;

    fn worker() -> StoredWorkerTask {
        StoredWorkerTask {
            worker: "marie".into(),
            definition: Some(v1::BlobRef { digest: vec![1; 32], ..v1::BlobRef::default() }),
            model: "claude-opus-4-8".into(),
            prompt: bulk::text("evaluate one".into()),
            ..StoredWorkerTask::default()
        }
    }

    fn of(task: StoredWorkerTask) -> Meter {
        let requires = vec!["gpu=yes".to_owned(), "pool=night".to_owned(), "worker=marie".to_owned()];
        let runner = Some(stored_spec::Runner::Worker(task));
        let spec = StoredSpec { requires, runner, ..StoredSpec::default() };
        meter(&spec, &mut Interner::default()).unwrap()
    }

    #[test]
    fn a_task_of_a_worker_has_the_class_of_its_model_and_the_pool_it_insists_on() {
        let found = of(worker());
        assert_eq!((&*found.model_class, found.pool.as_deref()), ("opus", Some("night")));
        assert_eq!(&*of(StoredWorkerTask { model: "haiku".into(), ..worker() }).model_class, "haiku");
        let own = StoredWorkerTask { model_class: "ours".into(), ..worker() };
        assert_eq!(&*of(own).model_class, "ours", "as an operator's price list had it at the submit");
        let none =
            StoredSpec { runner: Some(stored_spec::Runner::Noop(v1::NoopTask {})), ..Default::default() };
        assert_eq!(meter(&none, &mut Interner::default()), None);
    }

    #[test]
    fn tasks_share_a_prefix_up_to_their_own_words_and_conversations_share_none() {
        let one = of(worker()).prefix;
        assert_ne!(one, 0);
        let another =
            StoredWorkerTask { prompt: bulk::text("evaluate two".into()), max_turns: 5, ..worker() };
        assert_eq!(of(another).prefix, one, "what it is to do is its own");
        let context = bulk::by_reference(v1::BlobRef { digest: vec![2; 32], ..v1::BlobRef::default() });
        let different = [
            StoredWorkerTask { model: "claude-opus-4-9".into(), ..worker() },
            StoredWorkerTask { definition: context_blob(3), ..worker() },
            StoredWorkerTask { context_files: context, ..worker() },
            StoredWorkerTask { output_schema: bulk::text("{}".into()), ..worker() },
        ];
        for task in different {
            assert_ne!(of(task).prefix, one);
        }
        let goes_on = StoredWorkerTask { conversation: Some(v1::TaskId::default()), ..worker() };
        assert_eq!(of(goes_on).prefix, 0);
        assert_eq!(of(StoredWorkerTask { definition: None, ..worker() }).prefix, 0);
    }

    #[test]
    fn a_text_has_the_same_digest_inside_a_page_and_in_a_file() {
        let schema = "s".repeat(9_000);
        let blob = v1::BlobRef { digest: Sha256::digest(&schema).to_vec(), ..v1::BlobRef::default() };
        let inside = StoredWorkerTask { output_schema: bulk::text(schema), ..worker() };
        let outside = StoredWorkerTask { output_schema: bulk::by_reference(blob), ..worker() };
        assert_eq!(of(inside), of(outside));
    }

    #[test]
    fn a_class_is_stored_only_where_an_operator_named_another() {
        let row = v1::ModelPrice {
            prefix: "claude-opus-9".into(),
            model_class: "ours".into(),
            ..v1::ModelPrice::default()
        };
        let prices = Prices::new(vec![row]);
        assert_eq!(stored_class(&prices, "claude-opus-4-8"), "");
        assert_eq!(stored_class(&prices, "sonnet"), "");
        assert_eq!(stored_class(&prices, "claude-opus-9-1"), "ours");
    }

    fn context_blob(byte: u8) -> Option<v1::BlobRef> {
        Some(v1::BlobRef { digest: vec![byte; 32], ..v1::BlobRef::default() })
    }
}
