//! One request and its answer, on a server's side.

use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout_at};
use tollgate_core::time::Stopwatch;
use tollgate_core::{Clock, Error};

use crate::body::{BodyError, ChunkFrame, Decoder};
use crate::head::RequestHead;
use crate::server::{Connection, READ_SIZE};

/// A body slower than this after a start of some seconds is an attack on our memory.
const BODY_BYTES_PER_SECOND_MIN: u64 = 1024;
const BODY_START: Duration = Duration::from_secs(5);
/// So much of a body that nobody wants is read for the sake of the connection.
const DISCARD_MAX: usize = 64 * 1024;
/// Where an exchange's answer stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    NotBegun,
    Streaming {
        is_chunked: bool,
    },
    Complete,
    /// The peer is gone, or the answer broke off.
    Broken,
}

/// An answer that is known as a whole.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    /// Names in lower case. Values are cleaned of what cannot be in a header.
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn json(status: u16, body: Vec<u8>) -> Self {
        Self { status, headers: vec![("content-type", "application/json".to_owned())], body }
    }

    pub fn error(error: &Error) -> Self {
        let mut reply = Self::json(error.status(), error.envelope().to_string().into_bytes());
        reply.headers.extend(error.headers.iter().map(|(name, value)| (*name, value.clone())));
        reply
    }

    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// One request and its answer.
pub struct Exchange {
    connection: Connection,
    pub head: RequestHead,
    body: Decoder,
    keep_alive: bool,
    state: Answer,
    has_continued: bool,
    started: Stopwatch,
    headers: Vec<(&'static str, String)>,
    timing_header: Option<&'static str>,
    status: Option<u16>,
    bytes_sent: u64,
}

impl Exchange {
    pub(crate) fn new(connection: Connection, head: RequestHead, keep_alive: bool) -> Self {
        Self {
            connection,
            body: Decoder::new(head.framing),
            head,
            keep_alive,
            state: Answer::NotBegun,
            has_continued: false,
            started: Stopwatch::start(),
            headers: Vec::new(),
            timing_header: None,
            status: None,
            bytes_sent: 0,
        }
    }

    /// Puts a header on the answer, whatever it will be. Given again, the last value counts.
    pub fn set_header(&mut self, name: &'static str, value: String) {
        self.headers.retain(|(other, _)| *other != name);
        self.headers.push((name, value));
    }

    /// Names the header that says how many milliseconds passed until the answer began.
    pub fn set_timing_header(&mut self, name: &'static str) {
        self.timing_header = Some(name);
    }

    /// The status of the answer, once it has begun.
    pub fn status(&self) -> Option<u16> {
        self.status
    }

    /// Of the answer, head and framing included.
    pub fn bytes_sent(&self) -> u64 {
        self.bytes_sent
    }

    /// Since the request's head was complete.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Answers with an error. A fault of ours is logged here, and only here.
    pub async fn fail(&mut self, error: &Error) {
        self.fail_with(error, error.envelope().to_string().into_bytes()).await;
    }

    /// The same with a body of the caller's, for clients that do not read OpenAI's envelope.
    pub async fn fail_with(&mut self, error: &Error, body: Vec<u8>) {
        if error.status() >= 500 {
            let request_id =
                self.headers.iter().find(|(name, _)| *name == "x-request-id").map(|(_, id)| id.as_str());
            tracing::error!(request_id, path = self.head.path(), status = error.status(), %error, "a request failed");
        }
        self.respond(&Reply { body, ..Reply::error(error) }).await;
    }

    /// The address of the other end of the connection, which may be a proxy.
    pub fn peer(&self) -> IpAddr {
        self.connection.peer.ip().to_canonical()
    }

    /// Whether the connection itself is encrypted.
    pub fn is_secure(&self) -> bool {
        self.connection.stream.is_tls()
    }

    /// How long the body is, where its head says so.
    pub fn announced_length(&self) -> Option<u64> {
        if self.body.is_done() { Some(0) } else { self.body.announced() }
    }

    /// Reads the whole body, of at most `bytes_max`.
    pub async fn read_body(&mut self, bytes_max: usize) -> Result<Vec<u8>, BodyError> {
        let announced = usize::try_from(self.body.announced().unwrap_or(0)).unwrap_or(usize::MAX);
        if announced > bytes_max {
            return Err(BodyError::TooLarge);
        }
        if self.head.expects_continue() && !self.body.is_done() && !self.has_continued {
            self.has_continued = true;
            self.connection.write(b"HTTP/1.1 100 Continue\r\n\r\n").await.map_err(BodyError::CutShort)?;
        }
        let mut body = Vec::with_capacity(announced);
        let start = Instant::now();
        loop {
            self.body.decode(&mut self.connection.buffer, &mut body)?;
            if body.len() > bytes_max {
                return Err(BodyError::TooLarge);
            }
            if self.body.is_done() {
                return Ok(body);
            }
            let earned = Duration::from_secs(body.len() as u64 / BODY_BYTES_PER_SECOND_MIN);
            let deadline = start + (BODY_START + earned).min(self.connection.limits.body_time_max);
            self.connection.buffer.reserve(READ_SIZE);
            match timeout_at(deadline, self.connection.stream.read_buf(&mut self.connection.buffer)).await {
                Ok(Ok(0)) => return Err(BodyError::CutShort(io::ErrorKind::UnexpectedEof.into())),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(BodyError::CutShort(error)),
                Err(_) => return Err(BodyError::TooSlow),
            }
        }
    }

