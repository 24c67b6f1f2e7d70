//! Fills the chain strands of a running node from a snapshot before it reads the chains. They are verified by the
//! signatures of most nodes of the network, and by comparing some events with the chain.
//!
//! Nothing in such a strand is signed by its originator, so nothing is written before the whole strand is verified. The
//! snapshot is therefore read twice: first for its tree and for the events to compare with the chain, then to be
//! written. Its chunks are named by their hashes, so an exchange in between is detected.
//!
//! Invariant: whenever a part of a strand is written, so is the chain position from which the node continues to read.

use std::collections::BTreeMap;
use std::time::Instant;

use hawser_chain::index::walk::BlockHeader;
use hawser_engine::chain_strand::{ChainEvent, ChainPosition};
use hawser_engine::runtime::ChainAppendError;
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SequenceId};
use hawser_storage::{BootstrapError, BootstrapStrand, Store};
use tokio::runtime::Handle;

use super::super::chain::{
    ASKED, Append, AskedContract, position_before, require_on_chain, write_events,
};
use super::super::checkpoints::MajorityTree;
use super::super::error::BootstrapFetchError;
use super::super::strand::{Envelopes, Gaps, Write, Writing};
use super::super::verify::{ReadChunk, require_chain_tree};
use crate::service::chain_gate::{ChainGate, ShutChainGate};
use crate::service::network::chains::Chains;
use crate::settings::NodeServiceSettings;

/// The chain strands that are filled, if the operator trusts most nodes for them. The chains are not
/// read before this value is dropped.
#[derive(Default)]
pub(in crate::service) struct ChainFill {
    /// The contracts whose events are requested from the chain.
    contracts: BTreeMap<OriginatorId, AskedContract>,
    gate: Option<ShutChainGate>,
}

impl ChainFill {
    /// Determines the strands to fill.
    pub(in crate::service) fn new(settings: &NodeServiceSettings, chains: &Chains) -> Self {
        let trust = settings.bootstrap_trust;
        let mut contracts = BTreeMap::new();
        if settings.bootstrap_from.is_none() || !trust.nodes_for_chains {
            return Self::default();
        }
        for originator in OriginatorId::CHAINS {
            let found = chains.contract_of(originator).ok_or(BootstrapFetchError::NoAppChain);
            let asked = found.and_then(|found| AskedContract::new(found, trust.one_endpoint));
            match asked {
                Ok(contract) => drop(contracts.insert(originator, contract)),
                Err(error) => {
                    let next = "the chain is read from its beginning";
                    tracing::warn!(code = "filling_failed", originator_id = %originator, %error, "{next}");
                }
            }
        }
        let gate = (!contracts.is_empty()).then(|| ShutChainGate::new(Instant::now()));
        Self { contracts, gate }
    }

    /// Returns the gate of the chain readers.
    pub(in crate::service) fn gate(&self) -> ChainGate {
        self.gate.as_ref().map(ShutChainGate::gate).unwrap_or_default()
    }

    /// Returns the contract of a strand whose events are requested from the chain; `None` if the strand is not filled.
    pub(super) fn contract(&self, originator: OriginatorId) -> Option<&AskedContract> {
        self.contracts.get(&originator)
    }
}

/// A function that appends events of a chain and the position after them, such as `ChainAppender::append`.
pub(super) type AppendAt<'a> =
    &'a dyn Fn(OriginatorId, &[ChainEvent], Option<ChainPosition>) -> Result<(), ChainAppendError>;

/// A chain's strand that is being filled.
pub(super) struct FilledChain<'a> {
    pub(super) store: &'a Store,
    pub(super) append: AppendAt<'a>,
    pub(super) runtime: &'a Handle,
    pub(super) contract: &'a AskedContract,
    /// The tree that most nodes have signed.
    pub(super) signed: &'a MajorityTree,
    /// Returns false when the node stops, and when the chain may be read.
    pub(super) may_go_on: &'a dyn Fn() -> bool,
}

