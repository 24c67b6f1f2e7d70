//! A server stream of a node, with a timeout for each message.

use std::time::Duration;

use bytes::Bytes;
use tonic::{Code, Status, Streaming};

use crate::case_error::{CaseError, Checked, code_name, ensure, status_text};
use crate::wire::{Framed, List};

/// Status of a subscription by topics: it has started.
pub const STARTED: u32 = 1;
/// Status of a subscription by topics: history has been sent.
pub const CAUGHT_UP: u32 = 2;
/// Status of a subscription by topics: a keepalive of an idle stream.
pub const WAITING: u32 = 3;

/// The maximum number of envelopes of one stream that a case keeps. A guess: several times what any case expects.
const HELD_MAX: usize = 20_000;
/// The maximum number of bytes of these envelopes. A guess likewise.
const HELD_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Adds envelopes to those that a case keeps of a stream.
///
/// # Errors
/// Returns an error if the stream has brought more than 20,000 envelopes or 64 MiB: a hostile node must not fill the
/// memory of the suite.
pub fn hold(held: &mut Vec<Bytes>, more: Vec<Bytes>) -> Checked {
    held.extend(more);
    let bytes: usize = held.iter().map(Bytes::len).sum();
    ensure(held.len() <= HELD_MAX && bytes <= HELD_BYTES_MAX, "what was asked for", || {
        format!("{} envelopes of {bytes} bytes, without an end", held.len())
    })
}

/// A stream of answers.
#[derive(Debug)]
pub struct Listener<A> {
    stream: Streaming<A>,
    answer_timeout: Duration,
}

/// One message of a subscription: envelopes, a status, or neither.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Received {
    /// Signed envelopes in the order in which they came.
    pub envelopes: Vec<Bytes>,
    /// Status, on subscriptions by topics.
    pub status: Option<u32>,
}

impl From<List> for Received {
    fn from(list: List) -> Self {
        Self { envelopes: list.items, status: None }
    }
}

impl From<Framed> for Received {
    fn from(frame: Framed) -> Self {
        let status = frame.status.map(|status| status.value);
        Self { envelopes: frame.envelopes.unwrap_or_default().items, status }
    }
}

impl<A> Listener<A> {
    /// Wraps a stream. The wait for each message ends after `answer_timeout`.
    #[must_use]
    pub fn new(stream: Streaming<A>, answer_timeout: Duration) -> Self {
        Self { stream, answer_timeout }
    }

    /// Replaces the timeout of each later message, for messages that come after an interval of silence.
    pub fn set_answer_timeout(&mut self, answer_timeout: Duration) {
        self.answer_timeout = answer_timeout;
    }

    /// Returns the next message, `None` at an end with OK, or the status of another end.
    ///
    /// # Errors
    /// Returns an error if no message comes within the timeout.
    pub async fn next_or_end(&mut self) -> Checked<Result<Option<A>, Status>> {
        tokio::time::timeout(self.answer_timeout, self.stream.message()).await.map_err(|_| {
            CaseError::new(
                "a message of the stream",
                format_args!("silence for {} ms", self.answer_timeout.as_millis()),
            )
        })
    }

    /// Returns the next message.
    ///
    /// # Errors
    /// Returns an error if no message comes within the timeout, or the stream ends.
    pub async fn next(&mut self) -> Checked<A> {
        match self.next_or_end().await? {
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(CaseError::new("a message of the stream", "its end with OK")),
            Err(status) => Err(CaseError::new("a message of the stream", status_text(&status))),
        }
    }

    /// Reads until the stream ends and checks its status.
    ///
    /// # Errors
    /// Returns an error if the stream falls silent without an end, or ends with another status.
    pub async fn ends_with(&mut self, code: Code, text: &str) -> Checked {
        let expected = || format!("the stream's end with {} {text:?}", code_name(code));
        loop {
            match self
                .next_or_end()
                .await
                .map_err(|failure| CaseError::new(expected(), failure.got))?
            {
                Ok(Some(_)) => {}
                Ok(None) if code == Code::Ok => return Ok(()),
                Ok(None) => return Err(CaseError::new(expected(), "its end with OK")),
                Err(status) if status.code() == code && status.message().contains(text) => {
                    return Ok(());
                }
                Err(status) => return Err(CaseError::new(expected(), status_text(&status))),
            }
        }
    }
}

impl<A> Listener<A>
where
    Received: From<A>,
{
    /// Returns the next message of a subscription.
    ///
    /// # Errors
    /// The errors of [`next`](Self::next).
    pub async fn receive(&mut self) -> Checked<Received> {
        Ok(self.next().await?.into())
    }

    /// Checks that the next message has neither envelopes nor a status.
    ///
    /// # Errors
    /// Returns an error if the message has envelopes or a status, or does not come within the timeout.
    pub async fn expect_empty_first(&mut self) -> Checked {
        let first = self.receive().await?;
        if first == Received::default() {
            return Ok(());
        }
        Err(CaseError::new(
            "an empty first message",
            format!("{} envelopes, status {:?}", first.envelopes.len(), first.status),
        ))
    }

    /// Returns the next `count` envelopes from as many messages as they need, and skips keepalives.
    ///
    /// # Errors
    /// Returns an error if fewer envelopes come before the timeout, or more in the same message.
    pub async fn receive_envelopes(&mut self, count: usize) -> Checked<Vec<Bytes>> {
        let mut envelopes = Vec::new();
        while envelopes.len() < count {
            let received = self.receive().await.map_err(|failure| {
                failure.at(format_args!("{count} envelopes, {} came", envelopes.len()))
            })?;
            hold(&mut envelopes, received.envelopes)?;
        }
        if envelopes.len() > count {
            return Err(CaseError::new(format_args!("{count} envelopes"), envelopes.len()));
        }
        Ok(envelopes)
    }

    /// Returns the envelopes that come before `status`.
    ///
    /// # Errors
    /// Returns an error if the status does not come: a message is late or the stream ends.
    pub async fn receive_until(&mut self, status: u32) -> Checked<Vec<Bytes>> {
        let mut envelopes = Vec::new();
        loop {
            let received = self
                .receive()
                .await
                .map_err(|failure| failure.at(format_args!("status {status}")))?;
            hold(&mut envelopes, received.envelopes)?;
            if received.status == Some(status) {
                return Ok(envelopes);
            }
        }
    }
}
