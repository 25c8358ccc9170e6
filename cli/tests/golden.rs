//! What the binary prints that needs no coordinator: its help, its errors, its own files. And how it behaves towards
//! what reads it: pipes that close, terminals without colour, variables, scripts of shells.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::fmt::Write as _;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A home with nothing in it.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orchctl"));
        command.env_clear().env("HOME", self.path()).env("TMPDIR", self.path());
        command.current_dir(self.path()).stdin(Stdio::null());
        command
    }

    fn run(&self, line: &str) -> Output {
        self.with(&[], line)
    }

    fn with(&self, vars: &[(&str, &str)], line: &str) -> Output {
        self.command().envs(vars.iter().copied()).args(line.split_whitespace()).output().unwrap()
    }

    /// What a command line did, with the home as `~`.
    fn told(&self, line: &str) -> String {
        let ran = self.run(line);
        let mut told = format!("$ orchctl {line}\n{}", text(&ran.stdout));
        for line in text(&ran.stderr).lines() {
            let _ = writeln!(told, "| {line}");
        }
        if ran.status.code() != Some(0) {
            let _ = writeln!(told, "(exit {})", ran.status.code().unwrap());
        }
        let told = told.replace(&self.path().display().to_string(), "~");
        // Columns are as wide as the home is long.
        told.lines().map(|line| narrowed(line) + "\n").collect()
    }

    fn story(&self, lines: &[&str]) -> String {
        lines.iter().map(|line| self.told(line)).collect()
    }
}

/// A line with no more than two spaces in a row, but for those it begins with.
fn narrowed(line: &str) -> String {
    let start = line.len() - line.trim_start_matches(['|', ' ']).len();
    let mut text = line[start..].to_owned();
    while text.contains("   ") {
        text = text.replace("   ", "  ");
    }
    format!("{}{text}", &line[..start])
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn contexts_are_added_chosen_and_forgotten() {
    let story = Home::new().story(&[
        "context",
        "context add lab",
        "context add lab --endpoint box-0:7443 --tls-ca ca.pem --tls-cert me.pem --tls-key ~/me.key",
        "context add prod --endpoint https://orch.example.net:7443 --confirm",
        "context list",
        "context list -o wide",
        "context list -o json",
        "context current",
        "context use prd",
        "context use prod -o name",
        "context current",
        "-c lab context current -o name",
        "context remove prod",
        "context list -o name",
        "context add -- -x",
    ]);
    insta::assert_snapshot!(story);
}

#[test]
fn settings_are_shown_with_their_origin_and_set() {
    let home = Home::new();
    let mut story = home.story(&[
        "config path",
        "config",
        "config get current",
        "config set defaults.output jsn",
        "config set defaults.output yaml",
        "config set defaults.colour never",
        "config set contexts.prod.endpoint http://plain",
        "config set contexts.prod.endpoint orch.example.net:7443",
        "config set current prod",
        "config view --show-origin -o table",
        "config get current -o json",
        "config get defaults.output",
    ]);
    let file = fs::read_to_string(home.path().join(".config/orchctl/config.toml")).unwrap();
    let _ = write!(story, "──── config.toml\n{file}");
    insta::assert_snapshot!(story);
    let over = home.with(&[("ORCHCTL_OUTPUT", "json")], "config get defaults.output -o name");
    assert_eq!(text(&over.stdout), "json\n");
}

#[test]
fn a_broken_configuration_is_told_and_not_in_the_way_of_help() {
    let home = Home::new();
    let path = home.path().join(".config/orchctl/config.toml");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, "[defaults]\noutputt = \"json\"\n").unwrap();
    insta::assert_snapshot!(home.story(&["status", "config view", "config path", "context list -o json"]));
    for line in ["--help", "help", "help E0405", "schema run", "completions bash", "ls --help"] {
        let ran = home.run(line);
        assert_eq!((ran.status.code(), text(&ran.stderr).as_str()), (Some(0), ""), "{line}");
    }
}

