//! MLS vectors: recorded traffic of real clients parses to its last byte, and hand-built messages
//! cover the parts that their traffic hides.

use hawser_proto::mls::{
    ContentType, Credential, KeyPackageSignatureError, MlsParseError, MlsSender, WireFormat,
    is_application_elsewhere, parse_group_message, parse_key_package,
};
use hawser_proto::pb::xmtp::identity::MlsCredential;
use hawser_proto::pb::xmtp::mls::api::v1::group_message_input::Version;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::{ClientEnvelope, client_envelope::Payload};
use proptest::prelude::*;
use prost::Message as _;
use serde_json::Value;

const APPLICATION_ID: u16 = 0x0001;
const LAST_RESORT: u16 = 0x000a;
const WRAPPER_KEY: u16 = 0xff03;

/// The captured envelopes with this field, as the field and the MLS bytes inside.
fn captured(field: &str) -> Vec<(Value, Vec<u8>)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/client/envelopes.jsonl");
    let text = std::fs::read_to_string(path).expect("the vectors are in the repository");
    let frames: Vec<_> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("a vector a line"))
        .filter(|vector| vector.get(field).is_some())
        .map(|vector| {
            let bytes = hex::decode(vector["hex"].as_str().expect("hex")).expect("hex");
            (vector[field].clone(), mls_bytes(&bytes))
        })
        .collect();
    assert!(!frames.is_empty(), "no vector has {field}");
    frames
}

fn mls_bytes(client_envelope: &[u8]) -> Vec<u8> {
    let envelope = ClientEnvelope::decode(client_envelope).expect("a client envelope");
    match envelope.payload.expect("a payload") {
        Payload::GroupMessage(message) => match message.version.expect("a version") {
            Version::V1(v1) => v1.data.into(),
        },
        Payload::UploadKeyPackage(upload) => {
            upload.key_package.expect("a key package").key_package_tls_serialized.into()
        }
        other => panic!("no MLS in {other:?}"),
    }
}

fn group_message(data: &[u8]) -> Result<(), MlsParseError> {
    parse_group_message(data).map(drop)
}

fn bare_key_package(data: &[u8]) -> Result<(), MlsParseError> {
    parse_key_package(data).map(drop)
}

/// Only `data` itself parses: nothing shorter, nothing longer.
fn assert_exact(data: &[u8], parse: fn(&[u8]) -> Result<(), MlsParseError>) {
    parse(data).expect("parses as it is");
    for len in 0..data.len() {
        assert_eq!(parse(&data[..len]).err(), Some(MlsParseError::Truncated), "cut to {len}");
    }
    for extra in [&[0][..], &[0xff], data] {
        let error = MlsParseError::Trailing { extra: extra.len() };
        assert_eq!(parse(&[data, extra].concat()).err(), Some(error));
    }
}

#[test]
fn captured_group_messages_parse_as_recorded() {
    for (recorded, data) in captured("mls") {
        let frame = parse_group_message(&data).expect("a group message");
        let wire_format = match frame.wire_format {
            WireFormat::PublicMessage => "public_message",
            WireFormat::PrivateMessage => "private_message",
        };
        let content_type = match frame.content_type {
            ContentType::Application => "application",
            ContentType::Proposal => "proposal",
            ContentType::Commit => "commit",
        };
        assert_eq!(recorded["version"], 1);
        assert_eq!(recorded["wire_format"], wire_format);
        assert_eq!(recorded["group_id"], hex::encode(frame.group_id));
        assert_eq!(recorded["epoch"], frame.epoch.to_string());
        assert_eq!(recorded["content_type"], content_type);
        assert_eq!(frame.is_chain_bound(), content_type != "application");
        // Who has sent a private message is encrypted.
        let is_private = frame.wire_format == WireFormat::PrivateMessage;
        assert_eq!(frame.sender.is_none(), is_private);
    }
}

