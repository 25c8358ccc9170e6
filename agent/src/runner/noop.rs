//! The runner that does nothing, in process: what is left is the cost of orch itself. For benchmarks and
//! health checks only.

use super::{AttemptLink, AttemptReport, AttemptSpec, Outcome, RunFuture, Runner, Work};

/// Ends every attempt at once and well.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoopRunner;

impl NoopRunner {
    /// Ends an attempt without a future, for callers that run thousands a second.
    #[must_use]
    pub fn end(spec: &AttemptSpec) -> AttemptReport {
        match spec.work {
            Work::Noop => AttemptReport::of(Outcome::Ok, ""),
            Work::Claude(_) | Work::Command(_) | Work::Publish(_) => {
                AttemptReport::of(Outcome::SpawnFailed, "this work is not for the noop runner")
            }
        }
    }
}

impl Runner for NoopRunner {
    fn name(&self) -> &'static str {
        "noop"
    }

    fn run(&self, spec: AttemptSpec, _link: AttemptLink) -> RunFuture<'_> {
        Box::pin(std::future::ready(Self::end(&spec)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{AttemptKey, AttemptLimits, CommandWork, OnLoss, link};
    use super::*;

    #[tokio::test]
    async fn it_ends_well_and_only_its_own_work() {
        let mut spec = AttemptSpec {
            key: AttemptKey { run: 1, task: 0, attempt: 1 },
            reference: "adhoc/1/main".to_owned(),
            work: Work::Noop,
            limits: AttemptLimits::default(),
            on_loss: OnLoss::Fast,
            env: std::collections::BTreeMap::new(),
            inputs: Vec::new(),
            workspace: None,
            tree: None,
            gates: crate::runner::Gates::default(),
            reuse: Vec::new(),
        };
        let report = NoopRunner.run(spec.clone(), link().1).await;
        assert_eq!((report.outcome, report.usage.cost_micro_usd), (Outcome::Ok, 0));
        spec.work = Work::Command(CommandWork { program: "true".to_owned(), args: Vec::new() });
        assert_eq!(NoopRunner.run(spec, link().1).await.outcome, Outcome::SpawnFailed);
    }
}
