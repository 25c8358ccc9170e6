//! The number of the last acknowledged commit, outside of sled: `<store>/anchor`.
//!
//! sled takes a message it cannot read for the end of its log. One flipped bit can so take back the newest commits, and
//! what is left looks like a whole, older store. The anchor remembers better: a store that knows of fewer commits than
//! the anchor has lost some.
//!
//! It is written after the commit's sync and not synced itself, which costs a microsecond. So it may be behind after a
//! loss of power, which proves nothing, and it is never ahead. One that cannot be read proves nothing either.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::store::dir;
use crate::store::error::{Fault, OpenError};

const NUMBER_BYTES: usize = 8;

#[derive(Debug)]
pub(super) struct Anchor {
    file: File,
    /// What it said when it was opened.
    acknowledged: Option<u64>,
}

impl Anchor {
    pub(super) fn open(dir: &Path) -> Result<Self, Fault> {
        let path = dir.join("anchor");
        let acknowledged = match fs::read(&path) {
            Ok(bytes) => parse(&bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(Fault::io("read the store's anchor")(error)),
        };
        let opened = dir::private_file().create(true).truncate(false).open(path);
        let file = opened.map_err(Fault::io("open the store's anchor"))?;
        Ok(Self { file, acknowledged })
    }

    /// Refuses a store in `dir` that knows of `commits` commits when there were more.
    pub(super) fn check(&self, dir: &Path, commits: u64) -> Result<(), OpenError> {
        match self.acknowledged {
            Some(acknowledged) if acknowledged > commits => {
                let detail =
                    format!("commit {acknowledged} was acknowledged, its files end at commit {commits}");
                Err(OpenError::Damaged { dir: dir.to_owned(), detail })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Notes that everything up to this commit is durable.
    pub(super) fn record(&self, commits: u64) -> Result<(), Fault> {
        let number = commits.to_be_bytes();
        let mut bytes = number.to_vec();
        bytes.extend_from_slice(&crc32c::crc32c(&number).to_be_bytes());
        self.file.write_all_at(&bytes, 0).map_err(Fault::io("write the store's anchor"))
    }
}

fn parse(bytes: &[u8]) -> Option<u64> {
    let (number, crc) = bytes.split_first_chunk::<NUMBER_BYTES>()?;
    let whole = crc == crc32c::crc32c(number).to_be_bytes();
    whole.then(|| u64::from_be_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_anchor_that_is_ahead_is_proof() {
        let temp = tempfile::tempdir().unwrap();
        let check = |commits| Anchor::open(temp.path()).unwrap().check(temp.path(), commits);
        check(0).unwrap();
        Anchor::open(temp.path()).unwrap().record(7).unwrap();
        let error = check(6).unwrap_err();
        assert!(
            error.to_string().contains("commit 7 was acknowledged, its files end at commit 6"),
            "{error}"
        );
        check(7).unwrap();
        check(9).unwrap();
        for unreadable in [&b""[..], b"torn", &[0xFF; 12], &[0; 100]] {
            fs::write(temp.path().join("anchor"), unreadable).unwrap();
            check(1).unwrap();
        }
    }
}
