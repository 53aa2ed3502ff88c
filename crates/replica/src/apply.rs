//! The replica and its applier.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::watch;
use tollgate_core::key::{KeyKind, Locator};
use tollgate_core::secret::Keyring;
use tollgate_core::{Clock, Error, GroupId, KeyId, ProjectId, Result, RoleId, Timestamp, UserId};
use tollgate_store::{Change, Db, Entity, Reading, Tx};

use crate::activity::{self, Activity, Outcome};
use crate::last_use::LastUse;
use crate::rows::{self, SecretRow};
use crate::sharded::Sharded;
use crate::snapshot::{ByLocator, Key, Snapshot};

/// How long a change may wait to be applied before its caller is told that it is not in force yet.
const REACH_MAX: Duration = Duration::from_secs(10);
/// How long known changes may stay unapplied before nothing is authorized any more: the worst age of a revocation.
const STALE_AFTER_SECONDS: i64 = 10;
const RETRY_AFTER: Duration = Duration::from_millis(200);
const ANOTHER_HISTORY: &str = "another_history";
const CHANGES_AT_ONCE: usize = 1_000;

/// The snapshot in force, and what keeps it so.
pub struct Replica {
    snapshot: ArcSwap<Snapshot>,
    applied: watch::Sender<i64>,
    /// Since when a change is known and not applied, in unix seconds; 0 when there is none.
    behind_since: AtomicI64,
    last_use: LastUse,
    activity: Activity,
    db: Db,
    keyring: Arc<Keyring>,
    clock: Clock,
}

impl Replica {
    /// Reads everything. The replica is current as of now; [`Replica::follow`] keeps it so.
    pub async fn load(db: Db, keyring: Arc<Keyring>, clock: Clock) -> Result<Arc<Self>> {
        let reading = Arc::clone(&keyring);
        // The number first: what changes while the rest is read is read again, by its number in the change log.
        let (seq, last_change) = db.read(|tx| Box::pin(newest(tx))).await?;
        let rest = db.read(move |tx| Box::pin(async move { load(tx, &reading).await }));
        let (mut snapshot, keys) = tokio::try_join!(rest, load_keys(&db))?;
        (snapshot.seq, snapshot.last_change, snapshot.keys) = (seq, last_change, keys);
        db.saw(snapshot.seq);
        Ok(Arc::new(Self {
            applied: watch::Sender::new(snapshot.seq),
            snapshot: ArcSwap::from_pointee(snapshot),
            behind_since: AtomicI64::new(0),
            last_use: LastUse::default(),
            activity: Activity::default(),
            db,
            keyring,
            clock,
        }))
    }

    /// The state in force. Taken after a request's head is complete, it contains every change announced before.
    pub fn snapshot(&self) -> Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    pub fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// Refuses to authorize from a copy that is known to be old.
    pub fn check_fresh(&self) -> Result<()> {
        let since = self.behind_since.load(Ordering::Relaxed);
        if since != 0 && self.clock.now().0 - since > STALE_AFTER_SECONDS {
            return Err(Error::unavailable(
                "auth_stale",
                "This node cannot read the latest changes. Please try again.",
            ));
        }
        Ok(())
    }

