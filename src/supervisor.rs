//! The owner of every task and thread that lives as long as the gateway.
//!
//! Such a task never returns. If one returns or panics, its work stops for
//! ever, while connections, heartbeats and `/livez` go on. The [`Supervisor`]
//! logs the failure, counts it, and resolves [`Failures::first`], so that the
//! process drains and ends; a service manager then starts it again.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::thread::{Builder, JoinHandle};

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::metrics::Metrics;

/// A task or thread that lives as long as the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Pushes committed events to the subscribers of one shard.
    FanOut,
    /// Serves heartbeats, deadlines and the drain of one shard.
    Tick,
    /// Accepts clients.
    AcceptClients,
    /// Accepts scrapes and probes.
    AcceptAdmin,
    /// Folds metrics into the exporter.
    Upkeep,
    /// Compares the process's memory with its bound.
    MemoryWatch,
    /// Commits writes; a thread.
    Committer,
}

impl Task {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Task; 7] = [
        Task::FanOut,
        Task::Tick,
        Task::AcceptClients,
        Task::AcceptAdmin,
        Task::Upkeep,
        Task::MemoryWatch,
        Task::Committer,
    ];

    /// The value of the label `task` in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Task::FanOut => "fan-out",
            Task::Tick => "tick",
            Task::AcceptClients => "accept-clients",
            Task::AcceptAdmin => "accept-admin",
            Task::Upkeep => "upkeep",
            Task::MemoryWatch => "memory-watch",
            Task::Committer => "committer",
        }
    }
}

/// How a task or thread came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It returned.
    Returned,
    /// It panicked, with this message.
    Panicked(String),
}

impl Cause {
    fn of_panic(payload: &(dyn Any + Send)) -> Cause {
        let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
        Cause::Panicked(text.unwrap_or_else(|| "the panic has no message".to_owned()))
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Returned => write!(f, "it returned"),
            Cause::Panicked(message) => write!(f, "it panicked: {message}"),
        }
    }
}

/// A supervised task that has ended, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The task.
    pub task: Task,
    /// Why it ended.
    pub cause: Cause,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the task {} has failed: {}", self.task.label(), self.cause)
    }
}

impl std::error::Error for Failure {}

/// Owns the tasks; dropping it aborts them.
pub struct Supervisor {
    tasks: Mutex<JoinSet<()>>,
    failures: Arc<Failures>,
}

/// Which supervised tasks have failed. The tasks may hold it, unlike the
/// [`Supervisor`], which holds the tasks.
pub struct Failures {
    first: watch::Sender<Option<Failure>>,
    failed: [AtomicBool; Task::ALL.len()],
    metrics: Arc<Metrics>,
}

impl Supervisor {
    /// Returns a supervisor without tasks, which counts failures in `metrics`.
    pub fn new(metrics: Arc<Metrics>) -> Supervisor {
        for task in Task::ALL {
            metrics.tasks_failed(task.label(), 0);
        }
        let failures =
            Failures { first: watch::Sender::new(None), failed: Default::default(), metrics };
        Supervisor { tasks: Mutex::default(), failures: Arc::new(failures) }
    }

    /// Spawns `work` on the current tokio runtime. `work` must not return: its
    /// return is a failure, as a panic is.
    pub fn spawn(&self, task: Task, work: impl Future<Output = ()> + Send + 'static) {
        self.watch(task, async move {
            let mut work = Box::pin(work);
            std::future::poll_fn(|cx| {
                let polled = catch_unwind(AssertUnwindSafe(|| {
                    fault_point(task);
                    work.as_mut().poll(cx)
                }));
                match polled {
                    Ok(polled) => polled.map(|()| Cause::Returned),
                    Err(payload) => Poll::Ready(Cause::of_panic(&*payload)),
                }
            })
            .await
        });
    }

    /// Reports the failure of `task` when `end` resolves: for a thread, whose
    /// end is [`Thread::ended`].
    pub fn watch(&self, task: Task, end: impl Future<Output = Cause> + Send + 'static) {
        let failures = self.failures.clone();
        self.tasks.lock().spawn(async move {
            let cause = end.await;
            failures.report(Failure { task, cause });
        });
    }

    /// Which tasks have failed.
    pub fn failures(&self) -> &Arc<Failures> {
        &self.failures
    }

    /// Aborts the tasks and waits until they are gone. This is no failure.
    ///
    /// # Cancel safety
    /// Safe: the tasks are aborted all the same.
    pub async fn stop(&self) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        tasks.shutdown().await;
    }
}

impl Failures {
    /// Resolves with the first failure.
    ///
    /// # Panics
    /// Never: the sender lives as long as `self`.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn first(&self) -> Failure {
        let mut first = self.first.subscribe();
        let found = first.wait_for(Option::is_some).await.expect("the sender is not dropped");
        found.clone().expect("waited for")
    }

    /// The first failure, if there was one.
    pub fn any(&self) -> Option<Failure> {
        self.first.borrow().clone()
    }

    /// Whether `task` has failed; of tasks that run once a shard, whether one
    /// of them has.
    pub fn has(&self, task: Task) -> bool {
        self.failed[task as usize].load(Ordering::Acquire)
    }

    fn report(&self, failure: Failure) {
        let Failure { task, cause } = &failure;
        tracing::error!(task = task.label(), %cause, "a supervised task has failed");
        self.metrics.tasks_failed(task.label(), 1);
        self.failed[*task as usize].store(true, Ordering::Release);
        self.first.send_if_modified(|first| {
            let is_first = first.is_none();
            first.get_or_insert(failure);
            is_first
        });
    }
}

