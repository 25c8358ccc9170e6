//! That a child cannot read the credential of its gateway: this very program, run as the child under every combination of
//! layers that the host offers, looks for it wherever a process can look. It finds a decoy in each kind of place, so it
//! does look.
//!
//! What holds without a sandbox: nothing of the gateway's is readable for another process of the same user either,
//! because the supervisor is not dumpable; but a key *file* of the agent is a file of that user, and root reads
//! everything. The seeker says so where it runs as root.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use orch_agent::gateway::ledger;
use orch_agent::gateway::spec::{GatewaySecrets, GatewaySpec, new_token};
use orch_agent::gateway::talk::socket_path;
use orch_agent::reexec::SelfExe;
use orch_agent::sandbox::{Bounds, Sandbox, Settings};
use orch_agent::supervisor::client::Launcher;
use orch_agent::supervisor::spec::{Limits, Secrets};

use super::scene::{Api, STREAM, question, start, stop, whole};
use super::support::{Place, see_through, until};

/// Set for the seeker: what it looks for, each byte one higher, so that it does not find its own question.
const SOUGHT: &str = "SEEK_ALL_ONE_HIGHER";

/// What it must find: in its environment, in a file, in the memory of a process.
const DECOY: &str = "decoy-4c1e-9b77-5d02";

/// What is done to a sandbox before it is used.
type Change = fn(Sandbox) -> Sandbox;

/// Most of one file or mapping that is looked through.
const MOST_BYTES: u64 = 64 << 20;

fn higher(text: &str) -> String {
    text.bytes().map(|byte| char::from(byte + 1)).collect()
}

/// The seeker. Does nothing unless it is a child of the test below.
#[test]
fn seeker() {
    let Ok(sought) = std::env::var(SOUGHT) else { return };
    ask_through_the_gateway();
    let mut found = Vec::new();
    let words: Vec<String> = sought.split(' ').map(str::to_owned).collect();
    let mut look = |place: &str, bytes: &[u8]| {
        for word in &words {
            let word = word.as_bytes();
            if bytes
                .windows(word.len())
                .any(|seen| seen.iter().zip(word).all(|(seen, word)| seen.wrapping_add(1) == *word))
            {
                found.push(format!("FOUND {} in {place}", word.len()));
            }
        }
    };
    let arguments: Vec<String> = std::env::args().collect();
    look("arguments", arguments.join(" ").as_bytes());
    for process in processes() {
        look_into_process(&process, &mut look);
    }
    for root in std::env::var("ROOTS").unwrap().split(':') {
        look_below(Path::new(root), 0, &mut look);
    }
    let mut out = std::io::stdout().lock();
    for line in found {
        writeln!(out, "{line}").unwrap();
    }
    writeln!(out, "sought everywhere").unwrap();
}

/// All that can be seen; or, where those of the whole host can, this one and its parent, the supervisor.
fn processes() -> Vec<PathBuf> {
    if std::env::var_os("KIN_ONLY").is_some() {
        let parent = std::os::unix::process::parent_id();
        return [std::process::id(), parent].map(|pid| PathBuf::from(format!("/proc/{pid}"))).to_vec();
    }
    let is_process = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter(|entry| entry.file_name().to_str().is_some_and(is_process))
        .map(|entry| entry.path())
        .collect()
}

