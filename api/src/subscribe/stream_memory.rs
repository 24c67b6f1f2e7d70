//! The memory that a stream with requests holds and its call is charged for.

use std::collections::HashMap;
use std::sync::Arc;

use hawser_engine::runtime::Subscription;
use hawser_proto::pb::xmtp::xmtpv4::message_api::subscribe_request::v1::mutate::Subscription as Add;
use hawser_proto::{Cursor, Topic};
use hawser_serve::{CallCharge, ChangeUnderWay, OverloadedError, UnreadRequests};

/// Memory of the stream itself beside its call: its task, its channel, and its tables. Requests have no buffer between
/// two of them. Calculated from the types: about 3 KiB.
const STREAM_BYTES: usize = 3 * 1024;
/// Memory that is taken in one step, so that not every topic changes the charge. A guess: two dozen topics. With much
/// more, thousands of small streams would be charged for memory that they do not hold.
const STEP_BYTES: usize = 4 * 1024;

/// The share of a stream in its caller's memory. It is taken before anything is allocated.
#[derive(Debug)]
pub(super) struct HeldBytes {
    charge: CallCharge,
    taken: usize,
    used: usize,
    /// The waves in flight.
    waves: HashMap<u64, WaveInFlight>,
    /// The changes of waves that have ended since the charge was last adjusted.
    ended: Vec<Arc<ChangeUnderWay>>,
    /// Bytes of cursors ahead of this node. They may last as long as their topics, so their charge is returned when the
    /// stream has no topic.
    lasting: usize,
}

/// A wave that has not caught up.
#[derive(Debug, Default)]
struct WaveInFlight {
    /// Bytes of its cursors and of the copies of its long names, which are freed when it has caught up.
    read_bytes: usize,
    /// The change that began it, if other changes of the address may wait for its end.
    change: Option<Arc<ChangeUnderWay>>,
}

impl HeldBytes {
    /// Charges a stream without topics.
    ///
    /// # Errors
    /// [`OverloadedError`]: the stream must be refused.
    pub(super) fn new(charge: CallCharge) -> Result<Self, OverloadedError> {
        charge.take_lasting(STREAM_BYTES)?;
        Ok(Self::charged(charge, STREAM_BYTES))
    }

    /// Returns a charge of `bytes` that are taken already.
    fn charged(charge: CallCharge, bytes: usize) -> Self {
        let (waves, ended) = (HashMap::new(), Vec::new());
        Self { charge, taken: bytes, used: bytes, waves, ended, lasting: 0 }
    }

    /// Returns the number of waves in flight.
    pub(super) fn waves(&self) -> usize {
        self.waves.len()
    }

    /// Returns true if the wave is in flight.
    pub(super) fn has_wave(&self, wave: u64) -> bool {
        self.waves.contains_key(&wave)
    }

    /// Begins a wave of a change. The change ends when the wave has ended and its memory is given back.
    pub(super) fn begin(&mut self, wave: u64, change: Option<Arc<ChangeUnderWay>>) {
        self.waves.insert(wave, WaveInFlight { read_bytes: 0, change });
    }

    /// Charges the memory of an add, and creates its topic and its cursor. They share no buffer with the request.
    /// Consecutive adds of a wave share equal cursors: `last` is the cursor of the previous add, or empty. Waves share
    /// none, because each wave copies a cursor that is ahead of this node when it has caught up.
    ///
    /// # Errors
    /// [`OverloadedError`]: the stream must end.
    pub(super) fn add(
        &mut self,
        wave: u64,
        add: &Add,
        heads: &Cursor,
        last: &mut Arc<Cursor>,
    ) -> Result<Option<(Topic, Arc<Cursor>)>, OverloadedError> {
        let topic_bytes = Subscription::topic_bytes(add.topic.len());
        self.take(topic_bytes)?;
        let long_bytes = Subscription::long_name_bytes(add.topic.len());
        let copy_bytes = topic_bytes - Subscription::topic_bytes(0) - long_bytes;
        if copy_bytes > 0 {
            self.waves.entry(wave).or_default().read_bytes += copy_bytes;
        }
        let from = add.last_seen.as_ref().map(Cursor::from).unwrap_or_default();
        if **last != from {
            let bytes = Subscription::cursor_bytes(&from, heads);
            self.take(bytes)?;
            if from.iter().all(|id| heads.covers(id)) {
                self.waves.entry(wave).or_default().read_bytes += bytes;
            } else {
                self.lasting += bytes;
            }
            *last = Arc::new(from);
        }
        let name = hawser_proto::Bytes::copy_from_slice(&add.topic);
        Ok(Topic::parse(name).ok().map(|topic| (topic, Arc::clone(last))))
    }

    /// Ends a wave.
    pub(super) fn end(&mut self, wave: u64) {
        let ended = self.waves.remove(&wave);
        self.ended.extend(ended.and_then(|wave| wave.change));
    }

    /// Adjusts the charge to the memory that the stream now holds. Ends the changes of waves that have ended, so that
    /// others of the caller's address may begin.
    ///
    /// # Errors
    /// [`OverloadedError`]: the stream must end.
    pub(super) fn settle(&mut self, stream: &Subscription) -> Result<(), OverloadedError> {
        let topics_bytes = stream.topics_bytes();
        if topics_bytes == 0 {
            self.lasting = 0;
        }
        let read_bytes: usize = self.waves.values().map(|wave| wave.read_bytes).sum();
        let cursors_bytes = stream.live_cursors_bytes();
        self.used = STREAM_BYTES + topics_bytes + cursors_bytes + self.lasting + read_bytes;
        self.take(0)?;
        let spare_bytes = self.taken - self.used;
        // A stream whose topics are all live may stay as it is for hours.
        if spare_bytes > 2 * STEP_BYTES || (spare_bytes > 0 && self.waves.is_empty()) {
            self.charge.give_back_lasting(spare_bytes);
            self.taken = self.used;
        }
        // Both tables are freed: a client may have hundreds of waves at once, and then none for hours.
        self.ended = Vec::new();
        if self.waves.is_empty() {
            self.waves.shrink_to_fit();
        }
        Ok(())
    }

    /// Takes `bytes` until they are given back by [`give_back`](Self::give_back).
    ///
    /// # Errors
    /// [`OverloadedError`]: nothing was taken.
    pub(super) fn borrow(&self, bytes: usize) -> Result<(), OverloadedError> {
        self.charge.take(bytes)
    }

    /// Gives borrowed memory back.
    pub(super) fn give_back(&self, bytes: usize) {
        self.charge.give_back(bytes);
    }

    /// Records that requests wait in the connection, as long as the returned value is held.
    pub(super) fn begin_unread(&self) -> UnreadRequests {
        self.charge.begin_unread()
    }

    /// Splits off a charge of `bytes` for the memory that the stream still holds at its end, apart from its topics. The
    /// charge is never refused, because the memory is in use already. The next charge of the caller may be refused
    /// instead.
    pub(super) fn split_off(&mut self, bytes: usize) -> Self {
        let moved = bytes.min(self.taken);
        if bytes > moved {
            self.charge.take_anyway(bytes - moved);
        }
        self.taken -= moved;
        Self::charged(self.charge.clone(), bytes)
    }

    fn take(&mut self, bytes: usize) -> Result<(), OverloadedError> {
        self.used += bytes;
        if self.used > self.taken {
            let more = (self.used - self.taken).max(STEP_BYTES);
            self.charge.take_lasting(more)?;
            self.taken += more;
        }
        Ok(())
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        self.charge.give_back_lasting(self.taken);
    }
}
