//! Pools with real files and commands, without any child.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::task::JoinSet;
use tokio::time::timeout;

use super::login::LOGIN_FILE;
use super::settings::Source;
use super::*;
use crate::homes::ConversationKey;

/// Long enough for a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// An agent's data, and pools in it.
struct Scene {
    dir: tempfile::TempDir,
    settings: Vec<PoolSettings>,
}

impl Scene {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), settings: Vec::new() }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn private(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        within::replace(&path, text.as_bytes()).unwrap();
        path
    }

    fn with(mut self, name: &str, source: Source, workers: &[&str]) -> Self {
        let workers = workers.iter().map(ToString::to_string).collect();
        self.settings.push(PoolSettings {
            name: name.into(),
            source,
            workers,
            base_url: None,
            gateway: None,
        });
        self
    }

    fn with_key(self, name: &str, workers: &[&str]) -> Self {
        let file = self.private(name, &format!("sk-canary-{name}\n"));
        self.with(name, Source::ApiKey(file), workers)
    }

    /// A pool whose login is `access-0`, `refresh-0`.
    fn with_login(self, name: &str) -> Self {
        let dir = self.dir.path().join("logins").join(name);
        fs::create_dir_all(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
        within::replace(&dir.join(LOGIN_FILE), login(0).as_bytes()).unwrap();
        self.with(name, Source::Login(dir), &[])
    }

    fn login_file(&self, name: &str) -> PathBuf {
        self.dir.path().join("logins").join(name).join(LOGIN_FILE)
    }

    fn open(&self) -> Pools {
        Pools::open(&self.settings, &self.data(), Checker::default()).unwrap()
    }

    fn config(&self, name: &str) -> PathBuf {
        let config = self.dir.path().join(name);
        fs::create_dir_all(&config).unwrap();
        config
    }
}

fn login(n: u32) -> String {
    format!(
        r#"{{"claudeAiOauth":{{"accessToken":"access-{n}","refreshToken":"refresh-{n}","expiresAt":{n}}}}}"#
    )
}

#[tokio::test]
async fn the_mapping_goes_from_the_named_to_the_naming_to_the_default_to_the_only_one() {
    let pool_of = async |scene: &Scene, named: Option<&str>, worker: &str| {
        scene.open().lease(named, worker, "r").await.map(|lease| lease.pool().map(str::to_owned))
    };
    let scene = Scene::new().with_key("a", &["marie"]).with_key("default", &[]).with_key("z", &[]);
    assert_eq!(pool_of(&scene, Some("z"), "marie").await.unwrap().as_deref(), Some("z"));
    assert_eq!(pool_of(&scene, Some("a"), "anga").await.unwrap().as_deref(), Some("a"));
    assert_eq!(pool_of(&scene, None, "marie").await.unwrap().as_deref(), Some("a"));
    assert_eq!(pool_of(&scene, Some(""), "anga").await.unwrap().as_deref(), Some("default"));
    let error = pool_of(&scene, Some("x"), "marie").await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Auth);
    assert!(error.to_string().starts_with("this agent has no credential pool \"x\""), "{error}");

    let only = Scene::new().with_key("a", &["marie"]).with_key("b", &[]);
    assert_eq!(pool_of(&only, None, "anga").await.unwrap().as_deref(), Some("b"));
    let none = Scene::new().with_key("a", &["marie"]).with_key("default", &["fabien"]);
    let error = pool_of(&none, None, "anga").await.unwrap_err().to_string();
    assert!(
        error.starts_with("no credential pool of this agent serves worker anga (it has a, default)"),
        "{error}"
    );
    let two = Scene::new().with_key("a", &[]).with_key("b", &[]);
    assert!(matches!(pool_of(&two, None, "anga").await, Err(LeaseError::NoneFor { .. })));
    assert_eq!(pool_of(&Scene::new(), None, "anga").await.unwrap(), None);
}

