//! A record on its way to the store: encoded as far as the state goes, with gaps for what the state does not hold.
//! Knows how the parts of a record are put together, and where the missing ones are: in the record that is there.
//!
//! The state holds neither specs nor results. A run of one task keeps both in its one record, so writing that record
//! again means carrying them over; the committer, which is the only writer, does it right before the write.

use std::sync::Arc;

use orch_proto::store::v1 as record;
use prost::Message as _;

use super::PART_OVERHEAD_BYTES;
use crate::store::{Key, MAX_VALUE_BYTES, Op, ReadError, Store};

/// A part of a record that the state does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    /// There is none.
    Absent,
    /// This one.
    Given(Arc<[u8]>),
    /// The one in the record that is in the store, if there is one.
    Stored,
}

/// A change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Draft {
    /// A record without gaps.
    Whole {
        /// Where.
        key: Key,
        /// The payload.
        value: Vec<u8>,
    },
    /// A `TaskRecord`.
    Task {
        /// Where.
        key: Key,
        /// Encoded without its result.
        task: Vec<u8>,
        /// Its result.
        result: Part,
    },
    /// A `RunRecord` of a run of one task.
    Lone {
        /// Where.
        run_key: Key,
        /// Where its task goes if it does not fit into the run's record.
        task_key: Key,
        /// Encoded without page and task.
        head: Vec<u8>,
        /// Its page.
        page: Part,
        /// Its task, encoded without its result.
        task: Vec<u8>,
        /// Result of its task.
        result: Part,
    },
    /// A result that the same work may use again, first under its digest.
    Cached {
        /// Where.
        key: Key,
        /// Whose result.
        entry: record::CacheEntry,
    },
    /// No record any more.
    Gone {
        /// Where.
        key: Key,
    },
}

/// Why a record could not be put together. The store is damaged, or this program is wrong.
#[derive(Debug, thiserror::Error)]
pub enum DraftError {
    /// The record to carry parts over from cannot be read.
    #[error("cannot read the record under key {key:?} to write it again")]
    Read {
        /// Which.
        key: Key,
        /// Why.
        #[source]
        source: ReadError,
    },
    /// The record to carry parts over from is malformed.
    #[error("the record under key {key:?} is malformed")]
    Malformed {
        /// Which.
        key: Key,
        /// What the decoder says.
        #[source]
        source: prost::DecodeError,
    },
    /// The record to carry a part over from is not there, or lacks it.
    #[error("the record under key {key:?} has no spec page to carry over")]
    NoPage {
        /// Which.
        key: Key,
    },
}

/// Field numbers of the parts: `RunRecord.page`, `RunRecord.task`, `TaskRecord.result`.
const PAGE_FIELD: u32 = 16;
const TASK_FIELD: u32 = 17;
const RESULT_FIELD: u32 = 13;

impl Draft {
    /// Appends the change with its gaps filled. Reads from `store` only what is marked as stored.
    ///
    /// # Errors
    /// [`DraftError`].
    pub(crate) fn fill(self, store: &dyn Store, ops: &mut Vec<Op>) -> Result<(), DraftError> {
        match self {
            Self::Whole { key, value } => ops.push(Op::Put { key, value }),
            Self::Cached { key, entry } => super::cached::fill(store, key, entry, ops)?,
            Self::Gone { key } => ops.push(Op::Delete { key }),
            Self::Task { key, mut task, result } => {
                let stored = if result == Part::Stored { Old::of_task(store, &key)? } else { Old::default() };
                append(&mut task, RESULT_FIELD, result.fill(stored.result).as_deref());
                ops.push(Op::Put { key, value: task });
            }
            Self::Lone { run_key, task_key, mut head, page, mut task, result } => {
                let wanted = page == Part::Stored || result == Part::Stored;
                let stored = if wanted { Old::of_lone(store, &run_key, &task_key)? } else { Old::default() };
                let page =
                    page.fill(stored.page).ok_or_else(|| DraftError::NoPage { key: run_key.clone() })?;
                append(&mut head, PAGE_FIELD, Some(&page));
                append(&mut task, RESULT_FIELD, result.fill(stored.result).as_deref());
                if head.len() + task.len() + PART_OVERHEAD_BYTES <= MAX_VALUE_BYTES {
                    append(&mut head, TASK_FIELD, Some(&task));
                } else {
                    ops.push(Op::Put { key: task_key, value: task });
                }
                ops.push(Op::Put { key: run_key, value: head });
            }
        }
        Ok(())
    }
}

impl Part {
    fn fill(self, stored: Option<Vec<u8>>) -> Option<Arc<[u8]>> {
        match self {
            Self::Absent => None,
            Self::Given(bytes) => Some(bytes),
            Self::Stored => stored.map(Arc::from),
        }
    }
}

/// Parts of the record that is there.
#[derive(Default)]
struct Old {
    page: Option<Vec<u8>>,
    result: Option<Vec<u8>>,
}

