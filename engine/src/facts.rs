//! What the projections keep of an envelope: a pure function of its bytes.

use std::collections::BTreeMap;

use hawser_proto::envelope::{
    ClientEnvelope, OriginatorEnvelope, Payload, UnsignedOriginatorEnvelope,
};
use hawser_proto::ids::EnvelopeId;
use hawser_proto::pb::xmtp::identity::associations::identity_action::Kind as Action;
use hawser_proto::pb::xmtp::identity::associations::member_identifier::Kind as Member;
use hawser_proto::pb::xmtp::identity::associations::{
    IdentifierKind, IdentityAction, MemberIdentifier,
};
use hawser_proto::{Address, Bytes, Digest, OriginatorId, PayerAddress, SequenceId, Signature};
use hawser_rules::retention::EXPIRY_NEVER;
use hawser_rules::{RuleNumber, is_free};
use hawser_storage::{AddressChange, Charge, Facts, InvalidRule, Validity};

use crate::chain_strand::inbox_of;

/// Names a publish for ever: the same payer envelope again gives the same receipt. Retention is
/// not part of it, since nobody signs it.
#[must_use]
pub fn receipt(payer_digest: Digest, payer: PayerAddress) -> [u8; 32] {
    // The payer's digest already covers target and client bytes.
    let mut hasher = blake3::Hasher::new();
    hasher.update(&payer_digest.0);
    hasher.update(&payer.0);
    *hasher.finalize().as_bytes()
}

/// The facts of a valid envelope. `payer` is whom its payer signature recovers to; `own` is the
/// node that keeps this log, which keeps receipts for its own strand only.
#[must_use]
pub fn of_statement(
    statement: &UnsignedOriginatorEnvelope,
    payer: Option<PayerAddress>,
    own: OriginatorId,
) -> Facts {
    let envelope = statement.payer();
    let client = envelope.client();
    let counted = statement.id().originator.is_node() && !is_free(client.topic().kind());
    let charged = payer.filter(|_| counted);
    Facts {
        topic: client.topic().clone(),
        originator_ns: statement.originator_ns(),
        depends_on: chain_dependencies(client.depends_on()),
        expiry_unix_s: Some(statement.expiry_unix_s())
            .filter(|&expiry| expiry != 0 && expiry < EXPIRY_NEVER),
        receipt: payer
            .filter(|_| statement.id().originator == own)
            .map(|payer| receipt(envelope.digest(), payer)),
        charge: charged.map(|payer| Charge {
            payer,
            picodollars: statement
                .base_fee_picodollars()
                .saturating_add(statement.congestion_fee_picodollars()),
        }),
        counts_for_congestion: counted,
        addresses: addresses(client),
    }
}

/// The facts of a chain's event, whose client envelope was parsed already.
#[must_use]
pub fn of_chain_event(client: &ClientEnvelope, originator_ns: i64) -> Facts {
    Facts {
        topic: client.topic().clone(),
        originator_ns,
        depends_on: chain_dependencies(client.depends_on()),
        expiry_unix_s: None,
        receipt: None,
        charge: None,
        counts_for_congestion: false,
        addresses: addresses(client),
    }
}

/// What an identity update does to the Ethereum addresses of its inbox: for each the last word
/// counts.
fn addresses(client: &ClientEnvelope) -> Vec<AddressChange> {
    let Payload::IdentityUpdate(update) = client.payload() else { return Vec::new() };
    let Some(inbox) = inbox_of(client.topic().identifier()) else { return Vec::new() };
    let mut changed: BTreeMap<Address, bool> = BTreeMap::new();
    for action in &update.actions {
        changed.extend(address_change(action));
    }
    changed
        .into_iter()
        .map(|(address, is_member)| AddressChange { address, inbox, is_member })
        .collect()
}

fn address_change(action: &IdentityAction) -> Option<(Address, bool)> {
    match action.kind.as_ref()? {
        Action::CreateInbox(create) => match create.initial_identifier_kind() {
            // Older clients leave it open and mean an address.
            IdentifierKind::Unspecified | IdentifierKind::Ethereum => {
                Some((account(&create.initial_identifier)?, true))
            }
            IdentifierKind::Passkey => None,
        },
        Action::Add(add) => Some((member(add.new_member_identifier.as_ref()?)?, true)),
        Action::Revoke(revoke) => Some((member(revoke.member_to_revoke.as_ref()?)?, false)),
        Action::ChangeRecoveryAddress(_) => None,
    }
}

fn member(identifier: &MemberIdentifier) -> Option<Address> {
    match identifier.kind.as_ref()? {
        Member::EthereumAddress(text) => account(text),
        Member::InstallationPublicKey(_) | Member::Passkey(_) => None,
    }
}

/// The Ethereum address that a text names among the members of inboxes: `0x` and 40 digits in lower
/// case. Members are compared as text, so in other letters it names nobody.
#[must_use]
pub fn account(text: &str) -> Option<Address> {
    let digits = text.strip_prefix("0x")?;
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    digits.bytes().all(is_digit).then(|| digits.parse().ok())?
}

/// Returns the mark of an envelope that breaks this rule, as the log stores it.
#[must_use]
pub(crate) fn mark_of(rule: RuleNumber) -> InvalidRule {
    InvalidRule(rule.0)
}

/// The dependencies that readers wait for.
#[must_use]
pub fn chain_dependencies(named: &[EnvelopeId]) -> Vec<EnvelopeId> {
    named
        .iter()
        .filter(|id| !id.originator.is_node() && id.sequence > SequenceId::NONE)
        .copied()
        .collect()
}

/// The same from stored bytes, for a rebuild. `None` for what readers do not get: it takes up its
/// place and nothing else.
#[must_use]
pub fn of_stored(bytes: &Bytes, validity: Validity, own: OriginatorId) -> Option<Facts> {
    if validity != Validity::Valid {
        return None;
    }
    let envelope = OriginatorEnvelope::parse(bytes.clone()).ok()?;
    let payer = envelope.unsigned().payer();
    let signature = payer.signature_bytes().and_then(|bytes| Signature::from_bytes(bytes).ok());
    let payer_key = signature.and_then(|signature| signature.recover(payer.digest()).ok());
    Some(of_statement(envelope.unsigned(), payer_key.map(|key| key.address()), own))
}
