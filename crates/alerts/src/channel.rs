//! How somebody is told.

use std::fmt;

use base64::prelude::{BASE64_STANDARD, Engine};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tollgate_core::secret::{Keyring, Secret, random_bytes};
use tollgate_core::{Address, Error, Result, SpendAlertId, seal};

const RECIPIENTS_MAX: usize = 50;
const PREFIX_MAX: usize = 100;
const URL_MAX: usize = 2_000;
/// What the names of secrets begin with that sign webhooks.
pub(crate) const SIGNING_PREFIX: &str = "whsec_";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Email,
    /// Extension: a POST of JSON, signed as OpenAI signs its webhooks.
    Webhook,
    /// Extension: a POST of `{"text"}`, which Slack and what is compatible with it show.
    Slack,
}

/// OpenAI's `notification_channel`, as it is given and shown. What is shown of an address has no secrets.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NotificationChannel {
    #[serde(rename = "type")]
    pub kind: Kind,
    /// E-mail addresses, of an e-mail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipients: Option<Vec<String>>,
    #[serde(default)]
    pub subject_prefix: Option<String>,
    /// Extension: where a webhook or a message for Slack goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// What is needed to reach a webhook. Stored sealed.
#[derive(Serialize, Deserialize)]
pub(crate) struct Target {
    pub(crate) url: String,
    pub(crate) signing_secret: Option<String>,
}

/// A channel that was checked, with its parts for the database.
pub struct Checked {
    /// As it is stored and shown.
    pub shown: String,
    pub secret: Option<Vec<u8>>,
    /// What signs a webhook, if it was made just now: shown this once.
    pub signing_secret: Option<String>,
}

impl fmt::Debug for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Checked({})", self.shown)
    }
}

impl NotificationChannel {
    /// Reads what is stored.
    pub fn from_stored(text: &str) -> Result<Self> {
        serde_json::from_str(text)
            .map_err(|error| Error::internal("a stored channel cannot be read").source(error))
    }

    /// Checks it for an alert; `before` is the sealed part of the channel that it replaces. A webhook to the same address keeps its
    /// signing secret.
    pub fn check(
        self,
        keyring: &Keyring,
        alert: SpendAlertId,
        before: Option<&[u8]>,
        is_email: impl Fn(&str) -> Option<String>,
    ) -> Result<Checked> {
        let foreign = |field: &str| {
            let message = format!("Invalid 'notification_channel.{field}': this type of channel has none.");
            Error::invalid(format!("notification_channel.{field}"), message)
        };
        if self.kind == Kind::Email {
            if self.url.is_some() {
                return Err(foreign("url"));
            }
            let shown = stored(&self.email(is_email)?)?;
            return Ok(Checked { shown, secret: None, signing_secret: None });
        }
        if self.recipients.is_some() {
            return Err(foreign("recipients"));
        }
        if self.subject_prefix.is_some() {
            return Err(foreign("subject_prefix"));
        }
        let url = self.url.as_deref().unwrap_or_default();
        let (address, _) = split(url)?;
        let known = before.and_then(|sealed| Target::open(keyring, alert, sealed).ok());
        let kept = known.filter(|known| known.url == url).and_then(|known| known.signing_secret);
        let made = (self.kind == Kind::Webhook && kept.is_none())
            .then(|| format!("{SIGNING_PREFIX}{}", BASE64_STANDARD.encode(random_bytes::<32>())));
        let target = Target { url: url.to_owned(), signing_secret: kept.or_else(|| made.clone()) };
        // The path of a Slack address is its secret, and so may the query of a webhook be.
        let shown = match self.kind {
            Kind::Slack => format!("{}/...", address.origin()),
            _ if url.contains('?') => format!("{address}?..."),
            _ => url.to_owned(),
        };
        let shown = stored(&Self { url: Some(shown), ..self })?;
        Ok(Checked { shown, secret: Some(target.seal(keyring, alert)?), signing_secret: made })
    }

    fn email(self, is_email: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let param = "notification_channel.recipients";
        let given = self.recipients.unwrap_or_default();
        if given.is_empty() || given.len() > RECIPIENTS_MAX {
            let message = format!("Invalid '{param}': expected 1 to {RECIPIENTS_MAX} e-mail addresses.");
            return Err(Error::invalid(param, message));
        }
        let mut recipients = Vec::with_capacity(given.len());
        for (position, text) in given.iter().enumerate() {
            let read = is_email(text).filter(|email| email.parse::<lettre::Address>().is_ok());
            let email = read.ok_or_else(|| {
                let message = format!("Invalid '{param}[{position}]': it is not an e-mail address.");
                Error::invalid(format!("{param}[{position}]"), message)
            })?;
            if !recipients.contains(&email) {
                recipients.push(email);
            }
        }
        if let Some(prefix) = &self.subject_prefix
            && (prefix.chars().count() > PREFIX_MAX || prefix.chars().any(char::is_control))
        {
            let param = "notification_channel.subject_prefix";
            let message = format!(
                "Invalid '{param}': expected at most {PREFIX_MAX} characters, none of them a control character."
            );
            return Err(Error::invalid(param, message));
        }
        Ok(Self { recipients: Some(recipients), ..self })
    }
}

fn stored(channel: &NotificationChannel) -> Result<String> {
    serde_json::to_string(channel)
        .map_err(|error| Error::internal("a channel cannot be written").source(error))
}

/// The address of a URL, and what a request to it asks for.
pub(crate) fn split(url: &str) -> Result<(Address, String)> {
    let param = "notification_channel.url";
    let wrong = |why: &str| Error::invalid(param, format!("Invalid '{param}': {why}."));
    if url.len() > URL_MAX {
        return Err(wrong("it is too long"));
    }
    let (base, query) = url.split_once('?').map_or((url, None), |(base, query)| (base, Some(query)));
    let address = Address::parse(base).map_err(wrong)?;
    let is_plain =
        |query: &str| query.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"<>#\\^`{|}".contains(&byte));
    if query.is_some_and(|query| !is_plain(query)) {
        return Err(wrong("its query has characters that cannot be in a URL"));
    }
    let path = if address.path.is_empty() { "/" } else { &address.path };
    let target = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    Ok((address, target))
}

impl Target {
    fn seal(&self, keyring: &Keyring, alert: SpendAlertId) -> Result<Vec<u8>> {
        let text = serde_json::to_string(self)
            .map_err(|error| Error::internal("a channel cannot be written").source(error))?;
        seal::seal(keyring, &binding(alert), &Secret::new(text))
    }

    pub(crate) fn open(keyring: &Keyring, alert: SpendAlertId, sealed: &[u8]) -> Result<Self> {
        let text = seal::open(keyring, &binding(alert), sealed)?;
        serde_json::from_str(text.reveal())
            .map_err(|error| Error::internal("a stored channel cannot be read").source(error))
    }
}

fn binding(alert: SpendAlertId) -> String {
    format!("spend_alert.channel|{alert}")
}
