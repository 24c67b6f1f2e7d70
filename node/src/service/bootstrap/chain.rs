//! A chain's strand from a snapshot: taken up to the tree that most nodes of the network have signed, and compared with
//! the chain at some of its sequence ids.
//!
//! Nothing in such a strand is signed by its originator. The maker of a snapshot may therefore exchange, invent or
//! omit events; the tree then differs from the one that most nodes have signed. He cannot claim that the chain was
//! read further than it was, which would skip events: a snapshot states no position, and the chain itself is asked
//! for the block of the last event. A majority of nodes can still lie together. They are detected if the chain
//! lacks one of the requested events, and are believed otherwise; so a chain's strand is taken only if the operator
//! requests that.
//!
//! Invariant: the folder has the strand up to at most the signed size.

use std::collections::BTreeSet;

use alloy::primitives::B256;
use hawser_chain::index::lookup::{self, AgreementError};
use hawser_chain::index::walk::BlockHeader;
use hawser_engine::chain_strand::{ChainEvent, ChainPosition};
use hawser_engine::runtime::ChainAppendError;
use hawser_proto::envelope::{OriginatorEnvelope, Proof};
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SequenceId};
use hawser_storage::{BootstrapStrand, Bootstraps, ChainCommit, Change, SkipReason, Store};

use super::checkpoints::MajorityTree;
use super::error::BootstrapFetchError;
use super::report::{FetchedChain, FetchedStrand};
use super::strand::{self, Gaps, Write, Writing};
use crate::service::network::chains::StrandContract;

/// The number of randomly chosen envelopes that are compared with the chain, besides the last one. A guess: with two
/// requests each they take seconds, and if a tenth of the events are false, they remain undetected once in five times.
pub(super) const ASKED: usize = 16;

/// The number of random sequence ids that are tried for one of these envelopes. Computed: nearly always enough if one
/// of a thousand has an envelope, and all tries take less than a second. Nodes that lie together could otherwise hide
/// false events among void sequence ids.
const TRIES_MAX: usize = 4096;

/// The number of endpoints of a chain that have to agree about an event, because a single one can invent a chain.
const ENDPOINTS_WANTED: usize = 2;

/// The grounds for taking a chain's strand.
pub(super) struct ChainGrounds {
    /// The tree that most nodes have signed.
    pub(super) signed: MajorityTree,
    /// The contract whose events are requested from the chain.
    pub(super) contract: AskedContract,
}

/// A contract, with the number of endpoints that have to answer.
pub(super) struct AskedContract {
    contract: StrandContract,
    wanted: usize,
}

impl AskedContract {
    /// Checks that there are enough endpoints: two, unless the operator trusts a single one.
    ///
    /// # Errors
    /// [`BootstrapFetchError::OneEndpoint`].
    pub(super) fn new(
        contract: StrandContract,
        trusts_one_endpoint: bool,
    ) -> Result<Self, BootstrapFetchError> {
        let wanted = if trusts_one_endpoint { 1 } else { ENDPOINTS_WANTED };
        let named: BTreeSet<String> =
            contract.endpoints.status().into_iter().map(|it| it.display_url).collect();
        if named.len() < wanted {
            return Err(BootstrapFetchError::OneEndpoint);
        }
        Ok(Self { contract, wanted })
    }

    /// Returns the first block that may have an event of the strand.
    pub(super) fn first_block(&self) -> u64 {
        self.contract.first_block
    }
}

/// A function that appends events of a chain to the log, such as `ChainAppender::append`.
pub(super) type Append<'a> =
    &'a dyn Fn(OriginatorId, &[ChainEvent]) -> Result<(), ChainAppendError>;

/// Appends the envelopes that the log lacks, up to the signed size, in the same way as envelopes from the chain;
/// identity updates are validated here. Calls `note` with the length in bytes of each chunk.
///
/// # Errors
/// The first error. Earlier envelopes are then in the log, and no tree has been compared.
pub(super) fn take_over(
    place: &Bootstraps,
    store: &Store,
    stated: &BootstrapStrand,
    signed: &MajorityTree,
    append: Append<'_>,
    note: &mut dyn FnMut(u64),
) -> Result<FetchedStrand, BootstrapFetchError> {
    let originator = stated.originator;
    let through = signed.end();
    let head = store.snapshot().head(originator)?;
    if head > through {
        return Err(BootstrapFetchError::ChainAhead { originator, head, signed: through.0 });
    }
    let write: Write<'_> = &|head, envelopes| write_events(originator, append, head, envelopes);
    let writing = Writing::new(write, Gaps::Mark, head, through);
    let (head, mut reached) = strand::take_over(place, stated, writing, note)?;
    if head < through {
        // After the last envelope, all sequence ids up to the signed size are void.
        reached.missing += through.0 - head.0;
        let (from, reason) = (head.next(), SkipReason::Void);
        store.commit(&[Change::Skip { originator, from, through, reason }])?;
    }
    Ok(FetchedStrand::new(originator, through, reached))
}

/// Appends envelopes as the events from which they were made.
///
/// # Errors
/// [`BootstrapFetchError::NoEvent`], and those of `append`.
pub(super) fn write_events(
    originator: OriginatorId,
    append: Append<'_>,
    mut head: SequenceId,
    envelopes: &[(SequenceId, Bytes)],
) -> Result<u64, BootstrapFetchError> {
    let mut events = Vec::with_capacity(envelopes.len());
    for (place, bytes) in envelopes {
        let event = ChainEvent::of_bytes(EnvelopeId::new(originator, *place), bytes);
        let no_event = BootstrapFetchError::NoEvent { originator, place: *place };
        let mut event = event.ok_or(no_event)?;
        // Events of a chain do not expire, so missing sequence ids before this event are void, as if the contract's
        // operator had skipped them. The tree shows whether that is true.
        event.bootstrapped = head.next() < *place;
        head = *place;
        events.push(event);
    }
    append(originator, &events)?;
    Ok(0)
}

