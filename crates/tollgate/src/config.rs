//! The configuration of a server: flags before `TOLLGATE_*` before `tollgate.toml` before defaults, and all of it
//! checked before anything starts.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Deserialize;
use tollgate_admin::{Meaning, OidcOptions, TrustedProxies};
use tollgate_alerts::Mailer;
use tollgate_core::network::Networks;
use tollgate_core::secret::Secret;
use tollgate_core::{Address, Error, OrganizationId, Result};
use tollgate_ledger::Durability;
use tollgate_store::Home;

use crate::command::place;
use crate::otel::OtlpOptions;

pub(crate) const LISTEN_USUAL: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8080);
const DRAIN_SECONDS_USUAL: u64 = 30;
const FREE_MEBIBYTES_USUAL: u64 = 64;
const BALLAST_MEBIBYTES_USUAL: u64 = 64;
const UPSTREAM_TIMEOUT_SECONDS_USUAL: u64 = 600;
const IN_FLIGHT_MAX_USUAL: usize = 10_000;
pub(crate) const OWNER_EMAIL_USUAL: &str = "owner@localhost";

/// What can be set, as it is given. In the file the names are those of the flags.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ServeOptions {
    /// Directory of the installation: database, secrets, lock; with --database it may be left out
    #[arg(long, env = "TOLLGATE_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Address to listen on; port 0 takes a free one [default: 127.0.0.1:8080]
    #[arg(long, env = "TOLLGATE_LISTEN", value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// Where the first start writes the ids and the admin key it makes
    #[arg(long, env = "TOLLGATE_BOOTSTRAP_FILE", value_name = "FILE")]
    pub bootstrap_file: Option<PathBuf>,
    /// E-mail address of the owner the first start makes [default: owner@localhost]
    #[arg(long, env = "TOLLGATE_OWNER_EMAIL", value_name = "EMAIL")]
    pub owner_email: Option<String>,
    /// Master keys: pepper and encryption key [default: DIR/secrets/master.json; none with --database]
    #[arg(long, env = "TOLLGATE_SECRETS", value_name = "FILE")]
    pub secrets: Option<PathBuf>,
    /// Certificate chain in PEM; read again when it changes
    #[arg(long, env = "TOLLGATE_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Private key in PEM
    #[arg(long, env = "TOLLGATE_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// How clients reach this server, such as https://ai.example.com
    #[arg(long, env = "TOLLGATE_PUBLIC_URL", value_name = "URL")]
    pub public_url: Option<String>,
    /// Networks of proxies whose X-Forwarded-For is believed
    #[arg(long, env = "TOLLGATE_TRUSTED_PROXIES", value_name = "CIDR", value_delimiter = ',', num_args = 1..)]
    #[serde(default)]
    pub trusted_proxies: Vec<String>,
    /// Allow plain HTTP on an address other machines can reach
    #[arg(long, env = "TOLLGATE_INSECURE_HTTP", value_parser = clap::builder::BoolishValueParser::new())]
    #[serde(default)]
    pub insecure_http: bool,
    /// Seconds that requests in flight have to end after SIGTERM [default: 30]
    #[arg(long, env = "TOLLGATE_DRAIN_SECONDS", value_name = "SECONDS")]
    pub drain_seconds: Option<u64>,
    /// Threads that serve requests [default: one per processor]
    #[arg(long, env = "TOLLGATE_WORKERS", value_name = "COUNT")]
    pub workers: Option<usize>,
    /// Free disk space below which no new request is admitted [default: 64]
    #[arg(long, env = "TOLLGATE_FREE_MEBIBYTES_MIN", value_name = "MIB")]
    pub free_mebibytes_min: Option<u64>,
    /// Disk space put aside, for the end of requests in flight when the disk is full [default: 64]
    #[arg(long, env = "TOLLGATE_BALLAST_MEBIBYTES", value_name = "MIB")]
    pub ballast_mebibytes: Option<u64>,
    /// When a hold counts as taken: on disk (strict), or written while the disk catches up (overlap); auto is strict where
    /// a hard limit applies [default: auto]
    #[arg(long, env = "TOLLGATE_DURABILITY", value_name = "MODE")]
    pub durability: Option<String>,
    /// Seconds an upstream has to begin its answer [default: 600]
    #[arg(long, env = "TOLLGATE_UPSTREAM_TIMEOUT_SECONDS", value_name = "SECONDS")]
    pub upstream_timeout_seconds: Option<u64>,
    /// PostgreSQL in place of the embedded database, such as postgres://user:password@host:5432/database
    #[arg(long, env = "TOLLGATE_DATABASE", value_name = "URL", hide_env_values = true)]
    pub database: Option<String>,
    /// Not supported yet: counters shared by several nodes
    #[arg(long, env = "TOLLGATE_VALKEY", value_name = "URL", hide = true)]
    pub valkey: Option<String>,
    /// Address to serve /metrics on, to whoever can reach it; without it they are for operators' keys only
    #[arg(long, env = "TOLLGATE_METRICS_LISTEN", value_name = "ADDR")]
    pub metrics_listen: Option<SocketAddr>,
    /// File for a line of JSON about every request, without secrets or content; - is stderr
    #[arg(long, env = "TOLLGATE_ACCESS_LOG", value_name = "FILE")]
    pub access_log: Option<PathBuf>,
    /// Collector of OpenTelemetry that gets traces, as OTLP over HTTP, such as http://127.0.0.1:4318. Headers for it are read
    /// from TOLLGATE_OTLP_HEADERS (name=value, with commas between them)
    #[arg(long, env = "TOLLGATE_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<String>,
    /// Headers of what goes there; may be secret, and so no flag
    #[arg(skip)]
    pub otlp_headers: Option<String>,
    /// Mail server for alerts: smtps://user:password@host:465, or smtp://host:587 for one that goes over to TLS
    #[arg(long, env = "TOLLGATE_SMTP_URL", value_name = "URL", hide_env_values = true)]
    pub smtp_url: Option<String>,
    /// From whom mails are, such as `Tollgate <ai@example.com>`
    #[arg(long, env = "TOLLGATE_MAIL_FROM", value_name = "ADDRESS")]
    pub mail_from: Option<String>,
    /// Private networks in which webhooks may be; without it they must be on public addresses
    #[arg(long, env = "TOLLGATE_WEBHOOK_NETWORKS", value_name = "CIDR", value_delimiter = ',', num_args = 1..)]
    #[serde(default)]
    pub webhook_networks: Vec<String>,
    /// Provider of identities that people sign in to the console by (OpenID Connect), such as https://id.example.com. Its redirect
    /// is to PUBLIC_URL/oidc/callback. The client's secret is read from TOLLGATE_OIDC_CLIENT_SECRET
    #[arg(long, env = "TOLLGATE_OIDC_ISSUER", value_name = "URL")]
    pub oidc_issuer: Option<String>,
    /// What the provider calls this installation
    #[arg(long, env = "TOLLGATE_OIDC_CLIENT_ID", value_name = "ID")]
    pub oidc_client_id: Option<String>,
    /// May be secret, and so no flag
    #[arg(skip)]
    pub oidc_client_secret: Option<String>,
    /// What is asked of the provider besides openid [default: email,profile]
    #[arg(long, env = "TOLLGATE_OIDC_SCOPES", value_name = "SCOPE", value_delimiter = ',', num_args = 1..)]
    #[serde(default)]
    pub oidc_scopes: Vec<String>,
    /// The claim that lists somebody's groups [default: groups]
    #[arg(long, env = "TOLLGATE_OIDC_GROUPS_CLAIM", value_name = "CLAIM")]
    pub oidc_groups_claim: Option<String>,
    /// What a group of the provider's is here, as NAME=owner, NAME=reader, or NAME= and the id of a role or a group. It is given and
    /// taken at every signing in
    #[arg(long, env = "TOLLGATE_OIDC_GROUPS", value_name = "NAME=MEANING", value_delimiter = ',', num_args = 1..)]
    #[serde(default)]
    pub oidc_groups: Vec<String>,
    /// What everybody is whom the provider knows: owner, reader, or the id of a role or a group. Without it only members can sign
    /// in, and those whose groups make them members
    #[arg(long, env = "TOLLGATE_OIDC_DEFAULT", value_name = "MEANING")]
    pub oidc_default: Option<String>,
    /// The organization that people join by it, where there are several
    #[arg(long, env = "TOLLGATE_OIDC_ORGANIZATION", value_name = "ID")]
    pub oidc_organization: Option<String>,
    /// Believe addresses of which the provider does not say whether it has verified them
    #[arg(long, env = "TOLLGATE_OIDC_TRUST_ADDRESSES")]
    #[serde(default)]
    pub oidc_trust_addresses: bool,
    /// Connections open at a time; more wait to be accepted [default: 20000, or as many as the
    /// limit of open files has room for, two for each]
    #[arg(long, env = "TOLLGATE_CONNECTIONS_MAX", value_name = "COUNT")]
    pub connections_max: Option<usize>,
    /// Model requests under way at a time; more are refused with 503 [default: 10000]
    #[arg(long, env = "TOLLGATE_IN_FLIGHT_MAX", value_name = "COUNT")]
    pub in_flight_max: Option<usize>,
    /// Take the place of the process that serves the data directory: get its listening socket, have it end what it is at,
    /// and go on from there. Without such a process it is a start like any other
    #[arg(long, env = "TOLLGATE_TAKE_OVER", value_parser = clap::builder::BoolishValueParser::new())]
    #[serde(skip)]
    pub take_over: bool,
    /// File with these settings [default: DIR/tollgate.toml if it exists]
    #[arg(long, env = "TOLLGATE_CONFIG", value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
}

