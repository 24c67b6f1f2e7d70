//! The worker that writes, attests, submits and settles payer reports, one step at a time.
//!
//! Each step reads the present state, does the missing work, and can be repeated: after a crash, beside
//! another node that takes the same step, and by an operator.

mod contract;
mod error;
mod known_leaves;
mod late_release;
mod searched;
mod searched_strands;
mod settling;
mod stages;
mod step;
mod task;
mod totals;
mod view;

use std::collections::HashMap;
use std::sync::Arc;

use hawser_proto::envelope::PayerEnvelope;
use hawser_proto::sign::payer_digest;
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SecretKey, SequenceId, minute_of};
use hawser_rules::Registry;
use hawser_rules::payer_report::report::RETENTION_DAYS;
use hawser_rules::payer_report::{
    Attestation, DomainSeparator, Majority, PayerReport, Periods, ReportDifference, ReportDue,
    ReportId, due, majority,
};
use hawser_storage::{Mark, ReadError, Snapshot};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::Engine;
use super::report_history::ReportsNow;
use super::stoppable::blocking;
use crate::facts;
use crate::payer_reports::{
    ChainReport, ChainReports, HeldReport, NotYet, Recomputed, draft, has_come, held_reports,
    may_fill, may_grow, nodes_of, originators_of, recompute_on_chain, recompute_to_attest,
};

pub use contract::{ContractError, ReportContract, SettledSoFar, Submitted};
use error::FailedReports;
pub use error::ReportStepError;
use known_leaves::KnownLeaves;
use searched::SearchedReports;
use searched_strands::SearchedStrands;
pub use stages::{ReportStage, StageCount, StageCounts};
pub use step::{ReportStep, StepOutcome, StepState};
pub use task::{PayerReportSettings, PayerReportTask, Turns};
pub use totals::PayerReportTotals;
use totals::Totals;
pub use view::{ReportExplained, ReportState, ReportView};

/// Leaves that are settled by one transaction. As many as the 16,777,216 gas of a transaction (EIP-7825) allow with a
/// quarter to spare: a leaf of a new payer takes 30,000 (`contracts/README.md`, *Gas*).
const LEAVES_AT_ONCE: usize = 400;
/// Times that the leaves of a transaction are halved when the contract does not take them. A guess: blocks of
/// development chains have room for a quarter.
const HALVINGS_MAX: u32 = 2;
/// Differing reports that are remembered, so that none is recomputed at every look. A guess: many times what nodes
/// write in the time in which a report can be submitted.
const DIFFERING_MAX: usize = 4096;
/// Looks after which a refused report is judged again: this node's figures may have been wrong. A guess: a small part
/// of the cost of judging at each.
const LOOKS_OF_A_REFUSAL: u8 = 10;
/// Reports of one writer that are recomputed in one look. A guess: an honest node has one that waits. One that floods
/// the topic delays the looks at its own.
const JUDGED_AT_ONCE: usize = 4;

/// The outcome of writing a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// The last report is too new.
    NotDue,
    /// Another report of the same range waits for its submission.
    UnderWay,
    /// Fewer than two minutes have usage.
    TooLittle,
    /// This node has written the same report before.
    Known(ReportId),
    /// The report is in this node's strand.
    New(ReportId),
}

/// The outcome of looking at a report of another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attested {
    /// This node has signed it now.
    Signed,
    /// It had signed it before.
    Before,
    /// This node computes a different report.
    Refused(Vec<ReportDifference>),
    /// It cannot be judged, or not be submitted, now.
    NotNow(String),
}

/// A report with the attestations to submit it with, or the reason why it is not submitted now.
type Submittable = (HeldReport, Result<Majority, String>);

/// Writes, attests, submits and settles payer reports. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct PayerReporter(Arc<PayerReporterState>);

