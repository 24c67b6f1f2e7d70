//! Known encodings of accounts' signatures, and of the keys to which accounts delegate signing.

use bytes::Bytes;
use hawser_mls::identity::MemberIdentifier;
use hawser_proto::pb::xmtp::identity::associations as pb;
use hawser_proto::pb::xmtp::message_contents as legacy;
use pb::signature::Signature as Signed;

use super::cases::{Cases, signed};
use super::{keys, names};
use crate::common::*;

pub(crate) type Sign = Box<dyn Fn(&str) -> pb::Signature>;

/// Returns the ids and nonces of two inboxes of wallet 1: that of nonce 0, in which delegated keys may sign, and
/// another one.
pub(crate) fn inbox_ids() -> [(String, u64); 2] {
    [0, 1].map(|nonce| (wallet(1).identifier().inbox_id(nonce), nonce))
}

pub(crate) fn add(cases: &mut Cases) {
    let owner = wallet(1);
    for (id, nonce) in inbox_ids() {
        let founding = signed(&id, TIME_NS, &[create(&owner.identifier(), nonce, &owner)]);
        cases.log(&format!("inbox {nonce}"), vec![founding.clone()]);
        let phone = installation(2);
        let adding = vec![
            add_act(&phone.identifier(), &owner, &phone),
            add_act(&wallet(3).identifier(), &owner, &wallet(3)),
            add_act(&passkey(4).identifier(), &owner, &passkey(4)),
        ];
        let adding = signed(&id, TIME_NS + 1_000_000_000, &adding);
        cases.log(&format!("family {nonce}"), vec![founding, adding]);
    }
    cases.logs.insert("nothing".into(), Vec::new());
    account_signatures(cases);
    delegated_keys(cases);
    keys::passkeys(cases);
    keys::installations(cases);
    names::identifiers(cases);
    names::times(cases);
    names::contract_wallets(cases);
}

pub(crate) fn add_act(member: &MemberIdentifier, by: impl Into<Sign>, new: impl Into<Sign>) -> Act {
    crate::common::add(member, by, new)
}

/// Signs with an account and changes the 65 bytes.
fn altered(owner: &Wallet, alter: impl Fn(&mut Vec<u8>) + 'static) -> Sign {
    let owner = owner.clone();
    by(move |text| {
        let mut bytes = owner.sign(text).to_vec();
        alter(&mut bytes);
        erc_191(bytes.into())
    })
}

const ORDER: &str = "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141";

type Alteration = Box<dyn Fn(&mut Vec<u8>)>;

/// Returns the variations of an account's signature, each with its name.
fn alterations() -> Vec<(String, Alteration)> {
    let mut all: Vec<(String, Alteration)> = Vec::new();
    for v in (0..40).chain([62, 63, 64, 98, 99, 127, 128, 154, 155, 200, 253, 254, 255]) {
        all.push((format!("v {v}"), Box::new(move |bytes| bytes[64] = v)));
        let high = move |bytes: &mut Vec<u8>| {
            *bytes = high_s(bytes).to_vec();
            bytes[64] = v;
        };
        all.push((format!("high s and v {v}"), Box::new(high)));
    }
    let mut push = |name: &str, alteration: Alteration| all.push((name.into(), alteration));
    push("as it is", Box::new(|_| {}));
    push("high s", Box::new(|bytes| *bytes = high_s(bytes).to_vec()));
    push("the other form", Box::new(|bytes| *bytes = high_twin(bytes).to_vec()));
    push("raw v", Box::new(|bytes| bytes[64] -= 27));
    push(
        "raw v of the other form",
        Box::new(|bytes| {
            *bytes = high_twin(bytes).to_vec();
            bytes[64] -= 27;
        }),
    );
    push("v of a chain", Box::new(|bytes| bytes[64] += 8 + 2));
    push("64 bytes", Box::new(|bytes| bytes.truncate(64)));
    push("66 bytes", Box::new(|bytes| bytes.push(0)));
    push("no bytes", Box::new(Vec::clear));
    push("r is 0", Box::new(|bytes| bytes[..32].fill(0)));
    push("s is 0", Box::new(|bytes| bytes[32..64].fill(0)));
    push(
        "r is the order",
        Box::new(|bytes| bytes[..32].copy_from_slice(&hex::decode(ORDER).unwrap())),
    );
    push(
        "s is the order",
        Box::new(|bytes| bytes[32..64].copy_from_slice(&hex::decode(ORDER).unwrap())),
    );
    push("all bits", Box::new(|bytes| bytes.fill(0xff)));
    all
}

