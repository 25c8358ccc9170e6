//! `doctor` where nothing is set up: it must say so, not fail for it.

use std::process::{Command, Output};

#[expect(clippy::unwrap_used, reason = "a test's own helper")]
fn doctor(dir: &std::path::Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_orchctl"))
        .arg("doctor")
        .args(args)
        .current_dir(dir)
        .env_clear()
        .env("HOME", dir)
        .output()
        .unwrap()
}

#[test]
fn without_a_configuration_everything_is_told_and_nothing_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let output = doctor(dir.path(), &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.starts_with(" 1 ✗ failed   config "), "{text}");
    assert!(text.contains("→ for a try on this machine: orchctl dev"), "{text}");
    assert!(text.contains("- skipped  disk"), "{text}");
    assert!(output.stderr.is_empty(), "{:?}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn scripts_get_one_object_with_every_check() {
    let dir = tempfile::tempdir().unwrap();
    let output = doctor(dir.path(), &["-o", "json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((json["healthy"].as_bool(), json["errors"].as_u64()), (Some(false), Some(1)));
    let states: Vec<_> =
        json["checks"].as_array().unwrap().iter().map(|check| check["state"].as_str()).collect();
    assert_eq!(states[0], Some("failed"));
    assert!(states[1..].iter().all(|state| *state == Some("skipped")), "{states:?}");
}
