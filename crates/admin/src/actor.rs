//! Who acts.

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Value, json};
use tollgate_core::key::{KeyKind, Locator};
use tollgate_core::{
    Error, KeyId, Kind, OrganizationId, Permission, Permissions, Principal, ProjectId, Result, Scopes,
    SessionId, Timestamp, UserId,
};
use tollgate_replica::{Key, Snapshot};
use tollgate_store::{Row, Tx, params};

use crate::access;
use crate::operation::Access;
use crate::session::{self, Session};

/// Where a request came from, for the audit log.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    pub ip: Option<IpAddr>,
    pub user_agent: Option<String>,
}

/// What proves who somebody is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credential {
    /// A key, by the secret that its locator finds.
    Key(KeyId, Locator),
    /// A person who is signed in to the console.
    Session(SessionId),
}

/// The holder of a key, or whoever is signed in, as of now.
#[derive(Clone, Debug)]
pub struct Actor {
    pub credential: Credential,
    /// A person who is signed in acts as with an unrestricted admin key of theirs.
    pub kind: KeyKind,
    pub organization: OrganizationId,
    pub project: Option<ProjectId>,
    pub owner: Principal,
    pub email: Option<String>,
    pub scopes: Scopes,
    pub expires_at: Option<Timestamp>,
    /// The project that the operation is about, if it is about one; a project's key is about its own.
    pub at: Option<ProjectId>,
    /// What the owner's roles allow there, or at the organization.
    pub permissions: Permissions,
    /// The projects that the key is restricted to: it does nothing that its path does not say to be about one of them.
    pub restricted_to: Option<Arc<[ProjectId]>>,
    pub is_operator: bool,
    /// Whether the key itself may call models.
    pub calls_models: bool,
    pub origin: Origin,
}

impl Actor {
    /// The holder of a key, about to do something at a project or at the organization.
    pub(crate) fn of(key: &Key, snapshot: &Snapshot, at: Option<ProjectId>, origin: Origin) -> Self {
        let user = key.owner.user().and_then(|id| snapshot.user(id));
        let at = at.or(key.project);
        Self {
            credential: Credential::Key(key.id, key.locator),
            kind: key.kind,
            organization: key.organization,
            project: key.project,
            owner: key.owner,
            email: user.map(|user| user.email.clone()),
            scopes: key.scopes,
            expires_at: key.expires_at,
            at,
            permissions: match key.owner {
                Principal::User(user) => snapshot.permissions(user, key.organization, at),
                Principal::ServiceAccount(_) if key.project.is_some() && !key.owner_has_role => {
                    Permissions::NONE
                }
                Principal::ServiceAccount(_) => Snapshot::permissions_of_machine(key.scopes),
            },
            restricted_to: snapshot.restriction(key.id).cloned(),
            is_operator: user.is_some_and(|user| user.is_operator),
            calls_models: snapshot.allows(key, Permission::ModelRequest),
            origin,
        }
    }

    /// Whoever is signed in, about to do something at a project or at the organization.
    pub(crate) fn of_session(
        session: &Session,
        snapshot: &Snapshot,
        at: Option<ProjectId>,
        origin: Origin,
    ) -> Self {
        Self {
            credential: Credential::Session(session.id),
            kind: KeyKind::Admin,
            organization: session.organization,
            project: None,
            owner: Principal::User(session.user),
            email: Some(session.email.clone()),
            scopes: Scopes::UNRESTRICTED,
            expires_at: None,
            at,
            permissions: snapshot.permissions(session.user, session.organization, at),
            restricted_to: None,
            is_operator: snapshot.user(session.user).is_some_and(|user| user.is_operator),
            calls_models: false,
            origin,
        }
    }

    /// The key that asks.
    pub(crate) fn key(&self) -> Result<KeyId> {
        match self.credential {
            Credential::Key(key, _) => Ok(key),
            Credential::Session(_) => Err(Error::not_found("API key")),
        }
    }

