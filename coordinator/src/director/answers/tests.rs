//! What reviewers' reasons become.

use super::*;

#[test]
fn an_author_is_told_every_reason_within_bounds() {
    let told = review_feedback("critic", &["wrong sum".into(), "no date".into()]);
    assert!(told.contains("- wrong sum\n- no date\n") && told.contains("`critic`"), "{told}");
    let many: Vec<String> = (0..150).map(|at| format!("reason {at}")).collect();
    let told = review_feedback("critic", &many);
    assert!(told.contains("reason 99\n- and 50 more"), "{told}");
    assert!(review_feedback("critic", &[]).contains("no reason"));
}

#[test]
fn a_record_that_is_too_long_gives_up_what_is_only_shown() {
    let mut result = ResultRecord {
        denied_tools: vec!["d".repeat(64); 8],
        summary: "s".repeat(256),
        structured: bulk::text("x".repeat(2_000)),
        ..ResultRecord::default()
    };
    make_fit(&mut result);
    assert!(result.encoded_len() <= MAX_RESULT_BYTES && result.denied_tools.is_empty());
    assert!(result.structured.is_some() && !result.summary.is_empty());
}

#[test]
fn details_are_short_and_harmless() {
    let said = detail(&format!("\u{1b}[2J{}", "é".repeat(1_000)));
    assert!(said.len() <= MAX_DETAIL_BYTES && !said.contains('\u{1b}'), "{said:?}");
}
