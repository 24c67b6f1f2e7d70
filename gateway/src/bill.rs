//! The bill of a request: its rows in the table of use, and the fees beyond the prices that its caller's budget was charged.
//!
//! The task that learns of an envelope's publication enters it, and that task continues when the caller hangs up: a
//! caller who hangs up early pays like any other. The price of an envelope that is certainly not published goes back to
//! the budget when the last
//! task that works on it ends.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use hawser_rules::PayloadClass;

use crate::metering::Usage;
use crate::metrics::GatewayMetrics;
use crate::nodes::PlacedEnvelope;
use crate::policy::{Admission, CallerCost, CallerId, Policies};
use crate::routing::Routed;

/// The bill of one request.
pub(crate) struct RequestBill {
    /// Name of the tenant; empty without tenants.
    pub(crate) tenant: Box<str>,
    pub(crate) caller: CallerId,
    /// The budgets from which the prices were taken.
    pub(crate) admission: Admission,
    pub(crate) policies: Arc<Policies>,
    pub(crate) metrics: Arc<GatewayMetrics>,
    /// The envelopes of the request, in its order.
    pub(crate) lines: Vec<BillLine>,
}

/// One envelope of a request.
pub(crate) struct BillLine {
    kind: PayloadClass,
    bytes: u64,
    /// The price that was taken from the caller's budget.
    price: CallerCost,
    /// The envelope is in the table of use.
    is_entered: AtomicBool,
    /// The envelope may be published, and its outcome is unknown: its price stays taken from the budget.
    is_open: AtomicBool,
    /// The price went back to the budget.
    is_given_back: AtomicBool,
}

impl BillLine {
    /// Returns the line of an envelope that has this price.
    pub(crate) fn new(envelope: &Routed, price: CallerCost) -> Self {
        let (kind, bytes) = (envelope.kind, envelope.bytes.len() as u64);
        let [is_entered, is_open, is_given_back] = [false; 3].map(AtomicBool::new);
        Self { kind, bytes, price, is_entered, is_open, is_given_back }
    }

    /// Returns whether the price is for nothing, as far as is known.
    fn is_unused(&self) -> bool {
        !self.is_entered.load(Relaxed) && !self.is_open.load(Relaxed)
    }

    /// Returns the price if it did not go back to the budget yet: the one that asks has to give it back.
    fn take_back(&self) -> Option<CallerCost> {
        (!self.is_given_back.swap(true, Relaxed)).then_some(self.price)
    }
}

impl RequestBill {
    /// Gives back the prices of the envelopes with these indexes, each once.
    pub(crate) async fn give_back(&self, indexes: impl Iterator<Item = usize>) {
        let sum = sum_of(indexes.filter_map(|index| self.lines[index].take_back()));
        self.policies.give_back(&self.caller, sum, &self.admission).await;
    }

    /// Gives back the prices of all envelopes, each once.
    pub(crate) async fn give_all_back(&self) {
        self.give_back(0..self.lines.len()).await;
    }
}

impl Drop for RequestBill {
    fn drop(&mut self) {
        let unused = self.lines.iter().filter(|line| line.is_unused());
        let sum = sum_of(unused.filter_map(BillLine::take_back));
        self.policies.begin_to_give_back(&self.caller, sum, &self.admission);
    }
}

/// Sums prices.
fn sum_of(prices: impl Iterator<Item = CallerCost>) -> CallerCost {
    let mut sum = CallerCost::default();
    prices.for_each(|price| sum.add(price));
    sum
}

/// The place of one envelope in the bill of its request. Clones are the same place.
#[derive(Clone)]
pub(crate) struct BillEntry {
    bill: Arc<RequestBill>,
    index: usize,
}

impl BillEntry {
    /// Returns the place of the envelope with this index.
    pub(crate) fn new(bill: &Arc<RequestBill>, index: usize) -> Self {
        debug_assert!(index < bill.lines.len(), "a line for each envelope");
        Self { bill: bill.clone(), index }
    }

    /// Enters an envelope that a node has published. Returns the part of its fees that the price taken before does not
    /// cover, picodollars.
    pub(crate) fn enter_placed(&self, placed: &PlacedEnvelope) -> u64 {
        if placed.is_repeat {
            return 0;
        }
        let fee_picodollars = placed.fee_picodollars;
        self.enter(fee_picodollars, 0);
        fee_picodollars.saturating_sub(self.line().price.picodollars)
    }

    /// Enters a payload that is on the chain: its gas is paid, whether or not nodes show it.
    pub(crate) fn enter_on_chain(&self) {
        let CallerCost { picodollars, gas, .. } = self.line().price;
        self.enter(picodollars, gas);
    }

    /// Notes that the outcome of the envelope is unknown: its price stays taken from the budget.
    pub(crate) fn leave_open(&self) {
        self.line().is_open.store(true, Relaxed);
    }

    /// Takes the amount from the caller's budget by which the fees exceed the prices taken before.
    pub(crate) async fn charge(&self, picodollars: u64) {
        if picodollars > 0 {
            let RequestBill { policies, caller, admission, .. } = &*self.bill;
            policies.add_cost(caller, picodollars, admission).await;
        }
    }

