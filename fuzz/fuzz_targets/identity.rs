//! Any bytes as a certificate: an identity that parses prints to text that parses to the same identity.
#![no_main]

use libfuzzer_sys::fuzz_target;
use orch_certs::Identity;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(identity) = Identity::from_certificate_der(bytes) {
        assert_eq!(identity.uri().parse(), Ok(identity));
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = text.parse::<Identity>();
    }
});
