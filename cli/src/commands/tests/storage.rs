//! Copies of what the coordinator keeps, and giving them back.

use std::path::Path;

use super::fake::storage::ARCHIVE;
use super::*;

fn file(dir: &Path, name: &str, bytes: &[u8]) -> String {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    path.display().to_string()
}

fn whole() -> Vec<u8> {
    [ARCHIVE, &[7; 600 << 10], b"\"end\"\n"].concat()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_backup_is_whole_private_and_never_written_over() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("monday.orch");
    let line = format!("admin backup {}", path.display());
    let stage = Stage::new();
    let ran = stage.run(&line).await;
    assert_eq!((ran.code, ran.stdout.trim()), (exit::DONE, path.to_str().unwrap()));
    assert!(
        ran.stderr.contains("12345 records, epoch 3, sha256 ") && ran.stderr.contains("--check"),
        "{}",
        ran.stderr
    );
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let bytes = std::fs::read(&path).unwrap();
    assert!(bytes.starts_with(ARCHIVE));

    let again = stage.run(&line).await;
    assert_eq!(again.code, exit::CONFLICT);
    assert!(
        again.stderr.contains("is there already") && again.stderr.contains("--force"),
        "{}",
        again.stderr
    );
    let json = stage.run(&format!("{line} --force -o json")).await;
    let view: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((view["bytes"].as_u64(), view["records"].as_u64()), (Some(bytes.len() as u64), Some(12_345)));
    let kind = super::super::schema::KINDS.iter().find(|kind| kind.name == "copy").unwrap();
    golden::fits((kind.schema)(), &view);
    assert_eq!(names(home.path()), ["monday.orch"]);
}

#[tokio::test]
async fn a_copy_that_is_cut_off_leaves_no_file() {
    let home = tempfile::tempdir().unwrap();
    let stage = Stage::new();
    stage.fake.held().storage.cut = true;
    let ran = stage.run(&format!("admin backup {}", home.path().join("a.orch").display())).await;
    assert_eq!(ran.code, exit::UNREACHABLE, "{}", ran.stderr);
    assert!(ran.stderr.contains("cut off and is not kept"), "{}", ran.stderr);
    assert_eq!(names(home.path()), [""; 0]);
}

#[tokio::test]
async fn a_copy_without_a_name_says_of_which_cluster_and_when() {
    let at = Times::fixed(crate::args::TimeStyle::Relative, NOW.parse().unwrap());
    let storage = fake::storage::Kept::default().now;
    let name = |form| super::super::admin::usual_name(form, &storage, &at).display().to_string();
    assert_eq!(name(orch_proto::v1::BackupForm::Archive), "orch-backup-9f3c2a71-20261120T213000Z.orch");
    assert_eq!(name(orch_proto::v1::BackupForm::Records), "orch-export-9f3c2a71-20261120T213000Z.jsonl");
}

#[tokio::test]
async fn a_backup_does_not_go_to_a_terminal() {
    let stage = Stage { look: testing::Look { terminal: true, ..testing::Look::default() }, ..Stage::new() };
    let ran = stage.run("admin backup -").await;
    assert_eq!((ran.code, ran.stdout.as_str()), (exit::USAGE, ""));
    assert!(ran.stderr.contains("name a file"), "{}", ran.stderr);
}

#[tokio::test]
async fn what_is_restored_is_shown_first_and_nothing_happens_without_consent() {
    let home = tempfile::tempdir().unwrap();
    let copy = file(home.path(), "a.orch", &whole());
    let stage = Stage::new();
    let ran = stage.run(&format!("admin restore {copy} --no-input")).await;
    assert_eq!(ran.code, exit::USAGE);
    assert!(ran.stderr.contains("12001 records, 210 files, 87 transcripts, epoch 2"), "{}", ran.stderr);
    assert!(ran.stderr.contains("3 active runs") || ran.stderr.contains("11 running"), "{}", ran.stderr);
    assert!(ran.stderr.contains("replaces what the coordinator keeps") && ran.stderr.contains("--yes"));
    assert!(stage.fake.held().storage.restored.is_empty());

    let ran = stage.run(&format!("admin restore {copy} --yes")).await;
    assert_eq!(ran.code, exit::DONE, "{}", ran.stderr);
    assert!(
        ran.stdout.contains("restored 12001 records") && ran.stdout.contains("epoch 3 → 4"),
        "{}",
        ran.stdout
    );
    assert!(ran.stderr.contains("kept in aside/restore-"), "{}", ran.stderr);
    assert_eq!(stage.fake.held().storage.restored.len(), 1);
}

