//! The events of one chain that the relay has read: messages for the other chain, and deliveries from it.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use alloy::consensus::Transaction as _;
use alloy::eips::BlockNumberOrTag;
use alloy::primitives::{Address, B256, U256};
use alloy::providers::Provider as _;
use alloy::rpc::types::{Filter, Log};
use alloy::sol_types::SolEvent;

use super::mark;
use super::message::{ARB_SYS, BridgeMessage};
use hawser_chain::contracts::{AppChainGateway, ArbSys, ERC20Inbox};
use hawser_chain::send::{Chain, RequestError};

/// Reads the events of one chain.
#[derive(Debug)]
pub(super) struct EventReader<E> {
    events: E,
    /// The number and hash of the last block read. Another hash at that number shows a reorganisation.
    last: Option<(u64, B256)>,
    /// Messages for the other chain, by number.
    messages: BTreeMap<u64, BridgeMessage>,
    /// Numbers of the other chain's messages that were delivered here.
    pub(super) done: BTreeSet<u64>,
}

/// The relay's interpretation of one log.
pub(super) enum BridgeEvent {
    Message(u64, BridgeMessage),
    Done(u64),
    /// A possible delivery. The transaction's data contains the ticket number.
    Delivery(B256),
}

/// Selects and decodes the logs of one chain.
pub(super) trait MessageSource {
    /// Returns the contracts whose logs are read.
    fn contracts(&self) -> Vec<Address>;
    /// Decodes a log; `None` if it is irrelevant.
    fn read(&self, log: &Log) -> Option<BridgeEvent>;
}

impl<E: MessageSource> EventReader<E> {
    pub(super) fn new(events: E) -> Self {
        Self { events, last: None, messages: BTreeMap::new(), done: BTreeSet::new() }
    }

    /// Reads new logs. Returns true if there is a new block.
    pub(super) async fn refresh(&mut self, chain: &Chain) -> Result<bool, RequestError> {
        let Some(head) = block(chain, BlockNumberOrTag::Latest).await? else { return Ok(false) };
        if self.last == Some(head) {
            return Ok(false);
        }
        if let Some((number, _)) = self.last
            && block(chain, number.into()).await? != self.last
        {
            self.reset();
        }
        let from = self.last.map_or(0, |(number, _)| number + 1);
        let filter =
            Filter::new().address(self.events.contracts()).from_block(from).to_block(head.0);
        let logs = chain.provider().get_logs(&filter).await;
        self.read(chain, &logs.map_err(|error| chain.request_error("eth_getLogs", error))?).await?;
        self.last = Some(head);
        Ok(true)
    }

    async fn read(&mut self, chain: &Chain, logs: &[Log]) -> Result<(), RequestError> {
        let mut transactions = HashSet::new();
        for event in logs.iter().filter_map(|log| self.events.read(log)) {
            match event {
                BridgeEvent::Message(number, message) => {
                    drop(self.messages.insert(number, message))
                }
                BridgeEvent::Done(number) => drop(self.done.insert(number)),
                BridgeEvent::Delivery(hash) => drop(transactions.insert(hash)),
            }
        }
        for hash in transactions {
            self.done.extend(delivered_by(chain, hash).await?);
        }
        Ok(())
    }

    /// Starts over after a reorganisation, because earlier events may have been removed.
    fn reset(&mut self) {
        self.last = None;
        self.messages.clear();
        self.done.clear();
    }

    /// Iterates over the messages whose numbers are not in `done`.
    pub(super) fn except(
        &self,
        done: &BTreeSet<u64>,
    ) -> impl Iterator<Item = (u64, BridgeMessage)> {
        let waiting = self.messages.iter().filter(|(number, _)| !done.contains(number));
        waiting.map(|(number, message)| (*number, message.clone()))
    }
}

async fn block(
    chain: &Chain,
    number: BlockNumberOrTag,
) -> Result<Option<(u64, B256)>, RequestError> {
    let block = chain.provider().get_block_by_number(number).await;
    let block = block.map_err(|error| chain.request_error("eth_getBlockByNumber", error))?;
    Ok(block.map(|block| (block.header.number, block.header.hash)))
}

/// Returns the number of the ticket that a transaction delivered. Any account may call the same functions; such
/// a transaction carries no mark.
async fn delivered_by(chain: &Chain, hash: B256) -> Result<Option<u64>, RequestError> {
    let transaction = chain.provider().get_transaction_by_hash(hash).await;
    let transaction =
        transaction.map_err(|error| chain.request_error("eth_getTransactionByHash", error))?;
    Ok(transaction.and_then(|transaction| mark::number_of(transaction.input())))
}

/// Events of the settlement chain: new tickets at the inbox, and paid withdrawals.
#[derive(Debug)]
pub(super) struct SettlementEvents {
    pub(super) inbox: Address,
}

impl MessageSource for SettlementEvents {
    fn contracts(&self) -> Vec<Address> {
        vec![self.inbox]
    }

    fn read(&self, log: &Log) -> Option<BridgeEvent> {
        if let Some(event) = decoded::<ERC20Inbox::RetryableTicketCreated>(log) {
            let message = BridgeMessage {
                sender: event.sender,
                to: event.ticket.to,
                value: event.ticket.l2CallValue,
                data: event.ticket.data,
            };
            return Some(BridgeEvent::Message(number(event.messageNumber)?, message));
        }
        let event = decoded::<ERC20Inbox::WithdrawalReleased>(log)?;
        Some(BridgeEvent::Done(number(event.messageId)?))
    }
}

/// Events of the app chain: new withdrawals at the system contract, and deliveries to the gateway.
#[derive(Debug)]
pub(super) struct AppEvents {
    pub(super) gateway: Address,
}

impl MessageSource for AppEvents {
    fn contracts(&self) -> Vec<Address> {
        vec![self.gateway, ARB_SYS]
    }

    fn read(&self, log: &Log) -> Option<BridgeEvent> {
        if log.address() == self.gateway {
            let got = decoded::<AppChainGateway::ParametersReceived>(log).is_some()
                || decoded::<AppChainGateway::DepositReceived>(log).is_some();
            return log.transaction_hash.filter(|_| got).map(BridgeEvent::Delivery);
        }
        let event = decoded::<ArbSys::TxSentToL1>(log)?;
        let message = BridgeMessage {
            sender: event.sender,
            to: event.destination,
            value: event.value,
            data: event.data,
        };
        Some(BridgeEvent::Message(number(event.messageId)?, message))
    }
}

fn decoded<E: SolEvent>(log: &Log) -> Option<E> {
    log.log_decode::<E>().ok().map(|log| log.inner.data)
}

fn number(number: U256) -> Option<u64> {
    number.try_into().ok()
}
