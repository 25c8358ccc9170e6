//! `orchd storage`: a data directory looked after while no coordinator uses it. A running one keeps its lock and is named.
//! Knows the commands; the work is that of the modules beside it.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context as _;
use orch_core::config::Config;
use tokio_util::sync::CancellationToken;

use super::restore::{Order, Present, take};
use super::start::{self, ask_for_compaction};
use super::{StartError, backup, check, figures, incoming, open, swap};
use crate::blobs::{Blobs, FileBlobs};
use crate::config::{Copied, StorageCommand};
use crate::serve::wiring::core_config;
use crate::store::dir::{DirLock, create_private};
use crate::store::{ClusterId, DataDir, ImportError, SledStore, Store};

const IMPORT: &str = "import";
const STREAM: &str = "-";

/// Carries a command out on the data directory of `settings`, and returns what to say.
///
/// # Errors
/// What kept it from being done, with what to do next.
pub fn run(
    command: &StorageCommand,
    settings: &crate::config::Config,
    now: SystemTime,
) -> anyhow::Result<String> {
    let root = settings.data_dir.as_path();
    let config = core_config(settings);
    match command {
        StorageCommand::Check => checked(root, config, now),
        StorageCommand::Export(Copied { file }) => {
            let opened = existing(root, now)?;
            let report = written(file, |to| Ok(opened.store.export(to)?))?;
            Ok(told(file, format!("{} records exported", report.records)))
        }
        StorageCommand::Backup(Copied { file }) => {
            let opened = existing(root, now)?;
            let (store, blobs) = (Arc::<SledStore>::clone(&opened.store), opened.blobs);
            let source = backup::Source { store, blobs, transcripts: opened.transcripts };
            let totals = written(file, |to| Ok(backup::backup(root, &source, now, to)?))?;
            let (blobs, transcripts) = (totals.blobs, totals.transcripts);
            Ok(told(
                file,
                format!("{} records, {blobs} blobs, {transcripts} transcripts copied", totals.records),
            ))
        }
        StorageCommand::Import(Copied { file }) => imported(root, file, now),
        StorageCommand::Restore { copy, cluster } => restored(root, copy, cluster.as_deref(), config, now),
        StorageCommand::Compact => {
            existing(root, now)?;
            ask_for_compaction(root).with_context(|| format!("cannot write to {}", root.display()))?;
            let opened = existing(root, now)?;
            start::proved(root);
            Ok(format!("{}\n", opened.mended.join("\n")))
        }
    }
}

fn checked(root: &Path, config: Config, now: SystemTime) -> anyhow::Result<String> {
    let report = check::check(root, config, now)?;
    let facts = report.facts.join("\n");
    anyhow::ensure!(
        report.problems.is_empty(),
        "{facts}\nthe data in {} is not whole:\n  {}\nrestore the last backup: orchd storage restore FILE",
        root.display(),
        report.problems.join("\n  ")
    );
    Ok(format!("{facts}\neverything is whole\n"))
}

/// Opens a data directory that is there.
fn existing(root: &Path, now: SystemTime) -> Result<super::Opened, StartError> {
    let place = root.join("store").join("sled");
    File::open(&place).map_err(StartError::dir("look into", &place))?;
    open(root, ClusterId([0; 16]), now)
}

/// Writes to a file that has its name only when it is whole, or to the standard output.
fn written<T>(file: &Path, write: impl FnOnce(&mut dyn Write) -> anyhow::Result<T>) -> anyhow::Result<T> {
    if file == Path::new(STREAM) {
        let mut out = BufWriter::new(io::stdout().lock());
        let done = write(&mut out)?;
        out.flush()?;
        return Ok(done);
    }
    let place = crate::check::parent_of(file);
    let named = || format!("cannot write {}", file.display());
    let mut out =
        BufWriter::with_capacity(1 << 20, tempfile::NamedTempFile::new_in(place).with_context(named)?);
    let done = write(&mut out)?;
    let temp = out.into_inner().map_err(io::IntoInnerError::into_error).with_context(named)?;
    temp.as_file().sync_all().with_context(named)?;
    temp.persist(file).with_context(named)?;
    Ok(done)
}

