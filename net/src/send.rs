//! Sending strands that a peer has asked for, one stream each.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use hawser_engine::replication::StrandItem;
use hawser_engine::runtime::replication::{
    PageReads, Replication, StrandPart, StrandReadError, StrandReader,
};
use hawser_proto::OriginatorId;
use hawser_proto::frame::{
    BatchBuilder, BatchPush, DataFrame, EncodeError, EndFrame, FEATURE_GAPS_ALONE,
    FEATURE_PREFIXES, FEATURE_WANT_NUMBERS, GAPS_ALONE, GapFrame, GapFrameReason, RefusalReason,
    StreamCode, StreamHeader, WantFrame,
};
use quinn::{Connection, SendStream, VarInt, WriteError};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tracing::Instrument as _;

use crate::counters::NetCounters;
use crate::handshake::PeerFeatures;
use crate::streams::SentStream;

/// Upper bound of a batch in bytes; a peer may request less. A guess: bounds memory per strand and keeps the
/// overhead of a frame negligible.
const BATCH_BYTES_MAX: u32 = 1024 * 1024;
/// Bytes of a page that is read for shorter batches. A guess: each read of the log begins with a search, which is then
/// a small part of it.
const PAGE_BYTES_MIN: u32 = 64 * 1024;
/// Strands that are sent to one peer at a time. Equals the peer's stream limit in
/// [`crate::transport`].
const STRANDS_MAX: usize = 1024;

/// The tasks that send strands to one peer.
pub(crate) struct StrandSenders {
    connection: Connection,
    replication: Replication,
    /// Bounds the reads for this peer, also those whose want has been replaced.
    reads: PageReads,
    features: PeerFeatures,
    /// Wants that the peer has sent, refused ones among them. Both ends count them.
    wants: u64,
    counters: Arc<NetCounters>,
    strands: HashMap<OriginatorId, SenderHandle>,
    tasks: JoinSet<(OriginatorId, u64)>,
    started: u64,
}

/// The task that sends one strand.
struct SenderHandle {
    serial: u64,
    stop: oneshot::Sender<StreamCode>,
}

impl StrandSenders {
    /// Begins without wants, for a peer with these features.
    pub(crate) fn new(
        connection: Connection,
        replication: Replication,
        counters: Arc<NetCounters>,
        features: PeerFeatures,
    ) -> Self {
        Self {
            connection,
            features,
            wants: 0,
            reads: replication.page_reads(),
            replication,
            counters,
            strands: HashMap::new(),
            tasks: JoinSet::new(),
            started: 0,
        }
    }

    /// Starts to send a strand, in place of an earlier want for it.
    ///
    /// # Errors
    /// The reason to refuse the want with.
    pub(crate) fn start(&mut self, want: WantFrame) -> Result<(), RefusalReason> {
        self.counters.wants.inc();
        self.wants += 1;
        self.stop(want.originator, StreamCode::Replaced);
        if self.tasks.len() >= STRANDS_MAX {
            return Err(RefusalReason::Busy);
        }
        let names_gaps = self.features.has(FEATURE_GAPS_ALONE) && want.bytes_max == GAPS_ALONE;
        let part = match want.up_to {
            Some(up_to) if names_gaps => StrandPart::Gaps(up_to),
            up_to => StrandPart::Items(up_to),
        };
        let bytes_max = want.bytes_max.clamp(1, BATCH_BYTES_MAX);
        let page_bytes = bytes_max.max(PAGE_BYTES_MIN);
        let reader = self.replication.reader(
            want.originator,
            want.after,
            part,
            usize::try_from(page_bytes).unwrap_or(usize::MAX),
            self.reads.clone(),
        )?;
        // The proof is that of a page, and is to be that of a batch.
        let proves = self.features.has(FEATURE_PREFIXES) && page_bytes == bytes_max;
        let reader = if proves { reader.proving() } else { reader };
        self.started += 1;
        let (serial, (stop, stopped)) = (self.started, oneshot::channel());
        self.strands.insert(want.originator, SenderHandle { serial, stop });
        let strand = StrandSender {
            reader,
            header: StreamHeader {
                originator: want.originator,
                after: want.after,
                want: NonZeroU64::new(self.wants)
                    .filter(|_| self.features.has(FEATURE_WANT_NUMBERS)),
            },
            has_end: want.up_to.is_some(),
            batch: BatchBuilder::new(bytes_max),
            replication: self.replication.clone(),
            counters: self.counters.clone(),
        };
        let connection = self.connection.clone();
        let sending = async move {
            send(connection, strand, stopped).await;
            (want.originator, serial)
        };
        self.tasks.spawn(sending.in_current_span());
        Ok(())
    }

    /// Stops sending a strand.
    pub(crate) fn stop(&mut self, originator: OriginatorId, code: StreamCode) {
        if let Some(sending) = self.strands.remove(&originator) {
            let _ = sending.stop.send(code); // fails only if the task has just ended
        }
    }

