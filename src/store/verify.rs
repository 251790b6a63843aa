//! The check of a whole store: reads every record and reports all damage.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io;
use std::ops::Bound;
use std::path::Path;

use super::codec::Unreadable;
use super::cursor;
use super::open::{check_watermark, open_files, open_watermark};
use super::record::{self, LogMetadata};
use super::view::{KeyspaceName, ReadSnapshot};
use super::{Error, LogBounds, format, key, meta_text, unreadable};
use crate::event::{Epoch, Event, LogId, Offset, ResourceId, Timestamp};

/// The maximum number of damages in a report. Without a limit, a broken table would
/// fill the screen.
const DAMAGES_MAX: usize = 1000;
/// The number of records that are read between two calls of `progress`.
const STEP: u64 = 1024;

/// The result of [`verify`].
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The logs of the store.
    pub logs: Vec<LogReport>,
    /// A sentence for each damage. Empty if the store is sound.
    pub damage: Vec<String>,
    /// The number of the last commit.
    pub commit: u64,
}

/// The result of [`verify`] for one log.
#[derive(Clone, Debug)]
pub struct LogReport {
    /// The name of the collection or topic.
    pub name: String,
    /// The number of the log in the store.
    pub id: LogId,
    /// The epoch of the log.
    pub epoch: Epoch,
    /// The bounds and sizes of the log, counted from its stored events.
    pub position: LogBounds,
}

/// Opens the store and reads every record. `progress` is called regularly with
/// the number of records read and the expected number of all records. Damage that
/// prevents opening the store is part of the report.
///
/// # Errors
/// [`Error::Unusable`] if the file system fails, [`Error::Locked`] if another process
/// has opened the store, and [`Error::Newer`] if a later version of streamgate wrote
/// the store or a record.
pub fn verify(path: &Path, progress: impl FnMut(u64, u64)) -> Result<Report, Error> {
    let mut report = Report::default();
    match read_store(path, &mut report, progress) {
        // The database cannot read its own files.
        Err(Error::Damaged(what)) => report.damage.push(what),
        checked => checked.map_err(|error| error.at(path))?,
    }
    for damage in &mut report.damage {
        *damage = without_verify(damage);
    }
    Ok(report)
}

/// Removes from a text about damage the advice to run `streamgate verify`, because
/// the reader has run this command.
fn without_verify(damage: &str) -> String {
    damage
        .replace("run `streamgate verify` to list all damage, then ", "")
        .replace("run `streamgate verify`, and ", "")
}

fn read_store(
    path: &Path,
    report: &mut Report,
    progress: impl FnMut(u64, u64),
) -> Result<(), Error> {
    if !path.join("db").is_dir() {
        let why = "no store found; check storage.path";
        return Err(Error::Io(io::Error::new(io::ErrorKind::NotFound, why)));
    }
    let header = match format::check(path) {
        Err(Error::Damaged(what)) => Some(what),
        checked => checked.map(|_| None)?,
    };
    report.damage.extend(header);
    let store = open_files(path)?;
    let view = store.view();
    let mut check = Check { view, report, done: 0, total: 0, progress };
    check.commits(path);
    let metas = check.metas()?;
    check.total = metas.iter().map(|it| 2 * it.position.events + it.position.resources).sum();
    check.orphan_events(&metas)?;
    for meta in &metas {
        let position = check.log(meta)?;
        let LogMetadata { id, name, epoch, .. } = meta.clone();
        check.report.logs.push(LogReport { name: name.to_string(), id, epoch, position });
    }
    check.answers()?;
    check.cursors(&metas)?;
    (check.progress)(check.total, check.total);
    Ok(())
}

struct Check<'r, F> {
    view: ReadSnapshot,
    report: &'r mut Report,
    done: u64,
    total: u64,
    progress: F,
}

/// The sums over the stored events of a log, to compare with its metadata.
#[derive(Default)]
struct EventTotals {
    position: LogBounds,
    number: u64,
    time: Timestamp,
    subjects: u64,
}

