//! Threads that work on the database: a unit of work is handed to one, and runs there from its beginning to its end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use tollgate_core::time::Stopwatch;
use tollgate_core::{Error, Result};

use crate::engine::{Driver, Engine, Role, Session};
use crate::row::Row;
use crate::value::Value;

/// What a thread does at its seat.
pub(crate) type Job = Box<dyn FnOnce(&mut Seat) + Send>;

/// So long a server that was away is not asked again. Whoever waits is told at once.
const AWAY_PAUSE: Duration = Duration::from_millis(500);

/// What the threads of a lane have in common.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) engine: Engine,
    pub(crate) role: Role,
    pub(crate) watch: Arc<Watch>,
}

/// What tells a node that the database it comes back to is not the one it knows.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    history: OnceLock<String>,
    /// What the node that serves has written into the database; see [`crate::Db::claim`].
    pub(crate) claim: OnceLock<String>,
}

impl Watch {
    /// Whether a connection is to what this node knows. Another history lacks commits that were confirmed, or has others; and who
    /// served meanwhile has ended the holds of this node.
    async fn check(&self, session: &mut Session, role: Role) -> Result<()> {
        let Some(history) = session.history().await? else { return Ok(()) };
        let known = self.history.get_or_init(|| history.clone());
        if *known != history {
            stop(&format!(
                "the database goes through another history, {history} and not {known}: a standby was promoted, or a backup restored"
            ));
        }
        if let (Role::Writer { .. }, Some(own)) = (role, self.claim.get()) {
            let mut found = None;
            let mut read = |row: &Row| {
                found = row.at(0)?;
                Ok(())
            };
            session.query(&CLAIMED.into(), &[Value::Text(CLAIM.to_owned())], &mut read).await?;
            if found.as_ref() != Some(own) {
                stop("another process has served the database while the connection was lost");
            }
        }
        Ok(())
    }
}

/// The name of the row in `installation`.
pub(crate) const CLAIM: &str = "served_by";
const CLAIMED: &str = "SELECT value FROM installation WHERE name = $1";

/// What is in memory does not fit what is stored. Only a new start, which reads everything and settles what is open, does.
pub(crate) fn stop(why: &str) -> ! {
    tracing::error!(why, "stopping at once");
    std::process::abort()
}

/// A thread's place: its connection, if it has one that is good, and how to get another.
pub(crate) struct Seat {
    plan: Plan,
    pub(crate) driver: Driver,
    pub(crate) session: Option<Session>,
    away_since: Option<Stopwatch>,
    is_available: Arc<AtomicBool>,
}

impl Seat {
    fn take(plan: Plan, is_available: Arc<AtomicBool>) -> Result<Self> {
        let driver = Driver::of(&plan.engine)?;
        let session = Some(driver.run(open(&plan, plan.role))?);
        Ok(Self { plan, driver, session, away_since: None, is_available })
    }

    /// A session with a transaction begun. A connection that was lost meanwhile is replaced: nothing was done on it yet.
    pub(crate) fn begin(&mut self) -> Result<Session> {
        if let Some(mut session) = self.session.take() {
            match self.driver.run(session.begin()) {
                Ok(()) => {
                    self.is_available.store(true, Ordering::Relaxed);
                    return Ok(session);
                }
                Err(error) if !session.is_lost() => {
                    self.session = Some(session);
                    return Err(error);
                }
                Err(error) => tracing::warn!(%error, database = %self.plan.engine, "a connection was lost"),
            }
        }
        let mut session = self.open()?;
        self.driver.run(session.begin())?;
        Ok(session)
    }

