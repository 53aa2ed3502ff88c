//! The access log: a line of JSON for every request, without a secret and without content. Of the path it has what the
//! API calls it, for a path can have anything in it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tollgate_core::{Error, Result};

/// So often lines are written. Requests do not wait for it.
const WRITE_EVERY: Duration = Duration::from_millis(200);
/// Lines that a disk does not take in time are dropped beyond this, and counted.
const BYTES_MAX: usize = 32 * 1024 * 1024;

/// One request.
#[derive(Serialize)]
pub(crate) struct Line<'l> {
    pub(crate) time: String,
    pub(crate) request_id: &'l str,
    pub(crate) client: Option<std::net::IpAddr>,
    pub(crate) method: &'l str,
    pub(crate) route: &'l str,
    pub(crate) status: u16,
    /// Whether the client got the whole answer.
    pub(crate) complete: bool,
    pub(crate) milliseconds: u64,
    pub(crate) bytes_sent: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) organization_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) project_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) api_key_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) model: Option<&'l str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) upstream: Option<&'l str>,
}

/// Takes lines; a thread of its own writes them.
pub(crate) struct AccessLog {
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    wake: Condvar,
}

#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    dropped: u64,
    is_over: bool,
}

impl AccessLog {
    /// Appends to a file, or to stderr for `-`. A file that is moved away is made anew.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let mut sink = Sink::open(path).map_err(|error| {
            Error::bad_request(format!("Cannot write the access log {}: {error}.", path.display()))
        })?;
        let shared: Arc<Shared> = Arc::default();
        let thread = Arc::clone(&shared);
        let spawned =
            std::thread::Builder::new().name("access-log".to_owned()).spawn(move || thread.write(&mut sink));
        let thread =
            spawned.map_err(|error| Error::internal("the access log has no thread").source(error))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    pub(crate) fn write(&self, line: &Line<'_>) {
        let Ok(mut text) = serde_json::to_vec(line) else { return };
        text.push(b'\n');
        let mut waiting = self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.bytes.len() + text.len() > BYTES_MAX {
            waiting.dropped += 1;
        } else {
            waiting.bytes.extend_from_slice(&text);
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner).is_over = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn write(&self, sink: &mut Sink) {
        let mut bytes = Vec::new();
        loop {
            let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let waited = self.wake.wait_timeout_while(waiting, WRITE_EVERY, |waiting| !waiting.is_over);
            let (mut waiting, _) = waited.unwrap_or_else(PoisonError::into_inner);
            std::mem::swap(&mut bytes, &mut waiting.bytes);
            let (dropped, is_over) = (std::mem::take(&mut waiting.dropped), waiting.is_over);
            drop(waiting);
            if dropped > 0 {
                tracing::warn!(lines = dropped, "the access log could not be written fast enough");
            }
            if let Err(error) = sink.write(&bytes) {
                tracing::warn!(%error, bytes = bytes.len(), "the access log could not be written");
            }
            bytes.clear();
            if is_over {
                return;
            }
        }
    }
}

enum Sink {
    Stderr,
    File { path: PathBuf, file: File },
}

impl Sink {
    fn open(path: &Path) -> io::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self::Stderr);
        }
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self::File { path: path.to_owned(), file })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        match self {
            Self::Stderr => io::stderr().lock().write_all(bytes),
            Self::File { path, file } => {
                let same = |one: &std::fs::Metadata, other: &std::fs::Metadata| {
                    one.ino() == other.ino() && one.dev() == other.dev()
                };
                let is_there = std::fs::metadata(&*path)
                    .and_then(|named| Ok(same(&named, &file.metadata()?)))
                    .unwrap_or(false);
                if !is_there {
                    *file = OpenOptions::new().create(true).append(true).open(&*path)?;
                }
                file.write_all(bytes)
            }
        }
    }
}
