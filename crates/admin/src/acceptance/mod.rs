//! Accepting an invite: the one thing here that needs no key, for it is how people get to have any.
//!
//! The token proves that somebody was given the link, and nothing else about them. Where there is an account of the invited
//! address already, whoever accepts must prove that it is theirs, by its password or by an admin key of it; the invite
//! never gives it another password.

mod failures;
mod throttle;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tollgate_core::secret::Secret;
use tollgate_core::{Error, InviteId, Kind, OrganizationId, Principal, Resource, Result, RoleRef, UserId};
use tollgate_store::{Entity, Row, Tx, params};

use crate::access::{self, Grant};
use crate::actor::Origin;
use crate::arguments;
use crate::audit::{self, Author, Event, Recorded};
use crate::gate::{Admin, Desk};
use crate::password;
use crate::resource::invites::{self, Invite};
use crate::resource::users;

pub(crate) use failures::{Failure, Failures};
pub(crate) use throttle::Throttle;

/// The longest form or body.
pub(crate) const FORM_MAX: usize = 16 * 1024;
/// Where the API takes it; people do it on a page of the console.
pub(crate) const API: &str = "/tollgate/v1/invites/accept";

pub(crate) const SIGN_IN_FAILED: &str = "sign_in_failed";

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Acceptance {
    token: Secret,
    name: Option<String>,
    password: Option<Secret>,
}

#[derive(Serialize, JsonSchema)]
pub struct Accepted {
    object: &'static str,
    id: InviteId,
    organization_id: OrganizationId,
    pub(crate) user_id: UserId,
    pub(crate) email: String,
}

/// What a page says to whoever opens the link of an invite.
#[derive(Clone, Debug)]
pub struct Invited {
    pub email: String,
    pub organization: String,
    /// Whether there is an account of the address, which whoever accepts has to prove to be theirs.
    pub has_account: bool,
}

/// Whose invite it is to be.
enum Account {
    /// There is none of the address: it is made, with this name and password.
    New { name: String, password: String },
    /// There is one, and it was proved.
    Proved(UserId),
    /// There is one that is nobody's yet: without a password, and a member of nothing.
    Unclaimed(UserId, String),
}

/// What is known of the account of an address.
struct Known {
    user: UserId,
    password: Option<String>,
    is_in_use: bool,
}

impl Admin {
    /// What the invite of a link is, if it can still be accepted.
    pub async fn invited(&self, token: &Secret, origin: &Origin) -> Result<Invited> {
        self.throttle.pass_address(origin.ip, self.desk.clock.now())?;
        let (desk, token) = (self.desk.clone(), token.clone());
        let looking = self.db.read(move |tx| {
            Box::pin(async move {
                let (invite, row) = pending(tx, &desk, &token).await?;
                let organization: OrganizationId = row.get("organization_id")?;
                let named: Row =
                    tx.one("SELECT name FROM organization WHERE id = $1", &params![organization]).await?;
                let known = known(tx, &invite.email).await?;
                let has_account = known.is_some_and(|known| known.password.is_some() || known.is_in_use);
                Ok(Invited { email: invite.email, organization: named.at(0)?, has_account })
            })
        });
        looking.await
    }

    /// Accepts an invite. `owner` is whoever presents a key besides the token. The address was let pass before.
    pub(crate) async fn accept(
        &self,
        input: Acceptance,
        owner: Option<UserId>,
        origin: Origin,
    ) -> Result<Accepted> {
        let now = self.desk.clock.now();
        let (desk, token) = (self.desk.clone(), input.token.clone());
        let read = self.db.read(move |tx| {
            Box::pin(async move {
                let (invite, row) = pending(tx, &desk, &token).await?;
                let known = known(tx, &invite.email).await?;
                Ok((invite, row.get("organization_id")?, known))
            })
        });
        let (invite, organization, known) = read.await?;
        let user = known.as_ref().map(|known| known.user);
        let account = match self.throttle.pass_account(&invite.email, now) {
            Ok(()) => account(input.name.as_deref(), input.password, &invite, known, owner).await,
            // One more that was refused.
            Err(error) => Err(error),
        };
        let account = match account {
            Err(error) if error.code == Some(SIGN_IN_FAILED) || error.kind == Kind::RateLimited => {
                if let Some(user) = user {
                    let throttled = u32::from(error.kind == Kind::RateLimited);
                    let email = invite.email;
                    let failure = Failure { organization, user, email, origin, attempts: 1, throttled };
                    if let Some(told) = self.failures.note(failure, now) {
                        self.tell_failure(told).await?;
                    }
                }
                return Err(error);
            }
            account => account?,
        };
        let (desk, token) = (self.desk.clone(), input.token);
        let work = self.db.write(move |tx| {
            Box::pin(async move {
                let accepted = admit(tx, &desk, &token, account, &origin).await?;
                Ok((accepted, tx.changed_to()))
            })
        });
        let (accepted, seq) = work.await?;
        if let Some(seq) = seq {
            self.desk.replica.reach(seq).await?;
        }
        Ok(accepted)
    }

