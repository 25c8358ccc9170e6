//! Whatever a task, a worker's file, an agent or another person wrote, a terminal shows it and never obeys it.

use super::*;

/// Colour, window title, C1 control, characters that turn text around, bell, DEL, and lines of its own.
const HOSTILE: &str =
    "x\u{1b}[31mred\u{1b}]0;t\u{7}\u{9b}2J\u{202e}gnp\u{200f}\u{2066}\u{7f}\r\nnext\u{85}\u{8}";

/// The scene, with that text in every place that somebody else fills.
fn stage() -> Stage {
    spoilt(scene::stage())
}

/// The same of the scene with planned runs.
fn planned_stage() -> Stage {
    let stage = spoilt(planned::stage());
    {
        let mut held = stage.fake.held();
        for (run, tasks) in held.runs.iter_mut().skip(2) {
            run.detail = HOSTILE.into();
            run.workflow = HOSTILE.into();
            for task in tasks {
                task.detail = HOSTILE.into();
                task.agent = HOSTILE.into();
                task.worker = HOSTILE.into();
                task.summary = HOSTILE.into();
                task.reused_from = HOSTILE.into();
                task.workspace = HOSTILE.into();
                task.gates = vec![GateResult {
                    kind: HOSTILE.into(),
                    name: HOSTILE.into(),
                    log: HOSTILE.into(),
                    ..GateResult::default()
                }];
                if !task.result_status.is_empty() {
                    task.result_status = HOSTILE.into();
                }
                task.structured = serde_json::json!({
                    "status": HOSTILE, "summary": HOSTILE, "answer": HOSTILE, "findings": [HOSTILE, {HOSTILE: HOSTILE}],
                    "recommendations": [HOSTILE], "scores": {HOSTILE: HOSTILE}, "conflicts": [HOSTILE],
                    "gaps": [HOSTILE], "next_steps": [{"step": HOSTILE, "impact": HOSTILE}],
                    "tasks": [{"id": "emma", "line": HOSTILE}],
                })
                .to_string();
            }
        }
        held.plan = Some((
            serde_json::json!({
                "summary": HOSTILE,
                "tasks": [{"id": HOSTILE, "worker": HOSTILE, "description": HOSTILE, "dependencies": [HOSTILE]}],
                "missing": [HOSTILE],
            })
            .to_string(),
            vec![HOSTILE.into()],
        ));
        held.hand_over("dance/3", "emma", HOSTILE, b"x", HOSTILE);
    }
    stage
}