/// Requires that the strand has the signed tree, and records it.
///
/// # Errors
/// [`BootstrapFetchError::OtherTree`].
pub(super) fn require_tree(
    store: &Store,
    signed: &MajorityTree,
    strand: &mut FetchedStrand,
) -> Result<(), BootstrapFetchError> {
    let originator = strand.originator;
    let snapshot = store.snapshot();
    let of = signed.checkpoint.signed.checkpoint;
    if snapshot.tree_size(originator)? != of.size || snapshot.root(originator, of.size)? != of.root
    {
        let (node, size) = (of.node, of.size);
        return Err(BootstrapFetchError::OtherTree { originator, node, size });
    }
    strand.covered = Some(signed.checkpoint.clone());
    Ok(())
}

/// Compares some sequence ids with the chain, including the last one, and sets the position from
/// which the node reads the chain.
///
/// # Errors
/// [`BootstrapFetchError::NotOnChain`] for an event that the chain lacks, [`BootstrapFetchError::ChainDisputed`] when
/// its endpoints contradict each other, and others when the chain cannot be asked.
pub(super) async fn compare(
    store: &Store,
    grounds: &ChainGrounds,
    strand: &mut FetchedStrand,
) -> Result<(), BootstrapFetchError> {
    let ChainGrounds { signed, contract } = grounds;
    let (originator, through) = (strand.originator, signed.end());
    let last = store.snapshot().last_held_through(EnvelopeId::new(originator, through))?;
    let mut chain = FetchedChain {
        nodes: signed.nodes.clone(),
        confirmed: 0,
        next_block: contract.first_block(),
    };
    let mut position = None;
    if let Some((at, bytes)) = last {
        let header = require_on_chain(contract, at, &bytes).await?;
        chain.confirmed += 1;
        // The block is read again, because it may contain further events of the strand.
        position = position_before(contract, &header);
        if position.is_some() {
            chain.next_block = header.block.number;
        }
    }
    for _ in 0..ASKED {
        let Some((at, bytes)) = random_envelope(store, originator, through)? else { break };
        require_on_chain(contract, at, &bytes).await?;
        chain.confirmed += 1;
    }
    if position.is_some() {
        let (changes, resolved) = (Vec::new(), Vec::new());
        store.commit_chain(&ChainCommit { originator, changes, resolved, position })?;
    }
    strand.of_chain = Some(chain);
    Ok(())
}

/// Returns a random envelope of a strand up to `through`; `None` if nearly all sequence ids are void.
fn random_envelope(
    store: &Store,
    originator: OriginatorId,
    through: SequenceId,
) -> Result<Option<(EnvelopeId, Bytes)>, BootstrapFetchError> {
    let snapshot = store.snapshot();
    for _ in 0..TRIES_MAX {
        let at = SequenceId(rand::random_range(1..=through.0.max(1)));
        let at = EnvelopeId::new(originator, at);
        if let Some(bytes) = snapshot.get(at)? {
            return Ok(Some((at, bytes)));
        }
    }
    Ok(None)
}

/// Returns the position from which the node reads `header`'s block next; `None` if that is the contract's first block.
pub(super) fn position_before(
    contract: &AskedContract,
    header: &BlockHeader,
) -> Option<ChainPosition> {
    let block = header.block.number.checked_sub(1)?;
    (block >= contract.first_block()).then_some(ChainPosition { block, hash: header.parent.0 })
}

/// Requires that the chain has the event from which an envelope was made, according to all answering
/// endpoints. A single one could name a block far ahead, for which the node would wait instead of reading.
/// Returns the header of its block.
pub(super) async fn require_on_chain(
    contract: &AskedContract,
    at: EnvelopeId,
    bytes: &Bytes,
) -> Result<BlockHeader, BootstrapFetchError> {
    let EnvelopeId { originator, sequence: place } = at;
    let absent = || BootstrapFetchError::NotOnChain { originator, place };
    let envelope = OriginatorEnvelope::parse(bytes.clone()).map_err(|_| absent())?;
    let Proof::Transaction(transaction) = envelope.proof() else { return Err(absent()) };
    let AskedContract { contract: StrandContract { endpoints, source, address, .. }, wanted } =
        contract;
    let transaction = B256::from(transaction);
    let found = lookup::agreed_broadcasts(endpoints, *source, *address, transaction, *wanted).await;
    let (found, header) = found
        .map_err(|error| match error {
            AgreementError::Rpc(error) => error.into(),
            AgreementError::Disputed { endpoint, how } => {
                BootstrapFetchError::ChainDisputed { originator, place, endpoint, how }
            }
            AgreementError::TooFew { answered, wanted } => {
                BootstrapFetchError::FewEndpoints { originator, place, answered, wanted }
            }
        })?
        .ok_or_else(absent)?;
    let client = envelope.unsigned().payer().client().as_bytes();
    let is_it = |(number, payload): &(SequenceId, alloy::primitives::Bytes)| {
        *number == place && payload.0 == *client
    };
    let time_ns = i64::try_from(header.time_s).ok().and_then(|it| it.checked_mul(1_000_000_000));
    if !found.payloads.iter().any(is_it) || time_ns != Some(envelope.unsigned().originator_ns()) {
        return Err(absent());
    }
    Ok(header)
}

#[cfg(test)]
mod tests;
