//! Following a run to its end and showing it on the way. Knows the watch and the displays; what the end means to the
//! exit code is the commands' business.

use std::future::pending;
use std::time::Duration;

use jiff::Timestamp;
use orch_proto::v1::{GetPlanResponse, Run, RunState, Task, WatchEvent, WatchRunsResponse};
use tokio::time::{Instant, MissedTickBehavior};

use crate::args::Progress;
use crate::client::events::Frame;
use crate::client::{Client, TaskQuery};
use crate::failure::Outcome;
use crate::live::model::{Model, Told};
use crate::live::redraw::Redraw;
use crate::live::screen;
use crate::live::told::{self, EventView, Names};
use crate::output::encode::Encoder;
use crate::output::safe::one_line;
use crate::output::times::Times;
use crate::output::{Out, Stream};
use crate::plan;

/// How often the live view is drawn again; durations on it move by the second.
const REDRAW: Duration = Duration::from_millis(200);
/// How soon after a frame one looks whether the run can go on at all: impossible runs are reported at once.
const STUCK_SOON: Duration = Duration::from_millis(50);
/// Longest cause told.
const TOLD: usize = 300;
/// Least time between two looks.
const STUCK_APART: Duration = Duration::from_millis(500);
/// Time after which one looks again though nothing happened.
const STUCK_AGAIN: Duration = Duration::from_secs(5);
/// Silence after which a part of the past that has an end counts as told.
const QUIET: Duration = Duration::from_secs(1);
/// Longest wait for the first word of the past: it is all for other readers, or the coordinator cannot answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Queued tasks asked about; a run of which so many are impossible, and nothing moves, is not going to go on.
const STUCK_SAMPLE: usize = 20;

/// Where a followed run is shown.
pub(crate) enum Display {
    /// Redrawn in place.
    Live(Redraw),
    /// One line an event.
    Plain(Stream, Times),
    /// One value an event.
    Jsonl(Stream, Encoder),
    /// Nowhere.
    Hidden,
}

impl Display {
    /// The display that flags and terminal ask for, on `stream`.
    pub(crate) fn choose(out: &Out, stream: &Stream) -> Outcome<Self> {
        Ok(match out.progress {
            _ if Self::is_drawn(out, stream) => Self::Live(Redraw::new(stream)?),
            Progress::None => Self::Hidden,
            Progress::Jsonl => Self::Jsonl(stream.clone(), Encoder::json()),
            Progress::Plain | Progress::Tty | Progress::Auto => Self::plain(out, stream),
        })
    }

    /// Whether flags and terminal ask for a view that is drawn in place.
    pub(crate) fn is_drawn(out: &Out, stream: &Stream) -> bool {
        let dumb = || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        match out.progress {
            Progress::Tty => true,
            // -v writes log lines to stderr, which a view drawn in place would tear apart.
            Progress::Auto => stream.is_terminal() && out.verbosity <= 0 && !dumb(),
            Progress::None | Progress::Plain | Progress::Jsonl => false,
        }
    }

    /// One line an event.
    pub(crate) fn plain(out: &Out, stream: &Stream) -> Self {
        Self::Plain(stream.clone(), out.times.clone())
    }

    /// One value an event, as data.
    pub(crate) fn values(out: &Out) -> Self {
        Self::Jsonl(out.stdout().clone(), out.encoder().clone())
    }

    fn tell(&self, happened: &[Told], names: Names) -> Outcome<()> {
        match self {
            Self::Live(_) | Self::Hidden => Ok(()),
            Self::Plain(stream, times) => {
                let lines: String = happened
                    .iter()
                    .filter_map(|told| told::line(told, times, names))
                    .map(|line| line + "\n")
                    .collect();
                if lines.is_empty() { Ok(()) } else { stream.write(lines.as_bytes()) }
            }
            Self::Jsonl(stream, encoder) => {
                let mut lines = String::new();
                for told in happened {
                    lines.push_str(&encoder.event(&EventView::from(told), stream)?);
                }
                if lines.is_empty() { Ok(()) } else { stream.write(lines.as_bytes()) }
            }
        }
    }

