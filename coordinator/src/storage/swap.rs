//! Rooms of the data directory replaced by others, whatever interrupts it.
//!
//! | Step | On disk when it ends | A crash here leaves |
//! |---|---|---|
//! | rooms are made | `incoming/<what>/<room>`, synced | the old rooms; the leftovers go at the next start |
//! | staged | the marker, by one rename | the new rooms, put in place by the next start |
//! | per room | the old one in `aside/`, then the new one in its place | the next start goes on where this one was |
//! | marker removed | | the new rooms |
//!
//! Each step looks at what is there, so it can be done any number of times. Only the holder of the directory's lock does.
//! Knows names; refuses to know what is in a room.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{ASIDE, CopyError, INCOMING, StartError, aside_name, incoming};
use crate::store::dir::{create_private, private_file, sync_dir};

const MARKER: &str = "staged.json";
const VERSION: u32 = 1;
/// Rooms that may be replaced.
const ROOMS: [&str; 3] = ["store", "blobs", "transcripts"];

/// What a start is to put in place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Staged {
    version: u32,
    /// `restore`, `migrate`, `compact` or `import`; also where the rooms are made.
    pub what: String,
    /// Name below `aside/`.
    pub aside: String,
    rooms: Vec<String>,
}

/// Names the rooms that lie ready for `what`, durably: from here on they are what the next start finds. Returns where what
/// they replace is going to be, below the data directory.
///
/// # Errors
/// [`CopyError::File`]; then nothing is staged.
pub fn stage(root: &Path, what: &str, now: SystemTime) -> Result<String, CopyError> {
    stage_if(root, what, now, &|| true)
}

/// As [`stage`], unless `wanted` says at the last moment that it is not.
///
/// # Errors
/// [`CopyError::File`], [`CopyError::Abandoned`]; then nothing is staged.
pub fn stage_if(
    root: &Path,
    what: &str,
    now: SystemTime,
    wanted: &dyn Fn() -> bool,
) -> Result<String, CopyError> {
    let from = incoming(root, what);
    let ready = ROOMS.iter().filter(|room| from.join(room).is_dir());
    let rooms = ready.map(|room| (*room).to_owned()).collect();
    let staged =
        Staged { version: VERSION, what: what.to_owned(), aside: aside_name(root, what, now), rooms };
    // Every file of every room at once.
    let synced = fs::File::open(&from).and_then(|dir| Ok(rustix::fs::syncfs(dir)?));
    synced.map_err(CopyError::file("sync", &from))?;
    // That may have taken seconds.
    if !wanted() {
        return Err(CopyError::Abandoned);
    }
    crate::failpoint::failpoint!("swap::before_marker");
    let marker = root.join(MARKER);
    write_marker(root, &staged).map_err(CopyError::file("write", &marker))?;
    crate::failpoint::failpoint!("swap::after_marker");
    Ok(format!("{ASIDE}/{}", staged.aside))
}

fn write_marker(root: &Path, staged: &Staged) -> io::Result<()> {
    let fresh = root.join("staged.json.new");
    let mut file = private_file().create(true).truncate(true).open(&fresh)?;
    file.write_all(&serde_json::to_vec(staged)?)?;
    file.sync_all()?;
    fs::rename(&fresh, root.join(MARKER))?;
    sync_dir(root)
}

/// Puts in place what is staged, if anything is, and removes what was never staged. Returns what it did.
///
/// # Errors
/// [`StartError`]; to be tried again by the next start.
pub fn carry_out(root: &Path) -> Result<Option<Staged>, StartError> {
    carry_out_with(root, &mut |_| Ok(()))
}

