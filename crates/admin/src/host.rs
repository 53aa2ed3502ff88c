//! What is done at the machine itself: the first start, recovery of access, and who operates the installation.

use serde_json::json;
use tollgate_core::key::KeyKind;
use tollgate_core::secret::{Keyring, Secret};
use tollgate_core::{
    Clock, Error, KeyId, OrganizationId, Predefined, Principal, ProjectId, Resource, Result, RoleRef, Scopes,
    Timestamp, UserId,
};
use tollgate_store::{Entity, Row, Tx, params};

use crate::access::{self, Grant};
use crate::audit::{self, Author, Event, Recorded};
use crate::resource::NewKeyRow;
use crate::session::first;

/// What the first start made.
#[derive(Debug)]
pub struct Installed {
    pub organization: OrganizationId,
    pub project: ProjectId,
    pub user: UserId,
    pub admin_key: Secret,
    /// The token of the link by which the owner sets their password, if one was wanted.
    pub first_sign_in: Option<Secret>,
}

/// Whether an organization was ever made here.
pub async fn is_installed(tx: &mut Tx) -> Result<bool> {
    let row: Row = tx.one("SELECT COUNT(*) AS organizations FROM organization", &[]).await?;
    Ok(row.get::<i64>("organizations")? > 0)
}

/// Makes the first organization, whose owner is the operator, and if `with_link` what they sign in with for the first time.
pub async fn install(
    tx: &mut Tx,
    clock: &Clock,
    keyring: &Keyring,
    owner_email: &str,
    with_link: bool,
) -> Result<Installed> {
    let founding = Founding {
        name: "Default organization",
        owner_email,
        owner_name: "Owner",
        is_operator: true,
        founder: None,
    };
    let founded = found(tx, (clock, keyring), &founding, &Author::Host).await?;
    let Founded { organization, project, user, admin_key } = founded;
    let admin_key = admin_key.ok_or_else(|| Error::internal("the first owner had an account already"))?;
    let first_sign_in = if with_link { Some(first::offer(tx, clock, keyring, user).await?) } else { None };
    Ok(Installed { organization, project, user, admin_key, first_sign_in })
}

/// What was made.
pub(crate) struct Founded {
    pub(crate) organization: OrganizationId,
    pub(crate) project: ProjectId,
    pub(crate) user: UserId,
    /// Of the owner; `None` for somebody else who has an account already, for it would open all that is theirs.
    pub(crate) admin_key: Option<Secret>,
}

/// What a new organization is to be.
pub(crate) struct Founding<'f> {
    pub(crate) name: &'f str,
    /// Of somebody who may have an account already.
    pub(crate) owner_email: &'f str,
    pub(crate) owner_name: &'f str,
    pub(crate) is_operator: bool,
    /// Who founds it, with what their key may and until when: a key for their own account may no more.
    pub(crate) founder: Option<(UserId, Scopes, Option<Timestamp>)>,
}

