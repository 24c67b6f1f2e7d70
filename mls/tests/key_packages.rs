//! Key packages: those of real clients, constructed ones, and both with one byte changed.

use hawser_mls::{KeyPackageError, group_message, key_package};
use hawser_proto::pb::xmtp::xmtpv4::envelopes::client_envelope::Payload;
use proptest::prelude::*;

use crate::common;

/// 2026-11-20T06:17:26Z, when the captured packages were made, in unix seconds.
const CAPTURED_S: u64 = 1_795_155_446;

fn packages() -> Vec<(Vec<u8>, serde_json::Value)> {
    let captured = common::captured("key_package");
    let packages: Vec<_> = captured
        .into_iter()
        .map(|captured| {
            let Some(Payload::UploadKeyPackage(upload)) = captured.envelope.payload else {
                panic!("no key package")
            };
            let bytes = upload.key_package.unwrap().key_package_tls_serialized.to_vec();
            (bytes, captured.line["key_package"].clone())
        })
        .collect();
    assert!(!packages.is_empty());
    packages
}

#[test]
fn key_packages_of_real_clients_are_valid_and_have_the_recorded_fields() {
    for (bytes, expected) in packages() {
        // Clients let the lifetime begin an hour before they make the package.
        let made = expected["not_before"].as_u64().unwrap() + 3600;
        let package = key_package(&bytes, made).unwrap();
        assert_eq!(package.inbox_id, expected["inbox_id"].as_str().unwrap());
        assert_eq!(hex::encode(&package.installation_key), expected["installation_key"]);
        assert_eq!(u64::from(package.cipher_suite), expected["ciphersuite"]);
        assert_eq!(package.not_before_unix_s, expected["not_before"]);
        assert_eq!(package.not_after_unix_s, expected["not_after"]);
        assert_eq!(package.last_resort, expected["last_resort"]);
    }
}

#[test]
fn the_given_time_and_no_other_decides_whether_a_key_package_may_be_used() {
    for (bytes, expected) in packages() {
        let (from, to) =
            (expected["not_before"].as_u64().unwrap(), expected["not_after"].as_u64().unwrap());
        let at = |now| key_package(&bytes, now);
        assert!(at(from).is_ok() && at(to - 1).is_ok());
        assert!(matches!(at(from - 1), Err(KeyPackageError::NotYet { .. })));
        assert!(matches!(at(to), Err(KeyPackageError::Expired { .. })));
        assert!(matches!(at(u64::MAX), Err(KeyPackageError::Expired { .. })));
        assert!(matches!(at(0), Err(KeyPackageError::NotYet { .. })));
    }
}

#[test]
fn a_key_package_that_is_cut_or_has_a_byte_more_is_refused() {
    let (bytes, _) = packages().remove(0);
    for end in 0..bytes.len() {
        assert!(key_package(&bytes[..end], CAPTURED_S).is_err(), "cut to {end}");
    }
    assert!(key_package(&[&bytes[..], &[0]].concat(), CAPTURED_S).is_err());
}

#[test]
fn key_packages_that_are_too_long_are_refused_unread() {
    let refused = key_package(&vec![0; 1 << 20], CAPTURED_S);
    assert_eq!(refused, Err(KeyPackageError::TooLong(1 << 20)));
}

/// OpenMLS checks the lifetime last, and its result for the lifetime is ignored. If it came earlier, an outdated
/// package would pass with the later checks not made.
#[test]
fn a_wrong_signature_is_found_whatever_the_lifetime_is() {
    let (mut bytes, expected) = packages().remove(0);
    let not_after = expected["not_after"].as_u64().unwrap().to_be_bytes();
    let at = bytes.windows(8).position(|window| window == not_after).unwrap();
    for end in [CAPTURED_S + 1, u64::MAX] {
        bytes[at..at + 8].copy_from_slice(&end.to_be_bytes());
        assert!(matches!(key_package(&bytes, CAPTURED_S), Err(KeyPackageError::Verify(_))));
    }
}

#[test]
fn messages_of_real_clients_are_commits_exactly_if_the_chain_orders_them() {
    for (kind, is_commit) in
        [("group_commit", true), ("group_proposal", true), ("group_application", false)]
    {
        let captured = common::captured(kind);
        assert!(!captured.is_empty());
        for captured in captured {
            let Some(Payload::GroupMessage(message)) = captured.envelope.payload else {
                panic!("no group message")
            };
            let Some(hawser_proto::pb::xmtp::mls::api::v1::group_message_input::Version::V1(v1)) =
                message.version
            else {
                panic!("no version")
            };
            let read = group_message(&v1.data).unwrap();
            assert_eq!(hex::encode(&read.group_id), captured.line["mls"]["group_id"]);
            assert_eq!(read.is_commit, is_commit);
            assert!(group_message(&v1.data[..v1.data.len() - 1]).is_err());
            assert!(group_message(&[&v1.data[..], &[0]].concat()).is_err());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_changed_byte_goes_unnoticed(which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), mask in 1..=255u8) {
        let packages = packages();
        let (mut bytes, _) = which.get(&packages).clone();
        let at = at.index(bytes.len());
        bytes[at] ^= mask;
        prop_assert!(key_package(&bytes, CAPTURED_S).is_err(), "byte {at} with {mask}");
    }

    #[test]
    fn random_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(key_package(&bytes, CAPTURED_S).is_err());
        let _ = group_message(&bytes);
    }
}
