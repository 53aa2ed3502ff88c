//! A client's side of a connection: one request, then its answer as it comes in.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};

use crate::body::{BodyError, Decoder};
use crate::head::{Framing, ResponseHead, find_end, take_response};
use crate::stream::Stream;

const HEAD_MAX: usize = 64 * 1024;
/// Read at once, so that a burst of small chunks is taken in one piece.
const READ_SIZE: usize = 32 * 1024;

/// Why an answer could not be had or read to its end. The request may have been received.
#[derive(Debug)]
pub enum ResponseError {
    /// The connection failed before the head of an answer.
    NoAnswer(io::Error),
    Malformed(&'static str),
    /// The answer began and did not end.
    CutShort(BodyError),
}

impl fmt::Display for ResponseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAnswer(error) => write!(f, "the connection ended without an answer: {error}"),
            Self::Malformed(what) => f.write_str(what),
            Self::CutShort(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ResponseError {}

/// A connection with no request on it.
#[derive(Debug)]
pub struct ClientConnection {
    stream: Stream,
    buffer: BytesMut,
}

/// A request that was sent and the answer to it, as far as it has come.
#[derive(Debug)]
pub struct Exchange {
    connection: ClientConnection,
    pub head: ResponseHead,
    body: Decoder,
}

impl ClientConnection {
    pub(crate) fn new(stream: Stream) -> Self {
        Self { stream, buffer: BytesMut::new() }
    }

    /// Whether the other side has closed it, or sent what nobody asked for.
    pub fn is_stale(&mut self) -> bool {
        let mut byte = [0];
        let mut probe = ReadBuf::new(&mut byte);
        let polled =
            Pin::new(&mut self.stream).poll_read(&mut Context::from_waker(Waker::noop()), &mut probe);
        !matches!(polled, Poll::Pending)
    }

    /// Sends a request, a whole head and body, and reads the head of its answer.
    pub async fn send(mut self, head: &[u8], body: &[u8]) -> Result<Exchange, ResponseError> {
        let mut request = Vec::with_capacity(head.len() + body.len());
        request.extend_from_slice(head);
        request.extend_from_slice(body);
        self.stream.write_all(&request).await.map_err(ResponseError::NoAnswer)?;
        self.stream.flush().await.map_err(ResponseError::NoAnswer)?;
        loop {
            let head = self.read_head().await?;
            match head.status {
                101 => return Err(ResponseError::Malformed("the upstream changed the protocol")),
                100..=199 => {}
                _ => {
                    let body = Decoder::new(head.framing);
                    return Ok(Exchange { connection: self, head, body });
                }
            }
        }
    }

    async fn read_head(&mut self) -> Result<ResponseHead, ResponseError> {
        let mut seen = 0;
        loop {
            if let Some(end) = find_end(&self.buffer, seen).map_err(ResponseError::Malformed)? {
                return take_response(&mut self.buffer, end).map_err(ResponseError::Malformed);
            }
            seen = self.buffer.len();
            if seen > HEAD_MAX {
                return Err(ResponseError::Malformed("the head of the answer is too long"));
            }
            self.buffer.reserve(READ_SIZE);
            if self.stream.read_buf(&mut self.buffer).await.map_err(ResponseError::NoAnswer)? == 0 {
                return Err(ResponseError::NoAnswer(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }
}

impl Exchange {
    /// Whether the body's length is known before it has come.
    pub fn announced_length(&self) -> Option<u64> {
        match self.head.framing {
            Framing::Empty => Some(0),
            _ => self.body.announced(),
        }
    }

    /// Appends what there is of the body to `output`, waiting only if there is nothing. `false` is its end.
    pub async fn read(&mut self, output: &mut Vec<u8>) -> Result<bool, ResponseError> {
        let before = output.len();
        let ClientConnection { stream, buffer } = &mut self.connection;
        loop {
            self.body.decode(buffer, output).map_err(ResponseError::CutShort)?;
            if output.len() > before {
                return Ok(true);
            }
            if self.body.is_done() {
                return Ok(false);
            }
            buffer.reserve(READ_SIZE);
            let cut = |error| ResponseError::CutShort(BodyError::CutShort(error));
            if stream.read_buf(buffer).await.map_err(cut)? == 0 {
                if self.body.may_end_with_connection() {
                    return Ok(false);
                }
                return Err(cut(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// The connection for the next request, if the answer was read to its end and left nothing behind.
    pub fn into_connection(self) -> Option<ClientConnection> {
        let is_clean = self.body.is_done() && self.connection.buffer.is_empty();
        (is_clean && self.head.is_reusable).then_some(self.connection)
    }
}
