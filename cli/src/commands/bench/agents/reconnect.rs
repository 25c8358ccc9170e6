//! Agents whose coordinator is restarted while each of them works: how long it takes until they are welcomed again, and
//! whether any lease was lost meanwhile. Whoever measures restarts the coordinator; this program only sees sessions end.

use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use orch_proto::v1::TaskState;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::super::played::{Left, Played};
use super::super::{Bench, Percentiles, Progress, millis, staffed};
use crate::exit;
use crate::failure::{Failure, Outcome};

/// Upper bound of an agent's first wait before it dials again; it doubles up to the second, as it does in the agent.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Upper bound of every wait of an agent that holds an attempt, and of one that holds none.
const LONGEST_WAIT: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// Tasks a second that an agent reports at the end: all it holds, at once.
const AT_ONCE: u32 = 1_000;

/// How agents came back.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Reconnected {
    /// How often each agent was to be welcomed again.
    pub(crate) times: u32,
    /// Agents that were not, within the time they were held.
    pub(crate) missing: u32,
    /// From the end of a session until the agent was welcomed again.
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
    /// Attempts that the agents held when the coordinator was restarted.
    pub(crate) leases: u32,
    /// Those whose task ended otherwise than by this attempt.
    pub(crate) leases_lost: u32,
}

impl Reconnected {
    pub(crate) fn line(&self) -> String {
        format!(
            "welcomed again {} times  p50 {:.0} ms  p99 {:.0} ms  max {:.0} ms; {} missing, {} of {} leases lost",
            self.times, self.p50_ms, self.p99_ms, self.max_ms, self.missing, self.leases_lost, self.leases
        )
    }
}

/// Holds agents that each have a task until every one was welcomed so many times more, or `hold` is over.
pub(super) async fn measure(
    bench: &Bench<'_>,
    tag: &str,
    agents: Vec<Played>,
    progress: &mut Progress<'_>,
) -> Outcome<Reconnected> {
    let (count, times) = (agents.len(), bench.args.reconnects);
    let (pace, paced) = watch::channel(0);
    let (stop, stopped) = watch::channel(false);
    let mut holding = JoinSet::new();
    let hold = |number: usize, agent: Played| {
        let held = agent.hold(paced.clone(), stopped.clone());
        async move { (number, held.await) }
    };
    for (number, agent) in agents.into_iter().enumerate() {
        holding.spawn(hold(number, agent));
    }
    let leases = u32::try_from(count).unwrap_or(u32::MAX);
    // A restart may come before this client knows that all of them work.
    let mut occupied = pin!(staffed::occupied(bench, tag, leases));
    let mut run = None;
    let mut came = vec![0; count];
    let mut took = Vec::new();
    let mut dialling = FuturesUnordered::new();
    let end = Instant::now() + bench.args.hold;
    while run.is_none() || came.iter().any(|times_come| *times_come < times) {
        tokio::select! {
            found = &mut occupied, if run.is_none() => run = Some(found?),
            Some(left) = holding.join_next() => {
                let (number, left) = left.map_err(|error| Failure::new(exit::BUG, "an agent ended").cause(error))?;
                dialling.push(come_back(number, left));
            }
            Some((number, time, agent)) = dialling.next() => {
                took.push(time);
                if let Some(times_come) = came.get_mut(number) {
                    *times_come += 1;
                }
                holding.spawn(hold(number, agent));
                progress.tell(|| format!("{} sessions opened again", took.len()));
            }
            () = tokio::time::sleep_until(end) => break,
        }
    }
    drop(dialling);
    let Some(run) = run else {
        return Err(Failure::new(exit::FAILED, "not every agent was given its task in time"));
    };
    let missing = came.iter().filter(|times_come| **times_come < times).count();
    pace.send_replace(AT_ONCE);
    let tasks = staffed::finished(bench, &run).await?;
    let kept = tasks.iter().filter(|task| task.state() == TaskState::Succeeded && task.attempt <= 1).count();
    // Whoever is gone needs no word.
    let _ = stop.send(true);
    holding.join_all().await;
    let max = took.iter().max().copied().unwrap_or_default();
    let figures = Percentiles::of(took);
    Ok(Reconnected {
        times,
        missing: u32::try_from(missing).unwrap_or(u32::MAX),
        p50_ms: figures.p50,
        p99_ms: figures.p99,
        max_ms: millis(max),
        leases,
        leases_lost: leases.saturating_sub(u32::try_from(kept).unwrap_or(u32::MAX)),
    })
}

/// Dials with full jitter until the agent is welcomed, and says how long that took.
async fn come_back(number: usize, left: Left) -> (usize, Duration, Played) {
    let start = Instant::now();
    let longest = if left.holds() { LONGEST_WAIT.0 } else { LONGEST_WAIT.1 };
    let mut bound = FIRST_WAIT;
    loop {
        tokio::time::sleep(bound.mul_f64(rand::random::<f64>())).await;
        match left.join_again().await {
            Ok(agent) => return (number, start.elapsed(), agent),
            Err(_) => bound = (bound * 2).min(longest),
        }
    }
}
