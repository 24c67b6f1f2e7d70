//! Faults of chain envelopes: their content differs from the chain's.

use hawser_proto::envelope::{PayerEnvelope, UnsignedOriginatorEnvelope};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::{Bytes, OriginatorId, TransactionHash};
use prost::Message as _;

use super::case::ReportCase;
use super::chain_record::EventAnswer;
use super::exhibits::{Exhibit, Origin};
use super::judgement::{Fact, FaultJudgement, MisbehaviorVerdict, Missing};

/// Judges chain envelopes that, according to the reporter, the accused has served. `worthless` is the fact about an
/// envelope of the report that is not evidence, if there is one. Such an envelope does not affect the others.
pub(super) fn judge(
    case: &ReportCase<'_>,
    exhibits: &[Exhibit],
    mut worthless: Option<Fact>,
) -> FaultJudgement {
    let mut unknown = None;
    for exhibit in exhibits {
        let transaction = match transaction_of(exhibit) {
            Ok(transaction) => transaction,
            Err(fact) => {
                worthless.get_or_insert(fact);
                continue;
            }
        };
        let event = case.chain.event(exhibit.id, transaction);
        let differs = match event {
            EventAnswer::Unknown => {
                let text = "the transaction is not known here, or its block is not final";
                unknown.get_or_insert(Fact::new("chain_unknown", text).at(exhibit.id));
                continue;
            }
            EventAnswer::Absent => Some("the transaction has no event for this place"),
            EventAnswer::Event { identifier, client } => {
                let is_same = is_of_event(exhibit, &identifier, &client);
                (!is_same).then_some("the event on the chain has another content")
            }
        };
        if let Some(text) = differs {
            // The envelope is certainly false; only the reporter states that the accused served it.
            let fact = Fact::new("false_chain_envelope", text).at(exhibit.id);
            return FaultJudgement::new(MisbehaviorVerdict::Claim, fact);
        }
    }
    match (unknown, worthless, exhibits.first()) {
        (Some(fact), ..) => FaultJudgement::inconclusive(fact, Missing::Chain),
        (None, Some(fact), _) => FaultJudgement::refuted(fact),
        (None, None, Some(first)) => {
            let text = "the envelopes have the content of their events";
            FaultJudgement::refuted(Fact::new("as_on_chain", text).at(first.id))
        }
        (None, None, None) => FaultJudgement::refuted(Fact::malformed("no envelopes")),
    }
}

/// Returns the transaction that a chain envelope names.
///
/// # Errors
/// The fact that shows that the envelope is not one of a chain.
fn transaction_of(exhibit: &Exhibit) -> Result<TransactionHash, Fact> {
    let fact = |name, text: &str| Err(Fact::new(name, text).at(exhibit.id));
    match exhibit.origin {
        Origin::Signed(_) => {
            fact("not_of_chain", "the envelope is signed, and names no transaction")
        }
        Origin::Chain(_) if exhibit.id.originator.is_node() => fact(
            "chain_proof",
            "the envelope has no signature, so it proves no node guilty (rule 13)",
        ),
        Origin::Chain(transaction) => match exhibit.id.originator {
            OriginatorId::GROUP_MESSAGES | OriginatorId::IDENTITY_UPDATES => Ok(transaction),
            _ => {
                fact("not_of_chain", "no contract of a chain orders the strand of this originator")
            }
        },
    }
}

/// Compares content only: other implementations put their own clock's time into chain envelopes. Parses no envelope
/// whose bytes differ from the event: any reporter can put megabytes of dependencies beside a true transaction.
fn is_of_event(exhibit: &Exhibit, identifier: &Bytes, client: &Bytes) -> bool {
    let payer = pb::PayerEnvelope::decode(exhibit.fields.payer_envelope_bytes.clone());
    if payer.is_ok_and(|payer| payer.unsigned_client_envelope != *client) {
        return false;
    }
    let parsed = UnsignedOriginatorEnvelope::parse(exhibit.statement.clone());
    parsed.is_ok_and(|statement| {
        let payer: &PayerEnvelope = statement.payer();
        payer.client().as_bytes() == client
            && payer.client().topic().identifier() == identifier.as_ref()
    })
}
