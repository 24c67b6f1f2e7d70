//! The bill of a request: its rows in the usage table, and the fees beyond the prices that admission took from the
//! caller's budget.
//!
//! The task that learns that an envelope is published enters it in the usage table. This task continues when the
//! caller hangs up, so a caller cannot avoid payment by hanging up early. The price of an envelope that is
//! certainly not published returns to the budget when the last task that works on the request drops the bill.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use hawser_chain::admin::bridge::Gas;
use hawser_rules::{PayloadClass, PicoDollarPrice};

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
    /// The budgets from which admission took the prices.
    pub(crate) admission: Admission,
    pub(crate) policies: Arc<Policies>,
    pub(crate) metrics: Arc<GatewayMetrics>,
    /// One line for each envelope, in the order of the request.
    pub(crate) lines: Vec<BillLine>,
}

/// One envelope in the bill.
pub(crate) struct BillLine {
    kind: PayloadClass,
    bytes: u64,
    /// The price that admission took from the caller's budget, and what it holds back for congestion.
    price: CallerCost,
    /// The envelope is in the usage table.
    is_entered: AtomicBool,
    /// The price does not return to the budget: the envelope may be published, or its check has cost as much.
    is_kept: AtomicBool,
    /// The price has returned to the budget.
    is_given_back: AtomicBool,
    /// The amount that was held back for congestion has returned to the budget.
    is_released: AtomicBool,
}

impl BillLine {
    /// Creates the line of an envelope for which admission took `price`.
    pub(crate) fn new(envelope: &Routed, price: CallerCost) -> Self {
        let (kind, bytes) = (envelope.kind, envelope.bytes.len() as u64);
        let [is_entered, is_kept, is_given_back, is_released] = [false; 4].map(AtomicBool::new);
        Self { kind, bytes, price, is_entered, is_kept, is_given_back, is_released }
    }

    /// Returns true if the envelope is certainly not published, and its price is not kept.
    fn is_unused(&self) -> bool {
        !self.is_entered.load(Relaxed) && !self.is_kept.load(Relaxed)
    }

    /// Returns the price and marks it as returned; `None` if it was returned before, or if the envelope is in the usage
    /// table. The caller of this function has to put it back into the budget. The swap is atomic, so tasks that end at
    /// the same time return a price once.
    fn take_back(&self) -> Option<CallerCost> {
        let is_taken = !self.is_entered.load(Relaxed) && !self.is_given_back.swap(true, Relaxed);
        is_taken.then(|| {
            let CallerCost { congestion_max, .. } = self.take_congestion();
            CallerCost { congestion_max, ..self.price }
        })
    }

    /// Returns what is still held back for congestion, and marks it as returned. The caller of this function has to put
    /// it back into the budget.
    fn take_congestion(&self) -> CallerCost {
        let is_held = !self.is_released.swap(true, Relaxed);
        let congestion_max = if is_held { self.price.congestion_max } else { PicoDollarPrice(0) };
        CallerCost { congestion_max, ..CallerCost::default() }
    }
}

impl RequestBill {
    /// Returns the prices of the envelopes with these indexes to the budget, each at most once.
    pub(crate) async fn give_back(&self, indexes: impl Iterator<Item = usize>) {
        let sum = sum_of(indexes.filter_map(|index| self.lines[index].take_back()));
        self.policies.give_back(&self.caller, sum, &self.admission).await;
    }

    /// Returns true if the envelope with this index is in the usage table: this request pays for it.
    pub(crate) fn is_entered(&self, index: usize) -> bool {
        self.lines[index].is_entered.load(Relaxed)
    }

    /// Returns what is held back for the congestion of the envelopes with these indexes to the budget, each at most
    /// once: the node has answered, or the outcome stays unknown.
    pub(crate) fn release_congestion(&self, indexes: impl Iterator<Item = usize>) {
        let sum = sum_of(indexes.map(|index| self.lines[index].take_congestion()));
        self.policies.begin_to_give_back(&self.caller, sum, &self.admission);
    }

    /// Keeps the prices of the envelopes with these indexes from returning to the budget, also if the caller hangs up.
    pub(crate) fn keep(&self, indexes: &[usize]) {
        indexes.iter().for_each(|index| self.lines[*index].is_kept.store(true, Relaxed));
    }

    /// Allows the prices of these envelopes to return to the budget again, after [`keep`](Self::keep).
    pub(crate) fn release(&self, indexes: &[usize]) {
        indexes.iter().for_each(|index| self.lines[*index].is_kept.store(false, Relaxed));
    }

    /// Returns the prices of all envelopes that are certainly not published to the budget, each at most once, except
    /// for those that are kept.
    pub(crate) async fn give_unused_back(&self) {
        self.policies.give_back(&self.caller, self.take_unused_back(), &self.admission).await;
    }

    /// Marks the prices that [`give_unused_back`](Self::give_unused_back) returns as returned. Returns their sum, which
    /// has to be put back into the budget.
    fn take_unused_back(&self) -> CallerCost {
        let unused = self.lines.iter().filter(|line| line.is_unused());
        sum_of(unused.filter_map(BillLine::take_back))
    }
}

