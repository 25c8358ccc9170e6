//! Knows how a rehearsed synthesis combines: a line for each result that the task brings, in their order, with what
//! was published. Refuses to weigh one against another.

use serde_json::{Value, json};

use super::{LABEL, Scene};
use crate::script::steps::head;

/// Words of a result's ending that leave a gap in the answer.
const GAPS: &[&str] = &["failed", "cancelled", "skipped"];

/// One result as the task brings it.
struct Input {
    id: String,
    /// What is said of it, without line breaks.
    line: String,
    gap: bool,
}

/// The synthesis of the results in the prompt.
pub(super) fn answer(scene: &Scene<'_>) -> Value {
    let inputs = inputs(scene.prompt);
    let done = inputs.iter().filter(|input| !input.gap).count();
    let gaps: Vec<&str> = inputs.iter().filter(|input| input.gap).map(|input| input.line.as_str()).collect();
    let mut text = format!("[{LABEL}] {done} of {} tasks were done.\n", inputs.len());
    for input in &inputs {
        text.push_str(&format!("\n- {}: {}", input.id, input.line));
    }
    json!({
        "summary": format!("[{LABEL}] {done} of {} tasks were done.", inputs.len()),
        "tasks": inputs.iter().map(|input| json!({"id": input.id, "line": input.line})).collect::<Vec<_>>(),
        "conflicts": [],
        "gaps": gaps,
        "next_steps": [{"step": "Read the files before you send them to anybody.", "impact": "high"}],
        "answer": text,
    })
}

/// The results: headings `## ID (worker W): ENDING` of the section that the agent appends, with the quoted summary and what
/// was published. The plan is no result.
fn inputs(prompt: &str) -> Vec<Input> {
    let section = prompt.split_once("\n# Results of").map_or("", |(_, section)| section);
    let mut found: Vec<Input> = Vec::new();
    for line in section.lines() {
        if let Some((id, ending)) = line.strip_prefix("## ").and_then(|heading| heading.split_once(' ')) {
            let gap = GAPS.iter().any(|word| ending.contains(word));
            let line =
                if gap { ending.trim_start_matches(|c| c != ':').trim_start_matches([':', ' ']) } else { "" };
            found.push(Input { id: id.to_owned(), line: line.to_owned(), gap });
        } else if let Some(last) = found.last_mut() {
            let published = line
                .strip_prefix("- published in the workspace as `")
                .and_then(|rest| rest.split('`').next());
            let more = match (line.strip_prefix("> "), published) {
                (Some(quoted), _) => head(quoted, 200).to_owned(),
                (None, Some(path)) => format!("([file]({path}))"),
                (None, None) => continue,
            };
            last.line = format!("{} {more}", last.line).trim().to_owned();
        }
    }
    found.retain(|input| input.id != "plan");
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_result_has_its_line_and_a_failed_one_is_a_gap() {
        let prompt = "Combine.\n\n## not this\n\n# Results of the tasks\n\n## plan (worker orchestrator): succeeded\n\n\
            ## evaluate-emma (worker marie): succeeded\n\nSummary:\n> Emma: 70/100\n\n\
            - published in the workspace as `students/emma.md`\n\n\
            ## evaluate-lucas (worker marie): failed with gate_failed\n";
        let scene = Scene { system_prompt: "", prompt, seen: &[], foreseen: None };
        let answer = answer(&scene);
        assert_eq!(
            answer["tasks"][0],
            json!({"id": "evaluate-emma", "line": "Emma: 70/100 ([file](students/emma.md))"})
        );
        assert_eq!(answer["gaps"].as_array().unwrap().len(), 1);
        assert!(answer["summary"].as_str().unwrap().contains("1 of 2"));
    }
}
