//! Knows which parts of the environment the stand-in looks at, read once at the start. Refuses to keep
//! a credential: only whether there is one, and where it was.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

/// Pause between events when `ORCH_STANDIN_DELAY_MS` does not say: a demo looks alive and takes seconds.
const DEFAULT_DELAY: Duration = Duration::from_millis(150);
/// Retries of the observed CLI, and the most it allows.
const DEFAULT_RETRIES: u64 = 10;
const MOST_RETRIES: u64 = 15;

/// The login file in the configuration directory.
const LOGIN_FILE: &str = ".credentials.json";

/// The environment as far as it matters.
#[derive(Debug, Clone)]
pub(super) struct Environment {
    /// Pause between events.
    pub(super) delay: Duration,
    /// Pause for each output token, as a model would need it (`ORCH_STANDIN_TOKEN_US`, microseconds); none by default.
    pub(super) token: Duration,
    /// Where the process was started.
    pub(super) cwd: PathBuf,
    /// `CLAUDE_CONFIG_DIR`, or `.claude` in the home directory.
    pub(super) config_dir: Option<PathBuf>,
    /// Where a credential was found: `apiKeySource` of the init event and the method of `auth status`.
    pub(super) credential: Option<Credential>,
    /// Behave as the CLI does without a login when there is none (`ORCH_STANDIN_REQUIRE_AUTH=1`).
    pub(super) require_auth: bool,
    /// Retries of a failing request.
    pub(super) max_retries: u64,
    /// Whether the user is root.
    pub(super) root: bool,
    /// Whether a sandbox is claimed, which lifts root's ban on skipping permissions.
    pub(super) sandbox: bool,
    /// Whether `@path` in a prompt is left alone.
    pub(super) attachments_off: bool,
    /// Whether background commands are refused.
    pub(super) background_off: bool,
    /// Default limit of a Bash command.
    pub(super) bash_timeout: Duration,
    /// `ANTHROPIC_BASE_URL`.
    pub(super) base_url: Option<String>,
    /// `API_TIMEOUT_MS`: until an answer begins.
    pub(super) api_timeout: Duration,
    /// `CLAUDE_CODE_MAX_OUTPUT_TOKENS`.
    pub(super) max_output: Option<u64>,
    /// Whether requests begin with the billing line (`CLAUDE_CODE_ATTRIBUTION_HEADER`).
    pub(super) attribution: bool,
    /// Whether requests carry cache breakpoints (`DISABLE_PROMPT_CACHING`).
    pub(super) prompt_caching: bool,
    /// Whether a lost stream is final (`CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK`).
    pub(super) no_fallback: bool,
    /// Names of all variables, sorted.
    pub(super) names: Vec<String>,
}

/// Where a credential was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Credential {
    /// `ANTHROPIC_API_KEY`.
    ApiKey,
    /// `ANTHROPIC_AUTH_TOKEN` or `CLAUDE_CODE_OAUTH_TOKEN`.
    Token,
    /// A login file in the configuration directory.
    LoginFile,
}

/// The login in a file, if it is one: garbage and a file without an access token are none, as observed.
fn login_in(file: &Path) -> Option<Value> {
    let login: Value = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    let login = login.get("claudeAiOauth")?.clone();
    login.get("accessToken")?.as_str().is_some_and(|token| !token.is_empty()).then_some(login)
}

