//! Setting up an authority and its certificates, again and again.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use orch_certs::ca::{CA_VALID, CaError, LEAF_VALID};
use orch_certs::files::{CA_CERT, CA_KEY, FileError};
use orch_certs::{Ca, ClientTls, Identity, LeafRequest, LeafStatus, Role, ServerTls, TlsError, TlsFiles};

const DOMAIN: &str = "example.org";
const DAY: Duration = Duration::from_secs(24 * 3600);

fn now() -> SystemTime {
    SystemTime::now()
}

fn request(role: Role) -> LeafRequest {
    let request = LeafRequest::new(Identity::new(DOMAIN, role, "default", "box-1").unwrap());
    if role == Role::Coordinator { request.hosts(["box-1.example.org", "192.0.2.7", "::1"]) } else { request }
}

fn issued_because(status: &LeafStatus) -> &str {
    match status {
        LeafStatus::Issued { because, .. } => because,
        LeafStatus::Kept(_) => panic!("the old certificate was kept"),
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn setting_up_twice_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let certs = dir.path().join("certs");
    let (first, created) = Ca::ensure(&certs, DOMAIN, now()).unwrap();
    assert!(created);
    for role in Role::ALL {
        let status = first.ensure_leaf(&certs, &request(role), now()).unwrap();
        assert_eq!(issued_because(&status), "there was none");
    }
    let read_all = || {
        let mut files: Vec<_> = fs::read_dir(&certs).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files.into_iter().map(|path| (fs::read(&path).unwrap(), path)).collect::<Vec<_>>()
    };
    let before = read_all();
    assert_eq!(before.len(), 10);

    let (second, created) = Ca::ensure(&certs, DOMAIN, now()).unwrap();
    assert!(!created);
    assert_eq!(second.fingerprint(), first.fingerprint());
    for role in Role::ALL {
        let status = second.ensure_leaf(&certs, &request(role), now()).unwrap();
        assert_eq!(status, LeafStatus::Kept(TlsFiles::in_dir(&certs, role)));
    }
    assert!(read_all() == before, "a file changed");
    assert_eq!(mode(&certs), 0o700);
    for name in [CA_KEY, "client.key", "agent.key", "admin.key", "coordinator.key"] {
        assert_eq!(mode(&certs.join(name)), 0o600, "{name}");
    }
}

#[test]
fn an_authority_is_never_replaced() {
    let dir = tempfile::tempdir().unwrap();
    Ca::create(dir.path(), DOMAIN, now()).unwrap();
    let before = fs::read(dir.path().join(CA_CERT)).unwrap();
    assert!(matches!(Ca::create(dir.path(), DOMAIN, now()), Err(CaError::Exists { .. })));
    let error = Ca::ensure(dir.path(), "other.org", now()).unwrap_err();
    assert!(matches!(error, CaError::OtherDomain { .. }), "{error}");
    assert_eq!(fs::read(dir.path().join(CA_CERT)).unwrap(), before);
}

#[test]
fn processes_that_set_up_at_once_get_one_authority() {
    let dir = tempfile::tempdir().unwrap();
    let prints: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| Ca::ensure(dir.path(), DOMAIN, now()).unwrap().0.fingerprint()))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(prints.iter().all(|print| *print == prints[0]), "{prints:?}");
}

#[test]
fn a_key_left_by_a_crash_before_its_certificate_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    Ca::create(dir.path(), DOMAIN, now()).unwrap();
    fs::remove_file(dir.path().join(CA_CERT)).unwrap();
    let (ca, created) = Ca::ensure(dir.path(), DOMAIN, now()).unwrap();
    assert!(created);
    assert_eq!(Ca::open(dir.path()).unwrap().fingerprint(), ca.fingerprint());
}

#[test]
fn an_authority_key_that_others_can_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    Ca::create(dir.path(), DOMAIN, now()).unwrap();
    fs::set_permissions(dir.path().join(CA_KEY), fs::Permissions::from_mode(0o644)).unwrap();
    let error = Ca::open(dir.path()).unwrap_err();
    assert!(matches!(error, CaError::File(FileError::KeyPermissions { mode: 0o644, .. })));
    assert!(error.to_string().contains("chmod 600 "), "{error}");
}

#[test]
fn files_that_are_no_authority_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::create(dir.path(), DOMAIN, now()).unwrap();
    let leaf = ca.issue(&request(Role::Agent), now()).unwrap();
    fs::write(dir.path().join(CA_CERT), &leaf.cert_pem).unwrap();
    let error = Ca::open(dir.path()).unwrap_err();
    assert!(error.to_string().contains("may not issue others"), "{error}");

    let other = tempfile::tempdir().unwrap();
    Ca::create(other.path(), DOMAIN, now()).unwrap();
    fs::copy(other.path().join(CA_CERT), dir.path().join(CA_CERT)).unwrap();
    let error = Ca::open(dir.path()).unwrap_err();
    assert!(error.to_string().contains("its key is not that of the certificate"), "{error}");
}

