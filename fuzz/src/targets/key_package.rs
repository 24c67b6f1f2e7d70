//! Fuzz target: MLS key packages.

use hawser_mls::key_package;
use hawser_proto::mls::{Credential, parse_key_package};

use super::Target;
use crate::corpus;

pub(super) const TARGET: Target =
    Target { name: "key-package", run, seeds: corpus::key_packages, memory_factor: 64 };

/// A time at which the captured key packages are valid, unix seconds.
const THEN: u64 = 1_795_155_446;

/// One key package has one length, its lists can be walked to their ends, and only what is well-framed and breaks no
/// rule of followers is ever valid.
fn run(input: &[u8]) {
    let judged = key_package(input, THEN);
    let Ok(package) = parse_key_package(input) else {
        assert!(judged.is_err(), "is valid and does not parse");
        return;
    };
    if let Ok(valid) = judged {
        assert_eq!(valid.installation_key, package.signature_key);
        assert_eq!(package.check_signatures(), Ok(()), "is admitted and counts as wrongly signed");
    }
    let extensions = package.extensions.iter().chain(package.leaf_extensions.iter());
    let mut listed: usize = extensions.map(|extension| extension.data.len()).sum();
    if let Credential::X509 { certificates } = package.credential {
        listed += certificates.iter().map(<[u8]>::len).sum::<usize>();
    }
    assert!(listed < input.len(), "lists hold more than the input");
    assert!(parse_key_package(&input[..input.len() - 1]).is_err(), "parses without its last byte");
    assert!(parse_key_package(&[input, &[0]].concat()).is_err(), "parses with a byte more");
}
