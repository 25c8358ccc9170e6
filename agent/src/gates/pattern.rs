//! Paths with `*`, `?` and `**`, as gates name files. Pure; takes time proportional to pattern times path, whatever both
//! look like: the pattern is a client's and the path is a model's.

/// Whether `path`, with `/` between its parts, is what `pattern` names: itself, or by `*` (any characters of one part),
/// `?` (one character of one part) and `**` (any number of parts, none included).
#[must_use]
pub(super) fn matches(pattern: &str, path: &str) -> bool {
    let (patterns, parts): (Vec<&str>, Vec<&str>) = (pattern.split('/').collect(), path.split('/').collect());
    // A file may be called what looks like a pattern.
    pattern == path
        || fits(&patterns, &parts, |pattern| *pattern == "**", |pattern, part| part_fits(pattern, part))
}

fn part_fits(pattern: &str, part: &str) -> bool {
    let (pattern, part): (Vec<char>, Vec<char>) = (pattern.chars().collect(), part.chars().collect());
    fits(&pattern, &part, |char| *char == '*', |wanted, found| *wanted == '?' || wanted == found)
}

/// Matches a sequence in which some elements stand for any number of others. It is enough to go back to the last such
/// element: what an earlier one took cannot help.
fn fits<P, T>(
    pattern: &[P],
    text: &[T],
    is_any: impl Fn(&P) -> bool,
    is_same: impl Fn(&P, &T) -> bool,
) -> bool {
    let (mut at, mut seen) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while seen < text.len() {
        match pattern.get(at) {
            Some(any) if is_any(any) => {
                back = Some((at, seen));
                at += 1;
            }
            Some(one) if is_same(one, &text[seen]) => (at, seen) = (at + 1, seen + 1),
            Some(_) | None => {
                let Some((any, from)) = back else { return false };
                back = Some((any, from + 1));
                (at, seen) = (any + 1, from + 1);
            }
        }
    }
    pattern[at..].iter().all(is_any)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn stars_stay_within_a_part_and_double_stars_do_not() {
        for (pattern, path) in [
            ("report.md", "report.md"),
            ("*.md", "report.md"),
            ("a/*/c.?s", "a/b/c.rs"),
            ("**", "a/b/c"),
            ("**/x", "x"),
            ("**/x", "a/b/x"),
            ("a/**/x", "a/x"),
            ("a/**/b/*.md", "a/1/b/2/b/r.md"),
            ("*ü??.md", "fühl.md"),
            ("[draft].md", "[draft].md"),
            ("*", "*"),
        ] {
            assert!(matches(pattern, path), "{pattern} {path}");
        }
        for (pattern, path) in [
            ("*.md", "a/report.md"),
            ("report.md", "Report.md"),
            ("?", ""),
            ("a/*", "a"),
            ("a/**/b", "a/c"),
            ("", "a"),
            ("a**b", "a/b"),
            ("*.md", "report.md5"),
        ] {
            assert!(!matches(pattern, path), "{pattern} {path}");
        }
    }

    #[test]
    fn a_pattern_made_to_take_for_ever_does_not() {
        let (pattern, path) = ("*a".repeat(500), "a".repeat(4_000));
        assert!(!matches(&format!("{pattern}b"), &path));
        assert!(!matches(&format!("{}b", "**/a/".repeat(500)), &"a/".repeat(2_000)));
    }

    proptest! {
        /// The plain recursive meaning, for one part.
        #[test]
        fn parts_match_as_they_should(pattern in "[ab*?]{0,8}", part in "[ab]{0,8}") {
            fn plain(pattern: &[u8], part: &[u8]) -> bool {
                match pattern.split_first() {
                    None => part.is_empty(),
                    Some((b'*', rest)) => (0..=part.len()).any(|skip| plain(rest, &part[skip..])),
                    Some((wanted, rest)) => part.split_first().is_some_and(|(found, left)| {
                        (*wanted == b'?' || wanted == found) && plain(rest, left)
                    }),
                }
            }
            prop_assert_eq!(part_fits(&pattern, &part), plain(pattern.as_bytes(), part.as_bytes()));
        }
    }
}
