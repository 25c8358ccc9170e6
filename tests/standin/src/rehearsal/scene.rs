//! Knows what a rehearsed worker does when an answer schema says which part it plays: the planner reads the class and
//! plans, workers read, write their file and hand it over, a reviewer agrees, the synthesis combines. Each call gives
//! the next message from what was seen so far, so that both stand-ins can play it. Refuses to judge anything: marks are
//! derived from the letters of the text.

use serde_json::{Value, json};

use super::{LABEL, Persona, marks, request, subject};
use crate::script::steps::{Call, head};

mod plan;
mod synthesis;

/// The part that an answer schema asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Turn a request into tasks.
    Plan,
    /// Combine results.
    Synthesis,
    /// Do the work and say what came of it, by the result contract.
    Work,
    /// Judge another's result.
    Review,
}

impl Part {
    /// The part of `schema`, by the properties that only its answers have.
    pub fn of(schema: &Value) -> Option<Self> {
        let has = |name: &str| schema["properties"].get(name).is_some();
        if has("tasks") && has("missing") {
            Some(Self::Plan)
        } else if has("next_steps") && has("gaps") {
            Some(Self::Synthesis)
        } else if has("verdict") && has("reasons") {
            Some(Self::Review)
        } else if has("findings") && has("status") {
            Some(Self::Work)
        } else {
            None
        }
    }
}

/// What a rehearsed model has seen.
#[derive(Debug, Clone, Copy)]
pub struct Scene<'a> {
    /// The persona.
    pub system_prompt: &'a str,
    /// The task.
    pub prompt: &'a str,
    /// What tools gave since the task, oldest first.
    pub seen: &'a [String],
    /// The plan that the task itself foresees (directive `plan`).
    pub foreseen: Option<&'a Value>,
}

/// What it does next in `part`.
pub fn next(part: Part, scene: &Scene<'_>) -> Vec<Call> {
    match part {
        Part::Plan => plan::next(scene),
        Part::Synthesis => vec![structured(synthesis::answer(scene))],
        Part::Work => work(scene),
        Part::Review => vec![structured(json!({
            "verdict": "pass",
            "reasons": [format!("[{LABEL}] nothing was found to object to")],
        }))],
    }
}

fn structured(input: Value) -> Call {
    Call { name: "StructuredOutput".to_owned(), input }
}

/// Reads what the task names, writes the file it asks for, and says so.
fn work(scene: &Scene<'_>) -> Vec<Call> {
    let task = request(scene.prompt);
    let reads = named(task, "workspace/");
    if let Some(path) = reads.get(scene.seen.len()) {
        return vec![Call { name: "Read".to_owned(), input: json!({"file_path": path}) }];
    }
    let persona = Persona::detect(scene.system_prompt);
    let files: Vec<String> =
        named(task, "out/").iter().map(|path| path.trim_start_matches("out/").to_owned()).collect();
    let material = scene.seen.iter().take(reads.len()).cloned().collect::<Vec<_>>().join("\n");
    let text = document(persona, task, &material);
    let written = scene.seen.len().saturating_sub(reads.len());
    if let Some(file) = files.get(written) {
        let place =
            out_dir(scene.prompt).map_or_else(|| format!("../out/{file}"), |out| format!("{out}/{file}"));
        return vec![Call { name: "Write".to_owned(), input: json!({"file_path": place, "content": text}) }];
    }
    vec![structured(contract(persona, task, &material, &files))]
}

/// The document that a worker writes.
fn document(persona: Persona, task: &str, material: &str) -> String {
    let heading = title(material).unwrap_or_else(|| subject(task));
    let body = super::answer(persona, &format!("{heading}\n\n{material}"));
    let mut text = format!("# {heading}\n\n{body}\n");
    let missing = wanted_words(task).saturating_sub(text.split_whitespace().count());
    if missing > 0 {
        text.push('\n');
        text.extend(std::iter::repeat_n("and so on ", missing.div_ceil(3)));
        text.push('\n');
    }
    text
}

/// Most words a document is filled up to.
const MOST_WORDS: usize = 20_000;

/// The length that a task asks for in the words `at least N words`: what a benchmark makes an answer long with.
fn wanted_words(task: &str) -> usize {
    let number = task.split("at least ").skip(1).find_map(|rest| {
        let (number, _) = rest.split_once(" words")?;
        number.replace(',', "").parse::<usize>().ok()
    });
    number.unwrap_or_default().min(MOST_WORDS)
}

