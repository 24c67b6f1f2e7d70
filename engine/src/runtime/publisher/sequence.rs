//! The thread that gives out places: prices, signs, and finds what was published before.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SecretKey};
use hawser_storage::{Charge, Facts, LogEntry, ReadError, Store};

use super::commit::Group;
use super::{
    ANSWER_LEN_BYTES_MAX, GROUP_ENVELOPES_MAX, PublishError, PublishSettings, Reply, Request,
    Shared,
};
use crate::facts;
use crate::runtime::workers::Priority;
use crate::sequencer::{Admitted, Sequenced, Sequencer};
use hawser_rules::is_free;
use hawser_rules::retention::EXPIRY_NEVER;

/// What an originator adds to a payer envelope, with tags and lengths, at the most.
const STATEMENT_OVERHEAD_BYTES: usize = 160;

/// The sequencer as the stored strand left it.
pub(super) fn resume(
    store: &Store,
    node: OriginatorId,
    now_ns: i64,
) -> Result<Sequencer, ReadError> {
    let snapshot = store.snapshot();
    let last = snapshot.head(node)?;
    let newest = snapshot.get(EnvelopeId::new(node, last))?;
    let last_ns = newest
        .and_then(|bytes| OriginatorEnvelope::parse(bytes).ok())
        .map_or(0, |envelope| envelope.unsigned().originator_ns());
    // A count that cannot be read now cannot be read later either: the window then starts empty,
    // and the error comes up where the row is needed for a write.
    let count = |minute| snapshot.congestion(node, minute).unwrap_or(0);
    Ok(Sequencer::new(node, last, last_ns, now_ns, count))
}

/// The thread that gives out sequence ids.
pub(super) struct Sequencing {
    shared: Arc<Shared>,
    settings: PublishSettings,
    sequencer: Sequencer,
    /// Receipts of what is signed but perhaps not yet stored, by group.
    in_flight: VecDeque<(u64, HashMap<[u8; 32], Bytes>)>,
    generation: u64,
    /// The newest group that is stored.
    done: Arc<AtomicU64>,
    to_committer: Sender<Group>,
}

/// Where an answer comes from.
enum Source {
    /// The `usize`th envelope sequenced in this group.
    Fresh(usize),
    /// An earlier publish.
    Known(Bytes),
}

struct Planned {
    reply: Reply,
    sources: Vec<Source>,
}

impl Sequencing {
    pub(super) fn new(
        shared: Arc<Shared>,
        settings: PublishSettings,
        sequencer: Sequencer,
        done: Arc<AtomicU64>,
        to_committer: Sender<Group>,
    ) -> Self {
        let in_flight = VecDeque::new();
        Self { shared, settings, sequencer, in_flight, generation: 0, done, to_committer }
    }

    pub(super) fn run(mut self, requests: &Receiver<Request>) {
        while let Ok(first) = requests.recv() {
            let mut group = vec![first];
            let mut envelopes = group[0].envelopes.len();
            while envelopes < GROUP_ENVELOPES_MAX {
                let Ok(next) = requests.try_recv() else { break };
                envelopes += next.envelopes.len();
                group.push(next);
            }
            self.group(group);
        }
    }

    fn group(&mut self, requests: Vec<Request>) {
        if let Err(error) = self.shared.own_strand.may_grow() {
            return requests.into_iter().for_each(|it| it.reply.send(Err(error.clone())));
        }
        let done = self.done.load(Ordering::Acquire);
        self.in_flight.retain(|(generation, _)| *generation > done);
        self.generation += 1;
        let now_ns = self.shared.ports.clock.now_ns();
        let mut sequenced: Vec<(Sequenced, Admitted)> = Vec::new();
        let mut by_receipt: HashMap<[u8; 32], usize> = HashMap::new();
        let mut planned = Vec::with_capacity(requests.len());
        for Request { envelopes, reply } in requests {
            match self.request(now_ns, envelopes, &mut sequenced, &mut by_receipt) {
                Ok(sources) => planned.push(Planned { reply, sources }),
                Err(error) => reply.send(Err(error)),
            }
        }
        let group = self.seal(sequenced, planned);
        // The committing thread ends only after this sender is gone.
        let _ = self.to_committer.send(group);
    }

