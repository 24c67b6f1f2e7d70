//! One envelope as a line of text or as JSON.

use hawser_proto::envelope::{LayerError, OriginatorEnvelope, Payload, Proof};
use hawser_proto::pb::{self, JsonError};
use hawser_proto::{Address, Bytes, EnvelopeId, Signature};
use serde_json::{Value, json};

use crate::output;

/// An envelope with everything that can be derived from it alone.
#[derive(Debug)]
pub(crate) struct Rendered {
    envelope: OriginatorEnvelope,
    /// Address recovered from the payer's signature; `None` for envelopes of a chain.
    payer: Option<Address>,
}

impl Rendered {
    /// Parses the bytes of an originator envelope.
    ///
    /// # Errors
    /// When a layer is malformed.
    pub(crate) fn new(bytes: Bytes) -> Result<Self, LayerError> {
        let envelope = OriginatorEnvelope::parse(bytes)?;
        let payer = envelope.unsigned().payer();
        let signature = payer.signature_bytes().and_then(|bytes| Signature::from_bytes(bytes).ok());
        let key = signature.and_then(|signature| signature.recover(payer.digest()).ok());
        Ok(Self { envelope, payer: key.map(|key| key.address()) })
    }

    /// Returns the envelope id.
    #[must_use]
    pub(crate) fn id(&self) -> EnvelopeId {
        self.envelope.id()
    }

    /// Returns one line: time, id, topic, payload kind, size, payer and fee, dependencies.
    #[must_use]
    pub(crate) fn text(&self) -> String {
        let unsigned = self.envelope.unsigned();
        let client = unsigned.payer().client();
        let mut parts = vec![
            output::time(unsigned.originator_ns()),
            self.id().to_string(),
            client.topic().to_string(),
            payload_name(client.payload()).to_owned(),
            format!("{} B", self.envelope.as_bytes().len()),
        ];
        if let Proof::Transaction(hash) = self.envelope.proof() {
            parts.push(format!("tx 0x{}", hex::encode(hash)));
        } else {
            let payer = self.payer.map_or("unknown".to_owned(), |payer| payer.to_string());
            let (base, congestion) = (unsigned.base_fee().0, unsigned.congestion_fee().0);
            parts.push(format!("payer {payer}"));
            parts.push(format!("fee {base}+{congestion} p$"));
        }
        if !client.depends_on().is_empty() {
            parts.push(format!("depends on {}", self.depends_on().join(",")));
        }
        parts.join("  ")
    }

    /// Returns one object: the same facts, the exact bytes as hex, and all layers decoded.
    ///
    /// # Errors
    /// When the schema lacks the message, which cannot happen.
    pub(crate) fn json(&self) -> Result<Value, JsonError> {
        let unsigned = self.envelope.unsigned();
        let client = unsigned.payer().client();
        let transaction = match self.envelope.proof() {
            Proof::Transaction(hash) => Some(format!("0x{}", hex::encode(hash))),
            Proof::Signature(_) => None,
        };
        Ok(json!({
            "id": self.id().to_string(),
            "originator_id": self.id().originator.0,
            "sequence_id": self.id().sequence.0,
            "time": output::time(unsigned.originator_ns()),
            "originator_ns": unsigned.originator_ns(),
            "topic": hex::encode(client.topic().as_bytes()),
            "topic_kind": client.topic().kind().name(),
            "topic_identifier": hex::encode(client.topic().identifier()),
            "payload": payload_name(client.payload()),
            "size_bytes": self.envelope.as_bytes().len(),
            "payer": self.payer.map(|payer| payer.to_string()),
            "base_fee_picodollars": unsigned.base_fee().0.to_string(),
            "congestion_fee_picodollars": unsigned.congestion_fee().0.to_string(),
            "expiry_unix_s": unsigned.expiry_unix_s(),
            "retention_days": unsigned.payer().retention_days(),
            "depends_on": self.depends_on(),
            "transaction_hash": transaction,
            "hex": hex::encode(self.envelope.as_bytes()),
            "envelope": self.layers()?,
        }))
    }

    /// The protobuf JSON of the outermost layer, in which each inner layer is decoded too, and not bytes.
    fn layers(&self) -> Result<Value, JsonError> {
        let unsigned = self.envelope.unsigned();
        let payer = unsigned.payer();
        let client = layer("ClientEnvelope", payer.client().as_bytes())?;
        let mut payer = layer("PayerEnvelope", payer.as_bytes())?;
        payer["unsignedClientEnvelope"] = client;
        let mut statement = layer("UnsignedOriginatorEnvelope", unsigned.as_bytes())?;
        statement["payerEnvelopeBytes"] = payer;
        let mut outer = layer("OriginatorEnvelope", self.envelope.as_bytes())?;
        outer["unsignedOriginatorEnvelope"] = statement;
        Ok(outer)
    }

