//! Flags of `bridge`. Knows words and defaults; refuses to touch a file.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

/// Flags of `bridge`.
#[derive(Debug, Args)]
#[command(after_help = "Example: orchctl bridge --tasks /srv/tasks --results /srv/results\n\n\
        tasks/WORKER/NAME.json holds {\"description\": …} and perhaps task_id, context, dependencies, priority, timeout;\n\
        results/WORKER/NAME.json then holds status (complete or failed), outcome, result, artifacts. Each file is submitted\n\
        exactly once, also over restarts of the bridge. A file that cannot be used goes to bad/ with its reason beside it.")]
pub(crate) struct BridgeArgs {
    /// Folder of task files, one folder in it for each worker
    #[arg(long, value_name = "DIR")]
    pub(crate) tasks: PathBuf,
    /// Folder of results, laid out the same way
    #[arg(long, value_name = "DIR")]
    pub(crate) results: PathBuf,
    /// Put this between a result's name and `.json`, for example `-result`
    #[arg(long, value_name = "TEXT", default_value = "", allow_hyphen_values = true)]
    pub(crate) suffix: String,
    /// Move finished task files to done/ beside them instead of removing them
    #[arg(long)]
    pub(crate) keep: bool,
    /// End when nothing is left to do, rather than wait for more
    #[arg(long)]
    pub(crate) once: bool,
    /// Cancel what is unfinished and move its task files to this folder; then end
    #[arg(long, value_name = "DIR", conflicts_with_all = ["once", "keep"])]
    pub(crate) export: Option<PathBuf>,
    /// How often to look
    #[arg(long, value_name = "DUR", default_value = "1s", value_parser = interval)]
    pub(crate) interval: Duration,
}

/// Reads how often to look: a file must be taken within 5 s.
fn interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let (least, most) = (Duration::from_millis(50), Duration::from_secs(2));
    if (least..=most).contains(&interval) { Ok(interval) } else { Err("between 50ms and 2s".to_owned()) }
}
