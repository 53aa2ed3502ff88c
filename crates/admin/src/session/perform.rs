//! Operations by whoever is signed in: the same rows of the same tables, through the same gate.

use std::sync::Arc;

use serde_json::{Map, Value};
use tollgate_core::{Error, Permission, ProjectId, Result};

use super::Session;
use crate::actor::{Actor, Origin};
use crate::arguments::Arguments;
use crate::gate::Admin;
use crate::operation::{Method, Operation};
use crate::query::Query;

/// What an operation is called with: what its path names, and its query or its body.
#[derive(Clone, Debug, Default)]
pub struct Given {
    pub path: Vec<(String, String)>,
    /// Of what is read or ended. A name may stand in it more than once.
    pub query: Vec<(String, String)>,
    /// Of what is changed.
    pub body: Map<String, Value>,
}

impl Given {
    #[must_use]
    pub fn path(mut self, name: &str, value: impl Into<String>) -> Self {
        self.path.push((name.to_owned(), value.into()));
        self
    }

    #[must_use]
    pub fn query(mut self, name: &str, value: impl Into<String>) -> Self {
        self.query.push((name.to_owned(), value.into()));
        self
    }

    #[must_use]
    pub fn body(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.body.insert(name.to_owned(), value.into());
        self
    }
}

impl Admin {
    /// Calls an operation, and returns what it answers.
    pub async fn perform(&self, session: &Session, origin: &Origin, id: &str, given: Given) -> Result<Value> {
        let operation = self.routes.by_id(id).cloned();
        let operation: Arc<Operation> =
            operation.ok_or_else(|| Error::internal(format!("there is no operation {id}")))?;
        self.desk.replica.check_fresh()?;
        let project = given.path.iter().find(|(name, _)| name == "project_id");
        let project = project.and_then(|(_, id)| ProjectId::parse(id));
        let actor = self.actor(session, origin, project);
        let arguments = match operation.method {
            Method::Get | Method::Delete => Arguments::Query(Query::of(given.query)?),
            Method::Post => Arguments::Body(given.body),
        };
        let reply = self.call(actor, &operation, arguments.with_path(&given.path)?).await?;
        serde_json::from_slice(&reply)
            .map_err(|error| Error::internal("an answer cannot be read").source(error))
    }

    /// Whether somebody may do what needs a permission, at a project or at the organization.
    pub fn may(&self, session: &Session, permission: Permission, at: Option<ProjectId>) -> bool {
        self.actor(session, &Origin::default(), at).may(permission)
    }

    fn actor(&self, session: &Session, origin: &Origin, at: Option<ProjectId>) -> Actor {
        Actor::of_session(session, &self.desk.replica.snapshot(), at, origin.clone())
    }
}
