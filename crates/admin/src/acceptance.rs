//! Accepting an invite: the one thing here that needs no key, for it is how people get to have any.
//!
//! The token proves that somebody was given the link, and nothing else about them. Where there is an account of the invited
//! address already, whoever accepts must prove that it is theirs, by its password or by an admin key of it; the invite
//! never gives it another password.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::json;
use tollgate_core::secret::Secret;
use tollgate_core::{
    Error, InviteId, Kind, OrganizationId, Principal, Resource, Result, RoleRef, Timestamp, UserId,
};
use tollgate_store::{Entity, Row, Tx, params};
use tollgate_wire::{Exchange, Reply};

use crate::access::{self, Grant};
use crate::actor::Origin;
use crate::arguments;
use crate::audit::{self, Author, Event, Recorded};
use crate::gate::{Admin, Desk};
use crate::password;
use crate::query::Query;
use crate::resource::invites::{self, Invite};
use crate::resource::users;

/// The longest form or body.
pub(crate) const FORM_MAX: usize = 16 * 1024;
/// Where the API takes it, and where people do.
pub(crate) const API: &str = "/tollgate/v1/invites/accept";
pub(crate) const PAGE: &str = "/invite";

const SIGN_IN_FAILED: &str = "sign_in_failed";
/// Attempts in a minute from one address, and of one account; each may cost the check of a password.
const ATTEMPTS_MAX: u32 = 10;
const MINUTE_SECONDS: i64 = 60;
/// Addresses and accounts that are told apart; those beyond are one.
const SOURCES_MAX: usize = 10_000;

/// Counts attempts: by the address they come from, and by the account that they are of.
#[derive(Default)]
pub(crate) struct Throttle(Mutex<(i64, HashMap<Source, u32>)>);

#[derive(Clone, PartialEq, Eq, Hash)]
enum Source {
    Address(IpAddr),
    Account(String),
    /// All that there was no room to tell apart.
    Other,
}

impl Throttle {
    /// Of IPv6 a network of 64 bits is one address: everybody has so many.
    pub(crate) fn pass_address(&self, address: Option<IpAddr>, now: Timestamp) -> Result<()> {
        let source = match address {
            Some(IpAddr::V6(address)) => {
                let network = u128::from(address) & !u128::from(u64::MAX);
                Source::Address(IpAddr::V6(network.into()))
            }
            Some(address) => Source::Address(address),
            None => Source::Other,
        };
        self.pass(source, now)
    }

    fn pass_account(&self, email: &str, now: Timestamp) -> Result<()> {
        self.pass(Source::Account(email.to_owned()), now)
    }

