//! Exposition of the gateway's metrics. `docs/gateway.md` lists the names. A value that the network's reference
//! gateway also measures has its name.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use hawser_chain::admin::SignedMicroDollars;
use hawser_chain::broadcast::{GasPriceReadings, TransactionTimes};
use hawser_serve::metrics::{Exposition, MetricsPage};
use hawser_serve::readiness::Condition;
use hawser_serve::tls::TlsMetrics;
use hawser_serve::{CallMetrics, ChainListStatus, ProcessMetrics, ServeSettings};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use tokio::sync::watch;

use crate::chain::SenderFigures;
use crate::gateway_status::GatewayObserver;
use crate::metering::{Usage, UsageTotal};
use crate::metrics::GatewayMetrics;
use crate::nodes::{NodeErrorKind, ReportOutcome};
use crate::policy::PolicyError;

/// Returns the metrics page of a gateway.
pub(crate) fn page(
    calls: CallMetrics,
    serve: &ServeSettings,
    gateway: GatewayCollector,
) -> MetricsPage {
    let collectors: [Box<dyn Collector>; 5] = [
        Box::new(calls),
        Box::new(serve.memory.clone()),
        Box::new(TlsMetrics(serve.tls.clone())),
        Box::new(gateway),
        Box::new(ProcessMetrics),
    ];
    MetricsPage::new(collectors)
}

/// Observes the gateway at each scrape.
#[derive(Debug)]
pub(crate) struct GatewayCollector {
    pub(crate) metrics: Arc<GatewayMetrics>,
    pub(crate) observer: GatewayObserver,
    /// The payer's balance in the payer registry; `None` while it is unknown.
    pub(crate) deposit: watch::Receiver<Option<SignedMicroDollars>>,
    /// The durations of the transactions of all accounts.
    pub(crate) transactions: TransactionTimes,
}

impl Collector for GatewayCollector {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Exposition::new(encoder);
        self.originators(&mut out)?;
        self.requests(&mut out)?;
        self.usage(&mut out)?;
        self.chain(&mut out)?;
        self.state(&mut out)
    }
}

/// Writes the figures of the nonces in use.
fn nonces(senders: &[SenderFigures], out: &mut Exposition<'_>) -> fmt::Result {
    // The reference's metric has no labels, and the nonces of several accounts cannot be compared: with tenants
    // it is absent.
    let nonce = if let [sender] = senders { sender.last_nonce } else { None };
    let help = "Nonce of the transaction that was sent to the app chain last";
    out.gauge("xmtp_gateway_lru_nonce", help, nonce)?;
    let longest = senders.iter().map(|it| it.next_waits.unwrap_or_default()).max();
    out.gauge(
        "xmtp_gateway_transaction_wait_seconds",
        "Time for which the next transaction to be mined has been waited for, seconds; 0 if none is",
        longest.map(|wait| wait.as_secs_f64()),
    )
}

impl GatewayCollector {
    fn originators(&self, out: &mut Exposition<'_>) -> fmt::Result {
        let all = self.metrics.originators();
        let each = || all.iter().map(|(id, metrics)| ([("originator_id", id.as_str())], metrics));
        out.histograms(
            "xmtp_gateway_publish_duration_seconds",
            "Time from the choice of an originator to its answer, seconds",
            each().map(|(labels, metrics)| (labels, &metrics.seconds)),
        )?;
        out.histograms(
            "xmtp_gateway_failed_attempts_to_publish_to_node_via_banlist",
            "Nodes that had failed a request before this one took its envelopes",
            each().map(|(labels, metrics)| (labels, &metrics.failed_before)),
        )?;
        out.plain_counters(
            "xmtp_gateway_messages_originated",
            "Envelopes that were published",
            each().map(|(labels, metrics)| (labels, metrics.originated.get())),
        )?;
        out.counters(
            "xmtp_gateway_node_calls",
            "Calls to nodes; one may carry the envelopes of several requests",
            each().map(|(labels, metrics)| (labels, metrics.calls.get())),
        )?;
        self.node_faults(out)
    }

