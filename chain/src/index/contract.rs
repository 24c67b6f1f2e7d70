//! Reads one contract: pages are requested while earlier ones are being stored.

use std::sync::Arc;

use hawser_proto::SequenceId;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::context::{RETRY_MAX, ReaderContext, blocking};
use super::event::BlockRef;
use super::head::HeadStatus;
use super::reading::PageReader;
use super::sink::{Sink, SinkError};
use super::status::StatusCell;
use super::storing::BatchWriter;
use super::walk::{Walk, WalkSettings};
use crate::endpoints::Endpoints;

/// The number of pages that are requested ahead of the one being stored. Guess: one is in
/// transit while the other waits.
const AHEAD: usize = 2;

/// Reads the contract until it is stopped, or until the sink requires a decision by the operator.
pub(super) async fn run(
    endpoints: Endpoints,
    head: watch::Receiver<HeadStatus>,
    settings: WalkSettings,
    sink: Arc<dyn Sink>,
    status: StatusCell,
    stop: watch::Receiver<()>,
) {
    let name = settings.source.label();
    let context = ReaderContext {
        name,
        status,
        pass: Arc::default(),
        is_storing_stuck: Arc::default(),
        is_refused: Arc::default(),
        sink,
        recheck_from: Arc::default(),
        stop: stop.clone(),
    };
    let Some(stored) = stored_position(&context).await else { return };
    let StoredPosition { position, last_sequence_id, recheck_from } = stored;
    context.status.lock().stored = position;
    let (batches, to_store) = mpsc::channel(AHEAD);
    let (gaps, gap_found) = mpsc::channel(1);
    let mut walk = Walk::new(settings.clone(), position);
    if endpoints.status().len() == 1 {
        walk.rechecks().skip_pages();
    } else if let Some(recheck_from) = recheck_from {
        walk.rechecks().go_on_from(recheck_from.max(settings.first_block), settings.page_blocks);
    }
    tracing::info!(strand = name, from_block = walk.unread(), "reading the chain");
    let writer = BatchWriter::new(context.clone(), endpoints.clone(), &settings, gaps);
    let reader =
        PageReader::new(context, endpoints, head, settings, walk, last_sequence_id, batches);
    let mut stopped = stop;
    let reader = tokio::spawn(async move {
        tokio::select! {
            () = reader.run(gap_found) => {}
            _ = stopped.changed() => {}
        }
    });
    writer.run(to_store).await;
    reader.abort();
}

/// The state of a contract's events in a sink before reading begins.
struct StoredPosition {
    position: Option<BlockRef>,
    last_sequence_id: SequenceId,
    /// The first block that is not rechecked; `None` if the sink notes none.
    recheck_from: Option<u64>,
}

/// Returns the state in the sink; `None` if reading is stopped before it can be read.
async fn stored_position(context: &ReaderContext) -> Option<StoredPosition> {
    let mut stop = context.stop.clone();
    loop {
        let read = |sink: &dyn Sink| {
            let (position, last_sequence_id) = (sink.position()?, sink.last_sequence_id()?);
            Ok(StoredPosition { position, last_sequence_id, recheck_from: sink.recheck_from()? })
        };
        let stored: Result<_, SinkError> = blocking(&context.sink, read).await;
        match stored {
            Ok(stored) => return Some(stored),
            Err(error) => context.stuck(&error.to_string()),
        }
        tokio::select! {
            () = sleep(RETRY_MAX) => {}
            _ = stop.changed() => return None,
        }
    }
}