impl FilledChain<'_> {
    /// Appends the envelopes that the log lacks, up to the last signed one. Later ones are read from the chain.
    ///
    /// # Errors
    /// The first error, or [`BootstrapError::Stopped`]. All envelopes that are then in the log have been verified.
    pub(super) fn fill(
        &self,
        stated: &BootstrapStrand,
        read: ReadChunk<'_>,
    ) -> Result<(), BootstrapFetchError> {
        let through = self.signed.end();
        if self.head(stated.originator)? >= through {
            return Ok(());
        }
        let mut stated = stated.clone();
        stated.chunks.retain(|chunk| chunk.from <= through);
        let mut asked = AskedPlaces::new(through);
        require_chain_tree(&stated, self.signed, read, &mut |envelopes| asked.note(envelopes))?;
        for (place, bytes) in asked.all() {
            let at = EnvelopeId::new(stated.originator, place);
            self.ask(at, bytes)?;
        }
        for chunk in &stated.chunks {
            if self.head(stated.originator)? < chunk.through.min(through) {
                self.write(stated.originator, read(chunk)?)?;
            }
        }
        Ok(())
    }

    /// Asks the chain for an event. Because silent endpoints delay this, a stop is checked before each request.
    fn ask(&self, at: EnvelopeId, bytes: &Bytes) -> Result<BlockHeader, BootstrapFetchError> {
        self.require_time()?;
        self.runtime.block_on(require_on_chain(self.contract, at, bytes))
    }

    fn require_time(&self) -> Result<(), BootstrapFetchError> {
        match (self.may_go_on)() {
            true => Ok(()),
            false => Err(BootstrapError::Stopped.into()),
        }
    }

    fn head(&self, originator: OriginatorId) -> Result<SequenceId, BootstrapFetchError> {
        Ok(self.store.snapshot().head(originator)?)
    }

    /// Appends the envelopes of a chunk, and the position before the block of the last one, because that block may
    /// contain further events of the strand.
    fn write(
        &self,
        originator: OriginatorId,
        envelopes: Envelopes,
    ) -> Result<(), BootstrapFetchError> {
        let through = self.signed.end();
        let last = envelopes.iter().rfind(|(place, _)| *place <= through).cloned();
        let Some((place, bytes)) = last else { return Ok(()) };
        let at = EnvelopeId::new(originator, place);
        let header = self.ask(at, &bytes)?;
        let append: Append<'_> = &|originator, events| (self.append)(originator, events, None);
        let write: Write<'_> = &|head, envelopes| write_events(originator, append, head, envelopes);
        self.require_time()?;
        Writing::new(write, Gaps::Mark, self.head(originator)?, through).take(envelopes)?;
        let before = self.store.snapshot().chain_position(originator)?;
        let position = position_before(self.contract, &header)
            .filter(|it| before.is_none_or(|before| before.block < it.block));
        if position.is_some() {
            (self.append)(originator, &[], position)?;
        }
        Ok(())
    }
}

/// The envelopes that are compared with the chain: some random ones, and the last one.
struct AskedPlaces {
    through: SequenceId,
    /// The number of envelopes so far. Void sequence ids do not count: nodes that lie together could hide false events
    /// among them.
    seen: u64,
    /// Some of these, each as likely as any other.
    random: Vec<(SequenceId, Bytes)>,
    last: Option<(SequenceId, Bytes)>,
}

impl AskedPlaces {
    fn new(through: SequenceId) -> Self {
        Self { through, seen: 0, random: Vec::with_capacity(ASKED), last: None }
    }

    /// Copies the chosen envelopes of a chunk. The bytes of an envelope share the chunk's buffer, so keeping them
    /// without a copy would keep the whole chunk in memory.
    fn note(&mut self, envelopes: &[(SequenceId, Bytes)]) {
        let signed = envelopes.partition_point(|(place, _)| *place <= self.through);
        let copy_of =
            |(place, bytes): &(SequenceId, Bytes)| (*place, Bytes::copy_from_slice(bytes));
        for envelope in &envelopes[..signed] {
            let at = usize::try_from(rand::random_range(0..=self.seen)).unwrap_or(usize::MAX);
            self.seen += 1;
            if self.random.len() < ASKED {
                self.random.push(copy_of(envelope));
            } else if let Some(earlier) = self.random.get_mut(at) {
                *earlier = copy_of(envelope);
            }
        }
        if let Some(last) = envelopes[..signed].last() {
            self.last = Some(copy_of(last));
        }
    }

