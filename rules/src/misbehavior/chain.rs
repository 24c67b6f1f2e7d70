//! Faults of chain envelopes: their content differs from the chain's.

use hawser_proto::Bytes;
use hawser_proto::envelope::{PayerEnvelope, UnsignedOriginatorEnvelope};

use super::case::ReportCase;
use super::chain_record::EventAnswer;
use super::exhibits::{Exhibit, Origin};
use super::judgement::{Fact, MisbehaviorVerdict, Missing, Ruling};

/// Judges chain envelopes that, according to the reporter, the accused has served.
pub(super) fn judge(case: &ReportCase<'_>, exhibits: &[Exhibit]) -> Ruling {
    let mut unknown = None;
    for exhibit in exhibits {
        let Origin::Chain(transaction) = exhibit.origin else {
            let fact =
                Fact::new("not_of_chain", "the envelope is signed, and names no transaction");
            return Ruling::refuted(fact.at(exhibit.id));
        };
        if exhibit.id.originator.is_node() {
            let text = "the envelope has no signature, so it proves no node guilty (rule 13)";
            return Ruling::refuted(Fact::new("chain_proof", text).at(exhibit.id));
        }
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
            return Ruling::new(MisbehaviorVerdict::Claim, fact);
        }
    }
    match (unknown, exhibits.first()) {
        (Some(fact), _) => Ruling::inconclusive(fact, Missing::Chain),
        (None, Some(first)) => {
            let text = "the envelopes have the content of their events";
            Ruling::refuted(Fact::new("as_on_chain", text).at(first.id))
        }
        (None, None) => Ruling::refuted(Fact::malformed("no envelopes")),
    }
}

/// Compares content only: other implementations put their own clock's time into chain envelopes.
fn is_of_event(exhibit: &Exhibit, identifier: &Bytes, client: &Bytes) -> bool {
    let parsed = UnsignedOriginatorEnvelope::parse(exhibit.statement.clone());
    parsed.is_ok_and(|statement| {
        let payer: &PayerEnvelope = statement.payer();
        payer.client().as_bytes() == client
            && payer.client().topic().identifier() == identifier.as_ref()
    })
}
