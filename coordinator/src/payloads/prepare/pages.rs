//! The pages of a run, made one after the other: a spec is encoded with the other specs of its page and let go, so that of
//! a hundred thousand tasks only their records are held.
//! Knows how many specs a page has and which of them stay warm; refuses to know where their long texts were put.

use std::sync::Arc;

use orch_proto::store::v1::{self as record, StoredSpec};
use orch_proto::v1;
use prost::Message as _;

use super::{Files, Halt, Preparer};
use crate::payloads::spec::{count_long_texts, refer};
use crate::payloads::{CachedPage, SpecRecords, SubmitPayload, bulk};
use crate::persist::{PAGE_SPECS, StoredPage};
use crate::store::Tenant;

/// Bytes of pages that a submit hands over for dispatch; tasks beyond them are read back when their turn comes.
const WARM_BYTES: usize = 2 << 20;

/// Pages that are being made.
pub(super) struct Pages {
    /// Where the long texts of the specs that are yet to come lie, in order.
    references: std::vec::IntoIter<v1::BlobRef>,
    /// The specs of the page that is not full yet.
    open: Vec<StoredSpec>,
    records: Vec<Vec<u8>>,
    warm: Vec<Arc<CachedPage>>,
    warm_bytes: usize,
    specs: usize,
}

impl Pages {
    /// `references` are those of all long texts of the specs, which are stored already.
    pub(super) fn new(references: Vec<v1::BlobRef>) -> Self {
        Self {
            references: references.into_iter(),
            open: Vec::new(),
            records: Vec::new(),
            warm: Vec::new(),
            warm_bytes: 0,
            specs: 0,
        }
    }

    /// The next spec, every text inside.
    pub(super) fn push(&mut self, spec: StoredSpec) {
        self.specs += 1;
        self.open.push(spec);
        if self.open.len() == PAGE_SPECS as usize {
            self.close();
        }
    }

    fn close(&mut self) {
        let mut specs = std::mem::take(&mut self.open);
        let references = &mut self.references;
        let named = |spec| references.by_ref().take(count_long_texts(spec)).collect();
        let named: Vec<Vec<v1::BlobRef>> = specs.iter().map(named).collect();
        if self.warm_bytes < WARM_BYTES {
            let page = if named.iter().all(Vec::is_empty) {
                CachedPage::new(&specs)
            } else {
                let mut dispatched = specs.clone();
                for (spec, named) in dispatched.iter_mut().zip(&named) {
                    refer(spec, named, bulk::INLINE_MESSAGE_BYTES);
                }
                CachedPage::new(&dispatched)
            };
            self.warm_bytes += page.bytes();
            self.warm.push(Arc::new(page));
        }
        for (spec, named) in specs.iter_mut().zip(&named) {
            refer(spec, named, 0);
        }
        self.records.push(StoredPage { specs }.into_record().encode_to_vec());
    }

    /// All of them. Records that do not fit `room` are stored by `preparer` and referred to.
    pub(super) fn finish(
        mut self,
        preparer: &Preparer,
        tenant: Tenant,
        room: usize,
        files: Files,
    ) -> Result<SubmitPayload, Halt> {
        if !self.open.is_empty() {
            self.close();
        }
        let long = self.records.iter().filter(|page| page.len() > room).map(|page| page.as_slice().into());
        let mut references = preparer.pack(tenant, long, files)?.into_iter();
        for page in self.records.iter_mut().filter(|page| page.len() > room) {
            let packed = record::SpecPage { packed: references.next(), ..record::SpecPage::default() };
            *page = packed.encode_to_vec();
        }
        let records = match self.records.pop() {
            Some(only) if self.specs == 1 => SpecRecords::Inside(Arc::from(only)),
            last => {
                self.records.extend(last);
                SpecRecords::Pages(self.records)
            }
        };
        Ok(SubmitPayload { records, pages: self.warm })
    }
}
