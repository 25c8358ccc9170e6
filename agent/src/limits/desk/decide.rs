//! The decisions of the desk: which of the waiting requests go now, and which never will. Made anew after everything that
//! happens; knows no message.

use super::{Amounts, Attempt, Command, Desk, Flight, MeterKey, Place, Refusal};
use crate::boottime::BootMillis;
use crate::gateway::wire::ASK_AGAIN;
use crate::limits::purse::Admission;
use crate::limits::standing::{Gate, Standing};
use crate::runner::AttemptKey;
use std::time::Duration;

/// How long requests of a metered pool wait for credit while there is no coordinator. Then they go without, and only what
/// the API says to this agent slows them down: work is not to stand still as long as a coordinator does.
pub(super) const ALONE_LIMIT: Duration = Duration::from_secs(60);

/// How long a request waits for an API that fails to be tried by others. Then it is told that the API fails, as it would have
/// been by the API: the CLI has retries of its own, which pause between them and come to an end, and so does its attempt.
pub(super) const FAILING_LIMIT: Duration = Duration::from_secs(3);

/// Shortest `retry-after` of a window that is used up: the CLI gives up at once what it is asked to wait for longer than a
/// minute.
const LONG_WAIT: u64 = 61;

impl Desk {
    /// Lets go what may go.
    pub(super) fn decide(&mut self, now: BootMillis) {
        let keys: Vec<AttemptKey> = self.attempts.keys().copied().collect();
        for key in keys {
            self.open_purse(key, now);
            self.refuse_failing(key, now);
        }
        let meters: Vec<MeterKey> = self
            .meters
            .iter()
            .filter(|(_, meter)| !meter.turns.is_empty())
            .map(|(key, _)| key.clone())
            .collect();
        for meter in meters {
            self.serve(&meter, now);
        }
    }

    /// Requests that wait for the purse of their attempt, in the order in which they were asked.
    fn open_purse(&mut self, key: AttemptKey, now: BootMillis) {
        loop {
            let Some(attempt) = self.attempts.get(&key) else { return };
            let waiting = attempt.flights.iter().find(|(_, flight)| flight.place == Place::Purse);
            let Some((&request, flight)) = waiting else { return };
            let (meter, worst) = (flight.meter.clone(), flight.worst);
            if self.gate(&meter, now) == Gate::Shut {
                self.refuse_exhausted(key, request, &meter, now);
                continue;
            }
            let Some(attempt) = self.attempts.get_mut(&key) else { return };
            match attempt.purse.admit(worst) {
                Admission::Go => self.queue(key, request, &meter, now),
                Admission::Wait { ask } => {
                    if ask {
                        attempt.due.soon(now);
                    }
                    return;
                }
                Admission::Spent(budget) => self.refuse_spent(key, request, budget),
            }
        }
    }

    fn queue(&mut self, key: AttemptKey, request: u64, meter: &MeterKey, now: BootMillis) {
        if let Some(attempt) = self.attempts.get_mut(&key) {
            if let Some(flight) = attempt.flights.get_mut(&request) {
                flight.place = Place::Queue;
            }
            if attempt.purse.is_counted() {
                attempt.due.later(now);
            }
        }
        let desk = self.meters.entry(meter.clone()).or_default();
        if !desk.turns.contains(&key) {
            desk.turns.push_back(key);
        }
        if !meter.pool.is_empty() {
            desk.due.soon(now);
        }
    }

    /// Requests that wait for the credit of a meter: one of each attempt in turn. Nobody overtakes whom the credit does not
    /// suffice for, or a long request would wait for ever.
    fn serve(&mut self, meter: &MeterKey, now: BootMillis) {
        while let Some(&key) = self.meters.get(meter).and_then(|desk| desk.turns.front()) {
            let Some(request) = self.first_queued(key, meter) else {
                self.forget_turn(key, meter);
                continue;
            };
            match self.gate(meter, now) {
                Gate::Held => return,
                Gate::Shut => {
                    if let Some(attempt) = self.attempts.get_mut(&key)
                        && let Some(flight) = attempt.flights.get(&request)
                    {
                        attempt.purse.land(flight.worst);
                    }
                    self.refuse_exhausted(key, request, meter, now);
                    continue;
                }
                Gate::Probe if self.sent(&meter.pool, "") > 0 => return,
                Gate::Probe | Gate::Open => {}
            }
            if !self.send(key, request, meter, now) {
                return;
            }
        }
    }

