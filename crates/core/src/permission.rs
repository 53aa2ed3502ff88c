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
    ($($(#[$doc:meta])* $name:ident = $text:literal, $realm:ident $action:ident $reach:ident;)*) => {
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

            const fn reach(self) -> Reach {
                match self { $(Self::$name => Reach::$reach,)* }
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

/// Where a role can give a permission.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// At the organization and at a project.
    Project,
    Organization,
    /// Nowhere: it is no matter of a role.
    Installation,
}

permissions! {
    ModelRequest = "api.model.request", Model Write Project;
    ModelRead = "api.model.read", Model Read Project;
    /// Umbrella: everything that only reads.
    AllRead = "api.all.read", Any Read Project;
    /// Umbrella: every read of the administration API.
    ManagementRead = "api.management.read", Management Read Project;
    /// Umbrella: every write of the administration API.
    ManagementWrite = "api.management.write", Management Write Project;
    UsageRead = "api.usage.read", Management Read Project;
    /// Corrections and refunds of what requests cost.
    UsageWrite = "tollgate.usage.write", Management Write Organization;
    /// The organization's own settings.
    OrganizationRead = "api.organization.read", Management Read Organization;
    OrganizationWrite = "api.organization.write", Management Write Organization;
    ProjectsRead = "api.organization.projects.read", Management Read Project;
    ProjectsWrite = "api.organization.projects.write", Management Write Project;
    ProjectUsersRead = "api.organization.projects.users.read", Management Read Project;
    ProjectUsersWrite = "api.organization.projects.users.write", Management Write Project;
    ProjectApiKeysRead = "api.organization.projects.api_keys.read", Management Read Project;
    ProjectApiKeysWrite = "api.organization.projects.api_keys.write", Management Write Project;
    ServiceAccountsRead = "api.organization.projects.service_accounts.read", Management Read Project;
    ServiceAccountsWrite = "api.organization.projects.service_accounts.write", Management Write Project;
    SpendLimitsRead = "api.organization.spend_limits.read", Management Read Project;
    SpendLimitsWrite = "api.organization.spend_limits.write", Management Write Project;
    UsersRead = "api.organization.users.read", Management Read Organization;
    UsersWrite = "api.organization.users.write", Management Write Organization;
    InvitesRead = "api.organization.invites.read", Management Read Organization;
    InvitesWrite = "api.organization.invites.write", Management Write Organization;
    AdminApiKeysRead = "api.organization.admin_api_keys.read", Management Read Organization;
    AdminApiKeysWrite = "api.organization.admin_api_keys.write", Management Write Organization;
    AuditLogsRead = "api.organization.audit_logs.read", Management Read Organization;
    /// Groups and their users; at a project, which groups are in it.
    GroupsRead = "api.groups.read", Management Read Project;
    GroupsWrite = "api.groups.write", Management Write Project;
    /// Roles, and who of the groups has which.
    RolesRead = "api.roles.read", Management Read Project;
    RolesWrite = "api.roles.write", Management Write Project;
    UpstreamsRead = "tollgate.upstreams.read", Management Read Organization;
    /// Upstreams, models and prices: for a key whose owner is an operator of the installation.
    Operator = "tollgate.operator", Installation Write Installation;
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
            // A project may look at its own usage.
            KeyKind::Project | KeyKind::ServiceAccount => {
                matches!(realm, Realm::Model | Realm::Any) || self == Self::UsageRead
            }
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

    /// Whether it is about calling models, and not about administration.
    pub fn is_of_models(self) -> bool {
        self.facts().0 == Realm::Model
    }

    /// Whether it only stands for others.
    pub const fn is_umbrella(self) -> bool {
        matches!(self, Self::AllRead | Self::ManagementRead | Self::ManagementWrite)
    }

    /// Whether a role of a project, or one of the organization, can give it.
    pub fn is_of_role(self, is_of_project: bool) -> bool {
        match self.reach() {
            Reach::Project => true,
            Reach::Organization => !is_of_project,
            Reach::Installation => false,
        }
    }

    const fn bit(self) -> u64 {
        1 << self as u32
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A stored scope of a version that knew more. It restricts, and opens nothing.
const UNKNOWN_SCOPE: u64 = 1 << 63;
/// What such a scope is shown and stored as, for an empty list would mean all scopes.
const UNKNOWN_WORD: &str = "unknown";

/// The scopes of a key, or all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scopes(u64);

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

    /// What they allow by themselves, for an owner who has no roles: no scopes are nothing here.
    pub fn permissions(self) -> Permissions {
        Permissions(Permission::ALL.iter().fold(0, |bits, permission| bits | (self.0 & permission.bit())))
            .expanded()
    }

    pub fn is_unrestricted(self) -> bool {
        self.0 == 0
    }

    /// Whether a scope is among them itself, and not only covered by others.
    pub fn names(self, scope: Permission) -> bool {
        self.0 & scope.bit() != 0
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

/// What a role allows, or all roles of somebody together. Unlike the scopes of a key, none are nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Permissions(u64);

impl Permissions {
    pub const NONE: Self = Self(0);

    /// Of permissions and umbrellas: each with all that it covers.
    pub fn of(permissions: &[Permission]) -> Self {
        Self(permissions.iter().fold(0, |bits, permission| bits | permission.bit())).expanded()
    }

    /// All that a role of the organization can give.
    pub fn all_of_organization() -> Self {
        let all = Permission::ALL.iter().filter(|permission| permission.is_of_role(false));
        Self(all.fold(0, |bits, permission| bits | permission.bit()))
    }

    /// Reads what is wished of a role, as it is given; the error names the one that no such role can give.
    pub fn parse<S: AsRef<str>>(param: &str, texts: &[S], is_of_project: bool) -> Result<Self> {
        let mut permissions = Self::NONE;
        for (position, text) in texts.iter().enumerate() {
            let text = text.as_ref();
            let known = Permission::parse(text).filter(|permission| permission.is_of_role(is_of_project));
            let Some(permission) = known else {
                let known = Permission::ALL.iter().filter(|known| known.is_of_role(is_of_project));
                let known: Vec<&str> = known.map(|known| known.as_str()).collect();
                return Err(Error::unsupported(
                    format!("{param}[{position}]"),
                    format!(
                        "Unknown permission '{text}' for a role of {}. The permissions there are: {}.",
                        if is_of_project { "a project" } else { "the organization" },
                        known.join(", ")
                    ),
                ));
            };
            permissions.0 |= permission.bit();
        }
        Ok(permissions)
    }

    /// Reads what is stored of a role, as it was given. A word that this version does not know allows nothing.
    pub fn from_stored_as_given(text: &str) -> Self {
        let known = text.split_whitespace().filter_map(Permission::parse);
        Self(known.fold(0, |bits, permission| bits | permission.bit()))
    }

    /// The same with all that its umbrellas cover.
    pub fn from_stored(text: &str) -> Self {
        Self::from_stored_as_given(text).expanded()
    }

    pub fn to_stored(self) -> String {
        self.to_list().join(" ")
    }

    pub fn to_list(self) -> Vec<String> {
        let held = Permission::ALL.iter().filter(|permission| self.0 & permission.bit() != 0);
        held.map(|permission| permission.as_str().to_owned()).collect()
    }

    /// With all that its umbrellas cover.
    #[must_use]
    pub fn expanded(self) -> Self {
        let held = |permission: &&Permission| self.0 & permission.bit() != 0;
        let covered = |needed: &&Permission| {
            needed.is_of_role(false)
                && Permission::ALL.iter().filter(held).any(|permission| permission.covers(**needed))
        };
        Self(Permission::ALL.iter().filter(covered).fold(self.0, |bits, permission| bits | permission.bit()))
    }

    #[must_use]
    pub const fn and(self, more: Self) -> Self {
        Self(self.0 | more.0)
    }

    /// Whether it allows what needs `needed`. Asked of what is expanded.
    pub const fn allows(self, needed: Permission) -> bool {
        self.0 & needed.bit() != 0
    }

    /// Whether it allows all that `others` do.
    pub const fn contains(self, others: Self) -> bool {
        self.0 & others.0 == others.0
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
        let error = Scopes::parse(&["api.model.read", "api.groups.read"], KeyKind::Project).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("scopes[1]"));
        assert!(Scopes::parse(&["api.model.request"], KeyKind::Admin).is_err());
        assert!(Scopes::parse(&["api.nonsense"], KeyKind::Admin).is_err());
    }

    #[test]
    fn usage_is_named_to_be_read_by_a_project() {
        let usage = scopes(&["api.usage.read"], KeyKind::ServiceAccount);
        assert!(usage.names(Permission::UsageRead) && !usage.allows(Permission::ModelRead));
        let read = scopes(&["api.all.read"], KeyKind::Project);
        assert!(read.allows(Permission::UsageRead) && !read.names(Permission::UsageRead));
        assert!(!Scopes::UNRESTRICTED.names(Permission::UsageRead));
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