fn ask_through_the_gateway() {
    let door = std::env::var("ANTHROPIC_BASE_URL").unwrap();
    let token = std::env::var("ANTHROPIC_API_KEY").unwrap();
    let mut stream = TcpStream::connect(door.trim_start_matches("http://")).unwrap();
    let body = question(true, "x");
    let len = body.len();
    write!(
        stream,
        "POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: {token}\r\ncontent-length: {len}\r\nconnection: close\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

fn look_into_process(process: &Path, look: &mut impl FnMut(&str, &[u8])) {
    for file in ["environ", "cmdline", "auxv", "stack", "syscall"] {
        if let Ok(bytes) = fs::read(process.join(file)) {
            look(&format!("{} of process", process.join(file).display()), &bytes);
        }
    }
    for fd in fs::read_dir(process.join("fd")).into_iter().flatten().flatten() {
        if fs::metadata(fd.path()).is_ok_and(|found| found.is_file()) {
            look_at(&fd.path(), look);
        }
    }
    let Ok(maps) = fs::read_to_string(process.join("maps")) else { return };
    let Ok(mut memory) = fs::File::open(process.join("mem")) else { return };
    for line in maps.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(range), Some(mode)) = (words.next(), words.next()) else { continue };
        // Text of programs cannot hold what was made after them.
        if !mode.starts_with("rw") {
            continue;
        }
        let Some((from, to)) = range.split_once('-') else { continue };
        let (Ok(from), Ok(to)) = (u64::from_str_radix(from, 16), u64::from_str_radix(to, 16)) else {
            continue;
        };
        let mut bytes = Vec::new();
        if memory.seek(SeekFrom::Start(from)).is_ok() {
            // What cannot be read ends the reading.
            let _ = (&mut memory).take((to - from).min(MOST_BYTES)).read_to_end(&mut bytes);
        }
        look(&format!("memory of process {}", process.display()), &bytes);
    }
}

fn look_below(dir: &Path, depth: usize, look: &mut impl FnMut(&str, &[u8])) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() && depth < 8 {
            look_below(&entry.path(), depth + 1, look);
        } else if kind.is_file() {
            look_at(&entry.path(), look);
        }
    }
}

fn look_at(path: &Path, look: &mut impl FnMut(&str, &[u8])) {
    let mut bytes = Vec::new();
    if fs::File::open(path).is_ok_and(|file| file.take(MOST_BYTES).read_to_end(&mut bytes).is_ok()) {
        look(&format!("file {}", path.display()), &bytes);
    }
}

/// Directories of an agent and of one of its attempts.
struct Agent {
    place: Place,
    root: PathBuf,
    _dir: tempfile::TempDir,
}

impl Agent {
    fn new(api: &str, sought: &str, sandbox: Option<fn(Sandbox) -> Sandbox>) -> Self {
        let mut place = Place::new("");
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
        let conversation = root.join("data/tasks/7-0");
        for dir in ["home", "work", "out", "attempts/1"] {
            fs::create_dir_all(conversation.join(dir)).unwrap();
        }
        fs::write(conversation.join("home/decoy"), DECOY).unwrap();
        let exe = SelfExe::Named(PathBuf::from(env!("CARGO_BIN_EXE_orch-agent")));
        place.launcher = Launcher::new(exe, root.join("runtime"), root.join("data")).unwrap();
        let spec = &mut place.spec;
        spec.runtime_dir = root.join("runtime");
        spec.owner = root.join("data");
        spec.attempt_dir = conversation.join("attempts/1");
        spec.cwd = conversation.join("work");
        spec.program = std::env::current_exe().unwrap();
        spec.args = ["--exact", "canary::seeker", "--nocapture"].map(str::to_owned).to_vec();
        spec.limits = Limits { attempt_ms: Some(120_000), ..Limits::default() };
        spec.gateway = Some(GatewaySpec::to(api));
        // Its own directories by name: without namespaces it may not list what they lie in.
        let own = ["home", "work", "out"].map(|name| conversation.join(name));
        let shared = ["/tmp", "/var/tmp", "/dev/shm", "/run"].map(PathBuf::from);
        // They are the host's own where nothing keeps it from them.
        let shared = if sandbox.is_some() { &shared[..] } else { &[] };
        let roots: Vec<String> =
            own.iter().chain([&root]).chain(shared).map(|path| path.display().to_string()).collect();
        for (name, value) in [
            (SOUGHT, format!("{} {}", higher(sought), higher(DECOY))),
            ("ROOTS", roots.join(":")),
            ("DECOY", DECOY.to_owned()),
        ] {
            spec.env.insert(name.to_owned(), value);
        }
        if sandbox.is_none() {
            spec.env.insert("KIN_ONLY".to_owned(), "1".to_owned());
        }
        if let Some(layers) = sandbox {
            let hidden = vec![root.join("data"), root.join("runtime")];
            let settings =
                Settings { hidden, search_path: "/usr/bin:/bin".to_owned(), ..Settings::default() };
            let sandbox = layers(Sandbox::probe(settings).unwrap());
            let writable = ["home", "work", "out"].map(|name| conversation.join(name)).to_vec();
            spec.sandbox = sandbox.plan(Bounds { writable, readable: vec![spec.program.clone()] });
        }
        Self { place, root, _dir: dir }
    }

