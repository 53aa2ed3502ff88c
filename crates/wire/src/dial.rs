//! Making connections, and what is never dialled.
//!
//! The filter looks at the resolved address when it is dialled, so no spelling of a host and no change of its name's
//! answer gets around it. Private networks are allowed, for Ollama and vLLM live there; link-local addresses and the
//! metadata services of clouds are not.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;

use tollgate_core::Address;
use tollgate_core::network::Networks;
use tollgate_core::upstream::{HttpVersion, Settings};

use crate::client::ClientConnection;
use crate::h2_client::H2Client;
use crate::stream::Stream;
use crate::tls::{client_config_trusting, speaking_h2};

/// Why a connection could not be made. None of these sent a byte of a request.
#[derive(Debug)]
pub enum DialError {
    /// The address is one that is never dialled.
    Forbidden(IpAddr),
    /// It is in a private network that is not listed.
    Private(IpAddr),
    Unreachable(io::Error),
    TimedOut,
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forbidden(ip) => write!(f, "the address {ip} is never dialled"),
            Self::Private(ip) => write!(f, "the address {ip} is in a private network that is not listed"),
            Self::Unreachable(error) => error.fmt(f),
            Self::TimedOut => f.write_str("the connection could not be made in time"),
        }
    }
}

impl std::error::Error for DialError {}

/// Makes connections. Proxies of the environment are not used, redirects are not followed.
#[derive(Clone)]
pub struct Dialer {
    tls: Arc<ClientConfig>,
    connect_max: Duration,
    http_version: HttpVersion,
    /// The private networks that may be dialled; `None` for all.
    private: Option<Arc<Networks>>,
}

impl Dialer {
    pub fn new(tls: Arc<ClientConfig>, connect_max: Duration) -> Self {
        Self { tls, connect_max, http_version: HttpVersion::Http11, private: None }
    }

    /// The same for addresses that not an operator has chosen: of private networks only these are dialled.
    #[must_use]
    pub fn to_public_and(&self, private: Networks) -> Self {
        Self { private: Some(Arc::new(private)), ..self.clone() }
    }

    /// The same, as an upstream's settings want it; the error says what is wrong with them.
    pub fn set_up(&self, settings: &Settings) -> Result<Self, String> {
        let tls = match &settings.ca_certificates {
            Some(pem) => client_config_trusting(pem)?,
            None => Arc::clone(&self.tls),
        };
        let http_version = settings.http_version.unwrap_or(HttpVersion::Http11);
        let tls = if http_version == HttpVersion::Http2 { speaking_h2(&tls) } else { tls };
        let connect_max = Settings::seconds(settings.connect_timeout, self.connect_max);
        Ok(Self { tls, connect_max, http_version, private: self.private.clone() })
    }

    /// Connects to the first address of the host that answers.
    pub async fn dial(&self, address: &Address) -> Result<ClientConnection, DialError> {
        timeout(self.connect_max, self.connect(address)).await.unwrap_or(Err(DialError::TimedOut))
    }

