//! Calls of the gateway: many at once, each caller on a connection of its own.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;
use tollgate_core::Address;
use tollgate_core::secret::Secret;
use tollgate_wire::{ClientConnection, Dialer};

const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
const ANSWER_TIME_MAX: Duration = Duration::from_mins(2);

/// The gateway, and the key that is used with it.
pub(crate) struct Target {
    address: Address,
    key: Secret,
    model: String,
    dialer: Dialer,
}

/// What came of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Served,
    /// For want of money, or of anything but a valid key.
    Refused,
    /// The key is not accepted (any more).
    KeyRefused,
    /// A server error, or no answer.
    Failed,
}

impl Target {
    pub(crate) fn new(address: Address, key: Secret, model: String) -> Arc<Self> {
        Arc::new(Self {
            address,
            key,
            model,
            dialer: Dialer::new(tollgate_wire::client_config(), CONNECT_TIME_MAX),
        })
    }

    /// A request for a short text with so much output at most.
    pub(crate) fn body(&self, output_max: u64, stream: bool) -> Value {
        json!({
            "model": self.model, "max_tokens": output_max, "stream": stream,
            "messages": [{"role": "user", "content": "Say something of any length."}],
        })
    }
}

/// Calls one after another, on one connection as long as it lasts.
pub(crate) struct Caller {
    target: Arc<Target>,
    connection: Option<ClientConnection>,
}

impl Caller {
    pub(crate) fn new(target: &Arc<Target>) -> Self {
        Self { target: Arc::clone(target), connection: None }
    }

    /// Asks, and reads the answer to its end.
    pub(crate) async fn call(&mut self, body: &str) -> Outcome {
        tokio::time::timeout(ANSWER_TIME_MAX, self.exchange(body, usize::MAX))
            .await
            .unwrap_or(Some(Outcome::Failed))
            .unwrap_or(Outcome::Failed)
    }

    /// Asks, reads so many bytes of the answer, and leaves.
    pub(crate) async fn leave_after(&mut self, body: &str, bytes: usize) {
        let _ = tokio::time::timeout(ANSWER_TIME_MAX, self.exchange(body, bytes)).await;
        self.connection = None;
    }

    /// `None` where there is no answer.
    async fn exchange(&mut self, body: &str, bytes_max: usize) -> Option<Outcome> {
        let target = Arc::clone(&self.target);
        let idle = self.connection.take().and_then(|mut idle| (!idle.is_stale()).then_some(idle));
        let connection = match idle {
            Some(connection) => connection,
            None => target.dialer.dial(&target.address).await.ok()?,
        };
        let head = format!(
            "POST {}/chat/completions HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\naccept: application/json\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            target.address.path,
            target.address.authority(),
            target.key.reveal(),
            body.len(),
        );
        let mut exchange = connection.send(head.as_bytes(), body.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        while answer.len() < bytes_max && exchange.read(&mut answer).await.ok()? {}
        let outcome = match exchange.head.status {
            200..=299 => Outcome::Served,
            401 | 403 => Outcome::KeyRefused,
            400..=499 => Outcome::Refused,
            _ => Outcome::Failed,
        };
        self.connection = exchange.into_connection();
        Some(outcome)
    }
}

/// One call of the race: when it began, and what came of it.
#[derive(Clone, Copy)]
pub(crate) struct Timed {
    pub(crate) began: Instant,
    pub(crate) outcome: Outcome,
}
