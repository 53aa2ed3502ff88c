//! Things by the names that people know them by; ids are taken as they are.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::api::client::{CallError, encoded};
use crate::api::session::{Failure, PROJECTS, Session};

/// A kind of thing: how its ids begin, where all of them are listed, and by what people call them.
pub(crate) struct Kind {
    what: &'static str,
    prefixes: &'static [&'static str],
    list: &'static str,
    field: &'static str,
    /// Whether Tollgate's list can be asked for a part of the name.
    is_searched: bool,
}

const fn kind(
    what: &'static str,
    prefixes: &'static [&'static str],
    list: &'static str,
    field: &'static str,
) -> Kind {
    Kind { what, prefixes, list, field, is_searched: false }
}

impl Kind {
    const fn searched(self) -> Self {
        Self { is_searched: true, ..self }
    }
}

const PROJECT: Kind = kind("project", &["proj_"], PROJECTS, "name").searched();
pub(crate) const USER: Kind = kind("user", &["user-"], "/organization/users", "email").searched();
pub(crate) const UPSTREAM: Kind = kind("upstream", &["upstream_"], "/tollgate/v1/upstreams", "name");
const GROUP: Kind = kind("group", &["group_"], "/organization/groups", "name");
const ROLE: Kind = kind("role", &["role_", "role-"], "/organization/roles", "name");
const INVITE: Kind = kind("invite", &["invite-", "invite_"], "/organization/invites", "email");
const ADMIN_KEY: Kind = kind("admin key", &["key_"], "/organization/admin_api_keys", "name");
/// These two are in a project.
const KEY: (&str, &[&str], &str) = ("key", &["key_"], "api_keys");
const ACCOUNT: (&str, &[&str], &str) = ("service account", &["svc_acct_"], "service_accounts");

/// What a text could be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Guess {
    Id,
    Name,
    /// It begins like an id and is none of Tollgate's: a name if something is called so.
    Either,
}

fn guess(prefixes: &[&str], text: &str, is_openai: bool) -> Guess {
    let Some(rest) = prefixes.iter().find_map(|prefix| text.strip_prefix(prefix)) else { return Guess::Name };
    let is_whole =
        rest.len() == 26 && rest.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase());
    if text.contains('@') {
        Guess::Name
    } else if is_openai || is_whole || text.starts_with("role-api-") {
        Guess::Id
    } else {
        Guess::Either
    }
}

impl Session {
    /// The id of what is called so.
    pub(crate) async fn id_of(&self, kind: &Kind, text: &str) -> Result<String, Failure> {
        let guess = guess(kind.prefixes, text, self.client.is_openai());
        if guess == Guess::Id {
            return Ok(text.to_owned());
        }
        let mut query = Vec::new();
        if kind.is_searched && !self.client.is_openai() {
            query.push(("name", text.to_owned()));
        }
        let found = self.one_called(kind.what, kind.list, &query, (kind.field, text)).await;
        match found {
            Err(failure) if is_absent(&failure) && guess == Guess::Either => Ok(text.to_owned()),
            // What is gone is asked for by its name as well.
            Err(failure) if is_absent(&failure) && kind.list == PROJECTS => {
                query.push(("include_archived", "true".to_owned()));
                self.one_called(kind.what, kind.list, &query, (kind.field, text)).await
            }
            found => found,
        }
    }

    pub(crate) async fn project_id(&self, text: &str) -> Result<String, Failure> {
        self.id_of(&PROJECT, text).await
    }

    /// The same for a list that is narrowed to it, where no server says that there is none: nothing would be found.
    pub(crate) async fn project_narrowed_to(&self, text: &str) -> Result<String, Failure> {
        self.narrowed_to(PROJECT.what, PROJECT.prefixes, self.project_id(text).await?)
    }

    fn narrowed_to(&self, what: &str, prefixes: &[&str], id: String) -> Result<String, Failure> {
        match guess(prefixes, &id, self.client.is_openai()) {
            Guess::Id => Ok(id),
            Guess::Name | Guess::Either => Err(absent(what, &id)),
        }
    }

    pub(crate) async fn key_id(&self, project: &str, text: &str) -> Result<String, Failure> {
        self.id_in(project, KEY, text).await
    }

    /// The id of a key by its name in any project.
    pub(crate) async fn key_id_anywhere(&self, text: &str) -> Result<String, Failure> {
        if self.client.is_openai() || guess(KEY.1, text, false) == Guess::Id {
            return Ok(text.to_owned());
        }
        let query = [("name", text.to_owned()), ("status", "any".to_owned())];
        self.one_called(KEY.0, "/tollgate/v1/api_keys", &query, ("name", text)).await
    }