    /// Lets a request go, if there is room or credit for it.
    fn send(&mut self, key: AttemptKey, request: u64, meter: &MeterKey, now: BootMillis) -> bool {
        let needs_credit = self.needs_credit(meter, now);
        if !needs_credit && self.pace(meter).is_some_and(|pace| self.sent(&meter.pool, &meter.class) >= pace)
        {
            return false;
        }
        let session = self.session;
        let Some(desk) = self.meters.get_mut(meter) else { return false };
        let Some(flight) = self.attempts.get_mut(&key).and_then(|attempt| attempt.flights.get_mut(&request))
        else {
            return false;
        };
        // What was learned since it was asked may be less.
        flight.amounts = desk.learned.need(&flight.ask);
        if needs_credit {
            if !desk.credit.hold(flight.amounts) {
                return false;
            }
            flight.session = Some(session);
            desk.due.later(now);
        } else {
            flight.amounts = Amounts::default();
        }
        flight.place = Place::Sent;
        desk.last_used = now;
        desk.turns.rotate_left(1);
        if self.first_queued(key, meter).is_none() {
            self.forget_turn(key, meter);
        }
        self.tell(key, Command::Go { request });
        true
    }

    fn first_queued(&self, key: AttemptKey, meter: &MeterKey) -> Option<u64> {
        let waits = |flight: &Flight| flight.place == Place::Queue && flight.meter == *meter;
        let flights = &self.attempts.get(&key)?.flights;
        flights.iter().find(|(_, flight)| waits(flight)).map(|(request, _)| *request)
    }

    /// Takes an attempt out of the queue of a meter in which nothing of it waits.
    pub(super) fn forget_turn(&mut self, key: AttemptKey, meter: &MeterKey) {
        if self.first_queued(key, meter).is_none()
            && let Some(desk) = self.meters.get_mut(meter)
        {
            desk.turns.retain(|waiting| *waiting != key);
        }
    }

    fn refuse_exhausted(&mut self, key: AttemptKey, request: u64, meter: &MeterKey, now: BootMillis) {
        let (left, window) = self.shut_for(meter, now);
        let seconds = u64::try_from(left.as_millis().div_ceil(1_000)).unwrap_or(u64::MAX);
        let what = if window.is_empty() { "a window".to_owned() } else { format!("the window {window}") };
        let message = format!("{what} of credential pool {} is used up for {seconds} s", meter.pool);
        let Some(attempt) = self.attempts.get_mut(&key) else { return };
        attempt.flights.remove(&request);
        attempt.refusal.get_or_insert_with(|| Refusal::Exhausted { window, until: now.plus(left) });
        self.tell(
            key,
            Command::Refuse {
                request,
                status: 429,
                kind: "rate_limit_error".to_owned(),
                message,
                retry_after_s: Some(seconds.max(LONG_WAIT)),
            },
        );
    }

    /// When the request of an attempt that has waited longest for an API that fails has waited long enough.
    pub(super) fn failing_due(&self) -> Option<BootMillis> {
        let flights = self.attempts.values().flat_map(|attempt| attempt.flights.values());
        let waits = flights.filter(|flight| flight.place == Place::Queue);
        waits.filter_map(|flight| self.failing_until(flight)).min()
    }

    fn failing_until(&self, flight: &Flight) -> Option<BootMillis> {
        let since = self.standings_of(&flight.meter).filter_map(Standing::failing_since).max()?;
        Some(since.max(flight.asked).plus(FAILING_LIMIT))
    }

