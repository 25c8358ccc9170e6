//! Inputs on their way down, files on their way up, workspaces and publications: an agent against a coordinator that
//! keeps bytes.

use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

use orch_agent::daemon::Supplies;
use orch_agent::inputs;
use orch_agent::publish::journal::Journal;
use orch_agent::runner::Workspace;
use orch_agent::runner::publish::PublishRunner;
use orch_agent::workspaces::Workspaces;
use prost::Message as _;

use super::*;
use crate::blobs::Mood;

/// Writes what it is asked to under `out/` and says what it was given.
#[derive(Debug)]
struct Maker(PathBuf);

impl Runner for Maker {
    fn name(&self) -> &'static str {
        "command"
    }

    fn run(&self, spec: AttemptSpec, _link: AttemptLink) -> RunFuture<'_> {
        Box::pin(async move {
            let Work::Command(work) = &spec.work else { panic!("{spec:?}") };
            let dir = self.0.join(format!("tasks-of-maker/{}", spec.key.task));
            for sub in ["work", "aside", "out"] {
                fs::create_dir_all(dir.join(sub)).unwrap();
            }
            inputs::place(&dir.join("work"), &dir.join("aside"), &spec.inputs).unwrap();
            for (name, bytes) in work.args.iter().filter_map(|arg| arg.split_once('=')) {
                let path = dir.join("out").join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, bytes).unwrap();
            }
            let mut report = AttemptReport::of(Outcome::Ok, "");
            report.answer = Some(inputs::section(&spec.inputs));
            report.structured = spec.workspace.map(|workspace| workspace.dir.display().to_string());
            report.artifacts_from = Some(dir.join("out"));
            report
        })
    }
}

fn start(data: &Path, coordinator: &Coordinator) -> Agent {
    let studio = data.join("studio");
    let workspaces = if studio.is_dir() {
        Workspaces::new(vec![Workspace { name: "dance".into(), dir: studio }])
    } else {
        Workspaces::default()
    };
    let data = data.join("data");
    let homes = Arc::new(Homes::open(&data).unwrap());
    let journal = Journal::open(&data.join("published"), &workspaces, SystemTime::now()).unwrap();
    let supplies = Supplies::open(&data, workspaces).unwrap();
    let (spool, _) = FileSpool::open(&data.join("spool"), &boot_id()).unwrap();
    let runners = Runners::new(None, Some(Arc::new(Maker(data.clone()))))
        .supplied(supplies, Some(Arc::new(PublishRunner::new(journal))));
    let parts = Parts {
        identity: Identity { name: "box-1".to_owned(), incarnation: [7; 16], host: "host".to_owned() },
        offer: Offer { slots: 2, ..Offer::default() },
        coordinators: Coordinators::new(std::slice::from_ref(&coordinator.url), Arc::new(Plain)).unwrap(),
        runners,
        pools: Pools::default(),
        homes,
        spool: Box::new(spool),
        host: HostProbe::new(data),
        limits: Broker::default(),
        status: StatusFile::new(None, "box-1"),
        seed: quick_seed(),
    };
    let daemon = Daemon::new(parts);
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let mut running = JoinSet::new();
    running.spawn(async move { daemon.run(stopped).await.unwrap() });
    Agent { stop, daemon: running }
}

fn make(task: u32, files: &[&str]) -> v1::Assignment {
    let args = files.iter().map(|&file| file.to_owned()).collect();
    let runner = v1::assignment::Runner::Command(v1::CommandTask { program: "make".into(), args });
    match assign(task, runner) {
        Item::Assign(assignment) => assignment,
        other => panic!("{other:?}"),
    }
}

async fn full_report(session: &mut Session) -> v1::Report {
    loop {
        match session.next().await {
            Said::Report(report) => return report,
            Said::Accepted(_) => {}
            other => panic!("a report was awaited: {other:?}"),
        }
    }
}

fn manifest(coordinator: &Coordinator, report: &v1::Report) -> v1::Manifest {
    let blob = report.artifacts.as_ref().unwrap().manifest.as_ref().unwrap();
    v1::Manifest::decode(coordinator.blobs.get(blob).unwrap().as_slice()).unwrap()
}

