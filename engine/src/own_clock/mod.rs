//! Decides if this node's wall clock is too far ahead to date envelopes by it.
//!
//! A strand never goes back in time, so envelopes that are dated into the future date all that follow them. Two
//! sources show other clocks, each with the moment at which its time was current:
//!
//! - a block that appeared at the head of a chain while this node was looking;
//! - an envelope that a peer signed while it was connected: its clock frame says that its own strand has
//!   grown to a place, and the envelope of that place states the time.
//!
//! An envelope that was signed earlier and is only fetched now shows no clock. After a reading, the clock of its
//! source is assumed to run like this machine's monotonic clock.
//!
//! A peer can state any time, so one peer decides nothing: most of the peers whose clocks are known, and
//! two at least, have to be behind. A chain counts alone: its endpoint is the operator's choice.
//!
//! The wall clocks of machines that were suspended together, or that one time service corrects, rightly step ahead
//! together. Each machine is then ahead of every time that the others showed before the step, and because none of them
//! publishes, none shows a new time. So a reading no longer counts against the wall clock once a later block agrees
//! with the wall clock.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hawser_proto::{OriginatorId, SequenceId};

/// The largest lead over other clocks. Specified (`docs/protocol/rules.md`, Expiry and time).
const LEAD_NS_MAX: i64 = 5 * 60 * 1_000_000_000;
/// Age at which a reading becomes useless. A guess: monotonic clocks drift by less than a second in
/// this time.
const READING_AGE_MAX: Duration = Duration::from_secs(3600);
/// The longest wait for the envelope of a place that a peer has announced. A guess: an envelope that
/// comes later is one of many, and there are newer ones to wait for.
const ENVELOPE_WAIT_MAX: Duration = Duration::from_secs(60);
/// The time after a reading at which a block that agrees with the wall clock outweighs it. A guess: peers that publish
/// show new times every few seconds, so theirs still count beside the blocks of a wrong endpoint.
const OUTWEIGHED_AFTER: Duration = Duration::from_secs(60);
/// Peers whose clocks must be known before they decide anything. Calculated: one peer with a wrong clock must not stop
/// this node by itself.
const PEERS_MIN: usize = 2;

/// The difference to another clock above which an operator is warned, in nanoseconds. Specified (`docs/log-codes.md`):
/// hosts with a time service differ by milliseconds, and peers announce their places within a second.
const WARNED_ABOVE_NS: i64 = 2_000_000_000;

/// A source that shows another clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockSource {
    /// The newest block of a chain, with the chain's name.
    Chain(&'static str),
    /// The median of the peers' clocks.
    Peers,
}

impl ClockSource {
    /// Returns the name that logs and metrics use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Chain(name) => name,
            Self::Peers => "peers",
        }
    }
}

/// The lead of this machine's clock over another clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockLead {
    /// The source of the other clock.
    pub source: ClockSource,
    /// The lead in nanoseconds; negative if this machine's clock is behind.
    pub lead_ns: i64,
}

impl ClockLead {
    /// Returns true if the lead calls for a look at this machine's clock. A block appears some time after the time that
    /// it states, so it shows only a clock that is behind.
    #[must_use]
    pub fn is_off(self) -> bool {
        match self.source {
            ClockSource::Chain(_) => self.lead_ns < -WARNED_ABOVE_NS,
            ClockSource::Peers => self.lead_ns.unsigned_abs() > WARNED_ABOVE_NS.unsigned_abs(),
        }
    }
}

/// This node's clock is ahead of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClockAheadError {
    /// Blocks of a chain appear with much earlier times.
    #[error(
        "this node's clock is {lead_s} s ahead of the newest block of the {chain} chain: nothing is published \
         until the clock is corrected"
    )]
    Chain {
        /// The chain's name.
        chain: &'static str,
        /// The lead, seconds.
        lead_s: i64,
    },
    /// Most peers date their new envelopes much earlier.
    #[error(
        "this node's clock is {lead_s} s ahead of the clocks of most other nodes: nothing is published until the \
         clock is corrected"
    )]
    Peers {
        /// The lead over the median of their clocks, seconds.
        lead_s: i64,
    },
}

