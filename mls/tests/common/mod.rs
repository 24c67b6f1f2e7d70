//! Signers of identity updates, and captured envelopes of clients.

#![allow(dead_code, unreachable_pub, reason = "every test file uses a part of this")]

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use ed25519_dalek::SigningKey;
use hawser_mls::identity::{AssociationState, MemberIdentifier, Passkey, UpdateJudgement, judge};
use hawser_proto::pb::xmtp::identity::associations as pb;
use hawser_proto::pb::xmtp::message_contents as legacy;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::ClientEnvelope;
use hawser_proto::sign::keccak256;
use hawser_proto::{Digest, SecretKey};
use p256::ecdsa::signature::Signer as _;
use pb::identity_action::Kind;
use pb::signature::Signature as Signed;
use prost::Message as _;
use sha2::{Digest as _, Sha256, Sha512};

/// 2026-11-20T06:17:26Z, when the captured updates were made.
pub const TIME_NS: u64 = 1_795_155_446_000_000_000;
/// [`TIME_NS`] as the signed text shows it.
pub const TIME_TEXT: &str = "2026-11-20T06:17:26Z";

/// A small generator of random numbers (SplitMix64), so that cases are the same on every machine.
pub struct Random(pub u64);

impl Random {
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next_u64() % bound as u64).unwrap()
    }

    pub fn number(&mut self, bound: u8) -> u8 {
        u8::try_from(self.below(bound.into())).unwrap()
    }
}

/// One line of the capture.
pub struct Captured {
    pub kind: String,
    pub topic: Vec<u8>,
    pub envelope: ClientEnvelope,
    pub line: serde_json::Value,
}

pub fn captured(kind: &str) -> Vec<Captured> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/client/envelopes.jsonl");
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    lines
        .filter(|line: &serde_json::Value| line["kind"] == kind)
        .map(|line| {
            let unhex = |name: &str| hex::decode(line[name].as_str().unwrap()).unwrap();
            Captured {
                kind: kind.to_owned(),
                topic: unhex("topic"),
                envelope: ClientEnvelope::decode(Bytes::from(unhex("hex"))).unwrap(),
                line,
            }
        })
        .collect()
}

/// Returns a signer with an account.
pub fn wallet(number: u8) -> Wallet {
    Wallet(SecretKey::from_bytes(&[number; 32]).unwrap())
}

#[derive(Clone)]
pub struct Wallet(pub SecretKey);

impl Wallet {
    pub fn identifier(&self) -> MemberIdentifier {
        MemberIdentifier::of_address(self.0.public_key().address())
    }

    pub fn text(&self) -> String {
        self.identifier().to_string()
    }

    /// Signs as wallets do, with v of 27 or 28.
    pub fn sign(&self, text: &str) -> Bytes {
        let mut bytes = *self.0.sign(personal(text)).as_bytes();
        bytes[64] += 27;
        Bytes::copy_from_slice(&bytes)
    }

    pub fn signature(&self, text: &str) -> pb::Signature {
        erc_191(self.sign(text))
    }
}

pub fn erc_191(bytes: Bytes) -> pb::Signature {
    signed(Signed::Erc191(pb::RecoverableEcdsaSignature { bytes }))
}

fn signed(signature: Signed) -> pb::Signature {
    pb::Signature { signature: Some(signature) }
}

pub fn personal(text: &str) -> Digest {
    let prefix = format!("\x19Ethereum Signed Message:\n{}", text.len());
    keccak256(&[prefix.as_bytes(), text.as_bytes()])
}

/// Returns the signature with s replaced by the order minus s, and v unchanged. Clients bring s into the lower
/// half, so they treat both alike.
pub fn high_s(bytes: &[u8]) -> Bytes {
    let twin = high_twin(bytes);
    [&twin[..64], &bytes[64..]].concat().into()
}

