//! The header of the store, which contains the number of the store's format.
//!
//! The file `format` contains the number of the format and the version of streamgate
//! that wrote the file. A store without the file has format 1: streamgate 0.1.0
//! wrote no header. A store of an older format can be opened. Before the first
//! record of the newer format is written, the file gets the new number. A store of a
//! newer format is refused before any other file is opened.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use super::Error;
use super::codec::{Fields, Unreadable, read, seal};

/// The number of the format that this build writes, and the newest format that it
/// reads. Raise this number if you add or change a key, or raise the version of a
/// record kind (`record`, `cursor`). Then add a fixture of the last format to
/// `tests/fixtures`.
pub(super) const FORMAT: u32 = 3;

/// The format of a store without a header.
const WITHOUT_HEADER: u32 = 1;
const KEY: &[u8] = b"streamgate format";
/// The version of the record in the header.
const HEADER_VERSION: u8 = 1;

struct Header {
    format: u32,
    /// The version of streamgate that wrote the header.
    program: String,
}

/// Returns the number of the format of the store in the folder `path`.
///
/// # Errors
/// [`Error::Newer`] if only a later version of streamgate can read the store,
/// [`Error::Damaged`] if the header cannot be read.
pub(super) fn check(path: &Path) -> Result<u32, Error> {
    let record = match fs::read(path.join("format")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(WITHOUT_HEADER),
        record => record?,
    };
    let own = env!("CARGO_PKG_VERSION");
    match read(KEY, record.into(), HEADER_VERSION, |_, fields| decode(fields)) {
        Ok(Header { format, .. }) if format <= FORMAT => Ok(format),
        Ok(Header { format, program }) => Err(Error::Newer(format!(
            "{} has format {format}, written by streamgate {program}, and this is streamgate \
             {own}, which reads formats up to {FORMAT}",
            path.display()
        ))),
        Err(Unreadable::Newer(version)) => Err(Error::Newer(format!(
            "the header of {} has version {version}, and this is streamgate {own}, which reads \
             versions up to {HEADER_VERSION}",
            path.display()
        ))),
        Err(Unreadable::Damaged) => Err(Error::Damaged(format!(
            "{} cannot be read; run `streamgate verify`, and restore that file from a copy \
             if there is no other damage",
            path.join("format").display()
        ))),
    }
}

/// Writes a header with the format of this build, durably. If the write fails, the
/// old header stays.
///
/// # Errors
/// [`io::Error`] of the file system.
pub(super) fn write(path: &Path) -> io::Result<()> {
    write_as(path, FORMAT)
}

fn write_as(path: &Path, format: u32) -> io::Result<()> {
    let program = env!("CARGO_PKG_VERSION");
    let record = seal(KEY, 4 + program.len(), |out| {
        out.extend_from_slice(&format.to_be_bytes());
        out.extend_from_slice(program.as_bytes());
    });
    let fresh = path.join("format.new");
    let mut file = File::create(&fresh)?;
    file.write_all(&record)?;
    file.sync_all()?;
    fs::rename(fresh, path.join("format"))?;
    File::open(path)?.sync_all()
}

fn decode(mut fields: Fields) -> Option<Header> {
    let format = u32::from_be_bytes(fields.array()?);
    let program = String::from_utf8(fields.rest().into()).ok()?;
    Some(Header { format, program })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Store, verify};

    #[test]
    fn a_store_without_a_header_opens_and_gets_one() {
        let folder = tempfile::tempdir().unwrap();
        drop(Store::open(folder.path()).unwrap());
        assert_eq!(check(folder.path()).unwrap(), FORMAT);
        fs::remove_file(folder.path().join("format")).unwrap();
        assert_eq!(check(folder.path()).unwrap(), WITHOUT_HEADER);
        drop(Store::open(folder.path()).unwrap());
        assert_eq!(check(folder.path()).unwrap(), FORMAT);
        assert_eq!(verify(folder.path(), |_, _| {}).unwrap().damage, Vec::<String>::new());
    }

    #[test]
    fn a_store_of_a_newer_format_is_refused_and_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store");
        fs::create_dir(&store).unwrap();
        write_as(&store, FORMAT + 1).unwrap();
        let why = Store::open(&store).err().unwrap().to_string();
        let named = format!(
            "a later version of streamgate wrote the store: {} has format {}, written by \
             streamgate {}",
            store.display(),
            FORMAT + 1,
            env!("CARGO_PKG_VERSION")
        );
        assert!(why.starts_with(&named), "{why}");
        assert!(why.ends_with("run that version, or restore a copy from before"), "{why}");
        let files: Vec<_> =
            fs::read_dir(&store).unwrap().map(|it| it.unwrap().file_name()).collect();
        assert_eq!(files, ["format"]);
    }

    #[test]
    fn verify_refuses_a_newer_format_and_names_a_damaged_header() {
        let folder = tempfile::tempdir().unwrap();
        drop(Store::open(folder.path()).unwrap());
        write_as(folder.path(), FORMAT + 1).unwrap();
        assert!(matches!(verify(folder.path(), |_, _| {}), Err(Error::Newer(_))));
        fs::write(folder.path().join("format"), b"no header").unwrap();
        assert!(matches!(Store::open(folder.path()), Err(Error::Damaged(_))));
        let damage = verify(folder.path(), |_, _| {}).unwrap().damage;
        assert_eq!(damage.len(), 1, "{damage:?}");
        assert!(damage[0].contains("format cannot be read"), "{damage:?}");
    }
}
