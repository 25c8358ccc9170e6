//! Making records fit their value by leaving out what is only shown, the oldest and longest first.
//! Knows which parts of a record decide something and must stay; refuses to know how a record came to be.

use orch_proto::store::v1 as record;
use orch_proto::v1;
use prost::Message as _;

/// Longest detail of an attempt or a run, and longest note of a task, in bytes.
pub(crate) const MAX_DETAIL_BYTES: usize = 400;
/// Longest detail of an attempt that is not the last, once room is short.
const SHORT_DETAIL_BYTES: usize = 60;
/// Longest model name in a record.
const MAX_MODEL_BYTES: usize = 48;
/// Row of a usage that stands for several models.
pub(crate) const OTHER: &str = "other";
/// Agents on which attempts crashed that are remembered, once room is short: as many as poison needs.
const LEAST_CRASHED_ON: usize = 2;

/// Cuts `text` to at most `max` bytes, at a character, with an ellipsis when there is room for one.
pub fn cut_text(text: &mut String, max: usize) {
    const ELLIPSIS: &str = "…";
    if text.len() <= max {
        return;
    }
    let ellipsis = if max >= 4 * ELLIPSIS.len() { ELLIPSIS } else { "" };
    text.truncate(text.floor_char_boundary(max - ellipsis.len()));
    text.push_str(ellipsis);
}

/// Cuts the model names of `usage` and merges its cheapest rows until at most `rows` are left.
pub(crate) fn cut_usage(usage: &mut v1::Usage, rows: usize) {
    for row in &mut usage.models {
        cut_text(&mut row.model, MAX_MODEL_BYTES);
    }
    if usage.models.len() <= rows {
        return;
    }
    if rows == 0 {
        usage.models.clear();
        return;
    }
    usage.models.sort_by_key(|row| std::cmp::Reverse(row.cost_micro_usd));
    let mut other = v1::ModelUsage { model: OTHER.to_owned(), ..v1::ModelUsage::default() };
    for row in usage.models.drain(rows - 1..) {
        add(&mut other, &row);
    }
    // An earlier merge may have left a row of that name.
    match usage.models.iter_mut().find(|row| row.model == OTHER) {
        Some(row) => add(row, &other),
        None => usage.models.push(other),
    }
    usage.models.sort_by(|left, right| left.model.cmp(&right.model));
}

fn add(row: &mut v1::ModelUsage, more: &v1::ModelUsage) {
    row.input_tokens = row.input_tokens.saturating_add(more.input_tokens);
    row.output_tokens = row.output_tokens.saturating_add(more.output_tokens);
    row.cache_read_tokens = row.cache_read_tokens.saturating_add(more.cache_read_tokens);
    row.cache_write_tokens = row.cache_write_tokens.saturating_add(more.cache_write_tokens);
    row.cost_micro_usd = row.cost_micro_usd.saturating_add(more.cost_micro_usd);
}

/// Makes a task's record without its result fit `budget` bytes. States, counters and the last attempt with its digest
/// always stay; with the longest names they take some 500 bytes.
pub(crate) fn fit_task(task: &mut record::TaskRecord, budget: usize) {
    for attempt in &mut task.attempts {
        cut_text(&mut attempt.detail, MAX_DETAIL_BYTES);
    }
    cut_text(&mut task.note, MAX_DETAIL_BYTES);
    for measure in MEASURES {
        if task.encoded_len() <= budget {
            return;
        }
        measure(task, budget);
    }
}

/// What is given up for room, the least missed first.
const MEASURES: [fn(&mut record::TaskRecord, usize); 7] = [
    |task, _| {
        let older = task.attempts.len().saturating_sub(1);
        for attempt in task.attempts.iter_mut().take(older) {
            cut_text(&mut attempt.detail, SHORT_DETAIL_BYTES);
        }
    },
    |task, budget| drop_oldest_attempts(task, budget, 3),
    |task, _| {
        if let Some(usage) = &mut task.usage {
            cut_usage(usage, 4);
        }
    },
    |task, budget| drop_oldest_attempts(task, budget, 1),
    |task, _| {
        let gone = task.crashed_on.len().saturating_sub(LEAST_CRASHED_ON);
        task.crashed_on.drain(..gone);
        if let Some(usage) = &mut task.usage {
            cut_usage(usage, 1);
        }
    },
    |task, _| cut_text(&mut task.note, SHORT_DETAIL_BYTES),
    |task, budget| {
        let over = task.encoded_len().saturating_sub(budget);
        if let Some(last) = task.attempts.last_mut() {
            let room = last.detail.len().saturating_sub(over);
            cut_text(&mut last.detail, room);
        }
    },
];

fn drop_oldest_attempts(task: &mut record::TaskRecord, budget: usize, least: usize) {
    while task.attempts.len() > least && task.encoded_len() > budget {
        task.attempts.remove(0);
    }
}

/// Makes a run's record fit `budget` bytes by merging rows of its usage.
pub(crate) fn fit_run(run: &mut record::RunRecord, budget: usize) {
    for rows in [16, 8, 4, 2, 1, 0] {
        if run.encoded_len() <= budget {
            return;
        }
        if let Some(usage) = &mut run.usage {
            cut_usage(usage, rows);
        }
    }
}

/// Makes an agent's record fit `budget` bytes by leaving out its last capabilities. They come back with its next Hello;
/// until then a task that requires one of them is called impossible while the agent is away.
pub(crate) fn fit_agent(agent: &mut record::AgentRecord, budget: usize) {
    while agent.encoded_len() > budget && agent.capabilities.pop().is_some() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_at_characters_and_say_so() {
        let check = |text: &str, max: usize, expected: &str| {
            let mut text = text.to_owned();
            cut_text(&mut text, max);
            assert_eq!(text, expected);
            assert!(text.len() <= max);
        };
        check("short", 5, "short");
        check("somewhat longer", 12, "somewhat …");
        check("ééééééééé", 13, "ééééé…");
        check("ééé", 5, "éé");
        check("x", 0, "");
    }

    #[test]
    fn merged_usage_keeps_its_sums() {
        let row = |model: &str, cost| v1::ModelUsage {
            model: model.into(),
            input_tokens: 1,
            cost_micro_usd: cost,
            ..Default::default()
        };
        let models = vec![row("a", 5), row("b", 1), row("c", 9), row("d", 2)];
        let mut usage = v1::Usage { models, cost_micro_usd: 17, estimated: false };
        cut_usage(&mut usage, 3);
        let rows: Vec<_> = usage.models.iter().map(|row| (row.model.as_str(), row.cost_micro_usd)).collect();
        assert_eq!(rows, [("a", 5), ("c", 9), ("other", 3)]);
        cut_usage(&mut usage, 1);
        assert_eq!(usage.models.len(), 1);
        assert_eq!((usage.models[0].input_tokens, usage.models[0].cost_micro_usd), (4, 17));
    }
}
