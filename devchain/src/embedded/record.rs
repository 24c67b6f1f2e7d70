//! The steps of a chain, and their bytes in the journal.
//!
//! A chain consists of its steps. They are applied in the same way when they happen and when a folder is
//! reopened. They contain the results of transactions, so reopening a folder needs no EVM, and another version
//! of the EVM does not change past blocks.

use std::sync::Arc;

use alloy::consensus::transaction::Recovered;
use alloy::consensus::{Header, TxEnvelope};
use alloy::eips::eip2718::{Decodable2718, Encodable2718};
use alloy::primitives::{Address, B256, Bytes, Log, U256};
use alloy::rlp::Decodable;
use revm::bytecode::Bytecode;

use super::block::{Block, ExecutedTransaction};
use super::state::{AccountDiff, AccountState, StateDiff};

/// One step of a chain.
#[derive(Debug, Clone)]
pub(super) enum JournalStep {
    /// The next block and its change of the state.
    Block { block: Arc<Block>, diff: StateDiff },
    /// A change of the state outside of blocks, by a control method.
    Change(StateDiff),
    /// The return to a block, and to a version of the state after it.
    Rollback { number: u64, version: u64 },
    /// The new offset of the chain's clock from the machine's, in seconds.
    ClockOffset(i64),
}

/// The kind of state roots in the headers of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StateRoots {
    /// Each header has the root of the state trie.
    Tries,
    /// The chain began with an older version, whose headers have a hash that is not a trie
    /// root, so nothing can be checked.
    Unchecked,
}

/// The first byte of each kind of step. Never reused for another kind.
const BLOCK: u8 = 1;
const CHANGE: u8 = 2;
const ROLLBACK: u8 = 3;
const CLOCK_OFFSET: u8 = 4;

/// Error of decoding a record: its bytes are not steps.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a step of a chain: {0}")]
pub(super) struct MalformedStepError(&'static str);

/// Encodes steps.
pub(super) fn write(steps: &[JournalStep]) -> Vec<u8> {
    let mut out = Vec::new();
    for step in steps {
        match step {
            JournalStep::Block { block, diff } => {
                out.push(BLOCK);
                write_block(&mut out, block);
                write_diff(&mut out, diff);
            }
            JournalStep::Change(diff) => {
                out.push(CHANGE);
                write_diff(&mut out, diff);
            }
            JournalStep::Rollback { number, version } => {
                out.push(ROLLBACK);
                out.extend(number.to_be_bytes());
                out.extend(version.to_be_bytes());
            }
            JournalStep::ClockOffset(seconds) => {
                out.push(CLOCK_OFFSET);
                out.extend(seconds.to_be_bytes());
            }
        }
    }
    out
}

fn write_count(out: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).expect("no block and no change has four billion parts");
    out.extend(count.to_be_bytes());
}

fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    write_count(out, bytes.len());
    out.extend(bytes);
}

fn write_block(out: &mut Vec<u8>, block: &Block) {
    write_bytes(out, &alloy::rlp::encode(&block.header));
    write_count(out, block.transactions.len());
    for mined in &block.transactions {
        let ExecutedTransaction { tx, success, gas_used, logs } = &mined.executed;
        out.extend(tx.signer());
        write_bytes(out, &tx.inner().encoded_2718());
        out.push(u8::from(*success));
        out.extend(gas_used.to_be_bytes());
        write_count(out, logs.len());
        for log in logs {
            out.extend(log.address);
            write_count(out, log.data.topics().len());
            log.data.topics().iter().for_each(|topic| out.extend(topic));
            write_bytes(out, &log.data.data);
        }
    }
}

/// Appends the encoding of a state change.
fn write_diff(out: &mut Vec<u8>, diff: &StateDiff) {
    write_count(out, diff.accounts.len());
    for (address, change) in &diff.accounts {
        let AccountState { nonce, balance, code_hash } = change.account;
        out.extend(address);
        out.extend(nonce.to_be_bytes());
        out.extend(balance.to_be_bytes::<32>());
        out.extend(code_hash);
        out.push(u8::from(change.wiped));
        write_count(out, change.slots.len());
        for (slot, value) in &change.slots {
            out.extend(slot.to_be_bytes::<32>());
            out.extend(value.to_be_bytes::<32>());
        }
    }
    write_count(out, diff.code.len());
    diff.code.values().for_each(|code| write_bytes(out, code.original_byte_slice()));
}

