//! Authorization: decides whether a caller may do an action.
//!
//! Every handler, every command of a WebSocket session and every line of a batch
//! needs a [`Permit`], and only [`authorize`] returns a permit. A handler that does
//! not call [`authorize`] does not compile.

use crate::api::context::Caller;
use crate::event::ResourceId;
use crate::log::Log;
use crate::wire::problem::Problem;

/// An action that a caller requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Read a resource, a page, a snapshot or events, or subscribe to events.
    Read,
    /// Create a resource.
    Create,
    /// Create or replace a resource.
    Replace,
    /// Change some members of a resource.
    Patch,
    /// Delete a resource.
    Delete,
    /// Publish an event.
    Publish,
    /// Open a WebSocket, or control one's own WebSocket session.
    Session,
    /// Read the metrics or the health of the gateway.
    Operate,
}

/// The target of an action.
#[derive(Clone, Copy)]
pub enum Target<'a> {
    /// The gateway as a whole.
    Gateway,
    /// A log, or one resource of the log.
    Log {
        /// The log that the action reads or writes.
        log: &'a Log,
        /// The name of the topic or view. `None` if the caller named a collection.
        topic: Option<&'a str>,
        /// The resource. `None` if the target is the whole log.
        resource: Option<&'a ResourceId>,
    },
}

impl Target<'_> {
    /// Returns the target as text, for tests.
    #[cfg(test)]
    fn describe(self) -> String {
        match self {
            Target::Gateway => "gateway".to_owned(),
            Target::Log { log, topic, resource } => {
                let name = topic.unwrap_or(&log.identity().name);
                resource.map_or(name.to_owned(), |id| format!("{name}/{id}"))
            }
        }
    }
}

/// The proof that [`authorize`] allowed one action. A permit cannot be copied.
#[must_use = "the permit belongs to the action"]
pub struct Permit(());

#[cfg(test)]
thread_local! {
    /// The calls of [`authorize`] on this thread. The gateway of a test runs on the
    /// thread of the test.
    pub static CALLS: std::cell::RefCell<Vec<(Action, String)>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Returns the permit for `action` on `target`. The gateway has no authentication
/// yet: all callers are anonymous, and an anonymous caller may do everything.
///
/// # Errors
/// Returns no error yet. When the gateway has authentication: 403 for an action that
/// is not allowed.
#[expect(clippy::unnecessary_wraps, reason = "with authentication, an action can be refused")]
pub fn authorize(caller: &Caller, action: Action, target: Target<'_>) -> Result<Permit, Problem> {
    #[cfg(test)]
    CALLS.with_borrow_mut(|calls| calls.push((action, target.describe())));
    let _ = (caller, action, target);
    Ok(Permit(()))
}