#[test]
fn captured_key_packages_parse_as_recorded() {
    for (recorded, data) in captured("key_package") {
        let package = parse_key_package(&data).expect("a key package");
        assert_eq!(recorded["ciphersuite"], package.cipher_suite);
        assert_eq!(recorded["installation_key"], hex::encode(package.signature_key));
        assert_eq!(recorded["not_before"], package.lifetime.not_before);
        assert_eq!(recorded["not_after"], package.lifetime.not_after);
        assert_eq!(recorded["last_resort"], package.extensions.get(LAST_RESORT).is_some());
        assert_eq!((package.init_key.len(), package.encryption_key.len()), (32, 32));
        assert!(package.extensions.get(WRAPPER_KEY).is_some_and(|key| key.len() > 1216));

        let Credential::Basic { identity } = package.credential else { panic!("not basic") };
        assert_eq!(recorded["credential_hex"], hex::encode(identity));
        let inbox_id = MlsCredential::decode(identity).expect("a credential").inbox_id;
        assert_eq!(recorded["inbox_id"], inbox_id);
        let application_id = package.leaf_extensions.get(APPLICATION_ID);
        assert_eq!(application_id, Some(&opaque(inbox_id.as_bytes())[..]));
        assert_eq!(package.leaf_extensions.iter().count(), 1);
    }
}

#[test]
fn captured_bytes_parse_only_as_they_are() {
    for (_, data) in captured("mls") {
        assert_exact(&data, group_message);
    }
    for (_, data) in captured("key_package") {
        assert_exact(&data, bare_key_package);
    }
}

#[test]
fn the_smallest_frames_are_group_messages() {
    for (content_type, chain_bound) in [(1, false), (2, true), (3, true)] {
        let data = private_message(content_type, &[0, 0, 0]);
        assert_eq!(data.len(), 33);
        let frame = parse_group_message(&data).expect("a group message");
        assert_eq!((frame.group_id, frame.epoch), (&[0xaa; 16][..], 1));
        assert_eq!(frame.is_chain_bound(), chain_bound);
    }
}

#[test]
fn content_beyond_the_three_kinds_is_refused() {
    for content_type in [0, 4, 255] {
        let error = MlsParseError::ContentType(content_type);
        assert_eq!(parse_group_message(&private_message(content_type, &[0; 3])), Err(error));
        let public = public_message(&[3], content_type, &[0; 4]);
        assert_eq!(parse_group_message(&public), Err(error));
    }
}

#[test]
fn welcomes_group_infos_and_key_packages_are_no_group_messages() {
    for wire_format in [0, 3, 4, 5, 6, 0xf000] {
        let mut data = private_message(1, &[0; 3]);
        data[2..4].copy_from_slice(&u16::to_be_bytes(wire_format));
        assert_eq!(parse_group_message(&data), Err(MlsParseError::WireFormat(wire_format)));
    }
    for version in [0, 2, 0x0100] {
        let mut data = private_message(1, &[0; 3]);
        data[..2].copy_from_slice(&u16::to_be_bytes(version));
        assert_eq!(parse_group_message(&data), Err(MlsParseError::Version(version)));
    }
}

#[test]
fn vectors_that_claim_more_than_there_is_are_refused() {
    let claims: [(&[u8], _); 4] = [
        (&[0xff; 8], MlsParseError::LengthPrefix), // 2^62 − 1 bytes
        (&[0xc0, 0, 0, 0, 0, 0, 0, 0], MlsParseError::LengthPrefix), // none, in eight bytes
        (&[0xbf, 0xff, 0xff, 0xff], MlsParseError::Truncated), // 1 GiB
        (&[0x40, 0], MlsParseError::LengthNotMinimal),
    ];
    for (claim, error) in claims {
        assert_eq!(
            parse_group_message(&private_message(1, &[&[0, 0], claim].concat())),
            Err(error)
        );
        let group_id = [&[0, 1, 0, 2], claim, &[0; 40]].concat();
        let found = parse_group_message(&group_id).expect_err("a lying length");
        assert_eq!(found, error);
    }
}

