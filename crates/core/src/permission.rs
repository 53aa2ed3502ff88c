//! Permissions and the scopes of keys.
//!
//! The strings are OpenAI's where it has published them and follow its shape elsewhere. A scope is a permission or one
//! of three umbrellas (`api.all.read`, `api.management.read`, `api.management.write`). No scopes at all means
//! unrestricted, as on OpenAI's wire; a key can then do whatever its owner may.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::error::{Error, Result};
use crate::key::KeyKind;

macro_rules! permissions {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $realm:ident $action:ident;)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Permission { $($(#[$doc])* $name,)* }

        impl Permission {
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            const fn facts(self) -> (Realm, Action) {
                match self { $(Self::$name => (Realm::$realm, Action::$action),)* }
            }
        }
    };
}

/// Which of the two APIs a permission belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Realm {
    Model,
    Management,
    /// Both: only the umbrella over everything that reads.
    Any,
    Installation,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    Read,
    Write,
}

permissions! {
    ModelRequest = "api.model.request", Model Write;
    ModelRead = "api.model.read", Model Read;
    /// Umbrella: everything that only reads.
    AllRead = "api.all.read", Any Read;
    /// Umbrella: every read of the administration API.
    ManagementRead = "api.management.read", Management Read;
    /// Umbrella: every write of the administration API.
    ManagementWrite = "api.management.write", Management Write;
    UsageRead = "api.usage.read", Management Read;
    /// Corrections and refunds of what requests cost.
    UsageWrite = "tollgate.usage.write", Management Write;
    ProjectsRead = "api.organization.projects.read", Management Read;
    ProjectsWrite = "api.organization.projects.write", Management Write;
    ProjectUsersRead = "api.organization.projects.users.read", Management Read;
    ProjectUsersWrite = "api.organization.projects.users.write", Management Write;
    ProjectApiKeysRead = "api.organization.projects.api_keys.read", Management Read;
    ProjectApiKeysWrite = "api.organization.projects.api_keys.write", Management Write;
    ServiceAccountsRead = "api.organization.projects.service_accounts.read", Management Read;
    ServiceAccountsWrite = "api.organization.projects.service_accounts.write", Management Write;
    SpendLimitsRead = "api.organization.spend_limits.read", Management Read;
    SpendLimitsWrite = "api.organization.spend_limits.write", Management Write;
    UsersRead = "api.organization.users.read", Management Read;
    UsersWrite = "api.organization.users.write", Management Write;
    AdminApiKeysRead = "api.organization.admin_api_keys.read", Management Read;
    AdminApiKeysWrite = "api.organization.admin_api_keys.write", Management Write;
    AuditLogsRead = "api.organization.audit_logs.read", Management Read;
    UpstreamsRead = "tollgate.upstreams.read", Management Read;
    /// Upstreams, models and prices: for a key whose owner is an operator of the installation.
    Operator = "tollgate.operator", Installation Write;
}

impl Permission {
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|permission| permission.as_str() == text)
    }

    /// Whether a key of this kind may carry the permission as a scope. A scope that could never open anything is
    /// refused when the key is made, rather than stored and not enforced.
    pub fn is_scope_of(self, kind: KeyKind) -> bool {
        let (realm, _) = self.facts();
        match kind {
            KeyKind::Project | KeyKind::ServiceAccount => matches!(realm, Realm::Model | Realm::Any),
            KeyKind::Admin => realm != Realm::Model,
        }
    }

    /// Whether holding `self` as a scope allows what needs `needed`.
    fn covers(self, needed: Self) -> bool {
        let (realm, action) = needed.facts();
        match self {
            Self::AllRead => action == Action::Read,
            Self::ManagementRead => realm == Realm::Management && action == Action::Read,
            Self::ManagementWrite => realm == Realm::Management && action == Action::Write,
            _ => self == needed,
        }
    }

    const fn bit(self) -> u32 {
        1 << self as u32
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A stored scope of a version that knew more. It restricts, and opens nothing.
const UNKNOWN_SCOPE: u32 = 1 << 31;
/// What such a scope is shown and stored as, for an empty list would mean all scopes.
const UNKNOWN_WORD: &str = "unknown";

/// The scopes of a key, or all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scopes(u32);

impl Scopes {
    /// No restriction: what an empty list of scopes means.
    pub const UNRESTRICTED: Self = Self(0);

    /// Reads the scopes wished for a key of `kind`; the error names the one that does not exist there.
    pub fn parse<S: AsRef<str>>(texts: &[S], kind: KeyKind) -> Result<Self> {
        let mut scopes = Self::UNRESTRICTED;
        for (position, text) in texts.iter().enumerate() {
            let text = text.as_ref();
            match Permission::parse(text).filter(|permission| permission.is_scope_of(kind)) {
                Some(permission) => scopes.0 |= permission.bit(),
                None => {
                    return Err(Error::unsupported(
                        format!("scopes[{position}]"),
                        format!(
                            "Unknown scope '{text}' for this kind of key. The scopes there are: {}.",
                            Self::known(kind).join(", ")
                        ),
                    ));
                }
            }
        }
        Ok(scopes)
    }

    /// Reads stored scopes: space-separated. A word this version does not know restricts to nothing it knows.
    pub fn from_stored(text: &str) -> Self {
        text.split_whitespace().fold(Self::UNRESTRICTED, |Self(bits), word| {
            Self(bits | Permission::parse(word).map_or(UNKNOWN_SCOPE, Permission::bit))
        })
    }

    pub fn to_stored(self) -> String {
        self.to_list().join(" ")
    }

    pub fn to_list(self) -> Vec<&'static str> {
        let known = Permission::ALL.iter().filter(|permission| self.0 & permission.bit() != 0);
        let unknown = (self.0 & UNKNOWN_SCOPE != 0).then_some(UNKNOWN_WORD);
        known.map(|permission| permission.as_str()).chain(unknown).collect()
    }

    pub fn known(kind: KeyKind) -> Vec<&'static str> {
        Permission::ALL.iter().filter(|permission| permission.is_scope_of(kind)).map(|p| p.as_str()).collect()
    }

    pub fn is_unrestricted(self) -> bool {
        self.0 == 0
    }

    pub fn allows(self, needed: Permission) -> bool {
        self.is_unrestricted()
            || Permission::ALL.iter().any(|scope| self.0 & scope.bit() != 0 && scope.covers(needed))
    }

    /// Whether everything these scopes allow is allowed by `wider` as well.
    pub fn within(self, wider: Self) -> bool {
        wider.is_unrestricted()
            || (!self.is_unrestricted()
                && Permission::ALL
                    .iter()
                    .all(|permission| !self.allows(*permission) || wider.allows(*permission)))
    }
}