    pub(crate) fn authorize(&self, access: Access) -> Result<()> {
        match access {
            Access::AnyKey => Ok(()),
            Access::Oneself if self.is_oneself() => Ok(()),
            Access::Oneself => {
                let message = "This is about a person's own: it takes an unrestricted admin key of a person.";
                Err(Error::new(Kind::Forbidden, message).code("person_required"))
            }
            Access::Needs(permission) if self.may(permission) => Ok(()),
            Access::WithinProjects(permission) if self.may_within_projects(permission) => Ok(()),
            Access::OperatorOr(permission) if self.may(permission) || self.acts_as_operator() => Ok(()),
            Access::Needs(permission)
            | Access::OperatorOr(permission)
            | Access::WithinProjects(permission)
                if self.kind != KeyKind::Admin && self.scopes.names(permission) =>
            {
                let (message, code) = if matches!(access, Access::WithinProjects(_)) {
                    (
                        "The key has the scope for this, and the role of its owner does not allow it.",
                        "owner_not_permitted",
                    )
                } else {
                    ("The key is a project's, and this takes an admin key.", "admin_key_required")
                };
                Err(Error::new(Kind::Forbidden, message).code(code))
            }
            Access::Needs(permission) | Access::OperatorOr(permission) if self.holds(permission) => {
                let message =
                    "The key is restricted to projects, and this is not about one of them by its path.";
                Err(Error::new(Kind::Forbidden, message).code("restricted_to_projects"))
            }
            Access::Needs(permission)
            | Access::OperatorOr(permission)
            | Access::WithinProjects(permission) => Err(Error::forbidden(permission.as_str())),
            Access::Operator if self.acts_as_operator() => Ok(()),
            Access::Operator => Err(Error::forbidden(Permission::Operator.as_str())),
        }
    }

    /// Whether a person acts with all that they may.
    fn is_oneself(&self) -> bool {
        self.kind == KeyKind::Admin
            && self.owner.user().is_some()
            && self.scopes.is_unrestricted()
            && self.restricted_to.is_none()
    }

    /// What the owner may, as far as the key's scopes let it. A project's key opens nothing of the administration.
    pub(crate) fn holds(&self, permission: Permission) -> bool {
        self.kind == KeyKind::Admin && self.permissions.allows(permission) && self.scopes.allows(permission)
    }

    /// The same, as far as the key's restriction to projects lets it.
    pub(crate) fn may(&self, permission: Permission) -> bool {
        self.holds(permission) && self.is_within_restriction(self.at)
    }

    /// The same of what looks at [`Actor::projects`] alone: a project's key may as well, if its scopes name it.
    fn may_within_projects(&self, permission: Permission) -> bool {
        self.holds(permission)
            || (self.kind != KeyKind::Admin
                && self.permissions.allows(permission)
                && self.scopes.names(permission))
    }

    /// The projects that the key may be told of; `None` for all of the organization.
    pub(crate) fn projects(&self) -> Option<Vec<ProjectId>> {
        let own = self.project.map(|project| vec![project]);
        own.or_else(|| self.restricted_to.as_ref().map(|projects| projects.to_vec()))
    }

    pub(crate) fn acts_as_operator(&self) -> bool {
        self.kind == KeyKind::Admin
            && self.is_operator
            && self.restricted_to.is_none()
            && self.scopes.allows(Permission::Operator)
    }

    /// Whether the key's restriction lets it do something there.
    pub(crate) fn is_within_restriction(&self, at: Option<ProjectId>) -> bool {
        self.restricted_to.as_ref().is_none_or(|projects| at.is_some_and(|at| projects.contains(&at)))
    }

    /// What its owner may at a project, or at the organization.
    pub(crate) async fn permissions_at(&self, tx: &mut Tx, at: Option<ProjectId>) -> Result<Permissions> {
        if !self.is_within_restriction(at) {
            return Ok(Permissions::NONE);
        }
        match self.owner {
            Principal::User(user) => access::permissions_of(tx, user, self.organization, at).await,
            Principal::ServiceAccount(_) => Ok(Snapshot::permissions_of_machine(self.scopes)),
        }
    }

