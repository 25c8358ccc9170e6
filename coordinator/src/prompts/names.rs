//! Names in prompt files: their form, and which known name a wrong one resembles.

/// Longest name, in bytes.
const MAX_NAME_BYTES: usize = 63;

/// Whether `name` may name a worker, a sub-agent or a template: `[a-z][a-z0-9-]{0,62}`.
pub(super) fn is_valid(name: &str) -> bool {
    name.len() <= MAX_NAME_BYTES
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

/// The candidate that `name` was probably meant to be, if any is near enough: at most a third of the name's
/// characters differ, case aside. Ties go to the candidate that comes first.
pub(crate) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Distance is quadratic in length, and nobody misspells a name into a page of text.
    if name.len() > 2 * MAX_NAME_BYTES {
        return None;
    }
    let wanted = name.to_lowercase();
    let allowed = (wanted.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&wanted, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_lower_case_words() {
        for good in ["a", "marie", "test-runner", "w2"] {
            assert!(is_valid(good), "{good}");
        }
        assert!(is_valid(&"a".repeat(63)));
        for bad in ["", "Marie", "2w", "-a", "a_b", "a b", "../a", "é", "a\0", "a/b"] {
            assert!(!is_valid(bad), "{bad:?}");
        }
        assert!(!is_valid(&"a".repeat(64)));
    }

    #[test]
    fn the_nearest_name_is_found_within_a_third_of_its_length() {
        let known = ["anga", "fabien", "marie"];
        assert_eq!(nearest("mary", known), None);
        assert_eq!(nearest("maria", known), Some("marie"));
        assert_eq!(nearest("Marie", known), Some("marie"));
        assert_eq!(nearest("anag", known), Some("anga"));
        assert_eq!(nearest("fabian", known), Some("fabien"));
        assert_eq!(nearest("orchestrator", known), None);
        assert_eq!(nearest("", known), None);
        let (long, near) = ("x".repeat(130), "x".repeat(129));
        assert_eq!(nearest(&long, [near.as_str()]), None);
    }
}
