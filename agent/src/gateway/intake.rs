//! Bodies of requests, read whole: bounded each, bounded together, bounded in time, because whoever asks is not trusted and
//! the supervisor's memory is nobody's to fill. Knows lengths; refuses to know what is asked.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body_util::BodyExt;
use hyper::body::Body;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::desk::Refusal;

/// Longest body of a request. The API takes 32 MB.
pub const LONGEST_BODY: usize = 32 * 1024 * 1024;

/// Most of all bodies together, those of requests that wait included. Eight of the longest; a conversation has a megabyte
/// or two. Whoever comes beyond that waits until others have been sent.
const MOST_BYTES: usize = 8 * LONGEST_BODY;

/// What room is counted in: a semaphore counts to 2^29 at most on some hosts.
const UNIT: usize = 1024;

/// How long a body may take to come. It comes from this host.
const COMES_WITHIN: Duration = Duration::from_secs(30);

/// Reads bodies.
#[derive(Debug)]
pub struct Intake {
    room: Arc<Semaphore>,
}

/// A body that was read. Its room is taken for as long as it is kept.
#[derive(Debug)]
pub struct Taken {
    /// The body.
    pub bytes: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

impl Default for Intake {
    fn default() -> Self {
        Self { room: Arc::new(Semaphore::new(MOST_BYTES / UNIT)) }
    }
}

impl Intake {
    /// Reads the body of a request with this head, once there is room for it.
    ///
    /// # Errors
    /// What to answer when it is too long, is cut short, or does not come.
    pub async fn read<B>(&self, headers: &HeaderMap, body: B) -> Result<Taken, Refusal>
    where
        B: Body<Data = Bytes, Error: Display> + Unpin,
    {
        let said = headers.get(CONTENT_LENGTH).and_then(|len| len.to_str().ok()?.parse::<usize>().ok());
        // Of one that does not say its length the longest must be expected.
        let expected = if body.is_end_stream() { 0 } else { said.unwrap_or(LONGEST_BODY) };
        if expected > LONGEST_BODY {
            return Err(too_long());
        }
        let mut room = Arc::clone(&self.room).acquire_many_owned(units(expected)).await.ok();
        let bytes = timeout(COMES_WITHIN, collect(body, said))
            .await
            .map_err(|_| refusal(408, "the request did not come to its end in time".to_owned()))??;
        let unused = units(expected).saturating_sub(units(bytes.len()));
        drop(room.as_mut().and_then(|room| room.split(unused as usize)));
        Ok(Taken { bytes, _room: room })
    }
}

async fn collect<B>(mut body: B, said: Option<usize>) -> Result<Bytes, Refusal>
where
    B: Body<Data = Bytes, Error: Display> + Unpin,
{
    let mut whole = BytesMut::with_capacity(said.unwrap_or_default());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| refusal(400, "the request was cut short".to_owned()))?;
        if let Some(piece) = frame.data_ref() {
            if whole.len() + piece.len() > LONGEST_BODY {
                return Err(too_long());
            }
            whole.extend_from_slice(piece);
        }
    }
    Ok(whole.freeze())
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

fn too_long() -> Refusal {
    let message = format!("the request has more than {LONGEST_BODY} bytes");
    Refusal { kind: "request_too_large".to_owned(), ..refusal(413, message) }
}

fn refusal(status: u16, message: String) -> Refusal {
    Refusal { status, kind: "invalid_request_error".to_owned(), message, retry_after_s: None }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::{FutureExt as _, stream};
    use http::HeaderValue;
    use http_body_util::{Full, StreamBody};
    use hyper::body::Frame;

    use super::*;

    fn saying(len: usize) -> HeaderMap {
        HeaderMap::from_iter([(CONTENT_LENGTH, HeaderValue::from(len))])
    }

    fn silent() -> impl Body<Data = Bytes, Error = Infallible> + Unpin {
        StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>())
    }

    #[tokio::test(start_paused = true)]
    async fn many_who_announce_much_take_bounded_room_and_lose_it_when_nothing_comes() {
        let intake = Intake::default();
        let long = saying(LONGEST_BODY);
        let mut stalled: Vec<_> = (0..20).map(|_| Box::pin(intake.read(&long, silent()))).collect();
        for read in &mut stalled {
            assert!(read.as_mut().now_or_never().is_none());
        }
        assert_eq!(intake.room.available_permits(), 0);
        let short = saying(2);
        let mut behind = Box::pin(intake.read(&short, Full::new(Bytes::from_static(b"{}"))));
        assert!(behind.as_mut().now_or_never().is_none(), "there is no room");
        let refused = stalled.remove(0).await.unwrap_err();
        assert_eq!(refused.status, 408);
        drop(stalled);
        let taken = behind.await.unwrap();
        assert_eq!(&taken.bytes[..], b"{}");
        assert_eq!(intake.room.available_permits(), MOST_BYTES / UNIT - 1);
        drop(taken);
        assert_eq!(intake.room.available_permits(), MOST_BYTES / UNIT);
    }

    #[tokio::test]
    async fn what_is_too_long_is_refused_by_what_it_says_and_by_what_it_is() {
        let intake = Intake::default();
        let body = || Full::new(Bytes::from(vec![0; LONGEST_BODY + 1]));
        for headers in [saying(LONGEST_BODY + 1), HeaderMap::new()] {
            assert_eq!(intake.read(&headers, body()).await.unwrap_err().status, 413);
        }
        let taken = intake.read(&HeaderMap::new(), Full::new(Bytes::from_static(b"{}"))).await.unwrap();
        assert_eq!(intake.room.available_permits(), MOST_BYTES / UNIT - 1, "{} bytes", taken.bytes.len());
    }
}