#[tokio::test]
async fn a_restore_whose_answer_is_lost_is_looked_for_and_not_repeated() {
    let home = tempfile::tempdir().unwrap();
    let copy = file(home.path(), "a.orch", &whole());
    let stage = Stage::new();
    stage.fake.held().storage.answers_lost = true;
    let ran = stage.run(&format!("admin restore {copy} --yes")).await;
    assert_eq!(ran.code, exit::DONE, "{}", ran.stderr);
    assert!(ran.stderr.contains("the connection ended before the answer came"), "{}", ran.stderr);
    assert!(ran.stdout.contains("restored 12001 records"), "{}", ran.stdout);
    assert!(ran.stderr.contains("kept in aside/restore-"), "{}", ran.stderr);
    assert_eq!(stage.fake.held().storage.restored.len(), 1);
}

#[tokio::test]
async fn what_is_no_copy_is_refused_before_anything_changes() {
    let home = tempfile::tempdir().unwrap();
    let stage = Stage::new();
    let cut = file(home.path(), "cut.orch", &whole()[..1000]);
    let empty = file(home.path(), "empty.orch", b"");
    let tar = file(home.path(), "a.tar", &[0x1f, 0x8b, 0, 9, 9]);
    let export = file(home.path(), "export.jsonl", b"{\"format\":\"orch-store-export\"}\n\"end\"\n");
    for (line, code, says) in [
        (format!("admin restore {cut} --yes"), exit::CONFLICT, "ends in the middle of a record"),
        (format!("admin restore {empty} --yes"), exit::USAGE, "is empty"),
        (format!("admin restore {export} --yes"), exit::USAGE, "orchctl admin import"),
        (format!("admin import {cut} --yes"), exit::USAGE, "orchctl admin restore"),
        (format!("admin restore {tar} --yes"), exit::USAGE, "neither a backup nor an export"),
        (format!("admin restore {} --yes", home.path().display()), exit::USAGE, "cannot read"),
        ("admin restore /no/such/file --yes".to_owned(), exit::USAGE, "cannot read"),
    ] {
        let ran = stage.run(&line).await;
        assert_eq!(ran.code, code, "{line}: {}", ran.stderr);
        assert!(ran.stderr.contains(says), "{line}: {}", ran.stderr);
    }
    assert!(stage.fake.held().storage.restored.is_empty());
}

#[tokio::test]
async fn the_copy_of_another_cluster_is_taken_only_by_its_id() {
    let home = tempfile::tempdir().unwrap();
    let copy = file(home.path(), "a.orch", &whole());
    let stage = Stage::new();
    let id = "00112233-4455-6677-8899-aabbccddeeff";
    stage.run(&format!("admin restore {copy} --yes --cluster {id}")).await;
    assert_eq!(
        stage.fake.held().storage.restored[0].cluster_id,
        (0..16).map(|n| n * 17).collect::<Vec<u8>>()
    );
    let wrong = Cli::try_parse_from(words(&format!("admin restore {copy} --cluster 12")));
    assert!(wrong.unwrap_err().to_string().contains("32 hexadecimal digits"));
}

#[tokio::test]
async fn dead_letters_are_tried_again_by_run_and_their_crashes_forgotten() {
    let stage = golden::trouble();
    let ran = stage.run("retry --dead --all --yes").await;
    assert_eq!(ran.code, exit::DONE, "{}", ran.stderr);
    let refs: Vec<_> =
        stage.fake.held().retried.iter().map(|request| (request.r#ref.clone(), request.dead)).collect();
    assert_eq!(refs, [("adhoc/8".to_owned(), true), ("nightly/7".to_owned(), true)]);
    let none = stage.run("retry --dead --all").await;
    assert_eq!((none.code, none.stdout.as_str()), (exit::DONE, ""));
    assert!(none.stderr.contains("no dead letters"), "{}", none.stderr);
}

#[tokio::test]
async fn many_dead_letters_are_not_tried_again_unasked() {
    let stage = golden::trouble();
    let ran = stage.run("retry --dead --all --no-input").await;
    assert_eq!(ran.code, exit::USAGE);
    assert!(ran.stderr.contains("3 dead letters"), "{}", ran.stderr);
    assert!(stage.fake.held().retried.is_empty());
}

#[tokio::test]
async fn an_agent_that_is_connected_is_not_forgotten() {
    let ran = golden::trouble().run("agents remove box-1").await;
    assert_eq!(ran.code, exit::CONFLICT);
    assert!(ran.stderr.contains("orchctl agents drain box-1 --wait"), "{}", ran.stderr);
}
