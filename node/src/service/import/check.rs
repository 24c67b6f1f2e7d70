//! Decides whether a database may be imported, by facts about it, before its rows are read.

use std::collections::{BTreeMap, BTreeSet};

use hawser_engine::ports::NodeRecord;
use hawser_proto::{OriginatorId, PublicKey, SequenceId};
use hawser_rules::Registry;

use super::facts::{SourceFacts, StrandFacts, TailEvidence};

/// The number of sequence ids that the counter may be above the end of the own strand. xmtpd loses one with each
/// publish that fails and each repeated one. A guess: ten years of three of them in a second.
const COUNTER_AHEAD_MAX: i64 = 1_000_000_000;

/// The reason why a database is not imported. Nothing of it is kept.
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
         network, or was altered. Name the database of your node"
    )]
    OtherKey {
        /// The node.
        own: OriginatorId,
    },
    /// The database contains events of a contract of another network.
    #[error(
        "the database has read events of {contract}, which is no contract of this network, and has never read \
         {unread}, which is: name the contracts of the database's network, or its database. If {contract} was \
         replaced, start xmtpd once with the present contracts, and stop it when it has read them"
    )]
    OtherNetwork {
        /// The address of the contract.
        contract: String,
        /// The address of a contract of this network.
        unread: String,
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
    /// The own strand was to be left out.
    #[error(
        "--leave-out names node {own}, whose database this is: peers may lack the end of its strand. To take \
         all of it from peers, start with an empty folder (docs/runbooks/replace-xmtpd.md)"
    )]
    OwnLeftOut {
        /// The node.
        own: OriginatorId,
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
    /// Another table knows envelopes above the end of a strand.
    #[error(
        "the database has lost the end of a strand: originator {originator} ends at {head}, and the table {table} \
         knows its place {place}. Restore it whole, or start with an empty folder and take everything from peers \
         (docs/runbooks/replace-xmtpd.md)"
    )]
    LostEnd {
        /// The strand.
        originator: OriginatorId,
        /// The highest sequence id in the rows of envelopes.
        head: i64,
        /// The table that knows more.
        table: &'static str,
        /// The highest sequence id in that table.
        place: i64,
    },
    /// The counter of sequence ids is below the end of the node's own strand.
    #[error(
        "the own strand ends at {head}, and its counter is at {counter}: the database has tables of different times. \
         Restore it whole, or start with an empty folder and take everything from peers \
         (docs/runbooks/replace-xmtpd.md)"
    )]
    CounterBehind {
        /// The last sequence id of the strand.
        head: i64,
        /// The counter.
        counter: i64,
    },
    /// The counter of sequence ids is so far above the end of the own strand that it cannot have been counted.
    #[error(
        "the own strand ends at {head}, and its counter is at {counter}, more than {COUNTER_AHEAD_MAX} above: the \
         database is damaged, or its sequence was set by hand. All ids between would be lost for good, so set the \
         sequence to the end of the strand, or take everything from peers (docs/runbooks/replace-xmtpd.md)"
    )]
    CounterFarAhead {
        /// The last sequence id of the strand.
        head: i64,
        /// The counter.
        counter: i64,
    },
    /// Rows have places that no strand has, so they would be left out.
    #[error(
        "originator {originator} has {described} rows in gateway_envelopes_meta, and {read} at places from 1 on. The \
         other rows have places that no strand has, so the database was altered: restore it, or take everything from \
         peers (docs/runbooks/replace-xmtpd.md)"
    )]
    OtherPlaces {
        /// The strand.
        originator: OriginatorId,
        /// The number of rows that describe envelopes.
        described: u64,
        /// The number of rows that were read.
        read: u64,
    },
    /// The rows of a strand end at another place than the database has stated before they were read.
    #[error(
        "originator {originator} ended at {stated} when its rows in gateway_envelopes_meta were counted, and the last \
         one that was read is at {read}: an index of the table is damaged, or the server lies. Restore the database, \
         or take everything from peers (docs/runbooks/replace-xmtpd.md)"
    )]
    OtherEnd {
        /// The strand.
        originator: OriginatorId,
        /// The stated end.
        stated: SequenceId,
        /// The place of the last row that was read.
        read: SequenceId,
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

impl ImportPlan {
    /// Returns the number of envelopes to import.
    pub(super) fn envelopes(&self) -> u64 {
        self.strands.values().fold(0, |sum, strand| sum.saturating_add(strand.envelopes))
    }

    /// Checks that the import has read all `envelopes` rows of a strand, up to `head`. It does not read rows at place 0
    /// and below. For each such row, the counts of the two tables of envelopes could be equal although one table lacks
    /// an envelope.
    ///
    /// The end of the own strand bounds the counter, to which the strand is moved: a server that states an end far
    /// ahead, without a row there, would leave the node no places.
    ///
    /// # Errors
    /// [`ImportPlanError::OtherPlaces`] and [`ImportPlanError::OtherEnd`].
    pub(super) fn require_read(
        &self,
        originator: OriginatorId,
        envelopes: u64,
        head: SequenceId,
    ) -> Result<(), ImportPlanError> {
        let planned = self.strands.get(&originator);
        let described = planned.map_or(0, |strand| strand.envelopes);
        if envelopes != described {
            let read = envelopes;
            return Err(ImportPlanError::OtherPlaces { originator, described, read });
        }
        let stated = planned.map_or(SequenceId::NONE, |strand| strand.head);
        if head != stated {
            return Err(ImportPlanError::OtherEnd { originator, stated, read: head });
        }
        Ok(())
    }
}

/// A strand to import.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PlannedStrand {
    /// The key with which it must be signed.
    pub(super) key: PublicKey,
    /// The number of its envelopes.
    pub(super) envelopes: u64,
    /// The highest place of these, as the database states it.
    pub(super) head: SequenceId,
}

