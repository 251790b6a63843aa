//! Where runs keep what they need while they go on.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{self, Path};

use tempfile::TempDir;

/// In the project's folder, which every run is in.
const FOLDER: &str = "target/load";

/// Takes the folder, until the file that it gives is closed, and frees it of
/// what runs that were ended have left behind.
///
/// # Errors
/// If another run has it, which would spoil the figures of both.
pub fn lock() -> io::Result<File> {
    fs::create_dir_all(FOLDER)?;
    let lock = File::create(Path::new(FOLDER).join("lock"))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(io::Error::other("another loadtest runs here; wait for its end"));
        }
        Err(TryLockError::Error(error)) => return Err(error),
    }
    for entry in fs::read_dir(FOLDER)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(lock)
}

/// A new folder within, gone with what is given.
///
/// # Errors
/// What the disk says.
pub fn temporary() -> io::Result<TempDir> {
    fs::create_dir_all(FOLDER)?;
    TempDir::new_in(path::absolute(FOLDER)?)
}
