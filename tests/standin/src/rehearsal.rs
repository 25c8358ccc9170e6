//! Knows what a stand-in answers when nothing is scripted: a short answer in the voice of the worker
//! whose persona is in the system prompt, derived from the task alone, and always with the word
//! "rehearsal" in its first line. Refuses to look like a model: nothing here reads or judges anything.

use crate::script::steps::head;

pub mod scene;

/// The workers whose voice is rehearsed, as their prompts name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persona {
    /// Splits a request into tasks.
    Orchestrator,
    /// The dance teacher: evaluations in French.
    Marie,
    /// The engineer: reviews, tests, architecture.
    Anga,
    /// The marketer: campaigns, content, analytics.
    Fabien,
    /// Anybody else.
    Unknown,
}

impl Persona {
    /// The persona named first in `system_prompt`.
    pub fn detect(system_prompt: &str) -> Self {
        let lower = system_prompt.to_lowercase();
        let named = [
            ("orchestrator", Self::Orchestrator),
            ("marie", Self::Marie),
            ("anga", Self::Anga),
            ("fabien", Self::Fabien),
        ];
        let first = named.iter().filter_map(|(name, persona)| Some((word_at(&lower, name)?, *persona)));
        first.min_by_key(|(at, _)| *at).map_or(Self::Unknown, |(_, persona)| persona)
    }
}

/// Where `word` stands in `text` as a word of its own.
fn word_at(text: &str, word: &str) -> Option<usize> {
    text.match_indices(word).map(|(at, _)| at).find(|at| {
        let before = text[..*at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
    })
}

/// The label every rehearsed answer carries.
pub const LABEL: &str = "rehearsal, not Claude";

/// The answer of `persona` to `task`.
pub fn answer(persona: Persona, task: &str) -> String {
    let subject = subject(task);
    match persona {
        Persona::Marie => marie(&subject),
        Persona::Anga => anga(&subject),
        Persona::Fabien => fabien(&subject),
        Persona::Orchestrator => format!(
            "[{LABEL}] A plan would follow here for: {subject}\n\n\
             Without an answer schema the stand-in names the steps only: gather, produce, check, report."
        ),
        Persona::Unknown => format!(
            "[{LABEL}] The stand-in was asked: {subject}\n\nIt has no opinion; a real run would answer here."
        ),
    }
}

/// What a rehearsed sub-agent reports to its parent.
pub fn sub_agent_answer(kind: &str, task: &str) -> String {
    format!("[{LABEL}] {kind}: looked at \"{}\" and found nothing to object to.", subject(task))
}

/// The first line with words in it, shortened.
fn subject(task: &str) -> String {
    let line = request(task)
        .lines()
        .map(str::trim)
        .find(|line| line.chars().any(char::is_alphanumeric))
        .unwrap_or("(nothing)");
    let line = line.trim_start_matches(['#', '-', '*', ' ']);
    let short = head(line, 120);
    if short.len() < line.len() { format!("{short}…") } else { short.to_owned() }
}

/// The task without what orch puts around it: the directories, and the context.
fn request(task: &str) -> &str {
    let task = task.trim_start();
    let task = task.rsplit_once("\n\nWorking directory:").map_or(task, |(request, _)| request);
    let task = match task.strip_prefix("Working directory:").and_then(|rest| rest.split_once("\n\n")) {
        Some((_, request)) => request,
        None => task,
    };
    task.split_once("</context>").map_or(task, |(_, request)| request)
}

/// Ten marks out of ten that depend on the text alone.
fn marks(text: &str) -> impl Iterator<Item = u32> {
    let mut state = text.bytes().fold(7_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        6 + (state >> 24) % 4
    })
}

fn marie(subject: &str) -> String {
    let criteria = [
        "Technique",
        "Musicalité",
        "Posture",
        "Coordination",
        "Expression",
        "Mémorisation",
        "Énergie",
        "Espace",
        "Écoute",
        "Progression",
    ];
    let mut total = 0;
    let mut rows = String::new();
    for (criterion, mark) in criteria.iter().zip(marks(subject)) {
        total += mark;
        rows.push_str(&format!("- {criterion} : {mark}/10\n"));
    }
    format!(
        "[{LABEL}] Évaluation de démonstration : {subject}\n\n{rows}\nTotal : {total}/100\n\n\
         Commentaire : un travail régulier ; les appuis gagnent en précision.\n\
         Prochaines étapes : reprendre la diagonale lentement, puis filmer l'enchaînement."
    )
}

fn anga(subject: &str) -> String {
    format!(
        "[{LABEL}] Review of: {subject}\n\n\
         1. Structure: boundaries are clear; one module knows more than its name says.\n\
         2. Tests: the happy path is covered; add one for the empty input and one for a late failure.\n\
         3. Next: split the largest function, then measure before tuning.\n\nVerdict: approve with comments."
    )
}

fn fabien(subject: &str) -> String {
    format!(
        "[{LABEL}] Campaign sketch for: {subject}\n\n\
         - Audience: parents within 15 minutes of the studio\n\
         - Message: one open lesson, no obligation\n\
         - Channels: newsletter on Tuesday, two posts, a poster at the entrance\n\
         - Measure: sign-ups per channel after 14 days"
    )
}

#[cfg(test)]
mod tests {
    use super::{LABEL, Persona, answer, subject};

    #[test]
    fn the_subject_is_what_was_asked_not_what_orch_put_before_it() {
        let task = "\nWorking directory: /w\nHand over there.\n\n<context>\n{}\n</context>\n\nReview it";
        assert_eq!(subject(task), "Review it");
        assert_eq!(subject("Review it"), "Review it");
    }

    #[test]
    fn the_first_name_in_the_system_prompt_decides() {
        assert_eq!(Persona::detect("You are **Anga**, an engineer. Marie is a colleague."), Persona::Anga);
        assert_eq!(
            Persona::detect("You are the orchestrator of marie, anga, fabien."),
            Persona::Orchestrator
        );
        assert_eq!(Persona::detect("the triangashape"), Persona::Unknown);
    }

    #[test]
    fn every_answer_says_in_its_first_line_that_it_is_a_rehearsal_and_quotes_the_task() {
        for persona in
            [Persona::Orchestrator, Persona::Marie, Persona::Anga, Persona::Fabien, Persona::Unknown]
        {
            let text = answer(persona, "\n\n# Evaluate Léa's solo\nwith care");
            let first = text.lines().next().unwrap();
            assert!(first.contains(LABEL) && first.contains("Evaluate Léa's solo"), "{text}");
            assert_eq!(text, answer(persona, "\n\n# Evaluate Léa's solo\nwith care"));
        }
    }

    #[test]
    fn marie_marks_ten_criteria_that_add_up() {
        let text = answer(Persona::Marie, "Léa");
        let marks =
            text.lines().filter_map(|line| line.strip_suffix("/10")?.rsplit(' ').next()?.parse::<u32>().ok());
        let marks: Vec<u32> = marks.collect();
        assert_eq!(marks.len(), 10);
        assert!(text.contains(&format!("Total : {}/100", marks.iter().sum::<u32>())));
    }
}