/// Returns a passkey's signature with s replaced by the order minus s, in DER. Both are valid.
pub fn other_form(der: &[u8]) -> Bytes {
    let signature = p256::ecdsa::Signature::from_der(der).unwrap();
    let (r, s) = signature.split_scalars();
    let other = p256::ecdsa::Signature::from_scalars(*r, -*s).unwrap();
    Bytes::copy_from_slice(other.to_der().as_bytes())
}

/// Returns the signature with s replaced by the order minus s, and the matching other v: valid by mathematics.
pub fn high_twin(bytes: &[u8]) -> Bytes {
    const ORDER: &str = "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141";
    let order = hex::decode(ORDER).unwrap();
    let mut twin = bytes.to_vec();
    let mut borrow = 0i16;
    for place in (0..32).rev() {
        let digit = i16::from(order[place]) - i16::from(bytes[32 + place]) - borrow;
        borrow = i16::from(digit < 0);
        twin[32 + place] = u8::try_from(digit.rem_euclid(256)).unwrap();
    }
    twin[64] = if twin[64] < 27 { 1 - twin[64] } else { 55 - twin[64] };
    twin.into()
}

/// An installation of an app.
pub fn installation(number: u8) -> Installation {
    Installation(SigningKey::from_bytes(&[number; 32]))
}

#[derive(Clone)]
pub struct Installation(pub SigningKey);

impl Installation {
    pub fn key(&self) -> Bytes {
        Bytes::copy_from_slice(self.0.verifying_key().as_bytes())
    }

    pub fn identifier(&self) -> MemberIdentifier {
        MemberIdentifier::Installation(self.key())
    }

    pub fn signature(&self, text: &str) -> pb::Signature {
        self.signature_in(text, b"IDENTITY UPDATE SIGNATURE")
    }

    pub fn signature_in(&self, text: &str, context: &[u8]) -> pb::Signature {
        let prehash = Sha512::new_with_prefix(text);
        let signature = self.0.sign_prehashed(prehash, Some(context)).unwrap();
        signed(Signed::InstallationKey(pb::RecoverableEd25519Signature {
            bytes: Bytes::copy_from_slice(&signature.to_bytes()),
            public_key: self.key(),
        }))
    }
}

/// A passkey made for `https://example.org`.
pub fn passkey(number: u8) -> PasskeyOwner {
    PasskeyOwner(p256::ecdsa::SigningKey::from_slice(&[number; 32]).unwrap())
}

#[derive(Clone)]
pub struct PasskeyOwner(pub p256::ecdsa::SigningKey);

impl PasskeyOwner {
    pub fn key(&self) -> Bytes {
        Bytes::copy_from_slice(self.0.verifying_key().to_sec1_point(true).as_bytes())
    }

    pub fn identifier(&self) -> MemberIdentifier {
        MemberIdentifier::Passkey(Passkey { key: self.key(), relying_party: None })
    }

    pub fn signature(&self, text: &str) -> pb::Signature {
        let challenge = URL_SAFE_NO_PAD.encode(text);
        let client_data = format!(
            r#"{{"type":"webauthn.get","challenge":"{challenge}","origin":"https://example.org"}}"#
        );
        let mut data = vec![7; 37];
        data.extend_from_slice(&Sha256::digest(client_data.as_bytes()));
        let signature: p256::ecdsa::Signature = self.0.sign(&data);
        signed(Signed::Passkey(pb::RecoverablePasskeySignature {
            public_key: self.key(),
            signature: Bytes::copy_from_slice(signature.to_der().as_bytes()),
            authenticator_data: vec![7; 37].into(),
            client_data_json: client_data.into(),
        }))
    }
}

