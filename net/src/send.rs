//! Strands that a peer has asked for, one stream each.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use hawser_engine::replication::StrandItem;
use hawser_engine::runtime::replication::{Replication, StrandReadError, StrandReader};
use hawser_proto::OriginatorId;
use hawser_proto::frame::{
    BatchBuilder, DataFrame, EncodeError, End, Gap, GapReason, Pushed, RefuseReason, StreamCode,
    StreamHeader, Want,
};
use quinn::{Connection, SendStream, VarInt, WriteError};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::counters::NetCounters;

/// The most that is read and sent at once, whatever the peer asks for.
const BATCH_BYTES_MAX: u32 = 1024 * 1024;
/// Strands that are sent to one peer at a time.
const STRANDS_MAX: usize = 1024;

/// Everything that is being sent to one peer.
pub(crate) struct Serving {
    connection: Connection,
    replication: Replication,
    counters: Arc<NetCounters>,
    strands: HashMap<OriginatorId, Sending>,
    tasks: JoinSet<(OriginatorId, u64)>,
    started: u64,
}

struct Sending {
    serial: u64,
    stop: oneshot::Sender<StreamCode>,
}

impl Serving {
    pub(crate) fn new(
        connection: Connection,
        replication: Replication,
        counters: Arc<NetCounters>,
    ) -> Self {
        Self {
            connection,
            replication,
            counters,
            strands: HashMap::new(),
            tasks: JoinSet::new(),
            started: 0,
        }
    }

    /// Begins to send a strand, in place of what the peer asked of it before.
    ///
    /// # Errors
    /// What to answer instead.
    pub(crate) fn start(&mut self, want: Want) -> Result<(), RefuseReason> {
        self.counters.wants.inc();
        self.stop(want.originator, StreamCode::Replaced);
        if self.tasks.len() >= STRANDS_MAX {
            return Err(RefuseReason::Busy);
        }
        let bytes_max = want.bytes_max.clamp(1, BATCH_BYTES_MAX);
        let reader = self.replication.reader(
            want.originator,
            want.after,
            want.up_to,
            usize::try_from(bytes_max).unwrap_or(usize::MAX),
        )?;
        self.started += 1;
        let (serial, (stop, stopped)) = (self.started, oneshot::channel());
        self.strands.insert(want.originator, Sending { serial, stop });
        let strand = Strand {
            reader,
            header: StreamHeader { originator: want.originator, after: want.after },
            has_end: want.up_to.is_some(),
            batch: BatchBuilder::new(bytes_max),
            counters: self.counters.clone(),
        };
        let connection = self.connection.clone();
        self.tasks.spawn(async move {
            send(connection, strand, stopped).await;
            (want.originator, serial)
        });
        Ok(())
    }

    /// Sends no more of a strand.
    pub(crate) fn stop(&mut self, originator: OriginatorId, code: StreamCode) {
        if let Some(sending) = self.strands.remove(&originator) {
            let _ = sending.stop.send(code); // it may just have ended by itself
        }
    }

    /// Cleans up after strands that have been sent; never returns if there are none. Cancel safe.
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

/// Why a strand is sent no further.
#[derive(Debug, thiserror::Error)]
enum SendError {
    /// The peer wants no more, or is gone.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// Our own disk.
    #[error(transparent)]
    Read(#[from] StrandReadError),
    /// What the log holds fits no frame.
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

/// One strand on its way out.
struct Strand {
    reader: StrandReader,
    header: StreamHeader,
    has_end: bool,
    batch: BatchBuilder,
    counters: Arc<NetCounters>,
}

/// Opens a stream and sends until there is no more, or until it is stopped.
async fn send(
    connection: Connection,
    mut strand: Strand,
    mut stopped: oneshot::Receiver<StreamCode>,
) {
    let stream = tokio::select! {
        biased;
        _ = &mut stopped => return,
        stream = connection.open_uni() => stream,
    };
    let Ok(mut stream) = stream else { return };
    let code = tokio::select! {
        biased;
        code = stopped => code.unwrap_or(StreamCode::Stopped),
        sent = strand.send_all(&mut stream) => match sent {
            Ok(()) | Err(SendError::Write(_)) => return,
            Err(error) => {
                let originator = strand.header.originator;
                tracing::error!(%originator, %error, "a strand cannot be sent");
                StreamCode::Internal
            }
        },
    };
    // Else the stream would end as if it were whole. Fails if the connection is gone.
    let _ = stream.reset(VarInt::from_u32(code.code()));
}

impl Strand {
    async fn send_all(&mut self, stream: &mut SendStream) -> Result<(), SendError> {
        self.send_frame(stream, DataFrame::Header(self.header)).await?;
        while let Some(items) = self.reader.next().await? {
            for item in items {
                self.send_item(stream, item).await?;
            }
            self.flush(stream).await?;
        }
        if self.has_end {
            let through = self.reader.position();
            self.send_frame(stream, DataFrame::End(End { through })).await?;
        }
        let _ = stream.finish(); // fails if the peer has stopped it
        Ok(())
    }

    async fn send_item(
        &mut self,
        stream: &mut SendStream,
        item: StrandItem<Bytes>,
    ) -> Result<(), SendError> {
        match item {
            StrandItem::Envelope(envelope) => {
                if self.batch.push(&envelope)? == Pushed::Full {
                    self.flush(stream).await?;
                    self.batch.push(&envelope)?;
                }
            }
            StrandItem::Gap { from, to, expired } => {
                self.flush(stream).await?;
                let reason = if expired { GapReason::Expired } else { GapReason::Missing };
                self.send_frame(stream, DataFrame::Gap(Gap { from, to, reason })).await?;
            }
            StrandItem::End | StrandItem::Closed => {} // a reader says so by ending
        }
        Ok(())
    }

    async fn flush(&mut self, stream: &mut SendStream) -> Result<(), SendError> {
        let envelopes = self.batch.len() as u64;
        if let Some(frame) = self.batch.finish() {
            self.counters.envelopes_sent.inc_by(envelopes);
            self.counters.bytes_sent.inc_by(frame.len() as u64);
            stream.write_chunk(frame).await?;
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
