//! Receiving strands: the streams that a peer opens, decoded, for the wants that they answer.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hawser_engine::replication::{RequestId, StrandItem};
use hawser_engine::runtime::replication::ResponseSink;
use hawser_proto::OriginatorId;
use hawser_proto::frame::{BatchFrame, DataDecoder, DataFrame, GapFrameReason, StreamCode};
use quinn::{ReadError, RecvStream, VarInt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::arrived_bytes::{ArrivedBytes, TOLD_EVERY};
use crate::control::SessionError;
use crate::counters::{NetCounters, PeerError};
use crate::empty_frames::EmptyFrameAllowance;
use crate::open_wants::{OpenWants, StreamMatch};
use crate::streams::ReceivedStream;

/// Bytes of envelopes that a peer is asked to put into one batch at most. Guessed: a few milliseconds
/// of verification, so that strands take turns.
pub(crate) const BATCH_BYTES_MAX: u32 = 512 * 1024;
/// Chunks taken from QUIC in one read. Guessed: one burst of packets.
const CHUNKS: usize = 32;

/// Bytes of envelopes that are delivered together, though they have arrived in several frames. Equals the bytes that
/// may stand between gaps of one want in a search (`docs/protocol/replication.md`, Gaps).
const TOGETHER_BYTES_MAX: usize = 64 * 1024;
/// Frames that are delivered together, at most. A guess: more than that many bytes usually need.
const TOGETHER_FRAMES_MAX: usize = 256;

/// Bytes of a frame that is not whole beyond which it is a long one. A batch of the size that was asked for is below
/// it.
const LONG_BYTES: usize = 1024 * 1024;
/// Long frames that are gathered at a time from one peer, of all its strands together. A guess: one more than is
/// needed to use the whole connection.
const LONG_FRAMES_MAX: usize = 2;
/// Longest wait of a stream for its turn to send a long frame. A guess: two of the longest frames arrive within it at a
/// hundred megabits a second. A stream that waits keeps a part of the connection's window from the others.
const LONG_WAIT: Duration = Duration::from_secs(5);

/// Streams of one peer that keep what has arrived while their strands take nothing, at most. Calculated: with windows
/// of 4 MiB these leave an eighth of the connection's window, which control frames share.
const WAITING_MAX: usize = 7;
/// Time for which a further stream may wait so. A guess: half of the time for which a peer tries to send a control
/// frame.
const WAITING_FOR: Duration = Duration::from_secs(5);

/// Bounds the streams of one peer that are not read because their strands take nothing, for example while the disk is
/// slow. The peer's control frames would not arrive otherwise, and it would end the session.
#[derive(Debug, Clone)]
pub(crate) struct WaitingStreams(Arc<Semaphore>);

impl WaitingStreams {
    /// Returns the bound of a new session.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(WAITING_MAX)))
    }

    /// Completes when the stream that waits has to give its part of the window back. Cancel safe.
    async fn one_too_many(&self) {
        if let Ok(place) = timeout(WAITING_FOR, self.0.acquire()).await {
            let _place = place.expect("never closed");
            std::future::pending::<()>().await;
        }
    }
}

/// Bounds the long frames that are gathered from one peer.
///
/// A frame may have 32 MiB for the sake of the largest envelope, and a peer may be asked for every strand. Without a
/// bound it could send all of them but for the last byte.
#[derive(Debug, Clone)]
pub(crate) struct LongFrames(Arc<Semaphore>);

impl LongFrames {
    /// Returns the bound of a new session.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(LONG_FRAMES_MAX)))
    }

    /// Waits for a turn; `None` if none comes in time. Cancel safe.
    async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        let turn = timeout(LONG_WAIT, Arc::clone(&self.0).acquire_owned()).await;
        turn.ok().map(|turn| turn.expect("never closed"))
    }
}

/// The bounds of what a peer may send on its streams. Clones share them.
#[derive(Clone)]
pub(crate) struct FrameBounds {
    pub(crate) long: LongFrames,
    pub(crate) waiting: WaitingStreams,
    pub(crate) empty: EmptyFrameAllowance,
    /// This node has asked the peer for prefixes.
    pub(crate) takes_prefixes: bool,
}

