//! Which request of the data plane a method and a path are.

use tollgate_core::{Error, Permission, Result, not_served};
use tollgate_wire::{RequestHead, percent_decoded};

/// Which request of the data plane this is.
pub(crate) enum Route {
    Models,
    Model(String),
    Call(Endpoint),
}

/// An endpoint that costs money.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    ChatCompletions,
    Embeddings,
}

impl Endpoint {
    const ALL: [Self; 2] = [Self::ChatCompletions, Self::Embeddings];

    /// The path below an API's base, the same here and at the upstream.
    pub(crate) const fn path(self) -> &'static str {
        match self {
            Self::ChatCompletions => "/chat/completions",
            Self::Embeddings => "/embeddings",
        }
    }

    pub(crate) const fn usage(self) -> tollgate_ledger::Endpoint {
        match self {
            Self::ChatCompletions => tollgate_ledger::Endpoint::Completions,
            Self::Embeddings => tollgate_ledger::Endpoint::Embeddings,
        }
    }
}

impl Route {
    /// What whoever asks must be allowed to do.
    pub(crate) const fn needs(&self) -> Permission {
        match self {
            Self::Models | Self::Model(_) => Permission::ModelRead,
            Self::Call(_) => Permission::ModelRequest,
        }
    }

    pub(crate) fn of(head: &RequestHead) -> Result<Self> {
        let (method, path) = (head.method(), head.path());
        let nothing = || not_served::unknown_url(method, path);
        let below = path.strip_prefix("/v1").ok_or_else(nothing)?;
        let (route, allowed) =
            if let Some(endpoint) = Endpoint::ALL.into_iter().find(|endpoint| endpoint.path() == below) {
                (Self::Call(endpoint), "POST")
            } else if below == "/models" {
                (Self::Models, "GET")
            } else if let Some(name) = below.strip_prefix("/models/").filter(|name| !name.is_empty()) {
                (Self::Model(percent_decoded(name).ok_or_else(nothing)?), "GET")
            } else {
                return Err(nothing());
            };
        if method == allowed { Ok(route) } else { Err(wrong_method(method, path, allowed)) }
    }
}

fn wrong_method(method: &str, path: &str, allowed: &'static str) -> Error {
    let message = format!("Method {method} is not allowed for {path}. Allowed: {allowed}.");
    Error::new(tollgate_core::Kind::MethodNotAllowed, message)
        .code("method_not_allowed")
        .header("allow", allowed)
}
