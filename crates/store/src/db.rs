//! The database: one thread that writes, one that syncs, a few that read.
//!
//! A unit of work is handed to a thread as a closure and runs there from BEGIN to COMMIT, so a request task that is
//! cancelled leaves no transaction half done. A commit to the embedded database is written to the operating system and
//! survives the process; the syncing thread brings it to the disk, and only then is the work's caller answered. Meanwhile the
//! writing thread goes on. PostgreSQL has brought to its disk what it says is committed.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{oneshot, watch};
use tollgate_core::{Error, Result};

use crate::engine::{Ending, Engine, Role, Server, check_version};
use crate::lane::{CLAIM, Job, Lane, Plan, Watch, spawn, stop};
use crate::params;
use crate::sync::{Commit, Syncer};
use crate::tx::Tx;

/// The future of a unit of work.
pub type Work<'t, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 't>>;

/// The future of a unit of work that owns its transaction, and gives it back with the result that decides on COMMIT or
/// ROLLBACK.
pub type OwnedWork<T> = Pin<Box<dyn Future<Output = (Tx, Result<T>)> + Send>>;

const SYNCING: &str = "db-sync";
const READERS: usize = 4;
const LONG_READERS: usize = 2;
/// Long readings that may wait for each other.
const LONG_QUEUE_MAX: usize = 32;
/// Jobs that may wait for a thread. Beyond it callers are told to come back, rather than queued without end.
const QUEUE_MAX: usize = 4096;
/// So often a database that others could have changed is asked whether they did.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// So often it is looked whether it is there at all.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What a change is answered whose commit may have been done or not.
pub const OUTCOME_UNKNOWN: &str = "outcome_unknown";

#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Whether the database file may be made.
    pub create: bool,
    /// Whether every connection refuses to write, for what works beside a server.
    pub read_only: bool,
}

/// What a reading is for, which decides on whose threads it waits for its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    Usual,
    /// Of many rows. Others do not wait for it.
    Long,
    /// Of changes that are to be in force: it waits for nobody else.
    Change,
}

/// A handle to the database. Clones share its threads, which end with the last clone.
#[derive(Clone)]
pub struct Db(Arc<Inner>);

struct Inner {
    engine: Engine,
    watch: Arc<Watch>,
    writer: Lane,
    readers: Lane,
    long_readers: Lane,
    follower: Lane,
    syncer: Arc<Syncer>,
    changed: watch::Sender<i64>,
    threads: Mutex<Vec<thread::JoinHandle<()>>>,
}

impl Db {
    /// Opens the file and starts the threads. The file must be on a local disk.
    pub fn open(path: &Path, options: Options) -> Result<Self> {
        check_version()?;
        Self::start(Engine::Sqlite(path.to_owned()), options)
    }

    /// Connects to a server, where the database is, and starts the threads.
    pub fn connect(server: Arc<Server>, options: Options) -> Result<Self> {
        Self::start(Engine::Postgres(server), options)
    }

    fn start(engine: Engine, options: Options) -> Result<Self> {
        let mut threads = Vec::new();
        let known = Arc::new(Watch::default());
        let (writing, reading_long) = if options.read_only {
            (Role::Reader, Role::Command)
        } else {
            (Role::Writer { create: options.create }, Role::LongReader)
        };
        let mut lane = |name, role, size| {
            let plan = Plan { engine: engine.clone(), role, watch: Arc::clone(&known) };
            Lane::start(name, &plan, size, &mut threads)
        };
        let writer = lane("db-writer", writing, (1, QUEUE_MAX))?;
        let readers = lane("db-reader", Role::Reader, (READERS, QUEUE_MAX))?;
        let long_readers = lane("db-long-reader", reading_long, (LONG_READERS, LONG_QUEUE_MAX))?;
        let follower = lane("db-follower", Role::Reader, (1, QUEUE_MAX))?;
        let syncer = Arc::new(match &engine {
            Engine::Sqlite(path) => Syncer::of(path),
            Engine::Postgres(_) => Syncer::of_nothing(),
        });
        if !options.read_only {
            let working = Arc::clone(&syncer);
            threads.push(spawn(SYNCING, move || working.work())?);
        }
        let changed = watch::Sender::new(0);
        let threads = Mutex::new(threads);
        let inner =
            Inner { engine, watch: known, writer, readers, long_readers, follower, syncer, changed, threads };
        Ok(Self(Arc::new(inner)))
    }

    /// Whether the database was there when it was last asked, for every purpose.
    pub fn is_available(&self) -> bool {
        let Inner { writer, readers, long_readers, follower, .. } = &*self.0;
        [writer, readers, long_readers, follower].iter().all(|lane| lane.is_available())
    }

