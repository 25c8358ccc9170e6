//! What an attempt is given besides its work, and what is kept of it besides its report: inputs and files to publish,
//! fetched into a directory of the attempt; the state of its workspace; the files it hands over.
//! Knows where these lie on the agent's disk; refuses to know runners.
//!
//! ```text
//! DATA/fetched/RUN-TASK-ATTEMPT   what was fetched for an attempt; gone when it has ended
//!     /handed/RUN-TASK-ATTEMPT    what an attempt handed over; gone when its report was answered
//!     /published                  the journal of publications
//! ```

use crate::artifacts::{self, ArtifactLimits, CollectError, Kept};
use crate::beneath;
use crate::causes::one_line;
use crate::daemon::start::{FETCH_PAUSE, FETCH_TRIES, PrepareError, fetch};
use crate::homes::claims::Occupied;
use crate::homes::private_dir;
use crate::inputs;
use crate::runner::limits::show_size;
use crate::runner::{
    AttemptKey, AttemptReport, Content, Input, InputFile, Outcome, PublishContent, PublishItem, PublishWork,
    Workspace, shorten,
};
use crate::session::bulk;
use crate::session::convert::material;
use crate::session::convert::{Assigned, AssignedInputs};
use crate::session::link::Bulk;
use crate::tree::{TreeCache, TreeLimits};
use crate::workspaces::Workspaces;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use orch_proto::v1;
use prost::Message as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;
use tokio::task::spawn_blocking;

/// Most bytes of everything an attempt is given: a tenth of what all may write, and more than reviewers read.
const MOST_FETCHED: u64 = 2 << 30;
/// Bytes of files that wait to be stored, of all attempts, from which on no more are kept: only an agent whose coordinator
/// takes none gets there, and its disk is not to be filled.
const MOST_KEPT: u64 = 20 << 30;
/// Most files of everything an attempt is given.
const MOST_FILES: usize = 100_000;
/// Files fetched at once: small ones cost a call each, and as many are sent at once.
const FETCHES_AT_ONCE: usize = 16;

/// The agent's stores for attempts. Copies share them.
#[derive(Debug, Clone)]
pub struct Supplies {
    fetched: PathBuf,
    kept: Kept,
    workspaces: Workspaces,
    trees: TreeCache,
    /// Numbers of what was taken away.
    gone: Arc<AtomicU64>,
    /// Most bytes of files that are kept.
    most_kept: u64,
}

/// What was fetched for one attempt; removed when it is dropped.
#[derive(Debug)]
pub(super) struct Fetched {
    dir: PathBuf,
    files: usize,
    bytes: u64,
}

impl Supplies {
    /// The stores beneath `data_dir`, made when they are missing and emptied of what a former process fetched. Blocks.
    ///
    /// # Errors
    /// When a directory cannot be made or emptied.
    pub fn open(data_dir: &Path, workspaces: Workspaces) -> io::Result<Self> {
        let (fetched, handed) = (data_dir.join("fetched"), data_dir.join("handed"));
        artifacts::clear(&fetched)?;
        for dir in [&fetched, &handed] {
            private_dir(dir).map_err(io::Error::other)?;
        }
        Ok(Self {
            fetched,
            kept: Kept::new(handed),
            workspaces,
            trees: TreeCache::default(),
            gone: Arc::default(),
            most_kept: MOST_KEPT,
        })
    }

    /// The workspaces on offer.
    #[must_use]
    pub const fn workspaces(&self) -> &Workspaces {
        &self.workspaces
    }

    /// Where files are kept until they are stored.
    #[must_use]
    pub const fn kept(&self) -> &Kept {
        &self.kept
    }

