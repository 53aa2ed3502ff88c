//! The command line: what can be said, and nothing of what it does.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::api::Format;
use crate::api::arguments::{
    CostCommand, KeyCommand, OrganizationCommand, ProjectCommand, ServiceAccountCommand, UsageCommand,
};
use crate::api::declared::{ApplyOptions, ExportOptions, PlanOptions};
use crate::api::ledger::LedgerCommand;
use crate::api::limits::SpendLimitCommand;
use crate::api::models::ModelCommand;
use crate::api::operation::ApiCommand;
use crate::api::profile::{LoginCommand, ProfileCommand};
use crate::api::reconcile::ReconcileCommand;
use crate::api::upstreams::UpstreamCommand;
use crate::challenge::ChallengeOptions;
use crate::command::dev::DevOptions;
use crate::command::maintenance::{
    AuditCommand, BackupOptions, CopyOptions, FsckOptions, MigrateOptions, OperatorCommand, PasswordCommand,
    RecoverOptions,
};
use crate::command::setup::SetupOptions;
use crate::command::simulate::SimulateOptions;
use crate::config::ServeOptions;

/// The organization layer of an AI platform, self-hosted.
#[derive(Parser, Debug)]
#[command(
    name = "tollgate",
    version,
    max_term_width = 110,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub api: ApiOptions,
}

/// Where the API is and what may be done with it.
#[derive(Args, Debug)]
pub struct ApiOptions {
    /// Base URL of the API, ending in /v1 [default: http://127.0.0.1:8080/v1]
    #[arg(long, env = "TOLLGATE_URL", global = true, value_name = "URL", help_heading = "API")]
    pub url: Option<String>,
    /// File with the admin key, or - for stdin; else TOLLGATE_ADMIN_KEY, or TOLLGATE_ADMIN_KEY_FILE
    #[arg(long, env = "TOLLGATE_ADMIN_KEY_FILE", global = true, value_name = "FILE", help_heading = "API")]
    pub admin_key_file: Option<PathBuf>,
    /// Server and key by the name that `tollgate login --profile NAME` gave them
    #[arg(long, env = "TOLLGATE_PROFILE", global = true, value_name = "NAME", help_heading = "API")]
    pub profile: Option<String>,
    /// How to show results
    #[arg(short, long, global = true, value_enum, default_value = "table", help_heading = "API")]
    pub output: Format,
    /// Only these fields of the result, as JSON, such as id,name,owner.type
    #[arg(long, global = true, value_name = "FIELDS", value_delimiter = ',', help_heading = "API")]
    pub json: Option<Vec<String>>,
    /// What comes of this filter of jq's on the result as JSON, texts as they are
    #[arg(long, global = true, value_name = "FILTER", help_heading = "API")]
    pub jq: Option<String>,
    /// Show what would be changed and change nothing
    #[arg(long, global = true, help_heading = "API")]
    pub dry_run: bool,
    /// Do not ask before something is lost
    #[arg(short = 'y', long, global = true, help_heading = "API")]
    pub yes: bool,
    /// Seconds to wait for an answer [default: 60]
    #[arg(long, global = true, value_name = "SECONDS", help_heading = "API")]
    pub timeout: Option<u64>,
    /// No colours, on a terminal too; NO_COLOR says the same
    #[arg(long, global = true, help_heading = "API")]
    pub no_color: bool,
    /// Whether server and profile were said on the command line, and not by the environment.
    #[arg(skip)]
    pub said: Said,
    /// Say nothing but the result
    #[arg(short, long, global = true, help_heading = "API")]
    pub quiet: bool,
    /// Refused: a secret on the command line is seen by every user of the machine and kept by shells
    #[arg(long, global = true, hide = true, value_name = "SECRET", aliases = ["admin-key", "key", "token"])]
    pub api_key: Option<String>,
}