    /// Returns each of them once, by sequence id.
    fn all(&self) -> BTreeMap<SequenceId, &Bytes> {
        self.random.iter().chain(&self.last).map(|(place, bytes)| (*place, bytes)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use hawser_storage::ChainCommit;

    use super::super::super::testing::{
        BLOCK, EndpointStatements, GROUPS, Maker, OWN, PLACES, append, asked, entry, majority, open,
    };
    use super::*;

    type FilledTo = (Result<(), BootstrapFetchError>, SequenceId, Option<ChainPosition>);

    /// Fills the strand of a new node from a snapshot whose tree two nodes have signed up to a size, with the chain
    /// behind these endpoints. Returns the result with the head and the position.
    async fn filled(
        maker: &Maker,
        altered: Option<&[(SequenceId, Bytes)]>,
        said: Vec<EndpointStatements>,
    ) -> FilledTo {
        filled_until(maker, altered, said, usize::MAX).await
    }

    /// Does the same with a node that stops after this many checks.
    async fn filled_until(
        maker: &Maker,
        altered: Option<&[(SequenceId, Bytes)]>,
        said: Vec<EndpointStatements>,
        looks: usize,
    ) -> FilledTo {
        let manifest = altered.map_or_else(|| maker.copy(), |it| maker.altered(it));
        let signed = majority(&manifest, GROUPS, &[100, 200]).unwrap();
        let contract = asked(said, None, false).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder, "new", OWN.0);
        let runtime = Handle::current();
        let place = maker.place.clone();
        let working = tokio::task::spawn_blocking(move || {
            let at: AppendAt<'_> = &|originator, events, position| {
                append(&store, originator, events)?;
                let (changes, resolved) = (Vec::new(), Vec::new());
                let commit = ChainCommit { originator, changes, resolved, position };
                store.commit_chain(&commit)?;
                Ok(())
            };
            let (runtime, contract, signed) = (&runtime, &contract, &signed);
            let looked = AtomicUsize::new(0);
            let may_go_on = || looked.fetch_add(1, Ordering::SeqCst) < looks;
            let filled = FilledChain {
                store: &store,
                append: at,
                runtime,
                contract,
                signed,
                may_go_on: &may_go_on,
            };
            let stated = &manifest.strands[0];
            let reached = || {
                let snapshot = store.snapshot();
                (snapshot.head(GROUPS).unwrap(), snapshot.chain_position(GROUPS).unwrap())
            };
            let result = filled.fill(stated, &mut |chunk| Ok(place.chunk(GROUPS, chunk)?));
            let (head, position) = reached();
            let again = filled.fill(stated, &mut |chunk| Ok(place.chunk(GROUPS, chunk)?));
            assert_eq!(again.is_ok(), result.is_ok());
            assert_eq!(reached(), (head, position), "the second time changes nothing");
            (result, head, position)
        });
        working.await.unwrap()
    }

    #[tokio::test]
    async fn a_strand_is_written_with_the_position_from_which_the_chain_is_read_on() {
        let maker = Maker::new();
        // The chain of the endpoints has one event; the second sequence id is void.
        maker.sign(100, GROUPS, 2, &[200]);
        let truth = EndpointStatements::truth();
        let (result, head, position) =
            filled(&maker, None, vec![truth.clone(), truth.clone()]).await;
        result.unwrap();
        assert_eq!(head, SequenceId(1), "the chain tells what is behind the last envelope");
        assert_eq!(position, Some(ChainPosition { block: BLOCK - 1, hash: [2; 32] }));
    }

    #[tokio::test]
    async fn a_stop_is_seen_before_each_question_and_before_anything_is_written() {
        let maker = Maker::new();
        maker.sign(100, GROUPS, 1, &[200]);
        let truth = EndpointStatements::truth();
        // One event is requested, and the stop is checked again before it is written.
        for looks in 0..4 {
            let said = vec![truth.clone(), truth.clone()];
            let (result, head, position) = filled_until(&maker, None, said, looks).await;
            if looks == 3 {
                result.unwrap();
                assert_eq!(head, SequenceId(1));
                continue;
            }
            let stopped = BootstrapFetchError::from(BootstrapError::Stopped).to_string();
            assert_eq!(result.unwrap_err().to_string(), stopped);
            assert_eq!((head, position), (SequenceId::NONE, None));
        }
    }

