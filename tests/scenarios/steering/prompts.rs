//! Workers that users bring: their files, what reaches the CLI of them, and what a change of them changes.

use super::{Said, admin, ana, explained, requiring};
use orch_proto::v1::RunState;
use orch_tests::client::{Client, answer, run, worker};
use orch_tests::fleet::{Binaries, Fleet};
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

const NADIA: &str = "---
name: nadia
description: Translates, keeping the studio's terms.
model: sonnet
tools: [Agent, Read]
subagents: [term-checker]
context_files: [terms.md, style/house.md]
pool: studio
---

You translate.
";
const CHECKER: &str = "---
name: term-checker
description: Looks one term up.
tools: [Read]
---

You look terms up.
";
const GUEST: &str = "---
name: guest
description: Works as the project wants it.
model: sonnet
tools: [Read]
setting_sources: [project]
settings: guest.json
mcp_config: guest.json
---

You are a guest.
";
const PLAIN: &str = "---
name: plain
description: Needs nothing.
model: haiku
tools: [Read]
---

First edition.
";
/// What nadia's CLI must be given, to the byte.
const WHOLE: &str = "You translate.

# Context files of this worker

## terms.md

barre: barre

## style/house.md

Short sentences.
";

/// A directory of prompts, and beside it an `orchd` that is started with it.
struct Prompts {
    dir: TempDir,
}

impl Prompts {
    fn new() -> Self {
        let prompts = Self { dir: tempfile::tempdir().expect("temporary directory") };
        prompts.write("workers/nadia.md", NADIA);
        prompts.write("workers/guest.md", GUEST);
        prompts.write("workers/plain.md", PLAIN);
        prompts.write("subagents/term-checker.md", CHECKER);
        prompts.write("context/terms.md", "\r\nbarre: barre\r\n");
        prompts.write("context/style/house.md", "Short sentences.\n\n");
        prompts.write("settings/guest.json", r#"{"env":{"GUEST":"1"}}"#);
        prompts.write("mcp/guest.json", r#"{"mcpServers":{"crm":{"command":"/bin/false"}}}"#);
        prompts
    }

    fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("prompts")
    }

    fn write(&self, name: &str, text: &str) {
        write(&self.path().join(name), text);
    }

    fn fleet(&self) -> Fleet {
        let binaries = orch_tests::binaries!();
        let orchd = self.dir.path().join("orchd");
        let text = format!(
            "#!/bin/sh\nexec '{}' --prompts '{}' \"$@\"\n",
            binaries.orchd.display(),
            self.path().display()
        );
        // Written by another process: a child that another test starts now would hold the file open, and what is
        // open for writing cannot be executed.
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", r#"printf %s "$1" > "$0" && chmod 700 "$0""#]).arg(&orchd).arg(text);
        assert!(shell.status().expect("a shell").success());
        Fleet::start(Binaries { orchd, ..binaries })
    }
}

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("directory");
    std::fs::write(path, text).expect("written");
}

/// What the scripted CLI reports of the only task of a run that has ended well.
async fn report(client: &mut Client, run_ref: &str) -> Value {
    let ended = client.finished(run_ref).await;
    let tasks = client.tasks(run_ref).await;
    assert_eq!(ended.state(), RunState::Succeeded, "{tasks:?}");
    serde_json::from_str(answer(&tasks[0])).expect("a report")
}

fn prompt_of(report: &Value) -> &str {
    report["system_prompt"].as_str().expect("a prompt")
}

/// The word after an option.
fn option<'a>(report: &'a Value, name: &str) -> Option<&'a str> {
    let words = report["argv"].as_array().expect("arguments");
    let at = words.iter().position(|word| word == name)?;
    words.get(at + 1)?.as_str()
}

