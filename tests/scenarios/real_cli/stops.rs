//! Stops of the real CLI in every phase of its life, and at a hundred random moments: cancelled, quickly, and no process is
//! left.

use super::{AGENT, Real};
use orch_proto::v1::{self, CancelRunRequest, Outcome, RunState, TaskState};
use orch_tests::client::{Client, run};
use orch_tests::matrix::Row;
use orch_tests::matrix::real::{ENDLESS, STOPS};
use orch_tests::process::{at_home_in, supervisors_in};
use orch_tests::wait::until_async;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long a cancelled attempt may have a process.
const AT_MOST: Duration = Duration::from_secs(5);

/// What is said with every cancel.
const WHY: &str = "no longer wanted";

/// A run of one task that is going to be cancelled.
struct Doomed<'a> {
    real: &'a Real,
    client: Client,
    run: v1::Run,
    /// Where its files are.
    dir: PathBuf,
    /// What its requests hold and no other's.
    mark: String,
}

impl<'a> Doomed<'a> {
    async fn submit(real: &'a Real, task: v1::TaskSpec) -> Self {
        let mut client = real.fleet.client().await;
        let run = client.submit(run(vec![task])).await;
        let mark = format!("tasks/{}-0/work", run.run_id);
        real.api.look_for(&mark);
        let dir = real.fleet.agent_dir(AGENT).join("tasks").join(format!("{}-0", run.run_id));
        Self { real, client, run, dir, mark }
    }