/// Settings that were checked.
#[derive(Clone, Debug)]
pub struct Config {
    pub home: Home,
    pub listen: SocketAddr,
    pub bootstrap_file: Option<PathBuf>,
    pub owner_email: String,
    /// `None` for the place inside of the data directory.
    pub secrets: Option<PathBuf>,
    pub tls: Option<TlsFiles>,
    pub public_url: Option<Address>,
    pub trusted_proxies: TrustedProxies,
    pub drain: Duration,
    pub workers: usize,
    pub free_bytes_min: u64,
    pub ballast_bytes: u64,
    pub durability: Durability,
    pub upstream_timeout: Duration,
    pub metrics_listen: Option<SocketAddr>,
    pub access_log: Option<PathBuf>,
    pub otlp: Option<OtlpOptions>,
    pub mailer: Option<Mailer>,
    pub webhook_networks: Networks,
    pub oidc: Option<OidcOptions>,
    /// `None` for as many as there is room for.
    pub connections_max: Option<usize>,
    pub in_flight_max: usize,
    pub take_over: bool,
}

#[derive(Clone, Debug)]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Config {
    /// Whether people reach it without TLS from other machines, because the operator accepts that.
    pub fn is_plain(&self) -> bool {
        let is_this_machine =
            |host: &str| host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        match &self.public_url {
            Some(url) => !url.is_tls && !is_this_machine(&url.host),
            None => self.tls.is_none() && !self.listen.ip().is_loopback(),
        }
    }
}

