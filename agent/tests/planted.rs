//! What a task plants where the agent looks afterwards, in every sandbox and in none: links, pipes, hard links, directories
//! in the place of files, names that the agent uses itself. The agent has more rights than the task, and must not use them
//! for it. The CLI is a fake in sh.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use orch_agent::artifacts::{ArtifactLimits, collect, kept};
use orch_agent::runner::claude::{ClaudeRunner, ClaudeSettings};
use orch_agent::runner::command::AllowedPrograms;
use orch_agent::runner::{
    AttemptKey, AttemptSpec, Content, GateCommand, Gates, Input, InputFile, Outcome, Work, Workspace,
};
use orch_agent::sandbox::{Sandbox, SandboxMode, Settings};
use support::agent::{Agent, DONE, INIT, claude_work, end, spec};
use uuid::Uuid;

/// Plants, then answers. `SECRET` is a hidden directory, `DANCE` the workspace in it, `OTHER` another conversation's tree.
const PLANT: &str = r#"
ln -sfn "$SECRET/key" ../out/link; ln -sfn "$SECRET" ../out/dirlink; mkfifo ../out/pipe
mkdir ../out/report.md ../out/dir; echo fine > ../out/dir/fine; echo mine > ../out/.orch-0123
ln "$SECRET/key" ../out/hard 2>/dev/null && rm ../out/hard
mknod ../out/device c 1 5 2>/dev/null && rm ../out/device
echo x 2>/dev/null > "$DANCE/written"; echo x 2>/dev/null > "$OTHER/written"; mv "$DANCE" ../work/moved 2>/dev/null
rm -rf inputs workspace; ln -s "$SECRET" inputs; mkdir -p workspace/deep; echo x > workspace/deep/file; chmod 0 workspace
ln -sfn "$SECRET" gatedir; printf '#!/bin/sh\ncat "%s/key"; id -u; env | grep -c KEY\n' "$SECRET" > test.sh; chmod +x test.sh
mv ../out ../elsewhere 2>/dev/null && mv ../elsewhere ../out
"#;

struct Scene {
    agent: Agent,
    secret: PathBuf,
    dance: PathBuf,
    other: PathBuf,
    confined: bool,
    runner: ClaudeRunner,
}

/// Every file beneath `dir` with its content.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.symlink_metadata().unwrap().is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.clone(), fs::read(&path).unwrap_or_default());
        }
    }
    found
}

impl Scene {
    /// `None` where the host does not offer these layers.
    fn new(layers: &str) -> Option<Self> {
        let agent = Agent::outside_of_tmp();
        let root = fs::canonicalize(agent.dir.path()).unwrap();
        let (secret, dance) = (root.join("secret"), root.join("secret/dance"));
        fs::create_dir_all(&dance).unwrap();
        fs::write(secret.join("key"), "the-hidden-key").unwrap();
        fs::write(dance.join("roster.txt"), "Emma\n").unwrap();
        let other = root.join("data/tasks/7-1/work");
        agent.homes.conversation(orch_agent::homes::ConversationKey { run: 7, task: 1 }).unwrap();
        let session = Uuid::from_u128(7);
        let script = format!(
            "SECRET='{}' DANCE='{}' OTHER='{}'; mkdir -p \"$CLAUDE_CONFIG_DIR/projects/p\"
             echo '{{\"type\":\"user\"}}' >>\"$CLAUDE_CONFIG_DIR/projects/p/{session}.jsonl\"; read -r line; {INIT}
             cat inputs/a/artifacts/x/y > ../home/first 2>/dev/null; {PLANT}
             {DONE}; cat >/dev/null",
            secret.display(),
            dance.display(),
            other.display()
        );
        drop(agent.claude(&script));
        let mode = if layers == "off" { SandboxMode::Off } else { SandboxMode::Auto };
        let hidden = ["data", "key", "secret"].map(|name| root.join(name)).to_vec();
        let settings = Settings {
            mode,
            hidden,
            workspaces: vec![dance.clone()],
            search_path: "/usr/bin:/bin".to_owned(),
            ..Settings::default()
        };
        let sandbox = Sandbox::probe(settings).unwrap();
        let sandbox = match layers {
            "landlock" => sandbox.without_namespaces(),
            "namespaces" => sandbox.without_landlock(),
            _ => sandbox,
        };
        let has = |layer: &str| sandbox.layers().iter().any(|name| name == layer);
        let offered = match layers {
            "both" => has("mount-namespace") && has("landlock"),
            "landlock" => has("landlock"),
            "namespaces" => has("mount-namespace"),
            _ => true,
        };
        if !offered {
            let _ =
                std::io::Write::write_all(&mut std::io::stderr(), b"skipped: no such sandbox on this host\n");
            return None;
        }
        let (program, key) = (agent.dir.path().join("claude"), agent.dir.path().join("key"));
        let settings = ClaudeSettings { sandbox, ..agent.settings(&program, key) };
        let allowed = AllowedPrograms::find(&["cat".to_owned()], "/bin:/usr/bin").unwrap();
        let runner =
            ClaudeRunner::new(agent.launcher.clone(), Arc::clone(&agent.homes), settings).allowing(allowed);
        Some(Self { agent, secret, dance, other, confined: layers != "off", runner })
    }

