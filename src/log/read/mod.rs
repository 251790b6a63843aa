//! The reads of a log: its tail in memory, and pages of older events.

mod page;
mod page_cache;
mod pages;
mod tail;
mod tail_reads;

pub use page::Page;
pub(super) use page_cache::PageCache;
pub use tail::Log;
