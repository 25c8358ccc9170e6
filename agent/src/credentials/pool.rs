//! One pool: who uses it, whose turn it is, the key that is known, and what people see of it.
//! Knows where its credential lies; refuses to know other pools.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

pub(super) use self::held::Held;
use self::held::Lent;
pub(super) use self::settle::settle_forgotten;
use self::settle::{Tried, own_note, settle_own, take_lock, told};
use super::health::{Answer, Checker, Credential, Health};
use super::login::{LOGIN_FILE, Lock, LoginError, LoginPlace, Note, Stored};
use super::settings::{Gateway, PoolSettings, Source};
use super::{LeaseError, Signals, helper, on_disk};
use crate::causes::one_line;
use crate::secret::{Secret, SecretError, read_key_file};
use crate::supervisor::spec::Secrets;

mod held;
mod keys;
mod settle;

/// Variable of an API key.
const KEY_VARIABLE: &str = "ANTHROPIC_API_KEY";
/// Variable of a subscription's token.
const TOKEN_VARIABLE: &str = "CLAUDE_CODE_OAUTH_TOKEN";
/// Variable of the place of the API.
const URL_VARIABLE: &str = "ANTHROPIC_BASE_URL";
/// Beginning of a subscription's token: a helper may print one in place of a key.
const TOKEN_MARK: &str = "sk-ant-oat";

/// How often a lock that another process holds is tried.
const LOCK_POLL: Duration = Duration::from_millis(100);

/// How long another agent of this host, which died while it lent the login, has to come back and take back what its
/// child may still be refreshing.
const FOREIGN_GRACE: Duration = Duration::from_secs(30);

/// How long a start waits for a lock that others only hold for a moment.
const SETTLE_TRIES: u32 = 20;

/// A pool.
pub(super) struct Pool {
    settings: PoolSettings,
    login: Option<LoginPlace>,
    /// One permit: the turn of an attempt that uses the login, and of whoever asks the helper.
    turn: Arc<Semaphore>,
    next_user: AtomicU64,
    inside: Mutex<Inside>,
    signals: Arc<Signals>,
}

#[derive(Default)]
struct Inside {
    /// Attempts that use it, by number, with their references.
    users: BTreeMap<u64, String>,
    health: Health,
    detail: String,
    /// Whether the API refused it the last time it was used.
    refused: bool,
    /// Tells the credential from others; empty until it was read, and where it changes by itself.
    fingerprint: Vec<u8>,
    /// What the helper printed, and until when that is used.
    printed: Option<(Secret, Instant)>,
    /// A login that a former process of this agent lent to an attempt which goes on, and where it lies.
    lent: Option<(PathBuf, Lent)>,
}

/// What people may know of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolState {
    /// Its name.
    pub name: String,
    /// Where its credential comes from: `api-key`, `token`, `login`, `helper`.
    pub kind: &'static str,
    /// Whether it can be used.
    pub health: Health,
    /// Health in plain English.
    pub detail: String,
    /// Workers it serves; empty: every one that no other pool names.
    pub workers: BTreeSet<String>,
    /// Attempts of this agent that use it now.
    pub in_use: u32,
    /// Whether it serves one attempt at a time.
    pub exclusive: bool,
    /// Whether its requests pass the agent's gateway.
    pub gateway: bool,
    /// Tells its credential from others; empty where it cannot.
    pub fingerprint: Vec<u8>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({} {})", self.settings.name, self.settings.source.word())
    }
}

impl Pool {
    pub(super) fn new(settings: PoolSettings, owner: &Path, signals: Arc<Signals>) -> Self {
        let login = match &settings.source {
            Source::Login(dir) => Some(LoginPlace::new(&settings.name, dir, owner)),
            Source::ApiKey(_) | Source::Token(_) | Source::Helper { .. } => None,
        };
        let inside = Inside { detail: "not looked at yet".to_owned(), ..Inside::default() };
        Self {
            settings,
            login,
            turn: Arc::new(Semaphore::new(1)),
            next_user: AtomicU64::new(0),
            inside: Mutex::new(inside),
            signals,
        }
    }