struct PayerReporterState {
    engine: Engine,
    key: SecretKey,
    domain: DomainSeparator,
    periods: Periods,
    contract: Arc<dyn ReportContract>,
    differing: Mutex<HashMap<ReportId, DifferingReport>>,
    known_leaves: Mutex<KnownLeaves>,
    /// The reports whose amounts were searched for to settle them, and to attest them.
    searched: Mutex<SearchedReports>,
    searched_to_attest: Mutex<SearchedReports>,
    searched_strands: Mutex<SearchedStrands>,
    totals: Totals,
    /// A single permit, so that the worker and an operator never take a step at the same time.
    turn: Semaphore,
}

/// A report that was recomputed here and is another one.
#[derive(Default)]
struct DifferingReport {
    about: OriginatorId,
    /// The differences. Their size is bounded, because [`recompute_to_attest`] searches for no cause.
    differences: Vec<ReportDifference>,
    /// Looks that have used it since it was computed.
    looks: u8,
    is_told: bool,
}

impl PayerReporter {
    /// Creates a worker of the engine's node. `key` is the node's key, and `domain` belongs to the contract.
    pub fn new(
        engine: &Engine,
        key: SecretKey,
        domain: DomainSeparator,
        periods: Periods,
        contract: Arc<dyn ReportContract>,
    ) -> Self {
        Self(Arc::new(PayerReporterState {
            engine: engine.clone(),
            key,
            domain,
            periods,
            contract,
            differing: Mutex::default(),
            known_leaves: Mutex::default(),
            searched: Mutex::default(),
            searched_to_attest: Mutex::default(),
            searched_strands: Mutex::default(),
            totals: Totals::default(),
            turn: Semaphore::new(1),
        }))
    }

    /// Returns the counts of the worker's decisions and settlements since it was created.
    #[must_use]
    pub fn totals(&self) -> PayerReportTotals {
        self.0.totals.read()
    }

    /// Returns the originators that reports are written about now.
    #[must_use]
    pub fn originators(&self) -> Vec<OriginatorId> {
        originators_of(&self.0.registry())
    }

    /// Writes a report about an originator into this node's strand, if one is due by the engine's clock.
    ///
    /// # Errors
    /// [`ReportStepError`]. The step can be taken again.
    pub async fn write(&self, about: OriginatorId) -> Result<Written, ReportStepError> {
        let _turn = self.0.turn().await;
        let state = self.0.clone();
        let draft = blocking(move || state.draft(about)).await?;
        let report = match draft {
            Draft::Report(report) => report,
            Draft::Nothing(why) => return Ok(why),
        };
        let id = report.id(self.0.domain);
        self.0.publish(report.client_envelope()).await?;
        tracing::info!(
            report = %id, %about, start = %report.start(), end = %report.end().sequence, "wrote a payer report"
        );
        Ok(Written::New(id))
    }

    /// Reads all reports about an originator that continue those on the chain, and signs those with the figures that
    /// this node computes itself.
    ///
    /// # Errors
    /// [`ReportStepError`]. The step can be repeated: signatures that were made stay valid.
    pub async fn attest(
        &self,
        about: OriginatorId,
    ) -> Result<Vec<(ReportId, Attested)>, ReportStepError> {
        let _turn = self.0.turn().await;
        let state = self.0.clone();
        let looked = blocking(move || state.look(about)).await?;
        let own = self.0.own();
        let mut outcomes = Vec::new();
        for (held, verdict) in looked {
            let outcome = match verdict {
                PayerReportVerdict::Attested => Attested::Before,
                PayerReportVerdict::NotNow(why) => Attested::NotNow(why),
                PayerReportVerdict::Unjudged => Attested::NotNow(UNJUDGED.into()),
                PayerReportVerdict::Different(differences) => {
                    self.0.log_refusal(&held, &differences);
                    Attested::Refused(differences)
                }
                PayerReportVerdict::Equal => {
                    let attestation = Attestation::sign(held.id, own, &self.0.key);
                    self.0.publish(attestation.client_envelope(about)).await?;
                    self.0.totals.note_signed();
                    tracing::info!(report = %held.id, %about, "attested a payer report");
                    Attested::Signed
                }
            };
            outcomes.push((held.id, outcome));
        }
        Ok(outcomes)
    }

