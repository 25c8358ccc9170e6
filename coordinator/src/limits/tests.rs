//! Files of limits, good and bad, and the example of the reference.

use super::*;

fn file(text: &str) -> (tempfile::NamedTempFile, PathBuf) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let path = file.path().to_owned();
    (file, path)
}

fn limits(text: &str) -> Limits {
    let (_file, path) = file(text);
    read(&path).unwrap()
}

fn refused(text: &str) -> String {
    let (_file, path) = file(text);
    read(&path).unwrap_err().to_string()
}

fn row(class: &str, requests: u64, input: u64, output: Option<u64>) -> (Arc<str>, BucketSettings) {
    (class.into(), BucketSettings { requests: Some(requests), input: Some(input), output })
}

#[test]
fn the_preset_of_tier_4_is_what_the_tier_allows() {
    let limits = limits("[pools.main]\npreset = \"tier-4\"\n");
    let settings = PoolSettings {
        buckets: vec![row("", 4_000, 400_000, None)],
        per_worker: vec![row("", 1_000, 100_000, Some(20_000))],
        max_concurrent: None,
        starts_per_minute: None,
        share_permille: None,
    };
    assert_eq!(limits, [("main".into(), settings)]);
}

#[test]
fn a_table_goes_before_its_preset_and_a_class_before_its_pool() {
    let limits = limits(
        "[pools.main]\npreset = \"tier-4\"\nrequests_per_minute = 500\nmax_concurrent = 9\nstarts_per_minute = 60\n\
         per_worker = { output_tokens_per_minute = 7 }\n\
         [pools.main.models.haiku]\ninput_tokens_per_minute = 1_000_000\n\
         per_worker = { requests_per_minute = 3 }\n\
         [pools.\"*\"]\noutput_tokens_per_minute = 8000\n",
    );
    let [(every, other), (main, settings)] = limits.as_slice() else { panic!("{limits:?}") };
    assert_eq!((&**every, &**main), ("*", "main"));
    assert_eq!(other.buckets[0].1, BucketSettings { output: Some(8_000), ..BucketSettings::default() });
    assert_eq!(settings.buckets, [row("", 500, 400_000, None), row("haiku", 500, 1_000_000, None)]);
    assert_eq!(settings.per_worker, [row("", 1_000, 100_000, Some(7)), row("haiku", 3, 100_000, Some(7))]);
    assert_eq!((settings.max_concurrent, settings.starts_per_minute), (Some(9), Some(60)));
}

#[test]
fn mistakes_are_told_with_their_line_and_what_was_probably_meant() {
    let cases = [
        (
            "\n[pools.main]\npreset = \"tier4\"\n",
            ":3: pool `main`: there is no preset `tier4`: did you mean `tier-4`?",
        ),
        ("[pools.main]\npreset = \"gold\"\n", "there is `tier-4`"),
        (
            "[pools.main]\n\nrequests_per_minute = 0\n",
            ":3: pool `main`: requests_per_minute is 0: between 1 and",
        ),
        (
            "[pools.main]\nmax_concurrent = 0\n",
            ":2: pool `main`: max_concurrent is 0: nothing would ever start",
        ),
        ("[pools.main]\n", ":1: pool `main`: says nothing"),
        ("[pools.\"Main Pool\"]\npreset = \"tier-4\"\n", ":1: pool `Main Pool`: a name is 1 to 63"),
        (
            "[pools.main]\npreset = \"tier-4\"\n[pools.main.models.\"a b\"]\n",
            ":3: pool `main`: `a b` is no class",
        ),
        (
            "[pools.main.per_worker]\ninput_tokens_per_minute = 99999999999999\n",
            ":2: pool `main`: input_tokens",
        ),
    ];
    for (text, told) in cases {
        let said = refused(text);
        assert!(said.contains(told), "{text}: {said}");
    }
}

