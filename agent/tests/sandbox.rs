//! What a task can do to the host, to other tasks and to its agent: tried from inside, with real processes, for every
//! combination of layers that this host offers.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use orch_agent::procfs;
use orch_agent::reexec::SelfExe;
use orch_agent::runner::Workspace;
use orch_agent::sandbox::{Bounds, Plan, Sandbox, Settings};
use orch_agent::supervisor::client::Launcher;
use orch_agent::supervisor::exit::ExitRecord;
use orch_agent::supervisor::spec::Secrets;
use orch_agent::supervisor::stop::{Rung, StopCause};
use orch_agent::workspaces;
use support::{Place, see_through, until};

/// What must never be seen inside.
const CANARY: &str = "canary-7f3a";

/// An agent's data with two conversations, and an attempt of the first one under some layers.
struct Scene {
    place: Place,
    _dir: tempfile::TempDir,
    conversation: PathBuf,
    root: PathBuf,
}

/// Which layers an attempt gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layers {
    /// Made by the supervisor itself where the host lets it.
    All,
    /// The same, made by bubblewrap.
    Bubblewrap,
    Namespaces,
    Landlock,
}

impl Layers {
    fn of(self, sandbox: Sandbox) -> Sandbox {
        match self {
            Self::All => sandbox,
            Self::Bubblewrap => sandbox.by_bubblewrap_alone(),
            Self::Namespaces => sandbox.without_landlock(),
            Self::Landlock => sandbox.without_namespaces(),
        }
    }

    fn has_namespaces(self) -> bool {
        self != Self::Landlock
    }
}

/// The combinations this host offers; the others are named on standard error.
fn offered(test: &str) -> Vec<Layers> {
    let sandbox = Sandbox::probe(settings(Vec::new())).unwrap();
    let names = sandbox.layers();
    let has = |name: &str| names.iter().any(|layer| layer == name);
    let mut layers = Vec::new();
    if has("pid-namespace") {
        layers.extend([Layers::All, Layers::Namespaces]);
        let by_itself = sandbox.plan(Bounds::default()).is_some_and(|plan| plan.by_itself);
        let other = if by_itself { Some(Layers::Bubblewrap) } else { None };
        layers.extend(other);
    }
    // Signals are part of what is tried.
    if has("landlock") && !sandbox.missing().iter().any(|line| line.starts_with("no landlock")) {
        layers.push(Layers::Landlock);
    }
    for line in sandbox.missing() {
        let line = format!("skipped in part: {test}: {line}\n");
        let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
    }
    layers
}

fn settings(hidden: Vec<PathBuf>) -> Settings {
    let exe = Some(PathBuf::from(env!("CARGO_BIN_EXE_orch-agent")));
    Settings { hidden, search_path: "/usr/bin:/bin".to_owned(), exe, ..Settings::default() }
}

