//! The program behind the supervisor's child. Without a PID namespace they are one process; with one the child is the
//! namespace's first process, or the program that made the namespace and below it the first process, and below that one is
//! the program. Signals go to exactly the program, the end is told as the program's own, and the end of the first process is the end of all.
//! Knows no limit and no ladder.

use std::io;

use rustix::process::Signal;

use crate::procfs;

use super::report::{Reports, Word};
use super::tree::signal_exactly;

/// Exit code of whoever could not execute the program.
const NOT_EXECUTED: i32 = 127;

/// A process for good.
type Exact = (i32, u64);

/// The child and what stands behind it.
#[derive(Debug)]
pub struct Program {
    child: Exact,
    is_namespaced: bool,
    reports: Reports,
    first: Option<Exact>,
    found: Option<Exact>,
}

/// How the program ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verdict {
    /// Exit code, when it exited.
    pub code: Option<i32>,
    /// Signal, when one ended it.
    pub signal: Option<i32>,
    /// Why it never began, when it did not.
    pub spawn_error: Option<String>,
    /// Processes that died with its namespace.
    pub left: u32,
}

impl Program {
    /// The program behind the child `pid`.
    #[must_use]
    pub fn new(pid: i32, is_namespaced: bool, reports: Reports) -> Self {
        let child = (pid, procfs::read_stat(pid).map_or(0, |stat| stat.start_ticks));
        Self { child, is_namespaced, reports, first: None, found: None }
    }

    /// Sends a signal to the program; before it began, to whoever is about to start it. One that is gone is no error.
    ///
    /// # Errors
    /// When it is there and may not be signalled.
    pub fn signal(&mut self, signal: Signal) -> io::Result<()> {
        let target = if self.is_namespaced { self.inside() } else { Some(self.child) };
        // A first process heeds nothing else, and has nothing to save before the program began.
        let signal = if self.is_namespaced && target == self.first { Signal::KILL } else { signal };
        target.map_or(Ok(()), |(pid, start_ticks)| signal_exactly(pid, start_ticks, signal))
    }

    /// Ends the namespace: the kernel kills every process in it, and none can escape by forking. Does nothing
    /// where there is none.
    pub fn kill_namespace(&mut self) {
        if let Some((pid, start_ticks)) = self.first_process() {
            // What cannot be killed this way is hunted.
            let _ = signal_exactly(pid, start_ticks, Signal::KILL);
        }
    }

    /// What the end of the child by exit code or by signal says about the program. `errors` is the last of standard
    /// error.
    pub fn verdict(
        &mut self,
        code: Option<i32>,
        signal: Option<i32>,
        errors: impl FnOnce() -> String,
    ) -> Verdict {
        let mut began = false;
        for word in self.reports.words() {
            match word {
                Word::Began { .. } => began = true,
                Word::Failed { why } => {
                    let spawn_error = Some(why.clone());
                    return Verdict { code: Some(NOT_EXECUTED), spawn_error, ..Verdict::default() };
                }
                Word::Ended { code, signal, left } => {
                    return Verdict { code: *code, signal: *signal, spawn_error: None, left: *left };
                }
            }
        }
        let spawn_error = None;
        match code {
            // The shell's habit, which bubblewrap has too: the namespace was ended by a signal.
            Some(code) if self.is_namespaced && code > 128 => {
                Verdict { signal: Some(code - 128), ..Verdict::default() }
            }
            Some(code) if self.is_namespaced && !began => {
                let why = format!("the sandbox could not be made: {}", errors().trim());
                Verdict { code: Some(code), spawn_error: Some(why), ..Verdict::default() }
            }
            code => Verdict { code, signal, spawn_error, left: 0 },
        }
    }

    fn inside(&mut self) -> Option<Exact> {
        if self.found.is_some() {
            return self.found;
        }
        let began = self.reports.words().iter().find_map(|word| match word {
            Word::Began { pid } => Some(*pid),
            Word::Failed { .. } | Word::Ended { .. } => None,
        });
        let mut below = self.first_process().map(|(first, _)| procfs::children(first)).unwrap_or_default();
        let Some(inner) = began else {
            // It may speak before its beginning is told. Until it exists there is nothing to spare.
            let eldest = below.into_iter().filter_map(exact).min_by_key(|(pid, start)| (*start, *pid));
            return eldest.or(Some(self.child));
        };
        below.retain(|pid| procfs::innermost_pid(*pid) == Some(inner));
        self.found = below.first().copied().and_then(exact);
        self.found
    }

    fn first_process(&mut self) -> Option<Exact> {
        if self.is_namespaced && self.first.is_none() {
            let mut candidates = std::iter::once(self.child.0).chain(procfs::children(self.child.0));
            let first = candidates.find(|pid| procfs::innermost_pid(*pid) == Some(1));
            self.first = first.and_then(exact);
        }
        self.first
    }
}

fn exact(pid: i32) -> Option<Exact> {
    procfs::read_stat(pid).map(|stat| (pid, stat.start_ticks))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::super::report::{Reporter, channel};
    use super::*;

    fn verdict(namespaced: bool, words: &[Word], code: Option<i32>, signal: Option<i32>) -> Verdict {
        let (reports, writer) = channel().unwrap();
        let mut reporter = Reporter::new(File::from(writer));
        for word in words {
            reporter.say(word);
        }
        let mut program = Program::new(1, namespaced, reports);
        program.verdict(code, signal, || "bwrap: no\n".to_owned())
    }

    #[test]
    fn the_program_s_own_end_is_told() {
        let verdict = |namespaced, words: &[Word], code| verdict(namespaced, words, Some(code), None);
        assert_eq!(verdict(false, &[], 143).code, Some(143));
        let ended = Word::Ended { code: Some(143), signal: None, left: 2 };
        let told = verdict(true, &[Word::Began { pid: 2 }, ended], 143);
        assert_eq!((told.code, told.signal, told.left), (Some(143), None, 2));
        let killed = verdict(true, &[Word::Began { pid: 2 }], 137);
        assert_eq!((killed.code, killed.signal, killed.spawn_error), (None, Some(9), None));
        let never = verdict(true, &[], 1);
        assert_eq!(never.spawn_error.as_deref(), Some("the sandbox could not be made: bwrap: no"));
        let failed = verdict(true, &[Word::Failed { why: "gone".to_owned() }], 127);
        assert_eq!((failed.code, failed.spawn_error.as_deref()), (Some(127), Some("gone")));
    }
}
