//! What was on a disk. Frames carry checksums that no fuzzer guesses: each target takes its bytes raw and in good frames.

use orch_agent::runner::AttemptKey;
use orch_agent::spool::record::{Record, read, write_entry};
use orch_agent::spool::{Entry, Inventory};
use orch_coordinator::persist::decode::{self, Interner};
use orch_coordinator::persist::{StoredPage, show};
use orch_coordinator::store::record::fuzzing::{framed, opened};
use orch_coordinator::store::{ClusterId, Key, MemoryStore, Prefix, Store, Tenant};
use orch_core::ids::{RunId, TenantId};
use orch_proto::store::v1 as record;
use prost::Message as _;

/// The journal of an agent: raw, and as entries made of the bytes.
pub fn spool(bytes: &[u8]) {
    replayed(bytes);
    let mut journal = Vec::new();
    for piece in bytes.chunks(12) {
        let [kind, task, attempt, payload @ ..] = piece else { continue };
        let key =
            AttemptKey { run: u64::from(kind >> 4), task: u32::from(*task), attempt: u32::from(*attempt) };
        let entry = match kind % 5 {
            0 => Entry::Accepted { key, payload: payload.to_vec() },
            1 => Entry::Started { key },
            2 => Entry::Finished { key, report: payload.to_vec() },
            3 => Entry::Settled { key },
            _ => Entry::Coordinator { epoch: u64::from(*task), cluster: payload.to_vec() },
        };
        write_entry(&entry, &mut journal);
    }
    replayed(&journal);
}

/// Replays a journal; what is remembered must be the same when it is written anew.
fn replayed(mut bytes: &[u8]) {
    let mut inventory = Inventory::default();
    while let Some((record, length)) = read(bytes) {
        if let Record::Entry(entry) = record {
            inventory.apply(entry);
        }
        bytes = &bytes[length..];
    }
    let mut again = Inventory::default();
    inventory.entries().into_iter().for_each(|entry| again.apply(entry));
    assert_eq!(again, inventory);
}

/// A record's frame, raw and good but for one bit; and any bytes as a key.
pub fn store_record(bytes: &[u8]) {
    let key = Key::task(Tenant::DEFAULT, 1, 2);
    let _ = opened(&key, bytes);
    if let Ok(key) = Key::from_bytes(bytes) {
        let _ = (key.tenant(), key.kind(), key.entity().is_ok());
        assert_eq!(key.as_bytes(), bytes);
    }
    let Some(([a, b], payload)) = bytes.split_first_chunk() else { return };
    let mut good = framed(&key, payload);
    assert_eq!(opened(&key, &good), Ok(payload));
    let bit = usize::from(u16::from_le_bytes([*a, *b])) % (good.len() * 8);
    good[bit / 8] ^= 1 << (bit % 8);
    assert!(opened(&key, &good).is_err(), "bit {bit} of {} bytes", good.len());
    assert!(opened(&Key::task(Tenant::DEFAULT, 1, 3), &framed(&key, payload)).is_err(), "of another task");
}

/// The payloads of records: what a start restores, and what readers show. The first byte says which.
pub fn persist(bytes: &[u8]) {
    let Some((kind, rest)) = bytes.split_first() else { return };
    let mut shared = Interner::default();
    match kind % 6 {
        0 => {
            let Ok(run) = record::RunRecord::decode(rest) else { return };
            let _ = decode::run(TenantId(1), RunId(1), &run, &mut shared);
            let shown = show::run(1, &run, None);
            assert_eq!(shown.r#ref, show::run_ref(&run));
        }
        1 => {
            let Ok(task) = record::TaskRecord::decode(rest) else { return };
            let _ = decode::task_progress(&task, &mut shared);
            let spec = record::StoredSpec::default();
            let shown = show::task(&record::RunRecord::default(), 0, &spec, Some(&task), Vec::new());
            drop(shown.encode_to_vec());
        }
        2 => {
            let Ok(spec) = record::StoredSpec::decode(rest) else { return };
            let _ = decode::task(&spec, None, &mut shared);
            drop(show::task(&record::RunRecord::default(), 0, &spec, None, Vec::new()).encode_to_vec());
        }
        3 => {
            let Ok(page) = record::SpecPage::decode(rest) else { return };
            if let Ok(page) = StoredPage::from_record(page) {
                assert_eq!(StoredPage::from_record(page.clone().into_record()).as_ref(), Ok(&page));
            }
        }
        4 => {
            let Ok(agent) = record::AgentRecord::decode(rest) else { return };
            drop(decode::agent(TenantId(1), "box-1", &agent, &mut shared));
        }
        _ => {
            if let Ok(request) = record::RequestRecord::decode(rest) {
                let _ = decode::request(TenantId(1), &request);
            }
            if let Ok(page) = record::EventPage::decode(rest) {
                drop(page.encode_to_vec());
            }
        }
    }
}

/// An export: raw, and lines with the trailer that vouches for them. What is taken is given out again byte for byte.
pub fn transfer(bytes: &[u8]) {
    imported(bytes);
    let source = MemoryStore::of_cluster(ClusterId([7; 16]));
    let mut whole = Vec::new();
    source.export(&mut whole).expect("a memory store can be exported");
    // Between header and trailer: records of the target's own, under keys that rise.
    let header_end = whole.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let mut text = whole[..header_end].to_vec();
    let mut count = 0;
    for (at, piece) in (0_u64..).zip(bytes.chunks(16)) {
        let key = Key::run(Tenant::DEFAULT, at);
        let line = format!("{{\"key\":\"{}\",\"value\":\"{}\"}}\n", hex(key.as_bytes()), hex(piece));
        text.extend_from_slice(line.as_bytes());
        count += 1;
    }
    let crc = crc32c(&text);
    text.extend_from_slice(format!("{{\"records\":{count},\"crc32c\":\"{crc:08x}\"}}\n").as_bytes());
    assert!(imported(&text), "a good export is taken");
    if let Some(&byte) = bytes.first() {
        let at = usize::from(byte) * 7 % text.len();
        text[at] ^= 1;
        assert!(!imported(&text), "byte {at} of an export was changed");
    }
}

fn imported(bytes: &[u8]) -> bool {
    let store = MemoryStore::new();
    let taken = store.import(&mut &*bytes).is_ok();
    if taken {
        let mut again = Vec::new();
        store.export(&mut again).expect("a memory store can be exported");
        assert_eq!(again, bytes);
        let _ = store.scan(&Prefix::everything(), None, 10);
    }
    taken
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// CRC-32C, bit by bit: an implementation of its own, so that a mistake in the one under test is seen.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(
            crc ^ u32::from(*byte),
            |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 },
        )
    })
}
