//! `tollgate simulate`: the simulated provider alone.

use std::io::Write;
use std::net::SocketAddr;

use clap::Args;
use tokio::net::TcpListener;
use tollgate_core::{Clock, Error, Result};
use tollgate_simulator::Simulator;

use crate::command::serve::StopSignals;
use crate::listener;

#[derive(Args, Debug)]
pub struct SimulateOptions {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, env = "TOLLGATE_SIMULATE_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:8090")]
    pub listen: SocketAddr,
}

pub async fn simulate(options: SimulateOptions) -> Result<()> {
    let stop = StopSignals::listen()?;
    let (address, serving) = start(options.listen)?;
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{}", Simulator::base_url(address)).and_then(|()| out.flush());
    drop(out);
    tokio::select! {
        _ = serving => {}
        () = stop.wait() => {}
    }
    Ok(())
}

/// Starts a simulated provider on a thread of its own, as a provider is elsewhere.
pub(crate) fn start(listen: SocketAddr) -> Result<(SocketAddr, tokio::sync::oneshot::Receiver<()>)> {
    let failed =
        |error: std::io::Error| Error::internal("the simulated provider cannot be started").source(error);
    let listener = listener::bind(listen)?;
    let address = listener.local_addr().map_err(failed)?;
    let (ended, is_ended) = tokio::sync::oneshot::channel();
    let serve = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        if let Ok(runtime) = runtime {
            runtime.block_on(async {
                if let Ok(listener) = TcpListener::from_std(listener) {
                    Simulator::new(Clock::system()).serve(listener).await;
                }
            });
        }
        let _ = ended.send(());
    };
    std::thread::Builder::new().name("simulator".to_owned()).spawn(serve).map_err(failed)?;
    Ok((address, is_ended))
}
