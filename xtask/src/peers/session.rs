//! One peer for one round: an empty directory, its server, its workers, the clients of its rows, and the end of all of them.
//! Rows that are submitted without workers have a fresh server each, so that nothing is left over from the row before.
//!
//! Knows the order. Refuses to know command lines and figures.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::Signal;
use tempfile::TempDir;

use super::limits;
use super::servers::{self, Place};
use super::subject::{Counts, Peer, Row, Subject, System};
use super::tools::Tools;
use crate::measure::machine::{memory_mb, said};
use crate::measure::process::{Daemon, Interrupt, output};
use crate::measure::results::Sample;

/// The longest row takes a minute: 100,000 submits to Celery, one by one.
pub(super) const CLIENT_LIMIT: Duration = Duration::from_secs(600);
/// Until HyperQueue's server answers.
const PROBE_LIMIT: Duration = Duration::from_secs(30);
/// Until a server that just started or was just filled has settled.
const SETTLE: Duration = Duration::from_millis(500);

/// What a row came to.
pub(super) type Take<'a> = dyn FnMut(&'static str, anyhow::Result<Sample>) + 'a;

/// What every measurement of a run shares.
pub(super) struct Bench<'a> {
    pub(super) tools: &'a Tools,
    pub(super) counts: Counts,
    pub(super) orchctl: PathBuf,
    pub(super) interrupt: &'a Interrupt,
    pub(super) root: &'a Path,
    /// On the same file system as everything else that is measured; removed at the end.
    data: TempDir,
    logs: PathBuf,
}

impl<'a> Bench<'a> {
    /// Data goes below `dir` and not where temporary files usually do: that may be memory.
    pub(super) fn new(
        root: &'a Path,
        dir: &Path,
        tools: &'a Tools,
        counts: Counts,
        orchctl: &Path,
        interrupt: &'a Interrupt,
    ) -> anyhow::Result<Self> {
        let data = tempfile::Builder::new().prefix("data-").tempdir_in(dir);
        let data = data.with_context(|| format!("cannot make a directory in {}", dir.display()))?;
        open_to_others(data.path())?;
        let logs = dir.join("logs");
        std::fs::create_dir_all(&logs)?;
        Ok(Self { tools, counts, orchctl: orchctl.to_owned(), interrupt, root, data, logs })
    }

    /// Why a subject cannot be measured here.
    pub(super) fn lacks(&self, subject: &Subject) -> Option<String> {
        match subject.system {
            System::Limits => limits::lacks(self.root),
            System::Ours => (!self.orchctl.is_file()).then(|| {
                format!(
                    "there is no {}; cargo build --release --locked --bin orchctl builds it",
                    self.orchctl.display()
                )
            }),
            System::Peer(peer) => servers::needs(peer).iter().find_map(|&need| self.tools.lacks(need)),
        }
    }

    /// Its version, by its own word.
    pub(super) fn version(&self, subject: &Subject) -> String {
        match subject.system {
            System::Limits => String::new(),
            System::Ours => said(&self.orchctl, &["--version"]),
            System::Peer(peer) => servers::version(peer, self.tools),
        }
    }

    /// Where what everybody said is kept.
    pub(super) fn logs(&self) -> &Path {
        &self.logs
    }

    /// The log of one process.
    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }

    /// An empty directory, gone at the end of the session: ext4 passes over inodes that were deleted less than five minutes
    /// ago, one by one, so what one row leaves must not be deleted before the next.
    pub(super) fn fresh(&self) -> anyhow::Result<TempDir> {
        let dir = tempfile::Builder::new().disable_cleanup(true).tempdir_in(self.data.path())?;
        open_to_others(dir.path())?;
        Ok(dir)
    }

    /// Lets what just happened come to rest.
    pub(super) fn settle(&self) {
        std::thread::sleep(SETTLE);
    }
}

/// PostgreSQL may be another user.
fn open_to_others(dir: &Path) -> anyhow::Result<()> {
    Ok(std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))?)
}

