//! HTTP/2 over the connections that were let in: one task a connection, one a request.
//! Knows frames' limits and how a connection ends in order; refuses to know methods and who may call them.
//!
//! Ours, because the futures of requests are polled in a way of their own: see [`settled`].

use crate::rpc::accept::Peer;
use futures_core::Stream;
use futures_util::task::AtomicWaker;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::transport::server::Connected;
use tower::ServiceExt as _;
use tower_service::Service;

/// HTTP/2 streams of one connection at a time, whatever they carry; the peer's library waits with more.
const MAX_STREAMS: u32 = 256;
/// Dead sockets are noticed by HTTP/2 pings; the heartbeats above them are what counts.
const PING_EVERY: Duration = Duration::from_secs(20);
/// A ping that is not answered within this ends the connection.
const PING_LIMIT: Duration = Duration::from_secs(10);
/// Largest header list, in bytes.
const MAX_HEADERS: u32 = 16 << 10;
/// Streams that a peer may reset before they were accepted; rapid reset ends there.
const MAX_PENDING_RESETS: usize = 20;
/// Polls in a row of a future that wakes itself.
const IN_A_ROW: usize = 2;

/// Serves every connection of `incoming` until `stop`; returns when all have ended, and what was asked on them. Requests
/// carry who sent them.
pub(super) async fn serve_each<IO, S>(
    incoming: impl Stream<Item = std::io::Result<IO>>,
    service: S,
    stop: CancellationToken,
) where
    IO: AsyncRead + AsyncWrite + Connected<ConnectInfo = Arc<Peer>> + Unpin + Send + 'static,
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    let tasks = TaskTracker::new();
    let mut http = http2::Builder::new(Settling(tasks.clone()));
    http.timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_LIMIT)
        .max_header_list_size(MAX_HEADERS)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS);
    let (stopping, told) = watch::channel(());
    let mut incoming = pin!(incoming);
    loop {
        let io = tokio::select! {
            () = stop.cancelled() => break,
            next = incoming.next() => match next {
                Some(Ok(io)) => io,
                Some(Err(error)) => {
                    tracing::debug!(%error, "a connection was lost before it was served");
                    continue;
                }
                None => break,
            },
        };
        let (peer, service) = (io.connect_info(), service.clone());
        let answer = move |request: Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(Arc::clone(&peer));
            service.clone().oneshot(request)
        };
        let connection = http.serve_connection(TokioIo::new(io), service_fn(answer));
        tasks.spawn(to_the_end(Box::pin(connection), told.clone()));
    }
    stopping.send_replace(());
    tasks.close();
    tasks.wait().await;
}

/// A connection that can be asked to end in order.
trait Ends: Future {
    fn end(self: Pin<&mut Self>);
}

impl<I, S, B> Ends for http2::Connection<I, S, Settling>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    S: hyper::service::HttpService<Incoming, ResBody = B>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S::Future: Send + 'static,
    B: hyper::body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn end(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// Polls a connection, and no more than that: it is polled for every frame, so that whether everything is to stop is looked
/// at without asking a future.
async fn to_the_end<C>(mut connection: Pin<Box<C>>, told: watch::Receiver<()>)
where
    C: Ends<Output = hyper::Result<()>>,
{
    let mut listening = told.clone();
    let mut stop = pin!(listening.changed());
    let (mut listens, mut ending) = (false, false);
    let ended = poll_fn(|context| {
        if !listens {
            // This leaves the waker of the task, which stays the same; what it is woken for is seen below.
            listens = stop.as_mut().poll(context).is_pending();
        }
        if !ending && told.has_changed().unwrap_or(true) {
            ending = true;
            connection.as_mut().end();
        }
        connection.as_mut().poll(context)
    });
    if let Err(error) = ended.await {
        tracing::debug!(%error, "a connection ended");
    }
}

/// Runs the futures of requests.
#[derive(Debug, Clone)]
struct Settling(TaskTracker);

impl<F> hyper::rt::Executor<F> for Settling
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, future: F) {
        self.0.spawn(settled(Box::pin(future)));
    }
}

/// Polls a future that wakes itself once more at once. Those of HTTP/2 do so with every frame they send: they ask for room
/// for it while they wait for room. The runtime would take such a task to the end of its queue, and wake a thread for it
/// that finds nothing to do.
async fn settled<F: Future>(mut future: Pin<Box<F>>) -> F::Output {
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&wakes));
    poll_fn(move |outer| {
        wakes.task.register(outer.waker());
        for _ in 0..IN_A_ROW {
            wakes.state.store(POLLED, Ordering::Release);
            if let Poll::Ready(done) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                return Poll::Ready(done);
            }
            let rests = wakes.state.compare_exchange(POLLED, AT_REST, Ordering::AcqRel, Ordering::Acquire);
            if rests.is_ok() {
                return Poll::Pending;
            }
        }
        // It would go on for ever: others have their turn first.
        wakes.state.store(AT_REST, Ordering::Release);
        outer.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

/// Nobody polls it, and nobody has woken it.
const AT_REST: u8 = 0;
/// It is being polled.
const POLLED: u8 = 1;
/// It was woken: it will be polled again.
const WOKEN: u8 = 2;

/// What a future that is [`settled`] wakes.
#[derive(Debug, Default)]
struct Wakes {
    task: AtomicWaker,
    state: AtomicU8,
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.swap(WOKEN, Ordering::AcqRel) == AT_REST {
            self.task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    /// Counts how often its task is woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_future_that_wakes_itself_is_polled_again_without_its_task() {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut outer = Context::from_waker(&waker);
        let kept = Arc::new(std::sync::Mutex::new(None));
        let (mut polls, keep) = (0, Arc::clone(&kept));
        let mut future = pin!(settled(Box::pin(poll_fn(move |context: &mut Context<'_>| {
            polls += 1;
            *keep.lock().unwrap() = Some(context.waker().clone());
            match polls {
                1 => context.waker().wake_by_ref(),
                4 => return Poll::Ready(polls),
                3 => {
                    context.waker().wake_by_ref();
                    context.waker().wake_by_ref();
                }
                _ => {}
            }
            Poll::Pending
        }))));
        assert!(future.as_mut().poll(&mut outer).is_pending());
        assert_eq!(woken.0.load(Ordering::SeqCst), 0, "the second poll came at once");
        kept.lock().unwrap().take().unwrap().wake();
        assert_eq!(woken.0.load(Ordering::SeqCst), 1, "somebody else woke it");
        assert_eq!(future.as_mut().poll(&mut outer), Poll::Ready(4));
    }

    #[test]
    fn a_future_that_always_wakes_itself_lets_others_have_their_turn() {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut future = pin!(settled(Box::pin(poll_fn(|context: &mut Context<'_>| {
            context.waker().wake_by_ref();
            Poll::<()>::Pending
        }))));
        for turn in 1..=3 {
            assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            assert_eq!(woken.0.load(Ordering::SeqCst), turn);
        }
    }
}
