//! Decides whether a database may be imported, before anything is written.

use std::collections::BTreeMap;

use hawser_engine::ports::NodeRecord;
use hawser_proto::{OriginatorId, PublicKey, SequenceId};
use hawser_rules::Registry;

use super::facts::{SourceFacts, StrandFacts};

/// The number of sequence ids that the counter may be above the end of the own strand. xmtpd loses one with each
/// publish that fails and each repeated one. A guess: ten years of three of them in a second.
const COUNTER_AHEAD_MAX: i64 = 1_000_000_000;

/// The reason why a database is not imported. Nothing has been written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImportPlanError {
    /// No node has ever started on the database.
    #[error(
        "the database belongs to no node yet (node_info is empty): name the database of your node"
    )]
    NoNode,
    /// The database belongs to another node.
    #[error(
        "the database belongs to node {found}, and the key of the settings to node {own}: bring the key of \
         node {found}, or name the other database"
    )]
    OtherNode {
        /// The node id in the database.
        found: i32,
        /// The node id of the key in the settings.
        own: OriginatorId,
    },
    /// The database belongs to another key.
    #[error(
        "the database belongs to another key of node {own} than the registry names: it is of another \
         network, or was altered"
    )]
    OtherKey {
        /// The node.
        own: OriginatorId,
    },
    /// The database contains events of a contract of another network.
    #[error(
        "the database has read events of {contract}, which is no contract of this network: name the \
         contracts of the database's network, or its database"
    )]
    OtherNetwork {
        /// The address of the contract.
        contract: String,
    },
    /// The registry has no key for a strand.
    #[error(
        "the database holds {envelopes} envelopes of originator {originator}, which the registry does not \
         know: the database is of another network, or the registry lacks a node"
    )]
    UnknownOriginator {
        /// The strand.
        originator: i64,
        /// The number of its envelopes.
        envelopes: i64,
    },
    /// Rows are missing in the database.
    #[error(
        "the database is cut off: originator {originator} has {described} rows up to {head} in \
         gateway_envelopes_meta, {stored} in gateway_envelopes_blob, and {recorded} as the highest in \
         gateway_envelopes_latest. Restore it whole, or start with an empty folder and take everything from \
         peers (docs/runbooks/replace-xmtpd.md)"
    )]
    CutOff {
        /// The strand.
        originator: OriginatorId,
        /// The number of rows that describe envelopes.
        described: i64,
        /// The number of rows with bytes.
        stored: i64,
        /// The highest sequence id in the rows.
        head: i64,
        /// The highest sequence id that was recorded.
        recorded: i64,
    },
    /// The counter of sequence ids is below the end of the node's own strand.
    #[error(
        "the own strand ends at {head}, and its counter stands at {counter}: the database was put together \
         from different times"
    )]
    CounterBehind {
        /// The last sequence id of the strand.
        head: i64,
        /// The counter.
        counter: i64,
    },
    /// The counter of sequence ids is so far above the end of the own strand that it cannot have been counted.
    #[error(
        "the own strand ends at {head}, and its counter stands at {counter}, more than {COUNTER_AHEAD_MAX} above: \
         the database is damaged, or its sequence was set by hand. All ids between would be lost for good"
    )]
    CounterFarAhead {
        /// The last sequence id of the strand.
        head: i64,
        /// The counter.
        counter: i64,
    },
    /// The database contains accepted messages that have no envelope yet.
    #[error(
        "{staged} messages were accepted and have no envelope yet: start xmtpd without traffic until the table \
         staged_originator_envelopes is empty, stop it, and import again"
    )]
    Staged {
        /// The number of these messages.
        staged: i64,
    },
}

/// The strands to import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ImportPlan {
    /// The strands of nodes, and of the older network if its signer is known.
    pub(super) strands: BTreeMap<OriginatorId, PlannedStrand>,
    /// The strands that are left out, with the number of their envelopes.
    pub(super) left_out: Vec<(OriginatorId, u64)>,
    /// The highest sequence id of the own strand that was ever assigned.
    pub(super) counter: SequenceId,
}

