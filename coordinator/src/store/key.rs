//! Keys: what a record is about, as bytes that sort the way the store is read.
//!
//! ```text
//! tenant u32 | kind u8 | id …        all integers big-endian
//! ```
//!
//! Tenant first, so that one tenant's records lie together and can be exported or deleted as one range. Tenant 0 is
//! the cluster itself: the store's own records, the event log, the audit log. A variable-length id (a name) is always
//! last, so no separator or escaping is needed.
//!
//! This file knows nothing of what a record holds. A new kind is one line in [`Kind`], one constructor, one arm in
//! [`Key::entity`]; an older binary keeps such records and counts them (see [`super::LoadReport::unknown`]).

use std::borrow::Borrow;
use std::fmt;

/// Longest key the store takes, in bytes. Bounds a leaf of the storage engine together with
/// [`super::MAX_VALUE_BYTES`].
pub const MAX_KEY_BYTES: usize = 255;

/// Longest name that can stand in a key, in bytes.
pub const MAX_NAME_BYTES: usize = MAX_KEY_BYTES - HEAD_BYTES;

const HEAD_BYTES: usize = 5;

/// Whose record it is. Digests, names and runs never cross tenants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tenant(u32);

impl Tenant {
    /// The cluster itself; no user's record lies here.
    pub const CLUSTER: Self = Self(0);
    /// The tenant of everybody who names none.
    pub const DEFAULT: Self = Self(1);

    /// The tenant with this number.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The number, as it stands in keys and paths.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What sort of record a key names. The number is stored: never reuse one. It is also the record's type in its frame,
/// so a record that turns up under a key of another kind is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// The store's own record: schema, cluster, epoch, tick.
    Meta = 0x01,
    /// Marker of a commit that a version before the journal wrote in steps. Not written any more.
    Commit = 0x02,
    /// One page of such a commit. Not written any more.
    Staged = 0x03,
    /// A run.
    Run = 0x10,
    /// Some 30 task specifications of a run, packed into one value.
    SpecPage = 0x11,
    /// The state of a task.
    Task = 0x12,
    /// The counter behind `name/number`; outlives the runs of the name.
    Name = 0x13,
    /// What is remembered of an agent.
    Agent = 0x14,
    /// A worker definition, by digest.
    Worker = 0x15,
    /// An idempotency key that no run's record holds, by digest.
    Request = 0x16,
    /// Recorded results that the same work may use again, by digest of the work.
    Cache = 0x17,
    /// What a restore left behind: ids that may have been given out before it.
    Counters = 0x18,
    /// A standing budget and what was spent of it.
    Budget = 0x19,
    /// The events of one batch.
    EventPage = 0x20,
    /// An entry of the audit log.
    Audit = 0x21,
    /// What attempts that ended in one batch have cost.
    Ledger = 0x22,
}

impl Kind {
    /// Every kind this binary knows.
    pub const ALL: [Self; 16] = [
        Self::Meta,
        Self::Commit,
        Self::Staged,
        Self::Run,
        Self::SpecPage,
        Self::Task,
        Self::Name,
        Self::Agent,
        Self::Worker,
        Self::Request,
        Self::Cache,
        Self::Counters,
        Self::Budget,
        Self::EventPage,
        Self::Audit,
        Self::Ledger,
    ];

    /// The kind with this stored number, if this binary knows it.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.byte() == byte)
    }

    /// The stored number.
    pub const fn byte(self) -> u8 {
        self as u8
    }

    /// Whether only the store itself may write records of this kind.
    pub const fn is_store_owned(self) -> bool {
        matches!(self, Self::Meta | Self::Commit | Self::Staged)
    }
}

/// Why bytes are not a key this binary understands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Too short to hold tenant and kind, or too long to be stored.
    #[error("a key has 5 to {MAX_KEY_BYTES} bytes, not {0}")]
    Length(usize),
    /// A kind of a newer binary.
    #[error("record kind {0:#04x} is not known to this version")]
    UnknownKind(u8),
    /// The id behind tenant and kind has the wrong shape.
    #[error("the id of a {0:?} key is malformed")]
    Id(Kind),
    /// A name that is empty or too long for a key.
    #[error("a name in a key has 1 to {MAX_NAME_BYTES} bytes, not {0}")]
    NameLength(usize),
}

/// The key of one record. Sorts as its bytes do.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Box<[u8]>);

impl Key {
    /// Key of a run.
    pub fn run(tenant: Tenant, run: u64) -> Self {
        Self::build(tenant, Kind::Run, &[&run.to_be_bytes()])
    }

    /// Key of page `page` of a run's task specifications.
    pub fn spec_page(tenant: Tenant, run: u64, page: u32) -> Self {
        Self::build(tenant, Kind::SpecPage, &[&run.to_be_bytes(), &page.to_be_bytes()])
    }

