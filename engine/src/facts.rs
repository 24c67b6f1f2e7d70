//! The facts that projections keep of an envelope: a pure function of its bytes, so that a rebuild
//! gives the same rows.

use std::collections::BTreeMap;

use hawser_proto::batch::{accounts, recover_similar};
use hawser_proto::envelope::{
    ClientEnvelope, OpenedStatement, OriginatorEnvelope, Payload, Proof, UnsignedOriginatorEnvelope,
};
use hawser_proto::ids::EnvelopeId;
use hawser_proto::pb::xmtp::identity::associations::identity_action::Kind as Action;
use hawser_proto::pb::xmtp::identity::associations::member_identifier::Kind as Member;
use hawser_proto::pb::xmtp::identity::associations::{
    IdentifierKind, IdentityAction, MemberIdentifier,
};
use hawser_proto::stored_terms::StoredTerms;
use hawser_proto::{
    Address, Bytes, Digest, InboxId, OriginatorId, PayerAddress, SequenceId, Topic,
};
use hawser_rules::retention::EXPIRY_NEVER;
use hawser_rules::{
    OddTerms, PicoDollarPrice, RuleNumber, is_free, is_owed, odd_terms, payer_claim,
};
use hawser_storage::{
    AddressChange, Charge, ExpiredEnvelope, Facts, InvalidRule, StoredEnvelope, Validity,
};

use crate::inbox::member_address;

/// Returns the receipt of a publish: the same payer envelope gives the same receipt for ever.
/// Retention is not part of it, because no signature covers it.
#[must_use]
pub fn receipt(payer_digest: Digest, payer: PayerAddress) -> [u8; 32] {
    // The payer's digest covers the target and the client envelope already.
    let mut hasher = blake3::Hasher::new();
    hasher.update(&payer_digest.0);
    hasher.update(&payer.0);
    *hasher.finalize().as_bytes()
}

/// Returns the mark that the log stores beside an envelope which breaks this rule.
#[must_use]
pub(crate) fn mark_of(rule: RuleNumber) -> InvalidRule {
    InvalidRule(rule.0)
}

/// Returns true if an envelope with this mark [may be booked](RuleNumber::may_be_booked).
#[must_use]
pub fn may_be_booked(InvalidRule(rule): InvalidRule) -> bool {
    RuleNumber(rule).may_be_booked()
}

/// Returns true if envelopes with this mark may be booked, and are not in tallies of this older version of storage.
/// Version 2 had no envelope with a mark, version 3 none that does not decode, and version 4 none of a newer schema.
#[must_use]
pub fn is_booked_since(version: u32, InvalidRule(rule): InvalidRule) -> bool {
    let rule = RuleNumber(rule);
    rule.may_be_booked() && (version < 3 || !rule.is_booked())
}

/// Returns the facts of a valid envelope. `payer` is the account that its payer signature recovers
/// to. `own` is the node that keeps this log: it keeps receipts for its own strand only, because
/// only its own publishers can repeat a request to it.
#[must_use]
pub fn of_statement(
    statement: &UnsignedOriginatorEnvelope,
    payer: Option<PayerAddress>,
    own: OriginatorId,
) -> Facts {
    let receipt = payer
        .filter(|_| statement.id().originator == own)
        .map(|payer| receipt(statement.payer().digest(), payer));
    with_receipt(statement, payer, receipt)
}

/// Returns the facts of a valid envelope whose receipt is known, if it has one.
fn with_receipt(
    statement: &UnsignedOriginatorEnvelope,
    payer: Option<PayerAddress>,
    receipt: Option<[u8; 32]>,
) -> Facts {
    let addresses = addresses(statement.payer().client());
    Facts { addresses, ..FactTerms::of_statement(statement).facts(payer, receipt) }
}

/// The parts of a valid envelope from which its facts follow, beside its payer and the content of its payload.
struct FactTerms {
    originator: OriginatorId,
    topic: Topic,
    originator_ns: i64,
    depends_on: Vec<EnvelopeId>,
    expiry_unix_s: u64,
    size_bytes: u64,
    retention_days: u32,
    stated_picodollars: PicoDollarPrice,
}

impl FactTerms {
    fn of_statement(statement: &UnsignedOriginatorEnvelope) -> Self {
        let envelope = statement.payer();
        let client = envelope.client();
        Self {
            originator: statement.id().originator,
            topic: client.topic().clone(),
            originator_ns: statement.originator_ns(),
            depends_on: chain_dependencies(statement.id().originator, client.depends_on()),
            expiry_unix_s: statement.expiry_unix_s(),
            size_bytes: envelope.as_bytes().len() as u64,
            retention_days: envelope.retention_days(),
            stated_picodollars: statement.base_fee().plus(statement.congestion_fee()),
        }
    }

