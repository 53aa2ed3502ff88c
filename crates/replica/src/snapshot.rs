//! What a request sees: one state of everything that authorizes it.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use foldhash::HashMap;
use tollgate_core::key::{KeyKind, Locator};
use tollgate_core::labels::{Labels, RequestLabels};
use tollgate_core::price::Overrun;
use tollgate_core::price_book::{ModelFacts, Schedule};
use tollgate_core::secret::Secret;
use tollgate_core::upstream::{OnClientGone, OutputLimitField, Settings};
use tollgate_core::{
    Address, GroupId, KeyId, OrganizationId, Permission, Permissions, Predefined, Principal, ProjectId,
    Resource, RoleId, RoleRef, Scopes, ServiceAccountId, Timestamp, UpstreamId, UserId,
};

use crate::sharded::Sharded;

/// One secret of an API key, with all that is asked of the key.
pub struct Key {
    pub id: KeyId,
    /// Its short name in the books.
    pub number: i64,
    pub locator: Locator,
    pub kind: KeyKind,
    pub organization: OrganizationId,
    /// `None` for an admin key.
    pub project: Option<ProjectId>,
    pub owner: Principal,
    pub scopes: Scopes,
    /// The earlier of the key's and the secret's.
    pub expires_at: Option<Timestamp>,
    /// Off while the owner has no access to the project.
    pub is_active: bool,
    pub(crate) is_frozen: bool,
    /// Off for a service account with the role `none`, whose keys can do nothing.
    pub owner_has_role: bool,
    /// Whether another secret of the key has taken the place of this one.
    pub(crate) is_replaced: bool,
    pub(crate) pepper_version: u32,
    pub(crate) verifier: [u8; 32],
    pub(crate) last_used_at: AtomicI64,
    pub(crate) is_use_unwritten: AtomicBool,
}

/// For so long before its end answers say when a key expires.
const EXPIRY_TOLD_SECONDS: i64 = 14 * 86_400;

/// The header of an answer that says when its key expires, for the last two weeks.
pub fn key_expiry_header(expires_at: Option<Timestamp>, now: Timestamp) -> Option<(&'static str, String)> {
    let near = expires_at.filter(|at| at.0 - now.0 <= EXPIRY_TOLD_SECONDS);
    near.map(|at| ("x-tollgate-key-expires-at", at.to_string()))
}

impl Key {
    /// When it was last used as far as this node knows.
    pub fn last_used_at(&self) -> Option<Timestamp> {
        match self.last_used_at.load(Ordering::Relaxed) {
            0 => None,
            at => Some(Timestamp(at)),
        }
    }
}

/// A key that is found by its locator.
#[derive(Clone)]
pub(crate) struct ByLocator(pub(crate) Arc<Key>);

impl Borrow<Locator> for ByLocator {
    fn borrow(&self) -> &Locator {
        &self.0.locator
    }
}

impl Hash for ByLocator {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.locator.hash(state);
    }
}

impl PartialEq for ByLocator {
    fn eq(&self, other: &Self) -> bool {
        self.0.locator == other.0.locator
    }
}

impl Eq for ByLocator {}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.id)
    }
}

/// What holds an admin key.
#[derive(Debug)]
pub(crate) struct Fence {
    /// The projects that it is restricted to, if it is.
    pub(crate) projects: Option<Arc<[ProjectId]>>,
    /// The project of the service account that owns it: frozen or archived, it takes the key with it.
    pub(crate) home: Option<ProjectId>,
}

#[derive(Debug)]
pub struct Project {
    pub id: ProjectId,
    pub organization: OrganizationId,
    pub name: String,
    pub is_archived: bool,
    pub(crate) is_frozen: bool,
    pub spend_policy: SpendPolicy,
    /// Whether long-lived keys work from a browser.
    pub allows_browsers: bool,
    pub(crate) labels: Option<Arc<Labels>>,
    /// What its requests may add.
    pub request_labels: RequestLabels,
    /// Of its service accounts, of those that have some.
    pub(crate) account_labels: HashMap<ServiceAccountId, Arc<Labels>>,
}

/// What a project wants done with a request that does not fit its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpendPolicy {
    /// How long it may wait for what requests in flight give back.
    pub wait_millis: u64,
    /// Less output will do then, but no choice with less than this; `None` to be refused.
    pub clamp_to: Option<u64>,
}

impl SpendPolicy {
    /// Less output than this is of no use to most.
    pub const CLAMP_TO_USUAL: u64 = 256;
}

impl Default for SpendPolicy {
    fn default() -> Self {
        Self { wait_millis: 2_000, clamp_to: None }
    }
}

#[derive(Debug)]
pub struct Organization {
    pub id: OrganizationId,
    pub name: String,
    pub(crate) is_frozen: bool,
}

#[derive(Debug)]
pub struct User {
    pub id: UserId,
    pub email: String,
    pub is_operator: bool,
    /// The organizations of which they are a member: few.
    pub(crate) organizations: Vec<OrganizationId>,
    /// Those of them in which they are frozen: mostly none.
    pub(crate) frozen_in: Vec<OrganizationId>,
    /// The roles that they have been given themselves.
    pub(crate) roles: Vec<(Resource, RoleRef)>,
    pub(crate) groups: Vec<GroupId>,
}

