//! A transcript crosses a link that is cut again and again, and so does its reader: not a byte is missing or twice, and
//! nobody keeps it all in memory.

use crate::load::holds;
use orch_certs::Role;
use orch_proto::v1::transcript_service_client::TranscriptServiceClient;
use orch_proto::v1::{self, Outcome, TaskState};
use orch_tests::budget::{budget, figures};
use orch_tests::client::{channel, command, run};
use orch_tests::faults::proxy::{Fault, Proxy, Way};
use orch_tests::fleet::Fleet;
use orch_tests::history::Event;
use orch_tests::process::peak_memory;
use sha2::{Digest as _, Sha256};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const ROW: &str = "transcripts";
/// What agent and coordinator may take, whatever the length: the agent keeps 16 MiB of it as the answer, some copies of
/// that included.
const MEMORY_CAP: u64 = 160 << 20;
/// Bytes of a line.
const LINE: u64 = 64;
/// The link is so slow that what lies between two cuts takes this long.
const BETWEEN_CUTS: Duration = Duration::from_millis(500);
/// Bytes that pass the link at a time.
const GULP: usize = 16 << 10;
/// Nothing came for so long.
const PATIENCE: Duration = Duration::from_secs(120);

fn line(number: u64) -> String {
    format!("{number:015} is the number of this line of a long transcript")
}

/// SHA-256 of the first `lines` lines.
fn expected(lines: u64) -> Vec<u8> {
    let mut hash = Sha256::new();
    for number in 1..=lines {
        hash.update(line(number));
        hash.update("\n");
    }
    hash.finalize().to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transcript_over_a_link_that_is_cut_again_and_again_is_read_byte_for_byte() {
    let lines = budget("ORCH_TORTURE_TRANSCRIPT_MB", 5) * 1_000_000 / LINE;
    let cuts = budget("ORCH_TORTURE_CUTS", 10);
    let bytes = lines * LINE;
    let mut fleet = Fleet::start_with(orch_tests::binaries!(), "2s");
    let (up, down) = (Proxy::start(&fleet.ports().grpc).await, Proxy::start(&fleet.ports().grpc).await);
    fleet.route("box-1", &up.address());
    fleet.agent("box-1", &["--slots", "1", "--allow-command", "seq"]);
    let mut client = fleet.client().await;
    assert_eq!(line(7).len() as u64 + 1, LINE);

    let per_cut = bytes / (cuts + 1);
    let share = GULP as f64 / per_cut as f64;
    up.set(Way::Up, Fault::Drip { bytes: GULP, every: BETWEEN_CUTS.mul_f64(share) });
    let format = line(0).replace("000000000000000", "%015.0f");
    let task = command("t", "seq", &["-f", &format, "1", &lines.to_string()]);
    let submitted = client.submit(run(vec![task])).await;
    let task_ref = format!("{}/t", submitted.r#ref);
    client.task_in(&task_ref, TaskState::Running).await;

    let read_so_far = Arc::new(AtomicU64::new(0));
    let mut reading = JoinSet::new();
    let files = fleet.certificate(Role::Client, "ana");
    let transcripts = TranscriptServiceClient::new(channel(&down.address(), &files));
    reading.spawn(Reader { transcripts, task: task_ref.clone(), far: Arc::clone(&read_so_far) }.run(bytes));
    let began = Instant::now();
    let mut last = 0;
    for cut in 1..=cuts {
        last = progress(&read_so_far, last.max(per_cut * (cut - 1))).await;
        // The agent's link each time, the reader's every other time.
        up.reset();
        if cut % 2 == 0 {
            down.reset();
        }
    }
    up.heal();
    let (hash, chunks, resumed) = reading.join_next().await.expect("a reader").expect("joined");
    let took = began.elapsed();
    holds(&chunks);
    assert_eq!(hash, expected(lines), "the reader got other bytes");
    let task = client.task_in(&task_ref, TaskState::Succeeded).await;
    assert_eq!((task.outcome(), task.attempt), (Outcome::Ok, 1), "{task:?}");
    assert_eq!(raw_log(&fleet, &task_ref).await, expected(lines), "`orchctl logs --raw` printed other bytes");

    let peaks = [fleet.agent_process("box-1").id(), fleet.coordinator().id()]
        .map(|pid| peak_memory(pid).expect("it runs"));
    let resets = |proxy: &Proxy| {
        proxy.counts().fired().into_iter().find(|(kind, _)| *kind == "reset").expect("a kind").1
    };
    figures(
        ROW,
        &format!(
            "{} MB over {} connections of the agent cut and {} of the reader ({resumed} times resumed) in {took:?}: \
             byte-identical; peak memory agent {} MiB, coordinator {} MiB, cap {} MiB",
            bytes / 1_000_000,
            resets(&up),
            resets(&down),
            peaks[0] >> 20,
            peaks[1] >> 20,
            MEMORY_CAP >> 20
        ),
    );
    assert!(resets(&up) >= cuts && resets(&down) >= cuts / 2 && resumed >= cuts / 2);
    assert!(peaks.iter().all(|peak| *peak <= MEMORY_CAP), "{peaks:?}");
}

/// Waits until the reader is beyond `offset`, and returns where it is.
async fn progress(far: &AtomicU64, offset: u64) -> u64 {
    let began = Instant::now();
    loop {
        let now = far.load(Ordering::Relaxed);
        if now > offset {
            return now;
        }
        assert!(began.elapsed() < PATIENCE, "the reader stays at {now}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Follows a transcript to its end, and goes on from where it was after each cut.
struct Reader {
    transcripts: TranscriptServiceClient<tonic::transport::Channel>,
    task: String,
    far: Arc<AtomicU64>,
}

impl Reader {
    async fn run(mut self, bytes: u64) -> (Vec<u8>, Vec<Event>, u64) {
        let (mut hash, mut chunks, mut resumed) = (Sha256::new(), Vec::new(), 0);
        let mut offset = 0;
        while offset < bytes {
            let request =
                v1::ReadTranscriptRequest { r#ref: self.task.clone(), attempt: 1, offset, follow: true };
            let Ok(stream) = self.transcripts.read_transcript(request).await else {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            let mut stream = stream.into_inner();
            while let Ok(Ok(Some(chunk))) = tokio::time::timeout(PATIENCE, stream.message()).await {
                let length = chunk.data.len() as u64;
                let (task, reader) = (self.task.clone(), "reader".to_owned());
                chunks.push(Event::Chunk {
                    reader,
                    task,
                    attempt: chunk.attempt,
                    offset: chunk.offset,
                    bytes: length,
                });
                hash.update(&chunk.data);
                offset = chunk.offset + length;
                self.far.store(offset, Ordering::Relaxed);
            }
            resumed += u64::from(offset < bytes);
        }
        (hash.finalize().to_vec(), chunks, resumed)
    }
}

/// SHA-256 of what `orchctl logs --raw` prints.
async fn raw_log(fleet: &Fleet, task_ref: &str) -> Vec<u8> {
    let mut command = fleet.orchctl(&["logs", "--raw", task_ref]);
    let hashed = tokio::task::spawn_blocking(move || {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("orchctl starts");
        let mut hash = Sha256::new();
        std::io::copy(child.stdout.as_mut().expect("its output"), &mut hash).expect("read");
        assert!(child.wait().expect("it ends").success());
        hash.finalize().to_vec()
    });
    hashed.await.expect("joined")
}
