//! Public messages of groups: OpenMLS, which clients decode with, decodes what the parser accepts.

use hawser_proto::mls::parse_group_message;
use openmls::prelude::MlsMessageIn;
use openmls::prelude::tls_codec::DeserializeBytes as _;
use proptest::prelude::*;

/// Types of extensions: those that libraries know, two that mean nothing, and unknown ones.
const TYPES: [u16; 14] = [0, 1, 2, 3, 4, 5, 6, 7, 10, 0x0a0a, 0x1a1a, 0xf000, 0xff00, 0xff03];

type Extension = (u16, Vec<u8>);

/// A variable-size vector (RFC 9420 §2.1.2), shorter than 16 KiB.
fn vector(content: &[u8]) -> Vec<u8> {
    let len = u16::try_from(content.len()).unwrap();
    let head = len | 0x4000;
    let head = if len < 64 { vec![len.to_be_bytes()[1]] } else { head.to_be_bytes().to_vec() };
    [&head, content].concat()
}

fn extensions(list: &[Extension]) -> Vec<u8> {
    let entries = list.iter().map(|(kind, content)| {
        let (kind, content) = (kind.to_be_bytes(), vector(content));
        [&kind[..], &content[..]].concat()
    });
    vector(&entries.collect::<Vec<_>>().concat())
}

fn leaf_node(source: u8, after_source: &[u8], list: &[Extension]) -> Vec<u8> {
    let credential = [vec![0, 1], vector(b"inbox")].concat();
    [
        vector(&[1; 32]),
        vector(&[2; 32]),
        credential,
        vec![0; 5], // five empty lists of capabilities
        vec![source],
        after_source.to_vec(),
        extensions(list),
        vector(&[3; 64]),
    ]
    .concat()
}

fn key_package(suite: u16, of_leaf: &[Extension], own: &[Extension]) -> Vec<u8> {
    let leaf = leaf_node(1, &[0; 16], of_leaf);
    let (suite, own) = (suite.to_be_bytes().to_vec(), extensions(own));
    [vec![0, 1], suite, vector(&[4; 32]), leaf, own, vector(&[5; 64])].concat()
}

/// Every proposal with a list of extensions, with this one, and two with the cipher suite.
fn proposals(suite: u16, list: &[Extension]) -> Vec<Vec<u8>> {
    let re_init = [vec![0, 5], vector(b"group"), vec![0, 1], suite.to_be_bytes().to_vec()];
    vec![
        [vec![0, 1], key_package(suite, &[], list)].concat(),
        [vec![0, 1], key_package(suite, list, &[])].concat(),
        [vec![0, 2], leaf_node(2, &[], list)].concat(),
        [re_init.concat(), extensions(list)].concat(),
        [vec![0, 7], extensions(list)].concat(),
    ]
}

/// A proposal of a member.
fn message(proposal: &[u8]) -> Vec<u8> {
    let epoch = 2_u64.to_be_bytes();
    let (member, tags) = ([1, 0, 0, 0, 7], [vector(b"signature"), vector(b"membership")].concat());
    let head = [&[0, 1, 0, 1], &vector(b"group")[..], &epoch, &member, &vector(b"aad")].concat();
    [&head[..], &[2], proposal, &tags[..]].concat()
}

fn is_accepted(data: &[u8]) -> bool {
    parse_group_message(data).is_ok()
}

fn is_decoded(data: &[u8]) -> bool {
    MlsMessageIn::tls_deserialize_exact_bytes(data).is_ok()
}

fn content() -> impl Strategy<Value = Vec<u8>> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..12);
    let vectors = prop::collection::vec(bytes().prop_map(|content| vector(&content)), 0..4);
    prop_oneof![bytes(), vectors.prop_map(|vectors| vectors.concat())]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Played by any account that has the chain order a message: a client that cannot decode it reads nothing more of
    /// its group.
    #[test]
    fn clients_decode_what_the_parser_accepts(
        suite in 0_u16..10,
        list in prop::collection::vec((prop::sample::select(TYPES.to_vec()), content()), 0..3),
        usage in 0_u8..6,
        (kind, body) in (6_u8..14, content()),
    ) {
        let psk = [vec![0, 4, 2, usage], vector(b"group"), vec![0; 8], vector(&[9; 32])].concat();
        let other = [vec![0, kind], body].concat();
        for proposal in proposals(suite, &list).into_iter().chain([psk, other]) {
            let data = message(&proposal);
            prop_assert!(!is_accepted(&data) || is_decoded(&data), "{}", hex::encode(&data));
        }
    }
}

/// The test above would hold for a parser that refuses everything.
#[test]
fn the_parser_accepts_what_members_send() {
    let of_leaf = (1, vector(b"inbox"));
    let of_package = (10, vec![]);
    let of_group = (3, vec![0; 3]);
    let unknown = (0xff00, b"anything".to_vec());
    let added = key_package(3, &[of_leaf.clone(), unknown.clone()], &[of_package, unknown.clone()]);
    for proposal in [
        [vec![0, 1], added].concat(),
        [vec![0, 2], leaf_node(2, &[], &[of_leaf])].concat(),
        vec![0, 3, 0, 0, 0, 1],
        [vec![0, 7], extensions(&[of_group, unknown])].concat(),
    ] {
        let data = message(&proposal);
        assert!(is_accepted(&data) && is_decoded(&data), "{}", hex::encode(&data));
    }
}
