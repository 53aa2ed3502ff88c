//! The table of pages: what each is called by a browser, who may open it, and what answers.

use std::future::Future;
use std::pin::Pin;

use tollgate_core::{Result, not_served};
use tollgate_wire::percent_decoded;

use crate::answer::Answer;
use crate::page::{
    admin_keys, alerts, audit, groups, keys, limits, me, models, overview, palette, people, project,
    projects, requests, roles, settings, sign_in, upstreams, usage,
};
use crate::visit::Visit;

/// Who may open a page. What it shows, and what its forms do, is then up to the operations it asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Anyone,
    SignedIn,
}

pub(crate) type Answering<'v> = Pin<Box<dyn Future<Output = Result<Answer>> + Send + 'v>>;
type Handler = for<'v> fn(&'v Visit<'v>) -> Answering<'v>;

/// One page, or one thing that is done.
pub struct Route {
    pub method: &'static str,
    /// With `{}` for what it names.
    pub path: &'static str,
    pub who: Who,
    pub(crate) handler: Handler,
}

pub(crate) struct Found {
    pub(crate) route: &'static Route,
    pub(crate) names: Vec<String>,
}

macro_rules! routes {
    ($($who:ident $method:ident $path:literal => $($handler:ident)::+;)*) => {
        /// All of them.
        pub static ROUTES: &[Route] = &[$(
            Route { method: stringify!($method), path: $path, who: Who::$who, handler: |visit| Box::pin($($handler)::+(visit)) },
        )*];
    };
}

