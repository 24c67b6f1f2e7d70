//! The memory of HTTP/2 streams besides their messages: the heads of requests and answers, and the state of the
//! library.
//!
//! The library decodes a head frame by frame, and hands it over when it is whole. Until then the connection is charged
//! as for the largest head. A call charges its head in its first turn. All connections could read heads before that
//! turn, so they wait while much is handed over and not charged.
//!
//! An answer without a body, such as that to a preflight, is counted nowhere else: the budget charges requests until
//! they are answered, and bodies until they are written. And the library keeps the state of as many streams as a
//! connection had at one time until the connection ends, so one burst of small requests, or calls that are opened one
//! after the other and ended together, would make it large for good. The charge of a call that streams its answer
//! covers that state as long as the call has the body of its answer. The connection is charged for the rest: also for a
//! unary call or a page whose caller opens no window for its end, because little else is charged for it then.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use http::HeaderMap;
use parking_lot::Mutex;

use crate::budget::ConnectionShare;
use crate::charged_bytes::ChargedBytes;
use crate::overloaded::OverloadedError;

/// Memory of the head of a request, and then the least memory of the head of its answer, in bytes. A guess: some short
/// headers.
const HEAD_BYTES: usize = 512;
/// Memory of a header of an answer besides its name and value, in bytes. The allowance of RFC 9113 §6.5.2.
const HEADER_BYTES: usize = 32;
/// Memory that the library keeps for each of the most streams that a connection had at one time, in bytes. Measured,
/// with the heads: 1.3 KiB for each of 750,000. Three times that covers the memory that the allocator keeps of
/// connections that are closed meanwhile: with twice, a node grew by up to 570 MiB where callers may hold 288 MiB.
const STREAM_STATE_BYTES: usize = 4096;
/// States that are charged, and then released, together: each change is one of counters that all cores share. A guess.
const STATES_AT_ONCE: usize = 8;
/// The most memory of a head of which frames are to come, in bytes. Calculated for 24 KiB of fields: 385 KiB of fields,
/// whose names are chosen so that the table grows to seven times their number, and 128 KiB of bytes that end within a
/// field.
const UNFINISHED_HEAD_BYTES: usize = 512 * 1024;
/// Memory of heads, in bytes, beyond which connections read no further ones until calls have had their first turns. A
/// guess: some thousand usual heads, a small part of the memory for callers.
const ARRIVING_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The streams of a connection whose answers have not begun, or wait to be written. Cheap to clone; clones share state.
#[derive(Clone, Default)]
pub(crate) struct UnflushedHeads {
    heads: Arc<Mutex<Heads>>,
    /// The share that is charged for the room of frames and of heads that are not whole; `None` if nothing is charged.
    connection: Option<Arc<ConnectionShare>>,
    arriving: ArrivingHeads,
}

/// The memory of the heads whose calls have not had their first turn, of all connections of a listener. Cheap to clone;
/// clones share state.
#[derive(Clone, Default)]
pub(crate) struct ArrivingHeads(Arc<AtomicUsize>);

#[derive(Default)]
struct Heads {
    /// The share that is charged for the library's state; `None` if nothing is charged.
    connection: Option<Arc<ConnectionShare>>,
    /// The maximum number of streams that a connection may have at one time.
    streams_max: usize,
    /// Heads that were read since the last flush and have not arrived at the service.
    read: usize,
    /// Requests that have arrived and whose answers have not begun.
    arrived: usize,
    /// Answers that wait to be written and are charged to the connection, and the charge of their heads in bytes.
    own_answers: usize,
    own_bytes: usize,
    /// Other answers that wait to be written, each with the share of its call, and the charge of its head in bytes.
    answered: Vec<(Arc<ConnectionShare>, usize)>,
    /// Answers whose heads are written, and of which a part is to come, or waits to be written.
    open: usize,
    /// Streams whose calls are charged for the library's state.
    in_calls: usize,
    /// Answers among those whose heads wait that have ended.
    ended: usize,
    /// Flushes of the connection.
    flushes: usize,
    /// Requests that are answered before their end, and are read on. Until the next flush such a request is also one of
    /// [`Self::arrived`] or of the answers, so a stream that begins before it is charged as if there was one more.
    /// That errs on the safe side, and is bounded by [`Self::streams_max`]. To count each once, every request would
    /// have to tell which of the two has ended.
    unended: usize,
    /// The maximum number of streams that there were at one time.
    most: usize,
    /// The number of streams whose state the connection is charged for.
    charged: usize,
}

