//! What blobs promise, on files.

use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::*;
use crate::blobs::SWEEP_MIN_AGE;

const T: Tenant = Tenant::DEFAULT;
const OTHER: Tenant = Tenant::new(2);

fn blobs() -> (TempDir, FileBlobs) {
    let dir = tempfile::tempdir().unwrap();
    let blobs = FileBlobs::open(&dir.path().join("blobs")).unwrap();
    (dir, blobs)
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(files_below(&entry.path()));
        } else if entry.file_name() != "lock" {
            found.push(entry.path());
        }
    }
    found
}

fn later(hours: u64) -> SystemTime {
    SystemTime::now() + Duration::from_hours(hours)
}

#[test]
fn bytes_come_back_by_their_location_after_a_restart() {
    let (dir, mut blobs) = blobs();
    for bytes in [&b""[..], b"prompt", &[7; 1 << 20]] {
        let stored = blobs.put(T, bytes).unwrap();
        assert_eq!((stored.digest, stored.len), (Digest::of(bytes), bytes.len() as u64));
        drop(blobs);
        blobs = FileBlobs::open(&dir.path().join("blobs")).unwrap();
        assert_eq!(blobs.read(T, &stored.location, 1 << 20).unwrap(), bytes);
    }
}

#[test]
fn equal_bytes_are_stored_once_and_synced_once() {
    let (dir, blobs) = blobs();
    let first = blobs.put(T, b"same").unwrap();
    assert_eq!(blobs.syncs(), 1);
    assert_eq!(blobs.put(T, b"same").unwrap(), first);
    assert_eq!(blobs.syncs(), 1);
    assert_eq!(files_below(dir.path()).len(), 1);
}

#[test]
fn a_location_leads_nowhere_under_another_tenant() {
    let (_dir, blobs) = blobs();
    let alone = blobs.put(T, b"secret").unwrap();
    let mut pack = blobs.begin_pack(T).unwrap();
    pack.add(b"packed secret").unwrap();
    let packed = pack.finish().unwrap().remove(0);
    for location in [alone.location, packed.location] {
        assert!(blobs.read(T, &location, 100).is_ok());
        assert!(matches!(blobs.read(OTHER, &location, 100), Err(BlobError::NotFound { .. })));
    }
}

#[test]
fn a_blob_is_read_in_parts() {
    let (_dir, blobs) = blobs();
    let stored = blobs.put(T, b"0123456789").unwrap();
    let blob = blobs.open(T, &stored.location).unwrap();
    assert_eq!(blob.len(), 10);
    assert_eq!(blob.read_at(0, 4).unwrap(), b"0123");
    assert_eq!(blob.read_at(8, 4).unwrap(), b"89");
    assert_eq!(blob.read_at(10, 4).unwrap(), b"");
    assert_eq!(blob.read_at(u64::MAX, usize::MAX).unwrap(), b"");
    assert!(matches!(blobs.read(T, &stored.location, 9), Err(BlobError::TooLarge { len: 10, limit: 9 })));
}

#[test]
fn an_upload_takes_pieces_in_order_and_again() {
    let (_dir, blobs) = blobs();
    let mut upload = blobs.begin(T, 10).unwrap();
    assert_eq!(upload.append(0, b"0123").unwrap(), 4);
    assert_eq!(upload.append(0, b"0123").unwrap(), 4, "repeated");
    assert_eq!(upload.append(2, b"2345").unwrap(), 6, "overlapping");
    assert!(matches!(upload.append(7, b"7"), Err(UploadError::Gap { offset: 7, received: 6 })));
    assert!(matches!(upload.append(6, b"67890"), Err(UploadError::TooLarge { limit: 10 })));
    assert_eq!(upload.append(6, b"6789").unwrap(), 10);
    assert_eq!(upload.received(), 10);
    let stored = upload.finish(&Digest::of(b"0123456789")).unwrap();
    assert_eq!(blobs.read(T, &stored.location, 10).unwrap(), b"0123456789");
}

#[test]
fn an_upload_of_other_bytes_than_announced_leaves_nothing() {
    let (dir, blobs) = blobs();
    let mut upload = blobs.begin(T, 10).unwrap();
    upload.append(0, b"these").unwrap();
    assert!(matches!(upload.finish(&Digest::of(b"those")), Err(UploadError::Digest { .. })));
    let mut dropped = blobs.begin(T, 10).unwrap();
    dropped.append(0, b"half").unwrap();
    drop(dropped);
    assert!(files_below(dir.path()).is_empty());
}

