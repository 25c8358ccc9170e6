//! Command lines of orchctl, and the files by which its parts announce themselves. Refuses to know what it is asked.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// orchctl without what this shell may have set up for it.
pub(crate) fn plain(program: &Path) -> Command {
    let mut command = Command::new(program);
    let ours = std::env::vars_os().map(|(name, _)| name);
    for name in ours.filter(|name| name.to_string_lossy().starts_with("ORCH")) {
        command.env_remove(name);
    }
    command
}

/// The flags by which orchctl finds a coordinator.
pub(crate) fn connection(context: &Value) -> Vec<OsString> {
    let fields = [
        ("endpoint", "--endpoint"),
        ("tls_ca", "--tls-ca"),
        ("tls_cert", "--tls-cert"),
        ("tls_key", "--tls-key"),
    ];
    let flags = fields.into_iter().filter_map(|(field, flag)| Some([flag, context[field].as_str()?]));
    flags.flatten().map(OsString::from).collect()
}

/// A file of JSON; `None` while there is none, or only a part of it.
pub(crate) fn read(path: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// How long a run took from its submit to its recorded end, in seconds by the coordinator's clock, where it ended.
pub(crate) fn recorded_after(run: &Value) -> Option<f64> {
    let at = |field: &str| run[field].as_str().and_then(second_of_day);
    let (from, to) = at("created_at").zip(at("finished_at"))?;
    // It may be midnight meanwhile.
    Some((to - from).rem_euclid(86_400.0))
}

/// `2026-11-21T20:59:45.194Z` in seconds since its midnight.
fn second_of_day(moment: &str) -> Option<f64> {
    let time = moment.split_once('T')?.1.trim_end_matches('Z');
    let mut parts = time.split(':').map(str::parse::<f64>);
    let mut next = || parts.next()?.ok();
    let (hours, minutes, seconds) = (next()?, next()?, next()?);
    Some(hours * 3_600.0 + minutes * 60.0 + seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_of_a_day_are_seconds() {
        assert_eq!(second_of_day("2026-11-21T01:02:03.500Z"), Some(3_723.5));
        assert_eq!(second_of_day("yesterday"), None);
    }

    #[test]
    fn a_context_becomes_flags() {
        let context =
            serde_json::json!({"endpoint": "https://x", "tls_ca": "/a", "tls_cert": "/b", "tls_key": "/c"});
        assert_eq!(connection(&context).len(), 8);
        assert_eq!(connection(&context)[..2], ["--endpoint", "https://x"]);
    }
}
