//! Trees as pages that any cache can serve: checkpoints as notes, and tiles, at the paths of C2SP `tlog-tiles`.
//!
//! A path has one form, and a request with a query is refused, so a cache holds each page once. The bytes of a page
//! must never change, so a tile is served only as far as the newest checkpoint covers it, and only while the stored
//! checkpoints are of the tree held here.

use std::sync::Arc;

use bytes::Bytes;
use hawser_engine::Engine;
use hawser_engine::runtime::{NoProofError, ProofAnswer, ProofReader};
use hawser_proto::checkpoint::{LogPath, SUBMISSION_LEN_BYTES_MAX, SUBMISSION_PATH, log_of_path};
use hawser_proto::merkle::{TILE_WIDTH, Tile};
use hawser_proto::{OriginatorId, PublicKey};
use hawser_serve::CallCharge;
use hawser_serve::pages::{Page, text};
use hawser_serve::public_pages::{PageFuture, PublicPages, refusal};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode};
use tonic::body::Body;
use tonic::{Code, Status};

use crate::callers::Callers;
use crate::error::{CallError, into_status};
use crate::metrics::HandlerMetrics;
use crate::node_api::NodeApi;
use crate::read_workers::ReadWorkers;
use crate::witness_context::WitnessContext;
use crate::witness_page::WitnessCalls;

/// Prefix of all paths; the first line of a note has it after the network's name.
const PREFIX: &str = "/strands/";
/// Memory of a page with a checkpoint, as read and as text, bytes. Calculated: three copies of a checkpoint with
/// the largest number of cosignatures.
const CHECKPOINT_BYTES: usize = 128 * 1024;
/// Memory of a page with a tile. Calculated: its hashes, as read and as bytes.
const TILE_BYTES: usize = 2 * 32 * TILE_WIDTH as usize;
/// `Cache-Control` of a checkpoint: one second, because a growing strand gets a new one about that often.
const SHORT: HeaderValue = HeaderValue::from_static("public, max-age=1");
/// The cache header of a full tile: a year, the longest age that caches accept (RFC 9111 §1.2.2
/// permits that).
const FOR_EVER: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
/// `Cache-Control` of a partial tile: one day. It never changes, but is not requested any more once the tile is full.
const FOR_A_DAY: HeaderValue = HeaderValue::from_static("public, max-age=86400, immutable");

/// The pages of all strands' trees.
#[derive(Clone)]
pub(crate) struct TreePages {
    engine: Engine,
    reader: ProofReader,
    callers: Callers,
    reads: ReadWorkers,
    metrics: Arc<HandlerMetrics>,
    /// `Some` for a witness.
    witness: Option<WitnessCalls>,
}

/// The page of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PagePath {
    originator: OriginatorId,
    /// The node that signed the checkpoints.
    node: OriginatorId,
    part: Part,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Checkpoint,
    Tile(Tile),
}

impl PagePath {
    fn parse(path: &str) -> Option<Self> {
        let LogPath { originator, node, rest } = log_of_path(path.strip_prefix(PREFIX)?)?;
        let part = match rest.strip_prefix("tile/") {
            Some(tile) => Part::Tile(Tile::of_path(tile)?),
            None if rest == "checkpoint" => Part::Checkpoint,
            None => return None,
        };
        Some(Self { originator, node, part })
    }
}

impl TreePages {
    /// Shares limits, threads and metrics with the calls of a node.
    pub(crate) fn new(api: &NodeApi, witness: Option<WitnessContext>) -> Self {
        let reader = ProofReader::new(api.engine.store().clone());
        let witness = witness.map(|context| WitnessCalls {
            context,
            engine: api.engine.clone(),
            reader: reader.clone(),
            callers: api.callers.clone(),
            reads: api.reads.clone(),
        });
        Self {
            witness,
            engine: api.engine.clone(),
            reader,
            callers: api.callers.clone(),
            reads: api.reads.clone(),
            metrics: api.metrics.clone(),
        }
    }

    async fn page(&self, head: Parts, charge: CallCharge) -> Result<Page, CallError> {
        self.callers.charge_page(&head).await?;
        let path = match head.uri.query() {
            None => PagePath::parse(head.uri.path()),
            Some(_) => None,
        };
        let Some(PagePath { originator, node, part }) = path else {
            return Ok(refusal(StatusCode::NOT_FOUND, None, "no page of a tree has this path"));
        };
        match part {
            Part::Checkpoint => self.checkpoint(originator, node, &charge).await,
            Part::Tile(tile) => self.tile(originator, node, tile, &charge).await,
        }
    }

