//! The replay of a whole log, strand after strand.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use hawser_rules::fees::complete_until_ns;
use hawser_rules::{JudgedAbsences, Rate, RateTable, Registry};
use serde::{Deserialize, Serialize};

use super::check::Checker;
use super::dependencies::TimesOfChains;
use super::fault::{Fault, FaultKind, Faults};
use super::item::SourceError;
use super::judge::beyond_head;
use super::judged_nodes::JudgedNodes;
use super::pipeline;
use super::rates::{self, JudgedRates};
use super::source::{LogIdentity, LogSource, heads_of};
use super::strand::{ReplayContext, ReplayedStrand, StrandReplay};
use super::void::only_stated;

/// The schema of state files.
const STATE_SCHEMA: &str = "hawser-replay/4";
/// The schema before, which is read, too: its amounts are numbers.
const EARLIER_STATE_SCHEMA: &str = "hawser-replay/3";
/// Length of the longest state file that is read, in bytes. A guess: far above that of a network that works.
pub const STATE_LEN_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// Everything that a log is judged by.
#[derive(Debug, Clone)]
pub struct ReplaySettings {
    /// The nodes with their keys and absences.
    pub registry: Registry,
    /// The history of rates from outside the log. Absent: fees are judged by the rates that the log has recorded, up to
    /// the start of the newest one, or to the time that the keeper has noted, and no signer is accountable for them.
    pub rates: Option<RateTable>,
    /// Threads that check.
    pub threads: usize,
    /// The auditor's time, unix nanoseconds.
    pub now_ns: i64,
}

/// Progress of a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplayProgress {
    /// The strand.
    pub originator: OriginatorId,
    /// The last place that was checked.
    pub reached: SequenceId,
    /// Its head.
    pub head: SequenceId,
    /// Checked places of all strands, in this run and earlier ones.
    pub done: u64,
    /// Places of all strands.
    pub total: u64,
    /// Faults so far.
    pub faults: u64,
}

/// The place that a replay has reached in each strand, with everything that it needs to continue.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReplayState {
    schema: String,
    network: String,
    node_id: OriginatorId,
    /// Bytes that no other log has, hex.
    log: String,
    /// A digest over the keys, hex.
    judged_by: String,
    /// The nodes behind that digest, for people.
    nodes: JudgedNodes,
    rates: JudgedRates,
    strands: BTreeMap<u32, StrandReplay>,
}

/// The part of a state that all versions have.
#[derive(Deserialize)]
struct StateHeader {
    schema: String,
}

/// Makes the error of a state with another schema than this version's.
fn other_schema(found: String) -> ReplayStateError {
    let version = |schema: &str| schema.strip_prefix("hawser-replay/")?.parse::<u32>().ok();
    let by = match version(&found).cmp(&version(STATE_SCHEMA)) {
        _ if version(&found).is_none() => "another program",
        Ordering::Less => "an earlier version of this program",
        Ordering::Equal | Ordering::Greater => "a later version of this program",
    };
    ReplayStateError::Schema { by, found }
}

