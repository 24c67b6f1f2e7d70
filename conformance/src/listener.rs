//! A stream of a node's answers, each waited for with a limit.

use std::time::Duration;

use bytes::Bytes;
use tonic::{Code, Status, Streaming};

use crate::failure::{Checked, Failure, code_name, ensure, told};
use crate::wire::{Framed, List};

/// Status of a subscription by topics: it has started.
pub const STARTED: u32 = 1;
/// Status of a subscription by topics: history has been sent.
pub const CAUGHT_UP: u32 = 2;
/// Status of a subscription by topics: a sign of life.
pub const WAITING: u32 = 3;

/// Most envelopes that a case holds of one stream. A guess: several times what any case expects.
const HELD_MAX: usize = 20_000;
/// Most bytes of them. A guess likewise.
const HELD_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Adds envelopes to those that a case holds.
///
/// # Errors
/// When a node sends so many that only its memory would end them.
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
pub struct Heard {
    /// Signed envelopes in the order in which they came.
    pub envelopes: Vec<Bytes>,
    /// Status, on subscriptions by topics.
    pub status: Option<u32>,
}

impl From<List> for Heard {
    fn from(list: List) -> Self {
        Self { envelopes: list.items, status: None }
    }
}

impl From<Framed> for Heard {
    fn from(frame: Framed) -> Self {
        let status = frame.status.map(|status| status.value);
        Self { envelopes: frame.envelopes.unwrap_or_default().items, status }
    }
}

impl<A> Listener<A> {
    /// Listens to a stream; no message is waited for longer than `answer_timeout`.
    #[must_use]
    pub fn new(stream: Streaming<A>, answer_timeout: Duration) -> Self {
        Self { stream, answer_timeout }
    }

    /// Waits longer, for messages that come after an interval of silence.
    pub fn set_answer_timeout(&mut self, answer_timeout: Duration) {
        self.answer_timeout = answer_timeout;
    }

    /// Returns the next message, `None` at an end with OK, or the status of another end.
    ///
    /// # Errors
    /// When nothing comes.
    pub async fn next_or_end(&mut self) -> Checked<Result<Option<A>, Status>> {
        tokio::time::timeout(self.answer_timeout, self.stream.message()).await.map_err(|_| {
            Failure::new(
                "a message of the stream",
                format_args!("silence for {} ms", self.answer_timeout.as_millis()),
            )
        })
    }

    /// Returns the next message.
    ///
    /// # Errors
    /// When nothing comes, or the stream ends.
    pub async fn next(&mut self) -> Checked<A> {
        match self.next_or_end().await? {
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(Failure::new("a message of the stream", "its end with OK")),
            Err(status) => Err(Failure::new("a message of the stream", told(&status))),
        }
    }

    /// Reads until the stream ends and checks its status.
    ///
    /// # Errors
    /// When it does not end, or ends otherwise.
    pub async fn ends_with(&mut self, code: Code, text: &str) -> Checked {
        let expected = || format!("the stream's end with {} {text:?}", code_name(code));
        loop {
            match self
                .next_or_end()
                .await
                .map_err(|failure| Failure::new(expected(), failure.got))?
            {
                Ok(Some(_)) => {}
                Ok(None) if code == Code::Ok => return Ok(()),
                Ok(None) => return Err(Failure::new(expected(), "its end with OK")),
                Err(status) if status.code() == code && status.message().contains(text) => {
                    return Ok(());
                }
                Err(status) => return Err(Failure::new(expected(), told(&status))),
            }
        }
    }
}

impl<A> Listener<A>
where
    Heard: From<A>,
{
    /// Returns the next message of a subscription.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub async fn hear(&mut self) -> Checked<Heard> {
        Ok(self.next().await?.into())
    }

    /// Checks that the next message has neither envelopes nor a status.
    ///
    /// # Errors
    /// When it has one, or does not come.
    pub async fn hears_nothing_first(&mut self) -> Checked {
        let first = self.hear().await?;
        if first == Heard::default() {
            return Ok(());
        }
        Err(Failure::new(
            "an empty first message",
            format!("{} envelopes, status {:?}", first.envelopes.len(), first.status),
        ))
    }

    /// Returns the next `count` envelopes, however they are spread over messages, and passes over signs of life.
    ///
    /// # Errors
    /// When fewer come, or more in the same message.
    pub async fn hears(&mut self, count: usize) -> Checked<Vec<Bytes>> {
        let mut envelopes = Vec::new();
        while envelopes.len() < count {
            let heard = self.hear().await.map_err(|failure| {
                failure.at(format_args!("{count} envelopes, {} came", envelopes.len()))
            })?;
            hold(&mut envelopes, heard.envelopes)?;
        }
        if envelopes.len() > count {
            return Err(Failure::new(format_args!("{count} envelopes"), envelopes.len()));
        }
        Ok(envelopes)
    }

    /// Returns the envelopes that come before `status`.
    ///
    /// # Errors
    /// When the status does not come.
    pub async fn hears_until(&mut self, status: u32) -> Checked<Vec<Bytes>> {
        let mut envelopes = Vec::new();
        loop {
            let heard =
                self.hear().await.map_err(|failure| failure.at(format_args!("status {status}")))?;
            hold(&mut envelopes, heard.envelopes)?;
            if heard.status == Some(status) {
                return Ok(envelopes);
            }
        }
    }
}
