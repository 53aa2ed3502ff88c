//! A client's side of HTTP/2: one connection for many requests at once.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{PingPong, RecvStream};
use tokio::time::timeout;

use crate::client::ResponseError;
use crate::h2_stream;
use crate::head::{ResponseHead, find_end, take_request};
use crate::stream::Stream;

/// What one answer may have sent ahead of its reader, and all of them: some slow readers leave room for the others.
const STREAM_WINDOW: u32 = 128 * 1024;
const CONNECTION_WINDOW: u32 = 32 * 1024 * 1024;
/// A connection that says nothing for so long is asked whether it is there, and has so long to say so.
const PING_EVERY: Duration = Duration::from_secs(15);
const PONG_TIME_MAX: Duration = Duration::from_secs(10);
/// Requests at once where a server sets no limit.
const STREAMS_MAX: usize = 100;
const HEAD_MAX: u32 = 64 * 1024;
/// For a server that makes no room for a request's body.
const WRITE_TIME_MAX: Duration = Duration::from_mins(1);

/// A handle to a connection. It is closed when the last one is dropped.
#[derive(Clone)]
pub(crate) struct H2Client {
    sender: SendRequest<Bytes>,
    scheme: &'static str,
    under_way: Arc<AtomicUsize>,
}

/// Counts a request on its connection until it is dropped.
#[derive(Debug)]
pub(crate) struct UnderWay(Arc<AtomicUsize>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for H2Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("H2Client")
    }
}

impl H2Client {
    /// Begins HTTP/2 on a connection that was made for it. A task of its own carries it.
    pub(crate) async fn begin(stream: Stream) -> io::Result<Self> {
        let scheme = if stream.is_tls() { "https" } else { "http" };
        let (sender, mut connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEAD_MAX)
            .enable_push(false)
            .handshake::<_, Bytes>(stream)
            .await
            .map_err(h2_stream::broken)?;
        let pings = connection.ping_pong();
        tokio::spawn(async move {
            tokio::select! {
                ended = connection => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "an HTTP/2 connection to an upstream ended");
                    }
                }
                // Dropped, it ends all that is on it.
                () = until_silent(pings) => tracing::info!("an HTTP/2 connection to an upstream is silent"),
            }
        });
        Ok(Self { sender, scheme, under_way: Arc::default() })
    }

    pub(crate) fn has_room(&self) -> bool {
        let most = self.sender.current_max_send_streams().min(STREAMS_MAX);
        self.under_way.load(Ordering::Relaxed) < most
    }

    pub(crate) fn is_closed(&mut self) -> bool {
        let polled = self.sender.poll_ready(&mut Context::from_waker(Waker::noop()));
        matches!(polled, Poll::Ready(Err(_)))
    }

    pub(crate) async fn send(
        mut self,
        head: &[u8],
        body: &[u8],
    ) -> Result<(Self, ResponseHead, RecvStream, UnderWay), ResponseError> {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        let under_way = UnderWay(Arc::clone(&self.under_way));
        let request = self.request(head).ok_or(ResponseError::Malformed("the request has no head"))?;
        poll_fn(|cx| self.sender.poll_ready(cx)).await.map_err(no_answer)?;
        let (answer, mut stream) = self.sender.send_request(request, body.is_empty()).map_err(no_answer)?;
        let sending = async {
            if !body.is_empty() {
                h2_stream::send(&mut stream, Bytes::copy_from_slice(body), true, WRITE_TIME_MAX).await?;
            }
            io::Result::Ok(())
        };
        // A server may answer, with a refusal, before it has read all of the body.
        let mut answer = std::pin::pin!(answer);
        let response = tokio::select! {
            biased;
            response = &mut answer => response,
            sent = sending => {
                sent.map_err(ResponseError::NoAnswer)?;
                answer.await
            }
        };
        let (parts, body) = response.map_err(no_answer)?.into_parts();
        let head = h2_stream::response_head(&parts).map_err(ResponseError::Malformed)?;
        Ok((self, head, body, under_way))
    }

    /// A request by its head as of HTTP/1.1.
    fn request(&self, head: &[u8]) -> Option<http::Request<()>> {
        let mut bytes = BytesMut::from(head);
        let end = find_end(&bytes, 0).ok()??;
        let head = take_request(&mut bytes, end).ok()?;
        let authority = head.headers.get("host")?;
        let query = if head.query().is_empty() { String::new() } else { format!("?{}", head.query()) };
        let uri = format!("{}://{authority}{}{query}", self.scheme, head.path());
        let mut request = http::Request::builder().method(head.method()).uri(uri).body(()).ok()?;
        for (name, value) in head.headers.iter().filter(|(name, _)| *name != b"host") {
            let name = http::HeaderName::from_bytes(name).ok()?;
            request.headers_mut().append(name, http::HeaderValue::from_bytes(value).ok()?);
        }
        Some(request)
    }
}

/// Returns when the other side does not answer any more.
async fn until_silent(pings: Option<PingPong>) {
    let Some(mut pings) = pings else { return std::future::pending().await };
    loop {
        tokio::time::sleep(PING_EVERY).await;
        let answered = timeout(PONG_TIME_MAX, pings.ping(h2::Ping::opaque())).await;
        if !matches!(answered, Ok(Ok(_))) {
            return;
        }
    }
}

/// A server that ends a connection, or has too much to do, says which requests it did not look at.
fn no_answer(error: h2::Error) -> ResponseError {
    let is_refused = error.is_remote()
        && (error.reason() == Some(h2::Reason::REFUSED_STREAM)
            || error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR));
    let error = h2_stream::broken(error);
    if is_refused { ResponseError::NotTaken(error) } else { ResponseError::NoAnswer(error) }
}
