//! A server's side: the accept loop, and one request after the other on a connection.

use std::fmt::Write as _;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tollgate_core::error::Kind;
use tollgate_core::{Clock, Error};

use crate::exchange::{Exchange, begin_head};
use crate::h2_server::{self, Place, Rewound};
use crate::head::{RequestHead, TOO_MANY_FIELDS, find_end, take_request};
use crate::stream::Stream;
use crate::tls::ServerTls;

/// What a connection may take. Times are for a peer that does nothing; work of ours is limited elsewhere.
#[derive(Clone, Debug)]
pub struct Limits {
    pub head_bytes_max: usize,
    /// From the first byte of a head to its end.
    pub head_time_max: Duration,
    /// Between requests.
    pub idle_time_max: Duration,
    pub body_time_max: Duration,
    /// For one write to a peer that does not read.
    pub write_time_max: Duration,
    pub connections_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes_max: 64 * 1024,
            head_time_max: Duration::from_secs(10),
            idle_time_max: Duration::from_secs(75),
            body_time_max: Duration::from_mins(1),
            write_time_max: Duration::from_mins(1),
            connections_max: 20_000,
        }
    }
}

/// How long and how much is read after a refusal, so that the peer gets to see the answer before a reset.
pub(crate) const LINGER: (Duration, usize) = (Duration::from_secs(5), 32 * 1024 * 1024);
/// How long a server that stops waits for the first request of a connection that it has accepted.
const FIRST_TIME_MAX: Duration = Duration::from_secs(1);
pub(crate) const READ_SIZE: usize = 8 * 1024;

/// What answers requests.
pub trait Service: Send + Sync + 'static {
    /// Notes that what came could not even be read as a request, and gives headers for the answer to it.
    fn refused(&self, status: u16) -> Vec<(&'static str, String)>;

    fn call<'e>(&'e self, exchange: &'e mut Exchange) -> impl Future<Output = ()> + Send + 'e;
}

/// One listening socket's accept loop.
pub struct Server {
    pub listener: TcpListener,
    pub tls: Option<Arc<ServerTls>>,
    pub limits: Limits,
    pub clock: Clock,
}

impl Server {
    /// Serves until `shutdown` says so, and then until the connections have ended what they were at.
    pub async fn run<S: Service>(self, service: Arc<S>, mut shutdown: watch::Receiver<bool>) {
        let connections_max = self.limits.connections_max;
        let permits = Arc::new(Semaphore::new(connections_max));
        let limits = Arc::new(self.limits);
        loop {
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                _ = shutdown.wait_for(|stop| *stop) => break,
            };
            let (tcp, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, mostly: trying again at once would only burn the processor.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let acceptor = self.tls.as_ref().map(|tls| tls.acceptor());
            let (service, limits) = (Arc::clone(&service), Arc::clone(&limits));
            let (shutdown, clock) = (shutdown.clone(), self.clock.clone());
            tokio::spawn(async move {
                if let Some(stream) = secure(tcp, acceptor, &limits).await {
                    let connection = Connection { stream, buffer: BytesMut::new(), peer, limits, clock };
                    if connection.stream.speaks_h2() {
                        connection.serve_h2(service, shutdown).await;
                    } else {
                        connection.serve(service, shutdown).await;
                    }
                }
                drop(permit);
            });
        }
        drop(self.listener);
        let _ = permits.acquire_many(u32::try_from(connections_max).unwrap_or(u32::MAX)).await;
    }
}

async fn secure(
    tcp: TcpStream,
    acceptor: Option<tokio_rustls::TlsAcceptor>,
    limits: &Limits,
) -> Option<Stream> {
    tcp.set_nodelay(true).ok()?;
    let Some(acceptor) = acceptor else { return Some(Stream::Plain(tcp)) };
    let tls = timeout(limits.head_time_max, acceptor.accept(tcp)).await.ok()?.ok()?;
    Some(Stream::Tls(Box::new(tls.into())))
}

/// A connection between two requests, or under one.
pub(crate) struct Connection {
    pub(crate) stream: Stream,
    pub(crate) buffer: BytesMut,
    pub(crate) peer: SocketAddr,
    pub(crate) limits: Arc<Limits>,
    pub(crate) clock: Clock,
}

/// Why there is no next request on a connection.
enum NoHead {
    /// It ended between requests, or timed out there.
    Over,
    /// It is the beginning of an HTTP/2 connection.
    OfH2,
    Refused(Error),
}

impl Connection {
    /// The same over HTTP/2.
    async fn serve_h2<S: Service>(self, service: Arc<S>, shutdown: watch::Receiver<bool>) {
        let place =
            Place { peer: self.peer, is_tls: self.stream.is_tls(), limits: self.limits, clock: self.clock };
        h2_server::serve(Rewound { read: self.buffer, stream: self.stream }, place, service, shutdown).await;
    }

