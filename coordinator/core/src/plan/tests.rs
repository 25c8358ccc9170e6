//! The plan compiler, one test for each rule in the words that a planner reads, and what holds for every plan.
//! Knows the messages exactly; refuses to know how they are found.

use super::*;
use proptest::prelude::*;

fn set(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn catalogue() -> Catalogue {
    let workers = [("anga", &[][..]), ("fabien", &["gpu=yes"][..]), ("marie", &[][..])]
        .map(|(name, needs)| (name.to_owned(), set(needs)));
    Catalogue {
        planner: "orchestrator".to_owned(),
        workers: workers.into(),
        everywhere: set(&["runner=claude", "workspace=dance"]),
        publication: Some(set(&["runner=publish", "workspace=dance"])),
        offers: vec![
            set(&["runner=claude", "runner=publish", "workspace=dance"]),
            set(&["runner=claude", "gpu=yes"]),
        ],
        taken: set(&["plan", "synthesis"]),
    }
}

fn draft(id: &str, dependencies: &[&str]) -> Draft {
    Draft {
        id: id.to_owned(),
        worker: "marie".to_owned(),
        description: format!("Do what {id} says."),
        dependencies: dependencies.iter().map(|name| (*name).to_owned()).collect(),
        ..Draft::default()
    }
}

fn publishing(id: &str, to: &str) -> Draft {
    let publications = vec![DraftPublication { artifact: "evaluation.md".to_owned(), to: to.to_owned() }];
    let artifacts = vec!["evaluation.md".to_owned()];
    Draft { artifacts, publications, ..draft(id, &[]) }
}

fn said(drafts: &[Draft]) -> Vec<String> {
    said_by(drafts, &catalogue(), &Limits::default())
}

fn said_by(drafts: &[Draft], catalogue: &Catalogue, limits: &Limits) -> Vec<String> {
    let problems = compile(drafts, catalogue, limits).expect_err("a plan with problems");
    problems.iter().map(ToString::to_string).collect()
}

#[test]
fn a_good_plan_is_ordered_with_its_depth_and_cost() {
    let mut drafts = [draft("join", &["b", "a"]), draft("b", &["a"]), draft("a", &[]), draft("alone", &[])];
    drafts[1].expected_cost_micro_usd = 250_000;
    drafts[3].expected_cost_micro_usd = 1;
    let compiled = compile(&drafts, &catalogue(), &Limits::default()).unwrap();
    assert_eq!(compiled, Compiled { order: vec![2, 1, 0, 3], depth: 3, expected_cost_micro_usd: 250_001 });
}

#[test]
fn an_empty_plan_says_what_to_do_instead() {
    let wanted =
        "the plan has no task: give at least one, or say in `missing` what only the requester can give";
    assert_eq!(said(&[]), [wanted]);
}

#[test]
fn a_cycle_is_named_with_its_path() {
    let drafts = [draft("a", &["c"]), draft("b", &["a"]), draft("c", &["b"]), draft("d", &["a"])];
    let wanted = "tasks wait for each other: a -> c -> b -> a; take one of these dependencies away";
    assert_eq!(said(&drafts), [wanted]);
    let wanted = "tasks wait for each other: a -> a; take one of these dependencies away";
    assert_eq!(said(&[draft("a", &["a"])]), [wanted]);
}

#[test]
fn two_hundred_tasks_against_fifty_are_refused_with_both_figures() {
    let drafts: Vec<Draft> = (0..200).map(|at| draft(&format!("t{at}"), &[])).collect();
    let limits = Limits { max_tasks: 50, ..Limits::default() };
    let wanted =
        "the plan has 200 tasks, at most 50 are allowed: merge tasks, or plan only what matters most";
    assert_eq!(said_by(&drafts, &catalogue(), &limits), [wanted]);
    assert!(compile(&drafts[..50], &catalogue(), &limits).is_ok());
}

#[test]
fn an_unknown_worker_comes_with_the_nearest_and_the_list() {
    let drafts = [
        Draft { worker: "mary".to_owned(), ..draft("a", &[]) },
        Draft { worker: "mary".to_owned(), ..draft("b", &[]) },
        Draft { reviewer: Some("nobody".to_owned()), ..draft("c", &[]) },
    ];
    assert_eq!(
        said(&drafts),
        [
            "tasks a, b name worker `mary`, which is none of the workers of this request; they are: anga, fabien, marie",
            "task c names worker `nobody`, which is none of the workers of this request; they are: anga, fabien, marie",
        ]
    );
    let near = [Draft { worker: "mariee".to_owned(), ..draft("a", &[]) }];
    assert_eq!(
        said(&near),
        [
            "task a names worker `mariee`, which is none of the workers of this request; did you mean `marie`?; they are: anga, fabien, marie"
        ]
    );
}

#[test]
fn the_planner_neither_works_nor_reviews() {
    let drafts = [
        Draft { worker: "orchestrator".to_owned(), ..draft("a", &[]) },
        Draft { reviewer: Some("orchestrator".to_owned()), ..draft("b", &[]) },
    ];
    let wanted = "tasks a, b name `orchestrator`, which only plans; the workers are: anga, fabien, marie";
    assert_eq!(said(&drafts), [wanted]);
}

#[test]
fn the_authors_worker_may_review() {
    let drafts = [Draft { reviewer: Some("marie".to_owned()), ..draft("a", &[]) }];
    assert!(compile(&drafts, &catalogue(), &Limits::default()).is_ok());
}

#[test]
fn what_no_known_agent_offers_together_is_said_of_worker_and_publication() {
    let drafts = [Draft { worker: "fabien".to_owned(), ..draft("a", &[]) }];
    let wanted = "task a cannot be run: worker `fabien` needs gpu=yes and runner=claude and workspace=dance together, \
                  which no known agent offers";
    assert_eq!(said(&drafts), [wanted]);
    let offers = vec![set(&["runner=claude", "workspace=dance"])];
    let wanted = "task a cannot be run: publishing needs runner=publish and workspace=dance together, which no known \
                  agent offers";
    assert_eq!(
        said_by(&[publishing("a", "x.md")], &Catalogue { offers, ..catalogue() }, &Limits::default()),
        [wanted]
    );
}

#[test]
fn a_dependency_outside_the_plan_comes_with_the_nearest() {
    let drafts = [draft("evaluate-emma", &[]), draft("join", &["evaluate-ema", "other"])];
    assert_eq!(
        said(&drafts),
        [
            "task `join` depends on `evaluate-ema`, which is not in the plan; did you mean `evaluate-emma`?",
            "task `join` depends on `other`, which is not in the plan",
        ]
    );
}

#[test]
fn duplicate_bad_and_taken_ids_are_all_said() {
    let long = "x".repeat(51);
    let drafts = ["a", "a", "", "../up", "plan", "b.review", &long, "\u{1b}[2J"].map(|id| draft(id, &[]));
    let said = said(&drafts);
    let about = |start: &str| said.iter().filter(|line| line.starts_with(start)).count();
    assert!(said.contains(&"2 tasks have the id `a`: give each its own".to_owned()), "{said:#?}");
    assert_eq!(about("the id `plan` is taken") + about("the id `b.review` is taken"), 2, "{said:#?}");
    let bad = ["``", "`../up`", &format!("`{long}`"), "`\\u{1b}[2J`"];
    for id in bad {
        assert_eq!(about(&format!("{id} is not a task id: ")), 1, "{id}: {said:#?}");
    }
    // The two drafts named `a` also ask for the same work.
    assert_eq!(said.len(), 8, "{said:#?}");
}

#[test]
fn a_task_without_words_is_named() {
    let drafts = [Draft { description: " \n".to_owned(), ..draft("a", &[]) }];
    assert_eq!(said(&drafts), ["task `a` has no description: say what is to be done"]);
}

#[test]
fn the_same_work_twice_is_refused_unless_the_material_differs() {
    let words = |id: &str, text: &str, context: &str| Draft {
        description: text.to_owned(),
        context: context.to_owned(),
        ..draft(id, &[])
    };
    let drafts = [words("b", "Evaluate  the student", ""), words("a", "evaluate the\nStudent", "")];
    let wanted = "tasks a, b ask worker `marie` for the same work, word for word: keep one";
    assert_eq!(said(&drafts), [wanted]);
    let other = [words("b", "Evaluate the student", "Emma"), words("a", "Evaluate the student", "Lucas")];
    assert!(compile(&other, &catalogue(), &Limits::default()).is_ok());
}

#[test]
fn two_publications_on_one_path_are_refused_and_task_names_tell_them_apart() {
    let drafts = [publishing("b", "report.md"), publishing("a", "report.md")];
    assert_eq!(said(&drafts), ["`report.md` would be published 2 times, by a, b: one path, one file"]);
    let apart = [publishing("b", "{task}/{date}.md"), publishing("a", "{task}/{date}.md")];
    assert!(compile(&apart, &catalogue(), &Limits::default()).is_ok());
    let way = [publishing("a", "notes"), publishing("b", "notes/one.md")];
    assert_eq!(
        said(&way),
        ["`notes` would be published by `a` as a file, while `notes/one.md` needs it to be a directory"]
    );
}

#[test]
fn publishing_needs_a_workspace() {
    let without = Catalogue { publication: None, ..catalogue() };
    let wanted =
        "task a would publish, but the run has no workspace: leave `publish` out, or submit with a workspace";
    assert_eq!(said_by(&[publishing("a", "x.md")], &without, &Limits::default()), [wanted]);
}

#[test]
fn paths_that_climb_or_name_their_own_directory_are_refused() {
    for (to, why) in [
        ("", "is empty"),
        ("/etc/passwd", "begins with a slash: it counts from its directory"),
        ("students/../../x", "has an empty part, `.` or `..`: write the plain path"),
        ("students//x", "has an empty part, `.` or `..`: write the plain path"),
        ("a\\b", "has a control character or a backslash"),
        ("workspace/x.md", "counts from the workspace already: leave `workspace/` away"),
        (
            "a/.Git/config",
            "has a part `.git` or `.claude`, or one that begins with `.orch`: nobody publishes there",
        ),
        (
            ".orch-1",
            "has a part `.git` or `.claude`, or one that begins with `.orch`: nobody publishes there",
        ),
        (
            "students/{student}/x.md",
            "has braces that nothing fills: only {date}, {run} and {task} are replaced, write the rest out",
        ),
    ] {
        let shown = to.replace('\\', "\\\\");
        let wanted = format!("task `a`: the place of publication `{shown}` {why}");
        assert_eq!(said(&[publishing("a", to)]), [wanted]);
    }
    let drafts = [Draft { artifacts: vec!["out/x.md".to_owned(), "a".repeat(300)], ..draft("a", &[]) }];
    let said = said(&drafts);
    assert!(said[0].ends_with("is too long: at most 1,024 bytes, 255 between slashes"), "{said:?}");
    assert_eq!(said[1], "task `a`: the artifact `out/x.md` counts from `out/` already: leave `out/` away");
    assert!(
        compile(
            &[Draft { artifacts: vec!["outline/*.md".to_owned()], ..draft("a", &[]) }],
            &catalogue(),
            &Limits::default()
        )
        .is_ok()
    );
}

#[test]
fn depth_fan_out_and_cost_have_limits() {
    let limits = Limits { max_depth: 2, max_fan_out: 1, max_cost_micro_usd: 1_000_000, ..Limits::default() };
    let mut drafts = vec![draft("a", &[]), draft("b", &["a"]), draft("c", &["b", "a"])];
    drafts[0].expected_cost_micro_usd = 1_000_001;
    assert_eq!(
        said_by(&drafts, &catalogue(), &limits),
        [
            "the tasks are expected to cost $1.01 together, at most $1.00 are allowed: plan fewer or smaller tasks",
            "3 tasks wait for one another in a row (a -> b -> c), at most 2 are allowed: merge steps, or drop \
             dependencies that need no result",
            "2 tasks depend directly on `a`, at most 1 are allowed: group them",
        ]
    );
    drafts[1].expected_cost_micro_usd = u64::MAX;
    assert!(compile(&drafts, &catalogue(), &Limits::default()).is_err(), "sums do not wrap");
}

#[test]
fn a_huge_hostile_plan_is_answered_in_bounded_time_and_length() {
    let names: Vec<String> = (0..5_000).map(|at| format!("unknown-{at}")).collect();
    let drafts: Vec<Draft> = names
        .iter()
        .map(|name| Draft {
            worker: name.clone(),
            dependencies: vec![format!("{name}x"), "t0".to_owned()],
            ..draft(name, &[])
        })
        .collect();
    let problems = compile(&drafts, &catalogue(), &Limits::default()).unwrap_err();
    assert!(problems.iter().all(|problem| problem.to_string().len() < 2_000));
}

/// Plans that are often good and often not: few names, so that they meet.
fn some_plan() -> impl Strategy<Value = Vec<Draft>> {
    let id = || prop::sample::select(vec!["a", "b", "c", "d", "e", "f", "plan", "-x"]);
    let worker = prop::sample::select(vec!["anga", "marie", "marie", "fabien", "orchestrator", "mary"]);
    let to = prop::option::of(prop::sample::select(vec!["x.md", "y", "y/z.md", "{task}.md", "../up"]));
    let one = (id(), worker, 0..5u8, prop::collection::vec(id(), 0..3), to, 0..60_000_000u64);
    let draft = one.prop_map(|(id, worker, text, dependencies, to, cost)| Draft {
        worker: worker.to_owned(),
        description: if text == 0 { String::new() } else { format!("Work {id} {text}") },
        publications: to
            .into_iter()
            .map(|to| DraftPublication { artifact: "f.md".to_owned(), to: to.to_owned() })
            .collect(),
        expected_cost_micro_usd: cost,
        ..draft(id, &dependencies)
    });
    prop::collection::vec(draft, 0..9)
}

/// Plans that only their shape can speak against: each task waits for some before it.
fn layered_plan() -> impl Strategy<Value = Vec<Draft>> {
    prop::collection::vec(prop::collection::vec(any::<prop::sample::Index>(), 0..4), 1..25).prop_map(|rows| {
        let name = |at: usize| format!("t{at}");
        rows.iter()
            .enumerate()
            .map(|(at, above)| Draft {
                dependencies: above.iter().filter(|_| at > 0).map(|index| name(index.index(at))).collect(),
                ..draft(&name(at), &[])
            })
            .collect()
    })
}

fn check_accepted(drafts: &[Draft], compiled: &Compiled, limits: &Limits) {
    let mut done = BTreeSet::new();
    for at in &compiled.order {
        assert!(
            drafts[*at].dependencies.iter().all(|name| done.contains(name)),
            "a task before its dependency"
        );
        assert!(done.insert(drafts[*at].id.clone()), "an id twice");
    }
    assert_eq!(done.len(), drafts.len());
    assert!(!drafts.is_empty() && drafts.len() <= limits.max_tasks && compiled.depth <= limits.max_depth);
    assert!(compiled.expected_cost_micro_usd <= limits.max_cost_micro_usd);
    for draft in drafts {
        let waiting = drafts.iter().filter(|other| other.dependencies.contains(&draft.id)).count();
        assert!(waiting <= limits.max_fan_out);
        assert!(catalogue().workers.contains_key(&draft.worker) && !draft.description.trim().is_empty());
    }
}

proptest! {
    #[test]
    fn what_is_accepted_can_be_run_and_the_verdict_does_not_depend_on_the_order(
        (drafts, shuffled) in prop_oneof![some_plan(), layered_plan()]
            .prop_flat_map(|drafts| (Just(drafts.clone()), Just(drafts).prop_shuffle()))
    ) {
        let limits = Limits { max_tasks: 16, max_depth: 4, max_fan_out: 5, max_cost_micro_usd: 150_000_000 };
        let verdict = compile(&drafts, &catalogue(), &limits);
        let other = compile(&shuffled, &catalogue(), &limits);
        match (&verdict, &other) {
            (Ok(compiled), Ok(again)) => {
                check_accepted(&drafts, compiled, &limits);
                check_accepted(&shuffled, again, &limits);
                prop_assert_eq!(compiled.depth, again.depth);
            }
            (Err(problems), Err(again)) => {
                prop_assert!(!problems.is_empty());
                prop_assert_eq!(problems, again);
            }
            (Ok(_), Err(_)) | (Err(_), Ok(_)) => prop_assert!(false, "{:?} and {:?}", verdict, other),
        }
    }
}
