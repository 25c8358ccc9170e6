//! Which of the wanted files an attempt handed over. Looks at names, kinds and lengths; follows no link, opens no file.
//! Nothing of the attempt runs any more.

use std::fs;
use std::path::{Path, PathBuf};

use super::pattern::matches;

/// Most entries that are looked at. Whoever hands over more has made a mistake, and the look must end.
const MOST_ENTRIES: usize = 1_000_000;

/// Deepest directory that is looked into.
const DEPTH: usize = 64;

/// For each pattern whether a regular file that is not empty matches it beneath `out`. A link is no such file, whatever
/// it leads to; nor is a name that is not UTF-8. Blocks.
#[must_use]
pub(super) fn present(out: &Path, patterns: &[String]) -> Vec<bool> {
    let mut found = vec![false; patterns.len()];
    if !fs::symlink_metadata(out).is_ok_and(|place| place.is_dir()) {
        return found;
    }
    let mut left = MOST_ENTRIES;
    let mut open: Vec<(PathBuf, String, usize)> = vec![(out.to_owned(), String::new(), 0)];
    while let Some((dir, name, depth)) = open.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            left = left.saturating_sub(1);
            if left == 0 || found.iter().all(|found| *found) {
                return found;
            }
            // Both are those of the entry itself, not of what it leads to.
            let (Ok(kind), Ok(part)) = (entry.file_type(), entry.file_name().into_string()) else { continue };
            let path = if name.is_empty() { part } else { format!("{name}/{part}") };
            if kind.is_dir() {
                if depth < DEPTH {
                    open.push((entry.path(), path, depth + 1));
                }
            } else if kind.is_file() && entry.metadata().is_ok_and(|found| found.len() > 0) {
                for (pattern, found) in patterns.iter().zip(&mut found) {
                    *found = *found || matches(pattern, &path);
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn look(out: &Path, patterns: &[&str]) -> Vec<bool> {
        present(out, &patterns.iter().map(|pattern| (*pattern).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn only_files_with_something_in_them_count() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        fs::create_dir_all(out.join("sub/report.md")).unwrap();
        fs::write(out.join("empty.md"), "").unwrap();
        fs::write(out.join("sub/full.md"), "x").unwrap();
        assert_eq!(
            look(&out, &["empty.md", "sub/report.md", "sub/*.md", "**/full.md", "*.md"]),
            [false, false, true, true, false]
        );
        assert_eq!(look(&dir.path().join("none"), &["x"]), [false]);
        assert_eq!(look(&out, &[]), [] as [bool; 0]);
    }

    #[test]
    fn a_link_is_no_file_and_leads_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let (out, outside) = (dir.path().join("out"), dir.path().join("outside"));
        fs::create_dir(&out).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("report.md"), "somebody else's").unwrap();
        symlink(outside.join("report.md"), out.join("report.md")).unwrap();
        symlink(&outside, out.join("dir")).unwrap();
        symlink("/dev/zero", out.join("zero")).unwrap();
        assert_eq!(look(&out, &["report.md", "dir/report.md", "**", "zero"]), [false; 4]);
        // The directory itself may not be a link either: it is made by the agent, but the child may replace it.
        fs::remove_dir_all(&out).unwrap();
        fs::write(outside.join("x"), "x").unwrap();
        symlink(&outside, &out).unwrap();
        assert_eq!(look(&out, &["report.md"]), [false]);
    }
}
