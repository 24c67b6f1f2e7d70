//! Sequencing: places, times and prices of this node's strand. A plain value: no clock, no
//! signature, no disk.

use hawser_proto::envelope::{PayerEnvelope, UnsealedEnvelope};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::{EnvelopeId, OriginatorId, PayerAddress, SequenceId, minute_of};
use hawser_rules::congestion::CongestionWindow;
use hawser_rules::fees::{EnvelopeFees, envelope_fees};
use hawser_rules::retention::{expiry_unix_s, unix_s};
use hawser_rules::{PicoDollarPrice, PriceError, Rate, RateTable, is_free};

/// An envelope that may be sequenced: every rule that does not depend on order holds.
#[derive(Debug, Clone)]
pub struct Admitted {
    /// The payer envelope as the payer sent it.
    pub envelope: PayerEnvelope,
    /// The account that pays.
    pub payer: PayerAddress,
    /// Identifies this publish; see [`crate::facts::receipt`].
    pub receipt: [u8; 32],
    /// Time of the latest chain envelope that it depends on, if that may be later than this node's
    /// clock; unix nanoseconds.
    pub depends_on_ns: Option<i64>,
}

/// Upper bound of a chain's lead over this node's clock. Specified (`docs/protocol/rules.md`, Expiry and time): ten
/// minutes. A chain that is further ahead is not followed, because its operator could otherwise set this node's
/// times, and with them prices and expiries. Envelopes that depend on such a chain are refused.
pub const CHAIN_AHEAD_NS_MAX: i64 = 600_000_000_000;

/// Returns true if an envelope that depends on a chain envelope of this time is dated after it, and not
/// by this node's clock.
pub(crate) fn is_followed(chain_ns: i64, now_ns: i64) -> bool {
    chain_ns >= now_ns && chain_ns.saturating_sub(now_ns) <= CHAIN_AHEAD_NS_MAX
}

/// Returns true if an envelope that depends on a chain envelope of this time cannot be given an honest time: it
/// would be dated before the envelope that it depends on, which is evidence against this node.
pub(crate) fn is_too_far_ahead(chain_ns: i64, now_ns: i64) -> bool {
    chain_ns.saturating_sub(now_ns) > CHAIN_AHEAD_NS_MAX
}

/// Returns a time after `chain_ns`, which this node's clock has not reached, and within the next
/// second.
///
/// Clients find a message by its time, so no two envelopes of a topic may share one, and clients
/// show messages in this order. Other nodes may be waiting for the same chain envelope and would
/// give the same time, so each adds a thousandth of its clock: that keeps the times of different
/// nodes apart and in the order of their clocks. A thousandth of 1,000 s wraps at one second.
fn shortly_after(chain_ns: i64, now_ns: i64) -> i64 {
    chain_ns + 1 + now_ns.rem_euclid(1_000_000_000_000) / 1000
}

/// Error of a request in which an envelope has no price.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct UnpricedError {
    /// The place of the first such envelope in the request, from 0.
    pub index: usize,
    /// The fee that cannot be computed.
    pub error: PriceError,
}

/// A place in the strand, ready to be signed.
#[derive(Debug)]
pub struct Sequenced {
    /// This node's id and the sequence id that the envelope gets.
    pub id: EnvelopeId,
    /// The envelope's time, unix nanoseconds.
    pub originator_ns: i64,
    /// The amount that the payer owes: base fee and congestion fee.
    pub picodollars: PicoDollarPrice,
    /// Unix seconds after which the envelope may be pruned.
    pub expiry_unix_s: u64,
    /// The statement, laid out for its signature.
    pub unsealed: UnsealedEnvelope,
}

/// The only source of sequence ids of this node's strand.
///
/// Invariant: ids are contiguous from `last`, and times strictly increase. A request without a
/// price changes nothing, so it burns no id.
#[derive(Debug)]
pub struct Sequencer {
    node: OriginatorId,
    last: SequenceId,
    last_ns: i64,
    congestion: CongestionWindow,
}

impl Sequencer {
    /// Continues the stored strand: `last` is its head, and `last_ns` the time of its newest
    /// envelope. `counts` returns the number of its envelopes in a minute since the epoch. The minutes that count for
    /// congestion follow from the strand alone: a clock that is ahead now may be set right before the first envelope.
    pub fn new(
        node: OriginatorId,
        last: SequenceId,
        last_ns: i64,
        counts: impl Fn(u32) -> u64,
    ) -> Self {
        let congestion = CongestionWindow::new(minute_of(last_ns), counts);
        Self { node, last, last_ns, congestion }
    }

