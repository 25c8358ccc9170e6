//! What a gateway says, entered at the desk. Knows requests; decides nothing about them.

use super::{Amounts, Desk, Flight, MeterKey, Place, class, difference, sum, worst};
use crate::boottime::BootMillis;
use crate::gateway::wire::{Ask, Command, Event, Headers, ModelTotal, Tokens};
use crate::limits::learned::counted_input;
use crate::runner::AttemptKey;

impl Desk {
    /// The gateway of an attempt said something.
    pub fn heard(&mut self, key: AttemptKey, event: Event, now: BootMillis) {
        if !self.attempts.contains_key(&key) {
            return;
        }
        match event {
            Event::Hello { totals, in_flight, .. } => self.greeted(key, totals, in_flight, now),
            Event::Ask(ask) => self.asked(key, ask, now),
            Event::Begun { request, tokens, headers } => self.begun(key, request, tokens, headers, now),
            Event::Ended { request, tokens, estimated, status, headers } => {
                self.note_headers(key, request, headers, now);
                self.ended(key, request, (tokens, estimated), status, now);
            }
            Event::Withdrawn { request } => self.withdrawn(key, request, now),
            Event::Signal { kind, model, retry_after_ms, window, detail } => {
                let Some(attempt) = self.attempts.get(&key) else { return };
                let pool = attempt.entry.pool.clone();
                let wait = retry_after_ms.map(std::time::Duration::from_millis);
                self.signalled(&pool, &model, kind, wait, &window, &detail, now);
            }
            Event::Unknown => {}
        }
        self.decide(now);
    }

    /// A gateway is spoken to, for the first time or again: what it says of itself replaces what was known.
    fn greeted(&mut self, key: AttemptKey, totals: Vec<ModelTotal>, in_flight: Vec<Ask>, now: BootMillis) {
        let Some(attempt) = self.attempts.get_mut(&key) else { return };
        attempt.out.clear();
        let before = std::mem::take(&mut attempt.totals);
        attempt.totals = totals.into_iter().map(|total| (total.model.clone(), total)).collect();
        let was_known = std::mem::replace(&mut attempt.greeted, true);
        let known = std::mem::take(&mut attempt.flights);
        let (after, mut gone) = (attempt.totals.clone(), Vec::new());
        for (request, flight) in known {
            let is_in_flight = in_flight.iter().any(|ask| ask.request == request);
            match flight.place {
                Place::Sent if is_in_flight => drop(attempt.flights.insert(request, flight)),
                Place::Sent => {
                    attempt.purse.land(flight.worst);
                    gone.push(flight);
                }
                // They are asked again.
                Place::Queue => attempt.purse.land(flight.worst),
                Place::Purse => {}
            }
        }
        attempt.purse.want_nothing();
        for meter in self.meters.values_mut() {
            meter.turns.retain(|waiting| *waiting != key);
        }
        for flight in gone {
            // What it took is in the new totals, and in those alone.
            let took = before.get(&flight.ask.model).zip(after.get(&flight.ask.model)).filter(|_| was_known);
            let took =
                took.map(|(before, after)| difference(before.tokens, after.tokens)).unwrap_or_default();
            let took =
                Amounts { requests: 1, input: counted_input(took), output: took.output, concurrent: 0 };
            self.settle(&flight, took, now);
        }
        for ask in in_flight {
            self.let_go_before(key, ask, now);
        }
        self.reckon(key, now);
    }

    /// A request that a former process of the agent, or a session that is over, let go: it holds no credit.
    fn let_go_before(&mut self, key: AttemptKey, ask: Ask, now: BootMillis) {
        let Some(flight) = self.flight(key, &ask, now) else { return };
        let Some(attempt) = self.attempts.get_mut(&key) else { return };
        if attempt.flights.contains_key(&ask.request) {
            return;
        }
        attempt.purse.fly(flight.worst);
        let flight = Flight { place: Place::Sent, amounts: Amounts::default(), ..flight };
        attempt.flights.insert(ask.request, flight);
    }

    fn asked(&mut self, key: AttemptKey, ask: Ask, now: BootMillis) {
        let Some(flight) = self.flight(key, &ask, now) else { return };
        let Some(attempt) = self.attempts.get_mut(&key) else { return };
        match attempt.flights.get(&ask.request).map(|flight| flight.place) {
            // The word did not arrive.
            Some(Place::Sent) => self.tell(key, Command::Go { request: ask.request }),
            Some(Place::Purse | Place::Queue) => {}
            None => drop(attempt.flights.insert(ask.request, flight)),
        }
    }

