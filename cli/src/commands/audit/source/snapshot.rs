//! The log of a snapshot for new nodes: in a folder, in a bucket, or behind a web server. Its maker is not trusted.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use hawser_audit::replay::{
    CheckpointList, LogIdentity, LogRows, LogSource, SourceError, StoredMark, StrandRow, StrandRows,
};
use hawser_node::error::RunError;
use hawser_node::service::bootstrap::run_error;
use hawser_node::web::WebObjects;
use hawser_proto::checkpoint::CosignedCheckpoint;
use hawser_proto::void::SignedVoid;
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SequenceId};
use hawser_rules::Rate;
use hawser_storage::{BootstrapChunk, BootstrapManifest, BootstrapStrand, Bootstraps, Objects};

use crate::clock::now_unix_s;
use crate::commands::backup;

/// Begins the name of a source that is a snapshot: an address of the web may be that of a node, too.
const SCHEME: &str = "snapshot:";

/// A snapshot whose manifest was read.
pub(in crate::commands) struct SnapshotLog {
    place: Bootstraps,
    /// The bytes that no other place has.
    log: Vec<u8>,
    manifest: BootstrapManifest,
}

/// Returns the bytes by which manifests of exports and state files recognise the log at a location. Others may read
/// these, and the path of a URL may be a key.
fn log_of(location: &str) -> Vec<u8> {
    if WebObjects::is_url(location) {
        return blake3::hash(location.as_bytes()).as_bytes().to_vec();
    }
    location.as_bytes().to_vec()
}

impl SnapshotLog {
    /// Returns the place of the snapshots if the name is that of one.
    pub(in super::super) fn place_in(name: &str) -> Option<&str> {
        name.strip_prefix(SCHEME)
    }

    /// Opens a snapshot: the named one, or else the newest of any network.
    ///
    /// # Errors
    /// When there is none, or its manifest cannot be used.
    pub(in super::super) fn open(place: &str, named: Option<&str>) -> Result<Self, RunError> {
        let objects: Arc<dyn Objects> = if WebObjects::is_url(place) {
            let web = WebObjects::new(place, false, Arc::new(|| false));
            Arc::new(web.map_err(RunError::usage)?)
        } else {
            backup::open(&backup::place_of(Path::new(place))?)?
        };
        let log = log_of(&objects.location("").to_string_lossy());
        let place = Bootstraps::new(objects);
        let manifest = match named {
            Some(name) => place.manifest(name),
            None => place.newest_of_all(now_unix_s()).map(|(_, manifest)| manifest),
        };
        let manifest = manifest.map_err(|error| run_error(&error))?;
        Ok(Self { place, log, manifest })
    }

    fn strand(&self, originator: OriginatorId) -> Option<&BootstrapStrand> {
        let strands = &self.manifest.strands;
        let at = strands.binary_search_by_key(&originator, |strand| strand.originator).ok()?;
        strands.get(at)
    }
}

impl LogSource for SnapshotLog {
    fn identity(&self) -> LogIdentity {
        LogIdentity {
            network: self.manifest.network.clone(),
            node: OriginatorId(0),
            log: self.log.clone(),
        }
    }

    fn heads(&self) -> Result<Vec<EnvelopeId>, SourceError> {
        let strands = self.manifest.strands.iter();
        let heads = strands.map(|strand| EnvelopeId::new(strand.originator, strand.head));
        Ok(heads.filter(|head| head.sequence > SequenceId::NONE).collect())
    }

    fn last_held(&self, _: OriginatorId) -> Result<Option<SequenceId>, SourceError> {
        Ok(None)
    }

    fn rows(&self, after: EnvelopeId, head: SequenceId) -> LogRows<'_> {
        let chunks = self.strand(after.originator).map_or(&[][..], |strand| &strand.chunks);
        let first = chunks.partition_point(|chunk| chunk.through <= after.sequence);
        Box::new(SnapshotRows {
            place: &self.place,
            chunks: &chunks[first..],
            reached: after,
            head,
            read: VecDeque::new(),
        })
    }

    fn beside(&self, originator: OriginatorId) -> Box<dyn StrandRows + '_> {
        Box::new(SnapshotBeside(self.strand(originator)))
    }

    fn shows_gaps(&self) -> bool {
        false
    }

    fn unchecked(&self) -> Vec<String> {
        vec![
            "tallies and marks: a snapshot does not have them".to_owned(),
            "places that the snapshot leaves out: its maker may have marked them, or hide them"
                .to_owned(),
        ]
    }

    fn rates(&self) -> Result<Vec<Rate>, SourceError> {
        Ok(Vec::new())
    }
}

/// The envelopes of one strand, chunk by chunk. Each chunk is compared with its hash in the manifest, and envelopes
/// ascend.
struct SnapshotRows<'a> {
    place: &'a Bootstraps,
    /// The chunks that are still to be read.
    chunks: &'a [BootstrapChunk],
    reached: EnvelopeId,
    head: SequenceId,
    read: VecDeque<(SequenceId, Bytes)>,
}

impl SnapshotRows<'_> {
    fn step(&mut self) -> Result<Option<StrandRow>, SourceError> {
        loop {
            while let Some((sequence, bytes)) = self.read.pop_front() {
                if sequence > self.head {
                    return Ok(None);
                }
                if sequence > self.reached.sequence {
                    self.reached.sequence = sequence;
                    let mark = StoredMark::Unknown;
                    return Ok(Some(StrandRow::Envelope { sequence, bytes, mark, leaf: None }));
                }
            }
            let Some((chunk, rest)) = self.chunks.split_first() else { return Ok(None) };
            self.chunks = rest;
            let read = self.place.chunk(self.reached.originator, chunk);
            self.read = read.map_err(|error| SourceError(error.to_string()))?.into();
        }
    }
}

impl Iterator for SnapshotRows<'_> {
    type Item = Result<StrandRow, SourceError>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.step();
        if row.is_err() {
            (self.chunks, self.read) = (&[], VecDeque::new());
        }
        row.transpose()
    }
}

struct SnapshotBeside<'a>(Option<&'a BootstrapStrand>);

impl<'a> SnapshotBeside<'a> {
    fn checkpoints(&self) -> CheckpointList<'a> {
        CheckpointList::new(self.0.map_or(&[][..], |strand| strand.checkpoints.as_slice()))
    }
}

impl StrandRows for SnapshotBeside<'_> {
    fn void_statements(&self) -> Result<Vec<SignedVoid>, SourceError> {
        Ok(self.0.map_or_else(Vec::new, |strand| strand.voids.clone()))
    }

    fn checkpoint_nodes(&self) -> Result<Vec<OriginatorId>, SourceError> {
        Ok(self.checkpoints().nodes())
    }

    fn checkpoint_after(
        &self,
        node: OriginatorId,
        size: u64,
    ) -> Result<Option<CosignedCheckpoint>, SourceError> {
        Ok(self.checkpoints().after(node, size).cloned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The manifest of an export has these bytes, and is published with it.
    #[test]
    fn the_name_of_a_log_has_no_part_of_a_url() {
        let named = log_of("https://a.example/hidden/snapshots");
        assert!(!String::from_utf8_lossy(&named).contains("hidden"), "{named:?}");
        assert_ne!(named, log_of("https://a.example/other/snapshots"));
        assert_eq!(log_of("/srv/snapshots"), b"/srv/snapshots");
    }
}
