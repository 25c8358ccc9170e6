//! A stream whose first bytes were read ahead, as proof that the server went on after the handshake.
//!
//! Knows bytes. Refuses to interpret them.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// Read ahead at most this much: an HTTP/2 settings frame has some 40 bytes, and the rest is read as usual.
const AHEAD_BYTES: usize = 512;

/// A stream that gives back first what was read ahead.
#[derive(Debug)]
pub struct Confirmed<S> {
    inner: S,
    ahead: Vec<u8>,
    given: usize,
}

impl<S: AsyncRead + Unpin> Confirmed<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner, ahead: Vec::new(), given: 0 }
    }

    /// Waits for the first bytes. Cancelling it loses nothing: a read either completes or has taken no bytes.
    pub(super) async fn confirm(&mut self) -> io::Result<()> {
        let mut buffer = [0; AHEAD_BYTES];
        let count = self.inner.read(&mut buffer).await?;
        if count == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the server closed the connection at once",
            ));
        }
        self.ahead.extend_from_slice(buffer.get(..count).unwrap_or_default());
        Ok(())
    }
}

impl Confirmed<tokio_rustls::client::TlsStream<tokio::net::TcpStream>> {
    /// The application protocol both ends agreed on.
    #[must_use]
    pub fn alpn(&self) -> Option<Vec<u8>> {
        self.inner.get_ref().1.alpn_protocol().map(<[u8]>::to_vec)
    }

    /// The protocol version both ends agreed on, such as `TLSv1_3`.
    #[must_use]
    pub fn protocol_version(&self) -> Option<String> {
        self.inner.get_ref().1.protocol_version().map(|version| format!("{version:?}"))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Confirmed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let rest = this.ahead.get(this.given..).unwrap_or_default();
        if rest.is_empty() {
            return Pin::new(&mut this.inner).poll_read(cx, buf);
        }
        let count = rest.len().min(buf.remaining());
        buf.put_slice(rest.get(..count).unwrap_or_default());
        this.given += count;
        if this.given == this.ahead.len() {
            this.ahead = Vec::new();
            this.given = 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Confirmed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn what_was_read_ahead_comes_first_and_nothing_is_lost() {
        let (near, mut far) = tokio::io::duplex(4096);
        far.write_all(&[7; 700]).await.unwrap();
        far.write_all(b"end").await.unwrap();
        far.shutdown().await.unwrap();
        let mut stream = Confirmed::new(near);
        stream.confirm().await.unwrap();
        let mut small = [0; 3];
        stream.read_exact(&mut small).await.unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert_eq!(small, [7; 3]);
        assert_eq!(rest.len(), 700 - 3 + 3);
        assert!(rest.ends_with(b"end"));
    }

    #[tokio::test]
    async fn a_server_that_closes_at_once_confirms_nothing() {
        let (near, far) = tokio::io::duplex(16);
        drop(far);
        let error = Confirmed::new(near).confirm().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
