//! What somebody may have meant who misspelt a name. Knows texts; refuses to know what they name.

/// Least likeness, from 0 to 1, that makes a suggestion.
const ALIKE: f64 = 0.75;

/// The name most like a misspelt one, if any is like it at all.
pub(crate) fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let scored = known.into_iter().map(|name| (strsim::normalized_damerau_levenshtein(wrong, name), name));
    let best = scored.max_by(|a, b| a.0.total_cmp(&b.0).then_with(|| b.1.cmp(a.1)))?;
    // Short names differ much by one letter; a shared beginning counts for them.
    let alike = best.0 >= ALIKE || strsim::jaro_winkler(wrong, best.1) >= 0.9;
    alike.then_some(best.1)
}

/// A question about the known name that is nearest to a misspelt one; empty if none is near.
pub(crate) fn did_you_mean<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(wrong, known).map(|name| format!("did you mean {name:?}?")).unwrap_or_default()
}
