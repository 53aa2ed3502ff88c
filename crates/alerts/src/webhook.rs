//! Posts of JSON to addresses that people have given, signed as the Standard Webhooks say.

use std::fmt::Write;
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::prelude::{BASE64_STANDARD, Engine};
use tollgate_core::{NotificationId, Timestamp};
use tollgate_wire::{DialError, Dialer};

use crate::channel::{SIGNING_PREFIX, Target, split};
use crate::outbox::Failure;

const TIME_MAX: Duration = Duration::from_secs(10);

/// Posts `body`. What is not reached and what may not be are told alike: whoever gives an address learns nothing of our network.
pub(crate) async fn post(
    dialer: &Dialer,
    target: &Target,
    id: NotificationId,
    now: Timestamp,
    body: &str,
) -> Result<(), Failure> {
    let broken = |error: &dyn std::fmt::Display| Failure::new("its address cannot be read", error);
    let (address, path) = split(&target.url).map_err(|error| broken(&error))?;
    let mut head = format!(
        "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nUser-Agent: Tollgate\r\n\
         Connection: close\r\n",
        address.authority(),
        body.len()
    );
    if let Some(secret) = &target.signing_secret {
        let signature = signature(secret, id, now, body).ok_or_else(|| broken(&"no signing secret"))?;
        let _ = write!(
            head,
            "webhook-id: {id}\r\nwebhook-timestamp: {}\r\nwebhook-signature: v1,{signature}\r\n",
            now.0
        );
    }
    head += "\r\n";
    let unreached = "it cannot be reached, or is at an address that is not allowed";
    let exchange = async {
        let connection = dialer.dial(&address).await.map_err(|error| match error {
            DialError::Private(_) => Failure::new(unreached, &format!("{error}; see --webhook-networks")),
            error => Failure::new(unreached, &error),
        })?;
        let sent = connection.send(head.as_bytes(), body.as_bytes()).await;
        sent.map_err(|error| Failure::new("it did not answer", &error))
    };
    let late = || Failure::new("it did not answer in time", "no answer in time");
    let answer = tokio::time::timeout(TIME_MAX, exchange).await.map_err(|_| late())??;
    // Its status is all that counts; how it goes on is nobody's business.
    match answer.head.status {
        200..300 => Ok(()),
        status => Err(Failure::new(format!("it answered with {status}"), &status)),
    }
}

fn signature(secret: &str, id: NotificationId, now: Timestamp, body: &str) -> Option<String> {
    let key = BASE64_STANDARD.decode(secret.strip_prefix(SIGNING_PREFIX)?).ok()?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
    let tag = hmac::sign(&key, format!("{id}.{}.{body}", now.0).as_bytes());
    Some(BASE64_STANDARD.encode(tag))
}