impl ServeOptions {
    /// Completes what was given by the file and the defaults, and checks it.
    pub fn config(self) -> Result<Config> {
        let options = self.with_file()?;
        options.refuse_what_is_missing()?;
        let home = place::home(options.data.as_deref(), options.database.as_deref())?.ok_or_else(|| {
            Error::bad_request(
                "Name the data directory: `tollgate serve --data DIR`. It is made if it does not exist.",
            )
        })?;
        home.secrets(options.secrets.as_deref())?;
        if options.take_over && home.data().is_none() {
            return Err(Error::bad_request("--take-over needs --data DIR: there the two processes meet."));
        }
        let oidc = options.oidc()?;
        let tls = match (options.tls_cert, options.tls_key) {
            (Some(certificate), Some(key)) => Some(TlsFiles { certificate, key }),
            (None, None) => None,
            _ => return Err(Error::bad_request("--tls-cert and --tls-key go together.")),
        };
        let public_url = options.public_url.as_deref().map(read_public_url).transpose()?;
        let listen = options.listen.unwrap_or(LISTEN_USUAL);
        let is_protected = tls.is_some() || public_url.as_ref().is_some_and(|url| url.is_tls);
        if !listen.ip().is_loopback() && !is_protected && !options.insecure_http {
            return Err(Error::bad_request(format!(
                "{listen} can be reached by other machines, and without TLS keys would pass in plain. Give --tls-cert and \
                 --tls-key, or --public-url https://... if a proxy in front does TLS, or --insecure-http to accept it."
            )));
        }
        let mebibytes = |given: Option<u64>, usual: u64| given.unwrap_or(usual).saturating_mul(1024 * 1024);
        Ok(Config {
            home,
            listen,
            bootstrap_file: options.bootstrap_file,
            owner_email: options.owner_email.unwrap_or_else(|| OWNER_EMAIL_USUAL.to_owned()),
            secrets: options.secrets,
            tls,
            public_url,
            trusted_proxies: TrustedProxies::parse(&options.trusted_proxies)?,
            drain: Duration::from_secs(options.drain_seconds.unwrap_or(DRAIN_SECONDS_USUAL)),
            workers: options.workers.unwrap_or_else(processors).max(1),
            free_bytes_min: mebibytes(options.free_mebibytes_min, FREE_MEBIBYTES_USUAL),
            ballast_bytes: mebibytes(options.ballast_mebibytes, BALLAST_MEBIBYTES_USUAL),
            durability: options.durability.as_deref().map_or(Ok(Durability::Auto), read_durability)?,
            upstream_timeout: Duration::from_secs(
                options.upstream_timeout_seconds.unwrap_or(UPSTREAM_TIMEOUT_SECONDS_USUAL).max(1),
            ),
            metrics_listen: options.metrics_listen,
            access_log: options.access_log,
            otlp: options
                .otlp_endpoint
                .map(|endpoint| OtlpOptions::read(&endpoint, options.otlp_headers.as_deref()))
                .transpose()?,
            mailer: match (options.smtp_url.as_deref(), options.mail_from.as_deref()) {
                (Some(url), Some(from)) => Some(Mailer::new(url, from)?),
                (None, None) => None,
                _ => return Err(Error::bad_request("--smtp-url and --mail-from go together.")),
            },
            webhook_networks: Networks::parse(&options.webhook_networks)?,
            oidc,
            take_over: options.take_over,
            connections_max: options.connections_max.map(|count| count.max(1)),
            in_flight_max: options.in_flight_max.unwrap_or(IN_FLIGHT_MAX_USUAL).max(1),
        })
    }

