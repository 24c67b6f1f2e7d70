//! The CPU time of identity updates at nodes in relation to their gas, for the most expensive known shapes.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::SigningKey;
use hawser_mls::identity::{AssociationState, MemberIdentifier, add_trusted, check, signed_text};
use hawser_proto::pb::xmtp::identity::associations as pb;
use hawser_proto::pb::xmtp::message_contents as legacy;
use hawser_proto::sign::keccak256;
use hawser_proto::{Bytes, SecretKey};
use p256::ecdsa::signature::Signer as _;
use pb::identity_action::Kind;
use pb::signature::Signature as Signed;
use prost::Message as _;
use sha2::{Digest as _, Sha256, Sha512};

use crate::error::BenchError;
use crate::stats;

/// Length of a nearly longest update that the broadcaster accepts in one transaction, in bytes: 6 million gas.
const UPDATE_LEN: usize = 145_000;
/// Members of the large inbox.
const MEMBERS: usize = 100_000;
/// The least gas of a non-zero byte of calldata (EIP-2028), plus that of a byte in an event.
const GAS_PER_BYTE: u64 = 16 + 8;
/// Gas of an update without its bytes.
const GAS_PER_UPDATE: u64 = 30_000;
/// Sustained gas per second of a chain like the app chain (Arbitrum Orbit): the default of its speed limit.
const GAS_PER_SECOND: f64 = 7e6;
const TIME: Duration = Duration::from_secs(2);
/// Repetitions of one shape. A guess: before each the state is copied, which is not measured.
const TIMES_MAX: u32 = 50;

type Sign<'a> = &'a dyn Fn(&str) -> pb::Signature;

/// Prints one line for each shape.
pub(crate) fn run() -> Result<(), BenchError> {
    println!(
        "| shape | bytes | CPU ms | gas | ns of CPU per gas | CPU s in a second of the chain |"
    );
    println!("|---|--:|--:|--:|--:|--:|");
    let owner = account(1)?;
    let (id, founded) = founded(&owner)?;
    let by_owner: Sign<'_> = &|text| erc_191(&owner, text);
    let empty = MemberIdentifier::Ethereum(String::new());
    let many = |each: &dyn Fn(usize, &str) -> Kind| -> Result<pb::IdentityUpdate, BenchError> {
        let len = |count| Ok::<_, BenchError>(signed(&id, count, each)?.encoded_len());
        let (one, two, three) = (len(1)?, len(2)?, len(3)?);
        // A passkey's signature holds the text, so the length may grow with the square.
        let (next, more) = (two - one, (three + one).saturating_sub(2 * two));
        let len = |count: usize| one + (count - 1) * next + (count - 1) * (count - 2) / 2 * more;
        let count = (2..).take_while(|count| len(*count) <= UPDATE_LEN).last();
        signed(&id, count.unwrap_or(1), each)
    };
    judged(
        "revocations, each signed by an account",
        &founded,
        &many(&|_, text| revoke(&empty, by_owner(text)))?,
    )?;
    let joining = many(&|number, text| join(number, by_owner(text), text))?;
    judged("installations that join", &founded, &joining)?;
    let delegate = delegated(&owner)?;
    judged(
        "revocations by a delegated key",
        &founded,
        &many(&|_, text| revoke(&empty, delegate(text)))?,
    )?;
    let key = p256::ecdsa::SigningKey::from_slice(&[9; 32]).map_err(|error| error.to_string())?;
    judged(
        "revocations by a passkey",
        &founded,
        &many(&|_, text| revoke(&empty, passkey(&key, text)))?,
    )?;
    judged(
        "revocations by contract wallets",
        &founded,
        &many(&|number, _| revoke(&empty, contract(number)))?,
    )?;
    let large = large(&id, &founded, by_owner)?;
    let joining = signed(&id, 1, &|_, text| join(MEMBERS + 1, by_owner(text), text))?;
    judged(&format!("one installation joins {MEMBERS} members"), &large, &joining)?;
    let sweep = signed(&id, 1, &|_, text| revoke(&identifier(&owner), by_owner(text)))?;
    judged(&format!("an account leaves with its {MEMBERS} installations"), &large, &sweep)
}

