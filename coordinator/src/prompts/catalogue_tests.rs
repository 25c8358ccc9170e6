//! Layers put together: precedence, references, markers, digests, and what is refused.

use proptest::prelude::*;

use super::*;

fn worker(name: &str, more: &str, body: &str) -> String {
    let tools = if more.starts_with("tools:") { "" } else { "tools: [Read]\n" };
    format!("---\nname: {name}\ndescription: the {name} worker\nmodel: sonnet\n{tools}{more}---\n{body}\n")
}

fn subagent(name: &str, tools: &str) -> String {
    format!("---\nname: {name}\ndescription: the {name} helper\ntools: {tools}\n---\nHelp as {name}.\n")
}

fn layer(prefix: &str, files: &[(&str, String)]) -> Layer {
    Layer::from_files(prefix, files.iter().map(|(path, text)| (path, text))).unwrap()
}

fn catalogue(files: &[(&str, String)]) -> Catalogue {
    Catalogue::from_layers([layer("", files)]).unwrap_or_else(|error| panic!("{error}"))
}

fn refusal(files: &[(&str, String)]) -> String {
    Catalogue::from_layers([layer("", files)]).unwrap_err().to_string()
}

const TEAM: &str = "tools: [Agent, Read]\nsubagents: [helper]\n";

#[test]
fn a_worker_is_found_by_the_name_in_its_front_matter_and_not_by_its_file() {
    let catalogue = catalogue(&[
        ("workers/DANCE.md", worker("marie", "", "Dance.")),
        ("workers/b.md", worker("anga", "", "Code.")),
    ]);
    assert_eq!(catalogue.names().collect::<Vec<_>>(), ["anga", "marie"]);
    assert_eq!(catalogue.worker("marie").unwrap().system_prompt, "Dance.\n");
    assert_eq!(catalogue.origin("marie"), Some("workers/DANCE.md"));
    assert!(catalogue.worker("DANCE").is_none());
    assert_eq!(catalogue.nearest("maria"), Some("marie"));
    assert_eq!(catalogue.nearest("zebra"), None);
}

#[test]
fn a_later_layer_replaces_by_name_and_keeps_the_rest() {
    let first = layer(
        "a:",
        &[("workers/x.md", worker("marie", "", "old")), ("workers/y.md", worker("anga", "", "kept"))],
    );
    let second = layer("b:", &[("workers/other-file.md", worker("marie", "", "new"))]);
    let third = layer("c:", &[("workers/z.md", worker("marie", "", "newest"))]);
    let two = Catalogue::from_layers([first.clone(), second.clone()]).unwrap();
    assert_eq!(two.worker("marie").unwrap().system_prompt, "new\n");
    assert_eq!(two.origin("marie"), Some("b:workers/other-file.md"));
    assert_eq!(two.worker("anga").unwrap().system_prompt, "kept\n");
    let three = Catalogue::from_layers([first, second, third]).unwrap();
    assert_eq!(three.worker("marie").unwrap().system_prompt, "newest\n");
}

#[test]
fn a_later_layer_may_replace_a_template_or_a_sub_agent_alone() {
    let templates = "templates: [form]\n";
    let first = layer(
        "a:",
        &[
            ("workers/x.md", worker("marie", &format!("{TEAM}{templates}"), "{{template form}}")),
            ("templates/form.md", "first form".into()),
            ("subagents/h.md", subagent("helper", "[Read]")),
        ],
    );
    let second = layer(
        "b:",
        &[("templates/form.md", "second form".into()), ("subagents/h2.md", subagent("helper", "[]"))],
    );
    let base = Catalogue::from_layers([first.clone()]).unwrap();
    let both = Catalogue::from_layers([first, second]).unwrap();
    let (before, after) = (base.worker("marie").unwrap(), both.worker("marie").unwrap());
    assert_eq!(
        (before.system_prompt.as_str(), after.system_prompt.as_str()),
        ("first form\n", "second form\n")
    );
    assert_eq!(before.agents["helper"].tools, ["Read"]);
    assert!(after.agents["helper"].tools.is_empty());
    assert_ne!(before.digest(), after.digest());
}

#[test]
fn directories_go_before_what_is_built_in_in_their_order() {
    let [one, two] = ["one", "two"].map(|text| {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("workers")).unwrap();
        std::fs::write(dir.path().join("workers/m.md"), worker("marie", "", text)).unwrap();
        dir
    });
    let absent = PromptDir::optional(one.path().join("absent"));
    let load = |dirs: &[PromptDir]| Catalogue::load(dirs).unwrap_or_else(|error| panic!("{error}"));
    let prompt = |catalogue: &Catalogue| catalogue.worker("marie").unwrap().system_prompt.clone();
    let (first, second) = (PromptDir::optional(one.path()), PromptDir::required(two.path()));
    assert_eq!(prompt(&load(&[absent, first.clone()])), "one\n");
    assert_eq!(prompt(&load(&[first.clone(), second.clone()])), "two\n");
    assert_eq!(prompt(&load(&[second, first])), "one\n");
    assert!(load(&[]).worker("marie").unwrap().system_prompt.contains("Marie"));
}

