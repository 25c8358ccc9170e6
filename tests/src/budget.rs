//! How much a slow suite does: a short budget by default, a long one by environment variable, the same code either way; and
//! the line in which a row says what it measured.

/// How many rounds, kills, bytes… a row does: `default` unless the environment variable `name` says otherwise.
///
/// # Panics
/// When the variable holds no number: a long run that is short by mistake proves nothing.
#[must_use]
pub fn budget(name: &str, default: u64) -> u64 {
    let Ok(text) = std::env::var(name) else { return default };
    text.trim().parse().unwrap_or_else(|_| panic!("{name} is {text:?}, which is no number"))
}

/// The seed of everything random in a row: fixed by `ORCH_TORTURE_SEED` to repeat a run, otherwise new each time, and told.
#[must_use]
pub fn seed(row: &str) -> u64 {
    let seed = budget("ORCH_TORTURE_SEED", rand::random());
    figures(row, &format!("seed {seed}"));
    seed
}

/// Says what a row measured, on the real standard error: the test runner hides what passing tests print.
pub fn figures(row: &str, measured: &str) {
    say("torture", row, measured);
}

/// The same for a row of another suite.
pub fn say(suite: &str, row: &str, measured: &str) {
    // Where the line cannot be written, nobody reads it.
    let _ =
        std::io::Write::write_all(&mut std::io::stderr(), format!("{suite}: {row}: {measured}\n").as_bytes());
}

/// The given percentile, 1 to 100, of what was measured; the largest below.
///
/// # Panics
/// When nothing was measured.
#[must_use]
pub fn percentile<T: Ord + Copy>(measured: &[T], percent: usize) -> T {
    let mut sorted = measured.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted[rank - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_measured_value_at_its_rank() {
        let measured: Vec<u32> = (1..=200).rev().collect();
        assert_eq!(
            (percentile(&measured, 50), percentile(&measured, 99), percentile(&measured, 100)),
            (100, 198, 200)
        );
        assert_eq!(percentile(&[7], 1), 7);
    }

    #[test]
    fn without_a_variable_the_budget_is_the_short_one() {
        assert_eq!(budget("ORCH_TORTURE_NO_SUCH_VARIABLE", 3), 3);
    }
}
