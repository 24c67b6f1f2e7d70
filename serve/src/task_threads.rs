//! The threads that run a connection's tasks: publishers have threads of their own.
//!
//! The order of turns (`turns`) does not suffice beside a flood. A publish that arrives, or whose commit has ended, is
//! noticed when a thread of the runtime has time for it, after several turns of other tasks. So the task of a
//! publisher's connection, and the tasks of the calls that begin while it is one, run on a second runtime. The threads
//! of that runtime ask the kernel for shorter turns on the cores (decision 50). On Linux since 6.12, one of them that
//! wakes takes a core at once from a thread of the first runtime, unless it has used more than its share. On other
//! systems both have the same turns.
//!
//! A connection begins on the runtime of all connections. Its task moves when the connection becomes a publisher's, and
//! moves back when the connection no longer is one. Its socket moves with it (`socket`), because each runtime waits for
//! its own sockets. A task of one call stays where it began, except that it leaves the publishers' threads when its
//! connection does.

use std::ops::Deref;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use futures_util::FutureExt as _;
use hyper::rt::Executor;
use tokio::task::JoinHandle;

use crate::answered_task::until_closed;
use crate::socket::CurrentRuntime;
use crate::turns::{PaidTime, call_in_turn, in_turn};

/// Starts the tasks of one connection.
#[derive(Clone)]
pub(crate) struct TurnExecutor {
    pub(crate) account: Arc<PaidTime>,
    /// True for a proxy's connection, whose calls end alone.
    pub(crate) of_proxy: bool,
}

impl<F> Executor<F> for TurnExecutor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        match self.of_proxy {
            true => spawn(&self.account, until_closed(task)),
            false => spawn(&self.account, task),
        }
    }
}

/// Starts a task of a call. It runs in its turns, and leaves the publishers' threads with its connection.
pub(crate) fn spawn<F>(account: &Arc<PaidTime>, task: F)
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let task = call_in_turn(account.clone(), task);
    let Some(runtimes) = account.runtimes() else {
        tokio::spawn(task);
        return;
    };
    if !account.is_publishers() {
        runtimes.all.spawn(task);
        return;
    }
    // An `async` block that awaits the task would reserve its memory twice.
    let task = Box::pin(task.map(drop));
    // The account has the runtimes. Clones of their handles would count on what all cores share.
    let account = account.clone();
    runtimes.publishers.spawn(async move {
        if let Some(task) = while_publishers(true, &*account, task).await
            && let Some(runtimes) = account.runtimes()
        {
            runtimes.all.spawn(task);
        }
    });
}

/// Runs the task of a connection until it ends, in turn on the runtime of all connections and on the publishers'
/// runtime. `runtime` tells the connection's socket which of the two it is.
pub(crate) fn run<F>(
    account: Arc<PaidTime>,
    runtime: CurrentRuntime,
    task: F,
) -> impl Future<Output = ()> + Send + 'static
where
    F: Future<Output = ()> + Send + 'static,
{
    // Boxed outside of the `async` block, which would reserve the memory of the task several times.
    let task = Box::pin(in_turn(account.clone(), Box::pin(task)));
    async move {
        let Some(publishers) = account.runtimes().map(|it| it.publishers.clone()) else {
            task.await;
            return;
        };
        let mut task = task;
        while let Some(leaving) = while_publishers(false, account.clone(), task).await {
            runtime.enter_publishers();
            let there = publishers.spawn(while_publishers(true, account.clone(), leaving));
            let mut there = AbortOnDrop(there);
            task = match (&mut there.0).await {
                Ok(Some(back)) => back,
                Ok(None) => return,
                // This task ends with the same panic, as it would have on its own threads.
                Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
                Err(_) => return, // the process stops
            };
            runtime.leave_publishers();
        }
    }
}

/// Polls a task while its connection is a publisher's or not, as `publishers` says. Returns the task when that has
/// changed, and `None` when the task has ended.
async fn while_publishers<F>(
    publishers: bool,
    account: impl Deref<Target = PaidTime>,
    task: Pin<Box<F>>,
) -> Option<Pin<Box<F>>>
where
    F: Future<Output = ()>,
{
    let mut task = Some(task);
    std::future::poll_fn(move |context| {
        if account.is_publishers() != publishers {
            return Poll::Ready(task.take());
        }
        let Some(running) = task.as_mut() else { return Poll::Ready(None) };
        running.as_mut().poll(context).map(|()| None)
    })
    .await
}

/// A task that ends with the one that waits for it.
struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use tokio::runtime::{Builder, Runtime};

    use super::*;
    use crate::turns::TaskRuntimes;

    fn runtime(name: &str) -> Runtime {
        Builder::new_multi_thread().worker_threads(1).thread_name(name).build().unwrap()
    }

    /// A caller stores one envelope, and opens streams that last.
    #[test]
    fn a_task_of_a_call_leaves_the_publishers_threads_after_turns_that_were_not_paid() {
        let (all, publishers) = (runtime("all"), runtime("publishers"));
        let handles =
            TaskRuntimes { all: all.handle().clone(), publishers: publishers.handle().clone() };
        let account = Arc::new(PaidTime::new(Arc::default(), Some(handles)));
        account.earn(1);
        account.spend(Duration::from_millis(20)); // more than was earned
        let (turn, turns) = mpsc::channel();
        spawn(&account, async move {
            for _ in 0..100 {
                turn.send(std::thread::current().name().map(str::to_owned)).unwrap();
                tokio::task::yield_now().await;
            }
        });
        let names: Vec<String> = turns.iter().flatten().collect();
        assert_eq!(names.len(), 100, "it is not lost");
        let there = names.iter().take_while(|name| name.as_str() == "publishers").count();
        assert!((1..100).contains(&there), "{names:?}");
        assert!(names[there..].iter().all(|name| name.as_str() == "all"), "{names:?}");
    }

    /// A caller holds thousands of connections, which are charged for a fixed number of bytes.
    #[test]
    fn the_memory_of_a_connections_task_is_reserved_once() {
        let state = [7_u8; 16 * 1024];
        let task = async move {
            std::future::pending::<()>().await;
            assert_eq!(state[0], 7);
        };
        assert!(size_of_val(&task) >= size_of_val(&state));
        let account = Arc::new(PaidTime::new(Arc::default(), None));
        let running = run(account, CurrentRuntime::default(), task);
        assert!(size_of_val(&running) < 1024, "{}", size_of_val(&running));
    }
}