/// What of [`ApiOptions`] was said on the command line itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Said {
    pub url: bool,
    pub profile: bool,
    pub admin_key_file: bool,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run the server
    Serve(Box<ServeOptions>),
    /// Make the organization and its owner before the first start, and print a link by which the owner signs in
    Setup(SetupOptions),
    /// Try it out: a server in a temporary directory with a simulated provider
    Dev(DevOptions),
    /// Run the simulated provider alone
    Simulate(SimulateOptions),
    /// Check that the books balance, to the nano-dollar: in a data directory, or over the API
    Fsck(FsckOptions),
    /// Say what should be looked at: keys without a limit, models without a price, odd requests
    Doctor,
    /// Compare the books with what a provider's own costs API says
    Reconcile(ReconcileCommand),
    /// Put any gateway before `tollgate simulate` to the test: overspend, false refusals, unrecorded requests, and how long
    /// a deleted key lives
    Challenge(Box<ChallengeOptions>),
    /// Bring the database to the schema of this version (server stopped). A server does it when it starts
    Migrate(MigrateOptions),
    /// Print the version
    Version,
    /// Copy the database, also while a server runs
    Backup(BackupOptions),
    /// Put a backup into an empty data directory
    Restore(BackupOptions),
    /// Move an installation from a data directory to PostgreSQL (server stopped). It can be run again, until the copy is served
    Copy(CopyOptions),
    /// Make a new admin key for an owner (server stopped)
    Recover(RecoverOptions),
    /// Say who runs the installation (server stopped)
    #[command(subcommand)]
    Operator(OperatorCommand),
    /// Passwords of accounts
    #[command(subcommand)]
    Password(PasswordCommand),
    /// Print the table of the administration's operations, as JSON: what each is called, where it is, what it needs
    Operations {
        /// The pages of the console instead
        #[arg(long)]
        pages: bool,
    },
    /// Print the OpenAPI document of the administration, which a server shows at /openapi.json
    Openapi,
    /// Call any operation by its id, or by its method and path
    Api(ApiCommand),
    /// Keep a server and its admin key under the name of a profile
    Login(LoginCommand),
    /// Forget the key of a profile
    Logout,
    /// Say what the key is that would be used
    Whoami,
    /// Servers and keys by their names
    #[command(subcommand)]
    Profile(ProfileCommand),
    /// Write an organization as YAML: projects, people, groups, roles, limits, policies, alerts, keys without their secrets
    Export(ExportOptions),
    /// Show what would have to change for the organization to be as a file says
    Plan(PlanOptions),
    /// Change the organization so that it is as a file says. It can be run again, and goes on where it was cut off
    Apply(ApplyOptions),
    /// Print the completions of a shell
    Completion { shell: clap_complete::Shell },
    /// The audit log: shown over the API, proved in a data directory
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Organizations of the installation (operators)
    #[command(subcommand)]
    Organization(OrganizationCommand),
    /// Projects
    #[command(subcommand)]
    Project(ProjectCommand),
    /// API keys of a project
    #[command(subcommand)]
    Key(KeyCommand),
    /// Service accounts of a project
    #[command(subcommand, alias = "sa")]
    ServiceAccount(ServiceAccountCommand),
    /// Hard spend limits of an organization, a project, a user or a key
    #[command(subcommand)]
    SpendLimit(SpendLimitCommand),
    /// Requests and what they cost; corrections and refunds
    #[command(subcommand)]
    Ledger(LedgerCommand),
    /// Provider connections
    #[command(subcommand)]
    Upstream(UpstreamCommand),
    /// Models and their prices
    #[command(subcommand)]
    Model(Box<ModelCommand>),
    /// What was spent, by bucket of time
    Cost(CostCommand),
    /// What was used, by bucket of time
    Usage(Box<UsageCommand>),
}

impl Command {
    /// Whether it changes something at the machine itself, where nothing is shown before it is done.
    pub fn is_done_at_once(&self) -> bool {
        matches!(
            self,
            Self::Serve(_)
                | Self::Setup(_)
                | Self::Backup(_)
                | Self::Restore(_)
                | Self::Copy(_)
                | Self::Recover(_)
                | Self::Operator(_)
                | Self::Password(_)
                | Self::Login(_)
                | Self::Logout
        )
    }

    /// Whether it proves itself by a secret of its own, and needs no admin key.
    pub fn is_by_secret(&self) -> bool {
        match self {
            Self::Key(KeyCommand::Check { .. }) => true,
            Self::Key(KeyCommand::Revoke { id, .. }) => id == "-",
            _ => false,
        }
    }
}
