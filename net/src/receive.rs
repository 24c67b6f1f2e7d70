//! Receiving strands: the streams that a peer opens, decoded, for the wants that they answer.

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

use crate::control::SessionError;
use crate::counters::{NetCounters, PeerError};
use crate::empty_frames::EmptyFrameAllowance;
use crate::open_wants::{OpenWants, StreamMatch};

/// Bytes of envelopes that a peer is asked to put into one batch at most. Guessed: a few milliseconds
/// of verification, so that strands take turns.
pub(crate) const BATCH_BYTES_MAX: u32 = 512 * 1024;
/// Chunks taken from QUIC in one read. Guessed: one burst of packets.
const CHUNKS: usize = 32;

/// Bytes of a frame that is not whole beyond which it is a long one. A batch of the size that was asked for is below
/// it.
const LONG_BYTES: usize = 1024 * 1024;
/// Long frames that are gathered at a time from one peer, of all its strands together. A guess: one more than is
/// needed to use the whole connection.
const LONG_FRAMES_MAX: usize = 2;
/// Longest wait of a stream for its turn to send a long frame. A guess: two of the longest frames arrive within it at a
/// hundred megabits a second. A stream that waits keeps a part of the connection's window from the others.
const LONG_WAIT: Duration = Duration::from_secs(5);

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

/// The bounds of what a peer may send on its streams.
pub(crate) struct FrameBounds {
    pub(crate) long: LongFrames,
    pub(crate) empty: EmptyFrameAllowance,
    /// This node has asked the peer for prefixes.
    pub(crate) takes_prefixes: bool,
}

/// Reads one stream that the peer has opened, to its end or until its want is closed.
///
/// # Errors
/// When the stream breaks the protocol, answers no want, or the connection fails.
pub(crate) async fn read(
    mut stream: RecvStream,
    wants: Arc<OpenWants>,
    sink: ResponseSink,
    counters: Arc<NetCounters>,
    bounds: FrameBounds,
) -> Result<(), SessionError> {
    let (decoder, turn) = (DataDecoder::new(), None);
    let mut receiver = StrandReceiver { decoder, counters, bounds, turn };
    let header = match receiver.next(&mut stream).await? {
        StreamEvent::Frame(DataFrame::Header(header)) => header,
        StreamEvent::Frame(_) => return Err(PeerError::Protocol.into()),
        // The want was taken back before the stream began.
        StreamEvent::Finished | StreamEvent::Reset => return Ok(()),
    };
    let keep = match wants.match_stream(header)? {
        StreamMatch::Late => false,
        StreamMatch::Answer(request, ended) => tokio::select! {
            biased;
            _ = ended => false,
            kept = receiver.deliver(&mut stream, header.originator, request, &sink) => kept?,
        },
    };
    if !keep {
        // Fails only if the stream has ended meanwhile.
        let _ = stream.stop(VarInt::from_u32(StreamCode::Stopped.code()));
    }
    Ok(())
}

/// The next event of a stream.
enum StreamEvent {
    Frame(DataFrame),
    Finished,
    Reset,
}

/// The decoder of one strand's stream.
struct StrandReceiver {
    decoder: DataDecoder,
    counters: Arc<NetCounters>,
    bounds: FrameBounds,
    /// Held while a long frame is gathered, and until it is delivered.
    turn: Option<OwnedSemaphorePermit>,
}

impl StrandReceiver {
    /// Reads the next frame; [`StreamEvent::Reset`] also where the peer sends too many long ones at a time. Bytes are
    /// taken from QUIC only when no whole frame is left, so the window of the stream is the back-pressure.
    async fn next(&mut self, stream: &mut RecvStream) -> Result<StreamEvent, SessionError> {
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                return Ok(StreamEvent::Frame(frame));
            }
            if self.decoder.held_bytes() < LONG_BYTES {
                self.turn = None;
            } else if self.turn.is_none() {
                self.turn = self.bounds.long.turn().await;
                if self.turn.is_none() {
                    // As if the peer had ended it: the strand is asked for again.
                    return Ok(StreamEvent::Reset);
                }
            }
            let mut chunks: [Bytes; CHUNKS] = Default::default();
            match stream.read_chunks(&mut chunks).await {
                Ok(Some(count)) => {
                    for chunk in chunks.into_iter().take(count) {
                        self.counters.bytes_received.inc_by(chunk.len() as u64);
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

    /// Delivers all frames to the engine's follower. Returns false when the follower takes no more.
    async fn deliver(
        &mut self,
        stream: &mut RecvStream,
        originator: OriginatorId,
        request: RequestId,
        sink: &ResponseSink,
    ) -> Result<bool, SessionError> {
        let (mut is_whole, mut prefix) = (false, None);
        loop {
            let items = match self.next(stream).await? {
                // A prefix belongs to the batch behind it: the decoder accepts no other frame there.
                StreamEvent::Frame(DataFrame::Prefix(shown)) if self.bounds.takes_prefixes => {
                    prefix = Some(StrandItem::Prefix(shown));
                    continue;
                }
                StreamEvent::Frame(DataFrame::Batch(batch)) => {
                    self.bounds.empty.explain(batch.len());
                    prefix.take().into_iter().chain(envelopes(&batch)?).collect()
                }
                StreamEvent::Frame(DataFrame::Gap(gap)) => {
                    self.bounds.empty.take(Instant::now())?;
                    let expired = gap.reason == GapFrameReason::Expired;
                    vec![StrandItem::Gap { from: gap.from, to: gap.to, expired }]
                }
                StreamEvent::Frame(DataFrame::End(_)) => {
                    self.bounds.empty.take(Instant::now())?;
                    is_whole = true;
                    vec![StrandItem::End]
                }
                StreamEvent::Frame(DataFrame::Header(_) | DataFrame::Prefix(_)) => {
                    return Err(PeerError::Protocol.into());
                }
                StreamEvent::Finished | StreamEvent::Reset if is_whole => return Ok(true),
                StreamEvent::Finished | StreamEvent::Reset => {
                    let _ = sink.deliver(originator, request, vec![StrandItem::Closed]).await;
                    return Ok(true);
                }
            };
            if sink.deliver(originator, request, items).await.is_err() {
                return Ok(false);
            }
        }
    }
}

/// Returns the envelopes of a batch.
///
/// # Errors
/// [`PeerError::Oversized`] when it exceeds the size asked for, unless it is a single envelope.
fn envelopes(batch: &BatchFrame) -> Result<Vec<StrandItem<Bytes>>, PeerError> {
    let bytes: usize = batch.envelopes().map(|envelope| envelope.len()).sum();
    let is_within = u32::try_from(bytes).is_ok_and(|bytes| bytes <= BATCH_BYTES_MAX);
    if batch.len() > 1 && !is_within {
        return Err(PeerError::Oversized);
    }
    Ok(batch.envelopes().map(StrandItem::Envelope).collect())
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
