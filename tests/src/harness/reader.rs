//! Subscriptions that are checked while they run, and resumed from their cursor.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use hawser_proto::pb::xmtp::xmtpv4::message_api as api;
use hawser_proto::{Cursor, EnvelopeId, OriginatorId, Topic};
use tonic::Status;

use super::client::{Client, Subscription};
use super::strand::open;
use super::wait::WAIT_MAX;

/// Kind of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `SubscribeTopics`: a cursor for each topic.
    Topics,
    /// `SubscribeEnvelopes` by topics: one cursor.
    EnvelopesByTopics,
    /// `SubscribeEnvelopes` by originators.
    EnvelopesByOriginators,
    /// `SubscribeOriginators`.
    Originators,
}

impl Method {
    /// All kinds.
    pub const ALL: [Self; 4] =
        [Self::Topics, Self::EnvelopesByTopics, Self::EnvelopesByOriginators, Self::Originators];

    fn is_by_topics(self) -> bool {
        matches!(self, Self::Topics | Self::EnvelopesByTopics)
    }
}

/// A reader of fixed topics or strands, over successive streams.
#[derive(Debug)]
pub struct Reader {
    client: Client,
    method: Method,
    topics: Vec<Topic>,
    originators: Vec<OriginatorId>,
    cursor: Cursor,
    cursors: BTreeMap<Vec<u8>, Cursor>,
    /// Everything that came, by id.
    pub held: BTreeMap<EnvelopeId, Bytes>,
    stream: Option<Subscription>,
}

impl Reader {
    /// Creates a reader that has seen nothing yet.
    #[must_use]
    pub fn new(
        port: u16,
        method: Method,
        topics: Vec<Topic>,
        originators: Vec<OriginatorId>,
    ) -> Self {
        Self {
            client: Client::new(port),
            method,
            topics,
            originators,
            cursor: Cursor::new(),
            cursors: BTreeMap::new(),
            held: BTreeMap::new(),
            stream: None,
        }
    }

    /// Moves to another node with the same cursor. Drops the open stream.
    pub fn move_to(&mut self, port: u16) {
        self.stream = None;
        self.client = Client::new(port);
    }

    /// Drops the stream; the next [`Reader::read`] opens another one from the cursor.
    pub fn disconnect(&mut self) {
        self.stream = None;
    }

    /// Opens the stream if there is none.
    ///
    /// # Errors
    /// The status of the node.
    pub async fn connect(&mut self) -> Result<(), Status> {
        if self.stream.is_none() {
            self.stream = Some(self.subscribe().await?);
        }
        Ok(())
    }

    async fn subscribe(&self) -> Result<Subscription, Status> {
        let topics = self.topics.iter();
        let query = |topics: Vec<Bytes>, originator_node_ids: Vec<u32>| api::EnvelopesQuery {
            topics,
            originator_node_ids,
            last_seen: Some(self.cursor.to_pb()),
        };
        match self.method {
            Method::Topics => {
                let cursor = |topic: &Topic| {
                    self.cursors.get(topic.as_bytes().as_ref()).cloned().unwrap_or_default()
                };
                let filters: Vec<_> = topics.map(|topic| (topic.clone(), cursor(topic))).collect();
                self.client.subscribe_topics(&filters).await
            }
            Method::EnvelopesByTopics => {
                let topics = topics.map(|topic| topic.as_bytes().clone()).collect();
                self.client.subscribe_envelopes(Some(query(topics, Vec::new()))).await
            }
            Method::EnvelopesByOriginators => {
                let originators = self.originators.iter().map(|originator| originator.0).collect();
                self.client.subscribe_envelopes(Some(query(Vec::new(), originators))).await
            }
            Method::Originators => {
                self.client.subscribe_originators(&self.originators, &self.cursor).await
            }
        }
    }

    /// Reads one message and returns how many envelopes were in it.
    ///
    /// # Panics
    /// Panics if the node ends the stream, sends nothing for long, or breaks a promise: an envelope
    /// that was not asked for, one that came before, one that does not ascend.
    pub async fn read(&mut self) -> usize {
        self.connect().await.unwrap_or_else(|status| panic!("{:?}: {status}", self.method));
        let stream = self.stream.as_mut().unwrap();
        let frame = tokio::time::timeout(WAIT_MAX, stream.next())
            .await
            .unwrap_or_else(|_| panic!("{:?}: nothing came for {WAIT_MAX:?}", self.method))
            .unwrap_or_else(|status| panic!("{:?}: ended with {status}", self.method))
            .unwrap_or_else(|| panic!("{:?}: ended by the node", self.method));
        for bytes in &frame.envelopes {
            self.take(bytes);
        }
        frame.envelopes.len()
    }

    /// Reads until at least `count` envelopes have come in all.
    pub async fn read_until(&mut self, count: usize) {
        while self.held.len() < count {
            self.read().await;
        }
    }

    /// Reads messages for a time.
    pub async fn read_for(&mut self, time: Duration) {
        let end = tokio::time::Instant::now() + time;
        while tokio::time::timeout_at(end, self.read()).await.is_ok() {}
    }

    fn take(&mut self, bytes: &Bytes) {
        let envelope = open(bytes);
        let id = envelope.id();
        let topic = envelope.unsigned().payer().client().topic().clone();
        let method = self.method;
        if method.is_by_topics() {
            assert!(self.topics.contains(&topic), "{method:?}: {topic} was not asked for");
        } else {
            assert!(self.originators.contains(&id.originator), "{method:?}: {id} not asked for");
        }
        assert!(
            id.sequence > self.cursor.get(id.originator),
            "{method:?}: {id} came after {}",
            self.cursor.get(id.originator),
        );
        self.cursor.advance(id);
        self.cursors.entry(topic.as_bytes().to_vec()).or_default().advance(id);
        assert_eq!(self.held.insert(id, bytes.clone()), None, "{method:?}: {id} came twice");
    }
}
