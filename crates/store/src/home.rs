//! Where an installation is kept.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tollgate_core::{Error, Result};

use crate::engine::Server;
use crate::{DataDir, Db, Lock, Options};

/// A data directory with the embedded database in it; or a database on a server, and perhaps a directory for what is of this
/// machine.
#[derive(Clone, Debug)]
pub struct Home {
    server: Option<Arc<Server>>,
    data: Option<DataDir>,
}

impl Home {
    pub fn embedded(data: DataDir) -> Self {
        Self { server: None, data: Some(data) }
    }

    pub fn on_server(server: Server, data: Option<DataDir>) -> Self {
        Self { server: Some(Arc::new(server)), data }
    }

    /// The directory, if there is one.
    pub fn data(&self) -> Option<&DataDir> {
        self.data.as_ref()
    }

    /// The directory that the database is in, if it is in one.
    pub fn database_directory(&self) -> Option<&DataDir> {
        self.data.as_ref().filter(|_| self.server.is_none())
    }

    /// Makes the directory, if there is to be one.
    pub fn create(&self) -> Result<()> {
        self.data.as_ref().map_or(Ok(()), DataDir::create)
    }

    /// Takes the lock of the directory. A database on a server is locked by the connection that writes to it.
    pub fn lock(&self) -> Result<Option<Lock>> {
        self.data.as_ref().map(DataDir::lock).transpose()
    }

    /// Opens the database. Without `read_only` nobody else writes to it as long as it is open.
    pub fn open(&self, options: Options) -> Result<Db> {
        match (&self.server, &self.data) {
            (Some(server), _) => Db::connect(Arc::clone(server), options),
            (None, Some(data)) => data.open(options),
            (None, None) => Err(Error::internal("an installation without a place")),
        }
    }

    /// The secrets file: the one that was named, or the one in the directory of the embedded database.
    pub fn secrets(&self, named: Option<&Path>) -> Result<PathBuf> {
        if let Some(path) = named {
            return Ok(path.to_owned());
        }
        self.database_directory().map(DataDir::secrets).ok_or_else(|| {
            Error::bad_request(
                "With --database the secrets file has no usual place: name it with --secrets FILE. Every process that works \
                 on the database needs the same one.",
            )
        })
    }
}
