//! Threads that work on the database: a unit of work is handed to one, and runs there from its beginning to its end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use tollgate_core::{Error, Result};

use crate::db::Options;
use crate::tx::{Session, from_driver};

/// What a thread does with its connection; it gives back the one that is to be used again.
pub(crate) type Job = Box<dyn FnOnce(Session) -> Option<Session> + Send>;

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
        path: &Path,
        options: Options,
        (count, waiting_max): (usize, usize),
        threads: &mut Vec<thread::JoinHandle<()>>,
    ) -> Result<Self> {
        let (jobs, receiver) = mpsc::channel::<Job>();
        let receiver = Arc::new(Mutex::new(receiver));
        let waiting = Arc::new(AtomicUsize::new(0));
        for _ in 0..count {
            let session = open_session(path, options)?;
            let (receiver, waiting, path) = (Arc::clone(&receiver), Arc::clone(&waiting), path.to_owned());
            let work = move || work_off(session, &receiver, &waiting, &path, options);
            threads.push(spawn(name, work)?);
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

fn work_off(
    session: Session,
    receiver: &Mutex<mpsc::Receiver<Job>>,
    waiting: &AtomicUsize,
    path: &Path,
    options: Options,
) {
    let mut session = Some(session);
    loop {
        let job = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        waiting.fetch_sub(1, Ordering::Relaxed);
        let current = match session.take() {
            Some(session) => session,
            // The last job panicked and took its connection with it, which rolled its transaction back.
            None => match open_session(path, Options { create: false, ..options }) {
                Ok(session) => session,
                Err(error) => {
                    tracing::error!(%error, "the database cannot be opened again");
                    continue;
                }
            },
        };
        session = catch_unwind(AssertUnwindSafe(|| job(current))).unwrap_or(None);
    }
}

fn open_session(path: &Path, options: Options) -> Result<Session> {
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    flags.set(OpenFlags::SQLITE_OPEN_CREATE, options.create);
    let connection = Connection::open_with_flags(path, flags).map_err(from_driver)?;
    connection.busy_timeout(Duration::from_secs(5)).map_err(from_driver)?;
    connection.set_prepared_statement_cache_capacity(256);
    if !options.read_only {
        connection
            .execute_batch(
                // NORMAL syncs what a checkpoint needs; the syncing thread brings each commit to the disk.
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA journal_size_limit = 67108864;",
            )
            .map_err(from_driver)?;
    }
    let query_only = if options.read_only { "PRAGMA query_only = ON;" } else { "" };
    connection
        .execute_batch(&format!(
            "PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON;
             PRAGMA mmap_size = 0; PRAGMA cache_size = -16384; PRAGMA temp_store = MEMORY; {query_only}"
        ))
        .map_err(from_driver)?;
    Ok(Session::new(connection))
}