/// The reason why a state does not belong to this log.
#[derive(Debug, thiserror::Error)]
pub enum ReplayStateError {
    /// The text is not a state.
    #[error(
        "it is no state file, or a damaged one: {0}: name another file, or if it is damaged delete it and replay from the \
         beginning"
    )]
    Json(#[from] serde_json::Error),
    /// The state has a value that no replay reaches.
    #[error(
        "the state file is damaged: strand {strand}: {what}: delete it and replay from the beginning"
    )]
    Impossible {
        /// The strand.
        strand: OriginatorId,
        /// The value, in a sentence for people.
        what: &'static str,
    },
    /// The state is of another version of this program, or of another program.
    #[error(
        "the state file was written by {by} (schema {found:?}), and this version reads {STATE_SCHEMA:?} and \
        {EARLIER_STATE_SCHEMA:?}: continue with that version, or delete the file and replay from the beginning"
    )]
    Schema {
        /// The writer, for people.
        by: &'static str,
        /// The schema of the file.
        found: String,
    },
    /// The state is of another log.
    #[error(
        "the state file is of another log: that of node {node_id} in network {network:?}: name the file of this log, \
        or another one to begin with"
    )]
    OtherLog {
        /// The network of that log.
        network: String,
        /// The node of that log.
        node_id: OriginatorId,
    },
    /// The finished part was judged with other nodes, keys or absences.
    #[error(
        "the state file was made with other nodes ({0}): give the same ones, or delete the file and replay from the \
        beginning"
    )]
    OtherKeys(String),
    /// The finished part was judged with other rates.
    #[error(
        "the state file was made with other rates, given or recorded in the log: give the same rates, with later ones \
        at their end, or delete the file and replay from the beginning"
    )]
    OtherRates,
}

/// The result of a replay.
#[derive(Debug, Clone, Serialize)]
pub struct ReplayReport {
    /// The network.
    pub network: String,
    /// The keeper of the log.
    pub node_id: OriginatorId,
    /// Faults of the log as a whole, and of no strand.
    pub faults: Faults,
    /// The strands.
    pub strands: Vec<ReplayedStrand>,
    /// The parts that were not checked, in sentences for people.
    pub unchecked: Vec<String>,
    /// The places that the source should have shown and did not, in sentences for people. Empty if it has shown the
    /// whole log.
    pub incomplete: Vec<String>,
}

impl ReplayReport {
    /// Returns all faults together.
    #[must_use]
    pub fn all_faults(&self) -> Faults {
        let mut all = self.faults.clone();
        self.strands.iter().for_each(|strand| all.extend(&strand.faults));
        all
    }

    /// Returns the stable name of the verdict.
    #[must_use]
    pub fn verdict(&self) -> &'static str {
        self.all_faults().verdict(self.incomplete.is_empty())
    }
}

impl ReplayState {
    fn new(
        source: &dyn LogSource,
        settings: &ReplaySettings,
        booked: &[Rate],
        booked_until_ns: Option<i64>,
    ) -> Self {
        let LogIdentity { network, node, log } = source.identity();
        Self {
            schema: STATE_SCHEMA.to_owned(),
            network,
            node_id: node,
            log: hex::encode(log),
            judged_by: judged_by(&settings.registry, &[]),
            nodes: JudgedNodes::new(&settings.registry),
            rates: JudgedRates::new(settings.rates.as_ref(), booked, booked_until_ns),
            strands: BTreeMap::new(),
        }
    }

    /// Reads a state. A disk may have damaged the file, or a person edited it, so a state with a value that no replay
    /// reaches is refused.
    ///
    /// # Errors
    /// For a text that is not a state, and for an impossible state.
    pub fn parse(text: &str) -> Result<Self, ReplayStateError> {
        let is_read = |schema: &str| [STATE_SCHEMA, EARLIER_STATE_SCHEMA].contains(&schema);
        let mut state: Self = serde_json::from_str(text).map_err(|error| {
            // Other versions have other fields. So the schema is read first: the error names the version, not a missing
            // field.
            match serde_json::from_str::<StateHeader>(text) {
                Ok(header) if !is_read(&header.schema) => other_schema(header.schema),
                _ => error.into(),
            }
        })?;
        if !is_read(&state.schema) {
            return Err(other_schema(state.schema));
        }
        // It is written with amounts as text.
        STATE_SCHEMA.clone_into(&mut state.schema);
        for (&id, strand) in &state.strands {
            let strand_id = OriginatorId(id);
            let impossible = |what| ReplayStateError::Impossible { strand: strand_id, what };
            strand.check(strand_id).map_err(impossible)?;
        }
        Ok(state)
    }

