//! Roles: names for sets of permissions, at an organization or at one of its projects.
//!
//! A person may do what any of their roles allows, their own and those of their groups. A role of the organization reaches
//! into all its projects; a role of a project ends at its borders.

use std::fmt;
use std::sync::LazyLock;

use crate::id::{OrganizationId, ProjectId, RoleId};
use crate::permission::{Permission, Permissions};

/// Where a role is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    Organization(OrganizationId),
    Project(ProjectId),
}

impl Resource {
    pub fn parse(text: &str) -> Option<Self> {
        OrganizationId::parse(text)
            .map(Self::Organization)
            .or_else(|| ProjectId::parse(text).map(Self::Project))
    }

    /// What OpenAI calls the type of such a resource.
    pub const fn type_name(self) -> &'static str {
        match self {
            Self::Organization(_) => "api.organization",
            Self::Project(_) => "api.project",
        }
    }

    pub const fn is_project(self) -> bool {
        matches!(self, Self::Project(_))
    }

    pub const fn project(self) -> Option<ProjectId> {
        match self {
            Self::Project(id) => Some(id),
            Self::Organization(_) => None,
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Organization(id) => id.fmt(f),
            Self::Project(id) => id.fmt(f),
        }
    }
}

/// The roles that are there from the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Predefined {
    OrganizationOwner,
    OrganizationReader,
    ProjectOwner,
    ProjectMember,
    ProjectViewer,
}

impl Predefined {
    pub const ALL: [Self; 5] = [
        Self::OrganizationOwner,
        Self::OrganizationReader,
        Self::ProjectOwner,
        Self::ProjectMember,
        Self::ProjectViewer,
    ];

    /// Its id in short, which names no resource.
    pub const fn alias(self) -> &'static str {
        match self {
            Self::OrganizationOwner => "role-api-organization-owner",
            Self::OrganizationReader => "role-api-organization-reader",
            Self::ProjectOwner => "role-api-project-owner",
            Self::ProjectMember => "role-api-project-member",
            Self::ProjectViewer => "role-api-project-viewer",
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::OrganizationOwner | Self::ProjectOwner => "owner",
            Self::OrganizationReader => "reader",
            Self::ProjectMember => "member",
            Self::ProjectViewer => "viewer",
        }
    }

    pub const fn description(self) -> &'static str {
        match self {
            Self::OrganizationOwner => "Everything in the organization and in all its projects.",
            Self::OrganizationReader => {
                "Sees models, groups and roles; what more is possible, the roles in projects say."
            }
            Self::ProjectOwner => {
                "Members, keys, service accounts and roles of the project, and the use of its models."
            }
            Self::ProjectMember => "The use of the project's models.",
            Self::ProjectViewer => "Sees the project, and does not use its models.",
        }
    }

    pub const fn is_of_project(self) -> bool {
        matches!(self, Self::ProjectOwner | Self::ProjectMember | Self::ProjectViewer)
    }

    /// Those that there are at a resource, the most powerful first.
    pub fn at(resource: Resource) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(move |role| role.is_of_project() == resource.is_project())
    }

    pub fn by_alias(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.alias() == text)
    }

    /// Its id at a resource, which names that.
    pub fn id_at(self, resource: Resource) -> String {
        format!("{}__{}__{resource}", self.alias(), resource.type_name().replace('.', "-"))
    }

    /// What it allows.
    pub fn permissions(self) -> Permissions {
        static ALL: LazyLock<[Permissions; 5]> = LazyLock::new(|| Predefined::ALL.map(Predefined::listed));
        ALL[self as usize]
    }

    fn listed(self) -> Permissions {
        use Permission::{
            GroupsRead, GroupsWrite, ModelRead, ModelRequest, ProjectApiKeysRead, ProjectApiKeysWrite,
            ProjectUsersRead, ProjectUsersWrite, ProjectsRead, RolesRead, RolesWrite, ServiceAccountsRead,
            ServiceAccountsWrite, SpendLimitsRead, UsageRead,
        };
        match self {
            // Being an operator of the installation is no matter of a role.
            Self::OrganizationOwner => Permissions::all_of_organization(),
            Self::OrganizationReader => Permissions::of(&[ModelRead, GroupsRead, RolesRead]),
            Self::ProjectOwner => Permissions::of(&[
                ModelRequest,
                ModelRead,
                ProjectsRead,
                ProjectUsersRead,
                ProjectUsersWrite,
                ProjectApiKeysRead,
                ProjectApiKeysWrite,
                ServiceAccountsRead,
                ServiceAccountsWrite,
                // The limit is set by those who pay.
                SpendLimitsRead,
                UsageRead,
                GroupsRead,
                GroupsWrite,
                RolesRead,
                RolesWrite,
            ]),
            Self::ProjectMember => {
                Permissions::of(&[ModelRequest, ModelRead, ProjectsRead, GroupsRead, RolesRead])
            }
            Self::ProjectViewer => Permissions::of(&[ModelRead, ProjectsRead, GroupsRead, RolesRead]),
        }
    }
}

