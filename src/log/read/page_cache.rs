//! Pages read back: shared by all who catch up, read once.
//!
//! Ten thousand clients that resume after a restart ask for much the same.
//! Pages therefore have fixed boundaries in offset, are read by one asker
//! while the others wait, and are kept with their encodings.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OnceCell, Semaphore};

use super::page::{Page, PageRange, footprint};
use crate::event::LogId;
use crate::log::Error;
use crate::store::{self, ReadSnapshot, Store};
use crate::sync::unblock;

/// What an entry of the cache costs beside its events.
const SLOT_BYTES: usize = 256;

/// The cache, and the permits to read for it.
pub(in crate::log) struct PageCache {
    permits: Arc<Semaphore>,
    bytes_max: usize,
    cache: Mutex<Cache>,
}

pub(in crate::log) type Key = (LogId, PageRange);

#[derive(Default)]
struct Cache {
    slots: HashMap<Key, Slot>,
    /// Keys by last use.
    order: BTreeMap<u64, Key>,
    clock: u64,
    bytes: usize,
}

struct Slot {
    cell: Arc<OnceCell<Entry>>,
    used: u64,
    bytes: usize,
}

#[derive(Clone, Debug)]
pub(in crate::log) enum Entry {
    Page(Page),
    /// More than a page may have: look at the halves.
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

    /// The entry for `key`, which one caller loads while the others wait.
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
        let Cache { slots, order, clock, bytes } = &mut *cache;
        *clock += 1;
        let slot = slots.entry(key).or_insert_with(|| {
            *bytes += SLOT_BYTES;
            Slot { cell: Arc::default(), used: *clock, bytes: SLOT_BYTES }
        });
        order.remove(&slot.used);
        slot.used = *clock;
        order.insert(*clock, key);
        slot.cell.clone()
    }

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

    /// Runs `read` on a blocking thread. The permit goes with it, so that
    /// callers who leave do not let more in than there is room for.
    pub(in crate::log) async fn read<T: Send + 'static>(
        &self,
        store: &Store,
        read: impl FnOnce(ReadSnapshot) -> Result<T, store::Error> + Send + 'static,
    ) -> Result<T, Error> {
        let store = store.clone();
        Ok(self.on_thread(move || read(store.view())).await??)
    }

    /// Runs `read` on a blocking thread, with a permit that goes with it.
    pub(in crate::log) async fn on_thread<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| Error::Closed)?;
        let reading = unblock(move || {
            let _permit = permit;
            read()
        });
        Ok(reading.await.map_err(|error| store::Error::Io(std::io::Error::other(error)))?)
    }

    /// Takes all permits, so that no read begins while the result lives.
    #[cfg(test)]
    pub(in crate::log) fn take_permits(&self) -> tokio::sync::OwnedSemaphorePermit {
        let all = self.permits.available_permits() as u32;
        self.permits.clone().try_acquire_many_owned(all).expect("nobody else reads")
    }
}
