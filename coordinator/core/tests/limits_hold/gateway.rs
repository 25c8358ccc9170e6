//! An agent as the coordinator meets it: it lets requests go for which it has credit, and says what became of that.

use orch_core::ids::SessionId;
use orch_core::limits::{Amounts, LimitHeaders, LimitReport, MeterId, PoolNotice, PoolState};
use std::collections::VecDeque;

/// A request of a conversation: what it takes and what is thought that it takes.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    pub conversation: u32,
    pub input: u64,
    pub output: u64,
    pub need: Amounts,
}

fn plus(a: Amounts, b: Amounts) -> Amounts {
    zip(a, b, u64::saturating_add)
}

fn minus(a: Amounts, b: Amounts) -> Amounts {
    zip(a, b, u64::saturating_sub)
}

fn least(a: Amounts, b: Amounts) -> Amounts {
    zip(a, b, u64::min)
}

fn zip(a: Amounts, b: Amounts, with: impl Fn(u64, u64) -> u64) -> Amounts {
    Amounts {
        requests: with(a.requests, b.requests),
        input: with(a.input, b.input),
        output: with(a.output, b.output),
        concurrent: with(a.concurrent, b.concurrent),
    }
}

#[derive(Debug)]
pub struct Gateway {
    pub session: SessionId,
    granted: Amounts,
    used: Amounts,
    returned: Amounts,
    held: Amounts,
    debt: Amounts,
    metered: bool,
    paused_until: u64,
    waiting: VecDeque<Request>,
    headers: Option<LimitHeaders>,
}

impl Gateway {
    pub fn new(session: SessionId) -> Self {
        Self {
            session,
            granted: Amounts::default(),
            used: Amounts::default(),
            returned: Amounts::default(),
            held: Amounts::default(),
            debt: Amounts::default(),
            metered: false,
            paused_until: 0,
            waiting: VecDeque::new(),
            headers: None,
        }
    }

    fn free(&self) -> Amounts {
        minus(minus(minus(self.granted, self.used), self.returned), self.held)
    }

    fn pay(&mut self) {
        let paid = least(self.debt, self.free());
        self.used = plus(self.used, paid);
        self.debt = minus(self.debt, paid);
    }

    pub fn credit(&mut self, granted: Amounts) {
        self.granted = zip(self.granted, granted, u64::max);
        self.pay();
    }

    pub fn told(&mut self, notice: &PoolNotice, now: u64) {
        self.metered = notice.metered;
        let left = notice.left.map_or(0, |left| left.0);
        self.paused_until = if notice.state == PoolState::Open { 0 } else { now + left };
    }

    pub fn wait(&mut self, request: Request) {
        self.waiting.push_back(request);
    }

    pub fn paused_until(&self) -> u64 {
        self.paused_until
    }

    /// The next request that may go now.
    pub fn go(&mut self, now: u64) -> Option<Request> {
        if now < self.paused_until {
            return None;
        }
        let next = *self.waiting.front()?;
        if self.metered {
            let free = self.free();
            if least(free, next.need) != next.need {
                return None;
            }
            self.held = plus(self.held, next.need);
        }
        self.waiting.pop_front()
    }

    /// It was refused: nothing was taken.
    pub fn refused(&mut self, request: Request, wait: u64, now: u64) {
        self.held = minus(self.held, request.need);
        self.paused_until = self.paused_until.max(now + wait);
        self.waiting.push_front(request);
    }

    /// The answer began: the input is known.
    pub fn begun(&mut self, request: Request, headers: Option<LimitHeaders>) {
        let part = Amounts { output: 0, concurrent: 0, ..request.need };
        self.held = minus(self.held, part);
        self.debt = plus(self.debt, Amounts { requests: 1, input: request.input, ..Amounts::default() });
        self.headers = headers.or(self.headers);
        self.pay();
    }

    /// It ended: the output is known.
    pub fn ended(&mut self, request: Request) {
        let part = Amounts { requests: 0, input: 0, ..request.need };
        self.held = minus(self.held, part);
        self.debt = plus(self.debt, Amounts { output: request.output, concurrent: 1, ..Amounts::default() });
        self.pay();
    }

    /// Credit that nobody waits for goes back.
    pub fn give_back(&mut self) -> bool {
        let back = if self.waiting.is_empty() { self.free() } else { Amounts::default() };
        self.returned = plus(self.returned, back);
        back != Amounts::default()
    }

    pub fn report(&mut self) -> LimitReport {
        let need = self.waiting.iter().fold(Amounts::default(), |sum, request| plus(sum, request.need));
        LimitReport {
            meter: MeterId { pool: "team".into(), model_class: "opus".into(), worker: "marie".into() },
            granted: self.granted,
            used: self.used,
            returned: self.returned,
            wanted: minus(plus(need, self.debt), self.free()),
            waiting: self.waiting.len() as u32,
            headers: self.headers.take(),
        }
    }
}
