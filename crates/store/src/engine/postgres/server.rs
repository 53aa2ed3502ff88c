//! Where a PostgreSQL database is, and how it is reached.

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres::{Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;
use tollgate_core::{Error, Result};

use super::from_driver;

/// Makes what a connection trusts: the authorities in the PEM text given, or those of the operating system.
pub type TrustFor<'t> = &'t dyn Fn(Option<&str>) -> Result<Arc<ClientConfig>>;

/// A database on a server. It is shown without its password.
#[derive(Clone)]
pub struct Server {
    config: Config,
    tls: Option<MakeRustlsConnect>,
}

impl Server {
    /// Reads `postgres://user:password@host:port/database`. `sslmode` is `require` unless the server is on this machine, and
    /// `disable` there: with TLS the certificate is always verified, by the authorities of the file `sslrootcert` or those
    /// of the system.
    pub fn parse(url: &str, trust: TrustFor<'_>) -> Result<Self> {
        let unusable = |why: &dyn fmt::Display| {
            Error::bad_request(format!(
                "--database cannot be used: {why}. It looks like postgres://user:password@host:5432/database."
            ))
        };
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(unusable(&"it is no postgres:// URL"));
        }
        let (rest, mode, authority) = without_tls_options(url);
        let mut config: Config = rest.parse().map_err(|error: tokio_postgres::Error| {
            unusable(
                &std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string),
            )
        })?;
        if config.get_dbname().is_none() {
            return Err(unusable(&"it names no database"));
        }
        let is_tls = match mode.as_deref() {
            Some("disable") => false,
            Some("require" | "verify-ca" | "verify-full") => true,
            None => {
                // Where an address is given, the name is not looked up.
                let is_elsewhere = config.get_hostaddrs().iter().any(|address| !address.is_loopback());
                is_elsewhere || !config.get_hosts().iter().all(is_on_this_machine)
            }
            Some(other) => {
                return Err(unusable(&format_args!(
                    "sslmode `{other}` is none of `disable`, `require` and `verify-full`"
                )));
            }
        };
        config
            .application_name("tollgate")
            .ssl_mode(if is_tls { SslMode::Require } else { SslMode::Disable })
            .target_session_attrs(TargetSessionAttrs::ReadWrite)
            .connect_timeout(Duration::from_secs(5))
            .keepalives_idle(Duration::from_secs(10))
            .tcp_user_timeout(Duration::from_secs(20));
        let tls = if is_tls {
            let pem = authority.as_deref().map(std::fs::read_to_string).transpose();
            let pem = pem.map_err(|error| unusable(&format_args!("sslrootcert cannot be read: {error}")))?;
            let mut trusted = ClientConfig::clone(&*trust(pem.as_deref())?);
            trusted.alpn_protocols = vec![b"postgresql".to_vec()];
            Some(MakeRustlsConnect::new(trusted))
        } else {
            None
        };
        Ok(Self { config, tls })
    }

    pub(super) async fn connect(&self) -> Result<Client> {
        let refused = |error: &tokio_postgres::Error| {
            let (error, _) = from_driver(error);
            let why = error.source.as_ref().map_or_else(|| error.message.clone(), ToString::to_string);
            Error::unavailable("database_unavailable", "The database cannot be reached. Please try again.")
                .source(format!("{self}: {why}"))
        };
        let connected = if let Some(tls) = &self.tls {
            self.config.connect(tls.clone()).await.map(|(client, connection)| drive(client, connection))
        } else {
            self.config.connect(NoTls).await.map(|(client, connection)| drive(client, connection))
        };
        connected.map_err(|error| refused(&error))
    }
}

/// The connection does its work beside whoever uses the client, and says at their next statement how it ended.
fn drive(
    client: Client,
    connection: impl Future<Output = std::result::Result<(), tokio_postgres::Error>> + Send + 'static,
) -> Client {
    tokio::spawn(connection);
    client
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "postgres://")?;
        if let Some(user) = self.config.get_user() {
            write!(f, "{user}@")?;
        }
        for (at, host) in self.config.get_hosts().iter().enumerate() {
            if at > 0 {
                write!(f, ",")?;
            }
            match host {
                Host::Tcp(name) => write!(f, "{name}")?,
                Host::Unix(path) => write!(f, "{}", path.display())?,
            }
            if let Some(port) = self.config.get_ports().get(at).or(self.config.get_ports().first()) {
                write!(f, ":{port}")?;
            }
        }
        write!(f, "/{}", self.config.get_dbname().unwrap_or_default())
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The URL without what of it is not the driver's: `sslmode` and `sslrootcert`.
fn without_tls_options(url: &str) -> (String, Option<String>, Option<String>) {
    let Some((base, query)) = url.split_once('?') else { return (url.to_owned(), None, None) };
    let (mut mode, mut authority, mut rest) = (None, None, Vec::new());
    for option in query.split('&') {
        match option.split_once('=') {
            Some(("sslmode", value)) => mode = Some(value.to_owned()),
            Some(("sslrootcert", value)) => {
                authority =
                    Some(percent_encoding::percent_decode_str(value).decode_utf8_lossy().into_owned());
            }
            _ => rest.push(option),
        }
    }
    let query = if rest.is_empty() { String::new() } else { format!("?{}", rest.join("&")) };
    (format!("{base}{query}"), mode, authority)
}

fn is_on_this_machine(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => name == "localhost" || name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Server> {
        Server::parse(url, &|_| Err(Error::bad_request("TLS was asked for")))
    }

    #[test]
    fn other_machines_are_reached_by_tls_unless_that_is_declined() {
        for url in [
            "postgres://localhost/t",
            "postgresql://u:p@127.0.0.1:5433/t?application_name=x",
            "postgres://[::1]/t",
            "postgres://%2Frun%2Fpostgresql/t",
            "postgres://db.example.com/t?sslmode=disable",
        ] {
            assert!(parse(url).unwrap().tls.is_none(), "{url}");
        }
        for url in [
            "postgres://db.example.com/t",
            "postgres://localhost/t?sslmode=verify-full",
            "postgres://localhost/t?hostaddr=192.0.2.2",
        ] {
            assert_eq!(parse(url).unwrap_err().message, "TLS was asked for", "{url}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_told_and_no_password_is_shown() {
        for url in ["mysql://x/y", "postgres://host", "postgres://h/d?sslmode=maybe", "postgres://h:port/d"] {
            let message = parse(url).unwrap_err().message;
            assert!(message.starts_with("--database cannot be used"), "{url}: {message}");
        }
        let server = parse("postgres://u:geheim@127.0.0.1:5433/t").unwrap();
        assert_eq!(
            format!("{server} {server:?}"),
            "postgres://u@127.0.0.1:5433/t postgres://u@127.0.0.1:5433/t"
        );
    }

    #[test]
    fn the_authoritys_file_is_taken_out_of_the_url() {
        let (rest, mode, authority) =
            without_tls_options("postgres://h/d?sslmode=require&sslrootcert=%2Fetc%2Fca.pem&options=x");
        assert_eq!((rest.as_str(), mode.as_deref()), ("postgres://h/d?options=x", Some("require")));
        assert_eq!(authority.as_deref(), Some("/etc/ca.pem"));
    }
}
