//! What hostile children leave beneath `out/`.

use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, mkfifoat};

use super::*;

struct Out(tempfile::TempDir);

impl Out {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("out")).unwrap();
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join("out").join(name)
    }

    fn keep(&self) -> PathBuf {
        self.0.path().join("keep/7-0-1")
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), bytes).unwrap();
    }

    fn collect(&self) -> Result<Gathered, CollectError> {
        collect(&self.0.path().join("out"), &self.keep(), ArtifactLimits::default())
    }

    fn refusal(&self, limits: ArtifactLimits) -> String {
        let begun = Instant::now();
        let error = collect(&self.0.path().join("out"), &self.keep(), limits).unwrap_err();
        assert!(!self.keep().exists(), "nothing is half kept");
        assert!(begun.elapsed() < Duration::from_secs(20), "it took {:?}", begun.elapsed());
        error.to_string()
    }
}

#[test]
fn files_are_listed_by_path_and_their_bytes_are_kept_once() {
    let out = Out::new();
    out.write("b/report.md", "same");
    out.write("b.md", "same");
    out.write("a", "");
    fs::set_permissions(out.path("b.md"), fs::Permissions::from_mode(0o755)).unwrap();
    let gathered = out.collect().unwrap();
    let files = gathered.files.unwrap();
    assert_eq!((files.count, files.bytes, gathered.left_out.as_str()), (3, 8, ""));
    let manifest = kept(&out.keep()).unwrap();
    assert_eq!(manifest.encode_to_vec(), files.manifest);
    let listed: Vec<_> = manifest.artifacts.iter().map(|one| (one.path.as_str(), one.executable)).collect();
    assert_eq!(listed, [("a", false), ("b.md", true), ("b/report.md", false)]);
    let blob = manifest.artifacts[2].blob.as_ref().unwrap();
    assert_eq!(fs::read(kept_file(&out.keep(), &blob.digest)).unwrap(), b"same");
    assert_eq!(fs::read_dir(out.keep()).unwrap().count(), 3, "two contents and the manifest");
    assert_eq!(out.collect().unwrap().files.unwrap(), files, "the same again is the same");
}

#[test]
fn nothing_is_handed_over_where_nothing_is() {
    let out = Out::new();
    assert_eq!(out.collect().unwrap(), Gathered::default());
    fs::create_dir_all(out.path("empty/dirs")).unwrap();
    assert_eq!(out.collect().unwrap(), Gathered::default());
    fs::remove_dir_all(out.0.path().join("out")).unwrap();
    assert_eq!(out.collect().unwrap(), Gathered::default());
    assert!(!out.keep().exists());
}

#[test]
fn links_pipes_sockets_and_strange_names_are_left_out_and_named() {
    let out = Out::new();
    let secret = out.0.path().join("secret");
    fs::write(&secret, "key").unwrap();
    fs::create_dir(out.0.path().join("elsewhere")).unwrap();
    fs::write(out.0.path().join("elsewhere/x"), "key").unwrap();
    out.write("good", "x");
    symlink(&secret, out.path("l1")).unwrap();
    symlink("../../elsewhere", out.path("l2")).unwrap();
    mkfifoat(CWD, out.path("pipe"), Mode::from_raw_mode(0o600)).unwrap();
    let _socket = UnixListener::bind(out.path("sock")).unwrap();
    out.write("new\nline", "x");
    fs::write(out.path("").join(OsStr::from_bytes(b"\xff")), "x").unwrap();
    let gathered = out.collect().unwrap();
    assert_eq!(gathered.files.unwrap().count, 1);
    assert_eq!(
        gathered.left_out,
        "left out of what it handed over: out/l1 (a link), out/l2 (a link), out/new\\nline (its name holds control \
         characters), out/pipe (a pipe), out/sock (a socket), out/\u{fffd} (its name is not UTF-8)"
    );
    for name in 0..20 {
        symlink(&secret, out.path(&format!("m{name:02}"))).unwrap();
    }
    assert!(out.collect().unwrap().left_out.ends_with(" and 18 more"));
}

