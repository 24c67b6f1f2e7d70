//! Identity updates with a signature that an earlier update of the same inbox has used.
//!
//! Nodes and clients recognise a used signature by its bytes. Some forms of one signature have other bytes: v as 0 or
//! 27, and both values of s in a passkey's. Here signatures are compared in one form, with s in the lower half and the
//! parity in place of v. So an update that was signed once and counted twice is found.

use std::collections::{BTreeMap, HashMap};

use hawser_proto::envelope::{OriginatorEnvelope, Payload};
use hawser_proto::pb::xmtp::identity::associations as pb;
use hawser_proto::pb::xmtp::message_contents::signature::Union;
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SequenceId, Signature};
use pb::identity_action::Kind as Action;
use pb::signature::Signature as Kind;
use serde::Serialize;

use crate::replay::{LogSource, SourceError, StoredMark, StrandRow};

/// Signatures that are remembered. A guess: about 150 MB. Later ones are compared with these, and not with each other.
const REMEMBERED_MAX: usize = 1 << 21;
/// Updates that are named. A guess: more than a person reads.
const KEPT_MAX: usize = 100;
/// Characters of an inbox's id. Specified: 32 bytes, hex. A malformed id may be longer.
const INBOX_CHARS: usize = 64;
/// Bytes of a digest that are kept: enough that two signatures do not share them by accident.
const DIGEST_PART: usize = 16;
/// The order of P-256 (FIPS 186-5), big-endian.
const P256_ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0xbc, 0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];

/// An update with a used signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UsedSignature {
    /// The inbox, without characters that no id has.
    pub inbox_id: String,
    /// The place of the update that used it first.
    pub first: SequenceId,
    /// The place of this update.
    pub again: SequenceId,
    /// True if a used signature has other bytes here.
    pub other_form: bool,
    /// True if the log gives the update to readers.
    pub delivered: bool,
}

/// The updates of a log with used signatures.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct IdentityRepeats {
    /// Updates that were read.
    pub updates: u64,
    /// Places in the strand without an update that can be read.
    pub unreadable: u64,
    /// Updates with a used signature.
    pub count: u64,
    /// Updates with a used signature that the log gives to readers.
    pub delivered: u64,
    /// The first hundred updates with a used signature.
    pub kept: Vec<UsedSignature>,
    /// Signatures that later ones were not compared with, because too many came before.
    pub not_compared: u64,
}

/// Finds the updates of a log with used signatures.
///
/// # Errors
/// When the log cannot be read.
pub fn identity_repeats(log: &dyn LogSource) -> Result<IdentityRepeats, SourceError> {
    let strand = OriginatorId::IDENTITY_UPDATES;
    let mut finder = SignatureFinder::default();
    let Some(head) = log.heads()?.into_iter().find(|head| head.originator == strand) else {
        return Ok(finder.found);
    };
    for row in log.rows(EnvelopeId::new(strand, SequenceId::NONE), head.sequence) {
        let StrandRow::Envelope { sequence, bytes, mark, .. } = row? else { continue };
        match update_of(bytes) {
            Some(update) => finder.take(sequence.0, &update, mark),
            None => finder.found.unreadable += 1,
        }
    }
    Ok(finder.found)
}

fn update_of(bytes: Bytes) -> Option<pb::IdentityUpdate> {
    let envelope = OriginatorEnvelope::parse(bytes).ok()?;
    match envelope.unsigned().payer().client().payload() {
        Payload::IdentityUpdate(update) => Some(update.clone()),
        _ => None,
    }
}

/// A signature that was used.
#[derive(Debug, Clone, Copy)]
struct FirstUse {
    at: u64,
    /// A digest of the bytes that it had.
    form: [u8; DIGEST_PART],
}

/// Finds used signatures in updates that come in the order of the log.
#[derive(Debug, Default)]
struct SignatureFinder {
    seen: HashMap<[u8; DIGEST_PART], FirstUse>,
    found: IdentityRepeats,
}

impl SignatureFinder {
    fn take(&mut self, at: u64, update: &pb::IdentityUpdate, mark: StoredMark) {
        let delivered = matches!(mark, StoredMark::Valid | StoredMark::Unknown);
        self.found.updates += 1;
        // One update may have a signature several times.
        let used: BTreeMap<_, _> = update
            .actions
            .iter()
            .flat_map(signatures)
            .map(|signature| {
                let (form, canonical) = forms(signature);
                let key = digest(&[update.inbox_id.as_bytes(), &[0], &canonical]);
                (key, digest(&[&form]))
            })
            .collect();
        let before = used.iter().filter_map(|(key, form)| Some((self.seen.get(key)?, form)));
        let before: Vec<_> = before.map(|(first, form)| (first.at, first.form != *form)).collect();
        if let Some(first) = before.iter().map(|(first, _)| *first).min() {
            self.found.count += 1;
            self.found.delivered += u64::from(delivered);
            let other_form = before.iter().any(|(_, is_other)| *is_other);
            let inbox = update.inbox_id.chars().filter(char::is_ascii_hexdigit);
            let inbox_id = inbox.take(INBOX_CHARS).collect();
            if self.found.kept.len() < KEPT_MAX {
                let (first, again) = (SequenceId(first), SequenceId(at));
                let used = UsedSignature { inbox_id, first, again, other_form, delivered };
                self.found.kept.push(used);
            }
        }
        // An update that changed nothing has used nothing.
        if !delivered {
            return;
        }
        for (key, form) in used {
            if self.seen.len() >= REMEMBERED_MAX && !self.seen.contains_key(&key) {
                self.found.not_compared += 1;
            } else {
                self.seen.entry(key).or_insert(FirstUse { at, form });
            }
        }
    }
}

