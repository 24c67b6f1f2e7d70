//! Statements that break a rule of this program, and none that the reference implementation checks.
//!
//! Any payer can have an honest node of that software sign such a statement. So it proves nothing against its signer.

use hawser_proto::Signature;
use hawser_proto::envelope::{PayerEnvelope, Payload, UnsignedOriginatorEnvelope};
use hawser_proto::mls;
use hawser_proto::pb::xmtp::mls::api::v1::GroupMessageInput;
use hawser_proto::pb::xmtp::mls::api::v1::group_message_input::Version;

use crate::envelope::{
    check_dependencies_on_chains, check_payload, check_topic, key_package_signatures,
};
use crate::retention::{check_expiry, check_retention_in};
use crate::violation::Violation;

/// The number by which the recovery id of a payer's signature may be too high: builds of the reference implementation
/// without a C library ignore the bit.
const IGNORED_BIT: u8 = 4;

/// Returns true if an honest node of the reference implementation may have signed a statement that breaks a rule here.
///
/// That software reads a group message no further than its content type
/// ([`is_application_elsewhere`](mls::is_application_elsewhere)), and some of its builds take a recovery id of 4 to 7
/// in a payer's signature like one of 0 to 3. The statement must break no other rule that depends on its bytes alone,
/// except by a late expiry, and be of a topic that is not reserved.
///
/// Costs one signature recovery, and two checks of signatures for a key package.
#[must_use]
pub fn is_taken_elsewhere(statement: &UnsignedOriginatorEnvelope) -> bool {
    check_elsewhere(statement).is_ok() && has_payer_elsewhere(statement.payer())
}

fn check_elsewhere(statement: &UnsignedOriginatorEnvelope) -> Result<(), Violation> {
    let (originator, envelope) = (statement.id().originator, statement.payer());
    if envelope.target() != originator {
        return Err(Violation::Target);
    }
    let (client, days) = (envelope.client(), envelope.retention_days());
    check_topic(client)?;
    check_dependencies_on_chains(client)?;
    check_retention_in(originator, days)?;
    match check_expiry(statement.originator_ns(), days, statement.expiry_unix_s()) {
        Ok(()) | Err(Violation::LateExpiry(_)) => {}
        Err(violation) => return Err(violation),
    }
    match client.payload() {
        Payload::GroupMessage(message) if is_message_elsewhere(message) => Ok(()),
        _ => check_payload(client, key_package_signatures),
    }
}

fn is_message_elsewhere(message: &GroupMessageInput) -> bool {
    match &message.version {
        Some(Version::V1(v1)) => mls::is_application_elsewhere(&v1.data),
        None => false,
    }
}

fn has_payer_elsewhere(envelope: &PayerEnvelope) -> bool {
    let bytes = envelope.signature_bytes().and_then(|bytes| <[u8; 65]>::try_from(&bytes[..]).ok());
    bytes.is_some_and(|mut bytes| {
        if (IGNORED_BIT..2 * IGNORED_BIT).contains(&bytes[64]) {
            bytes[64] -= IGNORED_BIT;
        }
        Signature::from_bytes(&bytes).is_ok_and(|it| it.recover(envelope.digest()).is_ok())
    })
}
