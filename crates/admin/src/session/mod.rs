//! People who are signed in: who they are, for how long, and what they do over the operations of the tables.
//!
//! A session is a row, found by what verifies the token in a cookie; it is read anew for every request, so that it ends when
//! the row does, on every node. It acts as an unrestricted admin key of the person would, and is judged as one.

pub(crate) mod first;
mod oidc;
mod perform;
mod sign_in;

use serde_json::json;
use tollgate_core::secret::Secret;
use tollgate_core::{Error, Kind, OrganizationId, Result, SessionId, Timestamp, UserId};
use tollgate_store::{FromRow, Row, Tx, params};

use crate::actor::Origin;
use crate::audit::{self, Author, Event, Recorded};
use crate::gate::{Admin, Desk};
use crate::token::{self, Token};

pub(crate) use oidc::Provider;
pub use oidc::{Meaning, OidcOptions, Pending};
pub use perform::Given;

/// A week after signing in it ends, whatever was done.
const LASTS_SECONDS: i64 = 7 * 86_400;
/// After half a day of nothing it ends as well.
const IDLE_SECONDS_MAX: i64 = 12 * 3_600;
/// So often it is written down that somebody is still there.
const SEEN_EVERY_SECONDS: i64 = 60;
const PURPOSE: &str = "session";

/// Somebody who is signed in.
#[derive(Clone, Debug)]
pub struct Session {
    pub id: SessionId,
    pub user: UserId,
    pub email: String,
    pub name: String,
    /// The organization that is looked at.
    pub organization: OrganizationId,
    pub organization_name: String,
    pub is_operator: bool,
    pub has_password: bool,
    last_seen_at: Timestamp,
}

/// A session as its person sees it in a list.
#[derive(Clone, Debug)]
pub struct ListedSession {
    pub id: SessionId,
    pub method: String,
    pub created_at: Timestamp,
    pub last_seen_at: Timestamp,
    pub ip_address: Option<String>,
    pub user_agent: Option<String>,
}

/// A session that has just begun, with the token for the cookie.
pub struct OpenedSession {
    pub token: Secret,
    pub id: SessionId,
    pub organization: OrganizationId,
}

/// How somebody proved who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    Password,
    /// By a provider of identities.
    Oidc,
}

impl Proof {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::Oidc => "oidc",
        }
    }
}

/// The session is over, or never was.
pub(crate) fn ended() -> Error {
    Error::new(Kind::Unauthenticated, "You are not signed in any more.").code("session_ended")
}

impl FromRow for ListedSession {
    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            id: row.get("id")?,
            method: row.get("method")?,
            created_at: row.get("created_at")?,
            last_seen_at: row.get("last_seen_at")?,
            ip_address: row.get("ip_address")?,
            user_agent: row.get("user_agent")?,
        })
    }
}

impl FromRow for Session {
    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            id: row.get("id")?,
            user: row.get("user_id")?,
            email: row.get("email")?,
            name: row.get("name")?,
            organization: row.get("organization_id")?,
            organization_name: row.get("organization_name")?,
            is_operator: row.get("is_operator")?,
            has_password: row.get("has_password")?,
            last_seen_at: row.get("last_seen_at")?,
        })
    }
}

impl Admin {
    /// The session that a cookie's token opens, if it does. That it was seen is written down; what is asked by
    /// the script of a page that is open does not count as somebody being there.
    pub async fn session(&self, token: &Secret, is_script: bool) -> Result<Option<Session>> {
        self.desk.replica.check_fresh()?;
        let now = self.desk.clock.now();
        let verifiers = token::verifiers(&self.desk.keyring, PURPOSE, token.reveal());
        let found = self.db.read(move |tx| Box::pin(async move { find(tx, verifiers, now).await })).await?;
        let Some(session) = found else { return Ok(None) };
        if !is_script && now.0 - session.last_seen_at.0 >= SEEN_EVERY_SECONDS {
            let id = session.id;
            let sql = "UPDATE person_session SET last_seen_at = $1 WHERE id = $2";
            let seen = self.db.write(move |tx| {
                Box::pin(async move { tx.execute(sql, &params![now, id]).await.map(|_| ()) })
            });
            seen.await?;
        }
        Ok(Some(session))
    }

    /// Ends a session by its own person's wish.
    pub async fn sign_out(&self, session: &Session, origin: Origin) -> Result<()> {
        let (desk, session) = (self.desk.clone(), session.clone());
        let work = self.db.write(move |tx| {
            Box::pin(async move {
                end(tx, session.id).await?;
                let payload = json!({"id": session.id});
                tell(tx, &desk, &session, &origin, Event::LogoutSucceeded, payload).await
            })
        });
        work.await
    }

    /// The sessions of a person that have not ended, the newest first.
    pub async fn sessions_of(&self, user: UserId) -> Result<Vec<ListedSession>> {
        let now = self.desk.clock.now();
        let sql = "SELECT * FROM person_session WHERE user_id = $1 AND expires_at > $2 AND last_seen_at > $3
             ORDER BY id DESC LIMIT 100";
        let idle = Timestamp(now.0 - IDLE_SECONDS_MAX);
        self.db.read(move |tx| Box::pin(async move { tx.all(sql, &params![user, now, idle]).await })).await
    }

    /// Ends another session of the same person.
    pub async fn end_session(&self, session: &Session, id: SessionId, origin: Origin) -> Result<()> {
        let (desk, session) = (self.desk.clone(), session.clone());
        let work = self.db.write(move |tx| {
            Box::pin(async move {
                let sql = "DELETE FROM person_session WHERE id = $1 AND user_id = $2";
                if tx.execute(sql, &params![id, session.user]).await? == 0 {
                    return Err(Error::not_found("session"));
                }
                tell(tx, &desk, &session, &origin, Event::LogoutSucceeded, json!({"id": id})).await
            })
        });
        work.await
    }

