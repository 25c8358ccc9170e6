//! The result contract, and results that may be used again.

use super::*;

#[test]
fn the_result_contract_is_a_schema_of_its_own() {
    let contract = |schema: &str| {
        change_worker(worker_task("a", "x", &[]), |worker| {
            worker.contract = true;
            worker.output_schema = schema.into();
        })
    };
    let run = check(vec![contract("")]).unwrap();
    let worker = worker_of(&run.tasks[0]);
    assert!(worker.contract);
    assert_eq!(worker.output_schema, crate::planning::schemas::RESULT);
    refused(vec![contract("{}")], ErrorCode::InvalidField, "tasks[0].worker.contract");
}

#[test]
fn a_result_is_used_again_only_where_that_is_asked_for_and_nobody_forbids_it() {
    let cached = |task: v1::TaskSpec| v1::TaskSpec { cache: true, ..task };
    let tasks =
        || vec![cached(worker_task("a", "x", &[])), cached(command("b", "make", &[])), cached(noop("c"))];
    let caching = |no_cache| {
        let spec = v1::RunSpec { tasks: tasks(), no_cache, ..Default::default() };
        check_run(spec).unwrap().tasks.iter().map(|task| task.cache).collect::<Vec<_>>()
    };
    assert_eq!(caching(false), [true, true, false], "there is nothing to use again of nothing");
    assert_eq!(caching(true), [false; 3]);
    assert!(!check(vec![worker_task("a", "x", &[])]).unwrap().tasks[0].cache);
}
