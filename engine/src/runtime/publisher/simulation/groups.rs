//! Groups of requests that are sequenced and written together.

use crossbeam_channel::{bounded, unbounded};
use hawser_proto::envelope::PayerEnvelope;
use hawser_proto::{Bytes, SecretKey};

use super::{ADMITTED, CLIENT, NODE, Sim};
use crate::sequencer::Admitted;

/// Bytes of an envelope, nearly as many as a small request may have.
const LEN_BYTES: usize = 900 << 10;

/// An envelope with a long field that nodes do not know.
pub(super) fn long() -> Admitted {
    let mut client = hex::decode(CLIENT).unwrap();
    client.extend([0xa2, 0x06]); // field 100, of bytes
    prost::encode_length_delimiter(LEN_BYTES, &mut client).unwrap();
    client.resize(client.len() + LEN_BYTES, 7);
    let payer = SecretKey::from_bytes(&[9; 32]).unwrap();
    let message = PayerEnvelope::sign(Bytes::from(client), NODE, 30, &payer);
    let envelope = PayerEnvelope::from_message(message).unwrap();
    Admitted { envelope, ..ADMITTED[0].clone() }
}

/// A group of as many envelopes as of short ones would be a write of gigabytes, behind which all publishers wait.
#[test]
fn a_group_of_long_envelopes_ends_by_its_bytes() {
    let mut sim = Sim::new(0);
    let (sender, requests) = unbounded();
    let long = long();
    for envelope in 0..20 {
        sim.process.request(1, vec![envelope]);
        let mut request = sim.process.requests.pop().unwrap();
        request.envelopes = vec![long.clone()];
        sender.send(request).unwrap();
    }
    let (_written, writes) = bounded(1);
    let mut next = || sim.process.sequencer.next_group(&requests, &writes).unwrap().len();
    assert_eq!([next(), next()], [10, 10], "8 MiB, and the rest of the last envelope");
}