/// The result by contract.
fn contract(persona: Persona, task: &str, material: &str, files: &[String]) -> Value {
    let about = title(material).unwrap_or_else(|| subject(task));
    let mut result = json!({
        "status": "complete",
        "summary": format!("[{LABEL}] {about}: done as asked; what is said here is invented."),
        "findings": [format!("{about}: {} lines of material were read", material.lines().count())],
        "artifacts": files,
        "recommendations": ["Look at the file before you use it: a stand-in wrote it."],
        "scores": {},
    });
    if persona == Persona::Marie {
        let total: u32 = marks(&about).take(10).sum();
        result["scores"] = json!({"total": total});
        result["summary"] =
            json!(format!("[{LABEL}] {about}: {total}/100, invented from the letters of the name."));
    }
    result
}

/// The first heading of what was read, which the Read tool numbers.
fn title(material: &str) -> Option<String> {
    material.lines().find_map(|line| {
        let line = line.split_once('\t').map_or(line, |(_, text)| text);
        line.strip_prefix("# ").map(|text| head(text.trim(), 80).to_owned())
    })
}

/// Paths that begin with `prefix` in `text`, in order, each once.
fn named(text: &str, prefix: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for (at, _) in text.match_indices(prefix) {
        if text[..at]
            .chars()
            .next_back()
            .is_some_and(|before| before.is_alphanumeric() || "/._-".contains(before))
        {
            continue;
        }
        let path: String =
            text[at..].chars().take_while(|c| c.is_ascii_alphanumeric() || "/._-".contains(*c)).collect();
        let path = path.trim_end_matches('.').to_owned();
        let is_file = path.rsplit('/').next().is_some_and(|name| name.contains('.'));
        if is_file && !found.contains(&path) {
            found.push(path);
        }
    }
    found
}

/// Where orch says that files are handed over.
fn out_dir(prompt: &str) -> Option<&str> {
    prompt.lines().find_map(|line| line.trim().strip_prefix("Output directory: "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMMA: &str = "1\t# Emma Rodriguez\n2\t\n3\t- Class: hip-hop";

    fn scene<'a>(prompt: &'a str, seen: &'a [String]) -> Scene<'a> {
        Scene { system_prompt: "You are Marie", prompt, seen, foreseen: None }
    }

    #[test]
    fn a_worker_reads_what_is_named_writes_the_file_and_hands_it_over() {
        let prompt = "\nWorking directory: /w\nOutput directory: /o\nFiles go there.\n\n\
            Evaluate Emma by workspace/students/emma/profile.md. Write out/evaluation.md.";
        let mut seen = Vec::new();
        let read = &next(Part::Work, &scene(prompt, &seen))[0];
        assert_eq!(
            (read.name.as_str(), &read.input["file_path"]),
            ("Read", &json!("workspace/students/emma/profile.md"))
        );
        seen.push(EMMA.to_owned());
        let write = &next(Part::Work, &scene(prompt, &seen))[0];
        assert_eq!((write.name.as_str(), &write.input["file_path"]), ("Write", &json!("/o/evaluation.md")));
        let text = write.input["content"].as_str().unwrap();
        assert!(text.starts_with("# Emma Rodriguez\n") && text.contains(LABEL), "{text}");
        seen.push("File created".to_owned());
        let done = &next(Part::Work, &scene(prompt, &seen))[0];
        assert_eq!(
            (done.name.as_str(), &done.input["artifacts"]),
            ("StructuredOutput", &json!(["evaluation.md"]))
        );
        assert!(done.input["summary"].as_str().unwrap().contains("Emma Rodriguez"));
    }

    #[test]
    fn a_document_is_as_long_as_the_task_wants_it() {
        let words = |task: &str| document(Persona::Marie, task, EMMA).split_whitespace().count();
        assert!(words("Evaluate her in at least 1,000 words.") >= 1_000);
        assert!(words("Evaluate her, at least once") < 200);
    }

    #[test]
    fn parts_are_told_by_what_only_their_answers_have() {
        let schema = |names: &[&str]| {
            let properties: serde_json::Map<String, Value> =
                names.iter().map(|name| ((*name).to_owned(), json!({}))).collect();
            json!({"type": "object", "properties": properties})
        };
        assert_eq!(Part::of(&schema(&["summary", "tasks", "missing"])), Some(Part::Plan));
        assert_eq!(Part::of(&schema(&["summary", "tasks", "gaps", "next_steps"])), Some(Part::Synthesis));
        assert_eq!(Part::of(&schema(&["status", "findings"])), Some(Part::Work));
        assert_eq!(Part::of(&schema(&["verdict", "reasons"])), Some(Part::Review));
        assert_eq!(Part::of(&schema(&["colour"])), None);
    }
}
