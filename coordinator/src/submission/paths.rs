//! Relative paths and globs, as gates and publications name files.
//! Knows what a path may look like; refuses to know any directory.
//!
//! A glob has three signs: `*` and `?` within one part of the path, and `**` as a whole part for any number of parts. Every
//! other character means itself.

/// Longest path, in bytes.
const MAX_PATH_BYTES: usize = 1_024;
/// Longest part of a path: what file systems take.
const MAX_PART_BYTES: usize = 255;

/// Checks a path that must stay beneath the directory it is relative to.
///
/// # Errors
/// In plain English, what is wrong with it.
pub(super) fn check_path(path: &str) -> Result<(), String> {
    if path.is_empty() {
        return Err("is empty".to_owned());
    }
    if path.len() > MAX_PATH_BYTES {
        return Err(format!("has {} bytes; at most {MAX_PATH_BYTES}", path.len()));
    }
    if path.starts_with('/') {
        return Err("is absolute; it must be relative".to_owned());
    }
    if path.chars().any(char::is_control) {
        return Err("holds a control character".to_owned());
    }
    for part in path.split('/') {
        match part {
            "" => return Err("has an empty part".to_owned()),
            "." | ".." => return Err(format!("has the part `{part}`")),
            part if part.len() > MAX_PART_BYTES => {
                return Err(format!("has a part of {} bytes; at most {MAX_PART_BYTES}", part.len()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Checks a path or glob.
///
/// # Errors
/// In plain English, what is wrong with it.
pub(super) fn check_glob(glob: &str) -> Result<(), String> {
    check_path(glob)?;
    glob.split('/').try_for_each(check_glob_part)
}

fn check_glob_part(part: &str) -> Result<(), String> {
    if part == "**" {
        return Ok(());
    }
    if part.contains("**") {
        return Err("has `**` beside other characters; it stands alone between slashes".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_beneath_its_directory() {
        for path in
            ["a", "a/b.md", "ünï/ö.md", ".hidden/x", "a b", "..a/b..", "p/".repeat(511).trim_end_matches('/')]
        {
            assert_eq!(check_path(path), Ok(()), "{path}");
        }
        let long = "x".repeat(256);
        for path in [
            "",
            "/a",
            "../a",
            "a/..",
            "a/./b",
            ".",
            "a//b",
            "a/",
            "a\0b",
            "a\nb",
            "\u{1b}[31m",
            &long,
            &"p/".repeat(600),
        ] {
            assert!(check_path(path).is_err(), "{path:?}");
        }
    }

    #[test]
    fn a_glob_can_be_matched() {
        for glob in ["*.md", "**/x.md", "a/**", "a/**/b?.txt", "**", "[a]"] {
            assert_eq!(check_glob(glob), Ok(()), "{glob}");
        }
        for glob in ["a**", "**a/b", "***", "a/b**/c", "../*", "/*", "**/.."] {
            assert!(check_glob(glob).is_err(), "{glob}");
        }
    }
}
