//! Proving who a key's holder is.

use std::sync::Arc;

use tollgate_core::error::Kind;
use tollgate_core::key::{PresentedKey, mask};
use tollgate_core::secret::Keyring;
use tollgate_core::{Error, ProjectId, Timestamp, UserId};

use crate::snapshot::{Key, Snapshot};

/// Why a credential opens nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Garbage, unknown, revoked, or forged: these are not told apart.
    Incorrect,
    Expired,
    /// The owner has lost access to the project.
    Inactive,
    ProjectArchived,
    /// The key or what it belongs to, in a word.
    Frozen(&'static str),
}

impl Snapshot {
    /// Finds the key that `text` proves, if it opens anything. No query, whatever the text.
    pub fn verify(&self, keyring: &Keyring, text: &str, now: Timestamp) -> Result<&Arc<Key>, Refused> {
        let key = self.prove(keyring, text)?;
        self.check(key, now).map(|()| key)
    }

    /// Finds the key that `text` proves, whether or not it opens anything.
    pub fn prove(&self, keyring: &Keyring, text: &str) -> Result<&Arc<Key>, Refused> {
        let presented = PresentedKey::parse(text).ok_or(Refused::Incorrect)?;
        let key = self
            .key(&presented.locator)
            .filter(|key| key.kind == presented.kind)
            .ok_or(Refused::Incorrect)?;
        let pepper = keyring.pepper_of(key.pepper_version.into()).ok_or(Refused::Incorrect)?;
        if !pepper.verifies(text, &key.verifier) {
            return Err(Refused::Incorrect);
        }
        Ok(key)
    }

    /// Whether a key that was proved opens anything. Its caller may be told what is wrong with it.
    pub fn check(&self, key: &Key, now: Timestamp) -> Result<(), Refused> {
        if key.expires_at.is_some_and(|at| at <= now) {
            return Err(Refused::Expired);
        }
        if !key.is_active {
            return Err(Refused::Inactive);
        }
        if let Some(what) = self.frozen(key) {
            return Err(Refused::Frozen(what));
        }
        match self.home(key).map(|project| self.project(project)) {
            Some(Some(project)) if project.is_archived => Err(Refused::ProjectArchived),
            Some(None) => Err(Refused::Incorrect),
            _ => Ok(()),
        }
    }
}

impl Snapshot {
    /// The project that a key belongs to: its own, or that of the service account which owns it.
    fn home(&self, key: &Key) -> Option<ProjectId> {
        key.project.or_else(|| self.fences.get(&key.id).and_then(|fence| fence.home))
    }

    /// What of a key is frozen. A frozen organization can still be administered.
    fn frozen(&self, key: &Key) -> Option<&'static str> {
        let is_user =
            |user: UserId| self.user(user).is_some_and(|user| user.frozen_in.contains(&key.organization));
        let is_project = |project: ProjectId| self.project(project).is_some_and(|project| project.is_frozen);
        let is_organization = || self.organization(key.organization).is_some_and(|own| own.is_frozen);
        if key.is_frozen {
            Some("key")
        } else if key.owner.user().is_some_and(is_user) {
            Some("owner of the key")
        } else if self.home(key).is_some_and(is_project) {
            Some("project")
        } else if key.project.is_some() && is_organization() {
            Some("organization")
        } else {
            None
        }
    }
}

impl Refused {
    pub fn error(self, presented: &str) -> Error {
        let (code, message) = match self {
            Self::Incorrect => {
                ("invalid_api_key", format!("Incorrect API key provided: {}.", mask(presented)))
            }
            Self::Expired => ("invalid_api_key", format!("The API key {} has expired.", mask(presented))),
            Self::Inactive => (
                "invalid_api_key",
                format!(
                    "The API key {} is inactive: its owner has no access to the project.",
                    mask(presented)
                ),
            ),
            Self::Frozen(what) => (
                "frozen",
                format!("The API key {} cannot be used for now: the {what} is frozen.", mask(presented)),
            ),
            Self::ProjectArchived => (
                "not_authorized_invalid_project",
                "The project you are requesting has been archived and is no longer accessible".to_owned(),
            ),
        };
        Error::new(Kind::Unauthenticated, message).code(code)
    }

    /// A header that names an organization must name the key's own; several must all do.
    pub fn unless_organization<'h>(given: impl Iterator<Item = &'h [u8]>, key: &Key) -> Result<(), Error> {
        must_match(given, || Some(key.organization.text()), "Organization", "mismatched_organization")
    }

    /// A header that names a project must name the key's own. An admin key has none.
    pub fn unless_project<'h>(
        given: impl Iterator<Item = &'h [u8]>,
        own: Option<ProjectId>,
    ) -> Result<(), Error> {
        must_match(given, || own.map(ProjectId::text), "Project", "mismatched_project")
    }

    /// The answer to a request without any credential.
    pub fn missing() -> Error {
        Error::new(
            Kind::Unauthenticated,
            "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer \
             auth (i.e. Authorization: Bearer YOUR_KEY).",
        )
    }
}

fn must_match<'h>(
    mut given: impl Iterator<Item = &'h [u8]>,
    own: impl Fn() -> Option<String>,
    what: &str,
    code: &'static str,
) -> Result<(), Error> {
    let is_other = |given: &[u8]| !given.is_empty() && own().is_some_and(|own| own.as_bytes() != given);
    if given.any(is_other) {
        let message = format!("OpenAI-{what} header should match {} for API key", what.to_lowercase());
        return Err(Error::new(Kind::Unauthenticated, message).code(code));
    }
    Ok(())
}
