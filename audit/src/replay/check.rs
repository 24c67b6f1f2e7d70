//! Checks of single envelopes, which run on all cores: a pure function of a batch of rows.

use hawser_proto::batch::{SignatureClaim, accounts, recover_batch, recover_similar};
use hawser_proto::digests::originator_digests;
use hawser_proto::envelope::{
    LayerError, OpenedStatement, OriginatorEnvelope, PayerEnvelope, Proof,
    UnsignedOriginatorEnvelope,
};
use hawser_proto::merkle::{LeafData, TreeHash, leaf_hash};
use hawser_proto::sign::Digest;
use hawser_proto::{Address, Bytes, EnvelopeId, OriginatorId, PublicKey, SequenceId, minute_of};
use hawser_rules::fees::PicoDollarPrice;
use hawser_rules::retention::was_marked_as_late;
use hawser_rules::{
    Absences, JudgedAbsences, OddTerms, RateTable, Registry, Violation, check_charges_by_former,
    check_length, check_no_charges, check_statement, is_free, is_owed, is_taken_elsewhere,
    odd_terms, payer_claims,
};

use super::fault::FaultKind;
use super::item::{EnvelopeCharge, StoredMark, StrandRow};

/// Checks the rows of one strand.
#[derive(Debug, Clone)]
pub(crate) struct Checker {
    /// The strand.
    pub(crate) originator: OriginatorId,
    /// The key of its node; `None` for a chain's strand, and for one whose key is not known.
    pub(crate) key: Option<PublicKey>,
    /// The times in which the node was not in the network.
    pub(crate) absences: Absences,
    /// The absences by which the keeper has set the marks; `None` if the log does not show them.
    pub(crate) judged_by: Option<JudgedAbsences>,
    /// The history of rates that fees have to follow; `None` leaves fees unchecked.
    pub(crate) rates: Option<RateTable>,
    /// The fault of fees that these rates do not explain.
    pub(crate) wrong_fee: FaultKind,
}

/// The facts of an envelope whose originator can be held to it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Signed {
    pub(crate) originator_ns: i64,
    pub(crate) minute: u32,
    pub(crate) leaf: TreeHash,
    /// The rule that it breaks.
    pub(crate) violation: Option<Violation>,
    /// True if its signer may be innocent of that: the envelope is from an absence of its node or expires late, and
    /// breaks no other rule, or other software may decode it or finds that it breaks none.
    pub(crate) is_unproven: bool,
    /// True if it breaks no rule, and earlier versions marked it because of its expiry.
    pub(crate) was_marked_as_late: bool,
    /// Fees that no rate explains, with the fault that they are.
    pub(crate) fee: Option<(FaultKind, Violation)>,
    /// The stated congestion fee, if it is above 0 and a rate allows it. The envelopes before it decide about it.
    pub(crate) congestion_fee: Option<PicoDollarPrice>,
    /// The account that the payer's signature recovers to, in the strand of a node.
    pub(crate) payer: Option<Address>,
    /// The charge, also for an envelope that breaks a rule and is still charged.
    pub(crate) charge: Option<EnvelopeCharge>,
    /// The digest of the bytes that the payer has signed, if there is a charge.
    pub(crate) payer_digest: Option<Digest>,
    pub(crate) counts_for_congestion: bool,
    /// The places of chains on which it depends, if no broken rule hides it.
    pub(crate) depends_on: Vec<EnvelopeId>,
}

/// An envelope after its checks.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CheckedEnvelope {
    pub(crate) sequence: SequenceId,
    pub(crate) len_bytes: usize,
    pub(crate) mark: StoredMark,
    pub(crate) stored_leaf: Option<TreeHash>,
    /// The facts, or the reason why the envelope cannot stand in this strand.
    pub(crate) found: Result<Signed, (FaultKind, String)>,
}

/// A row after its checks. Rows without an envelope pass through unchanged.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum CheckedRow {
    Envelope(Box<CheckedEnvelope>),
    Other(StrandRow),
}

/// An envelope whose outer layer is well-formed.
struct UnjudgedEnvelope {
    statement: Bytes,
    proof: Proof,
    inner: Result<UnsignedOriginatorEnvelope, LayerError>,
    originator_ns: i64,
}

type OpenResult = Result<UnjudgedEnvelope, (FaultKind, String)>;

/// The account that a payer's signature recovers to, and the digest that it covers.
type RecoveredPayer = Result<(Address, Digest), Violation>;

