//! The frame around pages.

use maud::{Markup, html};
use tollgate_core::{Error, Permission};

use crate::answer::Page;
use crate::asset;
use crate::visit::Visit;

fn head(title: &str) -> Markup {
    html! {
        head {
            meta charset="utf-8";
            meta name="viewport" content="width=device-width, initial-scale=1";
            meta name="color-scheme" content="light dark";
            title { (title) " · Tollgate" }
            link rel="icon" href=(asset::address("/assets/icon.svg")) type="image/svg+xml";
            link rel="stylesheet" href=(asset::address("/assets/console.css"));
            script src=(asset::address("/assets/console.js")) defer {}
        }
    }
}

/// For whoever is not signed in.
pub(crate) fn bare(page: &Page) -> Markup {
    html! {
        html lang="en" {
            (head(&page.title))
            body.bare {
                main id="main" {
                    p.brand { "Tollgate" }
                    h1 { (page.title) }
                    (page.body)
                }
            }
        }
    }
}

/// One entry of the navigation: where it goes, what it is called, the key after `g` that goes there.
struct Entry(&'static str, &'static str, &'static str);

pub(crate) fn page(visit: &Visit<'_>, page: &Page) -> Markup {
    html! {
        html lang="en" {
            (head(&page.title))
            body {
                a.skip href="#main" { "Skip to the page" }
                header.top {
                    a.brand href="/" { "Tollgate" }
                    (organizations(visit))
                    button.quiet type="button" data-open="palette" hidden { "Go to… " kbd { "Ctrl K" } }
                    (person(visit))
                }
                div.frame {
                    (navigation(visit))
                    main id="main" tabindex="-1" {
                        h1 { (page.title) }
                        (page.body)
                    }
                }
                (help())
                (palette(visit))
            }
        }
    }
}

fn organizations(visit: &Visit<'_>) -> Markup {
    let Some(session) = &visit.session else { return html! {} };
    let all = visit.admin.organizations_of(session);
    html! {
        @if all.len() > 1 {
            form.switch method="post" action="/organization" {
                (token(visit))
                label.hidden for="organization" { "Organization" }
                select id="organization" name="organization" {
                    @for (id, name) in &all {
                        option value=(id) selected[*id == session.organization] { (name) }
                    }
                }
                button.quiet { "Switch" }
            }
        } @else {
            span.organization { (session.organization_name) }
        }
    }
}

fn person(visit: &Visit<'_>) -> Markup {
    let Some(session) = &visit.session else { return html! {} };
    html! {
        form.person method="post" action="/logout" {
            (token(visit))
            a href="/me" { (session.email) }
            button.quiet { "Sign out" }
        }
    }
}

/// What somebody can do something with; the pages themselves ask again.
fn entries(visit: &Visit<'_>) -> Vec<(&'static str, Vec<Entry>)> {
    use Permission::{
        AdminApiKeysRead, AuditLogsRead, GroupsRead, OrganizationRead, ProjectApiKeysRead, RolesRead,
        SpendLimitsRead, UpstreamsRead, UsageRead, UsersRead,
    };
    let own = vec![
        Entry("/", "Overview", "o"),
        Entry("/me", "You and your keys", "y"),
        Entry("/projects", "Projects", "p"),
    ];
    let mut organization = Vec::new();
    let mut if_may = |permission, entry| {
        if visit.may(permission) {
            organization.push(entry);
        }
    };
    if_may(ProjectApiKeysRead, Entry("/keys", "All keys", "k"));
    if_may(UsageRead, Entry("/usage", "Usage and costs", "u"));
    if_may(UsageRead, Entry("/requests", "Requests", "r"));
    if_may(SpendLimitsRead, Entry("/limits", "Limits", "l"));
    if_may(SpendLimitsRead, Entry("/alerts", "Alerts", "t"));
    if_may(UsersRead, Entry("/people", "People", "e"));
    if_may(GroupsRead, Entry("/groups", "Groups", "g"));
    if_may(RolesRead, Entry("/roles", "Roles", "n"));
    if_may(AdminApiKeysRead, Entry("/admin-keys", "Admin keys", "d"));
    if_may(AuditLogsRead, Entry("/audit", "Audit log", "a"));
    if_may(OrganizationRead, Entry("/settings", "Settings", "s"));
    let mut installation = Vec::new();
    if visit.may(UpstreamsRead) || visit.is_operator() {
        installation.push(Entry("/prices", "Models and prices", "m"));
        installation.push(Entry("/upstreams", "Upstreams", "c"));
    }
    let all = vec![("You", own), ("Organization", organization), ("Installation", installation)];
    all.into_iter().filter(|(_, entries)| !entries.is_empty()).collect()
}

fn navigation(visit: &Visit<'_>) -> Markup {
    let is_here =
        |path: &str| visit.path == path || (path != "/" && visit.path.starts_with(&format!("{path}/")));
    html! {
        nav aria-label="Pages" {
            @for (group, entries) in entries(visit) {
                h2 { (group) }
                ul {
                    @for Entry(path, called, key) in entries {
                        li { a href=(path) data-go=(key) aria-current=[is_here(path).then_some("page")] { (called) } }
                    }
                }
            }
        }
    }
}

fn help() -> Markup {
    html! {
        dialog id="help" aria-labelledby="help-title" {
            h2 id="help-title" { "Keys" }
            dl.keys {
                dt { kbd { "/" } } dd { "search on this page" }
                dt { kbd { "c" } } dd { "create, where something can be created" }
                dt { kbd { "g" } " and a letter" } dd { "go to a page; the letters are in the palette" }
                dt { kbd { "Ctrl" } " " kbd { "K" } } dd { "the palette: go anywhere by its name" }
                dt { kbd { "?" } } dd { "this" }
            }
            p { label { input type="checkbox" data-single-keys; " Single keys do something" } }
            form method="dialog" { button { "Close" } }
        }
    }
}

fn palette(visit: &Visit<'_>) -> Markup {
    html! {
        dialog.palette id="palette" aria-label="Go to" {
            input type="text" role="combobox" aria-label="Go to" aria-expanded="true" aria-controls="palette-list"
                aria-autocomplete="list" placeholder="Page, project, key or person" autocomplete="off";
            ul id="palette-list" role="listbox" aria-label="Places" {
                @for (_, entries) in entries(visit) {
                    @for Entry(path, called, key) in entries {
                        li role="option" id=(format!("place-{key}")) data-path=(path) { (called) kbd { "g " (key) } }
                    }
                }
            }
        }
    }
}

/// What a form must carry.
pub(crate) fn token(visit: &Visit<'_>) -> Markup {
    html! { input type="hidden" name="form_token" value=(visit.form_token); }
}

/// What went wrong, with the number under which it is found in logs.
pub(crate) fn failure(error: &Error, request_id: &str) -> Page {
    let title = match error.status() {
        403 => "You may not do this",
        404 => "There is nothing here",
        405 => "This cannot be done here",
        429 => "Too much at once",
        500.. => "Something went wrong here",
        _ => "This did not work",
    };
    let body = html! {
        p { (error.message) }
        p.hint { "Request " code { (request_id) } " " (copy(request_id)) }
        p { a href="/" { "To the overview" } }
    };
    Page { status: error.status(), title: title.to_owned(), body }
}

/// A button that copies a text; without scripts there is none.
pub(crate) fn copy(text: &str) -> Markup {
    html! { button.quiet type="button" data-copy=(text) hidden { "Copy" } }
}

/// Tabs, each where it goes and what it is called.
pub(crate) fn tabs(visit: &Visit<'_>, label: &str, tabs: &[(String, &str)]) -> Markup {
    html! {
        nav.tabs aria-label=(label) {
            @for (path, called) in tabs {
                a href=(path) aria-current=[(visit.path == *path).then_some("page")] { (called) }
            }
        }
    }
}

/// A link to the next page of a list, and one back to the first.
pub(crate) fn pager(visit: &Visit<'_>, answer: &serde_json::Value) -> Markup {
    let next = answer["next"].as_str().or_else(|| answer["last_id"].as_str());
    let next = next.filter(|_| answer["has_more"].as_bool().unwrap_or(false));
    html! {
        @if next.is_some() || visit.query.typed("after").is_some() {
            nav.pager aria-label="Pages of the list" {
                @if visit.query.typed("after").is_some() {
                    a href=(visit.here_with("after", None)) { "To the beginning" }
                }
                @if let Some(next) = next { a rel="next" href=(visit.here_with("after", Some(next))) { "Next page" } }
            }
        }
    }
}

/// One button that does something by itself.
pub(crate) fn action(visit: &Visit<'_>, path: &str, called: &str, class: &str) -> Markup {
    html! {
        form.inline method="post" action=(path) { (token(visit)) button class=(class) { (called) } }
    }
}

/// A page that asks again before something is lost.
pub(crate) struct Question<'a> {
    pub(crate) title: String,
    pub(crate) told: Markup,
    /// What has to be typed for it, if something has.
    pub(crate) name: Option<&'a str>,
    pub(crate) button: &'a str,
    pub(crate) back: String,
}

impl Question<'_> {
    pub(crate) fn ask(self, visit: &Visit<'_>, error: Option<&Error>) -> crate::answer::Answer {
        let fields = crate::fields::Fields::new(&visit.form, error);
        let body = html! {
            (self.told)
            form method="post" action=(visit.path) {
                (token(visit))
                (fields.alert())
                @if let Some(name) = self.name {
                    (fields.required("confirm", &format!("Type {name} to go on"), "", ""))
                }
                div.buttons { button.danger { (self.button) } a.button href=(self.back) { "Cancel" } }
            }
        };
        crate::answer::Answer::page(self.title, body).because(error)
    }

    /// Whether what was sent goes on; an error for the form if the name is another.
    pub(crate) fn is_confirmed(&self, visit: &Visit<'_>) -> Result<(), Error> {
        match self.name {
            Some(name) if visit.form.text("confirm") != name.trim() => {
                Err(Error::invalid("confirm", format!("That is not {name}.")))
            }
            _ => Ok(()),
        }
    }
}