    /// Shows a plan that has been made.
    fn plan(&mut self, answer: &GetPlanResponse) -> Outcome<()> {
        match self {
            Self::Hidden => Ok(()),
            Self::Live(redraw) => {
                let text = plan::text(answer, redraw.stream());
                redraw.above(&text)
            }
            Self::Plain(stream, _) => stream.write(plan::text(answer, stream).as_bytes()),
            Self::Jsonl(stream, encoder) => {
                stream.write(encoder.event(&EventView::planned(answer), stream)?.as_bytes())
            }
        }
    }

    fn lost(&self, cause: &str) {
        let text = format!("lost the coordinator ({}); trying again\n", one_line(cause, TOLD));
        if let Self::Plain(stream, _) = self {
            // The run goes on without this line.
            let _ = stream.write(text.as_bytes());
        }
    }

    fn expired(&self, cause: &str) {
        if let Self::Plain(stream, _) = self {
            let _ = stream.write(format!("{}; what comes now follows\n", one_line(cause, TOLD)).as_bytes());
        }
    }

    fn draw(&mut self, model: &Model, footer: &str) -> Outcome<()> {
        if let (Self::Live(redraw), true) = (&mut *self, model.is_complete()) {
            let (width, height) = redraw.size();
            let frame = screen::Frame { width, height, now: Timestamp::now(), footer };
            redraw.draw(&screen::lines(model, &frame))?;
        }
        Ok(())
    }
}

/// When a follower is satisfied.
pub(crate) struct Until<'a> {
    /// Asked after every frame.
    pub(crate) reached: &'a dyn Fn(&Model) -> bool,
    /// Whether a run that can never go on ends it too.
    pub(crate) stuck: bool,
    /// When the plan of a planned run is shown.
    pub(crate) plan: ShowPlan,
    /// What Ctrl-C does, for the foot of the live view.
    pub(crate) ctrl_c: &'a str,
}

/// When the plan of a planned run is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShowPlan {
    /// Whoever follows shows it otherwise, or does not want it.
    Never,
    /// When it is made while one looks, or waits for an answer.
    WhenMade,
    /// As soon as there is one: nobody has seen it yet.
    News,
}

/// Whether the plan has been shown, and what the run was before.
struct Plans {
    show: ShowPlan,
    before: RunState,
    shown: bool,
}

impl Plans {
    fn new(show: ShowPlan) -> Self {
        Self { show, before: RunState::Unspecified, shown: false }
    }

    /// Whether to show it now, of a run that has come to this.
    fn due(&mut self, run: &Run) -> bool {
        let was_planning = std::mem::replace(&mut self.before, run.state()) == RunState::Planning;
        if !run.planned || self.shown || self.show == ShowPlan::Never {
            return false;
        }
        self.shown = match run.state() {
            RunState::WaitingApproval => true,
            RunState::Running | RunState::Synthesizing => was_planning || self.show == ShowPlan::News,
            // Who submitted the run reads it among the results.
            RunState::Failed => was_planning && self.show == ShowPlan::WhenMade,
            RunState::Unspecified | RunState::Planning | RunState::Succeeded | RunState::Cancelled => false,
        };
        self.shown
    }
}

/// What Ctrl-C does to a follower that only looks.
pub(crate) const LEAVES: &str = "Ctrl-C leaves; the run goes on";

/// How following ended.
pub(crate) enum Ending {
    /// The goal was reached, or the run is terminal.
    Reached(Model),
    /// Nothing that is left can ever be placed as things stand: the sentences say why.
    Stuck(Model, Vec<String>),
}

