//! Brings commits to the disk.
//!
//! SQLite writes a commit to its log without waiting for the disk; one thread syncs the log and tells whoever waits. What
//! was committed while one sync ran shares the next.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// The number of a commit. What is committed later has a higher one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Commit(u64);

type Then = Box<dyn FnOnce() + Send>;

pub(crate) struct Syncer {
    /// `None` where a commit is on disk already.
    log: Option<PathBuf>,
    committed: AtomicU64,
    synced: watch::Sender<u64>,
    queue: Mutex<Queue>,
    wake: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Then>,
    is_closing: bool,
}

impl Syncer {
    pub(crate) fn of(database: &Path) -> Self {
        let mut log = database.as_os_str().to_owned();
        log.push("-wal");
        Self { log: Some(log.into()), ..Self::of_nothing() }
    }

    /// Of a database that confirms a commit when it is on disk.
    pub(crate) fn of_nothing() -> Self {
        Self {
            log: None,
            committed: AtomicU64::new(0),
            synced: watch::Sender::new(0),
            queue: Mutex::default(),
            wake: Condvar::new(),
        }
    }

    /// Numbers a commit that was just made. Called on the writing thread.
    pub(crate) fn committed(&self) -> Commit {
        Commit(self.committed.fetch_add(1, Ordering::AcqRel) + 1)
    }

    /// Runs `then` on the syncing thread once all that was committed before this call is on disk.
    pub(crate) fn after_sync(&self, then: impl FnOnce() + Send + 'static) {
        self.queue().waiting.push(Box::new(then));
        self.wake.notify_one();
    }

    pub(crate) async fn synced(&self, commit: Commit) {
        if *self.synced.borrow() >= commit.0 {
            return;
        }
        let mut synced = self.synced.subscribe();
        // The sender lives as long as we do.
        let _ = synced.wait_for(|synced| *synced >= commit.0).await;
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn close(&self) {
        self.queue().is_closing = true;
        self.wake.notify_one();
    }

    /// The syncing thread: until the database closes, and then until nobody waits.
    pub(crate) fn work(&self) {
        let mut log = None;
        loop {
            let mut queue = self.queue();
            while queue.waiting.is_empty() && !queue.is_closing {
                queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            if queue.waiting.is_empty() {
                return;
            }
            let waiting = std::mem::take(&mut queue.waiting);
            drop(queue);
            let committed = self.committed.load(Ordering::Acquire);
            if committed > *self.synced.borrow() {
                if let Some(path) = &self.log {
                    sync(&mut log, path);
                }
                self.synced.send_replace(committed);
            }
            for then in waiting {
                then();
            }
        }
    }
}

/// Syncs the log, or ends the process: the kernel reports a failed write-back once and then forgets it, so that whatever
/// is retried would seem to succeed. Only reading the disk again at a new start tells what is there.
fn sync(log: &mut Option<File>, path: &Path) {
    let synced = match log {
        Some(file) => fdatasync(file),
        // It is on the database itself that SQLite holds its locks, which closing a file would drop; the log has none.
        None => File::open(path).and_then(|file| fdatasync(log.insert(file))),
    };
    if let Err(error) = synced {
        tracing::error!(%error, log = %path.display(), "the disk failed to keep what was written; stopping at once");
        std::process::abort()
    }
}

fn fdatasync(file: &File) -> io::Result<()> {
    rustix::fs::fdatasync(file).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;
    use std::sync::Arc;
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn whoever_waits_is_told_in_order_and_nothing_is_left_at_the_end() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("x-wal"), "").unwrap();
        let syncer = Arc::new(Syncer::of(&home.path().join("x")));
        let (told, listening) = mpsc::channel();
        for number in 0..100 {
            let (told, _) = (told.clone(), syncer.committed());
            syncer.after_sync(move || told.send(number).unwrap());
        }
        syncer.close();
        syncer.work();
        drop(told);
        assert_eq!(listening.iter().collect::<Vec<_>>(), (0..100).collect::<Vec<_>>());
        assert_eq!(*syncer.synced.borrow(), 100);
    }

    /// Run in a process of its own by the test below.
    #[test]
    #[ignore = "ends its process"]
    fn a_sync_that_fails() {
        let (reader, _writer) = io::pipe().unwrap();
        let mut log = Some(File::from(std::os::fd::OwnedFd::from(reader)));
        sync(&mut log, Path::new("a pipe, which cannot be synced"));
    }

    #[test]
    fn a_disk_that_fails_a_sync_ends_the_process() {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "sync::tests::a_sync_that_fails", "--ignored"])
            .output()
            .unwrap();
        assert_eq!(child.status.signal(), Some(6), "{child:?}");
    }
}
