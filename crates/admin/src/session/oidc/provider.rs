//! Talking to the provider: what it says of itself, its keys, and the exchange of a code for who somebody is.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD, Engine};
use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use serde_json::Value;
use tollgate_core::secret::{Secret, sha256};
use tollgate_core::{Address, Error, Result, Timestamp};
use tollgate_wire::{Asked, Dialer, fetch, percent_encoded};

use super::{Identity, OidcOptions, Pending, read_issuer, refused};

/// So long what the provider says of itself and its keys is believed.
const KEPT_SECONDS: i64 = 3_600;
/// A key that is not known is looked for anew, but not more often than this.
const LOOKED_EVERY_SECONDS: i64 = 30;
/// Clocks differ by this much.
const LEEWAY_SECONDS: i64 = 60;
/// What a provider signs with is a key of its own: no shared secrets, and never nothing.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// A provider of identities.
pub(crate) struct Provider {
    options: OidcOptions,
    issuer: Address,
    known: Mutex<Option<Known>>,
    /// Held by the one who asks, for all who wait.
    asking: tokio::sync::Mutex<()>,
    /// How often it was asked and did not answer.
    failures: AtomicU64,
}

/// What it says of itself.
#[derive(Clone)]
struct Known {
    discovery: Discovery,
    keys: JwkSet,
    at: Timestamp,
}

#[derive(Clone, Deserialize)]
struct Discovery {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    userinfo_endpoint: Option<String>,
    #[serde(default)]
    token_endpoint_auth_methods_supported: Vec<String>,
}

#[derive(Deserialize)]
struct Tokens {
    id_token: Option<String>,
    access_token: Option<Secret>,
}

/// What of an ID token is looked at besides who it is of.
#[derive(Deserialize)]
struct Claims {
    nonce: Option<String>,
    exp: i64,
    nbf: Option<i64>,
    iat: Option<i64>,
    /// Whom it was made for, where it is for several.
    azp: Option<String>,
    #[serde(flatten)]
    identity: Identity,
}

impl Provider {
    pub(crate) fn new(options: OidcOptions) -> Result<Self> {
        let issuer = read_issuer(&options.issuer).map_err(|why| {
            Error::bad_request(format!("--oidc-issuer `{}` cannot be used: {why}.", options.issuer))
        })?;
        Ok(Self {
            options,
            issuer,
            known: Mutex::new(None),
            asking: tokio::sync::Mutex::default(),
            failures: AtomicU64::new(0),
        })
    }

    pub(crate) fn host(&self) -> &str {
        &self.issuer.host
    }

    pub(crate) fn options(&self) -> &OidcOptions {
        &self.options
    }

