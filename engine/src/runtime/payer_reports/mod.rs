//! The worker that writes, attests, submits and settles payer reports, one step at a time.
//!
//! Each step reads the present state, does the missing work, and can be repeated: after a crash, beside
//! another node that takes the same step, and by an operator.

mod computations;
mod contract;
mod damage;
mod differing;
mod error;
mod judging;
mod known_leaves;
mod late_release;
mod late_searches;
mod named_uncounted;
mod other_reports;
mod searched;
mod settling;
mod stages;
mod step;
mod submitting;
mod task;
mod totals;
mod verdict;
mod view;
mod writer_turns;

use std::sync::Arc;

use hawser_proto::envelope::PayerEnvelope;
use hawser_proto::sign::payer_digest;
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SecretKey, SequenceId, minute_of};
use hawser_rules::Registry;
use hawser_rules::payer_report::report::RETENTION_DAYS;
use hawser_rules::payer_report::{
    Attestation, DomainSeparator, PayerReport, Periods, ReportDifference, ReportDue, ReportId, due,
};
use hawser_storage::{Family, Mark, ReadError, Snapshot};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::Engine;
use super::report_history::ReportsNow;
use super::stoppable::blocking;
use crate::facts;
use crate::payer_reports::{
    ChainReports, HeldReport, SkippedRead, UncountedEnvelope, draft, held_reports, nodes_of,
    originators_of,
};

use computations::Computations;
pub use contract::{ContractError, GasUsed, ReportContract};
use damage::NamedDamage;
use differing::DifferingReports;
use error::FailedReports;
pub use error::ReportStepError;
pub use hawser_rules::payer_report::Submitted;
use known_leaves::KnownLeaves;
use late_searches::LateSearches;
use named_uncounted::NamedUncounted;
use searched::SearchedReports;
pub use settling::SettledPart;
pub use stages::{ReportStage, StageCount, StageCounts};
pub use step::{ReportStep, StepOutcome, StepState};
pub use task::{PayerReportSettings, Turns, start_payer_report_task};
pub use totals::PayerReportTotals;
use totals::Totals;
use verdict::{PayerReportVerdict, UNJUDGED};
pub use view::{ReportExplained, ReportList, ReportState, ReportView};

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
    /// This node had signed it before.
    Before,
    /// This node computes a different report.
    Refused(Vec<ReportDifference>),
    /// The report cannot be judged, or not be submitted, now.
    NotNow(String),
}

/// Writes, attests, submits and settles payer reports. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct PayerReporter(Arc<PayerReporterState>);

