//! Tests of the contracts on the embedded chain and on anvil.
//!
//! Each case is a function of a network with all contracts (`harness::network`) and runs on
//! both kinds of chain. The met functions, events and errors are compared with the interface of the
//! deployed contracts: see `harness::coverage`.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![expect(non_snake_case, reason = "arguments are named as in the contracts")]

mod app_gateway;
mod bridge;
mod bridged_parameters;
mod broadcasters;
mod claims;
mod encodings;
mod gas;
mod golden;
mod governed;
mod harness;
mod node_tokens;
mod nodes;
mod parameters;
mod payers;
mod payouts;
mod permits;
mod proxies;
mod random;
mod rates;
mod reports;
mod settlement_gateway;
mod settlements;
mod splitter;
mod standins;
mod tokens;
mod withdrawals;

use harness::cases::Case;
use harness::chain::ChainBackend;

/// Returns all cases.
fn cases() -> impl Iterator<Item = Case> {
    let lists = [
        app_gateway::CASES,
        bridge::CASES,
        bridged_parameters::CASES,
        broadcasters::CASES,
        claims::CASES,
        golden::CASES,
        governed::CASES,
        node_tokens::CASES,
        nodes::CASES,
        parameters::CASES,
        payers::CASES,
        payouts::CASES,
        permits::CASES,
        proxies::CASES,
        random::CASES,
        rates::CASES,
        reports::CASES,
        settlement_gateway::CASES,
        settlements::CASES,
        splitter::CASES,
        standins::CASES,
        tokens::CASES,
        withdrawals::CASES,
    ];
    lists.into_iter().flatten().copied()
}

#[test]
fn the_whole_interface_is_exercised_on_the_embedded_chain() {
    harness::coverage::check(ChainBackend::Embedded, cases());
}

#[test]
fn the_whole_interface_is_exercised_on_anvil() {
    harness::coverage::check(ChainBackend::Anvil, cases());
}
