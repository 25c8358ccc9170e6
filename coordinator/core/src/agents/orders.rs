//! What operators said of an agent: a drain, capabilities added, capabilities hidden. Theirs, not the agent's: it outlives
//! both daemons and every Hello. Knows words; what follows for queues is [`crate::machine`]'s.

use crate::event::Labelling;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Standing orders of operators about one agent.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Orders {
    /// Capabilities added, each `key=value`, sorted, without repetition.
    pub(crate) labels: Vec<Arc<str>>,
    /// Keys of the agent's own capabilities that are hidden, sorted, without repetition.
    pub(crate) hidden: Vec<Arc<str>>,
    /// Why it is drained; `None` when it is not.
    pub(crate) drain: Option<Arc<str>>,
}

/// The part before the first `=`.
pub(crate) fn key_of(capability: &str) -> &str {
    capability.split_once('=').map_or(capability, |(key, _)| key)
}

impl Orders {
    /// As restored: sorted, whatever order the record had.
    pub(crate) fn restored(labels: Vec<Arc<str>>, hidden: Vec<Arc<str>>, drain: Option<Arc<str>>) -> Self {
        let sorted = |words: Vec<Arc<str>>| words.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
        Self { labels: sorted(labels), hidden: sorted(hidden), drain }
    }

    /// What an agent that says it offers `own` (sorted) counts as offering, sorted: its own words but those whose key is
    /// hidden or labelled, and the labels.
    pub(crate) fn effective(&self, own: &[Arc<str>]) -> Vec<Arc<str>> {
        let labelled: BTreeSet<&str> = self.labels.iter().map(|label| key_of(label)).collect();
        let hidden = |key: &str| self.hidden.binary_search_by(|word| (**word).cmp(key)).is_ok();
        let kept = own.iter().filter(|word| !labelled.contains(key_of(word)) && !hidden(key_of(word)));
        let words: BTreeSet<Arc<str>> = kept.chain(&self.labels).cloned().collect();
        words.into_iter().collect()
    }

    /// The orders after `change` to an agent that offers `own`.
    pub(crate) fn labelled(&self, own: &[Arc<str>], change: &Labelling) -> Self {
        let mut labels: BTreeSet<Arc<str>> = BTreeSet::new();
        let mut hidden: BTreeSet<Arc<str>> = BTreeSet::new();
        if !change.restore {
            labels.extend(self.labels.iter().cloned());
            hidden.extend(self.hidden.iter().cloned());
        }
        for key in &change.remove {
            labels.retain(|label| key_of(label) != &**key);
            if own.iter().any(|word| key_of(word) == &**key) {
                hidden.insert(Arc::clone(key));
            }
        }
        let set: BTreeSet<&str> = change.set.iter().map(|label| key_of(label)).collect();
        labels.retain(|label| !set.contains(key_of(label)));
        hidden.retain(|key| !set.contains(&**key));
        labels.extend(change.set.iter().cloned());
        Self {
            labels: labels.into_iter().collect(),
            hidden: hidden.into_iter().collect(),
            drain: self.drain.clone(),
        }
    }

    /// Bytes of labels and hidden keys together.
    pub(crate) fn bytes(&self) -> usize {
        self.labels.iter().chain(&self.hidden).map(|word| word.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<Arc<str>> {
        text.split_whitespace().map(Arc::from).collect()
    }

    fn change(set: &str, remove: &str, restore: bool) -> Labelling {
        Labelling { set: words(set), remove: words(remove), restore }
    }

    fn shown(orders: &Orders, own: &str) -> String {
        orders.effective(&words(own)).join(" ")
    }

    #[test]
    fn a_label_replaces_what_the_agent_offers_under_its_key_and_a_removed_key_offers_nothing() {
        let own = "disk=big gpu=yes";
        let set = Orders::default().labelled(&words(own), &change("gpu=a100 gpu=h100", "", false));
        assert_eq!(shown(&set, own), "disk=big gpu=a100 gpu=h100");
        let removed = set.labelled(&words(own), &change("", "gpu rack", false));
        assert_eq!(shown(&removed, own), "disk=big");
        assert_eq!(removed.hidden, words("gpu"), "a key that it does not offer needs no hiding");
        let again = removed.labelled(&words(own), &change("gpu=yes", "", false));
        assert_eq!((again.labels.clone(), again.hidden.clone()), (words("gpu=yes"), Vec::new()));
        assert_eq!(shown(&again.labelled(&words(own), &change("", "", true)), own), own);
    }
}