    /// Key of a task's state.
    pub fn task(tenant: Tenant, run: u64, task: u32) -> Self {
        Self::build(tenant, Kind::Task, &[&run.to_be_bytes(), &task.to_be_bytes()])
    }

    /// Key of the counter of a run name.
    ///
    /// # Errors
    /// [`KeyError::NameLength`] unless the name has 1 to [`MAX_NAME_BYTES`] bytes.
    pub fn name(tenant: Tenant, name: &str) -> Result<Self, KeyError> {
        Self::named(tenant, Kind::Name, name)
    }

    /// Key of an agent.
    ///
    /// # Errors
    /// [`KeyError::NameLength`] unless the name has 1 to [`MAX_NAME_BYTES`] bytes.
    pub fn agent(tenant: Tenant, name: &str) -> Result<Self, KeyError> {
        Self::named(tenant, Kind::Agent, name)
    }

    /// Key of a standing budget.
    ///
    /// # Errors
    /// [`KeyError::NameLength`] unless the name has 1 to [`MAX_NAME_BYTES`] bytes.
    pub fn budget(tenant: Tenant, name: &str) -> Result<Self, KeyError> {
        Self::named(tenant, Kind::Budget, name)
    }

    /// Key of a worker definition.
    pub fn worker(tenant: Tenant, digest: &[u8; 32]) -> Self {
        Self::build(tenant, Kind::Worker, &[digest])
    }

    /// Key of an idempotency key; the digest is its SHA-256.
    pub fn request(tenant: Tenant, digest: &[u8; 32]) -> Self {
        Self::build(tenant, Kind::Request, &[digest])
    }

    /// Key of recorded results that the same work may use again; the digest is that of the work.
    pub fn cache(tenant: Tenant, digest: &[u8; 32]) -> Self {
        Self::build(tenant, Kind::Cache, &[digest])
    }

    /// Key of what a restore left behind.
    pub fn counters() -> Self {
        Self::build(Tenant::CLUSTER, Kind::Counters, &[])
    }

    /// Key of the event page that starts at sequence `first`.
    pub fn event_page(first: u64) -> Self {
        Self::build(Tenant::CLUSTER, Kind::EventPage, &[&first.to_be_bytes()])
    }

    /// Key of audit entry `sequence`.
    pub fn audit(sequence: u64) -> Self {
        Self::build(Tenant::CLUSTER, Kind::Audit, &[&sequence.to_be_bytes()])
    }

    /// Key of the ledger page with this number, of a day since 1970: days are key ranges, and the number, which is never
    /// used again, keeps pages apart when the wall clock goes back.
    pub fn ledger_page(day: u32, number: u64) -> Self {
        Self::build(Tenant::CLUSTER, Kind::Ledger, &[&day.to_be_bytes(), &number.to_be_bytes()])
    }

    /// Key of the store's own record.
    pub(super) fn meta() -> Self {
        Self::build(Tenant::CLUSTER, Kind::Meta, &[])
    }

    /// Key of the marker of the one commit that a version before the journal may have had under way in steps.
    pub(super) fn commit_marker() -> Self {
        Self::build(Tenant::CLUSTER, Kind::Commit, &[])
    }