/// Every row of a peer once; memory in the first round only, because filling takes long and varies little.
pub(super) fn measure(
    bench: &Bench<'_>,
    subject: &Subject,
    peer: Peer,
    first_round: bool,
    take: &mut Take<'_>,
) -> anyhow::Result<()> {
    let has = |row: &Row| subject.rows.contains(row);
    let worked: Vec<_> = [Row::Noop, Row::Spawn, Row::Latency].into_iter().filter(has).collect();
    with_workers(bench, subject, peer, &worked, take)?;
    if has(&Row::Submit) {
        take(Row::Submit.name(), submits(bench, subject, peer));
        bench.interrupt.check()?;
    }
    if has(&Row::Memory) && first_round {
        take(Row::Memory.name(), memory(bench, subject, peer));
        bench.interrupt.check()?;
    }
    Ok(())
}

fn with_workers(
    bench: &Bench<'_>,
    subject: &Subject,
    peer: Peer,
    rows: &[Row],
    take: &mut Take<'_>,
) -> anyhow::Result<()> {
    let started = Session::start(bench, subject, peer).and_then(|mut session| {
        session.employ()?;
        Ok(session)
    });
    match started {
        Ok(session) => {
            for &row in rows {
                take(row.name(), session.row(row.name(), bench.counts.of(row)));
                bench.interrupt.check()?;
            }
        }
        Err(error) => take("start", Err(error)),
    }
    bench.interrupt.check()
}

fn submits(bench: &Bench<'_>, subject: &Subject, peer: Peer) -> anyhow::Result<Sample> {
    let session = Session::start(bench, subject, peer)?;
    session.row(Row::Submit.name(), bench.counts.submit)
}

fn memory(bench: &Bench<'_>, subject: &Subject, peer: Peer) -> anyhow::Result<Sample> {
    let session = Session::start(bench, subject, peer)?;
    bench.settle();
    let idle_mb = memory_mb(session.server.pid());
    let mut sample = session.row("fill", bench.counts.queued)?;
    bench.settle();
    let full_mb = memory_mb(session.server.pid());
    let found = [("idle_mb", idle_mb), ("full_mb", full_mb), ("above_idle_mb", full_mb - idle_mb)];
    sample.figures.extend(found.map(|(name, value)| (name.to_owned(), value)));
    Ok(sample)
}

/// A running server. What is declared first ends first: workers, server, directory.
struct Session<'a> {
    workers: Vec<Daemon>,
    server: Daemon,
    place: Place<'a>,
    bench: &'a Bench<'a>,
    key: &'static str,
    _dir: TempDir,
}

impl<'a> Session<'a> {
    fn start(bench: &'a Bench<'a>, subject: &Subject, peer: Peer) -> anyhow::Result<Self> {
        let dir = bench.fresh()?;
        let place = Place::new(peer, bench.tools, dir.path())?;
        let log = bench.log(&format!("{}-server", subject.key));
        if let Some(command) = place.prepare()? {
            output(command, &log, CLIENT_LIMIT, bench.interrupt)?;
        }
        let (command, ending) = place.server()?;
        let mut server = Daemon::start(command, &log, ending)?;
        if place.listens() {
            server.wait_for_port(place.port, bench.interrupt)?;
        } else {
            bench.interrupt.wait("the server answers", PROBE_LIMIT, || {
                server.check()?;
                Ok(output(place.probe()?, &log, PROBE_LIMIT, bench.interrupt).is_ok())
            })?;
        }
        let session = Self { workers: Vec::new(), server, place, bench, key: subject.key, _dir: dir };
        if session.place.migrates() {
            session.row("fill", 0)?;
        }
        Ok(session)
    }

    /// Starts the workers.
    fn employ(&mut self) -> anyhow::Result<()> {
        for command in self.place.workers()? {
            let log = self.bench.log(&format!("{}-worker", self.key));
            self.workers.push(Daemon::start(command, &log, Signal::TERM)?);
        }
        Ok(())
    }

    fn row(&self, row: &str, count: u32) -> anyhow::Result<Sample> {
        let command = self.place.client(row, count)?;
        let script = command.get_args().next().map(Path::new).and_then(Path::file_name).unwrap_or_default();
        let shown = format!("{} {row} --count {count}", script.to_string_lossy());
        let log = self.bench.log(&format!("{}-client", self.key));
        Sample::read(&output(command, &log, CLIENT_LIMIT, self.bench.interrupt)?, &shown)
    }
}