    /// Refuses a log that ends before the place that the state has reached: its missing end would count as clean.
    fn require_within(&self, heads: &[EnvelopeId]) -> Result<(), SourceError> {
        for strand in self.strands.values() {
            let (originator, reached) = (strand.originator(), strand.reached());
            let head = heads.iter().find(|head| head.originator == originator);
            let head = head.map_or(SequenceId::NONE, |head| head.sequence);
            if reached > head {
                return Err(SourceError(format!(
                    "strand {originator} ends at {head}, and the state file has reached {reached}: the strand has \
                    lost places, or the state file is damaged; to replay what there is delete the state file"
                )));
            }
        }
        Ok(())
    }

    /// Writes the state as text.
    ///
    /// # Errors
    /// Never for a state of this program.
    pub fn to_text(&self) -> Result<String, ReplayStateError> {
        Ok(serde_json::to_string(self)?)
    }

    /// Requires that this is the state of the same log, and that its verdicts stand by the keys and rates of `fresh`.
    fn require_of(&self, fresh: &Self) -> Result<(), ReplayStateError> {
        if (&self.network, self.node_id, &self.log) != (&fresh.network, fresh.node_id, &fresh.log) {
            let (network, node_id) = (self.network.clone(), self.node_id);
            return Err(ReplayStateError::OtherLog { network, node_id });
        }
        if self.judged_by != fresh.judged_by {
            return Err(ReplayStateError::OtherKeys(self.nodes.differences(&fresh.nodes)));
        }
        match self.rates.stand_with(&fresh.rates, self.newest_ns()) {
            true => Ok(()),
            false => Err(ReplayStateError::OtherRates),
        }
    }

    /// Returns the time of the newest envelope that was checked, unix nanoseconds.
    fn newest_ns(&self) -> Option<i64> {
        self.strands.values().filter_map(StrandReplay::newest_ns).max()
    }
}

/// Returns a digest over keys and rates from outside the log.
pub(crate) fn judged_by(registry: &Registry, rates: &[Rate]) -> String {
    let mut bytes = Vec::new();
    for node in registry.nodes() {
        bytes.extend_from_slice(&node.id.0.to_be_bytes());
        bytes.extend_from_slice(node.public_key.as_bytes());
        bytes.extend_from_slice(&registry.absences(node.id).to_bytes());
    }
    for rate in rates {
        bytes.extend_from_slice(format!("{rate:?}").as_bytes());
    }
    hex::encode(hawser_proto::sign::keccak256(&[&bytes]).0)
}

/// The replay of a log.
pub struct Replay<'a> {
    source: &'a dyn LogSource,
    settings: &'a ReplaySettings,
    booked: Vec<Rate>,
    /// The time up to which these are whole, unix nanoseconds; `None` if there are none.
    booked_until_ns: Option<i64>,
    state: ReplayState,
    faults: Faults,
    /// Reports of strands that were checked up to their head.
    done: BTreeMap<u32, ReplayedStrand>,
    /// The places that the source did not show, in sentences.
    incomplete: Vec<String>,
    /// The places and checkpoints that no tree was compared with, in sentences.
    not_compared: Vec<String>,
    /// The time of the newest envelope of the strands that were read, unix nanoseconds.
    newest_ns: Option<i64>,
}

