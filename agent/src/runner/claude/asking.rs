//! How an attempt asks the API: through the agent's gateway, which counts every request and keeps the key, or directly,
//! watched by what the CLI says. Knows both ways, and what each says about money and limits when the attempt has ended.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::Rng as _;
use tokio::sync::watch;

use crate::boottime::BootMillis;
use crate::credentials::Lease;
use crate::gateway::ledger::LEDGER_FILE;
use crate::gateway::spec::{GatewaySecrets, GatewaySpec, new_token};
use crate::gateway::wire::SignalKind;
use crate::limits::bill::{self, Bill};
use crate::limits::broker::DirectSignal;
use crate::limits::desk::{Entry, Refusal, Tally};
use crate::limits::{Broker, Seat};
use crate::runner::note::ClaudeNote;
use crate::runner::supervised::{Action, Watcher};
use crate::runner::{AttemptKey, AttemptReport, LONGEST_DETAIL, LimitHit, Live, Outcome, shorten};
use crate::supervisor::client::End;
use crate::supervisor::spec::{Secrets, SuperviseSpec};

use super::event::RateLimit;
use super::observer::{Facts, Observer};
use super::{ClaudeSettings, args};

/// Where the API is when nobody says otherwise.
const API: &str = "https://api.anthropic.com";

/// Where exchanges are recorded, in the attempt's directory.
const EXCHANGES: &str = "exchanges";

/// A pause that the API asks for which is longer is a window that is used up; the CLI gives up at once then.
const LONGEST_THROTTLE: Duration = Duration::from_secs(60);

/// The seat of an attempt at the agent's desk, and how its requests travel.
#[derive(Debug)]
pub(super) struct Asking {
    seat: Seat,
    broker: Broker,
    /// Where its gateway is found.
    gateway: Option<(PathBuf, String)>,
    attempt_dir: PathBuf,
}

/// What the CLI said that decides about money and limits.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Told {
    /// It said what everything has cost.
    billed: bool,
    /// A window of its subscription is used up.
    window: Option<String>,
    model: String,
    /// Its supervisor was lost, and the gateway with it: nobody knows what was in flight.
    lost: bool,
}

impl Told {
    pub(super) fn of(facts: &Facts, end: Option<&End>) -> Self {
        let rejected = facts.rate_limit.as_ref().filter(|limit| limit.status == "rejected");
        Self {
            billed: facts.ledger.is_billed() && !facts.is_cut_off(),
            window: rejected.map(|limit| limit.window.clone()),
            model: facts.init.as_ref().and_then(|init| init.model.clone()).unwrap_or_default(),
            lost: matches!(end, Some(End::Lost { .. })),
        }
    }
}

impl Asking {
    /// For an attempt that is about to start: puts the gateway into what its supervisor is told, where its credential lets
    /// it, and takes the key away from the child.
    pub(super) fn begin(
        settings: &ClaudeSettings,
        (key, note): (AttemptKey, &ClaudeNote),
        lease: &Lease,
        (supervise, secrets): (&mut SuperviseSpec, &mut Secrets),
    ) -> Self {
        let gateway = lease.for_gateway().map(|(key, url)| {
            let upstream = url.or(settings.api_base_url.as_deref()).unwrap_or(API).to_owned();
            let token = new_token(rand::rng().random());
            secrets.env.clear();
            secrets.redact.push(token.clone());
            secrets.gateway = Some(GatewaySecrets { token, key: key.to_owned() });
            let record_dir = settings.record_exchanges.then(|| supervise.attempt_dir.join(EXCHANGES));
            let patience = settings.limits.api_patience;
            let longest_failure_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
            let spec = GatewaySpec { record_dir, longest_failure_ms, ..GatewaySpec::to(upstream) };
            supervise.gateway = Some(spec);
            args::through_gateway(&mut supervise.env);
            (supervise.runtime_dir.clone(), supervise.id.clone())
        });
        if !lease.is_api_key() {
            args::by_subscription(&mut supervise.env);
        }
        Self::new(&settings.broker, (key, note), lease, gateway, supervise.attempt_dir.clone())
    }