    /// Writes the errors of each node that is used, and zero for kinds without one: a rate begins at the first error
    /// only if the series was there before it.
    fn node_faults(&self, out: &mut Exposition<'_>) -> fmt::Result {
        let nodes = self.observer.nodes.all();
        let errors = nodes.values().flat_map(|node| {
            NodeErrorKind::ALL.into_iter().map(move |kind| {
                let labels =
                    [("originator_id", node.id().to_string()), ("kind", kind.label().to_owned())];
                (labels, node.metrics.errors(kind))
            })
        });
        out.counters(
            "xmtp_gateway_node_faults",
            "Errors of nodes when they were to publish or to show an envelope, by kind",
            errors,
        )
    }

    fn requests(&self, out: &mut Exposition<'_>) -> fmt::Result {
        let metrics = &self.metrics;
        let reasons = PolicyError::REASONS.into_iter().zip(&metrics.refused);
        out.counters(
            "xmtp_gateway_refused",
            "Requests that a policy refused",
            reasons.map(|(reason, count)| ([("reason", reason)], count.get())),
        )?;
        out.counter(
            "xmtp_gateway_invalid",
            "Requests with an envelope that breaks a rule",
            metrics.invalid.get(),
        )?;
        out.counter(
            "xmtp_gateway_partial",
            "Requests of which some envelopes were published and some were not",
            metrics.partial.get(),
        )?;
        out.counter(
            "xmtp_gateway_chain_repeats",
            "Payloads for the chain that had been sent before and were answered with that result",
            metrics.chain_repeats.get(),
        )?;
        out.counter(
            "xmtp_gateway_redis_failures",
            "Calls of Redis without an answer in time, or with one that is none or too long",
            metrics.redis_failures.get(),
        )?;
        let outcomes = ReportOutcome::ALL.into_iter().zip(&metrics.reports);
        out.counters(
            "xmtp_gateway_misbehavior_reports",
            "Wrong answers of nodes, by what came of reporting them to other nodes",
            outcomes.map(|(outcome, count)| ([("outcome", outcome.label())], count.get())),
        )
    }

    fn usage(&self, out: &mut Exposition<'_>) -> fmt::Result {
        let totals: Vec<UsageTotal> = self.metrics.meter.lock().totals().collect();
        let each = |value: fn(&Usage) -> u64| {
            let labels = move |total: &UsageTotal| {
                let labels = [
                    ("caller", total.caller.clone()),
                    ("kind", total.kind.to_owned()),
                    ("tenant", total.tenant.clone()),
                ];
                (labels, value(&total.usage))
            };
            totals.iter().map(labels).collect::<Vec<_>>()
        };
        out.counters(
            "xmtp_gateway_usage_envelopes",
            "Envelopes that were published, by caller",
            each(|usage| usage.envelopes),
        )?;
        out.counters(
            "xmtp_gateway_usage_bytes",
            "Bytes of client envelopes that were published, by caller",
            each(|usage| usage.bytes),
        )?;
        out.counters(
            "xmtp_gateway_usage_picodollars",
            "Fees of nodes, and gas at its price when it was sent, by caller, picodollars",
            each(|usage| usage.picodollars.0),
        )
    }