/// The known clocks of chains and peers. Reads no clock itself: `at` and `now` are moments of the
/// monotonic clock, and `wall_ns` is this node's wall clock in unix nanoseconds.
#[derive(Debug, Default)]
pub struct OtherClocks {
    chains: BTreeMap<&'static str, ClockReading>,
    peers: BTreeMap<OriginatorId, PeerStrand>,
}

/// A time that another clock showed at a moment.
#[derive(Debug, Clone, Copy)]
struct ClockReading {
    time_ns: i64,
    at: Instant,
}

impl ClockReading {
    /// Returns the lead of `wall_ns` over this clock; `None` if the reading is too old.
    fn lead_ns(self, now: Instant, wall_ns: i64) -> Option<i64> {
        let age = now.saturating_duration_since(self.at);
        let age_ns = i64::try_from(age.as_nanos()).ok().filter(|_| age <= READING_AGE_MAX)?;
        Some(wall_ns.saturating_sub(self.time_ns.saturating_add(age_ns)))
    }

    /// Returns true if a block that agrees with the wall clock outweighs this reading: it appeared at `agreed`,
    /// [`OUTWEIGHED_AFTER`] or more after the reading.
    fn is_outweighed(self, agreed: Option<Instant>) -> bool {
        let since = agreed.map(|agreed| agreed.saturating_duration_since(self.at));
        since.is_some_and(|since| since >= OUTWEIGHED_AFTER)
    }
}

/// The claims and envelopes of a connected peer about its own strand.
#[derive(Debug)]
struct PeerStrand {
    /// The highest head that it has claimed.
    claimed: SequenceId,
    /// A head that it has moved to, and the moment of that claim, while its envelope is not here.
    awaited: Option<(SequenceId, Instant)>,
    /// The last envelope that it has sent: place and time.
    last: Option<(SequenceId, i64)>,
    reading: Option<ClockReading>,
}

impl OtherClocks {
    /// Notes that a block appeared at the head of a chain at the moment `at`.
    pub fn note_block(&mut self, chain: &'static str, time_ns: i64, at: Instant) {
        self.chains.insert(chain, ClockReading { time_ns, at });
    }

    /// Notes that a peer has connected, and the head of its own strand that it claims at that time. The age of that
    /// head is not known.
    pub fn note_peer_up(&mut self, peer: OriginatorId, claimed: SequenceId) {
        let fresh = PeerStrand { claimed, awaited: None, last: None, reading: None };
        self.peers.insert(peer, fresh);
    }

    /// Notes that a peer has disconnected.
    pub fn note_peer_down(&mut self, peer: OriginatorId) {
        self.peers.remove(&peer);
    }

    /// Notes the head of its own strand that a connected peer claims. A head that rises has just moved,
    /// because peers announce it within a second.
    pub fn note_head(&mut self, peer: OriginatorId, head: SequenceId, at: Instant) {
        let Some(peer) = self.peers.get_mut(&peer).filter(|peer| peer.claimed < head) else {
            return;
        };
        peer.claimed = head;
        if let Some((_, time_ns)) = peer.last.filter(|(place, _)| *place >= head) {
            peer.reading = Some(ClockReading { time_ns, at });
            return;
        }
        let is_late = |since: Instant| at.saturating_duration_since(since) > ENVELOPE_WAIT_MAX;
        if peer.awaited.is_none_or(|(_, since)| is_late(since)) {
            peer.awaited = Some((head, at));
        }
    }

    /// Notes a verified envelope of a connected peer's own strand, which that peer has sent itself, and the
    /// time that it states.
    pub fn note_envelope(&mut self, peer: OriginatorId, place: SequenceId, time_ns: i64) {
        let Some(peer) = self.peers.get_mut(&peer) else { return };
        if let Some((awaited, at)) = peer.awaited.filter(|(awaited, _)| *awaited <= place) {
            peer.awaited = None;
            if awaited == place {
                peer.reading = Some(ClockReading { time_ns, at });
            }
        }
        if peer.last.is_none_or(|(last, _)| last < place) {
            peer.last = Some((place, time_ns));
        }
    }