fn has(report: &Value, word: &str) -> bool {
    report["argv"].as_array().expect("arguments").iter().any(|found| found == word)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_of_ones_own_reaches_the_cli_byte_for_byte_with_its_context_files_sub_agent_and_pool() {
    let prompts = Prompts::new();
    let mut fleet = prompts.fleet();
    fleet.agent("box-1", &[]);
    let mut client = fleet.client().await;
    let early = client.submit(run(vec![worker("t", "nadia", "[[report]]")])).await;
    let why = explained(&mut client, &early.r#ref).await;
    assert!(why.impossible && why.summary.contains("pool=studio"), "{why:?}");
    let key = fleet.dir().join("studio.key");
    std::fs::write(&key, "sk-ant-stand-in\n").expect("key file");
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("mode");
    fleet.agent("box-2", &["--pool", &format!("studio=api-key:{}", key.display())]);
    let first = report(&mut client, &early.r#ref).await;
    assert_eq!(prompt_of(&first), WHOLE);
    assert_eq!(first["agents"], serde_json::json!(["term-checker"]));
    let task = client.tasks(&early.r#ref).await.remove(0);
    assert_eq!(task.agent, "box-2", "the one that has the pool");
    assert!(first["env"].as_array().expect("names").iter().any(|name| name == "ANTHROPIC_API_KEY"));

    let brief = fleet.dir().join("brief.md");
    std::fs::write(&brief, "Keep it short.\n").expect("written");
    let args = ["run", "--worker", "nadia", "--context-file", "brief.md", "-o", "json", "[[report]]"];
    let with_file = ana(&fleet, &args).await.ended(0);
    assert!(!with_file.out.is_empty());
    let last = client.run("@last").await.r#ref;
    let whole = format!("{WHOLE}\n# Context files of this run\n\n## brief.md\n\nKeep it short.\n");
    assert_eq!(prompt_of(&report(&mut client, &last).await), whole);

    let again = client.submit(run(vec![worker("t", "nadia", "[[report]] again")])).await;
    assert_eq!(prompt_of(&report(&mut client, &again.r#ref).await), WHOLE, "the same bytes every time");
    let shown = ana(&fleet, &["workers", "show", "nadia", "--prompt"]).await.ended(0);
    assert_eq!(shown.out, WHOLE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_working_directory_is_obeyed_unless_the_worker_says_so() {
    let prompts = Prompts::new();
    let mut fleet = prompts.fleet();
    fleet.agent("box-1", &[]);
    let mut client = fleet.client().await;
    let tasks = ["plain", "guest"].map(|name| worker(name, name, "[[report {\"values\":true}]]"));
    let submitted = client.submit(run(tasks.into())).await;
    assert_eq!(client.finished(&submitted.r#ref).await.state(), RunState::Succeeded);
    let tasks = client.tasks(&submitted.r#ref).await;
    let reports: Vec<Value> =
        tasks.iter().map(|task| serde_json::from_str(answer(task)).expect("a report")).collect();
    let [plain, guest] = &reports[..] else { panic!("{reports:?}") };
    for told in [plain, guest] {
        assert!(has(told, "--strict-mcp-config"), "{told}");
        assert_eq!(told["env"]["CLAUDE_CODE_DISABLE_ATTACHMENTS"], "1", "{told}");
    }
    assert_eq!(option(plain, "--setting-sources"), Some(""));
    assert!(!has(plain, "--settings") && !has(plain, "--mcp-config"), "{plain}");
    assert_eq!(option(guest, "--setting-sources"), Some("project"));
    let place = format!("tasks/{}-1/attempts/1/given/", submitted.run_id);
    for name in ["--settings", "--mcp-config"] {
        let file = option(guest, name).expect(name);
        assert!(file.contains(&place) && file.ends_with(".json"), "{name} {file}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_changes_later_runs_only_and_one_with_a_mistake_changes_nothing() {
    let prompts = Prompts::new();
    let mut fleet = prompts.fleet();
    fleet.agent("box-1", &[]);
    let mut client = fleet.client().await;
    let files = prompts.path().display().to_string();
    let valid = ana(&fleet, &["workers", "validate", &files, "-o", "name"]).await.ended(0);
    assert!(valid.err.is_empty() && !valid.out.is_empty(), "{valid:?}");
    let task = || worker("t", "plain", "[[report]]");
    let queued = client.submit(run(vec![requiring(task(), "gpu", "yes")])).await;

    prompts.write("workers/plain.md", &PLAIN.replace("First", "Second"));
    let refused = ana(&fleet, &["workers", "reload"]).await.ended(4);
    assert!(refused.err.contains("role admin"), "{}", refused.err);
    let before = client.submit(run(vec![task()])).await;
    assert_eq!(prompt_of(&report(&mut client, &before.r#ref).await), "First edition.\n");
    let reloaded = admin(&fleet, &["workers", "reload"]).await.ended(0);
    assert!(reloaded.out.contains("changed: plain"), "{}", reloaded.out);
    let digest = async || worker_shown(&fleet).await.json()["digest"].clone();
    let second = digest().await;
    let later = client.submit(run(vec![task()])).await;
    assert_eq!(prompt_of(&report(&mut client, &later.r#ref).await), "Second edition.\n");

    prompts.write("workers/plain.md", &PLAIN.replace("First", "Third").replace("model: haiku\n", ""));
    prompts.write("workers/guest.md", &GUEST.replace("tools:", "colour: red\ntools:"));
    let found = ana(&fleet, &["workers", "validate", &files]).await.ended(1);
    for place in ["workers/guest.md:5:1", "workers/plain.md:"] {
        assert!(found.out.contains(place), "{place} is missing from\n{}", found.out);
    }
    assert!(found.out.contains("2 mistakes"), "{}", found.out);
    let failed = admin(&fleet, &["workers", "reload"]).await.ended(1);
    assert!(failed.out.contains("workers/guest.md:5:1") && failed.out.contains("stay as they are"));
    assert_eq!(digest().await, second);
    let after = client.submit(run(vec![task()])).await;
    assert_eq!(prompt_of(&report(&mut client, &after.r#ref).await), "Second edition.\n");

    admin(&fleet, &["agents", "label", "box-1", "gpu=yes"]).await.ended(0);
    let pinned = report(&mut client, &queued.r#ref).await;
    assert_eq!(prompt_of(&pinned), "First edition.\n", "submitted before the reload");
}

async fn worker_shown(fleet: &Fleet) -> Said {
    ana(fleet, &["workers", "show", "plain", "-o", "json"]).await.ended(0)
}