impl<F: FnMut(u64, u64)> Check<'_, F> {
    fn damage(&mut self, what: String) {
        match self.report.damage.len() {
            n if n < DAMAGES_MAX => self.report.damage.push(what),
            DAMAGES_MAX => self.report.damage.push("and more".to_owned()),
            _ => {}
        }
    }

    fn step(&mut self) {
        self.done += 1;
        if self.done.is_multiple_of(STEP) {
            (self.progress)(self.done, self.total.max(self.done));
        }
    }

    fn commits(&mut self, path: &Path) {
        match self.view.commit() {
            Ok(commit) => self.report.commit = commit,
            Err(error) => self.damage(error.to_string()),
        }
        let checked = open_watermark(path)
            .and_then(|(_, marked)| check_watermark(path, self.report.commit, marked));
        if let Err(error) = checked {
            self.damage(error.to_string());
        }
    }

    fn metas(&mut self) -> Result<Vec<LogMetadata>, Error> {
        let mut metas = Vec::new();
        let range = key::METAS;
        let range = (Bound::Included(range.start), Bound::Excluded(range.end));
        for guard in self.view.range(KeyspaceName::State, range) {
            let (key, value) = guard.into_inner()?;
            match record::decode_meta(&key, value.into()) {
                Ok(meta) => metas.push(meta),
                Err(Unreadable::Damaged) => {
                    self.damage(format!("{} fails its checksum", meta_text(&key)));
                }
                Err(why) => return Err(unreadable(why, meta_text(&key))),
            }
        }
        Ok(metas)
    }

    /// Reports events that belong to no existing log.
    fn orphan_events(&mut self, metas: &[LogMetadata]) -> Result<(), Error> {
        let ends = metas.iter().map(|meta| meta.id.0).chain([u32::MAX]);
        let starts = [0].into_iter().chain(metas.iter().map(|meta| meta.id.0 + 1));
        for (start, end) in starts.zip(ends) {
            let edge = |log| key::event(LogId(log), Offset::ZERO);
            let range = (Bound::Included(edge(start)), Bound::Excluded(edge(end)));
            if let Some(guard) = self.view.range(KeyspaceName::Log, range).next() {
                let key = guard.key()?;
                let Some((log, offset)) = key::event_of(&key) else {
                    self.damage(format!("the key {key:?} is not that of an event"));
                    continue;
                };
                self.damage(format!(
                    "the event at offset {offset} has the log number {}, which no collection and \
                     no topic has",
                    log.0
                ));
            }
        }
        Ok(())
    }

    fn log(&mut self, meta: &LogMetadata) -> Result<LogBounds, Error> {
        let name = &meta.name;
        let mut totals = self.events(meta)?;
        let indexed = self.index(meta)?;
        if indexed != totals.subjects {
            let subjects = totals.subjects;
            self.damage(format!("{name}: {indexed} index entries for {subjects} events"));
        }
        totals.position.resources = self.resources(meta)?;
        let (found, stored) = (totals.position, meta.position);
        for (what, found, stored) in [
            ("events", found.events, stored.events),
            ("bytes of events", found.bytes, stored.bytes),
            ("resources", found.resources, stored.resources),
        ] {
            if found != stored {
                self.damage(format!("{name}: {found} {what}, but the metadata has {stored}"));
            }
        }
        let newest = (found.head, totals.number, totals.time);
        if found.events > 0 && newest != (stored.head, meta.number, meta.time) {
            let (found, stored) = (found.head, stored.head);
            self.damage(format!(
                "{name}: the last event has offset {found}, but the metadata has {stored}"
            ));
        }
        Ok(LogBounds { floor: stored.floor, floor_time: stored.floor_time, ..found })
    }

    fn events(&mut self, meta: &LogMetadata) -> Result<EventTotals, Error> {
        let (name, id) = (&meta.name, meta.id);
        let mut totals = EventTotals {
            position: LogBounds { head: meta.position.floor, ..LogBounds::default() },
            number: meta.number.saturating_sub(meta.position.events),
            ..EventTotals::default()
        };
        let range = (
            Bound::Included(key::event(id, Offset::ZERO)),
            Bound::Included(key::event(id, Offset(u64::MAX))),
        );
        for guard in self.view.range(KeyspaceName::Log, range) {
            self.step();
            let last = totals.position.head;
            let (key, value) = match guard.into_inner() {
                Ok(pair) => pair,
                Err(error) => {
                    self.damage(format!(
                        "{name}: the events after offset {last} cannot be read ({error:?})"
                    ));
                    break;
                }
            };
            totals.position.events += 1;
            totals.position.bytes += (key.len() + value.len()) as u64;
            let offset = key::event_of(&key).map(|(_, offset)| offset).unwrap_or_default();
            if offset <= meta.position.floor || offset > meta.position.head {
                self.damage(format!(
                    "{name}: the event at offset {offset} is outside the bounds of the log"
                ));
            }
            let numbered = record::decode_event(&key, value.into());
            let what = format_args!("the event at offset {offset} of {name}");
            let Some(numbered) = undamaged(numbered, what)? else {
                self.damage(format!("{name}: the event at offset {offset} fails its checksum"));
                totals.number += 1;
                continue;
            };
            if numbered.number != totals.number + 1 {
                let (found, due) = (numbered.number, totals.number + 1);
                self.damage(format!(
                    "{name}: events are missing between offsets {last} and {offset} (number \
                     {found} instead of {due})"
                ));
            }
            if numbered.event.time < totals.time && !meta.may_step(last, offset) {
                self.damage(format!("{name}: time decreases at offset {offset}"));
            }
            totals.number = numbered.number;
            self.indexed(meta, &numbered.event, &mut totals)?;
        }
        Ok(totals)
    }

    fn indexed(
        &mut self,
        meta: &LogMetadata,
        event: &Event,
        totals: &mut EventTotals,
    ) -> Result<(), Error> {
        (totals.position.head, totals.time) = (event.offset, event.time);
        let Some(subject) = &event.subject else { return Ok(()) };
        totals.subjects += 1;
        if !self.view.is_indexed(meta.id, subject, event.offset)? {
            let (name, offset) = (&meta.name, event.offset);
            self.damage(format!("{name}: the event at offset {offset} is not in the index"));
        }
        Ok(())
    }

    /// Counts the index entries of a log, and compares each resource with its newest
    /// event.
    fn index(&mut self, meta: &LogMetadata) -> Result<u64, Error> {
        let range = key::log_range(key::INDEX, meta.id);
        let range = (Bound::Included(range.start), Bound::Excluded(range.end));
        let mut count = 0;
        let mut newest: Option<(Vec<u8>, Offset)> = None;
        for guard in self.view.range(KeyspaceName::State, range) {
            self.step();
            count += 1;
            let key = guard.key()?;
            let Some((_, subject)) = key::subject_of(&key) else { continue };
            let offset = key::indexed(&key).unwrap_or_default();
            match &mut newest {
                Some((last, newest)) if last == subject => *newest = offset,
                _ => {
                    let last = newest.replace((subject.to_vec(), offset));
                    self.newest(meta, last);
                }
            }
        }
        self.newest(meta, newest);
        Ok(count)
    }

    fn newest(&mut self, meta: &LogMetadata, newest: Option<(Vec<u8>, Offset)>) {
        let Some((subject, offset)) = newest else { return };
        let name = &meta.name;
        let Ok(subject) = ResourceId::from_stored(subject.into()) else {
            self.damage(format!(
                "{name}: the index entry for offset {offset} has an invalid resource id"
            ));
            return;
        };
        let event = self.view.event(meta.id, offset);
        match event {
            Ok(Some(event)) => match self.view.matches_latest(meta, &event) {
                Ok(true) | Err(_) => {}
                Ok(false) => self.damage(format!(
                    "{name}: the resource {subject} does not agree with its newest event, at \
                     offset {offset}"
                )),
            },
            Ok(None) => self.damage(format!(
                "{name}: the index of {subject} has offset {offset}, but no event has this offset"
            )),
            // The damage of this event is already in the report.
            Err(_) => {}
        }
    }

    fn resources(&mut self, meta: &LogMetadata) -> Result<u64, Error> {
        let name = &meta.name;
        let range = key::log_range(key::RESOURCES, meta.id);
        let range = (Bound::Included(range.start), Bound::Excluded(range.end));
        let mut count = 0;
        for guard in self.view.range(KeyspaceName::State, range) {
            self.step();
            count += 1;
            let (key, value) = guard.into_inner()?;
            let id = key::subject_of(&key).map(|(_, id)| String::from_utf8_lossy(id).into_owned());
            let id = id.unwrap_or_default();
            let state = record::decode_state(&key, value.into());
            let what = format_args!("the resource {id} of {name}");
            let Some(state) = undamaged(state, what)? else {
                self.damage(format!("{name}: the resource {id} fails its checksum"));
                continue;
            };
            let revision = state.revision;
            let kept = revision > meta.position.floor;
            let Ok(subject) = ResourceId::from_stored(id.clone().into()) else {
                self.damage(format!("{name}: the resource id {id:?} is invalid"));
                continue;
            };
            if kept && !self.view.is_indexed(meta.id, &subject, revision)? {
                self.damage(format!(
                    "{name}: the resource {id} has the revision {revision}, but no event has \
                     this offset"
                ));
            }
        }
        Ok(count)
    }

    fn answers(&mut self) -> Result<(), Error> {
        let range = (Bound::Included([4]), Bound::Excluded([5]));
        let mut answers = HashSet::new();
        for guard in self.view.range(KeyspaceName::State, range) {
            let (key, value) = guard.into_inner()?;
            let answer = record::decode_answer(&key, value.into());
            if undamaged(answer, "the answer to an idempotent write")?.is_none() {
                self.damage("an answer to an idempotent write fails its checksum".to_owned());
            }
            answers.insert(key[1..].to_vec());
        }
        let range = (Bound::Included([5]), Bound::Excluded([6]));
        for guard in self.view.range(KeyspaceName::State, range) {
            if let Some((_, hash)) = key::expiry_of(&guard.key()?) {
                answers.remove(hash.as_slice());
            }
        }
        if !answers.is_empty() {
            let count = answers.len();
            self.damage(format!("{count} answers to idempotent writes have no expiry"));
        }
        Ok(())
    }

    /// Reads each cursor. Checks that the log of the cursor exists, and that the
    /// offset of the cursor is not beyond the head of this log.
    fn cursors(&mut self, metas: &[LogMetadata]) -> Result<(), Error> {
        let range = key::CURSORS;
        let range = (Bound::Included(range.start), Bound::Excluded(range.end));
        let metas: HashMap<LogId, &LogMetadata> =
            metas.iter().map(|meta| (meta.id, meta)).collect();
        for guard in self.view.range(KeyspaceName::State, range) {
            let (key, value) = guard.into_inner()?;
            let what = format!("the cursor {}", key::cursor_name_of(&key));
            let Some(cursor) = undamaged(cursor::decode(&key, value.into()), &what)? else {
                self.damage(format!("{what} fails its checksum"));
                continue;
            };
            let Some(meta) = metas.get(&cursor.log) else {
                let log = cursor.log.0;
                self.damage(format!("{what} names the log number {log}, which does not exist"));
                continue;
            };
            let (name, offset, head) = (&meta.name, cursor.offset, meta.position.head);
            if meta.epoch == cursor.epoch && offset > head {
                self.damage(format!(
                    "{what} has offset {offset}, but the last event of {name} has offset {head}"
                ));
            }
        }
        Ok(())
    }
}

/// Returns the decoded record, or `None` if the record is damaged.
///
/// # Errors
/// [`Error::Newer`] if only a later version of streamgate reads the record.
fn undamaged<T>(read: Result<T, Unreadable>, what: impl fmt::Display) -> Result<Option<T>, Error> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(Unreadable::Damaged) => Ok(None),
        Err(newer @ Unreadable::Newer(_)) => Err(unreadable(newer, what)),
    }
}

#[cfg(test)]
mod tests;