    /// A connection, the one that is there or a new one.
    pub(crate) fn open(&mut self) -> Result<Session> {
        if let Some(session) = self.session.take() {
            return Ok(session);
        }
        if self.away_since.is_some_and(|since| since.elapsed() < AWAY_PAUSE) {
            let message = "The database cannot be reached. Please try again.";
            return Err(Error::unavailable("database_unavailable", message));
        }
        let role = match self.plan.role {
            // It was made when it was first opened.
            Role::Writer { .. } => Role::Writer { create: false },
            role => role,
        };
        let trying = Stopwatch::start();
        let mut opened = self.driver.run(open(&self.plan, role));
        if opened.is_err() && trying.elapsed() < AWAY_PAUSE {
            // It may have been cut like the one before, and nothing is wrong any more.
            opened = self.driver.run(open(&self.plan, role));
        }
        self.away_since = opened.is_err().then(Stopwatch::start);
        let was_available = self.is_available.swap(opened.is_ok(), Ordering::Relaxed);
        match &opened {
            Err(error) if was_available => {
                tracing::error!(%error, database = %self.plan.engine, role = ?self.plan.role, "the database is away");
            }
            Ok(_) if !was_available => {
                tracing::info!(database = %self.plan.engine, role = ?self.plan.role, "the database is back");
            }
            _ => {}
        }
        opened
    }
}

async fn open(plan: &Plan, role: Role) -> Result<Session> {
    let mut session = Session::open(&plan.engine, role).await?;
    plan.watch.check(&mut session, role).await?;
    Ok(session)
}

/// Threads with a connection each, and the line of jobs before them.
pub(crate) struct Lane {
    /// `None` once the database closes, which ends the threads.
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    waiting: Arc<AtomicUsize>,
    waiting_max: usize,
    /// Whether the database was there when one of the threads last asked.
    is_available: Arc<AtomicBool>,
}

impl Lane {
    /// Starts `count` threads, for whom at most `waiting_max` jobs may wait.
    pub(crate) fn start(
        name: &str,
        plan: &Plan,
        (count, waiting_max): (usize, usize),
        threads: &mut Vec<thread::JoinHandle<()>>,
    ) -> Result<Self> {
        let (jobs, receiver) = mpsc::channel::<Job>();
        let receiver = Arc::new(Mutex::new(receiver));
        let waiting = Arc::new(AtomicUsize::new(0));
        let is_available = Arc::new(AtomicBool::new(true));
        for _ in 0..count {
            let (receiver, waiting, plan) = (Arc::clone(&receiver), Arc::clone(&waiting), plan.clone());
            let is_available = Arc::clone(&is_available);
            let (told, is_open) = mpsc::channel();
            // A connection begins and ends on its thread.
            let work = move || match Seat::take(plan, is_available) {
                Ok(seat) => {
                    let _ = told.send(Ok(()));
                    work_off(seat, &receiver, &waiting);
                }
                Err(error) => _ = told.send(Err(error)),
            };
            threads.push(spawn(name, work)?);
            is_open.recv().unwrap_or_else(|_| Err(Error::internal("a database thread did not begin")))?;
        }
        Ok(Self { jobs: Mutex::new(Some(jobs)), waiting, waiting_max, is_available })
    }

    pub(crate) fn is_available(&self) -> bool {
        self.is_available.load(Ordering::Relaxed)
    }

    /// Takes no more jobs, and ends the threads after those that wait.
    pub(crate) fn close(&self) {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Hands a job to the next thread that is free; `bounded`: unless too many wait already.
    pub(crate) fn submit(&self, bounded: bool, job: Job) -> Result<()> {
        if bounded && self.waiting.load(Ordering::Relaxed) >= self.waiting_max {
            return Err(Error::unavailable("overloaded", "The server has too much to do. Please try again."));
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        match jobs.as_ref().map(|jobs| jobs.send(job)) {
            Some(Ok(())) => Ok(()),
            _ => Err(Error::unavailable("shutting_down", "The server is shutting down.")),
        }
    }
}

pub(crate) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<thread::JoinHandle<()>> {
    let thread = thread::Builder::new().name(name.to_owned()).spawn(work);
    thread.map_err(|error| Error::internal("a database thread does not start").source(error))
}

fn work_off(mut seat: Seat, receiver: &Mutex<mpsc::Receiver<Job>>, waiting: &AtomicUsize) {
    loop {
        let job = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        waiting.fetch_sub(1, Ordering::Relaxed);
        // A job that panics takes its connection with it, which rolls its transaction back.
        let _ = catch_unwind(AssertUnwindSafe(|| job(&mut seat)));
    }
}
