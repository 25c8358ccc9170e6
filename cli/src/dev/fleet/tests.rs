//! A fleet of shell scripts: they announce themselves as daemons do and then wait to be stopped or killed.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::super::layout::Given;
use super::super::setup;
use super::*;

/// A daemon as far as a fleet can tell.
const SCRIPT: &str = r#"#!/bin/sh
role=$1
for word; do case $word in --ready-file=*|--status-file=*) file=${word#*=} ;; esac; done
echo "$role $*" >> "$(dirname "$0")/starts"
case $role in
coordinator) echo "{\"grpc\":\"127.0.0.1:4711\",\"probe\":\"127.0.0.1:4712\",\"pid\":$$}" > "$file.new" ;;
agent) echo "{\"state\":\"connected\",\"agent\":\"x\",\"pid\":$$}" > "$file.new" ;;
*) echo "cannot bind 127.0.0.1:7443"; exit 3 ;;
esac
mv "$file.new" "$file"
exec sleep 600
"#;

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("daemon");
        std::fs::write(&script, SCRIPT).unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o700)).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn setup(&self, coordinator: &'static str) -> Setup {
        let (layout, lock) = setup::open(&self.path("data")).unwrap();
        let agent = |name: &str| AgentPlan {
            name: name.to_owned(),
            slots: None,
            capabilities: Vec::new(),
            allow_commands: Vec::new(),
            workspaces: Vec::new(),
            claude_bin: None,
            credential: Given::Nothing,
            api_base_url: None,
        };
        Setup {
            layout,
            programs: Programs {
                coordinator: Program::named(self.path("daemon"), coordinator),
                agent: Program::named(self.path("daemon"), "agent"),
            },
            coordinator: CoordinatorPlan {
                listen: ([127, 0, 0, 1], 0).into(),
                probe: ([127, 0, 0, 1], 0).into(),
                prompts: None,
                heartbeat_interval: None,
            },
            agents: vec![agent("local-1"), agent("local-2")],
            ready_file: Some(self.path("ready")),
            owns_orphans: false,
            lock,
        }
    }

    fn ready(&self) -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(self.path("ready")).unwrap()).unwrap()
    }

    fn starts(&self) -> String {
        std::fs::read_to_string(self.path("starts")).unwrap()
    }
}

/// Starting a script that another test's fork still holds open for writing fails with "text file busy" for a moment.
async fn start(place: &Place) -> Fleet {
    for _ in 0..100 {
        match Fleet::start(place.setup("coordinator")).await {
            Ok(fleet) => return fleet,
            Err(failure) if failure.text(false).contains("busy") => tokio::time::sleep(LOOK).await,
            Err(failure) => panic!("{}", failure.text(false)),
        }
    }
    panic!("the script stayed busy");
}

fn kill(pid: u32) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
}

fn is_alive(pid: u32) -> bool {
    test_kill_process(Pid::from_raw(pid.cast_signed()).unwrap()).is_ok()
}

async fn next(fleet: &mut Fleet) -> News {
    tokio::time::timeout(Duration::from_secs(30), fleet.tend()).await.expect("news in time").unwrap()
}

#[tokio::test]
async fn a_daemon_that_is_killed_comes_back_on_the_same_ports_and_the_ready_file_says_so() {
    let place = Place::new();
    let mut fleet = start(&place).await;
    let before = place.ready();
    assert_eq!(
        (before["grpc"].as_str(), before["probe"].as_str()),
        (Some("127.0.0.1:4711"), Some("127.0.0.1:4712"))
    );
    let (_, pids) = fleet.running();
    kill(pids.coordinator);
    assert!(
        matches!(next(&mut fleet).await, News::Died { name, how, .. } if name == COORDINATOR && how == "signal 9")
    );
    assert!(matches!(next(&mut fleet).await, News::Back { name, restarts: 1, .. } if name == COORDINATOR));
    let after = place.ready();
    assert_ne!(before["pids"]["coordinator"], after["pids"]["coordinator"]);
    assert_eq!(before["pids"]["agents"], after["pids"]["agents"]);
    assert!(
        place.starts().lines().last().unwrap().contains("--listen=127.0.0.1:4711 --probe=127.0.0.1:4712")
    );

    kill(pids.agents["local-2"]);
    assert!(matches!(next(&mut fleet).await, News::Died { name, .. } if name == "local-2"));
    assert!(matches!(next(&mut fleet).await, News::Back { name, .. } if name == "local-2"));
    assert_ne!(place.ready()["pids"]["agents"]["local-2"], before["pids"]["agents"]["local-2"]);
    fleet.stop().await;
}

#[tokio::test]
async fn stopping_leaves_no_process_and_no_file_that_promises_one() {
    let place = Place::new();
    let mut fleet = start(&place).await;
    let (_, pids) = fleet.running();
    assert!(fleet.layout().context_file().exists());
    assert_eq!(fleet.stop().await, Vec::<String>::new());
    for pid in pids.agents.values().chain([&pids.coordinator]) {
        assert!(!is_alive(*pid), "{pid} is alive");
    }
    assert!(!place.path("ready").exists() && !fleet.layout().context_file().exists());
}

#[tokio::test]
async fn a_coordinator_that_cannot_start_is_told_with_the_end_of_its_log() {
    let place = Place::new();
    let failure = loop {
        match Fleet::start(place.setup("broken")).await {
            Err(failure) if failure.text(false).contains("busy") => tokio::time::sleep(LOOK).await,
            Err(failure) => break failure,
            Ok(_) => panic!("it must not start"),
        }
    };
    let text = failure.text(false);
    for part in
        ["coordinator does not come up: exit code 3", "cannot bind 127.0.0.1:7443", "--listen 127.0.0.1:0"]
    {
        assert!(text.contains(part), "{text}");
    }
}

#[tokio::test]
async fn port_0_takes_the_ports_of_the_last_time() {
    let place = Place::new();
    start(&place).await.stop().await;
    let ports: Endpoints = notice::read(&Path::new(&place.path("data")).join("state/ports.json")).unwrap();
    assert_eq!(ports.grpc.port(), 4711);
}
