//! The one error, and its rendering into OpenAI's envelope.
//!
//! `message`, `code` and `param` are for the caller and say nothing of the inside; `source` is for the log. Build an
//! error with the constructor that names the case. It is logged once, where it is answered, if it is a 5xx.

use std::fmt;

use serde_json::{Value, json};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, as far as status and type are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    InvalidRequest,
    Unauthenticated,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    RequestTimeout,
    PayloadTooLarge,
    /// Another protocol was asked for.
    UpgradeRequired,
    /// A hard limit is spent: trying again before it is raised or its period ends cannot help.
    QuotaExhausted,
    /// The money is there, but reserved for requests in flight.
    BudgetHeld,
    /// Too many attempts in a short time.
    RateLimited,
    /// The provider limits the installation's requests, which is not a limit of the caller's.
    UpstreamLimited,
    Internal,
    UpstreamFailed,
    Unavailable,
    UpstreamTimeout,
}

impl Kind {
    /// The HTTP status and the `type` of the envelope.
    pub const fn wire(self) -> (u16, &'static str) {
        match self {
            Self::InvalidRequest => (400, "invalid_request_error"),
            Self::Unauthenticated => (401, "invalid_request_error"),
            Self::Forbidden => (403, "invalid_request_error"),
            Self::NotFound => (404, "invalid_request_error"),
            Self::MethodNotAllowed => (405, "invalid_request_error"),
            Self::RequestTimeout => (408, "invalid_request_error"),
            Self::PayloadTooLarge => (413, "invalid_request_error"),
            Self::UpgradeRequired => (426, "invalid_request_error"),
            Self::QuotaExhausted => (429, "insufficient_quota"),
            Self::BudgetHeld => (429, "budget_held"),
            Self::RateLimited | Self::UpstreamLimited => (429, "rate_limit_error"),
            Self::Internal => (500, "server_error"),
            Self::UpstreamFailed => (502, "server_error"),
            Self::Unavailable => (503, "server_error"),
            Self::UpstreamTimeout => (504, "server_error"),
        }
    }
}

#[derive(Debug)]
pub struct Error {
    pub kind: Kind,
    pub code: Option<&'static str>,
    pub message: String,
    pub param: Option<String>,
    /// Answered besides the envelope: `allow`, `retry-after` and the like.
    pub headers: Vec<(&'static str, String)>,
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, code: None, message: message.into(), param: None, headers: Vec::new(), source: None }
    }

    /// A 400 about one parameter; `param` is its path, such as `messages[0].role`.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Kind::InvalidRequest, message).param(param).code("invalid_value")
    }

    /// A 400 about the request as a whole.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Kind::InvalidRequest, message)
    }

    /// A field of OpenAI's that would be stored but not enforced.
    pub fn unsupported(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Kind::InvalidRequest, message).param(param).code("unsupported_value")
    }

    /// The same answer for what does not exist and for what belongs to somebody else.
    pub fn not_found(what: &str) -> Self {
        Self::new(Kind::NotFound, format!("No such {what}, or you do not have access to it."))
            .code("not_found")
    }

    /// A 403 of the administration: the key's owner, or its scopes, do not allow it.
    pub fn forbidden(missing: &str) -> Self {
        Self::insufficient(missing, "organization")
    }

    /// A 403 of the data plane, where the role in the project counts as well.
    pub fn forbidden_in_project(missing: &str) -> Self {
        Self::insufficient(
            missing,
            "organization (Reader, Writer, Owner) and project (Viewer, Member, Owner)",
        )
    }

    fn insufficient(missing: &str, roles: &str) -> Self {
        let message = format!(
            "You have insufficient permissions for this operation. Missing scopes: {missing}. Check that you have the \
             correct role in your {roles}, and if you're using a restricted API key, that it has the necessary scopes."
        );
        Self::new(Kind::Forbidden, message)
    }

    pub fn internal(message: impl Into<String>) -> Self {
        let cause: Box<dyn std::error::Error + Send + Sync> = message.into().into();
        let mut error = Self::new(
            Kind::Internal,
            "The server had an error processing your request. Please include the request id when you report it.",
        );
        error.source = Some(cause);
        error
    }

    pub fn unavailable(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Kind::Unavailable, message).code(code)
    }

    #[must_use]
    pub fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    #[must_use]
    pub fn param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    #[must_use]
    pub fn source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    pub fn status(&self) -> u16 {
        self.kind.wire().0
    }

    pub fn is_not_found(&self) -> bool {
        self.kind == Kind::NotFound
    }

    /// `{"error":{"message","type","param","code"}}`, all four always present.
    pub fn envelope(&self) -> Value {
        json!({"error": {
            "message": self.message,
            "type": self.kind.wire().1,
            "param": self.param,
            "code": self.code,
        }})
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.source {
            Some(source) => write!(f, " ({source})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}
