//! Who is calling: the key proves it, or the answer is 401.

use std::sync::Arc;

use tollgate_core::error::Kind;
use tollgate_core::key::{KeyKind, PresentedKey};
use tollgate_core::labels::LabelSet;
use tollgate_core::{Error, Permission, ProjectId, Result, Timestamp};
use tollgate_replica::{Key, Refused, Snapshot};
use tollgate_wire::{Exchange, Headers};

use crate::{Gateway, permit};

/// Who a key proves, and for which project.
pub(crate) struct Caller {
    pub(crate) key: Arc<Key>,
    pub(crate) project: ProjectId,
    /// Of what it does: those of its project and key, and what the request adds.
    pub(crate) labels: Option<Arc<LabelSet>>,
}

/// Proves the caller, who wants to do what needs `wanted`, on the newest snapshot. Costs no query, whatever is presented. Which
/// key was proved is told in `proven`, also if it opens nothing.
pub(crate) fn authenticate(
    gateway: &Gateway,
    exchange: &Exchange,
    wanted: Permission,
    proven: &mut Option<Arc<Key>>,
) -> Result<Caller> {
    let headers = &exchange.head.headers;
    let presented = presented(headers)?;
    let now = gateway.clock.now();
    let snapshot = gateway.replica.snapshot();
    let key =
        snapshot.prove(gateway.replica.keyring(), presented).map_err(|refused| refused.error(presented))?;
    *proven = Some(Arc::clone(key));
    snapshot.check(key, now).map_err(|refused| refused.error(presented))?;
    let Some(project) = key.project else {
        // An admin key opens the administration and never a model.
        debug_assert_eq!(PresentedKey::parse(presented).map(|key| key.kind), Some(KeyKind::Admin));
        return Err(Error::forbidden_in_project(wanted.as_str()));
    };
    Refused::unless_organization(headers.all("openai-organization"), key)?;
    Refused::unless_project(headers.all("openai-project"), Some(project))?;
    let allows_browsers = || snapshot.project(project).is_some_and(|project| project.allows_browsers);
    if headers.get("origin").is_some() && is_long_lived(key, now) && !allows_browsers() {
        return Err(from_browser());
    }
    permit::scope(&snapshot, key, wanted)?;
    let labels = labels(&snapshot, key, headers)?;
    gateway.replica.note_use(key, now);
    Ok(Caller { key: Arc::clone(key), project, labels })
}

/// A request may add one label of those that its project allows: `x-tollgate-label: NAME=VALUE`.
const LABEL: &str = "x-tollgate-label";

fn labels(snapshot: &Snapshot, key: &Key, headers: &Headers) -> Result<Option<Arc<LabelSet>>> {
    let mut labels = snapshot.labels(key);
    let mut said = headers.all(LABEL);
    if let Some(text) = said.next() {
        if said.next().is_some() {
            return Err(Error::invalid(
                LABEL,
                format!("Invalid '{LABEL}': a request adds one label at most."),
            ));
        }
        let text = String::from_utf8_lossy(text);
        let pair = text.split_once('=').map(|(name, value)| (name.trim(), value.trim()));
        let (name, value) = pair.ok_or_else(|| {
            Error::invalid(LABEL, format!("Invalid '{LABEL}': expected NAME=VALUE, such as feature=chat."))
        })?;
        let project = key.project.and_then(|project| snapshot.project(project));
        if !project.is_some_and(|project| project.request_labels.allows(name, value)) {
            let shown: String = text.chars().take(200).collect();
            let message = format!(
                "Invalid '{LABEL}': the project does not allow requests to add '{shown}'. Its `request_labels` say what they \
                 may add."
            );
            return Err(Error::invalid(LABEL, message).code("label_not_allowed"));
        }
        labels.get_or_insert_default().set(name, value);
    }
    Ok(labels.as_ref().and_then(LabelSet::of).map(Arc::new))
}

/// Whether a key is still good for long: whoever finds it in a page can use it.
fn is_long_lived(key: &Key, now: Timestamp) -> bool {
    const SHORT_SECONDS: i64 = 86_400;
    key.expires_at.is_none_or(|at| at.0 - now.0 > SHORT_SECONDS)
}

fn from_browser() -> Error {
    let message = "This request comes from a browser, where everybody who sees the page can read the key. Use a key that \
                   expires within a day, or have the project allow it (`browser_requests` of its access policy).";
    Error::new(Kind::Forbidden, message).code("browser_request_refused")
}

/// The one key that a request presents, in whatever field.
fn presented(headers: &Headers) -> Result<&str> {
    let mut keys = headers.keys();
    let key = keys.next().ok_or_else(Refused::missing)?;
    if keys.any(|other| other != key) {
        let message =
            "Two different keys were presented. Send one, in 'Authorization', 'x-api-key' or 'api-key'.";
        return Err(Error::bad_request(message).code("conflicting_api_keys"));
    }
    Ok(key)
}
