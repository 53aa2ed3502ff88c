//! Audit events: what changed, by whom, in the change's own transaction.
//!
//! The names are OpenAI's, and only those, because its clients check them. What OpenAI has no event for is told as an
//! update of what it belongs to, with the details in fields of ours.

use serde_json::{Value, json};
use tollgate_core::secret::Keyring;
use tollgate_core::{AuditLogId, Clock, OrganizationId, ProjectId, Result, UserId};
use tollgate_store::{Row, Tx, params};

use crate::actor::{Actor, Origin};
use crate::chain::{self, Entry};

macro_rules! events {
    ($($name:ident = $text:literal,)*) => {
        /// The kinds of changes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Event { $($name,)* }

        impl Event {
            pub(crate) const ALL: &[Self] = &[$(Self::$name,)*];

            /// The names of all.
            pub fn all() -> impl Iterator<Item = &'static str> {
                Self::ALL.iter().map(|event| event.as_str())
            }

            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

events! {
    ApiKeyCreated = "api_key.created",
    ApiKeyUpdated = "api_key.updated",
    ApiKeyDeleted = "api_key.deleted",
    GroupCreated = "group.created",
    GroupUpdated = "group.updated",
    GroupDeleted = "group.deleted",
    InviteSent = "invite.sent",
    InviteAccepted = "invite.accepted",
    InviteDeleted = "invite.deleted",
    LoginSucceeded = "login.succeeded",
    LoginFailed = "login.failed",
    LogoutSucceeded = "logout.succeeded",
    OrganizationUpdated = "organization.updated",
    ProjectCreated = "project.created",
    ProjectUpdated = "project.updated",
    ProjectArchived = "project.archived",
    RoleCreated = "role.created",
    RoleUpdated = "role.updated",
    RoleDeleted = "role.deleted",
    RoleAssignmentCreated = "role.assignment.created",
    RoleAssignmentDeleted = "role.assignment.deleted",
    ServiceAccountCreated = "service_account.created",
    ServiceAccountUpdated = "service_account.updated",
    ServiceAccountDeleted = "service_account.deleted",
    UserAdded = "user.added",
    UserUpdated = "user.updated",
    UserDeleted = "user.deleted",
}

/// One event, before it is written.
#[derive(Debug)]
pub(crate) struct Recorded {
    pub(crate) event: Event,
    pub(crate) resource_id: String,
    pub(crate) project: Option<ProjectId>,
    /// What stands under the key that is named like the event.
    pub(crate) payload: Value,
}

/// Who stands in an event as its actor.
#[derive(Debug)]
pub(crate) enum Author<'a> {
    Actor(&'a Actor),
    /// An operator, in the log of an organization that is not theirs: who they are is not its business.
    Operator,
    /// Somebody who is there in person, without a key.
    Person {
        user: UserId,
        email: &'a str,
        origin: &'a Origin,
    },
    /// Somebody at the machine itself.
    Host,
}

impl Author<'_> {
    fn wire(&self) -> Value {
        match self {
            Self::Actor(actor) => {
                let mut wire = actor.wire();
                wire["ip_address"] = json!(actor.origin.ip.map(|ip| ip.to_string()));
                wire["user_agent"] = json!(actor.origin.user_agent);
                wire
            }
            Self::Person { user, email, origin } => {
                let ip = origin.ip.map(|ip| ip.to_string()).unwrap_or_default();
                json!({"type": "session", "session": {"user": {"id": user, "email": email}, "ip_address": ip},
                    "ip_address": ip, "user_agent": origin.user_agent})
            }
            Self::Operator => json!({"type": "session", "session": nobody(), "operator": true}),
            Self::Host => json!({"type": "session", "session": nobody(), "host": true}),
        }
    }
}

/// A session of nobody who has a name here, with the fields that clients look for.
fn nobody() -> Value {
    json!({"user": {"id": "", "email": ""}, "ip_address": ""})
}

/// Writes an event, as the next in the chain of its organization. Its id sorts after those before it.
pub(crate) async fn write(
    tx: &mut Tx,
    (clock, keyring): (&Clock, &Keyring),
    organization: OrganizationId,
    author: &Author<'_>,
    recorded: &Recorded,
) -> Result<()> {
    let id: AuditLogId = clock.next_id();
    let (actor_id, actor_email, actor_key) = match author {
        Author::Actor(actor) => {
            (Some(actor.owner.to_string()), actor.email.clone(), actor.key().ok().map(|key| key.to_string()))
        }
        Author::Person { user, email, .. } => (Some(user.to_string()), Some((*email).to_owned()), None),
        Author::Operator | Author::Host => (None, None, None),
    };
    let project_name: Option<Row> =
        tx.optional("SELECT name FROM project WHERE id = $1", &params![recorded.project]).await?;
    let entry = Entry {
        id: id.to_string(),
        organization,
        event_type: recorded.event.as_str().to_owned(),
        effective_at: clock.now().0,
        project: recorded.project.map(|project| project.to_string()),
        project_name: project_name.map(|row| row.at(0)).transpose()?,
        actor: author.wire().to_string(),
        actor_id,
        actor_email,
        actor_key,
        resource_id: recorded.resource_id.clone(),
        payload: recorded.payload.to_string(),
    };
    chain::append(tx, keyring, &entry).await
}