    /// The key with these bytes, which may be of a kind this binary does not know.
    ///
    /// # Errors
    /// [`KeyError::Length`] when they cannot be a key at all.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        if bytes.len() < HEAD_BYTES || bytes.len() > MAX_KEY_BYTES {
            return Err(KeyError::Length(bytes.len()));
        }
        Ok(Self(bytes.into()))
    }

    /// The bytes, as stored.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whose record it is.
    pub fn tenant(&self) -> Tenant {
        Tenant(self.0.first_chunk().map_or(0, |head| u32::from_be_bytes(*head)))
    }

    /// The stored number of the kind, known to this binary or not.
    pub fn kind_byte(&self) -> u8 {
        self.0.get(HEAD_BYTES - 1).copied().unwrap_or(0)
    }

    /// The kind, if this binary knows it.
    pub fn kind(&self) -> Option<Kind> {
        Kind::from_byte(self.kind_byte())
    }

    /// What the key names.
    ///
    /// # Errors
    /// [`KeyError::UnknownKind`] or [`KeyError::Id`].
    pub fn entity(&self) -> Result<Entity<'_>, KeyError> {
        let kind = self.kind().ok_or_else(|| KeyError::UnknownKind(self.kind_byte()))?;
        let id = self.0.get(HEAD_BYTES..).unwrap_or(&[]);
        let tenant = self.tenant();
        let entity = match kind {
            Kind::Meta | Kind::Commit | Kind::Staged => Some(Entity::StoreOwned),
            Kind::Run => whole(id).map(|run| Entity::Run { tenant, run: u64::from_be_bytes(run) }),
            Kind::SpecPage => run_and_part(id).map(|(run, page)| Entity::SpecPage { tenant, run, page }),
            Kind::Task => run_and_part(id).map(|(run, task)| Entity::Task { tenant, run, task }),
            Kind::Name => text(id).map(|name| Entity::Name { tenant, name }),
            Kind::Agent => text(id).map(|name| Entity::Agent { tenant, name }),
            Kind::Worker => whole(id).map(|digest| Entity::Worker { tenant, digest }),
            Kind::Request => whole(id).map(|digest| Entity::Request { tenant, digest }),
            Kind::Cache => whole(id).map(|digest| Entity::Cache { tenant, digest }),
            Kind::Counters => Some(Entity::Counters),
            Kind::Budget => text(id).map(|name| Entity::Budget { tenant, name }),
            Kind::EventPage => whole(id).map(|first| Entity::EventPage { first: u64::from_be_bytes(first) }),
            Kind::Audit => whole(id).map(|seq| Entity::Audit { sequence: u64::from_be_bytes(seq) }),
            Kind::Ledger => day_and_number(id).map(|(day, number)| Entity::LedgerPage { day, number }),
        };
        entity.ok_or(KeyError::Id(kind))
    }

    fn named(tenant: Tenant, kind: Kind, name: &str) -> Result<Self, KeyError> {
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            return Err(KeyError::NameLength(name.len()));
        }
        Ok(Self::build(tenant, kind, &[name.as_bytes()]))
    }

    fn build(tenant: Tenant, kind: Kind, id: &[&[u8]]) -> Self {
        Self(head_and(tenant, kind, id).into_boxed_slice())
    }
}

/// A key compares as its bytes, so maps of keys can be searched by raw ranges.
impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

/// The bytes in hexadecimal: a key shows up in error texts and may hold anything.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

