//! JSON Merge Patch (RFC 7396) on JSON text.

use std::collections::HashMap;
use std::ops::Range;

use super::members::{Cursor, put_key};
use super::{COMPARED_MAX, DEPTH_MAX};

/// Applies the merge patch `patch` (RFC 7396) to `target`, and appends the result to
/// `out`. Both texts must be compact JSON. The result has the members of the target
/// in their order. The new members follow in the order of the patch.
pub fn merge_patch(target: &[u8], patch: &[u8], out: &mut Vec<u8>) {
    let mut changes = Vec::new();
    read(&mut Cursor::new(patch), DEPTH_MAX, &mut changes);
    let all = 0..changes.len();
    Merge { changes, out }.value(&mut Cursor::new(target), patch, all, DEPTH_MAX);
}

/// A member of an object in the patch, at any level of nesting. The members of all
/// levels are in one list, in the order of the text. The text of a deep patch is
/// therefore read once, and not once for each level.
struct Change<'a> {
    key: &'a [u8],
    value: &'a [u8],
    /// The index, in the list of all members, after the last member inside `value`.
    /// The members inside `value` begin at the index after this member.
    end: usize,
    /// Whether the target has a member with this key.
    in_target: bool,
}

/// Appends the members of the value at the cursor `patch` to `list`. Moves the
/// cursor past the value, and returns the value. `levels` limits the recursion on
/// text that was not validated.
fn read<'a>(patch: &mut Cursor<'a>, levels: usize, list: &mut Vec<Change<'a>>) -> &'a [u8] {
    if levels == 0 || !patch.at_object() {
        return patch.skip();
    }
    let start = patch.position();
    patch.enter();
    while let Some(key) = patch.key() {
        let at = list.len();
        list.push(Change { key, value: b"", end: 0, in_target: false });
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
    /// Merges `patch` into the value at the cursor `target`, and appends the result
    /// to `out`. `range` has the indexes of the members of `patch` in `changes`.
    fn value(
        &mut self,
        target: &mut Cursor<'_>,
        patch: &'a [u8],
        range: Range<usize>,
        levels: usize,
    ) {
        if levels == 0 || patch.first() != Some(&b'{') || !target.at_object() {
            target.skip();
            return without_nulls(&mut Cursor::new(patch), levels, self.out);
        }
        let members: Vec<usize> = self.members(range).collect();
        let index: Option<HashMap<&[u8], usize>> = (members.len() > COMPARED_MAX)
            .then(|| members.iter().map(|&at| (self.changes[at].key, at)).collect());
        self.out.push(b'{');
        target.enter();
        while let Some(key) = target.key() {
            let found = match &index {
                Some(index) => index.get(key).copied(),
                None => members.iter().copied().find(|&at| self.changes[at].key == key),
            };
            match found {
                None => {
                    put_key(key, self.out);
                    self.out.extend_from_slice(target.skip());
                }
                Some(at) => self.member(target, at, levels),
            }
        }
        for change in members.into_iter().map(|at| &self.changes[at]) {
            if !change.in_target && change.value != b"null" {
                put_key(change.key, self.out);
                without_nulls(&mut Cursor::new(change.value), levels - 1, self.out);
            }
        }
        self.out.push(b'}');
    }

    fn member(&mut self, target: &mut Cursor<'_>, at: usize, levels: usize) {
        let change = &mut self.changes[at];
        let (key, value, within) = (change.key, change.value, at + 1..change.end);
        change.in_target = true;
        if value == b"null" {
            target.skip();
        } else {
            put_key(key, self.out);
            self.value(target, value, within, levels - 1);
        }
    }

    /// Returns the indexes of the members in `range`. Leaves out the members that
    /// are nested inside the values of these members.
    fn members(&self, range: Range<usize>) -> impl Iterator<Item = usize> {
        let mut at = range.start;
        std::iter::from_fn(move || {
            let member = (at < range.end).then_some(at)?;
            at = self.changes[at].end;
            Some(member)
        })
    }
}

/// Appends the value at the cursor `patch` without its members that are null. This
/// is the result of a patch whose target is not an object. Values inside arrays are
/// unchanged (RFC 7396 §2).
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