#[test]
fn one_name_twice_in_a_layer_is_an_error_that_names_both_files() {
    let text =
        refusal(&[("workers/a.md", worker("marie", "", "x")), ("workers/b.md", worker("marie", "", "y"))]);
    assert_eq!(text, "workers/b.md: the worker `marie` is already defined by workers/a.md");
    let text = refusal(&[
        ("subagents/a.md", subagent("helper", "[]")),
        ("subagents/b.md", subagent("helper", "[]")),
    ]);
    assert_eq!(text, "subagents/b.md: the sub-agent `helper` is already defined by subagents/a.md");
}

#[test]
fn all_problems_are_reported_each_with_place_and_hint() {
    let text = refusal(&[
        ("workers/a.md", "no front matter".into()),
        ("workers/b.md", worker("b", "colour: red\n", "x")),
        ("workers/c.md", worker("c", "timout: 5m\n", "x")),
    ]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[0],
        "workers/a.md:1:1: the file does not begin with front matter \
         (the first line must be `---`, followed by keys and a closing `---`)"
    );
    assert!(lines[1].starts_with("workers/b.md:6:1: unknown key `colour` (known keys: name, description, "));
    assert_eq!(lines[2], "workers/c.md:6:1: unknown key `timout` (did you mean `timeout`?)");
    assert_eq!(lines.len(), 3);
}

#[test]
fn references_that_lead_nowhere_are_errors_at_their_place() {
    let text =
        refusal(&[("workers/a.md", worker("a", TEAM, "x")), ("subagents/h.md", subagent("helpers", "[]"))]);
    assert_eq!(text, "workers/a.md:6:13: there is no sub-agent `helper` (did you mean `helpers`?)");
    let listed = worker("a", "templates: [form]\n", "{{template form}}");
    assert_eq!(refusal(&[("workers/a.md", listed)]), "workers/a.md:6:13: there is no template `form`");
}

#[test]
fn a_sub_agent_gets_only_tools_its_worker_offers() {
    let files =
        |tools| [("workers/a.md", worker("a", TEAM, "x")), ("subagents/h.md", subagent("helper", tools))];
    let text = refusal(&files("[Bash, Read]"));
    assert!(
        text.starts_with("workers/a.md:6:13: the sub-agent `helper` needs the tool Bash, which"),
        "{text}"
    );
    let catalogue = catalogue(&files("[Read]"));
    assert_eq!(
        catalogue.worker("a").unwrap().agents_json().unwrap(),
        "{\"helper\":{\"description\":\"the helper helper\",\
         \"prompt\":\"Help as helper.\\n\",\"tools\":[\"Read\"],\
         \"model\":\"haiku\",\"maxTurns\":20}}"
    );
}

#[test]
fn markers_are_filled_and_escapes_are_plain_braces() {
    let files = |body: &str| {
        [
            ("workers/a.md", worker("a", "templates: [form]\n", body)),
            ("workers/b.md", worker("b", "", "x")),
            ("templates/form.md", "\n# {{name}} \\{{kept}}\n\n".to_owned()),
        ]
    };
    let prompt = |body: &str| catalogue(&files(body)).worker("a").unwrap().system_prompt.clone();
    assert_eq!(prompt("One\n\n{{ template form }}\n\nTwo"), "One\n\n# {{name}} \\{{kept}}\n\nTwo\n");
    assert_eq!(prompt(r"\{{template form}} {{template form}}"), "{{template form}} # {{name}} \\{{kept}}\n");
    assert_eq!(prompt("{{template form}}\n{{workers}}"), "# {{name}} \\{{kept}}\n- `b`: the b worker\n");

    let refused = |body: &str| refusal(&files(&format!("{{{{template form}}}}\n{body}")));
    assert!(refused("é {{date}}").starts_with("workers/a.md:9:3: unknown marker `{{date}}`"));
    assert!(refused("{{template}}").contains("unknown marker"));
    assert!(refused("{{ template\nform }}").starts_with("workers/a.md:9:1: a `{{` marker is not closed"));
    assert!(refused("{{template apexx}}").contains("the template `apexx` is used but not listed"));
    let unlisted =
        [("workers/a.md", worker("a", "", "{{template form}}")), ("templates/form.md", "f".to_owned())];
    assert!(refusal(&unlisted).contains("the template `form` is used but not listed"));
    assert!(refusal(&files("no marker")).contains("the template `form` is listed but never used"));
}