/// What a [`Key`] names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "the fields are the arguments of the constructors of Key, which say what they are"
)]
pub enum Entity<'a> {
    /// A record of the store itself.
    StoreOwned,
    /// See [`Key::run`].
    Run { tenant: Tenant, run: u64 },
    /// See [`Key::spec_page`].
    SpecPage { tenant: Tenant, run: u64, page: u32 },
    /// See [`Key::task`].
    Task { tenant: Tenant, run: u64, task: u32 },
    /// See [`Key::name`].
    Name { tenant: Tenant, name: &'a str },
    /// See [`Key::agent`].
    Agent { tenant: Tenant, name: &'a str },
    /// See [`Key::worker`].
    Worker { tenant: Tenant, digest: [u8; 32] },
    /// See [`Key::request`].
    Request { tenant: Tenant, digest: [u8; 32] },
    /// See [`Key::cache`].
    Cache { tenant: Tenant, digest: [u8; 32] },
    /// See [`Key::counters`].
    Counters,
    /// See [`Key::budget`].
    Budget { tenant: Tenant, name: &'a str },
    /// See [`Key::event_page`].
    EventPage { first: u64 },
    /// See [`Key::audit`].
    Audit { sequence: u64 },
    /// See [`Key::ledger_page`].
    LedgerPage { day: u32, number: u64 },
}

/// A range of keys: all that start with the same bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Prefix(Vec<u8>);

impl Prefix {
    /// Every record of every tenant.
    pub fn everything() -> Self {
        Self(Vec::new())
    }

    /// Every record of one kind of one tenant.
    pub fn kind(tenant: Tenant, kind: Kind) -> Self {
        Self(head_and(tenant, kind, &[]))
    }

    /// The specification pages of a run.
    pub fn spec_pages(tenant: Tenant, run: u64) -> Self {
        Self(head_and(tenant, Kind::SpecPage, &[&run.to_be_bytes()]))
    }

    /// The tasks of a run.
    pub fn tasks(tenant: Tenant, run: u64) -> Self {
        Self(head_and(tenant, Kind::Task, &[&run.to_be_bytes()]))
    }

    /// The bytes every key of the range starts with.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The first bytes above the range; none when it reaches to the end of all keys.
    pub(super) fn end(&self) -> Option<Vec<u8>> {
        let last = self.0.iter().rposition(|byte| *byte != u8::MAX)?;
        let mut end = self.0.get(..=last)?.to_vec();
        *end.last_mut()? += 1;
        Some(end)
    }
}

fn head_and(tenant: Tenant, kind: Kind, id: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD_BYTES + id.iter().map(|part| part.len()).sum::<usize>());
    bytes.extend_from_slice(&tenant.0.to_be_bytes());
    bytes.push(kind.byte());
    for part in id {
        bytes.extend_from_slice(part);
    }
    bytes
}

fn whole<const N: usize>(id: &[u8]) -> Option<[u8; N]> {
    id.try_into().ok()
}

fn run_and_part(id: &[u8]) -> Option<(u64, u32)> {
    let (run, part) = id.split_first_chunk()?;
    Some((u64::from_be_bytes(*run), u32::from_be_bytes(whole(part)?)))
}

fn day_and_number(id: &[u8]) -> Option<(u32, u64)> {
    let (day, number) = id.split_first_chunk()?;
    Some((u32::from_be_bytes(*day), u64::from_be_bytes(whole(number)?)))
}

fn text(id: &[u8]) -> Option<&str> {
    if id.is_empty() { None } else { std::str::from_utf8(id).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Tenant = Tenant::DEFAULT;

    #[test]
    fn every_constructor_parses_back_to_what_it_was_given() {
        let digest = [7; 32];
        let check = |key: Key, entity: Entity<'_>| {
            let copy = Key::from_bytes(key.as_bytes()).unwrap();
            assert_eq!(copy.entity(), Ok(entity), "{key:?}");
        };
        check(Key::run(T, 9), Entity::Run { tenant: T, run: 9 });
        check(Key::spec_page(T, 9, 2), Entity::SpecPage { tenant: T, run: 9, page: 2 });
        check(Key::task(T, 9, 3), Entity::Task { tenant: T, run: 9, task: 3 });
        check(Key::name(T, "adhoc").unwrap(), Entity::Name { tenant: T, name: "adhoc" });
        check(Key::agent(T, "box-1").unwrap(), Entity::Agent { tenant: T, name: "box-1" });
        check(Key::worker(T, &digest), Entity::Worker { tenant: T, digest });
        check(Key::request(T, &digest), Entity::Request { tenant: T, digest });
        check(Key::cache(T, &digest), Entity::Cache { tenant: T, digest });
        check(Key::event_page(5), Entity::EventPage { first: 5 });
        check(Key::counters(), Entity::Counters);
        check(Key::budget(T, "nightly").unwrap(), Entity::Budget { tenant: T, name: "nightly" });
        check(Key::audit(6), Entity::Audit { sequence: 6 });
        check(Key::ledger_page(20_413, 8), Entity::LedgerPage { day: 20_413, number: 8 });
        check(Key::meta(), Entity::StoreOwned);
    }

    #[test]
    fn keys_sort_by_tenant_then_kind_then_number() {
        let sorted = [
            Key::meta(),
            Key::event_page(u64::MAX),
            Key::run(T, 255),
            Key::run(T, 256),
            Key::spec_page(T, 1, 0),
            Key::task(T, 1, 255),
            Key::task(T, 1, 256),
            Key::task(T, 2, 0),
            Key::run(Tenant::new(2), 0),
        ];
        assert!(sorted.is_sorted());
    }

    #[test]
    fn what_is_no_key_is_refused_with_its_reason() {
        assert_eq!(Key::from_bytes(&[0; 4]), Err(KeyError::Length(4)));
        assert_eq!(Key::from_bytes(&[0; 256]), Err(KeyError::Length(256)));
        assert_eq!(Key::name(T, ""), Err(KeyError::NameLength(0)));
        assert_eq!(Key::agent(T, &"x".repeat(251)), Err(KeyError::NameLength(251)));
        assert!(Key::agent(T, &"x".repeat(MAX_NAME_BYTES)).is_ok());
        let unknown = Key::from_bytes(&[0, 0, 0, 1, 0xEE]).unwrap();
        assert_eq!(unknown.entity(), Err(KeyError::UnknownKind(0xEE)));
        let short = Key::from_bytes(&[0, 0, 0, 1, Kind::Run.byte(), 1]).unwrap();
        assert_eq!(short.entity(), Err(KeyError::Id(Kind::Run)));
        let not_text = Key::from_bytes(&[0, 0, 0, 1, Kind::Name.byte(), 0xFF]).unwrap();
        assert_eq!(not_text.entity(), Err(KeyError::Id(Kind::Name)));
    }

    #[test]
    fn stored_numbers_of_kinds_are_distinct() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_byte(kind.byte()), Some(kind));
        }
    }

    #[test]
    fn a_prefix_ends_right_behind_its_last_key() {
        let tasks = Prefix::tasks(T, 1);
        let end = tasks.end().unwrap();
        assert!(Key::task(T, 1, u32::MAX).as_bytes() < end.as_slice());
        assert!(Key::task(T, 2, 0).as_bytes() >= end.as_slice());
        assert_eq!(Prefix::everything().end(), None);
        assert_eq!(Prefix(vec![1, 0xFF, 0xFF]).end(), Some(vec![2]));
    }
}
