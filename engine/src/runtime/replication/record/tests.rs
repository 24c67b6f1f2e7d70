//! Tests of the memory that evidence takes.

use std::cell::Cell;

use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};

use super::*;

#[test]
fn evidence_of_the_longest_envelopes_is_not_in_memory_together() {
    const LEN: usize = 3 << 20;
    let (held, recorded) = (Cell::new(0), Cell::new(0));
    let found = (1..=1000).map(|place| {
        held.set(held.get() + 2 * LEN);
        assert!(held.get() < PART_BYTES + 2 * LEN, "{} bytes", held.get());
        let at = EnvelopeId::new(OriginatorId(300), SequenceId(place));
        let envelopes = vec![Bytes::from_static(&[7; LEN]); 2];
        let evidence = Evidence { misbehavior: Misbehavior::TimeBack, at, from: None, envelopes };
        Ok((place % 10 != 0).then_some(evidence).or_else(|| {
            held.set(held.get() - 2 * LEN);
            None
        }))
    });
    let record = |part: &[Evidence]| {
        held.set(0);
        recorded.set(recorded.get() + part.len());
        Ok(())
    };
    assert!(in_parts(found, record).is_ok());
    assert_eq!(recorded.get(), 900);
}
