//! `Idempotency-Key`: if a client repeats a request with the same key, the gateway
//! commits the write only once.

use std::collections::HashSet;
use std::sync::Arc;

use hyper::HeaderMap;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

use crate::api::answer::problem;
use crate::log::IdempotencyKey;
use crate::wire::problem::Problem;

/// The largest idempotency key in bytes, without its quotes.
const KEY_BYTES_MAX: usize = 255;

/// The idempotency keys of the requests in progress.
#[derive(Clone, Default)]
pub struct InProgress(Arc<Mutex<HashSet<[u8; 32]>>>);

/// Marks an idempotency key as in progress until the guard is dropped.
pub struct KeyGuard {
    all: InProgress,
    key: [u8; 32],
}

impl InProgress {
    /// Marks the idempotency key `key` as in progress until the returned guard is
    /// dropped.
    ///
    /// # Errors
    /// 409 if another request with this key is in progress.
    pub fn hold(&self, key: &IdempotencyKey) -> Result<KeyGuard, Problem> {
        if self.0.lock().insert(key.key) {
            Ok(KeyGuard { all: self.clone(), key: key.key })
        } else {
            Err(problem::key_in_progress())
        }
    }
}

impl Drop for KeyGuard {
    fn drop(&mut self) {
        self.all.0.lock().remove(&self.key);
    }
}

/// Returns the `Idempotency-Key` of a request, if it has one. The key can be in double quotes,
/// as the IETF draft of the header requires.
///
/// # Errors
/// 400 if the header occurs twice, or if the key is not 1 to 255 visible ASCII
/// characters.
pub fn header(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(problem::header("Idempotency-Key: the header is given twice; send it once"));
    }
    let text = value.to_str().unwrap_or_default();
    let quoted = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    let key = quoted.unwrap_or(text);
    let visible = key.bytes().all(|b| b.is_ascii_graphic());
    if key.is_empty() || key.len() > KEY_BYTES_MAX || !visible {
        return Err(problem::header(format!(
            "Idempotency-Key must be 1 to {KEY_BYTES_MAX} visible ASCII characters"
        )));
    }
    Ok(Some(key))
}

/// Returns the digest of the idempotency key, under which the response of a write is
/// stored, and the digest of the request. `scope` contains the principal, the method
/// and the path: the same key in another scope has another digest. `meaning` is the
/// part of the query that changes the effect of the write.
pub fn digest(scope: [&str; 3], key: &str, meaning: &str, body: &[u8]) -> IdempotencyKey {
    let mut hash = Sha256::new();
    for part in scope.iter().chain([&key]) {
        // Without the lengths, two different lists of parts could have the same
        // hash.
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    let mut body_hash = Sha256::new();
    body_hash.update((meaning.len() as u64).to_be_bytes());
    body_hash.update(meaning.as_bytes());
    body_hash.update(body);
    IdempotencyKey { key: hash.finalize().into(), body: body_hash.finalize().into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(value: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert("idempotency-key", value.parse().unwrap());
        header(&headers).ok()?.map(str::to_owned)
    }

    #[test]
    fn a_key_is_visible_ascii_bare_or_in_quotes() {
        assert_eq!(key("8e03978e-40d5").as_deref(), Some("8e03978e-40d5"));
        assert_eq!(key("\"8e03978e-40d5\"").as_deref(), Some("8e03978e-40d5"));
        assert_eq!(key(&"x".repeat(255)).map(|k| k.len()), Some(255));
        for bad in ["", "\"\"", "a b", "é", &"x".repeat(256)] {
            assert_eq!(key(bad), None, "{bad}");
        }
        assert!(header(&HeaderMap::new()).unwrap().is_none());
    }

    #[test]
    fn equal_keys_in_different_scopes_differ() {
        let one = digest(["", "POST", "/orders"], "k", "", b"{}");
        assert_eq!(one, digest(["", "POST", "/orders"], "k", "", b"{}"));
        assert_ne!(one.key, digest(["a", "POST", "/orders"], "k", "", b"{}").key);
        assert_ne!(one.key, digest(["", "PATCH", "/orders"], "k", "", b"{}").key);
        assert_ne!(one.key, digest(["", "POST", "/orders/"], "k", "", b"{}").key);
        let other = digest(["", "POST", "/orders"], "k", "", b"[]");
        assert_eq!(one.key, other.key);
        assert_ne!(one.body, other.body);
    }

    #[test]
    fn a_key_is_in_progress_until_its_guard_is_dropped() {
        let all = InProgress::default();
        let key = digest(["", "POST", "/"], "k", "", b"");
        let guard = all.hold(&key).ok().unwrap();
        assert!(all.hold(&key).is_err());
        drop(guard);
        assert!(all.hold(&key).is_ok());
    }
}
