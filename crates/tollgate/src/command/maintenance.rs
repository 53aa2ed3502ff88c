//! `fsck`, `backup`, `restore`, `copy`, `recover`, `operator` and `password`: work on the installation itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tollgate_admin::{Access, Event, Operation, chain, host};
use tollgate_core::secret::Keyring;
use tollgate_core::{Clock, Error, Permission, Result};
use tollgate_ledger::fsck;
use tollgate_store::copy::{self, Copied};
use tollgate_store::{DataDir, Db, Home, Lock, MIGRATIONS, Migrated, Options};

use crate::api::{Out, hint, print};
use crate::command::place::{self, PlaceOptions};
use crate::node;

#[derive(Args, Debug)]
pub struct DataOptions {
    /// Directory of the installation
    #[arg(long, env = "TOLLGATE_DATA", value_name = "DIR")]
    pub data: PathBuf,
}

#[derive(Args, Debug)]
pub struct FsckOptions {
    /// Without a place the running server is asked, by an operator's admin key
    #[command(flatten)]
    pub place: PlaceOptions,
}

#[derive(Args, Debug)]
pub struct BackupOptions {
    /// Where to write the backup; must not exist
    pub file: PathBuf,
    #[command(flatten)]
    pub data: DataOptions,
    /// The secrets file, if it is not in the data directory
    #[arg(long, env = "TOLLGATE_SECRETS", value_name = "FILE")]
    pub secrets: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub struct CopyOptions {
    /// Data directory of the installation
    #[arg(long, value_name = "DIR")]
    pub from: PathBuf,
    /// Where it is to be: postgres://user:password@host:5432/database
    #[arg(long, env = "TOLLGATE_DATABASE", value_name = "URL", hide_env_values = true)]
    pub to: String,
}

#[derive(Args, Debug)]
pub struct MigrateOptions {
    #[command(flatten)]
    pub place: PlaceOptions,
    /// Only say what there is to do; exit 1 if there is something. Also while a server runs
    #[arg(long)]
    pub check: bool,
}

#[derive(Args, Debug)]
pub struct RecoverOptions {
    #[command(flatten)]
    pub place: PlaceOptions,
    /// The owner who gets a new admin key
    #[arg(long, value_name = "EMAIL", default_value = "owner@localhost")]
    pub owner_email: String,
    /// Where to write the key; without it the key goes to stdout
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    #[arg(long, env = "TOLLGATE_SECRETS", value_name = "FILE")]
    pub secrets: Option<PathBuf>,
}

#[derive(Subcommand, Debug)]
pub enum OperatorCommand {
    /// Let a user run the installation: upstreams, models and prices
    Grant(OperatorOptions),
    /// Take that away again
    Revoke(OperatorOptions),
}

#[derive(Args, Debug)]
pub struct OperatorOptions {
    /// E-mail address of the user
    pub email: String,
    #[command(flatten)]
    pub place: PlaceOptions,
    /// The secrets file, if it is not in the data directory; needed with --database
    #[arg(long, env = "TOLLGATE_SECRETS", value_name = "FILE")]
    pub secrets: Option<PathBuf>,
}

#[derive(Subcommand, Debug)]
pub enum PasswordCommand {
    /// Take the password of an account away, as of one that somebody else had set (server stopped)
    Clear(OperatorOptions),
}

#[derive(Subcommand, Debug)]
pub enum AuditCommand {
    /// Look for events that were changed, removed or put elsewhere, also while a server runs; exit 1 if there are any
    Verify(AuditVerifyOptions),
    /// Print where the chains of events end now, to be kept elsewhere
    Checkpoint(PlaceOptions),
    /// Show events over the API, the newest first
    List(AuditListOptions),
    /// Show new events as they come
    Tail(AuditListOptions),
    /// Write all events that are meant as lines of JSON, the oldest first
    Export(AuditExportOptions),
}

#[derive(Args, Debug)]
pub struct AuditListOptions {
    #[command(flatten)]
    pub meant: AuditFilter,
    /// At most so many; of `tail`, so many from before
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    pub limit: usize,
}

#[derive(Args, Debug)]
pub struct AuditExportOptions {
    #[command(flatten)]
    pub meant: AuditFilter,
}

#[derive(Args, Debug)]
pub struct AuditFilter {
    /// Types of events, such as api_key.created
    #[arg(long = "type", value_name = "TYPE")]
    pub types: Vec<String>,
    /// Who acted: users by their addresses, and users, service accounts and keys by their ids
    #[arg(long = "actor", value_name = "WHO")]
    pub actors: Vec<String>,
    /// By its name or id
    #[arg(long = "project", value_name = "PROJECT")]
    pub projects: Vec<String>,
    /// What was changed, by its id
    #[arg(long = "resource", value_name = "ID")]
    pub resources: Vec<String>,
    /// How far back, such as 7d or 12h; or a day of UTC, such as 2026-11-01; or unix seconds
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Until when, in the same way
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
}

#[derive(Args, Debug)]
pub struct AuditVerifyOptions {
    #[command(flatten)]
    pub place: PlaceOptions,
    /// The secrets file, if it is not in the data directory; needed with --database
    #[arg(long, env = "TOLLGATE_SECRETS", value_name = "FILE")]
    pub secrets: Option<PathBuf>,
    /// What `audit checkpoint` printed before, or a line of the log: that nothing was cut off since
    #[arg(long, value_name = "FILE")]
    pub since: Option<PathBuf>,
}

/// Opens the database to look at it, also while a server runs.
async fn open_to_read(home: &Home) -> Result<Db> {
    let db = home.open(Options { create: false, read_only: true })?;
    db.check_schema(MIGRATIONS).await?;
    Ok(db)
}

/// Brings the database to the schema of this version, or says whether it is there; `false` if it is not. A server does the same
/// when it starts.
pub async fn migrate(options: &MigrateOptions) -> Result<bool> {
    let home = options.place.home()?;
    let newest = MIGRATIONS.last().map_or(0, |migration| migration.version);
    if options.check {
        let db = home.open(Options { create: false, read_only: true })?;
        let applied = db.schema_version().await?;
        print(&format!("schema version {applied}; this version of Tollgate has {newest}"));
        return Ok(applied == newest);
    }
    let db = home.open(Options::default())?;
    let _lock = home.lock()?;
    if db.schema_version().await? == 0 {
        // It says that there is none.
        db.check_schema(MIGRATIONS).await?;
    }
    if let Migrated::Upgraded { copy: Some(copy) } =
        db.migrate(home.database_directory(), MIGRATIONS, &Clock::system()).await?
    {
        hint(&format!("A copy from before is in {}.", copy.display()));
    }
    print(&format!("schema version {}", db.schema_version().await?));
    Ok(true)
}

/// Prints what the books say; `false` if they do not balance.
pub async fn fsck(place: &PlaceOptions) -> Result<bool> {
    let db = open_to_read(&place.home()?).await?;
    let report = fsck::check(&db).await?;
    print(&report.to_string());
    Ok(report.is_balanced())
}

/// Prints the version of the program, and of its schema.
pub fn version() -> Result<()> {
    let schema = MIGRATIONS.last().map_or(0, |migration| migration.version);
    print(&format!("tollgate {} (schema {schema})", env!("CARGO_PKG_VERSION")));
    Ok(())
}

/// Prints the table of operations.
pub fn operations() -> Result<()> {
    let operations = tollgate_admin::operations();
    let row = |operation: &Operation| {
        let (needs, or_operator) = match operation.access {
            Access::Needs(permission) | Access::WithinProjects(permission) => {
                (Some(permission.as_str()), false)
            }
            Access::OperatorOr(permission) => (Some(permission.as_str()), true),
            Access::Operator => (Some(Permission::Operator.as_str()), false),
            Access::AnyKey | Access::Oneself => (None, false),
        };
        json!({"id": operation.id, "method": operation.method.as_str(), "path": operation.path, "needs": needs,
            "or_operator": or_operator, "within_projects": matches!(operation.access, Access::WithinProjects(_)),
            "oneself": operation.access == Access::Oneself, "event": operation.event.map(Event::as_str)})
    };
    let rows: Vec<Value> = operations.iter().map(row).collect();
    let text = serde_json::to_string_pretty(&rows).map_err(|error| Error::internal(error.to_string()))?;
    print(&text);
    Ok(())
}

/// Prints the table of the console's pages.
pub fn pages() -> Result<()> {
    let row = |route: &tollgate_console::Route| json!({"method": route.method, "path": route.path, "signed_in": route.who == tollgate_console::Who::SignedIn});
    let rows: Vec<Value> = tollgate_console::ROUTES.iter().map(row).collect();
    let text = serde_json::to_string_pretty(&rows).map_err(|error| Error::internal(error.to_string()))?;
    print(&text);
    Ok(())
}

/// Prints the document of the API.
pub fn openapi() -> Result<()> {
    let document = tollgate_admin::openapi::document(&tollgate_admin::operations());
    let text = serde_json::to_string_pretty(&document).map_err(|error| Error::internal(error.to_string()))?;
    print(&text);
    Ok(())
}

/// Prints what the chains of audit events say; `false` if they are not intact.
pub async fn audit_verify(options: &AuditVerifyOptions) -> Result<bool> {
    let since = match &options.since {
        Some(file) => {
            let text = std::fs::read_to_string(file)
                .map_err(|error| Error::bad_request(format!("Cannot read {}: {error}.", file.display())))?;
            chain::read_checkpoints(&text)?
        }
        None => Vec::new(),
    };
    let home = options.place.home()?;
    let db = open_to_read(&home).await?;
    let keyring = node::keyring_to_read(&db, &home, options.secrets.as_deref()).await?;
    let verified = chain::verify(&db, &keyring, &since).await?;
    print(&verified.to_string());
    Ok(verified.faults.is_empty())
}

/// Prints the ends of the chains.
pub async fn audit_checkpoint(place: &PlaceOptions) -> Result<()> {
    let db = open_to_read(&place.home()?).await?;
    for checkpoint in chain::checkpoints(&db).await? {
        print(&checkpoint.to_string());
    }
    Ok(())
}

/// Writes a copy of the database as of one moment, also while a server runs.
pub async fn backup(options: &BackupOptions) -> Result<()> {
    if options.file.exists() {
        return Err(Error::bad_request(format!("{} exists already.", options.file.display())));
    }
    let directory = DataDir::new(&options.data.data);
    // A disk that is not mounted is a directory that is not there.
    let parent = options.file.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent.filter(|parent| !parent.is_dir()) {
        return Err(Error::bad_request(format!("There is no directory {}.", parent.display())));
    }
    let db = open_to_read(&Home::embedded(directory.clone())).await?;
    db.copy_to(&options.file).await?;
    let secrets = options.secrets.clone().unwrap_or_else(|| directory.secrets());
    print(&format!("{} written.", options.file.display()));
    print(&format!(
        "It does not have the secrets file {}, without which it opens nothing: keep that elsewhere.",
        secrets.display()
    ));
    Ok(())
}

/// Puts a backup into an empty data directory.
pub fn restore(options: &BackupOptions) -> Result<()> {
    let directory = DataDir::new(&options.data.data);
    directory.restore(&options.file)?;
    let secrets = options.secrets.clone().unwrap_or_else(|| directory.secrets());
    print(&format!("{} restored to {}.", options.file.display(), directory.path().display()));
    if !secrets.exists() {
        if let Some(place) = secrets.parent() {
            tollgate_store::make_directory(place)?;
        }
        print(&format!(
            "Bring the secrets file back to {} before you start `tollgate serve`.",
            secrets.display()
        ));
    }
    Ok(())
}

/// Moves an installation to a server's database, and compares what both say of the books.
pub async fn copy(options: &CopyOptions) -> Result<()> {
    let source = Home::embedded(DataDir::new(&options.from));
    let from = open_to_read(&source).await?;
    let _lock = source.lock()?;
    let target = Home::on_server(place::server(&options.to)?, None);
    let to = target.open(Options { create: true, read_only: false })?;
    to.migrate(None, MIGRATIONS, &Clock::system()).await?;
    let copied = copy::copy(&from, &to).await?;
    for Copied { table, rows } in copied.iter().filter(|copied| copied.rows > 0) {
        print(&format!("{table}: {rows}"));
    }
    let looking = target.open(Options { create: false, read_only: true })?;
    let (before, after) = (fsck::check(&from).await?.to_string(), fsck::check(&looking).await?.to_string());
    print(&format!("{}: {before}", from.place()));
    print(&format!("{}: {after}", to.place()));
    if before != after {
        return Err(Error::bad_request("The books of the two are not the same. Do not serve the copy."));
    }
    print(&format!(
        "Start it with `tollgate serve --database {} --secrets FILE`, where FILE is the secrets file of {}. Do not serve that \
         directory any more: what is revoked from now on would work there.",
        to.place(),
        options.from.display()
    ));
    Ok(())
}

/// Opens an installation for a command that changes and records something. As long as it is open, no server starts on it.
async fn open_to_change(
    place: &PlaceOptions,
    secrets: Option<&Path>,
) -> Result<(Db, Arc<Keyring>, Option<Lock>)> {
    let home = place.home()?;
    let db = home.open(Options::default())?;
    let lock = home.lock()?;
    db.check_schema(MIGRATIONS).await?;
    let keyring = node::keyring(&db, &home, secrets).await?;
    copy::keep(&db).await?;
    chain::begin(&db, &keyring).await?;
    Ok((db, keyring, lock))
}

/// Makes a new admin key for an owner who has none. The server must not run.
pub async fn recover(options: &RecoverOptions) -> Result<()> {
    let out = options.out.as_deref().map(Out::create).transpose().map_err(Error::bad_request)?;
    let (db, keyring, _lock) = open_to_change(&options.place, options.secrets.as_deref()).await?;
    let email = options.owner_email.clone();
    let keys = db
        .write(move |tx| Box::pin(async move { host::recover(tx, &Clock::system(), &keyring, &email).await }))
        .await?;
    let lines: Vec<&str> = keys.iter().map(|(_, key)| key.reveal()).collect();
    let lines = lines.join("\n");
    match out {
        Some(out) => {
            out.write(&lines).map_err(Error::bad_request)?;
        }
        None => print(&lines),
    }
    for (organization, _) in &keys {
        hint(&format!(
            "A new admin key of {} for {organization}. It is recorded in the audit log.",
            options.owner_email
        ));
    }
    Ok(())
}

/// Says who operates the installation. The server must not run.
pub async fn operator(command: &OperatorCommand) -> Result<()> {
    let (options, is_operator) = match command {
        OperatorCommand::Grant(options) => (options, true),
        OperatorCommand::Revoke(options) => (options, false),
    };
    let (db, keyring, _lock) = open_to_change(&options.place, options.secrets.as_deref()).await?;
    let email = options.email.clone();
    let changed = db
        .write(move |tx| {
            Box::pin(
                async move { host::set_operator(tx, &Clock::system(), &keyring, &email, is_operator).await },
            )
        })
        .await?;
    let state = if is_operator { "is an operator" } else { "is no operator" };
    let when = if changed { "now" } else { "already" };
    print(&format!("{} {state} {when}.", options.email));
    Ok(())
}

/// Takes the password of an account away. The server must not run.
pub async fn password(command: &PasswordCommand) -> Result<()> {
    let PasswordCommand::Clear(options) = command;
    let (db, keyring, _lock) = open_to_change(&options.place, options.secrets.as_deref()).await?;
    let email = options.email.clone();
    let had_one = db
        .write(move |tx| {
            Box::pin(async move { host::clear_password(tx, &Clock::system(), &keyring, &email).await })
        })
        .await?;
    let state = if had_one { "has no password now" } else { "had no password" };
    print(&format!("{} {state}.", options.email));
    Ok(())
}
