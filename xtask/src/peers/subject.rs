//! What is measured: this system, its peers, the machine; what an acknowledgement of each means, which rows each has, and why
//! it lacks the others. Refuses to know how a server is started.

/// One row of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Row {
    /// Tasks that do nothing.
    Noop,
    /// Tasks that start and wait for one `true`.
    Spawn,
    /// A lone task.
    Latency,
    /// Single submits by 64 clients, without workers.
    Submit,
    /// Memory of the server with a full queue, without workers.
    Memory,
}

impl Row {
    /// The rows in the order of the tables.
    pub(super) const ALL: [Self; 5] = [Self::Noop, Self::Spawn, Self::Latency, Self::Submit, Self::Memory];

    /// Its name in the results, and that of the client's row that makes it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Noop => "noop",
            Self::Spawn => "spawn",
            Self::Latency => "latency",
            Self::Submit => "submit",
            Self::Memory => "memory",
        }
    }
}

/// How many of each.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counts {
    pub(super) noop: u32,
    pub(super) spawn: u32,
    pub(super) latency: u32,
    pub(super) submit: u32,
    pub(super) queued: u32,
    /// Of `orchctl bench`: agents that connect and stay idle.
    pub(super) agents: u32,
    /// Of `orchctl bench`: for how long, in seconds.
    pub(super) hold: u32,
    /// Of `orchctl bench`: watchers of one run.
    pub(super) watchers: u32,
    /// Of `orchctl bench`: tasks of the run that is watched, paced at 1,000 a second.
    pub(super) watched: u32,
    /// Starts of `orchctl status`.
    pub(super) starts: u32,
    /// What the counts of the limits are divided by.
    pub(super) divisor: u32,
}

impl Counts {
    /// What the documentation reports.
    pub(super) const fn full() -> Self {
        Self {
            noop: 10_000,
            spawn: 2_000,
            latency: 200,
            submit: 10_000,
            queued: 100_000,
            agents: 1_000,
            hold: 15,
            watchers: 500,
            watched: 10_000,
            starts: 50,
            divisor: 1,
        }
    }

    /// Enough to see that everything is called as it should be.
    pub(super) const fn tiny() -> Self {
        Self {
            noop: 300,
            spawn: 40,
            latency: 10,
            submit: 128,
            queued: 1_000,
            agents: 10,
            hold: 1,
            watchers: 10,
            watched: 200,
            starts: 3,
            divisor: 100,
        }
    }

    pub(super) const fn of(&self, row: Row) -> u32 {
        match row {
            Row::Noop => self.noop,
            Row::Spawn => self.spawn,
            Row::Latency => self.latency,
            Row::Submit => self.submit,
            Row::Memory => self.queued,
        }
    }
}

/// A server of somebody else's, with what it is set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    Beanstalkd { sync: bool },
    JetStream,
    BullMq { sync: bool },
    Graphile { tuned: bool },
    Celery,
    HyperQueue,
}

/// Who is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum System {
    Limits,
    Ours,
    Peer(Peer),
}

/// A line of the tables.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) key: &'static str,
    pub(super) title: &'static str,
    /// What an acknowledgement means.
    pub(super) acknowledged: &'static str,
    pub(super) rows: &'static [Row],
    /// Why the other rows are not measured.
    pub(super) without: &'static str,
    pub(super) system: System,
}

const SYNCED: &str = "synced";

/// Everything there is, in the order in which a round measures it.
pub(super) const SUBJECTS: &[Subject] = &[
    Subject {
        key: "limits",
        title: "limits of the machine",
        acknowledged: "",
        rows: &[],
        without: "",
        system: System::Limits,
    },
    Subject {
        key: "ours",
        title: "orch",
        acknowledged: "synced, submits, leases and results; mTLS",
        rows: &Row::ALL,
        without: "",
        system: System::Ours,
    },
    Subject {
        key: "beanstalkd-fsync",
        title: "beanstalkd -b -f0",
        acknowledged: SYNCED,
        rows: &Row::ALL,
        without: "",
        system: System::Peer(Peer::Beanstalkd { sync: true }),
    },
    Subject {
        key: "beanstalkd",
        title: "beanstalkd",
        acknowledged: "in memory",
        rows: &Row::ALL,
        without: "",
        system: System::Peer(Peer::Beanstalkd { sync: false }),
    },
    Subject {
        key: "nats",
        title: "NATS JetStream, file store",
        acknowledged: "in the page cache",
        rows: &Row::ALL,
        without: "",
        system: System::Peer(Peer::JetStream),
    },
    Subject {
        key: "bullmq-aof",
        title: "BullMQ, Redis `appendfsync always`",
        acknowledged: SYNCED,
        rows: &Row::ALL,
        without: "",
        system: System::Peer(Peer::BullMq { sync: true }),
    },
    Subject {
        key: "bullmq",
        title: "BullMQ, Redis without AOF",
        acknowledged: "in memory",
        rows: &Row::ALL,
        without: "",
        system: System::Peer(Peer::BullMq { sync: false }),
    },
    Subject {
        key: "graphile",
        title: "graphile-worker",
        acknowledged: SYNCED,
        rows: &Row::ALL,
        without: "",
        system: System::Peer(Peer::Graphile { tuned: false }),
    },
    Subject {
        key: "graphile-tuned",
        title: "graphile-worker, tuned",
        acknowledged: "synced; completions batched, up to 500 run again",
        rows: &[Row::Noop, Row::Spawn, Row::Latency],
        without: "submits and memory are those of graphile-worker: only the worker is tuned",
        system: System::Peer(Peer::Graphile { tuned: true }),
    },
    Subject {
        key: "celery",
        title: "Celery, Redis `appendfsync always`, acks late",
        acknowledged: SYNCED,
        rows: &[Row::Noop, Row::Spawn, Row::Latency, Row::Memory],
        without: "64 of its clients in one process would measure Python's lock",
        system: System::Peer(Peer::Celery),
    },
    Subject {
        key: "hyperqueue",
        title: "HyperQueue --journal, 2 workers",
        acknowledged: "submits synced, results each 30 s",
        rows: &[Row::Spawn, Row::Latency, Row::Memory],
        without: "its task is always a process, and its client a new one for each submit",
        system: System::Peer(Peer::HyperQueue),
    },
];