impl Drop for RequestBill {
    fn drop(&mut self) {
        // No task has the bill any more, so an envelope without an outcome is not published.
        let mut unused = self.take_unused_back();
        unused.add(sum_of(self.lines.iter().map(BillLine::take_congestion)));
        self.policies.begin_to_give_back(&self.caller, unused, &self.admission);
    }
}

/// Sums prices.
fn sum_of(prices: impl Iterator<Item = CallerCost>) -> CallerCost {
    let mut sum = CallerCost::default();
    prices.for_each(|price| sum.add(price));
    sum
}

/// A handle to the line of one envelope in the bill of its request. Clones refer to the same line.
#[derive(Clone)]
pub(crate) struct BillEntry {
    bill: Arc<RequestBill>,
    index: usize,
}

impl BillEntry {
    /// Returns the entry of the envelope with this index.
    pub(crate) fn new(bill: &Arc<RequestBill>, index: usize) -> Self {
        debug_assert!(index < bill.lines.len(), "a line for each envelope");
        Self { bill: bill.clone(), index }
    }

    /// Enters an envelope that a node has published. Returns the amount by which its fees exceed the price that
    /// admission took. A repeat of an envelope that was published before is not entered and costs nothing.
    pub(crate) fn enter_placed(&self, placed: &PlacedEnvelope) -> PicoDollarPrice {
        if placed.is_repeat {
            return PicoDollarPrice(0);
        }
        self.enter(placed.fee, Gas(0));
        placed.fee.less(self.line().price.picodollars)
    }

    /// Enters a payload that is on the chain, at the price that admission took. The gas is spent even if no node
    /// shows the envelope.
    pub(crate) fn enter_on_chain(&self) {
        let CallerCost { picodollars, gas, .. } = self.line().price;
        self.enter(picodollars, Gas(gas));
    }

    /// Records that the outcome of the envelope is unknown, so its price does not return to the budget.
    pub(crate) fn leave_open(&self) {
        self.line().is_kept.store(true, Relaxed);
    }

    /// Takes an amount from the caller's budget: the one that [`enter_placed`](Self::enter_placed)
    /// returned.
    pub(crate) async fn charge(&self, picodollars: PicoDollarPrice) {
        if picodollars > PicoDollarPrice(0) {
            let RequestBill { policies, caller, admission, .. } = &*self.bill;
            policies.add_cost(caller, picodollars, admission).await;
        }
    }

