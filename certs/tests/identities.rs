//! Identities read from whole certificates, good and hostile.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use orch_certs::{Identity, IdentityError, Role};
use rcgen::string::Ia5String;
use rcgen::{CertificateParams, CustomExtension, DnType, KeyPair, SanType};

fn certificate(uris: &[&str], common_name: &str) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.subject_alt_names = vec![SanType::DnsName("box-1".try_into().unwrap())];
    params.subject_alt_names.extend(uris.iter().map(|uri| SanType::URI(Ia5String::try_from(*uri).unwrap())));
    sign(params)
}

fn sign(params: CertificateParams) -> Vec<u8> {
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

/// A certificate whose URI holds bytes that no honest tool writes; reading does not check the signature.
fn patched(from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut der = certificate(&["spiffe://example.org/agent/default/box-1"], "x");
    let at = der.windows(from.len()).rposition(|window| window == from).unwrap();
    der.splice(at..at + from.len(), to.iter().copied());
    der
}

#[test]
fn one_uri_is_the_identity_whatever_the_common_name_says() {
    let der = certificate(&["spiffe://example.org/agent/default/box-1"], "admin");
    let identity = Identity::from_certificate_der(&der).unwrap();
    assert_eq!(identity, Identity::new("example.org", Role::Agent, "default", "box-1").unwrap());
}

#[test]
fn a_common_name_alone_is_no_identity() {
    let der = certificate(&[], "spiffe://example.org/admin/default/root");
    assert_eq!(Identity::from_certificate_der(&der), Err(IdentityError::NoUri));
    let mut bare = CertificateParams::default();
    bare.distinguished_name.push(DnType::CommonName, "admin");
    assert_eq!(Identity::from_certificate_der(&sign(bare)), Err(IdentityError::NoUri));
}

#[test]
fn two_uris_are_refused_even_if_one_is_foreign_or_both_are_equal() {
    let ours = "spiffe://example.org/agent/default/box-1";
    for other in [ours, "https://example.org", "spiffe://example.org/admin/default/root"] {
        let der = certificate(&[ours, other], "x");
        assert_eq!(
            Identity::from_certificate_der(&der),
            Err(IdentityError::SeveralUris { count: 2 }),
            "{other}"
        );
    }
}

#[test]
fn bytes_outside_the_alphabet_are_refused() {
    let bad = |from: &[u8], to: &[u8]| Identity::from_certificate_der(&patched(from, to)).unwrap_err();
    assert!(matches!(bad(b"box-1", b"box\x001"), IdentityError::BadPart { part: "name", .. }));
    assert!(matches!(bad(b"box-1", b"bo*-1"), IdentityError::BadPart { part: "name", .. }));
    assert_eq!(bad(b"box-1", "bé-1".as_bytes()), IdentityError::NotAscii);
    assert_eq!(bad(b"box-1", b"bo\xff-1"), IdentityError::NotAscii);
}

#[test]
fn an_unreadable_uri_still_counts_as_a_second_one() {
    let mut der = certificate(
        &["spiffe://example.org/agent/default/box-1", "spiffe://example.org/agent/default/box-2"],
        "x",
    );
    let at = der.windows(5).rposition(|window| window == b"box-2").unwrap();
    der[at] = 0xff;
    assert_eq!(Identity::from_certificate_der(&der), Err(IdentityError::SeveralUris { count: 2 }));
}

#[test]
fn repeated_extensions_and_trailing_bytes_are_refused() {
    let mut params = CertificateParams::default();
    params.subject_alt_names =
        vec![SanType::URI("spiffe://example.org/agent/default/box-1".try_into().unwrap())];
    // subjectAltName (2.5.29.17) once more: SEQUENCE { [6] "spiffe://a/admin/b/c" }
    let uri = b"spiffe://a/admin/b/c";
    let mut content =
        vec![0x30, u8::try_from(uri.len() + 2).unwrap(), 0x86, u8::try_from(uri.len()).unwrap()];
    content.extend_from_slice(uri);
    params.custom_extensions = vec![CustomExtension::from_oid_content(&[2, 5, 29, 17], content)];
    assert_eq!(Identity::from_certificate_der(&sign(params)), Err(IdentityError::NotACertificate));

    let mut der = certificate(&["spiffe://example.org/agent/default/box-1"], "x");
    der.push(0);
    assert_eq!(Identity::from_certificate_der(&der), Err(IdentityError::NotACertificate));
}

#[test]
fn a_certificate_cut_anywhere_is_refused_without_a_panic() {
    let der = certificate(&["spiffe://example.org/agent/default/box-1"], "x");
    for length in 0..der.len() {
        assert_eq!(
            Identity::from_certificate_der(&der[..length]),
            Err(IdentityError::NotACertificate),
            "{length}"
        );
    }
}
