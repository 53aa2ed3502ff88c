//! What both sides of an HTTP/2 connection need: heads in one form, and bytes handed on as far as the peer has room.
//!
//! A head is written down as one of HTTP/1.1 and read by the same strict reader, so that nothing is told apart by the
//! version it came in.

use std::fmt::Write as _;
use std::future::poll_fn;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use tokio::time::{Instant, timeout_at};

use crate::head::{RequestHead, ResponseHead, find_end, take_request, take_response};

/// Fields of HTTP/1.1's connections, which have no meaning here and may not come.
const OF_CONNECTIONS: [&str; 5] =
    ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];

pub(crate) fn request_head(parts: &http::request::Parts) -> Result<RequestHead, &'static str> {
    let uri = &parts.uri;
    let target = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let mut text = format!("{} {target} HTTP/1.1\r\n", parts.method);
    if let Some(authority) = uri.authority() {
        if parts.headers.get("host").is_some_and(|host| host.as_bytes() != authority.as_str().as_bytes()) {
            return Err("The request names two hosts.");
        }
        let _ = write!(text, "host: {authority}\r\n");
    }
    let has_authority = uri.authority().is_some();
    let mut bytes = BytesMut::from(text.as_str());
    for (name, value) in &parts.headers {
        if OF_CONNECTIONS.contains(&name.as_str()) {
            return Err("HTTP/2 has no fields of connections.");
        }
        if has_authority && name == "host" {
            continue;
        }
        extend(&mut bytes, name, value);
    }
    bytes.extend_from_slice(b"\r\n");
    let end = find_end(&bytes, 0)?.ok_or("The head of the request is incomplete.")?;
    take_request(&mut bytes, end)
}

pub(crate) fn response_head(parts: &http::response::Parts) -> Result<ResponseHead, &'static str> {
    let mut bytes = BytesMut::from(format!("HTTP/1.1 {} x\r\n", parts.status.as_u16()).as_str());
    for (name, value) in &parts.headers {
        if OF_CONNECTIONS.contains(&name.as_str()) {
            return Err("the answer has fields that HTTP/2 has not");
        }
        extend(&mut bytes, name, value);
    }
    bytes.extend_from_slice(b"\r\n");
    let end = find_end(&bytes, 0).ok().flatten().ok_or("the head of the answer is incomplete")?;
    take_response(&mut bytes, end)
}

fn extend(bytes: &mut BytesMut, name: &http::HeaderName, value: &http::HeaderValue) {
    bytes.extend_from_slice(name.as_str().as_bytes());
    bytes.extend_from_slice(b": ");
    bytes.extend_from_slice(value.as_bytes());
    bytes.extend_from_slice(b"\r\n");
}

/// Hands bytes on as the peer makes room for them; gives up on a peer that makes
/// none for all of it within `time_max`.
pub(crate) async fn send(
    stream: &mut SendStream<Bytes>,
    mut data: Bytes,
    is_end: bool,
    time_max: Duration,
) -> io::Result<()> {
    if data.is_empty() {
        return if is_end { stream.send_data(data, true).map_err(broken) } else { Ok(()) };
    }
    let deadline = Instant::now() + time_max;
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let room = timeout_at(deadline, poll_fn(|cx| stream.poll_capacity(cx))).await;
        let room = room.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?;
        let room = room.ok_or(io::ErrorKind::BrokenPipe)?.map_err(broken)?;
        let piece = data.split_to(room.min(data.len()));
        if !piece.is_empty() {
            stream.send_data(piece, is_end && data.is_empty()).map_err(broken)?;
        }
    }
    Ok(())
}

/// The next piece of a body, if there is one; the room it took is given back at once, for it is taken over.
pub(crate) async fn receive(stream: &mut RecvStream, output: &mut Vec<u8>) -> Result<bool, h2::Error> {
    loop {
        match stream.data().await {
            None => return Ok(false),
            Some(Err(error)) => return Err(error),
            Some(Ok(piece)) => {
                output.extend_from_slice(&piece);
                let _ = stream.flow_control().release_capacity(piece.len());
                if !piece.is_empty() {
                    return Ok(true);
                }
            }
        }
    }
}

pub(crate) fn broken(error: h2::Error) -> io::Error {
    if error.is_io() {
        error.into_io().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into())
    } else {
        io::Error::other(error)
    }
}
