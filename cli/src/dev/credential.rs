//! Whose credential the agents of `dev` use: a key of the environment, or the caller's own Claude login, and that only
//! when the caller said so. Knows variables and files; asks through whoever calls it.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use super::layout::{Given, Layout};
use crate::exit;
use crate::failure::{Failure, Outcome};
use crate::private_file::write_private;

const KEY_VAR: &str = "ANTHROPIC_API_KEY";
const TOKEN_VAR: &str = "CLAUDE_CODE_OAUTH_TOKEN";
const BASE_URL_VAR: &str = "ANTHROPIC_BASE_URL";
/// The CLI's configuration, where it is not in the home directory.
const CONFIG_VAR: &str = "CLAUDE_CONFIG_DIR";
/// The CLI's login in its configuration.
const LOGIN_FILE: &str = ".credentials.json";

/// What the agents get.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Credential {
    /// Which; it lies where the layout says.
    pub(crate) given: Given,
    /// Where the API is, if not at its usual place.
    pub(crate) base_url: Option<String>,
}

/// Whether the caller's own login may be used.
pub(crate) enum Consent<'a> {
    /// The flag says so.
    Given,
    /// A question may be asked; yes is consent.
    Ask(&'a dyn Fn(&str) -> Outcome<bool>),
    /// Nobody said so, and nobody can be asked.
    None,
}

/// The caller's own sign-in.
enum Own {
    Token(String),
    Login(PathBuf),
}

/// What is said of a credential.
pub(crate) const fn told(given: Given) -> &'static str {
    match given {
        Given::ApiKey => "API key from ANTHROPIC_API_KEY",
        Given::Login => "signed in with your own Claude login (subscription)",
        Given::Token => "signed in with your own CLAUDE_CODE_OAUTH_TOKEN (subscription)",
        Given::Nothing => {
            "no credential: tasks for Claude will fail; set ANTHROPIC_API_KEY, or give --use-my-login to use your own \
             Claude login"
        }
    }
}

/// Chooses a credential and puts it where the agents of this directory find it. What an earlier choice left goes.
pub(crate) fn take(
    layout: &Layout,
    var: &dyn Fn(&str) -> Option<String>,
    consent: &Consent<'_>,
) -> Outcome<Credential> {
    let value = |name: &str| var(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    let key = value(KEY_VAR);
    let own = match (consent, &key) {
        (Consent::Given, _) => Some(own(var).ok_or_else(|| {
            Failure::usage(format!("--use-my-login: you are not signed in to Claude: there is neither a login of the CLI nor {TOKEN_VAR}"))
                .help("claude auth login")
        })?),
        (Consent::Ask(ask), None) => match own(var) {
            Some(own) if ask(&question(&own))? => Some(own),
            Some(_) | None => None,
        },
        (Consent::Ask(_), Some(_)) | (Consent::None, _) => None,
    };
    forget(layout)?;
    let given = match (own, key) {
        (Some(Own::Token(token)), _) => {
            write_private(&layout.token_file(), &token)?;
            Given::Token
        }
        (Some(Own::Login(file)), _) => {
            link(&layout.login_dir(), &file).map_err(|error| cannot(&layout.login_dir(), error))?;
            Given::Login
        }
        (None, Some(key)) => {
            write_private(&layout.api_key_file(), &key)?;
            Given::ApiKey
        }
        (None, None) => Given::Nothing,
    };
    Ok(Credential { given, base_url: value(BASE_URL_VAR) })
}

fn own(var: &dyn Fn(&str) -> Option<String>) -> Option<Own> {
    let value = |name: &str| var(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    if let Some(token) = value(TOKEN_VAR) {
        return Some(Own::Token(token));
    }
    let config = value(CONFIG_VAR)
        .map(PathBuf::from)
        .or_else(|| value("HOME").map(|home| Path::new(&home).join(".claude")))?;
    let file = std::path::absolute(config.join(LOGIN_FILE)).ok()?;
    file.is_file().then_some(Own::Login(file))
}

fn question(own: &Own) -> String {
    let what = match own {
        Own::Token(_) => format!("your own {TOKEN_VAR}"),
        Own::Login(file) => format!("your own Claude login ({})", file.display()),
    };
    format!(
        "{KEY_VAR} is not set. May the tasks of this fleet use {what}? They count against your subscription."
    )
}

/// The agents are shown the login where it lies: what the CLI refreshes for a task is then the caller's as well, and no
/// copy stays here.
fn link(dir: &Path, login: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    symlink(login, dir.join(LOGIN_FILE))
}

fn forget(layout: &Layout) -> Outcome<()> {
    for path in [layout.api_key_file(), layout.token_file(), layout.login_dir().join(LOGIN_FILE)] {
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound) => {}
            Err(error) => return Err(cannot(&path, error)),
        }
    }
    Ok(())
}

