//! Invites: whoever has the link of one can become a member, once, within a week.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tollgate_core::id::kind;
use tollgate_core::page::{self, Page};
use tollgate_core::secret::{Keyring, Secret, ShownOnce};
use tollgate_core::{Error, InviteId, Permission, Predefined, ProjectId, Resource, Result, Timestamp};
use tollgate_store::{FromRow, Row, Sql, Tx, params};

use crate::access::{self, Grant};
use crate::arguments::{Order, PathId};
use crate::audit::Event;
use crate::gate::Cx;
use crate::operation::Access::Needs;
use crate::operation::Operations;
use crate::resource::{Deleted, projects, users};
use crate::token::{self, Token};

pub(crate) fn operations() -> Operations {
    use Permission::{InvitesRead, InvitesWrite};
    const ALL: &str = "/v1/organization/invites";
    const ONE: &str = "/v1/organization/invites/{invite_id}";
    const RESEND: &str = "/tollgate/v1/invites/{invite_id}/resend";
    Operations::new()
        .get(ALL, "list-invites", Needs(InvitesRead), list)
        .post(ALL, "inviteUser", Needs(InvitesWrite), Event::InviteSent, create)
        .get(ONE, "retrieve-invite", Needs(InvitesRead), retrieve)
        .delete(ONE, "delete-invite", Needs(InvitesWrite), Event::InviteDeleted, delete)
        .post(RESEND, "resend-invite", Needs(InvitesWrite), Event::InviteSent, resend)
}

/// How long an invite can be accepted.
const WEEK_SECONDS: i64 = 7 * 86_400;
const PURPOSE: &str = "invite";
/// More projects are for a group.
const PROJECTS_MAX: usize = 100;

/// A project that the invited become a member of.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct InvitedTo {
    pub(crate) id: String,
    pub(crate) role: String,
}

impl InvitedTo {
    /// The project and the role in it; `None` for what cannot be one.
    pub(crate) fn read(&self) -> Option<(ProjectId, Predefined)> {
        let role = match self.role.as_str() {
            "owner" => Predefined::ProjectOwner,
            "member" => Predefined::ProjectMember,
            _ => return None,
        };
        ProjectId::parse(&self.id).map(|project| (project, role))
    }
}

#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Invite {
    object: &'static str,
    pub(crate) id: InviteId,
    pub(crate) email: String,
    pub(crate) role: String,
    status: &'static str,
    created_at: Timestamp,
    pub(crate) expires_at: Timestamp,
    pub(crate) accepted_at: Option<Timestamp>,
    pub(crate) projects: Vec<InvitedTo>,
}

impl FromRow for Invite {
    fn from_row(row: &Row) -> Result<Self> {
        let projects: String = row.get("projects")?;
        Ok(Self {
            object: "organization.invite",
            id: row.get("id")?,
            email: row.get("email")?,
            role: row.get("role")?,
            status: "pending",
            created_at: row.get("created_at")?,
            expires_at: row.get("expires_at")?,
            accepted_at: row.get("accepted_at")?,
            projects: serde_json::from_str(&projects)
                .map_err(|error| Error::internal("a stored invite cannot be read").source(error))?,
        })
    }
}

impl Invite {
    /// With its status as of now.
    pub(crate) fn at(mut self, now: Timestamp) -> Self {
        self.status = match self.accepted_at {
            Some(_) => "accepted",
            None if self.expires_at <= now => "expired",
            None => "pending",
        };
        self
    }