#[test]
fn public_messages_end_where_their_kind_says() {
    let member = [1, 0, 0, 0, 7];
    for (sender, parsed) in [
        (&member[..], MlsSender::Member(7)),
        (&[2, 0, 0, 0, 9], MlsSender::External(9)),
        (&[3], MlsSender::NewMemberProposal),
        (&[4], MlsSender::NewMemberCommit),
    ] {
        let tag = if sender == member { opaque(b"membership") } else { vec![] };
        let signature = opaque(b"signature");
        let confirmation = opaque(b"confirmation");
        let commit_body = commit(&[], None);
        for (content_type, rest) in [
            (1, [opaque(b"text"), signature.clone(), tag.clone()].concat()),
            (2, [remove(3), signature.clone(), tag.clone()].concat()),
            (3, [commit_body, signature, confirmation, tag].concat()),
        ] {
            let data = public_message(sender, content_type, &rest);
            let frame = parse_group_message(&data).expect("a public message");
            assert_eq!(frame.wire_format, WireFormat::PublicMessage);
            assert_eq!(frame.sender, Some(parsed));
            assert_eq!(frame.authenticated_data, b"aad");
            assert_eq!(frame.is_chain_bound(), content_type != 1);
            assert_exact(&data, group_message);
        }
    }
    let error = MlsParseError::Selector { field: "sender_type", value: 5 };
    assert_eq!(parse_group_message(&public_message(&[5], 1, &[0; 2])), Err(error));
}

/// A reader that stops at the content type takes more messages, and says of each one that parses what it is.
#[test]
fn a_reader_that_stops_at_the_content_type_takes_what_does_not_parse() {
    for (_, data) in captured("mls") {
        let frame = parse_group_message(&data).expect("a group message");
        assert_eq!(is_application_elsewhere(&data), !frame.is_chain_bound());
    }
    let lengths = [&[0x01][..], &[0x40, 1], &[0x80, 0, 0, 1], &[0xc0, 0, 0, 0, 0, 0, 0, 1]];
    let with_length = |length: &[u8]| [&[0, 1, 0, 2][..], length, &[0xaa], &[0; 8], &[1]].concat();
    let mut taken: Vec<_> = lengths.map(with_length).into();
    taken.extend([0, 1, 4, 255].map(|content_type| private_message(content_type, &[])));
    taken.push(public_message(&[4], 1, &[]));
    for data in &taken {
        let cut = &data[..data.len() - 1];
        assert!(!is_application_elsewhere(cut), "{cut:?} has no content type");
    }
    taken.push(private_message(1, &[0; 4]));
    for data in taken {
        assert!(parse_group_message(&data).is_err(), "{data:?}");
        assert!(is_application_elsewhere(&data), "{data:?}");
    }
    let mut refused: Vec<_> =
        [&[0xff; 8][..], &[0xbf, 0xff, 0xff, 0xff], &[0x7f, 0xff]].map(with_length).into();
    refused.extend([2, 3].map(|content_type| private_message(content_type, &[])));
    refused.extend([0, 2, 3, 4].map(|content_type| public_message(&[4], content_type, &[])));
    refused.push(public_message(&[5], 1, &[]));
    let [mut other_version, mut welcome] = [1, 1].map(|content| private_message(content, &[0; 3]));
    other_version[1] = 2;
    welcome[3] = 3;
    refused.extend([other_version, welcome, Vec::new()]);
    for data in refused {
        assert!(!is_application_elsewhere(&data), "{data:?}");
    }
}

#[test]
fn every_kind_of_proposal_is_read_to_its_end() {
    for (name, proposal) in proposals() {
        let data = public_message(&[3], 2, &[proposal, opaque(b"signature")].concat());
        let frame = parse_group_message(&data).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(frame.content_type, ContentType::Proposal);
        assert_exact(&data, group_message);
    }
}

#[test]
fn a_commit_carries_proposals_references_and_a_path() {
    let mut all: Vec<Vec<u8>> =
        proposals().into_iter().map(|(_, proposal)| [vec![1], proposal].concat()).collect();
    all.push([vec![2], opaque(&[0xcc; 32])].concat());
    let node = [opaque(&[5; 32]), vector(&[opaque(b"kem"), opaque(b"sealed")].concat())].concat();
    let path = [leaf_node(3, &opaque(&[6; 32])), vector(&[node.clone(), node].concat())].concat();
    let tail = [opaque(b"signature"), opaque(b"confirmation"), opaque(b"membership")].concat();
    let data = public_message(&[1, 0, 0, 0, 0], 3, &[commit(&all, Some(&path)), tail].concat());
    assert!(parse_group_message(&data).expect("a commit").is_chain_bound());
    assert_exact(&data, group_message);
}