    /// For one that a former process of the agent started. Whether it has a gateway was decided then.
    pub(super) fn again(
        broker: &Broker,
        (key, note): (AttemptKey, &ClaudeNote),
        lease: &Lease,
        (runtime_dir, id): (&Path, &str),
        attempt_dir: &Path,
    ) -> Self {
        let has_gateway = attempt_dir.join(LEDGER_FILE).exists();
        let gateway = has_gateway.then(|| (runtime_dir.to_owned(), id.to_owned()));
        Self::new(broker, (key, note), lease, gateway, attempt_dir.to_owned())
    }

    fn new(
        broker: &Broker,
        (key, note): (AttemptKey, &ClaudeNote),
        lease: &Lease,
        gateway: Option<(PathBuf, String)>,
        attempt_dir: PathBuf,
    ) -> Self {
        let seat = broker.enter(Entry {
            key,
            pool: lease.pool().unwrap_or_default().to_owned(),
            worker: note.worker.clone(),
            // Without a gateway the CLI keeps it by itself, and the observer sees to that.
            own_micro_usd: note.demands.budget_micro_usd.filter(|_| gateway.is_some()),
            allowance: note.allowance.clone(),
        });
        Self { seat, broker: broker.clone(), gateway, attempt_dir }
    }

    /// Follows the attempt with `observer`, and by what it says where there is no gateway.
    pub(super) fn watcher(&self, observer: Observer) -> ClaudeWatcher<'_> {
        let direct = self.gateway.is_none().then(|| Direct { seat: &self.seat, said: Said::default() });
        ClaudeWatcher { observer, direct }
    }

    /// Serves the gateway until `run` has ended.
    pub(super) async fn beside<T>(
        &self,
        run: impl Future<Output = T>,
        lease: &Lease,
        live: watch::Sender<Live>,
    ) -> T {
        let attend = async {
            if let Some((runtime_dir, id)) = &self.gateway {
                self.seat.attend((runtime_dir, id), lease, live).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            ended = run => ended,
            () = attend => std::future::pending().await,
        }
    }

    /// The report of an attempt that has ended, with what its gateway and the agent's desk know of it.
    pub(super) async fn settled(self, mut report: AttemptReport, told: Told) -> AttemptReport {
        let Self { seat, broker, gateway, attempt_dir } = self;
        seat.pool().clone_into(&mut report.pool);
        let is_limited = report.outcome == Outcome::RateLimited;
        let is_long = report.retry_after.is_some_and(|wait| wait > LONGEST_THROTTLE);
        if gateway.is_none() && is_limited && is_long && told.window.is_none() {
            seat.signal(&told.model, &exhausted(report.retry_after, "", &report.detail));
        }
        let tally = seat.leave();
        let report = worded(report, &tally, &told, BootMillis::now());
        if gateway.is_none() {
            return report;
        }
        let billed =
            tokio::task::spawn_blocking(move || bill::of(&attempt_dir, &tally, &broker.prices())).await;
        match billed.map_err(std::io::Error::other).flatten() {
            Ok(bill) => with_bill(report, &told, bill),
            Err(error) => {
                tracing::error!(%error, "what the gateway counted cannot be read");
                report
            }
        }
    }
}

/// The CLI's own figures hold where it gave them to the end; else every request that its gateway saw end is known exactly.
fn with_bill(mut report: AttemptReport, told: &Told, bill: Bill) -> AttemptReport {
    report.api_requests = bill.requests;
    // Of one that asked somebody else the gateway knows nothing.
    if told.billed || bill.requests == 0 {
        return report;
    }
    // The CLI may have told of an answer that the gateway did not live to enter.
    if !told.lost || bill.usage.cost_micro_usd >= report.usage.cost_micro_usd {
        report.usage = bill.usage;
    }
    report.usage.estimated |= told.lost;
    report
}

