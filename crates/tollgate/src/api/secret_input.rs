//! Secrets come from files, stdin or the environment and go to files or stdout; never over the command line.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tollgate_core::secret::Secret;

/// Reads a secret from a file, or from stdin if it is `-`.
pub fn read(file: &Path) -> Result<Secret, String> {
    let secret = read_any(file)?;
    if secret.reveal().is_empty() {
        return Err(format!("There is no secret in {}.", file.display()));
    }
    Ok(secret)
}

/// The same of what may be empty.
pub(super) fn read_any(file: &Path) -> Result<Secret, String> {
    let mut text = String::new();
    let read = if file == Path::new("-") {
        std::io::stdin().read_to_string(&mut text)
    } else {
        File::open(file).and_then(|mut file| file.read_to_string(&mut text))
    };
    read.map_err(|error| format!("Cannot read the secret from {}: {error}.", file.display()))?;
    Ok(Secret::new(text.trim()))
}

/// Asks for a secret on the terminal, without showing what is typed.
pub(super) fn ask(prompt: &str) -> Result<Secret, String> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    use std::io::{BufRead, IsTerminal};
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err("There is no terminal to ask on: give the secret on stdin with --with-token.".to_owned());
    }
    let failed = |error: &dyn std::fmt::Display| format!("The terminal cannot be asked: {error}.");
    let before = tcgetattr(&stdin).map_err(|error| failed(&error))?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&stdin, OptionalActions::Now, &silent).map_err(|error| failed(&error))?;
    let mut text = String::new();
    let _ = write!(std::io::stderr(), "{prompt}");
    let read = stdin.lock().read_line(&mut text);
    let _ = tcsetattr(&stdin, OptionalActions::Now, &before);
    let _ = writeln!(std::io::stderr());
    read.map_err(|error| failed(&error))?;
    let secret = Secret::new(text.trim());
    if secret.reveal().is_empty() { Err("Nothing was typed.".to_owned()) } else { Ok(secret) }
}

/// A new file that only its owner can read, made before the secret it is for, so that no secret is made that could
/// not be kept. It is removed again if nothing is written to it.
pub struct Out {
    path: PathBuf,
    file: File,
    is_written: bool,
}

impl Out {
    pub fn create(path: &Path) -> Result<Self, String> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        match file {
            Ok(file) => Ok(Self { path: path.to_owned(), file, is_written: false }),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                Err(format!("{} exists already.", path.display()))
            }
            Err(error) => Err(format!("Cannot write the secret to {}: {error}.", path.display())),
        }
    }

    /// Writes the secret, and returns where it is.
    pub fn write(mut self, secret: &str) -> Result<PathBuf, String> {
        let directory =
            self.path.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let written = writeln!(self.file, "{secret}")
            .and_then(|()| self.file.sync_all())
            .and_then(|()| File::open(directory)?.sync_all());
        written.map_err(|error| format!("Cannot write the secret to {}: {error}.", self.path.display()))?;
        self.is_written = true;
        Ok(self.path.clone())
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        if !self.is_written {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