    /// What neither a flag nor the environment says is taken from the file.
    pub(crate) fn with_file(self) -> Result<Self> {
        let usual = self.data.as_deref().map(|data| data.join("tollgate.toml")).filter(|path| path.exists());
        let Some(path) = self.config.clone().or(usual) else {
            return Ok(Self { otlp_headers: self.otlp_headers.or_else(otlp_headers), ..self });
        };
        let file = read_file(&path)?;
        let is_proxies_given = !self.trusted_proxies.is_empty();
        Ok(Self {
            data: self.data.or(file.data),
            listen: self.listen.or(file.listen),
            bootstrap_file: self.bootstrap_file.or(file.bootstrap_file),
            owner_email: self.owner_email.or(file.owner_email),
            secrets: self.secrets.or(file.secrets),
            tls_cert: self.tls_cert.or(file.tls_cert),
            tls_key: self.tls_key.or(file.tls_key),
            public_url: self.public_url.or(file.public_url),
            trusted_proxies: if is_proxies_given { self.trusted_proxies } else { file.trusted_proxies },
            insecure_http: self.insecure_http || file.insecure_http,
            drain_seconds: self.drain_seconds.or(file.drain_seconds),
            workers: self.workers.or(file.workers),
            free_mebibytes_min: self.free_mebibytes_min.or(file.free_mebibytes_min),
            ballast_mebibytes: self.ballast_mebibytes.or(file.ballast_mebibytes),
            durability: self.durability.or(file.durability),
            upstream_timeout_seconds: self.upstream_timeout_seconds.or(file.upstream_timeout_seconds),
            database: self.database.or(file.database),
            valkey: self.valkey.or(file.valkey),
            metrics_listen: self.metrics_listen.or(file.metrics_listen),
            access_log: self.access_log.or(file.access_log),
            otlp_endpoint: self.otlp_endpoint.or(file.otlp_endpoint),
            smtp_url: self.smtp_url.or(file.smtp_url),
            mail_from: self.mail_from.or(file.mail_from),
            webhook_networks: if self.webhook_networks.is_empty() {
                file.webhook_networks
            } else {
                self.webhook_networks
            },
            otlp_headers: self.otlp_headers.or(file.otlp_headers).or_else(otlp_headers),
            oidc_issuer: self.oidc_issuer.or(file.oidc_issuer),
            oidc_client_id: self.oidc_client_id.or(file.oidc_client_id),
            oidc_client_secret: self.oidc_client_secret.or(file.oidc_client_secret),
            oidc_scopes: if self.oidc_scopes.is_empty() { file.oidc_scopes } else { self.oidc_scopes },
            oidc_groups_claim: self.oidc_groups_claim.or(file.oidc_groups_claim),
            oidc_groups: if self.oidc_groups.is_empty() { file.oidc_groups } else { self.oidc_groups },
            oidc_default: self.oidc_default.or(file.oidc_default),
            oidc_organization: self.oidc_organization.or(file.oidc_organization),
            oidc_trust_addresses: self.oidc_trust_addresses || file.oidc_trust_addresses,
            connections_max: self.connections_max.or(file.connections_max),
            in_flight_max: self.in_flight_max.or(file.in_flight_max),
            take_over: self.take_over,
            config: None,
        })
    }