fn digest(parts: &[&[u8]]) -> [u8; DIGEST_PART] {
    let mut hasher = blake3::Hasher::new();
    parts.iter().for_each(|part| _ = hasher.update(part));
    *hasher.finalize().as_bytes().first_chunk().expect("a digest is longer")
}

/// Returns the signatures of an action.
fn signatures(action: &pb::IdentityAction) -> Vec<&Kind> {
    let signatures = match &action.kind {
        Some(Action::CreateInbox(it)) => vec![&it.initial_identifier_signature],
        Some(Action::Add(it)) => vec![&it.existing_member_signature, &it.new_member_signature],
        Some(Action::Revoke(it)) => vec![&it.recovery_identifier_signature],
        Some(Action::ChangeRecoveryAddress(it)) => {
            vec![&it.existing_recovery_identifier_signature]
        }
        None => Vec::new(),
    };
    signatures.into_iter().filter_map(|it| it.as_ref()?.signature.as_ref()).collect()
}

/// Returns the bytes by which clients recognise a used signature, and those of its one form. Each begins with a byte
/// for the kind. Without a form of its own the bytes are those that were sent.
fn forms(signature: &Kind) -> (Vec<u8>, Vec<u8>) {
    let (kind, sent, canonical) = match signature {
        Kind::Erc191(it) => (1, it.bytes.to_vec(), of_account(&it.bytes)),
        Kind::Erc6492(it) => (2, it.signature.to_vec(), None),
        Kind::InstallationKey(it) => (3, it.bytes.to_vec(), None),
        Kind::DelegatedErc191(it) => {
            let signed = it.delegated_key.as_ref().and_then(|key| key.signature.as_ref());
            let (compact, recovery) = match signed.and_then(|it| it.union.as_ref()) {
                Some(Union::EcdsaCompact(it)) => (it.bytes.to_vec(), it.recovery),
                Some(Union::WalletEcdsaCompact(it)) => (it.bytes.to_vec(), it.recovery),
                None => (Vec::new(), 0),
            };
            let sent = [&compact[..], &recovery.to_le_bytes()[..1]].concat();
            let canonical = of_account(&sent);
            (4, sent, canonical)
        }
        Kind::Passkey(it) => (5, it.signature.to_vec(), of_passkey(&it.signature)),
    };
    let canonical = canonical.unwrap_or_else(|| sent.clone());
    ([&[kind][..], &sent[..]].concat(), [&[kind][..], &canonical[..]].concat())
}

/// Returns an account's signature with s in the lower half and the parity in place of v.
fn of_account(sent: &[u8]) -> Option<Vec<u8>> {
    let (&v, numbers) = sent.split_last()?;
    let parity = match v {
        27 | 28 => v - 27,
        35.. => (v - 35) % 2,
        v => v,
    };
    let low = Signature::canonicalize(&[numbers, &[0]].concat()).ok()?;
    // Clients lower s and keep v, so v is not that of the mirrored point.
    Some([&low.as_bytes()[..64], &[parity]].concat())
}

/// Returns `r ‖ s` of a passkey's signature in DER, with s in the lower half.
fn of_passkey(sent: &[u8]) -> Option<Vec<u8>> {
    let (len, rest) = sent.strip_prefix(&[0x30])?.split_first()?;
    let (r, rest) = integer(rest)?;
    let (s, rest) = integer(rest)?;
    let is_whole = rest.is_empty() && usize::from(*len) + 2 == sent.len();
    is_whole.then(|| [r, low_half(s)].concat())
}

/// Reads an integer of at most 256 bits in DER.
fn integer(bytes: &[u8]) -> Option<([u8; 32], &[u8])> {
    let (len, rest) = bytes.strip_prefix(&[0x02])?.split_first()?;
    let (digits, rest) = rest.split_at_checked(usize::from(*len))?;
    let zeros = digits.iter().take_while(|digit| **digit == 0).count();
    let mut number = [0; 32];
    let from = number.len().checked_sub(digits.len() - zeros)?;
    number[from..].copy_from_slice(&digits[zeros..]);
    Some((number, rest))
}

