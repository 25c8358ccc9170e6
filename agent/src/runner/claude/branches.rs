//! Which sub-agent works within which, so that people are told who does what: `reviewer ▸ test-runner ▸ Bash cargo test`.
//! Knows calls and names, which are a model's; remembers no more than a handful.

use std::collections::BTreeMap;

use super::event::Assistant;

/// Calls that started sub-agents and are remembered: far more than run at once.
const MOST: usize = 256;

/// Sub-agents that are named, the innermost ones; of those around them is only said that there are some.
const DEEPEST: usize = 3;

/// Longest name that is shown, in characters: with the deepest path a third of a description is left for the tool.
const LONGEST_NAME: usize = 24;

/// What stands between two.
const BETWEEN: &str = " ▸ ";

/// The sub-agents that work, by the call that started each.
#[derive(Debug, Clone, Default)]
pub(super) struct Branches(BTreeMap<String, Branch>);

#[derive(Debug, Clone)]
struct Branch {
    /// The call that started the one it works for; empty: the main thread.
    parent: String,
    name: String,
    /// Its calls that were counted.
    calls: u32,
}

impl Branches {
    /// A model spoke: it may have started sub-agents.
    pub(super) fn called(&mut self, said: &Assistant) {
        for call in said.tools.iter().filter(|call| !call.starts.is_empty()) {
            self.put(&call.id, Branch { parent: said.parent.clone(), name: name(&call.starts), calls: 0 });
        }
    }

    /// A sub-agent started. The CLI tells that of an inner one before it tells who called it (observed).
    pub(super) fn started(&mut self, call: &str, kind: &str) {
        if !self.0.contains_key(call) {
            self.put(call, Branch { parent: String::new(), name: name(kind), calls: 0 });
        }
    }

    /// A sub-agent ended.
    pub(super) fn ended(&mut self, call: &str) {
        self.0.remove(call);
    }

    /// How many calls are new of a sub-agent that made `calls` so far.
    pub(super) fn counted(&mut self, call: &str, calls: u32) -> u32 {
        let Some(branch) = self.0.get_mut(call) else { return 0 };
        let more = calls.saturating_sub(branch.calls);
        branch.calls += more;
        more
    }

    /// Whether a sub-agent works for another one.
    pub(super) fn is_inner(&self, call: &str) -> bool {
        self.0.get(call).is_some_and(|branch| !branch.parent.is_empty())
    }

    /// That the sub-agent begins that `call` started.
    pub(super) fn starting(&self, call: &str, kind: &str) -> String {
        let around = self.0.get(call).map(|branch| branch.parent.as_str()).unwrap_or_default();
        let what = format!("sub-agent {}", name(kind));
        if around.is_empty() { what } else { self.within(around, "", &what) }
    }

    /// `what` with the sub-agents around it, outermost first: the one that `call` started, which is a `kind`, and those
    /// it works for.
    pub(super) fn within(&self, call: &str, kind: &str, what: &str) -> String {
        let mut path = Vec::new();
        let mut at = call;
        // One more than is shown, which also ends calls that started each other.
        while path.len() <= DEEPEST {
            let Some(branch) = self.0.get(at) else { break };
            path.push(branch.name.clone());
            at = &branch.parent;
        }
        if path.is_empty() {
            path.push(name(kind));
        }
        let is_deeper = path.len() > DEEPEST;
        path.truncate(DEEPEST);
        path.extend(is_deeper.then(|| "…".to_owned()));
        path.reverse();
        format!("{}{BETWEEN}{what}", path.join(BETWEEN))
    }

    fn put(&mut self, call: &str, branch: Branch) {
        if self.0.len() >= MOST && !self.0.contains_key(call) {
            // A CLI that does not say when one ends; what runs now is named by its own events.
            self.0.clear();
        }
        self.0.insert(call.to_owned(), branch);
    }
}

/// A name for people, which may be a model's.
fn name(kind: &str) -> String {
    let plain: String = kind.chars().filter(|char| !char.is_control()).take(LONGEST_NAME).collect();
    if plain.trim().is_empty() { "sub-agent".to_owned() } else { plain }
}

#[cfg(test)]
mod tests {
    use super::super::event::Call;
    use super::*;

    fn said(parent: &str, id: &str, starts: &str) -> Assistant {
        let call = Call { id: id.to_owned(), starts: starts.to_owned(), ..Call::default() };
        Assistant { parent: parent.to_owned(), tools: vec![call], ..Assistant::default() }
    }

    #[test]
    fn a_path_names_the_innermost_and_says_that_there_are_more() {
        let mut branches = Branches::default();
        for (parent, id) in [("", "a"), ("a", "b"), ("b", "c"), ("c", "d")] {
            branches.called(&said(parent, id, &format!("agent-{id}")));
        }
        assert_eq!(branches.within("a", "", "Bash"), "agent-a ▸ Bash");
        assert_eq!(branches.within("c", "", "Bash"), "agent-a ▸ agent-b ▸ agent-c ▸ Bash");
        assert_eq!(branches.within("d", "", "Bash"), "… ▸ agent-b ▸ agent-c ▸ agent-d ▸ Bash");
        branches.ended("c");
        assert_eq!(
            branches.within("d", "", "Bash"),
            "agent-d ▸ Bash",
            "who is around it is not known any more"
        );
    }

    #[test]
    fn who_is_not_known_is_named_by_its_own_word() {
        let branches = Branches::default();
        assert_eq!(branches.within("x", "test-runner", "Bash"), "test-runner ▸ Bash");
        assert_eq!(branches.within("x", "\u{7}", "Bash"), "sub-agent ▸ Bash");
        assert_eq!(branches.starting("x", "helper"), "sub-agent helper");
    }

    #[test]
    fn calls_that_start_each_other_and_calls_without_end_are_no_trouble() {
        let mut branches = Branches::default();
        branches.called(&said("b", "a", "one"));
        branches.called(&said("a", "b", "other"));
        assert_eq!(branches.within("a", "", "x"), "… ▸ one ▸ other ▸ one ▸ x");
        for number in 0..10_000 {
            branches.called(&said("", &number.to_string(), &"n".repeat(5_000)));
        }
        assert!(branches.0.len() <= MOST);
        assert_eq!(branches.within("9999", "", "x").chars().count(), LONGEST_NAME + 4);
    }
}