/// As [`carry_out`], with a word before each step, which may refuse it: for tests.
fn carry_out_with(
    root: &Path,
    before: &mut dyn FnMut(&'static str) -> io::Result<()>,
) -> Result<Option<Staged>, StartError> {
    let marker = root.join(MARKER);
    let staged = match fs::read(&marker) {
        Ok(bytes) => Some(parse(&bytes).ok_or_else(|| StartError::Marker { path: marker.clone() })?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(StartError::dir("read", &marker)(error)),
    };
    if let Some(staged) = &staged {
        for room in &staged.rooms {
            replace(root, staged, room, before).map_err(StartError::dir("replace", &root.join(room)))?;
        }
        let removed = before("remove the marker").and_then(|()| fs::remove_file(&marker));
        removed.and_then(|()| sync_dir(root)).map_err(StartError::dir("remove", &marker))?;
        crate::failpoint::failpoint!("swap::after_removal");
    }
    clear(root, before)?;
    Ok(staged)
}

fn replace(
    root: &Path,
    staged: &Staged,
    room: &str,
    before: &mut dyn FnMut(&'static str) -> io::Result<()>,
) -> io::Result<()> {
    let (fresh, place) = (incoming(root, &staged.what).join(room), root.join(room));
    if !fresh.exists() {
        return Ok(());
    }
    if place.exists() {
        let aside = root.join(ASIDE).join(&staged.aside);
        before("move aside")?;
        create_private(&aside)?;
        // Its name must not be lost with what is about to be moved below it.
        sync_dir(&root.join(ASIDE))?;
        fs::rename(&place, free(&aside, room))?;
        sync_dir(&aside)?;
        sync_dir(root)?;
        crate::failpoint::failpoint!("swap::after_aside");
    }
    before("put in place")?;
    fs::rename(&fresh, &place)?;
    sync_dir(root)?;
    crate::failpoint::failpoint!("swap::after_room");
    Ok(())
}

/// A free name for a room that is moved aside. One of that name is there when somebody made the room again between two
/// starts; neither is lost.
fn free(aside: &Path, room: &str) -> PathBuf {
    let first = aside.join(room);
    if !first.exists() {
        return first;
    }
    (2_u32..).map(|nth| aside.join(format!("{room}-{nth}"))).find(|path| !path.exists()).unwrap_or(first)
}

/// Removes what was being made when a process ended.
fn clear(root: &Path, before: &mut dyn FnMut(&'static str) -> io::Result<()>) -> Result<(), StartError> {
    let leftovers = root.join(INCOMING);
    if !leftovers.exists() {
        return Ok(());
    }
    let removed = before("remove leftovers").and_then(|()| fs::remove_dir_all(&leftovers));
    removed.map_err(StartError::dir("remove", &leftovers))
}

/// A marker that leads nowhere but to the rooms.
fn parse(bytes: &[u8]) -> Option<Staged> {
    let staged: Staged = serde_json::from_slice(bytes).ok()?;
    let plain = |name: &str| !name.is_empty() && !name.starts_with('.') && !name.contains('/');
    let rooms = staged.rooms.iter().all(|room| ROOMS.contains(&room.as_str()));
    (staged.version == VERSION && plain(&staged.what) && plain(&staged.aside) && rooms).then_some(staged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(path: &Path, text: &str) {
        create_private(path).unwrap();
        fs::write(path.join("content"), text).unwrap();
    }

    fn content(path: &Path) -> Option<String> {
        fs::read_to_string(path.join("content")).ok()
    }

    /// A directory with old rooms, and new ones for two of them.
    fn bench() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for room in ROOMS {
            put(&dir.path().join(room), "old");
        }
        for room in ["store", "blobs"] {
            put(&incoming(dir.path(), "restore").join(room), "new");
        }
        dir
    }

    #[test]
    fn without_the_marker_everything_is_as_it_was() {
        let dir = bench();
        assert_eq!(carry_out(dir.path()).unwrap(), None);
        assert!(ROOMS.iter().all(|room| content(&dir.path().join(room)).as_deref() == Some("old")));
        assert!(!dir.path().join(INCOMING).exists());
    }

    #[test]
    fn with_the_marker_the_new_rooms_are_there_wherever_it_is_interrupted() {
        let mut interrupted = 0;
        for stop_at in 0.. {
            let dir = bench();
            let aside = stage(dir.path(), "restore", SystemTime::UNIX_EPOCH).unwrap();
            assert_eq!(aside, "aside/restore-19700101T000000Z");
            let mut steps = 0;
            let first = carry_out_with(dir.path(), &mut |_| {
                steps += 1;
                if steps > stop_at { Err(io::Error::other("killed")) } else { Ok(()) }
            });
            interrupted += usize::from(first.is_err());
            carry_out(dir.path()).unwrap();
            for (room, new, old) in
                [("store", "new", Some("old")), ("blobs", "new", Some("old")), ("transcripts", "old", None)]
            {
                assert_eq!(content(&dir.path().join(room)).as_deref(), Some(new), "{room}, step {stop_at}");
                let replaced = content(&dir.path().join(&aside).join(room));
                assert_eq!(replaced.as_deref(), old, "{room}, step {stop_at}");
            }
            assert!(!dir.path().join(MARKER).exists() && !dir.path().join(INCOMING).exists());
            if first.is_ok() {
                break;
            }
        }
        assert_eq!(interrupted, 6);
    }

    #[test]
    fn a_room_that_came_back_between_two_starts_is_kept_too() {
        let dir = bench();
        let aside = stage(dir.path(), "restore", SystemTime::UNIX_EPOCH).unwrap();
        let mut steps = 0;
        carry_out_with(dir.path(), &mut |_| {
            steps += 1;
            if steps > 1 { Err(io::Error::other("killed")) } else { Ok(()) }
        })
        .unwrap_err();
        put(&dir.path().join("store"), "made by somebody");
        carry_out(dir.path()).unwrap();
        let aside = dir.path().join(aside);
        assert_eq!(content(&aside.join("store")).as_deref(), Some("old"));
        assert_eq!(content(&aside.join("store-2")).as_deref(), Some("made by somebody"));
        assert_eq!(content(&dir.path().join("store")).as_deref(), Some("new"));
    }

    #[test]
    fn a_marker_that_leads_elsewhere_is_refused() {
        let marker = |what: &str, aside: &str, room: &str| {
            format!(r#"{{"version":1,"what":"{what}","aside":"{aside}","rooms":["{room}"]}}"#)
        };
        for bad in [
            marker("../x", "a", "store"),
            marker("restore", "../../a", "store"),
            marker("restore", "a", "../store"),
            marker("restore", "", "store"),
            "{}".to_owned(),
        ] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(MARKER), bad).unwrap();
            assert!(matches!(carry_out(dir.path()), Err(StartError::Marker { .. })));
        }
    }
}