    /// Takes away everything that is kept, at once, and gives what is to be removed. A later start would remove it too.
    pub(super) fn discard_kept(&self) -> Vec<PathBuf> {
        let taken = self.kept.dirs().into_iter().filter_map(|dir| {
            let name = format!("gone-{}", self.gone.fetch_add(1, Ordering::Relaxed));
            let place = self.fetched.join(name);
            match std::fs::rename(&dir, &place) {
                Ok(()) => Some(place),
                Err(error) => {
                    tracing::warn!(dir = %dir.display(), %error, "files of another cluster cannot be taken away");
                    None
                }
            }
        });
        taken.collect()
    }

    /// The state of a workspace. One that is too large has none, and then no earlier result fits.
    pub(super) async fn state(&self, Workspace { name, dir }: &Workspace) -> Option<[u8; 32]> {
        let (trees, dir) = (self.trees.clone(), dir.clone());
        let digest =
            spawn_blocking(move || trees.digest(&dir, TreeLimits::default(), SystemTime::now())).await;
        match digest {
            Ok(Ok(tree)) => Some(tree),
            Ok(Err(error)) => {
                tracing::info!(workspace = name, reason = one_line(&error), "no state of the workspace");
                None
            }
            Err(error) => {
                tracing::error!(%error, "reading a workspace broke off");
                None
            }
        }
    }

    /// A place for what is fetched for an attempt.
    pub(super) fn fetched(&self, key: AttemptKey) -> io::Result<Fetched> {
        let dir = self.fetched.join(format!("{}-{}-{}", key.run, key.task, key.attempt));
        artifacts::clear(&dir)?;
        private_dir(&dir).map_err(io::Error::other)?;
        Ok(Fetched { dir, files: 0, bytes: 0 })
    }

    /// Keeps the files that an attempt hands over, before its report is. Where they cannot be kept a good end is none.
    pub(super) async fn collect(&self, key: AttemptKey, report: AttemptReport) -> AttemptReport {
        let this = self.clone();
        let outcome = report.outcome;
        let collected = spawn_blocking(move || this.collect_now(key, report)).await;
        collected.unwrap_or_else(|error| {
            tracing::error!(%error, was = outcome.word(), "collecting the files of an attempt broke off");
            AttemptReport::of(Outcome::Crash, "the agent broke off while it collected the attempt's files")
        })
    }

    /// The same, where blocking is allowed.
    pub(super) fn collect_now(&self, key: AttemptKey, mut report: AttemptReport) -> AttemptReport {
        let Some(out) = report.artifacts_from.take() else { return report };
        let kept = self
            .room()
            .and_then(|()| artifacts::collect(&out, &self.kept.of(key), ArtifactLimits::default()));
        let note = match kept {
            Ok(gathered) => {
                report.artifacts = gathered.files;
                gathered.left_out
            }
            Err(error) => {
                // What a gate found stays the reason; the worker is sent back and may hand over less.
                if report.outcome == Outcome::Ok {
                    report.outcome = match &error {
                        CollectError::TooMuch(_) => Outcome::LimitOutput,
                        CollectError::Changing(_) | CollectError::Io(_) | CollectError::NoRoom(_) => {
                            Outcome::Crash
                        }
                    };
                }
                one_line(&error)
            }
        };
        if !note.is_empty() {
            let joint = if report.detail.is_empty() { "" } else { "; " };
            report.detail = shorten(format!("{}{joint}{note}", report.detail), crate::runner::LONGEST_DETAIL);
        }
        report.occupied = Occupied::default();
        report
    }

    /// Whether more may be kept.
    fn room(&self) -> Result<(), CollectError> {
        let bytes = self.kept.bytes();
        if bytes < self.most_kept { Ok(()) } else { Err(CollectError::NoRoom(show_size(bytes))) }
    }
}