    /// Asks for every purpose whether the database is there, so that it is known also where nobody asks for anything. Never
    /// returns where it can be away; drop it to stop.
    pub async fn look(&self) {
        if !self.0.engine.is_on_server() {
            return;
        }
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let _ = self.write(|_| Box::pin(async { Ok(()) })).await;
            for reading in [Reading::Usual, Reading::Long, Reading::Change] {
                if !self.is_available() {
                    let _ = self.read_for(reading, |_| Box::pin(async { Ok(()) })).await;
                }
            }
        }
    }

    /// Writes down who serves a server's database from now on. A process that finds somebody else there when it comes back to it
    /// ends: its holds were settled, and it does not know what has changed.
    pub async fn claim(&self) -> Result<()> {
        if !self.0.engine.is_on_server() {
            return Ok(());
        }
        let claim = tollgate_core::secret::hex(&tollgate_core::secret::random_bytes::<16>());
        let written = claim.clone();
        self.write(move |tx| {
            Box::pin(async move {
                tx.execute(
                    "INSERT INTO installation (name, value) VALUES ($1, $2)
                     ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                    &params![CLAIM, written],
                )
                .await
            })
        })
        .await?;
        let _ = self.0.watch.claim.set(claim);
        Ok(())
    }

    /// How often to ask for changes that nobody here tells of: those of a commit whose answer was lost. `None` for a database
    /// that is in this process.
    pub fn ask_every(&self) -> Option<Duration> {
        self.0.engine.is_on_server().then_some(ASK_EVERY)
    }

    /// Where it is, for people.
    pub fn place(&self) -> String {
        self.0.engine.to_string()
    }

    /// Runs `work` in a transaction that sees one state of the database and changes nothing.
    pub async fn read<T: Send + 'static>(
        &self,
        work: impl for<'t> FnOnce(&'t mut Tx) -> Work<'t, T> + Send + 'static,
    ) -> Result<T> {
        self.read_for(Reading::Usual, work).await
    }

    /// [`Db::read`] for a purpose.
    pub async fn read_for<T: Send + 'static>(
        &self,
        reading: Reading,
        work: impl for<'t> FnOnce(&'t mut Tx) -> Work<'t, T> + Send + 'static,
    ) -> Result<T> {
        self.read_with(reading, owning(work)).await
    }

    /// Runs `work` in the one transaction that may write; commits if it returns `Ok`. When this returns, the change is
    /// on disk.
    pub async fn write<T: Send + 'static>(
        &self,
        work: impl for<'t> FnOnce(&'t mut Tx) -> Work<'t, T> + Send + 'static,
    ) -> Result<T> {
        self.write_with(owning(work)).await
    }

    /// [`Db::read_for`] for work that has to own its transaction.
    pub async fn read_with<T: Send + 'static>(
        &self,
        reading: Reading,
        work: impl FnOnce(Tx) -> OwnedWork<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, receiver) = oneshot::channel();
        let finish = move |result, _| {
            let _ = answer.send(result);
        };
        let lane = match reading {
            Reading::Usual => &self.0.readers,
            Reading::Long => &self.0.long_readers,
            Reading::Change => &self.0.follower,
        };
        lane.submit(true, transaction(work, finish))?;
        receiver.await.unwrap_or_else(|_| Err(lost()))
    }

    /// [`Db::write`] for work that has to own its transaction.
    pub async fn write_with<T: Send + 'static>(
        &self,
        work: impl FnOnce(Tx) -> OwnedWork<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, receiver) = oneshot::channel();
        let syncer = Arc::clone(&self.0.syncer);
        // Whoever asked may have gone; what was done stays done.
        let after = move |result: Result<T>, _| match result {
            Ok(value) => syncer.after_sync(move || {
                let _ = answer.send(Ok(value));
            }),
            Err(error) => {
                let _ = answer.send(Err(error));
            }
        };
        self.0.writer.submit(true, self.writing(work, after))?;
        receiver.await.unwrap_or_else(|_| Err(lost()))
    }

    /// Like [`Db::write`] without waiting for the end, and never refused for the length of the queue. The result is
    /// seen by `work` alone, which must not mind whether its transaction commits; `after` learns that, and runs as
    /// soon as the commit is written to the operating system. See [`Db::after_sync`] for the disk.
    pub fn write_later<T: Send + 'static>(
        &self,
        work: impl for<'t> FnOnce(&'t mut Tx) -> Work<'t, T> + Send + 'static,
        after: impl FnOnce(Result<T>, Commit) + Send + 'static,
    ) -> Result<()> {
        self.0.writer.submit(false, self.writing(owning(work), after))
    }

    /// Runs `then` when all that was committed up to now is on disk.
    pub fn after_sync(&self, then: impl FnOnce() + Send + 'static) {
        self.0.syncer.after_sync(then);
    }

    /// Returns when a commit is on disk.
    pub async fn synced(&self, commit: Commit) {
        self.0.syncer.synced(commit).await;
    }

    /// Runs `work` on the connection of a reading thread of the embedded database, outside of any transaction.
    pub(crate) async fn with_connection<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, receiver) = oneshot::channel();
        let job: Job = Box::new(move |seat| {
            let session = seat.open();
            let result = session.and_then(|session| {
                let result = session.embedded().and_then(work);
                seat.session = Some(session);
                result
            });
            let _ = answer.send(result);
        });
        self.0.readers.submit(true, job)?;
        receiver.await.unwrap_or_else(|_| Err(lost()))
    }

    /// Tells the number of the newest committed change, and when there is a newer one.
    pub fn changes(&self) -> watch::Receiver<i64> {
        self.0.changed.subscribe()
    }

    /// Notes that a change was seen: those that are made from now on have higher numbers.
    pub fn saw(&self, seq: i64) {
        self.0.changed.send_if_modified(|newest| {
            let is_newer = *newest < seq;
            *newest = seq.max(*newest);
            is_newer
        });
    }

    /// Ends this process: what it has in memory is of another history than what is stored.
    pub fn stop_for_another_history(&self) -> ! {
        stop("changes that were seen are not there any more: the database is an older copy of itself")
    }

    /// Ends the threads after the work that waits. Work submitted later is refused.
    pub fn close(&self) {
        self.0.close();
    }

    fn writing<T: Send + 'static>(
        &self,
        work: impl FnOnce(Tx) -> OwnedWork<T> + Send + 'static,
        after: impl FnOnce(Result<T>, Commit) + Send + 'static,
    ) -> Job {
        let (changed, syncer) = (self.0.changed.clone(), Arc::clone(&self.0.syncer));
        transaction(work, move |result, changed_to| {
            let commit = syncer.committed();
            if let (Ok(_), Some(seq)) = (&result, changed_to) {
                if seq <= *changed.borrow() {
                    stop("the numbers of changes have gone back: the database is an older copy of itself");
                }
                changed.send_replace(seq);
            }
            after(result, commit);
        })
    }
}