/// Reads all steps of a record.
pub(super) fn read(bytes: &[u8]) -> Result<Vec<JournalStep>, MalformedStepError> {
    let mut rest = Reader(bytes);
    let mut steps = Vec::new();
    while !rest.0.is_empty() {
        let step = match rest.byte()? {
            BLOCK => JournalStep::Block { block: Arc::new(rest.block()?), diff: rest.diff()? },
            CHANGE => JournalStep::Change(rest.diff()?),
            ROLLBACK => JournalStep::Rollback { number: rest.u64()?, version: rest.u64()? },
            CLOCK_OFFSET => JournalStep::ClockOffset(i64::from_be_bytes(rest.array()?)),
            _ => return Err(MalformedStepError("a step of an unknown kind")),
        };
        steps.push(step);
    }
    Ok(steps)
}

/// The unread rest of a record.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], MalformedStepError> {
        let (taken, rest) =
            self.0.split_at_checked(len).ok_or(MalformedStepError("it ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], MalformedStepError> {
        Ok(self.take(N)?.try_into().expect("as many as were taken"))
    }

    fn byte(&mut self) -> Result<u8, MalformedStepError> {
        Ok(self.array::<1>()?[0])
    }

    fn flag(&mut self) -> Result<bool, MalformedStepError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(MalformedStepError("a flag that is neither 0 nor 1")),
        }
    }

    fn u64(&mut self) -> Result<u64, MalformedStepError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    fn word(&mut self) -> Result<U256, MalformedStepError> {
        Ok(U256::from_be_bytes(self.array::<32>()?))
    }

    fn hash(&mut self) -> Result<B256, MalformedStepError> {
        Ok(B256::from(self.array()?))
    }

    fn address(&mut self) -> Result<Address, MalformedStepError> {
        Ok(Address::from(self.array()?))
    }

    fn count(&mut self) -> Result<u32, MalformedStepError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    fn bytes(&mut self) -> Result<&'a [u8], MalformedStepError> {
        let len =
            usize::try_from(self.count()?).map_err(|_| MalformedStepError("it ends too early"))?;
        self.take(len)
    }

    /// Reads a count and that many elements. Allocates as it reads, because a damaged count may be any number.
    fn list<T>(
        &mut self,
        mut read: impl FnMut(&mut Self) -> Result<T, MalformedStepError>,
    ) -> Result<Vec<T>, MalformedStepError> {
        let count = self.count()?;
        let mut list = Vec::new();
        for _ in 0..count {
            list.push(read(self)?);
        }
        Ok(list)
    }

    fn block(&mut self) -> Result<Block, MalformedStepError> {
        let mut header = self.bytes()?;
        let decoded =
            Header::decode(&mut header).map_err(|_| MalformedStepError("a broken header"))?;
        if !header.is_empty() {
            return Err(MalformedStepError("bytes after a header"));
        }
        let executed = self.list(Self::executed)?;
        Ok(Block::reopen(decoded, executed))
    }

    fn executed(&mut self) -> Result<ExecutedTransaction, MalformedStepError> {
        let sender = self.address()?;
        let tx = TxEnvelope::decode_2718_exact(self.bytes()?)
            .map_err(|_| MalformedStepError("a broken transaction"))?;
        Ok(ExecutedTransaction {
            tx: Recovered::new_unchecked(tx, sender),
            success: self.flag()?,
            gas_used: self.u64()?,
            logs: self.list(Self::log)?,
        })
    }

    fn log(&mut self) -> Result<Log, MalformedStepError> {
        let address = self.address()?;
        let topics = self.list(Self::hash)?;
        let data = Bytes::copy_from_slice(self.bytes()?);
        Log::new(address, topics, data)
            .ok_or(MalformedStepError("a log with more than four topics"))
    }

    fn diff(&mut self) -> Result<StateDiff, MalformedStepError> {
        let accounts = self.list(|rest| {
            let address = rest.address()?;
            let (nonce, balance) = (rest.u64()?, rest.word()?);
            let account = AccountState { nonce, balance, code_hash: rest.hash()? };
            let wiped = rest.flag()?;
            let slots = rest.list(|rest| Ok((rest.word()?, rest.word()?)))?;
            Ok((address, AccountDiff { account, wiped, slots: slots.into_iter().collect() }))
        })?;
        let code = self.list(|rest| {
            let code = Bytecode::new_raw_checked(Bytes::copy_from_slice(rest.bytes()?))
                .map_err(|_| MalformedStepError("broken code"))?;
            Ok((code.hash_slow(), code))
        })?;
        Ok(StateDiff { accounts: accounts.into_iter().collect(), code: code.into_iter().collect() })
    }
}

