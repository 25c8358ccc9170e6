//! The live view of a run as styled lines: a header with progress, one line a task, a footer. Runs that do not fit are
//! folded: what moves and what failed stays, the rest is counted. Pure: size and time are arguments.

use jiff::Timestamp;
use orch_proto::v1::{RunState, Task, TaskRole, TaskState};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

use super::model::{Model, Row};
use super::tree;
use crate::args::parse::{run_state_word, task_state_word};
use crate::output::figures::{between, count, dollars, moment, plural, short, span};
use crate::output::safe::one_line;
use crate::output::table::{cut, width_of};
use crate::output::view::money::limit_of;
use crate::output::view::{Tokens, outcome_word, reason};
use crate::output::words::{WARN, run_ended, run_look, task_ended, task_look, task_moves};

/// Width of the progress bar.
const BAR: usize = 24;
/// Below this width the bar is left out.
const BAR_FROM: usize = 90;
/// Below this width the agent column is left out.
const AGENT_FROM: usize = 72;
/// Widest name column.
const WIDEST_NAME: usize = 36;
/// Lines besides tasks: header, titles, footer, and the line that counts what is folded.
const AROUND: usize = 4;
/// Longest text taken from a task's activity or detail.
const LONGEST_NOTE: usize = 200;

/// How the view is drawn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame<'a> {
    /// Columns.
    pub(crate) width: usize,
    /// Rows.
    pub(crate) height: usize,
    /// The moment shown.
    pub(crate) now: Timestamp,
    /// Last line, for example how to leave.
    pub(crate) footer: &'a str,
}