impl<'a> Replay<'a> {
    /// Begins a replay, or continues one.
    ///
    /// # Errors
    /// When the state is not of this log, or the log has no rates that can be read.
    pub fn new(
        source: &'a dyn LogSource,
        settings: &'a ReplaySettings,
        state: Option<ReplayState>,
    ) -> Result<Self, ReplayStateError> {
        let mut faults = Faults::default();
        let booked = source.rates().unwrap_or_else(|error| {
            faults.add(Fault::of_log(FaultKind::Unreadable, format!("rates: {error}")));
            Vec::new()
        });
        let noted_ns = source.rates_complete_until_ns().unwrap_or_else(|error| {
            faults.add(Fault::of_log(FaultKind::Unreadable, format!("time of the rates: {error}")));
            None
        });
        // A keeper that is behind has not recorded a newer rate yet, which honest nodes apply. The registry takes no
        // rate that begins before its newest one.
        let begun_ns = booked.last().map(|newest| complete_until_ns(newest.start_unix_s));
        let booked_until_ns = begun_ns.map(|begun_ns| noted_ns.unwrap_or(begun_ns).max(begun_ns));
        let fresh = ReplayState::new(source, settings, &booked, booked_until_ns);
        let state = match state {
            Some(state) => {
                state.require_of(&fresh)?;
                let rates = fresh.rates.continuing(&state.rates, state.newest_ns());
                ReplayState { rates, ..state }
            }
            None => fresh,
        };
        Ok(Self {
            source,
            settings,
            booked,
            booked_until_ns,
            state,
            faults,
            done: BTreeMap::new(),
            incomplete: Vec::new(),
            not_compared: Vec::new(),
            newest_ns: None,
        })
    }

    /// Checks the remaining part of the log. Calls `progress` after each batch; when that returns false the replay
    /// pauses, and [`Replay::state`] returns the reached place.
    ///
    /// Returns the report, or `None` after a pause.
    ///
    /// # Errors
    /// When the heads of the strands cannot be read, or a strand ends before the place that the state has reached.
    pub fn run(
        &mut self,
        mut progress: impl FnMut(&ReplayState, ReplayProgress) -> bool,
    ) -> Result<Option<ReplayReport>, SourceError> {
        let mut heads = heads_of(self.source)?;
        // The chains' strands come first: they say when the places were there on which nodes' envelopes depend.
        heads.sort_unstable();
        self.state.require_within(&heads)?;
        self.incomplete.clear();
        self.not_compared.clear();
        if heads.iter().all(|head| head.sequence == SequenceId::NONE) {
            self.incomplete.push("the source has shown no envelope of any strand".to_owned());
        }
        for &head in &heads {
            if !self.strand(head, &heads, &mut progress)? {
                return Ok(None);
            }
        }
        Ok(Some(self.report()))
    }

    /// Returns the state.
    #[must_use]
    pub fn state(&self) -> &ReplayState {
        &self.state
    }

    /// Checks one strand. Returns false if the caller wants to pause.
    fn strand(
        &mut self,
        head: EnvelopeId,
        heads: &[EnvelopeId],
        progress: &mut dyn FnMut(&ReplayState, ReplayProgress) -> bool,
    ) -> Result<bool, SourceError> {
        let EnvelopeId { originator, sequence: end } = head;
        let checker = self.checker(originator)?;
        let (beside, chains) = (self.source.beside(originator), self.chain_times(originator));
        let context = ReplayContext {
            registry: &self.settings.registry,
            booked_rates: &self.booked,
            judged_rates: checker.rates.as_ref(),
            wrong_fee: checker.wrong_fee,
            now_ns: self.settings.now_ns,
            head: end,
            rows: &*beside,
            chains: &chains,
        };
        let state = &mut self.state;
        let fresh = || StrandReplay::new(originator);
        let strand = state.strands.entry(originator.0).or_insert_with(fresh);
        let is_unknown = originator.is_node() && checker.key.is_none();
        if is_unknown && strand.reached() == SequenceId::NONE {
            strand.fault(Fault::unknown_originator(originator));
        }
        strand.resume(&context);
        let rows = self.source.rows(EnvelopeId::new(originator, strand.reached()), end);
        let mut paused = false;
        let check = |rows| checker.check(rows);
        let result = pipeline::run(&check, self.settings.threads, rows, |batch| {
            let strand = state.strands.entry(originator.0).or_insert_with(fresh);
            for row in batch {
                strand.take(row, &context)?;
            }
            let done = progress_of(state, heads, head);
            paused = !progress(state, done);
            if paused { Err(SourceError("paused".to_owned())) } else { Ok(()) }
        });
        if paused {
            return Ok(false);
        }
        let mut ended = state.strands.get(&originator.0).cloned().unwrap_or_else(fresh);
        if let Err(error) = result {
            // A later run begins this strand again, because a partly taken strand cannot be continued.
            state.strands.remove(&originator.0);
            ended.end_unreadable(&error);
        } else if ended.reached() < end {
            ended.end_at(end, !self.source.shows_gaps())?;
        }
        if let Some(last) = self.source.last_held(originator)?.filter(|last| *last > end) {
            ended.fault(beyond_head(EnvelopeId::new(originator, last), end));
        }
        self.newest_ns = self.newest_ns.max(ended.newest_ns());
        self.not_compared.extend(ended.not_compared());
        self.not_compared.extend(ended.not_judged());
        self.incomplete.extend(ended.not_shown(end, &context));
        let report = ended.report(&context);
        match self.source.shows_gaps() {
            true => self.not_compared.extend(ended.no_longer_void()),
            false => {
                self.incomplete.extend(ended.no_longer_void());
                self.not_compared.extend(only_stated(originator, &report.figures.gaps));
            }
        }
        self.done.insert(originator.0, report);
        Ok(true)
    }