    /// The id of a user by their address, or of a service account by its name in one of the projects.
    pub(crate) async fn owner_id(&self, text: &str, projects: &[String]) -> Result<String, Failure> {
        if text.contains('@') {
            return self.id_of(&USER, text).await;
        }
        let account = text.strip_prefix("sa:").unwrap_or(text);
        let is_id = |prefixes: &[&str]| guess(prefixes, account, self.client.is_openai()) == Guess::Id;
        if is_id(USER.prefixes) || is_id(ACCOUNT.1) {
            return Ok(account.to_owned());
        }
        match projects {
            [project] => self.narrowed_to(ACCOUNT.0, ACCOUNT.1, self.account_id(project, account).await?),
            _ => Err(format!(
                "'{text}' is neither an address nor an id. Service accounts are called by their names where one --project is given."
            )
            .into()),
        }
    }

    pub(crate) async fn account_id(&self, project: &str, text: &str) -> Result<String, Failure> {
        self.id_in(project, ACCOUNT, text).await
    }

    /// The id of what is called so in a project, which is given by its id.
    async fn id_in(
        &self,
        project: &str,
        (what, prefixes, list): (&str, &[&str], &str),
        text: &str,
    ) -> Result<String, Failure> {
        let guess = guess(prefixes, text, self.client.is_openai());
        if guess == Guess::Id {
            return Ok(text.to_owned());
        }
        let list = format!("{PROJECTS}/{}/{list}", encoded(project));
        let query = [("owner_project_access", "any".to_owned())];
        let query: &[_] = if what == KEY.0 { &query } else { &[] };
        match self.one_called(what, &list, query, ("name", text)).await {
            Err(failure) if is_absent(&failure) && guess == Guess::Either => Ok(text.to_owned()),
            found => found,
        }
    }

    async fn one_called(
        &self,
        what: &str,
        list: &str,
        query: &[(&str, String)],
        (field, text): (&str, &str),
    ) -> Result<String, Failure> {
        let (items, _) = self.client.list(list, query, usize::MAX).await?;
        let is_called = |item: &&Value| {
            let name = item[field].as_str();
            name == Some(text)
                || (field == "email" && name.is_some_and(|name| name.eq_ignore_ascii_case(text)))
        };
        let ids: Vec<&str> = items.iter().filter(is_called).filter_map(|item| item["id"].as_str()).collect();
        match ids.as_slice() {
            [] => Err(absent(what, text)),
            [id] => Ok((*id).to_owned()),
            ids => {
                let message = format!(
                    "There are several {what}s called '{text}': {}. Say which by its id.",
                    ids.join(", ")
                );
                Err(message.into())
            }
        }
    }

    /// Puts ids in place of the names in what an operation is given.
    pub(crate) async fn with_ids(&self, given: &mut Map<String, Value>) -> Result<(), Failure> {
        for (parameter, kind) in [
            ("project_id", &PROJECT),
            ("user_id", &USER),
            ("group_id", &GROUP),
            ("role_id", &ROLE),
            ("invite_id", &INVITE),
            ("key_id", &ADMIN_KEY),
        ] {
            if let Some(Value::String(text)) = given.get_mut(parameter) {
                *text = self.id_of(kind, text).await?;
            }
        }
        for parameter in ["project_ids", "projects"] {
            for project in given.get_mut(parameter).and_then(Value::as_array_mut).into_iter().flatten() {
                let project = if project.is_object() { &mut project["id"] } else { project };
                if let Value::String(text) = project {
                    *text = self.project_id(text).await?;
                }
            }
        }
        Ok(())
    }
}

impl Session {
    /// Puts names in the place of ids in rows of costs and usage. An id stays where its name cannot be had, and where there are
    /// more than anybody reads; of several that are called alike it stands behind the name.
    pub(crate) async fn with_names(&self, rows: &mut [Value]) {
        let times = |field: &'static str| rows.iter().filter_map(move |row| row[field].as_i64());
        let span = (times("start_time").min().unwrap_or(0), times("end_time").max().unwrap_or(0));
        for (field, named_by) in [
            ("project_id", NamedBy::Each(&PROJECT)),
            ("user_id", NamedBy::Each(&USER)),
            ("api_key_id", NamedBy::Keys),
            ("upstream_id", NamedBy::All(&UPSTREAM)),
        ] {
            let ids: BTreeSet<String> =
                rows.iter().filter_map(|row| row[field].as_str()).map(str::to_owned).collect();
            if ids.is_empty() || ids.len() > NAMED_MAX {
                continue;
            }
            let names = self.names_of(&named_by, ids, span).await;
            for row in &mut *rows {
                let Some((id, name)) = row[field].as_str().and_then(|id| names.get_key_value(id)) else {
                    continue;
                };
                let is_shared = names.values().filter(|other| *other == name).count() > 1;
                row[field] = if is_shared { json!(format!("{name} ({id})")) } else { json!(name) };
            }
        }
    }

