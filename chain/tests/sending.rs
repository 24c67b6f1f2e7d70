//! Tests of single calls that an endpoint answers wrongly.

use alloy::primitives::{Address, Bytes, U256};
use alloy::providers::Provider as _;
use hawser_chain::send::{Call, Chain, Sender};
use hawser_devchain::deploy;

use crate::pair::{ChainBackend, Pair, native_balance};
use crate::proxy::Proxy;

crate::on_both_kinds_of_chain! {
    a_payment_whose_nonce_is_said_to_be_used_is_made_once
}

async fn a_payment_whose_nonce_is_said_to_be_used_is_made_once(kind: ChainBackend) {
    let pair = Pair::start(kind).await;
    let proxy = Proxy::start(pair.settlement.endpoint(), 0).await;
    proxy.set(|faults| faults.says_used = true);
    let chain = Chain::connect(&proxy.url(), pair.settlement.id()).await.unwrap();
    let sender = Sender::new(chain, deploy::accounts().swap_remove(3));
    let recipient = Address::repeat_byte(0x77);
    let payment = Call { to: Some(recipient), data: Bytes::new(), value: U256::from(100) };
    for paid in [100, 200] {
        let receipt = sender.send(&payment).await.unwrap();
        assert!(receipt.status());
        assert_eq!(native_balance(&pair.settlement, recipient).await, U256::from(paid));
    }
    let sent = pair.settlement.provider().get_transaction_count(sender.account()).await.unwrap();
    assert_eq!(sent, 2, "one transaction for each payment");
}
