//! `setup`: the first start without a server, for a person who is there.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use tollgate_admin::host::{self, Installed};
use tollgate_core::{Clock, Error, Result};
use tollgate_store::{Options, copy};

use crate::api::session::{Done, View};
use crate::api::table;
use crate::api::{Out, hint, print};
use crate::command::place::{self, PlaceOptions};
use crate::config::{self, ServeOptions};
use crate::{first_start, listener, node};

#[derive(Args, Debug)]
pub struct SetupOptions {
    #[command(flatten)]
    pub place: PlaceOptions,
    /// Where the owner's admin key goes, readable by you only; must not exist
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// E-mail address of the owner [default: owner@localhost]
    #[arg(long, env = "TOLLGATE_OWNER_EMAIL", value_name = "EMAIL")]
    pub owner_email: Option<String>,
    /// How people will reach the server, such as https://ai.example.com [default: http://127.0.0.1:8080]
    #[arg(long, env = "TOLLGATE_PUBLIC_URL", value_name = "URL")]
    pub public_url: Option<String>,
    /// Master keys: pepper and encryption key [default: DIR/secrets/master.json; none with --database]
    #[arg(long, env = "TOLLGATE_SECRETS", value_name = "FILE")]
    pub secrets: Option<PathBuf>,
    /// Settings of the server, some of which are meant here too [default: DIR/tollgate.toml if it is there]
    #[arg(long, env = "TOLLGATE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Makes the organization and its owner, and says what was made, with the link by which the owner sets their password.
pub async fn setup(options: SetupOptions) -> Result<Value> {
    let given = ServeOptions {
        data: options.place.data,
        database: options.place.database,
        owner_email: options.owner_email,
        public_url: options.public_url,
        secrets: options.secrets,
        config: options.config,
        ..ServeOptions::default()
    };
    // What the server will be told by its file is meant here too.
    let serving = given.with_file()?;
    let home =
        place::home(serving.data.as_deref(), serving.database.as_deref())?.ok_or_else(place::unnamed)?;
    home.secrets(serving.secrets.as_deref())?;
    let public_url = match serving.public_url.as_deref() {
        Some(url) => config::read_public_url(url)?.to_string(),
        None => listener::url(serving.listen.unwrap_or(config::LISTEN_USUAL), serving.tls_cert.is_some()),
    };
    if options.out.as_os_str() == "-" {
        return Err(Error::bad_request("--out: the key goes into a file, for stdout is for the link."));
    }
    let owner_email = serving.owner_email.unwrap_or_else(|| config::OWNER_EMAIL_USUAL.to_owned());
    home.create()?;
    let _lock = home.lock()?;
    let out = Out::create(&options.out).map_err(Error::bad_request)?;
    let (db, clock) = (home.open(Options { create: true, read_only: false })?, Clock::system());
    // Before its schema is touched, for it may be served by an older version.
    if db.schema_version().await? > 0 && db.read(|tx| Box::pin(host::is_installed(tx))).await? {
        return Err(Error::bad_request(
            "This was set up already. Start it with `tollgate serve`; `tollgate recover` makes an admin key for an owner who has \
             none.",
        ));
    }
    node::migrate(&db, &home, &clock).await?;
    let keyring = node::keyring(&db, &home, serving.secrets.as_deref()).await?;
    copy::keep(&db).await?;
    let write =
        move |made: &Installed| out.write(made.admin_key.reveal()).map(|_| ()).map_err(Error::bad_request);
    let made = first_start::install(&db, (&clock, &keyring), (&owner_email, true), &options.out, write)
        .await
        .map_err(|error| match error.param.as_deref() {
            Some("email") => Error::bad_request(format!("--owner-email: {}", error.message)),
            _ => error,
        })?;
    let token = made.first_sign_in.ok_or_else(|| Error::internal("no link was made"))?;
    Ok(json!({
        "organization_id": made.organization, "project_id": made.project, "user_id": made.user, "owner_email": owner_email,
        "admin_key_file": options.out, "setup_url": format!("{public_url}/setup?token={}", token.reveal()),
    }))
}

/// Shows what was made: to people the link, and what to do with it.
pub fn show(made: &Value, view: &View, is_quiet: bool) -> Done {
    if !view.is_for_people() {
        return view.show(table::SETUP, made);
    }
    let text = |name: &str| made[name].as_str().unwrap_or("").to_owned();
    print(&text("setup_url"));
    if !is_quiet {
        hint(&format!("The admin key of {} is in {}.", text("owner_email"), text("admin_key_file")));
        hint(
            "Start `tollgate serve` with the same --data or --database, and open the link above to set the owner's password: within \
             a day, and once.",
        );
    }
    Ok(())
}
