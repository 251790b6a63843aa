//! The commit watermark: the number of the last durable commit, in a file of its
//! own.
//!
//! fjall cuts its journal at the first frame that it cannot read. A damaged block in
//! the middle of a journal therefore removes all later commits without an error. The
//! watermark detects this loss. The watermark is written after each durable commit
//! and synced once a second. A sync for each commit would halve the rate of commits.
//! After a power cut, the watermark may be one second old. Then it does not detect
//! the loss of commits from that second.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::codec::{read, seal};

/// The size of a slot of the file in bytes. The file has two slots, which are
/// written in turn. Each slot has its own sector, so a torn write damages only one
/// slot.
const SLOT_BYTES: u64 = 512;
const RECORD_BYTES: usize = 12;
const KEY: &[u8] = b"streamgate mark 1";
/// The newest version of a slot that this build reads. A slot of a later version
/// counts as damaged. This does not occur, because the header of the store is
/// checked first.
const VERSION: u8 = 1;

/// The open file `mark`, which contains the commit watermark.
pub(super) struct CommitWatermark {
    file: File,
    dirty: bool,
}

impl CommitWatermark {
    /// Opens or creates the file `mark`. Returns the number of the last durable
    /// commit, or `None` for a new file.
    ///
    /// # Errors
    /// `InvalidData` if both slots are damaged, or the error of the file system.
    pub(super) fn open(path: &Path) -> io::Result<(CommitWatermark, Option<u64>)> {
        let file =
            File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        let value = if file.metadata()?.len() == 0 {
            // The directory entry of the new file must be durable too.
            if let Some(folder) = path.parent() {
                File::open(folder)?.sync_all()?;
            }
            None
        } else {
            let newest = [0, SLOT_BYTES].iter().filter_map(|&at| slot(&file, at)).max();
            Some(newest.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?)
        };
        Ok((CommitWatermark { file, dirty: false }, value))
    }

    /// Writes the number of the last durable commit. The number is on disk after
    /// the next [`CommitWatermark::sync`].
    pub(super) fn advance(&mut self, commit: u64) -> io::Result<()> {
        let record = seal(KEY, 8, |out| out.extend_from_slice(&commit.to_be_bytes()));
        self.file.write_all_at(&record, commit % 2 * SLOT_BYTES)?;
        self.dirty = true;
        Ok(())
    }

    /// Syncs the file if its content has changed.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.dirty) { self.file.sync_data() } else { Ok(()) }
    }
}

fn slot(file: &File, at: u64) -> Option<u64> {
    let mut record = [0; RECORD_BYTES];
    file.read_exact_at(&mut record, at).ok()?;
    read(KEY, record.to_vec().into(), VERSION, |_, mut fields| fields.u64()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_the_newest_readable_slot() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mark");
        let (mut mark, found) = CommitWatermark::open(&path).unwrap();
        assert_eq!(found, None);
        for commit in 1..=7 {
            mark.advance(commit).unwrap();
        }
        mark.sync().unwrap();
        assert_eq!(CommitWatermark::open(&path).unwrap().1, Some(7));
        mark.file.write_all_at(&[0xff; RECORD_BYTES], SLOT_BYTES).unwrap();
        assert_eq!(CommitWatermark::open(&path).unwrap().1, Some(6));
        mark.file.write_all_at(&[0xff; RECORD_BYTES], 0).unwrap();
        assert_eq!(CommitWatermark::open(&path).err().unwrap().kind(), io::ErrorKind::InvalidData);
    }
}
