//! The seat of one attempt at the agent's desk: the connection to its gateway, made again whenever it breaks, or what the
//! attempt's own events tell where it has none. Knows one socket and its lines; decides nothing.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{Notify, watch};

use super::broker::{Broker, DirectSignal};
use super::desk::Tally;
use super::purse::Spend;
use crate::credentials::Lease;
use crate::gateway::talk::short_path;
use crate::gateway::wire::{Command, Event, SignalKind, WIRE_VERSION};
use crate::runner::{AttemptKey, Live};

/// First and longest pause before a gateway is dialled again: it listens before the child runs, so the first is short.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A seat; given up when it is dropped.
#[derive(Debug)]
pub struct Seat {
    broker: Broker,
    key: AttemptKey,
    pool: String,
    wake: Arc<Notify>,
    left: bool,
}

impl Seat {
    pub(super) fn new(broker: Broker, key: AttemptKey, pool: String, wake: Arc<Notify>) -> Self {
        Self { broker, key, pool, wake, left: false }
    }

    /// Speaks with the gateway of supervisor `id`, for as long as it is polled. `live` is told what its requests wait for.
    pub async fn attend(&self, (runtime_dir, id): (&Path, &str), lease: &Lease, live: watch::Sender<Live>) {
        let mut pause = FIRST_PAUSE;
        let mut key = lease.for_gateway().map(|(key, _)| key.to_owned());
        loop {
            match self.connection((runtime_dir, id), (lease, &mut key), &live).await {
                Ok(()) => pause = FIRST_PAUSE,
                Err(error) => tracing::debug!(%error, "the gateway of an attempt is not reached"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn connection(
        &self,
        (runtime_dir, id): (&Path, &str),
        (lease, key): (&Lease, &mut Option<String>),
        live: &watch::Sender<Live>,
    ) -> io::Result<()> {
        let (_dir, path) = short_path(runtime_dir, id)?;
        let (reader, mut writer) = UnixStream::connect(path).await?.into_split();
        let mut lines = BufReader::new(reader).lines();
        write(&mut writer, &Command::Hello { version: WIRE_VERSION }).await?;
        // One that a former process of the agent started has the key of then.
        if let Some(key) = key.clone() {
            write(&mut writer, &Command::Credential { key }).await?;
        }
        let mut told = None;
        loop {
            tokio::select! {
                line = lines.next_line() => match line? {
                    Some(line) => self.line(&line, lease),
                    None => return Ok(()),
                },
                () = self.wake.notified() => {}
                new = lease.renewed(key.as_deref().unwrap_or_default()), if key.is_some() => {
                    *key = Some(new.clone());
                    write(&mut writer, &Command::Credential { key: new }).await?;
                }
            }
            for command in self.broker.commands(self.key) {
                write(&mut writer, &command).await?;
            }
            self.tell(live, &mut told);
        }
    }

    fn line(&self, line: &str, lease: &Lease) {
        match serde_json::from_str::<Event>(line) {
            Ok(event) => {
                if matches!(event, Event::Signal { kind: SignalKind::Refused, .. }) {
                    lease.note_refused();
                }
                self.broker.heard(self.key, event);
            }
            Err(error) => tracing::warn!(%error, "a gateway said nonsense"),
        }
    }

    /// Tells people what is waited for, once; what the attempt does next tells the rest.
    fn tell(&self, live: &watch::Sender<Live>, told: &mut Option<String>) {
        let waits = self.broker.waits_for(self.key);
        if waits != *told {
            if let Some(what) = &waits {
                live.send_modify(|live| live.now.clone_from(what));
            } else if let Some(before) = told.as_ref() {
                live.send_if_modified(|live| {
                    let is_shown = live.now == *before;
                    if is_shown {
                        "asking the model".clone_into(&mut live.now);
                    }
                    is_shown
                });
            }
            *told = waits;
        }
    }

    /// Without a gateway: what was spent so far, as far as the attempt's events tell.
    pub fn spent(&self, micro_usd: u64, tokens: u64) {
        self.broker.spent_directly(self.key, Spend { micro_usd, tokens });
    }

    /// Without a gateway: its first answer used or wrote the cache.
    pub fn warmed(&self) {
        self.broker.warmed_directly(self.key);
    }

    /// Without a gateway: the API said something that concerns everybody.
    pub fn signal(&self, model: &str, signal: &DirectSignal) {
        self.broker.signalled(&self.pool, model, signal);
    }

    /// Name of its pool, or empty.
    #[must_use]
    pub fn pool(&self) -> &str {
        &self.pool
    }

    /// The attempt asks no more.
    #[must_use]
    pub fn leave(mut self) -> Tally {
        self.left = true;
        self.broker.leave(self.key, &self.wake)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if !self.left {
            // Nobody asks for it any more.
            let _ = self.broker.leave(self.key, &self.wake);
        }
    }
}

async fn write(writer: &mut OwnedWriteHalf, command: &Command) -> io::Result<()> {
    let mut line = serde_json::to_vec(command)?;
    line.push(b'\n');
    writer.write_all(&line).await
}
