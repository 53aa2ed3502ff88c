//! Who may what where, as a transaction sees it, and what follows from a change of it.

use tollgate_core::permission::{Permission, Permissions};
use tollgate_core::role::{Predefined, Resource, RoleRef};
use tollgate_core::{Error, OrganizationId, Principal, ProjectId, Result, Scopes, Timestamp, UserId};
use tollgate_replica::Snapshot;
use tollgate_store::{Entity, Row, Sql, ToValue, Tx, params};

use crate::gate::Cx;

/// OpenAI's `role` of a member, of whom `o` is the row of `organization_user`.
pub(crate) const ORGANIZATION_ROLE: &str = "CASE WHEN EXISTS (SELECT 1 FROM role_assignment ra
            WHERE ra.principal_id = o.user_id AND ra.resource_id = o.organization_id
                AND ra.role_id = 'role-api-organization-owner')
        OR EXISTS (SELECT 1 FROM group_user gu CROSS JOIN role_assignment ra
            WHERE gu.user_id = o.user_id AND ra.principal_id = gu.group_id AND ra.resource_id = o.organization_id
                AND ra.role_id = 'role-api-organization-owner')
        THEN 'owner' ELSE 'reader' END";

/// The same of a member of a project, of whom `p` is the row of `project_user`. One who has only roles that people have made is
/// called a member.
pub(crate) const PROJECT_ROLE: &str = "CASE
        WHEN EXISTS (SELECT 1 FROM role_assignment ra WHERE ra.principal_id = p.user_id
            AND ra.resource_id = p.project_id AND ra.role_id = 'role-api-project-owner') THEN 'owner'
        WHEN EXISTS (SELECT 1 FROM role_assignment ra WHERE ra.principal_id = p.user_id
            AND ra.resource_id = p.project_id AND ra.role_id = 'role-api-project-viewer')
            AND NOT EXISTS (SELECT 1 FROM role_assignment ra WHERE ra.principal_id = p.user_id
            AND ra.resource_id = p.project_id AND ra.role_id = 'role-api-project-member') THEN 'viewer'
        ELSE 'member' END";

/// A role that somebody has somewhere, and what it allows there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grant {
    pub(crate) resource: Resource,
    pub(crate) role: RoleRef,
    pub(crate) permissions: Permissions,
}

impl Grant {
    pub(crate) fn of(resource: Resource, role: Predefined) -> Self {
        Self { resource, role: RoleRef::Predefined(role), permissions: role.permissions() }
    }

    /// Whether it is a predefined role that only looks and uses models.
    fn is_plain(&self) -> bool {
        use Predefined::{OrganizationReader, ProjectMember, ProjectViewer};
        let plain = [OrganizationReader, ProjectMember, ProjectViewer];
        plain.iter().any(|role| self.role == RoleRef::Predefined(*role))
    }

    pub(crate) fn is_owner(&self) -> bool {
        self.role == RoleRef::Predefined(Predefined::OrganizationOwner)
    }
}

/// Reads `resource_id`, `role_id` and a custom role's `permissions`. A role that this version does not know allows nothing.
fn read_grants(rows: &[Row]) -> Result<Vec<Grant>> {
    let mut grants = Vec::with_capacity(rows.len());
    for row in rows {
        let (resource, role): (String, String) = (row.get("resource_id")?, row.get("role_id")?);
        let (Some(resource), Some(role)) = (Resource::parse(&resource), RoleRef::from_stored(&role)) else {
            continue;
        };
        let permissions = match role {
            RoleRef::Predefined(role) => role.permissions(),
            RoleRef::Custom(_) => {
                let permissions: Option<String> = row.get("permissions")?;
                permissions.as_deref().map(Permissions::from_stored).unwrap_or_default()
            }
        };
        grants.push(Grant { resource, role, permissions });
    }
    Ok(grants)
}

