//! Known encodings of passkeys' and installations' signatures.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use bytes::Bytes;
use hawser_mls::identity::{MemberIdentifier, Passkey};
use hawser_proto::pb::xmtp::identity::associations as pb;
use p256::ecdsa::signature::Signer as _;
use pb::signature::Signature as Signed;
use sha2::{Digest as _, Sha256};

use super::cases::{Cases, signed};
use super::forms::{Sign, add_act, inbox_ids};
use crate::common::*;

/// Signs with a passkey over the client data that `data` returns for the text.
fn with_client_data(owner: &PasskeyOwner, data: impl Fn(&str) -> Vec<u8> + 'static) -> Sign {
    let owner = owner.clone();
    by(move |text| {
        let client_data = data(text);
        let mut message = vec![7; 37];
        message.extend_from_slice(&Sha256::digest(&client_data));
        let signature: p256::ecdsa::Signature = owner.0.sign(&message);
        pb::Signature {
            signature: Some(Signed::Passkey(pb::RecoverablePasskeySignature {
                public_key: owner.key(),
                signature: Bytes::copy_from_slice(signature.to_der().as_bytes()),
                authenticator_data: vec![7; 37].into(),
                client_data_json: client_data.into(),
            })),
        }
    })
}

/// Client data by name. `{c}` stands for the expected challenge, `{p}` for it with padding, `{s}` in the other
/// alphabet, `{o}` for that of another text, `{d}` for the text's digest, `{j}` for the text, `{e}` for the
/// challenge with its first character escaped.
const CLIENT_DATA: [(&str, &str); 26] = [
    ("usual", r#"{"type":"webauthn.get","challenge":"{c}","origin":"o"}"#),
    ("without type", r#"{"challenge":"{c}","origin":"o"}"#),
    ("of another type", r#"{"type":"webauthn.create","challenge":"{c}","origin":"o"}"#),
    ("with a number as type", r#"{"type":1,"challenge":"{c}","origin":"o"}"#),
    (
        "with more",
        r#"{"type":"webauthn.get","challenge":"{c}","origin":"o","crossOrigin":false,"x":[1,{"y":null}]}"#,
    ),
    (
        "with crossOrigin as text",
        r#"{"type":"webauthn.get","challenge":"{c}","origin":"o","crossOrigin":"no"}"#,
    ),
    (
        "with blanks",
        "\n { \"type\" : \"webauthn.get\",\t\"challenge\" : \"{c}\", \"origin\" : \"o\" } \n",
    ),
    ("without origin", r#"{"type":"webauthn.get","challenge":"{c}"}"#),
    ("with a number as origin", r#"{"type":"webauthn.get","challenge":"{c}","origin":1}"#),
    ("with null as origin", r#"{"type":"webauthn.get","challenge":"{c}","origin":null}"#),
    ("with an empty origin", r#"{"type":"webauthn.get","challenge":"{c}","origin":""}"#),
    ("with two origins", r#"{"type":"webauthn.get","challenge":"{c}","origin":"o","origin":"p"}"#),
    (
        "with two challenges",
        r#"{"type":"webauthn.get","challenge":"x","challenge":"{c}","origin":"o"}"#,
    ),
    ("with two types", r#"{"type":"webauthn.get","type":"x","challenge":"{c}","origin":"o"}"#),
    ("with escapes", r#"{"type":"webauthn.get","\u0063hallenge":"{e}","origin":"\ud83d\ude00"}"#),
    ("padded", r#"{"type":"webauthn.get","challenge":"{p}","origin":"o"}"#),
    ("in the other alphabet", r#"{"type":"webauthn.get","challenge":"{s}","origin":"o"}"#),
    ("of another text", r#"{"type":"webauthn.get","challenge":"{o}","origin":"o"}"#),
    ("with the text as it is", r#"{"challenge":{j},"origin":"o","type":"webauthn.get"}"#),
    ("with the digest", r#"{"type":"webauthn.get","challenge":"{d}","origin":"o"}"#),
    ("followed by more", r#"{"type":"webauthn.get","challenge":"{c}","origin":"o"} x"#),
    ("in an array", r#"["webauthn.get","{c}","o"]"#),
    ("in an array of two", r#"["o","{c}"]"#),
    ("in an array of four", r#"["webauthn.get","{c}","o",false]"#),
    ("empty", ""),
    ("null", "null"),
];

fn client_data(template: &str, text: &str) -> Vec<u8> {
    let challenge = URL_SAFE_NO_PAD.encode(text);
    let (first, rest) = challenge.split_at(1);
    let escaped = format!("\\u{:04x}{rest}", u32::from(first.as_bytes()[0]));
    template
        .replace("{c}", &challenge)
        .replace("{p}", &URL_SAFE.encode(text))
        .replace("{s}", &STANDARD.encode(text))
        .replace("{o}", &URL_SAFE_NO_PAD.encode(format!("{text} ")))
        .replace("{d}", &URL_SAFE_NO_PAD.encode(Sha256::digest(text)))
        .replace("{j}", &serde_json::json!(text).to_string())
        .replace("{e}", &escaped)
        .into_bytes()
}

pub(crate) fn passkeys(cases: &mut Cases) {
    let key = passkey(4);
    let (id, _) = &inbox_ids()[1];
    for (name, template) in CLIENT_DATA {
        let sign = with_client_data(&key, move |text| client_data(template, text));
        let adds = add_act(&installation(9).identifier(), sign, &installation(9));
        cases.case(format!("client data {name}"), "family 1", &signed(id, TIME_NS, &[adds]));
    }
    passkey_signatures(cases);
}

type PasskeyAlteration = fn(&mut pb::RecoverablePasskeySignature, &PasskeyOwner);

const PASSKEY_ALTERATIONS: [(&str, PasskeyAlteration); 13] = [
    ("as it is", |_, _| {}),
    ("high s", |it, _| it.signature = other_form(&it.signature)),
    ("one byte more", |it, _| it.signature = [&it.signature[..], &[0]].concat().into()),
    ("one byte less", |it, _| it.signature = it.signature.slice(..it.signature.len() - 1)),
    ("no signature", |it, _| it.signature = Bytes::new()),
    ("fixed size", |it, _| {
        let signature = p256::ecdsa::Signature::from_der(&it.signature).unwrap();
        it.signature = Bytes::copy_from_slice(&signature.to_bytes());
    }),
    ("long length", |it, _| {
        it.signature = [&[0x30, 0x81, it.signature[1]], &it.signature[2..]].concat().into();
    }),
    ("leading zero in r", |it, _| {
        let mut bytes = it.signature.to_vec();
        bytes[1] += 1;
        bytes[3] += 1;
        bytes.insert(4, 0);
        it.signature = bytes.into();
    }),
    ("uncompressed key", |it, owner| {
        it.public_key =
            Bytes::copy_from_slice(owner.0.verifying_key().to_sec1_point(false).as_bytes());
    }),
    ("compact key", |it, owner| {
        it.public_key = Bytes::copy_from_slice(&owner.key()[1..]);
    }),
    ("no key", |it, _| it.public_key = Bytes::new()),
    ("the key's other point", |it, owner| {
        let mut key = owner.key().to_vec();
        key[0] ^= 1;
        it.public_key = key.into();
    }),
    ("no authenticator data", |it, _| it.authenticator_data = Bytes::new()),
];

fn passkey_signatures(cases: &mut Cases) {
    let key = passkey(4);
    let (id, _) = &inbox_ids()[1];
    for (name, alter) in PASSKEY_ALTERATIONS {
        let sign = |owner: &PasskeyOwner| {
            let owner = owner.clone();
            by(move |text| {
                let mut signature = owner.signature(text);
                let Some(Signed::Passkey(inner)) = &mut signature.signature else { panic!() };
                alter(inner, &owner);
                signature
            })
        };
        let adds = add_act(&installation(9).identifier(), sign(&key), &installation(9));
        cases.case(format!("passkey adds, {name}"), "family 1", &signed(id, TIME_NS, &[adds]));
        let other = passkey(5);
        let joins = add_act(&other.identifier(), &wallet(1), sign(&other));
        cases.case(format!("passkey joins, {name}"), "family 1", &signed(id, TIME_NS, &[joins]));
        let long = Bytes::copy_from_slice(other.0.verifying_key().to_sec1_point(false).as_bytes());
        let long = MemberIdentifier::Passkey(Passkey { key: long, relying_party: None });
        let joins = add_act(&long, &wallet(1), sign(&other));
        cases.case(
            format!("long passkey joins, {name}"),
            "family 1",
            &signed(id, TIME_NS, &[joins]),
        );
        let again = add_act(&key.identifier(), &wallet(1), sign(&key));
        cases.case(
            format!("passkey joins again, {name}"),
            "family 1",
            &signed(id, TIME_NS, &[again]),
        );
        for nonce in [0, 7] {
            let inbox = key.identifier().inbox_id(nonce);
            let founds = create(&key.identifier(), nonce, sign(&key));
            cases.case(
                format!("passkey founds {nonce}, {name}"),
                "nothing",
                &signed(&inbox, TIME_NS, &[founds]),
            );
        }
    }
}

type InstallationAlteration = fn(&mut pb::RecoverableEd25519Signature);

const INSTALLATION_ALTERATIONS: [(&str, InstallationAlteration); 14] = [
    ("as it is", |_| {}),
    ("63 bytes", |it| it.bytes = it.bytes.slice(..63)),
    ("65 bytes", |it| it.bytes = [&it.bytes[..], &[0]].concat().into()),
    ("no bytes", |it| it.bytes = Bytes::new()),
    ("zeros", |it| it.bytes = vec![0; 64].into()),
    ("a larger s", |it| {
        // s plus the order of the group: equal to s in equations over the group.
        const ORDER: &str = "edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010";
        let order = hex::decode(ORDER).unwrap();
        let mut bytes = it.bytes.to_vec();
        let mut carry = 0u16;
        for (digit, order) in bytes[32..].iter_mut().zip(order) {
            let sum = u16::from(*digit) + u16::from(order) + carry;
            (*digit, carry) = (u8::try_from(sum % 256).unwrap(), sum / 256);
        }
        it.bytes = bytes.into();
    }),
    ("31 bytes of key", |it| it.public_key = it.public_key.slice(..31)),
    ("33 bytes of key", |it| it.public_key = [&it.public_key[..], &[0]].concat().into()),
    ("no key", |it| it.public_key = Bytes::new()),
    ("a key of zeros", |it| it.public_key = vec![0; 32].into()),
    ("the neutral key and signature", |it| {
        let mut one = [0; 32];
        one[0] = 1;
        it.public_key = Bytes::copy_from_slice(&one);
        it.bytes = [&one[..], &[0; 32]].concat().into();
    }),
    ("the neutral key, not reduced", |it| {
        // y = p + 1: another encoding of the same point.
        let mut key = [0xff; 32];
        (key[0], key[31]) = (0xee, 0x7f);
        let mut one = [0; 32];
        one[0] = 1;
        it.public_key = Bytes::copy_from_slice(&key);
        it.bytes = [&one[..], &[0; 32]].concat().into();
    }),
    ("the other sign", |it| {
        let mut key = it.public_key.to_vec();
        key[31] ^= 0x80;
        it.public_key = key.into();
    }),
    ("another r", |it| {
        let mut bytes = it.bytes.to_vec();
        bytes[0] ^= 1;
        it.bytes = bytes.into();
    }),
];

pub(crate) fn installations(cases: &mut Cases) {
    let (id, _) = &inbox_ids()[1];
    let phone = installation(9);
    for (name, alter) in INSTALLATION_ALTERATIONS {
        let sign = || {
            let phone = phone.clone();
            by(move |text| {
                let mut signature = phone.signature(text);
                let Some(Signed::InstallationKey(inner)) = &mut signature.signature else {
                    panic!()
                };
                alter(inner);
                signature
            })
        };
        // The new member is the signing key itself, also when it is malformed.
        let probe = sign()("-");
        let Some(Signed::InstallationKey(inner)) = probe.signature else { panic!() };
        let key = MemberIdentifier::Installation(inner.public_key);
        for (what, member) in [("as itself", key), ("as the phone", phone.identifier())] {
            let joins = add_act(&member, &wallet(1), sign());
            let case = format!("installation joins {what}, {name}");
            cases.case(case, "family 1", &signed(id, TIME_NS, &[joins]));
        }
    }
    for context in [&b""[..], b"IDENTITY UPDATE SIGNATURE ", b"identity update signature"] {
        let own = phone.clone();
        let sign = by(move |text| own.signature_in(text, context));
        let joins = add_act(&phone.identifier(), &wallet(1), sign);
        let case = format!("installation context {}", String::from_utf8_lossy(context));
        cases.case(case, "family 1", &signed(id, TIME_NS, &[joins]));
    }
}