#[test]
fn a_link_in_the_place_of_out_is_refused() {
    let out = Out::new();
    fs::create_dir(out.0.path().join("agent")).unwrap();
    fs::write(out.0.path().join("agent/key"), "x").unwrap();
    fs::remove_dir(out.0.path().join("out")).unwrap();
    symlink("agent", out.0.path().join("out")).unwrap();
    assert!(matches!(out.collect(), Err(CollectError::Io(_))));
}

#[test]
fn a_huge_sparse_file_is_refused_before_it_is_read() {
    let out = Out::new();
    out.write("a", "small");
    File::create(out.path("huge")).unwrap().set_len(1 << 40).unwrap();
    assert_eq!(
        out.refusal(ArtifactLimits::default()),
        "it handed over too much beneath out/: out/huge has 1024.0 GiB; a file may have 1.0 GiB"
    );
    fs::remove_file(out.path("huge")).unwrap();
    for name in 0..5 {
        File::create(out.path(&format!("big{name}"))).unwrap().set_len(1 << 30).unwrap();
    }
    let refused = out.refusal(ArtifactLimits::default());
    assert!(refused.ends_with("its files together have more than 4.0 GiB"), "{refused}");
}

#[test]
fn too_many_files_or_entries_or_levels_are_refused() {
    let out = Out::new();
    let few = ArtifactLimits { files: 50, entries: 200, ..ArtifactLimits::default() };
    for name in 0..51 {
        out.write(&format!("f{name}"), "");
    }
    assert!(out.refusal(few).ends_with("more than 50 files"));
    for name in 0..200 {
        symlink("x", out.path(&format!("l{name}"))).unwrap();
    }
    assert!(out.refusal(few).ends_with("more than 200 entries"));
    let deep = Out::new();
    let mut path = "d/".repeat(31) + "file";
    deep.write(&path, "x");
    assert_eq!(deep.collect().unwrap().files.unwrap().count, 1);
    path = "d/".repeat(32) + "file";
    deep.write(&path, "x");
    assert!(deep.refusal(ArtifactLimits::default()).ends_with("is deeper than 32 directories"));
    let long = Out::new();
    long.write(&[&"x".repeat(250); 5].map(String::as_str).join("/"), "x");
    assert!(long.refusal(ArtifactLimits::default()).contains("longer than 1024 bytes"));
}

#[test]
fn twenty_thousand_links_in_one_directory_end_it_as_well() {
    let out = Out::new();
    for name in 0..20_001 {
        symlink("x", out.path(&name.to_string())).unwrap();
    }
    assert!(out.refusal(ArtifactLimits::default()).ends_with("more than 20000 entries"));
}

#[test]
fn a_file_that_never_rests_is_refused() {
    let out = Out::new();
    out.write("log", "x");
    let path = out.path("log");
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flag = std::sync::Arc::clone(&stop);
    let writer = std::thread::spawn(move || {
        let mut file = OpenOptions::new().append(true).open(path).unwrap();
        while !flag.load(std::sync::atomic::Ordering::Relaxed) {
            // It grows and shrinks, so that the disk does not fill while the test waits.
            file.write_all(&[1; 4096]).unwrap();
            file.set_len(1).unwrap();
        }
    });
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut refused = None;
    while refused.is_none() && Instant::now() < deadline {
        refused = out.collect().err();
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    writer.join().unwrap();
    let refused = refused.expect("a file in motion is noticed").to_string();
    assert!(refused.starts_with("the file out/log changed") || refused.contains("grew"), "{refused}");
    assert!(!out.keep().exists());
    assert_eq!(out.collect().unwrap().files.unwrap().count, 1, "once it rests it is taken");
}

#[test]
fn what_no_report_needs_any_more_is_swept() {
    let dir = tempfile::tempdir().unwrap();
    let kept = Kept::new(dir.path().join("handed"));
    kept.sweep(&[]);
    let keys = [1, 2].map(|task| AttemptKey { run: 7, task, attempt: 1 });
    for key in keys {
        fs::create_dir_all(kept.of(key)).unwrap();
        fs::write(kept.of(key).join(MANIFEST), "x").unwrap();
    }
    kept.sweep(&keys[..1]);
    assert_eq!((kept.of(keys[0]).exists(), kept.of(keys[1]).exists()), (true, false));
}
