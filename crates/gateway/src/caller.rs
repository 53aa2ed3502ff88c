//! Who is calling: the key proves it, or the answer is 401.

use std::sync::Arc;

use tollgate_core::key::{KeyKind, PresentedKey};
use tollgate_core::{Error, Permission, ProjectId, Result};
use tollgate_replica::{Key, Refused};
use tollgate_wire::{Exchange, Headers};

use crate::{Gateway, permit};

/// Who a key proves, and for which project.
pub(crate) struct Caller {
    pub(crate) key: Arc<Key>,
    pub(crate) project: ProjectId,
}

/// Proves the caller, who wants to do what needs `wanted`, on the newest snapshot. Costs no query, whatever is presented.
pub(crate) fn authenticate(gateway: &Gateway, exchange: &Exchange, wanted: Permission) -> Result<Caller> {
    let headers = &exchange.head.headers;
    let presented = presented(headers)?;
    let now = gateway.clock.now();
    let snapshot = gateway.replica.snapshot();
    let key = snapshot
        .verify(gateway.replica.keyring(), presented, now)
        .map_err(|refused| refused.error(presented))?;
    let Some(project) = key.project else {
        // An admin key opens the administration and never a model.
        debug_assert_eq!(PresentedKey::parse(presented).map(|key| key.kind), Some(KeyKind::Admin));
        return Err(Error::forbidden_in_project(wanted.as_str()));
    };
    Refused::unless_organization(headers.all("openai-organization"), key)?;
    Refused::unless_project(headers.all("openai-project"), Some(project))?;
    let caller = Caller { key: Arc::clone(key), project };
    permit::scope(&caller, wanted)?;
    gateway.replica.note_use(key, now);
    Ok(caller)
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
