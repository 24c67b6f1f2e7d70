//! The memory that a stream with requests holds and its call is charged for.

use std::collections::HashMap;
use std::sync::Arc;

use hawser_engine::runtime::Subscription;
use hawser_proto::pb::xmtp::xmtpv4::message_api::subscribe_request::v1::mutate::Subscription as Add;
use hawser_proto::{Cursor, Topic};
use hawser_serve::{CallCharge, OverloadedError};

/// Memory of the stream itself beside its call: its task, its channel, and its tables. Requests have no buffer between
/// two of them. Calculated from the types: about 3 KiB, of which half is in the charges of the call and of its HTTP/2
/// stream, which are that much above what was measured of a stream that takes no requests.
const STREAM_BYTES: usize = 1536;
/// Memory that is taken in one step, so that not every topic changes the charge. A guess: two dozen topics. With much
/// more, thousands of small streams would be charged for memory that they do not hold.
const STEP_BYTES: usize = 4 * 1024;

/// The share of a stream in its caller's memory. It is taken before anything is allocated.
#[derive(Debug)]
pub(super) struct HeldBytes {
    charge: CallCharge,
    taken: usize,
    used: usize,
    /// Bytes of the cursors of each wave in flight, which are freed when the wave has caught up.
    waves: HashMap<u64, usize>,
    /// Bytes of cursors ahead of this node and of unusually long names. They may last as long as their topics, so
    /// their charge is returned when the stream has no topic.
    lasting: usize,
}

impl HeldBytes {
    /// Charges a stream without topics.
    ///
    /// # Errors
    /// [`OverloadedError`]: the stream must be refused.
    pub(super) fn new(charge: CallCharge) -> Result<Self, OverloadedError> {
        charge.take_lasting(STREAM_BYTES)?;
        let waves = HashMap::new();
        Ok(Self { charge, taken: STREAM_BYTES, used: STREAM_BYTES, waves, lasting: 0 })
    }

    /// Returns the number of waves in flight.
    pub(super) fn waves(&self) -> usize {
        self.waves.len()
    }

    /// Returns true if the wave is in flight.
    pub(super) fn has_wave(&self, wave: u64) -> bool {
        self.waves.contains_key(&wave)
    }

    /// Begins a wave.
    pub(super) fn begin(&mut self, wave: u64) {
        self.waves.insert(wave, 0);
    }

    /// Charges the memory of an add, and creates its topic and its cursor. They share no buffer with the request.
    /// Consecutive adds of a wave share equal cursors: `last` is that of the add before, or empty. Waves share none,
    /// because each copies a cursor that is ahead of this node when it has caught up.
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
        let name_bytes = Subscription::topic_bytes(add.topic.len());
        self.take(name_bytes)?;
        self.lasting += name_bytes - Subscription::topic_bytes(0);
        let from = add.last_seen.as_ref().map(Cursor::from).unwrap_or_default();
        if **last != from {
            let bytes = Subscription::cursor_bytes(&from, heads);
            self.take(bytes)?;
            if from.iter().all(|id| heads.covers(id)) {
                *self.waves.entry(wave).or_default() += bytes;
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
        self.waves.remove(&wave);
    }

    /// Lets other changes of the caller's address begin.
    pub(super) fn end_changes(&self) {
        self.charge.end_changes();
    }

    /// Adjusts the charge to the memory that the stream now holds.
    ///
    /// # Errors
    /// [`OverloadedError`]: the stream must end.
    pub(super) fn settle(&mut self, stream: &Subscription) -> Result<(), OverloadedError> {
        let topics_bytes = stream.topics_bytes();
        if topics_bytes == 0 {
            self.lasting = 0;
        }
        self.used = STREAM_BYTES + topics_bytes + self.lasting + self.waves.values().sum::<usize>();
        if self.used > self.taken {
            self.take(0)?;
            return Ok(());
        }
        let spare_bytes = self.taken - self.used;
        // A stream whose topics are all live may stay as it is for hours.
        if spare_bytes > 2 * STEP_BYTES || (spare_bytes > 0 && self.waves.is_empty()) {
            self.charge.give_back_lasting(spare_bytes);
            self.taken = self.used;
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

    /// Returns borrowed memory.
    pub(super) fn give_back(&self, bytes: usize) {
        self.charge.give_back(bytes);
    }

    /// Splits off a charge of `bytes`, for what is left of the stream at its end beside its topics. It is not refused:
    /// the memory is used already, and what the caller takes next may be refused for it.
    pub(super) fn split_off(&mut self, bytes: usize) -> Self {
        let moved = bytes.min(self.taken);
        if bytes > moved {
            self.charge.take_anyway(bytes - moved);
        }
        self.taken -= moved;
        let charge = self.charge.clone();
        Self { charge, taken: bytes, used: bytes, waves: HashMap::new(), lasting: 0 }
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
