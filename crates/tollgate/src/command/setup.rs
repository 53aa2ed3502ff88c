//! `setup`: the first start without a server, for a person who is there.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use tollgate_admin::host;
use tollgate_core::{Clock, Error, Result};

use crate::api::{Format, hint, show};
use crate::command::maintenance::say;
use crate::command::place::PlaceOptions;
use crate::{config, first_start, node};

#[derive(Args, Debug)]
pub struct SetupOptions {
    #[command(flatten)]
    pub place: PlaceOptions,
    /// Where the owner's admin key goes, readable by you only; must not exist
    #[arg(long, value_name = "FILE")]
    pub admin_key_file: PathBuf,
    /// E-mail address of the owner
    #[arg(long, env = "TOLLGATE_OWNER_EMAIL", value_name = "EMAIL", default_value = config::OWNER_EMAIL_USUAL)]
    pub owner_email: String,
    /// How people will reach the server, such as https://ai.example.com
    #[arg(long, env = "TOLLGATE_PUBLIC_URL", value_name = "URL", default_value = "http://127.0.0.1:8080")]
    pub public_url: String,
    /// Master keys: pepper and encryption key [default: DIR/secrets/master.json; none with --database]
    #[arg(long, env = "TOLLGATE_SECRETS", value_name = "FILE")]
    pub secrets: Option<PathBuf>,
}

/// Makes the organization and its owner, and prints a link by which the owner sets their password.
pub async fn setup(options: &SetupOptions, format: Format, is_quiet: bool) -> Result<()> {
    let public_url = config::read_public_url(&options.public_url)?;
    let file = options.admin_key_file.clone();
    if file.exists() {
        return Err(Error::bad_request(format!("{} exists already.", file.display())));
    }
    let (home, clock) = (options.place.home()?, Clock::system());
    home.create()?;
    let _lock = home.lock()?;
    let db = node::open(&home, &clock).await?;
    if db.read(|tx| Box::pin(host::is_installed(tx))).await? {
        return Err(Error::bad_request(
            "This was set up already. Start it with `tollgate serve`; `tollgate recover` makes an admin key for an owner who has \
             none.",
        ));
    }
    let keyring = node::keyring(&db, &home, options.secrets.as_deref()).await?;
    let content = |made: &host::Installed| Ok(made.admin_key.reveal().to_owned());
    let made =
        first_start::install(&db, (&clock, &keyring), &options.owner_email, file.clone(), content).await?;
    let token = host::first_sign_in(&clock, &keyring, made.user);
    let url = format!("{public_url}/setup?token={}", token.reveal());
    if format.is_for_programs() {
        let told = json!({"organization_id": made.organization, "project_id": made.project, "user_id": made.user,
            "owner_email": options.owner_email, "admin_key_file": file, "setup_url": url});
        return show(format, &[], &told).map_err(|error| Error::internal(error.to_string()));
    }
    say(&url);
    if !is_quiet {
        hint(&format!("The admin key of {} is in {}.", options.owner_email, file.display()));
        hint(
            "Start `tollgate serve`, and open the link above to set the owner's password: within a day, and once.",
        );
    }
    Ok(())
}
