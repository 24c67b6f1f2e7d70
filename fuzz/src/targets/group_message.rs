//! Fuzz target: MLS group messages.

use hawser_proto::mls::{is_application_elsewhere, parse_group_message};

use super::Target;
use crate::corpus;

pub(super) const TARGET: Target = Target { name: "group-message", run, seeds, memory_factor: 1 };

/// One message has one length: what parses does not parse with a byte more or less. A reader that stops at the content
/// type says the same of it.
fn run(input: &[u8]) {
    let is_application = is_application_elsewhere(input);
    let Ok(frame) = parse_group_message(input) else { return };
    assert_eq!(is_application, !frame.is_chain_bound(), "readers differ in its content type");
    let shorter = &input[..input.len() - 1];
    assert!(parse_group_message(shorter).is_err(), "parses without its last byte");
    let longer = [input, &[0]].concat();
    assert!(parse_group_message(&longer).is_err(), "parses with a byte more");
}

/// The captured messages are all private, so public ones are added: a member's removal of leaf 3,
/// and a commit with that and a pre-shared key, without a path.
fn seeds() -> Vec<Vec<u8>> {
    const REMOVAL: &str =
        "000100010567726f757000000000000000020100000007036161640200030000000303736967036d6163";
    const COMMIT: &str = "000100010567726f7570000000000000000201000000070361616403120100030000000301000401\
                          0370736b026e6f00037369670363666d036d6163";
    let mut seeds = corpus::group_messages();
    seeds.extend([REMOVAL, COMMIT].map(|text| hex::decode(text).expect("hex")));
    seeds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_parses() {
        for seed in seeds() {
            let parsed = parse_group_message(&seed);
            assert!(parsed.is_ok(), "{}: {parsed:?}", hex::encode(&seed));
        }
    }
}
