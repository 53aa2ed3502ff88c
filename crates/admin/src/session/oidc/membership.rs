//! Who somebody is here whom the provider vouches for, and what their groups make of them.

use serde_json::json;
use tollgate_core::key::KeyKind;
use tollgate_core::{
    Error, Kind, OrganizationId, Permissions, Predefined, Principal, Resource, Result, RoleRef, Scopes,
    SessionId, UserId,
};
use tollgate_store::{Entity, Row, Tx, params};

use super::{Identity, Meaning, OidcOptions, refused};
use crate::access;
use crate::actor::{Actor, Credential, Origin};
use crate::audit::Event;
use crate::gate::{Admin, Cx, Desk};
use crate::resource::{role_assignments, users};

/// Somebody, as far as this transaction knows.
struct Person {
    user: UserId,
    email: String,
    /// What of them was made now, if something was: the account, or that it is the provider's.
    made: Option<&'static str>,
}

impl Admin {
    /// Finds or makes the account of somebody whom the provider vouches for, and does what their groups say. `proved` is who is
    /// signed in already in the same browser.
    pub(super) async fn admit_identity(
        &self,
        options: &OidcOptions,
        identity: Identity,
        proved: Option<UserId>,
        origin: &Origin,
    ) -> Result<(UserId, String)> {
        let (options, desk, origin) = (options.clone(), self.desk.clone(), origin.clone());
        let session: SessionId = desk.clock.next_id();
        let work = self.db.write_with(move |mut tx| {
            Box::pin(async move {
                let person = match person(&mut tx, &desk, &options, &identity, proved).await {
                    Ok(person) => person,
                    Err(error) => return (tx, Err(error)),
                };
                let organization = match organization(&mut tx, &options).await {
                    Ok(organization) => organization,
                    Err(error) => return (tx, Err(error)),
                };
                // What is told was done by their signing in.
                let actor = Actor {
                    credential: Credential::Session(session),
                    kind: KeyKind::Admin,
                    organization,
                    project: None,
                    owner: Principal::User(person.user),
                    email: Some(person.email.clone()),
                    scopes: Scopes::UNRESTRICTED,
                    expires_at: None,
                    at: None,
                    permissions: Permissions::NONE,
                    restricted_to: None,
                    is_operator: false,
                    calls_models: false,
                    origin,
                };
                let mut cx = Cx::new(tx, desk, actor);
                let done = match join(&mut cx, &options, &identity, &person).await {
                    Ok(()) => cx.write_recorded().await,
                    Err(error) => Err(error),
                };
                let seq = cx.tx.changed_to();
                (cx.tx, done.map(|()| (person, seq)))
            })
        });
        let (person, seq) = work.await?;
        if let Some(seq) = seq {
            self.desk.replica.reach(seq).await?;
        }
        Ok((person.user, person.email))
    }
}

