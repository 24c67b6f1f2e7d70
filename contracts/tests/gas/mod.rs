//! Gas of each function, compared with the table in `contracts/README.md`. `HAWSER_BLESS=1` rewrites the table.

mod app;
mod common;
mod settlement;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use hawser_chain::contracts::artifact;
use serde_json::Value;

use crate::harness::cases::{Case, outcome};
use crate::harness::chain::ChainBackend;
use crate::harness::coverage::unreachable_reason;
use crate::harness::network::TestNetwork;
use crate::harness::tx::{Receipt, Tx};
use crate::harness::vectors::{list, vectors};

const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../contracts/README.md");
const BEGIN: &str = "<!-- gas: begin -->\n";
const END: &str = "<!-- gas: end -->\n";
/// Tolerance between a figure in the table and the measurement, in percent. A guess.
const TOLERANCE: u64 = 3;
/// Stand-ins of development chains. Their gas says nothing about the deployed contracts, so the table leaves them out.
const STAND_INS: [&str; 3] = ["ArbSys", "ERC20Inbox", "MockUnderlyingFeeToken"];

#[test]
fn the_gas_table_says_what_functions_cost() {
    let case = Case { name: "gas", body: |world| Box::pin(measure(world)) };
    if let Err(message) = outcome(ChainBackend::Embedded, case) {
        panic!("{message}");
    }
}

async fn measure(w: &TestNetwork) {
    let mut meter = Meter { w, rows: BTreeMap::new() };
    common::measure(&mut meter).await;
    app::measure(&mut meter).await;
    settlement::measure(&mut meter).await;
    meter.assert_complete();
    let readme = std::fs::read_to_string(README).unwrap();
    let (before, rest) = readme.split_once(BEGIN).expect("the table has a beginning");
    let (table, after) = rest.split_once(END).expect("the table has an end");
    if std::env::var_os("HAWSER_BLESS").is_some() {
        let text = [before, BEGIN, &written(&meter.rows), END, after].concat();
        std::fs::write(README, text).unwrap();
    } else {
        assert_close(&read(table), &meter.rows);
    }
}

/// Gas by contract and function, in the order of the table.
type Rows = BTreeMap<(String, String), u64>;

/// Measures gas and collects the figures.
struct Meter<'a> {
    w: &'a TestNetwork,
    rows: Rows,
}

impl Meter<'_> {
    /// Sends a transaction and records its gas.
    async fn send(&mut self, tx: Tx) -> Receipt {
        self.send_with("", tx).await
    }

    /// Sends a transaction and records its gas under one of several ways to call the function.
    async fn send_with(&mut self, with: &str, tx: Tx) -> Receipt {
        let contract = self.w.contract_of(&tx).expect("it is a call of a contract");
        let function = function_name(contract, &tx);
        let with = if with.is_empty() { String::new() } else { format!(", {with}") };
        let receipt = self.w.send(tx).await;
        let row = (contract.to_owned(), format!("`{function}`{with}"));
        let before = self.rows.insert(row, receipt.gas_used());
        assert_eq!(before, None, "{contract}.{function} is measured once");
        receipt
    }

    /// Asserts that every function that changes state is measured.
    fn assert_complete(&self) {
        let abi = vectors("abi");
        for (contract, interface) in abi["contracts"].as_object().unwrap() {
            if STAND_INS.contains(&contract.as_str()) {
                continue;
            }
            for function in list(interface, "functions").iter().filter(|it| is_changing(it)) {
                let signature = function["signature"].as_str().unwrap();
                if unreachable_reason(contract, signature).is_none() {
                    let label = format!("`{}`", short(contract, signature));
                    let is_it =
                        |row: &(String, String)| row.0 == *contract && row.1.starts_with(&label);
                    assert!(self.rows.keys().any(is_it), "{contract}.{signature} is not measured");
                }
            }
        }
    }
}

fn is_changing(function: &Value) -> bool {
    !matches!(function["stateMutability"].as_str(), Some("view" | "pure"))
}

fn function_name(contract: &str, tx: &Tx) -> String {
    let abi = &artifact::named(contract).expect("it has an interface").abi;
    let selector = &tx.data[..4];
    let function = abi.functions().find(|it| it.selector() == selector).expect("it is a function");
    short(contract, &function.signature())
}

/// The name, or all of the signature if there are several of the name.
fn short(contract: &str, signature: &str) -> String {
    let name = signature.split('(').next().unwrap_or(signature);
    let abi = &artifact::named(contract).expect("it has an interface").abi;
    let is_overloaded = abi.function(name).is_some_and(|functions| functions.len() > 1);
    if is_overloaded { signature.to_owned() } else { name.to_owned() }
}

fn written(rows: &Rows) -> String {
    let mut text = "| contract | function | gas |\n|---|---|--:|\n".to_owned();
    for ((contract, function), gas) in rows {
        writeln!(text, "| `{contract}` | {function} | {gas} |").expect("a string grows");
    }
    text
}

fn read(table: &str) -> Rows {
    let rows = table.lines().skip(2).map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [contract, function, gas] = cells[..] else { panic!("no row of the table: {line}") };
        let contract = contract.trim_matches('`').to_owned();
        ((contract, function.to_owned()), gas.parse().expect("gas is a number"))
    });
    rows.collect()
}

fn assert_close(table: &Rows, measured: &Rows) {
    let mut faults = Vec::new();
    for (row, gas) in measured {
        match table.get(row) {
            None => faults.push(format!("{row:?} is missing: {gas}")),
            Some(stated) if stated.abs_diff(*gas) * 100 > gas * TOLERANCE => {
                faults.push(format!("{row:?} costs {gas} and not {stated}"));
            }
            Some(_) => {}
        }
    }
    let gone = table.keys().filter(|row| !measured.contains_key(row));
    faults.extend(gone.map(|row| format!("{row:?} is not measured any more")));
    let text = faults.join("\n");
    assert!(
        faults.is_empty(),
        "HAWSER_BLESS=1 writes the table anew, if this is as it should be:\n{text}"
    );
}
