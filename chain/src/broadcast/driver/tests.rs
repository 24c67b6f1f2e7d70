//! Tests that the record is handled correctly while nothing is signed.

use alloy::signers::local::PrivateKeySigner;
use tokio::sync::watch;

use super::super::error::BroadcastStartError;
use super::super::outcome::PayloadBounds;
use super::super::price::GasPrice;
use super::super::slots::SlotId;
use super::*;
use crate::endpoints::Endpoints;

const CHAIN: u64 = 31338;

fn driver(record: NonceRecord, key: PrivateKeySigner) -> Driver {
    let state = BroadcasterState {
        account: key.address(),
        endpoints: Endpoints::new("app", &["http://127.0.0.1:1".to_owned()], CHAIN).unwrap(),
        price: GasPrice::default(),
        in_flight_max: 4,
        payload_bytes_max: 0,
        bounds: watch::Sender::new(PayloadBounds { min: 0, max: 0 }),
        status: watch::Sender::default(),
        ceiling: Mutex::default(),
        stand_back: None,
        halt: Mutex::default(),
    };
    let contracts = BroadcasterContracts { groups: Address::ZERO, identities: Address::ZERO };
    Driver::new(Arc::new(state), contracts, key, Some(record), None, SpendingLimits::default())
}

#[tokio::test]
async fn the_record_stays_open_and_in_use_when_nothing_can_be_signed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nonces");
    let key = PrivateKeySigner::from_bytes(&B256::repeat_byte(7)).unwrap();
    let open = || NonceRecord::open(&path, CHAIN, key.address());
    let mut driver = driver(open().unwrap(), key.clone());

    driver.write(Vec::new(), true).await.unwrap();
    assert!(matches!(open(), Err(BroadcastStartError::RecordInUse { .. })));

    let raw = Bytes::from_static(b"a transaction");
    let signed = RecordEntry::Signed { slot: SlotId(1), instead_of: None, nonce: 0, raw };
    driver.write(vec![signed], true).await.unwrap();
    drop(driver);
    assert_eq!(open().unwrap().live().0.len(), 1, "it was recorded");
}