#[test]
fn unknown_selectors_are_refused() {
    let proposal = |body: &[u8]| public_message(&[3], 2, &[body, &[0; 40]].concat());
    let refused = |body: &[u8], field, value| {
        let error = MlsParseError::Selector { field, value };
        assert_eq!(parse_group_message(&proposal(body)), Err(error));
    };
    refused(&[0, 0], "proposal_type", 0);
    refused(&[0, 4, 3], "psktype", 3);
    refused(&[0, 4, 2, 0], "usage", 0);
    refused(&[0, 4, 2, 4], "usage", 4);
    // Some clients read an update of a component here, and others one vector.
    refused(&[0, 8, 0x80, 1, 2], "proposal_type", 8);
    refused(&[0, 9, 0x80, 1, 0], "proposal_type", 9);
    let commit = |body: &[u8], field, value| {
        let error = MlsParseError::Selector { field, value };
        assert_eq!(parse_group_message(&public_message(&[4], 3, body)), Err(error));
    };
    commit(&vector(&[0]), "ProposalOrRefType", 0);
    commit(&[0, 2], "optional", 2);
}

/// Played by any account that has the chain order such a proposal: a client that cannot decode it reads nothing more of
/// the group.
#[test]
fn extensions_that_clients_do_not_decode_are_refused() {
    let fault_in = |parts: &[&[u8]]| {
        let data = public_message(&[3], 2, &[&parts.concat()[..], &opaque(b"signature")].concat());
        match parse_group_message(&data) {
            Err(MlsParseError::Extension { extension_type, fault }) => {
                Some((extension_type, fault))
            }
            other => other.map(|_| None).expect("no other error"),
        }
    };
    let in_group = |list: &[(u16, Vec<u8>)]| fault_in(&[&[0, 7], &extensions(list)]);
    for whole in group_extensions() {
        assert_eq!(in_group(std::slice::from_ref(&whole)), None);
        let kind = whole.0;
        assert_eq!(in_group(&[whole.clone(), whole.clone()]), Some((kind, "is there twice")));
        if kind != 0xff00 {
            let longer = [&whole.1[..], &[0]].concat();
            for content in [vec![], whole.1[..whole.1.len() - 1].to_vec(), longer] {
                assert_eq!(in_group(&[(kind, content)]), Some((kind, "does not decode")));
            }
        }
    }
    for kind in [1, 2, 4, 10, 0x0a0a, 0xeaea] {
        let fault = Some((kind, "does not belong there"));
        assert_eq!(in_group(&[(kind, opaque(b"id"))]), fault);
    }
    let descending = vector(&[&[0, 2, 0][..], &[0, 1, 0]].concat());
    assert_eq!(in_group(&[(6, descending)]), Some((6, "does not decode")));
    assert_eq!(in_group(&[(0xff00, vec![0; 0x3fff])]), Some((0xff00, "does not decode")));
    assert_eq!(in_group(&[(0xff00, vec![0; 0x3ffe])]), None);
    let many = |count: u16| {
        (0xff00..0xff00 + count).map(|kind| (kind, Vec::new())).collect::<Vec<(u16, Vec<u8>)>>()
    };
    assert_eq!(in_group(&many(32)), None);
    assert_eq!(in_group(&many(33)), Some((0xff20, "is one too many")));

    let leaf = leaf_node(2, &[]);
    let own = leaf_extensions();
    let last_resort = extensions(&[(LAST_RESORT, vec![])]);
    let start = leaf.windows(own.len()).position(|it| it == own).expect("it is there");
    let odd_leaf = [&leaf[..start], &last_resort, &leaf[start + own.len()..]].concat();
    assert_eq!(fault_in(&[&[0, 2], &leaf]), None);
    assert_eq!(fault_in(&[&[0, 2], &odd_leaf]), Some((LAST_RESORT, "does not belong there")));
}

