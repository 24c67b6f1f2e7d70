//! The task of a call on a proxy's connection, which ends when the call has to.

use std::cell::Cell;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use tokio::time::sleep;

use crate::budget::ConnectionShare;
use crate::close_signal::CLOSED_GRACE;

tokio::task_local! {
    /// The share of the call that the task of a proxy's connection has answered, until [`until_closed`] has it.
    static ANSWERED: Cell<Option<Arc<ConnectionShare>>>;
}

/// Runs the task of a call on a proxy's connection until it ends. Once the call is answered and has to end, the task
/// has a little time for that, and is then dropped.
pub(crate) fn until_closed<F>(task: F) -> impl Future<Output = ()> + Send + 'static
where
    F: Future + Send + 'static,
{
    let mut task = Box::pin(task);
    let mut closed: Option<Pin<Box<dyn Future<Output = ()> + Send>>> = None;
    let run = std::future::poll_fn(move |cx| {
        if task.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if let Some(share) = ANSWERED.with(Cell::take) {
            closed = Some(Box::pin(async move {
                share.closed().await;
                sleep(CLOSED_GRACE).await;
            }));
        }
        closed.as_mut().map_or(Poll::Pending, |closed| closed.as_mut().poll(cx))
    });
    ANSWERED.scope(Cell::new(None), run)
}

/// Notes the share of the call that this task has answered. Does nothing in any other task: the body of an answer alone
/// ends a call there.
pub(crate) fn note_answered(share: &Arc<ConnectionShare>) {
    let _ = ANSWERED.try_with(|answered| answered.set(Some(share.clone())));
}
