//! Threads that work on the database: a unit of work is handed to one, and runs there from its beginning to its end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use tollgate_core::time::Stopwatch;
use tollgate_core::{Error, Result};

use crate::engine::{Driver, Engine, Role, Session};

/// What a thread does at its seat.
pub(crate) type Job = Box<dyn FnOnce(&mut Seat) + Send>;

/// So long a server that was away is not asked again. Whoever waits is told at once.
const AWAY_PAUSE: Duration = Duration::from_millis(500);

/// What the threads of a lane have in common.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) engine: Engine,
    pub(crate) role: Role,
    /// Whether the database was there when it was last asked.
    pub(crate) is_available: Arc<AtomicBool>,
}

/// A thread's place: its connection, if it has one that is good, and how to get another.
pub(crate) struct Seat {
    plan: Plan,
    pub(crate) driver: Driver,
    pub(crate) session: Option<Session>,
    away_since: Option<Stopwatch>,
}

impl Seat {
    fn take(plan: Plan) -> Result<Self> {
        let driver = Driver::of(&plan.engine)?;
        let session = Some(driver.run(Session::open(&plan.engine, plan.role))?);
        Ok(Self { plan, driver, session, away_since: None })
    }

    /// A session with a transaction begun. A connection that was lost meanwhile is replaced: nothing was done on it yet.
    pub(crate) fn begin(&mut self) -> Result<Session> {
        if let Some(mut session) = self.session.take() {
            match self.driver.run(session.begin()) {
                Ok(()) => return Ok(session),
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
        let opened = self.driver.run(Session::open(&self.plan.engine, role));
        self.away_since = opened.is_err().then(Stopwatch::start);
        self.plan.is_available.store(opened.is_ok(), Ordering::Relaxed);
        if let Err(error) = &opened {
            tracing::error!(%error, database = %self.plan.engine, "the database cannot be opened");
        }
        opened
    }
}

/// Threads with a connection each, and the line of jobs before them.
pub(crate) struct Lane {
    /// `None` once the database closes, which ends the threads.
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    waiting: Arc<AtomicUsize>,
    waiting_max: usize,
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
        for _ in 0..count {
            let (receiver, waiting, plan) = (Arc::clone(&receiver), Arc::clone(&waiting), plan.clone());
            let (told, is_open) = mpsc::channel();
            // A connection begins and ends on its thread.
            let work = move || match Seat::take(plan) {
                Ok(seat) => {
                    let _ = told.send(Ok(()));
                    work_off(seat, &receiver, &waiting);
                }
                Err(error) => _ = told.send(Err(error)),
            };
            threads.push(spawn(name, work)?);
            is_open.recv().unwrap_or_else(|_| Err(Error::internal("a database thread did not begin")))?;
        }
        Ok(Self { jobs: Mutex::new(Some(jobs)), waiting, waiting_max })
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