impl Heads {
    /// Returns the number of answers whose heads wait to be written.
    fn unflushed(&self) -> usize {
        self.own_answers + self.answered.len()
    }

    /// Counts the streams that there are.
    fn count(&mut self) {
        let waiting = self.read + self.arrived + self.unflushed();
        let streams = waiting + self.open + self.unended;
        self.most = self.most.max(streams.min(self.streams_max));
        self.charge();
    }

    /// Charges the library's state for the most streams that there were, without those that are charged to calls. So
    /// streams that were opened at once are charged for it once, as those that were opened one after the other.
    fn charge(&mut self) {
        let Some(connection) = &self.connection else { return };
        connection.writing.frames.streams_are(self.most);
        let wanted = self.most.saturating_sub(self.in_calls);
        let charged = wanted.next_multiple_of(STATES_AT_ONCE).min(self.most);
        if wanted > self.charged {
            connection.keep((charged - self.charged) * STREAM_STATE_BYTES);
        } else if self.charged >= wanted + 2 * STATES_AT_ONCE {
            connection.keep_no_more((self.charged - charged) * STREAM_STATE_BYTES);
        } else {
            return;
        }
        self.charged = charged;
    }
}

impl UnflushedHeads {
    /// Begins without streams. `connection` is charged for the library's state.
    pub(crate) fn new(
        connection: Arc<ConnectionShare>,
        streams_max: u32,
        arriving: &ArrivingHeads,
    ) -> Self {
        let streams_max = usize::try_from(streams_max).unwrap_or(usize::MAX);
        let connection = Some(connection);
        let heads = Heads { connection: connection.clone(), streams_max, ..Heads::default() };
        Self { heads: Arc::new(Mutex::new(heads)), connection, arriving: arriving.clone() }
    }

    /// Charges the connection for a head of which frames are to come, until the returned value is dropped.
    ///
    /// # Errors
    /// [`OverloadedError`]: nothing was taken, and the connection must end. That of a proxy goes on: it is many
    /// clients'.
    pub(crate) fn begin_unfinished(&self) -> Result<Option<ChargedBytes>, OverloadedError> {
        let Some(connection) = self.connection.clone() else { return Ok(None) };
        if connection.is_proxy() {
            return Ok(Some(ChargedBytes::allocated(connection, UNFINISHED_HEAD_BYTES)));
        }
        let mut charged = ChargedBytes::new(connection);
        charged.take(UNFINISHED_HEAD_BYTES)?;
        Ok(Some(charged))
    }

    /// Charges the connection for `bytes` that stay until it ends.
    pub(crate) fn keep(&self, bytes: usize) {
        if let Some(connection) = &self.connection {
            connection.keep(bytes);
        }
    }

    /// Charges the connection for `bytes` that stay until it ends, if there is room for them. That of a proxy, which
    /// carries the calls of many clients, is charged anyway.
    ///
    /// # Errors
    /// [`OverloadedError`]; nothing was charged then.
    pub(crate) fn keep_if_free(&self, bytes: usize) -> Result<(), OverloadedError> {
        let Some(connection) = self.connection.as_ref().filter(|_| bytes > 0) else {
            return Ok(());
        };
        if connection.is_proxy() {
            connection.keep(bytes);
            return Ok(());
        }
        connection.take_kept(bytes)
    }

    /// Returns true if no connection should read on before calls have had their first turns.
    pub(crate) fn are_many_arriving(&self) -> bool {
        self.arriving.0.load(Relaxed) >= ARRIVING_BYTES_MAX
    }

