//! E-mail over SMTP.

use std::fmt;
use std::time::Duration;

use lettre::message::Mailbox;
use lettre::message::header::ContentType;
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use tollgate_core::{Error, Result};

const TIME_MAX: Duration = Duration::from_secs(30);

/// A mail to several people.
#[derive(Clone, Debug)]
pub struct Mail {
    /// The same for every attempt, so that a mail that comes twice is known as one.
    pub id: String,
    pub recipients: Vec<String>,
    pub subject: String,
    pub text: String,
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
            Error::bad_request(format!(
                "--mail-from `{from}` is not an address such as `Tollgate <ai@example.com>`."
            ))
        })?;
        let wrong = || {
            Error::bad_request("--smtp-url is not like smtps://user:password@host:465 or smtp://host:587.")
        };
        let host = url.split_once("://").ok_or_else(wrong)?.1.rsplit('@').next().unwrap_or_default();
        let is_here = ["127.0.0.1", "localhost", "[::1]"].iter().any(|here| host.starts_with(here));
        let url = match url.split_once('?') {
            Some((base, "tls=none")) => base.to_owned(),
            None if url.starts_with("smtp://") && !is_here => format!("{url}?tls=required"),
            _ => url.to_owned(),
        };
        let transport = AsyncSmtpTransport::<Tokio1Executor>::from_url(&url).map_err(|_| wrong())?;
        Ok(Self { transport: transport.timeout(Some(TIME_MAX)).build(), from })
    }

    /// Hands a mail over; the error is for people.
    pub(crate) async fn send(&self, mail: &Mail) -> Result<(), String> {
        let mut message = Message::builder()
            .from(self.from.clone())
            .message_id(Some(format!("<{}@{}>", mail.id, self.from.email.domain())))
            .subject(&mail.subject)
            .header(ContentType::TEXT_PLAIN);
        for recipient in &mail.recipients {
            message = message.to(recipient.parse().map_err(|_| format!("`{recipient}` is no address"))?);
        }
        let message = message.body(mail.text.clone()).map_err(|error| error.to_string())?;
        self.transport.send(message).await.map(|_| ()).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_elsewhere_is_spoken_to_over_tls() {
        for url in [
            "smtps://user:word@mail.example.com:465",
            "smtp://mail.example.com:587",
            "smtp://127.0.0.1:2525",
            "smtp://relay:25?tls=none",
        ] {
            assert!(Mailer::new(url, "Tollgate <ai@example.com>").is_ok(), "{url}");
        }
        for (url, from) in [
            ("mail.example.com", "ai@example.com"),
            ("http://mail", "ai@example.com"),
            ("smtp://mail", "nobody"),
        ] {
            assert!(Mailer::new(url, from).is_err(), "{url} {from}");
        }
    }
}
