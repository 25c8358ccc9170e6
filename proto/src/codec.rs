//! The codec of every call: protobuf as [`tonic_prost`] reads it, but a message of too many parts is refused before
//! anything is made of it, and buffers are as long as what is in them. Knows [`crate::parts`]; refuses to know what is
//! called.

use std::marker::PhantomData;

use prost::Message;
use prost::bytes::Buf as _;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic_prost::ProstDecoder;

use crate::parts::{MAX_PARTS, count};

/// Words of the refusal, by which it is known again.
pub const TOO_MANY: &str = "parts are too many for a message";

/// A call has a buffer each way from its first byte on: most messages are short, and of sessions and watches there are
/// thousands that say little.
const BUFFER_BYTES: usize = 512;
/// Messages that are ready together are written together up to here.
const TOGETHER_BYTES: usize = 32 << 10;

/// What every call's buffers are like.
#[must_use]
pub fn buffers() -> BufferSettings {
    BufferSettings::new(BUFFER_BYTES, TOGETHER_BYTES)
}

/// See the module.
#[derive(Debug, Clone)]
pub struct BoundedCodec<T, U> {
    types: PhantomData<(T, U)>,
}

impl<T, U> Default for BoundedCodec<T, U> {
    fn default() -> Self {
        Self { types: PhantomData }
    }
}

impl<T, U> Codec for BoundedCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = FittingEncoder<T>;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        FittingEncoder { message: PhantomData }
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder { inner: ProstDecoder::new(buffers()) }
    }
}

/// The writing half: makes room for a message as a whole.
#[derive(Debug, Clone)]
pub struct FittingEncoder<T> {
    message: PhantomData<T>,
}

impl<T: Message> Encoder for FittingEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, message: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(message.encoded_len());
        message.encode(buffer).map_err(|error| Status::internal(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}

/// The reading half.
#[derive(Debug, Clone)]
pub struct BoundedDecoder<U> {
    inner: ProstDecoder<U>,
}

impl<U: Message + Default> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // A message lies in one piece. Two bytes a part: short ones cannot have too many.
        if buffer.chunk().len() > 2 * MAX_PARTS && count(&name::<U>(), buffer.chunk(), MAX_PARTS) > MAX_PARTS
        {
            return Err(Status::resource_exhausted(format!("more than {MAX_PARTS} {TOO_MANY}")));
        }
        self.inner.decode(buffer)
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.inner.buffer_settings()
    }
}

/// The name of a message of `orch.v1`, which is that of its type.
fn name<U>() -> String {
    let path = std::any::type_name::<U>();
    format!("orch.v1.{}", path.rsplit("::").next().unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_known_by_the_name_of_their_message() {
        assert_eq!(name::<crate::v1::SubmitRunRequest>(), "orch.v1.SubmitRunRequest");
    }

    #[test]
    fn a_call_begins_with_short_buffers_both_ways() {
        let mut codec = BoundedCodec::<crate::v1::AgentMessage, crate::v1::CoordinatorMessage>::default();
        let settings = [codec.encoder().buffer_settings(), codec.decoder().buffer_settings()];
        // Of sessions and watches there are thousands.
        let short = format!("{:?}", BufferSettings::new(512, 32 << 10));
        assert_eq!(settings.map(|settings| format!("{settings:?}")), [short.clone(), short]);
    }
}
