//! Which request of the data plane a method and a path are.

use tollgate_core::{Error, Permission, Result, not_served};
use tollgate_wire::{RequestHead, percent_decoded};

/// Which request of the data plane this is.
pub(crate) enum Route {
    Models,
    Model(String),
    /// With the model, where the path names it.
    Call(Endpoint, Option<String>),
    /// A response that the provider keeps, by its id.
    Stored(Action, String),
}

/// What can be done with a response that the provider keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Retrieve,
    Delete,
    Cancel,
    InputItems,
}

impl Action {
    pub(crate) const fn method(self) -> &'static str {
        match self {
            Self::Retrieve | Self::InputItems => "GET",
            Self::Delete => "DELETE",
            Self::Cancel => "POST",
        }
    }

    /// What follows the id in its path.
    pub(crate) const fn suffix(self) -> &'static str {
        match self {
            Self::Retrieve | Self::Delete => "",
            Self::Cancel => "/cancel",
            Self::InputItems => "/input_items",
        }
    }

    const fn route(self) -> &'static str {
        match self {
            Self::Retrieve | Self::Delete => "/v1/responses/{response_id}",
            Self::Cancel => "/v1/responses/{response_id}/cancel",
            Self::InputItems => "/v1/responses/{response_id}/input_items",
        }
    }

    /// By what follows `/responses/` in a path; the error says which methods there are.
    fn of<'r>(method: &str, rest: &'r str) -> Option<std::result::Result<(Self, &'r str), &'static str>> {
        let (id, suffix) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        if id.is_empty() {
            return None;
        }
        let (there, allowed): (&[Self], _) = match suffix {
            "" => (&[Self::Retrieve, Self::Delete], "GET, DELETE"),
            "/cancel" => (&[Self::Cancel], "POST"),
            "/input_items" => (&[Self::InputItems], "GET"),
            _ => return None,
        };
        let action = there.iter().find(|action| action.method() == method);
        Some(action.map(|action| (*action, id)).ok_or(allowed))
    }
}

/// An endpoint that costs money.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    ChatCompletions,
    Responses,
    /// The older way, of a prompt in place of messages.
    Completions,
    Embeddings,
    Moderations,
    /// Anthropic's.
    Messages,
    CountTokens,
}

impl Endpoint {
    pub(crate) const ALL: [Self; 7] = [
        Self::ChatCompletions,
        Self::Responses,
        Self::Completions,
        Self::Embeddings,
        Self::Moderations,
        Self::Messages,
        Self::CountTokens,
    ];

    /// The path below an API's base, the same here and at the upstream.
    pub(crate) fn path(self) -> &'static str {
        self.route().strip_prefix("/v1").unwrap_or_default()
    }

    pub(crate) const fn route(self) -> &'static str {
        match self {
            Self::ChatCompletions => "/v1/chat/completions",
            Self::Responses => "/v1/responses",
            Self::Completions => "/v1/completions",
            Self::Embeddings => "/v1/embeddings",
            Self::Moderations => "/v1/moderations",
            Self::Messages => "/v1/messages",
            Self::CountTokens => "/v1/messages/count_tokens",
        }
    }

    /// Whether it is of Anthropic's API.
    pub(crate) const fn is_native(self) -> bool {
        matches!(self, Self::Messages | Self::CountTokens)
    }

    /// Whether providers do it for nothing.
    pub(crate) const fn is_free(self) -> bool {
        matches!(self, Self::CountTokens)
    }

    pub(crate) const fn usage(self) -> tollgate_ledger::Endpoint {
        match self {
            Self::ChatCompletions | Self::Responses | Self::Completions | Self::Messages => {
                tollgate_ledger::Endpoint::Completions
            }
            Self::CountTokens => tollgate_ledger::Endpoint::TokenCounts,
            Self::Embeddings => tollgate_ledger::Endpoint::Embeddings,
            Self::Moderations => tollgate_ledger::Endpoint::Moderations,
        }
    }

    /// Whether a request can say in which service tier it is to be served.
    pub(crate) const fn has_tiers(self) -> bool {
        matches!(self, Self::ChatCompletions | Self::Responses | Self::Messages)
    }

    pub(crate) const fn makes_output(self) -> bool {
        matches!(self, Self::ChatCompletions | Self::Responses | Self::Completions | Self::Messages)
    }

    /// Whether its answers say how many tokens they took.
    pub(crate) const fn reports_usage(self) -> bool {
        !matches!(self, Self::Moderations | Self::CountTokens)
    }

    /// The model that is meant where none is named.
    pub(crate) const fn usual_model(self) -> Option<&'static str> {
        match self {
            Self::Moderations => Some("omni-moderation-latest"),
            _ => None,
        }
    }

    /// The most output of a choice where the request limits none, if it is not as much as the model makes.
    pub(crate) const fn usual_output(self) -> Option<u64> {
        match self {
            Self::Completions => Some(16),
            _ => None,
        }
    }
}