/// The lines of the view.
pub(crate) fn lines(model: &Model, frame: &Frame<'_>) -> Vec<Line<'static>> {
    let mut lines = vec![header(model, frame)];
    let rows: Vec<&Row> = model.rows().collect();
    let around = AROUND + usize::from(!model.warning.is_empty());
    let room = frame.height.saturating_sub(around).max(1);
    let (shown, folded) = if rows.len() <= room { (in_tree(&rows), None) } else { fold(&rows, room) };
    let columns = Columns::of(&shown, frame.width);
    if !shown.is_empty() {
        lines.push(columns.titles());
    }
    lines.extend(shown.iter().map(|(branches, row)| columns.task(branches, row, frame.now)));
    lines.extend(folded.map(|text| Line::styled(format!("  {text}"), dim())));
    if !model.warning.is_empty() {
        let text = format!("  ! {}", one_line(&model.warning, LONGEST_NOTE));
        lines.push(Line::styled(cut(&text, frame.width), look(WARN)));
    }
    if model.run.state() == RunState::WaitingApproval {
        let run = one_line(&model.run.r#ref, LONGEST_NOTE);
        let text = format!("  waits for an answer: orchctl approve {run}, or edit, or reject");
        lines.push(Line::styled(cut(&text, frame.width), look(run_look(RunState::WaitingApproval).1)));
    }
    if !frame.footer.is_empty() {
        lines.push(Line::styled(cut(&format!("  {}", frame.footer), frame.width), dim()));
    }
    lines
}

fn header(model: &Model, frame: &Frame<'_>) -> Line<'static> {
    let run = &model.run;
    let (glyph, style) = run_look(run.state());
    let total = model.rows().len().max(usize::try_from(run.task_count).unwrap_or(0));
    let done = model.rows().filter(|row| row.task.state() == TaskState::Succeeded).count();
    let ended = if run_ended(run.state()) { moment(run.finished_at) } else { Some(frame.now) };
    let took =
        moment(run.created_at).zip(ended).map(|(from, to)| short(between(from, to))).unwrap_or_default();
    let (cost, estimated) = model.cost();
    let tokens: u64 =
        model.tasks().filter_map(|task| task.usage.as_ref()).map(|usage| Tokens::of(usage).total).sum();
    let mut spans = vec![
        Span::styled(
            format!("{glyph} {}", one_line(&run.r#ref, LONGEST_NOTE)),
            Style::new().add_modifier(Modifier::BOLD),
        ),
        Span::raw("  "),
        Span::styled(run_state_word(run.state()), look(style)),
        Span::raw(format!(" {took}  ")),
    ];
    if frame.width >= BAR_FROM && total > 0 {
        let filled = BAR * done / total;
        spans.push(Span::styled("━".repeat(filled), look(style)));
        spans.push(Span::styled("─".repeat(BAR - filled), dim()));
        spans.push(Span::raw(" "));
    }
    spans.push(Span::raw(format!("{done}/{total}")));
    // Only a model costs money, and only recorded results count tokens.
    if cost > 0 {
        let limit = run.budget.as_ref().and_then(|budget| limit_of(budget).micro_usd);
        let of = limit.map(|limit| format!(" of {}", dollars(limit, false))).unwrap_or_default();
        spans.push(Span::raw(format!("  {}{of}", dollars(cost, estimated))));
    }
    if tokens > 0 {
        spans.push(Span::raw(format!("  {} tokens", count(tokens))));
    }
    if run.state() == RunState::Failed
        && let Some(word) = outcome_word(run.outcome())
    {
        spans.push(Span::styled(format!("  {word}"), look(style)));
    }
    Line::from(spans)
}

type Shown<'a> = Vec<(String, &'a Row)>;

fn in_tree<'a>(rows: &[&'a Row]) -> Shown<'a> {
    tree::layout(rows.iter().map(|row| &row.task))
        .into_iter()
        .map(|place| (place.branches, rows[place.position]))
        .collect()
}

/// The most telling rows, in their own order, and a sentence about the others.
fn fold<'a>(rows: &[&'a Row], room: usize) -> (Shown<'a>, Option<String>) {
    let mut positions: Vec<usize> = (0..rows.len()).collect();
    positions.sort_by_key(|position| {
        let task = &rows[*position].task;
        // Of those that ended well, the latest are the most telling.
        let recent = task.finished_at.map_or(0, |at| -at.seconds);
        (rank(task.state()), if task_ended(task.state()) { recent } else { 0 }, *position)
    });
    let mut kept = positions[..room].to_vec();
    kept.sort_unstable();
    let mut hidden = [(0, "succeeded"), (0, "waiting"), (0, "running"), (0, "failed"), (0, "not run")];
    for position in &positions[room..] {
        let state = rows[*position].task.state();
        let slot = match state {
            TaskState::Succeeded => 0,
            TaskState::Unspecified | TaskState::Blocked | TaskState::Queued => 1,
            TaskState::Failed => 3,
            TaskState::Cancelled | TaskState::Skipped => 4,
            TaskState::Leased
            | TaskState::Running
            | TaskState::Verifying
            | TaskState::WaitingRetry
            | TaskState::Parked => 2,
        };
        hidden[slot].0 += 1;
    }
    let parts: Vec<_> =
        hidden.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}")).collect();
    let text = format!("… and {}: {}", plural((rows.len() - room) as u64, "more task"), parts.join(", "));
    (kept.into_iter().map(|position| (String::new(), rows[position])).collect(), Some(text))
}

fn rank(state: TaskState) -> u8 {
    match state {
        TaskState::Failed => 0,
        state if task_moves(state) => 1,
        TaskState::Queued | TaskState::Blocked | TaskState::Unspecified => 2,
        TaskState::Succeeded
        | TaskState::Cancelled
        | TaskState::Skipped
        | TaskState::Leased
        | TaskState::Running
        | TaskState::Verifying
        | TaskState::WaitingRetry
        | TaskState::Parked => 3,
    }
}

/// Where the columns stand.
struct Columns {
    name: usize,
    agent: usize,
    note: usize,
}

const STATE: usize = 12;
const TIME: usize = 6;
const TURNS: usize = 5;
const COST: usize = 8;

impl Columns {
    fn of(shown: &Shown<'_>, width: usize) -> Self {
        let names = shown.iter().map(|(branches, row)| width_of(branches) + width_of(&row.task.task_id) + 2);
        let agents = shown.iter().map(|(_, row)| width_of(&row.task.agent));
        let name = names.max().unwrap_or(0).clamp(6, WIDEST_NAME.min(width / 3));
        let agent = if width >= AGENT_FROM { agents.max().unwrap_or(0).clamp(5, 16) } else { 0 };
        let used = 2
            + name
            + 2
            + STATE
            + 1
            + TIME
            + 1
            + TURNS
            + 1
            + COST
            + 2
            + agent
            + if agent > 0 { 2 } else { 0 };
        Self { name, agent, note: width.saturating_sub(used) }
    }