/// By issuer and subject; the first time by the address, if the provider has verified it.
async fn person(
    tx: &mut Tx,
    desk: &Desk,
    options: &OidcOptions,
    identity: &Identity,
    proved: Option<UserId>,
) -> Result<Person> {
    let issuer = options.issuer.trim_end_matches('/');
    let row: Option<Row> = tx
        .optional(
            "SELECT u.id, u.email FROM person_identity i JOIN app_user u ON u.id = i.user_id
             WHERE i.issuer = $1 AND i.subject = $2",
            &params![issuer, identity.sub.as_str()],
        )
        .await?;
    if let Some(row) = row {
        return Ok(Person { user: row.at(0)?, email: row.at(1)?, made: None });
    }
    let email =
        identity.email.as_deref().ok_or_else(|| refused("The provider tells no e-mail address of you."))?;
    let email =
        users::read_email(email).map_err(|_| refused("The provider tells an address that is none."))?;
    match identity.is_verified() {
        Some(true) => {}
        None if options.trusts_addresses => {}
        _ => return Err(refused("The provider has not verified your e-mail address.")),
    }
    let known: Option<Row> = tx
        .optional(
            "SELECT u.id, EXISTS (SELECT 1 FROM person_identity i WHERE i.user_id = u.id AND i.issuer = $2),
                u.password IS NOT NULL
             FROM app_user u WHERE u.email = $1",
            &params![email, issuer],
        )
        .await?;
    let (user, made): (UserId, &'static str) = match known {
        // An address that somebody else has now would be their account.
        Some(row) if row.at::<bool>(1)? => {
            return Err(refused("This address belongs to somebody else of the same provider."));
        }
        // Nobody has looked whether the address is theirs who chose its password: whoever may invite could have.
        Some(row) if row.at::<bool>(2)? && proved != Some(row.at(0)?) => {
            return Err(refused(
                "There is an account of your address with a password. Sign in with that, and then by the provider; if it is not \
                 yours, have the operator clear it.",
            ));
        }
        Some(row) => (row.at(0)?, "linked"),
        // Whom nobody wants leaves nothing behind.
        None if wanted(options, identity).is_empty() => {
            let message = "You are a member of no organization. Ask whoever runs yours.";
            return Err(Error::new(Kind::Forbidden, message).code("no_organization"));
        }
        None => {
            let user: UserId = desk.clock.next_id();
            let name =
                identity.name.as_deref().map(str::trim).filter(|name| !name.is_empty()).unwrap_or(&email);
            let name: String = name.chars().filter(|letter| !letter.is_control()).take(255).collect();
            tx.execute(
                "INSERT INTO app_user (id, email, name, is_operator, created_at) VALUES ($1, $2, $3, $4, $5)",
                &params![user, email, name, false, desk.clock.now()],
            )
            .await?;
            (user, "made")
        }
    };
    tx.execute(
        "INSERT INTO person_identity (issuer, subject, user_id, created_at) VALUES ($1, $2, $3, $4)",
        &params![issuer, identity.sub.as_str(), user, desk.clock.now()],
    )
    .await?;
    Ok(Person { user, email, made: Some(made) })
}

/// The organization that people become members of.
async fn organization(tx: &mut Tx, options: &OidcOptions) -> Result<OrganizationId> {
    if let Some(organization) = options.organization {
        return Ok(organization);
    }
    let rows: Vec<Row> = tx.all("SELECT id FROM organization ORDER BY id LIMIT 2", &[]).await?;
    match rows.as_slice() {
        [one] => one.at(0),
        _ => Err(Error::new(
            Kind::Unavailable,
            "There are several organizations: the operator has to say by --oidc-organization which people join.",
        )
        .code("identity_provider_failed")),
    }
}

/// What somebody is to be here, by their groups and as everybody whom the provider knows.
fn wanted(options: &OidcOptions, identity: &Identity) -> Vec<Meaning> {
    let claimed = identity.groups(&options.groups_claim);
    let of_groups =
        options.groups.iter().filter(|(group, _)| claimed.contains(group)).map(|(_, meaning)| *meaning);
    of_groups.chain(options.usual).collect()
}

/// Makes somebody a member if their groups or the usual say so, and does what their groups say.
async fn join(cx: &mut Cx, options: &OidcOptions, identity: &Identity, person: &Person) -> Result<()> {
    if let Some(made) = person.made {
        let changes = json!({"identity": made, "issuer": options.issuer, "subject": identity.sub});
        let payload = json!({"id": person.user, "changes_requested": changes});
        cx.record(Event::UserUpdated, person.user, None, payload);
    }
    let mut wanted = wanted(options, identity);
    let member: Option<Row> = cx
        .tx
        .optional(
            "SELECT user_id FROM organization_user WHERE organization_id = $1 AND user_id = $2",
            &params![cx.organization(), person.user],
        )
        .await?;
    if member.is_none() {
        if wanted.is_empty() {
            // They may be a member of another organization; opening the session tells.
            return Ok(());
        }
        cx.tx
            .execute(
                "INSERT INTO organization_user (organization_id, user_id, added_at) VALUES ($1, $2, $3)",
                &params![cx.organization(), person.user, cx.now],
            )
            .await?;
        cx.changed(Entity::User, person.user).await?;
        let data = json!({"id": person.user, "data": {"role": "reader", "email": person.email}});
        cx.record(Event::UserAdded, person.user, None, data);
        // Whoever is a member is a reader at least.
        wanted.push(Meaning::Reader);
    }
    for meaning in &wanted {
        give(cx, person.user, *meaning).await?;
    }
    // What a group of the provider's gives is taken when it is not theirs any more; what is given here by hand stays.
    let mapped = options.groups.iter().map(|(_, meaning)| *meaning);
    for meaning in mapped.filter(|meaning| !wanted.contains(meaning)) {
        take(cx, person.user, meaning).await?;
    }
    Ok(())
}