struct PayerReporterState {
    engine: Engine,
    key: SecretKey,
    domain: DomainSeparator,
    periods: Periods,
    contract: Arc<dyn ReportContract>,
    differing: Mutex<DifferingReports>,
    known_leaves: Mutex<KnownLeaves>,
    /// The reports whose amounts were searched for to settle them, and to attest them.
    searched: Mutex<SearchedReports>,
    searched_to_attest: Mutex<SearchedReports>,
    late_searches: Mutex<LateSearches>,
    named_damage: Mutex<NamedDamage>,
    named_uncounted: Mutex<NamedUncounted>,
    computations: Computations,
    totals: Totals,
    /// A single permit, so that the worker and an operator never take a step at the same time.
    turn: Semaphore,
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
            known_leaves: Mutex::new(KnownLeaves::stored_in(engine.store())),
            searched: Mutex::default(),
            searched_to_attest: Mutex::default(),
            late_searches: Mutex::new(LateSearches::stored_in(engine.store())),
            named_damage: Mutex::default(),
            named_uncounted: Mutex::default(),
            computations: Computations::default(),
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
            report_id = %id, originator_id = %about, start = %report.start(), end = %report.end().sequence, "wrote a payer report"
        );
        Ok(Written::New(id))
    }

    /// Reads all reports about an originator that continue the chain's reports. Signs the reports whose figures this
    /// node computes itself, and keeps the others as evidence.
    ///
    /// # Errors
    /// [`ReportStepError`]. The step can be repeated: signatures that were made stay valid.
    pub async fn attest(
        &self,
        about: OriginatorId,
    ) -> Result<Vec<(ReportId, Attested)>, ReportStepError> {
        let _turn = self.0.turn().await;
        let state = self.0.clone();
        let looked = blocking(move || {
            let looked = state.look(about)?;
            state.note_other_reports(&looked);
            Ok::<_, ReportStepError>(looked)
        });
        let looked = looked.await?;
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
                    tracing::info!(report_id = %held.id, originator_id = %about, "attested a payer report");
                    Attested::Signed
                }
            };
            outcomes.push((held.id, outcome));
        }
        Ok(outcomes)
    }

    /// Submits the reports about an originator that continue those on the chain and that this node and a majority of
    /// the nodes have attested.
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
        Ok(self.settle_part(about, usize::MAX).await?.leaves)
    }

    /// Settles leaves like [`settle`](Self::settle), with at most this number of transactions.
    ///
    /// # Errors
    /// The errors of [`settle`](Self::settle).
    pub async fn settle_part(
        &self,
        about: OriginatorId,
        transactions_max: usize,
    ) -> Result<SettledPart, ReportStepError> {
        let (settled, outcome) = self.settle_round(about, transactions_max, true).await;
        outcome.map(|()| settled)
    }

    /// Settles leaves like [`settle_part`](Self::settle_part), as one round of a turn, of which the first one looks for
    /// late releases. Returns the part that was settled beside the outcome: a report that fails takes no round from the
    /// others.
    async fn settle_round(
        &self,
        about: OriginatorId,
        transactions_max: usize,
        is_first: bool,
    ) -> (SettledPart, Result<(), ReportStepError>) {
        let _turn = self.0.turn().await;
        let mut settled = SettledPart::default();
        if is_first {
            let state = self.0.clone();
            if let Err(error) = blocking(move || state.note_late_releases(about)).await {
                return (settled, Err(error));
            }
        }
        let outcome = self.settle_in_turn(about, transactions_max, &mut settled).await;
        (settled, outcome)
    }

    /// Settles leaves with at most this number of transactions, and adds them to `settled`. The caller has the turn.
    async fn settle_in_turn(
        &self,
        about: OriginatorId,
        transactions_max: usize,
        settled: &mut SettledPart,
    ) -> Result<(), ReportStepError> {
        let state = self.0.clone();
        let unsettled = blocking(move || state.unsettled(about)).await?;
        let mut failed = FailedReports::default();
        // The contract takes them in any order, so one that cannot be settled holds up no other.
        for on_chain in &unsettled {
            let left = transactions_max.saturating_sub(settled.transactions);
            if left == 0 {
                settled.is_left = true;
                break;
            }
            match self.0.settle_one(on_chain, left).await {
                Ok(part) => settled.add(part),
                Err(error) => failed.add(error)?,
            }
        }
        failed.into_result()
    }
}

/// A report to write, or the reason for none.
enum Draft {
    Report(PayerReport),
    Nothing(Written),
}

impl PayerReporterState {
    fn own(&self) -> OriginatorId {
        self.engine.store().identity().node
    }

