//! The read or the page that a catching-up subscription of a connection has
//! under way.

use std::future::Future;
use std::pin::Pin;

use crate::event::ResourceId;
use crate::hub::{ReadRequest, SubscriptionId};
use crate::log::{self, Page};
use crate::store::Resource;
use crate::wire::Selection;

pub(super) type Read<T> = Pin<Box<dyn Future<Output = Result<T, log::Error>> + Send>>;

/// What is being read for one parked subscription. One at a time a
/// connection: this is what bounds its memory while it catches up. Who the
/// subscription is, how far it has come, its form and its credit are the
/// hub's to say, each time. Boxed where it is large: most connections have
/// none of it, and all have the place for it.
pub(super) enum CatchUp {
    /// The log is being read; the place and the subscription as they were.
    Reading(Box<ReadRequest>, Read<Page>),
    /// A page that is being written.
    Page(Box<PageUnderWay>),
    /// The resources are being read.
    Resources(SubscriptionId, Read<Vec<(ResourceId, Resource)>>),
    /// Resources that are being written.
    Rows(Box<SnapshotChunk>),
}

pub(super) struct SnapshotChunk {
    pub(super) subscription: SubscriptionId,
    pub(super) resources: Vec<(ResourceId, Resource)>,
    /// How many of them are written.
    pub(super) next: usize,
    /// How many each slice holds that was handed out last.
    pub(super) handed: Vec<usize>,
}

impl CatchUp {
    /// Whether the disk is read for it still.
    pub(super) fn is_read(&self) -> bool {
        matches!(self, CatchUp::Reading(..) | CatchUp::Resources(..))
    }
}

pub(super) struct PageUnderWay {
    pub(super) subscription: SubscriptionId,
    pub(super) page: Page,
    pub(super) selection: Selection,
    /// How many of the selection are written.
    pub(super) next: u32,
}
