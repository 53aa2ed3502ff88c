//! Signing in by a provider of identities that speaks OpenID Connect: the code flow, with PKCE, state and nonce.
//!
//! The provider is the operator's choice and believed for the whole installation. Somebody is found by issuer and subject; the
//! first time by an address that the provider has verified. What groups say is done anew at every signing in.

mod membership;
mod provider;

use serde::Deserialize;
use serde_json::Value;
use tollgate_core::secret::{Pepper, Secret, hex, random_bytes};
use tollgate_core::{Address, Error, GroupId, Kind, OrganizationId, Result, RoleId, UserId};

use super::{OpenedSession, Proof};
use crate::actor::Origin;
use crate::gate::Admin;

pub(crate) use provider::Provider;

/// What the operator says of the provider.
#[derive(Clone, Debug)]
pub struct OidcOptions {
    pub issuer: String,
    pub client_id: String,
    pub client_secret: Option<Secret>,
    /// Besides `openid`.
    pub scopes: Vec<String>,
    /// The claim that lists groups.
    pub groups_claim: String,
    /// What the groups of the claim mean here.
    pub groups: Vec<(String, Meaning)>,
    /// What everybody may be who is signed in by it; `None` for those alone who are members, or whose groups make them so.
    pub usual: Option<Meaning>,
    /// The organization that people become members of; `None` where there is only one.
    pub organization: Option<OrganizationId>,
    /// Whether addresses count of which the provider does not say that they are verified.
    pub trusts_addresses: bool,
}

/// What a group of the provider's is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    Owner,
    Reader,
    Role(RoleId),
    Group(GroupId),
}

impl Meaning {
    /// Reads `owner`, `reader`, the id of a role or of a group.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "owner" => Some(Self::Owner),
            "reader" => Some(Self::Reader),
            id => GroupId::parse(id).map(Self::Group).or_else(|| RoleId::parse(id).map(Self::Role)),
        }
    }
}

/// What a browser keeps between going to the provider and coming back.
#[derive(Clone, Debug)]
pub struct Pending {
    state: String,
    nonce: String,
    verifier: String,
}

impl Pending {
    fn new() -> Self {
        let random = || hex(&random_bytes::<32>());
        Self { state: random(), nonce: random(), verifier: random() }
    }

    /// As it stands in a cookie.
    pub fn to_text(&self) -> Secret {
        Secret::new(format!("{}.{}.{}", self.state, self.nonce, self.verifier))
    }

    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.').map(str::to_owned);
        let pending = Self { state: parts.next()?, nonce: parts.next()?, verifier: parts.next()? };
        let is_whole =
            [&pending.state, &pending.nonce, &pending.verifier].iter().all(|part| part.len() == 64);
        (parts.next().is_none() && is_whole).then_some(pending)
    }
}

/// Who somebody is, as the provider says.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Identity {
    pub(crate) sub: String,
    pub(crate) email: Option<String>,
    pub(crate) email_verified: Option<Value>,
    pub(crate) name: Option<String>,
    #[serde(flatten)]
    pub(crate) other: serde_json::Map<String, Value>,
}

impl Identity {
    /// Some providers write it as a text.
    pub(crate) fn is_verified(&self) -> Option<bool> {
        match &self.email_verified {
            Some(Value::Bool(is_verified)) => Some(*is_verified),
            Some(Value::String(text)) => Some(text == "true"),
            _ => None,
        }
    }

    /// The groups that a claim lists, as one text or as several.
    pub(crate) fn groups(&self, claim: &str) -> Vec<String> {
        match self.other.get(claim) {
            Some(Value::String(one)) => vec![one.clone()],
            Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            _ => Vec::new(),
        }
    }
}

fn refused(message: impl Into<String>) -> Error {
    Error::new(Kind::Unauthenticated, message).code("sign_in_failed")
}

impl Admin {
    /// The host of the provider that people can sign in by, if there is one.
    pub fn identity_provider(&self) -> Option<&str> {
        self.provider.as_ref().map(|provider| provider.host())
    }

    fn provider(&self) -> Result<&Provider> {
        self.provider.as_deref().ok_or_else(|| Error::not_found("provider of identities"))
    }

    fn callback_url(&self) -> String {
        format!("{}/oidc/callback", self.public_url())
    }

    /// Where a browser goes to sign in, and what it keeps meanwhile.
    pub async fn begin_oidc(&self, origin: &Origin) -> Result<(String, Pending)> {
        let provider = self.provider()?;
        self.throttle.pass_asking(origin.ip, self.now())?;
        let pending = Pending::new();
        let url =
            provider.authorization_url(&self.dialer, &self.callback_url(), &pending, self.now()).await?;
        Ok((url, pending))
    }

    /// Somebody came back with a code: who they are, and their session. `before` is the token of a session of the same browser,
    /// and whose it is.
    pub async fn end_oidc(
        &self,
        pending: &Pending,
        state: &str,
        code: &Secret,
        origin: Origin,
        (before, proved): (Option<Secret>, Option<UserId>),
    ) -> Result<OpenedSession> {
        self.desk.replica.check_fresh()?;
        let provider = self.provider()?;
        let now = self.now();
        self.throttle.pass_asking(origin.ip, now)?;
        if !same(state, &pending.state) {
            return Err(refused("This is not the answer to what this browser asked. Please sign in again."));
        }
        let identity = provider.identity(&self.dialer, &self.callback_url(), pending, code, now).await?;
        let (user, email) = self.admit_identity(provider.options(), identity, proved, &origin).await?;
        self.open_session(user, email, Proof::Oidc, origin, before).await
    }
}

/// In a time that says nothing of where they differ.
fn same(a: &str, b: &str) -> bool {
    let pepper = Pepper::new(tollgate_core::secret::MasterKey::generate(0));
    pepper.verifies(a, &pepper.verifier(b))
}

/// Reads the address of an issuer. Without TLS only on this machine.
pub(crate) fn read_issuer(url: &str) -> Result<Address, String> {
    let address = Address::parse(url).map_err(str::to_owned)?;
    let is_here = address.host == "localhost"
        || address.host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if address.is_tls || is_here { Ok(address) } else { Err("it must begin with https://".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_browser_keeps_is_read_back_whole_or_not_at_all() {
        let pending = Pending::new();
        let text = pending.to_text();
        let again = Pending::parse(text.reveal()).unwrap();
        assert!(
            same(&again.state, &pending.state)
                && again.verifier == pending.verifier
                && !same("x", &again.state)
        );
        for broken in ["", "a.b.c", &text.reveal()[1..], &format!("{}.x", text.reveal())] {
            assert!(Pending::parse(broken).is_none(), "{broken}");
        }
    }

    #[test]
    fn a_group_means_a_group_or_a_role() {
        assert_eq!(Meaning::parse("owner"), Some(Meaning::Owner));
        let group = GroupId::from_bits(7);
        assert_eq!(Meaning::parse(&group.to_string()), Some(Meaning::Group(group)));
        assert_eq!(Meaning::parse("admins"), None);
    }

    #[test]
    fn an_issuer_has_tls_or_is_on_this_machine() {
        assert!(
            read_issuer("https://id.example.com/realms/a").is_ok()
                && read_issuer("http://127.0.0.1:1").is_ok()
        );
        assert!(read_issuer("http://id.example.com").is_err() && read_issuer("id.example.com").is_err());
    }
}
