//! The share of one call in the memory for callers, and of the pieces of its answer.

use std::any::Any;
use std::fmt;
use std::io::IoSlice;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::Extensions;
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::Status;

use crate::budget::ConnectionShare;
use crate::budget::changes::ChangeUnderWay;
use crate::call_bytes::{CallBytes, MemorySource, ReturnedBytes};
use crate::kept_frames::UnreadRequests;
use crate::memory_wait;
use crate::overloaded::OverloadedError;
use crate::publish_call::finished;
use crate::task_threads;
use crate::turns::thread_time;
use crate::unflushed::OpenStream;
use crate::unwritten::UnwrittenBytes;

/// Charge of a stream that has begun to answer, in bytes: its request and the request's buffers are freed by then.
/// Measured: 6.2 KiB for each of 8,000 streams of one topic, with that topic. Covers the state of the library, which
/// `unflushed` charges to the connection only before and after that time.
const STREAM_BYTES: usize = 6 * 1024;

/// Time for which an address rests for a request that ends before its message is whole, and for each byte of that
/// request. While publishers are late, the rest is a multiple of it. Guesses: the time of the first turn of the
/// request, which has no rest of its own; and for a byte twice the time in which a thread receives it, because the
/// kernel works for it too. A client that loses its connection after a MiB does not rest, because some rests are free.
const ABANDONED_TIME: Duration = Duration::from_micros(20);
const ABANDONED_BYTE_TIME: Duration = Duration::from_nanos(2);

/// Time for which an address rests for an envelope that is published again or refused, in multiples of it while
/// publishers are late. A guess: a little more than recovering its payer and looking it up takes. A client that repeats
/// twenty has no rest, because some are free.
const CHECK_TIME: Duration = Duration::from_micros(100);

/// The memory that one call takes, given back when the last clone is dropped. Clones share state.
///
/// The listener charges the request, with the memory for decoding it, and puts the charge into
/// the request's extensions. A handler takes more before it allocates for the answer. Once the
/// first bytes of a unary answer are on their way, only the answer is still charged.
#[derive(Clone)]
pub struct CallCharge(Arc<CallShare>);

struct CallShare {
    connection: Arc<ConnectionShare>,
    bytes: Mutex<CallBytes>,
    /// Tasks that work for the call, which may outlive its answer.
    holders: AtomicUsize,
    /// A value of the service, dropped at the end of the call.
    kept: OnceLock<Box<dyn Any + Send + Sync>>,
}

/// Keeps the memory of a call charged while a task works for it, even after the call is answered. Made by
/// [`CallCharge::hold`].
#[must_use = "the memory is charged for as long as this is held"]
pub struct HeldCharge(CallCharge);

impl Drop for HeldCharge {
    fn drop(&mut self) {
        self.0.0.holders.fetch_sub(1, Relaxed);
    }
}

/// A guard that detects a caller's departure while other tasks work for the call. Made by [`CallCharge::watch_caller`].
#[must_use = "a caller is there for as long as this is held"]
pub struct CallerWatch(Option<CallCharge>);

impl CallerWatch {
    /// Ends the watch while the caller is still connected.
    pub fn end(mut self) {
        self.0 = None;
    }
}

impl Drop for CallerWatch {
    fn drop(&mut self) {
        if let Some(charge) = self.0.take() {
            charge.end();
        }
    }
}

impl CallCharge {
    pub(crate) fn new(connection: Arc<ConnectionShare>) -> Self {
        Self(Arc::new(CallShare {
            connection,
            bytes: Mutex::default(),
            holders: AtomicUsize::new(0),
            kept: OnceLock::new(),
        }))
    }

    /// Keeps a value until the call is over, which is when the last clone of this is dropped. A call keeps one value:
    /// further ones are dropped at once.
    pub fn keep(&self, value: impl Any + Send + Sync) {
        // An earlier value of the call stays.
        let _ = self.0.kept.set(Box::new(value));
    }

    /// Returns the charge of the call that a request with these extensions belongs to.
    ///
    /// # Panics
    /// If the request did not come through this crate's listener.
    #[must_use]
    pub fn of(extensions: &Extensions) -> Self {
        extensions.get::<Self>().expect("the listener charges every call").clone()
    }

