//! Names for things, as small as they can be: the core never compares strings on a hot path.
//! Knows nothing of what the things are.

use std::fmt;

macro_rules! id {
    ($(#[doc = $doc:literal] $name:ident($inner:ty);)+) => {
        $(
            #[doc = $doc]
            #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
            pub struct $name(pub $inner);

            impl fmt::Display for $name {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    self.0.fmt(f)
                }
            }
        )+
    };
}

id! {
    /// A tenant. `default` is 1; 0 is reserved for records of the whole cluster.
    TenantId(u32);
    /// A run: dense, rising, never reused.
    RunId(u64);
    /// A task within its run, from 0.
    TaskIndex(u32);
    /// An attempt of a task, from 1; 0 means none yet. Rises with every grant.
    AttemptNo(u32);
    /// An agent, interned for the life of the coordinator process.
    AgentKey(u32);
    /// A set of requirements, interned for the life of the coordinator process.
    ClassId(u32);
    /// One stream of an agent, numbered by the engine.
    SessionId(u64);
    /// Whom to answer; made by the engine, opaque here.
    Token(u64);
    /// Generation of the coordinator: rises, durably, at every start.
    Epoch(u64);
    /// Sequence number of a durable event, from 1.
    EventSeq(u64);
}

/// A task anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskKey {
    /// Its run.
    pub run: RunId,
    /// Its place in the run.
    pub index: TaskIndex,
}

/// An attempt anywhere: the fence token. Nothing an agent says counts without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptKey {
    /// Its task.
    pub task: TaskKey,
    /// Its number.
    pub attempt: AttemptNo,
}

impl fmt::Display for TaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.run, self.index)
    }
}

impl fmt::Display for AttemptKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.task, self.attempt)
    }
}
