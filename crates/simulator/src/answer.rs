//! Bodies of answers: in one piece, or piece by piece with the faults of a script.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::Full;
use http_body_util::combinators::BoxBody;
use hyper::Response;
use hyper::body::{Body, Frame};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::books::Books;
use crate::script::{Fault, Script};

pub(crate) type Answer = Response<BoxBody<Bytes, Broken>>;

/// Ends a connection in the middle of an answer.
#[derive(Debug)]
pub(crate) struct Broken;

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the script says to break off here")
    }
}

impl std::error::Error for Broken {}

impl From<Infallible> for Broken {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

pub(crate) fn json_answer(status: u16, body: &Value) -> Answer {
    let body = Full::new(Bytes::from(body.to_string())).map_err(Broken::from).boxed();
    let mut answer = Response::new(body);
    *answer.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or_default();
    answer.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static("application/json"));
    answer
}

pub(crate) fn error_answer(status: u16, message: &str, code: Option<&str>) -> Answer {
    let kind = match status {
        429 => "requests",
        500.. => "server_error",
        _ => "invalid_request_error",
    };
    json_answer(status, &json!({"error": {"message": message, "type": kind, "param": null, "code": code}}))
}

/// A body fed from a task.
struct Channel(mpsc::Receiver<Result<Bytes, Broken>>);

impl Body for Channel {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}

/// Sends `pieces` as the script says: paced, or stalled or cut after so many bytes. All that the answer has is billed,
/// whether or not anybody still listens; unless the script says to stop then, which bills a token for each piece made.
pub(crate) fn paced(
    pieces: impl Iterator<Item = String> + Send + 'static,
    content_type: &'static str,
    script: Script,
    books: Arc<Books>,
    number: u64,
) -> Answer {
    let (sender, receiver) = mpsc::channel(16);
    tokio::spawn(async move {
        let mut left = script.after_bytes.unwrap_or(0);
        for (made, piece) in (0..).zip(pieces) {
            tokio::time::sleep(script.pause()).await;
            let mut bytes = Bytes::from(piece);
            if let Some(fault @ (Fault::Cut | Fault::Stall)) = script.fault {
                if bytes.len() >= left {
                    bytes.truncate(left);
                    let _ = sender.send(Ok(bytes)).await;
                    break_off(fault, &sender).await;
                    return;
                }
                left -= bytes.len();
            }
            if sender.send(Ok(bytes)).await.is_err() {
                if script.stops_when_client_gone == Some(true) {
                    books.bill_no_more_than(number, made);
                }
                return;
            }
        }
        books.finish(number);
    });
    let mut answer = Response::new(Channel(receiver).boxed());
    answer.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static(content_type));
    answer
}

async fn break_off(fault: Fault, sender: &mpsc::Sender<Result<Bytes, Broken>>) {
    const STALL_MAX: Duration = Duration::from_mins(10);
    if fault == Fault::Stall {
        tokio::select! {
            () = tokio::time::sleep(STALL_MAX) => {}
            () = sender.closed() => {}
        }
    }
    let _ = sender.send(Err(Broken)).await;
}
