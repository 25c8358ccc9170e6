//! The service on a real engine, as an administrator's request reaches it.

use super::*;
use crate::config::{Config, Flags};
use crate::engine::tests::support::Bench;
use crate::prompts::Catalogue;
use crate::rpc::auth::DEFAULT_TENANT;
use crate::workers::WorkersInForce;
use orch_certs::{Ca, Identity, LeafRequest, Role};
use orch_proto::codes::ErrorCode;
use std::path::Path;
use tonic_types::StatusExt as _;

struct Served {
    admin: Admin,
    registry: Arc<Registry>,
    prompts: tempfile::TempDir,
    bench: Bench,
    _certs: tempfile::TempDir,
}

async fn served() -> Served {
    let (bench, certs) = (Bench::start().await, tempfile::tempdir().unwrap());
    let prompts = tempfile::tempdir().unwrap();
    std::fs::create_dir(prompts.path().join("workers")).unwrap();
    let identity = Identity::new("orch.test", Role::Coordinator, "default", "coordinator").unwrap();
    let (ca, _) = Ca::ensure(&certs.path().join("ca"), "orch.test", SystemTime::now()).unwrap();
    let request = LeafRequest::new(identity).hosts(["localhost"]);
    let leaf = ca.ensure_leaf(&certs.path().join("certs"), &request, SystemTime::now()).unwrap();
    let files = leaf.files().clone();
    let flags = Flags {
        tls_ca: Some(files.ca),
        tls_cert: Some(files.cert),
        tls_key: Some(files.key),
        data_dir: Some(certs.path().join("data")),
        prompts: Some(prompts.path().to_path_buf()),
        ..Flags::default()
    };
    let settings = Config::resolve(flags).unwrap();
    let tls = Arc::new(crate::material::load_tls(&settings, SystemTime::now()).unwrap());
    let in_force = Arc::new(WorkersInForce::new(Catalogue::load(&[]).unwrap()));
    let registry = Arc::new(Registry::default());
    let admin = Admin::new(AdminParts {
        engine: bench.handle.clone(),
        registry: Arc::clone(&registry),
        workers: Arc::new(PromptReloads::new(in_force, settings)),
        tls,
        started: Instant::now(),
    });
    Served { admin, registry, prompts, bench, _certs: certs }
}

fn from_ana<T>(message: T) -> Request<T> {
    let identity = Identity::new("orch.test", Role::Admin, "default", "ana").unwrap();
    let mut request = Request::new(message);
    request.extensions_mut().insert(Caller { identity, tenant: DEFAULT_TENANT });
    request
}

fn code(status: &Status) -> String {
    status.get_error_details().error_info().unwrap().metadata["code"].clone()
}

fn named(name: &str) -> v1::GetAgentRequest {
    v1::GetAgentRequest { name: name.into() }
}

#[tokio::test]
async fn a_drained_agent_is_shown_with_who_and_why_until_it_is_resumed() {
    let served = served().await;
    let mut agent = served.bench.agent("box-1", 2, 64).await;
    agent.welcome().await;
    let request = v1::DrainAgentRequest { name: "box-1".into(), reason: "new kernel".into() };
    let drained = served.admin.drain_agent(from_ana(request)).await.unwrap().into_inner().agent.unwrap();
    assert_eq!(drained.state(), AgentState::Draining);
    assert_eq!(drained.detail, "drained by admin/default/ana: new kernel");
    assert_eq!(drained.drain_reason, drained.detail);
    let seen = served.admin.get_agent(from_ana(named("box-1"))).await.unwrap().into_inner().agent.unwrap();
    assert_eq!(seen, drained);
    let request = v1::ResumeAgentRequest { name: "box-1".into() };
    let resumed = served.admin.resume_agent(from_ana(request)).await.unwrap().into_inner().agent.unwrap();
    assert_eq!((resumed.state(), resumed.drain_reason.as_str()), (AgentState::Ready, ""));
    let label =
        v1::LabelAgentRequest { name: "box-1".into(), set: vec!["gpu=yes".into()], ..Default::default() };
    let labelled = served.admin.label_agent(from_ana(label)).await.unwrap().into_inner().agent.unwrap();
    assert_eq!(labelled.labels, ["gpu=yes"]);
    assert!(labelled.capabilities.contains(&"gpu=yes".to_owned()));
}