impl Fetched {
    /// The inputs of an assignment, their answers and files beside them on the disk.
    pub(super) async fn inputs(
        &mut self,
        assigned: &AssignedInputs,
        bulk: &mut Bulk,
    ) -> Result<Vec<Input>, PrepareError> {
        let set;
        let wire = match assigned {
            AssignedInputs::Here(inputs) => inputs,
            AssignedInputs::Bulk(blob) => {
                let bytes = fetch("inputs", blob, bulk).await?;
                set =
                    v1::InputSet::decode(bytes.as_slice()).map_err(|_| PrepareError::Unreadable("inputs"))?;
                &set.inputs
            }
        };
        self.count(wire.iter().flat_map(promised))?;
        let mut inputs = Vec::with_capacity(wire.len());
        for one in wire {
            let mut input = material::input(one);
            input.answer = self.content("answer of an input", one.answer.as_ref(), bulk).await?;
            input.structured = self.content("answer of an input", one.structured.as_ref(), bulk).await?;
            if let Some(artifacts) = &one.artifacts {
                input.artifacts = self.artifacts(artifacts, bulk).await?;
            }
            inputs.push(input);
        }
        inputs::check(&inputs)?;
        Ok(inputs)
    }

    /// The files of a publication.
    pub(super) async fn publication(
        &mut self,
        wire: &v1::PublishAssignment,
        cluster: &[u8],
        bulk: &mut Bulk,
    ) -> Result<PublishWork, PrepareError> {
        self.count(wire.files.iter().filter_map(|file| file.blob.as_ref()).map(|blob| blob.size))?;
        let mut files = Vec::with_capacity(wire.files.len());
        for file in &wire.files {
            let content = match &file.blob {
                Some(blob) => {
                    let digest = <[u8; 32]>::try_from(blob.digest.as_slice())
                        .map_err(|_| PrepareError::Unreadable("list of files"))?;
                    let path = self.file("file", blob, bulk).await?;
                    Some(PublishContent { file: path, size: blob.size, digest })
                }
                None => None,
            };
            let (to, artifact) = (file.to.clone(), file.artifact.clone());
            files.push(PublishItem { to, artifact, content, replace: file.replace });
        }
        Ok(PublishWork { workspace: wire.workspace.clone(), files, cluster: cluster.to_vec() })
    }

    async fn content(
        &mut self,
        what: &'static str,
        text: Option<&v1::Text>,
        bulk: &mut Bulk,
    ) -> Result<Option<Content>, PrepareError> {
        match text.and_then(|text| text.body.as_ref()) {
            Some(v1::text::Body::Inline(text)) if text.is_empty() => Ok(None),
            Some(v1::text::Body::Inline(text)) => Ok(Some(Content::Text(text.clone()))),
            Some(v1::text::Body::Blob(blob)) => {
                let file = self.file(what, blob, bulk).await?;
                Ok(Some(Content::File { file, size: blob.size }))
            }
            None => Ok(None),
        }
    }

    async fn artifacts(
        &mut self,
        wire: &v1::Artifacts,
        bulk: &mut Bulk,
    ) -> Result<Vec<InputFile>, PrepareError> {
        let unreadable = || PrepareError::Unreadable("list of an input's files");
        let blob = wire.manifest.as_ref().ok_or_else(unreadable)?;
        let bytes = fetch("list of an input's files", blob, bulk).await?;
        let manifest = v1::Manifest::decode(bytes.as_slice()).map_err(|_| unreadable())?;
        // What was promised was counted before anything was fetched; a list must not promise more.
        let size = |one: &v1::Artifact| one.blob.as_ref().map_or(0, |blob| blob.size);
        let bytes: u64 = manifest.artifacts.iter().map(size).fold(0, u64::saturating_add);
        if bytes > wire.bytes || manifest.artifacts.len() as u64 > u64::from(wire.count) {
            return Err(unreadable());
        }
        let mut fetches = Vec::with_capacity(manifest.artifacts.len());
        for artifact in manifest.artifacts {
            beneath::parts(&artifact.path).map_err(|_| unreadable())?;
            let blob = artifact.blob.ok_or_else(unreadable)?;
            let file = self.place()?;
            fetches.push((artifact.path, artifact.executable, blob, file));
        }
        let connection = &*bulk;
        let fetches = fetches.into_iter().map(|(path, executable, blob, file)| async move {
            fetch_file("file of an input", &blob, &file, connection).await?;
            Ok(InputFile { path, file, size: blob.size, executable })
        });
        stream::iter(fetches).buffered(FETCHES_AT_ONCE).try_collect().await
    }