#[tokio::test]
async fn files_are_stored_before_the_report_that_speaks_of_them_and_then_forgotten() {
    let data = tempfile::tempdir().unwrap();
    let mut coordinator = Coordinator::start().await;
    let agent = start(data.path(), &coordinator);
    let mut session = coordinator.welcomed(EPOCH).await;
    session.say([Item::Assign(make(1, &["a/report.md=good", "copy.md=good"]))]).await;
    let report = full_report(&mut session).await;
    assert_eq!((report.outcome(), report.detail.as_str()), (Outcome::Ok, ""));
    let artifacts = report.artifacts.as_ref().unwrap();
    assert_eq!((artifacts.count, artifacts.bytes), (2, 8));
    let manifest = manifest(&coordinator, &report);
    for (file, path) in manifest.artifacts.iter().zip(["a/report.md", "copy.md"]) {
        assert_eq!(file.path, path);
        assert_eq!(coordinator.blobs.get(file.blob.as_ref().unwrap()).unwrap(), b"good");
    }
    let list = manifest.encoded_len() as u64;
    assert_eq!(*coordinator.blobs.received.lock().unwrap(), 4 + list, "equal bytes are sent once");
    let kept = data.path().join("data/handed/7-1-1");
    assert!(kept.exists(), "it is kept until the report is answered");
    session.say([recorded(1)]).await;
    until_nothing_is_listed(&mut session).await;
    becomes(|| !kept.exists()).await;
    session.say([Item::Assign(make(2, &["again.md=good"]))]).await;
    let sent = *coordinator.blobs.received.lock().unwrap();
    let report = full_report(&mut session).await;
    let list = manifest_length(&coordinator, &report);
    assert_eq!(*coordinator.blobs.received.lock().unwrap(), sent + list, "what is stored is not sent");
    agent.killed().await;
}

fn manifest_length(coordinator: &Coordinator, report: &v1::Report) -> u64 {
    manifest(coordinator, report).encoded_len() as u64
}

async fn becomes(mut done: impl FnMut() -> bool) {
    let wait = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("it comes true");
}

#[tokio::test]
async fn heartbeats_go_on_while_files_are_sent() {
    let data = tempfile::tempdir().unwrap();
    let mut coordinator = Coordinator::start().await;
    coordinator.blobs.mood.send_replace(Mood::Waiting);
    let agent = start(data.path(), &coordinator);
    let mut session = coordinator.welcomed(EPOCH).await;
    session.say([Item::Assign(make(1, &["a.md=x"]))]).await;
    becomes(|| data.path().join("data/handed/7-1-1/manifest").exists()).await;
    for _ in 0..10 {
        assert_eq!(session.heartbeat().await.held.len(), 1);
    }
    coordinator.blobs.mood.send_replace(Mood::Well);
    assert_eq!(full_report(&mut session).await.outcome(), Outcome::Ok);
    agent.killed().await;
}

#[tokio::test]
async fn an_agent_that_dies_before_its_files_are_stored_stores_them_after_it_came_back() {
    let data = tempfile::tempdir().unwrap();
    let mut coordinator = Coordinator::start().await;
    let agent = start(data.path(), &coordinator);
    let mut session = coordinator.welcomed(EPOCH).await;
    session.say([Item::Assign(make(1, &["a.md=x"]))]).await;
    let first = full_report(&mut session).await;
    agent.killed().await;
    drop(session);
    coordinator.blobs.mood.send_replace(Mood::Refusing);
    let agent = start(data.path(), &coordinator);
    let mut session = coordinator.welcomed(EPOCH).await;
    assert_eq!(inventory(&session), [(1, v1::HeldState::Finished)]);
    coordinator.blobs.mood.send_replace(Mood::Well);
    let again = full_report(&mut session).await;
    assert_eq!(again, first, "the same report, digest and all");
    assert_eq!(manifest(&coordinator, &again).artifacts.len(), 1);
    agent.killed().await;
}

