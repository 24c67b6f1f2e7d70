//! Proofs of the logs of a block from its header and receipts, without I/O.
//!
//! A block's hash is the hash of its header, which contains the root of a tree over all receipts of the block. A header
//! and receipts that lead to the hash therefore prove the block's logs, whichever endpoint shows them: one honest
//! endpoint outweighs any number that deny.

use std::collections::{BTreeMap, BTreeSet};

use alloy::consensus::Header;
use alloy::consensus::proofs::ordered_trie_root_with_encoder;
use alloy::primitives::{Address, B256, Bloom, Bytes, Log as ChainLog, U64};
use alloy::rlp::{BufMut, Encodable};
use alloy::rpc::types::Log;
use serde::Deserialize;

use super::claim::{Claim, ClaimVerdict};
use super::event::{BlockRef, EventSource, IndexedEvent};
use super::event_set::EventSet;

/// The highest transaction type (EIP-2718), which prefixes the encoded receipt.
const TYPE_MAX: u64 = 0x7f;

/// A transaction's receipt, with the fields that the receipts root commits to.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockReceipt {
    /// The type of the transaction (EIP-2718). Older endpoints omit it for legacy transactions.
    #[serde(rename = "type", default)]
    kind: U64,
    /// 1 if it succeeded, else 0; `None` in the oldest blocks of Ethereum, whose receipts have a state root.
    #[serde(default)]
    status: Option<U64>,
    #[serde(default)]
    root: Option<Bytes>,
    cumulative_gas_used: U64,
    logs_bloom: Bloom,
    logs: Vec<Log>,
    transaction_hash: B256,
    transaction_index: U64,
    /// Fields of deposit transactions on OP Stack rollups. The encoding has both if there is a version.
    #[serde(default)]
    deposit_nonce: Option<U64>,
    #[serde(default)]
    deposit_receipt_version: Option<U64>,
}

/// The fields of a receipt's consensus encoding, in order.
#[derive(Default)]
struct Fields {
    bytes: Vec<u8>,
}

impl Fields {
    fn add(&mut self, field: &impl Encodable) {
        field.encode(&mut self.bytes);
    }

    /// Appends the RLP list of the fields.
    fn finish(self, out: &mut Vec<u8>) {
        alloy::rlp::Header { list: true, payload_length: self.bytes.len() }.encode(out);
        out.extend_from_slice(&self.bytes);
    }
}

impl BlockReceipt {
    /// Returns the logs of the transaction.
    pub(super) fn logs(&self) -> &[Log] {
        &self.logs
    }

    /// Returns the receipt with other logs.
    #[cfg(test)]
    pub(super) fn with_logs(self, logs: Vec<Log>) -> Self {
        Self { logs, ..self }
    }

    /// Appends the receipt's consensus encoding.
    fn encode(&self, kind: u8, out: &mut Vec<u8>) {
        let mut fields = Fields::default();
        match (&self.status, &self.root) {
            (None, Some(root)) => fields.add(root),
            (status, _) => fields.add(&status.unwrap_or_default()),
        }
        fields.add(&self.cumulative_gas_used);
        fields.add(&self.logs_bloom);
        let logs: Vec<ChainLog> = self.logs.iter().map(|log| log.inner.clone()).collect();
        fields.add(&logs);
        if let Some(version) = &self.deposit_receipt_version {
            fields.add(&self.deposit_nonce.unwrap_or_default());
            fields.add(version);
        }
        if kind > 0 {
            out.put_u8(kind);
        }
        fields.finish(out);
    }
}

/// All proven logs of a block by log index, each with the transaction hash that the endpoint states.
///
/// The content of the logs and the block's time are proven. The transaction hash is not, because receipts do not
/// contain it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvenLogs {
    logs: BTreeMap<u64, (B256, ChainLog)>,
    /// The block's timestamp, unix seconds.
    time_s: u64,
}