/// The roles that a user or a group has been given itself, everywhere in the organization.
pub(crate) async fn grants_to(
    tx: &mut Tx,
    organization: OrganizationId,
    principal: &str,
) -> Result<Vec<Grant>> {
    let rows: Vec<Row> = tx
        .all(
            "SELECT a.resource_id, a.role_id, r.permissions
             FROM role_assignment a LEFT JOIN role r ON r.id = a.role_id
             WHERE a.principal_id = $1 AND a.organization_id = $2",
            &params![principal, organization],
        )
        .await?;
    read_grants(&rows)
}

/// All roles of a user, everywhere in the organization: their own and those of their groups.
pub(crate) async fn grants_everywhere(
    tx: &mut Tx,
    organization: OrganizationId,
    user: UserId,
) -> Result<Vec<Grant>> {
    let mut grants = grants_to(tx, organization, &user.to_string()).await?;
    let groups: Vec<Row> =
        tx.all("SELECT group_id FROM group_user WHERE user_id = $1", &params![user]).await?;
    for row in groups {
        grants.extend(grants_to(tx, organization, &row.at::<String>(0)?).await?);
    }
    Ok(grants)
}

/// The roles of a member at the organization and at one of its projects, their own and those of their groups. Whoever is no
/// member, or frozen, has none.
pub(crate) async fn grants_of(
    tx: &mut Tx,
    user: UserId,
    organization: OrganizationId,
    project: Option<ProjectId>,
) -> Result<Vec<Grant>> {
    let at = project.map_or(organization.to_value(), |project| project.to_value());
    let member: Option<Row> = tx
        .optional(
            "SELECT user_id FROM organization_user
             WHERE organization_id = $1 AND user_id = $2 AND frozen_at IS NULL",
            &params![organization, user],
        )
        .await?;
    if member.is_none() {
        return Ok(Vec::new());
    }
    // Two queries, each by its index, and the second from the user's groups on (CROSS JOIN keeps that order): otherwise all
    // assignments of the organization would be looked at.
    let rows: Vec<Row> = tx
        .all(
            "SELECT a.resource_id, a.role_id, r.permissions
             FROM role_assignment a LEFT JOIN role r ON r.id = a.role_id
             WHERE a.principal_id = $3 AND a.resource_id IN ($1, $2) AND a.organization_id = $1
             UNION ALL
             SELECT a.resource_id, a.role_id, r.permissions
             FROM group_user m CROSS JOIN role_assignment a LEFT JOIN role r ON r.id = a.role_id
             WHERE m.user_id = $3 AND a.principal_id = m.group_id AND a.resource_id IN ($1, $2)
                AND a.organization_id = $1",
            &[organization.to_value(), at, user.to_value()],
        )
        .await?;
    read_grants(&rows)
}

/// What a member may do there.
pub(crate) async fn permissions_of(
    tx: &mut Tx,
    user: UserId,
    organization: OrganizationId,
    project: Option<ProjectId>,
) -> Result<Permissions> {
    let grants = grants_of(tx, user, organization, project).await?;
    Ok(grants.iter().fold(Permissions::NONE, |all, grant| all.and(grant.permissions)))
}

pub(crate) async fn is_owner(tx: &mut Tx, user: UserId, organization: OrganizationId) -> Result<bool> {
    Ok(grants_of(tx, user, organization, None).await?.iter().any(Grant::is_owner))
}

/// Nobody can give what they do not hold: all that the grants allow the actor must be allowed there as well. A key
/// that is restricted gives no more than its scopes allow either, but for the plain roles, which only look and use models.
pub(crate) async fn refuse_beyond_own(cx: &mut Cx, grants: &[Grant]) -> Result<()> {
    if !grants.is_empty() {
        // Machines give and take no roles.
        cx.actor.user()?;
    }
    for grant in grants {
        refuse_beyond(cx, grant.resource.project(), grant.permissions, grant.is_plain()).await?;
    }
    Ok(())
}