    fn task_ref(&self) -> String {
        format!("{}/t", self.run.r#ref)
    }

    /// Requests so far, each as who asked and what was answered.
    fn requests(&self) -> Vec<(bool, String)> {
        let mine = |request: &orch_standin::api::Recorded| request.found.contains(&self.mark);
        let requests = self.real.api.requests().into_iter().filter(mine);
        requests.map(|request| (request.agent_id.is_some(), request.answer)).collect()
    }

    /// A tool's command is running.
    fn sleeps(&self) -> bool {
        let is_sleep = |pid: &u32| {
            std::fs::read_to_string(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.starts_with("sleep\0"))
        };
        at_home_in(&self.dir).iter().any(is_sleep)
    }

    fn has_process(&self) -> bool {
        !at_home_in(&self.dir).is_empty() || !supervisors_in(&self.dir).is_empty()
    }

    async fn until(&self, what: &str, reached: impl Fn(&Self) -> bool) {
        until_async(what, || std::future::ready(reached(self).then_some(()))).await;
    }

    /// Cancels it. Gives the time until its last process was gone, and the task as it ended.
    async fn cancel(mut self) -> (Duration, v1::Task) {
        let asked = Instant::now();
        let request =
            CancelRunRequest { r#ref: self.run.r#ref.clone(), reason: WHY.into(), ..Default::default() };
        self.client.runs.cancel_run(request).await.expect("cancelled");
        self.until("every process of the task to be gone", |doomed| !doomed.has_process()).await;
        let took = asked.elapsed();
        let ended = self.client.finished(&self.run.r#ref).await;
        assert_eq!(ended.state(), RunState::Cancelled);
        let task = self.client.tasks(&self.run.r#ref).await.remove(0);
        assert_eq!(task.detail, WHY);
        (took, task)
    }
}

/// Tells whether a run is in the phase in which it is to be cancelled.
type Reached = fn(&Doomed<'_>) -> bool;

/// Plays the row of this name: cancels it in the phase that `reached` tells of, once it is in `state`.
async fn stop(real: &Real, scenario: &str, state: TaskState, reached: Reached) {
    let row = STOPS.iter().find(|row| row.scenario == scenario).expect("the row is there");
    let mut doomed = Doomed::submit(real, row.on(AGENT).task("t")).await;
    let task_ref = doomed.task_ref();
    doomed.client.task_in(&task_ref, state).await;
    doomed.until(scenario, reached).await;
    let (asked, mark) = (doomed.requests().len(), doomed.mark.clone());
    let (took, task) = doomed.cancel().await;
    let requests = real.api.requests();
    let all = requests.iter().filter(|request| request.found.contains(&mark)).count();
    assert_eq!(all, asked, "{scenario}: it asked the API again after the cancel");
    row.check(&task).unwrap_or_else(|difference| panic!("{difference}"));
    assert!(took <= AT_MOST, "{scenario}: a process was there {took:?} after the cancel");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_in_every_phase_ends_the_real_cli_and_all_it_started() {
    let test = "a_stop_in_every_phase_ends_the_real_cli_and_all_it_started";
    let Some(mut real) = Real::without_agents(test).await else { return };
    real.agent(AGENT, &["--slots", "3"]);
    let real = &real;
    let running = TaskState::Running;
    tokio::join!(
        stop(real, "cancelled while the CLI starts", running, |doomed| doomed.has_process()),
        stop(real, "cancelled before an answer has begun", running, |doomed| {
            doomed.requests() == [(false, "hang".to_owned())]
        }),
        stop(real, "cancelled in the middle of an answer", running, |doomed| {
            doomed.requests() == [(false, "hangmid".to_owned())]
        }),
        stop(real, "cancelled while a tool runs", running, |doomed| doomed.sleeps()),
        stop(real, "cancelled while a sub-agent waits for an answer", running, |doomed| {
            doomed.requests().last() == Some(&(true, "hang".to_owned()))
        }),
        stop(real, "cancelled while a sub-agent's tool runs", running, |doomed| doomed.sleeps()),
        stop(
            real,
            "cancelled after a result, when asked again for the structured answer",
            running,
            |doomed| { doomed.requests().last() == Some(&(false, "hang".to_owned())) }
        ),
    );
    real.nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_before_the_start_starts_nothing_and_one_after_the_end_changes_nothing() {
    let test = "a_stop_before_the_start_starts_nothing_and_one_after_the_end_changes_nothing";
    let Some(mut real) = Real::without_agents(test).await else { return };
    real.agent(AGENT, &["--slots", "1"]);
    let hang = Row::new("", "[[hang]]", Outcome::Cancelled, "");
    let first = Doomed::submit(&real, hang.on(AGENT).task("t")).await;
    first.until("the only slot to be taken", |first| !first.requests().is_empty()).await;
    stop(&real, "cancelled before it started", TaskState::Queued, |_| true).await;
    assert_eq!(first.requests().len(), 1);
    first.cancel().await;

    let answer = Row::new("", "[[text]]", Outcome::Ok, "");
    let mut ended = Doomed::submit(&real, answer.on(AGENT).task("t")).await;
    let run_ref = ended.run.r#ref.clone();
    ended.client.finished(&run_ref).await;
    let request = CancelRunRequest { r#ref: run_ref.clone(), ..Default::default() };
    let refused = ended.client.runs.cancel_run(request).await.expect_err("nothing is left to cancel");
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{refused}");
    assert_eq!(ended.client.run(&run_ref).await.state(), RunState::Succeeded);
    real.nothing_left();
}

/// Numbers that look random and are the same in every run of the test (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % limit
    }
}

/// Cancels one endless run at a random moment: up to 1.5 s after it was granted or after its first request.
async fn cancel_some_time(real: &Real, number: usize) -> Duration {
    let mut dice = Dice(number as u64);
    let row = &ENDLESS[number % ENDLESS.len()];
    let mut doomed = Doomed::submit(real, row.on(AGENT).task("t")).await;
    let task_ref = doomed.task_ref();
    doomed.client.task_in(&task_ref, TaskState::Running).await;
    if dice.below(2) == 0 {
        doomed.until("its first request", |doomed| !doomed.requests().is_empty()).await;
    }
    tokio::time::sleep(Duration::from_millis(dice.below(1_500))).await;
    let (took, task) = doomed.cancel().await;
    row.check(&task).unwrap_or_else(|difference| panic!("run {number}: {difference}"));
    took
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancels_at_random_moments_leave_no_process() {
    let test = "cancels_at_random_moments_leave_no_process";
    let Some(mut real) = Real::without_agents(test).await else { return };
    let cancels = if std::env::var_os("ORCH_TEST_LONG").is_some() { 100 } else { 12 };
    real.agent(AGENT, &["--slots", "3"]);
    let (real, mut times) = (&real, Vec::new());
    for first in (0..cancels).step_by(3) {
        let three = (first..cancels.min(first + 3)).map(|number| cancel_some_time(real, number));
        times.extend(futures_util::future::join_all(three).await);
    }
    times.sort_unstable();
    let (middle, last) = (times[cancels / 2], times[cancels - 1]);
    let told = format!("{cancels} cancels: no process left after {middle:?} (median), {last:?} (longest)\n");
    std::io::Write::write_all(&mut std::io::stderr(), told.as_bytes()).expect("stderr");
    assert!(last <= AT_MOST, "a process was there {last:?} after its cancel");
    real.nothing_left();
}
