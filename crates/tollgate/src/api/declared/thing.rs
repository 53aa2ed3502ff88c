//! Things that a file can say, each known by its kind and its names.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{Map, Value};

/// The kinds, in the order in which they are made: what another needs comes before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    KeyPolicy,
    Retention,
    DefaultLimits,
    Role,
    User,
    UserRole,
    Group,
    GroupUser,
    GroupRole,
    Limit,
    SpendAlert,
    Project,
    SpendPolicy,
    AccessPolicy,
    ProjectLimit,
    ProjectAlert,
    ProjectUser,
    ProjectGroup,
    ServiceAccount,
    Key,
    KeyLimit,
    /// It may be about a project.
    EventAlert,
}

impl Kind {
    /// What it is called where people read it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::KeyPolicy => "key policy",
            Self::Retention => "retention",
            Self::DefaultLimits => "default spend limits",
            Self::Role => "role",
            Self::User => "user",
            Self::UserRole => "role of user",
            Self::Group => "group",
            Self::GroupUser => "user of group",
            Self::GroupRole => "role of group",
            Self::Limit => "spend limit",
            Self::SpendAlert => "spend alert",
            Self::EventAlert => "event alert",
            Self::Project => "project",
            Self::SpendPolicy => "spend policy",
            Self::AccessPolicy => "access policy",
            Self::ProjectLimit => "spend limit of project",
            Self::ProjectAlert => "spend alert of project",
            Self::ProjectUser => "user of project",
            Self::ProjectGroup => "group of project",
            Self::ServiceAccount => "service account",
            Self::Key => "key",
            Self::KeyLimit => "spend limit of key",
        }
    }

    /// Whether there is one of each place always, which can only be changed.
    pub(super) const fn is_always_there(self) -> bool {
        matches!(
            self,
            Self::KeyPolicy | Self::Retention | Self::DefaultLimits | Self::SpendPolicy | Self::AccessPolicy
        )
    }

    pub(super) const fn is_at_openai(self) -> bool {
        !matches!(
            self,
            Self::KeyPolicy
                | Self::Retention
                | Self::DefaultLimits
                | Self::EventAlert
                | Self::SpendPolicy
                | Self::AccessPolicy
                | Self::Key
                | Self::KeyLimit
        )
    }
}

/// A kind, and what people call it: a project by its name, a key by its project's and its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Name {
    pub(super) kind: Kind,
    pub(super) path: Vec<String>,
}

impl Name {
    pub(super) fn new<S: Into<String>>(kind: Kind, path: impl IntoIterator<Item = S>) -> Self {
        Self { kind, path: path.into_iter().map(Into::into).collect() }
    }

    /// The same names of another kind, as far as that has some.
    pub(super) fn of(&self, kind: Kind, parts: usize) -> Self {
        Self { kind, path: self.path.iter().take(parts).cloned().collect() }
    }

    pub(super) fn last(&self) -> &str {
        self.path.last().map_or("", String::as_str)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name())?;
        if !self.path.is_empty() {
            write!(f, " {}", self.path.join(" / "))?;
        }
        Ok(())
    }
}

/// What is said of a thing, or what it is.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields {
    /// What is compared.
    pub(super) fields: Map<String, Value>,
    /// What counts when it is made, and is not compared.
    pub(super) at_first: Map<String, Value>,
}

#[derive(Clone, Debug)]
pub(super) struct Thing {
    pub(super) kind: Kind,
    pub(super) said: Fields,
}

/// All that a file says, or that there is.
#[derive(Clone, Debug, Default)]
pub(super) struct Things {
    pub(super) all: BTreeMap<Name, Thing>,
    /// The lists that are meant to be all there is, each by what it belongs to.
    pub(super) whole: BTreeSet<Name>,
    /// Where each stands in the file.
    pub(super) lines: BTreeMap<Name, u64>,
}

impl Things {
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Name, &Thing)> {
        self.all.iter()
    }

    /// Adds one; an error if it is there already, for then nobody knows which is meant.
    pub(super) fn add(&mut self, name: Name, said: Fields) -> Result<(), String> {
        if self.all.contains_key(&name) {
            let mend = match name.kind {
                Kind::Limit | Kind::ProjectLimit | Kind::KeyLimit => "There is one for each interval",
                _ => "Things are known by their names here: rename one",
            };
            return Err(format!("There are two of {name}. {mend}."));
        }
        let kind = name.kind;
        self.all.insert(name, Thing { kind, said });
        Ok(())
    }
}
