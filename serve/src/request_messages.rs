//! The messages of a stream of requests, for a handler that takes them itself.
//!
//! The library's reader keeps the buffer of the longest message for as long as its stream lasts, and twice that length
//! for a message that came in one piece. A stream that has sent one message of megabytes and then nothing would hold
//! memory that its caller is not charged for. This reader holds a message until its handler has it, and nothing between
//! two messages. Long messages are decoded outside of the runtime's threads.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::Extensions;
use parking_lot::Mutex;
use tonic::{Code, Status};

use crate::budget::changes::ChangeUnderWay;
use crate::message_boundaries::HEAD_LEN_BYTES;
use crate::request::{RequestBody, WorkFuture};

/// Bytes that are read while a handler takes no messages. A guess: thousands of pings, or a thousand topics. Most
/// clients send less than that in advance.
const AHEAD_BYTES_MAX: usize = 64 * 1024;

/// The messages of a stream of requests, whole and not decoded. A handler gets them with [`RequestMessages::take`].
pub struct RequestMessages {
    body: RequestBody,
    /// Messages with their heads, all of them whole.
    unread: BytesMut,
    /// The change to which these messages and the last one returned belong, if it is under way and was not taken.
    change: Option<Arc<ChangeUnderWay>>,
}

/// A message that is being decoded: see [`RequestMessages::decode`].
pub struct DecodingMessage<T>(WorkFuture<Result<T, Status>>);

/// The body of a request in its extensions, until its handler takes it.
#[derive(Clone)]
pub(crate) struct UntakenBody(Arc<Mutex<Option<RequestBody>>>);

impl UntakenBody {
    /// Keeps a body for the handler.
    pub(crate) fn new(body: RequestBody) -> Self {
        Self(Arc::new(Mutex::new(Some(body))))
    }
}

impl RequestMessages {
    /// Takes the messages of the request with these extensions. The request's own body is empty.
    ///
    /// # Panics
    /// If the method is not [declared](crate::RpcMethod::taking_messages) to take its messages, or they were taken
    /// before.
    #[must_use]
    pub fn take(extensions: &Extensions) -> Self {
        let untaken = extensions.get::<UntakenBody>();
        let body = untaken.and_then(|untaken| untaken.0.lock().take());
        let body = body.expect("the listener hands over the messages of such a method once");
        Self::new(body)
    }

    pub(crate) fn new(body: RequestBody) -> Self {
        Self { body, unread: BytesMut::new(), change: None }
    }

