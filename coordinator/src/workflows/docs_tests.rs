//! The examples of `docs/workflows.md`: every one compiles, and the page says what comes out of it.

use super::*;
use crate::prompts::Catalogue;

const PAGE: &str = include_str!("../../../docs/workflows.md");

/// A code block of the page: what stands after its fence, and its text.
fn blocks() -> Vec<(&'static str, String)> {
    let (mut blocks, mut open): (Vec<(&str, String)>, bool) = (Vec::new(), false);
    for line in PAGE.lines() {
        match (line.strip_prefix("```"), open) {
            (Some(kind), false) => {
                blocks.push((kind, String::new()));
                open = true;
            }
            (Some(_), true) => open = false,
            (None, true) => {
                let (_, text) = blocks.last_mut().unwrap();
                text.push_str(line);
                text.push('\n');
            }
            (None, false) => {}
        }
    }
    blocks
}

#[test]
fn every_example_of_the_page_compiles() {
    let catalogue = Catalogue::load(&[]).unwrap();
    let in_force = Workflows::load(catalogue.workflow_files(), catalogue.names()).on("2026-11-21");
    let blocks = blocks();
    let mut compiled = Vec::new();
    for (index, (kind, text)) in blocks.iter().enumerate() {
        if *kind != "json" {
            assert!(matches!(*kind, "json parameters" | "console"), "a block of kind {kind}");
            continue;
        }
        let parameters = match blocks.get(index + 1) {
            Some(("json parameters", parameters)) => parameters.clone(),
            Some(_) | None => String::new(),
        };
        let call = v1::WorkflowCall { definition: text.clone(), parameters, ..v1::WorkflowCall::default() };
        let spec = compile(&call, &in_force).unwrap_or_else(|problems| panic!("{text}\n{problems:#?}"));
        let ids: Vec<String> = spec.tasks.into_iter().map(|task| task.task_id).collect();
        compiled.push(format!("{}: {}", spec.name, ids.join(" ")));
    }
    assert_eq!(
        compiled,
        [
            "proofread: draft check",
            "evaluate-and-note: evaluate-emma-rodriguez evaluate-lucas-martinez note-emma-rodriguez note-lucas-martinez overview",
            "review-and-mend: review mend tests",
            "two-classes: places hip-hop-emma-rodriguez.evaluation hip-hop-lucas-martinez.evaluation jazz.evaluation letter",
        ]
    );
}

#[test]
fn the_page_names_every_shipped_workflow_and_every_field() {
    let catalogue = Catalogue::load(&[]).unwrap();
    for file in catalogue.workflow_files().flatten() {
        assert!(PAGE.contains(&format!("| `{}` |", file.stem)), "{}", file.stem);
    }
    let fields = [
        definition::FIELDS,
        task::FIELDS,
        task::DEFAULT_FIELDS,
        checks::GATE_FIELDS,
        checks::COMMAND_FIELDS,
        checks::REVIEW_FIELDS,
        checks::PUBLISH_FIELDS,
        parameters::TYPES,
    ];
    for field in fields.into_iter().flatten() {
        let quoted = [format!("`{field}`"), format!("\"{field}\"")];
        assert!(quoted.iter().any(|quoted| PAGE.contains(quoted)), "{field}");
    }
    for (test, _) in task::TESTS {
        assert!(PAGE.contains(&format!("`{test}`")), "{test}");
    }
}
