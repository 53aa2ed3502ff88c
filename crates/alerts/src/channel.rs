//! How somebody is told.

use base64::prelude::{BASE64_STANDARD, Engine};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tollgate_core::secret::{Keyring, Secret, random_bytes};
use tollgate_core::{Address, Error, Result, seal};

const RECIPIENTS_MAX: usize = 50;
/// Of an e-mail address, in RFC 5321.
const EMAIL_MAX: usize = 254;
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

/// The channel that another takes the place of: as it is shown, and what is sealed of it.
pub type Before<'b> = (&'b NotificationChannel, Option<&'b [u8]>);

impl NotificationChannel {
    /// The same for each of its recipients.
    pub(crate) fn one_by_one(self) -> Vec<Self> {
        match &self.recipients {
            Some(recipients) => {
                let to = |one: &String| Self { recipients: Some(vec![one.clone()]), ..self.clone() };
                recipients.iter().map(to).collect()
            }
            None => vec![self],
        }
    }

    /// As it is stored.
    pub fn to_stored(&self) -> Result<String> {
        serde_json::to_string(self)
            .map_err(|error| Error::internal("a channel cannot be written").source(error))
    }

    /// Reads what is stored.
    pub fn from_stored(text: &str) -> Result<Self> {
        serde_json::from_str(text)
            .map_err(|error| Error::internal("a stored channel cannot be read").source(error))
    }

    /// Checks it for an alert; `before` is the channel that it replaces. A webhook to the same address keeps its signing secret, and
    /// an address that is given as it is shown is the one that there is.
    pub fn check(self, keyring: &Keyring, alert: &str, before: Option<Before<'_>>) -> Result<Checked> {
        let foreign = |field: &str| {
            let message = format!("Invalid 'notification_channel.{field}': this type of channel has none.");
            Error::invalid(format!("notification_channel.{field}"), message)
        };
        if self.kind == Kind::Email {
            if self.url.is_some() {
                return Err(foreign("url"));
            }
            let shown = self.email()?.to_stored()?;
            return Ok(Checked { shown, secret: None, signing_secret: None });
        }
        if self.recipients.is_some() {
            return Err(foreign("recipients"));
        }
        if self.subject_prefix.is_some() {
            return Err(foreign("subject_prefix"));
        }
        let given = self.url.as_deref().unwrap_or_default();
        let known = before.filter(|(shown, _)| shown.kind == self.kind).and_then(|(shown, sealed)| {
            let target = Target::open(keyring, alert, sealed?).ok()?;
            (shown.url.as_deref() == Some(given) || target.url == given).then_some(target)
        });
        let url = known.as_ref().map_or(given, |known| known.url.as_str());
        if url.ends_with("...") {
            let param = "notification_channel.url";
            let message = format!("Invalid '{param}': give the whole address; this is what is shown of one.");
            return Err(Error::invalid(param, message));
        }
        let (address, _) = split(url)?;
        let kept = known.as_ref().and_then(|known| known.signing_secret.clone());
        let made = (self.kind == Kind::Webhook && kept.is_none())
            .then(|| format!("{SIGNING_PREFIX}{}", BASE64_STANDARD.encode(random_bytes::<32>())));
        let target = Target { url: url.to_owned(), signing_secret: kept.or_else(|| made.clone()) };
        // Where there is a secret in an address it is in the path or in the query.
        let shown = Some(format!("{}/...", address.origin()));
        let shown = Self { url: shown, ..self }.to_stored()?;
        Ok(Checked { shown, secret: Some(target.seal(keyring, alert)?), signing_secret: made })
    }

    fn email(self) -> Result<Self> {
        let param = "notification_channel.recipients";
        let given = self.recipients.unwrap_or_default();
        if given.is_empty() || given.len() > RECIPIENTS_MAX {
            let message = format!("Invalid '{param}': expected 1 to {RECIPIENTS_MAX} e-mail addresses.");
            return Err(Error::invalid(param, message));
        }
        let mut recipients = Vec::with_capacity(given.len());
        for (position, text) in given.iter().enumerate() {
            let email = text.trim().to_lowercase();
            if email.len() > EMAIL_MAX || email.parse::<lettre::Address>().is_err() {
                let message = format!("Invalid '{param}[{position}]': it is not an e-mail address.");
                return Err(Error::invalid(format!("{param}[{position}]"), message));
            }
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
    // As it was given, with the slash at its end that an address of ours would not have.
    let path =
        base.split_once("://").and_then(|(_, rest)| rest.find('/').map(|at| &rest[at..])).unwrap_or("/");
    let target = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    Ok((address, target))
}

impl Target {
    fn seal(&self, keyring: &Keyring, alert: &str) -> Result<Vec<u8>> {
        let text = serde_json::to_string(self)
            .map_err(|error| Error::internal("a channel cannot be written").source(error))?;
        seal::seal(keyring, &binding(alert), &Secret::new(text))
    }

    pub(crate) fn open(keyring: &Keyring, alert: &str, sealed: &[u8]) -> Result<Self> {
        let text = seal::open(keyring, &binding(alert), sealed)?;
        serde_json::from_str(text.reveal())
            .map_err(|error| Error::internal("a stored channel cannot be read").source(error))
    }
}

fn binding(alert: &str) -> String {
    format!("spend_alert.channel|{alert}")
}
