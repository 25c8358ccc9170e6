//! Names close to a mistyped one.
//! Knows only words; costs nothing worth saving, because it is asked once a mistake.

/// Names looked at; a run may have 100,000 tasks.
const LOOKED_AT: usize = 10_000;

/// The names nearest to `wanted`, best first: at most a third of its letters away.
pub(crate) fn nearest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>, most: usize) -> Vec<String> {
    let wanted: Vec<char> = wanted.chars().collect();
    let reach = (wanted.len() / 3).max(1);
    let close = |name: &&str| name.len().abs_diff(wanted.len()) <= reach;
    let mut found: Vec<(usize, &str)> = names
        .take(LOOKED_AT)
        .filter(close)
        .map(|name| (distance(&wanted, name), name))
        .filter(|(distance, _)| *distance <= reach)
        .collect();
    found.sort_unstable();
    found.into_iter().take(most).map(|(_, name)| name.to_owned()).collect()
}

/// Letters to insert, drop or replace to make one word the other.
fn distance(wanted: &[char], name: &str) -> usize {
    let mut row: Vec<usize> = (0..=wanted.len()).collect();
    for (line, letter) in name.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, other) in wanted.iter().enumerate() {
            let replaced = diagonal + usize::from(*other != letter);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[wanted.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_names_come_first_and_far_ones_not_at_all() {
        let names = ["evaluate-12", "evaluate-1", "plan", "evaluat-1"];
        assert_eq!(nearest("evaluate1", names.into_iter(), 3), ["evaluat-1", "evaluate-1", "evaluate-12"]);
        assert!(nearest("zebra", names.into_iter(), 3).is_empty());
    }
}