    fn flight(&self, key: AttemptKey, ask: &Ask, asked: BootMillis) -> Option<Flight> {
        let entry = &self.attempts.get(&key)?.entry;
        let meter = MeterKey {
            pool: entry.pool.clone(),
            class: class(&self.prices, &ask.model),
            worker: entry.worker.clone(),
        };
        let learned = self.meters.get(&meter).map(|meter| meter.learned).unwrap_or_default();
        let (amounts, worst) = (learned.need(ask), worst(&self.prices, ask));
        Some(Flight {
            ask: ask.clone(),
            meter,
            worst,
            amounts,
            place: Place::Purse,
            begun: None,
            asked,
            session: None,
        })
    }

    fn begun(&mut self, key: AttemptKey, request: u64, tokens: Tokens, headers: Headers, now: BootMillis) {
        let Some(attempt) = self.attempts.get_mut(&key) else { return };
        let Some(flight) = attempt.flights.get_mut(&request) else { return };
        if flight.begun.replace(tokens).is_none() {
            let held = Amounts { output: 0, concurrent: 0, ..flight.amounts };
            let took = Amounts {
                input: counted_input(tokens),
                requests: held.requests.min(1),
                ..Amounts::default()
            };
            flight.amounts = flight.amounts.minus(held);
            let meter = self.meters.entry(flight.meter.clone()).or_default();
            meter.learned.had_input(&flight.ask, tokens);
            if flight.session == Some(self.session) {
                meter.credit.settle(held, took);
                meter.due.later(now);
            }
        }
        if tokens.cache_read + tokens.cache_write > 0 && !std::mem::replace(&mut attempt.warmed, true) {
            self.warmed.insert(key);
        }
        let meter = flight.meter.clone();
        self.answered(&meter, now);
        self.note_headers(key, request, headers, now);
    }

    fn ended(
        &mut self,
        key: AttemptKey,
        request: u64,
        (tokens, estimated): (Tokens, bool),
        status: u16,
        now: BootMillis,
    ) {
        let Some(attempt) = self.attempts.get_mut(&key) else { return };
        let Some(flight) = attempt.flights.remove(&request) else { return };
        if flight.place == Place::Queue {
            // Nobody let it go, so nothing of it was counted.
            for meter in self.meters.values_mut() {
                meter.turns.retain(|waiting| *waiting != key);
            }
        }
        if flight.place != Place::Purse {
            attempt.purse.land(flight.worst);
        }
        let total = attempt.totals.entry(flight.ask.model.clone()).or_default();
        total.model.clone_from(&flight.ask.model);
        total.tokens = sum(total.tokens, tokens);
        total.requests += 1;
        total.sub_agent_requests += u64::from(flight.ask.sub_agent);
        total.estimated_requests += u64::from(estimated);
        let is_answer = (200..300).contains(&status);
        let meter = self.meters.entry(flight.meter.clone()).or_default();
        if is_answer {
            meter.learned.had_output(tokens.output);
            if flight.begun.is_none() {
                meter.learned.had_input(&flight.ask, tokens);
            }
        }
        let seen = flight.begun.unwrap_or_default();
        let took = Amounts {
            requests: flight.amounts.requests,
            input: counted_input(tokens).saturating_sub(counted_input(seen)),
            output: tokens.output,
            concurrent: 0,
        };
        self.settle(&flight, took, now);
        if is_answer {
            self.answered(&flight.meter, now);
            if tokens.cache_read + tokens.cache_write > 0
                && let Some(attempt) = self.attempts.get_mut(&key)
                && !std::mem::replace(&mut attempt.warmed, true)
            {
                self.warmed.insert(key);
            }
        }
        self.reckon(key, now);
    }

    fn withdrawn(&mut self, key: AttemptKey, request: u64, now: BootMillis) {
        let Some(attempt) = self.attempts.get_mut(&key) else { return };
        let Some(flight) = attempt.flights.remove(&request) else { return };
        match flight.place {
            Place::Purse => attempt.purse.want_nothing(),
            Place::Queue | Place::Sent => attempt.purse.land(flight.worst),
        }
        if flight.place == Place::Sent {
            // The word to go and the hang-up crossed: the API was never asked.
            self.settle(&flight, Amounts::default(), now);
        }
        self.forget_turn(key, &flight.meter);
        self.spending_changed(key, now);
    }
}