impl Route {
    /// What whoever asks must be allowed to do.
    pub(crate) const fn needs(&self) -> Permission {
        match self {
            Self::Models | Self::Model(_) => Permission::ModelRead,
            Self::Call(..) | Self::Stored(..) => Permission::ModelRequest,
        }
    }

    /// The path, with a name in place of what it names.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Models => "/v1/models",
            Self::Model(_) => "/v1/models/{model}",
            Self::Call(endpoint, _) => endpoint.route(),
            Self::Stored(action, _) => action.route(),
        }
    }

    pub(crate) fn of(head: &RequestHead) -> Result<Self> {
        let (method, path) = (head.method(), head.path());
        if head.headers.get("upgrade").is_some_and(|to| to.eq_ignore_ascii_case("websocket")) {
            return Err(no_websocket());
        }
        let nothing = || not_served::unknown_url(method, path);
        let Place { below, deployment } = Place::of(path).ok_or_else(nothing)?;
        let (route, allowed) =
            if let Some(endpoint) = Endpoint::ALL.into_iter().find(|endpoint| endpoint.path() == below) {
                (Self::Call(endpoint, deployment), "POST")
            } else if deployment.is_some() {
                return Err(nothing());
            } else if let Some(found) =
                below.strip_prefix("/responses/").and_then(|rest| Action::of(method, rest))
            {
                let (action, id) = found.map_err(|allowed| wrong_method(method, path, allowed))?;
                let id = percent_decoded(id).ok_or_else(nothing)?;
                return Ok(Self::Stored(action, id));
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

/// Where a path lies: what is below the base of the API, by whichever of its names.
struct Place<'p> {
    below: &'p str,
    /// The model, where the path names it as Azure's do.
    deployment: Option<String>,
}

impl<'p> Place<'p> {
    fn of(path: &'p str) -> Option<Self> {
        const BASES: [&str; 5] = ["/openai/v1", "/openai", "/anthropic/v1", "/anthropic", "/v1"];
        if let Some(rest) = path.strip_prefix("/openai/deployments/") {
            let (name, _) = rest.split_once('/')?;
            let name_decoded = percent_decoded(name).filter(|decoded| !decoded.is_empty())?;
            return Some(Self { below: &rest[name.len()..], deployment: Some(name_decoded) });
        }
        let below = |base: &&str| path.strip_prefix(*base).filter(|below| below.starts_with('/'));
        let below = BASES.iter().find_map(below).unwrap_or(path);
        Some(Self { below, deployment: None })
    }
}

/// Whether a path is of Anthropic's API, whose clients read errors in its form.
pub(crate) fn is_native(path: &str) -> bool {
    Place::of(path).is_some_and(|place| place.below == "/messages" || place.below.starts_with("/messages/"))
}

/// Whether a path is for the gateway to answer, if only by saying that there is nothing.
pub fn is_of_gateway(path: &str) -> bool {
    let is_below = |base: &str| path.strip_prefix(base).is_some_and(|below| below.starts_with('/'));
    ["/v1", "/openai", "/anthropic", "/models", "/responses"].into_iter().any(is_below)
        || path == "/models"
        || Endpoint::ALL.into_iter().any(|endpoint| endpoint.path() == path)
}

/// Clients that would rather have one go on without it.
fn no_websocket() -> Error {
    let message = "WebSockets are not served. Send the request by POST.";
    Error::new(tollgate_core::Kind::UpgradeRequired, message).code("websocket_not_served")
}

fn wrong_method(method: &str, path: &str, allowed: &'static str) -> Error {
    let message = format!("Method {method} is not allowed for {path}. Allowed: {allowed}.");
    Error::new(tollgate_core::Kind::MethodNotAllowed, message)
        .code("method_not_allowed")
        .header("allow", allowed)
}