/// Makes an organization with its default project, and an owner with an admin key.
pub(crate) async fn found(
    tx: &mut Tx,
    with: (&Clock, &Keyring),
    founding: &Founding<'_>,
    author: &Author<'_>,
) -> Result<Founded> {
    let email = crate::resource::read_email(founding.owner_email)?;
    let (clock, _) = with;
    let now = clock.now();
    let (organization, project): (OrganizationId, ProjectId) = (clock.next_id(), clock.next_id());
    tx.execute(
        "INSERT INTO organization (id, name, created_at) VALUES ($1, $2, $3)",
        &params![organization, founding.name, now],
    )
    .await?;
    tx.execute(
        "INSERT INTO project (id, organization_id, name, is_default, created_at) VALUES ($1, $2, $3, $4, $5)",
        &params![project, organization, "Default project", true, now],
    )
    .await?;
    let (user, is_new) = owner(tx, clock, &email, founding).await?;
    let own = [
        (
            "INSERT INTO organization_user (organization_id, user_id, added_at) VALUES ($1, $2, $3)",
            Resource::Organization(organization),
            Predefined::OrganizationOwner,
        ),
        (
            "INSERT INTO project_user (project_id, user_id, added_at) VALUES ($1, $2, $3)",
            Resource::Project(project),
            Predefined::ProjectOwner,
        ),
    ];
    for (membership, resource, role) in own {
        tx.execute(membership, &params![resource.to_string(), user, now]).await?;
        let role = RoleRef::Predefined(role);
        access::assign_by(tx, (organization, None, now), resource, &user.to_string(), role).await?;
    }
    for (entity, id) in [
        (Entity::Organization, organization.to_string()),
        (Entity::Project, project.to_string()),
        (Entity::User, user.to_string()),
    ] {
        tx.log_change(Some(organization), entity, &id).await?;
    }
    let mut data = json!({"role": "owner", "email": email});
    if founding.is_operator {
        data["is_operator"] = json!(true);
    }
    let project_data = json!({"name": "Default project", "title": "Default project"});
    for (event, resource_id, payload) in [
        (Event::ProjectCreated, project.to_string(), json!({"id": project, "data": project_data})),
        (Event::UserAdded, user.to_string(), json!({"id": user, "data": data})),
    ] {
        let recorded = Recorded { event, resource_id, project: None, payload };
        audit::write(tx, with, organization, author, &recorded).await?;
    }
    let founder = founding.founder.filter(|(founder, ..)| *founder == user);
    let power = if is_new {
        Some((Scopes::UNRESTRICTED, None))
    } else {
        founder.map(|(_, scopes, until)| (scopes, until))
    };
    let admin_key = match power {
        Some(power) => {
            Some(admin_key(tx, with, (organization, user), ("Bootstrap key", power), author).await?.1)
        }
        None => None,
    };
    Ok(Founded { organization, project, user, admin_key })
}

/// The account of an address, which is made if there is none; says whether it was.
async fn owner(tx: &mut Tx, clock: &Clock, email: &str, founding: &Founding<'_>) -> Result<(UserId, bool)> {
    let known: Option<Row> = tx.optional("SELECT id FROM app_user WHERE email = $1", &params![email]).await?;
    if let Some(row) = known {
        return Ok((row.at(0)?, false));
    }
    let user: UserId = clock.next_id();
    tx.execute(
        "INSERT INTO app_user (id, email, name, is_operator, created_at) VALUES ($1, $2, $3, $4, $5)",
        &params![user, email, founding.owner_name, founding.is_operator, clock.now()],
    )
    .await?;
    Ok((user, true))
}

/// Makes an unrestricted admin key for an owner, in every organization they own, and returns them with their names.
pub async fn recover(
    tx: &mut Tx,
    clock: &Clock,
    keyring: &Keyring,
    email: &str,
) -> Result<Vec<(String, Secret)>> {
    let user = user_by_email(tx, email).await?;
    let rows: Vec<Row> = tx
        .all(
            "SELECT o.id, o.name FROM organization_user m JOIN organization o ON o.id = m.organization_id
             WHERE m.user_id = $1 ORDER BY o.id",
            &params![user],
        )
        .await?;
    let mut owned = Vec::with_capacity(rows.len());
    for row in rows {
        let (organization, name): (OrganizationId, String) = (row.get("id")?, row.get("name")?);
        // One who is frozen as well: this is how they come back if nobody else can.
        let grants = access::grants_everywhere(tx, organization, user).await?;
        if grants.iter().any(Grant::is_owner) {
            owned.push((organization, name));
        }
    }
    if owned.is_empty() {
        return Err(Error::bad_request(format!(
            "{email} owns no organization, so there is nothing to recover."
        )));
    }
    let mut keys = Vec::with_capacity(owned.len());
    for (organization, name) in owned {
        // One who was frozen meanwhile could do nothing with it.
        let thawed = tx
            .execute(
                "UPDATE organization_user SET frozen_at = NULL
                 WHERE organization_id = $1 AND user_id = $2 AND frozen_at IS NOT NULL",
                &params![organization, user],
            )
            .await?;
        if thawed > 0 {
            tx.log_change(Some(organization), Entity::User, &user.to_string()).await?;
            let payload = json!({"id": user, "changes_requested": {"frozen": false}});
            record(tx, (clock, keyring), organization, Event::UserUpdated, user.to_string(), payload).await?;
        }
        let named = ("Recovery key", (Scopes::UNRESTRICTED, None));
        let (_, key) = admin_key(tx, (clock, keyring), (organization, user), named, &Author::Host).await?;
        keys.push((name, key));
    }
    Ok(keys)
}

