//! Continuing an export: each strand of the log has to be the one that was exported.
//!
//! The attacker is a folder that was restored or exchanged, a node that shows another strand or hides the exported end
//! of this one, and a user who replaces files of the export while a run reads them.

use std::path::Path;

use hawser_proto::envelope::{OriginatorEnvelope, UnsignedOriginatorEnvelope};
use hawser_proto::merkle::envelope_leaf;
use hawser_proto::{Bytes, EnvelopeId, SequenceId};

use super::error::ExportError;
use super::manifest::{Manifest, StrandParts, log_path};
use super::read::PartReader;
use crate::replay::judge::not_expired;
use crate::replay::{GapReason, LogSource, StrandRow};

/// The content of the log at a place with an exported envelope.
enum LogContent {
    /// The envelope, or the record of the same envelope.
    Same,
    /// Nothing, and the envelope has expired.
    Expired,
    /// Something else, in words for people.
    Other(String),
}

/// Requires that the log holds the last exported envelope of each strand, or that it has expired since. Returns a
/// sentence for each strand whose envelope has expired and cannot be compared any more.
///
/// # Errors
/// [`ExportError::OtherStrand`] for a strand that ends earlier, or has nothing or something else at the place; and when
/// the place or the file cannot be read.
pub(super) fn require_same_strands(
    source: &dyn LogSource,
    folder: &Path,
    manifest: &Manifest,
    heads: &[EnvelopeId],
    now_ns: i64,
) -> Result<Vec<String>, ExportError> {
    let mut unchecked = Vec::new();
    for strand in &manifest.strands {
        let originator = strand.originator_id;
        let other = |exported: String, held: String| ExportError::OtherStrand {
            originator_id: originator,
            exported,
            held,
        };
        let head = heads.iter().find(|head| head.originator == originator);
        let head = head.map_or(SequenceId::NONE, |head| head.sequence);
        let through = strand.through();
        if head < through {
            return Err(other(format!("places to {through}"), format!("places to {head}")));
        }
        let Some((place, exported)) = last_envelope(folder, strand)? else { continue };
        match held_at(source, EnvelopeId::new(originator, place), &exported, now_ns)? {
            LogContent::Same => {}
            LogContent::Expired => unchecked.push(format!(
                "strand {originator}: that it is the exported one: the last exported envelope, {place}, has expired, \
                 and the log does not have it any more"
            )),
            LogContent::Other(held) => return Err(other(format!("one envelope at {place}"), held)),
        }
    }
    Ok(unchecked)
}

/// Returns the last exported envelope of a strand, if there is one. Its file is verified again: the reader reads the
/// file that was verified, and not one that has the name since.
fn last_envelope(
    folder: &Path,
    strand: &StrandParts,
) -> Result<Option<(SequenceId, Bytes)>, ExportError> {
    for part in strand.parts.iter().rev() {
        let path = log_path(folder, strand.originator_id, part.from);
        let last = PartReader::open_verified(&path, &part.file)?.last_envelope()?;
        if last.is_some() {
            return Ok(last);
        }
    }
    Ok(None)
}

/// Compares the log with the envelope that was exported from a place.
fn held_at(
    source: &dyn LogSource,
    id: EnvelopeId,
    exported: &Bytes,
    now_ns: i64,
) -> Result<LogContent, ExportError> {
    let other = |text: String| Ok(LogContent::Other(text));
    let place = id.sequence;
    let before = EnvelopeId::new(id.originator, place.previous());
    let gone = |text: &str| match has_expired(id, exported, now_ns) {
        true => LogContent::Expired,
        false => LogContent::Other(format!("none there: {text}")),
    };
    match source.rows(before, place).next().transpose()? {
        Some(StrandRow::Envelope { sequence, bytes, .. }) if sequence == place => {
            match bytes == *exported {
                true => Ok(LogContent::Same),
                false => other("another one there: it was restored, or changed".to_owned()),
            }
        }
        Some(StrandRow::Pruned { sequence, record, leaf }) if sequence == place => {
            let ns = statement(exported).map(|statement| statement.originator_ns());
            let is_same = record.len_bytes == exported.len() as u64
                && ns.is_none_or(|ns| ns == record.originator_ns)
                && leaf.is_none_or(|leaf| Some(leaf) == envelope_leaf(exported));
            match is_same {
                true => Ok(LogContent::Same),
                false => other("the record of another one there".to_owned()),
            }
        }
        Some(StrandRow::Gap { from, through, reason }) if (from..=through).contains(&place) => {
            match reason {
                GapReason::Expired | GapReason::Pruned => Ok(gone(reason.name())),
                GapReason::Missing
                | GapReason::Void
                | GapReason::DeclaredVoid
                | GapReason::NotShown => other(format!("none there: {}", reason.name())),
            }
        }
        // Nodes omit envelopes that have expired. Folders have a row for each place.
        None if !source.shows_gaps() => Ok(gone("the node does not show it")),
        Some(_) | None => other("no row there".to_owned()),
    }
}

fn statement(envelope: &Bytes) -> Option<UnsignedOriginatorEnvelope> {
    let (statement, _) = OriginatorEnvelope::open(envelope.clone()).ok()?;
    UnsignedOriginatorEnvelope::parse(statement).ok()
}

/// Returns true if an envelope has expired by its own time and retention.
fn has_expired(id: EnvelopeId, envelope: &Bytes, now_ns: i64) -> bool {
    statement(envelope).is_some_and(|statement| {
        let (ns, days) = (statement.originator_ns(), statement.payer().retention_days());
        not_expired(id, Some(ns), Some(days), now_ns).is_none()
    })
}