impl ProvenLogs {
    /// Verifies an endpoint's header and receipts, in any order, against the block's hash. Returns `None` if they do
    /// not match it: some are missing or altered, or the chain encodes them differently.
    #[must_use]
    pub fn prove(block: BlockRef, header: &Header, receipts: Vec<BlockReceipt>) -> Option<Self> {
        if header.number != block.number || header.hash_slow() != block.hash {
            return None;
        }
        let mut all = Vec::with_capacity(receipts.len());
        for receipt in receipts {
            let kind = receipt.kind.to::<u64>();
            all.push((u8::try_from(kind).ok().filter(|_| kind <= TYPE_MAX)?, receipt));
        }
        all.sort_by_key(|(_, receipt)| receipt.transaction_index);
        let root = ordered_trie_root_with_encoder(&all, |(kind, receipt), out| {
            receipt.encode(*kind, out);
        });
        if root != header.receipts_root {
            return None;
        }
        let logs = all.into_iter().flat_map(|(_, receipt)| {
            let transaction = receipt.transaction_hash;
            receipt.logs.into_iter().map(move |log| (transaction, log.inner))
        });
        Some(Self { logs: (0..).zip(logs).collect(), time_s: header.timestamp })
    }

    /// Returns the stated hash of the transaction of an event as decoded, if the block has its log at its log index,
    /// and its time.
    #[must_use]
    pub(crate) fn transaction_of_event(
        &self,
        event: &IndexedEvent,
        source: EventSource,
        address: Address,
    ) -> Option<B256> {
        let (transaction, there) = self.logs.get(&event.log_index)?;
        let log = Log { inner: there.clone(), ..Log::default() };
        let is_same = log.address() == address
            && self.time_s == event.block_time_s
            && source.decode(&log).as_ref() == Some(&event.decoded);
        is_same.then_some(*transaction)
    }

    /// Returns the stated hash of the transaction with this log, if the block has the log at its index.
    fn transaction_of(&self, log: &Log) -> Option<B256> {
        let (transaction, there) = self.logs.get(&log.log_index?)?;
        (*there == log.inner).then_some(*transaction)
    }
}

/// The answers of all endpoints about a claim. Each list is in the order of the endpoints.
#[derive(Debug, Clone, Copy)]
pub struct EndpointAnswers<'a, E> {
    /// The index of the claiming endpoint.
    pub by: usize,
    /// The index of the endpoint in use.
    pub active: usize,
    /// The scheme, host and port of each endpoint.
    pub hosts: &'a [String],
    /// The block of each endpoint at the height of the claim; `None` for one that has none there, or did not answer.
    pub there: &'a [Option<BlockRef>],
    /// The logs that each endpoint shows beside the claim; `None` for one that did not answer.
    pub logs: &'a [Option<&'a [Log]>],
    /// The proof of the block by each endpoint; an error for one that did not answer.
    pub shown: &'a [Result<Option<ProvenLogs>, E>],
}

impl<E> EndpointAnswers<'_, E> {
    /// Returns true if the claimant is the endpoint in use, or an endpoint with another host or port has the block too.
    /// This is necessary because an invented header and receipts have a matching hash as well; only a second endpoint
    /// shows that the hash belongs to the chain.
    fn is_vouched_for(&self, block: BlockRef) -> bool {
        let is_other = |place: usize| self.hosts.get(place) != self.hosts.get(self.by);
        let mut there = self.there.iter().enumerate();
        let mut shown = self.shown.iter().enumerate();
        !is_other(self.active)
            || there.any(|(place, there)| is_other(place) && *there == Some(block))
            || shown.any(|(place, shown)| is_other(place) && matches!(shown, Ok(Some(_))))
    }

    /// Returns the indices of the endpoints that have the block and did not answer about its proof.
    fn silent_about(&self, block: BlockRef) -> impl Iterator<Item = usize> {
        let both = self.shown.iter().zip(self.there).enumerate();
        let silent =
            both.filter(move |(_, (shown, there))| shown.is_err() && **there == Some(block));
        silent.map(|(place, _)| place)
    }
}

