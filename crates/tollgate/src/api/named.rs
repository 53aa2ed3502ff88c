//! Things by the names that people know them by; ids are taken as they are.

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

    pub(crate) async fn key_id(&self, project: &str, text: &str) -> Result<String, Failure> {
        self.id_in(project, KEY, text).await
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
            [] => {
                let message = format!("There is no {what} called '{text}'.");
                let error = json!({"message": message, "type": "invalid_request_error", "code": "not_found", "param": null});
                Err(CallError::Refused { status: 404, error, request_id: None }.into())
            }
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