/// Users who have the roles of their group besides their own.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) id: GroupId,
    pub(crate) roles: Vec<(Resource, RoleRef)>,
}

/// A provider connection.
#[derive(Debug)]
pub struct Upstream {
    pub id: UpstreamId,
    pub name: String,
    /// What the paths of its API are appended to, such as `https://api.openai.com/v1`.
    pub address: Address,
    /// The fields that every head has for it: credential and extra headers.
    pub header_fields: Secret,
    /// The same for what is of Anthropic's API.
    pub native_fields: Secret,
    pub output_limit_field: OutputLimitField,
    pub on_client_gone: OnClientGone,
    pub settings: Settings,
}

/// A model that some upstream serves.
#[derive(Debug)]
pub struct Model {
    pub id: Arc<str>,
    /// Never empty.
    pub upstreams: Vec<Arc<Upstream>>,
    pub facts: ModelFacts,
    pub prices: Schedule,
    /// By how much its answers have exceeded their bounds.
    pub input_overrun: Overrun,
    pub output_overrun: Overrun,
    /// When it was first offered here.
    pub created_at: Timestamp,
}

/// Keys that were not revoked, by their state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyCounts {
    pub active: u64,
    /// Their owner has lost access.
    pub inactive: u64,
    pub expired: u64,
    /// Seconds until the first active one expires.
    pub first_expiry_in: Option<i64>,
}

#[derive(Clone)]
pub struct Snapshot {
    /// The number of the last change that is in here.
    pub seq: i64,
    /// What that change was of; `None` before the first.
    pub(crate) last_change: Option<Arc<str>>,
    /// Found by their locators, which they have themselves: millions of them should not be kept twice.
    pub(crate) keys: Sharded<ByLocator, ()>,
    /// What holds admin keys that are restricted or a service account's.
    pub(crate) fences: Sharded<KeyId, Arc<Fence>>,
    /// Of keys that have some.
    pub(crate) key_labels: Sharded<KeyId, Arc<Labels>>,
    pub(crate) projects: Sharded<ProjectId, Arc<Project>>,
    pub(crate) users: Sharded<UserId, Arc<User>>,
    pub(crate) groups: Sharded<GroupId, Arc<Group>>,
    /// What the roles allow that people have made.
    pub(crate) roles: Sharded<RoleId, Permissions>,
    pub(crate) organizations: Arc<HashMap<OrganizationId, Arc<Organization>>>,
    pub(crate) catalog: Arc<Catalog>,
}

/// Upstreams and models: few, and replaced together.
#[derive(Default)]
pub(crate) struct Catalog {
    pub(crate) upstreams: HashMap<UpstreamId, Arc<Upstream>>,
    pub(crate) models: HashMap<String, Arc<Model>>,
}

impl Snapshot {
    pub(crate) fn empty() -> Self {
        Self {
            seq: 0,
            last_change: None,
            keys: Sharded::new(),
            fences: Sharded::new(),
            key_labels: Sharded::new(),
            projects: Sharded::new(),
            users: Sharded::new(),
            groups: Sharded::new(),
            roles: Sharded::new(),
            organizations: Arc::default(),
            catalog: Arc::default(),
        }
    }

    pub fn key(&self, locator: &Locator) -> Option<&Arc<Key>> {
        self.keys.get_key(locator).map(|ByLocator(key)| key)
    }

    /// The labels of what a key does: of its project, of the service account that owns it, and its own, which go before
    /// one another in this order. `None` if there are none, as of most.
    pub fn labels(&self, key: &Key) -> Option<Labels> {
        let project = key.project.and_then(|id| self.project(id));
        let of_project = project.and_then(|project| project.labels.as_ref());
        let account = key.owner.service_account();
        let of_account = account.zip(project).and_then(|(id, project)| project.account_labels.get(&id));
        let own = self.key_labels.get(&key.id);
        let sets = [of_project, of_account, own];
        let mut labels: Option<Labels> = None;
        for set in sets.into_iter().flatten() {
            labels.get_or_insert_default().extend(set);
        }
        labels
    }

    /// How many keys there are in each state. Looks at all of them.
    pub fn count_keys(&self, now: Timestamp) -> KeyCounts {
        let mut counts = KeyCounts::default();
        // A key counts once, whatever secrets it has.
        for ByLocator(key) in self.keys.keys().filter(|ByLocator(key)| !key.is_replaced) {
            match key.expires_at {
                Some(at) if at <= now => counts.expired += 1,
                _ if !key.is_active => counts.inactive += 1,
                expires_at => {
                    counts.active += 1;
                    let seconds = expires_at.map(|at| at.0 - now.0);
                    counts.first_expiry_in = counts.first_expiry_in.into_iter().chain(seconds).min();
                }
            }
        }
        counts
    }

    pub fn project(&self, id: ProjectId) -> Option<&Arc<Project>> {
        self.projects.get(&id)
    }

