//! `bridge`: task files in a folder become runs, their results become files, for programs that know nothing else.
//! Knows the order of steps that keeps a task from being lost or done twice: submitted under a request id that is the
//! file's own identity, its result on the disk before the file goes. Refuses to know how a file is spelt ([`taskfile`]),
//! where files lie ([`folders`]) and what a result says ([`outcome`]).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

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

/// Longest wait for a task that was cancelled, and how often one looks.
const STOPS_WITHIN: Duration = Duration::from_secs(60);
const STOP_POLL: Duration = Duration::from_millis(100);

/// Newest runs of the bridge among which one looks for those of the files that are there.
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
        earlier: BTreeMap::new(),
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
    /// Runs by the file they were made from: those of bridges that worked here before.
    earlier: BTreeMap<String, String>,
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
        let mut begun = false;
        loop {
            let round = async {
                if !begun {
                    self.recall().await?;
                    begun = true;
                }
                self.round().await
            };
            let busy = match round.await {
                Ok(busy) => busy,
                // The coordinator may be back in a moment, or have room again, and the files wait.
                Err(failure) if matches!(failure.exit_code(), exit::UNREACHABLE | exit::LIMIT) => {
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

    /// Looks for the runs of files that were taken before: what they waited for may be gone by now.
    async fn recall(&mut self) -> Outcome<()> {
        let (runs, _) = self.client.list_runs(&[], RUN_NAME, MAX_RUNS).await?;
        self.earlier =
            runs.into_iter().filter_map(|mut run| Some((run.labels.remove(LABEL)?, run.r#ref))).collect();
        Ok(())
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
        if let Some(run) = self.earlier.get(&found.identity.request_id()).cloned() {
            self.fly(found, &run, "found again");
            return Ok(());
        }
        if found.is_too_large && !found.is_young {
            return self.put_aside(found, "it is larger than 9 MiB");
        }
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
                self.fly(found, &run, if answer.existing { "found again" } else { "submitted" });
                Ok(())
            }
            // What it says cannot be run: an unknown worker, a workspace that nobody offers by that name.
            Err(failure) if matches!(failure.exit_code(), exit::USAGE | exit::NOT_FOUND) => {
                self.put_aside(found, failure.text(false).trim_end())
            }
            Err(failure) => Err(failure),
        }
    }

    fn fly(&mut self, found: &Found, run: &str, said: &str) {
        self.out.note(&format!("{} {said} as {run}", found.shown()));
        let task_ref = format!("{run}/{}", found.task_id());
        self.flights.insert(found.identity.clone(), Flight { found: found.clone(), task_ref });
    }

    /// Writes the results of what has ended.
    async fn collect(&mut self) -> Outcome<()> {
        let flights: Vec<(Identity, Found, String)> = self
            .flights
            .iter()
            .map(|(identity, flight)| (identity.clone(), flight.found.clone(), flight.task_ref.clone()))
            .collect();
        for (identity, found, task_ref) in flights {
            let task = match self.client.task(&task_ref).await {
                Ok(task) => task,
                // Somebody removed the run; the file is still there, and is taken anew.
                Err(failure) if failure.exit_code() == exit::NOT_FOUND => {
                    self.flights.remove(&identity);
                    self.earlier.remove(&identity.request_id());
                    continue;
                }
                Err(failure) => return Err(failure),
            };
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
        self.recall().await?;
        for found in self.folders.scan()? {
            let Some(run) = self.earlier.get(&found.identity.request_id()).cloned() else {
                self.folders.export(&found, dir)?;
                exported += 1;
                continue;
            };
            self.client.cancel(&run, "taken back to files").await?;
            let ended = self.ending(&run, &format!("{run}/{}", found.task_id())).await?;
            if ended.was_cancelled() {
                self.folders.export(&found, dir)?;
                exported += 1;
            } else {
                // It ended before the cancel: its result is what counts.
                self.finish(&found, &ended).await?;
            }
        }
        self.out.note(&format!("{} written to {}", plural(exported, "task file"), dir.display()));
        Ok(exit::DONE)
    }

    /// How a task that was cancelled has ended: an agent takes a moment to stop it.
    async fn ending(&self, run: &str, task_ref: &str) -> Outcome<Ended> {
        let deadline = tokio::time::Instant::now() + STOPS_WITHIN;
        loop {
            let task = self.client.task(task_ref).await?;
            if let Some(ended) = Ended::of(&self.client, &task).await? {
                return Ok(ended);
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(Failure::new(
                    exit::CONFLICT,
                    format!("{run} does not end though it was cancelled"),
                )
                .help("run the same command again"));
            }
            tokio::time::sleep(STOP_POLL).await;
        }
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
