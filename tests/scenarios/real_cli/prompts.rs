//! Prompts that the CLI would take for something else, and prompts of every size.

use super::{Real, of, private_file};
use orch_proto::v1::Outcome;
use orch_tests::client::answer;
use orch_tests::matrix::real::{LARGE, PROMPTS};
use serde_json::{Value, json};

/// The last words of every long prompt.
const END: &str = "the very end of the prompt";

/// Words that only the file holds.
const IN_FILE: &str = "canary-in-a-file-of-the-host";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prompt_is_never_a_command_an_option_or_the_name_of_a_file() {
    let test = "a_prompt_is_never_a_command_an_option_or_the_name_of_a_file";
    let Some(real) = Real::start(test).await else { return };
    let file = real.fleet.dir().join("notes.txt");
    private_file(&file, IN_FILE);
    for text in [IN_FILE, "notes.txt"] {
        real.api.look_for(text);
    }
    let at = |row: &orch_tests::matrix::Row| {
        let prompt: &'static str = row.prompt.replace("FILE", &file.display().to_string()).leak();
        orch_tests::matrix::Row { prompt, ..*row }
    };
    let played = real.play(&PROMPTS.iter().map(at).collect::<Vec<_>>()).await;
    assert_eq!(of(&played, "a prompt that begins with a slash").answer(), "no command");
    assert_eq!(of(&played, "a prompt that begins with a dash").answer(), "no option");
    let named = of(&played, "a prompt that names a file with an at sign");
    assert_eq!(named.answer(), "no file");
    assert_eq!(named.requests[0].found, ["notes.txt"], "the name goes to the API, the file does not");
}

/// Plays a row with this prompt and model through `orchctl`, which takes prompts of any size. Gives the number of requests
/// that held the prompt to its end.
async fn large(real: &Real, scenario: &str, model: &str, prompt: String) -> usize {
    let row = LARGE.iter().find(|row| row.scenario == scenario).expect("the row is there");
    let file = real.fleet.dir().join("run.json");
    let tasks = json!([{"task_id": "t", "worker": row.ask.worker, "description": prompt,
        "model": model, "retries": 0}]);
    private_file(&file, &tasks.to_string());
    let submitted =
        real.fleet.orchctl(&["submit", "-o", "json", "-f"]).arg(&file).output().expect("orchctl runs");
    let text = String::from_utf8_lossy(&submitted.stdout);
    let told: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{submitted:?}"));
    let run_ref = told["ref"].as_str().unwrap_or_else(|| panic!("{told}")).to_owned();
    let mut client = real.fleet.client().await;
    client.finished(&run_ref).await;
    let task = client.tasks(&run_ref).await.remove(0);
    row.check(&task).unwrap_or_else(|difference| panic!("{difference}"));
    if row.outcome == Outcome::Ok {
        assert_eq!(answer(&task), "all of it", "{scenario}");
    }
    real.requests_of(&task).iter().filter(|request| request.found == [END]).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prompts_and_lines_of_megabytes_arrive_whole() {
    let Some(real) = Real::start("prompts_and_lines_of_megabytes_arrive_whole").await else { return };
    real.api.look_for(END);
    let words = |bytes: usize| "words ".repeat(bytes / 6 + 1)[..bytes].to_owned();

    let script = r#"[[text {"text":"all of it"}]] "#;
    let filler = words(8 * 1024 * 1024 - script.len() - END.len());
    let prompt = format!("{script}{filler}{END}");
    assert_eq!(large(&real, "a prompt of 8 MiB", "haiku", prompt).await, 1);

    let prompt = format!("{script}{}{END}", words(1_000_000));
    let scenario = "a prompt longer than the CLI sends to this model";
    assert_eq!(large(&real, scenario, "sonnet", prompt).await, 0);

    // The file's content comes back in an event of the model's call and in one of the tool's result.
    let write = json!({"name": "Write", "input": {"file_path": "big.txt", "content": words(2_000_000)}});
    let prompt = format!(r#"[[tool {write}]][[text {{"text":"all of it"}}]] {END}"#);
    assert_eq!(large(&real, "events of 2 MB", "haiku", prompt).await, 2);
    real.nothing_left();
}
