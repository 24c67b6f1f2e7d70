//! Events and their times: one ordered queue for the whole network.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Instant;

use bytes::Bytes;
use hawser_engine::replication::{RequestId, StrandItem, StrandWrite, Want, WantResponse};
use hawser_proto::checkpoint::Checkpoint;
use hawser_proto::{OriginatorId, SequenceId};
use hawser_rules::Rate;

/// A follower's connection to a server: who asks, who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Path {
    pub(super) follower: OriginatorId,
    pub(super) server: OriginatorId,
}

impl Path {
    pub(super) fn joins(self, a: OriginatorId, b: OriginatorId) -> bool {
        [[a, b], [b, a]].contains(&[self.follower, self.server])
    }
}

/// Every connection that there can be between members.
pub(super) fn paths(members: &[OriginatorId]) -> Vec<Path> {
    let of = |&follower| members.iter().map(move |&server| Path { follower, server });
    members.iter().flat_map(of).filter(|path| path.follower != path.server).collect()
}

/// An event at a moment. An event of a connection names its generation, and one of a running node its incarnation.
/// It is void once that generation or incarnation has ended.
pub(super) enum Event {
    /// A connection comes up.
    Up { path: Path },
    /// A want reaches the server.
    Want { path: Path, generation: u64, request: RequestId, want: Want },
    /// The end of a want reaches the server.
    Stop { path: Path, generation: u64, originator: OriginatorId },
    /// The server has something to send, or may have.
    Serve { path: Path, generation: u64, originator: OriginatorId, request: RequestId },
    /// Frames that it has sent arrive.
    Arrive { path: Path, generation: u64, originator: OriginatorId, response: WantResponse<Bytes> },
    /// A follower hears how far a strand is at the server.
    Clock { path: Path, generation: u64, originator: OriginatorId },
    /// A follower gets the frame of a checkpoint; `of` is for the trace.
    Checkpoint { path: Path, generation: u64, of: Checkpoint, frame: Bytes },
    /// A node signs and passes on checkpoints.
    Exchange { node: OriginatorId },
    /// A follower's timer.
    Timer { node: OriginatorId, incarnation: u64, originator: OriginatorId },
    /// A write is durable.
    Durable {
        node: OriginatorId,
        incarnation: u64,
        originator: OriginatorId,
        writes: Vec<StrandWrite>,
    },
    /// A node has verified shown places behind `after`, at most to `through`.
    Behind {
        node: OriginatorId,
        incarnation: u64,
        originator: OriginatorId,
        after: SequenceId,
        through: SequenceId,
    },
    /// A pause is over before a node asks for something again.
    Drive { node: OriginatorId, incarnation: u64, originator: OriginatorId },
    /// A node learns of a rate.
    Rate { node: OriginatorId, rate: Rate },
    /// A node learns that another one has left the network.
    Departure { node: OriginatorId },
    /// A node adds to its own strand.
    Publish { node: OriginatorId },
    /// A node looks which others answer.
    Look { node: OriginatorId },
    /// A node that crashed is back.
    Restart { node: OriginatorId },
}

/// A line of the trace. It has every value by which two runs can differ.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Up { path } => write!(f, "{path} up"),
            Self::Want { path, request, want, .. } => write!(
                f,
                "{path} wants {} after {} up to {:?} as {}",
                want.originator,
                want.after,
                want.up_to(),
                request.0
            ),
            Self::Stop { path, originator, .. } => write!(f, "{path} stops {originator}"),
            Self::Serve { path, originator, request, .. } => {
                write!(f, "{path} serves {originator} for {}", request.0)
            }
            Self::Arrive { path, originator, response, .. } => {
                write!(f, "{path} brings {originator} for {}:", response.request.0)?;
                response.items.iter().try_for_each(|item| match item {
                    StrandItem::Envelope(bytes) => {
                        write!(f, " {}", hex::encode(&bytes[bytes.len().saturating_sub(6)..]))
                    }
                    item => write!(f, " {item:?}"),
                })
            }
            Self::Clock { path, originator, .. } => write!(f, "{path} hears of {originator}"),
            Self::Checkpoint { path, of: Checkpoint { node, originator, size, .. }, .. } => {
                write!(f, "{path} shows the tree of {originator} at {size} by {node}")
            }
            Self::Exchange { node } => write!(f, "{node} exchanges checkpoints"),
            Self::Timer { node, originator, .. } => write!(f, "{node} timer of {originator}"),
            Self::Durable { node, originator, writes, .. } => {
                write!(f, "{node} durable {originator}: {} writes", writes.len())
            }
            Self::Behind { node, originator, after, through, .. } => {
                write!(f, "{node} verifies {originator} behind {after} up to {through}")
            }
            Self::Drive { node, originator, .. } => write!(f, "{node} goes on with {originator}"),
            Self::Rate { node, rate } => {
                write!(f, "{node} learns of the rate of {}", rate.start_unix_s)
            }
            Self::Departure { node } => write!(f, "{node} learns of the departure"),
            Self::Publish { node } => write!(f, "{node} publishes"),
            Self::Look { node } => write!(f, "{node} looks at the others"),
            Self::Restart { node } => write!(f, "{node} restarts"),
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}<-{}", self.follower, self.server)
    }
}

/// Events by time; what happens at the same time happens in the order in which it was planned.
#[derive(Default)]
pub(super) struct Queue {
    events: BTreeMap<(Instant, u64), Event>,
    planned: u64,
}

impl Queue {
    pub(super) fn push(&mut self, at: Instant, event: Event) {
        self.planned += 1;
        self.events.insert((at, self.planned), event);
    }

    /// The next event, if it is not after `end`.
    pub(super) fn pop(&mut self, end: Instant) -> Option<(Instant, Event)> {
        let (&(at, _), _) = self.events.first_key_value()?;
        if at > end {
            return None;
        }
        self.events.pop_first().map(|((at, _), event)| (at, event))
    }
}

/// The node that signs a checkpoint, and the strand that it is about.
pub(super) type CheckpointPair = (OriginatorId, OriginatorId);

/// One stream on its way from a server.
pub(super) struct Stream {
    pub(super) request: RequestId,
    pub(super) want: Want,
    /// Everything up to this place was sent.
    pub(super) position: SequenceId,
    /// Nothing overtakes on a stream.
    pub(super) last_arrival: Instant,
    /// It has sent all there is and waits for more.
    pub(super) is_idle: bool,
}

/// A connection as both ends know it.
pub(super) struct Connection {
    pub(super) generation: u64,
    pub(super) is_up: bool,
    /// Nothing overtakes on the control stream.
    pub(super) last_control: Instant,
    /// By originator.
    pub(super) streams: BTreeMap<OriginatorId, Stream>,
    /// Strands that have grown since the server's last clock.
    pub(super) clock_due: BTreeSet<OriginatorId>,
    /// The size of the last checkpoint that the server has shown of each node and strand.
    pub(super) shown_sizes: BTreeMap<CheckpointPair, u64>,
}