/// The same by cipher suites: those of key packages, and of groups that are to be made again.
#[test]
fn cipher_suites_that_clients_do_not_know_are_refused() {
    let added = key_package(&leaf_node(1, &[0; 16]));
    let again = |suite: u16| [&[0, 5, 0, 0, 1], &suite.to_be_bytes()[..], &[0]].concat();
    let add = |suite: u16| [&[0, 1, 0, 1], &suite.to_be_bytes()[..], &added[4..]].concat();
    for (suite, is_known) in [(0, false), (1, true), (7, true), (8, false), (u16::MAX, false)] {
        for proposal in [add(suite), again(suite)] {
            let data = public_message(&[3], 2, &[proposal, opaque(b"signature")].concat());
            let error = MlsParseError::Selector { field: "cipher_suite", value: suite };
            let expected = if is_known { Ok(()) } else { Err(error) };
            assert_eq!(parse_group_message(&data).map(drop), expected, "{suite}");
        }
    }
    let [high, low] = u16::MAX.to_be_bytes();
    let unknown = [&added[..2], &[high, low], &added[4..]].concat();
    assert_exact(&unknown, bare_key_package); // nodes let OpenMLS judge those that are uploaded
}

#[test]
fn a_leaf_stands_only_where_it_was_made_for() {
    let error = |expected, found| Err(MlsParseError::LeafNodeSource { expected, found });
    for (source, rest) in [(2, vec![]), (3, opaque(b"hash"))] {
        let package = key_package(&leaf_node(source, &rest));
        assert_eq!(parse_key_package(&package).map(drop), error(1, source));
    }
    let update = [vec![0, 2], leaf_node(1, &[0; 16]), opaque(b"signature")].concat();
    assert_eq!(parse_group_message(&public_message(&[3], 2, &update)).map(drop), error(2, 1));
    let path = [leaf_node(2, &[]), vector(&[])].concat();
    let data = public_message(&[4], 3, &[commit(&[], Some(&path)), vec![0, 0]].concat());
    assert_eq!(parse_group_message(&data).map(drop), error(3, 2));
}

#[test]
fn a_key_package_is_bare_and_of_mls_1_0() {
    let package = key_package(&leaf_node(1, &[0; 16]));
    assert_exact(&package, bare_key_package);
    let mut other = package.clone();
    other[1] = 2;
    assert_eq!(parse_key_package(&other), Err(MlsParseError::Version(2)));
    let wrapped = [&[0, 1, 0, 5], &package[..]].concat();
    assert!(parse_key_package(&wrapped).is_err());
}

#[test]
fn x509_credentials_list_their_certificates() {
    let chain = vector(&[opaque(b"leaf"), opaque(b"root")].concat());
    let package = key_package(&leaf_node_of(&[vec![0, 2], chain].concat(), 1, &[0; 16]));
    let credential = parse_key_package(&package).expect("a key package").credential;
    let Credential::X509 { certificates } = credential else { panic!("not x509") };
    assert!(certificates.iter().eq([&b"leaf"[..], b"root"]));
    assert_exact(&package, bare_key_package);

    let unknown = key_package(&leaf_node_of(&[0x0a, 0x0a, 0], 1, &[0; 16]));
    let error = MlsParseError::Selector { field: "credential_type", value: 0x0a0a };
    assert_eq!(parse_key_package(&unknown), Err(error));
}

#[test]
fn captured_key_packages_are_signed_and_no_byte_of_a_signature_may_differ() {
    for (_, data) in captured("key_package") {
        let package = parse_key_package(&data).expect("a key package");
        assert_eq!(package.check_signatures(), Ok(()));
        for (part, error) in [
            (package.signed_leaf, KeyPackageSignatureError::LeafNode),
            (package.signed, KeyPackageSignatureError::KeyPackage),
        ] {
            let start = data.windows(64).position(|it| it == part.signature).expect("it is there");
            for at in start..start + 64 {
                let mut changed = data.clone();
                changed[at] ^= 1;
                let package = parse_key_package(&changed).expect("a key package");
                assert_eq!(package.check_signatures(), Err(error), "byte {at}");
            }
        }
    }
}