    /// Returns what is held back for the congestion of entries of one request to the budget, after the fees are
    /// charged.
    pub(crate) fn release_congestion<'a>(mut entries: impl Iterator<Item = &'a Self>) {
        let Some(first) = entries.next() else { return };
        let indexes = std::iter::once(first).chain(entries).map(|entry| entry.index);
        first.bill.release_congestion(indexes);
    }

    /// Returns the prices of entries of one request to the budget, each at most once.
    pub(crate) async fn give_back_all(entries: &[Self]) {
        let Some(Self { bill, .. }) = entries.first() else { return };
        debug_assert!(entries.iter().all(|it| Arc::ptr_eq(&it.bill, bill)), "of one request");
        bill.give_back(entries.iter().map(|it| it.index)).await;
    }

    /// Returns the price to the budget, at most once: another request has paid for the envelope.
    pub(crate) async fn give_back(&self) {
        self.bill.give_back(std::iter::once(self.index)).await;
    }

    /// Adds the envelope to the usage table, at most once, in the current hour. The hour of its admission may be
    /// over and read by the operator.
    fn enter(&self, price: PicoDollarPrice, gas: Gas) {
        let BillLine { kind, bytes, is_entered, .. } = self.line();
        if is_entered.swap(true, Relaxed) {
            return;
        }
        let RequestBill { tenant, caller, metrics, .. } = &*self.bill;
        let now_s = u64::try_from(crate::now_ns() / 1_000_000_000).unwrap_or(0);
        let usage = Usage { envelopes: 1, bytes: *bytes, picodollars: price, gas: gas.0 };
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
    use crate::sharing::SharedQuery;

    const PRICE: CallerCost = CallerCost {
        envelopes: 1,
        picodollars: PicoDollarPrice(5),
        gas: 0,
        congestion_max: PicoDollarPrice(0),
    };

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
        let (caller, envelopes) = (CallerId::of_name("alice"), envelopes(count));
        everywhere(policies.admit(&caller, &envelopes, |_| PRICE, 1_750_000_000_000)?)
    }

    fn everywhere(taken: TakenCost) -> Result<TakenCost, PolicyError> {
        let taken = taken.take_everywhere(&SharedQuery::default()).now_or_never();
        taken.expect("no Redis is asked").map(|(taken, _)| taken)
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
            caller: CallerId::of_name("alice"),
            admission,
            policies: policies.clone(),
            metrics: Arc::new(GatewayMetrics::new(&PolicyFile::default())),
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
    fn what_waits_for_redis_or_the_webhook_holds_nothing_of_all_callers_and_returns_nothing_to_them()
     {
        let text = "[default]\nenvelopes_per_day = 9\n[total]\nenvelopes_per_day = 2";
        let policies = Arc::new(Policies::new(PolicyFile::parse(text).unwrap(), None).unwrap());
        let admit = |name: &str| {
            let caller = CallerId::of_name(name);
            policies.admit(&caller, &envelopes(1), |_| PRICE, crate::now_ms())
        };
        let [waits, is_late] = ["alice", "carol"].map(|name| admit(name).ok().unwrap());
        for _ in 0..2 {
            let _published = everywhere(admit("bob").ok().unwrap()).ok().unwrap().into_bill();
        }
        drop(waits);
        assert!(matches!(admit("dave"), Err(PolicyError::TotalExceeded(_))), "none comes back");
        let refused = everywhere(is_late);
        assert!(matches!(refused, Err(PolicyError::TotalExceeded(_))), "others were faster");
        assert!(admit("dave").is_err(), "nor is anything made by that refusal");
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

    /// The request took the payload for a repetition, and the attempt of the first request failed before it was joined.
    #[test]
    fn the_price_of_what_is_in_the_table_does_not_go_back() {
        let policies = policies(1);
        let bill = bill(&policies, 1);
        let entry = BillEntry::new(&bill, 0);
        assert!(!bill.is_entered(0));
        entry.enter_on_chain();
        assert!(bill.is_entered(0));
        entry.give_back().now_or_never().unwrap();
        assert!(take(&policies, 1).is_err());
        drop((entry, bill));
        assert!(take(&policies, 1).is_err());
    }

    /// A caller hangs up while envelopes are checked, or a check fails.
    #[test]
    fn prices_that_are_kept_do_not_go_back_with_the_bill() {
        let policies = policies(4);
        let kept = bill(&policies, 4);
        kept.keep(&[1, 2, 3]);
        kept.release(&[2]);
        kept.give_unused_back().now_or_never().unwrap();
        assert!(take(&policies, 3).is_err());
        assert!(take(&policies, 2).is_ok());
        drop(kept);
        assert!(take(&policies, 3).is_err(), "not when its caller has gone, either");
        assert!(take(&policies, 2).is_ok());
    }

    /// Several requests at once do not exceed a limit by what nodes charge for congestion afterwards.
    #[test]
    fn what_congestion_may_cost_is_held_back_until_the_node_has_answered() {
        let text = "[default]\npicodollars_per_hour = 20";
        let policies = Arc::new(Policies::new(PolicyFile::parse(text).unwrap(), None).unwrap());
        let caller = CallerId::of_name("alice");
        let take = || {
            let price = |_: &Routed| CallerCost { congestion_max: PicoDollarPrice(9), ..PRICE };
            everywhere(policies.admit(&caller, &envelopes(1), price, 1_750_000_000_000)?)
        };
        let published = billed(&policies, take().ok().unwrap());
        let unpublished = billed(&policies, take().ok().unwrap());
        assert!(take().is_err(), "two of 5 and twice 9 are held");
        // The node has charged all that it may.
        let entry = BillEntry::new(&published, 0);
        entry.enter_on_chain();
        entry.charge(PicoDollarPrice(9)).now_or_never().unwrap();
        for _ in 0..2 {
            BillEntry::release_congestion(std::iter::once(&entry));
        }
        assert!(take().is_err(), "19 are used, and 9 held");
        drop(unpublished);
        assert!(take().is_ok(), "14 are used");
        drop((entry, published));
        // A lost answer keeps the price alone.
        let open = billed(&policies, take().ok().unwrap());
        BillEntry::new(&open, 0).leave_open();
        drop(open);
        let refused = take().err();
        assert!(matches!(refused, Some(PolicyError::LimitExceeded(_))), "19 are used");
    }

    /// The price of gas changes between admission and the return of a price.
    #[test]
    fn what_was_taken_goes_back_whatever_an_envelope_costs_by_then() {
        let text = "[default]\npicodollars_per_day = 12";
        let policies = Arc::new(Policies::new(PolicyFile::parse(text).unwrap(), None).unwrap());
        let caller = CallerId::of_name("alice");
        let take = |all: [u64; 2]| {
            let (envelopes, left) = (envelopes(2), std::cell::RefCell::new(all.to_vec()));
            let price = |_: &Routed| {
                let picodollars = left.borrow_mut().pop().expect("each is asked for once");
                CallerCost { picodollars: PicoDollarPrice(picodollars), ..PRICE }
            };
            everywhere(policies.admit(&caller, &envelopes, price, 1_750_000_000_000)?)
        };
        drop(billed(&policies, take([7, 5]).ok().unwrap()));
        assert!(take([7, 6]).is_err(), "no more than was taken");
        assert!(take([7, 5]).is_ok(), "and no less");
    }
}
