//! Text and JSON of steps, receipts and results.

use alloy::primitives::U256;
use alloy::primitives::utils::{format_ether, format_units};
use alloy::rpc::types::TransactionReceipt;
use hawser_chain::admin::{ChainRole, Contract, MicroDollars, Network, PlanStep};
use hawser_chain::contracts::describe::{Argument, Description};
use hawser_chain::send::Quote;
use serde_json::{Map, Value, json};

use crate::output;

/// The result of a command: names and values, in order.
#[derive(Debug, Default)]
pub(crate) struct ResultFields(Vec<Field>);

#[derive(Debug)]
struct Field {
    name: &'static str,
    /// Text; `None` for a field of JSON only.
    text: Option<String>,
    value: Value,
}

impl ResultFields {
    /// Adds a value whose text is that of its JSON. A text has one line: its owner writes a node's address into the
    /// registry, which takes any.
    pub(crate) fn with(self, name: &'static str, value: impl Into<Value>) -> Self {
        let value = value.into();
        let text = value.as_str().map_or_else(|| value.to_string(), output::printable);
        self.field(name, Some(text), value)
    }

    /// Adds a value for JSON only.
    pub(crate) fn for_programs(self, name: &'static str, value: impl Into<Value>) -> Self {
        self.field(name, None, value.into())
    }

    /// Adds an amount of dollars.
    pub(crate) fn amount(self, name: &'static str, amount: MicroDollars) -> Self {
        self.signed_amount(name, amount, false)
    }

    /// Adds an amount of dollars that may be a debt.
    pub(crate) fn signed_amount(
        self,
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
        self.field(name, Some(text), value)
    }

    /// Adds a time: unix seconds in JSON, a date in text.
    pub(crate) fn time(self, name: &'static str, seconds: u64) -> Self {
        self.field(name, Some(date(seconds)), seconds.into())
    }

    fn field(mut self, name: &'static str, text: Option<String>, value: Value) -> Self {
        self.0.push(Field { name, text, value });
        self
    }

    fn texts(&self) -> impl Iterator<Item = (String, &str)> {
        fn text(field: &Field) -> Option<(String, &str)> {
            Some((field.name.replace('_', " "), field.text.as_deref()?))
        }
        self.0.iter().filter_map(text)
    }

    /// Prints one line per field.
    pub(crate) fn print(&self) {
        let width = self.texts().map(|(name, _)| name.len()).max().unwrap_or_default();
        for (name, text) in self.texts() {
            output::line(format_args!("{name:<width$}  {text}"));
        }
    }

    /// Prints all fields in one line.
    pub(crate) fn print_row(&self) {
        let cells = self.texts().map(|(name, text)| format!("{name}: {text}"));
        output::line(cells.collect::<Vec<_>>().join(", "));
    }

    /// Prints a list: one line per result, or a JSON array.
    pub(crate) fn print_list(results: impl Iterator<Item = Self>, as_json: bool) {
        if as_json {
            output::line(results.map(Self::into_json).collect::<Value>());
        } else {
            results.for_each(|result| result.print_row());
        }
    }