    /// The user who owns the key.
    pub(crate) fn user(&self) -> Result<UserId> {
        self.owner.user().ok_or_else(|| {
            let message = "The key belongs to a service account, and this is for people to do.";
            Error::new(Kind::Forbidden, message).code("service_account")
        })
    }

    /// Judges the actor anew, on what this very transaction sees: a key that was revoked, or an owner who was demoted,
    /// while the request waited for its turn, changes nothing any more.
    pub(crate) async fn judge_anew(&mut self, tx: &mut Tx, now: Timestamp) -> Result<()> {
        let (key, locator) = match self.credential {
            Credential::Key(key, locator) => (key, locator),
            Credential::Session(session) => return self.judge_session_anew(session, tx, now).await,
        };
        let row: Option<Row> = tx
            .optional(
                "SELECT k.expires_at, k.scopes, COALESCE(u.is_operator, $4) AS is_operator
                 FROM api_key k LEFT JOIN app_user u ON u.id = k.user_id
                    LEFT JOIN service_account a ON a.id = k.service_account_id
                    LEFT JOIN project p ON p.id = a.project_id
                    LEFT JOIN organization_user o ON o.user_id = k.user_id AND o.organization_id = k.organization_id
                 WHERE k.id = $1 AND k.revoked_at IS NULL AND k.is_active = $2 AND k.frozen_at IS NULL
                    AND o.frozen_at IS NULL AND p.frozen_at IS NULL AND p.archived_at IS NULL
                    AND (k.expires_at IS NULL OR k.expires_at > $3)
                    AND EXISTS (SELECT 1 FROM api_key_secret s WHERE s.locator = $5 AND s.api_key_id = k.id
                        AND s.verifier IS NOT NULL AND (s.expires_at IS NULL OR s.expires_at > $3))",
                &params![key, true, now, false, locator],
            )
            .await?;
        let gone = || Error::new(Kind::Unauthenticated, "The API key was revoked.").code("invalid_api_key");
        let row = row.ok_or_else(gone)?;
        self.scopes = Scopes::from_stored(&row.get::<String>("scopes")?);
        self.permissions = self.permissions_at(tx, self.at).await?;
        self.is_operator = row.get("is_operator")?;
        Ok(())
    }

    async fn judge_session_anew(&mut self, session: SessionId, tx: &mut Tx, now: Timestamp) -> Result<()> {
        let row: Option<Row> = tx
            .optional(
                "SELECT u.is_operator FROM person_session s JOIN app_user u ON u.id = s.user_id
                    JOIN organization_user o ON o.user_id = s.user_id AND o.organization_id = $2
                 WHERE s.id = $1 AND s.organization_id = $2 AND s.expires_at > $3 AND o.frozen_at IS NULL",
                &params![session, self.organization, now],
            )
            .await?;
        let row = row.ok_or_else(session::ended)?;
        self.permissions = self.permissions_at(tx, self.at).await?;
        self.is_operator = row.get("is_operator")?;
        Ok(())
    }

    /// OpenAI's actor object.
    pub(crate) fn wire(&self) -> Value {
        let key = match self.credential {
            Credential::Key(key, _) => key,
            Credential::Session(_) => {
                let ip = self.origin.ip.map(|ip| ip.to_string()).unwrap_or_default();
                let user = json!({"id": self.owner, "email": self.email.as_deref().unwrap_or("")});
                return json!({"type": "session", "session": {"user": user, "ip_address": ip}});
            }
        };
        let key = match self.owner {
            Principal::User(user) => json!({
                "id": key, "type": "user", "user": {"id": user, "email": self.email.as_deref().unwrap_or("")},
            }),
            Principal::ServiceAccount(account) => json!({
                "id": key, "type": "service_account", "service_account": {"id": account},
            }),
        };
        json!({"type": "api_key", "api_key": key})
    }
}