    fn pass(&self, source: Source, now: Timestamp) -> Result<()> {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let minute = now.floor_to(MINUTE_SECONDS).0;
        if counted.0 != minute {
            *counted = (minute, HashMap::new());
        }
        let is_told_apart = counted.1.len() < SOURCES_MAX || counted.1.contains_key(&source);
        let count = counted.1.entry(if is_told_apart { source } else { Source::Other }).or_default();
        *count += 1;
        if *count <= ATTEMPTS_MAX {
            return Ok(());
        }
        let wait = (minute + MINUTE_SECONDS - now.0).max(1);
        let message = "Too many attempts. Please try again in a minute.";
        Err(Error::new(Kind::RateLimited, message)
            .code("rate_limit_exceeded")
            .header("retry-after", wait.to_string()))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Acceptance {
    token: Secret,
    name: Option<String>,
    password: Option<Secret>,
}

#[derive(Serialize)]
pub(crate) struct Accepted {
    object: &'static str,
    id: InviteId,
    organization_id: OrganizationId,
    user_id: UserId,
    email: String,
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
        self.throttle.pass_account(&invite.email, now)?;
        let user = known.as_ref().map(|known| known.user);
        let account = match account(input.name.as_deref(), input.password, &invite, known, owner).await {
            Err(error) if error.code == Some(SIGN_IN_FAILED) => {
                self.note_failure(organization, user, invite.email, origin, &error).await?;
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

    /// Tells the audit log of a password that was wrong. There are only so many attempts in a minute.
    async fn note_failure(
        &self,
        organization: OrganizationId,
        user: Option<UserId>,
        email: String,
        origin: Origin,
        error: &Error,
    ) -> Result<()> {
        let Some(user) = user else { return Ok(()) };
        let payload = json!({"error_code": SIGN_IN_FAILED, "error_message": error.message});
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
        let project = match grant.resource {
            Resource::Project(project) => Some(project),
            Resource::Organization(_) => None,
        };
        let own = access::permissions_of(tx, inviter, organization, project).await?;
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

/// The page for people: a form, and what came of it. It works without scripts and loads nothing.
pub(crate) async fn serve_page(admin: &Admin, exchange: &mut Exchange, origin: Origin) {
    let answer =
        match exchange.head.method() {
            "GET" | "HEAD" => {
                let link = Query::parse(exchange.head.query()).and_then(Query::read::<Link>);
                match link {
                    Ok(link) => show(admin, link, &origin).await,
                    Err(error) => Err(error),
                }
            }
            "POST" => submit(admin, exchange, origin).await,
            _ => Err(Error::new(Kind::MethodNotAllowed, "Open the link of the invite.")
                .header("allow", "GET, POST")),
        };
    let (status, body) = match answer {
        Ok(body) => (200, body),
        Err(error) => (error.status(), page("Invite", &format!("<p>{}</p>", escaped(&error.message)))),
    };
    exchange.respond(&html(status, body)).await;
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Link {
    token: Secret,
}

/// The form, for an invite that can still be accepted.
async fn show(admin: &Admin, link: Link, origin: &Origin) -> Result<String> {
    admin.throttle.pass_address(origin.ip, admin.desk.clock.now())?;
    let (desk, token) = (admin.desk.clone(), link.token.clone());
    let looking =
        admin.db.read(move |tx| Box::pin(async move { pending(tx, &desk, &token).await.map(|_| ()) }));
    looking.await?;
    Ok(form(link.token.reveal(), None))
}

async fn submit(admin: &Admin, exchange: &mut Exchange, origin: Origin) -> Result<String> {
    admin.throttle.pass_address(origin.ip, admin.desk.clock.now())?;
    let bytes = exchange.read_body(FORM_MAX).await.map_err(|error| error.into_error(FORM_MAX))?;
    let text = String::from_utf8(bytes).map_err(|_| Error::bad_request("The form is not UTF-8."))?;
    let input: Acceptance = Query::parse(&text)?.read()?;
    let token = input.token.clone();
    match admin.accept(input, None, origin).await {
        Ok(accepted) => {
            let told = format!("<p>You are a member now, as {}.</p>", escaped(&accepted.email));
            Ok(page("Welcome", &told))
        }
        // What can be mended in the form is mended there.
        Err(error) if matches!(error.param.as_deref(), Some("password" | "name")) => {
            Ok(form(token.reveal(), Some(&error.message)))
        }
        Err(error) => Err(error),
    }
}

fn form(token: &str, complaint: Option<&str>) -> String {
    let complaint =
        complaint.map(|text| format!("<p role=\"alert\">{}</p>", escaped(text))).unwrap_or_default();
    page(
        "You are invited",
        &format!(
            "{complaint}<form method=\"post\" action=\"{PAGE}\"><input type=\"hidden\" name=\"token\" value=\"{}\">\
             <p><label>Your name<br><input name=\"name\" autocomplete=\"name\" maxlength=\"255\"></label></p>\
             <p><label>Password, of 12 characters or more; if you have an account, its password<br>\
             <input type=\"password\" name=\"password\" autocomplete=\"new-password\" required></label></p>\
             <p><button>Accept</button></p></form>",
            escaped(token)
        ),
    )
}

fn page(title: &str, body: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><meta name=\"color-scheme\" content=\"light dark\"></head>\
         <body><main><h1>{title}</h1>{body}</main></body></html>"
    )
}

fn html(status: u16, body: String) -> Reply {
    let headers = [
        ("content-type", "text/html; charset=utf-8"),
        ("cache-control", "no-store"),
        // The link is in the address of the page.
        ("referrer-policy", "no-referrer"),
        (
            "content-security-policy",
            "default-src 'none'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
        ),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
    ];
    let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    Reply { status, headers, body: body.into_bytes() }
}

fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            letter => safe.push(letter),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_so_many_attempts_in_a_minute() {
        let throttle = Throttle::default();
        let pass = |address: &str, now| throttle.pass_address(address.parse().ok(), Timestamp(now));
        for number in 0..ATTEMPTS_MAX {
            pass("1.2.3.4", 120).unwrap();
            pass(&format!("2001:db8::{number}"), 120).unwrap();
        }
        let refused = pass("1.2.3.4", 130).unwrap_err();
        assert_eq!((refused.status(), refused.code), (429, Some("rate_limit_exceeded")));
        assert!(pass("2001:db8::ffff", 130).is_err(), "it is the same network");
        pass("2001:db8:0:1::1", 130).unwrap();
        pass("1.2.3.5", 130).unwrap();
        pass("1.2.3.4", 180).unwrap();
        // Nobody who is known suffers from a crowd.
        for number in 0..2 * u32::try_from(SOURCES_MAX).unwrap() {
            let _ = throttle.pass_address(Some(IpAddr::V4(number.into())), Timestamp(181));
        }
        pass("1.2.3.4", 181).unwrap();
        for _ in 0..ATTEMPTS_MAX {
            throttle.pass_account("ada@example.com", Timestamp(240)).unwrap();
        }
        assert!(throttle.pass_account("ada@example.com", Timestamp(240)).is_err());
    }

    #[test]
    fn what_others_have_written_cannot_leave_its_place_in_a_page() {
        assert_eq!(escaped("<a href=\"x\">&'"), "&lt;a href=&quot;x&quot;&gt;&amp;&#39;");
    }
}
