//! What worker files name beside prompts: context files, pools, settings, tool servers; and files that somebody sends.

use super::*;
use crate::prompts::layer::PromptDir;
use std::fs;

const SERVERS: &str = "{\"mcpServers\": {\"crm\": {\"command\": \"crm\"}}}";

fn worker(more: &str) -> (String, String) {
    let tools = if more.contains("tools:") { "" } else { "tools: [Read]\n" };
    let text = format!("---\nname: w\ndescription: d\nmodel: sonnet\n{tools}{more}---\nDo it.\n");
    ("workers/w.md".to_owned(), text)
}

fn load(files: &[(String, String)]) -> Result<Catalogue, CatalogueError> {
    let layer = Layer::from_files("", files.iter().map(|(path, text)| (path, text)));
    Catalogue::from_layers([layer.map_err(|problems| CatalogueError { problems })?])
}

fn file(path: &str, text: &str) -> (String, String) {
    (path.to_owned(), text.to_owned())
}

fn refusal(files: &[(String, String)]) -> String {
    load(files).unwrap_err().to_string()
}

#[test]
fn context_files_follow_the_prompt_in_the_order_of_the_list() {
    let files = [
        worker("context_files: [terms/b.txt, a.md]\n"),
        file("context/a.md", "\u{feff}First.\r\nSecond.\r\n\r\n"),
        file("context/terms/b.txt", "Third."),
        file("context/unused.pdf", "\u{1b}"),
    ];
    let catalogue = load(&files).unwrap();
    let worker = catalogue.worker("w").unwrap();
    assert_eq!(worker.context_files, ["terms/b.txt", "a.md"]);
    let wanted = "Do it.\n\n# Context files of this worker\n\n## terms/b.txt\n\nThird.\n\n## a.md\n\nFirst.\nSecond.\n";
    assert_eq!(worker.system_prompt, wanted);
    let digest = |files: &[(String, String)]| load(files).unwrap().worker("w").unwrap().digest();
    let mut changed = files.clone();
    changed[1].1 = "First.\nSecond.".into();
    assert_eq!(digest(&files), digest(&changed), "the same text in another spelling");
    changed[1].1 = "Other.".into();
    assert_ne!(digest(&files), digest(&changed), "what a file says is part of the definition");
}

#[test]
fn a_later_layer_replaces_a_context_file_alone() {
    let layer = |files: &[(String, String)]| {
        Layer::from_files("", files.iter().map(|(path, text)| (path, text))).unwrap()
    };
    let first = layer(&[worker("context_files: [a.md]\n"), file("context/a.md", "old")]);
    let second = layer(&[file("context/a.md", "new")]);
    let catalogue = Catalogue::from_layers([first, second]).unwrap();
    assert!(catalogue.worker("w").unwrap().system_prompt.ends_with("## a.md\n\nnew\n"));
}

#[test]
fn what_is_wrong_with_a_context_file_is_said_where_a_worker_names_it() {
    let named = |content: &str| refusal(&[worker("context_files: [a.md]\n"), file("context/a.md", content)]);
    assert_eq!(named(""), "workers/w.md:6:17: the context file `a.md` is empty");
    assert!(named("a\u{1b}b").ends_with("`a.md` has a control character U+001B in line 1"));
    assert!(named(&"x".repeat(65_537)).ends_with("`a.md` has more than 65536 bytes"));
    let missing = refusal(&[worker("context_files: [b.md]\n"), file("context/a.md", "x")]);
    assert_eq!(missing, "workers/w.md:6:17: there is no context file `b.md` (did you mean `a.md`?)");
    let many: Vec<String> = (0..5).map(|at| format!("{at}.md")).collect();
    let mut files = vec![worker(&format!("context_files: [{}]\n", many.join(", ")))];
    files.extend(many.iter().map(|name| file(&format!("context/{name}"), &"x".repeat(60_000))));
    assert!(refusal(&files).contains("the context files together has 300000 bytes"), "{}", refusal(&files));
    for bad in ["../a.md", "/etc/passwd", "a/../b", ".hidden", "a//b", "'a\\b'", "' a'"] {
        let said = refusal(&[worker(&format!("context_files: [{bad}]\n"))]);
        assert!(said.contains("no valid `context_files`"), "{bad}: {said}");
    }
}

