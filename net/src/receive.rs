//! Strands that were asked of a peer: which stream answers which want, and what is in it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use hawser_engine::replication::{RequestId, StrandItem, Want};
use hawser_engine::runtime::replication::ResponseSink;
use hawser_proto::frame::{Batch, DataDecoder, DataFrame, GapReason, StreamCode, StreamHeader};
use hawser_proto::{OriginatorId, SequenceId};
use quinn::{ReadError, RecvStream, VarInt};
use tokio::sync::oneshot;

use crate::control::Broken;
use crate::counters::{NetCounters, Refusal};

/// How many bytes of envelopes a peer is asked to put into one batch.
pub(crate) const BATCH_BYTES_MAX: u32 = 512 * 1024;
/// How many earlier wants for one strand are remembered: their streams may still be on their way.
const EARLIER_MAX: usize = 32;
/// Packets that are taken from QUIC at a time.
const CHUNKS: usize = 32;

/// What has been asked of one peer.
#[derive(Default)]
pub(crate) struct Wants {
    strands: Mutex<HashMap<OriginatorId, Asked>>,
}

#[derive(Default)]
struct Asked {
    current: Option<Current>,
    /// Where earlier wants began.
    earlier: VecDeque<SequenceId>,
}

struct Current {
    request: RequestId,
    after: SequenceId,
    /// Dropped to end the reading of the stream that answers.
    reading: Option<oneshot::Sender<()>>,
}

/// What a stream turns out to be.
enum Claim {
    /// The answer to this want, until the other end is dropped.
    Answer(RequestId, oneshot::Receiver<()>),
    /// The answer to something that is no longer wanted.
    Late,
}

impl Wants {
    /// A want is being sent.
    pub(crate) fn ask(&self, request: RequestId, want: Want) {
        let mut strands = self.strands();
        let asked = strands.entry(want.originator).or_default();
        asked.retire();
        asked.current = Some(Current { request, after: want.after, reading: None });
    }

    /// A want is being taken back.
    pub(crate) fn stop(&self, originator: OriginatorId) {
        if let Some(asked) = self.strands().get_mut(&originator) {
            asked.retire();
        }
    }

    /// The peer will not answer; gives the want that this is about, if one waits for a stream.
    pub(crate) fn refused(&self, originator: OriginatorId) -> Option<RequestId> {
        let mut strands = self.strands();
        let asked = strands.get_mut(&originator)?;
        let waiting = asked.current.as_ref().filter(|current| current.reading.is_none());
        let request = waiting?.request;
        asked.retire();
        Some(request)
    }

    fn claim(&self, header: StreamHeader) -> Result<Claim, Refusal> {
        let mut strands = self.strands();
        let asked = strands.get_mut(&header.originator).ok_or(Refusal::Unrequested)?;
        match &mut asked.current {
            Some(current) if current.after == header.after => {
                // If there were two, the newer stream answers the newer want.
                let (reading, ended) = oneshot::channel();
                current.reading = Some(reading);
                Ok(Claim::Answer(current.request, ended))
            }
            _ if asked.earlier.contains(&header.after) => Ok(Claim::Late),
            _ => Err(Refusal::Unrequested),
        }
    }

    fn strands(&self) -> MutexGuard<'_, HashMap<OriginatorId, Asked>> {
        self.strands.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asked {
    fn retire(&mut self) {
        if let Some(current) = self.current.take() {
            self.earlier.push_back(current.after);
            if self.earlier.len() > EARLIER_MAX {
                self.earlier.pop_front();
            }
        }
    }
}

/// Reads one stream that the peer has opened, to its end or until nobody wants it any more.
pub(crate) async fn read(
    mut stream: RecvStream,
    wants: Arc<Wants>,
    sink: ResponseSink,
    counters: Arc<NetCounters>,
) -> Result<(), Broken> {
    let mut incoming = Incoming { decoder: DataDecoder::new(), counters };
    let header = match incoming.next(&mut stream).await? {
        Next::Frame(DataFrame::Header(header)) => header,
        Next::Frame(_) => return Err(Refusal::Protocol.into()),
        // It was taken back before it began.
        Next::Finished | Next::Reset => return Ok(()),
    };
    let keep = match wants.claim(header)? {
        Claim::Late => false,
        Claim::Answer(request, ended) => tokio::select! {
            biased;
            _ = ended => false,
            kept = incoming.deliver(&mut stream, header.originator, request, &sink) => kept?,
        },
    };
    if !keep {
        // Fails if the stream has ended meanwhile, which is as good.
        let _ = stream.stop(VarInt::from_u32(StreamCode::Stopped.code()));
    }
    Ok(())
}

/// What a stream brings next.
enum Next {
    Frame(DataFrame),
    Finished,
    Reset,
}

struct Incoming {
    decoder: DataDecoder,
    counters: Arc<NetCounters>,
}

impl Incoming {
    async fn next(&mut self, stream: &mut RecvStream) -> Result<Next, Broken> {
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                return Ok(Next::Frame(frame));
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
                    return Ok(Next::Finished);
                }
                Err(ReadError::Reset(_)) => return Ok(Next::Reset),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Hands everything over; false if nobody wants the rest.
    async fn deliver(
        &mut self,
        stream: &mut RecvStream,
        originator: OriginatorId,
        request: RequestId,
        sink: &ResponseSink,
    ) -> Result<bool, Broken> {
        let mut is_whole = false;
        loop {
            let items = match self.next(stream).await? {
                Next::Frame(DataFrame::Batch(batch)) => envelopes(&batch)?,
                Next::Frame(DataFrame::Gap(gap)) => {
                    let expired = gap.reason == GapReason::Expired;
                    vec![StrandItem::Gap { from: gap.from, to: gap.to, expired }]
                }
                Next::Frame(DataFrame::End(_)) => {
                    is_whole = true;
                    vec![StrandItem::End]
                }
                Next::Frame(DataFrame::Header(_)) => return Err(Refusal::Protocol.into()),
                Next::Finished | Next::Reset if is_whole => return Ok(true),
                Next::Finished | Next::Reset => {
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

/// A batch may exceed what was asked for only if it is a single envelope.
fn envelopes(batch: &Batch) -> Result<Vec<StrandItem<Bytes>>, Refusal> {
    let bytes: usize = batch.envelopes().map(|envelope| envelope.len()).sum();
    let is_within = u32::try_from(bytes).is_ok_and(|bytes| bytes <= BATCH_BYTES_MAX);
    if batch.len() > 1 && !is_within {
        return Err(Refusal::Oversized);
    }
    Ok(batch.envelopes().map(StrandItem::Envelope).collect())
}

/// Tells a strand that its want will not be answered.
pub(crate) async fn close(
    sink: ResponseSink,
    originator: OriginatorId,
    request: RequestId,
) -> Result<(), Broken> {
    // Fails if nobody cares any more.
    let _ = sink.deliver(originator, request, vec![StrandItem::Closed]).await;
    Ok(())
}
