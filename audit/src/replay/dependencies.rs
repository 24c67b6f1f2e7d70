//! The times of places of chains, by which the dependencies of nodes' envelopes are judged.
//!
//! Nothing that a chain's envelope states is signed, so a keeper may date it as it likes. A wrong dependency alone
//! holds no signer accountable.

use std::collections::BTreeMap;

use hawser_proto::minute::MINUTE_NS;
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId, minute_of};
use hawser_rules::misbehavior::DEPENDENCY_LEAD_NS_MAX;
use serde::{Deserialize, Serialize};

use super::fault::{Fault, FaultKind};

/// Minutes of one chain's strand that are remembered. A guess: seven years, and 64 MiB.
const MINUTES_MAX: usize = 4_000_000;

/// The times of both chains' strands.
pub(crate) type TimesOfChains = BTreeMap<OriginatorId, ChainTimes>;

/// The first place of each minute in which a chain's strand has places. Times of blocks never descend, so no place is
/// older than the last one of these up to it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChainTimes(Vec<(SequenceId, u32)>);

impl ChainTimes {
    /// Adds the time of a place behind those that were added, unix nanoseconds.
    pub(crate) fn add(&mut self, place: SequenceId, ns: i64) {
        let minute = minute_of(ns);
        let is_later = self.0.last().is_none_or(|(_, last)| minute > *last);
        if is_later && self.0.len() < MINUTES_MAX {
            self.0.push((place, minute));
        }
    }

    /// Adds the times of a range of places behind these.
    pub(crate) fn join(&mut self, after: Self) {
        let last = self.0.last().map(|(_, minute)| *minute);
        let is_later = |entry: &(SequenceId, u32)| last.is_none_or(|last| entry.1 > last);
        self.0.extend(after.0.into_iter().filter(is_later));
        self.0.truncate(MINUTES_MAX);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the first place; `None` if there are no times.
    pub(crate) fn first(&self) -> Option<SequenceId> {
        self.0.first().map(|(place, _)| *place)
    }

    /// Returns the number of minutes.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the bytes over which a digest is made.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.0.len() * 12);
        for (place, minute) in &self.0 {
            bytes.extend_from_slice(&place.0.to_be_bytes());
            bytes.extend_from_slice(&minute.to_be_bytes());
        }
        bytes
    }

    /// Checks that these can be times of a strand up to `reached`.
    ///
    /// # Errors
    /// A sentence for people that names the impossible value.
    pub(crate) fn check(&self, reached: u64) -> Result<(), &'static str> {
        let ascends = self.0.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1);
        let is_within = self.0.last().is_none_or(|(place, _)| place.0 <= reached);
        match ascends && is_within && self.0.len() <= MINUTES_MAX {
            true => Ok(()),
            false => Err("the times of its places do not ascend up to the place reached"),
        }
    }

    /// Returns a time before which the chain did not have a place, unix nanoseconds; `None` if none is known.
    fn not_before_ns(&self, place: SequenceId) -> Option<i64> {
        let behind = self.0.partition_point(|(first, _)| *first <= place);
        let (_, minute) = self.0.get(behind.checked_sub(1)?)?;
        Some(i64::from(*minute).saturating_mul(MINUTE_NS))
    }
}

/// Returns the fault of an envelope that depends on a place which its chain did not have yet. `ns` is the envelope's
/// time, unix nanoseconds.
pub(crate) fn dependency(
    id: EnvelopeId,
    ns: i64,
    depends_on: &[EnvelopeId],
    chains: &TimesOfChains,
) -> Option<Fault> {
    let limit_ns = ns.saturating_add(DEPENDENCY_LEAD_NS_MAX);
    depends_on.iter().filter(|needed| needed.sequence != SequenceId::NONE).find_map(|needed| {
        let not_before_ns = chains.get(&needed.originator)?.not_before_ns(needed.sequence)?;
        (not_before_ns > limit_ns).then(|| {
            let text = format!(
                "its time is {ns} ns, and it depends on {needed}, which the chain did not have before {not_before_ns} \
                 ns"
            );
            Fault::at(FaultKind::Dependency, id, text)
        })
    })
}
