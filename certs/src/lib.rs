//! Who is who, and how the wire is protected: SPIFFE identities, a small certificate authority, and the TLS
//! configurations of both ends.
//!
//! Knows certificates, keys and their files. Refuses to know gRPC, the store, what a role may do (the coordinator's
//! authorisation table decides that) and what time it is: every function that compares dates takes `now`.
//!
//! | Module | Holds |
//! |---|---|
//! | [`identity`] | [`Role`], [`Identity`] and the rules for reading one from a certificate |
//! | [`ca`] | [`Ca`]: create, open, issue; [`ca::Ca::ensure_leaf`] for repeatable set-up |
//! | [`files`] | [`TlsFiles`]: the layout of a certificate directory, atomic writes, the rule for key permissions |
//! | [`tls`] | [`server_config`], [`client_config`], [`ServerTls`], [`ClientTls`] |
//! | [`dial`] | [`dial::Connector`] for a gRPC channel, [`dial::DialError`] for a person |
//!
//! The cryptography is `ring`, passed explicitly to every configuration built here: nothing depends on the process-wide
//! default, because features of other crates in a build can change it. [`install_ring`] sets that default for the
//! libraries that read it, and each `main` calls it once.

pub mod ca;
pub mod dial;
pub mod files;
pub mod fingerprint;
pub mod identity;
pub mod tls;
mod validity;

pub use ca::{Ca, Leaf, LeafRequest, LeafStatus};
pub use files::TlsFiles;
pub use fingerprint::{Fingerprint, fingerprint};
pub use identity::{Identity, IdentityError, Role};
pub use tls::{ClientTls, ServerTls, TlsError, client_config, install_ring, server_config};