#[test]
fn links_out_of_the_context_folder_are_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    for folder in ["workers", "context/..data", "context/deep/er"] {
        fs::create_dir_all(dir.path().join(folder)).unwrap();
    }
    let link = |target: &str, at: &str| {
        std::os::unix::fs::symlink(target, dir.path().join("context").join(at)).unwrap();
    };
    fs::write(dir.path().join("secret"), "key").unwrap();
    fs::write(dir.path().join("context/..data/mounted.md"), "mounted").unwrap();
    fs::write(dir.path().join("context/deep/er/x.md"), "deep").unwrap();
    link("../secret", "out.md");
    link("..", "up");
    link("..data/mounted.md", "mounted.md");
    let read = |names: &str| {
        let (path, text) = worker(&format!("context_files: [{names}]\n"));
        fs::write(dir.path().join(path), text).unwrap();
        let layer = Layer::read(&PromptDir::required(dir.path())).unwrap();
        Catalogue::from_layers([layer]).map(|catalogue| catalogue.worker("w").unwrap().system_prompt.clone())
    };
    let prompt = read("mounted.md, deep/er/x.md").unwrap();
    assert!(prompt.ends_with("## mounted.md\n\nmounted\n\n## deep/er/x.md\n\ndeep\n"), "{prompt}");
    let said = read("out.md").unwrap_err().to_string();
    assert!(said.ends_with("the context file `out.md` leads out of `context/`"), "{said}");
    let said = read("up/secret").unwrap_err().to_string();
    assert!(said.contains("there is no context file `up/secret`"), "{said}");
}

#[test]
fn settings_sources_and_pools_reach_the_definition() {
    let files = [
        worker("pool: studio-2\nsetting_sources: [project, local]\nsettings: s.json\nmcp_config: m.json\n"),
        file("settings/s.json", " {\"a\" : 1 }\n"),
        file("mcp/m.json", SERVERS),
        file("settings/README.md", "no"),
    ];
    let catalogue = load(&files).unwrap();
    let worker = catalogue.worker("w").unwrap();
    assert_eq!(worker.pool.as_deref(), Some("studio-2"));
    assert_eq!(worker.setting_sources, ["local", "project"]);
    assert_eq!(worker.settings_json.as_deref(), Some("{\"a\":1}"));
    assert_eq!(worker.mcp_config_json.as_deref(), Some("{\"mcpServers\":{\"crm\":{\"command\":\"crm\"}}}"));
}

#[test]
fn models_that_step_in_are_one_or_a_list_in_their_order_and_never_the_workers_own() {
    let of = |key: &str| load(&[worker(key)]).unwrap().worker("w").unwrap().fallback.clone();
    assert_eq!(of(""), [""; 0]);
    assert_eq!(of("fallback: opus\n"), ["opus"]);
    assert_eq!(of("fallback: [opus, claude-haiku-4-5]\n"), ["opus", "claude-haiku-4-5"]);
    for (bad, told) in [
        ("fallback: sonnet", "another model than `model`"),
        ("fallback: opsu", "did you mean `opus`?"),
        ("fallback: [haiku, haiku]", "haiku"),
        ("fallback: [opus, haiku, fable, claude-opus-4-8]", "the limit is 3"),
    ] {
        let said = refusal(&[worker(&format!("{bad}\n"))]);
        assert!(said.contains(told), "{bad}: {said}");
    }
}

