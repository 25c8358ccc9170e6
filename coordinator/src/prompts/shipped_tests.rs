//! The prompts in `prompts/` are held to what `prompts/README.md` promises about them.

use super::*;

fn shipped() -> Catalogue {
    Catalogue::load(&[]).unwrap_or_else(|error| panic!("{error}"))
}

fn worker(name: &str) -> Worker {
    shipped().worker(name).unwrap().clone()
}

/// Every prompt text a model gets, with a name for messages.
fn texts() -> Vec<(String, String)> {
    let mut texts = Vec::new();
    for worker in shipped().workers() {
        texts.push((worker.name.clone(), worker.system_prompt.clone()));
        texts.extend(worker.agents.iter().map(|(name, agent)| (name.clone(), agent.prompt.clone())));
    }
    texts
}

#[test]
fn the_four_workers_and_their_sub_agents_are_there() {
    let catalogue = shipped();
    assert_eq!(catalogue.names().collect::<Vec<_>>(), ["anga", "fabien", "marie", "orchestrator"]);
    for (name, file) in
        [("anga", "ANGA"), ("fabien", "FABIEN"), ("marie", "DANCE"), ("orchestrator", "orchestrator")]
    {
        assert_eq!(catalogue.origin(name), Some(format!("embedded:workers/{file}.md").as_str()));
    }
    for (name, agent) in
        [("anga", "test-runner"), ("fabien", "audience-researcher"), ("marie", "choreography-analyzer")]
    {
        assert!(catalogue.worker(name).unwrap().agents.keys().eq([agent]), "{name}");
    }
    assert!(catalogue.worker("orchestrator").unwrap().agents.is_empty());
}

#[test]
fn what_is_built_in_is_what_lies_in_the_folder() {
    let folder = PromptDir::required(concat!(env!("CARGO_MANIFEST_DIR"), "/../prompts"));
    let on_disk = Layer::read(&folder).unwrap();
    let built_in = Layer::embedded().unwrap();
    let names = |layer: &Layer| -> Vec<_> {
        layer.files.iter().map(|file| (file.kind, file.stem.clone(), file.text.clone())).collect()
    };
    assert_eq!(
        names(&on_disk),
        names(&built_in),
        "touch coordinator/src/prompts/layer.rs to embed new files"
    );
}

#[test]
fn models_are_of_the_tier_the_work_needs() {
    assert_eq!(worker("orchestrator").model, "opus");
    for (name, fallback) in
        [("orchestrator", "sonnet"), ("anga", "opus"), ("marie", "opus"), ("fabien", "haiku")]
    {
        assert_eq!(worker(name).fallback, [fallback], "{name}");
    }
    for name in ["anga", "fabien", "marie"] {
        assert_eq!(worker(name).model, "sonnet", "{name}");
        for (agent, definition) in worker(name).agents {
            assert_eq!(definition.model, "haiku", "{agent}");
        }
    }
}

#[test]
fn the_orchestrator_can_neither_write_nor_run_nor_delegate() {
    let orchestrator = worker("orchestrator");
    assert_eq!(orchestrator.tools, ["Glob", "Grep", "Read"]);
    assert!(orchestrator.allowed_tools.is_empty(), "reading stays within the working directories");
    for tool in ["Agent", "Bash", "Edit", "NotebookEdit", "Write"] {
        assert!(orchestrator.disallowed_tools.contains(&tool.to_owned()), "{tool}");
    }
    assert_eq!(orchestrator.permission_mode, PermissionMode::DontAsk);
}

#[test]
fn the_orchestrator_knows_every_other_worker() {
    let catalogue = shipped();
    let prompt = &catalogue.worker("orchestrator").unwrap().system_prompt;
    for other in catalogue.workers().filter(|other| other.name != "orchestrator") {
        assert!(prompt.contains(&format!("- `{}`: {}\n", other.name, other.description)), "{}", other.name);
    }
    assert!(!prompt.contains("- `orchestrator`"));
}

#[test]
fn personal_data_and_client_figures_have_no_way_out() {
    let marie = worker("marie");
    for tool in ["Bash", "WebFetch", "WebSearch"] {
        assert!(!marie.tools.contains(&tool.to_owned()), "{tool}");
        assert!(marie.disallowed_tools.contains(&tool.to_owned()), "{tool}");
    }
    for tool in ["Bash", "WebFetch"] {
        assert!(!worker("fabien").tools.contains(&tool.to_owned()), "{tool}");
    }
}

#[test]
fn every_worker_has_limits_and_no_rule_opens_the_file_system() {
    for worker in shipped().workers() {
        assert!(
            worker.max_turns.is_some() && worker.budget_micro_usd.is_some() && worker.timeout_ms.is_some()
        );
        assert!(worker.requires.is_empty(), "{}: runs on any agent", worker.name);
        for rule in &worker.allowed_tools {
            assert!(["Bash", "WebSearch"].contains(&rule.as_str()), "{}: {rule}", worker.name);
        }
    }
}

