//! A worker in one screen.

use std::fmt::Write as _;

use orch_proto::v1::{Worker, WorkerDefinition};
use serde_json::Value;

use crate::output::Out;
use crate::output::figures::plural;
use crate::output::safe::one_line;
use crate::output::words::{BOLD, DIM};

/// Longest text told.
const TOLD: usize = 500;
/// Lines of the prompt that are shown.
const PROMPT: usize = 6;

/// The screen.
pub(super) fn text(out: &Out, worker: &Worker, definition: &WorkerDefinition) -> String {
    let told = |text: &str| one_line(text, TOLD);
    let mut text = format!("{}  {}\n", out.paint(BOLD, &told(&worker.name)), told(&worker.description));
    let requires: Vec<_> = worker.requires.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let rows = [
        ("model", worker.model.clone()),
        ("source", worker.source.clone()),
        ("requires", requires.join(" ")),
        ("pool", definition.pool.clone()),
        ("tools", definition.tools.join(" ")),
        ("allowed", definition.allowed_tools.join(" ")),
        ("denied", definition.disallowed_tools.join(" ")),
        ("permissions", definition.permission_mode.clone()),
        ("sub-agents", worker.subagents.join(" ")),
        ("settings", settings(definition)),
        ("servers", servers(&definition.mcp_config_json)),
        ("context", worker.context_files.join(" ")),
        ("digest", worker.digest.clone()),
    ];
    for (title, value) in rows.into_iter().filter(|(_, value)| !value.is_empty()) {
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(text, "  {} {}", out.paint(DIM, &format!("{title:<11}")), told(&value));
    }
    let lines: Vec<_> = definition.system_prompt.trim().lines().collect();
    let _ = writeln!(
        text,
        "  {} {}, {} bytes",
        out.paint(DIM, &format!("{:<11}", "prompt")),
        plural(lines.len() as u64, "line"),
        definition.system_prompt.len()
    );
    for line in lines.iter().take(PROMPT) {
        let _ = writeln!(text, "{}", format!("    {}", told(line)).trim_end());
    }
    if lines.len() > PROMPT {
        let _ = writeln!(text, "    …");
    }
    text
}

/// What of a working directory, or of its own, may change how the CLI behaves.
fn settings(definition: &WorkerDefinition) -> String {
    let own = if definition.settings_json.is_empty() { "" } else { "its own" };
    let sources = definition.setting_sources.join(" ");
    [own, &sources].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(", ")
}

/// Names of the tool servers; what starts them may hold what is nobody's business.
fn servers(config: &str) -> String {
    let Ok(config) = serde_json::from_str::<Value>(config) else { return String::new() };
    let servers = config.get("mcpServers").unwrap_or(&config);
    let names = servers.as_object().map(|servers| servers.keys().cloned().collect::<Vec<_>>());
    names.unwrap_or_default().join(" ")
}