#[tokio::test]
async fn only_an_agent_that_is_gone_is_forgotten_and_then_nothing_is_known_of_it() {
    let served = served().await;
    let mut agent = served.bench.agent("box-1", 1, 64).await;
    agent.welcome().await;
    served.registry.joined(&v1::Hello { agent: "box-1".into(), version: "9".into(), ..Default::default() });
    let forget = |name: &str| from_ana(v1::ForgetAgentRequest { name: name.into() });
    let status = served.admin.forget_agent(forget("box-1")).await.unwrap_err();
    assert_eq!(code(&status), ErrorCode::WrongState.code());
    assert!(status.message().starts_with("agent box-1 is connected: "), "{}", status.message());
    assert_eq!(
        code(&served.admin.forget_agent(forget("")).await.unwrap_err()),
        ErrorCode::InvalidField.code()
    );
    let ended = Event::SessionEnded { session: agent.session };
    served.bench.handle.apply(ended).await.unwrap();
    served.admin.forget_agent(forget("box-1")).await.unwrap();
    assert_eq!(served.registry.of("box-1"), crate::presence::Presence::default());
    let status = served.admin.forget_agent(forget("box-1")).await.unwrap_err();
    assert_eq!(code(&status), ErrorCode::NotFound.code());
}

#[tokio::test]
async fn an_agent_that_is_not_known_is_not_found_and_the_nearest_is_named() {
    let served = served().await;
    served.bench.agent("box-1", 1, 64).await.welcome().await;
    let status = served.admin.get_agent(from_ana(named("box-2"))).await.unwrap_err();
    assert_eq!(status.message(), "there is no agent `box-2`; did you mean `box-1`?");
    assert_eq!(code(&status), ErrorCode::NotFound.code());
    let help = status.get_error_details().help().unwrap().links[0].description.clone();
    assert_eq!(help, "orchctl agents list");
}

#[tokio::test]
async fn the_status_tells_the_time_the_certificate_and_pools_that_cannot_be_used() {
    let served = served().await;
    let mut agent = served.bench.agent("box-1", 1, 64).await;
    agent.welcome().await;
    let pool = |agent: &str, name: &str, health: v1::PoolHealth, detail: &str| {
        let pool = v1::Pool {
            name: name.into(),
            health: health.into(),
            detail: detail.into(),
            ..Default::default()
        };
        served.registry.joined(&v1::Hello { agent: agent.into(), pools: vec![pool], ..Default::default() });
    };
    pool("box-1", "studio", v1::PoolHealth::SignedOut, "orch-agent login --pool studio");
    pool("gone", "other", v1::PoolHealth::Unusable, "");
    let answer = served.admin.get_status(from_ana(GetStatusRequest {})).await.unwrap();
    let status = answer.into_inner().status.unwrap();
    assert_eq!(
        status.attention,
        ["pool studio of agent box-1 is signed out: orch-agent login --pool studio"]
    );
    assert!(status.certificate_expires.unwrap().seconds > status.now.unwrap().seconds);
    let soon = served.admin.tls.expires().unwrap() - Duration::from_secs(3 * 86_400 + 60);
    let line = served.admin.certificate_line(soon).unwrap();
    assert!(line.starts_with("the coordinator's certificate expires in 3 days: "), "{line}");
    assert_eq!(served.admin.certificate_line(SystemTime::now()), None);
}

fn worker(name: &str, more: &str) -> String {
    format!("---\nname: {name}\ndescription: d\nmodel: sonnet\ntools: [Read]\n{more}---\nDo it.\n")
}

fn put(dir: &Path, path: &str, text: &str) {
    std::fs::create_dir_all(dir.join(path).parent().unwrap()).unwrap();
    std::fs::write(dir.join(path), text).unwrap();
}

async fn reload(served: &Served) -> v1::ReloadWorkersResponse {
    served.admin.reload_workers(from_ana(v1::ReloadWorkersRequest {})).await.unwrap().into_inner()
}

