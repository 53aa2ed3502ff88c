//! Proving who one is: by a password, by an admin key that has no password yet, by the link of an invite or
//! of the first start.

use serde_json::json;
use tollgate_core::key::KeyKind;
use tollgate_core::secret::Secret;
use tollgate_core::{Error, Kind, OrganizationId, Result, Timestamp, UserId};
use tollgate_replica::Refused;
use tollgate_store::{Row, params};

use super::{OpenedSession, Proof, Session, first, open, tell};
use crate::acceptance::{Acceptance, Failure, SIGN_IN_FAILED};
use crate::actor::{Actor, Origin};
use crate::audit::{self, Author, Event, Recorded};
use crate::gate::Admin;
use crate::password;

/// Of whom there is no account, so that trying it takes as long as of whom there is one.
const NOBODYS_PASSWORD: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

const EMAIL_BYTES_MAX: usize = 320;

struct Account {
    user: UserId,
    email: String,
    password: Option<String>,
    organization: Option<OrganizationId>,
}

impl Admin {
    /// Signs somebody in by e-mail address and password. `before` is the token of a session of the same browser.
    pub async fn sign_in(
        &self,
        email: &str,
        password: Secret,
        origin: Origin,
        before: Option<Secret>,
    ) -> Result<OpenedSession> {
        let now = self.desk.clock.now();
        self.desk.replica.check_fresh()?;
        self.throttle.pass_address(origin.ip, now)?;
        let email = email.trim().to_lowercase();
        // No address is longer, and none of these is kept.
        if email.len() > EMAIL_BYTES_MAX {
            return Err(refused());
        }
        let known = self.account(email.clone()).await?;
        let proved = match self.throttle.pass_account(&email, now) {
            Ok(()) => prove(known.as_ref(), password).await,
            Err(error) => Err(error),
        };
        if let Err(error) = proved {
            if let Some(account) = &known {
                self.note_failure(account, &error, &origin, now).await?;
            }
            return Err(error);
        }
        let Some(account) = known else { return Err(refused()) };
        self.open_session(account.user, account.email, Proof::Password, origin, before).await
    }

    /// Begins a session for somebody who has proved who they are.
    pub async fn open_session(
        &self,
        user: UserId,
        email: String,
        proof: Proof,
        origin: Origin,
        before: Option<Secret>,
    ) -> Result<OpenedSession> {
        let desk = self.desk.clone();
        let work = self.db.write(move |tx| {
            Box::pin(async move { open(tx, &desk, (user, &email), proof, &origin, before.as_ref()).await })
        });
        work.await
    }

    /// Accepts an invite and signs whoever accepted it in.
    pub async fn accept_and_sign_in(
        &self,
        input: Acceptance,
        origin: Origin,
        before: Option<Secret>,
    ) -> Result<OpenedSession> {
        self.desk.replica.check_fresh()?;
        self.throttle.pass_address(origin.ip, self.desk.clock.now())?;
        let accepted = self.accept(input, None, origin.clone()).await?;
        let opened =
            self.open_session(accepted.user_id, accepted.email, Proof::Password, origin, before).await?;
        Ok(opened)
    }