impl Scene {
    fn new(layers: Layers, script: &str) -> Self {
        let mut place = Place::new(script);
        // Not below /tmp, which every attempt has its own of.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
        let conversation = root.join("data/tasks/7-0");
        for dir in ["home", "work", "out", "attempts/1/given"] {
            fs::create_dir_all(conversation.join(dir)).unwrap();
        }
        for (file, text) in [
            ("data/tasks/7-0/attempts/1/given/system.md", "given to read"),
            ("data/tasks/7-0/attempts/1/secret", CANARY),
            ("data/tasks/7-1/home/secret", CANARY),
            ("data/spool/journal", CANARY),
            ("data/login/credentials.json", CANARY),
            ("tls/agent.key", CANARY),
            ("tls/agent.pem", CANARY),
            ("api-key", CANARY),
            ("studio/class.md", "the class"),
            ("music/class.md", CANARY),
        ] {
            let file = root.join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, text).unwrap();
        }
        fs::set_permissions(root.join("tls"), fs::Permissions::from_mode(0o700)).unwrap();
        let exe = SelfExe::Named(PathBuf::from(env!("CARGO_BIN_EXE_orch-agent")));
        place.launcher = Launcher::new(exe, root.join("runtime"), root.join("data")).unwrap();
        place.spec.runtime_dir = root.join("runtime");
        place.spec.owner = root.join("data");
        place.spec.ladder.int = true;
        let hidden =
            ["data", "runtime", "tls/agent.key", "tls/agent.pem", "api-key"].map(|name| root.join(name));
        let offered = ["studio", "music"].map(|name| root.join(name)).to_vec();
        let settings = Settings { workspaces: offered, ..settings(hidden.to_vec()) };
        let sandbox = layers.of(Sandbox::probe(settings).unwrap());
        let studio = Workspace { name: "studio".to_owned(), dir: root.join("studio") };
        workspaces::show(&conversation.join("work"), &studio, &conversation.join("attempts/1")).unwrap();
        let bounds = Bounds {
            writable: ["home", "work", "out"].map(|name| conversation.join(name)).to_vec(),
            readable: vec![conversation.join("attempts/1/given"), studio.dir],
        };
        place.spec.sandbox = sandbox.plan(bounds);
        place.spec.cwd = conversation.join("work");
        place.spec.attempt_dir = conversation.join("attempts/1");
        let variables =
            [("HOME", conversation.join("home")), ("OUT", conversation.join("out")), ("ROOT", root.clone())];
        for (name, path) in variables {
            place.spec.env.insert(name.to_owned(), path.to_str().unwrap().to_owned());
        }
        Self { place, _dir: dir, conversation, root }
    }

    fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.place.spec.env.insert(name.to_owned(), value.to_string());
        self
    }

    fn change(mut self, change: impl FnOnce(&mut Place)) -> Self {
        change(&mut self.place);
        self
    }

    fn plan(&mut self) -> &mut Plan {
        self.place.spec.sandbox.as_mut().unwrap()
    }

    /// Runs it to its end; returns the record and what it said.
    async fn run(&self) -> (ExitRecord, String) {
        let (_, record) = see_through(self.place.start().await).await;
        assert_eq!(self.place.processes(), [], "nothing is left");
        (record, self.place.stdout())
    }

    /// The script's words, after it ended well.
    async fn said(&self) -> String {
        let (record, said) = self.run().await;
        assert_eq!((record.code, record.spawn_error), (Some(0), None), "{said}{}", self.place.stderr());
        said
    }
}

/// A process outside, as the daemon is one.
struct Outside(Child);

impl Outside {
    fn new() -> Self {
        let child = Command::new("sleep").arg("600").env("SECRET", CANARY).stdin(Stdio::null()).spawn();
        Self(child.unwrap())
    }

