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
