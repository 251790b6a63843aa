//! The owner of every task and thread that lives as long as the gateway.
//!
//! A supervised task never returns. If a task returns or panics, its function stops
//! for ever, although connections, heartbeats and `/livez` continue. The
//! [`Supervisor`] logs and counts the failure, and resolves [`Failures::first`]. The
//! process then drains and exits, and a service manager restarts the process.

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
    /// The task that pushes committed events to the subscribers of one shard.
    FanOut,
    /// The task that checks the heartbeats, the timeouts and the drain of the
    /// connections of one shard.
    Tick,
    /// The task that accepts connections from clients.
    AcceptClients,
    /// The task that accepts connections to the admin listener.
    AcceptAdmin,
    /// The task that moves samples of metrics to the Prometheus exporter.
    Upkeep,
    /// The task that compares the memory of the process with `limits.memory`.
    MemoryWatch,
    /// The thread that commits the writes to the logs.
    Committer,
}

impl Task {
    /// All tasks, in the order of their discriminants.
    pub const ALL: [Task; 7] = [
        Task::FanOut,
        Task::Tick,
        Task::AcceptClients,
        Task::AcceptAdmin,
        Task::Upkeep,
        Task::MemoryWatch,
        Task::Committer,
    ];

    /// Returns the name of the task for the label `task` of metrics.
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

/// The reason why a supervised task or thread ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The task returned.
    Returned,
    /// The task panicked with this panic message.
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

/// The failure of a supervised task: it returned or panicked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The task that failed.
    pub task: Task,
    /// The reason why the task ended.
    pub cause: Cause,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the task {} has failed: {}", self.task.label(), self.cause)
    }
}

impl std::error::Error for Failure {}

/// The owner of the supervised tasks. If the supervisor is dropped, it aborts the
/// tasks.
pub struct Supervisor {
    tasks: Mutex<JoinSet<()>>,
    failures: Arc<Failures>,
}

/// The record of the supervised tasks that have failed. A supervised task can own a
/// reference to this record. A reference to the [`Supervisor`] would be a reference
/// cycle, because the supervisor owns the tasks.
pub struct Failures {
    first: watch::Sender<Option<Failure>>,
    failed: [AtomicBool; Task::ALL.len()],
    metrics: Arc<Metrics>,
}

impl Supervisor {
    /// Returns a supervisor without tasks. It counts failures in `metrics`.
    pub fn new(metrics: Arc<Metrics>) -> Supervisor {
        for task in Task::ALL {
            metrics.tasks_failed(task.label(), 0);
        }
        let failures =
            Failures { first: watch::Sender::new(None), failed: Default::default(), metrics };
        Supervisor { tasks: Mutex::default(), failures: Arc::new(failures) }
    }

    /// Spawns `future` on the current tokio runtime. The future must never return: a
    /// return is a failure, like a panic.
    pub fn spawn(&self, task: Task, future: impl Future<Output = ()> + Send + 'static) {
        self.watch(task, async move {
            let mut future = Box::pin(future);
            std::future::poll_fn(|cx| {
                let polled = catch_unwind(AssertUnwindSafe(|| {
                    fault_point(task);
                    future.as_mut().poll(cx)
                }));
                match polled {
                    Ok(polled) => polled.map(|()| Cause::Returned),
                    Err(payload) => Poll::Ready(Cause::of_panic(&*payload)),
                }
            })
            .await
        });
    }

    /// Spawns a task that waits for `end` and then records the failure of `task`.
    /// For a thread, `end` is [`Thread::ended`].
    pub fn watch(&self, task: Task, end: impl Future<Output = Cause> + Send + 'static) {
        let failures = self.failures.clone();
        self.tasks.lock().spawn(async move {
            let cause = end.await;
            failures.report(Failure { task, cause });
        });
    }

    /// Returns the record of the supervised tasks that have failed.
    pub fn failures(&self) -> &Arc<Failures> {
        &self.failures
    }

    /// Aborts the supervised tasks and waits until they have ended. The abort does
    /// not count as a failure.
    ///
    /// # Cancel safety
    /// Safe: the tasks are aborted even if this future is dropped.
    pub async fn stop(&self) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        tasks.shutdown().await;
    }
}

