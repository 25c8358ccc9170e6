//! Files that cannot be used are refused with their name and the reason.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::fs;
use std::time::{Duration, SystemTime};

use orch_certs::{Ca, ClientTls, Identity, LeafRequest, Role, ServerTls, TlsError, TlsFiles};

const DAY: Duration = Duration::from_secs(24 * 3600);

struct Setup {
    dir: tempfile::TempDir,
    agent: TlsFiles,
    coordinator: TlsFiles,
}

fn setup() -> Setup {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::create(dir.path(), "example.org", SystemTime::now()).unwrap();
    let issue = |role, hosts: &[&str]| {
        let identity = Identity::new("example.org", role, "default", "box-1").unwrap();
        let request = LeafRequest::new(identity).hosts(hosts.iter().copied());
        ca.issue(&request, SystemTime::now()).unwrap().write(dir.path()).unwrap()
    };
    let (agent, coordinator) = (issue(Role::Agent, &[]), issue(Role::Coordinator, &["localhost"]));
    Setup { dir, agent, coordinator }
}

#[test]
fn dates_are_judged_by_the_given_moment() {
    let Setup { dir: _dir, agent, .. } = setup();
    let error = ClientTls::load(agent.clone(), SystemTime::now() + 91 * DAY).unwrap_err();
    assert!(matches!(error, TlsError::Expired { .. }), "{error}");
    assert!(error.to_string().contains("agent.pem expired on 2"), "{error}");
    let error = ClientTls::load(agent, SystemTime::now() - DAY).unwrap_err();
    assert!(matches!(error, TlsError::NotYetValid { .. }), "{error}");
}

#[test]
fn each_end_takes_only_its_own_roles() {
    let Setup { dir: _dir, agent, coordinator } = setup();
    let now = SystemTime::now();
    assert_eq!(ClientTls::load(agent.clone(), now).unwrap().identity().role(), Role::Agent);
    assert_eq!(ServerTls::load(coordinator.clone(), now).unwrap().identity().role(), Role::Coordinator);
    let error = ServerTls::load(agent, now).unwrap_err();
    assert!(
        error.to_string().ends_with("agent.pem is for the role agent; coordinator is needed here"),
        "{error}"
    );
    assert!(matches!(ClientTls::load(coordinator, now), Err(TlsError::WrongRole { .. })));
}

#[test]
fn broken_and_mismatched_files_are_told_apart() {
    let Setup { dir, agent, coordinator } = setup();
    let now = SystemTime::now();
    let load = |files: &TlsFiles| ClientTls::load(files.clone(), now).unwrap_err();

    let crossed = TlsFiles { key: coordinator.key, ..agent.clone() };
    assert!(matches!(load(&crossed), TlsError::KeyMismatch { .. }));

    let missing = TlsFiles { cert: dir.path().join("none.pem"), ..agent.clone() };
    assert!(load(&missing).to_string().ends_with("none.pem"));

    let garbage = dir.path().join("garbage.pem");
    fs::write(&garbage, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    assert!(matches!(
        load(&TlsFiles { cert: garbage.clone(), ..agent.clone() }),
        TlsError::Unparsable { .. }
    ));
    assert!(matches!(load(&TlsFiles { ca: garbage, ..agent.clone() }), TlsError::Unparsable { .. }));

    let nameless = TlsFiles { cert: agent.ca.clone(), ..agent };
    assert!(matches!(load(&nameless), TlsError::Identity { .. }));
}

#[test]
fn a_failed_reload_keeps_what_was_loaded() {
    let Setup { dir: _dir, agent, coordinator } = setup();
    let now = SystemTime::now();
    let (server, client) =
        (ServerTls::load(coordinator, now).unwrap(), ClientTls::load(agent.clone(), now).unwrap());
    let before = server.current();
    fs::write(&agent.ca, "half a fi").unwrap();
    assert!(matches!(server.reload(now), Err(TlsError::File(_))));
    assert!(matches!(client.reload(now), Err(TlsError::File(_))));
    assert!(std::sync::Arc::ptr_eq(&before, &server.current()));
    assert_eq!(client.authorities().len(), 1);
}
