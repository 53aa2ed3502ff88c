//! The console: pages for people, served by the same binary, over the same operations as the API.
//!
//! A page asks operations and shows what they answer; a form calls one and shows its error under the field it names. There is
//! no SQL here and no rule: what somebody may is decided where it is decided for the API. Pages work without scripts; the one
//! script there is adds what scripts are for. Nothing is loaded from elsewhere.

mod answer;
mod asset;
mod chart;
mod cookie;
mod fields;
mod form;
mod html;
mod layout;
mod page;
mod route;
mod show;
mod visit;

use std::sync::Arc;

use tollgate_admin::{Admin, Origin, Session};
use tollgate_core::secret::Secret;
use tollgate_core::{Error, Kind, Result};
use tollgate_wire::{Exchange, Reply};

use crate::answer::Answer;
use crate::cookie::Cookies;
use crate::form::Form;
use crate::route::Found;
use crate::visit::Visit;

pub use crate::route::{ROUTES, Route, Who, is_of_console};

/// Where the provider of identities sends people back to.
const OIDC_CALLBACK: &str = "/oidc/callback";
/// Says that this is the step after coming from elsewhere.
const AGAIN: &str = "again";
/// No form is longer.
const FORM_BYTES_MAX: usize = 256 * 1024;

/// The pages of a node.
pub struct Console {
    admin: Arc<Admin>,
    cookies: Cookies,
}

impl Console {
    /// `is_plain` says that people reach it without TLS on other machines, where a secure cookie would not be kept.
    pub fn new(admin: Arc<Admin>, is_plain: bool) -> Self {
        Self { admin, cookies: Cookies::new(is_plain) }
    }

