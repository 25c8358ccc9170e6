//! The worked example of `docs/costs.md`, and its tables of prices and its file: what the page says is what comes out.

use super::*;
use orch_proto::v1::ModelUsage;

const PAGE: &str = include_str!("../../../docs/costs.md");

/// Rows of the table whose head starts with `head`, cell by cell.
fn table(head: &str) -> Vec<Vec<String>> {
    let lines = PAGE.lines().skip_while(|line| !line.starts_with(head)).skip(2);
    let rows = lines.take_while(|line| line.starts_with('|'));
    rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().replace('*', "")).collect())
        .collect()
}

fn micro(cell: &str) -> u64 {
    (cell.trim_start_matches('$').parse::<f64>().unwrap() * 1e6).round() as u64
}

fn tokens(row: &[String]) -> [u64; 4] {
    [3, 4, 5, 6].map(|at| row[at].parse().unwrap())
}

fn usage(row: &[String]) -> ModelUsage {
    let [input_tokens, output_tokens, cache_read_tokens, cache_write_tokens] = tokens(row);
    let model = row[2].clone();
    ModelUsage {
        model,
        input_tokens,
        output_tokens,
        cache_read_tokens,
        cache_write_tokens,
        cost_micro_usd: 0,
    }
}

#[test]
fn the_worked_example_adds_up() {
    let prices = Prices::default();
    let mut rows = table("| Attempt | Worker | Model |");
    let all = rows.pop().unwrap();
    assert_eq!((rows.len(), all[0].as_str()), (5, "all"));
    let (mut sum, mut counted) = (0, [0; 4]);
    for row in &rows {
        assert_eq!(prices.cost(&usage(row)), micro(&row[7]), "{row:?}");
        sum += micro(&row[7]);
        for (total, count) in counted.iter_mut().zip(tokens(row)) {
            *total += count;
        }
    }
    assert_eq!((sum, counted), (micro(&all[7]), tokens(&all)));

    let ui = usage(&rows[1]);
    let input = ui.input_tokens + ui.cache_read_tokens + ui.cache_write_tokens;
    let cold = ModelUsage { input_tokens: input, cache_read_tokens: 0, cache_write_tokens: 0, ..ui };
    let cold = prices.cost(&cold) as f64 / 1e6;
    assert!(PAGE.contains(&format!("would have cost ${cold:.6}")), "{cold}");
    let of_marie = rows.iter().filter(|row| row[1] == "marie").map(|row| usage(row));
    let (read, of) = of_marie.fold((0, 0), |(read, of), row| {
        let all = row.input_tokens + row.cache_read_tokens + row.cache_write_tokens;
        (read + row.cache_read_tokens, of + all)
    });
    let said = format!("{} % came from the cache: {read} of {of} tokens", read * 100 / of);
    assert!(PAGE.contains(&said), "{said}");
}

#[test]
fn the_table_of_prices_is_the_list() {
    let prices = Prices::default();
    let mut named = 0;
    for row in table("| Models | Input |") {
        let names: Vec<_> = row[0].split('`').skip(1).step_by(2).collect();
        let models = if names.is_empty() { vec!["any-other"] } else { names };
        for model in models {
            let price = prices.of(model.trim_end_matches('…'));
            let said = [1, 2, 3, 4].map(|at| micro(&row[at]));
            assert_eq!([price.input, price.output, price.cache_read, price.cache_write], said, "{model}");
            named += 1;
        }
    }
    assert_eq!(named, prices.rows().len(), "every row is named");
}

#[test]
fn the_file_of_the_page_is_taken() {
    let text = PAGE.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let list = PriceList::parse(text, Path::new("prices.toml")).unwrap();
    assert_eq!(list.as_of, "2027-01-15");
    assert_eq!(list.prices.of("claude-opus-6-1").cache_write, 7_500_000);
}