    /// Returns the present hour since the unix epoch.
    fn hour(&self) -> u32 {
        minute_of(self.engine.ports().clock.now_ns()) / 60
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

    /// Returns the reports about an originator that nodes have written. After reads have failed for some minutes,
    /// passes over the envelopes that cannot be read.
    ///
    /// # Errors
    /// When some cannot be read: nothing is decided without them, because the next attempt may succeed.
    fn held(&self, about: OriginatorId) -> Result<Vec<HeldReport>, ReportStepError> {
        let writers: Vec<_> = self.registry().nodes().map(|node| node.id).collect();
        let snapshot = self.engine.store().snapshot();
        let read = |gives_up| held_reports(&snapshot, self.domain, about, &writers, gives_up);
        let mut held = read(false);
        let fails = matches!(&held, Err(error @ ReadError::Database(_)) if !error.is_damage());
        let now_minute = minute_of(self.engine.ports().clock.now_ns());
        if self.named_damage.lock().fails_for_long(about, fails, now_minute) {
            held = read(true);
            // Rows of the topics are not passed over: they may be all that a node has written. The scrub that begins
            // now has them made anew.
            if let Err(error @ ReadError::Database(_)) = &held {
                self.engine.scrubs().note_read(Family::Topic, error);
            }
        }
        let held = held?;
        self.note_passed_over(about, held.passed_over.as_ref());
        self.note_uncounted(about, &held.uncounted);
        Ok(held.reports)
    }

    /// Names the envelopes that a read of the reports about an originator has met and that do not count, each once.
    fn note_uncounted(&self, about: OriginatorId, met: &[UncountedEnvelope]) {
        let new_ones = self.named_uncounted.lock().new_ones(about, met);
        for UncountedEnvelope { at, why } in new_ones {
            tracing::warn!(
                code = "payer_report_malformed", envelope = %at, originator_id = %about,
                "an envelope counts neither as payer report nor as attestation: {why}"
            );
        }
    }

    /// Names the failure that a read of the reports about an originator has passed over, once until all of them can be
    /// read again.
    fn note_passed_over(&self, about: OriginatorId, passed_over: Option<&SkippedRead>) {
        let begins = self.named_damage.lock().begins(about, passed_over.is_some());
        let Some(SkippedRead { family, cause }) = passed_over.filter(|_| begins) else { return };
        tracing::error!(
            code = "payer_reports_unreadable", originator_id = %about, family = family.name(), error = %cause,
            "payer reports or attestations cannot be read from the disk: they count as not held"
        );
        self.engine.scrubs().note_read(*family, cause);
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

    /// Returns this node's attestation of a report if this node's strand has it, at any place. Signatures are
    /// deterministic, so the envelope is made again and its receipt is looked up. An attestation that was pruned is
    /// signed again, because other nodes may have pruned it too. An attestation whose receipt the disk has damaged is
    /// signed again as well: the signature is the same.
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
        let Some(place) = unless_damaged(snapshot.receipt(&receipt))? else { return Ok(None) };
        let mark = unless_damaged(snapshot.mark(EnvelopeId::new(own, place)))?;
        let is_pruned = matches!(mark, Some(Mark::Pruned { .. }));
        Ok((!is_pruned).then_some(attestation))
    }

    /// Returns the report that this node would write about an originator now, or the reason for none.
    fn draft(&self, about: OriginatorId) -> Result<Draft, ReportStepError> {
        self.note_corrections(about)?;
        let last = self.chain()?.last_end(about);
        let nodes = nodes_of(&self.registry());
        let mut pending = Vec::new();
        for (held, verdict) in self.verdicts(self.continuing(about)?)? {
            // Only a report to which this node has come counts: any other one, as of places or minutes that are not
            // there yet, could keep all nodes from writing for as long as its writer likes. The contract takes only
            // the present list of nodes, so a report that was attested before the network changed is not under way.
            let is_of_members = nodes.as_ref().is_ok_and(|nodes| held.report.nodes() == nodes);
            let is_true =
                matches!(verdict, PayerReportVerdict::Attested | PayerReportVerdict::Equal);
            if is_of_members && is_true {
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
        let (nodes, now_minute) = (nodes?, minute_of(now_ns));
        let drafted =
            self.computations.compute(|| draft(&snapshot, about, start, nodes, now_minute))?;
        let Some(report) = drafted else {
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

    /// Publishes a client envelope in this node's strand, signed by this node as the payer.
    async fn publish(&self, client: Bytes) -> Result<(), ReportStepError> {
        let envelope = PayerEnvelope::sign(client, self.own(), RETENTION_DAYS, &self.key);
        self.engine.publish_own(vec![envelope]).await?;
        Ok(())
    }
}

/// Returns what was read, or `None` if the disk has damaged it.
fn unless_damaged<T>(read: Result<Option<T>, ReadError>) -> Result<Option<T>, ReadError> {
    match read {
        Err(error) if error.is_damage() => Ok(None),
        read => read,
    }
}
