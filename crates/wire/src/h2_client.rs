//! A client's side of HTTP/2: one connection for many requests at once.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use h2::client::SendRequest;

use crate::client::ResponseError;
use crate::h2_stream;
use crate::head::{ResponseHead, find_end, take_request};
use crate::stream::Stream;

const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
const HEAD_MAX: u32 = 64 * 1024;
/// For a server that makes no room for a request's body.
const WRITE_TIME_MAX: Duration = Duration::from_mins(1);

/// A handle to a connection. It is closed when the last one is dropped.
#[derive(Clone)]
pub(crate) struct H2Client {
    sender: SendRequest<Bytes>,
    scheme: &'static str,
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
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEAD_MAX)
            .enable_push(false)
            .handshake::<_, Bytes>(stream)
            .await
            .map_err(h2_stream::broken)?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "an HTTP/2 connection to an upstream ended");
            }
        });
        Ok(Self { sender, scheme })
    }

    pub(crate) fn is_closed(&mut self) -> bool {
        let polled = self.sender.poll_ready(&mut Context::from_waker(Waker::noop()));
        matches!(polled, Poll::Ready(Err(_)))
    }

    pub(crate) async fn send(
        mut self,
        head: &[u8],
        body: &[u8],
    ) -> Result<(Self, ResponseHead, RecvStream), ResponseError> {
        let no_answer = |error| ResponseError::NoAnswer(h2_stream::broken(error));
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
        Ok((self, head, body))
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