    /// Returns the times of the chains' places, by which the envelopes of a node's strand are judged.
    fn chain_times(&self, originator: OriginatorId) -> TimesOfChains {
        if !(originator.is_node() && self.source.dates_chains_by_blocks()) {
            return TimesOfChains::new();
        }
        let strands =
            OriginatorId::CHAINS.into_iter().filter_map(|chain| self.state.strands.get(&chain.0));
        strands.map(|it| (it.originator(), it.chain_times().clone())).collect()
    }

    fn checker(&self, originator: OriginatorId) -> Result<Checker, SourceError> {
        let registry = &self.settings.registry;
        let recorded = self.source.beside(originator).judged_by()?;
        let judged_by = recorded.and_then(|bytes| JudgedAbsences::from_bytes(&bytes));
        if let Some(given) = &self.settings.rates {
            let checker = Checker::new(originator, registry, Some(given.clone()));
            return Ok(Checker { judged_by, ..checker });
        }
        // A keeper that makes up a list could name the nodes that it likes: none is accountable by it alone.
        let recorded = RateTable::new(self.booked.clone(), self.booked_until_ns).ok();
        let wrong_fee = FaultKind::FeeByRecord;
        Ok(Checker { wrong_fee, judged_by, ..Checker::new(originator, registry, recorded) })
    }

    fn report(&self) -> ReplayReport {
        let LogIdentity { network, node, .. } = self.source.identity();
        let strands: Vec<ReplayedStrand> = self.done.values().cloned().collect();
        let mut unchecked = self.unchecked(&strands);
        unchecked.extend(self.not_compared.iter().cloned());
        let (mut faults, incomplete) = (self.faults.clone(), self.incomplete.clone());
        match self.compare_rates() {
            Ok(sentence) => unchecked.extend(sentence),
            Err(text) => faults.add(Fault::of_log(FaultKind::Rates, text)),
        }
        ReplayReport { network, node_id: node, faults, strands, unchecked, incomplete }
    }