    fn of_stored(terms: StoredTerms) -> Self {
        Self {
            originator: terms.id.originator,
            topic: terms.topic,
            originator_ns: terms.originator_ns,
            depends_on: chain_dependencies(terms.id.originator, &terms.depends_on),
            expiry_unix_s: terms.expiry_unix_s,
            size_bytes: terms.size_bytes,
            retention_days: terms.retention_days,
            stated_picodollars: terms.base_fee.plus(terms.congestion_fee),
        }
    }

    /// Returns the facts of the envelope, without addresses.
    fn facts(self, payer: Option<PayerAddress>, receipt: Option<[u8; 32]>) -> Facts {
        let is_paid = !is_free(self.topic.kind());
        // An envelope from the older network has a price, but does not count as load of this network.
        let counted = self.originator.is_node() && is_paid;
        let charged = payer.filter(|_| counted || (self.originator.is_migrated() && is_paid));
        Facts {
            topic: Some(self.topic),
            originator_ns: self.originator_ns,
            depends_on: self.depends_on,
            expiry_unix_s: Some(self.expiry_unix_s)
                .filter(|&expiry| expiry != 0 && expiry < EXPIRY_NEVER),
            receipt,
            charge: charged.map(|payer| Charge {
                payer,
                size_bytes: self.size_bytes,
                retention_days: self.retention_days,
                stated_picodollars: self.stated_picodollars,
            }),
            counts_for_congestion: counted,
            addresses: Vec::new(),
        }
    }
}

/// Returns the facts of an envelope that breaks a rule, if its payer owes for it all the same; `None` if not. Readers
/// do not get it, so these are the facts for tallies alone.
#[must_use]
pub(crate) fn of_marked(
    statement: &UnsignedOriginatorEnvelope,
    payer: Option<PayerAddress>,
    rule: RuleNumber,
) -> Option<Facts> {
    let is_owed = is_owed(statement.payer(), Some(rule));
    is_owed.then(|| with_receipt(statement, payer, None).hidden())
}

/// Returns the facts of an envelope whose layers do not decode here, if its payer owes for it: other nodes may have
/// read it. Readers do not get it, so these are the facts for tallies alone. A chain's envelope has no payer.
fn of_odd(statement: &OpenedStatement) -> Option<Facts> {
    let originator = statement.id().originator;
    let counts_for_congestion = originator.is_node();
    if !originator.is_signer() {
        return None;
    }
    let stated_picodollars = statement.base_fee().plus(statement.congestion_fee());
    let OddTerms { payer, size_bytes, retention_days, .. } =
        odd_terms(originator, statement.payer_envelope_bytes())
            .filter(|terms| terms.are_owed(stated_picodollars))?;
    Some(Facts {
        topic: None,
        originator_ns: statement.originator_ns(),
        depends_on: Vec::new(),
        expiry_unix_s: None,
        receipt: None,
        charge: Some(Charge { payer, size_bytes, retention_days, stated_picodollars }),
        counts_for_congestion,
        addresses: Vec::new(),
    })
}

/// Returns the facts of a stored envelope with the mark of layers that do not decode, if its payer owes for it.
fn of_undecodable(bytes: &Bytes, validity: Validity) -> Option<Facts> {
    if validity != Validity::Invalid(mark_of(RuleNumber::UNDECODABLE)) {
        return None;
    }
    let (statement, proof) = OriginatorEnvelope::open(bytes.clone()).ok()?;
    let statement = OpenedStatement::read(statement).ok()?;
    matches!(proof, Proof::Signature(_)).then(|| of_odd(&statement)).flatten()
}

/// Returns the facts of an event of a chain's strand from its parsed client envelope. A chain's envelope has no
/// payer, no price and no expiry.
#[must_use]
pub(crate) fn of_chain_event(
    originator: OriginatorId,
    client: &ClientEnvelope,
    originator_ns: i64,
) -> Facts {
    Facts {
        topic: Some(client.topic().clone()),
        originator_ns,
        depends_on: chain_dependencies(originator, client.depends_on()),
        expiry_unix_s: None,
        receipt: None,
        charge: None,
        counts_for_congestion: false,
        addresses: addresses(client),
    }
}

/// Returns the facts of a stored envelope, as [`of_stored_many`] does for many.
#[must_use]
pub fn of_stored(bytes: &Bytes, validity: Validity, own: OriginatorId) -> Option<Facts> {
    let Some(stored) = tallied(bytes, validity) else { return of_undecodable(bytes, validity) };
    let payer = payer_claim(stored.envelope.unsigned().payer())
        .ok()
        .and_then(|it| it.signature.recover(it.digest).ok());
    stored.facts(payer.map(|key| key.address()), own)
}

