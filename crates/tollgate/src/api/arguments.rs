//! What can be said to the commands over the API.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

#[derive(Args, Clone, Debug)]
pub struct InProject {
    /// Name or id of the project
    #[arg(short, long, env = "TOLLGATE_PROJECT", value_name = "PROJECT")]
    pub(crate) project: String,
}

#[derive(Args, Clone, Debug)]
pub struct Many {
    /// At most so many
    #[arg(long, value_name = "COUNT", default_value_t = 1000)]
    pub(crate) limit: usize,
}

#[derive(Subcommand, Debug)]
pub enum OrganizationCommand {
    /// Show the organizations of the installation
    List {
        #[command(flatten)]
        many: Many,
    },
    /// Show an organization
    Get { id: String },
    /// Make one, with a default project and an owner, whose admin key is shown once
    Create {
        name: String,
        /// The owner, who may have an account already
        #[arg(long, value_name = "EMAIL")]
        owner_email: String,
        /// Write the admin key to a file that only you can read, instead of showing it
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Rename
    Update {
        id: String,
        #[arg(long)]
        name: String,
    },
    /// Refuse every model request of your organization, until it is unfrozen
    Freeze,
    /// Take that back
    Unfreeze,
}

#[derive(Subcommand, Debug)]
pub enum ProjectCommand {
    /// Show the projects
    List {
        #[command(flatten)]
        many: Many,
        /// Archived ones too
        #[arg(long)]
        archived: bool,
    },
    /// Show a project
    Get { id: String },
    /// Make a project
    Create {
        name: String,
        /// A label, which goes with the cost of all that is done; may be given more than once
        #[arg(long = "label", value_name = "NAME=VALUE")]
        labels: Vec<String>,
        /// A label that a request may add, and the values it may have, such as feature=chat,search; `none` for none
        #[arg(long = "request-label", value_name = "NAME=VALUE,...")]
        request_labels: Vec<String>,
    },
    /// Rename, or set labels
    Update {
        id: String,
        #[arg(long)]
        name: Option<String>,
        /// A label, which goes with the cost of all that is done; may be given more than once. Others stay; `NAME=` takes one away,
        /// `none` all
        #[arg(long = "label", value_name = "NAME=VALUE")]
        labels: Vec<String>,
        /// A label that a request may add, and the values it may have, such as feature=chat,search; `none` for none
        #[arg(long = "request-label", value_name = "NAME=VALUE,...")]
        request_labels: Vec<String>,
    },
    /// Refuse all its keys until it is unfrozen
    Freeze { id: String },
    /// Take that back
    Unfreeze { id: String },
    /// End a project for good: its keys stop at once, its history stays
    Archive { id: String },
}

#[derive(Subcommand, Debug)]
pub enum KeyCommand {
    /// Show the keys of a project
    List {
        #[command(flatten)]
        project: InProject,
        #[command(flatten)]
        many: Many,
        /// Also keys whose owner has no access to the project
        #[arg(long)]
        all: bool,
    },
    /// Show a key
    Get {
        id: String,
        #[command(flatten)]
        project: InProject,
    },
    /// Make a key; its secret is shown once
    Create {
        name: String,
        #[command(flatten)]
        project: InProject,
        /// me, the address or id of a user, or the id of a service account, also as sa:NAME
        #[arg(long, default_value = "me")]
        owner: String,
        /// What it may spend at most, such as 50usd/month
        #[arg(long, value_name = "LIMIT")]
        cap: Option<String>,
        /// What it may do; all if not given
        #[arg(long = "scope", value_name = "SCOPE")]
        scopes: Vec<String>,
        /// Such as 90d, or never
        #[arg(long, default_value = "never", value_name = "TIME")]
        expires: String,
        /// A label, which goes with the cost of all that is done; may be given more than once
        #[arg(long = "label", value_name = "NAME=VALUE")]
        labels: Vec<String>,
        /// Write the secret to this file (0600, must not exist) instead of stdout
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Rename, or change scopes, expiry or labels
    Update {
        id: String,
        #[command(flatten)]
        project: InProject,
        #[arg(long)]
        name: Option<String>,
        #[arg(long = "scope", value_name = "SCOPE")]
        scopes: Vec<String>,
        /// Allow everything again
        #[arg(long, conflicts_with = "scopes")]
        all_scopes: bool,
        #[arg(long, value_name = "TIME")]
        expires: Option<String>,
        /// A label, which goes with the cost of all that is done; may be given more than once. Others stay; `NAME=` takes one away,
        /// `none` all
        #[arg(long = "label", value_name = "NAME=VALUE")]
        labels: Vec<String>,
    },
    /// Give a key another secret, which is shown once; its id, limits, spend and usage stay
    Rotate {
        id: String,
        #[command(flatten)]
        project: InProject,
        /// For so long the secret before goes on, such as 24h; it ends at once if not given
        #[arg(long, value_name = "TIME")]
        grace: Option<String>,
        /// Write the secret to this file (0600, must not exist) instead of stdout
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// End the grace of the secret before
    EndPrevious {
        id: String,
        #[command(flatten)]
        project: InProject,
    },
    /// Refuse a key until it is unfrozen
    #[command(alias = "disable")]
    Freeze {
        id: String,
        #[command(flatten)]
        project: InProject,
    },
    /// Take that back
    #[command(alias = "enable")]
    Unfreeze {
        id: String,
        #[command(flatten)]
        project: InProject,
    },
    /// What the key of a secret is, which is read from a file, or from stdin by `-`
    Check {
        #[arg(default_value = "-")]
        file: PathBuf,
    },
    /// End a key for good: by its id, or by its secret on stdin with `-`
    Revoke {
        id: String,
        /// Name or id of the project
        #[arg(short, long, env = "TOLLGATE_PROJECT", value_name = "ID")]
        project: Option<String>,
    },
}

#[derive(Subcommand, Debug)]
pub enum ServiceAccountCommand {
    /// Show the accounts of a project
    List {
        #[command(flatten)]
        project: InProject,
        #[command(flatten)]
        many: Many,
    },
    /// Show an account
    Get {
        id: String,
        #[command(flatten)]
        project: InProject,
    },
    /// Make an account with a key, whose secret is shown once
    Create {
        name: String,
        #[command(flatten)]
        project: InProject,
        /// Only the account, with neither role nor key
        #[arg(long)]
        no_key: bool,
        /// When the key ends, such as 90d, or never
        #[arg(long, default_value = "never", value_name = "TIME", conflicts_with = "no_key")]
        expires: String,
        /// A label, which goes with the cost of all that is done; may be given more than once
        #[arg(long = "label", value_name = "NAME=VALUE")]
        labels: Vec<String>,
        /// Write the secret to this file (0600, must not exist) instead of stdout
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Rename, or change role or labels
    Update {
        id: String,
        #[command(flatten)]
        project: InProject,
        #[arg(long)]
        name: Option<String>,
        #[arg(long, value_parser = ["member", "owner"])]
        role: Option<String>,
        /// A label, which goes with the cost of all that is done; may be given more than once. Others stay; `NAME=` takes one away,
        /// `none` all
        #[arg(long = "label", value_name = "NAME=VALUE")]
        labels: Vec<String>,
    },
    /// End an account and all its keys
    Delete {
        id: String,
        #[command(flatten)]
        project: InProject,
    },
}

#[derive(Args, Debug)]
pub struct Period {
    /// How far back, such as 7d or 12h, or a day of UTC, such as 2026-11-01
    #[arg(long, default_value = "7d", value_name = "TIME")]
    pub(crate) since: String,
    /// Until when, in the same way; until now if not given
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<String>,
    #[command(flatten)]
    pub(crate) narrow: Narrow,
}

#[derive(Args, Debug)]
pub struct Narrow {
    /// Only of these projects, by their names or ids
    #[arg(long = "project", value_name = "PROJECT")]
    pub(crate) projects: Vec<String>,
    /// Only of these keys, by their ids or names
    #[arg(long = "api-key-id", value_name = "KEY")]
    pub(crate) keys: Vec<String>,
    /// Only of the keys of these users, by their addresses or ids, and service accounts, by their ids, or with --project by their
    /// names
    #[arg(long = "user", value_name = "USER")]
    pub(crate) users: Vec<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum CostBy {
    Project,
    Key,
    User,
    LineItem,
    Model,
    Upstream,
}

#[derive(Args, Debug)]
pub struct CostCommand {
    #[command(flatten)]
    pub(crate) period: Period,
    /// Group by these
    #[arg(long, value_delimiter = ',', value_enum)]
    pub(crate) by: Vec<CostBy>,
    /// Group by the label of this name as well
    #[arg(long = "label", value_name = "NAME")]
    pub(crate) labels: Vec<String>,
    /// Width of a bucket
    #[arg(long, default_value = "1d", value_parser = ["1m", "1h", "1d"])]
    pub(crate) bucket: String,
    /// One row for all of the time
    #[arg(long, conflicts_with = "bucket")]
    pub(crate) total: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum UsageBy {
    Project,
    Key,
    User,
    Model,
    Tier,
}

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct UsageCommand {
    #[command(subcommand)]
    pub(crate) action: Option<UsageAction>,
    #[command(flatten)]
    pub(crate) question: UsageQuestion,
}

#[derive(Subcommand, Debug)]
pub enum UsageAction {
    /// Write all that was used and what it cost, as CSV or JSON lines
    Export(ExportCommand),
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum ExportBy {
    Project,
    Key,
    User,
    Model,
    Upstream,
    Tier,
    Endpoint,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    Csv,
    Jsonl,
}

#[derive(Args, Debug)]
pub struct ExportCommand {
    #[command(flatten)]
    pub(crate) period: Period,
    /// A row for each of these
    #[arg(
        long,
        value_delimiter = ',',
        value_enum,
        default_value = "project,key,user,model,upstream,tier,endpoint"
    )]
    pub(crate) by: Vec<ExportBy>,
    /// And for each value of the label of this name, in a column of its own
    #[arg(long = "label", value_name = "NAME")]
    pub(crate) labels: Vec<String>,
    /// Width of a bucket
    #[arg(long, default_value = "1d", value_parser = ["1h", "1d"])]
    pub(crate) bucket: String,
    #[arg(long, default_value = "csv", value_enum)]
    pub(crate) to: ExportFormat,
}

#[derive(Args, Debug)]
pub struct UsageQuestion {
    #[command(flatten)]
    pub(crate) period: Period,
    /// Group by these
    #[arg(long, value_delimiter = ',', value_enum)]
    pub(crate) by: Vec<UsageBy>,
    /// Group by the label of this name as well
    #[arg(long = "label", value_name = "NAME")]
    pub(crate) labels: Vec<String>,
    /// Width of a bucket
    #[arg(long, default_value = "1d", value_parser = ["1m", "1h", "1d"])]
    pub(crate) bucket: String,
    #[arg(long, default_value = "completions", value_parser = ["completions", "embeddings", "moderations"])]
    pub(crate) endpoint: String,
}

impl ProjectCommand {
    /// The name or id of the project that it is about.
    pub(crate) fn named(&mut self) -> Option<&mut String> {
        match self {
            Self::List { .. } | Self::Create { .. } => None,
            Self::Get { id }
            | Self::Update { id, .. }
            | Self::Freeze { id }
            | Self::Unfreeze { id }
            | Self::Archive { id } => Some(id),
        }
    }
}

impl KeyCommand {
    /// The project that it is about, and the key if there is one, by name or id. What may be known by its secret alone has neither.
    pub(crate) fn named(&mut self) -> Option<(&mut String, Option<&mut String>)> {
        match self {
            Self::Check { .. } | Self::Revoke { .. } => None,
            Self::List { project, .. } | Self::Create { project, .. } => Some((&mut project.project, None)),
            Self::Get { id, project }
            | Self::Update { id, project, .. }
            | Self::Rotate { id, project, .. }
            | Self::EndPrevious { id, project }
            | Self::Freeze { id, project }
            | Self::Unfreeze { id, project } => Some((&mut project.project, Some(id))),
        }
    }
}

impl ServiceAccountCommand {
    /// The project that it is about, and the account if there is one, by name or id.
    pub(crate) fn named(&mut self) -> (&mut String, Option<&mut String>) {
        match self {
            Self::List { project, .. } | Self::Create { project, .. } => (&mut project.project, None),
            Self::Get { id, project } | Self::Update { id, project, .. } | Self::Delete { id, project } => {
                (&mut project.project, Some(id))
            }
        }
    }
}