/// Returns the smaller one of a number and the order of P-256 less it; a number above the order as it is.
fn low_half(s: [u8; 32]) -> [u8; 32] {
    let (mut other, mut borrow) = ([0; 32], 0);
    for at in (0..32).rev() {
        let difference = i16::from(P256_ORDER[at]) - i16::from(s[at]) - borrow;
        borrow = i16::from(difference < 0);
        other[at] = difference.rem_euclid(256).to_le_bytes()[0];
    }
    if borrow == 0 { s.min(other) } else { s }
}

#[cfg(test)]
mod tests {
    use hawser_proto::pb::xmtp::identity::associations::RecoverableEcdsaSignature;
    use hawser_proto::{Digest, SecretKey};

    use super::*;

    fn erc191(bytes: &[u8]) -> Kind {
        Kind::Erc191(RecoverableEcdsaSignature { bytes: Bytes::copy_from_slice(bytes) })
    }

    fn passkey(s_byte: u8, s: &[u8; 32]) -> Kind {
        let mut der = vec![0x30, 0, 0x02, 1, 7, 0x02];
        match s_byte {
            0 => der.extend([32]),
            _ => der.extend([33, 0]), // a number with the highest bit set has a zero before it
        }
        der.extend(s);
        der[1] = u8::try_from(der.len() - 2).unwrap();
        Kind::Passkey(pb::RecoverablePasskeySignature {
            signature: der.into(),
            ..Default::default()
        })
    }

    fn update(inbox: &str, signatures: &[Kind]) -> pb::IdentityUpdate {
        let action = |signature: &Kind| {
            let signature = Some(pb::Signature { signature: Some(signature.clone()) });
            let revoke = pb::RevokeAssociation {
                recovery_identifier_signature: signature,
                ..Default::default()
            };
            pb::IdentityAction { kind: Some(Action::Revoke(revoke)) }
        };
        let actions = signatures.iter().map(action).collect();
        pb::IdentityUpdate { actions, client_timestamp_ns: 1, inbox_id: inbox.to_owned() }
    }

    fn found(updates: &[(pb::IdentityUpdate, StoredMark)]) -> IdentityRepeats {
        let mut finder = SignatureFinder::default();
        for (at, (update, mark)) in (1..).zip(updates) {
            finder.take(at, update, *mark);
        }
        finder.found
    }

    /// The order of P-256 less a small number, and that number.
    fn twins() -> ([u8; 32], [u8; 32]) {
        let (mut high, mut low) = (P256_ORDER, [0; 32]);
        high[31] -= 9;
        low[31] = 9;
        (high, low)
    }

    #[test]
    fn a_signature_is_found_again_in_each_of_its_forms() {
        let signed = SecretKey::from_bytes(&[7; 32]).unwrap().sign(Digest([5; 32]));
        let as_v = |v: u8| {
            let mut bytes = *signed.as_bytes();
            bytes[64] += v;
            erc191(&bytes)
        };
        let (high, low) = twins();
        assert_eq!((low_half(high), low_half(low)), (low, low));
        let valid = StoredMark::Valid;
        let found = found(&[
            (update("aa", &[as_v(0), as_v(0)]), valid),
            (update("bb", &[as_v(0)]), valid),
            (update("aa", &[as_v(27)]), valid),
            (update("aa", &[as_v(35)]), StoredMark::Invalid(6)),
            (update("aa", &[as_v(0)]), StoredMark::Invalid(6)),
            (update("aa", &[passkey(1, &high)]), valid),
            (update("aa", &[passkey(0, &low)]), StoredMark::Unknown),
        ]);
        let again = |first, again, other_form, delivered| {
            let inbox_id = "aa".to_owned();
            let (first, again) = (SequenceId(first), SequenceId(again));
            UsedSignature { inbox_id, first, again, other_form, delivered }
        };
        let expected = [
            again(1, 3, true, true),
            again(1, 4, true, false),
            again(1, 5, false, false),
            again(6, 7, true, true),
        ];
        assert_eq!(found.kept, expected);
        assert_eq!((found.updates, found.count, found.delivered), (7, 4, 2));
    }

    #[test]
    fn what_changed_nothing_has_used_no_signature() {
        let one = [erc191(&[1; 65])];
        let marks = [StoredMark::Invalid(6), StoredMark::Waiting, StoredMark::Valid];
        let found = found(&marks.map(|mark| (update("aa", &one), mark)));
        assert_eq!((found.updates, found.count), (3, 0));
    }

    #[test]
    fn signatures_that_are_none_are_compared_by_their_bytes() {
        for bytes in [&[][..], &[0x30], &[0x30, 2, 2, 9], &[0xff; 70]] {
            let passkey = pb::RecoverablePasskeySignature {
                signature: Bytes::copy_from_slice(bytes),
                ..Default::default()
            };
            for kind in [erc191(bytes), Kind::Passkey(passkey)] {
                let update = update("aa", &[kind]);
                let twice = [(); 2].map(|()| (update.clone(), StoredMark::Valid));
                assert_eq!(found(&twice).count, 1, "{bytes:?}");
            }
        }
    }
}