/// Returns the facts of stored envelopes in their order, for a rebuild. `None` for an envelope that readers do
/// not get and no payer owes for: it fills its place and has no rows.
///
/// The payers are recovered together, which costs less where one of them follows another
/// (`docs/protocol/batch-signatures.md`), and never more than twice what single ones cost. All envelopes are decoded at
/// once: a rebuild gives no more than [may be](hawser_proto::decoding::decodable_at_once). One that does not decode is
/// looked through where it lies, and its payer is recovered alone: such envelopes are few.
#[must_use]
pub fn of_stored_many(stored: &[StoredEnvelope], own: OriginatorId) -> Vec<Option<Facts>> {
    let mut claims = Vec::new();
    let open = |stored: &StoredEnvelope| {
        let stored = tallied(&stored.bytes, stored.validity)?;
        let claim = payer_claim(stored.envelope.unsigned().payer()).ok();
        let is_claimed = claim.is_some();
        claims.extend(claim);
        Some((stored, is_claimed))
    };
    let opened: Vec<_> = stored.iter().map(open).collect();
    let mut payers = accounts(recover_similar(claims));
    let facts = |(stored, opened): (&StoredEnvelope, Option<(TalliedEnvelope, bool)>)| {
        let Some((tallied, is_claimed)) = opened else {
            return of_undecodable(&stored.bytes, stored.validity);
        };
        let payer = is_claimed.then(|| payers.next().expect("one for each claim"));
        tallied.facts(payer.and_then(Result::ok), own)
    };
    stored.iter().zip(opened).map(facts).collect()
}

/// Returns the facts of valid stored envelopes in their order, from their payers and receipts where these are known;
/// `None` for one that cannot be read, or that `may_go` keeps by its retention in days.
///
/// An envelope whose payer and receipt are known is read without decoding its payload and its signatures: that would be
/// a good part of the work of pruning. The other payers are recovered together, as in [`of_stored_many`], where
/// something depends on them.
#[must_use]
pub(crate) fn of_expired_many(
    expired: &[ExpiredEnvelope],
    own: OriginatorId,
    may_go: impl Fn(u32) -> bool,
) -> Vec<Option<Facts>> {
    let (mut facts, mut unknown) = (Vec::with_capacity(expired.len()), Vec::new());
    for (index, it) in expired.iter().enumerate() {
        let terms = StoredTerms::of_stored(it.bytes.clone());
        let goes = terms.ok().filter(|terms| may_go(terms.retention_days));
        facts.push(goes.and_then(|terms| {
            let is_own = terms.id.originator == own;
            let is_known = it.payer.is_some() && (it.receipt.is_some() || !is_own);
            if !is_known || terms.has_identity_update {
                unknown.push(index);
                return None;
            }
            Some(FactTerms::of_stored(terms).facts(it.payer, it.receipt.filter(|_| is_own)))
        }));
    }
    let mut claims = Vec::new();
    let open = |index: usize| {
        let expired = &expired[index];
        let envelope = OriginatorEnvelope::parse_stored(expired.bytes.clone()).ok()?;
        let statement = envelope.unsigned();
        let is_free = is_free(statement.payer().client().topic().kind());
        let needs_receipt = statement.id().originator == own && expired.receipt.is_none();
        let is_unknown = expired.payer.is_none() && (!is_free || needs_receipt);
        let claim = is_unknown.then(|| payer_claim(statement.payer()).ok()).flatten();
        let is_claimed = claim.is_some();
        claims.extend(claim);
        Some((index, envelope, is_claimed))
    };
    let opened: Vec<_> = unknown.into_iter().filter_map(open).collect();
    let mut recovered = accounts(recover_similar(claims));
    for (index, envelope, is_claimed) in opened {
        let ExpiredEnvelope { payer, receipt, .. } = expired[index];
        let claimed = is_claimed.then(|| recovered.next().expect("one for each claim"));
        let payer = payer.or(claimed.and_then(Result::ok));
        let statement = envelope.unsigned();
        facts[index] = Some(match receipt.filter(|_| statement.id().originator == own) {
            None => of_statement(statement, payer, own),
            receipt => with_receipt(statement, payer, receipt),
        });
    }
    facts
}

/// A stored envelope that has rows.
struct TalliedEnvelope {
    envelope: OriginatorEnvelope,
    /// The rule in its mark; `None` if readers get it.
    broken: Option<RuleNumber>,
}

impl TalliedEnvelope {
    fn facts(&self, payer: Option<PayerAddress>, own: OriginatorId) -> Option<Facts> {
        let statement = self.envelope.unsigned();
        match self.broken {
            None => Some(of_statement(statement, payer, own)),
            Some(rule) => of_marked(statement, payer, rule),
        }
    }
}

