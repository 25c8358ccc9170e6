//! A second stream of an agent's identity: another process with a copied certificate, or a connection that lingers. It
//! says Hello and then nothing, so that whatever it is given comes to nothing.

use crate::net::Name;
use crate::world::Draw;
use orch_certs::Role;
use orch_proto::v1::agent_service_client::AgentServiceClient;
use orch_proto::v1::{self, agent_item::Item};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;

/// What a twin is told to do next: whose name to take.
#[derive(Debug, Clone, Default)]
pub(crate) struct Orders {
    pub(crate) name: Arc<std::sync::Mutex<Option<String>>>,
    pub(crate) given: Arc<Notify>,
}

/// Takes names as it is told to.
pub(crate) async fn run(orders: Orders, draw: Draw) -> turmoil::Result {
    loop {
        orders.given.notified().await;
        let name = orders.name.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let Some(name) = name else { continue };
        let stay = draw.within(Duration::from_secs(4));
        // Refused, superseded or cut: all of it is meant to happen.
        let _ = tokio::time::timeout(stay, pretend(&name, &draw)).await;
    }
}

async fn pretend(name: &str, draw: &Draw) -> Result<(), tonic::Status> {
    let mut client = AgentServiceClient::new(Name::new(Role::Agent, name).channel());
    let mut incarnation = vec![7; 16];
    incarnation[0] = u8::try_from(draw.below(250)).unwrap_or(0);
    let hello = v1::Hello {
        protocol_min: orch_proto::PROTOCOL_MIN,
        protocol_max: orch_proto::PROTOCOL_MAX,
        agent: name.to_owned(),
        incarnation,
        slots: 1,
        version: "twin".to_owned(),
        host: "elsewhere".to_owned(),
        ..v1::Hello::default()
    };
    let (frames, stream) = mpsc::channel(1);
    let item = v1::AgentItem { item: Some(Item::Hello(hello)) };
    drop(frames.try_send(v1::AgentMessage { items: vec![item] }));
    let mut inbound = client.session(ReceiverStream::new(stream)).await?.into_inner();
    while inbound.message().await?.is_some() {}
    Ok(())
}
