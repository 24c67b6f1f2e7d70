//! A publish that goes on when its call ends before it.
//!
//! It runs in the task of the call, because a task of its own would cost each publish one more start, one more wake and
//! two more turns. Only a publish whose caller hangs up gets one.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::runtime::Handle;

use crate::turns::{PaidTime, ask_for_no_rest, publish_in_turn};

/// A publish in the task of its call. If this is dropped before the publish has ended, a task of its own finishes it.
struct CallPublish<F>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    /// `None` once the publish has ended, also by a panic.
    publish: Option<Pin<Box<F>>>,
    account: Arc<PaidTime>,
    runtime: Handle,
}

/// Runs a publish in the task of its call, and to its end, whether or not the call ends before. It may hold a part of
/// what all publishes share, so neither the turns of the call meanwhile nor those of the publish alone come after
/// rests.
pub(crate) fn finished<F>(account: Arc<PaidTime>, publish: F) -> impl Future<Output = F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    let publish = Some(Box::pin(publish));
    CallPublish { publish, account, runtime: Handle::current() }
}

impl<F> Future for CallPublish<F>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let mut publish = self.publish.take().expect("it is not polled after its end");
        let polled = publish.as_mut().poll(context);
        if polled.is_pending() {
            ask_for_no_rest();
            self.publish = Some(publish);
        }
        polled
    }
}

impl<F> Drop for CallPublish<F>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    fn drop(&mut self) {
        if let Some(publish) = self.publish.take() {
            self.runtime.spawn(publish_in_turn(self.account.clone(), publish));
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::sync::oneshot;

    use super::*;

    fn account() -> Arc<PaidTime> {
        Arc::new(PaidTime::new(Arc::default(), None))
    }

    #[tokio::test]
    async fn a_publish_runs_in_the_task_of_its_call() {
        let call = tokio::spawn(async {
            let publish = finished(account(), async {
                tokio::task::yield_now().await;
                tokio::task::id()
            });
            (tokio::task::id(), publish.await)
        });
        let (call, publish) = call.await.unwrap();
        assert_eq!(call, publish);
    }

    #[tokio::test]
    async fn a_publish_whose_caller_hangs_up_goes_on() {
        let (store, stored) = oneshot::channel::<()>();
        let (tell, told) = oneshot::channel();
        let mut call = Box::pin(finished(account(), async move {
            stored.await.unwrap();
            tell.send("stored").unwrap();
        }));
        assert!((&mut call).now_or_never().is_none(), "it waits");
        drop(call);
        store.send(()).unwrap();
        assert_eq!(told.await, Ok("stored"));
    }
}
