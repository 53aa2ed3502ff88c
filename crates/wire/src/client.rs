//! A client's side of a connection: one request, then its answer as it comes in.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use h2::RecvStream;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};

use crate::body::{BodyError, Decoder};
use crate::h2_client::{H2Client, UnderWay};
use crate::h2_stream;
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
    /// The server has said that it did not look at the request.
    NotTaken(io::Error),
    Malformed(&'static str),
    /// The answer began and did not end.
    CutShort(BodyError),
}

impl fmt::Display for ResponseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotTaken(error) => write!(f, "the request was not taken: {error}"),
            Self::NoAnswer(error) => write!(f, "the connection ended without an answer: {error}"),
            Self::Malformed(what) => f.write_str(what),
            Self::CutShort(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ResponseError {}

/// A connection with no request on it, or over HTTP/2 with room for one.
#[derive(Debug)]
pub struct ClientConnection(Over);

#[derive(Debug)]
enum Over {
    H1 { stream: Stream, buffer: BytesMut },
    H2(H2Client),
}

/// A request that was sent and the answer to it, as far as it has come.
#[derive(Debug)]
pub struct Exchange {
    pub head: ResponseHead,
    from: From,
}

#[derive(Debug)]
enum From {
    H1 { stream: Stream, buffer: BytesMut, body: Decoder },
    H2 { connection: H2Client, body: RecvStream, _under_way: UnderWay },
}

impl ClientConnection {
    pub(crate) fn new(stream: Stream) -> Self {
        Self(Over::H1 { stream, buffer: BytesMut::new() })
    }

    pub(crate) fn over_h2(connection: H2Client) -> Self {
        Self(Over::H2(connection))
    }

    /// Another handle to the same connection, if it carries many requests at once.
    pub fn share(&self) -> Option<Self> {
        match &self.0 {
            Over::H1 { .. } => None,
            Over::H2(connection) => Some(Self(Over::H2(connection.clone()))),
        }
    }

    /// Whether a request more would not have to wait for others.
    pub fn has_room(&self) -> bool {
        match &self.0 {
            Over::H1 { .. } => true,
            Over::H2(connection) => connection.has_room(),
        }
    }

    /// Whether the other side has closed it, or sent what nobody asked for.
    pub fn is_stale(&mut self) -> bool {
        match &mut self.0 {
            Over::H1 { stream, .. } => {
                let mut byte = [0];
                let mut probe = ReadBuf::new(&mut byte);
                let polled = Pin::new(stream).poll_read(&mut Context::from_waker(Waker::noop()), &mut probe);
                !matches!(polled, Poll::Pending)
            }
            Over::H2(connection) => connection.is_closed(),
        }
    }

    /// Sends a request, a whole head as of HTTP/1.1 and a body, and reads the head of its answer.
    pub async fn send(self, head: &[u8], body: &[u8]) -> Result<Exchange, ResponseError> {
        let (mut stream, mut buffer) = match self.0 {
            Over::H1 { stream, buffer } => (stream, buffer),
            Over::H2(connection) => {
                let (connection, head, body, under_way) = connection.send(head, body).await?;
                return Ok(Exchange { head, from: From::H2 { connection, body, _under_way: under_way } });
            }
        };
        let mut request = Vec::with_capacity(head.len() + body.len());
        request.extend_from_slice(head);
        request.extend_from_slice(body);
        stream.write_all(&request).await.map_err(ResponseError::NoAnswer)?;
        stream.flush().await.map_err(ResponseError::NoAnswer)?;
        loop {
            let head = read_head(&mut stream, &mut buffer).await?;
            match head.status {
                101 => return Err(ResponseError::Malformed("the upstream changed the protocol")),
                100..=199 => {}
                _ => {
                    let body = Decoder::new(head.framing);
                    return Ok(Exchange { head, from: From::H1 { stream, buffer, body } });
                }
            }
        }
    }
}

async fn read_head(stream: &mut Stream, buffer: &mut BytesMut) -> Result<ResponseHead, ResponseError> {
    let mut seen = 0;
    loop {
        if let Some(end) = find_end(buffer, seen).map_err(ResponseError::Malformed)? {
            return take_response(buffer, end).map_err(ResponseError::Malformed);
        }
        seen = buffer.len();
        if seen > HEAD_MAX {
            return Err(ResponseError::Malformed("the head of the answer is too long"));
        }
        if buffer.is_empty() {
            stream.ready().await.map_err(ResponseError::NoAnswer)?;
        }
        buffer.reserve(READ_SIZE);
        if stream.read_buf(buffer).await.map_err(ResponseError::NoAnswer)? == 0 {
            return Err(ResponseError::NoAnswer(io::ErrorKind::UnexpectedEof.into()));
        }
    }
}

impl Exchange {
    /// Whether the body's length is known before it has come.
    pub fn announced_length(&self) -> Option<u64> {
        match self.head.framing {
            Framing::Empty => Some(0),
            Framing::Length(length) => Some(length),
            _ => None,
        }
    }

    /// Appends what there is of the body to `output`, waiting only if there is nothing. `false` is its end.
    pub async fn read(&mut self, output: &mut Vec<u8>) -> Result<bool, ResponseError> {
        let cut = |error| ResponseError::CutShort(BodyError::CutShort(error));
        let before = output.len();
        let (stream, buffer, body) = match &mut self.from {
            From::H1 { stream, buffer, body } => (stream, buffer, body),
            From::H2 { body, .. } => {
                let read = h2_stream::receive(body, output).await;
                return read.map_err(|error| cut(h2_stream::broken(error)));
            }
        };
        loop {
            body.decode(buffer, output).map_err(ResponseError::CutShort)?;
            if output.len() > before {
                return Ok(true);
            }
            if body.is_done() {
                return Ok(false);
            }
            // Between the events of a slow stream its memory is given back.
            if buffer.is_empty() {
                *buffer = BytesMut::new();
                stream.ready().await.map_err(cut)?;
            }
            buffer.reserve(READ_SIZE);
            if stream.read_buf(buffer).await.map_err(cut)? == 0 {
                if body.may_end_with_connection() {
                    return Ok(false);
                }
                return Err(cut(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// The connection for the next request, if the answer was read to its end and left nothing behind.
    pub fn into_connection(self) -> Option<ClientConnection> {
        match self.from {
            From::H1 { stream, buffer, body } => {
                let is_clean = body.is_done() && buffer.is_empty() && self.head.is_reusable;
                is_clean.then_some(ClientConnection(Over::H1 { stream, buffer }))
            }
            From::H2 { connection, .. } => Some(ClientConnection(Over::H2(connection))),
        }
    }
}
