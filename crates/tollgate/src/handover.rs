//! Handing the listening socket over to the process that takes this one's place, so that connections wait in its queue
//! instead of failing.
//!
//! The process that serves listens on a Unix socket in the data directory. Whoever connects there, as the same user, gets the
//! listening socket; then this process ends what it is at and goes. The other waits for the lock of the directory
//! meanwhile, and accepts what has queued once it has it.

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use tokio::io::AsyncReadExt;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tollgate_core::{Error, Result};

const GREETING: &[u8] = b"tollgate listening socket 1\n";
const CONFIRMED: &[u8] = b"taken\n";
const ASK_TIME_MAX: Duration = Duration::from_secs(5);

fn path(data: &Path) -> PathBuf {
    data.join("handover.sock")
}

/// A socket that another process still listens on, too.
pub(crate) struct Taken {
    pub(crate) listener: TcpListener,
    stream: UnixStream,
}

impl Taken {
    /// Has the other process stop: the socket is good.
    pub(crate) fn confirm(mut self) -> Result<TcpListener> {
        let failed =
            |error| Error::internal("the process that served could not be told to stop").source(error);
        self.stream.write_all(CONFIRMED).map_err(|error: std::io::Error| failed(error))?;
        Ok(self.listener)
    }
}

/// Asks the process that serves the directory for its listening socket; `None` if there is no such process. It goes on until
/// that is confirmed.
pub(crate) fn take(data: &Path) -> Result<Option<Taken>> {
    let Ok(mut stream) = UnixStream::connect(path(data)) else { return Ok(None) };
    let failed = |error: std::io::Error| {
        Error::bad_request(format!("The process that serves {} gave no socket: {error}.", data.display()))
    };
    stream.set_read_timeout(Some(ASK_TIME_MAX)).map_err(failed)?;
    let mut greeting = [0; GREETING.len()];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received =
        recvmsg(&stream, &mut [IoSliceMut::new(&mut greeting)], &mut control, RecvFlags::CMSG_CLOEXEC)
            .map_err(|error| failed(error.into()))?;
    stream.read_exact(&mut greeting[received.bytes..]).map_err(failed)?;
    if greeting != GREETING {
        return Err(failed(std::io::Error::other("it speaks another version of the handover")));
    }
    let fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let fd: Option<OwnedFd> = fds.flatten().next();
    fd.map(|fd| Some(Taken { listener: TcpListener::from(fd), stream }))
        .ok_or_else(|| failed(std::io::Error::other("there was none")))
}

/// An offer to hand the socket over, as long as it is kept.
pub(crate) struct Offer {
    path: PathBuf,
    task: AbortHandle,
    taken: watch::Receiver<bool>,
}

impl Offer {
    /// Where no offer can be made, a restart is one like any other.
    pub(crate) fn make(data: &Path, listener: &TcpListener) -> Option<Self> {
        let path = path(data);
        let _ = std::fs::remove_file(&path);
        let made = UnixListener::bind(&path).and_then(|offering| Ok((offering, listener.try_clone()?)));
        let (offering, listener) = match made {
            Ok(made) => made,
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "the listening socket cannot be handed over at a restart");
                return None;
            }
        };
        let (told, taken) = watch::channel(false);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = offering.accept().await {
                match offer_to(stream, &listener).await {
                    Ok(()) => _ = told.send_replace(true),
                    Err(error) => {
                        tracing::warn!(%error, "somebody asked for the listening socket and did not take it");
                    }
                }
            }
        });
        Some(Self { path, task: task.abort_handle(), taken })
    }

    /// Returns when it was taken.
    pub(crate) async fn taken(&self) {
        let mut taken = self.taken.clone();
        if taken.wait_for(|taken| *taken).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Gives the socket to whoever asks, and waits for the word that it is good.
async fn offer_to(stream: tokio::net::UnixStream, listener: &TcpListener) -> std::io::Result<()> {
    if stream.peer_cred()?.uid() != rustix::process::geteuid().as_raw() {
        return Err(std::io::ErrorKind::PermissionDenied.into());
    }
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    give(&stream, listener)?;
    stream.set_nonblocking(true)?;
    let mut stream = tokio::net::UnixStream::from_std(stream)?;
    let mut word = [0; CONFIRMED.len()];
    tokio::time::timeout(ASK_TIME_MAX, stream.read_exact(&mut word)).await??;
    if word == *CONFIRMED { Ok(()) } else { Err(std::io::ErrorKind::InvalidData.into()) }
}

fn give(stream: &UnixStream, listener: &TcpListener) -> std::io::Result<()> {
    let fds = [listener.as_fd()];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(stream, &[IoSlice::new(GREETING)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}
