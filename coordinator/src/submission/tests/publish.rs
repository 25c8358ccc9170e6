//! Publications: what may go where.

use super::*;

fn file(artifact: &str, to: &str) -> v1::Publication {
    v1::Publication { artifact: artifact.into(), to: to.into(), replace: false }
}

fn publishing(id: &str, files: Vec<v1::Publication>) -> v1::TaskSpec {
    v1::TaskSpec { publish: files, ..worker_task(id, "write it", &[]) }
}

fn spec(tasks: Vec<v1::TaskSpec>) -> v1::RunSpec {
    v1::RunSpec { tasks, workspace: "dance".into(), ..Default::default() }
}

fn refused_to(to: &str) -> String {
    let spec = spec(vec![publishing("a", vec![file("x.md", "ok.md"), file("x.md", to)])]);
    run_refused(spec, ErrorCode::InvalidPublication, "tasks[0].publish[1].to")
}

#[test]
fn a_publication_is_a_task_of_its_own_in_an_agent_that_offers_the_workspace() {
    let files = vec![file("evaluation.md", "students/{task}/evaluation_{date}_{run}.md")];
    let mut pinned = publishing("emma", files);
    pinned.agent = "north".into();
    let tasks = check_run(spec(vec![pinned, worker_task("b", "x", &["emma"])])).unwrap().tasks;
    let publish = &tasks[2];
    assert_eq!(
        (publish.id.as_str(), publish.role, publish.of),
        ("emma.publish", v1::TaskRole::Publish, Some(0))
    );
    assert_eq!((&*publish.dependencies, publish.agent.as_deref()), (&[0][..], Some("north")));
    let needs = publish.requires.iter().map(String::as_str).collect::<Vec<_>>();
    assert_eq!(needs, ["runner=publish", "workspace=dance"]);
    let CheckedRunner::Publish(stored) = &publish.runner else { panic!("{publish:?}") };
    assert_eq!(stored.workspace, "dance");
    assert_eq!(stored.files, [file("evaluation.md", "students/emma/evaluation_2026-03-09_{run}.md")]);
    let path = super::super::publish::final_path(&stored.files[0].to, 41);
    assert_eq!(path, "students/emma/evaluation_2026-03-09_41.md");
    assert_eq!(tasks[1].dependencies, [0], "what waited for the task does not wait for its files");
}

#[test]
fn a_publication_needs_a_workspace_and_something_to_publish() {
    let task = publishing("a", vec![file("a.md", "a.md")]);
    refused(vec![task], ErrorCode::WorkspaceMissing, "tasks[0].publish");
    let nothing = v1::TaskSpec { publish: vec![file("a.md", "a.md")], ..noop("a") };
    run_refused(spec(vec![nothing]), ErrorCode::InvalidPublication, "tasks[0].publish");
    let many = publishing("a", (0..33).map(|at| file("a.md", &format!("{at}.md"))).collect());
    run_refused(spec(vec![many]), ErrorCode::TooLarge, "tasks[0].publish");
    let script = v1::TaskSpec { publish: vec![file("a.md", "a.md")], ..command("a", "make", &[]) };
    assert_eq!(check_run(spec(vec![script])).unwrap().tasks.len(), 2);
}

#[test]
fn files_stay_beneath_the_workspace() {
    let long = format!("{}/x", "d/".repeat(520));
    for to in [
        "",
        "/etc/passwd",
        "../up",
        "a/../b",
        "a/./b",
        "a//b",
        "a/",
        "a\0b",
        "a\nb",
        "\u{1b}[2J",
        &long,
        "..",
    ] {
        let message = refused_to(to);
        assert!(!message.contains('\u{1b}') && message.len() < 400, "{message:?}");
    }
    for to in
        [".orch", ".orch/journal", "a/.orch-tmp", "a/.ORCH", ".git/config", "a/.GIT/hooks/x", "b/.Claude"]
    {
        assert!(refused_to(to).contains("nobody publishes there"), "{to}");
    }
    for to in ["{student}.md", "{", "a}", "{date", "{run}{"] {
        assert!(refused_to(to).contains("{date}"), "{to}");
    }
    for artifact in ["", "/abs", "../x", "a\0", "a/../../b"] {
        let spec = spec(vec![publishing("a", vec![file(artifact, "ok.md")])]);
        run_refused(spec, ErrorCode::InvalidPublication, "tasks[0].publish[0].artifact");
    }
    // The number of the run takes room that is not there yet.
    let tight = format!("{}{}", "d/".repeat(505), "{run}{run}");
    assert!(refused_to(&tight).contains("at most"), "{tight}");
}

#[test]
fn no_two_publications_of_a_run_go_to_one_place() {
    let clash = |left: &str, right: &str| {
        check_run(spec(vec![
            publishing("a", vec![file("x.md", left)]),
            noop("n"),
            publishing("b", vec![file("y.md", "other.md"), file("x.md", right)]),
        ]))
    };
    for (left, right) in [
        ("r.md", "r.md"),
        ("r-{date}.md", "r-2026-03-09.md"),
        ("{task}.md", "a.md"),
        ("r-{run}.md", "r-{run}.md"),
        ("r-{run}.md", "r-7.md"),
        ("r-7.md", "r-{run}.md"),
        ("dir", "dir/r.md"),
        ("dir/r.md", "dir"),
    ] {
        let error = clash(left, right).expect_err(right);
        assert_eq!(error.code, ErrorCode::InvalidPublication, "{left} {right}");
        assert!(error.field.ends_with(".to"), "{error}");
    }
    let error = clash("r.md", "r.md").unwrap_err();
    assert_eq!(
        (error.field.as_str(), error.message.as_str()),
        ("tasks[2].publish[1].to", "`r.md` is where tasks[0].publish[0] goes")
    );
    for (left, right) in
        [("{task}.md", "{task}.md"), ("r-{run}.md", "r-07.md"), ("r", "r.md"), ("a/r", "b/r")]
    {
        assert!(clash(left, right).is_ok(), "{left} {right}");
    }
    let elsewhere =
        v1::TaskSpec { workspace: "studio".into(), ..publishing("b", vec![file("x.md", "r.md")]) };
    check_run(spec(vec![publishing("a", vec![file("x.md", "r.md")]), elsewhere])).unwrap();
}

#[test]
fn very_many_paths_that_look_alike_are_refused_and_not_compared_for_ever() {
    let alike =
        |at: usize| publishing(&format!("t{at}"), vec![file("x", &format!("{}{{run}}", "1".repeat(at)))]);
    check_run(spec((0..16).map(alike).collect())).unwrap();
    let error = check_run(spec((0..17).map(alike).collect())).unwrap_err();
    assert!(error.message.contains("differ only in digits"), "{error}");
}
