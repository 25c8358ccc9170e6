//! The environment of a child: cleared, then built from a short list. Knows which names a request must not
//! set; never reads a request's secrets, because requests have none.

use std::collections::BTreeMap;

use thiserror::Error;

use super::AttemptSpec;

/// Variables passed on from the agent's own environment when they are set: where programs are, which
/// language they speak, how to reach the network.
const PASSED_ON: [&str; 20] = [
    "PATH",
    "LANG",
    "LANGUAGE",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "USER",
    "LOGNAME",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NODE_EXTRA_CA_CERTS",
    // Read only by the stand-in that takes the CLI's place in rehearsals and tests.
    "ORCH_STANDIN_DELAY_MS",
    "ORCH_STANDIN_REQUIRE_AUTH",
    "ORCH_STANDIN_TOKEN_US",
];

/// Where programs are when the agent's environment does not say.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Beginnings of names a request must not set: they change how programs are found, linked, configured or
/// paid, or are ours.
const RESERVED: [&str; 18] = [
    "ANTHROPIC_",
    "API_TIMEOUT_",
    "AWS_",
    "BASH",
    "BUN_",
    "CLAUDE_",
    "DISABLE_",
    "DYLD_",
    "GCONV_",
    "GIT_",
    "GOOGLE_",
    "LD_",
    "MALLOC_",
    "NODE_",
    "ORCH_",
    "PERL",
    "PYTHON",
    "RUBY",
];

/// Names a request must not set although they begin like none of the above.
const RESERVED_NAMES: [&str; 8] =
    ["ENV", "HOME", "IFS", "IS_SANDBOX", "PS4", "SHELL", "TMPDIR", "XDG_CONFIG_HOME"];

/// Why a request's variable is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EnvironmentError {
    /// It is not a variable name.
    #[error("{0:?} is not a name of an environment variable")]
    Name(String),
    /// It is not for requests to set.
    #[error("the environment variable {0} may not be set by a request")]
    Reserved(String),
    /// Its value cannot be passed.
    #[error("the value of the environment variable {0} holds a NUL byte")]
    Value(String),
}

/// The agent's own environment, as far as children see it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostEnvironment(BTreeMap<String, String>);

impl HostEnvironment {
    /// Picks what is passed on.
    #[must_use]
    pub fn pick(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut picked: BTreeMap<String, String> =
            variables.into_iter().filter(|(name, _)| PASSED_ON.contains(&name.as_str())).collect();
        picked.entry("PATH".to_owned()).or_insert_with(|| DEFAULT_PATH.to_owned());
        Self(picked)
    }

    /// Picks from the environment of this process; names and values that are not UTF-8 are left out.
    #[must_use]
    pub fn of_this_process() -> Self {
        let readable = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self::pick(std::env::vars_os().filter_map(readable))
    }

    /// Where programs are.
    #[must_use]
    pub fn path(&self) -> &str {
        self.0.get("PATH").map_or(DEFAULT_PATH, String::as_str)
    }

    /// The environment of an attempt's child: the host's, the request's, and who it is, so that its own
    /// effects can be made idempotent.
    ///
    /// # Errors
    /// When the request sets what it must not.
    pub fn for_attempt(&self, spec: &AttemptSpec) -> Result<BTreeMap<String, String>, EnvironmentError> {
        let mut env = self.0.clone();
        for (name, value) in &spec.env {
            check(name, value)?;
            env.insert(name.clone(), value.clone());
        }
        let (run, task) = spec.reference.rsplit_once('/').unwrap_or((&spec.reference, ""));
        env.insert("ORCH_RUN".to_owned(), run.to_owned());
        env.insert("ORCH_TASK".to_owned(), task.to_owned());
        env.insert("ORCH_ATTEMPT".to_owned(), spec.key.attempt.to_string());
        Ok(env)
    }
}

/// Checks a variable that a request or a worker sets.
///
/// # Errors
/// When it is not one, or not for them to set.
pub fn check(name: &str, value: &str) -> Result<(), EnvironmentError> {
    let mut bytes = name.bytes();
    let starts = bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    if !starts || !bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Err(EnvironmentError::Name(name.to_owned()));
    }
    let upper = name.to_ascii_uppercase();
    let passed_on = PASSED_ON.iter().any(|known| known.eq_ignore_ascii_case(name));
    let reserved = RESERVED.iter().any(|start| upper.starts_with(start));
    if passed_on || reserved || RESERVED_NAMES.contains(&upper.as_str()) {
        return Err(EnvironmentError::Reserved(name.to_owned()));
    }
    if value.contains('\0') {
        return Err(EnvironmentError::Value(name.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{AttemptKey, AttemptLimits, Gates, OnLoss, Work};
    use super::*;

    fn spec(env: &[(&str, &str)]) -> AttemptSpec {
        AttemptSpec {
            key: AttemptKey { run: 7, task: 0, attempt: 3 },
            reference: "adhoc/7/main".to_owned(),
            work: Work::Noop,
            limits: AttemptLimits::default(),
            on_loss: OnLoss::Fast,
            env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            inputs: Vec::new(),
            workspace: None,
            tree: None,
            gates: Gates::default(),
            reuse: Vec::new(),
        }
    }

    fn host(variables: &[(&str, &str)]) -> HostEnvironment {
        HostEnvironment::pick(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn only_listed_variables_pass_and_the_attempt_is_named() {
        let host =
            host(&[("PATH", "/bin"), ("TZ", "UTC"), ("SSH_AUTH_SOCK", "/s"), ("ANTHROPIC_API_KEY", "k")]);
        let env = host.for_attempt(&spec(&[("ENVIRONMENT", "red")])).unwrap();
        let text: Vec<String> = env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            text,
            [
                "ENVIRONMENT=red",
                "ORCH_ATTEMPT=3",
                "ORCH_RUN=adhoc/7",
                "ORCH_TASK=main",
                "PATH=/bin",
                "TZ=UTC"
            ]
        );
    }

    #[test]
    fn there_is_always_a_path() {
        assert_eq!(host(&[]).path(), DEFAULT_PATH);
    }

    #[test]
    fn variables_that_change_how_programs_run_are_refused() {
        for name in [
            "LD_PRELOAD",
            "NODE_OPTIONS",
            "GIT_SSH_COMMAND",
            "ANTHROPIC_BASE_URL",
            "PATH",
            "home",
            "BASH_ENV",
            "CLAUDE_CONFIG_DIR",
            "ORCH_ATTEMPT",
            "https_proxy",
            "IS_SANDBOX",
            "PYTHONPATH",
            "ENV",
            "TMPDIR",
        ] {
            let error = host(&[]).for_attempt(&spec(&[(name, "x")])).unwrap_err();
            assert_eq!(error, EnvironmentError::Reserved(name.to_owned()));
        }
        for name in ["", "A=B", "1A", "A B", "A\0"] {
            let error = host(&[]).for_attempt(&spec(&[(name, "x")])).unwrap_err();
            assert_eq!(error, EnvironmentError::Name(name.to_owned()));
        }
        let error = host(&[]).for_attempt(&spec(&[("A", "x\0y")])).unwrap_err();
        assert_eq!(error, EnvironmentError::Value("A".to_owned()));
    }
}