    async fn names_of(
        &self,
        named_by: &NamedBy,
        ids: BTreeSet<String>,
        span: (i64, i64),
    ) -> BTreeMap<String, String> {
        let mut names = BTreeMap::new();
        let mut note = |thing: &Value, field: &str| {
            if let (Some(id), Some(name)) = (thing["id"].as_str(), thing[field].as_str()) {
                names.insert(id.to_owned(), name.to_owned());
            }
        };
        match named_by {
            NamedBy::Each(kind) => {
                let (ids, accounts): (Vec<String>, Vec<String>) =
                    ids.into_iter().partition(|id| !ACCOUNT.1.iter().any(|prefix| id.starts_with(prefix)));
                if !accounts.is_empty() && !self.client.is_openai() {
                    for (id, name) in self.names_of_accounts(span, accounts).await {
                        note(&json!({"id": id, "name": name}), "name");
                    }
                }
                for id in ids {
                    match self.client.get(&format!("{}/{}", kind.list, encoded(&id)), &[]).await {
                        Ok(thing) => note(&thing, kind.field),
                        // What is gone.
                        Err(CallError::Refused { status: 404, .. }) => {}
                        // Who may not see one, or cannot be answered, need not ask for the others.
                        Err(_) => break,
                    }
                }
            }
            NamedBy::Keys | NamedBy::All(_) if self.client.is_openai() => {}
            NamedBy::Keys => {
                let query = ids.into_iter().map(|id| ("ids", id));
                let query: Vec<_> = query.chain([("status", "any".to_owned())]).collect();
                let listed = self.client.list("/tollgate/v1/api_keys", &query, NAMED_MAX).await;
                listed.iter().flat_map(|(keys, _)| keys).for_each(|key| note(key, "name"));
            }
            NamedBy::All(kind) => {
                let listed = self.client.list(kind.list, &[], usize::MAX).await;
                listed.iter().flat_map(|(things, _)| things).for_each(|thing| note(thing, kind.field));
            }
        }
        names
    }

    /// What has used something is told with its name; accounts have no list of all projects.
    async fn names_of_accounts(&self, (start, end): (i64, i64), ids: Vec<String>) -> Vec<(String, String)> {
        let mut query = vec![
            ("start_time", start.to_string()),
            ("end_time", end.to_string()),
            ("limit", "31".to_owned()),
            ("group_by", "user_id".to_owned()),
        ];
        query.extend(ids.into_iter().map(|id| ("user_ids", id)));
        let mut names = Vec::new();
        let note = |row: Value| {
            let text = |field: &str| row[field].as_str().map(str::to_owned);
            names.extend(text("user_id").zip(text("user_name")));
            Ok(())
        };
        let _ = self.each_result("/tollgate/v1/usage", query, note).await;
        names
    }
}

/// More names than that are not asked for.
const NAMED_MAX: usize = 100;

/// Where the names of ids are found.
enum NamedBy {
    /// By asking for each.
    Each(&'static Kind),
    /// In Tollgate's list of keys, which can be asked for some of them.
    Keys,
    /// In a list of Tollgate's that is short.
    All(&'static Kind),
}

fn absent(what: &str, text: &str) -> Failure {
    let message = format!("There is no {what} called '{text}'.");
    let error =
        json!({"message": message, "type": "invalid_request_error", "code": "not_found", "param": null});
    CallError::Refused { status: 404, error, request_id: None }.into()
}

fn is_absent(failure: &Failure) -> bool {
    matches!(failure, Failure::Call(CallError::Refused { status: 404, .. }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_begin_like_an_id() {
        let id = "proj_01m8bs00050006d18reqt6fqkt";
        assert_eq!((guess(&["proj_"], id, false), guess(&["proj_"], "proj_x", true)), (Guess::Id, Guess::Id));
        assert_eq!(guess(&["proj_"], "proj_x", false), Guess::Either);
        assert_eq!(guess(&["proj_"], "Search", true), Guess::Name);
        assert_eq!(guess(&["user-"], "user-ops@example.com", true), Guess::Name);
        assert_eq!(guess(&["role_", "role-"], "role-api-organization-owner", false), Guess::Id);
    }
}