    /// Counts heads that were read from the connection.
    pub(crate) fn read(&self, heads: usize) {
        if heads > 0 {
            let mut state = self.heads.lock();
            state.read += heads;
            state.count();
        }
    }

    /// Counts frames with data of requests that were read from the connection, and charges it for their room. They have
    /// few bytes: charged without a check, those of some connections would use up what is kept free for others before
    /// the largest connections are closed and gone.
    ///
    /// # Errors
    /// [`OverloadedError`]: the connection must end, unless it is a proxy's.
    pub(crate) fn read_data(&self, frames: usize) -> Result<(), OverloadedError> {
        let Some(connection) = self.connection.as_ref().filter(|_| frames > 0) else {
            return Ok(());
        };
        self.keep_if_free(connection.writing.frames.arrive(frames))
    }

    /// Records that calls have their turn: the connection reads nothing more before it.
    pub(crate) fn end_turn(&self) {
        if let Some(connection) = &self.connection {
            connection.writing.frames.end_turn();
        }
    }

    /// Charges the head of a request, which has arrived, to the share of its call. It has `arriving_bytes`, which the
    /// call charges when it [begins](ArrivedHead::begins).
    pub(crate) fn arrived(&self, call: Arc<ConnectionShare>, arriving_bytes: usize) -> ArrivedHead {
        call.take_anyway(HEAD_BYTES);
        self.arriving.0.fetch_add(arriving_bytes, Relaxed);
        let mut state = self.heads.lock();
        state.read = state.read.saturating_sub(1);
        state.arrived += 1;
        state.count();
        drop(state);
        ArrivedHead { call: Some(call), heads: self.clone(), arriving_bytes }
    }

    /// Gives back the memory of all heads: the connection has written everything that it could.
    ///
    /// An answer that was added after the last write and before this call counts as written too early. A peer that
    /// reads nothing gains nothing by it: no flush of its connection completes.
    pub(crate) fn flushed(&self) {
        let mut state = self.heads.lock();
        state.read = 0;
        let (waiting, ended) = (state.unflushed(), std::mem::take(&mut state.ended));
        state.open += waiting.saturating_sub(ended);
        state.charge();
        state.flushes = state.flushes.wrapping_add(1);
        if std::mem::take(&mut state.own_answers) > 0 {
            let own_bytes = std::mem::take(&mut state.own_bytes);
            if let Some(connection) = &state.connection {
                connection.wrote();
                connection.written(own_bytes);
            }
        }
        let written = std::mem::take(&mut state.answered);
        drop(state);
        for (call, bytes) in written {
            call.wrote();
            call.written(bytes);
        }
    }
}

/// A request whose answer has not begun.
pub(crate) struct ArrivedHead {
    call: Option<Arc<ConnectionShare>>,
    heads: UnflushedHeads,
    /// Memory of the head until the call has its first turn.
    arriving_bytes: usize,
}

impl ArrivedHead {
    /// Records that the call has its first turn.
    pub(crate) fn begins(&mut self) {
        let arriving_bytes = std::mem::take(&mut self.arriving_bytes);
        if arriving_bytes > 0 {
            self.heads.arriving.0.fetch_sub(arriving_bytes, Relaxed);
        }
    }

    /// Returns the share of the call; `None` once it is answered.
    pub(crate) fn share(&self) -> Option<&Arc<ConnectionShare>> {
        self.call.as_ref()
    }

    /// Counts the stream of this request as open, also behind its answer, until the returned value is dropped.
    pub(crate) fn stays_open(&self) -> UnendedStream {
        self.heads.heads.lock().unended += 1;
        UnendedStream(self.heads.clone())
    }

