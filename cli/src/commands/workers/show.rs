//! A worker in one screen.

use orch_proto::v1::{Worker, WorkerDefinition};
use serde_json::Value;

use crate::output::Out;
use crate::output::figures::plural;
use crate::output::rows::Rows;
use crate::output::safe::one_line;
use crate::output::table::cut;
use crate::output::words::BOLD;

/// Longest text told.
const TOLD: usize = 500;
/// Lines of the prompt that are shown.
const PROMPT: usize = 6;

/// The screen.
pub(super) fn text(out: &Out, worker: &Worker, definition: &WorkerDefinition) -> String {
    let told = |text: &str| one_line(text, TOLD);
    let mut screen = Rows::new(out.stdout(), 11);
    screen.line(&format!("{}  {}", out.paint(BOLD, &told(&worker.name)), told(&worker.description)));
    let requires: Vec<_> = worker.requires.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let rows = [
        ("model", worker.model.clone()),
        ("fallback", definition.fallback_model.replace(',', ", ")),
        ("source", worker.source.clone()),
        ("requires", requires.join(" ")),
        ("pool", definition.pool.clone()),
        ("tools", definition.tools.join(" ")),
        ("allowed", definition.allowed_tools.join(" ")),
        ("denied", definition.disallowed_tools.join(" ")),
        ("permissions", definition.permission_mode.clone()),
        ("on denial", if definition.denial_fails { "fail".to_owned() } else { String::new() }),
        ("sub-agents", worker.subagents.join(" ")),
        ("settings", settings(definition)),
        ("servers", servers(&definition.mcp_config_json)),
        ("context", worker.context_files.join(" ")),
        ("digest", worker.digest.clone()),
    ];
    for (title, value) in rows.into_iter().filter(|(_, value)| !value.is_empty()) {
        screen.row(title, &told(&value));
    }
    let width = out.stdout().width().map_or(usize::MAX, |width| width.saturating_sub(4));
    let lines: Vec<_> = definition.system_prompt.trim().lines().collect();
    let size = definition.system_prompt.len();
    screen.row("prompt", &format!("{}, {size} bytes", plural(lines.len() as u64, "line")));
    let beginning: Vec<_> = lines.iter().take(PROMPT).map(|line| cut(&told(line), width)).collect();
    screen.block("    ", &beginning.join("\n"));
    if lines.len() > PROMPT {
        screen.block("    ", "…");
    }
    screen.finish()
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