fn cannot(path: &Path, error: io::Error) -> Failure {
    Failure::new(exit::FAILED, format!("cannot change {}", path.display())).cause(error)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::dev::setup;

    /// A fleet's directory, and the caller's home.
    struct Scene {
        dir: tempfile::TempDir,
        layout: Layout,
    }

    impl Scene {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let (layout, _) = setup::open(&dir.path().join("data")).unwrap();
            fs::create_dir(dir.path().join(".claude")).unwrap();
            Self { dir, layout }
        }

        fn sign_in(&self) -> PathBuf {
            let file = self.dir.path().join(".claude").join(LOGIN_FILE);
            write_private(&file, r#"{"claudeAiOauth":{"accessToken":"access-canary"}}"#).unwrap();
            file
        }

        fn take(&self, vars: &[(&str, &str)], consent: &Consent<'_>) -> Outcome<Given> {
            let home = self.dir.path().to_string_lossy().into_owned();
            let var = |name: &str| match name {
                "HOME" => Some(home.clone()),
                _ => vars.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()),
            };
            take(&self.layout, &var, consent).map(|credential| credential.given)
        }

        /// What lies in the directory of the fleet: key, token, login.
        fn lies(&self) -> [bool; 3] {
            let layout = &self.layout;
            [layout.api_key_file(), layout.token_file(), layout.login_dir().join(LOGIN_FILE)]
                .map(|path| path.exists())
        }
    }

    #[test]
    fn a_key_of_the_caller_becomes_a_private_file_and_goes_with_it() {
        let scene = Scene::new();
        assert_eq!(scene.take(&[(KEY_VAR, "sk-test\n")], &Consent::None).unwrap(), Given::ApiKey);
        let path = scene.layout.api_key_file();
        assert_eq!(fs::read_to_string(&path).unwrap(), "sk-test");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(scene.take(&[], &Consent::None).unwrap(), Given::Nothing);
        assert_eq!(scene.lies(), [false; 3]);
    }

    #[test]
    fn the_own_login_is_used_only_when_somebody_said_so() {
        let scene = Scene::new();
        scene.sign_in();
        assert_eq!(scene.take(&[], &Consent::None).unwrap(), Given::Nothing);
        assert_eq!(scene.lies(), [false; 3]);
        let asked = RefCell::new(Vec::new());
        let answer = |yes: bool| {
            move |asked: &RefCell<Vec<String>>, text: &str| {
                asked.borrow_mut().push(text.to_owned());
                Ok(yes)
            }
        };
        let no = |text: &str| answer(false)(&asked, text);
        assert_eq!(scene.take(&[], &Consent::Ask(&no)).unwrap(), Given::Nothing);
        let yes = |text: &str| answer(true)(&asked, text);
        assert_eq!(scene.take(&[(KEY_VAR, "sk")], &Consent::Ask(&yes)).unwrap(), Given::ApiKey);
        assert_eq!(asked.borrow().len(), 1, "with a key there is nothing to ask");
        assert_eq!(scene.take(&[], &Consent::Ask(&yes)).unwrap(), Given::Login);
        assert_eq!(scene.lies(), [false, false, true]);
        assert!(
            asked.borrow()[1].contains("your own Claude login") && asked.borrow()[1].contains("subscription")
        );
        assert_eq!(scene.take(&[(TOKEN_VAR, "tok")], &Consent::Ask(&yes)).unwrap(), Given::Token);
        assert_eq!(scene.lies(), [false, true, false]);
        assert!(asked.borrow()[2].contains(TOKEN_VAR) && !asked.borrow()[2].contains("tok?"));
    }

    #[test]
    fn the_flag_wins_over_a_key_and_needs_a_login() {
        let scene = Scene::new();
        let failure = scene.take(&[], &Consent::Given).unwrap_err();
        assert_eq!(failure.exit_code(), exit::USAGE);
        assert!(failure.text(false).contains("claude auth login"), "{}", failure.text(false));
        let file = scene.sign_in();
        assert_eq!(scene.take(&[(KEY_VAR, "sk")], &Consent::Given).unwrap(), Given::Login);
        let link = scene.layout.login_dir().join(LOGIN_FILE);
        assert_eq!(fs::read_link(link).unwrap(), file, "no copy is made");
        assert_eq!(fs::metadata(scene.layout.login_dir()).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn another_configuration_directory_of_the_cli_is_heeded() {
        let scene = Scene::new();
        let elsewhere = scene.dir.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        write_private(&elsewhere.join(LOGIN_FILE), "{}").unwrap();
        let dir = elsewhere.to_str().unwrap();
        assert_eq!(scene.take(&[(CONFIG_VAR, dir)], &Consent::Given).unwrap(), Given::Login);
        let link = scene.layout.login_dir().join(LOGIN_FILE);
        assert_eq!(fs::read_link(link).unwrap(), elsewhere.join(LOGIN_FILE));
    }
}