/// The addresses of the network's contracts, in lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct NetworkContracts {
    /// All contracts of the network; empty if files substitute for the chains.
    pub(super) all: Vec<String>,
    /// Contracts whose events each node of the network reads.
    pub(super) read: Vec<String>,
}

impl NetworkContracts {
    /// Checks the contracts whose events a database has read. Contracts of the live networks were replaced by others,
    /// so a database that has read each present one may also have read others before.
    fn check(&self, found: &[String]) -> Result<(), ImportPlanError> {
        let foreign = found.iter().find(|it| !self.all.contains(it));
        let unread = self.read.iter().find(|it| !found.contains(it));
        match foreign.zip(unread) {
            Some((contract, unread)) if !self.all.is_empty() => {
                let (contract, unread) = (contract.clone(), unread.clone());
                Err(ImportPlanError::OtherNetwork { contract, unread })
            }
            _ => Ok(()),
        }
    }
}

/// Compares the facts with the registry, and with the contracts of the network. `older` is the key that signed the
/// strands of the older network; without it they are left out. The strands of the nodes `without` are left out, too.
pub(super) fn check(
    facts: &SourceFacts,
    own: &NodeRecord,
    registry: &Registry,
    older: Option<PublicKey>,
    contracts: &NetworkContracts,
    without: &BTreeSet<OriginatorId>,
) -> Result<ImportPlan, ImportPlanError> {
    if without.contains(&own.id) {
        return Err(ImportPlanError::OwnLeftOut { own: own.id });
    }
    let (node, key) = facts.node.as_ref().ok_or(ImportPlanError::NoNode)?;
    if u32::try_from(*node) != Ok(own.id.0) {
        return Err(ImportPlanError::OtherNode { found: *node, own: own.id });
    }
    if key[..] != own.public_key.as_bytes()[..] {
        return Err(ImportPlanError::OtherKey { own: own.id });
    }
    contracts.check(&facts.contracts)?;
    let mut plan = ImportPlan {
        strands: BTreeMap::new(),
        left_out: Vec::new(),
        counter: SequenceId(u64::try_from(facts.counter).unwrap_or_default()),
    };
    for (&originator, strand) in &facts.strands {
        let key = match registry.node(originator) {
            Some(record) => Some(record.public_key),
            None => older.filter(|_| originator.is_migrated()),
        };
        let is_left_out = key.is_some() && without.contains(&originator);
        if !is_left_out {
            require_whole(originator, strand, own.id)?;
        }
        // Other tables may know a strand of which this database has never held an envelope.
        if (strand.described, strand.recorded_head) == (0, 0) {
            continue;
        }
        let envelopes = u64::try_from(strand.described).unwrap_or_default();
        if is_left_out {
            plan.left_out.push((originator, envelopes));
        } else if let Some(key) = key {
            let head = SequenceId(u64::try_from(strand.head).unwrap_or_default());
            plan.strands.insert(originator, PlannedStrand { key, envelopes, head });
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
    // An altered database may have any numbers.
    if facts.counter.saturating_sub(head) > COUNTER_AHEAD_MAX {
        return Err(ImportPlanError::CounterFarAhead { head, counter: facts.counter });
    }
    if facts.staged > 0 {
        return Err(ImportPlanError::Staged { staged: facts.staged });
    }
    Ok(plan)
}

fn require_whole(
    originator: OriginatorId,
    strand: &StrandFacts,
    own: OriginatorId,
) -> Result<(), ImportPlanError> {
    let &StrandFacts { described, head, stored, recorded_head: recorded, .. } = strand;
    let of = |table| strand.evidence.get(&table).copied().unwrap_or_default();
    // xmtpd prunes up to the end of reports. The strand of a node that has left can lack all envelopes at its end
    // then. The own strand cannot: its node adds a report or an attestation every few hours.
    let reported = of(TailEvidence::Reports);
    let pruned = if originator == own { 0 } else { reported.min(recorded) };
    let end = head.max(pruned);
    if described != stored || end != recorded {
        return Err(ImportPlanError::CutOff { originator, described, stored, head, recorded });
    }
    // Reports of other strands may be about envelopes that have not arrived yet.
    let known = [TailEvidence::Usage, TailEvidence::Reports];
    let mut known = known.into_iter().filter(|it| *it == TailEvidence::Usage || originator == own);
    if let Some(table) = known.find(|table| of(*table) > end) {
        let (table, place) = (table.table(), of(table));
        return Err(ImportPlanError::LostEnd { originator, head, table, place });
    }
    Ok(())
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
            http_address: Some("http://127.0.0.1:1".to_owned()),
            quic_address: None,
            canonical: true,
        }
    }

    fn whole(count: i64, head: i64) -> StrandFacts {
        let evidence = [TailEvidence::Usage, TailEvidence::Reports].map(|table| (table, head));
        let evidence = evidence.into();
        StrandFacts { described: count, head, stored: count, recorded_head: head, evidence }
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
        let [aa, bb, cc] = ["0xaa", "0xbb", "0xcc"].map(str::to_owned);
        let contracts =
            NetworkContracts { all: vec![aa.clone(), bb.clone(), cc], read: vec![aa, bb] };
        check(facts, &record(100, 1), registry, older, &contracts, &BTreeSet::new())
    }

    #[test]
    fn strands_of_nodes_are_taken_over_and_those_of_chains_are_not() {
        let plan = checked(&facts()).unwrap();
        let planned = |seed, envelopes, head| {
            let (key, head) = (record(1, seed).public_key, SequenceId(head));
            PlannedStrand { key, envelopes, head }
        };
        let strands = [(OWN, planned(1, 5, 7)), (OriginatorId(200), planned(2, 1, 1))];
        assert_eq!(plan.strands, strands.into());
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
        let planned = PlannedStrand { key, envelopes: 2, head: SequenceId(9) };
        assert_eq!(plan.strands[&OriginatorId(10)], planned);
        assert_eq!(plan.left_out, [(OriginatorId(0), 3)]);
    }

    /// xmtpd stores what a hostile node has not signed, and no node takes it.
    #[test]
    fn strands_of_other_nodes_can_be_left_out_and_the_own_one_cannot() {
        let registry = [record(100, 1), record(200, 2)].into_iter().collect();
        let (contracts, own) = (NetworkContracts::default(), record(100, 1));
        let with = |facts: &SourceFacts, without: &[u32]| {
            let without = without.iter().copied().map(OriginatorId).collect();
            check(facts, &own, &registry, None, &contracts, &without)
        };
        let plan = with(&facts(), &[200]).unwrap();
        assert_eq!(plan.strands.into_keys().collect::<Vec<_>>(), [OWN]);
        let left_out = [(0, 3), (10, 2), (200, 1)].map(|(id, count)| (OriginatorId(id), count));
        assert_eq!(plan.left_out, left_out);
        assert_eq!(with(&facts(), &[100]), Err(ImportPlanError::OwnLeftOut { own: OWN }));
        let mut cut = facts();
        cut.strands.get_mut(&OriginatorId(200)).unwrap().stored -= 1;
        assert!(matches!(with(&cut, &[]), Err(ImportPlanError::CutOff { .. })));
        assert_eq!(with(&cut, &[200]).unwrap().left_out, left_out, "none of its rows is read");
        let mut strange = facts();
        strange.strands.insert(OriginatorId(300), whole(4, 4));
        let unknown = ImportPlanError::UnknownOriginator { originator: 300, envelopes: 4 };
        assert_eq!(with(&strange, &[300]), Err(unknown), "it may be another network's database");
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
        let other = with(|it| it.contracts.push("0xdd".to_owned()));
        let [contract, unread] = ["0xdd", "0xbb"].map(str::to_owned);
        assert_eq!(other, ImportPlanError::OtherNetwork { contract, unread });
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
        let lowest = with(|it| {
            let own = it.strands.get_mut(&OWN).unwrap();
            *own =
                StrandFacts { described: 1, stored: 1, head: i64::MIN, ..StrandFacts::default() };
        });
        assert_eq!(lowest, ImportPlanError::CounterFarAhead { head: i64::MIN, counter: 8 });
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

    #[test]
    fn rows_that_are_not_read_are_not_left_out_in_silence() {
        let plan = checked(&facts()).unwrap();
        let head = SequenceId(7);
        assert_eq!(plan.require_read(OWN, 5, head), Ok(()));
        let other = ImportPlanError::OtherPlaces { originator: OWN, described: 5, read: 4 };
        assert_eq!(plan.require_read(OWN, 4, head), Err(other));
    }

    /// The counter of the own strand may be a bounded number of places above its end, whatever the server says of it.
    #[test]
    fn a_server_that_states_an_end_without_a_row_there_moves_no_strand() {
        const FAR: i64 = i64::MAX - 1;
        let mut far = facts();
        let own = far.strands.get_mut(&OWN).unwrap();
        (own.head, own.recorded_head, far.counter) = (FAR, FAR, FAR);
        let plan = checked(&far).unwrap();
        let (stated, read) = (SequenceId(FAR.unsigned_abs()), SequenceId(7));
        let other = ImportPlanError::OtherEnd { originator: OWN, stated, read };
        assert_eq!(plan.require_read(OWN, 5, read), Err(other));
        assert_eq!(plan.require_read(OWN, 5, stated), Ok(()));
    }

    #[test]
    fn contracts_that_were_replaced_are_no_other_network() {
        let mut replaced = facts();
        replaced.contracts = ["0xaa", "0xbb", "0xdd", "0xee"].map(str::to_owned).into();
        assert!(checked(&replaced).is_ok(), "all present ones were read, too");
        replaced.contracts.remove(1);
        assert!(matches!(checked(&replaced), Err(ImportPlanError::OtherNetwork { .. })));
        replaced.contracts = vec!["0xaa".to_owned()];
        assert!(checked(&replaced).is_ok(), "a node that has read one so far");
    }

    #[test]
    fn a_strand_that_has_lost_its_end_is_refused_by_what_other_tables_know() {
        let with = |originator, table, place| {
            let mut facts = facts();
            let strand = facts.strands.get_mut(&OriginatorId(originator)).unwrap();
            strand.evidence.insert(table, place);
            checked(&facts)
        };
        for (originator, table, head, place) in [
            (100, TailEvidence::Usage, 7, 8),
            (100, TailEvidence::Reports, 7, 8),
            (200, TailEvidence::Usage, 1, 2),
        ] {
            let (name, at) = (table.table(), OriginatorId(originator));
            let lost = ImportPlanError::LostEnd { originator: at, head, table: name, place };
            assert_eq!(with(originator, table, place), Err(lost));
            assert!(with(originator, table, head).is_ok());
        }
        assert!(
            with(200, TailEvidence::Reports, 2).is_ok(),
            "its envelopes are still on their way"
        );
    }

    #[test]
    fn a_strand_whose_end_was_pruned_is_whole_and_one_that_was_only_reported_is_no_strand() {
        let mut pruned = facts();
        let strand = pruned.strands.get_mut(&OriginatorId(200)).unwrap();
        (strand.described, strand.stored, strand.head) = (0, 0, 0);
        assert!(checked(&pruned).is_ok(), "a report has covered all of it");
        pruned.strands.get_mut(&OriginatorId(200)).unwrap().evidence.clear();
        assert!(matches!(checked(&pruned), Err(ImportPlanError::CutOff { .. })));
        let mut reported = facts();
        let evidence = [(TailEvidence::Reports, 9)].into();
        let unknown = StrandFacts { evidence, ..StrandFacts::default() };
        reported.strands.insert(OriginatorId(300), unknown);
        assert_eq!(checked(&reported), checked(&facts()));
    }
}