#[tokio::test]
async fn each_kind_gives_its_own_variable_and_hides_it() {
    let scene = Scene::new().with_key("k", &[]);
    let token = scene.private("t", "sk-ant-oat01-canary\n");
    let helper = |key: &str| Source::Helper {
        command: ["/bin/echo", key].map(str::to_owned).into(),
        ttl: Duration::from_secs(60),
    };
    let mut scene = scene.with("t", Source::Token(token), &[]).with("h", helper("sk-helped"), &[]);
    scene = scene.with("o", helper("sk-ant-oat01-helped"), &[]).with_login("l");
    scene.settings[0].base_url = Some("http://127.0.0.1:9".into());
    let pools = scene.open();
    let secrets =
        async |name: &str| pools.lease(Some(name), "marie", "r").await.unwrap().secrets(Path::new("/config"));
    for (name, variable, value) in [
        ("k", "ANTHROPIC_API_KEY", "sk-canary-k"),
        ("t", "CLAUDE_CODE_OAUTH_TOKEN", "sk-ant-oat01-canary"),
        ("h", "ANTHROPIC_API_KEY", "sk-helped"),
        ("o", "CLAUDE_CODE_OAUTH_TOKEN", "sk-ant-oat01-helped"),
    ] {
        let secrets = secrets(name).await;
        assert_eq!(secrets.env[variable], value);
        assert_eq!(secrets.redact, [value]);
        assert_eq!(secrets.env.len(), if name == "k" { 2 } else { 1 });
    }
    assert_eq!(secrets("k").await.env["ANTHROPIC_BASE_URL"], "http://127.0.0.1:9");
    let of_login = secrets("l").await;
    assert_eq!(
        (of_login.env.len(), of_login.redact),
        (0, vec!["access-0".to_owned(), "refresh-0".to_owned()])
    );
    let shown = format!("{pools:?} {:?}", pools.lease(Some("k"), "marie", "r").await.unwrap());
    assert!(!shown.contains("canary") && !shown.contains("helped"), "{shown}");
}

#[tokio::test]
async fn what_cannot_be_used_says_what_to_do_and_is_seen_as_such() {
    let scene =
        Scene::new().with_key("open", &[]).with("gone", Source::Login("/dev/null/x/y".into()), &["a"]);
    let file = scene.dir.path().join("open");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let scene =
        scene.with("bad", Source::Helper { command: vec!["/bin/false".into()], ttl: PATIENCE }, &["b"]);
    let pools = scene.open();
    let chmod = format!("chmod 600 {}", file.display());
    let error = pools.lease(Some("open"), "marie", "r").await.unwrap_err();
    assert!(crate::causes::one_line(&error).ends_with(&chmod), "{error}");
    pools.check().await;
    let states = pools.states();
    let seen: Vec<_> = states.iter().map(|state| (state.name.as_str(), state.health)).collect();
    assert_eq!(seen, [("bad", Health::Unusable), ("gone", Health::Unusable), ("open", Health::Unusable)]);
    assert_eq!(states[0].detail, "the helper /bin/false ended with exit code 1");
    assert!(
        states[1].detail.starts_with("cannot read the credential file /dev/null/x/y")
            && states[2].detail.ends_with(&chmod)
    );
}

#[tokio::test]
async fn what_an_attempt_sees_of_a_pool_people_are_shown_at_once() {
    let scene = Scene::new().with_key("k", &[]);
    let file = scene.dir.path().join("k");
    let pools = scene.open();
    let shown = async |health: Health| {
        let mut changes = pools.changes();
        let seen = async {
            let is = |state: &PoolState| state.health == health && state.detail != "not looked at yet";
            while !is(&pools.states()[0]) {
                changes.changed().await.unwrap();
            }
        };
        timeout(PATIENCE, seen).await.is_ok()
    };
    let tended = pools.clone();
    let mut tending = JoinSet::new();
    tending.spawn(async move { tended.tend().await });
    assert!(shown(Health::Unknown).await, "no CLI, no verdict on a file that can be read");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    pools.lease(None, "marie", "r").await.unwrap_err();
    assert!(shown(Health::Unusable).await);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    pools.lease(None, "marie", "r").await.unwrap();
    assert!(shown(Health::Unknown).await);
}

#[tokio::test]
async fn a_helper_is_asked_once_for_many_and_again_when_refused_or_late() {
    let scene = Scene::new();
    let count = scene.dir.path().join("count");
    let script = format!("echo x >> {}; sleep 0.1; echo sk-helped-1", count.display());
    let command: Vec<String> = ["/bin/sh".to_owned(), "-c".to_owned(), script].into();
    let scene = scene.with("h", Source::Helper { command, ttl: Duration::from_secs(60) }, &[]);
    let pools = scene.open();
    let mut asking = JoinSet::new();
    for _ in 0..20 {
        let pools = pools.clone();
        asking.spawn(async move { pools.lease(None, "marie", "r").await.unwrap() });
    }
    let leases = asking.join_all().await;
    let asked = || fs::read_to_string(&count).unwrap().lines().count();
    assert_eq!(asked(), 1);
    leases[0].note_outcome(Outcome::Ok);
    drop(pools.lease(None, "marie", "r").await.unwrap());
    assert_eq!(asked(), 1);
    leases[0].note_outcome(Outcome::Auth);
    assert!(pools.states()[0].detail.ends_with("the API refused it when it was last used"));
    let again = pools.lease(None, "marie", "r").await.unwrap();
    assert_eq!(asked(), 2);
    again.note_outcome(Outcome::Ok);
    assert!(!pools.states()[0].detail.contains("refused"));
}