    /// Runs the publish of this call in the turns of the call, and to its end, whether or not the call ends before. The
    /// turns meanwhile come without rests.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn finish<F>(&self, publish: F) -> impl Future<Output = F::Output> + use<F>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        finished(self.0.connection.paid_time().clone(), publish)
    }

    /// Starts a task of this call that may outlast many turns. It runs in its turns, on the threads of the call's
    /// connection.
    pub fn spawn<F>(&self, task: F)
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        task_threads::spawn(self.0.connection.paid_time(), task);
    }

    /// Records that the call has stored `envelopes`, which pay for its connection's next turns. `thread_wait` is the
    /// time for which its publish waited for cores, behind the tasks: if that is long, connections that do not publish
    /// rest longer. A call that stores nothing changes nothing, because it costs its caller nothing.
    pub fn stored(&self, envelopes: usize, thread_wait: Duration) {
        if envelopes > 0 {
            let account = self.0.connection.paid_time();
            account.earn(envelopes);
            account.publish_waited(thread_wait);
        }
    }

    /// Records that `envelopes` of the call were checked for nothing: they were stored before, or are refused. The
    /// caller's address rests for that while publishers are late. To be called before [`stored`](Self::stored).
    pub fn checked_for_nothing(&self, envelopes: usize) {
        let envelopes = u32::try_from(envelopes).unwrap_or(u32::MAX);
        self.0.connection.paid_time().rest(CHECK_TIME.saturating_mul(envelopes));
    }

    /// Records that the caller is a node of the network. Its connection never rests while publishers are late: the
    /// envelopes of this node reach the clients of other nodes through it.
    pub fn caller_is_node(&self) {
        self.0.connection.paid_time().never_rest();
    }

    /// Refuses further calls of the method with this path, on the same connection, with the same status, for a second
    /// and before their requests are received. Meant for a limit of the caller's address that would refuse most of
    /// these calls as well, and that tells the caller to wait for at least a second. For each such call the caller's
    /// address rests while publishers are late. Has no effect on calls over HTTP/1.1, or through a trusted proxy.
    pub fn refuse_further(&self, path: &'static str, status: &Status) {
        self.0.connection.refused.note(path, status.clone());
    }

    /// Returns the time that the calling thread has worked in all. A thread of the service calls this before it works
    /// for the call, and then [`end_work`](Self::end_work).
    #[must_use]
    pub fn begin_work(&self) -> Duration {
        thread_time()
    }

    /// Records the work of the calling thread for the call since `began`, which [`begin_work`](Self::begin_work) has
    /// returned. The caller's address rests for it while publishers are late, as for the turns of its connections.
    pub fn end_work(&self, began: Duration) {
        self.0.connection.paid_time().rest(thread_time().saturating_sub(began));
    }

    /// Records that a request has ended before its message was whole, with `bytes` of it here. They were received for
    /// nothing, so the caller's address rests for that while publishers are late.
    pub(crate) fn abandoned(&self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let received = ABANDONED_BYTE_TIME.saturating_mul(bytes);
        self.0.connection.paid_time().rest_for_nothing(ABANDONED_TIME + received);
    }

    /// Takes `bytes` more.
    ///
    /// # Errors
    /// [`OverloadedError`]: nothing was taken, and the caller must be refused.
    pub fn take(&self, bytes: usize) -> Result<(), OverloadedError> {
        self.0.connection.take(bytes)?;
        self.0.bytes.lock().add(bytes, MemorySource::Share);
        Ok(())
    }

    /// Takes `bytes` that are allocated already. It never refuses. The caller's next requests may be refused instead,
    /// and its connections are closed before those of callers that hold less.
    pub fn take_anyway(&self, bytes: usize) {
        self.0.connection.take_anyway(bytes);
        self.0.bytes.lock().add(bytes, MemorySource::Share);
    }

    /// Gives back `bytes` that were taken, also after the end of the call, when only its address is still charged for
    /// them.
    pub fn give_back(&self, bytes: usize) {
        let returned = self.0.bytes.lock().give_back(bytes);
        self.0.pass_on(returned);
    }

    /// Takes `bytes` for the state of a stream. If the caller's share would then have too little left for requests
    /// and answers, the bytes are lent from free memory. The connection, or the call on a proxy's connection, is
    /// then among the first to be closed when others need memory.
    ///
    /// # Errors
    /// [`OverloadedError`]: nothing was taken, and the stream must end.
    pub fn take_lasting(&self, bytes: usize) -> Result<(), OverloadedError> {
        let source = self.0.connection.take_lasting(bytes)?;
        self.0.bytes.lock().add(bytes, source);
        Ok(())
    }

    /// Takes `bytes` for the state of a stream as [`CallCharge::take_lasting`] does, if requests and answers keep their
    /// room. Returns false, and takes nothing, if they do not: the stream can wait.
    #[must_use]
    pub fn take_spare(&self, bytes: usize) -> bool {
        let Some(source) = self.0.connection.take_spare(bytes) else { return false };
        self.0.bytes.lock().add(bytes, source);
        true
    }

    /// Gives back `bytes` of long-lived state, lent ones first.
    pub fn give_back_lasting(&self, bytes: usize) {
        let returned = self.0.bytes.lock().give_back_lasting(bytes);
        self.0.pass_on(returned);
    }

    /// Takes `bytes` for the call itself.
    ///
    /// # Errors
    /// [`OverloadedError`]: nothing was taken, and the caller must be refused.
    pub(crate) fn take_for_call(&self, bytes: usize) -> Result<(), OverloadedError> {
        self.0.connection.take(bytes)?;
        let mut charged = self.0.bytes.lock();
        charged.add(bytes, MemorySource::Share);
        charged.assign_to_call(bytes);
        Ok(())
    }

    /// Takes `bytes` for a call that is a stream and keeps most of them while it lasts.
    ///
    /// # Errors
    /// [`OverloadedError`]: nothing was taken, and the caller must be refused.
    pub(crate) fn take_for_stream(&self, bytes: usize) -> Result<(), OverloadedError> {
        self.take_lasting(bytes)?;
        self.0.bytes.lock().assign_to_call(bytes);
        Ok(())
    }

    /// Takes `bytes` for the request.
    ///
    /// # Errors
    /// [`OverloadedError`]: nothing was taken, and the caller must be refused.
    pub(crate) fn take_for_request(&self, bytes: usize) -> Result<(), OverloadedError> {
        self.0.connection.take(bytes)?;
        let mut charged = self.0.bytes.lock();
        charged.add(bytes, MemorySource::Share);
        charged.assign_to_request(bytes);
        Ok(())
    }

    /// Takes the memory for decoding a request that has arrived: `buffer_bytes` of the call itself, and `request_bytes`
    /// for the decoded form. Waits for it until `wait_end` if the caller's share is used up.
    ///
    /// # Errors
    /// [`OverloadedError`]: nothing was taken, and the caller must be refused.
    pub(crate) async fn take_for_decoding(
        &self,
        wait_end: impl FnOnce() -> Instant,
        buffer_bytes: usize,
        request_bytes: usize,
    ) -> Result<(), OverloadedError> {
        let bytes = buffer_bytes.saturating_add(request_bytes);
        memory_wait::take_until(wait_end, &self.0.connection, bytes).await?;
        let mut charged = self.0.bytes.lock();
        charged.add(bytes, MemorySource::Share);
        charged.assign_to_call(buffer_bytes);
        charged.assign_to_request(request_bytes);
        Ok(())
    }

    /// Takes the memory for decoding `bytes` of messages that change an open stream. Waits until `wait_end` while there
    /// is no memory for the messages or for the state that the stream may keep of them, and then longer while other
    /// changes of the same address are under way. Returns the change if it counts among those changes.
    ///
    /// # Errors
    /// [`OverloadedError`]: nothing was taken, and the stream must end.
    pub(crate) async fn take_for_change(
        &self,
        wait_end: Instant,
        bytes: usize,
    ) -> Result<Option<ChangeUnderWay>, OverloadedError> {
        let begun = memory_wait::take_for_change(wait_end, &self.0.connection, bytes).await?;
        let mut charged = self.0.bytes.lock();
        charged.add(bytes, MemorySource::Share);
        charged.assign_to_request(bytes);
        Ok(begun)
    }

    /// Returns the bytes that the connection is charged for the request.
    pub(crate) fn request_bytes(&self) -> usize {
        self.0.bytes.lock().request()
    }

    /// Returns the bytes that the connection is charged for the call beside its request: mostly the answer, if it is
    /// long.
    pub(crate) fn answer_bytes(&self) -> usize {
        let charged = self.0.bytes.lock();
        charged.held().saturating_sub(charged.request())
    }

    /// Records that a stream has begun to answer: the charge of the call itself becomes [`STREAM_BYTES`]. That of a
    /// call that takes requests was less.
    pub(crate) fn answers(&self) {
        let taken_bytes = self.0.bytes.lock().replace_call(STREAM_BYTES);
        if taken_bytes < STREAM_BYTES {
            self.take_anyway(STREAM_BYTES - taken_bytes);
        }
        self.give_back(taken_bytes.saturating_sub(STREAM_BYTES));
    }

    /// Records that the request has been dropped, and keeps the charge for `bytes` of it. A long-lived
    /// stream calls this when it has turned its request into its own state.
    ///
    /// # Errors
    /// [`OverloadedError`] if `bytes` is more than the request was charged, and the difference does not fit.
    pub fn keep_of_request(&self, bytes: usize) -> Result<(), OverloadedError> {
        let taken_bytes = self.0.bytes.lock().request();
        if bytes > taken_bytes {
            return self.take_for_request(bytes - taken_bytes);
        }
        let taken_bytes = self.0.bytes.lock().replace_request(bytes);
        self.give_back(taken_bytes.saturating_sub(bytes));
        Ok(())
    }

    /// Records that the call is answered and the data of the answer is freed. Gives back everything, unless tasks still
    /// hold the request: it then stays charged to the address, not to the connection, until the last clone of this is
    /// dropped.
    pub(crate) fn clear(&self) {
        if self.0.holders.load(Relaxed) > 0 {
            return self.end();
        }
        let returned = self.0.bytes.lock().give_back_held();
        self.0.pass_on(returned);
    }

    /// Records that the call has ended for its caller while tasks may still work for it: with a status and without an
    /// answer, or because the caller has gone. Everything stays charged to the address until the last clone of this is
    /// dropped. The connection is not charged, since its end would not free any of it.
    pub(crate) fn end(&self) {
        let (bytes, lent_bytes) = self.0.bytes.lock().leave();
        self.0.connection.leave(bytes, lent_bytes);
    }

    /// Keeps the memory of a unary call charged for a task that works for it and may outlive its answer.
    pub fn hold(&self) -> HeldCharge {
        self.0.holders.fetch_add(1, Relaxed);
        HeldCharge(self.clone())
    }

    /// Watches the caller of a unary call while tasks that outlive it hold clones of this charge. Dropping the watch
    /// means that the caller has gone: the memory of the call then stays charged to its address and the budget, but not
    /// to its connection, because closing the connection would not free it. Hold the watch across the wait for those
    /// tasks.
    pub fn watch_caller(&self) -> CallerWatch {
        CallerWatch(Some(self.clone()))
    }

    /// Records that the call leaves frames of its request in the window of its stream, as long as the returned value is
    /// held. The connection is charged for their places, until it ends: the library keeps the room.
    pub fn begin_unread(&self) -> UnreadRequests {
        UnreadRequests::begin(self.0.connection.writing.frames.clone())
    }

    /// Returns a number that calls from the same address share, for queues that are fair between
    /// addresses.
    #[must_use]
    pub fn caller(&self) -> usize {
        self.0.connection.caller()
    }

    /// Returns a number that calls from the same site share, for queues that are fair between sites: an IPv4 address,
    /// or all addresses of an IPv6 /48.
    #[must_use]
    pub fn site(&self) -> usize {
        self.0.connection.site()
    }

    /// Returns a number that calls of the same connection share, for queues that are fair between the connections of an
    /// address. Each call of a client behind a proxy has a number of its own.
    #[must_use]
    pub fn connection_number(&self) -> u64 {
        self.0.connection.number()
    }

    pub(crate) fn connection(&self) -> &Arc<ConnectionShare> {
        &self.0.connection
    }
}