/// Judges a claim by proofs of its block. Returns `None` if there is no proof and none is to be expected.
///
/// A log is confirmed if the block has it and it was not read. The same log under another transaction hash
/// may have been read already, so showing a true log again under an invented hash is not a claim. It was read only if
/// an equal log was read at this very place: one that an earlier transaction emitted elsewhere is another log, and an
/// endpoint that names that transaction hides nothing. Besides, a log was not read if more endpoints, each host and
/// port once, name the claimed hash than a hash with which it was read there.
///
/// Two cases leave the claim proven and not confirmed. In the first, no endpoint beside the claimant has the block. In
/// the second, an endpoint that has the block is silent about its logs and their proof, and may have shown the log
/// under another hash before. The claim is open while an endpoint that is silent about the proof shows the log under a
/// hash with which it was read.
#[must_use]
pub fn judge<E>(
    claim: &Claim,
    source: EventSource,
    known: &EventSet,
    answers: &EndpointAnswers<'_, E>,
) -> Option<ClaimVerdict> {
    let mut silent = answers.silent_about(claim.block);
    if !answers.shown.iter().any(|shown| matches!(shown, Ok(Some(_)))) {
        return silent.next().map(|_| ClaimVerdict::Open);
    }
    let was_read = |log: &Log, transaction: B256| {
        Some(transaction) != log.transaction_hash
            && log.log_index.zip(source.decode(log)).is_some_and(|(index, event)| {
                known.is_at((claim.block.number, index), transaction, &event)
            })
    };
    let counts = |log: &Log| {
        let (mut is_there, mut read, mut as_claimed) = (false, BTreeSet::new(), BTreeSet::new());
        for (host, shown) in answers.hosts.iter().zip(answers.shown) {
            let Ok(Some(one)) = shown else { continue };
            let Some(name) = one.transaction_of(log) else { continue };
            is_there = true;
            if Some(name) == log.transaction_hash {
                as_claimed.insert(host);
            } else if was_read(log, name) {
                read.insert(host);
            }
        }
        is_there && (read.is_empty() || as_claimed.len() > read.len())
    };
    if !claim.logs.iter().any(counts) {
        return Some(ClaimVerdict::Denied);
    }
    if answers.there.iter().flatten().any(|block| *block != claim.block) {
        return Some(ClaimVerdict::Contradicted);
    }
    let names_one_read = |other: &Log| {
        let is_read = |log: &Log| {
            let is_same_place = log.log_index == other.log_index;
            is_same_place && other.transaction_hash.is_some_and(|named| was_read(log, named))
        };
        other.block_hash == Some(claim.block.hash) && claim.logs.iter().any(is_read)
    };
    let mut is_enough = answers.is_vouched_for(claim.block);
    for place in silent {
        match answers.logs.get(place).copied().flatten() {
            Some(logs) if logs.iter().any(names_one_read) => return Some(ClaimVerdict::Open),
            Some(_) => {}
            None => is_enough = false,
        }
    }
    Some(if is_enough { ClaimVerdict::Confirmed } else { ClaimVerdict::Proven })
}

#[cfg(test)]
impl ProvenLogs {
    /// Returns the logs of a block whose only log is that of a group message.
    pub(super) fn of_event(event: &IndexedEvent, address: Address) -> Self {
        use alloy::sol_types::SolEvent as _;

        use super::event::ContractEvent;
        use crate::contracts::group_message_broadcaster::GroupMessageBroadcaster::MessageSent;

        let ContractEvent::Payload { identifier, sequence_id, payload, .. } = &event.decoded else {
            panic!("a group message");
        };
        let data = MessageSent {
            groupId: identifier.as_ref().try_into().expect("a group id has 16 bytes"),
            message: payload.clone(),
            sequenceId: sequence_id.0,
        };
        let log = ChainLog { address, data: data.encode_log_data() };
        let logs = BTreeMap::from([(event.log_index, (event.transaction, log))]);
        Self { logs, time_s: event.block_time_s }
    }
}

