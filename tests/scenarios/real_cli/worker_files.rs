//! What a worker file gives the CLI beside a prompt: tool servers and settings of the worker's own.

use super::{AGENT, Real, of};
use orch_tests::matrix::real::WORKERS;
use std::path::Path;

/// What the tool server says, and no prompt holds.
const SERVED: &str = "42-from-the-server";

/// A tool server of one tool, in bash, so that a sandbox hides no file of it.
const SERVER: &str = r#"while IFS= read -r line; do
  [[ $line =~ \"id\":([0-9]+) ]] || continue
  case $line in
    *'"initialize"'*) result='{"protocolVersion":"2025-06-18","capabilities":{"tools":{}},"serverInfo":{"name":"demo","version":"1"}}' ;;
    *'"tools/list"'*) result='{"tools":[{"name":"add","description":"adds","inputSchema":{"type":"object"}}]}' ;;
    *'"tools/call"'*) result='{"content":[{"type":"text","text":"'$((6*7))'-from-the-server"}]}' ;;
    *) result='{}' ;;
  esac
  printf '{"jsonrpc":"2.0","id":%s,"result":%s}\n' "${BASH_REMATCH[1]}" "$result"
done"#;

/// Prompts of three workers: one with a tool server, one whose tool server cannot be started, one with a hook.
fn write_prompts(dir: &Path) {
    let write = |path: &str, text: String| {
        let path = dir.join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    };
    for (name, keys) in [
        ("served", "tools: [Bash, mcp__demo__add]\nmcp_config: demo.json"),
        ("unserved", "tools: [Bash]\nmcp_config: broken.json"),
        ("hooked", "tools: [Bash]\nsettings: hooks.json"),
    ] {
        let text = format!(
            "---\nname: {name}\ndescription: tests\nmodel: sonnet\npermission_mode: acceptEdits\n{keys}\n---\n\nYou test.\n"
        );
        write(&format!("workers/{name}.md"), text);
    }
    let server = |name: &str, command: &str, args: &[&str]| {
        serde_json::json!({"mcpServers": {name: {"command": command, "args": args}}}).to_string()
    };
    write("mcp/demo.json", server("demo", "bash", &["-c", SERVER]));
    write("mcp/broken.json", server("broken", "/nonexistent/server", &[]));
    let hook = serde_json::json!([{"hooks": [{"type": "command", "command": "touch ../out/hook-ran"}]}]);
    write("settings/hooks.json", serde_json::json!({"hooks": {"SessionStart": hook}}).to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tool_servers_and_hooks_run_where_the_worker_says_so() {
    let test = "tool_servers_and_hooks_run_where_the_worker_says_so";
    let prompts = tempfile::tempdir().expect("a directory");
    write_prompts(prompts.path());
    let dir = prompts.path().display().to_string();
    let Some(mut real) = Real::with_coordinator(test, &["--prompts", &dir]).await else { return };
    real.agent(AGENT, &["--slots", "2"]);
    real.api.look_for(SERVED);
    let played = real.play(WORKERS).await;
    let served = of(&played, "a tool server of the worker's own is used");
    assert_eq!(served.requests[1].found, [SERVED]);
    let hooked = of(&played, "a hook of the worker's own settings runs");
    let run_id = real.fleet.client().await.run(hooked.run_ref()).await.run_id;
    let out = real.fleet.agent_dir(AGENT).join("tasks").join(format!("{run_id}-0/out"));
    assert!(out.join("hook-ran").exists(), "the hook did not run");
}
