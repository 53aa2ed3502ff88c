//! Signing in and out, the first password, the link of an invite.

use maud::html;
use serde_json::json;
use tollgate_admin::{Acceptance, Pending};
use tollgate_core::secret::Secret;
use tollgate_core::{Error, Kind, OrganizationId, Result};

use crate::answer::Answer;
use crate::fields::Fields;
use crate::form::Form;
use crate::html::local;
use crate::visit::{Visit, is_for_form};

/// Where somebody was when they had to sign in.
fn next(form: &Form) -> String {
    local(form.typed("next").unwrap_or("/"))
}

pub(crate) async fn show(visit: &Visit<'_>) -> Result<Answer> {
    if visit.session.is_some() {
        return Ok(Answer::see(next(&visit.query)));
    }
    Ok(login(visit, &visit.query, None))
}

fn login(visit: &Visit<'_>, typed: &Form, error: Option<&Error>) -> Answer {
    let fields = Fields::new(typed, error);
    let body = html! {
        form method="post" action="/login" {
            input type="hidden" name="next" value=(next(typed));
            (fields.alert())
            (fields.of_kind("email", "email", "E-mail address", "", ""))
            (fields.secret("password", "Password", "", "current-password"))
            div.buttons { button.primary { "Sign in" } }
        }
        @if let Some(provider) = visit.admin.identity_provider() {
            p { a.button href=(format!("/oidc?next={}", tollgate_wire::percent_encoded(&next(typed)))) { "Sign in by " (provider) } }
        }
        p.hint {
            "No password yet, or forgotten? " a href="/setup" { "Set one with an admin key" }
            "; the first start, or " code { "tollgate setup" } ", has written one into a file."
        }
    };
    Answer::bare("Sign in", body).because(error)
}

pub(crate) async fn sign_in(visit: &Visit<'_>) -> Result<Answer> {
    let password = Secret::new(visit.form.get("password").unwrap_or(""));
    let email = visit.form.text("email");
    let signed_in = visit.admin.sign_in(email, password, visit.origin.clone(), visit.token.clone()).await;
    match signed_in {
        Ok(opened) => Ok(Answer::SignedIn { token: opened.token, next: next(&visit.form) }),
        Err(error) if is_for_form(&error) => Ok(login(visit, &visit.form, Some(&error))),
        Err(error) => Err(error),
    }
}

pub(crate) async fn begin_oidc(visit: &Visit<'_>) -> Result<Answer> {
    match visit.admin.begin_oidc(&visit.origin).await {
        Ok((url, pending)) => {
            Ok(Answer::ToProvider { url, pending: pending.to_text(), next: next(&visit.query) })
        }
        Err(error) => told_at_sign_in(visit, error),
    }
}

/// What is wrong with the provider is told where one can sign in by a password still.
fn told_at_sign_in(visit: &Visit<'_>, error: Error) -> Result<Answer> {
    if is_for_form(&error) && !error.is_not_found() || error.code == Some("identity_provider_failed") {
        return Ok(login(visit, &Form::default(), Some(&error)));
    }
    Err(error)
}

pub(crate) async fn end_oidc(visit: &Visit<'_>) -> Result<Answer> {
    let failed = |message: &str| Error::new(Kind::Unauthenticated, message).code("sign_in_failed");
    let kept =
        visit.pending.as_ref().and_then(|(pending, next)| Some((Pending::parse(pending.reveal())?, next)));
    let Some((pending, next)) = kept else {
        return told_at_sign_in(
            visit,
            failed("It took too long, or was begun in another browser. Please sign in again."),
        );
    };
    if let Some(word) = visit.query.typed("error") {
        let said = visit.query.typed("error_description").unwrap_or(word);
        return told_at_sign_in(visit, failed(&format!("The provider says: {said}")));
    }
    let code = Secret::new(visit.query.text("code"));
    let state = visit.query.text("state");
    // The cookie of a session is strict, and does not come back with whoever comes from the provider's site: the step before
    // this one is ours.
    let before = (visit.token.clone(), visit.session.as_ref().map(|session| session.user));
    match visit.admin.end_oidc(&pending, state, &code, visit.origin.clone(), before).await {
        Ok(opened) => Ok(Answer::SignedIn { token: opened.token, next: local(next) }),
        Err(error) => told_at_sign_in(visit, error),
    }
}

pub(crate) async fn show_setup(visit: &Visit<'_>) -> Result<Answer> {
    let token = Secret::new(visit.query.text("token"));
    if token.reveal().is_empty() {
        return Ok(setup(&visit.query, None, None));
    }
    match visit.admin.first_owner(token, &visit.origin).await {
        Ok(email) => Ok(setup(&visit.query, Some(&email), None)),
        Err(error) if is_for_form(&error) => Ok(refused("Set a password", &error)),
        Err(error) => Err(error),
    }
}