#[cfg(test)]
mod tests {
    use std::slice;

    use alloy::consensus::{Receipt, ReceiptEnvelope, TxType};
    use alloy::eips::eip2718::Encodable2718 as _;
    use alloy::primitives::{Address, logs_bloom};
    use alloy::sol_types::SolEvent as _;
    use hawser_proto::OriginatorId;
    use serde_json::json;

    use super::*;
    use crate::contracts::node_registry::NodeRegistry::NodeRemovedFromCanonicalNetwork;
    use crate::index::event::ContractEvent;

    const TYPES: [TxType; 4] = [TxType::Legacy, TxType::Eip2930, TxType::Eip1559, TxType::Eip7702];

    fn removal(node_id: u32) -> ChainLog {
        let event = NodeRemovedFromCanonicalNetwork { nodeId: node_id };
        ChainLog { address: Address::repeat_byte(7), data: event.encode_log_data() }
    }

    fn transaction(index: usize) -> B256 {
        B256::with_last_byte(u8::try_from(index).unwrap())
    }

    /// Returns a block with one transaction per list of nodes, each with the logs of their removal. Its root is
    /// computed by alloy's own types.
    fn block(nodes: &[&[u32]]) -> (BlockRef, Header, Vec<serde_json::Value>) {
        let (mut envelopes, mut shown) = (Vec::new(), Vec::new());
        for (index, nodes) in nodes.iter().enumerate() {
            let logs: Vec<_> = nodes.iter().map(|node| removal(*node)).collect();
            let bloom = logs_bloom(&logs);
            let cumulative_gas_used = 21_000 * (index as u64 + 1);
            let success = index % 2 == 0;
            let receipt =
                Receipt { status: success.into(), cumulative_gas_used, logs: logs.clone() };
            let kind = TYPES[index % TYPES.len()];
            envelopes.push(ReceiptEnvelope::from_typed(kind, receipt.with_bloom()));
            let logs = logs.into_iter().map(|inner| Log { inner, ..Log::default() });
            shown.push(json!({
                "type": U64::from(u8::from(kind)),
                "status": U64::from(u64::from(success)),
                "cumulativeGasUsed": U64::from(cumulative_gas_used),
                "logsBloom": bloom,
                "logs": logs.collect::<Vec<_>>(),
                "transactionHash": transaction(index),
                "transactionIndex": U64::from(index),
            }));
        }
        let receipts_root =
            ordered_trie_root_with_encoder(&envelopes, |it, out| it.encode_2718(out));
        let header = Header { number: 1, receipts_root, ..Header::default() };
        (BlockRef { number: 1, hash: header.hash_slow() }, header, shown)
    }

    fn prove(
        (block, header, receipts): &(BlockRef, Header, Vec<serde_json::Value>),
    ) -> Option<ProvenLogs> {
        let receipts = serde_json::from_value(receipts.clone().into()).unwrap();
        ProvenLogs::prove(*block, header, receipts)
    }

    #[test]
    fn header_and_receipts_that_lead_to_the_hash_prove_all_logs() {
        let mut many = block(&[&[100, 200], &[], &[300], &[100], &[]]);
        let proven = prove(&many).unwrap();
        let logs: Vec<_> = proven.logs.values().cloned().collect();
        let expected = [(0, 100), (0, 200), (2, 300), (3, 100)];
        assert_eq!(logs, expected.map(|(index, node)| (transaction(index), removal(node))));
        many.2.reverse();
        assert_eq!(prove(&many), Some(proven), "in any order");
        assert_eq!(prove(&block(&[])).unwrap().logs.len(), 0);
    }

