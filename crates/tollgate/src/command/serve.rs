//! `tollgate serve`: a node until it is told to stop.

use std::io::Write;

use tokio::signal::unix::{SignalKind, signal};
use tollgate_core::{Clock, Error, Result};

use crate::config::ServeOptions;
use crate::node::Node;

pub async fn serve(options: ServeOptions) -> Result<()> {
    let config = options.config()?;
    let node = Node::start(&config, Clock::system()).await?;
    // Whoever started us reads where we are from the first line.
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{}", node.url).and_then(|()| out.flush());
    drop(out);
    tracing::info!(url = node.url, data = %config.data.display(), "serving");
    wait_for_stop().await?;
    tracing::info!("stopping");
    node.stop().await;
    Ok(())
}

/// Returns on SIGTERM or SIGINT. A second one ends the process at once; what was in flight is settled at the next start.
pub(crate) async fn wait_for_stop() -> Result<()> {
    let failed = |error: std::io::Error| Error::internal("signals cannot be received").source(error);
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        std::process::exit(130);
    });
    Ok(())
}
