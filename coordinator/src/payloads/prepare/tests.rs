//! What a submit costs in files, and that nothing outgrows its place.

use super::*;
use crate::blobs::FileBlobs;
use crate::clock::ManualClock;
use crate::payloads::SpecRecords;
use crate::payloads::open_page;
use crate::submission::{CheckedWorkerTask, PinnedWorker};
use orch_core::ids::TaskIndex;
use orch_core::time::Wall;
use orch_proto::store::v1 as record;
use std::collections::{BTreeMap, BTreeSet};

struct Bench {
    blobs: Arc<FileBlobs>,
    clock: ManualClock,
    preparer: Preparer,
    _dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Arc::new(FileBlobs::open(dir.path()).unwrap());
        let clock = ManualClock::new(Wall(0));
        let preparer = Preparer::new(blobs.clone(), Arc::new(clock.clone()), BlockingPool::default());
        Self { blobs, clock, preparer, _dir: dir }
    }

    async fn prepare(&self, run: CheckedRun) -> (Submit, SubmitPayload) {
        self.preparer.prepare(request(), run).await.unwrap()
    }

    /// The specs as a restart reads them.
    fn read_back(&self, payload: &SubmitPayload) -> Vec<StoredSpec> {
        let pages: Vec<&[u8]> = match &payload.records {
            SpecRecords::Inside(page) => vec![page],
            SpecRecords::Pages(pages) => pages.iter().map(Vec::as_slice).collect(),
        };
        let mut specs = Vec::new();
        for page in pages {
            assert!(page.len() <= MAX_VALUE_BYTES, "{} bytes", page.len());
            let page = record::SpecPage::decode(page).unwrap();
            specs.extend(open_page(&*self.blobs, Tenant::DEFAULT, page).unwrap().specs);
        }
        specs
    }
}

fn request() -> Request {
    Request {
        tenant: TenantId(1),
        submitted_by: Arc::from("client/default/ana"),
        request_id: Arc::from(""),
        spec_digest: [0; 32],
        validate_only: false,
    }
}

fn pinned(name: &str) -> Arc<PinnedWorker> {
    Arc::new(PinnedWorker {
        name: name.to_owned(),
        definition: name.as_bytes().into(),
        digest: crate::blobs::Digest::of(name.as_bytes()).0,
        model: "sonnet".into(),
        max_turns: 0,
        budget_micro_usd: None,
        timeout_ms: None,
        requires: BTreeSet::new(),
        on_loss: v1::OnLoss::Fast,
    })
}

fn task(index: usize, runner: CheckedRunner) -> CheckedTask {
    CheckedTask {
        id: format!("t{index}"),
        dependencies: Vec::new(),
        priority: 50,
        timeout_ms: 60_000,
        retries: 2,
        requires: ["runner=claude".to_owned()].into(),
        on_loss: v1::OnLoss::Fast,
        agent: None,
        runner,
        after: v1::After::Success,
        role: v1::TaskRole::Work,
        of: None,
        gates: None,
        repairs: 0,
        reviewed: false,
        workspace: String::new(),
        conditions: Vec::new(),
        cache: false,
        expected_cost_micro_usd: None,
    }
}

fn prompt(worker: &Arc<PinnedWorker>, prompt: String) -> CheckedRunner {
    CheckedRunner::Worker(Box::new(CheckedWorkerTask {
        worker: Arc::clone(worker),
        prompt,
        model: "sonnet".into(),
        output_schema: String::new(),
        budget_micro_usd: None,
        max_turns: 0,
        contract: false,
        continues: None,
    }))
}

fn run(tasks: Vec<CheckedTask>) -> CheckedRun {
    CheckedRun {
        name: "adhoc".into(),
        labels: BTreeMap::new(),
        tasks,
        context: None,
        policy: Default::default(),
        max_parallel: 0,
        budget: None,
        planning: None,
        workflow: String::new(),
    }
}

fn prompts(count: usize, bytes: usize) -> CheckedRun {
    let worker = pinned("anga");
    run((0..count).map(|n| task(n, prompt(&worker, format!("{n} {}", "x".repeat(bytes))))).collect())
}