    async fn checkpoint(
        &self,
        originator: OriginatorId,
        node: OriginatorId,
        charge: &CallCharge,
    ) -> Result<Page, CallError> {
        charge.take(CHECKPOINT_BYTES)?;
        // Without the node's key the note would lack the line of its signature.
        if self.key_of(node).is_none() {
            return Err(NoProofError::NoCheckpoint(originator).into());
        }
        let pages = self.clone();
        let read = move || {
            let found: ProofAnswer<_> = pages.reader.cosigned(originator, node)?;
            let network = &pages.engine.store().identity().network;
            Ok(found.map(|it| it.to_note(network, |node| pages.key_of(node))))
        };
        let note = self.reads.run(charge, read).await??;
        Ok(cached(text(StatusCode::OK, note), SHORT))
    }

    async fn tile(
        &self,
        originator: OriginatorId,
        node: OriginatorId,
        tile: Tile,
        charge: &CallCharge,
    ) -> Result<Page, CallError> {
        charge.take(TILE_BYTES)?;
        let reader = self.reader.clone();
        let read = move || reader.tile(originator, node, tile);
        let hashes = self.reads.run(charge, read).await??;
        let bytes: Vec<u8> = hashes.iter().flat_map(|hash| hash.0).collect();
        let mut page: Page = Response::new(Bytes::from(bytes).into());
        let octets = HeaderValue::from_static("application/octet-stream");
        page.headers_mut().insert(CONTENT_TYPE, octets);
        let age = if tile.width() == TILE_WIDTH { FOR_EVER } else { FOR_A_DAY };
        Ok(cached(page, age))
    }

    fn key_of(&self, node: OriginatorId) -> Option<PublicKey> {
        let own = self.engine.store().identity();
        if node == own.node {
            return Some(own.public_key);
        }
        self.engine.ports().registry.borrow().node(node).map(|record| record.public_key)
    }
}

impl PublicPages for TreePages {
    fn prefix(&self) -> &'static str {
        PREFIX
    }

    fn show(&self, head: Parts, charge: CallCharge) -> PageFuture {
        let pages = self.clone();
        Box::pin(async move {
            let page = pages.page(head, charge).await;
            page.unwrap_or_else(|error| refused(&into_status(error))).map(Body::new)
        })
    }

    fn len_bytes_max(&self, path: &str) -> Option<usize> {
        (self.witness.is_some() && path == SUBMISSION_PATH).then_some(SUBMISSION_LEN_BYTES_MAX)
    }

    fn take(&self, head: Parts, body: Bytes, charge: CallCharge) -> PageFuture {
        let witness = self.witness.clone();
        Box::pin(async move {
            let page = match witness {
                Some(witness) => witness.add_checkpoint(head, body, charge).await,
                None => Ok(refusal(StatusCode::NOT_FOUND, None, "this node is not a witness")),
            };
            page.unwrap_or_else(|error| refused(&into_status(error))).map(Body::new)
        })
    }

    fn answered(&self, status: StatusCode) {
        self.metrics.page_answered(status);
    }
}

impl std::fmt::Debug for TreePages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TreePages").finish_non_exhaustive()
    }
}

fn cached(mut page: Page, age: HeaderValue) -> Page {
    page.headers_mut().insert(CACHE_CONTROL, age);
    page
}

/// Renders the status of a call as a page.
pub(crate) fn refused(status: &Status) -> Page {
    let code = match status.code() {
        Code::NotFound | Code::OutOfRange | Code::InvalidArgument => StatusCode::NOT_FOUND,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let retry_after =
        status.metadata().get("retry-after").and_then(|it| it.to_str().ok()?.parse().ok());
    refusal(code, retry_after, status.message())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_asked_for_later_is_no_fault_of_the_node() {
        let status = |code| refused(&Status::new(code, "why")).status();
        assert_eq!(status(Code::Unavailable), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(status(Code::ResourceExhausted), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(status(Code::Internal), StatusCode::INTERNAL_SERVER_ERROR);
    }

    #[test]
    fn a_path_names_a_strand_its_signer_and_a_page() {
        let (originator, node) = (OriginatorId(0), OriginatorId(100));
        let of = |part| Some(PagePath { originator, node, part });
        assert_eq!(PagePath::parse("/strands/0/100/checkpoint"), of(Part::Checkpoint));
        let tile = Tile::new(1, 1234, 7).unwrap();
        assert_eq!(PagePath::parse("/strands/0/100/tile/1/x001/234.p/7"), of(Part::Tile(tile)));
        for path in [
            "",
            "/strands/",
            "/strands/0/100",
            "/strands/0/100/",
            "/strands/00/100/checkpoint",
            "/strands/0/4294967296/checkpoint",
            "/strands/0/100/checkpoint/",
            "/strands/0//100/checkpoint",
            "/strands/0/100/../100/checkpoint",
            "/strands/0/%31/checkpoint",
            "/strands/-1/100/checkpoint",
            "/strands/0/100/tile/0/000/",
            "/strands/0/100/tile/entries/000",
            "/strands/0/100/tile/",
            "/checkpoint",
        ] {
            assert_eq!(PagePath::parse(path), None, "{path}");
        }
    }
}
