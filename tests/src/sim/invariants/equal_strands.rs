//! Honest strands, their marks and their tallies are the same at every honest node. Any other envelope that two
//! nodes both hold has the same mark at both.

use std::collections::BTreeMap;

use bytes::Bytes;
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use hawser_storage::{Facts, LogItem, UsageRow, Validity};

use crate::harness::envelopes::payer;
use crate::sim::departed_node::DEPARTED;
use crate::sim::members::LIAR;
use crate::sim::strands::{judge, rates};
use crate::sim::world::Sim;

impl Sim {
    /// Asserts that honest nodes hold the same of each honest strand, and the same marks of what they hold of others.
    ///
    /// # Panics
    /// Panics if two of them differ.
    pub fn assert_equal_strands(&self) {
        let held = |node: OriginatorId, originator| -> BTreeMap<EnvelopeId, (Bytes, Validity)> {
            let items = self.nodes[&node].log(originator, SequenceId::NONE).into_iter();
            let envelope = |item| match item {
                LogItem::Envelope { id, bytes, validity } => Some((id, (bytes, validity))),
                LogItem::Skipped { .. } => None,
            };
            items.filter_map(envelope).collect()
        };
        for originator in self.honest() {
            let origin = held(originator, originator);
            assert!(origin.values().all(|(_, validity)| *validity == Validity::Valid));
            for node in self.honest() {
                let held = held(node, originator);
                assert_eq!(held, origin, "{node} holds another strand of {originator}");
            }
        }
        let first = held(self.honest()[0], LIAR);
        for node in self.honest() {
            for (id, (bytes, validity)) in held(node, LIAR) {
                let same = first.get(&id).filter(|(other, _)| *other == bytes);
                assert!(same.is_none_or(|(_, other)| *other == validity), "{node}: marks of {id}");
            }
        }
    }

    /// Tells the rates to every honest node, and compares what each of them has booked.
    pub(in crate::sim) fn assert_equal_tallies(&mut self) {
        let mut booked = Vec::new();
        for node in self.honest() {
            let store = &self.nodes[&node].store;
            store.record_rates(&rates()).unwrap();
            store
                .reprice(&|id, bytes, validity| derive(node, id, bytes, validity), usize::MAX)
                .unwrap();
            let mut rows: BTreeMap<(OriginatorId, u32), UsageRow> = BTreeMap::new();
            let add = |originator, minute, row| _ = rows.insert((originator, minute), row);
            store.snapshot().usage_of_payer(payer(3).public_key().address(), add).unwrap();
            rows.retain(|(originator, _), _| !self.has_liar || *originator != LIAR);
            booked.push(rows);
        }
        assert!(!booked[0].is_empty());
        assert!(booked.windows(2).all(|pair| pair[0] == pair[1]), "{booked:#?}");
        let node = self.honest()[0];
        let store = &self.nodes[&node].store;
        let before = store.snapshot().projection_digests().unwrap();
        let derive = |id, bytes: &Bytes, validity| derive(node, id, bytes, validity);
        store.rebuild(&derive, &mut |_| {}).unwrap();
        assert_eq!(store.snapshot().projection_digests().unwrap(), before, "a rebuild of {node}");
    }

    /// Compares what the nodes that stayed have booked for the one that has left, and that a rebuild gives the
    /// same rows.
    pub(in crate::sim) fn assert_tallies_of_departed(&self) {
        let mut booked = Vec::new();
        for node in self.remaining() {
            let store = &self.nodes[&node].store;
            let derive = |id, bytes: &Bytes, validity| derive(node, id, bytes, validity);
            store.reprice(&derive, usize::MAX).unwrap();
            let before = store.snapshot().projection_digests().unwrap();
            store.rebuild(&derive, &mut |_| {}).unwrap();
            assert_eq!(
                store.snapshot().projection_digests().unwrap(),
                before,
                "a rebuild of {node}"
            );
            let mut rows: BTreeMap<u32, UsageRow> = BTreeMap::new();
            let add = |originator, minute, row| {
                if originator == DEPARTED {
                    rows.insert(minute, row);
                }
            };
            store.snapshot().usage_of_payer(payer(3).public_key().address(), add).unwrap();
            booked.push(rows);
        }
        assert!(booked.windows(2).all(|pair| pair[0] == pair[1]), "{booked:#?}");
    }
}

/// Returns the facts of a stored envelope, as the engine derives them. Verdicts are kept from run to run.
fn derive(node: OriginatorId, id: EnvelopeId, bytes: &Bytes, validity: Validity) -> Option<Facts> {
    let entry = judge(id.originator, node, bytes).ok()?;
    entry.facts.filter(|_| validity == entry.validity)
}