/// All that is given at a project, or at the organization, the actor must hold there. `is_plain`: whatever the scopes of the
/// actor's key are.
async fn refuse_beyond(cx: &mut Cx, at: Option<ProjectId>, given: Permissions, is_plain: bool) -> Result<()> {
    let own = cx.actor.permissions_at(&mut cx.tx, at).await?;
    let scopes = cx.actor.scopes;
    let is_beyond = |permission: &&Permission| {
        let is_in_scope = is_plain || permission.is_of_models() || scopes.allows(**permission);
        // An umbrella is what it covers.
        let is_given = given.allows(**permission) && !permission.is_umbrella();
        is_given && !(own.allows(**permission) && is_in_scope)
    };
    match Permission::ALL.iter().find(is_beyond) {
        Some(permission) => Err(Error::forbidden(permission.as_str())),
        None => Ok(()),
    }
}

/// Nor can the weaker disarm the stronger: nobody takes what they do not hold, but for the plain roles.
pub(crate) async fn refuse_taking_beyond_own(cx: &mut Cx, grants: &[Grant]) -> Result<()> {
    let taken: Vec<Grant> = grants.iter().copied().filter(|grant| !grant.is_plain()).collect();
    refuse_beyond_own(cx, &taken).await
}

/// The same of the admin keys of machines, which may what their scopes say: nobody makes one that may more than they, nor
/// ends one.
pub(crate) async fn refuse_machine_beyond_own(cx: &mut Cx, scopes: Scopes) -> Result<()> {
    // What it may it may in the whole organization, wherever the operation is about.
    refuse_beyond(cx, None, Snapshot::permissions_of_machine(scopes), false).await
}

/// Whether a user can use a project: as a member, through a group, or as an owner of the organization.
pub(crate) async fn has_access(cx: &mut Cx, project: ProjectId, user: UserId) -> Result<bool> {
    if is_owner(&mut cx.tx, user, cx.actor.organization).await? {
        return Ok(true);
    }
    let row: Option<Row> = cx
        .tx
        .optional(
            "SELECT o.user_id FROM organization_user o WHERE o.organization_id = $1 AND o.user_id = $2 AND (
                EXISTS (SELECT 1 FROM project_user p WHERE p.project_id = $3 AND p.user_id = $2)
                OR EXISTS (SELECT 1 FROM group_user m JOIN project_group g ON g.group_id = m.group_id
                    WHERE m.user_id = $2 AND g.project_id = $3))",
            &params![cx.organization(), user, project],
        )
        .await?;
    Ok(row.is_some())
}

/// After a user has lost a membership or a role: turns the keys off that they have where they have no access any more.
pub(crate) async fn lapse(cx: &mut Cx, user: UserId) -> Result<()> {
    lapse_all(cx, &[user]).await
}

/// The same of many users.
pub(crate) async fn lapse_all(cx: &mut Cx, users: &[UserId]) -> Result<()> {
    const AT_ONCE: usize = 500;
    for some in users.chunks(AT_ONCE) {
        let mut values =
            params![false, cx.organization(), true, Predefined::OrganizationOwner.alias()].to_vec();
        let sql = Sql::from("UPDATE api_key SET is_active = $1 WHERE organization_id = $2 AND user_id IN ")
            .push_list(&mut values, some.iter().map(ToValue::to_value))
            .push(
                " AND project_id IS NOT NULL AND revoked_at IS NULL AND is_active = $3
                    AND NOT EXISTS (SELECT 1 FROM project_user p
                        WHERE p.project_id = api_key.project_id AND p.user_id = api_key.user_id)
                    AND NOT EXISTS (SELECT 1 FROM group_user m CROSS JOIN project_group g
                        WHERE m.user_id = api_key.user_id AND g.group_id = m.group_id AND g.project_id = api_key.project_id)
                    AND NOT EXISTS (SELECT 1 FROM role_assignment a
                        WHERE a.resource_id = $2 AND a.principal_id = api_key.user_id AND a.role_id = $4)
                    AND NOT EXISTS (SELECT 1 FROM group_user m CROSS JOIN role_assignment a
                        WHERE m.user_id = api_key.user_id AND a.principal_id = m.group_id AND a.resource_id = $2
                            AND a.role_id = $4)
                 RETURNING id",
            );
        let keys: Vec<Row> = cx.tx.all(sql, &values).await?;
        for key in keys {
            cx.changed_named(Entity::ApiKey, &key.at::<String>(0)?).await?;
        }
    }
    Ok(())
}

