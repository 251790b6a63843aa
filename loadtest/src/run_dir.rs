//! The folder for the files of a run.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{self, Path};

use tempfile::TempDir;

/// The folder of a run, relative to the top folder of the project.
const FOLDER: &str = "target/load";

/// Locks the folder and removes what earlier runs have left there. Closing the
/// file releases the lock.
///
/// # Errors
/// If another run holds the lock. Two runs would distort each other's figures.
pub fn lock() -> io::Result<File> {
    fs::create_dir_all(FOLDER)?;
    let lock = File::create(Path::new(FOLDER).join("lock"))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(io::Error::other(
                "another loadtest is running in this folder; wait until it ends",
            ));
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

/// Creates a folder in it. Dropping the value removes the folder.
///
/// # Errors
/// If the folder cannot be created.
pub fn temporary() -> io::Result<TempDir> {
    fs::create_dir_all(FOLDER)?;
    TempDir::new_in(path::absolute(FOLDER)?)
}