#[tokio::test]
async fn an_attempt_whose_files_were_lost_is_lost() {
    let data = tempfile::tempdir().unwrap();
    let mut coordinator = Coordinator::start().await;
    coordinator.blobs.mood.send_replace(Mood::Refusing);
    let agent = start(data.path(), &coordinator);
    let mut session = coordinator.welcomed(EPOCH).await;
    session.say([Item::Assign(make(1, &["a.md=x"]))]).await;
    let kept = data.path().join("data/handed/7-1-1");
    becomes(|| kept.join("manifest").exists()).await;
    session.heartbeat().await;
    agent.killed().await;
    drop(session);
    let file =
        fs::read_dir(&kept).unwrap().map(|one| one.unwrap().path()).find(|path| !path.ends_with("manifest"));
    fs::write(file.unwrap(), "y").unwrap();
    coordinator.blobs.mood.send_replace(Mood::Well);
    let agent = start(data.path(), &coordinator);
    let mut session = coordinator.welcomed(EPOCH).await;
    let report = full_report(&mut session).await;
    assert_eq!(report.outcome(), Outcome::LostAgent, "{}", report.detail);
    assert!(report.artifacts.is_none());
    agent.killed().await;
}

#[tokio::test]
async fn too_much_handed_over_ends_it_and_nothing_is_stored() {
    let data = tempfile::tempdir().unwrap();
    let mut coordinator = Coordinator::start().await;
    let agent = start(data.path(), &coordinator);
    let mut session = coordinator.welcomed(EPOCH).await;
    let out = data.path().join("data/tasks-of-maker/1/out");
    fs::create_dir_all(&out).unwrap();
    fs::File::create(out.join("huge")).unwrap().set_len(1 << 40).unwrap();
    session.say([Item::Assign(make(1, &["a.md=x"]))]).await;
    let report = full_report(&mut session).await;
    assert_eq!(report.outcome(), Outcome::LimitOutput);
    assert!(report.detail.contains("out/huge has 1024.0 GiB"), "{}", report.detail);
    assert!(report.artifacts.is_none() && *coordinator.blobs.received.lock().unwrap() == 0);
    agent.killed().await;
}

fn input(coordinator: &Coordinator, id: &str) -> v1::Input {
    let blob = coordinator.blobs.put(&[b'x'; 5_000]);
    let file = coordinator.blobs.put(b"turns");
    let manifest = v1::Manifest {
        artifacts: vec![v1::Artifact { path: "deep/notes.md".into(), blob: Some(file), executable: false }],
    };
    let manifest = coordinator.blobs.put(&manifest.encode_to_vec());
    let mut input = v1::Input {
        task_id: id.into(),
        worker: "marie".into(),
        summary: "Good.".into(),
        ..Default::default()
    };
    input.set_state(v1::TaskState::Succeeded);
    input.set_outcome(Outcome::Ok);
    input.answer = Some(v1::Text { body: Some(v1::text::Body::Blob(blob)) });
    input.artifacts = Some(v1::Artifacts { manifest: Some(manifest), count: 1, bytes: 5 });
    input
}

#[tokio::test]
async fn inputs_arrive_whole_inline_or_as_bulk_and_their_copies_go_with_the_attempt() {
    let data = tempfile::tempdir().unwrap();
    let mut coordinator = Coordinator::start().await;
    let agent = start(data.path(), &coordinator);
    let mut session = coordinator.welcomed(EPOCH).await;
    let inputs = vec![input(&coordinator, "emma"), input(&coordinator, "liam")];
    let set = coordinator.blobs.put(&v1::InputSet { inputs: inputs.clone() }.encode_to_vec());
    let inline = v1::Assignment { inputs, ..make(1, &[]) };
    let bulk = v1::Assignment { inputs_blob: Some(set), ..make(2, &[]) };
    let mut told = Vec::new();
    for (task, assignment) in [(1, inline), (2, bulk)] {
        session.say([Item::Assign(assignment)]).await;
        let report = full_report(&mut session).await;
        assert_eq!((report.outcome(), report.detail.as_str()), (Outcome::Ok, ""));
        told.push(report.answer);
        let at = data.path().join(format!("data/tasks-of-maker/{task}/work/inputs"));
        for id in ["emma", "liam"] {
            assert_eq!(fs::read(at.join(id).join("result.md")).unwrap(), [b'x'; 5_000]);
            assert_eq!(fs::read(at.join(id).join("artifacts/deep/notes.md")).unwrap(), b"turns");
        }
    }
    assert_eq!(told[0], told[1], "however they came, the prompt is the same");
    assert_eq!(fs::read_dir(data.path().join("data/fetched")).unwrap().count(), 0);
    agent.killed().await;
}

