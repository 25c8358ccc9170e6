//! Output of a child as numbered files of equal size: byte `n` of a stream lies in file `n / size`, so an
//! offset alone finds it. Knows no line and no protocol; writes are not synced, because what a power loss
//! takes from a transcript it has taken from the child as well.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Size of a segment file in bytes.
pub const SEGMENT_BYTES: u64 = 4 * 1024 * 1024;

/// One of the child's two output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    /// Standard output: the transcript.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Channel {
    /// The file of segment `number`, counted from 0, in an attempt's directory.
    #[must_use]
    pub fn segment(self, dir: &Path, number: u64) -> PathBuf {
        dir.join(format!("{}.{number:06}", self.name()))
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Appends a stream to its segments.
#[derive(Debug)]
pub struct SegmentWriter {
    dir: PathBuf,
    channel: Channel,
    segment_bytes: u64,
    file: Option<File>,
    len: u64,
}

impl SegmentWriter {
    /// A stream without a byte yet. The first segment file is made with the first byte.
    #[must_use]
    pub fn new(dir: PathBuf, channel: Channel, segment_bytes: u64) -> Self {
        Self { dir, channel, segment_bytes: segment_bytes.max(1), file: None, len: 0 }
    }

    /// Appends all of `bytes`.
    ///
    /// # Errors
    /// When a file cannot be made or written. [`Self::len`] then tells how much was written.
    pub fn append(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = self.segment_bytes - self.len % self.segment_bytes;
            let part = &bytes[..bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX))];
            let written = self.open()?.write(part)?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.len += written as u64;
            bytes = &bytes[written..];
            if self.len.is_multiple_of(self.segment_bytes) {
                self.file = None;
            }
        }
        Ok(())
    }

    /// Bytes of the stream so far.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing was written yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn open(&mut self) -> io::Result<&mut File> {
        if self.file.is_none() {
            let path = self.channel.segment(&self.dir, self.len / self.segment_bytes);
            self.file = Some(OpenOptions::new().append(true).create(true).mode(0o600).open(path)?);
        }
        self.file.as_mut().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// Reads up to `buffer.len()` bytes of a stream from `offset` on, never beyond one segment. Returns 0 where
/// nothing was written yet.
///
/// # Errors
/// When the segment cannot be read, `NotFound` when it was released.
pub fn read_at(
    dir: &Path,
    channel: Channel,
    segment_bytes: u64,
    offset: u64,
    buffer: &mut [u8],
) -> io::Result<usize> {
    let (number, within) = (offset / segment_bytes, offset % segment_bytes);
    let mut file = match File::open(channel.segment(dir, number)) {
        Ok(file) => file,
        // A boundary: the segment begins with its first byte. A later one that exists proves a release.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let released = channel.segment(dir, number + 1).exists();
            return if released { Err(error) } else { Ok(0) };
        }
        Err(error) => return Err(error),
    };
    file.seek(SeekFrom::Start(within))?;
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// How long a stream is by its files, for whoever finds it without its writer; 0 where there is none.
///
/// # Errors
/// When the directory exists and cannot be read.
pub fn length(dir: &Path, channel: Channel, segment_bytes: u64) -> io::Result<u64> {
    match numbers(dir, channel)?.last() {
        Some(last) => Ok(last * segment_bytes + fs::metadata(channel.segment(dir, *last))?.len()),
        None => Ok(0),
    }
}

/// Where what is left of a stream begins: 0, or the first byte that was not released.
///
/// # Errors
/// When the directory exists and cannot be read.
pub fn beginning(dir: &Path, channel: Channel, segment_bytes: u64) -> io::Result<u64> {
    Ok(numbers(dir, channel)?.first().map_or(0, |first| first * segment_bytes))
}

/// The segments that exist, in ascending order.
fn numbers(dir: &Path, channel: Channel) -> io::Result<Vec<u64>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(channel.name())?.strip_prefix('.'));
        numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Deletes every whole segment before `upto` bytes: somebody else keeps them now. Returns how many files