/// A strand to import.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PlannedStrand {
    /// The key with which it must be signed.
    pub(super) key: PublicKey,
    /// The number of its envelopes.
    pub(super) envelopes: u64,
}

/// Compares the facts with the registry, and with the known contracts of the network. `older` is the key that signed
/// the strands of the older network; without it they are left out.
pub(super) fn check(
    facts: &SourceFacts,
    own: &NodeRecord,
    registry: &Registry,
    older: Option<PublicKey>,
    contracts: &[String],
) -> Result<ImportPlan, ImportPlanError> {
    let (node, key) = facts.node.as_ref().ok_or(ImportPlanError::NoNode)?;
    if u32::try_from(*node) != Ok(own.id.0) {
        return Err(ImportPlanError::OtherNode { found: *node, own: own.id });
    }
    if key[..] != own.public_key.as_bytes()[..] {
        return Err(ImportPlanError::OtherKey { own: own.id });
    }
    let foreign = facts.contracts.iter().find(|it| !contracts.contains(it));
    if let Some(contract) = foreign.filter(|_| !contracts.is_empty()) {
        return Err(ImportPlanError::OtherNetwork { contract: contract.clone() });
    }
    let mut plan = ImportPlan {
        strands: BTreeMap::new(),
        left_out: Vec::new(),
        counter: SequenceId(u64::try_from(facts.counter).unwrap_or_default()),
    };
    for (&originator, strand) in &facts.strands {
        require_whole(originator, strand)?;
        let envelopes = u64::try_from(strand.described).unwrap_or_default();
        let key = match registry.node(originator) {
            Some(record) => Some(record.public_key),
            None => older.filter(|_| originator.is_migrated()),
        };
        if let Some(key) = key {
            plan.strands.insert(originator, PlannedStrand { key, envelopes });
        } else if !originator.is_node() {
            plan.left_out.push((originator, envelopes));
        } else {
            let (originator, envelopes) = (i64::from(originator.0), strand.described);
            return Err(ImportPlanError::UnknownOriginator { originator, envelopes });
        }
    }
    let head = facts.strands.get(&own.id).map_or(0, |strand| strand.head);
    if facts.counter < head {
        return Err(ImportPlanError::CounterBehind { head, counter: facts.counter });
    }
    if facts.counter - head > COUNTER_AHEAD_MAX {
        return Err(ImportPlanError::CounterFarAhead { head, counter: facts.counter });
    }
    if facts.staged > 0 {
        return Err(ImportPlanError::Staged { staged: facts.staged });
    }
    Ok(plan)
}

fn require_whole(originator: OriginatorId, strand: &StrandFacts) -> Result<(), ImportPlanError> {
    let &StrandFacts { described, head, stored, recorded_head: recorded } = strand;
    if described == stored && head == recorded {
        return Ok(());
    }
    Err(ImportPlanError::CutOff { originator, described, stored, head, recorded })
}

#[cfg(test)]
mod tests {
    use hawser_proto::SecretKey;

    use super::*;

    const OWN: OriginatorId = OriginatorId(100);

    fn record(id: u32, seed: u8) -> NodeRecord {
        let public_key = SecretKey::from_bytes(&[seed; 32]).unwrap().public_key();
        NodeRecord {
            id: OriginatorId(id),
            public_key,
            owner: public_key.address(),
            http_address: "http://127.0.0.1:1".to_owned(),
            quic_address: None,
            canonical: true,
        }
    }

    fn whole(count: i64, head: i64) -> StrandFacts {
        StrandFacts { described: count, head, stored: count, recorded_head: head }
    }

    fn facts() -> SourceFacts {
        SourceFacts {
            fingerprint: "here".to_owned(),
            node: Some((100, record(100, 1).public_key.as_bytes().to_vec())),
            strands: [(0, whole(3, 3)), (10, whole(2, 9)), (100, whole(5, 7)), (200, whole(1, 1))]
                .map(|(id, strand)| (OriginatorId(id), strand))
                .into(),
            counter: 8,
            contracts: vec!["0xaa".to_owned()],
            ..SourceFacts::default()
        }
    }

