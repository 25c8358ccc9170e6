//! Tests of context resolution: the order of sources, and what a found file may not do.

use std::collections::BTreeMap;

use tempfile::TempDir;

use super::*;

/// A home with a working directory three levels down, and the variables of a test.
struct Place {
    root: TempDir,
    vars: BTreeMap<&'static str, String>,
    uid: u32,
}

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("project/a/b")).unwrap();
        let vars = BTreeMap::from([("HOME", root.path().display().to_string())]);
        let uid = fs::metadata(root.path()).unwrap().uid();
        Self { root, vars, uid }
    }

    fn write(&self, path: &str, text: &str) -> PathBuf {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    fn resolve(&self, flags: &Connection) -> Result<Context, Failure> {
        let cwd = self.root.path().join("project/a/b");
        let var = |name: &str| self.vars.get(name).cloned();
        resolve(flags, &Surroundings { var: &var, cwd: &cwd, uid: self.uid })
    }
}

fn context_json(endpoint: &str) -> String {
    format!(
        r#"{{"endpoint":"{endpoint}","tls_ca":"certs/ca.pem","tls_cert":"certs/admin.pem","tls_key":"/k.key"}}"#
    )
}

const CONFIG: &str = r#"
current = "prod"
[contexts.prod]
endpoint = "https://orch.example.net:7443"
ca = "/etc/orch/ca.pem"
cert = "~/prod.pem"
key = "prod.key"
[contexts.lab]
endpoint = "lab:7443"
tls_ca = "/a"
tls_cert = "/b"
tls_key = "/c"
"#;

#[test]
fn a_dev_context_is_found_upwards_with_paths_beside_it() {
    let place = Place::new();
    let path = place.write("project/.orch-dev/context.json", &context_json("https://127.0.0.1:4711"));
    let context = place.resolve(&Connection::default()).unwrap();
    assert_eq!(context.endpoint, "https://127.0.0.1:4711");
    assert_eq!(context.tls.ca, path.parent().unwrap().join("certs/ca.pem"));
    assert_eq!(context.tls.key, Path::new("/k.key"));
    assert_eq!(context.origin, path.display().to_string());
}

#[test]
fn a_found_context_may_not_lead_away_from_this_machine() {
    for endpoint in [
        "https://evil.example:7443",
        "https://127.0.0.1.evil.example:1",
        "https://127.0.0.1@evil.example",
        "not a url",
    ] {
        let place = Place::new();
        place.write("project/.orch-dev/context.json", &context_json(endpoint));
        place.write(".config/orchctl/config.toml", CONFIG);
        let context = place.resolve(&Connection::default()).unwrap();
        assert_eq!(context.endpoint, "https://orch.example.net:7443", "{endpoint}");
        assert!(context.notes[0].contains("is not on this machine"), "{:?}", context.notes);
    }
}

#[test]
fn a_found_context_of_another_user_is_passed_over() {
    let mut place = Place::new();
    place.write("project/.orch-dev/context.json", &context_json("https://127.0.0.1:4711"));
    place.uid += 1;
    let failure = place.resolve(&Connection::default()).unwrap_err();
    assert!(failure.text(false).contains("belongs to somebody else"), "{}", failure.text(false));
}

#[test]
fn a_named_context_file_may_lead_anywhere_and_wins_over_the_found_one() {
    let mut place = Place::new();
    place.write("project/.orch-dev/context.json", &context_json("https://127.0.0.1:4711"));
    let named = place.write("elsewhere/context.json", &context_json("https://box-0:7443"));
    place.vars.insert(CONTEXT_FILE_VAR, named.display().to_string());
    assert_eq!(place.resolve(&Connection::default()).unwrap().endpoint, "https://box-0:7443");
}

#[test]
fn a_named_context_file_that_is_missing_is_an_error() {
    let mut place = Place::new();
    place.write(".config/orchctl/config.toml", CONFIG);
    place.vars.insert(CONTEXT_FILE_VAR, "/nonexistent/context.json".to_owned());
    assert_eq!(place.resolve(&Connection::default()).unwrap_err().exit_code(), crate::exit::USAGE);
}