    /// Fetches bytes into a file.
    async fn file(
        &mut self,
        what: &'static str,
        blob: &v1::BlobRef,
        bulk: &Bulk,
    ) -> Result<PathBuf, PrepareError> {
        let path = self.place()?;
        fetch_file(what, blob, &path, bulk).await?;
        Ok(path)
    }

    /// Where the next file goes.
    fn place(&mut self) -> Result<PathBuf, PrepareError> {
        if self.files >= MOST_FILES {
            return Err(PrepareError::TooMuch(format!("more than {MOST_FILES} files")));
        }
        let path = self.dir.join(self.files.to_string());
        self.files += 1;
        Ok(path)
    }

    fn count(&mut self, sizes: impl Iterator<Item = u64>) -> Result<(), PrepareError> {
        self.bytes = sizes.fold(self.bytes, u64::saturating_add);
        if self.bytes <= MOST_FETCHED {
            return Ok(());
        }
        let (all, most) = (show_size(self.bytes), show_size(MOST_FETCHED));
        Err(PrepareError::TooMuch(format!("{all} together; an attempt may be given {most}")))
    }
}

/// Fetches bytes into a file, again and again while the coordinator is out of reach for a moment.
async fn fetch_file(
    what: &'static str,
    blob: &v1::BlobRef,
    path: &Path,
    bulk: &Bulk,
) -> Result<(), PrepareError> {
    let mut tries = 1;
    loop {
        match bulk::get_file(&mut bulk.blobs.clone(), blob, path).await {
            Ok(()) => return Ok(()),
            Err(error) if error.is_passing() && tries < FETCH_TRIES => {
                tracing::warn!(what, %error, "cannot fetch bulk yet");
                tries += 1;
                tokio::time::sleep(FETCH_PAUSE).await;
            }
            Err(error) => return Err(PrepareError::Fetch(what, error)),
        }
    }
}

/// The sizes of everything of an input that is bulk.
fn promised(input: &v1::Input) -> impl Iterator<Item = u64> {
    let text = |text: Option<&v1::Text>| match text.and_then(|text| text.body.as_ref()) {
        Some(v1::text::Body::Blob(blob)) => Some(blob.size),
        Some(v1::text::Body::Inline(_)) | None => None,
    };
    let artifacts = input.artifacts.as_ref();
    let manifest = artifacts.and_then(|files| files.manifest.as_ref()).map(|manifest| manifest.size);
    [
        text(input.answer.as_ref()),
        text(input.structured.as_ref()),
        manifest,
        artifacts.map(|files| files.bytes),
    ]
    .into_iter()
    .flatten()
}

impl Drop for Fetched {
    fn drop(&mut self) {
        // Names and contents are the agent's own, so there is nothing in it that could not be removed.
        if let Err(error) = artifacts::clear(&self.dir) {
            tracing::warn!(dir = %self.dir.display(), %error, "what was fetched for an attempt cannot be removed");
        }
    }
}

/// The earlier result that fits an attempt which sees this workspace, if there is one.
pub(super) fn reusable(assigned: &Assigned, tree: Option<[u8; 32]>) -> Option<AttemptReport> {
    // A workspace whose state is not known equals none.
    if !assigned.workspace.is_empty() && tree.is_none() {
        return None;
    }
    let fitting = assigned.reuse.iter().find(|earlier| earlier.tree == tree)?;
    let detail = format!("nothing was run: the result of {} fits", fitting.reference);
    Some(AttemptReport { reused: true, tree, ..AttemptReport::of(Outcome::Ok, detail) })
}

#[cfg(test)]
mod tests;
