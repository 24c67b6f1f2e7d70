//! The absences of nodes, computed from the recorded events of the node registry.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

use hawser_chain::index::{BlockRef, ContractEvent, EventBatch, IndexedEvent, Sink, SinkError};
use hawser_engine::ports::Registry;
use hawser_proto::{OriginatorId, SequenceId};
use hawser_rules::Absences;
use hawser_storage::{MembershipChange, ReadError, RecheckedReader, Store};

use super::NetworkState;
use super::sinks::{mark, position, retry};

/// Returns the registry with the absences that follow from the recorded events.
///
/// # Errors
/// Fails when they cannot be read.
pub(in crate::service) fn with_recorded(
    registry: Registry,
    store: &Store,
) -> Result<Registry, ReadError> {
    let mut changes: BTreeMap<OriginatorId, Vec<(u64, bool)>> = BTreeMap::new();
    for change in store.snapshot().membership_changes()? {
        changes.entry(change.node).or_default().push((change.time_s, change.is_member));
    }
    let absences = changes.into_iter().map(|(node, it)| (node, Absences::of_changes(it)));
    Ok(registry.with_absences(absences))
}

/// A sink that records the events of the node registry, and publishes the resulting absences.
pub(super) struct MembershipSink {
    network: NetworkState,
    /// The last block of changes that are removed, because the reader has gone back and comes to them again; 0 if there
    /// are none. The absences stay as they were until it has read that block, or is at the head of a shorter chain.
    reads_again_to: AtomicU64,
}

impl MembershipSink {
    pub(super) fn new(network: NetworkState) -> Self {
        Self { network, reads_again_to: AtomicU64::new(0) }
    }
}

impl Sink for MembershipSink {
    fn position(&self) -> Result<Option<BlockRef>, SinkError> {
        Ok(self.network.store.snapshot().registry_position().map_err(retry)?.map(mark))
    }

    /// Changes of membership have no sequence ids, so this is always 0.
    fn last_sequence_id(&self) -> Result<SequenceId, SinkError> {
        Ok(SequenceId::NONE)
    }

    fn store(&self, batch: &EventBatch) -> Result<(), SinkError> {
        let changes: Vec<_> = batch.events.iter().filter_map(change).collect();
        let (store, read_to) = (&self.network.store, batch.position.number);
        let known = store.snapshot().membership_changes().map_err(retry)?;
        let later = known.iter().map(|change| change.block).filter(|block| *block > read_to);
        self.reads_again_to.fetch_max(later.max().unwrap_or(0), Ordering::AcqRel);
        store.record_membership(batch.from_block, &changes, position(batch)).map_err(retry)?;
        // An endpoint that stands still may keep the reader from the head for long.
        if !batch.is_at_head && read_to < self.reads_again_to.load(Ordering::Acquire) {
            return Ok(());
        }
        self.reads_again_to.store(0, Ordering::Release);
        self.network.take_absences().map_err(retry)
    }

    fn recheck_from(&self) -> Result<Option<u64>, SinkError> {
        self.network.store.chain_recheck_from(RecheckedReader::Registry).map_err(retry)
    }

    fn note_recheck_from(&self, block: u64) -> Result<(), SinkError> {
        self.network
            .store
            .record_chain_recheck_from(RecheckedReader::Registry, block)
            .map_err(retry)
    }

    fn known(&self, events: &[IndexedEvent]) -> Result<Option<Vec<bool>>, SinkError> {
        let stored = self.network.store.snapshot().membership_changes().map_err(retry)?;
        // Endpoints do not have to state the times.
        let of = |it: &MembershipChange| (it.block, it.log_index, it.node, it.is_member);
        let stored: BTreeSet<_> = stored.iter().map(of).collect();
        let is_known = |event| change(event).is_none_or(|change| stored.contains(&of(&change)));
        Ok(Some(events.iter().map(is_known).collect()))
    }
}

fn change(event: &IndexedEvent) -> Option<MembershipChange> {
    let ContractEvent::MembershipChanged { node_id, is_member } = event.decoded else {
        return None;
    };
    Some(MembershipChange {
        block: event.block.number,
        log_index: event.log_index,
        node: node_id,
        time_s: event.block_time_s,
        is_member,
    })
}

#[cfg(test)]
mod tests {
    use alloy::primitives::B256;
    use hawser_proto::SecretKey;
    use hawser_rules::{NodeRecord, PicoDollarPrice, PicoDollarsPerByteDay, Rate, RateTable};
    use hawser_storage::StoreIdentity;

    use super::*;

    const NODE: OriginatorId = OriginatorId(200);

    fn state() -> NetworkState {
        let key = SecretKey::from_bytes(&[7; 32]).unwrap().public_key();
        let identity = StoreIdentity { network: "test".into(), node: NODE, public_key: key };
        let store = Store::in_memory(identity, hawser_engine::price::price).unwrap();
        let rate = Rate {
            start_unix_s: 0,
            message_fee: PicoDollarPrice(1),
            storage_fee: PicoDollarsPerByteDay(1),
            congestion_fee: PicoDollarPrice(1),
            target_rate_per_minute: 1,
        };
        let rates = RateTable::new(vec![rate], None).unwrap();
        NetworkState::new(NODE, store, registry(true), rates)
    }

    fn registry(canonical: bool) -> Registry {
        registry_with_key(7, canonical)
    }

