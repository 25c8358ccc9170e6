//! The codec of every call: protobuf as [`tonic_prost`] reads it, but a message of too many parts is refused before
//! anything is made of it. Knows [`crate::parts`]; refuses to know what is called.

use std::marker::PhantomData;

use prost::Message;
use prost::bytes::Buf as _;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

use crate::parts::{MAX_PARTS, count};

/// Words of the refusal, by which it is known again.
pub const TOO_MANY: &str = "parts are too many for a message";

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
    type Encoder = ProstEncoder<T>;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::default())
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder { inner: ProstDecoder::new(BufferSettings::default()) }
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
}