    pub fn user(&self, id: UserId) -> Option<&Arc<User>> {
        self.users.get(&id)
    }

    /// What a member may do at the organization, or at one of its projects: all that their roles there and those of their
    /// groups allow. Whoever is no member may do nothing.
    pub fn permissions(
        &self,
        user: UserId,
        organization: OrganizationId,
        project: Option<ProjectId>,
    ) -> Permissions {
        let Some(user) = self.users.get(&user) else { return Permissions::NONE };
        if !user.organizations.contains(&organization) {
            return Permissions::NONE;
        }
        let project =
            project.filter(|id| self.project(*id).is_some_and(|own| own.organization == organization));
        let is_here = |resource: &Resource| match resource {
            Resource::Organization(id) => *id == organization,
            Resource::Project(id) => Some(*id) == project,
        };
        let of_groups = user.groups.iter().filter_map(|group| self.groups.get(group));
        let all = user.roles.iter().chain(of_groups.flat_map(|group| &group.roles));
        all.filter(|(resource, _)| is_here(resource)).fold(Permissions::NONE, |sum, (_, role)| {
            sum.and(match role {
                RoleRef::Predefined(role) => role.permissions(),
                RoleRef::Custom(role) => self.roles.get(role).copied().unwrap_or_default(),
            })
        })
    }

    /// What an admin key of a service account may do: what its scopes say, for a machine has no role beyond its project. One that
    /// makes keys hands out models with them.
    pub fn permissions_of_machine(scopes: Scopes) -> Permissions {
        let own = scopes.permissions();
        let makes_keys = [Permission::ProjectApiKeysWrite, Permission::ServiceAccountsWrite];
        if makes_keys.iter().any(|permission| own.allows(*permission)) {
            own.and(Permissions::of(&[Permission::ModelRequest, Permission::ModelRead]))
        } else {
            own
        }
    }

    /// The projects that an admin key is restricted to; `None` if it is not.
    pub fn restriction(&self, key: KeyId) -> Option<&Arc<[ProjectId]>> {
        self.fences.get(&key).and_then(|fence| fence.projects.as_ref())
    }

    /// What a key may do, as far as its scopes and the roles of its owner go.
    pub fn allows(&self, key: &Key, permission: Permission) -> bool {
        let is_of_owner = match key.owner {
            Principal::User(user) => self.permissions(user, key.organization, key.project).allows(permission),
            Principal::ServiceAccount(_) => {
                key.owner_has_role && Predefined::ProjectMember.permissions().allows(permission)
            }
        };
        is_of_owner && key.scopes.allows(permission)
    }

    /// The organizations of which somebody is a member and not frozen in.
    pub fn organizations_of(&self, user: UserId) -> impl Iterator<Item = &Arc<Organization>> {
        let user = self.user(user);
        let of_user = user
            .into_iter()
            .flat_map(|user| user.organizations.iter().filter(|id| !user.frozen_in.contains(id)));
        of_user.filter_map(|id| self.organization(*id))
    }

    /// Whether somebody is a member of another organization than this.
    pub fn is_in_others(&self, user: UserId, organization: OrganizationId) -> bool {
        self.user(user).is_some_and(|user| user.organizations.iter().any(|id| *id != organization))
    }

    /// The projects of an organization at which somebody has a role, their own or one of their groups'.
    pub fn projects_of(&self, user: UserId, organization: OrganizationId) -> Vec<ProjectId> {
        let Some(user) = self.user(user) else { return Vec::new() };
        let of_groups = user.groups.iter().filter_map(|group| self.groups.get(group));
        let all = user.roles.iter().chain(of_groups.flat_map(|group| &group.roles));
        let mut projects: Vec<ProjectId> = all
            .filter_map(|(resource, _)| resource.project())
            .filter(|id| {
                self.project(*id).is_some_and(|own| own.organization == organization && !own.is_archived)
            })
            .collect();
        projects.sort_unstable();
        projects.dedup();
        projects
    }

    pub fn organization(&self, id: OrganizationId) -> Option<&Arc<Organization>> {
        self.organizations.get(&id)
    }

    pub fn upstream(&self, id: UpstreamId) -> Option<&Arc<Upstream>> {
        self.catalog.upstreams.get(&id)
    }

    /// All upstreams, in no particular order.
    pub fn upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.catalog.upstreams.values()
    }

    pub fn model(&self, id: &str) -> Option<&Arc<Model>> {
        self.catalog.models.get(id)
    }

    /// All models, in no particular order.
    pub fn models(&self) -> impl Iterator<Item = &Arc<Model>> {
        self.catalog.models.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With its counts a key fills a piece of memory of 192 bytes; the map adds a pointer and a byte to it, of which up to half may be
    /// free: 212 bytes at most for each of millions.
    #[test]
    fn a_key_is_small() {
        assert!(size_of::<Key>() + 2 * size_of::<usize>() <= 192, "{}", size_of::<Key>());
        assert_eq!(size_of::<(ByLocator, ())>(), size_of::<usize>());
    }
}