#[tokio::test]
async fn inputs_that_lie_or_are_too_much_end_it_with_a_reason() {
    let data = tempfile::tempdir().unwrap();
    let mut coordinator = Coordinator::start().await;
    let agent = start(data.path(), &coordinator);
    let mut session = coordinator.welcomed(EPOCH).await;
    let good = input(&coordinator, "emma");
    let with = |change: &dyn Fn(&mut v1::Input)| {
        let mut input = good.clone();
        change(&mut input);
        input
    };
    let listing = |path: &str, size: u64| {
        let mut blob = coordinator.blobs.put(b"turns");
        blob.size = size;
        let artifact = v1::Artifact { path: path.into(), blob: Some(blob), executable: false };
        let list = coordinator.blobs.put(&v1::Manifest { artifacts: vec![artifact] }.encode_to_vec());
        Some(v1::Artifacts { manifest: Some(list), count: 1, bytes: 5 })
    };
    let cases = [
        (
            with(&|input| input.artifacts.as_mut().unwrap().bytes = 3 << 30),
            Outcome::LimitOutput,
            "may be given 2.0 GiB",
        ),
        (
            with(&|input| input.task_id = "../x".into()),
            Outcome::SpawnFailed,
            "no name that can be a directory's",
        ),
        (with(&|input| input.artifacts = listing("../../x", 5)), Outcome::SpawnFailed, "cannot be read"),
        (with(&|input| input.artifacts = listing("x", 3 << 30)), Outcome::SpawnFailed, "cannot be read"),
        (
            with(&|input| input.artifacts = listing("x", 4)),
            Outcome::SpawnFailed,
            "the digest that was promised",
        ),
    ];
    for (task, (input, outcome, said)) in (1..).zip(cases) {
        session.say([Item::Assign(v1::Assignment { inputs: vec![input], ..make(task, &[]) })]).await;
        let report = full_report(&mut session).await;
        assert_eq!(report.outcome(), outcome, "{said}: {}", report.detail);
        assert!(report.detail.contains(said), "{said}: {}", report.detail);
        session.say([recorded(task)]).await;
    }
    assert_eq!(fs::read_dir(data.path().join("data/fetched")).unwrap().count(), 0);
    agent.killed().await;
}

