//! An API that enforces limits to the unit: a request is refused on arrival unless its buckets have what it takes.

use orch_core::limits::LimitHeaders;
use orch_core::time::Span;

/// A bucket that begins full, in sixty-thousandths of a unit.
#[derive(Debug, Clone)]
struct Exact {
    limit: u64,
    level: i128,
}

const PARTS: i128 = 60_000;

impl Exact {
    fn new(limit: u64) -> Self {
        Self { limit, level: i128::from(limit) * PARTS }
    }

    fn refill(&mut self, millis: u64) {
        let full = i128::from(self.limit) * PARTS;
        self.level = (self.level + i128::from(self.limit) * i128::from(millis)).min(full);
    }

    fn left(&self) -> u64 {
        u64::try_from(self.level / PARTS).unwrap_or(0)
    }

    /// How long until it has so much.
    fn wait(&self, amount: u64) -> Option<u64> {
        let lacking = i128::from(amount) * PARTS - self.level;
        (lacking > 0).then(|| u64::try_from(lacking / i128::from(self.limit) + 1).unwrap_or(u64::MAX))
    }

    fn take(&mut self, amount: u64) {
        self.level -= i128::from(amount) * PARTS;
    }
}

/// The API of one credential.
#[derive(Debug, Clone)]
pub struct Api {
    buckets: [Exact; 3],
    at: u64,
    tells: bool,
    pub served: u64,
    pub refused: u64,
    /// Units taken, by bucket.
    pub taken: [u64; 3],
    /// Times the output bucket was overdrawn.
    pub overdrawn: u64,
}

impl Api {
    /// Limits a minute; whether its answers tell them.
    pub fn new(limits: [u64; 3], tells: bool) -> Self {
        let buckets = limits.map(Exact::new);
        Self { buckets, at: 0, tells, served: 0, refused: 0, taken: [0; 3], overdrawn: 0 }
    }

    /// Nothing happened before that.
    pub fn at_start(&mut self, now: u64) {
        self.at = now;
    }

    fn pass(&mut self, now: u64) {
        let millis = now - self.at;
        self.at = now;
        self.buckets.iter_mut().for_each(|bucket| bucket.refill(millis));
    }

    /// A request arrives. Refused: how long to wait.
    pub fn ask(&mut self, now: u64, input: u64) -> Result<(), Span> {
        self.pass(now);
        let waits = [(0, 1), (1, input), (2, 1)].map(|(unit, amount)| self.buckets[unit].wait(amount));
        if let Some(wait) = waits.into_iter().flatten().max() {
            self.refused += 1;
            return Err(Span(wait.div_ceil(1_000).max(1) * 1_000));
        }
        self.buckets[0].take(1);
        self.buckets[1].take(input);
        self.taken[0] += 1;
        self.taken[1] += input;
        self.served += 1;
        Ok(())
    }

    /// An answer ends.
    pub fn end(&mut self, now: u64, output: u64) {
        self.pass(now);
        self.buckets[2].take(output);
        self.taken[2] += output;
        self.overdrawn += u64::from(self.buckets[2].level < 0);
    }

    /// What an answer says: tokens to the nearest thousand.
    pub fn headers(&self) -> Option<LimitHeaders> {
        let rounded = |unit: usize| Some((self.buckets[unit].left() + 500) / 1_000 * 1_000);
        self.tells.then(|| LimitHeaders {
            requests_limit: Some(self.buckets[0].limit),
            requests_remaining: Some(self.buckets[0].left()),
            input_limit: Some(self.buckets[1].limit),
            input_remaining: rounded(1),
            output_limit: Some(self.buckets[2].limit),
            output_remaining: rounded(2),
        })
    }
}