/// The ending in the words of whoever refused its requests: the CLI only knows that somebody did.
fn worded(mut report: AttemptReport, tally: &Tally, told: &Told, now: BootMillis) -> AttemptReport {
    let is_refusal = matches!(report.outcome, Outcome::ApiError | Outcome::RateLimited | Outcome::Budget);
    match &tally.refusal {
        Some(Refusal::Budget(budget)) if is_refusal => {
            report.outcome = Outcome::Budget;
            report.detail = shorten(format!("the budget is spent: {budget}"), LONGEST_DETAIL);
            report.retry_after = None;
            return report;
        }
        Some(Refusal::Exhausted { window, until }) if is_refusal && report.outcome != Outcome::Budget => {
            report.outcome = Outcome::RateLimited;
            report.retry_after = Some(until.since(now));
            let what =
                if window.is_empty() { "a usage window".to_owned() } else { format!("the window {window}") };
            report.detail = format!(
                "{what} of credential pool {} is used up; the conversation goes on when it is reset",
                report.pool
            );
            report.limit =
                Some(LimitHit { pool: report.pool.clone(), window: window.clone(), exhausted: true });
            return report;
        }
        Some(Refusal::Budget(_) | Refusal::Exhausted { .. }) | None => {}
    }
    if report.outcome != Outcome::RateLimited || report.pool.is_empty() {
        return report;
    }
    let is_long = report.retry_after.is_some_and(|wait| wait > LONGEST_THROTTLE);
    let window = told.window.clone().or_else(|| tally.shut.as_ref().map(|(window, _)| window.clone()));
    // The API told the gateway for how long; the CLI only says that it gave up.
    if let Some((_, until)) = tally.shut.as_ref().filter(|_| told.window.is_none()) {
        report.retry_after = Some(until.since(now));
    }
    report.limit = Some(LimitHit {
        pool: report.pool.clone(),
        exhausted: is_long || window.is_some(),
        window: window.unwrap_or_default(),
    });
    report
}

fn exhausted(retry_after: Option<Duration>, window: &str, detail: &str) -> DirectSignal {
    DirectSignal {
        kind: SignalKind::Exhausted,
        retry_after,
        window: window.to_owned(),
        detail: shorten(detail.to_owned(), 400),
    }
}

/// Follows the CLI through its event lines.
pub(super) struct ClaudeWatcher<'a> {
    observer: Observer,
    direct: Option<Direct<'a>>,
}

impl ClaudeWatcher<'_> {
    pub(super) fn finish(self) -> Facts {
        self.observer.finish()
    }
}

impl Watcher for ClaudeWatcher<'_> {
    fn stdout(&mut self, bytes: &[u8]) -> Vec<Action> {
        let actions = self.observer.push(bytes);
        if let Some(direct) = &mut self.direct {
            direct.look(self.observer.facts());
        }
        actions
    }

    fn stopping(&mut self) {
        self.observer.stopping();
    }

    fn describe(&self, live: &mut Live) {
        self.observer.describe(live);
    }
}

/// Tells the desk what the events of an attempt without a gateway tell: a few calls late, because the CLI speaks of a call
/// when it has been made.
struct Direct<'a> {
    seat: &'a Seat,
    said: Said,
}

/// What was said last.
#[derive(Debug, Default, PartialEq, Eq)]
struct Said {
    micro_usd: u64,
    /// Attempt number of the wait, and when.
    retry: Option<(u64, u64)>,
    limit: Option<RateLimit>,
}

