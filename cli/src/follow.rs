//! Following a run to its end and showing it on the way. Knows the watch and the displays; what the end means to the
//! exit code is the commands' business.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use orch_proto::v1::Task;
use tokio::time::{Instant, MissedTickBehavior};

use crate::args::Progress;
use crate::client::Client;
use crate::client::events::Frame;
use crate::failure::{Failure, Outcome};
use crate::live::model::{Model, Told};
use crate::live::redraw::Redraw;
use crate::live::screen;
use crate::live::told::{self, EventView, Names};
use crate::output::{Out, Stream};

/// How often the live view is drawn again; durations on it move by the second.
const REDRAW: Duration = Duration::from_millis(200);
/// How soon after a frame one looks whether the run can go on at all: impossible runs are reported at once.
const STUCK_SOON: Duration = Duration::from_millis(50);
/// Least time between two looks.
const STUCK_APART: Duration = Duration::from_millis(500);
/// Time after which one looks again though nothing happened.
const STUCK_AGAIN: Duration = Duration::from_secs(5);
/// Queued tasks asked about; a run of which so many are impossible, and nothing moves, is not going to go on.
const STUCK_SAMPLE: usize = 20;

/// Where a followed run is shown.
pub(crate) enum Display {
    /// Redrawn in place.
    Live(Redraw),
    /// One line an event.
    Plain(Stream),
    /// One JSON value an event.
    Jsonl(Stream),
    /// Nowhere.
    Hidden,
}

impl Display {
    /// The display that flags and terminal ask for, on `stream`.
    pub(crate) fn choose(out: &Out, stream: &Stream) -> Outcome<Self> {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Ok(match out.progress {
            Progress::None => Self::Hidden,
            Progress::Jsonl => Self::Jsonl(stream.clone()),
            Progress::Plain => Self::Plain(stream.clone()),
            Progress::Tty => Self::Live(Redraw::new(stream)?),
            // -v writes log lines to stderr, which a view drawn in place would tear apart.
            Progress::Auto if stream.is_terminal() && !dumb && out.verbosity <= 0 => {
                Self::Live(Redraw::new(stream)?)
            }
            Progress::Auto => Self::Plain(stream.clone()),
        })
    }

    fn tell(&self, happened: &[Told], zone: &TimeZone, names: Names) -> Outcome<()> {
        match self {
            Self::Live(_) | Self::Hidden => Ok(()),
            Self::Plain(stream) => {
                let lines: String = happened
                    .iter()
                    .filter_map(|told| told::line(told, zone, names))
                    .map(|line| line + "\n")
                    .collect();
                if lines.is_empty() { Ok(()) } else { stream.write(lines.as_bytes()) }
            }
            Self::Jsonl(stream) => {
                let mut lines = Vec::new();
                for told in happened {
                    serde_json::to_writer(&mut lines, &EventView::from(told)).map_err(|error| {
                        Failure::new(crate::exit::BUG, "cannot write an event as JSON").cause(error)
                    })?;
                    lines.push(b'\n');
                }
                if lines.is_empty() { Ok(()) } else { stream.write(&lines) }
            }
        }
    }

    fn lost(&self, cause: &str) {
        let text = format!("lost the coordinator ({cause}); trying again\n");
        if let Self::Plain(stream) = self {
            // The run goes on without this line.
            let _ = stream.write(text.as_bytes());
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
    /// What Ctrl-C does, for the foot of the live view.
    pub(crate) ctrl_c: &'a str,
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
    let zone = TimeZone::system();
    let live = matches!(display, Display::Live(_));
    let mut watch = client.watch(run, live);
    let mut model = Model::default();
    let away = format!("the coordinator is away; trying again. {}", until.ctrl_c);
    let mut footer = until.ctrl_c;
    let mut ticks = tokio::time::interval(REDRAW);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut check = StuckCheck::default();
    let mut names = Names::of_run([]);
    loop {
        tokio::select! {
            frame = watch.next() => {
                match frame? {
                    Some(Frame::Update(update)) => {
                        footer = until.ctrl_c;
                        let happened = model.apply(&update);
                        if !update.tasks.is_empty() {
                            names = Names::of_run(model.tasks());
                        }
                        display.tell(&happened, &zone, names)?;
                        check.frame_came(until.stuck);
                    }
                    Some(Frame::Lost(cause)) => {
                        footer = &away;
                        display.lost(&cause);
                    }
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

/// Follows everything, for ever.
pub(crate) async fn follow_all(client: &Client, display: &Display) -> Outcome<()> {
    let zone = TimeZone::system();
    let mut watch = client.watch("", false);
    let mut models: std::collections::HashMap<String, Model> = std::collections::HashMap::new();
    while let Some(frame) = watch.next().await? {
        match frame {
            Frame::Update(update) => {
                for event in &update.events {
                    let one = orch_proto::v1::WatchRunsResponse {
                        events: vec![event.clone()],
                        ..Default::default()
                    };
                    let model = models.entry(event.run_ref.clone()).or_default();
                    display.tell(&model.apply(&one), &zone, Names::of_many())?;
                    if model.has_ended() {
                        models.remove(&event.run_ref);
                    }
                }
            }
            Frame::Lost(cause) => display.lost(&cause),
        }
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
            None => std::future::pending().await,
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
