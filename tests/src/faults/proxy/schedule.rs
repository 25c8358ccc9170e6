//! Faults in an order that looks random and is the same for the same seed. Every kind comes once before one comes again, so
//! that a run of some length meets them all.

use super::{Fault, Proxy, Way};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use std::time::{Duration, Instant};

/// One thing to do to a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// A fault of bytes for a time.
    Bytes(Option<Way>, Fault, Duration),
    /// All connections.
    Reset,
    /// One direction of all connections.
    HalfClose(Way),
}

/// Shortest and longest time of a fault, and of the peace after it, in milliseconds.
const SPAN_MS: std::ops::RangeInclusive<u64> = 100..=1_500;

/// An endless list of acts with the peace after each.
#[derive(Debug)]
pub struct Schedule {
    rng: StdRng,
    ahead: Vec<Act>,
}

impl Schedule {
    /// The schedule of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), ahead: Vec::new() }
    }

    /// The next act, and how long to leave the proxy alone after it.
    pub fn next_act(&mut self) -> (Act, Duration) {
        if self.ahead.is_empty() {
            self.ahead = self.round();
        }
        let act = self.ahead.pop().unwrap_or(Act::Reset);
        (act, self.span())
    }

    fn span(&mut self) -> Duration {
        Duration::from_millis(self.rng.random_range(SPAN_MS))
    }

    fn way(&mut self) -> Way {
        if self.rng.random() { Way::Up } else { Way::Down }
    }

    fn round(&mut self) -> Vec<Act> {
        let delay = Fault::Delay(Duration::from_millis(self.rng.random_range(5..=200)));
        let drip = Fault::Drip { bytes: self.rng.random_range(1..=64), every: Duration::from_millis(1) };
        let mut round = vec![Act::Reset, Act::HalfClose(self.way())];
        for (fault, one_way) in [
            (delay, false),
            (Fault::Stall, true),
            (Fault::Stall, false),
            (Fault::BlackHole, true),
            (Fault::BlackHole, false),
            (drip, true),
        ] {
            let way = one_way.then(|| self.way());
            round.push(Act::Bytes(way, fault, self.span()));
        }
        round.shuffle(&mut self.rng);
        round
    }
}

/// Does what the schedule of `seed` says for `time`, then heals.
pub async fn torment(proxy: &Proxy, seed: u64, time: Duration) {
    let mut schedule = Schedule::new(seed);
    let began = Instant::now();
    while began.elapsed() < time {
        let (act, peace) = schedule.next_act();
        match act {
            Act::Reset => proxy.reset(),
            Act::HalfClose(way) => proxy.half_close(way),
            Act::Bytes(way, fault, span) => {
                match way {
                    Some(way) => proxy.set(way, fault),
                    None => proxy.set_both(fault),
                }
                tokio::time::sleep(span).await;
                proxy.heal();
            }
        }
        tokio::time::sleep(peace).await;
    }
    proxy.heal();
}
