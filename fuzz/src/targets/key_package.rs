//! MLS key packages.

use hawser_proto::mls::{Credential, parse_key_package};

use super::Target;
use crate::corpus;

pub(super) const TARGET: Target =
    Target { name: "key-package", run, seeds: corpus::key_packages, memory_factor: 1 };

/// One key package has one length, and its lists can be walked to their ends.
fn run(input: &[u8]) {
    let Ok(package) = parse_key_package(input) else { return };
    let extensions = package.extensions.iter().chain(package.leaf_extensions.iter());
    let mut listed: usize = extensions.map(|extension| extension.data.len()).sum();
    if let Credential::X509 { certificates } = package.credential {
        listed += certificates.iter().map(<[u8]>::len).sum::<usize>();
    }
    assert!(listed < input.len(), "lists hold more than the input");
    assert!(parse_key_package(&input[..input.len() - 1]).is_err(), "parses without its last byte");
    assert!(parse_key_package(&[input, &[0]].concat()).is_err(), "parses with a byte more");
}
