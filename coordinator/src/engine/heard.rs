//! Heartbeats that sessions answer themselves: an agent that holds nothing is answered where it is heard, and noted here;
//! the engine takes the notes before it does anything else, so that nothing is decided by a silence that was none.
//!
//! Such an answer promises no more than the engine's would: none is given while the engine does not go round.
//! Knows who was heard when; refuses to know what follows.

use std::sync::{Mutex, MutexGuard, PoisonError};

use orch_core::event::{Event, Heard};
use orch_core::ids::SessionId;

use super::handle::Handle;

/// Notes between two rounds of the engine: more than all connections bring. Beyond it heartbeats go to the engine, which
/// takes the notes first.
const MOST_NOTES: usize = 65_536;

/// Who was heard since the engine looked.
#[derive(Debug, Default)]
pub(super) struct Notes(Mutex<Vec<Heard>>);

impl Notes {
    /// False when there are too many.
    fn add(&self, heard: Heard) -> bool {
        let mut notes = self.lock();
        let room = notes.len() < MOST_NOTES;
        if room {
            notes.push(heard);
        }
        room
    }

    /// What the core is to be told, if anything.
    pub(super) fn take(&self) -> Option<Event> {
        let notes = std::mem::take(&mut *self.lock());
        (!notes.is_empty()).then_some(Event::AgentsHeard(notes))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Heard>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Handle {
    /// Notes that an agent was heard which holds nothing, by the engine's last answer, and lists nothing. When that is
    /// taken it may be answered at once: the engine counts from now. Otherwise only the engine can answer.
    #[must_use]
    pub(crate) fn heard_idle(&self, session: SessionId, load_millis: u32) -> bool {
        let shared = self.shared();
        let at = shared.ticker.now().tick;
        shared.pulse.goes_round(shared.round) && shared.heard.add(Heard { session, at, load_millis })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orch_core::time::Tick;

    #[test]
    fn notes_are_bounded_and_taken_once() {
        let notes = Notes::default();
        assert!(notes.take().is_none());
        let heard = Heard { session: SessionId(1), at: Tick(1), load_millis: 0 };
        assert!((0..MOST_NOTES).all(|_| notes.add(heard)));
        assert!(!notes.add(heard));
        let Some(Event::AgentsHeard(taken)) = notes.take() else { panic!("no notes") };
        assert_eq!(taken.len(), MOST_NOTES);
        assert!(notes.take().is_none() && notes.add(heard));
    }
}