/// An honest node may have admitted what one library accepts, so only what all of them refuse is held against it.
#[test]
fn signatures_count_as_wrong_only_where_libraries_agree() {
    let is_wrong = |package: &[u8]| {
        parse_key_package(package).expect("a key package").check_signatures().is_err()
    };
    let leaf = leaf_node(1, &[0; 16]);
    let package = key_package(&leaf);
    assert!(is_wrong(&package));
    for suite in [0, 2, 7, 0x4d, 0xf042] {
        let mut other = package.clone();
        other[2..4].copy_from_slice(&u16::to_be_bytes(suite));
        assert!(!is_wrong(&other), "suite {suite}");
    }
    let inbox = opaque(b"inbox");
    for (extension_type, data, is_judged) in [
        (1, inbox.clone(), true),
        (1, b"inbox".to_vec(), false),
        (1, [inbox.clone(), vec![0]].concat(), false),
        (6, inbox.clone(), false),
        (10, vec![], true),
        (10, vec![0], false),
        (0xf000, inbox.clone(), false),
        (0xff03, vec![1, 2], true),
    ] {
        let list = vector(&[&u16::to_be_bytes(extension_type)[..], &opaque(&data)].concat());
        let other =
            [&[0, 1, 0, 3], &opaque(&[4; 32])[..], &leaf, &list, &opaque(&[5; 64])].concat();
        assert_eq!(is_wrong(&other), is_judged, "{extension_type:#x} with {data:?}");
    }
    // A key and signatures of order 1, which OpenMLS refuses.
    let point = [&[1][..], &[0; 31]].concat();
    let signature = [&point[..], &[0; 32]].concat();
    let (key_at, leaf_end, end) = (4 + 33 + 34, 4 + 33 + leaf.len(), package.len());
    let mut small = package.clone();
    small[key_at..key_at + 32].copy_from_slice(&point);
    small[leaf_end - 64..leaf_end].copy_from_slice(&signature);
    assert!(is_wrong(&small));
    small[end - 64..].copy_from_slice(&signature);
    assert!(!is_wrong(&small));
}

proptest! {
    #[test]
    fn random_bytes_never_panic(data in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse_key_package(&data);
        for head in [&[0, 1, 0, 1][..], &[0, 1, 0, 2]] {
            let _ = parse_group_message(&[head, &data].concat());
        }
    }

    #[test]
    fn bent_captures_never_panic(
        at in any::<prop::sample::Index>(),
        which in any::<prop::sample::Index>(),
        value in any::<u8>(),
    ) {
        let mut captures = captured("key_package");
        captures.extend(captured("mls"));
        let (_, data) = &mut captures[which.index(43)];
        let at = at.index(data.len().min(400)); // behind that is ciphertext
        data[at] = value;
        let _ = parse_key_package(data);
        let _ = parse_group_message(data);
    }
}

// The writers below follow RFC 9420 and know nothing of the parser.

/// A variable-size vector.
fn vector(content: &[u8]) -> Vec<u8> {
    let len = u32::try_from(content.len()).expect("short");
    let head = match len {
        0..64 => vec![u8::try_from(len).expect("below 64")],
        64..16_384 => (0x4000 | len).to_be_bytes()[2..].to_vec(),
        _ => (0x8000_0000 | len).to_be_bytes().to_vec(),
    };
    [&head, content].concat()
}

fn opaque(content: &[u8]) -> Vec<u8> {
    vector(content)
}

fn private_message(content_type: u8, rest: &[u8]) -> Vec<u8> {
    let epoch = 1u64.to_be_bytes();
    [&[0, 1, 0, 2], &opaque(&[0xaa; 16])[..], &epoch, &[content_type], rest].concat()
}

fn public_message(sender: &[u8], content_type: u8, rest: &[u8]) -> Vec<u8> {
    let epoch = 2u64.to_be_bytes();
    let aad = opaque(b"aad");
    [&[0, 1, 0, 1], &opaque(b"group")[..], &epoch, sender, &aad, &[content_type], rest].concat()
}

