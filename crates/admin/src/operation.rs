//! Operations: the rows of the tables, and the seam that lets a plain `async fn(&mut Cx, Input)` be one.

use std::future::Future;
use std::pin::Pin;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tollgate_core::{Error, Permission, Result};
use tollgate_store::Reading;

use crate::arguments::Arguments;
use crate::audit::Event;
use crate::gate::{Admin, Cx};

/// Who may call an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// An admin key whose owner and scopes give the permission.
    Needs(Permission),
    /// The same, and of a key that is a project's with the permission among its scopes, or restricted to projects: the operation
    /// tells it of these projects alone.
    WithinProjects(Permission),
    /// An admin key of an operator of the installation.
    Operator,
    /// An admin key with the permission, or of an operator, who reads what operators write.
    OperatorOr(Permission),
    /// Any valid key, project keys included.
    AnyKey,
    /// A person, about what is their own: signed in, or with an unrestricted admin key of theirs.
    Oneself,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Post,
    Delete,
}

impl Method {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }
}

pub(crate) type Running<'c> = Pin<Box<dyn Future<Output = Result<Vec<u8>>> + Send + 'c>>;
type Run = Box<dyn for<'c> Fn(&'c mut Cx, Arguments) -> Running<'c> + Send + Sync>;

pub(crate) type Preparing<'a> = Pin<Box<dyn Future<Output = Result<Arguments>> + Send + 'a>>;
/// What has to be done before the transaction, because it asks somebody else.
pub(crate) type Prepare = for<'a> fn(&'a Admin, Arguments) -> Preparing<'a>;

/// One row.
pub struct Operation {
    pub id: &'static str,
    pub method: Method,
    pub path: &'static str,
    pub access: Access,
    /// What a change of this kind is called in the audit log; `None` for what only reads.
    pub event: Option<Event>,
    /// Whether it reads the books, which then have to be up to date.
    pub(crate) reads_books: bool,
    pub(crate) reads_activity: bool,
    /// On whose threads it reads.
    pub(crate) reading: Reading,
    pub(crate) prepare: Option<Prepare>,
    /// What it is called with, and what it answers.
    pub(crate) input: fn(&mut SchemaGenerator) -> Schema,
    pub(crate) output: fn(&mut SchemaGenerator) -> Schema,
    pub(crate) run: Run,
}

/// A function that can be an operation: `for<'c> async fn(&'c mut Cx, I) -> Result<impl Serialize>`.
pub(crate) trait Handler<'c, I>: Fn(&'c mut Cx, I) -> Self::Future {
    type Reply;
    type Future: Future<Output = Result<Self::Reply>> + Send + 'c;
}

impl<'c, I, R, F, Fut> Handler<'c, I> for F
where
    F: Fn(&'c mut Cx, I) -> Fut,
    Fut: Future<Output = Result<R>> + Send + 'c,
{
    type Reply = R;
    type Future = Fut;
}

/// A table under construction.
#[derive(Default)]
pub struct Operations(Vec<Operation>);

impl Operations {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A row that only reads.
    #[must_use]
    pub(crate) fn get<I, O, F>(self, path: &'static str, id: &'static str, access: Access, run: F) -> Self
    where
        I: DeserializeOwned + JsonSchema + Send + 'static,
        O: Serialize + JsonSchema,
        F: for<'c> Handler<'c, I, Reply = O> + Copy + Send + Sync + 'static,
    {
        self.row(Method::Get, path, id, access, None, run)
    }

    /// A row that creates or changes.
    #[must_use]
    pub(crate) fn post<I, O, F>(
        self,
        path: &'static str,
        id: &'static str,
        access: Access,
        event: Event,
        run: F,
    ) -> Self
    where
        I: DeserializeOwned + JsonSchema + Send + 'static,
        O: Serialize + JsonSchema,
        F: for<'c> Handler<'c, I, Reply = O> + Copy + Send + Sync + 'static,
    {
        self.row(Method::Post, path, id, access, Some(event), run)
    }

    /// A row that ends something.
    #[must_use]
    pub(crate) fn delete<I, O, F>(
        self,
        path: &'static str,
        id: &'static str,
        access: Access,
        event: Event,
        run: F,
    ) -> Self
    where
        I: DeserializeOwned + JsonSchema + Send + 'static,
        O: Serialize + JsonSchema,
        F: for<'c> Handler<'c, I, Reply = O> + Copy + Send + Sync + 'static,
    {
        self.row(Method::Delete, path, id, access, Some(event), run)
    }

    /// Gives the last row something to do before its transaction.
    #[must_use]
    pub(crate) fn prepared_by(mut self, prepare: Prepare) -> Self {
        if let Some(operation) = self.0.last_mut() {
            operation.prepare = Some(prepare);
        }
        self
    }

    /// Says of the last row that it shows what was spent: all that ended before it is asked is then in its answer.
    #[must_use]
    pub(crate) fn after_settling(mut self) -> Self {
        if let Some(operation) = self.0.last_mut() {
            operation.reads_books = true;
        }
        self
    }

    /// Says of the last row that it shows what became of requests: of all that ended on this node before it is asked.
    #[must_use]
    pub(crate) fn after_writing_activity(mut self) -> Self {
        if let Some(operation) = self.0.last_mut() {
            operation.reads_activity = true;
        }
        self
    }

    /// Says of the last row that it may read much: it must not keep others from reading.
    #[must_use]
    pub(crate) fn reading_long(mut self) -> Self {
        if let Some(operation) = self.0.last_mut() {
            operation.reading = Reading::Long;
        }
        self
    }

    #[must_use]
    pub(crate) fn and(mut self, others: Self) -> Self {
        self.0.extend(others.0);
        self
    }

    fn row<I, O, F>(
        mut self,
        method: Method,
        path: &'static str,
        id: &'static str,
        access: Access,
        event: Option<Event>,
        run: F,
    ) -> Self
    where
        I: DeserializeOwned + JsonSchema + Send + 'static,
        O: Serialize + JsonSchema,
        F: for<'c> Handler<'c, I, Reply = O> + Copy + Send + Sync + 'static,
    {
        let run: Run = Box::new(move |cx, arguments| {
            Box::pin(async move {
                let reply = run(cx, arguments.read::<I>()?).await?;
                serde_json::to_vec(&reply)
                    .map_err(|error| Error::internal("an answer cannot be written").source(error))
            })
        });
        self.0.push(Operation {
            id,
            method,
            path,
            access,
            event,
            reads_books: false,
            reads_activity: false,
            reading: Reading::Usual,
            prepare: None,
            input: I::json_schema,
            output: SchemaGenerator::subschema_for::<O>,
            run,
        });
        self
    }

    pub fn iter(&self) -> impl Iterator<Item = &Operation> {
        self.0.iter()
    }

    pub(crate) fn into_rows(self) -> Vec<Operation> {
        self.0
    }
}
