//! Finds many patterns in one pass over bytes that come one at a time (Aho and Corasick, 1975), and tells how much of
//! what was read could still become one. Knows bytes; refuses to know what is looked for.

use std::collections::VecDeque;

/// A place in the automaton.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State(u32);

impl State {
    /// Nothing of any pattern was read.
    pub(super) const ROOT: Self = Self(0);
}

/// The patterns as a table: one row per state, one column per class of bytes.
pub(super) struct Automaton {
    /// The class of each byte; 0 for those in no pattern.
    classes: [u8; 256],
    width: usize,
    next: Vec<u32>,
    /// How many of the last bytes begin a pattern.
    depth: Vec<u32>,
    /// Length of the longest pattern that ends here, or 0.
    ending: Vec<u32>,
}

impl Automaton {
    /// The automaton of some patterns, none of them empty.
    pub(super) fn new(patterns: &[Vec<u8>]) -> Self {
        let (classes, width) = classes(patterns);
        let mut this = Self { classes, width, next: vec![0; width], depth: vec![0], ending: vec![0] };
        for pattern in patterns {
            this.add(pattern);
        }
        this.complete();
        this
    }

    /// The state after one more byte.
    pub(super) fn step(&self, state: State, byte: u8) -> State {
        let class = usize::from(self.classes[usize::from(byte)]);
        State(self.next.get(state.0 as usize * self.width + class).copied().unwrap_or_default())
    }

    /// How many of the last bytes could still become a pattern, the whole of one included.
    pub(super) fn depth(&self, state: State) -> usize {
        self.depth.get(state.0 as usize).copied().unwrap_or_default() as usize
    }

    /// Length of the longest pattern that ends at the last byte, or 0.
    pub(super) fn ending(&self, state: State) -> usize {
        self.ending.get(state.0 as usize).copied().unwrap_or_default() as usize
    }

    /// Whether a pattern begins with this byte.
    pub(super) fn begins_with(&self, byte: u8) -> bool {
        self.step(State::ROOT, byte) != State::ROOT
    }

    fn add(&mut self, pattern: &[u8]) {
        let mut state = 0;
        for (read, byte) in pattern.iter().enumerate() {
            let cell = state * self.width + usize::from(self.classes[usize::from(*byte)]);
            if self.next[cell] == 0 {
                self.next[cell] = u32::try_from(self.depth.len()).unwrap_or(u32::MAX);
                self.next.resize(self.next.len() + self.width, 0);
                self.depth.push(u32::try_from(read + 1).unwrap_or(u32::MAX));
                self.ending.push(0);
            }
            state = self.next[cell] as usize;
        }
        self.ending[state] = self.depth[state];
    }

    /// Breadth first: where a branch is missing, the state of the longest end that begins a pattern goes on.
    fn complete(&mut self) {
        let mut fallback = vec![0_usize; self.depth.len()];
        let mut open: VecDeque<usize> =
            self.next[..self.width].iter().filter(|next| **next != 0).map(|next| *next as usize).collect();
        while let Some(state) = open.pop_front() {
            let back = fallback[state];
            self.ending[state] = self.ending[state].max(self.ending[back]);
            for class in 0..self.width {
                let (cell, other) = (state * self.width + class, self.next[back * self.width + class]);
                match self.next[cell] as usize {
                    0 => self.next[cell] = other,
                    child => {
                        fallback[child] = other as usize;
                        open.push_back(child);
                    }
                }
            }
        }
    }
}

fn classes(patterns: &[Vec<u8>]) -> ([u8; 256], usize) {
    let mut used = [false; 256];
    for byte in patterns.iter().flatten() {
        used[usize::from(*byte)] = true;
    }
    let (mut classes, mut width) = ([0_u8; 256], 1_usize);
    for (class, _) in classes.iter_mut().zip(used).filter(|(_, used)| *used) {
        // With all 256 bytes in use the last shares the class of bytes in no pattern, which UTF-8 cannot bring about.
        *class = u8::try_from(width).unwrap_or(0);
        width += 1;
    }
    (classes, width)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Depth and ending are what a plain search says at every byte.
        #[test]
        fn it_agrees_with_a_plain_search(patterns in prop::collection::vec("[abc]{1,5}", 1..5), text in "[abcd]{0,40}") {
            let automaton = Automaton::new(&patterns.iter().map(|text| text.clone().into_bytes()).collect::<Vec<_>>());
            let mut state = State::ROOT;
            for end in 1..=text.len() {
                state = automaton.step(state, text.as_bytes()[end - 1]);
                let read = &text[..end];
                let ending = patterns.iter().filter(|pattern| read.ends_with(*pattern)).map(String::len).max();
                let begun = |pattern: &String| (1..=pattern.len()).rev().find(|length| read.ends_with(&pattern[..*length]));
                let depth = patterns.iter().filter_map(begun).max();
                prop_assert_eq!(automaton.ending(state), ending.unwrap_or(0));
                prop_assert_eq!(automaton.depth(state), depth.unwrap_or(0));
            }
        }
    }
}