/// A key that a wallet delegated to.
pub fn delegate(wallet: &Wallet, number: u8) -> Delegate {
    let key = SecretKey::from_bytes(&[number; 32]).unwrap();
    let point = legacy::unsigned_public_key::Secp256k1Uncompressed {
        bytes: Bytes::copy_from_slice(key.public_key().as_bytes()),
    };
    let unsigned = legacy::UnsignedPublicKey {
        created_ns: 1,
        union: Some(legacy::unsigned_public_key::Union::Secp256k1Uncompressed(point)),
    };
    let key_bytes = unsigned.encode_to_vec();
    let text = format!(
        "XMTP : Create Identity\n{}\n\nFor more info: https://xmtp.org/signatures/",
        hex::encode(&key_bytes)
    );
    let by_wallet = *wallet.0.sign(personal(&text)).as_bytes();
    let union =
        legacy::signature::Union::WalletEcdsaCompact(legacy::signature::WalletEcdsaCompact {
            bytes: Bytes::copy_from_slice(&by_wallet[..64]),
            recovery: by_wallet[64].into(),
        });
    let signature = Some(legacy::Signature { union: Some(union) });
    Delegate { key, public: legacy::SignedPublicKey { key_bytes: key_bytes.into(), signature } }
}

#[derive(Clone)]
pub struct Delegate {
    key: SecretKey,
    public: legacy::SignedPublicKey,
}

impl Delegate {
    pub fn signature(&self, text: &str) -> pb::Signature {
        let bytes = Bytes::copy_from_slice(self.key.sign(personal(text)).as_bytes());
        signed(Signed::DelegatedErc191(pb::LegacyDelegatedSignature {
            delegated_key: Some(self.public.clone()),
            signature: Some(pb::RecoverableEcdsaSignature { bytes }),
        }))
    }
}

/// Returns a signature of a contract wallet.
pub fn contract_signature(account_id: &str, block_number: u64, bytes: &[u8]) -> pb::Signature {
    signed(Signed::Erc6492(pb::SmartContractWalletSignature {
        account_id: account_id.to_owned(),
        block_number,
        signature: Bytes::copy_from_slice(bytes),
    }))
}

/// One action: its entry in the signed text, and the function that signs the whole text and builds the action.
pub struct Act {
    entry: String,
    make: Box<dyn Fn(&str) -> Kind>,
}

impl Act {
    /// Returns the action with its signatures over `text`.
    pub fn kind(&self, text: &str) -> Kind {
        (self.make)(text)
    }

    /// Returns the action with its wire form changed after it was signed.
    pub fn with(self, change: impl Fn(&mut Kind) + 'static) -> Self {
        let make = self.make;
        let changed = move |text: &str| {
            let mut kind = make(text);
            change(&mut kind);
            kind
        };
        Self { entry: self.entry, make: Box::new(changed) }
    }
}

type Sign = Box<dyn Fn(&str) -> pb::Signature>;

/// Makes a signature over a text.
pub fn by<F: Fn(&str) -> pb::Signature + 'static>(sign: F) -> Sign {
    Box::new(sign)
}

macro_rules! signs {
    ($($owner:ty),*) => {$(
        impl From<&$owner> for Box<dyn Fn(&str) -> pb::Signature> {
            fn from(owner: &$owner) -> Self {
                let owner = owner.clone();
                Box::new(move |text| owner.signature(text))
            }
        }
    )*};
}

signs!(Wallet, Installation, PasskeyOwner, Delegate);

pub fn create(account: &MemberIdentifier, nonce: u64, by: impl Into<Sign>) -> Act {
    let (account, by) = (account.clone(), by.into());
    Act {
        entry: format!("- Create inbox\n  (Owner: {account})"),
        make: Box::new(move |text| {
            Kind::CreateInbox(pb::CreateInbox {
                initial_identifier: account.to_string(),
                nonce,
                initial_identifier_signature: Some(by(text)),
                initial_identifier_kind: kind_of(&account).into(),
                relying_party: None,
            })
        }),
    }
}