    /// Sequences what is new of a request, and finds the rest.
    fn request(
        &mut self,
        now_ns: i64,
        envelopes: Vec<Admitted>,
        sequenced: &mut Vec<(Sequenced, Admitted)>,
        by_receipt: &mut HashMap<[u8; 32], usize>,
    ) -> Result<Vec<Source>, PublishError> {
        let mut fresh: Vec<Admitted> = Vec::with_capacity(envelopes.len());
        let mut fresh_receipts: HashMap<[u8; 32], usize> = HashMap::new();
        let mut sources = Vec::with_capacity(envelopes.len());
        let mut answer_len = 0;
        for admitted in envelopes {
            let receipt = admitted.receipt;
            let earlier = || by_receipt.get(&receipt).or(fresh_receipts.get(&receipt)).copied();
            if self.settings.idempotent {
                if let Some(index) = earlier() {
                    answer_len += admitted.envelope.as_bytes().len() + STATEMENT_OVERHEAD_BYTES;
                    sources.push(Source::Fresh(index));
                    continue;
                }
                if let Some(bytes) = self.known(&receipt)? {
                    answer_len += bytes.len() + STATEMENT_OVERHEAD_BYTES;
                    sources.push(Source::Known(bytes));
                    continue;
                }
            }
            let index = sequenced.len() + fresh.len();
            fresh_receipts.insert(receipt, index);
            answer_len += admitted.envelope.as_bytes().len() + STATEMENT_OVERHEAD_BYTES;
            sources.push(Source::Fresh(index));
            fresh.push(admitted);
        }
        if answer_len > ANSWER_LEN_BYTES_MAX {
            return Err(PublishError::AnswerTooLarge);
        }
        let rates = self.shared.ports.rates.borrow().clone();
        let places = self
            .sequencer
            .sequence(now_ns, &rates, &fresh)
            .map_err(|error| PublishError::Refused(error.to_string()))?;
        by_receipt.extend(fresh_receipts);
        sequenced.extend(places.into_iter().zip(fresh));
        Ok(sources)
    }

    /// The result of an earlier publish: still on its way, or stored.
    fn known(&self, receipt: &[u8; 32]) -> Result<Option<Bytes>, PublishError> {
        if let Some(bytes) = self.in_flight.iter().find_map(|(_, group)| group.get(receipt)) {
            return Ok(Some(bytes.clone()));
        }
        let snapshot = self.shared.store.snapshot();
        let stored = snapshot.receipt(receipt).and_then(|sequence| match sequence {
            Some(sequence) => snapshot.get(EnvelopeId::new(self.shared.node, sequence)),
            None => Ok(None),
        });
        stored.map_err(|error| PublishError::Unavailable {
            reason: format!("receipts cannot be read: {error}"),
            retry_after: Duration::from_secs(60),
        })
    }

    /// Signs what was sequenced, on all cores, and puts the answers together.
    fn seal(&mut self, sequenced: Vec<(Sequenced, Admitted)>, planned: Vec<Planned>) -> Group {
        let key = self.shared.key.clone();
        let node = self.shared.node;
        let sealed = self.shared.workers.map(Priority::Urgent, sequenced, move |part| {
            part.into_iter().map(|(place, admitted)| seal(&key, node, place, &admitted)).collect()
        });
        let follows = |pair: &[LogEntry]| pair[1].id.sequence == pair[0].id.sequence.next();
        assert!(sealed.windows(2).all(follows), "a group is contiguous before it is appended");
        let mut replayed = 0;
        let answers = planned
            .into_iter()
            .map(|Planned { mut reply, sources }| {
                reply.stage.lap(&self.shared.counters.sequence_seconds);
                let answer = sources.into_iter().map(|source| match source {
                    Source::Fresh(index) => sealed[index].bytes.clone(),
                    Source::Known(bytes) => {
                        replayed += 1;
                        bytes
                    }
                });
                (reply, answer.collect())
            })
            .collect();
        if self.settings.idempotent {
            let receipt =
                |entry: &LogEntry| Some((entry.facts.as_ref()?.receipt?, entry.bytes.clone()));
            let receipts = sealed.iter().filter_map(receipt).collect();
            self.in_flight.push_back((self.generation, receipts));
        }
        Group {
            generation: self.generation,
            fresh: sealed.len() as u64,
            entries: sealed,
            answers,
            replayed,
            counters: self.shared.counters.clone(),
        }
    }
}

fn seal(key: &SecretKey, node: OriginatorId, place: Sequenced, admitted: &Admitted) -> LogEntry {
    let client = admitted.envelope.client();
    let counted = !is_free(client.topic().kind());
    assert_eq!(place.id.originator, node, "a node signs its own strand only");
    let facts = Facts {
        topic: client.topic().clone(),
        originator_ns: place.originator_ns,
        depends_on: facts::chain_dependencies(client.depends_on()),
        expiry_unix_s: Some(place.expiry_unix_s).filter(|&expiry| expiry < EXPIRY_NEVER),
        receipt: Some(admitted.receipt),
        charge: counted.then_some(Charge { payer: admitted.payer, picodollars: place.picodollars }),
        counts_for_congestion: counted,
        addresses: Vec::new(),
    };
    LogEntry::valid(place.id, place.unsealed.seal(key), facts)
}