    fn depends_on(&self) -> Vec<String> {
        let client = self.envelope.unsigned().payer().client();
        client.depends_on().iter().map(ToString::to_string).collect()
    }
}

fn layer(name: &str, bytes: &[u8]) -> Result<Value, JsonError> {
    pb::to_json(&format!("xmtp.xmtpv4.envelopes.{name}"), bytes)
}

/// Returns the schema's name of a payload.
fn payload_name(payload: &Payload) -> &'static str {
    match payload {
        Payload::GroupMessage(_) => "group_message",
        Payload::WelcomeMessage(_) => "welcome_message",
        Payload::UploadKeyPackage(_) => "upload_key_package",
        Payload::IdentityUpdate(_) => "identity_update",
        Payload::PayerReport(_) => "payer_report",
        Payload::PayerReportAttestation(_) => "payer_report_attestation",
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::envelope::PayerEnvelope;
    use hawser_proto::pb::xmtp::xmtpv4::envelopes::UnsignedOriginatorEnvelope;
    use hawser_proto::sign::originator_digest;
    use hawser_proto::{OriginatorId, SecretKey};
    use prost::Message as _;

    use super::*;
    use hawser_node::files::key;
    use hawser_node::files::lines::{self, StrandKind};

    fn sealed(node: &SecretKey, payer: &SecretKey) -> Bytes {
        let text = std::fs::read_to_string(crate::VECTORS).unwrap();
        let lines = lines::parse(&text).unwrap();
        let dependent = |line: &&lines::EnvelopeLine| {
            line.route == StrandKind::Node && {
                let client =
                    hawser_proto::envelope::ClientEnvelope::parse(line.client_bytes.clone());
                !client.unwrap().depends_on().is_empty()
            }
        };
        let line = lines.iter().find(dependent).unwrap();
        let payer = PayerEnvelope::sign(line.client_bytes.clone(), OriginatorId(100), 60, payer);
        let statement: Bytes = UnsignedOriginatorEnvelope {
            originator_node_id: 100,
            originator_sequence_id: 7,
            originator_ns: 1_750_000_001_000_000_000,
            payer_envelope_bytes: payer.encode_to_vec().into(),
            base_fee_picodollars: 11,
            congestion_fee_picodollars: 22,
            expiry_unixtime: 33,
        }
        .encode_to_vec()
        .into();
        let signature = node.sign(originator_digest(&statement));
        OriginatorEnvelope::encode(statement, Proof::Signature(signature))
    }

    #[test]
    fn a_line_tells_time_place_topic_size_payer_price_and_dependencies() {
        let (node, payer) = (key::generate(), key::generate());
        let bytes = sealed(&node, &payer);
        let text = Rendered::new(bytes.clone()).unwrap().text();
        for part in [
            "2025-06-15T15:06:41.000000000Z  100:7  group_messages_v1/",
            "  group_message  ",
            &format!("  {} B  ", bytes.len()),
            &format!("payer {}", payer.public_key().address()),
            "fee 11+22 p$",
            "depends on 0:",
        ] {
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
    }

    #[test]
    fn an_object_holds_the_exact_bytes_and_every_layer() {
        let (node, payer) = (key::generate(), key::generate());
        let bytes = sealed(&node, &payer);
        let json = Rendered::new(bytes.clone()).unwrap().json().unwrap();
        assert_eq!(json["id"], "100:7");
        assert_eq!(json["hex"], hex::encode(&bytes));
        assert_eq!(json["payer"], payer.public_key().address().to_string());
        let fees = [&json["base_fee_picodollars"], &json["congestion_fee_picodollars"]];
        assert_eq!(fees, ["11", "22"], "as text, like all amounts");
        let statement = &json["envelope"]["unsignedOriginatorEnvelope"];
        assert_eq!(statement["originatorSequenceId"], "7");
        let client = &statement["payerEnvelopeBytes"]["unsignedClientEnvelope"];
        assert!(client["groupMessage"].is_object(), "{client}");
        assert!(client["aad"]["dependsOn"].is_object(), "{client}");
    }

    #[test]
    fn bytes_that_are_no_envelope_are_an_error() {
        assert!(Rendered::new(Bytes::from_static(b"\xff")).is_err());
    }
}