impl Direct<'_> {
    fn look(&mut self, facts: &Facts) {
        let micro_usd = facts.ledger.spent_micro_usd();
        if micro_usd != self.said.micro_usd {
            self.said.micro_usd = micro_usd;
            self.seat.spent(micro_usd, facts.ledger.spent_tokens());
        }
        if facts.ledger.has_cached() {
            self.seat.warmed();
        }
        let model = facts.init.as_ref().and_then(|init| init.model.as_deref()).unwrap_or_default();
        let retry = facts.retry.as_ref().map(|retry| (retry.attempt, retry.delay_ms));
        if retry != self.said.retry {
            self.said.retry = retry;
            let throttled = facts.retry.as_ref().filter(|retry| retry.status == Some(429));
            if let Some(throttled) = throttled {
                let retry_after = Some(Duration::from_millis(throttled.delay_ms));
                let detail = "the CLI waits to ask again (status 429)".to_owned();
                let kind = SignalKind::Throttled;
                self.seat.signal(model, &DirectSignal { kind, retry_after, window: String::new(), detail });
            }
        }
        if facts.rate_limit != self.said.limit {
            self.said.limit.clone_from(&facts.rate_limit);
            if let Some(limit) = facts.rate_limit.as_ref().filter(|limit| limit.status == "rejected") {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
                let left = limit.resets_at.map(|at| Duration::from_secs(at.saturating_sub(now)));
                self.seat
                    .signal(model, &exhausted(left, &limit.window, "the subscription's window is used up"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::Usage;

    fn ended(outcome: Outcome, retry_after: Option<u64>) -> AttemptReport {
        let retry_after = retry_after.map(Duration::from_secs);
        AttemptReport {
            retry_after,
            pool: "team".to_owned(),
            ..AttemptReport::of(outcome, "the CLI said so")
        }
    }

    fn hit(report: &AttemptReport) -> Option<(&str, bool)> {
        report.limit.as_ref().map(|hit| (hit.window.as_str(), hit.exhausted))
    }

    const NOW: BootMillis = BootMillis(1_000);

    #[test]
    fn a_refused_budget_names_the_ending_unless_the_work_was_done_or_ended_otherwise() {
        let tally = Tally { refusal: Some(Refusal::Budget("b".to_owned())), ..Tally::default() };
        for (was, is) in [
            (Outcome::ApiError, Outcome::Budget),
            (Outcome::RateLimited, Outcome::Budget),
            (Outcome::Budget, Outcome::Budget),
            (Outcome::Ok, Outcome::Ok),
            (Outcome::Cancelled, Outcome::Cancelled),
        ] {
            let report = worded(ended(was, Some(61)), &tally, &Told::default(), NOW);
            assert_eq!((report.outcome, report.detail.contains("spent: b")), (is, is == Outcome::Budget));
        }
    }

    #[test]
    fn a_window_parks_with_its_time_and_a_throttle_does_not() {
        let refusal = Refusal::Exhausted { window: "five_hour".to_owned(), until: BootMillis(6_000) };
        let refused = Tally { refusal: Some(refusal), ..Tally::default() };
        let report = worded(ended(Outcome::RateLimited, Some(61)), &refused, &Told::default(), NOW);
        assert_eq!(
            (hit(&report), report.retry_after),
            (Some(("five_hour", true)), Some(Duration::from_secs(5)))
        );
        let shut = Tally { shut: Some(("five_hour".to_owned(), BootMillis(3_000))), ..Tally::default() };
        let report = worded(ended(Outcome::RateLimited, Some(61)), &shut, &Told::default(), NOW);
        assert_eq!(
            (hit(&report), report.retry_after),
            (Some(("five_hour", true)), Some(Duration::from_secs(2)))
        );
        let said = Told { window: Some("seven_day".to_owned()), ..Told::default() };
        let report = worded(ended(Outcome::RateLimited, Some(9)), &Tally::default(), &said, NOW);
        assert_eq!(
            (hit(&report), report.retry_after),
            (Some(("seven_day", true)), Some(Duration::from_secs(9)))
        );
        let short = worded(ended(Outcome::RateLimited, Some(38)), &Tally::default(), &Told::default(), NOW);
        assert_eq!(hit(&short), Some(("", false)));
        let gave_up = worded(ended(Outcome::RateLimited, Some(61)), &Tally::default(), &Told::default(), NOW);
        assert_eq!(hit(&gave_up), Some(("", true)));
        assert_eq!(hit(&worded(ended(Outcome::Ok, None), &shut, &Told::default(), NOW)), None);
    }

    #[test]
    fn the_figures_of_a_cli_that_was_heard_to_the_end_hold() {
        let usage = |cost_micro_usd, estimated| Usage { cost_micro_usd, estimated, ..Usage::default() };
        let bill = || Bill { usage: usage(7, false), requests: 3 };
        let report = || AttemptReport { usage: usage(5, true), ..ended(Outcome::Timeout, None) };
        let cut = with_bill(report(), &Told::default(), bill());
        assert_eq!((cut.usage, cut.api_requests), (usage(7, false), 3));
        let heard = with_bill(report(), &Told { billed: true, ..Told::default() }, bill());
        assert_eq!((heard.usage, heard.api_requests), (usage(5, true), 3));
        let around = with_bill(report(), &Told::default(), Bill::default());
        assert_eq!(around.usage, usage(5, true));
        let lost = with_bill(report(), &Told { lost: true, ..Told::default() }, bill());
        assert_eq!(lost.usage, usage(7, true), "nobody knows what was in flight");
    }
}