/// Follows a run.
pub(crate) async fn follow(
    client: &Client,
    run: &str,
    mut display: Display,
    until: Until<'_>,
) -> Outcome<Ending> {
    let live = matches!(display, Display::Live(_));
    let mut watch = client.watch(run, live);
    let mut model = Model::default();
    let away = format!("the coordinator is away; trying again. {}", until.ctrl_c);
    let mut footer = until.ctrl_c;
    let mut ticks = tokio::time::interval(REDRAW);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut check = StuckCheck::default();
    let mut names = Names::of_run([]);
    let mut plans = Plans::new(until.plan);
    let mut asked = None;
    loop {
        tokio::select! {
            frame = watch.next() => {
                match frame? {
                    Some(Frame::Update(update)) => {
                        footer = until.ctrl_c;
                        let happened = model.apply(&update);
                        // Tasks have joined the run. What cannot be had now is had with the next that join.
                        let joined = model.lacking().filter(|lacking| asked.replace(*lacking) != Some(*lacking));
                        if joined.is_some() && let Ok(tasks) = client.tasks(&TaskQuery::all(run)).await {
                            model.fill(tasks);
                        }
                        if !update.tasks.is_empty() || joined.is_some() {
                            names = Names::of_run(model.tasks());
                        }
                        display.tell(&happened, names)?;
                        // A plan that cannot be had is missed less than the run.
                        if plans.due(&model.run) && let Ok(plan) = client.plan(run).await {
                            display.plan(&plan)?;
                        }
                        check.frame_came(until.stuck);
                    }
                    Some(Frame::Lost(cause)) => {
                        footer = &away;
                        display.lost(&cause);
                    }
                    // Of a run, the snapshot has made up for it.
                    Some(Frame::Expired(_)) => {}
                    None => {
                        display.draw(&model, "")?;
                        return Ok(Ending::Reached(model));
                    }
                }
                if model.is_complete() && (until.reached)(&model) {
                    display.draw(&model, "")?;
                    return Ok(Ending::Reached(model));
                }
            }
            _ = ticks.tick(), if live => display.draw(&model, footer)?,
            () = check.due() => {
                let waiting = model.waiting_alone();
                if let Some(reasons) = stuck(client, &waiting).await? {
                    display.draw(&model, "")?;
                    return Ok(Ending::Stuck(model, reasons));
                }
                check.looked(!waiting.is_empty());
            }
        }
    }
}

/// Which part of everything is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Everything {
    /// First sequence number.
    pub(crate) from: u64,
    /// Last one; without it for ever.
    pub(crate) last: Option<u64>,
}

/// Follows everything that happens to runs and agents.
/// `waits` is told once, when nothing has come for a while.
pub(crate) async fn follow_all(
    client: &Client,
    display: &Display,
    part: Everything,
    waits: impl Fn(),
) -> Outcome<()> {
    let mut watch = client.watch_all(part.from);
    let mut models: std::collections::HashMap<String, Model> = std::collections::HashMap::new();
    let (mut connected, mut begun, mut said) = (true, false, false);
    let begin = Instant::now();
    while part.last.is_none_or(|last| part.from <= last) {
        // Numbers that are not for this reader leave a gap, at the end too: then nothing more comes.
        // Before the first word silence only means that it is on its way.
        let pause = match (connected, begun, said) {
            (false, _, _) => None,
            (true, true, _) => part.last.map(|_| Instant::now() + QUIET),
            (true, false, false) => Some(begin + QUIET),
            (true, false, true) => part.last.map(|_| begin + PATIENCE),
        };
        let quiet = async {
            match pause {
                Some(at) => tokio::time::sleep_until(at).await,
                None => pending().await,
            }
        };
        let frame = tokio::select! {
            frame = watch.next() => frame?,
            () = quiet => None,
        };
        if frame.is_none() && !begun && !std::mem::replace(&mut said, true) {
            waits();
            continue;
        }
        match frame {
            None => break,
            Some(Frame::Update(update)) => {
                (connected, begun) = (true, true);
                for event in &update.events {
                    if part.last.is_some_and(|last| event.seq > last) {
                        return Ok(());
                    }
                    tell_one(display, &mut models, event)?;
                }
                if part.last.is_some_and(|last| update.next_seq > last) {
                    break;
                }
            }
            Some(Frame::Lost(cause)) => {
                connected = false;
                display.lost(&cause);
            }
            Some(Frame::Expired(cause)) => display.expired(&cause),
        }
    }
    Ok(())
}

