//! The directory of an installation: its database, lock, secrets and copies.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use tollgate_core::{Error, Result, Timestamp};

use crate::db::{Db, Options};
use crate::engine::from_driver;

#[derive(Clone, Debug)]
pub struct DataDir(PathBuf);

/// Held by what writes. Freed by the operating system with the process, however that ends.
#[derive(Debug)]
pub struct Lock(pub(crate) File);

impl Drop for Lock {
    /// Closing the file would not do: a child that another thread is just starting has it open as well until it
    /// becomes its own program, and the lock would live on in it.
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

impl DataDir {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn database(&self) -> PathBuf {
        self.0.join("tollgate.db")
    }

    pub fn secrets(&self) -> PathBuf {
        self.0.join("secrets").join("master.json")
    }

    pub(crate) fn migration_copy(&self, version: i64, now: Timestamp) -> PathBuf {
        self.0.join("backups").join(format!("before-migration-from-{version}-{}.db", now.0))
    }

    /// Makes the directory, readable by its owner only.
    pub fn create(&self) -> Result<()> {
        make_directory(&self.0)
    }

    /// Whether another process has the lock of the directory.
    pub fn is_locked(&self) -> bool {
        let file = File::open(self.0.join("lock"));
        file.is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
    }

    /// Takes the lock of the directory, or says who has it.
    pub fn lock(&self) -> Result<Lock> {
        let path = self.0.join("lock");
        let failed = |error: std::io::Error| cannot("open", &path, error);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                return Err(Error::bad_request(format!(
                    "The data directory {} is in use by another process{}. One process at a time may write to it; \
                     stop that one first.",
                    self.0.display(),
                    if holder.is_empty() { String::new() } else { format!(" (pid {})", holder.trim()) },
                )));
            }
            Err(TryLockError::Error(error)) => return Err(cannot("lock", &path, error)),
        }
        let write_pid = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        write_pid.map_err(|error| cannot("write", &path, error))?;
        Ok(Lock(file))
    }

    /// Opens the database that is there.
    pub fn open(&self, options: Options) -> Result<Db> {
        let path = self.database();
        if !options.create && !path.exists() {
            return Err(Error::bad_request(format!(
                "There is no database in {}. `tollgate serve --data` makes one.",
                self.0.display()
            )));
        }
        Db::open(&path, options)
    }

    /// Bytes that may still be written to the disk of the directory.
    pub fn free_bytes(&self) -> Result<u64> {
        let stat = rustix::fs::statvfs(&self.0).map_err(|error| cannot("inspect", &self.0, error.into()))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Puts a backup in the place of a database. The directory must not have one yet.
    pub fn restore(&self, backup: &Path) -> Result<()> {
        let target = self.database();
        // A log left behind by another database would be read as this one's.
        for part in ["", "-wal", "-shm", "-journal"] {
            let path = self.0.join(format!("tollgate.db{part}"));
            if path.exists() {
                return Err(Error::bad_request(format!(
                    "{} exists already. Restore into an empty directory, so that nothing is overwritten.",
                    path.display()
                )));
            }
        }
        check(backup)?;
        self.create()?;
        let _lock = self.lock()?;
        let copying = self.0.join("tollgate.db.restoring");
        let failed = |error| cannot("copy to", &copying, error);
        let mut source = File::open(backup).map_err(|error| cannot("read", backup, error))?;
        let mut copy = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&copying)
            .map_err(failed)?;
        std::io::copy(&mut source, &mut copy).and_then(|_| copy.sync_all()).map_err(failed)?;
        fs::rename(&copying, &target).map_err(|error| cannot("rename to", &target, error))?;
        sync_directory(&self.0)
    }
}

impl Db {
    /// Writes a consistent copy, as of one moment, while others read and write.
    pub async fn copy_to(&self, target: &Path) -> Result<()> {
        let target = target.to_owned();
        self.with_connection(move |connection| {
            let directory =
                target.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
            make_directory(directory)?;
            // Made first, so that it is never readable by others; SQLite fills an empty file.
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&target)
                .map_err(|error| cannot("make", &target, error))?;
            let copied = copy_pages(connection, &target).and_then(|()| check(&target));
            if copied.is_err() {
                let _ = fs::remove_file(&target);
            }
            copied?;
            sync_directory(directory)
        })
        .await
    }
}

fn copy_pages(connection: &Connection, target: &Path) -> Result<()> {
    let mut copy = Connection::open(target).map_err(from_driver)?;
    // All pages in one step: one state of the database, and no restart when somebody writes meanwhile.
    let backup = rusqlite::backup::Backup::new(connection, &mut copy).map_err(from_driver)?;
    let outcome = backup.step(-1).map_err(from_driver)?;
    if outcome != rusqlite::backup::StepResult::Done {
        return Err(Error::unavailable(
            "database_busy",
            "The database was too busy to be copied. Please try again.",
        ));
    }
    drop(backup);
    // A copy is one file: without this it would want a log beside it.
    copy.execute_batch("PRAGMA journal_mode = DELETE;").map_err(from_driver)?;
    drop(copy);
    File::open(target).and_then(|file| file.sync_all()).map_err(|error| cannot("sync", target, error))
}

/// Refuses a file that is not a whole database of ours.
fn check(path: &Path) -> Result<()> {
    let not_ours =
        |why: String| Error::bad_request(format!("{} is not a backup of Tollgate: {why}.", path.display()));
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let connection = Connection::open_with_flags(path, flags).map_err(|error| not_ours(error.to_string()))?;
    let verdict: String = connection
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .map_err(|error| not_ours(error.to_string()))?;
    if verdict != "ok" {
        return Err(not_ours(verdict));
    }
    connection
        .query_row("SELECT COUNT(*) FROM schema_migration", [], |row| row.get::<_, i64>(0))
        .map_err(|error| not_ours(error.to_string()))?;
    Ok(())
}

pub fn make_directory(path: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| cannot("make", path, error))
}

fn sync_directory(path: &Path) -> Result<()> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(|error| cannot("sync", path, error))
}

fn cannot(what: &str, path: &Path, error: std::io::Error) -> Error {
    Error::bad_request(format!("Cannot {what} {}: {error}.", path.display())).source(error)
}
