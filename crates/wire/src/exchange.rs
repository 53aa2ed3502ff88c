//! One request and its answer, on a server's side.

use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tollgate_core::time::Stopwatch;
use tollgate_core::{Clock, Error};

use crate::body::{BodyError, ChunkFrame, Decoder};
use crate::h2_server::H2;
use crate::head::{Framing, RequestHead};
use crate::server::{Connection, Limits, READ_SIZE};

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
    transport: Transport,
    pub head: RequestHead,
    state: Answer,
    started: Stopwatch,
    headers: Vec<(&'static str, String)>,
    timing_header: Option<&'static str>,
    status: Option<u16>,
    bytes_sent: u64,
}

/// What it goes over.
enum Transport {
    H1(H1),
    H2(Box<H2>),
}

struct H1 {
    connection: Connection,
    body: Decoder,
    keep_alive: bool,
    /// Whether the server stops: an answer that begins then is the last of its connection, and says so.
    shutdown: watch::Receiver<bool>,
    has_continued: bool,
}

impl Exchange {
    pub(crate) fn new(
        connection: Connection,
        head: RequestHead,
        keep_alive: bool,
        shutdown: watch::Receiver<bool>,
    ) -> Self {
        let body = Decoder::new(head.framing);
        Self::over(Transport::H1(H1 { connection, body, keep_alive, shutdown, has_continued: false }), head)
    }

    pub(crate) fn over_h2(stream: H2, head: RequestHead) -> Self {
        Self::over(Transport::H2(Box::new(stream)), head)
    }