    /// Tells the audit log of sign-ins that were refused and not told yet: of minutes that are over, or at the end of all.
    pub async fn tell_failures(&self, is_end: bool) -> Result<()> {
        let mut told = Ok(());
        for failure in self.failures.take(self.desk.clock.now(), is_end) {
            if let Err(error) = self.tell_failure(failure.clone()).await {
                self.failures.put_back(&failure);
                told = Err(error);
            }
        }
        told
    }

    pub(crate) async fn tell_failure(&self, failure: Failure) -> Result<()> {
        let Failure { organization, user, email, origin, attempts, throttled } = failure;
        let message = if throttled == attempts {
            "There were too many attempts."
        } else {
            "There is an account of this address, and the password was not its."
        };
        let payload = json!({"error_code": SIGN_IN_FAILED, "error_message": message, "attempts": attempts, "throttled": throttled});
        let desk = self.desk.clone();
        self.db
            .write(move |tx| {
                Box::pin(async move {
                    let author = Author::Person { user, email: &email, origin: &origin };
                    let event = Event::LoginFailed;
                    let recorded = Recorded { event, resource_id: user.to_string(), project: None, payload };
                    audit::write(tx, (&desk.clock, &desk.keyring), organization, &author, &recorded).await
                })
            })
            .await
    }
}

/// The invite that a token opens, if it can still be accepted.
async fn pending(tx: &mut Tx, desk: &Desk, token: &Secret) -> Result<(Invite, Row)> {
    let refused = |code, message| Err(Error::bad_request(message).code(code).param("token"));
    match invites::opened(tx, &desk.keyring, token.reveal()).await? {
        None => refused(
            "invite_invalid",
            "There is no such invite. It may have been sent again, with another link.",
        ),
        Some((invite, _)) if invite.accepted_at.is_some() => {
            refused("invite_accepted", "The invite was accepted already.")
        }
        Some((invite, _)) if !invite.is_pending(desk.clock.now()) => {
            refused("invite_expired", "The invite has expired. Ask for it to be sent again.")
        }
        Some(found) => Ok(found),
    }
}

async fn known(tx: &mut Tx, email: &str) -> Result<Option<Known>> {
    let row: Option<Row> = tx
        .optional(
            "SELECT u.id, u.password, u.is_operator,
                EXISTS (SELECT 1 FROM organization_user o WHERE o.user_id = u.id) AS is_member
             FROM app_user u WHERE u.email = $1",
            &params![email],
        )
        .await?;
    let read = |row: Row| {
        let is_in_use = row.get::<bool>("is_operator")? || row.get::<bool>("is_member")?;
        Ok(Known { user: row.get("id")?, password: row.get("password")?, is_in_use })
    };
    row.map(read).transpose()
}

/// Whose it is to be, as far as that was proved.
async fn account(
    name: Option<&str>,
    given: Option<Secret>,
    invite: &Invite,
    known: Option<Known>,
    owner: Option<UserId>,
) -> Result<Account> {
    let missing = || {
        let message = "Missing required parameter: 'password'.";
        Error::bad_request(message).code("missing_required_parameter").param("password")
    };
    match known {
        Some(known) if owner == Some(known.user) => Ok(Account::Proved(known.user)),
        Some(Known { user, password: Some(stored), .. }) => {
            let given = given.ok_or_else(missing)?;
            if password::verify(given, stored).await? {
                return Ok(Account::Proved(user));
            }
            let message = "There is an account of this address, and this is not its password.";
            Err(Error::new(Kind::Unauthenticated, message).code(SIGN_IN_FAILED).param("password"))
        }
        Some(Known { is_in_use: true, .. }) => {
            let message = "There is an account of this address. Prove that it is yours: accept the invite with an admin key of it \
                           in 'Authorization'.";
            Err(Error::new(Kind::Forbidden, message).code("sign_in_required"))
        }
        known => {
            let given = given.ok_or_else(missing)?;
            password::check(&given)?;
            let name = match name.filter(|name| !name.is_empty()) {
                Some(name) => arguments::name("name", name)?,
                None => invite.email.clone(),
            };
            let password = password::hash(given).await?;
            Ok(match known {
                Some(known) => Account::Unclaimed(known.user, password),
                None => Account::New { name, password },
            })
        }
    }
}