#[tokio::test]
async fn a_reload_says_what_changed_and_with_a_mistake_changes_nothing() {
    let served = served().await;
    let dir = served.prompts.path();
    put(dir, "workers/nadia.md", &worker("nadia", "context_files: [terms.md]\n"));
    put(dir, "context/terms.md", "One.");
    let first = reload(&served).await;
    assert_eq!(
        (first.added, first.changed, first.removed),
        (vec!["nadia".into()], vec!["orchestrator".into()], vec![])
    );
    put(dir, "context/terms.md", "Two.");
    let second = reload(&served).await;
    assert_eq!((second.added.len(), second.changed), (0, vec!["nadia".to_owned()]));
    let request = v1::GetWorkerRequest { name: "nadia".into() };
    let shown = served.admin.get_worker(from_ana(request.clone())).await.unwrap().into_inner();
    let (listed, definition) = (shown.worker.unwrap(), shown.definition.unwrap());
    assert_eq!(listed.context_files, ["terms.md"]);
    assert!(listed.source.ends_with("workers/nadia.md"), "{}", listed.source);
    assert!(definition.system_prompt.ends_with("## terms.md\n\nTwo.\n"));
    put(dir, "workers/nadia.md", &worker("nadia", "modle: opus\n"));
    let third = reload(&served).await;
    let [problem] = third.problems.as_slice() else { panic!("{third:?}") };
    assert_eq!((problem.line, problem.column, problem.message.as_str()), (6, 1, "unknown key `modle`"));
    assert_eq!(problem.help, "did you mean `model`?");
    assert!(served.admin.get_worker(from_ana(request)).await.is_ok(), "the old ones stay in force");
    std::fs::remove_file(dir.join("workers/nadia.md")).unwrap();
    assert_eq!(reload(&served).await.removed, ["nadia"]);
    let status =
        served.admin.get_worker(from_ana(v1::GetWorkerRequest { name: "anja".into() })).await.unwrap_err();
    assert_eq!(status.message(), "there is no worker `anja`; did you mean `anga`?");
}

#[tokio::test]
async fn files_are_checked_over_what_is_in_force_and_nothing_is_kept() {
    let served = served().await;
    let check = async |files: &[(&str, String)]| {
        let file = |(path, text): &(&str, String)| v1::PromptFile {
            path: (*path).to_owned(),
            content: text.as_bytes().to_vec(),
        };
        let files = files.iter().map(file).collect();
        served.admin.validate_workers(from_ana(v1::ValidateWorkersRequest { files })).await
    };
    let good = check(&[("workers/n.md", worker("nadia", "pool: studio\n"))]).await.unwrap().into_inner();
    assert!(good.problems.is_empty());
    let names: Vec<_> = good.workers.iter().map(|worker| worker.name.as_str()).collect();
    assert_eq!(names, ["anga", "fabien", "marie", "nadia", "orchestrator"]);
    assert_eq!(good.workers[0].source, "built in");
    assert_eq!(good.workers[3].source, "workers/n.md");
    let bad = [("workers/n.md", worker("nadia", "\u{1b}")), ("settings/s.json", "{".to_owned())];
    let bad = check(&bad).await.unwrap().into_inner();
    assert!(bad.workers.is_empty());
    let said: Vec<_> = bad.problems.iter().map(|found| (found.path.as_str(), found.line)).collect();
    assert_eq!(said, [("workers/n.md", 6), ("settings/s.json", 1)]);
    assert!(bad.problems.iter().all(|found| !found.message.contains('\u{1b}')));
    let huge = check(&[("context/a.md", "x".repeat(901 << 10))]).await.unwrap_err();
    assert_eq!(code(&huge), ErrorCode::TooLarge.code());
    assert!(served.admin.get_worker(from_ana(v1::GetWorkerRequest { name: "nadia".into() })).await.is_err());
}

#[tokio::test]
async fn a_pool_of_a_worker_is_required_of_its_agent() {
    use crate::submission::Workers as _;
    let served = served().await;
    put(served.prompts.path(), "workers/n.md", &worker("nadia", "pool: studio\nrequires:\n  gpu: yes\n"));
    reload(&served).await;
    let pinned = served.admin.workers.in_force().worker("nadia").unwrap();
    assert_eq!(pinned.requires.iter().collect::<Vec<_>>(), ["gpu=yes", "pool=studio"]);
}
