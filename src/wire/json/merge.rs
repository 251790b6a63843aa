//! JSON Merge Patch (RFC 7396) from text to text.

use std::collections::HashMap;
use std::ops::Range;

use super::members::{Cursor, put_key};
use super::{COMPARED_MAX, DEPTH_MAX};

/// Appends the result of a merge patch (RFC 7396) on `target`, both compact:
/// members keep the target's order, new ones follow in the patch's.
pub fn merge_patch(target: &[u8], patch: &[u8], out: &mut Vec<u8>) {
    let mut changes = Vec::new();
    read(&mut Cursor::new(patch), DEPTH_MAX, &mut changes);
    let all = 0..changes.len();
    Merge { changes, out }.value(&mut Cursor::new(target), patch, all, DEPTH_MAX);
}

/// A member of the patch or of an object that is one of its members' values.
/// All of them stand in one list, in the order of the text, so that the text
/// of a deep patch is read once and not once for each level.
struct Change<'a> {
    key: &'a [u8],
    value: &'a [u8],
    /// Where in the list the members within `value` end; they begin behind this.
    end: usize,
    /// Whether the target had the member.
    taken: bool,
}

/// Lists the members of the value that `patch` stands on, and goes past it.
/// `levels` bounds the recursion on text that was never checked.
fn read<'a>(patch: &mut Cursor<'a>, levels: usize, list: &mut Vec<Change<'a>>) -> &'a [u8] {
    if levels == 0 || !patch.at_object() {
        return patch.skip();
    }
    let start = patch.position();
    patch.enter();
    while let Some(key) = patch.key() {
        let at = list.len();
        list.push(Change { key, value: b"", end: 0, taken: false });
        list[at].value = read(patch, levels - 1, list);
        list[at].end = list.len();
    }
    patch.since(start)
}

struct Merge<'a, 'o> {
    changes: Vec<Change<'a>>,
    out: &'o mut Vec<u8>,
}

impl<'a> Merge<'a, '_> {
    /// Merges `patch`, whose members are at `listed`, into the value that
    /// `target` stands on.
    fn value(
        &mut self,
        target: &mut Cursor<'_>,
        patch: &'a [u8],
        listed: Range<usize>,
        levels: usize,
    ) {
        if levels == 0 || patch.first() != Some(&b'{') || !target.at_object() {
            target.skip();
            return without_nulls(&mut Cursor::new(patch), levels, self.out);
        }
        let own: Vec<usize> = self.members(listed).collect();
        let index: Option<HashMap<&[u8], usize>> = (own.len() > COMPARED_MAX)
            .then(|| own.iter().map(|&at| (self.changes[at].key, at)).collect());
        self.out.push(b'{');
        target.enter();
        while let Some(key) = target.key() {
            let found = match &index {
                Some(index) => index.get(key).copied(),
                None => own.iter().copied().find(|&at| self.changes[at].key == key),
            };
            match found {
                None => {
                    put_key(key, self.out);
                    self.out.extend_from_slice(target.skip());
                }
                Some(at) => self.member(target, at, levels),
            }
        }
        for change in own.into_iter().map(|at| &self.changes[at]) {
            if !change.taken && change.value != b"null" {
                put_key(change.key, self.out);
                without_nulls(&mut Cursor::new(change.value), levels - 1, self.out);
            }
        }
        self.out.push(b'}');
    }

    fn member(&mut self, target: &mut Cursor<'_>, at: usize, levels: usize) {
        let change = &mut self.changes[at];
        let (key, value, within) = (change.key, change.value, at + 1..change.end);
        change.taken = true;
        if value == b"null" {
            target.skip();
        } else {
            put_key(key, self.out);
            self.value(target, value, within, levels - 1);
        }
    }

    /// The members at `listed`, without those within their values.
    fn members(&self, listed: Range<usize>) -> impl Iterator<Item = usize> {
        let mut at = listed.start;
        std::iter::from_fn(move || {
            let member = (at < listed.end).then_some(at)?;
            at = self.changes[at].end;
            Some(member)
        })
    }
}

/// Appends the value that `patch` stands on as it becomes where there is no
/// object to merge it into: without the nulls of its objects, those within
/// arrays excepted (RFC 7396 §2).
fn without_nulls(patch: &mut Cursor<'_>, levels: usize, out: &mut Vec<u8>) {
    if levels == 0 || !patch.at_object() {
        return out.extend_from_slice(patch.skip());
    }
    out.push(b'{');
    patch.enter();
    while let Some(key) = patch.key() {
        if patch.at_null() {
            patch.skip();
        } else {
            put_key(key, out);
            without_nulls(patch, levels - 1, out);
        }
    }
    out.push(b'}');
}