    /// Sets the password of whoever owns an admin key, and signs them in: how the first owner gets to have one, and whoever
    /// has forgotten theirs. The key must be all that its owner is: unrestricted, and without an end.
    pub async fn claim(
        &self,
        key: &Secret,
        password: Secret,
        origin: Origin,
        before: Option<Secret>,
    ) -> Result<OpenedSession> {
        let now = self.desk.clock.now();
        self.desk.replica.check_fresh()?;
        self.throttle.pass_address(origin.ip, now)?;
        let named = |mut error: Error| {
            error.param = Some("admin_key".to_owned());
            error
        };
        let actor = {
            let snapshot = self.desk.replica.snapshot();
            let found = snapshot.verify(&self.desk.keyring, key.reveal().trim(), now);
            let found = found.map_err(|refused: Refused| named(refused.error(key.reveal().trim())))?;
            self.desk.replica.note_use(found, now);
            Actor::of(found, &snapshot, None, origin.clone())
        };
        let unfit = |message: &str| Err(Error::invalid("admin_key", message).code("unfit_key"));
        if actor.kind != KeyKind::Admin {
            return unfit("This is the key of a project. A password is set by an admin key.");
        }
        let Some(user) = actor.owner.user() else {
            return unfit("The key is a machine's, and people sign in here.");
        };
        if !actor.scopes.is_unrestricted() || actor.restricted_to.is_some() || actor.expires_at.is_some() {
            return unfit(
                "A password is as good as a key without scopes, projects and expiry. This key has some.",
            );
        }
        // A password opens all organizations of its person, and the key is of one.
        if self.desk.replica.snapshot().is_in_others(user, actor.organization) {
            return unfit(
                "You are a member of several organizations, and the key is of one of them. Ask the operator to clear your \
                 password, and for an invite; or sign in by the provider.",
            );
        }
        password::check(&password)?;
        let hashed = password::hash(password).await?;
        let desk = self.desk.clone();
        let work = self.db.write(move |tx| {
            Box::pin(async move {
                let mut actor = actor;
                actor.judge_anew(tx, desk.clock.now()).await?;
                tx.execute("UPDATE app_user SET password = $1 WHERE id = $2", &params![hashed, user]).await?;
                tx.execute("DELETE FROM person_session WHERE user_id = $1", &params![user]).await?;
                let recorded = password_set(user);
                let author = Author::Actor(&actor);
                audit::write(tx, (&desk.clock, &desk.keyring), actor.organization, &author, &recorded)
                    .await?;
                let email = actor.email.clone().unwrap_or_default();
                open(tx, &desk, (user, &email), Proof::Password, &origin, before.as_ref()).await
            })
        });
        work.await
    }

    /// The address of whom a link of `tollgate setup` is for, if it is good still.
    pub async fn first_owner(&self, token: Secret, origin: &Origin) -> Result<String> {
        let now = self.desk.clock.now();
        self.throttle.pass_address(origin.ip, now)?;
        let desk = self.desk.clone();
        let looking = self.db.read(move |tx| {
            Box::pin(async move {
                let owner = first::owner_of(tx, &desk.keyring, now, &token).await?;
                let row: Row = tx.one("SELECT email FROM app_user WHERE id = $1", &params![owner]).await?;
                row.at(0)
            })
        });
        looking.await
    }

    /// Sets the first password of the owner whom `tollgate setup` made, and signs them in. `token` is of the link that it printed.
    pub async fn begin(
        &self,
        token: Secret,
        password: Secret,
        origin: Origin,
        before: Option<Secret>,
    ) -> Result<OpenedSession> {
        let now = self.desk.clock.now();
        self.desk.replica.check_fresh()?;
        self.first_owner(token.clone(), &origin).await?;
        password::check(&password)?;
        let hashed = password::hash(password).await?;
        let desk = self.desk.clone();
        let work = self.db.write(move |tx| {
            Box::pin(async move {
                // Signing in ends the link: of two that come at once one is served.
                let owner = first::owner_of(tx, &desk.keyring, now, &token).await?;
                tx.execute("UPDATE app_user SET password = $1 WHERE id = $2", &params![hashed, owner])
                    .await?;
                let row: Row = tx.one("SELECT email FROM app_user WHERE id = $1", &params![owner]).await?;
                let email: String = row.at(0)?;
                let opened =
                    open(tx, &desk, (owner, &email), Proof::Password, &origin, before.as_ref()).await?;
                let author = Author::Person { user: owner, email: &email, origin: &origin };
                let recorded = password_set(owner);
                audit::write(tx, (&desk.clock, &desk.keyring), opened.organization, &author, &recorded)
                    .await?;
                Ok(opened)
            })
        });
        work.await
    }