    pub(crate) fn is_pending(&self, now: Timestamp) -> bool {
        self.accepted_at.is_none() && self.expires_at > now
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListInvites {
    after: Option<String>,
    limit: Option<i64>,
}

async fn list(cx: &mut Cx, input: ListInvites) -> Result<Page<Invite>> {
    let limit = page::limit(input.limit, 20, 1, 100)?;
    let after: Option<InviteId> = page::cursor("after", input.after.as_deref())?;
    let rows: Vec<Invite> = cx
        .tx
        .all(
            "SELECT * FROM invite WHERE organization_id = $1 AND id > $2 ORDER BY id LIMIT $3",
            &params![cx.organization(), Order::Asc.beyond(after), limit + 1],
        )
        .await?;
    let rows = rows.into_iter().map(|invite| invite.at(cx.now)).collect();
    Ok(Page::new(rows, limit, |invite: &Invite| invite.id.to_string()))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateInvite {
    email: String,
    role: String,
    projects: Option<Vec<InvitedTo>>,
}

/// An invite with its link, which is never shown again.
#[derive(Serialize, JsonSchema)]
pub(crate) struct SentInvite {
    #[serde(flatten)]
    invite: Invite,
    /// Extension: what the invited open. There is no mail server here that could send it.
    accept_url: ShownOnce,
}

async fn create(cx: &mut Cx, input: CreateInvite) -> Result<SentInvite> {
    let email = users::read_email(&input.email)?;
    let role = users::read_role(&input.role)?;
    let invited = match input.projects {
        Some(projects) => projects,
        // As OpenAI does for those who do not know of projects.
        None => vec![InvitedTo { id: projects::default(cx).await?.to_string(), role: "member".to_owned() }],
    };
    let mut grants = vec![Grant::of(Resource::Organization(cx.organization()), role)];
    grants.extend(read_projects(cx, &invited).await?);
    access::refuse_beyond_own(cx, &grants).await?;
    if users::by_email(cx, &email).await?.is_some() {
        let message = "There is a member of the organization with this address already.";
        return Err(Error::invalid("email", message).code("already_exists"));
    }
    let earlier: Vec<Invite> = cx
        .tx
        .all(
            "SELECT * FROM invite WHERE organization_id = $1 AND email = $2",
            &params![cx.organization(), email],
        )
        .await?;
    if let Some(earlier) = earlier.iter().find(|invite| invite.is_pending(cx.now)) {
        let message = format!(
            "There is an invite for this address already, {}. Send it again, or delete it first.",
            earlier.id
        );
        return Err(Error::invalid("email", message).code("already_exists"));
    }
    let id: InviteId = cx.id();
    let token = Token::new(&cx.desk.keyring, PURPOSE);
    let projects = json!(invited).to_string();
    cx.tx
        .execute(
            "INSERT INTO invite (id, organization_id, email, role, projects, created_at, created_by, expires_at,
                pepper_version, verifier) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            &params![
                id,
                cx.organization(),
                email,
                role.name(),
                projects,
                cx.now,
                cx.actor.user()?,
                cx.now.plus_seconds(WEEK_SECONDS),
                token.pepper_version,
                token.verifier.to_vec(),
            ],
        )
        .await?;
    let payload = json!({"id": id, "data": {"email": email, "role": role.name(), "projects": invited}});
    cx.record(Event::InviteSent, id, None, payload);
    sent(cx, id, token).await
}

/// What the invited would have in projects; they have to be ours, and in use.
async fn read_projects(cx: &mut Cx, invited: &[InvitedTo]) -> Result<Vec<Grant>> {
    if invited.len() > PROJECTS_MAX {
        return Err(Error::invalid("projects", format!("At most {PROJECTS_MAX} projects.")));
    }
    let mut grants: Vec<Grant> = Vec::with_capacity(invited.len());
    for (at, one) in invited.iter().enumerate() {
        if !matches!(one.role.as_str(), "owner" | "member") {
            let shown: String = one.role.chars().take(40).collect();
            let message = format!("Invalid role: expected 'owner' or 'member', but got '{shown}'.");
            return Err(Error::invalid(format!("projects[{at}].role"), message));
        }
        let unknown = || Error::invalid(format!("projects[{at}].id"), "There is no such project.");
        let (project, role) = one.read().ok_or_else(unknown)?;
        match projects::live(cx, project).await {
            Err(error) if error.is_not_found() => return Err(unknown()),
            found => found?,
        };
        let resource = Resource::Project(project);
        if grants.iter().any(|grant| grant.resource == resource) {
            return Err(Error::invalid(format!("projects[{at}].id"), "The project is named twice."));
        }
        grants.push(Grant::of(resource, role));
    }
    Ok(grants)
}

async fn sent(cx: &mut Cx, id: InviteId, token: Token) -> Result<SentInvite> {
    let url = format!("{}/invite?token={}", cx.desk.public_url, token.text.reveal());
    Ok(SentInvite { invite: find(cx, id).await?, accept_url: ShownOnce(Secret::new(url)) })
}

/// The invite that a token opens, and who sent it and for which organization, whatever its state.
pub(crate) async fn opened(tx: &mut Tx, keyring: &Keyring, token: &str) -> Result<Option<(Invite, Row)>> {
    for (version, verifier) in token::verifiers(keyring, PURPOSE, token) {
        let row: Option<Row> = tx
            .optional(
                "SELECT * FROM invite WHERE verifier = $1 AND pepper_version = $2",
                &params![verifier, version],
            )
            .await?;
        if let Some(row) = row {
            return Ok(Some((Invite::from_row(&row)?, row)));
        }
    }
    Ok(None)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OneInvite {
    invite_id: PathId<kind::Invite>,
}

async fn retrieve(cx: &mut Cx, input: OneInvite) -> Result<Invite> {
    find(cx, input.invite_id.id()?).await
}

/// Gives it a new link for another week; the old one opens nothing any more.
async fn resend(cx: &mut Cx, input: OneInvite) -> Result<SentInvite> {
    let invite = find(cx, input.invite_id.id()?).await?;
    if invite.accepted_at.is_some() {
        return Err(Error::bad_request("The invite was accepted.").code("invite_accepted"));
    }
    // Whoever sends it anew vouches for it.
    let mut grants =
        vec![Grant::of(Resource::Organization(cx.organization()), users::read_role(&invite.role)?)];
    grants.extend(read_projects(cx, &invite.projects).await?);
    access::refuse_beyond_own(cx, &grants).await?;
    let token = Token::new(&cx.desk.keyring, PURPOSE);
    cx.tx
        .execute(
            "UPDATE invite SET expires_at = $1, created_by = $2, pepper_version = $3, verifier = $4 WHERE id = $5",
            &params![
                cx.now.plus_seconds(WEEK_SECONDS),
                cx.actor.user()?,
                token.pepper_version,
                token.verifier.to_vec(),
                invite.id
            ],
        )
        .await?;
    let payload = json!({"id": invite.id, "data": {"email": invite.email, "role": invite.role}});
    cx.record(Event::InviteSent, invite.id, None, payload);
    sent(cx, invite.id, token).await
}

async fn delete(cx: &mut Cx, input: OneInvite) -> Result<Deleted<InviteId>> {
    let invite = find(cx, input.invite_id.id()?).await?;
    if invite.accepted_at.is_some() {
        let message = "An invite that was accepted cannot be deleted. Remove the member instead.";
        return Err(Error::bad_request(message).code("invite_accepted"));
    }
    cx.tx.execute("DELETE FROM invite WHERE id = $1", &params![invite.id]).await?;
    cx.record(Event::InviteDeleted, invite.id, None, json!({"id": invite.id}));
    Ok(Deleted::new("organization.invite.deleted", invite.id))
}

/// Ends the invites of an address that were not accepted: it is a member without them, or is to be none.
pub(crate) async fn withdraw(cx: &mut Cx, email: &str) -> Result<()> {
    let rows: Vec<Row> = cx
        .tx
        .all(
            "DELETE FROM invite WHERE organization_id = $1 AND email = $2 AND accepted_at IS NULL RETURNING id",
            &params![cx.organization(), email],
        )
        .await?;
    for row in rows {
        let id: InviteId = row.at(0)?;
        cx.record(Event::InviteDeleted, id, None, json!({"id": id}));
    }
    Ok(())
}

async fn find(cx: &mut Cx, id: InviteId) -> Result<Invite> {
    let sql = Sql::from("SELECT * FROM invite WHERE id = $1 AND organization_id = $2");
    let found: Option<Invite> = cx.tx.optional(sql, &params![id, cx.organization()]).await?;
    found.map(|invite| invite.at(cx.now)).ok_or_else(|| Error::not_found("invite"))
}