    #[test]
    fn what_is_missing_or_changed_proves_nothing() {
        let whole = block(&[&[100, 200], &[], &[300]]);
        let mut without_log = whole.clone();
        without_log.2[0]["logs"].as_array_mut().unwrap().pop();
        let mut without_receipt = whole.clone();
        without_receipt.2.remove(1);
        let mut other_log = whole.clone();
        other_log.2[2]["logs"] = other_log.2[0]["logs"].clone();
        let mut other_root = whole.clone();
        other_root.1 = block(&[]).1;
        let mut other_number = whole.clone();
        other_number.0.number = 2;
        let mut other_type = whole.clone();
        other_type.2[1]["type"] = json!("0x80");
        let mut none = whole.clone();
        none.2.clear();
        for wrong in
            [without_log, without_receipt, other_log, other_root, other_number, other_type, none]
        {
            assert_eq!(prove(&wrong), None, "{wrong:?}");
        }
        assert!(prove(&whole).is_some());
    }

    /// Returns the claim that the removal at an index, in a block with removals of nodes 100 and 200, was not read.
    fn claim(index: u64, node: u32, transaction: B256) -> Claim {
        let log = Log {
            inner: removal(node),
            log_index: Some(index),
            transaction_hash: Some(transaction),
            ..Log::default()
        };
        Claim { block: block(&[&[100], &[200]]).0, logs: vec![log] }
    }

    /// Judges a claim of the second endpoint. The first one is in use, and shows these logs beside the claim.
    fn verdict_beside(
        claim: &Claim,
        known: &EventSet,
        there: &[Option<BlockRef>],
        logs: Option<&[Log]>,
        shown: &[Result<Option<ProvenLogs>, ()>],
    ) -> Option<ClaimVerdict> {
        let logs = &[logs, Some(&claim.logs[..])];
        let hosts = &["http://a:1", "http://b:1", "http://c:1"].map(str::to_owned);
        let answers = EndpointAnswers { by: 1, active: 0, hosts, there, logs, shown };
        judge(claim, EventSource::NodeRegistry, known, &answers)
    }

    /// Judges a claim of the second endpoint. The first one is in use, and shows no logs.
    fn verdict_of(
        claim: &Claim,
        known: &EventSet,
        there: &[Option<BlockRef>],
        shown: &[Result<Option<ProvenLogs>, ()>],
    ) -> Option<ClaimVerdict> {
        verdict_beside(claim, known, there, Some(&[]), shown)
    }

    /// Judges a claim of the second endpoint, when both endpoints have the block.
    fn judged(claim: &Claim, known: &EventSet, proven: &[ProvenLogs]) -> Option<ClaimVerdict> {
        let shown: Vec<Result<_, ()>> = proven.iter().map(|one| Ok(Some(one.clone()))).collect();
        verdict_of(claim, known, &[Some(claim.block), Some(claim.block)], &shown)
    }

    #[test]
    fn the_block_decides_about_a_claim_whatever_endpoints_say() {
        let none = EventSet::default();
        let proven = [prove(&block(&[&[100], &[200]])).unwrap()];
        let left_out = claim(1, 200, transaction(1));
        assert_eq!(judged(&left_out, &none, &[]), None);
        assert_eq!(judged(&left_out, &none, &proven), Some(ClaimVerdict::Confirmed));
        for made_up in [
            claim(1, 300, transaction(1)),
            claim(0, 200, transaction(1)),
            claim(9, 200, transaction(1)),
        ] {
            assert_eq!(judged(&made_up, &none, &proven), Some(ClaimVerdict::Denied));
        }
        let other = BlockRef { number: 1, hash: B256::repeat_byte(3) };
        let shown = [Ok(None), Ok(Some(proven[0].clone()))];
        let there = [Some(other), Some(left_out.block)];
        let verdict = verdict_of(&left_out, &none, &there, &shown);
        assert_eq!(
            verdict,
            Some(ClaimVerdict::Contradicted),
            "one endpoint has another block there"
        );
    }