/// Makes a user an operator of the installation, or no longer one; says whether that changed anything.
pub async fn set_operator(
    tx: &mut Tx,
    clock: &Clock,
    keyring: &Keyring,
    email: &str,
    is_operator: bool,
) -> Result<bool> {
    let user = user_by_email(tx, email).await?;
    let changed = tx
        .execute(
            "UPDATE app_user SET is_operator = $1 WHERE id = $2 AND is_operator <> $1",
            &params![is_operator, user],
        )
        .await?;
    if changed == 0 {
        return Ok(false);
    }
    tx.log_change(None, Entity::User, &user.to_string()).await?;
    let rows: Vec<Row> =
        tx.all("SELECT organization_id FROM organization_user WHERE user_id = $1", &params![user]).await?;
    for row in rows {
        let payload = json!({"id": user, "changes_requested": {"is_operator": is_operator}});
        record(tx, (clock, keyring), row.at(0)?, Event::UserUpdated, user.to_string(), payload).await?;
    }
    Ok(true)
}

async fn user_by_email(tx: &mut Tx, email: &str) -> Result<UserId> {
    let email = crate::resource::read_email(email)?;
    let row: Option<Row> = tx.optional("SELECT id FROM app_user WHERE email = $1", &params![email]).await?;
    row.ok_or_else(|| Error::bad_request(format!("There is no user with the address {email}.")))?.at(0)
}

async fn admin_key(
    tx: &mut Tx,
    (clock, keyring): (&Clock, &Keyring),
    (organization, user): (OrganizationId, UserId),
    (name, (scopes, expires_at)): (&str, (Scopes, Option<Timestamp>)),
    author: &Author<'_>,
) -> Result<(KeyId, Secret)> {
    let new = NewKeyRow {
        kind: KeyKind::Admin,
        organization,
        project: None,
        owner: Principal::User(user),
        name: name.to_owned(),
        scopes,
        restricted_to: None,
        expires_at,
        created_by: None,
        labels: tollgate_core::labels::Labels::default(),
    };
    let (id, shown) = new.insert(tx, clock, keyring).await?;
    let payload = json!({"id": id, "data": {"scopes": scopes, "name": name, "owner_id": user, "expires_at": expires_at}});
    let recorded =
        Recorded { event: Event::ApiKeyCreated, resource_id: id.to_string(), project: None, payload };
    audit::write(tx, (clock, keyring), organization, author, &recorded).await?;
    Ok((id, shown.0))
}

async fn record(
    tx: &mut Tx,
    with: (&Clock, &Keyring),
    organization: OrganizationId,
    event: Event,
    resource_id: String,
    payload: serde_json::Value,
) -> Result<()> {
    let recorded = Recorded { event, resource_id, project: None, payload };
    audit::write(tx, with, organization, &Author::Host, &recorded).await
}

/// Takes the password of an account away, as of one that somebody else had set, with its sessions and what links it to a
/// provider of identities; says whether it had any of these.
pub async fn clear_password(tx: &mut Tx, clock: &Clock, keyring: &Keyring, email: &str) -> Result<bool> {
    let user = user_by_email(tx, email).await?;
    let mut had = 0;
    for sql in [
        "UPDATE app_user SET password = NULL WHERE id = $1 AND password IS NOT NULL",
        "DELETE FROM person_session WHERE user_id = $1",
        "DELETE FROM person_identity WHERE user_id = $1",
    ] {
        had += tx.execute(sql, &params![user]).await?;
    }
    first::end(tx, user).await?;
    if had == 0 {
        return Ok(false);
    }
    let rows: Vec<Row> =
        tx.all("SELECT organization_id FROM organization_user WHERE user_id = $1", &params![user]).await?;
    for row in rows {
        let payload = json!({"id": user, "changes_requested": {"password": "cleared"}});
        record(tx, (clock, keyring), row.at(0)?, Event::UserUpdated, user.to_string(), payload).await?;
    }
    Ok(true)
}