#[tokio::test]
async fn an_earlier_result_is_used_only_where_the_workspace_is_as_it_was() {
    let data = tempfile::tempdir().unwrap();
    fs::create_dir(data.path().join("studio")).unwrap();
    fs::write(data.path().join("studio/class.md"), "x").unwrap();
    let mut coordinator = Coordinator::start().await;
    let agent = start(data.path(), &coordinator);
    let mut session = coordinator.welcomed(EPOCH).await;
    let shown = |task, reuse: Vec<v1::Reuse>| {
        Item::Assign(v1::Assignment { workspace: "dance".into(), reuse, ..make(task, &["a=b"]) })
    };
    session.say([shown(1, Vec::new())]).await;
    let first = full_report(&mut session).await;
    assert_eq!((first.reused, first.tree.len()), (false, 32));
    let reuse = || vec![v1::Reuse { r#ref: "r/1/a".into(), tree: first.tree.clone() }];
    session.say([shown(2, reuse())]).await;
    let second = full_report(&mut session).await;
    assert_eq!((second.reused, second.outcome(), &second.tree), (true, Outcome::Ok, &first.tree));
    assert!(second.artifacts.is_none() && second.answer.is_none() && second.detail.contains("r/1/a"));
    fs::write(data.path().join("studio/class.md"), "y").unwrap();
    session.say([shown(3, reuse())]).await;
    let third = full_report(&mut session).await;
    assert!(!third.reused && third.tree != first.tree && third.artifacts.is_some());
    // What changes while it runs is no state that it saw.
    let changing =
        Item::Assign(v1::Assignment { workspace: "dance".into(), ..make(6, &["../../../../studio/new=x"]) });
    session.say([changing]).await;
    let changed = full_report(&mut session).await;
    assert_eq!((changed.outcome(), changed.tree.len()), (Outcome::Ok, 0));
    // Without a workspace empty equals empty, and nothing else does.
    for (task, tree, reused) in [(4, Vec::new(), true), (5, vec![7; 32], false)] {
        let reuse = vec![v1::Reuse { r#ref: "r/1/a".into(), tree }];
        session.say([Item::Assign(v1::Assignment { reuse, ..make(task, &[]) })]).await;
        assert_eq!(full_report(&mut session).await.reused, reused);
    }
    agent.killed().await;
}

#[tokio::test]
async fn a_workspace_that_vanished_is_a_failure_to_start_and_a_warning() {
    let data = tempfile::tempdir().unwrap();
    let studio = data.path().join("studio");
    fs::create_dir(&studio).unwrap();
    let mut coordinator = Coordinator::start().await;
    let agent = start(data.path(), &coordinator);
    let mut session = coordinator.welcomed(EPOCH).await;
    let shown = |task, name: &str| Item::Assign(v1::Assignment { workspace: name.into(), ..make(task, &[]) });
    session.say([shown(1, "music")]).await;
    match session.next().await {
        Said::Rejected(rejected) => assert_eq!(rejected.reason, "this agent offers no workspace \"music\""),
        other => panic!("{other:?}"),
    }
    fs::remove_dir(&studio).unwrap();
    session.say([shown(2, "dance")]).await;
    let (mut report, mut facts) = (None, None);
    while report.is_none() || facts.is_none() {
        match session.next().await {
            Said::Report(said) => report = Some(said),
            Said::Facts(said) => facts = Some(said),
            Said::Accepted(_) => {}
            other => panic!("{other:?}"),
        }
    }
    let report = report.unwrap();
    assert_eq!(report.outcome(), Outcome::SpawnFailed);
    assert!(report.detail.contains("is not there any more"), "{}", report.detail);
    assert!(facts.unwrap().warnings[0].starts_with("workspace dance: "));
    agent.killed().await;
}

#[tokio::test]
async fn a_publication_lands_in_the_workspace_once() {
    let data = tempfile::tempdir().unwrap();
    fs::create_dir(data.path().join("studio")).unwrap();
    let mut coordinator = Coordinator::start().await;
    let agent = start(data.path(), &coordinator);
    let mut session = coordinator.welcomed(EPOCH).await;
    let publish = |task, to: &str, blob| {
        let file = v1::PublishFile { to: to.into(), blob, replace: true, artifact: "report.md".into() };
        let work = v1::PublishAssignment { workspace: "dance".into(), files: vec![file] };
        assign(task, v1::assignment::Runner::Publish(work))
    };
    let blob = Some(coordinator.blobs.put(b"the report"));
    session.say([publish(1, "students/emma.md", blob.clone())]).await;
    let report = full_report(&mut session).await;
    assert_eq!((report.outcome(), report.detail.as_str()), (Outcome::Ok, ""));
    let target = data.path().join("studio/students/emma.md");
    assert_eq!(fs::read(&target).unwrap(), b"the report");
    assert!(report.tree.is_empty(), "nothing reads what it changes");
    // The report was lost with the agent, and a person has changed the file.
    fs::write(&target, "mine").unwrap();
    let again = match publish(1, "students/emma.md", blob) {
        Item::Assign(mut assignment) => {
            assignment.attempt.as_mut().unwrap().attempt = 2;
            Item::Assign(assignment)
        }
        other => panic!("{other:?}"),
    };
    session.say([recorded(1), again]).await;
    assert_eq!(full_report(&mut session).await.detail, "1 of 1 files were there already");
    assert_eq!(fs::read(&target).unwrap(), b"mine");
    session.say([publish(3, "x.md", None)]).await;
    let missing = full_report(&mut session).await;
    assert_eq!(missing.outcome(), Outcome::GateFailed);
    assert!(missing.detail.contains("handed over no file out/report.md"), "{}", missing.detail);
    agent.killed().await;
}
