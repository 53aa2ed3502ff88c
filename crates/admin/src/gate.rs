//! The gate that every operation passes: actor, permission, transaction, run, audit and change log, commit, barrier.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tollgate_core::id::{Id, Identified};
use tollgate_core::secret::Keyring;
use tollgate_core::{Clock, Error, OrganizationId, ProjectId, Result, Timestamp, UpstreamId};
use tollgate_ledger::Ledger;
use tollgate_replica::Replica;
use tollgate_store::{Db, Entity, OwnedWork, Tx};
use tollgate_wire::Dialer;

use crate::acceptance::{Failures, Throttle};
use crate::actor::Actor;
use crate::arguments::Arguments;
use crate::audit::{self, Author, Event, Recorded};
use crate::http::{Routes, TrustedProxies};
use crate::operation::Operation;
use crate::session::{OidcOptions, Provider};

/// The control plane of a node.
pub struct Admin {
    pub(crate) db: Db,
    pub(crate) desk: Desk,
    pub(crate) dialer: Dialer,
    ledger: Ledger,
    pub(crate) routes: Routes,
    pub(crate) trusted_proxies: TrustedProxies,
    pub(crate) throttle: Throttle,
    pub(crate) failures: Failures,
    pub(crate) provider: Option<Box<Provider>>,
}

/// Parts an [`Admin`] is made of.
pub struct Parts {
    pub db: Db,
    pub replica: Arc<Replica>,
    pub keyring: Arc<Keyring>,
    pub clock: Clock,
    pub dialer: Dialer,
    pub ledger: Ledger,
    pub trusted_proxies: TrustedProxies,
    /// Where people reach this server, without a slash at its end.
    pub public_url: String,
    /// Whom people may sign in by.
    pub oidc: Option<OidcOptions>,
    pub upstreams_down: UpstreamsDown,
}

/// Says whether an upstream cannot be used, as far as this node has seen; `None` if nothing has shown it.
pub type UpstreamsDown = Arc<dyn Fn(UpstreamId) -> Option<bool> + Send + Sync>;

/// What operations work with that outlives them.
#[derive(Clone)]
pub(crate) struct Desk {
    pub(crate) clock: Clock,
    pub(crate) keyring: Arc<Keyring>,
    pub(crate) replica: Arc<Replica>,
    pub(crate) public_url: Arc<str>,
    pub(crate) upstreams_down: UpstreamsDown,
}

/// What one call of an operation works with: its transaction, and who asks when.
pub(crate) struct Cx {
    pub(crate) tx: Tx,
    pub(crate) now: Timestamp,
    pub(crate) desk: Desk,
    pub(crate) actor: Actor,
    recorded: Vec<Recorded>,
    is_unchanged: bool,
}

impl Cx {
    pub(crate) fn new(tx: Tx, desk: Desk, actor: Actor) -> Self {
        let now = desk.clock.now();
        Self { tx, now, desk, actor, recorded: Vec::new(), is_unchanged: false }
    }

    /// A new id.
    pub(crate) fn id<K: Identified>(&self) -> Id<K> {
        self.desk.clock.next_id()
    }

    pub(crate) fn organization(&self) -> OrganizationId {
        self.actor.organization
    }

    /// Notes an audit event. It is written with the change, or not at all.
    pub(crate) fn record(
        &mut self,
        event: Event,
        resource: impl std::fmt::Display,
        project: Option<ProjectId>,
        payload: Value,
    ) {
        self.recorded.push(Recorded { event, resource_id: resource.to_string(), project, payload });
    }

    /// Writes what was noted.
    pub(crate) async fn write_recorded(&mut self) -> Result<()> {
        for recorded in std::mem::take(&mut self.recorded) {
            let author = Author::Actor(&self.actor);
            let keeping = (&self.desk.clock, &*self.desk.keyring);
            audit::write(&mut self.tx, keeping, self.actor.organization, &author, &recorded).await?;
        }
        Ok(())
    }

    /// Notes what the replica has to read again.
    pub(crate) async fn changed<K: Identified>(&mut self, entity: Entity, id: Id<K>) -> Result<()> {
        self.changed_named(entity, &id.to_string()).await
    }

    pub(crate) async fn changed_named(&mut self, entity: Entity, id: &str) -> Result<()> {
        let organization = Some(self.organization());
        self.tx.log_change(organization, entity, id).await
    }