fn account_signatures(cases: &mut Cases) {
    let (owner, phone) = (wallet(1), installation(9));
    let second = wallet(8);
    for (name, _) in alterations() {
        // Alterations are closures, which cannot be copied, so each use builds them again.
        let find =
            |wanted: &str| alterations().into_iter().find(|(name, _)| name == wanted).unwrap().1;
        let by_owner = || altered(&owner, find(&name));
        let (id, nonce) = &inbox_ids()[1];
        let founder = create(&owner.identifier(), *nonce, by_owner());
        cases.case(format!("account founds, {name}"), "nothing", &signed(id, TIME_NS, &[founder]));
        let adds = add_act(&phone.identifier(), by_owner(), &phone);
        cases.case(format!("account adds, {name}"), "family 1", &signed(id, TIME_NS, &[adds]));
        let joins = add_act(&second.identifier(), &owner, altered(&second, find(&name)));
        cases.case(format!("account joins, {name}"), "family 1", &signed(id, TIME_NS, &[joins]));
        let revokes = revoke(&installation(2).identifier(), by_owner());
        cases.case(
            format!("account revokes, {name}"),
            "family 1",
            &signed(id, TIME_NS, &[revokes]),
        );
    }
    replays(cases);
}

/// Adds updates that reuse a signature in each of its encodings.
fn replays(cases: &mut Cases) {
    let owner = wallet(1);
    let (id, _) = &inbox_ids()[1];
    let phone = installation(9);
    for (first, _) in alterations().into_iter().filter(|(name, _)| !name.starts_with("v ")) {
        for second in [
            "as it is",
            "high s",
            "the other form",
            "raw v",
            "v of a chain",
            "raw v of the other form",
        ] {
            let find = |wanted: &str| {
                alterations().into_iter().find(|(name, _)| name == wanted).unwrap().1
            };
            let act = |name: &str| {
                vec![add_act(&phone.identifier(), altered(&owner, find(name)), &phone)]
            };
            let twice = revoke(&phone.identifier(), &owner);
            let used = signed(id, TIME_NS, &act(&first));
            let log = format!("used {first}");
            let base = cases.logs["inbox 1"].clone();
            let held = [base, vec![used, signed(id, TIME_NS + 5_000_000_000, &[twice])]].concat();
            let is_valid = held.iter().try_fold(None, |state, update| {
                super::cases::after(state.as_ref(), update).map(Some)
            });
            if is_valid.is_none() {
                continue;
            }
            cases.log(&log, held);
            let name = format!("replay of {first} with {second}");
            cases.case(name, &log, &signed(id, TIME_NS, &act(second)));
        }
    }
}

/// A change of a delegated key and of the signature made with it, by a number.
type Change = fn(&mut legacy::SignedPublicKey, &mut Vec<u8>, u32);

fn change_delegated(
    signature: &mut pb::Signature,
    change: impl Fn(&mut legacy::SignedPublicKey, &mut Vec<u8>),
) {
    let Some(Signed::DelegatedErc191(delegated)) = &mut signature.signature else { panic!() };
    let inner = delegated.signature.as_mut().unwrap();
    let mut bytes = inner.bytes.to_vec();
    change(delegated.delegated_key.as_mut().unwrap(), &mut bytes);
    inner.bytes = bytes.into();
}