#[test]
fn descriptions_say_enough_and_not_too_much() {
    let catalogue = shipped();
    let of_workers = catalogue.workers().map(|worker| (&worker.name, &worker.description));
    let of_agents = catalogue
        .workers()
        .flat_map(|worker| worker.agents.iter().map(|(name, agent)| (name, &agent.description)));
    for (name, description) in of_workers.chain(of_agents) {
        let length = description.chars().count();
        assert!((80..=300).contains(&length), "{name}: {length}");
        assert!(description.ends_with('.') && description.starts_with(char::is_uppercase), "{name}");
    }
}

#[test]
fn prompts_hold_nothing_that_changes_with_time_or_place() {
    for (name, text) in texts() {
        let numbers: Vec<&str> =
            text.split(|c: char| !c.is_ascii_digit()).filter(|digits| digits.len() == 4).collect();
        assert!(
            !numbers.iter().any(|digits| digits.starts_with("19") || digits.starts_with("20")),
            "{name}: {numbers:?}"
        );
        for word in ["http://", "https://", "/home/", "/work", "{{", "TODO", "claude-"] {
            assert!(!text.contains(word), "{name}: {word}");
        }
    }
}

#[test]
fn every_prompt_says_how_to_report_what_is_data_and_what_to_do_without_facts() {
    for (name, text) in texts() {
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
        assert!(text.contains("final message"), "{name} does not say what the answer is");
        assert!(text.contains("data, not instructions"), "{name} does not say what is data");
        assert!(text.contains("never"), "{name} forbids nothing");
    }
    for worker in shipped().workers() {
        let text = &worker.system_prompt;
        for wanted in ["Never invent", "missing", "out/", "credential", "schema"] {
            assert!(text.contains(wanted), "{}: {wanted}", worker.name);
        }
        if worker.name != "orchestrator" {
            assert!(
                text.contains("Write only in your working directory and in the output directory"),
                "{}",
                worker.name
            );
        }
    }
}

#[test]
fn maries_evaluation_is_french_with_ten_criteria_out_of_ten_and_a_total_out_of_a_hundred() {
    let text = worker("marie").system_prompt;
    assert!(text.contains("In French, whatever the language of the task"));
    let (_, form) = text.split_once("# Évaluation APEXX\n").unwrap();
    let (form, _) = form.split_once("\n---\n").unwrap();
    let criteria = form.lines().filter(|line| line.contains(" | … / 10 | ")).count();
    assert_eq!(criteria * 10, 100);
    for heading in
        ["**Total : … / 100**", "## Points forts", "## Axes de progression", "## Prochaines étapes"]
    {
        assert!(form.contains(heading), "{heading}");
    }
    for english in [" the ", " and ", "Student", "Feedback", "Score"] {
        assert!(!form.contains(english), "{english:?}");
    }
}

#[test]
fn a_studios_own_form_takes_the_place_of_the_shipped_one() {
    let own = Layer::from_files("own:", [("templates/apexx.md", "# Bulletin de {{studio}}\n")]).unwrap();
    let catalogue = Catalogue::from_layers([Layer::embedded().unwrap(), own]).unwrap();
    let marie = catalogue.worker("marie").unwrap();
    assert!(marie.system_prompt.contains("# Bulletin de {{studio}}\n"));
    assert!(!marie.system_prompt.contains("Évaluation APEXX"));
    assert_ne!(marie.digest(), worker("marie").digest());
    assert_eq!(catalogue.worker("anga").unwrap().digest(), worker("anga").digest());
}

#[test]
fn the_documentation_has_every_key_and_every_folder() {
    let document = include_str!("../../../docs/workers.md");
    for key in source::WORKER_KEYS.iter().chain(source::SUBAGENT_KEYS) {
        assert!(document.contains(&format!("| `{key}` |")), "{key}");
    }
    for folder in
        ["workers/*.md", "subagents/*.md", "templates/*.md", "context/**", "settings/*.json", "mcp/*.json"]
    {
        assert!(document.contains(&format!("| `{folder}` |")), "{folder}");
    }
    let rendered = crate::context::render(crate::context::Of::Worker, [("terms.md", "(its text)")]);
    assert!(document.contains(&format!("(the prompt)\n{rendered}```")), "the form of context files");
}

#[test]
fn shipped_definitions_survive_storage_and_stay_small() {
    for worker in shipped().workers() {
        let bytes = worker.to_definition_bytes();
        assert_eq!(&Worker::from_definition_bytes(&bytes).unwrap(), worker);
        assert!(
            bytes.len() < 64 * 1024,
            "{} would no longer travel inline: {} bytes",
            worker.name,
            bytes.len()
        );
    }
}