    /// Runs the seeker to its end and returns what it found of `sought`, and how often it found the decoy.
    async fn seek(&self, key: &str, api: &Api) -> (Vec<String>, usize) {
        let gateway = GatewaySecrets { token: new_token([9; 32]), key: key.to_owned() };
        let secrets = Secrets { redact: vec![key.to_owned()], gateway: Some(gateway), ..Secrets::default() };
        api.will(whole(200, &[STREAM], start(1, 0) + &stop(1)));
        let supervised = self.place.start_with(&secrets).await;
        let socket = socket_path(&self.place.spec.runtime_dir, &self.place.spec.id);
        let agent = tokio::net::UnixStream::connect(socket).await.unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(super::scene::Agent::on(agent).wave_through());
        let (_, record) = see_through(supervised).await;
        let said = self.place.stdout();
        assert_eq!(record.code, Some(0), "{said}{}", self.place.stderr());
        assert!(said.contains("sought everywhere"), "{said}");
        let found = |len: usize| -> Vec<String> {
            let start = format!("FOUND {len} in ");
            said.lines()
                .filter_map(|line| line.split_once(&start))
                .map(|(_, place)| place.to_owned())
                .collect()
        };
        for place in ["environ of process", "memory of process", "home/decoy"] {
            assert!(
                found(DECOY.len()).iter().any(|found| found.contains(place)),
                "no decoy in {place}: {said}"
            );
        }
        until("it is entered", || ledger::totals(&self.place.spec.attempt_dir).unwrap().len() == 1).await;
        assert_eq!(api.seen().last().unwrap().headers.get("x-api-key").unwrap(), key, "it was used");
        for file in ["note.json", "ledger.jsonl", "exit.json", "supervisor.log"] {
            let text = fs::read_to_string(self.place.spec.attempt_dir.join(file)).unwrap_or_default();
            assert!(!text.contains(key), "{file}");
        }
        (found(key.len()), found(DECOY.len()).len())
    }
}

/// Made at run time: the program that looks for it is this one.
fn canary() -> String {
    format!("sk-ant-api03-{:016x}-{:08x}", u64::from(std::process::id()) * 0x9e37_79b9_7f4a, 0xc0ff_ee00_u32)
}

#[tokio::test]
async fn the_credential_is_nowhere_a_child_can_look() {
    let layers: [(&str, Option<Change>); 4] = [
        ("bubblewrap and landlock", Some(|all| all)),
        ("bubblewrap", Some(Sandbox::without_landlock)),
        ("landlock", Some(Sandbox::without_namespaces)),
        ("no sandbox", None),
    ];
    let probed =
        Sandbox::probe(Settings { search_path: "/usr/bin:/bin".to_owned(), ..Settings::default() }).unwrap();
    let names = probed.layers();
    let has = |name: &str| names.iter().any(|layer| layer == name);
    for (name, layers) in layers {
        let offered = (!name.contains("bubblewrap") || has("pid-namespace"))
            && (!name.contains("landlock") || has("landlock"));
        if !offered {
            println!(
                "skipped in part: the credential is nowhere a child can look: {name} is not to be had here"
            );
            continue;
        }
        let (api, key) = (Api::start().await, canary());
        let agent = Agent::new(&api.url, &key, layers);
        let (found, decoys) = agent.seek(&key, &api).await;
        println!("canary under {name}: found in {} places, the decoy in {decoys}", found.len());
        if layers.is_none() && rustix::process::geteuid().is_root() {
            println!("under no sandbox root reads every process: {found:?}");
            let beside_memory = found.iter().filter(|place| !place.starts_with("memory of")).count();
            assert_eq!(beside_memory, 0, "{found:?}");
            continue;
        }
        assert_eq!(found, Vec::<String>::new(), "{name}, in {}", agent.root.display());
    }
}