    #[tokio::test]
    async fn nothing_is_written_of_a_copy_that_lies_or_that_the_chain_contradicts() {
        let maker = Maker::new();
        maker.sign(100, GROUPS, PLACES, &[200]);
        let truth = EndpointStatements::truth();
        let mut envelopes = maker.envelopes();
        envelopes[1].1 = entry(GROUPS, 3, 6).bytes;
        let both = || vec![truth.clone(), truth.clone()];
        let (result, head, position) = filled(&maker, Some(&envelopes), both()).await;
        assert!(matches!(result, Err(BootstrapFetchError::OtherTree { .. })), "{result:?}");
        assert_eq!((head, position), (SequenceId::NONE, None));
        // The snapshot ends before the signed size.
        let (result, head, _) = filled(&maker, Some(&maker.envelopes()[..2]), both()).await;
        assert!(matches!(result, Err(BootstrapFetchError::OtherTree { .. })), "{result:?}");
        assert_eq!(head, SequenceId::NONE);
        // The tree is right, but the chain has only the first event.
        let (result, head, position) = filled(&maker, None, both()).await;
        assert!(matches!(result, Err(BootstrapFetchError::NotOnChain { .. })), "{result:?}");
        assert_eq!((head, position), (SequenceId::NONE, None));
        // One of the two endpoints makes another statement.
        let maker = Maker::new();
        maker.sign(100, GROUPS, 1, &[200]);
        let lie = EndpointStatements { payload: vec![1], ..truth.clone() };
        let (result, head, _) = filled(&maker, None, vec![truth.clone(), lie]).await;
        assert!(matches!(result, Err(BootstrapFetchError::ChainDisputed { .. })), "{result:?}");
        assert_eq!(head, SequenceId::NONE);
    }

    #[test]
    fn the_chain_is_asked_for_the_last_place_and_few_others() {
        let through = SequenceId(90);
        let mut asked = AskedPlaces::new(through);
        let bytes = |place: u64| (SequenceId(place), Bytes::from(place.to_be_bytes().to_vec()));
        for chunk in [1..=40, 41..=80, 81..=100_u64] {
            asked.note(&chunk.map(bytes).collect::<Vec<_>>());
        }
        let all = asked.all();
        assert!(all.contains_key(&through) && all.keys().all(|it| *it <= through));
        assert!((ASKED..=ASKED + 1).contains(&all.len()), "{}", all.len());
        assert!(all.iter().all(|(place, kept)| kept[..] == place.0.to_be_bytes()));
    }

    #[test]
    fn each_envelope_is_as_likely_to_be_asked_for_and_void_places_are_not() {
        let mut counts = [0_u32; 40];
        for _ in 0..1000 {
            // The places between them are void.
            let place = |at: u64| SequenceId(at << 40);
            let mut asked = AskedPlaces::new(SequenceId::MAX);
            for chunk in [0..13_u64, 13..40] {
                asked.note(&chunk.map(|at| (place(at + 1), Bytes::new())).collect::<Vec<_>>());
            }
            assert_eq!(asked.random.len(), ASKED);
            for (at, _) in &asked.random {
                counts[usize::try_from((at.0 >> 40) - 1).unwrap()] += 1;
            }
        }
        // 400 are expected of each, with a deviation of 15.
        assert!(counts.iter().all(|count| (200..600).contains(count)), "{counts:?}");
    }

    /// The maker of a snapshot chooses the length of its chunks.
    #[test]
    fn what_is_kept_of_a_chunk_does_not_keep_the_chunk_in_memory() {
        let through = SequenceId(3);
        let mut asked = AskedPlaces::new(through);
        let chunk = Bytes::from(vec![7; 1000]);
        asked.note(&[1, 2, 3].map(|place| (SequenceId(place), chunk.slice(0..10))));
        let all = asked.all();
        assert_eq!(all.keys().collect::<Vec<_>>(), [1, 2, 3].map(SequenceId).each_ref());
        assert!(all.values().all(|kept| **kept == chunk[..10]));
        let within = chunk.as_ptr_range();
        assert!(all.values().all(|kept| !within.contains(&kept.as_ptr())));
    }
}
