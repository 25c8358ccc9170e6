//! Output that is kept instead of printed, for lists that are drawn again and again. Looks as if it went to the stream
//! it stands for.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Out, Stream};

/// What was written to a captured stream.
#[derive(Clone, Default)]
pub(crate) struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    /// Everything so far.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Out {
    /// The same output, kept. What goes to stderr is kept with it if `whole`, else lost: advice that was given once is
    /// not repeated with every picture.
    pub(crate) fn captured(&self, whole: bool) -> (Self, Captured) {
        let kept = Captured::default();
        let lost = Captured::default();
        let over = |stream: &Stream, kept: &Captured| Stream {
            sink: Arc::new(Mutex::new(kept.clone())),
            ..stream.clone()
        };
        let mut out = self.clone();
        out.stdout = over(&self.stdout, &kept);
        out.stderr = over(if whole { &self.stdout } else { &self.stderr }, if whole { &kept } else { &lost });
        (out, kept)
    }
}
