//! The command line: what can be said, and nothing of what it does.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::api::Format;
use crate::api::arguments::{
    CostCommand, KeyCommand, OrganizationCommand, ProjectCommand, ServiceAccountCommand, UsageCommand,
};
use crate::api::ledger::LedgerCommand;
use crate::api::limits::SpendLimitCommand;
use crate::api::models::ModelCommand;
use crate::api::reconcile::ReconcileCommand;
use crate::api::upstreams::UpstreamCommand;
use crate::challenge::ChallengeOptions;
use crate::command::dev::DevOptions;
use crate::command::maintenance::{
    AuditCommand, BackupOptions, CopyOptions, FsckOptions, OperatorCommand, PasswordCommand, RecoverOptions,
};
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
    /// How to show results
    #[arg(short, long, global = true, value_enum, default_value = "table", help_heading = "API")]
    pub output: Format,
    /// Say nothing but the result
    #[arg(short, long, global = true, help_heading = "API")]
    pub quiet: bool,
    /// Refused: a secret on the command line is seen by every user of the machine and kept by shells
    #[arg(long, global = true, hide = true, value_name = "SECRET", aliases = ["admin-key", "key", "token"])]
    pub api_key: Option<String>,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run the server
    Serve(Box<ServeOptions>),
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
    /// The audit log, in a data directory
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