    /// Requests of an attempt that have waited long enough for an API that fails.
    fn refuse_failing(&mut self, key: AttemptKey, now: BootMillis) {
        let Some(attempt) = self.attempts.get(&key) else { return };
        let late = attempt.flights.iter().filter(|(_, flight)| {
            flight.place == Place::Queue && self.failing_until(flight).is_some_and(|until| until <= now)
        });
        let late: Vec<u64> = late.map(|(request, _)| *request).collect();
        for request in late {
            let Some(attempt) = self.attempts.get_mut(&key) else { return };
            let Some(flight) = attempt.flights.remove(&request) else { continue };
            attempt.purse.land(flight.worst);
            self.forget_turn(key, &flight.meter);
            let message =
                format!("the API fails, and is tried now and then: credential pool {}", flight.meter.pool);
            let (kind, status) = ("api_error".to_owned(), ASK_AGAIN);
            self.tell(key, Command::Refuse { request, status, kind, message, retry_after_s: None });
        }
    }

    fn refuse_spent(&mut self, key: AttemptKey, request: u64, budget: String) {
        let Some(attempt) = self.attempts.get_mut(&key) else { return };
        attempt.flights.remove(&request);
        let message = format!("the budget is spent: {budget}");
        attempt.refuse_for_budget(budget);
        // It may have been a sub-agent's, whose end the CLI takes as an answer like any other: it would go on for ever.
        if !std::mem::replace(&mut attempt.asked_to_stop, true) {
            self.stops.insert(key);
        }
        let kind = "invalid_request_error".to_owned();
        self.tell(key, Command::Refuse { request, status: 400, kind, message, retry_after_s: None });
    }

    /// Something for the gateway of an attempt.
    pub(super) fn tell(&mut self, key: AttemptKey, command: Command) {
        if let Some(attempt) = self.attempts.get_mut(&key) {
            attempt.out.push_back(command);
            self.told.insert(key);
        }
    }

    /// What may be done with requests of a meter: the worse of what holds for its class and for its whole pool.
    pub(super) fn gate(&self, meter: &MeterKey, now: BootMillis) -> Gate {
        self.standings_of(meter).map(|standing| standing.gate(now)).max().unwrap_or(Gate::Open)
    }

    fn shut_for(&self, meter: &MeterKey, now: BootMillis) -> (Duration, String) {
        let shut = self.standings_of(meter).filter(|standing| standing.gate(now) == Gate::Shut);
        let longest = shut.map(|standing| standing.left(now)).max().unwrap_or_default();
        (longest.0, longest.1.to_owned())
    }

    /// The window of a pool that is used up, of whichever class.
    pub(super) fn shut(&self, pool: &str, now: BootMillis) -> Option<(String, BootMillis)> {
        let of_pool = self.standings.iter().filter(|((name, _), _)| name == pool);
        let shut = of_pool.filter(|(_, standing)| standing.gate(now) == Gate::Shut);
        let (left, window) = shut.map(|(_, standing)| standing.left(now)).max()?;
        Some((window.to_owned(), now.plus(left)))
    }

    pub(super) fn standings_of(&self, meter: &MeterKey) -> impl Iterator<Item = &Standing> {
        let of = |class: &str| self.standings.get(&(meter.pool.clone(), class.to_owned()));
        of("").into_iter().chain(of(&meter.class))
    }

    /// Whether requests of a meter wait for credit.
    pub(super) fn needs_credit(&self, meter: &MeterKey, now: BootMillis) -> bool {
        // A coordinator of before knows nothing of credit.
        let gives = match self.protocol {
            Some(protocol) => protocol >= super::session::GIVES_CREDIT,
            None => now.since(self.alone) < ALONE_LIMIT,
        };
        gives && self.standings_of(meter).any(Standing::is_metered)
    }

    fn pace(&self, meter: &MeterKey) -> Option<usize> {
        self.standings_of(meter).filter_map(Standing::pace).min()
    }

    /// Requests of a pool that are going on; of one class, unless that is empty.
    pub(super) fn sent(&self, pool: &str, class: &str) -> usize {
        let flights = self.attempts.values().flat_map(|attempt| attempt.flights.values());
        let counts = |flight: &&Flight| {
            flight.place == Place::Sent
                && flight.meter.pool == pool
                && (class.is_empty() || flight.meter.class == class)
        };
        flights.filter(counts).count()
    }
}

impl Attempt {
    /// A budget goes before a window: it stays spent.
    pub(super) fn refuse_for_budget(&mut self, budget: String) {
        if !matches!(self.refusal, Some(Refusal::Budget(_))) {
            self.refusal = Some(Refusal::Budget(budget));
        }
    }
}
