//! Knows what the scripted model does next in one thread (the main one or a sub-agent's): the steps of its
//! prompt, or a rehearsal when there are none. Refuses to print anything.

use std::collections::VecDeque;

use serde_json::json;

use super::settings::Settings;
use crate::models::Usage;
use crate::rehearsal::{self, Persona};
use crate::schema;
use crate::script::steps::{Answer, Call, Repeat, Step, compile};
use crate::script::{self, ScriptError};

/// The plan of one thread.
#[derive(Debug)]
pub(super) struct Mind {
    steps: VecDeque<Step>,
    /// The prompt as the model sees it.
    pub(super) prompt: String,
    /// What the last tool gave.
    pub(super) last_tool_result: Option<String>,
}

impl Mind {
    /// A thread that follows `prompt`; without directives, `rehearse` says what it does.
    ///
    /// # Errors
    /// The prompt's directives cannot be read.
    pub(super) fn new(prompt: String, rehearse: impl FnOnce(&str) -> Vec<Step>) -> Result<Self, ScriptError> {
        let directives = script::parse(&prompt)?;
        let steps = if directives.is_empty() { rehearse(&prompt) } else { compile(directives) };
        Ok(Self { steps: steps.into(), prompt, last_tool_result: None })
    }

    /// The next step, if the script has one.
    pub(super) fn next(&mut self) -> Option<Step> {
        if let Some(Step::Answer(answer)) = self.steps.front_mut() {
            match &mut answer.repeat {
                Repeat::Forever => return self.steps.front().cloned(),
                Repeat::Times(left) if *left > 1 => {
                    *left -= 1;
                    return self.steps.front().cloned();
                }
                Repeat::Times(_) | Repeat::Once => {}
            }
        }
        self.steps.pop_front()
    }

    /// What is said when the script is over without a last word.
    pub(super) fn last_word(&self, usage: Usage) -> Answer {
        Answer::after_script(usage, self.last_tool_result.as_deref())
    }
}

/// What the main thread does without directives: the schema's minimal instance, or a sub-agent (when
/// there is one to rehearse) and an answer in the persona's voice.
pub(super) fn rehearse_main(settings: &Settings, agent_offered: bool, prompt: &str) -> Vec<Step> {
    if let Some(schema) = &settings.schema {
        let input = schema::instance(schema, rehearsal::LABEL);
        let usage = Usage::estimated(settings.system_prompt.len() + prompt.len(), input.to_string().len());
        let call = Call { name: "StructuredOutput".to_owned(), input };
        return vec![Step::Answer(Answer { calls: vec![call], ..Answer::empty(usage) })];
    }
    let persona = Persona::detect(&settings.system_prompt);
    let task = script::strip(prompt);
    let text = rehearsal::answer(persona, &task);
    let usage = Usage::estimated(settings.system_prompt.len() + prompt.len(), text.len());
    let mut steps = Vec::new();
    if let Some((name, def)) = settings.agents.iter().next().filter(|_| agent_offered) {
        let description = format!("rehearse {name}");
        let input = json!({"description": description, "prompt": task.trim(), "subagent_type": name});
        let call = Call { name: "Agent".to_owned(), input };
        let usage = Usage::estimated(
            settings.system_prompt.len() + prompt.len() + def.prompt.len(),
            description.len(),
        );
        steps.push(Step::Answer(Answer { calls: vec![call], ..Answer::empty(usage) }));
    }
    steps.push(Step::Answer(Answer { texts: vec![text], ..Answer::empty(usage) }));
    steps
}

/// What a sub-agent of type `kind` does without directives.
pub(super) fn rehearse_agent(kind: &str, system_prompt: &str, prompt: &str) -> Vec<Step> {
    let text = rehearsal::sub_agent_answer(kind, prompt);
    let usage = Usage::estimated(system_prompt.len() + prompt.len(), text.len());
    vec![Step::Answer(Answer { texts: vec![text], ..Answer::empty(usage) })]
}

#[cfg(test)]
mod tests {
    use super::Mind;
    use crate::script::steps::{Answer, Step};

    #[test]
    fn repeated_answers_are_given_as_often_as_they_should() {
        let mut mind = Mind::new("[[loop {\"times\":2}]][[text]]".to_owned(), |_| Vec::new()).unwrap();
        let calls = |step: Option<Step>| match step {
            Some(Step::Answer(Answer { calls, .. })) => calls.len(),
            other => panic!("{other:?}"),
        };
        assert_eq!([calls(mind.next()), calls(mind.next()), calls(mind.next())], [1, 1, 0]);
        assert!(mind.next().is_none());
    }
}
