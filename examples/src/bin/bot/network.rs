//! Access to a network: one node and the app chain.

use std::path::Path;

use hawser_chain::addresses::Addresses;
use hawser_chain::broadcast::{BroadcastReceipt, BroadcastSettings, Broadcaster};
use hawser_proto::envelope::{ClientEnvelope, OriginatorEnvelope, PayerEnvelope};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::pb::xmtp::xmtpv4::message_api::publish_api_client::PublishApiClient;
use hawser_proto::pb::xmtp::xmtpv4::message_api::query_api_client::QueryApiClient;
use hawser_proto::pb::xmtp::xmtpv4::message_api::subscribe_topics_request::TopicFilter;
use hawser_proto::pb::xmtp::xmtpv4::message_api::subscribe_topics_response::Response;
use hawser_proto::pb::xmtp::xmtpv4::message_api::{
    GetNewestEnvelopeRequest, PublishPayerEnvelopesRequest, SubscribeTopicsRequest,
    SubscribeTopicsResponse,
};
use hawser_proto::{Bytes, GroupId, InboxId, OriginatorId, SecretKey, Topic};
use prost::Message as _;
use serde_json::Value;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use crate::BoxError;

/// Retention of published envelopes. A guess: long enough for a demonstration.
const RETENTION_DAYS: u32 = 30;

/// A node for publishing and reading, the app chain, and the key of the payer on both.
pub(crate) struct Network {
    channel: Channel,
    node: OriginatorId,
    payer: SecretKey,
    broadcaster: Broadcaster,
}

/// An envelope from a node, with its originator.
pub(crate) struct Received {
    /// The originator id; 0 and 1 are the chain.
    pub(crate) originator: u32,
    pub(crate) envelope: ClientEnvelope,
}

impl Network {
    /// Connects to the network that `hawser dev` describes in `file`: to the node with this index, or to the last one.
    pub(crate) async fn join(file: &Path, index: usize) -> Result<Self, BoxError> {
        let described = std::fs::read_to_string(file)
            .map_err(|error| format!("{}: {error}; does `hawser dev` run?", file.display()))?;
        let described: Value = serde_json::from_str(&described)?;
        let text = |value: &Value| value.as_str().map(str::to_owned).ok_or("not a network.json");
        let nodes = described["nodes"].as_array().filter(|nodes| !nodes.is_empty());
        let nodes = nodes.ok_or("the network has no nodes")?;
        // With `--chain-file` there is no gateway, and the nodes would never show what is sent to the chain.
        if described["gateway"].is_null() {
            return Err("its nodes read no chain: start the network without --chain-file".into());
        }
        let node = &nodes[index.min(nodes.len() - 1)];
        let key = std::fs::read_to_string(text(&described["payer_key_file"])?)?;
        let payer = SecretKey::from_hex(key.trim())?;

        let addresses = Addresses::parse(&described["contracts"].to_string())?;
        let urls = vec![text(&described["app_chain"]["rpc"])?];
        let settings = BroadcastSettings::new(urls, &addresses);
        let signer = alloy::signers::local::PrivateKeySigner::from_slice(&payer.to_bytes())?;
        let url = format!("http://{}", text(&node["grpc"])?);
        Ok(Self {
            channel: Endpoint::from_shared(url)?.tcp_nodelay(true).connect().await?,
            node: OriginatorId(u32::try_from(node["node_id"].as_u64().ok_or("no node id")?)?),
            payer,
            broadcaster: Broadcaster::start(settings, signer).await?,
        })
    }

    /// Publishes to the node. The envelope is durable at the node when this returns.
    pub(crate) async fn publish(&self, envelope: pb::ClientEnvelope) -> Result<(), BoxError> {
        let bytes = envelope.encode_to_vec().into();
        let signed = PayerEnvelope::sign(bytes, self.node, RETENTION_DAYS, &self.payer);
        let request = PublishPayerEnvelopesRequest { payer_envelopes: vec![signed] };
        PublishApiClient::new(self.channel.clone()).publish_payer_envelopes(request).await?;
        Ok(())
    }

    /// Sends a commit or proposal of a group to the chain and waits until it is mined.
    pub(crate) async fn commit(
        &self,
        group: GroupId,
        envelope: pb::ClientEnvelope,
    ) -> Result<BroadcastReceipt, BoxError> {
        let payload = envelope.encode_to_vec().into();
        Ok(self.broadcaster.group_message(group, payload).await?)
    }

    /// Sends an identity update to the chain and waits until it is mined.
    pub(crate) async fn identity_update(
        &self,
        inbox: InboxId,
        envelope: pb::ClientEnvelope,
    ) -> Result<BroadcastReceipt, BoxError> {
        let payload = envelope.encode_to_vec().into();
        Ok(self.broadcaster.identity_update(inbox, payload).await?)
    }

    /// Waits for an envelope of a topic and returns the newest. `None` after 5 seconds.
    pub(crate) async fn newest(&self, topic: &Topic) -> Result<Option<ClientEnvelope>, BoxError> {
        let request = GetNewestEnvelopeRequest { topics: vec![topic.as_bytes().clone()] };
        for _ in 0..100 {
            let mut api = QueryApiClient::new(self.channel.clone());
            let answer = api.get_newest_envelope(request.clone()).await?.into_inner();
            let found = answer.results.into_iter().find_map(|result| result.originator_envelope);
            if let Some(found) = found {
                return Ok(Some(read(found.encode_to_vec().into())?.envelope));
            }
            // Another node has it, and replication is under way.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        Ok(None)
    }

    /// Subscribes to a topic after the sequence ids in `seen`, each with its originator.
    pub(crate) async fn follow(
        &self,
        topic: &Topic,
        seen: &[(u32, u64)],
    ) -> Result<Stream, BoxError> {
        let seen = pb::Cursor { node_id_to_sequence_id: seen.iter().copied().collect() };
        let filter = TopicFilter { topic: topic.as_bytes().clone(), last_seen: Some(seen) };
        let request = SubscribeTopicsRequest { filters: vec![filter] };
        let mut api = QueryApiClient::new(self.channel.clone());
        let messages = api.subscribe_topics(request).await?.into_inner();
        Ok(Stream { messages, ready: Vec::new().into_iter() })
    }
}

/// A subscription of one topic.
pub(crate) struct Stream {
    messages: Streaming<SubscribeTopicsResponse>,
    ready: std::vec::IntoIter<Bytes>,
}

impl Stream {
    /// Waits for the next envelope.
    pub(crate) async fn next(&mut self) -> Result<Received, BoxError> {
        loop {
            if let Some(envelope) = self.ready.next() {
                return read(envelope);
            }
            let message = self.messages.message().await?.ok_or("the node has ended the stream")?;
            if let Some(Response::Envelopes(envelopes)) = message.response {
                self.ready = envelopes.envelopes.into_iter();
            }
        }
    }
}

fn read(envelope: Bytes) -> Result<Received, BoxError> {
    let envelope = OriginatorEnvelope::parse(envelope)?;
    let originator = envelope.id().originator.0;
    Ok(Received { originator, envelope: envelope.unsigned().payer().client().clone() })
}
