//! The first start of an installation: it makes the organization, and hands out its admin key in a file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use tollgate_admin::host::{self, Installed};
use tollgate_core::secret::Keyring;
use tollgate_core::{Clock, Error, OrganizationId, ProjectId, Result, UserId};
use tollgate_store::{Db, OUTCOME_UNKNOWN};

use crate::config::Config;
use crate::secrets_file;

/// What the first start writes for whoever automates it.
#[derive(Serialize)]
struct BootstrapFile<'a> {
    base_url: &'a str,
    organization_id: OrganizationId,
    project_id: ProjectId,
    user_id: UserId,
    admin_api_key: &'a str,
}

/// If this is the first start: the file for what it hands out.
pub(crate) async fn file_for(db: &Db, config: &Config) -> Result<Option<PathBuf>> {
    if db.read(|tx| Box::pin(host::is_installed(tx))).await? {
        return Ok(None);
    }
    let file = config.bootstrap_file.clone().ok_or_else(|| {
        Error::bad_request(
            "This is the first start: name a file for the ids and the admin key it makes, with --bootstrap-file FILE; or \
             make them first, by `tollgate setup`.",
        )
    })?;
    if file.exists() {
        return Err(Error::bad_request(format!(
            "This is the first start, and {} exists already. It would be overwritten; move it away or name another.",
            file.display()
        )));
    }
    Ok(Some(file))
}

/// The first start: makes the organization and hands out its admin key, in a file that is complete before the
/// transaction commits, so that there is never an organization whose key nobody has.
pub(crate) async fn bootstrap(
    db: &Db,
    clock: &Clock,
    keyring: &Arc<Keyring>,
    config: &Config,
    url: &str,
    file: PathBuf,
) -> Result<()> {
    let public = config.public_url.as_ref().map_or_else(|| url.to_owned(), ToString::to_string);
    let base_url = format!("{public}/v1");
    let path = file.clone();
    let write = move |made: &Installed| {
        let content = BootstrapFile {
            base_url: &base_url,
            organization_id: made.organization,
            project_id: made.project,
            user_id: made.user,
            admin_api_key: made.admin_key.reveal(),
        };
        let text =
            serde_json::to_string_pretty(&content).map_err(|error| Error::internal(error.to_string()))?;
        secrets_file::write_durably(&path, format!("{text}\n").as_bytes())
    };
    install(db, (clock, keyring), (&config.owner_email, false), &file, write).await.map(|_| ())
}

/// Makes the organization of an owner, with a link for them if that is wanted. `write` puts the key into `file`.
pub(crate) async fn install(
    db: &Db,
    (clock, keyring): (&Clock, &Arc<Keyring>),
    (owner_email, with_link): (&str, bool),
    file: &Path,
    write: impl FnOnce(&Installed) -> Result<()> + Send + 'static,
) -> Result<Installed> {
    let (clock, keyring, email) = (clock.clone(), Arc::clone(keyring), owner_email.to_owned());
    let installed = db
        .write(move |tx| {
            Box::pin(async move {
                let made = host::install(tx, &clock, &keyring, &email, with_link).await?;
                write(&made)?;
                Ok(made)
            })
        })
        .await;
    if installed.as_ref().is_err_and(|error| error.code != Some(OUTCOME_UNKNOWN)) {
        // The key in it opens nothing.
        let _ = std::fs::remove_file(file);
    }
    installed
}