    pub(super) const fn settings(&self) -> &PoolSettings {
        &self.settings
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it looked as if no attempt could use it.
    pub(super) fn is_shown_unfit(&self) -> bool {
        matches!(self.inside().health, Health::SignedOut | Health::Unusable)
    }

    /// Whether requests that are made with an API key of it pass the agent's gateway.
    pub(super) fn is_for_gateway(&self) -> bool {
        let is_wanted = self.settings.gateway.unwrap_or_default() == Gateway::On;
        is_wanted && matches!(self.settings.source, Source::ApiKey(_) | Source::Helper { .. })
    }

    fn changed(&self) {
        self.signals.changed.send_replace(());
    }

    /// Waits for its turn, reads the credential, and enters the attempt as a user.
    pub(super) async fn lease(
        self: &Arc<Self>,
        reference: &str,
        tell: &(dyn Fn(&str) + Send + Sync),
    ) -> Result<Held, LeaseError> {
        let (mut secrets, lent) = match &self.login {
            Some(place) => {
                let lent = self.lend(place, tell).await?;
                let redact = lent.stored.as_ref().map(|stored| stored.login.secrets());
                (Secrets { redact: redact.unwrap_or_default(), ..Secrets::default() }, Some(lent))
            }
            None => (self.variable().await?, None),
        };
        if let Some(url) = &self.settings.base_url {
            secrets.env.insert(URL_VARIABLE.to_owned(), url.clone());
        }
        Ok(self.hold(reference, secrets, lent))
    }

    fn hold(self: &Arc<Self>, reference: &str, secrets: Secrets, lent: Option<Lent>) -> Held {
        let user = self.next_user.fetch_add(1, Ordering::Relaxed);
        self.inside().users.insert(user, reference.to_owned());
        self.changed();
        Held { pool: Arc::clone(self), user, reference: reference.to_owned(), secrets, lent }
    }

    async fn lend(
        &self,
        place: &LoginPlace,
        tell: &(dyn Fn(&str) + Send + Sync),
    ) -> Result<Lent, LeaseError> {
        let turn = self.await_turn(tell).await;
        let lock = self.await_lock(place, tell).await?;
        let stored = self.read_login(place).await?;
        Ok(Lent { stored: Some(stored), place: place.clone(), _lock: lock, _turn: turn })
    }

    /// The turn within this agent: first come, first served. Giving up the wait gives up the place.
    async fn await_turn(&self, tell: &(dyn Fn(&str) + Send + Sync)) -> OwnedSemaphorePermit {
        if let Ok(turn) = Arc::clone(&self.turn).try_acquire_owned() {
            return turn;
        }
        let mut changes = self.signals.changed.subscribe();
        let mut acquired = pin!(Arc::clone(&self.turn).acquire_owned());
        let mut told = String::new();
        loop {
            let holder = self.inside().users.values().next().cloned();
            self.say(&mut told, holder.as_deref(), tell);
            tokio::select! {
                turn = &mut acquired => match turn {
                    Ok(turn) => return turn,
                    // Nobody closes it.
                    Err(_) => std::future::pending().await,
                },
                _ = changes.changed() => {}
            }
        }
    }

    /// The lock among the processes of this host. What a holder left behind that died is settled first.
    async fn await_lock(
        &self,
        place: &LoginPlace,
        tell: &(dyn Fn(&str) + Send + Sync),
    ) -> Result<Lock, LeaseError> {
        let mut told = String::new();
        let mut abandoned: Option<Instant> = None;
        loop {
            let wait_is_over = abandoned.is_some_and(|since| since.elapsed() >= FOREIGN_GRACE);
            let this = place.clone();
            let tried = on_disk(move || take_lock(&this, wait_is_over))
                .await
                .map_err(|source| self.io(place, source))?;
            match tried.map_err(|source| self.login_error(source))? {
                Tried::Locked(lock) => return Ok(lock),
                Tried::Held => abandoned = None,
                Tried::Abandoned => {
                    abandoned.get_or_insert_with(Instant::now);
                }
            }
            let holder = place.note().map(|note| note.reference);
            self.say(&mut told, holder.as_deref(), tell);
            tokio::time::sleep(LOCK_POLL).await;
        }
    }

    fn say(&self, told: &mut String, holder: Option<&str>, tell: &(dyn Fn(&str) + Send + Sync)) {
        let by = holder.map_or_else(|| "in use".to_owned(), |reference| format!("used by {reference}"));
        let text = format!("waiting for the login of pool {} ({by})", self.settings.name);
        if *told != text {
            tell(&text);
            *told = text;
        }
    }

    async fn read_login(&self, place: &LoginPlace) -> Result<Stored, LeaseError> {
        let this = place.clone();
        let read = on_disk(move || this.read()).await.map_err(|source| self.io(place, source))?;
        read.map_err(|source| self.login_error(source))
    }

    /// The key or token, with its variable.
    async fn variable(&self) -> Result<Secrets, LeaseError> {
        let (name, secret) = self.read_variable().await?;
        let text = secret.reveal().to_owned();
        Ok(Secrets {
            env: [(name.to_owned(), text.clone())].into(),
            redact: vec![text],
            ..Secrets::default()
        })
    }

    async fn read_variable(&self) -> Result<(&'static str, Secret), LeaseError> {
        let file = match &self.settings.source {
            Source::ApiKey(path) | Source::Token(path) => path.clone(),
            Source::Helper { command, ttl } => {
                let secret = self.ask_helper(command, *ttl).await?;
                let token = secret.reveal().starts_with(TOKEN_MARK);
                return Ok((if token { TOKEN_VARIABLE } else { KEY_VARIABLE }, secret));
            }
            // A login has no variable; nobody asks for it.
            Source::Login(dir) => dir.join(LOGIN_FILE),
        };
        let name =
            if matches!(self.settings.source, Source::Token(_)) { TOKEN_VARIABLE } else { KEY_VARIABLE };
        let path = file.clone();
        let read = on_disk(move || read_key_file(&file))
            .await
            .unwrap_or_else(|source| Err(SecretError::Io { path, source }));
        match read {
            Ok(secret) => Ok((name, secret)),
            Err(source) => Err(LeaseError::File { pool: self.settings.name.clone(), source }),
        }
    }

    /// What the helper printed lately, else what it prints now. Many at once ask once.
    async fn ask_helper(&self, command: &[String], ttl: Duration) -> Result<Secret, LeaseError> {
        let known = || {
            let inside = self.inside();
            inside
                .printed
                .as_ref()
                .filter(|(_, until)| Instant::now() < *until)
                .map(|(secret, _)| secret.clone())
        };
        if let Some(secret) = known() {
            return Ok(secret);
        }
        // Nobody closes it.
        let _turn = self.turn.acquire().await;
        if let Some(secret) = known() {
            return Ok(secret);
        }
        let asked = helper::ask(command, helper::HELPER_LIMIT).await;
        let secret =
            asked.map_err(|source| LeaseError::Helper { pool: self.settings.name.clone(), source })?;
        self.inside().printed = Some((secret.clone(), Instant::now() + ttl));
        Ok(secret)
    }

    /// Looks whether it can be used.
    pub(super) async fn check(&self, checker: &Checker) {
        let mut fingerprint = None;
        let (health, detail) = match self.credential().await {
            Ok(credential) => {
                fingerprint = Some(self.fingerprint(&credential));
                self.judge(checker.ask(&credential).await, &credential)
            }
            Err(error) => {
                let signed_out =
                    matches!(error, LeaseError::Login { source: LoginError::SignedOut { .. }, .. });
                let why = std::error::Error::source(&error).map_or_else(|| error.to_string(), one_line);
                (if signed_out { Health::SignedOut } else { Health::Unusable }, why)
            }
        };
        let mut inside = self.inside();
        let is_another = fingerprint.as_ref().is_some_and(|new| *new != inside.fingerprint);
        if let Some(new) = fingerprint {
            inside.fingerprint = new;
        }
        let looks_different = (inside.health, &inside.detail) != (health, &detail);
        if looks_different {
            tracing::info!(pool = self.settings.name, health = health.word(), detail, "credential pool");
            (inside.health, inside.detail) = (health, detail);
        }
        drop(inside);
        if looks_different || is_another {
            self.changed();
        }
    }

    async fn credential(&self) -> Result<Credential, LeaseError> {
        match &self.login {
            Some(place) => Ok(Credential::Login(self.read_login(place).await?.login)),
            None => self.read_variable().await.map(|(name, secret)| Credential::Variable(name, secret)),
        }
    }

    fn judge(&self, answer: Answer, credential: &Credential) -> (Health, String) {
        let name = &self.settings.name;
        match (answer, credential) {
            (Answer::NoAnswer(why), _) => (Health::Unknown, format!("there is a credential, but {why}")),
            (Answer::SignedOut, Credential::Variable(variable, _)) => {
                (Health::SignedOut, format!("the CLI does not take it as {variable}: look at what it holds"))
            }
            (Answer::SignedOut, Credential::Login(_)) => (
                Health::SignedOut,
                format!("the CLI does not take the login: run orch-agent login --pool {name}"),
            ),
            (Answer::SignedIn { .. }, Credential::Login(login)) if login.is_spent(unix_ms()) => {
                (Health::SignedOut, format!("the login has expired: run orch-agent login --pool {name}"))
            }
            (Answer::SignedIn { subscription }, Credential::Login(_)) => {
                let plan = subscription.map(|plan| format!(" ({plan})")).unwrap_or_default();
                (Health::Ready, format!("signed in, by subscription{plan}"))
            }
            (Answer::SignedIn { .. }, Credential::Variable(variable, _)) => {
                let what = if *variable == TOKEN_VARIABLE { "token of a subscription" } else { "API key" };
                (Health::Ready, format!("{what}; whether the API takes it shows at its first use"))
            }
        }
    }

    pub(super) fn state(&self) -> PoolState {
        let inside = self.inside();
        let mut detail = inside.detail.clone();
        if inside.refused {
            detail.push_str("; the API refused it when it was last used");
        }
        PoolState {
            name: self.settings.name.clone(),
            kind: self.settings.source.word(),
            health: inside.health,
            detail,
            workers: self.settings.workers.clone(),
            in_use: u32::try_from(inside.users.len()).unwrap_or(u32::MAX),
            exclusive: self.login.is_some(),
            gateway: self.is_for_gateway(),
            fingerprint: inside.fingerprint.clone(),
        }
    }

    /// Makes what is missing, so that it can be hidden from tasks before anybody signs in. What cannot be made is said
    /// when the pool is looked at.
    pub(super) fn make_place(&self) {
        if let Some(Err(error)) = self.login.as_ref().map(LoginPlace::make) {
            tracing::warn!(pool = self.settings.name, error = one_line(&error), "a login has no place");
        }
    }

    /// Takes back what a former process of this agent lent, unless it lies in one of the directories `in_use`: then it
    /// stays lent. Blocks.
    pub(super) fn settle_own(&self, in_use: &BTreeSet<PathBuf>) {
        let Some(place) = &self.login else { return };
        match own_note(place).filter(|note| in_use.contains(&note.config)) {
            Some(note) => self.stay_lent(place, note),
            None => settle_own(&self.settings.name, place),
        }
    }

    fn stay_lent(&self, place: &LoginPlace, note: Note) {
        for _ in 0..SETTLE_TRIES {
            // Nobody has had a turn yet.
            let turn = Arc::clone(&self.turn).try_acquire_owned();
            let lock = place.try_lock().ok().flatten();
            // Another agent of this host that was quicker has settled it.
            if own_note(place).as_ref() != Some(&note) {
                break;
            }
            if let (Ok(turn), Some(lock)) = (turn, lock) {
                let stored = place.read().ok();
                let lent = Lent { stored, place: place.clone(), _lock: lock, _turn: turn };
                self.inside().lent = Some((note.config, lent));
                return;
            }
            std::thread::sleep(LOCK_POLL);
        }
        tracing::warn!(
            pool = self.settings.name,
            reference = note.reference,
            "a login is in use by an attempt that goes on, and another agent of this host has taken it"
        );
    }

    /// The login that is still lent to the attempt whose configuration lies in `config`.
    pub(super) fn take_lent(self: &Arc<Self>, config: &Path, reference: &str) -> Option<Held> {
        let (_, lent) = self.inside().lent.take_if(|(place, _)| place == config)?;
        let redact = lent.stored.as_ref().map(|stored| stored.login.secrets()).unwrap_or_default();
        Some(self.hold(reference, Secrets { redact, ..Secrets::default() }, Some(lent)))
    }

    /// Whether it serves one attempt at a time.
    pub(super) const fn is_login(&self) -> bool {
        self.login.is_some()
    }

    fn io(&self, place: &LoginPlace, source: io::Error) -> LeaseError {
        self.login_error(LoginError::Io { path: place.dir().to_owned(), source })
    }

    fn login_error(&self, source: LoginError) -> LeaseError {
        LeaseError::Login { pool: self.settings.name.clone(), source }
    }
}

fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