    /// Gives the prices of entries of one request back, each once.
    pub(crate) async fn give_back_all(entries: &[Self]) {
        let Some(Self { bill, .. }) = entries.first() else { return };
        debug_assert!(entries.iter().all(|it| Arc::ptr_eq(&it.bill, bill)), "of one request");
        bill.give_back(entries.iter().map(|it| it.index)).await;
    }

    /// Gives the price back, once: another request has paid for the envelope.
    pub(crate) async fn give_back(&self) {
        self.bill.give_back(std::iter::once(self.index)).await;
    }

    /// Adds the envelope to the table of use, once, in the present hour: an hour that is over has been read already.
    fn enter(&self, picodollars: u64, gas: u64) {
        let BillLine { kind, bytes, is_entered, .. } = self.line();
        if is_entered.swap(true, Relaxed) {
            return;
        }
        let RequestBill { tenant, caller, metrics, .. } = &*self.bill;
        let now_s = u64::try_from(crate::now_ns() / 1_000_000_000).unwrap_or(0);
        let usage = Usage { envelopes: 1, bytes: *bytes, picodollars, gas };
        metrics.meter.lock().record(tenant, caller.name(), *kind, usage, now_s);
    }

    fn line(&self) -> &BillLine {
        &self.bill.lines[self.index]
    }
}

impl fmt::Debug for BillEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (caller, index) = (&self.bill.caller, self.index);
        f.debug_struct("BillEntry")
            .field("caller", caller)
            .field("index", &index)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use hawser_proto::{Bytes, Topic};

    use super::*;
    use crate::policy::config::PolicyFile;
    use crate::policy::{PolicyError, TakenCost};
    use crate::routing::Route;

    const PRICE: CallerCost = CallerCost { envelopes: 1, picodollars: 5, gas: 0 };

    fn policies(envelopes_per_day: u32) -> Arc<Policies> {
        let text = format!("[default]\nenvelopes_per_day = {envelopes_per_day}");
        Arc::new(Policies::new(PolicyFile::parse(&text).unwrap(), None).unwrap())
    }

    fn envelopes(count: usize) -> Vec<Routed> {
        let envelope = || Routed {
            bytes: Bytes::from_static(b"a"),
            topic: Topic::parse(Bytes::from_static(&[1, 1])).unwrap(),
            depends_on: Vec::new(),
            kind: PayloadClass::Welcome,
            route: Route::Node,
            identity_update: None,
        };
        std::iter::repeat_with(envelope).take(count).collect()
    }

    fn take(policies: &Arc<Policies>, count: usize) -> Result<TakenCost, PolicyError> {
        let (caller, envelopes) = (CallerId::of_test("alice"), envelopes(count));
        policies.admit(&caller, &envelopes, |_| PRICE, 1_750_000_000_000)
    }

    fn bill(policies: &Arc<Policies>, count: usize) -> Arc<RequestBill> {
        billed(policies, take(policies, count).ok().unwrap())
    }

    fn billed(policies: &Arc<Policies>, taken: TakenCost) -> Arc<RequestBill> {
        let (admission, prices) = taken.into_bill();
        let lines = envelopes(prices.len());
        let lines = lines.iter().zip(prices).map(|(it, price)| BillLine::new(it, price));
        Arc::new(RequestBill {
            tenant: "".into(),
            caller: CallerId::of_test("alice"),
            admission,
            policies: policies.clone(),
            metrics: Arc::new(GatewayMetrics::new(Default::default())),
            lines: lines.collect(),
        })
    }

    #[test]
    fn what_is_in_no_bill_when_its_caller_goes_goes_back() {
        let policies = policies(2);
        let taken = take(&policies, 2).ok().unwrap();
        assert!(take(&policies, 1).is_err());
        drop(taken);
        assert!(take(&policies, 2).is_ok());
    }

    #[test]
    fn what_is_certainly_not_published_goes_back_with_the_last_task_that_knows_of_it() {
        let policies = policies(4);
        let bill = bill(&policies, 4);
        let entries: Vec<_> = (0..4).map(|index| BillEntry::new(&bill, index)).collect();
        entries[0].enter_on_chain();
        entries[1].leave_open();
        entries[2].give_back().now_or_never().unwrap();
        let _one_is_back = take(&policies, 1).ok().unwrap().into_bill();
        drop(bill);
        assert!(take(&policies, 1).is_err(), "a task may still publish the last one");
        drop(entries);
        assert!(take(&policies, 2).is_err(), "each goes back once");
        assert!(take(&policies, 1).is_ok());
    }

    /// The price of gas moves between two looks at it.
    #[test]
    fn what_was_taken_goes_back_whatever_an_envelope_costs_by_then() {
        let text = "[default]\npicodollars_per_day = 12";
        let policies = Arc::new(Policies::new(PolicyFile::parse(text).unwrap(), None).unwrap());
        let caller = CallerId::of_test("alice");
        let take = |all: [u64; 2]| {
            let (envelopes, left) = (envelopes(2), std::cell::RefCell::new(all.to_vec()));
            let price = |_: &Routed| {
                let picodollars = left.borrow_mut().pop().expect("each is asked for once");
                CallerCost { picodollars, ..PRICE }
            };
            policies.admit(&caller, &envelopes, price, 1_750_000_000_000)
        };
        drop(billed(&policies, take([7, 5]).ok().unwrap()));
        assert!(take([7, 6]).is_err(), "no more than was taken");
        assert!(take([7, 5]).is_ok(), "and no less");
    }
}