    /// Returns the newest sequence id handed out; 0 if the strand is empty.
    #[must_use]
    pub fn last(&self) -> SequenceId {
        self.last
    }

    /// Returns the latest time handed out, unix nanoseconds; 0 if the strand is empty.
    #[must_use]
    pub fn last_ns(&self) -> i64 {
        self.last_ns
    }

    /// Dates the next places after this time, unix nanoseconds. This node's key has signed something with this time
    /// about the strand, which the stored strand may lack. A time after 2116, which only a thief of the key signs,
    /// counts as one of that year, so that there is always a later time.
    pub fn date_after(&mut self, signed_ns: i64) {
        self.last_ns = self.last_ns.max(signed_ns.min(i64::MAX / 2));
    }

    /// Returns true if the strand has places and times left for this number of envelopes. Its end may be as high and
    /// as late as its key has signed, by whatever process.
    #[must_use]
    pub fn has_room_for(&self, envelopes: usize) -> bool {
        let places_left = SequenceId::MAX.0.saturating_sub(self.last.0);
        places_left.min(i64::MAX.abs_diff(self.last_ns)) >= envelopes as u64
    }

    /// Returns what [`sequence`](Self::sequence) would charge for each envelope of the same request.
    ///
    /// # Errors
    /// Its errors.
    pub fn prices<'a>(
        &self,
        now_ns: i64,
        rates: &RateTable,
        request: impl IntoIterator<Item = &'a Admitted>,
    ) -> Result<Vec<PicoDollarPrice>, UnpricedError> {
        let mut next = self.draft();
        let placed = next.place_all(self.node, now_ns, rates, request);
        placed.map(|placed| Ok(placed?.picodollars)).collect()
    }

    fn draft(&self) -> RequestDraft {
        RequestDraft { sequence: self.last, ns: self.last_ns, congestion: self.congestion.clone() }
    }

    /// Sequences one request as a whole, in its order.
    ///
    /// Times come from the one reading `now_ns`; where the clock has not moved, they increase by a
    /// nanosecond each. An envelope gets a later time than the chain envelope it depends on, unless
    /// the chain's clock is more than ten minutes ahead. Price and expiry follow from the time that
    /// the envelope gets, because other nodes judge them by that time.
    ///
    /// # Errors
    /// If one of the envelopes has no price. Then none is sequenced.
    ///
    /// # Panics
    /// If the strand [has no room](Self::has_room_for) for them. An id that is given twice would be signed twice.
    pub fn sequence<'a>(
        &mut self,
        now_ns: i64,
        rates: &RateTable,
        request: impl IntoIterator<Item = &'a Admitted>,
    ) -> Result<Vec<Sequenced>, UnpricedError> {
        let mut next = self.draft();
        let sequenced: Result<Vec<_>, _> =
            next.place_all(self.node, now_ns, rates, request).collect();
        let sequenced = sequenced?;
        let places = sequenced.len() as u64;
        assert_eq!(next.sequence.0, self.last.0 + places, "ids are contiguous");
        (self.last, self.last_ns, self.congestion) = (next.sequence, next.ns, next.congestion);
        #[cfg(feature = "faults")]
        if hawser_storage::faults::is_on(hawser_storage::faults::SeededFault::DoubledId) {
            self.last = self.last.previous();
        }
        Ok(sequenced)
    }
}

/// The sequencer's state while a request is sequenced; becomes the state once all of the request
/// has a price.
struct RequestDraft {
    sequence: SequenceId,
    ns: i64,
    congestion: CongestionWindow,
}