    /// Removes the handle of the next task that ends; pending while there is none. Cancel safe.
    pub(crate) async fn reap(&mut self) {
        match self.tasks.join_next().await {
            Some(Ok((originator, serial))) => {
                if self.strands.get(&originator).is_some_and(|sending| sending.serial == serial) {
                    self.strands.remove(&originator);
                }
            }
            Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
            None => std::future::pending().await,
        }
    }
}

/// The reason a strand is sent no further.
#[derive(Debug, thiserror::Error)]
enum SendError {
    /// The peer stopped the stream, or the connection failed.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The log could not be read.
    #[error(transparent)]
    Read(#[from] StrandReadError),
    /// An envelope of the log fits no frame.
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

/// A strand that is being sent to a peer.
struct StrandSender {
    reader: StrandReader,
    header: StreamHeader,
    has_end: bool,
    batch: BatchBuilder,
    replication: Replication,
    counters: Arc<NetCounters>,
}

/// Opens a stream and sends until the strand's wanted end, or until it is stopped. Returns when the peer has
/// acknowledged what was sent, or the connection has ended.
async fn send(
    connection: Connection,
    mut strand: StrandSender,
    mut stopped: oneshot::Receiver<StreamCode>,
) {
    let stream = tokio::select! {
        biased;
        _ = &mut stopped => return,
        stream = connection.open_uni() => stream,
    };
    let Ok(stream) = stream else { return };
    let mut stream = SentStream::new(stream, connection);
    let code = tokio::select! {
        biased;
        code = stopped => Some(code.unwrap_or(StreamCode::Stopped)),
        sent = strand.send_all(&mut stream) => match sent {
            Ok(()) | Err(SendError::Write(_)) => None,
            Err(error) => {
                let originator = strand.header.originator;
                if let Some(left_out) = strand.replication.count_unreadable(originator) {
                    tracing::error!(code = "strand_unreadable", originator_id = %originator, %error, left_out,
                        "a strand cannot be sent");
                }
                // A reset would drop what is on its way. Without an end frame the stream states nothing about the rest.
                let _ = stream.finish(); // fails only if the peer has stopped it
                None
            }
        },
    };
    drop(strand);
    match code {
        // The peer wants no more of it. Fails only without a connection.
        Some(code) => _ = stream.reset(VarInt::from_u32(code.code())),
        // Only with its handle are the buffers of a finished stream freed when the connection ends.
        None => _ = stream.stopped().await,
    }
}

impl StrandSender {
    async fn send_all(&mut self, stream: &mut SendStream) -> Result<(), SendError> {
        self.send_frame(stream, DataFrame::Header(self.header)).await?;
        while let Some(mut page) = self.reader.next().await? {
            for item in std::mem::take(&mut page.items) {
                self.send_item(stream, item).await?;
            }
            self.flush(stream).await?;
            drop(page); // only now is there room for the next one of this peer
        }
        if self.has_end {
            let through = self.reader.position();
            self.send_frame(stream, DataFrame::End(EndFrame { through })).await?;
        }
        let _ = stream.finish(); // fails only if the peer has stopped it
        Ok(())
    }

    async fn send_item(
        &mut self,
        stream: &mut SendStream,
        item: StrandItem<Bytes>,
    ) -> Result<(), SendError> {
        match item {
            StrandItem::Envelope(envelope) => {
                if self.batch.push(&envelope)? == BatchPush::Full {
                    self.flush(stream).await?;
                    self.batch.push(&envelope)?;
                }
            }
            StrandItem::Gap { from, to, expired } => {
                self.flush(stream).await?;
                let reason =
                    if expired { GapFrameReason::Expired } else { GapFrameReason::Missing };
                self.send_frame(stream, DataFrame::Gap(GapFrame { from, to, reason })).await?;
            }
            StrandItem::Prefix(prefix) => {
                self.flush(stream).await?;
                self.send_frame(stream, DataFrame::Prefix(prefix)).await?;
            }
            // No reader has a second statement, and it says so by ending.
            StrandItem::Second(_) | StrandItem::End | StrandItem::Closed => {}
        }
        Ok(())
    }

    /// Sends the envelopes gathered so far as one batch.
    async fn flush(&mut self, stream: &mut SendStream) -> Result<(), SendError> {
        let envelopes = self.batch.len() as u64;
        if let Some(frame) = self.batch.finish() {
            self.counters.envelopes_sent.inc_by(envelopes);
            self.counters.bytes_sent.inc_by(frame.len() as u64);
            // Copied: QUIC's buffers count only the bytes that are not acknowledged. The last bytes of a shared frame
            // would hold the whole frame, as long as the peer acknowledges all other bytes.
            stream.write_all(&frame).await?;
        }
        Ok(())
    }

    async fn send_frame(
        &mut self,
        stream: &mut SendStream,
        frame: DataFrame,
    ) -> Result<(), SendError> {
        let mut bytes = BytesMut::new();
        frame.encode(&mut bytes);
        stream.write_chunk(bytes.freeze()).await?;
        Ok(())
    }
}
