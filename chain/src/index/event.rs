//! What is read from a contract: which logs, and what they say.

use alloy::primitives::{Address, B256, Bytes};
use alloy::rpc::types::{Filter, Log};
use alloy::sol_types::{SolCall, SolEvent};

use crate::contracts::group_message_broadcaster::GroupMessageBroadcaster::{
    MessageSent, bootstrapMessagesCall,
};
use crate::contracts::identity_update_broadcaster::IdentityUpdateBroadcaster::{
    IdentityUpdateCreated, bootstrapIdentityUpdatesCall,
};
use crate::contracts::payer_registry::PayerRegistry::{
    Deposit, UsageSettled, WithdrawalCancelled, WithdrawalRequested,
};

/// A contract that is read, by what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// The broadcaster of group messages.
    GroupMessages,
    /// The broadcaster of identity updates.
    IdentityUpdates,
    /// What payers have and use.
    PayerRegistry,
}

impl Subject {
    /// For logs and metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::GroupMessages => "group_messages",
            Self::IdentityUpdates => "identity_updates",
            Self::PayerRegistry => "payer_registry",
        }
    }

    /// The first topics of the logs that matter.
    #[must_use]
    pub fn topics(self) -> Vec<B256> {
        match self {
            Self::GroupMessages => vec![MessageSent::SIGNATURE_HASH],
            Self::IdentityUpdates => vec![IdentityUpdateCreated::SIGNATURE_HASH],
            Self::PayerRegistry => vec![
                Deposit::SIGNATURE_HASH,
                WithdrawalRequested::SIGNATURE_HASH,
                WithdrawalCancelled::SIGNATURE_HASH,
                UsageSettled::SIGNATURE_HASH,
            ],
        }
    }

    /// What a provider is asked for; blocks are to be added.
    #[must_use]
    pub fn filter(self, address: Address) -> Filter {
        Filter::new().address(address).event_signature(self.topics())
    }

    /// How a call begins that gives places by hand, if there is such a call.
    #[must_use]
    pub fn bootstrap_selector(self) -> Option<[u8; 4]> {
        match self {
            Self::GroupMessages => Some(bootstrapMessagesCall::SELECTOR),
            Self::IdentityUpdates => Some(bootstrapIdentityUpdatesCall::SELECTOR),
            Self::PayerRegistry => None,
        }
    }

    /// Reads one log. `None` if it is none of these events.
    #[must_use]
    pub fn decode(self, log: &Log) -> Option<Said> {
        match self {
            Self::GroupMessages => decoded::<MessageSent>(log).map(|event| Said::Payload {
                identifier: Bytes::copy_from_slice(event.groupId.as_slice()),
                sequence_id: event.sequenceId,
                payload: event.message,
                bootstrapped: false,
            }),
            Self::IdentityUpdates => {
                decoded::<IdentityUpdateCreated>(log).map(|event| Said::Payload {
                    identifier: Bytes::copy_from_slice(event.inboxId.as_slice()),
                    sequence_id: event.sequenceId,
                    payload: event.update,
                    bootstrapped: false,
                })
            }
            Self::PayerRegistry => paid(log),
        }
    }
}

fn paid(log: &Log) -> Option<Said> {
    let booked = |kind, payer, amount: alloy::primitives::aliases::U96| Said::Booked {
        kind,
        payer,
        micro_dollars: amount.to::<u128>(),
    };
    match *log.topic0()? {
        Deposit::SIGNATURE_HASH => {
            decoded::<Deposit>(log).map(|event| booked(Booking::Deposit, event.payer, event.amount))
        }
        WithdrawalRequested::SIGNATURE_HASH => decoded::<WithdrawalRequested>(log)
            .map(|event| booked(Booking::WithdrawalRequested, event.payer, event.amount)),
        UsageSettled::SIGNATURE_HASH => decoded::<UsageSettled>(log)
            .map(|event| booked(Booking::UsageSettled, event.payer, event.amount)),
        WithdrawalCancelled::SIGNATURE_HASH => {
            decoded::<WithdrawalCancelled>(log).map(|event| Said::Booked {
                kind: Booking::WithdrawalCancelled,
                payer: event.payer,
                micro_dollars: 0,
            })
        }
        _ => None,
    }
}

fn decoded<E: SolEvent>(log: &Log) -> Option<E> {
    E::decode_log(&log.inner).ok().map(|log| log.data)
}

/// A block by its number and what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark {
    /// Its number.
    pub number: u64,
    /// Its hash.
    pub hash: B256,
}

/// An event, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its block.
    pub block: Mark,
    /// The block's time, unix seconds.
    pub block_time_s: u64,
    /// Its place among the block's logs.
    pub log_index: u64,
    /// The transaction that emitted it.
    pub transaction: B256,
    /// What it says.
    pub said: Said,
}

/// What an event says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// A broadcaster has put a payload in order.
    Payload {
        /// The group's id, or the inbox's.
        identifier: Bytes,
        /// The place that it got.
        sequence_id: u64,
        /// What was broadcast.
        payload: Bytes,
        /// The contract's operator gave it its place, in a call that leaves places out. Only
        /// looked up where the place is not the next one.
        bootstrapped: bool,
    },
    /// A payer's balance has changed.
    Booked {
        /// Why.
        kind: Booking,
        /// Whose.
        payer: Address,
        /// By how much, without a sign; 0 for a cancelled withdrawal, which does not say.
        micro_dollars: u128,
    },
}

/// Why a balance has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Booking {
    /// Somebody has paid in.
    Deposit,
    /// The payer wants it back.
    WithdrawalRequested,
    /// The payer does not want it back any more.
    WithdrawalCancelled,
    /// A node was paid.
    UsageSettled,
}
