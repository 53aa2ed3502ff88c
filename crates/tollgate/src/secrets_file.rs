//! The secrets file: the pepper that verifies API keys and the key that encrypts upstream credentials, by version.
//!
//! `{"pepper":[{"version":1,"key":"<base64>"}],"encryption":[{"version":1,"key":"<base64>"}]}`, readable by its owner
//! only. The database keeps fingerprints of all versions; a node that has others refuses to start.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use tollgate_core::secret::{Keyring, MasterKey, Pepper};
use tollgate_core::{Error, Result};
use tollgate_store::{Row, Tx, params};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File1 {
    pepper: Vec<Version>,
    encryption: Vec<Version>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Version {
    version: i64,
    key: String,
}

/// Reads the file; makes it if it is not there and this is the first start.
pub(crate) fn load(path: &Path, is_first_start: bool) -> Result<Keyring> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.mode() & 0o077 != 0 && !is_credential(path, &metadata) => {
            Err(Error::bad_request(format!(
                "The secrets file {} can be read by others (mode {:o}). Make it readable by its owner only: chmod 600.",
                path.display(),
                metadata.mode() & 0o777
            )))
        }
        Ok(_) => read(path),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && is_first_start => {
            let keyring = Keyring {
                peppers: vec![Pepper::new(MasterKey::generate(1))],
                encryption: vec![MasterKey::generate(1)],
            };
            write(path, &keyring)?;
            Ok(keyring)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Error::bad_request(format!(
            "The secrets file {} is missing. Without it no API key of this installation can be verified and no upstream \
             credential opened. It is not part of a backup: bring it back from where it was kept.",
            path.display()
        ))),
        Err(error) => Err(cannot("read", path, &error)),
    }
}

/// Whether systemd handed the file to this service. To a service without privileges it grants it by an access list,
/// whose mask stands where the group's permission would, so that the mode is 0440 and still nobody else can read it.
#[expect(clippy::disallowed_methods, reason = "systemd says where credentials are by the environment alone")]
fn is_credential(path: &Path, metadata: &fs::Metadata) -> bool {
    let directory = std::env::var("CREDENTIALS_DIRECTORY").unwrap_or_default();
    let is_inside = !directory.is_empty() && path.parent() == Some(Path::new(&directory));
    is_inside && matches!(metadata.mode() & 0o777, 0o400 | 0o440 | 0o600 | 0o640)
}

fn read(path: &Path) -> Result<Keyring> {
    let text = fs::read_to_string(path).map_err(|error| cannot("read", path, &error))?;
    let broken =
        |why: &str| Error::bad_request(format!("The secrets file {} is broken: {why}.", path.display()));
    // The parser's own words would repeat parts of the file.
    let file: File1 = serde_json::from_str(&text).map_err(|_| broken("it is not of the documented form"))?;
    let keys = |versions: Vec<Version>| -> Result<Vec<MasterKey>> {
        let mut keys = Vec::with_capacity(versions.len());
        for Version { version, key } in versions {
            let bytes = STANDARD.decode(&key).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
            keys.push(MasterKey::from_bytes(
                version,
                bytes.ok_or_else(|| broken("a key is not 256 bits of base64"))?,
            ));
        }
        keys.sort_by_key(|key| key.version);
        let is_ascending = keys.windows(2).all(|pair| pair[0].version < pair[1].version);
        if keys.is_empty() || !is_ascending {
            Err(broken("it has no key, or one version twice"))
        } else {
            Ok(keys)
        }
    };
    Ok(Keyring {
        peppers: keys(file.pepper)?.into_iter().map(Pepper::new).collect(),
        encryption: keys(file.encryption)?,
    })
}

