//! Decides if this node may assign places in its own strand, and from which peer it takes the envelopes that it
//! lacks.
//!
//! Two envelopes for one place are the one fault that cannot be undone. A node commits it when it signs from a
//! state that is not the end of its strand: a restored backup, an empty folder, a second process. So signing begins
//! only when the node knows the end. That depends on the folder:
//!
//! - the one that this host wrote last: signing begins when its peers have been asked, at most [`ASK_FOR`] after
//!   the start;
//! - a new one, by the operator's flag: when a majority of the other canonical nodes has answered; after
//!   [`ASK_FOR`] also by the operator's confirmation. A peer that shows a place of the strand refutes the flag;
//! - an unknown one: after a quarantine, when a majority of the other canonical nodes has answered, or by the
//!   operator's confirmation; it then begins one to 256 times [`GAP`] places above everything that was shown.
//!
//! A peer's clock is a claim. It keeps the node from signing for ten seconds only, in which the peer has to show an
//! envelope, or for 75 seconds at most while bytes of one arrive. An envelope of the strand that this node does not
//! hold is a proof. See `docs/decisions/0014-which-folder-may-sign.md`.

mod answers;
mod gap;
#[cfg(test)]
mod release_tests;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use hawser_proto::{OriginatorId, SequenceId};
use hawser_storage::{FolderStanding, UnknownFolder};

use answers::Answers;
pub use gap::{GAP, GAP_MAX, gap_of, gap_of_start};

/// The longest time for which a known folder waits for the first answers of peers. A guess: handshakes
/// take milliseconds, and a restart is to be over within two seconds.
pub const ASK_FOR: Duration = Duration::from_millis(1500);
/// The shortest quarantine. A guess: a process that still signs with the key publishes or is seen
/// within it.
const LISTEN_FOR: Duration = Duration::from_secs(10);
/// The longest time for which the node still waits, after the operator's confirmation, while peers show
/// further places. A guess.
const CONFIRMATION_WAITS_FOR: Duration = Duration::from_secs(30);
/// The difference of two hosts' clocks up to which nothing indicates a second process. A guess: hosts with a time
/// service differ by milliseconds.
const CLOCKS_DIFFER_NS: i64 = 5_000_000_000;

/// The reason a node does not sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnStrandStatus {
    /// The node may sign.
    Ready,
    /// Peers are asked for the end of the strand, at the start.
    Asking,
    /// A peer claims to hold more of the strand, and is asked to show it.
    Claimed {
        /// The peer.
        peer: OriginatorId,
        /// The head that it claims.
        head: SequenceId,
    },
    /// The folder may lack the end of the strand.
    Quarantined(Quarantine),
    /// Another process signs with the node's key, or the folder was set back while the node published.
    Stopped,
}

impl OwnStrandStatus {
    /// Returns the reason for which this node waits for its operator; `None` while it does not.
    #[must_use]
    pub fn reason(&self) -> Option<UnknownFolder> {
        match self {
            Self::Quarantined(quarantine) => Some(quarantine.reason),
            Self::Stopped => Some(UnknownFolder::Stopped),
            Self::Ready | Self::Asking | Self::Claimed { .. } => None,
        }
    }

    /// Returns true if both have the same kind and the same reason, so that one answer of the operator fits both.
    #[must_use]
    pub fn is_as(&self, other: &Self) -> bool {
        let kind = std::mem::discriminant::<Self>;
        kind(self) == kind(other) && self.reason() == other.reason()
    }
}

/// The state of a quarantine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quarantine {
    /// The reason for it.
    pub reason: UnknownFolder,
    /// Other canonical nodes that have answered.
    pub answered: usize,
    /// Other canonical nodes.
    pub others: usize,
    /// True if only the operator's confirmation ends it.
    pub needs_confirmation: bool,
}

impl Quarantine {
    /// Returns the number of answers that ends the quarantine; `None` if none does.
    #[must_use]
    pub fn needed(&self) -> Option<usize> {
        (self.others > 0 && !self.needs_confirmation).then(|| majority(self.others))
    }
}

/// Returns the number of answers that is more than half; 0 without other nodes.
fn majority(others: usize) -> usize {
    if others == 0 { 0 } else { others / 2 + 1 }
}

/// The operator's confirmation that no other process signs with the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OperatorConfirmation {
    /// Places to leave out: 0 if the folder holds everything that was ever signed.
    pub gap: u64,
    /// The status that the operator knew. The confirmation does not cover facts that the node has noticed since: a
    /// second process, or a strand of a key that was declared new.
    pub about: OwnStrandStatus,
}

/// The permission to sign, to be put into effect by the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Release {
    /// The last place to leave out, above the strand's head; `None` leaves none out.
    pub skip_through: Option<SequenceId>,
}