impl Environment {
    /// Reads the process's environment.
    pub(super) fn read() -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let number = |name: &str| set(name).and_then(|value| value.to_str()?.parse::<u64>().ok());
        let on = |name: &str| set(name).is_some_and(|value| value != "0");
        let home = set("HOME").map(|home| PathBuf::from(home).join(".claude"));
        let config_dir = set("CLAUDE_CONFIG_DIR").map(PathBuf::from).or(home);
        let login = || login_in(&config_dir.as_ref()?.join(LOGIN_FILE));
        let credential = if set("ANTHROPIC_API_KEY").is_some() {
            Some(Credential::ApiKey)
        } else if set("ANTHROPIC_AUTH_TOKEN").is_some() || set("CLAUDE_CODE_OAUTH_TOKEN").is_some() {
            Some(Credential::Token)
        } else {
            login().map(|_| Credential::LoginFile)
        };
        let mut names: Vec<String> =
            std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned()).collect();
        names.sort_unstable();
        Self {
            delay: number("ORCH_STANDIN_DELAY_MS").map_or(DEFAULT_DELAY, Duration::from_millis),
            token: number("ORCH_STANDIN_TOKEN_US").map_or(Duration::ZERO, Duration::from_micros),
            cwd: std::env::current_dir().unwrap_or_default(),
            credential,
            config_dir,
            require_auth: on("ORCH_STANDIN_REQUIRE_AUTH"),
            max_retries: number("CLAUDE_CODE_MAX_RETRIES").unwrap_or(DEFAULT_RETRIES).min(MOST_RETRIES),
            root: rustix::process::geteuid().is_root(),
            sandbox: on("IS_SANDBOX") || on("CLAUDE_CODE_BUBBLEWRAP"),
            attachments_off: on("CLAUDE_CODE_DISABLE_ATTACHMENTS"),
            background_off: on("CLAUDE_CODE_DISABLE_BACKGROUND_TASKS"),
            bash_timeout: Duration::from_millis(number("BASH_DEFAULT_TIMEOUT_MS").unwrap_or(120_000)),
            base_url: set("ANTHROPIC_BASE_URL").and_then(|url| url.into_string().ok()),
            api_timeout: Duration::from_millis(number("API_TIMEOUT_MS").unwrap_or(300_000)),
            max_output: number("CLAUDE_CODE_MAX_OUTPUT_TOKENS"),
            attribution: set("CLAUDE_CODE_ATTRIBUTION_HEADER").is_none_or(|value| value != "0"),
            prompt_caching: !on("DISABLE_PROMPT_CACHING"),
            no_fallback: on("CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK"),
            names,
        }
    }

    /// Whether the credential is an API key: the CLI heeds windows of subscriptions alone.
    pub(super) fn uses_api_key(&self) -> bool {
        self.credential == Some(Credential::ApiKey)
    }

    /// The header that carries the credential. It is read anew for each request, and kept nowhere.
    pub(super) fn credential_header(&self) -> Option<(&'static str, String)> {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        if let Some(key) = set("ANTHROPIC_API_KEY") {
            return Some(("x-api-key", key));
        }
        let token = set("ANTHROPIC_AUTH_TOKEN").or_else(|| set("CLAUDE_CODE_OAUTH_TOKEN"));
        let token = token
            .or_else(|| login_in(&self.login_file()?)?.get("accessToken")?.as_str().map(ToOwned::to_owned));
        token.map(|token| ("authorization", format!("Bearer {token}")))
    }

    /// The login file.
    pub(super) fn login_file(&self) -> Option<PathBuf> {
        Some(self.config_dir.as_ref()?.join(LOGIN_FILE))
    }

    /// The subscription that the login file names.
    pub(super) fn subscription(&self) -> Option<String> {
        Some(login_in(&self.login_file()?)?.get("subscriptionType")?.as_str()?.to_owned())
    }

    /// `apiKeySource` of the init event: `none` for everything but an API key, as observed.
    pub(super) const fn api_key_source(&self) -> &'static str {
        match self.credential {
            Some(Credential::ApiKey) => "ANTHROPIC_API_KEY",
            Some(Credential::Token | Credential::LoginFile) | None => "none",
        }
    }

    /// Whether a request would be sent at all.
    pub(super) const fn logged_in(&self) -> bool {
        self.credential.is_some() || !self.require_auth
    }

    /// A neutral environment: no delay, no directories.
    #[cfg(test)]
    pub(super) fn for_tests() -> Self {
        Self {
            delay: Duration::ZERO,
            token: Duration::ZERO,
            cwd: PathBuf::from("/home/agent/proj"),
            config_dir: None,
            credential: None,
            require_auth: false,
            max_retries: 2,
            root: false,
            sandbox: false,
            attachments_off: true,
            background_off: true,
            bash_timeout: Duration::from_secs(120),
            base_url: None,
            api_timeout: Duration::from_secs(300),
            max_output: None,
            attribution: true,
            prompt_caching: true,
            no_fallback: false,
            names: Vec::new(),
        }
    }
}