impl Failures {
    /// Waits for the first failure of a supervised task and returns it. If a task
    /// has failed already, returns the first failure at once.
    ///
    /// # Panics
    /// Never: the sender lives as long as `self`.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn first(&self) -> Failure {
        let mut first = self.first.subscribe();
        let failure = first.wait_for(Option::is_some).await.expect("the sender is not dropped");
        failure.clone().expect("waited for")
    }

    /// Returns the first failure of a supervised task, or `None` if there was none
    /// yet.
    pub fn any(&self) -> Option<Failure> {
        self.first.borrow().clone()
    }

    /// Returns whether `task` has failed. A task that runs once for each shard
    /// counts as failed if it failed on at least one shard.
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

/// An operating system thread. [`Thread::ended`] waits for its end asynchronously.
pub struct Thread {
    handle: Mutex<Option<JoinHandle<()>>>,
    end: watch::Receiver<Option<Cause>>,
}

impl Thread {
    /// Starts a thread named `name` that runs `main`.
    ///
    /// # Errors
    /// If the operating system cannot create another thread.
    pub fn spawn(name: &str, main: impl FnOnce() + Send + 'static) -> io::Result<Thread> {
        let (sender, end) = watch::channel(None);
        let handle = Builder::new().name(name.to_owned()).spawn(move || {
            let cause = match catch_unwind(AssertUnwindSafe(main)) {
                Ok(()) => Cause::Returned,
                Err(payload) => Cause::of_panic(&*payload),
            };
            sender.send_replace(Some(cause));
        })?;
        Ok(Thread { handle: Mutex::new(Some(handle)), end })
    }

    /// Returns a future that resolves when the thread has ended. The output of the
    /// future is the reason for the end.
    ///
    /// # Panics
    /// Never: the thread sends the reason before it ends.
    pub fn ended(&self) -> impl Future<Output = Cause> + Send + use<> {
        let mut end = self.end.clone();
        async move {
            let cause = end.wait_for(Option::is_some).await.expect("the thread sends its cause");
            cause.clone().expect("waited for")
        }
    }

    /// Returns whether the thread has ended.
    pub fn has_ended(&self) -> bool {
        self.end.borrow().is_some()
    }

    /// Blocks until the thread has ended.
    pub fn join(&self) {
        if let Some(handle) = self.handle.lock().take() {
            // Ignore the error of `join`. The error reports a panic, and the thread
            // has already caught the panic and sent it as the cause.
            let _ = handle.join();
        }
    }
}

/// Panics if a test has requested a panic of `task`. In builds without debug
/// assertions, does nothing.
///
/// # Panics
/// If the folder in the environment variable `STREAMGATE_FAULT_FOLDER` contains a
/// file whose name is the label of the task.
pub fn fault_point(task: Task) {
    #[cfg(debug_assertions)]
    {
        use std::path::PathBuf;
        use std::sync::LazyLock;

        static FOLDER: LazyLock<Option<PathBuf>> =
            LazyLock::new(|| std::env::var_os("STREAMGATE_FAULT_FOLDER").map(PathBuf::from));
        if let Some(folder) = &*FOLDER {
            assert!(!folder.join(task.label()).exists(), "a test requested this panic");
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
    async fn a_panic_is_counted_and_reported_with_the_task_and_the_message() {
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
    async fn the_return_of_a_task_is_a_failure() {
        let (_, supervisor) = supervisor();
        supervisor.spawn(Task::Upkeep, async {});
        let failure = supervisor.failures().first().await;
        assert_eq!(failure, Failure { task: Task::Upkeep, cause: Cause::Returned });
    }

    #[tokio::test]
    async fn a_later_failure_does_not_replace_the_first() {
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
    async fn the_panic_of_a_thread_is_a_failure() {
        let (_, supervisor) = supervisor();
        let thread = Thread::spawn("committer", || panic!("no disk")).unwrap();
        supervisor.watch(Task::Committer, thread.ended());
        let failure = supervisor.failures().first().await;
        assert_eq!(failure.cause, Cause::Panicked("no disk".to_owned()));
        assert!(thread.has_ended());
        thread.join();
    }

    #[tokio::test]
    async fn a_stop_of_the_tasks_is_not_a_failure() {
        let (_, supervisor) = supervisor();
        let outer = Arc::new(());
        let inner = outer.clone();
        supervisor.spawn(Task::Tick, async move {
            pending::<()>().await;
            drop(inner);
        });
        tokio::task::yield_now().await;
        supervisor.stop().await;
        assert_eq!(Arc::strong_count(&outer), 1, "the task is dropped");
        assert_eq!(supervisor.failures().any(), None);
    }
}