/// Reads one stream that the peer has opened, to its end, or until its want is closed or the follower takes no more.
///
/// # Errors
/// When the stream breaks the protocol, answers no want, or the connection fails.
pub(crate) async fn read(
    stream: RecvStream,
    wants: Arc<OpenWants>,
    sink: ResponseSink,
    counters: Arc<NetCounters>,
    bounds: FrameBounds,
) -> Result<(), SessionError> {
    let mut stream = ReceivedStream::new(stream);
    let (decoder, ahead, turn) = (DataDecoder::new(), None, None);
    let (arrived, told_at) = (ArrivedBytes::default(), Instant::now());
    let mut receiver = StrandReceiver { decoder, ahead, counters, bounds, turn, arrived, told_at };
    let header = match receiver.next(&mut stream).await? {
        StreamEvent::Frame(DataFrame::Header(header)) => header,
        StreamEvent::Frame(_) | StreamEvent::More => return Err(PeerError::Protocol.into()),
        // The want was taken back before the stream began.
        StreamEvent::Finished | StreamEvent::Reset => return Ok(()),
    };
    if let StreamMatch::Answer(request, ended) = wants.match_stream(header)? {
        tokio::select! {
            biased;
            _ = ended => {}
            delivered = receiver.deliver(&mut stream, header.originator, request, &sink) => delivered?,
        }
    }
    // A stream whose end has not come is stopped when it is dropped.
    Ok(())
}

/// The next event of a stream.
enum StreamEvent {
    Frame(DataFrame),
    /// Bytes of a frame that is not whole.
    More,
    Finished,
    Reset,
}

/// The decoder of one strand's stream.
struct StrandReceiver {
    decoder: DataDecoder,
    /// The next frame, if the decoder has already given it out.
    ahead: Option<DataFrame>,
    counters: Arc<NetCounters>,
    bounds: FrameBounds,
    /// Held while a long frame is gathered, and until it is delivered.
    turn: Option<OwnedSemaphorePermit>,
    /// The bytes that have arrived since the follower was told of some.
    arrived: ArrivedBytes,
    told_at: Instant,
}