impl CallShare {
    /// Subtracts bytes that the call is no longer charged from the shares.
    fn pass_on(&self, returned: ReturnedBytes) {
        let ReturnedBytes { held, held_lent, address_only, address_only_lent } = returned;
        // All cores share these counters: a subtraction of 0 would still take the cache line from the others.
        if held > held_lent {
            self.connection.give_back(held - held_lent);
        }
        if held_lent > 0 {
            self.connection.give_back_lent(held_lent);
        }
        if address_only > 0 {
            self.connection.give_back_address_only(address_only, address_only_lent);
        }
    }
}

impl fmt::Debug for CallCharge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CallCharge").field(&self.0.bytes.lock().held()).finish()
    }
}

impl Drop for CallShare {
    fn drop(&mut self) {
        let returned = self.bytes.get_mut().give_back_all();
        self.pass_on(returned);
    }
}

/// A piece of an answer that waits to be written. It is charged until the connection has written or dropped it.
pub(crate) struct Outgoing {
    bytes: Bytes,
    charged_bytes: usize,
    connection: Arc<ConnectionShare>,
    /// The bytes of its answer that wait to be written, if they are counted.
    of_answer: Option<Arc<UnwrittenBytes>>,
    /// Its stream, which the library keeps until the piece is written or dropped.
    _stream: Option<Arc<OpenStream>>,
}