    /// Answers one request, and says which route it was.
    pub async fn serve(&self, exchange: &mut Exchange) -> Option<&'static str> {
        let (method, path) = (exchange.head.method().to_owned(), exchange.head.path().to_owned());
        if let Some(reply) = asset::find(&method, &path, &exchange.head.headers) {
            exchange.respond(&reply).await;
            return Some("/assets");
        }
        let (route, reply) = match route::find(&method, &path) {
            Ok(found) => (Some(found.route.path), self.answer(exchange, &found).await),
            Err(error) => (None, Self::failed(&error, None, exchange)),
        };
        exchange.respond(&reply).await;
        route
    }

    async fn answer(&self, exchange: &mut Exchange, found: &Found) -> Reply {
        let origin = self.admin.origin(exchange);
        let token = self.cookies.session(&exchange.head.headers);
        let is_script = exchange.head.headers.get("x-tollgate-live").is_some();
        let session = match self.session(token.as_ref(), is_script).await {
            Ok(session) => session,
            Err(error) => return Self::failed(&error, None, exchange),
        };
        let route = found.route;
        if route.path == OIDC_CALLBACK && is_from_elsewhere(exchange) {
            // Without its strict cookie nobody knows who is signed in already. The next step is ours.
            let (path, query) = (exchange.head.path(), exchange.head.query());
            return html::go_on(&format!("{path}?{query}&{AGAIN}"));
        }
        if session.is_none() && route.who == Who::SignedIn {
            return self.turned_away(exchange, token.is_some());
        }
        let visit = match self.visit(exchange, found, origin, token, session).await {
            Ok(visit) => visit,
            Err(error) => return Self::failed(&error, None, exchange),
        };
        match (route.handler)(&visit).await {
            Ok(answer) => self.reply(&visit, answer),
            Err(error) if error.code == Some("session_ended") => self.turned_away(exchange, true),
            Err(error) => Self::failed(&error, Some(&visit), exchange),
        }
    }

    async fn session(&self, token: Option<&Secret>, is_script: bool) -> Result<Option<Session>> {
        match token {
            Some(token) => self.admin.session(token, is_script).await,
            None => Ok(None),
        }
    }

    async fn visit<'a>(
        &'a self,
        exchange: &mut Exchange,
        found: &Found,
        origin: Origin,
        token: Option<Secret>,
        session: Option<Session>,
    ) -> Result<Visit<'a>> {
        let query = Form::read(exchange.head.query())?;
        let form_token = token.as_ref().map(form::token).unwrap_or_default();
        let form = if exchange.head.method() == "POST" {
            refuse_from_elsewhere(exchange)?;
            let bytes = exchange.read_body(FORM_BYTES_MAX).await;
            let bytes = bytes.map_err(|error| error.into_error(FORM_BYTES_MAX))?;
            let text = String::from_utf8(bytes).map_err(|_| Error::bad_request("The form is not UTF-8."))?;
            let form = Form::read(&text)?;
            if found.route.who == Who::SignedIn && form.get("form_token") != Some(form_token.as_str()) {
                let message = "The form is of another session. Open the page again, and send it from there.";
                return Err(Error::new(Kind::Forbidden, message).code("stale_form"));
            }
            form
        } else {
            Form::default()
        };
        let pending = self.cookies.pending(&exchange.head.headers);
        Ok(Visit {
            pending,
            admin: &self.admin,
            session,
            token,
            origin,
            path: exchange.head.path().to_owned(),
            names: found.names.clone(),
            query,
            form,
            form_token,
        })
    }

    fn reply(&self, visit: &Visit<'_>, answer: Answer) -> Reply {
        match answer {
            Answer::Page(page) => html::document(page.status, &layout::page(visit, &page)),
            Answer::Bare(page) => html::alone(page.status, &layout::bare(&page)),
            Answer::Fragment(markup) => html::fragment(&markup),
            Answer::See(path) => html::see(&path),
            Answer::SignedIn { token, next } => {
                // Whoever comes from another site brings no strict cookie, so the way on must begin here.
                let mut reply = html::go_on(&next);
                if visit.pending.is_some() {
                    reply = reply.header("set-cookie", self.cookies.end_pending());
                }
                reply.header("set-cookie", self.cookies.begin(&token))
            }
            Answer::ToProvider { url, pending, next } => {
                html::elsewhere(&url).header("set-cookie", self.cookies.keep_pending(&pending, &next))
            }
            Answer::SignedOut => html::see("/login").header("set-cookie", self.cookies.end()),
            Answer::File { name, kind, body } => html::file(&name, kind, body),
        }
    }

    /// To the page for signing in, from which one comes back.
    fn turned_away(&self, exchange: &Exchange, had_session: bool) -> Reply {
        let target = match (exchange.head.method(), exchange.head.query()) {
            ("GET" | "HEAD", "") => exchange.head.path().to_owned(),
            ("GET" | "HEAD", query) => format!("{}?{query}", exchange.head.path()),
            // What was to be sent is lost; the page with the form is not.
            _ => referring_path(exchange).unwrap_or_else(|| "/".to_owned()),
        };
        let fetched = exchange.head.headers.get("sec-fetch-site");
        if !had_session && fetched == Some("cross-site") && !exchange.head.query().contains("signed-out") {
            // A link on another site was followed, with which a browser sends no strict cookie. The next step is ours.
            let separator = if target.contains('?') { '&' } else { '?' };
            return html::go_on(&format!("{target}{separator}signed-out"));
        }
        let target = target.replace("?signed-out", "").replace("&signed-out", "");
        let reply = html::see(&format!("/login?next={}", tollgate_wire::percent_encoded(&target)));
        if had_session { reply.header("set-cookie", self.cookies.end()) } else { reply }
    }

    /// A page that says what went wrong. A fault of ours is logged here.
    fn failed(error: &Error, visit: Option<&Visit<'_>>, exchange: &Exchange) -> Reply {
        let request_id = exchange.answer_header("x-request-id").unwrap_or_default().to_owned();
        exchange.log_fault(error);
        let page = layout::failure(error, &request_id);
        let markup = match visit.filter(|visit| visit.session.is_some()) {
            Some(visit) => layout::page(visit, &page),
            None => layout::bare(&page),
        };
        let mut reply = html::document(error.status(), &markup);
        let shown = error.headers.iter().filter(|(name, _)| ["allow", "retry-after"].contains(name));
        reply.headers.extend(shown.map(|(name, value)| (*name, value.clone())));
        reply
    }
}

/// Whether another site led here, and not a step of ours after that.
fn is_from_elsewhere(exchange: &Exchange) -> bool {
    let is_elsewhere = exchange.head.headers.get("sec-fetch-site") == Some("cross-site");
    is_elsewhere && !exchange.head.query().ends_with(AGAIN)
}

/// A form that another site sends is refused, whatever its cookie says.
fn refuse_from_elsewhere(exchange: &Exchange) -> Result<()> {
    let headers = &exchange.head.headers;
    let refused = || {
        let message = "This was sent by another site.";
        Err(Error::new(Kind::Forbidden, message).code("cross_site"))
    };
    match headers.get("sec-fetch-site") {
        Some("same-origin" | "none") => return Ok(()),
        Some(_) => return refused(),
        None => {}
    }
    // An old browser says where the form was.
    let host = headers.get("host").unwrap_or_default();
    match headers.get("origin") {
        None => Ok(()),
        Some(origin) if origin.split_once("://").is_some_and(|(_, authority)| authority == host) => Ok(()),
        Some(_) => refused(),
    }
}

/// The page that a form was on, if it was one of ours.
fn referring_path(exchange: &Exchange) -> Option<String> {
    let host = exchange.head.headers.get("host")?;
    let (_, rest) = exchange.head.headers.get("referer")?.split_once("://")?;
    let path = rest.strip_prefix(host)?;
    path.starts_with('/').then(|| path.to_owned())
}