#[tokio::test]
async fn a_run_that_does_nothing_needs_no_file() {
    let bench = Bench::new();
    for count in [1, 30, 1_000] {
        let tasks = (0..count).map(|n| task(n, CheckedRunner::Noop)).collect();
        let (submit, payload) = bench.prepare(run(tasks)).await;
        assert_eq!((submit.tasks.len(), bench.read_back(&payload).len()), (count, count));
    }
    assert_eq!(bench.blobs.syncs(), 0);
}

#[tokio::test]
async fn prompts_cost_one_sync_a_submit_or_none() {
    let check = async |count, bytes, syncs| {
        let bench = Bench::new();
        bench.prepare(prompts(1, 1)).await;
        let before = bench.blobs.syncs();
        let (_, payload) = bench.prepare(prompts(count, bytes)).await;
        assert_eq!(bench.blobs.syncs() - before, syncs, "{count} of {bytes} bytes");
        assert_eq!(bench.read_back(&payload).len(), count);
    };
    check(1, 500, 0).await;
    check(5, 500, 0).await;
    check(1, 3_000, 1).await;
    check(1, 1 << 20, 1).await;
    check(10, 100_000, 1).await;
    check(1_000, 500, 1).await;
    check(1_000, 3_000, 1).await;
    // Pages that do not fit either name texts that must have their place before: a second file.
    check(100, 10_000, 2).await;
}

#[tokio::test]
async fn a_definition_is_stored_once_and_looked_after_now_and_then() {
    let bench = Bench::new();
    let reference = |payload: &SubmitPayload| {
        let spec = bench.read_back(payload).remove(0);
        let Some(record::stored_spec::Runner::Worker(task)) = spec.runner else { panic!() };
        assert_eq!((task.worker.as_str(), task.row), ("anga", 0));
        task.definition.unwrap()
    };
    let first = reference(&bench.prepare(prompts(1, 1)).await.1);
    assert_eq!(bench.blobs.syncs(), 1);
    for _ in 0..10 {
        assert_eq!(reference(&bench.prepare(prompts(40, 1)).await.1), first);
    }
    assert_eq!(bench.blobs.syncs(), 1);
    bench.clock.advance(KNOWN_FOR);
    assert_eq!(reference(&bench.prepare(prompts(1, 1)).await.1), first);
    let definition = bulk::read(&*bench.blobs, Tenant::DEFAULT, &first, 100).unwrap();
    assert_eq!(definition, b"anga");
}

fn with_context(mut run: CheckedRun, text: &str) -> CheckedRun {
    let file = v1::ContextFile { name: "terms.md".into(), text: text.into() };
    run.context = CheckedContext::check(vec![file]).unwrap();
    run
}

#[tokio::test]
async fn context_files_of_a_run_are_stored_once_and_every_worker_task_names_them() {
    let bench = Bench::new();
    let bytes = |payload: &SubmitPayload| match &payload.records {
        SpecRecords::Inside(page) => page.len(),
        SpecRecords::Pages(pages) => pages.iter().map(|page| page.len()).sum(),
    };
    let text = "x".repeat(200 << 10);
    let plain = bytes(&bench.prepare(prompts(1_000, 1)).await.1);
    let before = bench.blobs.syncs();
    let (_, payload) = bench.prepare(with_context(prompts(1_000, 1), &text)).await;
    assert_eq!(bench.blobs.syncs() - before, 1);
    let more = bytes(&payload) - plain;
    assert!(more < 34 * 140, "{more} bytes for 34 pages of 1,000 tasks");
    let specs = bench.read_back(&payload);
    let named = |spec: &StoredSpec| match &spec.runner {
        Some(record::stored_spec::Runner::Worker(task)) => match task.context_files.clone()?.body? {
            v1::text::Body::Blob(blob) => Some(blob),
            v1::text::Body::Inline(_) => None,
        },
        _ => None,
    };
    let blob = named(&specs[0]).unwrap();
    assert!(specs.iter().all(|spec| named(spec).as_ref() == Some(&blob)));
    let stored = bulk::read(&*bench.blobs, Tenant::DEFAULT, &blob, 1 << 20).unwrap();
    assert!(stored.starts_with(b"\n# Context files of this run\n\n## terms.md\n\nxxx"));
    let (_, again) = bench.prepare(with_context(prompts(3, 1), &text)).await;
    assert_eq!(named(&bench.read_back(&again)[2]), Some(blob.clone()));
    assert_eq!(bench.blobs.syncs() - before, 1, "the same files of another run are there already");
    let dispatched = payload.pages[0].spec(0).unwrap();
    assert_eq!(named(&dispatched), Some(blob));
    let (_, none) = bench.prepare(with_context(run(vec![task(0, CheckedRunner::Noop)]), &text)).await;
    assert_eq!(named(&bench.read_back(&none)[0]), None, "nothing runs there that could read them");
}

