//! Whether a credential can be used, as far as the CLI itself can say without asking anybody: `claude auth status`, run
//! in a throw-away directory and kept from the network. Knows that command; refuses to know where credentials come from.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::process::Command;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::login::LOGIN_FILE;
use super::login_file::Login;
use super::within::Dir;
use crate::secret::Secret;

/// Longest time the CLI may take; it was seen to take one second.
pub const STATUS_LIMIT: Duration = Duration::from_secs(10);

/// A port of this host where nobody listens. The CLI opens a connection to its API before it looks at its arguments; a
/// health check is not to be seen there.
const NOWHERE: &str = "http://127.0.0.1:1";

/// Beginning of the names of throw-away directories: no pool's name begins with a dot.
const THROW_AWAY: &str = ".check-";

/// The four variables without which the CLI talks to other hosts than the API.
pub const QUIET: [(&str, &str); 4] = [
    ("DISABLE_TELEMETRY", "1"),
    ("DISABLE_AUTOUPDATER", "1"),
    ("DISABLE_ERROR_REPORTING", "1"),
    ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
];

/// Whether a pool can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Health {
    /// Nobody could be asked yet.
    #[default]
    Unknown,
    /// It can.
    Ready,
    /// The CLI says that nobody is signed in.
    SignedOut,
    /// Its file, directory or command cannot be used.
    Unusable,
}

impl Health {
    /// The word of tables and JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Ready => "ready",
            Self::SignedOut => "signed-out",
            Self::Unusable => "unusable",
        }
    }
}

/// A credential to ask about.
#[derive(Debug, Clone)]
pub enum Credential {
    /// A key or token, in its variable.
    Variable(&'static str, Secret),
    /// The CLI's login.
    Login(Login),
}

/// What the CLI said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Somebody is signed in.
    SignedIn {
        /// Name of the subscription, where the CLI knows one.
        subscription: Option<String>,
    },
    /// Nobody is.
    SignedOut,
    /// It said nothing of use, in plain English.
    NoAnswer(String),
}

/// Asks the CLI.
#[derive(Debug, Clone, Default)]
pub struct Checker {
    /// The CLI, if it was found.
    pub program: Option<PathBuf>,
    /// Directories of programs.
    pub path: String,
    /// Where throw-away directories are made; private.
    pub scratch: PathBuf,
    /// Further variables.
    pub env: Vec<(String, String)>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    logged_in: bool,
    subscription_type: Option<String>,
}

impl Checker {
    /// What the CLI says of a credential. Nothing is sent to anybody.
    pub async fn ask(&self, credential: &Credential) -> Answer {
        let Some(program) = &self.program else { return no("the CLI was not found") };
        let (scratch, login) = (self.scratch.clone(), credential.clone());
        let dir = match spawn_blocking(move || throw_away(&scratch, &login)).await.map_err(io::Error::other) {
            Ok(Ok(dir)) => dir,
            Ok(Err(error)) | Err(error) => {
                return no(&format!(
                    "no throw-away directory can be made in {}: {error}",
                    self.scratch.display()
                ));
            }
        };
        let answer = self.run(program, dir.path(), credential).await;
        // It holds a copy of a credential: gone before anything is said.
        if let Err(error) = dir.close() {
            tracing::warn!(%error, "a throw-away directory could not be removed");
        }
        answer
    }

    async fn run(&self, program: &Path, dir: &Path, credential: &Credential) -> Answer {
        let mut command = Command::new(program);
        command.args(["auth", "status"]).env_clear().env("PATH", &self.path).envs(QUIET);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.env("HOME", dir).env("CLAUDE_CONFIG_DIR", dir).env("TMPDIR", dir);
        for name in ["ANTHROPIC_BASE_URL", "HTTP_PROXY", "HTTPS_PROXY"] {
            command.env(name, NOWHERE);
        }
        if let Credential::Variable(name, secret) = credential {
            command.env(name, secret.reveal());
        }
        command.current_dir(dir).stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        match timeout(STATUS_LIMIT, command.output()).await {
            Ok(Ok(output)) => answer(&output.stdout),
            Ok(Err(error)) => no(&format!("the CLI cannot be run: {error}")),
            Err(_) => no(&format!("the CLI did not answer within {} s", STATUS_LIMIT.as_secs())),
        }
    }
}

/// Removes the throw-away directories, with the credentials in them, that a former process left when it was killed. Blocks.
pub fn remove_left(scratch: &Path) {
    for entry in std::fs::read_dir(scratch).into_iter().flatten().flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(THROW_AWAY.as_bytes())
            && let Err(error) = std::fs::remove_dir_all(entry.path())
        {
            tracing::warn!(dir = %entry.path().display(), %error, "a throw-away directory could not be removed");
        }
    }
}

