//! A process: `true` started and waited for, by as many threads as are asked for. Knows the standard library's way, which
//! is `posix_spawn`. Refuses to know supervision: no pipes, no groups, no limits.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, bail};

use crate::per_second;

/// Processes a second, `count` of them shared by `threads`.
pub(crate) fn rate(count: usize, threads: usize) -> anyhow::Result<f64> {
    let each = count / threads;
    let start = Instant::now();
    std::thread::scope(|scope| {
        let started: Vec<_> =
            (0..threads).map(|_| scope.spawn(|| (0..each).try_for_each(|_| one()))).collect();
        for thread in started {
            match thread.join() {
                Ok(outcome) => outcome?,
                Err(_) => bail!("a thread that starts processes panicked"),
            }
        }
        Ok(per_second(each * threads, start.elapsed()))
    })
}

fn one() -> anyhow::Result<()> {
    let mut command = Command::new("/bin/true");
    let status =
        command.stdin(Stdio::null()).stdout(Stdio::null()).status().context("cannot run /bin/true")?;
    if !status.success() {
        bail!("/bin/true ended with {status}");
    }
    Ok(())
}