fn spoilt(stage: Stage) -> Stage {
    {
        let mut held = stage.fake.held();
        let (run, tasks) = held.runs.first_mut().unwrap();
        run.submitted_by = HOSTILE.into();
        run.labels.insert("note".into(), HOSTILE.into());
        for task in tasks.iter_mut() {
            task.detail = HOSTILE.into();
            task.session_id = HOSTILE.into();
            task.agent = HOSTILE.into();
            task.worker = HOSTILE.into();
            task.answer = Some(Text { body: Some(text::Body::Inline(HOSTILE.into())) });
            task.structured = serde_json::json!({ HOSTILE: HOSTILE }).to_string();
            for attempt in &mut task.attempts {
                attempt.detail = HOSTILE.into();
                attempt.agent = HOSTILE.into();
            }
        }
        // Names are checked by the coordinator; one that does not is not believed either.
        let strange =
            Task { task_id: HOSTILE.into(), r#ref: format!("release-notes/1/{HOSTILE}"), ..tasks[3].clone() };
        tasks.push(strange);
        for agent in &mut held.agents.0 {
            agent.detail = HOSTILE.into();
            agent.drain_reason = HOSTILE.into();
            agent.warnings = vec![HOSTILE.into()];
            agent.capabilities.push(format!("k={HOSTILE}"));
            agent.labels.push(format!("l={HOSTILE}"));
            agent.hidden.push(HOSTILE.into());
            agent.running.push(HOSTILE.into());
            agent.version = HOSTILE.into();
            agent.cli_version = HOSTILE.into();
            agent.host_name = HOSTILE.into();
            agent.pools = vec![Pool {
                name: HOSTILE.into(),
                detail: HOSTILE.into(),
                workers: vec![HOSTILE.into()],
                ..Pool::default()
            }];
        }
        let strange = Agent { name: HOSTILE.into(), ..held.agents.0[2].clone() };
        held.agents.0.push(strange);
        for (worker, definition) in &mut held.workers.0 {
            worker.description = HOSTILE.into();
            worker.model = HOSTILE.into();
            worker.source = HOSTILE.into();
            worker.subagents = vec![HOSTILE.into()];
            worker.context_files = vec![HOSTILE.into()];
            definition.system_prompt = HOSTILE.into();
            definition.tools = vec![HOSTILE.into()];
        }
        let strange = Worker { name: HOSTILE.into(), ..Worker::default() };
        held.workers.0.push((strange, WorkerDefinition::default()));
        held.status.0.attention = vec![HOSTILE.into()];
        held.status.0.version = HOSTILE.into();
        held.transcript = format!(
            "{}\n{HOSTILE}\n",
            serde_json::json!({
                "type": "assistant",
                "message": {"content": [
                    {"type": "text", "text": HOSTILE},
                    {"type": "tool_use", "name": HOSTILE, "input": {"command": HOSTILE}},
                ]},
            })
        )
        .into_bytes();
        // What is no UTF-8 at all.
        held.transcript.extend(b"\xff\xfe\x1b[2J\x9b31m\n");
    }
    stage
}

fn stage_of(scene: Scene) -> Stage {
    match scene {
        Scene::Fleet => stage(),
        Scene::Planned => planned_stage(),
        Scene::Workflows => workflows::stage(),
        Scene::Trouble => trouble_stage(),
        Scene::Money => money_stage(),
    }
}

/// Bills, budgets and pools with that text for every name and sentence.
fn money_stage() -> Stage {
    let stage = spoilt(money::stage());
    {
        let mut held = stage.fake.held();
        for row in &mut held.money.costs.rows {
            row.keys.fill(HOSTILE.to_owned());
        }
        let costs = &mut held.money.costs;
        costs.warnings = vec![HOSTILE.into()];
        costs.prices_as_of = HOSTILE.into();
        costs.forecast.as_mut().unwrap().basis = HOSTILE.into();
        for used in &mut held.money.budgets {
            used.state = HOSTILE.into();
            used.run_ref = HOSTILE.into();
            if let Some(budget) = &mut used.budget {
                budget.name = HOSTILE.into();
                budget.scope = Some(BudgetScope { scope: Some(budget_scope::Scope::Name(HOSTILE.into())) });
            }
        }
        // Those that are asked for by name.
        for name in ["old", "marie"] {
            let named = Budget { name: name.into(), ..Budget::default() };
            held.money.budgets.push(BudgetUse { budget: Some(named), ..BudgetUse::default() });
        }
        for pool in &mut held.money.pools {
            pool.detail = HOSTILE.into();
            pool.agents = vec![HOSTILE.into()];
            pool.warnings = vec![HOSTILE.into()];
            for bucket in &mut pool.buckets {
                bucket.model_class = HOSTILE.into();
                bucket.worker = HOSTILE.into();
                bucket.unit = HOSTILE.into();
                bucket.source = HOSTILE.into();
            }
        }
        let strange = PoolLimits { pool: HOSTILE.into(), ..held.money.pools[1].clone() };
        held.money.pools.push(strange);
        for (run, tasks) in &mut held.runs {
            if let Some(budget) = &mut run.budget {
                budget.state = HOSTILE.into();
            }
            for task in tasks.iter_mut().filter(|task| task.state() == TaskState::Parked) {
                task.detail = HOSTILE.into();
                task.pool = HOSTILE.into();
            }
        }
        for event in &mut held.events {
            if let Some(watch_event::Change::Budget(warning)) = &mut event.change {
                warning.text = HOSTILE.into();
            }
        }
        for explained in held.explained.values_mut() {
            explained.summary = HOSTILE.into();
            explained.help = HOSTILE.into();
            explained.reasons.iter_mut().for_each(|reason| reason.text = HOSTILE.into());
        }
    }
    stage
}

/// Agents that say it of their quarantine, tasks of their ends, a store of what it mended.
fn trouble_stage() -> Stage {
    let stage = trouble::stage();
    {
        let mut held = stage.fake.held();
        for agent in &mut held.agents.0 {
            agent.detail = HOSTILE.into();
            if agent.state() == AgentState::Quarantined {
                agent.quarantine_reason = HOSTILE.into();
            }
        }
        for task in held.runs.iter_mut().flat_map(|(_, tasks)| tasks) {
            task.detail = HOSTILE.into();
            task.attempts.iter_mut().for_each(|attempt| {
                attempt.detail = HOSTILE.into();
                attempt.agent = HOSTILE.into();
            });
        }
        let now = &mut held.storage.now;
        now.cluster_id = HOSTILE.into();
        now.mended.push(HOSTILE.into());
        now.aside.push(HOSTILE.into());
    }
    stage
}

/// The first character that a terminal would act upon, or that turns text around.
fn harm(text: &str) -> Option<char> {
    let turns = |char| matches!(char, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().find(|char| (char.is_control() && !matches!(char, '\n' | '\t')) || turns(*char))
}

#[tokio::test]
async fn no_command_passes_on_what_steers_a_terminal() {
    let lines = SAMPLES.iter().map(|sample| (sample.line, sample.scene));
    let more = [
        ("run 'a bad plan' --progress plain", Scene::Planned),
        ("run Evaluate --approve --no-input --progress plain", Scene::Planned),
        ("artifacts get dance/3 -d /nonexistent/nowhere", Scene::Planned),
        ("agents show box-7", Scene::Fleet),
        ("agents list", Scene::Fleet),
        ("workers list", Scene::Fleet),
        ("logs release-notes/1/plan --full", Scene::Fleet),
        ("logs release-notes/1", Scene::Fleet),
        ("workflows show odd", Scene::Workflows),
        ("workflows graph odd", Scene::Workflows),
    ];
    let mut told = Vec::new();
    for (line, scene) in lines.chain(more) {
        for (format, width) in [
            ("table", Some(60)),
            ("table", None),
            ("wide", None),
            ("json", None),
            ("yaml", None),
            ("csv", None),
            ("name", None),
        ] {
            let stage = Stage { width, ..stage_of(scene) };
            let ran = stage.run(&format!("{line} -o {format}")).await;
            for (stream, text) in [("stdout", &ran.stdout), ("stderr", &ran.stderr)] {
                if let Some(char) = harm(text) {
                    told.push(format!("orchctl {line} -o {format}: {char:?} on {stream}"));
                }
            }
        }
    }
    assert!(told.is_empty(), "{}", told.join("\n"));
}

#[tokio::test]
async fn what_goes_out_as_it_is_does_so_only_where_no_terminal_reads() {
    for line in ["workers show anga --prompt", "logs release-notes/1/plan --raw"] {
        let terminal =
            Stage { look: testing::Look { terminal: true, ..testing::Look::default() }, ..stage() };
        let ran = terminal.run(line).await;
        assert_eq!(harm(&ran.stdout), None, "{line}");
        assert!(ran.stdout.contains('␛'), "{line}");
    }
}

#[tokio::test]
async fn a_row_stays_one_line_whatever_is_in_it() {
    for (line, rows) in [("ls release-notes/1", 6), ("agents -o wide --fields name,detail", 4)] {
        let ran = stage().run(line).await;
        assert_eq!(ran.stdout.lines().count(), rows + 1, "{line}:\n{}", ran.stdout);
    }
    for line in ["ls release-notes/1 -o name", "agents -o name", "workers -o name"] {
        let plain = scene::stage().run(line).await.stdout.lines().count();
        assert_eq!(stage().run(line).await.stdout.lines().count(), plain + 1, "{line}");
    }
}

#[tokio::test]
async fn json_keeps_every_character_and_only_escapes_it() {
    let ran = stage().run("result release-notes/1/plan -o json").await;
    let value: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(value["answer"], HOSTILE);
    assert_eq!(value["structured"][HOSTILE], HOSTILE);
    assert_eq!(ran.stdout.lines().count(), 1);
}

#[tokio::test]
async fn the_text_that_people_read_shows_what_was_there() {
    let answer = stage().run("result release-notes/1/plan").await.stdout;
    assert!(answer.starts_with("x␛[31mred␛]0;t␇<009b>2J<202e>gnp<200f><2066>␡\nnext<0085>␈\n"), "{answer}");
}
