//! Where the tests of this crate and of those above it keep an installation.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use tollgate_core::Error;

use crate::{DataDir, Home, Server};

static MADE: AtomicU64 = AtomicU64::new(0);

impl Home {
    /// The directory, with the embedded database; or where `TOLLGATE_TEST_POSTGRES` names a server for tests, as
    /// `tests/postgres start` prints it, a new database there.
    ///
    /// # Panics
    /// If that server makes no database.
    #[expect(clippy::disallowed_methods, reason = "which engine is tested is the environment's to say")]
    pub fn for_tests(directory: &Path) -> Self {
        let data = DataDir::new(directory);
        let Ok(url) = std::env::var("TOLLGATE_TEST_POSTGRES") else { return Self::embedded(data) };
        let name = format!("unit_{}_{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let made = Command::new("psql")
            .args(["--quiet", "--no-psqlrc", &url, "--command", &format!("CREATE DATABASE {name}")])
            .output()
            .expect("psql is there where a server for tests is");
        assert!(made.status.success(), "{made:?}");
        let base = url.rsplit_once('/').map_or(url.as_str(), |(base, _)| base);
        let no_tls = Error::bad_request("servers for tests are on this machine");
        let server = Server::parse(&format!("{base}/{name}"), &|_| Err(Error::bad_request(&*no_tls.message)));
        Self::on_server(server.expect("a server for tests has a usable URL"), None)
    }
}