#[tokio::test]
async fn the_worst_specs_fit_their_pages_and_come_back() {
    let bench = Bench::new();
    let long = |n: usize| format!("{n:0>63}");
    let worst = |n: usize| {
        let mut worst = task(n, prompt(&pinned(&long(n)), "é".repeat(2_048)));
        if let CheckedRunner::Worker(task) = &mut worst.runner {
            task.output_schema = "s".repeat(4_096);
            task.model = "m".repeat(128);
            (task.budget_micro_usd, task.max_turns) = (Some(u64::MAX), u32::MAX);
        }
        worst.id = long(n);
        worst.dependencies = (1_000_000..1_010_000).collect();
        worst.requires = (0..20).map(|key| format!("{key:0>63}={}", "v".repeat(128))).collect();
        worst.agent = Some(long(n));
        (worst.priority, worst.timeout_ms, worst.retries) = (i32::MIN, u64::MAX, u32::MAX);
        worst
    };
    for count in [1, 2, 31] {
        let tasks: Vec<_> = (0..count).map(worst).collect();
        let (submit, payload) = bench.prepare(run(tasks)).await;
        let specs = bench.read_back(&payload);
        assert_eq!(specs.len(), count);
        for (spec, new) in specs.iter().zip(&submit.tasks) {
            let restored = decode::new_task(spec, &mut Interner::default()).unwrap();
            assert_eq!(format!("{restored:?}"), format!("{new:?}"), "after a restart the core sees the same");
        }
    }
}

#[tokio::test]
async fn labels_that_do_not_fit_are_refused_and_the_longest_that_do_leave_room() {
    let bench = Bench::new();
    let labelled = |count: usize, bytes: usize| {
        let mut run = prompts(1, 100);
        run.labels = (0..count).map(|n| (format!("{n:0>20}"), "v".repeat(bytes))).collect();
        run
    };
    let refused = bench.preparer.prepare(request(), labelled(32, 128)).await;
    assert!(matches!(refused, Err(PrepareError::LabelsTooLong { bytes: 4_992 })), "{refused:?}");
    let (_, payload) = bench.prepare(labelled(32, 51)).await;
    let SpecRecords::Inside(page) = payload.records else { panic!() };
    assert!(page.len() <= crate::persist::LONE_PAGE_BYTES);
}

#[tokio::test]
async fn a_dry_run_stores_nothing() {
    let bench = Bench::new();
    let request = Request { validate_only: true, ..request() };
    let (submit, payload) = bench.preparer.prepare(request, prompts(40, 10_000)).await.unwrap();
    assert_eq!((submit.tasks.len(), submit.validate_only), (40, true));
    assert!(bench.read_back(&payload).is_empty() && payload.pages.is_empty());
    assert_eq!(bench.blobs.syncs(), 0);
}

