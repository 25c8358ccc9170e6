//! The thread that brings one round after the other to sled. It alone writes to sled while the store is open, but for an
//! import, which waits until there is nothing to bring.
//! Knows when it is to go on, to end and to stop the store; refuses to know what a round is.

use std::error::Error as _;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::gate::Gate;
use super::layers::Layers;

const THREAD_NAME: &str = "orch-settler";

/// The thread of one store, which ends after the round that it is at when this is dropped.
#[derive(Debug)]
pub(super) struct Settler {
    layers: Arc<Layers>,
    thread: Option<JoinHandle<()>>,
}

impl Settler {
    pub(super) fn start(layers: Arc<Layers>, gate: Arc<Gate>) -> io::Result<Self> {
        let works_on = Arc::clone(&layers);
        let builder = thread::Builder::new().name(THREAD_NAME.to_owned());
        let thread = builder.spawn(move || Work { layers: works_on, gate, in_order: false }.go_on())?;
        Ok(Self { layers, thread: Some(thread) })
    }
}

impl Drop for Settler {
    fn drop(&mut self) {
        self.layers.end();
        if let Some(thread) = self.thread.take() {
            // One that panicked has stopped the store.
            drop(thread.join());
        }
    }
}

struct Work {
    layers: Arc<Layers>,
    gate: Arc<Gate>,
    in_order: bool,
}

impl Work {
    fn go_on(mut self) {
        while let Some(round) = self.layers.next_round() {
            if let Err(fault) = self.layers.bring(&round) {
                let cause = fault.source().map(ToString::to_string).unwrap_or_default();
                tracing::error!(error = %fault, cause, "what the journal has cannot be brought to the storage engine");
                self.gate.stop(Some(fault));
                return;
            }
        }
        self.in_order = true;
    }
}

/// After an error or a panic nothing is brought to sled any more, and commits must not wait for it.
impl Drop for Work {
    fn drop(&mut self) {
        if !self.in_order {
            self.gate.stop(None);
        }
        self.layers.end();
    }
}