    /// Submits the reports about an originator that continue those on the chain, that this node has attested, and that
    /// a majority has.
    ///
    /// # Errors
    /// [`ReportStepError`]. The step can be taken again: the contract takes a report once.
    pub async fn submit(
        &self,
        about: OriginatorId,
    ) -> Result<Vec<(ReportId, Submitted)>, ReportStepError> {
        let _turn = self.0.turn().await;
        let state = self.0.clone();
        let ready = blocking(move || state.to_submit(about)).await?;
        let (mut outcomes, mut failed) = (Vec::new(), FailedReports::default());
        for (held, ready) in ready {
            let Ok(majority) = ready else { continue };
            match self.0.submit_one(&held, &majority).await {
                Ok(submitted) => outcomes.push((held.id, submitted)),
                Err(error) => failed.add(error)?,
            }
        }
        failed.into_result().map(|()| outcomes)
    }

    /// Settles the unsettled leaves of the reports about an originator that are on the chain. Returns the number of
    /// leaves that this call has settled.
    ///
    /// # Errors
    /// [`ReportStepError`]. The step can be repeated: the contract knows its own progress.
    pub async fn settle(&self, about: OriginatorId) -> Result<usize, ReportStepError> {
        let _turn = self.0.turn().await;
        let state = self.0.clone();
        let look = move || {
            state.note_late_releases(about)?;
            state.unsettled(about)
        };
        let unsettled = blocking(look).await?;
        let (mut settled, mut failed) = (0, FailedReports::default());
        // The contract takes them in any order, so one that cannot be settled holds up no other.
        for on_chain in &unsettled {
            match self.0.settle_one(on_chain).await {
                Ok(leaves) => settled += leaves,
                Err(error) => failed.add(error)?,
            }
        }
        failed.into_result().map(|()| settled)
    }
}

/// A report to write, or the reason for none.
enum Draft {
    Report(PayerReport),
    Nothing(Written),
}

/// A verdict on a report of a node.
enum PayerReportVerdict {
    Attested,
    Equal,
    Different(Vec<ReportDifference>),
    NotNow(String),
    /// Not judged in this round, because other reports of the same writers were.
    Unjudged,
}

const OTHER_NODES: &str = "it lists other nodes than the canonical network has";
const NOT_COME: &str = "the minute in which it ends has not come";
const UNJUDGED: &str = "its writer has written many, and other ones are judged first";

impl PayerReporterState {
    fn own(&self) -> OriginatorId {
        self.engine.store().identity().node
    }

    fn registry(&self) -> Arc<Registry> {
        self.engine.ports().registry.borrow().clone()
    }

