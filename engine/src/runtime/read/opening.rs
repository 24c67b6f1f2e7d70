//! The first turn of a stream of topics. Before it the stream holds little memory, and the hub does not know it.

use std::sync::Arc;

use super::access::LogAccess;
use super::page_threads::JobSize;
use super::pages::{MemoryWait, in_turn};
use super::subscription::Subscription;
use crate::read::PackedTopics;
use crate::read::error::QueryError;
use crate::read::feed::{Feed, TopicFeed};
use crate::read::memory::HeldMemory;
use crate::read::plan::Cursors;

/// Memory of a stream that waits, besides its topics. A guess from the types: its place in the queue, and this task.
const WAITING_BYTES: usize = 1024;

/// The topics of a stream that waits, with the charge for them.
struct WaitingTopics {
    cursors: Cursors,
    topics: PackedTopics,
    held: HeldMemory,
}

/// The outcome of a first turn.
enum FirstTurn {
    Begun(Box<Subscription>),
    /// The stream needs this number of bytes, more than its caller may have now.
    NoMemory(WaitingTopics, usize),
}

/// Charges the topics, and creates a stream that waits for its first turn on disk, with little memory until then. The
/// wait begins with the first poll.
///
/// # Errors
/// [`QueryError::NoMemory`].
pub(super) fn open(
    log: LogAccess,
    cursors: Cursors,
    topics: PackedTopics,
) -> Result<Subscription, QueryError> {
    let mut held = HeldMemory::lasting(Arc::clone(&log.memory));
    held.hold(WAITING_BYTES + topics.held_bytes())?;
    let waiting = WaitingTopics { cursors, topics, held };
    Ok(Subscription::waiting(log.clone(), Box::pin(begun(log, waiting))))
}

/// Waits for a turn on disk and for memory. A stream that may not have its memory now lets the next one go first.
async fn begun(log: LogAccess, topics: WaitingTopics) -> Result<Box<Subscription>, QueryError> {
    let mut wait = MemoryWait::default();
    let mut waiting = topics;
    loop {
        let (of_turn, size) = (log.clone(), JobSize::of_topics(waiting.topics.len()));
        match in_turn(&log, size, move || waiting.turn(&of_turn)).await? {
            FirstTurn::Begun(stream) => return Ok(stream),
            FirstTurn::NoMemory(again, bytes) => {
                waiting = again;
                wait.pause(bytes).await?;
            }
        }
    }
}

impl WaitingTopics {
    /// Registers the topics and reads the first page. So most streams that come back have caught up after one turn, and
    /// few hold the memory of a catch-up at the same time. Blocks on the disk.
    fn turn(mut self, log: &LogAccess) -> Result<FirstTurn, QueryError> {
        let opened_bytes = self.topics.opened_bytes(&log.heads.get());
        let bytes = WAITING_BYTES + self.topics.held_bytes() + opened_bytes;
        if self.held.hold_spare(bytes).is_err() {
            return Ok(FirstTurn::NoMemory(self, bytes));
        }
        let feed = TopicFeed::new(self.cursors, self.topics.unpack());
        let mut stream = Subscription::listening(log.clone(), Feed::Topics(Box::new(feed)));
        stream.hold(self.held);
        stream.read_first()?;
        Ok(FirstTurn::Begun(Box::new(stream)))
    }
}
