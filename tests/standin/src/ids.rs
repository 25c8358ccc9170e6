//! Knows how identifiers are made: from a seed and a counter, so that the same script gives the same
//! stream. Refuses randomness; a session without a given id is the one exception, made elsewhere.

use uuid::Uuid;

/// A source of identifiers that depends on its seed alone.
#[derive(Debug)]
pub struct Ids {
    seed: Uuid,
    next: u64,
}

impl Ids {
    /// Identifiers derived from `seed`, counted from `first`. Processes that share a seed (resumed
    /// sessions) give different `first` values.
    pub const fn new(seed: Uuid, first: u64) -> Self {
        Self { seed, next: first }
    }

    /// The next UUID.
    pub fn uuid(&mut self) -> Uuid {
        self.next += 1;
        Uuid::new_v5(&self.seed, &self.next.to_be_bytes())
    }

    /// `prefix` and the first `digits` (at most 32) hexadecimal digits of the next UUID.
    pub fn tagged(&mut self, prefix: &str, digits: usize) -> String {
        let hex = self.uuid().simple().to_string();
        format!("{prefix}{}", &hex[..digits.min(hex.len())])
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::Ids;

    #[test]
    fn the_same_seed_gives_the_same_ids_and_never_one_twice() {
        let (mut a, mut b) = (Ids::new(Uuid::nil(), 0), Ids::new(Uuid::nil(), 0));
        let first = a.tagged("msg_", 24);
        assert_eq!(first, b.tagged("msg_", 24));
        assert_eq!(first.len(), 28);
        assert_ne!(first, a.tagged("msg_", 24));
    }
}