    async fn serve<S: Service>(mut self, service: Arc<S>, mut shutdown: watch::Receiver<bool>) {
        let mut is_first = true;
        loop {
            let head = match self.next_head(&mut shutdown, is_first).await {
                Ok(head) => head,
                Err(NoHead::Over) => return,
                Err(NoHead::OfH2) if is_first => return self.serve_h2(service, shutdown).await,
                Err(NoHead::OfH2) => {
                    let error = Error::bad_request("The head of the request is malformed.");
                    return self.refuse(&error, service.refused(error.status())).await;
                }
                Err(NoHead::Refused(error)) => {
                    return self.refuse(&error, service.refused(error.status())).await;
                }
            };
            is_first = false;
            let keep_alive = head.wants_keep_alive() && !*shutdown.borrow();
            let mut exchange = Exchange::new(self, head, keep_alive, shutdown.clone());
            service.call(&mut exchange).await;
            match exchange.end().await {
                Some(connection) => self = connection,
                None => return,
            }
        }
    }

    async fn next_head(
        &mut self,
        shutdown: &mut watch::Receiver<bool>,
        is_first: bool,
    ) -> Result<RequestHead, NoHead> {
        let (mut seen, mut is_leaving) = (0, false);
        let mut deadline = Instant::now() + self.limits.idle_time_max;
        loop {
            let found =
                find_end(&self.buffer, seen).map_err(|why| NoHead::Refused(Error::bad_request(why)))?;
            if self.buffer.starts_with(h2_server::PREFACE) {
                return Err(NoHead::OfH2);
            }
            if let Some(end) = found.filter(|end| *end <= self.limits.head_bytes_max) {
                let head = take_request(&mut self.buffer, end);
                if self.buffer.is_empty() {
                    // Whatever the request takes, this memory is not for it.
                    self.buffer = BytesMut::new();
                }
                return head.map_err(|why| NoHead::Refused(refusal(why)));
            }
            if self.buffer.len() > self.limits.head_bytes_max {
                return Err(NoHead::Refused(refusal("The head of the request is too long.")));
            }
            if seen == 0 && !self.buffer.is_empty() {
                deadline = Instant::now() + self.limits.head_time_max;
            }
            seen = self.buffer.len();
            let reading = async {
                if self.buffer.is_empty() {
                    self.stream.ready().await?;
                }
                self.buffer.reserve(READ_SIZE);
                self.stream.read_buf(&mut self.buffer).await
            };
            let read = tokio::select! {
                biased;
                read = timeout_at(deadline, reading) => read,
                _ = shutdown.wait_for(|stop| *stop), if seen == 0 && !is_leaving => {
                    if !is_first {
                        return Err(NoHead::Over);
                    }
                    // Whoever has just connected is about to ask, and would see a reset.
                    is_leaving = true;
                    deadline = deadline.min(Instant::now() + FIRST_TIME_MAX);
                    continue;
                }
            };
            match read {
                Ok(Ok(count)) if count > 0 => {}
                Ok(_) => return Err(NoHead::Over),
                Err(_) if seen == 0 => return Err(NoHead::Over),
                Err(_) => {
                    let error = Error::new(Kind::RequestTimeout, "The head of the request came too slowly.");
                    return Err(NoHead::Refused(error));
                }
            }
        }
    }

    /// Answers what could not be read as a request, and closes.
    async fn refuse(mut self, error: &Error, headers: Vec<(&'static str, String)>) {
        let body = error.envelope().to_string();
        let mut wire = String::with_capacity(256 + body.len());
        begin_head(&mut wire, error.status(), &self.clock);
        let _ = write!(wire, "content-type: application/json\r\ncontent-length: {}\r\n", body.len());
        for (name, value) in headers {
            let _ = write!(wire, "{name}: {value}\r\n");
        }
        wire.push_str("connection: close\r\n\r\n");
        wire.push_str(&body);
        if self.write(wire.as_bytes()).await.is_ok() {
            self.linger().await;
        }
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let writing = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        // Most of what is written is taken at once, and needs no timer.
        let mut writing = pin!(writing);
        if let Poll::Ready(written) = poll_fn(|context| Poll::Ready(writing.as_mut().poll(context))).await {
            return written;
        }
        timeout(self.limits.write_time_max, writing)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Closes our side and reads on for a moment: a reset for unread bytes could overtake the answer.
    pub(crate) async fn linger(mut self) {
        let (time, bytes_max) = LINGER;
        let reading = async {
            self.stream.shutdown().await?;
            let mut read = 0;
            while read < bytes_max {
                self.buffer.clear();
                self.buffer.reserve(READ_SIZE);
                match self.stream.read_buf(&mut self.buffer).await? {
                    0 => break,
                    count => read += count,
                }
            }
            io::Result::Ok(())
        };
        let _ = timeout(time, reading).await;
    }
}

fn refusal(why: &'static str) -> Error {
    let error = Error::bad_request(why);
    if why == TOO_MANY_FIELDS { error.code("header_fields_too_many") } else { error }
}
