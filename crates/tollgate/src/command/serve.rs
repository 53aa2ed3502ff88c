//! `tollgate serve`: a node until it is told to stop.

use std::io::Write;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tollgate_core::{Clock, Error, Result};

use crate::config::ServeOptions;
use crate::node::Node;

pub async fn serve(options: ServeOptions) -> Result<()> {
    let config = options.config()?;
    let stop = StopSignals::listen()?;
    let node = Node::start(&config, Clock::system()).await?;
    // Whoever started us reads where we are from the first line.
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{}", node.url).and_then(|()| out.flush());
    drop(out);
    tracing::info!(url = node.url, database = node.database(), "serving");
    tokio::select! {
        () = stop.wait() => {}
        () = node.taken_over() => tracing::info!("another process has taken the listening socket"),
    }
    tracing::info!("stopping");
    node.stop().await;
    Ok(())
}

/// The signals that ask the process to stop. Listened to before anything is announced, so that none is missed.
pub(crate) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    pub(crate) fn listen() -> Result<Self> {
        let failed = |error: std::io::Error| Error::internal("signals cannot be received").source(error);
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
        })
    }

    /// Returns on SIGTERM or SIGINT. A second one ends the process at once; what was in flight is then settled at the
    /// next start.
    pub(crate) async fn wait(mut self) {
        self.next().await;
        tokio::spawn(async move {
            self.next().await;
            std::process::exit(130);
        });
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
