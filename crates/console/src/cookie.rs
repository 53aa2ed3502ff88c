//! The cookie that says who somebody is.

use tollgate_core::secret::Secret;
use tollgate_wire::Headers;

/// Bound to this host, and sent over TLS alone (browsers count this machine as that).
const SAFE: &str = "__Host-tollgate";
/// Of an installation that is reached without TLS because its operator said so.
const PLAIN: &str = "tollgate";

/// Of what was asked of the provider of identities, with whose answer one comes back from its site.
const PENDING: &str = "oidc";
const PENDING_SECONDS: i64 = 600;
/// A browser keeps it as long as the session can last; whether it still does the server knows.
const SESSION_SECONDS: i64 = 7 * 86_400;

pub(crate) struct Cookies {
    is_plain: bool,
}

impl Cookies {
    pub(crate) const fn new(is_plain: bool) -> Self {
        Self { is_plain }
    }

    const fn name(&self) -> &'static str {
        if self.is_plain { PLAIN } else { SAFE }
    }

    /// The token that a browser sends.
    pub(crate) fn session(&self, headers: &Headers) -> Option<Secret> {
        Self::value(headers, self.name()).map(Secret::new)
    }

    fn value(headers: &Headers, name: &str) -> Option<String> {
        let lines = headers.all("cookie").filter_map(|line| std::str::from_utf8(line).ok());
        let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.find(|(known, value)| *known == name && !value.is_empty()).map(|(_, value)| value.to_owned())
    }

    pub(crate) fn begin(&self, token: &Secret) -> String {
        self.set(self.name(), token.reveal(), "Strict", Some(SESSION_SECONDS))
    }

    fn pending_name(&self) -> String {
        format!("{}-{PENDING}", self.name())
    }

    /// It comes back with whoever comes from the provider's site, and so is not strict.
    pub(crate) fn keep_pending(&self, pending: &Secret, next: &str) -> String {
        let value = format!("{}~{}", pending.reveal(), tollgate_wire::percent_encoded(next));
        self.set(&self.pending_name(), &value, "Lax", Some(PENDING_SECONDS))
    }

    pub(crate) fn pending(&self, headers: &Headers) -> Option<(Secret, String)> {
        let value = Self::value(headers, &self.pending_name())?;
        let (pending, next) = value.split_once('~')?;
        Some((Secret::new(pending), tollgate_wire::percent_decoded(next)?))
    }

    pub(crate) fn end_pending(&self) -> String {
        self.set(&self.pending_name(), "", "Lax", Some(0))
    }

    pub(crate) fn end(&self) -> String {
        self.set(self.name(), "", "Strict", Some(0))
    }

    fn set(&self, name: &str, value: &str, same_site: &str, max_age: Option<i64>) -> String {
        let secure = if self.is_plain { "" } else { "; Secure" };
        let max_age = max_age.map(|seconds| format!("; Max-Age={seconds}")).unwrap_or_default();
        format!("{name}={value}; Path=/; HttpOnly; SameSite={same_site}{secure}{max_age}")
    }
}