#[cfg(test)]
mod tests {
    use alloy::consensus::{SignableTransaction, TxEip1559};
    use alloy::primitives::Signature;

    use super::*;
    use crate::embedded::block::HeaderFields;

    fn block() -> Block {
        let tx = TxEip1559 { chain_id: 5, input: vec![7; 300].into(), ..TxEip1559::default() };
        let tx = tx.into_signed(Signature::new(U256::from(1), U256::from(2), true));
        let log = |topics: usize| {
            let topics = vec![B256::repeat_byte(3); topics];
            Log::new(Address::repeat_byte(4), topics, vec![5; 40].into()).unwrap()
        };
        let executed = ExecutedTransaction {
            tx: Recovered::new_unchecked(tx.into(), Address::repeat_byte(9)),
            success: true,
            gas_used: 30_000,
            logs: vec![log(0), log(4)],
        };
        let (parent_hash, prevrandao) = (B256::repeat_byte(1), B256::repeat_byte(2));
        let frame = HeaderFields { parent_hash, number: 4, timestamp: 70, base_fee: 8, prevrandao };
        Block::seal(frame.header(), B256::repeat_byte(6), vec![executed.clone(), executed])
    }

    fn diff() -> StateDiff {
        let code = Bytecode::new_raw(Bytes::from_static(&[0x60, 1, 0x5b]));
        let code_hash = code.hash_slow();
        let change = AccountDiff {
            account: AccountState { nonce: 3, balance: U256::from(77), code_hash },
            wiped: true,
            slots: [(U256::from(1), U256::MAX), (U256::from(2), U256::ZERO)].into(),
        };
        StateDiff {
            accounts: [(Address::repeat_byte(8), change)].into(),
            code: [(code_hash, code)].into(),
        }
    }

    #[test]
    fn steps_come_back_as_they_were() {
        let block = Arc::new(block());
        let steps = [
            JournalStep::Block { block: block.clone(), diff: diff() },
            JournalStep::Change(StateDiff::default()),
            JournalStep::Rollback { number: 3, version: 9 },
            JournalStep::ClockOffset(-40),
        ];
        let bytes = write(&steps);
        let again = read(&bytes).unwrap();
        assert_eq!(write(&again), bytes);
        let [JournalStep::Block { block: read, diff: change }, .., JournalStep::ClockOffset(-40)] =
            &again[..]
        else {
            panic!("{again:?}")
        };
        assert_eq!((read.hash, read.size_bytes), (block.hash, block.size_bytes));
        assert_eq!(read.transactions[1].hash(), block.transactions[1].hash());
        assert_eq!(read.transactions[1].first_log, 2);
        assert_eq!(change, &diff());
    }

    #[test]
    fn cut_or_changed_bytes_are_refused_or_read_as_something_else() {
        let bytes = write(&[JournalStep::Block { block: Arc::new(block()), diff: diff() }]);
        for len in 1..bytes.len() {
            assert!(read(&bytes[..len]).is_err(), "the first {len} bytes");
        }
        for place in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[place] ^= 0x81;
            if let Ok(steps) = read(&bytes) {
                assert_eq!(write(&steps).len(), bytes.len());
            }
        }
    }
}