    /// Checks that the wall clock is not too far ahead.
    ///
    /// # Errors
    /// [`ClockAheadError`] if it is, by one of the chains or by most of the peers.
    pub fn check(&self, now: Instant, wall_ns: i64) -> Result<(), ClockAheadError> {
        let lead_s = |lead_ns: i64| lead_ns / 1_000_000_000;
        let agreed = self.agreed_at(now, wall_ns);
        let lead_ns = |reading: ClockReading| {
            let lead_ns = reading.lead_ns(now, wall_ns)?;
            // It still votes against those that are ahead: fewer readings would give a liar more weight.
            Some(if reading.is_outweighed(agreed) { lead_ns.min(0) } else { lead_ns })
        };
        for (chain, reading) in &self.chains {
            if let Some(lead_ns) = lead_ns(*reading).filter(|lead| *lead > LEAD_NS_MAX) {
                return Err(ClockAheadError::Chain { chain, lead_s: lead_s(lead_ns) });
            }
        }
        match self.median_of_peers_ns(lead_ns) {
            Some(lead_ns) if lead_ns > LEAD_NS_MAX => {
                Err(ClockAheadError::Peers { lead_s: lead_s(lead_ns) })
            }
            _ => Ok(()),
        }
    }

    /// Returns the lead of the wall clock over each chain, and over the peers. A source that has shown no time for an
    /// hour is left out, as are the peers while the clocks of fewer than two are known.
    #[must_use]
    pub fn leads(&self, now: Instant, wall_ns: i64) -> Vec<ClockLead> {
        let chains = self
            .chains
            .iter()
            .map(|(&chain, reading)| (ClockSource::Chain(chain), reading.lead_ns(now, wall_ns)));
        let lead_ns = self.median_of_peers_ns(|reading| reading.lead_ns(now, wall_ns));
        let peers = (ClockSource::Peers, lead_ns);
        let all = chains.chain(std::iter::once(peers));
        all.filter_map(|(source, lead_ns)| Some(ClockLead { source, lead_ns: lead_ns? })).collect()
    }

    /// Returns the latest time that the clocks of most peers have passed, if the wall clock is behind it; otherwise
    /// `wall_ns`. A node whose own clock is behind must not hold its lag against others.
    #[must_use]
    pub fn majority_time_ns(&self, now: Instant, wall_ns: i64) -> i64 {
        let leads = self.leads_over_peers_ns(|reading| reading.lead_ns(now, wall_ns));
        // More than half of them are at least as far ahead.
        let lead_ns = leads.map_or(0, |leads| leads[leads.len() / 2].min(0));
        wall_ns.saturating_sub(lead_ns)
    }

    /// Returns the moment at which the newest block appeared that is within [`LEAD_NS_MAX`] of the wall clock.
    fn agreed_at(&self, now: Instant, wall_ns: i64) -> Option<Instant> {
        let agrees = |lead_ns: i64| lead_ns.unsigned_abs() <= LEAD_NS_MAX.unsigned_abs();
        let agreeing =
            self.chains.values().filter(|block| block.lead_ns(now, wall_ns).is_some_and(agrees));
        agreeing.map(|block| block.at).max()
    }

    /// Returns the median of the leads over the peers' clocks; `None` if too few are known.
    fn median_of_peers_ns(&self, lead_ns: impl Fn(ClockReading) -> Option<i64>) -> Option<i64> {
        let leads = self.leads_over_peers_ns(lead_ns)?;
        // Of an even number the lower one of the two in the middle: more than half are behind then.
        Some(leads[(leads.len() - 1) / 2])
    }

    /// Returns the leads over the peers' clocks, ascending; `None` if too few are known.
    fn leads_over_peers_ns(
        &self,
        lead_ns: impl Fn(ClockReading) -> Option<i64>,
    ) -> Option<Vec<i64>> {
        let readings = self.peers.values().filter_map(|peer| peer.reading);
        let mut leads: Vec<i64> = readings.filter_map(lead_ns).collect();
        leads.sort_unstable();
        (leads.len() >= PEERS_MIN).then_some(leads)
    }
}