impl StrandReceiver {
    /// Reads the next frame; [`StreamEvent::Reset`] also where the peer sends too many long ones at a time. Bytes are
    /// taken from QUIC only when no whole frame is left, so the window of the stream is the back-pressure.
    async fn next(&mut self, stream: &mut RecvStream) -> Result<StreamEvent, SessionError> {
        if let Some(frame) = self.ahead.take() {
            return Ok(StreamEvent::Frame(frame));
        }
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                return Ok(StreamEvent::Frame(frame));
            }
            if self.take_news(Instant::now()) {
                return Ok(StreamEvent::More);
            }
            if self.decoder.held_bytes() < LONG_BYTES {
                self.turn = None;
            } else if self.turn.is_none() {
                self.turn = self.bounds.long.turn().await;
                if self.turn.is_none() {
                    // Now, because the follower may take the news of the end only when its disk has stored something.
                    let _ = stream.stop(VarInt::from_u32(StreamCode::Stopped.code()));
                    // As if the peer had ended it: the strand is asked for again.
                    return Ok(StreamEvent::Reset);
                }
            }
            let mut chunks: [Bytes; CHUNKS] = Default::default();
            match stream.read_chunks(&mut chunks).await {
                Ok(Some(count)) => {
                    for chunk in chunks.into_iter().take(count) {
                        self.counters.bytes_received.inc_by(chunk.len() as u64);
                        self.arrived.add(chunk.len());
                        self.decoder.push(chunk);
                    }
                }
                Ok(None) => {
                    self.decoder.finish()?;
                    return Ok(StreamEvent::Finished);
                }
                Err(ReadError::Reset(_)) => return Ok(StreamEvent::Reset),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Returns true if the follower is to be told now that more bytes have arrived.
    fn take_news(&mut self, now: Instant) -> bool {
        let is_due = now >= self.told_at + TOLD_EVERY && self.arrived.take_enough();
        if is_due {
            self.told_at = now;
        }
        is_due
    }

    /// Returns the items of a batch or a gap, and of the short ones behind it that have arrived: a peer sends each gap
    /// by itself, and the follower searches together for those that it sees together.
    ///
    /// # Errors
    /// When a batch is too large, or the peer has sent too many frames without envelopes.
    fn gather(&mut self, first: DataFrame) -> Result<Vec<StrandItem<Bytes>>, PeerError> {
        let mut bytes = envelope_bytes(&first).unwrap_or(0);
        let mut items = self.items(first)?;
        // Nothing joins a long batch. A peer that sends a backlog sends these.
        if bytes > TOGETHER_BYTES_MAX {
            return Ok(items);
        }
        for _ in 1..TOGETHER_FRAMES_MAX {
            // An error of the decoder is returned again by its next call.
            let Some(frame) = self.decoder.next_frame().ok().flatten() else { break };
            let with_frame = envelope_bytes(&frame).map(|more| bytes.saturating_add(more));
            let Some(together) = with_frame.filter(|bytes| *bytes <= TOGETHER_BYTES_MAX) else {
                self.ahead = Some(frame);
                break;
            };
            bytes = together;
            items.extend(self.items(frame)?);
        }
        Ok(items)
    }

    /// Returns the items of a batch or a gap; of another frame none.
    ///
    /// # Errors
    /// As [`gather`](Self::gather).
    fn items(&self, frame: DataFrame) -> Result<Vec<StrandItem<Bytes>>, PeerError> {
        match frame {
            DataFrame::Batch(batch) => {
                self.bounds.empty.explain(batch.len());
                envelopes(&batch)
            }
            DataFrame::Gap(gap) => {
                self.bounds.empty.take(Instant::now())?;
                let expired = gap.reason == GapFrameReason::Expired;
                Ok(vec![StrandItem::Gap { from: gap.from, to: gap.to, expired }])
            }
            DataFrame::Header(_) | DataFrame::Prefix(_) | DataFrame::End(_) => Ok(Vec::new()),
        }
    }

    /// Delivers all frames to the engine's follower, until the stream has ended or the follower takes no more.
    async fn deliver(
        &mut self,
        stream: &mut RecvStream,
        originator: OriginatorId,
        request: RequestId,
        sink: &ResponseSink,
    ) -> Result<(), SessionError> {
        let (mut is_whole, mut prefix) = (false, None);
        loop {
            let items = match self.next(stream).await? {
                StreamEvent::More => Vec::new(),
                // A prefix belongs to the batch behind it: the decoder accepts no other frame there.
                StreamEvent::Frame(DataFrame::Prefix(shown)) if self.bounds.takes_prefixes => {
                    prefix = Some(StrandItem::Prefix(shown));
                    continue;
                }
                StreamEvent::Frame(batch @ DataFrame::Batch(_)) if prefix.is_some() => {
                    prefix.take().into_iter().chain(self.items(batch)?).collect()
                }
                StreamEvent::Frame(frame @ (DataFrame::Batch(_) | DataFrame::Gap(_))) => {
                    self.gather(frame)?
                }
                StreamEvent::Frame(DataFrame::End(_)) => {
                    self.bounds.empty.take(Instant::now())?;
                    is_whole = true;
                    vec![StrandItem::End]
                }
                StreamEvent::Frame(DataFrame::Header(_) | DataFrame::Prefix(_)) => {
                    return Err(PeerError::Protocol.into());
                }
                StreamEvent::Finished | StreamEvent::Reset if is_whole => return Ok(()),
                StreamEvent::Finished | StreamEvent::Reset => {
                    return close(sink.clone(), originator, request).await;
                }
            };
            let mut delivery = pin!(sink.deliver(originator, request, items));
            let taken = tokio::select! {
                biased; // most strands have room at once
                taken = delivery.as_mut() => taken,
                () = self.bounds.waiting.one_too_many() => {
                    let _ = stream.stop(VarInt::from_u32(StreamCode::Stopped.code()));
                    // As if the peer had ended it: the strand is asked for again.
                    if delivery.await.is_ok() && !is_whole {
                        return close(sink.clone(), originator, request).await;
                    }
                    return Ok(());
                }
            };
            if taken.is_err() {
                return Ok(());
            }
        }
    }
}

/// Returns the bytes of envelopes of a frame; `None` for one that is neither a batch nor a gap.
fn envelope_bytes(frame: &DataFrame) -> Option<usize> {
    match frame {
        DataFrame::Batch(batch) => Some(batch.envelopes().map(|envelope| envelope.len()).sum()),
        DataFrame::Gap(_) => Some(0),
        DataFrame::Header(_) | DataFrame::Prefix(_) | DataFrame::End(_) => None,
    }
}

/// Copies the envelopes of a batch, each into memory of its own. The copies may wait in queues that count their bytes.
/// The envelopes of the frame share a buffer with everything that was read from the network at once, and a peer can
/// fill the rest of it with padding, which no queue would count.
///
/// # Errors
/// [`PeerError::Oversized`] when it exceeds the size asked for, unless it is a single envelope.
fn envelopes(batch: &BatchFrame) -> Result<Vec<StrandItem<Bytes>>, PeerError> {
    let bytes: usize = batch.envelopes().map(|envelope| envelope.len()).sum();
    let is_within = u32::try_from(bytes).is_ok_and(|bytes| bytes <= BATCH_BYTES_MAX);
    if batch.len() > 1 && !is_within {
        return Err(PeerError::Oversized);
    }
    let own = |envelope: Bytes| StrandItem::Envelope(Bytes::copy_from_slice(&envelope));
    Ok(batch.envelopes().map(own).collect())
}

/// Notifies the engine's follower that its want will not be answered.
pub(crate) async fn close(
    sink: ResponseSink,
    originator: OriginatorId,
    request: RequestId,
) -> Result<(), SessionError> {
    // Fails only if the follower has dropped the request.
    let _ = sink.deliver(originator, request, vec![StrandItem::Closed]).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use hawser_proto::SequenceId;
    use hawser_proto::frame::{BatchBuilder, EndFrame, GapFrame, StreamHeader};
    use tokio::runtime::Builder;
    use tokio::task::JoinSet;

    use super::*;
    use crate::empty_frames::EmptyFrames;
    use crate::threaded_ends::{ThreadedEnd, connect};

    const PEER: OriginatorId = OriginatorId(200);
    const KIB: usize = 1024;

    fn encoded(frame: &DataFrame) -> Bytes {
        let mut bytes = BytesMut::new();
        frame.encode(&mut bytes);
        bytes.freeze()
    }

    fn batch(len: usize) -> Bytes {
        let mut builder = BatchBuilder::new(u32::MAX);
        builder.push(&vec![7; len]).unwrap();
        builder.finish().unwrap()
    }

    fn gap() -> Bytes {
        let (from, to) = (SequenceId(1), SequenceId(1));
        encoded(&DataFrame::Gap(GapFrame { from, to, reason: GapFrameReason::Missing }))
    }

    /// A receiver for which these frames have arrived, behind the header.
    fn receiver(frames: impl IntoIterator<Item = Bytes>) -> StrandReceiver {
        let header = StreamHeader { originator: PEER, after: SequenceId::NONE, want: None };
        let mut decoder = DataDecoder::new();
        decoder.push(encoded(&DataFrame::Header(header)));
        frames.into_iter().for_each(|frame| decoder.push(frame));
        assert!(matches!(decoder.next_frame(), Ok(Some(DataFrame::Header(_)))));
        let empty = EmptyFrames::default().of(PEER, Instant::now());
        let (long, waiting) = (LongFrames::new(), WaitingStreams::new());
        let bounds = FrameBounds { long, waiting, empty, takes_prefixes: false };
        let counters = Arc::new(NetCounters::default());
        let (arrived, told_at) = (ArrivedBytes::default(), Instant::now());
        StrandReceiver { decoder, ahead: None, counters, bounds, turn: None, arrived, told_at }
    }

    /// Returns the lengths of the envelopes that are delivered next; 0 stands for a gap.
    fn together(receiver: &mut StrandReceiver) -> Vec<usize> {
        let ahead = receiver.ahead.take();
        let first = ahead.or_else(|| receiver.decoder.next_frame().unwrap()).unwrap();
        let items = receiver.gather(first).unwrap();
        let len = |item: &StrandItem<Bytes>| match item {
            StrandItem::Envelope(bytes) => bytes.len(),
            _ => 0,
        };
        items.iter().map(len).collect()
    }

    /// The follower searches for gaps together only if it sees them together.
    #[test]
    fn gaps_and_short_batches_that_have_arrived_are_delivered_together() {
        let mut few = receiver([batch(9), gap(), batch(8), gap(), batch(7)]);
        assert_eq!(together(&mut few), [9, 0, 8, 0, 7]);
        let mut many = receiver([batch(60 * KIB), gap(), batch(5 * KIB), gap()]);
        assert_eq!(together(&mut many), [60 * KIB, 0]);
        assert_eq!(together(&mut many), [5 * KIB, 0]);
        let mut long = receiver([batch(100 * KIB), gap(), batch(9)]);
        assert_eq!(together(&mut long), [100 * KIB]);
        assert_eq!(long.ahead, None, "no more than that was looked at");
        assert_eq!(together(&mut long), [0, 9]);
        let mut flood = receiver((0..300).map(|_| gap()));
        assert_eq!(together(&mut flood).len(), TOGETHER_FRAMES_MAX);
    }

    /// Played by a node that follows many strands of one peer, and whose disk takes nothing for an hour.
    #[tokio::test(start_paused = true)]
    async fn streams_that_wait_beside_seven_others_give_their_part_of_the_window_back() {
        let (waiting, mut streams) = (WaitingStreams::new(), JoinSet::new());
        for number in 0..WAITING_MAX + 2 {
            let waiting = waiting.clone();
            streams.spawn(async move {
                waiting.one_too_many().await;
                number
            });
        }
        let mut ended = Vec::new();
        while let Ok(Some(number)) = timeout(Duration::from_secs(3_600), streams.join_next()).await
        {
            ended.push(number.unwrap());
        }
        ended.sort_unstable();
        assert_eq!(ended, [WAITING_MAX, WAITING_MAX + 1]);
        streams.abort_all();
        while streams.join_next().await.is_some() {}
        assert_eq!(waiting.0.available_permits(), WAITING_MAX, "their places are given back");
    }

    /// Played by a peer that begins long frames of many strands, at a node whose disk takes nothing: the stream lives
    /// on until the follower has taken the news of its end.
    #[test]
    fn a_stream_that_gets_no_turn_gives_its_part_of_the_window_back_before_it_goes() {
        let (node, peer) = (ThreadedEnd::new(1), ThreadedEnd::new(2));
        let (connection, dialled) = connect(&node, &peer);
        let frame = batch(2 * LONG_BYTES);
        let sent = peer.runtime.block_on(async {
            let mut sent = dialled.open_uni().await.unwrap();
            sent.write_all(&frame[..frame.len() - 1]).await.unwrap();
            sent
        });
        let stream = node.runtime.block_on(connection.accept_uni()).unwrap();
        let (mut stream, mut receiver) = (ReceivedStream::new(stream), receiver(Vec::new()));
        // Its clock moves on when nothing else happens.
        let reading =
            Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let event = reading.block_on(async {
            let long = receiver.bounds.long.clone();
            let _turns = [long.turn().await, long.turn().await];
            loop {
                match receiver.next(&mut stream).await.unwrap() {
                    StreamEvent::More => {}
                    event => break event,
                }
            }
        });
        assert!(matches!(event, StreamEvent::Reset));
        let stopped = async { timeout(Duration::from_secs(60), sent.stopped()).await };
        let stopped = peer.runtime.block_on(stopped).expect("the peer is told");
        assert_eq!(stopped.unwrap(), Some(VarInt::from_u32(StreamCode::Stopped.code())));
    }

    /// A batch of long envelopes over a slow link takes longer than a peer may show nothing.
    #[test]
    fn the_follower_is_told_now_and_then_that_much_of_a_frame_has_arrived() {
        let mut receiver = receiver(Vec::new());
        let due = receiver.told_at + TOLD_EVERY;
        receiver.arrived.add(100);
        assert!(!receiver.take_news(due));
        receiver.arrived.add(64 * KIB);
        assert!(!receiver.take_news(due - Duration::from_millis(1)));
        assert!(receiver.take_news(due));
        receiver.arrived.add(64 * KIB);
        assert!(!receiver.take_news(due), "it was told just now");
        assert!(receiver.take_news(due + TOLD_EVERY));
    }

    #[test]
    fn an_envelope_keeps_nothing_of_what_came_with_it() {
        let (frame, mut receiver) = (batch(9), receiver(Vec::new()));
        let read = Bytes::from([&frame[..], &[0; 10_000]].concat());
        receiver.decoder.push(read.slice(..frame.len()));
        let frame = receiver.decoder.next_frame().unwrap().unwrap();
        assert!(!read.is_unique(), "a frame is a part of what was read");
        let items = receiver.gather(frame).unwrap();
        assert_eq!(items, [StrandItem::Envelope(Bytes::from_static(&[7; 9]))]);
        drop(receiver);
        assert!(read.is_unique(), "the items share its memory");
    }

    #[test]
    fn other_frames_stay_where_they_are() {
        let end = DataFrame::End(EndFrame { through: SequenceId(9) });
        let mut ended = receiver([batch(9), gap(), encoded(&end)]);
        assert_eq!(together(&mut ended), [9, 0]);
        assert_eq!(ended.ahead, Some(end));
        // What breaks the protocol is found behind what came before it.
        let mut broken = receiver([batch(9), Bytes::from_static(&[0xff; 64])]);
        assert_eq!(together(&mut broken), [9]);
        assert!(broken.decoder.next_frame().is_err());
    }
}