#[test]
fn flags_win_over_the_file_each_for_itself() {
    let place = Place::new();
    place.write("project/.orch-dev/context.json", &context_json("https://127.0.0.1:4711"));
    let flags = Connection {
        endpoint: Some("box-9:1".into()),
        tls_key: Some("/mine.key".into()),
        ..Connection::default()
    };
    let context = place.resolve(&flags).unwrap();
    assert_eq!(
        (context.endpoint.as_str(), context.tls.key.as_path()),
        ("https://box-9:1", Path::new("/mine.key"))
    );
    assert!(context.tls.cert.ends_with("certs/admin.pem"));
}

#[test]
fn with_all_flags_a_broken_file_is_not_in_the_way() {
    let place = Place::new();
    place.write("project/.orch-dev/context.json", "{");
    let some = |path: &str| Some(PathBuf::from(path));
    let flags = Connection {
        endpoint: Some("box:1".into()),
        tls_ca: some("a"),
        tls_cert: some("b"),
        tls_key: some("c"),
        context_name: None,
    };
    assert_eq!(place.resolve(&flags).unwrap().origin, "flags");
    assert!(place.resolve(&Connection::default()).is_err());
}

#[test]
fn the_configuration_file_offers_named_contexts() {
    let mut place = Place::new();
    place.write(".config/orchctl/config.toml", CONFIG);
    let context = place.resolve(&Connection::default()).unwrap();
    assert_eq!(context.tls.cert, place.root.path().join("prod.pem"));
    assert_eq!(context.tls.key, place.root.path().join(".config/orchctl/prod.key"));

    place.vars.insert(CONTEXT_NAME_VAR, "lab".to_owned());
    assert_eq!(place.resolve(&Connection::default()).unwrap().endpoint, "https://lab:7443");
    place.vars.insert(CONTEXT_NAME_VAR, "nowhere".to_owned());
    let failure = place.resolve(&Connection::default()).unwrap_err();
    assert!(failure.text(false).contains("it has: lab, prod"));
}

#[test]
fn a_named_context_wins_over_every_file_that_is_found() {
    let mut place = Place::new();
    place.write(".config/orchctl/config.toml", CONFIG);
    place.write("project/.orch-dev/context.json", &context_json("https://127.0.0.1:4711"));
    let endpoint = |place: &Place, flag: Option<&str>| {
        let flags = Connection { context_name: flag.map(str::to_owned), ..Connection::default() };
        place.resolve(&flags).unwrap().endpoint
    };
    assert_eq!(endpoint(&place, None), "https://127.0.0.1:4711");
    assert_eq!(endpoint(&place, Some("lab")), "https://lab:7443");
    place.vars.insert(CONTEXT_NAME_VAR, "prod".to_owned());
    assert_eq!(endpoint(&place, None), "https://orch.example.net:7443");
    let named = place.write("elsewhere/context.json", &context_json("https://box-0:7443"));
    place.vars.insert(CONTEXT_FILE_VAR, named.display().to_string());
    assert_eq!(endpoint(&place, None), "https://box-0:7443", "the file is the more exact of two variables");
    assert_eq!(endpoint(&place, Some("lab")), "https://lab:7443", "a flag is for this command");
}

#[test]
fn a_misspelt_context_gets_a_suggestion_and_a_missing_file_says_how_to_begin() {
    let place = Place::new();
    let flags = Connection { context_name: Some("prd".into()), ..Connection::default() };
    assert!(place.resolve(&flags).unwrap_err().text(false).contains("orchctl context add prd"));
    place.write(".config/orchctl/config.toml", CONFIG);
    assert!(place.resolve(&flags).unwrap_err().text(false).contains("did you mean \"prod\"?"));
}

#[test]
fn with_nothing_named_the_help_says_how_to_start() {
    let failure = Place::new().resolve(&Connection::default()).unwrap_err();
    assert_eq!(failure.exit_code(), crate::exit::UNREACHABLE);
    assert!(failure.text(false).contains("orchctl dev"));
}

#[test]
fn plain_http_is_refused() {
    for endpoint in ["http://127.0.0.1:1", "ftp://x", "https://", ""] {
        assert!(normal_endpoint(endpoint).is_err(), "{endpoint:?}");
    }
}

#[test]
fn only_loopback_is_loopback() {
    for (endpoint, expected) in [
        ("https://127.0.0.1:7443", true),
        ("https://127.9.9.9:7443", true),
        ("https://[::1]:7443", true),
        ("https://localhost:7443", true),
        ("https://0.0.0.0:7443", false),
        ("https://localhost.example:7443", false),
        ("https://192.0.2.7:7443", false),
    ] {
        assert_eq!(is_loopback(endpoint), expected, "{endpoint}");
    }
}
