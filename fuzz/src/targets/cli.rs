//! What processes of an attempt say.

use std::time::Instant;

use orch_agent::credentials::login_file::Login;
use orch_agent::gateway::sse::SseScanner;
use orch_agent::gateway::warmth::Warmth;
use orch_agent::gateway::{question, usage, wire as gateway};
use orch_agent::runner::Live;
use orch_agent::runner::claude::judge::{Terms, denied, judge};
use orch_agent::runner::claude::observer::{Demands, Facts, Observer};
use orch_agent::supervisor::exit::ExitRecord;
use orch_agent::supervisor::result_line::ResultSpotter;
use orch_agent::supervisor::wire::{Command, Event, parse, spell};

/// Output of the CLI: where it is cut never matters, whatever it says is judged, and money never runs backwards.
pub fn stream_json(bytes: &[u8]) {
    let Some((&first, rest)) = bytes.split_first() else { return };
    let structured = first & 1 == 1;
    let cut = usize::from(first >> 1) + 1;
    let (whole, pieces) = (followed(rest, rest.len().max(1), structured), followed(rest, cut, structured));
    assert_eq!(format!("{whole:?}"), format!("{pieces:?}"));
    let terms = Terms { structured, denial_fails: first & 2 == 2, goes_on: first & 4 == 4 };
    for code in [Some(0), Some(1), None] {
        let exit = ExitRecord {
            code,
            signal: code.is_none().then_some(9),
            stdout_len: rest.len() as u64,
            ..ExitRecord::default()
        };
        let verdict = judge(&whole, terms, &exit, "", 1_795_210_000);
        assert!(verdict.detail.len() <= 64 << 10, "{} bytes of detail", verdict.detail.len());
    }
    let _ = whole.is_cut_off();
    if let Some((result, _)) = &whole.result {
        let _ = denied(result);
    }
    let _ = orchctl::fuzzing::transcript(rest, cut);

    let mut spotter = ResultSpotter::default();
    let at_once = spotter.push(rest);
    let mut spotter = ResultSpotter::default();
    let in_pieces: usize = rest.chunks(cut).map(|piece| spotter.push(piece)).sum();
    assert_eq!(at_once, in_pieces);
}

fn followed(bytes: &[u8], cut: usize, structured: bool) -> Facts {
    let demands =
        Demands { structured, max_turns: Some(3), budget_micro_usd: Some(1_000_000), ..Demands::default() };
    let mut observer = Observer::new(demands);
    let mut live = Live::default();
    for piece in bytes.chunks(cut) {
        drop(observer.push(piece));
    }
    observer.describe(&mut live);
    observer.finish()
}

/// What passes a gateway: requests of the CLI, answers of the API, words of an agent. Where a stream is cut never matters, and
/// a weight is never above the length of what was weighed.
pub fn gateway(bytes: &[u8]) {
    let Some((&first, rest)) = bytes.split_first() else { return };
    let scanned = |cut: usize| {
        let mut scanner = SseScanner::default();
        rest.chunks(cut).for_each(|piece| scanner.push(piece));
        (scanner.seen(), scanner.tokens())
    };
    let (seen, tokens) = scanned(rest.len().max(1));
    assert_eq!((seen, tokens), scanned(usize::from(first) + 1));
    assert!(seen.ended || tokens.output >= seen.tokens.output);
    if let Ok(question) = question::read(rest) {
        // A number of one digit weighs four, the mark of a list nothing.
        assert!(question.weight <= 4 * rest.len() as u64, "{question:?}");
        assert!(question.beginnings.iter().all(|beginning| beginning.weight <= question.weight));
        let bound = Warmth::bound(&question);
        assert!(Warmth::default().likely_cached(&question, Instant::now()) <= bound);
    }
    let _ = usage::of_answer(rest);
    if let Ok(event) = parse::<gateway::Event>(rest) {
        assert_eq!(parse::<gateway::Event>(&spell(&event)).ok(), Some(event));
    }
    if let Ok(command) = parse::<gateway::Command>(rest) {
        assert_eq!(parse::<gateway::Command>(&spell(&command)).ok(), Some(command));
    }
}

/// What agent and supervisor say to each other, and the files that they and the CLI leave: read, spelt, read again.
pub fn supervisor(bytes: &[u8]) {
    if let Ok(command) = parse::<Command>(bytes) {
        assert_eq!(parse::<Command>(&spell(&command)).ok(), Some(command));
    }
    if let Ok(event) = parse::<Event>(bytes) {
        assert_eq!(parse::<Event>(&spell(&event)).ok(), Some(event));
    }
    if let Ok(exit) = serde_json::from_slice::<ExitRecord>(bytes) {
        let again: ExitRecord = serde_json::from_slice(&spell(&exit)).expect("what was spelt can be read");
        assert_eq!(again, exit);
    }
    let _ = orch_agent::supervisor::spec::read_orders(bytes);
    if let Some(login) = Login::parse(bytes) {
        let _ = (login.secrets().len(), login.subscription(), login.is_spent(0));
        let spent = login.without_refresh();
        assert!(login.successor(&spent).is_none_or(|next| Login::parse(next.bytes()).is_some()));
    }
}
