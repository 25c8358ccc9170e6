//! The end of an attempt: after the child is reaped the tree is emptied, the pipes are drained, the exit
//! record is written and told. Nothing of the attempt runs after this.

use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::boottime::BootMillis;
use crate::procfs;

use super::exit::ExitRecord;
use super::machine::Supervisor;
use super::record;
use super::segments::{Channel, tail};
use super::tree::{TreeKill, kill_descendants, reap};
use super::wire::Event;

/// How long processes that outlived the child are hunted.
const HUNT_LIMIT: Duration = Duration::from_secs(10);

/// How long the pipes are drained: one that is still open then is held by something that could not be killed.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// How long the agent that started this supervisor may take to connect, when the child was quicker.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// How much of what a sandbox said is told when it could not be made, in bytes.
const SHOWN_ERRORS: u64 = 400;

/// How long an agent may take to read the last line. It finds the exit record if it does not.
const TELL_LIMIT: Duration = Duration::from_millis(500);

impl Supervisor {
    /// Ends it. The child must have been reaped.
    #[must_use]
    pub fn finish(&mut self) -> ExitRecord {
        let left = empty_tree();
        if let Some(gateway) = &mut self.gateway {
            // What was in flight is entered before anybody is told that the attempt has ended.
            gateway.end();
            self.trouble = self.trouble.take().or_else(|| gateway.trouble());
        }
        let drained = self.drain();
        let mut record = self.sum_up(drained);
        record.left_behind += left.killed;
        record.survivors = u32::try_from(left.survivors.len()).unwrap_or(u32::MAX);
        if !left.survivors.is_empty() {
            let names: Vec<String> =
                left.survivors.iter().map(|(pid, comm)| format!("{comm} ({pid})")).collect();
            record.trouble = Some(format!("could not kill {}", names.join(", ")));
        }
        if let Err(error) = record.write(&self.spec.attempt_dir, self.spec.durable) {
            // The agent learns the end from the last line, and a lost supervisor from its pid.
            record.trouble = Some(format!("cannot write the exit record: {error}"));
        }
        self.tell_end(&record);
        record::remove(&self.spec.runtime_dir, &self.spec.id);
        record
    }

    fn drain(&mut self) -> bool {
        let deadline = Instant::now() + DRAIN_LIMIT;
        loop {
            self.listen_to_child(BootMillis::now());
            let open: Vec<_> =
                [self.stdout.descriptor(), self.stderr.descriptor()].into_iter().flatten().collect();
            let left = deadline.saturating_duration_since(Instant::now());
            if open.is_empty() || left.is_zero() {
                return open.is_empty();
            }
            let mut fds: Vec<PollFd<'_>> =
                open.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
            // A failing poll only makes this loop look more often until the deadline.
            let _ = poll(&mut fds, Timespec::try_from(left).ok().as_ref());
        }
    }

    fn sum_up(&mut self, drained: bool) -> ExitRecord {
        let me = rustix::process::getpid().as_raw_nonzero().get();
        let ticks = procfs::read_stat(me).map_or(0, |stat| stat.children_cpu_ticks);
        let code = self.status.and_then(|status| status.exit_status());
        let signal = self.status.and_then(|status| status.terminating_signal());
        let (dir, segment_bytes) = (&self.spec.attempt_dir, self.spec.limits.segment_bytes);
        let errors = || {
            let tail = tail(dir, Channel::Stderr, segment_bytes, self.stderr.written(), SHOWN_ERRORS);
            String::from_utf8_lossy(&tail).into_owned()
        };
        let verdict = self.program.verdict(code, signal, errors);
        ExitRecord {
            code: verdict.code,
            signal: verdict.signal,
            spawn_error: verdict.spawn_error,
            stop: self.stop,
            trouble: self.trouble.clone(),
            duration_ms: u64::try_from(BootMillis::now().since(self.started).as_millis()).unwrap_or(u64::MAX),
            cpu_ms: ticks.saturating_mul(1_000) / rustix::param::clock_ticks_per_second().max(1),
            peak_memory_bytes: self.peak_memory,
            memory_limit_bytes: self.spec.limits.memory_bytes,
            stdout_len: self.stdout.written(),
            stderr_len: self.stderr.written(),
            results: self.results,
            left_behind: verdict.left,
            survivors: 0,
            drained,
        }
    }

    fn tell_end(&mut self, record: &ExitRecord) {
        let deadline = Instant::now() + CONNECT_LIMIT;
        // Nothing is left to be done, so what agents ask for now is answered by the last line.
        self.serve_agents();
        while !self.control.was_ever_served() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
            self.serve_agents();
        }
        self.control.broadcast(&Event::Ended(Box::new(record.clone())));
        let deadline = Instant::now() + TELL_LIMIT;
        while !self.control.is_flushed() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
            self.control.flush();
        }
    }
}

/// Ends whatever outlived the child. Mostly nothing did, which costs no look at every process of the host.
fn empty_tree() -> TreeKill {
    if reap(|_, _| ()) {
        return TreeKill::default();
    }
    let me = rustix::process::getpid().as_raw_nonzero().get();
    kill_descendants(me, HUNT_LIMIT, || {
        reap(|_, _| ());
    })
}
