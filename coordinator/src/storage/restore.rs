//! A copy given back: received, verified whole, made ready beside what is there, and named by the marker.
//! Knows what makes a copy fit to be started on; refuses to replace anything, which is [`super::swap`]'s.
//!
//! What is made ready is a store that has been imported, raised above every id that may have been given out since the
//! copy was made, and loaded once as a start would load it. So a start only has to move directories.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use orch_core::config::Config;
use orch_core::time::Wall;
use prost::Message as _;
use tokio_util::sync::CancellationToken;

use super::backup::millis;
use super::counters::{Counters, Raised};
use super::unpack::{self, RECORDS};
use super::{CopyError, incoming, swap};
use crate::blobs::{Blobs, FileBlobs};
use crate::engine::recover::rehearse;
use crate::store::dir::create_private;
use crate::store::{Batch, ClusterId, EpochStep, Key, Kind, MAX_SCAN, Op, Prefix, SledStore, Store, Tenant};

/// The name of this operation.
const WHAT: &str = "restore";

/// What a coordinator that is replaced has given out, and whose it is.
#[derive(Debug, Clone, Copy)]
pub struct Present {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its epoch.
    pub epoch: u64,
    /// Its ids.
    pub counters: Counters,
}

impl Present {
    /// Of what `store` holds.
    ///
    /// # Errors
    /// [`CopyError`].
    pub fn of(store: &dyn Store) -> Result<Self, CopyError> {
        let meta = store.meta();
        Ok(Self { cluster: meta.cluster, epoch: meta.epoch, counters: Counters::of(store)? })
    }
}

/// How a copy is to be taken.
#[derive(Debug)]
pub struct Order {
    /// The data directory.
    pub root: PathBuf,
    /// The cluster that the copy must be of; `None` takes any.
    pub cluster: Option<ClusterId>,
    /// What is replaced, as far as it can be read.
    pub present: Option<Present>,
    /// Blobs that stay, for a copy of records alone. `None` for a whole backup.
    pub records_beside: Option<Arc<dyn Blobs>>,
    /// Only check it.
    pub validate_only: bool,
    /// Limits that the new start will have.
    pub config: Config,
    /// The time.
    pub now: SystemTime,
    /// Set when nobody wants it any more: then nothing is staged.
    pub unwanted: CancellationToken,
}

/// What was found in a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// When it was made, unix ms; unknown for records alone.
    pub created_ms: Option<u64>,
    /// Records.
    pub records: u64,
    /// Blobs and packs.
    pub blobs: u64,
    /// Transcripts.
    pub transcripts: u64,
    /// The epoch in it.
    pub epoch: u64,
    /// Where what is replaced is going to be, below the data directory; `None` when only checked.
    pub aside: Option<String>,
}

/// Takes a copy and stages it, unless it is only to be checked.
///
/// # Errors
/// [`CopyError`]; then nothing is staged and nothing is left.
pub fn take(from: &mut dyn BufRead, order: &Order) -> Result<Taken, CopyError> {
    let place = incoming(&order.root, WHAT);
    discard(&place)?;
    create_private(&place).map_err(CopyError::file("create", &place))?;
    let taken = prepare(from, &place, order).and_then(|taken| {
        let wanted = || !order.unwanted.is_cancelled();
        let stage = || swap::stage_if(&order.root, WHAT, order.now, &wanted);
        let aside = if order.validate_only { None } else { Some(stage()?) };
        Ok(Taken { aside, ..taken })
    });
    if order.validate_only || taken.is_err() {
        discard(&place)?;
    }
    taken
}

fn discard(place: &Path) -> Result<(), CopyError> {
    if place.exists() { fs::remove_dir_all(place).map_err(CopyError::file("remove", place)) } else { Ok(()) }
}

fn prepare(from: &mut dyn BufRead, place: &Path, order: &Order) -> Result<Taken, CopyError> {
    let (unpacked, blobs) = match &order.records_beside {
        None => {
            let unpacked = unpack::unpack(from, place)?;
            if let Some(expected) = order.cluster {
                same_cluster(expected, &unpacked.header.cluster)?;
            }
            let blobs: Arc<dyn Blobs> = Arc::new(FileBlobs::open(&place.join("blobs"))?);
            (Some(unpacked), blobs)
        }
        Some(blobs) => {
            unpack::receive_records(from, place)?;
            (None, Arc::clone(blobs))
        }
    };
    let records = place.join(RECORDS);
    let file = File::open(&records).map_err(CopyError::file("open", &records))?;
    let store = SledStore::open(&place.join("store"), ClusterId([0; 16]))?;
    let report = store.import(&mut BufReader::with_capacity(1 << 20, file))?;
    let meta = store.meta();
    if let Some(expected) = order.cluster {
        same_cluster(expected, &meta.cluster.to_string())?;
    }
    if let Some(unpacked) = &unpacked {
        let header = &unpacked.header;
        if (header.cluster.as_str(), header.epoch) != (meta.cluster.to_string().as_str(), meta.epoch) {
            return Err(CopyError::Damaged("its records are of another coordinator than it says".to_owned()));
        }
        if unpacked.totals.records != report.records {
            return Err(CopyError::Damaged("it has another number of records than it says".to_owned()));
        }
    }
    let raised = raise(&store, order.present, Raised::noted(&order.root))?;
    let wall = Wall(i64::try_from(millis(order.now)).unwrap_or(i64::MAX));
    rehearse(&store, blobs, order.config.clone(), wall)?;
    fs::remove_file(&records).map_err(CopyError::file("remove", &records))?;
    if !order.validate_only {
        // Before the marker: too high does no harm.
        raised.note(&order.root).map_err(CopyError::file("write to", &order.root))?;
    }
    let totals = unpacked.as_ref().map(|unpacked| &unpacked.totals);
    Ok(Taken {
        created_ms: unpacked.as_ref().map(|unpacked| unpacked.header.created_ms),
        records: report.records,
        blobs: totals.map_or(0, |totals| totals.blobs),
        transcripts: totals.map_or(0, |totals| totals.transcripts),
        epoch: meta.epoch,
        aside: None,
    })
}

fn same_cluster(expected: ClusterId, found: &str) -> Result<(), CopyError> {
    let expected = expected.to_string();
    if expected == found {
        Ok(())
    } else {
        Err(CopyError::OtherCluster { expected, found: found.to_owned() })
    }
}

/// Lifts a restored store above everything that may have been given out since its copy was made. Its event log goes:
/// whoever read on in the one that is replaced must not take what comes for what followed.
fn raise(store: &dyn Store, present: Option<Present>, noted: Raised) -> Result<Raised, CopyError> {
    let mut counters = Counters::of(store)?.max(noted.counters());
    let mut above = noted.epoch;
    if let Some(present) = present {
        counters = counters.max(present.counters);
        above = above.max(present.epoch);
    }
    let meta = store.begin_epoch(EpochStep::RestoreAbove(above), 0)?;
    let commit = |ops: Vec<Op>| store.commit(Batch { expect_epoch: meta.epoch, ops });
    let events = Prefix::kind(Tenant::CLUSTER, Kind::EventPage);
    loop {
        let pages = store.scan(&events, None, MAX_SCAN)?;
        if pages.is_empty() {
            break;
        }
        commit(pages.into_iter().map(|(key, _)| Op::Delete { key }).collect())?;
    }
    let floors = counters.raised();
    commit(vec![Op::Put { key: Key::counters(), value: floors.encode_to_vec() }])?;
    store.mark_clean(meta.epoch, 0)?;
    Ok(Raised::new(meta.epoch, &floors))
}