fn write(path: &Path, keyring: &Keyring) -> Result<()> {
    let version = |key: &MasterKey| Version { version: key.version, key: STANDARD.encode(key.expose()) };
    let file = File1 {
        pepper: keyring.peppers.iter().map(|pepper| version(&pepper.key)).collect(),
        encryption: keyring.encryption.iter().map(version).collect(),
    };
    let text = serde_json::to_string_pretty(&file).map_err(|error| Error::internal(error.to_string()))?;
    let directory = path.parent().unwrap_or(Path::new("."));
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|error| cannot("make", directory, &error))?;
    write_durably(path, text.as_bytes())
}

/// Writes a file that appears whole or not at all, readable by its owner only.
pub(crate) fn write_durably(path: &Path, bytes: &[u8]) -> Result<()> {
    let directory = path.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // A name nobody can guess, and never a file that is there: it could be somebody's who reads along.
    let random = tollgate_core::secret::random_u64();
    let temporary = directory.join(format!(".{name}.{random:016x}.tmp"));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(directory)?.sync_all()
    })();
    written.map_err(|error| {
        let _ = fs::remove_file(&temporary);
        cannot("write", path, &error)
    })
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> Error {
    Error::bad_request(format!("Cannot {what} {}: {error}.", path.display()))
}

/// Whether the database was ever used with a keyring.
pub(crate) async fn has_fingerprints(tx: &mut Tx) -> Result<bool> {
    let rows: Vec<Row> =
        tx.all("SELECT value FROM installation WHERE name LIKE 'fingerprint.%'", &[]).await?;
    Ok(!rows.is_empty())
}

/// Compares the keyring with the fingerprints in the database and adds those of new versions.
pub(crate) async fn check_fingerprints(tx: &mut Tx, keyring: &Keyring) -> Result<()> {
    compare_fingerprints(tx, keyring).await?;
    for (name, value) in fingerprints(keyring) {
        tx.execute(
            "INSERT INTO installation (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING",
            &params![name, value],
        )
        .await?;
    }
    Ok(())
}

/// Compares the keyring with the fingerprints in the database.
pub(crate) async fn compare_fingerprints(tx: &mut Tx, keyring: &Keyring) -> Result<()> {
    let own = fingerprints(keyring);
    let rows: Vec<Row> =
        tx.all("SELECT name, value FROM installation WHERE name LIKE 'fingerprint.%'", &[]).await?;
    for row in &rows {
        let (name, value): (String, String) = (row.get("name")?, row.get("value")?);
        if !own.contains(&(name.clone(), value)) {
            return Err(Error::bad_request(format!(
                "The secrets file is not the one of this installation: its {name} is another. Keys could not be verified \
                 and credentials not opened with it."
            )));
        }
    }
    Ok(())
}

fn fingerprints(keyring: &Keyring) -> Vec<(String, String)> {
    let of = |kind: &str, key: &MasterKey| (format!("fingerprint.{kind}.{}", key.version), key.fingerprint());
    let peppers = keyring.peppers.iter().map(|pepper| of("pepper", &pepper.key));
    peppers.chain(keyring.encryption.iter().map(|key| of("encryption", key))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_first_start_makes_the_file_and_later_ones_need_it() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("secrets").join("master.json");
        assert!(load(&path, false).unwrap_err().message.contains("is missing"));
        let made = load(&path, true).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let read = load(&path, false).unwrap();
        assert_eq!(fingerprints(&made), fingerprints(&read));
    }

    #[test]
    fn a_file_that_others_can_read_or_that_is_broken_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("master.json");
        load(&path, true).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(load(&path, false).unwrap_err().message.contains("chmod 600"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        for text in [
            "",
            "{}",
            r#"{"pepper":[],"encryption":[]}"#,
            r#"{"pepper":[{"version":1,"key":"c2VjcmV0"}],"encryption":[]}"#,
        ] {
            fs::write(&path, text).unwrap();
            let message = load(&path, false).unwrap_err().message;
            assert!(message.contains("is broken") && !message.contains("c2VjcmV0"), "{message}");
        }
    }
}