    /// Says that there was nothing to change, so that no event is missed.
    pub(crate) fn unchanged(&mut self) {
        self.is_unchanged = true;
    }
}

/// How long the books may take to be brought up to date before they are read as they are.
const SETTLING_MAX: Duration = Duration::from_secs(2);

impl Admin {
    pub fn new(parts: Parts) -> Result<Self> {
        let Parts {
            db,
            replica,
            keyring,
            clock,
            dialer,
            ledger,
            trusted_proxies,
            public_url,
            oidc,
            upstreams_down,
        } = parts;
        let routes = Routes::new(crate::operations());
        let desk = Desk { clock, keyring, replica, public_url: Arc::from(public_url), upstreams_down };
        Ok(Self {
            provider: oidc.map(Provider::new).transpose()?.map(Box::new),
            db,
            desk,
            dialer,
            ledger,
            routes,
            trusted_proxies,
            throttle: Throttle::default(),
            failures: Failures::default(),
        })
    }

    /// The time as this node has it.
    pub fn now(&self) -> Timestamp {
        self.desk.clock.now()
    }

    /// Where people reach this server, without a slash at its end.
    pub fn public_url(&self) -> &str {
        &self.desk.public_url
    }

    /// Calls an operation for an actor and returns the JSON of its answer.
    pub(crate) async fn call(
        &self,
        actor: Actor,
        operation: &Arc<Operation>,
        arguments: Arguments,
    ) -> Result<Vec<u8>> {
        actor.authorize(operation.access)?;
        let arguments = match operation.prepare {
            Some(prepare) => prepare(self, arguments).await?,
            None => arguments,
        };
        if operation.reads_books {
            let _ = tokio::time::timeout(SETTLING_MAX, self.ledger.flush()).await;
        }
        if operation.reads_activity {
            let _ = tokio::time::timeout(SETTLING_MAX, self.desk.replica.write_activity()).await;
        }
        let reading = operation.reading;
        let (desk, operation) = (self.desk.clone(), Arc::clone(operation));
        let Some(event) = operation.event else {
            let work = move |tx| {
                let cx = Cx::new(tx, desk, actor);
                let reading: OwnedWork<Vec<u8>> = Box::pin(read(cx, operation, arguments));
                reading
            };
            return self.db.read_with(reading, work).await;
        };
        let work = move |tx| {
            let cx = Cx::new(tx, desk, actor);
            let changing: OwnedWork<(Vec<u8>, Option<i64>)> =
                Box::pin(change(cx, operation, event, arguments));
            changing
        };
        let (reply, seq) = self.db.write_with(work).await?;
        if let Some(seq) = seq {
            self.desk.replica.reach(seq).await?;
            // It may have been a limit that was raised, or a project that clamps now.
            self.ledger.reconsider();
        }
        Ok(reply)
    }
}

async fn read(mut cx: Cx, operation: Arc<Operation>, arguments: Arguments) -> (Tx, Result<Vec<u8>>) {
    let reply = (operation.run)(&mut cx, arguments).await;
    (cx.tx, reply)
}

/// One change with everything that belongs to it; returns the number its caller has to wait for.
async fn change(
    mut cx: Cx,
    operation: Arc<Operation>,
    event: Event,
    arguments: Arguments,
) -> (Tx, Result<(Vec<u8>, Option<i64>)>) {
    let result = change_in(&mut cx, &operation, event, arguments).await;
    let seq = cx.tx.changed_to();
    (cx.tx, result.map(|reply| (reply, seq)))
}

async fn change_in(
    cx: &mut Cx,
    operation: &Operation,
    event: Event,
    arguments: Arguments,
) -> Result<Vec<u8>> {
    cx.actor.judge_anew(&mut cx.tx, cx.now).await?;
    cx.actor.authorize(operation.access)?;
    let reply = (operation.run)(cx, arguments).await?;
    let is_told = cx.recorded.iter().any(|recorded| recorded.event == event);
    if !is_told && !cx.is_unchanged {
        return Err(Error::internal(format!(
            "{} changed something and recorded no {}",
            operation.id,
            event.as_str()
        )));
    }
    cx.write_recorded().await?;
    Ok(reply)
}
