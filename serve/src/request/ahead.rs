//! Reading on while earlier messages of a request wait, for memory, a thread or their handler. The bytes that the peer
//! sends meanwhile are charged. They would otherwise fill the window of the call, for which nothing is charged.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use tonic::Status;

use super::{MORE_THAN_ONE, RequestBody};
use crate::overloaded::OverloadedError;

impl RequestBody {
    /// Reads on while earlier messages wait, until about `most_bytes` are held. Completes then.
    ///
    /// # Errors
    /// [`OverloadedError`]: the request must be refused.
    pub(crate) async fn read_ahead(&mut self, most_bytes: usize) -> Result<(), OverloadedError> {
        poll_fn(|cx| match self.poll_ahead(most_bytes, cx) {
            Poll::Ready(overloaded) => Poll::Ready(Err(overloaded)),
            Poll::Pending if self.ahead_bytes() >= most_bytes => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// Returns the memory of what was read while earlier messages wait.
    pub(crate) fn ahead_bytes(&self) -> usize {
        self.ahead.held_bytes()
    }

    /// Reads on while messages wait, until about `most_bytes` are held. Completes if the peer must have no more.
    pub(super) fn poll_ahead(
        &mut self,
        most_bytes: usize,
        cx: &mut Context<'_>,
    ) -> Poll<OverloadedError> {
        while self.ahead_end.is_none() && self.ahead_bytes() < most_bytes {
            match ready!(self.poll_new(cx)) {
                Some(Ok(frame)) => {
                    let Ok(piece) = frame.into_data() else { continue };
                    let growth_bytes = self.ahead.growth_bytes(piece.len());
                    if let Err(overloaded) = self.charge.take_for_request(growth_bytes) {
                        return Poll::Ready(overloaded);
                    }
                    self.ahead.push(piece);
                }
                Some(Err(status)) => self.ahead_end = Some(Err(status)),
                None => self.ahead_end = Some(Ok(())),
            }
        }
        Poll::Pending
    }

    /// Reads on while a message waits to be decompressed. Completes with the status that refuses the request: something
    /// comes behind its only message, or the peer must have no more.
    pub(super) fn poll_behind(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        let takes_one = self.takes_one_message();
        let overloaded = self.poll_ahead(if takes_one { 1 } else { usize::MAX }, cx);
        if takes_one && self.ahead_bytes() > 0 {
            return Poll::Ready(Status::invalid_argument(MORE_THAN_ONE));
        }
        overloaded.map(Status::from)
    }
}