impl Inner {
    fn close(&self) {
        for lane in [&self.writer, &self.readers, &self.long_readers, &self.follower] {
            lane.close();
        }
        let mut threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        // The syncing thread was started last, and ends last: others may still have given it something to do.
        let syncing = threads.iter().position(|thread| thread.thread().name() == Some(SYNCING));
        let syncing = syncing.map(|at| threads.remove(at));
        // A job may hold the last handle, and so close the database from a thread of its own.
        let is_other = |thread: &thread::JoinHandle<()>| thread.thread().id() != thread::current().id();
        for thread in threads.into_iter().filter(is_other) {
            let _ = thread.join();
        }
        self.syncer.close();
        if let Some(thread) = syncing.filter(is_other) {
            let _ = thread.join();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

fn owning<T: Send + 'static>(
    work: impl for<'t> FnOnce(&'t mut Tx) -> Work<'t, T> + Send + 'static,
) -> impl FnOnce(Tx) -> OwnedWork<T> + Send + 'static {
    move |mut tx| {
        Box::pin(async move {
            let result = work(&mut tx).await;
            (tx, result)
        })
    }
}

/// A transaction from BEGIN to COMMIT, or ROLLBACK; `finish` learns the result and the last change it logged.
fn transaction<T: Send + 'static>(
    work: impl FnOnce(Tx) -> OwnedWork<T> + Send + 'static,
    finish: impl FnOnce(Result<T>, Option<i64>) + Send + 'static,
) -> Job {
    Box::new(move |seat| {
        let session = match seat.begin() {
            Ok(session) => session,
            Err(error) => return finish(Err(error), None),
        };
        let (session, result, changed_to) = seat.driver.run(async {
            let (Tx { mut session, changed_to }, result) = work(Tx::new(session)).await;
            let result = match result {
                Ok(value) => match session.commit().await {
                    Ending::Committed => Ok(value),
                    Ending::Failed(error) => Err(error),
                    Ending::Unknown(error) => Err(outcome_unknown(error)),
                },
                Err(error) => Err(error),
            };
            let is_usable = result.is_ok() || session.rollback().await;
            (is_usable.then_some(session), result, changed_to)
        });
        seat.session = session;
        finish(result, changed_to);
    })
}

fn outcome_unknown(cause: Error) -> Error {
    let message = "The database was lost while it confirmed the change: it was made, or not. Look before you try again.";
    let cause = cause.source.map_or(cause.message, |source| source.to_string());
    // Made again by itself, it might be made twice.
    Error::unavailable(OUTCOME_UNKNOWN, message).source(cause).header("x-should-retry", "false")
}

fn lost() -> Error {
    Error::internal("a unit of work did not come to its end")
}

#[cfg(test)]
mod tests;