#[tokio::test]
async fn a_login_serves_one_at_a_time_in_order_and_whoever_waits_hears_for_whom() {
    let scene = Scene::new().with_login("max");
    let pools = scene.open();
    let config = scene.config("config");
    let first = pools.lease(None, "marie", "adhoc/1/a").await.unwrap();
    first.place(&config).unwrap();
    let state = pools.states().remove(0);
    assert_eq!((state.in_use, state.exclusive), (1, true));

    let heard = Mutex::new(BTreeSet::new());
    let waiting = pools.lease_telling(None, "marie", "adhoc/2/a", |text| {
        heard.lock().unwrap().insert(text.to_owned());
    });
    assert!(timeout(Duration::from_millis(300), waiting).await.is_err());
    let expected = "waiting for the login of pool max (used by adhoc/1/a)";
    assert_eq!(heard.into_inner().unwrap(), BTreeSet::from([expected.to_owned()]));

    // Whoever gave up the wait holds up nobody.
    fs::write(config.join(LOGIN_FILE), login(7)).unwrap();
    first.take_back(&config);
    let next = timeout(PATIENCE, pools.lease(None, "marie", "adhoc/3/a")).await.unwrap().unwrap();
    assert_eq!(next.secrets(Path::new("/config")).redact, ["access-7", "refresh-7"]);
    assert!(!config.join(LOGIN_FILE).exists());
}

#[tokio::test]
async fn fifty_at_once_are_served_one_by_one_and_no_refresh_is_lost() {
    let scene = Scene::new().with_login("max");
    // Two agents of one host share it.
    let agents = [
        scene.open(),
        Pools::open(&scene.settings, &scene.dir.path().join("other"), Checker::default()).unwrap(),
    ];
    let (busy, served) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let mut attempts = JoinSet::new();
    for n in 0..50_usize {
        let (pools, config) = (agents[n % 2].clone(), scene.config(&format!("config-{n}")));
        let (busy, served) = (Arc::clone(&busy), Arc::clone(&served));
        attempts.spawn(async move {
            let lease = pools.lease(None, "marie", &format!("adhoc/{n}/a")).await.unwrap();
            assert_eq!(busy.fetch_add(1, Ordering::SeqCst), 0, "somebody else has it");
            lease.place(&config).unwrap();
            let had: serde_json::Value =
                serde_json::from_slice(&fs::read(config.join(LOGIN_FILE)).unwrap()).unwrap();
            let expected = format!("access-{}", served.fetch_add(1, Ordering::SeqCst));
            assert_eq!(had["claudeAiOauth"]["accessToken"], expected, "it has what the one before left");
            tokio::task::yield_now().await;
            fs::write(config.join(LOGIN_FILE), login(served.load(Ordering::SeqCst))).unwrap();
            busy.fetch_sub(1, Ordering::SeqCst);
            lease.take_back(&config);
            assert!(!config.join(LOGIN_FILE).exists());
        });
    }
    timeout(PATIENCE, attempts.join_all()).await.unwrap();
    assert!(fs::read_to_string(scene.login_file("max")).unwrap().contains("access-50"));
}