#[test]
fn a_project_file_cannot_redirect_submissions() {
    let home = Home::new();
    fs::write(home.path().join(".orchctl.toml"), "endpoint = \"https://evil.example:7443\"\n").unwrap();
    insta::assert_snapshot!(home.told("submit --runner noop"));
}

#[test]
fn a_context_may_ask_before_every_change() {
    let home = Home::new();
    home.run("init --host localhost --dir ca --port 1");
    let files = "--tls-ca ca/ca.pem --tls-cert ca/admin.pem --tls-key ca/admin.key";
    home.run(&format!("context add prod --endpoint localhost:1 --confirm {files}"));
    insta::assert_snapshot!(home.story(&[
        "submit --runner noop",
        "submit --runner noop --no-input",
        "agents drain box-1 -o json",
    ]));
    for line in [
        "submit --runner noop --yes --timeout 100ms",
        "ls --timeout 100ms",
        "submit --runner noop --dry-run --timeout 100ms",
    ] {
        let ran = home.run(line);
        assert!(!text(&ran.stderr).contains("asks before"), "{line}: {}", text(&ran.stderr));
        assert_ne!(ran.status.code(), Some(0));
    }
}

#[test]
fn wrong_usage_is_told_with_what_may_have_been_meant() {
    insta::assert_snapshot!(Home::new().story(&[
        "statsu",
        "ls --formt json",
        "ls -o jsn",
        "agents shwo box-1",
        "wait",
        "submit",
        "submit --worker anga",
        "status",
        "status -o json",
        "status -o yaml",
        "status nonsense --endpoint http://plain",
    ]));
}

#[test]
fn a_coordinator_that_is_not_there_is_told_with_the_tries() {
    let home = Home::new();
    assert_eq!(home.run("init --host localhost --dir ca --port 1").status.code(), Some(0));
    let ran = home.with(&[("ORCHCTL_CONTEXT_FILE", "ca/context.json")], "status");
    assert_eq!(ran.status.code(), Some(5));
    let told = text(&ran.stderr);
    let (before, rest) = told.rsplit_once(" (").unwrap();
    let (tries, after) = rest.split_once(')').unwrap();
    assert!(tries.contains(" tries in "), "{told}");
    insta::assert_snapshot!(format!("{before} (N tries in T){after}"));
}

#[test]
fn certificates_are_made_and_listed() {
    let home = Home::new();
    let story = home.story(&[
        "init --host box-0.example --dir ca",
        "init --host box-0.example --dir ca -o name",
        "certs issue --role agent --name box-2 --dir ca --out box-2",
        "certs show ca",
        "certs show box-2 -o yaml",
        "certs show nowhere",
    ]);
    // The fingerprint of an authority is as random as its key.
    let mut parts = story.split("sha256:");
    let mut shown = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let _ = write!(shown, "sha256:…{}", part.trim_start_matches(|char: char| char.is_ascii_hexdigit()));
    }
    insta::assert_snapshot!(shown);
}

#[test]
fn help_is_the_same_by_either_way() {
    let home = Home::new();
    for path in ["", "run", "agents drain", "context add", "completions"] {
        let flag = home.run(&format!("{path} --help"));
        let word = home.run(&format!("help {path}"));
        assert_eq!(text(&flag.stdout), text(&word.stdout), "{path}");
        assert_eq!((flag.status.code(), word.status.code()), (Some(0), Some(0)), "{path}");
    }
}

