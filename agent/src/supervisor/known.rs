//! The secrets of one attempt: those of its start, and those that appear in the login file it was lent while it runs,
//! because the CLI renews a login. Knows that one file, which the child may replace by anything at any time; refuses to
//! know what the tokens are good for.

use std::collections::VecDeque;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::redact::{Patterns, Redactor};
use super::spec::Secrets;
use crate::credentials::login_file::{LONGEST_LOGIN, Login};
use crate::credentials::within::Dir;

/// Most secrets that are learnt. A login is renewed every few hours; whoever has more of them is at play.
const MOST_LEARNT: usize = 64;

/// Most bytes of them together: every byte costs memory in several spellings. Real tokens have about a hundred.
const MOST_LEARNT_BYTES: usize = 8 * 1024;

/// Shortest text that is learnt. The child chooses it, and must not be able to blot out what the CLI says of itself.
const SHORTEST_LEARNT: usize = 20;

/// This many digits make a token of a text without capitals. Names of models hold up to ten, a random number in
/// hexadecimal about twenty.
const TELLING_DIGITS: usize = 12;

/// A file that was changed less than this before it was read is read again: two changes within one tick of the kernel's
/// clock look alike.
const UNSETTLED: Duration = Duration::from_secs(1);

/// What must not be seen in the output of an attempt.
pub struct Known {
    start: Vec<String>,
    /// The oldest first.
    learnt: VecDeque<String>,
    login: Option<PathBuf>,
    /// The login file as it was when it was last read, if it can be told from another one.
    seen: Option<Stamp>,
    patterns: Arc<Patterns>,
}

/// What changes when a file is replaced or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Known({} of the start, {} learnt)", self.start.len(), self.learnt.len())
    }
}

impl Known {
    /// What is known at the start.
    #[must_use]
    pub fn new(secrets: &Secrets) -> Self {
        let mut start = secrets.redact.clone();
        start.extend(secrets.gateway.iter().flat_map(|gateway| [gateway.key.clone(), gateway.token.clone()]));
        start.sort_unstable();
        start.dedup();
        // The spellings of the shorter ones go first where there are too many.
        start.sort_unstable_by_key(String::len);
        let patterns = Arc::new(Patterns::new(start.iter().map(String::as_str)));
        Self { start, learnt: VecDeque::new(), login: secrets.login.clone(), seen: None, patterns }
    }

    /// A redactor of a stream that has not begun.
    #[must_use]
    pub fn redactor(&self) -> Redactor {
        Redactor::of(self.patterns())
    }

    /// What is looked for now.
    #[must_use]
    pub fn patterns(&self) -> Arc<Patterns> {
        Arc::clone(&self.patterns)
    }

    /// Looks whether the login file holds anything new. Never waits and follows no link; what cannot be read or is no
    /// login teaches nothing.
    pub fn look(&mut self) {
        let Some(login) = self.read_if_changed() else { return };
        let texts = login.secrets().into_iter().filter(|text| is_token(text) && !self.start.contains(text));
        let mut is_new = false;
        for text in texts.take(MOST_LEARNT).collect::<Vec<_>>() {
            let known = self.learnt.iter().position(|one| *one == text);
            is_new |= known.is_none();
            if let Some(at) = known {
                self.learnt.remove(at);
            }
            self.learnt.push_back(text);
        }
        if !is_new {
            return;
        }
        while self.learnt.len() > MOST_LEARNT
            || self.learnt.iter().map(String::len).sum::<usize>() > MOST_LEARNT_BYTES
        {
            self.learnt.pop_front();
        }
        let texts = self.start.iter().chain(self.learnt.iter().rev());
        self.patterns = Arc::new(Patterns::new(texts.map(String::as_str)));
    }

    /// Every text that is looked for now.
    #[must_use]
    pub fn texts(&self) -> Vec<String> {
        self.start.iter().chain(&self.learnt).cloned().collect()
    }

    /// The login, unless the file is the one that was read before.
    fn read_if_changed(&mut self) -> Option<Login> {
        let path = self.login.as_ref()?;
        let name = path.file_name()?.to_str()?;
        let file = Dir::open(path.parent()?).ok()?.open_plain(name).ok()??;
        let found = file.metadata().ok()?;
        let stamp = Stamp {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        };
        if self.seen == Some(stamp) {
            return None;
        }
        // The time of the last change cannot be set by a child.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let changed = Duration::from_secs(found.ctime().try_into().unwrap_or_default());
        self.seen = (now > changed + UNSETTLED + UNSETTLED).then_some(stamp);
        Login::parse(&Dir::read_plain(file, LONGEST_LOGIN).ok()??)
    }
}