routes! {
    Anyone GET "/login" => sign_in::show;
    Anyone POST "/login" => sign_in::sign_in;
    Anyone GET "/setup" => sign_in::show_setup;
    Anyone POST "/setup" => sign_in::set_up;
    Anyone GET "/invite" => sign_in::show_invite;
    Anyone POST "/invite" => sign_in::accept_invite;
    Anyone GET "/oidc" => sign_in::begin_oidc;
    Anyone GET "/oidc/callback" => sign_in::end_oidc;
    SignedIn POST "/logout" => sign_in::sign_out;
    SignedIn POST "/organization" => sign_in::switch;

    SignedIn GET "/" => overview::show;
    SignedIn GET "/palette" => palette::find;

    SignedIn GET "/me" => me::show;
    SignedIn GET "/me/keys/new" => me::new_key;
    SignedIn POST "/me/keys/new" => me::create_key;
    SignedIn GET "/me/keys/{}/rotate" => me::ask_rotate;
    SignedIn POST "/me/keys/{}/rotate" => me::rotate;
    SignedIn POST "/me/keys/{}/end-previous" => me::end_previous;
    SignedIn GET "/me/keys/{}/revoke" => me::ask_revoke;
    SignedIn POST "/me/keys/{}/revoke" => me::revoke;
    SignedIn GET "/me/password" => me::show_password;
    SignedIn POST "/me/password" => me::change_password;
    SignedIn POST "/me/sessions/{}/end" => me::end_session;

    SignedIn GET "/projects" => projects::list;
    SignedIn GET "/projects/new" => projects::new;
    SignedIn POST "/projects/new" => projects::create;
    SignedIn GET "/projects/{}" => project::show;
    SignedIn GET "/projects/{}/keys" => keys::of_project;
    SignedIn GET "/projects/{}/keys/new" => keys::new;
    SignedIn POST "/projects/{}/keys/new" => keys::create;
    SignedIn GET "/projects/{}/keys/{}" => keys::show;
    SignedIn GET "/projects/{}/keys/{}/edit" => keys::edit;
    SignedIn POST "/projects/{}/keys/{}/edit" => keys::update;
    SignedIn GET "/projects/{}/keys/{}/rotate" => keys::ask_rotate;
    SignedIn POST "/projects/{}/keys/{}/rotate" => keys::rotate;
    SignedIn POST "/projects/{}/keys/{}/end-previous" => keys::end_previous;
    SignedIn GET "/projects/{}/keys/{}/revoke" => keys::ask_revoke;
    SignedIn POST "/projects/{}/keys/{}/revoke" => keys::revoke;
    SignedIn POST "/projects/{}/keys/{}/freeze" => keys::freeze;
    SignedIn POST "/projects/{}/keys/{}/unfreeze" => keys::unfreeze;
    SignedIn POST "/projects/{}/keys/{}/limits" => limits::create_of_key;
    SignedIn POST "/projects/{}/keys/{}/limits/{}" => limits::change_of_key;
    SignedIn GET "/projects/{}/keys/{}/limits/{}/delete" => limits::ask_delete;
    SignedIn POST "/projects/{}/keys/{}/limits/{}/delete" => limits::delete_of_key;
    SignedIn GET "/projects/{}/service-accounts" => project::service_accounts;
    SignedIn POST "/projects/{}/service-accounts" => project::create_service_account;
    SignedIn GET "/projects/{}/service-accounts/{}/delete" => project::ask_delete_service_account;
    SignedIn POST "/projects/{}/service-accounts/{}/delete" => project::delete_service_account;
    SignedIn GET "/projects/{}/members" => project::members;
    SignedIn POST "/projects/{}/members" => project::add_member;
    SignedIn POST "/projects/{}/members/{}/role" => project::change_role;
    SignedIn GET "/projects/{}/members/{}/remove" => project::ask_remove_member;
    SignedIn POST "/projects/{}/members/{}/remove" => project::remove_member;
    SignedIn GET "/projects/{}/limits" => limits::of_project;
    SignedIn POST "/projects/{}/limits" => limits::create_of_project;
    SignedIn POST "/projects/{}/limits/{}" => limits::change_of_project;
    SignedIn GET "/projects/{}/limits/{}/delete" => limits::ask_delete;
    SignedIn POST "/projects/{}/limits/{}/delete" => limits::delete_of_project;
    SignedIn POST "/projects/{}/policy" => limits::change_policy;
    SignedIn GET "/projects/{}/settings" => project::settings;
    SignedIn POST "/projects/{}/settings" => project::change_settings;
    SignedIn POST "/projects/{}/freeze" => project::freeze;
    SignedIn POST "/projects/{}/unfreeze" => project::unfreeze;
    SignedIn GET "/projects/{}/archive" => project::ask_archive;
    SignedIn POST "/projects/{}/archive" => project::archive;

    SignedIn GET "/keys" => keys::of_organization;
    SignedIn GET "/admin-keys" => admin_keys::list;
    SignedIn GET "/admin-keys/new" => admin_keys::new;
    SignedIn POST "/admin-keys/new" => admin_keys::create;
    SignedIn GET "/admin-keys/{}/rotate" => admin_keys::ask_rotate;
    SignedIn POST "/admin-keys/{}/rotate" => admin_keys::rotate;
    SignedIn POST "/admin-keys/{}/end-previous" => admin_keys::end_previous;
    SignedIn GET "/admin-keys/{}/revoke" => admin_keys::ask_revoke;
    SignedIn POST "/admin-keys/{}/revoke" => admin_keys::revoke;

    SignedIn GET "/usage" => usage::show;
    SignedIn GET "/usage/export" => usage::export;
    SignedIn GET "/requests" => requests::list;
    SignedIn GET "/requests/{}" => requests::show;
    SignedIn GET "/limits" => limits::of_organization;
    SignedIn POST "/limits" => limits::create_of_organization;
    SignedIn POST "/limits/{}" => limits::change_of_organization;
    SignedIn GET "/limits/{}/delete" => limits::ask_delete;
    SignedIn POST "/limits/{}/delete" => limits::delete_of_organization;
    SignedIn POST "/limits/defaults" => limits::change_defaults;
    SignedIn GET "/alerts" => alerts::list;
    SignedIn POST "/alerts/spend" => alerts::create_spend;
    SignedIn POST "/alerts/spend/{}/delete" => alerts::delete_spend;
    SignedIn POST "/alerts/events" => alerts::create_event;
    SignedIn POST "/alerts/events/{}/delete" => alerts::delete_event;
    SignedIn POST "/alerts/notifications/{}/retry" => alerts::retry;

    SignedIn GET "/people" => people::list;
    SignedIn POST "/people/invite" => people::invite;
    SignedIn POST "/people/invites/{}/delete" => people::delete_invite;
    SignedIn POST "/people/invites/{}/resend" => people::resend_invite;
    SignedIn GET "/people/{}" => people::show;
    SignedIn POST "/people/{}/role" => people::change_role;
    SignedIn POST "/people/{}/freeze" => people::freeze;
    SignedIn POST "/people/{}/unfreeze" => people::unfreeze;
    SignedIn GET "/people/{}/remove" => people::ask_remove;
    SignedIn POST "/people/{}/remove" => people::remove;
    SignedIn GET "/groups" => groups::list;
    SignedIn POST "/groups" => groups::create;
    SignedIn GET "/groups/{}" => groups::show;
    SignedIn POST "/groups/{}/users" => groups::add_user;
    SignedIn POST "/groups/{}/users/{}/remove" => groups::remove_user;
    SignedIn POST "/groups/{}/roles" => groups::assign_role;
    SignedIn POST "/groups/{}/roles/{}/remove" => groups::unassign_role;
    SignedIn GET "/groups/{}/delete" => groups::ask_delete;
    SignedIn POST "/groups/{}/delete" => groups::delete;
    SignedIn GET "/roles" => roles::list;
    SignedIn GET "/roles/new" => roles::new;
    SignedIn POST "/roles/new" => roles::create;
    SignedIn GET "/roles/{}/delete" => roles::ask_delete;
    SignedIn POST "/roles/{}/delete" => roles::delete;

    SignedIn GET "/audit" => audit::list;
    SignedIn GET "/audit/export" => audit::export;
    SignedIn GET "/settings" => settings::show;
    SignedIn POST "/settings/key-policy" => settings::change_key_policy;
    SignedIn POST "/settings/retention" => settings::change_retention;
    SignedIn GET "/settings/freeze" => settings::ask_freeze;
    SignedIn POST "/settings/freeze" => settings::freeze;
    SignedIn POST "/settings/unfreeze" => settings::unfreeze;

    SignedIn GET "/prices" => models::list;
    SignedIn GET "/prices/{}" => models::show;
    SignedIn POST "/prices/{}/prices" => models::set_price;
    SignedIn POST "/prices/{}/prices/{}/delete" => models::delete_price;
    SignedIn POST "/prices/{}/limits" => models::set_limits;
    SignedIn GET "/upstreams" => upstreams::list;
    SignedIn GET "/upstreams/new" => upstreams::new;
    SignedIn POST "/upstreams/new" => upstreams::create;
    SignedIn GET "/upstreams/{}" => upstreams::show;
    SignedIn POST "/upstreams/{}" => upstreams::update;
    SignedIn GET "/upstreams/{}/test" => upstreams::test;
    SignedIn GET "/upstreams/{}/delete" => upstreams::ask_delete;
    SignedIn POST "/upstreams/{}/delete" => upstreams::delete;
}

