//! A file system in a file, which can lose its power: made, mounted and taken away again by the test that holds it. It
//! touches no device but the loop device that its own mount brings, which goes with the mount.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// The file system is told to stop at once, without writing its journal: `EXT4_IOC_SHUTDOWN` (in xfs under the same
/// number) with `NOLOGFLUSH`. Perl, because its ioctl needs no unsafe code of ours.
const SHUTDOWN: &str = r#"open(my $dir, "<", $ARGV[0]) or die "open: $!";
my $flags = pack("L", 2);
defined(ioctl($dir, 0x8004587d, $flags)) or die "ioctl: $!";"#;

/// A kind of file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Ext4,
    Xfs,
}

/// A mounted file system of its own. Unmounted and removed when dropped.
#[derive(Debug)]
pub(super) struct LoopFs {
    image: PathBuf,
    at: PathBuf,
    mounted: bool,
    options: &'static str,
    _dir: TempDir,
}

impl LoopFs {
    /// A file system of so many MiB, or why there can be none here.
    pub(super) fn make(kind: Kind, mebibytes: u64, options: &'static str) -> Result<Self, String> {
        Self::make_at(None, kind, mebibytes, options)
    }

    /// The same, mounted on the directory `at`.
    pub(super) fn make_at(
        at: Option<&Path>,
        kind: Kind,
        mebibytes: u64,
        options: &'static str,
    ) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("needs root and a loop device".to_owned());
        }
        let dir =
            tempfile::Builder::new().prefix("orch-disk-").tempdir().map_err(|error| error.to_string())?;
        let image = dir.path().join("image");
        let at = at.map_or_else(|| dir.path().join("mount"), Path::to_owned);
        std::fs::create_dir_all(&at).map_err(|error| error.to_string())?;
        let file = std::fs::File::create(&image).map_err(|error| error.to_string())?;
        file.set_len(mebibytes << 20).map_err(|error| error.to_string())?;
        let mut make = match kind {
            Kind::Ext4 => Command::new("mkfs.ext4"),
            Kind::Xfs => Command::new("mkfs.xfs"),
        };
        match kind {
            // No reserve for root: the daemons are root's here, and a full disk is to be full.
            Kind::Ext4 => make.args(["-q", "-F", "-m", "0"]),
            Kind::Xfs => make.args(["-q", "-f"]),
        };
        let said = make.arg(&image).output().map_err(|error| format!("cannot run {make:?}: {error}"))?;
        if !said.status.success() {
            return Err(format!("{make:?}: {}", text(&said)));
        }
        let mut made = Self { image, at, mounted: false, options, _dir: dir };
        made.mount().map_err(|why| format!("needs root and a loop device: {why}"))?;
        Ok(made)
    }

    /// Where it is mounted.
    pub(super) fn path(&self) -> &Path {
        &self.at
    }

    fn mount(&mut self) -> Result<(), String> {
        let options = format!("loop,{}", self.options);
        run(Command::new("mount").args(["-o", &options]).arg(&self.image).arg(&self.at))?;
        self.mounted = true;
        Ok(())
    }

    /// From now on nothing reaches the disk any more, and what has not reached it is lost.
    pub(super) fn lose_power(&self) -> Result<(), String> {
        run(Command::new("perl").args(["-e", SHUTDOWN]).arg(&self.at))
    }

    /// Unmounts and mounts again, as a start after the loss does: the journal is replayed. Nothing may use it.
    ///
    /// # Panics
    /// When the file system does not come back.
    pub(super) fn come_back(&mut self) {
        orch_tests::wait::until("the file system to be let go", || {
            run(Command::new("umount").arg(&self.at)).ok()
        });
        self.mounted = false;
        // A sandbox that began before has it in a mount namespace of its own until it ends; until then the next mount would
        // be of the same file system without power.
        orch_tests::wait::until("the loop device to go", || {
            let said = Command::new("losetup").arg("-j").arg(&self.image).output().ok()?;
            (said.status.success() && said.stdout.is_empty()).then_some(())
        });
        self.mount().expect("the file system comes back");
    }

    /// Takes every right to write away, or gives it back.
    pub(super) fn read_only(&self, yes: bool) -> Result<(), String> {
        let mode = if yes { "remount,ro" } else { "remount,rw" };
        run(Command::new("mount").args(["-o", mode]).arg(&self.at))
    }
}

impl Drop for LoopFs {
    fn drop(&mut self) {
        if self.mounted && run(Command::new("umount").arg(&self.at)).is_err() {
            // Something still uses it, and goes: a test that failed has processes that are about to end.
            let _ = run(Command::new("umount").arg("--lazy").arg(&self.at));
        }
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let said = command.output().map_err(|error| format!("cannot run {command:?}: {error}"))?;
    if said.status.success() { Ok(()) } else { Err(format!("{command:?}: {}", text(&said))) }
}

fn text(said: &Output) -> String {
    String::from_utf8_lossy(&said.stderr).trim().to_owned()
}

/// A tmpfs of so many KiB and inodes: full at another place each time. Unmounted when dropped.
#[derive(Debug)]
pub(super) struct SmallFs {
    at: PathBuf,
    _dir: TempDir,
}

impl SmallFs {
    /// One, or why there can be none here.
    pub(super) fn make(kibibytes: u64, inodes: u64) -> Result<Self, String> {
        Self::make_at(None, kibibytes, inodes)
    }

    /// The same, mounted on the directory `at`.
    pub(super) fn make_at(at: Option<&Path>, kibibytes: u64, inodes: u64) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("needs root".to_owned());
        }
        let dir =
            tempfile::Builder::new().prefix("orch-small-").tempdir().map_err(|error| error.to_string())?;
        let at = at.unwrap_or_else(|| dir.path()).to_owned();
        std::fs::create_dir_all(&at).map_err(|error| error.to_string())?;
        let made = Self { at, _dir: dir };
        made.mount("", kibibytes, inodes)?;
        Ok(made)
    }

    fn mount(&self, again: &str, kibibytes: u64, inodes: u64) -> Result<(), String> {
        let options = format!("{again}mode=700,size={kibibytes}k,nr_inodes={inodes}");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&self.at))
    }

    /// Gives it more room.
    pub(super) fn grow(&self, kibibytes: u64, inodes: u64) -> Result<(), String> {
        self.mount("remount,", kibibytes, inodes)
    }

    /// Where it is mounted.
    pub(super) fn path(&self) -> &Path {
        &self.at
    }
}

impl Drop for SmallFs {
    fn drop(&mut self) {
        if run(Command::new("umount").arg(&self.at)).is_err() {
            let _ = run(Command::new("umount").arg("--lazy").arg(&self.at));
        }
    }
}
