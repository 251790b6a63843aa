//! The cache of pages, which contain older events of a log. All readers share the
//! cache.
//!
//! After a restart, ten thousand clients may resume, and most of them read the same
//! events. Pages therefore have fixed boundaries. One reader loads a page while the
//! others wait for it. The cache keeps the encodings of a page together with the
//! page.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OnceCell, Semaphore};

use super::page::{Page, PageRange, footprint};
use crate::event::LogId;
use crate::log::Error;
use crate::store::{self, ReadSnapshot, Store};
use crate::sync::unblock;

/// The memory of a cache entry without its events, in bytes.
const SLOT_BYTES: usize = 256;

/// The cache of pages, and the permits for reads on blocking threads.
pub(in crate::log) struct PageCache {
    permits: Arc<Semaphore>,
    bytes_max: usize,
    cache: Mutex<Cache>,
}

pub(in crate::log) type Key = (LogId, PageRange);

#[derive(Default)]
struct Cache {
    slots: HashMap<Key, Slot>,
    /// The keys of the entries in the order of their last use.
    order: BTreeMap<u64, Key>,
    /// The number of times that an entry was used.
    uses: u64,
    bytes: usize,
}

struct Slot {
    cell: Arc<OnceCell<Entry>>,
    last_use: u64,
    bytes: usize,
}

/// The content of an entry of the cache.
#[derive(Clone, Debug)]
pub(in crate::log) enum Entry {
    /// The page of the range.
    Page(Page),
    /// The range has more bytes than a page may have. Each half of the range has an
    /// entry of its own.
    Split,
}

impl PageCache {
    pub(in crate::log) fn new(bytes_max: usize, concurrency: usize) -> PageCache {
        PageCache {
            permits: Arc::new(Semaphore::new(concurrency.max(1))),
            bytes_max,
            cache: Mutex::new(Cache::default()),
        }
    }

    /// Returns the cache entry for `key`. If there is none, one caller runs `load`
    /// while the others wait.
    pub(in crate::log) async fn entry(
        &self,
        key: Key,
        load: impl Future<Output = Result<Entry, Error>>,
    ) -> Result<Entry, Error> {
        let cell = self.cell(key);
        let load = async {
            let entry = load.await?;
            self.account(key, &entry);
            Ok::<_, Error>(entry)
        };
        cell.get_or_try_init(|| load).await.cloned()
    }

    fn cell(&self, key: Key) -> Arc<OnceCell<Entry>> {
        let mut cache = self.cache.lock();
        let Cache { slots, order, uses, bytes } = &mut *cache;
        *uses += 1;
        let slot = slots.entry(key).or_insert_with(|| {
            *bytes += SLOT_BYTES;
            Slot { cell: Arc::default(), last_use: *uses, bytes: SLOT_BYTES }
        });
        order.remove(&slot.last_use);
        slot.last_use = *uses;
        order.insert(*uses, key);
        slot.cell.clone()
    }

    /// Adds the size of the loaded `entry` to the size of the cache. Then removes
    /// the least recently used entries until the cache has at most `bytes_max`
    /// bytes.
    fn account(&self, key: Key, entry: &Entry) {
        let Entry::Page(page) = entry else { return };
        let added = footprint(page.batch.events());
        let mut cache = self.cache.lock();
        let Some(slot) = cache.slots.get_mut(&key) else { return };
        slot.bytes += added;
        cache.bytes += added;
        while cache.bytes > self.bytes_max {
            let Some((_, oldest)) = cache.order.pop_first() else { return };
            let freed = cache.slots.remove(&oldest).map_or(0, |slot| slot.bytes);
            cache.bytes -= freed;
        }
    }

    /// Runs `read` with a snapshot of the store on a blocking thread. Waits for a
    /// permit first, see [`PageCache::on_thread`].
    pub(in crate::log) async fn read<T: Send + 'static>(
        &self,
        store: &Store,
        read: impl FnOnce(ReadSnapshot) -> Result<T, store::Error> + Send + 'static,
    ) -> Result<T, Error> {
        let store = store.clone();
        Ok(self.on_thread(move || read(store.view())).await??)
    }

    /// Waits for a permit and runs `read` on a blocking thread. The thread keeps the
    /// permit until `read` has ended, also if the caller drops the future. So the
    /// number of concurrent reads is never larger than the number of permits.
    ///
    /// # Errors
    /// [`Error::Store`] if `read` panicked.
    pub(in crate::log) async fn on_thread<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| Error::Closed)?;
        let result = unblock(move || {
            let _permit = permit;
            read()
        });
        Ok(result.await.map_err(|error| store::Error::Io(std::io::Error::other(error)))?)
    }

    /// Takes all permits. No read starts until the result is dropped.
    #[cfg(test)]
    pub(in crate::log) fn take_permits(&self) -> tokio::sync::OwnedSemaphorePermit {
        let all = self.permits.available_permits() as u32;
        self.permits.clone().try_acquire_many_owned(all).expect("no read is running")
    }
}
