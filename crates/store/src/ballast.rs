//! A file that does nothing but take room on the disk, so that there is some to give back when there is none left.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::FallocateFlags;

use crate::DataDir;

#[derive(Debug)]
pub struct Ballast {
    path: PathBuf,
    bytes: u64,
    is_reserved: AtomicBool,
}

impl Ballast {
    /// Without a directory there is nothing to put aside.
    pub fn new(directory: Option<&DataDir>, bytes: u64) -> Self {
        let Some(directory) = directory else {
            return Self { path: PathBuf::new(), bytes: 0, is_reserved: AtomicBool::new(false) };
        };
        let path = directory.path().join("ballast");
        let is_there = fs::metadata(&path).is_ok_and(|metadata| metadata.len() == bytes);
        Self { path, bytes, is_reserved: AtomicBool::new(is_there) }
    }

    /// Takes the room, if it is not taken and there is some.
    pub fn reserve(&self) {
        if self.bytes == 0 || self.is_reserved.load(Ordering::Relaxed) {
            return;
        }
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&self.path);
        let reserved = file.and_then(|file| allocate(&file, self.bytes));
        match reserved {
            Ok(()) => self.is_reserved.store(true, Ordering::Relaxed),
            Err(error) => {
                tracing::warn!(%error, bytes = self.bytes, "no room could be put aside on the disk");
                let _ = fs::remove_file(&self.path);
            }
        }
    }

    /// Gives the room back; says whether there was any.
    pub fn release(&self) -> bool {
        let was_reserved = self.is_reserved.swap(false, Ordering::Relaxed);
        if was_reserved && let Err(error) = fs::remove_file(&self.path) {
            tracing::error!(%error, "the room that was put aside could not be given back");
        }
        was_reserved
    }

    /// Whether the room is gone that should be there.
    pub fn is_spent(&self) -> bool {
        self.bytes > 0 && !self.is_reserved.load(Ordering::Relaxed)
    }
}

fn allocate(mut file: &File, bytes: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Ok(()) => Ok(()),
        // Not every file system can: then by writing.
        Err(rustix::io::Errno::OPNOTSUPP) => {
            static PIECE: [u8; 64 * 1024] = [0; 64 * 1024];
            let mut left = usize::try_from(bytes).unwrap_or(usize::MAX);
            while left > 0 {
                left -= file.write(&PIECE[..left.min(PIECE.len())])?;
            }
            file.sync_all()
        }
        Err(error) => Err(error.into()),
    }
}