fn told(file: &Path, text: String) -> String {
    // What was copied is on the standard output; nothing else may be.
    if file == Path::new(STREAM) { String::new() } else { format!("{text} to {}\n", file.display()) }
}

fn reading(file: &Path) -> anyhow::Result<Box<dyn BufRead>> {
    if file == Path::new(STREAM) {
        return Ok(Box::new(BufReader::new(io::stdin())));
    }
    let opened = File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(Box::new(BufReader::with_capacity(1 << 20, opened)))
}

/// Fills an empty data directory: the same cluster, epoch and ids, for moving a store, not for going back in time.
fn imported(root: &Path, file: &Path, now: SystemTime) -> anyhow::Result<String> {
    create_private(root).map_err(StartError::dir("create", root))?;
    let _lock = DirLock::take(root).map_err(StartError::from)?;
    swap::carry_out(root)?;
    let dir = DataDir::open(root).map_err(StartError::dir("use the rooms of", root))?;
    if dir.store().join("sled").exists() {
        let store = SledStore::open(&dir.store(), ClusterId([0; 16])).map_err(StartError::from)?;
        if store.health()?.live_records > 0 {
            return Err(ImportError::NotEmpty)
                .context("name an empty --data-dir, or use orchd storage restore to replace what is there");
        }
    }
    let place = incoming(root, IMPORT).join("store");
    create_private(&place).map_err(StartError::dir("create", &place))?;
    let store = SledStore::open(&place, ClusterId([0; 16])).map_err(StartError::from)?;
    let report = store.import(&mut *reading(file)?)?;
    store.load_with(&mut |_, _| ())?;
    drop(store);
    swap::stage(root, IMPORT, now)?;
    swap::carry_out(root)?;
    figures::forget_aside(root, IMPORT)?;
    Ok(format!("{} records imported into {}\n", report.records, root.display()))
}

/// Puts a copy in the place of what is there, whatever state that is in.
fn restored(
    root: &Path,
    Copied { file }: &Copied,
    cluster: Option<&str>,
    config: Config,
    now: SystemTime,
) -> anyhow::Result<String> {
    create_private(root).map_err(StartError::dir("create", root))?;
    let _lock = DirLock::take(root).map_err(StartError::from)?;
    swap::carry_out(root)?;
    let dir = DataDir::open(root).map_err(StartError::dir("use the rooms of", root))?;
    let mut from = reading(file)?;
    let whole = from.fill_buf()?.starts_with(br#"{"format":"orch-backup""#);
    let records_beside: Option<Arc<dyn Blobs>> =
        if whole { None } else { Some(Arc::new(FileBlobs::open(&dir.blobs()).map_err(StartError::from)?)) };
    let present = present(&dir);
    let named = cluster.map(parse_cluster).transpose()?;
    let expected = named.or_else(|| present.map(|present| present.cluster));
    let root = root.to_owned();
    let unwanted = CancellationToken::new();
    let order = Order {
        root,
        cluster: expected,
        present,
        records_beside,
        validate_only: false,
        config,
        now,
        unwanted,
    };
    let taken = take(&mut *from, &order)?;
    drop(order.records_beside);
    swap::carry_out(&order.root)?;
    Ok(format!(
        "{} records, {} blobs, {} transcripts of epoch {} restored; what was there is in {}\n",
        taken.records,
        taken.blobs,
        taken.transcripts,
        taken.epoch,
        order.root.join(taken.aside.unwrap_or_default()).display()
    ))
}

/// What is replaced, as far as it can be read: a damaged store is what a restore is for.
fn present(dir: &DataDir) -> Option<Present> {
    let place = dir.store();
    if fs::metadata(place.join("sled").join("db")).is_err() {
        return None;
    }
    let read = SledStore::open(&place, ClusterId([0; 16])).map_err(anyhow::Error::from);
    let read = read.and_then(|store| Ok(Present::of(&store)?));
    read.inspect_err(|error| tracing::warn!("what is replaced cannot be read: {error:#}")).ok()
}

fn parse_cluster(text: &str) -> anyhow::Result<ClusterId> {
    let mut bytes = [0; 16];
    hex::decode_to_slice(text, &mut bytes).context("a cluster id has 32 hexadecimal digits")?;
    Ok(ClusterId(bytes))
}
