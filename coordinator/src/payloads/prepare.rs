//! From a checked run to what the core decides by and what the store keeps, bulk first.
//! Knows what fits where; refuses to know whether the run is wanted.
//!
//! Three steps, because a reference can only be written once what it names has its place: long texts and worker
//! definitions are stored, then pages are made, then pages that do not fit a value are stored themselves. A run of short
//! tasks takes no file at all, one of long prompts takes one, each for one sync however many tasks it has.

mod expansion;
mod pages;

pub use self::expansion::Joining;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use orch_core::event::{NewTask, Planning, Shape, Submit};
use orch_core::ids::{TenantId, Token};
use orch_core::time::Span;
use orch_proto::store::v1::StoredSpec;
use orch_proto::v1;
use prost::Message as _;

use self::pages::Pages;
use super::spec::{PAGE_TEXT_BYTES, long_texts, stored_spec, text_bytes};
use super::{SubmitPayload, bulk};
use crate::blobs::{BlobError, Blobs};
use crate::clock::Clock;
use crate::engine::pool::{BlockingPool, BrokenOff};
use crate::persist::decode::{self, FieldError, Interner};
use crate::persist::encode::RunTexts;
use crate::persist::{MAX_LABELS_BYTES, PAGE_SPECS};
use crate::prices::{PriceList, PricesInForce};
use crate::store::{MAX_VALUE_BYTES, Tenant};
use crate::submission::{CheckedContext, CheckedPlanning, CheckedRun, CheckedRunner, CheckedTask};

/// How long a definition or a run's context that was stored counts as stored without another look: far below the age at which an
/// unreferenced blob may be swept.
const KNOWN_FOR: Span = Span::hours(1);

/// Such bytes that are known to be stored. Few exist at a time; beyond this the knowledge starts afresh.
const MAX_KNOWN: usize = 1_024;

/// Runs up to this many tasks and bytes of text are first tried on the caller's thread: most of them need no file.
const SMALL_TASKS: usize = PAGE_SPECS as usize;
const SMALL_BYTES: usize = MAX_VALUE_BYTES;

/// Who submits what, beside the run itself.
#[derive(Debug, Clone)]
pub struct Request {
    /// Whose.
    pub tenant: TenantId,
    /// Identity that submits it, `role/tenant/name`.
    pub submitted_by: Arc<str>,
    /// Idempotency key, or empty.
    pub request_id: Arc<str>,
    /// SHA-256 of the spec, to tell a repetition from a conflict.
    pub spec_digest: [u8; 32],
    /// Only check and report: nothing is stored.
    pub validate_only: bool,
}