/// Prints the cost of validating an update, and of applying it if it is valid.
fn judged(
    name: &str,
    before: &AssociationState,
    update: &pb::IdentityUpdate,
) -> Result<(), BenchError> {
    let (mut spent, mut times) = (Duration::ZERO, 0u32);
    while spent < TIME && times < TIMES_MAX {
        let mut state = Some(before.clone());
        let start = Instant::now();
        let checked = check(state.as_ref(), update);
        if let Ok(change) = checked {
            change.apply(&mut state);
        }
        spent += start.elapsed();
        times += 1;
    }
    let len = update.encoded_len() as u64;
    print(name, len, spent / times, 1);
    Ok(())
}

fn print(name: &str, len: u64, spent: Duration, updates: u64) {
    let gas = GAS_PER_UPDATE * updates + GAS_PER_BYTE * len;
    let (seconds, gas_made) = (spent.as_secs_f64(), stats::float(gas));
    println!(
        "| {name} | {len} | {:.2} | {gas} | {:.1} | {:.3} |",
        seconds * 1e3,
        seconds * 1e9 / gas_made,
        seconds * GAS_PER_SECOND / gas_made,
    );
}

/// Makes the large inbox, and prints the cost of reading its log again.
fn large(
    id: &str,
    founded: &AssociationState,
    by_owner: Sign<'_>,
) -> Result<AssociationState, BenchError> {
    let mut log = Vec::new();
    for from in (0..MEMBERS).step_by(600) {
        log.push(signed(id, 600, &|number, text| join(from + number, by_owner(text), text))?);
    }
    let mut state = Some(founded.clone());
    let start = Instant::now();
    for update in &log {
        add_trusted(&mut state, update).map_err(|error| error.to_string())?;
    }
    let len: usize = log.iter().map(prost::Message::encoded_len).sum();
    print(
        &format!("the log of {MEMBERS} members, read again"),
        len as u64,
        start.elapsed(),
        log.len() as u64,
    );
    Ok(state.ok_or("an inbox that was founded has a state")?)
}

/// Returns an update of so many actions with their signatures.
fn signed(
    id: &str,
    count: usize,
    each: &dyn Fn(usize, &str) -> Kind,
) -> Result<pb::IdentityUpdate, BenchError> {
    let with = |text: &str| pb::IdentityUpdate {
        actions: (0..count)
            .map(|number| pb::IdentityAction { kind: Some(each(number, text)) })
            .collect(),
        client_timestamp_ns: 1_800_000_000_000_000_000,
        inbox_id: id.to_owned(),
    };
    let text = signed_text(&with("")).map_err(|error| error.to_string())?;
    Ok(with(&text))
}

fn founded(owner: &SecretKey) -> Result<(String, AssociationState), BenchError> {
    let account = identifier(owner);
    let id = account.inbox_id(0);
    let founding = signed(&id, 1, &|_, text| {
        Kind::CreateInbox(pb::CreateInbox {
            initial_identifier: account.to_string(),
            nonce: 0,
            initial_identifier_signature: Some(erc_191(owner, text)),
            ..pb::CreateInbox::default()
        })
    })?;
    let mut state = None;
    let change = check(None, &founding).map_err(|error| error.to_string())?;
    change.apply(&mut state);
    Ok((id, state.ok_or("an inbox that was founded has a state")?))
}

fn revoke(member: &MemberIdentifier, by: pb::Signature) -> Kind {
    Kind::Revoke(pb::RevokeAssociation {
        member_to_revoke: Some(member.to_pb()),
        recovery_identifier_signature: Some(by),
    })
}