#[tokio::test]
async fn a_login_that_was_never_given_back_is_taken_back_by_the_next_and_at_the_start() {
    let scene = Scene::new().with_login("max");
    let homes = Homes::open(&scene.data()).unwrap();
    let conversation = homes.conversation(ConversationKey { run: 1, task: 0 }).unwrap();
    let config = conversation.config();
    for (n, by_sweep) in [(1, false), (2, true)] {
        let lease = scene.open().lease(None, "marie", "adhoc/1/a").await.unwrap();
        lease.place(&config).unwrap();
        fs::write(config.join(LOGIN_FILE), login(n)).unwrap();
        drop(lease);
        assert!(config.join(LOGIN_FILE).exists(), "its child may still run");
        if by_sweep {
            scene.open().sweep(&homes, &BTreeSet::new());
        } else {
            drop(timeout(PATIENCE, scene.open().lease(None, "marie", "adhoc/2/a")).await.unwrap().unwrap());
        }
        assert!(!config.join(LOGIN_FILE).exists());
        assert!(fs::read_to_string(scene.login_file("max")).unwrap().contains(&format!("access-{n}\"")));
    }
    // One that no note knows of goes as well.
    fs::write(config.join(LOGIN_FILE), login(9)).unwrap();
    scene.open().sweep(&homes, &BTreeSet::new());
    assert!(!config.join(LOGIN_FILE).exists());
    assert!(!fs::read_to_string(scene.login_file("max")).unwrap().contains("access-9"));
}

#[tokio::test]
async fn a_pool_that_is_no_longer_in_the_settings_gets_its_login_back_too() {
    let scene = Scene::new();
    let homes = Homes::open(&scene.data()).unwrap();
    let dir = pools_dir(&scene.data()).join("old");
    let scene = scene.with("old", Source::Login(dir.clone()), &[]);
    let config = homes.conversation(ConversationKey { run: 1, task: 0 }).unwrap().config();
    let pools = scene.open();
    private_dir(&dir).unwrap();
    within::replace(&dir.join(LOGIN_FILE), login(0).as_bytes()).unwrap();
    let lease = pools.lease(None, "marie", "r").await.unwrap();
    lease.place(&config).unwrap();
    fs::write(config.join(LOGIN_FILE), login(1)).unwrap();
    drop(lease);
    Pools::open(&[], &scene.data(), Checker::default()).unwrap().sweep(&homes, &BTreeSet::new());
    assert!(fs::read_to_string(dir.join(LOGIN_FILE)).unwrap().contains("access-1"));
}

#[tokio::test(start_paused = true)]
async fn what_another_agent_left_is_taken_back_only_after_it_had_time_to_return() {
    let scene = Scene::new().with_login("max");
    let config = scene.config("config");
    let other = Pools::open(&scene.settings, &scene.dir.path().join("other"), Checker::default()).unwrap();
    let lease = other.lease(None, "marie", "adhoc/1/a").await.unwrap();
    lease.place(&config).unwrap();
    fs::write(config.join(LOGIN_FILE), login(1)).unwrap();
    drop(lease);
    let begun = tokio::time::Instant::now();
    let lease = scene.open().lease(None, "marie", "adhoc/2/a").await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(30));
    assert_eq!(lease.secrets(Path::new("/config")).redact, ["access-1", "refresh-1"]);
}

#[tokio::test]
async fn a_login_stays_with_an_attempt_that_goes_on_and_with_nobody_else() {
    let scene = Scene::new().with_login("max");
    let homes = Homes::open(&scene.data()).unwrap();
    let key = ConversationKey { run: 1, task: 0 };
    let config = homes.conversation(key).unwrap().config();
    let lease = scene.open().lease(None, "marie", "adhoc/1/a").await.unwrap();
    lease.place(&config).unwrap();
    // The agent is killed here.
    drop(lease);
    let pools = scene.open();
    pools.sweep(&homes, &BTreeSet::from([key]));
    assert!(config.join(LOGIN_FILE).exists(), "its child has it");
    let mut other = Box::pin(pools.lease(None, "marie", "adhoc/2/a"));
    assert!(timeout(Duration::from_millis(300), other.as_mut()).await.is_err(), "it is still lent");
    let mut foreign = Box::pin(async {
        let other =
            Pools::open(&scene.settings, &scene.dir.path().join("other"), Checker::default()).unwrap();
        other.lease(None, "marie", "adhoc/3/a").await
    });
    assert!(timeout(Duration::from_millis(300), foreign.as_mut()).await.is_err(), "also for other agents");
    drop(foreign);
    let lease = pools.lease_again(&config, "", "marie", "adhoc/1/a").await;
    assert_eq!(lease.pool(), Some("max"));
    assert!(!lease.secrets(&config).redact.is_empty());
    fs::write(config.join(LOGIN_FILE), login(5)).unwrap();
    lease.take_back(&config);
    assert!(fs::read_to_string(scene.login_file("max")).unwrap().contains("access-5"));
    drop(timeout(PATIENCE, other).await.unwrap().unwrap());
}