/// Why a run cannot be queued.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The labels are too long together.
    #[error("the labels take {bytes} bytes together, at most {MAX_LABELS_BYTES} fit")]
    LabelsTooLong {
        /// What they take.
        bytes: usize,
    },
    /// A file could not be stored.
    #[error("cannot store the payloads of the run")]
    Blob(#[from] BlobError),
    /// The work was broken off.
    #[error(transparent)]
    BrokenOff(#[from] BrokenOff),
    /// A spec that this version writes and does not read: a mistake in this program.
    #[error("a spec cannot be read back")]
    Spec(#[from] FieldError),
}

/// Prepares submits. Clones share what they know.
#[derive(Debug, Clone)]
pub struct Preparer {
    blobs: Arc<dyn Blobs>,
    clock: Arc<dyn Clock>,
    pool: BlockingPool,
    shared: Arc<Mutex<BTreeMap<Shared, (Span, v1::BlobRef)>>>,
    /// For classes of models.
    prices: Arc<OnceLock<Arc<PricesInForce>>>,
}

/// A worker definition or the context files of runs, of a tenant, by digest.
type Shared = (Tenant, [u8; 32]);

/// Whether files may be written now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Files {
    Allowed,
    Avoided,
}

/// Why a step of the preparation did not succeed.
enum Halt {
    /// It needs a file.
    File,
    Failed(PrepareError),
}

impl<E: Into<PrepareError>> From<E> for Halt {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl Preparer {
    /// Stores bulk in `blobs`, on threads of `pool`.
    #[must_use]
    pub fn new(blobs: Arc<dyn Blobs>, clock: Arc<dyn Clock>, pool: BlockingPool) -> Self {
        Self { blobs, clock, pool, shared: Arc::default(), prices: Arc::default() }
    }

    /// Names the price list, once, for this one and all its clones: it says of which class the models of tasks are.
    /// Without one it is the built-in list.
    pub fn with_prices(&self, prices: Arc<PricesInForce>) {
        // A second list is not to be: all that is prepared goes by one.
        let _ = self.prices.set(prices);
    }

    fn price_list(&self) -> Arc<PriceList> {
        self.prices.get().map(|prices| prices.current()).unwrap_or_default()
    }

    /// Splits a run and makes its bulk durable. What comes back is for [`crate::engine::Handle::submit`].
    ///
    /// # Errors
    /// [`PrepareError`]. Files that were stored already are swept later.
    pub async fn prepare(
        &self,
        request: Request,
        run: CheckedRun,
    ) -> Result<(Submit, SubmitPayload), PrepareError> {
        let small =
            run.tasks.len() <= SMALL_TASKS && run.tasks.iter().map(text_bytes).sum::<usize>() <= SMALL_BYTES;
        if small {
            match self.split(request.clone(), run.clone(), Files::Avoided) {
                Ok(split) => return Ok(split),
                Err(Halt::Failed(error)) => return Err(error),
                Err(Halt::File) => {}
            }
        }
        let this = self.clone();
        self.pool.run(move || this.prepare_blocking(request, run)).await?
    }

    /// [`Preparer::prepare`] on the caller's thread, which may block.
    ///
    /// # Errors
    /// [`PrepareError`].
    pub fn prepare_blocking(
        &self,
        request: Request,
        run: CheckedRun,
    ) -> Result<(Submit, SubmitPayload), PrepareError> {
        match self.split(request, run, Files::Allowed) {
            Ok(split) => Ok(split),
            Err(Halt::Failed(error)) => Err(error),
            Err(Halt::File) => Err(PrepareError::BrokenOff(BrokenOff)),
        }
    }

    fn split(
        &self,
        request: Request,
        run: CheckedRun,
        files: Files,
    ) -> Result<(Submit, SubmitPayload), Halt> {
        let CheckedRun { name, labels, tasks, context, policy, max_parallel, budget, planning, workflow } =
            run;
        let shape = Shape {
            first_budget_micro_usd: None,
            policy,
            max_parallel,
            planning: planning.as_ref().map(|planning| Planning {
                approve: planning.approve,
                plan_only: planning.plan_only,
                expanded: false,
            }),
            workflow: (!workflow.is_empty()).then(|| workflow.into()),
            budget,
            settings: planning.map(settings).unwrap_or_default(),
        };
        let labels: Vec<(Arc<str>, Arc<str>)> =
            labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        let texts = RunTexts {
            name: &name,
            submitted_by: &request.submitted_by,
            request_id: &request.request_id,
            labels: &labels,
        };
        let labels_bytes = texts.labels_bytes();
        if labels_bytes > MAX_LABELS_BYTES {
            return Err(PrepareError::LabelsTooLong { bytes: labels_bytes }.into());
        }
        let room = if tasks.len() == 1 { texts.lone_page_bytes() } else { MAX_VALUE_BYTES };
        let tenant = Tenant::new(request.tenant.0);
        let files = if request.validate_only { None } else { Some(files) };
        let (new_tasks, payload) = self.tasks(tenant, tasks, context.as_ref(), room, files)?;
        let submit = Submit {
            token: Token::default(),
            tenant: request.tenant,
            name: name.into(),
            submitted_by: request.submitted_by,
            request_id: request.request_id,
            spec_digest: request.spec_digest,
            labels,
            tasks: new_tasks,
            validate_only: request.validate_only,
            shape,
        };
        Ok((submit, payload))
    }

    /// What the core decides by and what is stored of tasks, each of which goes as soon as both are made of it. Without
    /// `files` nothing is stored.
    fn tasks(
        &self,
        tenant: Tenant,
        tasks: Vec<CheckedTask>,
        context: Option<&CheckedContext>,
        room: usize,
        files: Option<Files>,
    ) -> Result<(Vec<NewTask>, SubmitPayload), Halt> {
        let mut shared = Interner::default();
        let mut new = Vec::with_capacity(tasks.len());
        let Some(files) = files else {
            for task in tasks {
                new.push(decode::new_task(&self.spec(tenant, task, None, None)?, &mut shared)?);
            }
            return Ok((new, SubmitPayload::default()));
        };
        let context = self.run_context(tenant, &tasks, context, files)?;
        let mut pages = Pages::new(self.store_texts(tenant, &tasks, files)?);
        for task in tasks {
            let spec = self.spec(tenant, task, context.as_ref(), Some(files))?;
            new.push(decode::new_task(&spec, &mut shared)?);
            pages.push(spec);
        }
        Ok((new, pages.finish(self, tenant, room, files)?))
    }

    /// Where the context files of a run lie, if one of its tasks is given them.
    fn run_context(
        &self,
        tenant: Tenant,
        tasks: &[CheckedTask],
        context: Option<&CheckedContext>,
        files: Files,
    ) -> Result<Option<v1::BlobRef>, Halt> {
        let begins = |task: &CheckedTask| match &task.runner {
            CheckedRunner::Worker(worker) => worker.continues.is_none(),
            CheckedRunner::Command(_) | CheckedRunner::Noop | CheckedRunner::Publish(_) => false,
        };
        let context = context.filter(|_| tasks.iter().any(begins));
        context.map(|context| self.kept_context(tenant, context, files)).transpose()
    }

    /// The spec of one task. `context` is where the context files of its run lie; a conversation that goes on keeps those
    /// that it was begun with.
    fn spec(
        &self,
        tenant: Tenant,
        task: CheckedTask,
        context: Option<&v1::BlobRef>,
        files: Option<Files>,
    ) -> Result<StoredSpec, Halt> {
        let (CheckedRunner::Worker(worker), Some(files)) = (&task.runner, files) else {
            return Ok(stored_spec(task, None, None, &self.price_list().prices));
        };
        let definition = self.kept(tenant, worker.worker.digest, &worker.worker.definition, files)?;
        let context = match worker.continues.as_ref().map(|continued| &continued.context) {
            None => context.cloned(),
            Some(None) => None,
            Some(Some(begun_with)) => Some(self.kept_context(tenant, begun_with, files)?),
        };
        Ok(stored_spec(task, Some(definition), context, &self.price_list().prices))
    }

    fn kept_context(
        &self,
        tenant: Tenant,
        context: &CheckedContext,
        files: Files,
    ) -> Result<v1::BlobRef, Halt> {
        self.kept(tenant, context.digest, context.text.as_bytes(), files)
    }

    /// Where what many tasks share is stored, which it is afterwards: once, whoever refers to it. `digest` is that of
    /// `bytes`.
    fn kept(
        &self,
        tenant: Tenant,
        digest: [u8; 32],
        bytes: &[u8],
        files: Files,
    ) -> Result<v1::BlobRef, Halt> {
        let key = (tenant, digest);
        let now = self.clock.elapsed();
        let known = self.shared.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        match known {
            Some((since, blob)) if now.0.saturating_sub(since.0) < KNOWN_FOR.0 => return Ok(blob),
            Some(_) | None if files == Files::Avoided => return Err(Halt::File),
            Some(_) | None => {}
        }
        let blob = bulk::reference(&self.blobs.put(tenant, bytes)?);
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.len() >= MAX_KNOWN {
            shared.clear();
        }
        shared.insert(key, (now, blob.clone()));
        Ok(blob)
    }

    /// Stores the texts of tasks that are too long for a page, in the order of tasks and fields.
    fn store_texts(
        &self,
        tenant: Tenant,
        tasks: &[CheckedTask],
        files: Files,
    ) -> Result<Vec<v1::BlobRef>, Halt> {
        self.pack(tenant, tasks.iter().flat_map(long_texts), files)
    }

    fn pack<'a>(
        &self,
        tenant: Tenant,
        payloads: impl Iterator<Item = std::borrow::Cow<'a, [u8]>>,
        files: Files,
    ) -> Result<Vec<v1::BlobRef>, Halt> {
        let mut payloads = payloads.peekable();
        if payloads.peek().is_none() {
            return Ok(Vec::new());
        }
        if files == Files::Avoided {
            return Err(Halt::File);
        }
        let mut pack = self.blobs.begin_pack(tenant)?;
        let places = payloads.map(|payload| pack.add(&payload)).collect::<Result<Vec<_>, _>>()?;
        let stored = pack.finish()?;
        Ok(places.into_iter().filter_map(|place| stored.get(place)).map(bulk::reference).collect())
    }
}

/// What is kept of how a request is planned: the core carries it to the run's record.
fn settings(planning: CheckedPlanning) -> Arc<[u8]> {
    planning.into_record().encode_to_vec().into()
}

/// Longest text that rests in a page; see [`PAGE_TEXT_BYTES`].
const _: () = assert!(PAGE_TEXT_BYTES <= MAX_VALUE_BYTES, "a page of one short text should fit a value");

#[cfg(test)]
mod tests;
