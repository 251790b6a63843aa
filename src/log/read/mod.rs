//! Reads of a log: from its tail (the newest batches, in memory), and from pages of
//! older events.

mod page;
mod page_cache;
mod pages;
mod tail;
mod tail_reads;

pub use page::Page;
pub(super) use page_cache::PageCache;
pub use tail::Log;