impl Checker {
    /// Makes the checker of a strand, by the keys and absences of a registry, and rates from outside the log.
    pub(crate) fn new(
        originator: OriginatorId,
        registry: &Registry,
        rates: Option<RateTable>,
    ) -> Self {
        let key = registry.node(originator).map(|record| record.public_key);
        let absences = registry.absences(originator).clone();
        Self { originator, key, absences, judged_by: None, rates, wrong_fee: FaultKind::Fee }
    }

    /// Returns a sentence if the keeper has set the marks by other absences than those of the registry, or by an
    /// earlier version of their rule.
    pub(crate) fn other_absences(&self) -> Option<String> {
        let is_other = self.judged_by.as_ref().is_some_and(|it| !it.is_of(&self.absences));
        is_other.then(|| {
            format!(
                "strand {}: marks of envelopes from absences: its keeper has set them by other absences than the \
                 given ones, or by an earlier version of their rule, and sets them anew when it runs; if marks of the \
                 strand are named, read the registry again, because an older one lacks the newest absences",
                self.originator
            )
        })
    }

    /// Combines the verdict of all other rules with the rule of absence. The stored mark of an envelope from an absence
    /// is also accepted if it follows from the absences by which the keeper judged, because it was right then. The mark
    /// of an absence that the registry lacks is never accepted: a keeper could make up an absence to hide envelopes.
    fn by_absence(
        &self,
        originator_ns: i64,
        mark: StoredMark,
        judged: Result<(), Violation>,
    ) -> Option<Violation> {
        let given = self.absences.judge(originator_ns, judged.clone()).err();
        let (Some(Violation::Absent), Some(judged_by)) = (&given, &self.judged_by) else {
            return given;
        };
        let recorded = judged_by.judge(originator_ns, judged).err();
        let rule = recorded.as_ref().and_then(Violation::rule).map(|rule| rule.0);
        let is_stored = match mark {
            StoredMark::Valid => recorded.is_none(),
            StoredMark::Invalid(stored) => rule == Some(stored),
            StoredMark::Waiting | StoredMark::Unknown => false,
        };
        if is_stored { recorded } else { given }
    }

    /// Checks rows and returns the results in their order. Costs up to two signature recoveries for each envelope;
    /// larger batches cost less for each.
    pub(crate) fn check(&self, rows: Vec<StrandRow>) -> Vec<CheckedRow> {
        let mut opened: Vec<Option<OpenResult>> =
            rows.iter().map(|row| self.open_row(row)).collect();
        self.verify_originator(&mut opened);
        let mut payers = self.payers(&opened).into_iter();
        let mut checked = Vec::with_capacity(rows.len());
        for (row, opened) in rows.into_iter().zip(opened) {
            let (StrandRow::Envelope { sequence, bytes, mark, leaf }, Some(opened)) =
                (&row, opened)
            else {
                checked.push(CheckedRow::Other(row));
                continue;
            };
            let found = opened.map(|opened| {
                let payer = payers.next().expect("one for each opened envelope");
                self.judge(opened, payer, *mark, bytes.len())
            });
            let (len_bytes, mark) = (bytes.len(), *mark);
            let (sequence, stored_leaf) = (*sequence, *leaf);
            let envelope = CheckedEnvelope { sequence, len_bytes, mark, stored_leaf, found };
            checked.push(CheckedRow::Envelope(Box::new(envelope)));
        }
        checked
    }

    /// Returns for each row the reason why its envelope cannot stand at its place in this strand, if there is one:
    /// another form, place, kind of proof or signer. Costs a signature recovery for each envelope; larger batches cost
    /// less for each.
    pub(crate) fn refusals(&self, rows: &[StrandRow]) -> Vec<Option<(FaultKind, String)>> {
        let mut opened: Vec<_> = rows.iter().map(|row| self.open_row(row)).collect();
        self.verify_originator(&mut opened);
        opened.into_iter().map(|opened| opened.and_then(Result::err)).collect()
    }

    fn open_row(&self, row: &StrandRow) -> Option<OpenResult> {
        let StrandRow::Envelope { sequence, bytes, .. } = row else { return None };
        Some(self.open(*sequence, bytes))
    }