/// After a change: an organization without an owner could never be administered again.
pub(crate) async fn keep_an_owner(cx: &mut Cx, param: &'static str) -> Result<()> {
    let owner: Option<Row> = cx
        .tx
        .optional(
            "SELECT o.user_id FROM role_assignment a
                LEFT JOIN group_user m ON m.group_id = a.principal_id
                JOIN organization_user o ON o.organization_id = $1 AND o.user_id = COALESCE(m.user_id, a.principal_id)
                    AND o.frozen_at IS NULL
             WHERE a.role_id = $2 AND a.resource_id = $1 LIMIT 1",
            &params![cx.organization(), Predefined::OrganizationOwner.alias()],
        )
        .await?;
    if owner.is_some() {
        return Ok(());
    }
    Err(Error::invalid(
        param,
        "This is the last owner of the organization. Make another user an owner first.",
    )
    .code("last_owner"))
}

/// Gives a role; says whether it was not given before.
pub(crate) async fn assign(cx: &mut Cx, resource: Resource, principal: &str, role: RoleRef) -> Result<bool> {
    let by = (cx.organization(), Some(cx.actor.owner), cx.now);
    assign_by(&mut cx.tx, by, resource, principal, role).await
}

/// [`assign`] for somebody who is in no context: in an organization, by whom, and when.
pub(crate) async fn assign_by(
    tx: &mut Tx,
    (organization, by, now): (OrganizationId, Option<Principal>, Timestamp),
    resource: Resource,
    principal: &str,
    role: RoleRef,
) -> Result<bool> {
    let given = tx
        .execute(
            "INSERT INTO role_assignment (resource_id, principal_id, role_id, organization_id, created_at, created_by)
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (resource_id, principal_id, role_id) DO NOTHING",
            &params![resource.to_string(), principal, role.to_stored(), organization, now, by],
        )
        .await?;
    Ok(given > 0)
}

/// Takes a role; says whether it was given.
pub(crate) async fn unassign(
    cx: &mut Cx,
    resource: Resource,
    principal: &str,
    role: RoleRef,
) -> Result<bool> {
    let taken = cx
        .tx
        .execute(
            "DELETE FROM role_assignment WHERE resource_id = $1 AND principal_id = $2 AND role_id = $3",
            &params![resource.to_string(), principal, role.to_stored()],
        )
        .await?;
    Ok(taken > 0)
}

/// Takes all roles at a resource.
pub(crate) async fn unassign_all(cx: &mut Cx, resource: Resource, principal: &str) -> Result<()> {
    cx.tx
        .execute(
            "DELETE FROM role_assignment WHERE principal_id = $1 AND resource_id = $2",
            &params![principal, resource.to_string()],
        )
        .await?;
    Ok(())
}

/// Replaces the predefined roles that a user has been given at a resource by one, as the `role` of OpenAI's users does.
pub(crate) async fn set_predefined(
    cx: &mut Cx,
    resource: Resource,
    user: UserId,
    role: Predefined,
) -> Result<()> {
    for other in Predefined::at(resource).filter(|other| *other != role) {
        unassign(cx, resource, &user.to_string(), RoleRef::Predefined(other)).await?;
    }
    assign(cx, resource, &user.to_string(), RoleRef::Predefined(role)).await?;
    Ok(())
}
