//! Questions as they come over the wire, on a real engine.

use super::*;
use crate::engine::tests::support::Bench;
use crate::presence::Registry;
use crate::rpc::auth::DEFAULT_TENANT;
use orch_certs::{Identity, Role};
use orch_proto::v1::{CostDimension, QueryCostsRequest};
use std::sync::Arc;
use tonic::Code;

fn ana() -> Caller {
    let identity = Identity::new("orch.test", Role::Client, "default", "ana").unwrap();
    Caller { identity, tenant: DEFAULT_TENANT }
}

async fn parts() -> (CostParts, Bench) {
    let bench = Bench::start().await;
    (CostParts { engine: bench.handle.clone(), registry: Arc::new(Registry::default()) }, bench)
}

fn by(dimensions: &[CostDimension]) -> QueryCostsRequest {
    QueryCostsRequest { by: dimensions.iter().map(|by| (*by).into()).collect(), ..Default::default() }
}

fn at(seconds: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds, nanos: 0 })
}

#[tokio::test]
async fn an_empty_ledger_has_a_sum_of_nothing_and_the_day_of_its_prices() {
    let (parts, _bench) = parts().await;
    let answer = costs(&parts, &ana(), by(&[CostDimension::Worker])).await.unwrap();
    assert_eq!(answer.rows, []);
    assert_eq!(answer.total.unwrap().usage.unwrap().cost_micro_usd, 0);
    assert_eq!(answer.prices_as_of, orch_proto::prices::PRICES_AS_OF);
    assert!(answer.forecast.is_none() && answer.kept_since.is_none() && answer.warnings.is_empty());
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused_with_its_field() {
    let (parts, _bench) = parts().await;
    let four = [CostDimension::Worker, CostDimension::Day, CostDimension::Model, CostDimension::Run];
    let filters = |texts: &[&str]| QueryCostsRequest {
        filters: texts.iter().map(|text| (*text).to_owned()).collect(),
        ..Default::default()
    };
    let cases = [
        (by(&four), "by: has 4 dimensions; at most 3"),
        (by(&[CostDimension::Day, CostDimension::Day]), "by: names a dimension twice"),
        (by(&[CostDimension::Unspecified]), "by: is not known"),
        (filters(&["marie"]), "filters: `marie` is not DIMENSION=VALUE"),
        (filters(&["who=marie"]), "filters: `who` is no dimension"),
        (filters(&["run=x"; 33]), "filters: at most 32"),
        (QueryCostsRequest { since: at(9), until: at(9), ..Default::default() }, "until: is not after since"),
        (QueryCostsRequest { since: at(i64::MAX), ..Default::default() }, "since: is not a moment"),
    ];
    for (request, expected) in cases {
        let status = costs(&parts, &ana(), request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with(expected), "{}", status.message());
    }
}

#[test]
fn rows_beyond_a_message_are_left_out_and_counted() {
    let row =
        |index: u32| CostRow { keys: vec![format!("{index}-{}", "x".repeat(900))], ..CostRow::default() };
    let (kept, cut) = fitting((0..2_000).map(row));
    assert!(kept.len() > 900 && kept.len() as u64 + cut == 2_000, "{} {cut}", kept.len());
    assert!(kept.iter().map(prost::Message::encoded_len).sum::<usize>() < 1 << 20);
}
