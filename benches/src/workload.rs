//! Envelopes to publish, signed before anything is measured.

use std::thread;

use blake3::Hasher;
use bytes::{BufMut, Bytes};
use hawser_proto::envelope::{PayerEnvelope, Payload};
use hawser_proto::pb::xmtp::mls::api::v1 as mls;
use hawser_proto::pb::xmtp::xmtpv4::{envelopes as pb, message_api as api, payer_api};
use hawser_proto::{OriginatorId, PayerAddress, SecretKey, Topic, TopicKind};
use prost::Message as _;

use crate::error::BenchError;
use crate::process;

/// In days: what gateways ask for by default.
pub(crate) const RETENTION_DAYS: u32 = 60;
const GROUP_ID_LEN: usize = 16;
/// Length of an MLS private message without the ciphertext and its length prefix, bytes.
const FRAME_LEN: usize = 2 + 2 + 1 + GROUP_ID_LEN + 8 + 1 + 1 + 1;
/// Length of the envelope's number, which begins the ciphertext, bytes.
const INDEX_LEN: usize = 8;

/// Envelopes to publish. Every envelope is different, also from those of another run.
#[derive(Clone)]
pub(crate) struct Workload {
    target: OriginatorId,
    topics: u64,
    ciphertext_len: usize,
    payers: Vec<SecretKey>,
    seed: [u8; 32],
}

