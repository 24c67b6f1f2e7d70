//! Cases of key packages: those of real clients with changed bytes or at other times, and constructed ones.

use hawser_proto::pb::xmtp::identity::MlsCredential;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::client_envelope::Payload;
use openmls::prelude::tls_codec::Serialize as _;
use openmls::prelude::*;
use openmls_basic_credential::SignatureKeyPair;
use openmls_rust_crypto::OpenMlsRustCrypto;
use prost::Message as _;

use crate::common;

/// A key package, and the time at which it is judged, unix seconds.
pub(crate) struct PackageCase {
    pub(crate) name: String,
    pub(crate) package: Vec<u8>,
    pub(crate) now_unix_s: u64,
}

/// 2026-11-20T06:18:26Z: within the lifetimes of the captured packages.
const NOW: u64 = 1_795_155_506;
/// Number of packages with randomly changed bytes.
const CHANGED: usize = 700;
/// The cipher suite of XMTP.
const SUITE: Ciphersuite = Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519;

pub(crate) fn all() -> Vec<PackageCase> {
    let mut cases = Vec::new();
    let captured: Vec<Vec<u8>> = common::captured("key_package")
        .into_iter()
        .map(|captured| match captured.envelope.payload {
            Some(Payload::UploadKeyPackage(upload)) => {
                upload.key_package.unwrap().key_package_tls_serialized.to_vec()
            }
            _ => panic!("no key package"),
        })
        .collect();
    let mut push = |name: String, package: Vec<u8>, now_unix_s| {
        cases.push(PackageCase { name, package, now_unix_s });
    };
    for (place, package) in captured.iter().enumerate() {
        push(format!("captured {place}"), package.clone(), NOW);
    }
    let (from, to) = (1_795_151_846, 1_802_413_046);
    for now in [from - 1, from, from + 1, to - 1, to, to + 1, 0, 1 << 33] {
        push(format!("at {now}"), captured[0].clone(), now);
    }
    let mut random = common::Random(9_000);
    for number in 0..CHANGED {
        let mut bytes = captured[random.below(captured.len())].clone();
        let at = random.below(bytes.len());
        match random.below(5) {
            0 => bytes.truncate(at),
            1 => bytes[at] = random.number(255),
            2 => bytes[at] ^= 1 << random.below(8),
            3 => bytes.insert(at, random.number(255)),
            _ => drop(bytes.remove(at)),
        }
        push(format!("changed {number}"), bytes, NOW);
    }
    push("one byte more".into(), [&captured[0][..], &[0]].concat(), NOW);
    made(&mut push);
    cases
}

/// Adds correctly signed packages with unusual contents.
fn made(push: &mut impl FnMut(String, Vec<u8>, u64)) {
    let inbox = "ab".repeat(32);
    let named = |inbox: &str| MlsCredential { inbox_id: inbox.to_owned() }.encode_to_vec();
    let credentials = [
        ("usual", named(&inbox)),
        ("in upper case", named(&inbox.to_uppercase())),
        ("with 0x", named(&format!("0x{inbox}"))),
        ("of 63 digits", named(&inbox[1..])),
        ("of 65 digits", named(&format!("{inbox}0"))),
        ("of letters", named(&"xy".repeat(32))),
        ("empty", named("")),
        ("of no bytes", Vec::new()),
        ("with an unknown field", [named(&inbox), vec![0x10, 1]].concat()),
        ("with two names", [named("x"), named(&inbox)].concat()),
        ("with bytes that are no text", [&[0x0a, 1][..], &[0xff]].concat()),
        ("that is the name alone", inbox.clone().into_bytes()),
        ("that is cut off", named(&inbox)[..40].to_vec()),
    ];
    for (name, credential) in credentials {
        push(format!("credential {name}"), package(SUITE, credential, None, true), NOW);
    }
    let lifetimes = [
        (NOW, NOW + 1),
        (NOW + 1, NOW + 2),
        (NOW - 1, NOW),
        (NOW - 2, NOW - 1),
        (NOW + 10, NOW - 10),
        (NOW, NOW),
        (0, u64::MAX),
        (0, 0),
        (u64::MAX, u64::MAX),
        (NOW - 3600, NOW + 3600 * 24 * 365 * 10),
    ];
    for (from, to) in lifetimes {
        let lifetime = Lifetime::init(from, to);
        push(
            format!("lifetime {from} {to}"),
            package(SUITE, named(&inbox), Some(lifetime), true),
            NOW,
        );
    }
    for suite in [
        Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519,
        Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519,
    ] {
        for is_last_resort in [false, true] {
            let name = format!("suite {} {is_last_resort}", u16::from(suite));
            push(name, package(suite, named(&inbox), None, is_last_resort), NOW);
        }
    }
}

fn package(
    suite: Ciphersuite,
    credential: Vec<u8>,
    lifetime: Option<Lifetime>,
    is_last_resort: bool,
) -> Vec<u8> {
    let mls = OpenMlsRustCrypto::default();
    let keys = SignatureKeyPair::new(suite.signature_algorithm()).unwrap();
    let credential = CredentialWithKey {
        credential: BasicCredential::new(credential).into(),
        signature_key: keys.to_public_vec().into(),
    };
    let extensions = [ExtensionType::LastResort];
    let capable = Capabilities::new(None, Some(&[suite]), Some(&extensions), None, None);
    let lifetime = lifetime.unwrap_or_else(|| Lifetime::init(NOW - 3600, NOW + 3600 * 24 * 30));
    let mut builder =
        KeyPackage::builder().leaf_node_capabilities(capable).key_package_lifetime(lifetime);
    if is_last_resort {
        builder = builder.mark_as_last_resort();
    }
    let made = builder.build(suite, &mls, &keys, credential).unwrap();
    made.key_package().tls_serialize_detached().unwrap()
}