/// What a path names, if it is one of a route's. What is written out goes before what is named.
fn names(pattern: &str, path: &str) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let (mut wanted, mut given) = (pattern.split('/'), path.split('/'));
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return Some(names),
            (Some("{}"), Some(part)) if !part.is_empty() => names.push(percent_decoded(part)?),
            (Some(wanted), Some(given)) if wanted == given => {}
            _ => return None,
        }
    }
}

fn all(path: &str) -> Vec<(&'static Route, Vec<String>)> {
    let found = ROUTES.iter().filter_map(|route| names(route.path, path).map(|names| (route, names)));
    let mut found: Vec<_> = found.collect();
    let fewest = found.iter().map(|(_, names)| names.len()).min().unwrap_or(0);
    found.retain(|(_, names)| names.len() == fewest);
    found
}

pub(crate) fn find(method: &str, path: &str) -> Result<Found> {
    let mut all = all(path);
    if all.is_empty() {
        return Err(not_served::unknown_url(method, path));
    }
    let method = if method == "HEAD" { "GET" } else { method };
    if let Some(position) = all.iter().position(|(route, _)| route.method == method) {
        let (route, names) = all.swap_remove(position);
        return Ok(Found { route, names });
    }
    let allowed: Vec<&str> = all.iter().map(|(route, _)| route.method).collect();
    let message = format!("Method {method} is not allowed for {path}.");
    Err(tollgate_core::Error::new(tollgate_core::Kind::MethodNotAllowed, message)
        .code("method_not_allowed")
        .header("allow", allowed.join(", ")))
}

/// Whether a path belongs to the console.
pub fn is_of_console(path: &str) -> bool {
    path.starts_with("/assets/") || !all(path).is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_out_goes_before_what_is_named() {
        let found = |method, path| find(method, path).map(|found| (found.route.path, found.names)).ok();
        assert_eq!(found("GET", "/projects/new"), Some(("/projects/new", vec![])));
        assert_eq!(found("GET", "/projects/proj_1"), Some(("/projects/{}", vec!["proj_1".to_owned()])));
        assert_eq!(found("GET", "/prices/a%2Fb"), Some(("/prices/{}", vec!["a/b".to_owned()])));
        assert_eq!(found("POST", "/limits/defaults"), Some(("/limits/defaults", vec![])));
        assert!(found("GET", "/projects/").is_none() && found("GET", "/nothing").is_none());
        assert_eq!(find("POST", "/usage").err().map(|error| error.status()), Some(405));
        assert!(!is_of_console("/v1/models") && is_of_console("/") && is_of_console("/assets/x"));
    }

    #[test]
    fn no_page_is_in_the_way_of_an_api() {
        for route in ROUTES {
            for plane in
                ["/v1", "/tollgate", "/healthz", "/readyz", "/metrics", "/openapi.json", "/oauth", "/openai"]
            {
                assert!(!route.path.starts_with(plane), "{}", route.path);
            }
        }
    }
}
