//! Knows how a rehearsed planner plans: a list of people in the workspace becomes a task each, other words of the request
//! one task for the worker who is known for them. Refuses to understand a request.

use serde_json::{Value, json};

use super::{Scene, structured};
use crate::rehearsal::{LABEL, request, subject};
use crate::script::steps::Call;

/// The list of people of the sample studio.
const ROSTER: &str = "workspace/classes/hip-hop/students.csv";

/// What a word of a request leads to, in a studio.
struct Other {
    words: &'static [&'static str],
    worker: &'static str,
    id: &'static str,
    description: &'static str,
}

const OTHERS: &[Other] = &[
    Other {
        words: &["script", "code"],
        worker: "anga",
        id: "review-script",
        description: "Review the script workspace/tools/free-places.sh. Name every fault, most serious first, with its line \
                      and the fix. Write the review to out/review.md.",
    },
    Other {
        words: &["newsletter", "announce", "campaign"],
        worker: "fabien",
        id: "announcement",
        description: "Write the newsletter announcement of the class in workspace/classes/hip-hop/class.md: warm, concrete, at \
                      most 120 words, one clear call to action. Write it to out/announcement.md.",
    },
];

/// Reads the list when there is one, then plans.
pub(super) fn next(scene: &Scene<'_>) -> Vec<Call> {
    if let Some(plan) = scene.foreseen {
        return vec![structured(plan.clone())];
    }
    let asked = asked(scene.prompt);
    let people = wants_people(&asked) && scene.prompt.contains("workspace/");
    if people && scene.seen.is_empty() {
        return vec![Call { name: "Read".to_owned(), input: json!({"file_path": ROSTER}) }];
    }
    let roster = scene.seen.first().map_or_else(Vec::new, |text| people_of(text));
    vec![structured(plan(&asked, &roster))]
}

/// The request alone, in lower case: what stands in its delimiters, where there are any.
fn asked(prompt: &str) -> String {
    let request = request(prompt);
    let inner = request.split_once("<request>").and_then(|(_, rest)| rest.split_once("</request>"));
    inner.map_or(request, |(inner, _)| inner).to_lowercase()
}

fn wants_people(asked: &str) -> bool {
    ["student", "class", "élève"].iter().any(|word| asked.contains(word))
}

/// Name and slug of each row of the list, which the Read tool numbers.
fn people_of(text: &str) -> Vec<(String, String)> {
    let rows = text.lines().map(|line| line.split_once('\t').map_or(line, |(_, row)| row));
    rows.skip(1)
        .filter_map(|row| {
            let mut cells = row.split(',');
            Some((cells.next()?.trim().to_owned(), cells.next()?.trim().to_owned()))
        })
        .filter(|(name, slug)| !name.is_empty() && !slug.is_empty())
        .collect()
}

fn plan(asked: &str, roster: &[(String, String)]) -> Value {
    let length =
        asked.find("at least ").map_or("", |at| asked[at..].split(['.', '\n']).next().unwrap_or_default());
    let mut tasks: Vec<Value> = roster.iter().map(|(name, slug)| evaluation(name, slug, length)).collect();
    for other in OTHERS {
        if other.words.iter().any(|word| asked.contains(word)) {
            tasks.push(json!({
                "id": other.id,
                "worker": other.worker,
                "description": other.description,
                "dependencies": [],
            }));
        }
    }
    if tasks.is_empty() {
        tasks.push(
            json!({"id": "answer", "worker": "anga", "description": subject(asked), "dependencies": []}),
        );
    }
    json!({
        "summary": format!("[{LABEL}] {} tasks, none of which waits for another", tasks.len()),
        "tasks": tasks,
    })
}

fn evaluation(name: &str, slug: &str, length: &str) -> Value {
    let first = slug.split('-').next().unwrap_or(slug);
    json!({
        "id": format!("evaluate-{first}"),
        "worker": "marie",
        "description": format!(
            "Evaluate {name} by the studio's template, from workspace/students/{slug}/profile.md and \
             workspace/classes/hip-hop/class.md. Write the evaluation to out/evaluation.md.{}",
            if length.is_empty() { String::new() } else { format!(" Write {length}.") }
        ),
        "dependencies": [],
        "artifacts": ["evaluation.md"],
        "min_tool_calls": 1,
        "publish": [{
            "artifact": "evaluation.md",
            "to": format!("students/{slug}/evaluations/evaluation_{{date}}.md"),
        }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_person_on_the_list_gets_a_task_and_further_words_one_each() {
        let prompt = "The workspace is at workspace/.\n<request>\nEvaluate all students, review the script, announce it\n</request>";
        let scene = |seen| Scene { system_prompt: "", prompt, seen, foreseen: None };
        assert_eq!(next(&scene(&[]))[0].name, "Read");
        let csv = "1\tname,slug,age\n2\tEmma Rodriguez,emma-rodriguez,14\n3\tSophia Chen,sophia-chen,13\n4\t"
            .to_owned();
        let seen = [csv];
        let plan = &next(&scene(&seen))[0].input;
        let ids: Vec<&str> =
            plan["tasks"].as_array().unwrap().iter().map(|task| task["id"].as_str().unwrap()).collect();
        assert_eq!(ids, ["evaluate-emma", "evaluate-sophia", "review-script", "announcement"]);
        assert_eq!(
            plan["tasks"][0]["publish"][0]["to"],
            "students/emma-rodriguez/evaluations/evaluation_{date}.md"
        );
    }

    #[test]
    fn without_a_workspace_it_is_one_task() {
        let scene = Scene { system_prompt: "", prompt: "Say hello", seen: &[], foreseen: None };
        assert_eq!(next(&scene)[0].input["tasks"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn a_foreseen_plan_is_given_as_it_is() {
        let foreseen = json!({"summary": "x", "tasks": []});
        let scene =
            Scene { system_prompt: "", prompt: "workspace/ students", seen: &[], foreseen: Some(&foreseen) };
        assert_eq!(next(&scene)[0].input, foreseen);
    }
}