#[test]
fn certificates_are_renewed_when_they_no_longer_fit() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::create(&dir.path().join("ca"), DOMAIN, now()).unwrap();
    let out = dir.path().join("out");
    let wanted = request(Role::Coordinator);
    ca.ensure_leaf(&out, &wanted, now()).unwrap();

    let moved = wanted.hosts(["box-2"]);
    let status = ca.ensure_leaf(&out, &moved, now()).unwrap();
    assert_eq!(issued_because(&status), "the old one does not hold for box-2");

    let mut renamed = moved;
    renamed.identity = Identity::new(DOMAIN, Role::Coordinator, "default", "box-9").unwrap();
    let status = ca.ensure_leaf(&out, &renamed, now()).unwrap();
    assert_eq!(issued_because(&status), "the old one was for spiffe://example.org/coordinator/default/box-1");

    let late = now() + LEAF_VALID - DAY;
    assert!(
        issued_because(&ca.ensure_leaf(&out, &renamed, late).unwrap()).starts_with("the old one ends on 2")
    );

    fs::copy(dir.path().join("ca").join(CA_KEY), out.join("coordinator.key")).unwrap();
    let status = ca.ensure_leaf(&out, &renamed, late).unwrap();
    assert_eq!(issued_because(&status), "the old key did not belong to the certificate");

    let other = Ca::create(&dir.path().join("other"), DOMAIN, now()).unwrap();
    let status = other.ensure_leaf(&out, &renamed, late).unwrap();
    assert_eq!(issued_because(&status), "the directory did not list this authority");
    ServerTls::load(status.files().clone(), late).unwrap();
}

#[test]
fn a_leaf_key_that_others_can_read_is_an_error_and_not_a_reason_to_issue() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::create(dir.path(), DOMAIN, now()).unwrap();
    let files = ca.ensure_leaf(dir.path(), &request(Role::Agent), now()).unwrap().files().clone();
    fs::set_permissions(&files.key, fs::Permissions::from_mode(0o640)).unwrap();
    let error = ca.ensure_leaf(dir.path(), &request(Role::Agent), now()).unwrap_err();
    assert!(matches!(error, CaError::File(FileError::KeyPermissions { .. })), "{error}");
    let error = ClientTls::load(files, now()).unwrap_err();
    assert!(matches!(error, TlsError::File(FileError::KeyPermissions { .. })), "{error}");
}

#[test]
fn a_bundle_of_authorities_survives_a_renewal() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::create(&dir.path().join("ca"), DOMAIN, now()).unwrap();
    let next = Ca::create(&dir.path().join("next"), DOMAIN, now()).unwrap();
    let out = dir.path().join("out");
    let files = ca.issue(&request(Role::Agent), now()).unwrap().write(&out).unwrap();
    let bundle = format!("{}{}", next.cert_pem(), ca.cert_pem());
    fs::write(&files.ca, &bundle).unwrap();
    ca.issue(&request(Role::Agent), now()).unwrap().write(&out).unwrap();
    assert_eq!(fs::read_to_string(&files.ca).unwrap(), bundle);
    let tls = ClientTls::load(files, now()).unwrap();
    assert_eq!(tls.authorities(), [next.fingerprint(), ca.fingerprint()]);
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::create(dir.path(), DOMAIN, now()).unwrap();
    let refused = |request: &LeafRequest| ca.issue(request, now()).unwrap_err();
    assert!(matches!(refused(&request(Role::Coordinator).hosts([""; 0])), CaError::NoHosts));
    assert!(matches!(refused(&request(Role::Agent).hosts(["box-1"])), CaError::HostsNotAllowed { .. }));
    for host in ["", "box 1", "-x", "box-1:7443", "*.example.org\0", "é"] {
        assert!(
            matches!(refused(&request(Role::Coordinator).hosts([host])), CaError::BadHost { .. }),
            "{host:?}"
        );
    }
    let foreign = LeafRequest::new(Identity::new("other.org", Role::Agent, "default", "a").unwrap());
    assert!(matches!(refused(&foreign), CaError::OtherDomain { .. }));
    assert!(matches!(Ca::create(&dir.path().join("x"), "Not A Domain", now()), Err(CaError::Identity(_))));
    assert!(!dir.path().join("x").exists(), "a refused set-up leaves no directory");
}

#[test]
fn nothing_outlives_its_authority() {
    let dir = tempfile::tempdir().unwrap();
    let start = now();
    let ca = Ca::create(dir.path(), DOMAIN, start).unwrap();
    let late = start + CA_VALID - DAY;
    let files = ca.issue(&request(Role::Agent), late).unwrap().write(dir.path()).unwrap();
    ClientTls::load(files.clone(), late).unwrap();
    let error = ClientTls::load(files, late + 2 * DAY).unwrap_err();
    assert!(matches!(error, TlsError::Expired { .. }), "{error}");
    assert!(matches!(ca.issue(&request(Role::Agent), start + CA_VALID + DAY), Err(CaError::Expired { .. })));
}

#[test]
fn debug_output_holds_no_key() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::create(dir.path(), DOMAIN, now()).unwrap();
    let leaf = ca.issue(&request(Role::Agent), now()).unwrap();
    let text = format!("{ca:?} {leaf:?}");
    assert!(!text.contains("PRIVATE KEY"), "{text}");
    let body = leaf.key_pem.lines().nth(1).unwrap();
    assert!(!text.contains(body), "{text}");
}