#[tokio::test]
async fn long_gates_conditions_and_publications_rest_in_files_and_come_back() {
    let bench = Bench::new();
    let gate = |n: usize| v1::GateCommand {
        program: format!("{n}"),
        args: vec!["g".repeat(2_000)],
        ..Default::default()
    };
    let condition = |n: usize| v1::Condition {
        task_id: format!("t{n}"),
        pointer: format!("/{}", "p".repeat(1_000)),
        test: v1::ConditionTest::Equals.into(),
        value: format!("\"{}\"", "v".repeat(1_000)),
    };
    let file = |n: usize| v1::Publication {
        artifact: format!("{n}/{}", "a".repeat(1_000)),
        to: format!("{n}/{}", "t".repeat(1_000)),
        replace: true,
    };
    let worst = |n: usize| {
        let files = (0..32).map(file).collect();
        let publish = record::StoredPublish { workspace: "w".repeat(63), files };
        let mut worst = task(n, CheckedRunner::Publish(publish));
        worst.dependencies = (100_000..110_000).collect();
        worst.gates = Some(v1::Gates { commands: (0..16).map(gate).collect(), ..Default::default() });
        worst.conditions = (0..16).map(condition).collect();
        worst
    };
    for count in [1, 31] {
        let tasks: Vec<_> = (0..count).map(worst).collect();
        let wanted = tasks.clone();
        let (_, payload) = bench.prepare(run(tasks)).await;
        let specs = bench.read_back(&payload);
        assert_eq!(specs.len(), count);
        for (spec, task) in specs.iter().zip(wanted) {
            assert_eq!((&spec.gates, &spec.conditions), (&task.gates, &task.conditions));
            let CheckedRunner::Publish(publish) = task.runner else { panic!() };
            assert_eq!(spec.runner, Some(record::stored_spec::Runner::Publish(publish)));
        }
    }
}

#[tokio::test]
async fn what_a_request_says_is_kept_with_the_run() {
    let bench = Bench::new();
    let planning = CheckedPlanning {
        approve: true,
        plan_only: false,
        max_tasks: 7,
        workers: vec!["anga".into()],
        workspace: "dance".into(),
    };
    let (submit, _) = bench.prepare(CheckedRun { planning: Some(planning.clone()), ..prompts(2, 1) }).await;
    let stored = record::PlanningRecord::decode(&*submit.shape.settings).unwrap();
    assert_eq!(CheckedPlanning::from_record(stored), planning);
    let core = submit.shape.planning.unwrap();
    assert_eq!((core.approve, core.plan_only, core.expanded), (true, false, false));
}

#[tokio::test]
async fn tasks_that_join_a_run_are_written_with_those_it_has() {
    let bench = Bench::new();
    let (_, before) = bench.prepare(with_context(prompts(2, 10_000), "the terms")).await;
    let existing = bench.read_back(&before);
    let worker = pinned("marie");
    let mut tasks: Vec<_> =
        (2..40).map(|n| task(n, prompt(&worker, format!("{n} {}", "y".repeat(5_000))))).collect();
    tasks[1].dependencies = vec![2];
    let joining = Joining::of_plan(existing.clone(), tasks, TaskIndex(1));
    let (expansion, payload) = bench.preparer.prepare_expansion(TenantId(1), joining).await.unwrap();
    assert_eq!(expansion.tasks.len(), 38);
    assert_eq!(expansion.tasks[1].dependencies, [TaskIndex(2)]);
    let all: Vec<u32> = (2..40).collect();
    let (index, rewired) = &expansion.rewired[0];
    assert_eq!((index.0, rewired.iter().map(|index| index.0).collect::<Vec<_>>()), (1, all.clone()));
    let SpecRecords::Pages(pages) = &payload.records else { panic!() };
    assert_eq!((pages.len(), payload.pages.len()), (2, 2), "all pages of the run");
    let specs = bench.read_back(&payload);
    assert_eq!((specs.len(), &specs[0]), (40, &existing[0]));
    assert_eq!(specs[1], StoredSpec { dependencies: all, ..existing[1].clone() });
    let context = |spec: &StoredSpec| match &spec.runner {
        Some(record::stored_spec::Runner::Worker(task)) => task.context_files.clone(),
        _ => None,
    };
    assert!(specs.iter().all(|spec| context(spec).is_some() && context(spec) == context(&specs[0])));
    for (spec, new) in specs.iter().skip(2).zip(&expansion.tasks) {
        let restored = decode::new_task(spec, &mut Interner::default()).unwrap();
        assert_eq!(format!("{restored:?}"), format!("{new:?}"), "after a restart the core sees the same");
    }
}

