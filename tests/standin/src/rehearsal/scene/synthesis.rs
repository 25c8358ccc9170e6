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

/// The results: headings `### ID …` of the section that the agent appends, with what stands beneath.
fn inputs(prompt: &str) -> Vec<Input> {
    let mut found: Vec<Input> = Vec::new();
    let mut body = String::new();
    let mut close = |found: &mut Vec<Input>, body: &mut String| {
        if let Some(last) = found.last_mut() {
            let words = body.split_whitespace().collect::<Vec<_>>().join(" ");
            last.line = format!("{} {}", last.line, head(&words, 200)).trim().to_owned();
        }
        body.clear();
    };
    for line in prompt.lines() {
        if let Some(heading) = line.strip_prefix("### ") {
            close(&mut found, &mut body);
            let (id, ending) = heading.split_once([' ', ':', ',']).unwrap_or((heading, ""));
            let gap = GAPS.iter().any(|word| ending.contains(word));
            let id = id.trim_matches('`').to_owned();
            found.push(Input { id, line: if gap { ending.trim().to_owned() } else { String::new() }, gap });
        } else if !found.is_empty() {
            body.push_str(line);
            body.push('\n');
        }
    }
    close(&mut found, &mut body);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_result_has_its_line_and_a_failed_one_is_a_gap() {
        let prompt = "Combine.\n\n### evaluate-emma (marie, succeeded)\nEmma: 70/100\n\n### evaluate-lucas (marie, failed)\ngate failed\n";
        let scene = Scene { system_prompt: "", prompt, seen: &[], foreseen: None };
        let answer = answer(&scene);
        assert_eq!(answer["tasks"][0], json!({"id": "evaluate-emma", "line": "Emma: 70/100"}));
        assert_eq!(answer["gaps"].as_array().unwrap().len(), 1);
        assert!(answer["summary"].as_str().unwrap().contains("1 of 2"));
    }
}