    /// Looks at another organization that the person is a member of.
    pub async fn look_at(&self, session: &Session, organization: OrganizationId) -> Result<()> {
        let session = session.clone();
        let work = self.db.write(move |tx| {
            Box::pin(async move {
                let sql = "UPDATE person_session SET organization_id = $1
                    WHERE id = $2 AND EXISTS (SELECT 1 FROM organization_user o
                        WHERE o.organization_id = $1 AND o.user_id = $3 AND o.frozen_at IS NULL)";
                match tx.execute(sql, &params![organization, session.id, session.user]).await? {
                    0 => Err(Error::not_found("organization")),
                    _ => Ok(()),
                }
            })
        });
        work.await
    }

    /// The organizations that a person can look at, by their ids and names.
    pub fn organizations_of(&self, session: &Session) -> Vec<(OrganizationId, String)> {
        let snapshot = self.desk.replica.snapshot();
        let mut all: Vec<_> = snapshot
            .organizations_of(session.user)
            .map(|organization| (organization.id, organization.name.clone()))
            .collect();
        all.sort_by(|a, b| a.1.cmp(&b.1).then(a.0.cmp(&b.0)));
        all
    }
}

/// Being a member and not frozen is looked at here, for it is what a session is good for.
async fn find(tx: &mut Tx, verifiers: Vec<(i64, Vec<u8>)>, now: Timestamp) -> Result<Option<Session>> {
    for (version, verifier) in verifiers {
        let found: Option<Session> = tx
            .optional(
                "SELECT s.id, s.user_id, s.organization_id, s.last_seen_at, u.email, u.name, u.is_operator,
                    u.password IS NOT NULL AS has_password, g.name AS organization_name
                 FROM person_session s JOIN app_user u ON u.id = s.user_id
                    JOIN organization g ON g.id = s.organization_id
                    JOIN organization_user o ON o.user_id = s.user_id AND o.organization_id = s.organization_id
                 WHERE s.verifier = $1 AND s.pepper_version = $2 AND s.expires_at > $3 AND s.last_seen_at > $4
                    AND o.frozen_at IS NULL",
                &params![verifier, version, now, Timestamp(now.0 - IDLE_SECONDS_MAX)],
            )
            .await?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

async fn end(tx: &mut Tx, id: SessionId) -> Result<()> {
    tx.execute("DELETE FROM person_session WHERE id = $1", &params![id]).await?;
    Ok(())
}

/// Begins a session for somebody who has proved who they are. It is told; a session of theirs in the same browser ends.
async fn open(
    tx: &mut Tx,
    desk: &Desk,
    (user, email): (UserId, &str),
    proof: Proof,
    origin: &Origin,
    before: Option<&Secret>,
) -> Result<OpenedSession> {
    let now = desk.clock.now();
    tx.execute("DELETE FROM person_session WHERE expires_at <= $1", &params![now]).await?;
    let verifiers =
        before.map(|token| token::verifiers(&desk.keyring, PURPOSE, token.reveal())).unwrap_or_default();
    for (version, verifier) in verifiers {
        let sql = "DELETE FROM person_session WHERE verifier = $1 AND pepper_version = $2";
        tx.execute(sql, &params![verifier, version]).await?;
    }
    let row: Option<Row> = tx
        .optional(
            "SELECT organization_id FROM organization_user WHERE user_id = $1 AND frozen_at IS NULL
             ORDER BY added_at, organization_id LIMIT 1",
            &params![user],
        )
        .await?;
    let nowhere = || {
        let message = "You are a member of no organization, or frozen. Ask whoever runs yours.";
        Error::new(Kind::Forbidden, message).code("no_organization")
    };
    let organization: OrganizationId = row.ok_or_else(nowhere)?.at(0)?;
    let (id, token): (SessionId, _) = (desk.clock.next_id(), Token::new(&desk.keyring, PURPOSE));
    tx.execute(
        "INSERT INTO person_session (id, user_id, organization_id, pepper_version, verifier, method, created_at,
            last_seen_at, expires_at, ip_address, user_agent)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $7, $8, $9, $10)",
        &params![
            id,
            user,
            organization,
            token.pepper_version,
            token.verifier.to_vec(),
            proof.as_str(),
            now,
            Timestamp(now.0 + LASTS_SECONDS),
            origin.ip.map(|ip| ip.to_string()),
            origin.user_agent,
        ],
    )
    .await?;
    first::end(tx, user).await?;
    let author = Author::Person { user, email, origin };
    let recorded = Recorded {
        event: Event::LoginSucceeded,
        resource_id: user.to_string(),
        project: None,
        payload: json!({"id": id, "method": proof.as_str()}),
    };
    audit::write(tx, (&desk.clock, &desk.keyring), organization, &author, &recorded).await?;
    Ok(OpenedSession { token: token.text, id, organization })
}

async fn tell(
    tx: &mut Tx,
    desk: &Desk,
    session: &Session,
    origin: &Origin,
    event: Event,
    payload: serde_json::Value,
) -> Result<()> {
    let author = Author::Person { user: session.user, email: &session.email, origin };
    let recorded = Recorded { event, resource_id: session.user.to_string(), project: None, payload };
    audit::write(tx, (&desk.clock, &desk.keyring), session.organization, &author, &recorded).await
}
