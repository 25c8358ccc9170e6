//! Names of people and things as parts of task names and file names: the coordinator makes them when it compiles a
//! workflow, and clients find the tasks of a row by them. Knows letters; refuses to know what is named.

use sha2::{Digest as _, Sha256};

/// Longest slug, in bytes: with the id of its task before it a task's name still has its 63.
pub const MAX_SLUG: usize = 40;

/// Latin letters with marks, each group after the letters that stand for it.
const LETTERS: &[(&str, &str)] = &[
    ("a", "àáâãäåāăąǎÀÁÂÃÄÅĀĂĄǍ"),
    ("ae", "æÆ"),
    ("c", "çćĉċčÇĆĈĊČ"),
    ("d", "ďđðĎĐÐ"),
    ("e", "èéêëēĕėęěÈÉÊËĒĔĖĘĚ"),
    ("g", "ĝğġģĜĞĠĢ"),
    ("h", "ĥħĤĦ"),
    ("i", "ìíîïĩīĭįıǐÌÍÎÏĨĪĬĮİǏ"),
    ("j", "ĵĴ"),
    ("k", "ķĶ"),
    ("l", "ĺļľłĹĻĽŁ"),
    ("n", "ñńņňÑŃŅŇ"),
    ("o", "òóôõöøōŏőǒÒÓÔÕÖØŌŎŐǑ"),
    ("oe", "œŒ"),
    ("r", "ŕŗřŔŖŘ"),
    ("s", "śŝşšșŚŜŞŠȘ"),
    ("ss", "ßẞ"),
    ("t", "ţťŧțŢŤŦȚ"),
    ("th", "þÞ"),
    ("u", "ùúûüũūŭůűųǔÙÚÛÜŨŪŬŮŰŲǓ"),
    ("w", "ŵŴ"),
    ("y", "ýÿŷÝŸŶ"),
    ("z", "źżžŹŻŽ"),
];

/// A name as part of an id: lower-case letters without marks and digits, everything else a single `-`, at most
/// [`MAX_SLUG`] bytes. A name without any such letter or digit becomes `n-` and the first eight hexadecimal digits of its
/// SHA-256, so that it is the same wherever it stands.
#[must_use]
pub fn slug(name: &str) -> String {
    let mut slug = String::new();
    for letter in name.chars() {
        // A mark that stands by itself belongs to the letter before it.
        if matches!(letter, '\u{300}'..='\u{36f}') {
            continue;
        }
        match plain(letter) {
            Some(plain) => slug.extend(plain.chars().map(|letter| letter.to_ascii_lowercase())),
            None if letter.is_ascii_alphanumeric() => slug.push(letter.to_ascii_lowercase()),
            // An apostrophe is no gap: `O'Neil` is `oneil`.
            None if matches!(letter, '\'' | '’') => {}
            None if !slug.is_empty() && !slug.ends_with('-') => slug.push('-'),
            None => {}
        }
    }
    slug.truncate(MAX_SLUG);
    let trimmed = slug.trim_end_matches('-').len();
    slug.truncate(trimmed);
    if slug.is_empty() {
        let digest: String = Sha256::digest(name).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        slug = format!("n-{digest}");
    }
    slug
}

/// Whether a row's own `slug` may stand in ids and file names as it is.
#[must_use]
pub fn is_slug(text: &str) -> bool {
    (1..=MAX_SLUG).contains(&text.len())
        && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn plain(letter: char) -> Option<&'static str> {
    LETTERS.iter().find(|(_, marked)| marked.contains(letter)).map(|(plain, _)| *plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_marks_case_and_whatever_is_no_letter() {
        for (name, expected) in [
            ("Emma Rodriguez", "emma-rodriguez"),
            ("Élodie  d’Œuvre", "elodie-doeuvre"),
            ("coordinator/core", "coordinator-core"),
            ("Łukasz Müller-Straße", "lukasz-muller-strasse"),
            ("e\u{301}lan", "elan"),
            ("  -- A --  ", "a"),
            ("../../etc", "etc"),
        ] {
            assert_eq!(slug(name), expected);
        }
        assert_eq!(slug("李明"), slug("李明"));
        assert_ne!(slug("李明"), slug("王芳"));
        assert!(slug("李明").starts_with("n-") && slug("").starts_with("n-"));
    }
}