#[tokio::test]
async fn a_conversation_that_goes_on_keeps_its_context_and_not_that_of_the_run() {
    let bench = Bench::new();
    let begun_with = with_context(prompts(1, 1), "as it was").context;
    let continuing = |context| {
        let mut task = task(1, prompt(&pinned("anga"), "more".into()));
        let CheckedRunner::Worker(worker) = &mut task.runner else { panic!() };
        worker.continues = Some(crate::submission::Continued {
            task: v1::TaskId { run_id: 9, task_index: 4 },
            session_id: "s".into(),
            context,
        });
        task
    };
    let mut both = with_context(prompts(1, 1), "of the run");
    both.tasks.push(continuing(begun_with));
    both.tasks.push(continuing(None));
    let (_, payload) = bench.prepare(both).await;
    let texts = bench.read_back(&payload).into_iter().map(|spec| match spec.runner {
        Some(record::stored_spec::Runner::Worker(task)) => {
            let Some(v1::text::Body::Blob(blob)) = task.context_files.and_then(|text| text.body) else {
                return (task.session_id, String::new());
            };
            let text = bulk::read(&*bench.blobs, Tenant::DEFAULT, &blob, 1 << 20).unwrap();
            (task.session_id, String::from_utf8(text).unwrap())
        }
        other => panic!("{other:?}"),
    });
    let texts: Vec<_> = texts.collect();
    assert!(texts[0].1.contains("of the run") && texts[0].0.is_empty());
    assert!(texts[1].1.contains("as it was") && texts[1].0 == "s");
    assert!(texts[2].1.is_empty(), "{texts:?}");
}

/// The key of a task of which `change` changed something.
async fn key(change: impl Fn(&mut CheckedRun)) -> Vec<u8> {
    let bench = Bench::new();
    let mut changed = prompts(1, 1);
    changed.tasks[0].cache = true;
    change(&mut changed);
    let (_, payload) = bench.prepare(changed).await;
    bench.read_back(&payload).remove(0).cache_key
}

fn worker_of(run: &mut CheckedRun) -> &mut CheckedWorkerTask {
    let CheckedRunner::Worker(worker) = &mut run.tasks[0].runner else { panic!() };
    worker
}

#[tokio::test]
async fn the_key_of_a_result_is_of_everything_that_decides_it() {
    let plain = key(|_| {}).await;
    assert_eq!((plain.len(), key(|_| {}).await), (32, plain.clone()));
    let others = [
        key(|run| worker_of(run).prompt.push('x')).await,
        key(|run| worker_of(run).model = "opus".into()).await,
        key(|run| worker_of(run).output_schema = "{}".into()).await,
        key(|run| worker_of(run).worker = pinned("marie")).await,
        key(|run| run.context = with_context(prompts(1, 1), "terms").context).await,
        key(|run| run.tasks[0].workspace = "dance".into()).await,
        key(|run| run.tasks[0].gates = Some(v1::Gates { min_tool_calls: 1, ..Default::default() })).await,
        key(|run| run.tasks[0].runner = shell("make", &["ab", "c"])).await,
        key(|run| run.tasks[0].runner = shell("make", &["a", "bc"])).await,
        key(|run| run.tasks[0].runner = shell("make", &["abc"])).await,
        key(|run| run.tasks[0].runner = shell("makeabc", &[])).await,
    ];
    let all: BTreeSet<&Vec<u8>> = others.iter().chain([&plain]).collect();
    assert_eq!(all.len(), others.len() + 1, "each is another work");
    let same = key(|run| {
        let worker = worker_of(run);
        (worker.budget_micro_usd, worker.max_turns) = (Some(1), 3);
        let task = &mut run.tasks[0];
        (task.timeout_ms, task.retries, task.priority) = (1, 9, 9);
        task.id = "other".into();
    });
    assert_eq!(same.await, plain, "how far it may go does not change where to");
    assert!(key(|run| run.tasks[0].cache = false).await.is_empty());
    assert!(key(|run| run.tasks[0].runner = CheckedRunner::Noop).await.is_empty());
}

fn shell(program: &str, args: &[&str]) -> CheckedRunner {
    let args = args.iter().map(|&arg| arg.into()).collect();
    CheckedRunner::Command(v1::CommandTask { program: program.into(), args })
}