    /// Changes the password of whoever is signed in. All other sessions of theirs end.
    pub async fn change_password(
        &self,
        session: &Session,
        current: Secret,
        new: Secret,
        origin: Origin,
    ) -> Result<()> {
        let now = self.desk.clock.now();
        self.throttle.pass_address(origin.ip, now)?;
        self.throttle.pass_account(&session.email, now)?;
        let named = |mut error: Error, param: &str| {
            error.param = Some(param.to_owned());
            error
        };
        password::check(&new).map_err(|error| named(error, "new_password"))?;
        let known = self.account(session.email.clone()).await?;
        if known.as_ref().is_some_and(|account| account.password.is_some()) {
            prove(known.as_ref(), current).await.map_err(|error| match error.code {
                Some(SIGN_IN_FAILED) => Error::invalid("current_password", "This is not your password."),
                _ => error,
            })?;
        } else {
            let message = "You have no password yet. Set one with an admin key of yours, where you sign in.";
            return Err(Error::invalid("current_password", message));
        }
        let hashed = password::hash(new).await?;
        let (desk, session) = (self.desk.clone(), session.clone());
        let work = self.db.write(move |tx| {
            Box::pin(async move {
                let sql = "UPDATE app_user SET password = $1 WHERE id = $2";
                tx.execute(sql, &params![hashed, session.user]).await?;
                let sql = "DELETE FROM person_session WHERE user_id = $1 AND id <> $2";
                tx.execute(sql, &params![session.user, session.id]).await?;
                let recorded = password_set(session.user);
                tell(tx, &desk, &session, &origin, recorded.event, recorded.payload).await
            })
        });
        work.await
    }

    async fn account(&self, email: String) -> Result<Option<Account>> {
        let sql = "SELECT u.id, u.email, u.password, (SELECT MIN(o.organization_id) FROM organization_user o
                WHERE o.user_id = u.id) AS organization_id
             FROM app_user u WHERE u.email = $1";
        let read = |row: Row| {
            Ok(Account {
                user: row.get("id")?,
                email: row.get("email")?,
                password: row.get("password")?,
                organization: row.get("organization_id")?,
            })
        };
        let row: Option<Row> =
            self.db.read(move |tx| Box::pin(async move { tx.optional(sql, &params![email]).await })).await?;
        row.map(read).transpose()
    }

    async fn note_failure(
        &self,
        account: &Account,
        error: &Error,
        origin: &Origin,
        now: Timestamp,
    ) -> Result<()> {
        let throttled = u32::from(error.kind == Kind::RateLimited);
        let is_refusal = error.code == Some(SIGN_IN_FAILED) || throttled > 0;
        let (Some(organization), true) = (account.organization, is_refusal) else { return Ok(()) };
        let failure = Failure {
            organization,
            user: account.user,
            email: account.email.clone(),
            origin: origin.clone(),
            attempts: 1,
            throttled,
        };
        match self.failures.note(failure, now) {
            Some(told) => self.tell_failure(told).await,
            None => Ok(()),
        }
    }
}

fn password_set(user: UserId) -> Recorded {
    let payload = json!({"id": user, "changes_requested": {"password": "set"}});
    Recorded { event: Event::UserUpdated, resource_id: user.to_string(), project: None, payload }
}

/// One answer to whoever there is no account of, has no password, or got it wrong.
fn refused() -> Error {
    let message = "The e-mail address or the password is not right.";
    Error::new(Kind::Unauthenticated, message).code(SIGN_IN_FAILED).param("password")
}

async fn prove(account: Option<&Account>, given: Secret) -> Result<()> {
    let stored = account.and_then(|account| account.password.clone());
    let is_known = stored.is_some();
    let is_right = password::verify(given, stored.unwrap_or_else(|| NOBODYS_PASSWORD.to_owned())).await?;
    if is_known && is_right { Ok(()) } else { Err(refused()) }
}