/// were deleted. The segment that `upto` lies in stays.
///
/// # Errors
/// When an existing file cannot be deleted.
pub fn release(dir: &Path, channel: Channel, segment_bytes: u64, upto: u64) -> io::Result<u64> {
    let mut released = 0;
    // The first ones first, so that what is left after a crash is the end of the stream.
    for number in 0..upto / segment_bytes {
        match fs::remove_file(channel.segment(dir, number)) {
            Ok(()) => released += 1,
            // It was released earlier; a later one may not have been.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(released)
}

/// The last `most` bytes of a stream that is `len` bytes long; empty when they cannot be read.
#[must_use]
pub fn tail(dir: &Path, channel: Channel, segment_bytes: u64, len: u64, most: u64) -> Vec<u8> {
    let mut offset = len.saturating_sub(most);
    let mut found = Vec::new();
    let mut buffer = vec![0; usize::try_from(most.min(len)).unwrap_or(0)];
    while offset < len {
        match read_at(dir, channel, segment_bytes, offset, &mut buffer) {
            Ok(read) if read > 0 => {
                found.extend_from_slice(&buffer[..read]);
                offset += read as u64;
            }
            Ok(_) | Err(_) => break,
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn filled(dir: &Path, text: &[u8]) -> SegmentWriter {
        let mut writer = SegmentWriter::new(dir.to_owned(), Channel::Stdout, 4);
        writer.append(text).unwrap();
        writer
    }

    #[test]
    fn bytes_go_to_the_file_their_offset_names() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = filled(dir.path(), b"0123456789");
        assert_eq!(writer.len(), 10);
        assert_eq!(names(dir.path()), ["stdout.000000", "stdout.000001", "stdout.000002"]);
        assert_eq!(fs::read(dir.path().join("stdout.000001")).unwrap(), b"4567");
        writer.append(b"ab").unwrap();
        assert_eq!(fs::read(dir.path().join("stdout.000002")).unwrap(), b"89ab");
        assert_eq!(names(dir.path()).len(), 3, "a segment is made with its first byte");
    }

    #[test]
    fn reading_stops_at_a_segment_and_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let _writer = filled(dir.path(), b"01234567");
        let mut buffer = [0; 16];
        assert_eq!(read_at(dir.path(), Channel::Stdout, 4, 2, &mut buffer).unwrap(), 2);
        assert_eq!(&buffer[..2], b"23");
        assert_eq!(read_at(dir.path(), Channel::Stdout, 4, 8, &mut buffer).unwrap(), 0);
        assert_eq!(read_at(dir.path(), Channel::Stderr, 4, 0, &mut buffer).unwrap(), 0);
        assert_eq!(tail(dir.path(), Channel::Stdout, 4, 8, 6), b"234567");
        assert_eq!(tail(dir.path(), Channel::Stdout, 4, 8, 99), b"01234567");
    }

    #[test]
    fn released_segments_are_gone_and_say_so() {
        let dir = tempfile::tempdir().unwrap();
        let _writer = filled(dir.path(), b"0123456789");
        assert_eq!(release(dir.path(), Channel::Stdout, 4, 7).unwrap(), 1);
        assert_eq!(names(dir.path()), ["stdout.000001", "stdout.000002"]);
        let error = read_at(dir.path(), Channel::Stdout, 4, 0, &mut [0; 4]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert_eq!(release(dir.path(), Channel::Stdout, 4, 8).unwrap(), 1);
        assert_eq!(release(dir.path(), Channel::Stdout, 4, 8).unwrap(), 0);
    }

    #[test]
    fn a_release_that_broke_off_is_finished_by_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let _writer = filled(dir.path(), b"0123456789ab");
        fs::remove_file(Channel::Stdout.segment(dir.path(), 1)).unwrap();
        assert_eq!(release(dir.path(), Channel::Stdout, 4, 12).unwrap(), 2);
        assert_eq!(names(dir.path()), [""; 0]);
    }

    #[test]
    fn a_stream_without_its_writer_is_measured_and_begins_with_what_is_left() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(length(&dir.path().join("none"), Channel::Stdout, 4).unwrap(), 0);
        let _writer = filled(dir.path(), b"0123456789");
        fs::write(dir.path().join("stdout.txt"), "no segment").unwrap();
        assert_eq!(length(dir.path(), Channel::Stdout, 4).unwrap(), 10);
        assert_eq!(length(dir.path(), Channel::Stderr, 4).unwrap(), 0);
        assert_eq!(beginning(dir.path(), Channel::Stdout, 4).unwrap(), 0);
        release(dir.path(), Channel::Stdout, 4, 5).unwrap();
        assert_eq!(beginning(dir.path(), Channel::Stdout, 4).unwrap(), 4);
    }

    #[test]
    fn segments_are_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let _writer = filled(dir.path(), b"x");
        let mode = fs::metadata(dir.path().join("stdout.000000")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
