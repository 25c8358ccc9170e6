//! What becomes of a planner's answer: the run goes on with its tasks, waits for a person, ends, or the planner is asked
//! once more. Knows the words of each; the examination is [`super::examine`]'s.

use super::{Examined, Objection, examine};
use crate::submission::{CheckedPlanning, CheckedTask, Given};
use orch_proto::v1::Outcome;

/// Longest detail that a task keeps, in bytes.
const MAX_DETAIL: usize = 400;
/// Where to look further.
const SEE: &str = "; `orchctl result REF` shows the plan and everything wrong with it";

/// What becomes of a planner's answer.
#[derive(Debug, Clone)]
pub enum Judgement {
    /// Its tasks join the run, with indexes from 2 on.
    Expand(Vec<CheckedTask>),
    /// It holds, and a person must approve it.
    Hold,
    /// It holds, and it is all that was wanted.
    Accept,
    /// The planner is asked once more.
    SendBack {
        /// What it is told.
        feedback: String,
        /// For people, at most 400 bytes.
        detail: String,
    },
    /// The run ends.
    Refuse {
        /// How the task `plan` ends.
        outcome: Outcome,
        /// For people, at most 400 bytes.
        detail: String,
    },
}

/// Judges a planner's answer. `repairs_left` is how often it may still be sent back.
#[must_use]
pub fn judge(
    structured: &str,
    planning: &CheckedPlanning,
    repairs_left: u32,
    given: &Given<'_>,
) -> Judgement {
    match examine(structured, planning, given) {
        Ok(_) if planning.plan_only => Judgement::Accept,
        Ok(_) if planning.approve => Judgement::Hold,
        Ok(Examined { tasks, .. }) => Judgement::Expand(tasks),
        // Its own words: another turn would not find what only the requester has.
        Err(Objection::Missing(missing)) => {
            Judgement::Refuse { outcome: Outcome::Refused, detail: cut(&format!("No plan: {missing}"), "") }
        }
        Err(Objection::Problems(problems)) if repairs_left > 0 => {
            let detail = cut(&format!("the plan cannot be run: {}", short(&problems)), "");
            Judgement::SendBack { feedback: feedback(&problems), detail }
        }
        Err(Objection::Problems(problems)) => {
            let detail = cut(&format!("the plan cannot be run: {}", short(&problems)), SEE);
            Judgement::Refuse { outcome: Outcome::SchemaInvalid, detail }
        }
    }
}

fn feedback(problems: &[String]) -> String {
    let list: String = problems.iter().map(|problem| format!("- {problem}\n")).collect();
    format!(
        "The plan cannot be run. What is wrong with it:\n\n{list}\nGive the whole plan again through the output schema, with \
         this mended and everything else as it was. All rules of the task still hold. It is the last time that a plan is \
         looked at: if the request cannot be planned within the rules, give no task and say in `missing` why.\n"
    )
}

fn short(problems: &[String]) -> String {
    let rest = match problems.len() {
        0 | 1 => String::new(),
        all => format!(" ({} more)", all - 1),
    };
    let first = problems.first().map_or("", String::as_str);
    // So that the count is not what is cut.
    format!("{}{rest}", head(first, MAX_DETAIL - SEE.len() - 60))
}

/// `text` and then `end`, together at most as long as a detail.
fn cut(text: &str, end: &str) -> String {
    format!("{}{end}", head(text, MAX_DETAIL - end.len()))
}

/// The beginning of `text`, at most `most` bytes.
fn head(text: &str, most: usize) -> String {
    const MORE: &str = "…";
    if text.len() <= most {
        return text.to_owned();
    }
    let fits = (0..=most.saturating_sub(MORE.len())).rev().find(|at| text.is_char_boundary(*at));
    format!("{}{MORE}", &text[..fits.unwrap_or(0)])
}