    async fn connect(&self, address: &Address) -> Result<ClientConnection, DialError> {
        let found = tokio::net::lookup_host((address.host.as_str(), address.port)).await;
        let mut failure = DialError::Unreachable(io::ErrorKind::NotFound.into());
        for resolved in found.map_err(DialError::Unreachable)? {
            match self.connect_to(resolved, address).await {
                Ok(connection) => return Ok(connection),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    async fn connect_to(
        &self,
        resolved: SocketAddr,
        address: &Address,
    ) -> Result<ClientConnection, DialError> {
        let is_closed = |private: &Networks| is_private(resolved.ip()) && !private.contains(resolved.ip());
        if is_forbidden(resolved.ip()) {
            return Err(DialError::Forbidden(resolved.ip()));
        }
        if self.private.as_deref().is_some_and(is_closed) {
            return Err(DialError::Private(resolved.ip()));
        }
        let tcp = TcpStream::connect(resolved).await.map_err(DialError::Unreachable)?;
        tcp.set_nodelay(true).map_err(DialError::Unreachable)?;
        if !address.is_tls {
            return self.begin(Stream::Plain(tcp)).await;
        }
        let name = ServerName::try_from(address.host.clone())
            .map_err(|error| DialError::Unreachable(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(&self.tls));
        let tls = connector.connect(name, tcp).await.map_err(DialError::Unreachable)?;
        self.begin(Stream::Tls(Box::new(tls.into()))).await
    }

    async fn begin(&self, stream: Stream) -> Result<ClientConnection, DialError> {
        if self.http_version == HttpVersion::Http11 {
            return Ok(ClientConnection::new(stream));
        }
        if stream.is_tls() && !stream.speaks_h2() {
            let message = "the server does not speak HTTP/2";
            return Err(DialError::Unreachable(io::Error::new(io::ErrorKind::Unsupported, message)));
        }
        let begun = H2Client::begin(stream).await.map_err(DialError::Unreachable)?;
        Ok(ClientConnection::over_h2(begun))
    }
}

/// Addresses that only ever lead to the inside of a cloud or nowhere.
fn is_forbidden(ip: IpAddr) -> bool {
    /// Metadata services outside of the link-local range: Alibaba's, Azure's and Oracle's; over IPv6 Amazon's and
    /// Google's.
    const METADATA_V4: [Ipv4Addr; 3] =
        [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(192, 0, 0, 192)];
    const METADATA_V6: [Ipv6Addr; 2] = [
        Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
        Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    ];
    match ip {
        IpAddr::V4(ip) => {
            ip.is_link_local()
                || ip.is_unspecified()
                || ip.is_multicast()
                || ip.is_broadcast()
                || METADATA_V4.contains(&ip)
                || ip.octets()[0] == 0
        }
        IpAddr::V6(ip) => match embedded_v4(ip) {
            Some(inner) => is_forbidden(IpAddr::V4(inner)),
            None => {
                ip.is_unicast_link_local()
                    || ip.is_unspecified()
                    || ip.is_multicast()
                    || METADATA_V6.contains(&ip)
            }
        },
    }
}

/// Addresses that belong to no one machine on the internet.
fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            ip.is_loopback()
                || ip.is_private()
                || ip.is_documentation()
                || (a, b & 0xc0) == (100, 64)
                || (a, b, c) == (192, 0, 0)
                || (a, b & 0xfe) == (198, 18)
                || a >= 240
        }
        IpAddr::V6(ip) => match embedded_v4(ip) {
            Some(inner) => is_private(IpAddr::V4(inner)),
            None => {
                ip.is_loopback()
                    || ip.is_unique_local()
                    || ip.segments()[0] == 0x2001 && ip.segments()[1] == 0xdb8
            }
        },
    }
}

/// The IPv4 address that an IPv6 one stands for: mapped, NAT64 or 6to4.
fn embedded_v4(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let from = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match ip.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => Some(from(high, low)),
        _ => ip.to_ipv4_mapped(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_services_are_never_dialled_in_any_spelling() {
        for ip in [
            "169.254.169.254",
            "0.0.0.0",
            "0.1.2.3",
            "255.255.255.255",
            "224.0.0.1",
            "100.100.100.200",
            "fe80::1",
            "::",
            "ff02::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "168.63.129.16",
            "192.0.0.192",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
        ] {
            assert!(is_forbidden(ip.parse().unwrap()), "{ip}");
        }
        for ip in [
            "127.0.0.1",
            "10.0.0.1",
            "192.168.1.1",
            "172.16.0.1",
            "8.8.8.8",
            "::1",
            "fd00::1",
            "2606:4700::1",
        ] {
            assert!(!is_forbidden(ip.parse().unwrap()), "{ip}");
        }
    }

    #[tokio::test]
    async fn private_networks_are_dialled_where_they_are_listed() {
        for ip in [
            "127.0.0.1",
            "10.1.2.3",
            "172.31.0.1",
            "192.168.0.1",
            "100.64.0.1",
            "198.19.0.1",
            "::1",
            "fd00::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(is_private(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1"] {
            assert!(!is_private(ip.parse().unwrap()), "{ip}");
        }
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://localhost:{}/", listener.local_addr().unwrap().port());
        let dialer = Dialer::new(crate::client_config(), Duration::from_secs(5));
        let address = Address::parse(&url).unwrap();
        let to_public = dialer.to_public_and(Networks::default());
        assert!(matches!(to_public.dial(&address).await.err(), Some(DialError::Private(_))));
        let listed = dialer.to_public_and(Networks::parse(&["127.0.0.0/8"]).unwrap());
        assert!(listed.dial(&address).await.is_ok() && dialer.dial(&address).await.is_ok());
    }

    #[tokio::test]
    async fn odd_spellings_of_a_forbidden_address_are_refused_when_dialled() {
        let dialer = Dialer::new(crate::client_config(), Duration::from_secs(5));
        for host in
            ["169.254.169.254", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "[::ffff:a9fe:a9fe]"]
        {
            let address = Address::parse(&format!("http://{host}:80/latest/meta-data")).unwrap();
            let refused = dialer.dial(&address).await.err().unwrap();
            assert!(!matches!(refused, DialError::TimedOut), "{host}: {refused}");
        }
    }
}