    /// What it says of itself, asked for when it is not known or old; or `anew`, where a key is missing.
    async fn known(&self, dialer: &Dialer, now: Timestamp, anew: bool) -> Result<Known> {
        let age_max = if anew { LOOKED_EVERY_SECONDS } else { KEPT_SECONDS };
        let kept = || self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let kept = || kept().filter(|known| now.0 - known.at.0 < age_max);
        if let Some(known) = kept() {
            return Ok(known);
        }
        // However many come at once, one asks; what came of it is the others' as well.
        let before = self.failures.load(Ordering::Relaxed);
        let _turn = self.asking.lock().await;
        if let Some(known) = kept() {
            return Ok(known);
        }
        if self.failures.load(Ordering::Relaxed) != before {
            return Err(unusable("it could not be asked just now"));
        }
        let asked = self.ask(dialer, now).await;
        if asked.is_err() {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
        asked
    }

    async fn ask(&self, dialer: &Dialer, now: Timestamp) -> Result<Known> {
        let path = format!("{}/.well-known/openid-configuration", self.issuer.path);
        let discovery: Discovery = read(&get(dialer, &self.issuer, &path, Secret::new("")).await?)?;
        // Another issuer's word would be taken for this one's.
        if discovery.issuer.trim_end_matches('/') != self.options.issuer.trim_end_matches('/') {
            return Err(unusable(format!("it calls itself {}", discovery.issuer)));
        }
        let (address, path) = split(&discovery.jwks_uri)?;
        let keys: JwkSet = read(&get(dialer, &address, &path, Secret::new("")).await?)?;
        let known = Known { discovery, keys, at: now };
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(known.clone());
        Ok(known)
    }

    pub(crate) async fn authorization_url(
        &self,
        dialer: &Dialer,
        callback: &str,
        pending: &Pending,
        now: Timestamp,
    ) -> Result<String> {
        let known = self.known(dialer, now, false).await?;
        let challenge = BASE64_URL_SAFE_NO_PAD.encode(sha256(pending.verifier.as_bytes()));
        let scope = std::iter::once("openid").chain(self.options.scopes.iter().map(String::as_str));
        let scope = scope.collect::<Vec<_>>().join(" ");
        let query = encoded(&[
            ("response_type", "code"),
            ("client_id", &self.options.client_id),
            ("redirect_uri", callback),
            ("scope", &scope),
            ("state", &pending.state),
            ("nonce", &pending.nonce),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ]);
        let endpoint = &known.discovery.authorization_endpoint;
        split(endpoint)?;
        let separator = if endpoint.contains('?') { '&' } else { '?' };
        Ok(format!("{endpoint}{separator}{query}"))
    }

    /// Exchanges a code for who somebody is.
    pub(crate) async fn identity(
        &self,
        dialer: &Dialer,
        callback: &str,
        pending: &Pending,
        code: &Secret,
        now: Timestamp,
    ) -> Result<Identity> {
        let known = self.known(dialer, now, false).await?;
        let tokens = self.tokens(dialer, &known.discovery, callback, pending, code).await?;
        let token = tokens.id_token.ok_or_else(|| unusable("it gave no ID token"))?;
        let mut claims = self.claims(&known, &token)?;
        if claims.is_none() {
            // It has changed its keys.
            claims = self.claims(&self.known(dialer, now, true).await?, &token)?;
        }
        let claims = claims.ok_or_else(|| refused("The provider signed with a key that is not its own."))?;
        let is_expired = claims.exp + LEEWAY_SECONDS <= now.0;
        let is_early = [claims.nbf, claims.iat].into_iter().flatten().any(|at| at - LEEWAY_SECONDS > now.0);
        if is_expired || is_early {
            return Err(refused("What the provider signed is of another time. Are the clocks right?"));
        }
        if claims.azp.as_ref().is_some_and(|party| *party != self.options.client_id) {
            return Err(refused("What the provider signed is for somebody else."));
        }
        if !claims.nonce.as_deref().is_some_and(|nonce| super::same(nonce, &pending.nonce)) {
            return Err(refused("What the provider signed is not the answer to what this browser asked."));
        }
        let mut identity = claims.identity;
        let needs_more = identity.email.is_none()
            || (!self.options.groups.is_empty() && identity.groups(&self.options.groups_claim).is_empty());
        if let (true, Some(access), Some(endpoint)) =
            (needs_more, tokens.access_token, &known.discovery.userinfo_endpoint)
        {
            let (address, path) = split(endpoint)?;
            let fields = Secret::new(format!("authorization: Bearer {}\r\n", plain(&access)?));
            let more: Identity = read(&get(dialer, &address, &path, fields).await?)?;
            if more.sub != identity.sub {
                return Err(refused("The provider told of somebody else."));
            }
            if identity.email.is_none() {
                (identity.email, identity.email_verified) = (more.email, more.email_verified);
            }
            identity.name = identity.name.or(more.name);
            for (name, value) in more.other {
                identity.other.entry(name).or_insert(value);
            }
        }
        Ok(identity)
    }

    async fn tokens(
        &self,
        dialer: &Dialer,
        discovery: &Discovery,
        callback: &str,
        pending: &Pending,
        code: &Secret,
    ) -> Result<Tokens> {
        let methods = &discovery.token_endpoint_auth_methods_supported;
        let by_post = methods.iter().any(|method| method == "client_secret_post")
            && !methods.iter().any(|method| method == "client_secret_basic");
        let mut form = vec![
            ("grant_type", "authorization_code"),
            ("code", code.reveal()),
            ("redirect_uri", callback),
            ("client_id", &self.options.client_id),
            ("code_verifier", &pending.verifier),
        ];
        let mut fields = "content-type: application/x-www-form-urlencoded\r\n".to_owned();
        if let Some(secret) = &self.options.client_secret {
            if by_post {
                form.push(("client_secret", secret.reveal()));
            } else {
                // Each part encoded as a form's is, says RFC 6749, section 2.3.1.
                let pair = format!(
                    "{}:{}",
                    percent_encoded(&self.options.client_id),
                    percent_encoded(secret.reveal())
                );
                let _ = write!(fields, "authorization: Basic {}\r\n", BASE64_STANDARD.encode(pair));
            }
        }
        let (address, path) = split(&discovery.token_endpoint)?;
        let asked = Asked {
            method: "POST",
            path: &path,
            fields: Secret::new(fields),
            body: Secret::new(encoded(&form)),
        };
        let answered = fetch(dialer, &address, &asked).await.map_err(unusable)?;
        match answered {
            (200, body) => read(&body),
            (400 | 401, body) => {
                let error: Value = serde_json::from_slice(&body).unwrap_or_default();
                // That the code is used up or wrong is the browser's; the rest is the operator's to mend.
                match error["error"].as_str() {
                    Some("invalid_grant") => {
                        Err(refused("The code was used or is too old. Please sign in again."))
                    }
                    Some(word) => Err(unusable(format!("it refused the exchange: {word}"))),
                    None => Err(unusable("it refused the exchange of the code")),
                }
            }
            (status, _) => Err(unusable(format!("it answered with status {status}"))),
        }
    }

    /// What a token says, once its signature, issuer and audience are proved; `None` if its key is not known.
    fn claims(&self, known: &Known, token: &str) -> Result<Option<Claims>> {
        let header =
            jsonwebtoken::decode_header(token).map_err(|_| unusable("its ID token cannot be read"))?;
        if !ALGORITHMS.contains(&header.alg) {
            return Err(refused("The provider signed with an algorithm that proves nothing."));
        }
        let signs = |key: &&Jwk| {
            !matches!(key.common.public_key_use, Some(PublicKeyUse::Encryption))
                && (header.kid.is_none() || key.common.key_id == header.kid)
        };
        let mut validation = Validation::new(header.alg);
        validation.set_audience(&[&self.options.client_id]);
        validation.set_issuer(&[&known.discovery.issuer]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        // By this node's clock, and not the library's.
        validation.validate_exp = false;
        let mut is_known = false;
        for key in known.keys.keys.iter().filter(signs) {
            let Ok(key) = DecodingKey::from_jwk(key) else { continue };
            is_known = true;
            if let Ok(proved) = jsonwebtoken::decode::<Claims>(token, &key, &validation) {
                return Ok(Some(proved.claims));
            }
        }
        if is_known {
            return Err(refused("What the provider signed cannot be proved, or is for somebody else."));
        }
        Ok(None)
    }
}

/// The provider cannot be used as it is: for the operator to mend.
fn unusable(why: impl Into<String>) -> Error {
    let why = why.into();
    Error::new(
        tollgate_core::Kind::UpstreamFailed,
        format!("The provider of identities cannot be used: {why}."),
    )
    .code("identity_provider_failed")
}

async fn get(dialer: &Dialer, address: &Address, path: &str, fields: Secret) -> Result<Vec<u8>> {
    let asked = Asked { method: "GET", path, fields, body: Secret::new("") };
    match fetch(dialer, address, &asked).await.map_err(unusable)? {
        (200, body) => Ok(body),
        (status, _) => Err(unusable(format!("{} answered with status {status}", address.host))),
    }
}

fn read<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T> {
    serde_json::from_slice(body).map_err(|error| unusable(format!("its answer cannot be read: {error}")))
}

/// An endpoint's server, and its path with its query.
fn split(url: &str) -> Result<(Address, String)> {
    let (before, query) = url.split_once('?').map_or((url, None), |(before, query)| (before, Some(query)));
    let address = read_issuer(before).map_err(|why| unusable(format!("{before}: {why}")))?;
    let path = if address.path.is_empty() { "/" } else { &address.path };
    let path = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(unusable("one of its addresses cannot be read"));
    }
    Ok((address, path))
}

/// A token as it can stand in a head.
fn plain(token: &Secret) -> Result<&str> {
    let is_plain = token.reveal().bytes().all(|byte| byte.is_ascii_graphic());
    if is_plain { Ok(token.reveal()) } else { Err(unusable("its access token cannot be read")) }
}

fn encoded(pairs: &[(&str, &str)]) -> String {
    let pairs = pairs.iter().map(|(name, value)| format!("{name}={}", percent_encoded(value)));
    pairs.collect::<Vec<_>>().join("&")
}