/// The state of the surroundings of the node at one moment.
#[derive(Debug, Clone, Default)]
pub struct StrandObservation {
    /// Head of the own strand on disk. To be read after the claims, which follow it.
    pub held: SequenceId,
    /// This process has signed at least one envelope.
    pub has_signed: bool,
    /// The other canonical nodes of the registry.
    pub others: BTreeSet<OriginatorId>,
    /// The connected peers, each with the head of this node's strand that it claims; `None` for a peer that has
    /// stated no heads.
    pub claims: BTreeMap<OriginatorId, Option<SequenceId>>,
}

/// State machine of a node's right to sign. Does no I/O and reads no clock.
///
/// After each input, follow [`source`](Self::source), carry out [`release`](Self::release), and call
/// [`observe`](Self::observe) again by [`poll_timeout`](Self::poll_timeout).
///
/// Invariant: [`OwnStrandStatus::Ready`] comes only after a release was carried out, and the node holds or
/// has left out every place that was shown by then.
#[derive(Debug)]
pub struct OwnStrandGuard {
    phase: Phase,
    /// The time of the last observation.
    now: Instant,
    held: SequenceId,
    others: BTreeSet<OriginatorId>,
    answers: Answers,
    /// The highest place that this host is known to have signed, from any of its folders.
    host_head: SequenceId,
    /// A peer has shown a place above `held` since the last observation. By the next one the place may be
    /// stored, and no longer looks like something that the folder lacked.
    is_contradicted: bool,
    /// A contradiction has closed the gate before anything was signed. Requests that had places by then may be signed
    /// since.
    may_sign_yet: bool,
    /// The node's clock at the start.
    started_ns: i64,
    /// Envelopes of the strand with a later time were signed by another process.
    foreign_after_ns: i64,
    /// Places that a release by a majority of answers leaves out.
    gap: u64,
    /// The head from which the gap of a release that is not carried out yet was computed.
    before_gap: Option<SequenceId>,
    /// The last place before those that this process may have signed, from the last release on.
    released_behind: SequenceId,
    /// The last place that a release which is not carried out yet was about to declare void. No place up to it may be
    /// signed, whatever the operator says since then.
    declared: SequenceId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The node asks its peers, and has too few answers.
    Asking {
        until: Instant,
        /// The operator has declared the strand new, so only a majority of answers ends this.
        is_new: bool,
    },
    Quarantine {
        reason: UnknownFolder,
        since: Instant,
        /// The operator's last decision, and the time at which it was given.
        confirmation: Option<(OperatorConfirmation, Instant)>,
    },
    Ready,
    Stopped,
}

impl OwnStrandGuard {
    /// Starts with the store's knowledge of its folder. `host_head` is the highest place that this host is known to
    /// have signed, from any of its folders; `now_ns` is the node's clock.
    #[must_use]
    pub fn new(standing: FolderStanding, host_head: SequenceId, now: Instant, now_ns: i64) -> Self {
        let phase = match standing {
            // Peers are asked about a folder without a judgement yet, and the guard is created again after the
            // judgement.
            FolderStanding::Newest | FolderStanding::Unjudged => {
                Phase::Asking { until: now + ASK_FOR, is_new: false }
            }
            FolderStanding::New => Phase::Asking { until: now + ASK_FOR, is_new: true },
            FolderStanding::Unknown(reason) => {
                Phase::Quarantine { reason, since: now, confirmation: None }
            }
        };
        Self {
            phase,
            now,
            held: SequenceId::NONE,
            others: BTreeSet::new(),
            answers: Answers::default(),
            host_head,
            is_contradicted: false,
            may_sign_yet: false,
            started_ns: now_ns,
            foreign_after_ns: now_ns.saturating_add(CLOCKS_DIFFER_NS),
            gap: GAP,
            before_gap: None,
            released_behind: SequenceId::NONE,
            declared: SequenceId::NONE,
        }
    }

    /// Sets another gap than [`GAP`] for a release by a majority of answers.
    #[must_use]
    pub fn with_gap(self, gap: u64) -> Self {
        Self { gap, ..self }
    }

    /// Handles the passage of time and the changes since the last call.
    pub fn observe(&mut self, now: Instant, seen: StrandObservation) {
        let StrandObservation { held, has_signed, others, claims } = seen;
        (self.now, self.held, self.others) = (now, held, others);
        self.answers.update(now, held, claims);
        let is_contradicted = std::mem::take(&mut self.is_contradicted);
        if is_contradicted || self.answers.shown() > held {
            self.note_proof(now, has_signed);
        }
        if has_signed && std::mem::take(&mut self.may_sign_yet) {
            // Places may have been given out twice after all.
            self.phase = Phase::Stopped;
        }
        if let Phase::Asking { until, is_new: true } = self.phase
            && now >= until
        {
            let reason = UnknownFolder::Unanswered;
            self.phase = Phase::Quarantine { reason, since: until, confirmation: None };
        }
    }