/// Tells one event of everything; a run is remembered until it ends.
fn tell_one(
    display: &Display,
    models: &mut std::collections::HashMap<String, Model>,
    event: &WatchEvent,
) -> Outcome<()> {
    let one = WatchRunsResponse { events: vec![event.clone()], ..Default::default() };
    let model = models.entry(event.run_ref.clone()).or_default();
    display.tell(&model.apply(&one), Names::of_many())?;
    if model.has_ended() || event.run_ref.is_empty() {
        models.remove(&event.run_ref);
    }
    Ok(())
}

/// When to look whether a run can go on at all.
#[derive(Default)]
struct StuckCheck {
    planned: Option<Instant>,
    last: Option<Instant>,
}

impl StuckCheck {
    /// A look follows every frame, soon, but not one for each of a burst: looking costs as much as the run has tasks.
    fn frame_came(&mut self, wanted: bool) {
        if wanted && self.planned.is_none_or(|planned| planned > Instant::now() + STUCK_AGAIN / 2) {
            let soon = Instant::now() + STUCK_SOON;
            self.planned = Some(self.last.map_or(soon, |last| soon.max(last + STUCK_APART)));
        }
    }

    /// Somebody looked. While tasks wait and nothing moves, one looks again: an agent may join, or be forgotten.
    fn looked(&mut self, waiting: bool) {
        self.last = Some(Instant::now());
        self.planned = waiting.then(|| Instant::now() + STUCK_AGAIN);
    }

    async fn due(&self) {
        match self.planned {
            Some(moment) => tokio::time::sleep_until(moment).await,
            None => pending().await,
        }
    }
}

/// Why tasks for which a run waits can never be placed; `None` if one of them can.
async fn stuck(client: &Client, waiting: &[&Task]) -> Outcome<Option<Vec<String>>> {
    let mut reasons = Vec::new();
    for task in waiting.iter().take(STUCK_SAMPLE) {
        let explained = match client.explain(&task.r#ref).await {
            Ok(explained) => explained,
            // The watch bears longer outages than this question, and says so when it is enough.
            Err(failure) if failure.exit_code() == crate::exit::UNREACHABLE => return Ok(None),
            Err(failure) => return Err(failure),
        };
        if !explained.impossible {
            return Ok(None);
        }
        reasons.push(format!("{}: {}", task.r#ref, explained.summary));
    }
    Ok(if reasons.is_empty() { None } else { Some(reasons) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(show: ShowPlan, planned: bool, states: &[RunState]) -> Vec<bool> {
        let mut plans = Plans::new(show);
        let run = |state: &RunState| Run { planned, state: (*state).into(), ..Run::default() };
        states.iter().map(|state| plans.due(&run(state))).collect()
    }

    #[test]
    fn a_plan_is_shown_once_when_it_is_there() {
        use RunState::{Failed, Planning, Running, Synthesizing, WaitingApproval};
        use ShowPlan::{Never, News, WhenMade};
        assert_eq!(shown(WhenMade, true, &[Planning, Running, Synthesizing]), [false, true, false]);
        assert_eq!(shown(WhenMade, true, &[Running, Synthesizing]), [false, false], "it is known already");
        assert_eq!(shown(News, true, &[Running]), [true], "nobody has seen it");
        assert_eq!(shown(WhenMade, true, &[WaitingApproval, Running]), [true, false]);
        assert_eq!(shown(WhenMade, true, &[Planning, Failed]), [false, true]);
        assert_eq!(shown(News, true, &[Planning, Failed]), [false, false], "the results show it");
        assert_eq!(shown(Never, true, &[Planning, Running]), [false, false]);
        assert_eq!(shown(News, false, &[Running]), [false]);
    }
}