    fn checked(facts: &SourceFacts) -> Result<ImportPlan, ImportPlanError> {
        let registry = [record(100, 1), record(200, 2)].into_iter().collect();
        checked_with(facts, None, &registry)
    }

    fn checked_with(
        facts: &SourceFacts,
        older: Option<PublicKey>,
        registry: &Registry,
    ) -> Result<ImportPlan, ImportPlanError> {
        let contracts = ["0xaa".to_owned(), "0xbb".to_owned()];
        check(facts, &record(100, 1), registry, older, &contracts)
    }

    #[test]
    fn strands_of_nodes_are_taken_over_and_those_of_chains_are_not() {
        let plan = checked(&facts()).unwrap();
        let planned =
            |seed, envelopes| PlannedStrand { key: record(1, seed).public_key, envelopes };
        assert_eq!(plan.strands, [(OWN, planned(1, 5)), (OriginatorId(200), planned(2, 1))].into());
        assert_eq!(plan.left_out, [(OriginatorId(0), 3), (OriginatorId(10), 2)]);
        assert_eq!(
            plan.counter,
            SequenceId(8),
            "a place that was given out is not given out again"
        );
    }

    #[test]
    fn strands_of_the_older_network_are_taken_over_when_their_signer_is_named() {
        let registry = [record(100, 1), record(200, 2)].into_iter().collect();
        let key = record(1, 7).public_key;
        let plan = checked_with(&facts(), Some(key), &registry).unwrap();
        assert_eq!(plan.strands[&OriginatorId(10)], PlannedStrand { key, envelopes: 2 });
        assert_eq!(plan.left_out, [(OriginatorId(0), 3)]);
    }

    #[test]
    fn what_is_not_this_nodes_whole_database_is_refused() {
        let with = |change: fn(&mut SourceFacts)| {
            let mut changed = facts();
            change(&mut changed);
            checked(&changed).unwrap_err()
        };
        let strand = |facts: &mut SourceFacts, change: fn(&mut StrandFacts)| {
            change(facts.strands.get_mut(&OriginatorId(200)).unwrap());
        };
        assert_eq!(with(|it| it.node = None), ImportPlanError::NoNode);
        let other = with(|it| it.node.as_mut().unwrap().0 = 200);
        assert_eq!(other, ImportPlanError::OtherNode { found: 200, own: OWN });
        assert_eq!(
            with(|it| it.node.as_mut().unwrap().1[5] ^= 1),
            ImportPlanError::OtherKey { own: OWN }
        );
        let other = with(|it| it.contracts.push("0xcc".to_owned()));
        assert_eq!(other, ImportPlanError::OtherNetwork { contract: "0xcc".to_owned() });
        let stranger = with(|it| _ = it.strands.insert(OriginatorId(300), whole(4, 4)));
        assert_eq!(stranger, ImportPlanError::UnknownOriginator { originator: 300, envelopes: 4 });
        assert_eq!(with(|it| it.staged = 2), ImportPlanError::Staged { staged: 2 });
        assert_eq!(
            with(|it| it.counter = 6),
            ImportPlanError::CounterBehind { head: 7, counter: 6 }
        );
        const FAR: i64 = 7 + COUNTER_AHEAD_MAX;
        assert_eq!(
            with(|it| it.counter = FAR + 1),
            ImportPlanError::CounterFarAhead { head: 7, counter: FAR + 1 }
        );
        let mut near = facts();
        near.counter = FAR;
        assert!(checked(&near).is_ok(), "failed inserts use ids up");
        let mut cut = facts();
        strand(&mut cut, |it| it.stored -= 1);
        assert!(matches!(checked(&cut), Err(ImportPlanError::CutOff { .. })));
        let mut cut = facts();
        strand(&mut cut, |it| it.recorded_head += 1);
        assert!(matches!(checked(&cut), Err(ImportPlanError::CutOff { .. })));
    }
}
