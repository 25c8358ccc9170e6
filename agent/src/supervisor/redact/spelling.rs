//! How one secret may be spelled. Pure; knows encodings, no stream.

/// What stays as it is in a URL (RFC 3986, 2.3).
const UNRESERVED: &[u8] = b"-._~";

const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const URL_SAFE: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// As it is, as JSON text spells it, as JSON text within JSON text, as a URL spells it.
pub(super) fn plain(secret: &str) -> Vec<Vec<u8>> {
    let once = in_json(secret);
    let twice = in_json(&once);
    let slashed = once.replace('/', "\\/");
    let (upper, lower) = (in_url(secret, false), in_url(secret, true));
    [secret.to_owned(), once, twice, slashed, upper, lower].map(String::into_bytes).into()
}

/// The characters that any base64 text has which holds the secret: in each of the two alphabets, for each of the three
/// ways it can lie in groups of three bytes, without the characters at both ends that its neighbours have a share in.
pub(super) fn base64(secret: &str) -> Vec<Vec<u8>> {
    let bytes = secret.as_bytes();
    let mut found = Vec::new();
    for alphabet in [STANDARD, URL_SAFE] {
        for before in 0..3_usize {
            let first = (8 * before).div_ceil(6);
            let last = 8 * (before + bytes.len()) / 6;
            found.push((first..last).map(|index| alphabet[sextet(bytes, before, index)]).collect());
        }
    }
    found
}

/// In lower-case digits.
pub(super) fn hexadecimal(secret: &str) -> Vec<u8> {
    hex::encode(secret).into_bytes()
}

/// The value of character `index` when `before` unknown bytes stand before the secret.
fn sextet(bytes: &[u8], before: usize, index: usize) -> usize {
    (6 * index..6 * index + 6).fold(0, |value, bit| {
        let byte = (bit / 8).checked_sub(before).and_then(|at| bytes.get(at)).copied().unwrap_or_default();
        value << 1 | usize::from(byte >> (7 - bit % 8) & 1)
    })
}

fn in_json(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    quoted.get(1..quoted.len() - 1).unwrap_or_default().to_owned()
}

fn in_url(text: &str, lower: bool) -> String {
    text.bytes()
        .map(|byte| match byte {
            plain if plain.is_ascii_alphanumeric() || UNRESERVED.contains(&plain) => {
                char::from(plain).to_string()
            }
            other if lower => format!("%{other:02x}"),
            other => format!("%{other:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_base64_text_that_holds_the_secret_has_one_of_the_spellings() {
        // `printf '%s' 'xsecret+/>?y' | base64` and its neighbours.
        let texts = [
            ("c2VjcmV0Pj8+", "secret>?>"),
            ("eHNlY3JldD4/Png=", "secret>?>"),
            ("eHhzZWNyZXQ+Pz54eA==", "secret>?>"),
        ];
        for (text, secret) in texts {
            let spellings = base64(secret);
            let held = spellings.iter().any(|one| text.contains(std::str::from_utf8(one).unwrap()));
            assert!(held, "{text}");
            assert!(spellings.iter().all(|one| one.len() * 6 >= secret.len() * 8 - 10));
        }
        assert!(base64("secret>?>").contains(&b"c2VjcmV0Pj8-".to_vec()), "the alphabet of URLs");
    }

    #[test]
    fn json_and_urls_spell_it_their_way() {
        let spelled: Vec<String> =
            plain("a\"b/c d").into_iter().map(|bytes| String::from_utf8(bytes).unwrap()).collect();
        assert_eq!(
            spelled,
            ["a\"b/c d", r#"a\"b/c d"#, r#"a\\\"b/c d"#, r#"a\"b\/c d"#, "a%22b%2Fc%20d", "a%22b%2fc%20d"]
        );
        assert_eq!(hexadecimal("az"), b"617a");
    }
}