    /// Handles an envelope of the own strand with a valid signature that this node did not hold when the
    /// peer showed it. `originator_ns` is its time, if it is known. To be called before the observation
    /// whose head may include the envelope, and followed by that observation.
    pub fn note_shown(
        &mut self,
        now: Instant,
        peer: OriginatorId,
        sequence: SequenceId,
        originator_ns: Option<i64>,
    ) {
        self.answers.note_shown(now, peer, sequence);
        self.is_contradicted |= sequence > self.held;
        if originator_ns.is_some_and(|ns| ns > self.foreign_after_ns) {
            // Signed since this process started, and not by this process.
            self.phase = Phase::Stopped;
        }
    }

    /// Handles bytes of a peer's answer that have arrived, of which nothing is whole yet: over a slow link, a long
    /// envelope takes longer than a peer may show nothing. To be followed by an observation.
    pub fn note_arriving(&mut self, now: Instant, peer: OriginatorId) {
        self.answers.note_arriving(now, peer);
    }

    /// Handles that this node itself has kept the peer of [`source`](Self::source) from being asked until now: its disk
    /// hangs, or another task has the strand. The peer's time to show something has not begun. To be followed by an
    /// observation.
    pub fn note_unasked(&mut self, now: Instant) {
        self.answers.note_unasked(now);
    }

    /// Handles a statement of this node, made at `time_ns`, that it left out places up to `through`: another of its
    /// folders has continued behind that place, or was about to. To be followed by an observation.
    pub fn note_declared(&mut self, through: SequenceId, time_ns: i64) {
        // The release has taken account of everything that was shown before it.
        let is_news = through > self.answers.shown();
        self.answers.note_declared(through);
        let is_foreign = through > self.held && time_ns > self.foreign_after_ns;
        // The other folder signs the places behind its gap, as this one does. One with a narrower gap has to stop by
        // itself. Two operators may confirm within a few seconds, so no difference of clocks is allowed for here, and a
        // confirmation excuses only what was shown by then.
        let signs_the_same = matches!(self.phase, Phase::Ready)
            && is_news
            && through >= self.released_behind
            && time_ns > self.started_ns;
        if is_foreign || signs_the_same {
            // Signed since this process started, and not by this process.
            self.phase = Phase::Stopped;
        }
    }

    /// Notes that the places of a release, up to `through`, are about to be declared void. If the release fails, the
    /// statement may be on disk, and with peers: every later release leaves these places out too, without a gap above
    /// them.
    pub fn note_declaring(&mut self, through: SequenceId) {
        self.declared = self.declared.max(through);
    }

    /// Notes that the places of a release are on disk as left out, before the next observation. The release may still
    /// fail; it then leaves out no more places, unless a higher one is shown.
    pub fn note_left_out(&mut self) {
        self.before_gap.get_or_insert(self.held);
    }

    /// Handles the operator's confirmation. It has no effect while no quarantine needs it, or if it is about another
    /// status. A second one in the same quarantine changes only the places to leave out: it neither excuses what
    /// another process has signed since the first one, nor makes the operator wait again.
    pub fn note_confirmation(
        &mut self,
        now: Instant,
        now_ns: i64,
        confirmation: OperatorConfirmation,
    ) {
        if !confirmation.about.is_as(&self.status()) {
            return;
        }
        let (reason, since) = match &mut self.phase {
            Phase::Quarantine { confirmation: Some((earlier, _)), .. } => {
                *earlier = confirmation;
                return;
            }
            Phase::Quarantine { reason, since, .. } => (*reason, *since),
            Phase::Stopped => (UnknownFolder::Stopped, now),
            Phase::Asking { .. } | Phase::Ready => return,
        };
        // The operator confirms after the envelopes that the other process has signed until now. Only later ones
        // contradict the confirmation.
        self.foreign_after_ns = now_ns.saturating_add(CLOCKS_DIFFER_NS);
        self.phase = Phase::Quarantine { reason, since, confirmation: Some((confirmation, now)) };
    }

    /// Notes that a release was carried out.
    ///
    /// # Panics
    /// If none was due.
    pub fn note_released(&mut self) {
        let is_due = matches!(self.phase, Phase::Asking { .. } | Phase::Quarantine { .. });
        assert!(is_due, "signing begins only by a release");
        self.released_behind = self.held.max(self.declared);
        (self.phase, self.before_gap, self.declared) = (Phase::Ready, None, SequenceId::NONE);
        self.may_sign_yet = false;
    }

