//! Whether everything in a data directory is whole: every record, every blob, everything that records name.
//! Changes nothing. Knows what can be checked without a start; refuses to mend.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use orch_core::config::Config;
use orch_core::time::Wall;
use sha2::{Digest as _, Sha256};

use super::backup::millis;
use super::{CopyError, StartError};
use crate::blobs::{Blobs, Digest, FileBlobs, Kept};
use crate::engine::recover::rehearse;
use crate::payloads::references;
use crate::store::dir::DirLock;
use crate::store::{ClusterId, DataDir, OpenError, SledStore, Store};

/// Problems that are told one by one; of more there is the number.
const MOST_TOLD: usize = 20;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// What there is, a line each.
    pub facts: Vec<String>,
    /// What is wrong, a sentence each; empty when all is well.
    pub problems: Vec<String>,
}

/// Looks through the data directory at `root`, which no coordinator may use meanwhile. `config` has the limits of a start.
///
/// # Errors
/// [`StartError`] when there is nothing to look at. What is wrong with the data is in the report.
pub fn check(root: &Path, config: Config, now: SystemTime) -> Result<Report, StartError> {
    let place = root.join("store").join("sled");
    File::open(&place).map_err(StartError::dir("look into", &place))?;
    let _lock = DirLock::take(root)?;
    let dir = DataDir::open(root).map_err(StartError::dir("use the rooms of", root))?;
    let mut report = Report::default();
    if root.join("staged.json").exists() {
        report.facts.push("a change is staged: the next start puts it in place".to_owned());
    }
    let (store, older) = match SledStore::open(&dir.store(), ClusterId([0; 16])) {
        Err(OpenError::OlderSchema { found }) => {
            report.facts.push(format!("schema {found}: the next start migrates the store"));
            (SledStore::open_older(&dir.store())?, true)
        }
        opened => (opened?, false),
    };
    let blobs = Arc::new(FileBlobs::open(&dir.blobs())?);
    let meta = store.meta();
    report.facts.push(format!("cluster {}, epoch {}", meta.cluster, meta.epoch));
    report.records(&store, &blobs, config, now, older);
    if let Err(error) = report.blobs(&store, &blobs) {
        report.problem(&error);
    }
    if report.problems.len() > MOST_TOLD {
        let more = report.problems.len() - MOST_TOLD;
        report.problems.truncate(MOST_TOLD);
        report.problems.push(format!("{more} more"));
    }
    Ok(report)
}

impl Report {
    fn records(
        &mut self,
        store: &SledStore,
        blobs: &Arc<FileBlobs>,
        config: Config,
        now: SystemTime,
        older: bool,
    ) {
        match store.load_with(&mut |_, _| ()) {
            Ok(loaded) => self.facts.push(format!("{} records, every one with its checksum", loaded.records)),
            Err(error) => return self.problem(&error),
        }
        let wall = Wall(i64::try_from(millis(now)).unwrap_or(i64::MAX));
        let kept: Arc<dyn Blobs> = Arc::<FileBlobs>::clone(blobs);
        // An older record may mean something else.
        if !older && let Err(error) = rehearse(store, kept, config, wall) {
            self.problem(&error);
        }
    }

    fn blobs(&mut self, store: &SledStore, blobs: &FileBlobs) -> Result<(), CopyError> {
        let there = blobs.list()?;
        match references::missing(store, blobs, &there) {
            Ok(missing) => {
                self.problems.extend(missing.into_iter().map(|name| format!("{name} is named and missing")))
            }
            Err(error) => self.problem(&error),
        }
        let mut bytes = BTreeMap::from([("blobs", (0, 0_u64)), ("packs", (0, 0))]);
        for listed in &there {
            let word = if matches!(listed.kept, Kept::Blob(_)) { "blobs" } else { "packs" };
            let entry = bytes.entry(word).or_default();
            *entry = (entry.0 + 1, entry.1 + listed.len);
            // What is in a pack is checked against its digest whenever it is read.
            if let Kept::Blob(expected) = listed.kept
                && digest_of(&mut blobs.open_whole(listed.tenant, &listed.kept)?)? != expected
            {
                self.problems.push(format!("blob {expected} of tenant {} is damaged", listed.tenant));
            }
        }
        self.facts
            .extend(bytes.iter().map(|(word, (count, bytes))| format!("{count} {word}, {bytes} bytes")));
        Ok(())
    }

    fn problem(&mut self, error: &dyn std::error::Error) {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(beneath) = cause {
            text = format!("{text}: {beneath}");
            cause = beneath.source();
        }
        self.problems.push(text);
    }
}

fn digest_of(file: &mut File) -> Result<Digest, CopyError> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        let read = file.read(&mut buffer).map_err(CopyError::stream("read a blob"))?;
        if read == 0 {
            return Ok(Digest(hasher.finalize().into()));
        }
        hasher.update(buffer.get(..read).unwrap_or_default());
    }
}
