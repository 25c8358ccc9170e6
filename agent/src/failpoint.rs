//! Places at which tests make the process die or fail. `failpoint!` names one.
//!
//! ```text
//! FAILPOINTS='spool::after_write=3*off->return(kill)' orch-agent …
//! ```
//!
//! What a place does when it is reached is the argument of `return`: `kill` ends the process as `kill -9` does, `panic`
//! its thread, `error` gives the place an error of the disk; `note` does nothing. Each time is written to the file that
//! `ORCH_TEST_FIRED` names, so that a test knows which place was reached.
//!
//! Knows names; refuses to know what stands around them. Nothing of it is in a build without debug assertions, whatever
//! features that has: there the macros are empty.

/// The place `name`. Alone it can die there; with `io` it is an [`std::io::Result`] that can fail.
#[cfg(all(feature = "failpoints", debug_assertions))]
macro_rules! failpoint {
    ($name:literal) => {
        $crate::failpoint::armed::reach($name)
    };
    ($name:literal, io) => {
        $crate::failpoint::armed::fails($name)
    };
}

/// Nothing, as in everything that ships.
#[cfg(not(all(feature = "failpoints", debug_assertions)))]
macro_rules! failpoint {
    ($name:literal) => {};
    ($name:literal, io) => {
        std::io::Result::Ok(())
    };
}

pub(crate) use failpoint;

/// What the places do.
#[cfg(all(feature = "failpoints", debug_assertions))]
pub(crate) mod armed {
    use std::io::{self, Write as _};

    use rustix::process::{Signal, getpid, kill_process};

    /// Arms what `FAILPOINTS` names, until what is returned is dropped.
    pub(crate) fn arm() -> fail::FailScenario<'static> {
        fail::FailScenario::setup()
    }

    pub(crate) fn reach(name: &str) {
        drop(happens(name));
    }

    pub(crate) fn fails(name: &str) -> io::Result<()> {
        match happens(name).as_deref() {
            Some("error") => Err(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error())),
            Some(_) | None => Ok(()),
        }
    }

    /// What the place is to do now, if anything. Does not return from an end.
    fn happens(name: &str) -> Option<String> {
        let asked = asked(name)?;
        note(name, &asked);
        match asked.as_str() {
            "kill" => {
                // To oneself this cannot be refused.
                let _ = kill_process(getpid(), Signal::KILL);
                loop {
                    std::thread::park();
                }
            }
            "panic" => panic!("failpoint {name}"),
            _ => Some(asked),
        }
    }

    fn asked(name: &str) -> Option<String> {
        fail::fail_point!(name, |argument| argument);
        None
    }

    /// One write, so that lines of several threads do not mix.
    fn note(name: &str, asked: &str) {
        let Some(path) = std::env::var_os("ORCH_TEST_FIRED") else { return };
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        if let Ok(mut file) = file {
            // A note that is missing is seen by the test that waits for it.
            let _ = file.write_all(format!("{name} {asked}\n").as_bytes());
        }
    }
}