    fn registry_with_key(seed: u8, canonical: bool) -> Registry {
        let key = SecretKey::from_bytes(&[seed; 32]).unwrap().public_key();
        let record = NodeRecord {
            id: NODE,
            public_key: key,
            owner: key.address(),
            http_address: Some("http://127.0.0.1:1".into()),
            quic_address: None,
            canonical,
        };
        [record].into_iter().collect()
    }

    fn batch(from_block: u64, to: u64, events: &[(u64, u64, bool)]) -> EventBatch {
        let block = |number| BlockRef { number, hash: B256::with_last_byte(7) };
        let event = |&(number, block_time_s, is_member): &(u64, u64, bool)| IndexedEvent {
            block: block(number),
            block_time_s,
            log_index: 1,
            transaction: B256::ZERO,
            decoded: ContractEvent::MembershipChanged { node_id: NODE, is_member },
        };
        let events = events.iter().map(event).collect();
        EventBatch { from_block, events, position: block(to), is_at_head: true }
    }

    #[test]
    fn changes_that_are_not_recorded_are_told_from_those_that_are() {
        let sink = MembershipSink::new(state());
        let (read, late) = (batch(0, 10, &[(1, 100, true)]), batch(0, 10, &[(5, 500, false)]));
        sink.store(&read).unwrap();
        let timeless = IndexedEvent { block_time_s: 0, ..read.events[0].clone() };
        let known = sink.known(&[timeless, late.events[0].clone()]);
        assert_eq!(known, Ok(Some(vec![true, false])));
    }

    #[test]
    fn absences_follow_the_chain_also_after_a_reorganisation_and_a_restart() {
        let network = state();
        let sink = MembershipSink::new(network.clone());
        assert_eq!(sink.position(), Ok(None));
        sink.store(&batch(0, 10, &[(1, 100, true), (5, 500, false)])).unwrap();
        let absences = || network.registry.borrow().absences(NODE).clone();
        let left_at = |from_s| vec![hawser_rules::Absence { from_s, until_s: None }];
        assert_eq!(absences(), Absences::new(left_at(500)).unwrap());
        network.take_records(registry(false)).unwrap();
        assert_eq!(absences(), Absences::new(left_at(500)).unwrap(), "records leave them alone");

        sink.store(&batch(4, 9, &[(6, 600, false)])).unwrap();
        assert_eq!(absences(), Absences::new(left_at(600)).unwrap());
        assert_eq!(sink.position().unwrap().map(|it| it.number), Some(9));
        let restarted = with_recorded(registry(false), &network.store).unwrap();
        assert_eq!(restarted, **network.registry.borrow());

        sink.store(&batch(10, 12, &[(11, 700, true)])).unwrap();
        network.take_records(registry(true)).unwrap();
        assert!(!absences().cover(700_000_000_000) && absences().cover(699_999_999_999));
        assert!(network.registry.borrow().member(NODE).is_some());
    }

    /// A reorganisation of the chain has given the id to another node.
    #[test]
    fn keys_that_have_changed_are_the_known_ones_from_then_on() {
        let network = state();
        let key = || network.registry.borrow().node(NODE).unwrap().public_key;
        let before = key();
        assert_eq!(network.take_records(registry_with_key(8, true)), Err(NODE));
        assert_eq!(key(), before);
        network.take_other_keys(registry_with_key(8, true));
        assert_ne!(key(), before);
        network.take_absences().unwrap();
        assert_eq!(network.take_records(registry(true)), Err(NODE), "an endpoint that lags behind");
        network.take_records(registry_with_key(8, false)).unwrap();
        assert!(network.registry.borrow().member(NODE).is_none());
    }

    /// Otherwise what a node has signed after its removal would be charged, and payer reports with it attested, until
    /// the reader came to the removal again.
    #[test]
    fn absences_stay_while_the_reader_comes_again_to_later_blocks() {
        let network = state();
        let sink = MembershipSink::new(network.clone());
        let absences = || network.registry.borrow().absences(NODE).clone();
        let left_at = |from_s| {
            let absence = hawser_rules::Absence { from_s, until_s: None };
            Absences::new(vec![absence]).unwrap()
        };
        let page = |from, to, events: &[(u64, u64, bool)]| {
            let page = EventBatch { is_at_head: false, ..batch(from, to, events) };
            sink.store(&page).unwrap();
        };
        page(0, 10, &[(1, 100, true), (8, 800, false)]);
        assert_eq!(absences(), left_at(800), "the first reading tells them as it goes on");
        page(0, 3, &[(1, 100, true)]);
        assert_eq!(absences(), left_at(800));
        page(4, 6, &[(5, 500, false), (6, 600, true)]);
        assert_eq!(absences(), left_at(800));
        page(7, 8, &[(8, 800, false)]);
        let found = hawser_rules::Absence { from_s: 500, until_s: Some(600) };
        let last = hawser_rules::Absence { from_s: 800, until_s: None };
        assert_eq!(absences(), Absences::new(vec![found, last]).unwrap(), "also before the head");
        page(9, 10, &[(9, 900, true)]);
        assert!(!absences().cover(900_000_000_000), "later changes count at once");
        page(0, 3, &[(1, 100, true)]);
        sink.store(&batch(4, 7, &[])).unwrap();
        assert_eq!(absences(), Absences::NONE, "the chain has taken them back");
    }
}