    /// Opens the outer layer, and requires that it is of this place and has the kind of proof of this strand.
    fn open(&self, sequence: SequenceId, bytes: &Bytes) -> OpenResult {
        let not_canonical = |error: LayerError| (FaultKind::NotCanonical, error.to_string());
        let (statement, proof) = OriginatorEnvelope::open(bytes.clone()).map_err(not_canonical)?;
        let opened = OpenedStatement::read(statement.clone()).map_err(not_canonical)?;
        let (id, originator_ns) = (opened.id(), opened.originator_ns());
        let place = EnvelopeId::new(self.originator, sequence);
        if id != place {
            return Err((FaultKind::WrongPlace, format!("the envelope says that it is {id}")));
        }
        match (&proof, self.originator.is_signer()) {
            (Proof::Signature(_), true) | (Proof::Transaction(_), false) => {}
            (Proof::Transaction(_), true) => {
                return Err((
                    FaultKind::WrongProof,
                    "a transaction hash cannot prove the envelope of a node".to_owned(),
                ));
            }
            (Proof::Signature(_), false) => {
                return Err((
                    FaultKind::WrongProof,
                    "a signature cannot prove the envelope of a chain".to_owned(),
                ));
            }
        }
        Ok(UnjudgedEnvelope { statement, proof, inner: opened.parse(), originator_ns })
    }

    /// Replaces each envelope that the strand's key has not signed by its fault.
    fn verify_originator(&self, opened: &mut [Option<OpenResult>]) {
        let Some(key) = self.key else { return };
        let mut slots = Vec::with_capacity(opened.len());
        let mut signatures = Vec::with_capacity(opened.len());
        let mut statements: Vec<&[u8]> = Vec::with_capacity(opened.len());
        for (slot, entry) in opened.iter().enumerate() {
            if let Some(Ok(UnjudgedEnvelope {
                statement,
                proof: Proof::Signature(signature),
                ..
            })) = entry
            {
                slots.push(slot);
                signatures.push(*signature);
                statements.push(statement);
            }
        }
        let digests = originator_digests(statements.into_iter());
        let claim = |(digest, signature)| SignatureClaim { digest, signature, expected: Some(key) };
        let claims: Vec<SignatureClaim> = digests.into_iter().zip(signatures).map(claim).collect();
        for (slot, signer) in slots.into_iter().zip(recover_batch(&claims)) {
            let text = match signer {
                Ok(signer) if signer == key => continue,
                Ok(signer) => format!("signed by {}", signer.address()),
                Err(error) => error.to_string(),
            };
            opened[slot] = Some(Err((FaultKind::Forged, text)));
        }
    }

    /// Recovers the payer of each opened envelope, in order.
    fn payers(&self, opened: &[Option<OpenResult>]) -> Vec<RecoveredPayer> {
        let read = opened.iter().flatten().flatten().filter_map(|it| it.inner.as_ref().ok());
        let read: Vec<&PayerEnvelope> = read.map(UnsignedOriginatorEnvelope::payer).collect();
        let mut of_read = payer_claims(&read).into_iter();
        let mut claims = Vec::new();
        let claimed: Vec<Result<Digest, Violation>> = opened
            .iter()
            .flatten()
            .flatten()
            .map(|opened| {
                let claim = match &opened.inner {
                    Ok(_) => of_read.next().expect("one for each that is read")?,
                    // Never reported: the error of the layer itself comes first.
                    Err(_) => return Err(Violation::PayerSignatureMissing),
                };
                claims.push(claim);
                Ok(claim.digest)
            })
            .collect();
        let mut recovered = accounts(recover_similar(claims));
        let mut next = || recovered.next().expect("one for each claim").map_err(Violation::from);
        let payer = |claimed: Result<Digest, Violation>| -> RecoveredPayer {
            let digest = claimed?;
            Ok((next()?, digest))
        };
        claimed.into_iter().map(payer).collect()
    }

    /// Judges an envelope with a signed outer layer by the rules. Repeats the steps of a follower, so that both come to
    /// the same marks and charges.
    fn judge(
        &self,
        opened: UnjudgedEnvelope,
        payer: RecoveredPayer,
        mark: StoredMark,
        len_bytes: usize,
    ) -> Signed {
        let UnjudgedEnvelope { statement, proof, inner, originator_ns } = opened;
        let data = match &proof {
            Proof::Signature(_) => LeafData::Signed(&statement),
            Proof::Transaction(hash) => LeafData::OnChain(&statement, hash),
        };
        let mut signed = Signed {
            originator_ns,
            minute: minute_of(originator_ns),
            leaf: leaf_hash(data),
            violation: None,
            is_unproven: false,
            was_marked_as_late: false,
            fee: None,
            congestion_fee: None,
            payer: None,
            charge: None,
            payer_digest: None,
            counts_for_congestion: false,
            depends_on: Vec::new(),
        };
        if matches!(proof, Proof::Transaction(_)) {
            // The chain decides which payloads it orders. A payload that does not decode makes the place void, and
            // there is no envelope.
            signed.violation = inner.err().map(Violation::from);
            return signed;
        }
        signed.payer = payer.as_ref().ok().map(|(account, _)| *account);
        let parsed = match check_length(len_bytes).and_then(|()| Ok(inner?)) {
            Ok(parsed) => parsed,
            Err(violation) => {
                let is_undecodable = matches!(violation, Violation::Undecodable(_));
                signed.violation = self.by_absence(originator_ns, mark, Err(violation));
                if is_undecodable {
                    self.count_odd(&mut signed, statement);
                }
                return signed;
            }
        };
        let judged = match &self.key {
            Some(key) => check_statement(&parsed, payer.clone().map(|(account, _)| account), key),
            None => Ok(()),
        };
        let is_innocent = match &judged {
            Ok(()) | Err(Violation::LateExpiry(_)) => true,
            Err(Violation::GroupMessage(_) | Violation::PayerSignature(_)) => {
                is_taken_elsewhere(&parsed)
            }
            Err(_) => false,
        };
        signed.violation = self.by_absence(originator_ns, mark, judged);
        signed.is_unproven = is_innocent && signed.violation.is_some();
        let days = parsed.payer().retention_days();
        signed.was_marked_as_late = signed.violation.is_none()
            && was_marked_as_late(originator_ns, days, parsed.expiry_unix_s());
        if signed.violation.is_none() && self.originator.is_node() {
            let depends_on = parsed.payer().client().depends_on().iter().copied();
            signed.depends_on = depends_on.filter(|it| it.originator.is_of_chain()).collect();
        }
        self.count(&mut signed, &parsed, payer.ok());
        signed
    }