/// Makes whoever accepts a member, in one transaction that sees the invite and the account as they are now.
async fn admit(
    tx: &mut Tx,
    desk: &Desk,
    token: &Secret,
    account: Account,
    origin: &Origin,
) -> Result<Accepted> {
    let now = desk.clock.now();
    let (invite, row) = pending(tx, desk, token).await?;
    let (organization, inviter): (OrganizationId, UserId) =
        (row.get("organization_id")?, row.get("created_by")?);
    let grants = grants(&invite, organization)?;
    still_vouched_for(tx, inviter, organization, &grants).await?;
    let user = owner_of(tx, desk, &invite.email, account).await?;
    tx.execute(
        "INSERT INTO organization_user (organization_id, user_id, added_at) VALUES ($1, $2, $3)
         ON CONFLICT (organization_id, user_id) DO NOTHING",
        &params![organization, user, now],
    )
    .await?;
    let mut joined = Vec::new();
    for grant in grants {
        if let Resource::Project(project) = grant.resource {
            let found: Option<Row> = tx
                .optional(
                    "SELECT id FROM project WHERE id = $1 AND organization_id = $2 AND archived_at IS NULL",
                    &params![project, organization],
                )
                .await?;
            // It was archived since.
            if found.is_none() {
                continue;
            }
            tx.execute(
                "INSERT INTO project_user (project_id, user_id, added_at) VALUES ($1, $2, $3)
                 ON CONFLICT (project_id, user_id) DO NOTHING",
                &params![project, user, now],
            )
            .await?;
            joined.push((project, grant.role));
        }
        let by = (organization, Some(Principal::User(inviter)), now);
        access::assign_by(tx, by, grant.resource, &user.to_string(), grant.role).await?;
    }
    let sql = "UPDATE invite SET accepted_at = $1 WHERE id = $2 AND accepted_at IS NULL";
    if tx.execute(sql, &params![now, invite.id]).await? == 0 {
        return Err(Error::bad_request("The invite was accepted already.")
            .code("invite_accepted")
            .param("token"));
    }
    tx.log_change(Some(organization), Entity::User, &user.to_string()).await?;
    let author = Author::Person { user, email: &invite.email, origin };
    let added = |role: &str| json!({"id": user, "data": {"role": role, "email": invite.email}});
    let mut events = vec![
        (Event::InviteAccepted, invite.id.to_string(), None, json!({"id": invite.id})),
        (Event::UserAdded, user.to_string(), None, added(&invite.role)),
    ];
    for (project, role) in joined {
        let RoleRef::Predefined(role) = role else { continue };
        events.push((Event::UserAdded, user.to_string(), Some(project), added(role.name())));
    }
    for (event, resource_id, project, payload) in events {
        let recorded = Recorded { event, resource_id, project, payload };
        audit::write(tx, (&desk.clock, &desk.keyring), organization, &author, &recorded).await?;
    }
    Ok(Accepted {
        object: "tollgate.invite.accepted",
        id: invite.id,
        organization_id: organization,
        user_id: user,
        email: invite.email,
    })
}

fn grants(invite: &Invite, organization: OrganizationId) -> Result<Vec<Grant>> {
    let role = users::read_role(&invite.role)?;
    let of_projects = invite.projects.iter().filter_map(invites::InvitedTo::read);
    let of_projects = of_projects.map(|(project, role)| Grant::of(Resource::Project(project), role));
    Ok(std::iter::once(Grant::of(Resource::Organization(organization), role)).chain(of_projects).collect())
}

/// An invite gives no more than whoever sent it could give today.
async fn still_vouched_for(
    tx: &mut Tx,
    inviter: UserId,
    organization: OrganizationId,
    grants: &[Grant],
) -> Result<()> {
    for grant in grants {
        let own = access::permissions_of(tx, inviter, organization, grant.resource.project()).await?;
        if !own.contains(grant.permissions) {
            let message = "Whoever sent the invite can no longer give what it gives. Ask for another.";
            return Err(Error::bad_request(message).code("invite_invalid").param("token"));
        }
    }
    Ok(())
}

/// The account, made or claimed if need be. What was found of it before must still be so.
async fn owner_of(tx: &mut Tx, desk: &Desk, email: &str, account: Account) -> Result<UserId> {
    let changed = || Error::unavailable("try_again", "The account was changed meanwhile. Please try again.");
    let known = known(tx, email).await?;
    match (account, known) {
        (Account::Proved(user), Some(known)) if known.user == user => Ok(user),
        (Account::Unclaimed(user, password), Some(known))
            if known.user == user && known.password.is_none() && !known.is_in_use =>
        {
            tx.execute("UPDATE app_user SET password = $1 WHERE id = $2", &params![password, user]).await?;
            Ok(user)
        }
        (Account::New { name, password }, None) => {
            let user: UserId = desk.clock.next_id();
            tx.execute(
                "INSERT INTO app_user (id, email, name, is_operator, created_at, password)
                 VALUES ($1, $2, $3, $4, $5, $6)",
                &params![user, email, name, false, desk.clock.now(), password],
            )
            .await?;
            Ok(user)
        }
        _ => Err(changed()),
    }
}
