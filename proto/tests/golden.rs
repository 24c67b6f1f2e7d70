//! The generated types read and write the bytes that the rest of the network reads and writes.

use bytes::Bytes;
use hawser_proto::pb::FILE_DESCRIPTOR_SET;
use prost_reflect::prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};
use serde_json::Value;

use crate::wire;

#[derive(serde::Deserialize)]
struct Golden {
    name: String,
    r#type: String,
    hex: String,
    json: Value,
    canonical_hex: Option<String>,
    alt_hex: Option<String>,
}

impl Golden {
    /// Returns true if `encoded` is a correct encoding of the message. A map entry with defaults has two:
    /// with them, and without.
    fn accepts(&self, encoded: &[u8]) -> bool {
        let encoded = hex::encode(encoded);
        encoded == *self.canonical_hex.as_ref().unwrap_or(&self.hex)
            || self.alt_hex.as_ref().is_some_and(|alternative| encoded == *alternative)
    }

    /// Every encoding that is to be read as this message.
    fn encodings(&self) -> impl Iterator<Item = Bytes> {
        [Some(&self.hex), self.canonical_hex.as_ref(), self.alt_hex.as_ref()]
            .into_iter()
            .flatten()
            .map(|text| Bytes::from(hex::decode(text).expect("vectors are hex")))
    }

    fn descriptor(&self, pool: &DescriptorPool) -> MessageDescriptor {
        pool.get_message_by_name(&self.r#type).unwrap_or_else(|| panic!("{}", self.r#type))
    }
}

fn golden() -> Vec<Golden> {
    wire::vectors("golden.jsonl")
}

fn pool() -> DescriptorPool {
    DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("the build wrote a set")
}

#[test]
fn every_message_of_the_schema_has_a_vector_and_a_type() {
    // Our own services are no part of the protocol, and the shared vectors know nothing of them.
    let is_own = |package: &str| package.starts_with("hawser.");
    let schema: Vec<_> = pool()
        .all_messages()
        .filter(|message| !message.is_map_entry() && message.package_name() != "google.protobuf")
        .filter(|message| !is_own(message.package_name()))
        .map(|message| message.full_name().to_owned())
        .collect();
    let table = wire::table();
    let golden = golden();
    for name in schema {
        assert!(table.contains_key(&name), "{name} is not in the table");
        assert!(golden.iter().any(|vector| vector.r#type == name), "{name} has no vector");
    }
}

#[test]
fn types_write_the_golden_bytes() {
    let table = wire::table();
    for vector in golden() {
        for bytes in vector.encodings() {
            let encoded = table[&vector.r#type](bytes).expect(&vector.name);
            assert!(vector.accepts(&encoded), "{}: {}", vector.name, hex::encode(encoded));
        }
    }
}

#[test]
fn types_write_the_golden_json() {
    let (table, pool) = (wire::table(), pool());
    for vector in golden() {
        for bytes in vector.encodings() {
            let encoded = table[&vector.r#type](bytes.clone()).expect(&vector.name);
            for bytes in [bytes, encoded.into()] {
                let message =
                    DynamicMessage::decode(vector.descriptor(&pool), bytes).expect(&vector.name);
                let json = serde_json::to_value(message).expect(&vector.name);
                assert_eq!(json, vector.json, "{}", vector.name);
            }
        }
    }
}

#[test]
fn types_read_what_the_golden_json_encodes_to() {
    let (table, pool) = (wire::table(), pool());
    for vector in golden() {
        let message = DynamicMessage::deserialize(vector.descriptor(&pool), vector.json.clone())
            .expect(&vector.name);
        // Reflection writes maps in no order. The generated type reads that, and puts it right.
        let bytes = message.encode_to_vec();
        let encoded = table[&vector.r#type](bytes.into()).expect(&vector.name);
        assert!(vector.accepts(&encoded), "{}: {}", vector.name, hex::encode(encoded));
    }
}

#[cfg(feature = "json")]
#[test]
fn to_json_renders_the_golden_json() {
    use hawser_proto::pb::{JsonError, to_json};
    for vector in golden() {
        for bytes in vector.encodings() {
            let json = to_json(&vector.r#type, &bytes).expect(&vector.name);
            assert_eq!(json, vector.json, "{}", vector.name);
        }
    }
    let unknown = to_json("xmtp.xmtpv4.envelopes.Nothing", &[]);
    assert!(matches!(unknown, Err(JsonError::UnknownMessage(_))));
    let cut = to_json("xmtp.xmtpv4.envelopes.Cursor", &[10]);
    assert!(matches!(cut, Err(JsonError::Decode(_))));
}