/// A thread whose end can be awaited.
pub struct Thread {
    handle: Mutex<Option<JoinHandle<()>>>,
    end: watch::Receiver<Option<Cause>>,
}

impl Thread {
    /// Starts a thread called `name`.
    ///
    /// # Errors
    /// If the system has no thread left.
    pub fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<Thread> {
        let (ending, end) = watch::channel(None);
        let handle = Builder::new().name(name.to_owned()).spawn(move || {
            let cause = match catch_unwind(AssertUnwindSafe(work)) {
                Ok(()) => Cause::Returned,
                Err(payload) => Cause::of_panic(&*payload),
            };
            ending.send_replace(Some(cause));
        })?;
        Ok(Thread { handle: Mutex::new(Some(handle)), end })
    }

    /// Resolves when the thread has ended.
    ///
    /// # Panics
    /// Never: the thread sends its cause before it ends.
    pub fn ended(&self) -> impl Future<Output = Cause> + Send + use<> {
        let mut end = self.end.clone();
        async move {
            let cause = end.wait_for(Option::is_some).await.expect("the thread sends its cause");
            cause.clone().expect("waited for")
        }
    }

    /// Whether the thread has ended.
    pub fn has_ended(&self) -> bool {
        self.end.borrow().is_some()
    }

    /// Blocks until the thread has ended.
    pub fn join(&self) {
        if let Some(handle) = self.handle.lock().take() {
            // A panic was caught in the thread.
            let _ = handle.join();
        }
    }
}

/// A place in the work of `task` where a test can have it panic. In builds
/// without debug assertions this does nothing.
///
/// # Panics
/// If the folder that `STREAMGATE_FAULT_FOLDER` names has a file called like
/// the task's label.
pub fn fault_point(task: Task) {
    #[cfg(debug_assertions)]
    {
        use std::path::PathBuf;
        use std::sync::LazyLock;

        static FOLDER: LazyLock<Option<PathBuf>> =
            LazyLock::new(|| std::env::var_os("STREAMGATE_FAULT_FOLDER").map(PathBuf::from));
        if let Some(folder) = &*FOLDER {
            assert!(!folder.join(task.label()).exists(), "a test asked for this panic");
        }
    }
    #[cfg(not(debug_assertions))]
    let _ = task;
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    fn supervisor() -> (Arc<Metrics>, Supervisor) {
        let metrics = Arc::new(Metrics::new());
        (metrics.clone(), Supervisor::new(metrics))
    }

    #[tokio::test]
    async fn a_task_that_panics_is_named_with_the_panics_message_and_counted() {
        let (metrics, supervisor) = supervisor();
        let failures = supervisor.failures();
        supervisor.spawn(Task::Tick, pending());
        supervisor.spawn(Task::FanOut, async {
            tokio::task::yield_now().await;
            let shard = 7;
            panic!("shard {shard} is gone");
        });
        let failure = failures.first().await;
        assert_eq!(failure.task, Task::FanOut);
        assert_eq!(failure.cause, Cause::Panicked("shard 7 is gone".to_owned()));
        assert!(failures.has(Task::FanOut) && !failures.has(Task::Tick));
        let text = metrics.render(&[]);
        assert!(text.contains("streamgate_tasks_failed_total{task=\"fan-out\"} 1\n"), "{text}");
        assert!(text.contains("streamgate_tasks_failed_total{task=\"tick\"} 0\n"), "{text}");
    }

    #[tokio::test]
    async fn a_task_that_returns_has_failed() {
        let (_, supervisor) = supervisor();
        supervisor.spawn(Task::Upkeep, async {});
        let failure = supervisor.failures().first().await;
        assert_eq!(failure, Failure { task: Task::Upkeep, cause: Cause::Returned });
    }

    #[tokio::test]
    async fn the_first_failure_stays_the_first() {
        let (metrics, supervisor) = supervisor();
        supervisor.spawn(Task::Upkeep, async {});
        supervisor.failures().first().await;
        supervisor.spawn(Task::Tick, async { panic!("later") });
        while !supervisor.failures().has(Task::Tick) {
            tokio::task::yield_now().await;
        }
        assert_eq!(supervisor.failures().any().unwrap().task, Task::Upkeep);
        assert_eq!(supervisor.failures().first().await.task, Task::Upkeep);
        assert!(metrics.render(&[]).contains("streamgate_tasks_failed_total{task=\"tick\"} 1\n"));
    }

    #[tokio::test]
    async fn a_thread_that_panics_has_failed() {
        let (_, supervisor) = supervisor();
        let thread = Thread::spawn("committer", || panic!("no disk")).unwrap();
        supervisor.watch(Task::Committer, thread.ended());
        let failure = supervisor.failures().first().await;
        assert_eq!(failure.cause, Cause::Panicked("no disk".to_owned()));
        assert!(thread.has_ended());
        thread.join();
    }

    #[tokio::test]
    async fn tasks_that_are_stopped_have_not_failed() {
        let (_, supervisor) = supervisor();
        let held = Arc::new(());
        let inner = held.clone();
        supervisor.spawn(Task::Tick, async move {
            pending::<()>().await;
            drop(inner);
        });
        tokio::task::yield_now().await;
        supervisor.stop().await;
        assert_eq!(Arc::strong_count(&held), 1, "the task is gone");
        assert_eq!(supervisor.failures().any(), None);
    }
}