    /// Returns once the change numbered `seq` is in force for every request that starts from now on.
    pub async fn reach(&self, seq: i64) -> Result<()> {
        let mut applied = self.applied.subscribe();
        let reached = tokio::time::timeout(REACH_MAX, applied.wait_for(|applied| *applied >= seq)).await;
        match reached {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Error::unavailable(
                "change_not_confirmed",
                "The change is stored, but this node has not confirmed that it is in force.",
            )
            .header("x-should-retry", "false")),
        }
    }

    /// Notes that a key was used. Costs no query.
    pub fn note_use(&self, key: &Arc<Key>, now: Timestamp) {
        self.last_use.note(key, now);
    }

    /// When the key behind a locator was last used, as this node knows it.
    pub fn last_used_at(&self, locator: &Locator) -> Option<Timestamp> {
        self.snapshot().key(locator).and_then(|key| key.last_used_at())
    }

    /// Notes what became of a request with a key. Costs no query.
    pub fn note_outcome(&self, key: &Key, agent: &str, outcome: Outcome, time: Duration) {
        self.activity.note(key, agent, outcome, time, self.clock.now());
    }

    /// Writes the uses noted since the last time, and what became of them.
    pub async fn write_uses(&self) -> Result<()> {
        self.last_use.write(&self.db).await?;
        self.write_activity().await
    }

    /// Writes what became of requests since the last time.
    pub async fn write_activity(&self) -> Result<()> {
        self.activity.write(&self.db).await
    }

    /// Deletes what became of requests long ago.
    pub async fn forget_activity(&self) -> Result<()> {
        activity::forget(&self.db, self.clock.now()).await
    }

    /// Applies changes as they are committed, in their order. Never returns; drop it to stop.
    pub async fn follow(&self) {
        let mut changes = self.db.changes();
        let mut is_due = true;
        loop {
            let newest = *changes.borrow_and_update();
            if std::mem::take(&mut is_due) || newest > self.snapshot.load().seq {
                // From here on something may have changed that is not in force here, however long the reading takes.
                let now = self.clock.now().0;
                let _ = self.behind_since.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
                if let Err(error) = self.catch_up().await {
                    if error.code == Some(ANOTHER_HISTORY) {
                        self.db.stop_for_another_history();
                    }
                    tracing::error!(%error, "changes cannot be applied; trying again");
                    is_due = true;
                    tokio::time::sleep(RETRY_AFTER).await;
                    continue;
                }
            }
            let Some(pause) = self.db.ask_every() else {
                match changes.changed().await {
                    Ok(()) => continue,
                    Err(_) => return,
                }
            };
            // A commit whose answer was lost is in nobody's news. Asking is also how this node knows that it is not cut off.
            match tokio::time::timeout(pause, changes.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return,
                Err(_) => is_due = true,
            }
        }
    }

    async fn catch_up(&self) -> Result<()> {
        loop {
            let current = self.snapshot.load_full();
            let keyring = Arc::clone(&self.keyring);
            let began = self.clock.now().0;
            let next = self
                .db
                .read_for(Reading::Change, move |tx| {
                    Box::pin(async move { advance(tx, &current, &keyring).await })
                })
                .await?;
            let Some((next, is_last)) = next else {
                self.behind_since.store(0, Ordering::Relaxed);
                return Ok(());
            };
            let seq = next.seq;
            self.snapshot.store(Arc::new(next));
            if is_last {
                // Whoever waits for these changes finds them in force, and nothing behind but what was committed since
                // the reading began.
                let newest = *self.db.changes().borrow();
                self.behind_since.store(if newest > seq { began } else { 0 }, Ordering::Relaxed);
            }
            self.applied.send_replace(seq);
            if is_last {
                return Ok(());
            }
        }
    }
}

/// All keys, read by two threads at once.
async fn load_keys(db: &Db) -> Result<Sharded<ByLocator, ()>> {
    let keys = Arc::new(Sharded::fill());
    let last = db.read(|tx| Box::pin(rows::last_number(tx))).await?;
    let part = |above, up_to| {
        let keys = Arc::clone(&keys);
        db.read_for(Reading::Long, move |tx| {
            Box::pin(async move {
                rows::keys_between(tx, above, up_to, |key| keys.insert(ByLocator(Arc::new(key)), ())).await
            })
        })
    };
    let middle = last / 2;
    tokio::try_join!(part(-1, middle), part(middle, i64::MAX))?;
    Ok(keys.finish())
}

/// The newest change, and what it was of.
async fn newest(tx: &mut Tx) -> Result<(i64, Option<Arc<str>>)> {
    let seq = tx.last_change().await?;
    let last = tx.changes_after(seq - 1, 1).await?;
    Ok((seq, last.first().map(|change| Arc::from(change.entity_id.as_str()))))
}

/// All but the keys and the number of the newest change.
async fn load(tx: &mut Tx, keyring: &Keyring) -> Result<Snapshot> {
    let mut snapshot = Snapshot::empty();
    for project in rows::projects(tx, None).await? {
        snapshot.projects.insert(project.id, Arc::new(project));
    }
    for (key, fence) in rows::fences(tx, None).await? {
        snapshot.fences.insert(key, fence);
    }
    for (key, labels) in rows::labels_of_keys(tx).await? {
        snapshot.key_labels.insert(key, labels);
    }
    for user in rows::users(tx, None).await? {
        snapshot.users.insert(user.id, Arc::new(user));
    }
    for group in rows::groups(tx, None).await? {
        snapshot.groups.insert(group.id, Arc::new(group));
    }
    for (role, permissions) in rows::roles(tx, None).await? {
        snapshot.roles.insert(role, permissions);
    }
    snapshot.organizations = Arc::new(rows::organizations(tx).await?);
    snapshot.catalog = Arc::new(rows::catalog(tx, keyring).await?);
    Ok(snapshot)
}