fn changes_of_delegated_keys() -> Vec<(String, Change, u32)> {
    let recovery: Change = |key, _, value| recovery_of(key, |_, recovery| *recovery = value);
    let high: Change = |key, _, value| {
        recovery_of(key, |compact, recovery| {
            let twin = high_s(&[&compact[..], &[u8::try_from(*recovery).unwrap()]].concat());
            *compact = Bytes::copy_from_slice(&twin[..64]);
            if value == 1 {
                *recovery = 1 - *recovery;
            }
        });
    };
    let own_v: Change = |_, bytes, value| bytes[64] = u8::try_from(value % 256).unwrap();
    let own_high: Change = |_, bytes, _| *bytes = high_s(bytes).to_vec();
    let other_kind: Change = |key, _, _| {
        let signature = key.signature.as_mut().unwrap();
        if let Some(legacy::signature::Union::WalletEcdsaCompact(compact)) = signature.union.take()
        {
            let (bytes, recovery) = (compact.bytes, compact.recovery);
            let compact = legacy::signature::EcdsaCompact { bytes, recovery };
            signature.union = Some(legacy::signature::Union::EcdsaCompact(compact));
        }
    };
    let unsigned: Change = |key, _, _| key.signature = None;
    let key_bytes: Change = |key, _, value| {
        let mut bytes = key.key_bytes.to_vec();
        let at = usize::try_from(value).unwrap() % bytes.len();
        bytes[at] ^= 1;
        key.key_bytes = bytes.into();
    };
    let mut changes: Vec<(String, Change, u32)> = vec![
        ("unsigned".into(), unsigned, 0),
        ("of the other kind".into(), other_kind, 0),
        ("high s in the delegation".into(), high, 0),
        ("the other form in the delegation".into(), high, 1),
        ("high s".into(), own_high, 0),
    ];
    for value in [0, 1, 2, 3, 26, 27, 28, 29, 35, 36, 37, 38, 255, 256, 257, 283, 284] {
        changes.push((format!("recovery {value}"), recovery, value));
        changes.push((format!("v {value}"), own_v, value));
    }
    for value in [0, 1, 5, 9, 12, 30, 70] {
        changes.push((format!("key byte {value}"), key_bytes, value));
    }
    changes
}

fn delegated_keys(cases: &mut Cases) {
    let (owner, phone) = (wallet(1), installation(9));
    for (name, altering, value) in changes_of_delegated_keys() {
        for (id, nonce) in inbox_ids() {
            let by_delegate = || {
                let legacy = delegate(&owner, 50);
                by(move |text| {
                    let mut signature = legacy.signature(text);
                    change_delegated(&mut signature, |key, bytes| altering(key, bytes, value));
                    signature
                })
            };
            let founding = create(&owner.identifier(), nonce, by_delegate());
            let case = format!("delegate founds {nonce}, {name}");
            cases.case(case, "nothing", &signed(&id, TIME_NS, &[founding]));
            let adding = add_act(&phone.identifier(), by_delegate(), &phone);
            let log = format!("family {nonce}");
            cases.case(
                format!("delegate adds to {nonce}, {name}"),
                &log,
                &signed(&id, TIME_NS, &[adding]),
            );
            let revoking = revoke(&installation(2).identifier(), by_delegate());
            cases.case(
                format!("delegate revokes in {nonce}, {name}"),
                &log,
                &signed(&id, TIME_NS, &[revoking]),
            );
        }
    }
}

fn recovery_of(key: &mut legacy::SignedPublicKey, change: impl Fn(&mut Bytes, &mut u32)) {
    match key.signature.as_mut().unwrap().union.as_mut().unwrap() {
        legacy::signature::Union::WalletEcdsaCompact(compact) => {
            change(&mut compact.bytes, &mut compact.recovery);
        }
        legacy::signature::Union::EcdsaCompact(_) => panic!(),
    }
}