    /// Returns the permission to sign, once it is due. The places of `skip_through` must be on disk
    /// before the first place is given out.
    #[must_use]
    pub fn release(&self, now: Instant) -> Option<Release> {
        let is_idle = self.answers.source().is_none();
        match self.phase {
            Phase::Asking { is_new: true, .. } => {
                let is_due = is_idle && self.has_majority();
                is_due.then_some(Release { skip_through: None })
            }
            Phase::Asking { until, is_new: false } => {
                let is_answered = now >= until || self.answered() == self.others.len();
                (is_idle && is_answered).then_some(Release { skip_through: None })
            }
            Phase::Quarantine { confirmation: Some((confirmation, at)), .. } => {
                let is_due = is_idle || now >= at + CONFIRMATION_WAITS_FOR;
                is_due.then(|| self.release_above(confirmation.gap))
            }
            Phase::Quarantine { reason: UnknownFolder::Unanswered, confirmation: None, .. } => {
                // No peer has shown a place, so the operator's flag remains in force.
                let is_due = is_idle && self.has_majority();
                is_due.then(|| self.release_above(0))
            }
            Phase::Quarantine { since, confirmation: None, .. } => {
                self.quarantine()?.needed()?;
                let is_due = is_idle && self.has_majority() && now >= since + LISTEN_FOR;
                is_due.then(|| self.release_above(self.gap))
            }
            Phase::Ready | Phase::Stopped => None,
        }
    }

    /// Returns the peer to take the own strand from now, after its head on disk.
    #[must_use]
    pub fn source(&self) -> Option<OriginatorId> {
        self.answers.source().map(|(peer, _)| peer)
    }

    /// Returns the status for publishers and operators.
    #[must_use]
    pub fn status(&self) -> OwnStrandStatus {
        match (self.phase, self.answers.source()) {
            (Phase::Stopped, _) => OwnStrandStatus::Stopped,
            (Phase::Quarantine { .. }, _) => {
                OwnStrandStatus::Quarantined(self.quarantine().expect("in quarantine"))
            }
            (_, Some((peer, head))) => OwnStrandStatus::Claimed { peer, head },
            (Phase::Asking { .. }, None) => OwnStrandStatus::Asking,
            (Phase::Ready, None) => OwnStrandStatus::Ready,
        }
    }

    /// Returns the time at which to call [`observe`](Self::observe) at the latest; `None` if only an
    /// event can change anything.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let own = match self.phase {
            Phase::Asking { until, .. } => Some(until),
            Phase::Quarantine { since, confirmation: None, .. } => Some(since + LISTEN_FOR),
            Phase::Quarantine { confirmation: Some((_, at)), .. } => {
                Some(at + CONFIRMATION_WAITS_FOR)
            }
            Phase::Ready | Phase::Stopped => None,
        };
        let next = own.into_iter().chain(self.answers.poll_timeout());
        // A deadline that has passed without a change is left out: only an event can change the state then.
        next.filter(|at| *at > self.now).min()
    }

    /// A peer has shown a place above the head: the folder does not hold the end of the strand.
    fn note_proof(&mut self, now: Instant, has_signed: bool) {
        match self.phase {
            // The operator declared the key new, which it is not. A confirmation before was about a new key, too.
            Phase::Quarantine { reason: UnknownFolder::Unanswered, .. } => {
                let reason = UnknownFolder::Contradicted;
                self.phase = Phase::Quarantine { reason, since: now, confirmation: None };
            }
            Phase::Quarantine { .. } | Phase::Stopped => {}
            // Places may have been given out twice already.
            Phase::Ready if has_signed => self.phase = Phase::Stopped,
            Phase::Ready | Phase::Asking { .. } => {
                self.may_sign_yet = matches!(self.phase, Phase::Ready);
                let reason = UnknownFolder::Contradicted;
                self.phase = Phase::Quarantine { reason, since: now, confirmation: None };
            }
        }
    }

    fn release_above(&self, gap: u64) -> Release {
        // The host knows of places that no peer has received: a folder may be restored twice within a minute.
        let held = self.before_gap.unwrap_or(self.held);
        let shown = held.max(self.answers.shown()).max(self.host_head);
        let above_shown = SequenceId(shown.0.saturating_add(gap).min(SequenceId::MAX.0));
        let through = above_shown.max(self.declared);
        Release { skip_through: (through > self.held).then_some(through) }
    }

    fn quarantine(&self) -> Option<Quarantine> {
        let Phase::Quarantine { reason, .. } = self.phase else { return None };
        Some(Quarantine {
            reason,
            answered: self.answered(),
            others: self.others.len(),
            needs_confirmation: reason == UnknownFolder::Stopped,
        })
    }

    fn has_majority(&self) -> bool {
        self.answered() >= majority(self.others.len())
    }

    fn answered(&self) -> usize {
        self.others.iter().filter(|peer| self.answers.has_answered(**peer)).count()
    }
}
