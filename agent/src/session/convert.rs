//! Between the wire and the agent's own words. The only file that names both; nothing is decided here.

pub mod material;

use crate::homes::ConversationKey;
use crate::host::HostFigures;
use crate::limits::purse::Allowance;
use crate::runner::{
    AttemptKey, AttemptLimits, AttemptReport, AttemptSpec, ClaudeWork, CommandWork, Gates, LONGEST_FEEDBACK,
    OnLoss, Prompt, Reuse, Usage, Work, WorkerSettings,
};
use orch_proto::v1;
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::time::Duration;
use uuid::Uuid;

/// An answer up to this length travels inside the report.
pub const INLINE_BYTES: usize = 64 << 10;
/// Longest detail of a report on the wire.
const DETAIL_BYTES: usize = 4 << 10;

/// Why an assignment cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AssignmentError {
    /// A field is missing or makes no sense.
    #[error("the assignment has no usable {0}")]
    Missing(&'static str),
}

/// An assignment whose bulk is still to be fetched.
#[derive(Debug, Clone, PartialEq)]
pub struct Assigned {
    /// Which attempt.
    pub key: AttemptKey,
    /// Epoch of the grant.
    pub epoch: u64,
    /// `name/number/task`.
    pub reference: String,
    /// Deadlines, without `stop_after`, which Welcome says.
    pub limits: AttemptLimits,
    /// What becomes of it when the coordinator is out of reach.
    pub on_loss: OnLoss,
    /// What executes it.
    pub work: AssignedWork,
    /// Results of the tasks it depends on, whole or as bulk.
    pub inputs: AssignedInputs,
    /// Workspace it is shown, or that it publishes into; empty means none.
    pub workspace: String,
    /// What must hold before a good end counts as `ok`.
    pub gates: Gates,
    /// Earlier results of the same work.
    pub reuse: Vec<Reuse>,
}

impl Assigned {
    /// The conversation of another task that it continues.
    #[must_use]
    pub fn follows(&self) -> Option<ConversationKey> {
        match &self.work {
            AssignedWork::Claude(claude) => claude.conversation.as_ref().map(conversation),
            AssignedWork::Command(_) | AssignedWork::Noop | AssignedWork::Publish(_) => None,
        }
    }
}

/// Inputs of an assignment.
#[derive(Debug, Clone, PartialEq)]
pub enum AssignedInputs {
    /// They came with it.
    Here(Vec<v1::Input>),
    /// An encoded set that is still to be fetched.
    Bulk(v1::BlobRef),
}

impl AssignedInputs {
    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        match self {
            Self::Here(inputs) => inputs.is_empty(),
            Self::Bulk(_) => false,
        }
    }
}

/// What executes an assignment.
#[derive(Debug, Clone, PartialEq)]
pub enum AssignedWork {
    /// The Claude CLI; worker and texts may be bulk.
    Claude(Box<v1::ClaudeAssignment>),
    /// A program.
    Command(CommandWork),
    /// Nothing.
    Noop,
    /// Files to be copied into a workspace; they are bulk.
    Publish(v1::PublishAssignment),
}

/// Reads an assignment.
///
/// # Errors
/// When a field is missing.
pub fn assigned(wire: v1::Assignment) -> Result<Assigned, AssignmentError> {
    use v1::assignment::Runner;
    let key = attempt_key(wire.attempt.as_ref()).ok_or(AssignmentError::Missing("attempt"))?;
    let work = match wire.runner.ok_or(AssignmentError::Missing("runner"))? {
        Runner::Claude(claude) => AssignedWork::Claude(Box::new(claude)),
        Runner::Command(v1::CommandTask { program, args }) => {
            AssignedWork::Command(CommandWork { program, args })
        }
        Runner::Noop(v1::NoopTask {}) => AssignedWork::Noop,
        Runner::Publish(publish) => AssignedWork::Publish(publish),
    };
    let workspace = match &work {
        AssignedWork::Publish(publish) => publish.workspace.clone(),
        AssignedWork::Claude(_) | AssignedWork::Command(_) | AssignedWork::Noop => wire.workspace,
    };
    Ok(Assigned {
        key,
        epoch: wire.epoch,
        reference: wire.r#ref,
        limits: AttemptLimits {
            timeout: wire.timeout.as_ref().and_then(duration),
            silence: wire.silence_limit.as_ref().and_then(duration),
            stop_after: None,
        },
        on_loss: match v1::OnLoss::try_from(wire.on_loss) {
            Ok(v1::OnLoss::Wait) => OnLoss::Wait,
            Ok(v1::OnLoss::Fast | v1::OnLoss::Unspecified) | Err(_) => OnLoss::Fast,
        },
        work,
        inputs: match wire.inputs_blob {
            Some(blob) => AssignedInputs::Bulk(blob),
            None => AssignedInputs::Here(wire.inputs),
        },
        workspace,
        gates: material::gates(wire.gates),
        reuse: material::reuse(wire.reuse),
    })
}