impl Serialize for Scopes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_list().serialize(serializer)
    }
}

/// The organization's two predefined roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OrganizationRole {
    Owner,
    Reader,
}

impl OrganizationRole {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Reader => "reader",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Owner, Self::Reader].into_iter().find(|role| role.as_str() == text)
    }

    /// What the role itself grants, before a key's scopes narrow it. Being an operator is no matter of role.
    pub fn allows(self, permission: Permission) -> bool {
        match self {
            Self::Owner => permission != Permission::Operator,
            Self::Reader => permission == Permission::ModelRead,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scopes(texts: &[&str], kind: KeyKind) -> Scopes {
        Scopes::parse(texts, kind).unwrap()
    }

    #[test]
    fn no_scopes_means_everything_and_a_scope_means_only_itself() {
        let none = scopes(&[], KeyKind::Project);
        assert!(Permission::ALL.iter().all(|permission| none.allows(*permission)));
        let request = scopes(&["api.model.request"], KeyKind::Project);
        assert!(request.allows(Permission::ModelRequest) && !request.allows(Permission::ModelRead));
        let read = scopes(&["api.all.read"], KeyKind::Project);
        assert!(read.allows(Permission::ModelRead) && !read.allows(Permission::ModelRequest));
    }

    #[test]
    fn a_scope_of_the_other_api_is_refused_by_name() {
        let error = Scopes::parse(&["api.model.read", "api.usage.read"], KeyKind::Project).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("scopes[1]"));
        assert!(Scopes::parse(&["api.model.request"], KeyKind::Admin).is_err());
        assert!(Scopes::parse(&["api.nonsense"], KeyKind::Admin).is_err());
    }

    #[test]
    fn scopes_survive_storage_and_an_unknown_word_opens_nothing() {
        let admin = scopes(&["api.management.read", "tollgate.operator"], KeyKind::Admin);
        assert_eq!(Scopes::from_stored(&admin.to_stored()), admin);
        let future = Scopes::from_stored("api.from.the.future");
        assert!(!future.is_unrestricted());
        assert_eq!(
            Scopes::from_stored(&future.to_stored()),
            future,
            "it does not turn into all scopes when it is stored again"
        );
        assert!(Permission::ALL.iter().all(|permission| !future.allows(*permission)));
    }

    #[test]
    fn umbrellas_widen_only_their_own_side() {
        let read = scopes(&["api.management.read"], KeyKind::Admin);
        assert!(read.allows(Permission::ProjectsRead) && !read.allows(Permission::ProjectsWrite));
        assert!(!scopes(&["api.management.write"], KeyKind::Admin).allows(Permission::Operator));
    }

    #[test]
    fn narrower_scopes_are_within_wider_ones_never_the_reverse() {
        let all = Scopes::UNRESTRICTED;
        let read = scopes(&["api.management.read"], KeyKind::Admin);
        let projects = scopes(&["api.organization.projects.read"], KeyKind::Admin);
        assert!(read.within(all) && projects.within(read) && projects.within(projects));
        assert!(!all.within(read) && !read.within(projects));
    }
}