/// `items` are proposals or references, each with its kind before it.
fn commit(items: &[Vec<u8>], path: Option<&[u8]>) -> Vec<u8> {
    let path = path.map_or(vec![0], |path| [&[1], path].concat());
    [vector(&items.concat()), path].concat()
}

fn leaf_node(source: u8, after_source: &[u8]) -> Vec<u8> {
    leaf_node_of(&[vec![0, 1], opaque(b"inbox")].concat(), source, after_source)
}

fn leaf_node_of(credential: &[u8], source: u8, after_source: &[u8]) -> Vec<u8> {
    let list = |values: &[u16]| {
        vector(&values.iter().flat_map(|value| value.to_be_bytes()).collect::<Vec<_>>())
    };
    let grease = 0x0a0a;
    let capabilities =
        [list(&[1]), list(&[3, grease]), list(&[0xff03, grease]), list(&[7, grease]), list(&[1])];
    [
        &opaque(&[1; 32]),
        &opaque(&[2; 32]),
        credential,
        &capabilities.concat(),
        &[source],
        after_source,
        &leaf_extensions(),
        &opaque(&[3; 64]),
    ]
    .concat()
}

/// A list of extensions, each with its type and its content.
fn extensions(list: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let entries =
        list.iter().map(|(kind, content)| [&kind.to_be_bytes()[..], &opaque(content)].concat());
    vector(&entries.collect::<Vec<_>>().concat())
}

fn leaf_extensions() -> Vec<u8> {
    extensions(&[(APPLICATION_ID, opaque(b"inbox")), (0x1a1a, b"anything".to_vec())])
}

fn key_package_extensions() -> Vec<u8> {
    extensions(&[(LAST_RESORT, vec![]), (0x1a1a, b"anything".to_vec())])
}

/// Those of a group: required capabilities, an external sender, a dictionary of components, XMTP's metadata and an
/// unknown one.
fn group_extensions() -> Vec<(u16, Vec<u8>)> {
    let capabilities = [opaque(&[0xff, 0]), opaque(&[0, 8]), opaque(&[0, 1])].concat();
    let sender = [opaque(&[7; 32]), vec![0, 1], opaque(b"sender")].concat();
    let component = |id: u16| [&id.to_be_bytes()[..], &opaque(b"data")].concat();
    vec![
        (3, capabilities),
        (5, vector(&sender)),
        (6, vector(&[component(0x8000), component(0x8001)].concat())),
        (0xf000, opaque(b"metadata")),
        (0xff00, b"anything".to_vec()),
    ]
}

fn key_package(leaf_node: &[u8]) -> Vec<u8> {
    let (head, extensions) = ([0, 1, 0, 3], key_package_extensions());
    [&head, &opaque(&[4; 32])[..], leaf_node, &extensions, &opaque(&[5; 64])].concat()
}

fn remove(leaf: u32) -> Vec<u8> {
    [vec![0, 3], leaf.to_be_bytes().to_vec()].concat()
}

fn proposals() -> Vec<(&'static str, Vec<u8>)> {
    let nonce = opaque(&[9; 32]);
    let epoch = 4u64.to_be_bytes().to_vec();
    let context = extensions(&group_extensions());
    vec![
        ("add", [vec![0, 1], key_package(&leaf_node(1, &[0; 16]))].concat()),
        ("update", [vec![0, 2], leaf_node(2, &[])].concat()),
        ("remove", remove(u32::MAX)),
        ("external psk", [vec![0, 4, 1], opaque(b"psk"), nonce.clone()].concat()),
        ("resumption psk", [vec![0, 4, 2, 3], opaque(b"group"), epoch, nonce].concat()),
        ("re-init", [vec![0, 5], opaque(b"group"), vec![0, 1, 0, 3], context.clone()].concat()),
        ("external init", [vec![0, 6], opaque(&[8; 32])].concat()),
        ("group context extensions", [vec![0, 7], context].concat()),
        ("self-remove", vec![0, 10]),
        ("grease", [vec![0x0a, 0x0a], opaque(b"grease")].concat()),
        ("private", [vec![0xf0, 0], opaque(&[1; 100])].concat()),
    ]
}