    /// Compares the recorded rates with the given ones. Returns a sentence on those that could not be compared.
    /// Recorded ones after the last given one are no fault if the list may be old: the keeper has read a newer one.
    ///
    /// # Errors
    /// A sentence for people that names a wrong rate.
    fn compare_rates(&self) -> Result<Option<String>, String> {
        let Some(table) = &self.settings.rates else {
            return Ok(Some(match self.booked.is_empty() {
                true => "fees: there are no rates".to_owned(),
                false => "that the recorded rates are those of the chain: give rates (--rates)"
                    .to_owned(),
            }));
        };
        if self.booked.is_empty() {
            let text = "that the keeper has recorded the given rates: it shows none".to_owned();
            return Ok(self.source.shows_gaps().then_some(text));
        }
        let given = table.rates();
        let is_old = table.complete_until_ns().is_some();
        let compared = if is_old { self.booked.len().min(given.len()) } else { self.booked.len() };
        let later = rates::compare(given, &self.booked[..compared], self.newest_ns)?;
        let newer = self.booked.len() - compared;
        if newer > 0 {
            return Ok(Some(format!(
                "that the last {newer} recorded rates are those of the chain: the given list ends before them, so \
                 give a newer one (hawser registry rates list --rates-file)"
            )));
        }
        Ok((later > 0).then(|| {
            format!("that the keeper records the last {later} of the given rates: they begin after the newest envelope")
        }))
    }

    fn unchecked(&self, strands: &[ReplayedStrand]) -> Vec<String> {
        let mut unchecked = self.source.unchecked();
        let ids = strands.iter().map(|strand| strand.originator_id);
        unchecked.extend(unchecked_strands(&ids.collect::<Vec<_>>()));
        let checkers = strands.iter().filter_map(|strand| self.checker(strand.originator_id).ok());
        unchecked.extend(checkers.filter_map(|checker| checker.other_absences()));
        let mut note = |is_so: bool, text: &str| {
            if is_so {
                unchecked.push(text.to_owned());
            }
        };
        note(
            self.state.rates.are_short_of(self.newest_ns),
            "the fees of envelopes for whose time the list of rates may lack one: give a list that was read more \
             than five minutes after them (hawser registry rates list --rates-file)",
        );
        note(
            self.state.rates.has_passed_unjudged(),
            "the fees of envelopes that an earlier run has passed, and that its list of rates did not cover: to judge \
             them delete the state file",
        );
        let of = |figure: fn(&ReplayedStrand) -> u64| strands.iter().any(|it| figure(it) > 0);
        note(of(|it| it.figures.unproven), UNPROVEN);
        note(of(|it| it.figures.witnesses), "the cosignatures of witnesses");
        note(
            of(|it| it.figures.unknown_signers),
            "checkpoints and cosignatures of nodes that the registry does not name",
        );
        unchecked
    }
}

/// The sentence about envelopes that break a rule of which their signer may be innocent.
pub(crate) const UNPROVEN: &str = "whether nodes are to blame for envelopes from their absence, for those that expire \
                                   late, or for some that other software may accept: nothing that is signed shows it";

/// Returns the unchecked parts of strands that no node of the registry signs, in sentences for people.
pub(crate) fn unchecked_strands(strands: &[OriginatorId]) -> Vec<String> {
    let mut unchecked = Vec::new();
    if strands.iter().any(|id| !id.is_signer()) {
        unchecked.push("that the events of the chains' strands are those of the chains".to_owned());
        unchecked.push("the verdicts on identity updates".to_owned());
    }
    if strands.iter().any(|id| id.is_migrated()) {
        unchecked.push("the signatures of what was taken over from the older network".to_owned());
    }
    unchecked
}

/// Returns the progress of all strands together.
fn progress_of(state: &ReplayState, heads: &[EnvelopeId], head: EnvelopeId) -> ReplayProgress {
    let reached = |id: &EnvelopeId| {
        let strand = state.strands.get(&id.originator.0);
        strand.map_or(0, |strand| strand.reached().0.min(id.sequence.0))
    };
    let sum = |values: &mut dyn Iterator<Item = u64>| values.fold(0_u64, u64::saturating_add);
    ReplayProgress {
        originator: head.originator,
        reached: SequenceId(reached(&head)),
        head: head.sequence,
        done: sum(&mut heads.iter().map(reached)),
        total: sum(&mut heads.iter().map(|id| id.sequence.0)),
        faults: sum(&mut state.strands.values().map(StrandReplay::fault_count)),
    }
}