    /// Returns the next message; `None` after the last one, or if the caller has left. The memory to decode it is
    /// charged until the next call. Lets other tasks have a turn after some messages. Cancel safe.
    ///
    /// # Errors
    /// The status that refuses the request.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        // A message may have seven bytes and no content. Its handler would otherwise go through a window of them, and
        // what comes meanwhile, in one turn.
        tokio::task::coop::consume_budget().await;
        if self.unread.is_empty() {
            self.change = None;
            let mut change = None;
            match self.body.next_whole(&mut self.unread, &mut change).await {
                Ok(true) => self.change = change.map(Arc::new),
                Ok(false) => return Ok(None),
                Err(status) if status.code() == Code::Cancelled => return Ok(None),
                Err(status) => return Err(status),
            }
        }
        self.cut().map(Some)
    }

    /// Returns the change to which the last message from [`next`](Self::next) belongs, if the change counts as under
    /// way. The caller keeps it for as long as the message occupies memory, or the parts of it that the stream keeps
    /// until it has caught up. Messages that arrive together are one change, which ends with the last of them.
    #[must_use]
    pub fn take_change(&mut self) -> Option<Arc<ChangeUnderWay>> {
        if self.unread.is_empty() { self.change.take() } else { self.change.clone() }
    }

    /// Begins to decode a message that [`next`](Self::next) has returned, outside of the runtime's threads if it is
    /// long. The message stays charged until the work is done, even if the result is dropped before. The next message
    /// must not be taken before this one [is decoded](Self::decoded).
    #[must_use]
    pub fn decode<T: Send + 'static>(
        &self,
        message: Bytes,
        decode: impl FnOnce(Bytes) -> Result<T, Status> + Send + 'static,
    ) -> DecodingMessage<T> {
        DecodingMessage(self.body.begin_work(message, decode))
    }

    /// Waits until a message is decoded. Bytes that come meanwhile are read and charged. Cancel safe, so a handler can
    /// do other things while the message waits for a thread. Not to be called again after that.
    ///
    /// # Errors
    /// Those of `decode`; INTERNAL if it has panicked, or the runtime stops; RESOURCE_EXHAUSTED if there is no memory
    /// for what comes.
    pub async fn decoded<T>(&mut self, decoding: &mut DecodingMessage<T>) -> Result<T, Status> {
        self.body.work_done(&mut decoding.0).await?
    }

    /// Reads on while the handler takes no messages, and charges what comes. Completes when it
    /// [is far ahead](Self::is_far_ahead). Cancel safe.
    ///
    /// # Errors
    /// The status that refuses the request.
    pub async fn read_ahead(&mut self) -> Result<(), Status> {
        self.body.read_ahead(AHEAD_BYTES_MAX).await.map_err(Status::from)
    }

    /// Returns true if so much has come in advance that the rest stays in the window of the call, for which nothing is
    /// charged. The handler charges it for as long as it takes no messages.
    #[must_use]
    pub fn is_far_ahead(&self) -> bool {
        self.body.ahead_bytes() >= AHEAD_BYTES_MAX
    }

    /// Returns true if a message has come whole that [`next`](Self::next) has not returned yet. It is there, or waits
    /// for memory, for half a minute at most.
    #[must_use]
    pub fn has_next(&self) -> bool {
        !self.unread.is_empty() || self.body.has_whole()
    }

    /// Cuts the first message off.
    ///
    /// # Errors
    /// A status for a compressed message of a request that names no compression.
    fn cut(&mut self) -> Result<Bytes, Status> {
        let [flag, length @ ..] =
            *self.unread.first_chunk::<HEAD_LEN_BYTES>().unwrap_or(&[0; HEAD_LEN_BYTES]);
        if flag != 0 {
            return Err(Status::internal(
                "received a message with compressed-flag but no grpc-encoding was specified",
            ));
        }
        let end = HEAD_LEN_BYTES.saturating_add(u32::from_be_bytes(length) as usize);
        let mut message = self.unread.split_to(end.min(self.unread.len()));
        if self.unread.is_empty() {
            self.unread = BytesMut::new(); // the empty rest would keep the memory of the message
        }
        Ok(message.split_off(HEAD_LEN_BYTES.min(message.len())).freeze())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::Ipv4Addr;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use futures_util::{FutureExt as _, StreamExt as _};
    use http::Version;
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use proptest::prelude::*;
    use tokio::time::{Instant, timeout};
    use tonic::body::Body;

    use super::*;
    use crate::budget::{ConnectionShare, MemoryBudget};
    use crate::call_metrics::MethodMetrics;
    use crate::call_share::CallCharge;
    use crate::long_work::occupy_workers;
    use crate::method::{MethodKind, RpcMethod};

    const LIMIT: usize = 64 * 1024 * 1024;

    fn framed(len: usize) -> Vec<u8> {
        let mut framed = vec![0];
        framed.extend_from_slice(&u32::try_from(len).unwrap().to_be_bytes());
        framed.resize(HEAD_LEN_BYTES + len, 9);
        framed
    }

    fn connection(budget: &MemoryBudget) -> Arc<ConnectionShare> {
        budget.connection(Ipv4Addr::LOCALHOST.into(), budget.account(None)).unwrap()
    }

    /// Returns the messages of a body that comes in pieces of a length, and ends.
    fn messages(bytes: &[u8], piece: usize, share: &Arc<ConnectionShare>) -> RequestMessages {
        RequestMessages::new(body(bytes, piece, true, share))
    }

    /// Returns a body that comes in pieces of a length, and then ends or stays open.
    fn body(bytes: &[u8], piece: usize, ends: bool, share: &Arc<ConnectionShare>) -> RequestBody {
        let pieces: Vec<Bytes> = bytes.chunks(piece).map(Bytes::copy_from_slice).collect();
        let pieces = pieces.into_iter().map(|piece| Ok::<_, Status>(Frame::data(piece)));
        let pieces = tokio_stream::iter(pieces);
        let body = if ends {
            Body::new(StreamBody::new(pieces))
        } else {
            Body::new(StreamBody::new(pieces.chain(futures_util::stream::pending())))
        };
        let method = RpcMethod::new("/a.B/C", MethodKind::Bidi).decoding(&[]).taking_messages();
        let metrics = Box::leak(Box::new(MethodMetrics::new(method)));
        let (charge, timeout) = (CallCharge::new(Arc::clone(share)), Duration::from_secs(30));
        RequestBody::new(body, Version::HTTP_2, metrics, charge, timeout)
    }

    fn run<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.unwrap().block_on(work)
    }

    proptest! {
        #[test]
        fn messages_are_what_they_were_whatever_pieces_they_come_in(
            lens in proptest::collection::vec(0usize..50, 0..6),
            piece in 1usize..200,
        ) {
            let bytes: Vec<u8> = lens.iter().flat_map(|&len| framed(len)).collect();
            let mut messages = messages(&bytes, piece, &connection(&MemoryBudget::new(LIMIT)));
            let taken = run(async {
                let mut taken = Vec::new();
                while let Some(message) = messages.next().await.unwrap() {
                    taken.push(message.len());
                }
                taken
            });
            prop_assert_eq!(taken, lens);
        }
    }

    /// A client sends thousands of messages without content at once.
    #[test]
    fn other_tasks_have_turns_between_the_messages_of_a_stream() {
        let share = connection(&MemoryBudget::new(LIMIT));
        let mut messages = messages(&framed(0).repeat(10_000), usize::MAX, &share);
        let turns = run(async {
            let turns = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&turns);
            let other = tokio::spawn(async move {
                loop {
                    counted.fetch_add(1, Ordering::Relaxed);
                    tokio::task::yield_now().await;
                }
            });
            while messages.next().await.unwrap().is_some() {}
            other.abort();
            turns.load(Ordering::Relaxed)
        });
        assert!(turns >= 10, "{turns} turns");
    }

    /// A client sends a message of megabytes and keeps its stream open.
    #[tokio::test]
    async fn nothing_of_a_message_is_kept_when_its_handler_has_dropped_it() {
        for piece in [1000, 64 * 1024, usize::MAX] {
            let budget = MemoryBudget::new(LIMIT);
            let bytes = [framed(4 << 20), framed(3)].concat();
            let mut messages = messages(&bytes, piece, &connection(&budget));
            let first = messages.next().await.unwrap().unwrap();
            assert_eq!(first.len(), 4 << 20);
            assert!(budget.used_bytes() > 4 << 20, "it is charged while it is used");
            drop(first);
            assert_eq!(messages.next().await.unwrap().unwrap().len(), 3);
            assert_eq!(messages.unread.capacity(), 0);
            assert!(messages.body.kept_bytes() < 64 * 1024, "{}", messages.body.kept_bytes());
            assert!(messages.next().await.unwrap().is_none());
            assert!(budget.used_bytes() < 64 * 1024, "{}", budget.used_bytes());
        }
    }

    /// A peer fills the window of its call while a message waits for memory.
    #[tokio::test(start_paused = true)]
    async fn what_comes_while_a_message_waits_for_memory_is_charged() {
        let budget = MemoryBudget::new(LIMIT);
        let share = connection(&budget);
        while share.take_spare(16 * 1024).is_some() {}
        let before = budget.used_bytes();
        // A thousand fields, and then more than one piece.
        let bytes = [framed(9000), framed(100_000)].concat();
        let mut messages = messages(&bytes, HEAD_LEN_BYTES + 9000, &share);
        assert!(messages.next().now_or_never().is_none(), "it waits");
        let kept_bytes = messages.body.kept_bytes();
        assert_eq!(budget.used_bytes(), before + kept_bytes);
        assert!((bytes.len()..bytes.len() + 16 * 1024).contains(&kept_bytes), "{kept_bytes}");
        assert_eq!(messages.next().await.unwrap().unwrap().len(), 9000);
        assert_eq!(messages.next().await.unwrap().unwrap().len(), 100_000);
        assert!(messages.next().await.unwrap().is_none());
        assert_eq!(budget.used_bytes(), before);
    }

    /// A message waits for memory, and what is read ahead meanwhile ends within the next one.
    #[tokio::test(start_paused = true)]
    async fn what_was_read_ahead_is_charged_once() {
        let budget = MemoryBudget::new(LIMIT);
        let share = connection(&budget);
        while share.take_spare(16 * 1024).is_some() {}
        let before = budget.used_bytes();
        let bytes = [framed(9000), framed(100_000)].concat();
        let mut messages = RequestMessages::new(body(&bytes[..50_000], 10_000, false, &share));
        assert!(messages.next().now_or_never().is_none(), "it waits");
        assert_eq!(budget.used_bytes(), before + messages.body.kept_bytes());
        assert_eq!(messages.next().await.unwrap().unwrap().len(), 9000);
        assert!(messages.next().now_or_never().is_none(), "the second one is not here");
        assert_eq!(budget.used_bytes(), before + messages.body.kept_bytes());
        assert!(messages.body.kept_bytes() < 64 * 1024, "{}", messages.body.kept_bytes());
    }

    /// Messages that come together take their memory together.
    #[tokio::test]
    async fn a_change_is_under_way_until_the_last_of_its_messages_is_done() {
        let share = connection(&MemoryBudget::new(LIMIT));
        share.take(LIMIT / 4).unwrap();
        let is_none_under_way = || share.begin_change(LIMIT / 32).is_some();
        for done_first in [0, 1] {
            // A thousand fields each.
            let mut messages = messages(&framed(9000).repeat(2), usize::MAX, &share);
            let mut changes = Vec::new();
            for _ in 0..2 {
                assert!(messages.next().await.unwrap().is_some());
                changes.push(messages.take_change().expect("it is under way"));
            }
            drop(changes.remove(done_first));
            assert!(!is_none_under_way(), "one of them is not done");
            drop(changes);
            assert!(is_none_under_way(), "although its stream goes on");
        }
    }

    /// A handler that has not asked for the change of a message is done with it when it asks for another message.
    #[tokio::test]
    async fn a_change_that_is_not_taken_ends_with_the_next_call() {
        let share = connection(&MemoryBudget::new(LIMIT));
        share.take(LIMIT / 4).unwrap();
        let is_none_under_way = || share.begin_change(LIMIT / 32).is_some();
        let mut messages = messages(&framed(9000), usize::MAX, &share);
        assert!(messages.next().await.unwrap().is_some());
        assert!(!is_none_under_way());
        assert!(messages.next().await.unwrap().is_none());
        assert!(is_none_under_way());
    }

    /// One change has a long history to deliver. Meanwhile as many further changes begin and end as the address may
    /// have at once.
    #[tokio::test(start_paused = true)]
    async fn changes_of_a_stream_do_not_wait_for_those_that_have_ended_beside_a_long_one() {
        let share = connection(&MemoryBudget::new(LIMIT));
        share.take(LIMIT / 4).unwrap();
        let mut messages = messages(&framed(9000).repeat(200), HEAD_LEN_BYTES + 9000, &share);
        assert!(messages.next().await.unwrap().is_some());
        let _long = messages.take_change().expect("it is under way");
        let began = Instant::now();
        for _ in 1..200 {
            assert!(messages.next().await.unwrap().is_some());
            drop(messages.take_change().expect("it has not waited in vain"));
        }
        assert_eq!(began.elapsed(), Duration::ZERO, "none waits");
    }

    /// A client sends message after message, in pieces that do not end with any of them.
    #[tokio::test]
    async fn a_message_is_charged_no_longer_than_until_its_handler_asks_for_more() {
        let budget = MemoryBudget::new(LIMIT);
        let share = connection(&budget);
        let before = budget.used_bytes();
        let mut messages = messages(&framed(9000).repeat(100), 10_000, &share);
        let (mut taken, mut most_bytes) = (0, 0_usize);
        while messages.next().await.unwrap().is_some() {
            taken += 1;
            most_bytes = most_bytes.max(budget.used_bytes() - before);
        }
        assert_eq!(taken, 100);
        assert!(most_bytes < 100 * 1024, "{most_bytes}");
        assert_eq!(budget.used_bytes(), before);
    }

    /// A client sends a hundred compressed messages in one piece.
    #[tokio::test]
    async fn compressed_messages_are_charged_one_after_the_other() {
        let budget = MemoryBudget::new(LIMIT);
        let share = connection(&budget);
        let before = budget.used_bytes();
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&[9; 900]).unwrap();
        let compressed = encoder.finish().unwrap();
        let head = [&[1][..], &u32::try_from(compressed.len()).unwrap().to_be_bytes()[..]].concat();
        let bytes = [head, compressed].concat().repeat(100);
        let mut messages =
            RequestMessages::new(body(&bytes, usize::MAX, true, &share).decompressing());
        let (mut taken, mut most_bytes) = (0, 0_usize);
        while let Some(message) = messages.next().await.unwrap() {
            assert_eq!(message.len(), 900);
            taken += 1;
            most_bytes = most_bytes.max(budget.used_bytes() - before);
        }
        assert_eq!(taken, 100);
        assert!(most_bytes < 128 * 1024, "{most_bytes}");
        assert_eq!(budget.used_bytes(), before);
    }

    /// Other events of the stream interrupt the wait of a message for memory: it goes on where it was.
    #[tokio::test(start_paused = true)]
    async fn a_message_waits_for_memory_as_long_however_often_its_wait_is_interrupted() {
        let budget = MemoryBudget::new(LIMIT);
        let share = connection(&budget);
        while share.take(1024).is_ok() {}
        share.give_back(16 * 1024);
        // A thousand fields: their bytes fit, and decoding them takes more than is left.
        let mut messages = messages(&framed(9000), HEAD_LEN_BYTES + 9000, &share);
        assert!(!messages.has_next(), "none has come");
        let began = Instant::now();
        let status = loop {
            match timeout(Duration::from_millis(300), messages.next()).await {
                Ok(message) => break message.unwrap_err(),
                Err(_) => {
                    assert!(messages.has_next(), "it has come");
                    assert!(began.elapsed() < Duration::from_secs(6), "it waits anew");
                }
            }
        };
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(began.elapsed().as_secs(), 5);
    }

    /// A handler takes no messages for a while, and its client sends on.
    #[tokio::test]
    async fn what_comes_while_no_message_is_taken_is_charged_up_to_a_bound() {
        let budget = MemoryBudget::new(LIMIT);
        let share = connection(&budget);
        let before = budget.used_bytes();
        let bytes = [framed(3), framed(200_000)].concat();
        let mut messages = messages(&bytes, 1000, &share);
        assert_eq!(messages.next().await.unwrap().unwrap().len(), 3);
        assert!(!messages.is_far_ahead());
        messages.read_ahead().await.unwrap();
        assert!(messages.is_far_ahead());
        let kept_bytes = messages.body.kept_bytes();
        assert!((AHEAD_BYTES_MAX..2 * AHEAD_BYTES_MAX).contains(&kept_bytes), "{kept_bytes}");
        let used_bytes = budget.used_bytes() - before;
        assert!((kept_bytes..kept_bytes + 1024).contains(&used_bytes), "{used_bytes}");
        assert_eq!(messages.next().await.unwrap().unwrap().len(), 200_000);
        assert!(!messages.is_far_ahead());
        assert!(messages.read_ahead().now_or_never().is_none(), "nothing comes after the end");
        assert!(messages.next().await.unwrap().is_none());
        assert_eq!(budget.used_bytes(), before);
    }

    /// The test's runtime has one thread.
    #[tokio::test]
    async fn long_messages_are_decoded_beside_the_runtimes_threads() {
        let share = connection(&MemoryBudget::new(LIMIT));
        let bytes = [framed(100), framed(100_000)].concat();
        let mut messages = messages(&bytes, usize::MAX, &share);
        let own = std::thread::current().id();
        for is_long in [false, true] {
            let message = messages.next().await.unwrap().unwrap();
            let decode = |message: Bytes| Ok((message.len(), std::thread::current().id()));
            let mut decoding = messages.decode(message, decode);
            let (len, thread) = messages.decoded(&mut decoding).await.unwrap();
            assert_eq!(thread != own, is_long, "{len} bytes");
        }
    }

    /// Other callers keep all threads for long messages busy.
    #[tokio::test]
    async fn a_handler_can_do_other_things_while_its_message_waits_to_be_decoded() {
        let share = connection(&MemoryBudget::new(LIMIT));
        let mut messages = messages(&framed(100_000), usize::MAX, &share);
        let message = messages.next().await.unwrap().unwrap();
        let occupied = occupy_workers().await;
        let mut decoding = messages.decode(message, |message| Ok(message.len()));
        for _ in 0..3 {
            assert!(messages.decoded(&mut decoding).now_or_never().is_none(), "it waits");
        }
        drop(occupied);
        assert_eq!(messages.decoded(&mut decoding).await.unwrap(), 100_000);
    }

    #[tokio::test]
    async fn a_compressed_message_without_a_named_compression_is_refused() {
        let mut bytes = framed(3);
        bytes[0] = 1;
        let mut messages = messages(&bytes, 100, &connection(&MemoryBudget::new(LIMIT)));
        assert_eq!(messages.next().await.unwrap_err().code(), Code::Internal);
    }
}