pub fn add(member: &MemberIdentifier, by: impl Into<Sign>, new: impl Into<Sign>) -> Act {
    let (member, by, new) = (member.clone(), by.into(), new.into());
    let entry = match &member {
        MemberIdentifier::Ethereum(_) => format!("- Link address to inbox\n  (Address: {member})"),
        MemberIdentifier::Installation(_) => {
            format!("- Grant messaging access to app\n  (ID: {member})")
        }
        MemberIdentifier::Passkey(_) => format!("- Link passkey to inbox\n  (Passkey: {member})"),
    };
    Act {
        entry,
        make: Box::new(move |text| {
            Kind::Add(pb::AddAssociation {
                new_member_identifier: Some(member.to_pb()),
                existing_member_signature: Some(by(text)),
                new_member_signature: Some(new(text)),
                relying_party: None,
            })
        }),
    }
}

pub fn revoke(member: &MemberIdentifier, by: impl Into<Sign>) -> Act {
    let (member, by) = (member.clone(), by.into());
    let entry = match &member {
        MemberIdentifier::Ethereum(_) => {
            format!("- Unlink address from inbox\n  (Address: {member})")
        }
        MemberIdentifier::Installation(_) => {
            format!("- Revoke messaging access from app\n  (ID: {member})")
        }
        MemberIdentifier::Passkey(_) => {
            format!("- Unlink passkey from inbox\n  (Passkey: {member})")
        }
    };
    Act {
        entry,
        make: Box::new(move |text| {
            Kind::Revoke(pb::RevokeAssociation {
                member_to_revoke: Some(member.to_pb()),
                recovery_identifier_signature: Some(by(text)),
            })
        }),
    }
}

pub fn change_recovery(to: &MemberIdentifier, by: impl Into<Sign>) -> Act {
    let (to, by) = (to.clone(), by.into());
    Act {
        entry: format!("- Change inbox recovery address\n  (Address: {to})"),
        make: Box::new(move |text| {
            Kind::ChangeRecoveryAddress(pb::ChangeRecoveryAddress {
                new_recovery_identifier: to.to_string(),
                existing_recovery_identifier_signature: Some(by(text)),
                new_recovery_identifier_kind: kind_of(&to).into(),
                relying_party: None,
            })
        }),
    }
}

fn kind_of(identifier: &MemberIdentifier) -> pb::IdentifierKind {
    match identifier {
        MemberIdentifier::Passkey(_) => pb::IdentifierKind::Passkey,
        _ => pb::IdentifierKind::Ethereum,
    }
}

/// Returns the update with all its signatures.
pub fn update(inbox_id: &str, actions: Vec<Act>) -> pb::IdentityUpdate {
    let entries: Vec<&str> = actions.iter().map(|act| act.entry.as_str()).collect();
    let text = format!(
        "XMTP : Authenticate to inbox\n\nInbox ID: {inbox_id}\nCurrent time: {TIME_TEXT}\n\n{}\n\n\
         For more info: https://xmtp.org/signatures",
        entries.join("\n")
    );
    let actions = actions.iter().map(|act| pb::IdentityAction { kind: Some((act.make)(&text)) });
    pb::IdentityUpdate {
        actions: actions.collect(),
        client_timestamp_ns: TIME_NS,
        inbox_id: inbox_id.to_owned(),
    }
}

/// An inbox of wallet 1 with nonce 1, and its id.
pub fn inbox() -> (String, AssociationState) {
    let owner = wallet(1);
    let inbox_id = owner.identifier().inbox_id(1);
    let update = update(&inbox_id, vec![create(&owner.identifier(), 1, &owner)]);
    let state = valid(None, &update);
    (inbox_id, state)
}

/// Returns the state after an update that is valid without an answer of a contract wallet.
#[track_caller]
pub fn valid(before: Option<&AssociationState>, update: &pb::IdentityUpdate) -> AssociationState {
    match judge(before, update, |question| panic!("asks {question:?}")) {
        UpdateJudgement::Valid(after) => after,
        other => panic!("{other:?}"),
    }
}

/// Returns the reason an update is invalid.
#[track_caller]
pub fn refused(before: Option<&AssociationState>, update: &pb::IdentityUpdate) -> String {
    match judge(before, update, |_| None) {
        UpdateJudgement::Invalid(error) => error.to_string(),
        other => panic!("{other:?}"),
    }
}