#[test]
fn sub_agents_take_no_markers() {
    let text = subagent("helper", "[]").replace("Help as", "{{workers}}");
    assert!(
        refusal(&[("subagents/h.md", text)]).starts_with("subagents/h.md:6:1: unknown marker `{{workers}}`")
    );
}

#[test]
fn the_list_of_workers_is_in_order_and_leaves_out_its_reader() {
    let reader = || worker("m", "", "{{workers}}");
    let alone = catalogue(&[("workers/m.md", reader())]);
    assert_eq!(alone.worker("m").unwrap().system_prompt, "(none)\n");
    let team = catalogue(&[
        ("workers/1.md", worker("z", "", "x")),
        ("workers/m.md", reader()),
        ("workers/2.md", worker("a", "", "x")),
    ]);
    assert_eq!(team.worker("m").unwrap().system_prompt, "- `a`: the a worker\n- `z`: the z worker\n");
}

#[test]
fn the_digest_follows_the_meaning_and_not_the_file() {
    let digest = |file: &str, text: String| catalogue(&[(file, text)]).worker("w").unwrap().digest();
    let text = worker("w", "disallowed_tools: [Write, Bash]\nmax_turns: 5\n", "Do this.");
    let base = digest("workers/w.md", text.clone());
    assert_eq!(digest("workers/renamed.md", text.clone()), base, "renaming the file");
    assert_eq!(digest("workers/w.md", format!("\u{feff}{}", text.replace('\n', "\r\n"))), base, "line ends");
    assert_eq!(
        digest("workers/w.md", text.replace("[Write, Bash]", "[Bash, Write] # both")),
        base,
        "order of rules"
    );
    assert_eq!(
        digest("workers/w.md", text.replace("Do this.", "\n\nDo this.\n\n")),
        base,
        "blank lines around"
    );
    assert_ne!(digest("workers/w.md", text.replace("Do this.", "Do that.")), base, "the prompt");
    assert_ne!(digest("workers/w.md", text.replace("max_turns: 5", "max_turns: 6")), base, "a limit");
    assert_ne!(digest("workers/w.md", text.replace("[Write, Bash]", "[Write]")), base, "a rule");
}

#[test]
fn the_digest_covers_sub_agents_and_templates() {
    let digest = |helper: String, form: &str| {
        let more = format!("{TEAM}templates: [form]\n").replace("Read", "Grep, Read");
        let files = [
            ("workers/w.md", worker("w", &more, "{{template form}}")),
            ("subagents/h.md", helper),
            ("templates/form.md", form.to_owned()),
        ];
        catalogue(&files).worker("w").unwrap().digest()
    };
    let base = digest(subagent("helper", "[Read]"), "form");
    let both = |tools| digest(subagent("helper", tools), "form");
    assert_eq!(both("[Read, Grep]"), both("[Grep, Read]"), "order of a sub-agent's tools");
    assert_eq!(digest(subagent("helper", "[Read]"), "form\n"), base);
    assert_ne!(digest(subagent("helper", "[]"), "form"), base);
    assert_ne!(digest(subagent("helper", "[Read]").replace("Help as", "Assist as"), "form"), base);
    assert_ne!(digest(subagent("helper", "[Read]"), "other form"), base);
}

#[test]
fn total_sizes_are_bounded() {
    let templates = "templates: [a, b, c, d, e]\n";
    let body: String = ["a", "b", "c", "d", "e"].map(|name| format!("{{{{template {name}}}}}\n")).concat();
    let form = "x".repeat(60 * 1024);
    let mut files = vec![("workers/w.md", worker("w", templates, &body))];
    for path in ["templates/a.md", "templates/b.md", "templates/c.md", "templates/d.md", "templates/e.md"] {
        files.push((path, form.clone()));
    }
    assert!(refusal(&files).contains("the system prompt with its templates has"), "five templates of 60 KiB");
    assert!(refusal(&[("templates/a.md", "x".repeat(65 * 1024))]).contains("the template has 66560 bytes"));

    let big = subagent("helper", "[]").replace("Help as", &"x".repeat(97 * 1024));
    let text = refusal(&[("workers/w.md", worker("w", TEAM, "x")), ("subagents/h.md", big)]);
    assert!(text.contains("the JSON of all sub-agents has"), "{text}");
}

#[test]
fn empty_templates_are_refused() {
    assert_eq!(
        refusal(&[("templates/a.md", " \n".into())]),
        "templates/a.md:1:1: the file has no prompt after its front matter"
    );
}

proptest! {
    #[test]
    fn no_body_makes_resolving_panic(body in "[a{}\\\\\n templatworksé]{0,60}") {
        let worker = worker("w", "", &format!("x{body}"));
        let files = [("workers/w.md", worker), ("templates/t.md", "t".to_owned())];
        let _ = Catalogue::from_layers([layer("", &files)]);
    }
}