/// Which role: a predefined one, or one that somebody has made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RoleRef {
    Predefined(Predefined),
    Custom(RoleId),
}

impl RoleRef {
    /// Reads an id as it is given for a role at `resource`, in either spelling. Whether there is a custom role of that id is
    /// for the caller to find out.
    pub fn parse(text: &str, resource: Resource) -> Option<Self> {
        let predefined =
            Predefined::at(resource).find(|role| role.alias() == text || role.id_at(resource) == text);
        predefined.map(Self::Predefined).or_else(|| RoleId::parse(text).map(Self::Custom))
    }

    pub fn from_stored(text: &str) -> Option<Self> {
        Predefined::by_alias(text).map(Self::Predefined).or_else(|| RoleId::parse(text).map(Self::Custom))
    }

    pub fn to_stored(self) -> String {
        match self {
            Self::Predefined(role) => role.alias().to_owned(),
            Self::Custom(id) => id.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_predefined_role_has_two_spellings_and_only_at_its_own_resource() {
        let (organization, project) = (
            Resource::Organization(OrganizationId::from_bits(1)),
            Resource::Project(ProjectId::from_bits(2)),
        );
        for role in Predefined::ALL {
            for (resource, is_there) in
                [(organization, !role.is_of_project()), (project, role.is_of_project())]
            {
                let found = is_there.then_some(RoleRef::Predefined(role));
                assert_eq!(RoleRef::parse(role.alias(), resource), found);
                assert_eq!(RoleRef::parse(&role.id_at(resource), resource), found);
            }
            assert_eq!(RoleRef::from_stored(role.alias()), Some(RoleRef::Predefined(role)));
        }
        let elsewhere = Predefined::ProjectOwner.id_at(Resource::Project(ProjectId::from_bits(3)));
        assert_eq!(RoleRef::parse(&elsewhere, project), None);
        assert!(
            Predefined::ProjectOwner.id_at(project).starts_with("role-api-project-owner__api-project__proj_")
        );
    }

    #[test]
    fn each_predefined_role_of_a_project_holds_the_next() {
        let of = |role: Predefined| role.permissions();
        assert!(of(Predefined::OrganizationOwner).contains(of(Predefined::ProjectOwner)));
        assert!(of(Predefined::ProjectOwner).contains(of(Predefined::ProjectMember)));
        assert!(of(Predefined::ProjectMember).contains(of(Predefined::ProjectViewer)));
        assert!(!of(Predefined::ProjectViewer).allows(Permission::ModelRequest));
        assert!(!of(Predefined::ProjectOwner).allows(Permission::SpendLimitsWrite));
        assert!(!of(Predefined::OrganizationOwner).allows(Permission::Operator));
    }
}