    /// Returns the fields as a JSON object.
    pub(crate) fn into_json(self) -> Value {
        let pairs = self.0.into_iter().map(|field| (field.name.to_owned(), field.value));
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

/// Returns a step as text: chain, contract, function and arguments.
pub(super) fn step_text(network: &Network, step: &PlanStep, number: usize, count: usize) -> String {
    let call = step.described();
    let side = step.contract.chain();
    let chain_id = chain_id(network, step);
    let to = step.call.to.unwrap_or_default();
    let head = format!(
        "step {number} of {count}: {}.{} at {to} on the {side} ({chain_id})",
        step.contract, call.name
    );
    let arguments = call.arguments.iter().map(|it| format!("  {}", shortened(it.to_string())));
    [head].into_iter().chain(arguments).collect::<Vec<_>>().join("\n")
}

/// Cuts an argument that would fill the screen, such as the code of a contract. JSON and call data have all of it.
fn shortened(mut text: String) -> String {
    // A guess: some lines of a terminal.
    const LEN_MAX: usize = 400;
    let Some((cut, _)) = text.char_indices().nth(LEN_MAX) else { return text };
    let len = text.len();
    text.truncate(cut);
    format!("{text}… ({len} bytes)")
}

/// Returns the call for a multisig as text.
pub(super) fn calldata_text(step: &PlanStep) -> String {
    let to = step.call.to.unwrap_or_default();
    format!("  to     {to}\n  value  {}\n  data   {}", step.call.value, step.call.data)
}

/// Returns the highest cost as text.
pub(super) fn quote_text(quote: Option<&Quote>) -> String {
    match quote {
        Some(quote) => format!(
            "  costs up to {} of the native token ({} gas at up to {} gwei)",
            format_ether(quote.fee_max()),
            quote.gas_limit,
            gwei(quote.max_fee_per_gas.0),
        ),
        None => "  what it costs is known when the steps before it are mined".into(),
    }
}

/// Returns a receipt as text.
pub(super) fn receipt_text(
    receipt: &TransactionReceipt,
    events: &[(Contract, Description)],
) -> String {
    let head = format!(
        "  mined in block {} as {}, for {} of the native token ({} gas)",
        receipt.block_number.unwrap_or_default(),
        receipt.transaction_hash,
        format_ether(paid(receipt)),
        receipt.gas_used,
    );
    let events = events.iter().map(|(contract, event)| format!("  {contract}: {event}"));
    [head].into_iter().chain(events).collect::<Vec<_>>().join("\n")
}

/// Returns a step as JSON.
pub(super) fn step_json(network: &Network, step: &PlanStep) -> Value {
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

/// Returns the cost as JSON.
pub(super) fn quote_json(quote: &Quote) -> Value {
    json!({
        "gas_limit": quote.gas_limit,
        "max_fee_per_gas_wei": quote.max_fee_per_gas.0.to_string(),
        "fee_max_wei": quote.fee_max().to_string(),
    })
}

/// Returns a receipt as JSON.
pub(super) fn receipt_json(
    receipt: &TransactionReceipt,
    events: &[(Contract, Description)],
) -> Value {
    let event = |(contract, event): &(Contract, Description)| {
        json!({
            "contract": contract.name(),
            "event": event.name,
            "arguments": arguments_json(&event.arguments),
        })
    };
    json!({
        "transaction": receipt.transaction_hash,
        "block": receipt.block_number,
        "gas_used": receipt.gas_used,
        "fee_wei": paid(receipt).to_string(),
        "events": events.iter().map(event).collect::<Vec<_>>(),
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

fn chain_id(network: &Network, step: &PlanStep) -> u64 {
    match step.contract.chain() {
        ChainRole::Settlement => network.settlement.id(),
        ChainRole::App => network.app_id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_and_moments_are_shown_in_both_forms() {
        let amount = MicroDollars::new(1_500_000).unwrap();
        let fields = ResultFields::default()
            .amount("balance", amount)
            .signed_amount("debt", amount, true)
            .time("ready_at", 1_750_000_001)
            .with("node_id", 100)
            .with("name", "a")
            .for_programs("word", "0x00");
        let texts: Vec<_> = fields.texts().map(|(_, text)| text).collect();
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
                "word": "0x00",
            })
        );
        assert_eq!(date(u64::MAX), u64::MAX.to_string());
    }

    /// `hawser registry node list` prints the address that a node's owner has registered.
    #[test]
    fn a_registered_text_adds_no_line_and_does_not_steer_a_terminal() {
        let address = "https://a\u{1b}[2J\nnodeId: 100, isCanonical: true";
        let fields = ResultFields::default().with("httpAddress", address);
        let texts: Vec<_> = fields.texts().map(|(_, text)| text).collect();
        assert_eq!(texts, ["https://a [2J nodeId: 100, isCanonical: true"]);
        assert_eq!(fields.into_json(), json!({ "httpAddress": address }));
    }

    #[test]
    fn a_long_argument_is_cut_where_a_character_ends() {
        assert_eq!(shortened("a".repeat(400)), "a".repeat(400));
        let cut = shortened("ä".repeat(401));
        assert_eq!(cut, format!("{}… (802 bytes)", "ä".repeat(400)));
    }

    #[test]
    fn prices_are_shown_without_needless_zeros() {
        assert_eq!(gwei(1_500_000_000), "1.5");
        assert_eq!(gwei(2_000_000_000), "2");
        assert_eq!(gwei(7), "0.000000007");
    }
}