    fn attempt(&self, number: u32, gates: Gates) -> AttemptSpec {
        let file = self.agent.dir.path().join(format!("fetched-{number}"));
        fs::write(&file, "an input").unwrap();
        let input = Input {
            id: "a".to_owned(),
            state: "succeeded".to_owned(),
            answer: Some(Content::Text("whole".to_owned())),
            artifacts: vec![InputFile { path: "x/y".to_owned(), file, size: 8, executable: false }],
            ..Input::default()
        };
        AttemptSpec {
            key: AttemptKey { run: 7, task: 0, attempt: number },
            inputs: vec![input],
            workspace: Some(Workspace { name: "dance".to_owned(), dir: self.dance.clone() }),
            gates,
            ..spec(Work::Claude(Box::new(claude_work("plant"))))
        }
    }

    /// Plays an attempt after an attempt, each of which plants, and looks at what the agent did about it.
    async fn play(&self) {
        let before = files(&self.secret);
        for number in [1, 2] {
            let report = end(&self.runner, self.attempt(number, Gates::default())).await;
            assert_eq!(report.outcome, Outcome::Ok, "attempt {number}: {}", report.detail);
            let first =
                fs::read_to_string(self.agent.work_dir().with_file_name("home").join("first")).unwrap();
            assert_eq!(first, "an input", "attempt {number}: its inputs are in their place");
            self.collected(number, report.artifacts_from.as_deref().unwrap());
            if self.confined {
                assert_eq!(files(&self.secret), before, "attempt {number}");
                assert_eq!(files(&self.other), BTreeMap::new());
            } else {
                let _ = fs::remove_file(self.other.join("written"));
                let moved = self.agent.work_dir().join("moved");
                if moved.exists() {
                    fs::rename(moved, &self.dance).unwrap();
                }
                let _ = fs::remove_file(self.dance.join("written"));
                assert_eq!(files(&self.secret), before, "attempt {number}");
            }
        }
    }

    fn collected(&self, number: u32, out: &Path) {
        let keep = self.agent.dir.path().join(format!("kept-{number}"));
        let gathered = collect(out, &keep, ArtifactLimits::default()).unwrap();
        let paths: Vec<String> = kept(&keep).unwrap().artifacts.into_iter().map(|one| one.path).collect();
        assert_eq!(paths, [".orch-0123", "dir/fine"]);
        for left_out in ["out/dirlink (a link)", "out/link (a link)", "out/pipe (a pipe)"] {
            assert!(gathered.left_out.contains(left_out), "{}", gathered.left_out);
        }
        assert!(files(&keep).values().all(|bytes| !String::from_utf8_lossy(bytes).contains("hidden-key")));
    }

    /// Gates on what was planted: none of it counts, and none of it is followed.
    async fn gates(&self) {
        let command = |program: &str, dir: &str| GateCommand {
            program: program.to_owned(),
            args: vec!["key".to_owned()],
            dir: dir.to_owned(),
            ..GateCommand::default()
        };
        let wanted = ["link", "dirlink/key", "dirlink/**", "pipe", "report.md"].map(str::to_owned).to_vec();
        let mut commands = vec![command("cat", "gatedir"), command("cat", "inputs")];
        if self.confined {
            commands.push(command("./test.sh", ""));
        }
        let gates = Gates { required_artifacts: wanted, commands, ..Gates::default() };
        let report = end(&self.runner, self.attempt(3, gates)).await;
        assert_eq!(report.outcome, Outcome::GateFailed, "{}", report.detail);
        let passed: Vec<&str> =
            report.gates.iter().filter(|gate| gate.passed).map(|gate| gate.name.as_str()).collect();
        assert!(passed.is_empty(), "{passed:?}");
        for gate in &report.gates {
            assert!(!gate.log.contains("hidden-key"), "{}: {}", gate.name, gate.log);
        }
        for gate in report.gates.iter().filter(|gate| gate.name == "cat key") {
            assert!(gate.log.contains("leads out of the working directory"), "{}", gate.log);
        }
        if self.confined {
            let own = report.gates.last().unwrap();
            assert!(own.name == "./test.sh key" && own.log.lines().nth(2) == Some("0"), "{}", own.log);
        }
    }
}

#[tokio::test]
async fn nothing_planted_leads_the_agent_elsewhere_with_both_layers() {
    if let Some(scene) = Scene::new("both") {
        scene.play().await;
        scene.gates().await;
    }
}

#[tokio::test]
async fn nothing_planted_leads_the_agent_elsewhere_with_landlock_alone() {
    if let Some(scene) = Scene::new("landlock") {
        scene.play().await;
        scene.gates().await;
    }
}

#[tokio::test]
async fn nothing_planted_leads_the_agent_elsewhere_with_namespaces_alone() {
    if let Some(scene) = Scene::new("namespaces") {
        scene.play().await;
        scene.gates().await;
    }
}

#[tokio::test]
async fn nothing_planted_leads_the_agent_elsewhere_without_a_sandbox() {
    let scene = Scene::new("off").expect("nothing is needed for it");
    scene.play().await;
    scene.gates().await;
}