    fn is_alive(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn only_home_work_and_out_can_be_written() {
    for layers in offered("only_home_work_and_out_can_be_written") {
        let script = r#"
            for dir in "$HOME" "$PWD" "$OUT"; do echo x > "$dir/mine" && echo "ok $(basename "$dir")"; done
            for dir in / /etc /usr /var /root /home "$ROOT" "$ROOT/data" "$ROOT/data/tasks" "$ROOT/data/spool" \
                "$ROOT/data/tasks/7-1/home" "$ROOT/runtime" "$ROOT/tls" "$OUT/.." "$OUT/../attempts/1/given"; do
                (echo x > "$dir/evil") 2>/dev/null && echo "wrote $dir"
            done
            for file in "$ROOT/api-key" "$OUT/../attempts/1/given/system.md" /etc/passwd; do
                (echo x >> "$file") 2>/dev/null && echo "changed $file"
            done
            mv "$HOME" "$HOME.away" 2>/dev/null && echo "moved home"
            true"#;
        let scene = Scene::new(layers, script);
        assert_eq!(scene.said().await, "ok home\nok work\nok out\n", "{layers:?}");
        for dir in ["home", "work", "out"] {
            assert_eq!(fs::read_to_string(scene.conversation.join(dir).join("mine")).unwrap(), "x\n");
        }
        for dir in ["", "data", "data/spool", "tls", "data/tasks/7-1/home"] {
            assert!(!scene.root.join(dir).join("evil").exists(), "{layers:?} {dir}");
        }
        assert_eq!(fs::read_to_string(scene.root.join("api-key")).unwrap(), CANARY);
    }
}

/// Root may set the kernel without any capability, so for an agent that runs as root nothing else stands before it.
#[tokio::test]
async fn the_kernel_cannot_be_set_and_only_harmless_devices_are_there() {
    for layers in offered("the_kernel_cannot_be_set_and_only_harmless_devices_are_there") {
        let script = r#"
            for file in /proc/sys/vm/swappiness /proc/sys/kernel/hostname /proc/sysrq-trigger; do
                (: >> "$file") 2>/dev/null && echo "opened $file"
            done
            ls /dev"#;
        let said = Scene::new(layers, script).said().await;
        assert!(!said.contains("opened"), "{layers:?}: {said}");
        if layers.has_namespaces() {
            let there: Vec<&str> = said.lines().collect();
            let harmless = [
                "core", "fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout",
                "tty", "urandom", "zero",
            ];
            assert_eq!(there, harmless, "{layers:?}");
        }
    }
}

#[tokio::test]
async fn what_belongs_to_the_agent_and_to_other_tasks_cannot_be_read() {
    for layers in offered("what_belongs_to_the_agent_and_to_other_tasks_cannot_be_read") {
        let script = r#"
            cat "$OUT/../attempts/1/given/system.md"; echo
            for file in attempts/1/secret attempts/1/supervisor.log; do cat "$OUT/../$file" && echo "read $file"; done
            for file in data/tasks/7-1/home/secret data/spool/journal data/login/credentials.json tls/agent.key \
                tls/agent.pem api-key; do cat "$ROOT/$file" && echo "read $file"; done
            for dir in data data/tasks data/tasks/7-1 runtime; do
                found=$(ls -A "$ROOT/$dir" | grep -v -e '^tasks$' -e '^7-0$') && echo "listed $dir: $found"
            done
            grep -r canary-7f3 "$ROOT" 2>/dev/null
            if [ "$(id -u)" = 0 ]; then head -c 1 /etc/shadow && echo "read /etc/shadow"; fi
            ls -A /root && [ -n "$(ls -A /root | grep -v cargo)" ] && echo "listed /root"
            true"#;
        let scene = Scene::new(layers, script);
        assert_eq!(scene.said().await, "given to read\n", "{layers:?}");
        assert!(!scene.place.stderr().contains(CANARY), "{layers:?}");
    }
}

#[tokio::test]
async fn a_workspace_is_read_but_not_written_and_no_other_one_is_seen() {
    for layers in offered("a_workspace_is_read_but_not_written_and_no_other_one_is_seen") {
        let script = r#"
            cat workspace/class.md; echo
            for way in workspace "$ROOT/studio" workspace/../studio; do
                (echo x > "$way/evil") 2>/dev/null && echo "wrote $way"
                (echo x >> "$way/class.md") 2>/dev/null && echo "changed $way"
                mkdir "$way/evil" 2>/dev/null && echo "made a directory in $way"
                rm -f "$way/class.md" 2>/dev/null && echo "removed from $way"
                ln "$way/class.md" "$OUT/hard" 2>/dev/null && echo x >> "$OUT/hard" && echo "changed by a link"
                mv "$way/class.md" "$way/other.md" 2>/dev/null && echo "renamed in $way"
                touch "$way/class.md" 2>/dev/null && echo "touched $way"
                chmod 777 "$way/class.md" 2>/dev/null && echo "opened $way"
            done
            for way in workspace/../music "$ROOT/music"; do
                cat "$way/class.md" 2>/dev/null && echo "read $way"
                found=$(ls -A "$way" 2>/dev/null) && [ -n "$found" ] && echo "listed $way"
            done
            ln -s "$ROOT/music" mine && cat mine/class.md 2>/dev/null && echo "read by a link"
            true"#;
        let scene = Scene::new(layers, script);
        let studio = scene.root.join("studio");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        let before = mode(&studio.join("class.md"));
        let said = scene.said().await;
        assert_eq!(fs::read_to_string(studio.join("class.md")).unwrap(), "the class", "{layers:?}: {said}");
        assert_eq!(fs::read_dir(&studio).unwrap().count(), 1, "{layers:?}: {said}");
        if layers.has_namespaces() {
            assert_eq!(said, "the class\n", "{layers:?}");
            assert_eq!(mode(&studio.join("class.md")), before, "{layers:?}");
        } else {
            // Landlock knows contents and names; times and modes of its user's own files it does not.
            let known = ["the class", "touched ", "opened "];
            let others = said.lines().filter(|line| !known.iter().any(|word| line.starts_with(word)));
            assert_eq!(others.collect::<Vec<_>>(), Vec::<&str>::new(), "{layers:?}");
        }
    }
}

#[tokio::test]
async fn processes_outside_cannot_be_reached() {
    for layers in offered("processes_outside_cannot_be_reached") {
        let mut outside = Outside::new();
        let script = r#"
            for pid in "$OUTSIDE" "$TESTS"; do
                kill -9 "$pid" 2>/dev/null && echo "killed $pid"
                for file in environ mem maps; do
                    head -c 1 "/proc/$pid/$file" >/dev/null 2>&1 && echo "read $file of $pid"
                done
                [ "$HIDES" = yes ] && [ -d "/proc/$pid" ] && echo "saw $pid"
            done
            sleep 60 &
            kill -9 -1 2>/dev/null
            wait $! ; echo "my own child ended with $?"
            [ "$HIDES" = yes ] && echo "I see $(ls /proc | grep -c '^[0-9]') processes"
            true"#;
        let hides = if layers.has_namespaces() { "yes" } else { "no" };
        let scene = Scene::new(layers, script).with("HIDES", hides).with("OUTSIDE", outside.0.id());
        let scene = scene.with("TESTS", std::process::id());
        let said = scene.said().await;
        assert!(said.starts_with("my own child ended with 137\n"), "{layers:?}: {said}");
        if layers.has_namespaces() {
            // The first process, the shell, its subshell, ls and grep.
            let seen: u32 = said.rsplit_once("I see ").unwrap().1.split(' ').next().unwrap().parse().unwrap();
            assert!(seen <= 5, "{said}");
        }
        assert!(outside.is_alive(), "{layers:?}");
    }
}

#[tokio::test]
async fn the_supervisor_cannot_be_reached_killed_or_read() {
    for layers in offered("the_supervisor_cannot_be_reached_killed_or_read") {
        let script = r#"
            while [ ! -e go ]; do sleep 0.01; done
            supervisor=$(cat go)
            kill -9 "$supervisor" 2>/dev/null && echo killed
            for file in environ mem maps fd/0; do
                head -c 1 "/proc/$supervisor/$file" >/dev/null 2>&1 && echo "read its $file"
            done
            [ "$HIDES" = yes ] && { ls "$ROOT/runtime"/*.sock 2>/dev/null && echo "saw a socket"; }
            [ "$HIDES" = yes ] && head -c 1 /proc/1/environ 2>/dev/null && echo "read the first process"
            [ "$HIDES" = yes ] && head -c 1 /proc/1/fd/3 2>/dev/null && echo "read what the first process holds"
            ls /proc/self/fd | grep -v -e '^[0123]$'
            true"#;
        let hides = if layers.has_namespaces() { "yes" } else { "no" };
        let scene = Scene::new(layers, script).with("HIDES", hides);
        let supervised = scene.place.start().await;
        fs::write(scene.conversation.join("work/go.tmp"), supervised.supervisor_pid().to_string()).unwrap();
        fs::rename(scene.conversation.join("work/go.tmp"), scene.conversation.join("work/go")).unwrap();
        let (_, record) = see_through(supervised).await;
        assert_eq!((record.code, scene.place.stdout().as_str()), (Some(0), ""), "{layers:?}");
    }
}

#[tokio::test]
async fn the_supervisor_of_another_attempt_takes_no_orders_from_a_task() {
    /// The only program of a bare system that can speak to a socket.
    const PERL: &str = "/usr/bin/perl";
    if !Path::new(PERL).exists() {
        let _ = std::io::Write::write_all(&mut std::io::stderr(), b"skipped: there is no perl\n");
        return;
    }
    // The other side may hang up before the words are out.
    let speak = r#"exec /usr/bin/perl -MIO::Socket::UNIX -e '
        $SIG{PIPE} = "IGNORE";
        my $other = IO::Socket::UNIX->new(Peer => $ENV{SOCKET}) or exit 0;
        syswrite STDOUT, "reached";
        print $other qq({"cmd":"stop","cause":"cancelled","from":"tree_kill"}\n);
        $other->flush;
        print while <$other>;'"#;
    let mut all: Vec<Option<Layers>> = vec![None];
    all.extend(offered("the_supervisor_of_another_attempt_takes_no_orders").into_iter().map(Some));
    for layers in all {
        let victim = Place::new("while [ ! -e go ]; do sleep 0.01; done; echo unharmed");
        let supervised = victim.start().await;
        let socket = victim.spec.runtime_dir.join(format!("{}.sock", victim.spec.id));
        let mut task = Scene::new(layers.unwrap_or(Layers::All), speak).with("SOCKET", socket.display());
        if layers.is_none() {
            task.place.spec.sandbox = None;
        }
        let said = task.said().await;
        let reached = match layers {
            None => said == "reached",
            Some(Layers::All | Layers::Bubblewrap | Layers::Namespaces) => said.is_empty(),
            // Since Linux 7.1 it is not reached either.
            Some(Layers::Landlock) => said == "reached" || said.is_empty(),
        };
        assert!(reached, "{layers:?}: {said}");
        fs::write(victim.spec.cwd.join("go"), "").unwrap();
        let (_, record) = see_through(supervised).await;
        assert_eq!((record.code, victim.stdout().as_str()), (Some(0), "unharmed\n"), "{layers:?}");
    }
}

#[tokio::test]
async fn temporary_files_are_private_where_there_is_a_mount_namespace() {
    for layers in offered("temporary_files_are_private").into_iter().filter(|layers| layers.has_namespaces())
    {
        let outside = tempfile::NamedTempFile::new().unwrap();
        let script = r#"
            [ -e "$FOREIGN" ] && echo "saw a foreign file"
            for dir in /tmp /var/tmp /dev/shm; do echo x > "$dir/orch-sandbox-$TAG" && echo "ok $dir"; done
            [ -e /run/docker.sock ] || [ -e /run/dbus ] || [ -e /run/user ] || echo "no sockets of the host"
            echo x > /dev/null && head -c 1 /dev/urandom > /dev/null && echo "ok devices""#;
        let scene = Scene::new(layers, script).with("FOREIGN", outside.path().display());
        let scene = scene.with("TAG", std::process::id());
        let said = "ok /tmp\nok /var/tmp\nok /dev/shm\nno sockets of the host\nok devices\n";
        assert_eq!(scene.said().await, said, "{layers:?}");
        for dir in ["/tmp", "/var/tmp", "/dev/shm"] {
            assert!(!Path::new(dir).join(format!("orch-sandbox-{}", std::process::id())).exists());
        }
    }
}

#[tokio::test]
async fn limits_and_privileges_hold_with_and_without_a_sandbox() {
    let mut all: Vec<Option<Layers>> = offered("limits_and_privileges_hold").into_iter().map(Some).collect();
    all.push(None);
    for layers in all {
        let script =
            "ulimit -Hc; ulimit -Hn; ulimit -Hf; grep -e NoNewPrivs -e CapEff -e CapPrm /proc/self/status";
        let mut scene = Scene::new(layers.unwrap_or(Layers::All), script);
        if layers.is_none() {
            scene.place.spec.sandbox = None;
        }
        let said = scene.said().await;
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines[0], "0", "core files: {layers:?}");
        assert!(lines[1].parse::<u64>().unwrap() <= 65_536, "open files: {layers:?}");
        assert!(lines[2].parse::<u64>().unwrap() <= 64 << 21, "blocks of a file: {layers:?}");
        assert!(said.contains("NoNewPrivs:\t1"), "{layers:?}: {said}");
        if layers.is_some() {
            assert_eq!(said.matches(":\t0000000000000000").count(), 2, "{layers:?}: {said}");
        }
    }
}

#[tokio::test]
async fn the_end_is_the_program_s_own() {
    for layers in offered("the_end_is_the_program_s_own") {
        for (script, code, signal) in [
            ("exit 0", Some(0), None),
            ("exit 143", Some(143), None),
            ("kill -TERM $$", None, Some(15)),
            ("kill -KILL $$", None, Some(9)),
            ("trap 'exit 3' USR1; kill -USR1 $$; sleep 60", Some(3), None),
            ("kill -9 0", None, Some(9)),
        ] {
            let (record, _) = Scene::new(layers, script).run().await;
            assert_eq!((record.code, record.signal), (code, signal), "{layers:?}: {script}");
            assert_eq!((record.spawn_error, record.trouble), (None, None), "{layers:?}: {script}");
        }
    }
}

#[tokio::test]
async fn signals_of_the_ladder_reach_the_program_and_nothing_in_front_of_it() {
    for layers in offered("signals_of_the_ladder_reach_the_program") {
        for (rung, said, code) in [(Rung::Int, "int", 5), (Rung::Term, "term", 6)] {
            let script = "trap 'echo int; exit 5' INT; trap 'echo term; exit 6' TERM
                echo ready; while :; do sleep 0.05; done";
            let scene = Scene::new(layers, script);
            let mut supervised = scene.place.start().await;
            scene.place.until_stdout_has("ready").await;
            supervised.stop(StopCause::Cancelled, rung).await;
            let (_, record) = see_through(supervised).await;
            assert_eq!((record.code, record.signal), (Some(code), None), "{layers:?}");
            assert_eq!(scene.place.stdout(), format!("ready\n{said}\n"), "{layers:?}");
        }
    }
}

#[tokio::test]
async fn a_stop_at_any_moment_of_the_start_ends_everything() {
    for layers in offered("a_stop_at_any_moment_of_the_start") {
        for wait in [0, 1, 2, 4, 8, 16] {
            let scene = Scene::new(layers, "sleep 620 & sleep 621");
            let mut supervised = scene.place.start().await;
            tokio::time::sleep(Duration::from_millis(wait)).await;
            supervised.stop(StopCause::Cancelled, Rung::Term).await;
            let (_, record) = see_through(supervised).await;
            assert_eq!(record.stop.unwrap().cause, StopCause::Cancelled);
            assert_eq!((record.survivors, record.spawn_error), (0, None), "{layers:?} after {wait} ms");
            assert_eq!(scene.place.processes(), [], "{layers:?} after {wait} ms");
        }
    }
}

#[tokio::test]
async fn daemons_and_forks_without_end_die_with_the_attempt() {
    for layers in offered("daemons_and_forks_without_end") {
        let daemon = "(setsid sh -c 'sleep 622 & touch up; sleep 623' >/dev/null 2>&1 &)
            while [ ! -e up ]; do sleep 0.01; done; echo done";
        let (record, _) = Scene::new(layers, daemon).run().await;
        assert_eq!(record.code, Some(0));
        assert!(record.left_behind >= 2, "{layers:?}: {record:?}");

        let bomb = "i=0; while [ $i -lt 200 ]; do (setsid sleep 624 >/dev/null 2>&1 &); i=$((i+1)); done
            echo ready; sleep 625";
        let scene = Scene::new(layers, bomb);
        let mut supervised = scene.place.start().await;
        scene.place.until_stdout_has("ready").await;
        let begin = Instant::now();
        supervised.stop(StopCause::Cancelled, Rung::TreeKill).await;
        let (_, record) = see_through(supervised).await;
        assert!(begin.elapsed() < Duration::from_secs(5), "{layers:?}: {:?}", begin.elapsed());
        assert_eq!((record.signal, record.survivors), (Some(9), 0), "{layers:?}");
        assert_eq!(scene.place.processes(), [], "{layers:?}");
    }
}

#[tokio::test]
async fn when_the_supervisor_is_killed_the_namespace_dies() {
    for layers in
        offered("when_the_supervisor_is_killed").into_iter().filter(|layers| layers.has_namespaces())
    {
        let scene = Scene::new(layers, "setsid env -i sleep 626 & echo ready; sleep 627");
        let supervised = scene.place.start().await;
        scene.place.until_stdout_has("ready").await;
        let below = || procfs::descendants_of(&procfs::all().unwrap(), supervised.supervisor_pid());
        // The first process, the shell, and both that it starts.
        until("everything runs", || below().len() >= 4).await;
        let all = below();
        let pid = rustix::process::Pid::from_raw(supervised.supervisor_pid()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        until("every process of the namespace is gone", || {
            all.iter().all(|stat| {
                procfs::read_stat(stat.pid)
                    .is_none_or(|now| now.start_ticks != stat.start_ticks || now.is_zombie())
            })
        })
        .await;
    }
}

#[tokio::test]
async fn a_closed_output_is_seen_through_the_sandbox() {
    for layers in offered("a_closed_output_is_seen") {
        let scene = Scene::new(layers, "read -r line; exec >&-; sleep 628").change(|place| {
            let first = place.spec.attempt_dir.join("first");
            fs::write(&first, "hello\n").unwrap();
            place.spec.input = orch_agent::supervisor::spec::Input::Conversation { first };
            place.spec.limits.linger_ms = 200;
        });
        let (record, _) = scene.run().await;
        assert_eq!(record.stop.unwrap().cause, StopCause::ClosedOutput, "{layers:?}");
    }
}

#[tokio::test]
async fn memory_and_cpu_of_the_whole_tree_are_seen_through_the_sandbox() {
    for layers in offered("memory_and_cpu_of_the_whole_tree") {
        let script = "dd if=/dev/zero bs=64M count=1 2>/dev/null | sleep 1.5
            i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        let (record, _) = Scene::new(layers, script).run().await;
        assert!(record.peak_memory_bytes >= 64 * 1024 * 1024, "{layers:?}: {record:?}");
        assert!(record.cpu_ms >= 50, "{layers:?}: {record:?}");
    }
}

#[tokio::test]
async fn a_program_in_a_hidden_place_runs_with_what_lies_beside_it() {
    for layers in offered("a_program_in_a_hidden_place") {
        let mut scene = Scene::new(layers, "");
        let secrets = scene.root.join("home");
        for dir in ["bin", "share/tool", "tools"] {
            fs::create_dir_all(secrets.join(dir)).unwrap();
        }
        for (name, script) in [
            (
                "share/tool/run",
                "#!/bin/sh\nhere=$(dirname \"$(readlink -f \"$0\")\"); . \"$here/part\"; helper; cat \"$SECRET\"\ntrue",
            ),
            ("share/tool/part", "echo the part"),
            ("tools/helper", "#!/bin/sh\necho the helper"),
            ("secret", CANARY),
        ] {
            let path = secrets.join(name);
            // Through another process, so that no fork of this one holds the file open for writing.
            let mut writer =
                Command::new("tee").arg(&path).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
            std::io::Write::write_all(&mut writer.stdin.take().unwrap(), script.as_bytes()).unwrap();
            assert!(writer.wait().unwrap().success());
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        symlink("../share/tool/run", secrets.join("bin/tool")).unwrap();
        scene.plan().hidden.push(secrets.clone());
        scene.place.spec.program = secrets.join("bin/tool");
        scene.place.spec.args.clear();
        let path = format!("{}:/usr/bin:/bin", secrets.join("tools").display());
        let scene = scene.with("PATH", path).with("SECRET", secrets.join("secret").display());
        assert_eq!(scene.said().await, "the part\nthe helper\n", "{layers:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_started_is_named() {
    for layers in offered("what_cannot_be_started_is_named") {
        let mut scene = Scene::new(layers, "");
        scene.place.spec.program = "/nonexistent/claude".into();
        let (record, _) = scene.run().await;
        assert_eq!(record.code, Some(127), "{layers:?}");
        let why = record.spawn_error.unwrap();
        assert!(why.starts_with("cannot execute /nonexistent/claude: "), "{layers:?}: {why}");
    }
    for layers in
        offered("what_cannot_be_started_is_named").into_iter().filter(|layers| layers.has_namespaces())
    {
        let mut scene = Scene::new(layers, "echo out");
        scene.plan().by_itself = false;
        scene.plan().bwrap.as_mut().unwrap().program = PathBuf::from("/bin/false");
        let (record, said) = scene.run().await;
        assert_eq!((record.code, said.as_str()), (Some(1), ""));
        assert!(record.spawn_error.unwrap().starts_with("the sandbox could not be made"));
    }
    if offered("what_cannot_be_started_is_named").contains(&Layers::Bubblewrap) {
        let mut scene = Scene::new(Layers::All, "echo out");
        scene.place.spec.cwd = scene.root.join("data/spool");
        let (record, said) = scene.run().await;
        assert_eq!((record.code, said.as_str()), (Some(127), ""));
        let why = record.spawn_error.unwrap();
        assert!(why.starts_with("the sandbox could not be made: cannot enter "), "{why}");
    }
}

/// The first process inside holds in memory what its supervisor did.
#[tokio::test]
async fn only_a_child_without_secrets_is_confined_by_a_copy_of_its_supervisor() {
    if !offered("only_a_child_without_secrets_is_confined").contains(&Layers::Bubblewrap) {
        return;
    }
    let script = "cat /proc/1/comm";
    assert_eq!(Scene::new(Layers::All, script).said().await, "orch-first\n");
    let secrets = Secrets { redact: vec![CANARY.to_owned()], ..Secrets::default() };
    let with_secrets = Scene::new(Layers::All, script);
    see_through(with_secrets.place.start_with(&secrets).await).await;
    assert_ne!(with_secrets.place.stdout(), "orch-first\n");
    assert_ne!(Scene::new(Layers::Bubblewrap, script).said().await, "orch-first\n");
}

/// Bubblewrap asks to die with the supervisor only after it was started.
#[test]
fn nothing_begins_for_a_supervisor_that_is_gone_already() {
    let dir = tempfile::tempdir().unwrap();
    let begins = |is_there: bool| {
        let begun = dir.path().join(is_there.to_string());
        let (hears, said) = std::io::pipe().unwrap();
        let supervisor = is_there.then_some(hears);
        let mut first = Command::new("/bin/sh");
        first.args(["-c", "exec 3>/dev/null; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_orch-agent")]);
        first.args(["__sandbox-init", "1,2,0,3", "null", "/bin/touch"]).arg(&begun);
        first.stdin(Stdio::null()).stdout(said).status().unwrap();
        drop(supervisor);
        begun.exists()
    };
    assert!(begins(true) && !begins(false));
}