    /// Returns when the peer has closed its side, and not before. What it sends meanwhile is kept for the next request.
    pub async fn gone(&mut self) {
        const KEPT_MAX: usize = 64 * 1024;
        while self.connection.buffer.len() < KEPT_MAX {
            self.connection.buffer.reserve(READ_SIZE);
            match self.connection.stream.read_buf(&mut self.connection.buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
        // So much was sent ahead that the peer is certainly there.
        std::future::pending::<()>().await;
    }

    /// Whether the answer came to its end.
    pub fn is_complete(&self) -> bool {
        self.state == Answer::Complete
    }

    /// Whether an answer has begun, so that no other can be given.
    pub fn has_begun(&self) -> bool {
        self.state != Answer::NotBegun
    }

    /// Answers in one piece.
    pub async fn respond(&mut self, reply: &Reply) {
        if self.has_begun() {
            return;
        }
        self.keep_alive = self.keep_alive && self.discard_body().await;
        let mut head = self.begin(reply.status, &reply.headers);
        let _ = write!(head, "content-length: {}\r\n\r\n", reply.body.len());
        let mut wire = head.into_bytes();
        if self.head.method() != "HEAD" {
            wire.extend_from_slice(&reply.body);
        }
        self.status = Some(reply.status);
        self.bytes_sent += wire.len() as u64;
        let written = self.connection.write(&wire).await;
        self.state = if written.is_ok() { Answer::Complete } else { Answer::Broken };
    }

    /// Begins an answer of unknown length. An error means that the peer is gone.
    pub async fn start(&mut self, status: u16, headers: &[(&'static str, String)]) -> io::Result<()> {
        let is_chunked = !self.head.is_http_10;
        self.keep_alive = self.keep_alive && is_chunked && self.discard_body().await;
        let mut head = self.begin(status, headers);
        head.push_str(if is_chunked { "transfer-encoding: chunked\r\n\r\n" } else { "\r\n" });
        self.state = Answer::Streaming { is_chunked };
        self.status = Some(status);
        self.write(head.as_bytes()).await
    }

    /// Hands a frame on in one write. An error means that the peer is gone.
    pub async fn send(&mut self, frame: &mut ChunkFrame) -> io::Result<()> {
        match self.state {
            Answer::Streaming { is_chunked } => self.write(frame.sealed(is_chunked)).await,
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Ends a streamed answer. One that is not ended is cut, which tells the peer that something is missing.
    pub async fn finish(&mut self) {
        if let Answer::Streaming { is_chunked } = self.state {
            let end: &[u8] = if is_chunked { b"0\r\n\r\n" } else { b"" };
            if self.write(end).await.is_ok() {
                self.state = Answer::Complete;
            }
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes_sent += bytes.len() as u64;
        let written = self.connection.write(bytes).await;
        if written.is_err() {
            self.state = Answer::Broken;
        }
        written
    }

    fn begin(&self, status: u16, headers: &[(&'static str, String)]) -> String {
        let mut head = String::with_capacity(512);
        begin_head(&mut head, status, &self.connection.clock);
        for (name, value) in self.headers.iter().chain(headers) {
            head.push_str(name);
            head.push_str(": ");
            head.extend(value.chars().map(|letter| if letter.is_ascii_control() { ' ' } else { letter }));
            head.push_str("\r\n");
        }
        if let Some(name) = self.timing_header {
            let _ = write!(head, "{name}: {}\r\n", self.elapsed().as_millis());
        }
        if !self.keep_alive {
            head.push_str("connection: close\r\n");
        } else if self.head.is_http_10 {
            head.push_str("connection: keep-alive\r\n");
        }
        head
    }

    /// Reads what is left of a small body, so that the connection can be used again; says whether it can.
    async fn discard_body(&mut self) -> bool {
        if self.body.is_done() {
            return true;
        }
        // Whoever waits for a word before it sends its body may as well be told by the answer.
        !self.head.expects_continue() && self.read_body(DISCARD_MAX).await.is_ok()
    }

    /// The connection for the next request, if there may be one.
    pub(crate) async fn end(mut self) -> Option<Connection> {
        match self.state {
            Answer::NotBegun => {
                let error = Error::internal("a request was not answered");
                self.respond(&Reply::error(&error)).await;
                None
            }
            Answer::Complete if self.keep_alive => Some(self.connection),
            Answer::Complete => {
                self.connection.linger().await;
                None
            }
            Answer::Streaming { .. } | Answer::Broken => None,
        }
    }
}

/// The status line and the date of an answer.
pub(crate) fn begin_head(head: &mut String, status: u16, clock: &Clock) {
    let _ = write!(head, "HTTP/1.1 {status} {}\r\ndate: {}\r\n", reason(status), date(clock));
}

fn date(clock: &Clock) -> String {
    use std::cell::RefCell;
    thread_local! {
        static LAST: RefCell<(i64, String)> = const { RefCell::new((i64::MIN, String::new())) };
    }
    let now = clock.now().0;
    LAST.with_borrow_mut(|(second, text)| {
        if *second != now {
            *second = now;
            let time = jiff::Timestamp::from_second(now).unwrap_or_default();
            *text = time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        }
        text.clone()
    })
}

const fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        422 => "Unprocessable Content",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Other",
    }
}