/// The specification of a Claude attempt once worker definition, prompt and schema are at hand.
///
/// # Errors
/// When the definition cannot be read or the session is no UUID.
pub fn claude_work(
    wire: &v1::ClaudeAssignment,
    definition: &[u8],
    prompt: Prompt,
    schema: String,
    context_files: String,
    feedback: Option<String>,
) -> Result<Work, AssignmentError> {
    let worker = v1::WorkerDefinition::decode(definition).map_err(|_| AssignmentError::Missing("worker"))?;
    let session = Uuid::parse_str(&wire.session_id).map_err(|_| AssignmentError::Missing("session"))?;
    Ok(Work::Claude(Box::new(ClaudeWork {
        worker: WorkerSettings {
            name: if wire.worker_name.is_empty() { worker.name } else { wire.worker_name.clone() },
            model: if wire.model.is_empty() { worker.model } else { wire.model.clone() },
            system_prompt: worker.system_prompt,
            context_files,
            tools: worker.tools,
            allowed_tools: worker.allowed_tools,
            disallowed_tools: worker.disallowed_tools,
            permission_mode: worker.permission_mode,
            subagents_json: worker.subagents_json,
            setting_sources: worker.setting_sources,
            settings_json: worker.settings_json,
            mcp_config_json: worker.mcp_config_json,
            pool: worker.pool,
            fallback_model: worker.fallback_model,
        },
        prompt,
        session,
        output_schema: Some(schema).filter(|schema| !schema.is_empty()),
        budget_micro_usd: wire.budget_micro_usd,
        max_turns: Some(wire.max_turns).filter(|turns| *turns > 0),
        denial_fails: worker.denial_fails,
        feedback: feedback.filter(|feedback| !feedback.is_empty()),
        interrupted: Some(wire.interrupted.clone()).filter(|why| !why.is_empty()),
        conversation: wire.conversation.as_ref().map(conversation),
        allowance: wire.allowance.clone().map(allowance),
    })))
}

/// What an attempt may spend.
#[must_use]
pub fn allowance(wire: v1::Allowance) -> Allowance {
    let v1::Allowance { micro_usd, tokens, one_more, spent, detail, seq, .. } = wire;
    Allowance { micro_usd, tokens, one_more, spent, detail, seq }
}

fn conversation(task: &v1::TaskId) -> ConversationKey {
    ConversationKey { run: task.run_id, task: task.task_index }
}

/// The specification without what has to be fetched or looked up: inputs and workspace.
#[must_use]
pub fn spec(assigned: &Assigned, work: Work, stop_after: Duration) -> AttemptSpec {
    AttemptSpec {
        key: assigned.key,
        reference: assigned.reference.clone(),
        work,
        limits: AttemptLimits { stop_after: Some(stop_after), ..assigned.limits },
        on_loss: assigned.on_loss,
        env: BTreeMap::new(),
        inputs: Vec::new(),
        workspace: None,
        tree: None,
        gates: assigned.gates.clone(),
        reuse: assigned.reuse.clone(),
    }
}

/// A report, with its texts inline whatever their length and its files not stored yet: what the spool keeps. The digest
/// covers everything but the digest.
#[must_use]
pub fn report(key: AttemptKey, report: AttemptReport) -> v1::Report {
    let mut wire = v1::Report {
        attempt: Some(attempt_id(key)),
        outcome: report.outcome.into(),
        detail: crate::runner::shorten(report.detail, DETAIL_BYTES),
        answer: report.answer.map(inline),
        structured: report.structured.map(inline),
        usage: Some(usage(report.usage)),
        num_turns: report.num_turns,
        session_id: report.session_id.unwrap_or_default(),
        duration: prost_types::Duration::try_from(report.duration).ok(),
        digest: Vec::new(),
        transcript_bytes: report.transcript_bytes,
        retry_after: report.retry_after.and_then(|wait| prost_types::Duration::try_from(wait).ok()),
        denied_tools: report.denied_tools,
        artifacts: report.artifacts.as_ref().map(material::artifacts),
        gates: material::gate_results(report.gates),
        feedback: report.feedback.map(|text| inline(crate::runner::shorten(text, LONGEST_FEEDBACK))),
        tool_calls: report.tool_calls,
        reused: report.reused,
        tree: report.tree.map(Vec::from).unwrap_or_default(),
        pool: report.pool,
        limit: report.limit.map(|hit| v1::LimitHit {
            pool: hit.pool,
            window: hit.window,
            exhausted: hit.exhausted,
        }),
        api_requests: report.api_requests,
    };
    wire.digest = Sha256::digest(wire.encode_to_vec()).to_vec();
    wire
}