fn role_of(meaning: Meaning) -> Option<RoleRef> {
    match meaning {
        Meaning::Owner => Some(RoleRef::Predefined(Predefined::OrganizationOwner)),
        Meaning::Reader => Some(RoleRef::Predefined(Predefined::OrganizationReader)),
        Meaning::Role(role) => Some(RoleRef::Custom(role)),
        Meaning::Group(_) => None,
    }
}

/// The last owner stays one, whatever the provider says: nobody could mend it.
async fn take(cx: &mut Cx, user: UserId, meaning: Meaning) -> Result<()> {
    let resource = Resource::Organization(cx.organization());
    let is_taken = match (meaning, role_of(meaning)) {
        (Meaning::Group(group), _) => {
            let sql = "DELETE FROM group_user WHERE group_id = $1 AND user_id = $2
                AND EXISTS (SELECT 1 FROM user_group g WHERE g.id = $1 AND g.organization_id = $3)";
            cx.tx.execute(sql, &params![group, user, cx.organization()]).await? > 0
        }
        (_, Some(role)) => access::unassign(cx, resource, &user.to_string(), role).await?,
        (_, None) => false,
    };
    if !is_taken {
        return Ok(());
    }
    if access::keep_an_owner(cx, "groups").await.is_err() {
        tracing::warn!(%user, "the last owner of the organization stays one, against the word of the provider of identities");
        return give_silently(cx, user, meaning).await.map(|_| ());
    }
    cx.changed(Entity::User, user).await?;
    tell(cx, user, meaning, false);
    access::lapse(cx, user).await
}

async fn give(cx: &mut Cx, user: UserId, meaning: Meaning) -> Result<()> {
    if give_silently(cx, user, meaning).await? {
        cx.changed(Entity::User, user).await?;
        tell(cx, user, meaning, true);
    }
    Ok(())
}

/// Whether it was not theirs before. A group or a role that is not there, or another organization's, gives nothing.
async fn give_silently(cx: &mut Cx, user: UserId, meaning: Meaning) -> Result<bool> {
    let resource = Resource::Organization(cx.organization());
    let role = match (meaning, role_of(meaning)) {
        (Meaning::Group(group), _) => {
            let sql = "INSERT INTO group_user (group_id, user_id, added_at)
                SELECT id, $2, $3 FROM user_group WHERE id = $1 AND organization_id = $4
                ON CONFLICT (group_id, user_id) DO NOTHING";
            return Ok(cx.tx.execute(sql, &params![group, user, cx.now, cx.organization()]).await? > 0);
        }
        (_, Some(role)) => role,
        (_, None) => return Ok(false),
    };
    if let RoleRef::Custom(id) = role {
        let sql = "SELECT id FROM role WHERE id = $1 AND resource_id = $2";
        let found: Option<Row> = cx.tx.optional(sql, &params![id, resource.to_string()]).await?;
        if found.is_none() {
            return Ok(false);
        }
    }
    access::assign(cx, resource, &user.to_string(), role).await
}

fn tell(cx: &mut Cx, user: UserId, meaning: Meaning, is_given: bool) {
    let resource = Resource::Organization(cx.organization());
    match (meaning, role_of(meaning)) {
        (Meaning::Group(group), _) => {
            let what = if is_given { "user_added" } else { "user_removed" };
            let payload = json!({"id": group, "changes_requested": {what: user}});
            cx.record(Event::GroupUpdated, group, None, payload);
        }
        (_, Some(role)) => {
            let event = if is_given { Event::RoleAssignmentCreated } else { Event::RoleAssignmentDeleted };
            role_assignments::record_user(cx, event, resource, user, role);
        }
        (_, None) => {}
    }
}