    async fn turn(&self) -> SemaphorePermit<'_> {
        self.turn.acquire().await.expect("it is never closed")
    }

    /// Returns the reports on the chain.
    fn chain(&self) -> Result<Arc<ChainReports>, ReportStepError> {
        Ok(self.chain_now()?.reports)
    }

    /// Returns the reports on the chain, with the view of the same moment.
    fn chain_now(&self) -> Result<ReportsNow<'_>, ReportStepError> {
        let now = self.engine.report_history.now()?;
        match now.snapshot.payer_reports_position()? {
            Some(_) => Ok(now),
            None => Err(ReportStepError::NoChain),
        }
    }

    fn held(&self, about: OriginatorId) -> Result<Vec<HeldReport>, ReportStepError> {
        let writers: Vec<_> = self.registry().nodes().map(|node| node.id).collect();
        let snapshot = self.engine.store().snapshot();
        Ok(held_reports(&snapshot, self.domain, about, &writers)?)
    }

    /// Returns the reports about an originator that continue those on the chain, in a fixed order.
    fn continuing(&self, about: OriginatorId) -> Result<Vec<HeldReport>, ReportStepError> {
        let chain = self.chain()?;
        let start = chain.last_end(about).map_or(SequenceId::NONE, |end| end.sequence);
        let mut held = self.held(about)?;
        // A report about nothing would come again and again, because the next one begins where it does.
        held.retain(|it| it.report.start() == start && it.report.end().sequence != start);
        let snapshot = self.engine.store().snapshot();
        for it in held.iter_mut().filter(|it| !it.is_attested_by(self.own())) {
            let signed = self.signed_before(&snapshot, it)?;
            it.attestations.extend(signed);
        }
        Ok(held)
    }

    /// Returns this node's attestation of a report if it is in its strand, however many have followed it. Signatures
    /// are deterministic, so the envelope is made again and its receipt is looked up. One that has been pruned is
    /// signed again: other nodes may have it no more.
    fn signed_before(
        &self,
        snapshot: &Snapshot<'_>,
        held: &HeldReport,
    ) -> Result<Option<Attestation>, ReadError> {
        let own = self.own();
        let attestation = Attestation::sign(held.id, own, &self.key);
        let client = attestation.client_envelope(held.report.originator());
        let payer = self.key.public_key().address();
        let receipt = facts::receipt(payer_digest(own, &client), payer);
        let Some(place) = snapshot.receipt(&receipt)? else { return Ok(None) };
        let mark = snapshot.mark(EnvelopeId::new(own, place))?;
        let is_pruned = matches!(mark, Some(Mark::Pruned { .. }));
        Ok((!is_pruned).then_some(attestation))
    }

    /// Returns the report that this node would write about an originator now, or the reason for none.
    fn draft(&self, about: OriginatorId) -> Result<Draft, ReportStepError> {
        self.note_corrections(about)?;
        let last = self.chain()?.last_end(about);
        let mut pending = Vec::new();
        for (held, verdict) in self.verdicts(self.continuing(about)?)? {
            // Only a report to which this node has come counts: any other one, as of places or minutes that are not
            // there yet, could keep all nodes from writing for as long as its writer likes.
            if matches!(verdict, PayerReportVerdict::Attested | PayerReportVerdict::Equal) {
                pending.push((held.report.start(), held.report.end()));
            }
        }
        let own = self.own();
        let (period, expiry) = (self.periods.between(own, about), self.periods.expiry(own, about));
        let now_ns = self.engine.ports().clock.now_ns();
        let start = match due(now_ns, period, expiry, last, pending) {
            ReportDue::NotYet => return Ok(Draft::Nothing(Written::NotDue)),
            ReportDue::UnderWay => return Ok(Draft::Nothing(Written::UnderWay)),
            ReportDue::From(start) => start,
        };
        let snapshot = self.engine.store().snapshot();
        let nodes = nodes_of(&self.registry())?;
        let Some(report) = draft(&snapshot, about, start, nodes, minute_of(now_ns))? else {
            return Ok(Draft::Nothing(Written::TooLittle));
        };
        let id = report.id(self.domain);
        let is_own =
            |held: &HeldReport| held.id == id && held.written.iter().any(|at| at.originator == own);
        Ok(match self.continuing(about)?.iter().any(is_own) {
            true => Draft::Nothing(Written::Known(id)),
            false => Draft::Report(report),
        })
    }

    fn look(
        &self,
        about: OriginatorId,
    ) -> Result<Vec<(HeldReport, PayerReportVerdict)>, ReportStepError> {
        self.note_corrections(about)?;
        self.verdicts(self.continuing(about)?)
    }

    /// While amounts of an originator are being corrected, the reports that were refused by them are to be judged
    /// again.
    fn note_corrections(&self, about: OriginatorId) -> Result<(), ReadError> {
        let store = self.engine.store();
        if store.has_unpriced() && store.snapshot().has_unpriced_in(about, 0..=u32::MAX)? {
            let mut differing = self.differing.lock();
            for report in differing.values_mut().filter(|it| it.about == about) {
                report.looks = LOOKS_OF_A_REFUSAL;
            }
        }
        Ok(())
    }

    /// Judges reports about one originator in one look.
    fn verdicts(
        &self,
        held: Vec<HeldReport>,
    ) -> Result<Vec<(HeldReport, PayerReportVerdict)>, ReportStepError> {
        let mut judged = HashMap::new();
        let mut verdicts = Vec::with_capacity(held.len());
        for held in held {
            let verdict = self.verdict(&held, &mut judged)?;
            verdicts.push((held, verdict));
        }
        Ok(verdicts)
    }

    /// Judges a report. `judged` counts those that this look has recomputed, by writer.
    fn verdict(
        &self,
        held: &HeldReport,
        judged: &mut HashMap<OriginatorId, usize>,
    ) -> Result<PayerReportVerdict, ReportStepError> {
        if held.is_attested_by(self.own()) {
            return Ok(PayerReportVerdict::Attested);
        }
        let now_minute = minute_of(self.engine.ports().clock.now_ns());
        if !has_come(held.report.end().minute, now_minute) {
            return Ok(PayerReportVerdict::NotNow(NOT_COME.into()));
        }
        let mut writers = held.written.iter().map(|at| at.originator);
        let writer = writers.find(|it| judged.get(it).is_none_or(|count| *count < JUDGED_AT_ONCE));
        if let Some(differences) = self.refused_before(held.id, writer.is_some()) {
            return Ok(PayerReportVerdict::Different(differences));
        }
        let Some(writer) = writer else { return Ok(PayerReportVerdict::Unjudged) };
        let snapshot = self.engine.store().snapshot();
        let is_own = held.report.originator() == self.own();
        let (mut leaves, mut differences) = (None, Vec::new());
        // Late envelopes excuse other originators only: an attestation binds a node about its own strand.
        let may_search = |missing: Option<&NotYet>| {
            !is_own && self.searched_to_attest.lock().begin_search(held.id, missing)
        };
        match recompute_to_attest(&snapshot, &held.report, now_minute, may_search)? {
            Recomputed::NotYet(why) => {
                // Otherwise nothing was summed up, so it does not count.
                let is_summed_up = matches!(why, NotYet::Missing(..));
                *judged.entry(writer).or_default() += usize::from(is_summed_up);
                return Ok(PayerReportVerdict::NotNow(why.to_string()));
            }
            Recomputed::Equal(computed) => {
                self.searched_to_attest.lock().forget(held.id);
                leaves = Some(computed);
            }
            Recomputed::Different(found) => differences = found,
        }
        *judged.entry(writer).or_default() += 1;
        if !differences.is_empty() {
            self.remember_refusal(held, &differences);
            return Ok(PayerReportVerdict::Different(differences));
        }
        self.differing.lock().remove(&held.id);
        let unfinished = match is_own {
            // The attestation binds however long after this verdict it is signed.
            true => may_grow(&snapshot, &held.report)?,
            false => may_fill(&snapshot, &held.report)?,
        };
        if let Some(why) = unfinished {
            return Ok(PayerReportVerdict::NotNow(why.to_string()));
        }
        if nodes_of(&self.registry())? != *held.report.nodes() {
            return Ok(PayerReportVerdict::NotNow(OTHER_NODES.into()));
        }
        // Kept only after the list of nodes was compared: a writer could have any number of others kept.
        if let Some(leaves) = leaves {
            self.known_leaves.lock().keep(held.id, &held.report, Arc::new(leaves));
        }
        Ok(PayerReportVerdict::Equal)
    }

    /// Returns the differences of a report that was refused a few looks ago, or at any time if it may not be judged
    /// again.
    fn refused_before(&self, id: ReportId, may_judge: bool) -> Option<Vec<ReportDifference>> {
        let mut differing = self.differing.lock();
        let report = differing.get_mut(&id)?;
        report.looks = report.looks.saturating_add(1);
        let is_old = report.looks >= LOOKS_OF_A_REFUSAL;
        (!is_old || !may_judge).then(|| report.differences.clone())
    }

    /// Has a refused report judged at the next look, also by a new search for envelopes that are dated back.
    fn judge_again(&self, id: ReportId) {
        if let Some(report) = self.differing.lock().get_mut(&id) {
            report.looks = LOOKS_OF_A_REFUSAL;
        }
        self.searched_to_attest.lock().forget(id);
    }

    fn remember_refusal(&self, held: &HeldReport, differences: &[ReportDifference]) {
        let mut differing = self.differing.lock();
        if differing.len() >= DIFFERING_MAX && !differing.contains_key(&held.id) {
            differing.clear();
        }
        let report = differing.entry(held.id).or_default();
        report.about = held.report.originator();
        report.differences = differences.to_vec();
        report.looks = 0;
    }

    /// Names the nodes that wrote a report to which this node does not come, once.
    fn log_refusal(&self, held: &HeldReport, differences: &[ReportDifference]) {
        if let Some(report) = self.differing.lock().get_mut(&held.id)
            && std::mem::replace(&mut report.is_told, true)
        {
            return;
        }
        self.totals.note_refused(differences);
        let differences: Vec<_> = differences.iter().map(ReportDifference::to_string).collect();
        let writers: Vec<_> = held.written.iter().map(|at| at.originator.to_string()).collect();
        tracing::warn!(
            code = "payer_report_refused",
            report = %held.id,
            about = %held.report.originator(),
            writers = writers.join(","),
            "a payer report is not attested: {}",
            differences.join("; ")
        );
    }

    /// Returns the reports about an originator that continue those on the chain, each with the attestations to submit
    /// it with, or the reason why it is not submitted now.
    fn to_submit(&self, about: OriginatorId) -> Result<Vec<Submittable>, ReportStepError> {
        let registry = self.registry();
        let nodes = nodes_of(&registry)?;
        let member = |node| registry.member(node).map(|record| record.public_key);
        let judge = |held: HeldReport| {
            if !held.is_attested_by(self.own()) {
                return (held, Err("this node has not attested it".to_owned()));
            }
            if *held.report.nodes() != nodes {
                return (held, Err(OTHER_NODES.to_owned()));
            }
            let attestations = held.attestations.iter().copied();
            let majority = majority(held.id, held.report.nodes(), attestations, member);
            for (node, error) in &majority.refused {
                tracing::warn!(
                    code = "attestation_refused", report = %held.id, %node, %error,
                    "an attestation does not count"
                );
            }
            if majority.is_reached() {
                return (held, Ok(majority));
            }
            let (counted, needed) = (majority.counted.len(), held.report.nodes().majority());
            (
                held,
                Err(format!("only {counted} of the {needed} attestations that it needs are valid")),
            )
        };
        Ok(self.continuing(about)?.into_iter().map(judge).collect())
    }

    async fn submit_one(
        &self,
        held: &HeldReport,
        majority: &Majority,
    ) -> Result<Submitted, ReportStepError> {
        let submitted = self.contract.submit(&held.report, &majority.counted).await?;
        let about = held.report.originator();
        tracing::info!(report = %held.id, %about, ?submitted, "submitted a payer report");
        Ok(submitted)
    }

    /// Publishes a client envelope in this node's strand, signed by this node as the payer.
    async fn publish(&self, client: Bytes) -> Result<(), ReportStepError> {
        let envelope = PayerEnvelope::sign(client, self.own(), RETENTION_DAYS, &self.key);
        self.engine.publish_own(vec![envelope]).await?;
        Ok(())
    }
}