    fn over(transport: Transport, head: RequestHead) -> Self {
        Self {
            transport,
            head,
            state: Answer::NotBegun,
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

    /// A header that was put on the answer.
    pub fn answer_header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    /// Logs an error that is a fault of ours, for whoever answers with it in a form of their own.
    pub fn log_fault(&self, error: &Error) {
        if error.status() >= 500 {
            let (request_id, path) = (self.answer_header("x-request-id"), self.head.path());
            tracing::error!(request_id, path, status = error.status(), %error, "a request failed");
        }
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
        self.log_fault(error);
        self.respond(&Reply { body, ..Reply::error(error) }).await;
    }

    fn peer_address(&self) -> SocketAddr {
        match &self.transport {
            Transport::H1(h1) => h1.connection.peer,
            Transport::H2(h2) => h2.place.peer,
        }
    }

    /// The address of the other end of the connection, which may be a proxy.
    pub fn peer(&self) -> IpAddr {
        self.peer_address().ip().to_canonical()
    }

    /// Whether the connection itself is encrypted.
    pub fn is_secure(&self) -> bool {
        match &self.transport {
            Transport::H1(h1) => h1.connection.stream.is_tls(),
            Transport::H2(h2) => h2.place.is_tls,
        }
    }

    fn limits(&self) -> &Limits {
        match &self.transport {
            Transport::H1(h1) => &h1.connection.limits,
            Transport::H2(h2) => &h2.place.limits,
        }
    }

    fn clock(&self) -> &Clock {
        match &self.transport {
            Transport::H1(h1) => &h1.connection.clock,
            Transport::H2(h2) => &h2.place.clock,
        }
    }

    /// How long the body is, where its head says so.
    pub fn announced_length(&self) -> Option<u64> {
        match &self.transport {
            Transport::H1(h1) if h1.body.is_done() => Some(0),
            Transport::H2(h2) if h2.has_read_body() => Some(0),
            _ => match self.head.framing {
                Framing::Length(length) => Some(length),
                _ => None,
            },
        }
    }

    /// Reads the whole body, of at most `bytes_max`.
    pub async fn read_body(&mut self, bytes_max: usize) -> Result<Vec<u8>, BodyError> {
        let announced = usize::try_from(self.announced_length().unwrap_or(0)).unwrap_or(usize::MAX);
        if announced > bytes_max {
            return Err(BodyError::TooLarge);
        }
        let time_max = self.limits().body_time_max;
        let mut body = Vec::with_capacity(announced);
        if let Transport::H1(h1) = &mut self.transport {
            h1.invite_body(&self.head).await?;
        }
        let start = Instant::now();
        loop {
            if body.len() > bytes_max {
                return Err(BodyError::TooLarge);
            }
            let earned = Duration::from_secs(body.len() as u64 / BODY_BYTES_PER_SECOND_MIN);
            let deadline = start + (BODY_START + earned).min(time_max);
            let reading = async {
                match &mut self.transport {
                    Transport::H1(h1) => h1.read(&mut body).await,
                    Transport::H2(h2) => h2.read(&mut body).await,
                }
            };
            if !timeout_at(deadline, reading).await.unwrap_or(Err(BodyError::TooSlow))? {
                break;
            }
        }
        // Over HTTP/2 the end comes by itself, and may not be where it was said to be.
        match self.head.framing {
            Framing::Length(length) if length != body.len() as u64 => {
                Err(BodyError::Malformed("the body is not as long as its head says"))
            }
            _ => Ok(body),
        }
    }

    /// Returns when the peer has gone, and not before. What it sends meanwhile is kept for the next request.
    pub async fn gone(&mut self) {
        match &mut self.transport {
            Transport::H1(h1) => h1.gone().await,
            Transport::H2(h2) => h2.gone().await,
        }
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
        self.discard_body().await;
        self.status = Some(reply.status);
        let has_body = self.head.method() != "HEAD";
        let head = self.answer_head(reply.status, &reply.headers, Some(reply.body.len()));
        let written = match (&mut self.transport, head) {
            (Transport::H1(h1), Head::Text(mut wire)) => {
                if has_body {
                    wire.extend_from_slice(&reply.body);
                }
                self.bytes_sent += wire.len() as u64;
                h1.connection.write(&wire).await
            }
            (Transport::H2(h2), Head::Fields(head)) => {
                let is_end = reply.body.is_empty() || !has_body;
                self.bytes_sent += reply.body.len() as u64;
                match h2.begin(head, is_end) {
                    Ok(()) if !is_end => h2.send(Bytes::copy_from_slice(&reply.body), true).await,
                    begun => begun,
                }
            }
            _ => Err(io::ErrorKind::Other.into()),
        };
        self.state = if written.is_ok() { Answer::Complete } else { Answer::Broken };
    }

    /// Begins an answer of unknown length. An error means that the peer is gone.
    pub async fn start(&mut self, status: u16, headers: &[(&'static str, String)]) -> io::Result<()> {
        self.discard_body().await;
        self.status = Some(status);
        let is_chunked = !self.head.is_http_10;
        if !is_chunked {
            self.lose_connection();
        }
        let head = self.answer_head(status, headers, None);
        self.state = Answer::Streaming { is_chunked };
        let written = match (&mut self.transport, head) {
            (Transport::H1(h1), Head::Text(wire)) => {
                self.bytes_sent += wire.len() as u64;
                h1.connection.write(&wire).await
            }
            (Transport::H2(h2), Head::Fields(head)) => h2.begin(head, false),
            _ => Err(io::ErrorKind::Other.into()),
        };
        self.noted(written)
    }

    /// Hands a frame on in one write. An error means that the peer is gone.
    pub async fn send(&mut self, frame: &mut ChunkFrame) -> io::Result<()> {
        let Answer::Streaming { is_chunked } = self.state else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let written = match &mut self.transport {
            Transport::H1(h1) => {
                let bytes = frame.sealed(is_chunked);
                self.bytes_sent += bytes.len() as u64;
                h1.connection.write(bytes).await
            }
            Transport::H2(h2) => {
                self.bytes_sent += frame.payload().len() as u64;
                h2.send(Bytes::copy_from_slice(frame.payload()), false).await
            }
        };
        self.noted(written)
    }

    /// Ends a streamed answer. One that is not ended is cut, which tells the peer that something is missing.
    pub async fn finish(&mut self) {
        let Answer::Streaming { is_chunked } = self.state else { return };
        let written = match &mut self.transport {
            Transport::H1(h1) => h1.connection.write(if is_chunked { b"0\r\n\r\n" } else { b"" }).await,
            Transport::H2(h2) => h2.send(Bytes::new(), true).await,
        };
        if self.noted(written).is_ok() {
            self.state = Answer::Complete;
        }
    }

    fn noted(&mut self, written: io::Result<()>) -> io::Result<()> {
        if written.is_err() {
            self.state = Answer::Broken;
        }
        written
    }

    /// The head of an answer whose body is of `length`, or goes on until it ends.
    fn answer_head(&self, status: u16, headers: &[(&'static str, String)], length: Option<usize>) -> Head {
        let Transport::H1(h1) = &self.transport else {
            let mut response = http::Response::new(());
            *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
            let mut append = |name: &'static str, value: &str| {
                if let Ok(value) = http::HeaderValue::from_str(value) {
                    response.headers_mut().append(http::HeaderName::from_static(name), value);
                }
            };
            self.each_field(headers, &mut append);
            if let Some(length) = length {
                append("content-length", &length.to_string());
            }
            return Head::Fields(response);
        };
        // With room for the body, which leaves in the same write.
        let mut text = String::with_capacity(512 + length.unwrap_or(0));
        let _ = write!(text, "HTTP/1.1 {status} {}\r\n", reason(status));
        self.each_field(headers, |name, value| text.extend([name, ": ", value, "\r\n"]));
        if !h1.keep_alive {
            text.push_str("connection: close\r\n");
        } else if self.head.is_http_10 {
            text.push_str("connection: keep-alive\r\n");
        }
        match length {
            Some(length) => _ = write!(text, "content-length: {length}\r\n\r\n"),
            None if self.head.is_http_10 => text.push_str("\r\n"),
            None => text.push_str("transfer-encoding: chunked\r\n\r\n"),
        }
        Head::Text(text.into_bytes())
    }

    /// All fields of an answer but those of its framing, their values cleaned of what cannot be in a header.
    fn each_field(&self, headers: &[(&'static str, String)], mut each: impl FnMut(&'static str, &str)) {
        with_date(self.clock(), |date| each("date", date));
        for (name, value) in self.headers.iter().chain(headers) {
            if value.contains(|letter: char| letter.is_ascii_control()) {
                let clean = |letter: char| if letter.is_ascii_control() { ' ' } else { letter };
                each(name, &value.chars().map(clean).collect::<String>());
            } else {
                each(name, value);
            }
        }
        if let Some(name) = self.timing_header {
            each(name, &self.elapsed().as_millis().to_string());
        }
    }

    /// Reads what is left of a small body, so that the connection can be used again.
    async fn discard_body(&mut self) {
        if let Transport::H1(h1) = &mut self.transport {
            h1.keep_alive &= !*h1.shutdown.borrow();
        }
        match &self.transport {
            Transport::H1(h1) if h1.body.is_done() => return,
            // Whoever waits for a word before it sends its body may as well be told by the answer.
            Transport::H1(_) if !self.head.expects_continue() => {}
            Transport::H1(_) => {
                self.lose_connection();
                return;
            }
            // The other requests of the connection do not depend on it.
            Transport::H2(_) => return,
        }
        if self.read_body(DISCARD_MAX).await.is_err() {
            self.lose_connection();
        }
    }

    fn lose_connection(&mut self) {
        if let Transport::H1(h1) = &mut self.transport {
            h1.keep_alive = false;
        }
    }

    async fn answer_what_was_forgotten(&mut self) {
        if self.state == Answer::NotBegun {
            let error = Error::internal("a request was not answered");
            self.lose_connection();
            self.respond(&Reply::error(&error)).await;
        }
    }

    /// The connection for the next request, if there may be one.
    pub(crate) async fn end(mut self) -> Option<Connection> {
        self.answer_what_was_forgotten().await;
        let Transport::H1(h1) = self.transport else { return None };
        match self.state {
            Answer::Complete if h1.keep_alive => Some(h1.connection),
            Answer::Complete => {
                h1.connection.linger().await;
                None
            }
            Answer::NotBegun | Answer::Streaming { .. } | Answer::Broken => None,
        }
    }

    pub(crate) async fn end_h2(mut self) {
        self.answer_what_was_forgotten().await;
        let Transport::H2(h2) = &mut self.transport else { return };
        match self.state {
            Answer::Streaming { .. } => h2.cut(),
            // A client that is still sending may not look at the answer before it is done.
            Answer::Complete => h2.linger().await,
            Answer::NotBegun | Answer::Broken => {}
        }
    }
}

impl H1 {
    /// Says that the body may come, to whoever waits for that.
    async fn invite_body(&mut self, head: &RequestHead) -> Result<(), BodyError> {
        if head.expects_continue() && !self.body.is_done() && !self.has_continued {
            self.has_continued = true;
            self.connection.write(b"HTTP/1.1 100 Continue\r\n\r\n").await.map_err(BodyError::CutShort)?;
        }
        Ok(())
    }

    /// Appends the next piece of the body; `false` is its end.
    async fn read(&mut self, output: &mut Vec<u8>) -> Result<bool, BodyError> {
        self.body.decode(&mut self.connection.buffer, output)?;
        if self.body.is_done() {
            return Ok(false);
        }
        self.connection.buffer.reserve(READ_SIZE);
        match self.connection.stream.read_buf(&mut self.connection.buffer).await {
            Ok(0) => Err(BodyError::CutShort(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => Ok(true),
            Err(error) => Err(BodyError::CutShort(error)),
        }
    }

    async fn gone(&mut self) {
        const KEPT_MAX: usize = 64 * 1024;
        while self.connection.buffer.len() < KEPT_MAX {
            if self.connection.stream.ready().await.is_err() {
                return;
            }
            self.connection.buffer.reserve(READ_SIZE);
            match self.connection.stream.read_buf(&mut self.connection.buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
        // So much was sent ahead that the peer is certainly there.
        std::future::pending::<()>().await;
    }
}

/// The head of an answer, in the form of its version.
enum Head {
    Text(Vec<u8>),
    Fields(http::Response<()>),
}

/// The status line and the date of an answer.
pub(crate) fn begin_head(head: &mut String, status: u16, clock: &Clock) {
    with_date(clock, |date| _ = write!(head, "HTTP/1.1 {status} {}\r\ndate: {date}\r\n", reason(status)));
}

/// The date as heads have it, which is written anew once a second.
fn with_date(clock: &Clock, use_it: impl FnOnce(&str)) {
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
        use_it(text);
    });
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
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Other",
    }
}