fn inline(text: String) -> v1::Text {
    v1::Text { body: Some(v1::text::Body::Inline(text)) }
}

fn usage(usage: Usage) -> v1::Usage {
    let models = usage.models.into_iter().map(|(model, row)| v1::ModelUsage {
        model,
        input_tokens: row.input_tokens,
        output_tokens: row.output_tokens,
        cache_read_tokens: row.cache_read_tokens,
        cache_write_tokens: row.cache_write_tokens,
        cost_micro_usd: row.cost_micro_usd,
    });
    v1::Usage { models: models.collect(), cost_micro_usd: usage.cost_micro_usd, estimated: usage.estimated }
}

/// Figures of the host on the wire.
#[must_use]
pub const fn host_figures(figures: HostFigures) -> v1::HostFigures {
    v1::HostFigures {
        cores: figures.cores,
        load_millis: figures.load_millis,
        memory_bytes: figures.memory_bytes,
        memory_available_bytes: figures.memory_available_bytes,
        disk_free_bytes: figures.disk_free_bytes,
    }
}

/// An attempt on the wire.
#[must_use]
pub const fn attempt_id(key: AttemptKey) -> v1::AttemptId {
    v1::AttemptId { run_id: key.run, task_index: key.task, attempt: key.attempt }
}

/// An attempt from the wire; attempt 0 does not exist.
#[must_use]
pub fn attempt_key(id: Option<&v1::AttemptId>) -> Option<AttemptKey> {
    let id = id.filter(|id| id.attempt > 0)?;
    Some(AttemptKey { run: id.run_id, task: id.task_index, attempt: id.attempt })
}

/// A length of time from the wire; `None` when it is not positive.
#[must_use]
pub fn duration(wire: &prost_types::Duration) -> Option<Duration> {
    Duration::try_from(*wire).ok().filter(|duration| !duration.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::Outcome;

    const KEY: AttemptKey = AttemptKey { run: 3, task: 1, attempt: 2 };

    #[test]
    fn an_assignment_without_attempt_or_runner_is_refused() {
        let missing = |wire| assigned(wire).unwrap_err();
        assert_eq!(missing(v1::Assignment::default()), AssignmentError::Missing("attempt"));
        let wire = v1::Assignment { attempt: Some(attempt_id(KEY)), ..Default::default() };
        assert_eq!(missing(wire), AssignmentError::Missing("runner"));
    }

    #[test]
    fn the_tasks_model_goes_before_the_workers() {
        let definition = v1::WorkerDefinition { model: "opus".into(), ..Default::default() }.encode_to_vec();
        let model = |asked: &str| {
            let wire = v1::ClaudeAssignment {
                model: asked.into(),
                session_id: Uuid::nil().to_string(),
                ..Default::default()
            };
            match claude_work(
                &wire,
                &definition,
                Prompt::Text("x".into()),
                String::new(),
                String::new(),
                None,
            )
            .unwrap()
            {
                Work::Claude(work) => work.worker.model,
                other @ (Work::Command(_) | Work::Noop | Work::Publish(_)) => panic!("{other:?}"),
            }
        };
        assert_eq!((model("haiku").as_str(), model("").as_str()), ("haiku", "opus"));
    }

    #[test]
    fn whether_a_denied_tool_fails_an_attempt_is_the_workers_to_say() {
        for said in [false, true] {
            let definition =
                v1::WorkerDefinition { denial_fails: said, ..Default::default() }.encode_to_vec();
            let wire = v1::ClaudeAssignment { session_id: Uuid::nil().to_string(), ..Default::default() };
            let work =
                claude_work(&wire, &definition, Prompt::Text("x".into()), String::new(), String::new(), None);
            let Work::Claude(work) = work.unwrap() else { panic!("not for the CLI") };
            assert_eq!(work.denial_fails, said);
        }
    }

    #[test]
    fn a_report_repeated_has_the_same_digest_and_another_has_not() {
        let of = |detail: &str| report(KEY, AttemptReport::of(Outcome::Crash, detail)).digest;
        assert_eq!(of("gone"), of("gone"));
        assert_ne!(of("gone"), of("away"));
        assert_eq!(of("gone").len(), 32);
    }
}
