//! The lines that are said to the CLI: `--input-format stream-json` and its control protocol.
//! Knows their spelling only.

use serde_json::json;

/// A user's line with one text block. The text begins with a line break: without it a leading `/` would be
/// taken for a command of the CLI, even here.
#[must_use]
pub fn user(text: &str) -> String {
    json!({
        "type": "user",
        "message": { "role": "user", "content": [{ "type": "text", "text": format!("\n{text}") }] },
    })
    .to_string()
}

/// The line of a task: its text, then the place it works in. The place belongs to the task and not to the system prompt,
/// which is the same for all tasks of a worker; and it follows the text, so that equal beginnings of tasks are equal bytes.
#[must_use]
pub fn task(text: &str, work: &str, out: &str) -> String {
    user(&format!(
        "{}\n\nWorking directory: {work}\nOutput directory: {out}\nFiles to hand over go into the output directory.",
        text.trim_end_matches('\n')
    ))
}

/// A task with what was found about an earlier attempt at it, for a conversation that does not know of that attempt.
#[must_use]
pub fn with_feedback(prompt: &str, feedback: &str) -> String {
    format!(
        "{prompt}\n\n\
         ===== What was found about an earlier attempt at this task =====\n\
         That attempt's conversation and files are gone: begin anew, and heed what follows.\n\n\
         {feedback}\n\
         ===== End of what was found ====="
    )
}

/// What is said in a conversation whose last attempt was interrupted for the reason `why`, in place of the task, which it
/// knows. `feedback` is what that attempt was sent back with; it may have heard of it or not.
#[must_use]
pub fn interrupted(why: &str, structured: bool, feedback: Option<&str>) -> String {
    let answer = if structured {
        "call the StructuredOutput tool with the complete answer in the required schema"
    } else {
        "give the complete answer"
    };
    let mut text = format!(
        "You were interrupted while you worked on this task ({}), and are going on now. What you did last may be half done: \
         a command may have run in part or not at all, and a file may be half written. Look at what is there before you \
         go on, do not do again what is done, and finish the task as it was given to you. At the end {answer}, as if you \
         had not been interrupted: nothing of what you said before counts as the answer.",
        why.trim().trim_end_matches('.')
    );
    if let Some(feedback) = feedback {
        text.push_str(
            "\n\nThis was found about your earlier result, in case you have not heeded it yet:\n\n",
        );
        text.push_str(feedback);
    }
    text
}

/// Asks the CLI to drop what it is doing. It answers with a result and stays for more.
#[must_use]
pub fn interrupt() -> String {
    json!({
        "type": "control_request",
        "request_id": "orch-interrupt",
        "request": { "subtype": "interrupt" },
    })
    .to_string()
}

/// Answers a question for permission: nobody is there to be asked.
#[must_use]
pub fn deny(request_id: &str) -> String {
    json!({
        "type": "control_response",
        "response": {
            "subtype": "success",
            "request_id": request_id,
            "response": { "behavior": "deny", "message": "nobody is there to be asked; go on without it" },
        },
    })
    .to_string()
}

/// Refuses any other request of the CLI.
#[must_use]
pub fn refuse(request_id: &str) -> String {
    json!({
        "type": "control_response",
        "response": { "subtype": "error", "request_id": request_id, "error": "not supported" },
    })
    .to_string()
}

/// The one reminder of a missing structured answer.
#[must_use]
pub fn repair() -> String {
    user(
        "Your structured answer is missing. Call the StructuredOutput tool now, once, with the complete answer \
         in the required schema. Do not do anything else.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_is_one_line_and_begins_with_a_line_break() {
        for prompt in ["/help", "a\nb\u{2028}\"c\" \\", "@/etc/passwd", "", "\u{1b}[31m"] {
            let line = user(prompt);
            assert!(!line.contains('\n'), "{line}");
            let value: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!(value["message"]["content"][0]["text"], format!("\n{prompt}"));
        }
    }

    #[test]
    fn a_tasks_text_stays_as_it_is_and_its_place_follows() {
        let line: serde_json::Value = serde_json::from_str(&task("/help\n @x", "/t/work", "/t/out")).unwrap();
        assert_eq!(
            line["message"]["content"][0]["text"],
            "\n/help\n @x\n\nWorking directory: /t/work\nOutput directory: /t/out\nFiles to hand over go into the \
             output directory."
        );
    }

    #[test]
    fn what_was_found_follows_the_task_and_is_set_off_from_it() {
        assert_eq!(
            with_feedback("/help", "make test failed"),
            "/help\n\n===== What was found about an earlier attempt at this task =====\nThat attempt's conversation and \
             files are gone: begin anew, and heed what follows.\n\nmake test failed\n===== End of what was found ====="
        );
    }

    #[test]
    fn an_interruption_is_told_with_its_cause_and_asks_for_the_whole_answer() {
        let plain = interrupted("the agent was lost.", false, None);
        assert!(
            plain.contains("(the agent was lost), and") && plain.contains("At the end give the complete")
        );
        let sent_back = interrupted("it took too long", true, Some("make test failed"));
        assert!(sent_back.contains("StructuredOutput") && sent_back.ends_with("yet:\n\nmake test failed"));
    }

    #[test]
    fn control_lines_are_spelled_as_the_cli_was_seen_to_take_them() {
        let interrupt: serde_json::Value = serde_json::from_str(&interrupt()).unwrap();
        assert_eq!(interrupt["request"]["subtype"], "interrupt");
        let deny: serde_json::Value = serde_json::from_str(&deny("r1")).unwrap();
        assert_eq!(deny["response"]["request_id"], "r1");
        assert_eq!(deny["response"]["response"]["behavior"], "deny");
    }
}
