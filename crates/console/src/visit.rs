//! One request of somebody, with what a page needs to answer it.

use serde_json::Value;
use tollgate_admin::{Admin, Given, Origin, Session};
use tollgate_core::secret::Secret;
use tollgate_core::{Error, Kind, Permission, ProjectId, Result, Timestamp};

use crate::form::Form;

pub(crate) struct Visit<'a> {
    pub(crate) admin: &'a Admin,
    pub(crate) session: Option<Session>,
    /// That of the session, as the browser sent it.
    pub(crate) token: Option<Secret>,
    /// What was asked of the provider of identities, and where one was then.
    pub(crate) pending: Option<(Secret, String)>,
    pub(crate) origin: Origin,
    pub(crate) path: String,
    /// What the path names, in its order.
    pub(crate) names: Vec<String>,
    pub(crate) query: Form,
    /// What was sent; nothing, where a page is only looked at.
    pub(crate) form: Form,
    /// What its forms must carry.
    pub(crate) form_token: String,
}

/// So many pages of a list are read at most where all of it is wanted.
const PAGES_MAX: usize = 50;

impl Visit<'_> {
    /// Whoever is signed in. The routes see to it that there is somebody.
    pub(crate) fn session(&self) -> Result<&Session> {
        let nobody = || Error::new(Kind::Unauthenticated, "You are not signed in.").code("session_ended");
        self.session.as_ref().ok_or_else(nobody)
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.admin.now()
    }

    /// What the path names first.
    pub(crate) fn name(&self) -> &str {
        self.nth(0)
    }

    pub(crate) fn nth(&self, position: usize) -> &str {
        self.names.get(position).map_or("", String::as_str)
    }

    /// Calls an operation.
    pub(crate) async fn call(&self, id: &str, given: Given) -> Result<Value> {
        self.admin.perform(self.session()?, &self.origin, id, given).await
    }

    /// All items of a list, as far as a page can show them.
    pub(crate) async fn all(&self, id: &str, given: Given) -> Result<Vec<Value>> {
        let mut items = Vec::new();
        let mut after: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let mut page = given.clone().query("limit", "100");
            if let Some(after) = &after {
                page = page.query("after", after.clone());
            }
            let answer = self.call(id, page).await?;
            items.extend(answer["data"].as_array().cloned().unwrap_or_default());
            // Two ways of OpenAI's to say where the next page begins.
            let next = answer["next"].as_str().or_else(|| answer["last_id"].as_str());
            after = next.map(str::to_owned);
            if !answer["has_more"].as_bool().unwrap_or(false) || after.is_none() {
                break;
            }
        }
        Ok(items)
    }

    /// What somebody may see if they may, and nothing if they may not.
    pub(crate) async fn if_allowed(&self, id: &str, given: Given) -> Result<Option<Value>> {
        match self.call(id, given).await {
            Ok(value) => Ok(Some(value)),
            Err(error) if matches!(error.kind, Kind::Forbidden) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn may(&self, permission: Permission) -> bool {
        self.session.as_ref().is_some_and(|session| self.admin.may(session, permission, None))
    }

    /// The same at a project.
    pub(crate) fn may_at(&self, permission: Permission, project: &str) -> bool {
        let project = ProjectId::parse(project);
        let session = self.session.as_ref();
        project.is_some() && session.is_some_and(|session| self.admin.may(session, permission, project))
    }

    /// That somebody may not do what a form is for is said before it is filled in.
    pub(crate) fn needs(&self, permission: Permission) -> Result<()> {
        if self.may(permission) { Ok(()) } else { Err(Error::forbidden(permission.as_str())) }
    }

    pub(crate) fn is_operator(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.is_operator)
    }

    /// The address of this page with one part of its query given anew.
    pub(crate) fn here_with(&self, name: &str, value: Option<&str>) -> String {
        match self.query.with(name, value) {
            query if query.is_empty() => self.path.clone(),
            query => format!("{}?{query}", self.path),
        }
    }

    /// A page of a list as the query asks for it.
    pub(crate) fn page_of(&self, limit: usize) -> Given {
        let given = Given::default().query("limit", limit.to_string());
        match self.query.typed("after") {
            Some(after) => given.query("after", after),
            None => given,
        }
    }
}

/// Whether an error is about what was typed, so that it belongs on the page with the form.
pub(crate) fn is_for_form(error: &Error) -> bool {
    (400..500).contains(&error.status()) && error.code != Some("session_ended")
}

/// The path of a thing, each part of it encoded.
pub(crate) fn path(parts: &[&str]) -> String {
    parts.iter().fold(String::new(), |path, part| path + "/" + &tollgate_wire::percent_encoded(part))
}
