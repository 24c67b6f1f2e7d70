//! Resumes transactions of an earlier process, or of one that has gone.

use alloy::consensus::{Transaction as _, TxEnvelope};
use alloy::eips::Decodable2718 as _;
use alloy::primitives::Bytes;

use super::Driver;
use crate::broadcast::record::{LiveSlot, LiveSlots};
use crate::broadcast::signing;
use crate::broadcast::slots::{NoncePurpose, SignedTransaction};

impl Driver {
    /// Resumes the transactions of an earlier process.
    pub(super) fn recover(&mut self, live: &LiveSlots) {
        for (slot, LiveSlot { nonce, raws }) in &live.0 {
            tracing::info!(nonce, "resuming a transaction of an earlier run");
            let (purpose, signed) = self.read_back(*nonce, raws);
            if !signed.is_empty() {
                self.nonces.recover(*slot, *nonce, purpose, signed);
            }
        }
    }

    /// Reads the transactions of a nonce, and adds their payload to the jobs. What is no transaction with this
    /// nonce is left out.
    pub(super) fn read_back(
        &mut self,
        nonce: u64,
        raws: &[Bytes],
    ) -> (NoncePurpose, Vec<SignedTransaction>) {
        let mut purpose = NoncePurpose::Filler;
        let mut signed = Vec::new();
        for raw in raws {
            let Ok(tx) = TxEnvelope::decode_2718_exact(raw) else { continue };
            if tx.nonce() != nonce {
                continue;
            }
            let price = tx.max_fee_per_gas();
            let to = tx.to().unwrap_or_default();
            let is_filler = signing::is_filler(self.account(), to, tx.input());
            let (hash, raw) = (*tx.tx_hash(), raw.clone());
            signed.push(SignedTransaction { hash, price, raw, is_filler });
            let read = tx.to().and_then(|to| self.contracts.read(to, tx.input()));
            if let Some((topic, payload)) = read {
                let call = || self.contracts.call(topic, payload.clone());
                let added = self.jobs.add(topic, &payload, None, call);
                // A caller may have asked for the same payload here meanwhile.
                let found = || self.jobs.find(topic, alloy::primitives::keccak256(&payload));
                let waiting = || found().filter(|id| self.nonces.latest(*id).is_none());
                if let Some(id) = added.or_else(waiting)
                    && purpose == NoncePurpose::Filler
                {
                    self.jobs.resume(id, tx.gas_limit());
                    purpose = NoncePurpose::Payload(id);
                }
            }
        }
        (purpose, signed)
    }
}
