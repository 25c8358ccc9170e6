//! `bridge`: task files in a folder become runs, their results become files, for programs that know nothing else.
//! Knows the order of steps that keeps a task from being lost or done twice: submitted under a request id that is the
//! file's own identity, its result on the disk before the file goes. Refuses to know how a file is spelt ([`taskfile`]),
//! where files lie ([`folders`]) and what a result says ([`outcome`]).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use orch_proto::v1::{RunSpec, TaskSpec, WorkerTask, task_spec};

use crate::args::bridge::BridgeArgs;
use crate::client::Client;
use crate::client::submission::Submission;
use crate::exit;
use crate::failure::{Failure, Outcome};
use crate::output::Out;
use crate::output::figures::plural;
use crate::session::{Session, interrupt};

mod folders;
mod outcome;
mod taskfile;

use self::folders::{Folders, Found, Identity};
use self::outcome::Ended;
use self::taskfile::TaskFile;

/// Name of every run the bridge submits.
const RUN_NAME: &str = "bridge";

/// Files in flight at once: each costs a call a round. More wait in their folder.
const MAX_IN_FLIGHT: usize = 256;

/// Newest runs of the bridge among which an export looks for those of the files that are there.
const MAX_RUNS: usize = 100_000;

/// `orchctl bridge`.
pub(crate) async fn run(session: &Session, args: BridgeArgs) -> Outcome {
    let client = session.client()?;
    let folders = Folders::open(&args)?;
    let mut bridge = Bridge {
        client,
        folders,
        args: &args,
        out: &session.out,
        flights: BTreeMap::new(),
        told: BTreeSet::new(),
        tally: Tally::default(),
    };
    if let Some(dir) = &args.export {
        return bridge.export(dir).await;
    }
    bridge.greet();
    tokio::select! {
        outcome = bridge.keep_going() => outcome?,
        code = interrupt() => {
            session.out.note("stopped; what was taken goes on, and is picked up again at the next start");
            return Ok(code);
        }
    }
    let Tally { complete, failed, bad } = bridge.tally;
    session.out.note(&format!("{complete} complete, {failed} failed, {bad} put aside"));
    Ok(if failed + bad == 0 { exit::DONE } else { exit::SOME_FAILED })
}

/// What became of files so far.
#[derive(Debug, Default)]
struct Tally {
    complete: u64,
    failed: u64,
    bad: u64,
}

/// A file whose task was submitted.
struct Flight {
    found: Found,
    task_ref: String,
}

struct Bridge<'a> {
    client: Client,
    folders: Folders,
    args: &'a BridgeArgs,
    out: &'a Out,
    flights: BTreeMap<Identity, Flight>,
    /// What was said once and is not said again.
    told: BTreeSet<String>,
    tally: Tally,
}