#[test]
fn what_was_under_way_in_a_crash_is_gone_after_it() {
    let (dir, blobs) = blobs();
    fs::write(dir.path().join("blobs/tmp/.tmpAbCdEf"), b"half").unwrap();
    drop(blobs);
    FileBlobs::open(&dir.path().join("blobs")).unwrap();
    assert!(files_below(dir.path()).is_empty());
}

#[test]
fn a_pack_holds_many_payloads_for_one_sync() {
    let (dir, blobs) = blobs();
    let payloads: Vec<Vec<u8>> = (0..100_u8).map(|n| vec![n; usize::from(n) * 100]).collect();
    let mut pack = blobs.begin_pack(T).unwrap();
    let places: Vec<usize> = payloads.iter().map(|payload| pack.add(payload).unwrap()).collect();
    assert_eq!(pack.add(&payloads[7]).unwrap(), places[7], "an equal payload shares its place");
    let stored = pack.finish().unwrap();
    assert_eq!((blobs.syncs(), stored.len(), files_below(dir.path()).len()), (1, 100, 1));
    for (payload, place) in payloads.iter().zip(places) {
        let Stored { digest, len, location } = &stored[place];
        assert_eq!((*digest, *len), (Digest::of(payload), payload.len() as u64));
        let carried = location.to_string().parse().unwrap();
        assert_eq!(blobs.read(T, &carried, 1 << 20).unwrap(), *payload);
    }
    let mut again = blobs.begin_pack(T).unwrap();
    for payload in &payloads {
        again.add(payload).unwrap();
    }
    assert_eq!(again.finish().unwrap(), stored, "the same payloads make the same pack");
    assert_eq!(blobs.syncs(), 1);
    assert!(blobs.begin_pack(T).unwrap().finish().unwrap().is_empty());
}

#[test]
fn a_second_process_is_refused_before_it_discards_uploads() {
    let (dir, blobs) = blobs();
    let mut upload = blobs.begin(T, 10).unwrap();
    upload.append(0, b"01234").unwrap();
    let refused = FileBlobs::open(&dir.path().join("blobs"));
    assert!(matches!(refused, Err(OpenBlobsError::Locked(_))));
    upload.append(5, b"56789").unwrap();
    upload.finish(&Digest::of(b"0123456789")).unwrap();
}

