//! Readiness of this node to publish, by its registry record and the price list.

use hawser_proto::{OriginatorId, PublicKey};
use hawser_rules::fees::RATES_AGE_NS_MAX;
use hawser_rules::{RateTable, Registry};

/// Conditions outside of this node do not allow it to publish now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotReadyError {
    /// This process follows the network and signs nothing.
    #[error("this is a replica: it serves reads only, so publish at a node of the network")]
    Replica,
    /// The registry does not name this node.
    #[error("node has no record in the registry")]
    NoRecord,
    /// The registry names this node, but not as a member of the canonical network.
    #[error("node is not canonical in the registry")]
    NotCanonical,
    /// By its clock, this node was not in the network at this time, so peers would mark its envelopes.
    #[error("this node's clock has not reached the time at which the node returned to the network")]
    Absent,
    /// The registry has another key for this node, so peers would reject its envelopes.
    #[error("registry holds another key for this node")]
    OtherKey,
    /// The source of the price list has not confirmed it for too long.
    #[error("rates have not been refreshed for 60 minutes")]
    StaleRates,
    /// The first rate of the price list has not started.
    #[error("no rate is in force yet")]
    NoRate,
}

/// Checks that `node`, which signs with `key`, may publish at `now_ns`, unix nanoseconds.
///
/// # Errors
/// [`NotReadyError`] with the first condition that is not met.
pub fn check(
    registry: &Registry,
    rates: &RateTable,
    node: OriginatorId,
    key: PublicKey,
    now_ns: i64,
) -> Result<(), NotReadyError> {
    if node == OriginatorId::REPLICA {
        return Err(NotReadyError::Replica);
    }
    let record = registry.node(node).ok_or(NotReadyError::NoRecord)?;
    if !record.canonical {
        return Err(NotReadyError::NotCanonical);
    }
    if registry.absences(node).cover(now_ns) {
        return Err(NotReadyError::Absent);
    }
    if record.public_key != key {
        return Err(NotReadyError::OtherKey);
    }
    let is_stale = |refreshed_ns: i64| now_ns.saturating_sub(refreshed_ns) > RATES_AGE_NS_MAX;
    if rates.refreshed_ns().is_some_and(is_stale) {
        return Err(NotReadyError::StaleRates);
    }
    rates.at(now_ns).map_err(|_| NotReadyError::NoRate)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use hawser_proto::SecretKey;
    use hawser_rules::{
        Absence, Absences, NodeRecord, PicoDollarPrice, PicoDollarsPerByteDay, Rate,
    };

    use super::*;

    const NODE: OriginatorId = OriginatorId(100);
    const NOW_NS: i64 = 1_750_000_000_000_000_000;

    fn key(seed: u8) -> PublicKey {
        SecretKey::from_bytes(&[seed; 32]).unwrap().public_key()
    }

    fn rates(start_unix_s: u64, refreshed_ns: Option<i64>) -> RateTable {
        let rate = Rate {
            start_unix_s,
            message_fee: PicoDollarPrice(1),
            storage_fee: PicoDollarsPerByteDay(1),
            congestion_fee: PicoDollarPrice(1),
            target_rate_per_minute: 1,
        };
        RateTable::new(vec![rate], refreshed_ns).unwrap()
    }

    #[test]
    fn a_node_publishes_with_its_canonical_record_and_fresh_rates_only() {
        let record = |canonical| NodeRecord {
            id: NODE,
            public_key: key(1),
            owner: key(1).address(),
            http_address: Some("http://127.0.0.1:5050".into()),
            quic_address: None,
            canonical,
        };
        let registry = |canonical| -> Registry { [record(canonical)].into_iter().collect() };
        let check = |registry: Registry, rates: RateTable, seed| {
            super::check(&registry, &rates, NODE, key(seed), NOW_NS)
        };
        let fresh = || rates(0, Some(NOW_NS - RATES_AGE_NS_MAX));
        assert_eq!(check(registry(true), fresh(), 1), Ok(()));
        assert_eq!(check(Registry::default(), fresh(), 1), Err(NotReadyError::NoRecord));
        assert_eq!(check(registry(false), fresh(), 1), Err(NotReadyError::NotCanonical));
        let as_replica = NodeRecord { id: OriginatorId::REPLICA, ..record(true) };
        let of_replica = [as_replica].into_iter().collect();
        let node = OriginatorId::REPLICA;
        let replica = super::check(&of_replica, &fresh(), node, key(1), NOW_NS);
        assert_eq!(replica, Err(NotReadyError::Replica), "whatever a registry says");
        let second = u64::try_from(NOW_NS / 1_000_000_000).unwrap();
        for (until_s, ready) in [(second, Ok(())), (second + 1, Err(NotReadyError::Absent))] {
            let away = Absence { from_s: second - 9, until_s: Some(until_s) };
            let absences = [(NODE, Absences::new(vec![away]).unwrap())];
            assert_eq!(check(registry(true).with_absences(absences), fresh(), 1), ready);
        }
        assert_eq!(check(registry(true), fresh(), 2), Err(NotReadyError::OtherKey));
        let stale = rates(0, Some(NOW_NS - RATES_AGE_NS_MAX - 1));
        assert_eq!(check(registry(true), stale, 1), Err(NotReadyError::StaleRates));
        assert_eq!(check(registry(true), rates(u64::MAX, None), 1), Err(NotReadyError::NoRate));
    }
}