    /// Whom people sign in by.
    fn oidc(&self) -> Result<Option<OidcOptions>> {
        let (issuer, client_id) = match (&self.oidc_issuer, &self.oidc_client_id) {
            (Some(issuer), Some(client_id)) => (issuer.clone(), client_id.clone()),
            (None, None) => return Ok(None),
            _ => return Err(Error::bad_request("--oidc-issuer and --oidc-client-id go together.")),
        };
        let meaning = |text: &str| {
            Meaning::parse(text).ok_or_else(|| {
                let message =
                    format!("`{text}` is none of owner, reader, the id of a role and the id of a group.");
                Error::bad_request(message)
            })
        };
        let mut groups = Vec::with_capacity(self.oidc_groups.len());
        for pair in &self.oidc_groups {
            let wrong = || Error::bad_request(format!("--oidc-groups `{pair}` is not NAME=MEANING."));
            let (name, means) = pair.rsplit_once('=').ok_or_else(wrong)?;
            groups.push((name.to_owned(), meaning(means)?));
        }
        let organization = match &self.oidc_organization {
            Some(id) => Some(OrganizationId::parse(id).ok_or_else(|| {
                Error::bad_request(format!("--oidc-organization `{id}` is no id of an organization."))
            })?),
            None => None,
        };
        let scopes = match self.oidc_scopes.as_slice() {
            [] => vec!["email".to_owned(), "profile".to_owned()],
            scopes => scopes.to_vec(),
        };
        let secret = self.oidc_client_secret.clone().or_else(oidc_client_secret);
        Ok(Some(OidcOptions {
            issuer,
            client_id,
            client_secret: secret.map(Secret::new),
            scopes,
            groups_claim: self.oidc_groups_claim.clone().unwrap_or_else(|| "groups".to_owned()),
            groups,
            usual: self.oidc_default.as_deref().map(meaning).transpose()?,
            organization,
            trusts_addresses: self.oidc_trust_addresses,
        }))
    }

    /// A setting that would be accepted and not enforced is refused.
    fn refuse_what_is_missing(&self) -> Result<()> {
        if self.valkey.is_some() {
            return Err(Error::bad_request(
                "--valkey: Counters shared by several nodes are not supported by this version yet. One node needs none.",
            ));
        }
        Ok(())
    }
}