    /// Keeps the head charged, now that of the answer, until the connection has written it. The answer to a request of
    /// a hundred bytes may be a refusal whose text and details have some KiB. Counts the stream as open until the
    /// returned value is dropped, which is to be when the body of the answer is dropped, and all its pieces.
    pub(crate) fn answered(mut self, answer: &HeaderMap) -> OpenStream {
        let call = self.call.take();
        let bytes = answer_bytes(answer).max(HEAD_BYTES);
        if let Some(call) = &call {
            if bytes > HEAD_BYTES {
                call.take_anyway(bytes - HEAD_BYTES);
            }
            call.waits(bytes);
        }
        let mut state = self.heads.heads.lock();
        if let Some(call) = call {
            state.arrived -= 1;
            if state.connection.as_ref().is_some_and(|own| Arc::ptr_eq(own, &call)) {
                state.own_answers += 1;
                state.own_bytes += bytes;
            } else {
                state.answered.push((call, bytes));
            }
        }
        OpenStream { heads: self.heads.heads.clone(), begun_at: state.flushes }
    }
}

impl Drop for ArrivedHead {
    fn drop(&mut self) {
        self.begins();
        if let Some(call) = self.call.take() {
            self.heads.heads.lock().arrived -= 1;
            call.give_back(HEAD_BYTES);
        }
    }
}

/// A stream whose request is read on behind its answer.
pub(crate) struct UnendedStream(UnflushedHeads);

impl Drop for UnendedStream {
    fn drop(&mut self) {
        self.0.heads.lock().unended -= 1;
    }
}

/// A mark of an answer, among its extensions: its call is charged for the state of its stream as long as it has the
/// body of the answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ChargedInCall;

/// A stream whose answer is under way.
pub(crate) struct OpenStream {
    heads: Arc<Mutex<Heads>>,
    /// The flushes of the connection when the answer began.
    begun_at: usize,
}

impl OpenStream {
    /// Leaves the charge for the state of the stream to its call, until the returned value is dropped.
    pub(crate) fn leave_to_call(&self) -> StateInCall {
        self.heads.lock().in_calls += 1;
        StateInCall(Arc::clone(&self.heads))
    }
}

/// The state of a stream that is charged to its call.
pub(crate) struct StateInCall(Arc<Mutex<Heads>>);

impl Drop for StateInCall {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.in_calls -= 1;
        state.charge();
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let mut state = self.heads.lock();
        if state.flushes == self.begun_at {
            state.ended += 1;
        } else {
            state.open -= 1;
        }
    }
}

