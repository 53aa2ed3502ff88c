//! Secrets come from files, stdin or the environment and go to files or stdout; never over the command line.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use tollgate_core::secret::Secret;

/// Reads a secret from a file, or from stdin if it is `-`.
pub fn read(file: &Path) -> Result<Secret, String> {
    let mut text = String::new();
    let read = if file == Path::new("-") {
        std::io::stdin().read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|mut file| file.read_to_string(&mut text))
    };
    read.map_err(|error| format!("Cannot read the secret from {}: {error}.", file.display()))?;
    match text.trim() {
        "" => Err(format!("There is no secret in {}.", file.display())),
        secret => Ok(Secret::new(secret)),
    }
}

/// Nothing is overwritten; that is found out before a secret is made that could not be kept.
pub(crate) fn refuse_existing(file: Option<&Path>) -> Result<(), String> {
    match file.filter(|file| file.exists()) {
        Some(file) => Err(format!("{} exists already.", file.display())),
        None => Ok(()),
    }
}

/// Writes a secret to a new file that only its owner can read.
pub(crate) fn write_new(file: &Path, secret: &str) -> Result<(), String> {
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .and_then(|mut file| writeln!(file, "{secret}"));
    written.map_err(|error| format!("Cannot write the secret to {}: {error}.", file.display()))
}