fn throw_away(scratch: &Path, credential: &Credential) -> io::Result<tempfile::TempDir> {
    let dir = tempfile::Builder::new()
        .prefix(THROW_AWAY)
        .permissions(std::fs::Permissions::from_mode(0o700))
        .tempdir_in(scratch)?;
    if let Credential::Login(login) = credential {
        // A copy that could be refreshed might be, and the login in the pool would be worth nothing any more.
        Dir::open(dir.path())?.write(LOGIN_FILE, login.without_refresh().bytes())?;
    }
    Ok(dir)
}

fn answer(stdout: &[u8]) -> Answer {
    match serde_json::from_slice::<Status>(stdout) {
        Ok(Status { logged_in: true, subscription_type }) => {
            let plain =
                |name: &String| name.len() <= 32 && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
            Answer::SignedIn { subscription: subscription_type.filter(plain) }
        }
        Ok(Status { logged_in: false, .. }) => Answer::SignedOut,
        Err(_) => no("this CLI has no `auth status`"),
    }
}

fn no(why: &str) -> Answer {
    Answer::NoAnswer(why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checker(script: &str) -> (tempfile::TempDir, Checker) {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("claude");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let scratch = dir.path().join("pools");
        std::fs::create_dir(&scratch).unwrap();
        let checker =
            Checker { program: Some(program), path: "/usr/bin:/bin".into(), scratch, env: Vec::new() };
        (dir, checker)
    }

    fn key() -> Credential {
        Credential::Variable("ANTHROPIC_API_KEY", Secret::new("sk-canary-1"))
    }

    #[test]
    fn what_the_cli_prints_is_understood() {
        // As observed of version 2.1.197.
        let signed_in = br#"{"loggedIn":true,"authMethod":"claude.ai","apiProvider":"firstParty","email":null,"subscriptionType":"max"}"#;
        assert_eq!(answer(signed_in), Answer::SignedIn { subscription: Some("max".into()) });
        let key = br#"{"loggedIn":true,"authMethod":"api_key","apiProvider":"firstParty","apiKeySource":"ANTHROPIC_API_KEY"}"#;
        assert_eq!(answer(key), Answer::SignedIn { subscription: None });
        assert_eq!(answer(br#"{"loggedIn":false,"authMethod":"none"}"#), Answer::SignedOut);
        for other in [&b""[..], b"error: unknown command 'auth'", b"{}", b"[1]"] {
            assert!(matches!(answer(other), Answer::NoAnswer(_)));
        }
    }

    #[tokio::test]
    async fn the_cli_sees_the_credential_alone_and_no_way_out() {
        let (_dir, checker) = checker(
            r#"[ "$ANTHROPIC_API_KEY $HTTPS_PROXY $ANTHROPIC_BASE_URL" = "sk-canary-1 http://127.0.0.1:1 http://127.0.0.1:1" ] || exit 9
               [ "$DISABLE_TELEMETRY" = 1 ] && [ "$1 $2" = "auth status" ] && echo '{"loggedIn":true}'"#,
        );
        assert_eq!(checker.ask(&key()).await, Answer::SignedIn { subscription: None });
        assert_eq!(std::fs::read_dir(&checker.scratch).unwrap().count(), 0, "nothing is left");
    }

    #[tokio::test]
    async fn a_login_is_asked_about_without_what_could_refresh_it() {
        let (_dir, checker) = checker(
            r#"f="$CLAUDE_CONFIG_DIR/.credentials.json"
               grep -q access-1 "$f" && ! grep -q refresh-1 "$f" && [ "$(stat -c %a "$f")" = 600 ] && echo '{"loggedIn":true,"subscriptionType":"pro"}'"#,
        );
        let login =
            Login::parse(br#"{"claudeAiOauth":{"accessToken":"access-1","refreshToken":"refresh-1"}}"#)
                .unwrap();
        assert_eq!(
            checker.ask(&Credential::Login(login)).await,
            Answer::SignedIn { subscription: Some("pro".into()) }
        );
    }

    #[test]
    fn what_a_killed_check_left_is_removed_and_pools_are_not() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("check-1")).unwrap();
        let left = throw_away(dir.path(), &key()).unwrap().keep();
        std::fs::write(left.join(LOGIN_FILE), "{}").unwrap();
        remove_left(dir.path());
        assert!(!left.exists() && dir.path().join("check-1").exists());
    }

    #[tokio::test]
    async fn a_cli_that_cannot_be_asked_is_no_verdict() {
        let (_dir, mut checker) = checker("exit 1");
        assert_eq!(checker.ask(&key()).await, no("this CLI has no `auth status`"));
        checker.program = None;
        assert_eq!(checker.ask(&key()).await, no("the CLI was not found"));
    }
}
