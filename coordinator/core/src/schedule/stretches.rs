//! Places in an order, kept as stretches of consecutive task indexes: tasks that were submitted together stand together,
//! so that a hundred thousand of them take as much room as one.
//! Knows indexes; refuses to know what the rest of a place says of a task.

use crate::ids::TaskIndex;
use std::collections::BTreeMap;

/// A place in an order. Of two that are alike otherwise the lower index goes first.
pub(crate) trait Indexed: Ord + Copy {
    /// The task's index in its run.
    fn index(self) -> TaskIndex;
    /// The place of another task that is alike otherwise.
    fn at(self, index: TaskIndex) -> Self;
}

/// A set of places in order. No stretch touches the next one, so that equal sets look the same however they came about.
#[derive(Debug, Hash)]
pub(crate) struct Stretches<P> {
    /// The last index of each stretch, by its first place.
    lasts: BTreeMap<P, TaskIndex>,
    len: usize,
}

impl<P> Default for Stretches<P> {
    fn default() -> Self {
        Self { lasts: BTreeMap::new(), len: 0 }
    }
}

impl<P: Indexed> Stretches<P> {
    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many places there are.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn contains(&self, place: P) -> bool {
        self.around(place).is_some()
    }

    pub(crate) fn insert(&mut self, place: P) {
        let before = self.up_to(place);
        let index = place.index();
        if before.is_some_and(|(_, last)| index <= last) {
            return;
        }
        self.len += 1;
        let first = match before {
            Some((first, last)) if last.0.checked_add(1) == Some(index.0) => first,
            Some(_) | None => place,
        };
        let after = index.0.checked_add(1).and_then(|next| self.lasts.remove(&place.at(TaskIndex(next))));
        self.lasts.insert(first, after.unwrap_or(index));
    }

    /// Whether it was here.
    pub(crate) fn remove(&mut self, place: P) -> bool {
        let Some((first, last)) = self.around(place) else { return false };
        let index = place.index();
        self.len -= 1;
        if first == place {
            self.lasts.remove(&first);
        } else {
            self.lasts.insert(first, TaskIndex(index.0 - 1));
        }
        if index < last {
            self.lasts.insert(place.at(TaskIndex(index.0 + 1)), last);
        }
        true
    }

    pub(crate) fn first(&self) -> Option<P> {
        self.lasts.first_key_value().map(|(place, _)| *place)
    }

    /// Every place in order, from the first of those that are like `place` but for their index, or come after them.
    pub(crate) fn from(&self, place: P) -> impl Iterator<Item = P> + '_ {
        self.lasts.range(place.at(TaskIndex(0))..).flat_map(each)
    }

    /// Every place in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = P> + '_ {
        self.lasts.iter().flat_map(each)
    }

    /// The stretch that holds `place`.
    fn around(&self, place: P) -> Option<(P, TaskIndex)> {
        self.up_to(place).filter(|(_, last)| place.index() <= *last)
    }

    /// Of the stretches that are like `place`, the last that begins there or before it.
    fn up_to(&self, place: P) -> Option<(P, TaskIndex)> {
        let (first, last) = self.lasts.range(place.at(TaskIndex(0))..=place).next_back()?;
        Some((*first, *last))
    }
}

fn each<P: Indexed>((first, last): (&P, &TaskIndex)) -> impl Iterator<Item = P> + use<P> {
    let first = *first;
    (first.index().0..=last.0).map(move |index| first.at(TaskIndex(index)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    impl Indexed for (u8, TaskIndex) {
        fn index(self) -> TaskIndex {
            self.1
        }

        fn at(self, index: TaskIndex) -> Self {
            (self.0, index)
        }
    }

    fn of(indexes: impl IntoIterator<Item = u32>) -> Stretches<(u8, TaskIndex)> {
        let mut stretches = Stretches::default();
        indexes.into_iter().for_each(|index| stretches.insert((0, TaskIndex(index))));
        stretches
    }

    #[test]
    fn tasks_that_stand_together_take_the_room_of_one() {
        let mut stretches = of(0..1_000);
        assert_eq!((stretches.lasts.len(), stretches.len()), (1, 1_000));
        let middle = (0, TaskIndex(500));
        assert!(stretches.remove(middle) && !stretches.remove(middle));
        assert_eq!((stretches.lasts.len(), stretches.len()), (2, 999));
        stretches.insert(middle);
        assert_eq!(stretches.lasts, of((0..1_000).rev()).lasts, "the same, however it came about");
    }

    #[test]
    fn the_ends_of_the_range_are_indexes_like_others() {
        let mut stretches = of([u32::MAX, 0, u32::MAX - 1]);
        let (lowest, highest) = ((0, TaskIndex(0)), (0, TaskIndex(u32::MAX)));
        assert!(stretches.contains(highest) && !stretches.contains((0, TaskIndex(1))));
        assert!(stretches.remove(highest) && stretches.remove(lowest));
        assert_eq!(stretches.iter().collect::<Vec<_>>(), [(0, TaskIndex(u32::MAX - 1))]);
    }

    proptest! {
        /// The same as a set of places, whatever is done to both.
        #[test]
        fn a_set_is_a_set(steps in prop::collection::vec((any::<bool>(), 0..3u8, 0..12u32), 0..200)) {
            let (mut stretches, mut set) = (Stretches::default(), BTreeSet::new());
            for (insert, key, index) in steps {
                let place = (key, TaskIndex(index));
                if insert {
                    stretches.insert(place);
                    set.insert(place);
                } else {
                    prop_assert_eq!(stretches.remove(place), set.remove(&place));
                }
                prop_assert_eq!(stretches.contains(place), insert);
                prop_assert_eq!((stretches.len(), stretches.is_empty()), (set.len(), set.is_empty()));
                prop_assert_eq!(stretches.first(), set.first().copied());
                prop_assert!(stretches.iter().eq(set.iter().copied()));
                let one = (1, TaskIndex(0));
                prop_assert!(stretches.from((1, TaskIndex(5))).eq(set.range(one..).copied()));
                let next = |(place, last): (&(u8, TaskIndex), &TaskIndex)| place.at(TaskIndex(last.0 + 1));
                prop_assert!(!stretches.lasts.iter().any(|stretch| stretches.contains(next(stretch))));
            }
        }
    }
}