impl Bridge<'_> {
    fn greet(&self) {
        let fate = if self.args.keep { "moved to done/" } else { "removed" };
        self.out.note(&format!(
            "taking task files from {}; each is {fate} once its result is in {}",
            self.args.tasks.display(),
            self.args.results.display()
        ));
    }

    async fn keep_going(&mut self) -> Outcome<()> {
        loop {
            let busy = match self.round().await {
                Ok(busy) => busy,
                // The coordinator may be back in a moment, and the files wait.
                Err(failure) if failure.exit_code() == exit::UNREACHABLE => {
                    self.tell(&format!("{}; the files wait", failure.message()));
                    true
                }
                Err(failure) => return Err(failure),
            };
            if self.args.once && !busy {
                return Ok(());
            }
            tokio::time::sleep(self.args.interval).await;
        }
    }

    /// Takes what is new, and finishes what has ended. Whether anything is left.
    async fn round(&mut self) -> Outcome<bool> {
        let found = self.folders.scan()?;
        let waiting: BTreeSet<String> = found.iter().map(|found| found.name.clone()).collect();
        for found in &found {
            if self.flights.contains_key(&found.identity) || self.flights.len() >= MAX_IN_FLIGHT {
                continue;
            }
            self.take(found, &waiting).await?;
        }
        self.collect().await?;
        Ok(!self.flights.is_empty() || !self.folders.scan()?.is_empty())
    }

    /// Submits a file, unless it is not ready yet.
    async fn take(&mut self, found: &Found, waiting: &BTreeSet<String>) -> Outcome<()> {
        let file = match TaskFile::parse(&found.bytes, &found.worker) {
            Ok(file) => file,
            // Somebody may still be writing it.
            Err(_) if found.is_young => return Ok(()),
            Err(error) => return self.put_aside(found, &error),
        };
        let mut inputs = BTreeMap::new();
        for dependency in &file.dependencies {
            match self.folders.result_of(dependency)? {
                Some(result) if result.is_complete => {
                    inputs.insert(dependency.clone(), result.text);
                }
                Some(_) => {
                    let ended = Ended::skipped(dependency);
                    return self.finish(found, &ended).await;
                }
                None => {
                    if !waiting.contains(dependency) {
                        self.tell(&format!(
                            "{} waits for `{dependency}`, of which there is no file and no result",
                            found.path.display()
                        ));
                    }
                    return Ok(());
                }
            }
        }
        let spec = spec(found, &file, &inputs);
        let submission = Submission { spec, request_id: found.identity.request_id(), validate_only: false };
        match self.client.submit(submission).await {
            Ok(answer) => {
                let run = answer.run.map(|run| run.r#ref).unwrap_or_default();
                let task_ref = format!("{run}/{}", found.task_id());
                let said = if answer.existing { "found again" } else { "submitted" };
                self.out.note(&format!("{} {said} as {run}", found.shown()));
                self.flights.insert(found.identity.clone(), Flight { found: found.clone(), task_ref });
                Ok(())
            }
            Err(failure) if failure.exit_code() == exit::USAGE => self.put_aside(found, &failure.text(false)),
            Err(failure) => Err(failure),
        }
    }

    /// Writes the results of what has ended.
    async fn collect(&mut self) -> Outcome<()> {
        let flights: Vec<(Identity, Found, String)> = self
            .flights
            .iter()
            .map(|(identity, flight)| (identity.clone(), flight.found.clone(), flight.task_ref.clone()))
            .collect();
        for (identity, found, task_ref) in flights {
            let task = self.client.task(&task_ref).await?;
            let Some(ended) = Ended::of(&self.client, &task).await? else { continue };
            self.finish(&found, &ended).await?;
            self.flights.remove(&identity);
        }
        Ok(())
    }

    /// Files first, then the result that names them, then the task file goes: whoever is stopped in between does the rest
    /// again at the next start.
    async fn finish(&mut self, found: &Found, ended: &Ended) -> Outcome<()> {
        let mut files = self.folders.prepare_artifacts(found)?;
        for artifact in &ended.artifacts {
            let mut file = files.create(&artifact.path)?;
            self.client.download(&artifact.blob, &mut file).await?;
        }
        files.publish()?;
        self.folders.write_result(found, &ended.json(&found.worker, &found.name, &files.shown()))?;
        if ended.is_complete() {
            self.tally.complete += 1;
        } else {
            self.tally.failed += 1;
        }
        self.out.note(&format!("{} {}", found.shown(), ended.said()));
        self.folders.retire(found)
    }

    fn put_aside(&mut self, found: &Found, why: &str) -> Outcome<()> {
        self.tally.bad += 1;
        self.out.note(&format!("{} cannot be used and is put aside: {why}", found.shown()));
        self.folders.put_aside(found, why)
    }

    /// Takes back what is unfinished: its run is cancelled first, its file leaves the folder only then.
    async fn export(&mut self, dir: &Path) -> Outcome {
        let mut exported = 0;
        let (runs, _) = self.client.list_runs(&[], RUN_NAME, MAX_RUNS).await?;
        let taken: BTreeMap<String, String> =
            runs.into_iter().filter_map(|mut run| Some((run.labels.remove(LABEL)?, run.r#ref))).collect();
        for found in self.folders.scan()? {
            let Some(run) = taken.get(&found.identity.request_id()) else {
                self.folders.export(&found, dir)?;
                exported += 1;
                continue;
            };
            self.client.cancel(run, "taken back to files").await?;
            let task = self.client.task(&format!("{run}/{}", found.task_id())).await?;
            match Ended::of(&self.client, &task).await? {
                Some(ended) if ended.was_cancelled() => {
                    self.folders.export(&found, dir)?;
                    exported += 1;
                }
                // It ended before the cancel: its result is what counts.
                Some(ended) => self.finish(&found, &ended).await?,
                None => {
                    return Err(Failure::new(
                        exit::CONFLICT,
                        format!("{run} did not end when it was cancelled"),
                    )
                    .help("run the same command again"));
                }
            }
        }
        self.out.note(&format!("{} written to {}", plural(exported, "task file"), dir.display()));
        Ok(exit::DONE)
    }

    fn tell(&mut self, text: &str) {
        if self.told.insert(text.to_owned()) {
            self.out.note(text);
        }
    }
}

/// Label of the file that a run was made from.
const LABEL: &str = "bridge-file";

/// The run of one file.
fn spec(found: &Found, file: &TaskFile, inputs: &BTreeMap<String, String>) -> RunSpec {
    let work = WorkerTask {
        worker: found.worker.clone(),
        description: file.description.clone(),
        context: file.context_with(inputs),
        model: file.model.clone(),
        budget_micro_usd: file.budget_micro_usd,
        ..WorkerTask::default()
    };
    let task = TaskSpec {
        task_id: found.task_id(),
        runner: Some(task_spec::Runner::Worker(work)),
        priority: file.priority,
        timeout: file.timeout.and_then(|timeout| timeout.try_into().ok()),
        workspace: file.workspace.clone(),
        ..TaskSpec::default()
    };
    let labels = [(LABEL.to_owned(), found.identity.request_id())];
    RunSpec { name: RUN_NAME.to_owned(), tasks: vec![task], labels: labels.into(), ..RunSpec::default() }
}