    fn chain(&self, out: &mut Exposition<'_>) -> fmt::Result {
        out.histograms(
            "xmtp_blockchain_publish_payload_seconds",
            "Time from handing a payload to the sender of transactions until it was mined, has failed, or was not mined in time, seconds",
            self.metrics.all_written().map(|(kind, times)| ([("payload_type", kind)], times)),
        )?;
        out.histograms(
            "xmtp_blockchain_broadcast_transaction_seconds",
            "Time from sending a transaction with a payload to the endpoints until their response, seconds",
            self.transactions.sent(),
        )?;
        out.histograms(
            "xmtp_blockchain_wait_for_transaction_seconds",
            "Time from the response to a payload's first transaction until its outcome was known, seconds",
            self.transactions.waited(),
        )?;
        let senders = self.observer.checks.senders();
        let mut chains: BTreeMap<u64, GasPriceReadings> = BTreeMap::new();
        for sender in &senders {
            chains.entry(sender.chain_id).or_default().add(&sender.gas_prices);
        }
        let each = || chains.iter().map(|(id, prices)| ([("chain_id", id.to_string())], prices));
        let last = || each().filter_map(|(labels, prices)| Some((labels, prices.last?)));
        out.gauges(
            "xmtp_blockchain_oracle_gas_price",
            "Last gas price that the chain has stated, wei",
            last().map(|(labels, it)| (labels, u64::try_from(it.price.0).unwrap_or(u64::MAX))),
        )?;
        out.gauges(
            "xmtp_blockchain_oracle_gas_price_last_update_timestamp_unix",
            "Time at which this gas price was read, unix seconds",
            last().map(|(labels, it)| (labels, it.unix_s)),
        )?;
        out.counters(
            "xmtp_blockchain_oracle_gas_price_updates",
            "Gas prices that were read",
            each().map(|(labels, prices)| (labels, prices.read)),
        )?;
        out.counters(
            "xmtp_blockchain_oracle_gas_price_default_fallback",
            "Uses of a default gas price, because none had been read yet",
            each().map(|(labels, prices)| (labels, prices.defaults)),
        )?;
        let balance = |it: &SenderFigures| Some(([("chain", "app")], it.balance?.0 as f64));
        let own = if let [sender] = &senders[..] { balance(sender) } else { None };
        out.gauges(
            "xmtp_account_balance_wei",
            "The chain's native token that the payer's account has, wei",
            own,
        )?;
        #[expect(clippy::cast_precision_loss, reason = "dollars of billions are cents still")]
        let deposit = self.deposit.borrow().map(|microdollars| microdollars.0 as f64 * 1e6);
        out.gauge(
            "xmtp_payer_balance_picodollars",
            "The payer's balance in the payer registry, picodollars; negative if it owes more than was deposited",
            deposit,
        )?;
        nonces(&senders, out)
    }

    fn state(&self, out: &mut Exposition<'_>) -> fmt::Result {
        let status = self.observer.status();
        out.gauge(
            "xmtp_gateway_get_nodes_available_nodes",
            "Nodes in the last answer to GetNodes",
            Some(self.metrics.available_nodes.get()),
        )?;
        out.gauges(
            "xmtp_gateway_node_up",
            "1 if the node serves and is not late",
            status
                .nodes
                .iter()
                .map(|node| ([("node_id", node.id.to_string())], i64::from(node.usable))),
        )?;
        out.gauges(
            "xmtp_gateway_node_lag_seconds",
            "Time for which readers of the node have missed an envelope that two others show, and that the node \
             can get, seconds",
            status.nodes.iter().map(|node| ([("node_id", node.id.to_string())], node.lag_s)),
        )?;
        out.gauges(
            "xmtp_gateway_node_gap_seconds",
            "Time for which readers of the node have missed an envelope that two others show, and whose own node \
             does not serve or lacks it, seconds",
            status.nodes.iter().map(|node| ([("node_id", node.id.to_string())], node.gap_s)),
        )?;
        let tenants = self.observer.checks.halted_tenants();
        out.gauges(
            "xmtp_gateway_tenant_sends",
            "1 if transactions of the tenant are sent to the app chain",
            tenants.iter().map(|(tenant, halt)| ([("tenant", *tenant)], i64::from(halt.is_none()))),
        )?;
        let lists = self.observer.lists();
        ChainListStatus::encode_all(&lists.iter().collect::<Vec<_>>(), out)?;
        out.gauges(
            "xmtp_ready",
            "1 if the gateway is ready",
            [([("for", "publish")], i64::from(status.ready))],
        )?;
        Condition::encode_all(&status.conditions, out)?;
        self.observer.build.encode_build(out)?;
        self.observer.build.encode_start_time(out)
    }
}
