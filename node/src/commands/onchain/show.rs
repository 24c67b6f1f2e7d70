//! What steps, receipts and results look like, for people and for programs.

use alloy::primitives::U256;
use alloy::primitives::utils::{format_ether, format_units};
use alloy::rpc::types::TransactionReceipt;
use hawser_chain::admin::{MicroDollars, Network, Side, Step};
use hawser_chain::contracts::describe::{Argument, Described};
use hawser_chain::send::Quote;
use serde_json::{Map, Value, json};

use crate::output;

/// What a command found or made: names and values, in their order.
#[derive(Debug, Default)]
pub(crate) struct Fields(Vec<(&'static str, String, Value)>);

impl Fields {
    /// A value whose text is what JSON has.
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        let value = value.into();
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        self.0.push((name, text, value));
        self
    }

    /// Dollars.
    pub(crate) fn amount(self, name: &'static str, amount: MicroDollars) -> Self {
        self.signed_amount(name, amount, false)
    }

    /// Dollars, or a debt.
    pub(crate) fn signed_amount(
        mut self,
        name: &'static str,
        amount: MicroDollars,
        is_debt: bool,
    ) -> Self {
        let sign = if is_debt { "-" } else { "" };
        let value = json!({
            "microdollars": format!("{sign}{}", amount.get()),
            "usd": format!("{sign}{}", amount.dollars()),
        });
        let text = format!("{sign}{} USD ({sign}{} µ$)", amount.dollars(), amount.get());
        self.0.push((name, text, value));
        self
    }

    /// A moment: unix seconds for programs, a date for people.
    pub(crate) fn time(mut self, name: &'static str, seconds: u64) -> Self {
        self.0.push((name, date(seconds), seconds.into()));
        self
    }

    /// Prints them one below the other.
    pub(crate) fn print(&self) {
        let width = self.0.iter().map(|(name, ..)| name.len()).max().unwrap_or_default();
        for (name, text, _) in &self.0 {
            output::line(format_args!("{:<width$}  {text}", name.replace('_', " ")));
        }
    }

    /// Prints them in one line.
    pub(crate) fn print_row(&self) {
        let cells =
            self.0.iter().map(|(name, text, _)| format!("{}: {text}", name.replace('_', " ")));
        output::line(cells.collect::<Vec<_>>().join(", "));
    }

    /// The same for programs.
    pub(crate) fn into_json(self) -> Value {
        let pairs = self.0.into_iter().map(|(name, _, value)| (name.to_owned(), value));
        Value::Object(pairs.collect::<Map<_, _>>())
    }
}

/// `2025-06-15T15:06:41Z (1750000001)`
fn date(seconds: u64) -> String {
    let nanoseconds = i64::try_from(seconds).ok().and_then(|s| s.checked_mul(1_000_000_000));
    let Some(nanoseconds) = nanoseconds else { return seconds.to_string() };
    let date = output::time(nanoseconds);
    let whole = date.split('.').next().unwrap_or_default();
    format!("{whole}Z ({seconds})")
}

/// A step for people: where, what, and with which arguments.
pub(super) fn print_step(network: &Network, step: &Step, number: usize, count: usize) {
    let call = step.described();
    let side = step.contract.side();
    let chain_id = chain_id(network, step);
    let to = step.call.to.unwrap_or_default();
    output::line(format_args!(
        "step {number} of {count}: {}.{} at {to} on the {side} ({chain_id})",
        step.contract, call.name
    ));
    for argument in &call.arguments {
        output::line(format_args!("  {argument}"));
    }
}

/// What a multisig is given.
pub(super) fn print_calldata(step: &Step) {
    output::line(format_args!("  to     {}", step.call.to.unwrap_or_default()));
    output::line(format_args!("  value  {}", step.call.value));
    output::line(format_args!("  data   {}", step.call.data));
}

/// What it will cost at most.
pub(super) fn print_quote(quote: Option<&Quote>) {
    match quote {
        Some(quote) => output::line(format_args!(
            "  costs up to {} of the native token ({} gas at up to {} gwei)",
            format_ether(quote.fee_max()),
            quote.gas_limit,
            gwei(quote.max_fee_per_gas),
        )),
        None => output::line("  what it costs is known when the steps before it are mined"),
    }
}

/// What it did.
pub(super) fn print_receipt(receipt: &TransactionReceipt, events: &[String]) {
    output::line(format_args!(
        "  mined in block {} as {}, for {} of the native token ({} gas)",
        receipt.block_number.unwrap_or_default(),
        receipt.transaction_hash,
        format_ether(paid(receipt)),
        receipt.gas_used,
    ));
    for event in events {
        output::line(format_args!("  {event}"));
    }
}

/// The step for programs.
pub(super) fn step_json(network: &Network, step: &Step) -> Value {
    let call = step.described();
    json!({
        "chain_id": chain_id(network, step),
        "contract": step.contract.name(),
        "to": step.call.to.unwrap_or_default().to_string(),
        "function": call.name,
        "arguments": arguments_json(&call.arguments),
        "value": step.call.value.to_string(),
        "data": step.call.data,
    })
}

/// What it will cost, for programs.
pub(super) fn quote_json(quote: &Quote) -> Value {
    json!({
        "gas_limit": quote.gas_limit,
        "max_fee_per_gas_wei": quote.max_fee_per_gas.to_string(),
        "fee_max_wei": quote.fee_max().to_string(),
    })
}

/// What it did, for programs.
pub(super) fn receipt_json(receipt: &TransactionReceipt, events: Vec<Value>) -> Value {
    json!({
        "transaction": receipt.transaction_hash,
        "block": receipt.block_number,
        "gas_used": receipt.gas_used,
        "fee_wei": paid(receipt).to_string(),
        "events": events,
    })
}

/// An event of a contract, for programs.
pub(super) fn event_json(contract: &str, event: &Described) -> Value {
    json!({
        "contract": contract,
        "event": event.name,
        "arguments": arguments_json(&event.arguments),
    })
}

fn arguments_json(arguments: &[Argument]) -> Vec<Value> {
    let argument = |argument: &Argument| json!({ "name": argument.name, "type": argument.kind, "value": argument.value });
    arguments.iter().map(argument).collect()
}

fn paid(receipt: &TransactionReceipt) -> U256 {
    U256::from(receipt.gas_used) * U256::from(receipt.effective_gas_price)
}

fn gwei(wei: u128) -> String {
    let text = format_units(wei, "gwei").unwrap_or_else(|_| wei.to_string());
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn chain_id(network: &Network, step: &Step) -> u64 {
    match step.contract.side() {
        Side::Settlement => network.settlement.id(),
        Side::App => network.app_id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_and_moments_are_shown_in_both_forms() {
        let amount = MicroDollars::new(1_500_000).unwrap();
        let fields = Fields::default()
            .amount("balance", amount)
            .signed_amount("debt", amount, true)
            .time("ready_at", 1_750_000_001)
            .with("node_id", 100)
            .with("name", "a");
        let texts: Vec<_> = fields.0.iter().map(|(_, text, _)| text.as_str()).collect();
        assert_eq!(
            texts,
            [
                "1.5 USD (1500000 µ$)",
                "-1.5 USD (-1500000 µ$)",
                "2025-06-15T15:06:41Z (1750000001)",
                "100",
                "a"
            ]
        );
        assert_eq!(
            fields.into_json(),
            json!({
                "balance": { "microdollars": "1500000", "usd": "1.5" },
                "debt": { "microdollars": "-1500000", "usd": "-1.5" },
                "ready_at": 1_750_000_001,
                "node_id": 100,
                "name": "a",
            })
        );
        assert_eq!(date(u64::MAX), u64::MAX.to_string());
    }

    #[test]
    fn prices_are_shown_without_needless_zeros() {
        assert_eq!(gwei(1_500_000_000), "1.5");
        assert_eq!(gwei(2_000_000_000), "2");
        assert_eq!(gwei(7), "0.000000007");
    }
}