/// The snapshot after the next changes, and whether they are all there were; `None` if there are none. An error of
/// [`ANOTHER_HISTORY`] if the last change that was applied is not there: a server's database may be put back to an older state while
/// we run, and its numbers go on from there.
async fn advance(tx: &mut Tx, current: &Snapshot, keyring: &Keyring) -> Result<Option<(Snapshot, bool)>> {
    let mut changes = tx.changes_after(current.seq - 1, CHANGES_AT_ONCE + 1).await?;
    if let Some(known) = &current.last_change {
        let is_there = changes
            .first()
            .is_some_and(|first| first.seq == current.seq && first.entity_id.as_str() == known.as_ref());
        if !is_there {
            return Err(Error::internal("the last change that was applied is gone").code(ANOTHER_HISTORY));
        }
        changes.remove(0);
    }
    let Some(last) = changes.last() else { return Ok(None) };
    let mut next = current.clone();
    next.seq = last.seq;
    next.last_change = Some(Arc::from(last.entity_id.as_str()));
    let is_of_catalog = |change: &&Change| matches!(change.entity, Some(Entity::Upstream | Entity::Model));
    for change in changes.iter().filter(|change| !is_of_catalog(change)) {
        apply(tx, &mut next, change).await?;
    }
    // It is read whole, and so once for all that changed in it.
    if changes.iter().any(|change| is_of_catalog(&change)) {
        next.catalog = Arc::new(rows::catalog(tx, keyring).await?);
    }
    Ok(Some((next, changes.len() < CHANGES_AT_ONCE)))
}

async fn apply(tx: &mut Tx, next: &mut Snapshot, change: &Change) -> Result<()> {
    let id = change.entity_id.as_str();
    match change.entity {
        Some(Entity::ApiKey) => {
            let secrets = rows::secrets_of(tx, id).await?;
            // Other keys have none, and need no query for it.
            let is_admin =
                |secret: &SecretRow| secret.key.as_ref().is_some_and(|key| key.kind == KeyKind::Admin);
            let fences =
                if secrets.iter().any(is_admin) { rows::fences(tx, Some(id)).await? } else { Vec::new() };
            if let (true, Some(gone)) = (fences.is_empty(), KeyId::parse(id)) {
                next.fences.remove(&gone);
            }
            for (key, fence) in fences {
                next.fences.insert(key, fence);
            }
            if let Some(key) = KeyId::parse(id) {
                let mut found = secrets.iter().filter(|secret| secret.key.is_some());
                match found.find_map(|secret| secret.labels.clone()) {
                    Some(labels) => next.key_labels.insert(key, labels),
                    None => next.key_labels.remove(&key),
                }
            }
            for secret in secrets {
                put_secret(next, secret);
            }
        }
        Some(Entity::Project) => {
            for project in rows::projects(tx, Some(id)).await? {
                next.projects.insert(project.id, Arc::new(project));
            }
            debug_assert!(ProjectId::parse(id).is_some());
        }
        Some(Entity::User) => {
            let found = rows::users(tx, Some(id)).await?;
            if let (true, Some(gone)) = (found.is_empty(), UserId::parse(id)) {
                next.users.remove(&gone);
            }
            for user in found {
                next.users.insert(user.id, Arc::new(user));
            }
        }
        Some(Entity::Group) => {
            let found = rows::groups(tx, Some(id)).await?;
            if let (true, Some(gone)) = (found.is_empty(), GroupId::parse(id)) {
                next.groups.remove(&gone);
            }
            for group in found {
                next.groups.insert(group.id, Arc::new(group));
            }
        }
        Some(Entity::Role) => {
            let found = rows::roles(tx, Some(id)).await?;
            if let (true, Some(gone)) = (found.is_empty(), RoleId::parse(id)) {
                next.roles.remove(&gone);
            }
            for (role, permissions) in found {
                next.roles.insert(role, permissions);
            }
        }
        Some(Entity::Organization) => next.organizations = Arc::new(rows::organizations(tx).await?),
        // Whoever applies reads the catalog once, after all others. The ledger reads limits itself, in the transaction that
        // counts towards them.
        Some(Entity::Upstream | Entity::Model | Entity::SpendLimit) => {}
        None => tracing::warn!(seq = change.seq, "a change of a kind that this version does not know"),
    }
    Ok(())
}

fn put_secret(snapshot: &mut Snapshot, secret: SecretRow) {
    let Some(key) = secret.key else { return snapshot.keys.remove(&secret.locator) };
    // The row may be older than what this node has seen of the key.
    if let Some(before) = snapshot.key(&secret.locator) {
        key.last_used_at.fetch_max(before.last_used_at.load(Ordering::Relaxed), Ordering::Relaxed);
    }
    snapshot.keys.insert(ByLocator(Arc::new(key)), ());
}