/// Returns the memory of the head of an answer, in bytes.
fn answer_bytes(answer: &HeaderMap) -> usize {
    answer.iter().map(|(name, value)| HEADER_BYTES + name.as_str().len() + value.len()).sum()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::budget::MemoryBudget;

    #[test]
    fn heads_are_charged_until_they_are_written_and_streams_until_the_connection_ends() {
        let budget = MemoryBudget::new(1 << 30);
        let address = Ipv4Addr::LOCALHOST.into();
        let connection = budget.connection(address, budget.account(None)).unwrap();
        let idle = budget.used_bytes();
        let used = || budget.used_bytes() - idle;
        let heads = UnflushedHeads::new(connection.clone(), 3, &ArrivingHeads::default());
        heads.read(2);
        assert_eq!(used(), 2 * STREAM_STATE_BYTES);
        let [first, second] = [(); 2].map(|()| heads.arrived(connection.clone(), 100));
        assert_eq!(
            used(),
            2 * (STREAM_STATE_BYTES + HEAD_BYTES),
            "they were counted when they were read"
        );
        first.answered(&HeaderMap::new());
        drop(second);
        assert_eq!(used(), 2 * STREAM_STATE_BYTES + HEAD_BYTES);
        heads.flushed();
        assert_eq!(used(), 2 * STREAM_STATE_BYTES);
        heads.read(2);
        assert_eq!(used(), 2 * STREAM_STATE_BYTES, "their state is there already");
        heads.read(50);
        assert_eq!(used(), 3 * STREAM_STATE_BYTES, "more are refused");
        drop((heads, connection));
        assert_eq!(budget.used_bytes(), 0);
    }

    /// A caller opens one request after the other whose body never ends, each when the one before is answered.
    #[test]
    fn a_stream_whose_request_is_read_on_counts_to_its_end() {
        let budget = MemoryBudget::new(1 << 30);
        let address = Ipv4Addr::LOCALHOST.into();
        let connection = budget.connection(address, budget.account(None)).unwrap();
        let heads = UnflushedHeads::new(connection.clone(), 10, &ArrivingHeads::default());
        let idle = budget.used_bytes();
        let refused = || {
            heads.read(1);
            let head = heads.arrived(connection.clone(), 100);
            let stream = head.stays_open();
            head.answered(&HeaderMap::new());
            heads.flushed();
            stream
        };
        let open = [(); 3].map(|()| refused());
        assert_eq!(budget.used_bytes(), idle + 3 * STREAM_STATE_BYTES);
        drop(open);
        drop(refused());
        assert_eq!(
            budget.used_bytes(),
            idle + 3 * STREAM_STATE_BYTES,
            "its state is there already"
        );
    }

    /// A caller opens one call after the other, all of which stay open, and then ends all of them.
    #[test]
    fn the_state_of_calls_that_were_open_together_is_charged_when_they_have_ended() {
        const CALLS: usize = 10;
        let budget = MemoryBudget::new(1 << 30);
        let address = Ipv4Addr::LOCALHOST.into();
        let connection = budget.connection(address, budget.account(None)).unwrap();
        let heads = UnflushedHeads::new(connection.clone(), 100, &ArrivingHeads::default());
        let idle = budget.used_bytes();
        let begun = || {
            heads.read(1);
            let stream = heads.arrived(connection.clone(), 100).answered(&HeaderMap::new());
            let state = stream.leave_to_call();
            heads.flushed();
            (state, stream)
        };
        for charged in [1, CALLS] {
            let open: Vec<_> = std::iter::repeat_with(begun).take(CALLS).collect();
            assert_eq!(budget.used_bytes(), idle + charged * STREAM_STATE_BYTES);
            drop(open);
            assert_eq!(budget.used_bytes(), idle + CALLS * STREAM_STATE_BYTES);
        }
        (0..1000).for_each(|_| drop(begun()));
        assert_eq!(budget.used_bytes(), idle + CALLS * STREAM_STATE_BYTES, "one at a time");
        drop((heads, connection));
        assert_eq!(budget.used_bytes(), 0);
    }

    /// Thousands of clients come back at once: their streams would not fit if each was charged for its state twice.
    #[test]
    fn the_state_of_calls_that_arrive_together_is_charged_once_while_they_are_open() {
        const CALLS: usize = 100;
        let budget = MemoryBudget::new(1 << 30);
        let address = Ipv4Addr::LOCALHOST.into();
        let connection = budget.connection(address, budget.account(None)).unwrap();
        let heads = UnflushedHeads::new(connection.clone(), 100, &ArrivingHeads::default());
        let idle = budget.used_bytes();
        let states = || (budget.used_bytes() - idle) / STREAM_STATE_BYTES;
        for _ in 0..2 {
            heads.read(CALLS);
            assert_eq!(states(), CALLS);
            let arrived: Vec<_> =
                (0..CALLS).map(|_| heads.arrived(connection.clone(), 100)).collect();
            let begin = |head: ArrivedHead| {
                let stream = head.answered(&HeaderMap::new());
                (stream.leave_to_call(), stream)
            };
            let mut open: Vec<_> = arrived.into_iter().map(begin).collect();
            heads.flushed();
            assert_eq!(budget.used_bytes(), idle, "the charges of the open answers cover it");
            while open.pop().is_some() {
                let ended = CALLS - open.len();
                assert!((ended..ended + STATES_AT_ONCE).contains(&states()), "{ended}");
            }
            assert_eq!(budget.used_bytes(), idle + CALLS * STREAM_STATE_BYTES);
        }
        drop((heads, connection));
        assert_eq!(budget.used_bytes(), 0);
    }

    /// A caller opens a window of one byte for each answer, which is charged by its length: a few bytes.
    #[test]
    fn the_state_of_calls_whose_answers_are_not_taken_is_charged_while_they_are_open() {
        const CALLS: usize = 10;
        let budget = MemoryBudget::new(1 << 30);
        let address = Ipv4Addr::LOCALHOST.into();
        for at_once in [1, CALLS] {
            let connection = budget.connection(address, budget.account(None)).unwrap();
            let heads = UnflushedHeads::new(connection.clone(), 100, &ArrivingHeads::default());
            let idle = budget.used_bytes();
            let mut open = Vec::new();
            while open.len() < CALLS {
                heads.read(at_once);
                for _ in 0..at_once {
                    let head = heads.arrived(connection.clone(), 100);
                    open.push(head.answered(&HeaderMap::new()));
                }
                heads.flushed();
            }
            assert_eq!(budget.used_bytes(), idle + CALLS * STREAM_STATE_BYTES, "{at_once} at once");
            drop((open, heads, connection));
            assert_eq!(budget.used_bytes(), 0);
        }
    }

    /// The body of a stream's answer has ended, and its call gives back its charge. The last piece waits for a window.
    #[test]
    fn the_state_of_a_stream_is_charged_to_its_connection_when_its_call_has_ended() {
        const CALLS: usize = 100;
        let budget = MemoryBudget::new(1 << 30);
        let address = Ipv4Addr::LOCALHOST.into();
        let connection = budget.connection(address, budget.account(None)).unwrap();
        let heads = UnflushedHeads::new(connection.clone(), 100, &ArrivingHeads::default());
        let idle = budget.used_bytes();
        heads.read(CALLS);
        let begin = || heads.arrived(connection.clone(), 100).answered(&HeaderMap::new());
        let waiting: Vec<OpenStream> = std::iter::repeat_with(begin).take(CALLS).collect();
        let in_calls: Vec<StateInCall> = waiting.iter().map(OpenStream::leave_to_call).collect();
        heads.flushed();
        assert_eq!(budget.used_bytes(), idle);
        drop(in_calls);
        assert_eq!(budget.used_bytes(), idle + CALLS * STREAM_STATE_BYTES);
        drop((waiting, heads, connection));
        assert_eq!(budget.used_bytes(), 0);
    }

    /// Over HTTP/1.1 a client may have any number of refusals wait behind each other.
    #[test]
    fn a_long_head_of_an_answer_is_charged_until_it_is_written() {
        const TEXT_LEN: usize = 4096;
        let budget = MemoryBudget::new(1 << 30);
        let address = Ipv4Addr::LOCALHOST.into();
        let connection = budget.connection(address, budget.account(None)).unwrap();
        let heads = UnflushedHeads::new(connection.clone(), 3, &ArrivingHeads::default());
        let idle = budget.used_bytes();
        let mut answer = HeaderMap::new();
        answer.insert("grpc-message", "x".repeat(TEXT_LEN).parse().unwrap());
        heads.arrived(connection.clone(), 100).answered(&answer);
        assert!(budget.used_bytes() >= idle + STREAM_STATE_BYTES + TEXT_LEN);
        heads.flushed();
        assert_eq!(budget.used_bytes(), idle + STREAM_STATE_BYTES);
    }

    #[test]
    fn heads_are_many_until_their_calls_have_begun_or_are_gone() {
        let budget = MemoryBudget::new(1 << 30);
        let address = Ipv4Addr::LOCALHOST.into();
        let arriving = ArrivingHeads::default();
        let [first, second] = [(); 2].map(|()| {
            let connection = budget.connection(address, budget.account(None)).unwrap();
            (UnflushedHeads::new(connection.clone(), 3, &arriving), connection)
        });
        let mut begins = first.0.arrived(first.1.clone(), ARRIVING_BYTES_MAX / 2);
        assert!(!second.0.are_many_arriving());
        let left = first.0.arrived(first.1.clone(), ARRIVING_BYTES_MAX / 2);
        assert!(second.0.are_many_arriving(), "those of all connections count");
        begins.begins();
        assert!(!second.0.are_many_arriving());
        begins.answered(&HeaderMap::new());
        assert_eq!(arriving.0.load(Relaxed), ARRIVING_BYTES_MAX / 2);
        drop(left);
        assert_eq!(arriving.0.load(Relaxed), 0);
    }
}
