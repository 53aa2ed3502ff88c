//! What the caller may do: scopes (403) and models (404).

use std::sync::Arc;

use tollgate_core::error::Kind;
use tollgate_core::{Error, Permission, Result};
use tollgate_replica::{Key, Model, Snapshot};

use crate::Gateway;

pub(crate) fn scope(snapshot: &Snapshot, key: &Key, needed: Permission) -> Result<()> {
    if snapshot.allows(key, needed) { Ok(()) } else { Err(Error::forbidden_in_project(needed.as_str())) }
}

/// The model, if some upstream serves it.
pub(crate) fn model(gateway: &Gateway, name: &str) -> Result<Arc<Model>> {
    gateway.replica.snapshot().model(name).cloned().ok_or_else(|| no_such_model(name))
}

pub(crate) fn no_such_model(name: &str) -> Error {
    const SHOWN_MAX: usize = 200;
    let shown: String = name.chars().take(SHOWN_MAX).collect();
    Error::new(Kind::NotFound, format!("The model `{shown}` does not exist or you do not have access to it."))
        .code("model_not_found")
}
