//! A server's side of HTTP/2: many requests at once on one connection, each an exchange of its own.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tollgate_core::{Clock, Error};

use crate::body::BodyError;
use crate::exchange::Exchange;
use crate::h2_stream;
use crate::server::{LINGER, Limits, Service};
use crate::stream::Stream;

/// What a client that knows that we speak it begins with.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";

/// Requests at once on a connection.
const STREAMS_MAX: u32 = 200;
/// What a client may send ahead on a stream, and on a connection.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// What waits to be sent on a stream; whoever has more waits.
const SEND_BUFFER: usize = 256 * 1024;
const LOOK_EVERY: Duration = Duration::from_secs(5);
const ENDING_LOOK_EVERY: Duration = Duration::from_millis(50);

/// A connection of which something was read already.
pub(crate) struct Rewound {
    pub(crate) read: BytesMut,
    pub(crate) stream: Stream,
}

impl AsyncRead for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let count = self.read.len().min(buf.remaining());
        buf.put_slice(&self.read[..count]);
        self.read.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A connection's surroundings.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) peer: SocketAddr,
    pub(crate) is_tls: bool,
    pub(crate) limits: Arc<Limits>,
    pub(crate) clock: Clock,
}

/// Serves a connection until its client ends it, it was idle for too long, or the server stops; and until what was under
/// way on it has come to its end, though its client may have gone.
pub(crate) async fn serve<S: Service>(
    stream: Rewound,
    place: Place,
    service: Arc<S>,
    shutdown: watch::Receiver<bool>,
) {
    let under_way = Arc::new(AtomicUsize::new(0));
    accept(stream, place, service, shutdown, &under_way).await;
    while under_way.load(Ordering::Relaxed) > 0 {
        tokio::time::sleep(ENDING_LOOK_EVERY).await;
    }
}

async fn accept<S: Service>(
    stream: Rewound,
    place: Place,
    service: Arc<S>,
    mut shutdown: watch::Receiver<bool>,
    under_way: &Arc<AtomicUsize>,
) {
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(STREAMS_MAX)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(u32::try_from(place.limits.head_bytes_max).unwrap_or(u32::MAX));
    let handshake = timeout(place.limits.head_time_max, builder.handshake::<_, Bytes>(stream)).await;
    let Ok(Ok(mut connection)) = handshake else { return };
    let mut last = Instant::now();
    let mut is_ending = false;
    let mut look = tokio::time::interval(LOOK_EVERY);
    loop {
        tokio::select! {
            accepted = connection.accept() => {
                let Some(Ok((request, respond))) = accepted else { return };
                last = Instant::now();
                let counted = Counted::new(under_way);
                let (place, service) = (place.clone(), Arc::clone(&service));
                tokio::spawn(async move {
                    answer(request, respond, place, &*service).await;
                    drop(counted);
                });
            }
            _ = shutdown.wait_for(|stop| *stop), if !is_ending => {
                is_ending = true;
                connection.graceful_shutdown();
            }
            _ = look.tick() => {
                if under_way.load(Ordering::Relaxed) > 0 {
                    last = Instant::now();
                } else if !is_ending && last.elapsed() >= place.limits.idle_time_max {
                    is_ending = true;
                    connection.graceful_shutdown();
                } else if is_ending && last.elapsed() >= place.limits.idle_time_max * 2 {
                    return;
                }
            }
        }
    }
}

/// Counts a request as under way until it is dropped.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn answer<S: Service>(
    request: http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    place: Place,
    service: &S,
) {
    let (parts, body) = request.into_parts();
    match h2_stream::request_head(&parts) {
        Ok(head) => {
            let transport = H2 { body, answer: Answer::NotBegun(respond), place };
            let mut exchange = Exchange::over_h2(transport, head);
            service.call(&mut exchange).await;
            exchange.end_h2().await;
        }
        Err(why) => {
            let error = Error::bad_request(why);
            let mut response =
                http::Response::builder().status(400).header("content-type", "application/json");
            for (name, value) in service.refused(400) {
                response = response.header(name, value);
            }
            let Ok(response) = response.body(()) else { return };
            let Ok(mut stream) = respond.send_response(response, false) else { return };
            let body = Bytes::from(error.envelope().to_string());
            let _ = h2_stream::send(&mut stream, body, true, place.limits.write_time_max).await;
        }
    }
}

/// One stream: a request's body, and the way for its answer.
pub(crate) struct H2 {
    body: RecvStream,
    answer: Answer,
    pub(crate) place: Place,
}

enum Answer {
    NotBegun(SendResponse<Bytes>),
    Streaming(SendStream<Bytes>),
    Over,
}

impl H2 {
    pub(crate) fn has_read_body(&self) -> bool {
        self.body.is_end_stream()
    }

    /// Appends the next piece of the body; `false` is its end.
    pub(crate) async fn read(&mut self, output: &mut Vec<u8>) -> Result<bool, BodyError> {
        h2_stream::receive(&mut self.body, output)
            .await
            .map_err(|error| BodyError::CutShort(h2_stream::broken(error)))
    }

    /// Returns when the client has given the request up.
    pub(crate) async fn gone(&mut self) {
        std::future::poll_fn(|cx| match &mut self.answer {
            Answer::NotBegun(respond) => respond.poll_reset(cx).map(|_| ()),
            Answer::Streaming(stream) => stream.poll_reset(cx).map(|_| ()),
            Answer::Over => Poll::Pending,
        })
        .await;
    }

    /// Sends the head of the answer; all of it, if `is_end`.
    pub(crate) fn begin(&mut self, head: http::Response<()>, is_end: bool) -> io::Result<()> {
        let Answer::NotBegun(mut respond) = std::mem::replace(&mut self.answer, Answer::Over) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let stream = respond.send_response(head, is_end).map_err(h2_stream::broken)?;
        if !is_end {
            self.answer = Answer::Streaming(stream);
        }
        Ok(())
    }

    pub(crate) async fn send(&mut self, data: Bytes, is_end: bool) -> io::Result<()> {
        let time_max = self.place.limits.write_time_max;
        match &mut self.answer {
            Answer::Streaming(stream) => h2_stream::send(stream, data, is_end, time_max).await,
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Reads on for a moment what nobody wants.
    pub(crate) async fn linger(&mut self) {
        let (time, bytes_max) = LINGER;
        let reading = async {
            let (mut read, mut piece) = (0, Vec::new());
            while read < bytes_max && !self.has_read_body() {
                piece.clear();
                match self.read(&mut piece).await {
                    Ok(true) => read += piece.len(),
                    _ => break,
                }
            }
        };
        let _ = timeout(time, reading).await;
    }

    /// Ends a stream whose answer broke off, so that its client knows that something is missing.
    pub(crate) fn cut(&mut self) {
        if let Answer::Streaming(stream) = &mut self.answer {
            stream.send_reset(h2::Reason::INTERNAL_ERROR);
        }
    }
}