    #[test]
    fn a_log_that_was_read_is_no_claim_under_the_name_of_another_transaction() {
        let honest = prove(&block(&[&[100], &[200]])).unwrap();
        let mut liar = honest.clone();
        liar.logs.get_mut(&1).unwrap().0 = B256::repeat_byte(9);
        let mut read = EventSet::default();
        read.add(
            (1, 1),
            transaction(1),
            &ContractEvent::MembershipChanged { node_id: OriginatorId(200), is_member: false },
        );
        let renamed = claim(1, 200, B256::repeat_byte(9));
        let both = [honest, liar];
        assert_eq!(judged(&renamed, &read, &both), Some(ClaimVerdict::Denied));
        // The liar is the endpoint in use, omits the log, and proves it under another transaction hash.
        let left_out = claim(1, 200, transaction(1));
        assert_eq!(judged(&left_out, &EventSet::default(), &both), Some(ClaimVerdict::Confirmed));
    }

    /// Two transactions made equal logs, and the endpoint in use shows the first one only.
    #[test]
    fn one_of_three_endpoints_does_not_hide_a_log_by_the_name_of_an_equal_one() {
        let honest = prove(&block(&[&[100], &[200]])).unwrap();
        let (mut liar, earlier) = (honest.clone(), B256::repeat_byte(9));
        liar.logs.get_mut(&1).unwrap().0 = earlier;
        let mut read = EventSet::default();
        let event =
            ContractEvent::MembershipChanged { node_id: OriginatorId(200), is_member: false };
        read.add((1, 1), earlier, &event);
        let left_out = claim(1, 200, transaction(1));
        let of_three = [liar.clone(), honest.clone(), honest.clone()];
        assert_eq!(judged(&left_out, &read, &of_three), Some(ClaimVerdict::Confirmed));
        // Of two, each may lie, however often one of them is in the settings.
        let of_two = [liar.clone(), honest.clone()];
        assert_eq!(judged(&left_out, &read, &of_two), Some(ClaimVerdict::Denied));
        let hosts = &["http://a:1", "http://b:1", "http://b:1"].map(str::to_owned);
        let there = &[Some(left_out.block); 3];
        let shown = &[Ok::<_, ()>(Some(liar)), Ok(Some(honest.clone())), Ok(Some(honest))];
        let answers = EndpointAnswers { by: 1, active: 0, hosts, there, logs: &[None; 3], shown };
        let verdict = judge(&left_out, EventSource::NodeRegistry, &read, &answers);
        assert_eq!(verdict, Some(ClaimVerdict::Denied));
    }

    /// Two transactions made equal logs at different places, and the endpoint in use shows the first one only. It
    /// names that one's transaction at the place of the second log as well.
    #[test]
    fn one_of_two_endpoints_does_not_hide_a_log_by_the_name_of_an_equal_one_elsewhere() {
        let honest = prove(&block(&[&[100], &[200]])).unwrap();
        let (mut liar, earlier) = (honest.clone(), B256::repeat_byte(9));
        liar.logs.get_mut(&1).unwrap().0 = earlier;
        let event =
            ContractEvent::MembershipChanged { node_id: OriginatorId(200), is_member: false };
        let left_out = claim(1, 200, transaction(1));
        for (place, expected) in [
            ((0, 1), ClaimVerdict::Confirmed), // in an earlier block
            ((1, 0), ClaimVerdict::Confirmed), // earlier in the same block
            ((1, 1), ClaimVerdict::Denied),
        ] {
            let mut read = EventSet::default();
            read.add(place, earlier, &event);
            let of_two = [liar.clone(), honest.clone()];
            assert_eq!(judged(&left_out, &read, &of_two), Some(expected), "{place:?}");
        }
    }

