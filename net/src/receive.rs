//! Receiving strands: matching a peer's streams to open wants, and decoding them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use hawser_engine::replication::{RequestId, StrandItem, Want};
use hawser_engine::runtime::replication::ResponseSink;
use hawser_proto::frame::{
    BatchFrame, DataDecoder, DataFrame, GapReason, StreamCode, StreamHeader,
};
use hawser_proto::{OriginatorId, SequenceId};
use parking_lot::{Mutex, MutexGuard};
use quinn::{ReadError, RecvStream, VarInt};
use tokio::sync::oneshot;

use crate::control::SessionError;
use crate::counters::{NetCounters, PeerError};

/// Bytes of envelopes that a peer is asked to put into one batch at most. Guessed: a few milliseconds
/// of verification, so that strands take turns.
pub(crate) const BATCH_BYTES_MAX: u32 = 512 * 1024;
/// Number of earlier wants remembered for each strand, because their streams may still arrive.
/// Guessed: more than a follower opens within a round trip.
const EARLIER_MAX: usize = 32;
/// Chunks taken from QUIC in one read. Guessed: one burst of packets.
const CHUNKS: usize = 32;

/// The wants sent to one peer.
#[derive(Default)]
pub(crate) struct OpenWants {
    strands: Mutex<HashMap<OriginatorId, StrandWants>>,
}

/// The wants for one strand.
#[derive(Default)]
struct StrandWants {
    current: Option<OpenWant>,
    /// The `after` of earlier wants, at most [`EARLIER_MAX`].
    earlier: VecDeque<SequenceId>,
}

/// The want that is in force.
struct OpenWant {
    request: RequestId,
    after: SequenceId,
    /// Dropping it ends the task that reads the answering stream. `None` until a stream answers.
    reading: Option<oneshot::Sender<()>>,
}

/// The want that a stream answers.
enum StreamMatch {
    /// The want in force, until the sender of the channel is dropped.
    Answer(RequestId, oneshot::Receiver<()>),
    /// A want that was replaced or taken back.
    Late,
}

impl OpenWants {
    /// Opens a want in place of the earlier one for the same strand.
    pub(crate) fn open(&self, request: RequestId, want: Want) {
        let mut strands = self.strands();
        let wants = strands.entry(want.originator).or_default();
        wants.retire();
        wants.current = Some(OpenWant { request, after: want.after, reading: None });
    }

    /// Takes a want back.
    pub(crate) fn close(&self, originator: OriginatorId) {
        if let Some(wants) = self.strands().get_mut(&originator) {
            wants.retire();
        }
    }

    /// Closes the want that the peer refused. Returns its request if no stream has answered it yet.
    pub(crate) fn refused(&self, originator: OriginatorId) -> Option<RequestId> {
        let mut strands = self.strands();
        let wants = strands.get_mut(&originator)?;
        let waiting = wants.current.as_ref().filter(|current| current.reading.is_none());
        let request = waiting?.request;
        wants.retire();
        Some(request)
    }

    /// Matches a stream to a want by its header.
    ///
    /// # Errors
    /// [`PeerError::Unrequested`] when no want, open or earlier, began at this place.
    fn match_stream(&self, header: StreamHeader) -> Result<StreamMatch, PeerError> {
        let mut strands = self.strands();
        let wants = strands.get_mut(&header.originator).ok_or(PeerError::Unrequested)?;
        match &mut wants.current {
            Some(current) if current.after == header.after => {
                // Of two wants with the same `after`, the newer stream answers the newer want.
                let (reading, ended) = oneshot::channel();
                current.reading = Some(reading);
                Ok(StreamMatch::Answer(current.request, ended))
            }
            _ if wants.earlier.contains(&header.after) => Ok(StreamMatch::Late),
            _ => Err(PeerError::Unrequested),
        }
    }

    fn strands(&self) -> MutexGuard<'_, HashMap<OriginatorId, StrandWants>> {
        self.strands.lock()
    }
}

impl StrandWants {
    /// Moves the want in force to the earlier ones.
    fn retire(&mut self) {
        if let Some(current) = self.current.take() {
            self.earlier.push_back(current.after);
            if self.earlier.len() > EARLIER_MAX {
                self.earlier.pop_front();
            }
        }
    }
}

/// Reads one stream that the peer has opened, to its end or until its want is closed. `takes_prefixes` says that this node
/// has asked the peer for prefixes.
///
/// # Errors
/// When the stream breaks the protocol, answers no want, or the connection fails.
pub(crate) async fn read(
    mut stream: RecvStream,
    wants: Arc<OpenWants>,
    sink: ResponseSink,
    counters: Arc<NetCounters>,
    takes_prefixes: bool,
) -> Result<(), SessionError> {
    let mut receiver = StrandReceiver { decoder: DataDecoder::new(), counters, takes_prefixes };
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
    takes_prefixes: bool,
}

impl StrandReceiver {
    /// Reads the next frame. Bytes are taken from QUIC only when no whole frame is left, so the
    /// window of the stream is the back-pressure.
    async fn next(&mut self, stream: &mut RecvStream) -> Result<StreamEvent, SessionError> {
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                return Ok(StreamEvent::Frame(frame));
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
                // It belongs to the next frame, which is a batch.
                StreamEvent::Frame(DataFrame::Prefix(shown)) if self.takes_prefixes => {
                    prefix = Some(StrandItem::Prefix(shown));
                    continue;
                }
                StreamEvent::Frame(DataFrame::Batch(batch)) => {
                    prefix.take().into_iter().chain(envelopes(&batch)?).collect()
                }
                StreamEvent::Frame(DataFrame::Gap(gap)) => {
                    let expired = gap.reason == GapReason::Expired;
                    vec![StrandItem::Gap { from: gap.from, to: gap.to, expired }]
                }
                StreamEvent::Frame(DataFrame::End(_)) => {
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
