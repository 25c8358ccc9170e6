//! Copies of what the coordinator keeps, given out and taken back. Knows the messages; refuses to know what lies in a store.

use orch_proto::v1::BackupResponse;
use std::pin::Pin;
use tonic::Status;
use tonic::codegen::tokio_stream::Stream;

/// A copy on its way to whoever asked.
pub type Copy = Pin<Box<dyn Stream<Item = Result<BackupResponse, Status>> + Send>>;