    #[test]
    fn a_block_that_only_the_claimant_has_confirms_nothing() {
        let none = EventSet::default();
        let made_up = claim(1, 200, transaction(1));
        let proof = prove(&block(&[&[100], &[200]])).unwrap();
        let alone = [Err(()), Ok(Some(proof.clone()))];
        let there = [None, Some(made_up.block)];
        assert_eq!(verdict_of(&made_up, &none, &there, &alone), Some(ClaimVerdict::Proven));
        let both = [Ok(Some(proof.clone())), Ok(Some(proof.clone()))];
        assert_eq!(verdict_of(&made_up, &none, &there, &both), Some(ClaimVerdict::Confirmed));
        // It is the endpoint in use.
        let (there, shown) = ([Some(made_up.block)], [Ok::<_, ()>(Some(proof))]);
        let hosts = &["http://a:1".to_owned()];
        let (there, shown) = (&there[..], &shown[..]);
        let answers = EndpointAnswers { by: 0, active: 0, hosts, there, logs: &[None], shown };
        let verdict = judge(&made_up, EventSource::NodeRegistry, &none, &answers);
        assert_eq!(verdict, Some(ClaimVerdict::Confirmed));
    }

    /// One provider is in the settings by two URLs, and the endpoint in use is silent about the block.
    #[test]
    fn a_block_that_one_host_has_at_two_urls_confirms_nothing() {
        let made_up = claim(1, 200, transaction(1));
        let proof = prove(&block(&[&[100], &[200]])).unwrap();
        let hosts = ["http://a:1", "http://b:1", "http://b:1"].map(str::to_owned);
        let (of_block, proven) = (Some(made_up.block), || Ok::<_, ()>(Some(proof.clone())));
        let there = &[None, of_block, of_block];
        let shown = &[Err(()), proven(), proven()];
        let none: &[Log] = &[];
        let verdict = |hosts: &[String], active: usize| {
            let logs = &[Some(none), None, None];
            let answers = EndpointAnswers { by: 1, active, hosts, there, logs, shown };
            judge(&made_up, EventSource::NodeRegistry, &EventSet::default(), &answers)
        };
        assert_eq!(verdict(&hosts, 0), Some(ClaimVerdict::Proven));
        assert_eq!(verdict(&hosts, 2), Some(ClaimVerdict::Confirmed), "it is in use");
        let three = ["http://a:1", "http://b:1", "http://c:1"].map(str::to_owned);
        assert_eq!(verdict(&three, 0), Some(ClaimVerdict::Confirmed));
    }

    #[test]
    fn a_claim_is_not_confirmed_while_one_that_may_name_the_transaction_otherwise_is_silent() {
        let mut liar = prove(&block(&[&[100], &[200]])).unwrap();
        liar.logs.get_mut(&1).unwrap().0 = B256::repeat_byte(9);
        let mut read = EventSet::default();
        let event =
            ContractEvent::MembershipChanged { node_id: OriginatorId(200), is_member: false };
        read.add((1, 1), transaction(1), &event);
        let renamed = claim(1, 200, B256::repeat_byte(9));
        let there = [Some(renamed.block), Some(renamed.block)];
        let shown = [Err(()), Ok(Some(liar))];
        let true_name = Log {
            block_hash: Some(renamed.block.hash),
            transaction_hash: Some(transaction(1)),
            ..renamed.logs[0].clone()
        };
        let beside = |logs: Option<&[Log]>| verdict_beside(&renamed, &read, &there, logs, &shown);
        assert_eq!(beside(Some(slice::from_ref(&true_name))), Some(ClaimVerdict::Open));
        assert_eq!(beside(None), Some(ClaimVerdict::Proven), "it is silent about its logs too");
        // An endpoint that shows the block's logs without this log has never shown it under another hash. Its silence
        // about the proof holds nothing up.
        assert_eq!(beside(Some(&[])), Some(ClaimVerdict::Confirmed));
        let verdict = verdict_of(&renamed, &read, &there, &[Err(()), Ok(None)]);
        assert_eq!(verdict, Some(ClaimVerdict::Open), "nothing is proven yet");
    }
}