#[test]
fn unknown_words_are_told_with_their_place_and_the_word_they_resemble() {
    for (text, line, near) in [
        ("[pools.main]\nrequest_per_minute = 5\n", "line 2", "`requests_per_minute`?"),
        ("[pool.main]\npreset = \"tier-4\"\n", "line 1", "`pools`?"),
        ("[pools.main.models.opus]\ninput_token_per_minute = 5\n", "line 2", "`input_tokens_per_minute`?"),
    ] {
        let said = refused(text);
        assert!(said.contains(line) && said.contains(&format!("did you mean {near}")), "{said}");
    }
    assert!(refused("[pools.main]\nrequests_per_minute = \"many\"\n").contains("line 2"));
    assert!(refused("[pools.main]\nrequests_per_minute = -5\n").contains("line 2"));
}

#[test]
fn a_class_that_no_model_has_is_taken_and_told_with_those_there_are() {
    let said = |text: &str, prices: &Prices| doubts(&limits(text), prices);
    let file = "[pools.main.models.hiaku]\nrequests_per_minute = 5\n[pools.main.models.opus]\nrequests_per_minute = 5\n";
    let [doubt] = &*said(file, &Prices::default()) else { panic!("one doubt") };
    assert!(doubt.starts_with("pool `main`: no model is of the class `hiaku`"), "{doubt}");
    assert!(doubt.contains("did you mean `haiku`? there are `") && doubt.contains("`sonnet`"), "{doubt}");
    let mut own = Prices::default().rows()[0].clone();
    own.model_class = "hiaku".into();
    assert_eq!(said(file, &Prices::new(vec![own])), [""; 0], "a class of an own price file");
}

#[test]
fn a_share_is_a_part_of_every_limit_and_says_enough_by_itself() {
    let held = limits("[pools.main]\nshare = 0.5\n");
    assert_eq!(held[0].1, PoolSettings { share_permille: Some(500), ..PoolSettings::default() });
    assert_eq!(describe(&held), "pools.main          50 % of every limit\n");
    for wrong in ["0.0", "-0.5", "1.5", "nan"] {
        let said = refused(&format!("[pools.main]\nshare = {wrong}\n"));
        assert!(said.contains(":2: pool `main`: share is") && said.contains("at most 1"), "{said}");
    }
    assert_eq!(limits("[pools.main]\nshare = 1.0\n")[0].1.share_permille, Some(1_000));
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = read(Path::new("/nonexistent/limits.toml")).unwrap_err();
    assert_eq!(error.to_string(), "cannot read limits from /nonexistent/limits.toml");
}

#[test]
fn of_two_sources_the_first_speaks_for_the_pools_it_names() {
    let first = limits("[pools.a]\nrequests_per_minute = 1\n");
    let second = limits("[pools.a]\nrequests_per_minute = 2\n[pools.b]\nrequests_per_minute = 3\n");
    let both = before(first, second);
    let told: Vec<_> = both.iter().map(|(name, pool)| (&**name, pool.buckets[0].1.requests)).collect();
    assert_eq!(told, [("a", Some(1)), ("b", Some(3))]);
}

#[test]
fn limits_are_told_in_plain_words() {
    let limits = limits("[pools.main]\npreset = \"tier-4\"\nmax_concurrent = 9\n");
    assert_eq!(
        describe(&limits),
        "pools.main          4000 requests, 400000 input tokens a minute\n\
         pools.main          each worker 1000 requests, 100000 input tokens, 20000 output tokens a minute\n\
         pools.main          9 requests at a time\n"
    );
}

#[test]
fn the_example_of_the_reference_is_a_file_that_is_taken() {
    let page = include_str!("../../../docs/limits.md");
    let example =
        page.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    let limits = limits(example);
    let names: Vec<&str> = limits.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, ["*", "main", "night"]);
    // Every word of the file is in the example, and the other way round.
    for word in [
        "preset",
        "requests_per_minute",
        "input_tokens_per_minute",
        "output_tokens_per_minute",
        "per_worker",
        "max_concurrent",
        "starts_per_minute",
        "share",
        "models.haiku",
    ] {
        assert!(example.contains(word), "{word}");
    }
}
