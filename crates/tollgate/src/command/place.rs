//! Where the installation is that a command works on.

use std::path::{Path, PathBuf};

use clap::Args;
use tollgate_core::{Error, Result};
use tollgate_store::{DataDir, Home, Server};

#[derive(Args, Clone, Debug)]
pub struct PlaceOptions {
    /// Directory of the installation
    #[arg(long, env = "TOLLGATE_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Its database, if that is on a server: postgres://user:password@host:5432/database
    #[arg(long, env = "TOLLGATE_DATABASE", value_name = "URL", hide_env_values = true)]
    pub database: Option<String>,
}

impl PlaceOptions {
    pub fn is_given(&self) -> bool {
        self.data.is_some() || self.database.is_some()
    }

    pub(crate) fn home(&self) -> Result<Home> {
        home(self.data.as_deref(), self.database.as_deref())?.ok_or_else(unnamed)
    }
}

pub(crate) fn unnamed() -> Error {
    Error::bad_request("Name the installation: --data DIR, or --database URL if its database is on a server.")
}

/// The installation that is meant by a directory and a database; `None` if nothing is.
pub(crate) fn home(data: Option<&Path>, database: Option<&str>) -> Result<Option<Home>> {
    let data = data.map(DataDir::new);
    match database {
        Some(url) => Ok(Some(Home::on_server(server(url)?, data))),
        None => Ok(data.map(Home::embedded)),
    }
}

pub(crate) fn server(url: &str) -> Result<Server> {
    Server::parse(url, &|authority| match authority {
        None => Ok(tollgate_wire::client_config()),
        Some(pem) => tollgate_wire::client_config_trusting(pem).map_err(|why| {
            Error::bad_request(format!(
                "--database cannot be used: the file of sslrootcert is of no use: {why}."
            ))
        }),
    })
}