/// `email` is of whoever comes by a link.
fn setup(typed: &Form, email: Option<&str>, error: Option<&Error>) -> Answer {
    let fields = Fields::new(typed, error);
    let by_link = |email: &str| {
        html! {
            p { "The link of " code { "tollgate setup" } " proves that you are the first owner. Afterwards you sign in as " strong { (email) } " with this password." }
            form method="post" action="/setup" {
                input type="hidden" name="token" value=(typed.text("token"));
                (fields.alert())
                (fields.secret("password", "New password", "12 characters or more.", "new-password"))
                div.buttons { button.primary { "Set the password and sign in" } }
            }
        }
    };
    let by_key = html! {
        p {
            "An admin key proves who you are. The first start of Tollgate has written one into its bootstrap file, as "
            code { "admin_api_key" } ", or " code { "tollgate setup" } " into the file of its " code { "--out" } "; " code { "tollgate recover" } " makes another. Afterwards you sign in with your address, the first owner as "
            code { "owner@localhost" } " unless " code { "--owner-email" } " said otherwise."
        }
        form method="post" action="/setup" {
            (fields.alert())
            (fields.secret("admin_key", "Admin key", "It is neither stored nor shown.", "off"))
            (fields.secret("password", "New password", "12 characters or more.", "new-password"))
            div.buttons { button.primary { "Set the password and sign in" } a.button href="/login" { "Back" } }
        }
    };
    let body = email.map_or(by_key, by_link);
    Answer::bare("Set a password", body).because(error)
}

pub(crate) async fn set_up(visit: &Visit<'_>) -> Result<Answer> {
    let (key, token) = (Secret::new(visit.form.text("admin_key")), Secret::new(visit.form.text("token")));
    let password = Secret::new(visit.form.get("password").unwrap_or(""));
    let (origin, before) = (visit.origin.clone(), visit.token.clone());
    if !token.reveal().is_empty() {
        let opened = visit.admin.begin(token.clone(), password, origin, before).await;
        return match opened {
            Ok(opened) => Ok(Answer::SignedIn { token: opened.token, next: "/".to_owned() }),
            // What can be mended in the form is mended there.
            Err(error) if error.param.as_deref() == Some("password") => {
                let email = visit.admin.first_owner(token, &visit.origin).await?;
                Ok(setup(&visit.form, Some(&email), Some(&error)))
            }
            Err(error) if is_for_form(&error) => Ok(refused("Set a password", &error)),
            Err(error) => Err(error),
        };
    }
    match visit.admin.claim(&key, password, origin, before).await {
        Ok(opened) => Ok(Answer::SignedIn { token: opened.token, next: "/".to_owned() }),
        Err(error) if is_for_form(&error) => Ok(setup(&visit.form, None, Some(&error))),
        Err(error) => Err(error),
    }
}

pub(crate) async fn show_invite(visit: &Visit<'_>) -> Result<Answer> {
    let token = Secret::new(visit.query.text("token"));
    match visit.admin.invited(&token, &visit.origin).await {
        Ok(invited) => Ok(invite(&visit.query, &invited, None)),
        Err(error) if is_for_form(&error) => Ok(refused("Invite", &error)),
        Err(error) => Err(error),
    }
}

fn refused(heading: &'static str, error: &Error) -> Answer {
    let body = html! { p role="alert" { (error.message) } p { a href="/login" { "Sign in" } } };
    Answer::bare(heading, body).because(Some(error))
}

fn invite(typed: &Form, invited: &tollgate_admin::Invited, error: Option<&Error>) -> Answer {
    let fields = Fields::new(typed, error);
    let body = html! {
        p { "As " strong { (invited.email) } " into " strong { (invited.organization) } "." }
        form method="post" action="/invite" {
            input type="hidden" name="token" value=(typed.text("token"));
            (fields.alert())
            @if invited.has_account {
                (fields.secret("password", "Your password", "There is an account of this address: prove that it is yours.", "current-password"))
            } @else {
                (fields.text("name", "Your name", "", ""))
                (fields.secret("password", "Password", "12 characters or more.", "new-password"))
            }
            div.buttons { button.primary { "Accept" } }
        }
    };
    Answer::bare("You are invited", body).because(error)
}

pub(crate) async fn accept_invite(visit: &Visit<'_>) -> Result<Answer> {
    let token = visit.form.text("token").to_owned();
    let said = json!({
        "token": token, "name": visit.form.typed("name"),
        "password": visit.form.get("password").filter(|password| !password.is_empty()),
    });
    let acceptance: Acceptance = tollgate_core::input::from_value(said)?;
    let accepted =
        visit.admin.accept_and_sign_in(acceptance, visit.origin.clone(), visit.token.clone()).await;
    match accepted {
        Ok(opened) => Ok(Answer::SignedIn { token: opened.token, next: "/".to_owned() }),
        // What can be mended in the form is mended there.
        Err(error) if matches!(error.param.as_deref(), Some("password" | "name")) => {
            let invited = visit.admin.invited(&Secret::new(token), &visit.origin).await?;
            Ok(invite(&visit.form, &invited, Some(&error)))
        }
        Err(error) if is_for_form(&error) => Ok(refused("Invite", &error)),
        Err(error) => Err(error),
    }
}

pub(crate) async fn sign_out(visit: &Visit<'_>) -> Result<Answer> {
    visit.admin.sign_out(visit.session()?, visit.origin.clone()).await?;
    Ok(Answer::SignedOut)
}

pub(crate) async fn switch(visit: &Visit<'_>) -> Result<Answer> {
    let unknown = || Error::not_found("organization");
    let organization = OrganizationId::parse(visit.form.text("organization")).ok_or_else(unknown)?;
    visit.admin.look_at(visit.session()?, organization).await?;
    Ok(Answer::see("/"))
}