impl RequestDraft {
    /// Places envelopes in the order of their request, each when the result is asked for it.
    fn place_all<'a>(
        &mut self,
        node: OriginatorId,
        now_ns: i64,
        rates: &RateTable,
        request: impl IntoIterator<Item = &'a Admitted>,
    ) -> impl Iterator<Item = Result<Sequenced, UnpricedError>> {
        request.into_iter().enumerate().map(move |(index, admitted)| {
            let placed = self.place(node, now_ns, rates, admitted);
            placed.map_err(|error| UnpricedError { index, error })
        })
    }

    fn place(
        &mut self,
        node: OriginatorId,
        now_ns: i64,
        rates: &RateTable,
        admitted: &Admitted,
    ) -> Result<Sequenced, PriceError> {
        let envelope = &admitted.envelope;
        let chain_ns = admitted.depends_on_ns.filter(|&ns| is_followed(ns, now_ns));
        let time_ns = chain_ns.map(|ns| shortly_after(ns, now_ns));
        assert!(self.sequence < SequenceId::MAX, "the strand has a place left");
        self.sequence = self.sequence.next();
        // Strictly later than the envelope before, whatever the clock does: a time that repeats or goes back is
        // evidence against this node.
        self.ns = time_ns.unwrap_or(now_ns).max(self.ns + 1);
        let rate = rates.at(self.ns).map_err(PriceError::Base)?;
        let price = self.price(rate, envelope)?;
        let expiry_unix_s = expiry_unix_s(unix_s(self.ns), envelope.retention_days());
        let unsealed = UnsealedEnvelope::new(&pb::UnsignedOriginatorEnvelope {
            originator_node_id: node.0,
            originator_sequence_id: self.sequence.0,
            originator_ns: self.ns,
            payer_envelope_bytes: envelope.as_bytes().clone(),
            base_fee_picodollars: price.base().0,
            congestion_fee_picodollars: price.congestion().0,
            expiry_unixtime: expiry_unix_s,
        });
        Ok(Sequenced {
            id: EnvelopeId::new(node, self.sequence),
            originator_ns: self.ns,
            picodollars: price.sum(),
            expiry_unix_s,
            unsealed,
        })
    }

    /// Prices an envelope, then counts it: congestion is that of the envelopes before it, also of
    /// those in the same request.
    fn price(&mut self, rate: &Rate, envelope: &PayerEnvelope) -> Result<EnvelopeFees, PriceError> {
        if is_free(envelope.client().topic().kind()) {
            return Ok(EnvelopeFees::default());
        }
        let size = envelope.as_bytes().len() as u64;
        let units = self.congestion.advance_to(minute_of(self.ns), rate.target_rate_per_minute);
        let fees = envelope_fees(rate, size, envelope.retention_days(), units)?;
        self.congestion.count_envelope();
        Ok(fees)
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::envelope::OriginatorEnvelope;
    use hawser_proto::{Bytes, SecretKey};
    use hawser_rules::PicoDollarsPerByteDay;
    use hawser_rules::fees::FeeError;
    use proptest::prelude::*;

    use super::*;

    const NODE: OriginatorId = OriginatorId(100);
    const START_NS: i64 = 1_700_000_000_000_000_000;
    const CLIENT: &str = "0a13121100aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa12250a230a210001000210aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa000000000000000101000000";

    fn admitted(retention_days: u32) -> Admitted {
        let payer = SecretKey::from_bytes(&[7; 32]).unwrap();
        let client = Bytes::from(hex::decode(CLIENT).unwrap());
        let message = PayerEnvelope::sign(client, NODE, retention_days, &payer);
        Admitted {
            envelope: PayerEnvelope::from_message(message).unwrap(),
            payer: payer.public_key().address(),
            receipt: [0; 32],
            depends_on_ns: None,
        }
    }

    fn rates(rate: Rate) -> RateTable {
        RateTable::new(vec![rate], None).unwrap()
    }

    fn plain() -> RateTable {
        rates(Rate {
            start_unix_s: 0,
            message_fee: PicoDollarPrice(1000),
            storage_fee: PicoDollarsPerByteDay(3),
            congestion_fee: PicoDollarPrice(0),
            target_rate_per_minute: 0,
        })
    }

    fn sequencer() -> Sequencer {
        Sequencer::new(NODE, SequenceId(0), 0, |_| 0)
    }

    fn open(sequenced: Sequenced) -> OriginatorEnvelope {
        let key = SecretKey::from_bytes(&[9; 32]).unwrap();
        OriginatorEnvelope::parse(sequenced.unsealed.seal(&key)).unwrap()
    }

    #[test]
    fn ids_are_contiguous_and_times_strictly_increase_whatever_the_clock_does() {
        let mut sequencer = sequencer();
        let mut last = (0, 0);
        for step in [0, 5, 5, -1_000_000_000, 7] {
            let request = [admitted(60), admitted(60)];
            let prices = sequencer.prices(START_NS + step, &plain(), &request).unwrap();
            assert_eq!(prices, [PicoDollarPrice(25_300); 2], "it changes nothing");
            for sequenced in sequencer.sequence(START_NS + step, &plain(), &request).unwrap() {
                let next = (sequenced.id.sequence.0, sequenced.originator_ns);
                assert_eq!(next.0, last.0 + 1);
                assert!(next.1 > last.1, "{next:?} after {last:?}");
                last = next;
            }
        }
        assert_eq!(last.0, 10);
    }

    #[test]
    fn a_place_is_dated_after_what_is_known_to_be_signed() {
        let mut sequencer = sequencer();
        let mut sequence = |signed_ns| {
            sequencer.date_after(signed_ns);
            let request = [admitted(60)];
            sequencer.sequence(START_NS, &plain(), &request).unwrap()[0].originator_ns
        };
        assert_eq!(sequence(i64::MIN), START_NS, "nothing is known");
        assert_eq!(sequence(START_NS + 7_000_000_000), START_NS + 7_000_000_001);
        assert_eq!(sequence(START_NS), START_NS + 7_000_000_002, "times do not go back");
        assert_eq!(sequence(i64::MAX), i64::MAX / 2 + 1, "a thief of the key stops no process");
    }

    #[test]
    fn a_strand_has_room_up_to_its_last_place_and_to_the_last_time() {
        let at = |last, last_ns| Sequencer::new(NODE, SequenceId(last), last_ns, |_| 0);
        let most = SequenceId::MAX.0;
        assert!(at(most - 2, 0).has_room_for(2) && !at(most - 2, 0).has_room_for(3));
        assert!(at(most, i64::MAX).has_room_for(0) && at(0, i64::MIN).has_room_for(9));
        let mut late = at(7, i64::MAX - 2);
        assert!(late.has_room_for(2) && !late.has_room_for(3));
        let sequenced = late.sequence(START_NS, &plain(), &[admitted(60), admitted(60)]).unwrap();
        assert_eq!(sequenced[1].originator_ns, i64::MAX);
        assert!(!late.has_room_for(1));
    }

    #[test]
    fn nodes_that_wait_for_one_chain_give_different_times_in_the_order_of_their_clocks() {
        let commit_ns = START_NS + 60_000_000_000;
        let mut nodes = [sequencer(), sequencer()];
        let mut last = commit_ns;
        for message in 0..100 {
            let now_ns = START_NS + message * 2_000_000;
            let request = [Admitted { depends_on_ns: Some(commit_ns), ..admitted(60) }];
            let node = &mut nodes[usize::from(message % 3 == 0)];
            let ns = node.sequence(now_ns, &plain(), &request).unwrap()[0].originator_ns;
            assert!(ns > last && ns < commit_ns + 1_000_000_000, "{ns} after {last}");
            last = ns;
        }
    }

    #[test]
    fn an_envelope_is_later_than_what_it_depends_on_unless_that_is_far_ahead() {
        let mut sequencer = sequencer();
        let mut sequence = |now_ns, depends_on_ns| {
            let request = [Admitted { depends_on_ns, ..admitted(60) }];
            sequencer.sequence(START_NS + now_ns, &plain(), &request).unwrap()[0].originator_ns
                - START_NS
        };
        let second = 1_000_000_000;
        assert_eq!(sequence(0, Some(START_NS - 7)), 0);
        assert_eq!(sequence(10, Some(START_NS + 2 * second)), 2 * second + 1);
        assert_eq!(sequence(20, None), 2 * second + 2, "times go on increasing");
        let at = 2 * second + 1 + second / 1000;
        assert_eq!(sequence(second, Some(START_NS + 2 * second)), at);
        let at = 603 * second + 1 + 3 * second / 1000;
        assert_eq!(sequence(3 * second, Some(START_NS + 603 * second)), at);
        let now = 604 * second;
        assert_eq!(sequence(now, Some(START_NS + now + 600 * second + 1)), now);
        assert_eq!(sequence(now, Some(i64::MAX)), now + 1);
    }

    #[test]
    fn the_price_is_that_of_the_time_an_envelope_is_given() {
        let second = 1_000_000_000;
        let start_s = u64::try_from(START_NS / second).unwrap();
        let rate = |start_unix_s, message_fee| Rate {
            start_unix_s,
            message_fee: PicoDollarPrice(message_fee),
            storage_fee: PicoDollarsPerByteDay(0),
            congestion_fee: PicoDollarPrice(0),
            target_rate_per_minute: 0,
        };
        let table = vec![rate(0, 1000), rate(start_s + 400, 7)];
        let table = RateTable::new(table, None).unwrap();
        let mut sequencer = sequencer();
        let mut fee = |depends_on_ns| {
            let request = [Admitted { depends_on_ns, ..admitted(60) }];
            sequencer.sequence(START_NS, &table, &request).unwrap()[0].picodollars.0
        };
        assert_eq!(fee(None), 1000);
        assert_eq!(fee(Some(START_NS + 500 * second)), 7, "the new price is in force by then");
        assert_eq!(fee(None), 7, "times do not go back, nor do prices");
    }

    #[test]
    fn the_statement_says_what_was_sequenced() {
        let mut sequenced = sequencer().sequence(START_NS, &plain(), &[admitted(60)]).unwrap();
        let sequenced = sequenced.pop().unwrap();
        let (id, ns, fee) = (sequenced.id, sequenced.originator_ns, sequenced.picodollars);
        let envelope = open(sequenced);
        let statement = envelope.unsigned();
        assert_eq!((statement.id(), statement.originator_ns()), (id, ns));
        assert_eq!(statement.base_fee(), PicoDollarPrice(25_300));
        assert_eq!(fee, PicoDollarPrice(25_300));
        assert_eq!(statement.expiry_unix_s(), 1_700_000_000 + 60 * 86_400);
    }

    #[test]
    fn infinite_retention_never_expires() {
        let sequenced = sequencer().sequence(START_NS, &plain(), &[admitted(u32::MAX)]).unwrap();
        assert_eq!(sequenced[0].expiry_unix_s, i64::MAX.unsigned_abs());
    }

    #[test]
    fn a_request_that_has_no_price_burns_no_id() {
        let mut sequencer = sequencer();
        // A byte may cost this much for two days, and not for a year.
        let expensive = rates(Rate {
            storage_fee: PicoDollarsPerByteDay(u64::MAX >> 15),
            ..plain().rates()[0]
        });
        let request = [admitted(2), admitted(365), admitted(365)];
        let failed = sequencer.sequence(START_NS, &expensive, &request);
        let failed = failed.unwrap_err();
        assert!(matches!(failed, UnpricedError { index: 1, error: PriceError::Base(_) }));
        assert_eq!(sequencer.prices(START_NS, &expensive, &request), Err(failed));
        let sequenced = sequencer.sequence(START_NS, &plain(), &[admitted(60)]).unwrap();
        assert_eq!(sequenced[0].id.sequence, SequenceId(1));
    }

    /// Other nodes book nothing for an envelope whose sum leaves the range of amounts, so none is signed.
    #[test]
    fn an_envelope_whose_fees_have_no_sum_is_refused() {
        let mut sequencer = Sequencer::new(NODE, SequenceId(0), START_NS, |_| 2);
        let fees = |message_fee| {
            rates(Rate {
                start_unix_s: 0,
                message_fee: PicoDollarPrice(message_fee),
                storage_fee: PicoDollarsPerByteDay(0),
                congestion_fee: PicoDollarPrice(1),
                target_rate_per_minute: 1,
            })
        };
        let largest = i64::MAX.unsigned_abs();
        let failed = sequencer.sequence(START_NS, &fees(largest - 99), &[admitted(60)]);
        let overflow = PriceError::Congestion(FeeError::Overflow);
        assert_eq!(failed.unwrap_err(), UnpricedError { index: 0, error: overflow });
        let sequenced =
            sequencer.sequence(START_NS, &fees(largest - 100), &[admitted(60)]).unwrap();
        let placed = (sequenced[0].id.sequence, sequenced[0].picodollars.0);
        assert_eq!(placed, (SequenceId(1), largest));
    }

    #[test]
    fn congestion_of_a_batch_counts_the_messages_before_it() {
        let text = include_str!("../../tests/vectors/contracts/fees.json");
        let vectors: serde_json::Value = serde_json::from_str(text).unwrap();
        let batch = &vectors["congestion_batch_same_minute"];
        let seed = batch["seed_count"].as_u64().unwrap();
        let now = minute_of(START_NS);
        let count = move |minute| if minute == now { seed } else { 0 };
        let mut sequencer = Sequencer::new(NODE, SequenceId(0), START_NS, count);
        let busy = rates(Rate {
            congestion_fee: PicoDollarPrice(batch["congestion_fee"].as_u64().unwrap()),
            target_rate_per_minute: batch["target"].as_u64().unwrap(),
            ..plain().rates()[0]
        });
        let steps = batch["steps"].as_array().unwrap();
        let request: Vec<_> = steps.iter().map(|_| admitted(60)).collect();
        let sequenced = sequencer.sequence(START_NS, &busy, &request).unwrap();
        for (step, sequenced) in steps.iter().zip(sequenced) {
            let golden: u64 = step["congestion_fee_picodollars"].as_str().unwrap().parse().unwrap();
            assert_eq!(open(sequenced).unsigned().congestion_fee().0, golden, "{step}");
        }
    }

    /// Returns base fee and congestion fee of each envelope, with the nanoseconds from `from_ns` to its time.
    fn charged(
        sequencer: &mut Sequencer,
        (now_ns, from_ns): (i64, i64),
        table: &RateTable,
    ) -> Vec<(i64, u64, u64)> {
        let request = [admitted(60), admitted(60), admitted(60)];
        let sequenced = sequencer.sequence(now_ns, table, &request).unwrap();
        let fees = sequenced.into_iter().map(|sequenced| {
            let envelope = open(sequenced);
            let statement = envelope.unsigned();
            let fees = (statement.base_fee().0, statement.congestion_fee().0);
            (statement.originator_ns() - from_ns, fees.0, fees.1)
        });
        fees.collect()
    }

    /// The envelopes have 135 bytes. Three are in the minute, in which fees and target change.
    #[test]
    fn a_rate_that_starts_within_a_minute_and_a_batch_counts_from_its_first_nanosecond_on() {
        let old = Rate {
            start_unix_s: 0,
            message_fee: PicoDollarPrice(100),
            storage_fee: PicoDollarsPerByteDay(200),
            congestion_fee: PicoDollarPrice(300),
            target_rate_per_minute: 2,
        };
        let new = Rate {
            start_unix_s: 1_700_000_000,
            message_fee: PicoDollarPrice(7),
            storage_fee: PicoDollarsPerByteDay(1),
            congestion_fee: PicoDollarPrice(11),
            target_rate_per_minute: 4,
        };
        let table = RateTable::new(vec![old, new], None).unwrap();
        let now = minute_of(START_NS);
        let count = move |minute| if minute == now { 3 } else { 0 };
        let mut sequencer = Sequencer::new(NODE, SequenceId(3), START_NS - 9, count);
        let fees = charged(&mut sequencer, (START_NS - 1, START_NS), &table);
        // 3 of 2 are 100 units, 4 of 4 are none, and 5 of 4 are 26.
        assert_eq!(fees, [(-1, 1_620_100, 30_000), (0, 8107, 0), (1, 8107, 286)]);
    }

    #[test]
    fn a_batch_over_the_end_of_a_minute_counts_in_both_minutes() {
        const END_NS: i64 = 1_700_000_040_000_000_000;
        let busy = rates(Rate {
            congestion_fee: PicoDollarPrice(10),
            target_rate_per_minute: 4,
            ..plain().rates()[0]
        });
        let now = minute_of(START_NS);
        let count = move |minute| if minute == now { 5 } else { 0 };
        let mut sequencer = Sequencer::new(NODE, SequenceId(5), START_NS, count);
        let fees = charged(&mut sequencer, (END_NS - 1, END_NS), &busy);
        // 5 of 4 are 26 units, and the 6 of the minute before are 100.
        assert_eq!(fees, [(-1, 25_300, 260), (0, 25_300, 1000), (1, 25_300, 1000)]);
    }

    proptest! {
        /// Any clock and any chain: ids are contiguous, times strictly increase, and the price is
        /// that of the time which the statement says.
        #[test]
        fn statements_keep_the_order_for_any_clock(
            steps in proptest::collection::vec(
                (-2_000_000_000..4_000_000_000_i64, proptest::option::of(-10..700_i64), 1..4_usize),
                1..20,
            ),
        ) {
            let mut sequencer = sequencer();
            let (mut last, mut last_ns) = (SequenceId(0), 0);
            for (offset_ns, chain_s, count) in steps {
                let now_ns = START_NS + offset_ns;
                let depends_on_ns = chain_s.map(|s| START_NS + s * 1_000_000_000);
                let request = vec![Admitted { depends_on_ns, ..admitted(60) }; count];
                for sequenced in sequencer.sequence(now_ns, &plain(), &request).unwrap() {
                    prop_assert_eq!(sequenced.id.sequence, last.next());
                    prop_assert!(sequenced.originator_ns > last_ns);
                    prop_assert!(sequenced.expiry_unix_s >= unix_s(sequenced.originator_ns));
                    (last, last_ns) = (sequenced.id.sequence, sequenced.originator_ns);
                }
            }
            prop_assert_eq!(sequencer.last(), last);
        }
    }
}