impl Outgoing {
    pub(crate) fn new(bytes: Bytes, connection: Arc<ConnectionShare>) -> Self {
        let charged_bytes = bytes.len();
        connection.unwritten(charged_bytes);
        let owed_bytes = connection.writing.frames.queue();
        if owed_bytes > 0 {
            connection.keep(owed_bytes);
        }
        Self { bytes, charged_bytes, connection, of_answer: None, _stream: None }
    }

    /// Counts the stream of the answer as open until the piece is written or dropped.
    pub(crate) fn on(mut self, stream: Option<Arc<OpenStream>>) -> Self {
        self._stream = stream;
        self
    }

    /// Counts the piece, until it is written or dropped, to the bytes of its answer that wait.
    pub(crate) fn counted_in(mut self, of_answer: Option<Arc<UnwrittenBytes>>) -> Self {
        if let Some(unwritten) = &of_answer {
            unwritten.add(self.charged_bytes);
        }
        self.of_answer = of_answer;
        self
    }
}

impl Buf for Outgoing {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn chunks_vectored<'a>(&'a self, to: &mut [IoSlice<'a>]) -> usize {
        self.bytes.chunks_vectored(to)
    }

    fn advance(&mut self, bytes: usize) {
        self.bytes.advance(bytes);
        self.connection.wrote();
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.connection.written(self.charged_bytes);
        self.connection.writing.frames.leave_queue();
        if let Some(unwritten) = &self.of_answer {
            unwritten.written(self.charged_bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::budget::{CALLERS_BYTES_MAX, MemoryBudget};

    const MIB: usize = 1024 * 1024;

    /// In a network of a hundred nodes each stream that has caught up keeps the heads of all strands.
    #[test]
    fn ten_thousand_streams_with_the_heads_of_a_hundred_strands_fit_with_a_quarter_to_spare() {
        // As `docs/protocol/api.md` states them: a topic while it is read and when it is live, and a cursor of 103
        // strands.
        const READ_TOPIC_BYTES: usize = 282;
        const TOPIC_BYTES: usize = 90;
        const CURSOR_BYTES: usize = 64 + 103 * 16;
        // Two thirds of the limit are the share of an address, and more is lent.
        const FIT_BYTES: usize = 240 * MIB;
        let budget = MemoryBudget::new(CALLERS_BYTES_MAX);
        let (mut connections, mut streams) = (Vec::new(), Vec::new());
        for _ in 0..100 {
            let connection =
                budget.connection(Ipv4Addr::LOCALHOST.into(), budget.account(None)).unwrap();
            for _ in 0..100 {
                let call = CallCharge::new(Arc::clone(&connection));
                call.take_for_call(12 * 1024).unwrap();
                call.take_lasting(100 * READ_TOPIC_BYTES + 2 * CURSOR_BYTES).unwrap();
                call.answers();
                call.give_back_lasting(100 * (READ_TOPIC_BYTES - TOPIC_BYTES) + CURSOR_BYTES);
                streams.push(call);
            }
            connections.push(connection);
        }
        assert!(budget.used_bytes() < FIT_BYTES / 4 * 3, "{} MiB", budget.used_bytes() / MIB);
        assert!(connections.iter().all(|it| !it.close.is_cancelled()));
    }

    #[test]
    fn a_stream_is_charged_the_same_once_it_answers_whatever_its_call_was_charged() {
        let budget = MemoryBudget::new(CALLERS_BYTES_MAX);
        let connection =
            budget.connection(Ipv4Addr::LOCALHOST.into(), budget.account(None)).unwrap();
        let idle = budget.used_bytes();
        for bytes in [STREAM_BYTES / 2, STREAM_BYTES, 2 * STREAM_BYTES] {
            let call = CallCharge::new(Arc::clone(&connection));
            call.take_for_call(bytes).unwrap();
            (0..2).for_each(|_| call.answers());
            assert_eq!(budget.used_bytes() - idle, STREAM_BYTES);
            drop(call);
            assert_eq!(budget.used_bytes(), idle);
        }
    }
}
