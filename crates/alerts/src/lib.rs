//! Telling people what happens with their money.
//!
//! What is to be told is written down in the transaction that finds it out ([`thresholds`], [`events`]), and delivered from there
//! ([`outbox`]) by e-mail, signed webhook or a message for Slack, until it has arrived or a day of attempts has failed. A
//! process that ends between sending and writing that down sends again: receivers know a notification by its id.

pub mod channel;
mod email;
pub mod events;
pub mod outbox;
pub mod thresholds;
mod webhook;
mod words;

use std::sync::Arc;
use std::time::Duration;

use tollgate_core::Clock;
use tollgate_core::network::Networks;
use tollgate_core::secret::Keyring;
use tollgate_core::time::Stopwatch;
use tollgate_store::Db;
use tollgate_wire::Dialer;

pub use email::Mailer;
use events::Watch;
pub use events::{UpstreamState, Upstreams};

/// How often it is looked whether a threshold is reached, and what is to be sent.
const PAUSE: Duration = Duration::from_millis(300);
/// Looking takes at most this part of the time, however many alerts there are.
const SHARE: u32 = 20;

/// What sends.
pub struct Alerts {
    db: Db,
    keyring: Arc<Keyring>,
    clock: Clock,
    dialer: Dialer,
    mailer: Option<Mailer>,
    upstreams: Upstreams,
}

impl Alerts {
    /// `private`: the private networks in which webhooks may be. Without a `mailer` e-mail fails, and says so.
    pub fn new(
        db: Db,
        keyring: Arc<Keyring>,
        clock: Clock,
        dialer: &Dialer,
        private: Networks,
        mailer: Option<Mailer>,
        upstreams: Upstreams,
    ) -> Self {
        Self { db, keyring, clock, dialer: dialer.to_public_and(private), mailer, upstreams }
    }

    /// Looks and sends, side by side: a webhook that does not answer keeps nothing from being noticed. Never returns; drop it to
    /// stop.
    pub async fn run(&self) {
        tokio::join!(self.look(), self.send());
    }

    async fn look(&self) {
        let mut watch = Watch::new(Arc::clone(&self.upstreams));
        loop {
            let took = Stopwatch::start();
            if let Err(error) = thresholds::look(&self.db, &self.clock).await {
                tracing::error!(%error, "whether thresholds are reached could not be looked at; trying again");
            }
            if let Err(error) = watch.look(&self.db, &self.clock).await {
                tracing::error!(%error, "whether there is something to tell could not be looked at; trying again");
            }
            tokio::time::sleep(PAUSE.max(took.elapsed() * SHARE)).await;
        }
    }
}