fn read_file(path: &Path) -> Result<ServeOptions> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Error::bad_request(format!("Cannot read {}: {error}.", path.display())))?;
    toml::from_str(&text).map_err(|error| Error::bad_request(format!("{}: {error}", path.display())))
}

/// They may be a secret, and clap shows what it reads of the environment.
#[expect(clippy::disallowed_methods, reason = "a secret has no flag that clap could read it for")]
fn otlp_headers() -> Option<String> {
    std::env::var("TOLLGATE_OTLP_HEADERS").ok()
}

#[expect(clippy::disallowed_methods, reason = "a secret has no flag that clap could read it for")]
fn oidc_client_secret() -> Option<String> {
    std::env::var("TOLLGATE_OIDC_CLIENT_SECRET").ok()
}

/// Reads where clients reach the server; the path of the API may be there and is left out.
pub(crate) fn read_public_url(url: &str) -> Result<Address> {
    let mut address = Address::parse(url)
        .map_err(|why| Error::bad_request(format!("--public-url `{url}` cannot be used: {why}.")))?;
    // It is the server's address; the API's begins below it.
    if let Some(path) = address.path.strip_suffix("/v1") {
        address.path = path.to_owned();
    }
    Ok(address)
}

fn read_durability(word: &str) -> Result<Durability> {
    match word {
        "auto" => Ok(Durability::Auto),
        "strict" => Ok(Durability::Strict),
        "overlap" => Ok(Durability::Overlap),
        _ => Err(Error::bad_request(format!(
            "--durability `{word}` is none of `auto`, `strict` and `overlap`."
        ))),
    }
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> ServeOptions {
        ServeOptions { data: Some("/nonexistent".into()), ..ServeOptions::default() }
    }

    #[test]
    fn an_address_others_can_reach_wants_tls_or_a_word() {
        let listen = |address: &str| ServeOptions { listen: Some(address.parse().unwrap()), ..options() };
        assert!(listen("127.0.0.1:0").config().is_ok() && listen("[::1]:0").config().is_ok());
        assert!(listen("0.0.0.0:80").config().unwrap_err().message.contains("--insecure-http"));
        assert!(ServeOptions { insecure_http: true, ..listen("0.0.0.0:80") }.config().is_ok());
        let public = |url: &str| ServeOptions { public_url: Some(url.into()), ..listen("0.0.0.0:80") };
        assert!(public("https://ai.example.com").config().is_ok());
        assert!(public("http://ai.example.com").config().is_err());
    }

    #[test]
    fn what_is_missing_refuses_to_start_by_name() {
        let options = ServeOptions { valkey: Some("redis://x".into()), ..options() };
        let message = options.config().unwrap_err().message;
        assert!(message.starts_with("--valkey") && message.contains("not supported"), "{message}");
    }

    #[test]
    fn a_database_on_a_server_wants_a_secrets_file_by_name() {
        let url = Some("postgres://localhost/tollgate".to_owned());
        let bare = ServeOptions { database: url, ..ServeOptions::default() };
        assert!(bare.clone().config().unwrap_err().message.contains("--secrets"));
        let named = ServeOptions { secrets: Some("/nonexistent".into()), ..bare };
        assert!(named.clone().config().is_ok());
        assert!(ServeOptions { take_over: true, ..named }.config().unwrap_err().message.contains("--data"));
    }

    #[test]
    fn a_flag_goes_before_the_file_and_a_typo_in_the_file_is_an_error() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("tollgate.toml");
        std::fs::write(
            &file,
            "listen = \"127.0.0.1:1\"\ndrain-seconds = 5\ntrusted-proxies = [\"10.0.0.0/8\"]\n",
        )
        .unwrap();
        let flags = ServeOptions {
            data: Some(home.path().into()),
            listen: Some("127.0.0.1:2".parse().unwrap()),
            ..ServeOptions::default()
        };
        let config = flags.clone().config().unwrap();
        assert_eq!((config.listen.port(), config.drain), (2, Duration::from_secs(5)));
        std::fs::write(&file, "lisen = \"127.0.0.1:1\"\n").unwrap();
        assert!(flags.config().unwrap_err().message.contains("lisen"));
    }
}