#[test]
fn json_that_will_not_do_is_refused_with_file_line_and_column() {
    let settings = |text: &str| refusal(&[worker(""), file("settings/s.json", text)]);
    assert_eq!(settings("{\n \"a\": x\n}"), "settings/s.json:2:7: not valid JSON: expected value");
    assert_eq!(settings("[]"), "settings/s.json:1:1: must be an object");
    let servers = |text: &str| refusal(&[worker(""), file("mcp/m.json", text)]);
    assert!(servers("{}").contains("mcp/m.json:1:1: must be an object with `mcpServers`"));
    assert!(servers("{\"mcpServers\": {}}").contains("at least one server"));
    let missing = refusal(&[worker("settings: t.json\n"), file("settings/s.json", "{}")]);
    assert!(missing.contains("there is no settings file `t.json` (did you mean `s.json`?)"), "{missing}");
    let missing = refusal(&[worker("mcp_config: m.json\n")]);
    assert!(missing.contains("there is no tool server file `m.json`"), "{missing}");
    for bad in ["pool: Studio", "pool: -x", "pool: ''", "setting_sources: [user]", "setting_sources: [x]"] {
        assert!(refusal(&[worker(&format!("{bad}\n"))]).contains("is no valid"), "{bad}");
    }
}

#[test]
fn tools_of_tool_servers_need_their_server() {
    let with = |more: &str| load(&[worker(more), file("mcp/m.json", SERVERS)]);
    let catalogue =
        with("mcp_config: m.json\ntools: [Read, mcp__crm__find]\ndisallowed_tools: [mcp__crm__drop]\n");
    let catalogue = catalogue.unwrap();
    let worker = catalogue.worker("w").unwrap();
    assert_eq!(
        (&worker.tools[..], &worker.allowed_tools[..]),
        (&["Read".into()][..], &["mcp__crm__find".into()][..])
    );
    assert_eq!(worker.disallowed_tools, ["mcp__crm__drop"]);
    let said = with("tools: [mcp__crm__find]\n").unwrap_err().to_string();
    assert!(said.contains("tool \"mcp__crm__find\": no tool server is connected"), "{said}");
    let said = with("tools: [Read]\ndisallowed_tools: [mcp__crm]\n").unwrap_err().to_string();
    assert!(said.contains("no tool server is connected"), "{said}");
    let said = with("mcp_config: m.json\ntools: [mcp__crn__find]\n").unwrap_err().to_string();
    assert!(said.ends_with("`mcp_config` has no server `crn` (did you mean `mcp__crm`?)"), "{said}");
}

#[test]
fn a_sub_agent_may_use_tools_of_its_workers_servers() {
    let helper = |tools: &str| {
        file("subagents/h.md", &format!("---\nname: h\ndescription: d\ntools: [{tools}]\n---\nHelp.\n"))
    };
    let with = |helper| {
        let tools = "mcp_config: m.json\nsubagents: [h]\ntools: [Agent, Read, mcp__crm]\n";
        load(&[worker(tools), helper, file("mcp/m.json", SERVERS)])
    };
    assert_eq!(
        with(helper("mcp__crm__find")).unwrap().worker("w").unwrap().agents["h"].tools,
        ["mcp__crm__find"]
    );
    assert!(with(helper("mcp__cms__find")).is_err());
}

#[test]
fn files_that_somebody_sends_are_a_last_layer_over_what_is_in_force() {
    let base = Catalogue::load(&[]).unwrap();
    let (path, text) = worker("context_files: [a.md]\ntemplates: [house-rules]\n");
    let text = text.replace("Do it.", "Do it.\n\n{{template house-rules}}");
    let sent = [(path, text), file("context/a.md", "A.")];
    let with = base.with_layer(sent).unwrap();
    assert!(with.worker("w").is_some() && with.worker("anga").is_some());
    assert!(base.worker("w").is_none());
    let problem =
        |files: &[(String, String)]| base.with_layer(files.to_vec()).unwrap_err().problems.remove(0);
    let broken = problem(&[worker("modle: x\n")]);
    assert_eq!((broken.place().path, broken.place().at), ("workers/w.md", Some(Spot { line: 6, column: 1 })));
    assert_eq!(broken.message(), "unknown key `modle`");
    assert_eq!(broken.help().as_deref(), Some("did you mean `model`?"));
    let misspelt = problem(&[file("worker/w.md", "")]);
    assert_eq!((misspelt.place().path, misspelt.place().at), ("worker", None));
    assert!(problem(&[file("x.md", "")]).message().contains("none of the folders"));
}
