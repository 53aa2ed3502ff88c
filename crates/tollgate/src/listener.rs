//! The listening socket: bound once, shared by the workers, who accept from one queue.

use std::net::{IpAddr, SocketAddr, TcpListener};

use tokio::net::TcpSocket;
use tollgate_core::{Error, Result};

const BACKLOG: u32 = 1024;

/// Allows this process as many open files as the system lets it have: each connection is one, and the usual limit is
/// some thousand.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    if let Err(error) = raised {
        tracing::warn!(%error, files = limit.current, "the limit of open files could not be raised");
    }
}

/// How many connections may be open: as many as were asked for, or else as the limit of open files has room for. Each that
/// is served has a file of its own, and one to its upstream.
pub(crate) fn connections_max(wanted: Option<usize>) -> usize {
    const USUAL: usize = 20_000;
    const OTHERS: usize = 200;
    use rustix::process::{Resource, getrlimit};
    let files = getrlimit(Resource::Nofile).current.and_then(|files| usize::try_from(files).ok());
    let room = files.map_or(usize::MAX, |files| files.saturating_sub(OTHERS) / 2).max(16);
    match wanted {
        Some(wanted) => {
            if wanted > room {
                tracing::warn!(wanted, room, "the limit of open files has no room for --connections-max");
            }
            wanted
        }
        None => USUAL.min(room),
    }
}

/// The socket that systemd holds for the service and hands to each of its processes, if there is one.
pub(crate) fn inherited() -> Result<Option<TcpListener>> {
    let taken = listenfd::ListenFd::from_env().take_tcp_listener(0);
    taken.map_err(|error| {
        Error::bad_request(format!("The socket that was inherited cannot be used: {error}."))
    })
}

/// Makes a socket that came from elsewhere ours, if it is the one that is wanted.
pub(crate) fn adopt(listener: TcpListener, wanted: SocketAddr) -> Result<TcpListener> {
    raise_file_limit();
    check(&listener, wanted)?;
    let unusable = |error: std::io::Error| Error::internal("a listening socket cannot be used").source(error);
    listener.set_nonblocking(true).map_err(unusable)?;
    Ok(listener)
}

/// Whether a socket is on the address that is wanted.
pub(crate) fn check(listener: &TcpListener, wanted: SocketAddr) -> Result<()> {
    let unusable = |error: std::io::Error| Error::internal("a listening socket cannot be used").source(error);
    let address = listener.local_addr().map_err(unusable)?;
    if wanted.port() != 0 && address != wanted {
        return Err(Error::bad_request(format!(
            "The listening socket that is handed over is {address}, and --listen says {wanted}."
        )));
    }
    Ok(())
}

/// Binds an address. That another process has it is an error, and not a socket shared by accident.
pub(crate) fn bind(address: SocketAddr) -> Result<TcpListener> {
    raise_file_limit();
    let bound = (|| {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)?.into_std()
    })();
    bound.map_err(|error| Error::bad_request(format!("Cannot listen on {address}: {error}.")))
}

/// The URL of a socket for somebody on this machine.
pub(crate) fn url(address: SocketAddr, is_tls: bool) -> String {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    let scheme = if is_tls { "https" } else { "http" };
    format!("{scheme}://{}", SocketAddr::new(ip, address.port()))
}
