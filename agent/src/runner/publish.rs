//! The runner of publications: copies files into a workspace, in process. There is no child, so nothing of it survives
//! the agent; an attempt made again finds in the journal what was done.
//! Knows outcomes; how a file gets into its place is [`crate::publish`]'s.

use tokio::task::spawn_blocking;

use super::{AttemptLink, AttemptReport, AttemptSpec, Outcome, RunFuture, Runner, Work};
use crate::causes::one_line;
use crate::publish::journal::Journal;
use crate::publish::{Owner, PublishError, Published, publish};

/// Copies files into workspaces.
#[derive(Debug, Clone)]
pub struct PublishRunner {
    journal: Journal,
}

impl PublishRunner {
    /// Remembers in `journal` what it published.
    #[must_use]
    pub const fn new(journal: Journal) -> Self {
        Self { journal }
    }

    fn end(&self, spec: &AttemptSpec) -> AttemptReport {
        let Work::Publish(work) = &spec.work else {
            return AttemptReport::of(Outcome::SpawnFailed, "this work is not for the publish runner");
        };
        let Some(workspace) = &spec.workspace else {
            return AttemptReport::of(Outcome::SpawnFailed, "the publication names no workspace");
        };
        let owner = Owner {
            cluster: &work.cluster,
            run: spec.key.run,
            task: spec.key.task,
            attempt: spec.key.attempt,
        };
        match publish(workspace, &work.files, owner, &self.journal) {
            Ok(published) => AttemptReport::of(Outcome::Ok, told(published)),
            Err(PublishError::Refused(why)) => AttemptReport::of(Outcome::GateFailed, why),
            Err(error @ PublishError::Io { .. }) => AttemptReport::of(Outcome::SpawnFailed, one_line(&error)),
        }
    }
}

fn told(published: Published) -> String {
    match published.already {
        0 => String::new(),
        already => format!("{already} of {} files were there already", published.written + already),
    }
}

impl Runner for PublishRunner {
    fn name(&self) -> &'static str {
        "publish"
    }

    fn run(&self, spec: AttemptSpec, link: AttemptLink) -> RunFuture<'_> {
        let this = self.clone();
        Box::pin(async move {
            // Half of it done is worse than all of it done: once begun it is not stopped.
            if let Some(cause) = *link.stop.borrow() {
                return AttemptReport::stopped(cause);
            }
            link.live.send_modify(|live| "publishing".clone_into(&mut live.now));
            let done = spawn_blocking(move || this.end(&spec)).await;
            done.unwrap_or_else(|error| AttemptReport::of(Outcome::SpawnFailed, one_line(&error)))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::Path;
    use std::time::SystemTime;

    use sha2::{Digest as _, Sha256};

    use super::*;
    use crate::runner::{
        AttemptKey, AttemptLimits, Gates, OnLoss, PublishContent, PublishItem, PublishWork, Workspace, link,
    };
    use crate::workspaces::Workspaces;

    fn spec(dir: &Path, to: &str, content: Option<&str>) -> AttemptSpec {
        let content = content.map(|text| {
            let file = dir.join("fetched");
            fs::write(&file, text).unwrap();
            PublishContent { file, size: text.len() as u64, digest: Sha256::digest(text).into() }
        });
        let item = PublishItem { to: to.into(), artifact: "report.md".into(), content, replace: false };
        AttemptSpec {
            key: AttemptKey { run: 1, task: 2, attempt: 1 },
            reference: "r/1/emma.publish".into(),
            work: Work::Publish(PublishWork {
                workspace: "dance".into(),
                files: vec![item],
                cluster: vec![1],
            }),
            limits: AttemptLimits::default(),
            on_loss: OnLoss::Fast,
            env: BTreeMap::new(),
            inputs: Vec::new(),
            workspace: Some(Workspace { name: "dance".into(), dir: dir.join("dance") }),
            tree: None,
            gates: Gates::default(),
            reuse: Vec::new(),
        }
    }

    #[tokio::test]
    async fn it_ends_as_people_can_act_upon() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("dance")).unwrap();
        let journal =
            Journal::open(&dir.path().join("journal"), &Workspaces::default(), SystemTime::now()).unwrap();
        let runner = PublishRunner::new(journal);
        let run = |spec| async { runner.run(spec, link().1).await };
        let report = run(spec(dir.path(), "students/emma.md", Some("good"))).await;
        assert_eq!((report.outcome, report.detail.as_str()), (Outcome::Ok, ""));
        assert_eq!(fs::read_to_string(dir.path().join("dance/students/emma.md")).unwrap(), "good");
        let again = run(spec(dir.path(), "students/emma.md", Some("good"))).await;
        assert_eq!((again.outcome, again.detail.as_str()), (Outcome::Ok, "1 of 1 files were there already"));
        let other = run(spec(dir.path(), "students/emma.md", Some("better"))).await;
        assert_eq!(other.outcome, Outcome::GateFailed);
        assert!(other.detail.contains("students/emma.md") && other.detail.contains("`replace: true`"));
        let missing = run(spec(dir.path(), "x.md", None)).await;
        let expected =
            "the task handed over no file out/report.md to be published as x.md; have it write that file";
        assert_eq!((missing.outcome, missing.detail.as_str()), (Outcome::GateFailed, expected));
        fs::remove_dir_all(dir.path().join("dance")).unwrap();
        let gone = run(spec(dir.path(), "x.md", Some("x"))).await;
        assert_eq!(gone.outcome, Outcome::SpawnFailed);
        let mut cancelled = spec(dir.path(), "x.md", Some("x"));
        let (handle, stopped) = link();
        handle.stop.send(Some(crate::supervisor::stop::StopCause::Cancelled)).unwrap();
        assert_eq!(runner.run(cancelled.clone(), stopped).await.outcome, Outcome::Cancelled);
        cancelled.work = Work::Noop;
        assert_eq!(run(cancelled).await.outcome, Outcome::SpawnFailed);
    }
}