impl Workload {
    /// Group messages of exactly `payload_len` bytes of MLS message, on `topics` topics, for
    /// `target`. Runs with different `seed` have no envelope in common.
    ///
    /// # Errors
    /// Returns an error if no message has that length.
    pub(crate) fn new(
        target: OriginatorId,
        payers: u32,
        topics: u64,
        payload_len: usize,
        seed: [u8; 32],
    ) -> Result<Self, BenchError> {
        let ciphertext_len = ciphertext_len(payload_len)
            .ok_or_else(|| format!("no MLS message of {payload_len} bytes carries a number"))?;
        let payers = (0..payers.max(1))
            .map(|payer| {
                let key = blake3::derive_key("hawser-bench payer", &payer.to_be_bytes());
                SecretKey::from_bytes(&key)
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { target, topics: topics.max(1), ciphertext_len, payers, seed })
    }

    /// The encoded publish requests `first..first + count`, each of `per_request` envelopes of one
    /// payer. Signs on all cores.
    pub(crate) fn requests(&self, first: u64, count: u64, per_request: u64) -> Vec<Bytes> {
        let threads = process::cores() as u64;
        let share = count.div_ceil(threads).max(1);
        thread::scope(|scope| {
            let shares: Vec<_> = (0..threads)
                .map(|thread| {
                    let from = first + (thread * share).min(count);
                    let to = first + ((thread + 1) * share).min(count);
                    scope.spawn(move || {
                        (from..to).map(|at| self.request(at, per_request)).collect::<Vec<_>>()
                    })
                })
                .collect();
            shares
                .into_iter()
                .flat_map(|share| share.join().expect("signing does not panic"))
                .collect()
        })
    }

    /// One encoded publish request: the envelopes `at * per_request` and following.
    pub(crate) fn request(&self, at: u64, per_request: u64) -> Bytes {
        let payers = self.payers.len() as u64;
        let payer = usize::try_from(at % payers).expect("less than the number of payers");
        let payer_envelopes = (at * per_request..(at + 1) * per_request)
            .map(|index| {
                let client = self.client_envelope(index).encode_to_vec();
                PayerEnvelope::sign(client.into(), self.target, RETENTION_DAYS, &self.payers[payer])
            })
            .collect();
        api::PublishPayerEnvelopesRequest { payer_envelopes }.encode_to_vec().into()
    }

    /// Encoded requests to a gateway, each of one client envelope: `first..first + count`.
    pub(crate) fn client_requests(&self, first: u64, count: u64) -> Vec<Bytes> {
        let request = |index| {
            let envelopes = vec![self.client_envelope(index)];
            payer_api::PublishClientEnvelopesRequest { envelopes }.encode_to_vec().into()
        };
        (first..first + count).map(request).collect()
    }

    fn client_envelope(&self, index: u64) -> pb::ClientEnvelope {
        let mut random = Hasher::new_keyed(&self.seed).update(&index.to_be_bytes()).finalize_xof();
        let mut topic = [0; 8];
        random.fill(&mut topic);
        let topic = u64::from_be_bytes(topic) % self.topics;
        let mut ciphertext = vec![0; self.ciphertext_len];
        random.fill(&mut ciphertext);
        ciphertext[..INDEX_LEN].copy_from_slice(&index.to_be_bytes());
        group_message(topic, &ciphertext)
    }

    /// A signed envelope on the `number`-th topic; always the same one. All of its kind have one payer.
    pub(crate) fn on_topic(&self, number: u64) -> Result<PayerEnvelope, BenchError> {
        let mut ciphertext = vec![0; self.ciphertext_len];
        ciphertext[..INDEX_LEN].copy_from_slice(&number.to_be_bytes());
        let client = group_message(number, &ciphertext).encode_to_vec();
        let signed = PayerEnvelope::sign(client.into(), self.target, RETENTION_DAYS, self.payer());
        Ok(PayerEnvelope::from_message(signed)?)
    }

    /// Returns the accounts that pay for requests, in turn.
    pub(crate) fn payers(&self) -> impl Iterator<Item = PayerAddress> {
        self.payers.iter().map(|key| key.public_key().address())
    }

    /// The account that pays for what [`on_topic`](Self::on_topic) makes.
    pub(crate) fn payer(&self) -> &SecretKey {
        &self.payers[0]
    }
}

/// A group message on the `number`-th topic.
fn group_message(topic: u64, ciphertext: &[u8]) -> pb::ClientEnvelope {
    let data = private_message(&group_id(topic), ciphertext);
    let v1 = mls::group_message_input::V1 { data: data.into(), ..Default::default() };
    let message =
        mls::GroupMessageInput { version: Some(mls::group_message_input::Version::V1(v1)) };
    pb::ClientEnvelope {
        aad: Some(pb::AuthenticatedData { target_topic: self::topic(topic), depends_on: None }),
        payload: Some(Payload::GroupMessage(message)),
    }
}

/// The `number`-th topic, as it travels.
pub(crate) fn topic(number: u64) -> Bytes {
    let topic =
        Topic::new(TopicKind::GroupMessages, &group_id(number)).expect("a group id is not empty");
    topic.as_bytes().clone()
}

/// The number that [`Workload`] gave an envelope; `None` for what it did not make.
pub(crate) fn index(payload: &Payload) -> Option<u64> {
    let Payload::GroupMessage(message) = payload else { return None };
    let mls::group_message_input::Version::V1(v1) = message.version.as_ref()?;
    let len = vector_len(v1.data.len().checked_sub(FRAME_LEN)?)?;
    let ciphertext = v1.data.get(v1.data.len() - len..)?;
    Some(u64::from_be_bytes(ciphertext.get(..INDEX_LEN)?.try_into().ok()?))
}

fn group_id(number: u64) -> [u8; GROUP_ID_LEN] {
    let digest = blake3::derive_key("hawser-bench group", &number.to_be_bytes());
    digest[..GROUP_ID_LEN].try_into().expect("a digest is longer than a group id")
}

/// Application data as RFC 9420 §6.3 frames it; the members' secrets are not needed to make one
/// that a node accepts.
fn private_message(group_id: &[u8; GROUP_ID_LEN], ciphertext: &[u8]) -> Vec<u8> {
    let mut data = Vec::with_capacity(FRAME_LEN + 4 + ciphertext.len());
    data.put_u16(1); // MLS 1.0
    data.put_u16(2); // a private message
    put_vector(&mut data, group_id);
    data.put_u64(1); // epoch
    data.put_u8(1); // application data
    put_vector(&mut data, &[]); // authenticated data
    put_vector(&mut data, &[]); // encrypted sender data
    put_vector(&mut data, ciphertext);
    data
}

/// A vector with its length in front, in the shortest of the forms of RFC 9420 §2.1.2.
fn put_vector(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = u32::try_from(bytes.len()).expect("no payload has 4 GiB");
    match len {
        0..=0x3f => out.put_uint(len.into(), 1),
        0x40..=0x3fff => out.put_uint((0x4000 | len).into(), 2),
        _ => out.put_uint((0x8000_0000 | len).into(), 4),
    }
    out.extend_from_slice(bytes);
}

/// The vector that fills `total` bytes together with its length.
fn vector_len(total: usize) -> Option<usize> {
    [(1, 0..=0x3f), (2, 0x40..=0x3fff), (4, 0x4000..=0x3fff_ffff)]
        .into_iter()
        .find_map(|(header, range)| total.checked_sub(header).filter(|len| range.contains(len)))
}

fn ciphertext_len(payload_len: usize) -> Option<usize> {
    vector_len(payload_len.checked_sub(FRAME_LEN)?).filter(|len| *len >= INDEX_LEN)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use hawser_proto::mls;
    use hawser_proto::sign::payer_digest;

    use super::*;

    const TARGET: OriginatorId = OriginatorId(100);

    fn envelopes(workload: &Workload, requests: u64, per_request: u64) -> Vec<PayerEnvelope> {
        workload
            .requests(0, requests, per_request)
            .into_iter()
            .flat_map(|body| {
                api::PublishPayerEnvelopesRequest::decode(body).unwrap().payer_envelopes
            })
            .map(|message| PayerEnvelope::from_message(message).unwrap())
            .collect()
    }

    #[test]
    fn every_envelope_is_different_and_what_a_node_accepts() {
        let workload = Workload::new(TARGET, 4, 10, 512, [1; 32]).unwrap();
        let envelopes = envelopes(&workload, 6, 5);
        assert_eq!(envelopes.len(), 30);
        let distinct: HashSet<_> = envelopes.iter().map(|one| one.as_bytes().clone()).collect();
        assert_eq!(distinct.len(), 30);
        let topics: HashSet<_> = (0..10).map(topic).collect();
        for (at, envelope) in envelopes.iter().enumerate() {
            let client = envelope.client();
            assert_eq!(index(client.payload()), Some(at as u64));
            assert!(topics.contains(client.topic().as_bytes()));
            assert_eq!(client.topic().kind(), client.payload_kind());
            let Payload::GroupMessage(message) = client.payload() else { panic!() };
            let Some(super::mls::group_message_input::Version::V1(v1)) = &message.version else {
                panic!()
            };
            assert_eq!(v1.data.len(), 512);
            let frame = mls::parse_group_message(&v1.data).unwrap();
            assert!(!frame.is_chain_bound());
            assert_eq!(frame.group_id, client.topic().identifier());
        }
    }

    #[test]
    fn one_request_has_one_payer_and_the_next_another() {
        let workload = Workload::new(TARGET, 4, 10, 512, [1; 32]).unwrap();
        let payers: Vec<_> = envelopes(&workload, 4, 3)
            .iter()
            .map(|envelope| {
                let bytes = envelope.signature_bytes().unwrap();
                let signature = hawser_proto::Signature::from_bytes(bytes).unwrap();
                let digest = payer_digest(TARGET, envelope.client().as_bytes());
                signature.recover(digest).unwrap().address()
            })
            .collect();
        for request in payers.chunks(3) {
            assert!(request.iter().all(|payer| payer == &request[0]));
        }
        assert_eq!(payers.iter().collect::<HashSet<_>>().len(), 4);
    }

    #[test]
    fn runs_have_nothing_in_common() {
        let run = |seed| {
            let workload = Workload::new(TARGET, 1, 10, 512, [seed; 32]).unwrap();
            envelopes(&workload, 1, 1)[0].as_bytes().clone()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn lengths_that_no_message_has_are_refused() {
        for len in 0..20_000 {
            match Workload::new(TARGET, 1, 1, len, [0; 32]) {
                Ok(workload) => {
                    let ciphertext = vec![0; workload.ciphertext_len];
                    assert_eq!(private_message(&[0; 16], &ciphertext).len(), len);
                }
                Err(_) => {
                    assert!(len < 41 || len == 97 || (16_418..16_421).contains(&len), "{len}")
                }
            }
        }
    }
}
