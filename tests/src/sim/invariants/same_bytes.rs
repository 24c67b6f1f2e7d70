//! An honest strand has the same bytes wherever it is verified, and no other strand changes its own.

use hawser_proto::SequenceId;
use hawser_storage::LogItem;

use crate::sim::members::LIAR;
use crate::sim::strands::{Version, envelope};
use crate::sim::world::Sim;

impl Sim {
    pub(super) fn assert_same_bytes(&self) {
        for node in self.nodes.values() {
            for originator in self.members.clone() {
                let verified = node.verified_head(originator);
                for item in node.log(originator, SequenceId::NONE) {
                    let LogItem::Envelope { id, bytes, .. } = item else { continue };
                    if id.sequence > verified {
                        break;
                    }
                    let is = |version| envelope(originator, id.sequence, version) == bytes;
                    let signed = if originator == LIAR && node.id != LIAR {
                        // It may have signed several things; one of them is kept.
                        Version::SIGNED.into_iter().any(is)
                    } else {
                        is(self.own_version(originator, id.sequence))
                    };
                    assert!(signed, "{} holds something else at {id}", node.id);
                }
            }
        }
    }
}