/// Parses an envelope of the log if readers get it, or its payer owes for it. `None` for one that does not decode, of
/// which [`of_undecodable`] decides.
fn tallied(bytes: &Bytes, validity: Validity) -> Option<TalliedEnvelope> {
    let broken = match validity {
        Validity::Valid => None,
        Validity::Invalid(InvalidRule(rule)) => Some(RuleNumber(rule)),
        Validity::Waiting => return None,
    };
    if broken.is_some_and(|rule| !rule.is_booked()) {
        return None;
    }
    let envelope = OriginatorEnvelope::parse(bytes.clone()).ok()?;
    Some(TalliedEnvelope { envelope, broken })
}

/// A place that no chain gives away: a commit that depends on a node's strand depends on it.
const NEVER: EnvelopeId =
    EnvelopeId { originator: OriginatorId::GROUP_MESSAGES, sequence: SequenceId::MAX };

/// Returns the dependencies of an envelope of `originator` that matter to its readers: real places of strands that a
/// node may have, which are those of chains and of the older network, and the first place of any other strand below
/// those of nodes. An envelope may name a hundred of the latter, and one place that is none decides about it. So a
/// reader's page holds few dependencies for each row.
///
/// Envelopes of nodes that name a place of a node break a rule, and readers do not get them. A commit may name
/// thousands of such places, so one entry stands for all of them.
#[must_use]
pub(crate) fn chain_dependencies(
    originator: OriginatorId,
    named: &[EnvelopeId],
) -> Vec<EnvelopeId> {
    let real = || named.iter().copied().filter(|id| id.sequence > SequenceId::NONE);
    let is_of_strand = |id: &EnvelopeId| id.originator.is_of_chain() || id.originator.is_migrated();
    let of_strands = real().filter(is_of_strand);
    let of_none = real().find(|id| !id.originator.is_node() && !is_of_strand(id));
    let is_commit = originator == OriginatorId::GROUP_MESSAGES;
    let never = (is_commit && real().any(|id| id.originator.is_node())).then_some(NEVER);
    of_strands.chain(of_none).chain(never).collect()
}

/// Returns the Ethereum addresses that an identity update adds to or removes from its inbox. The
/// last action on an address decides.
fn addresses(client: &ClientEnvelope) -> Vec<AddressChange> {
    let Payload::IdentityUpdate(update) = client.payload() else { return Vec::new() };
    let Some(inbox) = InboxId::from_slice(client.topic().identifier()) else { return Vec::new() };
    // Ordered by address, so that every node stores the same bytes.
    let mut changed: BTreeMap<Address, bool> = BTreeMap::new();
    for action in &update.actions {
        changed.extend(address_change(action));
    }
    changed
        .into_iter()
        .map(|(address, is_member)| AddressChange { address, inbox, is_member })
        .collect()
}

/// Returns the address that an action concerns, and true if it is a member afterwards.
fn address_change(action: &IdentityAction) -> Option<(Address, bool)> {
    match action.kind.as_ref()? {
        Action::CreateInbox(create) => match create.initial_identifier_kind() {
            // Older clients leave the kind unset and mean an address.
            IdentifierKind::Unspecified | IdentifierKind::Ethereum => {
                Some((member_address(&create.initial_identifier)?, true))
            }
            IdentifierKind::Passkey => None,
        },
        Action::Add(add) => Some((ethereum_member(add.new_member_identifier.as_ref()?)?, true)),
        Action::Revoke(revoke) => {
            Some((ethereum_member(revoke.member_to_revoke.as_ref()?)?, false))
        }
        Action::ChangeRecoveryAddress(_) => None,
    }
}

fn ethereum_member(identifier: &MemberIdentifier) -> Option<Address> {
    match identifier.kind.as_ref()? {
        Member::EthereumAddress(text) => member_address(text),
        Member::InstallationPublicKey(_) | Member::Passkey(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hostile node names every strand below those of nodes, and a reader asks for a thousand such envelopes.
    #[test]
    fn of_strands_that_no_node_has_one_dependency_is_kept() {
        let place = |originator| EnvelopeId::new(OriginatorId(originator), SequenceId(7));
        let named: Vec<EnvelopeId> = (0..100).map(place).collect();
        let kept = [0, 1, 10, 11, 13, 2].map(place);
        for originator in [OriginatorId(100), OriginatorId::GROUP_MESSAGES] {
            assert_eq!(chain_dependencies(originator, &named), kept);
        }
        let unused = EnvelopeId::new(OriginatorId(2), SequenceId::NONE);
        assert_eq!(chain_dependencies(OriginatorId(100), &[unused, place(50)]), [place(50)]);
    }
}