    fn titles(&self) -> Line<'static> {
        let name = self.name;
        let mut text = format!(
            "  {:<name$}  {:<STATE$} {:>TIME$} {:>TURNS$} {:>COST$}  ",
            "TASK", "STATE", "TIME", "TURNS", "COST"
        );
        if self.agent > 0 {
            text.push_str(&format!("{:<1$}  ", "AGENT", self.agent));
        }
        text.push_str(&cut("NOW", self.note));
        Line::styled(text.trim_end().to_owned(), dim())
    }

    fn task(&self, branches: &str, row: &Row, now: Timestamp) -> Line<'static> {
        let task = &row.task;
        let (glyph, style) = task_look(task.state());
        let style = look(style);
        let id =
            cut(&one_line(&task.task_id, LONGEST_NOTE), self.name.saturating_sub(width_of(branches) + 2));
        let pad = self.name.saturating_sub(width_of(branches) + width_of(&id) + 2);
        let cost = row.cost();
        let cost = if cost == 0 { String::new() } else { dollars(cost, row.estimated()) };
        let turns = if task.num_turns == 0 { String::new() } else { task.num_turns.to_string() };
        let mut spans = vec![
            Span::raw("  "),
            Span::styled(branches.to_owned(), dim()),
            Span::styled(glyph, style),
            Span::raw(format!(" {id}{}  ", " ".repeat(pad))),
            Span::styled(format!("{:<STATE$}", state_word(task)), style),
            Span::raw(format!(" {:>TIME$} {turns:>TURNS$} {cost:>COST$}  ", time(task, now))),
        ];
        if self.agent > 0 {
            let agent = if task.agent.is_empty() {
                "-".to_owned()
            } else {
                cut(&one_line(&task.agent, 64), self.agent)
            };
            let pad = self.agent.saturating_sub(width_of(&agent));
            spans.push(Span::raw(format!("{agent}{}  ", " ".repeat(pad))));
        }
        spans.push(Span::styled(
            cut(&note(row, now), self.note),
            if task_ended(task.state()) { dim() } else { Style::new() },
        ));
        Line::from(spans)
    }
}

/// A state's word, with the attempt where it is not the first.
fn state_word(task: &Task) -> String {
    let state = task.state();
    let word = match state {
        TaskState::WaitingRetry => "retrying".to_owned(),
        TaskState::Blocked => "waiting".to_owned(),
        TaskState::Unspecified
        | TaskState::Queued
        | TaskState::Leased
        | TaskState::Running
        | TaskState::Verifying
        | TaskState::Parked
        | TaskState::Succeeded
        | TaskState::Failed
        | TaskState::Cancelled
        | TaskState::Skipped => task_state_word(state),
    };
    if task.attempt > 1 && task_moves(state) { format!("{word} {}", task.attempt) } else { word }
}

fn time(task: &Task, now: Timestamp) -> String {
    if matches!(task.state(), TaskState::Leased | TaskState::Running | TaskState::Verifying) {
        return moment(task.started_at).map(|from| short(between(from, now))).unwrap_or_default();
    }
    span(task.execution_time).map(short).unwrap_or_default()
}

/// What it is doing, or why it is where it is, and what has become of it besides.
fn note(row: &Row, now: Timestamp) -> String {
    let task = &row.task;
    let doing = doing(row, now);
    let mut parts: Vec<String> = if doing.is_empty() { Vec::new() } else { vec![doing] };
    if task.repairs > 0 {
        parts.push(format!("sent back {}x", task.repairs));
    }
    if !task.reused_from.is_empty() {
        parts.push(format!("reused from {}", one_line(&task.reused_from, LONGEST_NOTE)));
    }
    parts.join("; ")
}