#[test]
fn colour_follows_the_variables_and_the_flag_outranks_them() {
    let home = Home::new();
    let colored = |vars: &[(&str, &str)], line: &str| home.with(vars, line).stdout.contains(&0x1b);
    let line = "help errors";
    assert!(!colored(&[], line), "a pipe is no terminal");
    assert!(colored(&[("CLICOLOR_FORCE", "1")], line));
    assert!(!colored(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")], line));
    assert!(!colored(&[("TERM", "dumb")], line));
    assert!(colored(&[("NO_COLOR", "1")], "help errors --color always"));
    assert!(!colored(&[("CLICOLOR_FORCE", "1")], "help errors --color never"));
    assert_eq!(home.run("config set defaults.color always").status.code(), Some(0));
    assert!(colored(&[], "config view"), "the file counts");
    assert!(!colored(&[("NO_COLOR", "1")], "config view"), "and a variable outranks it");
}

#[test]
fn a_dumb_terminal_and_a_pipe_get_plain_uncut_lines() {
    let home = Home::new();
    let plain = home.run("help outcomes").stdout;
    assert_eq!(home.with(&[("TERM", "dumb")], "help outcomes").stdout, plain);
    assert_eq!(home.with(&[("COLUMNS", "40")], "help outcomes").stdout, plain);
    assert!(text(&plain).lines().any(|line| line.len() > 120) && !text(&plain).contains('…'));
}

#[test]
fn a_closed_pipe_ends_every_output_quietly() {
    let home = Home::new();
    for line in [
        "--help",
        "help errors",
        "help errors -o json",
        "schema output task",
        "schema output -o yaml",
        "completions zsh",
    ] {
        let mut child = home
            .command()
            .args(line.split(' '))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!((child.wait().unwrap().code(), said.as_str()), (Some(0), ""), "{line}");
    }
}

#[test]
fn shells_get_words_from_the_program_itself() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = text(&home.run(&format!("completions {shell}")).stdout);
        assert!(script.contains("ORCHCTL_COMPLETE") && script.contains("orchctl"), "{shell}: {script}");
    }
    let words = |line: &str| {
        let mut words: Vec<_> = line.split(' ').collect();
        let asked = [("ORCHCTL_COMPLETE", "fish")];
        words.insert(0, "--");
        let ran = home.command().envs(asked).args(words).output().unwrap();
        assert_eq!((ran.status.code(), text(&ran.stderr).as_str()), (Some(0), ""), "{line}");
        let offered = text(&ran.stdout);
        offered.lines().map(|line| line.split('\t').next().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(words("orchctl agen"), ["agents"]);
    assert!(words("orchctl agents ").contains(&"drain".to_owned()));
    assert!(words("orchctl ls --state").contains(&"--state".to_owned()));
    assert!(words("orchctl help E050").contains(&"E0501".to_owned()));
    home.run("context add lab --endpoint box-0:7443");
    assert_eq!(words("orchctl context use l"), ["lab"]);
    assert_eq!(words("orchctl config get defaults.o"), ["defaults.output"]);
}

#[test]
fn names_of_a_coordinator_that_does_not_answer_are_not_waited_for() {
    let home = Home::new();
    home.run("init --host localhost --dir ca");
    // Nobody accepts from this backlog: a connection hangs.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("https://{}", listener.local_addr().unwrap());
    let began = Instant::now();
    let ran = home
        .command()
        .env("ORCHCTL_CONTEXT_FILE", "ca/context.json")
        .env("ORCHCTL_ENDPOINT", &endpoint)
        .env("ORCHCTL_COMPLETE", "fish")
        .args(["--", "orchctl", "agents", "show", ""])
        .output()
        .unwrap();
    assert_eq!((ran.status.code(), text(&ran.stderr).as_str()), (Some(0), ""));
    assert!(text(&ran.stdout).lines().all(|word| word.starts_with('-')), "{}", text(&ran.stdout));
    // Far above the limit of 150 ms, far below those of a command; the machine may be busy.
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn the_schemas_are_json_and_yaml() {
    let home = Home::new();
    let kinds = text(&home.run("schema output -o name").stdout);
    for line in kinds
        .lines()
        .map(|kind| format!("schema output {kind}"))
        .chain(["schema run".into(), "schema config".into()])
    {
        let schema: serde_json::Value = serde_json::from_slice(&home.run(&line).stdout).unwrap();
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema", "{line}");
    }
    let yaml = text(&home.run("schema config -o yaml").stdout);
    assert!(yaml.contains("\nproperties:\n  contexts:\n"), "{yaml}");
}
