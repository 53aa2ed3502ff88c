//! E-mail over SMTP.

use std::fmt;
use std::time::Duration;

use lettre::message::Mailbox;
use lettre::message::header::ContentType;
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use tollgate_core::{Error, Result};

use crate::outbox::Failure;

/// For the whole conversation: the transport's own limit is that of connecting.
const TIME_MAX: Duration = Duration::from_secs(30);
/// What is said of a recipient whom there is not. Another refusal may be that of our password, which somebody mends.
const NOBODY: [&str; 3] = ["550", "551", "553"];

/// A mail to one person.
#[derive(Clone, Debug)]
pub(crate) struct Mail {
    /// The same for every attempt, so that a mail that comes twice is known as one.
    pub(crate) id: String,
    pub(crate) recipient: String,
    pub(crate) subject: String,
    pub(crate) text: String,
}

/// Hands mails to a server.
#[derive(Clone)]
pub struct Mailer {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
}

impl fmt::Debug for Mailer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mailer({})", self.from)
    }
}

impl Mailer {
    /// `url`: `smtps://user:password@host:465`, or `smtp://host:587` for one that goes over to TLS, which it must unless it is this
    /// machine or `?tls=none` says so. `from`: an address, with a name if wished.
    pub fn new(url: &str, from: &str) -> Result<Self> {
        let from = from.parse().map_err(|_| {
            let example = "Tollgate <ai@example.com>";
            Error::bad_request(format!("--mail-from `{from}` is not an address such as `{example}`."))
        })?;
        let url = secured(url).ok_or_else(|| {
            Error::bad_request(
                "--smtp-url is not like smtps://user:password@host:465 or smtp://host:587; the one thing after a `?` is tls=none.",
            )
        })?;
        let transport = AsyncSmtpTransport::<Tokio1Executor>::from_url(&url)
            .map_err(|error| Error::bad_request("--smtp-url cannot be used.").source(error))?;
        Ok(Self { transport: transport.timeout(Some(TIME_MAX)).build(), from })
    }

    /// Hands a mail over.
    pub(crate) async fn send(&self, mail: &Mail) -> Result<(), Failure> {
        let unfit =
            |error: &dyn fmt::Display| Failure { is_final: true, ..Failure::new("it is no mail", error) };
        let recipient = mail.recipient.parse().map_err(|error| unfit(&error))?;
        let message = Message::builder()
            .from(self.from.clone())
            .to(recipient)
            .message_id(Some(format!("<{}@{}>", mail.id, self.from.email.domain())))
            .subject(&mail.subject)
            .header(ContentType::TEXT_PLAIN)
            .body(mail.text.clone())
            .map_err(|error| unfit(&error))?;
        match tokio::time::timeout(TIME_MAX, self.transport.send(message)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error))
                if error.status().is_some_and(|code| NOBODY.contains(&code.to_string().as_str())) =>
            {
                Err(Failure { is_final: true, ..Failure::new("the mail server refused it for good", &error) })
            }
            Ok(Err(error)) if error.status().is_some() => {
                Err(Failure::new("the mail server refused it for now", &error))
            }
            Ok(Err(error)) => Err(Failure::new("the mail server cannot be used", &error)),
            Err(_) => Err(Failure::new("the mail server did not answer in time", "no answer in time")),
        }
    }
}

/// The URL with what the library wants to be told of TLS; `None` if it is none.
fn secured(url: &str) -> Option<String> {
    let (base, query) = url.split_once('?').map_or((url, None), |(base, query)| (base, Some(query)));
    let (scheme, rest) = base.split_once("://")?;
    let authority = rest.split('/').next()?.rsplit('@').next()?;
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next()?,
        None => authority.split(':').next()?,
    };
    let is_here = host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
    match (scheme, query) {
        _ if host.is_empty() => None,
        ("smtps", None) | ("smtp", Some("tls=none")) => Some(base.to_owned()),
        ("smtp", None) if is_here => Some(base.to_owned()),
        ("smtp", None) => Some(format!("{base}?tls=required")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_elsewhere_is_spoken_to_over_tls() {
        for (url, meant) in [
            ("smtps://user:word@mail.example.com:465", "smtps://user:word@mail.example.com:465"),
            ("smtp://mail.example.com:587", "smtp://mail.example.com:587?tls=required"),
            ("smtp://localhost.example.com", "smtp://localhost.example.com?tls=required"),
            ("smtp://127.0.0.1.example.net:25", "smtp://127.0.0.1.example.net:25?tls=required"),
            ("smtp://localhost@relay:25", "smtp://localhost@relay:25?tls=required"),
            ("smtp://127.0.0.1:2525", "smtp://127.0.0.1:2525"),
            ("smtp://[::1]:2525", "smtp://[::1]:2525"),
            ("smtp://relay:25?tls=none", "smtp://relay:25"),
        ] {
            assert_eq!(secured(url).as_deref(), Some(meant));
            assert!(Mailer::new(url, "Tollgate <ai@example.com>").is_ok(), "{url}");
        }
        for (url, from) in [
            ("mail.example.com", "ai@example.com"),
            ("http://mail", "ai@example.com"),
            ("smtp://mail?tls=opportunistic", "ai@example.com"),
            ("smtp://mail", "nobody"),
        ] {
            assert!(Mailer::new(url, from).is_err(), "{url} {from}");
        }
    }
}