impl Old {
    fn of_lone(store: &dyn Store, run_key: &Key, task_key: &Key) -> Result<Self, DraftError> {
        let Some(run) = read::<record::RunRecord>(store, run_key)? else { return Ok(Self::default()) };
        let page = run.page.map(|page| page.encode_to_vec());
        match run.task {
            Some(task) => Ok(Self { page, result: task.result.map(|result| result.encode_to_vec()) }),
            None => Ok(Self { page, ..Self::of_task(store, task_key)? }),
        }
    }

    fn of_task(store: &dyn Store, key: &Key) -> Result<Self, DraftError> {
        let result = read::<record::TaskRecord>(store, key)?.and_then(|task| task.result);
        Ok(Self { page: None, result: result.map(|result| result.encode_to_vec()) })
    }
}

pub(super) fn read<M: prost::Message + Default>(
    store: &dyn Store,
    key: &Key,
) -> Result<Option<M>, DraftError> {
    let payload = store.get(key).map_err(|source| DraftError::Read { key: key.clone(), source })?;
    let decode = |payload: Vec<u8>| M::decode(payload.as_slice());
    payload.map(decode).transpose().map_err(|source| DraftError::Malformed { key: key.clone(), source })
}

/// Appends a field that holds a message. Fields may come in any order, so the end is as good a place as any.
fn append(message: &mut Vec<u8>, field: u32, part: Option<&[u8]>) {
    const LENGTH_DELIMITED: u32 = 2;
    let Some(part) = part else { return };
    varint(message, u64::from(field << 3 | LENGTH_DELIMITED));
    varint(message, part.len() as u64);
    message.extend_from_slice(part);
}

fn varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push((value & 0x7F) as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Batch, MemoryStore, Tenant};
    use orch_proto::v1;

    fn page(task_id: &str) -> record::SpecPage {
        let spec = record::StoredSpec { task_id: task_id.into(), ..Default::default() };
        record::SpecPage { specs: vec![spec], ..Default::default() }
    }

    fn result(text: &str) -> record::ResultRecord {
        let answer = v1::Text { body: Some(v1::text::Body::Inline(text.into())) };
        record::ResultRecord { answer: Some(answer), num_turns: 3, ..Default::default() }
    }

    fn given(message: &impl prost::Message) -> Part {
        Part::Given(message.encode_to_vec().into())
    }

    fn put(store: &MemoryStore, draft: Draft) -> record::RunRecord {
        let mut ops = Vec::new();
        draft.fill(store, &mut ops).unwrap();
        store.commit(Batch { expect_epoch: 0, ops }).unwrap();
        let stored = store.get(&Key::run(Tenant::DEFAULT, 1)).unwrap().unwrap();
        record::RunRecord::decode(stored.as_slice()).unwrap()
    }

    fn lone(number: u64, page: Part, attempt: u32, result: Part) -> Draft {
        Draft::Lone {
            run_key: Key::run(Tenant::DEFAULT, 1),
            task_key: Key::task(Tenant::DEFAULT, 1, 0),
            head: record::RunRecord { number, ..Default::default() }.encode_to_vec(),
            page,
            task: record::TaskRecord { attempt, ..Default::default() }.encode_to_vec(),
            result,
        }
    }

    #[test]
    fn a_lone_run_carries_its_page_and_its_result_over() {
        let store = MemoryStore::new();
        let first = put(&store, lone(1, given(&page("task")), 0, Part::Absent));
        assert_eq!((first.page, first.task), (Some(page("task")), Some(record::TaskRecord::default())));
        let second = put(&store, lone(2, Part::Stored, 1, given(&result("done"))));
        assert_eq!(second.page, Some(page("task")));
        let third = put(&store, lone(3, Part::Stored, 2, Part::Stored));
        let expected = record::TaskRecord { attempt: 2, result: Some(result("done")), ..Default::default() };
        assert_eq!((third.number, third.page, third.task), (3, Some(page("task")), Some(expected)));
    }

    #[test]
    fn a_task_that_does_not_fit_its_runs_record_gets_its_own_and_comes_back() {
        let store = MemoryStore::new();
        let (long_page, long_result) = (page(&"p".repeat(2_000)), result(&"r".repeat(2_500)));
        let run = put(&store, lone(1, given(&long_page), 1, given(&long_result)));
        assert_eq!((run.page, run.task), (Some(long_page), None));
        let task = store.get(&Key::task(Tenant::DEFAULT, 1, 0)).unwrap().unwrap();
        let task = record::TaskRecord::decode(task.as_slice()).unwrap();
        assert_eq!(task.result, Some(long_result.clone()));
        let again = put(&store, lone(2, given(&page("short")), 2, Part::Stored));
        assert_eq!(
            again.task.unwrap().result,
            Some(long_result),
            "found under the other key, and fits again"
        );
    }

    #[test]
    fn a_lone_run_without_its_page_is_not_written() {
        let store = MemoryStore::new();
        let filled = lone(1, Part::Stored, 0, Part::Absent).fill(&store, &mut Vec::new());
        assert!(matches!(filled, Err(DraftError::NoPage { .. })));
    }
}
