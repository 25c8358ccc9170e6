//! Finding a program as a shell would, once, so that what is executed later is an absolute path.
//! Executes nothing.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The file that `name` stands for: itself when it holds a slash, else the first match in `search_path`.
/// `None` when there is no executable file.
#[must_use]
pub fn find(name: &str, search_path: &str) -> Option<PathBuf> {
    if name.is_empty() {
        return None;
    }
    if name.contains('/') {
        return std::path::absolute(name).ok().filter(|path| is_executable(path));
    }
    let absolute = search_path.split(':').map(Path::new).filter(|dir| dir.is_absolute());
    absolute.map(|dir| dir.join(name)).find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_like_a_shell_finds_them() {
        assert_eq!(find("sh", "/nonexistent:/bin"), Some(PathBuf::from("/bin/sh")));
        assert_eq!(find("/bin/sh", ""), Some(PathBuf::from("/bin/sh")));
        for (name, path) in
            [("sh", ""), ("sh", "."), ("", "/bin"), ("/etc/passwd", ""), ("/bin", ""), ("nope", "/bin")]
        {
            assert_eq!(find(name, path), None, "{name} in {path}");
        }
    }
}
