//! `orchd config check`: whether a start with these settings would go well, as far as files can tell.
//! Knows what a start opens; refuses to change anything and to touch the data.

use crate::config::Config;
use crate::material::{load_prompts, load_tls};
use crate::prices::PriceList;
use crate::telemetry;
use std::path::Path;
use std::time::SystemTime;

/// Everything that would keep a coordinator with these settings from starting at `now`, a sentence each.
#[must_use]
pub fn problems(config: &Config, now: SystemTime) -> Vec<String> {
    let mut found = Vec::new();
    if let Err(error) = load_tls(config, now) {
        found.push(format!("{:#}", anyhow::Error::from(error)));
    }
    if let Err(error) = load_prompts(config) {
        found.push(format!("{:#}", anyhow::Error::from(error)));
    }
    if let Err(error) = PriceList::load(config.prices.as_deref()) {
        found.push(format!("{:#}", anyhow::Error::from(error)));
    }
    if let Err(error) = telemetry::parse(&config.log) {
        found.push(format!("{error:#}"));
    }
    if config.data_dir.exists() && !config.data_dir.is_dir() {
        found.push(format!("the data directory {} is not a directory", config.data_dir.display()));
    }
    let ready_in = config.ready_file.as_deref().map(parent_of).filter(|dir| !dir.is_dir());
    if let Some(dir) = ready_in {
        found.push(format!("the ready file would be in {}, which is not a directory", dir.display()));
    }
    found
}

/// The directory that a file is in.
pub(crate) fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Flags;
    use orch_certs::{Ca, Identity, LeafRequest, Role};

    fn config(dir: &Path, change: impl FnOnce(&mut Flags)) -> Config {
        let (ca, _) = Ca::ensure(&dir.join("ca"), "orch.test", SystemTime::now()).unwrap();
        let identity = Identity::new("orch.test", Role::Coordinator, "default", "coordinator").unwrap();
        let request = LeafRequest::new(identity).hosts(["localhost"]);
        let leaf = ca.ensure_leaf(&dir.join("certs"), &request, SystemTime::now()).unwrap();
        let files = leaf.files().clone();
        let mut flags = Flags {
            tls_ca: Some(files.ca),
            tls_cert: Some(files.cert),
            tls_key: Some(files.key),
            data_dir: Some(dir.join("data")),
            ..Flags::default()
        };
        change(&mut flags);
        Config::resolve(flags).unwrap()
    }

    #[test]
    fn good_settings_have_no_problem_and_nothing_is_made() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(problems(&config(dir.path(), |_| ()), SystemTime::now()), [""; 0]);
        assert!(!dir.path().join("data").exists());
    }

    #[test]
    fn all_that_is_wrong_is_said_with_the_file_at_fault() {
        let dir = tempfile::tempdir().unwrap();
        let prompts = dir.path().join("prompts");
        std::fs::create_dir_all(prompts.join("workers")).unwrap();
        std::fs::write(prompts.join("workers/BAD.md"), "no front matter").unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let config = config(dir.path(), |flags| {
            flags.tls_key = Some(dir.path().join("missing.key"));
            flags.prompts = Some(prompts);
            flags.log = Some("a=b=c".into());
            flags.data_dir = Some(dir.path().join("file"));
            flags.ready_file = Some(dir.path().join("nowhere/ready.json"));
        });
        let found = problems(&config, SystemTime::now());
        let said = |word: &str| assert!(found.iter().any(|text| text.contains(word)), "{word}: {found:#?}");
        ["missing.key", "BAD.md", "a=b=c", "is not a directory", "nowhere"]
            .iter()
            .for_each(|word| said(word));
        assert_eq!(found.len(), 5, "{found:#?}");
    }

    #[test]
    fn a_certificate_whose_time_is_over_is_a_problem() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path(), |_| ());
        let much_later = SystemTime::now() + std::time::Duration::from_secs(100 * 365 * 86_400);
        let found = problems(&config, much_later);
        assert!(found.len() == 1 && found[0].contains("expired on"), "{found:?}");
    }
}
