//! Knows what the scripted model does next in one thread (the main one or a sub-agent's): the steps of its
//! prompt, or a rehearsal when there are none. Refuses to print anything.

use std::collections::VecDeque;

use serde_json::{Value, json};

use super::settings::Settings;
use crate::models::Usage;
use crate::rehearsal::scene::{self, Part, Scene};
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
    /// What tools gave, oldest first.
    seen: Vec<String>,
    /// The part it plays when its steps are over, if an answer schema gives it one.
    play: Option<Play>,
}

/// A part that is played by what was seen, rather than by a script.
#[derive(Debug)]
struct Play {
    part: Part,
    system_prompt: String,
    foreseen: Option<Value>,
}

impl Mind {
    /// A thread that follows `prompt`; without directives, `rehearse` says what it does.
    ///
    /// # Errors
    /// The prompt's directives cannot be read.
    pub(super) fn new(prompt: String, rehearse: impl FnOnce(&str) -> Vec<Step>) -> Result<Self, ScriptError> {
        let mut directives = script::parse(&prompt)?;
        script::take_plan(&mut directives);
        let steps = if directives.is_empty() { rehearse(&prompt) } else { compile(directives) };
        Ok(Self { steps: steps.into(), prompt, seen: Vec::new(), play: None })
    }

    /// The main thread of a session with `settings`: it follows its directives, plays the part that its answer schema
    /// gives it, or rehearses.
    ///
    /// # Errors
    /// The prompt's directives cannot be read.
    pub(super) fn main(
        prompt: String,
        settings: &Settings,
        agent_offered: bool,
    ) -> Result<Self, ScriptError> {
        let mut directives = script::parse(&prompt)?;
        let foreseen = script::take_plan(&mut directives);
        let part = settings.schema.as_ref().and_then(Part::of);
        match part.filter(|_| directives.is_empty()) {
            Some(part) => {
                let system_prompt = settings.system_prompt.clone();
                let play = Some(Play { part, system_prompt, foreseen });
                Ok(Self { steps: VecDeque::new(), prompt, seen: Vec::new(), play })
            }
            None => Self::new(prompt, |prompt| rehearse_main(settings, agent_offered, prompt)),
        }
    }

    /// Takes note of what a tool gave.
    pub(super) fn saw(&mut self, result: String) {
        self.seen.push(result);
    }

    /// What the last tool gave.
    pub(super) fn last_tool_result(&self) -> Option<&str> {
        self.seen.last().map(String::as_str)
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
        self.steps.pop_front().or_else(|| self.play.as_ref().map(|play| Step::Answer(self.played(play))))
    }

    fn played(&self, play: &Play) -> Answer {
        let scene = Scene {
            system_prompt: &play.system_prompt,
            prompt: &self.prompt,
            seen: &self.seen,
            foreseen: play.foreseen.as_ref(),
        };
        let calls = scene::next(play.part, &scene);
        let read =
            play.system_prompt.len() + self.prompt.len() + self.seen.iter().map(String::len).sum::<usize>();
        let said = calls.iter().map(|call| call.input.to_string().len()).sum();
        Answer { calls, ..Answer::empty(Usage::estimated(read, said)) }
    }

    /// What is said when the script is over without a last word.
    pub(super) fn last_word(&self, usage: Usage) -> Answer {
        Answer::after_script(usage, self.last_tool_result())
    }
}

/// What the main thread does without directives: the schema's minimal instance, or a sub-agent (when
/// there is one to rehearse) and an answer in the persona's voice.
fn rehearse_main(settings: &Settings, agent_offered: bool, prompt: &str) -> Vec<Step> {
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
