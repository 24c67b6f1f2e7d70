//! Envelopes as readers are shown them before a signature is checked.

use hawser_proto::{Address, Bytes, Signature};
use hawser_rules::{check_length, check_statement};
use hawser_storage::{HashedEnvelope, LogEntry};

use super::{EnvelopeVerifier, InnerLayers, ParsedEnvelope};
use crate::facts;

impl EnvelopeVerifier {
    /// Reads envelopes without verifying the signature of a node or a payer. Returns their entries, which are charged
    /// to no payer, with their leaves. Returns `None` if one of them has to be verified first: it breaks a rule that
    /// shows without these signatures, states a time at which its node was absent, or belongs to a reserved topic or
    /// an inbox.
    #[must_use]
    pub fn read(&self, batch: Vec<Bytes>) -> Option<Vec<(LogEntry, HashedEnvelope)>> {
        let node = self.key.address();
        let mut read = Vec::with_capacity(batch.len());
        for bytes in batch {
            read.push(self.read_one(bytes, node)?);
        }
        Some(read)
    }

    /// Reads one envelope. `node` is the account of the strand's node.
    fn read_one(&self, bytes: Bytes, node: Address) -> Option<(LogEntry, HashedEnvelope)> {
        let (hashed, statement, proof) = HashedEnvelope::open(bytes.clone()).ok()?;
        let (opened, _) = self.opened(bytes, statement, proof).ok()?;
        let ParsedEnvelope { bytes, id, inner, .. } = opened.parse();
        // Long ones are updates and reports, which are never shown before they are verified.
        let InnerLayers::Held(Ok(statement)) = inner else { return None };
        check_length(bytes.len()).ok()?;
        // Reserved topics, whose payer has to be the node, are left out below.
        check_statement(&statement, Ok(node), &self.key).ok()?;
        let payer = statement.payer();
        payer.signature_bytes().and_then(|bytes| Signature::from_bytes(bytes).ok())?;
        if payer.client().topic().kind().is_reserved()
            || self.absences.cover(statement.originator_ns())
        {
            return None;
        }
        let facts = facts::of_statement(&statement, None, self.own).unbooked();
        facts.addresses.is_empty().then(|| (LogEntry::valid(id, bytes, facts), hashed))
    }
}