fn join(number: usize, by: pb::Signature, text: &str) -> Kind {
    let key = SigningKey::from_bytes(&blake3::derive_key(
        "hawser-bench installation",
        &number.to_be_bytes(),
    ));
    let public = Bytes::copy_from_slice(key.verifying_key().as_bytes());
    let prehash = Sha512::new_with_prefix(text);
    let signature = key
        .sign_prehashed(prehash, Some(b"IDENTITY UPDATE SIGNATURE"))
        .expect("the context is short");
    Kind::Add(pb::AddAssociation {
        new_member_identifier: Some(MemberIdentifier::Installation(public.clone()).to_pb()),
        existing_member_signature: Some(by),
        new_member_signature: Some(wrapped(Signed::InstallationKey(
            pb::RecoverableEd25519Signature {
                bytes: Bytes::copy_from_slice(&signature.to_bytes()),
                public_key: public,
            },
        ))),
        relying_party: None,
    })
}

fn account(number: u8) -> Result<SecretKey, BenchError> {
    Ok(SecretKey::from_bytes(&[number; 32])?)
}

fn identifier(account: &SecretKey) -> MemberIdentifier {
    MemberIdentifier::of_address(account.public_key().address())
}

fn wrapped(signature: Signed) -> pb::Signature {
    pb::Signature { signature: Some(signature) }
}

fn personal(key: &SecretKey, text: &str) -> Bytes {
    let prefix = format!("\x19Ethereum Signed Message:\n{}", text.len());
    let digest = keccak256(&[prefix.as_bytes(), text.as_bytes()]);
    Bytes::copy_from_slice(key.sign(digest).as_bytes())
}

fn erc_191(key: &SecretKey, text: &str) -> pb::Signature {
    wrapped(Signed::Erc191(pb::RecoverableEcdsaSignature { bytes: personal(key, text) }))
}

/// Returns a signer with a key that the account delegated to.
fn delegated(owner: &SecretKey) -> Result<impl Fn(&str) -> pb::Signature + use<>, BenchError> {
    use legacy::{signature, unsigned_public_key};

    let key = account(50)?;
    let point = unsigned_public_key::Secp256k1Uncompressed {
        bytes: Bytes::copy_from_slice(key.public_key().as_bytes()),
    };
    let union = Some(unsigned_public_key::Union::Secp256k1Uncompressed(point));
    let key_bytes = legacy::UnsignedPublicKey { created_ns: 1, union }.encode_to_vec();
    let text = format!(
        "XMTP : Create Identity\n{}\n\nFor more info: https://xmtp.org/signatures/",
        hex::encode(&key_bytes)
    );
    let by_wallet = personal(owner, &text);
    let compact = signature::WalletEcdsaCompact {
        bytes: by_wallet.slice(..64),
        recovery: by_wallet[64].into(),
    };
    let union = Some(signature::Union::WalletEcdsaCompact(compact));
    let signature = Some(legacy::Signature { union });
    let public = legacy::SignedPublicKey { key_bytes: key_bytes.into(), signature };
    Ok(move |text: &str| {
        wrapped(Signed::DelegatedErc191(pb::LegacyDelegatedSignature {
            delegated_key: Some(public.clone()),
            signature: Some(pb::RecoverableEcdsaSignature { bytes: personal(&key, text) }),
        }))
    })
}

/// Signs as a passkey. Each signature contains the text of the update, so updates of this shape have fewer actions.
fn passkey(key: &p256::ecdsa::SigningKey, text: &str) -> pb::Signature {
    let challenge = URL_SAFE_NO_PAD.encode(text);
    let client_data = format!(r#"{{"challenge":"{challenge}","origin":""}}"#);
    let message = Sha256::digest(client_data.as_bytes());
    let signature: p256::ecdsa::Signature = key.sign(&message);
    wrapped(Signed::Passkey(pb::RecoverablePasskeySignature {
        public_key: Bytes::copy_from_slice(key.verifying_key().to_sec1_point(true).as_bytes()),
        signature: Bytes::copy_from_slice(signature.to_der().as_bytes()),
        authenticator_data: Bytes::new(),
        client_data_json: client_data.into(),
    }))
}

fn contract(number: usize) -> pb::Signature {
    wrapped(Signed::Erc6492(pb::SmartContractWalletSignature {
        account_id: "eip155:1:0x00000000000000000000000000000000000000aa".to_owned(),
        block_number: number as u64,
        signature: Bytes::from_static(&[1; 32]),
    }))
}