    /// Adds the charge of an envelope and its count, if its payer owes for it.
    fn count(
        &self,
        signed: &mut Signed,
        parsed: &UnsignedOriginatorEnvelope,
        payer: Option<(Address, Digest)>,
    ) {
        let envelope = parsed.payer();
        let is_paid = match &signed.violation {
            None => is_owed(envelope, None),
            Some(violation) => violation.rule().is_some_and(|rule| is_owed(envelope, Some(rule))),
        };
        signed.counts_for_congestion = is_paid && self.originator.is_node();
        let charged = payer.filter(|_| is_paid);
        signed.payer_digest = charged.map(|(_, digest)| digest);
        signed.charge = charged.map(|(payer, _)| EnvelopeCharge {
            payer,
            size_bytes: envelope.as_bytes().len() as u64,
            retention_days: envelope.retention_days(),
            stated_picodollars: parsed.base_fee().plus(parsed.congestion_fee()),
        });
        // If the envelope breaks a proven rule, its fees are no further fault. An absence of the node or a late expiry
        // proves nothing, so it excuses no wrong fee.
        let is_judged = signed.violation.is_none() || signed.is_unproven;
        if is_judged && self.originator.is_node() {
            self.judge_fees(signed, parsed);
        }
    }

    /// Adds the payer of an envelope whose layers do not decode here, if other nodes may have read it: its mark then
    /// proves nothing. Adds the charge and the count, too, if the payer owes for it. A node charges nothing in an
    /// absence.
    fn count_odd(&self, signed: &mut Signed, statement: Bytes) {
        let Ok(statement) = OpenedStatement::read(statement) else { return };
        let terms = odd_terms(self.originator, statement.payer_envelope_bytes());
        let Some(terms) = terms else { return };
        let stated_picodollars = statement.base_fee().plus(statement.congestion_fee());
        let is_owed = terms.are_owed(stated_picodollars);
        let OddTerms { payer, digest, size_bytes, retention_days, .. } = terms;
        signed.is_unproven = true;
        signed.payer = Some(payer);
        if !is_owed || matches!(signed.violation, Some(Violation::Absent)) {
            return;
        }
        signed.payer_digest = Some(digest);
        signed.counts_for_congestion = self.originator.is_node();
        signed.charge =
            Some(EnvelopeCharge { payer, size_bytes, retention_days, stated_picodollars });
    }

    /// Judges the fees of a valid envelope of a node, as far as the envelope alone shows.
    fn judge_fees(&self, signed: &mut Signed, parsed: &UnsignedOriginatorEnvelope) {
        if is_free(parsed.payer().client().topic().kind()) {
            signed.fee = check_no_charges(parsed).err().map(|fee| (FaultKind::Fee, fee));
            return;
        }
        let rates =
            self.rates.as_ref().filter(|rates| rates.is_complete_at(parsed.originator_ns()));
        if let Some(rates) = rates {
            let wrong = check_charges_by_former(parsed, rates).err();
            signed.fee = wrong.map(|fee| (self.wrong_fee, fee));
            let fee = Some(parsed.congestion_fee());
            let is_counted = signed.fee.is_none() && signed.violation.is_none();
            signed.congestion_fee = fee.filter(|fee| fee.0 > 0 && is_counted);
        }
    }
}
