//! How far a copy has come, on a terminal and nowhere else: one line on stderr that is gone when it is over.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::args::Progress;
use crate::output::Out;
use crate::output::figures::bytes;

/// Least time between two looks of the line.
const APART: Duration = Duration::from_millis(100);
/// Takes the line away.
const CLEAR: &str = "\r\u{1b}[K";

/// The line.
pub(super) struct Meter {
    out: Out,
    what: &'static str,
    /// Bytes there will be, where that is known.
    whole: Option<u64>,
    shown: Mutex<Shown>,
}

struct Shown {
    began: Instant,
    last: Option<Instant>,
}

impl Meter {
    /// A meter that has shown nothing.
    pub(super) fn new(out: &Out, what: &'static str, whole: Option<u64>) -> Self {
        let shown = Mutex::new(Shown { began: Instant::now(), last: None });
        Self { out: out.clone(), what, whole: whole.filter(|bytes| *bytes > 0), shown }
    }

    /// Shows how many bytes have moved.
    pub(super) fn moved(&self, done: u64) {
        let wanted = matches!(self.out.progress, Progress::Auto | Progress::Tty) && self.out.verbosity >= 0;
        if !wanted || !self.out.stderr().is_terminal() {
            return;
        }
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.last.is_some_and(|last| last.elapsed() < APART) {
            return;
        }
        shown.last = Some(Instant::now());
        let line = line(self.what, done, self.whole, shown.began.elapsed());
        let width = self.out.stderr().width().unwrap_or(usize::MAX).saturating_sub(1);
        let line: String = line.chars().take(width).collect();
        // A line that cannot be shown is not missed.
        let _ = self.out.stderr().write(format!("{CLEAR}{line}").as_bytes());
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        let shown = self.shown.get_mut().unwrap_or_else(PoisonError::into_inner);
        if shown.last.is_some() {
            let _ = self.out.stderr().write(CLEAR.as_bytes());
        }
    }
}

/// What the line says.
fn line(what: &str, done: u64, whole: Option<u64>, took: Duration) -> String {
    let rate = done.saturating_mul(1000) / u64::try_from(took.as_millis()).unwrap_or(u64::MAX).max(1);
    match whole {
        Some(whole) => {
            let percent = done.min(whole).saturating_mul(100) / whole;
            format!("  {what} {percent} %  {} of {}  {}/s", bytes(done), bytes(whole), bytes(rate))
        }
        None => format!("  {what} {}  {}/s", bytes(done), bytes(rate)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::testing;
    use crate::settings::Settings;

    #[test]
    fn the_line_says_how_far_and_how_fast() {
        let second = Duration::from_secs(1);
        assert_eq!(line("copied", 3 << 20, None, second), "  copied 3.0 MiB  3.0 MiB/s");
        assert_eq!(
            line("sent", 1 << 20, Some(4 << 20), second * 2),
            "  sent 25 %  1.0 MiB of 4.0 MiB  512 KiB/s"
        );
    }

    #[test]
    fn a_terminal_sees_it_and_it_goes_and_nobody_else_sees_any() {
        let seen = |look: testing::Look, progress: Progress| {
            let settings = Settings { progress, ..Settings::default() };
            let (out, _, stderr) = testing::with(&settings, look);
            let meter = Meter::new(&out, "copied", None);
            meter.moved(1);
            drop(meter);
            stderr.text()
        };
        let terminal = testing::Look { terminal: true, width: Some(80), color: false };
        let text = seen(terminal, Progress::Auto);
        assert!(text.contains("copied 1 B") && text.ends_with(CLEAR), "{text:?}");
        assert_eq!(seen(terminal, Progress::None), "");
        assert_eq!(seen(testing::Look::default(), Progress::Auto), "");
    }
}