#[test]
fn damage_is_found_when_all_of_a_blob_is_read() {
    let (dir, blobs) = blobs();
    let alone = blobs.put(T, b"payload").unwrap();
    let mut pack = blobs.begin_pack(T).unwrap();
    pack.add(b"first").unwrap();
    pack.add(b"second").unwrap();
    let packed = pack.finish().unwrap();
    for path in files_below(dir.path()) {
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    assert!(blobs.read(T, &packed[0].location, 100).is_ok(), "the other payload is whole");
    for location in [&alone.location, &packed[1].location] {
        assert!(matches!(blobs.read(T, location, 100), Err(BlobError::Damaged { .. })), "{location}");
    }
}

#[test]
fn a_forged_location_reads_nothing() {
    let (_dir, blobs) = blobs();
    let mut pack = blobs.begin_pack(T).unwrap();
    pack.add(b"first").unwrap();
    pack.add(b"second").unwrap();
    let BlobLocation::Pack { pack, digest, .. } = pack.finish().unwrap()[1].location.clone() else {
        panic!()
    };
    for (offset, len) in [(0, 5), (0, 11), (0, 12), (5, u64::MAX), (u64::MAX, 6), (0, 1 << 40)] {
        let forged = BlobLocation::Pack { pack, offset, len, digest };
        assert!(matches!(blobs.read(T, &forged, u64::MAX), Err(BlobError::Damaged { .. })), "{forged}");
    }
}

#[test]
fn a_sweep_removes_only_what_is_old_and_unreferenced() {
    let (dir, blobs) = blobs();
    let wanted = blobs.put(T, b"wanted").unwrap();
    let unwanted = blobs.put(T, b"unwanted").unwrap();
    let elsewhere = blobs.put(OTHER, b"wanted").unwrap();
    let mut pack = blobs.begin_pack(T).unwrap();
    pack.add(b"packed").unwrap();
    let packed = pack.finish().unwrap().remove(0);
    fs::write(dir.path().join("blobs/1/README"), b"not ours").unwrap();
    let mut only_wanted = |tenant, kept: &Kept| tenant == T && *kept == Kept::Blob(wanted.digest);

    assert_eq!(blobs.sweep(SWEEP_MIN_AGE, later(23), &mut only_wanted).unwrap(), Swept::default());
    let past = SystemTime::now() - Duration::from_hours(48);
    assert_eq!(blobs.sweep(SWEEP_MIN_AGE, past, &mut only_wanted).unwrap(), Swept::default());
    let swept = blobs.sweep(SWEEP_MIN_AGE, later(25), &mut only_wanted).unwrap();
    assert_eq!(swept, Swept { files: 3, bytes: 8 + 6 + 6 });
    assert!(blobs.read(T, &wanted.location, 100).is_ok());
    for (tenant, gone) in [(T, unwanted), (OTHER, elsewhere), (T, packed)] {
        assert!(matches!(blobs.read(tenant, &gone.location, 100), Err(BlobError::NotFound { .. })));
    }
    assert!(dir.path().join("blobs/1/README").exists());
}

#[test]
fn bytes_that_are_stored_again_while_a_sweep_runs_stay() {
    let (_dir, blobs) = blobs();
    let stored = blobs.put(T, b"old").unwrap();
    let path = blobs.files.path(T, &Kept::Blob(stored.digest));
    let long_ago = SystemTime::now() - Duration::from_hours(100);
    File::options().write(true).open(&path).unwrap().set_modified(long_ago).unwrap();
    let swept = blobs.sweep(SWEEP_MIN_AGE, SystemTime::now(), &mut |_, _| {
        blobs.put(T, b"old").unwrap();
        false
    });
    assert_eq!(swept.unwrap(), Swept::default());
    assert!(blobs.read(T, &stored.location, 100).is_ok());
}

#[test]
fn files_and_directories_are_private() {
    let (dir, blobs) = blobs();
    let stored = blobs.put(T, b"private").unwrap();
    let path = blobs.files.path(T, &Kept::Blob(stored.digest));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    for above in path.ancestors().skip(1).take_while(|above| *above != dir.path()) {
        assert_eq!(mode(above), 0o700, "{}", above.display());
    }
}

#[test]
fn what_is_stored_is_found_by_digest_and_length_and_counts_as_stored_now() {
    let (dir, blobs) = blobs();
    let stored = blobs.put(T, b"here").unwrap();
    assert_eq!(blobs.find(T, &stored.digest, 4).unwrap(), Some(stored.clone()));
    assert_eq!(blobs.find(T, &stored.digest, 5).unwrap(), None);
    assert_eq!(blobs.find(OTHER, &stored.digest, 4).unwrap(), None, "digests do not cross tenants");
    assert_eq!(blobs.find(T, &Digest::of(b"not here"), 8).unwrap(), None);
    let file = files_below(dir.path()).pop().unwrap();
    let old = SystemTime::now() - SWEEP_MIN_AGE - Duration::from_hours(1);
    File::options().write(true).open(&file).unwrap().set_modified(old).unwrap();
    blobs.find(T, &stored.digest, 4).unwrap();
    let swept = blobs.sweep(SWEEP_MIN_AGE, SystemTime::now(), &mut |_, _| false).unwrap();
    assert_eq!(swept.files, 0);
}

#[test]
fn what_a_record_is_about_to_name_is_kept_from_a_sweep() {
    let (dir, blobs) = blobs();
    let stored = blobs.put(T, b"old").unwrap();
    let mut pack = blobs.begin_pack(T).unwrap();
    pack.add(b"in a pack").unwrap();
    let packed = pack.finish().unwrap().remove(0);
    let old = SystemTime::now() - SWEEP_MIN_AGE - Duration::from_hours(1);
    for file in files_below(dir.path()) {
        File::options().write(true).open(&file).unwrap().set_modified(old).unwrap();
    }
    assert_eq!(blobs.keep(T, &stored.location).unwrap(), Some(3));
    assert_eq!(blobs.keep(T, &packed.location).unwrap(), Some(9));
    assert_eq!(blobs.keep(OTHER, &stored.location).unwrap(), None);
    let BlobLocation::Pack { pack, digest, .. } = packed.location else { panic!() };
    let outside = BlobLocation::Pack { pack, offset: 5, len: 5, digest };
    assert_eq!(blobs.keep(T, &outside).unwrap(), None);
    let swept = blobs.sweep(SWEEP_MIN_AGE, SystemTime::now(), &mut |_, _| false).unwrap();
    assert_eq!(swept.files, 0);
}
