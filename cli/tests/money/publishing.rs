//! Payers that publish at nodes, with the command that they have for it.

use std::fs;
use std::process::Output;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use hawser_proto::envelope::Payload;
use hawser_proto::pb::xmtp::mls::api::v1::GroupMessageInput;
use hawser_proto::pb::xmtp::mls::api::v1::group_message_input::{V1, Version};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::{Bytes, Topic, TopicKind};
use prost::Message as _;
use serde_json::json;

use crate::support;

/// Envelopes that each payer publishes at each node at once.
pub const ENVELOPES: usize = 20;
/// Pause between two commands of a load. A guess: no minute of a node has as many envelopes as congestion begins with.
const LOAD_PAUSE: Duration = Duration::from_millis(100);

/// A payer that publishes at a node.
pub struct Publisher {
    /// Payer and node by their places, for texts that no other one has.
    pub of: String,
    /// The node's address.
    pub node: String,
    /// The node's id.
    pub target: String,
    /// The file of the payer's key.
    pub key: String,
    /// The file that the envelopes are written to.
    pub file: String,
}

impl Publisher {
    /// Publishes some envelopes. The command fails if the node has ended.
    pub fn publish(&self, name: &str) -> Output {
        let Self { of, node, target, key, file } = self;
        let line = |number: usize| {
            let text = format!("{name} {number} of {of}");
            json!({ "hex": hex::encode(message(&text)) }).to_string()
        };
        let lines: Vec<_> = (0..ENVELOPES).map(line).collect();
        fs::write(file, lines.join("\n")).unwrap();
        let args: [&str; 6] = ["publish", "--json", "--node", node, "--payer-key-file", key];
        let more: [&str; 4] = ["--file", file, "--target", target];
        support::run(&[&args[..], &more[..]].concat())
    }
}

/// Payers that publish until they are stopped.
pub struct Load {
    stop: Sender<()>,
    thread: JoinHandle<usize>,
}

impl Load {
    /// Lets these payers publish in turns. One whose node has ended publishes there again in the next round.
    pub fn start(name: String, publishers: Vec<Publisher>) -> Self {
        let (stop, stopped) = channel();
        let thread = std::thread::spawn(move || publish_on(&name, &publishers, &stopped));
        Self { stop, thread }
    }

    /// Ends it. Nodes have to have taken a part of what was published.
    pub fn stop(self) {
        // It fails only if the thread has panicked, and then so does the next line.
        let _ = self.stop.send(());
        assert!(self.thread.join().unwrap() > 0, "nothing was published meanwhile");
    }
}

/// Returns the number of commands whose envelopes were taken.
fn publish_on(name: &str, publishers: &[Publisher], stopped: &Receiver<()>) -> usize {
    let (mut round, mut taken) = (0, 0);
    loop {
        round += 1;
        for publisher in publishers {
            if stopped.recv_timeout(LOAD_PAUSE) != Err(RecvTimeoutError::Timeout) {
                return taken;
            }
            let output = publisher.publish(&format!("{name} {round}"));
            taken += usize::from(output.status.success());
        }
    }
}

/// A client envelope with an application message of a group, and `text` as its ciphertext.
fn message(text: &str) -> Vec<u8> {
    let mut frame = vec![0, 1, 0, 2, 16];
    frame.extend([7; 16]);
    frame.extend(1u64.to_be_bytes());
    frame.extend([1, 0, 0]);
    let mut body = text.as_bytes().to_vec();
    body.resize(200, 0);
    frame.extend((0x4000 | u16::try_from(body.len()).unwrap()).to_be_bytes());
    frame.extend(body);
    let topic = Topic::new(TopicKind::GroupMessages, &[7; 16]).unwrap();
    let v1 = V1 { data: frame.into(), sender_hmac: Bytes::new(), should_push: false };
    let payload = Payload::GroupMessage(GroupMessageInput { version: Some(Version::V1(v1)) });
    let target_topic = topic.as_bytes().clone();
    let aad = pb::AuthenticatedData { target_topic, depends_on: None };
    pb::ClientEnvelope { aad: Some(aad), payload: Some(payload) }.encode_to_vec()
}
