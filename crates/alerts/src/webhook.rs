//! Posts of JSON to addresses that people have given, signed as the Standard Webhooks say.

use std::fmt::Write;
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::prelude::{BASE64_STANDARD, Engine};
use tollgate_core::{NotificationId, Timestamp};
use tollgate_wire::Dialer;

use crate::channel::{SIGNING_PREFIX, Target, split};

const TIME_MAX: Duration = Duration::from_secs(10);
/// What of an answer is read, for its connection is not used again.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Posts `body`; the error is for people, and tells nothing of what was answered but its status.
pub(crate) async fn post(
    dialer: &Dialer,
    target: &Target,
    id: NotificationId,
    now: Timestamp,
    body: &str,
) -> Result<(), String> {
    tokio::time::timeout(TIME_MAX, exchange(dialer, target, id, now, body))
        .await
        .unwrap_or_else(|_| Err("it did not answer in time".to_owned()))
}

async fn exchange(
    dialer: &Dialer,
    target: &Target,
    id: NotificationId,
    now: Timestamp,
    body: &str,
) -> Result<(), String> {
    let (address, path) = split(&target.url).map_err(|error| error.message)?;
    let mut head = format!(
        "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nUser-Agent: Tollgate\r\n\
         Connection: close\r\n",
        address.authority(),
        body.len()
    );
    if let Some(secret) = &target.signing_secret {
        let signature = signature(secret, id, now, body).ok_or("its signing secret cannot be read")?;
        let _ = write!(
            head,
            "webhook-id: {id}\r\nwebhook-timestamp: {}\r\nwebhook-signature: v1,{signature}\r\n",
            now.0
        );
    }
    head += "\r\n";
    let connection = dialer.dial(&address).await.map_err(|error| error.to_string())?;
    let mut answer =
        connection.send(head.as_bytes(), body.as_bytes()).await.map_err(|error| error.to_string())?;
    let status = answer.head.status;
    let mut read = Vec::new();
    while read.len() < ANSWER_BYTES_MAX && matches!(answer.read(&mut read).await, Ok(true)) {}
    if (200..300).contains(&status) { Ok(()) } else { Err(format!("it answered with {status}")) }
}

fn signature(secret: &str, id: NotificationId, now: Timestamp, body: &str) -> Option<String> {
    let key = BASE64_STANDARD.decode(secret.strip_prefix(SIGNING_PREFIX)?).ok()?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
    let tag = hmac::sign(&key, format!("{id}.{}.{body}", now.0).as_bytes());
    Some(BASE64_STANDARD.encode(tag))
}