/// Whether a text is spelled as tokens are (RFC 6750, 2.1), and as no name or word of the CLI's own lines is.
fn is_token(text: &str) -> bool {
    let count = |of: fn(&u8) -> bool| text.bytes().filter(of).count();
    let digits = count(u8::is_ascii_digit);
    let mixed = digits > 0 && count(u8::is_ascii_uppercase) > 0;
    (SHORTEST_LEARNT..=MOST_LEARNT_BYTES).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte))
        && (mixed || digits >= TELLING_DIGITS)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    struct Scene {
        dir: tempfile::TempDir,
        known: Known,
    }

    fn token(number: usize) -> String {
        format!("sk-ant-oat01-Canary-{number:06}")
    }

    fn login(access: &str, refresh: &str) -> String {
        serde_json::json!({"claudeAiOauth": {"accessToken": access, "refreshToken": refresh}}).to_string()
    }

    impl Scene {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let secrets = Secrets {
                redact: vec![token(0)],
                login: Some(dir.path().join("login")),
                ..Secrets::default()
            };
            Self { dir, known: Known::new(&secrets) }
        }

        fn path(&self) -> PathBuf {
            self.dir.path().join("login")
        }

        fn replace(&self, text: &str) {
            let new = self.dir.path().join("new");
            fs::write(&new, text).unwrap();
            fs::rename(new, self.path()).unwrap();
        }

        fn hides(&mut self, text: &str) -> bool {
            self.known.look();
            let (mut redactor, mut out) = (self.known.redactor(), Vec::new());
            redactor.push(text.as_bytes(), &mut out);
            redactor.finish(&mut out);
            assert_eq!(out.len(), text.len());
            out.iter().all(|byte| *byte == b'*')
        }
    }

    #[test]
    fn tokens_of_a_renewed_login_are_known_and_stay_known_when_it_is_renewed_again() {
        let mut scene = Scene::new();
        assert!(scene.hides(&token(0)) && !scene.hides(&token(1)));
        for number in [1, 3] {
            scene.replace(&login(&token(number), &token(number + 1)));
            assert!(scene.hides(&token(number)) && scene.hides(&token(number + 1)));
        }
        fs::remove_file(scene.path()).unwrap();
        for number in 0..5 {
            assert!(scene.hides(&token(number)), "{number}");
        }
        assert!(scene.hides(&hex::encode(token(2))), "also in other spellings");
        assert!(!format!("{:?}", scene.known).contains("Canary"));
    }

    #[test]
    fn a_change_in_place_within_one_tick_is_seen() {
        let mut scene = Scene::new();
        for number in 1..50 {
            fs::write(scene.path(), login(&token(number), &token(0))).unwrap();
            assert!(scene.hides(&token(number)), "{number}");
        }
    }

    #[test]
    fn only_a_file_that_has_long_been_as_it_is_is_not_read_again() {
        let mut scene = Scene::new();
        scene.replace(&login(&token(1), &token(2)));
        assert!(scene.known.read_if_changed().is_some() && scene.known.read_if_changed().is_some());
        scene.known.login = Some(PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")));
        scene.known.look();
        assert!(scene.known.seen.is_some());
    }

    #[test]
    fn whatever_else_a_child_puts_there_teaches_nothing_and_holds_nobody_up() {
        let mut scene = Scene::new();
        let other = scene.dir.path().join("other");
        fs::write(&other, login(&token(1), &token(2))).unwrap();
        symlink(&other, scene.path()).unwrap();
        assert!(!scene.hides(&token(1)), "a link");
        fs::remove_file(scene.path()).unwrap();
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, scene.path(), rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert!(!scene.hides(&token(1)), "a pipe");
        fs::remove_file(scene.path()).unwrap();
        fs::create_dir(scene.path()).unwrap();
        assert!(!scene.hides(&token(1)), "a directory");
        fs::remove_dir(scene.path()).unwrap();
        let long = format!("{}{}", login(&token(1), &token(2)), " ".repeat(LONGEST_LOGIN));
        let nested = "[".repeat(LONGEST_LOGIN);
        for garbage in ["", "{", "[]", &long, &nested] {
            scene.replace(garbage);
            assert!(!scene.hides(&token(1)), "{garbage:.40}");
        }
        fs::File::create(scene.path()).unwrap().set_len(1 << 40).unwrap();
        assert!(!scene.hides(&token(1)), "a file of a terabyte");
    }

    #[test]
    fn only_so_many_are_kept_and_those_of_the_start_always() {
        let mut scene = Scene::new();
        for number in 1..=MOST_LEARNT + 10 {
            scene.replace(&login(&token(number), &token(0)));
            scene.known.look();
        }
        assert_eq!(scene.known.learnt.len(), MOST_LEARNT);
        assert!(scene.hides(&token(0)) && scene.hides(&token(11)) && scene.hides(&hex::encode(token(0))));
        assert!(!scene.hides(&token(10)));
        for number in 0..20 {
            scene.replace(&login(&format!("{}{}", token(number), "x".repeat(3_000)), ""));
            scene.known.look();
        }
        assert!(scene.known.learnt.iter().map(String::len).sum::<usize>() <= MOST_LEARNT_BYTES);
        assert!(scene.hides(&hex::encode(token(0))));
        let many: serde_json::Map<_, _> =
            (0..1_000).map(|number| (format!("key{number}"), token(number).into())).collect();
        scene
            .replace(&serde_json::json!({"claudeAiOauth": {"accessToken": token(0)}, "x": many}).to_string());
        scene.known.look();
        assert!(scene.known.learnt.len() <= MOST_LEARNT);
    }

    #[test]
    fn a_child_cannot_have_the_words_of_the_cli_blotted_out() {
        for word in [
            "result",
            "\"type\":\"result\",\"A1\"",
            "ephemeral_5m_input_tokens",
            "cacheCreationInputTokens",
            "claude-sonnet-4-5-20250929",
            "total_cost_usd",
            "2026-11-21 A B C D E F",
        ] {
            assert!(!is_token(word), "{word}");
        }
        assert!(is_token(&token(1)) && is_token("3f2b8c1d9e4a7f6053b1c8d2e9a4f7b0"));
    }
}