fn doing(row: &Row, now: Timestamp) -> String {
    let task = &row.task;
    let detail = one_line(&task.detail, LONGEST_NOTE);
    match task.state() {
        TaskState::Running | TaskState::Verifying | TaskState::Leased => one_line(&row.now, LONGEST_NOTE),
        // Everything is before it: nobody reads the list.
        TaskState::Blocked if task.role() == TaskRole::Synthesis => "waits for all others".to_owned(),
        TaskState::Blocked => format!("needs {}", one_line(&task.dependencies.join(", "), LONGEST_NOTE)),
        TaskState::WaitingRetry => {
            let wait = moment(task.retry_at)
                .map(|at| format!("again in {}: ", short(between(now, at))))
                .unwrap_or_default();
            format!("{wait}{detail}")
        }
        TaskState::Parked => {
            let left = moment(task.retry_at).map(|at| format!("in {}: ", short(between(now, at))));
            format!("{}{detail}", left.unwrap_or_default())
        }
        TaskState::Failed => reason(task.outcome(), &detail),
        TaskState::Succeeded => String::new(),
        TaskState::Unspecified | TaskState::Queued | TaskState::Cancelled | TaskState::Skipped => detail,
    }
}

fn dim() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

/// The one palette of [`crate::output::words`] in the words of the screen library.
fn look(style: anstyle::Style) -> Style {
    let mut look = Style::new();
    if let Some(anstyle::Color::Ansi(color)) = style.get_fg_color() {
        look = look.fg(match color {
            anstyle::AnsiColor::Red => Color::Red,
            anstyle::AnsiColor::Green => Color::Green,
            anstyle::AnsiColor::Yellow => Color::Yellow,
            anstyle::AnsiColor::Cyan => Color::Cyan,
            anstyle::AnsiColor::Black
            | anstyle::AnsiColor::Blue
            | anstyle::AnsiColor::Magenta
            | anstyle::AnsiColor::White
            | anstyle::AnsiColor::BrightBlack
            | anstyle::AnsiColor::BrightRed
            | anstyle::AnsiColor::BrightGreen
            | anstyle::AnsiColor::BrightYellow
            | anstyle::AnsiColor::BrightBlue
            | anstyle::AnsiColor::BrightMagenta
            | anstyle::AnsiColor::BrightCyan
            | anstyle::AnsiColor::BrightWhite => Color::Reset,
        });
    }
    if style.get_effects().contains(anstyle::Effects::DIMMED) {
        look = look.add_modifier(Modifier::DIM);
    }
    look
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::widgets::Paragraph;

    use super::super::model::samples;
    use super::*;

    fn drawn(model: &Model, width: u16, height: u16) -> String {
        let now = moment(Some(samples::at(82))).unwrap();
        let frame = Frame {
            width: width.into(),
            height: height.into(),
            now,
            footer: "Ctrl-C leaves; the run goes on",
        };
        let lines = lines(model, &frame);
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| frame.render_widget(Paragraph::new(lines), frame.area())).unwrap();
        let rows = terminal.backend().to_string();
        rows.lines().map(|row| row.trim_matches('"').trim_end()).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_run_at_120_columns() {
        insta::assert_snapshot!(drawn(&samples::model(), 120, 9), @r"
        ● release-notes/128  running 1m22s  ━━━━━━━━━─────────────── 2/5  ~$1.03  59k tokens
          TASK           STATE          TIME TURNS     COST  AGENT  NOW
          ✔ plan         succeeded       21s          $0.08  box-1
          ├─✔ api-notes  succeeded       48s          $0.31  box-1
          ├─● ui-notes   running         59s    14   ~$0.44  box-3  Edit docs/ui.md
          ╰─↻ db-notes   retrying                     $0.20  box-1  again in 6s: overloaded (529)
            ╰─○ merge    waiting                             -      needs api-notes, ui-notes, db-notes
          Ctrl-C leaves; the run goes on
        ");
    }

    fn planned(state: RunState) -> Model {
        use orch_proto::v1::{Run, TaskRole, WatchRunsResponse};
        let of = |index, id: &str, needs: &[&str], of: &str, role: TaskRole| Task {
            of: of.into(),
            role: role.into(),
            ..samples::task(index, id, needs)
        };
        let done = |task: Task| Task { state: TaskState::Succeeded.into(), ..task };
        let tasks = vec![
            done(of(0, "plan", &[], "", TaskRole::Plan)),
            of(1, "synthesis", &["plan", "emma", "lucas", "emma.publish"], "", TaskRole::Synthesis),
            Task { repairs: 1, ..done(samples::task(2, "emma", &["plan"])) },
            Task { state: TaskState::Running.into(), repairs: 1, ..samples::task(3, "lucas", &["plan"]) },
            of(4, "emma.review", &["emma"], "emma", TaskRole::Review),
            of(5, "emma.publish", &["emma"], "emma", TaskRole::Publish),
        ];
        let run = Run { r#ref: "adhoc/7".into(), state: state.into(), planned: true, ..Run::default() };
        let mut model = Model::default();
        model.apply(&WatchRunsResponse {
            run: Some(run),
            tasks,
            snapshot_complete: true,
            ..WatchRunsResponse::default()
        });
        model
    }

    #[test]
    fn a_planned_run_shows_what_belongs_to_each_task() {
        insta::assert_snapshot!(drawn(&planned(RunState::Synthesizing), 100, 10), @r"
        ● adhoc/7  synthesizing   ━━━━━━━━──────────────── 2/6
          TASK                STATE          TIME TURNS     COST  AGENT  NOW
          ✔ plan              succeeded                           -
          ├─✔ emma            succeeded                           -      sent back 1x
          │ ├─○ emma.review   waiting                             -      needs emma
          │ ╰─○ emma.publish  waiting                             -      needs emma
          ╰─● lucas           running                             -      sent back 1x
          ○ synthesis         waiting                             -      waits for all others
          Ctrl-C leaves; the run goes on
        ");
    }

    #[test]
    fn a_plan_that_waits_says_how_to_answer() {
        let shown = drawn(&planned(RunState::WaitingApproval), 80, 12);
        assert!(shown.contains("? adhoc/7  waiting_approval"), "{shown}");
        assert!(
            shown.contains("waits for an answer: orchctl approve adhoc/7, or edit, or reject"),
            "{shown}"
        );
    }

    #[test]
    fn a_run_at_80_columns() {
        insta::assert_snapshot!(drawn(&samples::model(), 80, 9), @r"
        ● release-notes/128  running 1m22s  2/5  ~$1.03  59k tokens
          TASK           STATE          TIME TURNS     COST  AGENT  NOW
          ✔ plan         succeeded       21s          $0.08  box-1
          ├─✔ api-notes  succeeded       48s          $0.31  box-1
          ├─● ui-notes   running         59s    14   ~$0.44  box-3  Edit docs/ui.md
          ╰─↻ db-notes   retrying                     $0.20  box-1  again in 6s: overlo…
            ╰─○ merge    waiting                             -      needs api-notes, ui…
          Ctrl-C leaves; the run goes on
        ");
    }

    #[test]
    fn a_run_at_60_columns() {
        insta::assert_snapshot!(drawn(&samples::model(), 60, 9), @r"
        ● release-notes/128  running 1m22s  2/5  ~$1.03  59k tokens
          TASK           STATE          TIME TURNS     COST  NOW
          ✔ plan         succeeded       21s          $0.08
          ├─✔ api-notes  succeeded       48s          $0.31
          ├─● ui-notes   running         59s    14   ~$0.44  Edit d…
          ╰─↻ db-notes   retrying                     $0.20  again …
            ╰─○ merge    waiting                             needs …
          Ctrl-C leaves; the run goes on
        ");
    }

    #[test]
    fn a_run_that_does_not_fit_is_folded() {
        insta::assert_snapshot!(drawn(&samples::model(), 100, 7), @r"
        ● release-notes/128  running 1m22s  ━━━━━━━━━─────────────── 2/5  ~$1.03  59k tokens
          TASK        STATE          TIME TURNS     COST  AGENT  NOW
          ● ui-notes  running         59s    14   ~$0.44  box-3  Edit docs/ui.md
          ↻ db-notes  retrying                     $0.20  box-1  again in 6s: overloaded (529)
          ○ merge     waiting                             -      needs api-notes, ui-notes, db-notes
          … and 2 more tasks: 2 succeeded
          Ctrl-C leaves; the run goes on
        ");
    }

    #[test]
    fn escape_sequences_of_a_task_never_reach_the_screen() {
        let mut model = samples::model();
        let activity = orch_proto::v1::Activity {
            task_id: "ui-notes".into(),
            now: "\u{1b}[2J".into(),
            ..Default::default()
        };
        model.apply(&samples::event(0, 82, orch_proto::v1::watch_event::Change::Activity(activity)));
        let screen = drawn(&model, 120, 9);
        assert!(screen.contains("␛[2J") && !screen.contains('\u{1b}'), "{screen}");
    }
}
